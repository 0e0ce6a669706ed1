//! Services that are lent: whatever ends a loan, the service runs with its own settings again, and nothing is pending.

use std::time::Duration;

use super::*;
use crate::{
    facts::{Loan, LoanStep, Measurement, Settings, loans},
    seams::{Assignment, Borrower, Errand, Purpose, Untried},
    testing::{in_place, rate},
};

const ALWAYS: &str = "mon-sun";

/// The first day of 1970 was a Thursday.
const NEVER: &str = "mon-wed";

fn request(number: u32) -> Promotion {
    let mut promotion = promotion(&[("SEQS", 64)]);
    promotion.id = crate::facts::PromotionId::new(format!("p-{number}"));
    promotion.origin = Origin::Trials(experiment().id);
    promotion
}

async fn open_lent(world: &World) -> Room {
    let room = open_of(world, permits(world), in_place(ALWAYS)).await;
    lend(&room).await;
    room
}

async fn lend(room: &Room) {
    room.clear(request(1));
    eventually(|| open_loans(&room.world) == 1).await;
}

fn open_loans(world: &World) -> usize {
    loans(world.journal.facts(&[Kind::Loan, Kind::LoanStep])).into_iter().filter(|(_, is_open)| *is_open).count()
}

/// Returns how often each kind of step was taken: applied, ended, stuck.
fn steps(world: &World) -> (usize, usize, usize) {
    let of = |is_it: fn(&LoanStep) -> bool| {
        let facts = world.journal.facts(&[Kind::LoanStep]);
        facts.iter().filter(|fact| matches!(fact, Fact::LoanStep { step, .. } if is_it(step))).count()
    };
    (
        of(|step| matches!(step, LoanStep::Applies { .. })),
        of(|step| matches!(step, LoanStep::Ended { .. })),
        of(|step| matches!(step, LoanStep::Stuck { .. })),
    )
}

fn why_ended(world: &World) -> String {
    let why = |fact| match fact {
        Fact::LoanStep { step: LoanStep::Ended { why }, .. } => Some(why),
        _ => None,
    };
    world.journal.facts(&[Kind::LoanStep]).into_iter().filter_map(why).next_back().unwrap_or_default()
}

type Answer = ractor::concurrency::OneshotReceiver<Result<Option<Measurement>, Untried>>;

fn send(room: &Room, seqs: i64) -> Answer {
    let (reply, answer) = ractor::concurrency::oneshot();
    let settings: Settings = [(key("SEQS"), Value::Integer(seqs)), (key("WAIT"), Value::Integer(20))].into();
    let assignment = Assignment {
        label: format!("x.g1.t{seqs:02}"),
        settings,
        unset: Vec::new(),
        seed: 1,
        purpose: Purpose::Experiment,
        within: Duration::from_secs(10),
        usual: None,
    };
    let errand = Errand {
        domain: "lab".to_owned(),
        whose: Borrower::Experiment(experiment().id),
        assignment: Some(assignment),
        reply: reply.into(),
    };
    room.socket.send(Msg::Sent(errand)).unwrap();
    answer
}

async fn try_it(room: &Room, seqs: i64) -> Result<Option<Measurement>, Untried> {
    tokio::time::timeout(SOON, send(room, seqs)).await.unwrap().unwrap()
}

#[track_caller]
fn check_own(world: &World) {
    assert_eq!(world.env.text(), OLD);
    assert!(world.services.agrees_with_env());
    assert_eq!(world.pending.text(), None);
    assert!(!world.env.is_reserved());
    assert_eq!(world.guard.watches(), [""; 0]);
}

async fn check_returned(world: &World, part: &str) {
    eventually(|| open_loans(world) == 0).await;
    let why = why_ended(world);
    assert!(why.contains(part), "{why}");
    check_own(world);
}

#[tokio::test]
async fn candidates_are_tried_one_after_the_other_and_its_own_settings_come_back_at_the_end() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    let mut restarts = 0;
    for (seqs, text) in
        [(2, OLD.to_owned()), (8, OLD.replace("SEQS=2", "SEQS=8")), (4, OLD.replace("SEQS=2", "SEQS=4"))]
    {
        let measured = try_it(&room, seqs).await.unwrap().unwrap();
        assert_eq!(measured.in_effect["SEQS"], seqs.to_string());
        assert_eq!(world.env.text(), text);
        let pending = Pending::from_text(&world.pending.text().unwrap()).unwrap();
        assert!(pending.always_restart && pending.deployment.as_str() == "l-1", "{pending:?}");
        let held: Vec<&str> = pending.keys.values().map(|held| held.new.as_str()).collect();
        assert_eq!(held, if seqs == 2 { vec![] } else { vec![seqs.to_string()] });
        // Its own settings are measured after a restart too, so that all is alike.
        restarts += 1;
        assert_eq!((world.services.restarts(), world.guard.watches().len()), (restarts, 1));
    }
    let (reply, answer) = ractor::concurrency::oneshot();
    let (domain, whose) = ("lab".to_owned(), Borrower::Experiment(experiment().id));
    room.socket.send(Msg::Sent(Errand { domain, whose, assignment: None, reply: reply.into() })).unwrap();
    assert_eq!(answer.await.unwrap(), Ok(None));
    check_returned(&world, "the experiment is over").await;
    assert_eq!((steps(&world), world.services.restarts()), ((3, 1, 0), 4));
}

