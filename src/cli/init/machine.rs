//! What is read of the machine: the table of processes, where they listen, and the units and GPUs that are asked about.
//!
//! Invariant: what ends while it is read, may not be read or makes no sense is left out, and never an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kloros_actors::gpu;

use super::{
    known::Known,
    seen::{Arguments, Process, RunBy, Seen},
};
use crate::{
    clock::SystemClock,
    gpus,
    nvml::{DriverState, Gpus},
    service,
};

/// How many processes are looked at.
const PROCESSES_MAX: usize = 65_536;

/// How much of a file of the kernel is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// How much of the arguments of a process is read, in bytes.
const ARGUMENTS_BYTES_MAX: u64 = 64 << 10;

/// How many open files of a process are looked through for sockets.
const FILES_MAX: usize = 65_536;

/// How the kernel says that a socket listens.
const LISTENS: &str = "0A";

/// What the groups of containers have in their names.
const CONTAINERS: [&str; 7] = ["docker", "libpod", "kubepods", "containerd", "crio", "lxc", "machine.slice"];

/// How long GPUs may take to answer.
const GPUS_WITHIN: Duration = Duration::from_secs(30);

/// Looks at the machine as it is now.
pub(super) async fn look(known: &[Known]) -> Seen {
    let mut seen = processes(Path::new("/proc"));
    look_at_gpus(&mut seen).await;
    look_at_units(known, &mut seen).await;
    seen
}

/// Returns the processes that `proc` tells of. Blocks.
fn processes(proc: &Path) -> Seen {
    let sockets = listening(proc);
    let own = Own {
        uid: rustix::process::getuid().as_raw(),
        space: space(&proc.join("self")),
        group: group(&proc.join("self")),
    };
    let entries = fs::read_dir(proc).into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let read = |pid: u32| process(&proc.join(pid.to_string()), pid, &sockets, &own);
    let mut processes: Vec<Process> = pids.take(PROCESSES_MAX).filter_map(read).collect();
    processes.sort_by_key(|process| process.pid);
    mark_children_of_kloros(&mut processes);
    let mut unseen = Vec::new();
    let hidden = processes.iter().filter(|process| process.listens.is_none()).count();
    if hidden > 0 {
        unseen.push(format!("where {hidden} processes of other users listen: root sees that"));
    }
    Seen { processes, unseen, ..Seen::default() }
}

/// What of this process itself others are held against.
struct Own {
    uid: u32,
    space: Option<PathBuf>,
    group: Option<String>,
}

/// Returns what the folder of a process tells; `None` where it has ended, or another one has its place by the end.
fn process(folder: &Path, pid: u32, sockets: &BTreeMap<u64, SocketAddr>, own: &Own) -> Option<Process> {
    let (parent, begun) = stat(folder)?;
    let words = text(&folder.join("cmdline"), ARGUMENTS_BYTES_MAX)?;
    let words: Vec<String> = words.split('\0').map(str::to_owned).collect();
    let file = fs::read_link(folder.join("exe")).ok();
    let calls_itself = text(&folder.join("comm"), FILE_BYTES_MAX)?;
    let names = names(file.as_deref(), calls_itself.trim_end_matches('\n'), &words);
    let program = program(file.as_deref(), &words, own.uid);
    let uid = fs::metadata(folder).ok()?.uid();
    let run_by = run_by(folder, uid, own);
    let listens =
        open_sockets(folder).map(|open| open.iter().filter_map(|inode| sockets.get(inode)).copied().collect());
    let is_still_there = stat(folder).is_some_and(|(_, again)| again == begun);
    let arguments = Arguments(words);
    is_still_there.then_some(Process { pid, parent, names, arguments, program, run_by, listens, is_on_gpu: false })
}

