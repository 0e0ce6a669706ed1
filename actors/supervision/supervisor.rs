//! The supervisor actor: it carries out what the [`Machine`] decides, and waits for nobody in its handler. Once it has spawned the
//! start of one child it gives its thread away for a moment, so that the start goes before the lines in the log.
//!
//! Hears what its children's tasks, its timers and those who administrate it tell it. Each start runs in a task of its own
//! that reports back twice: when the child is up or not, and when it has ended.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::blueprint::{Blueprint, Shared};
use crate::branch::Node;
use crate::control::{Child, ChildError, Count, Pending, Reply, Started};
use crate::event::{EventKind, Exit};
use crate::launch::{Unstarted, told};
use crate::machine::{Event, Key, Machine, Outcome, Timer};
use crate::spec::{ChildSpec, Flags, Rules, TreeSpec};
use crate::tree::StartError;
use crate::vitals::{self, Loss};

mod place;

mod administration;

mod stalls;

mod alarms;

pub(crate) mod orphans;

mod effects;

mod news;

use administration::Coming;
use place::{Named, Place};

pub(crate) struct Brief {
    pub(crate) blueprint: Arc<Blueprint>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) boot: oneshot::Sender<Result<(), Unstarted>>,
    /// Filled when the supervisor ends by itself: because of whom, and why.
    pub(crate) verdict: Arc<OnceLock<Verdict>>,
}

/// Why a supervisor ended by itself.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    GaveUp { path: String, reason: String },
    Done { path: String },
}

/// What a supervisor hears.
#[derive(Debug)]
pub(crate) enum Msg {
    Boot,
    // What comes from a child names its place: its key may be another one by the time this is heard.
    Started {
        node: Arc<Node>,
        generation: u64,
        cell: ActorCell,
    },
    Unstarted {
        node: Arc<Node>,
        generation: u64,
        unstarted: Unstarted,
    },
    Exited {
        node: Arc<Node>,
        generation: u64,
        exit: Exit,
        loss: Loss,
    },
    AlarmsDue,
    GroupDue {
        token: u64,
    },
    CheckStalls,
    Add {
        spec: Box<ChildSpec>,
        reply: Reply<Result<Started, StartError>>,
    },
    /// Those are gone whom this change of the spec left out.
    Cleared {
        change: u64,
    },
    Terminate {
        id: String,
        reply: Reply<Result<(), ChildError>>,
    },
    Restart {
        id: String,
        reply: Reply<Result<Started, ChildError>>,
    },
    Delete {
        id: String,
        reply: Reply<Result<(), ChildError>>,
    },
    Which {
        reply: Reply<Vec<Child>>,
    },
    Count {
        reply: Reply<Count>,
    },
    Rules {
        id: String,
        reply: Reply<Result<Rules, ChildError>>,
    },
    Flags {
        reply: Reply<Flags>,
    },
    Reconfigure {
        spec: Box<TreeSpec>,
        reply: Reply<Result<Pending, StartError>>,
    },
    Ping {
        reply: Reply<()>,
    },
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
            Msg::Started { node, generation, cell } => state.started(&node, generation, &cell),
            Msg::Unstarted { node, generation, unstarted } => state.unstarted(&node, generation, unstarted),
            Msg::Exited { node, generation, exit, loss } => state.exited(&node, generation, exit, loss),
            Msg::AlarmsDue => state.look_at_alarms(),
            Msg::GroupDue { token } => state.step(Event::GroupDue { token }),
            Msg::CheckStalls => state.check_stalls(),
            Msg::Add { spec, reply } => state.add(*spec, reply),
            Msg::Cleared { change } => state.let_in(change),
            Msg::Terminate { id, reply } => state.terminate(&id, reply),
            Msg::Restart { id, reply } => state.restart(&id, reply),
            Msg::Delete { id, reply } => state.delete(&id, reply),
            Msg::Which { reply } => answer(reply, state.which()),
            Msg::Count { reply } => answer(reply, state.count()),
            Msg::Rules { id, reply } => answer(reply, state.rules(&id)),
            Msg::Flags { reply } => answer(reply, state.machine.flags()),
            Msg::Reconfigure { spec, reply } => {
                let pending = state.reconfigure(*spec);
                answer(reply, pending);
            }
            Msg::Ping { reply } => answer(reply, ()),
            Msg::Shutdown => state.step(Event::Shutdown),
        }
        state.news.tell_after_a_start().await;
        state.conclude(&myself);
        Ok(())
    }

    /// Hears of actors that others have linked to this one; its own children are waited for by the tasks that attend them.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if matches!(event, SupervisionEvent::ActorTerminated(..) | SupervisionEvent::ActorFailed(..)) {
            tracing::warn!(path = %state.blueprint.node.path, %event, "an actor ended here that is no child of mine");
        }
        Ok(())
    }
}

