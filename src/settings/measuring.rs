//! The settings of measuring: the section `[measuring]` of `kloros.toml`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kloros_actors::config::{Check, Problem};
use serde::{Deserialize, Serialize};

use crate::lease::Machine;

/// Where measurements of this machine take turns: memory that every process of it shares, that each user may write to, and
/// that is gone after a start of the machine, as those are who used it.
const LEASE_FOLDER: &str = "/dev/shm/kloros";

/// How measurements take turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Measuring {
    /// The folder in which measurements on this machine take turns.
    pub(crate) lease_folder: PathBuf,
    /// How long a measurement waits for its turn at most, in seconds.
    pub(crate) lease_wait_s: u64,
}

impl Default for Measuring {
    fn default() -> Self {
        Self { lease_folder: PathBuf::from(LEASE_FOLDER), lease_wait_s: 1800 }
    }
}

impl Measuring {
    /// Returns the machine, to be leased as these settings say.
    pub(crate) fn machine(&self) -> Machine {
        Machine::new(&self.lease_folder, Duration::from_secs(self.lease_wait_s))
    }

    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("measuring");
        check.between("lease_wait_s", self.lease_wait_s as f64, 1.0, 86_400.0);
        let mut problems = check.problems();
        if !is_plain(&self.lease_folder) {
            let what = format!("{:?} is no absolute path without ..: every home must mean the same", self.lease_folder);
            problems.push(Problem { key: "measuring.lease_folder".to_owned(), what });
        }
        problems
    }
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Measuring), expected: &[&str]) {
        let mut measuring = Measuring::default();
        change(&mut measuring);
        let keys: Vec<String> = measuring.problems().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn the_folder_means_the_same_to_every_home_and_waiting_has_an_end() {
        check(|_| {}, &[]);
        for folder in ["lease", "", "/run/../lease"] {
            check(|measuring| measuring.lease_folder = PathBuf::from(folder), &["measuring.lease_folder"]);
        }
        check(|measuring| measuring.lease_wait_s = 0, &["measuring.lease_wait_s"]);
    }
}
