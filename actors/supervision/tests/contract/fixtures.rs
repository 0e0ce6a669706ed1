//! A room that does as it is told, a log of what happened, and waiting for a condition.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kloros_supervision::{Backoff, ChildSpec, Event, Intensity, Mailbox, Socket, Strategy, Tree, TreeSpec};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};

mod reasons;

use reasons::{Inner, Outer};

/// Longer than anything here takes; under paused time it costs nothing.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// What a room is told to do.
#[derive(Debug)]
pub(crate) enum Order {
    Panic(&'static str),
    PanicWithoutText,
    Fail(&'static str),
    Stop,
    StopBecause(&'static str),
    /// Is busy for so long, in so many steps that each report progress.
    Work {
        step: Duration,
        steps: u32,
    },
    /// The same, in a task of its own.
    WorkElsewhere {
        step: Duration,
        steps: u32,
    },
    Hang,
    /// Blocks its thread until the sender is dropped.
    Block(std::sync::mpsc::Receiver<()>),
    Echo(RpcReplyPort<u32>),
    /// Answers, and takes it for a failure if nobody listens.
    EchoStrictly(RpcReplyPort<u32>),
    /// Cuts all links that others may have made.
    Detach,
    /// Fails because of a task of its own.
    FailElsewhere(&'static str),
    /// Fails with a reason that has reasons.
    FailDeeply,
    PanicWithError(&'static str),
    /// Fails whoever handles it, as often as it is sent.
    Poison(u64),
    /// Is noted in the log.
    Note(u64),
    Drop(RpcReplyPort<u32>),
    SendYourself(u32),
    /// Sends itself some work and so many notes, and lets them count.
    TellYourself(u64),
    /// Is there to be dropped, handled or not.
    Carry(Box<dyn std::any::Any + Send>),
}

impl Order {
    /// Returns what reports and snapshots call it where its room's mailbox says so.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Order::Work { .. } => "work",
            Order::Hang => "hang",
            Order::Block(_) => "block",
            Order::Poison(_) => "poison",
            _ => "other",
        }
    }
}

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Returns what happened since the last look.
    pub(crate) fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// How a room behaves apart from its orders.
#[derive(Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is one bad habit, and a case names the one it needs")]
pub(crate) struct Habits {
    /// Starts from this one on fail; 0 never.
    pub(crate) starts_failing_from: u32,
    /// This one start fails; 0 none.
    pub(crate) start_failing: u32,
    pub(crate) ignores: bool,
    pub(crate) info: Option<&'static str>,
    /// Starts from this one on hang; 0 never.
    pub(crate) starts_hanging_from: u32,
    /// This one start hangs; 0 none.
    pub(crate) start_hanging: u32,
    /// How long its `post_stop` takes.
    pub(crate) stop_takes: Duration,
    pub(crate) panics_after_starting: bool,
    pub(crate) panics_when_told: bool,
    pub(crate) panics_while_starting: bool,
    pub(crate) hangs_while_starting: bool,
    /// Its first start blocks the thread until this one's sender is dropped.
    pub(crate) blocks_while_starting: Option<Arc<Mutex<std::sync::mpsc::Receiver<()>>>>,
    pub(crate) fails_after_starting: bool,
    pub(crate) hangs_while_stopping: bool,
    pub(crate) panics_while_stopping: bool,
    pub(crate) state_panics_when_dropped: bool,
    /// What it does in its start just before it is up.
    pub(crate) when_starting: Option<Deed>,
    /// What is done when its state goes.
    pub(crate) when_dropped: Option<Deed>,
}

/// Something that is done in the life of this generation.
pub(crate) type Deed = Arc<dyn Fn(u32) + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Room {
    pub(crate) id: &'static str,
    pub(crate) socket: Socket<Order>,
    pub(crate) log: Log,
    pub(crate) starts: Arc<AtomicU32>,
    /// How many incarnations have a state: they are up, or were left behind.
    pub(crate) alive: Arc<AtomicUsize>,
    pub(crate) habits: Habits,
}

pub(crate) struct State {
    generation: u32,
    alive: Arc<AtomicUsize>,
    panics_when_dropped: bool,
    when_dropped: Option<Deed>,
}

impl Drop for State {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
        if let Some(deed) = &self.when_dropped {
            deed(self.generation);
        }
        assert!(!self.panics_when_dropped, "the state does not want to go");
    }
}

impl Room {
    pub(crate) fn new(id: &'static str, log: &Log) -> Self {
        Room::with(id, log, Habits::default())
    }

    pub(crate) fn with(id: &'static str, log: &Log, habits: Habits) -> Self {
        Room { id, socket: Socket::new(id), log: log.clone(), starts: Arc::default(), alive: Arc::default(), habits }
    }

    pub(crate) fn spec(&self) -> ChildSpec {
        let room = self.clone();
        ChildSpec::actor(self.id, &self.socket, move || (room.clone(), ())).backoff(at_once())
    }

    pub(crate) fn tell(&self, order: Order) {
        self.socket.send(order).unwrap();
    }

    pub(crate) async fn generation(&self) -> u32 {
        self.socket.call(Order::Echo, LONG).await.unwrap()
    }

    /// The same room behind such a mailbox.
    pub(crate) fn behind(self, mailbox: Mailbox<Order>) -> Self {
        Room { socket: Socket::with(self.id, Mailbox { name: Some(Order::kind), ..mailbox }), ..self }
    }

    /// Returns how many incarnations are up, or were left behind.
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    /// Waits until a generation at least this high answers.
    pub(crate) async fn reaches(&self, generation: u32) {
        until(|| self.starts.load(Ordering::SeqCst) >= generation && self.socket.actor().is_some()).await;
        assert_eq!(self.generation().await, generation);
    }
}

impl Actor for Room {
    type Msg = Order;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Order>, (): ()) -> Result<State, ActorProcessingErr> {
        let generation = self.starts.fetch_add(1, Ordering::SeqCst) + 1;
        self.log.note(format!("start {}", self.id));
        tokio::task::yield_now().await;
        assert!(!self.habits.panics_while_starting, "no start today");
        let hangs_now = self.habits.starts_hanging_from > 0 && generation >= self.habits.starts_hanging_from
            || self.habits.start_hanging == generation;
        if self.habits.hangs_while_starting || hangs_now {
            std::future::pending::<()>().await;
        }
        if let Some(until_dropped) = self.habits.blocks_while_starting.as_ref().filter(|_| generation == 1) {
            let _ = until_dropped.lock().unwrap().recv();
        }
        if self.habits.starts_failing_from > 0 && generation >= self.habits.starts_failing_from {
            return Err("the port is taken".into());
        }
        if self.habits.start_failing == generation {
            return Err("not this time".into());
        }
        if self.habits.ignores {
            return Err(kloros_supervision::Ignore.into());
        }
        if let Some(info) = self.habits.info {
            kloros_supervision::start_info(info);
        }
        if let Some(deed) = &self.habits.when_starting {
            deed(generation);
        }
        self.alive.fetch_add(1, Ordering::SeqCst);
        let alive = Arc::clone(&self.alive);
        self.log.note(format!("up {}", self.id));
        let when_dropped = self.habits.when_dropped.clone();
        Ok(State { generation, alive, panics_when_dropped: self.habits.state_panics_when_dropped, when_dropped })
    }

    async fn post_start(&self, _: ActorRef<Order>, state: &mut State) -> Result<(), ActorProcessingErr> {
        if self.habits.fails_after_starting && state.generation == 1 {
            return Err("not after all".into());
        }
        assert!(!self.habits.panics_after_starting || state.generation > 1, "not after all");
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Order>, order: Order, state: &mut State) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Panic(text) => panic!("{text}"),
            Order::PanicWithoutText => std::panic::panic_any(7_u8),
            Order::Fail(text) => return Err(text.into()),
            Order::Stop => myself.stop(None),
            Order::StopBecause(reason) => myself.stop(Some(reason.to_owned())),
            Order::Work { step, steps } => {
                for _ in 0..steps {
                    tokio::time::sleep(step).await;
                    kloros_supervision::progress();
                }
            }
            Order::WorkElsewhere { step, steps } => {
                let progress = kloros_supervision::Progress::here();
                let work = async move {
                    for _ in 0..steps {
                        tokio::time::sleep(step).await;
                        progress.made();
                    }
                };
                tokio::spawn(work).await?;
            }
            Order::Hang => std::future::pending().await,
            Order::Block(until_dropped) => {
                let _ = until_dropped.recv();
                self.log.note(format!("{} came free", self.id));
            }
            Order::Echo(reply) => {
                let _ = reply.send(state.generation);
            }
            Order::EchoStrictly(reply) => reply.send(state.generation)?,
            Order::Detach => {
                if let Some(supervisor) = myself.try_get_supervisor() {
                    myself.unlink(supervisor);
                }
            }
            Order::FailElsewhere(text) => tokio::spawn(async move { panic!("{text}") }).await?,
            Order::FailDeeply => return Err(Box::new(Outer(Inner))),
            Order::PanicWithError(text) => std::panic::panic_any(ActorProcessingErr::from(text)),
            Order::Poison(number) => return Err(format!("poisoned by {number}").into()),
            Order::Note(number) => self.log.note(format!("{} got {number}", self.id)),
            Order::Drop(reply) => drop(reply),
            Order::Carry(load) => drop(load),
            Order::TellYourself(notes) => {
                let work = Order::Work { step: Duration::from_secs(1), steps: 1 };
                let all = std::iter::once(work).chain((1..=notes).map(Order::Note));
                all.into_iter().try_for_each(|order| kloros_supervision::to_self(&myself, order))?;
            }
            Order::SendYourself(times) => {
                for _ in 0..times {
                    myself.send_message(Order::SendYourself(0))?;
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Order>,
        _: SupervisionEvent,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        assert!(!self.habits.panics_when_told, "no news today");
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Order>, _: &mut State) -> Result<(), ActorProcessingErr> {
        assert!(!self.habits.panics_while_stopping, "no stop today");
        if self.habits.hangs_while_stopping {
            std::future::pending::<()>().await;
        }
        if !self.habits.stop_takes.is_zero() {
            self.log.note(format!("stopping {}", self.id));
            tokio::time::sleep(self.habits.stop_takes).await;
        }
        self.log.note(format!("down {}", self.id));
        Ok(())
    }
}

/// A back-off that never waits.
pub(crate) fn at_once() -> Backoff {
    Backoff { first: Duration::ZERO, max: Duration::ZERO, jitter_ratio: 0.0, healthy_after: LONG }
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A supervisor that allows three restarts in a minute.
pub(crate) fn supervisor(id: &str, strategy: Strategy) -> TreeSpec {
    TreeSpec::new(id, strategy).intensity(Intensity { restarts_max: 3, within: seconds(60) }).backoff(at_once())
}

/// A supervisor that allows so many restarts in a long time, without waiting between them.
pub(crate) fn allowing(restarts_max: u32, id: &str, strategy: Strategy) -> TreeSpec {
    TreeSpec::new(id, strategy).intensity(Intensity { restarts_max, within: LONG }).backoff(at_once())
}

/// Returns what comes of `work`, which must come before the world ends.
#[track_caller]
pub(crate) fn in_time<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let outcome = tokio::time::timeout(10 * LONG, work).await;
        outcome.unwrap_or_else(|_| panic!("what is waited for at {caller} never comes"))
    }
}

/// Waits until the room at `path`, whose mailbox names what waits there, is at a message of this kind.
pub(crate) async fn is_at(tree: &Tree, path: &str, kind: &str) {
    until(|| tree.snapshot().find(path).is_some_and(|place| place.busy_with == Some(kind))).await;
}

/// Takes all events that have come so far.
pub(crate) fn told(events: &mut tokio::sync::broadcast::Receiver<Event>) -> Vec<Event> {
    std::iter::from_fn(|| events.try_recv().ok()).collect()
}

pub(crate) fn with(id: &'static str, log: &Log, change: impl FnOnce(&mut Habits)) -> Room {
    let mut habits = Habits::default();
    change(&mut habits);
    Room::with(id, log, habits)
}

pub(crate) fn rooms<const N: usize>(log: &Log, ids: [&'static str; N]) -> [Room; N] {
    ids.map(|id| Room::new(id, log))
}

pub(crate) async fn house(strategy: Strategy, rooms: &[&Room]) -> Tree {
    let spec = rooms.iter().fold(supervisor("house", strategy), |spec, room| spec.child(room.spec()));
    kloros_supervision::start(spec).await.unwrap()
}

/// Waits until `condition` holds; fails when it does not for two minutes.
#[track_caller]
pub(crate) fn until(mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + seconds(120);
        while !condition() {
            assert!(tokio::time::Instant::now() < deadline, "the condition at {caller} did not come true");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
