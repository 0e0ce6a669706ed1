//! How the settings themselves are followed: the section `[reload]` of `kloros.toml`.

use kloros_actors::config::{Check, Problem};
use serde::{Deserialize, Serialize};

/// When changed files of settings come into force by themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Following {
    /// Whether they do.
    pub(crate) follow_files: bool,
    /// How long the files must have been left alone before they are read, in seconds.
    pub(crate) settle_s: f64,
    /// How often the files are looked at where the kernel does not tell of changes, in seconds.
    pub(crate) look_every_s: f64,
}

impl Default for Following {
    fn default() -> Self {
        Self { follow_files: true, settle_s: 0.3, look_every_s: 30.0 }
    }
}

impl Following {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("reload");
        check.between("settle_s", self.settle_s, 0.01, 60.0);
        check.between("look_every_s", self.look_every_s, 0.1, 3600.0);
        check.problems()
    }
}
