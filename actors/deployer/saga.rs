//! The steps of a deployment: each is written to the journal after it was done, and the next begins only then.

use std::{collections::BTreeMap, time::Duration};

use kloros_supervision::progress;

use super::{
    Config,
    mapping::{self, Base},
    pending::Pending,
};
use crate::{
    env_file,
    facts::{
        Deployment, Domain, Entry, Fact, Incarnation, Key, Manager, Metrics, Promotion, Reason, Ruled, Step, Verdict,
        agrees, content_hash,
    },
    record::{TAKEN_OVER, is_taken_over, record},
    seams::{Alone, EnvStoreError, JournalError, Seams, ServiceError, Terms},
};

/// Carries deployments out.
pub(crate) struct Saga<'a> {
    pub(crate) seams: &'a Seams,
    pub(crate) config: &'a Config,
    /// Whether this process has deployed nothing yet.
    pub(crate) is_fresh: bool,
}

/// How often the guard is told that this process still works, in the time that it waits.
pub(super) const SIGNS_OF_LIFE: f64 = 4.0;

/// How often an edit is tried again when somebody else edited the file at the same moment.
const RACES_MAX: u32 = 5;

/// Why it is not known what a service runs with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BaseError {
    /// Its env file cannot be read, or not be understood.
    #[error("{0}")]
    File(String),
    /// It does not say.
    #[error("the service does not say what it runs with: {0}")]
    Service(#[source] ServiceError),
}