#[tokio::test]
async fn a_candidate_that_does_not_start_has_failed_and_the_loan_goes_on() {
    let world = World::with_env(OLD);
    world.services.script(|text| {
        let is_too_much = text.contains("SEQS=9");
        let died = || ServiceError::DidNotStart("no memory for cache blocks".to_owned());
        if is_too_much { Err(died()) } else { Ok(()) }
    });
    let room = open_lent(&world).await;
    let failed = try_it(&room, 9).await.unwrap_err();
    assert!(matches!(&failed, Untried::Failed(failure) if failure.kind == FailureKind::DidNotStart), "{failed}");
    check_own(&world);
    assert!(try_it(&room, 8).await.is_ok());
    assert_eq!(open_loans(&world), 1);
}

#[tokio::test]
async fn a_candidate_that_the_check_refuses_has_failed_and_never_reaches_the_service() {
    let world = World::with_env(OLD);
    world.services.refuse("SEQS=9");
    let room = open_lent(&world).await;
    let failed = try_it(&room, 9).await.unwrap_err();
    assert!(matches!(&failed, Untried::Failed(failure) if failure.kind == FailureKind::DidNotStart), "{failed}");
    check_own(&world);
    assert_eq!(world.services.restarts(), 0);
    assert!(try_it(&room, 8).await.is_ok());
}

#[tokio::test]
async fn a_service_that_dies_under_a_candidate_has_failed_with_it() {
    let world = World::with_env(OLD);
    let services = world.services.clone();
    world.bench.script(move |assignment| {
        services.die();
        Ok(rate(1.0, assignment))
    });
    let room = open_lent(&world).await;
    let failed = try_it(&room, 9).await.unwrap_err();
    assert!(matches!(&failed, Untried::Failed(failure) if failure.kind == FailureKind::Died), "{failed}");
    check_own(&world);
}

#[tokio::test]
async fn a_service_that_does_not_come_up_with_its_own_settings_either_is_no_ones_fault_and_is_tried_again() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    world.services.script(|_| Err(ServiceError::DidNotStart("the manager refuses".to_owned())));
    let untried = try_it(&room, 9).await.unwrap_err();
    assert!(matches!(&untried, Untried::Interrupted(why) if why.contains("do not come back either")), "{untried}");
    assert_eq!((world.env.text(), open_loans(&world)), (OLD.to_owned(), 1));
    assert!(world.pending.text().is_some(), "the guard knows of it still");
    assert_eq!(steps(&world).2, 1);
    world.services.script(|_| Ok(()));
    check_returned(&world, "back at last").await;
}

#[tokio::test]
async fn an_edit_by_hand_wins_and_ends_the_loan() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    assert!(try_it(&room, 8).await.is_ok());
    // A person takes over the candidate for another value of their own.
    let edited = OLD.replace("SEQS=2", "SEQS=3");
    world.env.set(&edited);
    let untried = try_it(&room, 4).await.unwrap_err();
    assert!(matches!(&untried, Untried::Interrupted(why) if why.contains("SEQS was edited by hand")), "{untried}");
    assert_eq!((world.env.text(), open_loans(&world)), (edited, 0));
    assert!(world.services.agrees_with_env());
    assert_eq!(world.pending.text(), None);
}

#[tokio::test]
async fn what_a_person_stops_ends_at_once_and_is_not_a_failed_trial() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    world.bench.hang(true);
    let answer = send(&room, 8);
    eventually(|| world.bench.begun().len() == 1).await;
    world.switch.stop("the rack is being moved");
    let untried = tokio::time::timeout(SOON, answer).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(&untried, Untried::Interrupted(why) if why.contains("the rack is being moved")), "{untried}");
    check_returned(&world, "the rack is being moved").await;
}

