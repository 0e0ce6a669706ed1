//! A flat response: does what is measured answer to what is set, or is it noise alone?
//!
//! A service that takes its parameters and does not apply them gives the same numbers whatever is set, but for noise, and the
//! best of many such numbers looks like a gain. So an experiment is void when candidates that lie far apart spread no more
//! than one setting does when it is measured again and again.
//!
//! That nothing shows is no proof that there is nothing, so this is a test of equivalence (Wellek 2010, Testing Statistical
//! Hypotheses of Equivalence and Noninferiority): the ratio of two variances has Fisher's F distribution, times what the
//! spread of the candidates really is; they count as alike only if, with a chance of a wrong alarm of `flat_alpha`, they
//! spread less than `flat_max_ratio` times the noise. An experiment whose settings matter more than that is voided no
//! oftener than that, whatever the noise. Each metric that carries weight has to be flat (Berger 1982, intersection-union
//! test): where two of them move against each other, the settings arrive.

use std::{collections::BTreeMap, f64::consts::PI};

use super::Config;
use crate::facts::{Dimension, Experiment, KnobKind, MetricSpec, Metrics, Outcome, Params, Trial, Value};

/// From which distance on settings are far apart: as a share of each range, on average over the parameters. Two settings
/// by chance are a third apart.
const FAR_FROM: f64 = 0.2;

/// Two of live settings, candidates, the best and the worst measured again are apart when chance alone makes such a difference
/// less often than this; then the response is not flat.
const APART_ALPHA: f64 = 0.1;

/// Candidates are no case for a closer look when chance alone makes such a spread less often than this.
const EQUAL_ALPHA: f64 = 0.05;

/// Nor when they spread more than this, as a standard deviation of the logarithm.
const SUSPECT_SPREAD_MAX: f64 = 0.3;

/// How often the continued fraction is unrolled at most; it takes about the root of the degrees of freedom.
const FRACTION_TERMS_MAX: u32 = 300;

/// What is smaller than this is nothing, beside one.
const ROUNDING: f64 = 1e-12;

/// The runs in which settings were measured again, to learn how much of what was seen is noise.
#[derive(Clone, Debug, Default)]
pub struct Again {
    /// Of the live settings.
    pub live: Vec<Outcome>,
    /// Of the best candidate.
    pub best: Vec<Outcome>,
    /// Of the worst candidate.
    pub worst: Vec<Outcome>,
}

/// Returns whether the candidates of `experiment` may be alike, as far as is known by now: then a closer look is worth it, at
/// the live settings and the [`extremes`].
pub fn is_suspect(
    config: &Config,
    experiment: &Experiment,
    specs: &BTreeMap<String, MetricSpec>,
    trials: &[Trial],
    again: &Again,
) -> bool {
    let Some(far) = far(config, experiment, trials) else { return false };
    let may_be_alike = |name: &String| {
        Seen::of(name, &far, trials, again).is_some_and(|seen| {
            let equal = seen.degrees() == 0 || seen.chance(1.0) < 1.0 - EQUAL_ALPHA;
            seen.far.variance <= SUSPECT_SPREAD_MAX.powi(2) && equal
        })
    };
    weighted(specs).next().is_some() && weighted(specs).all(may_be_alike)
}

/// Returns the candidates far from the live settings that measured worst and best, by the fitness that `of` says.
pub fn extremes<'a>(
    experiment: &Experiment,
    trials: &'a [Trial],
    of: impl Fn(&Metrics) -> Option<f64>,
) -> Option<(&'a Params, &'a Params)> {
    let live = &trials.first()?.params;
    let space = &experiment.spec.search_space;
    let far = trials.iter().filter(|trial| distance(space, &trial.params, live) >= FAR_FROM);
    let mut rated: Vec<(f64, &Params)> =
        far.filter_map(|trial| Some((of(metrics_in(&trial.outcome)?)?, &trial.params))).collect();
    rated.sort_by(|one, other| one.0.total_cmp(&other.0));
    Some((rated.first()?.1, rated.last()?.1))
}