impl Saga<'_> {
    /// Makes the change and returns when the service runs with it, or why it has to be taken back.
    pub(crate) async fn apply(
        &self,
        deployment: &Deployment,
        domain: &Domain,
    ) -> Result<Result<(), Reason>, JournalError> {
        self.step(deployment, Step::Intended).await?;
        let pending = match self.alive_while(self.arm(deployment, domain)).await {
            Ok(pending) => pending,
            Err(reason) => return Ok(Err(reason)),
        };
        self.step(deployment, Step::Armed).await?;
        if let Err(reason) = self.may_go_on() {
            return Ok(Err(reason));
        }
        if let Err(reason) = self.write(deployment, domain, &pending).await {
            return Ok(Err(reason));
        }
        if let Err(reason) = self.still_ours(deployment).await {
            return Ok(Err(reason));
        }
        self.step(deployment, Step::Applied).await?;
        progress();
        if let Err(reason) = self.may_go_on() {
            return Ok(Err(reason));
        }
        let incarnation = match self.restart(deployment, domain).await {
            Ok(incarnation) => incarnation,
            Err(reason) => return Ok(Err(reason)),
        };
        self.step(deployment, Step::Restarted).await?;
        if let Err(reason) = self.alive_while(self.bake(domain, incarnation.as_ref())).await? {
            return Ok(Err(reason));
        }
        if let Err(reason) = self.prove(deployment, domain).await {
            return Ok(Err(reason));
        }
        self.step(deployment, Step::Proven { incarnation }).await?;
        Ok(Ok(()))
    }

    async fn restart(&self, deployment: &Deployment, domain: &Domain) -> Result<Option<Incarnation>, Reason> {
        let _alone = self.alone(domain).await.map_err(|why| Reason::Aborted { why })?;
        self.still_ours(deployment).await?;
        let restarted = self.alive_while(self.seams.services.restart(domain)).await;
        restarted.map_err(|error| not_healthy(&error))?;
        // Whatever dies from here on was running with the new values.
        let incarnation = self.seams.services.incarnation(domain).await.map_err(|error| not_healthy(&error))?;
        self.still_ours(deployment).await?;
        Ok(incarnation)
    }

    /// Keeps everybody outside from restarting the service of `domain` until the answer is dropped, and waits for who does it now.
    /// Nobody else restarts a child of this process.
    pub(super) async fn alone(&self, domain: &Domain) -> Result<Option<Alone>, String> {
        if domain.service.manager == Manager::Child {
            return Ok(None);
        }
        self.alive_while(self.seams.guard.alone()).await.map(Some)
    }

    /// Does `work`, and says all the while that this process works: it is late when that is not heard for as long as it may take,
    /// whatever the step.
    pub(super) async fn alive_while<T>(&self, work: impl Future<Output = T>) -> T {
        let every = Duration::from_secs_f64(self.config.guard_within_s / SIGNS_OF_LIFE);
        let mut work = std::pin::pin!(work);
        loop {
            progress();
            self.takes(Duration::ZERO).await;
            if let Ok(done) = tokio::time::timeout(every, &mut work).await {
                return done;
            }
        }
    }

    /// Says to the guard that this process still works, and how long its next step may take beyond what it may be silent anyway.
    pub(super) async fn takes(&self, step: Duration) {
        let within = Duration::from_secs_f64(self.config.guard_within_s) + step;
        if let Err(error) = self.seams.pending.extend(within).await {
            // The guard then acts at the deadline that it knows, which harms nobody.
            tracing::warn!(%error, "deadline is not put off");
        }
    }

    /// A process that was frozen beyond its deadline, and then thaws, finds that it has nothing more to say.
    async fn still_ours(&self, deployment: &Deployment) -> Result<(), Reason> {
        let is_lost = is_taken_over(self.seams, &deployment.promotion.domain, &deployment.id).await;
        if is_lost { Err(Reason::Aborted { why: TAKEN_OVER.to_owned() }) } else { Ok(()) }
    }

    /// Returns why a change that is being made is taken back: a person stopped everything.
    fn may_go_on(&self) -> Result<(), Reason> {
        self.seams.switch.stopped().map_or(Ok(()), |stop| Err(Reason::Stopped { why: stop.to_string() }))
    }

    /// Returns what the service of `domain` runs with, by its env file and by its own word.
    pub(crate) async fn base(&self, domain: &Domain) -> Result<Base, BaseError> {
        let file = self.seams.env.read(&domain.service.env_file).await;
        let file = file.map_err(|error| BaseError::File(error.to_string()))?;
        let file = values(&file.bytes, domain.knobs.keys()).map_err(BaseError::File)?;
        let in_effect = self.seams.services.in_effect(domain).await.map_err(BaseError::Service)?;
        Ok(Base { file, in_effect })
    }

    /// Writes down, outside the journal, all that it takes to undo the change.
    async fn arm(&self, deployment: &Deployment, domain: &Domain) -> Result<Pending, Reason> {
        let promotion = &deployment.promotion;
        let aborted = |why: String| Reason::Aborted { why };
        // What could not be brought into effect is not written.
        let restartable = self.seams.services.restartable(domain).await;
        restartable.map_err(|error| aborted(format!("the service cannot be restarted: {error}")))?;
        // What was planned may have waited long: it is made on the base that it was planned on, or not at all.
        let base = self.base(domain).await.map_err(|error| aborted(error.to_string()))?;
        if let Some(key) = mapping::stale(promotion, &base, domain).into_iter().next() {
            return Err(Reason::HumanOverride { key });
        }
        let armed = self.seams.pending.armed(&domain.name).await.map_err(|error| aborted(error.to_string()))?;
        let is_ours = |text: &String| Pending::from_text(text).is_ok_and(|other| other.deployment == deployment.id);
        let claimed = self.seams.pending.claimed(&domain.name).await.map_err(|error| aborted(error.to_string()))?;
        if armed.is_some_and(|text| !is_ours(&text)) || claimed.is_some_and(|claimed| !claimed.is_undone) {
            return Err(aborted("the pending file of an earlier change lies there still: look at it".to_owned()));
        }
        let file = self.seams.env.read(&domain.service.env_file).await.map_err(|error| aborted(error.to_string()))?;
        let current = values(&file.bytes, promotion.changes.keys()).map_err(aborted)?;
        if let Some((key, _)) = current.iter().find(|(key, text)| base.file.get(*key) != Some(text)) {
            return Err(Reason::HumanOverride { key: key.clone() });
        }
        // What the service would not start with never reaches it.
        let wanted = env_file::edit(&file.bytes, &edits(promotion)).map_err(|problem| aborted(problem.to_string()))?;
        let accepted = self.seams.services.accepts(domain, &wanted).await;
        accepted.map_err(|error| aborted(format!("the service does not take the settings: {error}")))?;
        let before = content_hash(&file.bytes);
        let pending = Pending::of(deployment, domain, &current, before);
        let text = pending.to_text().map_err(|problem| aborted(problem.to_string()))?;
        self.watch(deployment, domain, text, file.bytes.len()).await.map_err(aborted)?;
        Ok(pending)
    }

    /// Sees that what undoes an unproven change still lies there, and that somebody outside watches over it; another one is
    /// asked where the first has died. The error says why nothing protects the change any more.
    pub(super) async fn keep_watch(&self, deployment: &Deployment) -> Result<(), String> {
        let domain = &deployment.promotion.domain;
        let armed = self.seams.pending.armed(domain).await.map_err(|error| error.to_string())?;
        let is_ours = |text: String| Pending::from_text(&text).is_ok_and(|pending| pending.deployment == deployment.id);
        if !armed.is_some_and(is_ours) {
            return Err("the pending file that would undo it is gone or damaged".to_owned());
        }
        if self.seams.guard.is_watched(domain, &deployment.id).await {
            return Ok(());
        }
        tracing::warn!(deployment = %deployment.id, "nobody outside watches over an unproven change any more, another guard is asked");
        let watched = self.seams.guard.watch(domain, &deployment.id).await;
        watched.map_err(|why| format!("nobody outside can watch over it any more: {why}"))
    }

    /// Sets aside what the undo takes, writes the pending file, and has it watched from outside.
    async fn watch(&self, deployment: &Deployment, domain: &Domain, text: String, size: usize) -> Result<(), String> {
        let (env_file, pending) = (&domain.service.env_file, &self.seams.pending);
        let bytes = size.saturating_add(UNDO_GROWTH_MAX);
        self.seams.env.reserve(env_file, bytes).await.map_err(|error| error.to_string())?;
        let within = Duration::from_secs_f64(self.config.guard_within_s);
        let terms = Terms { within, tries: self.config.undo_attempts_max };
        pending.arm(&domain.name, text, terms).await.map_err(|error| error.to_string())?;
        let watched = self.seams.guard.watch(&domain.name, &deployment.id).await;
        watched.map_err(|why| format!("nobody outside can watch over the change, so it is not made: {why}"))
    }

    async fn write(&self, deployment: &Deployment, domain: &Domain, pending: &Pending) -> Result<(), Reason> {
        let target = deployment.promotion.target();
        let edits = edits(&deployment.promotion);
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
            self.still_ours(deployment).await?;
            match self.seams.env.replace(path, &file, bytes).await {
                Ok(()) => return Ok(()),
                Err(EnvStoreError::Raced { .. }) => {}
                Err(error) => return Err(Reason::Aborted { why: error.to_string() }),
            }
        }
        Err(Reason::Aborted { why: format!("the env file changed {RACES_MAX} times while it was written") })
    }

    /// Watches the service for as long as it has to stay well before it is measured: a single bad answer is a failure,
    /// and so is a death that somebody made good at once.
    async fn bake(
        &self,
        domain: &Domain,
        incarnation: Option<&Incarnation>,
    ) -> Result<Result<(), Reason>, JournalError> {
        let (looks, every) = looks(self.config.bake_s, domain.service.ready.passes);
        for _ in 0..looks {
            progress();
            tokio::time::sleep(every).await;
            self.seams.journal.check()?;
            if let Err(reason) = self.may_go_on() {
                return Ok(Err(reason));
            }
            if let Err(error) = self.seams.services.healthy(domain).await {
                let why = format!("it was ready, and then it was not: {error}");
                return Ok(Err(Reason::NotHealthy { why }));
            }
            match self.seams.services.incarnation(domain).await {
                Ok(now) => {
                    if let Some(reason) = Reason::of_incarnations(incarnation, now.as_ref()) {
                        return Ok(Err(reason));
                    }
                }
                Err(error) => return Ok(Err(not_healthy(&error))),
            }
        }
        Ok(Ok(()))
    }

    async fn prove(&self, deployment: &Deployment, domain: &Domain) -> Result<(), Reason> {
        let in_effect = self.seams.services.in_effect(domain).await;
        let in_effect = in_effect.map_err(|error| not_healthy(&error))?;
        agrees(&deployment.promotion.target(), &in_effect).map_err(|why| Reason::NotEffective { why })
    }

    pub(super) async fn step(&self, deployment: &Deployment, step: Step) -> Result<(), JournalError> {
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
            runs: 0,
            baseline: None,
            at_ms: now_ms,
        }
    }
}

