//! What a supervisor answers to those who administrate its children. None of it counts as a restart.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::place::Place;
use super::{Msg, State, answer};
use crate::blueprint::{self, Charge};
use crate::branch::Kind;
use crate::control::{Child, ChildError, Count, Gone, Pending, Presence, Reply, Started};
use crate::launch::told;
use crate::machine::{Event, Key, Stand};
use crate::socket::Down;
use crate::spec::{ChildSpec, Rules, SpecError, TreeSpec};
use crate::tree::StartError;

impl State {
    pub(super) fn add(&mut self, spec: ChildSpec, is_listed: bool, reply: Reply<Result<Started, StartError>>) {
        match self.check_new(&spec) {
            Ok(()) => self.add_checked(spec, is_listed, reply),
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn check_new(&self, spec: &ChildSpec) -> Result<(), StartError> {
        spec.check(&self.machine.flags())?;
        if self.blueprint.node.is_root() && *spec.id == *self.blueprint.node.id() {
            return Err(SpecError::NamedLikeTheRoot { id: spec.id.as_ref().to_owned() }.into());
        }
        if let Some(key) = self.keys.get(&*spec.id) {
            let (supervisor, id) = (self.path(), spec.id.as_ref().to_owned());
            return Err(match self.presence(*key) {
                Presence::Up(actor) => StartError::AlreadyStarted { supervisor, id, actor: Some(actor) },
                Presence::Starting | Presence::Restarting => StartError::AlreadyStarted { supervisor, id, actor: None },
                Presence::Down => StartError::AlreadyPresent { supervisor, id },
            });
        }
        if self.machine.is_closing() {
            return Err(Down::Absent { room: self.path() }.into());
        }
        Ok(())
    }

    fn add_checked(&mut self, spec: ChildSpec, is_listed: bool, added: Reply<Result<Started, StartError>>) {
        let charge = Charge::below(&self.blueprint.node, spec, self.rules.as_ref());
        let (node, rules) = (Arc::clone(&charge.node), Arc::clone(&charge.rules));
        let mut place = Place::new(&charge);
        place.is_listed = is_listed;
        place.asked().added = Some(added);
        let key = self.settle(place);
        self.blueprint.node.adopt(key, node);
        self.step(Event::Add { key, rules });
    }

    pub(super) fn terminate(&mut self, id: &str, reply: Reply<Result<(), ChildError>>) {
        let Some(key) = self.keys.get(id).copied() else {
            answer(reply, Err(self.not_found(id)));
            return;
        };
        self.bring_down(key, reply, false);
    }

    fn bring_down(&mut self, key: Key, reply: Reply<Result<(), ChildError>>, forget: bool) {
        if let Some(place) = self.places.get_mut(&key) {
            place.asked().terminated.push(reply);
        }
        self.step(Event::Terminate { key, forget });
    }

    pub(super) fn restart(&mut self, id: &str, reply: Reply<Result<Started, ChildError>>) {
        match self.resting(id) {
            Ok(key) => {
                if let Some(place) = self.places.get_mut(&key) {
                    place.asked().restarted = Some(reply);
                }
                self.step(Event::Restart { key });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    pub(super) fn delete(&mut self, id: &str, reply: Reply<Result<(), ChildError>>) {
        match self.resting(id) {
            Ok(key) => self.bring_down(key, reply, true),
            Err(error) => answer(reply, Err(error)),
        }
    }

    /// Returns the child that is down under this id, or why there is none.
    fn resting(&self, id: &str) -> Result<Key, ChildError> {
        if self.machine.is_closing() {
            return Err(Down::Absent { room: self.path() }.into());
        }
        if self.machine.flags().strategy.is_none() {
            return Err(ChildError::Dynamic { supervisor: self.path() });
        }
        let key = self.keys.get(id).copied().ok_or_else(|| self.not_found(id))?;
        match self.machine.stand(key) {
            Stand::Down => Ok(key),
            Stand::Up => Err(ChildError::Running { id: id.to_owned() }),
            Stand::Starting | Stand::Restarting => Err(ChildError::Restarting { id: id.to_owned() }),
        }
    }

    pub(super) fn which(&self) -> Vec<Child> {
        let mut keys: Vec<&Key> = self.places.keys().collect();
        keys.sort_unstable();
        let child = |key: &Key| {
            let node = &self.places.get(key)?.node;
            Some(Child { id: node.id().to_owned(), kind: node.kind, presence: self.presence(*key) })
        };
        keys.into_iter().filter_map(child).collect()
    }

    fn presence(&self, key: Key) -> Presence {
        let cell = self.places.get(&key).and_then(|place| place.node.cell());
        match (self.machine.stand(key), cell) {
            (Stand::Up, Some(cell)) => Presence::Up(cell),
            (Stand::Starting, _) => Presence::Starting,
            (Stand::Restarting, _) => Presence::Restarting,
            (Stand::Up | Stand::Down, _) => Presence::Down,
        }
    }

    pub(super) fn count(&self) -> Count {
        let mut count = Count { specs: self.places.len(), ..Count::default() };
        for (key, place) in &self.places {
            // An actor may be gone although its end was not heard yet.
            let is_gone = place.node.vitals().is_none_or(|vitals| vitals.is_gone());
            count.active += usize::from(self.machine.stand(*key) == Stand::Up && !is_gone);
            if place.node.kind == Kind::Actor {
                count.workers += 1;
            } else {
                count.supervisors += 1;
            }
        }
        count
    }

    pub(super) fn rules(&self, id: &str) -> Result<Rules, ChildError> {
        let place = self.keys.get(id).and_then(|key| self.places.get(key));
        place.map(|place| *place.node.rules()).ok_or_else(|| self.not_found(id))
    }

    /// Becomes what `spec` says, or stays as it is.
    pub(super) fn reconfigure(&mut self, spec: TreeSpec) -> Result<Pending, StartError> {
        self.check_change(&spec)?;
        self.step(Event::Reflag { flags: spec.flags });
        // Nobody's list names the children of a nursery, or those that were added by hand.
        let is_listed = |place: &Place| place.is_listed && spec.nursery.is_none();
        let mut leaving: Vec<Key> =
            self.places.iter().filter(|(_, place)| is_listed(place)).map(|(key, _)| *key).collect();
        let (mut started, mut coming) = (Vec::new(), Vec::new());
        for child in spec.children {
            let (reply, answer) = oneshot::channel();
            let Some(key) = self.keys.get(&*child.id).copied() else {
                started.push(answer);
                coming.push((child, reply));
                continue;
            };
            leaving.retain(|other| *other != key);
            self.revise(key, child);
            if self.machine.is_leaving(key) {
                started.push(answer);
                self.call_back(key, reply);
            }
        }
        leaving.sort_unstable();
        let mut gone = Vec::new();
        for key in leaving.into_iter().rev() {
            let (reply, answer) = oneshot::channel();
            gone.push(answer);
            self.bring_down(key, reply, true);
        }
        self.add_after(gone, coming);
        Ok(Pending { started })
    }

    /// Starts children when others are gone, whose ports and sockets they may take over.
    fn add_after(&self, gone: Vec<Gone>, coming: Vec<(ChildSpec, Reply<Result<Started, StartError>>)>) {
        let myself = self.myself.clone();
        tokio::spawn(async move {
            for gone in gone {
                // A reply that is dropped says the same: the child is gone, alone or with its supervisor.
                let _ = gone.await;
            }
            for (spec, reply) in coming {
                told(&myself, Msg::Add { spec: Box::new(spec), is_listed: true, reply });
            }
        });
    }

    fn call_back(&mut self, key: Key, reply: Reply<Result<Started, StartError>>) {
        if let Some(place) = self.places.get_mut(&key) {
            place.asked().added = Some(reply);
        }
        self.step(Event::Recall { key });
    }

    fn check_change(&self, spec: &TreeSpec) -> Result<(), StartError> {
        if self.machine.is_closing() {
            return Err(Down::Absent { room: self.path() }.into());
        }
        if spec.flags.strategy.is_some() != self.machine.flags().strategy.is_some() {
            return Err(SpecError::OtherOrder { supervisor: self.path() }.into());
        }
        let kind_of = |id: &str| Some(self.places.get(self.keys.get(id)?)?.node.kind);
        let turned = |child: &&ChildSpec| kind_of(&child.id).is_some_and(|kind| kind != child.kind());
        match spec.children.iter().find(turned) {
            Some(child) => Err(SpecError::OtherKind { id: child.id.as_ref().to_owned() }.into()),
            None => Ok(()),
        }
    }

    /// Treats a child by new rules, and makes it in the new way from its next start on.
    fn revise(&mut self, key: Key, child: ChildSpec) {
        let Some(place) = self.places.get_mut(&key) else { return };
        let rules = Arc::new(child.rules);
        place.node.revise(Arc::clone(&rules));
        if let Some(start) = blueprint::remade(&place.node, child.start) {
            place.start = start;
        }
        self.watch_stalls(child.rules.stall_after);
        self.step(Event::Revise { key, rules });
    }

    fn path(&self) -> String {
        self.blueprint.node.path.as_ref().to_owned()
    }

    fn not_found(&self, id: &str) -> ChildError {
        ChildError::NotFound { supervisor: self.path(), id: id.to_owned() }
    }
}
