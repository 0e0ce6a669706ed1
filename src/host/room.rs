//! What the machine has room for: cores, memory and memory of GPUs, and what the services take of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::future::{BoxFuture, join_all};
use kloros_actors::{
    facts::{Domain, Load, Room},
    seams::Capacity,
};
use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, System};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

use super::{group, tree};
use crate::process::family;

/// How old what was read may be to be told again.
const FRESH: Duration = Duration::from_secs(1);

/// How long reading may take, all of it together.
const READ_MAX: Duration = Duration::from_secs(5);

/// A mebibyte, in bytes.
const MIB: f64 = 1_048_576.0;

/// Finds out the first process of the service of a domain; `None` while it has none that is known.
pub(crate) type PidOf = Box<dyn Fn(&Domain) -> BoxFuture<'static, Option<u32>> + Send + Sync>;

/// Returns what is known of the memory of each GPU.
pub(crate) type GpuMemory = Box<dyn Fn() -> Vec<Gpu> + Send + Sync>;

/// The memory of one GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Gpu {
    pub(crate) all_bytes: f64,
    pub(crate) free_bytes: f64,
    /// Who has how much of it: processes, as the host counts.
    pub(crate) users: Vec<(u32, u64)>,
}

/// The machine, as the coordinator asks for it.
pub(crate) struct Machine {
    pid: PidOf,
    gpus: GpuMemory,
    // One reader at a time; the next one hears what it read.
    seen: Mutex<Seen>,
}

/// What was read last.
#[derive(Default)]
struct Seen {
    told: Option<(Instant, Room)>,
    cores: Arc<std::sync::Mutex<Cores>>,
    /// The first process of each service, the CPU time of all of its processes, in milliseconds, and when.
    used: BTreeMap<String, (u32, u64, Instant)>,
}

/// The share of all cores that is used, as the difference between two takings.
#[derive(Default)]
struct Cores(Option<System>);

impl Machine {
    /// Returns the machine on which `pid` finds services and `gpus` GPUs.
    pub(crate) fn new(pid: PidOf, gpus: GpuMemory) -> Self {
        Self { pid, gpus, seen: Mutex::default() }
    }
}

#[async_trait]
impl Capacity for Machine {
    async fn room(&self, domains: &[&Domain]) -> Room {
        let mut seen = self.seen.lock().await;
        if let Some((at, room)) = &seen.told
            && at.elapsed() < FRESH
            && domains.iter().all(|domain| room.live.contains_key(&domain.name))
        {
            return room.clone();
        }
        let pids = join_all(domains.iter().map(async |domain| ((self.pid)(domain).await, domain.name.clone())));
        let gpus = (self.gpus)();
        let of_gpus = gpus.clone();
        let cores = Arc::clone(&seen.cores);
        let read = async {
            let pids = pids.await;
            spawn_blocking(move || read(&cores, &pids, &of_gpus)).await
        };
        let Ok(Ok((all, left, used))) = timeout(READ_MAX, read).await else {
            tracing::warn!("what the machine has room for cannot be told");
            return Room::default();
        };
        let mut live = BTreeMap::new();
        for (name, used) in used {
            let before = used.and_then(|used| seen.used.insert(name.clone(), (used.pid, used.cpu_ms, used.at)));
            live.insert(name, used.map(|used| used.load(before)).unwrap_or_default());
        }
        let room =
            Room { all: all.with(&gpus, |gpu| gpu.all_bytes), left: left.with(&gpus, |gpu| gpu.free_bytes), live };
        seen.told = Some((Instant::now(), room.clone()));
        room
    }
}

/// Adds the memory of the GPU that has most.
trait WithGpus {
    fn with(self, gpus: &[Gpu], bytes: impl Fn(&Gpu) -> f64) -> Self;
}

impl WithGpus for Load {
    fn with(self, gpus: &[Gpu], bytes: impl Fn(&Gpu) -> f64) -> Self {
        let most = gpus.iter().map(bytes).reduce(f64::max);
        Self { gpu_memory_mib: most.map(|bytes| bytes / MIB), ..self }
    }
}

/// What the processes of a service use.
#[derive(Clone, Copy)]
struct Used {
    pid: u32,
    cpu_ms: u64,
    at: Instant,
    memory_bytes: u64,
    gpu_bytes: u64,
}

impl Used {
    /// Returns it as a load, its cores since `before`.
    fn load(self, before: Option<(u32, u64, Instant)>) -> Load {
        let cores = before.filter(|(pid, ..)| *pid == self.pid).and_then(|(_, cpu_ms, at)| {
            let elapsed = self.at.saturating_duration_since(at);
            let cpu_ms = self.cpu_ms.checked_sub(cpu_ms).filter(|_| elapsed >= MINIMUM_CPU_UPDATE_INTERVAL)?;
            Some(cpu_ms as f64 / 1000.0 / elapsed.as_secs_f64())
        });
        Load {
            cores,
            memory_mib: Some(self.memory_bytes as f64 / MIB),
            gpu_memory_mib: (self.gpu_bytes > 0).then(|| self.gpu_bytes as f64 / MIB),
        }
    }
}

