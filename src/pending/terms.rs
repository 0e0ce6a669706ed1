//! On which terms a change is undone from outside: until when the daemon has time, and how many tries are left.
//!
//! The deadline counts on `CLOCK_BOOTTIME`, which no one can set and which goes on while the machine sleeps, and holds for one
//! boot: after another one nobody is left who could prove the change.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kloros_actors::seams::Terms;
use rustix::time::{ClockId, clock_gettime};

use crate::crash;

/// Where the kernel says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The files of which a sync failed. What they hold on the disk nobody knows, and a second sync of them proves nothing: the kernel
/// may have dropped what it could not write, and says so once.
static GIVEN_UP: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The most tries that are counted.
const TRIES_MAX: u32 = 999;

/// Writes both files, durably: they are there, in their full length, before the pending file is.
pub(super) fn write(deadline: &Path, tries: &Path, terms: Terms) -> io::Result<()> {
    over(deadline, &deadline_in(terms.within))?;
    over(tries, &tries_text(terms.tries))
}

/// Puts the deadline off until `within` from now.
pub(super) fn put_off(deadline: &Path, within: Duration) -> io::Result<()> {
    over(deadline, &deadline_in(within))
}

/// Returns whether the deadline is over. One that cannot be understood is: then the change is undone, which is always right.
pub(super) fn is_due(deadline: &Path) -> io::Result<bool> {
    let text = match fs::read_to_string(deadline) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(true),
        Err(error) => return Err(error),
    };
    let parsed = text.split_once(' ').and_then(|(boot, ms)| Some((boot.trim(), ms.trim().parse::<u64>().ok()?)));
    Ok(parsed.is_none_or(|(boot, ms)| boot != boot_id() || now_ms() >= ms))
}

/// Uses up a try and returns whether there was one; what cannot be counted is not tried.
pub(super) fn use_a_try(tries: &Path) -> io::Result<bool> {
    let left = fs::read_to_string(tries)?.trim().parse::<u32>().unwrap_or_default();
    if left == 0 {
        return Ok(false);
    }
    over(tries, &tries_text(left - 1))?;
    Ok(true)
}

fn tries_text(tries: u32) -> String {
    format!("{:03}\n", tries.min(TRIES_MAX))
}

fn deadline_in(within: Duration) -> String {
    let ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    // Of one length, so that it is written over in place.
    format!("{:<36.36} {:020}\n", boot_id(), now_ms().saturating_add(ms))
}

fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs().saturating_mul(1000).saturating_add(now.tv_nsec.unsigned_abs() / 1_000_000)
}

/// Writes `text` over what the file holds, durably. In place of one that was given up comes another one.
fn over(file: &Path, text: &str) -> io::Result<()> {
    let given_up = || GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner);
    if given_up().contains(file) {
        anew(file, text)?;
        given_up().remove(file);
        return Ok(());
    }
    let opened: File = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)?;
    crash::here("terms: write over");
    opened.write_all_at(text.as_bytes(), 0)?;
    crash::here("terms: sync");
    let synced = opened.sync_data();
    if synced.is_err() {
        given_up().insert(file.to_owned());
    }
    synced
}

fn anew(file: &Path, text: &str) -> io::Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let remove = || match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    // What an earlier attempt left may be of no use either.
    remove()?;
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    crash::here("terms: write anew");
    let written = opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all());
    written.and_then(|()| fs::rename(&part, file)).inspect_err(|_| drop(remove()))?;
    super::sync_folder(file.parent().ok_or(io::ErrorKind::InvalidInput)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_another_boot_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lab.deadline");
        let text = deadline_in(Duration::from_secs(60));
        fs::write(&file, &text).unwrap();
        assert!(!is_due(&file).unwrap());
        fs::write(&file, text.replacen(&text[..8], "00000000", 1)).unwrap();
        assert!(is_due(&file).unwrap());
        for torn in ["", "x", "a b", "\u{0}"] {
            fs::write(&file, torn).unwrap();
            assert!(is_due(&file).unwrap(), "{torn:?}");
        }
    }

    /// Fault 62: nobody can set that clock, and it goes on while the machine sleeps.
    #[test]
    fn a_deadline_is_counted_since_the_boot_and_not_by_the_wall_clock() {
        let up = || {
            let text = fs::read_to_string("/proc/uptime").unwrap();
            Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap()).as_millis() as u64
        };
        let (before, text) = (up(), deadline_in(Duration::from_secs(60)));
        let deadline: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
        // The kernel tells that in hundredths of a second.
        assert!((before + 60_000 - 10..=up() + 60_000 + 10).contains(&deadline), "{before} {text}");
    }

    /// Fault 24. Once the next sign of life synced the very file again whose sync had failed.
    #[test]
    fn a_file_whose_sync_failed_is_not_synced_again_and_another_one_takes_its_place() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (failed, well) = (folder.path().join("lab.deadline"), folder.path().join("tts.deadline"));
        let inode = |file: &Path| fs::metadata(file).unwrap().ino();
        for file in [&failed, &well] {
            put_off(file, Duration::ZERO).unwrap();
        }
        let before = (inode(&failed), inode(&well));
        // Held, so that its number is not given to the next file.
        let held = File::open(&failed).unwrap();
        GIVEN_UP.lock().unwrap().insert(failed.clone());
        for file in [&failed, &well] {
            put_off(file, Duration::from_secs(60)).unwrap();
            assert!(!is_due(file).unwrap());
        }
        assert!(inode(&failed) != before.0 && inode(&well) == before.1);
        let again = inode(&failed);
        put_off(&failed, Duration::from_secs(60)).unwrap();
        assert_eq!(inode(&failed), again, "what is well again is written over in place");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        drop(held);
    }

    #[test]
    fn deadlines_are_of_one_length() {
        let lengths =
            [Duration::ZERO, Duration::from_secs(1 << 40), Duration::MAX].map(|within| deadline_in(within).len());
        assert_eq!(lengths, [58; 3]);
    }
}
