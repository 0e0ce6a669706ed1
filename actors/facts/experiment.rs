use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Budget, CycleId, Direction, Estimate, ExperimentId, Key, KnobKind, Limit, MetricSpec, Metrics, Others, Params,
    QuestionId, Settings, Value, VoidCause,
};

/// What an experiment does: the part that travels with the question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentSpec {
    /// The experiment's name.
    pub name: String,
    /// The domain it works on.
    pub domain: String,
    /// What is varied.
    pub search_space: BTreeMap<String, Dimension>,
    /// What holds between two parameters wherever both are active: `a <= b`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// Combinations that are never tried: settings that have all the values of one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forbidden: Vec<Params>,
    /// What is measured, and which way is better.
    pub metrics: BTreeMap<String, Direction>,
    /// Which env key each parameter sets; every key must be in the domain's allow-list.
    pub param_mapping: BTreeMap<String, Key>,
    /// How much may be spent.
    pub budget: Budget,
}

/// One parameter of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dimension {
    /// Kind and range.
    #[serde(flatten)]
    pub range: KnobKind,
    /// When it means something; always when absent. Where it means nothing, its key is left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
}

/// A parameter without a condition.
impl From<KnobKind> for Dimension {
    fn from(range: KnobKind) -> Self {
        Self { range, when: None }
    }
}

/// When a parameter means something: if `param` is active and has one of these values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// The parameter that it depends on.
    pub param: String,
    /// The values of that one.
    pub r#in: Vec<Value>,
}

/// One experiment under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Its id.
    pub id: ExperimentId,
    /// The question it answers.
    pub question: QuestionId,
    /// What the question suspects.
    pub hypothesis: String,
    /// The cycle it belongs to.
    pub cycle: CycleId,
    /// What it does.
    pub spec: ExperimentSpec,
    /// A fingerprint of how candidates are measured; absent in experiments that older programs began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_by: Option<String>,
    /// The seed of its random numbers: the same seed and outcomes give the same candidates.
    pub seed: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The causal depth of the question behind it.
    pub depth: u32,
    /// How each metric counted when it began, so that its trials can be told apart from them alone; empty in what older
    /// versions wrote.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub objective: BTreeMap<String, MetricSpec>,
}

/// That an experiment went to measure: once in each life of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The experiment.
    pub experiment: ExperimentId,
    /// How many of its trials had come to an end by then.
    pub trials: u32,
}

/// What an experiment knew when it began. It stands before the first trial, and stays what it was then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experience {
    /// The experiment.
    pub experiment: ExperimentId,
    /// The trials that it learned from, oldest first.
    pub trials: Vec<EarlierTrial>,
    /// The smallest effect that a validation of its domain tells from none, as a ratio; absent where that was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolves: Option<f64>,
    /// What the machine had left for what it varies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
}

/// A trial of an earlier experiment, as a later one sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlierTrial {
    /// The experiment that it is from.
    pub from: ExperimentId,
    /// What was tried, in the parameters of the later one.
    pub params: Params,
    /// Its fitness relative to the later one's live settings; `None` where it failed.
    pub fitness: Option<f64>,
    /// How old it was, in days.
    pub age_days: f64,
    /// How different the conditions were, from 0, the same, to 1, nothing in common.
    pub distance: f64,
}

/// One candidate, measured or failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The experiment.
    pub experiment: ExperimentId,
    /// Its generation, from 1.
    pub generation: u32,
    /// Its place in the generation, from 1.
    pub number: u32,
    /// What was tried.
    pub params: Params,
    /// What came of it.
    pub outcome: Outcome,
    /// When it ended, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// What came of a trial. A failure is a variant, never a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran and was measured.
    Measured(Measurement),
    /// It could not be measured.
    Failed(TrialFailure),
}

/// Numbers, and where they come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured; always finite numbers.
    pub metrics: Metrics,
    /// How many requests or observations stand behind them.
    pub samples: u64,
    /// How long the window was, in milliseconds.
    pub window_ms: u64,
    /// What the measured instance said it ran with.
    pub in_effect: BTreeMap<String, String>,
    /// Who measured: the bench's name and the instance's address.
    pub source: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What others did to the machine meanwhile; absent where that was not watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<Others>,
    /// How many samples were thrown away before this one, because others disturbed them.
    #[serde(default)]
    pub discarded: u32,
}

/// Why a candidate could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct TrialFailure {
    /// The kind, for counting and learning.
    pub kind: FailureKind,
    /// The details, for a person.
    pub detail: String,
}

