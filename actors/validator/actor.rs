use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kloros_supervision::to_self;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::AbortHandle;

use super::{
    Config, baseline,
    calibration_actor::Calibrating,
    conclusion_actor::note_config,
    in_place_actor::send,
    runs::{coin, others_in, run, seed},
    verdict::{Course, Judgement, Run, arrange, condemned, course},
};
use crate::{
    config::Catalogue,
    facts::{
        Change, Deployment, DeploymentId, Domain, Entry, Fact, FailureKind, Incarnation, Key, Kind, Measurement,
        Metrics, Others, Reason, Settings, Stage, Step, TrialFailure, Verdict, usual,
    },
    record::{TAKEN_OVER, is_taken_over, open_deployments, proven, record, standing, wake},
    seams::{Assignment, Borrower, Errand, JournalError, Outlet, Purpose, Query, Seams, Untried},
};

/// What the validator says.
#[derive(Clone, Debug)]
pub struct Exits {
    /// A verdict, to the deployer and to feedback.
    pub verdicts: Vec<Outlet<Verdict>>,
    /// A deployment whose measurement cannot be written down, to the deployer: nothing unproven may stay live.
    pub unrecorded: Outlet<DeploymentId>,
    /// A run that is to be measured on the serving instance, to the deployer.
    pub errands: Outlet<Errand>,
}

/// What the validator hears.
#[derive(Debug)]
pub enum Msg {
    /// A deployment is live and is to be judged.
    Deployed(Deployment),
    /// A run was measured, or could not be.
    Ran(DeploymentId, Result<Measurement, TrialFailure>),
    /// A run could not be made, for this reason, which says nothing of the settings.
    Unmade(DeploymentId, String),
    /// The new settings are back in the service, so that a verdict can be given, or they could not be brought back.
    Settled(DeploymentId, Result<(), Untried>),
    /// A deployment is being undone for another reason: it is not judged any more.
    Withdrawn(DeploymentId),
    /// It is time to look whether what is measured for still stands.
    Look,
    /// The noise of a domain's measurement is to be found out, for a person who wants to hear that it begins, or for the gate.
    Calibrate(String, Option<RpcReplyPort<Result<u32, String>>>),
    /// A run of that was measured, or could not be.
    Compared(String, Result<Measurement, TrialFailure>),
    /// A heartbeat, to be sent back.
    Pulse(RpcReplyPort<()>),
    /// The operator changed the settings, or when a run is ended.
    Reconfigured(Config, Duration),
    /// The operator changed the domains or experiments.
    Catalogued(Arc<Catalogue>),
}

/// What the validator needs.
pub struct Arguments {
    /// What is plugged in.
    pub seams: Seams,
    /// Where verdicts go.
    pub exits: Exits,
    /// The room's settings.
    pub config: Config,
    /// The domains.
    pub catalogue: Arc<Catalogue>,
    /// When a run is ended, from its turn to measure on.
    pub run_within: Duration,
}

/// Judges deployments by measuring old and new side by side.
pub struct Validator;

/// What the validator remembers: a fold of the journal.
pub struct State {
    pub(super) seams: Seams,
    pub(super) exits: Exits,
    pub(super) config: Config,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) run_within: Duration,
    pub(super) calibrating: BTreeMap<String, Calibrating>,
    /// What was measured against itself when a person stopped everything.
    pub(super) halted: BTreeSet<String>,
    pub(super) judging: BTreeMap<DeploymentId, Judging>,
}

/// A deployment on the scales.
pub(super) struct Judging {
    pub(super) deployment: Deployment,
    pub(super) domain: Domain,
    /// The rules it went on the scales with: those that come while it lies there are for the next one.
    config: Config,
    /// Which run of the service was proven to run with it.
    pub(super) proven: Option<Incarnation>,
    anchor: Option<Metrics>,
    /// What the service said it ran with, as a hash: with the old settings, and with the new ones.
    pub(super) configs: [Option<String>; 2],
    pub(super) runs: Vec<Run>,
    /// What others did during the runs, by block.
    others: Vec<(u32, Others)>,
    pub(super) next: Option<(u32, u32, bool)>,
    pub(super) task: Option<AbortHandle>,
    /// How often in a row a run could not be made.
    pub(super) unmade: u32,
    /// The judgement that waits until the new settings are back in the service.
    pub(super) settling: Option<Judgement>,
}

