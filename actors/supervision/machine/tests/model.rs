//! The machine against a model of OTP's supervisor that does everything at once: it starts and stops a child by calling it, as
//! a supervisor does that waits. What happens between two steps of the machine is settled, then both must have done the same.

use std::collections::{BTreeMap, VecDeque};

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
use proptest::strategy::Strategy as Generate;

use super::{SECOND, orders, restarts};
use crate::event::Exit;
use crate::machine::{
    Arc, AutoShutdown, Duration, Effect, Event, EventKind, Flags, Key, Machine, Outcome, Restart, Rules, Strategy,
    Timer,
};
use crate::spec::{Backoff, Intensity};

const SEQUENCES: u32 = 100_000;
const STEPS: usize = 50;

/// How long a child must have been up for its failures to be forgotten; some sequences wait for longer, others for less.
const HEALTHY_AFTER: Duration = Duration::from_secs(4);

/// What is done to a supervisor, and to which of its children.
#[derive(Clone, Copy, Debug)]
enum Step {
    Exit(usize, bool),
    Terminate(usize),
    Restart(usize),
    Delete(usize),
    Add(Kind),
    /// The next starts of a child fail, so many.
    Spoil(usize, u32),
    Wait(u64),
    /// A timer of another time.
    Stale(usize),
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    restart: Restart,
    significant: bool,
}

#[derive(Clone, Debug)]
struct Kid {
    id: Key,
    kind: Kind,
    up: bool,
    generation: u64,
    /// When it came up, and how often in a row it has failed without a healthy while.
    since: Duration,
    failures: u32,
    /// How many restarts of a group had begun when it was started last.
    born_in: u64,
}

impl Kid {
    fn of(id: Key, kind: Kind) -> Self {
        Kid { id, kind, up: false, generation: 0, since: Duration::ZERO, failures: 0, born_in: 0 }
    }

    /// Goes down, whoever's fault that is.
    fn fall(&mut self, now: Duration) {
        self.up = false;
        if now.saturating_sub(self.since) >= HEALTHY_AFTER {
            self.failures = 0;
        }
    }
}

/// What both worlds have in common: which starts fail, and what was done so far.
#[derive(Clone, Debug, Default)]
struct Stage {
    spoilt: BTreeMap<Key, u32>,
    log: Vec<String>,
}

impl Stage {
    fn start(&mut self, id: Key) -> bool {
        self.log.push(format!("start {id}"));
        match self.spoilt.get_mut(&id).filter(|left| **left > 0) {
            Some(left) => {
                *left -= 1;
                false
            }
            None => true,
        }
    }

    fn stop(&mut self, id: Key) {
        self.log.push(format!("stop {id}"));
    }
}

/// OTP's supervisor, as one would explain it.
struct Model {
    flags: Flags,
    kids: Vec<Kid>,
    next: Key,
    restarts: Vec<Duration>,
    /// When the last restart of a group began, and how many there were.
    group_since: Duration,
    groups: u64,
    waits: bool,
    now: Duration,
    stage: Stage,
    end: Option<&'static str>,
}

impl Model {
    fn boot(flags: Flags, kinds: &[Kind], waits: bool) -> Self {
        let (stage, next) = (Stage::default(), kinds.len() as Key);
        let mut model = Model {
            flags,
            kids: (0..).zip(kinds).map(|(id, kind)| Kid::of(id, *kind)).collect(),
            next,
            restarts: Vec::new(),
            group_since: Duration::ZERO,
            groups: 0,
            waits,
            now: Duration::ZERO,
            stage,
            end: None,
        };
        for at in 0..model.kids.len() {
            model.start(at);
        }
        model
    }

    fn start(&mut self, at: usize) -> bool {
        let kid = &mut self.kids[at];
        kid.generation += 1;
        kid.up = self.stage.start(kid.id);
        (kid.since, kid.born_in) = (self.now, self.groups);
        kid.up
    }

