use serde::{Deserialize, Serialize};

use super::{PerUnit, Trades, Trouble, Value, is_same};

/// How far a decimal number may be off its step, as a share of it, and still be on it: 0.3 is no binary number.
const STEP_SLACK: f64 = 1e-6;

/// One env key that may be changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knob {
    /// Kind and range.
    pub range: KnobKind,
    /// What the service runs with when the env file does not name the key.
    pub default: Value,
    /// What it takes for a change to take effect.
    #[serde(default)]
    pub apply: Apply,
    /// The largest factor a single deployment may move a number by; unlimited when absent.
    #[serde(default)]
    pub step_max: Option<f64>,
    /// Whether setting the old value again undoes everything the new one did.
    #[serde(default = "yes")]
    pub reversible: bool,
    /// The kinds of trouble that it can act on; all of them when none is named. A question about another kind leaves it alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relieves: Vec<Trouble>,
    /// What it gives away for what it brings. A search leaves such a knob alone, and a person has to say yes at every level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trades: Option<Trades>,
    /// What an instance takes for each unit of it, of what does not give way. What the machine has too little of is not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes: Option<PerUnit>,
}

fn yes() -> bool {
    true
}

/// The kind of a knob or of a search dimension, with its range; both ends belong to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum KnobKind {
    /// Whole numbers.
    Integer {
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
        /// Whether ratios matter rather than differences; needs `min` above 0.
        #[serde(default)]
        log: bool,
        /// The distance of neighbouring values, counted from `min`; 1 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<i64>,
    },
    /// Finite decimal numbers.
    Float {
        /// Smallest value.
        min: f64,
        /// Largest value.
        max: f64,
        /// Whether ratios matter rather than differences; needs `min` above 0.
        #[serde(default)]
        log: bool,
        /// The distance of neighbouring values, counted from `min`; any number is one when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<f64>,
    },
    /// On or off.
    // Not a unit, because serde lets unknown keys stand beside the tag of one.
    Boolean {},
    /// One of a list, without an order.
    Choice {
        /// The list.
        values: Vec<String>,
    },
    /// One of a list of numbers or texts, neighbours being alike.
    Ordinal {
        /// The list, in order.
        values: Vec<Value>,
    },
}

impl KnobKind {
    /// Returns why `value` is not one of this kind and range, or `None` when it is.
    pub fn refuses(&self, value: &Value) -> Option<String> {
        if let Some(why) = self.excludes(value) {
            return Some(why);
        }
        match (self, value) {
            (KnobKind::Integer { min, step: Some(step), .. }, Value::Integer(value)) => {
                let rest = (i128::from(*value) - i128::from(*min)).checked_rem(i128::from(*step));
                (rest != Some(0)).then(|| format!("{value} is on no step of {step} from {min}"))
            }
            (KnobKind::Float { min, step: Some(step), .. }, value) => {
                let number = value.as_number().unwrap_or(f64::NAN);
                (!is_whole((number - min) / step)).then(|| format!("{number} is on no step of {step} from {min}"))
            }
            _ => None,
        }
    }

    /// Returns why `value` is of another kind or outside the range, wherever the steps are.
    fn excludes(&self, value: &Value) -> Option<String> {
        match (self, value) {
            (KnobKind::Integer { min, max, .. }, Value::Integer(value)) if (min..=max).contains(&value) => None,
            (KnobKind::Integer { min, max, .. }, Value::Integer(value)) => {
                Some(format!("{value} is outside {min} to {max}"))
            }
            (KnobKind::Float { min, max, .. }, Value::Float(_) | Value::Integer(_)) => {
                let number = value.as_number().unwrap_or(f64::NAN);
                let inside = number.is_finite() && *min <= number && number <= *max;
                (!inside).then(|| format!("{number} is outside {min} to {max}"))
            }
            (KnobKind::Boolean {}, Value::Boolean(_)) => None,
            (KnobKind::Choice { values }, Value::Choice(value)) if values.contains(value) => None,
            (KnobKind::Choice { values }, Value::Choice(value)) => {
                Some(format!("{value:?} is not one of {}", values.join(", ")))
            }
            (KnobKind::Ordinal { values }, value) => {
                let all = || values.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
                let found = values.iter().any(|each| is_same(each, value));
                (!found).then(|| format!("{value} is not one of {}", all()))
            }
            (kind, value) => Some(format!("{value} is not {}", kind.noun())),
        }
    }

