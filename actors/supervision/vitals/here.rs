//! What a handler can say of itself, to whom it need not know.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::{ActorRef, Message, MessagingErr};

use super::Vitals;

thread_local! {
    /// Whose handler this thread is running.
    pub(super) static CURRENT: RefCell<Option<Arc<Vitals>>> = const { RefCell::new(None) };
}

/// Reports from inside a handler that it still makes progress, which resets its stall clock.
///
/// Outside of a supervised handler, also in a task that a handler spawned, it does nothing; see [`Progress::here`].
pub fn progress() {
    Progress::here().made();
}

/// Hands `info` to whoever started this actor with `start_child` or `restart_child`; for use in `pre_start`.
pub fn start_info(info: impl Into<String>) {
    let info = info.into();
    here(|vitals| vitals.note(|notes| notes.info = Some(info)));
}

/// Does something with the vital signs of the actor whose handler is running, if one is.
pub(crate) fn here(act: impl FnOnce(&Arc<Vitals>)) {
    // Outside of a supervised handler there is nobody to tell.
    let _ = CURRENT.try_with(|current| current.borrow().as_ref().map(act));
}

/// Sends a message to the actor whose handler is running. It counts as waiting, like one that came through the actor's
/// [`Socket`](crate::Socket), and is never refused for want of room.
///
/// What is sent to `myself` directly is not counted when it comes, and yet when it is taken out: the mailbox then holds more
/// than its bound, by as many, until it is empty.
pub fn to_self<M: Message>(myself: &ActorRef<M>, message: M) -> Result<(), MessagingErr<M>> {
    here(|vitals| _ = vitals.enqueue(usize::MAX));
    myself.send_message(message).inspect_err(|_| here(|vitals| _ = vitals.unqueue()))
}

/// A way to report the progress of one handler from elsewhere, such as from a task it spawned.
#[derive(Clone, Debug)]
pub struct Progress(Option<Arc<Vitals>>);

impl Progress {
    /// Returns the one of the handler that is running here; outside of a supervised handler, one that does nothing.
    pub fn here() -> Self {
        let mut progress = Progress(None);
        here(|vitals| progress.0 = Some(Arc::clone(vitals)));
        progress
    }

    /// Reports progress.
    pub fn made(&self) {
        if let Some(vitals) = &self.0 {
            vitals.progress_at.store(vitals.now_roughly(), Ordering::Release);
        }
    }
}
