//! Every number that a card is asked for: the call, how often, and what its answer amounts to in base units.

use nvml_wrapper::{
    Device,
    enum_wrappers::{
        device::{
            Clock, ComputeMode, EccCounter, MemoryError, PcieUtilCounter, PerformancePolicy, PerformanceState,
            RetirementCause, TemperatureSensor, TemperatureThreshold,
        },
        nv_link::ErrorCounter,
    },
    enums::device::SampleValue,
    error::{Bits, NvmlError},
    structs::device::FieldId,
};

use super::sample::{Cadence, Sample, What};

/// One call.
pub(super) struct Ask {
    /// The label it has in metrics.
    pub(super) name: &'static str,
    pub(super) cadence: Cadence,
    pub(super) call: fn(&Device<'_>) -> Answer,
}

/// What a call amounts to; empty when the driver says that it does not know.
pub(super) type Answer = Result<Vec<Sample>, NvmlError>;

const fn sample(name: &'static str, call: fn(&Device<'_>) -> Answer) -> Ask {
    Ask { name, cadence: Cadence::Sample, call }
}

const fn detail(name: &'static str, call: fn(&Device<'_>) -> Answer) -> Ask {
    Ask { name, cadence: Cadence::Detail, call }
}

const fn health(name: &'static str, call: fn(&Device<'_>) -> Answer) -> Ask {
    Ask { name, cadence: Cadence::Health, call }
}

