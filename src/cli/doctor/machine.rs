//! What is looked at of the machine: the home, the journal, the clock, ports, whose turn it is to measure, GPUs.

use std::{fs, net::TcpListener, os::unix::fs::MetadataExt as _, path::Path, sync::Arc, time::Duration};

use kloros_actors::seams::{Clock as _, Query};

use super::Finding;
use crate::{
    api::Token,
    clock::SystemClock,
    env_store::{can_exchange, refuses_links_at_once},
    gpus, guard,
    home::Home,
    journal::Reader,
    nvml::{DriverState, Gpus},
    settings::Settings,
};

/// How much of the disk must be left, in bytes, for the journal and an undo.
const DISK_LEFT_MIN: u64 = 256 << 20;

/// No clock of a machine that runs this is before this moment, in milliseconds since the Unix epoch: 2025-01-01.
const CLOCK_MIN_MS: u64 = 1_735_689_600_000;

/// How far facts may lie ahead of the clock, in milliseconds.
const AHEAD_MAX_MS: u64 = 60_000;

/// How long GPUs may take to answer.
const GPUS_WITHIN: Duration = Duration::from_secs(30);

pub(super) fn home(home: &Home) -> Vec<Finding> {
    let root = home.root();
    let shown = root.display();
    let Ok(found) = fs::metadata(root) else {
        let what = format!("{shown} is not there yet");
        return vec![Finding::note("home", what, Some("kloros run makes it; --home or KLOROS_HOME names another"))];
    };
    let mut findings = Vec::new();
    let (own, mode) = (rustix::process::getuid().as_raw(), found.mode() & 0o777);
    if own != 0 && found.uid() != own {
        let what = format!("{shown} belongs to user {}, and this is user {own}", found.uid());
        findings.push(Finding::note("home", what, Some("ask as that user to see what it sees")));
    }
    if mode & 0o022 != 0 {
        let fix = format!("chmod go-w {shown}");
        findings.push(Finding::bad("home", format!("others may write into {shown} (mode {mode:o})"), fix));
    }
    match rustix::fs::access(root, rustix::fs::Access::WRITE_OK) {
        Ok(()) => findings.push(Finding::well("home", format!("{shown}, mode {mode:o}"))),
        Err(error) => findings.push(Finding::bad(
            "home",
            format!("{shown} cannot be written: {error}"),
            "chown it to the daemon's user",
        )),
    }
    findings.extend(disk(root));
    if fs::symlink_metadata(home.api_token()).is_ok()
        && let Err(error) = Token::of(home)
    {
        findings.push(Finding::bad("token", error.to_string(), format!("chmod 600 {}", home.api_token().display())));
    }
    findings
}

fn disk(root: &Path) -> Option<Finding> {
    let disk = rustix::fs::statvfs(root).ok()?;
    let (left, nodes) = (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_favail);
    let what = format!("{} MiB are left where {} lies", left >> 20, root.display());
    Some(if left < DISK_LEFT_MIN {
        Finding::bad("disk", what, format!("make room: the journal and an undo want {} MiB", DISK_LEFT_MIN >> 20))
    } else if disk.f_files > 0 && nodes < 1000 {
        Finding::bad("disk", format!("{nodes} files may still be made"), "remove small files: no inodes are left")
    } else {
        Finding::well("disk", what)
    })
}

