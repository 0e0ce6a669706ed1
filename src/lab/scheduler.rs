//! The scheduler: which sequence computes how many tokens in the next step, and who has to give way.
//!
//! Pure bookkeeping in tokens and blocks. Running sequences come first, oldest first, so that the oldest always moves on and
//! the whole cannot starve. When a running sequence needs a block and none is free, the newest is preempted: its cache is
//! dropped, it returns to the head of the queue, and everything it had computed is computed again. That is the cliff of a
//! cache that is too small: beyond it, work is spent on tokens that were already known.

use std::collections::VecDeque;

/// Names a sequence for as long as the engine lives.
pub(super) type SequenceId = u64;

/// What the settings allow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Sequences that run at the same time.
    pub(super) max_num_seqs: usize,
    /// Prompt tokens a step, over all sequences.
    pub(super) prefill_chunk: usize,
    /// Cache blocks there are.
    pub(super) blocks: usize,
    /// Tokens that one block holds.
    pub(super) block_tokens: usize,
}

impl Limits {
    /// Returns whether a sequence of `tokens` in all could run if it were alone.
    pub(super) fn could_ever_hold(&self, tokens: usize) -> bool {
        self.blocks_for(tokens) <= self.blocks
    }

    fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }
}

/// One sequence's share of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Feed {
    /// Whose tokens.
    pub(super) id: SequenceId,
    /// Index of the first token to compute.
    pub(super) from: usize,
    /// Number of tokens to compute, at least one.
    pub(super) tokens: usize,
    /// Blocks to add to the sequence's cache before.
    pub(super) new_blocks: usize,
    /// Whether the last of these tokens is the last one known, so that the next can be chosen.
    pub(super) samples: bool,
}

/// What happens next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Sequences whose cache is dropped before the step.
    pub(super) preempted: Vec<SequenceId>,
    /// Sequences that run for the first time, or again, from this step on.
    pub(super) admitted: Vec<SequenceId>,
    /// The work; a sequence stands in it once at most.
    pub(super) feeds: Vec<Feed>,
}

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    /// Tokens that are known: the prompt and what was chosen since.
    known: usize,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
}

/// The queue, the running batch and the count of free blocks.
#[derive(Debug)]
pub(super) struct Scheduler {
    limits: Limits,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    free: usize,
}

impl Scheduler {
    /// Returns a scheduler with nothing to do.
    pub(super) fn new(limits: Limits) -> Self {
        Scheduler { limits, waiting: VecDeque::new(), running: Vec::new(), free: limits.blocks }
    }

    /// Puts a sequence of `prompt` tokens at the end of the queue. The caller has checked that it could ever run.
    pub(super) fn submit(&mut self, id: SequenceId, prompt: usize) {
        self.waiting.push_back(Sequence { id, known: prompt, computed: 0 });
    }

    /// Decides the next step and counts it as computed.
    pub(super) fn plan(&mut self) -> Step {
        let mut step = Step::default();
        let mut budget = self.limits.prefill_chunk;
        self.plan_running(&mut step, &mut budget);
        // Who was just preempted stands at the head of the queue and would take the freed blocks straight back.
        if step.preempted.is_empty() {
            self.admit(&mut step, budget);
        }
        step
    }

