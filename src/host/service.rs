//! What a service uses of this machine: its own control group, or where it has none its process and all that it started.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use kloros_actors::{
    facts::Reading,
    seams::{Clock, Probe, ProbeError},
};
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use super::{
    group, stalled,
    tree::{self, Used},
};

/// How long reading may take.
const READ_MAX: Duration = Duration::from_secs(5);

/// How long a process that was found is taken to be that of the service, while it lives.
const FOUND_MAX: Duration = Duration::from_secs(10);

/// Over which time restarts are counted, and how many are remembered.
const RESTARTS_WITHIN: Duration = Duration::from_secs(3600);
const RESTARTS_MAX: usize = 1000;

/// The first process of a service, and how often the service was restarted because it had died, as far as that is counted.
pub(crate) type Found = (u32, Option<u32>);

/// Finds out the first process of a service; `None` while it has none that is known.
pub(crate) type Find = Box<dyn Fn() -> BoxFuture<'static, Option<Found>> + Send + Sync>;

/// The probe of what one service uses.
pub(crate) struct UseProbe {
    domain: String,
    find: Find,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

/// What was known at the last reading.
#[derive(Default)]
struct Known {
    found: Option<(Found, Instant)>,
    /// The first process, what was used until then, and when.
    before: Option<(u32, Counters, Instant)>,
    restarts: Restarts,
}

/// What only grows while a service runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    cpu_us: u64,
    oom_kills: Option<u64>,
}

/// What was read of a service.
#[derive(Clone, Debug, Default, PartialEq)]
struct Use {
    counters: Counters,
    memory_bytes: u64,
    /// The used share of the memory that its group may have, where that is limited.
    memory_of_group: Option<f64>,
    /// The share of time in which something in its group stalled: for want of memory, of a processor, of a disk.
    stalled: [Option<f64>; 3],
    processes: u64,
    machine_bytes: u64,
    source: String,
}

impl UseProbe {
    /// Returns the probe of `domain`, whose first process `find` returns at the time.
    pub(crate) fn new(domain: String, find: Find, clock: Arc<dyn Clock>) -> Self {
        Self { domain, find, clock, known: Mutex::default() }
    }
}

#[async_trait]
impl Probe for UseProbe {
    fn name(&self) -> String {
        format!("{}_processes", self.domain)
    }

    async fn read(&self) -> Result<Vec<Reading>, ProbeError> {
        let mut known = self.known.lock().await;
        let now = Instant::now();
        let found = match known.found.filter(|(found, at)| now.duration_since(*at) < FOUND_MAX && lives(found.0)) {
            Some((found, _)) => Some(found),
            None => (self.find)().await.inspect(|found| known.found = Some((*found, now))),
        };
        let Some((pid, deaths)) = found else {
            known.found = None;
            return Err(ProbeError::Absent(format!("{} has no process that is known", self.domain)));
        };
        let read = spawn_blocking(move || read(pid, Path::new("/proc"), Path::new("/sys/fs/cgroup")));
        let seen = match timeout(READ_MAX, read).await {
            Ok(Ok(Some(seen))) => seen,
            Ok(Ok(None)) => return Err(ProbeError::Absent(format!("process {pid} is gone"))),
            Ok(Err(error)) => return Err(ProbeError::Unreachable(error.to_string())),
            Err(_) => return Err(ProbeError::Unreachable("reading the processes takes too long".to_owned())),
        };
        let now = Instant::now();
        let before = known.before.replace((pid, seen.counters, now));
        let since =
            before.filter(|(known, ..)| *known == pid).map(|(_, counters, at)| (counters, now.duration_since(at)));
        let restarts = deaths.map(|deaths| known.restarts.count(deaths, now));
        let at_ms = self.clock.now_ms();
        let reading = |(metric, value): (&str, f64)| Reading {
            subject: self.domain.clone(),
            metric: metric.to_owned(),
            value,
            samples: seen.processes.max(1),
            at_ms,
            source: seen.source.clone(),
        };
        let restarts = restarts.map(|restarts| ("restarts_per_h", f64::from(restarts)));
        Ok(seen.told(since).into_iter().chain(restarts).map(reading).collect())
    }
}

