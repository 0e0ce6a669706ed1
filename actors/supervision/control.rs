//! What can be asked of one running supervisor: OTP's administration of children.

use std::time::Duration;

use ractor::ActorCell;
use tokio::sync::oneshot;

use crate::branch::Kind;
use crate::socket::{Down, Socket};
use crate::spec::{ChildSpec, Flags, Rules, TreeSpec};
use crate::supervisor::Msg;
use crate::tree::StartError;

/// The handle of one supervisor, which outlives its restarts; see [`Tree::control`](crate::Tree::control) and
/// [`Nursery::control`](crate::Nursery::control).
///
/// A supervisor never waits for a child before it answers the next question. What is changed here lasts until the supervisor
/// itself is started again: then it begins from its spec, as in OTP.
#[derive(Clone, Debug)]
pub struct Control {
    socket: Socket<Msg>,
}

/// A child that was started by hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Started {
    /// Its id.
    pub id: String,
    /// The actor; nothing if the start was [ignored](crate::Ignore).
    pub actor: Option<ActorCell>,
    /// What its `pre_start` handed over with [`start_info`](crate::start_info).
    pub info: Option<String>,
}

/// One child of a supervisor, as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// How it stands.
    pub presence: Presence,
}

/// Whether a child is there.
#[derive(Clone, Debug, PartialEq)]
pub enum Presence {
    /// It is up, or on its way down.
    Up(ActorCell),
    /// Its first start, or one that was asked for, is under way.
    Starting,
    /// It failed and is to come up again.
    Restarting,
    /// It is known, and down.
    Down,
}

/// How many children a supervisor has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many are known.
    pub specs: usize,
    /// How many are up.
    pub active: usize,
    /// How many of the known ones are supervisors.
    pub supervisors: usize,
    /// How many of the known ones are actors.
    pub workers: usize,
}

/// Why a child was not administrated as asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// There is no such child.
    #[error("{supervisor} has no child named {id}")]
    NotFound {
        /// Who was asked.
        supervisor: String,
        /// The id as given.
        id: String,
    },
    /// That needs a child that is down.
    #[error("{id} is running")]
    Running {
        /// Which child.
        id: String,
    },
    /// That needs a child that is down and stays so.
    #[error("{id} is being started")]
    Restarting {
        /// Which child.
        id: String,
    },
    /// A nursery keeps no child that is down.
    #[error("{supervisor} keeps no child that is down, so none can be restarted or deleted")]
    Dynamic {
        /// Which nursery.
        supervisor: String,
    },
    /// The child did not come up, and is down as before.
    #[error("{id} did not start: {reason}")]
    NotStarted {
        /// Which child.
        id: String,
        /// Its error, or its panic's message.
        reason: String,
    },
    /// The supervisor is not there.
    #[error(transparent)]
    Down(#[from] Down),
}

pub(crate) type Reply<T> = oneshot::Sender<T>;

impl Control {
    pub(crate) fn of(socket: Socket<Msg>) -> Self {
        Control { socket }
    }

    /// Starts a further child after those that are there, and returns when it is up.
    ///
    /// One that does not come up is forgotten again, and costs nobody else anything. It comes up also when the caller stops
    /// waiting.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<Started, StartError> {
        let ask = |reply| Msg::Add { spec: Box::new(spec), reply };
        self.ask(ask).await?
    }

    /// Stops a child as its spec says, and returns when it is down. Its spec is kept, unless it is temporary.
    ///
    /// A restart that it waits for is called off. A child that is down already is fine.
    pub async fn terminate_child(&self, id: &str) -> Result<(), ChildError> {
        let id = id.to_owned();
        self.ask(|reply| Msg::Terminate { id, reply }).await?
    }

    /// Starts a child that is down, and returns when it is up. If it does not come up, it stays down.
    pub async fn restart_child(&self, id: &str) -> Result<Started, ChildError> {
        let id = id.to_owned();
        self.ask(|reply| Msg::Restart { id, reply }).await?
    }

    /// Forgets a child that is down.
    pub async fn delete_child(&self, id: &str) -> Result<(), ChildError> {
        let id = id.to_owned();
        self.ask(|reply| Msg::Delete { id, reply }).await?
    }

    /// Returns the children in starting order.
    pub async fn which_children(&self) -> Result<Vec<Child>, Down> {
        self.ask(|reply| Msg::Which { reply }).await
    }

    /// Returns how many children there are.
    pub async fn count_children(&self) -> Result<Count, Down> {
        self.ask(|reply| Msg::Count { reply }).await
    }

    /// Returns how a child is treated, with every default filled in.
    pub async fn child_rules(&self, id: &str) -> Result<Rules, ChildError> {
        let id = id.to_owned();
        self.ask(|reply| Msg::Rules { id, reply }).await?
    }

    /// Returns what holds for all children.
    pub async fn flags(&self) -> Result<Flags, Down> {
        self.ask(|reply| Msg::Flags { reply }).await
    }

    /// Makes the supervisor what `spec` says, all of it or nothing.
    ///
    /// Children that are in both keep running, with their new rules and, from their next start on, made in the new way. What
    /// the last spec named and this one does not is stopped and forgotten; then what this one names first is started.
    /// Children that were added by hand, and those of a nursery, stay. From now on the children start in the order of the spec,
    /// and those that it does not name after them, as in OTP. Returns when all that is done, with the first start that failed;
    /// it is done also when the caller stops waiting. A change that comes while an earlier one is still being made takes its
    /// place: what the earlier one was yet to start is started if this one names it too. OTP keeps all children that are
    /// there: there the new spec is code that was loaded, here it is what an operator wrote down.
    pub async fn reconfigure(&self, spec: TreeSpec) -> Result<(), StartError> {
        spec.check()?;
        let pending = self.ask(|reply| Msg::Reconfigure { spec: Box::new(spec), reply }).await??;
        // Where it does not come the supervisor has ended, and all below it is gone.
        let _ = pending.cleared.await;
        let mut outcome = Ok(());
        for started in pending.started {
            let started = started.await.unwrap_or_else(|_| Err(self.absent().into()));
            outcome = outcome.and(started.map(drop));
        }
        outcome
    }

    /// Waits until the supervisor has answered, which it does between two decisions: for a watchdog.
    pub async fn ping(&self, within: Duration) -> Result<(), Down> {
        let answered = tokio::time::timeout(within, self.ask(|reply| Msg::Ping { reply })).await;
        answered.unwrap_or_else(|_| Err(self.absent()))
    }

    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Msg) -> Result<T, Down> {
        let (reply, answer) = oneshot::channel();
        self.socket.send(make(reply))?;
        answer.await.map_err(|_| self.absent())
    }

    fn absent(&self) -> Down {
        Down::Absent { room: self.socket.id().to_owned() }
    }
}

/// What comes when a child is gone.
pub(crate) type Gone = oneshot::Receiver<Result<(), ChildError>>;

/// What a change of a supervisor still waits for.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Comes when those are gone whom it left out.
    pub(crate) cleared: oneshot::Receiver<()>,
    pub(crate) started: Vec<oneshot::Receiver<Result<Started, StartError>>>,
}
