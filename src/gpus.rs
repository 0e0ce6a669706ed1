//! The GPUs in the house: what the settings mean for the adapter, and what was sampled last as metrics.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use kloros_actors::{gpu, meters::gpu as meters, seams::Clock};
use metrics::Label;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::nvml::{
    Cadence, DEADLINE, DriverState, GpuView, Gpus, Key, Trouble, Watching, What, XID_OTHER, is_hardware,
};

/// Where the kernel lists its GPUs.
const KERNEL_LIST: &str = "/proc/driver/nvidia/gpus";

/// Upper bounds of the histogram of turns, in seconds.
pub(crate) const TURN_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// XIDs that are counted from zero on, so that a rate sees the first one.
const XIDS_KNOWN: [u64; 14] = [13, 31, 43, 45, 48, 63, 64, 74, 79, 92, 94, 95, 119, 120];

/// How many cadences a sample may be old before it is not shown any more, beside the deadline of a turn.
const STALE_CADENCES: u32 = 3;

/// Returns how the GPUs are watched; `listens` is whether errors are listened to that the driver reports.
pub(crate) fn watching(config: &gpu::Config, listens: bool) -> Watching {
    let seconds = Duration::from_secs_f64;
    Watching {
        library: (!config.library.is_empty()).then(|| PathBuf::from(&config.library)),
        kernel_list: Path::new(KERNEL_LIST).to_owned(),
        sample_every: seconds(config.sample_every_s),
        detail_every: seconds(config.detail_every_s),
        health_every: seconds(config.health_every_s),
        deadline: seconds(config.deadline_s),
        absent_retry: seconds(config.absent_retry_s),
        lost_retry: seconds(config.lost_retry_s),
        lost_retry_max: seconds(config.lost_retry_max_s),
        fault_holds: seconds(config.fault_holds_s),
        gpus_max: config.gpus_max,
        processes_max: config.processes_max,
        listens,
    }
}

/// Returns the GPUs for a daemon, which counts how long each turn takes.
pub(crate) fn watched(config: &gpu::Config, clock: Arc<dyn Clock>) -> Arc<Gpus> {
    let timed = |took: Duration| metrics::histogram!(meters::SAMPLE_DURATION).record(took.as_secs_f64());
    Arc::new(Gpus::new(watching(config, true), clock, timed))
}

/// Returns the GPUs for whoever looks now and then, and shows no metrics.
pub(crate) fn looked_at(config: &gpu::Config, clock: Arc<dyn Clock>) -> Arc<Gpus> {
    Arc::new(Gpus::new(watching(config, false), clock, |_| ()))
}

/// Returns what is known of the GPUs in Prometheus' text format, made anew at each scrape: what is gone is absent, and what could
/// not be sampled for a while does not stand still.
pub(crate) fn metrics_text(gpus: &Gpus) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        meters::describe();
        Scrape { gpus, now: Instant::now(), now_ms: gpus.now_ms() }.write();
    });
    handle.render()
}

/// One scrape.
struct Scrape<'a> {
    gpus: &'a Gpus,
    now: Instant,
    now_ms: u64,
}

