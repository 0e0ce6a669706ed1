//! The rooms' settings together: the product of their Configs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    coordinator::{self, admission::objection},
    curiosity, deployer,
    dream::{self, space::SearchSpace},
    facts::{Domain, ExperimentSpec},
    feedback, gate, gpu, memory, observer, validator,
};

/// What every room of the loop is set to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is unlike its past.
    pub observer: observer::Config,
    /// What is asked.
    pub curiosity: curiosity::Config,
    /// What runs when.
    pub coordinator: coordinator::Config,
    /// How experiments are run.
    pub dream: dream::Config,
    /// What may happen without a person.
    pub gate: gate::Config,
    /// How a service is changed.
    pub deployer: deployer::Config,
    /// When a change is kept.
    pub validator: validator::Config,
    /// What a verdict teaches.
    pub feedback: feedback::Config,
    /// How GPUs are watched.
    pub gpu: gpu::Config,
    /// How conversations are remembered.
    pub memory: memory::Config,
}

impl Config {
    /// Returns what is wrong with the settings, all of it at once.
    pub fn problems(&self) -> Vec<Problem> {
        [
            self.observer.problems(),
            self.curiosity.problems(),
            self.coordinator.problems(),
            self.dream.problems(),
            self.gate.problems(),
            self.deployer.problems(),
            self.validator.problems(),
            self.feedback.problems(),
            self.gpu.problems(),
            self.memory.problems(),
        ]
        .concat()
    }
}

/// What kloros knows about: the services it may touch and the experiments it may run on them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalogue {
    /// The domains by name.
    pub domains: BTreeMap<String, Domain>,
    /// The experiments by name.
    pub experiments: BTreeMap<String, ExperimentSpec>,
}

impl Catalogue {
    /// Returns why an experiment may not run, in words with the key to mend; `None` when it may.
    pub fn objection(&self, spec: &ExperimentSpec) -> Option<String> {
        let problem = || SearchSpace::of(spec).problems().into_iter().next().map(|problem| problem.to_string());
        objection(spec, self.domains.get(&spec.domain)).or_else(problem)
    }
}

/// Something wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, with its section: `validator.keep_from`.
    pub key: String,
    /// What is wrong, and what to do.
    pub what: String,
}

/// Collects the problems of one room's settings.
pub struct Check {
    section: &'static str,
    problems: Vec<Problem>,
}

impl Check {
    /// Returns a check of this section without problems yet.
    pub fn of(section: &'static str) -> Self {
        Self { section, problems: Vec::new() }
    }

    /// Notes a problem unless `value` is a number from `least` to `most`; NaN is in no range.
    pub fn between(&mut self, key: &str, value: f64, least: f64, most: f64) {
        let inside = value >= least && value <= most;
        if !inside {
            self.problems.push(Problem {
                key: format!("{}.{key}", self.section),
                what: format!("{value} is outside {least} to {most}"),
            });
        }
    }

    /// Returns the problems that were noted.
    pub fn problems(self) -> Vec<Problem> {
        self.problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_that_ship_have_no_problems() {
        assert_eq!(Config::default().problems(), []);
    }

    #[test]
    fn a_threshold_that_is_no_number_is_a_problem_that_names_its_key() {
        let mut config = Config::default();
        config.validator.keep_from = f64::NAN;
        let problems = config.problems();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].key, "validator.keep_from");
    }
}
