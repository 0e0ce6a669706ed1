//! What others did to the machine while something was measured, and when that is too much: pure.
//!
//! A machine that serves is never quiet, so a load that stays as it is disturbs nothing: old and new meet it alike. What
//! disturbs is what came on top for one of them, and a machine that has nothing left to be measured with.

use serde::{Deserialize, Serialize};

/// The load of others during a measurement: of everything but the measured instance and what measured it. The serving
/// instance is one of the others. Each is a share, from 0 to 1; what could not be read is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Others {
    /// Of all CPU cores of the host, time that a hypervisor took included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Of the time of a GPU, the one of which it is the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<f64>,
    /// Of the memory of a GPU, the one of which it is the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory: Option<f64>,
}

/// From when on a measurement is disturbed by others. With 1 for both, none ever is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quiet {
    /// The largest load of others, as a share of all cores, or of the time of a GPU. Memory has no such limit: most of it is
    /// in use where a model is served.
    pub others_max: f64,
    /// How much larger it may be than it usually was for what the measurement is compared with, as a share as well.
    pub others_rise_max: f64,
}

impl Quiet {
    /// Returns what disturbed a measurement that saw these `others`, in words; `None` when it counts.
    ///
    /// `usual` is what the measurements saw that it is compared with; the first one has none.
    pub fn disturbed(&self, others: &Others, usual: Option<&Others>) -> Option<String> {
        let usual = |part: fn(&Others) -> Option<f64>| usual.and_then(part);
        let cpu = self.of("of all cores", others.cpu, usual(|usual| usual.cpu), self.others_max);
        let gpu = || self.of("of a GPU", others.gpu, usual(|usual| usual.gpu), self.others_max);
        let memory = || self.of("of a GPU's memory", others.gpu_memory, usual(|usual| usual.gpu_memory), 1.0);
        cpu.or_else(gpu).or_else(memory)
    }

    fn of(&self, what: &str, share: Option<f64>, usual: Option<f64>, share_max: f64) -> Option<String> {
        let share = share?;
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        if share > share_max {
            return Some(format!("others used {} {what}, {} at most is quiet", percent(share), percent(share_max)));
        }
        let usual = usual.filter(|usual| share - usual > self.others_rise_max)?;
        let (seen, before, rise_max) = (percent(share), percent(usual), percent(self.others_rise_max));
        Some(format!("others used {seen} {what}, where it was {before} before; {rise_max} more is quiet"))
    }
}

/// Returns the usual load of others, the median of each kind; `None` where nothing was seen.
pub fn usual<'a>(seen: impl IntoIterator<Item = &'a Others>) -> Option<Others> {
    let seen: Vec<&Others> = seen.into_iter().collect();
    let middle = |part: fn(&Others) -> Option<f64>| {
        let mut shares: Vec<f64> = seen.iter().filter_map(|others| part(others)).collect();
        shares.sort_by(f64::total_cmp);
        // Of two middles the lower one: it is the one that was really seen when it was quiet.
        shares.get(shares.len().checked_sub(1)? / 2).copied()
    };
    let usual = Others {
        cpu: middle(|seen| seen.cpu),
        gpu: middle(|seen| seen.gpu),
        gpu_memory: middle(|seen| seen.gpu_memory),
    };
    (usual != Others::default()).then_some(usual)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUIET: Quiet = Quiet { others_max: 0.9, others_rise_max: 0.25 };

    fn cpu(share: f64) -> Others {
        Others { cpu: Some(share), ..Others::default() }
    }

    #[track_caller]
    fn check(others: Others, usual: Option<Others>, expected: Option<&str>) {
        let found = QUIET.disturbed(&others, usual.as_ref());
        match expected {
            Some(part) => assert!(found.as_ref().is_some_and(|why| why.contains(part)), "{others:?}: {found:?}"),
            None => assert_eq!(found, None, "{others:?} after {usual:?}"),
        }
    }

    #[test]
    fn a_load_that_stays_disturbs_nothing_and_a_burst_does() {
        check(cpu(0.5), None, None);
        check(cpu(0.55), Some(cpu(0.5)), None);
        check(cpu(0.5), Some(cpu(0.25)), None);
        check(cpu(0.76), Some(cpu(0.5)), Some("used 76 % of all cores, where it was 50 % before; 25 % more"));
        // What became quieter is no burst: the earlier measurement was the disturbed one, if any was.
        check(cpu(0.1), Some(cpu(0.8)), None);
    }

    #[test]
    fn a_machine_with_nothing_left_measures_nothing() {
        check(cpu(0.9), None, None);
        check(cpu(0.91), None, Some("used 91 % of all cores, 90 % at most is quiet"));
        check(cpu(0.95), Some(cpu(0.95)), Some("at most is quiet"));
    }

    #[test]
    fn a_gpu_counts_by_its_time_and_its_memory_where_it_can_be_read() {
        let gpu = |gpu, gpu_memory| Others { cpu: Some(0.1), gpu: Some(gpu), gpu_memory: Some(gpu_memory) };
        check(gpu(0.5, 0.97), None, None);
        check(gpu(0.91, 0.5), None, Some("91 % of a GPU,"));
        check(gpu(0.5, 0.9), Some(gpu(0.5, 0.6)), Some("90 % of a GPU's memory, where it was 60 %"));
        check(gpu(0.5, 0.9), Some(cpu(0.1)), None);
        check(Others::default(), Some(gpu(0.1, 0.1)), None);
    }

    #[test]
    fn with_one_for_both_nothing_is_ever_disturbed() {
        let never = Quiet { others_max: 1.0, others_rise_max: 1.0 };
        assert_eq!(never.disturbed(&cpu(1.0), Some(&cpu(0.0))), None);
    }

    #[test]
    fn the_usual_is_the_middle_of_what_was_seen_and_one_burst_does_not_move_it() {
        assert_eq!(usual([]), None);
        assert_eq!(usual(&[Others::default()]), None);
        assert_eq!(usual(&[cpu(0.9), cpu(0.2)]), Some(cpu(0.2)));
        assert_eq!(usual(&[cpu(0.9), cpu(0.2), cpu(0.3)]), Some(cpu(0.3)));
        let mixed = [Others { gpu: Some(0.5), ..cpu(0.1) }, Others::default()];
        assert_eq!(usual(&mixed), Some(mixed[0]));
    }

    proptest! {
        #[test]
        fn what_is_no_more_than_usual_and_leaves_something_is_never_disturbed(
            seen in proptest::collection::vec(0.0..0.9_f64, 1..20),
        ) {
            let seen: Vec<Others> = seen.into_iter().map(cpu).collect();
            let usual = usual(&seen).unwrap();
            prop_assert_eq!(QUIET.disturbed(&usual, Some(&usual)), None);
            let quieter = seen.iter().filter(|others| others.cpu <= usual.cpu);
            for others in quieter {
                prop_assert_eq!(QUIET.disturbed(others, Some(&usual)), None);
            }
        }
    }
}
