//! The file that stops everything: while it lies in the home, nothing is measured, deployed or taken from an inbox.
//!
//! `HOME/.kloros/stop`. That something lies there is what counts, whatever it is and whatever it says, so that `touch` is
//! enough and a full disk is no hindrance; what it says is the reason. Where it cannot be looked at, everything is stopped.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

use kloros_actors::{facts::Stop, seams::StopSwitch};
use rustix::fs::OFlags;

use crate::home::Home;

/// How much of the reason is read, in bytes.
const REASON_BYTES_MAX: u64 = 512;

/// The file that stops everything in one home.
#[derive(Clone, Debug)]
pub(crate) struct StopFile {
    path: PathBuf,
}

impl StopFile {
    /// Returns the file of `home`, which need not be there.
    pub(crate) fn of(home: &Home) -> Self {
        Self { path: home.state_folder().join("stop") }
    }

    /// Stops everything for the reason `why`, durably. What a disk without space does not take is the reason alone.
    pub(crate) fn pull(&self, why: &str) -> io::Result<()> {
        let options = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&self.path);
        match options {
            Ok(mut file) => {
                let reason: String = why.chars().filter(|each| !each.is_control()).collect();
                if let Err(error) = writeln!(file, "{reason}").and_then(|()| file.sync_all()) {
                    tracing::warn!(%error, "the reason is not written down");
                }
                self.sync_folder()
            }
            // It is stopped already; the first reason stays.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lets everything go on, durably, and returns whether it was stopped.
    pub(crate) fn release(&self) -> io::Result<bool> {
        match fs::remove_file(&self.path) {
            Ok(()) => self.sync_folder().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    /// Returns what a plain file says; nothing is followed or waited for.
    fn reason(&self) -> io::Result<String> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        file.take(REASON_BYTES_MAX).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim().chars().map(|each| if each.is_control() { ' ' } else { each }).collect())
    }
}

impl StopSwitch for StopFile {
    fn stopped(&self) -> Option<Stop> {
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                Some(Stop { why: format!("{} cannot be looked at: {error}", self.path.display()), by_uid: None })
            }
            Ok(found) => Some(Stop { why: self.reason().unwrap_or_default(), by_uid: Some(found.uid()) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, StopFile) {
        let place = tempfile::tempdir().unwrap();
        let home = Home::at(place.path()).unwrap();
        home.create().unwrap();
        (place, StopFile::of(&home))
    }

    #[test]
    fn what_is_stopped_says_who_and_why_until_it_may_go_on() {
        let (_place, file) = file();
        assert_eq!(file.stopped(), None);
        file.pull("the rack is\nbeing moved").unwrap();
        file.pull("another reason").unwrap();
        let stop = file.stopped().unwrap();
        assert_eq!(stop.why, "the rack isbeing moved");
        assert_eq!(stop.by_uid, Some(rustix::process::getuid().as_raw()));
        assert!(file.release().unwrap());
        assert!(!file.release().unwrap());
        assert_eq!(file.stopped(), None);
    }

    #[test]
    fn whatever_lies_there_stops_everything() {
        let (place, file) = file();
        let path = place.path().join(".kloros/stop");
        fs::write(&path, "").unwrap();
        assert_eq!(file.stopped().unwrap().why, "");
        fs::write(&path, [0xff; 10_000]).unwrap();
        assert!(file.stopped().unwrap().why.len() < 2_000);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(file.stopped().is_some());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(file.stopped().is_some());
        fs::remove_dir(&path).unwrap();
        let (owner, mode) = (rustix::fs::Mode::RUSR, rustix::fs::Mode::WUSR);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, owner | mode).unwrap();
        assert!(file.stopped().is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_looked_into_stops_everything() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join(".kloros"), "a file in the place of the folder").unwrap();
        let stop = StopFile::of(&Home::at(place.path()).unwrap()).stopped().unwrap();
        assert!(stop.why.contains("cannot be looked at"), "{stop}");
    }
}
