use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{Change, CycleId, DeploymentId, Incarnation, Key, Metrics, QuestionId};

/// What the validator says of a deployment; exactly one each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The cycle it belongs to.
    pub cycle: CycleId,
    /// The experiment's name, or `try`.
    pub experiment: String,
    /// The domain.
    pub domain: String,
    /// The question behind it, if one was asked.
    pub question: Option<QuestionId>,
    /// What the question suspects, if one was asked.
    pub hypothesis: Option<String>,
    /// What was changed.
    pub changes: BTreeMap<Key, Change>,
    /// Kept with a new baseline, kept, or undone.
    pub outcome: Ruled,
    /// Why.
    pub reason: Reason,
    /// How much better the new settings are; absent when it could not be measured.
    pub improvement: Option<Estimate>,
    /// Medians of the old settings, metric by metric.
    pub before: Metrics,
    /// Medians of the new settings, metric by metric.
    pub after: Metrics,
    /// How many blocks of four runs stand behind it.
    pub blocks: u32,
    /// How many requests or observations stand behind it.
    pub samples: u64,
    /// How many runs were made for it, those of void blocks too; 0 in verdicts from before they were counted.
    #[serde(default)]
    pub runs: u32,
    /// What the domain is held to from now on; absent where the verdict moves that nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// The numbers that a domain is held to, and what stands behind them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The numbers; finite, none negative.
    pub metrics: Metrics,
    /// The standard deviation of each metric from run to run, in its own unit.
    pub spread: Metrics,
    /// How many runs that is.
    pub n: u32,
    /// A hash of all that the service said it ran with in these runs; absent where it said nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// How strongly a gain is drawn back for its uncertainty: one half as wide as it is large is believed to a quarter.
pub(crate) const SHRINKAGE: f64 = 3.0;

impl Verdict {
    /// Returns what the baseline moves to after a success: medians that luck does not raise.
    ///
    /// Of many changes without any effect, those pass that measured well by luck, and their medians are as lucky. What is
    /// certified lies between old and new, and beyond the middle only as far as the gain is large beside its own uncertainty:
    /// without an effect the middle of both sides is right on average, and with a large one the new side is. The share is
    /// the positive part of the James-Stein shrinkage of the gain, with the half width of its interval for the spread.
    pub fn certified(&self) -> Metrics {
        let vouched = self.improvement.map_or(0.0, |Estimate { ratio, low, .. }| {
            let (gain, margin) = (ratio.ln_1p(), ratio.ln_1p() - low.ln_1p());
            1.0 - SHRINKAGE * (margin / gain).powi(2)
        });
        let share = if vouched.is_finite() { f64::midpoint(1.0, vouched.clamp(0.0, 1.0)) } else { 0.5 };
        between(&self.before, &self.after, share)
    }

    /// Returns what the domain is held to from this verdict on, where that moves.
    pub fn certifies(&self) -> Option<Metrics> {
        match &self.baseline {
            Some(baseline) => Some(baseline.metrics.clone()),
            // An older kloros moved it with each success, and did not write down where to.
            None => (self.runs == 0 && self.outcome == Ruled::Success).then(|| self.certified()),
        }
    }
}

/// Returns the numbers that lie a `share` of the way from one side to the other: 0 is `from`, 1 is `to`.
pub(crate) fn between(from: &Metrics, to: &Metrics, share: f64) -> Metrics {
    let between = |(name, to): (&String, &f64)| {
        let from = from.get(name).copied().unwrap_or(*to);
        // From zero there is no ratio, so the plain mean stands for it.
        let value = if from > 0.0 && *to > 0.0 { from * (to / from).powf(share) } else { from + (to - from) * share };
        (name.clone(), value)
    };
    to.iter().map(between).collect()
}

/// The three verdicts of Pattern 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruled {
    /// At least two percent better: kept, and the baseline moves.
    Success,
    /// In between: kept, and the baseline stays.
    Neutral,
    /// More than five percent worse, or not proven to be better than that: undone.
    Rollback,
}

impl Ruled {
    /// Returns the verdict as one word: `success`, `neutral` or `rollback`.
    pub fn label(self) -> &'static str {
        match self {
            Ruled::Success => "success",
            Ruled::Neutral => "neutral",
            Ruled::Rollback => "rollback",
        }
    }
}

