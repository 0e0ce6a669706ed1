//! The machine against a small simulated world that answers its effects in any order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Just, ProptestConfig, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Generate;

use super::*;
use crate::spec::{Backoff, Intensity};
use Restart::{Permanent, Temporary, Transient};

mod effects;

mod model;

const SECOND: Duration = Duration::from_secs(1);

/// What is done to a child by hand.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ByHand {
    Add(Restart),
    Terminate,
    Restart,
    Delete,
    /// What a change of the spec does to a child that it leaves out.
    Remove,
    /// What it does to one that is about to go and is named again.
    Recall,
}

/// How the children of a world hang together; nothing where they come and go.
type Order = Option<Strategy>;

fn rules(restart: Restart) -> Arc<Rules> {
    let backoff = Backoff { first: SECOND, max: 8 * SECOND, jitter_ratio: 0.0, healthy_after: 60 * SECOND };
    Arc::new(Rules { restart, backoff, failures_max: u32::MAX, ..Rules::of_an_actor() })
}

/// What really runs, and everything the machine has done so far.
struct World {
    machine: Machine,
    now: Duration,
    /// Incarnations that are starting or up, and whether they are up.
    alive: BTreeMap<(Key, u64), bool>,
    abandoned: BTreeSet<(Key, u64)>,
    /// Starts that were called off, and those asked to go: they are owed an answer.
    asked: BTreeSet<(Key, u64)>,
    /// Who started a child by hand, and who asked for one to be down, and was not answered so far.
    starting: BTreeSet<Key>,
    terminating: BTreeSet<Key>,
    timers: BTreeMap<Key, (u64, Timer)>,
    group_timer: Option<u64>,
    finished: Vec<Outcome>,
    booted: bool,
    log: Vec<String>,
    ordered: bool,
    key_next: Key,
}

impl World {
    fn new(order: Order, restarts_max: u32, children: &[Restart]) -> Self {
        let key_next = children.len() as Key;
        let children = (0..).zip(children).map(|(key, restart)| (key, rules(*restart), 0)).collect();
        let intensity = Intensity { restarts_max, within: 5 * SECOND };
        let flags = Flags { strategy: order, intensity, auto_shutdown: AutoShutdown::Never };
        World {
            machine: Machine::new(flags, children),
            now: Duration::ZERO,
            alive: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            asked: BTreeSet::new(),
            starting: BTreeSet::new(),
            terminating: BTreeSet::new(),
            timers: BTreeMap::new(),
            group_timer: None,
            finished: Vec::new(),
            booted: false,
            log: Vec::new(),
            ordered: order.is_some(),
            key_next,
        }
    }

    fn booted(order: Order, restarts_max: u32, children: &[Restart]) -> Self {
        let mut world = World::new(order, restarts_max, children);
        world.hear(Event::Boot);
        world.settle();
        assert!(world.booted);
        world.log.clear();
        world
    }