/// The calls, in the order in which they are made. A call with an argument is one call for each argument, because a card may
/// support one and not the other.
pub(super) const ASKS: &[Ask] = &[
    sample("utilization", |gpu| {
        let rates = gpu.utilization_rates()?;
        Ok([percent(What::UtilizationRatio, "gpu", rates.gpu), percent(What::UtilizationRatio, "memory", rates.memory)]
            .concat())
    }),
    sample("encoder_utilization", |gpu| {
        Ok(percent(What::UtilizationRatio, "encoder", gpu.encoder_utilization()?.utilization))
    }),
    sample("decoder_utilization", |gpu| {
        Ok(percent(What::UtilizationRatio, "decoder", gpu.decoder_utilization()?.utilization))
    }),
    sample("memory", |gpu| {
        let memory = gpu.memory_info()?;
        let states =
            [("total", memory.total), ("used", memory.used), ("free", memory.free), ("reserved", memory.reserved)];
        Ok(states.map(|(state, bytes)| Sample::new(What::MemoryBytes, state, "", bytes as f64)).to_vec())
    }),
    sample("temperature", |gpu| {
        Ok(known(What::TemperatureCelsius, "gpu", "", gpu.temperature(TemperatureSensor::Gpu)?, 1.0))
    }),
    sample("memory_temperature", |gpu| fields(gpu, &[(MEMORY_TEMPERATURE, What::TemperatureCelsius, "memory")])),
    sample("power", |gpu| Ok(known(What::PowerWatts, "", "", gpu.power_usage()?, 1e3))),
    sample("energy", |gpu| {
        Ok(vec![Sample::new(What::EnergyJoules, "", "", gpu.total_energy_consumption()? as f64 / 1e3)])
    }),
    sample("throttle_reasons", throttle_reasons),
    sample("performance_state", |gpu| {
        // 32 is how the driver says that it does not know.
        let state = gpu.performance_state()?;
        let number = if state == PerformanceState::Unknown { u32::MAX } else { state.as_c() };
        Ok(known(What::PerformanceState, "", "", number, 1.0))
    }),
    detail("violation_power", |gpu| violation(gpu, PerformancePolicy::Power, "power")),
    detail("violation_thermal", |gpu| violation(gpu, PerformancePolicy::Thermal, "thermal")),
    detail("violation_sync_boost", |gpu| violation(gpu, PerformancePolicy::SyncBoost, "sync_boost")),
    detail("violation_board_limit", |gpu| violation(gpu, PerformancePolicy::BoardLimit, "board_limit")),
    detail("violation_low_utilization", |gpu| violation(gpu, PerformancePolicy::LowUtilization, "low_utilization")),
    detail("violation_reliability", |gpu| violation(gpu, PerformancePolicy::Reliability, "reliability")),
    detail("clock_graphics", |gpu| Ok(mhz("graphics", "current", gpu.clock_info(Clock::Graphics)?))),
    detail("clock_sm", |gpu| Ok(mhz("sm", "current", gpu.clock_info(Clock::SM)?))),
    detail("clock_memory", |gpu| Ok(mhz("memory", "current", gpu.clock_info(Clock::Memory)?))),
    detail("clock_video", |gpu| Ok(mhz("video", "current", gpu.clock_info(Clock::Video)?))),
    detail("pcie_sent", |gpu| pcie_rate(gpu, PcieUtilCounter::Send, "tx")),
    detail("pcie_received", |gpu| pcie_rate(gpu, PcieUtilCounter::Receive, "rx")),
    detail("pcie_replays", |gpu| Ok(known(What::PcieReplays, "", "", gpu.pcie_replay_counter()?, 1.0))),
    detail("pcie_generation", |gpu| {
        Ok(known(What::PcieLinkGeneration, "current", "", gpu.current_pcie_link_gen()?, 1.0))
    }),
    detail("pcie_width", |gpu| Ok(known(What::PcieLinkWidth, "current", "", gpu.current_pcie_link_width()?, 1.0))),
    detail("fans", fans),
    health("clock_graphics_max", |gpu| Ok(mhz("graphics", "max", gpu.max_clock_info(Clock::Graphics)?))),
    health("clock_sm_max", |gpu| Ok(mhz("sm", "max", gpu.max_clock_info(Clock::SM)?))),
    health("clock_memory_max", |gpu| Ok(mhz("memory", "max", gpu.max_clock_info(Clock::Memory)?))),
    health("clock_video_max", |gpu| Ok(mhz("video", "max", gpu.max_clock_info(Clock::Video)?))),
    health("pcie_generation_max", |gpu| Ok(known(What::PcieLinkGeneration, "max", "", gpu.max_pcie_link_gen()?, 1.0))),
    health("pcie_width_max", |gpu| Ok(known(What::PcieLinkWidth, "max", "", gpu.max_pcie_link_width()?, 1.0))),
    health("threshold_shutdown", |gpu| threshold(gpu, TemperatureThreshold::Shutdown, "shutdown")),
    health("threshold_slowdown", |gpu| threshold(gpu, TemperatureThreshold::Slowdown, "slowdown")),
    health("threshold_memory_max", |gpu| threshold(gpu, TemperatureThreshold::MemoryMax, "memory_max")),
    health("threshold_gpu_max", |gpu| threshold(gpu, TemperatureThreshold::GpuMax, "gpu_max")),
    health("power_limit_enforced", |gpu| Ok(watts("enforced", gpu.enforced_power_limit()?))),
    health("power_limit_set", |gpu| Ok(watts("set", gpu.power_management_limit()?))),
    health("power_limit_default", |gpu| Ok(watts("default", gpu.power_management_limit_default()?))),
    health("power_limit_constraints", |gpu| {
        let constraints = gpu.power_management_limit_constraints()?;
        Ok([watts("min", constraints.min_limit), watts("max", constraints.max_limit)].concat())
    }),
    health("ecc_mode", |gpu| {
        let mode = gpu.is_ecc_enabled()?;
        let of = |when, is_on| yes(What::EccEnabled, when, is_on);
        Ok([of("now", mode.currently_enabled), of("after_reset", mode.pending_enabled)].concat())
    }),
    health("ecc_corrected_volatile", |gpu| ecc(gpu, MemoryError::Corrected, EccCounter::Volatile)),
    health("ecc_corrected_aggregate", |gpu| ecc(gpu, MemoryError::Corrected, EccCounter::Aggregate)),
    health("ecc_uncorrected_volatile", |gpu| ecc(gpu, MemoryError::Uncorrected, EccCounter::Volatile)),
    health("ecc_uncorrected_aggregate", |gpu| ecc(gpu, MemoryError::Uncorrected, EccCounter::Aggregate)),
    health("retired_single_bit", |gpu| {
        retired(gpu, RetirementCause::MultipleSingleBitEccErrors, "multiple_single_bit")
    }),
    health("retired_double_bit", |gpu| retired(gpu, RetirementCause::DoubleBitEccError, "double_bit")),
    health("retirement_pending", |gpu| Ok(yes(What::RetirementPending, "", gpu.are_pages_pending_retired()?))),
    health("row_remap", |gpu| {
        fields(
            gpu,
            &[
                (142, What::RemappedRows, "corrected"),
                (143, What::RemappedRows, "uncorrected"),
                (144, What::RowRemapPending, ""),
                (145, What::RowRemapFailure, ""),
            ],
        )
    }),
    health("nvlink", nvlink),
    health("mig_mode", |gpu| Ok(known(What::MigEnabled, "", "", gpu.mig_mode()?.current, 1.0))),
    health("compute_mode", |gpu| {
        let number = match gpu.compute_mode()? {
            ComputeMode::Default => 0,
            ComputeMode::ExclusiveThread => 1,
            ComputeMode::Prohibited => 2,
            ComputeMode::ExclusiveProcess => 3,
        };
        Ok(known(What::ComputeMode, "", "", number, 1.0))
    }),
    health("persistence", |gpu| Ok(yes(What::PersistenceEnabled, "", gpu.is_in_persistent_mode()?))),
];

