//! Services that are measured against themselves.

use super::*;
use crate::{
    facts::{Calibration, Noise},
    testing::in_place,
};

async fn ask(room: &Room) -> Result<u32, String> {
    let make = |reply| Msg::Calibrate("lab".to_owned(), Some(reply));
    room.socket.call(make, SOON).await.unwrap()
}

async fn outcome(world: &World) -> Result<Noise, String> {
    eventually(|| world.journal.count(Kind::Calibration) == 1).await;
    match world.journal.facts(&[Kind::Calibration]).remove(0) {
        Fact::Calibration(Calibration { outcome, measured_by, .. }) => {
            assert_eq!(measured_by, catalogue().domains["lab"].measured_by());
            outcome
        }
        fact => panic!("{fact:?}"),
    }
}

#[tokio::test]
async fn a_service_is_measured_against_itself_as_its_env_file_has_it() {
    let world = World::with_env("SEQS=2\n");
    world.bench.script(|assignment| {
        assert!(assignment.settings.is_empty() && assignment.unset.is_empty());
        Ok(rate(100.0, assignment))
    });
    let room = open(&world).await;
    assert_eq!(ask(&room).await, Ok(12));
    let noise = outcome(&world).await.unwrap();
    assert!(noise.spread > 0.0 && noise.spread < 0.001 && noise.improvement.ratio.abs() < 0.001, "{noise:?}");
    assert_eq!((noise.runs, noise.freedom, world.bench.begun().len()), (12, 9, 12));
    assert_eq!((world.services.restarts(), world.journal.count(Kind::Verdict)), (0, 0));
}

#[tokio::test]
async fn what_cannot_be_measured_is_not_tried_again_at_once_but_for_a_person() {
    let world = World::with_env("SEQS=2\n");
    world.bench.script(|_| Err(failure(FailureKind::DidNotStart)));
    let room = open(&world).await;
    room.socket.send(Msg::Calibrate("lab".to_owned(), None)).unwrap();
    assert!(outcome(&world).await.unwrap_err().contains("0 of 1 blocks were good"));
    room.socket.send(Msg::Calibrate("lab".to_owned(), None)).unwrap();
    assert_eq!(ask(&room).await, Ok(12), "a person has looked at it");
    eventually(|| world.journal.count(Kind::Calibration) == 2).await;
    assert_eq!(world.bench.begun().len(), 8);
    world.clock.pass(3600);
    room.socket.send(Msg::Calibrate("lab".to_owned(), None)).unwrap();
    eventually(|| world.journal.count(Kind::Calibration) == 3).await;
}

#[tokio::test]
async fn a_change_that_goes_live_ends_it() {
    let world = World::with_env(NEW);
    world.bench.hang(true);
    let room = open(&world).await;
    assert_eq!(ask(&room).await, Ok(12));
    eventually(|| world.bench.begun().len() == 1).await;
    let deployment = deployment_of(promotion(&[("SEQS", 12)]));
    let steps = [Step::Intended, Step::Armed, Step::Applied, Step::Restarted, Step::Proven { incarnation: None }];
    world.write_deployment(&deployment, &steps);
    room.socket.send(Msg::Deployed(deployment)).unwrap();
    eventually(|| world.bench.dropped() == 1).await;
    assert!(ask(&room).await.unwrap_err().contains("is being judged"));
    assert_eq!(world.journal.count(Kind::Calibration), 0);
}

#[tokio::test]
async fn what_is_measured_in_place_and_what_is_not_there_is_not_measured_against_itself() {
    let world = World::with_env("SEQS=2\n");
    let room = open_of(&world, Outlet::nowhere("deployer"), in_place("mon-sun")).await;
    assert!(ask(&room).await.unwrap_err().contains("measured in place"));
    let make = |reply| Msg::Calibrate("tts".to_owned(), Some(reply));
    assert!(room.socket.call(make, SOON).await.unwrap().unwrap_err().contains("no domain"));
    assert!(world.bench.begun().is_empty());
}

/// It went on to load the machine while a person had stopped everything.
#[tokio::test]
async fn a_person_who_stops_everything_stops_it_and_it_begins_anew_when_all_goes_on() {
    let world = World::with_env("SEQS=2\n");
    world.bench.hang(true);
    let room = open(&world).await;
    assert_eq!(ask(&room).await, Ok(12));
    eventually(|| world.bench.begun().len() == 1).await;
    world.switch.stop("maintenance");
    room.socket.send(Msg::Look).unwrap();
    eventually(|| world.bench.dropped() == 1).await;
    let why = ask(&room).await.unwrap_err();
    assert!(why.contains("user 1000 stopped everything: maintenance"), "{why}");
    assert_eq!((world.bench.begun().len(), world.journal.count(Kind::Calibration)), (1, 0));
    world.switch.go();
    world.bench.hang(false);
    room.socket.send(Msg::Look).unwrap();
    assert_eq!(outcome(&world).await.unwrap().runs, 12);
    assert_eq!(world.bench.begun().len(), 13, "from the first run on");
}
