//! The deployer against scripted files, services and journals.

mod guarded;

mod lent;

use std::sync::Arc;

use kloros_supervision::{ChildSpec, Collected, Outlet, Socket, Tree};

use super::{Config, Deployer, Exits, Msg, pending::Pending, recover};
use crate::{
    config::Catalogue,
    facts::{
        Approved, Authority, Autonomy, Change, Deployment, Fact, FailureKind, Kind, Origin, Promotion, Proposal,
        QuestionEnd, Reason, Ruled, Ruling, Settings, Stage, Step, Value, Verdict,
    },
    seams::{Permit, Planning, ServiceError, StopSwitch as _},
    testing::{
        Ailment, SOON, World, catalogue, cycle, deployment_of, domain, eventually, experiment, failure, house, key,
        promotion, question,
    },
};

const OLD: &str = "# by hand\nOTHER='x'\nSEQS=2\n";

struct Room {
    world: World,
    socket: Socket<Msg>,
    tree: Tree,
    deployed: Collected<Deployment>,
    begun: Collected<String>,
    verdicts: Collected<Verdict>,
    promotions: Collected<Promotion>,
    ended: Collected<QuestionEnd>,
}

fn config() -> Config {
    Config { bake_s: 0.0, undo_attempts_max: 2, ..Config::default() }
}

/// The gate's word: what was let through may go on, while nobody stopped everything.
fn permits(world: &World) -> Outlet<Permit> {
    let switch = world.switch.clone();
    Outlet::to(move |permit: Permit| {
        let may = switch.stopped().map_or(Ok(Authority::Policy(Autonomy::Trusted)), |stop| Err(stop.to_string()));
        permit.reply.send(may).unwrap();
    })
}

async fn open(world: &World) -> Room {
    open_with(world, permits(world)).await
}

async fn open_with(world: &World, permits: Outlet<Permit>) -> Room {
    open_of(world, permits, catalogue()).await
}

async fn open_of(world: &World, permits: Outlet<Permit>, catalogue: Arc<Catalogue>) -> Room {
    let socket = Socket::new("deployer");
    let (promotions, heard_promotions) = Outlet::collecting();
    let (deployed, heard_deployed) = Outlet::collecting();
    let (begun, heard_begun) = Outlet::collecting();
    let (verdicts, heard_verdicts) = Outlet::collecting();
    let (ended, heard_ended) = Outlet::collecting();
    let exits =
        Exits { promotions, permits, begun, deployed, withdrawn: Outlet::nowhere("validator"), verdicts, ended };
    let (seams, catalogue) = (world.seams(), Arc::clone(&catalogue));
    let spec = ChildSpec::actor("deployer", &socket, move || {
        let (seams, exits, config, catalogue) = (seams.clone(), exits.clone(), config(), Arc::clone(&catalogue));
        (Deployer, super::Arguments { seams, exits, config, catalogue, rest_s: 900 })
    });
    let tree = house(spec).await;
    let world = world.clone();
    let (deployed, begun, verdicts) = (heard_deployed, heard_begun, heard_verdicts);
    Room { world, socket, tree, deployed, begun, verdicts, promotions: heard_promotions, ended: heard_ended }
}

impl Room {
    /// Returns whether nothing waits to be heard.
    fn is_idle(&self) -> bool {
        self.tree.snapshot().walk().iter().all(|branch| branch.depth == 0)
    }

    fn clear(&self, promotion: Promotion) {
        let approved = Approved::by(Authority::Policy(Autonomy::Trusted), promotion);
        self.socket.send(Msg::Cleared(approved)).unwrap();
    }

    fn judge(&self, deployment: &Deployment, outcome: Ruled) {
        let verdict = Verdict { outcome, ..super::saga::Saga::rollback(deployment, Reason::Improved, 0) };
        let id = deployment.id.clone();
        let steps = vec![
            Fact::Step { deployment: id.clone(), step: Step::Measured },
            Fact::Verdict(verdict.clone()),
            Fact::Step { deployment: id, step: Step::Judged(outcome) },
        ];
        self.world.write(steps);
        self.socket.send(Msg::Judged(verdict)).unwrap();
    }
}

#[tokio::test]
async fn a_promotion_is_written_proven_and_kept_when_it_is_judged_a_success() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12), ("WAIT", 5)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    assert_eq!(world.env.text(), "# by hand\nOTHER='x'\nSEQS=12\nWAIT=5\n");
    assert!(world.services.agrees_with_env());
    assert!(world.pending.text().is_some());
    room.judge(&deployment, Ruled::Success);
    eventually(|| world.stage() == Stage::Closed).await;
    assert_eq!(world.pending.text(), None);
    assert!(world.env.text().contains("SEQS=12"));
}