/// Answers whoever asked, if they are still there.
fn answer<T>(reply: Reply<T>, answer: T) {
    if reply.send(answer).is_err() {
        tracing::debug!("who asked the supervisor did not wait for the answer");
    }
}

/// A message to come, unless this is dropped before.
pub(crate) struct Alarm(AbortHandle);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) struct State {
    myself: ActorRef<Msg>,
    machine: Machine,
    blueprint: Arc<Blueprint>,
    shared: Arc<Shared>,
    places: HashMap<Key, Place>,
    keys: HashMap<Named, Key>,
    next_key: Key,
    /// Who is to come in when those are gone whom the last change of the spec left out, and how many changes there were.
    coming: Vec<Coming>,
    changes: u64,
    /// The rules of the child that came last; the next one often has the same.
    rules: Option<Arc<Rules>>,
    boot: Option<oneshot::Sender<Result<(), Unstarted>>>,
    unstarted: Option<Unstarted>,
    verdict: Arc<OnceLock<Verdict>>,
    stalls: stalls::Watch,
    alarms: alarms::Alarms,
    /// When a group that was taken down is started again.
    group_due: Option<Alarm>,
    /// What is to be answered at the end of the current step.
    answers: Vec<Box<dyn FnOnce() + Send>>,
    news: news::News,
    outcome: Option<Outcome>,
}

impl State {
    fn new(myself: ActorRef<Msg>, brief: Brief) -> Self {
        let blueprint = brief.blueprint;
        blueprint.reset();
        let children = (0..).zip(&blueprint.charges);
        let children = children.map(|(key, charge)| (key, charge.node.rules(), charge.node.generation())).collect();
        let of_the_spec = blueprint.charges.len();
        let mut state = State {
            myself,
            machine: Machine::new(blueprint.flags, children),
            blueprint: Arc::clone(&blueprint),
            news: news::News::of(&brief.shared),
            shared: brief.shared,
            // Growing step by step would leave holes in the memory, as large as all of it in the end.
            places: HashMap::with_capacity(of_the_spec),
            keys: HashMap::with_capacity(of_the_spec),
            next_key: 0,
            coming: Vec::new(),
            changes: 0,
            rules: None,
            boot: Some(brief.boot),
            unstarted: None,
            verdict: brief.verdict,
            stalls: stalls::Watch::default(),
            alarms: alarms::Alarms::default(),
            group_due: None,
            answers: Vec::new(),
            outcome: None,
        };
        for charge in &blueprint.charges {
            let key = state.next_key();
            state.settle(key, Place::new(charge));
        }
        state
    }

    fn next_key(&mut self) -> Key {
        self.next_key += 1;
        self.next_key - 1
    }

    /// Gives a child its key.
    fn settle(&mut self, key: Key, place: Place) {
        self.rules = Some(place.node.rules());
        self.keys.insert(Named(Arc::clone(&place.node)), key);
        self.places.insert(key, place);
    }

    /// Returns the key of the child at this place, if it is still there.
    fn key_of(&self, node: &Arc<Node>) -> Option<Key> {
        let key = *self.keys.get(node.id())?;
        self.places.get(&key).is_some_and(|place| Arc::ptr_eq(&place.node, node)).then_some(key)
    }

    fn step(&mut self, event: Event) {
        let now = self.shared.clock.age();
        for effect in self.machine.on(now, self.shared.roll(), event) {
            self.carry_out(effect);
        }
        // Who hears an answer finds everything as the answer says, and told.
        if !self.answers.is_empty() {
            self.news.tell();
        }
        for answer in std::mem::take(&mut self.answers) {
            answer();
        }
    }

