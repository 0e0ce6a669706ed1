//! What is written into the home: new files, each whole or not at all, and more experiments at the end of `dream.yaml`.
//!
//! Invariant: no file that is there loses a byte.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, lchown},
    path::{Path, PathBuf},
};

use super::proposal::Proposal;
use crate::{home, settings};

/// The file of the experiments.
const DREAM: &str = "dream.yaml";

/// The folder of the domain files.
const DOMAINS: &str = "domains";

/// A `dream.yaml` that is longer than this was not written for people, in bytes.
const DREAM_BYTES_MAX: u64 = 1 << 20;

/// What stands above experiments that are written into a new file.
const HEAD: &str = "# What may be varied together in each domain, and what is measured.\nexperiments:\n";

/// The files are no secrets, and the user of kloros may be another than the one who writes them.
const FILE_MODE: u32 = 0o644;

/// What is to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// New files, by their paths under the home.
    pub(super) new: Vec<(String, String)>,
    /// What `dream.yaml` holds, and what it would hold.
    pub(super) dream: Option<(String, String)>,
    /// Why something cannot be written, and what a person would put there.
    pub(super) refused: Vec<String>,
}

/// Returns what is to be written into the home at `root` for `proposals`.
pub(super) fn plan(root: &Path, proposals: &[Proposal]) -> Plan {
    let mut plan = Plan { new: Vec::new(), dream: None, refused: Vec::new() };
    if proposals.is_empty() {
        return plan;
    }
    for proposal in proposals {
        plan.new.push((format!("{DOMAINS}/{}.toml", proposal.domain), proposal.fitted.domain_text.clone()));
    }
    let more: String = proposals.iter().map(|proposal| proposal.fitted.experiments.as_str()).collect();
    let path = root.join(DREAM);
    match read(&path) {
        Ok(None) => plan.new.push((DREAM.to_owned(), format!("{HEAD}{more}"))),
        Ok(Some(old)) => match merged(&old, &more) {
            Some(new) => plan.dream = Some((old, new)),
            None => plan.refused.push(format!(
                "{} is not as experiments can be added at its end; put this under its experiments:\n{more}",
                path.display()
            )),
        },
        Err(why) => plan.refused.push(format!("{}: {why}; put this under its experiments:\n{more}", path.display())),
    }
    plan
}

/// Returns what a file holds, if it is there.
fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(found) if !found.is_file() => return Err("is a link or no file".to_owned()),
        Ok(found) if found.len() > DREAM_BYTES_MAX => return Err(format!("is longer than {DREAM_BYTES_MAX} bytes")),
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(|error| error.to_string())
}

/// Returns `old` with `more` experiments at its end, where that means all that it meant and these; `None` elsewhere.
fn merged(old: &str, more: &str) -> Option<String> {
    let end = if old.ends_with('\n') { "" } else { "\n" };
    let new = format!("{old}{end}{more}");
    let (mut before, after) = (settings::yaml(old)?, settings::yaml(&new)?);
    let added = settings::yaml(&format!("experiments:\n{more}"))?;
    let experiments = before.as_table_mut()?.get_mut("experiments")?.as_table_mut()?;
    for (name, experiment) in added.as_table()?.get("experiments")?.as_table()? {
        if experiments.insert(name.clone(), experiment.clone()).is_some() {
            return None;
        }
    }
    (before == after).then_some(new)
}

/// Writes what is planned, tells `wrote` of each file, and returns what could not be written.
pub(super) fn write(root: &Path, plan: &Plan, mut wrote: impl FnMut(&Path)) -> Vec<String> {
    let mut refused = Vec::new();
    let mut owner = None;
    let mut may = || -> io::Result<()> {
        home::create_folder(root)?;
        owner = fs::metadata(root).ok().map(|found| (found.uid(), found.gid()));
        let domains = root.join(DOMAINS);
        if fs::symlink_metadata(&domains).is_ok_and(|found| !found.is_dir()) {
            return Err(io::Error::other(format!("{} is a link or no folder", domains.display())));
        }
        let is_new = !domains.exists();
        home::create_folder(&domains)?;
        if is_new { hand_over(&domains, owner) } else { Ok(()) }
    };
    if let Err(error) = may() {
        return vec![format!("nothing can be written into {}: {error}", root.display())];
    }
    for (name, text) in &plan.new {
        let path = root.join(name);
        match create(&path, text, owner) {
            Ok(()) => wrote(&path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                refused.push(format!("{} is there already and stays as it is", path.display()));
            }
            Err(error) => refused.push(format!("{}: {error}", path.display())),
        }
    }
    if let Some((old, new)) = &plan.dream {
        let path = root.join(DREAM);
        match exchange(&path, old, new) {
            Ok(()) => wrote(&path),
            Err(error) => refused.push(format!("{}: {error}", path.display())),
        }
    }
    refused
}

