//! Hypotheses: what an anomaly is suspected to be, and the experiment that would tell.
//!
//! A hypothesis names subject and kind of trouble, never a measured value: the same trouble is the same question.

use std::collections::BTreeMap;

use super::Config;
use crate::facts::{
    Anomaly, AnomalyKind, Domain, Evidence, ExperimentSpec, Key, Question, QuestionId, Resource, Room, Trouble,
};

/// From which share of what the machine has on a service uses enough of it for its settings to relieve the machine.
const USED_FROM: f64 = 0.1;

/// Returns what `anomaly` is suspected to be, such as `LAB_LATENCY_DEGRADATION` or `GPU_PRESSURE_HIGH`.
///
/// Made of ASCII capitals, digits and underscores; it holds `PRESSURE` or `SATURATION` when a resource runs short and
/// `DEGRADATION` otherwise. The machine is called `SYSTEM`, and so no domain may be.
pub fn hypothesis(anomaly: &Anomaly) -> String {
    let trouble = Trouble::of(&anomaly.subject, &anomaly.metric);
    // GPUs are alike, and what relieves one is the same question as what relieves another.
    if anomaly.is_about_gpu() {
        let name = match trouble {
            Trouble::Hardware => "GPU_HARDWARE_DEGRADATION",
            _ if anomaly.metric.contains("memory") => "GPU_MEMORY_PRESSURE",
            _ => "GPU_PRESSURE_HIGH",
        };
        return name.to_owned();
    }
    if anomaly.subject == "host" {
        let name = match trouble {
            Trouble::Memory => "MEMORY_PRESSURE",
            Trouble::Swap => "SWAP_PRESSURE",
            Trouble::Cpu => "CPU_SATURATION",
            Trouble::Disk => "DISK_PRESSURE",
            _ => "PRESSURE_HIGH",
        };
        return format!("SYSTEM_{name}");
    }
    let name = match trouble {
        Trouble::Errors => "ERROR_RATE_DEGRADATION",
        Trouble::Latency => "LATENCY_DEGRADATION",
        Trouble::Throughput => "THROUGHPUT_DEGRADATION",
        Trouble::Queue => "QUEUE_DEGRADATION",
        Trouble::Cache => "KV_CACHE_PRESSURE",
        Trouble::Memory => "MEMORY_PRESSURE",
        Trouble::Swap => "SWAP_PRESSURE",
        Trouble::Cpu => "CPU_SATURATION",
        Trouble::Disk => "DISK_PRESSURE",
        Trouble::Hardware | Trouble::Pressure => "PRESSURE_HIGH",
        Trouble::Service if anomaly.kind == AnomalyKind::Pressure => "PRESSURE_HIGH",
        Trouble::Service => "SERVICE_DEGRADATION",
    };
    format!("{}_{name}", capitals(&anomaly.subject))
}

/// Returns whether a question is about a resource that runs short, so that its experiment may spend less.
pub fn is_pressure(hypothesis: &str) -> bool {
    hypothesis.contains("PRESSURE") || hypothesis.contains("SATURATION")
}

/// Returns the experiments that could answer `anomaly`, in the order of their names, each with the knobs alone that can act on
/// it; none, and then there is no question.
///
/// Pressure on the host or a GPU is answered in the one domain that can relieve it: kloros can relieve a machine only by tuning what
/// runs on it, and `room` says what that uses. A full disk is no reason for an experiment, which would write to it, and a slow one
/// none either; nor is a network that loses packets or is full, or a broken card, because no settings of a service mend it and
/// nothing measured on it is true.
pub fn answers(
    anomaly: &Anomaly,
    experiments: &BTreeMap<String, ExperimentSpec>,
    domains: &BTreeMap<String, Domain>,
    room: &Room,
) -> Vec<ExperimentSpec> {
    let trouble = Trouble::of(&anomaly.subject, &anomaly.metric);
    let can_act = |spec: &ExperimentSpec| acting(spec, domains.get(&spec.domain), trouble);
    let all = experiments.values();
    if !anomaly.is_about_machine() {
        return all.filter(|spec| spec.domain == anomaly.subject).filter_map(can_act).collect();
    }
    if matches!(trouble, Trouble::Disk | Trouble::Hardware) || anomaly.metric.starts_with("network_") {
        return Vec::new();
    }
    let able: Vec<ExperimentSpec> = all.filter_map(can_act).collect();
    let relieving = able.iter().find(|spec| says_to_relieve(spec, domains.get(&spec.domain), trouble));
    let domain = match relieving {
        Some(spec) => Some(&spec.domain),
        None => largest_user(able.iter().map(|spec| &spec.domain), scarce(anomaly, trouble), room),
    };
    let Some(domain) = domain.cloned() else { return Vec::new() };
    able.into_iter().filter(|spec| spec.domain == domain).collect()
}