impl Drop for Judging {
    fn drop(&mut self) {
        // A run whose result nobody waits for must not go on to load the machine.
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Actor for Validator {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue, run_within } = arguments;
        // What was on the scales when this room failed goes back on them; the runs are in the journal.
        for (deployment, stage) in open_deployments(&seams).await? {
            if matches!(stage, Stage::Healthy | Stage::Measuring) {
                to_self(&myself, Msg::Deployed(deployment))?;
            }
        }
        myself.send_after(config.look_every(), || Msg::Look);
        let (calibrating, halted, judging) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Ok(State { seams, exits, config, catalogue, run_within, calibrating, halted, judging })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Deployed(deployment) => {
                let id = deployment.id.clone();
                let begun = state.begin(&myself, deployment).await;
                begun.inspect_err(|_| wake(&state.exits.unrecorded, id))?;
            }
            Msg::Ran(id, outcome) => {
                let weighed = state.weigh(&myself, &id, outcome).await;
                weighed.inspect_err(|_| wake(&state.exits.unrecorded, id))?;
            }
            Msg::Unmade(id, why) => {
                let unmade = state.unmade(&id, why).await;
                unmade.inspect_err(|_| wake(&state.exits.unrecorded, id))?;
            }
            Msg::Settled(id, settled) => {
                let settled = state.settled(&id, settled).await;
                settled.inspect_err(|_| wake(&state.exits.unrecorded, id))?;
            }
            Msg::Withdrawn(id) => drop(state.judging.remove(&id)),
            Msg::Look => {
                myself.send_after(state.config.look_every(), || Msg::Look);
                state.heed_switch(&myself).await;
                state.look().await?;
                state.nudge(&myself).await?;
            }
            Msg::Calibrate(domain, reply) => state.begin_calibration(&myself, &domain, reply).await,
            Msg::Compared(domain, outcome) => state.compared(&myself, &domain, outcome).await?,
            Msg::Pulse(reply) => drop(reply.send(())),
            Msg::Reconfigured(config, run_within) => (state.config, state.run_within) = (config, run_within),
            Msg::Catalogued(catalogue) => state.catalogue = catalogue,
        }
        Ok(())
    }
}

impl State {
    /// Begins, or after a restart of this room goes on where the journal says.
    async fn begin(&mut self, myself: &ActorRef<Msg>, deployment: Deployment) -> Result<(), JournalError> {
        if self.judging.contains_key(&deployment.id) {
            return Ok(());
        }
        // It may be told of again after it was judged, or withdrawn.
        if !matches!(standing(&self.seams, &deployment.id).await?.stage, Stage::Healthy | Stage::Measuring) {
            return Ok(());
        }
        let Some(domain) = self.catalogue.domains.get(&deployment.promotion.domain).cloned() else { return Ok(()) };
        // What runs from now on is not what was measured against itself.
        self.calibrating.remove(&domain.name);
        let id = deployment.id.clone();
        let now_ms = self.seams.clock.now_ms();
        let step = Fact::Step { deployment: id.clone(), step: Step::Measured };
        let entry = Entry::once(&deployment.promotion.cycle, now_ms, format!("measuring:{id}"), step);
        record(&self.seams, vec![entry]).await?;
        let Told { runs, others, configs } = self.told(&id, &domain.name).await?;
        let anchor = self.anchor(&domain).await?;
        let proven = proven(&self.seams, &id).await?;
        let (config, next, task, unmade, settling) = (self.config.clone(), None, None, 0, None);
        let judging =
            Judging { deployment, domain, config, proven, anchor, configs, runs, others, next, task, unmade, settling };
        self.judging.insert(id.clone(), judging);
        self.proceed(myself, &id).await
    }

