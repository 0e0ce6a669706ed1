//! The GPUs of this machine, through NVIDIA's management library.
//!
//! NVML knows no time limits, and a driver in trouble may never return. So it is called on a thread of its own, which
//! is asked, waited for up to a deadline, and never asked twice at once nor joined.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

mod users;

use async_trait::async_trait;
use kloros_actors::{
    facts::Reading,
    seams::{Clock, Probe, ProbeError},
};
use nvml_wrapper::{
    Device, Nvml, bitmasks::device::ThrottleReasons, enum_wrappers::device::TemperatureSensor, error::NvmlError,
};
use tokio::{sync::oneshot, time::timeout};

pub(crate) use users::GpuTable;

/// How long one reading of all GPUs may take; the first one after a while may wake them up.
const READ_MAX: Duration = Duration::from_secs(10);

/// How often the library is loaded anew while a GPU is lost: its list of GPUs is fixed when it is loaded.
const RELOAD_INTERVAL: Duration = Duration::from_secs(30);

/// How much of a UUID names a GPU, in characters behind `GPU-`.
const UUID_SHORT_CHARS: usize = 8;

/// The probe of the GPUs.
pub(crate) struct GpuProbe {
    gpus: Apart<Result<Vec<Gpu>, ProbeError>>,
    clock: Arc<dyn Clock>,
}

impl GpuProbe {
    /// Returns the probe; `library` is the file of NVML, searched for by its usual name when `None`.
    pub(crate) fn new(clock: Arc<dyn Clock>, library: Option<PathBuf>) -> Self {
        let mut driver = Driver { library, loaded: None, uuids: BTreeMap::new() };
        Self { gpus: Apart::new("nvml", READ_MAX, move || driver.read()), clock }
    }
}

#[async_trait]
impl Probe for GpuProbe {
    fn name(&self) -> String {
        "gpu".to_owned()
    }

    async fn read(&self) -> Result<Vec<Reading>, ProbeError> {
        let gpus = self.gpus.ask().await.map_err(ProbeError::Unreachable)??;
        let at_ms = self.clock.now_ms();
        Ok(gpus.iter().flat_map(|gpu| gpu.readings(at_ms)).collect())
    }
}

/// What one GPU said; what it does not support is absent.
#[derive(Clone, Debug, Default, PartialEq)]
struct Gpu {
    uuid: String,
    seen: Vec<(&'static str, f64)>,
}

impl Gpu {
    fn readings(&self, at_ms: u64) -> impl Iterator<Item = Reading> + '_ {
        let short: String = self.uuid.trim_start_matches("GPU-").chars().take(UUID_SHORT_CHARS).collect();
        self.seen.iter().filter(|(_, value)| value.is_finite()).map(move |(metric, value)| Reading {
            subject: format!("gpu:{short}"),
            metric: (*metric).to_owned(),
            value: *value,
            samples: 1,
            at_ms,
            source: format!("nvml:{}", self.uuid),
        })
    }
}

/// The library while it is loaded; lives on its own thread.
struct Driver {
    library: Option<PathBuf>,
    loaded: Option<(Nvml, Instant)>,
    /// Which GPU answered at which index, to name the one that does not answer any more.
    uuids: BTreeMap<u32, String>,
}

impl Driver {
    fn read(&mut self) -> Result<Vec<Gpu>, ProbeError> {
        let (nvml, since) = match self.loaded.take() {
            Some(loaded) => loaded,
            None => (self.load().map_err(|error| refusal(&error))?, Instant::now()),
        };
        let count = nvml.device_count().map_err(|error| refusal(&error))?;
        let gpus: Vec<Gpu> = (0..count).filter_map(|index| self.gpu(&nvml, index)).collect();
        let all_answer = gpus.len() == count as usize && !gpus.iter().any(|gpu| gpu.seen.contains(&("lost", 1.0)));
        if all_answer || since.elapsed() < RELOAD_INTERVAL {
            self.loaded = Some((nvml, since));
        }
        match (gpus.is_empty(), count) {
            (true, 0) => Err(ProbeError::Absent("the NVIDIA driver knows of no GPU".to_owned())),
            (true, count) => Err(ProbeError::Unreachable(format!("none of {count} GPUs answers"))),
            (false, _) => Ok(gpus),
        }
    }

    fn load(&self) -> Result<Nvml, NvmlError> {
        match &self.library {
            Some(library) => Nvml::builder().lib_path(library.as_os_str()).init(),
            None => Nvml::init(),
        }
    }