/// Returns whether a process lives.
fn lives(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

impl Use {
    /// Returns what is told of it: by itself, and by what was counted so long before.
    fn told(&self, since: Option<(Counters, Duration)>) -> Vec<(&'static str, f64)> {
        let memory = (self.machine_bytes > 0).then(|| self.memory_bytes as f64 / self.machine_bytes as f64);
        // A process that ended takes its time with it: less than before says nothing.
        let cpu =
            since.and_then(|(before, elapsed)| cpu_share(self.counters.cpu_us.checked_sub(before.cpu_us)?, elapsed));
        let kills = since.and_then(|(before, _)| self.counters.oom_kills?.checked_sub(before.oom_kills?));
        let [memory_stalled, cpu_stalled, io_stalled] = self.stalled;
        let told = [
            ("tree_memory_ratio", memory),
            ("tree_cpu_ratio", cpu),
            ("group_memory_used_ratio", self.memory_of_group),
            ("memory_oom_kills", kills.map(|kills| kills as f64)),
            ("memory_stalled_ratio", memory_stalled),
            ("cpu_stalled_ratio", cpu_stalled),
            ("io_stalled_ratio", io_stalled),
        ];
        told.into_iter().filter_map(|(metric, value)| Some((metric, value?))).collect()
    }
}

/// The deaths of a service within the last hour.
#[derive(Default)]
struct Restarts {
    known: Option<u32>,
    at: VecDeque<Instant>,
}

impl Restarts {
    /// Takes the count of deaths since the service was started by a person or by us, and returns how many there were within an hour.
    fn count(&mut self, deaths: u32, now: Instant) -> u32 {
        // A count that is smaller than before began anew; what was there when it was first read is the past.
        let known = self.known.replace(deaths).unwrap_or(deaths);
        let new = if deaths < known { deaths } else { deaths - known };
        self.at.extend((0..new.min(RESTARTS_MAX as u32)).map(|_| now));
        while self.at.len() > RESTARTS_MAX
            || self.at.front().is_some_and(|at| now.duration_since(*at) >= RESTARTS_WITHIN)
        {
            self.at.pop_front();
        }
        self.at.len() as u32
    }
}

/// Returns the share of the time of all processors that so many microseconds within `elapsed` are.
fn cpu_share(cpu_us: u64, elapsed: Duration) -> Option<f64> {
    let cores = std::thread::available_parallelism().ok()?.get() as f64;
    (!elapsed.is_zero()).then(|| cpu_us as f64 / 1e6 / elapsed.as_secs_f64() / cores)
}

/// Reads what the service of this first process uses; `None` where it is gone. Blocks.
fn read(pid: u32, proc: &Path, mount: &Path) -> Option<Use> {
    let (tree, machine_bytes) = tree::used(pid)?;
    let own = own_group(pid, proc, mount);
    Some(
        own.and_then(|folder| of_group(&folder, tree, machine_bytes))
            .unwrap_or_else(|| of_tree(pid, tree, machine_bytes)),
    )
}

fn of_tree(pid: u32, tree: Used, machine_bytes: u64) -> Use {
    Use {
        counters: Counters { cpu_us: tree.cpu_ms.saturating_mul(1000), oom_kills: None },
        memory_bytes: tree.memory_bytes,
        processes: tree.processes,
        machine_bytes,
        source: format!("/proc/{pid}"),
        ..Use::default()
    }
}

/// Returns the control group (version 2) that a process has for itself and what it started: one that this process is not in.
fn own_group(pid: u32, proc: &Path, mount: &Path) -> Option<PathBuf> {
    let of = |who: &str| {
        let text = fs::read_to_string(proc.join(who).join("cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
        (!path.is_empty() && !path.split('/').any(|part| part == "..")).then_some(path)
    };
    let theirs = of(&pid.to_string())?;
    // A group that is around this process as well counts more than the service.
    let is_around_us = of("self").is_some_and(|ours| Path::new(&ours).starts_with(&theirs));
    let folder = mount.join(&theirs);
    (!is_around_us && folder.join("cgroup.procs").exists()).then_some(folder)
}

/// Returns what a group uses; `None` where it does not count processor time or memory.
fn of_group(folder: &Path, tree: Used, machine_bytes: u64) -> Option<Use> {
    let text = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let cpu_us = group::line(&text("cpu.stat")?, "usage_usec")?;
    let current: u64 = text("memory.current")?.trim().parse().ok()?;
    // What the kernel would give up at once for the asking is not used.
    let given_up = text("memory.stat").and_then(|stat| group::line(&stat, "inactive_file")).unwrap_or_default();
    let pressure = |resource: &str| text(&format!("{resource}.pressure")).and_then(|text| stalled(&text));
    Some(Use {
        counters: Counters {
            cpu_us,
            oom_kills: text("memory.events").and_then(|events| group::line(&events, "oom_kill")),
        },
        memory_bytes: current.saturating_sub(given_up),
        memory_of_group: group::used_of_limit(folder, machine_bytes),
        stalled: ["memory", "cpu", "io"].map(pressure),
        processes: tree.processes,
        machine_bytes,
        source: folder.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    const GIB: u64 = 1 << 30;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn a_service_with_a_group_of_its_own_is_read_from_it() {
        let root = tempfile::tempdir().unwrap();
        let (proc, mount) = (root.path().join("proc"), root.path().join("cgroup"));
        write(&proc.join("self"), &[("cgroup", "0::/system.slice/kloros.service\n")]);
        write(&proc.join("7"), &[("cgroup", "0::/system.slice/chat.service\n")]);
        write(&proc.join("8"), &[("cgroup", "0::/system.slice\n")]);
        write(&proc.join("9"), &[("cgroup", "0::/../../etc\n")]);
        let chat = mount.join("system.slice/chat.service");
        write(
            &chat,
            &[
                ("cgroup.procs", "7\n"),
                ("cpu.stat", "usage_usec 5000000\nuser_usec 1\n"),
                ("memory.current", "3000000000\n"),
                ("memory.max", "4000000000\n"),
                ("memory.stat", "anon 5\ninactive_file 1000000000\n"),
                ("memory.events", "low 0\noom 4\noom_kill 3\n"),
                ("memory.pressure", "some avg10=25.00 avg60=0.00 avg300=0.00 total=0\n"),
            ],
        );
        assert_eq!(own_group(7, &proc, &mount), Some(chat.clone()));
        for shared in [8, 9, 10] {
            assert_eq!(own_group(shared, &proc, &mount), None, "{shared}");
        }
        let tree = Used { processes: 2, ..Used::default() };
        let seen = of_group(&chat, tree, 16 * GIB).unwrap();
        let before = Counters { cpu_us: 4_000_000, oom_kills: Some(1) };
        let told: std::collections::BTreeMap<_, _> =
            seen.told(Some((before, Duration::from_secs(1)))).into_iter().collect();
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        assert!((told["tree_cpu_ratio"] - 1.0 / cores).abs() < 1e-9, "{told:?}");
        assert!((told["tree_memory_ratio"] - 2e9 / (16 * GIB) as f64).abs() < 1e-9, "{told:?}");
        assert_eq!((told["group_memory_used_ratio"], told["memory_oom_kills"]), (0.5, 2.0));
        assert_eq!(told["memory_stalled_ratio"], 0.25);
        assert!(!told.contains_key("cpu_stalled_ratio"));
    }

    #[test]
    fn what_a_group_does_not_say_is_absent_and_odd_text_says_nothing() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("x");
        write(&folder, &[("cpu.stat", "usage_usec x"), ("memory.current", "1")]);
        assert_eq!(of_group(&folder, Used::default(), GIB), None);
        write(&folder, &[("cpu.stat", "usage_usec 1"), ("memory.max", "max"), ("memory.events", "oom_kill -1")]);
        let seen = of_group(&folder, Used::default(), GIB).unwrap();
        assert_eq!((seen.memory_of_group, seen.counters.oom_kills, seen.stalled), (None, None, [None; 3]));
        assert_eq!(seen.told(None).len(), 1);
    }

    #[test]
    fn restarts_are_counted_over_an_hour_and_what_was_before_is_the_past() {
        let (mut restarts, start) = (Restarts::default(), Instant::now());
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        // The count, when it was read, and what is told: it begins anew when the service is well again.
        for (deaths, minutes, expected) in
            [(7, 0, 0), (8, 1, 1), (10, 2, 3), (0, 3, 3), (1, 4, 4), (1, 61, 3), (1, 90, 0)]
        {
            assert_eq!(restarts.count(deaths, at(minutes)), expected, "{deaths} {minutes}");
        }
        assert_eq!(restarts.count(u32::MAX, at(91)), RESTARTS_MAX as u32, "memory is bounded");
    }

    #[tokio::test]
    async fn our_own_tree_is_read_and_its_processor_from_the_second_time_on() {
        let find: Find = Box::new(|| Box::pin(async { Some((std::process::id(), Some(0))) }));
        let probe = UseProbe::new("lab".into(), find, Arc::new(SystemClock));
        let first = probe.read().await.unwrap();
        let metrics = |readings: &[Reading]| readings.iter().map(|each| each.metric.clone()).collect::<Vec<_>>();
        assert!(metrics(&first).contains(&"tree_memory_ratio".to_owned()), "{first:?}");
        assert!(!metrics(&first).contains(&"tree_cpu_ratio".to_owned()), "{first:?}");
        assert!(first[0].value > 0.0 && first[0].value < 1.0 && first[0].samples >= 1, "{first:?}");
        let second = probe.read().await.unwrap();
        assert!(metrics(&second).contains(&"tree_cpu_ratio".to_owned()), "{second:?}");
        assert!(second.iter().any(|each| each.metric == "restarts_per_h" && each.value == 0.0), "{second:?}");
        let gone: Find = Box::new(|| Box::pin(async { None }));
        let absent = UseProbe::new("lab".into(), gone, Arc::new(SystemClock)).read().await;
        assert!(matches!(absent, Err(ProbeError::Absent(_))));
    }
}
