//! Mapping: from settings that are wanted to keys that change, and back from what a service says.
//!
//! Texts of an env file and typed values meet here, and only here.

use std::collections::BTreeMap;

use crate::facts::{Change, Domain, Key, MappingProblem, Promotion, Settings, Value};

/// How far apart two decimal numbers may be that a service printed with fewer digits, as a ratio.
const PRINTED_DIFFERENCE_MAX: f64 = 1e-6;

/// Returns what must change so that the service of `domain` runs with `target`, given the `current` texts of the env
/// file; a key that the file does not name is `None` or absent there.
///
/// A key whose value in effect (the file's, else the knob's default) is the wanted one is left out; when nothing is
/// left, that is [`MappingProblem::NoChange`]. A text that means no value of the knob is a problem that names the key:
/// what cannot be read cannot be compared.
pub fn changes(
    target: &Settings,
    current: &BTreeMap<Key, Option<String>>,
    domain: &Domain,
) -> Result<BTreeMap<Key, Change>, MappingProblem> {
    let mut changes = BTreeMap::new();
    for (key, wanted) in target {
        let knob = domain
            .knobs
            .get(key)
            .ok_or_else(|| MappingProblem::NotAllowed { key: key.clone(), domain: domain.name.clone() })?;
        if let Some(why) = knob.range.refuses(wanted) {
            return Err(MappingProblem::OutOfRange { key: key.clone(), why });
        }
        let text = current.get(key).and_then(Option::as_deref);
        let from = text
            .map(|text| {
                knob.range.parse(text).ok_or_else(|| MappingProblem::OutOfRange {
                    key: key.clone(),
                    why: format!("the env file holds {text:?}, which this knob cannot mean: correct it by hand"),
                })
            })
            .transpose()?;
        if !is_same(from.as_ref().unwrap_or(&knob.default), wanted) {
            changes.insert(key.clone(), Change { from, to: wanted.clone() });
        }
    }
    if changes.is_empty() { Err(MappingProblem::NoChange) } else { Ok(changes) }
}

/// Returns a key of `promotion` that the env file no longer holds as it was when the change was planned; `None` when
/// the plan still fits. Whoever edited it wins.
pub fn stale(promotion: &Promotion, current: &BTreeMap<Key, Option<String>>) -> Option<Key> {
    promotion
        .changes
        .iter()
        .find(|(key, change)| match (&change.from, current.get(*key).and_then(Option::as_deref)) {
            (None, None) => false,
            (Some(from), Some(text)) => !means(text, from, 0.0),
            (None, Some(_)) | (Some(_), None) => true,
        })
        .map(|(key, _)| key.clone())
}

/// Says whether a service that reports `in_effect` runs with `target`; if not, which keys differ and how.
///
/// Numbers are compared by value, so `0.90` agrees with `0.9`; a key that is not reported does not agree.
pub fn agrees(target: &Settings, in_effect: &BTreeMap<String, String>) -> Result<(), String> {
    let differences = target
        .iter()
        .filter_map(|(key, wanted)| match in_effect.get(key.as_str()) {
            None => Some(format!("{key} is not reported, {wanted} is wanted")),
            Some(text) if means(text, wanted, PRINTED_DIFFERENCE_MAX) => None,
            Some(text) => Some(format!("{key} is {text:?}, {wanted} is wanted")),
        })
        .collect::<Vec<_>>();
    if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
}

/// Returns whether two values are the same to a service: numbers by value, whatever their kind.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Integer(one), Value::Integer(other)) => one == other,
        (Value::Integer(_) | Value::Float(_), Value::Integer(_) | Value::Float(_)) => {
            one.as_number() == other.as_number()
        }
        _ => one == other,
    }
}

