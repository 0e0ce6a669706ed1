//! XIDs as they come, heard on a thread of its own.
//!
//! Each GPU has an event set of its own: an event then says whose it is, also when the GPU that it is about answers nothing any
//! more, not even who it is. The thread goes from set to set and looks at each for a short while; what comes meanwhile waits
//! in its set.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use kloros_actors::seams::Clock;
use nvml_wrapper::{EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError};

use super::{shared::Shared, xid};

/// How long one round over all sets takes, about.
const ROUND: Duration = Duration::from_secs(1);

/// The shortest and the longest look at one set; the longest is also how long the end is waited for.
const LOOK_MIN: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_millis(500);

/// The number of the driver's error that has none.
const UNKNOWN_XID: u64 = 999;

/// The thread that listens.
pub(super) struct Events {
    stop: mpsc::SyncSender<()>,
    done: mpsc::Receiver<()>,
}

impl Events {
    /// Starts to listen to the GPUs at these indices; `None` when there is no thread to be had.
    pub(super) fn start(
        nvml: Arc<Nvml>,
        gpus: Vec<(u32, String)>,
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
    ) -> Option<Self> {
        let (stop, stopped) = mpsc::sync_channel(1);
        let (ended, done) = mpsc::sync_channel(1);
        let listen = move || {
            listen(&nvml, &gpus, &stopped, |uuid, number| {
                tracing::warn!(gpu = uuid, xid = number, means = xid::words(number), "gpu reports an error");
                shared.note_xid(uuid, number, clock.now_ms());
            });
            drop(nvml);
            // Whoever wanted to know may have given up.
            ended.send(()).ok();
        };
        thread::Builder::new().name("nvml-events".to_owned()).spawn(listen).ok()?;
        Some(Self { stop, done })
    }

    /// Ends to listen, and returns whether the thread has let go of the library.
    pub(super) fn end(self) -> bool {
        drop(self.stop);
        self.done.recv_timeout(LOOK_MAX * 4).is_ok()
    }
}

fn listen(nvml: &Nvml, gpus: &[(u32, String)], stopped: &mpsc::Receiver<()>, hear: impl Fn(&str, u64)) {
    let mut sets: Vec<(&str, EventSet<'_>)> = Vec::new();
    for (index, uuid) in gpus {
        match set_for(nvml, *index) {
            Ok(Some(set)) => sets.push((uuid, set)),
            Ok(None) => tracing::debug!(gpu = uuid, "gpu does not report its errors"),
            Err(error) => tracing::warn!(gpu = uuid, %error, "errors of the gpu cannot be heard"),
        }
    }
    let is_stopped = |within| !matches!(stopped.recv_timeout(within), Err(mpsc::RecvTimeoutError::Timeout));
    while !sets.is_empty() {
        let look = (ROUND / sets.len() as u32).clamp(LOOK_MIN, LOOK_MAX);
        let mut at = 0;
        while at < sets.len() {
            if is_stopped(Duration::ZERO) {
                return;
            }
            let (uuid, set) = &sets[at];
            let begun = Instant::now();
            match set.wait(look.as_millis() as u32) {
                Ok(event) => match event.event_data {
                    Some(XidError::Value(number)) => hear(uuid, number),
                    Some(XidError::Unknown) => hear(uuid, UNKNOWN_XID),
                    None => {}
                },
                // It may also come too early; then the rest of the time is waited for here.
                Err(NvmlError::Timeout) => {
                    if is_stopped(look.saturating_sub(begun.elapsed())) {
                        return;
                    }
                }
                Err(error) => {
                    // The sampler sees what is the matter with the GPU, and loads the library anew.
                    tracing::warn!(gpu = uuid, %error, "errors of the gpu are not heard any more");
                    sets.remove(at);
                    continue;
                }
            }
            at += 1;
        }
    }
}

/// Returns the set into which the GPU's errors come; `None` when it does not report any.
fn set_for(nvml: &Nvml, index: u32) -> Result<Option<EventSet<'_>>, NvmlError> {
    let device = nvml.device_by_index(index)?;
    if !device.supported_event_types()?.contains(EventTypes::CRITICAL_XID_ERROR) {
        return Ok(None);
    }
    let set = nvml.create_event_set()?;
    device.register_events(EventTypes::CRITICAL_XID_ERROR, set).map(Some).map_err(|failed| failed.error)
}
