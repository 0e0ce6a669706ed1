//! Stands between a program and the kernel: counts what it asks to be done to files and processes, has one call fail or
//! the program die before it, and knows what a power cut would leave.
//!
//! The kernel itself holds each call of the program, and of all that it starts, until this says how it goes on
//! (`SECCOMP_RET_USER_NOTIF`, seccomp(2)). So it meets every way to make a call, needs no right that an ordinary user lacks, and
//! counts over all threads. A process that this has started can do nothing without the process that calls it.

mod call;

mod disk;

mod listener;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

pub use call::Call;
pub use disk::Disk;

use listener::{Answer, Listener};

/// How a call that is met ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The program is killed before the call is made.
    Killed,
    /// The call fails with this number of `errno`, and is not made.
    Fails(i32),
    /// From this one on each call fails that a disk in this state refuses, to whoever runs the same program.
    FailsFromNowOn(i32),
    /// The program is killed when half of what it writes is written.
    Torn,
    /// The power is cut: the program is killed, and from now on nobody changes anything.
    Cut,
}

/// Which processes are counted and met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// The one that was started.
    Started,
    /// Whoever is called with this as its first argument, by whomever.
    Called(&'static str),
}

/// What is to be done to whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What lies below these is counted; processes are as well, whoever they are.
    pub folders: Vec<PathBuf>,
    /// Who is met.
    pub who: Who,
    /// The call that is met, and how it ends.
    pub meets: Option<(Site, Fate)>,
}

/// One call of a program, known again in another run of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// What is asked for.
    pub call: Call,
    /// To which file, from one of the folders on; where that differs from run to run stands `#`. A process has none.
    pub name: String,
    /// The how many-th such call it is, counted from 1.
    pub nth: usize,
}

/// A call of those who are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Which one.
    pub site: Site,
    /// The file's number, where there was one already.
    pub inode: u64,
    /// Whether it was let through.
    pub passed: bool,
}

/// What is known of a program that this stands before.
#[derive(Debug, Default)]
struct Seen {
    started: Option<u32>,
    program: Option<PathBuf>,
    hits: Vec<Hit>,
    counts: BTreeMap<(Call, String), usize>,
    broken: Option<i32>,
    is_cut: bool,
}

/// A program that this stands before.
#[derive(Debug)]
pub struct Tampered {
    seen: Arc<Mutex<Seen>>,
}

impl Tampered {
    /// Starts `command`, and stands before it and all that it starts until the last of them has ended. `disk`, if there is one,
    /// learns what they make durable.
    pub fn spawn(mut command: Command, plan: Plan, disk: Option<Arc<Mutex<Disk>>>) -> io::Result<(Self, Child)> {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        // The kernel's filter holds for a thread and all that it starts, so a thread of its own starts the program.
        let starter = thread::spawn(move || -> io::Result<Child> {
            let listener = Listener::of_this_thread()?;
            send.send(listener).map_err(io::Error::other)?;
            command.spawn()
        });
        if let Ok(listener) = receive.recv() {
            let watch = Watch { plan, seen: Arc::clone(&seen), disk };
            thread::spawn(move || listener.serve(|pid, number, arguments| watch.answer(pid, number, arguments)));
        }
        let child = starter.join().map_err(|_| io::Error::other("the starting thread panicked"))??;
        Ok((Self { seen }, child))
    }

    /// Returns how much was asked for so far.
    pub fn count(&self) -> usize {
        lock(&self.seen).hits.len()
    }

    /// Lets everything pass from now on: the disk is well again.
    pub fn heal(&self) {
        lock(&self.seen).broken = None;
    }

