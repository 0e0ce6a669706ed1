//! The numbers that were chosen by measurement.

/// How many statistics are kept of a series.
pub(crate) const STATISTICS: usize = 18;

/// How many of them have a tail; the others say themselves how rare they are.
pub(crate) const TAILS: usize = STATISTICS - 2;

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
    /// How many mean excesses a peak counts for at most when it is learned.
    pub peak_clip: f32,
    /// The heaviest tail, as the shape of a generalised Pareto.
    pub shape: f32,
    /// The pace of the level that follows trends.
    pub mid: f32,
    /// The pace at which what is off it is smoothed.
    pub mid_smooth: f32,
    /// The most evidence of one row, as a share of what an alarm needs.
    pub row: f32,
    /// The memory of tails, in peaks.
    pub peaks: f32,
}

impl Tuning {
    /// What runs.
    pub const SHIPPED: Self = Self {
        weights: [
            1.45, 1.05, 0.1, 0.1, 0.1, 4.0, 4.0, 0.3, 0.62, 0.5, 0.5, 0.1, 0.7, 2.2, 0.77, 1.5, 1.3, 1.7,
        ],
        base: 2.04,
        cap: 5.27,
        leak: 0.698,
        alarm: 5.23,
        haste: 0.194,
        habit: 3.27,
        again_below: 2.0,
        again_above: 5.39,
        horizon: 0.133,
        fast: 0.27,
        clip: 2.77,
        short: 11.9,
        drift: 0.165,
        rare: 0.133,
        floor: 0.000152,
        slow: 2.87,
        scale: 0.346,
        long: 19.8,
        mid: 0.08,
        mid_smooth: 0.25,
        row: 3.0,
        peak_clip: 6.0,
        shape: 0.45,
        peaks: 238.0,
    };
}