impl Scrape<'_> {
    fn write(&self) {
        let known = self.gpus.known();
        let driver = &known.snapshot.driver;
        for state in DriverState::ALL {
            metrics::gauge!(meters::DRIVER_STATE, "state" => state.label()).set(yes(driver.state == state));
        }
        metrics::counter!(meters::DRIVER_LOADS_TOTAL).absolute(driver.loads);
        metrics::gauge!(meters::LEFT_OUT).set(f64::from(driver.left_out));
        for ((_, call), count) in known.late.iter().filter(|((uuid, _), _)| uuid.is_empty()) {
            let labels = [Label::new("gpu", ""), Label::new("call", *call), Label::new("error", DEADLINE)];
            metrics::counter!(meters::SAMPLE_ERRORS_TOTAL, labels.to_vec()).absolute(*count);
        }
        for gpu in &known.snapshot.gpus {
            self.write_gpu(gpu, driver.version.as_deref(), driver.cuda_version.as_deref());
        }
    }

    fn write_gpu(&self, gpu: &GpuView, driver: Option<&str>, cuda: Option<&str>) {
        let (uuid, identity) = (&gpu.identity.uuid, &gpu.identity);
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        metrics::gauge!(
            meters::INFO,
            "gpu" => uuid.clone(),
            "index" => identity.index.to_string(),
            "name" => text(identity.name.as_deref()),
            "pci_bus_id" => text(identity.pci_bus_id.as_deref()),
            "driver_version" => text(driver),
            "cuda_version" => text(cuda),
            "vbios" => text(identity.vbios.as_deref()),
            "arch" => text(identity.architecture.as_deref()),
        )
        .set(1.0);
        let is_up = gpu.trouble.is_none() && self.is_fresh(gpu, Cadence::Sample);
        metrics::gauge!(meters::UP, "gpu" => uuid.clone()).set(yes(is_up));
        for trouble in Trouble::ALL {
            let holds = yes(gpu.trouble == Some(trouble));
            metrics::gauge!(meters::TROUBLE, "gpu" => uuid.clone(), "reason" => trouble.label()).set(holds);
        }
        for (cadence, asked) in &gpu.asked {
            let age = self.now.saturating_duration_since(*asked).as_secs_f64();
            metrics::gauge!(meters::SAMPLE_AGE, "gpu" => uuid.clone(), "cadence" => cadence.label()).set(age);
        }
        for ((call, error), count) in &gpu.errors {
            let labels = [Label::new("gpu", uuid.clone()), Label::new("call", *call), Label::new("error", *error)];
            metrics::counter!(meters::SAMPLE_ERRORS_TOTAL, labels.to_vec()).absolute(*count);
        }
        for (key, value) in &gpu.values {
            self.write_value(gpu, *key, *value);
        }
        self.write_xids(gpu);
        if self.is_fresh(gpu, Cadence::Detail) {
            self.write_processes(gpu);
        }
    }

    /// Returns whether what was asked in this cadence is new enough to be shown.
    fn is_fresh(&self, gpu: &GpuView, cadence: Cadence) -> bool {
        let watching = self.gpus.watching();
        let every = match cadence {
            Cadence::Sample => watching.sample_every,
            Cadence::Detail => watching.detail_every,
            Cadence::Health => watching.health_every,
        };
        let most = every.saturating_mul(STALE_CADENCES).saturating_add(watching.deadline);
        gpu.asked.get(&cadence).is_some_and(|asked| self.now.saturating_duration_since(*asked) <= most)
    }

    fn write_value(&self, gpu: &GpuView, (what, first, second): Key, value: f64) {
        let Family { name, labels, cadence } = family(what);
        let mut all = vec![Label::new("gpu", gpu.identity.uuid.clone())];
        let parts = labels.into_iter().zip([first, second]).filter(|(label, _)| !label.is_empty());
        all.extend(parts.map(|(label, part)| Label::new(label, part)));
        if what.counts_up() {
            metrics::counter!(name, all).absolute(value.max(0.0) as u64);
        } else if self.is_fresh(gpu, if second == "current" || first == "current" { Cadence::Detail } else { cadence })
        {
            metrics::gauge!(name, all).set(value);
        }
    }

    fn write_xids(&self, gpu: &GpuView) {
        let uuid = &gpu.identity.uuid;
        let counter = |xid: String| metrics::counter!(meters::XID_EVENTS_TOTAL, "gpu" => uuid.clone(), "xid" => xid);
        for xid in XIDS_KNOWN {
            counter(xid.to_string()).absolute(0);
        }
        for (xid, seen) in &gpu.xids {
            let label = if *xid == XID_OTHER { "other".to_owned() } else { xid.to_string() };
            counter(label).absolute(seen.count);
        }
        if let Some(last_ms) = gpu.xids.values().map(|seen| seen.last_ms).max() {
            metrics::gauge!(meters::XID_LAST, "gpu" => uuid.clone()).set(last_ms as f64 / 1000.0);
        }
        let holds_ms = self.gpus.watching().fault_holds.as_millis();
        let hardware = gpu.xids.iter().filter(|(xid, _)| is_hardware(**xid));
        let is_faulty = hardware.map(|(_, seen)| self.now_ms.saturating_sub(seen.last_ms)).min();
        let is_faulty = is_faulty.is_some_and(|age_ms| u128::from(age_ms) < holds_ms);
        metrics::gauge!(meters::HARDWARE_FAULT, "gpu" => uuid.clone()).set(yes(is_faulty));
    }

    fn write_processes(&self, gpu: &GpuView) {
        let uuid = &gpu.identity.uuid;
        metrics::gauge!(meters::PROCESSES, "gpu" => uuid.clone()).set(gpu.processes.len() as f64);
        for process in gpu.processes.iter().take(self.gpus.watching().processes_max as usize) {
            let Some(bytes) = process.memory_bytes else { continue };
            metrics::gauge!(
                meters::PROCESS_MEMORY,
                "gpu" => uuid.clone(),
                "pid" => process.pid.to_string(),
                "process" => process.name.clone().unwrap_or_default(),
                "kind" => process.kind,
            )
            .set(bytes as f64);
        }
    }
}

