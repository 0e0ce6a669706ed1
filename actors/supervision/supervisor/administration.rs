//! What a supervisor answers to those who administrate its children. None of it counts as a restart.

use std::collections::{BTreeMap, HashSet};
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
use crate::spec::{AutoShutdown, ChildSpec, Rules, SpecError, TreeSpec};
use crate::tree::StartError;

/// A child that a change of the spec names first, and that waits until those are gone whom the change left out.
pub(super) struct Coming {
    key: Key,
    spec: ChildSpec,
    replies: Vec<Reply<Result<Started, StartError>>>,
}

impl Coming {
    fn refuse(self, path: &str) {
        for reply in self.replies {
            let reason = "a later change left it out".to_owned();
            answer(reply, Err(StartError::Child { path: path.to_owned(), reason }));
        }
    }
}

impl State {
    pub(super) fn add(&mut self, spec: ChildSpec, reply: Reply<Result<Started, StartError>>) {
        match self.check_new(&spec) {
            Ok(()) => {
                let key = self.next_key();
                self.add_checked(key, spec, false, vec![reply]);
            }
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

    fn add_checked(
        &mut self,
        key: Key,
        spec: ChildSpec,
        is_listed: bool,
        added: Vec<Reply<Result<Started, StartError>>>,
    ) {
        let charge = Charge::below(&self.blueprint.node, spec, self.rules.as_ref());
        let (node, rules) = (Arc::clone(&charge.node), Arc::clone(&charge.rules));
        let mut place = Place::new(&charge);
        (place.is_listed, place.is_of_the_spec) = (is_listed, false);
        place.asked().added = added;
        self.settle(key, place);
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
        self.changes += 1;
        let keys = self.keys_in_order(&spec);
        let (ordered, mut earlier) = (spec.nursery.is_none(), std::mem::take(&mut self.coming));
        // Nobody's list names the children of a nursery, or those that were added by hand.
        let mut leaving: Vec<Key> =
            self.places.iter().filter(|(_, place)| ordered && place.is_listed).map(|(key, _)| *key).collect();
        let mut started = Vec::new();
        for (child, new_key) in spec.children.into_iter().zip(keys) {
            let (reply, answer) = oneshot::channel();
            let Some(key) = self.keys.get(&*child.id).copied() else {
                let mut replies = vec![reply];
                if let Some(at) = earlier.iter().position(|other| other.spec.id == child.id) {
                    replies.append(&mut earlier.swap_remove(at).replies);
                }
                started.push(answer);
                self.coming.push(Coming { key: new_key, spec: child, replies });
                continue;
            };
            leaving.retain(|other| *other != key);
            self.revise(key, child);
            if self.machine.is_leaving(key) {
                started.push(answer);
                self.call_back(key, reply);
            } else if let Some(place) = self.places.get_mut(&key).filter(|place| place.is_awaited()) {
                started.push(answer);
                place.asked().added.push(reply);
            }
        }
        for other in earlier {
            let path = self.path_below(&other.spec.id);
            other.refuse(&path);
        }
        leaving.sort_unstable();
        let mut gone = Vec::new();
        for key in leaving.into_iter().rev() {
            let (reply, answer) = oneshot::channel();
            gone.push(answer);
            self.bring_down(key, reply, true);
        }
        Ok(Pending { cleared: self.wait_for(gone), started })
    }

    /// Gives the children the order of `spec`, those that it does not name after the others, and returns the keys in that order,
    /// also for those that are yet to come.
    fn keys_in_order(&mut self, spec: &TreeSpec) -> Vec<Key> {
        let named: Vec<Option<Key>> = spec.children.iter().map(|child| self.keys.get(&*child.id).copied()).collect();
        let mut others: Vec<Key> = self.places.keys().copied().filter(|key| !named.contains(&Some(*key))).collect();
        others.sort_unstable();
        let first = self.next_key;
        let slots: Vec<Option<Key>> = named.iter().copied().chain(others.into_iter().map(Some)).collect();
        self.next_key += slots.len() as Key;
        // Where there is no order, or nobody moves and nobody comes in between, everybody keeps the key.
        let stays = slots.iter().map(|known| known.unwrap_or(Key::MAX)).is_sorted();
        if spec.nursery.is_none() && !stays {
            let moves = slots.iter().zip(first..).filter_map(|(old, new)| Some(((*old)?, new))).collect();
            self.reorder(&moves);
            return (first..).take(named.len()).collect();
        }
        named.iter().zip(first..).map(|(known, new)| known.unwrap_or(new)).collect()
    }

    fn reorder(&mut self, moves: &BTreeMap<Key, Key>) {
        let anew = |key: Key| moves.get(&key).copied().unwrap_or(key);
        self.places = self.places.drain().map(|(key, place)| (anew(key), place)).collect();
        self.keys.values_mut().for_each(|key| *key = anew(*key));
        self.alarms.reorder(moves);
        self.blueprint.node.reorder(moves);
        self.step(Event::Reorder { moves: moves.clone() });
    }

    /// Waits until all of them are gone, whose ports and sockets others may take over, and says so.
    fn wait_for(&self, gone: Vec<Gone>) -> oneshot::Receiver<()> {
        let (myself, change) = (self.myself.clone(), self.changes);
        let (clear, cleared) = oneshot::channel();
        tokio::spawn(async move {
            for gone in gone {
                // A reply that is dropped says the same: the child is gone, alone or with its supervisor.
                let _ = gone.await;
            }
            told(&myself, Msg::Cleared { change });
            // Whoever made the change may have gone.
            let _ = clear.send(());
        });
        cleared
    }

    /// Starts those whom the last change of the spec named first. An earlier one has nobody left to let in.
    pub(super) fn let_in(&mut self, change: u64) {
        if change != self.changes {
            return;
        }
        for Coming { key, spec, replies } in std::mem::take(&mut self.coming) {
            match self.check_new(&spec) {
                Ok(()) => self.add_checked(key, spec, true, replies),
                Err(error) => replies.into_iter().for_each(|reply| answer(reply, Err(error.clone()))),
            }
        }
    }

    fn call_back(&mut self, key: Key, reply: Reply<Result<Started, StartError>>) {
        if let Some(place) = self.places.get_mut(&key) {
            place.asked().added.push(reply);
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
        if self.blueprint.node.is_root() && spec.children.iter().any(|child| *child.id == *self.blueprint.node.id()) {
            return Err(SpecError::NamedLikeTheRoot { id: self.path() }.into());
        }
        let kind_of = |id: &str| Some(self.places.get(self.keys.get(id)?)?.node.kind);
        let turned = |child: &&ChildSpec| kind_of(&child.id).is_some_and(|kind| kind != child.kind());
        if let Some(child) = spec.children.iter().find(turned) {
            return Err(SpecError::OtherKind { id: child.id.as_ref().to_owned() }.into());
        }
        // Of those that the spec does not name, who stays?
        let named: HashSet<&str> = spec.children.iter().map(|child| &*child.id).collect();
        let stays = |key: Key, place: &Place| {
            let is_left_out = spec.nursery.is_none() && place.is_listed || self.machine.is_leaving(key);
            !is_left_out && !named.contains(place.node.id())
        };
        let for_nothing = |(key, place): &(&Key, &Place)| place.node.rules().significant && stays(**key, place);
        match self.places.iter().filter(|_| spec.flags.auto_shutdown == AutoShutdown::Never).find(for_nothing) {
            Some((_, place)) => Err(SpecError::SignificantForNothing { id: place.node.id().to_owned() }.into()),
            None => Ok(()),
        }
    }

    /// Treats a child by new rules, and makes it in the new way from its next start on.
    fn revise(&mut self, key: Key, child: ChildSpec) {
        let Some(place) = self.places.get_mut(&key) else { return };
        let rules = Arc::new(child.rules);
        place.node.revise(Arc::clone(&rules));
        place.is_listed = true;
        if let Some(start) = blueprint::remade(&place.node, child.start) {
            place.start = start;
        }
        self.watch_stalls(child.rules.stall_after);
        self.step(Event::Revise { key, rules });
    }

    fn path_below(&self, id: &str) -> String {
        if self.blueprint.node.is_root() { id.to_owned() } else { format!("{}/{id}", self.blueprint.node.path) }
    }

    fn path(&self) -> String {
        self.blueprint.node.path.as_ref().to_owned()
    }

    fn not_found(&self, id: &str) -> ChildError {
        ChildError::NotFound { supervisor: self.path(), id: id.to_owned() }
    }
}
