//! The settings: what the operator wants, checked to the letter before anything starts.
//!
//! Defaults are embedded; over them comes `kloros.toml`, then `conf.d/*.toml` by name, then the environment as
//! `KLOROS__SECTION__KEY`. Beside the file stand `domains/NAME.toml`, one for each service, and `dream.yaml` with the experiments; without them the
//! embedded lab is tuned. A space file, which `kloros tune` is given, is checked in the same way.
//! Invariants: nothing is coerced, a key that nobody knows is an error, and everything that is wrong is said at once, each
//! with its file, line and key.

mod complaints;

mod traces;

mod tree;

mod strict_toml;

mod strict_yaml;

mod source;

mod shell;

mod following;

mod conversation;

mod change;

mod measuring;

mod reached;

mod notices;

mod layers;

mod shape;

mod shapes;

mod protected;

mod domain_file;

mod dream_file;

mod catalogue;

mod space_file;

mod said;

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use kloros_actors::{
    config::{Catalogue, Config, Problem},
    gate::fit::never_proven,
};

pub(crate) use change::change;
pub(crate) use complaints::Complaints;
use complaints::Place;
pub(crate) use conversation::Conversation;
use following::Following;
pub(crate) use layers::Setting;
pub(crate) use measuring::Measuring;
pub(crate) use notices::{Form, Notices};
pub(crate) use reached::Reached;
pub(crate) use said::Said;
pub(crate) use shell::Shell;
pub(crate) use space_file::{active, space};
pub(crate) use traces::Traces;

/// The name of the configuration file under the home.
const FILE_NAME: &str = "kloros.toml";

/// The folder beside it whose files come over it, the last by name counting most.
const MORE_FILES: &str = "conf.d";

/// How many of them are read.
const MORE_FILES_MAX: usize = 64;

/// Returns what a YAML text says, without its lines; `None` where it is not the plain YAML that is read here.
pub(crate) fn yaml(text: &str) -> Option<toml::Value> {
    let mut complaints = Complaints::default();
    let node = strict_yaml::parse("", text, &mut complaints)?;
    if complaints.len() > 0 { None } else { node.plain() }
}

/// Everything the operator decides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// What the rooms of the loop are set to.
    pub(crate) rooms: Config,
    /// What the shell around the loop is set to.
    pub(crate) shell: Shell,
    /// How measurements take turns.
    pub(crate) measuring: Measuring,
    /// Whether and how conversations are held.
    pub(crate) conversation: Conversation,
    /// When the settings themselves are read again.
    pub(crate) following: Following,
    /// Where the control API and the console are reached.
    pub(crate) reached: Reached,
    /// Who is told when a person is needed.
    pub(crate) notices: Notices,
    /// Where each cycle is told as a trace.
    pub(crate) traces: Traces,
    /// The services and the experiments on them.
    pub(crate) catalogue: Catalogue,
    /// Whether the built-in lab is what is tuned, because no domains are configured.
    pub(crate) practice: bool,
}

impl Settings {
    /// Returns the settings in `config_file`, else in `kloros.toml` under `home` if it is there, overridden by the
    /// environment of this process, with the domains and experiments beside the file, or in `home` where none are beside it.
    ///
    /// Fails with everything that is wrong, at once.
    pub(crate) fn load(home: &Path, config_file: Option<&Path>) -> Result<Settings, Complaints> {
        read(home, config_file, std::env::vars_os()).map(|(settings, _)| settings)
    }

    /// Returns the same for a daemon, for which what the settings name beside them has to be in order as well. Whoever only looks, or
    /// takes something back, does without that.
    pub(crate) fn load_to_run(home: &Path, config_file: Option<&Path>) -> Result<Settings, Complaints> {
        let beside = |loaded: &layers::Loaded| beside(home, loaded);
        read_with(home, config_file, std::env::vars_os(), beside).map(|(settings, _)| settings)
    }
}

impl layers::Loaded {
    /// Returns these settings with the services and experiments that go with them.
    fn with(self, catalogue: Catalogue, practice: bool) -> Settings {
        let Self { rooms, shell, measuring, conversation, following, reached, notices, traces } = self;
        Settings { rooms, shell, measuring, conversation, following, reached, notices, traces, catalogue, practice }
    }
}

/// Returns the configuration file that is read, whether it is there or not: `config_file`, else `kloros.toml` in `home`.
pub(crate) fn main_file(home: &Path, config_file: Option<&Path>) -> PathBuf {
    config_file.map_or_else(|| home.join(FILE_NAME), Path::to_owned)
}

