//! JSON from strangers: nothing twice, nothing unknown.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor},
};

/// Returns the value in `text`, or where it is no JSON, names a key twice, or is not what is wanted.
///
/// A key that stands twice would be read as its last value by one program and as its first by another. How deep values
/// may be nested is limited by the parser.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str::<Unique>(text).map_err(|error| error.to_string())?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Any JSON without a key that stands twice in one object. It keeps nothing.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unique)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Unique;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("the key {key:.60?} stands twice")));
            }
            seen.insert(key);
            map.next_value::<Unique>()?;
        }
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Unique, A::Error> {
        while list.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(), &str>) {
        match (parse::<Value>(text), expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (parsed, expected) => panic!("{text:.60}: {parsed:?} is not {expected:?}"),
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_wherever_it_stands() {
        check(r#"{"a": 1, "b": [true, null, 1.5, "x"]}"#, Ok(()));
        check(r#"{"a": {"x": 1}, "b": {"x": 1}}"#, Ok(()));
        check(r#"{"a": 1, "a": 1}"#, Err("\"a\" stands twice at line 1"));
        check(r#"{"b": [{"a": 1, "a": 2}]}"#, Err("stands twice"));
        // The same key in two spellings.
        check(r#"{"a": 1, "\u0061": 2}"#, Err("stands twice"));
    }

    #[test]
    fn what_is_nested_too_deep_or_goes_on_behind_its_end_is_refused() {
        check(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), Err("recursion"));
        check(&r#"{"a":"#.repeat(10_000), Err("recursion"));
        check("{} {}", Err("trailing"));
        check("", Err("EOF"));
    }
}
