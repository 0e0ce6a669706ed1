//! How busy this machine is: CPU, memory, swap, disks, network, how long work waits for each, what its control group leaves, what
//! each service uses of it, and what there is room for.

mod group;

mod kernel;

mod room;

mod service;

mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kloros_actors::{
    facts::Reading,
    seams::{Clock, Probe, ProbeError},
};
use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, System};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

use kernel::{Devices, Places};
pub(crate) use room::{Gpu, Machine as HostRoom};
pub(crate) use service::UseProbe;

use crate::process::oom_kills;

/// Who the readings are about.
const SUBJECT: &str = "host";

/// How long reading may take; a file system that is gone can hang.
const READ_MAX: Duration = Duration::from_secs(5);

/// The probe of this machine.
pub(crate) struct HostProbe {
    home: PathBuf,
    clock: Arc<dyn Clock>,
    // One reader at a time: while one hangs, the next ones are told so instead of hanging behind it.
    machine: Arc<Mutex<Machine>>,
}

struct Machine {
    system: System,
    /// When the CPU's counters were last taken; usage is the difference between two takings.
    cpu_taken: Option<Instant>,
    /// How many processes had been killed for want of memory at the last reading.
    oom_kills: Option<u64>,
    devices: Devices,
}

impl HostProbe {
    /// Returns the probe; the disk it reads is the one that `home` lies on.
    pub(crate) fn new(home: PathBuf, clock: Arc<dyn Clock>) -> Result<Self, ProbeError> {
        let system = System::new().map_err(|error| ProbeError::Absent(error.to_string()))?;
        let machine = Machine { system, cpu_taken: None, oom_kills: None, devices: Devices::default() };
        Ok(Self { home, clock, machine: Arc::new(Mutex::new(machine)) })
    }
}

#[async_trait]
impl Probe for HostProbe {
    fn name(&self) -> String {
        SUBJECT.to_owned()
    }

    async fn read(&self) -> Result<Vec<Reading>, ProbeError> {
        let Ok(mut machine) = Arc::clone(&self.machine).try_lock_owned() else {
            return Err(ProbeError::Unreachable("an earlier reading of the host has not ended yet".to_owned()));
        };
        let home = self.home.clone();
        let read = spawn_blocking(move || machine.read(&home));
        let seen = match timeout(READ_MAX, read).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => return Err(ProbeError::Unreachable(error.to_string())),
            Err(_) => {
                let limit = READ_MAX.as_secs();
                return Err(ProbeError::Unreachable(format!("reading the host took longer than {limit} s")));
            }
        };
        let at_ms = self.clock.now_ms();
        let reading = |(metric, value, source): Seen| Reading {
            subject: SUBJECT.to_owned(),
            metric: metric.to_owned(),
            value,
            samples: 1,
            at_ms,
            source,
        };
        Ok(seen.into_iter().filter(|(_, value, _)| value.is_finite()).map(reading).collect())
    }
}

