//! The settings of measuring: the section `[measuring]` of `kloros.toml`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kloros_actors::{
    config::{Check, Problem},
    facts::Quiet,
};
use serde::{Deserialize, Serialize};

use crate::{bench::Repeats, lease::Machine};

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
    /// How long a run that judges a live change waits at most, in seconds.
    pub(crate) unproven_wait_s: u64,
    /// The largest load of others that counts as quiet, as a ratio of all cores.
    pub(crate) others_max: f64,
    /// How much larger the load of others may be than it was for what a sample is compared with, as a ratio of all cores.
    pub(crate) others_rise_max: f64,
    /// How often a disturbed sample is measured again at most.
    pub(crate) repeats_max: u32,
    /// How long the pause before that is, in seconds; it doubles each time, up to a minute.
    pub(crate) repeat_after_s: f64,
}

impl Default for Measuring {
    fn default() -> Self {
        Self {
            lease_folder: PathBuf::from(LEASE_FOLDER),
            lease_wait_s: 1800,
            unproven_wait_s: 60,
            others_max: 0.95,
            others_rise_max: 0.25,
            repeats_max: 3,
            repeat_after_s: 3.0,
        }
    }
}

impl Measuring {
    /// Returns the machine, to be leased as these settings say.
    pub(crate) fn machine(&self) -> Machine {
        let machine = Machine::new(&self.lease_folder, Duration::from_secs(self.lease_wait_s));
        machine.unproven_within(Duration::from_secs(self.unproven_wait_s))
    }

    /// Returns what becomes of a measurement that others disturbed.
    pub(crate) fn repeats(&self) -> Repeats {
        Repeats {
            quiet: Quiet { others_max: self.others_max, others_rise_max: self.others_rise_max },
            count_max: self.repeats_max,
            pause: Duration::from_secs_f64(self.repeat_after_s),
        }
    }

    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("measuring");
        check.between("lease_wait_s", self.lease_wait_s as f64, 1.0, 86_400.0);
        check.between("unproven_wait_s", self.unproven_wait_s as f64, 1.0, 3600.0);
        check.between("others_max", self.others_max, 0.0, 1.0);
        check.between("others_rise_max", self.others_rise_max, 0.0, 1.0);
        check.between("repeats_max", f64::from(self.repeats_max), 0.0, 100.0);
        check.between("repeat_after_s", self.repeat_after_s, 0.0, 60.0);
        let mut problems = check.problems();
        if !is_plain(&self.lease_folder) {
            let folder = self.lease_folder.display().to_string();
            let what = format!("{folder:?} is no absolute path without ..: every home must mean the same");
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

    #[test]
    fn shares_are_shares_and_repeats_have_an_end() {
        check(|measuring| measuring.others_max = 1.01, &["measuring.others_max"]);
        check(|measuring| measuring.others_rise_max = f64::NAN, &["measuring.others_rise_max"]);
        check(|measuring| measuring.repeats_max = 101, &["measuring.repeats_max"]);
        check(|measuring| measuring.repeat_after_s = -1.0, &["measuring.repeat_after_s"]);
    }
}
