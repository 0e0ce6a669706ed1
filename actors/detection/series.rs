//! From rows to values: counters become rates, what is no number is missing, and the clock is not trusted.

use serde::{Deserialize, Serialize};

/// The shortest and the longest step that is believed, in seconds.
const STEP_MIN: f64 = 1e-6;
const STEP_MAX: f64 = 1e9;

/// Seconds a day.
const DAY: f64 = 86_400.0;

/// The largest size of a value that is told apart from larger ones.
const VALUE_MAX: f64 = 1e30;

/// What a series counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A value that goes up and down.
    #[default]
    Gauge,
    /// A sum that only grows, until whatever counts is started anew.
    Counter,
}

/// What of a row is looked at.
pub(crate) struct Sample {
    /// Seconds of the epoch, if the row says.
    pub(crate) at: Option<f64>,
    /// The value, or the growth of a counter; `None` where there is none.
    pub(crate) value: Option<f64>,
    /// Whether a value should have been there.
    pub(crate) is_missing: bool,
}

/// What was last seen of the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    rows: u32,
    step: f64,
    rows_a_day: f32,
    is_step_known: bool,
    at: Option<f64>,
    count: Option<f64>,
    counted_at: f64,
}

impl Series {
    pub(crate) fn new(step: Option<f64>) -> Self {
        let known = step.filter(|step| step.is_finite() && *step > 0.0);
        let step = known.unwrap_or(60.0).clamp(STEP_MIN, STEP_MAX);
        Self {
            rows: 0,
            step,
            rows_a_day: (DAY / step) as f32,
            is_step_known: known.is_some(),
            at: None,
            count: None,
            counted_at: 0.0,
        }
    }

    /// Returns how many rows were taken, missing ones too.
    pub(crate) fn rows(&self) -> f32 {
        self.rows as f32
    }

    /// Returns how many rows a day has, as far as it is known.
    pub(crate) fn rows_a_day(&self) -> f32 {
        self.rows_a_day
    }

    /// Takes a row.
    #[inline]
    pub(crate) fn take(&mut self, kind: Kind, at: Option<f64>, value: Option<f64>) -> Sample {
        self.rows = self.rows.saturating_add(1);
        let at = at.filter(|at| at.abs() < 1e13);
        let elapsed = at.zip(self.at).map(|(now, before)| now - before).filter(|elapsed| *elapsed > 0.0);
        if let Some(elapsed) = elapsed
            && !self.is_step_known
        {
            // The least of the first steps, and then ever closer to a median: a gap is no step.
            self.step = if self.rows == 2 {
                elapsed
            } else {
                self.step + (elapsed - self.step).clamp(-0.1 * self.step, 0.1 * self.step)
            };
            self.step = self.step.clamp(STEP_MIN, STEP_MAX);
            self.rows_a_day = (DAY / self.step) as f32;
        }
        if at.is_some() {
            self.at = at;
        }
        let value = value.filter(|value| value.is_finite()).map(|value| value.clamp(-VALUE_MAX, VALUE_MAX));
        let Some(value) = value else { return Sample { at, value: None, is_missing: true } };
        if kind == Kind::Gauge {
            return Sample { at, value: Some(value), is_missing: false };
        }
        let before = self.count.replace(value);
        let since = std::mem::replace(&mut self.counted_at, at.unwrap_or(0.0));
        // A counter that is smaller than it was began anew: what it counted in between is not known.
        let growth = before.filter(|before| *before <= value).map(|before| {
            let elapsed = at.filter(|_| since != 0.0).map(|now| now - since);
            let steps = elapsed.filter(|elapsed| *elapsed > 0.0).map_or(1.0, |elapsed| elapsed / self.step);
            (value - before) / if (0.75..1.25).contains(&steps) { 1.0 } else { steps.max(1e-3) }
        });
        Sample { at, value: growth, is_missing: false }
    }
}