    fn hear(&mut self, event: Event) {
        for effect in self.machine.on(self.now, 0.5, event) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start { key, generation } => {
                let double = self.alive.keys().any(|(other, _)| *other == key);
                assert!(!double, "{key} was started while another generation of it lives");
                self.alive.insert((key, generation), false);
                self.log.push(format!("start {key}"));
            }
            Effect::CancelStart { key, generation } => {
                self.asked.insert((key, generation));
            }
            Effect::Stop { key, generation } | Effect::Kill { key, generation } => {
                assert!(self.alive.contains_key(&(key, generation)), "a dead {key} was asked to stop");
                // One that did not obey is killed, whenever it was asked.
                let is_asked_first = self.asked.insert((key, generation));
                self.log.push(format!("stop {key}"));
                // A stalled child is killed where it stands, and one that is terminated alone goes alone; a group goes in order.
                let in_order = self.machine.group.is_some() || self.machine.is_closing();
                if self.ordered && in_order && is_asked_first && self.is_doomed(key) {
                    let later = self.alive.keys().any(|(other, _)| *other > key && self.is_doomed(*other));
                    assert!(!later, "{key} was asked to stop before a later one was down");
                }
            }
            Effect::Arm { key, generation, timer, .. } => {
                self.timers.insert(key, (generation, timer));
            }
            Effect::Disarm { key } => {
                self.timers.remove(&key);
            }
            Effect::ArmGroup { token, .. } => self.group_timer = Some(token),
            Effect::Tell { key, kind: EventKind::RestartScheduled { delay }, .. } => {
                self.log.push(format!("schedule {key} in {delay:?}"));
            }
            Effect::Tell { .. } | Effect::ShuttingDown { .. } => {}
            Effect::Answer { key, .. } => assert!(self.starting.remove(&key), "the start of {key} was answered twice"),
            Effect::Rest { key } => {
                self.terminating.remove(&key);
            }
            Effect::GivingUp { key, .. } => self.log.push(format!("give up on {key}")),
            Effect::Abandon { key, generation } => {
                self.alive.remove(&(key, generation));
                self.abandoned.insert((key, generation));
            }
            Effect::Forget { key } => {
                assert!(self.alive.keys().all(|(other, _)| *other != key), "{key} was forgotten while it lives");
                assert!(!self.starting.contains(&key), "{key} was forgotten and who started it was not answered");
                self.terminating.remove(&key);
            }
            Effect::Booted => self.booted = true,
            Effect::Finished(outcome) => {
                assert!(self.alive.is_empty(), "the machine finished while {:?} live", self.alive);
                self.finished.push(outcome);
            }
        }
    }

    fn is_doomed(&self, key: Key) -> bool {
        self.machine.doomed.contains(&key)
    }

    /// Lets everything happen that is under way: starts succeed, stops are obeyed, waits pass.
    fn settle(&mut self) {
        loop {
            if let Some(((key, generation), up)) = self.pending() {
                self.answer(key, generation, up);
            } else if let Some(token) = self.group_timer.take() {
                self.hear(Event::GroupDue { token });
            } else if let Some((key, (generation, timer))) = self.backoff() {
                self.timers.remove(&key);
                self.hear(Event::Overdue { key, generation, timer });
            } else {
                return;
            }
        }
    }

    fn pending(&self) -> Option<((Key, u64), bool)> {
        let waiting = |(id, up): (&(Key, u64), &bool)| (!up || self.asked.contains(id)).then_some((*id, *up));
        self.alive.iter().find_map(waiting)
    }

    fn backoff(&self) -> Option<(Key, (u64, Timer))> {
        let backoff = |(key, timer): (&Key, &(u64, Timer))| (timer.1 == Timer::Backoff).then_some((*key, *timer));
        self.timers.iter().find_map(backoff)
    }

    fn answer(&mut self, key: Key, generation: u64, up: bool) {
        if up {
            self.exit(key, Exit::Normal);
        } else if self.asked.remove(&(key, generation)) {
            self.alive.remove(&(key, generation));
            self.hear(Event::StartFailed { key, generation, reason: "called off".to_owned() });
        } else {
            self.alive.insert((key, generation), true);
            self.hear(Event::Started { key, generation });
        }
    }

    fn exit(&mut self, key: Key, exit: Exit) {
        let found = self.alive.iter().find(|((other, _), up)| *other == key && **up).map(|(id, _)| *id);
        if let Some((key, generation)) = found {
            self.alive.remove(&(key, generation));
            self.asked.remove(&(key, generation));
            self.hear(Event::Exited { key, generation, exit });
        }
    }

    fn fail(&mut self, key: Key) {
        self.exit(key, Exit::Panicked("ouch".to_owned()));
    }

    /// Does something by hand, as far as a supervisor passes that on.
    fn by_hand(&mut self, what: ByHand, key: Key) {
        if self.finished.len() == 1 {
            return;
        }
        let is_known = self.machine.children.contains_key(&key);
        match what {
            ByHand::Add(restart) if !is_known => {
                self.starting.insert(key);
                self.hear(Event::Add { key, rules: rules(restart) });
            }
            ByHand::Terminate if is_known => {
                self.terminating.insert(key);
                self.hear(Event::Terminate { key, forget: false });
            }
            ByHand::Remove if is_known => {
                self.terminating.insert(key);
                self.hear(Event::Terminate { key, forget: true });
            }
            ByHand::Recall
                if self.machine.is_leaving(key) && !self.machine.is_closing() && self.starting.insert(key) =>
            {
                self.hear(Event::Recall { key });
            }
            ByHand::Restart | ByHand::Delete if is_known && self.ordered => {
                if self.machine.is_closing() || self.machine.stand(key) != Stand::Down {
                    return;
                }
                if what == ByHand::Delete {
                    self.terminating.insert(key);
                    self.hear(Event::Terminate { key, forget: true });
                } else {
                    self.starting.insert(key);
                    self.hear(Event::Restart { key });
                }
            }
            _ => {}
        }
    }

    fn up(&self) -> Vec<Key> {
        self.alive.iter().filter(|(_, up)| **up).map(|((key, _), _)| *key).collect()
    }

    /// Gives the children, and all that is known of them, keys in this order.
    fn reorder(&mut self, order: &[Key]) {
        let moves: BTreeMap<Key, Key> = order.iter().copied().zip(self.key_next..).collect();
        self.key_next += order.len() as Key;
        let anew = |key: Key| moves.get(&key).copied().unwrap_or(key);
        let both_anew = |(key, generation): (Key, u64)| (anew(key), generation);
        self.alive = std::mem::take(&mut self.alive).into_iter().map(|(id, up)| (both_anew(id), up)).collect();
        self.abandoned = std::mem::take(&mut self.abandoned).into_iter().map(both_anew).collect();
        self.asked = std::mem::take(&mut self.asked).into_iter().map(both_anew).collect();
        self.starting = std::mem::take(&mut self.starting).into_iter().map(anew).collect();
        self.terminating = std::mem::take(&mut self.terminating).into_iter().map(anew).collect();
        self.timers = std::mem::take(&mut self.timers).into_iter().map(|(key, timer)| (anew(key), timer)).collect();
        self.hear(Event::Reorder { moves });
    }
}