    /// Returns what the GPU at `index` says; `None` for one that never said who it is.
    fn gpu(&mut self, nvml: &Nvml, index: u32) -> Option<Gpu> {
        let device = nvml.device_by_index(index).and_then(|device| Ok((device.uuid()?, device)));
        match device {
            Ok((uuid, device)) => {
                self.uuids.insert(index, uuid.clone());
                let mut seen = vec![("lost", 0.0)];
                seen.extend(Answers::of(&device).measured());
                Some(Gpu { uuid, seen })
            }
            Err(error) => {
                let uuid = self.uuids.get(&index).cloned()?;
                tracing::warn!(uuid, %error, "a gpu does not answer");
                Some(Gpu { uuid, seen: vec![("lost", 1.0)] })
            }
        }
    }
}

/// What one GPU answered, as NVML says it; what it does not support or would not say is absent.
#[derive(Clone, Debug, Default)]
struct Answers {
    utilization_percent: Option<u32>,
    memory_free_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    temperature_celsius: Option<u32>,
    power_milliwatts: Option<u32>,
    throttle_reasons: Option<ThrottleReasons>,
}

impl Answers {
    fn of(device: &Device<'_>) -> Self {
        let memory = device.memory_info().ok();
        Self {
            utilization_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
            memory_free_bytes: memory.as_ref().map(|memory| memory.free),
            memory_total_bytes: memory.as_ref().map(|memory| memory.total),
            temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
            power_milliwatts: device.power_usage().ok(),
            throttle_reasons: device.current_throttle_reasons().ok(),
        }
    }

    /// Returns the readings that the answers amount to, in base units.
    fn measured(&self) -> Vec<(&'static str, f64)> {
        let slowed = ThrottleReasons::HW_SLOWDOWN
            | ThrottleReasons::SW_THERMAL_SLOWDOWN
            | ThrottleReasons::HW_THERMAL_SLOWDOWN
            | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
        // What is neither free nor usable counts as used, so that 1 means full.
        let memory = self.memory_free_bytes.zip(self.memory_total_bytes);
        [
            ("utilization_ratio", self.utilization_percent.map(|percent| f64::from(percent.min(100)) / 100.0)),
            ("memory_used_ratio", memory.map(|(free, total)| 1.0 - free as f64 / total as f64)),
            ("temperature_celsius", self.temperature_celsius.map(f64::from)),
            ("power_watts", self.power_milliwatts.map(|milliwatts| f64::from(milliwatts) / 1000.0)),
            ("throttled", self.throttle_reasons.map(|reasons| f64::from(u8::from(reasons.intersects(slowed))))),
        ]
        .into_iter()
        .filter_map(|(metric, value)| Some((metric, value?)))
        .collect()
    }
}

fn refusal(error: &NvmlError) -> ProbeError {
    match error {
        // A machine without the driver lacks the library; one with the library alone lacks the kernel module.
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound | NvmlError::DriverNotLoaded => {
            ProbeError::Absent("no NVIDIA driver on this machine".to_owned())
        }
        error => ProbeError::Unreachable(format!("NVML: {error}")),
    }
}

/// Work that may hang, on a thread of its own.
struct Apart<T> {
    asks: Option<mpsc::SyncSender<oneshot::Sender<T>>>,
    deadline: Duration,
    /// The answer that an earlier question ran out of time for.
    late: Mutex<Option<oneshot::Receiver<T>>>,
}

