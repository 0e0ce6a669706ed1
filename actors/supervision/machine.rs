//! What a supervisor decides: a pure state machine from events to effects.
//!
//! It knows children by their place and generation, and nothing of actors, tasks or clocks. Time, and one random number for
//! the jitter, come in with each event. Every effect that will be answered later carries the generation it was meant for, and
//! so does the answer: what comes back for a generation that is over changes nothing.
//!
//! A child that has to come down is *doomed*, one that has to come up is *wanted*; [`Machine::advance`] looks at both sets
//! after each event and takes the next steps that the order of the children allows. Whatever an event costs, it costs no more
//! with many children than with few, unless it concerns them all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::event::{EventKind, Exit};
use crate::pace::Window;
use crate::spec::{AutoShutdown, Flags, Restart, Rules, Shutdown, Strategy};

mod vocabulary;

mod steps;

#[cfg(test)]
mod tests;

pub(crate) use vocabulary::{BLOCKED_START, CALLED_OFF, Effect, Event, Key, Outcome, Stand, Timer};

#[derive(Clone, Copy, Debug, PartialEq)]
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

/// Who wants to know how a start goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    /// Nobody: it is a restart.
    None,
    Boot,
    Add,
    Restart,
}

#[derive(Debug)]
struct Child {
    rules: Arc<Rules>,
    generation: u64,
    stage: Stage,
    errand: Errand,
    /// Whether somebody has asked for it to be down.
    unwanted: bool,
    /// Whether it is forgotten once it is down.
    deleted: bool,
    /// Failures in a row.
    failures: u32,
    /// How many restarts of a group had begun when its current incarnation was started.
    born_in: u64,
}

impl Child {
    fn new(rules: Arc<Rules>, generation: u64, errand: Errand) -> Self {
        let stage = Stage::Down;
        Child { rules, generation, stage, errand, unwanted: false, deleted: false, failures: 0, born_in: 0 }
    }

    fn is_alive(&self) -> bool {
        !matches!(self.stage, Stage::Down | Stage::Waiting)
    }

    fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. })
    }

    fn is_by_hand(&self) -> bool {
        matches!(self.errand, Errand::Add | Errand::Restart)
    }

    /// Forgets earlier failures if the child has been up for long enough; to be asked before its stage says otherwise.
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
    Waiting { token: u64, delay: Duration },
    Rising,
}

#[derive(Debug)]
pub(crate) struct Machine {
    flags: Flags,
    window: Window,
    children: BTreeMap<Key, Child>,
    doomed: BTreeSet<Key>,
    /// The doomed ones whose turn to be looked at has come, where there is no order among them.
    touched: Vec<Key>,
    wanted: BTreeSet<Key>,
    /// The one that is being started, where they start one by one.
    rising: Option<Key>,
    phase: Phase,
    group: Option<Group>,
    /// When the failure came that began the restart of the group, and how many such restarts there were.
    group_since: Duration,
    groups: u64,
    tokens: u64,
    now: Duration,
    effects: Vec<Effect>,
}

impl Machine {
    /// Returns a machine whose `children` are down; each comes with the generation it last had.
    pub(crate) fn new(flags: Flags, children: Vec<(Key, Arc<Rules>, u64)>) -> Self {
        let boot = |(key, rules, generation)| (key, Child::new(rules, generation, Errand::Boot));
        Machine {
            flags,
            window: Window::new(flags.intensity),
            children: children.into_iter().map(boot).collect(),
            doomed: BTreeSet::new(),
            touched: Vec::new(),
            wanted: BTreeSet::new(),
            rising: None,
            phase: Phase::Booting,
            group: None,
            group_since: Duration::ZERO,
            groups: 0,
            tokens: 0,
            now: Duration::ZERO,
            effects: Vec::new(),
        }
    }

    /// Returns whether an answer to this start is still wanted.
    pub(crate) fn is_starting(&self, key: Key, generation: u64) -> bool {
        self.at(key, generation).is_some_and(Child::is_starting)
    }

    /// Returns whether this generation is up, and nobody is about to take it down.
    pub(crate) fn is_up(&self, key: Key, generation: u64) -> bool {
        let up = |child: &Child| matches!(child.stage, Stage::Up { .. });
        self.at(key, generation).is_some_and(up) && !self.doomed.contains(&key)
    }

