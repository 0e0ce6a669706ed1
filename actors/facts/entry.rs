use serde::{Deserialize, Serialize};

use super::{
    Adoption, Anchored, Anomaly, Answer, Attempt, Calibration, CycleId, Deployment, DeploymentId, Experience,
    Experiment, ExperimentEnd, ExperimentId, Generation, Lesson, Loan, LoanStep, Measurement, Promotion, Question,
    QuestionEnd, Refused, Reload, Ruling, Step, Switch, Thaw, Trial, TrialFailure, Verdict,
};

/// A fact on its way into the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The cycle it belongs to.
    pub cycle: CycleId,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What happened.
    pub fact: Fact,
    /// A name that may stand in the journal only once: a second entry with it is not written.
    pub once: Option<String>,
}

impl Entry {
    /// Returns an entry that may be written any number of times.
    pub fn new(cycle: &CycleId, at_ms: u64, fact: Fact) -> Self {
        Self { cycle: cycle.clone(), at_ms, fact, once: None }
    }

    /// Returns an entry of which the journal keeps the first alone.
    pub fn once(cycle: &CycleId, at_ms: u64, name: String, fact: Fact) -> Self {
        Self { cycle: cycle.clone(), at_ms, fact, once: Some(name) }
    }
}

/// A fact in the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its place: larger is later, whatever the clock said.
    pub seq: u64,
    /// The cycle it belongs to.
    pub cycle: CycleId,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What the journal can hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum Fact {
    /// Something was noticed.
    Anomaly(Anomaly),
    /// A question was asked.
    Question(Question),
    /// A question ended.
    QuestionEnd(QuestionEnd),
    /// An experiment began.
    Experiment(Experiment),
    /// An experiment went to measure, for the first time or after it broke off.
    Attempt(Attempt),
    /// An experiment took to heart what earlier ones measured.
    Experience(Experience),
    /// A candidate was tried.
    Trial(Trial),
    /// A generation was measured whole.
    Generation(Generation),
    /// An experiment ended.
    ExperimentEnd(ExperimentEnd),
    /// A change was proposed.
    Promotion(Promotion),
    /// The gate ruled.
    Ruling(Ruling),
    /// Somebody answered the gate.
    Answer(Answer),
    /// A deployment was planned.
    Deployment(Deployment),
    /// A deployment moved on.
    Step {
        /// The deployment.
        deployment: DeploymentId,
        /// What was done.
        step: Step,
    },
    /// One run of a validation.
    Run {
        /// The deployment.
        deployment: DeploymentId,
        /// Its block, from 1.
        block: u32,
        /// Its place in the block, from 1 to 4.
        place: u32,
        /// Whether the new settings ran.
        candidate: bool,
        /// What was measured, or why not.
        outcome: Result<Measurement, TrialFailure>,
    },
    /// A deployment was judged.
    Verdict(Verdict),
    /// A verdict taught something.
    Lesson(Lesson),
    /// A turn of a conversation; in journals from before conversations had a file of their own.
    Turn(Turn),
    /// Everything was stopped, or may go on.
    Switch(Switch),
    /// The knobs of a domain were seen as somebody else set them.
    Adoption(Adoption),
    /// A person lets a frozen domain go on.
    Thaw(Thaw),
    /// A person wrote another baseline.
    Anchored(Anchored),
    /// What somebody wanted was turned away at the door.
    Refused(Refused),
    /// The operator's files were read again.
    Reload(Reload),
    /// A service was lent to an experiment.
    Loan(Loan),
    /// Something happened to a service that is lent.
    LoanStep {
        /// The loan.
        loan: DeploymentId,
        /// The experiment that has the service.
        experiment: ExperimentId,
        /// What happened.
        step: LoanStep,
    },
    /// A service was measured against itself.
    Calibration(Calibration),
}

/// One turn of a conversation, as it once stood in the journal. It is read and no longer written: what people say is kept where it
/// can be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The conversation; never empty.
    pub conversation: String,
    /// Whether the user said it.
    pub from_user: bool,
    /// What was said.
    pub text: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// The kind of a fact, as the journal indexes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the kind of the fact of the same name")]