    /// Notes that a token was chosen for `id`.
    pub(super) fn sampled(&mut self, id: SequenceId) {
        if let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == id) {
            sequence.known += 1;
        }
    }

    /// Forgets `id`, running or waiting; its blocks are free again.
    pub(super) fn remove(&mut self, id: SequenceId) {
        self.waiting.retain(|sequence| sequence.id != id);
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.remove(index);
            self.free += self.limits.blocks_for(sequence.computed);
        }
    }

    /// Returns the number of sequences that run.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Returns the number of sequences that wait, preempted ones among them.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the share of blocks in use, from 0 to 1.
    pub(super) fn usage(&self) -> f64 {
        (self.limits.blocks - self.free) as f64 / self.limits.blocks.max(1) as f64
    }

    /// Returns the number of blocks that no sequence holds.
    #[cfg(test)]
    pub(super) fn free_blocks(&self) -> usize {
        self.free
    }

    fn plan_running(&mut self, step: &mut Step, budget: &mut usize) {
        let mut index = 0;
        while index < self.running.len() {
            let tokens = share(&self.running[index], budget);
            if tokens == 0 {
                index += 1;
                continue;
            }
            let needed = self.new_blocks(&self.running[index], tokens);
            while needed > self.free && self.running.len() > index {
                self.preempt_newest(step);
            }
            // The newest may have been this very sequence.
            let Some(sequence) = self.running.get_mut(index) else { break };
            step.feeds.push(feed(sequence, tokens, needed));
            self.free -= needed;
            index += 1;
        }
    }

    fn admit(&mut self, step: &mut Step, mut budget: usize) {
        while self.running.len() < self.limits.max_num_seqs
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            let tokens = share(&sequence, &mut budget);
            let needed = self.new_blocks(&sequence, tokens);
            if tokens == 0 || needed > self.free {
                self.waiting.push_front(sequence);
                break;
            }
            step.admitted.push(sequence.id);
            step.feeds.push(feed(&mut sequence, tokens, needed));
            self.free -= needed;
            self.running.push(sequence);
        }
    }

    fn preempt_newest(&mut self, step: &mut Step) {
        if let Some(mut sequence) = self.running.pop() {
            self.free += self.limits.blocks_for(sequence.computed);
            sequence.computed = 0;
            step.preempted.push(sequence.id);
            self.waiting.push_front(sequence);
        }
    }

    fn new_blocks(&self, sequence: &Sequence, tokens: usize) -> usize {
        self.limits.blocks_for(sequence.computed + tokens) - self.limits.blocks_for(sequence.computed)
    }
}

/// Returns how many tokens a sequence computes now. A single token is never held back: it is what a reader waits for.
fn share(sequence: &Sequence, budget: &mut usize) -> usize {
    let remaining = sequence.known - sequence.computed;
    if remaining == 1 {
        return 1;
    }
    let tokens = remaining.min(*budget);
    *budget -= tokens;
    tokens
}

