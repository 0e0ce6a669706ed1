//! One card: what it said last, what it is not asked any more, and how far its counters have come.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use nvml_wrapper::{
    Device, Nvml, enums::device::UsedGpuMemory, error::NvmlError, struct_wrappers::device::ProcessInfo,
};

use super::{
    ask::ASKS,
    refusal::{self, Refusal},
    sample::{Cadence, DriverState, GpuView, Identity, Instance, Key, Process, Sample, Trouble, What},
    shared::Shared,
};

/// How many processes of a card are remembered, those with most memory.
const PROCESSES_MAX: usize = 256;

/// How many instances of a divided card are looked at.
const INSTANCES_MAX: u32 = 16;

/// How much of a process' name is kept, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// How one turn went.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Looked {
    /// It answered something.
    Answered,
    /// It is in trouble of its own.
    InTrouble,
    /// The driver is.
    DriverFailed(DriverState, String),
}

/// One card.
pub(super) struct Card {
    pub(super) view: GpuView,
    /// What each call said last.
    said: BTreeMap<&'static str, Vec<Key>>,
    counters: BTreeMap<Key, Counter>,
}

/// A counter that never goes backwards.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// What the card said last.
    raw: f64,
    /// How far it came before it began anew.
    before: f64,
}

impl Counter {
    /// Returns how far the counter has come in all, when the card says `raw` now. A smaller number than before means that it
    /// began anew, at zero.
    fn advance(&mut self, raw: f64) -> f64 {
        if raw < self.raw {
            self.before += self.raw;
        }
        self.raw = raw;
        self.before + raw
    }
}

impl Card {
    pub(super) fn new(uuid: &str) -> Self {
        Self { view: GpuView::new(uuid), said: BTreeMap::new(), counters: BTreeMap::new() }
    }

    /// Begins anew, after the library was loaded: what was refused may be asked again.
    pub(super) fn found(&mut self, device: &Device<'_>, index: u32) {
        (self.view.trouble, self.view.said) = (None, None);
        self.view.refused.clear();
        self.view.identity = Identity {
            uuid: self.view.identity.uuid.clone(),
            index,
            name: device.name().ok(),
            pci_bus_id: device.pci_info().ok().map(|pci| pci.bus_id),
            minor: device.minor_number().ok(),
            vbios: device.vbios_version().ok(),
            architecture: device.architecture().ok().map(|architecture| architecture.to_string()),
            compute_capability: device
                .cuda_compute_capability()
                .ok()
                .map(|cuda| format!("{}.{}", cuda.major, cuda.minor)),
            board: device.board_part_number().ok().filter(|board| !board.is_empty()),
        };
    }

    /// Notes that it does not answer. What it measured is not true any more; what it counted stays.
    pub(super) fn fell(&mut self, trouble: Trouble, said: Option<String>) {
        if self.view.trouble != Some(trouble) {
            tracing::warn!(gpu = self.view.identity.uuid, trouble = trouble.label(), said, "gpu does not answer");
        }
        (self.view.trouble, self.view.said) = (Some(trouble), said);
        self.view.values.retain(|(what, _, _), _| what.counts_up());
        self.view.processes.clear();
        self.view.instances.clear();
    }

    /// Asks the card for everything whose turn it is.
    pub(super) fn look(&mut self, nvml: &Nvml, shared: &Shared, due: &BTreeSet<Cadence>) -> Looked {
        let (uuid, index) = (self.view.identity.uuid.clone(), self.view.identity.index);
        let device = match shared.calling(&uuid, "handle", || nvml.device_by_index(index)) {
            Ok(device) => device,
            Err(error) => return self.refuse("handle", &error).unwrap_or_else(|| self.is_silent(&error)),
        };
        let (mut answered, mut last) = (false, None);
        for ask in ASKS.iter().filter(|ask| due.contains(&ask.cadence)) {
            if self.view.refused.contains_key(ask.name) {
                continue;
            }
            match shared.calling(&uuid, ask.name, || (ask.call)(&device)) {
                Ok(samples) => {
                    answered = true;
                    self.take(ask.name, samples);
                }
                Err(error) => {
                    self.take(ask.name, Vec::new());
                    if let Some(fallen) = self.refuse(ask.name, &error) {
                        return fallen;
                    }
                    last = Some(error);
                }
            }
        }
        if let (false, Some(error)) = (answered, last) {
            // A card that refuses everything for good is asked nothing any more, and is no trouble.
            if Refusal::of(&error) == Refusal::Again {
                return self.is_silent(&error);
            }
        }
        if due.contains(&Cadence::Detail) {
            self.look_at_processes(nvml, shared, &device);
        }
        if due.contains(&Cadence::Health) {
            self.look_at_instances(shared, &device);
        }
        let now = Instant::now();
        self.view.asked.extend(due.iter().map(|cadence| (*cadence, now)));
        (self.view.trouble, self.view.said) = (None, None);
        Looked::Answered
    }

