//! What is known of the GPUs: numbers in base units, each under a name from a closed set, and why others are missing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;

/// How often something is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cadence {
    /// What changes from second to second.
    Sample,
    /// What is looked at now and then.
    Detail,
    /// What concerns the health of the card.
    Health,
}

impl Cadence {
    pub(crate) const ALL: [Self; 3] = [Self::Sample, Self::Detail, Self::Health];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Detail => "detail",
            Self::Health => "health",
        }
    }
}

/// What a number is of. The parts in parentheses tell samples of one kind apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// Share of time an engine was busy (engine).
    UtilizationRatio,
    /// Bytes of memory (state).
    MemoryBytes,
    /// Degrees (sensor).
    TemperatureCelsius,
    /// Degrees (threshold).
    TemperatureThresholdCelsius,
    PowerWatts,
    /// Watts (limit).
    PowerLimitWatts,
    /// Joules since the driver was loaded; counts up.
    EnergyJoules,
    /// Hertz (clock, kind).
    ClockHertz,
    /// 0 or 1 (reason).
    ThrottleActive,
    /// Seconds; counts up (policy).
    ThrottleSeconds,
    PerformanceState,
    /// Bytes a second (direction).
    PcieBytesPerSecond,
    /// Counts up.
    PcieReplays,
    /// (kind)
    PcieLinkGeneration,
    /// (kind)
    PcieLinkWidth,
    /// 0 or 1 (when).
    EccEnabled,
    /// Counts up (severity, scope).
    EccErrors,
    /// (cause)
    RetiredPages,
    RetirementPending,
    /// (cause)
    RemappedRows,
    RowRemapPending,
    RowRemapFailure,
    /// 0 or 1 (link).
    NvlinkUp,
    /// Counts up (link, kind).
    NvlinkErrors,
    /// Share of the fastest (fan).
    FanRatio,
    MigEnabled,
    MigInstances,
    ComputeMode,
    PersistenceEnabled,
}

impl What {
    /// Returns whether it counts up, so that a smaller number means that counting began anew.
    pub(crate) fn counts_up(self) -> bool {
        matches!(
            self,
            Self::EnergyJoules | Self::ThrottleSeconds | Self::PcieReplays | Self::EccErrors | Self::NvlinkErrors
        )
    }
}

/// Which number: what it is of, and up to two parts that tell samples of one kind apart; empty where there are none.
pub(crate) type Key = (What, &'static str, &'static str);

/// One number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) key: Key,
    pub(crate) value: f64,
}

impl Sample {
    pub(super) fn new(what: What, first: &'static str, second: &'static str, value: f64) -> Self {
        Self { key: (what, first, second), value }
    }
}

/// Who a GPU is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Identity {
    pub(crate) uuid: String,
    pub(crate) index: u32,
    pub(crate) name: Option<String>,
    pub(crate) pci_bus_id: Option<String>,
    pub(crate) minor: Option<u32>,
    pub(crate) vbios: Option<String>,
    pub(crate) architecture: Option<String>,
    pub(crate) compute_capability: Option<String>,
    pub(crate) board: Option<String>,
}

/// Why a GPU does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trouble {
    /// It fell off the bus.
    Lost,
    /// It must be reset.
    ResetRequired,
    /// Its interrupts do not arrive.
    Interrupts,
    /// Its power cables are not attached.
    PowerCables,
    /// What it remembers of itself is damaged.
    InfoRom,
    /// The driver knows of it no more.
    Gone,
    /// It answers none of its calls.
    Silent,
    /// The driver cannot be asked.
    Driver,
}

impl Trouble {
    pub(crate) const ALL: [Self; 8] = [
        Self::Lost,
        Self::ResetRequired,
        Self::Interrupts,
        Self::PowerCables,
        Self::InfoRom,
        Self::Gone,
        Self::Silent,
        Self::Driver,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::ResetRequired => "reset_required",
            Self::Interrupts => "interrupts",
            Self::PowerCables => "power_cables",
            Self::InfoRom => "info_rom",
            Self::Gone => "gone",
            Self::Silent => "silent",
            Self::Driver => "driver",
        }
    }

    /// Returns what a person should know.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Lost => "it fell off the bus: look at dmesg, then reset it or restart the machine",
            Self::ResetRequired => "it must be reset before it can be used again: nvidia-smi --gpu-reset",
            Self::Interrupts => "the kernel sees no interrupts of it: look at dmesg",
            Self::PowerCables => "its power cables are not attached properly",
            Self::InfoRom => "its infoROM is damaged: look at dmesg",
            Self::Gone => "the driver knows of it no more",
            Self::Silent => "it answers none of its calls",
            Self::Driver => "the driver cannot be asked",
        }
    }
}

/// Whether the driver can be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DriverState {
    /// Nobody has asked yet.
    #[default]
    Unasked,
    /// It answers.
    Ready,
    /// Its library is not on this machine.
    NoLibrary,
    /// The library is there, the kernel module is not.
    NotLoaded,
    /// Library and kernel module are of different versions.
    VersionMismatch,
    /// This process may not ask it.
    NoPermission,
    /// It answers, and knows of no GPU.
    NoGpu,
    /// A call does not return.
    Hung,
    /// It fails in another way.
    Failing,
}

