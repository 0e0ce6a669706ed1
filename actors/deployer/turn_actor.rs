//! How the deployer comes to make a change: it waits until the change can be measured at once, and asks the gate once more.

use std::{sync::Arc, time::Duration};

use ractor::ActorRef;

use super::actor::{Msg, State};
use crate::{
    facts::{Approved, Authority, Deployment, DeploymentId, Domain, Fact, Origin, Promotion, Stage, TrialFailure},
    meters,
    record::{decide, wake},
    seams::{JournalError, Permit},
};

/// How long the gate is waited for.
const PERMIT_WITHIN: Duration = Duration::from_secs(10);

impl State {
    /// Lets what the gate let through wait for its turn to be measured. One deployment a domain at a time, and none while another
    /// domain's is unproven, which would have to wait for its restart: what finds others before it is not kept here, the
    /// gate rules on it anew and offers it again.
    pub(super) async fn accept(
        &mut self,
        myself: &ActorRef<Msg>,
        approved: Approved<Promotion>,
    ) -> Result<(), JournalError> {
        let (promotion, _) = approved.into_parts();
        if self.is_busy(&promotion.domain) || !self.is_maintained(&promotion.domain) {
            tracing::debug!(promotion = %promotion.id, domain = %promotion.domain, "domain is busy");
            return Ok(());
        }
        if matches!(promotion.origin, Origin::Trials(_)) {
            return self.lend(promotion).await;
        }
        let id = Deployment::id_of(&promotion.id);
        self.waiting.insert(id.clone(), promotion);
        let (bench, myself) = (Arc::clone(&self.seams.bench), myself.clone());
        while self.turns.try_join_next().is_some() {}
        self.turns.spawn(async move {
            let turn = bench.reserve(&id).await;
            // A deployer that is gone began nothing, and the gate offers it to the next one.
            myself.send_message(Msg::Turn(id, turn)).ok();
        });
        Ok(())
    }

    fn is_busy(&self, domain: &str) -> bool {
        let is_in_the_way = |(deployment, stage): &(Deployment, Stage)| {
            stage.is_before_verdict() || deployment.promotion.domain == domain
        };
        let is_lent = self.loans.contains_key(domain);
        is_lent || !self.waiting.is_empty() || self.open.values().any(is_in_the_way)
    }

    /// Makes the change whose turn it is, if it still may be made. What could not have its turn was not touched, and the gate
    /// offers it again.
    pub(super) async fn take_turn(
        &mut self,
        id: &DeploymentId,
        turn: Result<(), TrialFailure>,
    ) -> Result<(), JournalError> {
        let begun = match (self.waiting.remove(id), turn) {
            (Some(promotion), Ok(())) => self.begin(id.clone(), promotion).await,
            (Some(promotion), Err(failure)) => {
                tracing::warn!(promotion = %promotion.id, %failure, "promotion could not be measured now, so it is not deployed");
                Ok(())
            }
            (None, _) => Ok(()),
        };
        self.keep_turns();
        begun
    }

    /// Gives back the turns of what needs none any more.
    pub(super) fn keep_turns(&self) {
        let unproven = self.open.iter().filter(|(_, (_, stage))| stage.is_before_verdict()).map(|(id, _)| id);
        self.seams.bench.keep(&unproven.chain(self.waiting.keys()).cloned().collect::<Vec<_>>());
    }

    async fn begin(&mut self, id: DeploymentId, promotion: Promotion) -> Result<(), JournalError> {
        self.saga().takes(self.prepare_within()).await;
        // It may have lain here while others were measured or changed: what was let through then may not be now.
        let authority = match self.permitted(&promotion).await {
            Ok(authority) => authority,
            Err(why) => {
                tracing::info!(promotion = %promotion.id, %why, "promotion may not go on now");
                return Ok(());
            }
        };
        let Some(domain) = self.domain(&promotion.domain) else { return Ok(()) };
        if !self.is_maintained(&promotion.domain) {
            return Ok(());
        }
        if self.is_overtaken(&promotion, &domain).await? {
            return self.plan_anew(&promotion).await;
        }
        let deployment = Deployment { id, promotion, authority, at_ms: self.seams.clock.now_ms() };
        self.deploy(deployment, &domain).await
    }

    /// Asks the gate on whose authority a promotion may go on now. A gate that does not answer permits nothing, and offers
    /// it again.
    pub(super) async fn permitted(&self, promotion: &Promotion) -> Result<Authority, String> {
        let (reply, answer) = ractor::concurrency::oneshot();
        let permit = Permit { promotion: promotion.id.clone(), reply: reply.into() };
        self.exits.permits.send(permit).map_err(|down| down.to_string())?;
        let silent = "the gate did not answer".to_owned();
        tokio::time::timeout(PERMIT_WITHIN, answer).await.map_err(|_| silent.clone())?.map_err(|_| silent)?
    }

    async fn deploy(&mut self, deployment: Deployment, domain: &Domain) -> Result<(), JournalError> {
        let fact = Fact::Deployment(deployment.clone());
        if !decide(&self.seams, &deployment.promotion, fact).await? {
            tracing::info!(deployment = %deployment.id, "promotion was deployed or taken back before and is not deployed now");
            return Ok(());
        }
        metrics::counter!(meters::DEPLOYMENTS_TOTAL).increment(1);
        tracing::info!(cycle = %deployment.promotion.cycle, deployment = %deployment.id, "deployment begins");
        self.open.insert(deployment.id.clone(), (deployment.clone(), Stage::Planned));
        wake(&self.exits.begun, domain.name.clone());
        match self.saga().apply(&deployment, domain).await? {
            Ok(()) => {
                self.open.insert(deployment.id.clone(), (deployment.clone(), Stage::Healthy));
                wake(&self.exits.deployed, deployment);
                Ok(())
            }
            Err(reason) => self.condemn(&deployment, reason).await,
        }
    }
}
