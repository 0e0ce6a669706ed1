//! The weights: fixed random numbers in the shape of a small transformer, and how much memory it all takes.
//!
//! The sizes are chosen so that, on one core, a step for one sequence takes one to two milliseconds. The matrices are read
//! once a step whatever the number of sequences, which is what makes batching pay; each sequence's own attention is not
//! shared, which is why it stops paying.

use nalgebra::{DMatrix, RealField};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use super::{LabError, knobs::Knobs, tokenizer::VOCABULARY};

/// Width of the residual stream.
pub(super) const MODEL: usize = 128;
/// Width of the inner layer of each MLP.
pub(super) const INNER: usize = 256;
/// Number of layers.
pub(super) const LAYERS: usize = 3;
/// Groups of query heads; each group shares one head of keys and values.
pub(super) const GROUPS: usize = 2;
/// Query heads in a group. More than five, so that attention is a product of matrices and not of vectors.
pub(super) const HEADS_PER_GROUP: usize = 8;
/// Width of one head.
pub(super) const HEAD: usize = 64;
/// Width of the queries of one group.
pub(super) const QUERY: usize = HEADS_PER_GROUP * HEAD;
/// Width of the keys, and of the values, of one token in one layer.
pub(super) const KEY: usize = GROUPS * HEAD;
/// Tokens of prompt and answer together that a sequence may have.
pub(super) const CONTEXT: usize = 1024;
/// Tokens whose keys and values one cache block holds, over all layers.
pub(super) const BLOCK_TOKENS: usize = 32;

/// Memory of the lab's device in MiB: what weights, cache and workspace may take together.
///
/// A card has a size; this is the lab's. It makes a part of the space of settings infeasible, as on a real one.
pub(super) const DEVICE_MIB: usize = 384;

const MIB: usize = 1024 * 1024;
const SEED: u64 = 0x006b_6c6f_726f_7321;

/// A number the model can compute in.
pub(super) trait Real: RealField + Copy {}

impl Real for f32 {}
impl Real for f64 {}

/// One layer's matrices.
#[derive(Debug)]
pub(super) struct Layer<T> {
    /// Queries of each group from the stream.
    pub(super) query: [DMatrix<T>; GROUPS],
    /// Keys of all groups from the stream.
    pub(super) key: DMatrix<T>,
    /// Values of all groups from the stream.
    pub(super) value: DMatrix<T>,
    /// Back from each group's attention to the stream.
    pub(super) output: [DMatrix<T>; GROUPS],
    /// Into the MLP.
    pub(super) up: DMatrix<T>,
    /// Out of the MLP.
    pub(super) down: DMatrix<T>,
}

/// The whole model.
#[derive(Debug)]
pub(super) struct Weights<T> {
    /// One column a token.
    pub(super) embedding: DMatrix<T>,
    /// One column a position.
    pub(super) position: DMatrix<T>,
    /// From the input to the output.
    pub(super) layers: Vec<Layer<T>>,
    /// From the stream to one score a token.
    pub(super) head: DMatrix<T>,
}

impl<T: Real> Weights<T> {
    /// Returns the model; the same numbers each time.
    pub(super) fn fixed() -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(SEED);
        let mut matrix = |rows, columns| random(&mut rng, rows, columns);
        Weights {
            embedding: matrix(MODEL, VOCABULARY),
            position: matrix(MODEL, CONTEXT),
            layers: (0..LAYERS)
                .map(|_| Layer {
                    query: std::array::from_fn(|_| matrix(QUERY, MODEL)),
                    key: matrix(KEY, MODEL),
                    value: matrix(KEY, MODEL),
                    output: std::array::from_fn(|_| matrix(MODEL, QUERY)),
                    up: matrix(INNER, MODEL),
                    down: matrix(MODEL, INNER),
                })
                .collect(),
            head: matrix(VOCABULARY, MODEL),
        }
    }
}

/// Uniform numbers of unit variance over the fan-in, so that the stream neither fades nor explodes.
fn random<T: Real>(rng: &mut Xoshiro256PlusPlus, rows: usize, columns: usize) -> DMatrix<T> {
    let reach = (3.0 / columns as f32).sqrt() * 2.0;
    let numbers = (0..rows * columns).map(|_| nalgebra::convert(f64::from((rng.random::<f32>() - 0.5) * reach)));
    DMatrix::from_iterator(rows, columns, numbers)
}

/// What the settings ask of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryPlan {
    /// Cache blocks, at least one.
    pub(super) blocks: usize,
}

impl MemoryPlan {
    /// Returns the number of blocks that the settings pay for, or what is too much.
    pub(super) fn of(knobs: &Knobs) -> Result<Self, LabError> {
        let number = knobs.precision.bytes();
        let layer = 2 * GROUPS * QUERY * MODEL + 2 * KEY * MODEL + 2 * INNER * MODEL;
        let weights = (LAYERS * layer + MODEL * (2 * VOCABULARY + CONTEXT)) * number;
        // The widest step: a full chunk, and one token of every sequence besides, each scored against a full context.
        let widest = knobs.prefill_chunk + knobs.max_num_seqs;
        let column = 2 * MODEL + 2 * KEY + 2 * QUERY + INNER + HEADS_PER_GROUP * CONTEXT;
        let workspace = widest * column * number;
        let (weights, workspace) = (weights.div_ceil(MIB), workspace.div_ceil(MIB));
        let cache = knobs.kv_cache_mib;
        let needed = weights + cache + workspace;
        if needed > DEVICE_MIB {
            return Err(LabError::DoesNotFit { needed, weights, cache, workspace, device: DEVICE_MIB });
        }
        Ok(MemoryPlan { blocks: cache * MIB / (block_numbers() * number) })
    }
}

/// Returns how many numbers one cache block holds.
pub(super) const fn block_numbers() -> usize {
    LAYERS * 2 * KEY * BLOCK_TOKENS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<MemoryPlan, LabError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.env");
        std::fs::write(&path, text).unwrap();
        MemoryPlan::of(&Knobs::load(Some(&path), |_| None).unwrap())
    }

    #[test]
    fn doubles_halve_the_tokens_that_a_cache_holds() {
        let single = plan("LAB_KV_CACHE_MIB=48\nLAB_PRECISION=f32\n").unwrap();
        let double = plan("LAB_KV_CACHE_MIB=48\nLAB_PRECISION=f64\n").unwrap();
        assert_eq!((single.blocks, double.blocks), (512, 256));
    }

    #[test]
    fn the_smallest_cache_still_holds_some_sequence() {
        assert!(plan("LAB_KV_CACHE_MIB=4\nLAB_PRECISION=f64\n").unwrap().blocks * BLOCK_TOKENS > 512);
    }

    #[test]
    fn a_cache_beyond_the_device_is_refused_and_a_wide_chunk_counts_too() {
        let error = plan("LAB_KV_CACHE_MIB=512\nLAB_PRECISION=f32\n").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("the device has 384 MiB"), "{error}");
        assert!(plan("LAB_KV_CACHE_MIB=320\nLAB_PREFILL_CHUNK=64\n").is_ok());
        assert!(plan("LAB_KV_CACHE_MIB=320\nLAB_PREFILL_CHUNK=1024\n").is_err());
    }

    #[test]
    fn the_weights_are_the_same_each_time() {
        assert_eq!(Weights::<f32>::fixed().head, Weights::<f32>::fixed().head);
    }
}
