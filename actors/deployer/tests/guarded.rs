//! The deployer and whoever acts in its place.

use super::*;
use crate::{deployer::wind_up, facts::Manager};

#[tokio::test]
async fn what_nobody_outside_can_watch_over_is_not_changed() {
    let world = World::with_env(OLD);
    world.guard.refuse();
    check_rollback(&world, OLD, "aborted").await;
    assert_eq!(world.services.restarts(), 0);
    assert!(!world.env.is_reserved());
}

#[tokio::test]
async fn a_change_is_watched_and_its_undo_has_its_space_until_it_is_over() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    assert_eq!(world.guard.watches(), [deployment.id.to_string()]);
    assert!(world.env.is_reserved());
    let how = Pending::from_text(&world.pending.text().unwrap()).unwrap().how;
    assert_eq!(how, Some(domain("lab")), "the pending file says how the service is restarted");
    room.judge(&deployment, Ruled::Success);
    eventually(|| world.stage() == Stage::Closed).await;
    assert_eq!(world.guard.watches(), [""; 0]);
    assert!(!world.env.is_reserved());
}

#[tokio::test]
async fn the_guard_is_told_of_each_long_step_and_that_the_daemon_lives() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    room.deployed.next(SOON).await.unwrap();
    let told = world.pending.extensions();
    assert!(told[0] >= std::time::Duration::from_secs(120), "another change must not be late meanwhile: {told:?}");
    let within = std::time::Duration::from_secs(60);
    assert!(told.len() > 3 && told[1..].iter().all(|each| *each == within), "in each step alike: {told:?}");
    let so_far = told.len();
    room.socket.send(Msg::Look).unwrap();
    eventually(|| world.pending.extensions().len() > so_far).await;
    assert_eq!(world.pending.extensions().last(), Some(&std::time::Duration::from_secs(60)));
}

/// A daemon that was frozen while the guard acted says one thing alone: that the change was taken back.
async fn check_thawed(world: &World, room: &Room) {
    eventually(|| world.journal.count(Kind::Deployment) == 1 && world.stage() == Stage::Closed).await;
    let verdicts = world.verdicts();
    assert_eq!(verdicts.len(), 1);
    assert_eq!((verdicts[0].outcome, verdicts[0].reason.label()), (Ruled::Rollback, "aborted"));
    assert!(verdicts[0].reason.to_string().contains("guard"), "{}", verdicts[0].reason);
    assert_eq!(world.env.text(), OLD);
    assert!(world.services.agrees_with_env());
    assert_eq!(room.verdicts.taken().len(), 1);
}

#[tokio::test]
async fn what_the_guard_took_over_during_the_restart_goes_no_further() {
    for is_undone in [false, true] {
        let world = World::with_env(OLD);
        let guard = world.clone();
        let id = deployment_of(promotion(&[("SEQS", 12)])).id;
        world.services.script(move |_| {
            if guard.pending.text().is_some() {
                guard.pending.claim(&id, is_undone);
                if is_undone {
                    guard.env.set(OLD);
                }
            }
            Ok(())
        });
        let room = open(&world).await;
        room.clear(promotion(&[("SEQS", 12)]));
        check_thawed(&world, &room).await;
        let steps = world.journal.facts(&[Kind::Step]);
        let restarted = |fact: &Fact| matches!(fact, Fact::Step { step: Step::Restarted, .. });
        assert!(!steps.iter().any(restarted), "nothing of it is appended: {steps:?}");
    }
}

#[tokio::test]
async fn what_the_guard_took_over_while_it_was_measured_is_closed_at_the_next_look() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    world.pending.claim(&deployment.id, true);
    world.env.set(OLD);
    world.services.load();
    let restarts = world.services.restarts();
    room.socket.send(Msg::Look).unwrap();
    check_thawed(&world, &room).await;
    assert_eq!(world.services.restarts(), restarts, "the guard has restarted it already");
}

#[tokio::test]
async fn a_start_after_the_guard_acted_closes_the_deployment_and_leaves_what_stands_there_by_then() {
    for steps in 2..=FORWARD.len() {
        let (world, deployment) = interrupted(steps);
        world.pending.claim(&deployment.id, true);
        // By hand, and by chance the value that was taken back.
        world.env.set(NEW);
        world.services.load();
        recover(&world.seams(), &catalogue(), &config()).await.unwrap();
        assert_eq!((world.stage(), world.env.text().as_str()), (Stage::Closed, NEW), "after {steps} steps");
        assert_eq!((world.verdicts().len(), world.services.restarts()), (1, 0));
    }
}

