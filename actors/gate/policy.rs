//! Policy: what a change risks, and what no level lets through.
//!
//! The order is fixed: stop; freeze window; allow-list, types and bounds; budgets; lessons; risk against autonomy. Nothing
//! later can mend what an earlier step refused, and no level skips a step.

use super::{
    Config, Scales, autonomy,
    fit::{self, Unweighable},
    freeze::in_force,
    history::History,
};
use crate::facts::{
    Autonomy, Change, Domain, Held, Key, Knob, Origin, Promotion, Risk, Ruling, Stop, Value, content_hash,
};

/// How far a step may pass its limit by rounding alone, as a ratio.
const STEP_ROUNDING: f64 = 1e-9;

/// Returns what `promotion` risks in `domain`, and every reason that raises it above low.
///
/// The domain's name says the least risk it has; its file may raise that and never lower it. A value outside the
/// bounds, a step beyond the largest one, a knob that cannot be turned back and one that gives something away are high.
pub fn risk(promotion: &Promotion, domain: &Domain) -> (Risk, Vec<String>) {
    let mut risk = Risk::Low;
    let mut reasons = Vec::new();
    let mut raise = |to: Risk, reason: String| {
        if to > Risk::Low {
            risk = risk.max(to);
            reasons.push(reason);
        }
    };
    let name = &domain.name;
    raise(risk_of_domain(name), format!("domain {name} is {} risk", risk_of_domain(name)));
    if let Some(own) = domain.risk.filter(|own| *own > risk_of_domain(name)) {
        raise(own, format!("the file of domain {name} says {own} risk"));
    }
    for what in domain.given_away(promotion) {
        raise(Risk::High, what);
    }
    for (key, change) in &promotion.changes {
        let Some(knob) = domain.knobs.get(key) else {
            raise(Risk::High, format!("{key} is not a knob of domain {name}"));
            continue;
        };
        if let Some(why) = knob.range.refuses(&change.to) {
            raise(Risk::High, format!("{key}: {why}"));
        }
        if !knob.reversible {
            raise(Risk::High, format!("{key} cannot be turned back"));
        }
        if let Some((factor, factor_max)) = step_beyond(knob, change) {
            raise(Risk::High, format!("{key} moves by a factor of {factor:.1}, {factor_max} is the largest step"));
        }
    }
    (risk, reasons)
}

fn risk_of_domain(name: &str) -> Risk {
    match name {
        "vllm" | "tts" | "conversation" => Risk::Medium,
        "system" | "kernel" | "network" => Risk::High,
        _ => Risk::Low,
    }
}

/// Returns the factor by which `change` moves its number and the largest one allowed, when it is beyond that.
fn step_beyond(knob: &Knob, change: &Change) -> Option<(f64, f64)> {
    let factor_max = knob.step_max?;
    let number = |value: &Value| if matches!(value, Value::Boolean(_)) { None } else { value.as_number() };
    // Where nothing says what it is, it should be what the domain file says of a silent env file.
    let from = number(change.from.as_ref().unwrap_or(&knob.default))?;
    let to = number(&change.to)?;
    if from == to {
        return None;
    }
    let ratio = to / from;
    // From zero, to zero and across zero there is no factor: such a step is beyond any.
    let factor = if ratio.is_finite() && ratio > 0.0 { ratio.max(1.0 / ratio) } else { f64::INFINITY };
    let is_within = factor <= factor_max * (1.0 + STEP_ROUNDING);
    (!is_within).then_some((factor, factor_max))
}

/// Returns everything for which `promotion` may not go on, at no level and with nobody's approval; nothing when it may.
pub fn refusals(promotion: &Promotion, domain: &Domain) -> Vec<String> {
    let mut refusals = Vec::new();
    if promotion.domain != domain.name {
        refusals.push(format!("it is for domain {}, not for {}", promotion.domain, domain.name));
    }
    if promotion.changes.is_empty() {
        refusals.push("it changes nothing".to_owned());
    }
    for (key, change) in &promotion.changes {
        if is_protected(key) {
            refusals.push(format!("{key} is protected: no promotion may set it"));
            continue;
        }
        match domain.knobs.get(key) {
            None => refusals.push(format!("{key} is not a knob of domain {}", domain.name)),
            Some(knob) => refusals.extend(knob.range.refuses(&change.to).map(|why| format!("{key}: {why}"))),
        }
        if !is_plain(&change.to) {
            refusals
                .push(format!("{key}: the value holds characters that a shell or an env file reads as more than text"));
        }
    }
    let changes_nothing = |change: &Change| change.from.as_ref() == Some(&change.to);
    if !promotion.changes.is_empty() && promotion.changes.values().all(changes_nothing) {
        refusals.push("it changes nothing: every new value is the old one".to_owned());
    }
    refusals
}

