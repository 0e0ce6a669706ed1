use serde::{Deserialize, Serialize};

use super::{CycleId, Experiment, ExperimentSpec, Origin, QuestionId, Settings, Winner};

/// What somebody wants the coordinator to bring about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum Intent {
    /// Curiosity, or a file in the inbox, asks a question.
    CuriosityQuestion(Question),
    /// Somebody proposes settings: an experiment that won, a person, or a winner file.
    Proposal(Proposal),
}

/// Settings that somebody proposes for a service; not yet compared with what it runs with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// The cycle it belongs to.
    pub cycle: CycleId,
    /// Who proposes it.
    pub origin: Origin,
    /// The experiment's name, or `try` for a person's own proposal.
    pub experiment: String,
    /// The question it answers, if one was asked.
    pub question: Option<QuestionId>,
    /// What the question suspects, if one was asked.
    pub hypothesis: Option<String>,
    /// The domain it is for.
    pub domain: String,
    /// What the service is to run with.
    pub settings: Settings,
    /// What the experiment claims for it; never evidence.
    pub fitness: Option<f64>,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The causal depth of the question behind it.
    pub depth: u32,
}

impl Proposal {
    /// Returns the proposal that an experiment makes of its winner, whose parameters mean these `settings`.
    pub fn of_winner(experiment: &Experiment, winner: &Winner, settings: Settings, at_ms: u64) -> Self {
        Self {
            cycle: experiment.cycle.clone(),
            origin: Origin::Experiment(experiment.id.clone()),
            experiment: experiment.spec.name.clone(),
            question: Some(experiment.question.clone()),
            hypothesis: Some(experiment.hypothesis.clone()),
            domain: experiment.spec.domain.clone(),
            settings,
            fitness: Some(winner.best.fitness),
            at_ms,
            depth: experiment.depth,
        }
    }
}

/// A question, with the very experiment that would answer it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Domain, hypothesis and how often it was asked.
    pub question_id: QuestionId,
    /// What is suspected, e.g. `LAB_LATENCY_DEGRADATION`.
    pub hypothesis: String,
    /// The experiment that answers it.
    pub dream_experiment: ExperimentSpec,
    /// The cycle it belongs to.
    pub cycle: CycleId,
    /// What was seen.
    pub evidence: Vec<Evidence>,
    /// How much an answer is worth, 0 to 1; what experience says of questions like it.
    pub interest: f64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The causal depth of the anomaly behind it.
    pub depth: u32,
}

impl Question {
    /// Returns what an answer is worth for each candidate that it may cost at most.
    pub fn worth(&self) -> f64 {
        let budget = self.dream_experiment.budget;
        let cost = u64::from(budget.max_candidates.max(1)) * u64::from(budget.max_generations.max(1));
        self.interest.clamp(0.0, 1.0) / cost as f64
    }
}

/// What was seen, where: a claim without a source raises no question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The reading's name.
    pub metric: String,
    /// What was seen.
    pub observed: f64,
    /// What was expected.
    pub expected: f64,
    /// How many readings stand behind it.
    pub samples: u64,
    /// Where it was read.
    pub source: String,
}

/// How a question ended. Every question ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuestionEnd {
    /// The question.
    pub question: QuestionId,
    /// What it asked.
    pub hypothesis: String,
    /// The domain it was about.
    pub domain: String,
    /// How it ended, in one closed word: `deployed`, `rolled_back`, `no_better`, `void`, `unmeasured`,
    /// `broke_off`, `refused`, `expired`, `overtaken`, `deferred`.
    pub how: String,
    /// The reason in words.
    pub why: String,
    /// From when it may be asked again, in milliseconds since the Unix epoch.
    pub eligible_at_ms: u64,
}
