//! An errand on a service that is lent: a candidate goes into the env file and the service, is measured there, and makes
//! room for the next one, or for the service's own settings.

use std::time::Duration;

use kloros_supervision::progress;
use ractor::RpcReplyPort;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Config, loan,
    mapping::Base,
    pending::Pending,
    restore_saga::{Put, gone},
    saga::{Saga, UNDO_GROWTH_MAX, values},
};
use crate::{
    env_file,
    facts::{
        CycleId, Domain, Entry, Fact, FailureKind, InPlace, Incarnation, Loan, LoanStep, Measurement, Settings,
        TrialFailure, agrees, content_hash,
    },
    record::{TAKEN_OVER, is_taken_over, record, wake},
    seams::{Appended, Assignment, Outlet, Permit, Seams, ServiceError, Terms, Turn, Untried},
};

/// Who waits to hear of an errand.
pub(super) type Reply = RpcReplyPort<Result<Option<Measurement>, Untried>>;

/// What an errand needs.
pub(super) struct Lending {
    pub(super) seams: Seams,
    pub(super) config: Config,
    pub(super) domain: Domain,
    pub(super) in_place: InPlace,
    pub(super) cycle: CycleId,
    pub(super) loan: Loan,
    /// What the service runs with by its own.
    pub(super) base: Base,
    /// The candidate that it runs with now, where it does not run with its own settings.
    pub(super) on: Option<Pending>,
    /// The objectives that its own settings do not hold either.
    pub(super) breached: Vec<String>,
    /// Where the gate is asked whether it may still go on.
    pub(super) permits: Outlet<Permit>,
    /// Who hears that the service runs with something of ours.
    pub(super) begun: Outlet<String>,
    /// Closed when the room is gone: then whatever is pending is somebody else's to undo.
    pub(super) room: watch::Receiver<()>,
}

/// What an errand leaves.
pub(super) struct Done {
    /// The candidate that the service runs with now.
    pub(super) on: Option<Pending>,
    /// The objectives that its own settings do not hold.
    pub(super) breached: Vec<String>,
    /// What came of it.
    pub(super) tried: Result<Measurement, Untried>,
    /// Why its own settings could not be brought back, if they had to be and could not.
    pub(super) stuck: Option<String>,
}