/// Whatever goes wrong, there is one verdict, the old text byte for byte, and a service that runs with it.
async fn check_rollback(world: &World, expected: &str, reason: &str) {
    let room = open(world).await;
    room.clear(promotion(&[("SEQS", 12), ("WAIT", 5)]));
    eventually(|| world.journal.count(Kind::Deployment) == 1 && world.stage() == Stage::Closed).await;
    let verdicts = world.verdicts();
    assert_eq!(verdicts.len(), 1);
    assert_eq!(verdicts[0].outcome, Ruled::Rollback);
    assert_eq!(verdicts[0].reason.label(), reason);
    assert_eq!(world.env.text(), expected);
    assert!(world.services.agrees_with_env());
    assert_eq!(world.pending.text(), None);
    assert_eq!(room.verdicts.taken().len(), 1);
    assert!(room.deployed.taken().is_empty());
}

#[tokio::test]
async fn a_pending_file_that_cannot_be_written_leaves_everything_untouched() {
    let world = World::with_env(OLD);
    world.pending.refuse(true);
    check_rollback(&world, OLD, "aborted").await;
    assert_eq!(world.services.restarts(), 0);
}

#[tokio::test]
async fn an_env_file_that_cannot_be_written_leaves_everything_untouched() {
    let world = World::with_env(OLD);
    world.env.refuse(true);
    check_rollback(&world, OLD, "aborted").await;
    assert_eq!(world.services.restarts(), 0);
}

#[tokio::test]
async fn what_the_check_of_a_service_refuses_never_reaches_it() {
    let world = World::with_env(OLD);
    world.services.refuse("SEQS=12");
    check_rollback(&world, OLD, "aborted").await;
    assert_eq!(world.services.restarts(), 0);
    let reason = world.verdicts().remove(0).reason;
    let expected = "the service does not take the settings: refused: it knows no SEQS=12";
    assert!(matches!(&reason, Reason::Aborted { why } if why == expected), "{reason:?}");
}

#[tokio::test]
async fn a_service_that_does_not_start_with_the_new_values_gets_the_old_ones_back() {
    let world = World::with_env(OLD);
    world.services.script(|text| {
        let is_new = text.contains("SEQS=12");
        if is_new { Err(ServiceError::DidNotStart("no memory".into())) } else { Ok(()) }
    });
    check_rollback(&world, OLD, "not_healthy").await;
}

#[tokio::test]
async fn a_service_that_does_not_say_what_it_runs_with_gets_the_old_values_back() {
    let world = World::with_env(OLD);
    world.services.say_after_restart(Err(ServiceError::Unreachable("no answer".into())));
    world.services.script({
        let services = world.services.clone();
        let mut restarts = 0;
        move |_| {
            restarts += 1;
            if restarts == 2 {
                services.say(None);
            }
            Ok(())
        }
    });
    check_rollback(&world, OLD, "not_healthy").await;
}

#[tokio::test]
async fn a_service_that_runs_with_other_values_gets_the_old_ones_back() {
    let world = World::with_env(OLD);
    let lie = [("SEQS".to_owned(), "2".to_owned()), ("WAIT".to_owned(), "20".to_owned())];
    world.services.say_after_restart(Ok(lie.into()));
    check_rollback(&world, OLD, "not_effective").await;
}

#[tokio::test]
async fn a_person_who_edits_our_key_before_the_write_wins() {
    for read in 1..=4 {
        let world = World::with_env(OLD);
        let theirs = "OTHER='x'\nSEQS=7\n";
        world.env.set_before_read(read, theirs);
        let room = open(&world).await;
        room.clear(promotion(&[("SEQS", 12)]));
        eventually(|| world.journal.count(Kind::Deployment) == 1 && world.stage() == Stage::Closed).await;
        assert_eq!(world.verdicts()[0].reason, Reason::HumanOverride { key: key("SEQS") });
        assert_eq!(world.env.text(), theirs);
        assert_eq!(world.services.restarts(), 0);
    }
}

#[tokio::test]
async fn a_person_who_sets_our_very_value_before_the_write_keeps_it() {
    let world = World::with_env(OLD);
    world.env.set_before_read(1, "SEQS=12\n");
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    eventually(|| world.journal.count(Kind::Deployment) == 1 && world.stage() == Stage::Closed).await;
    assert_eq!(world.env.text(), "SEQS=12\n");
}

#[tokio::test]
async fn a_person_who_edits_another_key_before_the_write_keeps_the_edit() {
    let world = World::with_env(OLD);
    world.env.set_before_read(2, "OTHER='y'\nSEQS=2\n");
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    room.deployed.next(SOON).await.unwrap();
    assert_eq!(world.env.text(), "OTHER='y'\nSEQS=12\n");
}

