//! What a person writes about a space: parameters, conditions, constraints, and what is forbidden.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::SpaceError;

/// A setting: the value of each active parameter by its name.
pub type Config = BTreeMap<String, Value>;

/// One value of a parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// On or off.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A decimal number.
    Float(f64),
    /// Anything else.
    Text(String),
}

impl Value {
    /// Returns the number that this is, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            Value::Bool(_) | Value::Text(_) => None,
        }
    }

    /// Returns whether both are the same value; 1 and 1.0 are.
    pub fn is(&self, other: &Value) -> bool {
        self == other || self.number().is_some_and(|number| other.number() == Some(number))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => value.fmt(formatter),
            Value::Integer(value) => value.fmt(formatter),
            Value::Float(value) => value.fmt(formatter),
            Value::Text(value) => value.fmt(formatter),
        }
    }
}

/// A space as it is declared; [`super::Space::new`] checks it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpaceSpec {
    /// What may be set.
    pub params: Vec<Param>,
    /// What holds between two parameters.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// Combinations that are never tried: a setting that has all the values of one of these.
    #[serde(default)]
    pub forbidden: Vec<Config>,
    /// What parameters may come to together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// Its name, unlike all others.
    pub name: String,
    /// What values it takes.
    #[serde(flatten)]
    pub kind: Kind,
    /// When it means something; always if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
}

/// What values a parameter takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Kind {
    /// A decimal number, both ends included.
    Float {
        /// The smallest value.
        low: f64,
        /// The largest value.
        high: f64,
        /// Whether ratios matter rather than differences; `low` is above 0 then.
        #[serde(default)]
        log: bool,
        /// The distance of neighbouring values, counted from `low`; any value is taken if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<f64>,
    },
    /// A whole number, both ends included.
    #[serde(alias = "int")]
    Integer {
        /// The smallest value.
        low: i64,
        /// The largest value.
        high: i64,
        /// Whether ratios matter rather than differences; `low` is above 0 then.
        #[serde(default)]
        log: bool,
        /// The distance of neighbouring values, counted from `low`; 1 if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<i64>,
    },
    /// One of a set, in no order.
    Categorical {
        /// The values.
        choices: Vec<Value>,
    },
    /// One of a list, neighbours being alike.
    Ordinal {
        /// The values, in order.
        choices: Vec<Value>,
    },
    /// On or off.
    Bool,
}

/// When a parameter means something: if `param` is active and has one of these values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct When {
    /// The parameter it depends on.
    pub param: String,
    /// The values of that one.
    pub r#in: Vec<Value>,
}

/// The sum of active parameters, each times its weight, is at most `max`: a resource that they share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// How much each unit of a parameter takes; above 0.
    pub each: BTreeMap<String, f64>,
    /// How much there is.
    pub max: f64,
}

/// `left <= right`, wherever both are active; written as that text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Constraint {
    /// The parameter with the smaller value.
    pub left: String,
    /// The parameter with the larger value.
    pub right: String,
}

impl From<Constraint> for String {
    fn from(constraint: Constraint) -> String {
        format!("{} <= {}", constraint.left, constraint.right)
    }
}

impl TryFrom<String> for Constraint {
    type Error = SpaceError;

    fn try_from(text: String) -> Result<Constraint, SpaceError> {
        let sides = text.split_once("<=").map(|(left, right)| (left.trim(), right.trim()));
        match sides {
            Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains("<=") => {
                Ok(Constraint { left: left.to_owned(), right: right.to_owned() })
            }
            _ => Err(SpaceError::ConstraintText { text }),
        }
    }
}
