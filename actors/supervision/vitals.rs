//! The vital signs of one incarnation of an actor: shared by the actor, its supervisor, its socket and whoever looks.

use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::event::Exit;

mod alive;

mod attended;

mod here;

mod queue;

pub(crate) use alive::Alive;
pub(crate) use attended::{Attended, Seat, caught, panic_text};
pub(crate) use here::here;
pub use here::{Progress, progress, start_info, to_self};

use alive::Roll;
use here::CURRENT;
use queue::{Queued, Taken};

/// Stands for "no handler is running" where a time in nanoseconds is kept.
const IDLE: u64 = 0;

/// Says that no handler is running.
const RESTING: u8 = 0;

/// Says that one of ractor's callbacks other than `handle` is running.
const IN_CALLBACK: u8 = 1;

/// Says that a message is being handled.
const IN_MESSAGE: u8 = 2;

/// What a handler is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// One of ractor's callbacks other than `handle`.
    Callback(&'static str),
    /// A message of this kind.
    Message(&'static str),
}

impl Activity {
    /// What an actor is at before anything else.
    const BORN: Activity = Activity::Callback("pre_start");

    /// Returns whether this is for certain the same; of the names, only where they lie is compared.
    #[inline]
    fn is_surely(self, other: Activity) -> bool {
        match (self, other) {
            (Activity::Callback(one), Activity::Callback(other))
            | (Activity::Message(one), Activity::Message(other)) => std::ptr::eq(one, other),
            _ => false,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Activity::Callback(name) | Activity::Message(name) => name,
        }
    }
}

/// What is lost with an actor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) handling: Option<&'static str>,
    pub(crate) waiting: usize,
}

/// What an actor leaves behind; rarely anything, so it is kept apart.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    exit: Option<Exit>,
    /// The message or the callback whose handler failed.
    failed_at: Option<Activity>,
    /// What its state said that panicked while it was dropped.
    pub(crate) panic_of_state: Option<String>,
    pub(crate) info: Option<String>,
    /// Why the actor began anew instead of from its checkpoint.
    pub(crate) afresh: Option<String>,
}

/// What a sender and the actor touch with every message stands apart: the senders' fields come first and the actor's own last, with
/// more than a cache line of what is seldom touched between them, so that the two on two cores do not wait for each other.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Vitals {
    queued: Queued,
    /// Whether nobody may send any more: it is being stopped, or is gone, or was given up.
    retired: AtomicBool,
    /// Whether its start is no longer wanted.
    called_off: AtomicBool,
    settled: AtomicBool,
    abandoned: AtomicBool,
    gone: AtomicBool,
    born_at: u64,
    notes: Mutex<Option<Box<Notes>>>,
    changed: Notify,
    roll: Roll,
    progress_at: AtomicU64,
    /// The name of the activity that was taken up last.
    taken_up: Mutex<&'static str>,
    taken: Taken,
    /// Times are kept as nanoseconds by this clock, plus one.
    clock: Arc<Clock>,
    busy_since: AtomicU64,
    busy_for: AtomicU64,
    handled: AtomicU64,
    /// Whether it goes on: [`RESTING`], [`IN_CALLBACK`] or [`IN_MESSAGE`].
    at_work: AtomicU8,
}

/// The cache line of what this runs on most.
const CACHE_LINE_BYTES: usize = 64;

const _: () = assert!(offset_of!(Vitals, taken) >= offset_of!(Vitals, called_off) + CACHE_LINE_BYTES);

impl Vitals {
    pub(crate) fn new(clock: Arc<Clock>) -> Self {
        let vitals = Vitals {
            queued: Queued::default(),
            clock,
            born_at: IDLE,
            notes: Mutex::default(),
            changed: Notify::new(),
            retired: AtomicBool::new(false),
            called_off: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            roll: Roll::default(),
            taken: Taken::default(),
            busy_since: AtomicU64::new(IDLE),
            progress_at: AtomicU64::new(IDLE),
            busy_for: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            taken_up: Mutex::new(Activity::BORN.name()),
            at_work: AtomicU8::new(RESTING),
        };
        Vitals { born_at: vitals.now(), ..vitals }
    }