    /// Stops the kids from `first` on, the last one first.
    fn stop_from(&mut self, first: usize) {
        for kid in self.kids[first..].iter_mut().rev().filter(|kid| kid.up) {
            kid.fall(self.now);
            self.stage.stop(kid.id);
        }
    }

    fn finish(&mut self, how: &'static str) {
        self.stop_from(0);
        self.end = Some(how);
    }

    fn is_kept(&self, at: usize) -> bool {
        self.flags.strategy.is_some() && self.kids[at].kind.restart != Restart::Temporary
    }

    fn exit(&mut self, at: usize, normal: bool) {
        if !self.kids[at].up {
            return;
        }
        self.kids[at].fall(self.now);
        let kind = self.kids[at].kind;
        if kind.restart == Restart::Permanent || kind.restart == Restart::Transient && !normal {
            self.restart(self.kids[at].id);
            return;
        }
        if !self.is_kept(at) {
            self.kids.remove(at);
        }
        let left = self.kids.iter().any(|kid| kid.kind.significant && kid.up);
        let done = match self.flags.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::Any => true,
            AutoShutdown::All => !left,
        };
        if kind.significant && done {
            self.finish("done");
        }
    }

    fn restart(&mut self, id: Key) {
        let mut failed = id;
        loop {
            let at = self.kids.iter().position(|kid| kid.id == failed).expect("who failed is known");
            // Here an end is heard after a restart has gone through. Where that took no time, and the child is one that it left
            // alone, the two ended in the same instant, and are one restart.
            let takes_others = matches!(self.flags.strategy, Some(Strategy::OneForAll | Strategy::RestForOne));
            let joins = takes_others && self.kids[at].born_in < self.groups && self.group_since == self.now;
            if !joins {
                self.restarts.push(self.now);
            }
            let recent = |then: &&Duration| self.now.saturating_sub(**then) <= self.flags.intensity.within;
            if !joins && self.restarts.iter().filter(recent).count() > self.flags.intensity.restarts_max as usize {
                self.finish("gave up");
                return;
            }
            if takes_others && !joins {
                (self.group_since, self.groups) = (self.now, self.groups + 1);
            }
            let kid = &mut self.kids[at];
            self.stage.log.push(format!("{} waits {:?}", kid.id, backoff(self.waits).delay(kid.failures, 0.5)));
            kid.failures += 1;
            let first = match self.flags.strategy {
                None | Some(Strategy::OneForOne) => {
                    if self.start(at) {
                        return;
                    }
                    continue;
                }
                Some(Strategy::OneForAll) => 0,
                Some(Strategy::RestForOne) => at,
            };
            self.stop_from(first);
            let mut place = 0;
            self.kids.retain(|kid| {
                place += 1;
                place <= first || kid.kind.restart != Restart::Temporary
            });
            match (first..self.kids.len()).find(|at| !self.start(*at)) {
                Some(at) => failed = self.kids[at].id,
                None => return,
            }
        }
    }

    fn take(&mut self, step: Step) {
        let at = |whom: usize| whom % self.kids.len().max(1);
        match step {
            Step::Wait(seconds) => self.now += SECOND * u32::try_from(seconds).expect("a short wait"),
            Step::Add(kind) => {
                self.kids.push(Kid::of(self.next, kind));
                self.next += 1;
                if !self.start(self.kids.len() - 1) {
                    self.kids.pop();
                }
            }
            _ if self.kids.is_empty() => {}
            Step::Exit(whom, normal) => self.exit(at(whom), normal),
            Step::Terminate(whom) => {
                let at = at(whom);
                if self.kids[at].up {
                    self.kids[at].fall(self.now);
                    self.stage.stop(self.kids[at].id);
                }
                if !self.is_kept(at) {
                    self.kids.remove(at);
                }
            }
            Step::Restart(whom) => {
                let at = at(whom);
                if !self.kids[at].up {
                    self.kids[at].failures = 0;
                    self.start(at);
                }
            }
            Step::Delete(whom) => {
                let at = at(whom);
                if !self.kids[at].up {
                    self.kids.remove(at);
                }
            }
            Step::Spoil(whom, times) => {
                self.stage.spoilt.insert(self.kids[at(whom)].id, times);
            }
            Step::Stale(_) => {}
        }
    }
}

