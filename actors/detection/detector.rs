//! The detector of one series.

use serde::{Deserialize, Serialize};

use crate::{
    gate::Gate,
    places::Places,
    runs::Runs,
    season::{Hour, Season},
    series::{Kind, Series},
    tail::Tail,
    tuning::{STATISTICS, Tuning},
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

const CAUSES: [Cause; STATISTICS] = [
    Cause::Spike,
    Cause::Spike,
    Cause::Shift,
    Cause::Shift,
    Cause::Volatility,
    Cause::Volatility,
    Cause::Spike,
    Cause::Spike,
    Cause::Season,
    Cause::Season,
    Cause::Season,
    Cause::Shift,
    Cause::Volatility,
    Cause::Ramp,
    Cause::Place,
    Cause::Ramp,
    Cause::Shift,
    Cause::Shift,
    Cause::Stuck,
    Cause::Flat,
];

/// Rows in which scales are found.
const FIRST_ROWS: u32 = 10;

/// Since when a statistic is measured: from the first rows on, since there is a profile of the day, or places.
const SINCE: [usize; TAILS] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 2, 0, 0, 0];

/// How many statistics have a tail; the others say themselves how rare they are.
const TAILS: usize = STATISTICS - 2;

/// The state of one series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detector {
    setup: Setup,
    series: Series,
    /// Rows with a value.
    rows: u32,
    /// Rows with a profile of the day, and with places.
    season_rows: u32,
    places_rows: u32,
    origin: f64,
    last: f64,
    jump: f64,
    jump_next: f64,
    fast: f64,
    slow: f64,
    short_mean: f64,
    horizon_mean: f64,
    long_mean: f64,
    slope: f64,
    slope_long: f64,
    fast_scale: f64,
    slow_scale: f64,
    slope_scale: f64,
    season_level: f64,
    season_scale: f64,
    season_smooth: f64,
    short_swing: f64,
    horizon_swing: f64,
    long_swing: f64,
    high: f64,
    low: f64,
    sums: [f32; 2],
    rare: f32,
    tails: [Tail; TAILS],
    season: Season,
    places: Places,
    same: Runs,
    missing: Runs,
    gate: Gate,
}

impl Detector {
    /// Returns the detector of a series of which nothing was seen.
    pub fn new(setup: Setup) -> Self {
        let typical = [
            2.5, 2.5, 2.5, 2.5, 1.0, 1.0, 0.1, 0.1, 2.5, 2.5, 1.5, 1.0, 0.5, 1.0, 3.0, 2.0, 6.0, 6.0,
        ];
        Self {
            setup,
            series: Series::new(setup.step),
            rows: 0,
            season_rows: 0,
            places_rows: 0,
            origin: 0.0,
            last: 0.0,
            jump: 0.0,
            jump_next: 0.0,
            fast: 0.0,
            slow: 0.0,
            short_mean: 0.0,
            horizon_mean: 0.0,
            long_mean: 0.0,
            slope: 0.0,
            slope_long: 0.0,
            fast_scale: 0.0,
            slow_scale: 0.0,
            slope_scale: 0.0,
            season_level: 0.0,
            season_scale: 0.0,
            season_smooth: 0.0,
            short_swing: 0.0,
            horizon_swing: 0.0,
            long_swing: 0.0,
            high: 0.0,
            low: 0.0,
            sums: [0.0; 2],
            rare: 0.0,
            tails: typical.map(Tail::new),
            season: Season::new(),
            places: Places::new(),
            same: Runs::new(),
            missing: Runs::new(),
            gate: Gate::new(),
        }
    }

    /// Hears the value at `at` seconds of the epoch, and says what it makes of it.
    pub fn observe(&mut self, at: Option<f64>, value: Option<f64>) -> Finding {
        self.observe_with(&Tuning::SHIPPED, at, value)
    }