/// Returns the parent of a process and when it began.
fn stat(folder: &Path) -> Option<(u32, u64)> {
    let text = text(&folder.join("stat"), FILE_BYTES_MAX)?;
    // The second field is the name in parentheses, which may hold anything.
    let (_, after) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

/// Returns at most so many bytes of a file, as text.
fn text(path: &Path, bytes_max: u64) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(bytes_max).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the names by which a process may be known.
fn names(file: Option<&Path>, calls_itself: &str, words: &[String]) -> Vec<String> {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    // A server may put what it does in the place of its arguments, as in "redis-server *:6379".
    let first = words.first().and_then(|word| word.split_whitespace().next()).map(last);
    let file = file.map(|path| last(&path.to_string_lossy()).trim_end_matches(" (deleted)").to_owned());
    let mut names: Vec<String> = [file, Some(calls_itself.to_owned()), first].into_iter().flatten().collect();
    if names.iter().any(|name| name.starts_with("python")) {
        names.extend(script(words).map(|script| last(&script)));
    }
    names.retain(|name| !name.is_empty());
    names.dedup();
    names
}

/// Returns the script or module that an interpreter runs.
fn script(words: &[String]) -> Option<String> {
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-m" => return words.next().cloned(),
            option if option.starts_with('-') => {}
            script => return Some(script.to_owned()),
        }
    }
    None
}

/// Returns the path of the program, or of the script that an interpreter runs, where nobody but root and this user can put another
/// one in its place: kloros will start it.
fn program(file: Option<&Path>, words: &[String], uid: u32) -> Option<String> {
    let file = file?;
    let is_interpreter = file.file_name().is_some_and(|name| name.as_bytes().starts_with(b"python"));
    let path = if is_interpreter { PathBuf::from(script(words)?) } else { file.to_owned() };
    is_kept(&path, uid).then(|| path.to_str().map(str::to_owned))?
}

/// Returns whether `path` and all folders above it belong to root or to user `uid` and are written by nobody else.
fn is_kept(path: &Path, uid: u32) -> bool {
    let Ok(real) = fs::canonicalize(path) else { return false };
    let is_ours = |path: &Path| {
        fs::symlink_metadata(path).is_ok_and(|found| {
            (found.uid() == 0 || found.uid() == uid) && (found.is_symlink() || found.mode() & 0o022 == 0)
        })
    };
    path.is_absolute() && real.is_file() && path.ancestors().all(is_ours) && real.ancestors().all(is_ours)
}

/// Returns who runs the process of a folder.
fn run_by(folder: &Path, uid: u32, own: &Own) -> RunBy {
    let group = group(folder);
    let is_marked =
        |group: &Option<String>| group.as_ref().is_some_and(|group| CONTAINERS.iter().any(|name| group.contains(name)));
    // Whoever shares our numbers of processes is in no container that we are not in ourselves.
    let is_contained = match (space(folder), &own.space) {
        (Some(space), Some(own)) => space != *own,
        _ => is_marked(&group) && !is_marked(&own.group),
    };
    if is_contained { RunBy::Container } else { group.map_or(RunBy::Nobody, |group| by_group(&group, uid, own.uid)) }
}

/// Returns who runs what is in a control group of systemd.
fn by_group(group: &str, uid: u32, own_uid: u32) -> RunBy {
    let parts: Vec<&str> = group.split('/').collect();
    let Some(at) = parts.iter().rposition(|part| part.ends_with(".service")) else { return RunBy::Nobody };
    let (unit, of_user) = (parts[at], parts[..at].iter().any(|part| part.starts_with("user@")));
    match unit {
        // A login, and what a person starts there.
        unit if unit.starts_with("user@") => RunBy::Nobody,
        unit if of_user && uid == own_uid => RunBy::UserUnit(unit.to_owned()),
        // Whose units are not ours to name.
        _ if of_user => RunBy::Nobody,
        "kloros.service" => RunBy::Kloros,
        unit => RunBy::Unit(unit.to_owned()),
    }
}

/// Returns the control group of a process: that of systemd where there are several trees.
fn group(folder: &Path) -> Option<String> {
    let text = text(&folder.join("cgroup"), FILE_BYTES_MAX)?;
    let of = |name: &str| text.lines().find_map(|line| Some(line.split_once(name)?.1.to_owned()));
    of(":name=systemd:").or_else(|| of("0::"))
}