/// The machine, with children that answer at once.
struct Play {
    machine: Machine,
    waits: bool,
    now: Duration,
    stage: Stage,
    owed: VecDeque<Event>,
    end: Option<&'static str>,
}

/// Returns the waits of a child; `waits` says whether it waits before it is started again, for longer each time.
fn backoff(waits: bool) -> Backoff {
    let (first, max) = if waits { (SECOND, 8 * SECOND) } else { (Duration::ZERO, Duration::ZERO) };
    Backoff { first, max, jitter_ratio: 0.0, healthy_after: HEALTHY_AFTER }
}

fn rules(kind: Kind, waits: bool) -> Arc<Rules> {
    let Kind { restart, significant } = kind;
    let backoff = backoff(waits);
    Arc::new(Rules { restart, significant, backoff, failures_max: u32::MAX, ..Rules::of_an_actor() })
}

impl Play {
    fn boot(flags: Flags, kinds: &[Kind], waits: bool) -> Self {
        let children = (0..).zip(kinds).map(|(key, kind)| (key, rules(*kind, waits), 0)).collect();
        let (machine, stage) = (Machine::new(flags, children), Stage::default());
        let mut play = Play { machine, waits, now: Duration::ZERO, stage, owed: VecDeque::new(), end: None };
        play.hear(Event::Boot);
        play
    }

    fn hear(&mut self, event: Event) {
        self.owed.push_back(event);
        while let Some(event) = self.owed.pop_front() {
            for effect in self.machine.on(self.now, 0.5, event) {
                self.answer(effect);
            }
        }
    }

    fn answer(&mut self, effect: Effect) {
        match effect {
            Effect::Start { key, generation } => {
                let started = if self.stage.start(key) {
                    Event::Started { key, generation }
                } else {
                    Event::StartFailed { key, generation, reason: String::new() }
                };
                self.owed.push_back(started);
            }
            Effect::Stop { key, generation } => {
                self.stage.stop(key);
                self.owed.push_back(Event::Exited { key, generation, exit: Exit::Normal });
            }
            Effect::Tell { key, kind: EventKind::RestartScheduled { delay }, .. } => {
                self.stage.log.push(format!("{key} waits {delay:?}"));
            }
            // A wait is over before anything else happens: the model does not wait.
            Effect::Arm { key, generation, timer: Timer::Backoff, .. } => {
                self.owed.push_back(Event::Overdue { key, generation, timer: Timer::Backoff });
            }
            Effect::ArmGroup { token, .. } => self.owed.push_back(Event::GroupDue { token }),
            Effect::Finished(outcome) => {
                self.end = Some(match outcome {
                    Outcome::Stopped => "stopped",
                    Outcome::BootFailed { .. } => "did not boot",
                    Outcome::GaveUp { .. } => "gave up",
                    Outcome::Done { .. } => "done",
                });
            }
            _ => {}
        }
    }

    fn up(&self) -> Vec<(Key, u64)> {
        let up = self.machine.children.iter().filter(|(_, child)| child.is_alive());
        up.map(|(key, child)| (*key, child.generation)).collect()
    }

