//! What to set, from what is known now, and what it will bring.

use std::f64::consts::SQRT_2;

use crate::{
    gp::Belief,
    model::{Known, Model},
    search::Outcome,
    space::{Point, Space},
};

/// How many deviations a setting must be ahead of the default to be recommended instead of it: a chance of 90 %.
const EVIDENCE: f64 = 1.28;

/// By how much more plausible it must be that the parameters matter than that all values differ by noise alone, as the
/// natural logarithm of the ratio, before a gain counts as certain: twenty to one (Kass and Raftery 1995, "Bayes factors").
const PATTERN_MIN: f64 = 3.0;

/// The chance that a true value is outside its interval.
const MISS: f64 = 0.05;

/// What to set, as a point.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Advice {
    pub(crate) point: Point,
    pub(crate) mean: f64,
    pub(crate) interval: (f64, f64),
    /// The gain over the default and its interval.
    pub(crate) gain: Option<(f64, (f64, f64))>,
}

/// Returns the point with the best value, or the default while nothing is surely better; `None` while nothing was
/// measured. `model` is what is believed after what is known, where there is noise.
pub(crate) fn advise(space: &Space, known: &[Known], model: Option<&Model>, default: Option<&Point>) -> Option<Advice> {
    let measured: Vec<(&Point, f64)> = known
        .iter()
        .filter(|known| known.is_own())
        .filter_map(|known| match known.outcome {
            Outcome::Value(value) => Some((&known.point, value)),
            Outcome::Failed | Outcome::Lost => None,
        })
        .collect();
    let default = default.filter(|default| measured.iter().any(|(point, _)| point == default));
    match model {
        Some(model) => among_noise(space, model, &measured, default),
        None => best(&measured, default),
    }
}

/// Without noise the best measured value is the best, and the default is ahead at a tie because it was first.
fn best(measured: &[(&Point, f64)], default: Option<&Point>) -> Option<Advice> {
    let (point, value) = measured.iter().min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let of_default = measured.iter().find(|(point, _)| Some(*point) == default);
    let gain = of_default.map(|(_, default)| default - value).map(|gain| (gain, (gain, gain)));
    Some(Advice { point: (*point).clone(), mean: *value, interval: (*value, *value), gain })
}

/// How much better a setting is than the default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ahead {
    pub(crate) gain: f64,
    pub(crate) interval: (f64, f64),
    /// The deviation of one measurement.
    pub(crate) noise: f64,
}

/// Returns how much better this measured point is than the default; `None` if one of them was not measured.
///
/// It is the difference of the posterior means, which the prior draws to the middle, so that a lucky value is not believed
/// whole; its interval is that of all points together that could have been taken for the best in place of this one
/// (Bonferroni). Without noise it is the difference of the values.
pub(crate) fn ahead(
    space: &Space,
    known: &[Known],
    model: Option<&Model>,
    (default, point): (&Point, &Point),
) -> Option<Ahead> {
    let value = |point: &Point| {
        let mut same = known.iter().filter(|known| known.is_own() && known.point == *point);
        same.find_map(|known| if let Outcome::Value(value) = known.outcome { Some(value) } else { None })
    };
    let gain = value(default)? - value(point)?;
    let Some(model) = model else { return Some(Ahead { gain, interval: (gain, gain), noise: 0.0 }) };
    let belief = model.process.at(point);
    let mut others: Vec<(&Point, Belief)> = Vec::new();
    for other in known.iter().filter(|known| known.is_own() && matches!(known.outcome, Outcome::Value(_))) {
        if !others.iter().any(|(seen, _)| *seen == &other.point) {
            others.push((&other.point, model.process.at(&other.point)));
        }
    }
    let (gain, interval) = difference(space, model, default, (point, belief), among(&others, belief));
    let slope = model.standard.slope(belief.mean).max(model.standard.slope(model.process.at(default).mean));
    Some(Ahead { gain, interval, noise: model.process.noise().sqrt() * slope })
}

