//! What happened before: how often each domain was changed and undone, what a person did, and what is not to be tried again.

use std::collections::{BTreeMap, VecDeque};

use crate::facts::{
    Adoption, Calibration, Deployment, DeploymentId, Domain, Key, Lesson, Loan, Reason, Ruled, Step, Thaw, Value,
    Verdict, content_hash,
};

/// How many domains the history knows; the one that was quiet longest is forgotten.
pub const DOMAINS_MAX: usize = 256;

/// How many deployments and how many rollbacks of a domain are remembered; no budget is larger.
pub const EVENTS_MAX: usize = 1000;

/// How many restarts by measurements in place are remembered.
const RESTARTS_MAX: usize = 1000;

/// How many of the latest of them say how long one takes.
const PACE_OF: usize = 24;

/// Restarts that are farther apart do not follow each other, in milliseconds.
const APART_MS: u64 = HOUR_MS;

/// How many settings that are not to be deployed again are remembered; the oldest is forgotten.
pub const AVOIDED_MAX: usize = 4096;

/// How many failures in a row to find out a domain's noise are remembered; no setting allows more.
const FAILURES_MAX: usize = 100;

const HOUR_MS: u64 = 3_600_000;

const DAY_MS: u64 = 24 * HOUR_MS;

/// What happened to each domain, and which settings are not to be deployed again; folded from deployments, steps, verdicts,
/// lessons, edits and thaws, oldest first. The same fact taken twice counts once.
#[derive(Clone, Debug, Default)]
pub struct History {
    domains: BTreeMap<String, Past>,
    avoided: VecDeque<(String, String)>,
}

#[derive(Clone, Debug, Default)]
struct Past {
    deployments: VecDeque<(DeploymentId, u64)>,
    rollbacks: VecDeque<(DeploymentId, u64)>,
    /// What is not brought to its end yet.
    pending: Vec<DeploymentId>,
    /// A hash of what each knob was seen or left with last; `None` where the env file did not name it.
    seen: BTreeMap<Key, Option<String>>,
    /// When a person edited each knob last.
    edited_ms: BTreeMap<Key, u64>,
    /// Rollbacks until then do not freeze the domain any more.
    thawed_ms: u64,
    /// When a measurement in place restarted the service.
    restarts: VecDeque<u64>,
    /// What is known of its noise.
    calibration: Option<Calibration>,
    /// When finding that out failed, since it was found out or is measured otherwise.
    uncalibrated_ms: VecDeque<u64>,
    latest_ms: u64,
}

impl History {
    /// Takes note of a deployment that was planned.
    pub fn deployed(&mut self, deployment: &Deployment) {
        let past = self.past_of(&deployment.promotion.domain, deployment.at_ms);
        if remember(&mut past.deployments, &deployment.id, deployment.at_ms) {
            past.pending.push(deployment.id.clone());
        }
    }

    /// Takes note of a step of a deployment: the last one brings it to its end.
    pub fn stepped(&mut self, deployment: &DeploymentId, step: &Step) {
        if *step == Step::Closed {
            self.domains.values_mut().for_each(|past| past.pending.retain(|pending| pending != deployment));
        }
    }

    /// Takes note that the service of a domain is lent: until it is back nothing else changes it.
    pub fn lent(&mut self, loan: &Loan) {
        let past = self.past_of(&loan.domain, loan.at_ms);
        if !past.pending.contains(&loan.id) {
            past.pending.push(loan.id.clone());
        }
    }

    /// Takes note that a service that was lent is back.
    pub fn returned(&mut self, loan: &DeploymentId) {
        self.domains.values_mut().for_each(|past| past.pending.retain(|pending| pending != loan));
    }

    /// Takes note of what is known of a domain's noise.
    pub fn calibrated(&mut self, calibration: &Calibration) {
        let past = self.past_of(&calibration.domain, calibration.at_ms);
        let is_of_same = past.calibration.as_ref().is_none_or(|known| known.measured_by == calibration.measured_by);
        if calibration.outcome.is_ok() || !is_of_same {
            past.uncalibrated_ms.clear();
        }
        if calibration.outcome.is_err() && past.uncalibrated_ms.back() != Some(&calibration.at_ms) {
            past.uncalibrated_ms.push_back(calibration.at_ms);
            if past.uncalibrated_ms.len() > FAILURES_MAX {
                past.uncalibrated_ms.pop_front();
            }
        }
        past.calibration = Some(calibration.clone());
    }

    /// Returns how often in a row it failed from `since_ms` on to find out the noise of `domain` as it is `measured_by`.
    pub fn calibrations_failed(&self, domain: &str, measured_by: &str, since_ms: u64) -> usize {
        let Some(past) = self.domains.get(domain) else { return 0 };
        let is_of_it = past.calibration.as_ref().is_some_and(|known| known.measured_by == measured_by);
        past.uncalibrated_ms.iter().filter(|at_ms| is_of_it && **at_ms >= since_ms).count()
    }

