//! Brings down what a supervisor left behind that ended without having stopped its children.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::place::ask_to_stop;
use crate::blueprint::Shared;
use crate::branch::{Kind, Node};
use crate::spec::Shutdown;
use crate::vitals::Vitals;

/// Stops all that stands below `node` as its rules say, and returns when it is down or was given up.
///
/// It goes as if the supervisor had done it: the last child first and alone, or all at once in a nursery.
pub(crate) fn take_down(node: &Arc<Node>, shared: &Arc<Shared>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let (node, shared) = (Arc::clone(node), Arc::clone(shared));
    Box::pin(async move {
        let children = node.children().into_iter().rev();
        if node.kind == Kind::Nursery {
            let tasks: Vec<_> = children.map(|child| tokio::spawn(bring_down(child, Arc::clone(&shared)))).collect();
            for task in tasks {
                if let Err(error) = task.await {
                    tracing::warn!(%error, "an orphan was not waited for");
                }
            }
        } else {
            for child in children {
                bring_down(child, Arc::clone(&shared)).await;
            }
        }
        node.hush();
    })
}

/// Kills `node` and all that stands below it, from the top, so that no supervisor lives to see its child die.
pub(crate) fn kill_all(node: &Arc<Node>) {
    for node in node.walk() {
        if let Some(vitals) = node.vitals() {
            vitals.call_off();
        }
        if let Some(cell) = node.cell() {
            cell.kill();
        }
    }
}

async fn bring_down(node: Arc<Node>, shared: Arc<Shared>) {
    let (Some(vitals), rules) = (node.vitals(), node.rules()) else { return };
    vitals.call_off();
    if let Some(cell) = node.cell() {
        if rules.shutdown != Shutdown::Brutal {
            ask_to_stop(&node, &cell);
            let limit = match rules.shutdown {
                Shutdown::Within(limit) => limit,
                Shutdown::Unlimited | Shutdown::Brutal => Duration::MAX,
            };
            tokio::select! {
                biased;
                is_gone = is_gone(&vitals, limit) => {
                    if is_gone {
                        return;
                    }
                }
                () = shared.in_a_hurry() => {}
            }
            shared.note_kill(&node);
        }
        if node.kind == Kind::Actor {
            cell.kill();
        } else {
            kill_all(&node);
            // It ends when all that stands below it has ended or was given up, which has its own limits.
            vitals.gone().await;
            return;
        }
    }
    if !is_gone(&vitals, rules.kill_within).await {
        tracing::error!(path = %node.path, "an orphan does not answer its kill");
    }
}

async fn is_gone(vitals: &Vitals, within: Duration) -> bool {
    tokio::time::timeout(within, vitals.gone()).await.is_ok()
}
