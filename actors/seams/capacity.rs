use async_trait::async_trait;

use crate::facts::{Domain, Room};

/// What the machine has room for.
#[async_trait]
pub trait Capacity: Send + Sync {
    /// Returns what the machine has, what is left of it, and what the serving instances of `domains` use of it: as it was no more
    /// than a second ago. What cannot be told is absent.
    async fn room(&self, domains: &[&Domain]) -> Room;
}
