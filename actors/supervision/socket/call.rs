//! Questions and their answers.

use std::time::Duration;

use ractor::concurrency::{OneshotReceiver, OneshotSender, oneshot};
use tokio::runtime::Handle;

use super::Down;

/// Returns the two ends of an answer. The receiving one stays open until the answer has come or can no longer come, also when
/// nobody waits for it any longer.
pub(super) fn channel<R: Send + 'static>() -> (OneshotSender<R>, Answer<R>) {
    let (sender, receiver) = oneshot();
    (sender, Answer { receiver: Some(receiver) })
}

pub(super) struct Answer<R: Send + 'static> {
    receiver: Option<OneshotReceiver<R>>,
}

impl<R: Send + 'static> Answer<R> {
    /// Waits for the answer; nothing when the question was dropped.
    pub(super) async fn arrives(&mut self) -> Option<R> {
        let answer = self.receiver.as_mut()?.await.ok();
        self.receiver = None;
        answer
    }
}

impl<R: Send + 'static> Drop for Answer<R> {
    fn drop(&mut self) {
        // The room would take a closed port for an error, and many a handler passes errors on, of which it dies.
        if let (Some(receiver), Ok(runtime)) = (self.receiver.take(), Handle::try_current()) {
            runtime.spawn(receiver);
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
