//! Who undoes a change when this process does not, and by what.

use std::time::Duration;

use async_trait::async_trait;

use super::EnvStoreError;
use crate::facts::DeploymentId;

/// Where what undoes a deployment lies, outside the journal: it needs no database and no free disk to be used.
#[async_trait]
pub trait PendingStore: Send + Sync {
    /// Writes the text of the pending file of `domain` and the terms on which it is undone, durably, before anything is touched.
    async fn arm(&self, domain: &str, text: String, terms: Terms) -> Result<(), EnvStoreError>;

    /// Returns the text of the pending file of `domain`, if there is one that nobody outside took over.
    async fn armed(&self, domain: &str) -> Result<Option<String>, EnvStoreError>;

    /// Returns what somebody outside the daemon took over: from then on the daemon may only go back with it.
    async fn claimed(&self, domain: &str) -> Result<Option<Claimed>, EnvStoreError>;

    /// Puts off the deadline of everything that is armed until `within` from now.
    async fn extend(&self, within: Duration) -> Result<(), EnvStoreError>;

    /// Removes the pending file of `domain`, also one that was taken over.
    async fn disarm(&self, domain: &str) -> Result<(), EnvStoreError>;
}

/// On which terms a change is undone from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long the daemon has before others act, unless it says that it still works.
    pub within: Duration,
    /// How often the service may be restarted for an undo by whoever acts unasked.
    pub tries: u32,
}

/// A pending file that somebody outside the daemon took over, because the daemon was dead or late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The text of its pending file.
    pub text: String,
    /// Whether env file and service are back on the old values.
    pub is_undone: bool,
}

/// Who undoes a deployment when the daemon does not: a process that outlives it.
#[async_trait]
pub trait Guard: Send + Sync {
    /// Has the armed deployment of `domain` watched from outside, and returns when it is. The error says in words why it
    /// cannot be: then nothing may be changed.
    async fn watch(&self, domain: &str, deployment: &DeploymentId) -> Result<(), String>;

    /// Returns whether somebody watches over this deployment of `domain` now.
    async fn is_watched(&self, domain: &str, deployment: &DeploymentId) -> bool;

    /// Ends the watch over `domain`, whose pending file is gone.
    async fn relieve(&self, domain: &str);

    /// Waits until nobody outside undoes anything, and keeps it so until the answer is dropped: one process at a time restarts
    /// services. The error says in words that somebody else does not come to an end.
    async fn alone(&self) -> Result<Alone, String>;
}

/// The right to restart services, which one process has at a time; dropping it gives it back.
pub type Alone = Box<dyn std::any::Any + Send + Sync>;
