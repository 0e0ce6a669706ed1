//! Where the current generation of an actor is plugged in: an address that outlives restarts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ractor::{ActorRef, Message, MessagingErr, RpcReplyPort};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::outlet::{Delivery, Outlet, Way};
use crate::vitals::Vitals;

mod call;

mod mailbox;

pub use call::CallError;
pub(crate) use mailbox::Suspicion;
pub use mailbox::{IN_FLIGHT_MAX_DEFAULT, Mailbox, Poison, WhenFull};

use mailbox::{Newest, Quarantine};

/// The address of an actor, made before the actor and valid across its restarts.
///
/// Messages that wait in an actor that fails or is stopped are lost with it, which an event
/// [tells](crate::EventKind::Lost); nothing is kept for an actor that is down.
pub struct Socket<M> {
    inner: Arc<Inner<M>>,
}

struct Inner<M> {
    id: Arc<str>,
    in_flight_max: usize,
    name: Option<fn(&M) -> &'static str>,
    quarantine: Option<Box<Quarantine<M>>>,
    newest: Option<Box<Newest<M>>>,
    plug: ArcSwapOption<Plug<M>>,
    /// How many senders wait for the mailbox to take more.
    senders: AtomicUsize,
    made_room: Notify,
}

struct Plug<M> {
    actor: ActorRef<M>,
    vitals: Arc<Vitals>,
}

impl<M> Socket<M> {
    /// Returns an empty socket that lets [`IN_FLIGHT_MAX_DEFAULT`] messages wait. `id` is how errors name the room.
    pub fn new(id: &str) -> Self {
        Socket::with(id, Mailbox::default())
    }

    /// Returns an empty socket that lets at most `in_flight_max` messages wait.
    pub fn bounded(id: &str, in_flight_max: usize) -> Self {
        Socket::with(id, Mailbox { in_flight_max, ..Mailbox::default() })
    }

    /// Returns an empty socket in front of such a mailbox.
    pub fn with(id: &str, mailbox: Mailbox<M>) -> Self {
        let inner = Inner {
            id: id.into(),
            in_flight_max: mailbox.in_flight_max,
            name: mailbox.name,
            quarantine: mailbox.poison.map(|poison| Box::new(Quarantine::new(poison))),
            newest: (mailbox.when_full == WhenFull::Coalesce).then(Box::default),
            plug: ArcSwapOption::empty(),
            senders: AtomicUsize::new(0),
            made_room: Notify::new(),
        };
        Socket { inner: Arc::new(inner) }
    }

    pub(crate) fn is_the_same_as(&self, other: &Socket<M>) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Returns how errors name the room.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    pub(crate) fn shared_id(&self) -> Arc<str> {
        Arc::clone(&self.inner.id)
    }

    /// Returns what stands for `message` in a report.
    pub(crate) fn kind_of(&self, message: &M) -> &'static str {
        self.inner.name.map_or_else(std::any::type_name::<M>, |name| name(message))
    }

    fn absent(&self) -> Down {
        Down::Absent { room: self.id().to_owned() }
    }

    fn full(&self) -> Down {
        Down::Full { room: self.id().to_owned(), in_flight_max: self.inner.in_flight_max }
    }
}