#[test]
fn one_for_one_restarts_only_the_one_that_failed() {
    check(Strategy::OneForOne, &["schedule 1 in 0ns", "start 1"]);
}

#[test]
fn one_for_all_stops_the_others_in_reverse_and_starts_all_in_order() {
    check(Strategy::OneForAll, &["schedule 1 in 0ns", "stop 2", "stop 0", "start 0", "start 1", "start 2"]);
}

#[test]
fn rest_for_one_leaves_the_earlier_ones_alone() {
    check(Strategy::RestForOne, &["schedule 1 in 0ns", "stop 2", "start 1", "start 2"]);
}

#[track_caller]
fn check(strategy: Strategy, expected: &[&str]) {
    let mut world = World::booted(Some(strategy), 1, &[Permanent; 3]);
    world.fail(1);
    world.settle();
    assert_eq!(world.log, expected);
    assert_eq!(world.up(), [0, 1, 2]);
}

#[test]
fn a_temporary_sibling_is_not_started_again() {
    let mut world = World::booted(Some(Strategy::OneForAll), 1, &[Permanent, Temporary, Permanent]);
    world.fail(0);
    world.settle();
    assert_eq!(world.up(), [0, 2]);
}

#[test]
fn a_restart_type_decides_about_a_normal_exit() {
    for (restart, comes_back) in [(Permanent, true), (Transient, false), (Temporary, false)] {
        let mut world = World::booted(Some(Strategy::OneForOne), 1, &[restart]);
        world.exit(0, Exit::Normal);
        world.settle();
        assert_eq!(!world.up().is_empty(), comes_back, "{restart:?}");
    }
}

#[test]
fn a_restart_type_decides_about_a_kill() {
    for (restart, comes_back) in [(Permanent, true), (Transient, true), (Temporary, false)] {
        let mut world = World::booted(Some(Strategy::OneForOne), 1, &[restart]);
        world.exit(0, Exit::Killed);
        world.settle();
        assert_eq!(!world.up().is_empty(), comes_back, "{restart:?}");
    }
}

#[test]
fn the_first_restart_is_immediate_and_later_ones_wait_twice_as_long_each() {
    let mut world = World::booted(Some(Strategy::OneForOne), 100, &[Permanent]);
    for _ in 0..6 {
        world.fail(0);
        world.settle();
    }
    world.log.retain(|line| line.starts_with("schedule"));
    let delays = ["0ns", "1s", "2s", "4s", "8s", "8s"].map(|delay| format!("schedule 0 in {delay}"));
    assert_eq!(world.log, delays);
}

