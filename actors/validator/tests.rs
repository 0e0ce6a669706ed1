//! The validator against a scripted bench.

mod calibration;

mod in_place;

use std::{sync::Arc, time::Duration};

use kloros_supervision::{ChildSpec, Collected, Outlet, Socket, Tree};

use super::{Config, Exits, Msg, Validator};
use crate::{
    config::Catalogue,
    facts::{
        Deployment, DeploymentId, Estimate, Fact, FailureKind, Kind, Metrics, Reason, Ruled, Stage, Step, Verdict,
    },
    record::record_verdict,
    seams::Errand,
    testing::{
        SOON, World, catalogue, deployment_of, eventually, failure, finish, house, key, number, promotion, rate,
        rollback,
    },
};

const NEW: &str = "SEQS=12\n";

struct Room {
    socket: Socket<Msg>,
    tree: Tree,
    verdicts: Collected<Verdict>,
    unrecorded: Collected<DeploymentId>,
}

/// Puts a deployment of `SEQS=12` on the scales.
fn live() -> (World, Deployment) {
    let world = World::with_env(NEW);
    let deployment = deployment_of(promotion(&[("SEQS", 12)]));
    let incarnation = Some(crate::facts::Incarnation::new("run 1"));
    let proven = Step::Proven { incarnation };
    let steps = [Step::Intended, Step::Armed, Step::Applied, Step::Restarted, proven];
    world.write_deployment(&deployment, &steps);
    (world, deployment)
}

async fn open(world: &World) -> Room {
    open_of(world, Outlet::nowhere("deployer"), catalogue()).await
}

async fn open_of(world: &World, errands: Outlet<Errand>, catalogue: Arc<Catalogue>) -> Room {
    let socket = Socket::new("validator");
    let (outlet, verdicts) = Outlet::collecting();
    let (unrecorded, heard_unrecorded) = Outlet::collecting();
    let (exits, seams) = (Exits { verdicts: vec![outlet], unrecorded, errands }, world.seams());
    let spec = ChildSpec::actor("validator", &socket, move || {
        let (seams, exits, config) = (seams.clone(), exits.clone(), Config::default());
        let run_within = Duration::from_secs(60);
        (Validator, super::Arguments { seams, exits, config, catalogue: Arc::clone(&catalogue), run_within })
    });
    Room { tree: house(spec).await, socket, verdicts, unrecorded: heard_unrecorded }
}

/// Returns the verdict when the new settings measure `factor` times the old ones.
async fn judge(world: &World, factor: f64) -> Verdict {
    world.bench.script(move |assignment| {
        let is_new = number(&assignment.settings, "SEQS") == 12.0;
        Ok(rate(if is_new { 100.0 * factor } else { 100.0 }, assignment))
    });
    let room = open(world).await;
    let verdict = room.verdicts.next(SOON).await.unwrap();
    assert_eq!(world.stage(), Stage::Judged(verdict.outcome));
    let mut of_it = world.verdicts();
    of_it.retain(|each| each.deployment == verdict.deployment);
    assert_eq!(of_it, std::slice::from_ref(&verdict));
    verdict
}

#[tokio::test]
async fn better_is_a_success_much_worse_a_rollback_and_what_lies_between_neutral() {
    for (factor, outcome) in [(1.2, Ruled::Success), (0.98, Ruled::Neutral), (0.8, Ruled::Rollback)] {
        let (world, _) = live();
        let verdict = judge(&world, factor).await;
        assert_eq!(verdict.outcome, outcome, "{factor}");
        assert_eq!(verdict.blocks as usize * 4, world.bench.begun().len());
        assert_eq!(world.journal.count(Kind::Run), world.bench.begun().len());
        let ratio = verdict.improvement.unwrap().ratio;
        assert!((ratio - (factor - 1.0)).abs() < 0.01, "{ratio}");
    }
}

#[tokio::test]
async fn a_service_that_runs_with_other_values_than_were_measured_is_rolled_back() {
    let (world, _) = live();
    world.services.say(Some(Ok([("SEQS".to_owned(), "2".to_owned())].into())));
    let verdict = judge(&world, 1.2).await;
    assert_eq!((verdict.outcome, verdict.reason.label()), (Ruled::Rollback, "not_effective"));
}

#[tokio::test]
async fn a_service_that_cannot_be_asked_in_the_end_is_rolled_back() {
    let (world, _) = live();
    world.services.say(Some(Err(crate::seams::ServiceError::Unreachable("gone".into()))));
    assert_eq!(judge(&world, 1.2).await.reason.label(), "not_healthy");
}

#[tokio::test]
async fn a_key_that_a_person_edited_meanwhile_makes_the_measurement_void() {
    let (world, _) = live();
    world.env.set("SEQS=9\n");
    let verdict = judge(&world, 1.2).await;
    assert_eq!(verdict.reason, Reason::HumanOverride { key: key("SEQS") });
}

