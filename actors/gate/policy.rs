//! Policy: what a change risks, and what no level lets through.
//!
//! The order is fixed: allow-list, types and bounds; budgets; lessons; risk against autonomy. Nothing later can mend
//! what an earlier step refused, and no level skips a step.

use std::collections::{BTreeMap, VecDeque};

use super::{Config, autonomy};
use crate::facts::{
    Autonomy, Change, Deployment, DeploymentId, Domain, Key, Knob, Lesson, Promotion, Reason, Risk, Ruled, Ruling,
    Value, Verdict,
};

/// How many domains the history knows; the one that was quiet longest is forgotten.
pub const DOMAINS_MAX: usize = 256;

/// How many deployments and how many rollbacks of a domain are remembered; no budget is larger.
pub const EVENTS_MAX: usize = 1000;

/// How many settings that are not to be deployed again are remembered; the oldest is forgotten.
pub const AVOIDED_MAX: usize = 4096;

const HOUR_MS: u64 = 3_600_000;

const DAY_MS: u64 = 24 * HOUR_MS;

/// How far a step may pass its limit by rounding alone, as a ratio.
const STEP_ROUNDING: f64 = 1e-9;

/// Returns what `promotion` risks in `domain`, and every reason that raises it above low.
///
/// The domain's name says the least risk it has; its file may raise that and never lower it. A value outside the
/// bounds, a step beyond the largest one, and a knob that cannot be turned back are high.
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

/// What happened to each domain, and which settings are not to be deployed again; folded from deployments, verdicts
/// and lessons, oldest first. The same fact taken twice counts once.
#[derive(Clone, Debug, Default)]
pub struct History {
    domains: BTreeMap<String, Past>,
    avoided: VecDeque<(String, String)>,
}

#[derive(Clone, Debug, Default)]
struct Past {
    deployments: VecDeque<(DeploymentId, u64)>,
    rollbacks: VecDeque<(DeploymentId, u64)>,
    latest_ms: u64,
}

impl History {
    /// Takes note of a deployment that was planned.
    pub fn deployed(&mut self, deployment: &Deployment) {
        let past = self.past_of(&deployment.promotion.domain, deployment.at_ms);
        remember(&mut past.deployments, &deployment.id, deployment.at_ms);
    }

    /// Takes note of a verdict. What a person undid is no sign that the domain needs one.
    pub fn judged(&mut self, verdict: &Verdict) {
        let is_a_persons = matches!(verdict.reason, Reason::Person { .. } | Reason::HumanOverride { .. });
        if verdict.outcome == Ruled::Rollback && !is_a_persons {
            let past = self.past_of(&verdict.domain, verdict.at_ms);
            remember(&mut past.rollbacks, &verdict.deployment, verdict.at_ms);
        }
    }

    /// Takes a lesson to heart, with the verdict in it. A later lesson in which the same settings were kept lifts an
    /// earlier one against them.
    pub fn learned(&mut self, lesson: &Lesson) {
        self.judged(&lesson.verdict);
        if lesson.avoid || lesson.verdict.outcome != Ruled::Rollback {
            self.avoided.retain(|(fingerprint, _)| *fingerprint != lesson.fingerprint);
        }
        if lesson.avoid {
            self.avoided.push_back((lesson.fingerprint.clone(), lesson.says.clone()));
            if self.avoided.len() > AVOIDED_MAX {
                self.avoided.pop_front();
            }
        }
    }

    /// Returns how many deployments `domain` saw in the hour before `now_ms`.
    pub fn deployments_last_hour(&self, domain: &str, now_ms: u64) -> usize {
        self.domains.get(domain).map_or(0, |past| count_since(&past.deployments, now_ms, HOUR_MS))
    }

    /// Returns how many rollbacks `domain` saw in the day before `now_ms`.
    pub fn rollbacks_last_day(&self, domain: &str, now_ms: u64) -> usize {
        self.domains.get(domain).map_or(0, |past| count_since(&past.rollbacks, now_ms, DAY_MS))
    }

    /// Returns the lesson against settings with this `fingerprint`, in one sentence, if there is one.
    pub fn lesson_against(&self, fingerprint: &str) -> Option<&str> {
        self.avoided.iter().find(|(avoided, _)| avoided == fingerprint).map(|(_, says)| says.as_str())
    }

    fn past_of(&mut self, domain: &str, at_ms: u64) -> &mut Past {
        if !self.domains.contains_key(domain) && self.domains.len() >= DOMAINS_MAX {
            let quietest = self.domains.iter().min_by_key(|(_, past)| past.latest_ms).map(|(name, _)| name.clone());
            quietest.and_then(|name| self.domains.remove(&name));
        }
        let past = self.domains.entry(domain.to_owned()).or_default();
        past.latest_ms = past.latest_ms.max(at_ms);
        past
    }
}

fn remember(events: &mut VecDeque<(DeploymentId, u64)>, deployment: &DeploymentId, at_ms: u64) {
    if events.iter().any(|(known, _)| known == deployment) {
        return;
    }
    events.push_back((deployment.clone(), at_ms));
    if events.len() > EVENTS_MAX {
        events.pop_front();
    }
}

/// Counts what happened in the `window_ms` before `now_ms`. What seems to lie in the future counts too: the clock went
/// back, and a budget is not won by that.
fn count_since(events: &VecDeque<(DeploymentId, u64)>, now_ms: u64, window_ms: u64) -> usize {
    events.iter().filter(|(_, at_ms)| at_ms.saturating_add(window_ms) > now_ms).count()
}

