//! How the deployer lends a service to an experiment: what the gate let through opens a loan, errands come and go, and
//! whatever ends it brings the service's own settings back.

use std::{collections::BTreeMap, time::Duration};

use kloros_supervision::progress;
use ractor::ActorRef;
use tokio::{sync::watch, time::Instant};

use super::{
    actor::{Msg, State},
    loan::{self, Circumstances},
    loan_saga::{Done, Lending},
    mapping::Base,
    pending::Pending,
    restarts_actor::restarts_last_hour,
};
use crate::{
    facts::{
        CycleId, DeploymentId, Domain, Entry, ExperimentId, Fact, InPlace, Kind, Loan, LoanStep, Origin, Promotion,
        loans,
    },
    meters,
    record::{record, record_once, wake},
    seams::{Borrower, Errand, JournalError, Query, Untried},
};

/// How long a service stays lent on which nothing is tried: the search takes far less.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// How many facts about loans, and how many anomalies, are looked back for.
const LOOK_BACK: usize = 2_000;

const DAY_MS: u64 = 24 * 3_600_000;

/// A service that is lent.
pub(super) struct Lent {
    pub(super) loan: Loan,
    cycle: CycleId,
    base: Base,
    /// The candidate that it runs with, where it does not run with its own settings.
    on: Option<Pending>,
    breached: Vec<String>,
    is_busy: bool,
    idle_since: Instant,
    /// Why its own settings are not back, where they should be: how many looks passed since it was tried, and how many must.
    stuck: Option<(u32, u32)>,
}

impl Lent {
    fn new(loan: Loan, cycle: CycleId, base: Base) -> Self {
        let (on, breached, idle_since) = (None, Vec::new(), Instant::now());
        Self { loan, cycle, base, on, breached, is_busy: false, idle_since, stuck: None }
    }
}

/// An errand that is over, and what it leaves.
pub struct Returned {
    domain: String,
    done: Done,
    errand: Errand,
}

impl std::fmt::Debug for Returned {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Returned({})", self.domain)
    }
}

impl State {
    /// Returns whether a maintenance window is in force, where the domain is measured in place.
    pub(super) fn is_maintained(&self, domain: &str) -> bool {
        let Some(in_place) = self.domain(domain).and_then(|domain| domain.in_place) else { return true };
        in_place.is_open(self.seams.clock.now_ms(), self.seams.clock.utc_offset_s())
    }

    /// Lends a service to the experiment for which the gate let `promotion` through. What cannot be lent now stays with the
    /// gate, which offers it again.
    pub(super) async fn lend(&mut self, promotion: Promotion) -> Result<(), JournalError> {
        let Origin::Trials(experiment) = promotion.origin.clone() else { return Ok(()) };
        let Some(domain) = self.domain(&promotion.domain) else { return Ok(()) };
        let Some(in_place) = domain.in_place.clone() else { return Ok(()) };
        let restarts = self.restarts(&domain.name).await?;
        if let Some(why) = self.objection(&in_place, restarts) {
            tracing::debug!(promotion = %promotion.id, %why, "service is not lent now");
            return Ok(());
        }
        let authority = match self.permitted(&promotion).await {
            Ok(authority) => authority,
            Err(why) => {
                tracing::info!(promotion = %promotion.id, %why, "service may not be lent now");
                return Ok(());
            }
        };
        let base = match self.saga().base(&domain).await {
            Ok(base) => base,
            Err(error) => {
                tracing::warn!(domain = %domain.name, %error, "service is not lent");
                return Ok(());
            }
        };
        let id = DeploymentId::new(format!("l-{}", promotion.id.as_str().trim_start_matches("p-")));
        let at_ms = self.seams.clock.now_ms();
        let (of, name) = (promotion.id, domain.name.clone());
        let loan = Loan { id: id.clone(), experiment, promotion: of, domain: name.clone(), authority, at_ms };
        let fact = Fact::Loan(loan.clone());
        if !record_once(&self.seams, &promotion.cycle, format!("loan:{id}"), fact).await? {
            return Ok(());
        }
        metrics::counter!(meters::LOANS_TOTAL).increment(1);
        tracing::info!(cycle = %promotion.cycle, loan = %id, domain = %name, "service is lent to an experiment");
        let mut lent = Lent::new(loan, promotion.cycle, base);
        lent.breached = self.breached(&domain).await?;
        self.loans.insert(name, lent);
        Ok(())
    }