/// Returns whether a knob that the experiment turns is there to relieve this trouble, as its owner says.
fn says_to_relieve(spec: &ExperimentSpec, domain: Option<&Domain>, trouble: Trouble) -> bool {
    let knobs = domain.map(|domain| &domain.knobs);
    let mut turned = spec.param_mapping.values().filter_map(|key| knobs?.get(key));
    turned.any(|knob| knob.relieves.contains(&trouble))
}

/// Returns what the machine is short of; `None` where that is no resource of which it is known who uses it.
fn scarce(anomaly: &Anomaly, trouble: Trouble) -> Option<Resource> {
    match trouble {
        _ if anomaly.is_about_gpu() => Some(Resource::GpuMemory),
        Trouble::Memory | Trouble::Swap => Some(Resource::Memory),
        Trouble::Cpu => Some(Resource::Cores),
        _ => None,
    }
}

/// Returns which of `domains` uses most of `resource`, the first of equals; `None` where none uses enough of it to matter.
fn largest_user<'a>(
    domains: impl Iterator<Item = &'a String>,
    resource: Option<Resource>,
    room: &Room,
) -> Option<&'a String> {
    let resource = resource?;
    let least = USED_FROM * room.all.of(resource)?;
    let used = domains.filter_map(|domain| Some((domain, room.live.get(domain)?.of(resource)?)));
    let largest =
        used.filter(|(_, used)| *used >= least).reduce(|most, next| if next.1 > most.1 { next } else { most });
    largest.map(|(domain, _)| domain)
}

/// Returns the experiment without the knobs of `domain` that cannot act on `trouble`; `None` where none can.
///
/// A parameter that a condition, a constraint or a forbidden combination names stays: without it they would mean something
/// else.
fn acting(spec: &ExperimentSpec, domain: Option<&Domain>, trouble: Trouble) -> Option<ExperimentSpec> {
    let can_act = |name: &String| {
        let knob = domain.zip(spec.param_mapping.get(name)).and_then(|(domain, key)| domain.knobs.get(key));
        knob.is_none_or(|knob| knob.relieves.is_empty() || knob.relieves.contains(&trouble))
    };
    let is_word = |text: &str, name: &str| {
        text.split(|each: char| !each.is_ascii_alphanumeric() && each != '_').any(|word| word == name)
    };
    let is_named = |name: &String| {
        spec.constraints.iter().any(|constraint| is_word(constraint, name))
            || spec.forbidden.iter().any(|combination| combination.contains_key(name))
            || spec.search_space.values().any(|each| each.when.as_ref().is_some_and(|when| when.param == *name))
    };
    if !spec.search_space.is_empty() && !spec.search_space.keys().any(can_act) {
        return None;
    }
    let mut narrowed = spec.clone();
    narrowed.search_space.retain(|name, _| can_act(name) || is_named(name));
    narrowed.param_mapping.retain(|name, _| !spec.search_space.contains_key(name) || can_act(name) || is_named(name));
    Some(narrowed)
}

/// Returns the name of the way to answer a question: the knobs that the experiment turns, in order, joined by `+`.
pub fn knobs(spec: &ExperimentSpec) -> String {
    let mut knobs: Vec<&str> = spec.param_mapping.values().map(Key::as_str).collect();
    knobs.sort_unstable();
    knobs.dedup();
    knobs.join("+")
}

/// Returns whether too many of the daemon's own doings stand between a cause outside and `anomaly` to ask about it.
pub fn is_too_deep(anomaly: &Anomaly, config: &Config) -> bool {
    anomaly.depth > config.depth_max
}

/// Returns the id of the `occurrence`-th question about `hypothesis` in `domain`: `lab.latency_degradation.001`.
pub fn question_id(domain: &str, hypothesis: &str, occurrence: u32) -> QuestionId {
    let name = hypothesis.strip_prefix(&format!("{}_", capitals(domain))).unwrap_or(hypothesis);
    QuestionId::new(format!("{domain}.{}.{occurrence:03}", name.to_ascii_lowercase()))
}