impl DriverState {
    pub(crate) const ALL: [Self; 9] = [
        Self::Unasked,
        Self::Ready,
        Self::NoLibrary,
        Self::NotLoaded,
        Self::VersionMismatch,
        Self::NoPermission,
        Self::NoGpu,
        Self::Hung,
        Self::Failing,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Ready => "ready",
            Self::NoLibrary => "no_library",
            Self::NotLoaded => "not_loaded",
            Self::VersionMismatch => "version_mismatch",
            Self::NoPermission => "no_permission",
            Self::NoGpu => "no_gpu",
            Self::Hung => "hung",
            Self::Failing => "failing",
        }
    }

    /// Returns what a person should know.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Unasked => "nobody has asked the driver yet",
            Self::Ready => "the driver answers",
            Self::NoLibrary => "no NVIDIA driver on this machine (libnvidia-ml.so.1 is not there)",
            Self::NotLoaded => "the driver's kernel module is not loaded: modprobe nvidia, or look at dmesg",
            Self::VersionMismatch => "library and kernel module are of different versions: restart the machine",
            Self::NoPermission => "this user may not ask the driver: look at the rights of /dev/nvidiactl",
            Self::NoGpu => "the NVIDIA driver knows of no GPU",
            Self::Hung => "a call of the driver does not return: look at dmesg",
            Self::Failing => "the driver fails",
        }
    }

    /// Returns whether there is nothing to read here, which is no failure.
    pub(crate) fn is_absence(self) -> bool {
        matches!(self, Self::NoLibrary | Self::NotLoaded | Self::NoGpu)
    }
}

/// The driver as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct DriverView {
    pub(crate) state: DriverState,
    /// What the driver itself said, where it failed.
    pub(crate) said: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) nvml_version: Option<String>,
    pub(crate) cuda_version: Option<String>,
    /// How often the library was loaded.
    pub(crate) loads: u64,
    /// How many GPUs are not watched because there are too many.
    pub(crate) left_out: u32,
    /// Which GPUs did not say who they are, by index, and why.
    pub(crate) unnamed: BTreeMap<u32, String>,
}

/// How often the driver reported an error, and when it did last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Xid {
    pub(crate) count: u64,
    pub(crate) last_ms: u64,
}

/// A process on a GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) name: Option<String>,
    pub(crate) kind: &'static str,
    /// `None` where the driver would not say, as in containers and under MIG.
    pub(crate) memory_bytes: Option<u64>,
}

/// An instance of a divided GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Instance {
    pub(crate) uuid: String,
    pub(crate) memory_used_bytes: Option<u64>,
    pub(crate) memory_total_bytes: Option<u64>,
}

/// What is known of one GPU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GpuView {
    pub(crate) identity: Identity,
    /// Why it does not answer; `None` when it does.
    pub(crate) trouble: Option<Trouble>,
    /// What the driver itself said.
    pub(crate) said: Option<String>,
    pub(crate) values: BTreeMap<Key, f64>,
    /// When it was asked last, by cadence.
    pub(crate) asked: BTreeMap<Cadence, Instant>,
    /// Calls that are not asked any more until the library is loaded anew, with the error.
    pub(crate) refused: BTreeMap<&'static str, String>,
    /// How often a call failed, by call and error.
    pub(crate) errors: BTreeMap<(&'static str, &'static str), u64>,
    pub(crate) xids: BTreeMap<u64, Xid>,
    pub(crate) processes: Vec<Process>,
    pub(crate) instances: Vec<Instance>,
}

impl GpuView {
    /// Returns a GPU of which nothing is known yet.
    pub(crate) fn new(uuid: &str) -> Self {
        Self {
            identity: Identity { uuid: uuid.to_owned(), ..Identity::default() },
            trouble: None,
            said: None,
            values: BTreeMap::new(),
            asked: BTreeMap::new(),
            refused: BTreeMap::new(),
            errors: BTreeMap::new(),
            xids: BTreeMap::new(),
            processes: Vec::new(),
            instances: Vec::new(),
        }
    }

    pub(crate) fn value(&self, what: What, first: &'static str, second: &'static str) -> Option<f64> {
        self.values.get(&(what, first, second)).copied()
    }

    /// Returns the parts and values of everything of this kind.
    pub(crate) fn all(&self, what: What) -> impl Iterator<Item = (&'static str, &'static str, f64)> + '_ {
        let of_kind = self.values.iter().filter(move |((kind, _, _), _)| *kind == what);
        of_kind.map(|((_, first, second), value)| (*first, *second, *value))
    }

    /// Returns when the driver reported trouble of the hardware last, in milliseconds since the Unix epoch.
    pub(crate) fn hardware_error_ms(&self) -> Option<u64> {
        let hardware = self.xids.iter().filter(|(xid, _)| super::xid::is_hardware(**xid));
        hardware.map(|(_, seen)| seen.last_ms).max()
    }
}

/// What is known at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) driver: DriverView,
    /// In the order of their UUIDs.
    pub(crate) gpus: Vec<GpuView>,
    /// How long the turn took, between question and answer.
    pub(crate) took: Duration,
}
