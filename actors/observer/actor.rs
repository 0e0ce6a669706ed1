use std::{collections::BTreeMap, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{Config, incident::Watch};
use crate::{
    config::Catalogue,
    facts::{Anomaly, AnomalyKind, Entry, Fact, Lesson, Objective, Reading},
    meters,
    record::{record, wake},
    seams::{Outlet, Seams},
};

/// What the observer says.
#[derive(Clone, Debug)]
pub struct Exits {
    /// Something is unlike its past, or outside what its owner promised.
    pub anomalies: Outlet<Anomaly>,
}

/// What the observer hears.
#[derive(Debug)]
pub enum Msg {
    /// A monitor read something.
    Read(Vec<Reading>),
    /// The service of this domain is about to be changed by kloros itself.
    Disturbed(String),
    /// A cycle ended: what was normal for its service may not be any more.
    Learned(Lesson),
    /// The operator changed the settings.
    Reconfigured(Config),
}

/// What the observer needs.
pub struct Arguments {
    /// What is plugged in.
    pub seams: Seams,
    /// Where anomalies go.
    pub exits: Exits,
    /// The room's settings.
    pub config: Config,
    /// The domains, for their objectives.
    pub catalogue: Arc<Catalogue>,
}

/// Compares readings with their own past.
pub struct Observer;

/// What the observer remembers; all of it can be learned again, so none of it is in the journal.
pub struct State {
    seams: Seams,
    exits: Exits,
    config: Config,
    objectives: BTreeMap<String, Vec<Objective>>,
    watch: Watch,
}

impl Actor for Observer {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, _: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue } = arguments;
        let objectives =
            catalogue.domains.iter().map(|(name, domain)| (name.clone(), domain.objectives.clone())).collect();
        Ok(State { seams, exits, config, objectives, watch: Watch::default() })
    }

    async fn handle(&self, _: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Read(readings) => state.look(&readings).await,
            Msg::Disturbed(domain) => state.watch.stir(&domain, &state.config, state.seams.clock.now_ms()),
            Msg::Learned(lesson) => state.watch.learn(&lesson, &state.config, state.seams.clock.now_ms()),
            Msg::Reconfigured(config) => state.config = config,
        }
        Ok(())
    }
}

impl State {
    async fn look(&mut self, readings: &[Reading]) {
        let now_ms = self.seams.clock.now_ms();
        for reading in readings {
            let objectives = self.objectives.get(&reading.subject).map_or(&[][..], Vec::as_slice);
            if let Some(anomaly) = self.watch.read(reading, objectives, &self.config, now_ms) {
                self.raise(anomaly).await;
            }
        }
    }

    async fn raise(&self, anomaly: Anomaly) {
        let entry = Entry::new(&anomaly.cycle, anomaly.at_ms, Fact::Anomaly(anomaly.clone()));
        if record(&self.seams, vec![entry]).await.is_err() {
            return;
        }
        metrics::counter!(meters::ANOMALIES_TOTAL, "kind" => label(anomaly.kind)).increment(1);
        tracing::info!(
            cycle = %anomaly.cycle, subject = %anomaly.subject, metric = %anomaly.metric,
            observed = anomaly.observed, expected = anomaly.expected, "anomaly noticed"
        );
        wake(&self.exits.anomalies, anomaly);
    }
}

fn label(kind: AnomalyKind) -> &'static str {
    match kind {
        AnomalyKind::Deviation => "deviation",
        AnomalyKind::Objective => "objective",
        AnomalyKind::Pressure => "pressure",
    }
}