/// Returns whether no promotion may ever set `key`, whatever a domain file allows: keys that steer kloros itself, what
/// programs are loaded, where traffic goes, or that hold secrets.
pub fn is_protected(key: &Key) -> bool {
    const NAMES: [&str; 14] = [
        "PATH",
        "HOME",
        "SHELL",
        "IFS",
        "ENV",
        "BASH_ENV",
        "USER",
        "LOGNAME",
        "TMPDIR",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "NODE_OPTIONS",
        "JAVA_TOOL_OPTIONS",
        "PROXY",
    ];
    const PREFIXES: [&str; 7] = ["KLR_", "KLOROS_", "LD_", "DYLD_", "PYTHON", "PERL5", "RUBY"];
    const SECRETS: [&str; 8] = ["TOKEN", "KEY", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIALS", "PROXY"];
    // Some programs read `http_proxy`, others `HTTP_PROXY`.
    let name = key.as_str().to_ascii_uppercase();
    let holds_a_secret =
        |word: &&str| name.strip_suffix(*word).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'));
    NAMES.contains(&name.as_str())
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || SECRETS.iter().any(holds_a_secret)
}

/// Returns whether `value` is the same text to an env file, a shell and systemd.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Boolean(_) | Value::Integer(_) => true,
        Value::Float(number) => number.is_finite(),
        Value::Choice(text) => {
            let is_special = |each: char| each.is_control() || "$`\"'\\#".contains(each);
            !text.is_empty() && text.trim() == text && !text.contains(is_special)
        }
    }
}

/// What a ruling depends on beside the promotion and the past.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The autonomy level in force.
    pub level: Autonomy,
    /// What was said when everything was stopped, if it is.
    pub stop: Option<&'a Stop>,
    /// The time, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// How far local time is ahead of UTC, in seconds.
    pub utc_offset_s: i32,
    /// What it takes to judge a change.
    pub scales: Scales,
}

/// Rules on `promotion`: held back, refused, held for a person, given as advice, or let through.
///
/// The order is that of the design: stop, freeze window, allow-list with types and bounds, budgets, then whether a person
/// is asked. What an earlier step holds or refuses no later one mends.
pub fn inspect(
    promotion: &Promotion,
    domain: &Domain,
    history: &History,
    circumstances: &Circumstances<'_>,
    config: &Config,
) -> Ruling {
    let id = || promotion.id.clone();
    let hold = |(held, why)| Ruling::Hold { promotion: id(), held, why };
    let Circumstances { level, stop, now_ms, utc_offset_s, .. } = *circumstances;
    if let Some(stop) = stop {
        return hold((Held::Stopped, stop.to_string()));
    }
    // Advice changes nothing, so it needs no good time for it.
    let window = in_force(&config.freeze, now_ms, utc_offset_s).filter(|_| !config.advice);
    if let Some(window) = window {
        return hold((Held::FreezeWindow, format!("nothing new is deployed now: gate.freeze says {window}")));
    }
    if is_a_trial(promotion) && domain.in_place.is_none() {
        let why = "the domain is not measured in place any more".to_owned();
        return Ruling::Refuse { promotion: id(), why };
    }
    let refusals = refusals(promotion, domain);
    if !refusals.is_empty() {
        return Ruling::Refuse { promotion: id(), why: refusals.join("; ") };
    }
    if let Some(held) = over_budget(promotion, history, config, now_ms).filter(|_| !config.advice) {
        return hold(held);
    }
    match fit::weighable(promotion, domain, history, circumstances) {
        Err(_) if config.advice => {}
        Err(Unweighable::NotYet(why)) => return hold((Held::Uncalibrated, why)),
        Err(Unweighable::Never(why)) => return Ruling::Refuse { promotion: id(), why },
        Ok(()) => {}
    }
    let (risk, reasons) = risk(promotion, domain);
    let why = why_ask(promotion, domain, history, level, (risk, &reasons));
    if config.advice && is_a_trial(promotion) {
        let why = "gate.advice is on, and to measure in place would change the service".to_owned();
        return Ruling::Refuse { promotion: id(), why };
    }
    if config.advice {
        return Ruling::Advise { promotion: id(), risk, level, why: why.unwrap_or_default() };
    }
    match why {
        // A person is asked in the daytime what is done at night.
        None => match fit::waits_for(promotion, domain, history, circumstances) {
            Some(waits) => hold(waits),
            None => Ruling::Allow { promotion: id(), risk, level },
        },
        Some(why) => {
            let until_ms = now_ms.saturating_add(config.approval_expires_s.saturating_mul(1000));
            let binding = binding(promotion, domain, config);
            Ruling::Ask { promotion: id(), risk, level, why, binding, until_ms }
        }
    }
}

/// Returns why a service that is lent for `promotion` has to go back; `None` while it may stay lent, on a person's yes or on
/// the level in force.
pub fn recalls(
    promotion: &Promotion,
    domain: &Domain,
    circumstances: &Circumstances<'_>,
    config: &Config,
    yes: Option<&str>,
) -> Option<String> {
    let Circumstances { level, stop, now_ms, utc_offset_s, .. } = *circumstances;
    if let Some(stop) = stop {
        return Some(stop.to_string());
    }
    if let Some(window) = in_force(&config.freeze, now_ms, utc_offset_s) {
        return Some(format!("nothing is tried now: gate.freeze says {window}"));
    }
    if config.advice {
        return Some("gate.advice is on".to_owned());
    }
    let refusals = refusals(promotion, domain);
    if !refusals.is_empty() {
        return Some(refusals.join("; "));
    }
    let (risk, _) = risk(promotion, domain);
    match yes {
        Some(bound) if bound == binding(promotion, domain, config) => None,
        Some(_) => Some("it was approved under another policy".to_owned()),
        None if gives_away(promotion, domain).is_some() => gives_away(promotion, domain),
        None if autonomy::rule(level, risk) => None,
        None => Some(format!("{risk} risk asks a person at autonomy level {}", u8::from(level))),
    }
}

