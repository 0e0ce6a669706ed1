//! How much of the CPUs is used, and by whom: the kernel's own counts, in its ticks.

use std::{collections::BTreeSet, fs, time::Instant};

/// The counters of the machine that are of work, in `/proc/stat`, by their place: user, nice, system, interrupts, and what the
/// hypervisor took. Guests are part of user and nice; waiting for a disk leaves the core to others.
const WORK: [usize; 6] = [0, 1, 2, 5, 6, 7];

/// How many counters make up all the time there is: idling and waiting besides those of work.
const COUNTERS: usize = 8;

/// A shorter time says nothing: the kernel counts in hundredths of a second. In seconds.
const ELAPSED_S_MIN: f64 = 0.2;

/// The counts of one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: Instant,
    machine: Machine,
    ours: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    work: u64,
    all: u64,
}

/// What of this process counts as ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// Itself.
    Itself,
    /// Itself, and its children that have ended meanwhile.
    WithEnded,
}

/// Returns the counts of now, with those of the process `root`, of what it started, and of this process as ours. `None`
/// where the kernel does not say. Reads the whole table of processes, so it blocks.
pub(crate) fn usage(root: u32, own: Own) -> Option<Usage> {
    let machine = machine(&fs::read_to_string("/proc/stat").ok()?)?;
    let processes = processes();
    let tree = tree(root, &processes);
    let used: u64 = processes.iter().filter(|process| tree.contains(&process.pid)).map(Process::whole).sum();
    let itself = process(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let itself = if own == Own::Itself { itself.itself } else { itself.whole() };
    Some(Usage { at: Instant::now(), machine, ours: used + itself })
}

/// Returns the ids of the process `root` and of what it started, as far as they still run.
pub(crate) fn family(root: u32) -> BTreeSet<u32> {
    tree(root, &processes())
}

impl Usage {
    /// Returns the share of all cores that others used from `earlier` on, from 0 to 1; `None` when that is too short ago.
    pub(crate) fn of_others_since(&self, earlier: &Usage) -> Option<f64> {
        let elapsed = self.at.saturating_duration_since(earlier.at);
        if elapsed.as_secs_f64() < ELAPSED_S_MIN {
            return None;
        }
        share(earlier, self)
    }
}

fn share(before: &Usage, after: &Usage) -> Option<f64> {
    let all = after.machine.all.checked_sub(before.machine.all).filter(|all| *all > 0)?;
    let work = after.machine.work.saturating_sub(before.machine.work);
    // The counts of a process and of the machine are not taken in the same instant.
    let others = work.saturating_sub(after.ours.saturating_sub(before.ours));
    Some((others as f64 / all as f64).min(1.0))
}

fn machine(stat: &str) -> Option<Machine> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let counters: Vec<u64> = line.split_whitespace().map_while(|count| count.parse().ok()).take(COUNTERS).collect();
    let work = WORK.iter().map(|place| counters.get(*place)).sum::<Option<u64>>()?;
    Some(Machine { work, all: counters.iter().sum() })
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    group: u32,
    /// What it used itself.
    itself: u64,
    /// What its children used that have ended and that it has taken note of.
    ended: u64,
}

impl Process {
    fn whole(&self) -> u64 {
        self.itself + self.ended
    }
}

fn process(stat: &str) -> Option<Process> {
    // The second field is the name in parentheses, which may hold anything.
    let (before, after) = stat.rsplit_once(')')?;
    let pid = before.split_whitespace().next()?.parse().ok()?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    // Behind the name stand the state, the parent, the group; the times are fields 14 to 17.
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        itself: number(11)? + number(12)?,
        ended: number(13)? + number(14)?,
    })
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let numbered = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
    numbered.filter_map(|entry| process(&fs::read_to_string(entry.path().join("stat")).ok()?)).collect()
}

/// Returns `root`, what is in its group, and what descends from either.
fn tree(root: u32, processes: &[Process]) -> BTreeSet<u32> {
    let mut tree = BTreeSet::from([root]);
    tree.extend(processes.iter().filter(|process| process.group == root).map(|process| process.pid));
    loop {
        let known = tree.len();
        let children: Vec<u32> =
            processes.iter().filter(|process| tree.contains(&process.parent)).map(|process| process.pid).collect();
        tree.extend(children);
        if tree.len() == known {
            return tree;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64, work: u64, all: u64, ours: u64) -> Usage {
        let at = Instant::now() + Duration::from_secs(seconds);
        Usage { at, machine: Machine { work, all }, ours }
    }

    #[test]
    fn what_is_neither_ours_nor_idle_is_of_others() {
        let before = at(0, 1000, 10_000, 50);
        for (after, expected) in [
            (at(1, 1000, 10_200, 50), Some(0.0)),
            (at(1, 1100, 10_200, 150), Some(0.0)),
            (at(1, 1100, 10_200, 50), Some(0.5)),
            (at(1, 1200, 10_200, 100), Some(0.75)),
            // A tick too many or too few is nothing, and a counter that went back is no time at all.
            (at(1, 1100, 10_200, 155), Some(0.0)),
            (at(1, 1300, 10_200, 50), Some(1.0)),
            (at(1, 900, 10_200, 50), Some(0.0)),
            (at(1, 1100, 10_000, 50), None),
            (at(1, 1100, 9_000, 50), None),
            (at(0, 1100, 10_200, 50), None),
        ] {
            assert_eq!(after.of_others_since(&before), expected, "{after:?}");
        }
    }

    #[test]
    fn the_counters_of_work_are_added_up_and_those_of_idling_are_not() {
        let stat = "cpu  1 20 300 4000 50000 600000 7000000 80000000 9 9\ncpu0 1 1 1 1\n";
        let all = 1 + 20 + 300 + 4000 + 50_000 + 600_000 + 7_000_000 + 80_000_000;
        assert_eq!(machine(stat), Some(Machine { work: all - 4000 - 50_000, all }));
        for odd in ["", "cpu 1 2", "cpu0 1 2 3 4 5 6 7 8", "cpu  1 2 3 x 5 6 7 8 9"] {
            assert_eq!(machine(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "7 (a (b) 1 2) S 3 4 5 0 -1 4 1 2 3 4 10 20 300 4000 20 0 1 0 4711 9 9";
        let expected = Process { pid: 7, parent: 3, group: 4, itself: 30, ended: 4300 };
        assert_eq!(process(stat), Some(expected));
        for odd in ["", "7 (torn", "x (a) S 3 4", "7 (a) S 3 4"] {
            assert_eq!(process(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_tree_holds_descendants_and_the_group_with_its_descendants_and_nobody_else() {
        let process = |pid, parent, group| Process { pid, parent, group, itself: 0, ended: 0 };
        let all = [
            process(9, 8, 9),
            process(8, 7, 7),
            process(7, 1, 7),
            process(5, 1, 7),
            process(6, 5, 6),
            process(2, 1, 2),
        ];
        assert_eq!(tree(7, &all), BTreeSet::from([5, 6, 7, 8, 9]));
        // Who is not there is a tree of its own.
        assert_eq!(tree(77, &all), BTreeSet::from([77]));
    }

    #[test]
    fn this_process_and_what_it_starts_are_found() {
        let own = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let family = family(own);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(family.contains(&own) && family.contains(&child.id()), "{family:?}");
        assert!(usage(own, Own::Itself).is_some());
    }
}
