//! The running house, as the shell sees it.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock, PoisonError},
    time::Duration,
};

use kloros_supervision::{Branch, Ended, Event, Socket, State, StopTimeout, Tree};
use tokio::sync::broadcast;

use super::{ANSWER_WITHIN, Live, STALL_AFTER, STALL_AFTER_DEPLOYER, Sockets, run_within, scales};
use crate::{
    config::{Catalogue, Config},
    coordinator, curiosity, deployer,
    facts::{
        Answer, Autonomy, CycleId, DeploymentId, Domain, Forgetting, Kind, Origin, Promotion, PromotionId, Proposal,
        Question, Reading, Settings, Verdict, loans, short_hash,
    },
    feedback, gate, memory, observer,
    record::open_deployments,
    seams::{JournalError, Planning, Query, Seams},
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

    /// Stops every room in order, and says in the log who had to be killed.
    pub async fn stop(&self, within: Duration) -> Result<(), StopTimeout> {
        if let Some(tree) = self.tree.get() {
            let stopped = tree.stop(within).await?;
            if !stopped.killed.is_empty() {
                tracing::warn!(rooms = ?stopped.killed, "rooms did not stop in their own time and were killed");
            }
        }
        Ok(())
    }

    /// Kills one room, which its supervisor then starts again.
    pub fn kill(&self, room: &str) -> Result<(), ControlError> {
        let tree = self.tree.get().ok_or_else(|| ControlError::Silent("the house is being started".to_owned()))?;
        tree.kill(room).map_err(|error| ControlError::Refused(error.to_string()))
    }

    /// Returns the way to the conversation memory.
    pub fn voice(&self) -> memory::Voice {
        memory::Voice::new(self.sockets.memory.clone())
    }

    /// Forgets what is remembered of conversations, and returns how many events that were; `None` where there is no such conversation.
    pub async fn forget(&self, what: Forgetting) -> Result<Option<u64>, ControlError> {
        let forgotten = self.voice().forget(what, FORGOTTEN_WITHIN).await;
        forgotten.map_err(|silent| ControlError::Silent(silent.to_string()))
    }

    /// Hands readings to the observer that nobody here took.
    pub fn sense(&self, readings: Vec<Reading>) -> Result<(), ControlError> {
        let sent = self.sockets.observer.send(observer::Msg::Read(readings));
        sent.map_err(|down| ControlError::Silent(down.to_string()))
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

    /// Begins to measure the service of `domain` against itself, and returns how many runs that takes at least.
    pub async fn calibrate(&self, domain: &str) -> Result<u32, ControlError> {
        let make = |reply| validator::Msg::Calibrate(domain.to_owned(), Some(reply));
        let answer = self.sockets.validator.call(make, ANSWER_WITHIN).await;
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

    /// Returns the settings that are in force.
    pub fn config(&self) -> Config {
        self.live.of(Config::clone)
    }

    /// Returns the domains and experiments that are in force.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.live.catalogue()
    }

    /// Sends a heartbeat through the mailbox of every vital room, and returns the rooms that did not send it back `within` this time,
    /// although they are up and not at work on something that they may be at work on for so long.
    pub async fn silent(&self, within: Duration) -> Vec<&'static str> {
        let Sockets { observer, curiosity, coordinator, gate, deployer, validator, feedback, .. } = &self.sockets;
        let beats = tokio::join!(
            observer.call(observer::Msg::Pulse, within),
            curiosity.call(curiosity::Msg::Pulse, within),
            coordinator.call(coordinator::Msg::Pulse, within),
            gate.call(gate::Msg::Pulse, within),
            deployer.call(deployer::Msg::Pulse, within),
            validator.call(validator::Msg::Pulse, within),
            feedback.call(feedback::Msg::Pulse, within),
        );
        let came = [
            beats.0.is_ok(),
            beats.1.is_ok(),
            beats.2.is_ok(),
            beats.3.is_ok(),
            beats.4.is_ok(),
            beats.5.is_ok(),
            beats.6.is_ok(),
        ];
        let house = self.snapshot();
        let missing = VITAL.iter().zip(came).filter(|(_, came)| !came);
        let silent = missing.filter(|((path, may_take), _)| {
            let branch = house.as_ref().and_then(|house| house.find(path));
            branch.is_none_or(|branch| is_silent(branch, *may_take, within))
        });
        silent.map(|((path, _), _)| *path).collect()
    }

    /// Returns the domains that run with what is not proven: a change of theirs is not judged yet, or they are lent to an experiment.
    pub async fn unproven(&self) -> Result<BTreeSet<String>, ControlError> {
        let silent = |error: JournalError| ControlError::Silent(error.to_string());
        let open = open_deployments(&self.seams).await.map_err(silent)?;
        let unproven = open.into_iter().filter(|(_, stage)| stage.is_before_verdict());
        let query = Query::open(&[Kind::Loan, Kind::LoanStep]);
        let history = self.seams.journal.read(query).await.map_err(silent)?;
        let lent = loans(history.into_iter().map(|recorded| recorded.fact)).into_iter().filter(|(_, is_open)| *is_open);
        let domains = unproven.map(|(deployment, _)| deployment.promotion.domain);
        Ok(domains.chain(lent.map(|(loan, _)| loan.domain)).collect())
    }

    /// Puts new settings, domains and experiments into force: rooms that are up hear of what concerns them, rooms that start
    /// later begin with it. What is under way goes on as it began: an experiment with its search space and budget, a
    /// validation with its rules.
    pub fn reconfigure(&self, config: &Config, catalogue: &Arc<Catalogue>) {
        let mut live = self.live.0.write().unwrap_or_else(PoisonError::into_inner);
        let (old, before) = std::mem::replace(&mut *live, (config.clone(), Arc::clone(catalogue)));
        drop(live);
        let Sockets { observer, curiosity, coordinator, gate, deployer, validator, feedback, memory } = &self.sockets;
        let told = Told { old: &old, new: config };
        told.to(observer, |all| all.observer.clone(), observer::Msg::Reconfigured);
        told.to(curiosity, |all| all.curiosity.clone(), curiosity::Msg::Reconfigured);
        let resting = |all: &Config| all.curiosity.rest_s;
        told.to(
            coordinator,
            |all| (all.coordinator.clone(), resting(all)),
            |(config, rest_s)| coordinator::Msg::Reconfigured(config, rest_s),
        );
        told.to(
            gate,
            |all| (all.gate.clone(), resting(all), scales(all)),
            |(config, rest_s, scales)| gate::Msg::Reconfigured(config, rest_s, scales),
        );
        told.to(
            deployer,
            |all| (all.deployer.clone(), resting(all)),
            |(config, rest_s)| deployer::Msg::Reconfigured(config, rest_s),
        );
        told.to(
            validator,
            |all| (all.validator.clone(), run_within(all)),
            |(config, run_within)| validator::Msg::Reconfigured(config, run_within),
        );
        told.to(feedback, |all| all.feedback.clone(), feedback::Msg::Reconfigured);
        told.to(memory, |all| all.memory.clone(), memory::Msg::Reconfigured);
        if before != *catalogue {
            send(observer, observer::Msg::Catalogued(Arc::clone(catalogue)));
            send(curiosity, curiosity::Msg::Catalogued(Arc::clone(catalogue)));
            send(coordinator, coordinator::Msg::Catalogued(Arc::clone(catalogue)));
            send(gate, gate::Msg::Catalogued(Arc::clone(catalogue)));
            send(deployer, deployer::Msg::Catalogued(Arc::clone(catalogue)));
            send(validator, validator::Msg::Catalogued(Arc::clone(catalogue)));
        }
    }
}

