//! The rules of the house, kept by a test: who may import whom, how long files are, and what may not be written.
//!
//! Each failure names the file and line, and says what to do.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[path = "tidy/licences.rs"]
mod licences;

#[path = "tidy/materials.rs"]
mod materials;

#[path = "tidy/source.rs"]
mod source;

use source::{Named, Source};

/// The longest file, in lines of production code.
const FILE_LINES_MAX: usize = 400;

/// The longest function, in lines.
const FUNCTION_LINES_MAX: usize = 70;

/// What stands at the top, beside files that begin with a dot.
const TOP: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "README.md",
    "LICENSE",
    "src",
    "actors",
    "config",
    "tests",
    "ops",
];

/// What looks like a word to a shell and is one to another program, by file: redis-benchmark has no other word for its clients, and
/// takes none that is written together with their number. And the shell that Debian's PostgreSQL is started by, of which a test holds
/// that it obeys no value.
const SPELLED: [(&str, &str); 2] = [("src/redis.rs", concat!("-", "c")), ("src/cli/init/known.rs", concat!("s", "h"))];

/// What a person writes, so that rules about words hold there.
const WRITTEN: [&str; 7] = ["rs", "toml", "yaml", "yml", "md", "service", "json"];

/// The files of `actors/` that are no room.
const HOUSE_FILES: [&str; 9] =
    ["lib", "seams", "record", "meters", "config", "env_file", "circuit", "facts", "testing"];

/// The modules of `src/` that plug the machine into a seam; none knows another.
const ADAPTERS: [&str; 14] = [
    "archive",
    "bench",
    "journal",
    "env_store",
    "service",
    "host",
    "nvml",
    "scrape",
    "pending",
    "clock",
    "guard",
    "stop",
    "notes",
    "journald",
];

/// What adapters share: processes with what they leave behind, the paths of the home, whose turn it is to measure, where a
/// test may have the program die, and how services write what they count.
const UTILITIES: [&str; 5] = ["process", "home", "lease", "crash", "exposition"];

