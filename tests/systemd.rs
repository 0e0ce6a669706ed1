//! The units of `ops/systemd` under a real systemd, booted over the files of this machine; see `tests/systemd/boot`.
//!
//! Only root may do that. Where it cannot be done, the tests say so and check nothing, unless `KLOROS_SYSTEMD=required` says that it must.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::print_stdout, reason = "a test that could not be run says so")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long something may take on a machine with other work.
const SOON: Duration = Duration::from_secs(300);

/// How often it is looked whether something has come about.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const SETTINGS: &str = "[shell]\nmetrics_address = \"127.0.0.1:0\"\ndemo_load = false\n[gate]\nautonomy = 0\n";

/// A systemd with kloros installed; dropping it ends all that it started.
struct Machine {
    pid: String,
    _files: tempfile::TempDir,
}

impl Machine {
    /// Boots, with kloros set to `settings` and `drop_in` as one of the operator's; `None` where that cannot be done here.
    fn boot(settings: &str, drop_in: &str) -> Option<Self> {
        let files = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let install = |from: &Path, to: &str, mode: u32| {
            let to = files.path().join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(mode)).unwrap();
        };
        install(Path::new(env!("CARGO_BIN_EXE_kloros")), "usr/bin/kloros", 0o755);
        let unit = |name: &str| root.join("ops/systemd").join(name);
        for name in ["kloros.service", "kloros-recover.service", "kloros-guard@.service"] {
            install(&unit(name), &format!("etc/systemd/system/{name}"), 0o644);
        }
        install(&unit("kloros.sysusers.conf"), "usr/lib/sysusers.d/kloros.conf", 0o644);
        install(&unit("kloros.tmpfiles.conf"), "usr/lib/tmpfiles.d/kloros.conf", 0o644);
        let write = |to: &str, text: &str| {
            let to = files.path().join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(&to, text).unwrap();
        };
        write("etc/kloros/kloros.toml", settings);
        write("etc/systemd/system/kloros.service.d/10-test.conf", drop_in);
        for folder in ["etc", "etc/kloros", "etc/systemd", "etc/systemd/system", "usr", "usr/bin", "usr/lib"] {
            fs::set_permissions(files.path().join(folder), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let machine = Self::over(files)?;
        machine.well(&["systemd-sysusers"]);
        machine.well(&["systemd-tmpfiles", "--create", "kloros.conf"]);
        Some(machine)
    }

    /// Boots with `files` over those of this machine.
    fn over(files: tempfile::TempDir) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/lib/systemd/systemd").exists() {
            return not_run("it takes root, and systemd installed");
        }
        let boot = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/boot");
        let booted = Command::new(boot).arg(files.path()).output().unwrap();
        if !booted.status.success() {
            return not_run(&String::from_utf8_lossy(&booted.stderr));
        }
        let pid = String::from_utf8(booted.stdout).unwrap().trim().to_owned();
        Some(Self { pid, _files: files })
    }

    fn run(&self, command: &[&str]) -> Output {
        Command::new("nsenter").args(["-t", &self.pid, "-a"]).args(command).output().unwrap()
    }

    #[track_caller]
    fn well(&self, command: &[&str]) {
        let output = self.run(command);
        assert!(output.status.success(), "{command:?}: {output:?}\n{}", self.log());
    }

    fn property(&self, name: &str) -> String {
        let shown = self.run(&["systemctl", "show", "--value", "--property", name, "kloros.service"]);
        String::from_utf8(shown.stdout).unwrap().trim().to_owned()
    }

    fn log(&self) -> String {
        let log = self.run(&["journalctl", "--no-pager", "--unit", "kloros.service", "--lines", "400"]);
        String::from_utf8_lossy(&log.stdout).into_owned()
    }

    #[track_caller]
    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + SOON;
        while !is_so() {
            assert!(Instant::now() < deadline, "not in time: {what}\n{}", self.log());
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Returns whether there is such a file, folder or link.
    fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(format!("/proc/{}/root{path}", self.pid)).is_ok()
    }

    fn write_settings(&self, text: &str) {
        let file = format!("/proc/{}/root/etc/kloros/kloros.toml", self.pid);
        fs::write(file, text).unwrap();
    }

    /// Returns what of kloros runs.
    fn processes(&self) -> String {
        String::from_utf8(self.run(&["pgrep", "-a", "-u", "kloros"]).stdout).unwrap()
    }
}

