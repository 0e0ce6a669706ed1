//! What people do beside the gate, seen and written down: everything is stopped or goes on, env files are edited, a frozen
//! domain is let go on.

use std::collections::BTreeMap;

use super::actor::State;
use crate::{
    env_file,
    facts::{Answer, CycleId, Deployment, Domain, Entry, Fact, Key, Promotion, PromotionId, Switch, Thaw},
    record::{decide, record},
    seams::JournalError,
};

/// How often it is looked whether env files were edited, in milliseconds.
const LOOK_EVERY_MS: u64 = 10_000;

/// The cycle that what people do on their own belongs to.
const OPERATOR: &str = "c-operator";

impl State {
    /// Notes that everything was stopped, or may go on. What waits for that is ruled on at once.
    pub(super) async fn watch_switch(&mut self) -> Result<(), JournalError> {
        let stop = self.seams.switch.stopped();
        if stop == self.stop {
            return Ok(());
        }
        if let Some(stop) = &stop {
            tracing::warn!(%stop, "everything is stopped");
        } else {
            tracing::warn!("everything may go on");
        }
        self.note(Fact::Switch(Switch { stop: stop.clone() })).await?;
        self.stop = stop;
        self.open.values_mut().for_each(|open| open.offered_at_ms = None);
        self.show();
        Ok(())
    }

    /// Notes which knobs a person edited since they were seen last.
    pub(super) async fn watch_edits(&mut self) -> Result<(), JournalError> {
        let now_ms = self.seams.clock.now_ms();
        if self.looked_ms.is_some_and(|at_ms| now_ms.abs_diff(at_ms) < LOOK_EVERY_MS) {
            return Ok(());
        }
        self.looked_ms = Some(now_ms);
        self.catch_up().await?;
        let domains: Vec<Domain> = self.catalogue.domains.values().cloned().collect();
        for domain in domains {
            if self.history.pending(&domain.name).is_some() {
                continue;
            }
            let Some(values) = self.knobs_in_file(&domain).await else { continue };
            // A change of ours is in the journal before it is in the file, so what was read may be ours if one began now.
            self.catch_up().await?;
            if self.history.pending(&domain.name).is_some() {
                continue;
            }
            let Some(adoption) = self.history.unseen(&domain, &values) else { continue };
            for key in &adoption.edited {
                tracing::warn!(domain = %domain.name, %key, "edited by hand, and taken over as it is");
            }
            self.note(Fact::Adoption(adoption)).await?;
            self.catch_up().await?;
        }
        Ok(())
    }

    /// Returns what the env file of `domain` gives each knob; `None` where it cannot be read, or not be understood.
    async fn knobs_in_file(&self, domain: &Domain) -> Option<BTreeMap<Key, Option<String>>> {
        let file = self.seams.env.read(&domain.service.env_file).await.ok()?;
        let value = |key: &Key| Some((key.clone(), env_file::value_of(&file.bytes, key).ok()?));
        domain.knobs.keys().map(value).collect()
    }

    /// Takes back for a person what is on its way, waits for no answer and has not begun. What the deployer began first goes on.
    pub(super) async fn withdraw(&mut self, answer: Answer) -> Result<Promotion, String> {
        let id = answer.promotion.clone();
        if answer.approved || answer.by_uid.is_none() {
            return Err(format!("nothing waits under {id}"));
        }
        self.catch_up().await.map_err(|error| error.to_string())?;
        let Some(open) = self.open.get(&id) else {
            return Err(format!("nothing waits under {id}, and it is not on its way: kloros explain {id}"));
        };
        let (promotion, is_new) = (open.promotion.clone(), open.withdrawn.is_none());
        let why = answer.why.clone();
        let decided = !is_new
            || decide(&self.seams, &promotion, Fact::Answer(answer)).await.map_err(|error| error.to_string())?;
        if !decided {
            let deployment = Deployment::id_of(&id);
            return Err(format!("{id} is being deployed: kloros rollback {deployment}"));
        }
        self.take_back(&id, why);
        // The end of its question is written with that; after a crash in between, when it is next ruled on.
        self.consider(&id).await.map_err(|error| error.to_string())?;
        Ok(promotion)
    }

    /// Takes note that a person took a promotion back; it is refused when it is next ruled on.
    pub(super) fn take_back(&mut self, promotion: &PromotionId, why: Option<String>) {
        if let Some(open) = self.open.get_mut(promotion) {
            open.withdrawn = Some(why.unwrap_or_else(|| "a person took it back".to_owned()));
            open.offered_at_ms = None;
        }
    }

    /// Lets a frozen domain go on for the person `uid`; what happened until now does not freeze it any more.
    pub(super) async fn thaw(&mut self, domain: &str, uid: u32) -> Result<Result<(), String>, JournalError> {
        if !self.catalogue.domains.contains_key(domain) {
            return Ok(Err(format!("there is no domain {domain:?}")));
        }
        self.catch_up().await?;
        let undone = self.history.rollbacks_last_day(domain, self.seams.clock.now_ms());
        if undone < self.config.rollbacks_per_day_max as usize {
            return Ok(Err(format!("{domain} is not frozen: {undone} rollbacks within a day")));
        }
        tracing::warn!(domain, uid, "a person lets the frozen domain go on");
        self.note(Fact::Thaw(Thaw { domain: domain.to_owned(), by_uid: uid })).await?;
        self.open.values_mut().for_each(|open| open.offered_at_ms = None);
        self.work().await?;
        Ok(Ok(()))
    }

    async fn note(&self, fact: Fact) -> Result<(), JournalError> {
        let entry = Entry::new(&CycleId::new(OPERATOR), self.seams.clock.now_ms(), fact);
        record(&self.seams, vec![entry]).await.map(drop)
    }
}
