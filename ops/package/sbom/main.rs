//! Prints the bill of materials of kloros: `cargo run --locked -p sbom`, `CycloneDX` 1.5 as JSON.
//!
//! It lists what Cargo builds the program from on this platform, as Cargo.lock has it: version, licence, and the SHA-256 of the archive.
//! What is linked into the program is required; what only took part in building it, as procedural macros, is excluded. What is compiled
//! in without being a package is listed as well: `SQLite` and the standard library. Two runs on the same lock print the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::Path,
    process::Command,
};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Name and version, which no two packages of a lock of one registry share.
type Id = (String, String);

/// The package that the program comes from.
const ROOT: &str = "kloros";

/// The package with the source of `SQLite` in it.
const SQLITE: &str = "libsqlite3-sys";

/// What cargo says of the workspace.
pub(crate) struct Known {
    /// The packages, as `cargo metadata` describes them.
    packages: BTreeMap<Id, Value>,
    /// What each needs.
    needs: BTreeMap<Id, BTreeSet<Id>>,
    /// The checksums of Cargo.lock.
    checksums: BTreeMap<Id, String>,
    /// What is linked into the program.
    linked: BTreeSet<Id>,
    /// What it is built from, what is linked among it.
    built: BTreeSet<Id>,
    /// What stands behind `rustc`.
    compiler: String,
}

fn main() -> anyhow::Result<()> {
    let bill = bill(&known()?)?;
    let text = serde_json::to_string_pretty(&bill)?;
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Asks cargo and the compiler.
pub(crate) fn known() -> anyhow::Result<Known> {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let house =
        folders.into_iter().find(|folder| folder.join("Cargo.lock").is_file()).context("no Cargo.lock above it")?;
    let metadata = ["metadata", "--format-version", "1", "--locked", "--filter-platform", &platform()];
    let metadata = said("CARGO", "cargo", house, &metadata)?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let lock = house.join("Cargo.lock");
    let text = fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let mut known = Known {
        packages: BTreeMap::new(),
        needs: BTreeMap::new(),
        checksums: checksums(&text)?,
        linked: tree("normal,no-proc-macro")?,
        built: tree("normal,build")?,
        compiler: said("RUSTC", "rustc", house, &["--version"])?,
    };
    let mut by_id = BTreeMap::new();
    for package in array(&metadata["packages"]) {
        let id = (word(package, "name")?, word(package, "version")?);
        by_id.insert(word(package, "id")?, id.clone());
        known.packages.insert(id, package.clone());
    }
    for node in array(&metadata["resolve"]["nodes"]) {
        let id = by_id.get(&word(node, "id")?).context("cargo metadata resolves an unknown package")?;
        let needs = array(&node["dependencies"]).iter().filter_map(|each| by_id.get(each.as_str()?).cloned());
        known.needs.insert(id.clone(), needs.collect());
    }
    Ok(known)
}

/// Returns the packages that cargo reaches from the program over these edges.
pub(crate) fn tree(edges: &str) -> anyhow::Result<BTreeSet<Id>> {
    let shape = ["--prefix", "none", "--format", "{p}", "--target", &platform(), "--edges", edges];
    let text = said("CARGO", "cargo", house()?, &[&["tree", "--locked", "--package", ROOT][..], &shape].concat())?;
    Ok(text.lines().filter_map(named).collect())
}

/// Returns the folder with the lock.
fn house() -> anyhow::Result<&'static Path> {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.find(|folder| folder.join("Cargo.lock").is_file()).context("no Cargo.lock above it")
}

