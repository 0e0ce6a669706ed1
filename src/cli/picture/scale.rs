//! Axes: what range is shown, where its ticks are, and what they are called.

use super::{Came, Convergence, Scale};
use crate::cli::story;

/// Gains whose ticks are named, as ratios, within one tenfold.
const RATIOS: [f64; 3] = [1.0, 2.0, 5.0];

/// Below this range in logarithms, ticks of gains are evenly spaced percents.
const LINEAR_BELOW: f64 = 0.7;

/// How much is shown below the zero line, in shares of what was gained.
const SHOWN_BELOW: f64 = 0.5;

/// The least that is shown below the zero line, in logarithms: a half.
const BELOW_MIN: f64 = std::f64::consts::LN_2;

/// A range of numbers and the ticks in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// The lower end.
    pub(super) low: f64,
    /// The upper end.
    pub(super) high: f64,
    /// Where ticks are, and what they are called.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Returns the axis of a convergence with about so many ticks.
    ///
    /// What is much worse than the settings in use is shown half as far below as the best is above, or it would press all that matters
    /// into a line; whoever draws puts it at the end.
    pub(super) fn of(convergence: &Convergence, ticks: usize) -> Axis {
        let value = |came: &Came| match came {
            Came::Measured(value) | Came::Tripped { value, .. } => Some(*value),
            Came::Failed(_) => None,
        };
        let values: Vec<f64> = convergence.marks.iter().filter_map(|mark| value(&mark.result)).collect();
        let zero = convergence.zero.filter(|zero| zero.is_finite());
        let (mut low, mut high) = range(values.iter().copied().chain(zero));
        if let Some(zero) = zero {
            let best = convergence.best_so_far().last().copied().flatten().unwrap_or(zero);
            let gained = (best - zero).abs();
            let least = if convergence.scale == Scale::Gain { BELOW_MIN } else { gained };
            if gained > 0.0 || least > 0.0 {
                let worst = (SHOWN_BELOW * gained).max(least);
                if convergence.more_is_better() { low = low.max(zero - worst) } else { high = high.min(zero + worst) }
            }
        }
        match convergence.scale {
            Scale::Gain => gains(low, high, ticks),
            Scale::Metric { .. } => Axis::linear(low, high, ticks),
        }
    }

    /// Returns the axis of these numbers, evenly spaced, with about so many ticks.
    pub(super) fn linear(low: f64, high: f64, ticks: usize) -> Axis {
        let (low, high) = widened(low, high);
        let step = step(high - low, ticks);
        let first = (low / step).ceil();
        let count = ((high - first * step) / step).floor().clamp(0.0, 50.0) as u32;
        let at = |index: u32| (first + f64::from(index)) * step;
        let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        let name = |value: f64| {
            let value = if value.abs() < step * 1e-9 { 0.0 } else { value };
            if value.abs() >= 1e9 { format!("{value:.1e}") } else { format!("{value:.decimals$}") }
        };
        let inside = (0..=count).map(at).filter(|value| (low..=high).contains(value));
        Axis { low, high, ticks: inside.map(|value| (value, name(value))).collect() }
    }

    /// Returns the axis of these finite numbers.
    pub(super) fn around(values: impl IntoIterator<Item = f64>, ticks: usize) -> Axis {
        let (low, high) = range(values);
        Axis::linear(low, high, ticks)
    }

    /// Returns where a number is, from 0 at the lower end to 1 at the upper; what is outside is at the end.
    pub(super) fn place(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Returns whether a number is outside.
    pub(super) fn is_outside(&self, value: f64) -> bool {
        !(self.low..=self.high).contains(&value)
    }
}

/// Returns a gain, a logarithm of a ratio, as people read it.
pub(in crate::cli) fn percent(gain: f64) -> String {
    let percent = gain.exp_m1() * 100.0;
    let percent = if percent.abs() < 0.05 { 0.0 } else { percent };
    match percent.abs() {
        0.0 => "0 %".to_owned(),
        size if size >= 10.0 => format!("{percent:+.0} %"),
        _ => format!("{percent:+.1} %"),
    }
}

/// Returns a value of a convergence in words.
pub(super) fn worded(scale: &Scale, value: f64) -> String {
    match scale {
        Scale::Gain => percent(value),
        Scale::Metric { name, .. } => format!("{name} {}", story::number(value)),
    }
}

