//! Where the current generation of an actor is plugged in: an address that outlives restarts.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ractor::{ActorRef, Message, RpcReplyPort};

use crate::outlet::Outlet;
use crate::vitals::Vitals;

/// How many messages may wait for one actor, unless its socket says otherwise.
pub const IN_FLIGHT_MAX_DEFAULT: usize = 10_000;

/// The address of an actor, made before the actor and valid across its restarts.
///
/// Messages that wait in an actor that fails or is stopped are lost with it, and nothing is kept for an actor that is down.
pub struct Socket<M> {
    inner: Arc<Inner<M>>,
}

struct Inner<M> {
    id: Arc<str>,
    in_flight_max: usize,
    plug: RwLock<Option<Plug<M>>>,
}

struct Plug<M> {
    actor: ActorRef<M>,
    vitals: Arc<Vitals>,
}

impl<M> Socket<M> {
    /// Returns an empty socket that lets [`IN_FLIGHT_MAX_DEFAULT`] messages wait. `id` is how errors name the room.
    pub fn new(id: &str) -> Self {
        Socket::bounded(id, IN_FLIGHT_MAX_DEFAULT)
    }

    /// Returns an empty socket that lets at most `in_flight_max` messages wait.
    pub fn bounded(id: &str, in_flight_max: usize) -> Self {
        Socket { inner: Arc::new(Inner { id: id.into(), in_flight_max, plug: RwLock::new(None) }) }
    }

    /// Returns how errors name the room.
    pub fn id(&self) -> &str {
        &self.inner.id
    }
}

impl<M: Message> Socket<M> {
    /// Returns an outlet that leads here; `wrap` makes the room's message from what flows.
    pub fn outlet<T>(&self, wrap: impl Fn(T) -> M + Send + Sync + 'static) -> Outlet<T> {
        let socket = self.clone();
        Outlet::new(Arc::clone(&self.inner.id), move |item| socket.send(wrap(item)))
    }

    /// Returns the actor that is plugged in now.
    ///
    /// What is sent to it directly is not counted as waiting, and goes nowhere once it is restarted.
    pub fn actor(&self) -> Option<ActorRef<M>> {
        let plug = self.inner.plug.read().unwrap_or_else(PoisonError::into_inner);
        plug.as_ref().filter(|plug| !plug.vitals.is_retired()).map(|plug| plug.actor.clone())
    }

    /// Sends to whoever is plugged in now; refuses when nobody is, or when too many messages wait.
    pub fn send(&self, message: M) -> Result<(), Down> {
        let plug = self.inner.plug.read().unwrap_or_else(PoisonError::into_inner);
        let Some(plug) = plug.as_ref().filter(|plug| !plug.vitals.is_retired()) else {
            return Err(self.absent());
        };
        if !plug.vitals.enqueue(self.inner.in_flight_max) {
            let room = self.id().to_owned();
            return Err(Down::Full { room, in_flight_max: self.inner.in_flight_max });
        }
        plug.actor.send_message(message).map_err(|_| {
            plug.vitals.dequeue();
            self.absent()
        })
    }

    /// Asks whoever is plugged in now and waits for the answer.
    ///
    /// A call that runs into its limit leaves the room at work: it answers into the void later.
    pub async fn call<R: Send + 'static>(
        &self,
        make: impl FnOnce(RpcReplyPort<R>) -> M,
        within: Duration,
    ) -> Result<R, CallError> {
        let (sender, receiver) = ractor::concurrency::oneshot();
        self.send(make((sender, within).into()))?;
        match tokio::time::timeout(within, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(CallError::Dropped { room: self.id().to_owned() }),
            Err(_) => Err(CallError::Timeout { room: self.id().to_owned(), within }),
        }
    }

    /// Plugs an incarnation in, unless it was given up: then a newer one may be here already.
    pub(crate) fn plug(&self, actor: ActorRef<M>, vitals: Arc<Vitals>) {
        if vitals.is_retired() {
            return;
        }
        *self.inner.plug.write().unwrap_or_else(PoisonError::into_inner) = Some(Plug { actor, vitals });
    }

    fn absent(&self) -> Down {
        Down::Absent { room: self.id().to_owned() }
    }
}

impl<M> Clone for Socket<M> {
    fn clone(&self) -> Self {
        Socket { inner: Arc::clone(&self.inner) }
    }
}

impl<M> fmt::Debug for Socket<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Socket").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

/// Why a message was not taken. It is lost; what it told of is durable elsewhere, so it may be ignored on purpose.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    /// Nobody is plugged in: not started yet, restarting, or stopped.
    #[error("{room} is not there")]
    Absent {
        /// Whose socket is empty.
        room: String,
    },
    /// The room does not keep up.
    #[error("{room} has {in_flight_max} messages waiting and takes no more")]
    Full {
        /// Whose mailbox is full.
        room: String,
        /// How many may wait.
        in_flight_max: usize,
    },
}

impl Down {
    /// Returns the name of the room that did not take the message.
    pub fn room(&self) -> &str {
        match self {
            Down::Absent { room } | Down::Full { room, .. } => room,
        }
    }
}

/// Why a call got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The question was not taken.
    #[error(transparent)]
    Down(#[from] Down),
    /// The room did not answer in time.
    #[error("{room} did not answer within {within:?}")]
    Timeout {
        /// Who was asked.
        room: String,
        /// How long the caller waited.
        within: Duration,
    },
    /// The room ended, or dropped the question.
    #[error("{room} dropped the question")]
    Dropped {
        /// Who was asked.
        room: String,
    },
}
