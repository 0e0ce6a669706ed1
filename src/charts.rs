//! What the charts of the console show: the host and the GPUs over the last while, a bounded number of looks in memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kloros_actors::seams::{Clock, Probe};
use serde::Serialize;

use crate::{
    nvml::{Gpus, What},
    settings::Reached,
};

/// What is shown of a GPU: the number, the name of its series, and what it is counted in.
const OF_GPUS: [(What, &str, &str, &str); 5] = [
    (What::UtilizationRatio, "gpu", "busy", "ratio"),
    (What::MemoryBytes, "used", "memory_used", "bytes"),
    (What::MemoryBytes, "total", "memory_total", "bytes"),
    (What::TemperatureCelsius, "gpu", "temperature", "celsius"),
    (What::PowerWatts, "", "power", "watts"),
];

/// One look: the numbers by subject and metric.
struct Look {
    at_ms: u64,
    values: BTreeMap<Named, f64>,
}

/// What a series is of: the subject, the metric, the unit.
type Named = (String, String, &'static str);

/// The last looks at the machine.
pub(crate) struct Charts {
    every: Duration,
    points_max: usize,
    looks: Mutex<VecDeque<Look>>,
}

/// The charts as data: one row of times, and one row of values for each series.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Shown {
    every_s: f64,
    at_ms: Vec<u64>,
    series: Vec<Series>,
}

/// One line of a chart; where it was not seen there is nothing.
#[derive(Debug, PartialEq, Serialize)]
struct Series {
    subject: String,
    metric: String,
    unit: &'static str,
    values: Vec<Option<f64>>,
}

impl Charts {
    /// Returns charts that hold nothing yet.
    pub(crate) fn new(reached: &Reached) -> Self {
        let (every, points_max) =
            (Duration::from_secs_f64(reached.chart_every_s), reached.chart_points_max.max(1) as usize);
        Self { every, points_max, looks: Mutex::new(VecDeque::new()) }
    }

    /// Looks at the machine until it is dropped. GPUs are not asked: what the house knows of them is taken.
    pub(crate) async fn keep(
        &self,
        host: Option<Arc<dyn Probe>>,
        gpus: &Gpus,
        clock: &dyn Clock,
    ) -> Result<(), String> {
        loop {
            let mut values = BTreeMap::new();
            if let Some(host) = &host {
                // One that cannot be read now is a gap in its line.
                for reading in host.read().await.unwrap_or_default() {
                    let unit = unit_of(&reading.metric);
                    values.insert((reading.subject, reading.metric, unit), reading.value);
                }
            }
            for gpu in gpus.known().snapshot.gpus {
                let subject = format!("gpu {}", gpu.identity.index);
                for ((what, first, _), value) in &gpu.values {
                    let named = OF_GPUS.iter().find(|(is, part, ..)| is == what && (part.is_empty() || part == first));
                    if let Some((_, _, metric, unit)) = named {
                        values.entry((subject.clone(), (*metric).to_owned(), *unit)).or_insert(*value);
                    }
                }
            }
            self.add(Look { at_ms: clock.now_ms(), values });
            tokio::time::sleep(self.every).await;
        }
    }

    fn add(&self, look: Look) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() >= self.points_max {
            looks.pop_front();
        }
        looks.push_back(look);
    }

    /// Returns what was seen, the oldest first.
    pub(crate) fn shown(&self) -> Shown {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let names: BTreeSet<&Named> = looks.iter().flat_map(|look| look.values.keys()).collect();
        let series = |named: &Named| Series {
            subject: named.0.clone(),
            metric: named.1.clone(),
            unit: named.2,
            values: looks.iter().map(|look| look.values.get(named).copied()).collect(),
        };
        Shown {
            every_s: self.every.as_secs_f64(),
            at_ms: looks.iter().map(|look| look.at_ms).collect(),
            series: names.into_iter().map(series).collect(),
        }
    }
}

/// Returns what a metric of the host is counted in, which its name ends with.
fn unit_of(metric: &str) -> &'static str {
    let endings = [("_ratio", "ratio"), ("_bytes_per_s", "bytes_per_second"), ("_s", "seconds"), ("_kills", "count")];
    endings.iter().find(|(ending, _)| metric.ends_with(ending)).map_or("load", |(_, unit)| unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once bytes, seconds and the load were said to be ratios.
    #[test]
    fn what_a_series_of_the_host_is_counted_in_is_said() {
        for (metric, unit) in [
            ("cpu_used_ratio", "ratio"),
            ("disk_await_s", "seconds"),
            ("network_sent_bytes_per_s", "bytes_per_second"),
            ("memory_oom_kills", "count"),
            ("load_per_core", "load"),
        ] {
            assert_eq!(unit_of(metric), unit, "{metric}");
        }
    }

    #[test]
    fn the_oldest_looks_go_and_what_was_not_seen_is_a_gap() {
        let charts = Charts::new(&Reached { chart_points_max: 3, ..Reached::default() });
        for at_ms in 1..=4 {
            let name = |metric: &str| ("host".to_owned(), metric.to_owned(), "ratio");
            let mut values = BTreeMap::from([(name("cpu"), at_ms as f64)]);
            if at_ms == 3 {
                values.insert(name("swap"), 0.5);
            }
            charts.add(Look { at_ms, values });
        }
        let shown = charts.shown();
        assert_eq!(shown.at_ms, [2, 3, 4]);
        let values: Vec<_> = shown.series.iter().map(|series| series.values.clone()).collect();
        assert_eq!(values, [vec![Some(2.0), Some(3.0), Some(4.0)], vec![None, Some(0.5), None]]);
    }
}
