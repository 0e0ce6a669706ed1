//! Leasing the machine: wait for the turn, then for who measures.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{sync::Mutex, time::sleep};

use super::{
    folder::{Folder, Held},
    queue::{Party, Standing, Urgency},
};

/// The file of who measures.
const SLOT: &str = "slot";

/// How many may wait at once on one machine.
const SEATS: u32 = 32;

/// How often whoever waits looks again. Seldom enough not to be felt by who measures.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// This machine, as far as it can be leased. Clones are the same machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    folder: PathBuf,
    patience: Duration,
    unproven_patience: Duration,
    /// The process of whose measurement this one is a part.
    part_of: Option<u32>,
}

/// The variable that tells what a measurement starts whose measurement that is: the process that has the lease.
const MEASURING: &str = "KLOROS_MEASURING";

/// Returns the variable, with its value, that whatever this process starts to measure with is to find in its environment.
/// It then need not wait for itself.
pub(crate) fn measuring() -> (String, String) {
    (MEASURING.to_owned(), std::process::id().to_string())
}

/// The right to measure. The kernel takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Absent for a part of what somebody else measures, who has it.
    slot: Option<Held>,
}

impl Lease {
    /// Returns whether nobody else can have had the lease meanwhile: that is so unless its file was removed.
    pub(crate) fn is_whole(&self) -> bool {
        self.slot.as_ref().is_none_or(Held::has_its_name)
    }
}

/// Why the machine could not be leased: never for what was to be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// The files of the lease cannot be used.
    #[error("cannot use {path}, where measurements on this machine take turns; see measuring.lease_folder", path = path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Too many wait already.
    #[error("{SEATS} others wait for the machine already")]
    Full,
    /// It took too long.
    #[error("waited {waited_s} s for the machine, which is as long as measuring.{key} allows: {in_the_way}")]
    TooLong {
        /// How long, in seconds.
        waited_s: u64,
        /// The setting that says so.
        key: &'static str,
        /// Who was in the way, in words.
        in_the_way: String,
    },
}

impl Machine {
    /// Returns the machine whose lease lies in `folder`, for which one waits at most as long as `patience`.
    pub(crate) fn new(folder: &Path, patience: Duration) -> Self {
        let part_of = std::env::var(MEASURING).ok().and_then(|pid| pid.parse().ok());
        Self { folder: folder.to_owned(), patience, unproven_patience: patience, part_of }
    }

    /// Lets what judges a live change wait no longer than this: an unproven change must not stay for want of a turn.
    pub(crate) fn unproven_within(self, patience: Duration) -> Self {
        Self { unproven_patience: patience, ..self }
    }

    /// Waits for nobody: whoever can do it later goes away where the machine is taken.
    pub(crate) fn without_waiting(self) -> Self {
        Self { patience: Duration::ZERO, unproven_patience: Duration::ZERO, ..self }
    }