#[tokio::test]
async fn a_persons_edit_during_the_validation_survives_the_undo_while_our_other_keys_go_back() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12), ("WAIT", 5)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    world.env.set("OTHER='x'\nSEQS=9\nWAIT=5\n");
    room.judge(&deployment, Ruled::Rollback);
    eventually(|| world.stage() == Stage::Closed).await;
    assert_eq!(world.env.text(), "OTHER='x'\nSEQS=9\n");
    assert!(world.services.agrees_with_env());
}

#[tokio::test]
async fn a_second_promotion_waits_until_the_domain_is_free() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let first = room.deployed.next(SOON).await.unwrap();
    let second = promotion(&[("WAIT", 5)]);
    room.clear(second.clone());
    room.judge(&first, Ruled::Neutral);
    eventually(|| world.stage() == Stage::Closed).await;
    assert_eq!(world.journal.count(Kind::Deployment), 1);
    // The gate offers it again.
    room.clear(second.clone());
    assert_eq!(room.deployed.next(SOON).await.unwrap().promotion, second);
    // And once more than needed.
    room.clear(first.promotion.clone());
    room.clear(second);
    let proposal = proposal(&[("SEQS", 3)]);
    plan(&room, proposal).await.unwrap();
    assert_eq!(world.journal.count(Kind::Deployment), 2);
}

#[tokio::test]
async fn a_person_can_take_a_deployment_back_while_it_is_measured() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    let recall = |reply| Msg::Recalled(deployment.id.clone(), 1000, reply);
    let verdict = room.socket.call(recall, SOON).await.unwrap().unwrap();
    assert_eq!(verdict.reason, Reason::Person { uid: 1000 });
    assert_eq!(world.env.text(), OLD);
    assert_eq!(world.stage(), Stage::Closed);
    let recall = |reply| Msg::Recalled(deployment.id.clone(), 1000, reply);
    assert!(room.socket.call(recall, SOON).await.unwrap().is_err());
}

fn proposal(settings: &[(&str, i64)]) -> Proposal {
    Proposal {
        cycle: cycle(),
        origin: Origin::Experiment(experiment().id),
        experiment: "lab_tuning".into(),
        question: Some(question(1).question_id),
        hypothesis: Some(question(1).hypothesis),
        domain: "lab".into(),
        settings: settings.iter().map(|(name, value)| (key(name), Value::Integer(*value))).collect::<Settings>(),
        fitness: None,
        at_ms: 0,
        depth: 0,
    }
}

async fn plan(room: &Room, proposal: Proposal) -> Result<Promotion, String> {
    let proposal = Proposal { origin: Origin::Person(1000), ..proposal };
    let make = |reply| Msg::Proposed(Planning { proposal, reply: Some(reply) });
    room.socket.call(make, SOON).await.unwrap()
}

#[tokio::test]
async fn a_proposal_becomes_the_difference_to_what_runs_or_the_end_of_its_question() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    let planned = plan(&room, proposal(&[("SEQS", 12), ("WAIT", 20)])).await.unwrap();
    assert_eq!(planned.changes.keys().collect::<Vec<_>>(), [&key("SEQS")]);
    assert_eq!(room.promotions.next(SOON).await.unwrap(), planned);
    for (settings, says) in [
        (&[("SEQS", 2)][..], "nothing would change"),
        (&[("SEQS", 65)], "outside 1 to 64"),
        (&[("KLR_AUTONOMY_LEVEL", 3)], "not a knob"),
    ] {
        let refused = plan(&room, proposal(settings)).await.unwrap_err();
        assert!(refused.contains(says), "{refused}");
    }
    assert_eq!(world.ends(), ["refused"]);
    assert_eq!(world.journal.count(Kind::Promotion), 1);
}

#[tokio::test]
async fn what_a_person_proposed_and_nobody_waited_to_hear_of_is_taken_back_at_once() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    for origin in [Origin::Person(1000), Origin::File("mine.json".to_owned())] {
        let proposal = Proposal { origin, ..proposal(&[("SEQS", 12)]) };
        let (reply, heard) = ractor::concurrency::oneshot();
        drop(heard);
        room.socket.send(Msg::Proposed(Planning { proposal, reply: Some(reply.into()) })).unwrap();
    }
    // What comes after them is answered when they are done.
    plan(&room, proposal(&[("SEQS", 13)])).await.unwrap();
    let answers = world.journal.facts(&[Kind::Answer]);
    assert_eq!(answers.len(), 1, "a file is asked for again: {answers:?}");
    assert!(matches!(&answers[0], Fact::Answer(answer) if !answer.approved && answer.by_uid == Some(1000)));
    assert_eq!(world.journal.count(Kind::Promotion), 2);
}

