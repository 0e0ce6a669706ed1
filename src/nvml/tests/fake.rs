//! A fake driver: a copy of the fake library in a folder of its own, with its script beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::super::{Gpus, Snapshot, Watching};
use crate::clock::SystemClock;

/// How long something may take to come about, on a machine with other work.
const COMES_WITHIN: Duration = Duration::from_secs(300);

/// The fake driver. Each is one library of its own, whatever others do at the same time.
pub(super) struct Fake {
    folder: tempfile::TempDir,
    pub(super) script: Value,
}

impl Fake {
    /// Returns a driver that knows these GPUs.
    pub(super) fn of(gpus: &[Value]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let built = std::env::current_exe().unwrap().with_file_name("libfake_nvml.so");
        fs::copy(built, folder.path().join("libnvidia-ml.so.1")).unwrap();
        fs::create_dir(folder.path().join("gpus")).unwrap();
        let script = json!({
            "log": true,
            "system": {
                "nvmlSystemGetDriverVersion": {"value": "580.159.04"},
                "nvmlSystemGetCudaDriverVersion_v2": {"value": 13000},
            },
            "gpus": gpus,
            "events": [],
        });
        let fake = Self { folder, script };
        fake.say();
        fake
    }

    /// Lets the driver behave as the script says from now on. The driver may read it at any time, so it is replaced whole.
    pub(super) fn say(&self) {
        let (new, file) = (self.folder.path().join("script.new"), self.folder.path().join("script.json"));
        fs::write(&new, self.script.to_string()).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// Changes the script of the GPU at `index`.
    pub(super) fn set(&mut self, index: usize, call: &str, answer: Value) {
        self.script["gpus"][index][call] = answer;
        self.say();
    }

    /// Changes what the driver says to a call that is about no single GPU.
    pub(super) fn set_system(&mut self, call: &str, answer: Value) {
        self.script["system"][call] = answer;
        self.say();
    }

    /// Returns how often a call was made.
    pub(super) fn calls(&self, uuid: &str, call: &str) -> usize {
        let log = fs::read_to_string(self.folder.path().join("calls.log")).unwrap_or_default();
        log.lines().filter(|line| *line == format!("{uuid} {call}")).count()
    }

    pub(super) fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    pub(super) fn kernel_list(&self) -> PathBuf {
        self.folder.path().join("gpus")
    }

    /// Returns the GPUs watched without any pause: each look asks for everything.
    pub(super) fn watched(&self) -> Gpus {
        self.watched_as(|_| ())
    }

    pub(super) fn watched_as(&self, change: impl FnOnce(&mut Watching)) -> Gpus {
        let mut watching = watching(&self.library());
        watching.kernel_list = self.kernel_list();
        change(&mut watching);
        Gpus::new(watching, Arc::new(SystemClock), |_| ())
    }
}

/// Returns how GPUs are watched without any pause.
pub(super) fn watching(library: &Path) -> Watching {
    Watching {
        library: Some(library.to_owned()),
        kernel_list: PathBuf::from("/nowhere"),
        sample_every: Duration::ZERO,
        detail_every: Duration::ZERO,
        health_every: Duration::ZERO,
        deadline: COMES_WITHIN,
        absent_retry: Duration::ZERO,
        lost_retry: Duration::ZERO,
        lost_retry_max: Duration::ZERO,
        fault_holds: Duration::from_secs(600),
        gpus_max: 64,
        processes_max: 0,
        listens: false,
    }
}

/// Returns a small GPU that answers what matters most.
pub(super) fn gpu(uuid: &str) -> Value {
    json!({
        "nvmlDeviceGetUUID": {"value": uuid},
        "nvmlDeviceGetName": {"value": "Fake GPU"},
        "nvmlDeviceGetUtilizationRates": {"value": {"gpu": 50, "memory": 20}},
        "nvmlDeviceGetMemoryInfo_v2": {"value": {"total": 1000, "free": 400, "used": 550, "reserved": 50}},
        "nvmlDeviceGetTemperature(0)": {"value": 40},
        "nvmlDeviceGetPowerUsage": {"value": 100_000},
        "nvmlDeviceGetTotalEnergyConsumption": {"value": 5_000},
        "nvmlDeviceGetCurrentClocksThrottleReasons": {"value": 1},
        "nvmlDeviceGetSupportedEventTypes": {"value": 8},
    })
}

/// Looks again and again until what is known is as wanted.
#[track_caller]
pub(super) fn comes(gpus: &Gpus, wanted: impl Fn(&Snapshot) -> bool) -> impl Future<Output = Snapshot> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + COMES_WITHIN;
        loop {
            gpus.look().await.ok();
            let snapshot = gpus.known().snapshot;
            if wanted(&snapshot) {
                return snapshot;
            }
            assert!(tokio::time::Instant::now() < deadline, "{caller} did not come: {snapshot:?}");
            tokio::task::yield_now().await;
        }
    }
}
