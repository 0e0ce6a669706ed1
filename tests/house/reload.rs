//! Settings that change under a running daemon.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
};

use serde_json::Value;

use super::{
    QUIET,
    house::{House, said},
};

/// How often the settings are written.
const REWRITES: usize = 200;

/// How much more memory the daemon may have afterwards, in KiB: an experiment goes on meanwhile.
const GROWTH_MAX_KIB: u64 = 48 * 1024;

/// The five ways in which people and programs write a file.
fn write(path: &Path, text: &str, way: usize) {
    let beside = path.with_extension(format!("new{way}"));
    match way % 5 {
        // As `echo > file` does.
        0 => fs::write(path, text).unwrap(),
        // As vim, and every careful program.
        1 => {
            fs::write(&beside, text).unwrap();
            fs::rename(&beside, path).unwrap();
        }
        // As an editor that keeps a backup.
        2 => {
            fs::rename(path, path.with_extension("bak")).unwrap();
            fs::write(path, text).unwrap();
        }
        // In pieces, as a slow copy does.
        3 => {
            let mut file = File::create(path).unwrap();
            let (first, second) = text.split_at(text.len() / 2);
            file.write_all(first.as_bytes()).unwrap();
            file.sync_all().unwrap();
            drop(file);
            OpenOptions::new().append(true).open(path).unwrap().write_all(second.as_bytes()).unwrap();
        }
        // As Kubernetes mounts a map: the file is a link through a folder that is exchanged.
        _ => {
            let folder = path.parent().unwrap();
            let version = folder.join(format!("..version{way}"));
            fs::create_dir_all(&version).unwrap();
            fs::write(version.join("kloros.toml"), text).unwrap();
            let data = folder.join("..data_new");
            symlink(&version, &data).unwrap();
            fs::rename(&data, folder.join("..data")).unwrap();
            let link = folder.join("..link");
            symlink("..data/kloros.toml", &link).unwrap();
            fs::rename(&link, path).unwrap();
        }
    }
}

fn resident_kib(pid: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn in_force(status: &Value) -> u64 {
    status["live"]["levels"][0]["ceiling"].as_u64().unwrap()
}

#[test]
fn two_hundred_rewrites_every_second_one_broken_leave_the_last_good_one_in_force() {
    let mut house = House::new(QUIET, "[reload]\nsettle_s = 0.02\n[gate]\nautonomy = 0\n");
    let path = house.path("kloros.toml");
    let text = fs::read_to_string(&path).unwrap();
    house.start(&[]);
    house.ask("lab.reload.001");
    house.until("the experiment is measured", |house| {
        house.json(&["status"])["work"]["experiments"][0]["trial"].as_u64().is_some_and(|trial| trial > 0)
    });
    let status = house.json(&["status"]);
    let pid = status["live"]["pid"].as_u64().unwrap();
    let before = resident_kib(pid);
    let mut good = 0;
    for turn in 0..REWRITES {
        if turn % 2 == 0 {
            good = (turn as u64 / 2) % 3 + 1;
            write(&path, &text.replace("autonomy = 0", &format!("autonomy = {good}")), turn);
            house.until("what is right is in force", |house| in_force(&house.json(&["status"])) == good);
        } else {
            let unknown = format!("autonomy_{turn}");
            write(&path, &text.replace("autonomy = 0", &format!("{unknown} = 0")), turn);
            house.until("what is wrong is refused", |house| {
                let status = house.json(&["status"]);
                assert_eq!(in_force(&status), good, "what was in force stays");
                let refused = status["live"]["reload"]["outcome"]["refused"]["problems"].to_string();
                refused.contains(&unknown) && refused.contains("kloros.toml:")
            });
        }
    }
    let grown = resident_kib(pid).saturating_sub(before);
    assert!(grown <= GROWTH_MAX_KIB, "{grown} KiB more than before");
    let status = house.json(&["status"]);
    assert_eq!(status["live"]["pid"].as_u64(), Some(pid));
    for room in status["live"]["rooms"].as_array().unwrap() {
        assert_eq!(room["restarts"], 0, "{room}");
    }
    house.until("the experiment ends", |house| {
        house.read("logs/orchestrator/curiosity_experiments.jsonl").lines().any(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            ["finished", "failed"].contains(&line["event"].as_str().unwrap())
        })
    });
    assert!(said(&house.kloros(&["audit", "verify"])).starts_with("intact"));
}

