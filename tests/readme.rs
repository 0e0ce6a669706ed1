//! The README's example of a service of one's own, held against the program.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, path::Path, process::Command};

/// Returns the files that the README shows: each stands in a block of its own, whose first line is a comment with its
/// name under the home.
fn shown() -> Vec<(String, String)> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let blocks = readme.split("\n```").skip(1).step_by(2);
    let named = blocks.filter_map(|block| {
        let (_, text) = block.split_once('\n')?;
        let name = text.lines().next()?.strip_prefix("# HOME/")?;
        Some((name.to_owned(), text.to_owned()))
    });
    named.collect()
}

#[test]
fn the_example_in_the_readme_is_accepted_as_it_stands() {
    let home = tempfile::tempdir().unwrap();
    let files = shown();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["domains/chat.toml", "dream.yaml", "kloros.toml"]);
    for (name, text) in &files {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let checked =
        Command::new(env!("CARGO_BIN_EXE_kloros")).args(["check-config", "--home"]).arg(home.path()).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}");
    assert!(said.starts_with("ok: 1 domains, 1 experiments"), "{said}");
    assert_eq!(said.matches("\nread ").count(), names.len(), "every file is read: {said}");
}
