//! Mapping: from settings that are wanted to keys that change, and back from what a service says.
//!
//! Texts of an env file and typed values meet here, and only here.

use std::collections::BTreeMap;

use crate::facts::{
    Change, Domain, Key, MappingProblem, Promotion, ReadBack, Ruled, Settings, Value, Verdict, is_same, means, meant,
    says,
};

/// What a service runs with before a change: by its env file, and by its own word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// The texts of the env file; a key that it does not name is `None` or absent.
    pub file: BTreeMap<Key, Option<String>>,
    /// What the service says that it runs with.
    pub in_effect: BTreeMap<String, String>,
}

impl Base {
    /// Returns the value that the service runs with under `key`, and whether the env file names it; no value where the
    /// env file is silent and the service, which reports other keys, does not report this one: it runs without it.
    ///
    /// The service has the last word: where the file says something else it was edited and the service not restarted,
    /// which is a problem; where the file is silent, the service's own word stands, whatever the domain file takes for
    /// its default. What neither says is not guessed.
    fn standing(&self, key: &Key, domain: &Domain) -> Result<(Option<Value>, bool), MappingProblem> {
        let Some(knob) = domain.knobs.get(key) else { return Ok((None, false)) };
        let out_of_range = |why: String| MappingProblem::OutOfRange { key: key.clone(), why };
        let running = self.in_effect.get(key.as_str()).ok_or_else(|| MappingProblem::Unsaid { key: key.clone() });
        let Some(text) = self.file.get(key).and_then(Option::as_deref) else {
            let running = match running {
                Err(_) if self.says_anything(domain) => return Ok((None, false)),
                running => running?,
            };
            let wrong =
                || format!("the service runs with {running:?}, which this knob cannot mean: correct the domain file");
            let is_default = says(running, &knob.default);
            let value = if is_default { Some(knob.default.clone()) } else { meant(running, &knob.range) };
            return value.map(|value| (Some(value), false)).ok_or_else(|| out_of_range(wrong()));
        };
        let file = knob.range.parse(text).ok_or_else(|| {
            out_of_range(format!("the env file holds {text:?}, which this knob cannot mean: correct it by hand"))
        })?;
        let running = running?;
        if says(running, &file) {
            Ok((Some(file), true))
        } else {
            Err(MappingProblem::NotRestarted { key: key.clone(), file: file.to_string(), running: running.clone() })
        }
    }

    /// Returns whether the service's word can be relied on. An environment holds what was set and nothing else; of a
    /// read-back that knows none of the knobs it is more likely that it is the wrong one.
    fn says_anything(&self, domain: &Domain) -> bool {
        let is_said = |key: &Key| self.in_effect.contains_key(key.as_str());
        domain.service.read_back == ReadBack::ProcEnviron || domain.knobs.keys().any(is_said)
    }

    /// Returns the first key, of all knobs, that the env file was given while the service was not restarted: a restart
    /// of ours would bring a person's edit into effect, and what was measured then would not be our change alone.
    fn edited(&self, domain: &Domain) -> Option<MappingProblem> {
        let problems = domain.knobs.keys().filter_map(|key| self.standing(key, domain).err());
        problems.into_iter().find(|problem| matches!(problem, MappingProblem::NotRestarted { .. }))
    }
}

/// Says whether `target` is made of knobs of `domain` within their ranges; if not, what is not.
pub fn allowed(target: &Settings, domain: &Domain) -> Result<(), MappingProblem> {
    for (key, wanted) in target {
        let knob = domain
            .knobs
            .get(key)
            .ok_or_else(|| MappingProblem::NotAllowed { key: key.clone(), domain: domain.name.clone() })?;
        if let Some(why) = knob.range.refuses(wanted) {
            return Err(MappingProblem::OutOfRange { key: key.clone(), why });
        }
    }
    Ok(())
}