/// What touches the machine, which the loop does through a seam alone.
const MACHINE: [&str; 7] =
    ["std::fs", "std::net", "std::process", "std::env", "tokio::fs", "tokio::net", "tokio::process"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the text of a file, named from the root of the house.
fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the files below `folder` that end in one of `endings`, in order, relative to the repository.
fn files(folder: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a folder can be read").path()) {
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if path.is_dir() {
                folders.push(path);
            } else if endings.contains(&ending) {
                found.push(path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

fn sources(folder: &str) -> Vec<Source> {
    files(folder, &["rs"]).iter().map(|path| Source::read(&root(), path)).collect()
}

/// The folders of `actors/` that are packages of their own and cannot see the loop.
const PACKAGES: [&str; 3] = ["detection", "search", "supervision"];

/// The loop without the packages beside it.
fn the_loop() -> Vec<Source> {
    let is_beside = |source: &Source| source.path.split('/').nth(1).is_some_and(|folder| PACKAGES.contains(&folder));
    sources("actors").into_iter().filter(|source| !is_beside(source)).collect()
}

fn everything() -> Vec<Source> {
    [sources("src"), sources("actors"), sources("tests")].into_iter().flatten().collect()
}

/// The rooms: the folders of `actors/` with a door plate.
fn rooms() -> BTreeSet<String> {
    let plates = files("actors", &["rs"]);
    let folders = plates.iter().filter_map(|path| path.strip_prefix("actors/")?.strip_suffix("/mod.rs"));
    let is_beside = |folder: &str| PACKAGES.iter().any(|package| folder.split('/').next() == Some(package));
    let rooms: BTreeSet<String> =
        folders.filter(|folder| *folder != "facts" && !is_beside(folder)).map(str::to_owned).collect();
    assert!(rooms.contains("gate") && rooms.len() >= 8, "the rooms are not found: {rooms:?}");
    rooms
}

/// Fails with all of `breaches` and what to do about them.
#[track_caller]
fn keep(what_to_do: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{what_to_do}:\n  {}\n", breaches.join("\n  "));
}

/// Returns the paths that the production code of `source` names, each from the root of its crate on.
fn imports(source: &Source) -> Vec<Named> {
    let absolute = |named: Named| Named { path: from_crate(&source.path, &named.path), ..named };
    source.paths(source.production()).into_iter().map(absolute).collect()
}

/// Returns `path` as named in `file` with `self` and `super` resolved.
fn from_crate(file: &str, path: &str) -> String {
    let inside = file.trim_end_matches(".rs").trim_end_matches("/mod").split('/').skip(1);
    let mut here: Vec<&str> = inside.filter(|part| !["lib", "main"].contains(part)).collect();
    let mut parts = path.split("::").peekable();
    if !matches!(parts.peek(), Some(&"super" | &"self")) {
        return path.to_owned();
    }
    while let Some(part) = parts.next_if(|part| ["super", "self"].contains(part)) {
        if part == "super" {
            here.pop();
        }
    }
    ["crate"].into_iter().chain(here).chain(parts).collect::<Vec<_>>().join("::")
}

/// Returns a line for each path that the production code of `source` names and that `is_breach`.
fn naming(source: &Source, is_breach: impl Fn(&str) -> bool) -> Vec<String> {
    let found = imports(source).into_iter().filter(|named| is_breach(&named.path));
    found.map(|named| format!("{source}:{} names {}", named.line, named.path)).collect()
}

fn begins(path: &str, beginnings: &[&str]) -> bool {
    let goes_on = |rest: &str| rest.is_empty() || rest.starts_with("::");
    beginnings.iter().any(|beginning| path.strip_prefix(beginning).is_some_and(goes_on))
}

/// Returns the files of the module `name` below `folder`.
fn module<'a>(all: &'a [Source], folder: &str, name: &str) -> impl Iterator<Item = &'a Source> {
    let (file, inside) = (format!("{folder}/{name}.rs"), format!("{folder}/{name}/"));
    all.iter().filter(move |source| source.path == file || source.path.starts_with(&inside))
}

/// The names by which the code can leave a file: this crate, the standard library, and what the workspace depends on.
fn crates() -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml can be read");
    let table = manifest.split("[workspace.dependencies]").nth(1).and_then(|rest| rest.split("\n[").next());
    let table = table.expect("Cargo.toml lists the libraries under [workspace.dependencies]");
    let names = table.lines().filter_map(|line| line.split_once(" = ")).filter(|(name, _)| !name.starts_with('#'));
    let names = names.map(|(name, _)| name.trim().replace('-', "_"));
    names.chain(["crate", "std", "core", "alloc"].map(str::to_owned)).collect()
}

/// What stands right of the line in the picture of the house: neither a door plate nor an actor nor an actor's saga.
fn is_arithmetic(source: &Source) -> bool {
    let name = source.path.rsplit('/').next().unwrap_or_default();
    name != "mod.rs" && !name.ends_with("saga.rs") && !name.ends_with("actor.rs")
}

#[test]
fn facts_know_nobody() {
    let (all, crates) = (the_loop(), crates());
    let allowed = ["crate::facts", "std", "core", "serde", "serde_json", "sha2", "thiserror"];
    let leaves = |path: &str| crates.contains(path.split("::").next().unwrap_or_default());
    let facts = module(&all, "actors", "facts");
    let breaches: Vec<String> =
        facts.flat_map(|source| naming(source, |path| leaves(path) && !begins(path, &allowed))).collect();
    keep("a fact is plain data: move what needs more than std, serde and a hash into a room", &breaches);
}

/// A generator that is handed in is an argument like any other, so `rand` is allowed; clippy bans the ambient ones. The search
/// and the detectors beside the loop are arithmetic as well.
#[test]
fn arithmetic_knows_facts_and_its_own_room_alone() {
    let (all, crates) = (the_loop(), crates());
    let leaves = |path: &str| crates.contains(path.split("::").next().unwrap_or_default());
    let mut breaches = Vec::new();
    for room in rooms().iter().map(String::as_str).chain(["env_file"]) {
        let own = format!("crate::{room}");
        let (ours, theirs) = (
            ["crate::facts", &own, "kloros_detection", "kloros_search"],
            ["serde", "serde_json", "sha2", "thiserror", "rand"],
        );
        let allowed = [&ours[..], &["std", "core"], &theirs].concat();
        for source in module(&all, "actors", room).filter(|source| is_arithmetic(source)) {
            breaches.extend(naming(source, |path| leaves(path) && !begins(path, &allowed)));
        }
    }
    keep("arithmetic gets what it needs as arguments: let the room's actor hand it in", &breaches);
}

#[test]
fn arithmetic_neither_waits_nor_looks_at_a_clock() {
    let banned = ["std::io", "std::thread", "std::time::SystemTime", "std::time::Instant", "std::sync::mpsc"];
    let all = the_loop();
    let mut breaches = Vec::new();
    for room in rooms() {
        for source in module(&all, "actors", &room).filter(|source| is_arithmetic(source)) {
            breaches.extend(naming(source, |path| begins(path, &banned)));
            let lines = source.production().lines().enumerate();
            let waits = lines.filter(|(_, line)| line.contains("async ") || line.contains(".await"));
            breaches.extend(waits.map(|(index, _)| format!("{source}:{} waits", index + 1)));
        }
    }
    keep("arithmetic is a function of its arguments: move this into the room's actor", &breaches);
}

#[test]
fn a_room_knows_no_other_room() {
    let (all, rooms) = (the_loop(), rooms());
    let mut breaches = Vec::new();
    let knows_all = ["actors/circuit.rs", "actors/circuit/control.rs", "actors/circuit/scales.rs", "actors/config.rs"];
    for source in all.iter().filter(|source| !knows_all.contains(&source.path.as_str())) {
        let own = source.path.split('/').nth(1).unwrap_or_default();
        let others = rooms.iter().filter(|room| *room != own).map(|room| format!("crate::{room}"));
        let others: Vec<String> = others.chain(["crate::circuit".to_owned()]).collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        breaches.extend(naming(source, |path| begins(path, &others)));
    }
    keep("say it through the room's Exits and plug it in in actors/circuit.rs", &breaches);
}

#[test]
fn an_actor_knows_its_arithmetic_the_seams_the_meters_and_the_facts() {
    let all = the_loop();
    let mut breaches = Vec::new();
    for room in rooms() {
        let own = format!("crate::{room}");
        let house = ["facts", "seams", "meters", "record", "config", "env_file"].map(|name| format!("crate::{name}"));
        let allowed: Vec<&str> = house.iter().map(String::as_str).chain([own.as_str()]).collect();
        for source in module(&all, "actors", &room).filter(|source| !is_arithmetic(source)) {
            breaches.extend(naming(source, |path| begins(path, &["crate"]) && !begins(path, &allowed)));
        }
    }
    keep("an actor knows its exits, not its neighbours", &breaches);
}

#[test]
fn the_house_outside_the_rooms_looks_down_only() {
    let all = the_loop();
    let rules: [(&str, &[&str]); 3] = [
        ("seams", &["crate::facts", "crate::seams"]),
        ("meters", &["crate::facts", "crate::meters"]),
        ("record", &["crate::facts", "crate::meters", "crate::seams", "crate::record"]),
    ];
    let mut breaches = Vec::new();
    for (name, allowed) in rules {
        let files = module(&all, "actors", name);
        breaches
            .extend(files.flat_map(|source| naming(source, |path| begins(path, &["crate"]) && !begins(path, allowed))));
    }
    keep("facts are at the bottom, then seams and meters, then the rooms, then the circuit", &breaches);
}

#[test]
fn the_loop_touches_the_machine_through_seams_alone() {
    let breaches: Vec<String> =
        the_loop().iter().flat_map(|source| naming(source, |path| begins(path, &MACHINE))).collect();
    keep("files, processes, sockets and the environment belong behind a trait of actors/seams.rs", &breaches);
}

#[test]
fn the_circuit_is_known_to_the_composition_root_and_to_what_it_serves() {
    let may = ["src/daemon", "src/api/", "src/inbox.rs", "src/reload.rs", "src/systemd.rs", "src/telemetry"];
    let others = sources("src").into_iter().filter(|source| !may.iter().any(|may| source.path.starts_with(may)));
    let breaches: Vec<String> =
        others.flat_map(|source| naming(&source, |path| begins(path, &["kloros_actors::circuit"]))).collect();
    keep("ask the daemon over the control API, or be started by src/daemon.rs with what you need", &breaches);
}

#[test]
fn adapters_know_seams_and_facts_but_not_each_other() {
    let all = sources("src");
    let house = ["crate", "kloros_actors", "kloros_supervision"];
    let utilities = UTILITIES.map(|utility| format!("crate::{utility}"));
    let mut breaches = Vec::new();
    for adapter in ADAPTERS {
        let own = format!("crate::{adapter}");
        // The dialect of env files is arithmetic that adapters share with the gate and the deployer; what a word is, the archive
        // shares with the memory; the names of metrics are everybody's.
        let shared = ["kloros_actors::env_file", "kloros_actors::memory::words", "kloros_actors::meters"];
        let seams = [&["kloros_actors::facts", "kloros_actors::seams", own.as_str()][..], &shared].concat();
        let allowed: Vec<&str> = utilities.iter().map(String::as_str).chain(seams).collect();
        let files: Vec<&Source> = module(&all, "src", adapter).collect();
        assert!(!files.is_empty(), "src/{adapter} is gone: take it off the list of adapters in tests/tidy.rs");
        for source in files {
            breaches.extend(naming(source, |path| begins(path, &house) && !begins(path, &allowed)));
        }
    }
    keep("plug adapters together in src/daemon.rs", &breaches);
}

#[test]
fn what_adapters_share_and_the_lab_know_nothing_of_the_house() {
    let all = sources("src");
    let house = ["crate", "kloros_actors", "kloros_supervision"];
    let mut breaches = Vec::new();
    for name in UTILITIES.into_iter().chain(["lab"]) {
        let own = format!("crate::{name}");
        for source in module(&all, "src", name) {
            breaches.extend(naming(source, |path| begins(path, &house) && !begins(path, &[own.as_str()])));
        }
    }
    keep("hand in what it needs to know", &breaches);
}

#[test]
fn files_are_short_enough_to_be_read_at_one_sitting() {
    let mut breaches = Vec::new();
    for source in [sources("src"), sources("actors")].into_iter().flatten() {
        let lines = source.production().lines().count();
        if lines > FILE_LINES_MAX {
            breaches.push(format!("{source}:{lines} is {} lines too long", lines - FILE_LINES_MAX));
        }
    }
    keep("a file has at most 400 lines without its tests: split it along what it is about", &breaches);
}

#[test]
fn functions_are_short_enough_to_be_seen_whole() {
    let mut breaches = Vec::new();
    for source in everything() {
        let code = if source.is_test() { &source.code } else { source.production() };
        let long = source.functions(code).into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX);
        breaches.extend(long.map(|long| format!("{source}:{} {} has {} lines", long.line, long.name, long.lines)));
    }
    keep("a function has at most 70 lines: name the steps it takes", &breaches);
}