#[tokio::test]
async fn a_gate_that_takes_its_word_back_ends_the_loan() {
    let world = World::with_env(OLD);
    let says_yes = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = std::sync::Arc::clone(&says_yes);
    let permits = Outlet::to(move |permit: Permit| {
        let may = asked.load(std::sync::atomic::Ordering::SeqCst);
        permit.reply.send(if may { Ok(Authority::Person(7)) } else { Err("gate.freeze says thu".to_owned()) }).unwrap();
    });
    let room = open_of(&world, permits, in_place(ALWAYS)).await;
    lend(&room).await;
    world.bench.hang(true);
    let answer = send(&room, 8);
    eventually(|| world.bench.begun().len() == 1).await;
    says_yes.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(answer.await.unwrap(), Err(Untried::Interrupted(_))));
    check_returned(&world, "gate.freeze says thu").await;
}

#[tokio::test]
async fn what_the_guard_took_over_is_not_tried_any_more() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    world.bench.hang(true);
    let answer = send(&room, 8);
    eventually(|| world.bench.begun().len() == 1).await;
    world.pending.claim(&crate::facts::DeploymentId::new("l-1"), false);
    // Its restart looks like a death, for which the candidate is not to blame.
    world.services.die();
    assert!(matches!(answer.await.unwrap(), Err(Untried::Interrupted(why)) if why.contains("guard")));
    check_returned(&world, "guard").await;
}

#[tokio::test]
async fn nothing_is_tried_where_nobody_can_watch_over_it() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    world.guard.refuse();
    assert!(matches!(try_it(&room, 8).await, Err(Untried::Interrupted(why)) if why.contains("nobody outside")));
    check_returned(&world, "nobody outside").await;
}

#[tokio::test]
async fn an_experiment_that_is_gone_does_not_keep_the_service() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    world.bench.hang(true);
    let answer = send(&room, 8);
    eventually(|| world.bench.begun().len() == 1).await;
    drop(answer);
    check_returned(&world, "does not wait for it any more").await;
}

#[tokio::test]
async fn a_deployer_that_fails_in_a_trial_brings_its_own_settings_back_when_it_begins_anew() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    world.bench.hang(true);
    let answer = send(&room, 8);
    eventually(|| world.bench.begun().len() == 1).await;
    room.tree.kill("deployer").unwrap();
    check_returned(&world, "started anew").await;
    drop(answer);
    assert_eq!(steps(&world), (1, 1, 0));
}

#[tokio::test]
async fn a_start_takes_back_what_a_dead_daemon_left_in_a_trial() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    assert!(try_it(&room, 8).await.is_ok());
    let held = world.pending.text();
    room.tree.stop(SOON).await.unwrap();
    // As a kill leaves it: the candidate is live, and its pending file lies there.
    assert_eq!((world.env.text().contains("SEQS=8"), world.pending.text()), (true, held));
    recover(&world.seams(), &in_place(ALWAYS), &config()).await.unwrap();
    check_own(&world);
    let _room = open_of(&world, permits(&world), in_place(ALWAYS)).await;
    check_returned(&world, "started anew").await;
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_has_the_service_taken_back_at_once() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    assert!(try_it(&room, 8).await.is_ok());
    world.journal.damage();
    eventually(|| world.env.text() == OLD).await;
    world.journal.mend();
    check_returned(&world, "started anew").await;
    drop(room);
}

#[tokio::test]
async fn a_service_is_lent_in_its_windows_only_and_to_one_at_a_time() {
    let world = World::with_env(OLD);
    let room = open_of(&world, permits(&world), in_place(NEVER)).await;
    room.clear(request(1));
    room.clear(promotion(&[("SEQS", 12)]));
    assert!(matches!(try_it(&room, 8).await, Err(Untried::Interrupted(why)) if why.contains("not lent")));
    assert_eq!((world.journal.count(Kind::Loan), world.journal.count(Kind::Deployment)), (0, 0));
    room.tree.stop(SOON).await.unwrap();

    let room = open_lent(&world).await;
    room.clear(request(2));
    room.clear(promotion(&[("SEQS", 12)]));
    assert!(try_it(&room, 8).await.is_ok());
    assert_eq!((world.journal.count(Kind::Loan), world.journal.count(Kind::Deployment)), (1, 0));
}

#[tokio::test]
async fn a_change_that_is_live_and_unproven_keeps_the_service_from_being_lent() {
    let world = World::with_env(OLD);
    let room = open_of(&world, permits(&world), in_place(ALWAYS)).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    room.clear(request(1));
    assert!(matches!(try_it(&room, 8).await, Err(Untried::Interrupted(_))));
    assert_eq!(world.journal.count(Kind::Loan), 0);
    room.judge(&deployment, Ruled::Rollback);
    eventually(|| world.stage() == Stage::Closed).await;
    lend(&room).await;
}