#[tokio::test]
async fn what_a_guard_left_half_way_is_finished_by_the_daemon() {
    for steps in 3..=FORWARD.len() {
        for is_fresh in [true, false] {
            let (world, deployment) = interrupted(steps);
            world.env.set(NEW);
            world.services.load();
            world.pending.claim(&deployment.id, false);
            let (seams, catalogue, config) = (world.seams(), catalogue(), config());
            if is_fresh {
                recover(&seams, &catalogue, &config).await.unwrap();
            } else {
                wind_up(&seams, &catalogue, &config).await.unwrap();
            }
            assert_eq!((world.stage(), world.env.text().as_str()), (Stage::Closed, OLD), "after {steps} steps");
            assert!(world.services.agrees_with_env());
        }
    }
}

#[tokio::test]
async fn a_proven_change_that_the_guard_could_not_know_of_is_made_again() {
    for outcome in [Ruled::Success, Ruled::Neutral] {
        let (world, deployment) = interrupted(6);
        world.write(vec![Fact::Step { deployment: deployment.id.clone(), step: Step::Judged(outcome) }]);
        world.pending.claim(&deployment.id, true);
        world.env.set("# by hand\nOTHER='x'\nSEQS=2\nWAIT=7\n");
        recover(&world.seams(), &catalogue(), &config()).await.unwrap();
        assert_eq!(world.stage(), Stage::Closed);
        assert_eq!(world.env.text(), "# by hand\nOTHER='x'\nSEQS=12\nWAIT=7\n", "a person's edit stays");
        assert!(world.services.agrees_with_env());
    }
}

#[tokio::test]
async fn what_a_guard_has_not_finished_of_another_change_keeps_the_domain() {
    let (world, other) = (World::with_env(OLD), interrupted(2).0);
    world.pending.set(other.pending.text());
    world.pending.claim(&crate::facts::DeploymentId::new("d-other"), false);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 40)]));
    eventually(|| world.journal.count(Kind::Deployment) == 1 && world.stage() == Stage::Closed).await;
    assert_eq!((world.verdicts()[0].reason.label(), world.env.text().as_str()), ("aborted", OLD));
    let orphan = World::with_env(NEW);
    orphan.pending.set(other.pending.text());
    orphan.pending.claim(&crate::facts::DeploymentId::new("d-other"), false);
    recover(&orphan.seams(), &catalogue(), &config()).await.unwrap();
    assert_eq!(orphan.env.text(), OLD, "without a deployment in the journal the file alone undoes it");
}

/// Once a guard that was killed was never missed, and then the daemon that died left its change live.
#[tokio::test]
async fn a_guard_that_died_is_replaced_and_where_none_can_be_the_change_is_taken_back() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    world.guard.die();
    room.socket.send(Msg::Look).unwrap();
    eventually(|| world.guard.watches() == [deployment.id.to_string()]).await;

    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    room.deployed.next(SOON).await.unwrap();
    world.guard.die();
    world.guard.refuse();
    room.socket.send(Msg::Look).unwrap();
    eventually(|| world.stage() == Stage::Closed).await;
    assert_eq!((world.env.text().as_str(), world.verdicts()[0].reason.label()), (OLD, "aborted"));
}

#[tokio::test]
async fn a_change_whose_pending_file_is_removed_is_taken_back_by_the_journals_word() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    room.deployed.next(SOON).await.unwrap();
    world.pending.set(None);
    room.socket.send(Msg::Look).unwrap();
    eventually(|| world.stage() == Stage::Closed).await;
    assert_eq!((world.env.text().as_str(), world.verdicts()[0].reason.label()), (OLD, "aborted"));
}

/// Fault 39.
#[tokio::test]
async fn an_env_file_that_is_gone_is_not_made_again_and_its_service_is_not_restarted() {
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    let restarts = world.services.restarts();
    world.env.remove();
    room.judge(&deployment, Ruled::Rollback);
    eventually(|| world.stage() == Stage::Stuck).await;
    assert_eq!((world.services.restarts(), world.env.is_there()), (restarts, false));
    assert!(world.pending.text().is_some(), "what stood there is kept");
    world.env.set(&OLD.replace("SEQS=2", "SEQS=12"));
    let asked = room.socket.call(|reply| Msg::Recalled(deployment.id.clone(), 7, reply), SOON).await.unwrap();
    asked.unwrap();
    assert_eq!((world.stage(), world.env.text().as_str()), (Stage::Closed, OLD));

    // A person has restarted the service without it, so nothing of ours is live.
    let world = World::with_env(OLD);
    let room = open(&world).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    let restarts = world.services.restarts();
    world.env.remove();
    world.services.load();
    room.judge(&deployment, Ruled::Rollback);
    eventually(|| world.stage() == Stage::Closed).await;
    assert_eq!((world.services.restarts(), world.env.is_there()), (restarts, false));
}

