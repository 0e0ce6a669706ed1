//! Looks after handlers that make no progress.

use std::time::Duration;

use super::{Msg, State};
use crate::event::Exit;
use crate::machine::{Event, Key};

/// Stall clocks are looked at this many times within the shortest limit, but never more often than the floor.
const CHECKS_PER_LIMIT: u32 = 4;
const CHECK_FLOOR: Duration = Duration::from_millis(5);

/// How often the stall clocks are looked at.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The shortest limit that any child has had.
    shortest: Option<Duration>,
    pending: bool,
}

impl Watch {
    /// Takes the limit of a further child into account.
    pub(super) fn expect(&mut self, limit: Option<Duration>) {
        self.shortest = [self.shortest, limit].into_iter().flatten().min();
    }
}

impl State {
    /// Sees to it that the stall clocks are looked at again, if any child has one.
    pub(super) fn watch_stalls(&mut self) {
        if let Some(limit) = self.stalls.shortest.filter(|_| !self.stalls.pending) {
            self.stalls.pending = true;
            self.after((limit / CHECKS_PER_LIMIT).max(CHECK_FLOOR), Msg::CheckStalls);
        }
    }

    pub(super) fn check_stalls(&mut self) {
        self.stalls.pending = false;
        let mut stalled: Vec<(Key, Duration, &'static str)> = Vec::new();
        for (key, place) in &self.places {
            let (Some(vitals), Some(limit)) = (&place.vitals, place.charge.rules.stall_after) else { continue };
            if let (Some(silent), Some((activity, _))) = (vitals.silent_for(), vitals.busy())
                && silent >= limit
            {
                stalled.push((*key, silent, activity.name()));
            }
        }
        stalled.sort_unstable();
        for (key, silent, handling) in stalled {
            let Some(place) = self.places.get(&key) else { continue };
            let generation = place.charge.node.generation();
            if self.machine.is_up(key, generation) {
                if let Some(vitals) = &place.vitals {
                    vitals.note_exit(Exit::Failed(format!("it made no progress for {silent:?} in {handling}")));
                }
                self.step(Event::Stalled { key, generation, silent, handling });
            }
        }
        self.watch_stalls();
    }
}
