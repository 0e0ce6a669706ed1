//! The library while it is loaded, and the cards it knows; lives on the library's own thread.
//!
//! Loaded, it is kept: where the driver does not keep GPUs awake by itself, the last one who lets go puts them to sleep. Its list of
//! GPUs is fixed when it is loaded, so it is loaded anew when a GPU was lost, when the kernel lists other ones, and when the
//! driver does not know the library any more; each time with growing pauses while it is in vain.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use kloros_actors::seams::Clock;
use nvml_wrapper::{Nvml, cuda_driver_version_major, cuda_driver_version_minor, error::NvmlError};

use super::{
    card::{Card, Looked},
    events::Events,
    refusal,
    sample::{Cadence, DriverState, DriverView, Snapshot, Trouble},
    shared::Shared,
};

/// How many turns in a row all cards may be silent before the library is loaded anew.
const SILENT_TURNS_MAX: u32 = 3;

/// How the GPUs are watched.
#[derive(Clone, Debug)]
pub(crate) struct Watching {
    /// The file of NVML, searched for by its usual name when `None`.
    pub(crate) library: Option<PathBuf>,
    /// The folder in which the kernel lists its GPUs.
    pub(crate) kernel_list: PathBuf,
    pub(crate) sample_every: Duration,
    pub(crate) detail_every: Duration,
    pub(crate) health_every: Duration,
    pub(crate) deadline: Duration,
    pub(crate) absent_retry: Duration,
    pub(crate) lost_retry: Duration,
    pub(crate) lost_retry_max: Duration,
    pub(crate) fault_holds: Duration,
    pub(crate) gpus_max: u32,
    /// How many processes of each GPU are shown as metrics at most.
    pub(crate) processes_max: u32,
    /// Whether errors are listened to that the driver reports.
    pub(crate) listens: bool,
}

/// Everything on the library's thread.
pub(super) struct Watch {
    watching: Watching,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    loaded: Option<Loaded>,
    /// By UUID: whoever was seen once is remembered.
    cards: BTreeMap<String, Card>,
    driver: DriverView,
    /// When the library may be loaded again, and how often it was in vain.
    load: Pause,
    /// When it is to be loaded anew for a GPU that was lost, and how often that was in vain.
    reload: Pause,
    silent_turns: u32,
}

/// The library.
pub(super) struct Loaded {
    pub(super) nvml: Arc<Nvml>,
    /// The GPUs by the index that they have this time.
    pub(super) present: Vec<(u32, String)>,
    events: Option<Events>,
    asked: BTreeMap<Cadence, Instant>,
    /// What the kernel listed when the library was loaded.
    kernel_list: Option<BTreeSet<OsString>>,
}

/// A pause that doubles with each time in vain.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    until: Option<Instant>,
    in_vain: u32,
}

impl Pause {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    fn lengthen(&mut self, now: Instant, first: Duration, longest: Duration) {
        self.until = Some(now + first.saturating_mul(1 << self.in_vain.min(16)).min(longest));
        self.in_vain = self.in_vain.saturating_add(1);
    }
}

impl Watch {
    pub(super) fn new(watching: Watching, clock: Arc<dyn Clock>, shared: Arc<Shared>) -> Self {
        Self {
            watching,
            clock,
            shared,
            loaded: None,
            cards: BTreeMap::new(),
            driver: DriverView::default(),
            load: Pause::default(),
            reload: Pause::default(),
            silent_turns: 0,
        }
    }

    /// Asks every card for what is due, and publishes what is known then.
    pub(super) fn look(&mut self) {
        let begun = Instant::now();
        if self.must_reload(begun) {
            self.unload();
        }
        if let Some(mut loaded) = self.loaded() {
            let due = self.due(&loaded, begun);
            let outcome = self.ask(&loaded, &due);
            loaded.asked.extend(due.iter().map(|cadence| (*cadence, begun)));
            self.loaded = Some(loaded);
            if let Some((state, said)) = outcome {
                self.fail(state, &said);
            }
        }
        self.publish(begun);
    }

    /// Returns the loaded library, and loads it if it is its time; to be put back.
    pub(super) fn loaded(&mut self) -> Option<Loaded> {
        let now = Instant::now();
        if self.loaded.is_none() && self.load.is_over(now) {
            match self.open() {
                Ok(loaded) => self.loaded = Some(loaded),
                Err(error) => self.fail(refusal::driver_state(&error), &refusal::words(&error)),
            }
        }
        self.loaded.take()
    }