fn feed(sequence: &mut Sequence, tokens: usize, new_blocks: usize) -> Feed {
    let from = sequence.computed;
    sequence.computed += tokens;
    Feed { id: sequence.id, from, tokens, new_blocks, samples: sequence.computed == sequence.known }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ROOMY: Limits = Limits { max_num_seqs: 4, prefill_chunk: 32, blocks: 100, block_tokens: 16 };

    fn scheduler(limits: Limits, prompts: &[usize]) -> Scheduler {
        let mut scheduler = Scheduler::new(limits);
        for (id, prompt) in prompts.iter().enumerate() {
            scheduler.submit(id as SequenceId, *prompt);
        }
        scheduler
    }

    /// Plans a step, chooses a token for everyone who asked, and returns what was fed as (id, from, tokens).
    fn advance(scheduler: &mut Scheduler) -> Vec<(SequenceId, usize, usize)> {
        let step = scheduler.plan();
        for feed in step.feeds.iter().filter(|feed| feed.samples) {
            scheduler.sampled(feed.id);
        }
        step.feeds.iter().map(|feed| (feed.id, feed.from, feed.tokens)).collect()
    }

    #[test]
    fn no_more_sequences_run_than_allowed() {
        let mut scheduler = scheduler(Limits { max_num_seqs: 2, ..ROOMY }, &[4, 4, 4]);
        assert_eq!(advance(&mut scheduler), [(0, 0, 4), (1, 0, 4)]);
        assert_eq!((scheduler.running(), scheduler.waiting()), (2, 1));
    }

    #[test]
    fn a_long_prompt_is_computed_in_chunks_and_yields_a_token_only_at_its_end() {
        let mut scheduler = scheduler(ROOMY, &[70]);
        assert_eq!(advance(&mut scheduler), [(0, 0, 32)]);
        assert_eq!(advance(&mut scheduler), [(0, 32, 32)]);
        assert_eq!(advance(&mut scheduler), [(0, 64, 6)]);
        assert_eq!(advance(&mut scheduler), [(0, 70, 1)]);
    }

    #[test]
    fn the_chunk_is_shared_among_prompts_and_never_holds_back_an_answer() {
        let mut scheduler = scheduler(ROOMY, &[8, 30, 30]);
        assert_eq!(advance(&mut scheduler), [(0, 0, 8), (1, 0, 24)]);
        assert_eq!(advance(&mut scheduler), [(0, 8, 1), (1, 24, 6), (2, 0, 26)]);
        assert_eq!(advance(&mut scheduler), [(0, 9, 1), (1, 30, 1), (2, 26, 4)]);
    }

    #[test]
    fn who_came_first_is_admitted_first() {
        let mut scheduler = scheduler(Limits { blocks: 3, ..ROOMY }, &[40, 20, 4]);
        // The second would fit into no block now, and the third does not overtake it.
        assert_eq!(advance(&mut scheduler), [(0, 0, 32)]);
        assert_eq!(advance(&mut scheduler), [(0, 32, 8)]);
        assert_eq!((scheduler.running(), scheduler.waiting()), (1, 2));
    }

    #[test]
    fn when_blocks_run_out_the_newest_gives_way_and_starts_again_from_nothing() {
        let mut scheduler = scheduler(Limits { blocks: 2, ..ROOMY }, &[16, 15]);
        assert_eq!(advance(&mut scheduler), [(0, 0, 16), (1, 0, 15)]);
        let step = scheduler.plan();
        assert_eq!(step.preempted, [1]);
        assert_eq!(step.feeds, [Feed { id: 0, from: 16, tokens: 1, new_blocks: 1, samples: true }]);
        scheduler.remove(0);
        // Fifteen of the prompt and the one that was already chosen.
        assert_eq!(advance(&mut scheduler), [(1, 0, 16)]);
    }

    #[test]
    fn a_sequence_may_be_the_newest_itself() {
        let mut scheduler = scheduler(Limits { blocks: 2, ..ROOMY }, &[15, 16]);
        advance(&mut scheduler);
        let step = scheduler.plan();
        assert_eq!(step.feeds.iter().map(|feed| feed.id).collect::<Vec<_>>(), [0]);
        assert_eq!(step.preempted, [1]);
    }

    #[test]
    fn what_is_removed_gives_its_blocks_back() {
        let mut scheduler = scheduler(ROOMY, &[32, 200]);
        advance(&mut scheduler);
        assert_eq!(scheduler.free_blocks(), 98);
        scheduler.remove(0);
        scheduler.remove(1);
        assert_eq!((scheduler.free_blocks(), scheduler.running(), scheduler.waiting()), (100, 0, 0));
        assert_eq!(scheduler.usage(), 0.0);
    }

    #[test]
    fn a_sequence_that_could_never_run_is_told_apart() {
        let limits = Limits { blocks: 2, ..ROOMY };
        assert!(limits.could_ever_hold(32));
        assert!(!limits.could_ever_hold(33));
    }

    proptest! {
        /// Whatever the limits, all sequences end, and blocks are neither lost nor lent twice on the way.
        #[test]
        fn every_sequence_ends_and_every_block_comes_back(
            max_num_seqs in 1usize..6,
            prefill_chunk in 1usize..40,
            spare in 0usize..6,
            sequences in proptest::collection::vec((1usize..60, 1usize..20), 1..8),
        ) {
            let longest = sequences.iter().map(|(prompt, answer)| prompt + answer).max().unwrap_or(0);
            let blocks = longest.div_ceil(4) + spare;
            let limits = Limits { max_num_seqs, prefill_chunk, blocks, block_tokens: 4 };
            let mut scheduler = Scheduler::new(limits);
            let mut left: BTreeMap<SequenceId, usize> = BTreeMap::new();
            for (id, (prompt, answer)) in sequences.iter().enumerate() {
                scheduler.submit(id as SequenceId, *prompt);
                left.insert(id as SequenceId, *answer);
            }
            let mut held: BTreeMap<SequenceId, usize> = BTreeMap::new();
            for _ in 0..100_000 {
                if left.is_empty() {
                    break;
                }
                let step = scheduler.plan();
                for id in &step.preempted {
                    held.remove(id);
                }
                prop_assert!(!step.feeds.is_empty());
                prop_assert!(scheduler.running() <= max_num_seqs);
                let prefilled: usize = step.feeds.iter().map(|feed| feed.tokens).filter(|tokens| *tokens > 1).sum();
                prop_assert!(prefilled <= prefill_chunk);
                for feed in step.feeds {
                    *held.entry(feed.id).or_default() += feed.new_blocks;
                    prop_assert_eq!(held[&feed.id], (feed.from + feed.tokens).div_ceil(4));
                    if feed.samples {
                        scheduler.sampled(feed.id);
                        let answer = left.get_mut(&feed.id).unwrap();
                        *answer -= 1;
                        if *answer == 0 {
                            left.remove(&feed.id);
                            held.remove(&feed.id);
                            scheduler.remove(feed.id);
                        }
                    }
                }
                prop_assert_eq!(held.values().sum::<usize>() + scheduler.free_blocks(), blocks);
            }
            prop_assert!(left.is_empty());
            prop_assert_eq!(scheduler.free_blocks(), blocks);
        }
    }
}