#[tokio::test]
async fn a_file_that_was_not_there_before_the_change_may_be_gone_after_it() {
    let world = World::with_env("");
    let room = open(&world).await;
    let mut promotion = promotion(&[("SEQS", 12)]);
    promotion.changes.values_mut().for_each(|change| change.in_file = false);
    room.clear(promotion);
    let deployment = room.deployed.next(SOON).await.unwrap();
    world.env.remove();
    room.judge(&deployment, Ruled::Rollback);
    eventually(|| world.stage() == Stage::Closed).await;
    assert!(world.services.agrees_with_env());
}

#[tokio::test]
async fn lines_that_a_person_added_for_our_key_stay_and_ours_goes_back() {
    for (file, expected) in [
        ("# by hand\nOTHER='x'\nSEQS=12\nSEQS=33\n", "# by hand\nOTHER='x'\nSEQS=2\nSEQS=33\n"),
        ("SEQS=33\n# by hand\nOTHER='x'\nSEQS=12\n", "SEQS=33\n# by hand\nOTHER='x'\nSEQS=2\n"),
        ("# by hand\nOTHER='x'\nSEQS=12\nexport SEQS=33\n", "# by hand\nOTHER='x'\nSEQS=2\nexport SEQS=33\n"),
    ] {
        let world = World::with_env(OLD);
        let room = open(&world).await;
        room.clear(promotion(&[("SEQS", 12)]));
        let deployment = room.deployed.next(SOON).await.unwrap();
        world.env.set(file);
        room.judge(&deployment, Ruled::Rollback);
        eventually(|| world.stage() == Stage::Closed).await;
        assert_eq!(world.env.text(), expected);
        assert!(world.services.agrees_with_env());
    }
}

/// Returns the catalogue with a service that another supervisor runs: somebody in our place may restart it.
fn foreign() -> std::sync::Arc<Catalogue> {
    let mut catalogue = (*catalogue()).clone();
    for domain in catalogue.domains.values_mut() {
        domain.service.manager = Manager::Command { restart: vec!["restart".to_owned()] };
    }
    std::sync::Arc::new(catalogue)
}

/// Once a daemon that thawed restarted the service beside the guard that did so in its place.
#[tokio::test]
async fn while_somebody_outside_undoes_nothing_is_restarted_and_what_is_left_is_looked_at_afterwards() {
    let (world, deployment) = interrupted(4);
    world.env.set(NEW);
    world.services.load();
    world.pending.claim(&deployment.id, false);
    world.guard.act(true);
    let (seams, config) = (world.seams(), config());
    let recovering = tokio::spawn(async move { recover(&seams, &foreign(), &config).await.map(drop) });
    // It says what is so, and waits for who acts.
    eventually(|| world.verdicts().len() == 1).await;
    assert_eq!((world.services.restarts(), world.env.text().as_str()), (0, NEW));
    let text = world.pending.taken_over();
    world.pending.set(Some(text));
    world.pending.claim(&deployment.id, true);
    world.env.set(OLD);
    world.services.load();
    world.guard.act(false);
    recovering.await.unwrap().unwrap();
    assert_eq!((world.stage(), world.services.restarts()), (Stage::Closed, 0), "it was done already");
    assert!(!world.guard.is_kept_out());
}

#[tokio::test]
async fn nobody_outside_undoes_while_the_service_is_restarted() {
    let world = World::with_env(OLD);
    let watched = world.clone();
    let is_kept_out = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = is_kept_out.clone();
    world.services.script(move |_| {
        noted.lock().unwrap().push(watched.guard.is_kept_out());
        Ok(())
    });
    let room = open_of(&world, permits(&world), foreign()).await;
    room.clear(promotion(&[("SEQS", 12)]));
    let deployment = room.deployed.next(SOON).await.unwrap();
    assert!(!world.guard.is_kept_out(), "while it is measured, who acts in our place may act");
    room.judge(&deployment, Ruled::Rollback);
    eventually(|| world.stage() == Stage::Closed).await;
    assert_eq!(*is_kept_out.lock().unwrap(), [true, true]);
}

/// Fault 46: the change has used up the last start that its supervisor allows.
#[tokio::test]
async fn a_limit_of_starts_is_lifted_for_the_undo_and_not_for_the_change() {
    for (starts, forgiven) in [(0, 1), (1, 1), (2, 0)] {
        let world = World::with_env(OLD);
        let room = open(&world).await;
        world.services.limit_starts(starts);
        room.clear(promotion(&[("SEQS", 12)]));
        if starts > 0 {
            let deployment = room.deployed.next(SOON).await.unwrap();
            room.judge(&deployment, Ruled::Rollback);
        }
        eventually(|| world.journal.count(Kind::Verdict) == 1 && world.stage() == Stage::Closed).await;
        assert_eq!((world.env.text().as_str(), world.services.forgiven()), (OLD, forgiven), "{starts}");
        assert!(world.services.agrees_with_env());
    }
}
