//! Brings down what a supervisor left behind that ended without having stopped its children: it was killed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::place::ask_to_stop;
use crate::branch::{Kind, Node};
use crate::spec::Shutdown;
use crate::vitals::Vitals;

/// Stops all that stands below `node` as its rules say, and returns when it is down or was given up.
///
/// It goes as if the supervisor had done it: the last child first and alone, or all at once in a nursery.
pub(crate) fn take_down(node: &Arc<Node>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let node = Arc::clone(node);
    Box::pin(async move {
        let children = node.children().into_iter().rev();
        if node.kind == Kind::Nursery {
            let tasks: Vec<_> = children.map(|child| tokio::spawn(bring_down(child))).collect();
            for task in tasks {
                if let Err(error) = task.await {
                    tracing::warn!(%error, "an orphan was not waited for");
                }
            }
        } else {
            for child in children {
                bring_down(child).await;
            }
        }
        node.hush();
    })
}

async fn bring_down(node: Arc<Node>) {
    let (Some(vitals), rules) = (node.vitals(), node.rules()) else { return };
    vitals.call_off();
    if let Some(cell) = node.cell() {
        if rules.shutdown != Shutdown::Brutal {
            ask_to_stop(&node, &cell);
            let in_time = match rules.shutdown {
                Shutdown::Within(limit) => is_gone(&vitals, limit).await,
                Shutdown::Unlimited | Shutdown::Brutal => {
                    vitals.gone().await;
                    true
                }
            };
            if in_time {
                return;
            }
        }
        cell.kill();
    }
    if !is_gone(&vitals, rules.kill_within).await {
        tracing::error!(path = %node.path, "an orphan does not answer its kill");
    }
}

async fn is_gone(vitals: &Vitals, within: Duration) -> bool {
    tokio::time::timeout(within, vitals.gone()).await.is_ok()
}
