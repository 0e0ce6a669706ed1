//! The runs of a validation in place: old and new settings take turns in the serving instance, while the pending file of the
//! deployment, and the guard, know how to go back from either.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::RpcReplyPort;
use tokio::{
    sync::{Mutex, OwnedMutexGuard, watch},
    time::{sleep, timeout},
};

use super::{
    Config,
    actor::{State, UNRECORDED},
    loan_actor::refuse,
    loan_saga::{failed, interrupted, not_up},
    pending::Pending,
    restarts_actor::restarts_last_hour,
    restore_saga::{Put, gone},
    saga::{Saga, UNDO_GROWTH_MAX, values},
};
use crate::{
    facts::{Deployment, DeploymentId, Domain, FailureKind, Incarnation, Key, Measurement, Settings, agrees},
    record::{TAKEN_OVER, is_taken_over, wake},
    seams::{Assignment, Errand, Seams, Untried},
};

/// How often it is looked whether a run may go on.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// At each how many looks the restarts of the hour are counted.
const LOOKS_A_COUNT: u32 = 20;

/// Who waits to hear of a run.
type Reply = RpcReplyPort<Result<Option<Measurement>, Untried>>;

/// One run of a validation in place.
struct Run {
    seams: Seams,
    config: Config,
    domain: Domain,
    id: DeploymentId,
    candidate: bool,
    /// Says that the deployment is being brought to its end; closed when the room is gone.
    over: watch::Receiver<bool>,
    /// Whoever touches the service of a deployment that is measured in place holds this.
    hands: Arc<Mutex<()>>,
}

impl State {
    /// Has the old or the new settings of a deployment run in the serving instance, and measured there.
    pub(super) fn alternate(&mut self, id: DeploymentId, candidate: bool, errand: Errand) {
        let open = self.open.get(&id).filter(|(_, stage)| stage.is_before_verdict());
        let domain = open.and_then(|_| self.domain(&errand.domain)).filter(|domain| domain.in_place.is_some());
        let Some(domain) = domain else { return refuse(errand, "it is not on its way any more") };
        wake(&self.exits.begun, domain.name.clone());
        let over = self.alternating.entry(id.clone()).or_insert_with(|| watch::Sender::new(false)).subscribe();
        let (seams, config, hands) = (self.seams.clone(), self.config.clone(), Arc::clone(&self.hands));
        let run = Run { seams, config, domain, id, candidate, over, hands };
        tokio::spawn(async move {
            let Errand { assignment, reply, .. } = errand;
            let ran = run.carry_out(assignment, &reply).await;
            // A validator that is gone measures it again.
            reply.send(ran).ok();
        });
    }

    /// Returns why a deployment is given up whose old values stand in the env file when the room begins: where old and new
    /// settings take turns, the room itself was gone meanwhile.
    pub(super) fn why_old(&self, deployment: &Deployment) -> &'static str {
        let in_place = self.domain(&deployment.promotion.domain).is_some_and(|domain| domain.in_place.is_some());
        if in_place { "the deployer failed while the old settings were measured" } else { UNRECORDED }
    }

    /// Returns when no run of the deployment touches its service any more, and keeps it so for as long as the answer lives.
    pub(super) async fn hold_still(&mut self, id: &DeploymentId) -> Option<OwnedMutexGuard<()>> {
        let over = self.alternating.remove(id)?;
        over.send_replace(true);
        let hands = Arc::clone(&self.hands);
        Some(self.saga().alive_while(hands.lock_owned()).await)
    }
}