/// Returns the folders in which settings stand or may come to stand, and the files that are there now.
pub(crate) fn places(home: &Path, config_file: Option<&Path>) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let beside = folder(home, config_file);
    let mut folders = vec![beside.to_owned(), beside.join(MORE_FILES), beside.join(catalogue::DOMAINS)];
    if beside != home {
        folders.extend([home.to_owned(), home.join(catalogue::DOMAINS)]);
    }
    let mut files = Vec::new();
    let mut unheard = Complaints::default();
    texts(home, config_file, &mut files, &mut unheard);
    catalogue::read(folder_of_catalogue(home, config_file), &mut files, &mut unheard);
    (folders, files)
}

/// Returns what the settings amount to and which files they are from, or everything that is wrong with them.
pub(crate) fn check(home: &Path, config_file: Option<&Path>) -> Result<Summary, Complaints> {
    let (settings, files) = read_with(home, config_file, std::env::vars_os(), |loaded| beside(home, loaded))?;
    let Catalogue { domains, experiments } = settings.catalogue;
    Ok(Summary { domains: domains.len(), experiments: experiments.len(), files })
}

/// Settings that are in order, as `kloros check-config` prints them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// How many domains there are.
    pub(crate) domains: usize,
    /// How many experiments there are.
    pub(crate) experiments: usize,
    /// The files that were read, embedded ones not among them.
    pub(crate) files: Vec<PathBuf>,
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ok: {} domains, {} experiments", self.domains, self.experiments)?;
        if self.files.is_empty() {
            write!(formatter, "\nread no file: everything is built in")?;
        }
        self.files.iter().try_for_each(|file| write!(formatter, "\nread {}", file.display()))
    }
}

/// Returns every setting of `kloros.toml` and of what comes over it, with where its value is from, or everything that is wrong.
pub(crate) fn shown(home: &Path, config_file: Option<&Path>) -> Result<Vec<Setting>, Complaints> {
    let mut complaints = Complaints::default();
    let texts = texts(home, config_file, &mut Vec::new(), &mut complaints);
    let settings = layers::shown(&texts, std::env::vars_os(), &mut complaints);
    complaints.unless_any(Some(settings))
}

/// Returns how measurements take turns, as `kloros.toml` under `home`, if there is one, and the environment of this process
/// say, or everything that is wrong with those two. No domain and no experiment is looked at.
pub(crate) fn measuring(home: Option<&Path>) -> Result<Measuring, Complaints> {
    let mut complaints = Complaints::default();
    let texts = home.map(|home| texts(home, None, &mut Vec::new(), &mut complaints)).unwrap_or_default();
    let loaded = layers::load(&texts, std::env::vars_os(), &mut complaints, |_| Vec::new());
    complaints.unless_any(loaded.map(|loaded| loaded.measuring))
}

/// What the conversation endpoint needs of the settings where it is a program of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Talking {
    /// How conversations are held.
    pub(crate) conversation: Conversation,
    /// How they are remembered.
    pub(crate) memory: kloros_actors::memory::Config,
    /// How measurements take turns.
    pub(crate) measuring: Measuring,
    /// What is logged.
    pub(crate) log: String,
    /// Whether metrics may be read from other machines.
    pub(crate) metrics_beyond_loopback: bool,
}

impl Talking {
    /// Returns what is wrong with them.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        [self.conversation.problems(), self.memory.problems()].concat()
    }
}

/// Returns how conversations are held and remembered, as `config_file`, else `kloros.toml` under `home` if there is one, and the
/// environment of this process say, or everything that is wrong with those two. No domain and no experiment is looked at.
pub(crate) fn talking(home: &Path, config_file: Option<&Path>) -> Result<Talking, Complaints> {
    let mut complaints = Complaints::default();
    let texts = texts(home, config_file, &mut Vec::new(), &mut complaints);
    let loaded = layers::load(&texts, std::env::vars_os(), &mut complaints, |_| Vec::new());
    complaints.unless_any(loaded.map(|loaded| Talking {
        conversation: loaded.conversation,
        memory: loaded.rooms.memory,
        measuring: loaded.measuring,
        log: loaded.shell.log,
        metrics_beyond_loopback: loaded.shell.metrics_beyond_loopback,
    }))
}

/// Returns how GPUs are watched, as `config_file`, else `kloros.toml` under `home` if there is one, and the environment of this
/// process say, or everything that is wrong with those two. No domain and no experiment is looked at.
pub(crate) fn gpu(home: Option<&Path>, config_file: Option<&Path>) -> Result<kloros_actors::gpu::Config, Complaints> {
    let mut complaints = Complaints::default();
    let texts = match home.or(config_file) {
        Some(home) => texts(home, config_file, &mut Vec::new(), &mut complaints),
        None => Vec::new(),
    };
    let loaded = layers::load(&texts, std::env::vars_os(), &mut complaints, |_| Vec::new());
    complaints.unless_any(loaded.map(|loaded| loaded.rooms.gpu))
}