/// Returns the number in the id of a question about `hypothesis` in `domain`; `None` where it was made by somebody else.
pub fn number_of(id: &QuestionId, domain: &str, hypothesis: &str) -> Option<u32> {
    let number = id.as_str().rsplit('.').next()?.parse().ok()?;
    (question_id(domain, hypothesis, number) == *id).then_some(number)
}

/// Returns `question` under another number, where its own was given before; `None` where there is none left.
///
/// The number doubles: a free one is found in a few steps, however many were given.
pub fn renumbered(mut question: Question) -> Option<Question> {
    let spec = &mut question.dream_experiment;
    let number = number_of(&question.question_id, &spec.domain, &question.hypothesis)?.checked_mul(2)?;
    let id = question_id(&spec.domain, &question.hypothesis, number);
    if let Some(prefix) = spec.name.strip_suffix(question.question_id.as_str()) {
        spec.name = format!("{prefix}{id}");
    }
    question.question_id = id;
    Some(question)
}

/// Returns the question that `anomaly` raises, with the very experiment that would answer it; `None` when the anomaly is too
/// deep.
///
/// The experiment may spend what the settings allow for a degradation or for pressure, and never more than it says
/// itself.
pub fn question(
    anomaly: &Anomaly,
    hypothesis: &str,
    spec: &ExperimentSpec,
    (occurrence, interest): (u32, f64),
    config: &Config,
    now_ms: u64,
) -> Option<Question> {
    if is_too_deep(anomaly, config) {
        return None;
    }
    let id = question_id(&spec.domain, hypothesis, occurrence);
    let (prefix, allowance) =
        if is_pressure(hypothesis) { ("resource_opt", config.pressure) } else { ("remediation", config.degradation) };
    let budget = allowance.and(spec.budget);
    Some(Question {
        dream_experiment: ExperimentSpec { name: format!("{prefix}_{id}"), budget, ..spec.clone() },
        question_id: id,
        hypothesis: hypothesis.to_owned(),
        cycle: anomaly.cycle.clone(),
        evidence: evidence(anomaly),
        interest,
        at_ms: now_ms,
        depth: anomaly.depth,
    })
}

/// Returns all that was seen of the incident: what it is told by, what was out with it, and the load where that is unusual.
fn evidence(anomaly: &Anomaly) -> Vec<Evidence> {
    let first = Evidence {
        metric: anomaly.metric.clone(),
        observed: anomaly.observed,
        expected: anomaly.expected,
        samples: anomaly.samples,
        source: anomaly.source.clone(),
    };
    [first].into_iter().chain(anomaly.evidence.iter().cloned()).chain(anomaly.surge.clone()).collect()
}

