//! Where the values of a series are at home: a histogram, and how long it stays in each part of it.

use serde::{Deserialize, Serialize};

/// How many parts the range has.
const PARTS: usize = 24;

/// The mean distance from place to place, in parts, from which on a series leaps.
const LEAP: f32 = 4.0;

/// The mean stay in one place from which on a series dwells there, in rows.
const STAY_MIN: f32 = 4.0;

/// The share of a place that is the rule.
const RULE: f32 = 0.85;

/// What a share of one is at most before all are divided.
const UNIT_MAX: f32 = 1e6;

/// How many steps of the logarithm of a stay make it twice as long.
const STEPS: usize = 12;

/// How much longer a stay is that is so many of them longer.
const LONGER: [f32; STEPS] = [
    1.0,
    1.059_463,
    1.122_462,
    1.189_207,
    1.259_921,
    1.334_84,
    std::f32::consts::SQRT_2,
    1.498_307,
    1.587_401,
    1.681_793,
    1.781_797,
    1.887_749,
];

/// The pace, summed up over the rows, after which each longest stay becomes a step shorter.
const FORGET: f32 = 3.0;

/// How much of the mean stay in a place each one is.
const USUAL: f32 = 0.25;

/// A histogram of fixed width that forgets, and the longest stay about each of its parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Places {
    #[serde(with = "crate::array")]
    shares: [f32; PARTS],
    /// What a share of one is: it grows in place of all others getting smaller.
    unit: f32,
    low: f64,
    a_width: f64,
    part: u8,
    visits: f32,
    stay: f32,
    /// The longest and the largest mean stay about the part where the one of now began.
    longest: f32,
    usual: f32,
    /// The longest and the mean stay of those that began in each part, as logarithms in steps; 0 where there was none.
    longests: [u8; PARTS],
    usuals: [u8; PARTS],
    /// The pace of the rows since the longest became shorter.
    age: f32,
    mean_stay: f32,
    stays: f32,
    leap: f32,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self {
            shares: [0.0; PARTS],
            unit: 1.0,
            low: 0.0,
            a_width: 0.0,
            part: 0,
            visits: 0.0,
            stay: 0.0,
            longest: 0.0,
            usual: 0.0,
            longests: [0; PARTS],
            usuals: [0; PARTS],
            age: 0.0,
            mean_stay: 1.0,
            stays: 0.0,
            leap: 0.0,
        }
    }

    /// Fixes the parts once the range is known.
    pub(crate) fn fix(&mut self, low: f64, high: f64) {
        if self.a_width == 0.0 && high > low {
            let margin = 0.15 * (high - low);
            self.low = low - margin;
            // Of a range too narrow to be divided there are no parts.
            let parts = PARTS as f64 / (high - low + 2.0 * margin);
            self.a_width = if parts.is_finite() { parts } else { 0.0 };
        }
    }

    pub(crate) fn is_fixed(&self) -> bool {
        self.a_width > 0.0
    }

    /// Returns how rare the part is in which `value` lies, as the negative binary logarithm of its share, and -log10 of the
    /// chance to stay in it for as long as now, 0 while longer stays were seen; then learns it, with `pace` at least.
    #[inline]
    pub(crate) fn visit(&mut self, value: f64, pace: f32) -> (f32, f32) {
        let part = (((value - self.low) * self.a_width) as usize).min(PARTS - 1);
        // The edges of a place that is often visited are not rare.
        let beside = self.shares[part.saturating_sub(1)] + self.shares[(part + 1).min(PARTS - 1)];
        let least = 1.0 / (self.visits + 8.0);
        let rare = -log2(((self.shares[part] + 0.5 * beside) / self.unit).max(0.5 * least.max(pace)));
        let is_near = part.abs_diff(usize::from(self.part)) <= 1;
        if is_near && self.visits > 0.0 {
            self.stay += 1.0;
        } else {
            self.leave(pace);
            self.stays = (self.stays + 1.0).min(100.0);
            self.mean_stay += (self.stay.min(2.0 * self.longest + 4.0) - self.mean_stay) / self.stays;
            let leap = f32::from(part.abs_diff(usize::from(self.part)) as u8);
            self.leap += (leap - self.leap) / self.stays.min(30.0);
            self.stay = 1.0;
            self.part = part as u8;
            (self.longest, self.usual) = (length(about(&self.longests, part)), length(about(&self.usuals, part)));
        }
        let pace = pace.max(if self.visits < 8.0 { 1.0 / (self.visits + 1.0) } else { least });
        self.learn(part, pace);
        let over = self.stay - self.longest;
        // Hazards beyond what was seen are those of the mean there: a mode that is soon left says nothing of another one. A
        // stay says little where there were few, where it is the rule, and where the series drifts from place to place
        // instead of leaping.
        let is_told = self.stays >= 8.0
            && self.leap >= LEAP
            && self.mean_stay >= STAY_MIN
            && self.shares[part] < RULE * self.unit;
        let long = if over > 2.0 && is_told {
            over * std::f32::consts::LOG10_E / self.usual.max(0.5 * self.longest).max(1.0) + (self.stays + 1.0).log10()
        } else {
            0.0
        };
        (rare, long)
    }

    /// Moves all shares towards a visit of `part`.
    #[inline]
    fn learn(&mut self, part: usize, pace: f32) {
        // Before the first visit there is nothing to forget.
        if self.visits > 0.0 {
            self.unit /= 1.0 - pace;
        }
        self.shares[part] += pace * self.unit;
        self.visits = (self.visits + 1.0).min(1e6);
        if self.unit > UNIT_MAX {
            self.shares = self.shares.map(|share| share / self.unit);
            self.unit = 1.0;
        }
    }

    /// Learns the stay that is over, if there was one, and forgets a little of all of them.
    fn leave(&mut self, pace: f32) {
        self.age += pace * self.stay;
        if self.age >= FORGET {
            self.age = 0.0;
            for step in &mut self.longests {
                *step = step.saturating_sub(1);
            }
        }
        if self.visits > 0.0 {
            let (longest, usual) =
                (&mut self.longests[usize::from(self.part)], &mut self.usuals[usize::from(self.part)]);
            // A stay that was a fault is learned by half, so that the next one is one again.
            *longest = (*longest).max(step(self.stay.min(1.5 * length(*longest) + 8.0)));
            let (mean, stay) = (length(*usual), self.stay.min(2.0 * length(*longest) + 4.0));
            *usual = step(if *usual == 0 { stay } else { mean + USUAL * (stay - mean) });
        }
    }
}

