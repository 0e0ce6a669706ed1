//! How an experiment yields: the instance that serves goes first.
//!
//! A candidate that is measured on a second instance takes from the one that serves. Where that begins to breach an objective which it
//! held before, the trial is ended, and measured anew after a rest that grows each time. Where that happens again and again, the
//! experiment ends: what it would find out costs its users too much now.

use std::time::Duration;

use ractor::{ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use super::experiment_actor::{Msg, State};
use crate::{
    facts::{Anomaly, Fact, Kind},
    meters,
    seams::{JournalError, Query},
};

/// How many of the newest anomalies are looked through.
const ANOMALIES_MAX: usize = 200;

/// How many times as long as the first rest any other one is at most.
const RESTS_MAX: u32 = 16;

/// What an experiment knows of the instance that serves.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    /// Up to where its anomalies were told before the first trial, or the first after a rest.
    told: Option<u64>,
    /// How often it has yielded.
    times: u32,
    /// Until when it rests.
    until: Option<Instant>,
}

impl State {
    /// Takes note of what is known of the serving instance before trials begin beside it.
    pub(super) async fn looks_up(&mut self) -> Result<(), JournalError> {
        if self.yielding.told.is_none() {
            let newest = Query::newest(&[Kind::Anomaly], 1).about(&self.domain.name);
            let told = self.seams.journal.read(newest).await?.first().map_or(0, |recorded| recorded.seq);
            self.yielding.told = Some(told);
        }
        Ok(())
    }

    /// Returns whether it rests.
    pub(super) fn rests(&self) -> bool {
        self.yielding.until.is_some_and(|until| Instant::now() < until)
    }

    /// Returns what the serving instance has begun to breach since trials run beside it, which it held before the experiment.
    pub(super) async fn disturbs(&self) -> Result<Option<String>, JournalError> {
        let Some(told) = self.yielding.told.filter(|_| self.trial.is_some()) else { return Ok(None) };
        if self.domain.in_place.is_some() || self.domain.objectives.is_empty() {
            return Ok(None);
        }
        let since = Query { after: told, limit: ANOMALIES_MAX, ..Query::kinds(&[Kind::Anomaly]) };
        let begun = self.breached(since, |_| true).await?;
        if begun.is_empty() {
            return Ok(None);
        }
        let before = Query::newest(&[Kind::Anomaly], ANOMALIES_MAX);
        let alone = self.breached(before, |anomaly| anomaly.at_ms < self.experiment.at_ms).await?;
        Ok(begun.into_iter().find(|metric| !alone.contains(metric)))
    }

    async fn breached(&self, query: Query, counts: impl Fn(&Anomaly) -> bool) -> Result<Vec<String>, JournalError> {
        let breaches = |fact| match fact {
            Fact::Anomaly(anomaly) if counts(&anomaly) => anomaly.breaches(&self.domain),
            _ => Vec::new(),
        };
        let recorded = self.seams.journal.read(query.about(&self.domain.name)).await?;
        Ok(recorded.into_iter().flat_map(|each| breaches(each.fact)).collect())
    }

    /// Ends the trial that runs, which is measured anew after a rest, or ends the experiment.
    pub(super) async fn yields(&mut self, myself: &ActorRef<Msg>, metric: &str) -> Result<(), ActorProcessingErr> {
        let Some(trial) = self.trial.take() else { return Ok(()) };
        trial.kill();
        metrics::counter!(meters::TRIALS_YIELDED_TOTAL).increment(1);
        let (times, times_max) = (self.yielding.times + 1, self.config.yields_max);
        if times > times_max {
            let why = format!(
                "{metric} of the serving instance breached its objective {times} times while a candidate was measured beside it \
                 (dream.yields_max)"
            );
            return self.give_up(myself, why).await;
        }
        let rest = Duration::from_secs(self.config.yield_s) * 2_u32.saturating_pow(times - 1).min(RESTS_MAX);
        let (experiment, rest_s) = (&self.experiment.id, rest.as_secs());
        tracing::warn!(%experiment, metric, rest_s, "trial is ended for the serving instance, and measured anew after a rest");
        self.yielding = Yielding { told: None, times, until: Some(Instant::now() + rest) };
        Ok(())
    }
}
