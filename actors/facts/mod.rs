//! What flows through the loop: plain data, written to the journal as it is.
//!
//! Reading -> [`Anomaly`] -> [`Question`] -> [`Experiment`] -> [`Trial`]* -> [`Winner`] -> [`Promotion`] ->
//! [`Approved`] -> [`Deployment`] -> [`Verdict`] -> [`Lesson`] -> back to the observer and curiosity.
//! Every fact carries the id of the cycle that caused it, so one cycle reads as one story.

mod ids;

mod value;

mod agreement;

pub mod objective;

mod quiet;

mod domain;

mod knob;

mod signal;

mod intent;

mod experiment;

mod promotion;

mod policy;

mod deployment;

mod verdict;

mod lesson;

mod entry;

pub use agreement::agrees;
pub(crate) use agreement::{is_same, means, meant, says};
pub use deployment::{Deployment, IllegalStep, Stage, Step, stages};
pub use domain::{
    BenchSpec, ChatLoad, ChatSlo, Direction, Domain, Guard, Isolation, Manager, MetricSpec, Objective, ReadBack, Ready,
    ServiceSpec, TokenRange,
};
pub use entry::{Entry, Fact, Kind, Recorded, Turn};
pub use experiment::{
    Best, Budget, Dimension, EarlierTrial, Experience, Experiment, ExperimentEnd, ExperimentSpec, FailureKind,
    Generation, Measurement, Outcome, Trial, TrialFailure, When, Winner,
};
pub use ids::{
    CycleId, DeploymentId, ExperimentId, Incarnation, Key, PromotionId, QuestionId, content_hash, short_hash,
};
pub use intent::{Evidence, Intent, Proposal, Question, QuestionEnd};
pub use knob::{Apply, Knob, KnobKind};
pub use lesson::Lesson;
pub use policy::{Adoption, Anchored, Held, Stop, Switch, Thaw};
pub use promotion::{
    Answer, Approved, Authority, Autonomy, Change, MappingProblem, Origin, Promotion, Risk, Ruling, map_params,
};
pub use quiet::{Others, Quiet, usual};
pub use signal::{Anomaly, AnomalyKind, Reading};
pub use value::{Metrics, Params, Settings, Value};
pub use verdict::{Estimate, Reason, Ruled, Verdict};