#[test]
fn a_healthy_while_makes_the_next_restart_immediate_again() {
    let mut world = World::booted(Some(Strategy::OneForOne), 100, &[Permanent]);
    world.fail(0);
    world.settle();
    world.now += 60 * SECOND;
    world.log.clear();
    world.fail(0);
    assert_eq!(world.log[0], "schedule 0 in 0ns");
}

// It was set to stopping before anybody looked at how long it had been up, and waited as if it had failed just now.
#[test]
fn a_healthy_while_counts_also_for_those_that_go_along() {
    for shutdown in [Shutdown::Within(SECOND), Shutdown::Brutal] {
        let mut world = World::booted(Some(Strategy::OneForAll), 100, &[Permanent; 2]);
        for key in [0, 1] {
            world.hear(Event::Revise { key, rules: Arc::new(Rules { shutdown, ..*rules(Permanent) }) });
        }
        world.fail(1);
        world.settle();
        world.now += 3600 * SECOND;
        world.fail(0);
        world.settle();
        world.now += 30 * SECOND;
        world.log.clear();
        world.fail(1);
        assert_eq!(world.log[0], "schedule 1 in 0ns", "{shutdown:?}");
    }
}

#[test]
fn exactly_the_allowed_restarts_pass_and_the_next_one_gives_up() {
    let mut world = World::booted(Some(Strategy::OneForOne), 3, &[Permanent; 2]);
    for key in [0, 1, 0] {
        world.fail(key);
        world.settle();
        assert_eq!(world.up(), [0, 1]);
    }
    world.fail(1);
    world.settle();
    assert_eq!(world.finished, [Outcome::GaveUp { key: 1, reason: "panicked: ouch".to_owned() }]);
    assert_eq!(world.log[world.log.len() - 2..], ["give up on 1", "stop 0"]);
}

#[test]
fn zero_restarts_give_up_at_the_first_failure() {
    let mut world = World::booted(Some(Strategy::OneForOne), 0, &[Permanent]);
    world.fail(0);
    assert!(matches!(world.finished[..], [Outcome::GaveUp { key: 0, .. }]));
}

#[test]
fn several_failures_at_once_are_one_group_restart() {
    let mut world = World::booted(Some(Strategy::OneForAll), 1, &[Permanent; 3]);
    world.fail(0);
    world.fail(2);
    world.fail(1);
    world.settle();
    assert_eq!(world.up(), [0, 1, 2]);
    assert!(world.finished.is_empty());
}

#[test]
fn an_earlier_sibling_that_fails_meanwhile_joins_the_restart_of_the_rest() {
    let mut world = World::booted(Some(Strategy::RestForOne), 1, &[Permanent; 3]);
    world.fail(1);
    world.fail(0);
    world.settle();
    assert_eq!(world.up(), [0, 1, 2]);
    assert!(world.finished.is_empty());
}

// With nothing to wait for the rest rose at the next message, and an earlier sibling that had ended by then was a second restart.
#[test]
fn an_earlier_sibling_that_ended_in_the_same_instant_joins_also_when_the_rest_has_risen() {
    let apart = [(Duration::from_micros(50), true), (Duration::from_millis(10), true), (SECOND / 50, false)];
    for (apart, is_one) in apart {
        let mut world = World::booted(Some(Strategy::RestForOne), 1, &[Permanent; 3]);
        world.fail(2);
        world.settle();
        world.now += apart;
        world.fail(0);
        world.settle();
        assert_eq!(world.finished.is_empty(), is_one, "{apart:?}");
        assert_eq!(world.up().is_empty(), !is_one, "{apart:?}");
    }
}

#[test]
fn one_that_came_up_in_a_group_and_fails_in_the_same_instant_counts() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        let mut world = World::booted(Some(strategy), 1, &[Permanent; 3]);
        world.fail(1);
        world.settle();
        world.fail(2);
        world.settle();
        assert!(matches!(world.finished[..], [Outcome::GaveUp { key: 2, .. }]), "{strategy:?}");
    }
}

#[test]
fn children_that_are_given_another_order_stop_and_start_in_it() {
    let mut world = World::booted(Some(Strategy::OneForAll), 9, &[Permanent; 3]);
    world.reorder(&[2, 0, 1]);
    // The keys are new: 2 is 3 now, 0 is 4, and 1 is 5.
    world.fail(4);
    world.settle();
    assert_eq!(world.log, ["schedule 4 in 0ns", "stop 5", "stop 3", "start 3", "start 4", "start 5"]);
}