impl Run {
    fn saga(&self) -> Saga<'_> {
        Saga { seams: &self.seams, config: &self.config, is_fresh: false }
    }

    async fn carry_out(&self, assignment: Option<Assignment>, reply: &Reply) -> Result<Option<Measurement>, Untried> {
        let Some(assignment) = assignment else {
            self.bring(&Settings::new()).await?;
            return Ok(None);
        };
        self.may_restart(reply).await?;
        let turn = tokio::select! {
            turn = self.seams.bench.turn(&self.domain, &assignment) => turn?,
            why = self.until_over(reply) => return Err(why),
        };
        let measured = self.measure(&assignment, reply).await;
        if self.candidate && matches!(measured, Err(Untried::Failed(_))) {
            // Users do not wait for the next run to have a service that works.
            self.go_back().await?;
        }
        let is_whole = turn.is_whole();
        let measurement = measured?;
        if is_whole { Ok(Some(measurement)) } else { Err(interrupted("somebody else may have measured".to_owned())) }
    }

    /// Waits until the service may be restarted once more within this hour; meanwhile it runs with its old settings.
    async fn may_restart(&self, reply: &Reply) -> Result<(), Untried> {
        let max = self.domain.in_place.as_ref().map_or(u32::MAX, |in_place| in_place.restarts_per_hour_max);
        for looks in 0_u32.. {
            if looks % LOOKS_A_COUNT == 0 {
                let restarts = restarts_last_hour(&self.seams, &self.domain.name).await;
                if restarts.map_err(|error| interrupted(error.to_string()))? < max {
                    break;
                }
            }
            if looks == 0 {
                tracing::info!(deployment = %self.id, max, "service was restarted as often as it may within an hour");
                self.go_back().await?;
            }
            self.may_go_on()?;
            if reply.is_closed() {
                return Err(interrupted("nobody waits for it any more".to_owned()));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn measure(&self, assignment: &Assignment, reply: &Reply) -> Result<Measurement, Untried> {
        let incarnation = self.bring(&assignment.settings).await?;
        let (bench, services) = (&self.seams.bench, &self.seams.services);
        let url = services.address(&self.domain);
        let url =
            url.ok_or_else(|| failed(FailureKind::Infrastructure, "it is not known where it serves".to_owned()))?;
        let limit = Duration::from_secs(self.domain.in_place.as_ref().map_or(0, |in_place| in_place.candidate_max_s));
        let late = |_| failed(FailureKind::TimedOut, format!("not measured within {} s", limit.as_secs()));
        let measured = tokio::select! {
            measured = timeout(limit, bench.measure_serving(&self.domain, assignment, &url)) => measured.map_err(late)?,
            why = self.until_over(reply) => return Err(why),
        };
        let now = services.incarnation(&self.domain).await;
        let now = now.map_err(|error| failed(FailureKind::Died, error.to_string()))?;
        if incarnation.is_some() && now != incarnation {
            return Err(failed(FailureKind::Died, "the service died under load and was started again".to_owned()));
        }
        services.healthy(&self.domain).await.map_err(|error| failed(FailureKind::Died, error.to_string()))?;
        let in_effect = services.in_effect(&self.domain).await.unwrap_or_default();
        Ok(Measurement { in_effect, ..measured? })
    }

    /// Puts the side that is to run into the env file, restarts the service, and returns which run of it that is.
    async fn bring(&self, settings: &Settings) -> Result<Option<Incarnation>, Untried> {
        let _hands = self.hands.lock().await;
        self.may_disturb()?;
        let (saga, services) = (self.saga(), &self.seams.services);
        let _alone = saga.alone(&self.domain).await.map_err(interrupted)?;
        self.may_disturb()?;
        let pending = self.pending().await.map_err(interrupted)?;
        self.turn_to(&pending, self.candidate).await.map_err(interrupted)?;
        saga.alive_while(services.restart(&self.domain)).await.map_err(|error| not_up(&error))?;
        let incarnation = services.incarnation(&self.domain).await.map_err(|error| not_up(&error))?;
        let in_effect = services.in_effect(&self.domain).await;
        let in_effect = in_effect.map_err(|error| failed(FailureKind::NotInEffect, error.to_string()))?;
        agrees(settings, &in_effect).map_err(|why| failed(FailureKind::NotInEffect, why))?;
        Ok(incarnation)
    }

    /// Brings the old settings back. The stop switch is not asked: this is a piece of the undo, which no stop may keep from being
    /// made.
    async fn go_back(&self) -> Result<(), Untried> {
        let _hands = self.hands.lock().await;
        self.may_go_on()?;
        let saga = self.saga();
        let _alone = saga.alone(&self.domain).await.map_err(interrupted)?;
        self.may_go_on()?;
        let pending = self.pending().await.map_err(interrupted)?;
        if self.turn_to(&pending, false).await.map_err(interrupted)? == Put::AsItIs {
            return Ok(());
        }
        // What does not come up with its old settings either is told by the next run.
        saga.alive_while(self.seams.services.restart(&self.domain)).await.map_err(|error| not_up(&error))
    }

    /// Writes one side into the env file, and returns whether it had to.
    async fn turn_to(&self, pending: &Pending, candidate: bool) -> Result<Put, String> {
        let saga = self.saga();
        let restorer = saga.restorer();
        if candidate {
            // The way back of the run before may have used what is set aside for the last one.
            let file = self.seams.env.read(&pending.env_file).await.map_err(|error| error.to_string())?;
            let bytes = file.bytes.len().saturating_add(UNDO_GROWTH_MAX);
            self.seams.env.reserve(&pending.env_file, bytes).await.map_err(|error| error.to_string())?;
        }
        let put = if candidate { restorer.put_in(pending).await? } else { restorer.put_back(pending).await? };
        if put == Put::Gone {
            return Err(gone(pending));
        }
        let file = self.seams.env.read(&pending.env_file).await.map_err(|error| error.to_string())?;
        let current: BTreeMap<Key, Option<String>> = values(&file.bytes, pending.keys.keys())?;
        let edited = pending.keys.iter().find(|(key, held)| {
            let wanted = if candidate { Some(&held.new) } else { held.old.as_ref() };
            current.get(*key).and_then(Option::as_ref) != wanted
        });
        edited.map_or(Ok(put), |(key, _)| Err(format!("{key} was edited by hand")))
    }

    /// Returns what undoes the deployment, which has to lie there for as long as its service is touched.
    async fn pending(&self) -> Result<Pending, String> {
        if is_taken_over(&self.seams, &self.domain.name, &self.id).await {
            return Err(TAKEN_OVER.to_owned());
        }
        let text = self.seams.pending.armed(&self.domain.name).await.map_err(|error| error.to_string())?;
        let pending = text.and_then(|text| Pending::from_text(&text).ok());
        let gone = || "the pending file that would undo it is gone or damaged".to_owned();
        pending.filter(|pending| pending.deployment == self.id).ok_or_else(gone)
    }

    fn may_go_on(&self) -> Result<(), Untried> {
        let is_over = self.over.has_changed().is_err() || *self.over.borrow();
        if is_over { Err(interrupted("the deployment is brought to its end".to_owned())) } else { Ok(()) }
    }

    /// Returns why nothing may be changed: beside what ends a run, a person stopped everything.
    fn may_disturb(&self) -> Result<(), Untried> {
        self.may_go_on()?;
        self.seams.switch.stopped().map_or(Ok(()), |stop| Err(interrupted(stop.to_string())))
    }

    async fn until_over(&self, reply: &Reply) -> Untried {
        loop {
            sleep(LOOK_EVERY).await;
            if let Err(why) = self.may_go_on() {
                return why;
            }
            if reply.is_closed() {
                return interrupted("nobody waits for it any more".to_owned());
            }
        }
    }
}
