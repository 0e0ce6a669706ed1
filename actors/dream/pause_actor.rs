//! How an experiment stands still while a person has stopped everything or the serving instance needs the machine, and goes on after
//! that.

use std::time::Duration;

use ractor::{ActorProcessingErr, ActorRef};

use super::experiment_actor::{Msg, State};

/// How often it is looked whether everything is stopped.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl State {
    /// Ends the trial that runs when everything is stopped; its candidate is measured anew, whole, when it may go on.
    pub(super) async fn look(&mut self, myself: &ActorRef<Msg>) -> Result<(), ActorProcessingErr> {
        myself.send_after(LOOK_EVERY, || Msg::Look);
        if let Some(stop) = self.seams.switch.stopped() {
            if let Some(trial) = self.trial.take() {
                tracing::warn!(%stop, "trial is ended, and measured anew when it may go on");
                trial.kill();
            }
            return Ok(());
        }
        if let Some(metric) = self.disturbs().await? {
            return self.yields(myself, &metric).await;
        }
        match self.under_way.clone() {
            Some(_) if self.rests() => Ok(()),
            Some(candidate) if self.trial.is_none() => {
                let settings = self.meant(&candidate.params)?;
                self.measure(myself, candidate, settings).await
            }
            _ => self.proceed(myself).await,
        }
    }
}
