//! A folder that is an inbox: what lies in it, read with caution, and put away when it was dealt with.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use kloros_actors::{facts::Refused, meters::INBOX_REFUSED_TOTAL};
use rustix::fs::OFlags;

/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 64 * 1024;

/// How many files are handled in one turn, so that a flooded folder starves nothing else.
pub(super) const FILES_A_TURN_MAX: usize = 64;

/// How many names are looked at in one turn.
const NAMES_MAX: usize = 100_000;

/// How many files that stay are remembered, so that they are read once.
const KNOWN_MAX: usize = 10_000;

/// How long after its last change a file that cannot be read is taken for one that is still being written.
const SETTLES_WITHIN_MS: u64 = 4_000;

/// How much of a reason is kept, in characters.
const REASON_MAX: usize = 500;

/// A folder whose files named `*.json` are handled once each.
pub(super) struct Folder {
    path: PathBuf,
    /// Files that stay where they are, as they were when they were read.
    known: BTreeSet<Version>,
    /// When the folder changed last before a turn that left nothing to do, and in how many turns that was so.
    quiet: Option<((i64, i64), u32)>,
    /// Why it is not looked into, said once.
    complaint: Option<String>,
}

/// A file at one time: name, number and last change.
type Version = (OsString, u64, (i64, i64));

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, known: BTreeSet::new(), quiet: None, complaint: None }
    }

    /// Returns the next files to be handled in the order of their names, at most 64. A folder in which nothing changed is not read.
    pub(super) fn look(&mut self) -> Vec<PathBuf> {
        let changed = match trusted(&self.path) {
            Ok(changed) => changed,
            Err(why) => {
                if self.complaint.as_ref() != Some(&why) {
                    tracing::error!(folder = %self.path.display(), %why, "inbox is not looked into");
                    self.complaint = Some(why);
                }
                return Vec::new();
            }
        };
        self.complaint = None;
        // One more turn is needed after the first quiet one: a file may come within the same tick of the clock.
        if self.quiet.is_some_and(|(at, turns)| at == changed && turns > 1) {
            return Vec::new();
        }
        let files = self.files();
        let turns = self.quiet.filter(|(at, _)| *at == changed).map_or(0, |(_, turns)| turns);
        self.quiet = files.is_empty().then_some((changed, turns + 1));
        files
    }

    fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let mut names: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .take(NAMES_MAX)
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        // All names first: the next ones are next by name, not by their place in the folder.
        names.sort_unstable();
        let is_new = |path: &PathBuf| version(path).is_some_and(|version| !self.known.contains(&version));
        names.into_iter().filter(is_new).take(FILES_A_TURN_MAX).collect()
    }

    /// Leaves a file where it is, and does not return it again unless it changes.
    pub(super) fn leave(&mut self, path: &Path) {
        if self.known.len() >= KNOWN_MAX {
            self.known.pop_first();
        }
        self.known.extend(version(path));
    }

    /// Moves a file that was dealt with to `folder`, with `suffix` behind its name.
    pub(super) fn put_away(path: &Path, folder: &Path, suffix: &str) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let to = folder.join(format!("{name}{suffix}"));
        if let Err(error) = fs::create_dir_all(folder).and_then(|()| fs::rename(path, &to)) {
            tracing::warn!(file = %path.display(), %error, "file cannot be put away");
        }
    }

    /// Returns the fact that the file was refused, in words that can be shown.
    pub(super) fn refusal(path: &Path, why: &str) -> Refused {
        let shown = |text: &str| text.chars().take(REASON_MAX).collect::<String>().escape_debug().to_string();
        // The folder's own name tells which inbox it is.
        let parts = path.iter().rev().take(2).map(OsStr::to_string_lossy).collect::<Vec<_>>();
        let what = parts.into_iter().rev().collect::<Vec<_>>().join("/");
        Refused { what: shown(&what), by_uid: None, why: shown(why) }
    }

    /// Moves a file that is refused to `folder`, and writes beside it why.
    pub(super) fn refuse(path: &Path, folder: &Path, why: &str) {
        let why: String = why.chars().take(REASON_MAX).collect();
        metrics::counter!(INBOX_REFUSED_TOTAL).increment(1);
        tracing::warn!(file = %path.display(), %why, "file refused and set aside");
        Self::put_away(path, folder, ".refused");
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let reason = folder.join(format!("{name}.reason"));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&reason)
            .and_then(|mut file| writeln!(file, "{}", why.escape_debug()));
        if let Err(error) = written {
            tracing::warn!(file = %reason.display(), %error, "the reason cannot be written");
        }
    }
}