    /// Returns what of this kind and range `knob` would refuse, in words; `None` when it takes it all.
    ///
    /// A list of values may be tried on any knob that takes each of them.
    pub fn escapes(&self, knob: &KnobKind) -> Option<String> {
        match (self, knob) {
            (KnobKind::Integer { min, max, step, .. }, KnobKind::Integer { min: from, step: grid, .. }) => {
                let ends = [Value::Integer(*min), Value::Integer(*max)];
                ends.iter().find_map(|end| knob.excludes(end)).or_else(|| {
                    let grid = grid.filter(|_| min != max || knob.refuses(&ends[0]).is_some())?;
                    let is_multiple = i128::from(step.unwrap_or(1)).checked_rem(i128::from(grid)) == Some(0);
                    (!is_multiple || knob.refuses(&ends[0]).is_some()).then(|| off_grid(grid, from))
                })
            }
            (KnobKind::Float { min, max, step, .. }, KnobKind::Float { min: from, step: grid, .. }) => {
                let ends = [Value::Float(*min), Value::Float(*max)];
                ends.iter().find_map(|end| knob.excludes(end)).or_else(|| {
                    let grid = grid.filter(|_| min < max || knob.refuses(&ends[0]).is_some())?;
                    let is_multiple = step.is_some_and(|step| is_whole(step / grid));
                    (!is_multiple || knob.refuses(&ends[0]).is_some()).then(|| off_grid(grid, from))
                })
            }
            (KnobKind::Boolean {}, KnobKind::Boolean {}) => None,
            (KnobKind::Choice { values }, KnobKind::Choice { .. } | KnobKind::Ordinal { .. }) => {
                values.iter().cloned().map(Value::Choice).find_map(|value| knob.refuses(&value))
            }
            (KnobKind::Ordinal { values }, knob) => values.iter().find_map(|value| knob.refuses(value)),
            _ => Some(format!("it is of another kind: the knob is {}", knob.noun())),
        }
    }

    /// Returns the value that `text`, as it stands in an env file, means for this kind; `None` when it means none.
    ///
    /// It may be outside the range, which is for [`KnobKind::refuses`] to say.
    pub fn parse(&self, text: &str) -> Option<Value> {
        match self {
            KnobKind::Integer { .. } => text.parse().ok().map(Value::Integer),
            KnobKind::Float { .. } => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float),
            KnobKind::Boolean {} => match text {
                "true" | "1" => Some(Value::Boolean(true)),
                "false" | "0" => Some(Value::Boolean(false)),
                _ => None,
            },
            KnobKind::Choice { values } => {
                values.iter().any(|value| value == text).then(|| Value::Choice(text.to_owned()))
            }
            KnobKind::Ordinal { values } => {
                let number = text.parse().ok().filter(|number: &f64| number.is_finite());
                let means = |value: &&Value| match value {
                    Value::Choice(choice) => choice == text,
                    value => number.is_some() && value.as_number() == number,
                };
                let other = || match text.parse() {
                    Ok(whole) => Some(Value::Integer(whole)),
                    Err(_) => number.map(Value::Float),
                };
                let listed = values.iter().find(means).cloned();
                listed.or_else(|| self.is_number().then(other).flatten())
            }
        }
    }

    /// Returns the key of the range that contradicts another one or itself, and how.
    pub fn contradiction(&self) -> Option<(&'static str, String)> {
        match self {
            KnobKind::Integer { min, max, log, step } => contradiction(*min as f64, *max as f64, *log).or_else(|| {
                let step = step.filter(|step| *step <= 0)?;
                Some(("step", format!("a step of {step} goes nowhere: give one above 0")))
            }),
            KnobKind::Float { min, max, log, step } => contradiction(*min, *max, *log).or_else(|| {
                let step = step.filter(|step| !(*step > 0.0 && step.is_finite()))?;
                Some(("step", format!("a step of {step} goes nowhere: give one above 0")))
            }),
            KnobKind::Boolean {} => None,
            KnobKind::Choice { values } => {
                let repeated = values.iter().enumerate().find(|(index, value)| values[..*index].contains(value));
                let twice = repeated.map(|(_, value)| ("values", format!("{value:?} is listed twice")));
                if values.is_empty() { Some(("values", "is empty".to_owned())) } else { twice }
            }
            KnobKind::Ordinal { values } => {
                if values.is_empty() {
                    return Some(("values", "is empty".to_owned()));
                }
                if let Some(flag) = values.iter().find(|value| matches!(value, Value::Boolean(_))) {
                    return Some(("values", format!("{flag} has no order: list numbers or texts")));
                }
                let is_repeated =
                    |(index, value): &(usize, &Value)| values[..*index].iter().any(|each| is_same(each, value));
                let repeated = values.iter().enumerate().find(is_repeated);
                repeated.map(|(_, value)| ("values", format!("{value} is listed twice")))
            }
        }
    }

    /// Returns the smallest number that it takes; `None` where not all its values are numbers.
    pub fn number_min(&self) -> Option<f64> {
        match self {
            KnobKind::Integer { min, .. } => Some(*min as f64),
            KnobKind::Float { min, .. } => Some(*min),
            KnobKind::Ordinal { values } if self.is_number() => {
                values.iter().filter_map(Value::as_number).reduce(f64::min)
            }
            KnobKind::Ordinal { .. } | KnobKind::Boolean {} | KnobKind::Choice { .. } => None,
        }
    }

    /// Returns whether all its values are numbers, which move by factors and can be compared.
    pub fn is_number(&self) -> bool {
        match self {
            KnobKind::Integer { .. } | KnobKind::Float { .. } => true,
            KnobKind::Boolean {} | KnobKind::Choice { .. } => false,
            KnobKind::Ordinal { values } => {
                values.iter().all(|value| matches!(value, Value::Integer(_) | Value::Float(_)))
            }
        }
    }

    fn noun(&self) -> &'static str {
        match self {
            KnobKind::Integer { .. } => "a whole number",
            KnobKind::Float { .. } => "a number",
            KnobKind::Boolean {} => "true or false",
            KnobKind::Choice { .. } => "a choice",
            KnobKind::Ordinal { .. } => "one of a list in order",
        }
    }
}

