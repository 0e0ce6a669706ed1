//! How a service is measured against itself, before anything of it is judged.

use std::sync::Arc;

use ractor::{ActorRef, RpcReplyPort};
use tokio::task::AbortHandle;

use super::{
    Config,
    actor::{Msg, State},
    noise::{Comparing, compare},
    runs::{others_in, run, seed},
    verdict::Run,
};
use crate::{
    facts::{
        Calibration, CycleId, Domain, Entry, Fact, FailureKind, Kind, Measurement, Noise, Others, Settings,
        TrialFailure, short_hash, usual,
    },
    record::record,
    seams::{Assignment, JournalError, Purpose, Query},
};

/// How long nobody but a person has it tried again where it failed, in milliseconds.
const AGAIN_AFTER_MS: u64 = 600_000;

/// How many calibrations are looked back for.
const LOOK_BACK: usize = 100;

/// Who waits to hear that it begins.
type Reply = RpcReplyPort<Result<u32, String>>;

/// A service that is measured against itself.
pub(super) struct Calibrating {
    domain: Domain,
    config: Config,
    cycle: CycleId,
    runs: Vec<Run>,
    /// What others did during the runs, by block.
    others: Vec<(u32, Others)>,
    next: Option<(u32, u32)>,
    task: Option<AbortHandle>,
}

impl Drop for Calibrating {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl State {
    /// Begins to measure a service against itself, and says so to who asked.
    pub(super) async fn begin_calibration(&mut self, myself: &ActorRef<Msg>, name: &str, reply: Option<Reply>) {
        let begun = self.calibrate(myself, name, reply.is_some()).await;
        tell(name, begun, reply);
    }

    /// Ends what is measured against itself, with its instances, where a person has stopped everything; returns whether that is so.
    fn halt(&mut self) -> bool {
        let Some(stop) = self.seams.switch.stopped() else { return false };
        for (name, _) in std::mem::take(&mut self.calibrating) {
            tracing::warn!(domain = name, %stop, "service is not measured against itself for now");
            self.halted.insert(name);
        }
        true
    }

    /// Looks at the switch: what it ended begins anew once everything may go on.
    pub(super) async fn heed_switch(&mut self, myself: &ActorRef<Msg>) {
        if self.halt() {
            return;
        }
        for name in std::mem::take(&mut self.halted) {
            let begun = self.calibrate(myself, &name, true).await;
            tell(&name, begun, None);
        }
    }

    /// Begins to measure a service against itself, where that is not under way, and returns how many runs that takes at least; or why
    /// it cannot be done. Where nobody asks for it, it is not tried again at once after it failed.
    async fn calibrate(&mut self, myself: &ActorRef<Msg>, name: &str, is_asked_for: bool) -> Result<u32, String> {
        let Some(domain) = self.catalogue.domains.get(name).cloned() else {
            return Err(format!("there is no domain {name:?}"));
        };
        if domain.in_place.is_some() {
            return Err(format!(
                "{name} is measured in place, where each run restarts the service that its users have: its first validation tells \
                 its noise"
            ));
        }
        if self.judging.values().any(|judging| judging.domain.name == name) {
            return Err(format!("a change of {name} is being judged: it runs with settings that are not proven"));
        }
        // The switch itself is asked, as before every side effect.
        if let Some(stop) = self.seams.switch.stopped() {
            return Err(format!("{stop}: nothing is measured until kloros go"));
        }
        let runs_min = self.config.calibrate_blocks.max(1) * 4;
        if self.calibrating.contains_key(name) {
            return Ok(runs_min);
        }
        let now_ms = self.seams.clock.now_ms();
        if !is_asked_for && self.failed_lately(name, now_ms).await.map_err(|error| error.to_string())? {
            return Err("it failed not long ago".to_owned());
        }
        let cycle = CycleId::new(format!("c-{}", short_hash(&["calibrate", name, &now_ms.to_string()])));
        tracing::info!(%cycle, domain = name, runs_min, "service is measured against itself");
        let (config, next, task) = (self.config.clone(), None, None);
        let calibrating = Calibrating { domain, config, cycle, runs: Vec::new(), others: Vec::new(), next, task };
        self.calibrating.insert(name.to_owned(), calibrating);
        self.go_on(myself, name).await.map_err(|error| error.to_string())?;
        Ok(runs_min)
    }

