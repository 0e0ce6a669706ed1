//! What is asked and when: sequences of chat requests and of arrivals that depend on nothing but their seed.

use std::time::Duration;

use kloros_actors::facts::TokenRange;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp};

/// Bytes of plain English that make about one token.
pub(super) const BYTES_PER_TOKEN: usize = 4;

/// Keeps the gaps from being drawn from the same random numbers as the lengths, so that a change of the rate leaves the
/// requests as they are.
const ARRIVALS_SALT: u64 = 0x6b6c_6f72_6f73;

/// Common short words without a meaning together; each prompt is another sequence, so that a prefix cache is no help.
const WORDS: [&str; 48] = [
    "air", "apple", "arm", "ball", "bird", "blue", "boat", "book", "box", "bread", "bridge", "cat", "chair", "city",
    "cloud", "coat", "door", "early", "east", "field", "fire", "fish", "garden", "glass", "green", "hand", "hill",
    "horse", "house", "iron", "island", "lake", "lamp", "letter", "light", "milk", "moon", "north", "paper", "rain",
    "river", "road", "salt", "ship", "snow", "stone", "tree", "winter",
];

/// One chat request, not yet sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The text of the only message.
    pub(super) prompt: String,
    /// How many tokens are asked for.
    pub(super) output_tokens: u32,
}

/// An endless sequence of requests; equal seeds and ranges give equal bytes.
#[derive(Debug)]
pub(super) struct Calls {
    rng: StdRng,
    prompt_tokens: TokenRange,
    output_tokens: TokenRange,
}

impl Calls {
    /// Returns the sequence with this seed. A range that is upside down is its `min` alone, and nothing is below 1.
    pub(super) fn new(seed: u64, prompt_tokens: TokenRange, output_tokens: TokenRange) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), prompt_tokens, output_tokens }
    }

    /// Returns the next request.
    pub(super) fn draw(&mut self) -> Call {
        let prompt_tokens = draw_within(&mut self.rng, self.prompt_tokens);
        let output_tokens = draw_within(&mut self.rng, self.output_tokens);
        Call { prompt: prompt(&mut self.rng, prompt_tokens), output_tokens }
    }
}

fn draw_within(rng: &mut StdRng, range: TokenRange) -> u32 {
    let min = range.min.max(1);
    rng.random_range(min..=range.max.max(min))
}

fn prompt(rng: &mut StdRng, tokens: u32) -> String {
    let bytes = tokens as usize * BYTES_PER_TOKEN;
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.push_str(WORDS[rng.random_range(0..WORDS.len())]);
        text.push(' ');
    }
    text.truncate(bytes);
    text
}

/// The moments at which requests arrive, as offsets from the start: a Poisson process that is quiet first and busy then.
#[derive(Debug)]
pub(super) struct Arrivals {
    rng: StdRng,
    quiet_rate_per_s: f64,
    quiet_s: f64,
    busy_rate_per_s: f64,
    at_s: f64,
}

impl Arrivals {
    /// Returns arrivals at one rate for ever.
    pub(super) fn steady(seed: u64, rate_per_s: f64) -> Self {
        Self::ramp(seed, 0.0, 0.0, rate_per_s)
    }

    /// Returns arrivals at `quiet_rate_per_s` for `quiet_s` seconds and at `busy_rate_per_s` from then on.
    ///
    /// A rate that is not a positive finite number means no arrivals while it holds.
    pub(super) fn ramp(seed: u64, quiet_rate_per_s: f64, quiet_s: f64, busy_rate_per_s: f64) -> Self {
        let quiet_s = if quiet_s.is_finite() { quiet_s } else { 0.0 };
        Self { rng: StdRng::seed_from_u64(seed ^ ARRIVALS_SALT), quiet_rate_per_s, quiet_s, busy_rate_per_s, at_s: 0.0 }
    }

    fn gap_s(&mut self, rate_per_s: f64) -> Option<f64> {
        let gaps = Exp::new(rate_per_s).ok().filter(|_| rate_per_s.is_finite() && rate_per_s > 0.0)?;
        Some(gaps.sample(&mut self.rng))
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.at_s < self.quiet_s {
            let at_s = self.gap_s(self.quiet_rate_per_s).map_or(f64::INFINITY, |gap_s| self.at_s + gap_s);
            if at_s < self.quiet_s {
                self.at_s = at_s;
                return Duration::try_from_secs_f64(at_s).ok();
            }
            // The process has no memory: what was drawn across the change of rate is drawn anew from there.
            self.at_s = self.quiet_s;
        }
        self.at_s += self.gap_s(self.busy_rate_per_s)?;
        Duration::try_from_secs_f64(self.at_s).ok()
    }
}

/// The moments of a bench at one rate, as offsets from the start.
#[derive(Debug)]
pub(super) enum Moments {
    /// At random: a Poisson process.
    Poisson(Arrivals),
    /// At even distances.
    Constant { rate_per_s: f64, count: u64 },
}

impl Moments {
    /// Returns a Poisson process; equal seeds give equal moments.
    pub(super) fn poisson(seed: u64, rate_per_s: f64) -> Self {
        Self::Poisson(Arrivals::steady(seed, rate_per_s))
    }

    /// Returns moments that are as far apart as the rate says, the first one at the start. A rate that is not a positive finite
    /// number has none.
    pub(super) fn constant(rate_per_s: f64) -> Self {
        Self::Constant { rate_per_s, count: 0 }
    }
}

