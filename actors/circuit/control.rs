//! The running house, as the shell sees it.

use std::{
    sync::{Arc, OnceLock, PoisonError},
    time::Duration,
};

use kloros_supervision::{Branch, Ended, Event, Socket, StopTimeout, Tree};
use tokio::sync::broadcast;

use super::{ANSWER_WITHIN, Live, Sockets};
use crate::{
    config::Config,
    coordinator, curiosity, deployer,
    facts::{
        Answer, Autonomy, CycleId, DeploymentId, Domain, Origin, Promotion, PromotionId, Proposal, Question, Settings,
        Verdict, short_hash,
    },
    feedback, gate, memory, observer,
    seams::{Planning, Seams},
    validator,
};

/// The running house, as the shell sees it.
#[derive(Clone)]
pub struct Control {
    pub(super) tree: Arc<OnceLock<Tree>>,
    pub(super) sockets: Sockets,
    pub(super) seams: Seams,
    pub(super) live: Live,
}

/// What a person or the inbox asks for and cannot have.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The room that could do it is down or did not answer.
    #[error("the room did not answer: {0}")]
    Silent(String),
    /// It may not or cannot be done, for this reason.
    #[error("{0}")]
    Refused(String),
}

impl Control {
    /// Returns the tree as it stands now; `None` while the house is still being started.
    pub fn snapshot(&self) -> Option<Branch> {
        self.tree.get().map(Tree::snapshot)
    }

    /// Returns what happens in the tree from now on; `None` while the house is still being started.
    pub fn events(&self) -> Option<broadcast::Receiver<Event>> {
        self.tree.get().map(Tree::events)
    }