/// Says by what means a change is made and watched over here.
pub(super) fn means(home: &Home, settings: &Settings) -> Vec<Finding> {
    let about = "changes";
    let (folder, device) = (home.state_folder(), |path: &Path| fs::metadata(path).map(|found| found.dev()).ok());
    let mut findings = Vec::new();
    match can_exchange(&folder) {
        Ok(true) => findings.push(Finding::well(about, "files are exchanged in one step where the home lies")),
        Ok(false) => {
            let what = "files cannot be exchanged in one step where the home lies: an edit in the moment of a change may be lost";
            findings.push(Finding::note(
                about,
                what,
                Some("keep env files on a file system such as ext4, xfs or btrfs"),
            ));
        }
        // Where kloros never ran, or as somebody else, there is no such folder to try it in.
        Err(_) => {}
    }
    let files = settings.catalogue.domains.values().map(|domain| home.root().join(&domain.service.env_file));
    let elsewhere = files.filter(|file| file.parent().and_then(device) != device(&folder));
    findings.extend(elsewhere.map(|file| {
        let what = format!("{} lies on another file system, of which this is not known", file.display());
        Finding::note(about, what, None)
    }));
    if refuses_links_at_once() {
        findings.push(Finding::well(about, "the kernel refuses links on the way to an env file (openat2)"));
    } else {
        let what =
            "this kernel or sandbox has no openat2: links on the way to an env file are looked for folder by folder";
        findings.push(Finding::note(about, what, None));
    }
    if let Some(starter) = home.daemon().and_then(guard::starter_of) {
        findings.push(Finding::well(about, format!("guards of the running daemon are started by {starter}")));
    }
    findings
}

pub(super) fn journal(home: &Home) -> Vec<Finding> {
    let about = "journal";
    let reader = match Reader::find(home) {
        Ok(Some(reader)) => reader,
        Ok(None) => return vec![Finding::note(about, "there is none yet", None)],
        Err(error) => {
            return vec![Finding::bad(about, error.to_string(), "the README tells what a lost journal means")];
        }
    };
    let newest = reader.read(&Query::newest(&[], 1)).ok().and_then(|facts| facts.first().map(|fact| fact.at_ms));
    let mut findings = vec![match reader.verify() {
        Ok(verified) => Finding::well(about, format!("{} facts, each is what was written", verified.facts)),
        Err(error) => Finding::bad(about, error.to_string(), "keep a copy, then restore a backup of the home"),
    }];
    let ahead_ms = newest.map_or(0, |newest| newest.saturating_sub(SystemClock.now_ms()));
    if ahead_ms > AHEAD_MAX_MS {
        let what = format!("the newest fact lies {} s ahead of the clock", ahead_ms / 1000);
        findings.push(Finding::bad("clock", what, "set the clock: timedatectl set-ntp true"));
    }
    findings
}

pub(super) fn clock() -> Finding {
    let fix = "timedatectl set-ntp true; windows and rests go by the clock";
    if SystemClock.now_ms() < CLOCK_MIN_MS {
        return Finding::bad("clock", "it is years behind", fix);
    }
    // timesyncd and chrony leave a trace when the clock was set by a server; the absence of one proves nothing.
    let traces = ["/run/systemd/timesync/synchronized", "/run/chrony/chronyd.pid", "/run/ntpd.pid"];
    match traces.iter().find(|path| Path::new(path).exists()) {
        Some(trace) => Finding::well("clock", format!("kept by a server ({trace})")),
        None => Finding::note("clock", "nothing is seen that keeps it", Some(fix)),
    }
}

pub(super) fn ports(home: &Home, settings: &Settings, is_running: bool) -> Vec<Finding> {
    let metrics = ("shell.metrics_address", Some(settings.shell.metrics_address));
    let api = ("api.listen", settings.reached.address());
    let conversation = ("conversation.listen", settings.conversation.address());
    let look = |(key, address): (&str, Option<std::net::SocketAddr>)| {
        let address = address?;
        Some(match TcpListener::bind(address) {
            Ok(_) if is_running => Finding::bad(
                "ports",
                format!("the daemon does not listen on {address}"),
                format!("restart it: {key} was changed, or see kloros tree"),
            ),
            Ok(_) => Finding::well("ports", format!("{address} is free for {key}")),
            Err(_) if is_running => Finding::well("ports", format!("{address} is taken, by the daemon as {key} says")),
            Err(error) => Finding::bad(
                "ports",
                format!("{address} cannot be listened on: {error}"),
                format!("set {key} to a free one, in {}", home.root().display()),
            ),
        })
    };
    [metrics, api, conversation].into_iter().filter_map(look).collect()
}

pub(super) fn lease(settings: &Settings) -> Finding {
    let folder = settings.measuring.lease_folder.display();
    match settings.measuring.machine().look() {
        Ok(standing) => {
            let now = standing
                .measures
                .map_or_else(|| "nobody measures now".to_owned(), |seen| format!("{} measures now", seen.what));
            Finding::well("measuring", format!("turns are taken in {folder}, {now}"))
        }
        Err(error) => {
            Finding::bad("measuring", error.to_string(), "systemd-tmpfiles --create, or set measuring.lease_folder")
        }
    }
}