/// Returns what must change so that the service of `domain` runs with `target`, given what it runs with.
///
/// A key that it runs with already is left out; when nothing is left, that is [`MappingProblem::NoChange`]. A text that
/// means no value of the knob is a problem that names the key: what cannot be read cannot be compared.
pub fn changes(target: &Settings, base: &Base, domain: &Domain) -> Result<BTreeMap<Key, Change>, MappingProblem> {
    allowed(target, domain)?;
    let mut changes = BTreeMap::new();
    for (key, wanted) in target {
        let (from, in_file) = base.standing(key, domain)?;
        if !from.as_ref().is_some_and(|from| is_same(from, wanted)) {
            changes.insert(key.clone(), Change { from, in_file, to: wanted.clone() });
        }
    }
    if let Some(problem) = base.edited(domain) {
        return Err(problem);
    }
    if changes.is_empty() { Err(MappingProblem::NoChange) } else { Ok(changes) }
}

/// Returns the keys of `promotion` whose base is no longer what it was when the change was planned; none when the plan
/// still fits.
pub fn stale(promotion: &Promotion, base: &Base, domain: &Domain) -> Vec<Key> {
    let is_stale = |key: &&Key| {
        if !domain.knobs.contains_key(key) {
            return true;
        }
        match (base.standing(key, domain), promotion.changes.get(key)) {
            (Ok((from, in_file)), Some(change)) => {
                in_file != change.in_file || !runs(from.as_ref(), change.from.as_ref())
            }
            // It ran already when the change was planned.
            (Ok((from, _)), None) => {
                promotion.settings.get(key).is_some_and(|wanted| !runs(from.as_ref(), Some(wanted)))
            }
            (Err(_), _) => true,
        }
    };
    let unchanged = promotion.settings.keys().filter(|key| !promotion.changes.contains_key(*key));
    promotion.changes.keys().chain(unchanged).filter(is_stale).cloned().collect()
}