/// A file beside the one that it becomes; dropped, it is gone.
struct Beside(PathBuf);

impl Beside {
    fn write(path: &Path, text: &str, mode: u32, owner: Option<(u32, u32)>) -> io::Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?);
        name.push(format!(".{}.tmp", std::process::id()));
        let beside = path.with_file_name(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        let beside = Self(beside);
        file.write_all(text.as_bytes())?;
        hand_over(&beside.0, owner)?;
        file.sync_all()?;
        Ok(beside)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // After it became the other file, there is none.
        fs::remove_file(&self.0).ok();
    }
}

/// Makes a file that is not there yet, whole; fails where it is.
fn create(path: &Path, text: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
    let beside = Beside::write(path, text, FILE_MODE, owner)?;
    // A rename would take the place of what is there.
    fs::hard_link(&beside.0, path)?;
    sync_folder(path)
}

/// Exchanges what a file holds, where that is still `old`.
fn exchange(path: &Path, old: &str, new: &str) -> io::Result<()> {
    let found = fs::metadata(path)?;
    let beside = Beside::write(path, new, found.mode() & 0o777, Some((found.uid(), found.gid())))?;
    if fs::read_to_string(path)? != old {
        return Err(io::Error::other("was changed meanwhile, and stays as it is: look again"));
    }
    fs::rename(&beside.0, path)?;
    sync_folder(path)
}

/// Gives a file that root made to whom the home belongs.
fn hand_over(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    match owner {
        Some((uid, gid)) if rustix::process::getuid().is_root() => lchown(path, Some(uid), Some(gid)),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MORE: &str = "  redis_speed:\n    domain: redis\n";

    #[test]
    fn experiments_are_added_where_all_that_was_there_stays_what_it_was() {
        let cases = [
            ("experiments:\n  a:\n    domain: lab\n", true),
            ("# By hand.\nexperiments:\n  a:\n    domain: lab", true),
            ("experiments:\n    a:\n        domain: lab\n", false),
            ("experiments: {a: {domain: lab}}\n", false),
            ("experiments:\n  redis_speed:\n    domain: lab\n", false),
            ("experiments:\n  a:\n    domain: lab\nmore: 1\n", false),
            ("experiments:\n", false),
            ("experiments:\n  a: |\n    text\n", true),
            ("", false),
            ("no yaml: [", false),
        ];
        for (old, is_merged) in cases {
            let new = merged(old, MORE);
            assert_eq!(new.is_some(), is_merged, "{old:?}");
            assert!(new.is_none_or(|new| new.starts_with(old) && new.ends_with(MORE)), "{old:?}");
        }
    }

    #[test]
    fn no_file_that_is_there_loses_a_byte() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("home");
        let new = vec![("domains/a.toml".to_owned(), "one".to_owned()), ("dream.yaml".to_owned(), "two".to_owned())];
        let plan = Plan { new, dream: None, refused: Vec::new() };
        let mut wrote = Vec::new();
        assert_eq!(write(&root, &plan, |path| wrote.push(path.to_owned())), Vec::<String>::new());
        assert_eq!(wrote, [root.join("domains/a.toml"), root.join("dream.yaml")]);
        fs::write(root.join("domains/a.toml"), "mine").unwrap();
        assert_eq!(write(&root, &plan, |_| panic!("nothing is written")).len(), 2);
        assert_eq!(fs::read_to_string(root.join("domains/a.toml")).unwrap(), "mine");
        let dream = root.join("dream.yaml");
        assert!(exchange(&dream, "one", "three").is_err());
        exchange(&dream, "two", "two and three").unwrap();
        assert_eq!(fs::read_to_string(&dream).unwrap(), "two and three");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 2, "nothing is left beside");
        assert_eq!(fs::read_dir(root.join("domains")).unwrap().count(), 1);
    }

    #[test]
    fn where_the_folder_of_domains_is_a_link_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (folder.path().join("home"), folder.path().join("elsewhere"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.join("domains")).unwrap();
        let plan =
            Plan { new: vec![("domains/a.toml".to_owned(), "one".to_owned())], dream: None, refused: Vec::new() };
        assert_eq!(write(&root, &plan, |_| panic!("nothing is written")).len(), 1);
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}
