//! The supervisor actor: it carries out what the [`Machine`] decides, and waits for nothing in its handler.
//!
//! Hears what its children's tasks, its timers and the tree's owner tell it. Each start runs in a task of its own that reports
//! back twice: when the child is up or not, and when it has ended.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::blueprint::{Blueprint, Charge, Shared};
use crate::branch::Kind;
use crate::event::{EventKind, Exit};
use crate::launch::{Launch, Stop, Unstarted, told};
use crate::machine::{BLOCKED_START, Effect, Event, Key, Machine, Order, Outcome, Timer};
use crate::socket::Down;
use crate::spec::{ChildSpec, Restart};
use crate::tree::StartError;
use crate::vitals::Vitals;

mod place;

use place::{Place, attend};

/// Stall clocks are looked at this many times within the shortest limit, but never more often than the floor.
const STALL_CHECKS_PER_LIMIT: u32 = 4;
const STALL_CHECK_FLOOR: Duration = Duration::from_millis(5);

pub(crate) struct Brief {
    pub(crate) blueprint: Arc<Blueprint>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) boot: oneshot::Sender<Result<(), Unstarted>>,
    /// Filled when the supervisor gives up: by whom, and why.
    pub(crate) verdict: Arc<OnceLock<(String, String)>>,
}

/// What a supervisor hears.
pub(crate) enum Msg {
    Boot,
    Started { key: Key, generation: u64, cell: ActorCell, stop: Stop },
    StartFailed { key: Key, generation: u64, unstarted: Unstarted },
    Exited { key: Key, generation: u64, exit: Exit },
    Overdue { key: Key, generation: u64, timer: Timer },
    GroupDue { token: u64 },
    CheckStalls,
    Add { spec: ChildSpec, reply: oneshot::Sender<Result<(), StartError>> },
    Terminate { id: String, reply: oneshot::Sender<()> },
    Shutdown,
}

pub(crate) struct Supervisor;

impl Actor for Supervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Brief;

    async fn pre_start(&self, myself: ActorRef<Msg>, brief: Brief) -> Result<State, ActorProcessingErr> {
        myself.send_message(Msg::Boot)?;
        Ok(State::new(myself, brief))
    }

    async fn handle(&self, myself: ActorRef<Msg>, message: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Boot => state.step(Event::Boot),
            Msg::Started { key, generation, cell, stop } => state.started(key, generation, cell, stop),
            Msg::StartFailed { key, generation, unstarted } => state.start_failed(key, generation, unstarted),
            Msg::Exited { key, generation, exit } => state.step(Event::Exited { key, generation, exit }),
            Msg::Overdue { key, generation, timer } => state.step(Event::Overdue { key, generation, timer }),
            Msg::GroupDue { token } => state.step(Event::GroupDue { token }),
            Msg::CheckStalls => state.check_stalls(),
            Msg::Add { spec, reply } => state.add(spec, reply),
            Msg::Terminate { id, reply } => state.terminate(&id, reply),
            Msg::Shutdown => state.step(Event::Shutdown),
        }
        state.conclude(&myself)
    }

    /// Exits come as messages from the tasks that wait for the children, after what they left behind is settled.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Msg>,
        _: SupervisionEvent,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

pub(crate) struct State {
    myself: ActorRef<Msg>,
    machine: Machine,
    blueprint: Arc<Blueprint>,
    shared: Arc<Shared>,
    places: HashMap<Key, Place>,
    keys: Key,
    boot: Option<oneshot::Sender<Result<(), Unstarted>>>,
    unstarted: Option<Unstarted>,
    verdict: Arc<OnceLock<(String, String)>>,
    check_pending: bool,
    outcome: Option<Outcome>,
}

impl State {
    fn new(myself: ActorRef<Msg>, brief: Brief) -> Self {
        let blueprint = brief.blueprint;
        if blueprint.order == Order::Dynamic {
            blueprint.node.disown_all();
        }
        let mut places = HashMap::new();
        let mut children = Vec::new();
        for (key, charge) in (0..).zip(&blueprint.charges) {
            children.push((key, charge.rules, charge.node.generation()));
            places.insert(key, Place::new(charge.clone()));
        }
        State {
            myself,
            machine: Machine::new(blueprint.order, blueprint.intensity, children),
            keys: places.len() as Key,
            blueprint,
            shared: brief.shared,
            places,
            boot: Some(brief.boot),
            unstarted: None,
            verdict: brief.verdict,
            check_pending: false,
            outcome: None,
        }
    }

