//! How a proposal becomes a promotion, and how it is planned anew when a change of ours overtook it.

use super::{actor::State, mapping, saga::BaseError};
use crate::{
    facts::{
        Answer, Domain, Entry, Fact, Kind, MappingProblem, Origin, Promotion, PromotionId, Proposal, Ruling, Step,
    },
    record::{Ending, decide, record, record_once, wake},
    seams::{JournalError, Planning, Query},
};

/// Why a proposal leads to no promotion.
enum Unplanned {
    /// It may not or need not be made.
    Refused(String),
    /// It is not known what the service runs with now: it may be asked again.
    Deferred(String),
}

impl Unplanned {
    fn how(&self) -> &'static str {
        match self {
            Unplanned::Refused(_) => "refused",
            Unplanned::Deferred(_) => "deferred",
        }
    }

    fn why(&self) -> &str {
        match self {
            Unplanned::Refused(why) | Unplanned::Deferred(why) => why,
        }
    }
}

impl State {
    /// Compares a proposal with what runs, and proposes the difference to the gate.
    pub(super) async fn plan(&mut self, planning: Planning) -> Result<(), JournalError> {
        let Planning { proposal, reply } = planning;
        if let Some(promotion) = self.promoted(&proposal).await? {
            reply.map(|reply| reply.send(Ok(promotion)).ok());
            return Ok(());
        }
        if self.is_away(&proposal.domain).await? {
            // A winner and a file are proposed again, by whoever finds them without a promotion.
            let why = format!("{} is lent to an experiment just now: try again when it is back", proposal.domain);
            tracing::info!(domain = %proposal.domain, "proposal waits until the service is back");
            reply.map(|reply| reply.send(Err(why)).ok());
            return Ok(());
        }
        let planned = self.promotion(&proposal, None).await;
        if let (Err(Unplanned::Deferred(why)), Origin::File(name)) = (&planned, &proposal.origin) {
            // It lies there until it can be compared with what runs; an answer that fails says so.
            tracing::info!(%name, %why, "proposal waits");
            return Ok(());
        }
        match &planned {
            Ok(promotion) => self.propose(promotion).await?,
            Err(unplanned) => self.end_question(&proposal, unplanned).await?,
        }
        let promotion = planned.as_ref().ok().cloned();
        let unheard =
            reply.is_some_and(|reply| reply.send(planned.map_err(|unplanned| unplanned.why().to_owned())).is_err());
        match promotion.filter(|_| unheard) {
            Some(promotion) => self.take_back_unheard(&promotion).await,
            None => Ok(()),
        }
    }

    /// A person who was told that nobody answered is not surprised by a change later. What somebody else asks for is asked
    /// for again.
    async fn take_back_unheard(&self, promotion: &Promotion) -> Result<(), JournalError> {
        let Origin::Person(uid) = promotion.origin else { return Ok(()) };
        let why = Some("it was proposed, and nobody waited for the answer any more".to_owned());
        let (approved, by_uid, binding) = (false, Some(uid), String::new());
        let answer = Answer { promotion: promotion.id.clone(), approved, by_uid, why, binding };
        if decide(&self.seams, promotion, Fact::Answer(answer)).await? {
            wake(&self.exits.promotions, promotion.clone());
        }
        Ok(())
    }

    async fn propose(&self, promotion: &Promotion) -> Result<(), JournalError> {
        let name = format!("promotion:{}", promotion.id);
        let fact = Fact::Promotion(promotion.clone());
        if record_once(&self.seams, &promotion.cycle, name, fact).await? {
            wake(&self.exits.promotions, promotion.clone());
        }
        Ok(())
    }

    /// Returns what became of a proposal that came before. A winner is proposed until the journal holds its promotion, and a
    /// file is read until it is put away, so they may come twice: the second time, the service may run with it already.
    async fn promoted(&self, proposal: &Proposal) -> Result<Option<Promotion>, JournalError> {
        if !matches!(proposal.origin, Origin::Experiment(_) | Origin::File(_)) {
            return Ok(None);
        }
        let query = Query { cycle: Some(proposal.cycle.clone()), ..Query::kinds(&[Kind::Promotion]) };
        let promotions = self.seams.journal.read(query).await?;
        Ok(promotions.into_iter().find_map(|recorded| match recorded.fact {
            Fact::Promotion(promotion) if promotion.origin == proposal.origin => Some(promotion),
            _ => None,
        }))
    }

