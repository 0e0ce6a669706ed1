//! What a machine does at one event, effect by effect: whom it answers, what it tells, and what it arms.

use super::*;

fn waiting() -> Arc<Rules> {
    rules(Permanent)
}

/// Lets a machine hear of `event`, and returns what it does.
fn after(machine: &mut Machine, event: Event) -> Vec<Effect> {
    machine.on(Duration::ZERO, 0.5, event)
}

/// Returns a machine whose permanent children are all up.
fn up(order: Order, restarts_max: u32, children: u64) -> Machine {
    let intensity = Intensity { restarts_max, within: 5 * SECOND };
    let flags = Flags { strategy: order, intensity, auto_shutdown: AutoShutdown::Never };
    let mut machine = Machine::new(flags, (0..children).map(|key| (key, waiting(), 0)).collect());
    after(&mut machine, Event::Boot);
    for key in 0..children {
        after(&mut machine, Event::Started { key, generation: 1 });
    }
    machine
}

fn fails(machine: &mut Machine, key: Key, generation: u64) -> Vec<Effect> {
    after(machine, Event::Exited { key, generation, exit: Exit::Killed })
}

fn answers(effects: &[Effect]) -> Vec<Result<(), String>> {
    let answer = |effect: &Effect| match effect {
        Effect::Answer { answer, .. } => Some(answer.clone()),
        _ => None,
    };
    effects.iter().filter_map(answer).collect()
}

fn tells(effects: &[Effect]) -> Vec<EventKind> {
    let tell = |effect: &Effect| match effect {
        Effect::Tell { kind, .. } => Some(kind.clone()),
        _ => None,
    };
    effects.iter().filter_map(tell).collect()
}

/// Returns how long the group is to wait, if it is to begin.
fn group_wait(effects: &[Effect]) -> Option<Duration> {
    effects.iter().find_map(|effect| match effect {
        Effect::ArmGroup { after, .. } => Some(*after),
        _ => None,
    })
}

fn is_started(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Start { .. }))
}

const GONE: [Exit; 2] = [Exit::Normal, Exit::Killed];

#[test]
fn a_start_that_is_called_off_but_succeeds_is_answered_as_called_off_once_it_is_down() {
    for exit in GONE {
        let mut machine = up(Some(Strategy::OneForOne), 1, 1);
        assert!(is_started(&after(&mut machine, Event::Add { key: 7, rules: waiting() })));
        let asked = after(&mut machine, Event::Terminate { key: 7, forget: false });
        assert_eq!(asked, [Effect::CancelStart { key: 7, generation: 1 }]);
        let too_late = after(&mut machine, Event::Started { key: 7, generation: 1 });
        assert_eq!(answers(&too_late), []);
        assert!(too_late.contains(&Effect::Stop { key: 7, generation: 1 }), "{too_late:?}");
        let gone = after(&mut machine, Event::Exited { key: 7, generation: 1, exit });
        assert_eq!(answers(&gone), [Err(CALLED_OFF.to_owned())]);
        assert!(gone.contains(&Effect::Forget { key: 7 }), "{gone:?}");
    }
}

#[test]
fn an_addition_that_is_called_off_is_answered_told_and_forgotten() {
    let mut machine = up(Some(Strategy::OneForOne), 1, 1);
    after(&mut machine, Event::Add { key: 7, rules: waiting() });
    after(&mut machine, Event::Terminate { key: 7, forget: false });
    let ended = Event::StartFailed { key: 7, generation: 1, reason: CALLED_OFF.to_owned() };
    let gone = after(&mut machine, ended);
    assert_eq!(answers(&gone), [Err(CALLED_OFF.to_owned())]);
    assert_eq!(tells(&gone), [EventKind::Stopped]);
    assert!(gone.contains(&Effect::Forget { key: 7 }) && !gone.contains(&Effect::Rest { key: 7 }), "{gone:?}");
}

#[test]
fn a_restart_by_hand_that_is_called_off_is_answered_and_the_child_stays_known() {
    let mut machine = up(Some(Strategy::OneForOne), 1, 1);
    after(&mut machine, Event::Terminate { key: 0, forget: false });
    after(&mut machine, Event::Exited { key: 0, generation: 1, exit: Exit::Normal });
    assert!(is_started(&after(&mut machine, Event::Restart { key: 0 })));
    after(&mut machine, Event::Terminate { key: 0, forget: false });
    let ended = Event::StartFailed { key: 0, generation: 2, reason: CALLED_OFF.to_owned() };
    let gone = after(&mut machine, ended);
    assert_eq!((answers(&gone), tells(&gone)), (vec![Err(CALLED_OFF.to_owned())], vec![EventKind::Stopped]));
    assert!(gone.contains(&Effect::Rest { key: 0 }) && !gone.contains(&Effect::Forget { key: 0 }), "{gone:?}");
    assert_eq!(machine.stand(0), Stand::Down);
}

