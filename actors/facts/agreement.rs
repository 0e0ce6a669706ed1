//! When two values are the same to a service: texts of env files and read-backs meet typed values here, and only here.

use std::collections::BTreeMap;

use super::{KnobKind, Settings, Value};

/// How far apart two decimal numbers may be that a service printed with fewer digits, as a ratio.
const PRINTED_DIFFERENCE_MAX: f64 = 1e-6;

/// Says whether a service that reports `in_effect` runs with `target`; if not, which keys differ and how.
///
/// Numbers are compared by value, so `0.90` agrees with `0.9`; a key that is not reported does not agree.
pub fn agrees(target: &Settings, in_effect: &BTreeMap<String, String>) -> Result<(), String> {
    let differences = target
        .iter()
        .filter_map(|(key, wanted)| match in_effect.get(key.as_str()) {
            None => Some(format!("{key} is not reported, {wanted} is wanted")),
            Some(text) if says(text, wanted) => None,
            Some(text) => Some(format!("{key} is {text:?}, {wanted} is wanted")),
        })
        .collect::<Vec<_>>();
    if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
}

/// Returns whether a service that prints `text` runs with `value`.
pub(crate) fn says(text: &str, value: &Value) -> bool {
    means(text, value, PRINTED_DIFFERENCE_MAX)
}

/// Returns the value of `range` that a service means by `text`, also where it prints it in a way that no env file would;
/// `None` when it means none.
pub(crate) fn meant(text: &str, range: &KnobKind) -> Option<Value> {
    let text = text.trim();
    let value = range.parse(text).or_else(|| match range {
        KnobKind::Boolean {} => range.parse(&text.to_ascii_lowercase()),
        // A service may print a whole number as `12.0`.
        KnobKind::Integer { .. } => range.parse(text.strip_suffix(".0")?),
        KnobKind::Float { .. } | KnobKind::Choice { .. } | KnobKind::Ordinal { .. } => None,
    })?;
    range.refuses(&value).is_none().then_some(value)
}

/// Returns whether two values are the same to a service: numbers by value, whatever their kind.
pub(crate) fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Integer(one), Value::Integer(other)) => one == other,
        (Value::Integer(_) | Value::Float(_), Value::Integer(_) | Value::Float(_)) => {
            one.as_number() == other.as_number()
        }
        _ => one == other,
    }
}

/// Returns whether `text` means `value`, decimal numbers up to this ratio apart.
pub(crate) fn means(text: &str, value: &Value, difference_max: f64) -> bool {
    let text = text.trim();
    match value {
        Value::Choice(choice) => text == choice,
        Value::Boolean(true) => text == "1" || text.eq_ignore_ascii_case("true"),
        Value::Boolean(false) => text == "0" || text.eq_ignore_ascii_case("false"),
        Value::Integer(wanted) => match text.parse::<i64>() {
            Ok(number) => number == *wanted,
            // A service may print a whole number as `12.0`.
            Err(_) => text.parse::<f64>().is_ok_and(|number| number == *wanted as f64),
        },
        Value::Float(wanted) => text
            .parse::<f64>()
            .is_ok_and(|number| number == *wanted || (number - wanted).abs() <= difference_max * wanted.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Key;

    #[track_caller]
    fn check(wanted: &Value, found: &str, same: bool) {
        let settings = Settings::from([(Key::new("K").unwrap(), wanted.clone())]);
        let found = BTreeMap::from([("K".to_owned(), found.to_owned())]);
        assert_eq!(agrees(&settings, &found).is_ok(), same, "{wanted:?} and {found:?}");
    }

    #[test]
    fn values_are_the_same_by_meaning_not_by_letter() {
        check(&Value::Integer(8), "8", true);
        check(&Value::Integer(8), " 8.0 ", true);
        check(&Value::Integer(8), "9", false);
        check(&Value::Integer(8), "8 slots", false);
        check(&Value::Float(0.9), "0.90", true);
        check(&Value::Float(0.9), "9e-1", true);
        check(&Value::Float(0.9), &0.9_f32.to_string(), true);
        check(&Value::Float(0.9), &f64::from(0.9_f32).to_string(), true);
        check(&Value::Float(0.9), "0.91", false);
        check(&Value::Float(0.0), "0", true);
        check(&Value::Float(0.0), "NaN", false);
        check(&Value::Boolean(true), "1", true);
        check(&Value::Boolean(true), "false", false);
        check(&Value::Choice("fp8".to_owned()), "fp8", true);
        check(&Value::Choice("fp8".to_owned()), "auto", false);
        check(&Value::Choice("1".to_owned()), "1.0", false);
    }

    #[test]
    fn every_key_that_differs_is_named_with_what_was_wanted() {
        let key = |name: &str| Key::new(name).unwrap();
        let settings = Settings::from([(key("SLOTS"), Value::Integer(8)), (key("WAIT"), Value::Integer(2))]);
        let said = agrees(&settings, &BTreeMap::from([("WAIT".to_owned(), "20".to_owned())])).unwrap_err();
        assert_eq!(said, "SLOTS is not reported, 8 is wanted; WAIT is \"20\", 2 is wanted");
    }
}
