//! Looks after handlers that make no progress.

use std::time::Duration;

use super::{Alarm, Msg, State};
use crate::event::Exit;
use crate::machine::{Event, Key};

/// Stall clocks are looked at this many times within the shortest limit, but never more often than the floor.
const CHECKS_PER_LIMIT: u32 = 4;
const CHECK_FLOOR: Duration = Duration::from_millis(5);

/// When the stall clocks are looked at next.
#[derive(Default)]
pub(super) struct Watch {
    next: Option<(Duration, Alarm)>,
}

impl State {
    /// Sees to it that the stall clocks are looked at soon enough for a child with such a limit.
    pub(super) fn watch_stalls(&mut self, limit: Option<Duration>) {
        let Some(limit) = limit else { return };
        let within = (limit / CHECKS_PER_LIMIT).max(CHECK_FLOOR);
        if self.stalls.next.as_ref().is_none_or(|(next, _)| within < *next) {
            self.stalls.next = Some((within, self.after(within, Msg::CheckStalls)));
        }
    }

    pub(super) fn check_stalls(&mut self) {
        self.stalls.next = None;
        let mut shortest: Option<Duration> = None;
        let mut stalled: Vec<(Key, Duration, &'static str)> = Vec::new();
        for (key, place) in &self.places {
            let (Some(vitals), Some(limit)) = (place.node.vitals(), place.node.rules().stall_after) else { continue };
            shortest = Some(shortest.map_or(limit, |shortest| shortest.min(limit)));
            if let (Some(silent), Some((activity, _))) = (vitals.silent_for(), vitals.busy())
                && silent >= limit
            {
                stalled.push((*key, silent, activity.name()));
            }
        }
        stalled.sort_unstable();
        for (key, silent, handling) in stalled {
            let Some(place) = self.places.get(&key) else { continue };
            let generation = place.node.generation();
            if self.machine.is_up(key, generation) {
                if let Some(vitals) = place.node.vitals() {
                    vitals.note_exit(Exit::Failed(format!("it made no progress for {silent:?} in {handling}")));
                }
                self.step(Event::Stalled { key, generation, silent, handling });
            }
        }
        self.watch_stalls(shortest);
    }
}
