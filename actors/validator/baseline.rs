//! The baseline: the numbers that a domain is held to, and how far it has slipped from them since.
//!
//! It begins with what the domain gave before its first change that was measured, so that losses add up from there, and
//! only a success moves it, and only up: where it followed a success that ended below it, a loss that is tolerated and a
//! gain that wins back half of it would lead down for ever.

use std::collections::BTreeMap;

use crate::facts::{Fact, MetricSpec, Metrics, Ruled, SHRINKAGE, Verdict, between, objective};

/// Which side of a validation a baseline rests on, and the numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// It begins with the old settings.
    Begun(Metrics),
    /// The new settings raised it.
    Raised(Metrics),
}

impl Move {
    /// Returns what the domain is held to from now on.
    pub fn metrics(self) -> Metrics {
        match self {
            Move::Begun(metrics) | Move::Raised(metrics) => metrics,
        }
    }
}

/// Returns where `verdict` moves the baseline of a domain that is `held` to these numbers so far; `None` where it stays.
///
/// A gain over it counts as far as it is large beside its own uncertainty, by the same shrinkage as what is certified. Of many
/// changes without effect some measure well by luck, and a baseline that takes the best of them drifts up, until what does no
/// harm is undone for slipping from it.
pub fn moved(specs: &BTreeMap<String, MetricSpec>, held: Option<&Metrics>, verdict: &Verdict) -> Option<Move> {
    let improvement = verdict.improvement?;
    let certified = (verdict.outcome == Ruled::Success).then(|| verdict.certified());
    let Some(held) = held else {
        let begun = || (!verdict.before.is_empty()).then(|| Move::Begun(verdict.before.clone()));
        return certified.map(Move::Raised).or_else(begun);
    };
    let certified = certified?;
    let Some(gain_ratio) = erosion(held, &certified, specs) else {
        // Nothing is measured any more that it was counted in.
        return Some(Move::Raised(certified));
    };
    let (gain, margin) = (gain_ratio.ln_1p(), improvement.ratio.ln_1p() - improvement.low.ln_1p());
    let share = 1.0 - SHRINKAGE * (margin / gain).powi(2);
    (gain > 0.0 && share > 0.0).then(|| Move::Raised(between(held, &certified, share)))
}

/// Returns what a domain that is `held` to these numbers is held to after `fact`, which is about it.
pub fn held_after(specs: &BTreeMap<String, MetricSpec>, held: Option<Metrics>, fact: &Fact) -> Option<Metrics> {
    match fact {
        // A person knows better what the service should give.
        Fact::Anchored(anchored) => Some(anchored.metrics.clone()),
        Fact::Verdict(verdict) => {
            // An older kloros had no baseline before the first success.
            let begun = || held.is_none().then(|| moved(specs, None, verdict)).flatten().map(Move::metrics);
            verdict.certifies().or_else(begun).or(held)
        }
        _ => held,
    }
}