fn contradiction(min: f64, max: f64, log: bool) -> Option<(&'static str, String)> {
    if min > max {
        Some(("min", format!("min {min} is above max {max}")))
    } else if log && min <= 0.0 {
        Some(("log", format!("a logarithmic scale needs a min above 0, not {min}")))
    } else {
        None
    }
}

fn is_whole(steps: f64) -> bool {
    (steps - steps.round()).abs() <= STEP_SLACK
}

fn off_grid(grid: impl std::fmt::Display, from: impl std::fmt::Display) -> String {
    format!("the knob moves in steps of {grid} from {from}: begin on one of them, with a step of {grid} or a multiple")
}

/// What it takes for a change to take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Apply {
    /// The service is restarted.
    #[default]
    Restart,
    /// Its unit is reloaded, where it runs, and restarted where it then does not say that it runs with the new value.
    Reload,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(min: i64, max: i64, step: Option<i64>) -> KnobKind {
        KnobKind::Integer { min, max, log: false, step }
    }

    fn decimal(min: f64, max: f64, step: Option<f64>) -> KnobKind {
        KnobKind::Float { min, max, log: false, step }
    }

    fn list(values: &[i64]) -> KnobKind {
        KnobKind::Ordinal { values: values.iter().map(|value| Value::Integer(*value)).collect() }
    }

    fn texts(values: &[&str]) -> Vec<Value> {
        values.iter().map(|value| Value::Choice((*value).to_owned())).collect()
    }

    #[track_caller]
    fn check(found: Option<String>, expected: Option<&str>) {
        match (found, expected) {
            (Some(found), Some(part)) => assert!(found.contains(part), "{found}"),
            (found, expected) => assert_eq!(found.as_deref(), expected),
        }
    }

    #[test]
    fn a_value_is_in_the_range_and_on_its_step() {
        let table = [
            (whole(1, 9, Some(4)), Value::Integer(5), None),
            (whole(1, 9, Some(4)), Value::Integer(6), Some("6 is on no step of 4 from 1")),
            (whole(1, 9, Some(4)), Value::Integer(13), Some("13 is outside 1 to 9")),
            (whole(1, 9, Some(0)), Value::Integer(5), Some("on no step")),
            (whole(i64::MIN, i64::MAX, Some(2)), Value::Integer(i64::MAX), Some("on no step")),
            (decimal(0.0, 1.0, Some(0.1)), Value::Float(0.3), None),
            (decimal(0.0, 1.0, Some(0.1)), Value::Integer(1), None),
            (decimal(0.0, 1.0, Some(0.1)), Value::Float(0.35), Some("0.35 is on no step of 0.1 from 0")),
            (decimal(0.0, 1.0, Some(f64::NAN)), Value::Float(0.3), Some("on no step")),
            (list(&[1, 2, 8]), Value::Float(8.0), None),
            (list(&[1, 2, 8]), Value::Integer(4), Some("4 is not one of 1, 2, 8")),
            (list(&[1, 2, 8]), Value::Boolean(true), Some("true is not one of")),
            (KnobKind::Ordinal { values: texts(&["low", "high"]) }, Value::Choice("low".to_owned()), None),
        ];
        for (kind, value, expected) in table {
            check(kind.refuses(&value), expected);
        }
    }

    #[test]
    fn a_space_is_no_wider_than_its_knob_and_on_its_steps() {
        let table = [
            (whole(1, 9, None), whole(1, 9, None), None),
            (whole(1, 10, Some(3)), whole(1, 9, None), Some("10 is outside 1 to 9")),
            (
                whole(1, 9, None),
                whole(1, 9, Some(4)),
                Some("steps of 4 from 1: begin on one of them, with a step of 4"),
            ),
            (whole(2, 9, Some(4)), whole(1, 9, Some(4)), Some("steps of 4 from 1")),
            (whole(5, 9, Some(4)), whole(1, 9, Some(4)), None),
            (whole(5, 5, None), whole(1, 9, Some(4)), None),
            (whole(6, 6, None), whole(1, 9, Some(4)), Some("steps of 4")),
            (whole(1, 9, Some(8)), whole(1, 9, Some(4)), None),
            (decimal(0.2, 0.8, Some(0.2)), decimal(0.0, 1.0, Some(0.1)), None),
            (decimal(0.2, 0.8, None), decimal(0.0, 1.0, Some(0.1)), Some("steps of 0.1 from 0")),
            (decimal(0.25, 0.8, Some(0.2)), decimal(0.0, 1.0, Some(0.1)), Some("steps of 0.1 from 0")),
            (whole(1, 9, None), decimal(0.0, 10.0, None), Some("of another kind: the knob is a number")),
            (list(&[1, 2, 8]), whole(1, 9, None), None),
            (list(&[1, 2, 8]), whole(1, 9, Some(4)), Some("2 is on no step")),
            (list(&[1, 2, 8]), decimal(1.0, 9.0, None), None),
            (list(&[1, 4]), list(&[1, 2, 8]), Some("4 is not one of 1, 2, 8")),
            (whole(1, 2, None), list(&[1, 2]), Some("of another kind: the knob is one of a list in order")),
            (KnobKind::Boolean {}, KnobKind::Boolean {}, None),
            (
                KnobKind::Choice { values: vec!["low".to_owned()] },
                KnobKind::Ordinal { values: texts(&["low", "high"]) },
                None,
            ),
        ];
        for (space, knob, expected) in table {
            check(space.escapes(&knob), expected);
        }
    }

    #[test]
    fn a_text_means_the_listed_value_also_where_the_service_prints_it_otherwise() {
        let sizes = KnobKind::Ordinal { values: vec![Value::Integer(1), Value::Float(2.5)] };
        let mixed = KnobKind::Ordinal { values: vec![Value::Integer(1), Value::Choice("auto".to_owned())] };
        let table = [
            (&sizes, "1.0", Some(Value::Integer(1))),
            (&sizes, "2.50", Some(Value::Float(2.5))),
            // What runs may be none of the list, and is told from it by what `refuses` says.
            (&sizes, "3", Some(Value::Integer(3))),
            (&sizes, "3.5", Some(Value::Float(3.5))),
            (&sizes, "nan", None),
            (&sizes, "auto", None),
            (&mixed, "auto", Some(Value::Choice("auto".to_owned()))),
            (&mixed, "3", None),
        ];
        for (kind, text, expected) in table {
            assert_eq!(kind.parse(text), expected, "{text}");
        }
    }

    #[test]
    fn an_unknown_key_beside_any_kind_is_refused() {
        for text in [
            r#"{"kind": "boolean", "min": 1}"#,
            r#"{"kind": "integer", "min": 1, "max": 2, "stp": 1}"#,
            r#"{"kind": "ordinal", "values": [1], "log": true}"#,
        ] {
            assert!(serde_json::from_str::<KnobKind>(text).is_err(), "{text}");
        }
        assert_eq!(serde_json::to_string(&KnobKind::Boolean {}).unwrap(), r#"{"kind":"boolean"}"#);
    }
}