#[test]
fn a_reload_that_is_waited_for_ends_with_one_when_it_is_refused() {
    let mut house = House::new(QUIET, "[reload]\nfollow_files = false\n[gate]\nautonomy = 0\n");
    let path = house.path("kloros.toml");
    let text = fs::read_to_string(&path).unwrap();
    house.start(&[]);
    fs::write(&path, text.replace("autonomy = 0", "autonomy = 3")).unwrap();
    let applied = house.kloros(&["reload", "--wait"]);
    assert_eq!((applied.status.code(), said(&applied).trim()), (Some(0), "in force: gate.autonomy 0 -> 3"));
    fs::write(&path, text.replace("autonomy = 0", "autonomy = \"all\"")).unwrap();
    let refused = house.kloros(&["reload", "--wait"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(
        said(&refused).contains("gate.autonomy: expected a whole number, found the text \"all\""),
        "{}",
        said(&refused)
    );
    assert_eq!(in_force(&house.json(&["status"])), 3);
    // A file that goes away takes no limit away.
    fs::remove_file(&path).unwrap();
    let gone = house.kloros(&["reload", "--wait"]);
    assert!(gone.status.code() == Some(1) && said(&gone).contains("kloros.toml: is gone"), "{}", said(&gone));
    assert_eq!(in_force(&house.json(&["status"])), 3);
    // A hang-up is the same, without an answer.
    fs::write(&path, text.replace("autonomy = 0", "autonomy = 1")).unwrap();
    let pid = house.json(&["status"])["live"]["pid"].to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    house.until("it is in force", |house| in_force(&house.json(&["status"])) == 1);
    // A domain that comes is named, and comes with the next start.
    fs::create_dir(house.path("domains")).unwrap();
    let lab = concat!(env!("CARGO_MANIFEST_DIR"), "/config/domains/lab.toml");
    fs::copy(lab, house.path("domains/other.toml")).unwrap();
    let later = house.kloros(&["reload", "--wait"]);
    assert!(said(&later).contains("after a restart: domains.lab, domains.other"), "{}", said(&later));
    assert!(said(&house.kloros(&["status"])).contains("settings   after a restart: domains.lab"));
    assert_eq!(house.interrupt(), Some(0));
}

/// Once an emptied file put the level that ships into force over a lower one.
#[test]
fn a_file_that_is_emptied_takes_no_limit_away_until_somebody_asks() {
    let mut house = House::new(QUIET, "[reload]\nsettle_s = 0.02\n[gate]\nautonomy = 0\n");
    let path = house.path("kloros.toml");
    let refused = |house: &House| {
        let status = house.json(&["status"]);
        assert_eq!(in_force(&status), 0, "what was in force stays");
        status["live"]["reload"]["outcome"]["refused"]["problems"].to_string().contains("gate.autonomy: says 0 no more")
    };
    let text = fs::read_to_string(&path).unwrap();
    house.start(&[]);
    fs::write(&path, "").unwrap();
    house.until("an emptied file is refused", |house| refused(house));
    fs::write(&path, &text).unwrap();
    house.until("the whole one is in order", |house| !refused(house));
    fs::write(&path, text.split("[gate]").next().unwrap()).unwrap();
    house.until("one without its end is refused", |house| refused(house));
    let asked = house.kloros(&["reload", "--wait"]);
    assert!(said(&asked).contains("in force: gate.autonomy 0 -> 2"), "{}", said(&asked));
    assert_eq!(house.interrupt(), Some(0));
}