/// Returns why the experiment says nothing about its settings, in words, when the candidates that lie far apart differ by no
/// more than noise.
///
/// The noise is that of settings that were measured `again`. First numbers of the best and the worst candidate are no part of
/// it: those were picked for being extreme. `None` as well where there are too few candidates or repeats, and where settings
/// made the service fail: then they arrive.
pub fn flat(
    config: &Config,
    experiment: &Experiment,
    specs: &BTreeMap<String, MetricSpec>,
    trials: &[Trial],
    again: &Again,
) -> Option<String> {
    let far = far(config, experiment, trials)?;
    if [&again.live, &again.best, &again.worst].into_iter().flatten().any(blames) {
        return None;
    }
    let is_flat = |name: &String| Seen::of(name, &far, trials, again).is_some_and(|seen| seen.is_alike(config));
    let all_flat = weighted(specs).next().is_some() && weighted(specs).all(is_flat);
    all_flat.then(|| {
        let count = far.len();
        format!(
            "{count} candidates far apart measured as alike as one setting measured again and again: the service may not apply \
             its parameters"
        )
    })
}

/// What was seen of one metric, as logarithms.
#[derive(Clone, Copy, Debug)]
struct Seen {
    far: Sample,
    live: Sample,
    best: Sample,
    worst: Sample,
}

impl Seen {
    fn of(name: &str, far: &[&Metrics], trials: &[Trial], again: &Again) -> Option<Seen> {
        let runs = |outcomes: &[Outcome]| {
            let metrics: Vec<&Metrics> = outcomes.iter().filter_map(metrics_in).collect();
            logarithms(name, &metrics).map(|logarithms| Sample::of(&logarithms))
        };
        let live = [&[trials.first()?.outcome.clone()], again.live.as_slice()].concat();
        let (live, best, worst) = (runs(&live)?, runs(&again.best)?, runs(&again.worst)?);
        Some(Seen { far: Sample::of(&logarithms(name, far)?), live, best, worst })
    }

    fn degrees(&self) -> u32 {
        [self.live, self.best, self.worst].iter().map(Sample::degrees).sum()
    }

    /// Returns the variance of one setting that is measured again and again.
    fn noise(&self) -> f64 {
        let squares: f64 = [self.live, self.best, self.worst].iter().map(Sample::squares).sum();
        squares / f64::from(self.degrees().max(1))
    }

    /// Returns the chance that the candidates spread no more than they do, where the variance of what is seen of them really
    /// is so many times that of the noise.
    fn chance(&self, times: f64) -> f64 {
        fisher(self.far.variance / self.noise() / times, self.far.degrees(), self.degrees())
    }

    /// Returns whether the means of two groups differ by more than noise.
    fn are_apart(&self, one: Sample, other: Sample) -> bool {
        let groups = [one, other].iter().all(|sample| sample.n > 0);
        let error = self.noise() * (1.0 / f64::from(one.n.max(1)) + 1.0 / f64::from(other.n.max(1)));
        groups && 1.0 - fisher((one.mean - other.mean).powi(2) / error, 1, self.degrees()) < APART_ALPHA
    }

    fn is_alike(&self, config: &Config) -> bool {
        let pairs = [(self.live, self.far), (self.live, self.best), (self.best, self.worst)];
        self.degrees() > 0
            && self.noise() > ROUNDING
            && self.chance(1.0 + config.flat_max_ratio.powi(2)) <= config.flat_alpha
            && !pairs.iter().any(|(one, other)| self.are_apart(*one, *other))
    }
}

/// Returns what was measured with settings far from the live ones; `None` where that were too few, or where settings that
/// were tried made the service fail.
fn far<'a>(config: &Config, experiment: &Experiment, trials: &'a [Trial]) -> Option<Vec<&'a Metrics>> {
    let live = &trials.first()?.params;
    if trials.iter().any(|trial| blames(&trial.outcome)) {
        return None;
    }
    let space = &experiment.spec.search_space;
    let far = trials.iter().filter(|trial| distance(space, &trial.params, live) >= FAR_FROM);
    let far: Vec<&Metrics> = far.filter_map(|trial| metrics_in(&trial.outcome)).collect();
    (far.len() >= config.flat_candidates_min as usize).then_some(far)
}

/// Returns whether something failed for what was set.
fn blames(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(failure) if !failure.kind.is_of_circumstances())
}