type Uses = Vec<(String, Option<Used>)>;

/// Reads what the machine has, what is left, and what each service uses. Blocks.
fn read(cores: &std::sync::Mutex<Cores>, pids: &[(Option<u32>, String)], gpus: &[Gpu]) -> (Load, Load, Uses) {
    let mut cores = cores.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (all_cores, left_cores) = cores.read();
    let (all_memory, left_memory) = memory().unzip();
    let all = Load { cores: all_cores, memory_mib: all_memory, gpu_memory_mib: None };
    let left = Load { cores: left_cores, memory_mib: left_memory, gpu_memory_mib: None };
    let uses = pids.iter().map(|(pid, name)| (name.clone(), pid.and_then(|pid| use_of(pid, gpus))));
    (all, left, uses.collect())
}

fn use_of(pid: u32, gpus: &[Gpu]) -> Option<Used> {
    let (tree, _) = tree::used(pid)?;
    let family = if gpus.iter().any(|gpu| !gpu.users.is_empty()) { family(pid) } else { BTreeSet::default() };
    let of_gpu = |gpu: &Gpu| gpu.users.iter().filter(|(pid, _)| family.contains(pid)).map(|(_, bytes)| bytes).sum();
    let gpu_bytes = gpus.iter().map(of_gpu).max().unwrap_or_default();
    Some(Used { pid, cpu_ms: tree.cpu_ms, at: Instant::now(), memory_bytes: tree.memory_bytes, gpu_bytes })
}

/// Returns how much memory there is, and how much of it is left, in mebibytes: of the machine, or of the control group around
/// this process where that has less.
fn memory() -> Option<(f64, f64)> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let (all, left) = (system.total_memory() as f64 / MIB, system.available_memory() as f64 / MIB);
    let group = group::memory(system.total_memory()).map(|memory| {
        let limit = memory.limit_bytes as f64 / MIB;
        (limit, limit * (1.0 - memory.used_ratio))
    });
    let (group_all, group_left) = group.unwrap_or((all, left));
    (all > 0.0).then_some((all.min(group_all), left.min(group_left)))
}

impl Cores {
    /// Returns how many cores there are, and how many of them nobody used of late. The first time waits for a moment.
    fn read(&mut self) -> (Option<f64>, Option<f64>) {
        let all = std::thread::available_parallelism().ok().map(|cores| cores.get() as f64);
        let is_first = self.0.is_none();
        if is_first {
            self.0 = System::new().ok();
        }
        let Some(system) = self.0.as_mut() else { return (all, None) };
        if is_first {
            system.refresh_cpu_usage();
            std::thread::sleep(MINIMUM_CPU_UPDATE_INTERVAL);
        }
        system.refresh_cpu_usage();
        let used = f64::from(system.global_cpu_usage()) / 100.0;
        (all, all.map(|all| all * (1.0 - used.clamp(0.0, 1.0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> Domain {
        let text = include_str!("../../config/domains/lab.toml");
        let mut table: toml::Table = text.parse().unwrap();
        table.insert("name".to_owned(), name.into());
        table.try_into().unwrap()
    }

    #[tokio::test]
    async fn the_room_of_this_machine_is_what_it_has_less_what_is_used() {
        let own = std::process::id();
        let gpus = move || {
            let gpu = |all: f64, free: f64, used: u64| Gpu {
                all_bytes: all * MIB,
                free_bytes: free * MIB,
                users: vec![(own, used << 20), (1, 5 << 20)],
            };
            vec![gpu(80.0, 10.0, 40), gpu(100.0, 8.0, 60)]
        };
        let pid: PidOf = Box::new(move |domain| {
            let pid = (domain.name == "ours").then_some(own);
            Box::pin(async move { pid })
        });
        let machine = Machine::new(pid, Box::new(gpus));
        let (ours, gone) = (domain("ours"), domain("gone"));
        let room = machine.room(&[&ours, &gone]).await;
        let (all, left) = (room.all, room.left);
        assert!(left.memory_mib.unwrap() > 0.0 && left.memory_mib < all.memory_mib, "{room:?}");
        assert!(all.cores.unwrap() >= 1.0 && left.cores <= all.cores && left.cores.unwrap() >= 0.0, "{room:?}");
        assert_eq!((all.gpu_memory_mib, left.gpu_memory_mib), (Some(100.0), Some(10.0)));
        let used = room.live["ours"];
        assert!(used.memory_mib.unwrap() > 0.0 && used.cores.is_none(), "{room:?}");
        assert_eq!(used.gpu_memory_mib, Some(60.0), "on the one of which it takes most");
        assert_eq!(room.live["gone"], Load::default());
        assert_eq!(machine.room(&[&ours]).await, room, "it is not read again within a second");
    }

    #[tokio::test]
    async fn a_machine_without_gpus_has_no_memory_of_them() {
        let machine = Machine::new(Box::new(|_| Box::pin(async { None })), Box::new(Vec::new));
        let room = machine.room(&[]).await;
        assert_eq!((room.all.gpu_memory_mib, room.left.gpu_memory_mib), (None, None));
    }
}
