//! What only who holds an actor's task can do to it.

use std::sync::Mutex;

use ractor::ActorRef;
use tokio::task::AbortHandle;

use super::*;
use crate::event::EventKind;
use crate::spec::{self, ChildSpec, Restart, Rules, Strategy, TreeSpec};

struct Idle;

impl Actor for Idle {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ractor::ActorProcessingErr> {
        Ok(())
    }
}

/// Starts actors, and keeps what cancels their tasks.
#[derive(Default)]
struct Cancelling(Mutex<Vec<AbortHandle>>);

impl Maker for Cancelling {
    fn in_flight_max(&self) -> usize {
        1
    }

    fn give_up(&self, _: &Node, _: &Shared) {}

    fn start(self: Arc<Self>, launch: Launch) -> Starting {
        Box::pin(async move {
            let (actor, join) = Actor::spawn(None, Watched::new(Idle, launch.vitals, None), ()).await.unwrap();
            self.0.lock().unwrap().push(join.abort_handle());
            Ok(Live { cell: actor.get_cell() })
        })
    }
}

async fn ends_after_a_cancelled_task(restart: Restart) -> Vec<EventKind> {
    let maker = Arc::new(Cancelling::default());
    let rules = Rules { restart, ..Rules::of_an_actor() };
    let child = ChildSpec { id: "a".into(), rules, start: spec::Start::Actor(Arc::clone(&maker) as Start) };
    let tree = crate::start(TreeSpec::new("house", Strategy::OneForOne).child(child)).await.unwrap();
    let mut events = tree.events();
    maker.0.lock().unwrap()[0].abort();
    let mut told = Vec::new();
    while told.len() < if restart == Restart::Temporary { 1 } else { 3 } {
        told.push(events.recv().await.unwrap().kind);
    }
    tree.stop(Duration::from_secs(5)).await.unwrap();
    told
}

async fn case_029() {
    let failed = EventKind::Failed { reason: "killed".to_owned(), handling: None };
    let back = [failed.clone(), EventKind::RestartScheduled { delay: Duration::ZERO }, EventKind::Started];
    assert_eq!(ends_after_a_cancelled_task(Restart::Transient).await, back);
    assert_eq!(ends_after_a_cancelled_task(Restart::Permanent).await, back);
    assert_eq!(ends_after_a_cancelled_task(Restart::Temporary).await, [failed]);
}

#[tokio::test(start_paused = true)]
async fn case_029_a_task_that_is_cancelled_counts_as_killed_on_paused_time() {
    case_029().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_029_a_task_that_is_cancelled_counts_as_killed_on_two_workers() {
    case_029().await;
}
