//! The wrapper around every supervised actor: the same messages, with vital signs and a typed exit.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use ractor::{Actor, ActorProcessingErr, ActorRef, Message, SupervisionEvent};

use crate::event::Exit;
use crate::machine::CALLED_OFF;
use crate::socket::{Socket, Suspicion};
use crate::vitals::{Activity, Alive, Attended, Seat, Vitals, panic_text};

/// An actor that does what `inner` does, and is seen doing it.
pub(crate) struct Watched<A: Actor> {
    inner: A,
    vitals: Arc<Vitals>,
    /// Where it is plugged in once its `pre_start` is through, so that its `post_start` already finds itself there.
    socket: Option<Socket<A::Msg>>,
    // Fields are dropped in order, and this one says that the others are gone.
    _alive: Alive,
}

impl<A: Actor> Watched<A> {
    pub(crate) fn new(inner: A, vitals: Arc<Vitals>, socket: Option<Socket<A::Msg>>) -> Self {
        Watched { inner, socket, _alive: Alive::of(&vitals), vitals }
    }

    /// Returns what stands for a message in reports.
    fn kind_of(&self, message: &A::Msg) -> &'static str {
        self.socket.as_ref().map_or_else(std::any::type_name::<A::Msg>, |socket| socket.kind_of(message))
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
        let mut seat = Seat::at(&self.vitals);
        let pre_start = || Some(self.inner.pre_start(myself.clone(), arguments));
        let state = seat.attend(Activity::Callback("pre_start"), pre_start).await?;
        if self.vitals.is_unwanted() {
            // It blocked its thread, or was called off at the very end; nothing more of it is to run.
            return Err(CALLED_OFF.into());
        }
        let kept = Kept::new(state, seat, &self.vitals);
        if let Some(socket) = &self.socket
            && !socket.plug(myself, Arc::clone(&self.vitals))
        {
            let taken = format!("somebody else is plugged in at {}", socket.id());
            self.vitals.note_exit(Exit::Failed(taken.clone()));
            return Err(taken.into());
        }
        Ok(kept)
    }

    fn post_start(&self, myself: ActorRef<Self::Msg>, kept: &mut Self::State) -> impl Future<Output = Done> + Send {
        let Kept { state, seat, .. } = kept;
        seat.attend(Activity::Callback("post_start"), || Some(self.inner.post_start(myself, state.as_mut()?)))
    }

    async fn post_stop(&self, myself: ActorRef<Self::Msg>, kept: &mut Self::State) -> Done {
        let Kept { state, seat, .. } = kept;
        let post_stop = || Some(self.inner.post_stop(myself, state.as_mut()?));
        seat.attend(Activity::Callback("post_stop"), post_stop).await?;
        self.vitals.note_exit(Exit::Normal);
        Ok(())
    }

    fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        kept: &mut Self::State,
    ) -> impl Future<Output = Done> + Send {
        self.vitals.dequeue();
        // Both look at the message with functions of the socket's maker, which may panic.
        let look =
            || (self.kind_of(&message), self.socket.as_ref().and_then(|socket| socket.taken(&message, &self.vitals)));
        let looked = panic::catch_unwind(AssertUnwindSafe(look));
        let Kept { state, seat, is_fresh, .. } = kept;
        let (kind, suspicion, panicked) = match looked {
            Ok((kind, suspicion)) => (kind, suspicion, None),
            Err(payload) => (std::any::type_name::<A::Msg>(), None, Some(payload)),
        };
        let work = seat.attend(Activity::Message(kind), || match panicked {
            Some(payload) => panic::resume_unwind(payload),
            None => Some(self.inner.handle(myself, message, state.as_mut()?)),
        });
        Handling { yields: std::mem::take(is_fresh), suspicion, work }
    }

    fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        kept: &mut Self::State,
    ) -> impl Future<Output = Done> + Send {
        let Kept { state, seat, .. } = kept;
        let handle = || Some(self.inner.handle_supervisor_evt(myself, event, state.as_mut()?));
        seat.attend(Activity::Callback("handle_supervisor_evt"), handle)
    }
}

/// How a callback ends.
type Done = Result<(), ActorProcessingErr>;

pin_project! {
    /// One message being handled. Written by hand as [`Attended`] is, and for the same reason.
    struct Handling<'a, M: Message, F> {
        yields: bool,
        // Dropped with this when the handler is cut off, which is how the message is blamed for a kill as well.
        suspicion: Option<Box<Suspicion<M>>>,
        #[pin]
        work: Attended<'a, F>,
    }
}

impl<M: Message, F: Future<Output = Done>> Future for Handling<'_, M, F> {
    type Output = Done;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Done> {
        let this = self.project();
        if std::mem::take(this.yields) {
            // ractor has just told the supervisor of the start, which left the supervisor's task in this worker's next-task slot,
            // where no other worker finds it. A first message that blocks the thread would thus also block the supervisor, the
            // only one who could notice. So the worker is let go once.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let outcome = ready!(this.work.poll(context));
        if let (Ok(()), Some(suspicion)) = (&outcome, this.suspicion) {
            suspicion.clear();
        }
        Poll::Ready(outcome)
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

/// The state of a watched actor, and what it needs to be watched.
///
/// ractor hands the state of an actor that ended to its supervisor, which drops it. A panic while it is dropped would then be
/// the supervisor's, and take the siblings down; so it is caught here.
pub(crate) struct Kept<S> {
    state: Option<S>,
    seat: Seat,
    /// Whether no message was handled yet.
    is_fresh: bool,
    // The last field, so that the state is gone when it is.
    alive: Alive,
}

impl<S> Kept<S> {
    fn new(state: S, seat: Seat, vitals: &Arc<Vitals>) -> Self {
        Kept { state: Some(state), seat, is_fresh: true, alive: Alive::of(vitals) }
    }
}

impl<S> Drop for Kept<S> {
    fn drop(&mut self) {
        let state = self.state.take();
        if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| drop(state))) {
            // Whoever tells of the actor's end knows where it stood, and says it.
            let text = panic_text(payload.as_ref());
            self.alive.vitals().note(|notes| notes.panic_of_state = Some(text));
        }
    }
}
