//! The claim: how much better is the winner, and how surely?
//!
//! Two things are known of a winner: what the search believes of it, and the runs in which it and the live settings took
//! turns once more. They are combined as two measurements of the same gain are, each weighing as much as it is sure.
//!
//! Why that is honest. The best of many noisy numbers is a lucky one (the winner's curse), and the search's part is guarded
//! against it twice: its posterior mean draws a lucky value to what its neighbours say, and its interval, from which its
//! weight follows, is that of all candidates together that could have been taken for the best, so it is wider and weighs
//! less than the same number of one that nobody had picked. The repeated runs were made after the choice and had no part in
//! it, so they need no guard; the live settings' first run, which the search has used, is not counted among them again.
//!
//! How far one run spreads is told twice as well, by the search and by the repeated runs. Their variances are pooled as those of a
//! few samples and of a prior are (the moderated variance of Smyth 2004, "Linear Models and Empirical Bayes Methods"), the search's
//! with no more degrees of freedom than its model deserves, and Student's distribution says what so few know of it.
//!
//! Where both parts disagree by a little, the interval is widened by as much (the ratio of Birge 1932, as the Particle Data Group
//! averages). Where they contradict each other by more than both their intervals allow, the search is wrong about itself: its model
//! does not fit these settings, or its numbers were disturbed. Then the repeated runs stand alone, and their interval is no wider
//! for what the search believed.

use std::collections::BTreeMap;

use kloros_search::Gain;

use super::fitness::{fitness, metrics_in};
use crate::facts::{Estimate, MetricSpec, Outcome, Trial};

/// How many deviations the interval reaches: a chance of 95 %.
const REACH: f64 = 1.96;

/// With how many degrees of freedom the search is believed about the spread of one run: its model explains what it can.
const SEARCH_FREEDOM: usize = 4;

/// The quantiles of Student's distribution at 97.5 %, from one degree of freedom.
const STUDENT: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

/// Returns the [`claim`] that these repeated runs of the live settings and of the winner make, beside what the search believes.
/// All are held against the first of `trials`, that of the live settings; a run that cannot be is left out.
pub fn of_runs(
    search: Option<Gain>,
    specs: &BTreeMap<String, MetricSpec>,
    trials: &[Trial],
    (live, best): (&[Outcome], &[Outcome]),
) -> Option<Estimate> {
    let reference = trials.first().and_then(|first| metrics_in(&first.outcome))?;
    let fitnesses = |runs: &[Outcome]| -> Vec<f64> {
        runs.iter().filter_map(metrics_in).filter_map(|metrics| fitness(metrics, reference, specs)).collect()
    };
    claim(search.as_ref(), &fitnesses(live), &fitnesses(best))
}

/// Returns the gain of the winner over the live settings with its interval of 95 %, or `None` where its spread is not known.
///
/// `search` is what the search believes, `live` and `best` are the fitnesses of the repeated runs of the live settings and
/// of the winner, all against the same run of the live settings. Without repeated runs the search's part stands alone;
/// where the search takes measurements for exact, the repeated runs do, if there are enough to see their spread.
pub fn claim(search: Option<&Gain>, live: &[f64], best: &[f64]) -> Option<Estimate> {
    let noise = search.map_or(0.0, |search| search.noise);
    let believed = search
        .map(|search| Part { gain: search.gain, deviation: (search.interval.1 - search.interval.0) / (2.0 * REACH) });
    let mut parts: Vec<Part> =
        [repeated(noise, live, best), believed].into_iter().flatten().filter(Part::is_usable).collect();
    if let [repeated, believed] = &parts[..]
        && repeated.contradicts(believed)
    {
        parts.truncate(1);
    }
    let weights: f64 = parts.iter().map(Part::weight).sum();
    if parts.is_empty() {
        return None;
    }
    let gain = parts.iter().map(|part| part.weight() * part.gain).sum::<f64>() / weights;
    // The Birge ratio: 1 where the parts agree as well as their deviations say.
    let freedom = (parts.len() - 1).max(1) as f64;
    let squares: f64 = parts.iter().map(|part| part.weight() * (part.gain - gain).powi(2)).sum();
    let reach = REACH * weights.sqrt().recip() * (squares / freedom).sqrt().max(1.0);
    let estimate = Estimate { ratio: gain.exp_m1(), low: (gain - reach).exp_m1(), high: (gain + reach).exp_m1() };
    [estimate.ratio, estimate.low, estimate.high].iter().all(|end| end.is_finite()).then_some(estimate)
}