/// Returns how far apart two settings are, from 0 to 1: the mean over the parameters of the share of the range between them.
fn distance(space: &BTreeMap<String, Dimension>, one: &Params, other: &Params) -> f64 {
    let apart = |(name, dimension): (&String, &Dimension)| match (one.get(name), other.get(name)) {
        (Some(one), Some(other)) => apart(&dimension.range, one, other),
        (None, None) => 0.0,
        _ => 1.0,
    };
    space.iter().map(apart).sum::<f64>() / space.len().max(1) as f64
}

fn apart(kind: &KnobKind, one: &Value, other: &Value) -> f64 {
    let share = |min: f64, max: f64, log: bool| {
        let scale = |number: f64| if log { number.max(f64::MIN_POSITIVE).ln() } else { number };
        let (Some(one), Some(other)) = (one.as_number(), other.as_number()) else { return 1.0 };
        let range = scale(max) - scale(min);
        if range > 0.0 { ((scale(one) - scale(other)).abs() / range).min(1.0) } else { 0.0 }
    };
    match kind {
        KnobKind::Integer { min, max, log, .. } => share(*min as f64, *max as f64, *log),
        KnobKind::Float { min, max, log, .. } => share(*min, *max, *log),
        KnobKind::Ordinal { values } => {
            let place = |value: &Value| values.iter().position(|other| other == value);
            let last = values.len().saturating_sub(1).max(1) as f64;
            place(one).zip(place(other)).map_or(1.0, |(one, other)| one.abs_diff(other) as f64 / last)
        }
        KnobKind::Boolean {} | KnobKind::Choice { .. } => f64::from(u8::from(one != other)),
    }
}

fn weighted(specs: &BTreeMap<String, MetricSpec>) -> impl Iterator<Item = &String> {
    specs.iter().filter(|(_, spec)| spec.weight > 0.0).map(|(name, _)| name)
}

/// Returns the logarithms of a metric, so that noise in percent is the same everywhere; `None` where one has none.
fn logarithms(name: &str, runs: &[&Metrics]) -> Option<Vec<f64>> {
    let logarithm = |run: &&Metrics| run.get(name).map(|value| value.ln()).filter(|logarithm| logarithm.is_finite());
    runs.iter().map(logarithm).collect()
}

fn metrics_in(outcome: &Outcome) -> Option<&Metrics> {
    match outcome {
        Outcome::Measured(measurement) => Some(&measurement.metrics),
        Outcome::Failed(_) => None,
    }
}

/// Numbers, with their mean and variance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sample {
    n: u32,
    mean: f64,
    /// With n - 1; 0 for fewer than two.
    variance: f64,
}

impl Sample {
    fn of(numbers: &[f64]) -> Sample {
        let n = numbers.len() as u32;
        let mean = numbers.iter().sum::<f64>() / f64::from(n.max(1));
        let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
        Sample { n, mean, variance: squares / f64::from(n.saturating_sub(1).max(1)) }
    }

    fn degrees(&self) -> u32 {
        self.n.saturating_sub(1)
    }

    fn squares(&self) -> f64 {
        self.variance * f64::from(self.degrees())
    }
}

/// Returns the chance that Fisher's F, with these degrees of freedom, each above 0, is at most `ratio`.
///
/// It is the incomplete beta function (Abramowitz and Stegun 1964, 26.6.2 and 26.5.8: its continued fraction, unrolled as by
/// Lentz 1976).
fn fisher(ratio: f64, above: u32, below: u32) -> f64 {
    if ratio <= 0.0 || above == 0 || below == 0 {
        return 0.0;
    }
    if !ratio.is_finite() {
        return 1.0;
    }
    let (a, b) = (f64::from(above), f64::from(below));
    let x = a * ratio / (a * ratio + b);
    // The fraction converges fast below the mean; beyond it the other tail is computed.
    if x < (a + 2.0) / (a + b + 4.0) { beta(x, above, below) } else { 1.0 - beta(1.0 - x, below, above) }
}

