//! Who takes part, and what each of them does.
//!
//! Each builds a [`World`], is sent [`Work`] and answers with [`Report`]s.
//! Invariant: all do the same, message for message, so that what differs is who supervises.

mod bare;

mod kameo_world;

mod ours;

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

/// One of those that are compared.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// So many messages to one actor.
    pub(crate) cast: fn(u64) -> Job<Duration>,
    /// So many restarts of one actor, one after the other.
    pub(crate) restarts: fn(usize) -> Job<Vec<Duration>>,
    /// So many actors that fail at once.
    pub(crate) deaths: fn(usize) -> Job<Duration>,
    /// So many actors that stay until the process ends.
    pub(crate) hold: fn(usize) -> Job<()>,
}

pub(crate) type Job<T> = Pin<Box<dyn Future<Output = T>>>;

pub(crate) const CONTENDERS: [Contender; 3] =
    [contender::<bare::World>("ractor"), contender::<kameo_world::World>("kameo"), contender::<ours::World>("kloros")];

const fn contender<W: World + 'static>(name: &'static str) -> Contender {
    Contender {
        name,
        cast: |count| Box::pin(cast::<W>(count)),
        restarts: |count| Box::pin(restarts::<W>(count)),
        deaths: |count| Box::pin(deaths::<W>(count)),
        hold: |count| Box::pin(hold::<W>(count)),
    }
}

/// What a worker is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// The first message of each incarnation, which it sends to itself.
    First,
    /// One of many.
    Count,
    /// The last of many.
    Last,
    /// Panic.
    Fail,
}

/// What a worker reports.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Report {
    First(Instant),
    Failing(Instant),
    Counted(Instant),
}

/// Where workers report; wide enough that nobody ever waits.
pub(crate) type Reporter = mpsc::Sender<Report>;

/// Does what every worker does with a message, whoever supervises it.
pub(crate) fn work(reporter: &Reporter, work: Work) {
    let report = match work {
        Work::Count => return,
        Work::First => Report::First(Instant::now()),
        Work::Last => Report::Counted(Instant::now()),
        Work::Fail => Report::Failing(Instant::now()),
    };
    // Whoever measures may have gone.
    reporter.try_send(report).ok();
    assert!(!matches!(work, Work::Fail), "as told");
}

/// A worker on ractor, whoever supervises it.
pub(crate) struct Worker(pub(crate) Reporter);

impl Actor for Worker {
    type Msg = Work;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Work>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(myself.send_message(Work::First)?)
    }

    async fn handle(&self, _: ActorRef<Work>, message: Work, (): &mut ()) -> Result<(), ActorProcessingErr> {
        work(&self.0, message);
        Ok(())
    }
}

/// One supervisor with so many workers below it.
pub(crate) trait World: Sized {
    /// What reaches one worker, as cheaply as the contender can.
    type Address: Send + 'static;

    async fn build(workers: usize, reporter: Reporter) -> Self;

    /// Returns what reaches the present incarnation of a worker.
    fn address(&self, worker: usize) -> Self::Address;

    /// Sends, and returns whether it was taken.
    fn send(address: &Self::Address, work: Work) -> bool;

    async fn stop(self);
}

async fn opened<W: World>(workers: usize) -> (W, mpsc::Receiver<Report>) {
    let (reporter, mut reports) = mpsc::channel(4 * workers + 16);
    let world = W::build(workers, reporter).await;
    for _ in 0..workers {
        first(&mut reports).await;
    }
    (world, reports)
}

async fn first(reports: &mut mpsc::Receiver<Report>) -> Instant {
    loop {
        if let Report::First(at) = reports.recv().await.expect("workers hold the other end") {
            return at;
        }
    }
}

/// Sends to the present incarnation, which may be a moment away.
async fn insist<W: World>(world: &W, worker: usize, work: Work) {
    while !W::send(&world.address(worker), work) {
        tokio::task::yield_now().await;
    }
}

async fn cast<W: World>(count: u64) -> Duration {
    let (world, mut reports) = opened::<W>(1).await;
    let address = world.address(0);
    let began = Instant::now();
    let sender = tokio::task::spawn_blocking(move || {
        for _ in 1..count {
            W::send(&address, Work::Count);
        }
        W::send(&address, Work::Last);
    });
    let ended = loop {
        if let Report::Counted(at) = reports.recv().await.expect("the worker holds the other end") {
            break at;
        }
    };
    sender.await.expect("the sender does not panic");
    world.stop().await;
    ended - began
}

async fn restarts<W: World>(count: usize) -> Vec<Duration> {
    let (world, mut reports) = opened::<W>(1).await;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        insist(&world, 0, Work::Fail).await;
        let began = loop {
            if let Report::Failing(at) = reports.recv().await.expect("the worker holds the other end") {
                break at;
            }
        };
        times.push(first(&mut reports).await - began);
    }
    world.stop().await;
    times
}

async fn deaths<W: World>(count: usize) -> Duration {
    let (world, mut reports) = opened::<W>(count).await;
    let began = Instant::now();
    for worker in 0..count {
        insist(&world, worker, Work::Fail).await;
    }
    let mut last = began;
    for _ in 0..count {
        last = last.max(first(&mut reports).await);
    }
    world.stop().await;
    last - began
}

async fn hold<W: World>(count: usize) {
    let (world, reports) = opened::<W>(count).await;
    // They are to stay where they are while the process is looked at.
    std::mem::forget((world, reports));
}