#[tokio::test]
async fn a_change_is_planned_on_what_the_service_runs_with_by_its_own() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    assert!(try_it(&room, 8).await.is_ok());
    let (reply, answer) = ractor::concurrency::oneshot();
    let mut proposal = promotion(&[("SEQS", 12)]).as_proposed();
    proposal.origin = Origin::Person(7);
    room.socket.send(Msg::Proposed(Planning { proposal, reply: Some(reply.into()) })).unwrap();
    let planned = answer.await.unwrap().unwrap();
    assert_eq!(planned.changes[&key("SEQS")].from, Some(Value::Integer(2)));
    check_returned(&world, "somebody wants to change the service").await;
}

fn breach(metric: &str, kind: crate::facts::AnomalyKind, beside: &[&str]) -> Fact {
    let evidence = |metric: &&str| crate::facts::Evidence {
        metric: (*metric).to_owned(),
        observed: 9.0,
        expected: 1.0,
        samples: 5,
        source: "a test".to_owned(),
    };
    Fact::Anomaly(crate::facts::Anomaly {
        cycle: cycle(),
        subject: "lab".to_owned(),
        metric: metric.to_owned(),
        kind,
        observed: 9.0,
        expected: 1.0,
        spread: 0.0,
        score: 9.0,
        samples: 5,
        source: "a test".to_owned(),
        at_ms: 0,
        depth: 1,
        incident: String::new(),
        evidence: beside.iter().map(evidence).collect(),
        surge: None,
    })
}

/// Returns what became of a candidate under which this is told.
async fn tried_under(room: &Room, seqs: i64, told: Vec<Fact>) -> Untried {
    room.world.bench.hang(true);
    let begun = room.world.bench.begun().len();
    let answer = send(room, seqs);
    eventually(|| room.world.bench.begun().len() == begun + 1).await;
    room.world.write(told);
    let untried = tokio::time::timeout(SOON, answer).await.unwrap().unwrap().unwrap_err();
    room.world.bench.hang(false);
    untried
}

#[tokio::test]
async fn a_candidate_that_breaches_an_objective_which_its_own_settings_hold_has_failed() {
    use crate::facts::AnomalyKind::Objective;
    let world = World::with_env(OLD);
    // What is the reason for the question is no reason to end a trial.
    world.write(vec![breach("e2e_p95_ms", Objective, &[])]);
    let room = open_lent(&world).await;
    let told = vec![breach("e2e_p95_ms", Objective, &[]), breach("error_rate", Objective, &[])];
    let failed = tried_under(&room, 8, told).await;
    assert!(matches!(&failed, Untried::Failed(failure) if failure.detail.contains("error_rate")), "{failed}");
    check_own(&world);
    assert_eq!(open_loans(&world), 1);
}

#[tokio::test]
async fn a_breach_that_is_only_evidence_of_another_incident_ends_a_trial_as_well() {
    let world = World::with_env(OLD);
    let mut catalogue = (*in_place(ALWAYS)).clone();
    let objectives = vec![crate::facts::Objective { reading: "ttft_p95_ms".to_owned(), max: 5.0, readings: 3 }];
    catalogue.domains.get_mut("lab").unwrap().objectives = objectives;
    let room = open_of(&world, permits(&world), Arc::new(catalogue)).await;
    lend(&room).await;
    let told = vec![breach("waiting", crate::facts::AnomalyKind::Deviation, &["kv_used_ratio", "ttft_p95_ms"])];
    let failed = tried_under(&room, 8, told).await;
    assert!(matches!(&failed, Untried::Failed(failure) if failure.detail.contains("ttft_p95_ms")), "{failed}");
    check_own(&world);
}

#[tokio::test]
async fn what_a_candidate_of_an_earlier_loan_breached_is_held_against_the_next_one_that_breaches_it() {
    use crate::facts::AnomalyKind::Objective;
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    assert!(matches!(tried_under(&room, 9, vec![breach("error_rate", Objective, &[])]).await, Untried::Failed(_)));
    world.switch.stop("a test");
    eventually(|| open_loans(&world) == 0).await;
    world.switch.go();
    room.clear(request(2));
    eventually(|| open_loans(&world) == 1).await;
    assert!(matches!(tried_under(&room, 8, vec![breach("error_rate", Objective, &[])]).await, Untried::Failed(_)));
}

