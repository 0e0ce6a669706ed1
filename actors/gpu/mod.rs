//! The GPU monitor: is a GPU short of memory, hot, or slowed down?
//!
//! Samples NVML through a probe, in three cadences: what changes from second to second, what is looked at now and then, and what
//! concerns the health of the card. Says `Reading`s to the observer.
//! Invariant: no GPU, no driver and a lost GPU are states that are shown; none of them stops the loop.

pub mod pressure;

use serde::{Deserialize, Serialize};

use crate::{
    config::{Check, Problem},
    facts::Reading,
};

/// The room's settings; the section `[gpu]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The file of NVML, as an absolute path; empty to search for it by its usual name.
    pub library: String,
    /// How often utilisation, memory, heat, power and throttling are read, in seconds.
    pub sample_every_s: f64,
    /// How often clocks, PCI Express, fans and processes are read, in seconds; the PCI Express counters alone take 40 ms a GPU.
    pub detail_every_s: f64,
    /// How often limits, modes, errors of memory and links are read, in seconds.
    pub health_every_s: f64,
    /// How long one turn of reading may take before the last one is shown as old, in seconds.
    pub deadline_s: f64,
    /// How often it is looked again where no GPU was found, in seconds.
    pub absent_retry_s: f64,
    /// How soon the library is loaded anew for a GPU that was lost, in seconds; each time in vain doubles it.
    pub lost_retry_s: f64,
    /// The longest such pause, in seconds.
    pub lost_retry_max_s: f64,
    /// How long a GPU counts as broken after a hardware error, in seconds.
    pub fault_holds_s: f64,
    /// How many GPUs are watched at most.
    pub gpus_max: u32,
    /// How many processes of each GPU are exported as metrics at most, those with most memory first.
    pub processes_max: u32,
    /// From which share of used memory on a GPU is under pressure.
    pub memory_high_ratio: f64,
    /// From which temperature on a GPU is under pressure.
    pub temperature_high_celsius: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            library: String::new(),
            sample_every_s: 1.0,
            detail_every_s: 5.0,
            health_every_s: 60.0,
            deadline_s: 5.0,
            absent_retry_s: 60.0,
            lost_retry_s: 30.0,
            lost_retry_max_s: 600.0,
            fault_holds_s: 600.0,
            gpus_max: 64,
            processes_max: 0,
            memory_high_ratio: 0.95,
            temperature_high_celsius: 87.0,
        }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("gpu");
        check.between("sample_every_s", self.sample_every_s, 0.1, 3600.0);
        check.between("detail_every_s", self.detail_every_s, self.sample_every_s, 3600.0);
        check.between("health_every_s", self.health_every_s, self.sample_every_s, 86_400.0);
        check.between("deadline_s", self.deadline_s, 0.1, 3600.0);
        check.between("absent_retry_s", self.absent_retry_s, 0.1, 86_400.0);
        check.between("lost_retry_s", self.lost_retry_s, 0.1, 86_400.0);
        check.between("lost_retry_max_s", self.lost_retry_max_s, self.lost_retry_s, 86_400.0);
        check.between("fault_holds_s", self.fault_holds_s, 0.0, 86_400.0);
        check.between("gpus_max", f64::from(self.gpus_max), 1.0, 256.0);
        check.between("processes_max", f64::from(self.processes_max), 0.0, 64.0);
        check.between("memory_high_ratio", self.memory_high_ratio, 0.0, 1.0);
        check.between("temperature_high_celsius", self.temperature_high_celsius, 0.0, 150.0);
        let mut problems = check.problems();
        // A name without a folder would be searched for where the environment says.
        if !self.library.is_empty() && (!self.library.starts_with('/') || self.library.contains('\0')) {
            let what = format!("{:?} is no absolute path: name the file, or leave it empty", self.library);
            problems.push(Problem { key: "gpu.library".to_owned(), what });
        }
        problems
    }
}

/// Returns `readings` with the pressure of each GPU beside them.
pub fn with_pressures(mut readings: Vec<Reading>, config: &Config) -> Vec<Reading> {
    let pressures = [pressure::pressures(&readings, config), pressure::memory_pressures(&readings, config)].concat();
    readings.extend(pressures);
    readings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_named_by_its_whole_path_or_not_at_all() {
        for (library, keys) in [
            ("", &[][..]),
            ("/usr/lib/libnvidia-ml.so.1", &[]),
            ("libnvidia-ml.so.1", &["gpu.library"]),
            ("../evil.so", &["gpu.library"]),
            ("/a\0b", &["gpu.library"]),
        ] {
            let config = Config { library: library.to_owned(), ..Config::default() };
            let found: Vec<String> = config.problems().into_iter().map(|problem| problem.key).collect();
            assert_eq!(found, keys, "{library:?}");
        }
    }

    #[test]
    fn what_is_read_seldom_is_not_read_more_often_than_what_is_read_often() {
        let config = Config { sample_every_s: 10.0, ..Config::default() };
        let keys: Vec<String> = config.problems().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["gpu.detail_every_s"]);
    }
}
