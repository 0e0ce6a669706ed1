use serde::{Deserialize, Serialize};

use super::{CycleId, Domain, Evidence};

/// One number that a probe read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Who it is about: a domain's name, `host`, or a GPU such as `gpu:0123abcd`.
    pub subject: String,
    /// What was read, unit last: `e2e_p95_ms`, `memory_used_ratio`.
    pub metric: String,
    /// The number; always finite.
    pub value: f64,
    /// How many observations stand behind it.
    pub samples: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Where it was read: a URL or a file.
    pub source: String,
}

impl Reading {
    /// Returns whether it is about a GPU.
    pub fn is_about_gpu(&self) -> bool {
        names_gpu(&self.subject)
    }
}

/// Something unlike its own past, or outside what its owner promised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// The cycle it begins.
    pub cycle: CycleId,
    /// Who: the readings' subject.
    pub subject: String,
    /// What: the readings' metric.
    pub metric: String,
    /// Why it was noticed.
    pub kind: AnomalyKind,
    /// The value that was seen: the median of the latest readings, and where a limit was crossed the largest one since.
    pub observed: f64,
    /// What was expected: the median of its past, or the objective's limit.
    pub expected: f64,
    /// The robust spread of its past (1.4826 x MAD); 0 for an objective.
    pub spread: f64,
    /// How far out it is, in spreads; for an objective the ratio to its limit.
    pub score: f64,
    /// How many readings stand behind `expected`.
    pub samples: u64,
    /// Where the readings came from.
    pub source: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How many of the daemon's own doings stand between a cause outside and this; 0 is outside.
    pub depth: u32,
    /// The incident it tells of: the same for the same trouble of the same subject, whatever was measured and whenever. Empty
    /// in journals from before there were incidents.
    #[serde(default)]
    pub incident: String,
    /// What else of the subject is out together with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// The load of the subject, where it is far above what it usually is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surge: Option<Evidence>,
}

impl Anomaly {
    /// Returns the objectives of `domain` that it says are breached: what it is about, and what is out together with it.
    pub fn breaches(&self, domain: &Domain) -> Vec<String> {
        let is_beyond = |metric: &str, observed: f64| {
            domain.objectives.iter().any(|objective| objective.reading == metric && observed > objective.max)
        };
        let own = (self.kind == AnomalyKind::Objective).then(|| self.metric.clone());
        let others = self.evidence.iter().filter(|sign| is_beyond(&sign.metric, sign.observed));
        own.into_iter().chain(others.map(|sign| sign.metric.clone())).collect()
    }

    /// Returns whether it is about a GPU.
    pub fn is_about_gpu(&self) -> bool {
        names_gpu(&self.subject)
    }

    /// Returns whether it is about the machine, its GPUs included, and not about a service on it.
    pub fn is_about_machine(&self) -> bool {
        self.subject == "host" || self.is_about_gpu()
    }
}

/// No domain's name has a colon, so none is mistaken for a GPU.
pub(super) fn names_gpu(subject: &str) -> bool {
    subject == "gpu" || subject.starts_with("gpu:")
}

/// Why an anomaly was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnomalyKind {
    /// Unlike its own past.
    Deviation,
    /// An objective of the domain file is breached.
    Objective,
    /// A resource is under pressure.
    Pressure,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_whose_name_begins_like_a_gpu_is_none() {
        for (subject, is_gpu) in
            [("gpu", true), ("gpu:0123abcd", true), ("gpu_tts", false), ("lab", false), ("host", false)]
        {
            assert_eq!(names_gpu(subject), is_gpu, "{subject}");
        }
    }
}
