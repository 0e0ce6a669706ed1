//! Attempts: how often an experiment went to measure in vain, and when that is too often.
//!
//! What breaks off is resumed, and what a trial breaks may be the daemon itself. Each life of an experiment leaves a mark in the
//! journal before it measures, so that they are counted whoever dies.

use crate::facts::Attempt;

/// Returns how many of the newest of an experiment's `attempts`, oldest first, are not known to have ended a trial. `trials` is how
/// many have ended by now.
pub fn in_vain(attempts: &[Attempt], trials: u32) -> u32 {
    let newest = attempts.iter().rev().take_while(|attempt| attempt.trials >= trials);
    newest.count().try_into().unwrap_or(u32::MAX)
}

/// Returns why an experiment may not go to measure again, in words; `None` when it may.
pub fn objection(attempts: &[Attempt], trials: u32, attempts_max: u32) -> Option<String> {
    let in_vain = in_vain(attempts, trials);
    (in_vain >= attempts_max).then(|| {
        let after = if trials == 0 { "its first trial".to_owned() } else { format!("the one after {trials} trials") };
        format!("it went to measure {in_vain} times in a row without that {after} ended (coordinator.attempts_max)")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::ExperimentId;

    fn attempts(trials: &[u32]) -> Vec<Attempt> {
        trials.iter().map(|trials| Attempt { experiment: ExperimentId::new("x-1"), trials: *trials }).collect()
    }

    #[test]
    fn only_attempts_since_the_last_trial_that_ended_are_in_vain() {
        let table: [(&[u32], u32, u32); 7] = [
            (&[], 0, 0),
            (&[0], 0, 1),
            (&[0], 3, 0),
            (&[0, 0, 0], 0, 3),
            (&[0, 0, 4], 4, 1),
            (&[0, 4, 4, 4], 4, 3),
            (&[0, 4, 4, 4], 5, 0),
        ];
        for (before, trials, expected) in table {
            assert_eq!(in_vain(&attempts(before), trials), expected, "{before:?} {trials}");
        }
    }

    #[test]
    fn an_experiment_that_was_tried_as_often_as_may_be_is_given_up_with_the_reason() {
        assert_eq!(objection(&attempts(&[0, 0]), 0, 3), None);
        let why = objection(&attempts(&[0, 0, 0]), 0, 3).unwrap();
        assert!(why.contains("3 times") && why.contains("its first trial") && why.contains("attempts_max"), "{why}");
        assert!(objection(&attempts(&[7, 7, 7]), 7, 3).unwrap().contains("the one after 7 trials"));
    }

    proptest! {
        /// However an experiment dies, it goes to measure no more often than this.
        #[test]
        fn the_attempts_of_an_experiment_are_bounded_by_its_trials(
            ends in prop::collection::vec(any::<bool>(), 0..400),
            attempts_max in 1_u32..6,
            budget in 1_u32..20,
        ) {
            let (mut marks, mut trials) = (Vec::new(), 0);
            for one_more_ends in ends {
                if trials == budget || objection(&marks, trials, attempts_max).is_some() {
                    break;
                }
                marks.extend(attempts(&[trials]));
                trials += u32::from(one_more_ends);
            }
            prop_assert!(marks.len() as u32 <= attempts_max * (budget + 1));
        }
    }
}
