//! What kloros is built from may be given away with it, and comes from where it may: ops/package/deny.toml, which `cargo deny` reads as
//! well, says what that is.

use std::{collections::BTreeSet, process::Command, sync::LazyLock};

use toml::Value;

/// What deny.toml says.
static DENY: LazyLock<toml::Table> = LazyLock::new(|| super::text("ops/package/deny.toml").parse().unwrap());

/// The licences under which something may be part of kloros, which is under Apache-2.0: their terms go with a copy of their text.
static ALLOWED: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
    let allowed = DENY["licenses"]["allow"].as_array().unwrap();
    allowed.iter().map(|licence| licence.as_str().unwrap()).collect()
});

/// Returns the packages of Cargo.lock.
fn locked() -> Vec<Value> {
    let lock: toml::Table = super::text("Cargo.lock").parse().unwrap();
    lock["package"].as_array().unwrap().clone()
}

/// Returns whether a licence expression (SPDX 2.3, annex D; a slash is an old way to write OR) can be fulfilled with those that are allowed.
fn is_allowed(expression: &str) -> bool {
    let text = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let (allowed, rest) = any(&words);
    allowed && rest.is_empty()
}

/// Returns whether one of the alternatives at the beginning is allowed, and what comes after them.
fn any<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut allowed, mut rest) = all(words);
    while let ["OR", more @ ..] = rest {
        let (next, after) = all(more);
        (allowed, rest) = (allowed | next, after);
    }
    (allowed, rest)
}

fn all<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut allowed, mut rest) = one(words);
    while let ["AND", more @ ..] = rest {
        let (next, after) = one(more);
        (allowed, rest) = (allowed & next, after);
    }
    (allowed, rest)
}

fn one<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    match words {
        ["(", inner @ ..] => match any(inner) {
            (allowed, [")", rest @ ..]) => (allowed, rest),
            (_, rest) => (false, rest),
        },
        [name, "WITH", exception, rest @ ..] => (ALLOWED.contains(format!("{name} WITH {exception}").as_str()), rest),
        [name, rest @ ..] => (ALLOWED.contains(name), rest),
        [] => (false, words),
    }
}

#[test]
fn every_library_may_be_given_away_with_kloros() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut metadata = Command::new(cargo);
    // What other platforms would need was never fetched.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    metadata.args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform]);
    let output = metadata.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = found["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{} packages", packages.len());
    let licence = |package: &serde_json::Value| package["license"].as_str().unwrap_or("no licence").to_owned();
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !is_allowed(&licence(package)))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], licence(package)))
        .collect();
    assert!(refused.is_empty(), "use something else, or allow it in ops/package/deny.toml:\n{}", refused.join("\n"));
}

#[test]
fn every_library_comes_from_the_one_registry_and_none_is_banned() {
    let banned: BTreeSet<&str> =
        DENY["bans"]["deny"].as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
    assert!(banned.len() >= 3, "{banned:?}");
    for rule in ["unknown-registry", "unknown-git"] {
        assert_eq!(DENY["sources"][rule].as_str(), Some("deny"));
    }
    let ours = ["kloros", "sbom", "fake-nvml", "tamper"];
    let mut registries = BTreeSet::new();
    for package in locked() {
        let name = package["name"].as_str().unwrap().to_owned();
        assert!(!banned.contains(name.as_str()), "{name} is banned: ops/package/deny.toml says why");
        match package.get("source").and_then(Value::as_str) {
            Some(source) => {
                assert!(
                    source.starts_with("registry+") && package.get("checksum").is_some(),
                    "{name} is from {source}"
                );
                registries.insert(source.to_owned());
            }
            None => assert!(ours.contains(&name.as_str()) || name.starts_with("kloros-"), "{name} comes from nowhere"),
        }
    }
    assert_eq!(registries.len(), 1, "{registries:?}");
}

#[test]
fn a_licence_is_allowed_as_its_expression_says() {
    let table = [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0-only", false),
        ("GPL-3.0-only OR MIT", true),
        ("GPL-3.0-only AND MIT", false),
        ("MIT AND GPL-3.0-only OR ISC", true),
        ("(MIT OR GPL-3.0-only) AND Unicode-3.0", true),
        ("(MIT OR ISC) AND GPL-3.0-only", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("GPL-2.0-only WITH Classpath-exception-2.0", false),
        ("", false),
        ("no licence", false),
        ("(MIT", false),
        ("MIT)", false),
        ("MIT OR", true),
    ];
    for (expression, allowed) in table {
        assert_eq!(is_allowed(expression), allowed, "{expression:?}");
    }
}
