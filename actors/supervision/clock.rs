//! What time it is in a tree, in nanoseconds since its start.
//!
//! A handler's begin is noted for every message, and a look at the exact clock would be a tenth of what a message costs in
//! all. Linux keeps a rough one beside it, which is as old as the kernel's last tick, a matter of milliseconds; stall limits
//! and busy ratios ask for no more. A runtime of one thread is timed exactly: its time may be one that a test moves by hand.

use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

/// The clock of one tree.
#[derive(Debug)]
pub(crate) struct Clock {
    epoch: Instant,
    /// When the tree started, by the clock of which the rough one is a copy; nothing where the rough one is not used.
    rough_epoch: Option<u64>,
}

impl Clock {
    /// Returns the clock of a tree that starts now, in the current runtime.
    pub(crate) fn start() -> Self {
        let runtime = Handle::try_current().map(|runtime| runtime.runtime_flavor());
        let has_threads = runtime.is_ok_and(|flavor| flavor != RuntimeFlavor::CurrentThread);
        Clock { epoch: Instant::now(), rough_epoch: (kernel::HAS_ROUGH && has_threads).then(kernel::now) }
    }

    /// Returns how long ago the tree started.
    pub(crate) fn age(&self) -> Duration {
        Instant::now().saturating_duration_since(self.epoch)
    }

    /// Returns the exact time.
    pub(crate) fn exact(&self) -> u64 {
        u64::try_from(self.age().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the time, which may be up to [`lag`](Self::lag) too early, and more where the kernel's tick is late.
    #[inline]
    pub(crate) fn rough(&self) -> u64 {
        self.rough_epoch.map_or_else(|| self.exact(), |epoch| kernel::last_tick().saturating_sub(epoch))
    }

    /// Returns how far the rough time may lie behind the exact one while ticks come in time, in nanoseconds.
    pub(crate) fn lag(&self) -> u64 {
        self.rough_epoch.map_or(0, |_| kernel::tick())
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

    pub(super) const HAS_ROUGH: bool = true;

    pub(super) fn now() -> u64 {
        nanos(clock_gettime(ClockId::Monotonic))
    }

    #[inline]
    pub(super) fn last_tick() -> u64 {
        nanos(clock_gettime(ClockId::MonotonicCoarse))
    }

    pub(super) fn tick() -> u64 {
        nanos(clock_getres(ClockId::MonotonicCoarse))
    }

    #[inline]
    fn nanos(time: Timespec) -> u64 {
        (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    pub(super) const HAS_ROUGH: bool = false;

    pub(super) fn now() -> u64 {
        0
    }

    pub(super) fn last_tick() -> u64 {
        0
    }

    pub(super) fn tick() -> u64 {
        0
    }
}
