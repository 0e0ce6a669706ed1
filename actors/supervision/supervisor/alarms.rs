//! What is to be looked at later, child by child.
//!
//! One sleeper wakes for whoever is first. Most alarms are called off long before they are due, and a task for each would
//! cost a restart a wake-up of its own.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{Alarm, Msg, State};
use crate::machine::{Key, Timer};

/// A time by the clock of the tree, in nanoseconds.
type Time = u64;

/// The alarms of the children; each has at most one.
#[derive(Default)]
pub(super) struct Alarms {
    queue: BTreeMap<(Time, Key), (u64, Timer)>,
    armed: HashMap<Key, Time>,
    /// When the sleeper wakes. It may be for an alarm that was called off since.
    sleeper: Option<(Time, Alarm)>,
}

impl Alarms {
    /// Sets the alarm of a child, in place of the one that it may have.
    fn arm(&mut self, key: Key, at: Time, generation: u64, timer: Timer) {
        self.disarm(key);
        self.armed.insert(key, at);
        self.queue.insert((at, key), (generation, timer));
    }

    pub(super) fn disarm(&mut self, key: Key) {
        if let Some(at) = self.armed.remove(&key) {
            self.queue.remove(&(at, key));
        }
    }

    /// Gives the alarms to the keys that their children have from now on.
    pub(super) fn reorder(&mut self, moves: &BTreeMap<Key, Key>) {
        let anew = |key: Key| moves.get(&key).copied().unwrap_or(key);
        self.armed = self.armed.drain().map(|(key, at)| (anew(key), at)).collect();
        self.queue =
            std::mem::take(&mut self.queue).into_iter().map(|((at, key), set)| ((at, anew(key)), set)).collect();
    }

    /// Returns which alarms are due, in the order of their times.
    fn due(&self, now: Time) -> Vec<(Time, Key)> {
        self.queue.range(..=(now, Key::MAX)).map(|(alarm, _)| *alarm).collect()
    }

    /// Takes out an alarm, unless it was called off.
    fn take(&mut self, alarm: (Time, Key)) -> Option<(u64, Timer)> {
        let set = self.queue.remove(&alarm)?;
        self.armed.remove(&alarm.1);
        Some(set)
    }

    /// Returns when somebody has to wake who is not about to.
    fn next(&self) -> Option<Time> {
        let ((first, _), _) = self.queue.first_key_value()?;
        self.sleeper.as_ref().is_none_or(|(at, _)| first < at).then_some(*first)
    }
}

impl State {
    /// Sees to it that this generation of the child is looked at, unless its alarm is called off before.
    pub(super) fn set_alarm(&mut self, key: Key, generation: u64, timer: Timer, after: Duration) {
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.alarms.arm(key, self.shared.clock.exact().saturating_add(after), generation, timer);
        self.sleep();
    }

    pub(super) fn look_at_alarms(&mut self) {
        self.alarms.sleeper = None;
        // An alarm may call off others, and set some that are due at once; those have their turn when others have been heard.
        for alarm in self.alarms.due(self.shared.clock.exact()) {
            if let Some((generation, timer)) = self.alarms.take(alarm) {
                self.overdue(alarm.1, generation, timer);
            }
        }
        self.sleep();
    }

    fn sleep(&mut self) {
        if let Some(at) = self.alarms.next() {
            let after = Duration::from_nanos(at.saturating_sub(self.shared.clock.exact()));
            self.alarms.sleeper = Some((at, self.after(after, Msg::AlarmsDue)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_due_in_the_order_of_their_times_and_are_taken_once() {
        let mut alarms = Alarms::default();
        alarms.arm(1, 30, 7, Timer::Kill);
        alarms.arm(2, 10, 8, Timer::Start);
        alarms.arm(3, 30, 9, Timer::Backoff);
        assert_eq!(alarms.next(), Some(10));
        assert_eq!(alarms.due(29), [(10, 2)]);
        assert_eq!(alarms.due(30), [(10, 2), (30, 1), (30, 3)]);
        assert_eq!(alarms.take((30, 1)), Some((7, Timer::Kill)));
        assert_eq!((alarms.take((30, 1)), alarms.due(30)), (None, vec![(10, 2), (30, 3)]));
    }

    #[test]
    fn an_alarm_goes_with_its_child_to_another_key() {
        let mut alarms = Alarms::default();
        alarms.arm(1, 30, 7, Timer::Kill);
        alarms.arm(2, 10, 8, Timer::Start);
        alarms.reorder(&BTreeMap::from([(1, 5)]));
        assert_eq!((alarms.due(30), alarms.take((30, 5))), (vec![(10, 2), (30, 5)], Some((7, Timer::Kill))));
        alarms.disarm(2);
        assert_eq!((alarms.due(u64::MAX), alarms.armed.len()), (vec![], 0));
    }

    #[test]
    fn a_child_has_the_alarm_that_was_set_last_and_none_once_it_is_called_off() {
        let mut alarms = Alarms::default();
        alarms.arm(1, 10, 1, Timer::Start);
        alarms.arm(1, 20, 2, Timer::Kill);
        assert_eq!((alarms.due(19), alarms.next()), (vec![], Some(20)));
        alarms.disarm(1);
        assert_eq!((alarms.due(u64::MAX), alarms.next()), (vec![], None));
        assert!(alarms.armed.is_empty());
    }
}