/// Returns when the folder changed last, or why nothing in it can be trusted.
fn trusted(folder: &Path) -> Result<(i64, i64), String> {
    let found = fs::symlink_metadata(folder).map_err(|error| error.to_string())?;
    if !found.is_dir() {
        return Err("it is no folder".to_owned());
    }
    if !is_ours(&found) {
        return Err("it belongs to somebody else".to_owned());
    }
    if found.mode() & 0o002 != 0 {
        return Err("everybody may write into it: take that right away with `chmod o-w`".to_owned());
    }
    Ok((found.mtime(), found.mtime_nsec()))
}

fn is_ours(found: &fs::Metadata) -> bool {
    let own = rustix::process::getuid().as_raw();
    found.uid() == own || found.uid() == 0
}

fn version(path: &Path) -> Option<Version> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((path.file_name()?.to_owned(), found.ino(), (found.mtime(), found.mtime_nsec())))
}

/// Returns whether a plain file changed so lately that somebody may still be writing it.
pub(super) fn is_being_written(path: &Path, now_ms: u64) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    let changed_ms = u64::try_from(found.mtime()).unwrap_or(0).saturating_mul(1000);
    // One from the future is not waited for.
    found.is_file() && now_ms.checked_sub(changed_ms).is_some_and(|age_ms| age_ms < SETTLES_WITHIN_MS)
}

/// Reads a small file that belongs to us or to root, without following links or waiting for a pipe.
pub(super) fn read_small(path: &Path) -> Result<String, String> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no plain file".to_owned());
    }
    if !is_ours(&metadata) {
        return Err("it belongs to somebody else".to_owned());
    }
    if metadata.len() > FILE_MAX {
        return Err(format!("{} bytes are more than the {FILE_MAX} that are read", metadata.len()));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path().to_owned());
        (place, folder)
    }

    #[test]
    fn what_is_too_large_a_link_a_pipe_or_a_folder_is_not_read() {
        let (place, _) = folder();
        let path = |name: &str| place.path().join(name);
        fs::File::create(path("large.json")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path("link.json")).unwrap();
        fs::create_dir(path("folder.json")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("pipe.json"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(read_small(&path("large.json")).unwrap_err().contains("more than"));
        assert!(read_small(&path("link.json")).is_err());
        assert!(read_small(&path("pipe.json")).unwrap_err().contains("no plain file"));
        assert!(read_small(&path("folder.json")).unwrap_err().contains("no plain file"));
        assert!(!is_being_written(&path("pipe.json"), 0));
    }

    #[test]
    fn a_refused_file_lies_beside_its_reason_and_is_not_seen_again() {
        let (place, mut folder) = folder();
        let path = place.path().join("evil.json");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(folder.look(), std::slice::from_ref(&path));
        Folder::refuse(&path, place.path(), "it is a \x1b[2J link");
        assert_eq!(fs::read_link(place.path().join("evil.json.refused")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::read_to_string(place.path().join("evil.json.reason")).unwrap(), "it is a \\u{1b}[2J link\n");
        assert!(folder.look().is_empty());
    }

    #[test]
    fn a_file_that_stays_hides_no_other_and_is_seen_again_when_it_changes() {
        let (place, mut folder) = folder();
        let stays = |number: usize| place.path().join(format!("x-{number:03}.json"));
        for number in 0..200 {
            fs::write(stays(number), "{}").unwrap();
        }
        let mut left = 0;
        loop {
            let files = folder.look();
            if files.is_empty() {
                break;
            }
            assert!(files.len() <= FILES_A_TURN_MAX);
            left += files.len();
            for path in &files {
                folder.leave(path);
            }
        }
        assert_eq!(left, 200);
        for _ in 0..3 {
            assert!(folder.look().is_empty());
        }
        fs::write(place.path().join("new.json"), "{}").unwrap();
        assert_eq!(folder.look(), [place.path().join("new.json")]);
        fs::remove_file(stays(7)).unwrap();
        fs::write(stays(7), "{ }").unwrap();
        assert!(folder.look().contains(&stays(7)));
    }

    #[test]
    fn a_folder_that_everybody_may_write_into_is_not_looked_into() {
        let (place, mut folder) = folder();
        fs::write(place.path().join("a.json"), "{}").unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(folder.look().is_empty());
        assert!(folder.complaint.as_ref().unwrap().contains("chmod o-w"));
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(folder.look().len(), 1);
    }

    #[test]
    fn a_file_is_given_time_to_be_written_and_no_more() {
        let (place, _) = folder();
        let path = place.path().join("a.json");
        fs::write(&path, "{\"a").unwrap();
        let changed_ms = u64::try_from(fs::metadata(&path).unwrap().mtime()).unwrap() * 1000;
        assert!(is_being_written(&path, changed_ms + 1_000));
        assert!(!is_being_written(&path, changed_ms + 5_000));
        assert!(!is_being_written(&path, changed_ms - 1));
    }
}