/// The kinds of failed measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The instance exited before it was ready: these settings are not feasible.
    DidNotStart,
    /// The instance was not ready in time.
    NotReady,
    /// The instance runs with other values than it was given.
    NotInEffect,
    /// The instance died or stopped answering under load.
    Died,
    /// The bench did not end in time.
    TimedOut,
    /// The bench failed or printed something that is no set of metrics.
    BenchFailed,
    /// kloros itself could not run the trial: no file, port, process or memory to be had, or the machine was not free in time.
    Infrastructure,
    /// Others disturbed it again and again.
    Disturbed,
    /// Measured in place, it breached an objective of the serving instance that its own settings hold.
    Breached,
    /// The instance ended, before or under load, because it could not have the memory that it wants, of the machine or of a GPU.
    OutOfMemory,
}

impl FailureKind {
    /// Every kind there is.
    pub const ALL: [FailureKind; 10] = [
        FailureKind::DidNotStart,
        FailureKind::NotReady,
        FailureKind::NotInEffect,
        FailureKind::Died,
        FailureKind::TimedOut,
        FailureKind::BenchFailed,
        FailureKind::Infrastructure,
        FailureKind::Disturbed,
        FailureKind::Breached,
        FailureKind::OutOfMemory,
    ];

    /// Returns the kind as one word, also used as a metric label.
    pub fn label(self) -> &'static str {
        match self {
            FailureKind::DidNotStart => "did_not_start",
            FailureKind::NotReady => "not_ready",
            FailureKind::NotInEffect => "not_in_effect",
            FailureKind::Died => "died",
            FailureKind::TimedOut => "timed_out",
            FailureKind::BenchFailed => "bench_failed",
            FailureKind::Infrastructure => "infrastructure",
            FailureKind::Disturbed => "disturbed",
            FailureKind::Breached => "breached",
            FailureKind::OutOfMemory => "out_of_memory",
        }
    }

    /// Returns whether it says nothing about the settings: the circumstances are to blame.
    pub fn is_of_circumstances(self) -> bool {
        matches!(self, FailureKind::Infrastructure | FailureKind::Disturbed)
    }
}

impl std::fmt::Display for FailureKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.label())
    }
}

/// A generation that was measured whole: the checkpoint of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// The experiment.
    pub experiment: ExperimentId,
    /// Its number, from 1.
    pub number: u32,
    /// How many candidates were measured in it.
    pub measured: u32,
    /// How many failed in it.
    pub failed: u32,
    /// The best of all generations so far.
    pub best: Option<Best>,
}

/// A candidate with its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// What was set.
    pub params: Params,
    /// Its fitness: the weighted mean of oriented log ratios to the live settings; 0 is as good as those. A claim, not evidence.
    pub fitness: f64,
    /// What was measured.
    pub metrics: Metrics,
}

/// What an experiment recommends: the content of a file in `artifacts/dream/winners`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Winner {
    /// The experiment's name.
    pub experiment: String,
    /// The domain it is for.
    pub domain: String,
    /// The candidate.
    pub best: Best,
    /// The settings of the service that it was compared with.
    pub incumbent: Settings,
    /// The experiment that found it.
    pub experiment_id: ExperimentId,
    /// How many candidates were measured.
    pub measured: u32,
    /// How many candidates failed.
    pub failed: u32,
    /// How much better it is than the live settings, with the interval of 95 %: a claim, not evidence. Absent where the
    /// spread of the measurements is not known, and in what older versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<Estimate>,
    /// The Pareto front, where several metrics count; empty in what older versions wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub front: Vec<Best>,
}

/// How an experiment ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum ExperimentEnd {
    /// It found something better than the live settings.
    Won {
        /// The experiment.
        experiment: ExperimentId,
        /// What it found.
        winner: Winner,
    },
    /// Nothing measured better than the live settings.
    NoBetter {
        /// The experiment.
        experiment: ExperimentId,
        /// In words.
        why: String,
        /// The Pareto front, where several metrics count; empty in what older versions wrote.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        front: Vec<Best>,
    },
    /// It says nothing: too much of it could not be measured.
    Void {
        /// The experiment.
        experiment: ExperimentId,
        /// In words.
        why: String,
        /// What is to blame; absent in what older versions wrote.
        #[serde(default, skip_serializing_if = "VoidCause::is_untold")]
        cause: VoidCause,
    },
}

impl ExperimentEnd {
    /// Returns which experiment ended.
    pub fn experiment(&self) -> &ExperimentId {
        match self {
            ExperimentEnd::Won { experiment, .. }
            | ExperimentEnd::NoBetter { experiment, .. }
            | ExperimentEnd::Void { experiment, .. } => experiment,
        }
    }

