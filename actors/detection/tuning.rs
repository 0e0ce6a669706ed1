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
    /// The share of an alarm's evidence below which an incident is over.
    pub over: f32,
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
    /// The memory of how many measures are in their tails, in warm-ups.
    pub crowd: f32,
    /// The memory of tails, in peaks, at most 255.
    pub peaks: f32,
    /// The share of a peak that its tail learns while an incident is open.
    pub incident: f32,
}

impl Tuning {
    /// What runs.
    pub const SHIPPED: Self = Self {
        weights: [
            1.16, 0.115, 0.0472, 0.22, 1.78, 4.0, 3.08, 0.877, 0.23, 1.35, 0.226, 0.0604, 1.14, 1.46, 0.59, 1.67, 1.92,
            1.2,
        ],
        base: 2.04,
        cap: 9.0,
        leak: 0.711,
        alarm: 5.6,
        haste: 0.264,
        habit: 0.816,
        again_below: 2.19,
        again_above: 12.3,
        over: 0.352,
        horizon: 0.154,
        fast: 0.9,
        clip: 6.69,
        short: 33.8,
        drift: 0.1,
        rare: 0.0948,
        floor: 1.93e-4,
        slow: 1.24,
        scale: 0.366,
        long: 1.91,
        mid: 0.298,
        mid_smooth: 0.191,
        row: 1.97,
        crowd: 0.109,
        peak_clip: 5.01,
        shape: 0.849,
        peaks: 122.0,
        incident: 0.299,
    };
}