fn platform() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Returns the bill, in the order of names.
pub(crate) fn bill(known: &Known) -> anyhow::Result<Value> {
    let root = known.built.iter().find(|(name, _)| name == ROOT).context("cargo tree does not name kloros")?;
    let others = known.built.iter().filter(|id| *id != root);
    let mut components = others.map(|id| component(known, id)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut dependencies: Vec<Value> = known.built.iter().map(|id| dependency(known, id)).collect();
    if let Some(sqlite) = known.built.iter().find(|(name, _)| name == SQLITE) {
        let version = sqlite_version(known.packages.get(sqlite).context("SQLite's package is not described")?)?;
        let purl = format!("pkg:generic/sqlite@{version}");
        let licence = json!([{"license": {"id": "blessing"}}]);
        components.push(json!({
            "type": "library", "bom-ref": purl, "name": "sqlite", "version": version, "scope": "required",
            "licenses": licence, "purl": purl,
        }));
        for each in dependencies.iter_mut().filter(|each| each["ref"] == json!(purl_of(sqlite))) {
            each["dependsOn"].as_array_mut().context("no list of needs")?.push(json!(purl));
        }
    }
    let version = known.compiler.split_whitespace().nth(1).context("rustc does not say its version")?;
    let purl = format!("pkg:generic/rust-std@{version}");
    components.push(json!({
        "type": "library", "bom-ref": purl, "name": "rust-std", "version": version, "scope": "required",
        "licenses": [{"expression": "MIT OR Apache-2.0"}], "purl": purl,
    }));
    for each in dependencies.iter_mut().filter(|each| each["ref"] == json!(purl_of(root))) {
        each["dependsOn"].as_array_mut().context("no list of needs")?.push(json!(purl));
    }
    let mut program = component(known, root)?;
    program["type"] = json!("application");
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": program},
        "components": components,
        "dependencies": dependencies,
    }))
}

fn component(known: &Known, id: &Id) -> anyhow::Result<Value> {
    let (name, version) = id;
    let package =
        known.packages.get(id).with_context(|| format!("cargo metadata does not describe {name} {version}"))?;
    let Some(licence) = package["license"].as_str() else { bail!("{name} {version} names no licence") };
    let scope = if known.linked.contains(id) { "required" } else { "excluded" };
    let mut component = json!({
        "type": "library",
        "bom-ref": purl_of(id),
        "name": name,
        "version": version,
        "scope": scope,
        // A slash is an old way to write OR.
        "licenses": [{"expression": licence.replace('/', " OR ")}],
        "purl": purl_of(id),
    });
    match known.checksums.get(id) {
        Some(checksum) => component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]),
        None if package["source"].is_null() => {}
        None => bail!("Cargo.lock has no checksum of {name} {version}: it comes from no registry"),
    }
    if let Some(repository) = package["repository"].as_str() {
        component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    Ok(component)
}

fn dependency(known: &Known, id: &Id) -> Value {
    let needs = known.needs.get(id).into_iter().flatten().filter(|need| known.built.contains(*need));
    json!({"ref": purl_of(id), "dependsOn": needs.map(purl_of).collect::<Vec<_>>()})
}

fn purl_of((name, version): &Id) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

/// Returns the package on a line of `cargo tree`: `NAME vVERSION`, with what else it says behind that.
fn named(line: &str) -> Option<Id> {
    let mut words = line.split_whitespace();
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some((name.to_owned(), version.to_owned()))
}

fn checksums(lock: &str) -> anyhow::Result<BTreeMap<Id, String>> {
    let lock: toml::Table = lock.parse().context("Cargo.lock is no TOML")?;
    let packages = lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock lists no package")?;
    let text = |package: &toml::Value, key: &str| package.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let checksum = |package| Some(((text(package, "name")?, text(package, "version")?), text(package, "checksum")?));
    Ok(packages.iter().filter_map(checksum).collect())
}

