//! The watch: readings go in, anomalies come out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Config,
    detectors::{Limit, compared_with_past, is_alert, is_load, is_plausible, millis},
    incident::{Incident, identity},
    series::{Load, Seen, Series},
};
use crate::facts::{Anomaly, AnomalyKind, CycleId, Evidence, Lesson, Objective, Reading, Ruled, Trouble, short_hash};

#[cfg(test)]
mod tests;

/// How many signs of an incident stand beside the one that it is told by.
pub const EVIDENCE_MAX: usize = 16;

/// Everything that is watched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    #[serde(with = "pairs")]
    series: BTreeMap<SeriesKey, Series>,
    #[serde(with = "pairs")]
    loads: BTreeMap<SeriesKey, Load>,
    incidents: Vec<Incident>,
    /// When each kind of trouble was last told of, by its identity.
    told: BTreeMap<String, u64>,
    stirs: BTreeMap<String, Stir>,
    #[serde(skip)]
    counts: Counts,
}

/// What was seen and led to no anomaly; counted since it was last taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Readings of series beyond the limit.
    pub cut: u64,
    /// Deviations that a surge of load explains.
    pub explained: u64,
    /// Incidents that began in a time of silence.
    pub silenced: u64,
}

/// Subject, metric, and for GPUs, which may share a subject, the source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct SeriesKey {
    subject: String,
    metric: String,
    gpu: String,
}

/// What the daemon itself did to a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stir {
    /// The depth of the last anomaly about the subject.
    said_depth: u32,
    /// The depth of anomalies until then.
    depth: u32,
    until_ms: u64,
    /// Whether something unproven of ours runs, so that each promise it breaks has to be heard of.
    #[serde(default)]
    is_unproven: bool,
    /// The metrics whose promises were told to be broken since.
    #[serde(default)]
    told: BTreeSet<String>,
}

/// The moment, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the Unix epoch.
    pub ms: u64,
    /// How far local time is ahead of UTC, in seconds.
    pub utc_offset_s: i32,
}