    /// Leases the machine for `what`, once it is free and nobody goes first. `hear` is told who is in the way, and again
    /// when that is another one.
    ///
    /// Dropping the future gives the place in the queue up.
    pub(crate) async fn lease(
        &self,
        what: &str,
        urgency: Urgency,
        mut hear: impl FnMut(&Standing),
    ) -> Result<Lease, LeaseError> {
        let folder = self.open()?;
        let holder = folder.holder(SLOT).map_err(|source| self.unusable(source))?;
        if self.part_of.is_some() && holder.map(|party| party.pid()) == self.part_of {
            return Ok(Lease { slot: None });
        }
        let (patience, key) = match urgency {
            Urgency::Unproven => (self.unproven_patience, "unproven_wait_s"),
            Urgency::Ordinary => (self.patience, "lease_wait_s"),
        };
        let patience_us = u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
        let began_us = now_us();
        let party = Party::waiting(what, urgency, began_us, patience_us);
        let (seat, mut seated) = loop {
            if let Some(seated) = self.sit(&folder)? {
                break seated;
            }
            if now_us().saturating_sub(began_us) >= patience_us {
                return Err(LeaseError::Full);
            }
            sleep(LOOK_INTERVAL).await;
        };
        seated.say(&party);
        let mut told = None;
        loop {
            if let Some(lease) = self.attempt(&folder, seat, &party)? {
                return Ok(lease);
            }
            let standing = self.standing(&folder, Some(seat))?;
            let in_the_way = standing.in_the_way();
            if told.as_ref() != Some(&in_the_way) {
                hear(&standing);
                told = Some(in_the_way.clone());
            }
            let waited_us = now_us().saturating_sub(began_us);
            if waited_us >= patience_us {
                return Err(LeaseError::TooLong { waited_s: waited_us / 1_000_000, key, in_the_way });
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Returns whether anybody waits for the machine.
    fn is_waited_for(&self) -> bool {
        self.open().is_ok_and(|folder| !Self::waiting(&folder, None).is_empty())
    }

    /// Returns who measures and who waits.
    pub(crate) fn look(&self) -> Result<Standing, LeaseError> {
        let folder = self.open()?;
        self.standing(&folder, None)
    }

    fn attempt(&self, folder: &Folder, seat: u32, party: &Party) -> Result<Option<Lease>, LeaseError> {
        let now_us = now_us();
        if Self::waiting(folder, Some(seat)).iter().any(|other| other.goes_before(party, now_us)) {
            return Ok(None);
        }
        let Some(mut slot) = folder.take(SLOT).map_err(|source| self.unusable(source))? else { return Ok(None) };
        slot.say(&party.clone().measuring(now_us));
        Ok(Some(Lease { slot: Some(slot) }))
    }

    fn sit(&self, folder: &Folder) -> Result<Option<(u32, Held)>, LeaseError> {
        let mut unusable = None;
        let mut taken = 0;
        for seat in 1..=SEATS {
            match folder.take(&name_of(seat)) {
                Ok(Some(held)) => return Ok(Some((seat, held))),
                Ok(None) => taken += 1,
                // One file that somebody has spoilt must not stop everybody.
                Err(source) => unusable = Some(source),
            }
        }
        match unusable.filter(|_| taken == 0) {
            Some(source) => Err(self.unusable(source)),
            None => Ok(None),
        }
    }

    /// Returns who waits, but for who sits at `own`.
    fn waiting(folder: &Folder, own: Option<u32>) -> Vec<Party> {
        let others = (1..=SEATS).filter(|seat| Some(*seat) != own);
        // Somebody who has just sat down and not yet said who it is comes after this one, and nobody sits on a spoilt file.
        others.filter_map(|seat| folder.holder(&name_of(seat)).ok().flatten()).collect()
    }

    fn standing(&self, folder: &Folder, own: Option<u32>) -> Result<Standing, LeaseError> {
        let measures = folder.holder(SLOT).map_err(|source| self.unusable(source))?;
        Ok(Standing::of(measures.as_ref(), Self::waiting(folder, own), now_us()))
    }

    fn open(&self) -> Result<Folder, LeaseError> {
        Folder::open(&self.folder).map_err(|source| self.unusable(source))
    }

    fn unusable(&self, source: io::Error) -> LeaseError {
        LeaseError::Unusable { path: self.folder.clone(), source }
    }
}

/// One lease for several who measure side by side and do not mind each other: the first one waits for it, and the last
/// one gives it back.
#[derive(Debug, Default)]
pub(crate) struct Shared(Mutex<Weak<Lease>>);

impl Shared {
    /// Returns a share of the lease that others of this kind have, or leases the machine.
    pub(crate) async fn lease(
        &self,
        machine: &Machine,
        what: &str,
        hear: impl FnMut(&Standing),
    ) -> Result<Arc<Lease>, LeaseError> {
        let mut shared = self.0.lock().await;
        // Whoever waits elsewhere has their turn before this kind begins another one.
        if let Some(lease) = shared.upgrade().filter(|_| !machine.is_waited_for()) {
            return Ok(lease);
        }
        let lease = Arc::new(machine.lease(what, Urgency::Ordinary, hear).await?);
        *shared = Arc::downgrade(&lease);
        Ok(lease)
    }
}

fn name_of(seat: u32) -> String {
    format!("seat-{seat:02}")
}

/// Returns the microseconds since the machine was started, the same for every process and whatever the wall clock does.
fn now_us() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1000
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, task::Poll};

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn machine(patience: Duration) -> (tempfile::TempDir, Machine) {
        let above = tempfile::tempdir().unwrap();
        let machine = Machine::new(&above.path().join("lease"), patience);
        (above, machine)
    }

    /// Returns whether `future` has not ended when it was polled once.
    async fn is_waiting<F: Future + Unpin>(future: &mut F) -> bool {
        poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())).await
    }

    #[tokio::test]
    async fn two_never_have_the_machine_at_once_and_who_waits_hears_who_has_it() {
        let (_above, machine) = machine(LONG);
        let first = machine.lease("a trial of x-1", Urgency::Ordinary, |_| {}).await.unwrap();
        let mut heard = Vec::new();
        let mut second = Box::pin(machine.lease("kloros bench", Urgency::Ordinary, |standing| {
            heard.push(standing.in_the_way());
        }));
        assert!(is_waiting(&mut second).await);
        let standing = machine.look().unwrap();
        assert_eq!(standing.measures.unwrap().what, "a trial of x-1");
        assert_eq!(standing.waits[0].what, "kloros bench");
        drop(first);
        let second = second.await.unwrap();
        assert_eq!(heard, [format!("process {} with a trial of x-1 measures", std::process::id())]);
        drop(second);
        assert_eq!(machine.look().unwrap(), Standing::default());
    }

    #[tokio::test]
    async fn what_is_unproven_is_let_in_before_who_came_earlier() {
        let (_above, machine) = machine(LONG);
        let first = machine.lease("a trial", Urgency::Ordinary, |_| {}).await.unwrap();
        let mut ordinary = Box::pin(machine.lease("the next trial", Urgency::Ordinary, |_| {}));
        assert!(is_waiting(&mut ordinary).await);
        let mut unproven = Box::pin(machine.lease("a run", Urgency::Unproven, |_| {}));
        assert!(is_waiting(&mut unproven).await);
        let next: Vec<String> = machine.look().unwrap().waits.into_iter().map(|seen| seen.what).collect();
        assert_eq!(next, ["a run", "the next trial"]);
        drop(first);
        let run = tokio::select! {
            biased;
            _ = &mut ordinary => panic!("it goes second"),
            run = &mut unproven => run.unwrap(),
        };
        drop(run);
        ordinary.await.unwrap();
    }

    #[tokio::test]
    async fn who_has_just_measured_does_not_take_the_machine_from_who_waits() {
        let (_above, machine) = machine(LONG);
        let mut lease = machine.lease("a", Urgency::Ordinary, |_| {}).await.unwrap();
        for _ in 0..3 {
            let mut other = Box::pin(machine.lease("b", Urgency::Ordinary, |_| {}));
            assert!(is_waiting(&mut other).await);
            drop(lease);
            let mut again = pin!(machine.lease("a", Urgency::Ordinary, |_| {}));
            let had = tokio::select! {
                biased;
                _ = &mut again => panic!("it was the other one's turn"),
                lease = &mut other => lease.unwrap(),
            };
            drop(had);
            lease = again.await.unwrap();
        }
        drop(lease);
    }

    #[tokio::test]
    async fn a_wait_that_is_too_long_ends_with_the_name_of_its_limit_and_of_who_was_in_the_way() {
        let (_above, machine) = machine(Duration::from_millis(150));
        let _first = machine.lease("a trial", Urgency::Ordinary, |_| {}).await.unwrap();
        let why = machine.lease("a run", Urgency::Ordinary, |_| {}).await.unwrap_err().to_string();
        assert!(why.contains("measuring.lease_wait_s") && why.contains("with a trial measures"), "{why}");
        assert_eq!(machine.look().unwrap().waits, []);
    }

    #[tokio::test]
    async fn a_place_in_the_queue_is_given_up_when_nobody_wants_it_any_more() {
        let (_above, machine) = machine(LONG);
        let first = machine.lease("a", Urgency::Ordinary, |_| {}).await.unwrap();
        let waiting = machine.lease("b", Urgency::Unproven, |_| {});
        assert!(timeout(Duration::from_millis(10), waiting).await.is_err());
        assert_eq!(machine.look().unwrap().waits, []);
        drop(first);
        machine.lease("c", Urgency::Ordinary, |_| {}).await.unwrap();
    }

    #[tokio::test]
    async fn those_who_share_a_lease_wait_once_and_the_last_one_gives_it_back() {
        let (_above, machine) = machine(LONG);
        let shared = Shared::default();
        let one = shared.lease(&machine, "tune", |_| {}).await.unwrap();
        let two = shared.lease(&machine, "tune", |_| panic!("it need not wait")).await.unwrap();
        drop(one);
        assert!(machine.look().unwrap().measures.is_some());
        drop(two);
        assert!(machine.look().unwrap().measures.is_none());
        shared.lease(&machine, "tune", |_| {}).await.unwrap();
    }

    #[tokio::test]
    async fn who_shares_a_lease_does_not_go_before_who_waits_elsewhere() {
        let (_above, machine) = machine(LONG);
        let shared = Shared::default();
        let first = shared.lease(&machine, "a trial", |_| {}).await.unwrap();
        let mut elsewhere = Box::pin(machine.lease("elsewhere", Urgency::Ordinary, |_| {}));
        assert!(is_waiting(&mut elsewhere).await);
        let mut second = Box::pin(shared.lease(&machine, "another trial", |_| {}));
        assert!(is_waiting(&mut second).await);
        drop(first);
        let had = tokio::select! {
            biased;
            _ = &mut second => panic!("it was the other one's turn"),
            lease = &mut elsewhere => lease.unwrap(),
        };
        drop(had);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn a_spoilt_file_of_one_who_waits_stops_nobody() {
        let (_above, machine) = machine(LONG);
        drop(machine.lease("a", Urgency::Ordinary, |_| {}).await.unwrap());
        for seat in [1, 20] {
            let path = machine.folder.join(name_of(seat));
            std::fs::remove_file(&path).ok();
            std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        }
        let first = machine.lease("a", Urgency::Ordinary, |_| {}).await.unwrap();
        let mut second = Box::pin(machine.lease("b", Urgency::Ordinary, |_| {}));
        assert!(is_waiting(&mut second).await);
        drop(first);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn an_unproven_change_is_not_left_alone_for_as_long_as_a_trial_waits() {
        let (_above, machine) = machine(LONG);
        let machine = machine.unproven_within(Duration::from_millis(1));
        let _lease = machine.lease("a trial", Urgency::Ordinary, |_| {}).await.unwrap();
        let why = machine.lease("a run", Urgency::Unproven, |_| {}).await.unwrap_err().to_string();
        assert!(why.contains("measuring.unproven_wait_s"), "{why}");
    }

    #[tokio::test]
    async fn a_part_of_a_measurement_does_not_wait_for_it_and_whoever_only_says_so_does() {
        let (_above, machine) = machine(Duration::from_millis(1));
        let part = |pid| Machine { part_of: Some(pid), ..machine.clone() };
        let own = std::process::id();
        drop(part(own).lease("nobody measures", Urgency::Ordinary, |_| {}).await.unwrap());
        let whole = machine.lease("a trial", Urgency::Ordinary, |_| {}).await.unwrap();
        drop(part(own).lease("a part of it", Urgency::Ordinary, |_| {}).await.unwrap());
        assert!(machine.look().unwrap().measures.is_some(), "a part takes nothing from the whole");
        part(own + 1).lease("another's", Urgency::Ordinary, |_| {}).await.unwrap_err();
        assert!(whole.is_whole());
    }

    #[tokio::test]
    async fn a_lease_whose_file_was_removed_is_not_whole() {
        let (_above, machine) = machine(LONG);
        let first = machine.lease("a", Urgency::Ordinary, |_| {}).await.unwrap();
        std::fs::remove_file(machine.folder.join(SLOT)).unwrap();
        let second = machine.lease("b", Urgency::Ordinary, |_| {}).await.unwrap();
        assert!(!first.is_whole() && second.is_whole());
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_used_is_said_with_its_setting() {
        let machine = Machine::new(Path::new("/proc/no/such"), LONG);
        let why = machine.lease("a", Urgency::Ordinary, |_| {}).await.unwrap_err().to_string();
        assert!(why.contains("/proc/no/such") && why.contains("measuring.lease_folder"), "{why}");
    }
}
