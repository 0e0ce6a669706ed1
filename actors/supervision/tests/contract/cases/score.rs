//! Which of the numbered cases are tests, and whether the README says so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// How many cases OTP's contract has; the rest goes beyond it.
const OTP: u32 = 76;
const BEYOND: u32 = 20;

/// Returns the number in the name of a test, if this line begins a function that is one.
///
/// That is a function under a test's attribute, with nothing but attributes and comments between the two, or one of `cases!`.
fn number(lines: &[&str], at: usize, in_cases: bool) -> Option<u32> {
    let (_, name) = lines[at].trim_start().split_once("fn case_")?;
    let above = lines[..at].iter().rev().map(|line| line.trim());
    let mut attributes = above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    let is_test = in_cases || attributes.any(|line| line == "#[test]" || line.starts_with("#[tokio::test"));
    let has_sentence = name.chars().skip(3).filter(|letter| *letter == '_').count() > 2;
    if is_test && has_sentence { name.get(..3)?.parse().ok() } else { None }
}

/// Adds the numbers of the tests in `text`.
fn count(text: &str, found: &mut BTreeSet<u32>) {
    let lines: Vec<&str> = text.lines().collect();
    let mut in_cases = false;
    for (at, line) in lines.iter().enumerate() {
        in_cases = *line == "cases! {" || in_cases && *line != "}";
        found.extend(number(&lines, at, in_cases));
    }
}

/// Adds the numbers of the tests below `folder`, none of which is left out of a run.
fn numbers(folder: &Path, found: &mut BTreeSet<u32>) {
    // Spelled in two halves, or this file would find itself.
    let left_out = ["#[ig", "nore"].concat();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            numbers(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains(&left_out), "{} leaves a test out", path.display());
            count(&text, found);
        }
    }
}

#[test]
fn what_is_no_test_does_not_count() {
    let count = |text: &str| {
        let mut found = BTreeSet::new();
        count(text, &mut found);
        found.into_iter().collect::<Vec<u32>>()
    };
    let name = "case_007_a_rule_that_holds";
    assert_eq!(count(&format!("#[test]\nfn {name}() {{}}")), [7]);
    assert_eq!(
        count(&format!("    #[tokio::test(start_paused = true)]\n    // Why.\n    async fn {name}() {{}}")),
        [7]
    );
    assert_eq!(count(&format!("cases! {{\n    async fn {name}() {{\n    }}\n}}\n")), [7]);
    for no_test in [
        format!("async fn {name}() {{}}"),
        format!("// fn {name}"),
        format!("cases! {{\n}}\nasync fn {name}() {{}}"),
        format!("#[test]\nfn other() {{}}\nfn {name}() {{}}"),
        "#[test]\nfn case_007() {}".to_owned(),
    ] {
        assert!(count(&no_test).is_empty(), "{no_test}");
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
