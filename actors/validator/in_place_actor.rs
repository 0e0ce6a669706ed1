//! The runs of a validation in place: the deployer has old and new settings take turns in the serving instance itself, and
//! leaves the new ones there before the verdict.

use ractor::ActorRef;

use super::{
    actor::{Judging, Msg, State},
    verdict::{Judgement, condemned},
};
use crate::{
    facts::{DeploymentId, Measurement, Reason, Ruled, agrees},
    seams::{Assignment, Borrower, Errand, JournalError, Outlet, Untried},
};

/// How often in a row a run may not be made before the deployment is given up.
const UNMADE_MAX: u32 = 20;

/// Has something measured on the serving instance, or only brought there, and returns what came of it.
pub(super) async fn send(
    errands: Outlet<Errand>,
    domain: String,
    whose: Borrower,
    assignment: Option<Assignment>,
) -> Result<Option<Measurement>, Untried> {
    let (reply, answer) = ractor::concurrency::oneshot();
    let gone = || Untried::Interrupted("the deployer is not there".to_owned());
    errands.send(Errand { domain, whose, assignment, reply: reply.into() }).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

impl State {
    /// Takes note that a run was not made. It is made anew, but not for ever.
    pub(super) async fn unmade(&mut self, id: &DeploymentId, why: String) -> Result<(), JournalError> {
        let Some(judging) = self.judging.get_mut(id) else { return Ok(()) };
        tracing::info!(deployment = %id, %why, "run was not made and is made anew");
        (judging.next, judging.task) = (None, None);
        judging.unmade += 1;
        if judging.unmade < UNMADE_MAX {
            return Ok(());
        }
        let reason = self.behind_of(id, Reason::Aborted { why }).await;
        self.condemn(id, reason).await
    }

    async fn behind_of(&self, id: &DeploymentId, seen: Reason) -> Reason {
        match self.judging.get(id) {
            Some(judging) => self.behind(judging, seen).await,
            None => seen,
        }
    }

    pub(super) async fn condemn(&mut self, id: &DeploymentId, reason: Reason) -> Result<(), JournalError> {
        let Some(judging) = self.judging.get(id) else { return Ok(()) };
        let judgement = condemned(&judging.domain.metrics, &judging.runs, reason);
        self.conclude(id, judgement).await
    }

    /// Goes on with what is measured in place and waits for nothing.
    pub(super) async fn nudge(&mut self, myself: &ActorRef<Msg>) -> Result<(), JournalError> {
        let is_idle = |judging: &&Judging| judging.domain.in_place.is_some() && judging.next.is_none();
        let idle = self.judging.values().filter(is_idle).filter(|judging| judging.settling.is_none());
        for id in idle.map(|judging| judging.deployment.id.clone()).collect::<Vec<_>>() {
            self.proceed(myself, &id).await?;
        }
        Ok(())
    }

    /// Returns whether a verdict has to wait until the new settings are back in the service, and sees that they come.
    pub(super) async fn settles(&mut self, myself: &ActorRef<Msg>, id: &DeploymentId, judgement: &Judgement) -> bool {
        let Some(judging) = self.judging.get(id) else { return false };
        let needs = judging.domain.in_place.is_some() && judgement.outcome != Ruled::Rollback;
        if !needs || self.runs_with_the_new(judging).await {
            return false;
        }
        let whose = Borrower::Deployment { id: id.clone(), candidate: true };
        let sending = send(self.exits.errands.clone(), judging.domain.name.clone(), whose, None);
        let (myself, id) = (myself.clone(), id.clone());
        if let Some(judging) = self.judging.get_mut(&id) {
            judging.settling = Some(judgement.clone());
        }
        tokio::spawn(async move {
            let settled = sending.await.map(drop);
            myself.send_message(Msg::Settled(id, settled)).ok();
        });
        true
    }

    async fn runs_with_the_new(&self, judging: &Judging) -> bool {
        let in_effect = self.seams.services.in_effect(&judging.domain).await.unwrap_or_default();
        let target = judging.deployment.promotion.target();
        agrees(&target, &in_effect).is_ok() && self.edited(judging, false).await.is_none()
    }

    /// Gives the verdict that waited until the new settings were back.
    pub(super) async fn settled(
        &mut self,
        id: &DeploymentId,
        settled: Result<(), Untried>,
    ) -> Result<(), JournalError> {
        let Some(judgement) = self.judging.get_mut(id).and_then(|judging| judging.settling.take()) else {
            return Ok(());
        };
        match settled {
            Ok(()) => self.pronounce(id, judgement).await,
            Err(Untried::Failed(failure)) => self.condemn(id, Reason::NotHealthy { why: failure.to_string() }).await,
            Err(Untried::Interrupted(why)) => {
                let reason = self.behind_of(id, Reason::Aborted { why }).await;
                self.condemn(id, reason).await
            }
        }
    }
}
