//! The control group that this process is in: how much memory it may have, and who was killed for want of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// How many levels of groups are looked at.
const LEVELS_MAX: usize = 32;

/// A limit of this many bytes or more is none: version 1 writes the largest page below 2^63.
const NO_LIMIT_FROM: u64 = 1 << 60;

/// What the files of one level are called, by the version of control groups: the used memory, its limit, and the line of
/// `memory.stat` with what of it is no more than a copy of files that was not looked at of late.
const FILES: [(&str, &str, &str); 2] = [
    ("memory.current", "memory.max", "inactive_file"),
    ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"),
];

/// The memory of the group that is nearest to its limit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Memory {
    /// The used share of the limit, from 0 to 1: what the kernel would give up at once for the asking is not used.
    pub(super) used_ratio: f64,
    /// The limit, in bytes.
    pub(super) limit_bytes: u64,
    /// Where it was read.
    pub(super) folder: PathBuf,
}

/// Returns the memory of the tightest group around this process; `None` where no limit is below what the machine has.
pub(super) fn memory(machine_bytes: u64) -> Option<Memory> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    folders(&groups, Path::new("/sys/fs/cgroup")).into_iter().find_map(|(top, own)| tightest(&top, &own, machine_bytes))
}

/// Returns the top and the own folder of each hierarchy that accounts for memory, from the text of `/proc/self/cgroup`.
fn folders(groups: &str, mount: &Path) -> Vec<(PathBuf, PathBuf)> {
    let hierarchy = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let top = match controllers {
            "" => mount.to_path_buf(),
            _ if controllers.split(',').any(|each| each == "memory") => mount.join("memory"),
            _ => return None,
        };
        (!path.split('/').any(|part| part == "..")).then(|| (top.clone(), top.join(path)))
    };
    groups.lines().filter_map(hierarchy).collect()
}

/// Returns the memory of the group between `own` and `top` of which the largest share is used.
fn tightest(top: &Path, own: &Path, machine_bytes: u64) -> Option<Memory> {
    own.ancestors()
        .take_while(|folder| folder.starts_with(top))
        .take(LEVELS_MAX)
        .filter_map(|folder| level(folder, machine_bytes))
        .max_by(|one, other| one.used_ratio.total_cmp(&other.used_ratio))
}

/// Returns the used share of what a single group may have; `None` where that is not limited below what the machine has.
pub(super) fn used_of_limit(folder: &Path, machine_bytes: u64) -> Option<f64> {
    level(folder, machine_bytes).map(|memory| memory.used_ratio)
}

fn level(folder: &Path, machine_bytes: u64) -> Option<Memory> {
    let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let (used, limit, given_up) =
        FILES.iter().find_map(|(used, limit, given_up)| Some((number(used)?, number(limit)?, given_up)))?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let used = used.saturating_sub(line(&stat, given_up).unwrap_or_default());
    // Relative to what there is: a limit beyond the machine's memory limits nothing.
    let limits = limit > 0 && limit < NO_LIMIT_FROM && limit < machine_bytes;
    limits.then(|| Memory {
        used_ratio: (used as f64 / limit as f64).min(1.0),
        limit_bytes: limit,
        folder: folder.to_path_buf(),
    })
}

/// Returns the number in the line that begins with `name`, of a text with one name and number a line.
pub(super) fn line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn group(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    /// Lesson 41: what counts is the share of what there is, whatever the machine or the group was given.
    #[test]
    fn the_tightest_group_around_the_process_counts_in_either_version() {
        let mount = tempfile::tempdir().unwrap();
        group(mount.path(), &[("memory.current", "9000000000\n")]);
        let slice = mount.path().join("system.slice");
        group(&slice, &[("memory.current", "3221225472\n"), ("memory.max", "4294967296\n")]);
        group(&slice.join("a.service"), &[("memory.current", "1073741824\n"), ("memory.max", "max\n")]);
        let old = mount.path().join("memory/box");
        group(&old, &[("memory.usage_in_bytes", "536870912"), ("memory.limit_in_bytes", "1073741824")]);
        let table = [
            ("0::/system.slice/a.service\n", 16 * GIB, Some(0.75)),
            ("0::/system.slice/a.service\n", 2 * GIB, None),
            ("0::/\n", 16 * GIB, None),
            ("0::/../../etc\n", 16 * GIB, None),
            ("5:devices:/x\n4:cpu,memory:/box\n0::/\n", 16 * GIB, Some(0.5)),
            ("0::/gone\n", 16 * GIB, None),
            ("", 16 * GIB, None),
            ("nonsense", 16 * GIB, None),
        ];
        for (text, machine, expected) in table {
            let found = folders(text, mount.path()).into_iter().find_map(|(top, own)| tightest(&top, &own, machine));
            assert_eq!(found.map(|memory| memory.used_ratio), expected, "{text:?}");
        }
    }

    #[test]
    fn copies_of_files_that_nobody_looks_at_are_not_used_memory() {
        let mount = tempfile::tempdir().unwrap();
        let stat = "anon 100\ninactive_file 600\nactive_file 100\n";
        group(mount.path(), &[("memory.current", "800"), ("memory.max", "1000"), ("memory.stat", stat)]);
        let memory = tightest(mount.path(), mount.path(), 16 * GIB).unwrap();
        assert_eq!((memory.used_ratio, memory.limit_bytes), (0.2, 1000));
    }

    #[test]
    fn a_limit_that_is_none_and_numbers_that_are_none_say_nothing() {
        let mount = tempfile::tempdir().unwrap();
        for (used, limit) in [("1", "max"), ("1", "0"), ("x", "5"), ("1", "9223372036854771712"), ("", "")] {
            group(mount.path(), &[("memory.current", used), ("memory.max", limit)]);
            assert_eq!(tightest(mount.path(), mount.path(), 16 * GIB), None, "{used} {limit}");
        }
    }
}
