//! The detector of one series.

use serde::{Deserialize, Serialize};

use crate::{
    gate::Gate,
    measures::Measures,
    places::log2,
    runs::Runs,
    series::{Kind, Series},
    tail::{Paces, Tails},
    tuning::{STATISTICS, TAILS, Tuning},
};

/// What is known of a series before its first row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Whether its values or their growth count.
    pub kind: Kind,
    /// Seconds from row to row; `None` where the timestamps are to tell.
    pub step: Option<f64>,
    /// Rows during which it learns and raises nothing.
    pub warmup: u32,
}

/// What is said of one row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// How unlike its past it is, from 0 to 1; the decision is made at one half.
    pub score: f64,
    /// Whether it begins an incident.
    pub alarm: bool,
    /// Whether the incident that an alarm began goes on.
    pub open: bool,
    /// What is unlike the past, if anything is.
    pub cause: Cause,
    /// What was expected of the value.
    pub expected: Option<f64>,
    /// How far the value is from that, in mean deviations.
    pub off: f64,
}

impl Finding {
    /// Returns whether this, said of a load, explains that what bears the load is unlike its past, too.
    pub fn is_surge(&self) -> bool {
        self.open || self.off.abs() > SURGE
    }
}

/// How far a load is from what was expected, in mean deviations, where it is a surge.
const SURGE: f64 = 4.0;

/// What about a series is unlike its past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nothing.
    None,
    /// One value, or few.
    Spike,
    /// The level, for longer.
    Shift,
    /// It grows or falls more steadily than it did.
    Ramp,
    /// It swings more or less than it did.
    Volatility,
    /// It is where it never is at that time of day.
    Season,
    /// It is in a place of its range where it is seldom.
    Place,
    /// It stays in one place for longer than it ever did.
    Stuck,
    /// It does not move any more.
    Flat,
    /// Its values do not come any more.
    Missing,
}

/// What each statistic is about.
const CAUSES: [Cause; STATISTICS] = [
    Cause::Spike,
    Cause::Spike,
    Cause::Shift,
    Cause::Volatility,
    Cause::Volatility,
    Cause::Spike,
    Cause::Spike,
    Cause::Season,
    Cause::Season,
    Cause::Shift,
    Cause::Volatility,
    Cause::Shift,
    Cause::Ramp,
    Cause::Place,
    Cause::Shift,
    Cause::Shift,
    Cause::Stuck,
    Cause::Flat,
];

/// Rows in which scales are found.
const FIRST_ROWS: u32 = 10;

/// Rows that a statistic is heard before it counts.
const HEARD_ROWS: f32 = 60.0;

/// The statistics that are measured once there is a profile of the day, and once there are places.
const OF_SEASON: [usize; 2] = [7, 8];
const OF_PLACES: [usize; 1] = [13];

/// The statistic that counts how many others are in their tails, and the most that count with one row.
const CROWD: usize = 10;
const CROWD_MAX: f32 = 4.0;

/// The size of an ordinary value of each statistic, before anything was seen.
const TYPICAL: [f32; TAILS] = [2.5, 2.5, 2.5, 1.0, 1.0, 0.1, 0.1, 2.5, 1.5, 1.0, 1.2, 1.0, 1.0, 3.0, 6.0, 6.0];

/// The shortest warm-up that memories are measured by, in rows.
const WARMUP_MIN: u32 = 60;

/// The state of one series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detector {
    kind: Kind,
    warmup: u32,
    series: Series,
    measures: Measures,
    tails: Tails,
    same: Runs,
    missing: Runs,
    gate: Gate,
    /// How many measures were in their tails of late.
    crowd: f32,
}

impl Detector {
    /// Returns the detector of a series of which nothing was seen.
    pub fn new(setup: Setup) -> Self {
        Self {
            kind: setup.kind,
            warmup: setup.warmup,
            series: Series::new(setup.step),
            measures: Measures::new(),
            tails: Tails::new(TYPICAL),
            same: Runs::new(),
            missing: Runs::new(),
            gate: Gate::new(),
            crowd: 0.0,
        }
    }

    /// Hears the value at `at` seconds of the epoch, and says what it makes of it.
    pub fn observe(&mut self, at: Option<f64>, value: Option<f64>) -> Finding {
        self.observe_with(&Tuning::SHIPPED, at, value)
    }

