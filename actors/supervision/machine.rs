//! What a supervisor decides: a pure state machine from events to effects.
//!
//! It knows children by their place and generation, and nothing of actors, tasks or clocks. Time, and one random number for
//! the jitter, come in with each event. Every effect that will be answered later carries the generation it was meant for, and
//! so does the answer: what comes back for a generation that is over changes nothing.
//!
//! A child that has to come down is *doomed*, one that has to come up is *wanted*; [`Machine::advance`] looks at both marks
//! after each event and takes the next steps that the order of the children allows.

use std::time::Duration;

use crate::event::{EventKind, Exit};
use crate::pace::Window;
use crate::spec::{Intensity, Restart, Rules, Shutdown, Strategy};

mod vocabulary;

mod steps;

#[cfg(test)]
mod tests;

pub(crate) use vocabulary::{BLOCKED_START, Effect, Event, Key, Order, Outcome, Timer};

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Down,
    Starting {
        cancelled: bool,
    },
    Up {
        since: Duration,
    },
    Stopping,
    Killing,
    /// Down, until its back-off is over.
    Waiting,
}

#[derive(Debug)]
struct Child {
    key: Key,
    rules: Rules,
    generation: u64,
    stage: Stage,
    wanted: bool,
    doomed: bool,
    /// Failures in a row.
    failures: u32,
}

impl Child {
    fn new(key: Key, rules: Rules, generation: u64) -> Self {
        Child { key, rules, generation, stage: Stage::Down, wanted: false, doomed: false, failures: 0 }
    }

    fn is_alive(&self) -> bool {
        !matches!(self.stage, Stage::Down | Stage::Waiting)
    }

    /// Forgets earlier failures if the child has been up for long enough.
    fn forgive(&mut self, now: Duration) {
        if let Stage::Up { since } = self.stage
            && now.saturating_sub(since) >= self.rules.backoff.healthy_after
        {
            self.failures = 0;
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Booting,
    Serving,
    Closing(Outcome),
    Closed,
}

/// A restart of several children at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    TearingDown { delay: Duration },
    Waiting { token: u64 },
    Rising,
}

#[derive(Debug)]
pub(crate) struct Machine {
    order: Order,
    window: Window,
    children: Vec<Child>,
    phase: Phase,
    group: Option<Group>,
    tokens: u64,
    now: Duration,
    effects: Vec<Effect>,
}

impl Machine {
    /// Returns a machine whose `children` are down; each comes with the generation it last had.
    pub(crate) fn new(order: Order, intensity: Intensity, children: Vec<(Key, Rules, u64)>) -> Self {
        let children =
            children.into_iter().map(|(key, rules, generation)| Child::new(key, rules, generation)).collect();
        Machine {
            order,
            window: Window::new(intensity),
            children,
            phase: Phase::Booting,
            group: None,
            tokens: 0,
            now: Duration::ZERO,
            effects: Vec::new(),
        }
    }

    /// Returns whether an answer to this start is still wanted.
    pub(crate) fn is_starting(&self, key: Key, generation: u64) -> bool {
        let starting = |child: &Child| matches!(child.stage, Stage::Starting { .. });
        self.find(key, generation).is_some_and(|index| starting(&self.children[index]))
    }

    /// Returns whether this generation is up, and nobody is about to take it down.
    pub(crate) fn is_up(&self, key: Key, generation: u64) -> bool {
        let up = |child: &Child| matches!(child.stage, Stage::Up { .. }) && !child.doomed;
        self.find(key, generation).is_some_and(|index| up(&self.children[index]))
    }

    /// Returns whether nothing is started any more.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_) | Phase::Closed)
    }

    /// Takes in `event` at `now`, which never runs backwards; `dice` is a random number from 0 to 1 for the jitter.
    pub(crate) fn on(&mut self, now: Duration, dice: f64, event: Event) -> Vec<Effect> {
        self.now = now;
        if self.phase != Phase::Closed {
            self.take(dice, event);
            self.advance();
        }
        std::mem::take(&mut self.effects)
    }