#[tokio::test]
async fn a_validator_that_is_killed_goes_on_and_repeats_no_run_that_was_recorded() {
    let (world, _) = live();
    world.bench.script(|assignment| Ok(rate(100.0 * number(&assignment.settings, "SEQS"), assignment)));
    let room = open(&world).await;
    for round in 1..=3 {
        eventually(|| world.journal.count(Kind::Run) >= 2 * round || !world.verdicts().is_empty()).await;
        room.tree.kill("validator").ok();
    }
    let verdict = room.verdicts.next(SOON).await.unwrap();
    assert_eq!(verdict.outcome, Ruled::Success);
    let runs = world.journal.facts(&[Kind::Run]);
    let place = |fact: &Fact| match fact {
        Fact::Run { block, place, .. } => (*block, *place),
        _ => (0, 0),
    };
    let places: std::collections::BTreeSet<_> = runs.iter().map(place).collect();
    assert_eq!(places.len(), runs.len());
    assert_eq!(world.verdicts().len(), 1);
}

#[tokio::test]
async fn a_run_under_way_is_dropped_when_the_validator_is_killed_or_the_deployment_withdrawn() {
    let (world, deployment) = live();
    world.bench.hang(true);
    let room = open(&world).await;
    eventually(|| world.bench.begun().len() == 1).await;
    room.tree.kill("validator").unwrap();
    eventually(|| world.bench.dropped() == 1 && world.bench.begun().len() == 2).await;
    let begun = world.bench.begun();
    assert_eq!(begun[0], begun[1]);
    record_verdict(&world.seams(), &rollback(&deployment, Reason::Person { uid: 0 })).await.unwrap();
    room.socket.send(Msg::Withdrawn(deployment.id.clone())).unwrap();
    eventually(|| world.bench.dropped() == 2).await;
    // It may be told of again; it was judged.
    room.socket.send(Msg::Deployed(deployment)).unwrap();
    room.socket.send(Msg::Reconfigured(Config::default(), SOON)).unwrap();
    finish(&room.tree).await;
    assert_eq!(world.bench.begun().len(), 2);
    assert_eq!(world.verdicts().len(), 1);
}

#[tokio::test]
async fn a_deployment_that_is_told_of_twice_gets_one_verdict() {
    let (world, deployment) = live();
    world.bench.script(|assignment| Ok(rate(100.0, assignment)));
    let room = open(&world).await;
    room.socket.send(Msg::Deployed(deployment.clone())).unwrap();
    room.verdicts.next(SOON).await.unwrap();
    room.socket.send(Msg::Deployed(deployment)).unwrap();
    finish(&room.tree).await;
    assert_eq!(world.verdicts().len(), 1);
    assert!(room.verdicts.taken().is_empty());
}

#[tokio::test]
async fn a_bench_that_fails_panics_or_loses_the_metric_ends_in_a_rollback_and_never_hangs() {
    for way in 0..4 {
        let (world, _) = live();
        world.bench.script(move |assignment| {
            let is_new = number(&assignment.settings, "SEQS") == 12.0;
            match way {
                0 => Err(failure(FailureKind::BenchFailed)),
                1 => panic!("the bench fell over"),
                2 if is_new => Ok(Metrics::new()),
                3 if is_new => Ok(Metrics::from([("rate".to_owned(), f64::NAN)])),
                _ => Ok(rate(100.0, assignment)),
            }
        });
        let room = open(&world).await;
        let verdict = room.verdicts.next(SOON).await.unwrap();
        assert_eq!(verdict.outcome, Ruled::Rollback, "{way}: {:?}", verdict.reason);
    }
}

#[tokio::test]
async fn a_journal_that_fails_during_the_validation_costs_no_verdict() {
    let (world, deployment) = live();
    world.bench.script(|assignment| Ok(rate(100.0, assignment)));
    world.journal.break_at(5);
    let room = open(&world).await;
    eventually(|| world.journal.is_broken()).await;
    assert_eq!(room.unrecorded.next(SOON).await.unwrap(), deployment.id, "the deployer is told at once");
    world.journal.mend();
    assert_eq!(room.verdicts.next(SOON).await.unwrap().outcome, Ruled::Neutral);
}