impl Watch {
    /// Takes what one monitor read in one turn, and returns the anomalies that are to be told now. `objectives` returns those of a
    /// subject.
    ///
    /// Only the bad direction counts. A reading that was seen already, one that is no number, and one of a series beyond
    /// `series_max` change nothing.
    pub fn read<'a>(
        &mut self,
        readings: &[Reading],
        objectives: impl Fn(&str) -> &'a [Objective],
        config: &Config,
        now: Now,
    ) -> Vec<Anomaly> {
        let sound = || readings.iter().filter(|reading| is_plausible(reading.value));
        // Loads first: they explain what else was read with them.
        for reading in sound().filter(|reading| is_load(reading)) {
            if let Some(load) = self.load_of(reading, config) {
                load.read(reading.value, config, now.ms);
            }
        }
        for reading in sound() {
            self.take(reading, objectives(&reading.subject), config, now.ms);
        }
        self.tell(config, now)
    }

    /// Takes note of what a verdict taught: the service was changed by the daemon itself.
    ///
    /// Where the change was kept, the past of the domain is the past of other settings, and watching starts afresh.
    pub fn learn(&mut self, lesson: &Lesson, config: &Config, now_ms: u64) {
        self.deepen(&lesson.domain, config, now_ms);
        if let Some(stir) = self.stirs.get_mut(&lesson.domain) {
            stir.is_unproven = false;
        }
        if lesson.verdict.outcome != Ruled::Rollback {
            self.series.retain(|key, _| key.subject != lesson.domain);
            self.loads.retain(|key, _| key.subject != lesson.domain);
            self.incidents.retain(|incident| incident.subject != lesson.domain);
        }
    }

    /// Takes note that the daemon itself changes something about `subject`: for one repeat time, anomalies about it are one
    /// step deeper than the last one.
    ///
    /// What its promises were held against before is forgotten, and a promise that is broken from now on is told whatever was told
    /// before and in a time of silence too: whoever made the change has to hear of it.
    pub fn stir(&mut self, subject: &str, config: &Config, now_ms: u64) {
        self.deepen(subject, config, now_ms);
        let Some(stir) = self.stirs.get_mut(subject) else { return };
        stir.is_unproven = true;
        stir.told.clear();
        for (key, series) in self.series.range_mut(SeriesKey::first_of(subject)..) {
            if key.subject != subject {
                break;
            }
            // That an alert goes on is not said again.
            if !is_alert(&key.reading()) {
                series.forget_excess();
            }
        }
    }

    fn deepen(&mut self, subject: &str, config: &Config, now_ms: u64) {
        let until_ms = now_ms.saturating_add(config.repeat_after_s.saturating_mul(1000));
        if let Some(stir) = self.stirs.get_mut(subject) {
            stir.depth = stir.said_depth.saturating_add(1);
            stir.until_ms = until_ms;
        } else if self.series.keys().any(|key| key.subject == subject) {
            self.stirs.insert(subject.to_owned(), Stir { depth: 1, until_ms, ..Stir::default() });
        }
    }

    /// Returns how many series are watched.
    pub fn tracked(&self) -> usize {
        self.series.len() + self.loads.len()
    }

    /// Returns how many incidents are open.
    pub fn open(&self) -> usize {
        self.incidents.len()
    }

    /// Returns what was counted since this was asked last.
    pub fn counted(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Drops what is beyond the limits of the settings, as where they were lowered since this was saved.
    pub fn fit(&mut self, config: &Config) {
        while self.tracked() > config.series_max as usize
            && (self.series.pop_last().is_some() || self.loads.pop_last().is_some())
        {}
    }

    fn take(&mut self, reading: &Reading, objectives: &[Objective], config: &Config, now_ms: u64) {
        let limit = Limit::of(reading, objectives, config);
        let worse = compared_with_past(reading);
        if limit.is_none() && worse.is_none() {
            // It may have had an objective until the settings changed.
            self.series.remove(&SeriesKey::of(reading));
            return;
        }
        let is_surge = self.surge(&reading.subject).is_some();
        let Some(series) = self.series_of(reading, config) else { return };
        let heard = series.read(reading, (limit, worse), is_surge, config, now_ms);
        self.counts.explained += u64::from(heard.is_explained);
        if !heard.begins {
            return;
        }
        let (subject, trouble) = (&reading.subject, Trouble::of(&reading.subject, &reading.metric));
        let together_ms = millis(config.together_s);
        let known = self.incidents.iter_mut().find(|incident| incident.takes(subject, trouble, together_ms, now_ms));
        match known {
            Some(incident) => incident.take(trouble),
            None => self.incidents.push(Incident::new(subject, trouble, now_ms)),
        }
    }

    /// Returns the anomalies of the incidents that are to be told now, and drops those that are over.
    fn tell(&mut self, config: &Config, now: Now) -> Vec<Anomaly> {
        let repeat_ms = config.repeat_after_s.saturating_mul(1000);
        self.told.retain(|_, at_ms| now.ms.saturating_sub(*at_ms) < repeat_ms);
        let mut anomalies = Vec::new();
        for mut incident in std::mem::take(&mut self.incidents) {
            let mut signs = self.signs(&incident, config, now.ms);
            let news = self.broken_by_us(&incident.subject, &signs, now.ms);
            if let Some(place) = news {
                signs[..=place].rotate_right(1);
            }
            let Some((key, seen)) = signs.first() else { continue };
            let id = |trouble: &Trouble| identity(&incident.subject, *trouble);
            let is_gathered = now.ms.saturating_sub(incident.since_ms) >= millis(config.gather_s);
            let is_told = incident.troubles.iter().any(|trouble| self.told.contains_key(&id(trouble)));
            if is_gathered && (!is_told || news.is_some()) {
                let silent = |silence: &super::Silence| silence.holds(&incident.subject, now.ms, now.utc_offset_s);
                if news.is_none() && config.silence.iter().any(silent) {
                    self.counts.silenced += u64::from(!incident.is_silenced);
                    incident.is_silenced = true;
                } else {
                    anomalies.push(self.anomaly(key, *seen, &signs[1..], now.ms));
                    self.told.extend(incident.troubles.iter().map(|trouble| (id(trouble), now.ms)));
                    if let Some(stir) = self.stirs.get_mut(&incident.subject) {
                        let broken = signs.iter().filter(|(_, seen)| seen.kind == AnomalyKind::Objective);
                        stir.told.extend(broken.map(|(key, _)| key.metric.clone()));
                    }
                }
            }
            self.incidents.push(incident);
        }
        for anomaly in &mut anomalies {
            let stir = self.stirs.entry(anomaly.subject.clone()).or_default();
            anomaly.depth = if now.ms < stir.until_ms { stir.depth } else { 0 };
            stir.said_depth = anomaly.depth;
        }
        anomalies
    }

    /// Returns the place of the first sign that is a promise broken since a change of ours, and not told yet.
    fn broken_by_us(&self, subject: &str, signs: &[(SeriesKey, Seen)], now_ms: u64) -> Option<usize> {
        let stir = self.stirs.get(subject).filter(|stir| stir.is_unproven && now_ms < stir.until_ms)?;
        let is_news = |(key, seen): &(SeriesKey, Seen)| {
            seen.kind == AnomalyKind::Objective && !is_alert(&key.reading()) && !stir.told.contains(&key.metric)
        };
        signs.iter().position(is_news)
    }

    /// Returns the signs of an incident that are open, the one that matters most first. Of what was not heard of for long it is
    /// not known whether it goes on.
    fn signs(&self, incident: &Incident, config: &Config, now_ms: u64) -> Vec<(SeriesKey, Seen)> {
        let of = |key: &&SeriesKey| incident.troubles.contains(&Trouble::of(&key.subject, &key.metric));
        let seen = |key: &SeriesKey, series: &Series| series.seen(compared_with_past(&key.reading()));
        let own = self.series.range(SeriesKey::first_of(&incident.subject)..);
        let own = own.take_while(|(key, _)| key.subject == incident.subject);
        let open = own.filter(|(key, series)| series.is_open() && series.is_heard(config, now_ms) && of(key));
        let mut signs: Vec<(SeriesKey, Seen)> =
            open.filter_map(|(key, series)| Some((key.clone(), seen(key, series)?))).collect();
        signs.sort_by(|(one, first), (other, second)| {
            let rank = |key: &SeriesKey, seen: &Seen| {
                // Of two that say the same of a GPU, the one that says why goes first.
                let is_general = !key.metric.contains("memory");
                (seen.kind == AnomalyKind::Deviation, Trouble::of(&key.subject, &key.metric), is_general)
            };
            rank(one, first).cmp(&rank(other, second)).then(second.score.total_cmp(&first.score))
        });
        signs
    }

    fn anomaly(&self, key: &SeriesKey, seen: Seen, others: &[(SeriesKey, Seen)], now_ms: u64) -> Anomaly {
        let source = self.source(key);
        let evidence = |(key, seen): &(SeriesKey, Seen)| Evidence {
            metric: key.metric.clone(),
            observed: seen.observed,
            expected: seen.expected,
            samples: seen.samples,
            source: self.source(key),
        };
        Anomaly {
            cycle: CycleId::new(format!(
                "c-{}",
                short_hash(&[&key.subject, &key.metric, &key.gpu, &now_ms.to_string()])
            )),
            subject: key.subject.clone(),
            metric: key.metric.clone(),
            kind: seen.kind,
            observed: seen.observed,
            expected: seen.expected,
            spread: seen.spread,
            score: seen.score,
            samples: seen.samples,
            at_ms: now_ms,
            depth: 0,
            incident: identity(&key.subject, Trouble::of(&key.subject, &key.metric)),
            evidence: others.iter().take(EVIDENCE_MAX).map(evidence).collect(),
            surge: self.surge(&key.subject).map(|(load, seen)| seen.evidence(&load.metric, &source)),
            source,
        }
    }

    /// Returns the load of `subject` that is far above what is usual, if one is.
    fn surge(&self, subject: &str) -> Option<(&SeriesKey, &Load)> {
        let mut own = self.loads.range(SeriesKey::first_of(subject)..).take_while(|(key, _)| key.subject == subject);
        own.find(|(_, load)| load.is_surge())
    }

    fn source(&self, key: &SeriesKey) -> String {
        self.series.get(key).map(|series| series.source().to_owned()).unwrap_or_default()
    }

    fn series_of(&mut self, reading: &Reading, config: &Config) -> Option<&mut Series> {
        let key = SeriesKey::of(reading);
        let has_room = self.tracked() < config.series_max as usize || self.series.contains_key(&key);
        if !has_room {
            self.counts.cut += 1;
            return None;
        }
        Some(self.series.entry(key).or_default())
    }

    fn load_of(&mut self, reading: &Reading, config: &Config) -> Option<&mut Load> {
        let key = SeriesKey::of(reading);
        let has_room = self.tracked() < config.series_max as usize || self.loads.contains_key(&key);
        if !has_room {
            self.counts.cut += 1;
            return None;
        }
        Some(self.loads.entry(key).or_default())
    }
}

impl SeriesKey {
    fn of(reading: &Reading) -> Self {
        // The source of a service is its address, which changes with a restart; that of a GPU says which one it is.
        let gpu = if reading.is_about_gpu() { reading.source.clone() } else { String::new() };
        Self { subject: reading.subject.clone(), metric: reading.metric.clone(), gpu }
    }

    /// Returns what stands before every series of `subject`.
    fn first_of(subject: &str) -> Self {
        Self { subject: subject.to_owned(), metric: String::new(), gpu: String::new() }
    }

    /// Returns a reading of this series, of nothing.
    fn reading(&self) -> Reading {
        let (subject, metric, source) = (self.subject.clone(), self.metric.clone(), self.gpu.clone());
        Reading { subject, metric, value: 0.0, samples: 0, at_ms: 0, source }
    }
}

/// Maps whose keys are no text, written as lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K, V, S>(map: &BTreeMap<K, V>, serializer: S) -> Result<S::Ok, S::Error>
    where
        K: Serialize,
        V: Serialize,
        S: Serializer,
    {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
