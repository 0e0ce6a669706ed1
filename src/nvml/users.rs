//! Who uses the GPUs: processes, with their shares of time and memory.

use std::collections::BTreeMap;

use kloros_actors::seams::{GpuUser, ProbeError};
use nvml_wrapper::{
    Device,
    enums::device::UsedGpuMemory,
    error::NvmlError,
    struct_wrappers::device::{ProcessInfo, ProcessUtilizationSample},
};

use super::{readings::refusal, watch::Watch};

/// Up to when the shares of time were read, by GPU, in the driver's own microseconds.
#[derive(Default)]
pub(super) struct Shares {
    seen_until: BTreeMap<String, u64>,
}

impl Shares {
    /// Returns the processes that have memory of a GPU, or used its time since this was asked last.
    pub(super) fn users(&mut self, watch: &mut Watch) -> Result<Vec<GpuUser>, ProbeError> {
        let Some(loaded) = watch.loaded() else { return Err(refusal(watch.driver())) };
        let mut users = Vec::new();
        for (index, uuid) in &loaded.present {
            let of_gpu = watch.shared().calling(uuid, "users", || {
                loaded.nvml.device_by_index(*index).and_then(|device| self.users_of(uuid, &device))
            });
            // A GPU that does not answer has no users that could be told.
            users.extend(of_gpu.unwrap_or_default());
        }
        watch.keep(loaded);
        Ok(users)
    }

    fn users_of(&mut self, gpu: &str, device: &Device<'_>) -> Result<Vec<GpuUser>, NvmlError> {
        let memory = device.memory_info()?;
        let mut processes = device.running_compute_processes()?;
        processes.extend(device.running_graphics_processes().unwrap_or_default());
        let seen_until = self.seen_until.get(gpu).copied();
        let samples = match device.process_utilization_stats(seen_until) {
            Ok(samples) => Some(samples),
            // Nobody used it since.
            Err(NvmlError::NotFound) => Some(Vec::new()),
            Err(_) => None,
        };
        let newest = samples.iter().flatten().map(|sample| sample.timestamp).max();
        self.seen_until.extend(newest.map(|newest| (gpu.to_owned(), newest)));
        Ok(joined(gpu, memory.total, &processes, samples.as_deref()))
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
}
