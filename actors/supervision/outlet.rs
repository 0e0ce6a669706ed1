//! Where a room's facts leave it: it knows its exits, not its neighbours.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::socket::Down;

/// One exit of a room, for things of type `T`.
pub struct Outlet<T> {
    way: Arc<dyn Way<T>>,
}

pub(crate) type Delivery = Pin<Box<dyn Future<Output = Result<(), Down>> + Send>>;

/// Where an outlet leads.
pub(crate) trait Way<T>: Send + Sync {
    /// Returns how errors name the other end.
    fn room(&self) -> &str;

    fn send(&self, item: T) -> Result<(), Down>;

    /// Returns what sends `item` and waits for room. It outlives the outlet, so it is given its own part in the way.
    fn send_within(self: Arc<Self>, item: T, within: Duration) -> Delivery;
}

/// A way that does the same whether its sender would wait or not.
struct AtOnce<D> {
    room: String,
    deliver: D,
}

impl<T, D: Fn(T) -> Result<(), Down> + Send + Sync> Way<T> for AtOnce<D> {
    fn room(&self) -> &str {
        &self.room
    }

    fn send(&self, item: T) -> Result<(), Down> {
        (self.deliver)(item)
    }

    fn send_within(self: Arc<Self>, item: T, _: Duration) -> Delivery {
        Box::pin(std::future::ready((self.deliver)(item)))
    }
}

impl<T> Outlet<T> {
    pub(crate) fn new(way: impl Way<T> + 'static) -> Self {
        Outlet { way: Arc::new(way) }
    }

    /// Returns an outlet that calls `take` with each item, in the sender's task; it is never down.
    pub fn to(take: impl Fn(T) + Send + Sync + 'static) -> Self {
        let deliver = move |item| {
            take(item);
            Ok(())
        };
        Outlet::new(AtOnce { room: "a function".to_owned(), deliver })
    }

    /// Returns an outlet that leads nowhere: everything sent gets [`Down`] that names `id`.
    pub fn nowhere(id: &str) -> Self {
        let room = id.to_owned();
        Outlet::new(AtOnce { room: room.clone(), deliver: move |_| Err(Down::Absent { room: room.clone() }) })
    }

    /// Sends `item` to whoever is plugged in at the other end now.
    ///
    /// What happens when too many wait there is said by the [`Mailbox`](crate::Mailbox) of the socket. A refused item is
    /// lost. The journal is the truth and a message only a wake-up, so a caller whose fact is durable already may ignore
    /// [`Down`] on purpose.
    pub fn send(&self, item: T) -> Result<(), Down> {
        self.way.send(item)
    }

    /// Sends `item`, and waits for at most this long while too many wait at the other end.
    pub async fn send_within(&self, item: T, within: Duration) -> Result<(), Down> {
        Arc::clone(&self.way).send_within(item, within).await
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
        Outlet { way: Arc::clone(&self.way) }
    }
}

impl<T> fmt::Debug for Outlet<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Outlet").field("room", &self.way.room()).finish_non_exhaustive()
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