    fn objection(&self, in_place: &InPlace, restarts: u32) -> Option<String> {
        let stop = self.seams.switch.stopped();
        let (now_ms, utc_offset_s) = (self.seams.clock.now_ms(), self.seams.clock.utc_offset_s());
        loan::objection(in_place, &Circumstances { stop: stop.as_ref(), now_ms, utc_offset_s, restarts })
    }

    /// Returns how often candidates and validations restarted the service of `domain` within the last hour.
    async fn restarts(&self, domain: &str) -> Result<u32, JournalError> {
        restarts_last_hour(&self.seams, domain).await
    }

    /// Returns the objectives of `domain` that were breached within the last day, while no candidate ran.
    async fn breached(&self, domain: &Domain) -> Result<Vec<String>, JournalError> {
        let since_ms = self.seams.clock.now_ms().saturating_sub(DAY_MS);
        let anomalies = Query::newest(&[Kind::Anomaly], LOOK_BACK).about(&domain.name);
        let mut recorded = self.seams.journal.read(anomalies).await?;
        recorded.retain(|each| each.at_ms >= since_ms);
        recorded.extend(self.seams.journal.read(Query::newest(&[Kind::Loan, Kind::LoanStep], LOOK_BACK)).await?);
        recorded.sort_by_key(|each| each.seq);
        let facts: Vec<Fact> = recorded.into_iter().map(|each| each.fact).collect();
        Ok(loan::breached_alone(&facts, domain))
    }

    /// Has an errand carried out, if the service is lent for it and nothing else is tried on it.
    pub(super) async fn send_on(&mut self, myself: &ActorRef<Msg>, errand: Errand) -> Result<(), JournalError> {
        match errand.whose.clone() {
            Borrower::Experiment(experiment) => self.try_on(myself, &experiment, errand).await,
            Borrower::Deployment { id, candidate } => {
                self.alternate(id, candidate, errand);
                Ok(())
            }
        }
    }

    async fn try_on(
        &mut self,
        myself: &ActorRef<Msg>,
        experiment: &ExperimentId,
        mut errand: Errand,
    ) -> Result<(), JournalError> {
        if errand.assignment.is_none() {
            return self.give_back(experiment, errand).await;
        }
        let restarts = self.restarts(&errand.domain).await?;
        let domain = self.domain(&errand.domain);
        let terms = domain.zip(errand.assignment.take()).and_then(|(domain, assignment)| {
            let in_place = domain.in_place.clone()?;
            Some((domain, in_place, assignment))
        });
        let objection = terms.as_ref().and_then(|(_, in_place, _)| self.objection(in_place, restarts));
        let lent = self.loans.get_mut(&errand.domain);
        let lent = lent.filter(|lent| lent.loan.experiment == *experiment && !lent.is_busy && lent.stuck.is_none());
        let (Some(lent), Some((domain, _, assignment))) = (lent, terms) else {
            refuse(errand, "the service is not lent to it now");
            return Ok(());
        };
        if let Some(why) = objection {
            refuse(errand, &why);
            let name = domain.name;
            return self.end_loan(&name, &why).await;
        }
        lent.is_busy = true;
        let Some(lending) = self.lending(&domain.name) else {
            refuse(errand, "the domain is not measured in place any more");
            return Ok(());
        };
        wake(&self.exits.begun, errand.domain.clone());
        let myself = myself.clone();
        tokio::spawn(async move {
            let done = lending.run(assignment, &errand.reply).await;
            // A deployer that is gone finds the open loan in the journal, and what is pending on disk.
            myself.send_message(Msg::Returned(Box::new(Returned { domain: errand.domain.clone(), done, errand }))).ok();
        });
        Ok(())
    }