impl<M: Message> Socket<M> {
    /// Returns an outlet that leads here; `wrap` makes the room's message from what flows.
    pub fn outlet<T: Send + 'static>(&self, wrap: impl Fn(T) -> M + Send + Sync + 'static) -> Outlet<T> {
        Outlet::new(Here { socket: self.clone(), wrap })
    }

    /// Returns the actor that is plugged in now.
    ///
    /// What is sent to it directly is not counted as waiting, and goes nowhere once it is restarted.
    pub fn actor(&self) -> Option<ActorRef<M>> {
        let plug = self.inner.plug.load();
        plug.as_ref().filter(|plug| !plug.vitals.is_retired()).map(|plug| plug.actor.clone())
    }

    /// Sends to whoever is plugged in now; refuses when nobody is, and does as the [`Mailbox`] says when too many messages
    /// wait.
    pub fn send(&self, message: M) -> Result<(), Down> {
        let Some(newest) = &self.inner.newest else {
            return self.offer(message).map_err(|refusal| match refusal {
                Refusal::Down(down, _) => down,
                Refusal::Full(_) => self.full(),
            });
        };
        let mut kept = newest.lock();
        let (outcome, replaced) = if kept.is_some() && self.is_plugged_in() {
            (Ok(()), kept.replace(message))
        } else {
            match self.offer(message) {
                Ok(()) => (Ok(()), None),
                Err(Refusal::Down(down, message)) => (Err(down), message),
                Err(Refusal::Full(message)) => (Ok(()), kept.replace(message)),
            }
        };
        // A message may have been taken meanwhile, and then nobody else comes for the one that is kept.
        let refused = self.forward(&mut kept);
        drop(kept);
        // Only now, because what goes with a message may send one.
        drop((replaced, refused));
        outcome
    }

    fn is_plugged_in(&self) -> bool {
        self.inner.plug.load().as_ref().is_some_and(|plug| !plug.vitals.is_retired())
    }

    /// Sends to whoever is plugged in now, and waits for at most this long while too many messages wait.
    ///
    /// Who is not there refuses at once.
    pub async fn send_within(&self, message: M, within: Duration) -> Result<(), Down> {
        let deadline = Instant::now().checked_add(within);
        let mut message = message;
        self.inner.senders.fetch_add(1, Ordering::SeqCst);
        let _waiting = Leaving(&self.inner.senders);
        loop {
            let made_room = self.inner.made_room.notified();
            let actor = self.inner.plug.load().as_ref().map(|plug| Arc::clone(&plug.vitals));
            message = match self.offer(message) {
                Ok(()) => return Ok(()),
                Err(Refusal::Down(down, _)) => return Err(down),
                Err(Refusal::Full(message)) => message,
            };
            let retired = async {
                match &actor {
                    Some(vitals) => vitals.retired().await,
                    None => std::future::pending().await,
                }
            };
            let too_late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = made_room => {}
                () = retired => {}
                () = too_late => return Err(self.full()),
            }
        }
    }

    /// Asks whoever is plugged in now and waits for the answer. Where too many wait already it is refused, also where the
    /// [`Mailbox`] would keep the newest message.
    ///
    /// A call that runs into its limit, or is dropped, leaves the room at work. It answers into the void later, which is no
    /// error: `reply.send(answer)?` never fails for a caller that went away.
    pub async fn call<R: Send + 'static>(
        &self,
        make: impl FnOnce(RpcReplyPort<R>) -> M,
        within: Duration,
    ) -> Result<R, CallError> {
        let (sender, mut answer) = call::channel();
        // A question is never kept as the newest: it would take the place of a fact, or the next fact its place.
        self.offer(make((sender, within).into())).map_err(|refusal| match refusal {
            Refusal::Down(down, _) => down,
            Refusal::Full(_) => self.full(),
        })?;
        match tokio::time::timeout(within, answer.arrives()).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(CallError::Dropped { room: self.id().to_owned() }),
            Err(_) => Err(CallError::Timeout { room: self.id().to_owned(), within }),
        }
    }

    fn offer(&self, message: M) -> Result<(), Refusal<M>> {
        if let Some(kills) = self.inner.quarantine.as_ref().and_then(|quarantine| quarantine.kills(&message)) {
            let (room, kind) = (self.id().to_owned(), self.kind_of(&message));
            return Err(Refusal::Down(Down::SetAside { room, kind, kills }, Some(message)));
        }
        let plug = self.inner.plug.load();
        let Some(plug) = plug.as_ref().filter(|plug| !plug.vitals.is_retired()) else {
            return Err(Refusal::Down(self.absent(), Some(message)));
        };
        if !plug.vitals.enqueue(self.inner.in_flight_max) {
            let is_gone = plug.vitals.is_retired();
            return Err(if is_gone { Refusal::Down(self.absent(), Some(message)) } else { Refusal::Full(message) });
        }
        let sent = plug.actor.send_message(message).map_err(|error| {
            let message = match error {
                MessagingErr::SendErr(message) => Some(message),
                MessagingErr::ChannelClosed | MessagingErr::InvalidActorType => None,
            };
            (plug.vitals.unqueue(), message)
        });
        match sent {
            Ok(()) => Ok(()),
            Err((true, message)) => Err(Refusal::Down(self.absent(), message)),
            // It is told already as one that was lost with the actor.
            Err((false, _)) => Ok(()),
        }
    }

    /// Hands over what is kept, if there is room now; else it stays, also when nobody is there to take it. Returns what was
    /// refused for good, to be dropped when nothing is locked any more.
    fn forward(&self, kept: &mut Option<M>) -> Option<M> {
        if !self.is_plugged_in() {
            return None;
        }
        match self.offer(kept.take()?) {
            Ok(()) => None,
            Err(Refusal::Full(message) | Refusal::Down(Down::Absent { .. }, Some(message))) => {
                *kept = Some(message);
                None
            }
            Err(Refusal::Down(_, message)) => message,
        }
    }

    fn forward_newest(&self) {
        if let Some(newest) = &self.inner.newest {
            let refused = self.forward(&mut newest.lock());
            drop(refused);
        }
    }

    /// Lets messages of this identity be taken again that were set aside; see [`Poison`].
    pub fn release(&self, identity: u64) {
        if let Some(quarantine) = &self.inner.quarantine {
            quarantine.release(identity);
        }
    }

    /// Notes that the actor has taken a message out of its mailbox, and watches what the message does to it.
    pub(crate) fn taken(&self, message: &M, vitals: &Arc<Vitals>) -> Option<Box<Suspicion<M>>> {
        self.forward_newest();
        if self.inner.senders.load(Ordering::SeqCst) > 0 {
            self.inner.made_room.notify_one();
        }
        let quarantine = self.inner.quarantine.as_ref()?;
        quarantine.identify(message).map(|id| Box::new(Suspicion::new(self.clone(), Arc::clone(vitals), id)))
    }

    /// Counts one generation as killed by the message of this identity.
    fn blame(&self, id: u64) {
        if let Some(quarantine) = &self.inner.quarantine {
            quarantine.blame(id);
        }
    }

    /// Returns how many messages may wait.
    pub(crate) fn in_flight_max(&self) -> usize {
        self.inner.in_flight_max
    }

    /// Plugs an incarnation in, unless it was given up: then a newer one may be here already.
    ///
    /// A socket that somebody else holds is not taken over; the answer is then false.
    pub(crate) fn plug(&self, actor: ActorRef<M>, vitals: Arc<Vitals>) -> bool {
        if vitals.is_retired() {
            return true;
        }
        let mine = Arc::new(Plug { actor, vitals });
        let mut is_mine = false;
        self.inner.plug.rcu(|plug| {
            is_mine = plug.as_ref().is_none_or(|plug| plug.vitals.is_retired());
            if is_mine { Some(Arc::clone(&mine)) } else { plug.clone() }
        });
        if !is_mine {
            return false;
        }
        self.forward_newest();
        self.wake_senders();
        true
    }

    /// Lets everybody look again who waits for room.
    pub(crate) fn wake_senders(&self) {
        self.inner.made_room.notify_waiters();
    }
}