/// Returns the regularised incomplete beta function of half of `above` and half of `below`, for `x` from 0 to 1.
fn beta(x: f64, above: u32, below: u32) -> f64 {
    let (a, b) = (f64::from(above) / 2.0, f64::from(below) / 2.0);
    if x <= 0.0 {
        return 0.0;
    }
    let log_beta = log_gamma_of_half(above) + log_gamma_of_half(below) - log_gamma_of_half(above + below);
    let front = (a * x.ln() + b * (-x).ln_1p() - log_beta).exp() / a;
    let nonzero = |number: f64| if number.abs() < f64::MIN_POSITIVE { f64::MIN_POSITIVE } else { number };
    let mut denominator = 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0));
    let (mut numerator, mut fraction) = (1.0, denominator);
    for term in (1..=FRACTION_TERMS_MAX).map(f64::from) {
        let twice = a + 2.0 * term;
        let even = term * (b - term) * x / ((twice - 1.0) * twice);
        let odd = -(a + term) * (a + b + term) * x / (twice * (twice + 1.0));
        let mut step = 1.0;
        for part in [even, odd] {
            denominator = 1.0 / nonzero(1.0 + part * denominator);
            numerator = nonzero(1.0 + part / numerator);
            step = numerator * denominator;
            fraction *= step;
        }
        if (step - 1.0).abs() < ROUNDING {
            break;
        }
    }
    (front * fraction).clamp(0.0, 1.0)
}