    /// Returns what is known of the noise of `domain`.
    pub fn calibration(&self, domain: &str) -> Option<&Calibration> {
        self.domains.get(domain)?.calibration.as_ref()
    }

    /// Takes note that a candidate, or a run of a validation, restarted the service that is lent or changed under this id.
    pub fn restarted(&mut self, of: &DeploymentId, at_ms: u64) {
        let Some(past) = self.domains.values_mut().find(|past| past.pending.contains(of)) else { return };
        past.restarts.push_back(at_ms);
        if past.restarts.len() > RESTARTS_MAX {
            past.restarts.pop_front();
        }
    }

    /// Takes note of how a person left the knobs of a domain.
    pub fn adopted(&mut self, adoption: &Adoption, at_ms: u64) {
        let past = self.past_of(&adoption.domain, at_ms);
        past.seen.extend(adoption.values.clone());
        past.edited_ms.extend(adoption.edited.iter().map(|key| (key.clone(), at_ms)));
    }

    /// Takes note that a person lets a frozen domain go on.
    pub fn thawed(&mut self, thaw: &Thaw, at_ms: u64) {
        let past = self.past_of(&thaw.domain, at_ms);
        past.thawed_ms = past.thawed_ms.max(at_ms);
    }

    /// Takes note of a verdict. What a person undid, or the end of a maintenance window, is no sign that the domain needs one.
    pub fn judged(&mut self, verdict: &Verdict) {
        let is_no_sign = matches!(
            verdict.reason,
            Reason::Person { .. } | Reason::HumanOverride { .. } | Reason::Stopped { .. } | Reason::WindowEnded
        );
        let past = self.past_of(&verdict.domain, verdict.at_ms);
        match verdict.outcome {
            Ruled::Rollback if is_no_sign => {}
            Ruled::Rollback => drop(remember(&mut past.rollbacks, &verdict.deployment, verdict.at_ms)),
            Ruled::Success | Ruled::Neutral => {
                let left =
                    verdict.changes.iter().map(|(key, change)| (key.clone(), Some(hash_of(&change.to.to_string()))));
                past.seen.extend(left);
            }
        }
    }

    /// Takes a lesson to heart. A later lesson in which the same settings were kept lifts an
    /// earlier one against them.
    pub fn learned(&mut self, lesson: &Lesson) {
        if lesson.avoid || lesson.verdict.outcome != Ruled::Rollback {
            self.avoided.retain(|(fingerprint, _)| *fingerprint != lesson.fingerprint);
        }
        if lesson.avoid {
            self.avoided.push_back((lesson.fingerprint.clone(), lesson.says.clone()));
            if self.avoided.len() > AVOIDED_MAX {
                self.avoided.pop_front();
            }
        }
    }

    /// Returns how many deployments `domain` saw in the hour before `now_ms`.
    pub fn deployments_last_hour(&self, domain: &str, now_ms: u64) -> usize {
        self.domains.get(domain).map_or(0, |past| count_since(&past.deployments, now_ms, HOUR_MS))
    }

    /// Returns how many deployments all domains saw in the day before `now_ms`.
    pub fn deployments_last_day(&self, now_ms: u64) -> usize {
        self.domains.values().map(|past| count_since(&past.deployments, now_ms, DAY_MS)).sum()
    }

    /// Returns how many rollbacks `domain` saw in the day before `now_ms` and since it was thawed.
    pub fn rollbacks_last_day(&self, domain: &str, now_ms: u64) -> usize {
        self.domains.get(domain).map_or(0, |past| {
            let since = past.rollbacks.iter().filter(|(_, at_ms)| *at_ms > past.thawed_ms).cloned().collect();
            count_since(&since, now_ms, DAY_MS)
        })
    }

    /// Returns how often measurements in place restarted the service of `domain` in the hour before `now_ms`.
    pub fn restarts_last_hour(&self, domain: &str, now_ms: u64) -> usize {
        let is_recent = |at_ms: &&u64| at_ms.saturating_add(HOUR_MS) > now_ms;
        self.domains.get(domain).map_or(0, |past| past.restarts.iter().filter(is_recent).count())
    }

    /// Returns how long a measurement in place of `domain` takes from one restart to the next, in milliseconds: the median of
    /// the latest. `None` where none followed another.
    pub fn run_ms(&self, domain: &str) -> Option<u64> {
        let latest: Vec<u64> = self.domains.get(domain)?.restarts.iter().rev().take(PACE_OF + 1).copied().collect();
        let mut apart: Vec<u64> = latest.windows(2).map(|pair| pair[0].saturating_sub(pair[1])).collect();
        apart.retain(|ms| *ms > 0 && *ms < APART_MS);
        apart.sort_unstable();
        apart.get(apart.len() / 2).copied()
    }

