//! The worker threads: the sequences of a step are shared out among them, and each computes its share as one batch.
//!
//! Every worker reads all the weights for its own share. Two workers on two cores therefore halve the sequences' own work but
//! not the weights' part, and workers beyond the cores only read the weights once more.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use super::{
    model::{Lane, forward},
    weights::{Real, Weights},
};

/// What one token costs beside its attention, in the unit of one attended token. An estimate: only the balance between
/// workers depends on it, never an answer.
const TOKEN_COST: usize = 128;

/// A worker died; its panic message stands in the log.
#[derive(Debug)]
pub(super) struct WorkerDied;

struct Worker<T> {
    jobs: SyncSender<Vec<Lane<T>>>,
    done: Receiver<Vec<Lane<T>>>,
}

/// The workers. They end when the pool is dropped.
pub(super) struct Pool<T> {
    workers: Vec<Worker<T>>,
}

impl<T: Real> Pool<T> {
    /// Starts `threads` workers that share `weights`; each step of each is at least `width` tokens wide.
    pub(super) fn start(threads: usize, width: usize, weights: &Arc<Weights<T>>) -> io::Result<Self> {
        let workers = (0..threads).map(|index| worker(index, width, Arc::clone(weights))).collect::<io::Result<_>>()?;
        Ok(Pool { workers })
    }

    /// Computes all lanes and returns them, in any order.
    pub(super) fn compute(&self, lanes: Vec<Lane<T>>) -> Result<Vec<Lane<T>>, WorkerDied> {
        let shares = share_out(lanes, self.workers.len(), cost);
        let mut busy = Vec::new();
        for (worker, share) in self.workers.iter().zip(shares) {
            if !share.is_empty() {
                worker.jobs.send(share).map_err(|_| WorkerDied)?;
                busy.push(worker);
            }
        }
        let mut computed = Vec::new();
        for worker in busy {
            computed.extend(worker.done.recv().map_err(|_| WorkerDied)?);
        }
        Ok(computed)
    }
}

fn worker<T: Real>(index: usize, width: usize, weights: Arc<Weights<T>>) -> io::Result<Worker<T>> {
    let (jobs, inbox) = sync_channel::<Vec<Lane<T>>>(1);
    let (outbox, done) = sync_channel(1);
    thread::Builder::new().name(format!("lab-worker-{index}")).spawn(move || {
        while let Ok(mut lanes) = inbox.recv() {
            forward(&weights, width, &mut lanes);
            if outbox.send(lanes).is_err() {
                break;
            }
        }
    })?;
    Ok(Worker { jobs, done })
}

fn cost<T>(lane: &Lane<T>) -> usize {
    let tokens = lane.tokens.len();
    tokens * (TOKEN_COST + lane.position + tokens)
}

/// Deals `items` out to `hands`: the dearest first, each to the hand that holds least so far.
fn share_out<I>(mut items: Vec<I>, hands: usize, cost: impl Fn(&I) -> usize) -> Vec<Vec<I>> {
    items.sort_by_key(|item| std::cmp::Reverse(cost(item)));
    let mut shares: Vec<(usize, Vec<I>)> = (0..hands).map(|_| (0, Vec::new())).collect();
    for item in items {
        if let Some(share) = shares.iter_mut().min_by_key(|share| share.0) {
            share.0 += cost(&item);
            share.1.push(item);
        }
    }
    shares.into_iter().map(|share| share.1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::model::{Block, Sampler};

    #[test]
    fn one_long_prompt_does_not_share_its_worker_with_the_short_ones() {
        assert_eq!(share_out(vec![1, 2, 100, 3], 2, |item| *item), [vec![100], vec![3, 2, 1]]);
    }

    #[test]
    fn fewer_items_than_hands_leave_hands_empty() {
        assert_eq!(share_out(vec![5], 3, |item| *item).iter().map(Vec::len).sum::<usize>(), 1);
    }

    #[test]
    fn all_lanes_come_back_computed_whatever_the_number_of_workers() {
        let weights = Arc::new(Weights::<f32>::fixed());
        let computed = |threads| {
            let lanes = (0..5).map(|id| Lane {
                id,
                tokens: vec![id as u16; 3],
                position: 0,
                cache: vec![Block::touched()],
                sampler: Sampler::new(0.0, 0),
                samples: true,
                sampled: None,
            });
            let mut lanes = Pool::start(threads, 1, &weights).unwrap().compute(lanes.collect()).unwrap();
            lanes.sort_by_key(|lane| lane.id);
            lanes.into_iter().map(|lane| lane.sampled.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(computed(1), computed(4));
        assert_eq!(computed(1).len(), 5);
    }
}
