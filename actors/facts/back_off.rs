use serde::{Deserialize, Serialize};

/// When a child that died by itself is started again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackOff {
    /// How long it rests after the first death, in seconds; doubled with each further one.
    pub first_s: f64,
    /// How long it rests at most, in seconds.
    pub longest_s: f64,
    /// After how many deaths in a row it is left down until somebody restarts it.
    pub deaths_max: u32,
    /// How long it must live for its earlier deaths to be forgotten, in seconds.
    pub forgotten_after_s: u64,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { first_s: 1.0, longest_s: 60.0, deaths_max: 10, forgotten_after_s: 300 }
    }
}

impl BackOff {
    /// Returns how long it rests after so many earlier deaths in a row, in seconds.
    pub fn rest_s(&self, deaths: u32) -> f64 {
        (self.first_s * 2_f64.powi(deaths.min(64).cast_signed())).min(self.longest_s)
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
