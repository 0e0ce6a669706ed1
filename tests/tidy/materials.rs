//! The bill of materials names everything that is in the program.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

#[allow(dead_code, reason = "its main prints what is looked at here")]
#[path = "../../ops/package/sbom/main.rs"]
mod sbom;

/// What stands before the name of a package in the paths that the compiler leaves in the program.
const SOURCES: &[u8] = b"/registry/src/";

/// The fewest libraries that leave such a path.
const LEFT_MIN: usize = 50;

/// Returns `NAME-VERSION` of each package whose paths are in the program.
fn left_in_the_program() -> std::collections::BTreeSet<String> {
    let program = fs::read(env!("CARGO_BIN_EXE_kloros")).unwrap();
    let places = program.windows(SOURCES.len()).enumerate().filter(|(_, bytes)| *bytes == SOURCES);
    let named = |(place, _)| {
        let mut parts = program.get(place + SOURCES.len()..)?.split(|byte| *byte == b'/');
        let package = parts.nth(1)?;
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(byte);
        package.iter().all(is_name).then(|| String::from_utf8_lossy(package).into_owned())
    };
    places.filter_map(named).collect()
}

#[test]
fn the_bill_of_materials_names_whatever_is_linked_with_version_licence_and_checksum() {
    let bill = sbom::bill(&sbom::known().unwrap()).unwrap();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let lock: toml::Table = super::text("Cargo.lock").parse().unwrap();
    let text = |package: &toml::Value, key: &str| package.get(key)?.as_str().map(str::to_owned);
    let locked: BTreeMap<(String, String), Option<String>> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| ((text(package, "name").unwrap(), text(package, "version").unwrap()), text(package, "checksum")))
        .collect();
    let mut told: BTreeMap<String, &Value> = BTreeMap::new();
    for component in bill["components"].as_array().unwrap() {
        let word = |key: &str| component[key].as_str().unwrap_or_else(|| panic!("no {key} in {component}")).to_owned();
        let (name, version) = (word("name"), word("version"));
        assert!(["required", "excluded"].contains(&word("scope").as_str()), "{component}");
        let licence = &component["licenses"][0];
        assert!(licence["expression"].is_string() || licence["license"]["id"].is_string(), "{component}");
        assert!(told.insert(format!("{name}-{version}"), component).is_none(), "{name} {version} is named twice");
        if word("purl").starts_with("pkg:generic/") {
            continue;
        }
        let checksum = locked.get(&(name.clone(), version)).unwrap_or_else(|| panic!("{name} is not in Cargo.lock"));
        assert_eq!(component["hashes"][0]["content"].as_str(), checksum.as_deref(), "{component}");
    }
    let left = left_in_the_program();
    assert!(left.len() >= LEFT_MIN, "only {left:?} leave their paths in the program");
    // The program of a test has features that the tests alone turn on, and what those bring.
    let [shipped, tested] = ["normal", "all"].map(|edges| sbom::tree(edges).unwrap());
    let tests_only: Vec<String> =
        tested.difference(&shipped).map(|(name, version)| format!("{name}-{version}")).collect();
    // A macro leaves the path of its own source where what it made can panic.
    let missing: Vec<&String> =
        left.iter().filter(|name| !told.contains_key(*name) && !tests_only.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are in the program and not in the bill");
    for name in ["sqlite-", "rust-std-", "ractor-", "rusqlite-", "kloros-actors-"] {
        assert!(told.keys().any(|told| told.starts_with(name)), "no {name} in the bill");
    }
    every_need_is_a_component(&bill);
}

fn every_need_is_a_component(bill: &Value) {
    let components = bill["components"].as_array().unwrap().iter().chain([&bill["metadata"]["component"]]);
    let known: Vec<&Value> = components.map(|component| &component["bom-ref"]).collect();
    for dependency in bill["dependencies"].as_array().unwrap() {
        let named = dependency["dependsOn"].as_array().unwrap().iter().chain([&dependency["ref"]]);
        for each in named {
            assert!(known.contains(&each), "{each} is no component");
        }
    }
}
