//! Where clusters for measurements lie: what is made, what is taken for one, and what is removed.
//!
//! `FOLDER/kloros-trials/PORT` holds a marker and `cluster`, which holds the data and the socket. FOLDER may hold anything, a database
//! that serves as well, so that nothing is used or removed but what is ours and marked.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;

/// The folder, below the one that the operator names, in which nothing lies but clusters for measurements.
pub(super) const TRIALS: &str = "kloros-trials";

/// The file that marks a folder as one of ours.
const MARKER: &str = "kloros-trial";

/// What the marker says.
const MARKED: &[u8] = b"kloros made this folder for measurements, and removes it.\n";

/// A user of this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct User {
    pub(super) id: u32,
    /// His own group, which may have another name than he.
    pub(super) group: u32,
}

/// The folder of a cluster; it is removed when dropped.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    /// Whose the cluster in it is, where that is another user than this process.
    pub(super) owner: Option<User>,
    /// The folder, locked: as long as its process lives nobody removes it.
    _locked: File,
}

impl Place {
    /// Makes the folder of the cluster on `port`, below `folder`; where this process is root, the cluster is the user's.
    ///
    /// What was left there by processes that were killed is removed. What is there and not ours is left alone, and an error.
    pub(super) fn make(folder: &Path, port: u16, user: &str) -> anyhow::Result<Self> {
        let owner = if rustix::process::geteuid().is_root() { Some(user_of(user)?) } else { None };
        // Another user has to get to what is his, and to nothing else.
        let mode = if owner.is_some() { 0o711 } else { 0o700 };
        let all = trials(folder)?;
        for each in [all.parent().unwrap_or(&all), &all] {
            made(each, mode).with_context(|| format!("cannot make {}", each.display()))?;
            if !is_ours(each) {
                bail!("{} is no folder that is yours alone: name another one with --folder", each.display());
            }
        }
        remove_stale(&all);
        let folder = all.join(port.to_string());
        if folder.symlink_metadata().is_ok() && !is_marked(&folder) {
            bail!("{} is in the way: kloros did not make it, and leaves it alone", folder.display());
        }
        let named = || format!("cannot make {}: does another one run on the port?", folder.display());
        new(&folder, mode).with_context(named)?;
        // It is marked when it is locked, never before, so that nobody takes it for one whose process is gone.
        let place = Self { _locked: locked(&folder).with_context(named)?, folder, owner };
        mark(&place.folder).with_context(|| format!("cannot mark {}", place.folder.display()))?;
        let cluster = place.cluster();
        new(&cluster, 0o700).with_context(|| format!("cannot make {}", cluster.display()))?;
        if let Some(User { id, group }) = owner {
            let named = || format!("cannot give away {}", cluster.display());
            chown(&cluster, Some(id), Some(group)).with_context(named)?;
        }
        Ok(place)
    }

    /// Returns the folder of the data and the socket, the only one in which the user of the server may write.
    pub(super) fn cluster(&self) -> PathBuf {
        cluster(&self.folder)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(path = %self.folder.display(), %error, "a cluster for measurements cannot be removed");
        }
    }
}

/// Returns the folder that holds the cluster on `port`; `None` where there is none that we made below `folder`.
pub(super) fn find(folder: &Path, port: u16) -> Option<PathBuf> {
    let all = trials(folder).ok()?;
    let place = all.join(port.to_string());
    let is_cluster = is_ours(all.parent()?) && is_ours(&all) && is_marked(&place);
    // A link, also to the socket of a database that serves, is not followed: that one is no trial.
    let is_there =
        |path: PathBuf, is: fn(fs::FileType) -> bool| path.symlink_metadata().is_ok_and(|found| is(found.file_type()));
    let cluster = cluster(&place);
    // A socket without a server is found when it is asked; without a socket there never was one.
    let is_cluster = is_cluster
        && is_there(cluster.clone(), |kind| kind.is_dir())
        && is_there(cluster.join(format!(".s.PGSQL.{port}")), |kind| kind.is_socket());
    is_cluster.then_some(place)
}

/// Returns the folder of the data and the socket in that of a trial.
pub(super) fn cluster(place: &Path) -> PathBuf {
    place.join("cluster")
}

/// Makes a folder with these permissions, whatever the mask of this process; it was not there before.
pub(super) fn new(folder: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(mode))
}