    /// Returns whether the child will be forgotten when it is down.
    pub(crate) fn is_leaving(&self, key: Key) -> bool {
        self.children.get(&key).is_some_and(|child| child.deleted)
    }

    /// Returns whether nothing is started any more.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_) | Phase::Closed)
    }

    /// Returns how the child stands.
    pub(crate) fn stand(&self, key: Key) -> Stand {
        let Some(child) = self.children.get(&key) else { return Stand::Down };
        match child.stage {
            Stage::Up { .. } | Stage::Stopping | Stage::Killing => Stand::Up,
            Stage::Starting { .. } if child.errand != Errand::None => Stand::Starting,
            Stage::Starting { .. } | Stage::Waiting => Stand::Restarting,
            // Down, but not yet said to be: others that come down with it go first. Nobody may start it meanwhile.
            Stage::Down if self.doomed.contains(&key) && !self.wanted.contains(&key) => Stand::Up,
            Stage::Down if !self.wanted.contains(&key) => Stand::Down,
            Stage::Down if child.errand != Errand::None => Stand::Starting,
            Stage::Down => Stand::Restarting,
        }
    }

    pub(crate) fn flags(&self) -> Flags {
        self.flags
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
            Event::Boot => self.wanted = self.children.keys().copied().collect(),
            Event::Started { key, generation } => self.started(key, generation),
            Event::Ignored { key, generation } => self.ignored(key, generation),
            Event::StartFailed { key, generation, reason } => self.start_failed(key, generation, &reason, dice),
            Event::Exited { key, generation, exit } => self.exited(key, generation, &exit, dice),
            Event::Stalled { key, generation, silent, handling } => {
                // One that is about to be taken down gets its time to stop like the others, in its turn.
                if self.is_up(key, generation) {
                    self.tell(key, EventKind::Stalled { silent, handling });
                    self.kill(key);
                }
            }
            Event::Overdue { key, generation, timer } => self.overdue(key, generation, timer, dice),
            Event::GroupDue { token } => {
                if matches!(self.group, Some(Group::Waiting { token: awaited, .. }) if awaited == token) {
                    self.group = Some(Group::Rising);
                }
            }
            Event::Add { key, rules } => {
                self.children.insert(key, Child::new(rules, 0, Errand::Add));
                self.wanted.insert(key);
                if self.is_closing() {
                    self.terminate(key, true);
                }
            }
            Event::Terminate { key, forget } => self.terminate(key, forget),
            Event::Restart { key } => {
                self.change(key, |child| (child.errand, child.failures) = (Errand::Restart, 0));
                self.wanted.insert(key);
            }
            Event::Recall { key } => {
                self.change(key, |child| (child.errand, child.failures, child.deleted) = (Errand::Add, 0, false));
                self.wanted.insert(key);
            }
            Event::Reflag { flags } => {
                self.flags = flags;
                self.window.set(flags.intensity);
            }
            Event::Revise { key, rules } => self.change(key, |child| child.rules = rules),
            Event::Reorder { moves } => self.reorder(&moves),
            Event::Shutdown => self.close(Outcome::Stopped),
        }
    }

    fn change(&mut self, key: Key, change: impl FnOnce(&mut Child)) {
        if let Some(child) = self.children.get_mut(&key) {
            change(child);
        }
    }

    /// Notes that the child's current step is over, and how it stands now.
    fn enter(&mut self, key: Key, stage: Stage) {
        self.change(key, |child| child.stage = stage);
        self.effects.push(Effect::Disarm { key });
        if self.rising == Some(key) {
            self.rising = None;
        }
        if self.doomed.contains(&key) {
            self.touched.push(key);
        }
    }

    fn started(&mut self, key: Key, generation: u64) {
        let Some(Child { stage: Stage::Starting { cancelled }, .. }) = self.at(key, generation) else { return };
        let was_cancelled = *cancelled;
        self.enter(key, Stage::Up { since: self.now });
        self.tell(key, EventKind::Started);
        // One whose start was called off too late is up for as long as it takes to stop it.
        if !was_cancelled {
            self.answer(key, Ok(()));
            self.change(key, |child| child.errand = Errand::None);
        }
    }

    fn ignored(&mut self, key: Key, generation: u64) {
        if !self.is_starting(key, generation) {
            return;
        }
        self.enter(key, Stage::Down);
        self.answer(key, Ok(()));
        self.change(key, |child| child.errand = Errand::None);
        if !self.doomed.contains(&key) {
            self.leave(key);
        }
    }

    fn start_failed(&mut self, key: Key, generation: u64, reason: &str, dice: f64) {
        let Some(Child { stage: Stage::Starting { cancelled }, errand, .. }) = self.at(key, generation) else { return };
        let (cancelled, errand) = (*cancelled, *errand);
        self.enter(key, Stage::Down);
        if cancelled {
            self.tell(key, EventKind::Stopped);
            return;
        }
        self.tell(key, EventKind::StartFailed { reason: reason.to_owned() });
        match errand {
            Errand::Boot => {
                // A child that never came up at boot is the caller's business: undo and say so. It is not retried.
                self.close(Outcome::BootFailed { key, reason: reason.to_owned() });
            }
            Errand::Add => {
                self.answer(key, Err(reason));
                self.forget(key);
            }
            Errand::Restart => {
                self.answer(key, Err(reason));
                self.change(key, |child| child.errand = Errand::None);
            }
            Errand::None => self.restart_or_leave(key, reason, dice),
        }
    }

    fn exited(&mut self, key: Key, generation: u64, exit: &Exit, dice: f64) {
        let Some(child) = self.at(key, generation).filter(|child| child.is_alive() && !child.is_starting()) else {
            return;
        };
        let (rules, doomed) = (Arc::clone(&child.rules), self.doomed.contains(&key));
        let now = self.now;
        self.change(key, |child| child.forgive(now));
        self.enter(key, Stage::Down);
        // A child that is killed by its spec is down as wished; whatever else it says on the way out is worth telling.
        let as_wished = rules.shutdown == Shutdown::Brutal && *exit == Exit::Killed;
        let reason = exit.to_string();
        self.tell(
            key,
            match (exit.is_normal(), doomed) {
                (true, _) => EventKind::Stopped,
                (false, true) if as_wished => EventKind::Stopped,
                (false, true) => EventKind::ShutdownFailed { reason: reason.clone(), handling: None },
                (false, false) => EventKind::Failed { reason: reason.clone(), handling: None },
            },
        );
        if doomed {
            return;
        }
        let again = match rules.restart {
            Restart::Permanent => true,
            Restart::Transient => !exit.is_normal(),
            Restart::Temporary => false,
        };
        if again {
            self.restart_or_leave(key, &reason, dice);
        } else {
            let done = self.is_done_with(key, &rules);
            if done {
                self.effects.push(Effect::ShuttingDown { key });
            }
            self.leave(key);
            if done {
                self.close(Outcome::Done { key });
            }
        }
    }

    fn overdue(&mut self, key: Key, generation: u64, timer: Timer, dice: f64) {
        let Some(stage) = self.at(key, generation).map(|child| child.stage) else { return };
        match (timer, stage) {
            (Timer::Stop, Stage::Stopping) => self.kill(key),
            (Timer::Backoff, Stage::Waiting) => {
                self.change(key, |child| child.stage = Stage::Down);
                self.wanted.insert(key);
            }
            (Timer::Start, Stage::Starting { .. }) => {
                self.abandon(key);
                self.start_failed(key, generation, BLOCKED_START, dice);
            }
            (Timer::Kill, Stage::Killing) => {
                self.abandon(key);
                let exit = Exit::Failed("it blocks its thread and did not answer its kill".to_owned());
                self.exited(key, generation, &exit, dice);
            }
            // The step that this timer guarded is over.
            _ => {}
        }
    }

    /// Returns whether the supervisor has nothing left to wait for, now that this child is down for good.
    fn is_done_with(&self, key: Key, rules: &Rules) -> bool {
        // A child that is about to come up again is not done either.
        let is_active = |(other, child): (&Key, &Child)| {
            *other != key && child.rules.significant && (child.stage != Stage::Down || self.wanted.contains(other))
        };
        rules.significant
            && match self.flags.auto_shutdown {
                AutoShutdown::Never => false,
                AutoShutdown::Any => true,
                AutoShutdown::All => !self.children.iter().any(is_active),
            }
    }
}