    #[allow(clippy::disallowed_methods, reason = "jitter is there to differ: daemons that fail together restart apart")]
    fn step(&mut self, event: Event) {
        let now = Instant::now().saturating_duration_since(self.shared.epoch);
        for effect in self.machine.on(now, rand::random(), event) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start { key, generation } => self.start(key, generation),
            Effect::CancelStart { key, .. } => self.at(key, |place| {
                place.cancel.send_replace(true);
            }),
            Effect::Stop { key, .. } => self.at(key, |place| {
                place.retire();
                if let Some((_, stop)) = &place.live {
                    stop();
                }
            }),
            Effect::Kill { key, .. } => self.at(key, |place| {
                place.retire();
                if let Some((cell, _)) = &place.live {
                    cell.kill();
                }
            }),
            Effect::Arm { key, generation, timer, after } => self.arm(key, generation, timer, after),
            Effect::Disarm { key } => self.at(key, Place::disarm),
            Effect::ArmGroup { token, after } => {
                self.after(after, Msg::GroupDue { token });
            }
            Effect::Tell { key, generation, kind } => self.tell(key, generation, kind),
            Effect::GivingUp { key, reason } => self.giving_up(key, &reason),
            Effect::Abandon { key, .. } => self.abandon(key),
            Effect::Forget { key } => self.forget(key),
            Effect::Booted => {
                if let Some(boot) = self.boot.take() {
                    // The one who waited for the boot may have gone.
                    let _ = boot.send(Ok(()));
                }
            }
            Effect::Finished(outcome) => self.outcome = Some(outcome),
        }
    }

    fn at(&mut self, key: Key, act: impl FnOnce(&mut Place)) {
        if let Some(place) = self.places.get_mut(&key) {
            act(place);
        }
    }

    fn start(&mut self, key: Key, generation: u64) {
        let Some(place) = self.places.get_mut(&key) else { return };
        let vitals = Arc::new(Vitals::new(self.shared.epoch));
        let former = place.charge.node.begin(generation, Arc::clone(&vitals));
        place.vitals = Some(Arc::clone(&vitals));
        place.live = None;
        place.cancel = watch::Sender::new(false);
        let launch = Launch {
            supervisor: self.myself.get_cell(),
            vitals,
            limit: place.charge.rules.start_within,
            cancel: place.cancel.subscribe(),
            shared: Arc::clone(&self.shared),
        };
        let supervisor = self.myself.clone();
        let nursery = self.blueprint.nursery.clone();
        tokio::spawn(attend(key, generation, place.charge.clone(), launch, former, supervisor, nursery));
        self.watch_stalls();
    }

    fn started(&mut self, key: Key, generation: u64, cell: ActorCell, stop: Stop) {
        let Some(place) = self.places.get_mut(&key).filter(|_| self.machine.is_starting(key, generation)) else {
            // Nobody waits for it any longer.
            cell.kill();
            return;
        };
        place.charge.node.set_cell(cell.clone());
        place.live = Some((cell, stop));
        if let Some(added) = place.added.take() {
            // The one who asked may have gone; the child stays.
            let _ = added.send(Ok(()));
        }
        self.step(Event::Started { key, generation });
    }

    fn start_failed(&mut self, key: Key, generation: u64, unstarted: Unstarted) {
        if self.machine.is_starting(key, generation) {
            let path = self.path_of(key);
            if let Some(added) = self.places.get_mut(&key).and_then(|place| place.added.take()) {
                let path = unstarted.path.clone().unwrap_or(path);
                let _ = added.send(Err(StartError::Child { path, reason: unstarted.reason.clone() }));
            }
            self.unstarted = Some(unstarted.clone());
        }
        let reason = match unstarted.path {
            Some(path) => format!("{path}: {}", unstarted.reason),
            None => unstarted.reason,
        };
        self.step(Event::StartFailed { key, generation, reason });
    }

    fn add(&mut self, mut spec: ChildSpec, reply: oneshot::Sender<Result<(), StartError>>) {
        if self.blueprint.node.children().iter().any(|child| child.id == spec.id) {
            let path = self.blueprint.node.path.clone();
            let _ = reply.send(Err(StartError::AlreadyPresent { nursery: path, id: spec.id }));
            return;
        }
        if self.machine.is_closing() {
            let room = self.blueprint.node.path.clone();
            let _ = reply.send(Err(StartError::Down(Down::Absent { room })));
            return;
        }
        // A child that comes at run time is its maker's to start again.
        spec.rules.restart = Restart::Temporary;
        let node = self.blueprint.node.below(&spec.id, Kind::Actor);
        self.blueprint.node.adopt(Arc::clone(&node));
        let key = self.keys;
        self.keys += 1;
        let charge = Charge { node, rules: spec.rules, start: spec.start };
        self.places.insert(key, Place { added: Some(reply), ..Place::new(charge) });
        self.step(Event::Add { key, rules: spec.rules });
    }

    fn terminate(&mut self, id: &str, reply: oneshot::Sender<()>) {
        // An unknown child is down already, so the reply goes out by being dropped.
        if let Some((key, place)) = self.places.iter_mut().find(|(_, place)| place.charge.node.id == id) {
            place.terminated.push(reply);
            let key = *key;
            self.step(Event::Terminate { key });
        }
    }

    fn forget(&mut self, key: Key) {
        let Some(mut place) = self.places.remove(&key) else { return };
        place.disarm();
        if self.blueprint.order == Order::Dynamic {
            self.blueprint.node.disown(&place.charge.node);
        }
        for reply in place.terminated {
            let _ = reply.send(());
        }
    }

    fn abandon(&mut self, key: Key) {
        let path = self.path_of(key);
        let Some(place) = self.places.get_mut(&key) else { return };
        let Some(vitals) = &place.vitals else { return };
        if let Some(added) = place.added.take() {
            let _ = added.send(Err(StartError::Child { path, reason: BLOCKED_START.to_owned() }));
        }
        vitals.note_exit(Exit::Failed("it blocks its thread and was given up".to_owned()));
        // From here on nobody speaks of its end again, also when it comes free one day.
        if vitals.settle()
            && place.live.is_some()
            && let (Some(nursery), Some(exit)) = (&self.blueprint.nursery, vitals.exit())
        {
            nursery.report(&place.charge.node.id, &exit);
        }
        vitals.mark_gone();
    }

    fn giving_up(&mut self, key: Key, reason: &str) {
        let path = self.path_of(key);
        let node = &self.blueprint.node;
        self.shared.tell(node, node.generation(), EventKind::GaveUp { reason: format!("{path}: {reason}") });
        // A supervisor gives up once, so the cell is empty.
        let _ = self.verdict.set((path, reason.to_owned()));
    }

    fn tell(&mut self, key: Key, generation: u64, kind: EventKind) {
        let Some(place) = self.places.get(&key) else { return };
        let down = matches!(kind, EventKind::Failed { .. } | EventKind::Stopped);
        if down && place.charge.node.kind != Kind::Actor {
            place.charge.node.hush();
        }
        self.shared.tell(&place.charge.node, generation, kind);
    }

    fn path_of(&self, key: Key) -> String {
        self.places.get(&key).map_or_else(String::new, |place| place.charge.node.path.clone())
    }

    fn arm(&mut self, key: Key, generation: u64, timer: Timer, after: Duration) {
        let task = self.after(after, Msg::Overdue { key, generation, timer });
        self.at(key, |place| {
            place.disarm();
            place.timer = Some(task);
        });
    }

    fn after(&self, after: Duration, message: Msg) -> AbortHandle {
        let myself = self.myself.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            told(&myself, message);
        });
        task.abort_handle()
    }

    /// Sees to it that the stall clocks are looked at again, if any child has one.
    fn watch_stalls(&mut self) {
        let shortest = self.places.values().filter_map(|place| place.charge.rules.stall_after).min();
        if let Some(limit) = shortest.filter(|_| !self.check_pending) {
            self.check_pending = true;
            self.after((limit / STALL_CHECKS_PER_LIMIT).max(STALL_CHECK_FLOOR), Msg::CheckStalls);
        }
    }

    fn check_stalls(&mut self) {
        self.check_pending = false;
        let stalled = |(key, place): (&Key, &Place)| {
            let vitals = place.vitals.as_ref()?;
            let silent = vitals.silent_for()?;
            (silent >= place.charge.rules.stall_after?).then_some((*key, silent))
        };
        let stalled: Vec<(Key, Duration)> = self.places.iter().filter_map(stalled).collect();
        for (key, silent) in stalled {
            let Some(place) = self.places.get(&key) else { continue };
            let generation = place.charge.node.generation();
            if self.machine.is_up(key, generation) {
                if let Some(vitals) = &place.vitals {
                    vitals.note_exit(Exit::Failed(format!("it made no progress for {silent:?}")));
                }
                self.step(Event::Stalled { key, generation, silent });
            }
        }
        self.watch_stalls();
    }

    /// Ends this actor when the machine has finished: normally when it was told to, as a failure when it gave up.
    fn conclude(&mut self, myself: &ActorRef<Msg>) -> Result<(), ActorProcessingErr> {
        let Some(outcome) = self.outcome.take() else { return Ok(()) };
        if let Some(boot) = self.boot.take() {
            let unstarted = match &outcome {
                Outcome::Stopped => Unstarted::because("it was stopped while starting"),
                Outcome::BootFailed { key, reason } => {
                    let deeper = self.unstarted.take();
                    let reason = deeper.as_ref().map_or_else(|| reason.clone(), |deeper| deeper.reason.clone());
                    let path = deeper.and_then(|deeper| deeper.path).unwrap_or_else(|| self.path_of(*key));
                    Unstarted { path: Some(path), reason }
                }
                Outcome::GaveUp { key, reason } => Unstarted { path: Some(self.path_of(*key)), reason: reason.clone() },
            };
            let _ = boot.send(Err(unstarted));
        }
        match outcome {
            Outcome::Stopped | Outcome::BootFailed { .. } => {
                myself.stop(None);
                Ok(())
            }
            Outcome::GaveUp { key, reason } => Err(format!("it gave up on {}: {reason}", self.path_of(key)).into()),
        }
    }
}
