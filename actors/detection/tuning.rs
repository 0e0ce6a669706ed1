//! The numbers that were chosen by measurement.

/// How many statistics are kept of a series.
pub(crate) const STATISTICS: usize = 20;

/// The numbers that were chosen by measurement; [`Tuning::SHIPPED`] is what runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuning {
    /// How much each statistic counts.
    pub weights: [f32; STATISTICS],
    /// The surprise, as -log10 p, from which on a statistic counts.
    pub base: f32,
    /// The most surprise that counts.
    pub cap: f32,
    /// The share of evidence that is remembered from row to row.
    pub leak: f32,
    /// The evidence that is an alarm.
    pub alarm: f32,
    /// How much more evidence is an alarm with each doubling of the rows a day beyond one in five minutes, as a share.
    pub haste: f32,
    /// How long what was said is remembered, in horizons.
    pub habit: f32,
    /// The factor by which evidence must grow to be news, below the alarm.
    pub again_below: f32,
    /// The factor by which evidence must grow to be news, above the alarm.
    pub again_above: f32,
    /// The horizon as a share of the warm-up.
    pub horizon: f32,
    /// The pace of the fast level.
    pub fast: f32,
    /// How many mean deviations a value counts for at most when the levels learn.
    pub clip: f64,
    /// The rows of the short volatility.
    pub short: f32,
    /// The drift that the cumulative sums allow, in deviations.
    pub drift: f32,
    /// The pace of what is rare in its place.
    pub rare: f32,
    /// The least scale as a share of the level.
    pub floor: f64,
    /// The memory of the slow level, in warm-ups.
    pub slow: f64,
    /// The memory of scales, in warm-ups.
    pub scale: f64,
    /// The memory of the level that the one on the horizon is held against, in horizons.
    pub long: f64,
    /// The memory of tails, in peaks.
    pub peaks: f32,
}

impl Tuning {
    /// What runs.
    pub const SHIPPED: Self = Self {
        weights: [
            1.01, 0.333, 0.236, 0.535, 0.6, 1.01, 4.0, 3.34, 0.337, 0.0326, 1.81, 0.39, 0.647, 0.6, 0.6, 0.315, 1.43, 1.18, 0.5, 0.0861,
        ],
        base: 2.0,
        cap: 6.57,
        leak: 0.7,
        alarm: 5.0,
        haste: 0.187,
        habit: 3.0,
        again_below: 1.24,
        again_above: 4.0,
        horizon: 0.105,
        fast: 0.394,
        clip: 4.0,
        short: 8.0,
        drift: 0.871,
        rare: 0.225,
        floor: 9.37e-05,
        slow: 1.0,
        scale: 1.5,
        long: 6.0,
        peaks: 126.0,
    };
}
