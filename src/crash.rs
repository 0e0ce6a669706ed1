//! Places at which a test may have the program die as `kill -9` would, between one thing that it does to the machine and the next.
//!
//! They are there in builds with debug assertions alone: of a release build nothing of this is left. `KLOROS_CRASH` says where
//! the hits are written, one a line, and which of them is the last: `FILE` or `FILE:NUMBER`, counted from 1.

#[cfg(debug_assertions)]
use std::{
    fs::OpenOptions,
    io::Write as _,
    sync::{Mutex, OnceLock, PoisonError},
};

/// Dies here, if a test says so.
#[cfg(not(debug_assertions))]
#[inline]
pub(crate) fn here(_: &str) {}

/// Dies here, if a test says so.
#[cfg(debug_assertions)]
pub(crate) fn here(place: &str) {
    static PLAN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static HITS: Mutex<u64> = Mutex::new(0);

    let Some((file, last)) = PLAN.get_or_init(plan) else { return };
    // Held while the line is written, so that the lines are in the order of the hits.
    let mut hits = HITS.lock().unwrap_or_else(PoisonError::into_inner);
    *hits += 1;
    let log = OpenOptions::new().create(true).append(true).open(file);
    log.and_then(|mut log| writeln!(log, "{hits} {place}")).ok();
    if *hits == *last {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).ok();
        // The signal ends the process before this goes on, and nothing else may be done until then.
        loop {
            std::thread::park();
        }
    }
}

#[cfg(debug_assertions)]
fn plan() -> Option<(String, u64)> {
    let text = std::env::var("KLOROS_CRASH").ok()?;
    match text.rsplit_once(':') {
        Some((file, last)) => Some((file.to_owned(), last.parse().ok()?)),
        None => Some((text, 0)),
    }
}
