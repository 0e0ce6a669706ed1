//! The baseline: the last numbers of a domain that were proven, and how far it has slipped from them since.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::facts::{MetricSpec, Metrics, objective};

/// The certified numbers of a domain: the anchor that only a success moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The domain.
    pub domain: String,
    /// Medians of the settings that were proven; finite numbers.
    pub metrics: Metrics,
    /// How many runs stand behind them.
    pub n: u32,
    /// When they were measured, in milliseconds since the Unix epoch.
    pub updated_at_ms: u64,
    /// The fingerprint of the settings they were measured with.
    pub fingerprint: String,
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
    use crate::facts::Direction;

    fn specs() -> BTreeMap<String, MetricSpec> {
        let spec = |direction| MetricSpec { direction, weight: 1.0, guard: None };
        [("rate".to_owned(), spec(Direction::Up)), ("delay".to_owned(), spec(Direction::Down))].into()
    }

    fn metrics(values: &[(&str, f64)]) -> Metrics {
        values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
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

    #[test]
    fn a_baseline_is_read_as_it_was_written() {
        let baseline = Baseline {
            domain: "lab".to_owned(),
            metrics: metrics(&[("rate", 45.2)]),
            n: 12,
            updated_at_ms: 1_762_011_720_000,
            fingerprint: "a1b2".to_owned(),
        };
        let text = serde_json::to_string(&baseline).unwrap();
        assert_eq!(serde_json::from_str::<Baseline>(&text).unwrap(), baseline);
    }
}
