//! Which of the numbered cases there are, and whether the README says so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// How many cases OTP's contract has; the rest goes beyond it.
const OTP: u32 = 76;
const BEYOND: u32 = 20;

/// Returns the numbers in the names of the tests below `folder`.
fn numbers(folder: &Path, found: &mut BTreeSet<u32>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            numbers(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn case_").skip(1);
            found.extend(names.filter_map(|name| name.get(..3)?.parse::<u32>().ok()));
        }
    }
}

#[test]
fn the_readme_states_the_score_that_the_tests_have() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    numbers(root, &mut found);
    let missing = |from: u32, to: u32| (from..=to).filter(|number| !found.contains(number)).collect::<Vec<u32>>();
    let (otp, beyond) = (missing(1, OTP), missing(OTP + 1, OTP + BEYOND));
    let of = |missing: &[u32], all: u32| {
        let score = format!("{} of {all}", all - u32::try_from(missing.len()).unwrap());
        if missing.is_empty() { score } else { format!("{score} (without {missing:?})") }
    };
    let score = format!("OTP's contract: {}; beyond it: {}.", of(&otp, OTP), of(&beyond, BEYOND));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    assert!(readme.contains(&score), "the README should say: {score}");
}
