//! What is read of a machine, from tables as kernels write them and from a folder that stands for `/proc`.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

#[test]
fn who_runs_a_process_is_told_by_its_control_group() {
    let unit = |name: &str| RunBy::Unit(name.to_owned());
    let cases = [
        ("/system.slice/redis-server.service", unit("redis-server.service")),
        ("/system.slice/system-redis.slice/redis@6380.service", unit("redis@6380.service")),
        ("/system.slice/a.service/payload", unit("a.service")),
        ("/system.slice/kloros.service", RunBy::Kloros),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/r.service", RunBy::UserUnit("r.service".into())),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope", RunBy::Nobody),
        ("/user.slice/user-1000.slice/session-2.scope", RunBy::Nobody),
        ("/", RunBy::Nobody),
        ("", RunBy::Nobody),
    ];
    for (group, expected) in cases {
        assert_eq!(by_group(group, 1000, 1000), expected, "{group}");
    }
    let of_another = "/user.slice/user-1001.slice/user@1001.service/app.slice/r.service";
    assert_eq!(by_group(of_another, 1001, 1000), RunBy::Nobody);
}

#[test]
fn where_a_machine_listens_is_read_from_the_tables_of_the_kernel() {
    let four = "   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 4242 1 0 100 0 0 10 0";
    let every =
        "   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0 100 0 0 10 0";
    let six = "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 8 1";
    let mapped =
        "   0: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 9 1";
    // The kernel writes words as this machine holds them, and the tables above are of one that begins with the least.
    if cfg!(target_endian = "little") {
        assert_eq!(listener(four), Some((4242, "127.0.0.1:6379".parse().unwrap())));
        assert_eq!(listener(every), Some((7, "0.0.0.0:80".parse().unwrap())));
        assert_eq!(listener(six), Some((8, "[::1]:8080".parse().unwrap())));
        assert_eq!(listener(mapped), Some((9, "127.0.0.1:8080".parse().unwrap())));
    }
    let connected = four.replace(" 0A ", " 01 ");
    for line in [
        connected.as_str(),
        "",
        "0: :",
        "0: zz:1 x 0A",
        "0: 0100007F 0 0A 0 0 0 0 0 1",
        "0: \u{fc}\u{fc}\u{fc}\u{fc}:1 0 0A 0 0 0 0 0 1",
    ] {
        assert_eq!(listener(line), None, "{line}");
    }
}

#[test]
fn a_process_is_known_by_its_file_by_what_it_calls_itself_and_by_the_script_that_it_runs() {
    let words = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
    let cases = [
        (
            Some("/usr/bin/redis-check-rdb"),
            "redis-server",
            "/usr/bin/redis-server *:6379|",
            "redis-check-rdb redis-server",
        ),
        (Some("/usr/bin/redis-server (deleted)"), "redis-server", "redis-server", "redis-server"),
        (None, "redis-server", "", "redis-server"),
        (Some("/usr/bin/python3.11"), "python3", "python3|-u|/opt/bin/vllm|serve", "python3.11 python3 vllm"),
        (Some("/usr/bin/python3.11"), "python3", "python3|-m|a.b.c", "python3.11 python3 a.b.c"),
        (Some("/usr/bin/python3.11"), "python3", "python3|-m", "python3.11 python3"),
    ];
    for (file, calls_itself, arguments, expected) in cases {
        let names = names(file.map(Path::new), calls_itself, &words(arguments));
        assert_eq!(names.join(" "), expected);
    }
}

#[test]
fn a_program_that_another_user_could_exchange_is_not_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    // Folders for temporary files are everybody's, so only what is below can be kept.
    let uid = rustix::process::getuid().as_raw();
    assert!(is_kept(Path::new("/usr/bin/env"), uid));
    assert!(!is_kept(Path::new("usr/bin/env"), uid) && !is_kept(Path::new("/no/such/program"), uid));
    let program = root.join("program");
    fs::write(&program, "").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(!is_kept(&program, uid));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(is_kept(&program, uid), root.ancestors().all(|path| fs::metadata(path).unwrap().mode() & 0o022 == 0));
}

/// A folder that stands for `/proc`, with one process in it.
fn proc_with(stat: &str, cmdline: &[u8], comm: &str) -> tempfile::TempDir {
    let proc = tempfile::tempdir().unwrap();
    let folder = proc.path().join("42");
    fs::create_dir_all(folder.join("fd")).unwrap();
    fs::create_dir_all(proc.path().join("net")).unwrap();
    fs::write(folder.join("stat"), stat).unwrap();
    fs::write(folder.join("cmdline"), cmdline).unwrap();
    fs::write(folder.join("comm"), comm).unwrap();
    fs::write(folder.join("cgroup"), "0::/system.slice/redis-server.service\n").unwrap();
    symlink("socket:[4242]", folder.join("fd/6")).unwrap();
    symlink("pipe:[1]", folder.join("fd/7")).unwrap();
    proc
}

const STAT: &str = "42 (a) b) S 1 42 42 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 777 0 0";

#[test]
fn a_process_is_read_with_whatever_it_has_in_its_name_and_arguments() {
    let proc = proc_with(STAT, b"redis-server\0--requirepass\0\xff\n\x1b[2J\0", "redis-server\n");
    let line = "0: 0100007F:18EB 0 0A 0 0 0 0 0 4242";
    fs::write(proc.path().join("net/tcp"), format!("head\n{line}\nhalf a li")).unwrap();
    let seen = processes(proc.path());
    assert_eq!(seen.processes.len(), 1);
    let process = &seen.processes[0];
    assert_eq!((process.pid, process.parent), (42, 1));
    assert_eq!(process.run_by, RunBy::Unit("redis-server.service".to_owned()));
    assert_eq!(process.listens.as_ref().unwrap().len(), 1);
    assert_eq!(process.arguments.after(&["--requirepass"]).unwrap().chars().count(), 6);
}

#[test]
fn a_process_that_ends_while_it_is_read_is_left_out() {
    for gone in ["stat", "cmdline", "comm"] {
        let proc = proc_with(STAT, b"redis-server\0", "redis-server\n");
        fs::remove_file(proc.path().join("42").join(gone)).unwrap();
        assert!(processes(proc.path()).processes.is_empty(), "{gone}");
    }
    for torn in ["", "42 (a", "42 (a) S", "42 (a) S x y"] {
        assert!(processes(proc_with(torn, b"", "").path()).processes.is_empty(), "{torn}");
    }
    let proc = proc_with(STAT, b"redis-server\0", "redis-server\n");
    fs::remove_dir_all(proc.path().join("42/fd")).unwrap();
    let seen = processes(proc.path());
    assert!(seen.processes[0].listens.is_none() && seen.unseen.len() == 1);
    assert!(processes(Path::new("/no/such/folder")).processes.is_empty());
}

/// The one who looks is there, and so is where it listens.
#[test]
fn this_very_process_is_seen_with_where_it_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = processes(Path::new("/proc"));
    let own = seen.processes.iter().find(|process| process.pid == std::process::id()).unwrap();
    assert!(own.listens.as_ref().unwrap().contains(&address));
    assert_ne!(own.run_by, RunBy::Container);
}