/// One estimate of the gain, in logarithms.
struct Part {
    gain: f64,
    deviation: f64,
}

impl Part {
    fn is_usable(&self) -> bool {
        self.gain.is_finite() && self.deviation > 0.0 && self.deviation.is_finite() && self.weight().is_finite()
    }

    fn weight(&self) -> f64 {
        self.deviation.powi(-2)
    }

    fn contradicts(&self, other: &Part) -> bool {
        (self.gain - other.gain).abs() > REACH * self.deviation.hypot(other.deviation)
    }
}

/// Returns what the repeated runs say: the difference of their means, with the deviation that follows from the spread of one
/// run; `None` where one side has none, or where nothing tells the spread.
fn repeated(noise: f64, live: &[f64], best: &[f64]) -> Option<Part> {
    if live.is_empty() || best.is_empty() {
        return None;
    }
    let counts = (live.len() as f64, best.len() as f64);
    let mean = |runs: &[f64]| runs.iter().sum::<f64>() / runs.len() as f64;
    let squares = |runs: &[f64]| runs.iter().map(|run| (run - mean(runs)).powi(2)).sum::<f64>();
    let freedom = live.len() + best.len() - 2;
    let believed = if noise > 0.0 { SEARCH_FREEDOM } else { 0 };
    let variance =
        (believed as f64 * noise.powi(2) + squares(live) + squares(best)) / (believed + freedom).max(1) as f64;
    let spread = variance.sqrt() * STUDENT.get((believed + freedom).checked_sub(1)?).unwrap_or(&REACH) / REACH;
    Some(Part { gain: mean(best) - mean(live), deviation: spread * (1.0 / counts.0 + 1.0 / counts.1).sqrt() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::{
        dream::{
            search::{Plan, Search, Told},
            space::SearchSpace,
        },
        facts::{Budget, KnobKind, Params, Value},
    };

    fn believed(gain: f64, half: f64, noise: f64) -> Gain {
        Gain { gain, interval: (gain - half, gain + half), noise }
    }

    #[track_caller]
    fn check(search: Option<Gain>, live: &[f64], best: &[f64], expected: Option<[f64; 3]>) {
        let found = claim(search.as_ref(), live, best);
        let logs = found.map(|found| [found.ratio, found.low, found.high].map(f64::ln_1p));
        match (logs, expected) {
            (Some(found), Some(expected)) => {
                let near = found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-3);
                assert!(near, "{found:?}, not {expected:?}");
            }
            (found, expected) => assert_eq!(found, expected),
        }
    }

    #[test]
    fn without_repeated_runs_the_search_stands_alone() {
        check(Some(believed(0.3, 0.1, 0.05)), &[], &[], Some([0.3, 0.2, 0.4]));
        check(Some(believed(0.3, 0.1, 0.05)), &[0.0], &[], Some([0.3, 0.2, 0.4]));
        check(None, &[], &[], None);
    }

    #[test]
    fn two_that_agree_meet_in_between_and_are_surer_than_each() {
        // One run each with a spread of 0.05, of which little is known, has a deviation of 0.1001, the search one of 0.0510.
        check(Some(believed(0.3, 0.1, 0.05)), &[0.0], &[0.25], Some([0.2897, 0.2006, 0.3788]));
    }

    /// A claim of +1318 % with an interval from -100 % to 186 thousand million percent was printed once: the mean of both.
    #[test]
    fn where_search_and_repeated_runs_contradict_each_other_the_repeated_runs_stand_alone() {
        check(Some(believed(2.0, 0.1, 0.05)), &[0.0], &[0.2], Some([0.2, 0.0037, 0.3963]));
        check(Some(believed(9.0, 0.5, 0.05)), &[0.0, 0.02], &[1.7, 1.72], Some([1.7, 1.5981, 1.8019]));
        check(Some(believed(-2.0, 0.1, 0.05)), &[0.0], &[0.2], Some([0.2, 0.0037, 0.3963]));
    }

    #[test]
    fn a_contradiction_makes_an_interval_no_wider_than_twice_that_of_the_runs() {
        for gain in [0.2, 0.3, 0.5, 1.0, 3.0, 30.0] {
            let alone = claim(None, &[0.0, 0.1, 0.05], &[0.2, 0.3, 0.25]).unwrap();
            let found = claim(Some(&believed(gain, 0.1, 0.05)), &[0.0, 0.1, 0.05], &[0.2, 0.3, 0.25]).unwrap();
            let width = |found: &Estimate| found.high.ln_1p() - found.low.ln_1p();
            assert!(width(&found) <= 2.0 * width(&alone), "{gain}: {found:?} beside {alone:?}");
        }
    }

    #[test]
    fn repeated_runs_that_scatter_more_than_the_search_thinks_are_believed_about_it() {
        let far = claim(Some(&believed(0.3, 0.1, 0.001)), &[-0.3, 0.3], &[0.0, 0.6]).unwrap();
        assert!((far.ratio.ln_1p() - 0.3).abs() < 1e-3 && far.high.ln_1p() - 0.3 > 0.09, "{far:?}");
    }

    #[test]
    fn where_the_search_takes_measurements_for_exact_the_repeated_runs_tell_their_spread_themselves() {
        // Two runs each: the spread is 0.1, with two degrees of freedom.
        let runs = ([-0.0707, 0.0707], [0.2293, 0.3707]);
        check(Some(believed(0.9, 0.0, 0.0)), &runs.0, &runs.1, Some([0.3, -0.1303, 0.7303]));
        check(None, &runs.0, &runs.1, Some([0.3, -0.1303, 0.7303]));
        check(Some(believed(0.9, 0.0, 0.0)), &[0.0], &[0.3], None);
        check(None, &[0.1, 0.1], &[0.3, 0.3], None);
    }

    /// Thirty candidates, of which the one with the largest number is taken; their true gains spread by 0.1, one run by 0.15.
    #[test]
    fn the_claim_of_the_luckiest_of_many_is_not_too_large_and_holds_what_is_true() {
        let (spread, noise, count, repeats) = (0.1_f64, 0.15_f64, 30, 2);
        let mut rng = StdRng::seed_from_u64(1);
        let mut normal = || (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        let (mut held, mut bias, mut naive_bias, mut widths) = (0, 0.0, 0.0, (0.0, 0.0));
        for _ in 0..RUNS {
            let truths: Vec<f64> = (0..count).map(|_| spread * normal()).collect();
            let values: Vec<f64> = truths.iter().map(|truth| truth + noise * normal()).collect();
            let live = noise * normal();
            let luckiest = (0..count).max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap();
            // What a search with the right prior believes: each value is drawn to the mean of all.
            let trust = spread * spread / (spread * spread + noise * noise);
            let deviation = (2.0 * trust).sqrt() * noise;
            let search = believed(trust * (values[luckiest] - live), AMONG_THIRTY * deviation, noise);
            let runs = |truth: f64, normal: &mut dyn FnMut() -> f64| -> Vec<f64> {
                (0..repeats).map(|_| truth + noise * normal()).collect()
            };
            let (live_again, best_again) = (runs(0.0, &mut normal), runs(truths[luckiest], &mut normal));
            let found = claim(Some(&search), &live_again, &best_again).unwrap();
            let truth = truths[luckiest].exp_m1();
            held += u32::from(found.low <= truth && truth <= found.high);
            bias += (found.ratio.ln_1p() - truths[luckiest]) / f64::from(RUNS);
            naive_bias += (values[luckiest] - live - truths[luckiest]) / f64::from(RUNS);
            widths.0 += found.high.ln_1p() - found.low.ln_1p();
            widths.1 += 2.0 * AMONG_THIRTY * deviation;
        }
        assert!(naive_bias > 0.15, "{naive_bias}");
        assert!(bias.abs() < 0.02, "{bias}");
        assert!(held >= RUNS * 95 / 100, "{held} of {RUNS}");
        assert!(widths.0 < widths.1, "{widths:?}");
    }

    /// Whole searches, whose prior is not the right one: the claim against what is true of the settings that were chosen.
    #[test]
    fn the_claim_of_a_search_holds_what_is_true() {
        let params = [
            ("batch".to_owned(), KnobKind::Integer { min: 1, max: 512, log: true, step: None }.into()),
            ("cache".to_owned(), KnobKind::Float { min: 0.5, max: 0.95, log: false, step: None }.into()),
        ];
        let space = SearchSpace { params: params.into(), ..SearchSpace::default() };
        let live = Params::from([("batch".to_owned(), Value::Integer(4)), ("cache".to_owned(), Value::Float(0.6))]);
        let truth = |params: &Params| {
            let [batch, cache] = ["batch", "cache"].map(|name| params[name].as_number().unwrap());
            0.3 - 3.0 * ((batch.ln() - 64_f64.ln()) / 6.2).powi(2) - 2.0 * ((cache - 0.85) / 0.45).powi(2)
        };
        let (mut held, mut bias) = (0, 0.0);
        for seed in 0..SEARCHES {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut measure = |params: &Params| {
                let noise = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
                truth(params) - truth(&live) + 0.1 * noise
            };
            let budget = Budget::of(12, 3);
            let (space, begins, earlier) = (space.clone(), Params::new(), Vec::new());
            let plan = Plan { space, budget, lot_max: 1, seed, live: live.clone(), begins, earlier, stop_below: 0.0 };
            let mut search = Search::new(plan).unwrap();
            loop {
                let lot = search.ask();
                if lot.is_empty() {
                    break;
                }
                for candidate in lot {
                    search.tell(&candidate, Told::Fitness(measure(&candidate.params)));
                }
            }
            let best = search.favourite().unwrap().clone();
            let again: Vec<[f64; 2]> = (0..2).map(|_| [measure(&live), measure(&best)]).collect();
            let of = |index: usize| again.iter().map(|pair| pair[index]).collect::<Vec<f64>>();
            let found = claim(search.gain(&best).as_ref(), &of(0), &of(1)).unwrap();
            let gain = truth(&best) - truth(&live);
            held += u64::from((found.low..=found.high).contains(&gain.exp_m1()));
            bias += (found.ratio.ln_1p() - gain) / SEARCHES as f64;
        }
        assert!(held + 1 >= SEARCHES && bias.abs() < 0.05, "{held} of {SEARCHES}, {bias}");
    }

    const SEARCHES: u64 = 12;

    const RUNS: u32 = 500;

    /// The quantile of the normal distribution for an interval of 95 % of each of thirty together.
    const AMONG_THIRTY: f64 = 3.143;

    proptest! {
        #[test]
        fn a_claim_is_three_finite_numbers_in_order_or_none(
            gain: f64, half: f64, noise: f64,
            live in prop::collection::vec(prop::num::f64::ANY, 0..4), best in prop::collection::vec(prop::num::f64::ANY, 0..4),
        ) {
            let search = believed(gain, half, noise);
            for search in [None, Some(&search)] {
                if let Some(Estimate { ratio, low, high }) = claim(search, &live, &best) {
                    prop_assert!(low <= ratio && ratio <= high && low.is_finite() && high.is_finite());
                }
            }
        }
    }
}
