//! One handler at work: watched, and caught when it panics.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use ractor::ActorProcessingErr;

use super::{Activity, CURRENT, Vitals};
use crate::event::Exit;

/// What is said of a handler that panicked before it was a future, which is noted by itself, or had no state to work on.
const NOT_MADE: &str = "the handler could not begin";

/// Where an actor's own task keeps what it needs for its vital signs.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Lent to the thread while it runs a handler: counting one more reference for each message would cost more.
    vitals: Option<Arc<Vitals>>,
    /// What the vital signs show as the activity.
    shown: Activity,
}

impl Seat {
    pub(crate) fn at(vitals: &Arc<Vitals>) -> Self {
        Seat { vitals: Some(Arc::clone(vitals)), shown: Activity::BORN }
    }

    /// Begins one handler of the actor, the one that `make` returns; nothing is returned where it cannot be made.
    pub(crate) fn attend<F>(&mut self, activity: Activity, make: impl FnOnce() -> Option<F>) -> Attended<'_, F> {
        if let Some(vitals) = &self.vitals {
            if !activity.is_surely(self.shown) {
                vitals.take_up(activity);
                self.shown = activity;
            }
            vitals.begin(activity);
        }
        let work = panic::catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|payload| {
            self.note_failure(Exit::Panicked(panic_text(payload.as_ref())));
            None
        });
        Attended { seat: self, work }
    }

    fn note_failure(&self, exit: Exit) {
        if let Some(vitals) = &self.vitals {
            vitals.note_failure(self.shown, exit);
        }
    }
}

pin_project! {
    /// One handler at work. Written by hand because each layer of `async` would hold the handler's future twice, and every
    /// actor's task has room for it as long as the actor lives.
    pub(crate) struct Attended<'a, F> {
        seat: &'a mut Seat,
        #[pin]
        work: Option<F>,
    }
}

impl<T, F: Future<Output = Result<T, ActorProcessingErr>>> Future for Attended<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let (seat, work) = (this.seat, this.work);
        let step = || work.as_pin_mut().map_or_else(|| Poll::Ready(Err(NOT_MADE.into())), |work| work.poll(context));
        let lender = CURRENT.replace(seat.vitals.take());
        let outcome = panic::catch_unwind(AssertUnwindSafe(step));
        seat.vitals = CURRENT.replace(lender);
        let outcome = match outcome {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(done))) => Ok(done),
            Ok(Poll::Ready(Err(error))) => {
                seat.note_failure(Exit::Failed(with_sources(error.as_ref())));
                Err(error)
            }
            Err(payload) => {
                let text = panic_text(payload.as_ref());
                seat.note_failure(Exit::Panicked(text.clone()));
                Err(text.into())
            }
        };
        if let Some(vitals) = &seat.vitals {
            vitals.finish(seat.shown);
        }
        Poll::Ready(outcome)
    }
}

/// Runs `work` and turns a panic into its message.
pub(crate) fn caught<F: Future>(work: F) -> Caught<F> {
    Caught { work }
}

pin_project! {
    /// Work whose panic is its outcome. Written by hand as [`Attended`] is: the start of an actor is held in it, and what a start is too
    /// large by is memory that stays in holes between the actors.
    pub(crate) struct Caught<F> {
        #[pin]
        work: F,
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, String>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let work = self.project().work;
        match panic::catch_unwind(AssertUnwindSafe(|| work.poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => Poll::Ready(Err(panic_text(payload.as_ref()))),
        }
    }
}

/// Returns what a panic says: its text, its error, or at least that it carries neither.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else if let Some(error) = payload.downcast_ref::<ActorProcessingErr>() {
        with_sources(error.as_ref())
    } else if let Some(number) = payload.downcast_ref::<i32>() {
        number.to_string()
    } else {
        "a panic that carries neither text nor an error".to_owned()
    }
}

fn with_sources(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