/// Returns how many deviations the interval reaches of a point that was chosen among all that could be as good.
fn among(beliefs: &[(&Point, Belief)], chosen: Belief) -> f64 {
    let rivals =
        beliefs.iter().filter(|(_, rival)| rival.mean - rival.variance.sqrt() < chosen.mean + chosen.variance.sqrt());
    // The best of many looks better than it is; the interval is that of all of them together (Bonferroni). How large the noise
    // is, is itself known from these values alone, hence Student's distribution.
    let chance = MISS / 2.0 / rivals.count().max(1) as f64;
    student(quantile(chance), beliefs.len().saturating_sub(2).max(1) as f64)
}

/// Returns by how much the value at a point is below that at the default, and the interval of so many deviations, which takes
/// in 0 where noise alone explains the values as well.
fn difference(
    space: &Space,
    model: &Model,
    default: &Point,
    (point, belief): (&Point, Belief),
    reach: f64,
) -> (f64, (f64, f64)) {
    let (before, covariance) = (model.process.at(default), model.process.covariance(default, point));
    let standard = &model.standard;
    let deviation = (before.variance + belief.variance - 2.0 * covariance).max(0.0).sqrt();
    let gain = |before: f64| standard.undo(before) - standard.undo(belief.mean);
    // Bad values are pulled in, so that a slope at a bad default says nothing of how far off it may be: its ends do.
    let (low, expected, high) =
        (gain(before.mean - reach * deviation), gain(before.mean), gain(before.mean + reach * deviation));
    // A process finds a pattern in a dozen values of nothing but noise, and believes in it.
    let is_pattern = model.evidence(space) >= PATTERN_MIN;
    (expected, if is_pattern { (low, high) } else { (low.min(0.0), high.max(0.0)) })
}

/// With noise the luckiest value is not the best, so the surrogate's mean decides among the measured points.
fn among_noise(space: &Space, model: &Model, measured: &[(&Point, f64)], default: Option<&Point>) -> Option<Advice> {
    let mut beliefs: Vec<(&Point, Belief)> = Vec::new();
    for (point, _) in measured {
        if !beliefs.iter().any(|(other, _)| other == point) {
            beliefs.push((point, model.process.at(point)));
        }
    }
    let (mut point, mut belief) = *beliefs.iter().min_by(|(_, a), (_, b)| a.mean.total_cmp(&b.mean))?;
    let reach = among(&beliefs, belief);
    let standard = &model.standard;
    let mut gain = None;
    if let Some(default) = default {
        let before = model.process.at(default);
        let covariance = model.process.covariance(default, point);
        let ahead = before.mean - belief.mean;
        let deviation = (before.variance + belief.variance - 2.0 * covariance).max(0.0).sqrt();
        if point != default && ahead < EVIDENCE * deviation {
            (point, belief) = (default, before);
        }
        gain = Some(if point == default {
            (0.0, (0.0, 0.0))
        } else {
            difference(space, model, default, (point, belief), reach)
        });
    }
    let reach = reach * belief.variance.sqrt();
    let interval = (standard.undo(belief.mean - reach), standard.undo(belief.mean + reach));
    Some(Advice { point: point.clone(), mean: standard.undo(belief.mean), interval, gain })
}

/// Returns what corresponds to so many deviations of a normal distribution in Student's, with these degrees of freedom
/// (Abramowitz and Stegun 1964, 26.7.5).
fn student(z: f64, freedom: f64) -> f64 {
    let square = z * z;
    let first = z * (square + 1.0) / 4.0;
    let second = z * ((5.0 * square + 16.0) * square + 3.0) / 96.0;
    let third = z * (((3.0 * square + 19.0) * square + 17.0) * square - 15.0) / 384.0;
    z + first / freedom + second / freedom.powi(2) + third / freedom.powi(3)
}

/// Returns how many deviations above its mean a normal number is with this chance, for chances below a half.
fn quantile(chance: f64) -> f64 {
    let (mut low, mut high) = (0.0_f64, 40.0_f64);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if 0.5 * libm::erfc(middle / SQRT_2) > chance { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_reach_further_and_many_as_far_as_a_normal_distribution() {
        // From a table of Student's distribution: 97.5 % with 10 degrees of freedom, 99.95 % with 20.
        assert!((student(quantile(0.025), 10.0) - 2.228).abs() < 2e-3);
        assert!((student(quantile(0.0005), 20.0) - 3.850).abs() < 2e-2);
        assert!((student(quantile(0.025), 1e9) - 1.960).abs() < 1e-3);
    }
}