fn yes(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// Where a sample goes.
struct Family {
    name: &'static str,
    /// The labels of its parts; empty where it has none.
    labels: [&'static str; 2],
    cadence: Cadence,
}

fn family(what: What) -> Family {
    use Cadence::{Detail, Health, Sample};
    let (name, labels, cadence) = match what {
        What::UtilizationRatio => (meters::UTILIZATION, ["engine", ""], Sample),
        What::MemoryBytes => (meters::MEMORY, ["state", ""], Sample),
        What::TemperatureCelsius => (meters::TEMPERATURE, ["sensor", ""], Sample),
        What::TemperatureThresholdCelsius => (meters::TEMPERATURE_THRESHOLD, ["threshold", ""], Health),
        What::PowerWatts => (meters::POWER, ["", ""], Sample),
        What::PowerLimitWatts => (meters::POWER_LIMIT, ["limit", ""], Health),
        What::EnergyJoules => (meters::ENERGY_TOTAL, ["", ""], Sample),
        What::ClockHertz => (meters::CLOCK, ["clock", "kind"], Health),
        What::ThrottleActive => (meters::THROTTLE_ACTIVE, ["reason", ""], Sample),
        What::ThrottleSeconds => (meters::THROTTLE_SECONDS_TOTAL, ["policy", ""], Detail),
        What::PerformanceState => (meters::PERFORMANCE_STATE, ["", ""], Sample),
        What::PcieBytesPerSecond => (meters::PCIE_RATE, ["direction", ""], Detail),
        What::PcieReplays => (meters::PCIE_REPLAYS_TOTAL, ["", ""], Detail),
        What::PcieLinkGeneration => (meters::PCIE_GENERATION, ["kind", ""], Health),
        What::PcieLinkWidth => (meters::PCIE_WIDTH, ["kind", ""], Health),
        What::EccEnabled => (meters::ECC_ENABLED, ["when", ""], Health),
        What::EccErrors => (meters::ECC_ERRORS_TOTAL, ["severity", "scope"], Health),
        What::RetiredPages => (meters::RETIRED_PAGES, ["cause", ""], Health),
        What::RetirementPending => (meters::RETIREMENT_PENDING, ["", ""], Health),
        What::RemappedRows => (meters::REMAPPED_ROWS, ["cause", ""], Health),
        What::RowRemapPending => (meters::ROW_REMAP_PENDING, ["", ""], Health),
        What::RowRemapFailure => (meters::ROW_REMAP_FAILURE, ["", ""], Health),
        What::NvlinkUp => (meters::NVLINK_UP, ["link", ""], Health),
        What::NvlinkErrors => (meters::NVLINK_ERRORS_TOTAL, ["link", "kind"], Health),
        What::FanRatio => (meters::FAN, ["fan", ""], Detail),
        What::MigEnabled => (meters::MIG_ENABLED, ["", ""], Health),
        What::MigInstances => (meters::MIG_INSTANCES, ["", ""], Health),
        What::ComputeMode => (meters::COMPUTE_MODE, ["", ""], Health),
        What::PersistenceEnabled => (meters::PERSISTENCE, ["", ""], Health),
    };
    Family { name, labels, cadence }
}
