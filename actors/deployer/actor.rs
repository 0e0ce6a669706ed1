use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    Config,
    loan_actor::{self, Lent, Returned},
    saga::{SIGNS_OF_LIFE, Saga},
};
use crate::{
    config::Catalogue,
    facts::{
        Approved, Deployment, DeploymentId, Domain, Promotion, QuestionEnd, Reason, Ruled, Stage, TrialFailure, Verdict,
    },
    meters,
    record::{TAKEN_OVER, is_taken_over, open_deployments, record_verdict, standing, wake},
    seams::{Errand, JournalError, Outlet, Permit, Planning, Seams},
};

/// What the deployer says.
#[derive(Clone, Debug)]
pub struct Exits {
    /// A change that somebody wants to make, for the gate.
    pub promotions: Outlet<Promotion>,
    /// The question whether what was let through may still go on, for the gate.
    pub permits: Outlet<Permit>,
    /// The domain whose service is about to be disturbed.
    pub begun: Outlet<String>,
    /// A change that is live and is to be judged.
    pub deployed: Outlet<Deployment>,
    /// A deployment that is undone for another reason than its measurement.
    pub withdrawn: Outlet<DeploymentId>,
    /// A verdict that was given here, because the change could not be made or was taken back.
    pub verdicts: Outlet<Verdict>,
    /// A question that ended here.
    pub ended: Outlet<QuestionEnd>,
}

/// What the deployer hears.
#[derive(Debug)]
pub enum Msg {
    /// Somebody proposes settings.
    Proposed(Planning),
    /// The gate let a promotion through.
    Cleared(Approved<Promotion>),
    /// What is to be deployed can be measured at once, or cannot be.
    Turn(DeploymentId, Result<(), TrialFailure>),
    /// An experiment or a validation wants something measured on the serving instance itself.
    Sent(Errand),
    /// Such an errand for an experiment is over.
    Returned(Box<Returned>),
    /// The validator judged a deployment.
    Judged(Verdict),
    /// What a deployment measures cannot be written down: there will be no verdict.
    Unrecorded(DeploymentId),
    /// A person wants a deployment undone.
    Recalled(DeploymentId, u32, RpcReplyPort<Result<Verdict, String>>),
    /// It is time to look whether the journal is still there, while something unproven is live.
    Look,
    /// It is time to try again what could not be undone.
    Sweep,
    /// A heartbeat, to be sent back.
    Pulse(RpcReplyPort<()>),
    /// The operator changed the settings, or how long a question rests that ended without a deployment, in seconds.
    Reconfigured(Config, u64),
    /// The operator changed the domains or experiments.
    Catalogued(Arc<Catalogue>),
}

/// What the deployer needs.
pub struct Arguments {
    /// What is plugged in.
    pub seams: Seams,
    /// Where work goes.
    pub exits: Exits,
    /// The room's settings.
    pub config: Config,
    /// The domains.
    pub catalogue: Arc<Catalogue>,
    /// How long a question rests that ended without a deployment, in seconds.
    pub rest_s: u64,
}

/// Changes running services, and changes them back.
pub struct Deployer;

/// What the deployer remembers: a fold of the journal.
pub struct State {
    pub(super) seams: Seams,
    pub(super) exits: Exits,
    pub(super) config: Config,
    catalogue: Arc<Catalogue>,
    pub(super) rest_s: u64,
    pub(super) open: BTreeMap<DeploymentId, (Deployment, Stage)>,
    /// What waits until it can be measured at once, and has not been touched.
    pub(super) waiting: BTreeMap<DeploymentId, Promotion>,
    /// Who waits for that; ends with this room.
    pub(super) turns: JoinSet<()>,
    /// What could not be undone: how many sweeps passed since it was tried, and how many must.
    pub(super) stuck: BTreeMap<DeploymentId, (u32, u32)>,
    /// When the guard was last told that this process still works.
    sign_of_life: Option<Instant>,
    /// The services that are lent to experiments, by domain.
    pub(super) loans: BTreeMap<String, Lent>,
    /// Ends with this room, and with it whatever is tried in its name.
    pub(super) room: watch::Sender<()>,
    /// Tells the runs in place of a deployment that it is brought to its end.
    pub(super) alternating: BTreeMap<DeploymentId, watch::Sender<bool>>,
    /// Whoever touches the service of a deployment that is measured in place holds this.
    pub(super) hands: Arc<Mutex<()>>,
}

/// How often it is looked whether the journal is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it is tried again what could not be undone.
const SWEEP_EVERY: Duration = Duration::from_secs(15);

/// Why a deployment is given up that nobody can judge.
pub(super) const UNRECORDED: &str = "the journal could not be written before it was proven";

/// After how many sweeps at most it is tried again: a service that does not come up is not restarted for ever.
const STUCK_SWEEPS_MAX: u32 = 240;

