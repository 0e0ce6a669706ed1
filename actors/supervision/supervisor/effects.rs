//! What the machine wants done, done.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use super::place::{Place, attend};
use super::{Msg, State, Verdict, answer};
use crate::branch::Kind;
use crate::control::{ChildError, Started};
use crate::event::{EventKind, Exit};
use crate::launch::{Launch, told};
use crate::machine::{Effect, Key, Timer};
use crate::spec::Shutdown;
use crate::tree::StartError;
use crate::vitals::Vitals;

impl State {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start { key, generation } => self.start(key, generation),
            Effect::CancelStart { key, .. } => self.at(key, Place::call_off),
            Effect::Stop { key, .. } => self.at(key, Place::stop),
            Effect::Kill { key, .. } => {
                // One that is killed because its spec says so did not have to be.
                if let Some(place) = self.places.get(&key)
                    && place.node.rules().shutdown != Shutdown::Brutal
                {
                    self.shared.note_kill(&place.node);
                }
                self.at(key, Place::kill);
            }
            Effect::Arm { key, generation, timer, after } => self.arm(key, generation, timer, after),
            Effect::Disarm { key } => self.alarms.disarm(key),
            Effect::ArmGroup { token, after } if after.is_zero() => told(&self.myself, Msg::GroupDue { token }),
            Effect::ArmGroup { token, after } => {
                self.group_due = Some(self.after(after, Msg::GroupDue { token }));
            }
            Effect::Tell { key, generation, kind } => self.show(key, generation, kind),
            Effect::Answer { key, answer } => self.answer_start(key, answer),
            Effect::GivingUp { key, reason } => self.giving_up(key, reason),
            Effect::ShuttingDown { key } => self.shutting_down(key),
            Effect::Abandon { key, .. } => self.abandon(key),
            Effect::Rest { key } => self.rest(key),
            Effect::Forget { key } => self.forget(key),
            Effect::Booted => {
                if let Some(boot) = self.boot.take() {
                    // Who subscribes now hears what comes, not who came up before.
                    self.news.tell();
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
        let vitals = Arc::new(Vitals::new(Arc::clone(&self.shared.clock)));
        let former = place.node.begin(generation, Arc::clone(&vitals));
        let rules = place.node.rules();
        let launch = Launch { vitals, limit: rules.start_within, shared: Arc::clone(&self.shared) };
        let supervisor = self.myself.clone();
        let (nursery, limit) = (self.blueprint.nursery.clone(), rules.stall_after);
        let made = (Arc::clone(&place.node), Arc::clone(&place.start));
        tokio::spawn(attend(generation, made, launch, former, supervisor, nursery));
        self.news.a_start_is_due();
        self.watch_stalls(limit);
    }

    fn arm(&mut self, key: Key, generation: u64, timer: Timer, after: Duration) {
        // A supervisor never blocks, and is up or down when all below it is, or was given up. Those have limits of their own.
        let is_supervisor = self.places.get(&key).is_some_and(|place| place.node.kind != Kind::Actor);
        if is_supervisor && matches!(timer, Timer::Kill | Timer::Start) {
            self.alarms.disarm(key);
            return;
        }
        self.set_alarm(key, generation, timer, after);
    }

    fn show(&mut self, key: Key, generation: u64, kind: EventKind) {
        let down = matches!(
            kind,
            EventKind::Failed { .. }
                | EventKind::StartFailed { .. }
                | EventKind::ShutdownFailed { .. }
                | EventKind::Stopped
        );
        if let Some(place) = self.places.get(&key).filter(|place| down && place.node.kind != Kind::Actor) {
            place.node.hush();
        }
        // The machine knows how a child ended, and its vital signs where it was then.
        let at = || self.places.get(&key)?.node.vitals()?.ended_at();
        let kind = match kind {
            EventKind::Failed { reason, .. } => EventKind::Failed { reason, handling: at() },
            EventKind::ShutdownFailed { reason, .. } => EventKind::ShutdownFailed { reason, handling: at() },
            other => other,
        };
        self.tell(key, generation, kind);
    }

    fn answer_start(&mut self, key: Key, outcome: Result<(), String>) {
        let Some(place) = self.places.get_mut(&key) else { return };
        let id = place.node.id().to_owned();
        let info = place.node.vitals().and_then(|vitals| vitals.noted(|notes| notes.info.take()));
        let outcome = outcome.map(|()| Started { id: id.clone(), actor: place.node.cell(), info });
        let added = std::mem::take(&mut place.asked().added);
        if !added.is_empty() {
            // What failed below a supervisor is named by its own path.
            let failure = |reason| match self.unstarted.clone() {
                Some(crate::launch::Unstarted::Failed { path: Some(path), reason }) => {
                    StartError::Child { path, reason }
                }
                _ => StartError::Child { path: place.node.path.as_ref().to_owned(), reason },
            };
            let outcome = outcome.map_err(failure);
            for added in added {
                let outcome = outcome.clone();
                self.answers.push(Box::new(move || answer(added, outcome)));
            }
        } else if let Some(restarted) = place.asked().restarted.take() {
            let outcome = outcome.map_err(|reason| ChildError::NotStarted { id, reason });
            self.answers.push(Box::new(move || answer(restarted, outcome)));
        }
    }

    fn rest(&mut self, key: Key) {
        let Some(place) = self.places.get_mut(&key) else { return };
        place.node.rest();
        for terminated in place.terminated() {
            self.answers.push(Box::new(move || answer(terminated, Ok(()))));
        }
    }

    fn forget(&mut self, key: Key) {
        self.rest(key);
        let Some(place) = self.places.remove(&key) else { return };
        self.alarms.disarm(key);
        self.blueprint.node.disown(key);
        // Whom the spec of a supervisor names comes back with it, if it comes back.
        if !(place.is_of_the_spec && self.machine.is_closing()) {
            self.news.tell();
            place.start.give_up(&place.node, &self.shared);
        }
        let id = place.node.id();
        if self.keys.get(id) == Some(&key) {
            self.keys.remove(id);
        }
        // What it was made from belongs to whoever wrote the spec, and may panic when it goes.
        if panic::catch_unwind(AssertUnwindSafe(|| drop(place))).is_err() {
            tracing::error!("what a child was made from panicked while it was dropped");
        }
    }

    fn abandon(&mut self, key: Key) {
        let Some(place) = self.places.get_mut(&key) else { return };
        let Some(vitals) = place.node.vitals() else { return };
        let node = Arc::clone(&place.node);
        vitals.note_exit(Exit::Failed("it blocks its thread and was given up".to_owned()));
        vitals.retire();
        let (generation, loss) = (node.generation(), vitals.loss());
        self.tell_loss(key, generation, loss);
        // From here on nobody speaks of its end again, also when it comes free one day.
        if vitals.settle()
            && node.cell().is_some()
            && let (Some(nursery), Some(exit)) = (&self.blueprint.nursery, vitals.exit())
        {
            nursery.report(node.id(), &exit);
        }
        vitals.abandon();
    }

    fn giving_up(&mut self, key: Key, reason: String) {
        let path = self.path_of(key);
        self.tell_of_itself(EventKind::GaveUp { reason: format!("{path}: {reason}") });
        // A supervisor ends once, so the cell is empty.
        let _ = self.verdict.set(Verdict::GaveUp { path, reason });
    }

    fn shutting_down(&mut self, key: Key) {
        let path = self.path_of(key);
        self.tell_of_itself(EventKind::AutoShutdown);
        let _ = self.verdict.set(Verdict::Done { path });
    }
}
