use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::Key;

/// The value of a knob. There is no free text: a text is always one of a declared list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// On or off; `true` or `false` in an env file.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A finite decimal number.
    Float(f64),
    /// One of a declared list.
    Choice(String),
}

/// What a service is to run with: env keys and typed values.
pub type Settings = BTreeMap<Key, Value>;

/// What an experiment varies: parameter names and typed values.
pub type Params = BTreeMap<String, Value>;

/// What was measured; a metric that could not be measured is absent.
pub type Metrics = BTreeMap<String, f64>;

/// Prints the value as it stands in an env file.
impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Boolean(value) => write!(formatter, "{value}"),
            Value::Integer(value) => write!(formatter, "{value}"),
            Value::Float(value) => write!(formatter, "{value}"),
            Value::Choice(value) => formatter.write_str(value),
        }
    }
}

impl Value {
    /// Returns the value as a number, booleans as 0 and 1; `None` for a choice.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Boolean(value) => Some(f64::from(u8::from(*value))),
            Value::Integer(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            Value::Choice(_) => None,
        }
    }
}