    /// Hears a value with other numbers than the shipped ones, to find better ones.
    #[inline]
    pub fn observe_with(&mut self, tuning: &Tuning, at: Option<f64>, value: Option<f64>) -> Finding {
        let memory = (self.setup.warmup as f32).max(60.0);
        let sample = self.series.take(self.setup.kind, at, value);
        let seen = self.series.rows();
        let gone = self.missing.step(sample.is_missing, seen, memory * 6.0);
        let Some(value) = sample.value else {
            let evidence = if seen > self.setup.warmup as f32 { gone } else { 0.0 };
            return self.conclude(tuning, evidence, Cause::Missing, None, 0.0);
        };
        if self.rows == 0 {
            self.begin(value);
        }
        let mut stats = [0.0_f32; TAILS];
        let (expected, off, stay) = self.measure(tuning, sample.at, value, &mut stats);
        let flat = self.same.step(value == self.last, self.rows as f32, memory * 6.0);
        self.last = value;
        let rows = self.rows as f32;
        let mut evidence = 0.0_f32;
        let mut most = (0.0_f32, 0);
        let mut count = |index: usize, surprise: f32| {
            if surprise > tuning.base {
                let said = tuning.weights[index] * (surprise.min(tuning.cap) - tuning.base);
                evidence += said;
                if said > most.0 {
                    most = (said, index);
                }
            }
        };
        // In the first rows no scale is known, and nothing that is divided by one means anything.
        if self.rows >= FIRST_ROWS {
            let since = [rows, self.season_rows as f32, self.places_rows as f32];
            for (index, (tail, value)) in self.tails.iter_mut().zip(stats).enumerate() {
                // A statistic that has only begun to speak has to be heard for a while.
                let heard = since[SINCE[index]];
                if heard > 60.0 {
                    count(index, tail.surprise(value));
                }
                if heard > 0.0 {
                    tail.learn(value, heard, tuning.peaks);
                }
            }
        }
        count(TAILS, stay);
        count(TAILS + 1, flat);
        self.rows = self.rows.saturating_add(1);
        if seen <= self.setup.warmup as f32 {
            evidence = 0.0;
        }
        self.conclude(tuning, evidence, CAUSES[most.1], Some(expected), off)
    }

    fn begin(&mut self, value: f64) {
        self.origin = value;
        self.last = value;
        for level in [&mut self.fast, &mut self.slow, &mut self.short_mean, &mut self.horizon_mean, &mut self.long_mean, &mut self.season_level] {
            *level = value;
        }
        (self.high, self.low) = (value, value);
    }

