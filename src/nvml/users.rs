//! Who uses the GPUs: processes, with their shares of time and memory.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kloros_actors::seams::{GpuUser, GpuUsers, ProbeError};
use nvml_wrapper::{
    Device, Nvml,
    enums::device::UsedGpuMemory,
    error::NvmlError,
    struct_wrappers::device::{ProcessInfo, ProcessUtilizationSample},
};

use super::{Apart, READ_MAX, RELOAD_INTERVAL, refusal};

/// The processes on the GPUs.
pub(crate) struct GpuTable {
    users: Apart<Result<Vec<GpuUser>, ProbeError>>,
}

impl GpuTable {
    /// Returns the table; `library` is the file of NVML, searched for by its usual name when `None`.
    pub(crate) fn new(library: Option<PathBuf>) -> Self {
        let mut table = Table { library, loaded: None, absent: None, seen_until: BTreeMap::new() };
        Self { users: Apart::new("nvml-users", READ_MAX, move || table.read()) }
    }
}

#[async_trait]
impl GpuUsers for GpuTable {
    async fn users(&self) -> Result<Vec<GpuUser>, ProbeError> {
        self.users.ask().await.map_err(ProbeError::Unreachable)?
    }
}

/// The library while it is loaded; lives on its own thread.
struct Table {
    library: Option<PathBuf>,
    loaded: Option<Nvml>,
    /// Since when there is known to be no driver; loading it again and again would cost time within measurements.
    absent: Option<Instant>,
    /// Up to when the shares of time were read, by GPU, in the driver's own microseconds.
    seen_until: BTreeMap<String, u64>,
}

impl Table {
    fn read(&mut self) -> Result<Vec<GpuUser>, ProbeError> {
        let is_recent = |since: Instant| since.elapsed() < RELOAD_INTERVAL.max(Duration::from_secs(1));
        if self.absent.is_some_and(is_recent) {
            return Err(ProbeError::Absent("no NVIDIA driver on this machine".to_owned()));
        }
        let nvml = match self.loaded.take() {
            Some(nvml) => nvml,
            None => self.load().map_err(|error| {
                self.absent = Some(Instant::now());
                refusal(&error)
            })?,
        };
        let count = nvml.device_count().map_err(|error| refusal(&error))?;
        let devices = (0..count).filter_map(|index| nvml.device_by_index(index).ok());
        let users = devices.flat_map(|device| self.users_of(&device).unwrap_or_default()).collect();
        self.loaded = Some(nvml);
        Ok(users)
    }

    fn load(&self) -> Result<Nvml, NvmlError> {
        match &self.library {
            Some(library) => Nvml::builder().lib_path(library.as_os_str()).init(),
            None => Nvml::init(),
        }
    }

    fn users_of(&mut self, device: &Device<'_>) -> Result<Vec<GpuUser>, NvmlError> {
        let (gpu, memory) = (device.uuid()?, device.memory_info()?);
        let mut processes = device.running_compute_processes()?;
        processes.extend(device.running_graphics_processes().unwrap_or_default());
        let seen_until = self.seen_until.get(&gpu).copied();
        let samples = match device.process_utilization_stats(seen_until) {
            Ok(samples) => Some(samples),
            // Nobody used it since.
            Err(NvmlError::NotFound) => Some(Vec::new()),
            Err(_) => None,
        };
        let newest = samples.iter().flatten().map(|sample| sample.timestamp).max();
        self.seen_until.extend(newest.map(|newest| (gpu.clone(), newest)));
        Ok(joined(&gpu, memory.total, &processes, samples.as_deref()))
    }
}

/// Returns the processes that have memory of a GPU or used its time; `None` for `samples` where the time cannot be told.
fn joined(
    gpu: &str,
    memory_total: u64,
    processes: &[ProcessInfo],
    samples: Option<&[ProcessUtilizationSample]>,
) -> Vec<GpuUser> {
    let mut users: BTreeMap<u32, GpuUser> = BTreeMap::new();
    let none = |pid| GpuUser { gpu: gpu.to_owned(), pid, busy: samples.map(|_| 0.0), memory: 0.0 };
    for process in processes {
        let user = users.entry(process.pid).or_insert_with(|| none(process.pid));
        if let UsedGpuMemory::Used(bytes) = process.used_gpu_memory {
            user.memory = user.memory.max(bytes as f64 / memory_total.max(1) as f64);
        }
    }
    for sample in samples.unwrap_or_default() {
        let user = users.entry(sample.pid).or_insert_with(|| none(sample.pid));
        let share = f64::from(sample.sm_util.min(100)) / 100.0;
        user.busy = Some(user.busy.unwrap_or_default().max(share));
    }
    users.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_its_memory_and_its_time_of_the_gpu_and_what_cannot_be_told_is_absent() {
        let process = |pid, used_gpu_memory| ProcessInfo {
            pid,
            used_gpu_memory,
            gpu_instance_id: None,
            compute_instance_id: None,
        };
        let sample = |pid, sm_util| ProcessUtilizationSample {
            pid,
            timestamp: 1,
            sm_util,
            mem_util: 0,
            enc_util: 0,
            dec_util: 0,
        };
        let processes = [process(7, UsedGpuMemory::Used(50)), process(8, UsedGpuMemory::Unavailable)];
        let user = |pid, busy, memory| GpuUser { gpu: "GPU-1".to_owned(), pid, busy, memory };
        let samples = [sample(7, 30), sample(7, 20), sample(9, 255)];
        let expected = [user(7, Some(0.3), 0.25), user(8, Some(0.0), 0.0), user(9, Some(1.0), 0.0)];
        assert_eq!(joined("GPU-1", 200, &processes, Some(&samples)), expected);
        let expected = [user(7, None, 0.25), user(8, None, 0.0)];
        assert_eq!(joined("GPU-1", 200, &processes, None), expected);
    }

    #[tokio::test]
    async fn this_machine_has_either_no_driver_or_users_with_possible_shares() {
        let absent = GpuTable::new(Some(PathBuf::from("/no/such/libnvidia-ml.so.1")));
        for _ in 0..2 {
            assert!(matches!(absent.users().await, Err(ProbeError::Absent(_))));
        }
        match GpuTable::new(None).users().await {
            Err(ProbeError::Absent(_)) => {}
            Err(ProbeError::Unreachable(why)) => panic!("{why}"),
            Ok(users) => {
                for user in users {
                    assert!(user.gpu.starts_with("GPU-") && user.pid > 0, "{user:?}");
                    assert!((0.0..=1.0).contains(&user.memory), "{user:?}");
                    assert!(user.busy.is_none_or(|busy| (0.0..=1.0).contains(&busy)), "{user:?}");
                }
            }
        }
    }
}