/// The field value that holds the temperature of the memory; no call has it.
const MEMORY_TEMPERATURE: u32 = 82;

/// How many links a card has at most.
const LINKS_MAX: u32 = 18;

/// How many fans of a card are asked at most.
const FANS_MAX: u32 = 18;

/// The labels of links and fans.
const NUMBERS: [&str; 18] =
    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17"];

/// Why clocks are held down, by bit.
const REASONS: [(u64, &str); 9] = [
    (0x1, "gpu_idle"),
    (0x2, "clocks_setting"),
    (0x4, "power_cap"),
    (0x8, "hw_slowdown"),
    (0x10, "sync_boost"),
    (0x20, "sw_thermal"),
    (0x40, "hw_thermal"),
    (0x80, "hw_power_brake"),
    (0x100, "display_clocks"),
];

/// The reasons that are trouble: an idle clock, clocks that were set, and the power limit that a busy GPU runs into every day
/// are none.
pub(super) const SLOWED: [&str; 4] = ["hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"];

/// Returns the sample of a number by `divisor`, which some drivers spell as all ones where they do not know it.
fn known(what: What, first: &'static str, second: &'static str, number: u32, divisor: f64) -> Vec<Sample> {
    if number == u32::MAX { Vec::new() } else { vec![Sample::new(what, first, second, f64::from(number) / divisor)] }
}

/// Returns samples in a unit that is `factor` times as small.
fn times(factor: f64, samples: Vec<Sample>) -> Vec<Sample> {
    samples.into_iter().map(|sample| Sample { value: sample.value * factor, ..sample }).collect()
}

/// Returns the share that a number of percent is; drivers were seen to say more than 100.
fn percent(what: What, part: &'static str, percent: u32) -> Vec<Sample> {
    known(what, part, "", if percent == u32::MAX { percent } else { percent.min(100) }, 100.0)
}

fn watts(limit: &'static str, milliwatts: u32) -> Vec<Sample> {
    known(What::PowerLimitWatts, limit, "", milliwatts, 1e3)
}

fn mhz(clock: &'static str, kind: &'static str, megahertz: u32) -> Vec<Sample> {
    times(1e6, known(What::ClockHertz, clock, kind, megahertz, 1.0))
}

fn yes(what: What, first: &'static str, is_so: bool) -> Vec<Sample> {
    vec![Sample::new(what, first, "", f64::from(u8::from(is_so)))]
}

fn throttle_reasons(gpu: &Device<'_>) -> Answer {
    let bits = match gpu.current_throttle_reasons_strict() {
        Ok(reasons) => reasons.bits(),
        // Newer drivers know reasons that the wrapper does not.
        Err(NvmlError::IncorrectBits(Bits::U64(bits))) => bits,
        Err(error) => return Err(error),
    };
    Ok(reasons(bits))
}

fn reasons(bits: u64) -> Vec<Sample> {
    let named = REASONS.iter().map(|(bit, name)| (*name, bits & bit != 0));
    let all = REASONS.iter().fold(0, |all, (bit, _)| all | bit);
    let rest = std::iter::once(("unknown", bits & !all != 0));
    named.chain(rest).flat_map(|(name, is_on)| yes(What::ThrottleActive, name, is_on)).collect()
}

fn violation(gpu: &Device<'_>, policy: PerformancePolicy, label: &'static str) -> Answer {
    let nanoseconds = gpu.violation_status(policy)?.violation_time;
    Ok(vec![Sample::new(What::ThrottleSeconds, label, "", nanoseconds as f64 / 1e9)])
}

fn threshold(gpu: &Device<'_>, threshold: TemperatureThreshold, label: &'static str) -> Answer {
    Ok(known(What::TemperatureThresholdCelsius, label, "", gpu.temperature_threshold(threshold)?, 1.0))
}

/// Takes 20 ms: the driver looks on for that long.
fn pcie_rate(gpu: &Device<'_>, counter: PcieUtilCounter, direction: &'static str) -> Answer {
    Ok(times(1e3, known(What::PcieBytesPerSecond, direction, "", gpu.pcie_throughput(counter)?, 1.0)))
}

fn ecc(gpu: &Device<'_>, error: MemoryError, counter: EccCounter) -> Answer {
    let severity = if error == MemoryError::Corrected { "corrected" } else { "uncorrected" };
    let scope = if counter == EccCounter::Volatile { "volatile" } else { "aggregate" };
    let count = gpu.total_ecc_errors(error, counter)?;
    Ok(vec![Sample::new(What::EccErrors, severity, scope, count as f64)])
}

fn retired(gpu: &Device<'_>, cause: RetirementCause, label: &'static str) -> Answer {
    Ok(vec![Sample::new(What::RetiredPages, label, "", gpu.retired_pages(cause)?.len() as f64)])
}