#[test]
fn each_relaxed_lint_says_why() {
    let mut breaches = Vec::new();
    for source in everything() {
        for name in ["allow", "expect"] {
            let silent = source.attributes(name).into_iter().filter(|attribute| !attribute.path.contains("reason"));
            breaches.extend(silent.map(|silent| format!("{source}:{}", silent.line)));
        }
    }
    keep("add `reason = \"...\"` to the attribute, or repair what the lint found", &breaches);
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled in two halves, or this file would find itself.
    let words = [["TO", "DO"], ["FIX", "ME"], ["X", "XX"]].map(|halves| halves.concat());
    let code = [["to", "do!"], ["unimple", "mented!"], ["#[ig", "nore"]].map(|halves| halves.concat());
    let mut breaches = Vec::new();
    for path in ["src", "actors", "config", "tests", "ops"].iter().flat_map(|folder| files(folder, &WRITTEN)) {
        let text = fs::read_to_string(root().join(&path)).expect("a text file");
        for (index, line) in text.lines().enumerate() {
            let mut tokens = line.split(|each: char| !each.is_alphanumeric() && each != '_');
            if tokens.any(|token| words.iter().any(|word| token == word)) {
                breaches.push(format!("{path}:{} leaves a note", index + 1));
            }
            if Path::new(&path).extension().is_some_and(|ending| ending == "rs")
                && code.iter().any(|code| line.contains(code.as_str()))
            {
                breaches.push(format!("{path}:{} leaves a hole", index + 1));
            }
        }
    }
    keep("do it now, or write an issue", &breaches);
}

