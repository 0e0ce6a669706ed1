//! What is measured of a series with each row: levels, swings, range, time of day, slopes, sums, places.
//!
//! Everything is learned from every row, clipped at several scales: what is far off moves a level by a few of its usual
//! deviations at most, so a fault does not become the normal at once, and what lasts becomes it in the end.

use serde::{Deserialize, Serialize};

use crate::{
    places::Places,
    season::{Hour, Season},
    tuning::{TAILS, Tuning},
};

/// The largest statistic: beyond it nothing is rarer.
const STATISTIC_MAX: f32 = 1e6;

/// The pace of the shortest horizon, six rows.
const HORIZON_MIN: f64 = 1.0 / 6.0;

/// The least scale: of a series that never moved, any move is beyond all measure.
const FLOOR_MIN: f64 = 1e-30;

/// The statistics of one row, by number; each is positive, and larger where the row is more unlike the past.
pub(crate) type Statistics = [f32; TAILS];

/// What the levels and scales of a series are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measures {
    /// Rows with a value, with a profile of the day, and with places.
    pub(crate) rows: u32,
    pub(crate) season_rows: u32,
    pub(crate) places_rows: u32,
    origin: f64,
    last: f64,
    jump: f64,
    fast: f64,
    slow: f64,
    fast_scale: f64,
    slow_scale: f64,
    short_swing: f32,
    long_swing: f32,
    mid: f64,
    mid_slope: f64,
    mid_scale: f64,
    high: f64,
    low: f64,
    season_level: f64,
    season_scale: f64,
    short_mean: f64,
    horizon_mean: f64,
    long_mean: f64,
    slope: f64,
    slope_scale: f64,
    season_smooth: f32,
    mid_smooth: f32,
    sums: [f32; 2],
    rare: f32,
    season: Season,
    places: Places,
}

/// What a row came to beside its statistics.
pub(crate) struct Measured {
    /// What was expected.
    pub(crate) expected: f64,
    /// How far the value is from that, in mean deviations.
    pub(crate) off: f64,
    /// -log10 of the chance to stay in one place for so long.
    pub(crate) stay: f32,
    /// Whether the value is the last one again.
    pub(crate) is_same: bool,
}

/// One row against the levels, before they learn it.
#[derive(Clone, Copy)]
struct Now {
    value: f64,
    /// What the time of day explains.
    bias: f64,
    off_fast: f64,
    off_slow: f64,
    fast_scale: f64,
    slow_scale: f64,
    floor: f64,
    pace: Paces,
}

/// How fast things are learned; faster in the first rows.
#[derive(Clone, Copy)]
struct Paces {
    least: f64,
    warmup: f64,
    short: f64,
    horizon: f64,
}

impl Paces {
    /// Returns the pace that remembers so many warm-ups.
    #[inline]
    fn warmups(&self, count: f64) -> f64 {
        (self.warmup * (1.0 / count)).max(self.least)
    }
}

impl Measures {
    pub(crate) fn new() -> Self {
        Self {
            rows: 0,
            season_rows: 0,
            places_rows: 0,
            origin: 0.0,
            last: 0.0,
            jump: 0.0,
            fast: 0.0,
            slow: 0.0,
            fast_scale: 0.0,
            slow_scale: 0.0,
            short_swing: 0.0,
            long_swing: 0.0,
            mid: 0.0,
            mid_slope: 0.0,
            mid_scale: 0.0,
            high: 0.0,
            low: 0.0,
            season_level: 0.0,
            season_scale: 0.0,
            short_mean: 0.0,
            horizon_mean: 0.0,
            long_mean: 0.0,
            slope: 0.0,
            slope_scale: 0.0,
            season_smooth: 0.0,
            mid_smooth: 0.0,
            sums: [0.0; 2],
            rare: 0.0,
            season: Season::new(),
            places: Places::new(),
        }
    }

    /// Measures `value` into `stats` and learns it.
    #[inline]
    pub(crate) fn step(
        &mut self,
        tuning: &Tuning,
        (warmup, rows_a_day): (f64, f32),
        (at, value): (Option<f64>, f64),
        stats: &mut Statistics,
    ) -> Measured {
        if self.rows == 0 {
            self.begin(value);
        }
        let strength = self.season.strength();
        let hour = at.map(Hour::of);
        let of_day = hour.as_ref().map_or(0.0, |hour| self.season.expected(hour));
        let now = self.now(tuning, warmup, value, strength * of_day);
        let (fast, slow) = ((now.off_fast / now.fast_scale) as f32, (now.off_slow / now.slow_scale) as f32);
        [stats[0], stats[1], stats[2]] = [fast.max(0.0), (-fast).max(0.0), slow.abs()];
        self.swings(tuning, &now, stats);
        self.trend(tuning, &now, stats);
        self.range(&now, stats);
        if let Some(hour) = &hour {
            self.day(tuning, &now, hour, (of_day, strength, rows_a_day), stats);
        }
        self.means(tuning, &now, stats);
        self.sums(tuning, &now, slow, stats);
        let stay = self.places(tuning, &now, warmup, stats);
        for statistic in stats.iter_mut() {
            *statistic = statistic.min(STATISTIC_MAX);
        }
        let expected = self.slow + now.bias;
        let is_same = value == self.last;
        self.learn(tuning, &now);
        self.last = value;
        self.rows = self.rows.saturating_add(1);
        Measured { expected, off: f64::from(slow.clamp(-STATISTIC_MAX, STATISTIC_MAX)), stay, is_same }
    }