/// How long forgetting may take: there may be much of it, and somebody may read the file.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(60);

/// The rooms without which the loop does not turn, in the order in which their heartbeats are sent, and how long each may work on one
/// message.
const VITAL: [(&str, Duration); 7] = [
    ("senses/observer", STALL_AFTER),
    ("mind/curiosity", STALL_AFTER),
    ("mind/coordinator", STALL_AFTER),
    ("hands/gate", STALL_AFTER),
    ("hands/deployer", STALL_AFTER_DEPLOYER),
    ("hands/validator", STALL_AFTER),
    ("mind/feedback", STALL_AFTER),
];

/// How much longer than a room may work it is believed that its supervisor is about to replace it.
const REPLACED_WITHIN: Duration = Duration::from_secs(10);

/// Returns whether a room that did not send a heartbeat back is one that nobody cares for: its supervisor starts what failed
/// and replaces what works for too long.
fn is_silent(branch: &Branch, may_take: Duration, within: Duration) -> bool {
    match branch.state {
        State::Starting | State::Restarting { .. } => false,
        State::Stopped => true,
        // The heartbeat was sent to the one before it.
        State::Running if branch.uptime.is_some_and(|up| up <= within) => false,
        State::Running => branch.silent_for.is_none_or(|silent| silent > may_take + REPLACED_WITHIN),
    }
}

/// The settings before and after a change.
struct Told<'a> {
    old: &'a Config,
    new: &'a Config,
}

impl Told<'_> {
    /// Tells a room its part of the settings, if that is another one.
    fn to<C: PartialEq, M: ractor::Message>(
        &self,
        socket: &Socket<M>,
        pick: impl Fn(&Config) -> C,
        wrap: impl FnOnce(C) -> M,
    ) {
        let new = pick(self.new);
        if pick(self.old) != new {
            send(socket, wrap(new));
        }
    }
}

fn send<M: ractor::Message>(socket: &Socket<M>, message: M) {
    // A room that is down starts with the new settings anyway.
    if let Err(down) = socket.send(message) {
        tracing::debug!(%down, "room starts with its new settings");
    }
}

#[cfg(test)]
mod tests {
    use kloros_supervision::Kind;

    use super::*;

    #[test]
    fn a_room_is_silent_when_it_is_up_and_neither_answers_nor_works_within_its_time() {
        let (limit, second) = (STALL_AFTER, Duration::from_secs(1));
        let table = [
            (State::Running, None, true),
            (State::Running, Some(second), false),
            (State::Running, Some(limit + REPLACED_WITHIN), false),
            (State::Running, Some(limit + REPLACED_WITHIN + second), true),
            (State::Starting, Some(second), false),
            (State::Restarting { due_in: second }, None, false),
            (State::Stopped, None, true),
        ];
        let cases = table.map(|(state, silent_for, expected)| (state, silent_for, None, expected));
        let fresh = (State::Running, None, Some(second), false);
        for (state, silent_for, uptime, expected) in cases.into_iter().chain([fresh]) {
            let branch = Branch {
                id: "gate".to_owned(),
                path: "hands/gate".to_owned(),
                kind: Kind::Actor,
                state,
                generation: 1,
                restarts: 0,
                last_failure: None,
                uptime,
                handled: 0,
                lost: 0,
                leaked: 0,
                depth: 1,
                busy_for: silent_for,
                silent_for,
                busy_with: None,
                busy_ratio: 0.0,
                children: Vec::new(),
            };
            assert_eq!(is_silent(&branch, limit, second), expected, "{:?} {silent_for:?}", branch.state);
        }
    }
}