#[test]
fn nothing_is_handed_to_a_shell() {
    let shells = [["s", "h"], ["bas", "h"], ["das", "h"], ["-", "c"]].map(|halves| halves.concat());
    let mut breaches = Vec::new();
    for source in everything() {
        for (at, text) in &source.texts {
            let program = text
                .rsplit_once('/')
                .map_or(text.as_str(), |(folder, name)| if folder.ends_with("bin") { name } else { text });
            let is_known = SPELLED.iter().any(|(file, spelled)| source.to_string() == *file && program == *spelled);
            if shells.iter().any(|shell| program == shell) && !is_known {
                breaches.push(format!("{source}:{} spells {text:?}", source.line_at(*at)));
            }
        }
    }
    keep("start the program itself, with its arguments as a list", &breaches);
}

#[test]
fn the_top_level_is_the_one_of_the_design() {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty());
    let names: BTreeSet<String> = if let Some(output) = listed {
        let paths = String::from_utf8_lossy(&output.stdout).into_owned();
        let exists = |path: &&str| !path.is_empty() && root().join(path).exists();
        paths.split('\0').filter(exists).filter_map(|path| path.split('/').next().map(str::to_owned)).collect()
    } else {
        // Unpacked from an archive, there is nothing beside what was packed and what a build leaves.
        let entries = fs::read_dir(root()).expect("the repository can be read");
        let names = entries.map(|entry| entry.expect("a folder can be read").file_name());
        names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name != "target").collect()
    };
    let strays = names.iter().filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str()));
    let breaches: Vec<String> = strays.map(|name| format!("{name}:1")).collect();
    let what_to_do =
        "find its place under src, actors, config, tests or ops (a case that proptest found: as a named test)";
    keep(what_to_do, &breaches);
}

