//! Hypotheses: what an anomaly is suspected to be, and the experiment that would tell.
//!
//! A hypothesis names subject and kind of trouble, never a measured value: the same trouble is the same question.

use std::collections::BTreeMap;

use super::Config;
use crate::facts::{Anomaly, AnomalyKind, Budget, Evidence, ExperimentSpec, Question, QuestionId};

/// Returns what `anomaly` is suspected to be, such as `LAB_LATENCY_DEGRADATION` or `GPU_PRESSURE_HIGH`.
///
/// Made of ASCII capitals, digits and underscores; it holds `PRESSURE` when a resource runs short and `DEGRADATION`
/// otherwise.
pub fn hypothesis(anomaly: &Anomaly) -> String {
    // GPUs are alike, and what relieves one is the same question as what relieves another.
    let subject = if anomaly.is_about_gpu() { "GPU".to_owned() } else { capitals(&anomaly.subject) };
    let metric = anomaly.metric.as_str();
    let has = |words: &[&str]| words.iter().any(|word| metric.contains(word));
    let trouble = match subject.as_str() {
        "GPU" if has(&["hardware_fault"]) => "HARDWARE_DEGRADATION",
        "GPU" => "PRESSURE_HIGH",
        "HOST" if has(&["memory"]) => "MEMORY_PRESSURE_HIGH",
        "HOST" if has(&["disk"]) => "DISK_PRESSURE_HIGH",
        "HOST" => "PRESSURE_HIGH",
        _ if has(&["kv", "preempt", "cache_used", "cache_usage"]) => "KV_CACHE_PRESSURE",
        _ if has(&["error", "fail", "refused", "reject", "timeout", "timed_out", "dropped"]) => "ERROR_DEGRADATION",
        _ if has(&["waiting", "queue"]) => "QUEUE_DEGRADATION",
        _ if has(&["memory"]) => "MEMORY_PRESSURE_HIGH",
        _ if has(&["e2e", "ttft", "itl", "tpot", "latency"]) || metric.ends_with("_ms") => "LATENCY_DEGRADATION",
        _ if has(&["tokens", "requests", "throughput"]) => "THROUGHPUT_DEGRADATION",
        _ if anomaly.kind == AnomalyKind::Pressure => "PRESSURE_HIGH",
        _ => "SERVICE_DEGRADATION",
    };
    format!("{subject}_{trouble}")
}

/// Returns the experiment that would answer `anomaly` when it is asked for the `occurrence`-th time, from 1; `None`
/// when there is none, and then there is no question.
///
/// A domain's own experiments take turns, in the order of their names. Pressure on the host or a GPU is answered by
/// the first experiment of the catalogue: kloros can relieve a machine only by tuning what runs on it. A full disk is
/// no reason for an experiment, which would write to it; and a broken card is none
/// either, because no settings mend it and nothing measured on it is true.
pub fn experiment<'a>(
    anomaly: &Anomaly,
    experiments: &'a BTreeMap<String, ExperimentSpec>,
    occurrence: u32,
) -> Option<&'a ExperimentSpec> {
    match anomaly.subject.as_str() {
        "host" if anomaly.metric.contains("disk") => None,
        "host" => experiments.values().next(),
        _ if anomaly.is_about_gpu() && anomaly.metric == "hardware_fault" => None,
        _ if anomaly.is_about_gpu() => experiments.values().next(),
        domain => {
            let own = experiments.values().filter(|spec| spec.domain == domain);
            let turn = occurrence.saturating_sub(1) as usize;
            own.clone().nth(turn.checked_rem(own.count())?)
        }
    }
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

/// Returns the question that `anomaly` raises, with the very experiment that would answer it; `None` when no
/// experiment could, or when the anomaly is too deep.
///
/// The experiment may spend what the settings allow for a degradation or for pressure, and never more than it says
/// itself.
pub fn question(
    anomaly: &Anomaly,
    hypothesis: &str,
    experiments: &BTreeMap<String, ExperimentSpec>,
    occurrence: u32,
    interest: f64,
    config: &Config,
    now_ms: u64,
) -> Option<Question> {
    if is_too_deep(anomaly, config) {
        return None;
    }
    let spec = experiment(anomaly, experiments, occurrence)?;
    let id = question_id(&spec.domain, hypothesis, occurrence);
    let (prefix, allowance) = if hypothesis.contains("PRESSURE") {
        ("resource_opt", config.pressure)
    } else {
        ("remediation", config.degradation)
    };
    let budget = Budget {
        max_candidates: allowance.max_candidates.min(spec.budget.max_candidates),
        max_generations: allowance.max_generations.min(spec.budget.max_generations),
    };
    Some(Question {
        dream_experiment: ExperimentSpec { name: format!("{prefix}_{id}"), budget, ..spec.clone() },
        question_id: id,
        hypothesis: hypothesis.to_owned(),
        cycle: anomaly.cycle.clone(),
        evidence: vec![Evidence {
            metric: anomaly.metric.clone(),
            observed: anomaly.observed,
            expected: anomaly.expected,
            samples: anomaly.samples,
            source: anomaly.source.clone(),
        }],
        interest,
        at_ms: now_ms,
        depth: anomaly.depth,
    })
}

