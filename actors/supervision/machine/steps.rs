//! The next steps of a machine: whom a failure concerns, then down in reverse order, then up in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{
    CALLED_OFF, Effect, Errand, EventKind, Group, Key, Machine, Outcome, Phase, Restart, Shutdown, Stage, Strategy,
    Timer,
};

/// How far apart two ends may be heard that count as one.
const SAME_INSTANT: Duration = Duration::from_millis(10);

impl Machine {
    /// Restarts the child that failed, with whom the strategy says, unless that is one restart too many.
    pub(super) fn restart_or_leave(&mut self, key: Key, reason: &str, dice: f64) {
        let Some(child) = self.children.get(&key).filter(|_| !self.is_closing()) else { return };
        let (rules, failures) = (Arc::clone(&child.rules), child.failures);
        if rules.restart == Restart::Temporary {
            self.leave(key);
            return;
        }
        // A child that fails in the same instant as another joins the restart that was counted already, also when the rest has
        // risen before its end was heard. One that was started since then has failed anew, and counts.
        let takes_others = matches!(self.flags.strategy, Some(Strategy::OneForAll | Strategy::RestForOne));
        let is_same_instant = self.now.saturating_sub(self.group_since) <= SAME_INSTANT;
        let joins = takes_others && child.born_in < self.groups && is_same_instant;
        if takes_others && !joins {
            self.group_since = self.now;
            self.groups += 1;
        }
        if !joins && !self.window.admit(self.now) {
            self.give_up(key, reason.to_owned());
            return;
        }
        if !joins && failures >= rules.failures_max {
            self.give_up(key, format!("{} failures in a row, at last: {reason}", failures.saturating_add(1)));
            return;
        }
        let delay = rules.backoff.delay(failures, dice);
        self.change(key, |child| child.failures = failures.saturating_add(1));
        self.tell(key, EventKind::RestartScheduled { delay });
        match self.flags.strategy {
            Some(Strategy::OneForAll) => self.doom_from(0, delay),
            Some(Strategy::RestForOne) => self.doom_from(key, delay),
            Some(Strategy::OneForOne) | None if delay.is_zero() => {
                self.wanted.insert(key);
            }
            Some(Strategy::OneForOne) | None => {
                self.change(key, |child| child.stage = Stage::Waiting);
                self.arm(key, Timer::Backoff, delay);
            }
        }
    }

    fn give_up(&mut self, key: Key, reason: String) {
        self.effects.push(Effect::GivingUp { key, reason: reason.clone() });
        self.close(Outcome::GaveUp { key, reason });
    }

    /// Takes the children from `first` on down, to start them again in order after `delay`.
    fn doom_from(&mut self, first: Key, delay: Duration) {
        let concerned: Vec<(Key, Restart)> =
            self.children.range(first..).map(|(key, child)| (*key, child.rules.restart)).collect();
        for (key, restart) in concerned {
            self.doom(key);
            let back = restart != Restart::Temporary;
            let called_back = self.wanted.contains(&key);
            if back && self.children.get(&key).is_some_and(|child| called_back || !child.unwanted) {
                self.wanted.insert(key);
            } else {
                self.wanted.remove(&key);
            }
        }
        let delay = match self.group {
            Some(Group::TearingDown { delay: earlier } | Group::Waiting { delay: earlier, .. }) => delay.max(earlier),
            _ => delay,
        };
        self.group = Some(Group::TearingDown { delay });
    }

    /// Leaves a child down that ended by itself; where it is not expected back, it is forgotten.
    pub(super) fn leave(&mut self, key: Key) {
        self.wanted.remove(&key);
        let kept = self.children.get(&key).is_some_and(|child| {
            child.rules.restart != Restart::Temporary && self.flags.strategy.is_some() && !child.deleted
        });
        if kept {
            self.change(key, |child| child.unwanted = false);
            self.effects.push(Effect::Rest { key });
        } else {
            self.forget(key);
        }
    }

    pub(super) fn forget(&mut self, key: Key) {
        self.children.remove(&key);
        self.wanted.remove(&key);
        self.doomed.remove(&key);
        self.effects.push(Effect::Forget { key });
    }

    pub(super) fn doom(&mut self, key: Key) {
        if self.doomed.insert(key) {
            self.touched.push(key);
        }
    }

