//! A supervisor of children that are started at run time and end when they are done.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::branch::{Branch, Node};
use crate::event::Exit;
use crate::outlet::Outlet;
use crate::socket::{Down, Socket};
use crate::spec::ChildSpec;
use crate::supervisor::Msg;
use crate::tree::{StartError, UnknownChild};

/// The handle of a dynamic supervisor; made before the tree, and plugged in by [`TreeSpec::dynamic`].
///
/// Its children are temporary: one that ended is not started again, it is reported and forgotten. When the nursery stops,
/// all its children stop at the same time.
///
/// [`TreeSpec::dynamic`]: crate::TreeSpec::dynamic
#[derive(Clone)]
pub struct Nursery {
    inner: Arc<Inner>,
}

struct Inner {
    socket: Socket<Msg>,
    node: Mutex<Option<Arc<Node>>>,
    exits: Mutex<Vec<Outlet<ChildExit>>>,
}

/// The end of one child of a nursery; told exactly once for each child that was up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildExit {
    /// Which child it was.
    pub id: String,
    /// How it ended.
    pub exit: Exit,
}

impl Nursery {
    /// Returns a nursery that is not plugged in yet. `id` is how errors name it.
    pub fn new(id: &str) -> Self {
        let inner = Inner { socket: Socket::new(id), node: Mutex::default(), exits: Mutex::default() };
        Nursery { inner: Arc::new(inner) }
    }

    /// Sends the end of each child to `outlet` as well.
    pub fn on_exit(&self, outlet: Outlet<ChildExit>) {
        self.inner.exits.lock().unwrap_or_else(PoisonError::into_inner).push(outlet);
    }

    /// Starts a child and returns when it is up; it comes up also when the caller stops waiting.
    ///
    /// Its restart rule counts as temporary. An id that is in use is refused, and so is everything while the nursery is down.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<(), StartError> {
        spec.check()?;
        let (reply, answer) = oneshot::channel();
        self.inner.socket.send(Msg::Add { spec, reply })?;
        answer.await.unwrap_or_else(|_| Err(StartError::Down(Down::Absent { room: self.id().to_owned() })))
    }

    /// Stops a child as its spec says and returns when it is gone.
    pub async fn terminate_child(&self, id: &str) -> Result<(), UnknownChild> {
        let unknown = || UnknownChild::Absent { path: id.to_owned() };
        if !self.children().iter().any(|child| child.id == id) {
            return Err(unknown());
        }
        let (reply, gone) = oneshot::channel();
        self.inner.socket.send(Msg::Terminate { id: id.to_owned(), reply }).map_err(|_| unknown())?;
        // A reply that is dropped says the same: the child is gone, alone or with the whole nursery.
        let _ = gone.await;
        Ok(())
    }

    /// Returns the children that are there now, in starting order.
    pub fn children(&self) -> Vec<Branch> {
        let node = self.inner.node.lock().unwrap_or_else(PoisonError::into_inner).clone();
        node.map_or_else(Vec::new, |node| node.children().iter().map(|child| child.snapshot()).collect())
    }

    fn id(&self) -> &str {
        self.inner.socket.id()
    }

    pub(crate) fn socket(&self) -> Socket<Msg> {
        self.inner.socket.clone()
    }

    pub(crate) fn settle_at(&self, node: Arc<Node>) {
        *self.inner.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
    }

    pub(crate) fn report(&self, id: &str, exit: &Exit) {
        let outlets = self.inner.exits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for outlet in outlets {
            if let Err(down) = outlet.send(ChildExit { id: id.to_owned(), exit: exit.clone() }) {
                tracing::debug!(%down, child = id, "nobody heard that a child ended");
            }
        }
    }
}

impl fmt::Debug for Nursery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Nursery").field("id", &self.id()).finish_non_exhaustive()
    }
}
