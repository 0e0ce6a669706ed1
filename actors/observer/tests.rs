//! The observer and its monitors.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kloros_supervision::{ChildSpec, Collected, Outlet, Socket, Tree};

use super::{Config, Exits, Monitor, MonitorArguments, MonitorExits, MonitorMsg, Msg, Observer};
use crate::{
    config::Catalogue,
    facts::{Anomaly, Fact, Kind, Lesson, Objective, Reading, Reason, Ruled, Verdict},
    seams::{Probe, ProbeError},
    testing::{SOON, World, deployment_of, domain, finish, house, promotion, rollback},
};

struct Room {
    world: World,
    socket: Socket<Msg>,
    tree: Tree,
    anomalies: Collected<Anomaly>,
}

async fn open() -> Room {
    open_in(World::with_env("")).await
}

async fn open_in(world: World) -> Room {
    let socket = Socket::new("observer");
    let (outlet, anomalies) = Outlet::collecting();
    let (exits, seams) = (Exits { anomalies: outlet }, world.seams());
    let mut lab = domain("lab");
    lab.objectives = vec![Objective { reading: "e2e_p95_ms".into(), max: 1500.0, readings: 3 }];
    let catalogue = Arc::new(Catalogue {
        domains: [("lab".to_owned(), lab)].into(),
        experiments: std::collections::BTreeMap::new(),
    });
    let spec = ChildSpec::actor("observer", &socket, move || {
        let (seams, exits, catalogue) = (seams.clone(), exits.clone(), Arc::clone(&catalogue));
        // What was seen is told at once: the clock of these tests stands still.
        let config = Config { gather_s: 0.0, ..Config::default() };
        (Observer, super::Arguments { seams, exits, config, catalogue })
    });
    Room { tree: house(spec).await, world, socket, anomalies }
}

fn reading(value: f64, at_ms: u64) -> Reading {
    let (subject, metric) = ("lab".into(), "e2e_p95_ms".into());
    Reading { subject, metric, value, samples: 9, at_ms, source: "http://127.0.0.1/metrics".into() }
}

impl Room {
    fn read(&self, values: &[f64], from_ms: u64) {
        for (place, value) in values.iter().enumerate() {
            self.socket.send(Msg::Read(vec![reading(*value, from_ms + place as u64)])).unwrap();
        }
    }
}

#[tokio::test]
async fn one_incident_raises_one_anomaly_and_it_is_durable_before_it_is_told() {
    let room = open().await;
    room.read(&[100.0; 20], 0);
    room.read(&[2000.0; 30], 100);
    let anomaly = room.anomalies.next(SOON).await.unwrap();
    assert_eq!((anomaly.subject.as_str(), anomaly.depth), ("lab", 0));
    assert_eq!(room.world.journal.count(Kind::Anomaly), 1);
    finish(&room.tree).await;
    assert!(room.anomalies.taken().is_empty());
}

#[tokio::test]
async fn an_anomaly_that_is_not_durable_is_not_told() {
    let room = open().await;
    room.world.journal.break_at(1);
    room.read(&[2000.0; 5], 0);
    finish(&room.tree).await;
    assert!(room.world.journal.is_broken());
    assert!(room.anomalies.taken().is_empty());
}

#[tokio::test]
async fn what_is_noticed_while_the_daemon_changes_the_service_is_marked_as_its_own_doing() {
    let room = open().await;
    room.read(&[100.0; 20], 0);
    room.socket.send(Msg::Disturbed("lab".into())).unwrap();
    room.read(&[2000.0; 5], 100);
    assert_eq!(room.anomalies.next(SOON).await.unwrap().depth, 1);
}

#[tokio::test]
async fn what_was_learned_is_gone_on_with_by_the_next_observer_and_a_damaged_state_is_set_aside() {
    let room = open().await;
    let world = room.world.clone();
    room.read(&[100.0; 200], 0);
    finish(&room.tree).await;
    let saved = world.notes.0.lock().unwrap().get("observer").cloned().unwrap();
    let room = open_in(world.clone()).await;
    finish(&room.tree).await;
    assert_eq!(world.notes.0.lock().unwrap().get("observer"), Some(&saved), "not a bit of it changed");
    world.notes.0.lock().unwrap().insert("observer".into(), saved[..saved.len() / 2].to_vec());
    let room = open_in(world.clone()).await;
    room.read(&[100.0; 3], 500);
    finish(&room.tree).await;
    let anew = world.notes.0.lock().unwrap().get("observer").cloned().unwrap();
    let (watch, _) = super::saved::decode(&anew).unwrap();
    assert_eq!(watch.tracked(), 1);
    assert_ne!(anew, saved);
}

#[tokio::test]
async fn a_lesson_that_was_missed_is_taken_from_the_journal() {
    let room = open().await;
    let world = room.world.clone();
    room.read(&[100.0; 200], 0);
    finish(&room.tree).await;
    let undone = rollback(&deployment_of(promotion(&[("SEQS", 4)])), Reason::Crash);
    let verdict = Verdict { outcome: Ruled::Success, reason: Reason::Improved, ..undone };
    let lesson = Lesson {
        cycle: verdict.cycle.clone(),
        domain: verdict.domain.clone(),
        question: None,
        hypothesis: None,
        fingerprint: String::new(),
        verdict,
        interest_change: 0.1,
        rest_until_ms: 0,
        avoid: false,
        says: String::new(),
    };
    world.write(vec![Fact::Lesson(lesson)]);
    let room = open_in(world.clone()).await;
    finish(&room.tree).await;
    let saved = world.notes.0.lock().unwrap().get("observer").cloned().unwrap();
    assert_eq!(super::saved::decode(&saved).unwrap().0.tracked(), 0, "the past of other settings is forgotten");
}

struct ScriptedProbe(Mutex<Vec<Result<Vec<Reading>, ProbeError>>>);

#[async_trait]
impl Probe for ScriptedProbe {
    fn name(&self) -> String {
        "probe".to_owned()
    }

    async fn read(&self) -> Result<Vec<Reading>, ProbeError> {
        self.0.lock().unwrap().pop().unwrap_or_else(|| Err(ProbeError::Absent("none".into())))
    }
}

/// Lesson 36: who does not answer is a state, and stops nothing.
#[tokio::test]
async fn a_monitor_goes_on_after_a_probe_that_does_not_answer_and_one_that_has_nothing_to_read() {
    let probe = Arc::new(ScriptedProbe(Mutex::new(vec![
        Ok(vec![reading(2.0, 2)]),
        Err(ProbeError::Unreachable("no answer".into())),
        Err(ProbeError::Absent("no such device".into())),
        Ok(vec![reading(1.0, 1)]),
    ])));
    let (outlet, readings) = Outlet::collecting();
    let socket: Socket<MonitorMsg> = Socket::new("monitor");
    let spec = ChildSpec::actor("monitor", &socket, move || {
        let wait = Duration::from_millis(1);
        let exits = MonitorExits { readings: outlet.clone() };
        let refine: super::Refine = Arc::new(|mut readings: Vec<Reading>| {
            for reading in &mut readings {
                reading.value *= 10.0;
            }
            readings
        });
        let probe: Arc<dyn Probe> = probe.clone();
        (Monitor, MonitorArguments { probe, every: wait, absent_retry: wait, exits, refine })
    });
    let _tree = house(spec).await;
    assert_eq!(readings.next(SOON).await.unwrap()[0].value, 10.0);
    assert_eq!(readings.next(SOON).await.unwrap()[0].value, 20.0);
}