pub enum Kind {
    Anomaly,
    Question,
    QuestionEnd,
    Experiment,
    Attempt,
    Experience,
    Trial,
    Generation,
    ExperimentEnd,
    Promotion,
    Ruling,
    Answer,
    Deployment,
    Step,
    Run,
    Verdict,
    Lesson,
    Turn,
    Switch,
    Adoption,
    Thaw,
    Anchored,
    Refused,
    Reload,
    Loan,
    LoanStep,
    Calibration,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 27] = [
        Kind::Anomaly,
        Kind::Question,
        Kind::QuestionEnd,
        Kind::Experiment,
        Kind::Attempt,
        Kind::Experience,
        Kind::Trial,
        Kind::Generation,
        Kind::ExperimentEnd,
        Kind::Promotion,
        Kind::Ruling,
        Kind::Answer,
        Kind::Deployment,
        Kind::Step,
        Kind::Run,
        Kind::Verdict,
        Kind::Lesson,
        Kind::Turn,
        Kind::Switch,
        Kind::Adoption,
        Kind::Thaw,
        Kind::Anchored,
        Kind::Refused,
        Kind::Reload,
        Kind::Loan,
        Kind::LoanStep,
        Kind::Calibration,
    ];

    /// Returns the kind as it stands in the journal.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Anomaly => "anomaly",
            Kind::Question => "question",
            Kind::QuestionEnd => "question_end",
            Kind::Experiment => "experiment",
            Kind::Attempt => "attempt",
            Kind::Experience => "experience",
            Kind::Trial => "trial",
            Kind::Generation => "generation",
            Kind::ExperimentEnd => "experiment_end",
            Kind::Promotion => "promotion",
            Kind::Ruling => "ruling",
            Kind::Answer => "answer",
            Kind::Deployment => "deployment",
            Kind::Step => "step",
            Kind::Run => "run",
            Kind::Verdict => "verdict",
            Kind::Lesson => "lesson",
            Kind::Turn => "turn",
            Kind::Switch => "switch",
            Kind::Adoption => "adoption",
            Kind::Thaw => "thaw",
            Kind::Anchored => "anchored",
            Kind::Refused => "refused",
            Kind::Reload => "reload",
            Kind::Loan => "loan",
            Kind::LoanStep => "loan_step",
            Kind::Calibration => "calibration",
        }
    }
}

impl Fact {
    /// Returns the kind of the fact.
    pub fn kind(&self) -> Kind {
        match self {
            Fact::Anomaly(_) => Kind::Anomaly,
            Fact::Question(_) => Kind::Question,
            Fact::QuestionEnd(_) => Kind::QuestionEnd,
            Fact::Experiment(_) => Kind::Experiment,
            Fact::Attempt(_) => Kind::Attempt,
            Fact::Experience(_) => Kind::Experience,
            Fact::Trial(_) => Kind::Trial,
            Fact::Generation(_) => Kind::Generation,
            Fact::ExperimentEnd(_) => Kind::ExperimentEnd,
            Fact::Promotion(_) => Kind::Promotion,
            Fact::Ruling(_) => Kind::Ruling,
            Fact::Answer(_) => Kind::Answer,
            Fact::Deployment(_) => Kind::Deployment,
            Fact::Step { .. } => Kind::Step,
            Fact::Run { .. } => Kind::Run,
            Fact::Verdict(_) => Kind::Verdict,
            Fact::Lesson(_) => Kind::Lesson,
            Fact::Turn(_) => Kind::Turn,
            Fact::Switch(_) => Kind::Switch,
            Fact::Adoption(_) => Kind::Adoption,
            Fact::Thaw(_) => Kind::Thaw,
            Fact::Anchored(_) => Kind::Anchored,
            Fact::Refused(_) => Kind::Refused,
            Fact::Reload(_) => Kind::Reload,
            Fact::Loan(_) => Kind::Loan,
            Fact::LoanStep { .. } => Kind::LoanStep,
            Fact::Calibration(_) => Kind::Calibration,
        }
    }

    /// Returns the id of what the fact is about: the journal finds a thing's whole history by it.
    pub fn subject(&self) -> &str {
        match self {
            Fact::Anomaly(anomaly) => &anomaly.subject,
            Fact::Question(question) => question.question_id.as_str(),
            Fact::QuestionEnd(end) => end.question.as_str(),
            Fact::Experiment(experiment) => experiment.id.as_str(),
            Fact::Attempt(attempt) => attempt.experiment.as_str(),
            Fact::Experience(experience) => experience.experiment.as_str(),
            Fact::Trial(trial) => trial.experiment.as_str(),
            Fact::Generation(generation) => generation.experiment.as_str(),
            Fact::ExperimentEnd(end) => end.experiment().as_str(),
            Fact::Promotion(promotion) => promotion.id.as_str(),
            Fact::Ruling(ruling) => ruling.promotion().as_str(),
            Fact::Answer(answer) => answer.promotion.as_str(),
            Fact::Deployment(deployment) => deployment.id.as_str(),
            Fact::Step { deployment, .. } | Fact::Run { deployment, .. } => deployment.as_str(),
            Fact::Verdict(verdict) => verdict.deployment.as_str(),
            Fact::Lesson(lesson) => &lesson.domain,
            Fact::Turn(turn) => &turn.conversation,
            Fact::Switch(_) => "switch",
            Fact::Adoption(adoption) => &adoption.domain,
            Fact::Thaw(thaw) => &thaw.domain,
            Fact::Anchored(anchored) => &anchored.domain,
            Fact::Refused(_) => "door",
            Fact::Reload(_) => "settings",
            Fact::Loan(loan) => loan.experiment.as_str(),
            Fact::LoanStep { experiment, .. } => experiment.as_str(),
            Fact::Calibration(calibration) => &calibration.domain,
        }
    }
}