/// The way that leads to a socket.
struct Here<M, W> {
    socket: Socket<M>,
    wrap: W,
}

impl<M: Message, T: Send + 'static, W: Fn(T) -> M + Send + Sync + 'static> Way<T> for Here<M, W> {
    fn room(&self) -> &str {
        self.socket.id()
    }

    fn send(&self, item: T) -> Result<(), Down> {
        self.socket.send((self.wrap)(item))
    }

    fn send_within(self: Arc<Self>, item: T, within: Duration) -> Delivery {
        Box::pin(async move { self.socket.send_within((self.wrap)(item), within).await })
    }
}

enum Refusal<M> {
    /// With the message, where it came back.
    Down(Down, Option<M>),
    Full(M),
}

/// Counts a sender out when it stops waiting.
struct Leaving<'a>(&'a AtomicUsize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
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
    /// This very message has killed the room too often.
    #[error("{room} was killed {kills} times by this {kind} and takes it no more")]
    SetAside {
        /// Who died of it.
        room: String,
        /// The kind of the message.
        kind: &'static str,
        /// How many generations died of it.
        kills: u32,
    },
}

impl Down {
    /// Returns the name of the room that did not take the message.
    pub fn room(&self) -> &str {
        match self {
            Down::Absent { room } | Down::Full { room, .. } | Down::SetAside { room, .. } => room,
        }
    }
}