    /// Returns the end as one word: `won`, `no_better` or `void`.
    pub fn label(&self) -> &'static str {
        match self {
            ExperimentEnd::Won { .. } => "won",
            ExperimentEnd::NoBetter { .. } => "no_better",
            ExperimentEnd::Void { .. } => "void",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_of_before_the_load_of_others_was_watched_can_still_be_read() {
        let old = r#"{"metrics":{"rate":1.5},"samples":9,"window_ms":1500,"in_effect":{},"source":"chat","at_ms":7}"#;
        let read: Measurement = serde_json::from_str(old).unwrap();
        assert_eq!((read.samples, read.others, read.discarded), (9, None, 0));
        let others = Some(Others { cpu: Some(0.5), ..Others::default() });
        let new = Measurement { others, discarded: 2, ..read };
        assert_eq!(serde_json::from_str::<Measurement>(&serde_json::to_string(&new).unwrap()).unwrap(), new);
    }

    #[test]
    fn only_circumstances_are_blamed_on_nobody() {
        use FailureKind::{BenchFailed, DidNotStart, Died, Disturbed, Infrastructure, NotInEffect, NotReady, TimedOut};
        for kind in [DidNotStart, NotReady, NotInEffect, Died, TimedOut, BenchFailed] {
            assert!(!kind.is_of_circumstances(), "{kind}");
        }
        assert!(Infrastructure.is_of_circumstances() && Disturbed.is_of_circumstances());
    }

    #[test]
    fn an_experiment_that_an_older_program_began_is_still_read() {
        let text = r#"{"id": "x-1", "question": "q-1", "hypothesis": "LAB", "cycle": "c-1", "spec": {"name": "lab_tuning",
            "domain": "lab", "search_space": {"seqs": {"kind": "integer", "min": 1, "max": 64, "log": true},
            "share": {"kind": "float", "min": 0.5, "max": 1.0, "log": false}, "eager": {"kind": "boolean"}},
            "metrics": {"rate": "up"}, "param_mapping": {"seqs": "SEQS", "share": "SHARE", "eager": "EAGER"},
            "budget": {"max_candidates": 12, "max_generations": 4}}, "seed": 7, "at_ms": 1, "depth": 0}"#;
        let experiment: Experiment = serde_json::from_str(text).unwrap();
        assert_eq!((experiment.measured_by, experiment.spec.constraints.len()), (None, 0));
        let seqs = KnobKind::Integer { min: 1, max: 64, log: true, step: None };
        assert_eq!(experiment.spec.search_space["seqs"], seqs.into());
        // What says nothing new is written as before, but for the time that it may take.
        let spec = serde_json::to_value(&experiment.spec).unwrap();
        let mut before = serde_json::from_str::<serde_json::Value>(text).unwrap()["spec"].take();
        before["budget"]["wall_s"] = experiment.spec.budget.wall_s.into();
        assert_eq!(spec, before);
    }

    #[test]
    fn a_parameter_is_read_with_its_condition_and_without_unknown_keys() {
        let read = |text: &str| serde_json::from_str::<Dimension>(text);
        let with = read(r#"{"kind": "boolean", "when": {"param": "spec", "in": [true, 2, 0.5, "x"]}}"#).unwrap();
        assert_eq!(with.when.unwrap().r#in.len(), 4);
        for text in [
            r#"{"kind": "boolean", "whne": {"param": "spec", "in": [true]}}"#,
            r#"{"kind": "boolean", "when": {"param": "spec", "in": [true], "is": 1}}"#,
            r#"{"kind": "integer", "min": 1, "max": 2, "stp": 1}"#,
            r#"{"kind": "integer", "min": 1, "max": 2, "step": 0.5}"#,
            r#"{"when": {"param": "spec", "in": [true]}}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_older_versions_wrote_is_read_and_written_as_it_was() {
        let best = r#"{"params":{"batch":16},"fitness":0.5,"metrics":{"rate":3.0}}"#;
        let winner = format!(
            r#"{{"experiment":"e","domain":"lab","best":{best},"incumbent":{{}},"experiment_id":"x-1","measured":3,"failed":1}}"#
        );
        for text in [
            format!(r#"{{"how":"won","experiment":"x-1","winner":{winner}}}"#),
            r#"{"how":"no_better","experiment":"x-1","why":"nothing"}"#.to_owned(),
        ] {
            let end: ExperimentEnd = serde_json::from_str(&text).unwrap();
            match &end {
                ExperimentEnd::Won { winner, .. } => assert_eq!((winner.gain, winner.front.len()), (None, 0)),
                ExperimentEnd::NoBetter { front, .. } => assert!(front.is_empty()),
                ExperimentEnd::Void { .. } => panic!("{text}"),
            }
            assert_eq!(serde_json::to_string(&end).unwrap(), text);
        }
        let text = serde_json::to_string(&crate::testing::experiment()).unwrap();
        let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(old.as_object_mut().unwrap().remove("objective").is_some());
        let read: Experiment = serde_json::from_value(old).unwrap();
        assert_eq!(
            Experiment { objective: crate::testing::experiment().objective, ..read },
            crate::testing::experiment()
        );
    }
}
