//! What a series does at each time of day.

use serde::{Deserialize, Serialize};

/// How many parts a day has.
const PARTS: usize = 48;

/// Seconds a day.
const DAY: f64 = 86_400.0;

/// How many usual residuals one row counts for at most when it is weighed whether the profile explains anything.
const FAR: f32 = 40.0;

/// How many days the profile remembers.
const DAYS: f32 = 6.0;

/// A profile of the day, and how much of the series it explains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Season {
    #[serde(with = "crate::array")]
    means: [f32; PARTS],
    /// How often the profile was gone through, at most a cap, in parts.
    visited: f32,
    /// The last part that was visited.
    part: u8,
    /// Absolute residual with the profile, and without.
    with: f32,
    without: f32,
    filled: u64,
}

impl Season {
    pub(crate) fn new() -> Self {
        Self { means: [0.0; PARTS], visited: 0.0, part: 0, with: 0.0, without: 0.0, filled: 0 }
    }

    /// Returns what the profile expects at a time of day; between the middles of parts it is interpolated.
    #[inline]
    pub(crate) fn expected(&self, hour: &Hour) -> f64 {
        let (low, high) = (self.means[usize::from(hour.first)], self.means[usize::from(hour.second)]);
        match (self.is_filled(hour.first), self.is_filled(hour.second)) {
            (true, true) => f64::from(low) + hour.share * f64::from(high - low),
            (true, false) => f64::from(low),
            (false, true) => f64::from(high),
            (false, false) => 0.0,
        }
    }

    /// Returns how far `value` lies outside of what the profile has about that time of day: a job that runs half an hour
    /// early is none that runs at noon.
    #[inline]
    pub(crate) fn outside(&self, hour: &Hour, value: f64) -> f64 {
        let part = usize::from(hour.part);
        let here = self.means[part];
        let (mut low, mut high) = (here, here);
        for beside in [(part + PARTS - 1) % PARTS, (part + 1) % PARTS] {
            if self.filled & (1 << beside) != 0 {
                low = low.min(self.means[beside]);
                high = high.max(self.means[beside]);
            }
        }
        value - value.clamp(f64::from(low), f64::from(high))
    }

    /// Returns how much the profile is to be believed, from 0 (not at all) to 1.
    #[inline]
    pub(crate) fn strength(&self) -> f64 {
        // Two days at least, or it would be a copy of the only day there was.
        if self.visited < 2.0 * PARTS as f32 || self.without <= 0.0 {
            return 0.0;
        }
        let explained = 1.0 - self.with / self.without;
        f64::from(((explained - 0.15) / 0.2).clamp(0.0, 1.0))
    }

    /// Learns `value`, the distance from an origin, where `expected` was and the series is about `level`; `scale` is how far
    /// it usually is off.
    #[inline]
    pub(crate) fn learn(
        &mut self,
        hour: &Hour,
        value: f64,
        (expected, level): (f64, f64),
        scale: f64,
        rows_a_day: f32,
    ) {
        if hour.part != self.part || self.visited == 0.0 {
            self.visited = (self.visited + 1.0).min(PARTS as f32 * 100.0);
            self.part = hour.part;
        }
        if self.visited > PARTS as f32 {
            let pace = 1.0 / (rows_a_day * 3.0).max(50.0);
            let (with, without) = ((value - expected).abs() as f32, (value - level).abs() as f32);
            // A job of some minutes a day explains much of such a day, so what is far off counts.
            let cap = FAR * self.without.max(scale as f32);
            self.with += pace * (with.min(cap) - self.with);
            self.without += pace * (without.min(cap) - self.without);
        }
        let mean = &mut self.means[usize::from(hour.part)];
        if self.filled & (1 << hour.part) == 0 {
            *mean = value as f32;
            self.filled |= 1 << hour.part;
            return;
        }
        let days = (self.visited * (1.0 / PARTS as f32) + 1.0).clamp(1.0, DAYS);
        let off = (value - f64::from(*mean)).clamp(-6.0 * scale, 6.0 * scale);
        *mean += off as f32 / (days * rows_a_day * (1.0 / PARTS as f32)).max(1.0);
    }

    fn is_filled(&self, part: u8) -> bool {
        self.filled & (1 << part) != 0
    }
}

/// A time of day, as parts of the profile.
pub(crate) struct Hour {
    part: u8,
    first: u8,
    second: u8,
    share: f64,
}

impl Hour {
    /// Returns the time of day at `at` seconds of the epoch.
    #[inline]
    pub(crate) fn of(at: f64) -> Self {
        let days = at * (1.0 / DAY);
        // A cast rounds to zero and is one instruction, which a floor is not everywhere.
        let share = days - days as i64 as f64;
        let place = if share < 0.0 { share + 1.0 } else { share } * PARTS as f64;
        let part = (place as usize).min(PARTS - 1);
        let inside = place - part as f64;
        let (first, second, share) = if inside < 0.5 {
            ((part + PARTS - 1) % PARTS, part, inside + 0.5)
        } else {
            (part, (part + 1) % PARTS, inside - 0.5)
        };
        Self { part: part as u8, first: first as u8, second: second as u8, share }
    }
}