fn made(folder: &Path, mode: u32) -> io::Result<()> {
    match new(folder, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Returns where trials lie. To psql what does not begin with a slash is no folder but a machine on the network.
fn trials(folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = std::path::absolute(folder).with_context(|| format!("cannot find {}", folder.display()))?;
    Ok(folder.join(TRIALS))
}

fn mark(folder: &Path) -> io::Result<()> {
    let mut marker = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(MARKER))?;
    marker.write_all(MARKED)
}

/// Returns whether this is our own and nobody else may write to it.
fn is_own(found: &fs::Metadata) -> bool {
    found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0
}

/// Returns whether this is a folder of our own, and no link to one.
fn is_ours(folder: &Path) -> bool {
    folder.symlink_metadata().is_ok_and(|found| found.is_dir() && is_own(&found))
}

/// Returns whether this is a folder that we made for a trial.
fn is_marked(folder: &Path) -> bool {
    let marker = folder.join(MARKER);
    let is_plain = |found: fs::Metadata| found.is_file() && is_own(&found) && found.len() == MARKED.len() as u64;
    is_ours(folder)
        && marker.symlink_metadata().is_ok_and(is_plain)
        && fs::read(&marker).is_ok_and(|text| text == MARKED)
}

fn locked(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Removes the trials whose process is gone: it was killed. Whatever else lies there stays.
fn remove_stale(all: &Path) {
    let Ok(entries) = fs::read_dir(all) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let port = name.to_str().and_then(|name| name.parse::<u16>().ok());
        // "+5433" is a number as well, and no name that we give.
        let is_trial = port.is_some_and(|port| name.to_str() == Some(&port.to_string())) && is_marked(&path);
        if is_trial
            && let Ok(locked) = locked(&path)
            && is_same(&locked, &path)
        {
            // Whatever stays is tried again by the next one.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Returns whether what was locked still lies there: between the two another process may have removed it and made its own.
fn is_same(locked: &File, path: &Path) -> bool {
    let id = |found: &fs::Metadata| (found.dev(), found.ino());
    matches!((locked.metadata(), path.symlink_metadata()), (Ok(one), Ok(other)) if id(&one) == id(&other))
}

/// Returns the user of this name, who is not root.
fn user_of(name: &str) -> anyhow::Result<User> {
    let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let user = user_in(&users, name).with_context(|| {
        format!("there is no user {name}, and PostgreSQL does not run as root: name one with --user")
    })?;
    if user.id == 0 {
        bail!("PostgreSQL does not run as root: name another user with --user");
    }
    Ok(user)
}

fn user_in(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let id = fields.next().filter(|each| *each == name).and_then(|_| fields.nth(1))?;
        Some(User { id: id.parse().ok()?, group: fields.next()?.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    fn make(folder: &Path) -> anyhow::Result<Place> {
        Place::make(folder, 5433, "nobody")
    }

    /// Makes a trial whose process is gone, with something in it.
    fn stale(folder: &Path) {
        new(folder, 0o700).unwrap();
        mark(folder).unwrap();
        fs::create_dir_all(folder.join("cluster/data")).unwrap();
    }

    #[test]
    fn a_place_is_its_owners_alone_and_gone_with_its_process() {
        let all = tempfile::tempdir().unwrap();
        let folder = all.path().join("kloros-trials/5433");
        let place = make(all.path()).unwrap();
        assert_eq!(place.cluster(), folder.join("cluster"));
        assert_eq!(place.cluster().metadata().unwrap().mode() & 0o777, 0o700);
        assert!(is_marked(&folder));
        assert!(make(all.path()).unwrap_err().to_string().contains("5433"), "a second one on the port");
        assert!(folder.exists(), "what is in use is not stale");
        drop(place);
        assert!(!folder.exists());
        stale(&all.path().join("kloros-trials/6000"));
        drop(make(all.path()).unwrap());
        assert!(!all.path().join("kloros-trials/6000").exists(), "what was left by a dead one is removed");
    }

    /// Every subfolder of the one that was named was once removed, `/var/lib/postgresql/15` too.
    #[test]
    fn what_is_not_marked_as_a_trial_is_never_removed() {
        let all = tempfile::tempdir().unwrap();
        let trials = all.path().join("kloros-trials");
        new(&trials, 0o700).unwrap();
        let databases = ["15/main", "5432", "kloros-trials/15/main", "kloros-trials/6001"];
        for each in databases {
            fs::create_dir_all(all.path().join(each)).unwrap();
            fs::write(all.path().join(each).join("PG_VERSION"), "15").unwrap();
        }
        fs::write(trials.join("6001/kloros-trial"), "something else").unwrap();
        // A marked one of another name, and a marker that is a link.
        stale(&trials.join("+6002"));
        fs::create_dir(trials.join("6003")).unwrap();
        symlink(trials.join("+6002/kloros-trial"), trials.join("6003/kloros-trial")).unwrap();
        symlink(trials.join("+6002"), trials.join("6004")).unwrap();
        stale(&trials.join("6005"));
        drop(make(all.path()).unwrap());
        for each in databases {
            assert!(all.path().join(each).join("PG_VERSION").exists(), "{each}");
        }
        for each in ["+6002/cluster/data", "6003", "6004"] {
            assert!(trials.join(each).exists(), "{each}");
        }
        assert!(!trials.join("6005").exists());
    }

    #[test]
    fn what_is_in_the_way_is_named_and_left_alone() {
        let all = tempfile::tempdir().unwrap();
        let way = all.path().join("kloros-trials/5433");
        new(&all.path().join("kloros-trials"), 0o700).unwrap();
        fs::create_dir_all(way.join("data")).unwrap();
        let error = make(all.path()).unwrap_err().to_string();
        assert!(error.contains(&way.display().to_string()) && error.contains("in the way"), "{error}");
        assert!(way.join("data").exists());
    }

    #[test]
    fn a_folder_that_others_may_write_to_or_that_is_a_link_is_refused() {
        let refused = |path: &Path| make(path).unwrap_err().to_string();
        let all = tempfile::tempdir().unwrap();
        fs::set_permissions(all.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(refused(all.path()).contains("yours alone"));
        let (other, link) = (tempfile::tempdir().unwrap(), all.path().join("link"));
        symlink(other.path(), &link).unwrap();
        assert!(refused(&link).contains("yours alone"));
        let below = tempfile::tempdir().unwrap();
        symlink(other.path(), below.path().join("kloros-trials")).unwrap();
        assert!(refused(below.path()).contains("kloros-trials"));
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
    }

    /// A link to `/var/run/postgresql` was once taken for a trial, and pgbench wrote into the database that serves.
    #[test]
    fn only_what_was_made_for_measurements_is_found() {
        let all = tempfile::tempdir().unwrap();
        let trials = all.path().join("kloros-trials");
        let listen = |folder: &Path| UnixListener::bind(folder.join(".s.PGSQL.5433")).unwrap();
        let place = make(all.path()).unwrap();
        assert_eq!(find(all.path(), 5433), None, "without a socket there never was a server");
        let socket = listen(&place.cluster());
        assert_eq!(find(all.path(), 5433), Some(trials.join("5433")));
        assert_eq!(find(all.path(), 5434), None);
        fs::set_permissions(&trials, Permissions::from_mode(0o777)).unwrap();
        assert_eq!(find(all.path(), 5433), None, "others may have put it there");
        fs::set_permissions(&trials, Permissions::from_mode(0o700)).unwrap();
        fs::remove_file(trials.join("5433/kloros-trial")).unwrap();
        assert_eq!(find(all.path(), 5433), None, "it is not marked");
        mark(&trials.join("5433")).unwrap();
        assert!(find(all.path(), 5433).is_some());
        fs::rename(place.cluster(), all.path().join("serving")).unwrap();
        symlink(all.path().join("serving"), place.cluster()).unwrap();
        assert_eq!(find(all.path(), 5433), None, "the folder of the socket is a link");
        fs::rename(trials.join("5433"), all.path().join("elsewhere")).unwrap();
        symlink(all.path().join("elsewhere"), trials.join("5433")).unwrap();
        assert_eq!(find(all.path(), 5433), None, "the place is a link");
        drop(socket);
    }

    #[test]
    fn the_server_is_nobody_who_is_not_there_and_never_root() {
        assert!(user_of("nobody").unwrap().id > 0);
        assert!(user_of("root").is_err() && user_of("").is_err() && user_of("no such user").is_err());
    }

    #[test]
    fn a_users_group_is_the_one_of_his_entry() {
        let users = "root:x:0:0:root:/root:/bin/sh\npg:x:70:71:,,,:/var/lib/postgresql:/bin/sh\nhalf:x:7\n";
        assert_eq!(user_in(users, "pg"), Some(User { id: 70, group: 71 }));
        assert_eq!((user_in(users, "half"), user_in(users, "p")), (None, None));
    }
}