    fn begin(&mut self, value: f64) {
        (self.origin, self.last, self.high, self.low) = (value, value, value, value);
        (self.fast, self.slow, self.season_level) = (value, value, value);
        (self.short_mean, self.horizon_mean, self.long_mean, self.mid) = (value, value, value, value);
    }

    fn now(&mut self, tuning: &Tuning, warmup: f64, value: f64, bias: f64) -> Now {
        // Of a series that seldom moves, the size of its moves is the scale.
        let floor = (tuning.floor * self.slow.abs()).max(0.3 * self.jump) + FLOOR_MIN;
        let jump = (value - self.last).abs();
        if jump > 0.0 {
            let is_first = self.jump == 0.0;
            self.jump += if is_first { jump } else { 0.05 * (jump.min(3.0 * self.jump) - self.jump) };
        }
        let least = 1.0 / (f64::from(self.rows) + 1.0);
        let a_warmup = 1.0 / warmup;
        let a_horizon = (a_warmup * (1.0 / f64::from(tuning.horizon))).min(HORIZON_MIN);
        let pace = Paces {
            least,
            warmup: a_warmup,
            short: (1.0 / f64::from(tuning.short)).max(least),
            horizon: a_horizon.max(least),
        };
        let plain = value - bias;
        Now {
            value,
            bias,
            off_fast: plain - self.fast,
            off_slow: plain - self.slow,
            fast_scale: self.fast_scale.max(floor),
            slow_scale: self.slow_scale.max(floor),
            floor,
            pace,
        }
    }

    /// Short against long volatility, both ways.
    #[inline]
    fn swings(&mut self, tuning: &Tuning, now: &Now, stats: &mut Statistics) {
        let swing = now.off_fast.abs().min(2.0 * tuning.clip * now.fast_scale) as f32;
        self.short_swing += (swing - self.short_swing) * now.pace.short as f32;
        let long = self.long_swing.max(now.floor as f32);
        stats[3] = self.short_swing / long;
        stats[4] = long / self.short_swing.max(0.02 * long);
        self.long_swing += (swing - self.long_swing) * now.pace.warmups(4.0) as f32;
    }

    /// What is off a level that follows trends (Holt 1957), smoothed: a shift on the way up or down of a day.
    #[inline]
    fn trend(&mut self, tuning: &Tuning, now: &Now, stats: &mut Statistics) {
        let foretold = self.mid + self.mid_slope;
        let off = now.value - foretold;
        let scale = self.mid_scale.max(now.floor);
        let clipped = off.clamp(-4.0 * scale, 4.0 * scale);
        let pace = f64::from(tuning.mid).max(now.pace.least);
        self.mid = foretold + pace * clipped;
        self.mid_slope += 0.1 * pace * pace * clipped;
        // What is far outside for long is followed faster, or a new level would never be reached.
        if self.mid_smooth.abs() > 3.8 {
            self.mid += 0.2 * (off - clipped);
        }
        self.mid_smooth += ((clipped / scale) as f32 - self.mid_smooth) * tuning.mid_smooth;
        stats[9] = self.mid_smooth.abs();
        let pace = if self.rows < 8 { now.pace.least } else { now.pace.warmups(tuning.scale) };
        self.mid_scale += (if self.rows < 8 { off.abs() } else { clipped.abs() } - self.mid_scale) * pace;
    }

    /// Excess beyond the range so far, which shrinks slowly.
    #[inline]
    fn range(&mut self, now: &Now, stats: &mut Statistics) {
        let range = (self.high - self.low).max(4.0 * now.floor);
        let share = 1.0 / range;
        stats[5] = (((now.value - self.high) * share) as f32).max(0.0);
        stats[6] = (((self.low - now.value) * share) as f32).max(0.0);
        let shrink = range * now.pace.warmup * (1.0 / 40.0);
        let most = range.max(3.0 * now.fast_scale);
        self.high = (self.high - shrink).max(now.value.min(self.high + most));
        self.low = (self.low + shrink).min(now.value.max(self.low - most));
    }