    async fn failed_lately(&self, name: &str, now_ms: u64) -> Result<bool, JournalError> {
        let recorded = self.seams.journal.read(Query::newest(&[Kind::Calibration], LOOK_BACK).about(name)).await?;
        Ok(recorded.first().is_some_and(|newest| {
            matches!(&newest.fact, Fact::Calibration(Calibration { outcome: Err(_), .. }))
                && now_ms.saturating_sub(newest.at_ms) < AGAIN_AFTER_MS
        }))
    }

    /// Takes a run in, and goes on.
    pub(super) async fn compared(
        &mut self,
        myself: &ActorRef<Msg>,
        name: &str,
        outcome: Result<Measurement, TrialFailure>,
    ) -> Result<(), JournalError> {
        let Some(calibrating) = self.calibrating.get_mut(name) else { return Ok(()) };
        let Some((block, place)) = calibrating.next.take() else { return Ok(()) };
        calibrating.task = None;
        calibrating.runs.push(run(block, place, place == 2 || place == 3, &outcome));
        calibrating.others.extend(others_in(block, &outcome));
        self.go_on(myself, name).await
    }

    async fn go_on(&mut self, myself: &ActorRef<Msg>, name: &str) -> Result<(), JournalError> {
        if self.halt() {
            return Ok(());
        }
        let Some(calibrating) = self.calibrating.get_mut(name) else { return Ok(()) };
        let (block, place) = match compare(&calibrating.config, &calibrating.domain.metrics, &calibrating.runs) {
            Comparing::Measure(block, place) => (block, place),
            Comparing::Over(outcome) => return self.calibrated(name, outcome).await,
        };
        calibrating.next = Some((block, place));
        let assignment = Assignment {
            label: format!("a-{name}.b{block}.r{place}"),
            settings: Settings::new(),
            unset: Vec::new(),
            seed: seed(calibrating.cycle.as_str(), block),
            purpose: Purpose::Experiment,
            within: self.run_within,
            usual: usual(calibrating.others.iter().filter(|(of, _)| *of == block).map(|(_, others)| others)),
        };
        let (bench, domain) = (Arc::clone(&self.seams.bench), calibrating.domain.clone());
        let measuring = tokio::spawn(async move { bench.measure(&domain, assignment).await });
        calibrating.task = Some(measuring.abort_handle());
        let (myself, name) = (myself.clone(), name.to_owned());
        tokio::spawn(async move {
            let outcome = match measuring.await {
                Ok(outcome) => outcome,
                Err(ended) if ended.is_cancelled() => return,
                Err(panicked) => {
                    let detail = format!("the run failed: {panicked}");
                    Err(TrialFailure { kind: FailureKind::Infrastructure, detail })
                }
            };
            myself.send_message(Msg::Compared(name, outcome)).ok();
        });
        Ok(())
    }

    async fn calibrated(&mut self, name: &str, outcome: Result<Noise, String>) -> Result<(), JournalError> {
        let Some(calibrating) = self.calibrating.remove(name) else { return Ok(()) };
        match &outcome {
            Ok(noise) => {
                tracing::info!(domain = name, spread = noise.spread, resolves = noise.resolves, "noise is known");
            }
            Err(why) => tracing::warn!(domain = name, %why, "noise could not be measured"),
        }
        let (measured_by, at_ms) = (calibrating.domain.measured_by(), self.seams.clock.now_ms());
        let fact = Fact::Calibration(Calibration { domain: name.to_owned(), measured_by, outcome, at_ms });
        record(&self.seams, vec![Entry::new(&calibrating.cycle, at_ms, fact)]).await.map(drop)
    }
}

/// Says that it begins, or why not, to who asked; where nobody did, to the log.
fn tell(name: &str, begun: Result<u32, String>, reply: Option<Reply>) {
    match reply {
        // Who asked may have gone meanwhile; it goes on all the same.
        Some(reply) => drop(reply.send(begun)),
        None => drop(
            begun.inspect_err(|why| tracing::debug!(domain = name, %why, "service is not measured against itself")),
        ),
    }
}
