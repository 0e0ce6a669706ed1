//! The way back: how a deployment is brought to its end, undone where it was not proven, and how that is done by the
//! pending file alone when there is no journal.

use std::collections::BTreeSet;

use super::{
    Config, Put, Restorer, gone,
    pending::Pending,
    saga::{Saga, values},
};
use crate::{
    config::Catalogue,
    facts::{Deployment, Domain, Reason, Ruled, Stage, Step},
    record::{Standing, open_deployments, record_verdict, standing},
    seams::{Claimed, EnvStoreError, JournalError, Seams},
};

impl Saga<'_> {
    /// Brings a judged deployment as far as it can be brought, and returns the stage it then stands at.
    pub(crate) async fn finish(&self, deployment: &Deployment, domain: &Domain) -> Result<Stage, JournalError> {
        let standing = standing(self.seams, &deployment.id).await?;
        let (mut stage, was_armed) = (standing.stage, standing.was_armed);
        if matches!(stage, Stage::Judged(Ruled::Rollback) | Stage::Stuck) {
            let step = match self.undo(deployment, domain, standing).await {
                Ok(()) => Step::Restored,
                Err(why) => {
                    tracing::error!(deployment = %deployment.id, domain = %domain.name, %why, "deployment cannot be undone");
                    if stage == Stage::Stuck {
                        // It was said before, and saying it at each try would fill the journal.
                        return Ok(stage);
                    }
                    Step::UndoFailed(why)
                }
            };
            stage = self.advance(deployment, stage, step).await?;
        }
        let is_kept = matches!(stage, Stage::Judged(Ruled::Success | Ruled::Neutral));
        if is_kept && let Err(why) = self.redo(deployment, domain).await {
            tracing::error!(deployment = %deployment.id, %why, "proven change is not live, it is tried again");
            return Ok(stage);
        }
        if is_kept || stage == Stage::Restored {
            if let Err(error) = self.disarm(deployment, domain, was_armed).await {
                tracing::warn!(%error, "pending file cannot be removed, it is tried again");
                return Ok(stage);
            }
            stage = self.advance(deployment, stage, Step::Closed).await?;
            tracing::info!(cycle = %deployment.promotion.cycle, deployment = %deployment.id, "deployment closed");
        }
        Ok(stage)
    }

    /// A verdict that is durable stands. Whoever took the change back meanwhile could not read it.
    async fn redo(&self, deployment: &Deployment, domain: &Domain) -> Result<(), String> {
        let _alone = self.alone(domain).await?;
        let claimed = self.claimed(deployment, domain).await;
        let Some(pending) = claimed.and_then(|claimed| Pending::from_text(&claimed.text).ok()) else { return Ok(()) };
        tracing::warn!(deployment = %deployment.id, "proven change was taken back by the guard and is made again");
        self.alive_while(self.restorer().redo(domain, &pending)).await
    }

    /// Returns what the guard took over of this deployment.
    async fn claimed(&self, deployment: &Deployment, domain: &Domain) -> Option<Claimed> {
        let claimed = self.seams.pending.claimed(&domain.name).await.ok().flatten();
        claimed.filter(|claimed| claimed.deployment == deployment.id)
    }

    pub(super) fn restorer(&self) -> Restorer<'_> {
        Restorer { env: self.seams.env.as_ref(), services: self.seams.services.as_ref() }
    }

    /// Removes the pending file and what was set aside for the undo. What another deployment left stays, and so does a damaged
    /// file, unless this deployment `was_armed`: then nobody else's can lie there.
    pub(crate) async fn disarm(
        &self,
        deployment: &Deployment,
        domain: &Domain,
        was_armed: bool,
    ) -> Result<(), EnvStoreError> {
        let text = self.seams.pending.armed(&domain.name).await?;
        let owner = |text: String| Pending::from_text(&text).ok().map(|pending| pending.deployment);
        let is_anothers = match text.map(owner) {
            Some(Some(owner)) => owner != deployment.id,
            Some(None) => !was_armed,
            None => {
                let claimed = self.seams.pending.claimed(&domain.name).await?;
                claimed.is_some_and(|claimed| claimed.deployment != deployment.id && !claimed.is_undone)
            }
        };
        if is_anothers { Ok(()) } else { self.clear(domain).await }
    }

    pub(super) async fn clear(&self, domain: &Domain) -> Result<(), EnvStoreError> {
        if let Err(error) = self.seams.env.release(&domain.service.env_file).await {
            tracing::warn!(%error, "space for an undo stays set aside");
        }
        self.seams.pending.disarm(&domain.name).await?;
        self.seams.guard.relieve(&domain.name).await;
        Ok(())
    }

    async fn advance(&self, deployment: &Deployment, stage: Stage, step: Step) -> Result<Stage, JournalError> {
        // An illegal step cannot come from the branches above; if it did, the journal keeps the stage.
        let next = stage.after(&step).unwrap_or(stage);
        self.step(deployment, step).await?;
        Ok(next)
    }

    /// Undoes what a deployment did, as far as the journal says that it did anything.
    async fn undo(&self, deployment: &Deployment, domain: &Domain, standing: Standing) -> Result<(), String> {
        if !standing.was_armed {
            return Ok(());
        }
        // Whoever undoes outside just now is let finish, and what is left is looked at then.
        let _alone = self.alone(domain).await?;
        let claimed = self.claimed(deployment, domain).await;
        if self.is_fresh && claimed.as_ref().is_some_and(|claimed| claimed.is_undone) {
            // Whatever stands there by now is a person's.
            return Ok(());
        }
        let was_claimed = claimed.is_some();
        let text = match claimed {
            Some(claimed) => Some(claimed.text),
            None => self.seams.pending.armed(&domain.name).await.map_err(|error| error.to_string())?,
        };
        let armed = text.as_deref().map(Pending::from_text).transpose().unwrap_or_else(|problem| {
            tracing::error!(deployment = %deployment.id, %problem, "pending file is not used, the journal is");
            None
        });
        let pending = match armed.filter(|pending| pending.deployment == deployment.id) {
            Some(pending) => pending,
            None => from_the_plan(deployment, domain),
        };
        // The guard may have restarted it already.
        let still_runs = standing.was_applied && (!was_claimed || self.restorer().runs_with(domain, &pending).await);
        self.restore(domain, &pending, still_runs).await
    }

    /// Takes back, by the pending files alone, every change that is not known to be proven: for when the journal cannot
    /// be written or read, so that there is no verdict to wait for. Doing it twice is doing it once.
    pub(crate) async fn take_back_unproven(&self, catalogue: &Catalogue) {
        for domain in catalogue.domains.values() {
            if let Err(why) = self.take_back(domain).await {
                tracing::error!(domain = %domain.name, %why, "unproven change is not taken back yet");
            }
        }
    }

    async fn take_back(&self, domain: &Domain) -> Result<(), String> {
        let _alone = self.alone(domain).await?;
        let text = self.seams.pending.armed(&domain.name).await.map_err(|error| error.to_string())?;
        let Some(text) = text else { return Ok(()) };
        let pending = Pending::from_text(&text).map_err(|problem| problem.to_string())?;
        // The verdict may be durable all the same. What cannot be read proves nothing: an improvement that is lost costs
        // less than a harm that stays.
        let stage = standing(self.seams, &pending.deployment).await.map(|standing| standing.stage);
        if matches!(stage, Ok(Stage::Judged(Ruled::Success | Ruled::Neutral) | Stage::Closed)) {
            return Ok(());
        }
        tracing::warn!(deployment = %pending.deployment, domain = %domain.name, "unproven change is taken back without the journal");
        let still_runs = self.restorer().runs_with(domain, &pending).await;
        self.restore(domain, &pending, still_runs).await?;
        // Nothing is left to be watched over, though its file stays until the journal can say so.
        self.seams.guard.relieve(&domain.name).await;
        Ok(())
    }

    /// Returns whether a deployment that the journal takes for live was taken back without it.
    pub(crate) async fn was_taken_back(&self, deployment: &Deployment, domain: &Domain) -> bool {
        if self.claimed(deployment, domain).await.is_some() {
            return true;
        }
        let text = self.seams.pending.armed(&domain.name).await.ok().flatten();
        let pending = text.and_then(|text| Pending::from_text(&text).ok());
        let Some(pending) = pending.filter(|pending| pending.deployment == deployment.id) else { return false };
        let Ok(file) = self.seams.env.read(&pending.env_file).await else { return false };
        values(&file.bytes, pending.keys.keys())
            .is_ok_and(|current| pending.keys.iter().all(|(key, held)| current.get(key) == Some(&held.old)))
    }

    pub(super) async fn restore(&self, domain: &Domain, pending: &Pending, was_applied: bool) -> Result<(), String> {
        let mut needs_restart = was_applied;
        let mut last = String::new();
        for _ in 0..self.config.undo_attempts_max.max(1) {
            match self.alive_while(self.restore_once(domain, pending, &mut needs_restart)).await {
                Ok(()) => return Ok(()),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Puts the env file back, and restarts the service when it may run with anything but what the file then holds.
    async fn restore_once(&self, domain: &Domain, pending: &Pending, needs_restart: &mut bool) -> Result<(), String> {
        match self.restorer().put_back(pending).await? {
            Put::Written => *needs_restart = true,
            // A service that says that it runs with none of our values needs nothing of us.
            Put::Gone if *needs_restart && self.restorer().runs_with(domain, pending).await => {
                return Err(gone(pending));
            }
            Put::Gone => *needs_restart = false,
            Put::AsItIs => {}
        }
        if *needs_restart { self.restorer().restart(domain).await } else { Ok(()) }
    }
}

/// Brings the machine into a proven state before anything else starts: what was deployed and not yet judged is undone,
/// what was judged is brought to its end. Returns how many deployments it found open.
///
/// Where the journal cannot be used, what is not known to be proven is undone by its pending file, and the journal's
/// error is returned.
pub async fn recover(seams: &Seams, catalogue: &Catalogue, config: &Config) -> Result<usize, JournalError> {
    Saga { seams, config, is_fresh: true }.recover_or_take_back(catalogue).await
}

/// Does what [`recover`] does when everything else has stopped: what this process did itself since the guard acted is undone
/// as well.
pub async fn wind_up(seams: &Seams, catalogue: &Catalogue, config: &Config) -> Result<usize, JournalError> {
    Saga { seams, config, is_fresh: false }.recover_or_take_back(catalogue).await
}

impl Saga<'_> {
    async fn recover_or_take_back(&self, catalogue: &Catalogue) -> Result<usize, JournalError> {
        let recovered = self.recover(catalogue).await;
        if recovered.is_err() {
            // Going back is right for whatever is not proven, and it needs no journal.
            self.take_back_unproven(catalogue).await;
        }
        recovered
    }

    async fn recover(&self, catalogue: &Catalogue) -> Result<usize, JournalError> {
        self.seams.journal.check()?;
        let open = open_deployments(self.seams).await?;
        let mut handled = BTreeSet::new();
        for (deployment, stage) in &open {
            let Some(domain) = catalogue.domains.get(&deployment.promotion.domain) else {
                tracing::error!(deployment = %deployment.id, domain = %deployment.promotion.domain, "open deployment of a domain that is not configured");
                continue;
            };
            handled.insert(domain.name.clone());
            if stage.is_before_verdict() {
                tracing::warn!(deployment = %deployment.id, stage = stage.label(), "unproven deployment is undone");
                let verdict = Saga::rollback(deployment, Reason::Crash, self.seams.clock.now_ms());
                record_verdict(self.seams, &verdict).await?;
            }
            self.finish(deployment, domain).await?;
        }
        for domain in catalogue.domains.values().filter(|domain| !handled.contains(&domain.name)) {
            self.undo_orphan(domain).await;
        }
        Ok(open.len())
    }

    /// A pending file without an open deployment is the trace of a journal that was lost: it alone knows how to undo.
    async fn undo_orphan(&self, domain: &Domain) {
        if let Err(problem) = self.try_undo_orphan(domain).await {
            tracing::error!(domain = %domain.name, %problem, "pending file is not cleared away");
        }
    }

    async fn try_undo_orphan(&self, domain: &Domain) -> Result<(), String> {
        let _alone = self.alone(domain).await?;
        let claimed = self.seams.pending.claimed(&domain.name).await.map_err(|error| error.to_string())?;
        let (text, is_undone) = match claimed {
            Some(claimed) => (Some(claimed.text), claimed.is_undone),
            None => (self.seams.pending.armed(&domain.name).await.map_err(|error| error.to_string())?, false),
        };
        let Some(text) = text else { return Ok(()) };
        if !is_undone {
            // Never guess: a damaged file stays for a person.
            let pending = Pending::from_text(&text).map_err(|problem| problem.to_string())?;
            tracing::warn!(domain = %domain.name, "pending file without a deployment in the journal is undone");
            self.restore(domain, &pending, true).await?;
        }
        self.clear(domain).await.map_err(|error| error.to_string())
    }
}

/// Returns how to undo a deployment whose pending file is lost or damaged: the journal holds the old values too, though
/// not how they were spelled.
fn from_the_plan(deployment: &Deployment, domain: &Domain) -> Pending {
    let changes = &deployment.promotion.changes;
    let old = changes
        .iter()
        .map(|(key, change)| (key.clone(), change.from.as_ref().filter(|_| change.in_file).map(ToString::to_string)));
    Pending::of(deployment, domain, &old.collect(), String::new())
}