#[tokio::test]
async fn a_winner_that_is_proposed_twice_leads_to_one_promotion_also_when_it_runs_already() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    let propose = || room.socket.send(Msg::Proposed(Planning { proposal: proposal(&[("SEQS", 12)]), reply: None }));
    propose().unwrap();
    room.clear(room.promotions.next(SOON).await.unwrap());
    room.deployed.next(SOON).await.unwrap();
    propose().unwrap();
    plan(&room, proposal(&[("WAIT", 3)])).await.unwrap();
    assert_eq!(world.ends(), [""; 0]);
}

#[tokio::test]
async fn a_journal_that_fails_at_any_append_leaves_nothing_half_applied_after_the_next_start() {
    for append in 1..=12 {
        let world = World::with_env(OLD);
        let room = open(&world).await;
        world.journal.break_at(append);
        room.clear(promotion(&[("SEQS", 12), ("WAIT", 5)]));
        let over = || !room.deployed.taken().is_empty() || world.journal.is_broken();
        eventually(over).await;
        room.tree.kill("deployer").ok();
        room.tree.stop(SOON).await.ok();
        // Without a journal nothing can be proven, and nothing unproven stays.
        let before = world.env.text();
        if recover(&world.seams(), &catalogue(), &config()).await.is_err() {
            assert_eq!(world.env.text(), OLD, "append {append}, was {before:?}");
        }
        world.journal.mend();
        recover(&world.seams(), &catalogue(), &config()).await.unwrap();
        assert_eq!(world.env.text(), OLD, "append {append}");
        assert!(world.services.agrees_with_env(), "append {append}");
        assert_eq!(world.pending.text(), None);
        if world.journal.count(Kind::Deployment) == 1 {
            assert_eq!(world.stage(), Stage::Closed, "append {append}");
            assert_eq!(world.verdicts().len(), 1);
        }
    }
}

const FORWARD: [Step; 6] =
    [Step::Intended, Step::Armed, Step::Applied, Step::Restarted, Step::Proven { incarnation: None }, Step::Measured];

/// Puts the world where a deployment of `SEQS` and `WAIT` leaves it after so many steps.
fn interrupted(steps: usize) -> (World, Deployment) {
    let world = World::with_env(OLD);
    let deployment = deployment_of(promotion(&[("SEQS", 12), ("WAIT", 5)]));
    world.write_deployment(&deployment, &FORWARD[..steps]);
    if steps >= 2 {
        let current = [(key("SEQS"), Some("2".to_owned())), (key("WAIT"), None)].into();
        let pending = Pending::of(&deployment, &domain("lab"), &current, String::new());
        world.pending.set(Some(pending.to_text().unwrap()));
    }
    (world, deployment)
}

const NEW: &str = "# by hand\nOTHER='x'\nSEQS=12\nWAIT=5\n";

#[tokio::test]
async fn recovery_goes_back_from_every_stage_before_the_verdict() {
    for steps in 0..=FORWARD.len() {
        // The write may be done although the step that says so is missing.
        for is_written in [steps > 2, steps >= 2] {
            let (world, _) = interrupted(steps);
            if is_written {
                world.env.set(NEW);
            }
            for _ in 0..2 {
                recover(&world.seams(), &catalogue(), &config()).await.unwrap();
                assert_eq!(world.stage(), Stage::Closed, "after {steps} steps");
                assert_eq!(world.env.text(), OLD);
                assert!(world.services.agrees_with_env());
                assert_eq!(world.pending.text(), None);
                assert_eq!(world.verdicts().len(), 1);
                assert_eq!(world.verdicts()[0].reason, Reason::Crash);
            }
        }
    }
}

#[tokio::test]
async fn recovery_goes_forward_from_every_verdict() {
    for outcome in [Ruled::Success, Ruled::Neutral, Ruled::Rollback] {
        let (world, deployment) = interrupted(6);
        world.env.set(NEW);
        let id = deployment.id.clone();
        world.write(vec![Fact::Step { deployment: id, step: Step::Judged(outcome) }]);
        recover(&world.seams(), &catalogue(), &config()).await.unwrap();
        assert_eq!(world.stage(), Stage::Closed);
        assert_eq!(world.env.text(), if outcome == Ruled::Rollback { OLD } else { NEW });
        assert_eq!(world.pending.text(), None);
        assert!(world.verdicts().is_empty(), "recovery gave a second verdict");
    }
}

#[tokio::test]
async fn a_pending_file_that_is_lost_damaged_or_anothers_is_made_up_for_by_the_journal() {
    let (_, other) = interrupted(2);
    let other = Deployment { id: crate::facts::DeploymentId::new("d-other"), ..other };
    let current = [(key("SEQS"), Some("40".to_owned())), (key("WAIT"), Some("40".to_owned()))].into();
    let others = Pending::of(&other, &domain("lab"), &current, String::new()).to_text().unwrap();
    for text in [None, Some("{\"torn".to_owned()), Some(others)] {
        let (world, _) = interrupted(4);
        world.env.set(NEW);
        world.pending.set(text);
        recover(&world.seams(), &catalogue(), &config()).await.unwrap();
        assert_eq!(world.env.text(), OLD);
        assert_eq!(world.stage(), Stage::Closed);
    }
}