impl Iterator for Moments {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        match self {
            Self::Poisson(arrivals) => arrivals.next(),
            Self::Constant { rate_per_s, count } => {
                // Counted, not added up, so that no error adds up.
                let at_s = *count as f64 / *rate_per_s;
                *count += 1;
                Duration::try_from_secs_f64(at_s).ok().filter(|_| rate_per_s.is_finite() && *rate_per_s > 0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROMPTS: TokenRange = TokenRange { min: 8, max: 64 };
    const ANSWERS: TokenRange = TokenRange { min: 4, max: 32 };

    fn sequence(seed: u64) -> Vec<Call> {
        let mut calls = Calls::new(seed, PROMPTS, ANSWERS);
        (0..50).map(|_| calls.draw()).collect()
    }

    #[test]
    fn equal_seeds_give_equal_requests_and_arrivals() {
        assert_eq!(sequence(7), sequence(7));
        assert_ne!(sequence(7), sequence(8));
        let arrivals = |seed| Arrivals::steady(seed, 5.0).take(50).collect::<Vec<_>>();
        assert_eq!(arrivals(7), arrivals(7));
        assert_ne!(arrivals(7), arrivals(8));
    }

    #[test]
    fn a_constant_rate_has_even_distances_and_no_rate_has_no_moments() {
        let moments: Vec<Duration> = Moments::constant(4.0).take(5).collect();
        assert_eq!(moments, [0, 250, 500, 750, 1000].map(Duration::from_millis));
        assert_eq!(Moments::constant(3.0).nth(30_000), Some(Duration::from_secs(10_000)));
        for rate_per_s in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Moments::constant(rate_per_s).next(), None, "{rate_per_s}");
        }
    }

    #[test]
    fn no_two_prompts_begin_alike() {
        let mut openings: Vec<String> = sequence(1).into_iter().map(|call| call.prompt[..32].to_owned()).collect();
        openings.sort();
        openings.dedup();
        assert_eq!(openings.len(), 50);
    }

    #[test]
    fn a_prompt_is_four_bytes_a_token() {
        let mut calls = Calls::new(1, TokenRange { min: 17, max: 17 }, ANSWERS);
        assert_eq!(calls.draw().prompt.len(), 68);
    }

    #[test]
    fn a_range_that_is_upside_down_is_its_least_value() {
        let mut calls = Calls::new(1, TokenRange { min: 9, max: 2 }, TokenRange { min: 0, max: 0 });
        let call = calls.draw();
        assert_eq!((call.prompt.len(), call.output_tokens), (36, 1));
    }

    #[test]
    fn arrivals_come_at_their_rate_on_average() {
        // The mean of n exponential gaps has a relative spread of 1/sqrt(n): 1 % here, so 4 % is four spreads.
        for (seed, rate_per_s) in [(1, 0.5), (2, 8.0), (3, 250.0)] {
            let last = Arrivals::steady(seed, rate_per_s).nth(9_999).unwrap().as_secs_f64();
            let mean_gap_s = last / 10_000.0;
            assert!((mean_gap_s * rate_per_s - 1.0).abs() < 0.04, "{mean_gap_s} at {rate_per_s}");
        }
    }

    #[test]
    fn gaps_spread_as_widely_as_they_are_long() {
        let at_s: Vec<f64> = Arrivals::steady(4, 10.0).take(10_000).map(|at| at.as_secs_f64()).collect();
        let gaps: Vec<f64> = at_s.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05);
    }

    #[test]
    fn a_ramp_is_quiet_first_and_busy_then() {
        let arrivals: Vec<f64> =
            Arrivals::ramp(5, 2.0, 500.0, 20.0).map(|at| at.as_secs_f64()).take_while(|at| *at < 1_000.0).collect();
        let quiet = arrivals.iter().filter(|at| **at < 500.0).count() as f64;
        let busy = arrivals.len() as f64 - quiet;
        assert!((quiet / 1_000.0 - 1.0).abs() < 0.13, "{quiet}");
        assert!((busy / 10_000.0 - 1.0).abs() < 0.04, "{busy}");
    }

    #[test]
    fn a_silent_start_begins_at_the_change() {
        let first = Arrivals::ramp(5, 0.0, 30.0, 4.0).next().unwrap();
        assert!(first >= Duration::from_secs(30));
    }

    #[test]
    fn an_impossible_rate_has_no_arrivals() {
        for rate_per_s in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Arrivals::steady(1, rate_per_s).next(), None, "{rate_per_s}");
        }
    }

    proptest! {
        #[test]
        fn lengths_stay_within_their_ranges(seed in any::<u64>(), min in 1_u32..100, more in 0_u32..100) {
            let range = TokenRange { min, max: min + more };
            let mut calls = Calls::new(seed, range, range);
            for _ in 0..20 {
                let call = calls.draw();
                prop_assert!((min..=min + more).contains(&(call.prompt.len() as u32 / 4)));
                prop_assert!((min..=min + more).contains(&call.output_tokens));
            }
        }

        #[test]
        fn time_never_runs_backwards(seed in any::<u64>(), quiet in 0.0_f64..50.0, quiet_s in 0.0_f64..10.0, busy in 0.1_f64..50.0) {
            let arrivals: Vec<Duration> = Arrivals::ramp(seed, quiet, quiet_s, busy).take(200).collect();
            prop_assert!(arrivals.is_sorted());
        }
    }
}
