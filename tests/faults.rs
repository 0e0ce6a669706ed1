//! Holds `tests/faults.md` to what there is: every fault has its row, and every test that a row names exists.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::print_stdout, reason = "how many are held is part of the answer")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// How many faults the catalogue has.
const FAULTS: u32 = 95;

const TABLE: &str = include_str!("faults.md");

/// Returns the number and the last cell of each row.
fn rows() -> Vec<(u32, &'static str)> {
    let cells = TABLE.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    cells.filter_map(|cells| Some((cells.get(1)?.parse().ok()?, *cells.get(3)?))).collect()
}

/// Returns the tests that a row names.
fn named(cell: &'static str) -> impl Iterator<Item = &'static str> {
    let is_test =
        |word: &&str| word.contains('_') && word.bytes().all(|each| each.is_ascii_alphanumeric() || each == b'_');
    cell.split('`').skip(1).step_by(2).filter(is_test)
}

/// Returns the names of all tests: functions, and the sentences of programs that have a table of their own.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders: Vec<PathBuf> =
        ["src", "actors", "tests"].map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let mut is_test = false;
                for line in text.lines().map(str::trim) {
                    let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                    if let Some(name) = function.and_then(|rest| rest.split('(').next())
                        && is_test
                    {
                        names.insert(name.to_owned());
                    }
                    is_test = line.starts_with("#[") && (is_test || line.contains("test"));
                    if let Some((name, _)) = line.strip_prefix("(\"").and_then(|rest| rest.split_once("\", ")) {
                        names.insert(name.to_owned());
                    }
                }
            }
        }
    }
    names
}

#[test]
fn every_fault_has_one_row_and_says_what_holds_it_or_why_nothing_does() {
    let numbers: Vec<u32> = rows().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=FAULTS).collect::<Vec<u32>>());
    let open: Vec<u32> =
        rows().iter().filter(|(_, cell)| cell.starts_with("not held: ")).map(|(row, _)| *row).collect();
    for (number, cell) in rows() {
        let is_held = named(cell).next().is_some();
        assert!(is_held || cell.starts_with("not held"), "fault {number} names no test and no reason: {cell}");
    }
    println!("{} of {FAULTS} faults are held by tests, not held: {open:?}", FAULTS as usize - open.len());
}

#[test]
fn every_test_that_holds_a_fault_exists() {
    let tests = tests();
    assert!(tests.len() > 1000, "the tests are not found: {}", tests.len());
    let gone: Vec<String> = rows()
        .into_iter()
        .flat_map(|(number, cell)| named(cell).map(move |name| (number, name)))
        .filter(|(_, name)| !tests.contains(*name))
        .map(|(number, name)| format!("fault {number}: {name}"))
        .collect();
    assert!(gone.is_empty(), "tests/faults.md names tests that do not exist:\n  {}", gone.join("\n  "));
}
