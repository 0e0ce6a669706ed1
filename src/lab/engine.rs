//! The engine: one thread that owns the scheduler, the free blocks and the sequences, and drives step after step.
//!
//! The HTTP side reaches it through a bounded inbox and hears from it through one bounded channel a request, which is as long
//! as the answer, so that the engine never waits for a reader.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    LabError,
    knobs::{Knobs, Precision},
    meters::{FinishReason, Meters},
    model::{Block, Lane, Sampler},
    pool::{Pool, WorkerDied},
    scheduler::{Feed, Limits, Scheduler, SequenceId},
    weights::{BLOCK_TOKENS, MemoryPlan, Real, Weights},
};

/// Requests that may wait for their first step. What comes beyond is refused, because it would wait longer than anybody reads.
pub(super) const QUEUE_MAX: usize = 12;
/// How long an idle engine sleeps before it looks whether it shall stop.
const IDLE: Duration = Duration::from_millis(50);
/// An engine that took no step for so long is not healthy. Even the widest step takes far less.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// What a request hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The next token.
    Token(u16),
    /// There will be no more.
    End(FinishReason),
}

/// What the engine computes.
#[derive(Debug)]
pub(super) struct Request {
    /// At least one token.
    pub(super) prompt: Vec<u16>,
    /// Tokens of the answer, at least one.
    pub(super) max_tokens: usize,
    /// Chooses among tokens.
    pub(super) sampler: Sampler,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It needs more cache than there is, however long it waits.
    NeverFits {
        /// Tokens the whole cache holds.
        capacity: usize,
    },
    /// As many wait already as may.
    QueueFull,
    /// The engine stops, or has died.
    Stopped,
}

struct Submission {
    request: Request,
    events: mpsc::Sender<Event>,
    received: Instant,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    stop: AtomicBool,
    ended: AtomicBool,
    /// Milliseconds from `started` to the last sign of life.
    beat: AtomicU64,
    /// Requests that have not had a step yet.
    queued: AtomicUsize,
}

/// The HTTP side's end of the engine.
#[derive(Debug)]
pub(super) struct Engine {
    inbox: SyncSender<Submission>,
    shared: Arc<Shared>,
    meters: Arc<Meters>,
    limits: Limits,
}

impl Engine {
    /// Allocates weights and cache, starts the threads, and returns when the first request could be computed.
    pub(super) fn start(knobs: &Knobs) -> Result<Self, LabError> {
        let plan = MemoryPlan::of(knobs)?;
        let limits = Limits {
            max_num_seqs: knobs.max_num_seqs,
            prefill_chunk: knobs.prefill_chunk,
            blocks: plan.blocks,
            block_tokens: BLOCK_TOKENS,
        };
        // One place more than may queue: whoever holds a place in the count finds one in the channel.
        let (inbox, submissions) = sync_channel(QUEUE_MAX + 1);
        let shared = Arc::new(Shared {
            started: Instant::now(),
            stop: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            beat: AtomicU64::new(0),
            queued: AtomicUsize::new(0),
        });
        let meters = Arc::new(Meters::new());
        let core = Core { limits, batch_wait: knobs.batch_wait, threads: knobs.threads, submissions };
        match knobs.precision {
            Precision::F32 => core.start::<f32>(Arc::clone(&shared), Arc::clone(&meters)),
            Precision::F64 => core.start::<f64>(Arc::clone(&shared), Arc::clone(&meters)),
        }
        .map_err(|source| LabError::Io { action: "start the engine's threads", source })?;
        Ok(Engine { inbox, shared, meters, limits })
    }

    /// Hands a request to the engine and returns where its tokens will arrive, or why it is not taken.
    ///
    /// Whoever drops the receiver gives the request up; its sequence is freed before the next step.
    pub(super) fn submit(&self, request: Request) -> Result<mpsc::Receiver<Event>, Refusal> {
        if !self.limits.could_ever_hold(request.prompt.len() + request.max_tokens) {
            return Err(Refusal::NeverFits { capacity: self.limits.blocks * self.limits.block_tokens });
        }
        let queued = &self.shared.queued;
        let place = |waiting| (waiting < QUEUE_MAX).then_some(waiting + 1);
        queued.fetch_update(Relaxed, Relaxed, place).map_err(|_| Refusal::QueueFull)?;
        let (events, receiver) = mpsc::channel(request.max_tokens + 1);
        let submission = Submission { request, events, received: Instant::now() };
        match self.inbox.try_send(submission) {
            Ok(()) if !self.shared.ended.load(Relaxed) => Ok(receiver),
            _ => {
                queued.fetch_sub(1, Relaxed);
                Err(Refusal::Stopped)
            }
        }
    }