    /// Does what the model is about to do.
    fn take(&mut self, step: Step, model: &Model) {
        let picked = |whom: usize| model.kids.get(whom % model.kids.len().max(1));
        match step {
            Step::Wait(seconds) => self.now += SECOND * u32::try_from(seconds).expect("a short wait"),
            Step::Add(newborn) => self.hear(Event::Add { key: model.next, rules: rules(newborn, self.waits) }),
            Step::Exit(whom, normal) => {
                if let Some(kid) = picked(whom) {
                    let exit = if normal { Exit::Normal } else { Exit::Killed };
                    self.hear(Event::Exited { key: kid.id, generation: kid.generation, exit });
                }
            }
            Step::Terminate(whom) => {
                if let Some(kid) = picked(whom) {
                    self.hear(Event::Terminate { key: kid.id, forget: false });
                }
            }
            // The supervisor itself refuses these for children that are up, before the machine hears of it.
            Step::Restart(whom) => {
                if let Some(kid) = picked(whom).filter(|kid| !kid.up) {
                    self.hear(Event::Restart { key: kid.id });
                }
            }
            Step::Delete(whom) => {
                if let Some(kid) = picked(whom).filter(|kid| !kid.up) {
                    self.hear(Event::Terminate { key: kid.id, forget: true });
                }
            }
            Step::Spoil(whom, times) => {
                if let Some(kid) = picked(whom) {
                    self.stage.spoilt.insert(kid.id, times);
                }
            }
            Step::Stale(whom) => {
                if let Some(kid) = picked(whom) {
                    let (key, generation) = (kid.id, kid.generation.saturating_sub(1));
                    for timer in [Timer::Start, Timer::Stop, Timer::Kill, Timer::Backoff] {
                        self.hear(Event::Overdue { key, generation, timer });
                        self.hear(Event::Exited { key, generation, exit: Exit::Killed });
                    }
                }
            }
        }
    }
}

fn kinds() -> impl Generate<Value = Kind> {
    let kind = |(restart, significant): (Restart, bool)| Kind {
        restart,
        significant: significant && restart != Restart::Permanent,
    };
    (restarts(), any::<bool>()).prop_map(kind)
}

/// Makes a step of three numbers; drawing the numbers alone keeps a hundred thousand sequences affordable.
fn step((what, whom, much): (u8, u8, u8)) -> Step {
    let whom = usize::from(whom);
    let restart = [Restart::Permanent, Restart::Transient, Restart::Temporary][usize::from(much) % 3];
    match what % 16 {
        0..=3 => Step::Exit(whom, false),
        4..=6 => Step::Exit(whom, true),
        7 => Step::Terminate(whom),
        8 => Step::Restart(whom),
        9 => Step::Delete(whom),
        10 => Step::Add(Kind { restart, significant: much > 127 && restart != Restart::Permanent }),
        11 => Step::Spoil(whom, u32::from(much % 3)),
        12 => Step::Stale(whom),
        _ => Step::Wait(u64::from(much % 4)),
    }
}

fn auto_shutdown(number: u8) -> AutoShutdown {
    [AutoShutdown::Never, AutoShutdown::Any, AutoShutdown::All][usize::from(number) % 3]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(SEQUENCES) })]

    #[test]
    fn case_093_a_machine_does_what_a_supervisor_does_that_waits(
        strategy in orders(),
        restarts_max in 0_u32..5,
        auto in any::<u8>(),
        waits in any::<bool>(),
        kinds in vec(kinds(), 0..5),
        steps in vec(any::<(u8, u8, u8)>(), STEPS..=STEPS),
    ) {
        let intensity = Intensity { restarts_max, within: 5 * SECOND };
        let flags = Flags { strategy, intensity, auto_shutdown: auto_shutdown(auto) };
        let boot = || (Model::boot(flags, &kinds, waits), Play::boot(flags, &kinds, waits));
        let (mut model, mut play) = boot();
        for step in steps.into_iter().map(step) {
            if model.end.is_some() {
                // As its parent would, so that there are as many steps as there are.
                (model, play) = boot();
            }
            // A nursery keeps nobody who could be restarted or deleted.
            let refused = strategy.is_none() && matches!(step, Step::Restart(_) | Step::Delete(_));
            if refused {
                continue;
            }
            play.take(step, &model);
            model.take(step);
            if strategy.is_none() && model.end.is_some() {
                // All at once has no order.
                model.stage.log.sort();
                play.stage.log.sort();
            }
            prop_assert_eq!(&play.stage.log, &model.stage.log);
            prop_assert_eq!(play.end, model.end);
            let up = model.kids.iter().filter(|kid| kid.up).map(|kid| (kid.id, kid.generation));
            prop_assert_eq!(play.up(), up.collect::<Vec<_>>());
            play.stage.log.clear();
            model.stage.log.clear();
        }
    }
}
