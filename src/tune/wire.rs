//! The lines of `kloros tune --ask-tell`, as they come from a stranger: what is wrong with one is said in words.

use kloros_actors::facts::Direction;
use kloros_search::{Config, Constraint, Kind, Limit, Options, Param, Space, SpaceSpec, Value};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::plan::BUDGET_MAX;
use crate::settings;

/// Most parameters of a space, and most choices of one.
const PARAMS_MAX: usize = 1000;
const CHOICES_MAX: usize = 10_000;

/// How many trials there are, and how many the other side takes at once, where the first line does not say.
const BUDGET_DEFAULT: u32 = 48;
const BATCH_DEFAULT: u32 = 4;

/// How many trials run at once, where the first line does not say.
const PARALLEL_DEFAULT: u32 = 1;

/// How much of a line or value is repeated, in characters.
const QUOTED_MAX: usize = 80;

/// The first line: what is searched.
#[derive(Debug)]
pub(super) struct First {
    pub(super) space: Space,
    pub(super) options: Options,
    pub(super) direction: Direction,
}

/// A further line: what came of the last lot.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    /// The measured values; `None` where the trial failed.
    pub(super) values: Vec<Option<f64>>,
    /// How many trials the other side still allows, if it says so.
    pub(super) remaining: Option<u32>,
}

/// Returns what the first line says, or what is wrong with it. Keys that nobody knows are passed over.
pub(super) fn first(line: &str) -> Result<First, String> {
    let object = object(line)?;
    let params = match object.get("space") {
        Some(Json::Array(params)) if params.len() <= PARAMS_MAX => params,
        Some(Json::Array(params)) => {
            return Err(format!("space has {} parameters, {PARAMS_MAX} are allowed", params.len()));
        }
        Some(other) => return Err(format!("space is {}: write a list of parameters", shown(other))),
        None => return Err("space is missing: write a list of parameters".to_owned()),
    };
    let params = params.iter().enumerate().map(|(index, param)| self::param(index, param)).collect::<Result<_, _>>()?;
    let constraints: Vec<Constraint> = optional(&object, "constraints")?.unwrap_or_default();
    let forbidden: Vec<Config> = optional(&object, "forbidden")?.unwrap_or_default();
    let limits: Vec<Limit> = optional(&object, "limits")?.unwrap_or_default();
    let space = Space::new(SpaceSpec { params, constraints, forbidden, limits }).map_err(|error| error.to_string())?;
    let default = match present(&object, "default") {
        Some(Json::Object(values)) => self::default(&space, values)?,
        Some(other) => return Err(format!("default is {}: write an object of names and values", shown(other))),
        None => None,
    };
    let direction = match present(&object, "direction").map(|direction| direction.as_str().unwrap_or_default()) {
        None | Some("minimize") => Direction::Down,
        Some("maximize") => Direction::Up,
        Some(_) => return Err(format!("direction is {}: write minimize or maximize", shown(&object["direction"]))),
    };
    let most = whole(&object, "batch", 1, u64::from(u32::MAX))?.map_or(BATCH_DEFAULT, |batch| batch as u32);
    let parallel =
        whole(&object, "parallel", 1, u64::from(u32::MAX))?.map_or(PARALLEL_DEFAULT, |at_once| at_once as u32);
    let options = Options {
        budget: whole(&object, "budget", 1, u64::from(BUDGET_MAX))?.map_or(BUDGET_DEFAULT, |budget| budget as u32),
        // What is measured one after another is also asked so: each result says more of the next candidate than company does.
        batch: most.min(parallel),
        seed: seed(&object)?,
        default,
        noisy: optional(&object, "noisy")?.unwrap_or(true),
        ..Options::default()
    };
    Ok(First { space, options, direction })
}

/// Returns what a further line says of a lot of `asked` trials, or what is wrong with it.
pub(super) fn told(line: &str, asked: usize) -> Result<Told, String> {
    let object = object(line)?;
    let Some(Json::Array(tells)) = object.get("tell") else {
        return Err("tell is missing or no list: write one result for each setting that was asked".to_owned());
    };
    if tells.len() != asked {
        return Err(format!("tell has {} results where {asked} were asked: write one for each, in order", tells.len()));
    }
    let values = tells.iter().enumerate().map(|(index, tell)| value(index, tell)).collect::<Result<_, _>>()?;
    let remaining = whole(&object, "remaining", 0, u64::MAX)?.map(|left| u32::try_from(left).unwrap_or(u32::MAX));
    Ok(Told { values, remaining })
}

/// Returns `text` in quotes, with everything unprintable escaped, cut off after so many characters.
pub(super) fn quoted(text: &str, most: usize) -> String {
    let rest = if text.chars().nth(most).is_some() { "..." } else { "" };
    let shown: String = text.chars().take(most).collect();
    format!("\"{}\"{rest}", shown.escape_debug().to_string().replace("\\\"", "\""))
}

