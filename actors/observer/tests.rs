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
    facts::{Anomaly, Kind, Objective, Reading},
    seams::{Probe, ProbeError},
    testing::{SOON, World, domain, finish, house},
};

struct Room {
    world: World,
    socket: Socket<Msg>,
    tree: Tree,
    anomalies: Collected<Anomaly>,
}

async fn open() -> Room {
    let world = World::with_env("");
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
        (Observer, super::Arguments { seams, exits, config: Config::default(), catalogue })
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