/// Returns the names in settings that are no domain's, each with its key.
fn strangers(loaded: &layers::Loaded, catalogue: &Catalogue) -> Vec<(&'static str, String)> {
    let rooms = &loaded.rooms;
    let silenced = rooms.observer.silence.iter().filter_map(|silence| silence.subject());
    let silenced = silenced.filter(|name| !["host", "gpu"].contains(name)).map(|name| ("observer.silence", name));
    let alone = rooms.curiosity.leave_alone.iter().map(|name| ("curiosity.leave_alone", name.as_str()));
    let heard = loaded.conversation.heard_as().map(|name| ("conversation.domain", name));
    let named = silenced.chain(alone).chain(heard).filter(|(_, name)| !catalogue.domains.contains_key(*name));
    named.map(|(key, name)| (key, name.to_owned())).collect()
}

/// Returns the folder in which the settings stand: that of `config_file`, else `home`.
fn folder<'a>(home: &'a Path, config_file: Option<&'a Path>) -> &'a Path {
    config_file.map_or(home, |file| file.parent().unwrap_or(Path::new("")))
}

/// Returns the folder in which domains and experiments stand: beside the settings, or in the home where there are none, as under
/// systemd, whose settings are in /etc. They are never put together from two places.
fn folder_of_catalogue<'a>(home: &'a Path, config_file: Option<&'a Path>) -> &'a Path {
    let beside = folder(home, config_file);
    if !catalogue::says_anything(beside) && catalogue::says_anything(home) { home } else { beside }
}

/// Returns `config_file`, else `kloros.toml` in `home` if it is there, and what stands in `conf.d` beside it, by name; adds them to
/// `files`.
fn texts(
    home: &Path,
    config_file: Option<&Path>,
    files: &mut Vec<PathBuf>,
    complaints: &mut Complaints,
) -> Vec<layers::Text> {
    let own = home.join(FILE_NAME);
    // A file that was asked for must be there; the one under the home may be absent, but not unreadable.
    let first = config_file.or_else(|| own.symlink_metadata().is_ok().then_some(own.as_path())).map(Path::to_owned);
    let more = folder(home, config_file).join(MORE_FILES);
    let more = if more.exists() { source::toml_files(&more, MORE_FILES_MAX, complaints) } else { Vec::new() };
    let paths: Vec<PathBuf> = first.into_iter().chain(more).collect();
    files.extend(paths.iter().cloned());
    let text =
        |path: &PathBuf| Some(layers::Text { file: path.display().to_string(), text: source::read(path, complaints)? });
    paths.iter().filter_map(text).collect()
}

/// Returns what is wrong with what the settings name beside them.
fn beside(home: &Path, loaded: &layers::Loaded) -> Vec<Problem> {
    let wrong = loaded.notices.address(home).err();
    wrong.map(|what| Problem { key: "notices.url_file".to_owned(), what }).into_iter().collect()
}

fn read(
    home: &Path,
    config_file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(Settings, Vec<PathBuf>), Complaints> {
    read_with(home, config_file, environment, |_| Vec::new())
}

fn read_with(
    home: &Path,
    config_file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    beside: impl FnOnce(&layers::Loaded) -> Vec<Problem>,
) -> Result<(Settings, Vec<PathBuf>), Complaints> {
    let mut complaints = Complaints::default();
    let mut files = Vec::new();
    let texts = texts(home, config_file, &mut files, &mut complaints);
    let loaded = layers::load(&texts, environment, &mut complaints, beside);
    let folder = folder_of_catalogue(home, config_file);
    let catalogue = catalogue::read(folder, &mut files, &mut complaints);
    let practice = !catalogue::is_configured(folder);
    if let Some(loaded) = loaded.as_ref().filter(|_| complaints.len() == 0) {
        let file = texts.first().map_or("kloros.toml", |text| &text.file);
        for (key, name) in strangers(loaded, &catalogue) {
            let known: Vec<&str> = catalogue.domains.keys().map(String::as_str).collect();
            let what = format!("there is no domain {name:?}: the domains are {}", known.join(", "));
            complaints.add(Place::File(file.to_owned()), key, what);
        }
        // Where only advice is given nothing has to be proven.
        for domain in catalogue.domains.values().filter(|_| !loaded.rooms.gate.advice) {
            if let Some(why) = never_proven(domain, loaded.rooms.validator.blocks_min) {
                let file = folder.join(catalogue::DOMAINS).join(format!("{}.toml", domain.name));
                complaints.add(Place::File(file.display().to_string()), "in_place.windows", why);
            }
        }
    }
    let settings = loaded.map(|loaded| (loaded.with(catalogue, practice), files));
    complaints.unless_any(settings)
}
