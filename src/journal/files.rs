//! How projected files are written: lines at most once each, whole files at one instant.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::{crash, home::create_folder};

/// How much of a file's end is searched for lines that stand there already, besides as much as is to be written.
const TAIL_BYTES: u64 = 64 << 10;

/// How much is read at once while the last whole line is searched.
const CHUNK_BYTES: u64 = 64 << 10;

/// Logs are for their owner.
const FILE_MODE: u32 = 0o600;

/// Appends those of `lines` that do not stand at the end of the file at `path` already, durably. A torn last line is
/// cut first. After an error the file is as it was, as far as the disk allows.
pub(super) fn append_lines(path: &Path, lines: &[&str]) -> io::Result<()> {
    let (mut file, created) = open_log(path)?;
    let end = cut_torn_line(&mut file)?;
    let standing = standing_lines(&mut file, end, lines)?;
    let missing: Vec<_> = lines.iter().filter(|line| !standing.contains(line.as_bytes())).collect();
    let text: String = missing.iter().flat_map(|line| [**line, "\n"]).collect();
    // Lines that stand there already may never have reached the disk, so the file is synced in any case.
    crash::here("log: append");
    let written = file.write_all(text.as_bytes());
    crash::here("log: sync");
    let written = written.and_then(|()| file.sync_all());
    if let Err(error) = written {
        // What a failed sync leaves in memory looks like a line that is safe. It goes, so that it is written anew.
        let _ = file.set_len(end);
        return Err(error);
    }
    if created { sync_folder(path) } else { Ok(()) }
}

/// Replaces the file at `path` by `content` at one instant, durably.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut replacement = Replacement::begin(path)?;
    replacement.write(content)?;
    replacement.finish()
}

/// A file that grows beside the one it will replace.
pub(super) struct Replacement {
    path: PathBuf,
    beside: PathBuf,
    file: io::BufWriter<File>,
    placed: bool,
}

impl Replacement {
    /// Begins a file that will stand at `path`. What an interrupted attempt left beside it is overwritten.
    pub(super) fn begin(path: &Path) -> io::Result<Self> {
        create_folder(folder(path)?)?;
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?);
        name.push(".tmp");
        let beside = path.with_file_name(name);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&beside)?;
        Ok(Self { path: path.to_owned(), beside, file: io::BufWriter::new(file), placed: false })
    }

    /// Adds `content`.
    pub(super) fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all(content)
    }

    /// Puts the file in its place.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        crash::here("file: sync");
        self.file.get_ref().sync_all()?;
        crash::here("file: rename");
        fs::rename(&self.beside, &self.path)?;
        self.placed = true;
        sync_folder(&self.path)
    }
}

/// What was not finished leaves nothing behind.
impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// Opens the log at `path`, and returns whether it was created. Links, pipes and devices are refused.
fn open_log(path: &Path) -> io::Result<(File, bool)> {
    create_folder(folder(path)?)?;
    let created = !path.exists();
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    Ok((file, created))
}

/// Cuts what stands behind the last line feed, and returns where the file ends then.
fn cut_torn_line(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(CHUNK_BYTES);
        let chunk = read_range(file, begin, end)?;
        if let Some(place) = chunk.iter().rposition(|byte| *byte == b'\n') {
            end = begin + place as u64 + 1;
            break;
        }
        end = begin;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(end)
}

/// Returns the whole lines at the end of the file, far enough back to hold all of `lines`.
fn standing_lines(file: &mut File, end: u64, lines: &[&str]) -> io::Result<BTreeSet<Vec<u8>>> {
    let wanted: u64 = lines.iter().map(|line| line.len() as u64 + 1).sum();
    let tail = read_range(file, end.saturating_sub(wanted + TAIL_BYTES), end)?;
    let kept = tail.split(|byte| *byte == b'\n').filter(|found| lines.iter().any(|line| line.as_bytes() == *found));
    Ok(kept.map(<[u8]>::to_vec).collect())
}

fn read_range(file: &mut File, begin: u64, end: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(begin))?;
    let mut found = Vec::new();
    file.take(end - begin).read_to_end(&mut found)?;
    Ok(found)
}

fn folder(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::other("the path has no folder"))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path)?)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: &[u8], lines: &[&str], after: &[u8]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/x.jsonl");
        if !before.is_empty() {
            fs::create_dir(folder.path().join("logs")).unwrap();
            fs::write(&path, before).unwrap();
        }
        append_lines(&path, lines).unwrap();
        assert_eq!(String::from_utf8_lossy(&fs::read(&path).unwrap()), String::from_utf8_lossy(after));
    }

    #[test]
    fn a_line_is_appended_once_and_a_torn_one_is_cut() {
        check(b"", &["a", "b"], b"a\nb\n");
        check(b"a\n", &["a", "b"], b"a\nb\n");
        check(b"a\nb\n", &["a", "b"], b"a\nb\n");
        check(b"a\nb", &["b"], b"a\nb\n");
        check(b"torn", &["a"], b"a\n");
        check(b"x\n\xff\xfe half", &["a"], b"x\na\n");
        check(b"a\nsomebody's note\n", &["a"], b"a\nsomebody's note\n");
    }

    #[test]
    fn a_torn_line_longer_than_a_chunk_is_cut_whole() {
        let mut before = b"a\n".to_vec();
        before.extend(vec![b'x'; 3 * CHUNK_BYTES as usize]);
        check(&before, &["b"], b"a\nb\n");
    }

    #[test]
    fn a_line_longer_than_the_tail_is_still_recognised() {
        let long = "y".repeat(1 << 20);
        check(format!("a\n{long}\n").as_bytes(), &[&long, "z"], format!("a\n{long}\nz\n").as_bytes());
    }

    #[test]
    fn a_link_or_a_pipe_in_the_place_of_a_log_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert!(append_lines(&path, &["a"]).is_err());
        assert!(!folder.path().join("elsewhere").exists());
        let pipe = folder.path().join("pipe.jsonl");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert!(append_lines(&pipe, &["a"]).is_err());
    }

    #[test]
    fn a_file_is_replaced_whole_and_what_an_interrupted_attempt_left_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feed.json");
        fs::write(folder.path().join(".feed.json.tmp"), "half").unwrap();
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