    /// Returns what the journal tells of the runs so far.
    async fn told(&self, id: &DeploymentId, domain: &str) -> Result<Told, JournalError> {
        let recorded = self.seams.journal.read(Query::kinds(&[Kind::Run]).about(id.as_str())).await?;
        let mut told = Told::default();
        for recorded in recorded {
            if let Fact::Run { block, place, candidate, outcome, .. } = recorded.fact {
                told.runs.push(run(block, place, candidate, &outcome));
                told.others.extend(others_in(block, &outcome));
                note_config(&mut told.configs, domain, candidate, &outcome);
            }
        }
        Ok(told)
    }

    /// Returns what the domain is held to, from all that was ever said of it: a domain that is seldom changed has its baseline
    /// behind the verdicts of all others.
    pub(super) async fn anchor(&self, domain: &Domain) -> Result<Option<Metrics>, JournalError> {
        let (mut held, mut after) = (None, 0);
        loop {
            let page = Query { after, limit: PAGE, ..Query::kinds(&[Kind::Verdict, Kind::Anchored]) };
            let recorded = self.seams.journal.read(page).await?;
            let is_last = recorded.len() < PAGE;
            for recorded in recorded {
                after = recorded.seq;
                let is_about = match &recorded.fact {
                    Fact::Verdict(verdict) => verdict.domain == domain.name,
                    Fact::Anchored(anchored) => anchored.domain == domain.name,
                    _ => false,
                };
                if is_about {
                    held = baseline::held_after(&domain.metrics, held, &recorded.fact);
                }
            }
            if is_last {
                return Ok(held);
            }
        }
    }

    async fn weigh(
        &mut self,
        myself: &ActorRef<Msg>,
        id: &DeploymentId,
        outcome: Result<Measurement, TrialFailure>,
    ) -> Result<(), JournalError> {
        let Some(judging) = self.judging.get_mut(id) else { return Ok(()) };
        let Some((block, place, candidate)) = judging.next.take() else { return Ok(()) };
        judging.task = None;
        judging.unmade = 0;
        if is_taken_over(&self.seams, &judging.domain.name, id).await {
            // This process was late: nothing that it measured counts, and nothing more is said of it.
            let reason = Reason::Aborted { why: TAKEN_OVER.to_owned() };
            let judgement = condemned(&judging.domain.metrics, &judging.runs, reason);
            return self.conclude(id, judgement).await;
        }
        judging.runs.push(run(block, place, candidate, &outcome));
        judging.others.extend(others_in(block, &outcome));
        note_config(&mut judging.configs, &judging.domain.name, candidate, &outcome);
        let fact = Fact::Run { deployment: id.clone(), block, place, candidate, outcome };
        let cycle = judging.deployment.promotion.cycle.clone();
        let entry = Entry::once(&cycle, self.seams.clock.now_ms(), format!("run:{id}:{block}:{place}"), fact);
        record(&self.seams, vec![entry]).await?;
        self.proceed(myself, id).await
    }

