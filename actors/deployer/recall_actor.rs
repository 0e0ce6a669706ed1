//! What a person may ask the deployer for: a deployment that was not judged yet is undone.

use ractor::RpcReplyPort;

use super::actor::State;
use crate::{
    facts::{DeploymentId, Fact, Kind, Reason, Ruled, Stage, Verdict},
    seams::{JournalError, Query},
};

impl State {
    /// Undoes a deployment that was not judged yet for the person `uid`, or tries again where that failed.
    pub(super) async fn recall(
        &mut self,
        id: &DeploymentId,
        uid: u32,
        reply: RpcReplyPort<Result<Verdict, String>>,
    ) -> Result<(), JournalError> {
        let answer = match self.open.get(id).cloned() {
            Some((deployment, stage)) if stage.is_before_verdict() => {
                self.condemn(&deployment, Reason::Person { uid }).await?;
                match self.verdict_of(id).await {
                    Ok(verdict) if verdict.outcome != Ruled::Rollback => {
                        Err(format!("{id} was judged meanwhile: {}", verdict.outcome))
                    }
                    answer => answer,
                }
            }
            Some((_, Stage::Stuck)) => self.retry_undo(id).await?,
            Some((_, stage)) => Err(format!("{id} is {} already", stage.label())),
            None => Err(format!("{id} is not under way: propose the old values with `kloros try`")),
        };
        // The caller may have gone; the undo stands all the same.
        reply.send(answer).ok();
        Ok(())
    }

    /// Tries at once again what a person has made possible meanwhile.
    async fn retry_undo(&mut self, id: &DeploymentId) -> Result<Result<Verdict, String>, JournalError> {
        self.stuck.remove(id);
        self.finish(id).await?;
        if self.open.contains_key(id) {
            return Ok(Err(format!("the undo of {id} failed again: kloros status")));
        }
        Ok(self.verdict_of(id).await)
    }

    async fn verdict_of(&self, id: &DeploymentId) -> Result<Verdict, String> {
        let query = Query::kinds(&[Kind::Verdict]).about(id.as_str());
        let recorded = self.seams.journal.read(query).await.map_err(|error| error.to_string())?;
        recorded
            .into_iter()
            .find_map(|each| match each.fact {
                Fact::Verdict(verdict) => Some(verdict),
                _ => None,
            })
            .ok_or_else(|| format!("{id} has no verdict yet"))
    }
}