#[test]
fn a_restart_whose_start_fails_is_tried_again_and_counted() {
    let mut world = World::booted(Some(Strategy::OneForOne), 2, &[Permanent]);
    world.fail(0);
    for generation in [2, 3] {
        if let Some((key, (generation, timer))) = world.backoff() {
            world.hear(Event::Overdue { key, generation, timer });
        }
        world.alive.remove(&(0, generation));
        world.hear(Event::StartFailed { key: 0, generation, reason: "no port".to_owned() });
    }
    assert_eq!(world.finished, [Outcome::GaveUp { key: 0, reason: "no port".to_owned() }]);
}

#[test]
fn a_start_that_fails_at_boot_undoes_the_earlier_ones_in_reverse() {
    let mut world = World::new(Some(Strategy::OneForOne), 5, &[Permanent; 4]);
    world.hear(Event::Boot);
    world.answer(0, 1, false);
    world.answer(1, 1, false);
    world.alive.remove(&(2, 1));
    world.hear(Event::StartFailed { key: 2, generation: 1, reason: "no port".to_owned() });
    world.settle();
    assert_eq!(world.log, ["start 0", "start 1", "start 2", "stop 1", "stop 0"]);
    assert_eq!(world.finished, [Outcome::BootFailed { key: 2, reason: "no port".to_owned() }]);
}

#[test]
fn case_078_a_stale_timer_does_nothing() {
    let mut world = World::booted(Some(Strategy::OneForOne), 5, &[Permanent]);
    for timer in [Timer::Start, Timer::Stop, Timer::Kill, Timer::Backoff] {
        for generation in [0, 1, 2] {
            world.hear(Event::Overdue { key: 0, generation, timer });
        }
    }
    world.hear(Event::GroupDue { token: 0 });
    assert!(world.log.is_empty());
    assert_eq!(world.up(), [0]);
}

#[test]
fn a_child_that_does_not_die_is_abandoned_and_replaced() {
    let mut world = World::booted(Some(Strategy::OneForOne), 5, &[Permanent]);
    world.hear(Event::Stalled { key: 0, generation: 1, silent: SECOND, handling: "work" });
    world.hear(Event::Overdue { key: 0, generation: 1, timer: Timer::Kill });
    world.asked.clear();
    world.settle();
    assert_eq!(world.up(), [0]);
    assert!(world.abandoned.contains(&(0, 1)));
    world.hear(Event::Exited { key: 0, generation: 1, exit: Exit::Killed });
    assert_eq!(world.up(), [0]);
}

#[test]
fn a_shutdown_during_a_back_off_cancels_the_restart() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll] {
        let mut world = World::booted(Some(strategy), 5, &[Permanent]);
        world.fail(0);
        world.settle();
        world.fail(0);
        world.hear(Event::Shutdown);
        assert_eq!(world.finished, [Outcome::Stopped], "{strategy:?}");
    }
}

#[test]
fn dynamic_children_stop_all_at_once() {
    let mut world = World::booted(None, 1, &[Temporary; 3]);
    world.hear(Event::Shutdown);
    assert_eq!(world.log, ["stop 2", "stop 1", "stop 0"]);
    world.settle();
    assert_eq!(world.finished, [Outcome::Stopped]);
}

fn orders() -> impl Generate<Value = Order> {
    prop_oneof![
        Just(Some(Strategy::OneForOne)),
        Just(Some(Strategy::OneForAll)),
        Just(Some(Strategy::RestForOne)),
        Just(None),
    ]
}

fn restarts() -> impl Generate<Value = Restart> {
    prop_oneof![3 => Just(Permanent), 1 => Just(Transient), 1 => Just(Temporary)]
}

/// Picks one of the children that the machine knows.
fn known(world: &World, whom: usize) -> Key {
    let keys: Vec<Key> = world.machine.children.keys().copied().collect();
    keys.get(whom % keys.len().max(1)).copied().unwrap_or_default()
}

