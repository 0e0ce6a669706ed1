//! Noise: what a service that is measured against itself says of the measurement.
//!
//! It is measured as a validation measures: in blocks of four runs, each on a fresh instance and all under one load. As all four
//! run with the same settings, each of the three ways to hold two of them against the other two is a measurement of no effect,
//! and the three do not depend on each other (they are orthogonal contrasts). Their true mean is known, it is 0, so their root mean
//! square is the spread, with three degrees of freedom a block. What drifts within a block makes it larger than it is for old and
//! new in turns, which errs on the safe side.

use std::collections::BTreeMap;

use super::{
    Config,
    evidence::Evidence,
    statistics::{Sample, student},
    verdict::Run,
};
use crate::facts::{Estimate, FailureKind, MetricSpec, Noise};

/// The places of a block that are held against the other two: first as a validation has them.
const SPLITS: [[u32; 2]; 3] = [[2, 3], [1, 2], [1, 3]];

/// The quantile of the normal distribution that nine of ten lie below.
const POWER: f64 = 1.2816;

/// How many times the blocks that are wanted may be begun.
const ATTEMPTS_FACTOR: u32 = 2;

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Comparing {
    /// Measure this run: its block and its place in it, both from 1.
    Measure(u32, u32),
    /// Stop: this is the noise, or why it is not known.
    Over(Result<Noise, String>),
}

/// Returns whether to measure on or what the noise is, from all runs so far. A block with an invalid run does not count.
pub fn compare(config: &Config, specs: &BTreeMap<String, MetricSpec>, runs: &[Run]) -> Comparing {
    let wanted = config.calibrate_blocks.max(1);
    let evidence = Evidence::of(specs, runs);
    if let Some(block) = evidence.open_block {
        let made = runs.iter().filter(|run| run.block == block).count() as u32;
        return Comparing::Measure(block, made + 1);
    }
    let good = evidence.log_ratios().len() as u32;
    if good >= wanted {
        return Comparing::Over(noise(config, specs, runs));
    }
    let all_failed = runs.iter().all(|run| run.outcome.is_err() || run.samples == 0);
    if all_failed || evidence.last_block >= wanted.saturating_mul(ATTEMPTS_FACTOR) {
        let last: Option<FailureKind> = runs.iter().rev().find_map(|run| run.outcome.as_ref().err().copied());
        let last = last.map_or_else(String::new, |kind| format!(", the last failure: {kind}"));
        return Comparing::Over(Err(format!("only {good} of {} blocks were good{last}", evidence.last_block)));
    }
    Comparing::Measure(evidence.last_block + 1, 1)
}

fn noise(config: &Config, specs: &BTreeMap<String, MetricSpec>, runs: &[Run]) -> Result<Noise, String> {
    let ratios: Vec<Vec<f64>> = SPLITS.iter().map(|split| split_by(*split, specs, runs)).collect();
    let all: Vec<f64> = ratios.iter().flatten().copied().collect();
    let (freedom, spread) = (all.len() as u32, root_mean_square(&all));
    let good = Evidence::of(specs, runs);
    // Runs that agree within each block are quiet. What never changes at all is stale, frozen or made up, and no verdict believes it.
    if spread == 0.0 && good.frozen().is_some() {
        return Err(
            "every run gave the very same numbers, as stale or frozen ones are: measure something that varies in its last digits at \
             least"
                .to_owned(),
        );
    }
    let as_validated = Sample::of(&ratios[0]).ok_or("nothing was measured")?;
    // What the interval is as wide as must not depend on what it is about.
    let others: Vec<f64> = ratios[1..].iter().flatten().copied().collect();
    let margin = student(0.975, others.len() as u32) * root_mean_square(&others) / f64::from(as_validated.n).sqrt();
    let [ratio, low, high] = [0.0, -margin, margin].map(|off| (as_validated.mean + off).exp_m1());
    let resolves = resolves(spread, config.blocks_max);
    let is_told = [spread, ratio, low, high, resolves].iter().all(|number| number.is_finite());
    if !is_told {
        return Err("its numbers differ by more than can be told".to_owned());
    }
    Ok(Noise {
        spread,
        freedom,
        improvement: Estimate { ratio, low, high },
        resolves,
        blocks: config.blocks_max,
        runs: as_validated.n * 4,
        samples: good.samples(),
    })
}

