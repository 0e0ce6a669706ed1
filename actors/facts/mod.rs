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

mod load;

pub mod window;

mod in_place;

mod back_off;

mod bench;

mod domain;

mod command_line;

mod knob;

mod signal;

mod trouble;

mod trades;

mod intent;

mod budget;

mod experiment;

mod void;

mod promotion;

mod policy;

mod deployment;

mod loan;

mod open;

mod calibration;

mod verdict;

mod lesson;

mod entry;

mod conversation;

pub use agreement::agrees;
pub(crate) use agreement::{is_same, means, meant, says};
pub use back_off::BackOff;
pub use bench::{
    BenchLoad, BenchSpec, ChatSlo, HttpBench, HttpPath, PrometheusBench, PrometheusSeries, PrometheusTake, SoundFormat,
    SpeechBench, SpeechSlo, TokenRange,
};
pub use budget::{Budget, WALL_S_MAX, WALL_S_MIN};
pub use calibration::{Calibration, Noise};
pub use command_line::{Takes, keys_in};
pub use conversation::{Episode, Event, Forgetting, OpenEpisode, Role, Said, Talk};
pub use deployment::{Deployment, IllegalStep, Stage, Step, stages};
pub use domain::{
    Check, Direction, Domain, Guard, Isolation, Manager, MetricSpec, Objective, ReadBack, Ready, ReadyBy, Scope,
    ServiceSpec,
};
pub use entry::{Entry, Fact, Kind, Recorded, Turn};
pub use experiment::{
    Attempt, Best, Dimension, EarlierTrial, Experience, Experiment, ExperimentEnd, ExperimentSpec, FailureKind,
    Generation, Measurement, Outcome, Trial, TrialFailure, When, Winner,
};
pub use ids::{
    CycleId, DeploymentId, ExperimentId, Incarnation, Key, PromotionId, QuestionId, content_hash, short_hash,
};
pub use in_place::InPlace;
pub use intent::{Evidence, Intent, Proposal, Question, QuestionEnd};
pub use knob::{Apply, Knob, KnobKind};
pub use lesson::Lesson;
pub use load::{Limit, Load, PerUnit, Resource, Room};
pub use loan::{Loan, LoanStep, loans};
pub use open::{TELLING, is_open};
pub use policy::{Adoption, Anchored, Changed, Held, Refused, Reload, Reloaded, Stop, Switch, Thaw};
pub use promotion::{
    Answer, Approved, Authority, Autonomy, Change, MappingProblem, Origin, Promotion, Risk, Ruling, map_params,
};
pub use quiet::{Others, Quiet, usual};
pub use signal::{Anomaly, AnomalyKind, Reading};
pub use trades::Trades;
pub use trouble::Trouble;
pub use value::{Metrics, Params, Settings, Value};
pub use verdict::{Baseline, Estimate, Reason, Ruled, Verdict};
pub(crate) use verdict::{SHRINKAGE, between};
pub use void::{UNMEASURED, VoidCause};
pub use window::Window;
