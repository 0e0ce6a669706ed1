//! Whether what is measured for still stands: the serving instance, and its env file.

use super::{
    actor::{Judging, State},
    verdict::{Judgement, condemned},
};
use crate::{
    env_file,
    facts::{Reason, Ruled, agrees, means},
    record::{TAKEN_OVER, is_taken_over},
    seams::JournalError,
};

impl State {
    /// What was measured beside the service counts only if the service itself still runs with the new values, and its
    /// env file still holds them.
    pub(super) async fn check_live(&self, judging: &Judging, judgement: Judgement) -> Judgement {
        if judgement.outcome == Ruled::Rollback {
            return judgement;
        }
        match self.objection(judging).await {
            None => judgement,
            Some(seen) => {
                let reason = self.behind(judging, seen).await;
                Judgement { outcome: Ruled::Rollback, reason, ..judgement }
            }
        }
    }

    /// A run may take minutes, and a service that is down, or runs with what its file no longer says, does not wait for its end.
    pub(super) async fn look(&mut self) -> Result<(), JournalError> {
        for id in self.judging.keys().cloned().collect::<Vec<_>>() {
            let Some(judging) = self.judging.get(&id) else { continue };
            let reason = match self.edited(judging).await {
                Some(reason @ Reason::HumanOverride { .. }) => Some(reason),
                _ => self.died(judging).await,
            };
            if let Some(seen) = reason {
                let reason = self.behind(judging, seen).await;
                let judgement = condemned(&judging.domain.metrics, &judging.runs, reason);
                self.conclude(&id, judgement).await?;
            }
        }
        Ok(())
    }

    /// Returns what is behind that which was `seen`: the guard takes a change over before it puts anything back, so what looks
    /// like an edit or a death may be its doing.
    pub(super) async fn behind(&self, judging: &Judging, seen: Reason) -> Reason {
        let Judging { deployment, domain, .. } = judging;
        let is_the_guards = is_taken_over(&self.seams, &domain.name, &deployment.id).await;
        if is_the_guards { Reason::Aborted { why: TAKEN_OVER.to_owned() } } else { seen }
    }

    /// Returns why the env file is not as the deployment left it.
    async fn edited(&self, judging: &Judging) -> Option<Reason> {
        let file = match self.seams.env.read(&judging.domain.service.env_file).await {
            Ok(file) => file,
            Err(error) => return Some(Reason::Aborted { why: error.to_string() }),
        };
        judging.deployment.promotion.changes.iter().find_map(|(key, change)| {
            match env_file::value_of(&file.bytes, key) {
                Ok(Some(text)) if means(&text, &change.to, 0.0) => None,
                // A person edited it while it was measured: theirs stands, and ours was not judged.
                Ok(_) => Some(Reason::HumanOverride { key: key.clone() }),
                Err(problem) => Some(Reason::Aborted { why: problem.to_string() }),
            }
        })
    }

    /// A service that was started again since it was proven died meanwhile, however well the new run of it is.
    pub(super) async fn died(&self, judging: &Judging) -> Option<Reason> {
        match self.seams.services.incarnation(&judging.domain).await {
            Ok(now) => Reason::of_incarnations(judging.proven.as_ref(), now.as_ref()),
            Err(error) => Some(Reason::Died { why: error.to_string() }),
        }
    }

    async fn objection(&self, judging: &Judging) -> Option<Reason> {
        let Judging { deployment, domain, .. } = judging;
        if is_taken_over(&self.seams, &domain.name, &deployment.id).await {
            return Some(Reason::Aborted { why: TAKEN_OVER.to_owned() });
        }
        if let Some(reason) = self.edited(judging).await {
            return Some(reason);
        }
        if let Some(reason) = self.died(judging).await {
            return Some(reason);
        }
        if let Err(error) = self.seams.services.healthy(domain).await {
            return Some(Reason::NotHealthy { why: error.to_string() });
        }
        match self.seams.services.in_effect(domain).await {
            Ok(in_effect) => {
                agrees(&deployment.promotion.target(), &in_effect).err().map(|why| Reason::NotEffective { why })
            }
            Err(error) => Some(Reason::NotHealthy { why: error.to_string() }),
        }
    }
}
