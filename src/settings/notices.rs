//! Who is told when a person is needed: the section `[notices]` of `kloros.toml`.

use std::{
    fs, io,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::http::Uri;
use kloros_actors::config::{Check, Problem};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// How notices are spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Form {
    /// One JSON object.
    #[default]
    Json,
    /// As ntfy takes them.
    Ntfy,
    /// As an incoming webhook of Slack takes them.
    Slack,
}

/// Who is told, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Notices {
    /// A file with the address, relative to the home; empty for nobody. The address is a secret, and so is in no setting.
    pub(crate) url_file: PathBuf,
    /// How they are spelled.
    pub(crate) form: Form,
    /// What is told; names of [`ABOUT`].
    pub(crate) about: Vec<String>,
    /// How long one try may take, in seconds.
    pub(crate) timeout_s: f64,
    /// How often a notice is tried at most.
    pub(crate) tries_max: u32,
    /// How long it is waited before the second try, in seconds; doubled each time.
    pub(crate) retry_after_s: f64,
    /// How many notices wait at most; older ones are only counted.
    pub(crate) waiting_max: u32,
}

/// The longest file with an address, in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// What can be told.
pub(crate) const ABOUT: [&str; 4] = ["approval", "rollback", "stuck", "stop"];

impl Default for Notices {
    fn default() -> Self {
        Self {
            url_file: PathBuf::new(),
            form: Form::Json,
            about: ABOUT.map(str::to_owned).to_vec(),
            timeout_s: 10.0,
            tries_max: 5,
            retry_after_s: 2.0,
            waiting_max: 50,
        }
    }
}

impl Notices {
    /// Returns the address of whoever is told, `None` for nobody; or what is wrong with the file under `home` that holds it, and what to
    /// do. Nothing of the address is repeated. Others must not be able to read the file.
    pub(crate) fn address(&self, home: &Path) -> Result<Option<Uri>, String> {
        if self.url_file.as_os_str().is_empty() {
            return Ok(None);
        }
        let path = home.join(&self.url_file);
        let text = secret(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let uri = text.parse::<Uri>().ok();
        let is_one = |uri: &Uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"));
        let wrong = || format!("{}: what it holds is no http:// or https:// address", path.display());
        uri.filter(is_one).ok_or_else(wrong).map(Some)
    }

    /// Returns how long it is waited after so many tries, the first being 1.
    pub(crate) fn pause(&self, tries: u32) -> Duration {
        let doubled = self.retry_after_s * 2_f64.powi(tries.saturating_sub(1).min(16).cast_signed());
        Duration::from_secs_f64(doubled.min(300.0))
    }

    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("notices");
        check.between("timeout_s", self.timeout_s, 0.1, 120.0);
        check.between("tries_max", f64::from(self.tries_max), 1.0, 20.0);
        check.between("retry_after_s", self.retry_after_s, 0.01, 300.0);
        check.between("waiting_max", f64::from(self.waiting_max), 1.0, 1000.0);
        let mut problems = check.problems();
        let unknown = self.about.iter().filter(|name| !ABOUT.contains(&name.as_str()));
        problems.extend(unknown.map(|name| Problem {
            key: "notices.about".to_owned(),
            what: format!("{name:?} is none of {}", ABOUT.join(", ")),
        }));
        problems
    }
}

/// Returns what a file holds which others may not read.
fn secret(path: &Path) -> io::Result<String> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(io::Error::other("others may read it: chmod 600 it"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_nobody_can_tell_is_a_problem_and_pauses_double_up_to_five_minutes() {
        assert_eq!(Notices::default().problems(), []);
        let unknown = Notices { about: vec!["everything".into()], ..Notices::default() };
        assert_eq!(unknown.problems()[0].key, "notices.about");
        assert_eq!(Notices { tries_max: 0, ..Notices::default() }.problems().len(), 1);
        let pauses: Vec<u64> = [1, 2, 3, 20].map(|tries| Notices::default().pause(tries).as_secs()).to_vec();
        assert_eq!(pauses, [2, 4, 8, 300]);
    }

    #[test]
    fn an_address_is_taken_from_a_file_that_others_may_not_read_and_never_repeated() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Notices::default().address(home.path()), Ok(None));
        let notices = Notices { url_file: "hook".into(), ..Notices::default() };
        let gone = notices.address(home.path()).unwrap_err();
        assert!(gone.contains("hook"), "{gone}");
        let file = home.path().join("hook");
        for (text, mode, part) in [
            ("https://example.org/very-secret\n", 0o600, None),
            ("http://127.0.0.1:1/very-secret", 0o400, None),
            ("https://example.org/very-secret", 0o644, Some("chmod 600")),
            ("ftp://example.org/very-secret", 0o600, Some("no http://")),
            ("very secret", 0o600, Some("no http://")),
            ("/very-secret", 0o600, Some("no http://")),
            ("", 0o600, Some("no http://")),
        ] {
            fs::remove_file(&file).ok();
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            match (notices.address(home.path()), part) {
                (Ok(Some(uri)), None) => assert_eq!(uri.to_string(), text.trim()),
                (Err(why), Some(part)) => assert!(why.contains(part) && !why.contains("secret"), "{why}"),
                (found, _) => panic!("{text:?}: {found:?}"),
            }
        }
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(notices.address(home.path()).unwrap_err().contains("no file"));
    }
}
