//! Where the values of a series are at home: a histogram, and how long it stays in one part of it.

use serde::{Deserialize, Serialize};

/// How many parts the range has.
const PARTS: usize = 24;

/// The mean distance from place to place, in parts, from which on a series leaps.
const LEAP: f32 = 4.0;

/// The mean stay in one place from which on a series dwells there, in rows.
const STAY_MIN: f32 = 4.0;

/// The share of a place that is the rule.
const RULE: f32 = 0.85;

/// A histogram of fixed width that forgets, and the longest stay in one part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Places {
    #[serde(with = "crate::array")]
    shares: [f32; PARTS],
    low: f64,
    a_width: f64,
    part: u8,
    visits: f32,
    stay: f32,
    longest: f32,
    mean_stay: f32,
    stays: f32,
    leap: f32,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self {
            shares: [0.0; PARTS],
            low: 0.0,
            a_width: 0.0,
            part: 0,
            visits: 0.0,
            stay: 0.0,
            longest: 0.0,
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
        let rare = -log2((self.shares[part] + 0.5 * beside).max(0.5 * least.max(pace)));
        let is_near = part.abs_diff(usize::from(self.part)) <= 1;
        if is_near && self.visits > 0.0 {
            self.stay += 1.0;
        } else {
            // A stay that was a fault is learned by half, so that the next one is one again.
            self.longest = self.longest.max(self.stay.min(1.5 * self.longest + 8.0));
            self.longest -= 0.1 * pace * self.longest;
            self.stays = (self.stays + 1.0).min(100.0);
            self.mean_stay += (self.stay.min(2.0 * self.longest + 4.0) - self.mean_stay) / self.stays;
            let leap = f32::from(part.abs_diff(usize::from(self.part)) as u8);
            self.leap += (leap - self.leap) / self.stays.min(30.0);
            self.stay = 1.0;
            self.part = part as u8;
        }
        let pace = pace.max(if self.visits < 8.0 { 1.0 / (self.visits + 1.0) } else { least });
        self.visits = (self.visits + 1.0).min(1e6);
        for share in &mut self.shares {
            *share -= *share * pace;
        }
        self.shares[part] += pace;
        let over = self.stay - self.longest;
        // Hazards beyond what was seen are those of the mean. A stay says little where there were few, where it is the rule,
        // and where the series drifts from place to place instead of leaping.
        let is_told = self.stays >= 8.0 && self.leap >= LEAP && self.mean_stay >= STAY_MIN && self.shares[part] < RULE;
        let long = if over > 2.0 && is_told {
            over * std::f32::consts::LOG10_E / self.mean_stay.max(0.5 * self.longest) + (self.stays + 1.0).log10()
        } else {
            0.0
        };
        (rare, long)
    }
}

/// Returns the binary logarithm to about one percent: enough to rank what is rare.
#[inline]
pub(crate) fn log2(value: f32) -> f32 {
    let bits = value.to_bits();
    let exponent = ((bits >> 23) & 0xff) as f32 - 127.0;
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000);
    exponent + (mantissa - 1.0) * (1.0 + 0.346 * (2.0 - mantissa))
}
