//! Room: whether the machine can bear another instance of a service, beside what serves and what is measured already.
//!
//! An experiment of a domain that is measured on a second instance weighs what such an instance takes: what its domain file
//! states, its knobs at their defaults included, and of what that does not say, what the serving instance is seen to
//! use. One that is measured in place starts nothing
//! and weighs nothing. What the machine has left is less what its live services use, and less what the experiments that run use of
//! what they weigh: that much comes back when they end. Memory does not give way, so too little of it
//! is waited for. Processor time does: where it is not stated how much is needed, an experiment by itself always may, and whether
//! others disturb it is found by the measurements.

use std::{collections::BTreeMap, fmt};

use super::Config;
use crate::facts::{Domain, Isolation, Knob, Load, Resource, Room};

/// What experiments are weighed against.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// The room's settings.
    pub config: &'a Config,
    /// What the machine has, and has left.
    pub room: &'a Room,
    /// The domains, of which some state what they need.
    pub domains: &'a BTreeMap<String, Domain>,
}

/// Whether there is room for one more instance. Each is worse than the one before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// There is.
    Now,
    /// There is once the experiments that run have ended.
    Alone(Want),
    /// There is not beside what the live services use just now.
    Later(Want),
    /// There is not on this machine.
    Never(Want),
}

/// What there is too little of, and how much, in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    resource: Resource,
    says: String,
}

impl fmt::Display for Want {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.says)
    }
}

impl Limits<'_> {
    /// Returns what an experiment of `domain` takes of the machine while it measures.
    pub fn need(&self, domain: &str) -> Load {
        let Some(domain) = self.domains.get(domain).filter(|domain| domain.isolation == Isolation::Shadow) else {
            return Load::default();
        };
        let stated = domain.needs.unwrap_or_default();
        let seen = self.room.live.get(&domain.name).copied().unwrap_or_default();
        Load::each(|resource| {
            let seen = || match resource {
                Resource::Cores => Some(seen.cores?.min(self.room.left.cores?)),
                Resource::Memory | Resource::GpuMemory => seen.of(resource),
            };
            // What an instance with the defaults takes: how much the serving one's knobs say, only it knows.
            let by_knobs = || {
                let takes = |knob: &Knob| {
                    Some(knob.takes?.of(resource, self.room.all.of(resource))? * knob.default.as_number()?)
                };
                domain.knobs.values().filter_map(takes).sum::<f64>()
            };
            stated
                .of(resource)
                .map(|stated| stated + by_knobs())
                .or_else(seen)
                .filter(|amount| *amount > 0.0 && amount.is_finite())
        })
    }

    /// Returns whether there is room for an experiment of `domain` beside experiments that take as much as `running`.
    pub fn fit(&self, domain: &str, running: &Load) -> Fit {
        let need = self.need(domain);
        let fits = Resource::ALL.map(|resource| match need.of(resource) {
            Some(amount) => self.fit_of(resource, amount, running.of(resource).unwrap_or_default()),
            None => Fit::Now,
        });
        fits.into_iter().max().unwrap_or(Fit::Now)
    }

    fn fit_of(&self, resource: Resource, amount: f64, running: f64) -> Fit {
        let want = |says: String| Want { resource, says };
        let needs = resource.amount(amount);
        let (Some(all), Some(left)) = (self.room.all.of(resource), self.room.left.of(resource)) else {
            return Fit::Later(want(format!("it needs {needs}, and how much the machine has of it cannot be told")));
        };
        let spare = all * self.spare_ratio(resource);
        // What cannot be told apart by its own rounding is enough.
        let lacks = |has: f64| amount > has * (1.0 + f64::EPSILON);
        if lacks(all - spare) {
            let has = resource.amount(all);
            return Fit::Never(want(format!("it needs {needs}, where the machine has {has} in all")));
        }
        // The instances of the experiments that run are among what uses the machine, and leave it again.
        let without_ours = (left + running).min(all) - spare;
        if lacks(without_ours) {
            let has = resource.amount(without_ours.max(0.0));
            return Fit::Later(want(format!("it needs {needs}, where live services leave {has}")));
        }
        if running > 0.0 && lacks(left - spare - running) {
            let takes = resource.amount(running);
            return Fit::Alone(want(format!("it needs {needs}, of which experiments that run take {takes}")));
        }
        Fit::Now
    }

    fn spare_ratio(&self, resource: Resource) -> f64 {
        self.config.spare().of(resource).unwrap_or_default()
    }
}