/// Returns whether it asks for a loan of the serving instance, and not for a change that stays.
pub fn is_a_trial(promotion: &Promotion) -> bool {
    matches!(promotion.origin, Origin::Trials(_))
}

/// Returns what a yes to `promotion` is bound to: the SHA-256 of the plan with its base, of what the domain allows, and of
/// the settings of the gate. A yes given to anything else is none.
pub fn binding(promotion: &Promotion, domain: &Domain, config: &Config) -> String {
    let Promotion { id, changes, settings, origin, .. } = promotion;
    let rules: Vec<_> = changes.keys().map(|key| (key, domain.knobs.get(key))).collect();
    let (env_file, in_place) = (&domain.service.env_file, &domain.in_place);
    // Each of these is plain data with text for its keys, of which there is JSON.
    let rules = (&domain.name, domain.risk, env_file, rules, in_place);
    let text = serde_json::to_vec(&(id, changes, settings, origin, rules, config));
    text.map(|text| content_hash(&text)).unwrap_or_default()
}

/// Returns what `promotion` has to wait for, whoever wants it.
fn over_budget(promotion: &Promotion, history: &History, config: &Config, now_ms: u64) -> Option<(Held, String)> {
    let domain = &promotion.domain;
    if let Some(pending) = history.pending(domain) {
        return Some((Held::Pending, format!("{pending} changes {domain} already and is not brought to its end")));
    }
    // How often a service is restarted for trials has a limit of its own.
    let is_change = !is_a_trial(promotion);
    let (hour, hour_max) = (history.deployments_last_hour(domain, now_ms), config.deployments_per_hour_max);
    if is_change && hour >= hour_max as usize {
        return Some((Held::Budget, format!("{domain} saw {hour} deployments within an hour, {hour_max} are allowed")));
    }
    let (day, day_max) = (history.deployments_last_day(now_ms), config.deployments_per_day_max);
    if is_change && day >= day_max as usize {
        return Some((Held::Budget, format!("this host saw {day} deployments within a day, {day_max} are allowed")));
    }
    let (undone, undone_max) = (history.rollbacks_last_day(domain, now_ms), config.rollbacks_per_day_max);
    if undone >= undone_max as usize {
        let why = format!("{domain} is frozen after {undone} rollbacks within a day: kloros thaw {domain}");
        return Some((Held::Frozen, why));
    }
    // Who edits a key may of course propose another value for it.
    if matches!(promotion.origin, Origin::Person(_)) {
        return None;
    }
    let cool_down_ms = config.edit_cool_down_s.saturating_mul(1000);
    let is_warm =
        |key: &&Key| history.edited_ms(domain, key).is_some_and(|at_ms| at_ms.saturating_add(cool_down_ms) > now_ms);
    let key = promotion.changes.keys().find(is_warm)?;
    let hours = config.edit_cool_down_s as f64 / 3600.0;
    Some((Held::CoolDown, format!("{key} was edited by hand less than {hours} h ago, and is left alone for so long")))
}

fn why_ask(
    promotion: &Promotion,
    domain: &Domain,
    history: &History,
    level: Autonomy,
    (risk, reasons): (Risk, &[String]),
) -> Option<String> {
    if let Some(why) = gives_away(promotion, domain) {
        return Some(why);
    }
    // What a loan names is how far is gone, and no settings.
    if !is_a_trial(promotion)
        && let Some(says) = history.lesson_against(&promotion.fingerprint())
    {
        return Some(format!("these settings were tried before: {says}"));
    }
    if autonomy::rule(level, risk) {
        return None;
    }
    let level = u8::from(level);
    let because = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
    Some(format!("{risk} risk asks a person at autonomy level {level}{because}"))
}

