//! What the kernel counts of disks and network cards: how long a request to a disk takes, how full a link is, and what is lost.
//!
//! Counters only grow; what is told is their growth since they were last read. What is smaller than before began anew and says
//! nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use super::Seen;

/// How many disks and how many network cards are looked at.
const DEVICES_MAX: usize = 64;

/// Fewer requests to a disk in one turn say nothing of how long one takes.
const REQUESTS_MIN: u64 = 5;

/// Fewer packets in one turn say nothing of the share that is lost.
const PACKETS_MIN: u64 = 200;

/// From how many times what is usual of it a disk is slow.
const SLOW_FROM: f64 = 10.0;

/// What counts as usual at least, in seconds: below, a disk may be as slow as it likes.
const USUAL_MIN_S: f64 = 0.002;

/// Turns in which is learned what is usual of a disk; before, it is not slow.
const TURNS_LEARNED: u32 = 60;

/// How far a turn moves what is usual, as a ratio, while it is learned and after: 0.2 % follows a lasting change within the hour.
const STEP_LEARNING: f64 = 0.1;
const STEP: f64 = 0.002;

/// A shorter time between two readings says nothing.
const ELAPSED_MIN: Duration = Duration::from_millis(50);

/// Names of block devices that are no disks of their own.
const NO_DISKS: [&str; 7] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd"];

/// Where the kernel tells of them; tests have folders of their own.
pub(super) struct Places<'a> {
    pub(super) proc: &'a Path,
    pub(super) sys: &'a Path,
}

/// What was counted when it was last read, and what is usual.
#[derive(Default)]
pub(super) struct Devices {
    read: Option<(Instant, Counts)>,
    usual: BTreeMap<String, Usual>,
}

/// The median time that a request to a disk takes, as far as it is known.
#[derive(Clone, Copy)]
struct Usual {
    turns: u32,
    await_s: f64,
}