#[tokio::test]
async fn a_pending_file_without_a_deployment_in_the_journal_is_undone_and_a_damaged_one_kept() {
    let (armed, _) = interrupted(2);
    let world = World::with_env(NEW);
    world.pending.set(armed.pending.text());
    recover(&world.seams(), &catalogue(), &config()).await.unwrap();
    assert_eq!(world.env.text(), OLD);
    assert_eq!(world.pending.text(), None);

    let world = World::with_env(NEW);
    world.pending.set(Some("torn".to_owned()));
    recover(&world.seams(), &catalogue(), &config()).await.unwrap();
    assert_eq!(world.env.text(), NEW);
    assert!(world.pending.text().is_some());
}

#[tokio::test]
async fn what_cannot_be_undone_is_stuck_and_undone_when_it_can_be() {
    let (world, _) = interrupted(4);
    world.env.set(NEW);
    world.services.script(|_| Err(ServiceError::DidNotStart("gone".into())));
    for _ in 0..3 {
        recover(&world.seams(), &catalogue(), &config()).await.unwrap();
        assert_eq!(world.stage(), Stage::Stuck);
    }
    let failed = |fact: &Fact| matches!(fact, Fact::Step { step: Step::UndoFailed(_), .. });
    assert_eq!(world.journal.facts(&[Kind::Step]).iter().filter(|fact| failed(fact)).count(), 1);
    assert!(world.pending.text().is_some());
    world.services.script(|_| Ok(()));
    let _room = open(&world).await;
    assert_eq!(world.stage(), Stage::Closed);
    assert_eq!(world.env.text(), OLD);
}

#[tokio::test]
async fn what_is_stuck_is_undone_at_once_when_a_person_asks_again() {
    let (world, deployment) = interrupted(4);
    world.env.set(NEW);
    world.services.script(|_| Err(ServiceError::DidNotStart("gone".into())));
    let room = open(&world).await;
    assert_eq!(world.stage(), Stage::Stuck);
    let recall = || |reply| Msg::Recalled(deployment.id.clone(), 1000, reply);
    assert!(room.socket.call(recall(), SOON).await.unwrap().unwrap_err().contains("failed again"));
    world.services.script(|_| Ok(()));
    assert_eq!(room.socket.call(recall(), SOON).await.unwrap().unwrap().outcome, Ruled::Rollback);
    assert_eq!((world.stage(), world.env.text()), (Stage::Closed, OLD.to_owned()));
}

#[tokio::test]
async fn a_deployer_that_is_killed_while_it_changes_a_service_takes_the_change_back() {
    for steps in 0..=3 {
        let (world, _) = interrupted(steps);
        if steps >= 2 {
            world.env.set(NEW);
        }
        let room = open(&world).await;
        assert_eq!(world.stage(), Stage::Closed);
        assert_eq!(world.env.text(), OLD);
        assert_eq!(world.verdicts()[0].reason.label(), "aborted");
        assert_eq!(room.verdicts.taken().len(), 1);
    }
}

#[tokio::test]
async fn a_deployment_that_is_live_when_the_deployer_fails_stays_on_the_scales() {
    let (world, deployment) = interrupted(5);
    world.env.set(NEW);
    let room = open(&world).await;
    assert_eq!(room.deployed.taken(), [deployment]);
    assert_eq!(world.stage(), Stage::Healthy);
}

/// Once the old value was what the domain file takes for the default, whatever the service had really run with.
#[tokio::test]
async fn a_silent_env_file_is_planned_from_what_the_service_says_and_is_silent_again_after_the_undo() {
    let world = World::with_env(OLD);
    world.services.set_default("WAIT", "60");
    let room = open(&world).await;
    let planned = plan(&room, proposal(&[("WAIT", 20)])).await.unwrap();
    let change = Change { from: Some(Value::Integer(60)), in_file: false, to: Value::Integer(20) };
    assert_eq!(planned.changes[&key("WAIT")], change);
    room.clear(planned);
    let deployment = room.deployed.next(SOON).await.unwrap();
    assert!(world.env.text().contains("WAIT=20"));
    room.judge(&deployment, Ruled::Rollback);
    eventually(|| world.stage() == Stage::Closed).await;
    assert_eq!(world.env.text(), OLD);
    assert!(world.services.agrees_with_env());
}

#[tokio::test]
async fn an_env_file_that_was_edited_without_a_restart_is_not_planned_on() {
    let world = World::with_env(OLD);
    world.env.set("OTHER='x'\nSEQS=7\n");
    let room = open(&world).await;
    for settings in [&[("SEQS", 12)][..], &[("WAIT", 5)]] {
        let refused = plan(&room, proposal(settings)).await.unwrap_err();
        assert!(refused.contains("SEQS: the env file says 7, and the service runs with \"2\""), "{refused}");
    }
    assert_eq!(world.journal.count(Kind::Promotion), 0);
}

