//! A supervisor of children that are started at run time and end when they are done.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::blueprint;
use crate::branch::{Branch, Node};
use crate::control::{ChildError, Control, Started};
use crate::event::Exit;
use crate::outlet::Outlet;
use crate::socket::Socket;
use crate::spec::ChildSpec;
use crate::supervisor::Msg;
use crate::tree::StartError;

/// The handle of a dynamic supervisor; made before the tree, and plugged in by [`TreeSpec::nursery`].
///
/// Its children come and go independently of each other. One that ended and is not started again, as its restart rule says,
/// is reported and forgotten. When the nursery stops, all its children stop at the same time.
///
/// [`TreeSpec::nursery`]: crate::TreeSpec::nursery
#[derive(Clone)]
pub struct Nursery {
    inner: Arc<Inner>,
}

struct Inner {
    socket: Socket<Msg>,
    node: Mutex<Option<Arc<Node>>>,
    exits: Mutex<Vec<Outlet<ChildExit>>>,
    /// How many children have come from templates.
    made: AtomicU64,
}

/// The end of one incarnation of a nursery's child; told exactly once for each that was up.
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
        let inner = Inner {
            socket: blueprint::socket(id),
            node: Mutex::default(),
            exits: Mutex::default(),
            made: AtomicU64::new(0),
        };
        Nursery { inner: Arc::new(inner) }
    }

    /// Sends the end of each child to `outlet` as well.
    pub fn on_exit(&self, outlet: Outlet<ChildExit>) {
        self.inner.exits.lock().unwrap_or_else(PoisonError::into_inner).push(outlet);
    }

    /// Starts a child and returns when it is up; it comes up also when the caller stops waiting.
    ///
    /// An id that is in use is refused, and so is everything while the nursery is down.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<Started, StartError> {
        self.control().start_child(spec).await
    }

    /// Stops a child as its spec says and returns when it is gone.
    pub async fn terminate_child(&self, id: &str) -> Result<(), ChildError> {
        self.control().terminate_child(id).await
    }

    /// Returns what else can be asked of any supervisor.
    pub fn control(&self) -> Control {
        Control::of(self.socket())
    }

    /// Returns what starts children that are all alike, but for what each is given.
    ///
    /// `make` gets the id under which the child will be known: the nursery's own id and a number.
    pub fn template<T>(&self, make: impl Fn(&str, T) -> ChildSpec + Send + Sync + 'static) -> Template<T> {
        Template { nursery: self.clone(), make: Arc::new(make) }
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
            let tell = || outlet.send(ChildExit { id: id.to_owned(), exit: exit.clone() });
            match panic::catch_unwind(AssertUnwindSafe(tell)) {
                Ok(Ok(())) => {}
                Ok(Err(down)) => tracing::debug!(%down, child = id, "nobody heard that a child ended"),
                Err(_) => tracing::error!(child = id, "who was told that a child ended panicked"),
            }
        }
    }
}

impl fmt::Debug for Nursery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Nursery").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// One spec for many children of a nursery.
pub struct Template<T> {
    nursery: Nursery,
    make: Arc<Make<T>>,
}

type Make<T> = dyn Fn(&str, T) -> ChildSpec + Send + Sync;

impl<T> Template<T> {
    /// Starts one more child with `arguments` and returns when it is up.
    pub async fn start_child(&self, arguments: T) -> Result<Started, StartError> {
        let number = self.nursery.inner.made.fetch_add(1, Ordering::Relaxed) + 1;
        let id = format!("{}-{number}", self.nursery.id());
        self.nursery.start_child((self.make)(&id, arguments)).await
    }
}

impl<T> Clone for Template<T> {
    fn clone(&self) -> Self {
        Template { nursery: self.nursery.clone(), make: Arc::clone(&self.make) }
    }
}

impl<T> fmt::Debug for Template<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Template").field("nursery", &self.nursery).finish_non_exhaustive()
    }
}