impl Actor for Deployer {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue, rest_s } = arguments;
        // What an earlier room waited for is nobody's.
        seams.bench.keep(&[]);
        let (open, waiting, turns) = (BTreeMap::new(), BTreeMap::new(), JoinSet::new());
        let mut state = State {
            seams,
            exits,
            config,
            catalogue,
            rest_s,
            open,
            waiting,
            turns,
            stuck: BTreeMap::new(),
            sign_of_life: None,
            loans: BTreeMap::new(),
            room: loan_actor::room(),
            alternating: BTreeMap::new(),
            hands: Arc::default(),
        };
        let resumed = state.resume().await;
        state.or_take_back(resumed).await?;
        myself.send_after(SWEEP_EVERY, || Msg::Sweep);
        myself.send_after(LOOK_EVERY, || Msg::Look);
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let handled = match msg {
            Msg::Proposed(planning) => state.plan(planning).await,
            Msg::Cleared(approved) => state.accept(&myself, approved).await,
            Msg::Sent(errand) => state.send_on(&myself, errand).await,
            Msg::Returned(returned) => state.take_back_from(*returned).await,
            Msg::Turn(id, turn) => state.take_turn(&id, turn).await,
            Msg::Judged(verdict) => state.settle(&verdict).await,
            Msg::Unrecorded(id) => state.give_up(&id).await,
            Msg::Recalled(id, uid, reply) => state.recall(&id, uid, reply).await,
            Msg::Look => {
                myself.send_after(LOOK_EVERY, || Msg::Look);
                state.look().await
            }
            Msg::Sweep => {
                myself.send_after(SWEEP_EVERY, || Msg::Sweep);
                state.keep_turns();
                state.sweep().await
            }
            Msg::Pulse(reply) => {
                reply.send(()).ok();
                Ok(())
            }
            Msg::Reconfigured(config, rest_s) => {
                (state.config, state.rest_s) = (config, rest_s);
                Ok(())
            }
            Msg::Catalogued(catalogue) => {
                state.catalogue = catalogue;
                Ok(())
            }
        };
        Ok(state.or_take_back(handled).await?)
    }
}