#[tokio::test]
async fn a_service_that_does_not_say_what_it_runs_with_is_not_planned_for() {
    let silent = Err(ServiceError::Unreachable("no answer".into()));
    for says in [silent, Ok([("WAIT".to_owned(), "20".to_owned())].into())] {
        let (world, is_down) = (World::with_env(OLD), says.is_err());
        world.services.say(Some(says));
        let room = open(&world).await;
        let make = Msg::Proposed(Planning { proposal: proposal(&[("SEQS", 12)]), reply: None });
        room.socket.send(make).unwrap();
        let end = room.ended.next(SOON).await.unwrap();
        assert_eq!(end.how, if is_down { "deferred" } else { "refused" });
        assert!(end.why.contains("does not say what it runs with"), "{}", end.why);
        assert_eq!(world.journal.count(Kind::Promotion), 0);
    }
}

/// A plan may wait for hours, and the service may have become another one meanwhile.
#[tokio::test]
async fn a_service_with_another_default_than_when_it_was_planned_for_is_left_alone() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    let planned = plan(&room, proposal(&[("WAIT", 5)])).await.unwrap();
    world.services.set_default("WAIT", "60");
    room.clear(planned);
    eventually(|| world.journal.count(Kind::Deployment) == 1 && world.stage() == Stage::Closed).await;
    assert_eq!(world.verdicts()[0].reason, Reason::HumanOverride { key: key("WAIT") });
    assert_eq!((world.env.text().as_str(), world.services.restarts()), (OLD, 0));
}

#[tokio::test]
async fn a_service_that_ails_while_it_has_to_stay_well_gets_the_old_values_back() {
    for (ailment, reason) in [(Ailment::Hiccup, "not_healthy"), (Ailment::Death, "died")] {
        let world = World::with_env(OLD);
        world.services.ail_after(0, ailment);
        check_rollback(&world, OLD, reason).await;
    }
}

#[tokio::test]
async fn a_change_is_not_made_while_the_pending_file_of_another_lies_there() {
    let (earlier, _) = interrupted(2);
    for text in [earlier.pending.text(), Some("torn".to_owned())] {
        let world = World::with_env(OLD);
        world.pending.set(text.clone());
        let room = open(&world).await;
        room.clear(promotion(&[("SEQS", 40)]));
        eventually(|| world.journal.count(Kind::Deployment) == 1 && !world.verdicts().is_empty()).await;
        assert_eq!(world.verdicts()[0].reason.label(), "aborted");
        assert_eq!(world.env.text(), OLD);
        eventually(|| world.stage() == Stage::Closed).await;
        assert_eq!(world.pending.text(), text, "it is not ours to remove");
    }
}

/// Once the change stayed until the next start of the daemon.
#[tokio::test]
async fn a_journal_that_is_full_while_a_change_is_made_has_it_taken_back_at_once() {
    for append in 2..=6 {
        let world = World::with_env(OLD);
        let room = open(&world).await;
        world.journal.break_at(append);
        room.clear(promotion(&[("SEQS", 12), ("WAIT", 5)]));
        eventually(|| world.journal.is_broken()).await;
        eventually(|| world.env.text() == OLD && world.services.agrees_with_env()).await;
        assert_eq!(world.verdicts(), [], "append {append}");
        world.journal.mend();
        eventually(|| world.stage() == Stage::Closed).await;
        assert_eq!((world.verdicts().len(), world.env.text().as_str()), (1, OLD), "append {append}");
        assert_eq!(world.pending.text(), None);
    }
}

#[tokio::test]
async fn a_change_whose_measurement_cannot_be_written_down_is_taken_back_at_once() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    world.journal.break_at(1);
    room.socket.send(Msg::Unrecorded(deployment.id)).unwrap();
    eventually(|| world.env.text() == OLD && world.services.agrees_with_env()).await;
    world.journal.mend();
    eventually(|| world.stage() == Stage::Closed).await;
    assert_eq!(world.verdicts()[0].reason.label(), "aborted");
    assert_eq!(world.env.text(), OLD);
}

#[tokio::test]
async fn a_journal_that_is_removed_while_nobody_writes_has_the_change_taken_back_at_once() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12), ("WAIT", 5)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    world.journal.damage();
    eventually(|| world.env.text() == OLD && world.services.agrees_with_env()).await;
    assert_eq!(world.verdicts(), []);
    // The journal comes back, and with it a deployment that it takes for live.
    world.journal.mend();
    eventually(|| !world.verdicts().is_empty() && world.stage() == Stage::Closed).await;
    assert_eq!(world.verdicts()[0].deployment, deployment.id);
    assert_eq!(world.verdicts()[0].reason.label(), "aborted");
    assert_eq!((world.env.text().as_str(), world.pending.text()), (OLD, None));
}

