//! An experiment beside an instance whose objectives begin to be breached.

use super::*;
use crate::facts::{Anomaly, AnomalyKind, Objective};

/// A world whose domain has objectives for its latency and for what waits, and a bench that hangs.
async fn watched(world: &World) -> Room {
    let mut watched = (*catalogue()).clone();
    let objective = |reading: &str| Objective { reading: reading.to_owned(), max: 100.0, readings: 1 };
    watched.domains.get_mut("lab").unwrap().objectives = ["latency", "waiting"].map(objective).to_vec();
    world.bench.hang(true);
    Room { catalogue: Arc::new(watched), ..open(world).await }
}

fn breach(metric: &str, at_ms: u64) -> Fact {
    Fact::Anomaly(Anomaly {
        cycle: crate::testing::cycle(),
        subject: "lab".to_owned(),
        metric: metric.to_owned(),
        kind: AnomalyKind::Objective,
        observed: 150.0,
        expected: 100.0,
        spread: 0.0,
        score: 1.5,
        samples: 1,
        source: "a test".to_owned(),
        at_ms,
        depth: 0,
        incident: String::new(),
        evidence: Vec::new(),
        surge: None,
    })
}

#[tokio::test(start_paused = true)]
async fn what_begins_to_be_breached_beside_a_trial_ends_it_until_after_a_rest_and_in_the_end_the_experiment() {
    let world = World::with_env("SEQS=2\n");
    let room = watched(&world).await;
    let config = Config { yield_s: 1, yields_max: 1, ..Config::default() };
    room.run_patiently(Experiment { at_ms: 1000, ..experiment() }, config).await;
    eventually(|| world.bench.begun().len() == 1).await;
    world.write(vec![breach("latency", 2000)]);
    eventually(|| world.bench.dropped() == 1).await;
    eventually(|| world.bench.begun().len() == 2).await;
    assert_eq!(world.bench.begun()[0], world.bench.begun()[1], "the same candidate is measured anew");
    assert!(room.trials().is_empty(), "what was ended is no trial");
    world.write(vec![breach("waiting", 3000)]);
    let end = room.ended.next(SOON).await.unwrap();
    let ExperimentEnd::Void { why, cause, .. } = &end else { panic!("{end:?}") };
    assert_eq!(*cause, VoidCause::Withheld);
    assert!(why.starts_with("waiting of the serving instance breached its objective 2 times"), "{why}");
    assert_eq!(world.bench.dropped(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_breached_before_and_what_is_no_objective_ends_no_trial() {
    let world = World::with_env("SEQS=2\n");
    let room = watched(&world).await;
    world.write(vec![breach("latency", 500)]);
    room.run_patiently(Experiment { at_ms: 1000, ..experiment() }, Config { yield_s: 1, ..Config::default() }).await;
    eventually(|| world.bench.begun().len() == 1).await;
    let Fact::Anomaly(other) = breach("speed", 2000) else { unreachable!() };
    let other = Fact::Anomaly(Anomaly { kind: AnomalyKind::Deviation, ..other });
    world.write(vec![breach("latency", 2000), other]);
    // Two looks later it still goes on; on a paused clock that is no time, and no race.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((world.bench.begun().len(), world.bench.dropped()), (1, 0));
    world.bench.hang(false);
    room.ended.next(SOON).await.unwrap();
}