/// Returns what all of `loads` take together.
pub fn together(loads: &[Load]) -> Load {
    Load::each(|resource| Some(loads.iter().filter_map(|load| load.of(resource)).sum()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{facts::PerUnit, testing};

    fn load(cores: f64, memory_mib: f64, gpu_memory_mib: f64) -> Load {
        Load { cores: Some(cores), memory_mib: Some(memory_mib), gpu_memory_mib: Some(gpu_memory_mib) }
    }

    fn memory(memory_mib: f64) -> Load {
        Load { memory_mib: Some(memory_mib), ..Load::default() }
    }

    /// A machine of 8 cores, 1000 MiB and a GPU of 100 MiB, of which `left` is left and the lab uses `live`.
    fn room(left: Load, live: Load) -> Room {
        Room { all: load(8.0, 1000.0, 100.0), left, live: [("lab".to_owned(), live)].into() }
    }

    fn lab(needs: Option<Load>, isolation: Isolation) -> BTreeMap<String, Domain> {
        [("lab".to_owned(), Domain { isolation, needs, ..testing::domain("lab") })].into()
    }

    #[track_caller]
    fn check(needs: Option<Load>, room: &Room, running: &Load, expected: &str) {
        let (config, domains) = (Config::default(), lab(needs, Isolation::Shadow));
        let limits = Limits { config: &config, room, domains: &domains };
        let found = match limits.fit("lab", running) {
            Fit::Now => "now".to_owned(),
            Fit::Alone(want) => format!("alone: {want}"),
            Fit::Later(want) => format!("later: {want}"),
            Fit::Never(want) => format!("never: {want}"),
        };
        assert_eq!(found, expected);
    }

    /// Lessons 13, 15, 16: what does not fit beside the live services is not started.
    #[test]
    fn an_instance_fits_into_what_live_services_and_other_experiments_leave() {
        let none = Load::default();
        let quiet = room(load(8.0, 900.0, 90.0), none);
        let full = room(load(0.5, 150.0, 5.0), none);
        check(Some(memory(700.0)), &quiet, &none, "now");
        check(
            Some(memory(700.0)),
            &quiet,
            &memory(200.0),
            "alone: it needs 700 MiB of memory, of which experiments that run take 200 MiB of memory",
        );
        check(Some(memory(100.0)), &full, &none, "now");
        check(
            Some(memory(101.0)),
            &full,
            &none,
            "later: it needs 101 MiB of memory, where live services leave 100 MiB of memory",
        );
        check(
            Some(memory(951.0)),
            &quiet,
            &none,
            "never: it needs 951 MiB of memory, where the machine has 1000 MiB of memory in all",
        );
        check(
            Some(Load { gpu_memory_mib: Some(60.0), ..memory(100.0) }),
            &full,
            &none,
            "later: it needs 60 MiB of memory of one GPU, where live services leave 3 MiB of memory of one GPU",
        );
        check(
            Some(Load { cores: Some(9.0), ..none }),
            &quiet,
            &none,
            "never: it needs 9.0 cores, where the machine has 8.0 cores in all",
        );
        check(
            Some(Load { cores: Some(2.0), ..none }),
            &full,
            &none,
            "later: it needs 2.0 cores, where live services leave 0.5 cores",
        );
    }

    /// A heavy instance was told that live services leave no room, while it was a light one of kloros that took it.
    #[test]
    fn what_our_own_experiments_use_is_waited_for_and_not_held_against_live_services() {
        let none = Load::default();
        for (need, left, running, expected) in [
            // Of 1000 MiB, 50 are spared; live services use nothing, and an experiment that weighs 300 uses these.
            (700.0, 700.0, 300.0, "alone"),
            (300.0, 700.0, 300.0, "now"),
            (951.0, 700.0, 300.0, "never"),
            // It has not taken anything yet, or more than it weighs.
            (700.0, 1000.0, 300.0, "alone"),
            (700.0, 600.0, 100.0, "later"),
            // Live services use 400 beside it.
            (551.0, 300.0, 300.0, "later"),
            (550.0, 300.0, 300.0, "alone"),
            (550.0, 600.0, 0.0, "now"),
            // What comes back is never more than there is.
            (950.0, 1000.0, 900.0, "alone"),
        ] {
            let (config, domains) = (Config::default(), lab(Some(memory(need)), Isolation::Shadow));
            let room = room(load(8.0, left, 100.0), none);
            let limits = Limits { config: &config, room: &room, domains: &domains };
            let found = match limits.fit("lab", &memory(running)) {
                Fit::Now => "now",
                Fit::Alone(_) => "alone",
                Fit::Later(_) => "later",
                Fit::Never(_) => "never",
            };
            assert_eq!(found, expected, "{need} {left} {running}");
        }
    }

    #[test]
    fn what_knobs_take_at_their_defaults_comes_on_top_of_what_is_stated() {
        let mut domains = lab(Some(memory(500.0)), Isolation::Shadow);
        let knobs = &mut domains.get_mut("lab").unwrap().knobs;
        for (key, memory_mib, gpu_memory_share) in [("SEQS", Some(10.0), None), ("WAIT", None, Some(0.01))] {
            let takes = PerUnit { memory_mib, gpu_memory_mib: None, gpu_memory_share };
            knobs.get_mut(&testing::key(key)).unwrap().takes = Some(takes);
        }
        let (config, room) = (Config::default(), room(load(8.0, 900.0, 90.0), load(0.1, 400.0, 30.0)));
        let limits = Limits { config: &config, room: &room, domains: &domains };
        // Of the GPU nothing is stated, and what is seen is with whatever its knobs say.
        let need = limits.need("lab");
        assert_eq!((need.memory_mib, need.gpu_memory_mib), (Some(520.0), Some(30.0)));
    }

    #[test]
    fn what_is_not_stated_is_what_the_serving_instance_uses_and_processors_give_way() {
        let busy = room(load(0.5, 950.0, 90.0), load(7.5, 40.0, 0.0));
        check(None, &busy, &Load::default(), "now");
        let limits = (Config::default(), lab(None, Isolation::Shadow));
        let limits = Limits { config: &limits.0, room: &busy, domains: &limits.1 };
        let seen = Load { cores: Some(0.5), memory_mib: Some(40.0), gpu_memory_mib: None };
        assert_eq!(limits.need("lab"), seen);
        check(
            None,
            &busy,
            &load(0.5, 40.0, 0.0),
            "alone: it needs 0.5 cores, of which experiments that run take 0.5 cores",
        );
        let hungry = room(load(4.0, 300.0, 8.0), load(1.0, 600.0, 90.0));
        check(
            None,
            &hungry,
            &Load::default(),
            "later: it needs 90 MiB of memory of one GPU, where live services leave 6 MiB of memory of one GPU",
        );
        // What is stated stands, whatever is seen.
        check(
            Some(Load { memory_mib: Some(10.0), gpu_memory_mib: Some(0.0), ..Load::default() }),
            &hungry,
            &Load::default(),
            "now",
        );
    }

    #[test]
    fn what_is_needed_and_cannot_be_told_is_waited_for() {
        check(Some(memory(0.0)), &Room::default(), &Load::default(), "now");
        check(None, &Room::default(), &Load::default(), "now");
        check(
            Some(Load { gpu_memory_mib: Some(1.0), ..Load::default() }),
            &Room::default(),
            &Load::default(),
            "later: it needs 1 MiB of memory of one GPU, and how much the machine has of it cannot be told",
        );
        check(Some(memory(f64::NAN)), &Room::default(), &Load::default(), "now");
    }

    #[test]
    fn what_is_measured_in_place_starts_nothing_and_weighs_nothing() {
        let (config, domains) = (Config::default(), lab(Some(memory(5000.0)), Isolation::InPlace));
        let room = room(load(0.0, 0.0, 0.0), load(8.0, 1000.0, 100.0));
        let limits = Limits { config: &config, room: &room, domains: &domains };
        assert_eq!(limits.fit("lab", &load(8.0, 900.0, 90.0)), Fit::Now);
        assert_eq!(limits.need("nowhere"), Load::default());
    }

    proptest! {
        #[test]
        fn what_fits_stays_within_what_is_left_and_less_never_fits_worse(
            (all, left_ratio) in (1.0_f64..1e6, 0.0_f64..1.0),
            (need, running) in (0.0_f64..1e6, 0.0_f64..1e6),
            less in 0.0_f64..1.0,
        ) {
            let (config, left) = (Config::default(), all * left_ratio);
            let room = Room { all: memory(all), left: memory(left), ..Room::default() };
            let fit = |need: f64| {
                let domains = lab(Some(memory(need)), Isolation::Shadow);
                Limits { config: &config, room: &room, domains: &domains }.fit("lab", &memory(running))
            };
            if fit(need) == Fit::Now {
                prop_assert!(need <= 0.0 || need + running <= (left - all * config.memory_spare_ratio) * (1.0 + 1e-9));
            }
            let rank = |fit: Fit| match fit { Fit::Now => 0, Fit::Alone(_) => 1, Fit::Later(_) => 2, Fit::Never(_) => 3 };
            prop_assert!(rank(fit(need * less)) <= rank(fit(need)));
        }
    }
}