#[tokio::test]
async fn whoever_reads_the_service_hears_of_each_candidate_before_and_after_its_restart() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    for seqs in [8, 4] {
        assert!(try_it(&room, seqs).await.is_ok());
        for _ in 0..2 {
            assert_eq!(room.begun.next(SOON).await.as_deref(), Some("lab"));
        }
    }
}

#[tokio::test]
async fn a_loan_that_is_recorded_twice_is_one() {
    let world = World::with_env(OLD);
    let room = open_lent(&world).await;
    room.clear(request(1));
    assert!(try_it(&room, 8).await.is_ok());
    let of = |fact| match fact {
        Fact::Loan(Loan { id, .. }) => Some(id.to_string()),
        _ => None,
    };
    let ids: Vec<String> = world.journal.facts(&[Kind::Loan]).into_iter().filter_map(of).collect();
    assert_eq!(ids, ["l-1"]);
}

fn run_of(room: &Room, deployment: &Deployment, candidate: bool) -> Answer {
    let (reply, answer) = ractor::concurrency::oneshot();
    let seqs = if candidate { 12 } else { 2 };
    let assignment = Assignment {
        label: "d-1.b1.r1".to_owned(),
        settings: [(key("SEQS"), Value::Integer(seqs))].into(),
        unset: Vec::new(),
        seed: 1,
        purpose: Purpose::Validation(deployment.id.clone()),
        within: Duration::from_secs(10),
        usual: None,
    };
    let whose = Borrower::Deployment { id: deployment.id.clone(), candidate };
    let errand = Errand { domain: "lab".to_owned(), whose, assignment: Some(assignment), reply: reply.into() };
    room.socket.send(Msg::Sent(errand)).unwrap();
    answer
}

async fn deployed_in(world: &World, window: &str) -> (Room, Deployment) {
    let room = open_of(world, permits(world), in_place(window)).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    (room, deployment)
}

#[tokio::test]
async fn a_validation_that_used_the_restarts_of_its_hour_waits_with_the_old_settings() {
    let world = World::with_env(OLD);
    let (room, deployment) = deployed_in(&world, ALWAYS).await;
    let new = world.env.text();
    assert!(run_of(&room, &deployment, true).await.unwrap().is_ok());
    let run = Fact::Run {
        deployment: deployment.id.clone(),
        block: 1,
        place: 1,
        candidate: true,
        outcome: Err(crate::facts::TrialFailure { kind: FailureKind::Died, detail: String::new() }),
    };
    world.write(vec![run; 30]);
    assert_eq!(world.env.text(), new);
    let measured = world.bench.begun().len();
    let answer = run_of(&room, &deployment, true);
    eventually(|| world.env.text() == OLD && world.services.agrees_with_env()).await;
    assert_eq!((world.bench.begun().len(), world.pending.text().is_some()), (measured, true));
    drop(answer);
    room.judge(&deployment, Ruled::Rollback);
    eventually(|| world.stage() == Stage::Closed).await;
    check_own(&world);
    // What was measured for a deployment is not there for candidates any more.
    room.clear(request(1));
    eventually(|| room.is_idle()).await;
    assert_eq!(open_loans(&world), 0);
}

/// Fault 80. Once a run in place restarted the service though a person had stopped everything.
#[tokio::test]
async fn where_a_person_stopped_everything_no_side_is_brought_into_the_service_and_the_change_is_undone() {
    for candidate in [true, false] {
        let world = World::with_env(OLD);
        let (room, deployment) = deployed_in(&world, ALWAYS).await;
        let measured = world.bench.begun().len();
        world.switch.stop("the rack is being moved");
        let untried = run_of(&room, &deployment, candidate).await.unwrap().unwrap_err();
        assert!(matches!(&untried, Untried::Interrupted(why) if why.contains("the rack is being moved")), "{untried}");
        eventually(|| world.journal.count(Kind::Verdict) == 1 && world.stage() == Stage::Closed).await;
        assert_eq!((world.verdicts()[0].reason.label(), world.bench.begun().len()), ("stopped", measured));
        check_own(&world);
    }
}

#[tokio::test]
async fn a_window_that_ends_takes_an_unproven_change_back_and_blames_nobody() {
    let world = World::with_env(OLD);
    let (room, _) = deployed_in(&world, "thu").await;
    world.clock.pass(86_400);
    eventually(|| world.journal.count(Kind::Verdict) == 1 && world.stage() == Stage::Closed).await;
    let verdict = world.verdicts().remove(0);
    assert_eq!((verdict.outcome, verdict.reason.label()), (Ruled::Rollback, "window_ended"));
    assert!(!verdict.reason.blames_the_settings());
    check_own(&world);
    drop(room);
}