    /// Ends the loan of an experiment that is over.
    async fn give_back(&mut self, experiment: &ExperimentId, errand: Errand) -> Result<(), JournalError> {
        let lent = self.loans.get(&errand.domain).filter(|lent| lent.loan.experiment == *experiment);
        if lent.is_some_and(|lent| !lent.is_busy && lent.stuck.is_none()) {
            self.end_loan(&errand.domain, "the experiment is over").await?;
        }
        errand.reply.send(Ok(None)).ok();
        Ok(())
    }

    /// Returns whether a service is lent, so that what it runs with is no base for a change. Where nothing is tried just now, it
    /// is taken back at once, for whoever wants to change it.
    pub(super) async fn is_away(&mut self, domain: &str) -> Result<bool, JournalError> {
        let is_idle = self.loans.get(domain).is_some_and(|lent| !lent.is_busy && lent.stuck.is_none());
        if is_idle {
            self.end_loan(domain, "somebody wants to change the service").await?;
        }
        Ok(self.loans.contains_key(domain))
    }

    /// Takes note of what an errand leaves. Whatever cut it off ends the loan; a candidate that failed does not.
    pub(super) async fn take_back_from(&mut self, returned: Returned) -> Result<(), JournalError> {
        let Returned { domain, done, errand } = returned;
        let Some(lent) = self.loans.get_mut(&domain) else { return Ok(()) };
        (lent.is_busy, lent.idle_since) = (false, Instant::now());
        (lent.on, lent.breached) = (done.on, done.breached);
        let why = match &done.tried {
            Err(Untried::Interrupted(why)) => Some(why.clone()),
            Ok(_) | Err(Untried::Failed(_)) => None,
        };
        if done.stuck.is_some() {
            lent.stuck = Some((0, 1));
        }
        if let (Some(stuck), Some(lending)) = (done.stuck, self.lending(&domain)) {
            tracing::error!(%domain, why = %stuck, "own settings of a service that was lent are not back");
            lending.note(LoanStep::Stuck { why: stuck }).await.map_err(JournalError::Unwritable)?;
        }
        let ended = match why {
            Some(why) => self.end_loan(&domain, &why).await,
            None => Ok(()),
        };
        // It hears of it when the loan is over, so that it can ask for the next one.
        errand.reply.send(done.tried.map(Some)).ok();
        ended
    }

    /// Brings the service's own settings back and ends the loan; where that fails, it is tried again.
    async fn end_loan(&mut self, domain: &str, why: &str) -> Result<(), JournalError> {
        let Some(mut lending) = self.lending(domain) else { return Ok(()) };
        progress();
        // The restart is our own doing, whatever is noticed of it.
        wake(&self.exits.begun, domain.to_owned());
        let back = lending.back().await;
        let Some(lent) = self.loans.get_mut(domain) else { return Ok(()) };
        lent.on = lending.on.take();
        match back {
            Ok(()) => {
                tracing::info!(%domain, loan = %lent.loan.id, why, "service is not lent any more");
                lending.note(LoanStep::Ended { why: why.to_owned() }).await.map_err(JournalError::Unwritable)?;
                self.loans.remove(domain);
            }
            Err(stuck) => {
                tracing::error!(%domain, why = %stuck, "own settings of a service that was lent are not back");
                if lent.stuck.is_none() {
                    lending.note(LoanStep::Stuck { why: stuck }).await.map_err(JournalError::Unwritable)?;
                }
                let (_, looks) = lent.stuck.unwrap_or((0, 1));
                lent.stuck = Some((0, looks.saturating_mul(2).min(STUCK_LOOKS_MAX)));
            }
        }
        Ok(())
    }

    fn lending(&self, domain: &str) -> Option<Lending> {
        let lent = self.loans.get(domain)?;
        let domain: Domain = self.domain(domain)?;
        Some(Lending {
            seams: self.seams.clone(),
            config: self.config.clone(),
            in_place: domain.in_place.clone()?,
            cycle: lent.cycle.clone(),
            loan: lent.loan.clone(),
            base: lent.base.clone(),
            on: lent.on.clone(),
            breached: lent.breached.clone(),
            permits: self.exits.permits.clone(),
            begun: self.exits.begun.clone(),
            room: self.room.subscribe(),
            domain,
        })
    }