    fn is_silent(&mut self, error: &NvmlError) -> Looked {
        self.fell(Trouble::Silent, Some(refusal::words(error)));
        Looked::InTrouble
    }

    /// Puts what a call said in the place of what it said before.
    fn take(&mut self, call: &'static str, samples: Vec<Sample>) {
        for key in self.said.remove(call).unwrap_or_default() {
            if !key.0.counts_up() {
                self.view.values.remove(&key);
            }
        }
        for Sample { key, value } in samples.into_iter().filter(|sample| sample.value.is_finite()) {
            let value = if key.0.counts_up() { self.counters.entry(key).or_default().advance(value) } else { value };
            self.view.values.insert(key, value);
            self.said.entry(call).or_default().push(key);
        }
    }

    /// Notes that a call was refused; returns what it means beyond the call, if anything.
    fn refuse(&mut self, call: &'static str, error: &NvmlError) -> Option<Looked> {
        *self.view.errors.entry((call, refusal::label(error))).or_default() += 1;
        match Refusal::of(error) {
            Refusal::Again => None,
            Refusal::Never => {
                let (gpu, why) = (&self.view.identity.uuid, refusal::words(error));
                tracing::debug!(%gpu, call, why, "not asked any more until the driver is loaded anew");
                self.view.refused.insert(call, why);
                None
            }
            Refusal::Gpu(trouble) => {
                self.fell(trouble, Some(refusal::words(error)));
                Some(Looked::InTrouble)
            }
            Refusal::Driver(state) => Some(Looked::DriverFailed(state, refusal::words(error))),
        }
    }