/// Returns whether `text` means `value`, decimal numbers up to this ratio apart.
fn means(text: &str, value: &Value, difference_max: f64) -> bool {
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
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::facts::{
        Apply, BenchSpec, CycleId, Isolation, Knob, KnobKind, Manager, Origin, PromotionId, ReadBack, Ready,
        ServiceSpec,
    };

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn knob(range: KnobKind, default: Value) -> Knob {
        Knob { range, default, apply: Apply::Restart, step_max: None, reversible: true }
    }

    fn domain() -> Domain {
        Domain {
            name: "lab".into(),
            risk: None,
            isolation: Isolation::Shadow,
            service: ServiceSpec {
                manager: Manager::Child,
                argv: Vec::new(),
                port: 0,
                env_file: PathBuf::from(".kloros_env"),
                ready: Ready { http_path: "/health".into(), within_s: 10, passes: 1 },
                read_back: ReadBack::ProcEnviron,
                metrics_path: None,
            },
            knobs: BTreeMap::from([
                (key("SEQS"), knob(KnobKind::Integer { min: 1, max: 64, log: true }, Value::Integer(2))),
                (key("SHARE"), knob(KnobKind::Float { min: 0.1, max: 0.9, log: false }, Value::Float(0.5))),
                (key("CACHE"), knob(KnobKind::Boolean, Value::Boolean(false))),
                (
                    key("KIND"),
                    knob(KnobKind::Choice { values: vec!["auto".into(), "fp8".into()] }, Value::Choice("auto".into())),
                ),
            ]),
            bench: BenchSpec::Command { argv: Vec::new(), timeout_s: 1 },
            metrics: BTreeMap::new(),
            objectives: Vec::new(),
        }
    }

    fn settings(values: &[(&str, Value)]) -> Settings {
        values.iter().map(|(name, value)| (key(name), value.clone())).collect()
    }

    fn texts(values: &[(&str, Option<&str>)]) -> BTreeMap<Key, Option<String>> {
        values.iter().map(|(name, text)| (key(name), text.map(str::to_owned))).collect()
    }

    fn promotion(changes: BTreeMap<Key, Change>) -> Promotion {
        Promotion {
            id: PromotionId::new("p-1"),
            cycle: CycleId::new("c-1"),
            origin: Origin::Person(0),
            experiment: "x".into(),
            question: None,
            hypothesis: None,
            domain: "lab".into(),
            changes,
            fitness: None,
            at_ms: 0,
            depth: 0,
        }
    }

    #[test]
    fn only_keys_whose_value_in_effect_differs_are_changed() {
        let target = settings(&[
            ("SEQS", Value::Integer(12)),
            ("SHARE", Value::Float(0.7)),
            ("CACHE", Value::Boolean(true)),
            ("KIND", Value::Choice("auto".into())),
        ]);
        let current = texts(&[("SEQS", Some("2")), ("SHARE", Some("0.70")), ("CACHE", Some("1")), ("KIND", None)]);
        let changes = changes(&target, &current, &domain()).unwrap();
        assert_eq!(
            changes,
            BTreeMap::from([(key("SEQS"), Change { from: Some(Value::Integer(2)), to: Value::Integer(12) })])
        );
    }

    #[test]
    fn a_key_the_file_does_not_name_counts_with_its_default() {
        let twelve = settings(&[("SEQS", Value::Integer(12))]);
        let change = Change { from: None, to: Value::Integer(12) };
        assert_eq!(changes(&twelve, &BTreeMap::new(), &domain()), Ok(BTreeMap::from([(key("SEQS"), change)])));
        let two = settings(&[("SEQS", Value::Integer(2))]);
        assert_eq!(changes(&two, &texts(&[("SEQS", None)]), &domain()), Err(MappingProblem::NoChange));
    }

    #[test]
    fn changing_nothing_is_a_problem() {
        assert_eq!(changes(&Settings::new(), &BTreeMap::new(), &domain()), Err(MappingProblem::NoChange));
    }

    #[test]
    fn what_is_not_a_knob_or_out_of_range_is_a_problem_that_names_the_key() {
        let table = [
            ("OTHER", Value::Integer(2), None, "OTHER is not a knob of domain lab"),
            ("SEQS", Value::Integer(65), None, "SEQS: 65 is outside 1 to 64"),
            ("SEQS", Value::Integer(12), Some("many"), "SEQS: the env file holds \"many\""),
            ("SEQS", Value::Integer(12), Some(""), "SEQS: the env file holds \"\""),
            ("SEQS", Value::Integer(12), Some("2 # two"), "SEQS: the env file holds \"2 # two\""),
            ("KIND", Value::Choice("fp8".into()), Some("int4"), "KIND: the env file holds \"int4\""),
        ];
        for (name, value, text, part) in table {
            let problem = changes(&settings(&[(name, value)]), &texts(&[(name, text)]), &domain()).unwrap_err();
            assert!(problem.to_string().contains(part), "{problem}");
        }
    }

    #[test]
    fn a_key_that_was_edited_after_the_plan_is_stale() {
        let planned =
            |from: Option<Value>| promotion(BTreeMap::from([(key("SEQS"), Change { from, to: Value::Integer(12) })]));
        let table = [
            (None, None, false),
            (Some(Value::Integer(2)), Some("2"), false),
            (Some(Value::Integer(2)), Some("02"), false),
            (Some(Value::Boolean(true)), Some("1"), false),
            (Some(Value::Integer(2)), Some("3"), true),
            (Some(Value::Integer(2)), Some("12"), true),
            (Some(Value::Integer(2)), None, true),
            (None, Some("2"), true),
            (Some(Value::Float(0.9)), Some("0.9000001"), true),
            (Some(Value::Integer(2)), Some("two"), true),
        ];
        for (from, text, is_stale) in table {
            let stale = stale(&planned(from.clone()), &texts(&[("SEQS", text)]));
            assert_eq!(stale, is_stale.then(|| key("SEQS")), "{from:?} {text:?}");
        }
    }

    #[test]
    fn what_a_service_reports_is_compared_by_value() {
        let table = [
            (Value::Integer(12), "12", true),
            (Value::Integer(12), "12.0", true),
            (Value::Integer(12), "120", false),
            (Value::Integer(i64::MAX), "9223372036854775806", false),
            (Value::Float(0.9), "0.90", true),
            (Value::Float(0.9), "0.899_999", false),
            (Value::Float(0.9), "0.89999998", true),
            (Value::Float(0.9), "0.91", false),
            (Value::Float(0.0), "0", true),
            (Value::Float(0.9), "NaN", false),
            (Value::Boolean(true), "True", true),
            (Value::Boolean(true), "1", true),
            (Value::Boolean(true), "yes", false),
            (Value::Boolean(false), "false", true),
            (Value::Choice("fp8".into()), "fp8", true),
            (Value::Choice("fp8".into()), "FP8", false),
        ];
        for (value, text, agreed) in table {
            let in_effect = BTreeMap::from([("SEQS".to_owned(), text.to_owned())]);
            assert_eq!(agrees(&settings(&[("SEQS", value.clone())]), &in_effect).is_ok(), agreed, "{value} {text}");
        }
    }

    #[test]
    fn silence_about_a_key_is_no_agreement() {
        let target = settings(&[("SEQS", Value::Integer(12)), ("SHARE", Value::Float(0.5))]);
        let in_effect = BTreeMap::from([("SEQS".to_owned(), "2".to_owned())]);
        assert_eq!(
            agrees(&target, &in_effect),
            Err("SEQS is \"2\", 12 is wanted; SHARE is not reported, 0.5 is wanted".to_owned())
        );
    }

    proptest! {
        #[test]
        fn a_plan_that_was_written_agrees_with_its_target_and_changes_nothing_more(
            seqs in 1_i64..=64,
            share in 0.1..=0.9_f64,
            cache in any::<bool>(),
            is_fp8 in any::<bool>(),
        ) {
            let kind = Value::Choice(if is_fp8 { "fp8" } else { "auto" }.into());
            let target = settings(&[
                ("SEQS", Value::Integer(seqs)),
                ("SHARE", Value::Float(share)),
                ("CACHE", Value::Boolean(cache)),
                ("KIND", kind),
            ]);
            if let Ok(planned) = changes(&target, &BTreeMap::new(), &domain()) {
                prop_assert_eq!(stale(&promotion(planned), &BTreeMap::new()), None);
            }
            let written = target.iter().map(|(key, value)| (key.clone(), Some(value.to_string()))).collect();
            prop_assert_eq!(changes(&target, &written, &domain()), Err(MappingProblem::NoChange));
            let in_effect = target.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            prop_assert_eq!(agrees(&target, &in_effect), Ok(()));
        }

        #[test]
        fn no_text_of_an_env_file_makes_a_panic(text in any::<String>(), number in any::<i64>(), decimal in any::<f64>()) {
            for value in [Value::Integer(number), Value::Float(decimal), Value::Boolean(true), Value::Choice("auto".into())] {
                for name in ["SEQS", "SHARE", "CACHE", "KIND"] {
                    let current = texts(&[(name, Some(&text))]);
                    let target = settings(&[(name, value.clone())]);
                    if let Ok(changes) = changes(&target, &current, &domain()) {
                        stale(&promotion(changes), &current);
                    }
                }
            }
        }
    }
}