    /// Returns what the engine has counted.
    pub(super) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Returns whether the thread is alive and gave a sign of life lately.
    pub(super) fn is_healthy(&self) -> bool {
        let beat = Duration::from_millis(self.shared.beat.load(Relaxed));
        !self.has_ended() && self.shared.started.elapsed().saturating_sub(beat) < STALLED_AFTER
    }

    /// Returns whether the thread has ended, by request or by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.ended.load(Relaxed)
    }

    /// Asks the thread to end after the step it is in. Every request that is not finished hears that it was aborted.
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Relaxed);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The thread is not waited for: it may be in a step longer than a stopping server has time.
        self.stop();
    }
}

struct Core {
    limits: Limits,
    batch_wait: Duration,
    threads: usize,
    submissions: Receiver<Submission>,
}

impl Core {
    fn start<T: Real>(self, shared: Arc<Shared>, meters: Arc<Meters>) -> io::Result<()> {
        let weights = Arc::new(Weights::<T>::fixed());
        let engine = Running {
            scheduler: Scheduler::new(self.limits),
            pool: Pool::start(self.threads, self.limits.max_num_seqs, &weights)?,
            free: (0..self.limits.blocks).map(|_| Block::touched()).collect(),
            sequences: BTreeMap::new(),
            next: 0,
            held_back: false,
            core: self,
            shared,
            meters,
        };
        thread::Builder::new().name("lab-engine".to_owned()).spawn(move || engine.run())?;
        Ok(())
    }
}

struct Sequence<T> {
    tokens: Vec<u16>,
    prompt: usize,
    max_tokens: usize,
    cache: Vec<Block<T>>,
    /// Away while a worker computes with it.
    sampler: Option<Sampler>,
    events: mpsc::Sender<Event>,
    received: Instant,
    last_token: Option<Instant>,
    admitted: bool,
}

struct Running<T> {
    core: Core,
    scheduler: Scheduler,
    pool: Pool<T>,
    /// First in, first out, as in vLLM: a cache larger than needed is walked through in full and is colder for it.
    free: VecDeque<Block<T>>,
    sequences: BTreeMap<SequenceId, Sequence<T>>,
    next: SequenceId,
    /// Whether the last step left somebody waiting: then there is work at hand, and nothing to wait for.
    held_back: bool,
    shared: Arc<Shared>,
    meters: Arc<Meters>,
}

/// Tells the HTTP side that the thread is gone, also when it panics.
struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
    }
}

impl<T: Real> Running<T> {
    fn run(mut self) {
        let _farewell = Farewell(Arc::clone(&self.shared));
        while !self.shared.stop.load(Relaxed) {
            self.shared.beat.store(self.shared.started.elapsed().as_millis() as u64, Relaxed);
            self.hear();
            self.drop_the_abandoned();
            if self.sequences.is_empty() {
                continue;
            }
            if let Err(WorkerDied) = self.step() {
                tracing::error!("a lab worker died, the engine stops");
                break;
            }
        }
        self.end_all();
    }

