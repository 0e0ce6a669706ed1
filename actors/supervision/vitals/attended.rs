//! One handler at work: watched, and caught when it panics.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use ractor::ActorProcessingErr;

use super::{Activity, CURRENT, Vitals};
use crate::event::Exit;

pin_project! {
    /// One handler at work. Written by hand because each layer of `async` would hold the handler's future twice, and every
    /// actor's task has room for it as long as the actor lives.
    pub(crate) struct Attended<F> {
        pub(super) vitals: Arc<Vitals>,
        pub(super) activity: Activity,
        pub(super) has_begun: bool,
        #[pin]
        pub(super) work: F,
    }
}

impl<T, F: Future<Output = Result<T, ActorProcessingErr>>> Future for Attended<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let (vitals, work) = (this.vitals, this.work);
        if !std::mem::replace(this.has_begun, true) {
            vitals.begin(*this.activity);
        }
        let step = || panic::catch_unwind(AssertUnwindSafe(|| work.poll(context)));
        let outcome = match CURRENT.sync_scope(Arc::clone(vitals), step) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => outcome.inspect_err(|error| {
                vitals.note_failure(*this.activity, Exit::Failed(with_sources(error.as_ref())));
            }),
            Err(payload) => {
                let text = panic_text(payload.as_ref());
                vitals.note_failure(*this.activity, Exit::Panicked(text.clone()));
                Err(text.into())
            }
        };
        vitals.finish();
        Poll::Ready(outcome)
    }
}

/// Runs `work` and turns a panic into its message.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = pin!(work);
    std::future::poll_fn(move |context| match panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(payload) => std::task::Poll::Ready(Err(panic_text(payload.as_ref()))),
    })
    .await
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