    fn take(&mut self, dice: f64, event: Event) {
        match event {
            Event::Boot => self.children.iter_mut().for_each(|child| child.wanted = true),
            Event::Started { key, generation } => self.started(key, generation),
            Event::StartFailed { key, generation, reason } => {
                if let Some(index) = self.find(key, generation) {
                    self.start_failed(index, reason, dice);
                }
            }
            Event::Exited { key, generation, exit } => {
                if let Some(index) = self.find(key, generation) {
                    self.exited(index, &exit, dice);
                }
            }
            Event::Stalled { key, generation, silent } => self.stalled(key, generation, silent),
            Event::Overdue { key, generation, timer } => {
                if let Some(index) = self.find(key, generation) {
                    self.overdue(index, timer, dice);
                }
            }
            Event::GroupDue { token } => {
                if self.group == Some(Group::Waiting { token }) {
                    self.group = Some(Group::Rising);
                }
            }
            Event::Add { key, rules } => {
                self.children.push(Child { wanted: true, ..Child::new(key, rules, 0) });
            }
            Event::Terminate { key } => {
                if let Some(child) = self.children.iter_mut().find(|child| child.key == key) {
                    child.doomed = true;
                    child.wanted = false;
                }
            }
            Event::Shutdown => self.close(Outcome::Stopped),
        }
    }

    fn find(&self, key: Key, generation: u64) -> Option<usize> {
        self.children.iter().position(|child| child.key == key && child.generation == generation)
    }

    fn started(&mut self, key: Key, generation: u64) {
        let Some(index) = self.find(key, generation) else { return };
        let child = &mut self.children[index];
        if matches!(child.stage, Stage::Starting { .. }) {
            child.stage = Stage::Up { since: self.now };
            self.effects.push(Effect::Disarm { key });
            self.tell(index, EventKind::Started);
        }
    }

    fn start_failed(&mut self, index: usize, reason: String, dice: f64) {
        let child = &mut self.children[index];
        let Stage::Starting { cancelled } = child.stage else { return };
        let key = child.key;
        child.stage = Stage::Down;
        self.effects.push(Effect::Disarm { key });
        if cancelled {
            self.tell(index, EventKind::Stopped);
            return;
        }
        self.tell(index, EventKind::Failed { reason: reason.clone() });
        match (&self.phase, self.order) {
            // A child that never came up at boot is the caller's business: undo and say so. It is not retried.
            (Phase::Booting, Order::Static(_)) => {
                self.children[index].wanted = false;
                self.close(Outcome::BootFailed { key, reason });
            }
            (Phase::Closing(_) | Phase::Closed, _) => {}
            _ => self.restart_or_leave(index, &reason, dice),
        }
    }

    fn exited(&mut self, index: usize, exit: &Exit, dice: f64) {
        let child = &mut self.children[index];
        let key = child.key;
        if matches!(child.stage, Stage::Down | Stage::Waiting | Stage::Starting { .. }) {
            return;
        }
        child.forgive(self.now);
        child.stage = Stage::Down;
        self.effects.push(Effect::Disarm { key });
        let child = &self.children[index];
        // A child that is killed by its spec is down as wished; whatever else it says on the way out is worth telling.
        let as_wished = child.doomed && child.rules.shutdown == Shutdown::Brutal && *exit == Exit::Killed;
        if exit.is_normal() || as_wished {
            self.tell(index, EventKind::Stopped);
        } else {
            self.tell(index, EventKind::Failed { reason: exit.to_string() });
        }
        let child = &self.children[index];
        if child.doomed || matches!(self.phase, Phase::Closing(_)) {
            return;
        }
        let again = match child.rules.restart {
            Restart::Permanent => true,
            Restart::Transient => !exit.is_normal(),
            Restart::Temporary => false,
        };
        if again {
            self.restart_or_leave(index, &exit.to_string(), dice);
        } else {
            self.leave(index);
        }
    }

