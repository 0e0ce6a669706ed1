//! The domains and experiments beside the configuration file, or the lab that is embedded.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use kloros_actors::config::Catalogue;

use super::{
    complaints::{Complaints, Place},
    domain_file,
    dream_file::{self, Domains},
    source,
};

/// The embedded domain.
const LAB: &str = include_str!("../../config/domains/lab.toml");
/// How complaints name it.
const LAB_NAME: &str = "domains/lab.toml (built in)";
/// The embedded experiments.
const DREAM: &str = include_str!("../../config/dream.yaml");
/// How complaints name them.
const DREAM_NAME: &str = "dream.yaml (built in)";
/// How many domain files are read.
const DOMAINS_MAX: usize = 256;

/// Returns whether `folder` says which services there are.
pub(super) fn is_configured(folder: &Path) -> bool {
    folder.join("domains").exists()
}

/// Returns what stands in `folder`, and adds the files it is from to `files`.
///
/// Without a folder `domains` in it, the lab is the only domain; without a `dream.yaml` either, its experiments come along.
pub(super) fn read(folder: &Path, files: &mut Vec<PathBuf>, complaints: &mut Complaints) -> Catalogue {
    let own_domains = folder.join("domains");
    let mut domains = Domains::new();
    if is_configured(folder) {
        let own_files = domain_files(&own_domains, complaints);
        if own_files.is_empty() {
            let what =
                "holds no domain: describe a service in NAME.toml there, or remove the folder to practise on the lab";
            complaints.add(Place::File(own_domains.display().to_string()), "", what);
        }
        for file in own_files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = source::read(&file, complaints);
            let domain = text.and_then(|text| domain_file::read(&file.display().to_string(), &name, &text, complaints));
            domains.insert(name, domain);
            files.push(file);
        }
    } else {
        domains.insert("lab".to_owned(), domain_file::read(LAB_NAME, "lab", LAB, complaints));
    }
    refuse_shared_keys(&domains, &own_domains, complaints);
    let own_dream = folder.join("dream.yaml");
    let experiments = if own_dream.exists() {
        let text = source::read(&own_dream, complaints);
        let name = own_dream.display().to_string();
        files.push(own_dream);
        text.map(|text| dream_file::read(&name, &text, &domains, complaints))
    } else {
        // The embedded experiments fit the embedded lab; beside other domains they would only be in the way.
        (!own_domains.exists()).then(|| dream_file::read(DREAM_NAME, DREAM, &domains, complaints))
    };
    let domains = domains.into_iter().filter_map(|(name, domain)| Some((name, domain?))).collect();
    Catalogue { domains, experiments: experiments.unwrap_or_default() }
}

/// Two domains that write one key of one file would each undo what the other has proven.
fn refuse_shared_keys(domains: &Domains, folder: &Path, complaints: &mut Complaints) {
    let mut owners = BTreeMap::new();
    for (name, domain) in domains.iter().filter_map(|(name, domain)| Some((name, domain.as_ref()?))) {
        for key in domain.knobs.keys() {
            if let Some(owner) = owners.insert((&domain.service.env_file, key), name) {
                let file = folder.join(format!("{name}.toml")).display().to_string();
                let what = format!("is a knob of domain {owner} already, which writes to the same env file");
                complaints.add(Place::File(file), format!("knobs.{key}"), what);
            }
        }
    }
}

/// Returns the files of `folder` that end in `.toml`, by name; hidden ones, as editors leave them, are not meant.
fn domain_files(folder: &Path, complaints: &mut Complaints) -> Vec<PathBuf> {
    let listed: Result<Vec<PathBuf>, std::io::Error> =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut files = match listed {
        Ok(files) => files,
        Err(error) => {
            complaints.add(Place::File(folder.display().to_string()), "", format!("cannot be read: {error}"));
            return Vec::new();
        }
    };
    let hidden = |file: &Path| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    files.retain(|file| file.extension().is_some_and(|ending| ending == "toml") && !hidden(file));
    files.sort();
    if files.len() > DOMAINS_MAX {
        let what = format!("holds {} domains, {DOMAINS_MAX} are read at most", files.len());
        complaints.add(Place::File(folder.display().to_string()), "", what);
        files.truncate(DOMAINS_MAX);
    }
    files
}
