//! What a process and all that it started use of this machine.

use std::collections::BTreeMap;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// How many processes are looked at.
const PROCESSES_MAX: usize = 65_536;

/// What a tree of processes has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) processes: u64,
    pub(super) cpu_ms: u64,
    pub(super) memory_bytes: u64,
}

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    cpu_ms: u64,
    memory_bytes: u64,
}

/// Returns what the process `pid` and all that descend from it have used, and the memory of the machine in bytes; `None` where
/// it is gone.
pub(super) fn used(pid: u32) -> Option<(Used, u64)> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let kind = ProcessRefreshKind::nothing().with_memory().with_cpu().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
    let processes: BTreeMap<u32, Process> = system
        .processes()
        .iter()
        .take(PROCESSES_MAX)
        .map(|(number, process)| {
            let parent = process.parent().map_or(0, sysinfo::Pid::as_u32);
            let (cpu_ms, memory_bytes) = (process.accumulated_cpu_time(), process.memory());
            (number.as_u32(), Process { parent, cpu_ms, memory_bytes })
        })
        .collect();
    processes.contains_key(&pid).then(|| (sum(&processes, pid), system.total_memory()))
}

fn sum(processes: &BTreeMap<u32, Process>, pid: u32) -> Used {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (number, process) in processes {
        children.entry(process.parent).or_default().push(*number);
    }
    let (mut used, mut left) = (Used::default(), vec![pid]);
    // What was read while processes came and went may be a circle: the children of each are taken once.
    while let Some(number) = left.pop() {
        let Some(process) = processes.get(&number) else { continue };
        used.processes += 1;
        used.cpu_ms = used.cpu_ms.saturating_add(process.cpu_ms);
        used.memory_bytes = used.memory_bytes.saturating_add(process.memory_bytes);
        left.extend(children.remove(&number).unwrap_or_default().into_iter().filter(|child| *child != pid));
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_all_that_descends_from_its_first_process() {
        let process = |parent, cpu_ms, memory_bytes| Process { parent, cpu_ms, memory_bytes };
        let processes = BTreeMap::from([
            (1, process(0, 1000, 1000)),
            (10, process(1, 1, 10)),
            (11, process(10, 2, 20)),
            (12, process(11, 4, 40)),
            (20, process(1, 500, 500)),
            (30, process(31, 7, 7)),
            (31, process(30, 8, 8)),
        ]);
        assert_eq!(sum(&processes, 10), Used { processes: 3, cpu_ms: 7, memory_bytes: 70 });
        assert_eq!(sum(&processes, 30).processes, 2, "a circle ends");
        assert_eq!(sum(&processes, 99), Used::default());
    }
}