    pub(super) fn close(&mut self, outcome: Outcome) {
        if !self.is_closing() {
            self.phase = Phase::Closing(outcome);
            self.group = None;
            for key in self.children.keys().copied().collect::<Vec<Key>>() {
                self.call_off(key);
                self.doom(key);
            }
        }
    }

    /// Brings a child down that somebody asked to be down.
    pub(super) fn terminate(&mut self, key: Key, forget: bool) {
        if self.children.contains_key(&key) {
            self.change(key, |child| (child.unwanted, child.deleted) = (true, child.deleted | forget));
            self.call_off(key);
            self.doom(key);
        }
    }

    /// Gives up on a child that is to come up again.
    pub(super) fn call_off(&mut self, key: Key) {
        let awaits = |child: &super::Child| child.stage == Stage::Down && child.errand == Errand::None;
        if self.wanted.remove(&key) && self.children.get(&key).is_some_and(awaits) {
            self.tell(key, EventKind::Stopped);
        }
    }

    /// Takes the steps that are possible now.
    pub(super) fn advance(&mut self) {
        // Children that are asked to go one by one have nothing to do with each other.
        if self.flags.strategy.is_some() && (self.group.is_some() || self.is_closing()) {
            self.take_down_in_reverse();
        } else {
            self.take_down_at_once();
        }
        if !self.doomed.is_empty() && (self.group.is_some() || self.is_closing()) {
            return;
        }
        match (&self.phase, self.group) {
            (Phase::Closing(outcome), _) => {
                self.effects.push(Effect::Finished(outcome.clone()));
                self.phase = Phase::Closed;
            }
            // Also without a delay the start is an event of its own: whoever ended in the same instant is heard before it, and
            // joins this restart.
            (_, Some(Group::TearingDown { delay })) => {
                self.tokens += 1;
                self.group = Some(Group::Waiting { token: self.tokens, delay });
                self.effects.push(Effect::ArmGroup { token: self.tokens, after: delay });
            }
            _ => {}
        }
        if matches!(self.phase, Phase::Booting | Phase::Serving) {
            self.bring_up();
        }
    }

    /// Asks doomed children to stop, the last one first and alone.
    fn take_down_in_reverse(&mut self) {
        self.touched.clear();
        while let Some(key) = self.doomed.last().copied() {
            if !self.is_down(key) {
                return;
            }
        }
    }

    /// Asks doomed children to stop, all at once.
    fn take_down_at_once(&mut self) {
        while let Some(key) = self.touched.pop() {
            if self.doomed.contains(&key) {
                self.is_down(key);
            }
        }
    }

    /// Asks a doomed child to stop unless it was asked already, and returns whether it is down.
    fn is_down(&mut self, key: Key) -> bool {
        let Some(child) = self.children.get(&key) else {
            self.doomed.remove(&key);
            return true;
        };
        let (generation, shutdown) = (child.generation, child.rules.shutdown);
        match child.stage {
            Stage::Down => self.settle(key, false),
            Stage::Waiting => {
                self.change(key, |child| child.stage = Stage::Down);
                self.effects.push(Effect::Disarm { key });
                self.settle(key, true);
            }
            Stage::Starting { cancelled: false } => {
                self.change(key, |child| child.stage = Stage::Starting { cancelled: true });
                self.effects.push(Effect::CancelStart { key, generation });
            }
            Stage::Up { .. } if shutdown == Shutdown::Brutal => self.kill(key),
            Stage::Up { .. } => {
                let now = self.now;
                self.change(key, |child| {
                    child.forgive(now);
                    child.stage = Stage::Stopping;
                });
                self.effects.push(Effect::Stop { key, generation });
                if let Shutdown::Within(after) = shutdown {
                    self.arm(key, Timer::Stop, after);
                }
            }
            Stage::Starting { cancelled: true } | Stage::Stopping | Stage::Killing => {}
        }
        !self.doomed.contains(&key)
    }