    /// Takes in what has arrived: waits for work when there is none, and for company while the batch is not full.
    fn hear(&mut self) {
        if self.sequences.is_empty() {
            self.level();
            if let Ok(submission) = self.core.submissions.recv_timeout(IDLE) {
                self.take(submission);
            }
        }
        while let Ok(submission) = self.core.submissions.try_recv() {
            self.take(submission);
        }
        let deadline = Instant::now() + self.core.batch_wait;
        while !self.held_back && (1..self.core.limits.max_num_seqs).contains(&self.sequences.len()) {
            match self.core.submissions.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(submission) => self.take(submission),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
    }

    fn take(&mut self, Submission { request, events, received }: Submission) {
        let id = self.next;
        self.next += 1;
        let prompt = request.prompt.len();
        self.scheduler.submit(id, prompt);
        let sequence = Sequence {
            tokens: request.prompt,
            prompt,
            max_tokens: request.max_tokens,
            cache: Vec::new(),
            sampler: Some(request.sampler),
            events,
            received,
            last_token: None,
            admitted: false,
        };
        self.sequences.insert(id, sequence);
    }

    fn drop_the_abandoned(&mut self) {
        let abandoned = self.sequences.iter().filter(|(_, sequence)| sequence.events.is_closed());
        for id in abandoned.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end(id, FinishReason::Abort);
        }
    }

    fn step(&mut self) -> Result<(), WorkerDied> {
        let plan = self.scheduler.plan();
        self.held_back = self.scheduler.waiting() > 0;
        self.level();
        for id in &plan.preempted {
            self.meters.preemptions.fetch_add(1, Relaxed);
            if let Some(sequence) = self.sequences.get_mut(id) {
                self.free.extend(sequence.cache.drain(..));
            }
        }
        for id in &plan.admitted {
            self.admit(*id);
        }
        let lanes = plan.feeds.iter().filter_map(|feed| self.lane(feed)).collect();
        for lane in self.pool.compute(lanes)? {
            self.settle(lane);
        }
        Ok(())
    }

    fn admit(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.get_mut(&id)
            && !sequence.admitted
        {
            sequence.admitted = true;
            self.shared.queued.fetch_sub(1, Relaxed);
            self.meters.prompt_tokens.fetch_add(sequence.prompt as u64, Relaxed);
        }
    }

    fn lane(&mut self, feed: &Feed) -> Option<Lane<T>> {
        let sequence = self.sequences.get_mut(&feed.id)?;
        sequence.cache.extend(self.free.drain(..feed.new_blocks));
        Some(Lane {
            id: feed.id,
            tokens: sequence.tokens[feed.from..feed.from + feed.tokens].to_vec(),
            position: feed.from,
            cache: std::mem::take(&mut sequence.cache),
            sampler: sequence.sampler.take()?,
            samples: feed.samples,
            sampled: None,
        })
    }

    fn settle(&mut self, lane: Lane<T>) {
        let Some(sequence) = self.sequences.get_mut(&lane.id) else { return };
        sequence.cache = lane.cache;
        sequence.sampler = Some(lane.sampler);
        let Some(token) = lane.sampled else { return };
        let now = Instant::now();
        match sequence.last_token.replace(now) {
            None => self.meters.first_token.observe(now - sequence.received),
            Some(before) => self.meters.between_tokens.observe(now - before),
        }
        self.meters.generation_tokens.fetch_add(1, Relaxed);
        sequence.tokens.push(token);
        self.scheduler.sampled(lane.id);
        // The channel is as long as the answer; only a reader that went away makes this fail, and that is seen next step.
        let _ = sequence.events.try_send(Event::Token(token));
        if sequence.tokens.len() == sequence.prompt + sequence.max_tokens {
            self.meters.end_to_end.observe(now - sequence.received);
            self.end(lane.id, FinishReason::Length);
        }
    }

    fn end(&mut self, id: SequenceId, reason: FinishReason) {
        self.scheduler.remove(id);
        if let Some(sequence) = self.sequences.remove(&id) {
            if !sequence.admitted {
                self.shared.queued.fetch_sub(1, Relaxed);
            }
            self.free.extend(sequence.cache);
            self.meters.finished(reason);
            // Before the answer is out: who reads the metrics after an answer finds them without it.
            self.level();
            let _ = sequence.events.try_send(Event::End(reason));
        }
    }

    fn end_all(&mut self) {
        while let Ok(submission) = self.core.submissions.try_recv() {
            self.take(submission);
        }
        for id in self.sequences.keys().copied().collect::<Vec<_>>() {
            self.end(id, FinishReason::Abort);
        }
        self.level();
    }

    fn level(&self) {
        self.meters.level(self.scheduler.running(), self.scheduler.waiting(), self.scheduler.usage());
    }
}
