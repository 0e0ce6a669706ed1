//! The wrapper around every supervised actor: the same messages, with vital signs and a typed exit.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::event::Exit;
use crate::socket::Socket;
use crate::vitals::{Activity, Vitals};

/// An actor that does what `inner` does, and is seen doing it.
pub(crate) struct Watched<A: Actor> {
    inner: A,
    vitals: Arc<Vitals>,
    /// Where it is plugged in once its `pre_start` is through, so that its `post_start` already finds itself there.
    socket: Option<Socket<A::Msg>>,
    /// Whether no message was handled yet.
    fresh: AtomicBool,
}

impl<A: Actor> Watched<A> {
    pub(crate) fn new(inner: A, vitals: Arc<Vitals>, socket: Option<Socket<A::Msg>>) -> Self {
        Watched { inner, vitals, socket, fresh: AtomicBool::new(true) }
    }
}

impl<A: Actor> Actor for Watched<A> {
    type Msg = A::Msg;
    type State = Kept<A::State>;
    type Arguments = A::Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let state = self
            .vitals
            .attend(Activity::Callback("pre_start"), async { self.inner.pre_start(myself.clone(), arguments).await })
            .await?;
        if let Some(socket) = &self.socket
            && !socket.plug(myself, Arc::clone(&self.vitals))
        {
            let taken = format!("somebody else is plugged in at {}", socket.id());
            self.vitals.note_exit(Exit::Failed(taken.clone()));
            return Err(taken.into());
        }
        Ok(Kept(Some(state)))
    }

    async fn post_start(&self, myself: ActorRef<Self::Msg>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        let state = state.get()?;
        let post_start = Activity::Callback("post_start");
        self.vitals.attend(post_start, async { self.inner.post_start(myself, state).await }).await
    }

    async fn post_stop(&self, myself: ActorRef<Self::Msg>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        let state = state.get()?;
        let post_stop = Activity::Callback("post_stop");
        self.vitals.attend(post_stop, async { self.inner.post_stop(myself, state).await }).await?;
        self.vitals.note_exit(Exit::Normal);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if self.fresh.load(Ordering::Relaxed) {
            self.fresh.store(false, Ordering::Relaxed);
            // ractor has just told the supervisor of the start, which left the supervisor's task in this worker's next-task slot,
            // where no other worker finds it. A first message that blocks the thread would thus also block the supervisor, the
            // only one who could notice. So the worker is let go once.
            tokio::task::yield_now().await;
        }
        self.vitals.dequeue();
        let state = state.get()?;
        let kind = self.socket.as_ref().map_or_else(std::any::type_name::<A::Msg>, |socket| socket.kind_of(&message));
        // Dropped with this handler when it is cut off, which is how the message is blamed for a kill as well.
        let suspicion = self.socket.as_ref().and_then(|socket| socket.taken(&message));
        let activity = Activity::Message(kind);
        let outcome = self.vitals.attend(activity, async { self.inner.handle(myself, message, state).await }).await;
        self.vitals.count_handled();
        if let (Ok(()), Some(suspicion)) = (&outcome, suspicion) {
            suspicion.clear();
        }
        outcome
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let state = state.get()?;
        let supervision = Activity::Callback("handle_supervisor_evt");
        self.vitals.attend(supervision, async { self.inner.handle_supervisor_evt(myself, event, state).await }).await
    }
}

impl<A: Actor> Drop for Watched<A> {
    fn drop(&mut self) {
        // The actor's task is over: whoever waits for room in its mailbox waits for nothing.
        self.vitals.retire();
        if let Some(socket) = &self.socket {
            socket.wake_senders();
        }
    }
}

/// The state of a watched actor.
///
/// ractor hands the state of an actor that ended to its supervisor, which drops it. A panic while it is dropped would then be
/// the supervisor's, and take the siblings down; so it is caught here.
pub(crate) struct Kept<S>(Option<S>);

impl<S> Kept<S> {
    fn get(&mut self) -> Result<&mut S, ActorProcessingErr> {
        self.0.as_mut().ok_or_else(|| "the state was dropped before the actor".into())
    }
}

impl<S> Drop for Kept<S> {
    fn drop(&mut self) {
        let state = self.0.take();
        if panic::catch_unwind(AssertUnwindSafe(|| drop(state))).is_err() {
            tracing::error!("the state of an actor panicked while it was dropped");
        }
    }
}