impl State {
    pub(super) fn saga(&self) -> Saga<'_> {
        Saga { seams: &self.seams, config: &self.config, is_fresh: false }
    }

    /// Returns how long it may take to ask the gate and the service before a change is made.
    pub(super) fn prepare_within(&self) -> Duration {
        Duration::from_secs_f64(self.config.prepare_within_s)
    }

    pub(super) fn domain(&self, name: &str) -> Option<Domain> {
        self.catalogue.domains.get(name).cloned()
    }

    /// Without a journal there is no verdict, and nothing unproven may stay live: what lies on disk knows how to undo it.
    /// The verdict follows when the journal can be written again.
    async fn or_take_back(&self, done: Result<(), JournalError>) -> Result<(), JournalError> {
        if done.is_err() {
            self.saga().take_back_unproven(&self.catalogue).await;
        }
        done
    }

    /// A journal that was removed or damaged is found even when nobody writes for a while, and so is a person's word to
    /// stop: what is not proven is then brought back to what was. What the guard took over while this process was late is
    /// brought to its end, and the rest is told that it is not late.
    async fn look(&mut self) -> Result<(), JournalError> {
        self.look_at_loans().await?;
        let unproven = self.open.values().filter(|(_, stage)| stage.is_before_verdict());
        let unproven: Vec<Deployment> = unproven.map(|(deployment, _)| deployment.clone()).collect();
        if unproven.is_empty() {
            return Ok(());
        }
        self.seams.journal.check()?;
        let stop = self.seams.switch.stopped();
        let every = Duration::from_secs_f64(self.config.guard_within_s / SIGNS_OF_LIFE);
        let is_time = self.sign_of_life.is_none_or(|last| last.elapsed() >= every);
        for deployment in unproven {
            if self.is_lost(&deployment).await {
                self.condemn(&deployment, Reason::Aborted { why: TAKEN_OVER.to_owned() }).await?;
            } else if let Some(stop) = &stop {
                self.condemn(&deployment, Reason::Stopped { why: stop.to_string() }).await?;
            } else if !self.is_maintained(&deployment.promotion.domain) {
                self.condemn(&deployment, Reason::WindowEnded).await?;
            } else if is_time && let Err(why) = self.saga().keep_watch(&deployment).await {
                self.condemn(&deployment, Reason::Aborted { why }).await?;
            }
        }
        if is_time {
            self.saga().takes(Duration::ZERO).await;
            self.sign_of_life = Some(Instant::now());
        }
        Ok(())
    }

    /// Goes on where the journal says. A change that this room was making when it failed is taken back; one that is
    /// live stays on the validator's scales, unless it was taken back while there was no journal to say so.
    async fn resume(&mut self) -> Result<(), JournalError> {
        self.seams.journal.check()?;
        self.resume_loans().await?;
        for (deployment, stage) in open_deployments(&self.seams).await? {
            self.open.insert(deployment.id.clone(), (deployment.clone(), stage));
            match stage {
                Stage::Healthy | Stage::Measuring if self.is_lost(&deployment).await => {
                    self.condemn(&deployment, Reason::Aborted { why: TAKEN_OVER.to_owned() }).await?;
                }
                Stage::Healthy | Stage::Measuring if self.was_taken_back(&deployment).await => {
                    self.condemn(&deployment, Reason::Aborted { why: self.why_old(&deployment).to_owned() }).await?;
                }
                Stage::Healthy | Stage::Measuring => wake(&self.exits.deployed, deployment),
                stage if stage.is_before_verdict() => {
                    let why = format!("the deployer failed while the change was {}", stage.label());
                    self.condemn(&deployment, Reason::Aborted { why }).await?;
                }
                _ => self.finish(&deployment.id).await?,
            }
        }
        Ok(())
    }

    async fn is_lost(&self, deployment: &Deployment) -> bool {
        is_taken_over(&self.seams, &deployment.promotion.domain, &deployment.id).await
    }

    async fn was_taken_back(&self, deployment: &Deployment) -> bool {
        match self.domain(&deployment.promotion.domain) {
            Some(domain) => self.saga().was_taken_back(deployment, &domain).await,
            None => false,
        }
    }

    /// Gives the verdict of a deployment that is not to be measured, and undoes it.
    pub(super) async fn condemn(&mut self, deployment: &Deployment, reason: Reason) -> Result<(), JournalError> {
        let verdict = Saga::rollback(deployment, reason, self.seams.clock.now_ms());
        if record_verdict(&self.seams, &verdict).await? {
            wake(&self.exits.withdrawn, deployment.id.clone());
            wake(&self.exits.verdicts, verdict);
        }
        self.finish(&deployment.id).await
    }

    /// What is measured cannot be written down, so it proves nothing.
    async fn give_up(&mut self, id: &DeploymentId) -> Result<(), JournalError> {
        let Some((deployment, _)) = self.open.get(id).cloned() else { return Ok(()) };
        self.saga().take_back_unproven(&self.catalogue).await;
        self.condemn(&deployment, Reason::Aborted { why: UNRECORDED.to_owned() }).await
    }

    /// Hears a verdict, which is durable by then.
    async fn settle(&mut self, verdict: &Verdict) -> Result<(), JournalError> {
        let finished = self.finish(&verdict.deployment).await;
        if finished.is_err()
            && verdict.outcome != Ruled::Rollback
            && let Some((deployment, _)) = self.open.get(&verdict.deployment)
            && let Some(domain) = self.domain(&verdict.domain)
            && let Err(error) = self.saga().disarm(deployment, &domain, true).await
        {
            // It is proven, and whoever cannot read the journal must not take it back.
            tracing::error!(deployment = %deployment.id, %error, "pending file of a proven change stays");
        }
        finished
    }

    /// Brings a judged deployment to its end: undone if it was condemned, and closed.
    pub(super) async fn finish(&mut self, id: &DeploymentId) -> Result<(), JournalError> {
        let Some((deployment, _)) = self.open.get(id).cloned() else { return Ok(()) };
        let Some(domain) = self.domain(&deployment.promotion.domain) else { return Ok(()) };
        let still = self.hold_still(id).await;
        let stage = self.saga().finish(&deployment, &domain).await?;
        drop(still);
        if stage == Stage::Stuck || matches!(stage, Stage::Judged(_)) {
            let (_, sweeps) = self.stuck.get(id).copied().unwrap_or((0, 1));
            self.stuck.insert(id.clone(), (0, sweeps.saturating_mul(2).min(STUCK_SWEEPS_MAX)));
        } else {
            self.stuck.remove(id);
        }
        if stage.is_final() {
            self.open.remove(id);
        } else {
            self.open.insert(id.clone(), (deployment, stage));
        }
        self.keep_turns();
        let stuck = self.open.values().filter(|(_, stage)| *stage == Stage::Stuck).count();
        metrics::gauge!(meters::DOMAINS_STUCK).set(stuck as f64);
        Ok(())
    }

    /// Tries again what is not closed, and hears of verdicts that no message told of.
    async fn sweep(&mut self) -> Result<(), JournalError> {
        for id in self.open.keys().cloned().collect::<Vec<_>>() {
            if let Some((passed, needed)) = self.stuck.get_mut(&id) {
                *passed += 1;
                if *passed < *needed {
                    continue;
                }
            }
            let stage = standing(&self.seams, &id).await?.stage;
            if matches!(stage, Stage::Judged(_) | Stage::Restored | Stage::Stuck) {
                self.finish(&id).await?;
            }
        }
        Ok(())
    }
}
