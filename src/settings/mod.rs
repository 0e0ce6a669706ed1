//! The settings: what the operator wants, checked to the letter before anything starts.
//!
//! Defaults are embedded; over them comes `kloros.toml`, over that the environment as `KLOROS__SECTION__KEY`. Beside the
//! file stand `domains/NAME.toml`, one for each service, and `dream.yaml` with the experiments; without them the
//! embedded lab is tuned. A space file, which `kloros tune` is given, is checked in the same way.
//! Invariants: nothing is coerced, a key that nobody knows is an error, and everything that is wrong is said at once, each
//! with its file, line and key.

mod complaints;

mod tree;

mod strict_toml;

mod strict_yaml;

mod source;

mod shell;

mod measuring;

mod layers;

mod shape;

mod shapes;

mod protected;

mod domain_file;

mod dream_file;

mod catalogue;

mod space_file;

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use kloros_actors::config::{Catalogue, Config};

pub(crate) use complaints::Complaints;
pub(crate) use measuring::Measuring;
pub(crate) use shell::Shell;
pub(crate) use space_file::{active, space};

/// The name of the configuration file under the home.
const FILE_NAME: &str = "kloros.toml";

/// Everything the operator decides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// What the rooms of the loop are set to.
    pub(crate) rooms: Config,
    /// What the shell around the loop is set to.
    pub(crate) shell: Shell,
    /// How measurements take turns.
    pub(crate) measuring: Measuring,
    /// The services and the experiments on them.
    pub(crate) catalogue: Catalogue,
    /// Whether the built-in lab is what is tuned, because no domains are configured.
    pub(crate) practice: bool,
}

impl Settings {
    /// Returns the settings in `config_file`, else in `kloros.toml` under `home` if it is there, overridden by the
    /// environment of this process, with the domains and experiments beside the file.
    ///
    /// Fails with everything that is wrong, at once.
    pub(crate) fn load(home: &Path, config_file: Option<&Path>) -> Result<Settings, Complaints> {
        read(home, config_file, std::env::vars_os()).map(|(settings, _)| settings)
    }
}

/// Returns what the settings amount to and which files they are from, or everything that is wrong with them.
pub(crate) fn check(home: &Path, config_file: Option<&Path>) -> Result<Summary, Complaints> {
    let (settings, files) = read(home, config_file, std::env::vars_os())?;
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

/// Returns how measurements take turns, as `kloros.toml` under `home`, if there is one, and the environment of this process
/// say, or everything that is wrong with those two. No domain and no experiment is looked at.
pub(crate) fn measuring(home: Option<&Path>) -> Result<Measuring, Complaints> {
    let mut complaints = Complaints::default();
    let own = home.map(|home| home.join(FILE_NAME)).filter(|own| own.symlink_metadata().is_ok());
    let text = own.and_then(|own| text(&own, &mut complaints));
    let loaded = layers::load(text.as_ref(), std::env::vars_os(), &mut complaints);
    complaints.unless_any(loaded.map(|loaded| loaded.measuring))
}

/// Returns how GPUs are watched, as `config_file`, else `kloros.toml` under `home` if there is one, and the environment of this
/// process say, or everything that is wrong with those two. No domain and no experiment is looked at.
pub(crate) fn gpu(home: Option<&Path>, config_file: Option<&Path>) -> Result<kloros_actors::gpu::Config, Complaints> {
    let mut complaints = Complaints::default();
    let own = home.map(|home| home.join(FILE_NAME)).filter(|own| own.symlink_metadata().is_ok());
    let text = config_file.or(own.as_deref()).and_then(|path| text(path, &mut complaints));
    let loaded = layers::load(text.as_ref(), std::env::vars_os(), &mut complaints);
    complaints.unless_any(loaded.map(|loaded| loaded.rooms.gpu))
}

fn text(path: &Path, complaints: &mut Complaints) -> Option<layers::Text> {
    Some(layers::Text { file: path.display().to_string(), text: source::read(path, complaints)? })
}

fn read(
    home: &Path,
    config_file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(Settings, Vec<PathBuf>), Complaints> {
    let mut complaints = Complaints::default();
    let mut files = Vec::new();
    let own = home.join(FILE_NAME);
    // A file that was asked for must be there; the one under the home may be absent, but not unreadable.
    let path = config_file.or_else(|| own.symlink_metadata().is_ok().then_some(own.as_path()));
    files.extend(path.map(Path::to_owned));
    let text = path.and_then(|path| text(path, &mut complaints));
    let loaded = layers::load(text.as_ref(), environment, &mut complaints);
    let folder = config_file.map_or(home, |file| file.parent().unwrap_or(Path::new("")));
    let catalogue = catalogue::read(folder, &mut files, &mut complaints);
    let practice = !catalogue::is_configured(folder);
    let settings = loaded.map(|layers::Loaded { rooms, shell, measuring }| {
        (Settings { rooms, shell, measuring, catalogue, practice }, files)
    });
    complaints.unless_any(settings)
}
