//! The model: one forward pass for the tokens of several sequences at once.
//!
//! All heavy work is products of matrices, so a debug build is nearly as fast as a release build: the kernels live in a
//! dependency that is always optimised.

use nalgebra::{DMatrix, DMatrixView, DMatrixViewMut};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use super::{
    scheduler::SequenceId,
    weights::{BLOCK_TOKENS, GROUPS, HEAD, HEADS_PER_GROUP, KEY, Layer, MODEL, QUERY, Real, Weights, block_numbers},
};

/// Fewest columns of a product. Below six, nalgebra leaves the fast kernels for a plain loop over vectors.
const COLUMNS_MIN: usize = 6;
/// Numbers that one layer takes in a cache block: keys and values of all groups.
const LAYER_NUMBERS: usize = 2 * KEY * BLOCK_TOKENS;
/// Numbers of one group's keys, and of its values, in one layer of a block.
const PLANE: usize = HEAD * BLOCK_TOKENS;

/// Keys and values of [`BLOCK_TOKENS`] tokens in all layers.
///
/// Keys lie token by token within a channel and values channel by channel within a token, so that each is the left
/// factor of its product as it lies.
#[derive(Debug)]
pub(super) struct Block<T>(Box<[T]>);

impl<T: Real> Block<T> {
    /// Returns a block whose memory is really there: every page was written.
    pub(super) fn touched() -> Self {
        Block(vec![T::one(); block_numbers()].into_boxed_slice())
    }

    fn keys(&self, layer: usize, group: usize) -> DMatrixView<'_, T> {
        let start = layer * LAYER_NUMBERS + group * PLANE;
        DMatrixView::from_slice(&self.0[start..start + PLANE], BLOCK_TOKENS, HEAD)
    }

    fn values(&self, layer: usize, group: usize) -> DMatrixView<'_, T> {
        let start = layer * LAYER_NUMBERS + (GROUPS + group) * PLANE;
        DMatrixView::from_slice(&self.0[start..start + PLANE], HEAD, BLOCK_TOKENS)
    }

    /// Stores the keys and values of the token in `slot`.
    fn store(&mut self, layer: usize, slot: usize, keys: &[T], values: &[T]) {
        let plane = &mut self.0[layer * LAYER_NUMBERS..][..LAYER_NUMBERS];
        let (all_keys, all_values) = plane.split_at_mut(KEY * BLOCK_TOKENS);
        for (row, key) in all_keys.chunks_exact_mut(BLOCK_TOKENS).zip(keys) {
            row[slot] = *key;
        }
        for (group, values) in values.chunks_exact(HEAD).enumerate() {
            all_values[group * PLANE + slot * HEAD..][..HEAD].copy_from_slice(values);
        }
    }
}

/// How the next token is chosen from the scores.
#[derive(Debug)]
pub(super) struct Sampler {
    temperature: f64,
    rng: Xoshiro256PlusPlus,
}