fn gains(low: f64, high: f64, ticks: usize) -> Axis {
    let (low, high) = widened(low, high);
    if high - low < LINEAR_BELOW {
        let percents = Axis::linear(100.0 * low.exp_m1(), 100.0 * high.exp_m1(), ticks);
        let tick = |(value, _): &(f64, String)| ((value / 100.0).ln_1p(), percent((value / 100.0).ln_1p()));
        let ticks = percents.ticks.iter().map(tick).filter(|(gain, _)| (low..=high).contains(gain)).collect();
        return Axis { low, high, ticks };
    }
    let ratios = (-4..6).flat_map(|tens| RATIOS.map(|ratio| ratio * 10_f64.powi(tens)));
    let inside: Vec<f64> = ratios.map(f64::ln).filter(|gain| (low..=high).contains(gain)).collect();
    let gap = (high - low) / ticks.max(1) as f64 * 0.6;
    // Those that are settled first keep others away: no gain, then tenfolds.
    let rank = |gain: &f64| {
        let tens = gain / std::f64::consts::LN_10;
        if *gain == 0.0 { 0 } else { 1 + u32::from((tens - tens.round()).abs() > 1e-9) }
    };
    let mut ordered = inside;
    ordered.sort_by_key(rank);
    let mut kept: Vec<f64> = Vec::new();
    for gain in ordered {
        if kept.iter().all(|other| (other - gain).abs() >= gap) {
            kept.push(gain);
        }
    }
    kept.sort_by(f64::total_cmp);
    Axis { low, high, ticks: kept.into_iter().map(|gain| (gain, percent(gain))).collect() }
}

/// Returns the smallest and the largest of the finite ones; 0 and 0 if there are none.
fn range(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let finite = values.into_iter().filter(|value| value.is_finite());
    let ends = finite.fold(None, |ends: Option<(f64, f64)>, value| {
        let (low, high) = ends.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    });
    ends.unwrap_or_default()
}

/// Returns the range with some room at both ends, so that nothing is drawn on the frame.
fn widened(low: f64, high: f64) -> (f64, f64) {
    let (low, high) = (low.clamp(-1e300, 1e300), high.clamp(-1e300, 1e300));
    let size = if high > low { high - low } else { (low.abs() * 0.1).max(0.1) };
    (low - 0.04 * size, high + 0.06 * size)
}

/// Returns the round step with which about so many fit.
fn step(size: f64, ticks: usize) -> f64 {
    let raw = size / ticks.max(1) as f64;
    let power = 10_f64.powf(raw.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| round * power >= raw).unwrap_or(10.0);
    let step = round * power;
    if step.is_finite() && step > 0.0 { step } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::picture::Mark;

    fn gains_of(values: &[f64]) -> Convergence {
        let mark = |value: &f64| Mark { group: 1, label: String::new(), result: Came::Measured(*value) };
        Convergence {
            scale: Scale::Gain,
            zero_name: "live".to_owned(),
            zero: Some(0.0),
            marks: values.iter().map(mark).collect(),
        }
    }

    fn names(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn large_gains_have_ticks_of_even_ratios_and_small_ones_of_even_percents() {
        let large = Axis::of(&gains_of(&[0.0, 2.3, -0.4]), 6);
        assert_eq!(names(&large), ["0 %", "+100 %", "+400 %", "+900 %"]);
        let small = Axis::of(&gains_of(&[0.0, 0.1, -0.02]), 5);
        assert_eq!(names(&small), ["0 %", "+5.0 %", "+10 %"]);
    }

    #[test]
    fn what_is_far_worse_does_not_press_the_rest_into_a_line() {
        let axis = Axis::of(&gains_of(&[0.0, 2.0, -2.3]), 6);
        assert!(axis.low > -1.2 && axis.is_outside(-2.3) && axis.place(-2.3) == 0.0, "{axis:?}");
    }

    /// No round number was between the ends, and one beyond them was shown.
    #[test]
    fn an_axis_without_a_round_number_has_no_tick() {
        assert_eq!(Axis::around([7.512e19, 7.58e19], 0).ticks, []);
        assert!(!Axis::around([f64::NAN, f64::INFINITY], 3).ticks.is_empty());
    }

    #[test]
    fn a_gain_is_read_as_a_percent() {
        for (ratio, text) in [(1.0, "0 %"), (1.034, "+3.4 %"), (4.63, "+363 %"), (0.5, "-50 %"), (1.0001, "0 %")] {
            assert_eq!(percent(f64::ln(ratio)), text);
        }
    }

    proptest! {
        #[test]
        fn whatever_the_numbers_an_axis_has_an_order_and_few_ticks_inside(
            values in prop::collection::vec(prop::num::f64::ANY, 0..9), ticks in 0_usize..20,
        ) {
            for axis in [Axis::of(&gains_of(&values), ticks), Axis::around(values.iter().copied(), ticks)] {
                prop_assert!(axis.low < axis.high, "{:?}", axis);
                prop_assert!(axis.ticks.len() <= 52);
                for (value, _) in &axis.ticks {
                    prop_assert!((-1e-9..=1.0 + 1e-9).contains(&((value - axis.low) / (axis.high - axis.low))), "{:?}", axis);
                }
            }
        }
    }
}
