//! Work of the shell that never ends, as a supervised room: it is started again when it fails.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use kloros_supervision::{ChildSpec, Shutdown, Socket};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{sync::oneshot, task::AbortHandle};

/// Returns the child that does `work` under this id.
pub(crate) fn child<F>(id: &str, work: impl Fn() -> F + Send + Sync + 'static) -> ChildSpec
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    child_once_up(id, move |up| {
        up.say();
        work()
    })
}

/// Returns the child that does `work` under this id and is started only when the work has said that it is up.
pub(crate) fn child_once_up<F>(id: &str, work: impl Fn(Up) -> F + Send + Sync + 'static) -> ChildSpec
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let work: Starting = Arc::new(move |up| Box::pin(work(up)));
    spec(id, work)
}

/// Says that work which others wait for is up, as a socket that is bound.
pub(crate) struct Up(oneshot::Sender<()>);

impl Up {
    /// Says so. Work that ends without it never was up.
    pub(crate) fn say(self) {
        // Whoever waited may have been stopped meanwhile.
        self.0.send(()).ok();
    }
}

/// What the work is made of: a future that ends only when it fails.
type Starting = Arc<dyn Fn(Up) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

fn spec(id: &str, work: Starting) -> ChildSpec {
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
    type Arguments = Starting;

    async fn pre_start(&self, myself: ActorRef<Over>, work: Starting) -> Result<State, ActorProcessingErr> {
        let (up, is_up) = oneshot::channel();
        let mut inner = tokio::spawn(work(Up(up)));
        // From here on the work ends with this, also where it is given up before it is up.
        let state = State(inner.abort_handle());
        if is_up.await.is_err() {
            return Err(match (&mut inner).await {
                Ok(Ok(())) => "the work ended".into(),
                Ok(Err(why)) => why.into(),
                Err(error) => format!("panicked: {error}").into(),
            });
        }
        tokio::spawn(async move {
            let over = match inner.await {
                Ok(ended) => ended,
                Err(error) if error.is_cancelled() => return,
                Err(error) => Err(format!("panicked: {error}")),
            };
            // A room that is gone was stopped, and its work with it.
            myself.send_message(Over(over)).ok();
        });
        Ok(state)
    }

    async fn handle(&self, _: ActorRef<Over>, over: Over, _: &mut State) -> Result<(), ActorProcessingErr> {
        match over.0 {
            Ok(()) => Err("the work ended".into()),
            Err(why) => Err(why.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use kloros_supervision::{Strategy, TreeSpec};

    use super::*;

    /// Once readiness was told before anybody could ask over the socket.
    #[tokio::test]
    async fn a_child_is_started_only_when_its_work_is_up() {
        let bound = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&bound);
        let child = child_once_up("api", move |up: Up| {
            let bound = Arc::clone(&bound);
            async move {
                tokio::task::yield_now().await;
                bound.store(true, Ordering::SeqCst);
                up.say();
                std::future::pending().await
            }
        });
        let tree = kloros_supervision::start(TreeSpec::new("house", Strategy::OneForOne).child(child)).await.unwrap();
        assert!(seen.load(Ordering::SeqCst));
        tree.stop(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn work_that_fails_before_it_is_up_says_why() {
        let child = child_once_up("api", |_: Up| async { Err("the address is taken".to_owned()) });
        let house = TreeSpec::new("house", Strategy::OneForOne).child(child);
        let why = kloros_supervision::start(house).await.unwrap_err().to_string();
        assert!(why.contains("the address is taken"), "{why}");
    }
}
