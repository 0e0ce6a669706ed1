//! The next steps of a machine: down in reverse order first, then up in order.

use super::{Child, Effect, Group, Machine, Order, Phase, Stage, Timer};
use crate::event::EventKind;
use crate::spec::{Restart, Shutdown};

impl Machine {
    /// Takes the steps that are possible now.
    pub(super) fn advance(&mut self) {
        self.take_down();
        self.finish_doomed();
        if matches!(self.phase, Phase::Booting | Phase::Serving) {
            self.bring_up();
        }
    }

    /// Asks doomed children to stop: the last one first and alone, or all at once where there is no order.
    fn take_down(&mut self) {
        for index in (0..self.children.len()).rev() {
            if !self.children[index].doomed {
                continue;
            }
            if self.children[index].stage == Stage::Waiting {
                let key = self.children[index].key;
                self.children[index].stage = Stage::Down;
                self.effects.push(Effect::Disarm { key });
                if !self.children[index].wanted {
                    self.tell(index, EventKind::Stopped);
                }
            }
            self.ask_down(index);
            if self.children[index].is_alive() && self.order != Order::Dynamic {
                return;
            }
        }
    }

    fn ask_down(&mut self, index: usize) {
        let child = &mut self.children[index];
        let (key, generation) = (child.key, child.generation);
        match (&child.stage, child.rules.shutdown) {
            (Stage::Starting { cancelled: false }, _) => {
                child.stage = Stage::Starting { cancelled: true };
                self.effects.push(Effect::CancelStart { key, generation });
            }
            (Stage::Up { .. }, Shutdown::Brutal) => self.kill(index),
            (Stage::Up { .. }, shutdown) => {
                child.stage = Stage::Stopping;
                self.effects.push(Effect::Stop { key, generation });
                if let Shutdown::Within(after) = shutdown {
                    self.effects.push(Effect::Arm { key, generation, timer: Timer::Stop, after });
                }
            }
            _ => {}
        }
    }

    pub(super) fn kill(&mut self, index: usize) {
        let child = &mut self.children[index];
        child.stage = Stage::Killing;
        let (key, generation, after) = (child.key, child.generation, child.rules.kill_within);
        self.effects.push(Effect::Kill { key, generation });
        self.effects.push(Effect::Arm { key, generation, timer: Timer::Kill, after });
    }

    pub(super) fn abandon(&mut self, index: usize) {
        let child = &self.children[index];
        let (key, generation) = (child.key, child.generation);
        self.effects.push(Effect::Abandon { key, generation });
        self.tell(index, EventKind::Leaked);
    }

    /// Closes what was only waiting for doomed children to be down.
    fn finish_doomed(&mut self) {
        if self.order == Order::Dynamic {
            let (gone, kept) = self.children.drain(..).partition(|child| child.doomed && !child.is_alive());
            self.children = kept;
            self.effects.extend(gone.into_iter().map(|child: Child| Effect::Forget { key: child.key }));
        }
        if self.children.iter().any(|child| child.doomed && child.is_alive()) {
            return;
        }
        if let Phase::Closing(outcome) = &self.phase {
            self.effects.push(Effect::Finished(outcome.clone()));
            self.phase = Phase::Closed;
            return;
        }
        if let Some(Group::TearingDown { delay }) = self.group {
            self.children.iter_mut().for_each(|child| child.doomed = false);
            for index in (0..self.children.len()).rev() {
                let child = &self.children[index];
                if !child.wanted && child.stage == Stage::Down && child.rules.restart == Restart::Temporary {
                    self.leave(index);
                }
            }
            self.group = Some(Group::Rising);
            if !delay.is_zero() {
                self.tokens += 1;
                let token = self.tokens;
                self.group = Some(Group::Waiting { token });
                self.effects.push(Effect::ArmGroup { token, after: delay });
            }
        }
    }

    /// Starts wanted children: the next one alone at boot and in a group restart, otherwise each on its own.
    fn bring_up(&mut self) {
        let one_by_one = match self.group {
            Some(Group::Rising) => true,
            Some(_) => return,
            None => self.phase == Phase::Booting && self.order != Order::Dynamic,
        };
        for index in 0..self.children.len() {
            let child = &self.children[index];
            if child.wanted && !child.doomed && child.stage == Stage::Down {
                self.launch(index);
            }
            let child = &self.children[index];
            let up = matches!(child.stage, Stage::Up { .. });
            if one_by_one && !up && (child.is_alive() || child.stage == Stage::Waiting) {
                return;
            }
        }
        if one_by_one {
            self.group = None;
        }
        if self.phase == Phase::Booting {
            self.phase = Phase::Serving;
            self.effects.push(Effect::Booted);
        }
    }

    fn launch(&mut self, index: usize) {
        let child = &mut self.children[index];
        child.generation += 1;
        child.stage = Stage::Starting { cancelled: false };
        child.wanted = false;
        let (key, generation) = (child.key, child.generation);
        self.effects.push(Effect::Start { key, generation });
        if let Some(limit) = child.rules.start_within {
            // The start waits for a former incarnation to die, and ends itself at its limit. Only one that blocks its thread
            // cannot, and is given the same grace as a kill.
            let after = limit.saturating_add(child.rules.kill_within.saturating_mul(2));
            self.effects.push(Effect::Arm { key, generation, timer: Timer::Start, after });
        }
    }

    pub(super) fn tell(&mut self, index: usize, kind: EventKind) {
        let Child { key, generation, .. } = self.children[index];
        self.effects.push(Effect::Tell { key, generation, kind });
    }
}