    pub(super) async fn proceed(&mut self, myself: &ActorRef<Msg>, id: &DeploymentId) -> Result<(), JournalError> {
        let Some(judging) = self.judging.get(id) else { return Ok(()) };
        // What is measured in place is started anew for each run, which looks itself whether it dies.
        if judging.domain.in_place.is_none()
            && let Some(seen) = self.died(judging).await
        {
            let reason = self.behind(judging, seen).await;
            let judgement = condemned(&judging.domain.metrics, &judging.runs, reason);
            return self.conclude(id, judgement).await;
        }
        let Some(judging) = self.judging.get_mut(id) else { return Ok(()) };
        match course(&judging.config, &judging.domain.metrics, judging.anchor.as_ref(), &judging.runs) {
            Course::Measure { block, blocks_planned } => {
                // A run starts an instance of the service or restarts it, so the switch itself is asked.
                if let Some(stop) = self.seams.switch.stopped() {
                    return self.condemn(id, Reason::Stopped { why: stop.to_string() }).await;
                }
                let done = judging.runs.iter().filter(|run| run.block == block).count() as u32;
                let candidate = arrange(coin(id, block))[done.min(3) as usize];
                tracing::debug!(deployment = %id, block, blocks_planned, place = done + 1, candidate, "run begins");
                judging.next = Some((block, done + 1, candidate));
                let (bench, errands) = (Arc::clone(&self.seams.bench), self.exits.errands.clone());
                let measuring = measure(bench, errands, judging, (block, done + 1, candidate), self.run_within);
                let (myself, id) = (myself.clone(), id.clone());
                let run = tokio::spawn(measuring);
                judging.task = Some(run.abort_handle());
                tokio::spawn(async move {
                    let outcome = match run.await {
                        Ok(Ok(measurement)) => Ok(measurement),
                        Ok(Err(Untried::Failed(failure))) => Err(failure),
                        Ok(Err(Untried::Interrupted(why))) => {
                            myself.send_message(Msg::Unmade(id, why)).ok();
                            return;
                        }
                        Err(ended) if ended.is_cancelled() => return,
                        Err(panicked) => Err(TrialFailure {
                            kind: FailureKind::Infrastructure,
                            detail: format!("the run failed: {panicked}"),
                        }),
                    };
                    // A validator that is gone resumes from the journal and measures this run again.
                    myself.send_message(Msg::Ran(id, outcome)).ok();
                });
                Ok(())
            }
            Course::Judge(judgement) => {
                if self.settles(myself, id, &judgement).await {
                    Ok(())
                } else {
                    self.pronounce(id, judgement).await
                }
            }
        }
    }

    pub(super) async fn pronounce(&mut self, id: &DeploymentId, judgement: Judgement) -> Result<(), JournalError> {
        let Some(judging) = self.judging.get(id) else { return Ok(()) };
        let judgement = self.check_live(judging, judgement).await;
        self.conclude(id, judgement).await
    }
}

/// How many verdicts are read at once.
const PAGE: usize = 1_000;

/// What the journal tells of the runs of a validation.
#[derive(Default)]
struct Told {
    runs: Vec<Run>,
    others: Vec<(u32, Others)>,
    configs: [Option<String>; 2],
}

fn measure(
    bench: Arc<dyn crate::seams::Bench>,
    errands: Outlet<Errand>,
    judging: &Judging,
    (block, place, candidate): (u32, u32, bool),
    within: Duration,
) -> impl Future<Output = Result<Measurement, Untried>> + Send + 'static {
    let domain = judging.domain.clone();
    let id = judging.deployment.id.clone();
    let assignment = Assignment {
        label: format!("{id}.b{block}.r{place}"),
        settings: arm(judging, candidate),
        unset: if candidate { Vec::new() } else { unset(judging) },
        // One load for all four runs of a block: what differs is the settings alone.
        seed: seed(id.as_str(), block),
        purpose: Purpose::Validation(id.clone()),
        within,
        // Old and new are compared block by block, so that is where they meet the same load.
        usual: usual(judging.others.iter().filter(|(of, _)| *of == block).map(|(_, others)| others)),
    };
    async move {
        if domain.in_place.is_none() {
            return Ok(bench.measure(&domain, assignment).await?);
        }
        let whose = Borrower::Deployment { id, candidate };
        let measured = send(errands, domain.name, whose, Some(assignment)).await?;
        measured.ok_or_else(|| Untried::Interrupted("nothing was measured".to_owned()))
    }
}

/// Returns what the service ran with before the change, as it said itself, or runs with after it, of the keys that change.
fn arm(judging: &Judging, candidate: bool) -> Settings {
    let changes = &judging.deployment.promotion.changes;
    let value = |change: &Change| if candidate { Some(change.to.clone()) } else { change.from.clone() };
    changes.iter().filter_map(|(key, change)| Some((key.clone(), value(change)?))).collect()
}

/// Returns the keys of which nothing said what the service ran with before the change: it ran without them.
fn unset(judging: &Judging) -> Vec<Key> {
    let changes = &judging.deployment.promotion.changes;
    changes.iter().filter(|(_, change)| change.from.is_none()).map(|(key, _)| key.clone()).collect()
}