    async fn promotion(&self, proposal: &Proposal, replaces: Option<PromotionId>) -> Result<Promotion, Unplanned> {
        let refused = |problem: MappingProblem| Unplanned::Refused(problem.to_string());
        let domain = self
            .domain(&proposal.domain)
            .ok_or_else(|| Unplanned::Refused(format!("there is no domain {:?}", proposal.domain)))?;
        mapping::allowed(&proposal.settings, &domain).map_err(refused)?;
        let base = self.saga().base(&domain).await.map_err(|error| match error {
            BaseError::File(why) => Unplanned::Refused(why),
            error @ BaseError::Service(_) => Unplanned::Deferred(error.to_string()),
        })?;
        let changes = mapping::changes(&proposal.settings, &base, &domain).map_err(refused)?;
        let id =
            Promotion::identity(&proposal.domain, &proposal.experiment, &proposal.cycle, &changes, replaces.as_ref());
        Ok(Promotion {
            id,
            cycle: proposal.cycle.clone(),
            origin: proposal.origin.clone(),
            experiment: proposal.experiment.clone(),
            question: proposal.question.clone(),
            hypothesis: proposal.hypothesis.clone(),
            domain: proposal.domain.clone(),
            settings: proposal.settings.clone(),
            changes,
            replaces,
            fitness: proposal.fitness,
            at_ms: self.seams.clock.now_ms(),
            depth: proposal.depth,
        })
    }

    /// Returns whether the base of `promotion` was changed since it was planned by deployments of ours, and by nobody else.
    pub(super) async fn is_overtaken(&self, promotion: &Promotion, domain: &Domain) -> Result<bool, JournalError> {
        // A service that cannot be asked is told of by the deployment, which then changes nothing.
        let Ok(base) = self.saga().base(domain).await else { return Ok(false) };
        let stale = mapping::stale(promotion, &base, domain);
        if stale.is_empty() {
            return Ok(false);
        }
        let planned = self.seams.journal.read(Query::kinds(&[Kind::Promotion]).about(promotion.id.as_str())).await?;
        let after = planned.first().map_or(0, |recorded| recorded.seq);
        let mut judged = self.seams.journal.read(Query { after, ..Query::kinds(&[Kind::Verdict]) }).await?;
        // What was stuck when it was planned was judged before that, and undone only afterwards.
        for step in self.seams.journal.read(Query { after, ..Query::kinds(&[Kind::Step]) }).await? {
            if let Fact::Step { deployment, step: Step::Restored } = step.fact {
                judged
                    .extend(self.seams.journal.read(Query::kinds(&[Kind::Verdict]).about(deployment.as_str())).await?);
            }
        }
        let ours: Vec<_> = judged
            .into_iter()
            .filter_map(|recorded| match recorded.fact {
                Fact::Verdict(verdict) if verdict.domain == domain.name => Some(verdict),
                _ => None,
            })
            .collect();
        let text = |key| base.file.get(key).and_then(Option::as_deref);
        Ok(stale.iter().all(|key| mapping::was_left_by_us(&ours, key, text(key))))
    }

    /// Plans the same settings on the base of now. It is another promotion, which the gate rules on anew: an approval of
    /// the old one is none of the new one.
    pub(super) async fn plan_anew(&self, promotion: &Promotion) -> Result<(), JournalError> {
        let proposal = promotion.as_proposed();
        match self.promotion(&proposal, Some(promotion.id.clone())).await {
            Ok(next) => {
                tracing::info!(promotion = %promotion.id, next = %next.id, "promotion is planned anew on another base");
                self.propose(&next).await
            }
            Err(unplanned) => {
                // The gate offers what it let through until it hears the end of it.
                let ruling = Ruling::Refuse { promotion: promotion.id.clone(), why: unplanned.why().to_owned() };
                let name = format!("ruling:{}:{}", promotion.id, ruling.label());
                let entry = Entry::once(&promotion.cycle, self.seams.clock.now_ms(), name, Fact::Ruling(ruling));
                record(&self.seams, vec![entry]).await?;
                self.end_question(&proposal, &unplanned).await
            }
        }
    }

    async fn end_question(&self, proposal: &Proposal, unplanned: &Unplanned) -> Result<(), JournalError> {
        let (how, why) = (unplanned.how(), unplanned.why());
        tracing::info!(domain = %proposal.domain, how, why, "proposal leads to no change");
        if let Some(ending) = Ending::resting(&self.seams, proposal, how, why, self.rest_s) {
            record(&self.seams, vec![ending.entry.clone()]).await?;
            Ending::tell(Some(ending), &self.exits.ended);
        }
        Ok(())
    }
}
