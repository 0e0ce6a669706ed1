//! The corpus of hostile files, put where the real program reads: nothing of it is applied, and no secret is shown.

mod corpus;

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use kloros_actors::{
    env_file::{edit, value_of},
    facts::Key,
};

use self::corpus::{SECRET, env_files, intents, winners};
use super::house::{self, House};

const WINNERS: &str = "artifacts/dream/winners";
const INTENTS: &str = ".kloros/intents";

/// Puts what is no plain file of our own into `folder`, and returns how many that are.
fn put_strange_files(folder: &Path) -> usize {
    let path = |name: &str| folder.join(name);
    symlink("/etc/passwd", path("link.json")).unwrap();
    symlink("link.json", path("chain.json")).unwrap();
    symlink("loop.json", path("loop.json")).unwrap();
    symlink("/dev/zero", path("zero.json")).unwrap();
    fs::create_dir(path("folder.json")).unwrap();
    fs::File::create(path("huge.json")).unwrap().set_len(1 << 40).unwrap();
    assert!(Command::new("mkfifo").arg(path("pipe.json")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(path("socket.json")).unwrap();
    fs::write(path("stranger.json"), "{}").unwrap();
    // Only root can give a file away; without that right it is an empty object like any other.
    std::os::unix::fs::chown(path("stranger.json"), Some(65_534), None).ok();
    fs::write(path("\u{1b}[2J.json"), "{}").unwrap();
    fs::write(path(" .json"), "{}").unwrap();
    11
}

/// Returns the names in `folder` that an inbox would still look at.
fn is_refused(entry: &std::io::Result<fs::DirEntry>) -> bool {
    entry.as_ref().unwrap().path().extension().is_some_and(|ending| ending == "refused")
}

fn unread(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "json")).collect()
}

/// Returns the files below the home that hold the secret, but for those in which it was put.
fn leaks(house: &House) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![house.home.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let text = path.display().to_string();
            let was_put =
                text.ends_with(".refused") || text.ends_with(".kloros_env") || text.contains("/processed/intent");
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && !was_put && entry.metadata().unwrap().len() < 100 << 20 {
                let bytes = fs::read(&path).unwrap();
                found.extend(bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()).then_some(text));
            }
        }
    }
    found
}

/// Faults 72, 86 to 90, 93.
#[test]
fn of_two_hundred_hostile_files_none_is_applied_and_no_secret_is_shown() {
    let mut house = House::new("demo_load = false", "[gate]\nautonomy = 3");
    let before = format!("TOKEN={SECRET}\nLAB_THREADS=1\n");
    fs::write(house.path(".kloros_env"), &before).unwrap();
    house.start(&[]);
    let mut count = 0;
    for (folder, files) in [(WINNERS, winners()), (INTENTS, intents())] {
        for (name, text) in &files {
            house.drop_file(folder, &format!("{name}.json"), text);
        }
        count += files.len() + put_strange_files(&house.path(folder));
    }
    house.until("all of them are dealt with", |house| {
        unread(&house.path(WINNERS)).is_empty() && unread(&house.path(INTENTS)).is_empty()
    });
    assert_eq!(house.read(".kloros_env"), before, "nothing was applied");
    for list in ["deployments", "experiments"] {
        assert_eq!(house.json(&[list]).as_array().map(Vec::len), Some(0), "{list}: {}", house.json(&[list]));
    }
    for shown in [&["status"][..], &["intents"], &["questions"], &["audit"]] {
        let output = house.kloros(shown);
        assert!(!house::said(&output).contains(SECRET), "{shown:?} shows the secret");
    }
    assert_eq!(leaks(&house), [""; 0], "the secret stands where nobody put it");
    let audited = house.json(&["audit", "--limit", "1000"]);
    let refused = audited.as_array().unwrap().iter().filter(|fact| fact["kind"] == "refused").count();
    let aside = |folder: &str| fs::read_dir(house.path(folder)).unwrap().filter(is_refused).count();
    let set_aside = aside(WINNERS) + aside(".kloros/intents/processed");
    assert!(refused >= set_aside && set_aside > 100, "{refused} of {set_aside} refusals stand in the audit trail");
    println!("{count} hostile winners and intents: 0 applied, 0 secrets shown");
    assert!(count >= 200, "{count}");
    assert!(house.kloros(&["status"]).status.success(), "{}", house::said(&house.kloros(&["status"])));
}

/// Faults 34, 35: what cannot be told is neither read as something nor written over.
#[test]
fn of_env_files_that_can_be_read_in_two_ways_no_value_is_taken_or_set() {
    let key = Key::new("LAB_MAX_NUM_SEQS").unwrap();
    let files = env_files();
    for (name, text) in &files {
        let problem = edit(text.as_bytes(), &[(key.clone(), Some("8".to_owned()))]).expect_err(name).to_string();
        assert!(!problem.contains(SECRET) && !problem.contains(char::is_control), "{name}: {problem}");
        if let Ok(value) = value_of(text.as_bytes(), &key) {
            assert_eq!(value, None, "{name}");
        }
    }
    println!("{} hostile env files: 0 edited, 0 secrets told", files.len());
}

/// Faults 37, 38, 39, 93: the same through the whole program, and what is no plain file of its own.
#[test]
fn a_hostile_env_file_is_left_as_it_is_by_the_program_too() {
    let mut house = House::new("demo_load = false", "[gate]\nautonomy = 3");
    let path = house.path(".kloros_env");
    fs::write(&path, format!("TOKEN={SECRET}\n")).unwrap();
    house.start(&[]);
    let files = env_files();
    for (name, text) in files.iter().step_by(9) {
        fs::write(&path, text).unwrap();
        let tried = house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=8"]);
        assert_eq!(tried.status.code(), Some(1), "{name}: {}", house::said(&tried));
        assert!(!house::said(&tried).contains(SECRET), "{name}: {}", house::said(&tried));
        assert_eq!(house.read(".kloros_env"), *text, "{name}");
    }
    let elsewhere = house.path("elsewhere");
    for what in ["a link", "a second name", "a folder", "a pipe", "a huge file"] {
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        fs::write(&elsewhere, "LAB_MAX_NUM_SEQS=2\n").unwrap();
        match what {
            "a link" => symlink(&elsewhere, &path).unwrap(),
            "a second name" => fs::hard_link(&elsewhere, &path).unwrap(),
            "a folder" => fs::create_dir(&path).unwrap(),
            "a pipe" => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
            "a huge file" => fs::File::create(&path).unwrap().set_len(1 << 30).unwrap(),
            _ => {}
        }
        let tried = house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=8", "--no-wait"]);
        assert_eq!(tried.status.code(), Some(1), "{what}: {}", house::said(&tried));
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "LAB_MAX_NUM_SEQS=2\n", "{what}");
    }
}
