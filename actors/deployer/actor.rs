use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::{Config, mapping, saga::Saga};
use crate::{
    config::Catalogue,
    env_file,
    facts::{
        Approved, Authority, Deployment, DeploymentId, Domain, Fact, Key, Kind, MappingProblem, Origin, Promotion,
        Proposal, QuestionEnd, Reason, Ruled, Stage, Verdict,
    },
    meters,
    record::{Ending, open_deployments, record, record_once, record_verdict, standing, wake},
    seams::{JournalError, Outlet, Planning, Query, Seams},
};

/// What the deployer says.
#[derive(Clone, Debug)]
pub struct Exits {
    /// A change that somebody wants to make, for the gate.
    pub promotions: Outlet<Promotion>,
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
    /// The validator judged a deployment.
    Judged(Verdict),
    /// A person wants a deployment undone.
    Recalled(DeploymentId, u32, RpcReplyPort<Result<Verdict, String>>),
    /// It is time to try again what could not be undone.
    Sweep,
    /// The operator changed the settings.
    Reconfigured(Config),
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
    seams: Seams,
    exits: Exits,
    config: Config,
    catalogue: Arc<Catalogue>,
    rest_s: u64,
    open: BTreeMap<DeploymentId, (Deployment, Stage)>,
    /// What could not be undone: how many sweeps passed since it was tried, and how many must.
    stuck: BTreeMap<DeploymentId, (u32, u32)>,
}

/// How often it is tried again what could not be undone.
const SWEEP_EVERY: Duration = Duration::from_secs(15);

/// After how many sweeps at most it is tried again: a service that does not come up is not restarted for ever.
const STUCK_SWEEPS_MAX: u32 = 240;

impl Actor for Deployer {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue, rest_s } = arguments;
        let (open, stuck) = (BTreeMap::new(), BTreeMap::new());
        let mut state = State { seams, exits, config, catalogue, rest_s, open, stuck };
        state.resume().await?;
        myself.send_after(SWEEP_EVERY, || Msg::Sweep);
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Proposed(planning) => state.plan(planning).await?,
            Msg::Cleared(approved) => state.accept(approved).await?,
            Msg::Judged(verdict) => state.finish(&verdict.deployment).await?,
            Msg::Recalled(id, uid, reply) => state.recall(&id, uid, reply).await?,
            Msg::Sweep => {
                state.sweep().await?;
                myself.send_after(SWEEP_EVERY, || Msg::Sweep);
            }
            Msg::Reconfigured(config) => state.config = config,
        }
        Ok(())
    }
}

