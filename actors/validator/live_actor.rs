//! Whether what is measured for still stands: the serving instance, and its env file.

use super::{
    actor::{Judging, State},
    verdict::{Judgement, condemned},
};
use crate::{
    env_file,
    facts::{Change, Reason, Ruled, agrees, means},
    record::{TAKEN_OVER, is_taken_over},
    seams::JournalError,
};

impl State {
    /// What was measured beside the service counts only if the service itself still runs with the new values, and its
    /// env file still holds them.
    pub(super) async fn check_live(&self, judging: &Judging, judgement: Judgement) -> Judgement {
        let seen = match (&judgement.outcome, &judgement.reason) {
            // Nothing can be measured any more where a person wrote what the service does not take, or twice what it takes.
            (Ruled::Rollback, Reason::Inconclusive { .. }) => {
                let takes_turns = judging.domain.in_place.is_some();
                let seen = self.edited(judging, takes_turns).await;
                seen.filter(|seen| matches!(seen, Reason::HumanOverride { .. }))
            }
            (Ruled::Rollback, _) => None,
            _ => self.objection(judging).await,
        };
        match seen {
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
            let takes_turns = judging.domain.in_place.is_some();
            let reason = match self.edited(judging, takes_turns).await {
                Some(reason @ Reason::HumanOverride { .. }) => Some(reason),
                // Each run restarts the service, and looks itself whether it dies.
                _ if takes_turns => None,
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

    /// Returns why the env file is not as the deployment left it, or where old and new settings take turns in it, as it was.
    pub(super) async fn edited(&self, judging: &Judging, takes_turns: bool) -> Option<Reason> {
        let file = match self.seams.env.read(&judging.domain.service.env_file).await {
            Ok(file) => file,
            Err(error) => return Some(Reason::Aborted { why: error.to_string() }),
        };
        judging.deployment.promotion.changes.iter().find_map(|(key, change)| {
            match env_file::value_of(&file.bytes, key) {
                Ok(Some(text)) if means(&text, &change.to, 0.0) => None,
                Ok(text) if takes_turns && was(text.as_deref(), change) => None,
                // A person edited it while it was measured: theirs stands, and ours was not judged.
                Ok(_) => Some(Reason::HumanOverride { key: key.clone() }),
                // We wrote one line, and whoever wrote another meant it.
                Err(env_file::Problem::Duplicate { .. } | env_file::Problem::Exported { .. }) => {
                    Some(Reason::HumanOverride { key: key.clone() })
                }
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
        if let Some(reason) = self.edited(judging, false).await {
            return Some(reason);
        }
        if judging.domain.in_place.is_none()
            && let Some(reason) = self.died(judging).await
        {
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

/// Returns whether the env file held this text before the change.
fn was(text: Option<&str>, change: &Change) -> bool {
    match (text, change.from.as_ref().filter(|_| change.in_file)) {
        (Some(text), Some(from)) => means(text, from, 0.0),
        (text, from) => text.is_none() && from.is_none(),
    }
}