/// Says why nothing is checked, or fails where something must be.
fn not_run<T>(why: &str) -> Option<T> {
    assert_ne!(std::env::var("KLOROS_SYSTEMD").as_deref(), Ok("required"), "not run: {why}");
    println!("not run: {why}");
    None
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its parent is `unshare`, which takes everything along.
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
        kill_process(Pid::from_raw(parent).unwrap(), Signal::KILL).unwrap();
    }
}

#[test]
fn the_unit_is_ready_when_the_loop_turns_and_a_reload_fails_when_it_is_refused() {
    let Some(machine) = Machine::boot(SETTINGS, "") else { return };
    machine.well(&["systemctl", "start", "kloros.service"]);
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.property("StatusText"), "watching");
    let status = machine.run(&["kloros", "status", "--home", "/var/lib/kloros"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("lab at autonomy 0"), "{status:?}");
    machine.write_settings(&SETTINGS.replace("autonomy = 0", "autonomy = 1"));
    machine.well(&["systemctl", "reload", "kloros.service"]);
    // The fields of the log are journald's own.
    let found = machine.run(&["journalctl", "--output", "cat", "KLOROS_CHANGED=[\"gate.autonomy 0 -> 1\"]"]);
    assert!(String::from_utf8_lossy(&found.stdout).contains("settings read again changed="), "{found:?}");
    machine.write_settings(&SETTINGS.replace("autonomy = 0", "autonomy = 9"));
    assert!(!machine.run(&["systemctl", "reload", "kloros.service"]).status.success());
    assert_eq!((machine.property("ActiveState"), machine.property("NRestarts")), ("active".into(), "0".into()));
    let status = machine.run(&["kloros", "status", "--home", "/var/lib/kloros"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("lab at autonomy 1"), "{status:?}");
    // What it started ends with it.
    assert!(machine.processes().contains("lab serve"), "{}", machine.processes());
    machine.well(&["systemctl", "stop", "kloros.service"]);
    assert_eq!(machine.processes(), "");
    assert_eq!(machine.property("Result"), "success");
}

#[test]
fn a_daemon_that_freezes_or_is_killed_comes_back() {
    let Some(machine) = Machine::boot(SETTINGS, "[Service]\nWatchdogSec=5\nRestartSec=100ms\n") else { return };
    machine.well(&["systemctl", "start", "kloros.service"]);
    for (signal, restarts) in [("STOP", "1"), ("KILL", "2")] {
        let before = machine.property("MainPID");
        machine.well(&["systemctl", "kill", "--signal", signal, "--kill-whom", "main", "kloros.service"]);
        machine.until("it is started again", || machine.property("NRestarts") == restarts);
        machine.until("it is ready again", || machine.property("SubState") == "running");
        assert_ne!(machine.property("MainPID"), before);
    }
    assert!(machine.log().contains("Watchdog timeout"), "{}", machine.log());
}

#[test]
fn settings_that_cannot_be_used_are_not_tried_again() {
    let Some(machine) = Machine::boot("[gate]\nautonmy = 1\n", "") else { return };
    assert!(!machine.run(&["systemctl", "start", "kloros.service"]).status.success());
    assert_eq!((machine.property("ActiveState"), machine.property("NRestarts")), ("failed".into(), "0".into()));
    assert_eq!(machine.property("ExecMainStatus"), "78");
    assert!(machine.log().contains("gate.autonmy: unknown key; did you mean autonomy?"), "{}", machine.log());
}

/// Boots with the Debian package of the program under test as /srv/kloros.deb, not installed.
fn with_package() -> Option<Machine> {
    let files = tempfile::tempdir().unwrap();
    let (srv, drop_in) = (files.path().join("srv"), files.path().join("etc/systemd/system/kloros.service.d"));
    fs::create_dir_all(&srv).unwrap();
    fs::create_dir_all(&drop_in).unwrap();
    // Machines that are tested share the ports of this one.
    fs::write(drop_in.join("10-test.conf"), "[Service]\nEnvironment=KLOROS__SHELL__METRICS_ADDRESS=127.0.0.1:0\n")
        .unwrap();
    for folder in ["", "etc", "etc/systemd", "etc/systemd/system"] {
        fs::set_permissions(files.path().join(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut pack = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/package/deb"));
    // Packing it tightly takes longer than everything else here.
    pack.arg(env!("CARGO_BIN_EXE_kloros")).arg(&srv).env("DPKG_DEB_COMPRESSOR_TYPE", "none");
    let output = pack.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::rename(String::from_utf8(output.stdout).unwrap().trim(), srv.join("kloros.deb")).unwrap();
    Machine::over(files)
}

const LEFT_BEHIND: [&str; 8] = [
    "/etc/systemd/system/multi-user.target.wants/kloros.service",
    "/usr/bin/kloros",
    "/etc/kloros",
    "/var/lib/kloros",
    "/usr/lib/systemd/system/kloros.service",
    "/etc/systemd/system/basic.target.wants/kloros-recover.service",
    "/etc/polkit-1/rules.d/50-kloros.rules",
    "/dev/shm/kloros",
];

#[test]
fn the_package_starts_nothing_by_itself_goes_on_after_an_upgrade_and_leaves_nothing_after_a_purge() {
    let Some(machine) = with_package() else { return };
    let install = ["dpkg", "--install", "/srv/kloros.deb"];
    machine.well(&install);
    assert_eq!(
        (machine.property("ActiveState"), machine.property("UnitFileState")),
        ("inactive".into(), "disabled".into())
    );
    machine.well(&["systemctl", "is-enabled", "kloros-recover.service"]);
    machine.well(&["systemctl", "enable", "--now", "kloros.service"]);
    let missing: Vec<_> = LEFT_BEHIND.iter().filter(|path| !machine.has(path)).collect();
    assert!(missing.is_empty(), "{missing:?}");

    let before = machine.property("MainPID");
    machine.well(&install);
    machine.until("the upgraded one is ready", || machine.property("SubState") == "running");
    assert_ne!(machine.property("MainPID"), before);

    machine.well(&["dpkg", "--remove", "kloros"]);
    assert_eq!((machine.processes(), machine.has("/usr/bin/kloros")), (String::new(), false));
    assert!(
        machine.has("/etc/kloros/kloros.toml") && machine.has("/var/lib/kloros/.kloros"),
        "what its owner may want"
    );

    machine.well(&install);
    assert_eq!(machine.property("UnitFileState"), "enabled", "what its owner enabled stays so over a removal");
    machine.well(&["systemctl", "start", "kloros.service"]);
    machine.well(&["dpkg", "--purge", "kloros"]);
    assert_eq!(machine.processes(), "");
    let left: Vec<_> = LEFT_BEHIND.iter().filter(|path| machine.has(path)).collect();
    assert!(left.is_empty(), "{left:?}");

    // Once a link stayed behind that enabled what was installed next.
    machine.well(&install);
    assert_eq!(machine.property("UnitFileState"), "disabled");
    machine.well(&["dpkg", "--purge", "kloros"]);
}

#[test]
fn the_package_is_not_removed_while_a_change_that_cannot_be_taken_back_is_live() {
    let Some(machine) = with_package() else { return };
    machine.well(&["dpkg", "--install", "/srv/kloros.deb"]);
    machine.well(&["systemctl", "start", "kloros.service"]);
    machine.well(&["systemctl", "stop", "kloros.service"]);
    let pending = "/var/lib/kloros/.kloros/pending";
    machine.well(&["runuser", "-u", "kloros", "--", "mkdir", "-p", pending]);
    machine.well(&["runuser", "-u", "kloros", "--", "cp", "/etc/hostname", &format!("{pending}/lab.json")]);
    let refused = machine.run(&["dpkg", "--remove", "kloros"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("could not be taken back"), "{refused:?}");
    assert!(machine.has("/usr/bin/kloros"));
    machine.well(&["rm", &format!("{pending}/lab.json")]);

    // A unit that would not start without it.
    let drop_in = "/etc/systemd/system/nginx.service.d";
    machine.well(&["mkdir", "-p", drop_in]);
    let example = "/usr/share/doc/kloros/examples/systemd/nginx.service.d/50-kloros.conf";
    machine.well(&["cp", example, drop_in]);
    let refused = machine.run(&["dpkg", "--remove", "kloros"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("nginx.service.d/50-kloros.conf"), "{refused:?}");
    machine.well(&["rm", &format!("{drop_in}/50-kloros.conf")]);
    // So is the endpoint of conversations, though its name begins as those of the package do.
    let endpoint = "kloros-conversation.service";
    machine.well(&["cp", &format!("/usr/share/doc/kloros/examples/systemd/{endpoint}"), "/etc/systemd/system"]);
    let refused = machine.run(&["dpkg", "--remove", "kloros"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains(endpoint), "{refused:?}");
    machine.well(&["rm", &format!("/etc/systemd/system/{endpoint}")]);
    machine.well(&["dpkg", "--remove", "kloros"]);
    assert!(!machine.has("/usr/bin/kloros"));
}