/// Returns the version of `SQLite` that its package compiles in.
fn sqlite_version(package: &Value) -> anyhow::Result<String> {
    let manifest = word(package, "manifest_path")?;
    let header = Path::new(&manifest).with_file_name("sqlite3").join("sqlite3.h");
    let text = fs::read_to_string(&header).with_context(|| format!("cannot read {}", header.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("#define SQLITE_VERSION "));
    let version = line.map(|line| line.trim().trim_matches('"').to_owned());
    version.with_context(|| format!("{} does not say its version", header.display()))
}

fn word(value: &Value, key: &str) -> anyhow::Result<String> {
    value[key].as_str().map(str::to_owned).with_context(|| format!("cargo metadata says no {key}"))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Returns what a program of the toolchain prints; `variable` may name another one.
fn said(variable: &str, usual: &str, house: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let program = std::env::var(variable).unwrap_or_else(|_| usual.to_owned());
    let output = Command::new(&program).args(arguments).current_dir(house).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> Id {
        (name.to_owned(), "1.0.0".to_owned())
    }

    /// kloros, which links one library and is built with one macro; a third package is for tests alone.
    fn small() -> Known {
        let package =
            |name: &str| json!({"license": "MIT/Apache-2.0", "source": "registry", "repository": format!("at {name}")});
        let names = ["kloros", "linked", "macro", "tests"];
        let mut packages: BTreeMap<Id, Value> = names.iter().map(|name| (id(name), package(name))).collect();
        packages.insert(id("kloros"), json!({"license": "Apache-2.0", "source": null}));
        let needs = ["linked", "macro", "tests"].map(id);
        let mut checksums: BTreeMap<Id, String> =
            needs.iter().map(|id| (id.clone(), format!("sum of {}", id.0))).collect();
        checksums.remove(&id("tests"));
        Known {
            packages,
            needs: [(id("kloros"), needs.into())].into(),
            checksums,
            linked: [id("kloros"), id("linked")].into(),
            built: [id("kloros"), id("linked"), id("macro")].into(),
            compiler: "rustc 1.2.3 (abc 2026-01-01)".to_owned(),
        }
    }

    #[test]
    fn what_is_linked_is_required_what_only_builds_is_excluded_and_what_only_tests_is_not_there() {
        let bill = bill(&small()).unwrap();
        let told: Vec<(&str, &str)> = array(&bill["components"])
            .iter()
            .map(|each| (each["name"].as_str().unwrap(), each["scope"].as_str().unwrap()))
            .collect();
        assert_eq!(told, [("linked", "required"), ("macro", "excluded"), ("rust-std", "required")]);
        assert_eq!(bill["metadata"]["component"]["type"], "application");
        let needs = json!(["pkg:cargo/linked@1.0.0", "pkg:cargo/macro@1.0.0", "pkg:generic/rust-std@1.2.3"]);
        assert_eq!(bill["dependencies"][0], json!({"ref": "pkg:cargo/kloros@1.0.0", "dependsOn": needs}));
        assert_eq!(bill["components"][0]["licenses"], json!([{"expression": "MIT OR Apache-2.0"}]));
        assert_eq!(bill["components"][0]["hashes"], json!([{"alg": "SHA-256", "content": "sum of linked"}]));
    }

    #[test]
    fn a_package_without_a_licence_or_from_no_registry_makes_no_bill() {
        let mut known = small();
        known.checksums.remove(&id("linked"));
        assert!(bill(&known).unwrap_err().to_string().contains("no checksum of linked 1.0.0"));
        let mut known = small();
        known.packages.insert(id("macro"), json!({"license": null}));
        assert!(bill(&known).unwrap_err().to_string().contains("macro 1.0.0 names no licence"));
    }

    #[test]
    fn a_line_of_the_tree_is_read_with_whatever_stands_behind_it() {
        for (line, expected) in [
            ("linked v1.0.0", Some(id("linked"))),
            ("macro v1.0.0 (proc-macro) (*)", Some(id("macro"))),
            ("kloros v1.0.0 (/somewhere/kloros)", Some(id("kloros"))),
            ("", None),
            ("[build-dependencies]", None),
        ] {
            assert_eq!(named(line), expected, "{line:?}");
        }
        assert_eq!(purl_of(&("a".to_owned(), "1.0.0+2".to_owned())), "pkg:cargo/a@1.0.0%2B2");
    }
}