    /// Measures the statistics of `value` and learns it; returns what was expected.
    #[inline]
    fn measure(&mut self, tuning: &Tuning, at: Option<f64>, value: f64, stats: &mut [f32; TAILS]) -> (f64, f64, f32) {
        let warmup = f64::from(self.setup.warmup).max(60.0);
        let horizon = (warmup * f64::from(tuning.horizon)).max(6.0);
        let rows = f64::from(self.rows) + 1.0;
        let pace = |rows_max: f64| 1.0 / rows.min(rows_max);
        let jump = (value - self.last).abs();
        if jump > 0.0 {
            let jumped = if self.jump > 0.0 { jump.min(3.0 * self.jump) } else { jump };
            self.jump_next += (jumped - self.jump_next) * if self.jump_next > 0.0 { 0.05 } else { 1.0 };
        }
        // Of a series that seldom moves, the size of its moves is the scale.
        let floor = (tuning.floor * self.slow.abs()).max(0.3 * self.jump) + 1e-9;
        self.jump = self.jump_next;
        let clip = tuning.clip;

        // Of the season only what explains the series is taken away.
        let strength = self.season.strength();
        let hour = at.map(Hour::of);
        let of_day = hour.as_ref().map(|hour| self.season.expected(hour));
        let expected_of_day = self.origin + of_day.unwrap_or_default();
        let bias = if let Some(of_day) = of_day { strength * of_day } else { 0.0 };
        let plain = value - bias;

        let fast_scale = self.fast_scale.max(floor);
        let slow_scale = self.slow_scale.max(floor);
        let off_fast = plain - self.fast;
        let off_slow = plain - self.slow;
        let fast = (off_fast / fast_scale) as f32;
        let slow = (off_slow / slow_scale) as f32;
        stats[0] = fast.max(0.0);
        stats[1] = (-fast).max(0.0);
        stats[2] = slow.max(0.0);
        stats[3] = (-slow).max(0.0);

        // Swings.
        let swing = off_fast.abs().min(clip * 2.0 * fast_scale);
        self.short_swing += (swing - self.short_swing) * pace(f64::from(tuning.short));
        self.horizon_swing += (swing - self.horizon_swing) * pace(horizon);
        let long_swing = self.long_swing.max(floor);
        stats[4] = (self.short_swing / long_swing) as f32;
        stats[5] = (long_swing / self.short_swing.max(0.02 * long_swing)) as f32;
        let ratio = self.horizon_swing.max(floor) / long_swing;
        stats[12] = ratio.max(1.0 / ratio) as f32 - 1.0;
        self.long_swing += (swing - self.long_swing) * pace(4.0 * warmup);

        // The range so far.
        let range = (self.high - self.low).max(4.0 * floor);
        stats[6] = ((value - self.high) / range).max(0.0) as f32;
        stats[7] = ((self.low - value) / range).max(0.0) as f32;
        let shrink = range / (40.0 * warmup);
        self.high = (self.high - shrink).max(value.min(self.high + range.max(fast_scale * 3.0)));
        self.low = (self.low + shrink).min(value.max(self.low - range.max(fast_scale * 3.0)));

        // The time of day.
        if let Some(hour) = &hour {
            let off = value - expected_of_day;
            let scale = self.season_scale.max(floor);
            let z = off / scale;
            if strength > 0.0 {
                self.season_rows = self.season_rows.saturating_add(1);
                stats[8] = (z * strength).max(0.0) as f32;
                stats[9] = (-z * strength).max(0.0) as f32;
                self.season_smooth += (z.clamp(-6.0, 6.0) - self.season_smooth) / horizon.min(12.0);
                stats[10] = (self.season_smooth.abs() * strength) as f32;
            }
            self.season_scale += (off.abs().min(clip * scale.max(slow_scale * 0.05)) - self.season_scale) * pace(2.0 * warmup);
            let rows_a_part = Season::rows_a_part(self.series.step());
            let (off, level) = (value - self.origin, self.season_level - self.origin);
            self.season_level += (value - self.season_level).clamp(-clip * slow_scale, clip * slow_scale) * pace(4.0 * warmup);
            self.season.learn(hour, off, expected_of_day - self.origin, level, scale.max(slow_scale * 0.5), rows_a_part);
        }

        // Levels on the horizon.
        let step = off_fast.clamp(-clip * fast_scale, clip * fast_scale);
        let before = self.short_mean;
        let bounded = plain.clamp(self.slow - 8.0 * slow_scale, self.slow + 8.0 * slow_scale);
        self.short_mean += (bounded - self.short_mean) * pace(f64::from(tuning.short));
        self.horizon_mean += (bounded - self.horizon_mean) * pace(horizon);
        stats[11] = ((self.horizon_mean - self.long_mean).abs() / slow_scale) as f32;
        self.long_mean += (bounded - self.long_mean) * pace(tuning.long * horizon);
        let slope = self.short_mean - before;
        self.slope += (slope - self.slope) * pace(horizon);
        let slope_scale = self.slope_scale.max(floor * 1e-2);
        stats[13] = (self.slope.abs() / slope_scale) as f32;
        stats[15] = ((self.slope - self.slope_long).abs() / slope_scale) as f32;
        self.slope_long += (self.slope - self.slope_long) * pace(2.0 * warmup);
        self.slope_scale += (self.slope.abs().min(clip * slope_scale) - self.slope_scale) * pace(2.0 * warmup);

        // Cumulative sums, for shifts inside the noise.
        let z = slow.clamp(-3.0, 3.0);
        for (sum, z) in self.sums.iter_mut().zip([z, -z]) {
            *sum = (*sum + z - tuning.drift).clamp(0.0, 1e4);
            *sum -= *sum * (0.3 / horizon as f32);
        }
        stats[16] = self.sums[0];
        stats[17] = self.sums[1];

        // Places.
        let mut stay = 0.0;
        if self.rows as f64 >= warmup * 0.5 {
            self.places.fix(self.low, self.high);
        }
        if self.places.is_fixed() {
            let (rare, long) = self.places.visit(value, (2.0 * warmup) as f32);
            self.rare += (rare - self.rare) * tuning.rare;
            stats[14] = self.rare;
            self.places_rows = self.places_rows.saturating_add(1);
            stay = long;
        }

        // Learned by clipping, never by skipping.
        // Over the length of an incident the slow level is what was expected, and no copy of the incident.
        let expected = self.slow + bias;
        self.fast += f64::from(tuning.fast) * step.clamp(-clip * fast_scale * 4.0, clip * fast_scale * 4.0);
        // What is far outside is followed all the same, or a new level would never be reached.
        if off_fast.abs() > clip * fast_scale {
            self.fast += 0.3 * (off_fast - step);
        }
        self.slow += off_slow.clamp(-clip * slow_scale, clip * slow_scale) * pace(tuning.slow * warmup);
        let grow = |scale: f64, off: f64, floor: f64| off.abs().min(clip * scale.max(floor));
        if self.rows < 8 {
            self.fast_scale += (off_fast.abs() - self.fast_scale) * pace(8.0);
            self.slow_scale += (off_slow.abs() - self.slow_scale) * pace(8.0);
        } else {
            self.fast_scale += (grow(self.fast_scale, off_fast, floor) - self.fast_scale) * pace(tuning.scale * warmup);
            self.slow_scale += (grow(self.slow_scale, off_slow, floor) - self.slow_scale) * pace(tuning.scale * warmup);
        }
        (expected, off_slow / slow_scale, stay)
    }

    fn conclude(&mut self, tuning: &Tuning, evidence: f32, cause: Cause, expected: Option<f64>, off: f64) -> Finding {
        let horizon = (self.setup.warmup as f32).max(60.0) * tuning.horizon;
        let rows_a_day = 86_400.0 / self.series.step() as f32;
        let needed = tuning.alarm * (1.0 + tuning.haste * crate::places::log2((rows_a_day / 288.0).max(1.0)));
        let said = self.gate.step(evidence, tuning, needed, horizon.max(6.0));
        let score = f64::from(said / (said + needed));
        let alarm = said >= needed;
        let cause = if said > 0.0 { cause } else { Cause::None };
        Finding { score, alarm, open: self.gate.is_open(), cause, expected, off }
    }
}
