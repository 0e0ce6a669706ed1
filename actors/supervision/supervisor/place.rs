//! One child of a supervisor: its current incarnation, and the task that attends it from start to end.

use std::sync::Arc;

use ractor::{ActorCell, ActorRef};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use super::Msg;
use crate::blueprint::Charge;
use crate::event::Exit;
use crate::launch::{Launch, Live, Stop, Unstarted, ended, told};
use crate::machine::Key;
use crate::nursery::Nursery;
use crate::tree::StartError;
use crate::vitals::{Vitals, caught};

/// One child and its current incarnation.
pub(super) struct Place {
    pub(super) charge: Charge,
    pub(super) live: Option<(ActorCell, Stop)>,
    pub(super) vitals: Option<Arc<Vitals>>,
    pub(super) cancel: watch::Sender<bool>,
    pub(super) timer: Option<AbortHandle>,
    pub(super) added: Option<oneshot::Sender<Result<(), StartError>>>,
    pub(super) terminated: Vec<oneshot::Sender<()>>,
}

impl Place {
    pub(super) fn new(charge: Charge) -> Self {
        let cancel = watch::Sender::new(false);
        Place { charge, live: None, vitals: None, cancel, timer: None, added: None, terminated: Vec::new() }
    }

    pub(super) fn retire(&self) {
        if let Some(vitals) = &self.vitals {
            vitals.retire();
        }
    }

    pub(super) fn disarm(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }
}

/// Starts one incarnation, waits for its end, and reports both.
pub(super) async fn attend(
    key: Key,
    generation: u64,
    charge: Charge,
    launch: Launch,
    former: Option<Arc<Vitals>>,
    supervisor: ActorRef<Msg>,
    nursery: Option<Nursery>,
) {
    // The one before may still be dying, when it went down with a supervisor that was killed.
    if let Some(former) = former
        && tokio::time::timeout(charge.rules.kill_within, former.gone()).await.is_err()
    {
        tracing::error!(path = charge.node.path, "a former incarnation is still there");
    }
    let vitals = Arc::clone(&launch.vitals);
    let started = caught((charge.start)(launch)).await.unwrap_or_else(|panic| Err(Unstarted::because(panic)));
    match started {
        Ok(Live { cell, join, stop }) => {
            told(&supervisor, Msg::Started { key, generation, cell, stop });
            ended(join).await;
            // Who leaves no word was killed, or its task was cancelled.
            vitals.note_exit(Exit::Killed);
            let exit = vitals.exit().unwrap_or(Exit::Killed);
            if vitals.settle()
                && let Some(nursery) = nursery
            {
                nursery.report(&charge.node.id, &exit);
            }
            vitals.mark_gone();
            told(&supervisor, Msg::Exited { key, generation, exit });
        }
        Err(unstarted) => {
            vitals.mark_gone();
            told(&supervisor, Msg::StartFailed { key, generation, unstarted });
        }
    }
}
