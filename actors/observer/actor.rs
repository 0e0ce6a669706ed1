use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::{
    Config,
    saved::{decode, encode},
    watch::{Counts, Now, Watch},
};
use crate::{
    config::Catalogue,
    facts::{Anomaly, AnomalyKind, Entry, Fact, Kind, Lesson, Objective, Reading},
    meters,
    record::{record, wake},
    seams::{Outlet, Query, Seams},
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
    /// A heartbeat, to be sent back.
    Pulse(RpcReplyPort<()>),
    /// What was learned is to be saved.
    Save,
    /// The operator changed the settings.
    Reconfigured(Config),
    /// The operator changed the domains or experiments.
    Catalogued(Arc<Catalogue>),
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

/// What the observer remembers; all of it can be learned again, so it is in a note beside the journal.
pub struct State {
    seams: Seams,
    exits: Exits,
    config: Config,
    objectives: BTreeMap<String, Vec<Objective>>,
    watch: Watch,
    /// Whether it was said that there are more series than may be watched.
    has_warned: bool,
}

/// The name of the note.
const NOTE: &str = "observer";

/// How many lessons of the past are looked at for those that were missed.
const LESSONS_MAX: usize = 200;

impl Actor for Observer {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue } = arguments;
        let objectives = objectives(&catalogue);
        let watch = restore(&seams, &config).await;
        save_later(&myself, &config);
        Ok(State { seams, exits, config, objectives, watch, has_warned: false })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Read(readings) => state.look(&readings).await,
            Msg::Disturbed(domain) => state.watch.stir(&domain, &state.config, state.seams.clock.now_ms()),
            Msg::Learned(lesson) => {
                state.watch.learn(&lesson, &state.config, state.seams.clock.now_ms());
                state.save().await;
            }
            Msg::Save => {
                state.save().await;
                save_later(&myself, &state.config);
            }
            Msg::Pulse(reply) => drop(reply.send(())),
            Msg::Reconfigured(config) => state.config = config,
            Msg::Catalogued(catalogue) => state.objectives = objectives(&catalogue),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.save().await;
        Ok(())
    }
}

fn save_later(myself: &ActorRef<Msg>, config: &Config) {
    myself.send_after(Duration::from_secs(config.save_every_s.max(1)), || Msg::Save);
}

/// Returns what was watched when the room last ended, brought up to date; nothing where that cannot be gone on with.
async fn restore(seams: &Seams, config: &Config) -> Watch {
    let note = match seams.notes.kept(NOTE).await {
        Ok(Some(note)) => note,
        Ok(None) => return Watch::default(),
        Err(error) => {
            tracing::warn!(%error, "what was learned cannot be read, learning anew");
            return Watch::default();
        }
    };
    let (mut watch, saved_at_ms) = match decode(&note) {
        Ok(saved) => saved,
        Err(why) => {
            tracing::warn!(%why, "what was learned cannot be gone on with, learning anew");
            seams.notes.discard(NOTE).await;
            return Watch::default();
        }
    };
    let now_ms = seams.clock.now_ms();
    let age_s = now_ms.saturating_sub(saved_at_ms) / 1000;
    if age_s > config.saved_max_age_s {
        tracing::info!(age_s, "what was learned is too old, learning anew");
        return Watch::default();
    }
    watch.fit(config);
    // A lesson that was told while this room was down is in the journal.
    let lessons = seams.journal.read(Query::newest(&[Kind::Lesson], LESSONS_MAX)).await.unwrap_or_default();
    for recorded in lessons.into_iter().rev().filter(|recorded| recorded.at_ms >= saved_at_ms) {
        if let Fact::Lesson(lesson) = recorded.fact {
            watch.learn(&lesson, config, now_ms);
        }
    }
    tracing::info!(age_s, series = watch.tracked(), "going on with what was learned");
    watch
}

impl State {
    async fn look(&mut self, readings: &[Reading]) {
        let clock = &self.seams.clock;
        let now = Now { ms: clock.now_ms(), utc_offset_s: clock.utc_offset_s() };
        let objectives = &self.objectives;
        let of = |subject: &str| objectives.get(subject).map_or(&[][..], Vec::as_slice);
        meters::host::show(readings, |subject| objectives.contains_key(subject));
        let anomalies = self.watch.read(readings, of, &self.config, now);
        self.count();
        for anomaly in anomalies {
            self.raise(anomaly).await;
        }
    }

    fn count(&mut self) {
        let Counts { cut, explained, silenced } = self.watch.counted();
        metrics::gauge!(meters::SERIES_WATCHED).set(self.watch.tracked() as f64);
        metrics::gauge!(meters::INCIDENTS_OPEN).set(self.watch.open() as f64);
        metrics::counter!(meters::READINGS_CUT_TOTAL).increment(cut);
        metrics::counter!(meters::DEVIATIONS_EXPLAINED_TOTAL).increment(explained);
        metrics::counter!(meters::INCIDENTS_SILENCED_TOTAL).increment(silenced);
        if cut > 0 && !self.has_warned {
            self.has_warned = true;
            let series_max = self.config.series_max;
            tracing::warn!(series_max, "more series than observer.series_max are read, further ones are not watched");
        }
    }

    async fn save(&self) {
        let Some(bytes) = encode(&self.watch, self.seams.clock.now_ms()) else { return };
        if let Err(error) = self.seams.notes.keep(NOTE, bytes).await {
            tracing::warn!(%error, "what was learned is not saved");
        }
    }

    async fn raise(&self, anomaly: Anomaly) {
        let entry = Entry::new(&anomaly.cycle, anomaly.at_ms, Fact::Anomaly(anomaly.clone()));
        if record(&self.seams, vec![entry]).await.is_err() {
            return;
        }
        metrics::counter!(meters::ANOMALIES_TOTAL, "kind" => label(anomaly.kind)).increment(1);
        tracing::info!(
            cycle = %anomaly.cycle, incident = %anomaly.incident, subject = %anomaly.subject, metric = %anomaly.metric,
            observed = anomaly.observed, expected = anomaly.expected, signs = anomaly.evidence.len() + 1,
            surge = anomaly.surge.is_some(), "anomaly noticed"
        );
        wake(&self.exits.anomalies, anomaly);
    }
}

fn objectives(catalogue: &Catalogue) -> BTreeMap<String, Vec<Objective>> {
    catalogue.domains.iter().map(|(name, domain)| (name.clone(), domain.objectives.clone())).collect()
}

fn label(kind: AnomalyKind) -> &'static str {
    match kind {
        AnomalyKind::Deviation => "deviation",
        AnomalyKind::Objective => "objective",
        AnomalyKind::Pressure => "pressure",
    }
}
