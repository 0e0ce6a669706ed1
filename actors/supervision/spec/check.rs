//! What makes a spec unusable, found before anything is started.

use std::collections::HashSet;
use std::time::Duration;

use super::{AutoShutdown, Backoff, ChildSpec, Flags, Restart, Shutdown, Start, TreeSpec};

impl TreeSpec {
    /// Returns the first thing that makes this spec unusable as a whole tree.
    pub(crate) fn check_root(&self) -> Result<(), SpecError> {
        self.check()?;
        if self.children.iter().any(|child| *child.id == *self.id) {
            return Err(SpecError::NamedLikeTheRoot { id: self.id.clone() });
        }
        Ok(())
    }

    /// Returns the first thing that makes this spec unusable, wherever it stands.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        check_id(&self.id)?;
        if self.flags.intensity.within.is_zero() {
            return Err(SpecError::EmptyWindow { supervisor: self.id.clone() });
        }
        check_backoff(&self.id, &self.backoff)?;
        let mut seen = HashSet::new();
        for child in &self.children {
            if !seen.insert(&child.id) {
                return Err(SpecError::DuplicateId { supervisor: self.id.clone(), id: child.id.as_ref().to_owned() });
            }
            child.check(&self.flags)?;
        }
        Ok(())
    }
}

impl ChildSpec {
    /// Returns the first thing that makes this spec unusable below a supervisor with these flags.
    pub(crate) fn check(&self, flags: &Flags) -> Result<(), SpecError> {
        let id = || self.id.as_ref().to_owned();
        check_id(&self.id)?;
        check_backoff(&self.id, &self.rules.backoff)?;
        if self.rules.stall_after.is_some_and(|limit| limit.is_zero()) {
            return Err(SpecError::NoTimeToWork { id: id() });
        }
        if self.rules.start_within.is_some_and(|limit| limit.is_zero()) {
            return Err(SpecError::NoTimeToStart { id: id() });
        }
        if self.rules.shutdown == Shutdown::Within(Duration::ZERO) {
            return Err(SpecError::NoTimeToStop { id: id() });
        }
        if self.rules.kill_within.is_zero() {
            return Err(SpecError::NoTimeToDie { id: id() });
        }
        if self.rules.significant && self.rules.restart == Restart::Permanent {
            return Err(SpecError::SignificantPermanent { id: id() });
        }
        if self.rules.significant && flags.auto_shutdown == AutoShutdown::Never {
            return Err(SpecError::SignificantForNothing { id: id() });
        }
        match &self.start {
            Start::Actor(maker) if maker.in_flight_max() == 0 => Err(SpecError::NoRoom { id: id() }),
            Start::Actor(_) => Ok(()),
            Start::Supervisor(tree) => tree.check(),
        }
    }
}

fn check_id(id: &str) -> Result<(), SpecError> {
    if id.is_empty() || id.contains('/') {
        return Err(SpecError::BadId { id: id.to_owned() });
    }
    Ok(())
}

fn check_backoff(id: &str, backoff: &Backoff) -> Result<(), SpecError> {
    if !(0.0..=1.0).contains(&backoff.jitter_ratio) {
        return Err(SpecError::BadJitter { id: id.to_owned(), jitter_ratio: backoff.jitter_ratio });
    }
    if backoff.healthy_after.is_zero() {
        return Err(SpecError::HealthyAtOnce { id: id.to_owned() });
    }
    if backoff.first > backoff.max {
        return Err(SpecError::BackoffAboveMax { id: id.to_owned(), first: backoff.first, max: backoff.max });
    }
    Ok(())
}

/// Why a tree or a child was refused before anything of it was started.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The id cannot be part of a path.
    #[error("the id {id:?} is empty or contains a slash; use a plain name")]
    BadId {
        /// The id as given.
        id: String,
    },
    /// Two children of one supervisor would be mistaken for each other.
    #[error("supervisor {supervisor} has two children named {id}; give each its own id")]
    DuplicateId {
        /// Whose children they are.
        supervisor: String,
        /// The id that is there twice.
        id: String,
    },
    /// The intensity counts restarts in no time at all.
    #[error("supervisor {supervisor} counts restarts within zero time; give the intensity a window")]
    EmptyWindow {
        /// Whose intensity it is.
        supervisor: String,
    },
    /// The jitter would make a wait negative, or is not a number.
    #[error("the back-off of {id} has a jitter ratio of {jitter_ratio}; it lies between 0 and 1")]
    BadJitter {
        /// Whose back-off it is.
        id: String,
        /// The ratio as given.
        jitter_ratio: f64,
    },
    /// The back-off would shrink.
    #[error("the back-off of {id} begins at {first:?}, above its longest wait of {max:?}")]
    BackoffAboveMax {
        /// Whose back-off it is.
        id: String,
        /// The first wait.
        first: Duration,
        /// The longest wait.
        max: Duration,
    },
    /// Every failure would be forgotten before it counts, and no restart would ever wait.
    #[error("the back-off of {id} takes it for healthy after zero time; give it a while to prove it")]
    HealthyAtOnce {
        /// Whose back-off it is.
        id: String,
    },
    /// Every handler would count as stalled.
    #[error("{id} stalls after zero time; give its handlers time to work")]
    NoTimeToWork {
        /// Whose limit it is.
        id: String,
    },
    /// Every start would count as failed.
    #[error("{id} has zero time to start; give its pre_start time")]
    NoTimeToStart {
        /// Whose limit it is.
        id: String,
    },
    /// It would be killed while it is asked to stop.
    #[error("{id} has zero time to stop; give it some, or say that it is to be killed")]
    NoTimeToStop {
        /// Whose shutdown it is.
        id: String,
    },
    /// Everybody would count as blocked.
    #[error("{id} has zero time to answer a kill; give it some")]
    NoTimeToDie {
        /// Whose limit it is.
        id: String,
    },
    /// It could never be sent anything.
    #[error("the mailbox of {id} takes no message; let at least one wait")]
    NoRoom {
        /// Whose mailbox it is.
        id: String,
    },
    /// A child of the root has its path from its id alone, and would be taken for the root.
    #[error("a child of {id} has the same id; give it another one")]
    NamedLikeTheRoot {
        /// The id that is there twice.
        id: String,
    },
    /// A permanent child is never done, so nothing could follow from it.
    #[error("{id} is significant and permanent; only a child that may be done can be significant")]
    SignificantPermanent {
        /// Which child.
        id: String,
    },
    /// The supervisor never ends by itself.
    #[error("{id} is significant, but its supervisor never shuts down by itself; give it an auto-shutdown")]
    SignificantForNothing {
        /// Which child.
        id: String,
    },
    /// A running supervisor cannot turn from a fixed list to children that come and go, or back.
    #[error("supervisor {supervisor} cannot turn from static to dynamic, or back, while it runs")]
    OtherOrder {
        /// Which supervisor.
        supervisor: String,
    },
    /// A running child cannot turn from an actor into a supervisor, or back.
    #[error("{id} cannot turn from an actor into a supervisor, or back; delete it first")]
    OtherKind {
        /// Which child.
        id: String,
    },
}