/// Returns why a person has to say yes to `promotion` at every level: what it would give away.
fn gives_away(promotion: &Promotion, domain: &Domain) -> Option<String> {
    let given_away = domain.given_away(promotion);
    let what = || format!("{}; a person has to say yes to that at every autonomy level", given_away.join("; "));
    (!given_away.is_empty()).then(what)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use proptest::prelude::*;

    use super::*;
    use crate::facts::{
        Apply, Authority, BenchSpec, CycleId, Deployment, DeploymentId, ExperimentId, Isolation, KnobKind, Lesson,
        Manager, Metrics, PromotionId, ReadBack, Ready, Reason, Ruled, ServiceSpec, Step, Thaw, Trades, Verdict,
    };

    const HOUR_MS: u64 = 3_600_000;

    const DAY_MS: u64 = 24 * HOUR_MS;

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

    fn domain(name: &str) -> Domain {
        let seqs = knob(KnobKind::Integer { min: 1, max: 64, log: true, step: None }, Value::Integer(2));
        let share = knob(KnobKind::Float { min: 0.1, max: 0.9, log: false, step: None }, Value::Float(0.5));
        let eights = knob(KnobKind::Integer { min: 8, max: 64, log: false, step: Some(8) }, Value::Integer(16));
        let sizes = [1, 2, 4, 16].map(Value::Integer).to_vec();
        let size = knob(KnobKind::Ordinal { values: sizes }, Value::Integer(2));
        let kind = knob(KnobKind::Choice { values: vec!["auto".into(), "$(id)".into()] }, Value::Choice("auto".into()));
        Domain {
            name: name.into(),
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
                (key("SEQS"), seqs.clone()),
                (key("SHARE"), share),
                (key("KIND"), kind),
                (key("STEPPED"), Knob { step_max: Some(2.0), ..seqs.clone() }),
                (key("ONE_WAY"), Knob { reversible: false, ..seqs.clone() }),
                (key("FEWER_COPIES"), Knob { trades: Some(Trades::Durability), ..seqs.clone() }),
                (key("CTX_SIZE"), seqs.clone()),
                (key("LD_PRELOAD"), seqs),
                (key("EIGHTS"), eights),
                (key("SIZE"), Knob { step_max: Some(2.0), ..size }),
            ]),
            bench: BenchSpec::Command { argv: Vec::new(), timeout_s: 1 },
            metrics: BTreeMap::new(),
            objectives: Vec::new(),
            quiet: None,
            needs: None,
        }
    }

    fn promotion(domain: &str, changes: &[(&str, Option<Value>, Value)]) -> Promotion {
        Promotion {
            id: PromotionId::new("p-1"),
            cycle: CycleId::new("c-1"),
            origin: Origin::Person(0),
            experiment: "x".into(),
            question: None,
            hypothesis: None,
            domain: domain.into(),
            changes: changes
                .iter()
                .map(|(name, from, to)| {
                    let (in_file, from) = (from.is_some(), from.clone().unwrap_or(Value::Integer(2)));
                    (key(name), Change { from: Some(from), in_file, to: to.clone() })
                })
                .collect(),
            settings: changes.iter().map(|(name, _, to)| (key(name), to.clone())).collect(),
            replaces: None,
            fitness: None,
            at_ms: 0,
            depth: 0,
        }
    }

    fn seqs(domain: &str, to: i64) -> Promotion {
        promotion(domain, &[("SEQS", Some(Value::Integer(2)), Value::Integer(to))])
    }

    fn verdict(number: usize, outcome: Ruled, reason: Reason, at_ms: u64) -> Verdict {
        Verdict {
            deployment: DeploymentId::new(format!("d-{number}")),
            cycle: CycleId::new("c-1"),
            experiment: "x".into(),
            domain: "lab".into(),
            question: None,
            hypothesis: None,
            changes: BTreeMap::new(),
            outcome,
            reason,
            improvement: None,
            before: Metrics::new(),
            after: Metrics::new(),
            blocks: 6,
            samples: 100,
            runs: 0,
            baseline: None,
            at_ms,
        }
    }

    fn lesson(promotion: &Promotion, number: usize, outcome: Ruled, avoid: bool) -> Lesson {
        Lesson {
            cycle: CycleId::new("c-1"),
            domain: promotion.domain.clone(),
            question: None,
            hypothesis: None,
            fingerprint: promotion.fingerprint(),
            verdict: verdict(number, outcome, Reason::Worse, 0),
            interest_change: 0.0,
            rest_until_ms: 0,
            avoid,
            says: "lab: SEQS 2 -> 60 made it 40 % worse (-45 to -35 %), undone".into(),
        }
    }

    const SCALES: Scales =
        Scales { runs_min: 24, blocks_max: 60, loss_max: 0.05, calibrated_for_s: None, calibrate_attempts_max: 2 };

    fn inspect_at(level: Autonomy, promotion: &Promotion, history: &History, now_ms: u64) -> Ruling {
        let circumstances = Circumstances { level, stop: None, now_ms, utc_offset_s: 0, scales: SCALES };
        inspect(promotion, &domain(&promotion.domain), history, &circumstances, &Config::default())
    }

    #[track_caller]
    fn check_held(ruling: &Ruling, for_what: Held, part: &str) {
        let Ruling::Hold { held, why, .. } = ruling else { panic!("{ruling:?} does not hold it back") };
        assert_eq!(*held, for_what);
        assert!(why.contains(part), "{why}");
    }

    fn deployment(number: u64, domain: &str, at_ms: u64) -> Deployment {
        let (promotion, authority) = (seqs(domain, 4), Authority::Policy(Autonomy::Full));
        Deployment { id: DeploymentId::new(format!("d-{number}")), promotion, authority, at_ms }
    }

    /// Returns the past of deployments that were each brought to their end.
    fn history_of(deployments: &[(&str, u64)]) -> History {
        let mut history = History::default();
        for ((domain, at_ms), number) in deployments.iter().zip(0..) {
            let deployment = deployment(number, domain, *at_ms);
            history.deployed(&deployment);
            history.deployed(&deployment);
            history.stepped(&deployment.id, &Step::Closed);
        }
        history
    }

    #[track_caller]
    fn check_asks_because(ruling: &Ruling, part: &str) {
        let Ruling::Ask { why, .. } = ruling else { panic!("{ruling:?} does not ask") };
        assert!(why.contains(part), "{why}");
    }

    #[test]
    fn a_value_between_the_steps_or_beside_the_list_of_its_knob_goes_through_at_no_level() {
        let table = [
            ("EIGHTS", Value::Integer(24), None),
            ("EIGHTS", Value::Integer(20), Some("EIGHTS: 20 is on no step of 8 from 8")),
            ("SIZE", Value::Integer(4), None),
            ("SIZE", Value::Integer(8), Some("SIZE: 8 is not one of 1, 2, 4, 16")),
            ("SIZE", Value::Choice("4".into()), Some("SIZE: 4 is not one of 1, 2, 4, 16")),
        ];
        for (name, to, expected) in table {
            let promotion = promotion("lab", &[(name, None, to.clone())]);
            let refusals = refusals(&promotion, &domain("lab"));
            assert_eq!(refusals.first().map(String::as_str), expected, "{name} {to}");
            assert_eq!(risk(&promotion, &domain("lab")).0 == Risk::High, expected.is_some(), "{name} {to}");
        }
    }

    #[test]
    fn a_list_of_numbers_moves_by_factors_as_a_range_does() {
        let to = |size: i64| promotion("lab", &[("SIZE", Some(Value::Integer(2)), Value::Integer(size))]);
        assert_eq!(risk(&to(4), &domain("lab")).0, Risk::Low);
        assert_eq!(risk(&to(16), &domain("lab")).0, Risk::High);
    }

    #[test]
    fn the_name_of_a_domain_says_its_least_risk() {
        let table = [
            ("vllm", Risk::Medium),
            ("tts", Risk::Medium),
            ("conversation", Risk::Medium),
            ("system", Risk::High),
            ("kernel", Risk::High),
            ("network", Risk::High),
            ("lab", Risk::Low),
            ("anything_else", Risk::Low),
        ];
        for (name, expected) in table {
            assert_eq!(risk(&seqs(name, 4), &domain(name)).0, expected, "{name}");
        }
    }

    #[test]
    fn what_gives_something_away_asks_a_person_at_every_level_and_what_does_not_asks_for_it_no_more() {
        const DURABILITY: &str =
            "FEWER_COPIES trades durability: what was confirmed may be lost when the machine fails";
        const CONTEXT: &str = "CTX_SIZE trades context: how much a request may be about changes";
        let to = |keys: &[(&str, i64)]| {
            let changes: Vec<_> = keys.iter().map(|(name, to)| (*name, None, Value::Integer(*to))).collect();
            promotion("lab", &changes)
        };
        // What a knob already has is not given away by it; each of these has 2.
        let table = [
            (to(&[("FEWER_COPIES", 4)]), vec![DURABILITY]),
            (to(&[("FEWER_COPIES", 1)]), vec![DURABILITY]),
            (to(&[("CTX_SIZE", 4)]), vec![CONTEXT]),
            (to(&[("FEWER_COPIES", 4), ("CTX_SIZE", 4), ("SEQS", 4)]), vec![DURABILITY, CONTEXT]),
            (to(&[("SEQS", 4)]), vec![]),
            (to(&[("SEQS", 4), ("FEWER_COPIES", 2)]), vec![]),
        ];
        let levels = [Autonomy::Manual, Autonomy::Cautious, Autonomy::Trusted, Autonomy::Full];
        for (promotion, given_away) in table {
            for origin in [Origin::Person(0), Origin::Experiment(ExperimentId::new("x-1")), Origin::File("x".into())] {
                let promotion = Promotion { origin, ..promotion.clone() };
                let is_high = risk(&promotion, &domain("lab")).0 == Risk::High;
                assert_eq!(is_high, !given_away.is_empty(), "{promotion:?}");
                for level in levels {
                    let ruling = inspect_at(level, &promotion, &History::default(), 0);
                    if given_away.is_empty() {
                        assert_eq!(matches!(ruling, Ruling::Ask { .. }), level == Autonomy::Manual, "{ruling:?}");
                        continue;
                    }
                    for what in &given_away {
                        check_asks_because(&ruling, what);
                    }
                    check_asks_because(&ruling, "a person has to say yes to that at every autonomy level");
                }
            }
        }
    }

    #[test]
    fn a_service_is_lent_for_what_gives_something_away_on_a_persons_yes_alone() {
        let config = Config::default();
        let promotion = promotion("lab", &[("FEWER_COPIES", None, Value::Integer(4))]);
        let (domain, level) = (domain("lab"), Autonomy::Full);
        let circumstances = Circumstances { level, stop: None, now_ms: 0, utc_offset_s: 0, scales: SCALES };
        let recalled = |yes| recalls(&promotion, &domain, &circumstances, &config, yes);
        assert!(recalled(None).unwrap().contains("FEWER_COPIES trades durability"));
        assert_eq!(recalled(Some(&binding(&promotion, &domain, &config))), None);
    }

    #[test]
    fn a_domain_file_raises_the_risk_and_never_lowers_it() {
        let table = [
            ("lab", Risk::Medium, Risk::Medium),
            ("lab", Risk::High, Risk::High),
            ("vllm", Risk::Low, Risk::Medium),
            ("vllm", Risk::High, Risk::High),
            ("system", Risk::Medium, Risk::High),
        ];
        for (name, own, expected) in table {
            let domain = Domain { risk: Some(own), ..domain(name) };
            assert_eq!(risk(&seqs(name, 4), &domain).0, expected, "{name} {own}");
        }
    }

    #[test]
    fn a_change_beyond_the_bounds_or_without_a_way_back_is_high_risk() {
        let number = Value::Integer;
        let table = [
            ("SEQS", Some(number(2)), number(65), Risk::High),
            ("SEQS", Some(number(2)), number(64), Risk::Low),
            ("ONE_WAY", Some(number(2)), number(4), Risk::High),
            ("STEPPED", Some(number(2)), number(4), Risk::Low),
            ("STEPPED", Some(number(2)), number(5), Risk::High),
            ("STEPPED", Some(number(8)), number(4), Risk::Low),
            ("STEPPED", Some(number(8)), number(3), Risk::High),
            // What the file does not name moves from what the service said.
            ("STEPPED", None, number(4), Risk::Low),
            ("STEPPED", None, number(5), Risk::High),
            ("STEPPED", Some(number(0)), number(1), Risk::High),
            ("STEPPED", Some(number(-1)), number(1), Risk::High),
            ("STEPPED", Some(number(0)), number(0), Risk::High),
        ];
        for (name, from, to, expected) in table {
            let promotion = promotion("lab", &[(name, from, to)]);
            assert_eq!(risk(&promotion, &domain("lab")).0, expected, "{promotion:?}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_refused_whatever_the_level() {
        let two = || Some(Value::Integer(2));
        let table = [
            (promotion("lab", &[]), "changes nothing"),
            (promotion("lab", &[("SEQS", two(), Value::Integer(2))]), "changes nothing"),
            (promotion("lab", &[("OTHER", None, Value::Integer(2))]), "OTHER is not a knob of domain lab"),
            (promotion("lab", &[("SEQS", two(), Value::Integer(65))]), "65 is outside 1 to 64"),
            (promotion("lab", &[("SEQS", two(), Value::Choice("4".into()))]), "not a whole number"),
            (promotion("lab", &[("SEQS", two(), Value::Float(4.0))]), "not a whole number"),
            (promotion("lab", &[("SHARE", None, Value::Float(f64::NAN))]), "SHARE"),
            // Not even a domain file that allows it makes these possible.
            (promotion("lab", &[("LD_PRELOAD", two(), Value::Integer(4))]), "LD_PRELOAD is protected"),
            (promotion("lab", &[("KIND", None, Value::Choice("$(id)".into()))]), "KIND: the value holds"),
        ];
        for (promotion, part) in table {
            let ruling = inspect_at(Autonomy::Full, &promotion, &History::default(), 0);
            let Ruling::Refuse { why, .. } = &ruling else { panic!("{ruling:?} does not refuse") };
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn a_promotion_is_held_against_its_own_domain() {
        assert_eq!(refusals(&seqs("tts", 4), &domain("lab")), ["it is for domain tts, not for lab"]);
    }

    #[test]
    fn keys_that_steer_programs_or_hold_secrets_are_protected() {
        for name in [
            "KLR_AUTONOMY_LEVEL",
            "KLR_ANYTHING",
            "KLOROS_HOME",
            "PATH",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "HF_TOKEN",
            "API_KEY",
            "CLIENT_SECRET",
            "DB_PASSWORD",
            "TOKEN",
            "http_proxy",
            "HTTPS_PROXY",
            "no_proxy",
            "ld_preload",
            "hf_token",
        ] {
            assert!(is_protected(&key(name)), "{name}");
        }
        for name in ["LAB_MAX_NUM_SEQS", "LAB_MAX_TOKENS", "MONKEY", "LAB_KEYS", "VLLM_GPU_SHARE", "PATHS"] {
            assert!(!is_protected(&key(name)), "{name}");
        }
    }

    #[test]
    fn a_medium_risk_waits_at_level_1_and_goes_through_at_level_2() {
        let promotion = seqs("vllm", 4);
        check_asks_because(
            &inspect_at(Autonomy::Cautious, &promotion, &History::default(), 0),
            "medium risk asks a person at autonomy level 1: domain vllm is medium risk",
        );
        let ruling = inspect_at(Autonomy::Trusted, &promotion, &History::default(), 0);
        assert_eq!(
            ruling,
            Ruling::Allow { promotion: promotion.id.clone(), risk: Risk::Medium, level: Autonomy::Trusted }
        );
    }

    #[test]
    fn a_person_has_until_the_approval_expires() {
        let Ruling::Ask { until_ms, .. } = inspect_at(Autonomy::Manual, &seqs("lab", 4), &History::default(), 5) else {
            panic!("level 0 did not ask")
        };
        assert_eq!(until_ms, 3_600_005);
    }

    #[test]
    fn a_domain_that_saw_its_deployments_of_the_hour_waits_at_every_level_and_holds_up_no_other() {
        let history = history_of(&[("lab", 0), ("lab", 1)]);
        let held = inspect_at(Autonomy::Full, &seqs("lab", 4), &history, 10);
        check_held(&held, Held::Budget, "lab saw 2 deployments within an hour, 2 are allowed");
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("tts", 4), &history, 10), Ruling::Allow { .. }));
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("lab", 4), &history, HOUR_MS), Ruling::Allow { .. }));
    }

    #[test]
    fn a_host_that_saw_its_deployments_of_the_day_waits_whichever_domains_they_were_of() {
        let history = history_of(&[("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 0), ("f", 0)]);
        let held = inspect_at(Autonomy::Full, &seqs("lab", 4), &history, 2 * HOUR_MS);
        check_held(&held, Held::Budget, "this host saw 6 deployments within a day, 6 are allowed");
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("lab", 4), &history, DAY_MS), Ruling::Allow { .. }));
    }

    #[test]
    fn a_domain_is_changed_by_one_deployment_at_a_time() {
        let mut history = History::default();
        let first = deployment(1, "lab", 0);
        history.deployed(&first);
        history.stepped(&first.id, &Step::Judged(Ruled::Rollback));
        check_held(
            &inspect_at(Autonomy::Full, &seqs("lab", 9), &history, 10),
            Held::Pending,
            "d-1 changes lab already",
        );
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("tts", 9), &history, 10), Ruling::Allow { .. }));
        history.stepped(&first.id, &Step::Closed);
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("lab", 9), &history, 10), Ruling::Allow { .. }));
    }

    #[test]
    fn a_domain_that_was_rolled_back_too_often_is_frozen_until_a_day_is_over_or_a_person_thaws_it() {
        let mut history = History::default();
        for number in 0..6 {
            history.judged(&verdict(number, Ruled::Rollback, Reason::Person { uid: 0 }, 0));
            history.judged(&verdict(number + 10, Ruled::Neutral, Reason::InBetween, 0));
            history.judged(&verdict(number + 20, Ruled::Rollback, Reason::Stopped { why: "stop".to_owned() }, 0));
            history.judged(&verdict(number + 50, Ruled::Rollback, Reason::WindowEnded, 0));
        }
        assert_eq!(history.rollbacks_last_day("lab", 0), 0);
        for number in 30..33 {
            history.judged(&verdict(number, Ruled::Rollback, Reason::Worse, 5));
        }
        let held = inspect_at(Autonomy::Full, &seqs("lab", 4), &history, 10);
        check_held(&held, Held::Frozen, "lab is frozen after 3 rollbacks within a day: kloros thaw lab");
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("lab", 4), &history, DAY_MS + 5), Ruling::Allow { .. }));
        history.thawed(&Thaw { domain: "lab".to_owned(), by_uid: 0 }, 20);
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("lab", 4), &history, 30), Ruling::Allow { .. }));
        history.judged(&verdict(40, Ruled::Rollback, Reason::Worse, 25));
        assert_eq!(history.rollbacks_last_day("lab", 30), 1);
    }

    #[test]
    fn a_key_that_a_person_edited_is_left_alone_for_a_day_unless_a_person_asks_for_it() {
        let (mut history, lab) = (History::default(), domain("lab"));
        let file = |seqs: &str| [(key("SEQS"), Some(seqs.to_owned())), (key("SHARE"), None)].into();
        let first = history.unseen(&lab, &file("2")).unwrap();
        assert!(first.edited.is_empty(), "what is seen for the first time is no edit");
        history.adopted(&first, 5);
        assert_eq!(history.unseen(&lab, &file("2")), None);
        assert_eq!(
            history.unseen(&lab, &file("02")).map_or(0, |adoption| adoption.edited.len()),
            0,
            "another spelling"
        );
        let edit = history.unseen(&lab, &file("8")).unwrap();
        assert_eq!(edit.edited.iter().collect::<Vec<_>>(), [&key("SEQS")]);
        history.adopted(&edit, 10);
        let from_experiment = Promotion { origin: Origin::File("w.json".to_owned()), ..seqs("lab", 4) };
        let held = inspect_at(Autonomy::Full, &from_experiment, &history, 20);
        check_held(&held, Held::CoolDown, "SEQS was edited by hand less than 24 h ago");
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("lab", 4), &history, 20), Ruling::Allow { .. }));
        assert!(matches!(inspect_at(Autonomy::Full, &from_experiment, &history, DAY_MS + 10), Ruling::Allow { .. }));
    }

    #[test]
    fn what_kloros_leaves_in_the_file_itself_is_no_edit() {
        let (mut history, lab) = (History::default(), domain("lab"));
        let file = |seqs: &str| [(key("SEQS"), Some(seqs.to_owned()))].into();
        history.adopted(&history.unseen(&lab, &file("2")).unwrap(), 5);
        let kept = Verdict { changes: seqs("lab", 4).changes, ..verdict(1, Ruled::Neutral, Reason::InBetween, 0) };
        history.judged(&kept);
        assert_eq!(history.unseen(&lab, &file("4")), None);
        let undone = Verdict { changes: seqs("lab", 9).changes, ..verdict(2, Ruled::Rollback, Reason::Worse, 0) };
        history.judged(&undone);
        assert_eq!(history.unseen(&lab, &file("4")), None, "after an undo the file holds what it held");
    }

    #[test]
    fn the_checks_come_in_the_order_of_the_design_and_no_level_skips_one() {
        let (mut history, lab) = (history_of(&[("lab", 0), ("lab", 0)]), domain("lab"));
        let promotion = promotion("lab", &[("LD_PRELOAD", None, Value::Integer(4))]);
        history.learned(&lesson(&promotion, 1, Ruled::Rollback, true));
        let stop = Stop { why: "maintenance".to_owned(), by_uid: Some(7) };
        let every_day = vec!["00:00-24:00".parse().unwrap()];
        let rule = |stop, freeze, advice, promotion: &Promotion, history: &History| {
            let level = Autonomy::Full;
            let circumstances = Circumstances { level, stop, now_ms: 10, utc_offset_s: 0, scales: SCALES };
            inspect(promotion, &lab, history, &circumstances, &Config { advice, freeze, ..Config::default() })
        };
        let none = History::default();
        check_held(&rule(Some(&stop), every_day.clone(), true, &promotion, &history), Held::Stopped, "user 7 stopped");
        check_held(&rule(None, every_day.clone(), false, &promotion, &history), Held::FreezeWindow, "00:00-24:00");
        assert!(matches!(rule(None, vec![], false, &promotion, &history), Ruling::Refuse { .. }));
        check_held(&rule(None, vec![], false, &seqs("lab", 4), &history), Held::Budget, "2 deployments");
        // Advice waits for nothing but a person's stop, and what may not be set is not advised.
        assert!(matches!(rule(None, every_day.clone(), true, &seqs("lab", 4), &history), Ruling::Advise { .. }));
        assert!(matches!(rule(None, every_day, true, &promotion, &history), Ruling::Refuse { .. }));
        assert!(matches!(rule(None, vec![], false, &seqs("lab", 4), &none), Ruling::Allow { .. }));
    }

    /// Lesson 32: thresholds are policy, and what was allowed under others is not allowed under these.
    #[test]
    fn a_yes_is_bound_to_the_plan_its_base_and_the_policy() {
        let (config, lab) = (Config::default(), domain("lab"));
        let of = |promotion: &Promotion, lab: &Domain, config: &Config| binding(promotion, lab, config);
        let plan = seqs("lab", 4);
        let own = of(&plan, &lab, &config);
        assert_eq!(own, of(&plan, &lab, &config));
        assert_eq!(own.len(), 64);
        let other_base = promotion("lab", &[("SEQS", Some(Value::Integer(3)), Value::Integer(4))]);
        let mut wider = lab.clone();
        wider
            .knobs
            .insert(key("SEQS"), knob(KnobKind::Integer { min: 1, max: 65, log: true, step: None }, Value::Integer(2)));
        let others = [
            of(&seqs("lab", 5), &lab, &config),
            of(&other_base, &lab, &config),
            of(&plan, &wider, &config),
            of(&plan, &Domain { risk: Some(Risk::High), ..lab.clone() }, &config),
            of(&plan, &lab, &Config { autonomy: Autonomy::Full, ..config.clone() }),
            of(&plan, &lab, &Config { rollbacks_per_day_max: 4, ..config.clone() }),
        ];
        assert!(others.iter().all(|other| *other != own), "{others:?}");
    }

    #[test]
    fn settings_that_a_lesson_warns_of_ask_a_person_at_every_level_until_they_prove_well() {
        let bad = seqs("lab", 60);
        let mut history = History::default();
        history.learned(&lesson(&bad, 1, Ruled::Rollback, true));
        check_asks_because(&inspect_at(Autonomy::Full, &bad, &history, 0), "made it 40 % worse");
        // The base and the experiment do not matter, the target does.
        let same = promotion("lab", &[("SEQS", None, Value::Integer(60))]);
        check_asks_because(&inspect_at(Autonomy::Full, &same, &history, 0), "tried before");
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("lab", 59), &history, 0), Ruling::Allow { .. }));
        // A crash says nothing about the settings, so it does not lift the warning.
        history.learned(&lesson(&bad, 2, Ruled::Rollback, false));
        assert!(history.lesson_against(&bad.fingerprint()).is_some());
        history.learned(&lesson(&bad, 3, Ruled::Success, false));
        assert!(matches!(inspect_at(Autonomy::Full, &bad, &history, 0), Ruling::Allow { .. }));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::Boolean),
            any::<i64>().prop_map(Value::Integer),
            (0_i64..70).prop_map(Value::Integer),
            any::<f64>().prop_map(Value::Float),
            any::<String>().prop_map(Value::Choice),
        ]
    }

    proptest! {
        #[test]
        fn what_is_allowed_is_on_the_list_in_range_and_within_the_level(
            names in prop::collection::vec("SEQS|SHARE|KIND|STEPPED|ONE_WAY|LD_PRELOAD|OTHER|KLR_X", 0..4),
            values in prop::collection::vec((prop::option::of(any_value()), any_value()), 4),
            domain_name in "lab|vllm|system",
            level in 0_u8..=3,
        ) {
            let changes = names.iter().zip(values).map(|(name, (from, to))| (name.as_str(), from, to)).collect::<Vec<_>>();
            let promotion = promotion(&domain_name, &changes);
            let level = Autonomy::try_from(level).unwrap();
            if let Ruling::Allow { risk, .. } = inspect_at(level, &promotion, &History::default(), 0) {
                prop_assert!(autonomy::rule(level, risk));
                prop_assert!(!promotion.changes.is_empty());
                let domain = domain(&domain_name);
                for (key, change) in &promotion.changes {
                    prop_assert!(!is_protected(key));
                    prop_assert_eq!(domain.knobs[key].range.refuses(&change.to), None);
                }
            }
        }
    }
}