fn capitals(name: &str) -> String {
    name.chars().map(|each| if each.is_ascii_alphanumeric() { each.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::CycleId;

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
            budget: Budget { max_candidates, max_generations: 10 },
        };
        (name.into(), spec)
    }

    fn catalogue() -> BTreeMap<String, ExperimentSpec> {
        BTreeMap::from([spec("lab_a", "lab", 100), spec("lab_b", "lab", 6), spec("tts_a", "tts", 100)])
    }

    fn ask(anomaly: &Anomaly, occurrence: u32) -> Option<Question> {
        question(anomaly, &hypothesis(anomaly), &catalogue(), occurrence, 0.5, &Config::default(), 7)
    }

    #[test]
    fn each_metric_is_suspected_of_the_trouble_its_name_speaks_of() {
        use AnomalyKind::{Deviation, Objective, Pressure};
        let table = [
            ("lab", "e2e_p95_ms", Deviation, "LAB_LATENCY_DEGRADATION"),
            ("lab", "ttft_p50_ms", Objective, "LAB_LATENCY_DEGRADATION"),
            ("lab", "itl_p99_ms", Deviation, "LAB_LATENCY_DEGRADATION"),
            ("lab", "render_ms", Deviation, "LAB_LATENCY_DEGRADATION"),
            ("lab", "error_ratio", Deviation, "LAB_ERROR_DEGRADATION"),
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
            ("host", "memory_used_ratio", Pressure, "HOST_MEMORY_PRESSURE_HIGH"),
            ("host", "memory_stalled_ratio", Pressure, "HOST_MEMORY_PRESSURE_HIGH"),
            ("host", "disk_used_ratio", Pressure, "HOST_DISK_PRESSURE_HIGH"),
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
        assert_eq!(question.dream_experiment.budget, Budget { max_candidates: 12, max_generations: 4 });
        assert_eq!((question.evidence.len(), question.evidence[0].source.as_str()), (1, "test"));
        assert_eq!((question.at_ms, question.depth, question.cycle.as_str()), (7, 0, "c-1"));
    }

    #[test]
    fn pressure_is_answered_by_a_resource_optimisation_with_the_first_experiment() {
        let question = ask(&anomaly("gpu", "pressure_ratio", AnomalyKind::Pressure), 12).unwrap();
        assert_eq!(question.question_id.as_str(), "lab.gpu_pressure_high.012");
        assert_eq!(question.dream_experiment.name, "resource_opt_lab.gpu_pressure_high.012");
        assert_eq!(question.dream_experiment.budget, Budget { max_candidates: 8, max_generations: 3 });
    }

    #[test]
    fn the_experiments_of_a_domain_take_turns_and_keep_their_own_budget() {
        let anomaly = anomaly("lab", "e2e_p95_ms", AnomalyKind::Deviation);
        let budgets = [1, 2, 3].map(|turn| ask(&anomaly, turn).unwrap().dream_experiment.budget.max_candidates);
        assert_eq!(budgets, [12, 6, 12]);
    }

    #[test]
    fn without_an_experiment_there_is_no_question() {
        assert_eq!(ask(&anomaly("stt", "e2e_p95_ms", AnomalyKind::Deviation), 1), None);
        assert_eq!(ask(&anomaly("host", "disk_used_ratio", AnomalyKind::Pressure), 1), None);
        assert_eq!(ask(&anomaly("gpu:0123abcd", "hardware_fault", AnomalyKind::Pressure), 1), None);
        let gpu = anomaly("gpu", "pressure_ratio", AnomalyKind::Pressure);
        assert_eq!(experiment(&gpu, &BTreeMap::new(), 1), None);
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
            let experiments = BTreeMap::from([spec("only", &subject, 4)]);
            let ask = |anomaly: &Anomaly| {
                question(anomaly, &hypothesis(anomaly), &experiments, 1, 0.5, &Config::default(), at_ms)
                    .map(|question| (question.question_id, question.dream_experiment))
            };
            prop_assert_eq!(ask(&plain), ask(&other));
        }

        #[test]
        fn any_name_at_all_makes_a_hypothesis_of_capitals(subject in any::<String>(), metric in any::<String>()) {
            let hypothesis = hypothesis(&anomaly(&subject, &metric, AnomalyKind::Pressure));
            prop_assert!(hypothesis.chars().all(|each| each.is_ascii_uppercase() || each.is_ascii_digit() || each == '_'));
            prop_assert!(hypothesis.contains("PRESSURE") || hypothesis.contains("DEGRADATION"));
        }
    }
}