    fn now(&self) -> u64 {
        self.clock.exact().saturating_add(1)
    }

    /// Returns the time for what is noted with every message; it may be a tick too early.
    #[inline]
    fn now_roughly(&self) -> u64 {
        self.clock.rough().saturating_add(1)
    }

    fn since(&self, then: u64) -> Duration {
        Duration::from_nanos(self.now().saturating_sub(then))
    }

    /// Returns for how long at least something goes on that began at that time by the rough clock.
    fn surely_since(&self, then: u64) -> Duration {
        self.since(then.saturating_add(self.clock.lag()))
    }

    fn notes(&self) -> MutexGuard<'_, Option<Box<Notes>>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what the actor leaves behind.
    pub(crate) fn note(&self, write: impl FnOnce(&mut Notes)) {
        write(self.notes().get_or_insert_default());
    }

    /// Returns what `read` finds in what the actor leaves behind so far, if that is anything.
    pub(crate) fn noted<T>(&self, read: impl FnOnce(&mut Notes) -> Option<T>) -> Option<T> {
        self.notes().as_mut().and_then(|notes| read(notes))
    }

    fn take_up(&self, activity: Activity) {
        *self.taken_up.lock().unwrap_or_else(PoisonError::into_inner) = activity.name();
    }

    #[inline]
    fn begin(&self, activity: Activity) {
        let now = self.now_roughly();
        self.close_account(now);
        self.busy_since.store(now, Ordering::Release);
        let kind = if matches!(activity, Activity::Message(_)) { IN_MESSAGE } else { IN_CALLBACK };
        self.at_work.store(kind, Ordering::Release);
    }

