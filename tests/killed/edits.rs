//! A person who edits the env file all the while it is deployed to: with the real `sed -i`, which puts a new file in its place,
//! and as nano saves, which empties the file and writes it anew. `KLOROS_EDITS` says how often.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    many, say, small,
    small::{OLD, Small, wait},
};

/// How often the file is edited where nothing else is said.
const EDITS: usize = 50;

/// How many changes are proposed meanwhile at least.
const CHANGES_MIN: usize = 4;

/// How long a person takes between two edits, at least.
const BREATH: Duration = Duration::from_millis(70);

/// How long nano has the emptied file open before it writes.
const SAVING: Duration = Duration::from_millis(2);

/// Fault 33, with the real daemon: no line that a person wrote is lost.
pub(crate) fn race() {
    let wanted = many::wanted("KLOROS_EDITS", EDITS);
    let mut small = Small::new("");
    small.start(&[]);
    wait("the daemon listens", || small.listens());
    let (made, over, edits) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
    let env_file = small.env_file();
    thread::scope(|scope| {
        scope.spawn(|| {
            while edits.load(Ordering::SeqCst) < wanted || !over.load(Ordering::SeqCst) {
                let number = edits.load(Ordering::SeqCst);
                if number % 2 == 0 {
                    with_sed(&env_file, number);
                } else {
                    with_nano(&env_file, number);
                }
                edits.store(number + 1, Ordering::SeqCst);
                thread::park_timeout(BREATH);
            }
        });
        for number in 0.. {
            // Better and worse ones in turn. What becomes of each is another test's to say.
            let speed = format!("SPEED={}", if number % 2 == 0 { 20 + number } else { 5 });
            small.kloros(&["try", "small", &speed]);
            made.store(number + 1, Ordering::SeqCst);
            if number + 1 >= CHANGES_MIN && edits.load(Ordering::SeqCst) >= wanted {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    let is_idle = || small.pending().is_empty();
    assert!(small::comes(small::PATIENCE, is_idle), "{}", small.log());
    small.signal(Signal::INT);
    assert_eq!(small.ended(), Some(0), "{}", small.log());
    check(&small, edits.into_inner(), made.into_inner());
}

fn check(small: &Small, edits: usize, made: usize) {
    let text = small.env();
    let (saved, strays): (Vec<PathBuf>, Vec<PathBuf>) =
        beside(&small.env_file()).into_iter().partition(|path| path.display().to_string().contains(".kloros-saved-"));
    assert_eq!(strays, Vec::<PathBuf>::new(), "left behind");
    let saved: Vec<String> = saved.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let stands = |text: &str, line: &str| text.lines().any(|found| found == line);
    let mine: Vec<String> = (0..edits).map(line).chain(OLD.lines().take(2).map(str::to_owned)).collect();
    let missing: Vec<&String> = mine.iter().filter(|line| !stands(&text, line)).collect();
    let lost: Vec<&&String> = missing.iter().filter(|line| !saved.iter().any(|text| stands(text, line))).collect();
    let deployments = small.json(&["deployments"]).as_array().map_or(0, Vec::len);
    say(&format!(
        "{edits} edits with sed -i and in place against {deployments} deployments of {made} changes: {} lost, {} saved beside the \
         file",
        lost.len(),
        missing.len() - lost.len()
    ));
    assert!(lost.is_empty(), "{lost:?}: {text}");
    assert!(deployments > 1, "there was no race: {}", small.log());
}

fn line(number: usize) -> String {
    format!("HAND_{number}=1")
}

/// Returns the files of kloros' beside the env file.
fn beside(env_file: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(env_file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("kloros"))).collect()
}

/// A new file in the place of the old one.
fn with_sed(env_file: &Path, number: usize) {
    let append = format!("$a {}", line(number));
    let output = Command::new("sed").args(["-i", &append]).arg(env_file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The same file, emptied and written anew.
fn with_nano(env_file: &Path, number: usize) {
    // Nobody opens an editor in the instant in which another one has the file empty.
    let mut text = String::new();
    wait("the file is there", || {
        text = fs::read_to_string(env_file).unwrap_or_default();
        !text.is_empty()
    });
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(env_file).unwrap();
    thread::park_timeout(SAVING);
    file.write_all(format!("{text}{}\n", line(number)).as_bytes()).unwrap();
}