    fn look_at_processes(&mut self, nvml: &Nvml, shared: &Shared, device: &Device<'_>) {
        type List = fn(&Device<'_>) -> Result<Vec<ProcessInfo>, NvmlError>;
        let lists: [(&'static str, &'static str, List); 3] = [
            ("processes_compute", "compute", |device| device.running_compute_processes()),
            ("processes_graphics", "graphics", |device| device.running_graphics_processes()),
            ("processes_mps", "mps", |device| device.mps_running_compute_processes()),
        ];
        let uuid = self.view.identity.uuid.clone();
        let mut processes: BTreeMap<u32, Process> = BTreeMap::new();
        for (call, kind, list) in lists {
            if self.view.refused.contains_key(call) {
                continue;
            }
            let mut listed = shared.calling(&uuid, call, || list(device));
            if matches!(listed, Err(NvmlError::InsufficientSize(_))) {
                // Somebody came between counting and listing.
                listed = shared.calling(&uuid, call, || list(device));
            }
            match listed {
                Ok(listed) => {
                    for info in listed {
                        let memory_bytes = match info.used_gpu_memory {
                            UsedGpuMemory::Used(bytes) => Some(bytes),
                            UsedGpuMemory::Unavailable => None,
                        };
                        let process = Process { pid: info.pid, name: None, kind, memory_bytes };
                        processes.entry(info.pid).or_insert(process);
                    }
                }
                // Trouble of the card is found by the next turn.
                Err(error) => drop(self.refuse(call, &error)),
            }
        }
        let mut processes: Vec<Process> = processes.into_values().collect();
        processes.sort_by_key(|process| std::cmp::Reverse(process.memory_bytes));
        processes.truncate(PROCESSES_MAX);
        for process in &mut processes {
            process.name = shared
                .calling(&uuid, "process_name", || nvml.sys_process_name(process.pid, NAME_BYTES_MAX))
                .ok()
                .and_then(|name| program(&name));
        }
        self.view.processes = processes;
    }

    fn look_at_instances(&mut self, shared: &Shared, device: &Device<'_>) {
        const CALL: &str = "mig_instances";
        self.view.instances.clear();
        let is_divided = self.view.value(What::MigEnabled, "", "").is_some_and(|mode| mode > 0.0);
        if !is_divided || self.view.refused.contains_key(CALL) {
            return;
        }
        let uuid = self.view.identity.uuid.clone();
        let instances = shared.calling(&uuid, CALL, || {
            let places = 0..device.mig_device_count()?.min(INSTANCES_MAX);
            let instance = |place| {
                let instance = device.mig_device_by_index(place).ok()?;
                let memory = instance.memory_info().ok();
                Some(Instance {
                    uuid: instance.uuid().ok()?,
                    memory_used_bytes: memory.as_ref().map(|memory| memory.used),
                    memory_total_bytes: memory.as_ref().map(|memory| memory.total),
                })
            };
            // Places may be empty.
            Ok(places.filter_map(instance).collect::<Vec<Instance>>())
        });
        match instances {
            Ok(instances) => {
                self.take(CALL, vec![Sample::new(What::MigInstances, "", "", instances.len() as f64)]);
                self.view.instances = instances;
            }
            Err(error) => drop(self.refuse(CALL, &error)),
        }
    }
}

/// Returns the program's own name out of a command with its path; `None` when nothing is left.
fn program(command: &str) -> Option<String> {
    let path = command.split_whitespace().next()?;
    let name = path.rsplit('/').next().unwrap_or(path);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_that_goes_backwards_began_anew_and_goes_on_upwards() {
        let mut counter = Counter::default();
        let all: Vec<f64> = [10.0, 15.0, 15.0, 4.0, 6.0, 0.0, 1.0].iter().map(|raw| counter.advance(*raw)).collect();
        assert_eq!(all, [10.0, 15.0, 15.0, 19.0, 21.0, 21.0, 22.0]);
    }

    proptest! {
        #[test]
        fn a_counter_never_goes_backwards(raws in prop::collection::vec(0.0_f64..1e15, 1..50)) {
            let mut counter = Counter::default();
            let all: Vec<f64> = raws.iter().map(|raw| counter.advance(*raw)).collect();
            prop_assert!(all.windows(2).all(|pair| pair[0] <= pair[1]), "{all:?}");
        }
    }

    #[test]
    fn a_card_that_fell_keeps_what_it_counted_and_forgets_what_it_measured() {
        let mut card = Card::new("GPU-1");
        card.take("energy", vec![Sample::new(What::EnergyJoules, "", "", 5.0)]);
        card.take("power", vec![Sample::new(What::PowerWatts, "", "", 300.0)]);
        card.fell(Trouble::Lost, None);
        assert_eq!(card.view.value(What::EnergyJoules, "", ""), Some(5.0));
        assert_eq!(card.view.value(What::PowerWatts, "", ""), None);
    }

    #[test]
    fn a_call_that_says_less_than_before_leaves_nothing_stale() {
        let mut card = Card::new("GPU-1");
        let fan = |label| Sample::new(What::FanRatio, label, "", 0.5);
        card.take("fans", vec![fan("0"), fan("1")]);
        card.take("fans", vec![fan("0"), Sample::new(What::PowerWatts, "", "", f64::NAN)]);
        assert_eq!(card.view.values.len(), 1);
    }

    #[test]
    fn a_process_is_named_by_its_program() {
        for (command, expected) in
            [("/usr/bin/python3.12 -m vllm", Some("python3.12")), ("python", Some("python")), ("", None), ("/", None)]
        {
            assert_eq!(program(command).as_deref(), expected, "{command:?}");
        }
    }
}