/// One thing that happens to a world; the number picks whom it happens to.
fn happen(world: &mut World, what: u8, whom: usize) {
    let ids: Vec<((Key, u64), bool)> = world.alive.iter().map(|(id, up)| (*id, *up)).collect();
    let picked = ids.get(whom % ids.len().max(1)).copied();
    match (what, picked) {
        (0 | 1, Some(((key, generation), false))) => world.answer(key, generation, false),
        (2, Some(((key, generation), false))) => {
            world.alive.remove(&(key, generation));
            world.asked.remove(&(key, generation));
            world.hear(Event::StartFailed { key, generation, reason: "no port".to_owned() });
        }
        (0 | 3, Some(((key, _), true))) => world.exit(key, Exit::Normal),
        (1 | 4, Some(((key, _), true))) => world.fail(key),
        (5, Some(((key, generation), true))) => {
            world.hear(Event::Stalled { key, generation, silent: SECOND, handling: "work" });
        }
        (6, _) => {
            let timers: Vec<(Key, (u64, Timer))> = world.timers.iter().map(|(key, timer)| (*key, *timer)).collect();
            if let Some((key, (generation, timer))) = timers.get(whom % timers.len().max(1)).copied() {
                world.timers.remove(&key);
                world.hear(Event::Overdue { key, generation, timer });
            }
        }
        (7, _) => {
            if let Some(token) = world.group_timer.take() {
                world.hear(Event::GroupDue { token });
            }
        }
        (8, _) => world.by_hand(ByHand::Terminate, known(world, whom)),
        (9, _) => {
            let restart = [Permanent, Transient, Temporary][whom % 3];
            world.key_next += 1;
            world.by_hand(ByHand::Add(restart), world.key_next - 1);
        }
        (10, _) => world.by_hand(ByHand::Restart, known(world, whom)),
        (11, _) => world.by_hand(ByHand::Delete, known(world, whom)),
        (12, _) => world.by_hand(ByHand::Remove, known(world, whom)),
        (13, _) => world.by_hand(ByHand::Recall, known(world, whom)),
        (14, Some(((key, generation), false))) => {
            world.alive.remove(&(key, generation));
            world.asked.remove(&(key, generation));
            world.hear(Event::Ignored { key, generation });
        }
        (15, _) => {
            let mut order: Vec<Key> = world.machine.children.keys().copied().collect();
            let (turn, half) = (whom % order.len().max(1), whom.is_multiple_of(2));
            order.rotate_left(turn);
            order.truncate(if half { order.len() / 2 } else { order.len() });
            if world.ordered && !world.machine.is_closing() {
                world.reorder(&order);
            }
        }
        _ => {}
    }
    world.now += SECOND;
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5_000) })]

    #[test]
    fn case_093_whatever_happens_no_child_lives_twice_all_are_answered_and_a_shutdown_takes_all_down(
        order in orders(),
        restarts_max in 0_u32..6,
        children in proptest::collection::vec(restarts(), 0..6),
        happenings in proptest::collection::vec((0_u8..16, any::<usize>()), 0..80),
        last in proptest::collection::vec((0_u8..16, any::<usize>()), 0..9),
        at_the_end in proptest::collection::vec((0_u8..16, any::<usize>()), 0..9),
    ) {
        let mut world = World::new(order, restarts_max, &children);
        world.hear(Event::Boot);
        for (what, whom) in happenings {
            happen(&mut world, what, whom);
        }
        world.settle();
        prop_assert!(world.starting.is_empty() && world.terminating.is_empty(), "who asked is not answered");
        // What is asked of a supervisor that is about to end is answered too.
        for (what, whom) in last {
            happen(&mut world, what, whom);
        }
        world.hear(Event::Shutdown);
        for (what, whom) in at_the_end {
            happen(&mut world, what, whom);
        }
        world.settle();
        prop_assert!(world.alive.is_empty());
        prop_assert_eq!(world.finished.len(), 1);
        prop_assert!(world.starting.is_empty() && world.terminating.is_empty(), "who asked is not answered");
    }

    #[test]
    fn case_093_left_alone_everything_permanent_comes_up_again(
        order in orders(),
        children in proptest::collection::vec(Just(Permanent), 0..6),
        happenings in proptest::collection::vec((0_u8..8, any::<usize>()), 0..80),
    ) {
        let mut world = World::booted(order, u32::MAX, &children);
        for (what, whom) in happenings {
            happen(&mut world, what, whom);
        }
        world.settle();
        prop_assert_eq!(world.up().len(), children.len());
        prop_assert!(world.finished.is_empty());
    }
}