pub(super) async fn gpus(settings: &Settings) -> Vec<Finding> {
    let mut watching = gpus::watching(&settings.rooms.gpu, false);
    watching.deadline = watching.deadline.max(GPUS_WITHIN);
    let gpus = Gpus::new(watching, Arc::new(SystemClock), |_| ());
    // What does not answer is part of what is known.
    gpus.look().await.ok();
    let snapshot = gpus.known().snapshot;
    let driver = &snapshot.driver;
    if driver.state.is_absence() {
        return vec![Finding::note("GPUs", driver.state.words(), None)];
    }
    if driver.state != DriverState::Ready {
        return vec![Finding::bad("GPUs", driver.state.words(), "kloros gpu says what the driver said")];
    }
    let look = |gpu: &crate::nvml::GpuView| {
        let name = gpu.identity.name.clone().unwrap_or_else(|| gpu.identity.uuid.clone());
        match gpu.trouble {
            Some(trouble) => Finding::bad("GPUs", format!("{name}: {}", trouble.words()), "kloros gpu says more"),
            None => Finding::well("GPUs", format!("{name} answers")),
        }
    };
    snapshot.gpus.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cli::doctor::How;

    #[test]
    fn a_home_that_others_may_write_into_is_bad_and_one_that_is_not_there_is_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let absent = home(&Home::at(&folder.path().join("none")).unwrap());
        assert_eq!(absent.iter().map(|finding| finding.how).collect::<Vec<_>>(), [How::Note]);
        let here = Home::at(folder.path()).unwrap();
        here.create().unwrap();
        let bad =
            |findings: &[Finding]| findings.iter().any(|finding| finding.how == How::Bad && finding.about == "home");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!bad(&home(&here)));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(bad(&home(&here)));
        fs::write(here.api_token(), "others may read this token, which is long enough").unwrap();
        fs::set_permissions(here.api_token(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(home(&here).iter().any(|finding| finding.about == "token" && finding.how == How::Bad));
    }

    #[test]
    fn a_journal_that_is_no_journal_is_bad() {
        let folder = tempfile::tempdir().unwrap();
        let here = Home::at(folder.path()).unwrap();
        here.create().unwrap();
        assert_eq!(journal(&here)[0].how, How::Note);
        fs::write(here.journal(), "no database").unwrap();
        assert_eq!(journal(&here)[0].how, How::Bad);
    }

    #[test]
    fn a_port_that_somebody_else_has_is_bad() {
        let folder = tempfile::tempdir().unwrap();
        let here = Home::at(folder.path()).unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        fs::write(folder.path().join("kloros.toml"), format!("[shell]\nmetrics_address = \"{address}\"\n")).unwrap();
        let settings = Settings::load(here.root(), None).unwrap();
        assert_eq!(ports(&here, &settings, false)[0].how, How::Bad);
        assert_eq!(ports(&here, &settings, true)[0].how, How::Well);
        drop(taken);
        assert_eq!(ports(&here, &settings, false)[0].how, How::Well);
        assert_eq!(ports(&here, &settings, true)[0].how, How::Bad);
    }

    #[test]
    fn the_port_of_conversations_is_looked_at_where_they_are_held() {
        let folder = tempfile::tempdir().unwrap();
        let here = Home::at(folder.path()).unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let text = format!("[conversation]\nlisten = \"{address}\"\nupstream = \"http://127.0.0.1:1\"\n");
        fs::write(folder.path().join("kloros.toml"), text).unwrap();
        let settings = Settings::load(here.root(), None).unwrap();
        let found = ports(&here, &settings, false);
        let about: Vec<&Finding> = found.iter().filter(|each| each.what.contains(&address.to_string())).collect();
        assert!(about.len() == 1 && about[0].how == How::Bad, "{found:?}");
        assert!(about[0].fix.as_deref().is_some_and(|fix| fix.contains("conversation.listen")), "{about:?}");
    }
}