    fn stalled(&mut self, key: Key, generation: u64, silent: Duration) {
        let Some(index) = self.find(key, generation) else { return };
        // One that is about to be taken down gets its time to stop like the others, in its turn.
        if self.is_up(key, generation) {
            self.children[index].forgive(self.now);
            self.tell(index, EventKind::Stalled { silent });
            self.kill(index);
        }
    }

    fn overdue(&mut self, index: usize, timer: Timer, dice: f64) {
        let stage = self.children[index].stage.clone();
        match (timer, stage) {
            (Timer::Stop, Stage::Stopping) => self.kill(index),
            (Timer::Backoff, Stage::Waiting) => self.children[index].stage = Stage::Down,
            (Timer::Start, Stage::Starting { .. }) => {
                self.abandon(index);
                self.start_failed(index, BLOCKED_START.to_owned(), dice);
            }
            (Timer::Kill, Stage::Killing) => {
                self.abandon(index);
                let exit = Exit::Failed("it blocks its thread and did not answer its kill".to_owned());
                self.exited(index, &exit, dice);
            }
            // The step that this timer guarded is over.
            _ => {}
        }
    }

    /// Restarts the child that failed, with whom the strategy says, unless that is one restart too many.
    fn restart_or_leave(&mut self, index: usize, reason: &str, dice: f64) {
        let child = &self.children[index];
        if child.doomed {
            return;
        }
        if child.rules.restart == Restart::Temporary {
            self.leave(index);
            return;
        }
        // A child that fails while its siblings are being taken down anyway joins the restart that was counted already.
        let joins = matches!(self.group, Some(Group::TearingDown { .. } | Group::Waiting { .. }));
        if !joins && !self.window.admit(self.now) {
            let key = child.key;
            self.effects.push(Effect::GivingUp { key, reason: reason.to_owned() });
            self.close(Outcome::GaveUp { key, reason: reason.to_owned() });
            return;
        }
        let child = &mut self.children[index];
        let delay = child.rules.backoff.delay(child.failures, dice);
        child.failures = child.failures.saturating_add(1);
        child.wanted = true;
        self.tell(index, EventKind::RestartScheduled { delay });
        match self.order {
            Order::Static(Strategy::OneForAll) => self.doom_from(0, delay),
            Order::Static(Strategy::RestForOne) => self.doom_from(index, delay),
            Order::Static(Strategy::OneForOne) | Order::Dynamic => self.wait(index, delay),
        }
    }

    fn wait(&mut self, index: usize, delay: Duration) {
        if !delay.is_zero() {
            let child = &mut self.children[index];
            child.stage = Stage::Waiting;
            let (key, generation) = (child.key, child.generation);
            self.effects.push(Effect::Arm { key, generation, timer: Timer::Backoff, after: delay });
        }
    }

    /// Takes the children from `first` on down, to start them again in order after `delay`.
    fn doom_from(&mut self, first: usize, delay: Duration) {
        for child in &mut self.children[first..] {
            child.doomed = true;
            child.wanted = child.rules.restart != Restart::Temporary;
        }
        let delay = match self.group {
            Some(Group::TearingDown { delay: earlier }) => delay.max(earlier),
            _ => delay,
        };
        self.group = Some(Group::TearingDown { delay });
    }

    fn leave(&mut self, index: usize) {
        self.children[index].wanted = false;
        if self.children[index].rules.restart == Restart::Temporary {
            let key = self.children.remove(index).key;
            self.effects.push(Effect::Forget { key });
        }
    }

    fn close(&mut self, outcome: Outcome) {
        if matches!(self.phase, Phase::Booting | Phase::Serving) {
            self.phase = Phase::Closing(outcome);
            self.group = None;
            for index in 0..self.children.len() {
                let child = &mut self.children[index];
                let awaited = child.stage == Stage::Down && child.wanted && child.failures > 0;
                child.doomed = true;
                child.wanted = false;
                if awaited {
                    self.tell(index, EventKind::Stopped);
                }
            }
        }
    }
}