    /// Residual of the time of day, and its smoothed form.
    #[inline]
    fn day(
        &mut self,
        tuning: &Tuning,
        now: &Now,
        hour: &Hour,
        (of_day, strength, rows_a_day): (f64, f64, f32),
        stats: &mut Statistics,
    ) {
        let clip = tuning.clip;
        let value = now.value - self.origin;
        let off = value - of_day;
        let scale = self.season_scale.max(now.floor);
        if strength > 0.0 {
            self.season_rows = self.season_rows.saturating_add(1);
            let z = self.season.outside(hour, value) / scale;
            stats[7] = (z.abs() * strength) as f32;
            self.season_smooth +=
                (z.clamp(-6.0, 6.0) as f32 - self.season_smooth) * now.pace.horizon.max(1.0 / 12.0) as f32;
            stats[8] = self.season_smooth.abs() * strength as f32;
        }
        let learned = off.abs().min(clip * scale.max(0.05 * now.slow_scale));
        self.season_scale += (learned - self.season_scale) * now.pace.warmups(2.0);
        let level = self.season_level - self.origin;
        let most = clip * now.slow_scale;
        self.season_level += (now.value - self.season_level).clamp(-most, most) * now.pace.warmups(4.0);
        self.season.learn(hour, value, (of_day, level), scale.max(0.5 * now.slow_scale), rows_a_day);
    }

    /// Level shift on the horizon, and how steadily the series grows or falls.
    #[inline]
    fn means(&mut self, tuning: &Tuning, now: &Now, stats: &mut Statistics) {
        let before = self.short_mean;
        let most = 8.0 * now.slow_scale;
        let bounded = self.slow + now.off_slow.clamp(-most, most);
        self.short_mean += (bounded - self.short_mean) * now.pace.short;
        self.horizon_mean += (bounded - self.horizon_mean) * now.pace.horizon;
        stats[11] = ((self.horizon_mean - self.long_mean).abs() / now.slow_scale) as f32;
        let long = (now.pace.horizon * (1.0 / tuning.long)).max(now.pace.least);
        self.long_mean += (bounded - self.long_mean) * long;
        self.slope += (self.short_mean - before - self.slope) * now.pace.horizon;
        let scale = self.slope_scale.max(1e-2 * now.floor);
        stats[12] = (self.slope.abs() / scale) as f32;
        let pace = now.pace.warmups(2.0);
        self.slope_scale += (self.slope.abs().min(tuning.clip * scale) - self.slope_scale) * pace;
    }

    /// Cumulative sums (Page 1954) of what is off the slow level, for shifts inside the noise.
    #[inline]
    fn sums(&mut self, tuning: &Tuning, now: &Now, slow: f32, stats: &mut Statistics) {
        let z = slow.clamp(-3.0, 3.0);
        let kept = 1.0 - 0.3 * now.pace.horizon as f32;
        for (sum, z) in self.sums.iter_mut().zip([z, -z]) {
            *sum = (*sum + z - tuning.drift).clamp(0.0, 1e4) * kept;
        }
        [stats[14], stats[15]] = self.sums;
    }

    /// Where in its range the series seldom is; returns how rare it is to stay there for so long.
    #[inline]
    fn places(&mut self, tuning: &Tuning, now: &Now, warmup: f64, stats: &mut Statistics) -> f32 {
        if f64::from(self.rows) >= 0.5 * warmup {
            self.places.fix(self.low, self.high);
        }
        if !self.places.is_fixed() {
            return 0.0;
        }
        let (rare, stay) = self.places.visit(now.value, (0.5 * now.pace.warmup) as f32);
        self.rare += (rare - self.rare) * tuning.rare;
        stats[13] = self.rare;
        self.places_rows = self.places_rows.saturating_add(1);
        stay
    }

    /// Moves levels and scales towards the row.
    #[inline]
    fn learn(&mut self, tuning: &Tuning, now: &Now) {
        let most = tuning.clip * now.fast_scale;
        let step = now.off_fast.clamp(-most, most);
        // What is far outside is followed all the same, or a new level would never be reached.
        self.fast += f64::from(tuning.fast) * step + 0.3 * (now.off_fast - step);
        let most_slow = tuning.clip * now.slow_scale;
        self.slow += now.off_slow.clamp(-most_slow, most_slow) * now.pace.warmups(tuning.slow);
        if self.rows < 8 {
            self.fast_scale += (now.off_fast.abs() - self.fast_scale) * now.pace.least;
            self.slow_scale += (now.off_slow.abs() - self.slow_scale) * now.pace.least;
        } else {
            let pace = now.pace.warmups(tuning.scale);
            self.fast_scale += (now.off_fast.abs().min(most) - self.fast_scale) * pace;
            self.slow_scale += (now.off_slow.abs().min(most_slow) - self.slow_scale) * pace;
        }
    }
}