impl fmt::Display for Ruled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

/// An estimate with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The estimate, as a ratio: 0.02 is two percent better.
    pub ratio: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
}

/// An interval whose upper end is more than so many times its lower one, as ratios of new to old, tells no size.
const WIDTH_MAX: f64 = 4.0;

impl Estimate {
    /// Returns whether it says that there is a gain and about how large: its interval lies above 0, and its upper end is at most four
    /// times its lower one, as ratios of new to old.
    pub fn is_established(&self) -> bool {
        self.low > 0.0 && self.high.is_finite() && 1.0 + self.high <= WIDTH_MAX * (1.0 + self.low)
    }
}

/// Why a verdict is what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// It measured at least as good as the threshold asks.
    Improved,
    /// It measured neither better nor worse enough.
    InBetween,
    /// It measured worse than the limit.
    Worse,
    /// At the end of the budget a loss beyond the limit could not be excluded.
    Unproven,
    /// A metric tripped its own guard.
    Guard {
        /// The metric.
        metric: String,
    },
    /// A metric that the old settings had is gone.
    MetricLost {
        /// The metric.
        metric: String,
    },
    /// Too many runs could not be measured.
    Inconclusive {
        /// In words.
        why: String,
    },
    /// The service did not come up with the new values, or was not well with them.
    NotHealthy {
        /// In words.
        why: String,
    },
    /// The service came up, and then died or was restarted by somebody else before it was judged.
    Died {
        /// In words.
        why: String,
    },
    /// The service came up, but with other values.
    NotEffective {
        /// In words.
        why: String,
    },
    /// The change could not be made; nothing or everything was undone.
    Aborted {
        /// In words.
        why: String,
    },
    /// kloros died or was stopped while the change was not yet proven.
    Crash,
    /// A person undid it.
    Person {
        /// The user id.
        uid: u32,
    },
    /// A person stopped everything while the change was not yet proven.
    Stopped {
        /// Who and why, in words.
        why: String,
    },
    /// It was measured in place, and its maintenance window ended before it was proven.
    WindowEnded,
    /// A person changed one of its keys meanwhile; theirs stands.
    HumanOverride {
        /// The key.
        key: Key,
    },
}

impl Reason {
    /// The reasons, as one word each, for which a change is taken back.
    pub const AGAINST: [&'static str; 14] = [
        "worse",
        "unproven",
        "guard",
        "metric_lost",
        "inconclusive",
        "not_healthy",
        "died",
        "not_effective",
        "aborted",
        "crash",
        "person",
        "stopped",
        "window_ended",
        "human_override",
    ];

    /// Returns the reason as one word, also used as a metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Reason::Improved => "improved",
            Reason::InBetween => "in_between",
            Reason::Worse => "worse",
            Reason::Unproven => "unproven",
            Reason::Guard { .. } => "guard",
            Reason::MetricLost { .. } => "metric_lost",
            Reason::Inconclusive { .. } => "inconclusive",
            Reason::NotHealthy { .. } => "not_healthy",
            Reason::Died { .. } => "died",
            Reason::NotEffective { .. } => "not_effective",
            Reason::Aborted { .. } => "aborted",
            Reason::Crash => "crash",
            Reason::Person { .. } => "person",
            Reason::Stopped { .. } => "stopped",
            Reason::WindowEnded => "window_ended",
            Reason::HumanOverride { .. } => "human_override",
        }
    }

    /// Returns why a service that was `proven` to run is not the one that runs `now`; `None` when it is, or when it could
    /// not be told from the beginning. One that can no longer be told is not taken for the same.
    pub fn of_incarnations(proven: Option<&Incarnation>, now: Option<&Incarnation>) -> Option<Self> {
        let why = match (proven?, now) {
            (proven, Some(now)) if proven == now => return None,
            (proven, Some(now)) => format!("it was {proven} and is {now}"),
            (proven, None) => format!("it was {proven}, and what runs now cannot be told"),
        };
        Some(Reason::Died { why })
    }

    /// Returns whether it tells something about the settings themselves, rather than about the circumstances.
    pub fn blames_the_settings(&self) -> bool {
        matches!(
            self,
            Reason::Worse
                | Reason::Unproven
                | Reason::Guard { .. }
                | Reason::MetricLost { .. }
                | Reason::NotHealthy { .. }
                | Reason::Died { .. }
                | Reason::NotEffective { .. }
        )
    }
}