    /// Puts the library back after it was used.
    pub(super) fn keep(&mut self, loaded: Loaded) {
        self.loaded = Some(loaded);
    }

    pub(super) fn driver(&self) -> &DriverView {
        &self.driver
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn due(&self, loaded: &Loaded, now: Instant) -> BTreeSet<Cadence> {
        let every = |cadence| match cadence {
            Cadence::Sample => self.watching.sample_every,
            Cadence::Detail => self.watching.detail_every,
            Cadence::Health => self.watching.health_every,
        };
        // Whoever asks comes a little early or late; each turn is one of samples.
        let slack = self.watching.sample_every / 2;
        let is_due = |cadence: &Cadence| {
            let since = loaded.asked.get(cadence).map(|asked| now.duration_since(*asked));
            *cadence == Cadence::Sample || since.is_none_or(|since| since + slack >= every(*cadence))
        };
        Cadence::ALL.into_iter().filter(is_due).collect()
    }

    /// Asks each card that is there; returns what is the matter with the driver, if anything.
    fn ask(&mut self, loaded: &Loaded, due: &BTreeSet<Cadence>) -> Option<(DriverState, String)> {
        let mut is_silent = true;
        for (_, uuid) in &loaded.present {
            let Some(card) = self.cards.get_mut(uuid) else { continue };
            // A card in trouble is asked again after the library was loaded anew, lest each turn waits for its time-outs.
            if card.view.trouble.is_some_and(|trouble| trouble != Trouble::Silent) {
                is_silent = false;
                continue;
            }
            match card.look(&loaded.nvml, &self.shared, due) {
                Looked::Answered => is_silent = false,
                Looked::InTrouble => is_silent &= card.view.trouble == Some(Trouble::Silent),
                Looked::DriverFailed(state, said) => return Some((state, said)),
            }
        }
        self.silent_turns = if is_silent && !loaded.present.is_empty() { self.silent_turns + 1 } else { 0 };
        let now = Instant::now();
        let in_trouble = self.cards.values().any(|card| card.view.trouble.is_some());
        match (in_trouble, self.reload.until) {
            (true, None) => self.reload.lengthen(now, self.watching.lost_retry, self.watching.lost_retry_max),
            (false, _) => self.reload = Pause::default(),
            (true, Some(_)) => {}
        }
        let has_given_up = self.silent_turns >= SILENT_TURNS_MAX;
        has_given_up.then(|| (DriverState::Failing, "no GPU answers any call".to_owned()))
    }

    fn must_reload(&mut self, now: Instant) -> bool {
        let Some(loaded) = &self.loaded else { return false };
        if self.reload.until.is_some_and(|until| now >= until) {
            self.reload.lengthen(now, self.watching.lost_retry, self.watching.lost_retry_max);
            return true;
        }
        let looked = loaded.asked.get(&Cadence::Detail).is_some_and(|at| now - *at >= self.watching.detail_every);
        let is_other = looked && self.kernel_list() != loaded.kernel_list;
        let is_empty = loaded.present.is_empty() && self.load.is_over(now);
        is_other || is_empty
    }

    /// Returns the GPUs that the kernel lists; `None` where it does not say, as in a container.
    fn kernel_list(&self) -> Option<BTreeSet<OsString>> {
        let entries = std::fs::read_dir(&self.watching.kernel_list).ok()?;
        Some(entries.filter_map(|entry| Some(entry.ok()?.file_name())).take(1024).collect())
    }

    fn open(&mut self) -> Result<Loaded, NvmlError> {
        let kernel_list = self.kernel_list();
        let nvml = self.shared.calling("", "init", || match &self.watching.library {
            Some(library) => Nvml::builder().lib_path(library.as_os_str()).init(),
            None => Nvml::init(),
        })?;
        self.driver.loads += 1;
        let count = self.shared.calling("", "device_count", || nvml.device_count())?;
        self.driver.version = nvml.sys_driver_version().ok();
        self.driver.nvml_version = nvml.sys_nvml_version().ok();
        let cuda = nvml.sys_cuda_driver_version().ok();
        self.driver.cuda_version =
            cuda.map(|cuda| format!("{}.{}", cuda_driver_version_major(cuda), cuda_driver_version_minor(cuda)));
        let present = self.enumerate(&nvml, count);
        let is_empty = count == 0;
        (self.driver.state, self.driver.said) = (if is_empty { DriverState::NoGpu } else { DriverState::Ready }, None);
        if present.is_empty() {
            // Its list does not grow, so it is loaded anew after a while.
            self.load.lengthen(Instant::now(), self.watching.sample_every, self.watching.absent_retry);
        } else {
            self.load = Pause::default();
        }
        tracing::info!(version = self.driver.version, gpus = present.len(), "nvidia driver answers");
        let nvml = Arc::new(nvml);
        let events = (self.watching.listens && !present.is_empty()).then(|| {
            Events::start(Arc::clone(&nvml), present.clone(), Arc::clone(&self.shared), Arc::clone(&self.clock))
        });
        Ok(Loaded { nvml, present, events: events.flatten(), asked: BTreeMap::new(), kernel_list })
    }

    /// Returns the GPUs that say who they are, and notes of all others what is the matter with them.
    fn enumerate(&mut self, nvml: &Nvml, count: u32) -> Vec<(u32, String)> {
        let mut present = Vec::new();
        self.driver.unnamed.clear();
        self.driver.left_out = count.saturating_sub(self.watching.gpus_max);
        for index in 0..count.min(self.watching.gpus_max) {
            let device = self
                .shared
                .calling("", "handle", || nvml.device_by_index(index).and_then(|device| Ok((device.uuid()?, device))));
            let (uuid, device) = match device {
                Ok(found) => found,
                Err(error) => {
                    self.driver.unnamed.insert(index, refusal::words(&error));
                    continue;
                }
            };
            // Who was seen once is remembered, so what is remembered is bounded as well.
            if !self.cards.contains_key(&uuid) && self.cards.len() >= self.watching.gpus_max as usize {
                self.driver.left_out += 1;
                continue;
            }
            let card = self.cards.entry(uuid.clone()).or_insert_with(|| Card::new(&uuid));
            self.shared.calling(&uuid, "identity", || card.found(&device, index));
            present.push((index, uuid));
        }
        for (uuid, card) in &mut self.cards {
            if !present.iter().any(|(_, here)| here == uuid) {
                let (trouble, said) = match self.driver.unnamed.get(&card.view.identity.index) {
                    // One that is known answered at this index before; now something there does not say who it is.
                    Some(said) => (Trouble::Lost, Some(said.clone())),
                    None => (Trouble::Gone, None),
                };
                card.fell(trouble, said);
            }
        }
        present
    }

    /// Lets go of the library because of the driver.
    fn fail(&mut self, state: DriverState, said: &str) {
        if self.driver.state != state {
            tracing::info!(state = state.label(), said, "nvidia driver does not answer");
        }
        (self.driver.state, self.driver.said) = (state, Some(said.to_owned()));
        for card in self.cards.values_mut() {
            card.fell(Trouble::Driver, Some(said.to_owned()));
        }
        self.silent_turns = 0;
        self.unload();
        self.load.lengthen(Instant::now(), self.watching.sample_every, self.watching.absent_retry);
    }

    fn unload(&mut self) {
        let Some(Loaded { nvml, events, .. }) = self.loaded.take() else { return };
        let has_let_go = events.is_none_or(Events::end);
        if has_let_go {
            self.shared.calling("", "shutdown", || drop(nvml));
        } else {
            // The thread that listens hangs in the driver. The library stays with it, and another one is loaded beside it.
            tracing::warn!("the thread that listens to gpus does not return");
            std::mem::forget(nvml);
        }
    }

    fn publish(&self, begun: Instant) {
        let gpus = self.cards.values().map(|card| card.view.clone()).collect();
        self.shared.publish(Snapshot { driver: self.driver.clone(), gpus, took: begun.elapsed() });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.unload();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_the_longest_one() {
        let (now, first, longest) = (Instant::now(), Duration::from_secs(1), Duration::from_secs(60));
        let mut pause = Pause::default();
        assert!(pause.is_over(now));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            pause.lengthen(now, first, longest);
            assert_eq!(pause.until, Some(now + Duration::from_secs(seconds)));
        }
        for _ in 0..100 {
            pause.lengthen(now, first, longest);
        }
        assert_eq!(pause.until, Some(now + longest));
    }
}
