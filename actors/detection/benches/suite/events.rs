//! Alarms against faults, event by event.

use super::Labelled;

/// Rows behind a fault in which an alarm is still about it.
const GRACE: usize = 10;

/// What became of the faults and alarms of some series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) found: u32,
    pub(crate) missed: u32,
    pub(crate) false_alarms: u32,
    pub(crate) days: f64,
    pub(crate) delays: Vec<u32>,
    /// By what was wrong: found, and how many there were.
    pub(crate) by: std::collections::BTreeMap<String, (u32, u32)>,
    pub(crate) false_by: std::collections::BTreeMap<String, u32>,
}

impl Tally {
    /// Counts the alarms of one series, a decision a row.
    pub(crate) fn add(&mut self, series: &Labelled, alarms: &[(usize, String)]) {
        let mut delays: Vec<Option<u32>> = vec![None; series.events.len()];
        for (alarm, cause) in alarms.iter().filter(|(alarm, _)| *alarm >= series.warmup as usize) {
            let event = series.events.iter().position(|event| (event.start..event.end + GRACE).contains(alarm));
            if let Some(event) = event {
                delays[event].get_or_insert((*alarm - series.events[event].start) as u32);
            } else {
                self.false_alarms += 1;
                *self.false_by.entry(format!("{} {cause}", series.family)).or_default() += 1;
            }
        }
        for (event, delay) in series.events.iter().zip(&delays) {
            let counted = self.by.entry(format!("{} {}", series.family, event.what)).or_default();
            counted.1 += 1;
            counted.0 += u32::from(delay.is_some());
        }
        self.found += delays.iter().flatten().count() as u32;
        self.missed += delays.iter().filter(|delay| delay.is_none()).count() as u32;
        self.delays.extend(delays.into_iter().flatten());
        self.days += (series.rows.len() - series.warmup as usize) as f64 * series.step / 86_400.0;
    }

    pub(crate) fn precision(&self) -> f64 {
        f64::from(self.found) / f64::from((self.found + self.false_alarms).max(1))
    }

    pub(crate) fn recall(&self) -> f64 {
        f64::from(self.found) / f64::from((self.found + self.missed).max(1))
    }

    pub(crate) fn f1(&self) -> f64 {
        let (precision, recall) = (self.precision(), self.recall());
        2.0 * precision * recall / (precision + recall).max(1e-9)
    }

    pub(crate) fn false_a_day(&self) -> f64 {
        f64::from(self.false_alarms) / self.days.max(1e-9)
    }

    /// Returns the delay that a share of the found faults was found within, in rows.
    pub(crate) fn delay(&mut self, share: f64) -> u32 {
        self.delays.sort_unstable();
        let index = (share * self.delays.len() as f64) as usize;
        self.delays.get(index.min(self.delays.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}