    /// Returns the deployment of `domain` that is not brought to its end, if there is one.
    pub fn pending(&self, domain: &str) -> Option<&DeploymentId> {
        self.domains.get(domain)?.pending.first()
    }

    /// Returns whether anything changes the service of `domain`.
    pub fn is_pending(&self, domain: &str) -> bool {
        self.pending(domain).is_some()
    }

    /// Returns when a person edited `key` of `domain` last, in milliseconds since the Unix epoch.
    pub fn edited_ms(&self, domain: &str, key: &Key) -> Option<u64> {
        self.domains.get(domain)?.edited_ms.get(key).copied()
    }

    /// Returns what is to be written down of the knobs of `domain`, which its env file gives these `values`: that they are
    /// seen for the first time, or that somebody else than kloros changed them. `None` when nothing is new.
    pub fn unseen(&self, domain: &Domain, values: &BTreeMap<Key, Option<String>>) -> Option<Adoption> {
        let seen = self.domains.get(&domain.name).map(|past| &past.seen);
        let hashed = values.iter().map(|(key, text)| {
            let plain = text.as_ref().map(|text| normal(domain, key, text));
            (key.clone(), plain.map(|text| hash_of(&text)))
        });
        let known = |key: &Key| seen.and_then(|seen| seen.get(key));
        let new: BTreeMap<Key, Option<String>> = hashed.filter(|(key, hash)| known(key) != Some(hash)).collect();
        let edited = new.keys().filter(|key| known(key).is_some()).cloned().collect();
        (!new.is_empty()).then(|| Adoption { domain: domain.name.clone(), values: new, edited })
    }

    /// Returns the lesson against settings with this `fingerprint`, in one sentence, if there is one.
    pub fn lesson_against(&self, fingerprint: &str) -> Option<&str> {
        self.avoided.iter().find(|(avoided, _)| avoided == fingerprint).map(|(_, says)| says.as_str())
    }

    fn past_of(&mut self, domain: &str, at_ms: u64) -> &mut Past {
        if !self.domains.contains_key(domain) && self.domains.len() >= DOMAINS_MAX {
            let quietest = self.domains.iter().min_by_key(|(_, past)| past.latest_ms).map(|(name, _)| name.clone());
            quietest.and_then(|name| self.domains.remove(&name));
        }
        let past = self.domains.entry(domain.to_owned()).or_default();
        past.latest_ms = past.latest_ms.max(at_ms);
        past
    }
}

/// Remembers what happened, and returns whether it is new.
fn remember(events: &mut VecDeque<(DeploymentId, u64)>, deployment: &DeploymentId, at_ms: u64) -> bool {
    if events.iter().any(|(known, _)| known == deployment) {
        return false;
    }
    events.push_back((deployment.clone(), at_ms));
    if events.len() > EVENTS_MAX {
        events.pop_front();
    }
    true
}

/// Returns a value as kloros would write it, so that another spelling of it is no edit.
fn normal(domain: &Domain, key: &Key, text: &str) -> String {
    let value: Option<Value> = domain.knobs.get(key).and_then(|knob| knob.range.parse(text));
    value.map_or_else(|| text.to_owned(), |value| value.to_string())
}

fn hash_of(text: &str) -> String {
    content_hash(text.as_bytes())
}

/// Counts what happened in the `window_ms` before `now_ms`. What seems to lie in the future counts too: the clock went
/// back, and a budget is not won by that.
fn count_since(events: &VecDeque<(DeploymentId, u64)>, now_ms: u64, window_ms: u64) -> usize {
    events.iter().filter(|(_, at_ms)| at_ms.saturating_add(window_ms) > now_ms).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{deployment_of, promotion, rollback};

    #[test]
    fn the_history_is_bounded() {
        let mut history = History::default();
        for number in 0..AVOIDED_MAX + 10 {
            let mut deployment = deployment_of(promotion(&[("SEQS", 4)]));
            deployment.promotion.domain = format!("domain{number}");
            let verdict = rollback(&deployment, Reason::Worse);
            history.judged(&verdict);
            history.learned(&Lesson {
                cycle: verdict.cycle.clone(),
                domain: verdict.domain.clone(),
                question: None,
                hypothesis: None,
                fingerprint: format!("f{number}"),
                verdict,
                interest_change: 0.0,
                rest_until_ms: 0,
                avoid: true,
                says: "it was worse".to_owned(),
            });
        }
        assert_eq!((history.avoided.len(), history.domains.len()), (AVOIDED_MAX, DOMAINS_MAX));
        assert!(history.domains.values().all(|past| past.rollbacks.len() <= EVENTS_MAX));
    }
}
