//! Limits: what the machine has left for what an experiment varies, so that a candidate that would not fit is not tried at all.
//!
//! What an instance takes is what it takes whatever its knobs say, and what each of them says times what a unit of it takes. The
//! first is stated by the domain file or, where it says nothing, what the serving instance is seen to use less what its own knobs
//! account for. An instance beside the one that serves has what nobody uses; one that is measured in place has what it uses as well.

use std::collections::BTreeMap;

use crate::facts::{Domain, Experiment, Key, Limit, Load, Resource, Room, Settings, Value};

/// Returns what keeps the candidates of `experiment` within the machine, whose service runs with the `live` settings.
///
/// `spare` is left free by an instance beside the one that serves. What cannot be told limits nothing, and what runs already is never
/// too much, nor are the smallest values.
pub(super) fn limits(
    domain: &Domain,
    experiment: &Experiment,
    live: &Settings,
    room: &Room,
    spare: &Load,
) -> Vec<Limit> {
    let limit = |of: Resource| {
        let (all, left) = (room.all.of(of)?, room.left.of(of)?);
        let takes = |key: &Key| {
            let knob = domain.knobs.get(key)?;
            knob.takes?.of(of, Some(all)).filter(|_| knob.range.number_min().is_some())
        };
        let each: BTreeMap<String, f64> =
            varied(experiment).filter_map(|(name, key)| Some((name.clone(), takes(key)?))).collect();
        if each.is_empty() {
            return None;
        }
        let amount = |key: &Key, value: &Value| Some(takes(key)? * value.as_number()?);
        let by_all: f64 = live.iter().filter_map(|(key, value)| amount(key, value)).sum();
        let by_varied: f64 = varied(experiment).filter_map(|(_, key)| amount(key, live.get(key)?)).sum();
        let seen = room.live.get(&domain.name).and_then(|load| load.of(of));
        let stated = domain.needs.as_ref().and_then(|needs| needs.of(of));
        let whatever = stated.or_else(|| seen.map(|seen| (seen - by_all).max(0.0))).unwrap_or_default();
        let has = match (&domain.in_place, seen) {
            (None, _) => left - spare.of(of).unwrap_or_default() * all,
            (Some(_), Some(seen)) => left + seen,
            // It runs, and how much of what is taken is its own cannot be told.
            (Some(_), None) if room.live.get(&domain.name).is_some_and(|load| load.memory_mib.is_some()) => {
                return None;
            }
            (Some(_), None) => left,
        };
        let least =
            |name: &String, key: &Key| Some(takes(key)? * experiment.spec.search_space[name].range.number_min()?);
        let by_least: f64 = varied(experiment).filter_map(|(name, key)| least(name, key)).sum();
        let max = (has - whatever - (by_all - by_varied)).max(by_varied).max(by_least);
        max.is_finite().then_some(Limit { of, each, max })
    };
    [Resource::Memory, Resource::GpuMemory].into_iter().filter_map(limit).collect()
}

