//! How an experiment measures in place: it asks the gate for a loan of the serving instance, and sends the deployer on one
//! errand after the other while it has it. What was cut off is measured again, whole, with the next loan.

use std::collections::BTreeMap;

use ractor::{ActorProcessingErr, ActorRef};

use super::{
    experiment_actor::{Msg, State},
    farthest::farthest,
    start_saga::live_params,
};
use crate::{
    env_file,
    facts::{
        Answer, Change, Fact, Key, Kind, Loan, Origin, Promotion, PromotionId, Ruling, Settings, loans, short_hash,
    },
    record::{record_once, wake},
    seams::{Borrower, Errand, JournalError, Query},
};

/// Where an experiment stands that measures in place.
pub(super) enum Standing {
    /// It has the service.
    Lent,
    /// It has asked for it, and waits.
    Asked,
    /// It will not have it, for this reason.
    Refused(String),
}

impl State {
    /// Returns whether it has the service; asks for it where it has not.
    pub(super) async fn borrow(&mut self) -> Result<Standing, JournalError> {
        let loans = self.loans().await?;
        if loans.iter().any(|(_, is_open)| *is_open) {
            return Ok(Standing::Lent);
        }
        let number = loans.len() + 1;
        let id = self.request_id(number);
        if let Some(why) = self.refusal(&id).await? {
            return Ok(Standing::Refused(why));
        }
        if self.requested.as_ref() == Some(&id) {
            return Ok(Standing::Asked);
        }
        // What it compares with must be what runs: between two loans, anybody may have changed that.
        if self.seams.services.in_effect(&self.domain).await.is_err() {
            return Ok(Standing::Asked);
        }
        let live = live_params(&self.seams, &self.domain, &self.experiment).await;
        if live != self.live {
            return Ok(Standing::Refused("what the service runs with was changed since it began".to_owned()));
        }
        self.request(id).await?;
        Ok(Standing::Asked)
    }

    /// Returns whether it still has the service, and sees that it goes back: what is done next on the domain begins with what
    /// the service runs with by its own.
    pub(super) async fn gives_back(&mut self) -> Result<bool, JournalError> {
        if self.domain.in_place.is_none() || !self.has_it().await? {
            return Ok(false);
        }
        let (reply, _answer) = ractor::concurrency::oneshot();
        let whose = Borrower::Experiment(self.experiment.id.clone());
        let errand = Errand { domain: self.domain.name.clone(), whose, assignment: None, reply: reply.into() };
        wake(&self.exits.errands, errand);
        Ok(true)
    }

    async fn has_it(&self) -> Result<bool, JournalError> {
        Ok(self.loans().await?.iter().any(|(_, is_open)| *is_open))
    }

    async fn loans(&self) -> Result<Vec<(Loan, bool)>, JournalError> {
        let kinds = [Kind::Loan, Kind::LoanStep];
        let recorded = self.seams.journal.read(Query::kinds(&kinds).about(self.experiment.id.as_str())).await?;
        Ok(loans(recorded.into_iter().map(|each| each.fact)))
    }

    fn request_id(&self, number: usize) -> PromotionId {
        PromotionId::new(format!("p-{}", short_hash(&["trials", self.experiment.id.as_str(), &number.to_string()])))
    }

    async fn request(&mut self, id: PromotionId) -> Result<(), JournalError> {
        let experiment = &self.experiment;
        let promotion = Promotion {
            id: id.clone(),
            cycle: experiment.cycle.clone(),
            origin: Origin::Trials(experiment.id.clone()),
            experiment: experiment.spec.name.clone(),
            question: Some(experiment.question.clone()),
            hypothesis: Some(experiment.hypothesis.clone()),
            domain: self.domain.name.clone(),
            settings: Settings::new(),
            changes: self.reach().await,
            replaces: None,
            fitness: None,
            at_ms: self.seams.clock.now_ms(),
            depth: experiment.depth,
        };
        let (name, fact) = (format!("promotion:{id}"), Fact::Promotion(promotion.clone()));
        record_once(&self.seams, &promotion.cycle, name, fact).await?;
        self.requested = Some(id);
        wake(&self.exits.promotions, promotion);
        Ok(())
    }

    /// Returns how far it may go from what runs now, key by key.
    async fn reach(&self) -> BTreeMap<Key, Change> {
        let file = self.seams.env.read(&self.domain.service.env_file).await.map(|file| file.bytes).unwrap_or_default();
        let spec = &self.experiment.spec;
        let change = |(name, dimension): (&String, &crate::facts::Dimension)| {
            let key = spec.param_mapping.get(name)?.clone();
            let from = self.live.get(name).cloned();
            let to = farthest(&dimension.range, from.as_ref())?;
            let in_file = env_file::value_of(&file, &key).ok().flatten().is_some();
            (from.as_ref() != Some(&to)).then_some((key, Change { from, in_file, to }))
        };
        spec.search_space.iter().filter_map(change).collect()
    }

    /// Returns why what it asked for was refused, if it was.
    async fn refusal(&self, id: &PromotionId) -> Result<Option<String>, JournalError> {
        let query = Query::kinds(&[Kind::Ruling, Kind::Answer]).about(id.as_str());
        let why = |fact| match fact {
            Fact::Ruling(Ruling::Refuse { why, .. }) => Some(why),
            Fact::Ruling(Ruling::Advise { .. }) => Some("only advice is given".to_owned()),
            Fact::Answer(Answer { approved: false, by_uid: Some(_), why, .. }) => {
                Some(why.unwrap_or_else(|| "a person said no".to_owned()))
            }
            Fact::Answer(Answer { approved: false, by_uid: None, .. }) => Some("nobody answered in time".to_owned()),
            _ => None,
        };
        let recorded = self.seams.journal.read(query).await?;
        let refused = recorded.into_iter().find_map(|each| why(each.fact));
        Ok(refused.map(|why| format!("the service is not lent to it: {why}")))
    }

    /// Takes a candidate back that was not measured: it is measured anew as soon as the service is lent again.
    pub(super) fn postpone(&mut self, why: &str) {
        if let Some(candidate) = &self.under_way {
            let (generation, number) = (candidate.generation, candidate.number);
            tracing::info!(experiment = %self.experiment.id, generation, number, why, "trial was not made and is made anew");
        }
        self.trial = None;
    }

    /// Ends the experiment, because it will never have the service.
    pub(super) async fn give_up(&mut self, myself: &ActorRef<Msg>, why: String) -> Result<(), ActorProcessingErr> {
        self.under_way = None;
        self.given_up = Some(why);
        self.end(myself).await
    }
}