#[tokio::test]
async fn recovery_without_a_readable_journal_undoes_by_the_pending_file_and_says_so() {
    for steps in 2..=FORWARD.len() {
        let (world, _) = interrupted(steps);
        world.env.set(NEW);
        world.services.load();
        world.journal.damage();
        for _ in 0..2 {
            recover(&world.seams(), &catalogue(), &config()).await.unwrap_err();
            assert_eq!(world.env.text(), OLD, "after {steps} steps");
            assert!(world.services.agrees_with_env());
        }
        assert_eq!(world.services.restarts(), 1, "what runs with the old values is not restarted");
        world.journal.mend();
        recover(&world.seams(), &catalogue(), &config()).await.unwrap();
        assert_eq!((world.stage(), world.env.text().as_str()), (Stage::Closed, OLD));
    }
}

#[tokio::test]
async fn a_proven_change_is_not_taken_back_by_a_journal_that_fails_after_the_verdict() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    world.journal.break_at(2);
    room.judge(&deployment, Ruled::Success);
    eventually(|| world.pending.text().is_none()).await;
    world.journal.mend();
    eventually(|| world.stage() == Stage::Closed).await;
    assert!(world.env.text().contains("SEQS=12"));
}

/// Puts two promotions before the deployer, of which the first is live, and judges that one.
async fn overtaken(second: &[(&str, i64)], outcome: Ruled) -> (World, Room, Promotion) {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    let first = plan(&room, proposal(&[("SEQS", 12), ("WAIT", 5)])).await.unwrap();
    let waiting = plan(&room, Proposal { cycle: crate::facts::CycleId::new("c-2"), ..proposal(second) }).await.unwrap();
    room.clear(first);
    let deployment = room.deployed.next(SOON).await.unwrap();
    room.clear(waiting.clone());
    room.judge(&deployment, outcome);
    eventually(|| world.stage() == Stage::Closed).await;
    room.promotions.taken();
    room.clear(waiting.clone());
    (world, room, waiting)
}

/// Once it was called edited by hand after a change of our own.
#[tokio::test]
async fn a_promotion_that_a_change_of_ours_overtook_is_planned_anew_and_goes_through_the_gate_again() {
    let (world, room, waiting) = overtaken(&[("SEQS", 16), ("WAIT", 20)], Ruled::Neutral).await;
    let next = room.promotions.next(SOON).await.unwrap();
    assert_ne!(next.id, waiting.id);
    assert_eq!(next.replaces, Some(waiting.id));
    assert_eq!(next.settings, waiting.settings);
    let change = |from, to| Change { from: Some(Value::Integer(from)), in_file: true, to: Value::Integer(to) };
    // What ran already when it was first planned, and does not any more, was part of what was proposed.
    assert_eq!(next.changes, [(key("SEQS"), change(12, 16)), (key("WAIT"), change(5, 20))].into());
    assert_eq!(world.journal.count(Kind::Deployment), 1);
    room.clear(next);
    room.deployed.next(SOON).await.unwrap();
    assert!(world.env.text().contains("SEQS=16\nWAIT=20"));
}

#[tokio::test]
async fn a_promotion_whose_base_is_back_as_it_was_is_deployed_as_it_was_planned() {
    let (_, room, waiting) = overtaken(&[("SEQS", 16)], Ruled::Rollback).await;
    assert_eq!(room.deployed.next(SOON).await.unwrap().promotion, waiting);
}

/// Once the undo of what was stuck was taken for a person's edit.
#[tokio::test]
async fn a_promotion_that_was_planned_while_a_change_was_stuck_is_planned_anew_when_that_is_undone() {
    let (world, deployment) = interrupted(4);
    world.env.set(NEW);
    world.seams().services.restart(&domain("lab")).await.unwrap();
    world.env.refuse(true);
    let room = open(&world).await;
    assert_eq!(world.stage(), Stage::Stuck);
    let waiting = plan(&room, proposal(&[("SEQS", 16)])).await.unwrap();
    room.promotions.next(SOON).await.unwrap();
    world.env.refuse(false);
    let recall = |reply| Msg::Recalled(deployment.id.clone(), 1000, reply);
    room.socket.call(recall, SOON).await.unwrap().unwrap();
    assert_eq!((world.stage(), world.env.text()), (Stage::Closed, OLD.to_owned()));
    room.clear(waiting.clone());
    assert_eq!(room.promotions.next(SOON).await.unwrap().replaces, Some(waiting.id));
    assert_eq!(world.journal.count(Kind::Deployment), 1);
}