/// Returns what an experiment varies, with the keys of it.
fn varied(experiment: &Experiment) -> impl Iterator<Item = (&String, &Key)> {
    let spec = &experiment.spec;
    spec.search_space.keys().filter_map(|name| Some((name, spec.param_mapping.get(name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{InPlace, Isolation, KnobKind, PerUnit},
        testing,
    };

    /// A machine whose GPU has 80,000 MiB, of which so much is left and so much is used by the service.
    fn room(left: f64, seen: Option<f64>) -> Room {
        let gpu = |gpu_memory_mib| Load { gpu_memory_mib, ..Load::default() };
        Room { all: gpu(Some(80_000.0)), left: gpu(Some(left)), live: [("lab".to_owned(), gpu(seen))].into() }
    }

    /// A service of which each sequence takes 100 MiB, each unit of waiting 10, and all else what `needs` says.
    fn domain(needs: Option<f64>) -> Domain {
        let mut domain = testing::domain("lab");
        for (key, amount) in [("SEQS", 100.0), ("WAIT", 10.0)] {
            let takes = PerUnit { gpu_memory_mib: Some(amount), ..PerUnit::default() };
            domain.knobs.get_mut(&testing::key(key)).unwrap().takes = Some(takes);
        }
        domain.needs = needs.map(|amount| Load { gpu_memory_mib: Some(amount), ..Load::default() });
        domain
    }

    fn in_place(domain: Domain) -> Domain {
        let in_place = Some(InPlace {
            windows: vec!["00:00-24:00".parse().unwrap()],
            candidate_max_s: 60,
            session_max_s: 3600,
            restarts_per_hour_max: 30,
        });
        Domain { isolation: Isolation::InPlace, in_place, ..domain }
    }

    fn live(seqs: i64, wait: i64) -> Settings {
        [(testing::key("SEQS"), Value::Integer(seqs)), (testing::key("WAIT"), Value::Integer(wait))].into()
    }

    #[track_caller]
    fn check(domain: &Domain, room: &Room, expected: Option<f64>) {
        let found = limits(domain, &testing::experiment(), &live(2, 20), room, &Load::default());
        let each = [("seqs".to_owned(), 100.0), ("wait".to_owned(), 10.0)].into();
        let expected = expected.map(|max| Limit { of: Resource::GpuMemory, each, max });
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_varied_may_take_what_is_left_less_what_an_instance_takes_whatever_is_set() {
        // 5,000 of which 2 x 100 and 20 x 10 are its knobs', so 4,600 whatever they are.
        check(&domain(None), &room(10_000.0, Some(5_000.0)), Some(5_400.0));
        check(&in_place(domain(None)), &room(10_000.0, Some(5_000.0)), Some(10_400.0));
        check(&domain(Some(7_000.0)), &room(10_000.0, Some(5_000.0)), Some(3_000.0));
        check(&domain(Some(7_000.0)), &room(10_000.0, None), Some(3_000.0));
        check(&in_place(domain(Some(7_000.0))), &room(10_000.0, Some(5_000.0)), Some(8_000.0));
        // What is not known is not taken off.
        check(&domain(None), &room(10_000.0, None), Some(10_000.0));
        // Its knobs would account for more than it is seen to use.
        check(&domain(None), &room(10_000.0, Some(100.0)), Some(10_000.0));
    }

    #[test]
    fn what_runs_and_what_is_smallest_is_never_too_much() {
        check(&domain(Some(7_000.0)), &room(0.0, Some(5_000.0)), Some(400.0));
        let full = room(0.0, None);
        let found = limits(&domain(Some(7_000.0)), &testing::experiment(), &live(1, 0), &full, &Load::default());
        assert_eq!(found[0].max, 100.0);
    }

    #[test]
    fn a_share_is_left_free_by_a_second_instance_and_a_narrower_range_begins_where_it_says() {
        let spare = Load { gpu_memory_mib: Some(0.02), ..Load::default() };
        let mut experiment = testing::experiment();
        let of = |domain: &Domain, experiment: &Experiment, left| {
            limits(domain, experiment, &live(2, 20), &room(left, Some(5_000.0)), &spare)[0].max
        };
        assert_eq!(of(&domain(None), &experiment, 10_000.0), 5_400.0 - 1_600.0);
        assert_eq!(of(&in_place(domain(None)), &experiment, 10_000.0), 10_400.0);
        let narrow = KnobKind::Integer { min: 8, max: 64, log: false, step: None };
        experiment.spec.search_space.insert("seqs".to_owned(), narrow.into());
        assert_eq!(of(&domain(None), &experiment, 0.0), 800.0);
    }

    #[test]
    fn in_place_nothing_is_limited_where_the_service_runs_and_what_it_takes_cannot_be_told() {
        let mut runs = room(10_000.0, None);
        runs.live.insert("lab".to_owned(), Load { memory_mib: Some(900.0), ..Load::default() });
        check(&in_place(domain(None)), &runs, None);
        check(&in_place(domain(None)), &room(10_000.0, None), Some(10_000.0));
        check(&domain(None), &runs, Some(10_000.0));
    }

    #[test]
    fn a_share_is_one_of_the_whole_gpu() {
        let mut domain = in_place(domain(None));
        let takes = PerUnit { gpu_memory_share: Some(0.5), ..PerUnit::default() };
        domain.knobs.get_mut(&testing::key("SEQS")).unwrap().takes = Some(takes);
        let room = room(10_000.0, Some(45_000.0));
        let found = limits(&domain, &testing::experiment(), &live(1, 0), &room, &Load::default());
        assert_eq!((found[0].each["seqs"], found[0].max), (40_000.0, 50_000.0));
    }

    #[test]
    fn what_is_not_varied_is_taken_off() {
        let mut experiment = testing::experiment();
        experiment.spec.search_space.remove("wait");
        let found = limits(&domain(Some(1_000.0)), &experiment, &live(2, 20), &room(10_000.0, None), &Load::default());
        assert_eq!((found[0].each.len(), found[0].max), (1, 8_800.0));
    }

    #[test]
    fn nothing_is_limited_where_nothing_is_taken_or_nothing_is_known() {
        let experiment = testing::experiment();
        let none =
            |domain: &Domain, room: &Room| limits(domain, &experiment, &live(2, 20), room, &Load::default()).is_empty();
        assert!(none(&testing::domain("lab"), &room(10_000.0, Some(5_000.0))));
        assert!(none(&domain(None), &Room::default()));
        let mut odd = domain(None);
        for takes in [0.0, f64::NAN, f64::INFINITY] {
            odd.knobs.values_mut().for_each(|knob| {
                knob.takes = Some(PerUnit { gpu_memory_mib: Some(takes), ..PerUnit::default() });
            });
            assert!(none(&odd, &room(10_000.0, Some(5_000.0))), "{takes}");
        }
        let takes = Some(PerUnit { gpu_memory_mib: Some(1.0), ..PerUnit::default() });
        odd.knobs.values_mut().for_each(|knob| (knob.takes, knob.range) = (takes, KnobKind::Boolean {}));
        assert!(none(&odd, &room(10_000.0, Some(5_000.0))));
    }
}