/// Returns the logarithm of the gamma function of `halves` / 2, for 1 and more: a product from the root of pi, or from one.
fn log_gamma_of_half(halves: u32) -> f64 {
    let start = if halves % 2 == 1 { PI.sqrt().ln() } else { 0.0 };
    let first = if halves % 2 == 1 { 1 } else { 2 };
    start + (first..halves).step_by(2).map(|half| (f64::from(half) / 2.0).ln()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        facts::{Direction, ExperimentId, FailureKind, Measurement, TrialFailure},
        testing::experiment,
    };

    /// How many experiments are simulated for each rate.
    const RUNS: u32 = 300;

    /// The parameters of a simulated service.
    const PARAMS: usize = 4;

    #[test]
    fn the_distribution_is_that_of_the_printed_table() {
        // Abramowitz and Stegun, table 26.9: upper points for 5 % and 1 %.
        for (ratio, above, below, expected) in [
            (161.45, 1, 1, 0.95),
            (10.13, 1, 3, 0.95),
            (5.19, 5, 4, 0.9319),
            (3.48, 4, 10, 0.95),
            (8.64, 23, 3, 0.95),
            (2.01, 20, 24, 0.95),
            (99.50, 120, 2, 0.99),
            (1.0, 7, 7, 0.5),
            (0.0, 3, 3, 0.0),
            (f64::INFINITY, 3, 3, 1.0),
        ] {
            let found = fisher(ratio, above, below);
            assert!((found - expected).abs() < 2e-3, "F({above}, {below}) up to {ratio}: {found}, not {expected}");
        }
    }

    /// A service whose rate answers to its parameters as a bowl does, to be measured with noise.
    struct Service {
        rng: StdRng,
        noise: f64,
        /// How much a candidate loses on average, as a logarithm.
        loss: f64,
        weights: [f64; PARAMS],
        top: [f64; PARAMS],
        live: [f64; PARAMS],
        /// How much better than the live settings the best is.
        gain: f64,
    }

    type Point = [f64; PARAMS];

    impl Service {
        fn new(seed: u64, noise: f64, loss: f64) -> Self {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut point = || -> Point { std::array::from_fn(|_| rng.random()) };
            let (weights, top, live) = (point().map(|weight| -(1.0 - weight).ln()), point(), point());
            Self { rng, noise, loss, weights, top, live, gain: 0.04 }
        }

        fn measure(&mut self, point: &Point) -> f64 {
            let bowl: f64 = (0..PARAMS).map(|i| self.weights[i] * (point[i] - self.top[i]).powi(2)).sum();
            let of_random = self.weights.iter().sum::<f64>() / 6.0;
            let is_live = *point == self.live;
            let gain = if self.loss > 0.0 { self.gain } else { 0.0 };
            let truth = if is_live { -gain } else { -self.loss * bowl / of_random };
            // Twelve uniform numbers have a variance of one.
            let noise = (0..12).map(|_| self.rng.random::<f64>()).sum::<f64>() - 6.0;
            100.0 * (truth + self.noise * noise).exp()
        }

        fn trial(&mut self, number: u32, point: &Point) -> Trial {
            let outcome = ran(self.measure(point));
            let params = point.iter().enumerate().map(|(i, value)| (format!("p{i}"), Value::Float(*value))).collect();
            Trial { experiment: ExperimentId::new("x"), generation: 1, number, params, outcome, at_ms: 0 }
        }

        /// Runs a whole experiment of so many candidates, with what is measured again, and returns what is said of it.
        fn experiment(&mut self, candidates: u32) -> Option<String> {
            let (config, experiment, specs) = (Config::default(), drawn(), specs());
            let live = self.live;
            let mut points = vec![live];
            points.extend((1..candidates).map(|_| std::array::from_fn(|_| self.rng.random())));
            let trials: Vec<Trial> = points.iter().zip(1..).map(|(point, number)| self.trial(number, point)).collect();
            let rate = |metrics: &Metrics| metrics.get("rate").copied();
            let (worst, best) = extremes(&experiment, &trials, rate)?;
            let point = |params: &Params| std::array::from_fn(|i| params[&format!("p{i}")].as_number().unwrap());
            let mut again = Again::default();
            for _ in 0..config.confirm_runs {
                again.live.push(ran(self.measure(&live)));
                again.best.push(ran(self.measure(&point(best))));
            }
            for _ in config.confirm_runs..config.flat_runs {
                if is_suspect(&config, &experiment, &specs, &trials, &again) {
                    again.live.push(ran(self.measure(&live)));
                    again.best.push(ran(self.measure(&point(best))));
                }
            }
            for _ in 0..config.flat_runs {
                if is_suspect(&config, &experiment, &specs, &trials, &again) {
                    again.worst.push(ran(self.measure(&point(worst))));
                }
            }
            flat(&config, &experiment, &specs, &trials, &again)
        }
    }

    fn ran(rate: f64) -> Outcome {
        Outcome::Measured(Measurement {
            metrics: Metrics::from([("rate".to_owned(), rate)]),
            samples: 1,
            window_ms: 1,
            in_effect: BTreeMap::new(),
            source: String::new(),
            at_ms: 0,
            others: None,
            discarded: 0,
        })
    }

    fn specs() -> BTreeMap<String, MetricSpec> {
        BTreeMap::from([("rate".to_owned(), MetricSpec { direction: Direction::Up, weight: 1.0, guard: None })])
    }

    fn drawn() -> Experiment {
        let mut drawn = experiment();
        let kind = KnobKind::Float { min: 0.0, max: 1.0, log: false, step: None };
        drawn.spec.search_space = (0..PARAMS).map(|i| (format!("p{i}"), kind.clone().into())).collect();
        drawn
    }

    /// Returns the share of simulated experiments that are called flat.
    fn called_flat(noise: f64, loss: f64, candidates: u32) -> f64 {
        let is_flat = |seed: &u32| Service::new(u64::from(*seed), noise, loss).experiment(candidates).is_some();
        (0..RUNS).filter(is_flat).count() as f64 / f64::from(RUNS)
    }

    #[test]
    fn a_real_experiment_with_a_small_gain_is_hardly_ever_called_flat_at_any_noise() {
        // Candidates lose 30 % on average and spread by 20 %; the best of them gains 4 %.
        for (noise, at_most) in [(0.01, 0.0), (0.02, 0.0), (0.05, 0.01), (0.10, 0.02), (0.15, 0.05)] {
            for candidates in [12, 24, 48] {
                let share = called_flat(noise, 0.3, candidates);
                assert!(share <= at_most, "{share} of the experiments of {candidates} with noise {noise}");
            }
        }
    }

    #[test]
    fn settings_that_matter_a_third_as_much_are_told_from_noise_as_long_as_that_is_smaller() {
        for (noise, at_most) in [(0.01, 0.0), (0.02, 0.01), (0.05, 0.08)] {
            for candidates in [24, 48] {
                let share = called_flat(noise, 0.1, candidates);
                assert!(share <= at_most, "{share} of the experiments of {candidates} with noise {noise}");
            }
        }
    }

    #[test]
    fn a_service_that_does_not_apply_its_parameters_is_found_out_about_every_other_time() {
        for noise in [0.01, 0.05, 0.15] {
            for candidates in [24, 48] {
                let share = called_flat(noise, 0.0, candidates);
                assert!(share >= 0.4, "{share} of the experiments of {candidates} with noise {noise}");
            }
        }
    }

    /// An experiment of ten candidates far apart that measure `rates`, and the live settings measured again.
    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<Trial>, &mut Again), is_flat: bool, is_closer_looked_at: bool) {
        let corner = |number: u32| -> Point { std::array::from_fn(|i| f64::from(number >> i & 1)) };
        let mut service = Service::new(1, 0.0, 0.0);
        let mut trials: Vec<Trial> = (0..11).map(|number| service.trial(number + 1, &corner(number))).collect();
        let wobble = |at: usize, by: f64| ran(100.0 * if at.is_multiple_of(2) { 1.0 + by } else { 1.0 - by });
        for (at, trial) in trials.iter_mut().enumerate() {
            trial.outcome = wobble(at, 0.01);
        }
        let repeats = || -> Vec<Outcome> { (0..4).map(|at| wobble(at, 0.012)).collect() };
        let mut again = Again { live: repeats(), best: repeats(), worst: repeats() };
        change(&mut trials, &mut again);
        let (config, specs) = (Config::default(), specs());
        assert_eq!(flat(&config, &drawn(), &specs, &trials, &again).is_some(), is_flat);
        assert_eq!(is_suspect(&config, &drawn(), &specs, &trials, &again), is_closer_looked_at);
    }

    #[test]
    fn only_enough_candidates_far_apart_and_enough_repeats_are_a_case() {
        let failed = |kind| Outcome::Failed(TrialFailure { kind, detail: String::new() });
        check(|_, _| {}, true, true);
        check(|trials, _| trials.truncate(6), false, false);
        // Repeats that say nothing: a closer look is worth it, a verdict is not.
        check(|_, again| *again = Again::default(), false, true);
        // Settings that make the service fail arrive; what the circumstances did is nobody's.
        check(|trials, _| trials[3].outcome = failed(FailureKind::Died), false, false);
        check(|trials, _| trials[3].outcome = failed(FailureKind::Disturbed), true, true);
        // One candidate is far out.
        check(|trials, _| trials[3].outcome = ran(60.0), false, false);
        // The best is better again and again.
        check(|_, again| again.best = vec![ran(106.0), ran(107.0), ran(106.0), ran(107.0)], false, true);
        // All candidates are alike, and unlike the live settings.
        let halve = |trials: &mut Vec<Trial>, _: &mut Again| {
            trials[1..].iter_mut().enumerate().for_each(|(at, trial)| trial.outcome = ran(50.0 + at as f64 / 10.0));
        };
        check(halve, false, true);
        // No number at all is not the same number.
        check(|trials, _| trials[3].outcome = ran(0.0), false, false);
    }

    #[test]
    fn distance_is_the_share_of_each_range_and_a_parameter_that_is_not_active_is_far() {
        let space = BTreeMap::from([
            ("a".to_owned(), KnobKind::Integer { min: 1, max: 100, log: true, step: None }.into()),
            ("b".to_owned(), KnobKind::Boolean {}.into()),
        ]);
        let params = |a: i64, b: Option<bool>| -> Params {
            let b = b.map(|b| ("b".to_owned(), Value::Boolean(b)));
            [("a".to_owned(), Value::Integer(a))].into_iter().chain(b).collect()
        };
        for (one, other, expected) in [
            (params(1, Some(true)), params(1, Some(true)), 0.0),
            (params(1, Some(true)), params(10, Some(true)), 0.25),
            (params(1, Some(true)), params(10, Some(false)), 0.75),
            (params(100, Some(true)), params(1, None), 1.0),
            (params(1, None), params(10, None), 0.25),
        ] {
            let found = distance(&space, &one, &other);
            assert!((found - expected).abs() < 1e-9, "{one:?} {other:?}: {found}");
        }
        assert_eq!(distance(&BTreeMap::new(), &params(1, None), &params(2, None)), 0.0);
    }
}
