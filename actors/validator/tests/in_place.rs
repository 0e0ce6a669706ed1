//! A validation in place: old and new settings take turns in the serving instance, and the new ones are there before they are kept.

use std::sync::{Arc, Mutex};

use super::*;
use crate::{
    facts::{Measurement, TrialFailure},
    seams::{Borrower, Errand, Untried},
    testing::in_place,
};

const OLD: &str = "SEQS=2\n";

/// The deployer's part: puts a side into the env file, restarts the service, and measures `factor` times the old settings.
async fn open_alternating(world: &World, factor: f64, fails: bool) -> (Room, Arc<Mutex<Vec<bool>>>) {
    let (sides, seen, hands) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())), world.clone());
    let told = Arc::clone(&sides);
    let errands = Outlet::to(move |errand: Errand| {
        let Borrower::Deployment { candidate, .. } = errand.whose else { panic!("{errand:?}") };
        hands.env.set(if candidate { NEW } else { OLD });
        hands.services.load();
        hands.services.die();
        let Some(assignment) = errand.assignment else {
            seen.lock().unwrap().push(candidate);
            return drop(errand.reply.send(Ok(None)));
        };
        told.lock().unwrap().push(candidate);
        if fails && candidate {
            let failure: TrialFailure = failure(FailureKind::Died);
            return drop(errand.reply.send(Err(Untried::Failed(failure))));
        }
        let metrics = rate(if candidate { 100.0 * factor } else { 100.0 }, &assignment);
        let (source, in_effect) = ("a test".to_owned(), std::collections::BTreeMap::new());
        let (samples, window_ms, at_ms, others, discarded) = (50, 1000, 0, None, 0);
        let measurement = Measurement { metrics, samples, window_ms, in_effect, source, at_ms, others, discarded };
        errand.reply.send(Ok(Some(measurement))).ok();
    });
    (open_of(world, errands, in_place("mon-sun")).await, sides)
}

#[tokio::test]
async fn what_was_better_in_turns_is_kept_and_runs_when_the_verdict_is_given() {
    for (factor, outcome) in [(1.2, Ruled::Success), (0.98, Ruled::Neutral), (0.8, Ruled::Rollback)] {
        let (world, _) = live();
        let (room, sides) = open_alternating(&world, factor, false).await;
        let verdict = room.verdicts.next(SOON).await.unwrap();
        assert_eq!((verdict.outcome, world.stage()), (outcome, Stage::Judged(outcome)), "{factor}");
        assert!(world.bench.begun().is_empty(), "no second instance is started");
        let sides = sides.lock().unwrap();
        assert_eq!(verdict.blocks as usize * 4, sides.len());
        for block in sides.chunks(4) {
            // ABBA or BAAB.
            assert!(block[0] == block[3] && block[1] == block[2] && block[0] != block[1], "{block:?}");
        }
        if outcome != Ruled::Rollback {
            assert_eq!(world.env.text(), NEW);
            assert!(world.services.agrees_with_env());
        }
    }
}

#[tokio::test]
async fn new_settings_under_which_the_service_dies_are_undone() {
    let (world, _) = live();
    let (room, _) = open_alternating(&world, 2.0, true).await;
    let verdict = room.verdicts.next(SOON).await.unwrap();
    assert_eq!(verdict.outcome, Ruled::Rollback);
    assert!(matches!(verdict.reason, Reason::NotHealthy { .. }), "{:?}", verdict.reason);
}

#[tokio::test]
async fn a_key_that_a_person_sets_to_neither_side_is_theirs() {
    let (world, _) = live();
    // It waits for the end of its run.
    let (errands, _kept) = Outlet::collecting();
    let room = open_of(&world, errands, in_place("mon-sun")).await;
    world.env.set(OLD);
    eventually(|| world.journal.count(Kind::Step) >= 6).await;
    assert!(world.verdicts().is_empty(), "the old side is no edit");
    world.env.set("SEQS=3\n");
    let verdict = room.verdicts.next(SOON).await.unwrap();
    assert_eq!(verdict.reason, Reason::HumanOverride { key: key("SEQS") });
}