fn runs(one: Option<&Value>, other: Option<&Value>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => is_same(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// Returns whether `text`, as the env file holds it under `key`, is what a deployment of ours left there that was judged
/// by one of `verdicts`, rather than a person's edit.
pub fn was_left_by_us(verdicts: &[Verdict], key: &Key, text: Option<&str>) -> bool {
    let left = |verdict: &Verdict| {
        let change = verdict.changes.get(key)?;
        let value = match verdict.outcome {
            Ruled::Success | Ruled::Neutral => Some(&change.to),
            Ruled::Rollback => change.from.as_ref().filter(|_| change.in_file),
        };
        Some(match (value, text) {
            (Some(value), Some(text)) => means(text, value, 0.0),
            (value, text) => value.is_none() && text.is_none(),
        })
    };
    verdicts.iter().any(|verdict| left(verdict).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::facts::{
        Apply, BenchSpec, CycleId, Isolation, Knob, KnobKind, Manager, Origin, PromotionId, ReadBack, Ready,
        ServiceSpec, Value, agrees,
    };

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn knob(range: KnobKind, default: Value) -> Knob {
        Knob {
            range,
            default,
            apply: Apply::Restart,
            step_max: None,
            reversible: true,
            relieves: Vec::new(),
            trades: None,
            takes: None,
        }
    }

    fn domain() -> Domain {
        Domain {
            name: "lab".into(),
            risk: None,
            isolation: Isolation::Shadow,
            in_place: None,
            service: ServiceSpec::of(
                Manager::Child,
                Vec::new(),
                PathBuf::from(".kloros_env"),
                Ready::http("/health", 10, 1),
                ReadBack::ProcEnviron,
            ),
            knobs: BTreeMap::from([
                (key("SEQS"), knob(KnobKind::Integer { min: 1, max: 64, log: true, step: None }, Value::Integer(2))),
                (key("SHARE"), knob(KnobKind::Float { min: 0.1, max: 0.9, log: false, step: None }, Value::Float(0.5))),
                (key("CACHE"), knob(KnobKind::Boolean {}, Value::Boolean(false))),
                (
                    key("KIND"),
                    knob(KnobKind::Choice { values: vec!["auto".into(), "fp8".into()] }, Value::Choice("auto".into())),
                ),
                (
                    key("SIZE"),
                    knob(KnobKind::Ordinal { values: [1, 2, 8].map(Value::Integer).into() }, Value::Integer(2)),
                ),
                (
                    key("EIGHTS"),
                    knob(KnobKind::Integer { min: 8, max: 64, log: false, step: Some(8) }, Value::Integer(16)),
                ),
            ]),
            bench: BenchSpec::Command { argv: Vec::new(), timeout_s: 1 },
            metrics: BTreeMap::new(),
            objectives: Vec::new(),
            quiet: None,
            needs: None,
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
            settings: changes.iter().map(|(key, change)| (key.clone(), change.to.clone())).collect(),
            changes,
            replaces: None,
            fitness: None,
            at_ms: 0,
            depth: 0,
        }
    }

    /// Returns the base of a service that was restarted since its file was written, and has the defaults it should have.
    fn base(file: &[(&str, Option<&str>)]) -> Base {
        let defaults =
            [("SEQS", "2"), ("SHARE", "0.5"), ("CACHE", "false"), ("KIND", "auto"), ("SIZE", "2"), ("EIGHTS", "16")];
        let mut in_effect: BTreeMap<String, String> =
            defaults.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        in_effect.extend(file.iter().filter_map(|(name, text)| Some(((*name).to_owned(), (*text)?.to_owned()))));
        Base { file: texts(file), in_effect }
    }

    /// Returns the base of a service whose file holds `text` under `SEQS` and that says that it runs with `running`.
    fn seqs(text: Option<&str>, running: Option<&str>) -> Base {
        let mut base = base(&[("SEQS", text)]);
        base.in_effect.remove("SEQS");
        base.in_effect.extend(running.map(|running| ("SEQS".to_owned(), running.to_owned())));
        base
    }

    #[test]
    fn only_keys_whose_value_in_effect_differs_are_changed() {
        let target = settings(&[
            ("SEQS", Value::Integer(12)),
            ("SHARE", Value::Float(0.7)),
            ("CACHE", Value::Boolean(true)),
            ("KIND", Value::Choice("auto".into())),
        ]);
        let base = base(&[("SEQS", Some("2")), ("SHARE", Some("0.70")), ("CACHE", Some("1")), ("KIND", None)]);
        let changes = changes(&target, &base, &domain()).unwrap();
        let change = Change { from: Some(Value::Integer(2)), in_file: true, to: Value::Integer(12) };
        assert_eq!(changes, BTreeMap::from([(key("SEQS"), change)]));
    }

    /// Once the default of the domain file was taken for what a silent env file means, and a service with another
    /// default of its own was compared with the wrong old settings.
    #[test]
    fn what_the_service_says_is_the_old_value_whatever_the_domain_file_takes_for_its_default() {
        let planned = |text, running| {
            changes(&settings(&[("SEQS", Value::Integer(12))]), &seqs(text, running), &domain())
                .map(|changes| (changes[&key("SEQS")].to_string(), changes[&key("SEQS")].in_file))
                .map_err(|problem| problem.to_string())
        };
        let table = [
            (None, Some("2"), Ok(("unset (2) -> 12", false))),
            (None, Some("8"), Ok(("unset (8) -> 12", false))),
            (None, Some(" 8.0 "), Ok(("unset (8) -> 12", false))),
            (Some("8"), Some("8"), Ok(("8 -> 12", true))),
            (Some("08"), Some("8.0"), Ok(("8 -> 12", true))),
            // It reports other knobs, and not this one, which it does not use: it runs without.
            (None, None, Ok(("unset -> 12", false))),
            (None, Some("12"), Err("nothing would change")),
            (Some("12"), Some("2"), Err("the env file says 12, and the service runs with \"2\": restart it")),
            (Some("8"), Some("2"), Err("the env file says 8, and the service runs with \"2\": restart it")),
            (None, Some("900"), Err("the service runs with \"900\", which this knob cannot mean")),
            (None, Some("many"), Err("the service runs with \"many\", which this knob cannot mean")),
            (Some("8"), None, Err("the service does not say what it runs with")),
        ];
        for (text, running, expected) in table {
            match (planned(text, running), expected) {
                (Ok((from, in_file)), Ok(expected)) => {
                    assert_eq!((from.as_str(), in_file), expected, "{text:?} {running:?}");
                }
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
                (planned, expected) => panic!("{text:?} {running:?}: {planned:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_read_back_that_knows_no_knob_is_not_taken_for_a_service_that_runs_without_them() {
        let target = settings(&[("SEQS", Value::Integer(12))]);
        let (silent, mut domain) = (Base::default(), domain());
        assert_eq!(changes(&target, &silent, &domain).unwrap()[&key("SEQS")].to_string(), "unset -> 12");
        domain.service.read_back = ReadBack::HttpJson("/config".into());
        let problem = changes(&target, &silent, &domain).unwrap_err();
        assert!(matches!(problem, MappingProblem::Unsaid { .. }), "{problem}");
    }

    #[test]
    fn a_plan_for_a_key_that_nothing_named_is_stale_once_something_does() {
        let (target, domain) = (settings(&[("SEQS", Value::Integer(12))]), domain());
        let promotion = promotion(changes(&target, &seqs(None, None), &domain).unwrap());
        assert_eq!(stale(&promotion, &seqs(None, None), &domain), []);
        for (text, running) in [(None, Some("2")), (Some("2"), Some("2")), (Some("2"), None)] {
            assert_eq!(stale(&promotion, &seqs(text, running), &domain), [key("SEQS")], "{text:?} {running:?}");
        }
    }

    #[test]
    fn what_stands_between_the_steps_or_beside_the_list_can_be_left_and_not_be_gone_to() {
        let planned = |name: &str, text: &str, to: i64| {
            let changes = changes(&settings(&[(name, Value::Integer(to))]), &base(&[(name, Some(text))]), &domain());
            changes.map(|changes| changes[&key(name)].to_string()).map_err(|problem| problem.to_string())
        };
        let table = [
            ("SIZE", "2", 8, Ok("2 -> 8")),
            ("SIZE", "2.0", 8, Ok("2 -> 8")),
            // A person may set what no list has; it is undone to just that.
            ("SIZE", "3", 8, Ok("3 -> 8")),
            ("SIZE", "8.0", 8, Err("nothing would change")),
            ("SIZE", "2", 4, Err("SIZE: 4 is not one of 1, 2, 8")),
            ("SIZE", "many", 8, Err("SIZE: the env file holds \"many\"")),
            ("EIGHTS", "12", 24, Ok("12 -> 24")),
            ("EIGHTS", "16", 20, Err("EIGHTS: 20 is on no step of 8 from 8")),
        ];
        for (name, text, to, expected) in table {
            match (planned(name, text, to), expected) {
                (Ok(change), Ok(expected)) => assert_eq!(change, expected),
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
                (planned, expected) => panic!("{name} {text} {to}: {planned:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn an_edit_of_another_knob_that_no_restart_brought_into_effect_is_not_brought_into_effect_by_us() {
        let mut base = base(&[("SHARE", Some("0.8"))]);
        let target = settings(&[("SEQS", Value::Integer(12))]);
        assert!(changes(&target, &base, &domain()).is_ok());
        base.in_effect.insert("SHARE".to_owned(), "0.5".to_owned());
        let problem = changes(&target, &base, &domain()).unwrap_err();
        assert!(
            matches!(&problem, MappingProblem::NotRestarted { key: other, .. } if *other == key("SHARE")),
            "{problem}"
        );
    }

    #[test]
    fn changing_nothing_is_a_problem() {
        assert_eq!(changes(&Settings::new(), &Base::default(), &domain()), Err(MappingProblem::NoChange));
        let two = settings(&[("SEQS", Value::Integer(2))]);
        assert_eq!(changes(&two, &base(&[("SEQS", None)]), &domain()), Err(MappingProblem::NoChange));
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
            let problem = changes(&settings(&[(name, value)]), &base(&[(name, text)]), &domain()).unwrap_err();
            assert!(problem.to_string().contains(part), "{problem}");
        }
    }

    #[test]
    fn a_plan_is_stale_when_its_base_is_not_what_it_was() {
        let planned = |from: Value, in_file| {
            promotion(BTreeMap::from([(key("SEQS"), Change { from: Some(from), in_file, to: Value::Integer(12) })]))
        };
        let two = Value::Integer(2);
        let table = [
            (two.clone(), false, None, "2", false),
            (Value::Integer(8), false, None, "8", false),
            (two.clone(), true, Some("2"), "2", false),
            (two.clone(), true, Some("02"), "2", false),
            // The service has another default than it had, though nobody touched the file.
            (two.clone(), false, None, "8", true),
            (two.clone(), true, Some("3"), "3", true),
            (two.clone(), true, Some("12"), "12", true),
            (two.clone(), true, None, "2", true),
            (two.clone(), false, Some("2"), "2", true),
            (two.clone(), true, Some("2"), "3", true),
            (two, true, Some("two"), "2", true),
        ];
        for (from, in_file, text, running, expected) in table {
            let stale = stale(&planned(from.clone(), in_file), &seqs(text, Some(running)), &domain());
            let expected: Vec<Key> = expected.then(|| key("SEQS")).into_iter().collect();
            assert_eq!(stale, expected, "{from:?} {in_file} {text:?} {running:?}");
        }
        // What was proposed and ran already counts as well: the settings were measured together.
        let mut promotion = planned(Value::Integer(2), false);
        promotion.settings.insert(key("SHARE"), Value::Float(0.5));
        assert_eq!(stale(&promotion, &base(&[]), &domain()), []);
        assert_eq!(stale(&promotion, &base(&[("SHARE", Some("0.7"))]), &domain()), [key("SHARE")]);
    }

    #[test]
    fn what_a_deployment_of_ours_left_is_told_from_a_persons_edit() {
        let verdict = |outcome, in_file| Verdict {
            outcome,
            ..crate::testing::rollback(
                &crate::testing::deployment_of(promotion(BTreeMap::from([(
                    key("SEQS"),
                    Change { from: Some(Value::Integer(2)), in_file, to: Value::Integer(12) },
                )]))),
                crate::facts::Reason::Improved,
            )
        };
        let table = [
            (Ruled::Success, true, Some("12"), true),
            (Ruled::Neutral, false, Some("12"), true),
            (Ruled::Success, true, Some("2"), false),
            (Ruled::Success, true, None, false),
            (Ruled::Rollback, true, Some("2"), true),
            (Ruled::Rollback, true, Some("12"), false),
            (Ruled::Rollback, false, None, true),
            (Ruled::Rollback, false, Some("2"), false),
            (Ruled::Success, true, Some("9"), false),
        ];
        for (outcome, in_file, text, expected) in table {
            let verdicts = [verdict(outcome, in_file)];
            assert_eq!(was_left_by_us(&verdicts, &key("SEQS"), text), expected, "{outcome} {in_file} {text:?}");
        }
        assert!(!was_left_by_us(&[verdict(Ruled::Success, true)], &key("SHARE"), None));
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
            if let Ok(planned) = changes(&target, &base(&[]), &domain()) {
                prop_assert_eq!(stale(&promotion(planned), &base(&[]), &domain()), []);
            }
            let file = target.iter().map(|(key, value)| (key.clone(), Some(value.to_string()))).collect();
            let in_effect = target.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            prop_assert_eq!(agrees(&target, &in_effect), Ok(()));
            prop_assert_eq!(changes(&target, &Base { file, in_effect }, &domain()), Err(MappingProblem::NoChange));
        }

        #[test]
        fn no_text_of_an_env_file_or_a_service_makes_a_panic(
            text in any::<String>(),
            running in any::<String>(),
            number in any::<i64>(),
            decimal in any::<f64>(),
        ) {
            for value in [Value::Integer(number), Value::Float(decimal), Value::Boolean(true), Value::Choice("auto".into())] {
                for name in ["SEQS", "SHARE", "CACHE", "KIND"] {
                    let mut base = base(&[(name, Some(&text))]);
                    base.in_effect.insert(name.to_owned(), running.clone());
                    let target = settings(&[(name, value.clone())]);
                    if let Ok(changes) = changes(&target, &base, &domain()) {
                        stale(&promotion(changes), &base, &domain());
                    }
                }
            }
        }
    }
}
