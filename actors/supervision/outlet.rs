//! Where a room's facts leave it: it knows its exits, not its neighbours.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::socket::Down;

/// One exit of a room, for things of type `T`.
pub struct Outlet<T> {
    room: Arc<str>,
    deliver: Arc<dyn Fn(T) -> Result<(), Down> + Send + Sync>,
}

impl<T> Outlet<T> {
    pub(crate) fn new(room: Arc<str>, deliver: impl Fn(T) -> Result<(), Down> + Send + Sync + 'static) -> Self {
        Outlet { room, deliver: Arc::new(deliver) }
    }

    /// Returns an outlet that calls `take` with each item, in the sender's task; it is never down.
    pub fn to(take: impl Fn(T) + Send + Sync + 'static) -> Self {
        Outlet::new("a function".into(), move |item| {
            take(item);
            Ok(())
        })
    }

    /// Returns an outlet that leads nowhere: everything sent gets [`Down`] that names `id`.
    pub fn nowhere(id: &str) -> Self {
        let room: Arc<str> = id.into();
        Outlet::new(Arc::clone(&room), move |_| Err(Down::Absent { room: room.as_ref().to_owned() }))
    }

    /// Sends `item` to whoever is plugged in at the other end now.
    ///
    /// A refused item is lost. The journal is the truth and a message only a wake-up, so a caller whose fact is durable
    /// already may ignore [`Down`] on purpose.
    pub fn send(&self, item: T) -> Result<(), Down> {
        (self.deliver)(item)
    }
}

impl<T: Send + 'static> Outlet<T> {
    /// Returns an outlet that keeps what is sent, and where it is kept: for the tests of a room.
    pub fn collecting() -> (Outlet<T>, Collected<T>) {
        let collected = Collected { store: Arc::new(Store { items: Mutex::default(), arrived: Notify::new() }) };
        let store = Arc::clone(&collected.store);
        let outlet = Outlet::to(move |item| {
            store.items.lock().unwrap_or_else(PoisonError::into_inner).push_back(item);
            store.arrived.notify_waiters();
        });
        (outlet, collected)
    }
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        Outlet { room: Arc::clone(&self.room), deliver: Arc::clone(&self.deliver) }
    }
}

impl<T> fmt::Debug for Outlet<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Outlet").field("room", &self.room).finish_non_exhaustive()
    }
}

/// What was sent to an [`Outlet::collecting`], oldest first.
pub struct Collected<T> {
    store: Arc<Store<T>>,
}

struct Store<T> {
    items: Mutex<VecDeque<T>>,
    arrived: Notify,
}

impl<T> Collected<T> {
    /// Takes out everything that has arrived so far.
    pub fn taken(&self) -> Vec<T> {
        self.store.items.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Takes out the oldest item, waiting for one if there is none; nothing when none arrives `within` this time.
    pub async fn next(&self, within: Duration) -> Option<T> {
        tokio::time::timeout(within, self.oldest()).await.ok()
    }

    async fn oldest(&self) -> T {
        loop {
            // The wait is set up before the look, so that an item that arrives between the two is not missed.
            let arrived = self.store.arrived.notified();
            let oldest = self.store.items.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(item) = oldest {
                return item;
            }
            arrived.await;
        }
    }
}

impl<T> Clone for Collected<T> {
    fn clone(&self) -> Self {
        Collected { store: Arc::clone(&self.store) }
    }
}

impl<T> fmt::Debug for Collected<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Collected").finish_non_exhaustive()
    }
}