/// Returns how much better the domain is `now` than at its `anchor`, as a ratio: -0.05 is five percent worse.
///
/// Metrics that only one of the two has do not count; `None` when nothing is left to compare. Small losses that were
/// each tolerated add up here.
pub fn erosion(anchor: &Metrics, now: &Metrics, specs: &BTreeMap<String, MetricSpec>) -> Option<f64> {
    let shared: Metrics =
        anchor.iter().filter(|(name, _)| now.contains_key(*name)).map(|(name, value)| (name.clone(), *value)).collect();
    objective::improvement(specs, &shared, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{Anchored, Direction, Estimate, Reason},
        testing::{deployment_of, promotion, rollback},
    };

    fn specs() -> BTreeMap<String, MetricSpec> {
        let spec = |direction| MetricSpec { direction, weight: 1.0, guard: None };
        [("rate".to_owned(), spec(Direction::Up)), ("delay".to_owned(), spec(Direction::Down))].into()
    }

    fn metrics(values: &[(&str, f64)]) -> Metrics {
        values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    fn rate(value: f64) -> Metrics {
        metrics(&[("rate", value)])
    }

    /// Returns the verdict on a change of the rate that is known to `margin`, as a ratio.
    fn verdict(outcome: Ruled, before: f64, after: f64, margin: f64) -> Verdict {
        let ratio = after / before - 1.0;
        Verdict {
            outcome,
            improvement: Some(Estimate { ratio, low: (1.0 + ratio) / (1.0 + margin) - 1.0, high: ratio + margin }),
            before: rate(before),
            after: rate(after),
            ..rollback(&deployment_of(promotion(&[("SEQS", 12)])), Reason::Worse)
        }
    }

    #[test]
    fn small_losses_add_up() {
        let anchor = metrics(&[("rate", 100.0)]);
        let after_two = metrics(&[("rate", 100.0 * 0.96 * 0.96)]);
        let eroded = erosion(&anchor, &after_two, &specs()).unwrap();
        assert!((eroded + 0.0784).abs() < 1e-9, "{eroded}");
    }

    #[test]
    fn metrics_that_one_side_lacks_do_not_count() {
        let anchor = metrics(&[("rate", 100.0), ("delay", 10.0)]);
        assert!(erosion(&anchor, &metrics(&[("rate", 100.0)]), &specs()).unwrap().abs() < 1e-9);
        assert_eq!(erosion(&anchor, &metrics(&[("other", 1.0)]), &specs()), None);
    }

    /// Once there was none before the first success, and twenty losses of four percent were all kept until then.
    #[test]
    fn the_baseline_begins_with_what_was_measured_before_the_first_change() {
        for outcome in [Ruled::Neutral, Ruled::Rollback] {
            let first = verdict(outcome, 100.0, 96.0, 0.0);
            assert_eq!(moved(&specs(), None, &first), Some(Move::Begun(rate(100.0))));
        }
        let unmeasured = Verdict { improvement: None, ..verdict(Ruled::Rollback, 100.0, 96.0, 0.0) };
        assert_eq!(moved(&specs(), None, &unmeasured), None);
        let first = verdict(Ruled::Success, 100.0, 110.0, 0.0);
        let raised = moved(&specs(), None, &first).map(Move::metrics).map(|metrics| metrics["rate"].round());
        assert_eq!(raised, Some(110.0));
    }

    /// Once a success took it along, wherever it ended: 100, 95.5, 97.9, 93.5, 95.8 and so on, all kept.
    #[test]
    fn a_success_moves_the_baseline_up_alone_and_as_far_as_the_gain_is_sure() {
        let held = rate(100.0);
        let after = |before, after, margin| {
            let moved = moved(&specs(), Some(&held), &verdict(Ruled::Success, before, after, margin));
            moved.map(Move::metrics).map(|metrics| metrics["rate"])
        };
        assert_eq!(after(95.5, 97.9, 0.0), None);
        assert_eq!(after(100.0, 102.5, 0.05), None, "it is no larger than its uncertainty");
        assert!((after(100.0, 110.0, 0.0).unwrap() - 110.0).abs() < 1e-9);
        let vague = after(100.0, 110.0, 0.03).unwrap();
        assert!(vague > 105.0 && vague < 110.0, "{vague}");
        assert_eq!(moved(&specs(), Some(&held), &verdict(Ruled::Neutral, 200.0, 201.0, 0.0)), None);
    }

    #[test]
    fn a_person_moves_the_baseline_anywhere_and_an_older_kloros_did_with_each_success() {
        let specs = specs();
        let after = |held: Option<f64>, fact: Fact| {
            held_after(&specs, held.map(rate), &fact).map(|metrics| metrics["rate"].round())
        };
        let anchored = Anchored { domain: "lab".to_owned(), metrics: rate(80.0) };
        assert_eq!(after(Some(100.0), Fact::Anchored(anchored)), Some(80.0));
        let old = verdict(Ruled::Success, 90.0, 95.0, 0.0);
        assert_eq!(after(Some(100.0), Fact::Verdict(old.clone())), Some(95.0));
        assert_eq!(after(Some(100.0), Fact::Verdict(Verdict { runs: 24, ..old })), Some(100.0));
        assert_eq!(after(None, Fact::Verdict(verdict(Ruled::Neutral, 90.0, 89.0, 0.0))), Some(90.0));
        assert_eq!(after(Some(100.0), Fact::Verdict(verdict(Ruled::Neutral, 90.0, 89.0, 0.0))), Some(100.0));
    }
}
