//! Own doings: was something of ours measured when the machine ran short?
//!
//! What a trial takes of memory or of a GPU is gone with the trial, and no settings of a service are to blame for it.

use std::collections::BTreeMap;

use crate::facts::{Fact, Kind, Recorded, Step};

/// The facts that say when something was measured.
pub const KINDS_READ: [Kind; 3] = [Kind::Experiment, Kind::ExperimentEnd, Kind::Step];

/// How long after a measurement the machine may still seem short for its sake, in milliseconds: an incident is over a while after all
/// is well again.
const LINGERS_MS: u64 = 60_000;

/// Returns whether an experiment was open or a change was measured at `at_ms`, or until shortly before. `facts` come oldest first; an
/// experiment that ends among them and does not begin there began earlier. One that waits for its window is open, too.
pub fn was_measuring(facts: &[Recorded], at_ms: u64) -> bool {
    let mut begun: BTreeMap<&str, u64> = BTreeMap::new();
    let mut was_measuring = false;
    for each in facts {
        let subject = each.fact.subject();
        match &each.fact {
            Fact::Experiment(_) | Fact::Step { step: Step::Measured, .. } => {
                begun.insert(subject, each.at_ms);
            }
            Fact::ExperimentEnd(_) | Fact::Step { step: Step::Judged(_), .. } => {
                // A change that is undone before it is measured is judged as well.
                let from_ms =
                    begun.remove(subject).or_else(|| matches!(each.fact, Fact::ExperimentEnd(_)).then_some(0));
                let lasted = from_ms.map(|from_ms| from_ms..each.at_ms.saturating_add(LINGERS_MS));
                was_measuring |= lasted.is_some_and(|lasted| lasted.contains(&at_ms));
            }
            _ => {}
        }
    }
    was_measuring || begun.values().any(|from_ms| *from_ms <= at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{DeploymentId, ExperimentEnd, Ruled},
        testing::{cycle, experiment},
    };

    fn recorded(facts: &[(u64, Fact)]) -> Vec<Recorded> {
        (1..)
            .zip(facts)
            .map(|(seq, (at_ms, fact))| Recorded { seq, cycle: cycle(), at_ms: *at_ms, fact: fact.clone() })
            .collect()
    }

    #[track_caller]
    fn check(facts: &[(u64, Fact)], at_ms: u64, expected: bool) {
        assert_eq!(was_measuring(&recorded(facts), at_ms), expected, "at {at_ms}");
    }

    #[test]
    fn what_runs_short_during_a_measurement_or_shortly_after_it_is_our_own_doing() {
        let step = |step| Fact::Step { deployment: DeploymentId::new("d-1"), step };
        let ended = ExperimentEnd::NoBetter { experiment: experiment().id, why: String::new(), front: Vec::new() };
        let ways = [
            (Fact::Experiment(experiment()), Fact::ExperimentEnd(ended)),
            (step(Step::Measured), step(Step::Judged(Ruled::Neutral))),
        ];
        for (is_experiment, (begin, end)) in [true, false].into_iter().zip(ways) {
            let (begin, end) = ((100_000, begin), (500_000, end));
            check(&[], 100_000, false);
            let whole = [begin, end];
            check(&whole[..1], 99_999, false);
            check(&whole[..1], 100_000, true);
            check(&whole[..1], 9_000_000, true);
            check(&whole, 99_999, false);
            check(&whole, 499_999, true);
            check(&whole, 559_999, true);
            check(&whole, 560_000, false);
            check(&whole[1..], 499_999, is_experiment);
            check(&whole[1..], 560_000, false);
        }
        // A change that waits, restarts or is stuck is not measured.
        check(&[(100_000, step(Step::Intended)), (100_000, step(Step::UndoFailed(String::new())))], 200_000, false);
    }
}