    /// Returns what was asked for so far, in order.
    pub fn hits(&self) -> Vec<Hit> {
        lock(&self.seen).hits.clone()
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    /// Says how a call goes on with the disk as it is.
    fn refusal(&self, call: Call, takes_room: impl Fn() -> bool) -> Answer {
        let refused = self.broken.filter(|errno| call.is_refused_with(*errno, takes_room()));
        refused.map_or(Answer::Pass, Answer::Fail)
    }
}

struct Watch {
    plan: Plan,
    seen: Arc<Mutex<Seen>>,
    disk: Option<Arc<Mutex<Disk>>>,
}

impl Watch {
    /// Says how the call `number` of the thread `tid` goes on.
    fn answer(&self, tid: u32, number: i32, arguments: &[u64; 6]) -> Answer {
        let Some(call) = Call::of(number) else { return Answer::Pass };
        let pid = process_of(tid);
        if pid == std::process::id() {
            return Answer::Pass;
        }
        let mut seen = lock(&self.seen);
        let started = *seen.started.get_or_insert(pid);
        let Some(path) = call.path(tid, number, arguments) else { return Answer::Pass };
        let folder = self.plan.folders.iter().find(|folder| path.starts_with(folder));
        let below = folder.and_then(|folder| path.strip_prefix(folder.parent()?).ok());
        let name = match below {
            Some(below) => name_of(below),
            None if call.is_of_processes() => String::new(),
            None => return Answer::Pass,
        };
        if seen.is_cut {
            return Answer::Fail(libc::EIO);
        }
        let file = Call::file(tid, number, arguments);
        let is_meant = match self.plan.who {
            Who::Started => pid == started,
            Who::Called(word) => is_called(pid, word),
        };
        let fate = |site: &Site| self.plan.meets.as_ref().filter(|(met, _)| met == site).map(|(_, fate)| *fate);
        let takes_room = || call.takes_room(tid, number, arguments, &path);
        let mut answer = Answer::Pass;
        if pid == started {
            seen.program = program_of(pid);
        } else if !is_meant && seen.program.is_some() && program_of(pid) == seen.program {
            answer = seen.refusal(call, takes_room);
        }
        if is_meant {
            let count = seen.counts.entry((call, name.clone())).or_default();
            *count += 1;
            let site = Site { call, name, nth: *count };
            let fate = fate(&site);
            if fate == Some(Fate::Torn) {
                call::write_half(tid, number, arguments).ok();
            }
            answer = meet(&mut seen, fate, pid, call, takes_room);
            let there = file.as_deref().unwrap_or(&path);
            let inode = fs::metadata(there).map_or(0, |file| std::os::unix::fs::MetadataExt::ino(&file));
            seen.hits.push(Hit { site, inode, passed: answer == Answer::Pass });
        }
        if answer == Answer::Pass
            && let Some(disk) = &self.disk
        {
            lock(disk).learn(call, &path, file.as_deref());
        }
        answer
    }
}

/// Says how a call of those who are counted goes on that meets this `fate`.
fn meet(seen: &mut Seen, fate: Option<Fate>, pid: u32, call: Call, takes_room: impl Fn() -> bool) -> Answer {
    match fate {
        Some(Fate::Killed | Fate::Torn | Fate::Cut) => {
            seen.is_cut = fate == Some(Fate::Cut);
            let killed = Pid::from_raw(pid.cast_signed());
            killed.map_or(Ok(()), |pid| kill_process(pid, Signal::KILL)).ok();
            // Nobody hears this: the one who asked is dead.
            Answer::Fail(libc::EINTR)
        }
        Some(Fate::Fails(errno)) => Answer::Fail(errno),
        Some(Fate::FailsFromNowOn(errno)) => {
            seen.broken = Some(errno);
            seen.refusal(call, takes_room)
        }
        None => seen.refusal(call, takes_room),
    }
}

/// Returns a path with `#` in the place of each number that a run makes up: of digits alone, or of eight and more hexadecimal ones.
fn name_of(path: &Path) -> String {
    let path = path.to_string_lossy();
    let mut name = String::new();
    for word in path.split_inclusive(|each: char| !each.is_ascii_alphanumeric()) {
        let (word, end) = match word.chars().next_back() {
            Some(last) if !last.is_ascii_alphanumeric() => word.split_at(word.len() - last.len_utf8()),
            _ => (word, ""),
        };
        let is_hex = word.len() >= 8 && word.bytes().all(|each| each.is_ascii_hexdigit());
        let is_number = !word.is_empty() && word.bytes().all(|each| each.is_ascii_digit());
        name.push_str(if is_hex || is_number { "#" } else { word });
        name.push_str(end);
    }
    name
}

/// Returns the process of which `tid` is a thread.
fn process_of(tid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let id = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    id.and_then(|id| id.trim().parse().ok()).unwrap_or(tid)
}

fn program_of(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

fn is_called(pid: u32, word: &str) -> bool {
    let line = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(word.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    /// Runs a program that writes four bytes twice, and returns how it ended, how long its file is, and what was asked.
    fn run(meets: Option<(Site, Fate)>) -> (Option<i32>, Option<u64>, Vec<Site>) {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        fs::create_dir(&work).unwrap();
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", "of=a", "bs=4", "count=2"]).current_dir(&work);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let plan = Plan { folders: vec![work.clone()], who: Who::Started, meets };
        let (tampered, mut child) = Tampered::spawn(command, plan, None).unwrap();
        let code = child.wait().unwrap().code();
        let length = fs::metadata(work.join("a")).ok().map(|file| file.len());
        let sites = tampered.hits().into_iter().map(|hit| hit.site);
        (code, length, sites.filter(|site| matches!(site.call, Call::Open | Call::Write)).collect())
    }

    fn site(call: Call, nth: usize) -> Site {
        Site { call, name: "work/a".to_owned(), nth }
    }

    #[test]
    fn what_changes_a_file_is_counted_and_passes() {
        let all = vec![site(Call::Open, 1), site(Call::Write, 1), site(Call::Write, 2)];
        assert_eq!(run(None), (Some(0), Some(8), all));
    }

    #[test]
    fn a_call_fails_or_is_the_last_one() {
        let met = |call, nth, fate| run(Some((site(call, nth), fate)));
        let (code, length, _) = met(Call::Write, 2, Fate::Fails(libc::ENOSPC));
        assert_eq!((code, length), (Some(1), Some(4)));
        let (code, length, sites) = met(Call::Write, 1, Fate::Killed);
        assert_eq!((code, length, sites.last()), (None, Some(0), Some(&site(Call::Write, 1))));
        let (code, length, _) = met(Call::Write, 2, Fate::Torn);
        assert_eq!((code, length), (None, Some(6)));
        let (code, length, _) = met(Call::Open, 1, Fate::FailsFromNowOn(libc::EROFS));
        assert_eq!((code, length), (Some(1), None));
    }

    #[test]
    fn what_a_run_makes_up_is_no_part_of_a_name() {
        for (path, name) in [
            ("home/.kloros/pending/small.json", "home/.kloros/pending/small.json"),
            ("service/.env.kloros-swap-0123456789abcdef-fedcba9876543210", "service/.env.kloros-swap-#-#"),
            ("home/trials/17/out", "home/trials/#/out"),
            ("home/a1/added", "home/a1/added"),
        ] {
            assert_eq!(name_of(Path::new(path)), name);
        }
    }
}
