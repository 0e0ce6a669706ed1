//! Work of the shell that never ends, as a supervised room: it is started again when it fails.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use kloros_supervision::{ChildSpec, Shutdown, Socket};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;

/// What the work is made of: a future that ends only when it fails.
pub(crate) type Work = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// Returns the child that does `work` under this id.
pub(crate) fn child<F>(id: &str, work: impl Fn() -> F + Send + Sync + 'static) -> ChildSpec
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let work: Work = Arc::new(move || Box::pin(work()));
    ChildSpec::actor(id, &Socket::new(id), move || (Background, Arc::clone(&work)))
        .shutdown(Shutdown::Within(Duration::from_secs(2)))
}

struct Background;

/// What the room hears: that its work has ended.
struct Over(Result<(), String>);

impl fmt::Debug for Over {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Over({:?})", self.0)
    }
}

struct State(AbortHandle);

impl Drop for State {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for Background {
    type Msg = Over;
    type State = State;
    type Arguments = Work;

    async fn pre_start(&self, myself: ActorRef<Over>, work: Work) -> Result<State, ActorProcessingErr> {
        let doing = work();
        let inner = tokio::spawn(doing);
        let abort = inner.abort_handle();
        tokio::spawn(async move {
            let over = match inner.await {
                Ok(ended) => ended,
                Err(error) if error.is_cancelled() => return,
                Err(error) => Err(format!("panicked: {error}")),
            };
            // A room that is gone was stopped, and its work with it.
            myself.send_message(Over(over)).ok();
        });
        Ok(State(abort))
    }

    async fn handle(&self, _: ActorRef<Over>, over: Over, _: &mut State) -> Result<(), ActorProcessingErr> {
        match over.0 {
            Ok(()) => Err("the work ended".into()),
            Err(why) => Err(why.into()),
        }
    }
}
