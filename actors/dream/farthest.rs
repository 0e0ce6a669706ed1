//! How far an experiment may go: what the gate rules on before a service is lent to it.

use crate::facts::{KnobKind, Value};

/// Returns the value of `range` that is farthest from `live`: by its factor where there is one, otherwise by its distance; of a
/// list without an order, one that differs. Where nothing else is to be had, that is `live` itself or the only value.
pub fn farthest(range: &KnobKind, live: Option<&Value>) -> Option<Value> {
    let ends = match range {
        KnobKind::Integer { min, max, step, .. } => {
            let step = step.filter(|step| *step > 0).unwrap_or(1);
            let whole = max.checked_sub(*min).map_or(*max, |span| max - span % step);
            vec![Value::Integer(*min), Value::Integer(whole)]
        }
        KnobKind::Float { min, max, step, .. } => {
            let on_step = |step: f64| min + ((max - min) / step + ROUNDING).floor() * step;
            let whole = step.filter(|step| *step > 0.0).map_or(*max, on_step);
            vec![Value::Float(*min), Value::Float(whole.min(*max))]
        }
        KnobKind::Boolean {} => vec![Value::Boolean(false), Value::Boolean(true)],
        KnobKind::Choice { values } => values.iter().cloned().map(Value::Choice).collect(),
        KnobKind::Ordinal { values } => values.clone(),
    };
    let from = live.and_then(Value::as_number);
    let differs = |value: &&Value| live != Some(*value);
    let by_distance = |one: &&Value, other: &&Value| distance(from, one).total_cmp(&distance(from, other));
    ends.iter().filter(differs).max_by(by_distance).or(ends.first()).cloned()
}

/// A decimal number may be off its step by rounding alone, as a share of it.
const ROUNDING: f64 = 1e-6;

/// Returns how far `value` is from a number: as the logarithm of the factor, beyond which a change of sign always is.
fn distance(from: Option<f64>, value: &Value) -> f64 {
    let Some((from, to)) = from.zip(value.as_number()) else { return 0.0 };
    let ratio = to / from;
    if ratio.is_finite() && ratio > 0.0 { ratio.ln().abs() } else { FACTOR_MAX + (to - from).abs().min(FACTOR_MAX) }
}

/// Beyond the logarithm of any factor of two numbers.
const FACTOR_MAX: f64 = 1e6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn integer(min: i64, max: i64, step: Option<i64>) -> KnobKind {
        KnobKind::Integer { min, max, log: false, step }
    }

    #[test]
    fn the_farthest_value_is_the_one_with_the_largest_factor() {
        let float = |min, max, step| KnobKind::Float { min, max, log: false, step };
        let (choice, sizes) = (|text: &str| Value::Choice(text.to_owned()), [1, 4, 16].map(Value::Integer).to_vec());
        let texts = KnobKind::Choice { values: vec!["a".to_owned(), "b".to_owned()] };
        for (range, live, expected) in [
            (integer(1, 64, None), Some(Value::Integer(2)), Value::Integer(64)),
            (integer(1, 64, None), Some(Value::Integer(32)), Value::Integer(1)),
            (integer(1, 64, None), None, Value::Integer(64)),
            (integer(8, 60, Some(8)), Some(Value::Integer(8)), Value::Integer(56)),
            (integer(0, 10, None), Some(Value::Integer(10)), Value::Integer(0)),
            (float(0.5, 0.95, Some(0.1)), Some(Value::Float(0.5)), Value::Float(0.9)),
            (KnobKind::Boolean {}, Some(Value::Boolean(true)), Value::Boolean(false)),
            (KnobKind::Ordinal { values: sizes }, Some(Value::Integer(4)), Value::Integer(16)),
            (texts.clone(), Some(choice("a")), choice("b")),
            (texts, Some(choice("b")), choice("a")),
            (integer(3, 3, None), Some(Value::Integer(3)), Value::Integer(3)),
        ] {
            let found = farthest(&range, live.as_ref()).unwrap();
            let is_it = match (&found, &expected) {
                (Value::Float(found), Value::Float(expected)) => (found - expected).abs() < 1e-9,
                (found, expected) => found == expected,
            };
            assert!(is_it, "{range:?} {live:?}: {found:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_farthest_is_in_range_and_on_the_step(min in -100_i64..100, span in 0_i64..1000, step in 1_i64..50, live: i64) {
            let range = integer(min, min + span, Some(step));
            let value = farthest(&range, Some(&Value::Integer(live))).unwrap();
            prop_assert_eq!(range.refuses(&value), None);
        }

        #[test]
        fn no_number_makes_it_panic(min: f64, max: f64, step: Option<f64>, live: Option<f64>, whole: (i64, i64, Option<i64>)) {
            let float = KnobKind::Float { min, max, log: true, step };
            farthest(&float, live.map(Value::Float).as_ref());
            farthest(&integer(whole.0, whole.1, whole.2), live.map(Value::Float).as_ref());
        }
    }
}
