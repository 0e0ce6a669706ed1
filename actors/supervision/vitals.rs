//! The vital signs of one incarnation of an actor: shared by the actor, its supervisor, its socket and whoever looks.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::ActorProcessingErr;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::event::Exit;

/// Stands for "no handler is running" where a time in nanoseconds is kept.
const IDLE: u64 = 0;

tokio::task_local! {
    /// Whose handler the current task is running.
    static CURRENT: Arc<Vitals>;
}

/// Reports from inside a handler that it still makes progress, which resets its stall clock.
///
/// Outside of a supervised handler, also in a task that a handler spawned, it does nothing; see [`Progress::here`].
pub fn progress() {
    Progress::here().made();
}

/// A way to report the progress of one handler from elsewhere, such as from a task it spawned.
#[derive(Clone, Debug)]
pub struct Progress(Option<Arc<Vitals>>);

impl Progress {
    /// Returns the one of the handler that is running here; outside of a supervised handler, one that does nothing.
    pub fn here() -> Self {
        Progress(CURRENT.try_with(Arc::clone).ok())
    }

    /// Reports progress.
    pub fn made(&self) {
        if let Some(vitals) = &self.0 {
            vitals.progress_at.store(vitals.now(), Ordering::Release);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Vitals {
    /// Times are kept as nanoseconds since then, plus one.
    epoch: Instant,
    busy_since: AtomicU64,
    progress_at: AtomicU64,
    handled: AtomicU64,
    waiting: AtomicUsize,
    /// Whether nobody may send any more: it is being stopped, or is gone, or was given up.
    retired: AtomicBool,
    exit: Mutex<Option<Exit>>,
    settled: AtomicBool,
    gone: watch::Sender<bool>,
}

impl Vitals {
    pub(crate) fn new(epoch: Instant) -> Self {
        Vitals {
            epoch,
            busy_since: AtomicU64::new(IDLE),
            progress_at: AtomicU64::new(IDLE),
            handled: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            exit: Mutex::new(None),
            settled: AtomicBool::new(false),
            gone: watch::Sender::new(false),
        }
    }

    fn now(&self) -> u64 {
        let nanos = Instant::now().saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX - 1) + 1
    }

    fn since(&self, then: u64) -> Duration {
        Duration::from_nanos(self.now().saturating_sub(then))
    }

    /// Runs one handler of this actor: keeps the clocks, and writes down how the actor ends if the handler fails.
    pub(crate) async fn attend<T>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, ActorProcessingErr>> + Send,
    ) -> Result<T, ActorProcessingErr> {
        let now = self.now();
        self.progress_at.store(now, Ordering::Release);
        self.busy_since.store(now, Ordering::Release);
        let outcome = caught(CURRENT.scope(Arc::clone(self), work)).await;
        self.busy_since.store(IDLE, Ordering::Release);
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                self.note_exit(Exit::Failed(with_sources(error.as_ref())));
                Err(error)
            }
            Err(text) => {
                self.note_exit(Exit::Panicked(text.clone()));
                Err(text.into())
            }
        }
    }

    /// Returns how long the running handler has been at it; nothing when idle.
    pub(crate) fn busy_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Acquire);
        (since != IDLE).then(|| self.since(since))
    }

    /// Returns for how long the running handler has made no progress; nothing when idle.
    pub(crate) fn silent_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Acquire);
        (since != IDLE).then(|| self.since(since.max(self.progress_at.load(Ordering::Acquire))))
    }

    /// Counts a message as waiting, unless `limit` wait already.
    pub(crate) fn enqueue(&self, limit: usize) -> bool {
        let below = |waiting| (waiting < limit).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
    }

    /// Takes back what [`enqueue`](Self::enqueue) counted, or does nothing at zero: a message that an actor sent to itself
    /// was never counted as waiting.
    pub(crate) fn dequeue(&self) {
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| waiting.checked_sub(1));
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn count_handled(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// Turns senders away from now on.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Writes down how the actor ends; the first note stays, because what follows is only its consequence.
    pub(crate) fn note_exit(&self, exit: Exit) {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(exit);
    }

    /// Returns how the actor ended, if anything was noted.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns true for the first caller only, who is the one to report the exit.
    pub(crate) fn settle(&self) -> bool {
        !self.settled.swap(true, Ordering::AcqRel)
    }

    /// Says that the actor's task has ended, or that nobody waits for it any longer.
    pub(crate) fn mark_gone(&self) {
        self.retire();
        self.gone.send_replace(true);
    }

    /// Waits until the actor's task has ended.
    pub(crate) async fn gone(&self) {
        // The sender lives in `self`, so the wait cannot end early.
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }
}

/// Runs `work` and turns a panic into its message.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = pin!(work);
    std::future::poll_fn(move |context| match panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(payload) => std::task::Poll::Ready(Err(panic_text(payload.as_ref()))),
    })
    .await
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic that carries no text".to_owned())
}

fn with_sources(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