fn root_mean_square(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.powi(2)).sum::<f64>() / ratios.len() as f64).sqrt()
}

/// Returns the log ratio of each good block when the runs at these places are held against the others.
fn split_by(split: [u32; 2], specs: &BTreeMap<String, MetricSpec>, runs: &[Run]) -> Vec<f64> {
    let relabelled: Vec<Run> =
        runs.iter().map(|run| Run { candidate: split.contains(&run.place), ..run.clone() }).collect();
    Evidence::of(specs, &relabelled).log_ratios()
}

/// Returns the smallest effect, as a ratio, that so many blocks of this spread tell from none with 95 % in nine of ten cases.
pub fn resolves(spread: f64, blocks: u32) -> f64 {
    let quantiles = student(0.975, blocks.saturating_sub(1)) + POWER;
    (quantiles * spread / f64::from(blocks.max(1)).sqrt()).exp_m1()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::facts::{Direction, Metrics};

    fn specs() -> BTreeMap<String, MetricSpec> {
        [("rate".to_owned(), MetricSpec { direction: Direction::Up, weight: 1.0, guard: None })].into()
    }

    fn run(block: u32, place: u32, rate: f64) -> Run {
        let metrics = Metrics::from([("rate".to_owned(), rate)]);
        Run { block, place, candidate: place == 2 || place == 3, outcome: Ok(metrics), samples: 10 }
    }

    fn config(calibrate_blocks: u32) -> Config {
        Config { calibrate_blocks, ..Config::default() }
    }

    /// Measures until it is over; `rate` says what each run gives.
    fn over(
        config: &Config,
        mut rate: impl FnMut(u32, u32) -> Result<f64, FailureKind>,
    ) -> (Result<Noise, String>, usize) {
        let mut runs = Vec::new();
        loop {
            match compare(config, &specs(), &runs) {
                Comparing::Measure(block, place) => {
                    let made = run(block, place, 1.0);
                    runs.push(match rate(block, place) {
                        Ok(rate) => run(block, place, rate),
                        Err(kind) => Run { outcome: Err(kind), samples: 0, ..made },
                    });
                }
                Comparing::Over(noise) => return (noise, runs.len()),
            }
        }
    }

    fn normal(rng: &mut StdRng) -> f64 {
        (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
    }

    #[test]
    fn the_spread_that_is_found_is_on_average_the_one_that_is_there() {
        for noise in [0.01, 0.05, 0.2] {
            let mut rng = StdRng::seed_from_u64(3);
            let squares: Vec<f64> = (0..300)
                .map(|_| over(&config(3), |_, _| Ok((noise * normal(&mut rng)).exp())).0.unwrap().spread.powi(2))
                .collect();
            let spread = (squares.iter().sum::<f64>() / squares.len() as f64).sqrt();
            assert!((spread / noise - 1.0).abs() < 0.05, "{spread} instead of {noise}");
        }
    }

    #[test]
    fn a_load_that_differs_from_block_to_block_is_no_noise() {
        let mut rng = StdRng::seed_from_u64(4);
        let (noise, runs) = over(&config(8), |block, _| Ok(f64::from(block) * (0.02 * normal(&mut rng)).exp()));
        let noise = noise.unwrap();
        assert!((0.01..0.03).contains(&noise.spread), "{noise:?}");
        assert_eq!((noise.freedom, noise.runs, runs, noise.samples), (24, 32, 32, 320));
    }

    #[test]
    fn what_is_resolved_is_what_nine_of_ten_validations_tell_from_nothing() {
        let (spread, blocks) = (0.08, 20);
        let effect = resolves(spread, blocks).ln_1p();
        let mut rng = StdRng::seed_from_u64(5);
        let told = (0..2000).filter(|_| {
            let ratios: Vec<f64> = (0..blocks).map(|_| effect + spread * normal(&mut rng)).collect();
            let sample = Sample::of(&ratios).unwrap();
            sample.mean - sample.margin(0.975) > 0.0
        });
        let share = told.count() as f64 / 2000.0;
        assert!((share - 0.9).abs() < 0.03, "{share}");
        assert!(resolves(0.01, 60) < resolves(0.02, 60) && resolves(0.02, 60) < resolves(0.02, 6));
    }

    #[test]
    fn the_interval_of_a_service_held_against_itself_holds_nothing_in_nineteen_of_twenty_cases() {
        let mut rng = StdRng::seed_from_u64(6);
        let held = (0..400).filter(|_| {
            let noise = over(&config(3), |_, _| Ok((0.05 * normal(&mut rng)).exp())).0.unwrap();
            noise.improvement.low <= 0.0 && noise.improvement.high >= 0.0
        });
        let held = held.count();
        assert!((364..=396).contains(&held), "{held} of 400");
    }

    #[test]
    fn a_block_with_a_failure_is_made_up_for_and_a_service_that_always_fails_is_given_up_at_once() {
        let mut rng = StdRng::seed_from_u64(7);
        let (noise, runs) = over(&config(2), |block, place| match (block, place) {
            (1, 2) => Err(FailureKind::TimedOut),
            _ => Ok(1.0 + 0.01 * rng.random::<f64>()),
        });
        assert_eq!((noise.unwrap().runs, runs), (8, 12));
        let (noise, runs) = over(&config(3), |_, _| Err(FailureKind::DidNotStart));
        assert_eq!(runs, 4);
        assert!(noise.unwrap_err().contains("0 of 1 blocks were good"));
        let (noise, runs) = over(&config(3), |_, place| if place == 4 { Err(FailureKind::Died) } else { Ok(1.0) });
        assert_eq!(runs, 24);
        assert!(noise.unwrap_err().contains("0 of 6 blocks"));
    }

    #[test]
    fn numbers_that_never_vary_and_runs_that_saw_nothing_are_no_calibration() {
        let (noise, runs) = over(&config(3), |_, _| Ok(7.0));
        assert!(noise.unwrap_err().contains("the very same numbers"));
        assert_eq!(runs, 12);
        let unseen: Vec<Run> = (1..=4).map(|place| Run { samples: 0, ..run(1, place, f64::from(place)) }).collect();
        assert!(matches!(compare(&config(3), &specs(), &unseen), Comparing::Over(Err(_))));
        let nowhere: Vec<Run> =
            unseen.into_iter().map(|run| Run { outcome: Ok(Metrics::new()), samples: 10, ..run }).collect();
        assert_eq!(compare(&config(1), &specs(), &nowhere), Comparing::Measure(2, 1), "it does not count");
    }

    /// It was refused as if nothing had been measured, over and over.
    #[test]
    fn a_measurement_that_lives_and_does_not_scatter_is_known_to_be_quiet() {
        let noise = over(&config(3), |block, _| Ok(f64::from(1 << block))).0.unwrap();
        assert_eq!((noise.spread, noise.resolves, noise.freedom, noise.runs), (0.0, 0.0, 9, 12));
        assert_eq!(noise.improvement, Estimate { ratio: 0.0, low: 0.0, high: 0.0 });
    }

    proptest! {
        #[test]
        fn whatever_is_measured_it_comes_to_an_end_with_finite_numbers_or_a_reason(
            values in prop::collection::vec(any::<f64>(), 24), blocks in 0_u32..4,
        ) {
            let mut values = values.into_iter().cycle();
            let (noise, runs) = over(&config(blocks), |_, _| Ok(values.next().unwrap()));
            prop_assert!(runs <= 24);
            if let Ok(noise) = noise {
                prop_assert!(noise.spread >= 0.0 && noise.resolves >= 0.0 && noise.resolves.is_finite());
            }
        }
    }
}