/// Rules on `promotion`: refused, held for a person, or let through at the `level` in force.
pub fn inspect(
    promotion: &Promotion,
    domain: &Domain,
    history: &History,
    level: Autonomy,
    config: &Config,
    now_ms: u64,
) -> Ruling {
    let refusals = refusals(promotion, domain);
    if !refusals.is_empty() {
        return Ruling::Refuse { promotion: promotion.id.clone(), why: refusals.join("; ") };
    }
    let (risk, reasons) = risk(promotion, domain);
    match why_ask(promotion, history, level, risk, &reasons, config, now_ms) {
        None => Ruling::Allow { promotion: promotion.id.clone(), risk, level },
        Some(why) => {
            let until_ms = now_ms.saturating_add(config.approval_expires_s.saturating_mul(1000));
            Ruling::Ask { promotion: promotion.id.clone(), risk, level, why, until_ms }
        }
    }
}

fn why_ask(
    promotion: &Promotion,
    history: &History,
    level: Autonomy,
    risk: Risk,
    reasons: &[String],
    config: &Config,
    now_ms: u64,
) -> Option<String> {
    let domain = &promotion.domain;
    let deployments = history.deployments_last_hour(domain, now_ms);
    let rollbacks = history.rollbacks_last_day(domain, now_ms);
    if deployments >= config.deployments_per_hour_max as usize {
        return Some(format!(
            "{domain} saw {deployments} deployments within an hour, {} are allowed without a person",
            config.deployments_per_hour_max
        ));
    }
    if rollbacks >= config.rollbacks_per_day_max as usize {
        return Some(format!(
            "{domain} saw {rollbacks} rollbacks within a day, from {} on a person is asked",
            config.rollbacks_per_day_max
        ));
    }
    if let Some(says) = history.lesson_against(&promotion.fingerprint()) {
        return Some(format!("these settings were tried before: {says}"));
    }
    if autonomy::rule(level, risk) {
        return None;
    }
    let level = u8::from(level);
    let because = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
    Some(format!("{risk} risk asks a person at autonomy level {level}{because}"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::facts::{
        Apply, Authority, BenchSpec, CycleId, Isolation, KnobKind, Manager, Metrics, Origin, PromotionId, ReadBack,
        Ready, ServiceSpec,
    };

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn knob(range: KnobKind, default: Value) -> Knob {
        Knob { range, default, apply: Apply::Restart, step_max: None, reversible: true }
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
                (key("SEQS"), seqs.clone()),
                (key("SHARE"), share),
                (key("KIND"), kind),
                (key("STEPPED"), Knob { step_max: Some(2.0), ..seqs.clone() }),
                (key("ONE_WAY"), Knob { reversible: false, ..seqs.clone() }),
                (key("LD_PRELOAD"), seqs),
                (key("EIGHTS"), eights),
                (key("SIZE"), Knob { step_max: Some(2.0), ..size }),
            ]),
            bench: BenchSpec::Command { argv: Vec::new(), timeout_s: 1 },
            metrics: BTreeMap::new(),
            objectives: Vec::new(),
            quiet: None,
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

    fn inspect_at(level: Autonomy, promotion: &Promotion, history: &History, now_ms: u64) -> Ruling {
        inspect(promotion, &domain(&promotion.domain), history, level, &Config::default(), now_ms)
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
    fn a_domain_that_saw_its_deployments_of_the_hour_asks_a_person_at_every_level() {
        let mut history = History::default();
        for number in 0..6 {
            let promotion = seqs("lab", 4);
            let authority = Authority::Policy(Autonomy::Full);
            let deployment =
                Deployment { id: DeploymentId::new(format!("d-{number}")), promotion, authority, at_ms: number };
            history.deployed(&deployment);
            history.deployed(&deployment);
            assert_eq!(history.deployments_last_hour("lab", 10), number as usize + 1);
        }
        check_asks_because(&inspect_at(Autonomy::Full, &seqs("lab", 4), &history, 10), "6 deployments within an hour");
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("tts", 4), &history, 10), Ruling::Allow { .. }));
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("lab", 4), &history, HOUR_MS + 5), Ruling::Allow { .. }));
    }

    #[test]
    fn a_domain_that_was_rolled_back_too_often_asks_a_person_and_a_persons_own_undo_does_not_count() {
        let mut history = History::default();
        for number in 0..6 {
            history.judged(&verdict(number, Ruled::Rollback, Reason::Person { uid: 0 }, 0));
            history.judged(&verdict(number + 10, Ruled::Neutral, Reason::InBetween, 0));
        }
        assert_eq!(history.rollbacks_last_day("lab", 0), 0);
        for number in 20..26 {
            history.judged(&verdict(number, Ruled::Rollback, Reason::Worse, 0));
        }
        check_asks_because(&inspect_at(Autonomy::Full, &seqs("lab", 4), &history, 10), "6 rollbacks within a day");
        assert!(matches!(inspect_at(Autonomy::Full, &seqs("lab", 4), &history, DAY_MS), Ruling::Allow { .. }));
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

    #[test]
    fn the_history_is_bounded() {
        let mut history = History::default();
        for number in 0..AVOIDED_MAX + 10 {
            let promotion = Promotion { domain: format!("domain{number}"), ..seqs("lab", 4) };
            history.learned(&lesson(&promotion, number, Ruled::Rollback, true));
            let verdict = Verdict { domain: promotion.domain, ..verdict(number, Ruled::Rollback, Reason::Worse, 0) };
            history.judged(&verdict);
        }
        assert_eq!((history.avoided.len(), history.domains.len()), (AVOIDED_MAX, DOMAINS_MAX));
        assert!(history.domains.values().all(|past| past.rollbacks.len() <= EVENTS_MAX));
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