/// A metric, its value, and where it was read.
type Seen = (&'static str, f64, String);

impl Machine {
    fn read(&mut self, home: &Path) -> Vec<Seen> {
        let cpu = self.cpu_used().map(|used| ("cpu_used_ratio", used, "/proc/stat".to_owned()));
        self.system.refresh_memory();
        let (total, available) = (self.system.total_memory(), self.system.available_memory());
        let memory = used(total, available).map(|used| ("memory_used_ratio", used, "/proc/meminfo".to_owned()));
        let swap = used(self.system.total_swap(), self.system.free_swap())
            .map(|used| ("swap_used_ratio", used, "/proc/meminfo".to_owned()));
        let load = load_per_core().map(|load| ("load_per_core", load, "/proc/loadavg".to_owned()));
        let disk = rustix::fs::statvfs(home).ok().and_then(|disk| {
            // As `df` counts: what only root may use belongs to neither side.
            used(disk.f_blocks - disk.f_bfree + disk.f_bavail, disk.f_bavail)
        });
        let disk = disk.map(|used| ("disk_used_ratio", used, home.display().to_string()));
        let stalled = [("cpu", "cpu_stalled_ratio"), ("memory", "memory_stalled_ratio"), ("io", "io_stalled_ratio")]
            .map(|(resource, metric)| {
                let file = format!("/proc/pressure/{resource}");
                let stalled = fs::read_to_string(&file).ok().and_then(|text| stalled(&text))?;
                Some((metric, stalled, file))
            });
        let group = group::memory(total);
        let group =
            group.map(|memory| ("group_memory_used_ratio", memory.used_ratio, memory.folder.display().to_string()));
        let killed = self.new_oom_kills().map(|killed| ("memory_oom_kills", killed as f64, "/proc/vmstat".to_owned()));
        let places = Places { proc: Path::new("/proc"), sys: Path::new("/sys") };
        let devices = self.devices.read(&places, Instant::now());
        [cpu, memory, swap, load, disk, group, killed].into_iter().chain(stalled).flatten().chain(devices).collect()
    }

    /// Returns how many processes were killed for want of memory since the last reading; `None` the first time.
    fn new_oom_kills(&mut self) -> Option<u64> {
        let now = oom_kills()?;
        Some(now.saturating_sub(self.oom_kills.replace(now)?))
    }

    /// Returns the share of the CPUs that was used since the last taking; `None` the first time.
    fn cpu_used(&mut self) -> Option<f64> {
        let since = self.cpu_taken.map(|taken| taken.elapsed());
        if since.is_none_or(|since| since >= MINIMUM_CPU_UPDATE_INTERVAL) {
            self.system.refresh_cpu_usage();
            self.cpu_taken = Some(Instant::now());
        }
        since.map(|_| (f64::from(self.system.global_cpu_usage()) / 100.0).clamp(0.0, 1.0))
    }
}

fn load_per_core() -> Option<f64> {
    let cores = std::thread::available_parallelism().ok()?.get();
    Some(System::load_average().ok()?.one / cores as f64)
}

fn used(total: u64, free: u64) -> Option<f64> {
    (total > 0).then(|| 1.0 - free.min(total) as f64 / total as f64)
}

/// Returns the share of the last ten seconds in which some work was stalled, from the text of a pressure file.
fn stalled(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f64 = some.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn this_machine_is_read_and_the_cpu_from_the_second_time_on() {
        let home = tempfile::tempdir().unwrap();
        let probe = HostProbe::new(home.path().to_owned(), Arc::new(SystemClock)).unwrap();
        let metrics = |readings: Vec<Reading>| -> Vec<String> {
            for reading in &readings {
                let most = if reading.metric.ends_with("_ratio") { 1.0 } else { 1e12 };
                assert!((0.0..=most).contains(&reading.value), "{reading:?}");
                assert_eq!(reading.subject, "host");
            }
            readings.into_iter().map(|reading| reading.metric).collect()
        };
        let first = metrics(probe.read().await.unwrap());
        for metric in ["memory_used_ratio", "load_per_core", "disk_used_ratio"] {
            assert!(first.iter().any(|each| each == metric), "{metric} of {first:?}");
        }
        assert!(!first.contains(&"cpu_used_ratio".to_owned()));
        assert!(metrics(probe.read().await.unwrap()).contains(&"cpu_used_ratio".to_owned()));
    }

    #[tokio::test]
    async fn a_reading_that_hangs_does_not_make_the_next_one_hang() {
        let probe = HostProbe::new("/".into(), Arc::new(SystemClock)).unwrap();
        let _hanging = probe.machine.lock().await;
        assert!(matches!(probe.read().await, Err(ProbeError::Unreachable(_))));
    }

    #[test]
    fn pressure_is_read_from_the_ten_second_average_of_some() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(stalled(text), Some(0.125));
        for odd in ["", "some", "some avg10=", "some avg10=NaN", "some avg10=101.0", "full avg10=1.0"] {
            assert_eq!(stalled(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn nothing_of_nothing_is_no_ratio() {
        assert_eq!(used(0, 0), None);
        assert_eq!(used(4, 1), Some(0.75));
        assert_eq!(used(4, 9), Some(0.0));
    }
}