    /// Looks at what is lent and idle: an errand that is under way looks after itself.
    pub(super) async fn look_at_loans(&mut self) -> Result<(), JournalError> {
        if self.loans.is_empty() {
            return Ok(());
        }
        self.seams.journal.check()?;
        for name in self.loans.keys().cloned().collect::<Vec<_>>() {
            let Some(why) = self.why_back(&name) else { continue };
            self.end_loan(&name, &why).await?;
        }
        if self.loans.values().any(|lent| !lent.is_busy && lent.on.is_some()) {
            self.saga().takes(Duration::ZERO).await;
        }
        let stuck = self.loans.values().filter(|lent| lent.stuck.is_some()).count();
        metrics::gauge!(meters::LOANS_STUCK).set(stuck as f64);
        Ok(())
    }

    fn why_back(&mut self, name: &str) -> Option<String> {
        let in_place = self.domain(name)?.in_place?;
        let stop = self.seams.switch.stopped();
        let (now_ms, utc_offset_s) = (self.seams.clock.now_ms(), self.seams.clock.utc_offset_s());
        let now = Circumstances { stop: stop.as_ref(), now_ms, utc_offset_s, restarts: 0 };
        let lent = self.loans.get_mut(name).filter(|lent| !lent.is_busy)?;
        if let Some((passed, needed)) = &mut lent.stuck {
            *passed += 1;
            return (*passed >= *needed).then(|| "its own settings are back at last".to_owned());
        }
        let over = loan::over(&in_place, lent.loan.at_ms, &now);
        over.or_else(|| (lent.idle_since.elapsed() >= IDLE_MAX).then(|| "nothing more is tried".to_owned()))
    }

    /// Ends the loans that an earlier room, or an earlier daemon, left open.
    pub(super) async fn resume_loans(&mut self) -> Result<(), JournalError> {
        let facts = self.seams.journal.read(Query::open(&[Kind::Loan, Kind::LoanStep])).await?;
        let open = loans(facts.into_iter().map(|each| each.fact)).into_iter().filter(|(_, is_open)| *is_open);
        for (loan, _) in open {
            let cycle = self.cycle_of(&loan).await?;
            let Some(domain) = self.domain(&loan.domain).filter(|domain| domain.in_place.is_some()) else {
                // The owner measures it elsewhere by now. What was pending, a start has taken back.
                let step = LoanStep::Ended { why: "the domain is not measured in place any more".to_owned() };
                let fact = Fact::LoanStep { loan: loan.id, experiment: loan.experiment, step };
                record(&self.seams, vec![Entry::new(&cycle, self.seams.clock.now_ms(), fact)]).await?;
                continue;
            };
            let name = loan.domain.clone();
            let mut lent = Lent::new(loan, cycle, Base { file: BTreeMap::new(), in_effect: BTreeMap::new() });
            lent.on = self.pending_of(&domain, &lent.loan.id).await;
            self.loans.insert(name.clone(), lent);
            self.end_loan(&name, "kloros, or a part of it, was started anew").await?;
        }
        Ok(())
    }

    async fn pending_of(&self, domain: &Domain, id: &DeploymentId) -> Option<Pending> {
        let claimed = self.seams.pending.claimed(&domain.name).await.ok().flatten().map(|claimed| claimed.text);
        let armed = self.seams.pending.armed(&domain.name).await.ok().flatten();
        let read = |text: String| Pending::from_text(&text).ok().filter(|pending| pending.deployment == *id);
        claimed.and_then(read).or_else(|| armed.and_then(read))
    }

    async fn cycle_of(&self, loan: &Loan) -> Result<CycleId, JournalError> {
        let query = Query::kinds(&[Kind::Loan]).about(loan.experiment.as_str());
        let found = self.seams.journal.read(query).await?.into_iter().next();
        Ok(found.map_or_else(|| CycleId::new("c-operator"), |recorded| recorded.cycle))
    }
}

/// After how many looks at most it is tried again to bring own settings back.
const STUCK_LOOKS_MAX: u32 = 600;

pub(super) fn refuse(errand: Errand, why: &str) {
    errand.reply.send(Err(Untried::Interrupted(why.to_owned()))).ok();
}

/// The sender whose end tells errands that the room is gone.
pub(super) fn room() -> watch::Sender<()> {
    watch::Sender::new(())
}
