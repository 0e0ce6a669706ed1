//! What the observer hears of the GPUs.

use std::time::Duration;

use kloros_actors::{facts::Reading, seams::ProbeError};

use super::{
    ask::SLOWED,
    sample::{DriverState, DriverView, GpuView, Snapshot, What},
};

/// How much of a UUID names a GPU, in characters behind `GPU-`.
const UUID_SHORT_CHARS: usize = 8;

/// Returns the readings of all GPUs, or why there are none.
pub(super) fn of(snapshot: &Snapshot, fault_holds: Duration, at_ms: u64) -> Result<Vec<Reading>, ProbeError> {
    // The last GPU may have been taken out; then it is one that was lost.
    let is_lost = snapshot.driver.state == DriverState::NoGpu && !snapshot.gpus.is_empty();
    if snapshot.driver.state != DriverState::Ready && !is_lost {
        return Err(refusal(&snapshot.driver));
    }
    if snapshot.gpus.is_empty() {
        let count = snapshot.driver.unnamed.len();
        return Err(ProbeError::Unreachable(format!("none of {count} GPUs answers")));
    }
    Ok(snapshot.gpus.iter().flat_map(|gpu| readings(gpu, fault_holds, at_ms)).collect())
}

/// Returns why the driver has no readings.
pub(super) fn refusal(driver: &DriverView) -> ProbeError {
    let words = driver.state.words();
    match &driver.said {
        _ if driver.state.is_absence() => ProbeError::Absent(words.to_owned()),
        Some(said) => ProbeError::Unreachable(format!("{words}: {said}")),
        None => ProbeError::Unreachable(words.to_owned()),
    }
}

fn readings(gpu: &GpuView, fault_holds: Duration, at_ms: u64) -> Vec<Reading> {
    let uuid = &gpu.identity.uuid;
    let short: String = uuid.trim_start_matches("GPU-").chars().take(UUID_SHORT_CHARS).collect();
    let reading = |(metric, value): (&str, f64)| Reading {
        subject: format!("gpu:{short}"),
        metric: metric.to_owned(),
        value,
        samples: 1,
        at_ms,
        source: format!("nvml:{uuid}"),
    };
    let yes = |is_so: bool| f64::from(u8::from(is_so));
    let said = gpu.hardware_error_ms();
    let is_faulty = said.is_some_and(|said| u128::from(at_ms.saturating_sub(said)) < fault_holds.as_millis());
    let states = [("lost", yes(gpu.trouble.is_some())), ("hardware_fault", yes(is_faulty))];
    let measured = measured(gpu).into_iter().filter(|(_, value)| value.is_finite());
    states.into_iter().chain(measured).map(reading).collect()
}

/// Returns what the answers of one GPU amount to, in base units; what it would not say is absent.
fn measured(gpu: &GpuView) -> Vec<(&'static str, f64)> {
    let memory = |state| gpu.value(What::MemoryBytes, state, "");
    // What is neither free nor usable counts as used, so that 1 means full.
    let used = memory("free").zip(memory("total")).map(|(free, total)| 1.0 - free / total);
    let reasons: Vec<_> = gpu.all(What::ThrottleActive).collect();
    let is_slowed = reasons.iter().any(|(reason, _, active)| SLOWED.contains(reason) && *active > 0.0);
    [
        ("utilization_ratio", gpu.value(What::UtilizationRatio, "gpu", "")),
        ("memory_used_ratio", used),
        ("temperature_celsius", gpu.value(What::TemperatureCelsius, "gpu", "")),
        ("power_watts", gpu.value(What::PowerWatts, "", "")),
        ("throttled", (!reasons.is_empty()).then_some(f64::from(u8::from(is_slowed)))),
    ]
    .into_iter()
    .filter_map(|(metric, value)| Some((metric, value?)))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvml::sample::Xid;

    fn gpu(values: &[(What, &'static str, f64)]) -> GpuView {
        let values = values.iter().map(|(what, part, value)| ((*what, *part, ""), *value)).collect();
        GpuView { values, ..GpuView::new("GPU-0123abcd-ef") }
    }

    #[track_caller]
    fn check(values: &[(What, &'static str, f64)], expected: &[(&str, f64)]) {
        assert_eq!(measured(&gpu(values)), expected);
    }

    #[test]
    fn what_is_not_free_is_used_and_bandwidth_is_no_memory() {
        let memory = |state, gib| (What::MemoryBytes, state, gib);
        check(&[memory("total", 80.0), memory("free", 20.0), memory("used", 59.0)], &[("memory_used_ratio", 0.75)]);
        check(&[(What::UtilizationRatio, "memory", 1.0)], &[]);
        check(&[(What::UtilizationRatio, "gpu", 0.5)], &[("utilization_ratio", 0.5)]);
    }

    #[test]
    fn the_power_limit_and_an_idle_clock_are_no_throttling() {
        let reason = |reason, active| (What::ThrottleActive, reason, active);
        check(&[reason("power_cap", 1.0), reason("gpu_idle", 1.0), reason("hw_thermal", 0.0)], &[("throttled", 0.0)]);
        check(&[reason("hw_thermal", 1.0)], &[("throttled", 1.0)]);
        check(&[reason("unknown", 1.0)], &[("throttled", 0.0)]);
    }

    #[test]
    fn a_gpu_is_named_by_the_beginning_of_its_uuid() {
        let gpu = gpu(&[(What::TemperatureCelsius, "gpu", f64::NAN)]);
        let readings = readings(&gpu, Duration::from_secs(1), 7);
        assert_eq!(readings.len(), 2, "what is no number is absent");
        assert_eq!(readings[0].subject, "gpu:0123abcd");
        assert_eq!(readings[0].source, "nvml:GPU-0123abcd-ef");
    }

    #[test]
    fn a_hardware_error_holds_for_its_time_and_one_of_a_program_is_none() {
        let faulty = |xid, last_ms, now_ms| {
            let mut gpu = gpu(&[]);
            gpu.xids.insert(xid, Xid { count: 1, last_ms });
            let readings = readings(&gpu, Duration::from_millis(100), now_ms);
            readings.iter().find(|reading| reading.metric == "hardware_fault").unwrap().value
        };
        assert_eq!(faulty(79, 1000, 1099), 1.0);
        assert_eq!(faulty(79, 1000, 1100), 0.0);
        assert_eq!(faulty(31, 1000, 1001), 0.0);
    }

    #[test]
    fn no_driver_is_absent_and_a_driver_in_trouble_is_unreachable() {
        for (state, is_absent) in [
            (DriverState::NoLibrary, true),
            (DriverState::NotLoaded, true),
            (DriverState::NoGpu, true),
            (DriverState::VersionMismatch, false),
            (DriverState::NoPermission, false),
            (DriverState::Failing, false),
            (DriverState::Hung, false),
        ] {
            let driver = DriverView { state, ..DriverView::default() };
            let refused = of(&Snapshot { driver, ..Snapshot::default() }, Duration::ZERO, 0).unwrap_err();
            assert_eq!(matches!(refused, ProbeError::Absent(_)), is_absent, "{refused}");
        }
    }
}