fn space(folder: &Path) -> Option<PathBuf> {
    fs::read_link(folder.join("ns/pid")).ok()
}

/// Returns the numbers of the sockets that a process has open; `None` where that may not be seen.
fn open_sockets(folder: &Path) -> Option<BTreeSet<u64>> {
    let entries = fs::read_dir(folder.join("fd")).ok()?;
    let links = entries.take(FILES_MAX).filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Some(links.filter_map(|link| socket(link.as_os_str())).collect())
}

fn socket(link: &OsStr) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Returns where this machine listens, by the number of the socket.
fn listening(proc: &Path) -> BTreeMap<u64, SocketAddr> {
    let tables = ["net/tcp", "net/tcp6"].iter().filter_map(|name| text(&proc.join(name), FILE_BYTES_MAX));
    tables.flat_map(|table| table.lines().skip(1).filter_map(listener).collect::<Vec<_>>()).collect()
}

fn listener(line: &str) -> Option<(u64, SocketAddr)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    let (address, port) = (address_of(address)?, u16::from_str_radix(port, 16).ok()?);
    let inode = fields.get(9)?.parse().ok()?;
    (*fields.get(3)? == LISTENS).then_some((inode, SocketAddr::new(address, port)))
}

/// Returns the address that the kernel writes as words of 32 bits, each in the order of this machine.
fn address_of(text: &str) -> Option<IpAddr> {
    let words: Option<Vec<u8>> = (0..text.len() / 8)
        .map(|word| u32::from_str_radix(text.get(word * 8..word * 8 + 8)?, 16).ok())
        .map(|word| word.map(u32::to_ne_bytes))
        .collect::<Option<Vec<_>>>()
        .map(|words| words.concat());
    let bytes = words?;
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?);
    Some(address.to_ipv4_mapped().map_or(address.into(), Into::into))
}

/// Notes which processes a kloros has started.
fn mark_children_of_kloros(processes: &mut [Process]) {
    let is_kloros = |process: &&Process| process.names.iter().any(|name| name == "kloros");
    let kloros: BTreeSet<u32> = processes.iter().filter(is_kloros).map(|process| process.pid).collect();
    for process in processes.iter_mut().filter(|process| kloros.contains(&process.parent)) {
        process.run_by = RunBy::Kloros;
    }
}

async fn look_at_gpus(seen: &mut Seen) {
    let mut watching = gpus::watching(&gpu::Config::default(), false);
    watching.deadline = watching.deadline.max(GPUS_WITHIN);
    let gpus = Gpus::new(watching, Arc::new(SystemClock), |_| ());
    // What does not answer is part of what is known.
    gpus.look().await.ok();
    let snapshot = gpus.known().snapshot;
    if snapshot.driver.state != DriverState::Ready {
        if !snapshot.driver.state.is_absence() {
            seen.unseen.push(format!("GPUs: {}", snapshot.driver.state.words()));
        }
        return;
    }
    for gpu in &snapshot.gpus {
        seen.gpus.push(gpu.identity.name.clone().unwrap_or_else(|| gpu.identity.uuid.clone()));
        let on_it: BTreeSet<u32> = gpu.processes.iter().map(|process| process.pid).collect();
        for process in seen.processes.iter_mut().filter(|process| on_it.contains(&process.pid)) {
            process.is_on_gpu = true;
        }
    }
}

/// Asks systemd which of the units are there under which known services run.
async fn look_at_units(known: &[Known], seen: &mut Seen) {
    let units: Vec<&str> = known.iter().flat_map(|known| known.units).copied().collect();
    match service::units_there(&units).await {
        Ok(there) => seen.units = there,
        Err(why) => seen.unseen.push(format!("units of systemd that run nothing: {why}")),
    }
}

#[cfg(test)]
mod tests;