    /// Closes the case of a doomed child that is down.
    fn settle(&mut self, key: Key, was_waiting: bool) {
        self.doomed.remove(&key);
        if self.wanted.contains(&key) {
            if self.children.get(&key).is_some_and(|child| child.unwanted) {
                // It was called back, but not before whoever wanted it down has seen it down.
                self.change(key, |child| child.unwanted = false);
                self.effects.push(Effect::Rest { key });
            }
            return;
        }
        if was_waiting {
            self.tell(key, EventKind::Stopped);
        }
        self.answer(key, Err(CALLED_OFF));
        let Some(child) = self.children.get_mut(&key) else { return };
        let added = child.errand == Errand::Add;
        child.errand = Errand::None;
        child.deleted |= added;
        self.leave(key);
    }

    /// Starts wanted children: the next one alone at boot and in a group restart, otherwise each on its own.
    fn bring_up(&mut self) {
        let one_by_one = match self.group {
            Some(Group::Rising) => true,
            Some(_) => return,
            None => self.phase == Phase::Booting && self.flags.strategy.is_some(),
        };
        while let Some(key) = self.wanted.iter().find(|key| !self.doomed.contains(key)).copied() {
            if one_by_one && self.rising.is_some() {
                return;
            }
            self.launch(key);
            self.rising = one_by_one.then_some(key);
        }
        if one_by_one && self.rising.is_some() {
            return;
        }
        if one_by_one {
            self.group = None;
        }
        if self.phase == Phase::Booting {
            self.phase = Phase::Serving;
            self.effects.push(Effect::Booted);
        }
    }

    fn launch(&mut self, key: Key) {
        self.wanted.remove(&key);
        let Some(child) = self.children.get_mut(&key) else { return };
        child.generation += 1;
        child.born_in = self.groups;
        child.stage = Stage::Starting { cancelled: false };
        let (generation, rules) = (child.generation, Arc::clone(&child.rules));
        self.effects.push(Effect::Start { key, generation });
        if let Some(limit) = rules.start_within {
            // The start waits for a former incarnation to die, and ends itself at its limit. Only one that blocks its thread
            // cannot, and is given the same grace as a kill.
            let after = limit.saturating_add(rules.kill_within.saturating_mul(2));
            self.arm(key, Timer::Start, after);
        }
    }

    pub(super) fn kill(&mut self, key: Key) {
        let Some(child) = self.children.get_mut(&key) else { return };
        child.forgive(self.now);
        child.stage = Stage::Killing;
        let (generation, after) = (child.generation, child.rules.kill_within);
        self.effects.push(Effect::Kill { key, generation });
        self.arm(key, Timer::Kill, after);
    }

    pub(super) fn abandon(&mut self, key: Key) {
        let Some(child) = self.children.get(&key) else { return };
        self.effects.push(Effect::Abandon { key, generation: child.generation });
        self.tell(key, EventKind::Leaked);
    }

    fn arm(&mut self, key: Key, timer: Timer, after: Duration) {
        let Some(child) = self.children.get(&key) else { return };
        self.effects.push(Effect::Arm { key, generation: child.generation, timer, after });
    }

    pub(super) fn tell(&mut self, key: Key, kind: EventKind) {
        let Some(child) = self.children.get(&key) else { return };
        self.effects.push(Effect::Tell { key, generation: child.generation, kind });
    }

    /// Answers whoever started the child by hand.
    pub(super) fn answer(&mut self, key: Key, answer: Result<(), &str>) {
        if self.children.get(&key).is_some_and(super::Child::is_by_hand) {
            self.effects.push(Effect::Answer { key, answer: answer.map_err(str::to_owned) });
        }
    }

    /// Gives children other keys, and with them other places in the order.
    pub(super) fn reorder(&mut self, moves: &BTreeMap<Key, Key>) {
        let anew = |key: Key| moves.get(&key).copied().unwrap_or(key);
        self.children = std::mem::take(&mut self.children).into_iter().map(|(key, child)| (anew(key), child)).collect();
        self.doomed = std::mem::take(&mut self.doomed).into_iter().map(anew).collect();
        self.wanted = std::mem::take(&mut self.wanted).into_iter().map(anew).collect();
        self.touched.iter_mut().for_each(|key| *key = anew(*key));
        self.rising = self.rising.map(anew);
    }

    /// Returns the child if this is its current generation.
    pub(super) fn at(&self, key: Key, generation: u64) -> Option<&super::Child> {
        self.children.get(&key).filter(|child| child.generation == generation)
    }
}