#[derive(Clone, Default)]
struct Counts {
    disks: BTreeMap<String, Disk>,
    cards: BTreeMap<String, Card>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Disk {
    requests: u64,
    /// Of all requests together.
    waited_ms: u64,
    busy_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Card {
    received: u64,
    sent: u64,
    packets: u64,
    errors: u64,
    dropped: u64,
}

impl Devices {
    /// Reads the counters, and returns what they grew by since the last time; nothing the first time.
    pub(super) fn read(&mut self, places: &Places<'_>, now: Instant) -> Vec<Seen> {
        let counts = Counts::read(places);
        let Some((then, before)) = self.read.replace((now, counts.clone())) else { return Vec::new() };
        let elapsed = now.saturating_duration_since(then);
        if elapsed < ELAPSED_MIN {
            return Vec::new();
        }
        self.usual.retain(|name, _| counts.disks.contains_key(name));
        let mut seen = self.disks(&before, &counts, elapsed.as_secs_f64());
        seen.extend(cards(&before, &counts, elapsed.as_secs_f64(), places.sys));
        seen
    }

    /// Returns how long requests to the slowest disk took, how busy the busiest one was, and how slow one is for what it is.
    fn disks(&mut self, before: &Counts, now: &Counts, elapsed_s: f64) -> Vec<Seen> {
        let (mut waits, mut busy, mut slow) = (Worst::default(), Worst::default(), Worst::default());
        for (name, disk) in &now.disks {
            let Some(grown) = before.disks.get(name).and_then(|before| disk.since(*before)) else { continue };
            busy.take(name, (grown.busy_ms as f64 / 1000.0 / elapsed_s).min(1.0));
            if grown.requests < REQUESTS_MIN {
                continue;
            }
            let await_s = grown.waited_ms as f64 / 1000.0 / grown.requests as f64;
            waits.take(name, await_s);
            let usual = self.usual.entry(name.clone()).or_insert(Usual { turns: 0, await_s });
            if usual.turns >= TURNS_LEARNED {
                slow.take(name, await_s / (SLOW_FROM * usual.await_s.max(USUAL_MIN_S)));
            }
            usual.learn(await_s);
        }
        let seen =
            [("disk_await_s", waits), ("disk_busy_ratio", busy), ("disk_slow_ratio", slow)].map(|(metric, worst)| {
                let (name, value) = worst.0?;
                Some((metric, value, format!("/proc/diskstats {name}")))
            });
        seen.into_iter().flatten().collect()
    }
}

impl Usual {
    /// Moves it a step towards what was seen, whatever its size: the median is what as many lie above as below.
    fn learn(&mut self, await_s: f64) {
        let step = if self.turns < TURNS_LEARNED { STEP_LEARNING } else { STEP };
        self.turns = self.turns.saturating_add(1);
        let towards = if await_s > self.await_s { 1.0 + step } else { 1.0 / (1.0 + step) };
        // It starts from nothing only where requests take no time that is counted.
        self.await_s = (self.await_s * towards).max(1e-6);
    }
}

/// The largest of some numbers, and whose it is.
#[derive(Default)]
struct Worst(Option<(String, f64)>);

impl Worst {
    fn take(&mut self, name: &str, value: f64) {
        if self.0.as_ref().is_none_or(|(_, most)| value > *most) {
            self.0 = Some((name.to_owned(), value));
        }
    }
}

/// Returns what all cards carried, how full the fullest link is, and what share of packets was damaged and lost.
fn cards(before: &Counts, now: &Counts, elapsed_s: f64, sys: &Path) -> Vec<Seen> {
    let (mut all, mut used) = (Card::default(), Worst::default());
    let mut any = false;
    for (name, card) in &now.cards {
        let Some(grown) = before.cards.get(name).and_then(|before| card.since(*before)) else { continue };
        any = true;
        // Each way has the whole of the link.
        if let Some(bytes_per_s) = speed(sys, name) {
            used.take(name, (grown.received.max(grown.sent) as f64 / elapsed_s / bytes_per_s).min(1.0));
        }
        all = Card {
            received: all.received.saturating_add(grown.received),
            sent: all.sent.saturating_add(grown.sent),
            packets: all.packets.saturating_add(grown.packets),
            errors: all.errors.saturating_add(grown.errors),
            dropped: all.dropped.saturating_add(grown.dropped),
        };
    }
    let source = || "/proc/net/dev".to_owned();
    let mut seen = Vec::new();
    if any {
        seen.push(("network_received_bytes_per_s", all.received as f64 / elapsed_s, source()));
        seen.push(("network_sent_bytes_per_s", all.sent as f64 / elapsed_s, source()));
        if all.packets >= PACKETS_MIN {
            let share = |count: u64| (count as f64 / all.packets as f64).min(1.0);
            seen.push(("network_error_ratio", share(all.errors), source()));
            seen.push(("network_dropped_ratio", share(all.dropped), source()));
        }
    }
    seen.extend(used.0.map(|(name, value)| ("network_used_ratio", value, format!("/proc/net/dev {name}"))));
    seen
}

/// Returns what the link of a card carries, in bytes a second; `None` where it does not say.
fn speed(sys: &Path, card: &str) -> Option<f64> {
    let megabits: f64 = fs::read_to_string(sys.join("class/net").join(card).join("speed")).ok()?.trim().parse().ok()?;
    (megabits > 0.0).then_some(megabits * 1e6 / 8.0)
}

impl Counts {
    fn read(places: &Places<'_>) -> Self {
        let text = |file: &str| fs::read_to_string(places.proc.join(file)).unwrap_or_default();
        let is_disk = |name: &str| {
            !NO_DISKS.iter().any(|other| name.starts_with(other)) && places.sys.join("block").join(name).exists()
        };
        let is_card = |name: &str| places.sys.join("class/net").join(name).join("device").exists();
        Self {
            disks: text("diskstats")
                .lines()
                .filter_map(disk)
                .filter(|(name, _)| is_disk(name))
                .take(DEVICES_MAX)
                .collect(),
            cards: text("net/dev")
                .lines()
                .filter_map(card)
                .filter(|(name, _)| is_card(name))
                .take(DEVICES_MAX)
                .collect(),
        }
    }
}

/// Reads a line of `/proc/diskstats`: two numbers and the name, then the counters; partitions have lines like disks.
fn disk(line: &str) -> Option<(String, Disk)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    let name = plain(fields.get(2)?)?;
    // Reads and writes; what is discarded or flushed is not waited for by anybody.
    let requests = number(3)?.checked_add(number(7)?)?;
    let waited_ms = number(6)?.checked_add(number(10)?)?;
    Some((name, Disk { requests, waited_ms, busy_ms: number(12)? }))
}

/// Reads a line of `/proc/net/dev`: the name and a colon, then eight counters of what came and eight of what went.
fn card(line: &str) -> Option<(String, Card)> {
    let (name, counters) = line.split_once(':')?;
    let name = plain(name.trim())?;
    let counters: Vec<u64> = counters.split_whitespace().map_while(|count| count.parse().ok()).collect();
    let both = |place: usize| counters.get(place)?.checked_add(*counters.get(place + 8)?);
    let (received, sent) = (*counters.first()?, *counters.get(8)?);
    Some((name, Card { received, sent, packets: both(1)?, errors: both(2)?, dropped: both(3)? }))
}

/// A name goes into a path.
fn plain(name: &str) -> Option<String> {
    let fits = |each: char| each.is_ascii_alphanumeric() || "._-".contains(each);
    (!name.is_empty() && !name.starts_with('.') && name.chars().all(fits)).then(|| name.to_owned())
}

impl Disk {
    fn since(self, before: Self) -> Option<Self> {
        Some(Self {
            requests: self.requests.checked_sub(before.requests)?,
            waited_ms: self.waited_ms.checked_sub(before.waited_ms)?,
            busy_ms: self.busy_ms.checked_sub(before.busy_ms)?,
        })
    }
}

impl Card {
    fn since(self, before: Self) -> Option<Self> {
        Some(Self {
            received: self.received.checked_sub(before.received)?,
            sent: self.sent.checked_sub(before.sent)?,
            packets: self.packets.checked_sub(before.packets)?,
            errors: self.errors.checked_sub(before.errors)?,
            dropped: self.dropped.checked_sub(before.dropped)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with a disk and a card, whose counters a test writes.
    struct Bench {
        root: tempfile::TempDir,
        devices: Devices,
        at: Instant,
        requests: u64,
        waited_ms: u64,
    }

    impl Bench {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for folder in ["proc/net", "sys/block/vda", "sys/class/net/eth0/device", "sys/class/net/lo"] {
                fs::create_dir_all(root.path().join(folder)).unwrap();
            }
            fs::write(root.path().join("sys/class/net/eth0/speed"), "1000\n").unwrap();
            let bench = Self { root, devices: Devices::default(), at: Instant::now(), requests: 0, waited_ms: 0 };
            bench.network([0; 4]);
            bench
        }

        fn network(&self, [bytes, packets, errors, dropped]: [u64; 4]) {
            let counters = format!("{bytes} {packets} {errors} {dropped} 0 0 0 0 0 0 0 0 0 0 0 0");
            let text =
                format!("Inter-| Receive\n face |bytes\n  eth0: {counters}\n    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n");
            fs::write(self.root.path().join("proc/net/dev"), text).unwrap();
        }

        /// A second later, so many more requests were made, of which each took so long.
        fn turn(&mut self, requests: u64, each_ms: u64) -> BTreeMap<&'static str, f64> {
            self.at += Duration::from_secs(1);
            self.requests += requests;
            self.waited_ms += requests * each_ms;
            let (requests, waited) = (self.requests, self.waited_ms);
            let text = format!(
                " 253 0 vda {requests} 0 0 {waited} 0 0 0 0 0 {waited} {waited}\n 253 1 vda1 {requests} 0 0 9 0 0 0 0 0 9 9\n 7 0 loop0 9 9 9 9 9 9 9 9 9 9 9\n"
            );
            fs::write(self.root.path().join("proc/diskstats"), text).unwrap();
            let places = (self.root.path().join("proc"), self.root.path().join("sys"));
            let seen = self.devices.read(&Places { proc: &places.0, sys: &places.1 }, self.at);
            seen.into_iter().map(|(metric, value, _)| (metric, value)).collect()
        }
    }

    /// Lesson 41: what is slow is told by what the disk itself is capable of.
    #[test]
    fn a_disk_is_slow_by_what_is_usual_of_it() {
        for usual_ms in [1, 8] {
            let mut bench = Bench::new();
            assert_eq!(bench.turn(50, usual_ms), BTreeMap::new(), "there is nothing to compare with yet");
            for _ in 0..80 {
                let seen = bench.turn(50, usual_ms);
                assert!((seen["disk_await_s"] - usual_ms as f64 / 1000.0).abs() < 1e-9, "{seen:?}");
                assert!(seen.get("disk_slow_ratio").is_none_or(|slow| *slow < 0.2), "{seen:?}");
            }
            assert!(bench.turn(50, 5 * usual_ms.max(2))["disk_slow_ratio"] < 1.0);
            assert!(bench.turn(50, 15 * usual_ms.max(2))["disk_slow_ratio"] > 1.0);
        }
    }

    #[test]
    fn a_disk_that_hardly_anybody_uses_says_nothing_and_one_that_began_anew_neither() {
        let mut bench = Bench::new();
        bench.turn(50, 1);
        assert!(!bench.turn(REQUESTS_MIN - 1, 500).contains_key("disk_await_s"));
        (bench.requests, bench.waited_ms) = (0, 0);
        assert_eq!(bench.turn(50, 1).get("disk_await_s"), None);
        assert!(bench.turn(50, 1).contains_key("disk_await_s"));
    }

    #[test]
    fn a_card_tells_what_it_carries_of_what_its_link_could_and_what_is_lost() {
        let mut bench = Bench::new();
        bench.turn(0, 0);
        bench.network([62_500_000, 1000, 20, 5]);
        let seen = bench.turn(0, 0);
        assert_eq!(seen["network_received_bytes_per_s"], 62_500_000.0);
        assert_eq!(seen["network_used_ratio"], 0.5);
        assert_eq!((seen["network_error_ratio"], seen["network_dropped_ratio"]), (0.02, 0.005));
        bench.network([62_500_100, 1010, 30, 5]);
        let few = bench.turn(0, 0);
        assert!(!few.contains_key("network_error_ratio"), "of ten packets nothing is said: {few:?}");
        fs::write(bench.root.path().join("sys/class/net/eth0/speed"), "-1\n").unwrap();
        assert!(!bench.turn(0, 0).contains_key("network_used_ratio"), "a link that does not say how fast it is");
    }

    #[test]
    fn odd_lines_are_passed_over() {
        for line in [
            "",
            "1 2",
            "1 2 sda x",
            "a: 1 2",
            "eth0 1 2 3",
            " 8 0 ../sda 1 1 1 1 1 1 1 1 1 1 1",
            "8 0 sda 18446744073709551615 0 0 1 1 0 0 1 0 1 1",
        ] {
            assert_eq!(disk(line), None, "{line:?}");
            assert_eq!(card(line), None, "{line:?}");
        }
        assert!(disk("8 0 sda 1 2 3 4 5 6 7 8 9 10 11").is_some());
        let huge = "../eth0: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1";
        assert_eq!(card(huge), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let mut devices = Devices::default();
        let places = Places { proc: Path::new("/proc"), sys: Path::new("/sys") };
        let now = Instant::now();
        assert!(devices.read(&places, now).is_empty());
        for (metric, value, _) in devices.read(&places, now + Duration::from_secs(1)) {
            assert!(value.is_finite() && value >= 0.0, "{metric} {value}");
        }
    }
}
