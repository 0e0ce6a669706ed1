//! What the threads of the library and those who ask know in common. Nobody holds a lock while the driver is asked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::sample::{DriverState, Snapshot, Xid};

/// How many different XIDs of a GPU are told apart.
const XIDS_MAX: usize = 64;

/// The number under which the further ones are counted.
pub(crate) const XID_OTHER: u64 = u64::MAX;

/// What is known in common.
#[derive(Default)]
pub(super) struct Shared {
    /// What was known when the last turn ended.
    snapshot: Mutex<Arc<Snapshot>>,
    /// The call that is under way.
    call: Mutex<Option<Call>>,
    /// How often a call did not return in time, by GPU and call.
    late: Mutex<BTreeMap<(String, &'static str), u64>>,
    /// The errors that the driver reported, by GPU.
    xids: Mutex<BTreeMap<String, BTreeMap<u64, Xid>>>,
}

/// A call that is under way.
#[derive(Clone, Debug)]
struct Call {
    /// Empty where it is about no single GPU.
    uuid: String,
    name: &'static str,
    since: Instant,
}

/// The error under which calls are counted that do not return in time.
pub(crate) const DEADLINE: &str = "deadline";

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Makes `call`, and lets others see that it is under way.
    pub(super) fn calling<T>(&self, uuid: &str, name: &'static str, call: impl FnOnce() -> T) -> T {
        *locked(&self.call) = Some(Call { uuid: uuid.to_owned(), name, since: Instant::now() });
        let answer = call();
        *locked(&self.call) = None;
        answer
    }

    /// Counts the call that is under way as one that did not return in time.
    pub(super) fn note_late(&self) {
        let Some(call) = locked(&self.call).clone() else { return };
        tracing::warn!(gpu = call.uuid, call = call.name, "nvml call does not return");
        *locked(&self.late).entry((call.uuid, call.name)).or_default() += 1;
    }

    pub(super) fn note_xid(&self, uuid: &str, xid: u64, now_ms: u64) {
        let mut xids = locked(&self.xids);
        let known = xids.entry(uuid.to_owned()).or_default();
        let key = if known.len() < XIDS_MAX || known.contains_key(&xid) { xid } else { XID_OTHER };
        let seen = known.entry(key).or_default();
        *seen = Xid { count: seen.count + 1, last_ms: now_ms };
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        *locked(&self.snapshot) = Arc::new(snapshot);
    }

    /// Returns what is known now; `deadline` is how long a call may take before the driver counts as hung.
    pub(super) fn snapshot(&self, deadline: Duration) -> (Snapshot, BTreeMap<(String, &'static str), u64>) {
        let mut snapshot = Snapshot::clone(&locked(&self.snapshot));
        {
            let xids = locked(&self.xids);
            for gpu in &mut snapshot.gpus {
                gpu.xids = xids.get(&gpu.identity.uuid).cloned().unwrap_or_default();
            }
        }
        let late = locked(&self.late).clone();
        for gpu in &mut snapshot.gpus {
            for ((_, name), count) in late.iter().filter(|((uuid, _), _)| *uuid == gpu.identity.uuid) {
                gpu.errors.insert((name, DEADLINE), *count);
            }
        }
        if let Some(call) = locked(&self.call).as_ref().filter(|call| call.since.elapsed() >= deadline) {
            let whose = if call.uuid.is_empty() { String::new() } else { format!(" of {}", call.uuid) };
            let seconds = call.since.elapsed().as_secs();
            snapshot.driver.state = DriverState::Hung;
            snapshot.driver.said = Some(format!("{}{whose} has not returned for {seconds} s", call.name));
        }
        (snapshot, late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvml::sample::GpuView;

    #[test]
    fn a_card_that_reports_ever_other_errors_is_no_leak() {
        let shared = Shared::default();
        for xid in 0..10_000 {
            shared.note_xid("GPU-1", xid, xid);
        }
        shared.note_xid("GPU-1", 3, 20_000);
        let xids = locked(&shared.xids)["GPU-1"].clone();
        assert_eq!(xids.len(), XIDS_MAX + 1);
        assert_eq!(xids[&3], Xid { count: 2, last_ms: 20_000 });
        assert_eq!(xids.values().map(|xid| xid.count).sum::<u64>(), 10_001);
    }

    #[test]
    fn a_call_that_is_late_is_named_and_counted_once_each_time_somebody_gave_up() {
        let shared = Shared::default();
        shared.publish(Snapshot { gpus: vec![GpuView::new("GPU-1")], ..Snapshot::default() });
        shared.note_late();
        shared.calling("GPU-1", "power", || {
            shared.note_late();
            let (snapshot, _) = shared.snapshot(Duration::ZERO);
            assert_eq!(snapshot.driver.state, DriverState::Hung);
            assert!(snapshot.driver.said.unwrap().starts_with("power of GPU-1 has not returned for"));
            assert_eq!(snapshot.gpus[0].errors[&("power", DEADLINE)], 1);
        });
        assert_eq!(shared.snapshot(Duration::ZERO).0.driver.state, DriverState::Unasked);
    }
}