fn object(line: &str) -> Result<serde_json::Map<String, Json>, String> {
    match serde_json::from_str(&without_nan(line)) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(other) => Err(format!("the line is {}: write one JSON object a line", shown(&other))),
        Err(error) => Err(format!("the line {} is no JSON: {error}", quoted(line.trim(), QUOTED_MAX))),
    }
}

/// Returns `line` with `null` for what JSON has no word for and some programs write all the same: `NaN`, `Infinity`.
fn without_nan(line: &str) -> String {
    let mut result = String::with_capacity(line.len());
    let (mut rest, mut in_text) = (line, false);
    while let Some(each) = rest.chars().next() {
        let word = ["NaN", "-NaN", "Infinity", "-Infinity"].into_iter().find(|word| !in_text && rest.starts_with(word));
        let taken = match (word, each) {
            (Some(word), _) => {
                result.push_str("null");
                word.len()
            }
            // What is escaped cannot end the text.
            (None, '\\') if in_text => {
                let taken = each.len_utf8() + rest[1..].chars().next().map_or(0, char::len_utf8);
                result.push_str(&rest[..taken]);
                taken
            }
            (None, _) => {
                in_text ^= each == '"';
                result.push(each);
                each.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    result
}

fn present<'a>(object: &'a serde_json::Map<String, Json>, name: &str) -> Option<&'a Json> {
    object.get(name).filter(|value| !value.is_null())
}

fn optional<T: DeserializeOwned>(object: &serde_json::Map<String, Json>, name: &str) -> Result<Option<T>, String> {
    let Some(value) = present(object, name) else { return Ok(None) };
    T::deserialize(value).map(Some).map_err(|error| format!("{name} is {}: {error}", shown(value)))
}

/// Returns the whole number under `name`, also if it is written with a point.
fn whole(object: &serde_json::Map<String, Json>, name: &str, least: u64, most: u64) -> Result<Option<u64>, String> {
    let Some(value) = present(object, name) else { return Ok(None) };
    let number = value.as_u64().or_else(|| {
        value
            .as_f64()
            .filter(|number| number.fract() == 0.0 && (0.0..1e18).contains(number))
            .map(|number| number as u64)
    });
    match number.filter(|number| (least..=most).contains(number)) {
        Some(number) => Ok(Some(number)),
        None if most == u64::MAX => Err(format!("{name} is {}: write a whole number from {least} on", shown(value))),
        None => Err(format!("{name} is {}: write a whole number from {least} to {most}", shown(value))),
    }
}

fn seed(object: &serde_json::Map<String, Json>) -> Result<u64, String> {
    match present(object, "seed").and_then(Json::as_i64) {
        Some(seed) => Ok(seed.cast_unsigned()),
        None => Ok(whole(object, "seed", 0, u64::MAX)?.unwrap_or(0)),
    }
}

fn param(index: usize, declared: &Json) -> Result<Param, String> {
    let Json::Object(declared) = declared else {
        return Err(format!("space[{index}] is {}: write an object with a name and a type", shown(declared)));
    };
    let name = declared.get("name").map_or_else(String::new, |name| format!(" ({})", shown(name)));
    let failed = |problem: String| format!("space[{index}]{name}: {problem}");
    // A key that says null says nothing.
    let mut declared: serde_json::Map<String, Json> = declared
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if declared.get("type").is_some_and(|kind| kind == "int" || kind == "integer") {
        for end in ["low", "high", "step"] {
            if let Some(number) =
                declared.get(end).and_then(Json::as_f64).filter(|number| number.fract() == 0.0 && number.abs() < 1e15)
            {
                declared.insert(end.to_owned(), Json::from(number as i64));
            }
        }
    }
    let param: Param = serde_json::from_value(Json::Object(declared)).map_err(|error| failed(error.to_string()))?;
    match &param.kind {
        Kind::Categorical { choices } | Kind::Ordinal { choices } if choices.len() > CHOICES_MAX => {
            Err(failed(format!("it has {} choices, {CHOICES_MAX} are allowed", choices.len())))
        }
        _ => Ok(param),
    }
}

/// Returns the default. A value of a parameter that is inactive in it is not measured with it; it says where that one begins.
///
/// What is off a step or outside a range is left to the search, which begins with the nearest setting that is not.
fn default(space: &Space, values: &serde_json::Map<String, Json>) -> Result<Option<Config>, String> {
    let params = &space.spec().params;
    let mut config = Config::new();
    for param in params {
        let Some(value) = values.get(&param.name).filter(|value| !value.is_null()) else { continue };
        let read: Option<Value> = serde_json::from_value(value.clone()).ok();
        match read.filter(|value| fits(&param.kind, value)) {
            Some(value) => config.insert(param.name.clone(), value),
            None => return Err(format!("default.{} is {}, which it never is: correct it", param.name, shown(value))),
        };
    }
    if config.is_empty() {
        return Ok(None);
    }
    let (_, missing) = settings::active(params, &config);
    match missing.first() {
        Some(name) => Err(format!("default.{name} is missing: say what it is now, or leave out the default")),
        None => Ok(Some(config)),
    }
}

/// Whether a value is of the sort that a parameter has.
fn fits(kind: &Kind, value: &Value) -> bool {
    match kind {
        Kind::Float { .. } | Kind::Integer { .. } => value.number().is_some_and(f64::is_finite),
        Kind::Categorical { choices } | Kind::Ordinal { choices } => choices.iter().any(|choice| choice.is(value)),
        Kind::Bool => matches!(value, Value::Bool(_)),
    }
}

fn value(index: usize, tell: &Json) -> Result<Option<f64>, String> {
    let Json::Object(tell) = tell else {
        return Err(format!("tell[{index}] is {}: write an object with a value and a status", shown(tell)));
    };
    match tell.get("status").unwrap_or(&Json::Null) {
        Json::Null => {}
        Json::String(status) if status == "ok" => {}
        Json::String(status) if status == "failed" => return Ok(None),
        other => return Err(format!("tell[{index}].status is {}: write ok or failed", shown(other))),
    }
    match tell.get("value").unwrap_or(&Json::Null) {
        Json::Null => Ok(None),
        Json::Number(number) => Ok(number.as_f64().filter(|number| number.is_finite())),
        // What is no number may be written as a text; a number may not, or a typing error would count as a failure.
        Json::String(text) if text.trim().parse::<f64>().is_ok_and(|number| !number.is_finite()) => Ok(None),
        other => Err(format!("tell[{index}].value is {}: write a number, or null if there is none", shown(other))),
    }
}

fn shown(value: &Json) -> String {
    let text = value.to_string();
    if text.chars().nth(QUOTED_MAX).is_some() { quoted(&text, QUOTED_MAX) } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const X: &str = r#"{"name": "x", "type": "float", "low": 0, "high": 1}"#;

    #[track_caller]
    fn refused(line: &str, part: &str) {
        let error = first(line).expect_err(line);
        assert!(error.contains(part), "{line}: {error}");
    }

    #[test]
    fn what_json_has_no_word_for_is_nothing_outside_of_texts() {
        for (line, expected) in [
            ("[NaN, -Infinity,Infinity]", "[null, null,null]"),
            (r#"{"NaN": "Infinity \" NaN", "a\\": NaN}"#, r#"{"NaN": "Infinity \" NaN", "a\\": null}"#),
            ("\"\u{fc}\\\u{fc} NaN", "\"\u{fc}\\\u{fc} NaN"),
            ("\\", "\\"),
        ] {
            assert_eq!(without_nan(line), expected);
        }
    }

    #[test]
    fn a_first_line_is_read_with_unknown_keys_nulls_and_whole_numbers_with_a_point() {
        let line = r#"{"v": 2, "space": [
            {"name": "n", "type": "int", "low": 1.0, "high": 64, "log": true, "step": null, "choices": null, "when": null, "unit": "MiB"},
            {"name": "c", "type": "categorical", "choices": ["a", 1, 2.5, true]},
            {"name": "d", "type": "ordinal", "choices": [1, 2], "when": {"param": "c", "in": ["a"]}}],
            "budget": 24.0, "batch": 4, "parallel": 2, "seed": -1, "default": {"n": 8.0, "c": "b", "gone": 1}, "direction": "maximize"}"#;
        refused(line, "default.c is \"b\", which it never is");
        let read = first(&line.replace("\"b\"", "2.5")).unwrap();
        assert_eq!((read.options.budget, read.options.batch, read.options.seed), (24, 2, u64::MAX));
        assert!(read.options.noisy && read.direction == Direction::Up);
        assert_eq!(read.options.default.unwrap().len(), 2, "d is inactive, gone is nobody");
        let begins =
            first(&line.replace("\"b\", \"gone\"", "2.5, \"d\": 2, \"gone\"")).unwrap().options.default.unwrap();
        assert_eq!(begins.get("d"), Some(&Value::Integer(2)), "where d begins when it becomes active");
        assert_eq!(read.space.spec().params[0].kind, Kind::Integer { low: 1, high: 64, log: true, step: None });
    }

    #[test]
    fn a_first_line_that_cannot_be_used_says_what_and_where() {
        for (line, part) in [
            ("", "is no JSON"),
            ("[]", "write one JSON object a line"),
            ("{}", "space is missing"),
            (r#"{"space": 7}"#, "space is 7"),
            (r#"{"space": [7]}"#, "space[0] is 7"),
            (r#"{"space": [{"name": "x", "type": "tensor"}]}"#, "space[0] (\"x\"): unknown variant `tensor`"),
            (r#"{"space": [{"name": "x", "type": "float", "low": NaN, "high": 1}]}"#, "missing field `low`"),
            (r#"{"space": [{"name": "x", "type": "int", "low": 0.5, "high": 1}]}"#, "space[0] (\"x\"): "),
            (r#"{"space": [{"name": "x", "type": "bool"}, {"name": "x", "type": "bool"}]}"#, "x is declared twice"),
            (r#"{"space": [{"name": "x", "type": "categorical", "choices": []}]}"#, "no choices"),
            (&format!(r#"{{"space": [{X}], "budget": 0}}"#), "budget is 0: write a whole number from 1 to 10000"),
            (&format!(r#"{{"space": [{X}], "budget": 1.5}}"#), "budget is 1.5"),
            (&format!(r#"{{"space": [{X}], "batch": "4"}}"#), "batch is \"4\""),
            (&format!(r#"{{"space": [{X}], "parallel": 0}}"#), "parallel is 0: write a whole number from 1 to"),
            (&format!(r#"{{"space": [{X}], "seed": []}}"#), "seed is []"),
            (&format!(r#"{{"space": [{X}], "noisy": 1}}"#), "noisy is 1"),
            (&format!(r#"{{"space": [{X}], "direction": "up"}}"#), "direction is \"up\": write minimize or maximize"),
            (&format!(r#"{{"space": [{X}], "default": [1]}}"#), "default is [1]"),
            (&format!(r#"{{"space": [{X}], "default": {{"x": "y"}}}}"#), "default.x is \"y\""),
            (
                &format!(r#"{{"space": [{X}, {{"name": "b", "type": "bool"}}], "default": {{"x": 1}}}}"#),
                "default.b is missing",
            ),
            (&format!(r#"{{"space": [{X}], "constraints": ["x < x"]}}"#), "constraints is [\"x < x\"]"),
            (&format!(r#"{{"space": [{X}], "limits": [{{"each": {{"x": 1}}}}]}}"#), "missing field `max`"),
            (
                &format!(r#"{{"space": [{X}], "limits": [{{"each": {{"y": 1}}, "max": 2}}]}}"#),
                "a limit names y, which is not declared",
            ),
            (&"[".repeat(100_000), "is no JSON"),
        ] {
            refused(line, part);
        }
    }

    #[test]
    fn a_value_is_a_number_or_the_trial_failed() {
        let line = r#"{"tell": [{"value": 1.5, "status": "ok"}, {"value": null, "status": "failed"}, {"value": NaN, "status": "ok"},
            {"value": "-inf"}, {"value": 2, "status": "failed"}, {"value": 3}, {}], "remaining": 4.0}"#;
        let values = vec![Some(1.5), None, None, None, None, Some(3.0), None];
        assert_eq!(told(line, 7), Ok(Told { values, remaining: Some(4) }));
        assert_eq!(told(r#"{"tell": []}"#, 0), Ok(Told { values: Vec::new(), remaining: None }));
    }

    #[test]
    fn a_line_that_does_not_tell_what_was_asked_is_refused() {
        for (line, part) in [
            ("{}", "tell is missing"),
            (r#"{"tell": {"value": 1}}"#, "tell is missing or no list"),
            (r#"{"tell": [{"value": 1}, {"value": 2}]}"#, "tell has 2 results where 1 were asked"),
            (r#"{"tell": []}"#, "tell has 0 results"),
            (r#"{"tell": [1]}"#, "tell[0] is 1"),
            (r#"{"tell": [{"value": "1.5"}]}"#, "tell[0].value is \"1.5\""),
            (r#"{"tell": [{"value": true}]}"#, "tell[0].value is true"),
            (r#"{"tell": [{"value": 1, "status": "fine"}]}"#, "tell[0].status is \"fine\""),
            (r#"{"tell": [{"value": 1}], "remaining": -1}"#, "remaining is -1"),
        ] {
            let error = told(line, 1).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
    }
    proptest! {
        #[test]
        fn no_line_makes_it_panic(text in any::<String>(), words in "[\\[\\]{}:,\"\\\\a-z0-9.NaInfity -]{0,80}") {
            for line in [&text, &words, &format!("{{\"space\": [{X}], \"default\": {words}}}"), &format!("{{\"tell\": [{words}]}}")] {
                let _ = (first(line), told(line, 1));
            }
        }
    }
}