/// Returns the most that is written of a part and those beside it.
#[inline]
fn about(steps: &[u8; PARTS], part: usize) -> u8 {
    steps[part.saturating_sub(1)..(part + 2).min(PARTS)].iter().copied().max().unwrap_or_default()
}

/// Returns the length of a stay that was written as steps of its logarithm, in rows.
#[inline]
fn length(step: u8) -> f32 {
    let Some(steps) = step.checked_sub(1).map(usize::from) else { return 0.0 };
    // A power of two is its exponent: this runs with each row of a series that leaps.
    LONGER[steps % STEPS] * f32::from_bits((127 + (steps / STEPS) as u32) << 23)
}

/// Returns a length of one row or more as steps of its logarithm.
#[inline]
fn step(length: f32) -> u8 {
    // A cast ends at the largest step, which is a month of seconds.
    (1.5 + STEPS as f32 * log2(length)) as u8
}

/// Returns the binary logarithm to about one percent: enough to rank what is rare.
#[inline]
pub(crate) fn log2(value: f32) -> f32 {
    let bits = value.to_bits();
    let exponent = ((bits >> 23) & 0xff) as f32 - 127.0;
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000);
    exponent + (mantissa - 1.0) * (1.0 + 0.346 * (2.0 - mantissa))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_stay_in_a_mode_that_is_soon_left_is_rare_whatever_the_other_mode_does() {
        let mut places = Places::new();
        places.fix(0.0, 100.0);
        // Five rows at work and sixty at rest; once it stays at work for thirty.
        let mut stays =
            (0..1330).map(|row| places.visit(if row % 65 < 5 || row >= 1300 { 90.0 } else { 10.0 }, 0.001).1);
        let usual: Vec<f32> = stays.by_ref().take(1307).skip(650).collect();
        assert_eq!(usual, vec![0.0; 657], "a stay as long as the others");
        let long: Vec<f32> = stays.collect();
        assert!(long.iter().all(|rare| *rare > 1.0) && long[22] > 3.0, "{long:?}");
    }

    #[test]
    fn the_length_of_a_stay_is_kept_to_a_few_percent() {
        for rows in [1.0, 2.0, 7.0, 100.0, 86_400.0, 2e6_f32] {
            let kept = length(step(rows));
            assert!((kept / rows - 1.0).abs() < 0.05, "{rows} is kept as {kept}");
        }
        assert_eq!(length(0), 0.0, "no stay has no length");
        assert!(length(step(1e9)) > 2e6, "the longest is kept as the largest");
    }
}