/// Returns `name` as it stands in a hypothesis.
pub fn capitals(name: &str) -> String {
    name.chars().map(|each| if each.is_ascii_alphanumeric() { each.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Budget, CycleId, Load};

    fn anomaly(subject: &str, metric: &str, kind: AnomalyKind) -> Anomaly {
        Anomaly {
            cycle: CycleId::new("c-1"),
            subject: subject.into(),
            metric: metric.into(),
            kind,
            observed: 300.0,
            expected: 100.0,
            spread: 10.0,
            score: 20.0,
            samples: 20,
            source: "test".into(),
            at_ms: 1,
            depth: 0,
            incident: String::new(),
            evidence: Vec::new(),
            surge: None,
        }
    }

    fn spec(name: &str, domain: &str, max_candidates: u32) -> (String, ExperimentSpec) {
        let spec = ExperimentSpec {
            name: name.into(),
            domain: domain.into(),
            search_space: BTreeMap::new(),
            constraints: Vec::new(),
            forbidden: Vec::new(),
            metrics: BTreeMap::new(),
            param_mapping: BTreeMap::new(),
            budget: Budget::of(max_candidates, 10),
        };
        (name.into(), spec)
    }

    /// Returns a machine that has 1,000 of each resource, of which services use so much.
    fn used(live: &[(&str, f64)]) -> Room {
        let load = |amount: f64| Load::each(|_| Some(amount));
        let live = live.iter().map(|(name, amount)| ((*name).to_owned(), load(*amount))).collect();
        Room { all: load(1000.0), left: load(100.0), live }
    }

    fn catalogue() -> BTreeMap<String, ExperimentSpec> {
        BTreeMap::from([spec("lab_a", "lab", 100), spec("lab_b", "lab", 6), spec("tts_a", "tts", 100)])
    }

    /// Returns the question that is answered by the first experiment that could.
    fn ask(anomaly: &Anomaly, occurrence: u32) -> Option<Question> {
        let answers = answers(anomaly, &catalogue(), &BTreeMap::new(), &used(&[("lab", 500.0)]));
        question(anomaly, &hypothesis(anomaly), answers.first()?, (occurrence, 0.5), &Config::default(), 7)
    }

    #[test]
    fn each_metric_is_suspected_of_the_trouble_its_name_speaks_of() {
        use AnomalyKind::{Deviation, Objective, Pressure};
        let table = [
            ("lab", "e2e_p95_ms", Deviation, "LAB_LATENCY_DEGRADATION"),
            ("lab", "ttft_p50_ms", Objective, "LAB_LATENCY_DEGRADATION"),
            ("lab", "itl_p99_ms", Deviation, "LAB_LATENCY_DEGRADATION"),
            ("lab", "render_ms", Deviation, "LAB_LATENCY_DEGRADATION"),
            ("lab", "error_ratio", Deviation, "LAB_ERROR_RATE_DEGRADATION"),
            ("lab", "requests_waiting", Deviation, "LAB_QUEUE_DEGRADATION"),
            ("lab", "kv_used_ratio", Pressure, "LAB_KV_CACHE_PRESSURE"),
            ("lab", "preemptions_per_s", Deviation, "LAB_KV_CACHE_PRESSURE"),
            ("lab", "tokens_per_s", Objective, "LAB_THROUGHPUT_DEGRADATION"),
            ("lab", "slots_used_ratio", Pressure, "LAB_PRESSURE_HIGH"),
            ("lab", "prefix_hit_ratio", Deviation, "LAB_SERVICE_DEGRADATION"),
            ("tts-2", "latency", Deviation, "TTS_2_LATENCY_DEGRADATION"),
            ("gpu", "pressure_ratio", Pressure, "GPU_PRESSURE_HIGH"),
            ("gpu:0123abcd", "pressure_ratio", Pressure, "GPU_PRESSURE_HIGH"),
            ("gpu:0123abcd", "hardware_fault", Pressure, "GPU_HARDWARE_DEGRADATION"),
            ("gpu:0123abcd", "memory_pressure_ratio", Pressure, "GPU_MEMORY_PRESSURE"),
            ("host", "swap_used_ratio", Pressure, "SYSTEM_SWAP_PRESSURE"),
            ("host", "cpu_stalled_ratio", Pressure, "SYSTEM_CPU_SATURATION"),
            ("host", "memory_used_ratio", Pressure, "SYSTEM_MEMORY_PRESSURE"),
            ("host", "memory_stalled_ratio", Pressure, "SYSTEM_MEMORY_PRESSURE"),
            ("host", "disk_used_ratio", Pressure, "SYSTEM_DISK_PRESSURE"),
        ];
        for (subject, metric, kind, expected) in table {
            assert_eq!(hypothesis(&anomaly(subject, metric, kind)), expected);
        }
    }

    #[test]
    fn a_degradation_is_answered_by_a_remediation_of_its_own_domain() {
        let question = ask(&anomaly("lab", "e2e_p95_ms", AnomalyKind::Deviation), 1).unwrap();
        assert_eq!(question.question_id.as_str(), "lab.latency_degradation.001");
        assert_eq!(question.dream_experiment.name, "remediation_lab.latency_degradation.001");
        assert_eq!(question.dream_experiment.domain, "lab");
        assert_eq!(question.dream_experiment.budget, Budget::of(12, 4));
        assert_eq!((question.evidence.len(), question.evidence[0].source.as_str()), (1, "test"));
        assert_eq!((question.at_ms, question.depth, question.cycle.as_str()), (7, 0, "c-1"));
    }

    #[test]
    fn pressure_is_answered_by_a_resource_optimisation() {
        let question = ask(&anomaly("gpu", "pressure_ratio", AnomalyKind::Pressure), 12).unwrap();
        assert_eq!(question.question_id.as_str(), "lab.gpu_pressure_high.012");
        assert_eq!(question.dream_experiment.name, "resource_opt_lab.gpu_pressure_high.012");
        assert_eq!(question.dream_experiment.budget, Budget::of(8, 3));
    }

    /// It was answered in the domain whose name comes first, whether that had anything to do with it or not.
    #[test]
    fn pressure_on_the_machine_is_answered_where_a_knob_relieves_it_or_else_by_whoever_uses_most() {
        use crate::testing::{domain, key, spec};
        let answered = |subject: &str, metric: &str, relieves: &[(&str, Trouble)], live: &[(&str, f64)]| {
            let named = |name: &str| {
                let mut domain = domain(name);
                let own = relieves.iter().filter(|(of, _)| *of == name).map(|(_, trouble)| *trouble).collect();
                domain.knobs.get_mut(&key("SEQS")).unwrap().relieves = own;
                (name.to_owned(), domain)
            };
            let domains = ["asr", "lab", "tts"].map(named).into();
            let experiment = |name: &str| (name.to_owned(), ExperimentSpec { domain: name.into(), ..spec() });
            let experiments = ["asr", "lab", "tts"].map(experiment).into();
            let anomaly = anomaly(subject, metric, AnomalyKind::Pressure);
            let found = answers(&anomaly, &experiments, &domains, &used(live));
            found.iter().map(|spec| spec.domain.clone()).collect::<Vec<_>>()
        };
        let live = [("asr", 90.0), ("lab", 300.0), ("tts", 500.0)];
        let lab_relieves = |trouble| [("lab", trouble)];
        let (host, gpu) = (("host", "memory_used_ratio"), ("gpu:0123abcd", "memory_pressure_ratio"));
        assert_eq!(answered(host.0, host.1, &lab_relieves(Trouble::Memory), &live), ["lab"]);
        assert_eq!(answered(gpu.0, gpu.1, &lab_relieves(Trouble::Pressure), &live), ["lab"]);
        assert_eq!(answered(host.0, host.1, &[], &live), ["tts"]);
        assert_eq!(answered(gpu.0, gpu.1, &[], &live), ["tts"]);
        assert_eq!(answered(gpu.0, gpu.1, &lab_relieves(Trouble::Latency), &live[..2]), ["lab"], "by its other knob");
        assert_eq!(answered(host.0, host.1, &[], &live[..1]), [""; 0], "none uses enough of it to matter");
        assert_eq!(answered(host.0, host.1, &[], &[]), [""; 0], "nobody knows who uses it");
    }

    #[test]
    fn every_experiment_of_a_domain_can_answer_and_keeps_its_own_budget() {
        let anomaly = anomaly("lab", "e2e_p95_ms", AnomalyKind::Deviation);
        let budgets: Vec<u32> = answers(&anomaly, &catalogue(), &BTreeMap::new(), &Room::default())
            .iter()
            .filter_map(|spec| question(&anomaly, &hypothesis(&anomaly), spec, (1, 0.5), &Config::default(), 7))
            .map(|question| question.dream_experiment.budget.max_candidates)
            .collect();
        assert_eq!(budgets, [12, 6]);
    }

    #[test]
    fn only_knobs_that_can_act_on_the_trouble_are_turned() {
        use crate::testing::{domain, key, spec};
        let experiments = |spec: ExperimentSpec| BTreeMap::from([("lab_tuning".to_owned(), spec)]);
        let turned = |metric: &str, spec: ExperimentSpec, relieves: &[Trouble]| {
            let mut lab = domain("lab");
            lab.knobs.get_mut(&key("WAIT")).unwrap().relieves = relieves.to_vec();
            let domains = BTreeMap::from([("lab".to_owned(), lab)]);
            let found = answers(
                &anomaly("lab", metric, AnomalyKind::Deviation),
                &experiments(spec),
                &domains,
                &Room::default(),
            );
            found.iter().map(knobs).collect::<Vec<_>>()
        };
        assert_eq!(turned("e2e_p95_ms", spec(), &[]), ["SEQS+WAIT"]);
        assert_eq!(turned("e2e_p95_ms", spec(), &[Trouble::Latency]), ["SEQS+WAIT"]);
        assert_eq!(turned("e2e_p95_ms", spec(), &[Trouble::Memory]), ["SEQS"]);
        // What a constraint speaks of is not taken from under it.
        let constrained = ExperimentSpec { constraints: vec!["seqs <= wait".into()], ..spec() };
        assert_eq!(turned("e2e_p95_ms", constrained, &[Trouble::Memory]), ["SEQS+WAIT"]);
        let mut alone = spec();
        alone.search_space.remove("seqs");
        alone.param_mapping.remove("seqs");
        assert_eq!(turned("e2e_p95_ms", alone, &[Trouble::Memory]), [""; 0], "no knob can act, so nothing is asked");
    }

    /// Lesson 21: evidence is what was observed, each with where it was read.
    #[test]
    fn all_that_was_seen_of_an_incident_is_evidence_of_its_question() {
        let sign = |metric: &str| Evidence {
            metric: metric.into(),
            observed: 9.0,
            expected: 0.0,
            samples: 20,
            source: "test".into(),
        };
        let mut anomaly = anomaly("lab", "e2e_p95_ms", AnomalyKind::Objective);
        (anomaly.evidence, anomaly.surge) = (vec![sign("waiting")], Some(sign("requests_per_s")));
        let metrics: Vec<String> = ask(&anomaly, 1).unwrap().evidence.into_iter().map(|sign| sign.metric).collect();
        assert_eq!(metrics, ["e2e_p95_ms", "waiting", "requests_per_s"]);
    }

    #[test]
    fn a_number_that_was_given_before_doubles_until_none_is_left() {
        let question = ask(&anomaly("gpu", "pressure_ratio", AnomalyKind::Pressure), 12).unwrap();
        let again = renumbered(question.clone()).unwrap();
        assert_eq!(again.question_id.as_str(), "lab.gpu_pressure_high.024");
        assert_eq!(again.dream_experiment.name, "resource_opt_lab.gpu_pressure_high.024");
        assert_eq!(
            renumbered(Question { question_id: question_id("lab", "GPU_PRESSURE_HIGH", u32::MAX), ..question }),
            None
        );
    }

    #[test]
    fn without_an_experiment_there_is_no_question() {
        assert_eq!(ask(&anomaly("stt", "e2e_p95_ms", AnomalyKind::Deviation), 1), None);
        assert_eq!(ask(&anomaly("host", "disk_used_ratio", AnomalyKind::Pressure), 1), None);
        assert_eq!(ask(&anomaly("gpu:0123abcd", "hardware_fault", AnomalyKind::Pressure), 1), None);
        let gpu = anomaly("gpu", "pressure_ratio", AnomalyKind::Pressure);
        assert_eq!(answers(&gpu, &BTreeMap::new(), &BTreeMap::new(), &used(&[("lab", 500.0)])), []);
    }

    #[test]
    fn the_daemon_does_not_chase_its_own_doings() {
        let mut anomaly = anomaly("lab", "e2e_p95_ms", AnomalyKind::Deviation);
        anomaly.depth = 3;
        assert_eq!(ask(&anomaly, 1).unwrap().depth, 3);
        anomaly.depth = 4;
        assert_eq!(ask(&anomaly, 1), None);
    }

    proptest! {
        #[test]
        fn what_identifies_a_question_holds_no_measured_value(
            subject in "[a-z][a-z0-9_]{0,12}",
            metric in "[a-z][a-z0-9_]{0,20}",
            numbers in prop::array::uniform4(any::<f64>()),
            samples in any::<u64>(),
            at_ms in any::<u64>(),
        ) {
            let plain = anomaly(&subject, &metric, AnomalyKind::Deviation);
            let [observed, expected, spread, score] = numbers;
            let other = Anomaly { observed, expected, spread, score, samples, at_ms, ..plain.clone() };
            prop_assert_eq!(hypothesis(&plain), hypothesis(&other));
            let (_, only) = spec("only", &subject, 4);
            let ask = |anomaly: &Anomaly| {
                question(anomaly, &hypothesis(anomaly), &only, (1, 0.5), &Config::default(), at_ms)
                    .map(|question| (question.question_id, question.dream_experiment))
            };
            prop_assert_eq!(ask(&plain), ask(&other));
        }

        #[test]
        fn any_name_at_all_makes_a_hypothesis_of_capitals(subject in any::<String>(), metric in any::<String>()) {
            let hypothesis = hypothesis(&anomaly(&subject, &metric, AnomalyKind::Pressure));
            prop_assert!(hypothesis.chars().all(|each| each.is_ascii_uppercase() || each.is_ascii_digit() || each == '_'));
            prop_assert!(is_pressure(&hypothesis) || hypothesis.contains("DEGRADATION"));
        }
    }
}