/// Returns what the promotion sets in the env file.
fn edits(promotion: &Promotion) -> Vec<(Key, Option<String>)> {
    promotion.target().into_iter().map(|(key, value)| (key, Some(value.to_string()))).collect()
}

/// How much larger than now an env file may become, in bytes, for its undo to need no free disk: people edit it meanwhile.
pub(super) const UNDO_GROWTH_MAX: usize = 4096;

fn not_healthy(error: &ServiceError) -> Reason {
    Reason::NotHealthy { why: error.to_string() }
}

/// How long it is waited at most between two looks at a service that has to stay well.
const LOOK_EVERY_MAX_S: f64 = 1.0;

/// Returns how often a service is looked at while it has to stay well for `bake_s` seconds, and how long apart: at least
/// as often as it has to answer to count as ready.
fn looks(bake_s: f64, passes: u32) -> (u32, Duration) {
    let looks = ((bake_s / LOOK_EVERY_MAX_S).ceil() as u32).max(passes).max(1);
    (looks, Duration::from_secs_f64(bake_s / f64::from(looks)))
}

pub(super) fn values<'a>(
    bytes: &[u8],
    keys: impl Iterator<Item = &'a Key>,
) -> Result<BTreeMap<Key, Option<String>>, String> {
    keys.map(|key| {
        let value = env_file::value_of(bytes, key).map_err(|problem| problem.to_string())?;
        Ok((key.clone(), value))
    })
    .collect()
}