impl State {
    fn saga(&self) -> Saga<'_> {
        Saga { seams: &self.seams, config: &self.config }
    }

    fn domain(&self, name: &str) -> Option<Domain> {
        self.catalogue.domains.get(name).cloned()
    }

    /// Goes on where the journal says. A change that this room was making when it failed is taken back; one that is
    /// live stays on the validator's scales.
    async fn resume(&mut self) -> Result<(), JournalError> {
        for (deployment, stage) in open_deployments(&self.seams).await? {
            self.open.insert(deployment.id.clone(), (deployment.clone(), stage));
            match stage {
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

    /// Compares a proposal with what runs, and proposes the difference to the gate.
    async fn plan(&mut self, planning: Planning) -> Result<(), JournalError> {
        let Planning { proposal, reply } = planning;
        if self.was_promoted(&proposal).await? {
            return Ok(());
        }
        let planned = self.promotion(&proposal).await;
        match &planned {
            Ok(promotion) => {
                let name = format!("promotion:{}", promotion.id);
                let fact = Fact::Promotion(promotion.clone());
                if record_once(&self.seams, &promotion.cycle, name, fact).await? {
                    wake(&self.exits.promotions, promotion.clone());
                }
            }
            Err(why) => self.end_question(&proposal, why).await?,
        }
        if let Some(reply) = reply {
            // The caller may have gone; the promotion stands all the same.
            reply.send(planned).ok();
        }
        Ok(())
    }

    /// A winner is proposed until the journal holds its promotion, so it may come twice: the second time, the service may
    /// run with it already.
    async fn was_promoted(&self, proposal: &Proposal) -> Result<bool, JournalError> {
        if !matches!(proposal.origin, Origin::Experiment(_)) {
            return Ok(false);
        }
        let query = Query { cycle: Some(proposal.cycle.clone()), ..Query::kinds(&[Kind::Promotion]) };
        let promotions = self.seams.journal.read(query).await?;
        let is_its = |fact: &Fact| matches!(fact, Fact::Promotion(each) if each.origin == proposal.origin);
        Ok(promotions.iter().any(|each| is_its(&each.fact)))
    }

    async fn promotion(&self, proposal: &Proposal) -> Result<Promotion, String> {
        let domain =
            self.domain(&proposal.domain).ok_or_else(|| format!("there is no domain {:?}", proposal.domain))?;
        for (key, value) in &proposal.settings {
            let knob = domain.knobs.get(key);
            let problem = match knob {
                None => Some(MappingProblem::NotAllowed { key: key.clone(), domain: domain.name.clone() }),
                Some(knob) => knob.range.refuses(value).map(|why| MappingProblem::OutOfRange { key: key.clone(), why }),
            };
            if let Some(problem) = problem {
                return Err(problem.to_string());
            }
        }
        let current = self.current(&domain, proposal.settings.keys()).await?;
        let changes = mapping::changes(&proposal.settings, &current, &domain).map_err(|problem| problem.to_string())?;
        Ok(Promotion {
            id: Promotion::identity(&proposal.domain, &proposal.experiment, &proposal.cycle, &changes),
            cycle: proposal.cycle.clone(),
            origin: proposal.origin.clone(),
            experiment: proposal.experiment.clone(),
            question: proposal.question.clone(),
            hypothesis: proposal.hypothesis.clone(),
            domain: proposal.domain.clone(),
            changes,
            fitness: proposal.fitness,
            at_ms: self.seams.clock.now_ms(),
            depth: proposal.depth,
        })
    }

    async fn current<'a>(
        &self,
        domain: &Domain,
        keys: impl Iterator<Item = &'a Key>,
    ) -> Result<BTreeMap<Key, Option<String>>, String> {
        let file = self.seams.env.read(&domain.service.env_file).await.map_err(|error| error.to_string())?;
        keys.map(|key| {
            let value = env_file::value_of(&file.bytes, key).map_err(|problem| problem.to_string())?;
            Ok((key.clone(), value))
        })
        .collect()
    }

    /// Deploys what the gate let through. One deployment a domain at a time: what finds its domain busy is not kept
    /// here, the gate rules on it anew and offers it again.
    async fn accept(&mut self, approved: Approved<Promotion>) -> Result<(), JournalError> {
        let (promotion, authority) = approved.into_parts();
        if self.is_busy(&promotion.domain) {
            tracing::debug!(promotion = %promotion.id, domain = %promotion.domain, "domain is busy");
            return Ok(());
        }
        self.deploy(promotion, authority).await
    }

    fn is_busy(&self, domain: &str) -> bool {
        self.open.values().any(|(deployment, _)| deployment.promotion.domain == domain)
    }

    async fn deploy(&mut self, promotion: Promotion, authority: Authority) -> Result<(), JournalError> {
        let Some(domain) = self.domain(&promotion.domain) else { return Ok(()) };
        let digits = promotion.id.as_str().trim_start_matches("p-");
        let at_ms = self.seams.clock.now_ms();
        let deployment = Deployment { id: DeploymentId::new(format!("d-{digits}")), promotion, authority, at_ms };
        let name = format!("deployment:{}", deployment.id);
        let fact = Fact::Deployment(deployment.clone());
        if !record_once(&self.seams, &deployment.promotion.cycle, name, fact).await? {
            tracing::info!(deployment = %deployment.id, "promotion was deployed before and is not deployed again");
            return Ok(());
        }
        metrics::counter!(meters::DEPLOYMENTS_TOTAL).increment(1);
        tracing::info!(cycle = %deployment.promotion.cycle, deployment = %deployment.id, "deployment begins");
        self.open.insert(deployment.id.clone(), (deployment.clone(), Stage::Planned));
        wake(&self.exits.begun, domain.name.clone());
        let applied = match self.saga().apply(&deployment, &domain).await {
            Ok(applied) => applied,
            Err(error) => {
                // Without a journal there is no verdict, but what lies on disk knows how to undo the change, and
                // nothing unproven may stay live. The verdict follows when the journal can be written again.
                if let Err(why) = self.saga().undo_from_disk(&deployment, &domain).await {
                    tracing::error!(deployment = %deployment.id, %why, "change is not undone yet");
                }
                return Err(error);
            }
        };
        match applied {
            Ok(()) => {
                self.open.insert(deployment.id.clone(), (deployment.clone(), Stage::Healthy));
                wake(&self.exits.deployed, deployment);
                Ok(())
            }
            Err(reason) => self.condemn(&deployment, reason).await,
        }
    }

    /// Gives the verdict of a deployment that is not to be measured, and undoes it.
    async fn condemn(&mut self, deployment: &Deployment, reason: Reason) -> Result<(), JournalError> {
        let verdict = Saga::rollback(deployment, reason, self.seams.clock.now_ms());
        if record_verdict(&self.seams, &verdict).await? {
            wake(&self.exits.withdrawn, deployment.id.clone());
            wake(&self.exits.verdicts, verdict);
        }
        self.finish(&deployment.id).await
    }

    /// Brings a judged deployment to its end: undone if it was condemned, and closed.
    async fn finish(&mut self, id: &DeploymentId) -> Result<(), JournalError> {
        let Some((deployment, _)) = self.open.get(id).cloned() else { return Ok(()) };
        let Some(domain) = self.domain(&deployment.promotion.domain) else { return Ok(()) };
        let stage = self.saga().finish(&deployment, &domain).await?;
        if stage == Stage::Stuck {
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
        let stuck = self.open.values().filter(|(_, stage)| *stage == Stage::Stuck).count();
        metrics::gauge!(meters::DOMAINS_STUCK).set(stuck as f64);
        Ok(())
    }

    async fn recall(
        &mut self,
        id: &DeploymentId,
        uid: u32,
        reply: RpcReplyPort<Result<Verdict, String>>,
    ) -> Result<(), JournalError> {
        let answer = match self.open.get(id).cloned() {
            Some((deployment, stage)) if stage.is_before_verdict() => {
                self.condemn(&deployment, Reason::Person { uid }).await?;
                match self.verdict_of(id).await {
                    Ok(verdict) if verdict.outcome != Ruled::Rollback => {
                        Err(format!("{id} was judged meanwhile: {}", verdict.outcome))
                    }
                    answer => answer,
                }
            }
            Some((_, stage)) => Err(format!("{id} is {} already", stage.label())),
            None => Err(format!("{id} is not under way: propose the old values with `kloros try`")),
        };
        // The caller may have gone; the undo stands all the same.
        reply.send(answer).ok();
        Ok(())
    }

    async fn verdict_of(&self, id: &DeploymentId) -> Result<Verdict, String> {
        let query = Query::kinds(&[Kind::Verdict]).about(id.as_str());
        let recorded = self.seams.journal.read(query).await.map_err(|error| error.to_string())?;
        recorded
            .into_iter()
            .find_map(|each| match each.fact {
                Fact::Verdict(verdict) => Some(verdict),
                _ => None,
            })
            .ok_or_else(|| format!("{id} has no verdict yet"))
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

    async fn end_question(&self, proposal: &Proposal, why: &str) -> Result<(), JournalError> {
        tracing::info!(domain = %proposal.domain, %why, "proposal leads to no change");
        if let Some(ending) = Ending::resting(&self.seams, proposal, "refused", why, self.rest_s) {
            record(&self.seams, vec![ending.entry.clone()]).await?;
            Ending::tell(Some(ending), &self.exits.ended);
        }
        Ok(())
    }
}