    fn started(&mut self, node: &Arc<Node>, generation: u64, cell: &ActorCell) {
        self.news.a_start_is_over();
        let Some(key) = self.key_of(node).filter(|key| self.machine.is_starting(*key, generation)) else {
            // Nobody waits for it any longer.
            cell.kill();
            return;
        };
        let afresh = node.vitals().and_then(|vitals| vitals.noted(|notes| notes.afresh.take()));
        self.step(Event::Started { key, generation });
        if let Some(reason) = afresh {
            self.tell(key, generation, EventKind::StartedAfresh { reason });
        }
    }

    fn unstarted(&mut self, node: &Arc<Node>, generation: u64, unstarted: Unstarted) {
        self.news.a_start_is_over();
        let Some(key) = self.key_of(node).filter(|key| self.machine.is_starting(*key, generation)) else { return };
        let Unstarted::Failed { path, reason } = unstarted.clone() else {
            self.step(Event::Ignored { key, generation });
            return;
        };
        self.unstarted = Some(unstarted);
        let reason = path.map_or_else(|| reason.clone(), |path| format!("{path}: {reason}"));
        self.step(Event::StartFailed { key, generation, reason });
        self.unstarted = self.unstarted.take().filter(|_| self.outcome.is_some() || self.machine.is_closing());
    }

    fn exited(&mut self, node: &Arc<Node>, generation: u64, exit: Exit, loss: Loss) {
        let Some(key) = self.key_of(node) else { return };
        self.tell_loss(key, generation, loss);
        self.step(Event::Exited { key, generation, exit });
    }

    fn overdue(&mut self, key: Key, generation: u64, timer: Timer) {
        let place = self.places.get(&key).filter(|place| place.node.generation() == generation);
        let has_ended = place.and_then(|place| place.node.vitals()).is_some_and(|vitals| vitals.is_gone());
        // Who has ended says so in a message that is on its way, and cannot be late any more.
        if timer == Timer::Backoff || !has_ended {
            self.step(Event::Overdue { key, generation, timer });
        }
    }

    fn tell_loss(&mut self, key: Key, generation: u64, loss: Loss) {
        if loss != Loss::default() {
            self.tell(key, generation, EventKind::Lost { handling: loss.handling, waiting: loss.waiting });
        }
    }

    fn path_of(&self, key: Key) -> String {
        self.places.get(&key).map_or_else(String::new, |place| place.node.path.as_ref().to_owned())
    }

    fn after(&self, after: Duration, message: Msg) -> Alarm {
        let myself = self.myself.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            told(&myself, message);
        });
        Alarm(task.abort_handle())
    }

    /// Ends this actor when the machine has finished. As in OTP its reason is a shutdown, also when it gave up.
    fn conclude(&mut self, myself: &ActorRef<Msg>) {
        let Some(outcome) = self.outcome.take() else { return };
        // Those who came at run time do not come back with this supervisor.
        for place in self.places.values().filter(|place| !place.is_of_the_spec) {
            place.start.give_up(&place.node, &self.shared);
        }
        if let Some(boot) = self.boot.take() {
            // The one who waited for the boot may have gone.
            let _ = boot.send(Err(self.why_not_booted(&outcome)));
        }
        if let Some(verdict) = self.verdict.get() {
            let reason = match verdict {
                Verdict::GaveUp { path, reason } => format!("it gave up on {path}: {reason}"),
                Verdict::Done { path } => format!("{path} is done"),
            };
            vitals::here(|vitals| vitals.note_exit(Exit::Shutdown(reason)));
        }
        myself.stop(None);
    }

    fn why_not_booted(&mut self, outcome: &Outcome) -> Unstarted {
        match outcome {
            Outcome::Stopped => Unstarted::because(crate::machine::CALLED_OFF),
            Outcome::Done { .. } => Unstarted::because("its significant children were done before it was up"),
            Outcome::GaveUp { key, reason } => {
                Unstarted::Failed { path: Some(self.path_of(*key)), reason: reason.clone() }
            }
            Outcome::BootFailed { key, reason } => match self.unstarted.take() {
                Some(Unstarted::Failed { path: Some(path), reason }) => Unstarted::Failed { path: Some(path), reason },
                _ => Unstarted::Failed { path: Some(self.path_of(*key)), reason: reason.clone() },
            },
        }
    }
}