/// Once a service that was dead and started again by its keeper just in time was kept.
#[tokio::test]
async fn a_service_that_died_while_it_was_measured_is_rolled_back_however_well_it_runs_now() {
    for runs in [0, 5] {
        let (world, _) = live();
        let services = world.services.clone();
        let count = std::sync::atomic::AtomicU32::new(0);
        world.bench.script(move |assignment| {
            if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == runs {
                services.die();
            }
            let is_new = number(&assignment.settings, "SEQS") == 12.0;
            Ok(rate(if is_new { 200.0 } else { 100.0 }, assignment))
        });
        let room = open(&world).await;
        let verdict = room.verdicts.next(SOON).await.unwrap();
        assert_eq!((verdict.outcome, verdict.reason.label()), (Ruled::Rollback, "died"));
        // What cannot be kept any more is not measured to the end.
        assert_eq!(world.bench.begun().len(), runs as usize + 1);
    }
}

#[tokio::test]
async fn a_service_that_was_not_the_same_from_the_beginning_is_not_kept_by_a_validator_that_starts_late() {
    let (world, _) = live();
    world.services.die();
    assert_eq!(judge(&world, 1.2).await.reason.label(), "died");
    assert_eq!(world.bench.begun(), [""; 0]);
}

#[tokio::test]
async fn a_service_that_is_not_ready_in_the_end_is_rolled_back() {
    let (world, _) = live();
    world.services.ail_after(0, crate::testing::Ailment::Hiccup);
    assert_eq!(judge(&world, 1.2).await.reason.label(), "not_healthy");
}

/// Once the default of the domain file was measured as the old settings, whatever the service had really run with.
#[tokio::test]
async fn the_old_settings_that_are_measured_are_what_the_service_said_it_ran_with() {
    let world = World::with_env("SEQS=2\nWAIT=5\n");
    let mut promotion = promotion(&[("WAIT", 5)]);
    promotion.changes.get_mut(&key("WAIT")).unwrap().from = Some(crate::facts::Value::Integer(30));
    let incarnation = Some(crate::facts::Incarnation::new("run 1"));
    let steps = [Step::Intended, Step::Armed, Step::Applied, Step::Restarted, Step::Proven { incarnation }];
    world.write_deployment(&deployment_of(promotion), &steps);
    world.bench.script(|assignment| Ok(rate(1000.0 / number(&assignment.settings, "WAIT"), assignment)));
    let room = open(&world).await;
    let verdict = room.verdicts.next(SOON).await.unwrap();
    let ratio = verdict.improvement.unwrap().ratio;
    assert!((ratio - 5.0).abs() < 0.1, "30 against 5 is six times as fast, not {ratio}");
}

#[tokio::test]
async fn a_run_is_told_what_others_usually_did_in_its_own_block() {
    let (world, _) = live();
    world.bench.others(&[0.5, 0.6, 0.7, 0.5, 0.2, 0.3]);
    world.bench.script(|assignment| Ok(rate(100.0 * number(&assignment.settings, "SEQS"), assignment)));
    let room = open(&world).await;
    room.verdicts.next(SOON).await.unwrap();
    assert_eq!(world.bench.usual()[..6], [None, Some(0.5), Some(0.5), Some(0.6), None, Some(0.2)]);
}

#[tokio::test]
async fn a_key_that_the_service_ran_without_is_taken_out_for_the_old_runs() {
    let world = World::with_env("SEQS=2\nWAIT=5\n");
    let mut promotion = promotion(&[("WAIT", 5)]);
    promotion.changes.get_mut(&key("WAIT")).unwrap().from = None;
    let incarnation = Some(crate::facts::Incarnation::new("run 1"));
    let steps = [Step::Intended, Step::Armed, Step::Applied, Step::Restarted, Step::Proven { incarnation }];
    world.write_deployment(&deployment_of(promotion), &steps);
    world.bench.script(|assignment| {
        let is_old = assignment.unset == [key("WAIT")] && assignment.settings.is_empty();
        let is_new = assignment.unset.is_empty() && assignment.settings.contains_key(&key("WAIT"));
        assert!(is_old != is_new, "{assignment:?}");
        Ok(rate(if is_new { 120.0 } else { 100.0 }, assignment))
    });
    let room = open(&world).await;
    let verdict = room.verdicts.next(SOON).await.unwrap();
    assert_eq!(verdict.outcome, Ruled::Success);
}

#[tokio::test]
async fn what_the_guard_took_over_is_not_measured_on_and_never_kept() {
    let (world, deployment) = live();
    world.pending.set(Some("whatever it says".to_owned()));
    let (guard, id) = (world.clone(), deployment.id.clone());
    world.bench.script(move |assignment| {
        // While the third run is measured, this process is frozen and the guard acts.
        if guard.bench.begun().len() == 3 {
            guard.pending.claim(&id, true);
        }
        Ok(rate(if number(&assignment.settings, "SEQS") == 12.0 { 200.0 } else { 100.0 }, assignment))
    });
    let room = open(&world).await;
    let verdict = room.verdicts.next(SOON).await.unwrap();
    assert_eq!((verdict.outcome, verdict.reason.label()), (Ruled::Rollback, "aborted"));
    assert_eq!(world.journal.count(Kind::Run), 2, "the run that it was frozen in is not written down");
}