/// Prints the reason as part of a sentence.
impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Improved => formatter.write_str("it measured better"),
            Reason::InBetween => formatter.write_str("it measured neither better nor worse"),
            Reason::Worse => formatter.write_str("it measured worse"),
            Reason::Unproven => formatter.write_str("a loss beyond the limit could not be excluded"),
            Reason::Guard { metric } => write!(formatter, "{metric} tripped its guard"),
            Reason::MetricLost { metric } => {
                write!(formatter, "{metric} was there before and is gone")
            }
            Reason::Inconclusive { why } => write!(formatter, "it could not be measured: {why}"),
            Reason::NotHealthy { why } => write!(formatter, "the service was not well: {why}"),
            Reason::Died { why } => write!(formatter, "the service died while it was measured: {why}"),
            Reason::NotEffective { why } => {
                write!(formatter, "the service runs with other values: {why}")
            }
            Reason::Aborted { why } => write!(formatter, "the change could not be made: {why}"),
            Reason::Crash => formatter.write_str("kloros ended before it was proven"),
            Reason::Person { uid } => write!(formatter, "user {uid} asked for it"),
            Reason::Stopped { why } => formatter.write_str(why),
            Reason::WindowEnded => formatter.write_str("its maintenance window ended before it was proven"),
            Reason::HumanOverride { key } => {
                write!(formatter, "{key} was edited by hand meanwhile")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_certified_lies_beyond_the_middle_only_as_far_as_the_gain_is_vouched_for() {
        let verdict = |improvement| Verdict {
            deployment: DeploymentId::new("d-1"),
            cycle: CycleId::new("c-1"),
            experiment: "x".to_owned(),
            domain: "lab".to_owned(),
            question: None,
            hypothesis: None,
            changes: BTreeMap::new(),
            outcome: Ruled::Success,
            reason: Reason::Improved,
            improvement,
            before: [("rate".to_owned(), 100.0), ("errors".to_owned(), 0.0)].into(),
            after: [("rate".to_owned(), 121.0), ("errors".to_owned(), 0.5), ("new".to_owned(), 7.0)].into(),
            blocks: 6,
            samples: 24,
            runs: 0,
            baseline: None,
            at_ms: 0,
        };
        let estimate = |low| Some(Estimate { ratio: 0.21, low, high: 0.5 });
        for (improvement, rate, errors) in [
            (estimate(0.21), 121.0, 0.5),
            (estimate(0.0), 110.0, 0.25),
            (estimate(-0.3), 110.0, 0.25),
            (None, 110.0, 0.25),
        ] {
            let certified = verdict(improvement).certified();
            assert!((certified["rate"] - rate).abs() < 1e-9, "{certified:?}");
            assert!((certified["errors"] - errors).abs() < 1e-9, "{certified:?}");
            assert_eq!(certified["new"], 7.0);
        }
    }

    #[test]
    fn a_gain_is_established_where_its_interval_lies_above_nothing_and_is_not_too_wide() {
        for (low, high, is_established) in [
            (0.01, 0.2, true),
            (0.0, 0.2, false),
            (-0.94, 222.41, false),
            (0.5, 4.9, true),
            (0.5, 5.1, false),
            (4.0, 19.0, true),
            (f64::NAN, 1.0, false),
            (0.1, f64::INFINITY, false),
        ] {
            assert_eq!(Estimate { ratio: 0.1, low, high }.is_established(), is_established, "{low} to {high}");
        }
    }

    #[test]
    fn a_service_is_the_same_only_while_its_incarnation_is() {
        let incarnation = |text: &str| Incarnation::new(text);
        let (one, other) = (incarnation("pid 7"), incarnation("pid 8"));
        let table = [
            (Some(&one), Some(&one), false),
            (Some(&one), Some(&other), true),
            (Some(&one), None, true),
            (None, Some(&one), false),
            (None, None, false),
        ];
        for (proven, now, died) in table {
            let reason = Reason::of_incarnations(proven, now);
            assert_eq!(reason.as_ref().map(Reason::label), died.then_some("died"), "{proven:?} {now:?}");
        }
    }
}
