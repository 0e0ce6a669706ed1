//! The domains and experiments beside the configuration file, or the lab that is embedded.

use std::{
    collections::BTreeMap,
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
/// The file of the experiments.
const EXPERIMENTS: &str = "dream.yaml";
/// The folder of the domain files.
pub(super) const DOMAINS: &str = "domains";
/// How many domain files are read.
pub(super) const DOMAINS_MAX: usize = 256;

/// Returns whether `folder` says which services there are.
pub(super) fn is_configured(folder: &Path) -> bool {
    folder.join(DOMAINS).exists()
}

/// Returns whether `folder` holds domains or experiments.
pub(super) fn says_anything(folder: &Path) -> bool {
    is_configured(folder) || folder.join(EXPERIMENTS).exists()
}

/// Returns what stands in `folder`, and adds the files it is from to `files`.
///
/// Without a folder `domains` in it, the lab is the only domain; without a `dream.yaml` either, its experiments come along.
pub(super) fn read(folder: &Path, files: &mut Vec<PathBuf>, complaints: &mut Complaints) -> Catalogue {
    let own_domains = folder.join(DOMAINS);
    let mut domains = Domains::new();
    if is_configured(folder) {
        let own_files = source::toml_files(&own_domains, DOMAINS_MAX, complaints);
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
    let own_dream = folder.join(EXPERIMENTS);
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