fn fans(gpu: &Device<'_>) -> Answer {
    let mut samples = Vec::new();
    for (fan, label) in (0..gpu.num_fans()?.min(FANS_MAX)).zip(NUMBERS) {
        samples.extend(percent(What::FanRatio, label, gpu.fan_speed(fan)?));
    }
    Ok(samples)
}

/// Returns the samples of field values; fails with the first error when none of them can be had.
fn fields(gpu: &Device<'_>, wanted: &[(u32, What, &'static str)]) -> Answer {
    let ids: Vec<FieldId> = wanted.iter().map(|(id, _, _)| FieldId(*id)).collect();
    let mut samples = Vec::new();
    let mut refusal = None;
    for ((_, what, part), field) in wanted.iter().zip(gpu.field_values_for(&ids)?) {
        match field.and_then(|field| field.value) {
            Ok(value) => samples.extend(number(&value).map(|number| Sample::new(*what, part, "", number))),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    match refusal {
        Some(error) if samples.is_empty() => Err(error),
        _ => Ok(samples),
    }
}

fn number(value: &SampleValue) -> Option<f64> {
    let number = match value {
        SampleValue::F64(number) => *number,
        SampleValue::U32(number) => f64::from(*number),
        SampleValue::U64(number) => *number as f64,
        SampleValue::I64(number) => *number as f64,
    };
    number.is_finite().then_some(number)
}

/// Returns which links are up, with the errors of those; fails when the card has none.
fn nvlink(gpu: &Device<'_>) -> Answer {
    let mut samples = Vec::new();
    for (index, label) in (0..LINKS_MAX).zip(NUMBERS) {
        let link = gpu.link_wrapper_for(index);
        let is_up = match link.is_active() {
            Ok(is_up) => is_up,
            // Cards have fewer links than there may be, and say of the next one that it is none.
            Err(NvmlError::InvalidArg | NvmlError::NotSupported) if index > 0 => break,
            Err(error) => return Err(error),
        };
        samples.push(Sample::new(What::NvlinkUp, label, "", f64::from(u8::from(is_up))));
        let counters = [
            (ErrorCounter::DlReplay, "replay"),
            (ErrorCounter::DlRecovery, "recovery"),
            (ErrorCounter::DlCrcFlit, "crc_flit"),
            (ErrorCounter::DlCrcData, "crc_data"),
        ];
        for (counter, kind) in counters.into_iter().filter(|_| is_up) {
            // Newer cards have links without these counters.
            if let Ok(count) = link.error_counter(counter) {
                samples.push(Sample::new(What::NvlinkErrors, label, kind, count as f64));
            }
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_call_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = ASKS.iter().map(|ask| ask.name).collect();
        assert_eq!(names.len(), ASKS.len());
        assert!(names.iter().all(|name| name.bytes().all(|each| each.is_ascii_lowercase() || each == b'_')));
    }

    #[track_caller]
    fn check(bits: u64, expected: &[&str]) {
        let samples = reasons(bits);
        assert_eq!(samples.len(), REASONS.len() + 1, "each reason is said, also when it does not hold");
        let active: Vec<&str> = samples.iter().filter(|each| each.value == 1.0).map(|each| each.key.1).collect();
        assert_eq!(active, expected);
    }

    #[test]
    fn each_reason_has_its_name_and_what_nobody_knows_is_unknown() {
        check(0, &[]);
        check(0x4, &["power_cap"]);
        check(0x68, &["hw_slowdown", "sw_thermal", "hw_thermal"]);
        check(0x8000_0000_0000_0001, &["gpu_idle", "unknown"]);
        check(
            u64::MAX,
            &[
                "gpu_idle",
                "clocks_setting",
                "power_cap",
                "hw_slowdown",
                "sync_boost",
                "sw_thermal",
                "hw_thermal",
                "hw_power_brake",
                "display_clocks",
                "unknown",
            ],
        );
    }

    #[test]
    fn a_number_in_base_units_is_the_nearest_one_there_is() {
        let value = |samples: Vec<Sample>| samples[0].value;
        assert_eq!(value(known(What::PowerWatts, "", "", 699_353, 1e3)), 699.353);
        assert_eq!(value(percent(What::UtilizationRatio, "gpu", 57)), 0.57);
        assert_eq!(value(mhz("sm", "current", 1395)), 1.395e9);
    }

    #[test]
    fn more_than_all_of_the_time_is_all_of_it_and_all_ones_are_no_number() {
        let ratio = |number| percent(What::UtilizationRatio, "gpu", number).first().map(|sample| sample.value);
        assert_eq!(ratio(50), Some(0.5));
        assert_eq!(ratio(255), Some(1.0));
        assert_eq!(ratio(u32::MAX), None);
        assert_eq!(known(What::PowerWatts, "", "", u32::MAX, 1e3), []);
    }
}
