//! The steps: what one more sequence in a step costs, on one core and without a server around it.

use std::{
    io::{self, Write as _},
    time::{Duration, Instant},
};

use super::{
    LabError,
    model::{Block, Lane, Sampler, forward},
    weights::{BLOCK_TOKENS, Real, Weights},
};

const BATCHES: [usize; 8] = [1, 2, 4, 8, 12, 16, 32, 64];
/// Tokens that every sequence has behind it.
const CONTEXT_TOKENS: usize = 200;
/// Times that each step is taken; the shortest counts, because everything else on the machine only makes it longer.
const ROUNDS: usize = 30;

/// Prints the time of a step that adds one token to each sequence, by precision and number of sequences.
pub(crate) fn steps() -> Result<(), LabError> {
    let rows = [("f32", step_times::<f32>(&BATCHES)), ("f64", step_times::<f64>(&BATCHES))];
    let mut lines = vec!["sequences  precision  step ms  ms a token".to_owned()];
    for (precision, times) in rows {
        for (batch, time) in BATCHES.iter().zip(times) {
            let millis = time.as_secs_f64() * 1e3;
            lines.push(format!("{batch:9}  {precision:>9}  {millis:7.2}  {:10.3}", millis / *batch as f64));
        }
    }
    let written = writeln!(io::stdout(), "{}", lines.join("\n"));
    written.map_err(|source| LabError::Io { action: "write to stdout", source })
}

/// Returns the shortest time of a step for each number of sequences. All take turns, so that none has a better hour.
fn step_times<T: Real>(batches: &[usize]) -> Vec<Duration> {
    let weights = Weights::<T>::fixed();
    let mut steps: Vec<Vec<Lane<T>>> = batches.iter().map(|batch| (0..*batch).map(|_| lane()).collect()).collect();
    let mut times = vec![Duration::MAX; batches.len()];
    for _ in 0..ROUNDS {
        for (lanes, time) in steps.iter_mut().zip(&mut times) {
            let before = Instant::now();
            forward(&weights, lanes.len(), lanes);
            *time = before.elapsed().min(*time);
        }
    }
    times
}

fn lane<T: Real>() -> Lane<T> {
    Lane {
        id: 0,
        tokens: vec![1],
        position: CONTEXT_TOKENS,
        cache: (0..=CONTEXT_TOKENS / BLOCK_TOKENS).map(|_| Block::touched()).collect(),
        sampler: Sampler::new(0.0, 0),
        samples: true,
        sampled: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_sequences_together_cost_far_less_than_eight_times_one() {
        let times = step_times::<f32>(&[1, 8]);
        assert!(times[1] < times[0] * 6, "{times:?}");
    }
}