    #[inline]
    fn finish(&self, activity: Activity) {
        if matches!(activity, Activity::Message(_)) {
            // Nobody else counts, so it need not be one step.
            self.handled.store(self.handled.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        self.at_work.store(RESTING, Ordering::Release);
        // While more waits, the end of this handler is the begin of the next, which looks at the clock anyway.
        if self.taken.all_of(&self.queued) {
            self.close_account(self.now_roughly());
            self.busy_since.store(IDLE, Ordering::Release);
        }
    }

    /// Adds what was worked since the last begin; only the actor's own task does, so that no two can race.
    #[inline]
    fn close_account(&self, now: u64) {
        let since = self.busy_since.load(Ordering::Relaxed);
        if since != IDLE {
            let worked = self.busy_for.load(Ordering::Relaxed) + now.saturating_sub(since);
            self.busy_for.store(worked, Ordering::Relaxed);
        }
    }

    /// Returns what the running handler is at, and for how long; nothing when idle.
    pub(crate) fn busy(&self) -> Option<(Activity, Duration)> {
        // What is looked at after this belongs to the handler that was seen at work, or to a later one, never to an earlier one.
        let at_work = self.at_work.load(Ordering::Acquire);
        let since = self.busy_since.load(Ordering::Acquire);
        let name = *self.taken_up.lock().unwrap_or_else(PoisonError::into_inner);
        let activity = match at_work {
            RESTING => return None,
            IN_MESSAGE => Activity::Message(name),
            _ => Activity::Callback(name),
        };
        Some((activity, self.surely_since(since)))
    }

    /// Returns for how long the running handler has made no progress; nothing when idle.
    pub(crate) fn silent_for(&self) -> Option<Duration> {
        let is_at_work = self.at_work.load(Ordering::Acquire) != RESTING;
        let since = self.busy_since.load(Ordering::Acquire);
        let progress_at = self.progress_at.load(Ordering::Acquire);
        is_at_work.then(|| self.surely_since(since.max(progress_at)))
    }

    /// Returns how long ago this incarnation's start began.
    pub(crate) fn age(&self) -> Duration {
        self.since(self.born_at)
    }

    /// Returns which part of its life the actor has been busy, from 0 to 1.
    pub(crate) fn busy_ratio(&self) -> f64 {
        let running = self.busy().map_or(Duration::ZERO, |(_, busy)| busy);
        let busy = Duration::from_nanos(self.busy_for.load(Ordering::Relaxed)).saturating_add(running);
        let age = self.age();
        if age.is_zero() { 0.0 } else { (busy.as_secs_f64() / age.as_secs_f64()).min(1.0) }
    }

    /// Counts a message as waiting, unless `limit` wait already.
    #[inline]
    pub(crate) fn enqueue(&self, limit: usize) -> bool {
        self.queued.one_more(limit, &self.taken)
    }

    /// Takes back what [`enqueue`](Self::enqueue) counted: the message was not taken after all. Returns false if it was counted
    /// as lost meanwhile.
    pub(crate) fn unqueue(&self) -> bool {
        self.queued.one_less()
    }

    /// Notes, in the actor's own task, that it has taken a message out.
    #[inline]
    pub(crate) fn dequeue(&self) {
        self.taken.one_more(&self.queued);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queued.beyond(&self.taken)
    }

    pub(crate) fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// Returns what an actor that ended took with it; nothing is counted as waiting any more.
    pub(crate) fn loss(&self) -> Loss {
        let handling = match self.last_activity() {
            Some(Activity::Message(kind)) => Some(kind),
            Some(Activity::Callback(_)) | None => None,
        };
        Loss { handling, waiting: self.queued.close(&self.taken) }
    }

    /// Returns the kind of the message or the name of the callback at which the actor ended, unless it was idle.
    pub(crate) fn ended_at(&self) -> Option<&'static str> {
        self.last_activity().map(Activity::name)
    }

    fn last_activity(&self) -> Option<Activity> {
        // One that was killed never came back from its handler.
        self.noted(|notes| notes.failed_at).or_else(|| self.busy().map(|(activity, _)| activity))
    }

    /// Turns senders away from now on.
    pub(crate) fn retire(&self) {
        if !self.retired.swap(true, Ordering::AcqRel) {
            self.changed.notify_waiters();
        }
    }

    /// Waits until nobody may send any more.
    pub(crate) async fn retired(&self) {
        self.until(&self.retired).await;
    }

    #[inline]
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    fn note_failure(&self, activity: Activity, exit: Exit) {
        self.note(|notes| _ = notes.failed_at.get_or_insert(activity));
        self.note_exit(exit);
        // It ends because of this, and whoever sends from here on is better refused than lost with it.
        self.retire();
    }

    /// Writes down how the actor ends; the first note stays, because what follows is only its consequence.
    pub(crate) fn note_exit(&self, exit: Exit) {
        self.note(|notes| _ = notes.exit.get_or_insert(exit));
    }

    /// Returns how the actor ended, if anything was noted.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.noted(|notes| notes.exit.clone())
    }

    /// Returns true for the first caller only, who is the one to report the exit.
    pub(crate) fn settle(&self) -> bool {
        !self.settled.swap(true, Ordering::AcqRel)
    }

    /// Says that nobody waits for the actor any longer, although it may still be there.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.mark_gone();
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Passes `word` on when the actor's task is over, which it may be already.
    pub(crate) fn when_over(&self, word: impl FnOnce() + Send + 'static) {
        self.roll.when_over(word);
    }

    /// Says that the actor's task has ended, or that nobody waits for it any longer.
    pub(crate) fn mark_gone(&self) {
        self.retire();
        self.gone.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Waits until the actor's task has ended.
    pub(crate) async fn gone(&self) {
        self.until(&self.gone).await;
    }

    /// Says that the start is no longer wanted.
    pub(crate) fn call_off(&self) {
        self.called_off.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Returns whether nobody wants the actor that is being started.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.called_off.load(Ordering::Acquire) || self.is_abandoned()
    }

    /// Waits until the start is no longer wanted.
    pub(crate) async fn called_off(&self) {
        self.until(&self.called_off).await;
    }

    async fn until(&self, flag: &AtomicBool) {
        loop {
            // The wait is set up before the look, so that a change between the two is not missed.
            let changed = self.changed.notified();
            if flag.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }
}