#[test]
fn a_restart_by_hand_forgets_the_failures_before_it() {
    let mut machine = up(Some(Strategy::OneForOne), 9, 1);
    let scheduled = |effects: &[Effect]| {
        tells(effects).into_iter().find_map(|kind| match kind {
            EventKind::RestartScheduled { delay } => Some(delay),
            _ => None,
        })
    };
    assert_eq!(scheduled(&fails(&mut machine, 0, 1)), Some(Duration::ZERO));
    after(&mut machine, Event::Started { key: 0, generation: 2 });
    assert_eq!(scheduled(&fails(&mut machine, 0, 2)), Some(SECOND));
    // It waits, is called off, and is started by hand.
    let off = after(&mut machine, Event::Terminate { key: 0, forget: false });
    assert!(off.contains(&Effect::Disarm { key: 0 }) && off.contains(&Effect::Rest { key: 0 }), "{off:?}");
    after(&mut machine, Event::Restart { key: 0 });
    assert_eq!(answers(&after(&mut machine, Event::Started { key: 0, generation: 3 })), [Ok(())]);
    assert_eq!(scheduled(&fails(&mut machine, 0, 3)), Some(Duration::ZERO));
}

#[test]
fn a_group_waits_as_long_as_the_one_of_its_failures_that_waits_longest() {
    // One of the two has failed before and waits for a second, the other has not; the last one is still to be stopped.
    for has_failed in [0, 2] {
        let mut machine = up(Some(Strategy::RestForOne), 9, 4);
        machine.change(has_failed, |child| child.failures = 1);
        for key in [2, 0] {
            assert_eq!(group_wait(&fails(&mut machine, key, 1)), None);
        }
        for key in [3, 1] {
            let down = after(&mut machine, Event::Exited { key, generation: 1, exit: Exit::Normal });
            assert_eq!(group_wait(&down), (key == 1).then_some(SECOND), "{has_failed} has failed before");
            assert!(!is_started(&down));
        }
    }
}

#[test]
fn a_failure_that_joins_a_group_that_waits_does_not_shorten_the_wait() {
    let mut machine = up(Some(Strategy::RestForOne), 9, 2);
    machine.change(1, |child| child.failures = 1);
    assert_eq!(group_wait(&fails(&mut machine, 1, 1)), Some(SECOND));
    assert_eq!(group_wait(&fails(&mut machine, 0, 1)), Some(SECOND));
}

#[test]
fn a_group_restart_that_waits_for_nothing_is_an_event_of_its_own_all_the_same() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        let mut machine = up(Some(strategy), 1, 2);
        fails(&mut machine, 1, 1);
        let down = if strategy == Strategy::OneForAll {
            after(&mut machine, Event::Exited { key: 0, generation: 1, exit: Exit::Normal })
        } else {
            // Whoever ended in the same instant joins the restart of the rest.
            fails(&mut machine, 0, 1)
        };
        let token = down.iter().find_map(|effect| match effect {
            Effect::ArmGroup { token, after } => after.is_zero().then_some(*token),
            _ => None,
        });
        assert!(token.is_some() || strategy == Strategy::RestForOne, "{down:?}");
        assert!(!is_started(&down), "{down:?}");
        let token = machine.tokens;
        assert!(is_started(&after(&mut machine, Event::GroupDue { token })));
    }
}

#[test]
fn a_shutdown_calls_off_what_was_to_come_up_again_and_tells_so() {
    let mut machine = up(Some(Strategy::OneForAll), 9, 2);
    fails(&mut machine, 1, 1);
    after(&mut machine, Event::Exited { key: 0, generation: 1, exit: Exit::Normal });
    let ended = after(&mut machine, Event::Shutdown);
    let told = ended.iter().filter_map(|effect| match effect {
        Effect::Tell { key, kind: EventKind::Stopped, .. } => Some(*key),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [0, 1]);
    assert!(ended.contains(&Effect::Finished(Outcome::Stopped)));
    assert!(!is_started(&ended));
}

#[test]
fn a_significant_sibling_that_waits_for_its_restart_is_not_done() {
    let significant = Rules { significant: true, ..*rules(Transient) };
    let intensity = Intensity { restarts_max: 9, within: 5 * SECOND };
    let flags = Flags { strategy: Some(Strategy::OneForOne), intensity, auto_shutdown: AutoShutdown::All };
    let mut machine = Machine::new(flags, (0..2).map(|key| (key, Arc::new(significant), 0)).collect());
    after(&mut machine, Event::Boot);
    for key in 0..2 {
        after(&mut machine, Event::Started { key, generation: 1 });
    }
    fails(&mut machine, 0, 1);
    after(&mut machine, Event::Started { key: 0, generation: 2 });
    fails(&mut machine, 0, 2);
    assert_eq!(machine.stand(0), Stand::Restarting);
    after(&mut machine, Event::Exited { key: 1, generation: 1, exit: Exit::Normal });
    assert!(!machine.is_closing());
    after(&mut machine, Event::Overdue { key: 0, generation: 2, timer: Timer::Backoff });
    after(&mut machine, Event::Started { key: 0, generation: 3 });
    let done = after(&mut machine, Event::Exited { key: 0, generation: 3, exit: Exit::Normal });
    assert!(done.contains(&Effect::Finished(Outcome::Done { key: 0 })), "{done:?}");
}