impl Sampler {
    /// Returns a sampler; at a `temperature` of zero it always takes the best token.
    pub(super) fn new(temperature: f64, seed: u64) -> Self {
        Sampler { temperature, rng: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    fn choose<T: Real>(&mut self, scores: &[T]) -> u16 {
        let best = scores.iter().enumerate().fold((0, T::min_value()), |best, (token, score)| {
            if Some(*score) > best.1 { (token, Some(*score)) } else { best }
        });
        let Some(top) = best.1.filter(|_| self.temperature > 0.0) else { return best.0 as u16 };
        let scale: T = nalgebra::convert(1.0 / self.temperature);
        let odds: Vec<T> = scores.iter().map(|score| ((*score - top) * scale).exp()).collect();
        let total = odds.iter().fold(T::zero(), |total, odd| total + *odd);
        let mut left = total * nalgebra::convert(self.rng.random::<f64>());
        for (token, odd) in odds.iter().enumerate() {
            left -= *odd;
            if left < T::zero() {
                return token as u16;
            }
        }
        best.0 as u16
    }
}

/// One sequence's share of a step, with everything it needs, so that a worker owns it while it computes.
#[derive(Debug)]
pub(super) struct Lane<T> {
    /// Whose share.
    pub(super) id: SequenceId,
    /// The tokens to compute, at least one.
    pub(super) tokens: Vec<u16>,
    /// Position of the first of them.
    pub(super) position: usize,
    /// Blocks enough for all positions up to the last token.
    pub(super) cache: Vec<Block<T>>,
    /// Chooses the next token.
    pub(super) sampler: Sampler,
    /// Whether a next token is wanted.
    pub(super) samples: bool,
    /// The next token, once computed.
    pub(super) sampled: Option<u16>,
}

/// Computes all lanes together: fills their caches and chooses their next tokens.
///
/// A step of fewer than `width` tokens is padded to that width and computed in full, as a graph compiled for a fixed batch
/// is: room for many sequences is paid for whether they come or not.
pub(super) fn forward<T: Real>(weights: &Weights<T>, width: usize, lanes: &mut [Lane<T>]) {
    let mut stream = embed(weights, width, lanes);
    let mut scores = Vec::new();
    for (index, layer) in weights.layers.iter().enumerate() {
        attend(index, layer, lanes, &mut stream, &mut scores);
        let normal = normalised(&stream);
        let mut inner = &layer.up * normal;
        for number in inner.as_mut_slice() {
            if *number < T::zero() {
                *number = T::zero();
            }
        }
        stream.gemm(T::one(), &layer.down, &inner, T::one());
    }
    sample(weights, lanes, &stream);
}

fn embed<T: Real>(weights: &Weights<T>, width: usize, lanes: &[Lane<T>]) -> DMatrix<T> {
    let tokens: usize = lanes.iter().map(|lane| lane.tokens.len()).sum();
    let mut stream = DMatrix::zeros(MODEL, tokens.max(width).max(COLUMNS_MIN));
    let places = lanes.iter().flat_map(|lane| lane.tokens.iter().zip(lane.position..));
    for (column, (token, position)) in places.enumerate() {
        let embedded = weights.embedding.column(usize::from(*token)) + weights.position.column(position);
        stream.set_column(column, &embedded);
    }
    stream
}

fn attend<T: Real>(
    index: usize,
    layer: &Layer<T>,
    lanes: &mut [Lane<T>],
    stream: &mut DMatrix<T>,
    scores: &mut Vec<T>,
) {
    let normal = normalised(stream);
    let keys = &layer.key * &normal;
    let values = &layer.value * &normal;
    let mut column = 0;
    for lane in lanes.iter_mut() {
        for position in lane.position..lane.position + lane.tokens.len() {
            let block = &mut lane.cache[position / BLOCK_TOKENS];
            let span = column * KEY..(column + 1) * KEY;
            block.store(index, position % BLOCK_TOKENS, &keys.as_slice()[span.clone()], &values.as_slice()[span]);
            column += 1;
        }
    }
    for group in 0..GROUPS {
        let queries = &layer.query[group] * &normal;
        let mut mixed = DMatrix::zeros(QUERY, queries.ncols());
        let mut start = 0;
        for lane in lanes.iter() {
            let span = start * QUERY..(start + lane.tokens.len()) * QUERY;
            start += lane.tokens.len();
            let heads = HEADS_PER_GROUP * lane.tokens.len();
            let queries = DMatrixView::from_slice(&queries.as_slice()[span.clone()], HEAD, heads);
            let mixed = DMatrixViewMut::from_slice(&mut mixed.as_mut_slice()[span], HEAD, heads);
            mix(index, group, lane, &queries, mixed, scores);
        }
        stream.gemm(T::one(), &layer.output[group], &mixed, T::one());
    }
}

/// Attention of one lane in one group: each column of `queries` is one head of one token.
fn mix<T: Real>(
    layer: usize,
    group: usize,
    lane: &Lane<T>,
    queries: &DMatrixView<'_, T>,
    mut mixed: DMatrixViewMut<'_, T>,
    scores: &mut Vec<T>,
) {
    let blocks = (lane.position + lane.tokens.len()).div_ceil(BLOCK_TOKENS);
    let (reach, heads) = (blocks * BLOCK_TOKENS, queries.ncols());
    scores.resize(reach * heads, T::zero());
    let scale: T = nalgebra::convert(1.0 / (HEAD as f64).sqrt());
    let mut table = DMatrixViewMut::from_slice(scores, reach, heads);
    for (index, block) in lane.cache[..blocks].iter().enumerate() {
        let mut rows = table.rows_mut(index * BLOCK_TOKENS, BLOCK_TOKENS);
        rows.gemm(scale, &block.keys(layer, group), queries, T::zero());
    }
    for (column, scores) in scores.chunks_exact_mut(reach).enumerate() {
        soften(scores, lane.position + column / HEADS_PER_GROUP + 1);
    }
    let table = DMatrixView::from_slice(scores, reach, heads);
    for (index, block) in lane.cache[..blocks].iter().enumerate() {
        let kept = if index == 0 { T::zero() } else { T::one() };
        let rows = table.rows(index * BLOCK_TOKENS, BLOCK_TOKENS);
        mixed.gemm(T::one(), &block.values(layer, group), &rows, kept);
    }
}

/// Softmax over the first `visible` scores; the tokens behind them lie in the future and weigh nothing.
fn soften<T: Real>(scores: &mut [T], visible: usize) {
    let (past, future) = scores.split_at_mut(visible);
    let top = past.iter().fold(past[0], |top, score| if *score > top { *score } else { top });
    let mut total = T::zero();
    for score in &mut *past {
        *score = (*score - top).exp();
        total += *score;
    }
    let share = T::one() / total;
    for score in past {
        *score *= share;
    }
    future.fill(T::zero());
}

fn normalised<T: Real>(stream: &DMatrix<T>) -> DMatrix<T> {
    let mut normal = stream.clone();
    let floor: T = nalgebra::convert(1e-6);
    let width: T = nalgebra::convert(MODEL as f64);
    for column in normal.as_mut_slice().chunks_exact_mut(MODEL) {
        let power = column.iter().fold(T::zero(), |power, number| power + *number * *number);
        let scale = T::one() / (power / width + floor).sqrt();
        for number in column {
            *number *= scale;
        }
    }
    normal
}

fn sample<T: Real>(weights: &Weights<T>, lanes: &mut [Lane<T>], stream: &DMatrix<T>) {
    let wanted = lanes.iter().filter(|lane| lane.samples).count();
    if wanted == 0 {
        return;
    }
    let mut last = DMatrix::zeros(MODEL, wanted.max(COLUMNS_MIN));
    let (mut end, mut column) = (0, 0);
    for lane in lanes.iter() {
        end += lane.tokens.len();
        if lane.samples {
            last.set_column(column, &stream.column(end - 1));
            column += 1;
        }
    }
    let scores = &weights.head * normalised(&last);
    for (column, lane) in lanes.iter_mut().filter(|lane| lane.samples).enumerate() {
        lane.sampled = Some(lane.sampler.choose(scores.column(column).as_slice()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane<T: Real>(tokens: &[u16], position: usize, cache: Vec<Block<T>>) -> Lane<T> {
        let sampler = Sampler::new(0.0, 0);
        Lane { id: 0, tokens: tokens.to_vec(), position, cache, sampler, samples: true, sampled: None }
    }

    fn cache<T: Real>(tokens: usize) -> Vec<Block<T>> {
        (0..tokens.div_ceil(BLOCK_TOKENS)).map(|_| Block::touched()).collect()
    }

    fn prompt(length: usize) -> Vec<u16> {
        (0..length).map(|index| (index * 37 % 512) as u16).collect()
    }

    /// Answers `tokens` greedily, with the prompt computed in pieces of `chunk`.
    fn answer<T: Real>(weights: &Weights<T>, prompt: &[u16], chunk: usize, tokens: usize) -> Vec<u16> {
        let mut blocks = cache(prompt.len() + tokens);
        let (mut position, mut next) = (0, None);
        for piece in prompt.chunks(chunk) {
            let mut lanes = [lane(piece, position, blocks)];
            forward(weights, 1, &mut lanes);
            let [lane] = lanes;
            (position, next, blocks) = (position + piece.len(), lane.sampled, lane.cache);
        }
        let mut answer = vec![next.unwrap()];
        while answer.len() < tokens {
            let mut lanes = [lane(&answer[answer.len() - 1..], position, blocks)];
            forward(weights, 1, &mut lanes);
            let [lane] = lanes;
            answer.push(lane.sampled.unwrap());
            (position, blocks) = (position + 1, lane.cache);
        }
        answer
    }

    #[test]
    fn the_size_of_the_chunks_does_not_change_the_answer() {
        let weights = Weights::<f64>::fixed();
        let whole = answer(&weights, &prompt(50), 50, 6);
        assert_eq!(answer(&weights, &prompt(50), 7, 6), whole);
        assert_eq!(answer(&weights, &prompt(50), 32, 6), whole);
    }

    #[test]
    fn the_company_in_a_batch_does_not_change_the_answer() {
        let weights = Weights::<f64>::fixed();
        let alone = |length| {
            let mut lanes = [lane(&prompt(length), 0, cache(length))];
            forward(&weights, 1, &mut lanes);
            lanes[0].sampled
        };
        let mut lanes = [9, 40, 3].map(|length| lane(&prompt(length), 0, cache(length)));
        forward(&weights, 1, &mut lanes);
        assert_eq!(lanes.map(|lane| lane.sampled), [alone(9), alone(40), alone(3)]);
    }

    #[test]
    fn padding_does_not_change_the_answer() {
        let weights = Weights::<f64>::fixed();
        let padded = |width| {
            let mut lanes = [lane(&prompt(9), 0, cache(9))];
            forward(&weights, width, &mut lanes);
            lanes[0].sampled
        };
        assert_eq!(padded(64), padded(1));
    }

    #[test]
    fn the_answer_depends_on_the_beginning_of_the_prompt() {
        let weights = Weights::<f32>::fixed();
        let mut other = prompt(40);
        other[0] = 500;
        assert_ne!(answer(&weights, &prompt(40), 40, 8), answer(&weights, &other, 40, 8));
    }

    #[test]
    fn what_a_block_held_before_does_not_leak_into_the_answer() {
        let weights = Weights::<f32>::fixed();
        let mut used = [lane(&prompt(64), 0, cache(64))];
        forward(&weights, 1, &mut used);
        let [used] = used;
        let mut again = [lane(&prompt(5), 0, used.cache)];
        forward(&weights, 1, &mut again);
        assert_eq!(again[0].sampled, answer(&weights, &prompt(5), 5, 1).first().copied());
    }

    #[test]
    fn a_seed_decides_what_is_drawn_and_no_temperature_means_the_best() {
        let scores: Vec<f32> = (0..512).map(|token| if token == 77 { 1.0 } else { 0.0 }).collect();
        let drawn = |temperature, seed| {
            let mut sampler = Sampler::new(temperature, seed);
            (0..20).map(|_| sampler.choose(&scores)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(0.0, 1), [77; 20]);
        assert_eq!(drawn(1.0, 1), drawn(1.0, 1));
        assert_ne!(drawn(1.0, 1), drawn(1.0, 2));
    }
}
