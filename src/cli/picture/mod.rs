//! Pictures of a search: how it converged, which parameters matter, and what is traded against what.
//!
//! Hears plain numbers and names. Says lines for a terminal, or one SVG that needs nothing else and is right in light and
//! dark.
//! Invariants: whatever stands in a name, it is shown and never obeyed, by neither a terminal nor a browser; a number that is
//! not finite is not drawn; a failure is drawn as a failure, never as a number.

mod scale;

mod paint;

mod plot;

mod bars;

mod svg;

mod file;

use std::collections::BTreeMap;

pub(super) use bars::importance;
pub(super) use file::SvgFile;
pub(super) use paint::{Canvas, Line, Span, Tone, head, line, table};
pub(super) use plot::plot;
pub(super) use scale::percent;
use serde::{Serialize, Serializer};
pub(super) use svg::{Panel, Stretch, series, svg};

/// Everything that is drawn of one search.
pub(super) struct Picture {
    /// What was searched.
    pub(super) title: String,
    /// What came of it.
    pub(super) subtitle: String,
    /// How it converged.
    pub(super) convergence: Convergence,
    /// Which parameters matter, or why that cannot be told.
    pub(super) importance: Result<Importance, String>,
    /// What is traded against what, where two metrics count.
    pub(super) scatter: Option<Scatter>,
}

/// The trials of a search in their order.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Convergence {
    /// What the numbers are.
    pub(super) scale: Scale,
    /// What the settings are called that are in use: they stand at the zero line.
    pub(super) zero_name: String,
    /// Where the zero line is, if it is known.
    pub(super) zero: Option<f64>,
    /// The trials.
    pub(super) marks: Vec<Mark>,
}

/// What the numbers of the trials are.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scale {
    /// Logarithms of how many times better than the settings in use; larger is better.
    Gain,
    /// A metric as it was measured.
    Metric {
        /// Its name.
        name: String,
        /// Whether more of it is better.
        more: bool,
    },
}

/// One trial.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Mark {
    /// The lot or generation that it belongs to.
    pub(super) group: u32,
    /// What was set, in words.
    pub(super) label: String,
    /// What came of it.
    #[serde(flatten)]
    pub(super) result: Came,
}

/// What came of a trial, as it is drawn.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Came {
    /// It was measured.
    Measured(f64),
    /// It was measured, but tripped the guard of a metric, so that it cannot win.
    Tripped {
        /// What it measured.
        value: f64,
        /// The metric.
        guard: String,
    },
    /// It failed, for a reason of this kind.
    Failed(String),
}

impl Convergence {
    /// Returns the best value after each trial, in order; `None` before anything was measured.
    pub(super) fn best_so_far(&self) -> Vec<Option<f64>> {
        let mut best: Option<f64> = None;
        let better = |value: f64, best: f64| if self.more_is_better() { value > best } else { value < best };
        let after = |mark: &Mark| {
            if let Came::Measured(value) = mark.result
                && value.is_finite()
                && best.is_none_or(|best| better(value, best))
            {
                best = Some(value);
            }
            best
        };
        self.marks.iter().map(after).collect()
    }

    fn more_is_better(&self) -> bool {
        !matches!(self.scale, Scale::Metric { more: false, .. })
    }

    /// Returns what a group is called, or a trial where each is a group of its own.
    fn group_noun(&self) -> &'static str {
        match self.scale {
            _ if self.marks.windows(2).all(|pair| pair[0].group != pair[1].group) => "trial",
            Scale::Gain => "generation",
            Scale::Metric { .. } => "lot",
        }
    }

    /// Returns the kinds of failures, each once, in order.
    fn failure_kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = Vec::new();
        for mark in &self.marks {
            if let Came::Failed(kind) = &mark.result
                && !kinds.contains(&kind.as_str())
            {
                kinds.push(kind);
            }
        }
        kinds
    }
}

/// How much each parameter matters, the most important first.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Importance {
    /// How much of the differences the model foretells, from 0 to 1.
    pub(super) explained: f64,
    /// The parameters.
    pub(super) bars: Vec<Bar>,
}

/// How much one parameter matters.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Bar {
    /// Its name.
    pub(super) name: String,
    /// Its share alone and together with others, from 0 to 1.
    pub(super) total: f64,
    /// Its share alone, from 0 to `total`.
    pub(super) alone: f64,
}

/// Writes an importance, or `{"unclear": why}`.
pub(super) fn either<S: Serializer>(importance: &Result<Importance, String>, serializer: S) -> Result<S::Ok, S::Error> {
    match importance {
        Ok(importance) => importance.serialize(serializer),
        Err(why) => BTreeMap::from([("unclear", why)]).serialize(serializer),
    }
}

impl From<kloros_search::Importance> for Importance {
    fn from(found: kloros_search::Importance) -> Self {
        let bar = |share: kloros_search::Share| Bar { name: share.name, total: share.total, alone: share.alone };
        Self { explained: found.explained, bars: found.parameters.into_iter().map(bar).collect() }
    }
}

/// Two metrics against each other.
pub(super) struct Scatter {
    /// The metric to the right, and whether more of it is better.
    pub(super) x: (String, bool),
    /// The metric upwards, and whether more of it is better.
    pub(super) y: (String, bool),
    /// The candidates.
    pub(super) dots: Vec<Dot>,
}

/// One candidate by two metrics.
pub(super) struct Dot {
    /// Where it is.
    pub(super) at: (f64, f64),
    /// What was set, in words.
    pub(super) label: String,
    /// What it is.
    pub(super) role: Role,
}

/// What a candidate is among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Another one beats it in everything.
    Beaten,
    /// No other one beats it in everything.
    Front,
    /// The settings in use.
    Live,
}
