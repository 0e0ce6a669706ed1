//! Work that may hang, on a thread of its own.
//!
//! Whoever asks waits up to a deadline. A question that was not answered in time is not asked again while it is under way, and
//! nobody ever waits for the thread to end: a driver in trouble may never return.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::timeout,
};

/// How many questions may wait: one of each who asks.
const QUESTIONS_MAX: usize = 4;

type Question<S> = Box<dyn FnOnce(&mut S) + Send>;

/// The thread, with the state that lives on it.
pub(super) struct Apart<S> {
    questions: Option<mpsc::SyncSender<Question<S>>>,
}

impl<S: Send + 'static> Apart<S> {
    /// Starts the thread; the state is dropped on it, after the last one who asks is gone.
    pub(super) fn start(name: &str, mut state: S) -> Self {
        let (questions, asked) = mpsc::sync_channel::<Question<S>>(QUESTIONS_MAX);
        let answer = move || {
            for question in asked {
                question(&mut state);
            }
        };
        let started = thread::Builder::new().name(name.to_owned()).spawn(answer);
        Self { questions: started.is_ok().then_some(questions) }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It did not come in time; the work goes on.
    Late(Duration),
    /// An earlier question is not answered yet.
    Busy,
    /// The thread is gone.
    Gone,
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Late(deadline) => write!(formatter, "no answer within {} s", deadline.as_secs_f64()),
            Self::Busy => write!(formatter, "an earlier call has not returned yet"),
            Self::Gone => write!(formatter, "its thread is gone"),
        }
    }
}

/// One who asks.
pub(super) struct Asker<T> {
    deadline: Duration,
    /// The answer that an earlier question ran out of time for.
    late: Mutex<Option<oneshot::Receiver<T>>>,
}

impl<T: Send + 'static> Asker<T> {
    pub(super) fn new(deadline: Duration) -> Self {
        Self { deadline, late: Mutex::new(None) }
    }

    /// Returns what `work` returned, or why it did not in time.
    pub(super) async fn ask<S: Send + 'static>(
        &self,
        apart: &Apart<S>,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let mut answer = {
            let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            if late.as_mut().is_some_and(|late| matches!(late.try_recv(), Err(TryRecvError::Empty))) {
                return Err(NoAnswer::Busy);
            }
            *late = None;
            let (reply, answer) = oneshot::channel();
            let question: Question<S> = Box::new(move |state| {
                // Whoever asked may have gone away while it waited behind another question.
                if !reply.is_closed() {
                    drop(reply.send(work(state)));
                }
            });
            let questions = apart.questions.as_ref().ok_or(NoAnswer::Gone)?;
            questions.try_send(question).map_err(|error| match error {
                mpsc::TrySendError::Full(_) => NoAnswer::Busy,
                mpsc::TrySendError::Disconnected(_) => NoAnswer::Gone,
            })?;
            answer
        };
        match timeout(self.deadline, &mut answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(NoAnswer::Gone),
            Err(_) => {
                *self.late.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                Err(NoAnswer::Late(self.deadline))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_hangs_is_given_up_and_not_asked_twice() {
        let (release, hang) = mpsc::sync_channel::<()>(0);
        let apart = Apart::start("hanging", hang);
        let asker = Asker::new(Duration::from_millis(50));
        let ask = || asker.ask(&apart, |hang| hang.recv().is_ok());
        assert_eq!(ask().await, Err(NoAnswer::Late(Duration::from_millis(50))));
        assert_eq!(ask().await, Err(NoAnswer::Busy));
        // The driver comes back, and with it the answers; the late one is not taken for a new one.
        release.send(()).unwrap();
        drop(release);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while ask().await != Ok(false) {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_second_one_who_asks_waits_behind_a_call_that_hangs_and_is_not_answered_after_it_left() {
        let (release, hang) = mpsc::sync_channel::<()>(0);
        let apart = Apart::start("hanging", (hang, 0_u32));
        let (first, second) = (Asker::new(Duration::from_millis(10)), Asker::new(Duration::from_millis(10)));
        let hanging = |(hang, _): &mut (mpsc::Receiver<()>, u32)| hang.recv().is_ok();
        assert_eq!(first.ask(&apart, hanging).await, Err(NoAnswer::Late(Duration::from_millis(10))));
        let left = second.ask(&apart, |(_, asked)| *asked += 1).await;
        assert_eq!(left, Err(NoAnswer::Late(Duration::from_millis(10))));
        drop(second);
        release.send(()).unwrap();
        let patient = Asker::new(Duration::from_secs(20));
        assert_eq!(patient.ask(&apart, |(_, asked)| *asked).await, Ok(0), "who left is not worked for");
    }

    #[tokio::test]
    async fn a_call_that_panics_is_an_error_ever_after() {
        let apart = Apart::start("panicking", ());
        let asker: Asker<()> = Asker::new(Duration::from_secs(20));
        for _ in 0..2 {
            assert_eq!(asker.ask(&apart, |()| panic!("as a driver might")).await, Err(NoAnswer::Gone));
        }
    }
}
