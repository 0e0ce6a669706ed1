//! Keeps the runtime's clock going while a room blocks a worker thread.
//!
//! tokio's workers take turns at its clock: the one that goes to sleep last attends the timers. When that one wakes for a
//! single task and the task blocks, the others sleep on, and no timer fires any more: no stall is noticed, no kill is overdue.
//! Any task that comes from outside wakes another worker, which then attends the timers. So one thread sends in a task that
//! does nothing, at a steady beat.

use std::thread;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;

/// How long the clock may stand still before it is set going again.
const PULSE_EVERY: Duration = Duration::from_millis(100);

/// Keeps the clock of the current runtime going until `end` holds something, or its sender is gone.
///
/// A runtime with one thread is left alone: nobody could attend its clock while that one is blocked.
pub(crate) fn keep<T: Send + Sync + 'static>(end: watch::Receiver<Option<T>>) {
    let runtime = Handle::current();
    if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        return;
    }
    let beat = move || {
        while end.has_changed().is_ok() && end.borrow().is_none() {
            thread::sleep(PULSE_EVERY);
            runtime.spawn(async {});
        }
    };
    if let Err(error) = thread::Builder::new().name("supervision".to_owned()).spawn(beat) {
        tracing::warn!(%error, "no thread to keep the clock going; a room that blocks may go unnoticed");
    }
}