impl Lending {
    pub(super) fn saga(&self) -> Saga<'_> {
        Saga { seams: &self.seams, config: &self.config, is_fresh: false }
    }

    /// Measures one candidate, as long as `reply` is waited for. Where that comes to nothing, the service's own settings are
    /// brought back at once; otherwise it runs with the candidate until the next errand, or until the loan is over.
    pub(super) async fn run(mut self, assignment: Assignment, reply: &Reply) -> Done {
        // Kept until its own settings are back: a restart disturbs whoever measures.
        let mut turn = None;
        let mut tried = self.attempt(&assignment, &mut turn, reply).await;
        if matches!(tried, Err(Untried::Failed(_)))
            && let Err(why) = self.still_ours().await
        {
            // A restart by the guard looks like a death.
            tried = Err(interrupted(why));
        }
        let mut stuck = None;
        if tried.is_err() && self.room.has_changed().is_ok() {
            stuck = self.back().await.err();
            if let (Some(why), Err(Untried::Failed(failure))) = (&stuck, &tried) {
                // Where its own settings fail as well, the candidate is not to blame.
                let why = format!("{failure}, and its own settings do not come back either: {why}");
                tried = Err(Untried::Interrupted(why));
            }
        }
        drop(turn);
        Done { on: self.on, breached: self.breached, tried, stuck }
    }

    async fn attempt(
        &mut self,
        assignment: &Assignment,
        kept: &mut Option<Box<dyn Turn>>,
        reply: &Reply,
    ) -> Result<Measurement, Untried> {
        let settings = loan::differing(&assignment.settings, &self.base, &self.domain);
        let settings = settings.map_err(|problem| failed(FailureKind::Infrastructure, problem.to_string()))?;
        let turn = kept.insert(self.turn(assignment, reply).await?);
        self.may_go_on(reply)?;
        let step = LoanStep::Applies { label: assignment.label.clone(), settings: settings.clone() };
        let since = self.note(step).await.map_err(interrupted)?;
        let pending = self.plan(&settings).await.map_err(interrupted)?;
        self.accepted(&settings).await?;
        // The service may run with the last candidate still, which this one's pending file makes good as well.
        self.on = Some(pending.clone());
        self.arm(&pending).await.map_err(interrupted)?;
        self.may_go_on(reply)?;
        self.put_in(&pending).await.map_err(interrupted)?;
        let incarnation = self.restart(&settings).await?;
        // Whatever was read of the last candidate meanwhile is not this one's doing.
        wake(&self.begun, self.domain.name.clone());
        let since = self.told_until(since).await;
        self.may_go_on(reply)?;
        self.measure(assignment, &pending, (since, incarnation.as_ref()), &**turn, reply).await
    }

    async fn turn(&mut self, assignment: &Assignment, reply: &Reply) -> Result<Box<dyn Turn>, Untried> {
        let bench = std::sync::Arc::clone(&self.seams.bench);
        let waiting = bench.turn(&self.domain, assignment);
        tokio::select! {
            turn = waiting => Ok(turn?),
            why = self.until_over(reply) => Err(Untried::Interrupted(why)),
            // The last candidate does not serve for as long as others measure.
            () = sleep(Duration::from_secs(self.in_place.candidate_max_s)), if self.on.is_some() => {
                Err(interrupted("the machine was not free in time".to_owned()))
            }
        }
    }

    /// Puts the env file back, where it holds the last candidate, and returns what is to be pending for the next one.
    async fn plan(&self, settings: &Settings) -> Result<Pending, String> {
        let (domain, seams) = (&self.domain, &self.seams);
        if let Some(on) = &self.on {
            if self.saga().restorer().put_back(on).await? == Put::Gone {
                return Err(gone(on));
            }
        } else {
            let claimed = seams.pending.claimed(&domain.name).await.map_err(|error| error.to_string())?;
            let armed = seams.pending.armed(&domain.name).await.map_err(|error| error.to_string())?;
            if armed.is_some() || claimed.is_some_and(|claimed| !claimed.is_undone) {
                return Err("the pending file of an earlier change lies there still: look at it".to_owned());
            }
        }
        let file = seams.env.read(&domain.service.env_file).await.map_err(|error| error.to_string())?;
        let current = values(&file.bytes, domain.knobs.keys())?;
        if let Some(key) = loan::edited(&self.base.file, &current) {
            return Err(format!("{key} was edited by hand"));
        }
        let bytes = file.bytes.len().saturating_add(UNDO_GROWTH_MAX);
        seams.env.reserve(&domain.service.env_file, bytes).await.map_err(|error| error.to_string())?;
        let named = (&self.loan.id, &self.cycle, seams.clock.now_ms());
        Ok(Pending::of_loan(named, domain, settings, &current, content_hash(&file.bytes)))
    }

    /// Sees that the service would take the candidate, as far as that can be told without it.
    async fn accepted(&self, settings: &Settings) -> Result<(), Untried> {
        let (seams, path) = (&self.seams, &self.domain.service.env_file);
        let file = seams.env.read(path).await.map_err(|error| interrupted(error.to_string()))?;
        let edits: Vec<_> = settings.iter().map(|(key, value)| (key.clone(), Some(value.to_string()))).collect();
        let wanted = env_file::edit(&file.bytes, &edits).map_err(|problem| interrupted(problem.to_string()))?;
        let accepted = self.saga().alive_while(seams.services.accepts(&self.domain, &wanted)).await;
        // While nothing is pending, nobody else gives back what was set aside.
        if accepted.is_err()
            && self.on.is_none()
            && let Err(error) = seams.env.release(path).await
        {
            tracing::warn!(%error, "space that was set aside is not given back");
        }
        accepted.map_err(|error| not_up(&error))
    }

    /// Sees that whoever undoes in our place knows of the candidate before the env file is touched, and that somebody does.
    async fn arm(&self, pending: &Pending) -> Result<(), String> {
        let text = pending.to_text().map_err(|problem| problem.to_string())?;
        self.still_ours().await?;
        let within = Duration::from_secs_f64(self.config.guard_within_s);
        let terms = Terms { within, tries: self.config.undo_attempts_max };
        let store = &self.seams.pending;
        store.arm(&self.domain.name, text, terms).await.map_err(|error| error.to_string())?;
        self.watched().await
    }

    /// Sees that somebody outside watches over the loan.
    pub(super) async fn watched(&self) -> Result<(), String> {
        let (domain, id) = (&self.domain.name, &self.loan.id);
        if self.seams.guard.is_watched(domain, id).await {
            return Ok(());
        }
        let watched = self.seams.guard.watch(domain, id).await;
        watched.map_err(|why| format!("nobody outside can watch over the service, so nothing is tried: {why}"))
    }

    pub(super) async fn still_ours(&self) -> Result<(), String> {
        let is_lost = is_taken_over(&self.seams, &self.domain.name, &self.loan.id).await;
        if is_lost { Err(TAKEN_OVER.to_owned()) } else { Ok(()) }
    }

    async fn put_in(&self, pending: &Pending) -> Result<(), String> {
        self.still_ours().await?;
        if self.saga().restorer().put_in(pending).await? == Put::Gone {
            return Err(gone(pending));
        }
        self.still_ours().await?;
        self.is_in(pending).await
    }

    /// Returns whether the env file holds the candidate and nothing that a person wrote in its place.
    pub(super) async fn is_in(&self, pending: &Pending) -> Result<(), String> {
        let file = self.seams.env.read(&pending.env_file).await.map_err(|error| error.to_string())?;
        let current = values(&file.bytes, self.domain.knobs.keys())?;
        let mut wanted = self.base.file.clone();
        wanted.extend(pending.keys.iter().map(|(key, held)| (key.clone(), Some(held.new.clone()))));
        match loan::edited(&wanted, &current) {
            Some(key) => Err(format!("{key} was edited by hand")),
            None => Ok(()),
        }
    }

    async fn restart(&self, settings: &Settings) -> Result<Option<Incarnation>, Untried> {
        progress();
        let (saga, services) = (self.saga(), &self.seams.services);
        let _alone = saga.alone(&self.domain).await.map_err(interrupted)?;
        self.still_ours().await.map_err(interrupted)?;
        saga.alive_while(services.restart(&self.domain)).await.map_err(|error| not_up(&error))?;
        let incarnation = services.incarnation(&self.domain).await.map_err(|error| not_up(&error))?;
        self.still_ours().await.map_err(interrupted)?;
        let in_effect = services.in_effect(&self.domain).await;
        let in_effect = in_effect.map_err(|error| failed(FailureKind::NotInEffect, error.to_string()))?;
        agrees(settings, &in_effect).map_err(|why| failed(FailureKind::NotInEffect, why))?;
        Ok(incarnation)
    }

    async fn measure(
        &mut self,
        assignment: &Assignment,
        pending: &Pending,
        (since, incarnation): (u64, Option<&Incarnation>),
        turn: &dyn Turn,
        reply: &Reply,
    ) -> Result<Measurement, Untried> {
        self.saga().takes(Duration::ZERO).await;
        let (bench, services) = (&self.seams.bench, &self.seams.services);
        let url = services.address(&self.domain);
        let url =
            url.ok_or_else(|| failed(FailureKind::Infrastructure, "it is not known where it serves".to_owned()))?;
        let limit = Duration::from_secs(self.in_place.candidate_max_s);
        let measuring = timeout(limit, bench.measure_serving(&self.domain, assignment, &url));
        let late = |_| failed(FailureKind::TimedOut, format!("not measured within {} s", limit.as_secs()));
        let measured = tokio::select! {
            measured = measuring => measured.map_err(late)?.map_err(Untried::Failed),
            ended = self.until_ended(pending, since, incarnation, reply) => Err(ended),
        };
        if pending.keys.is_empty() {
            let breached = self.breaches(since).await;
            self.breached.extend(breached);
        }
        if matches!(measured, Err(Untried::Interrupted(_))) {
            return measured;
        }
        // That it died explains whatever the bench has to say.
        self.lives(incarnation).await?;
        let measurement = measured?;
        if !turn.is_whole() {
            return Err(interrupted("somebody else may have measured meanwhile".to_owned()));
        }
        let in_effect = self.seams.services.in_effect(&self.domain).await.unwrap_or_default();
        Ok(Measurement { in_effect, ..measurement })
    }

    /// Returns that the service is still the one that was started, and well.
    async fn lives(&self, incarnation: Option<&Incarnation>) -> Result<(), Untried> {
        let services = &self.seams.services;
        let now = services.incarnation(&self.domain).await;
        let now = now.map_err(|error| failed(FailureKind::Died, error.to_string()))?;
        if incarnation.is_some() && now.as_ref() != incarnation {
            return Err(failed(FailureKind::Died, "the service died under load and was started again".to_owned()));
        }
        services.healthy(&self.domain).await.map_err(|error| failed(FailureKind::Died, error.to_string()))
    }

    /// Brings the service's own settings back, where it runs with others, and leaves nothing pending.
    pub(super) async fn back(&mut self) -> Result<(), String> {
        let Some(on) = self.on.take() else { return Ok(()) };
        let brought = self.bring_back(&on).await;
        if brought.is_err() {
            self.on = Some(on);
        }
        brought
    }

    async fn bring_back(&self, on: &Pending) -> Result<(), String> {
        let _alone = self.saga().alone(&self.domain).await?;
        self.saga().restore(&self.domain, on, true).await?;
        self.saga().clear(&self.domain).await.map_err(|error| error.to_string())
    }

    /// Makes a step durable, and returns its place in the journal.
    pub(super) async fn note(&self, step: LoanStep) -> Result<u64, String> {
        let (loan, experiment) = (self.loan.id.clone(), self.loan.experiment.clone());
        let fact = Fact::LoanStep { loan, experiment, step };
        let entry = Entry::new(&self.cycle, self.seams.clock.now_ms(), fact);
        let written = record(&self.seams, vec![entry]).await.map_err(|error| error.to_string())?;
        match written.first() {
            Some(Appended::At(place)) => Ok(*place),
            _ => Err("the journal did not take the step".to_owned()),
        }
    }
}

pub(super) fn interrupted(why: String) -> Untried {
    Untried::Interrupted(why)
}

pub(super) fn failed(kind: FailureKind, detail: String) -> Untried {
    Untried::Failed(TrialFailure { kind, detail })
}

pub(super) fn not_up(error: &ServiceError) -> Untried {
    let kind = match error {
        ServiceError::DidNotStart(_) | ServiceError::Refused(_) => FailureKind::DidNotStart,
        ServiceError::NotReady(_) | ServiceError::Unreachable(_) => FailureKind::NotReady,
    };
    failed(kind, error.to_string())
}