/// Where the names of metrics stand.
const METRICS: [&str; 5] = [
    "actors/meters.rs",
    "actors/meters/gpu.rs",
    "actors/meters/host.rs",
    "actors/supervision/event.rs",
    "src/telemetry.rs",
];

fn is_metric(text: &str, crates: &BTreeSet<String>) -> bool {
    let fits = |each: u8| each.is_ascii_lowercase() || each.is_ascii_digit() || each == b'_';
    text.starts_with("kloros_") && text.bytes().all(fits) && !crates.contains(text)
}

/// Returns how often the production code of `source` says `name`.
fn mentions(source: &Source, name: &str) -> usize {
    source.production().split(|each: char| !each.is_alphanumeric() && each != '_').filter(|word| *word == name).count()
}

#[test]
fn metric_names_stand_in_one_place() {
    let (all, crates) = ([sources("src"), sources("actors")].into_iter().flatten(), crates());
    let mut breaches = Vec::new();
    for source in all.filter(|source| !METRICS.contains(&source.path.as_str())) {
        let end = source.production().len();
        let found = source.texts.iter().filter(|(at, text)| *at < end && is_metric(text, &crates));
        breaches.extend(found.map(|(at, text)| format!("{source}:{} spells {text}", source.line_at(*at))));
    }
    keep("name the metric in actors/meters.rs and use that name", &breaches);
}

#[test]
fn every_metric_has_its_help_text_and_is_recorded() {
    let all: Vec<Source> = [sources("src"), sources("actors")].into_iter().flatten().collect();
    let crates = crates();
    let mut breaches = Vec::new();
    for home in METRICS.iter().map(|path| Source::read(&root(), path)) {
        for (at, text) in home.texts.iter().filter(|(_, text)| is_metric(text, &crates)) {
            let line = home.line_at(*at);
            let declared = home.code[..*at].rsplit("const ").next().and_then(|rest| rest.split_once(": &str = "));
            let Some((name, _)) = declared else {
                breaches.push(format!("{home}:{line} {text} is no constant"));
                continue;
            };
            let is_described = |kind: &str| home.code.contains(&format!("describe_{kind}!({name},"));
            if !["counter", "gauge", "histogram"].into_iter().any(is_described) {
                breaches.push(format!("{home}:{line} {name} has no help text"));
            }
            // Declared and described it is at home; it takes more to be recorded.
            let elsewhere = all.iter().any(|source| source.path != home.path && mentions(source, name) > 0);
            if !elsewhere && mentions(&home, name) <= 2 {
                breaches.push(format!("{home}:{line} {name} is never recorded"));
            }
        }
    }
    keep("describe the metric where it is named, and record it where the thing happens", &breaches);
}

#[test]
fn every_room_has_a_door_plate() {
    let mut breaches = Vec::new();
    for room in rooms() {
        let path = format!("actors/{room}/mod.rs");
        let plate = plate(&Source::read(&root(), &path));
        if !plate.contains("Invariant") {
            breaches.push(format!("{path}:1 names no invariant"));
        }
    }
    let library = Source::read(&root(), "actors/lib.rs");
    for line in library.production().lines().filter_map(|line| line.trim().strip_suffix(';')) {
        let Some((_, name)) = line.split_once("mod ") else { continue };
        let known = HOUSE_FILES.contains(&name) || rooms().contains(name);
        breaches
            .extend((!known).then(|| format!("actors/lib.rs:1 {name} is neither a room nor known to tests/tidy.rs")));
    }
    for source in [sources("src"), sources("actors")].into_iter().flatten() {
        let opens_a_module = source.path.ends_with("/mod.rs") || source.path.split('/').count() == 2;
        if opens_a_module && !source.is_test() && plate(&source).is_empty() {
            breaches.push(format!("{source}:1 does not say what it is"));
        }
    }
    keep(
        "begin the file with `//!`: what it is, what it hears and says, and under `Invariant` what always holds",
        &breaches,
    );
}

/// Returns the comment with which a file begins.
fn plate(source: &Source) -> String {
    source.raw.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n")
}