/// Fault 77: what a person wrote into the baseline is what losses are counted from.
#[tokio::test]
async fn a_neutral_loss_is_kept_or_undone_by_the_baseline_that_a_person_wrote_last() {
    for (rate, outcome) in [(100.0, Ruled::Neutral), (110.0, Ruled::Rollback)] {
        let (world, _) = live();
        let metrics = Metrics::from([("rate".to_owned(), rate)]);
        world.write(vec![Fact::Anchored(crate::facts::Anchored { domain: "lab".to_owned(), metrics })]);
        assert_eq!(judge(&world, 0.98).await.outcome, outcome, "{rate}");
    }
}

/// Fault 80. Once runs went on until the deployer, which looks each second, had taken the change back.
#[tokio::test]
async fn where_a_person_stops_everything_no_further_run_begins_and_the_change_is_to_be_undone() {
    let (world, _) = live();
    let hands = world.clone();
    world.bench.script(move |assignment| {
        if hands.bench.begun().len() == 3 {
            hands.switch.stop("the rack is being moved");
        }
        Ok(rate(100.0, assignment))
    });
    let room = open(&world).await;
    let verdict = room.verdicts.next(SOON).await.unwrap();
    assert_eq!((verdict.outcome, verdict.reason.label()), (Ruled::Rollback, "stopped"));
    assert!(verdict.reason.to_string().contains("the rack is being moved"), "{}", verdict.reason);
    assert_eq!((world.bench.begun().len(), verdict.runs), (3, 3));
}

/// A verdict of an earlier change in the domain, from this rate to that.
fn earlier(domain: &str, outcome: Ruled, before: f64, after: f64) -> Fact {
    let improvement = Some(Estimate { ratio: after / before - 1.0, low: -0.1, high: 0.1 });
    let rate = |rate| Metrics::from([("rate".to_owned(), rate)]);
    let deployment = deployment_of(promotion(&[("SEQS", 9)]));
    let verdict = rollback(&deployment, Reason::InBetween);
    let (domain, before, after) = (domain.to_owned(), rate(before), rate(after));
    Fact::Verdict(Verdict { domain, outcome, improvement, before, after, ..verdict })
}

/// Fault 61. Once there was no anchor before the first success, and any number of losses below the limit were kept.
#[tokio::test]
async fn a_domain_without_a_success_is_held_to_what_it_gave_before_its_first_change() {
    for (first, outcome) in [(101.0, Ruled::Neutral), (104.0, Ruled::Rollback)] {
        let (world, _) = live();
        world.write(vec![earlier("lab", Ruled::Neutral, first, 100.0)]);
        assert_eq!(judge(&world, 0.98).await.outcome, outcome, "{first}");
    }
}

/// Once the newest thousand verdicts were looked through, whichever domain they were of.
#[tokio::test]
async fn a_baseline_is_found_behind_the_verdicts_of_any_number_of_other_domains() {
    let (world, _) = live();
    let others = (0..2_500).map(|_| earlier("other", Ruled::Success, 10.0, 11.0));
    world.write([earlier("lab", Ruled::Success, 108.0, 110.0)].into_iter().chain(others).collect());
    assert_eq!(judge(&world, 0.98).await.outcome, Ruled::Rollback);
}

#[tokio::test]
async fn a_verdict_says_what_the_domain_is_held_to_and_what_stands_behind_that() {
    let (world, _) = live();
    let first = judge(&world, 0.98).await;
    let baseline = first.baseline.unwrap();
    assert!((baseline.metrics["rate"] - 100.0).abs() < 1.0, "it is what was measured before the change");
    assert_eq!((baseline.n, first.runs), (first.blocks * 2, first.blocks * 4));
    assert!(baseline.spread.contains_key("rate"));
    let (world, _) = live();
    let success = judge(&world, 1.2).await;
    let after = success.baseline.unwrap();
    assert!(after.metrics["rate"] > 110.0);
    assert!(after.config.is_some() && after.config != baseline.config, "the settings are others");
}

/// Once a service that died, or a person who edited, waited until the run was over.
#[tokio::test]
async fn a_death_or_an_edit_during_a_run_ends_it() {
    for (is_edit, label) in [(true, "human_override"), (false, "died")] {
        let (world, _) = live();
        world.bench.hang(true);
        let room = open(&world).await;
        eventually(|| world.bench.begun().len() == 1).await;
        if is_edit {
            world.env.set("SEQS=7\n");
        } else {
            world.services.die();
        }
        room.socket.send(Msg::Look).unwrap();
        assert_eq!(room.verdicts.next(SOON).await.unwrap().reason.label(), label);
        eventually(|| world.bench.dropped() == 1).await;
    }
}
