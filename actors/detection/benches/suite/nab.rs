//! The Numenta Anomaly Benchmark: its data, its windows, and its score (Lavin and Ahmad 2015).

use std::{collections::BTreeMap, fs, path::Path};

/// The share of a file that is not scored, and the most rows.
const PROBATION: f64 = 0.15;
const PROBATION_ROWS: f64 = 5000.0;

/// What a profile pays and takes: true positives, false positives, false negatives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    pub(crate) hit: f64,
    pub(crate) alarm: f64,
    pub(crate) miss: f64,
}

/// Standard, few false positives, few false negatives.
pub(crate) const PROFILES: [Profile; 3] = [
    Profile { hit: 1.0, alarm: 0.11, miss: 1.0 },
    Profile { hit: 1.0, alarm: 0.22, miss: 1.0 },
    Profile { hit: 1.0, alarm: 0.11, miss: 2.0 },
];

/// What a row is to the score.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Before the scored part.
    Probation,
    /// In a window, with what a hit there pays before weights.
    Window(u32, f64),
    /// Outside, with what an alarm there costs before weights: negative.
    Outside(f64),
}

/// One file of the benchmark.
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) rows: Vec<(f64, f64)>,
    places: Vec<Place>,
    pub(crate) windows: u32,
}

impl File {
    /// Returns the rows that come before the scored part.
    pub(crate) fn probation(&self) -> u32 {
        probation(self.rows.len()) as u32
    }
}

fn probation(rows: usize) -> f64 {
    (PROBATION * rows as f64).floor().min(PROBATION * PROBATION_ROWS)
}

fn sigmoid(position: f64) -> f64 {
    if position > 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * position).exp()) - 1.0 }
}

/// Reads the benchmark below `root`, in the order of names.
pub(crate) fn read(root: &Path) -> Vec<File> {
    let labels = fs::read_to_string(root.join("labels/combined_windows.json")).expect("labels/combined_windows.json");
    let labels: BTreeMap<String, Vec<(String, String)>> = serde_json::from_str(&labels).expect("windows");
    labels.into_iter().map(|(name, windows)| file(root, name, &windows)).collect()
}

fn file(root: &Path, name: String, windows: &[(String, String)]) -> File {
    let text = fs::read_to_string(root.join("data").join(&name)).expect("a data file");
    let lines = text.lines().skip(1).filter_map(|line| line.split_once(','));
    let (times, values): (Vec<&str>, Vec<f64>) =
        lines.map(|(time, value)| (time, value.parse::<f64>().expect("a number"))).unzip();
    let index = |time: &str| times.iter().position(|each| *each == &time[..19]).expect("a window begins at a row");
    let windows: Vec<(usize, usize)> = windows.iter().map(|(from, to)| (index(from), index(to))).collect();
    let rows = times.iter().map(|time| seconds(time)).zip(values).collect();
    File { places: places(times.len(), &windows), name, rows, windows: windows.len() as u32 }
}

fn seconds(time: &str) -> f64 {
    let number = |from: usize, to: usize| time[from..to].parse::<i64>().expect("a time");
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let year = if month <= 2 { year - 1 } else { year };
    let days = year.div_euclid(400) * 146_097 + year.rem_euclid(400) * 365 + year.rem_euclid(400) / 4
        - year.rem_euclid(400) / 100
        + (153 * ((month + 9) % 12) + 2) / 5
        + day
        - 719_469;
    (days * 86_400 + number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19)) as f64
}

fn places(rows: usize, windows: &[(usize, usize)]) -> Vec<Place> {
    let perfect = sigmoid(-1.0);
    let mut places = Vec::with_capacity(rows);
    let mut before: Option<(usize, usize)> = None;
    let mut next = windows.iter().enumerate().peekable();
    let probation = probation(rows);
    for row in 0..rows {
        let place = match next.peek() {
            Some((number, (from, to))) if row >= *from => {
                let width = (to - from + 1) as f64;
                let hit = sigmoid(-((to - row + 1) as f64) / width) / perfect;
                let place = Place::Window(*number as u32, hit);
                if row == *to {
                    before = Some((*from, *to));
                    next.next();
                }
                place
            }
            _ => Place::Outside(before.map_or(-1.0, |(from, to)| sigmoid((row - to) as f64 / (to - from) as f64))),
        };
        places.push(if (row as f64) < probation { Place::Probation } else { place });
    }
    places
}

/// The best score over all thresholds, or the score at one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scored {
    /// From 0, where nothing is said, to 100, where all is said at once and nothing else.
    pub(crate) score: f64,
    pub(crate) threshold: f64,
}

/// Scores rows of scores, for each of `files`.
pub(crate) fn best(files: &[&File], scores: &[&[f64]], profile: Profile) -> Scored {
    let curve = curve(files, scores, profile);
    curve.into_iter().max_by(|one, other| one.score.total_cmp(&other.score)).expect("a threshold")
}

/// Returns the score at the threshold: rows that reach it are alarms.
pub(crate) fn at(files: &[&File], scores: &[&[f64]], profile: Profile, threshold: f64) -> f64 {
    let curve = curve(files, scores, profile);
    let reached = curve.iter().take_while(|scored| scored.threshold >= threshold).last();
    reached.expect("above all scores nothing is said").score
}

/// Returns the score at each threshold at which it changes, the highest first.
fn curve(files: &[&File], scores: &[&[f64]], profile: Profile) -> Vec<Scored> {
    let mut points: Vec<(f64, usize, Place)> = Vec::new();
    let mut first = Vec::new();
    let mut windows = 0_usize;
    for (file, scores) in files.iter().zip(scores) {
        first.push(windows);
        windows += file.windows as usize;
        let seen = scores
            .iter()
            .zip(&file.places)
            .filter(|(score, place)| **score > 0.0 && !matches!(place, Place::Probation));
        points.extend(seen.map(|(score, place)| (*score, first.len() - 1, *place)));
    }
    points.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut parts = vec![-profile.miss; windows];
    let null = -profile.miss * windows as f64;
    let mut sum = null;
    let normal = |sum: f64| 100.0 * (sum - null) / (profile.hit * windows as f64 - null);
    let mut curve = vec![Scored { score: 0.0, threshold: f64::INFINITY }];
    for (index, (score, file, place)) in points.iter().enumerate() {
        match place {
            Place::Window(number, hit) => {
                let part = &mut parts[first[*file] + *number as usize];
                let better = part.max(hit * profile.hit);
                sum += better - *part;
                *part = better;
            }
            Place::Outside(cost) => sum += cost * profile.alarm,
            Place::Probation => {}
        }
        if points.get(index + 1).is_none_or(|next| next.0 != *score) {
            curve.push(Scored { score: normal(sum), threshold: *score });
        }
    }
    curve
}