impl<T: Send + 'static> Apart<T> {
    fn new(name: &str, deadline: Duration, mut work: impl FnMut() -> T + Send + 'static) -> Self {
        let (asks, questions) = mpsc::sync_channel::<oneshot::Sender<T>>(1);
        let answer = move || {
            for question in questions {
                // Whoever asked may have gone away.
                drop(question.send(work()));
            }
        };
        let started = thread::Builder::new().name(name.to_owned()).spawn(answer);
        Self { asks: started.is_ok().then_some(asks), deadline, late: Mutex::new(None) }
    }

    /// Returns what the work returned, or why it did not in time.
    async fn ask(&self) -> Result<T, String> {
        let answer = {
            let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            if late.as_mut().is_some_and(|late| matches!(late.try_recv(), Err(oneshot::error::TryRecvError::Empty))) {
                return Err("an earlier call has not returned yet".to_owned());
            }
            *late = None;
            let (question, answer) = oneshot::channel();
            let asked = self.asks.as_ref().is_some_and(|asks| asks.try_send(question).is_ok());
            if !asked {
                return Err("its thread is gone or busy".to_owned());
            }
            answer
        };
        let mut answer = answer;
        match timeout(self.deadline, &mut answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err("its thread is gone".to_owned()),
            Err(_) => {
                *self.late.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                Err(format!("no answer within {} s", self.deadline.as_secs_f64()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn probe(library: Option<&str>) -> GpuProbe {
        GpuProbe::new(Arc::new(SystemClock), library.map(PathBuf::from))
    }

    #[tokio::test]
    async fn a_machine_without_the_library_has_no_driver() {
        let absent = ProbeError::Absent("no NVIDIA driver on this machine".to_owned());
        let probe = probe(Some("/no/such/libnvidia-ml.so.1"));
        for _ in 0..2 {
            assert_eq!(probe.read().await, Err(absent.clone()));
        }
    }

    #[tokio::test]
    async fn a_library_that_is_not_nvml_is_no_gpu_and_no_panic() {
        assert!(matches!(probe(Some("libc.so.6")).read().await, Err(ProbeError::Unreachable(_))));
    }

    #[tokio::test]
    async fn this_machine_has_either_no_driver_or_gpus_that_say_something_possible() {
        match probe(None).read().await {
            Err(ProbeError::Absent(_)) => {}
            Err(ProbeError::Unreachable(why)) => panic!("{why}"),
            Ok(readings) => {
                assert!(!readings.is_empty());
                for reading in readings {
                    assert!(reading.subject.starts_with("gpu:") && reading.source.starts_with("nvml:GPU-"));
                    let most = if reading.metric.ends_with("_ratio") { 1.0 } else { 10_000.0 };
                    assert!((0.0..=most).contains(&reading.value), "{reading:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_given_up_and_not_asked_twice() {
        let (release, hang) = mpsc::sync_channel::<()>(0);
        let apart = Apart::new("hanging", Duration::from_millis(50), move || hang.recv().is_ok());
        assert!(apart.ask().await.unwrap_err().contains("no answer within"));
        assert_eq!(apart.ask().await.unwrap_err(), "an earlier call has not returned yet");
        // The driver comes back, and with it the answers; the late one is not taken for a new one.
        release.send(()).unwrap();
        drop(release);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while apart.ask().await != Ok(false) {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_call_that_panics_is_an_error_ever_after() {
        let apart: Apart<()> = Apart::new("panicking", Duration::from_secs(20), || panic!("as a driver might"));
        for _ in 0..2 {
            assert!(apart.ask().await.unwrap_err().contains("its thread is gone"));
        }
    }

    /// What a real H100 answered; see `tests/fixtures/nvml/README.md`.
    fn h100(state: &str) -> Answers {
        let file = format!("{}/tests/fixtures/nvml/h100-80gb-{state}.json", env!("CARGO_MANIFEST_DIR"));
        let said: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let value = |call: &str| said["gpus"][0][call]["value"].clone();
        let number = |value: serde_json::Value| value.as_u64().unwrap();
        let reasons = number(value("nvmlDeviceGetCurrentClocksThrottleReasons"));
        Answers {
            utilization_percent: Some(number(value("nvmlDeviceGetUtilizationRates")["gpu"].clone()) as u32),
            memory_free_bytes: Some(number(value("nvmlDeviceGetMemoryInfo_v2")["free"].clone())),
            memory_total_bytes: Some(number(value("nvmlDeviceGetMemoryInfo_v2")["total"].clone())),
            temperature_celsius: Some(number(value("nvmlDeviceGetTemperature(0)")) as u32),
            power_milliwatts: Some(number(value("nvmlDeviceGetPowerUsage")) as u32),
            throttle_reasons: ThrottleReasons::from_bits(reasons),
        }
    }

    #[track_caller]
    fn check_h100(state: &str, expected: [(&str, f64); 5]) {
        for ((metric, value), (name, wanted)) in h100(state).measured().into_iter().zip(expected) {
            assert!(metric == name && (value - wanted).abs() < 1e-4, "{metric} is {value}, not {name} {wanted}");
        }
    }

    #[test]
    fn an_idle_h100_is_cool_and_empty_but_for_what_the_driver_keeps() {
        check_h100(
            "idle",
            [
                ("utilization_ratio", 0.0),
                ("memory_used_ratio", 0.0059),
                ("temperature_celsius", 33.0),
                ("power_watts", 92.845),
                ("throttled", 0.0),
            ],
        );
    }

    #[test]
    fn an_h100_at_its_power_limit_with_full_memory_is_full_and_not_throttled() {
        check_h100(
            "busy",
            [
                ("utilization_ratio", 1.0),
                ("memory_used_ratio", 0.9745),
                ("temperature_celsius", 60.0),
                ("power_watts", 698.274),
                ("throttled", 0.0),
            ],
        );
    }

    #[test]
    fn a_gpu_is_named_by_the_beginning_of_its_uuid() {
        let gpu = Gpu { uuid: "GPU-0123abcd-ef".to_owned(), seen: vec![("throttled", 0.0), ("power_watts", f64::NAN)] };
        let readings: Vec<Reading> = gpu.readings(7).collect();
        assert_eq!(readings.len(), 1, "what is no number is absent");
        assert_eq!(readings[0].subject, "gpu:0123abcd");
        assert_eq!(readings[0].source, "nvml:GPU-0123abcd-ef");
    }
}