#[tokio::test]
async fn a_promotion_that_a_change_of_ours_fulfilled_ends() {
    let (world, room, waiting) = overtaken(&[("SEQS", 12)], Ruled::Success).await;
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    match world.journal.facts(&[Kind::Ruling]).remove(0) {
        Fact::Ruling(Ruling::Refuse { promotion, why }) => {
            assert_eq!(promotion, waiting.id);
            assert!(why.contains("nothing would change"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(room.ended.next(SOON).await.unwrap().how, "refused");
    assert_eq!(world.journal.count(Kind::Deployment), 1);
}

#[tokio::test]
async fn a_person_who_edits_after_a_change_of_ours_still_wins() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    let first = plan(&room, proposal(&[("SEQS", 12)])).await.unwrap();
    let waiting = plan(&room, proposal(&[("SEQS", 16)])).await.unwrap();
    room.clear(first);
    let deployment = room.deployed.next(SOON).await.unwrap();
    room.judge(&deployment, Ruled::Success);
    eventually(|| world.stage() == Stage::Closed).await;
    world.env.set("SEQS=9\n");
    world.services.load();
    room.clear(waiting);
    eventually(|| world.verdicts().len() == 2).await;
    assert_eq!(world.verdicts()[1].reason, Reason::HumanOverride { key: key("SEQS") });
    assert_eq!(world.env.text(), "SEQS=9\n");
}

#[tokio::test]
async fn what_cannot_be_measured_at_once_is_not_made_until_it_can_be() {
    let world = World::with_env(OLD);
    world.bench.busy(Some(failure(FailureKind::Infrastructure)));
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    eventually(|| world.bench.refused() == 1 && room.is_idle()).await;
    assert_eq!((world.journal.count(Kind::Deployment), world.services.restarts()), (0, 0));
    assert_eq!((world.env.text().as_str(), world.pending.text()), (OLD, None));
    // The gate offers it again.
    world.bench.busy(None);
    room.clear(promotion(&[("SEQS", 12)]));
    room.deployed.next(SOON).await.unwrap();
}

#[tokio::test]
async fn a_change_keeps_its_turn_to_be_measured_until_it_is_judged() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    assert_eq!(world.bench.reserved(), Some(deployment.id.clone()));
    room.judge(&deployment, Ruled::Neutral);
    eventually(|| world.stage() == Stage::Closed).await;
    eventually(|| world.bench.reserved().is_none()).await;
}

#[tokio::test]
async fn a_change_that_waited_for_its_turn_is_not_made_when_a_person_stopped_everything_meanwhile() {
    let world = World::with_env(OLD);
    world.bench.hesitate(true);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    // It is offered again, and waits once.
    room.clear(promotion(&[("SEQS", 12)]));
    world.switch.stop("smoke");
    world.bench.hesitate(false);
    eventually(|| world.bench.turns() == 1 && world.bench.reserved().is_none() && room.is_idle()).await;
    assert_eq!((world.journal.count(Kind::Deployment), world.services.restarts()), (0, 0));
    assert_eq!(world.env.text(), OLD);
}

/// Fault 80, at each moment of a deployment: the change is taken back, and nothing new is begun.
#[tokio::test]
async fn a_person_who_stops_everything_gets_the_old_values_back_whatever_was_under_way() {
    let world = World::with_env(OLD);
    let switch = world.switch.clone();
    // Before the service is restarted with the new values, and again while it bakes.
    world.services.script(move |text| {
        if text.contains("SEQS=12") {
            switch.stop("smoke");
        }
        Ok(())
    });
    check_rollback(&world, OLD, "stopped").await;
    assert!(world.verdicts()[0].reason.to_string().contains("smoke"));

    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    room.deployed.next(SOON).await.unwrap();
    world.switch.stop("");
    eventually(|| world.stage() == Stage::Closed).await;
    assert_eq!(world.verdicts()[0].reason.label(), "stopped");
    assert_eq!(world.env.text(), OLD);
    assert!(world.services.agrees_with_env());
    assert_eq!(world.pending.text(), None);
    // Nothing new is begun.
    room.clear(promotion(&[("SEQS", 13)]));
    eventually(|| room.is_idle()).await;
    assert_eq!(world.journal.count(Kind::Deployment), 1);
    assert_eq!(world.env.text(), OLD);
}

#[tokio::test]
async fn what_the_gate_does_not_permit_any_more_is_not_touched() {
    let world = World::with_env(OLD);
    let room =
        open_with(&world, Outlet::to(|permit: Permit| permit.reply.send(Err("the level is lower".into())).unwrap()))
            .await;
    room.clear(promotion(&[("SEQS", 12)]));
    eventually(|| room.is_idle()).await;
    assert_eq!(world.journal.count(Kind::Deployment), 0);
    assert_eq!((world.env.text().as_str(), world.services.restarts()), (OLD, 0));
}