    /// Hears a value with other numbers than the shipped ones, to find better ones.
    #[inline]
    pub fn observe_with(&mut self, tuning: &Tuning, at: Option<f64>, value: Option<f64>) -> Finding {
        let warmup = self.warmup.max(WARMUP_MIN);
        let a_warmup = 1.0 / warmup as f32;
        let forget = a_warmup * (1.0 / 6.0);
        let sample = self.series.take(self.kind, at, value);
        let seen = self.series.rows();
        let is_warm = seen > self.warmup as f32;
        let gone = self.missing.step(sample.is_missing, (seen, forget));
        let Some(value) = sample.value else {
            // A fault in the scrape says nothing of the series: all but the count of what is missing stays as it is.
            let evidence = if is_warm { gone } else { 0.0 };
            return self.conclude(tuning, a_warmup, (evidence, Cause::Missing), None, 0.0);
        };
        let mut stats = [0.0_f32; TAILS];
        let setting = (f64::from(warmup), self.series.rows_a_day());
        let measured = self.measures.step(tuning, setting, (sample.at, value), &mut stats);
        // Peaks that are ordinary one by one are not when they come close together.
        stats[CROWD] = self.crowd;
        let rows = self.measures.rows;
        let flat = self.same.step(measured.is_same, (rows as f32, forget));
        let mut evidence = 0.0_f32;
        let mut most = (0.0_f32, 0);
        let mut count = |index: usize, surprise: f32| {
            let said = tuning.weights[index] * (surprise.min(tuning.cap) - tuning.base).max(0.0);
            evidence += said;
            if said > most.0 {
                most = (said, index);
            }
        };
        // In the first rows no scale is known, and nothing that is divided by one means anything.
        if rows > FIRST_ROWS {
            let (of_day, of_place) = (self.measures.season_rows as f32, self.measures.places_rows as f32);
            let memory = tuning.peaks;
            let paces =
                Paces::of(rows as f32, memory).but(&OF_SEASON, of_day, memory).but(&OF_PLACES, of_place, memory);
            // The rows of a fault would teach that the next one is ordinary. What lasts is learned all the same: by
            // the levels, and here slowly.
            let share = if self.gate.is_open() { tuning.incident } else { 1.0 };
            let peaks = self.tails.step(&stats, (&paces, share), tuning, |index, surprise| {
                // A statistic that has only begun to speak has to be heard for a while.
                let is_heard = match index {
                    index if OF_SEASON.contains(&index) => of_day > HEARD_ROWS,
                    index if OF_PLACES.contains(&index) => of_place > HEARD_ROWS,
                    _ => rows as f32 > HEARD_ROWS,
                };
                if is_heard {
                    count(index, surprise);
                }
            });
            self.crowd += (peaks.min(CROWD_MAX) - self.crowd) * (a_warmup * (1.0 / tuning.crowd)).clamp(0.0, 0.2);
        }
        count(TAILS, measured.stay);
        count(TAILS + 1, flat);
        let evidence = if is_warm { evidence } else { 0.0 };
        self.conclude(tuning, a_warmup, (evidence, CAUSES[most.1]), Some(measured.expected), measured.off)
    }

    #[inline]
    fn conclude(
        &mut self,
        tuning: &Tuning,
        a_warmup: f32,
        (evidence, cause): (f32, Cause),
        expected: Option<f64>,
        off: f64,
    ) -> Finding {
        let days = (self.series.rows_a_day() * (1.0 / ROWS_A_DAY)).max(1.0);
        let needed = tuning.alarm * (1.0 + tuning.haste * log2(days));
        let evidence = evidence.min(tuning.row * needed);
        let said = self.gate.step(evidence, tuning, needed, a_warmup);
        let score = if said > 0.0 { f64::from(said / (said + needed)) } else { 0.0 };
        let cause = if said > 0.0 { cause } else { Cause::None };
        Finding { score, alarm: said >= needed, open: self.gate.is_open(), cause, expected, off }
    }
}

/// Rows a day, one in five minutes, up to which the evidence that an alarm needs is the same.
const ROWS_A_DAY: f32 = 288.0;