    /// Waits until the root has ended, and returns how; for ever while the house is still being started.
    pub async fn ended(&self) -> Ended {
        match self.tree.get() {
            Some(tree) => tree.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Stops every room in order.
    pub async fn stop(&self, within: Duration) -> Result<(), StopTimeout> {
        match self.tree.get() {
            Some(tree) => tree.stop(within).await,
            None => Ok(()),
        }
    }

    /// Kills one room, which its supervisor then starts again.
    pub fn kill(&self, room: &str) -> Result<(), ControlError> {
        let tree = self.tree.get().ok_or_else(|| ControlError::Silent("the house is being started".to_owned()))?;
        tree.kill(room).map_err(|error| ControlError::Refused(error.to_string()))
    }

    /// Hands a question to the coordinator, and returns when it is durable: from then on the journal remembers it.
    pub async fn hand(&self, question: Question) -> Result<(), ControlError> {
        let make = |reply| coordinator::Msg::Handed(question, reply);
        let answer = self.sockets.coordinator.call(make, ANSWER_WITHIN).await;
        answer.map_err(|error| ControlError::Silent(error.to_string()))
    }

    /// Proposes settings, and returns when the change that they amount to is durable, or why there is none.
    pub async fn offer(&self, proposal: Proposal) -> Result<Promotion, ControlError> {
        let make = |reply| coordinator::Msg::Tried(Planning { proposal, reply: Some(reply) });
        let answer = self.sockets.coordinator.call(make, ANSWER_WITHIN).await;
        let silent = |error| ControlError::Silent(format!("{error}; what was proposed may still be: kloros status"));
        answer.map_err(silent)?.map_err(ControlError::Refused)
    }

    /// Proposes settings in a person's name, and returns the change that they amount to.
    pub async fn propose(&self, domain: &str, settings: Settings, uid: u32) -> Result<Promotion, ControlError> {
        let now_ms = self.seams.clock.now_ms();
        let proposal = Proposal {
            // Two people may try different things in the same millisecond: what is tried is part of the name.
            cycle: CycleId::new(format!("c-{}", short_hash(&["try", domain, &format!("{now_ms} {settings:?}")]))),
            origin: Origin::Person(uid),
            experiment: "try".to_owned(),
            question: None,
            hypothesis: None,
            domain: domain.to_owned(),
            settings,
            fitness: None,
            at_ms: now_ms,
            depth: 0,
        };
        self.offer(proposal).await
    }

    /// Returns what waits for a person.
    pub async fn waiting(&self) -> Result<Vec<gate::Waiting>, ControlError> {
        let answer = self.sockets.gate.call(gate::Msg::Asked, ANSWER_WITHIN).await;
        answer.map_err(|error| ControlError::Silent(error.to_string()))
    }

    /// Returns all that holds promotions back.
    pub async fn standing(&self) -> Result<gate::Standing, ControlError> {
        let answer = self.sockets.gate.call(gate::Msg::Looked, ANSWER_WITHIN).await;
        answer.map_err(|error| ControlError::Silent(error.to_string()))
    }

    /// Lets a domain that was frozen after too many rollbacks go on, for the person `uid`.
    pub async fn thaw(&self, domain: &str, uid: u32) -> Result<(), ControlError> {
        let domain = domain.to_owned();
        let answer = self.sockets.gate.call(|reply| gate::Msg::Thawed(domain, uid, reply), ANSWER_WITHIN).await;
        answer.map_err(|error| ControlError::Silent(error.to_string()))?.map_err(ControlError::Refused)
    }

    /// Returns the level in force in `domain`, the ceiling of the settings, and why the two differ where they do.
    pub async fn level(&self, domain: &Domain) -> (Autonomy, Autonomy, Option<String>) {
        let ceiling = self.live.of(|config| config.gate.autonomy);
        let (level, why) = gate::level_of(&*self.seams.env, domain, ceiling).await;
        (level, ceiling, why)
    }

    /// Answers for the person `uid` what waits under `promotion`; a yes is bound to the `binding` that was shown.
    pub async fn answer(
        &self,
        promotion: PromotionId,
        approved: bool,
        uid: u32,
        why: Option<String>,
        binding: String,
    ) -> Result<Promotion, ControlError> {
        let answer = Answer { promotion, approved, by_uid: Some(uid), why, binding };
        let make = |reply| gate::Msg::Answered(answer, reply);
        let answer = self.sockets.gate.call(make, ANSWER_WITHIN).await;
        answer.map_err(|error| ControlError::Silent(error.to_string()))?.map_err(ControlError::Refused)
    }

    /// Undoes for the person `uid` a deployment that was not judged yet.
    pub async fn recall(&self, deployment: DeploymentId, uid: u32) -> Result<Verdict, ControlError> {
        let make = |reply| deployer::Msg::Recalled(deployment, uid, reply);
        let answer = self.sockets.deployer.call(make, ANSWER_WITHIN).await;
        answer.map_err(|error| ControlError::Silent(error.to_string()))?.map_err(ControlError::Refused)
    }

    /// Puts `new` settings into force: rooms that are up hear of theirs, rooms that start later begin with them.
    pub fn reconfigure(&self, new: &Config) {
        let old = std::mem::replace(&mut *self.live.0.write().unwrap_or_else(PoisonError::into_inner), new.clone());
        let Sockets { observer, curiosity, coordinator, gate, deployer, validator, feedback, memory } = &self.sockets;
        tell(observer, &old.observer, &new.observer, observer::Msg::Reconfigured);
        tell(curiosity, &old.curiosity, &new.curiosity, curiosity::Msg::Reconfigured);
        tell(coordinator, &old.coordinator, &new.coordinator, coordinator::Msg::Reconfigured);
        tell(gate, &old.gate, &new.gate, gate::Msg::Reconfigured);
        tell(deployer, &old.deployer, &new.deployer, deployer::Msg::Reconfigured);
        tell(validator, &old.validator, &new.validator, validator::Msg::Reconfigured);
        tell(feedback, &old.feedback, &new.feedback, feedback::Msg::Reconfigured);
        tell(memory, &old.memory, &new.memory, memory::Msg::Reconfigured);
    }
}

fn tell<C: Clone + PartialEq, M: ractor::Message>(socket: &Socket<M>, old: &C, new: &C, wrap: impl FnOnce(C) -> M) {
    if old == new {
        return;
    }
    // A room that is down starts with the new settings anyway.
    if let Err(down) = socket.send(wrap(new.clone())) {
        tracing::debug!(%down, "room starts with its new settings");
    }
}
