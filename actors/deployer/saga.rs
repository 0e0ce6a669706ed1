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
    facts::{
        Deployment, Domain, Entry, Fact, Key, Metrics, Reason, Ruled, Stage, Step, Verdict, agrees, content_hash,
        stages,
    },
    record::{open_deployments, record, record_verdict},
    seams::{EnvStoreError, JournalError, Query, Seams},
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
        let mut stage = self.stage(deployment).await?;
        if matches!(stage, Stage::Judged(Ruled::Rollback) | Stage::Stuck) {
            let step = match self.undo(domain).await {
                Ok(()) => Step::Restored,
                Err(why) => {
                    tracing::error!(deployment = %deployment.id, domain = %domain.name, %why, "deployment cannot be undone");
                    Step::UndoFailed(why)
                }
            };
            stage = self.advance(deployment, stage, step).await?;
        }
        if matches!(stage, Stage::Restored | Stage::Judged(_)) {
            if let Err(error) = self.seams.pending.disarm(&domain.name).await {
                tracing::warn!(%error, "pending file cannot be removed, it is tried again");
                return Ok(stage);
            }
            stage = self.advance(deployment, stage, Step::Closed).await?;
            tracing::info!(cycle = %deployment.promotion.cycle, deployment = %deployment.id, "deployment closed");
        }
        Ok(stage)
    }

    async fn advance(&self, deployment: &Deployment, stage: Stage, step: Step) -> Result<Stage, JournalError> {
        // An illegal step cannot come from the branches above; if it did, the journal keeps the stage.
        let next = stage.after(&step).unwrap_or(stage);
        self.step(deployment, step).await?;
        Ok(next)
    }

    /// Restores, key by key, what still holds our value; a person's edit stays. The service is restarted either way,
    /// because it runs with what was there before the edit.
    pub(crate) async fn undo(&self, domain: &Domain) -> Result<(), String> {
        let Some(text) = self.seams.pending.armed(&domain.name).await.map_err(|error| error.to_string())? else {
            return Ok(());
        };
        let pending = Pending::from_text(&text).map_err(|problem| problem.to_string())?;
        let mut last = String::new();
        for _ in 0..self.config.undo_attempts_max {
            progress();
            match self.undo_once(domain, &pending).await {
                Ok(()) => return Ok(()),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    async fn undo_once(&self, domain: &Domain, pending: &Pending) -> Result<(), String> {
        let path = &domain.service.env_file;
        let file = self.seams.env.read(path).await.map_err(|error| error.to_string())?;
        let current = values(&file.bytes, pending.keys.keys())?;
        let undo = undo_plan(pending, &current);
        for key in &undo.kept_human {
            tracing::warn!(%key, "edited by hand meanwhile, the edit stays");
        }
        if !undo.restore.is_empty() {
            let bytes = env_file::edit(&file.bytes, &undo.restore).map_err(|problem| problem.to_string())?;
            self.seams.env.replace(path, &file, bytes).await.map_err(|error| error.to_string())?;
        }
        progress();
        self.seams.services.restart(domain).await.map_err(|error| error.to_string())
    }

    async fn stage(&self, deployment: &Deployment) -> Result<Stage, JournalError> {
        let kinds = [crate::facts::Kind::Deployment, crate::facts::Kind::Step];
        let recorded = self.seams.journal.read(Query::kinds(&kinds).about(deployment.id.as_str())).await?;
        let found = stages(recorded.into_iter().map(|each| each.fact));
        Ok(found.first().map_or(Stage::Planned, |(_, stage)| *stage))
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
            record_verdict(seams, &verdict).await?;
        }
        saga.finish(deployment, domain).await?;
    }
    // A pending file without an open deployment is the trace of a journal that was lost: it alone knows how to undo.
    for domain in catalogue.domains.values().filter(|domain| !handled.contains(&domain.name)) {
        let armed = seams.pending.armed(&domain.name).await.ok().flatten();
        if armed.is_some() {
            tracing::warn!(domain = %domain.name, "pending file without a deployment in the journal is undone");
            match saga.undo(domain).await {
                Ok(()) => seams
                    .pending
                    .disarm(&domain.name)
                    .await
                    .unwrap_or_else(|error| tracing::warn!(%error, "pending file stays")),
                Err(why) => tracing::error!(domain = %domain.name, %why, "pending file cannot be undone"),
            }
        }
    }
    Ok(open.len())
}

fn values<'a>(bytes: &[u8], keys: impl Iterator<Item = &'a Key>) -> Result<BTreeMap<Key, Option<String>>, String> {
    keys.map(|key| {
        let value = env_file::value_of(bytes, key).map_err(|problem| problem.to_string())?;
        Ok((key.clone(), value))
    })
    .collect()
}
