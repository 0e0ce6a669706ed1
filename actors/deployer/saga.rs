//! The steps of a deployment: each is written to the journal after it was done, and the next begins only then.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kloros_supervision::progress;

use super::{
    Config, mapping,
    pending::{Pending, undo_plan},
};
use crate::{
    config::Catalogue,
    env_file,
    facts::{Deployment, Domain, Entry, Fact, Key, Metrics, Reason, Ruled, Stage, Step, Verdict, agrees, content_hash},
    record::{Standing, open_deployments, record, record_verdict, standing},
    seams::{EnvStoreError, JournalError, Seams},
};

/// Carries deployments out.
pub(crate) struct Saga<'a> {
    pub(crate) seams: &'a Seams,
    pub(crate) config: &'a Config,
}

/// How often an edit is tried again when somebody else edited the file at the same moment.
const RACES_MAX: u32 = 5;

impl Saga<'_> {
    /// Makes the change and returns when the service runs with it, or why it has to be taken back.
    pub(crate) async fn apply(
        &self,
        deployment: &Deployment,
        domain: &Domain,
    ) -> Result<Result<(), Reason>, JournalError> {
        self.step(deployment, Step::Intended).await?;
        let pending = match self.arm(deployment, domain).await {
            Ok(pending) => pending,
            Err(reason) => return Ok(Err(reason)),
        };
        self.step(deployment, Step::Armed).await?;
        if let Err(reason) = self.write(deployment, domain, &pending).await {
            return Ok(Err(reason));
        }
        self.step(deployment, Step::Applied).await?;
        progress();
        if let Err(error) = self.seams.services.restart(domain).await {
            return Ok(Err(Reason::NotHealthy { why: error.to_string() }));
        }
        self.step(deployment, Step::Restarted).await?;
        progress();
        tokio::time::sleep(Duration::from_secs_f64(self.config.bake_s)).await;
        if let Err(reason) = self.prove(deployment, domain).await {
            return Ok(Err(reason));
        }
        self.step(deployment, Step::Proven).await?;
        Ok(Ok(()))
    }

    /// Writes down, outside the journal, all that it takes to undo the change.
    async fn arm(&self, deployment: &Deployment, domain: &Domain) -> Result<Pending, Reason> {
        let promotion = &deployment.promotion;
        let aborted = |why: String| Reason::Aborted { why };
        let file = self.seams.env.read(&domain.service.env_file).await.map_err(|error| aborted(error.to_string()))?;
        let current = values(&file.bytes, promotion.changes.keys()).map_err(aborted)?;
        if let Some(key) = mapping::stale(promotion, &current) {
            return Err(Reason::HumanOverride { key });
        }
        let before = content_hash(&file.bytes);
        let env_file = domain.service.env_file.clone();
        let pending = Pending::of(deployment, env_file, &current, before, self.config.undo_attempts_max);
        let text = pending.to_text().map_err(|problem| aborted(problem.to_string()))?;
        self.seams.pending.arm(&domain.name, text).await.map_err(|error| aborted(error.to_string()))?;
        Ok(pending)
    }

    async fn write(&self, deployment: &Deployment, domain: &Domain, pending: &Pending) -> Result<(), Reason> {
        let target = deployment.promotion.target();
        let edits: Vec<(Key, Option<String>)> =
            target.iter().map(|(key, value)| (key.clone(), Some(value.to_string()))).collect();
        for _ in 0..RACES_MAX {
            let path = &domain.service.env_file;
            let file = self.seams.env.read(path).await.map_err(|error| Reason::Aborted { why: error.to_string() })?;
            let current = values(&file.bytes, target.keys()).map_err(|why| Reason::Aborted { why })?;
            // Somebody may have edited one of our keys since the plan; another key's edit is simply kept.
            let held = |key: &Key| pending.keys.get(key).and_then(|held| held.old.as_ref());
            if let Some((key, _)) = current.iter().find(|(key, value)| value.as_ref() != held(key)) {
                return Err(Reason::HumanOverride { key: key.clone() });
            }
            let bytes =
                env_file::edit(&file.bytes, &edits).map_err(|problem| Reason::Aborted { why: problem.to_string() })?;
            match self.seams.env.replace(path, &file, bytes).await {
                Ok(()) => return Ok(()),
                Err(EnvStoreError::Raced { .. }) => {}
                Err(error) => return Err(Reason::Aborted { why: error.to_string() }),
            }
        }
        Err(Reason::Aborted { why: format!("the env file changed {RACES_MAX} times while it was written") })
    }

    async fn prove(&self, deployment: &Deployment, domain: &Domain) -> Result<(), Reason> {
        let in_effect = self.seams.services.in_effect(domain).await;
        let in_effect = in_effect.map_err(|error| Reason::NotHealthy { why: error.to_string() })?;
        agrees(&deployment.promotion.target(), &in_effect).map_err(|why| Reason::NotEffective { why })
    }

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
    async fn disarm(&self, deployment: &Deployment, domain: &Domain) -> Result<(), EnvStoreError> {
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

    /// Undoes what a deployment did by its pending file alone, for when the journal cannot be used.
    pub(crate) async fn undo_from_disk(&self, deployment: &Deployment, domain: &Domain) -> Result<(), String> {
        let text = self.seams.pending.armed(&domain.name).await.map_err(|error| error.to_string())?;
        let Some(text) = text else { return Ok(()) };
        let pending = Pending::from_text(&text).map_err(|problem| problem.to_string())?;
        if pending.deployment != deployment.id {
            return Ok(());
        }
        self.restore(domain, &pending, false).await
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

    async fn step(&self, deployment: &Deployment, step: Step) -> Result<(), JournalError> {
        let fact = Fact::Step { deployment: deployment.id.clone(), step };
        let entry = Entry::new(&deployment.promotion.cycle, self.seams.clock.now_ms(), fact);
        record(self.seams, vec![entry]).await?;
        Ok(())
    }

    /// Returns the verdict of a deployment that was never measured to its end.
    pub(crate) fn rollback(deployment: &Deployment, reason: Reason, now_ms: u64) -> Verdict {
        let promotion = &deployment.promotion;
        Verdict {
            deployment: deployment.id.clone(),
            cycle: promotion.cycle.clone(),
            experiment: promotion.experiment.clone(),
            domain: promotion.domain.clone(),
            question: promotion.question.clone(),
            hypothesis: promotion.hypothesis.clone(),
            changes: promotion.changes.clone(),
            outcome: Ruled::Rollback,
            reason,
            improvement: None,
            before: Metrics::new(),
            after: Metrics::new(),
            blocks: 0,
            samples: 0,
            at_ms: now_ms,
        }
    }
}

/// Brings the machine into a proven state before anything else starts: what was deployed and not yet judged is undone,
/// what was judged is brought to its end. Returns how many deployments it found open.
pub async fn recover(seams: &Seams, catalogue: &Catalogue, config: &Config) -> Result<usize, JournalError> {
    let saga = Saga { seams, config };
    let open = open_deployments(seams).await?;
    let mut handled = BTreeSet::new();
    for (deployment, stage) in &open {
        let Some(domain) = catalogue.domains.get(&deployment.promotion.domain) else {
            tracing::error!(deployment = %deployment.id, domain = %deployment.promotion.domain, "open deployment of a domain that is not configured");
            continue;
        };
        handled.insert(domain.name.clone());
        if stage.is_before_verdict() {
            tracing::warn!(deployment = %deployment.id, stage = stage.label(), "unproven deployment is undone");
            let verdict = Saga::rollback(deployment, Reason::Crash, seams.clock.now_ms());
            if let Err(error) = record_verdict(seams, &verdict).await {
                // Going back is right at this stage in any case, and it needs no journal.
                if let Err(why) = saga.undo_from_disk(deployment, domain).await {
                    tracing::error!(deployment = %deployment.id, %why, "change is not undone");
                }
                return Err(error);
            }
        }
        saga.finish(deployment, domain).await?;
    }
    for domain in catalogue.domains.values().filter(|domain| !handled.contains(&domain.name)) {
        saga.undo_orphan(domain).await;
    }
    Ok(open.len())
}

impl Saga<'_> {
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
    let old = changes.iter().map(|(key, change)| (key.clone(), change.from.as_ref().map(ToString::to_string)));
    Pending::of(deployment, domain.service.env_file.clone(), &old.collect(), String::new(), 0)
}

fn values<'a>(bytes: &[u8], keys: impl Iterator<Item = &'a Key>) -> Result<BTreeMap<Key, Option<String>>, String> {
    keys.map(|key| {
        let value = env_file::value_of(bytes, key).map_err(|problem| problem.to_string())?;
        Ok((key.clone(), value))
    })
    .collect()
}
