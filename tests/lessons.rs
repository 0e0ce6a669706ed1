//! Every lesson about sensing, asking and learning has a test that carries its number, in its name or above it.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What went wrong in a loop of this kind and must not here: no metric values that nobody measured (9), no evaluation of what is
/// known to be bad (12), no averaging of disturbed samples (14), keyed questions (18), nothing about what is meant to be off (19), caps
/// on attempts (20), evidence with a source (21), no chasing of its own doings (22), an end and a next moment for each question (23),
/// identities without values (24), one cool-down (25), bounded memory (26), fair lanes (27), damaged state refused (29), conversations
/// that have a name and keep their newest turns (31), thresholds as policy (32), provenance (33), a watch on absence (35), no single
/// point that all waits for (36), no failure unseen (37), thresholds relative to what is there (41), no drift by small losses (42).
const LESSONS: [u32; 22] = [9, 12, 14, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 29, 31, 32, 33, 35, 36, 37, 41, 42];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests/lessons.rs") {
            found.push(path);
        }
    }
}

/// Returns the numbers that follow the word in a line: those of `lesson_24_...`, of `Lesson 24` and of `Lessons 18 and 26`.
fn numbers(line: &str) -> Vec<u32> {
    let lower = line.to_ascii_lowercase();
    let Some((_, rest)) = lower.split_once("lesson") else { return Vec::new() };
    let words = rest.trim_start_matches('s').split([' ', '_', ',', ':', '(', '.']).filter(|word| !word.is_empty());
    words
        .take_while(|word| *word == "and" || word.parse::<u32>().is_ok())
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Returns the lessons whose number stands in the name of a test, or in the comment above one.
fn carried(text: &str) -> BTreeSet<u32> {
    let (mut above, mut is_test, mut carried) = (Vec::new(), false, BTreeSet::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with("///") {
            above.extend(numbers(line));
        } else if line.starts_with("#[") {
            is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
        } else {
            if is_test {
                carried.extend(above.drain(..).chain(numbers(line)));
            }
            above.clear();
            is_test = false;
        }
    }
    carried
}

#[test]
fn every_lesson_about_sensing_asking_and_learning_has_a_test_that_carries_its_number() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["actors", "src", "tests"] {
        sources(&root.join(folder), &mut files);
    }
    let carried: BTreeSet<u32> = files.iter().flat_map(|file| carried(&fs::read_to_string(file).unwrap())).collect();
    let missing: Vec<u32> = LESSONS.into_iter().filter(|lesson| !carried.contains(lesson)).collect();
    assert!(missing.is_empty(), "write a test for each of these lessons, and its number above it: {missing:?}");
}

#[test]
fn a_number_counts_only_where_a_test_carries_it() {
    let table = [
        ("#[test]\nfn lesson_24_an_identity_holds_no_value() {", vec![24]),
        ("/// Lesson 9: said.\n#[tokio::test]\nasync fn it_holds() {", vec![9]),
        ("/// Lessons 18 and 26: said.\n#[test]\nfn it_holds() {", vec![18, 26]),
        ("/// Lesson 9: said of no test.\nfn it_holds() {\n#[test]\nfn another() {", vec![]),
        ("#[test]\nfn a_lesson_is_learned() {", vec![]),
    ];
    for (text, expected) in table {
        assert_eq!(carried(text).into_iter().collect::<Vec<_>>(), expected, "{text}");
    }
}
