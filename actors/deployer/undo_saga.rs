//! The way back: how a deployment is brought to its end, undone where it was not proven, and how that is done by the
//! pending file alone when there is no journal.

use std::collections::BTreeSet;

use kloros_supervision::progress;

use super::{
    Config,
    pending::{Pending, undo_plan},
    saga::{Saga, values},
};
use crate::{
    config::Catalogue,
    env_file,
    facts::{Deployment, Domain, Reason, Ruled, Stage, Step, says},
    record::{Standing, open_deployments, record_verdict, standing},
    seams::{EnvStoreError, JournalError, Seams},
};

impl Saga<'_> {
    /// Brings a judged deployment as far as it can be brought, and returns the stage it then stands at.
    pub(crate) async fn finish(&self, deployment: &Deployment, domain: &Domain) -> Result<Stage, JournalError> {
        let standing = standing(self.seams, &deployment.id).await?;
        let mut stage = standing.stage;
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
        let is_over = matches!(stage, Stage::Restored | Stage::Judged(Ruled::Success | Ruled::Neutral));
        if is_over {
            if let Err(error) = self.disarm(deployment, domain).await {
                tracing::warn!(%error, "pending file cannot be removed, it is tried again");
                return Ok(stage);
            }
            stage = self.advance(deployment, stage, Step::Closed).await?;
            tracing::info!(cycle = %deployment.promotion.cycle, deployment = %deployment.id, "deployment closed");
        }
        Ok(stage)
    }

    /// Removes the pending file, unless it belongs to another deployment.
    pub(crate) async fn disarm(&self, deployment: &Deployment, domain: &Domain) -> Result<(), EnvStoreError> {
        let text = self.seams.pending.armed(&domain.name).await?;
        let is_anothers = text
            .and_then(|text| Pending::from_text(&text).ok())
            .is_some_and(|pending| pending.deployment != deployment.id);
        if is_anothers { Ok(()) } else { self.seams.pending.disarm(&domain.name).await }
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
        let text = self.seams.pending.armed(&domain.name).await.map_err(|error| error.to_string())?;
        let armed = text.as_deref().map(Pending::from_text).transpose().unwrap_or_else(|problem| {
            tracing::error!(deployment = %deployment.id, %problem, "pending file is not used, the journal is");
            None
        });
        let pending = match armed.filter(|pending| pending.deployment == deployment.id) {
            Some(pending) => pending,
            None => from_the_plan(deployment, domain),
        };
        self.restore(domain, &pending, standing.was_applied).await
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
        let still_runs = self.runs_with(domain, &pending).await;
        self.restore(domain, &pending, still_runs).await
    }

    /// Returns whether the service may run with one of our values still: it says so, or does not say.
    async fn runs_with(&self, domain: &Domain, pending: &Pending) -> bool {
        let Ok(in_effect) = self.seams.services.in_effect(domain).await else { return true };
        pending.keys.iter().any(|(key, held)| {
            let ours = domain.knobs.get(key).and_then(|knob| knob.range.parse(&held.new));
            ours.is_none_or(|ours| in_effect.get(key.as_str()).is_none_or(|text| says(text, &ours)))
        })
    }

    /// Returns whether a deployment that the journal takes for live was taken back without it.
    pub(crate) async fn was_taken_back(&self, deployment: &Deployment, domain: &Domain) -> bool {
        let text = self.seams.pending.armed(&domain.name).await.ok().flatten();
        let pending = text.and_then(|text| Pending::from_text(&text).ok());
        let Some(pending) = pending.filter(|pending| pending.deployment == deployment.id) else { return false };
        let Ok(file) = self.seams.env.read(&pending.env_file).await else { return false };
        values(&file.bytes, pending.keys.keys())
            .is_ok_and(|current| pending.keys.iter().all(|(key, held)| current.get(key) == Some(&held.old)))
    }

    async fn restore(&self, domain: &Domain, pending: &Pending, was_applied: bool) -> Result<(), String> {
        let mut needs_restart = was_applied;
        let mut last = String::new();
        for _ in 0..self.config.undo_attempts_max.max(1) {
            progress();
            match self.restore_once(domain, pending, &mut needs_restart).await {
                Ok(()) => return Ok(()),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Restores, key by key, what still holds our value; a person's edit stays. The service is restarted when it may run
    /// with anything but what the file then holds.
    async fn restore_once(&self, domain: &Domain, pending: &Pending, needs_restart: &mut bool) -> Result<(), String> {
        let path = &pending.env_file;
        let file = self.seams.env.read(path).await.map_err(|error| error.to_string())?;
        let current = values(&file.bytes, pending.keys.keys())?;
        let undo = undo_plan(pending, &current);
        for key in &undo.kept_human {
            tracing::warn!(%key, "edited by hand meanwhile, the edit stays");
        }
        if !undo.restore.is_empty() {
            let bytes = env_file::edit(&file.bytes, &undo.restore).map_err(|problem| problem.to_string())?;
            self.seams.env.replace(path, &file, bytes).await.map_err(|error| error.to_string())?;
            *needs_restart = true;
        }
        progress();
        if *needs_restart {
            self.seams.services.restart(domain).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Brings the machine into a proven state before anything else starts: what was deployed and not yet judged is undone,
/// what was judged is brought to its end. Returns how many deployments it found open.
///
/// Where the journal cannot be used, what is not known to be proven is undone by its pending file, and the journal's
/// error is returned.
pub async fn recover(seams: &Seams, catalogue: &Catalogue, config: &Config) -> Result<usize, JournalError> {
    let saga = Saga { seams, config };
    let recovered = saga.recover(catalogue).await;
    if recovered.is_err() {
        // Going back is right for whatever is not proven, and it needs no journal.
        saga.take_back_unproven(catalogue).await;
    }
    recovered
}

impl Saga<'_> {
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
        let problem = match self.seams.pending.armed(&domain.name).await {
            Ok(None) => return,
            Ok(Some(text)) => match Pending::from_text(&text) {
                Ok(pending) => {
                    tracing::warn!(domain = %domain.name, "pending file without a deployment in the journal is undone");
                    match self.restore(domain, &pending, true).await {
                        Ok(()) => self.seams.pending.disarm(&domain.name).await.err().map(|error| error.to_string()),
                        Err(why) => Some(why),
                    }
                }
                // Never guess: the file stays for a person.
                Err(problem) => Some(problem.to_string()),
            },
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            tracing::error!(domain = %domain.name, %problem, "pending file is not cleared away");
        }
    }
}

/// Returns how to undo a deployment whose pending file is lost or damaged: the journal holds the old values too, though
/// not how they were spelled.
fn from_the_plan(deployment: &Deployment, domain: &Domain) -> Pending {
    let changes = &deployment.promotion.changes;
    let old = changes
        .iter()
        .map(|(key, change)| (key.clone(), change.from.as_ref().filter(|_| change.in_file).map(ToString::to_string)));
    Pending::of(deployment, domain.service.env_file.clone(), &old.collect(), String::new())
}
