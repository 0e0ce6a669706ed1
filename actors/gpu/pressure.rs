//! Pressure: memory, heat and throttling of a GPU on one scale.
//!
//! Each part is divided by its own limit, so that 1 is the end of it, and the worst part is the GPU's pressure. How
//! busy the memory controller is says nothing about how full the memory is, so it is no part.

use std::collections::BTreeMap;

use super::Config;
use crate::facts::Reading;

/// The metric that pressure is said in: the worst part, 1 at its limit, not bounded above.
pub const PRESSURE: &str = "pressure_ratio";

/// The metric that says how near a GPU's memory alone is to its end, 1 at its limit.
pub const MEMORY_PRESSURE: &str = "memory_pressure_ratio";

/// The share of memory in use, 0 to 1.
pub const MEMORY_USED: &str = "memory_used_ratio";

/// The temperature of the GPU itself.
pub const TEMPERATURE: &str = "temperature_celsius";

/// Whether heat or a power brake slows the GPU down, 1 when it does; or the share of time in which it does.
///
/// Not counted here: an idle clock, clocks that were set, and the power limit that a busy GPU runs into every day.
pub const THROTTLED: &str = "throttled";

/// Returns the pressure of each GPU that `readings` tell something of, in the order of their subjects; a GPU of which
/// nothing could be read has none.
pub fn pressures(readings: &[Reading], config: &Config) -> Vec<Reading> {
    let mut worst: BTreeMap<(&str, &str), Reading> = BTreeMap::new();
    for reading in readings.iter().filter(|reading| reading.is_about_gpu()) {
        let Some(value) = part(reading, config) else { continue };
        let pressure = Reading { metric: PRESSURE.to_owned(), value, ..reading.clone() };
        worst
            .entry((&reading.subject, &reading.source))
            .and_modify(|known| {
                let at_ms = known.at_ms.max(pressure.at_ms);
                if pressure.value > known.value {
                    *known = pressure.clone();
                }
                known.at_ms = at_ms;
            })
            .or_insert(pressure);
    }
    worst.into_values().collect()
}

/// Returns how near the memory of each GPU is to its end, for those whose memory `readings` tell of.
pub fn memory_pressures(readings: &[Reading], config: &Config) -> Vec<Reading> {
    let of_memory = readings.iter().filter(|reading| reading.is_about_gpu() && reading.metric == MEMORY_USED);
    let pressure = |reading: &Reading| {
        part(reading, config).map(|value| Reading { metric: MEMORY_PRESSURE.to_owned(), value, ..reading.clone() })
    };
    of_memory.filter_map(pressure).collect()
}

/// Returns what `reading` contributes, as a ratio to its limit; `None` when it contributes nothing.
fn part(reading: &Reading, config: &Config) -> Option<f64> {
    let limit = match reading.metric.as_str() {
        MEMORY_USED => config.memory_high_ratio,
        TEMPERATURE => config.temperature_high_celsius,
        THROTTLED => 1.0,
        _ => return None,
    };
    let ratio = reading.value.max(0.0) / limit;
    (limit > 0.0 && reading.value.is_finite() && ratio.is_finite()).then_some(ratio)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(gpu: &str, metric: &str, value: f64) -> Reading {
        let source = format!("nvml:{gpu}");
        Reading { subject: format!("gpu:{gpu}"), metric: metric.into(), value, samples: 1, at_ms: 5, source }
    }

    #[track_caller]
    fn check(parts: &[(&str, f64)], expected: Option<f64>) {
        let readings = parts.iter().map(|(metric, value)| reading("a", metric, *value)).collect::<Vec<_>>();
        let pressures = pressures(&readings, &Config::default());
        match expected {
            None => assert_eq!(pressures, []),
            Some(expected) => assert!((pressures[0].value - expected).abs() < 1e-9, "{pressures:?}"),
        }
    }

    #[test]
    fn the_worst_part_is_the_pressure() {
        check(&[(MEMORY_USED, 0.475)], Some(0.5));
        check(&[(MEMORY_USED, 0.475), (TEMPERATURE, 87.0)], Some(1.0));
        check(&[(MEMORY_USED, 0.95), (TEMPERATURE, 43.5)], Some(1.0));
        check(&[(MEMORY_USED, 0.1), (TEMPERATURE, 40.0), (THROTTLED, 1.0)], Some(1.0));
        check(&[(TEMPERATURE, 95.7)], Some(1.1));
        check(&[(TEMPERATURE, -5.0)], Some(0.0));
    }

    #[test]
    fn memory_has_a_pressure_of_its_own_and_heat_has_no_part_in_it() {
        let readings =
            [reading("a", MEMORY_USED, 0.475), reading("a", TEMPERATURE, 95.0), reading("b", TEMPERATURE, 50.0)];
        let told = memory_pressures(&readings, &Config::default());
        assert_eq!(
            told.iter().map(|reading| (reading.source.as_str(), reading.value)).collect::<Vec<_>>(),
            [("nvml:a", 0.5)]
        );
    }

    #[test]
    fn a_busy_memory_controller_is_no_pressure() {
        check(&[("utilization_memory_ratio", 1.0), ("utilization_gpu_ratio", 1.0), ("power_watts", 700.0)], None);
        check(&[("memory_bandwidth_ratio", 1.0), (MEMORY_USED, 0.19)], Some(0.2));
    }

    #[test]
    fn what_could_not_be_read_is_no_part() {
        check(&[], None);
        check(&[(MEMORY_USED, f64::NAN)], None);
        check(&[(MEMORY_USED, f64::NAN), (TEMPERATURE, 8.7)], Some(0.1));
    }

    #[test]
    fn each_gpu_has_its_own_pressure_and_others_have_none() {
        let host = Reading { subject: "host".into(), ..reading("x", MEMORY_USED, 0.99) };
        let readings = [reading("b", MEMORY_USED, 0.95), host, reading("a", MEMORY_USED, 0.19)];
        let pressures = pressures(&readings, &Config::default());
        let told = pressures.iter().map(|reading| (reading.source.as_str(), reading.value)).collect::<Vec<_>>();
        assert_eq!(told, [("nvml:a", 0.2), ("nvml:b", 1.0)]);
        assert!(pressures.iter().all(|reading| reading.metric == PRESSURE && reading.is_about_gpu()));
    }

    proptest! {
        #[test]
        fn pressure_is_a_finite_number_for_any_reading_and_any_limit(
            values in prop::collection::vec((0_usize..4, 0_u8..3, any::<f64>()), 0..20),
            memory_high_ratio in any::<f64>(),
            temperature_high_celsius in any::<f64>(),
        ) {
            let config = Config { memory_high_ratio, temperature_high_celsius, ..Config::default() };
            let metrics = [MEMORY_USED, TEMPERATURE, THROTTLED, "power_watts"];
            let readings = values
                .into_iter()
                .map(|(metric, gpu, value)| reading(&gpu.to_string(), metrics[metric], value))
                .collect::<Vec<_>>();
            let pressures = pressures(&readings, &config);
            prop_assert!(pressures.len() <= 3);
            prop_assert!(pressures.iter().all(|reading| reading.value.is_finite() && reading.value >= 0.0));
        }
    }
}
