//! What happened before: how often each domain was changed and undone, what a person did, and what is not to be tried again.

use std::collections::{BTreeMap, VecDeque};

use crate::facts::{
    Adoption, Deployment, DeploymentId, Domain, Key, Lesson, Reason, Ruled, Step, Thaw, Value, Verdict, content_hash,
};

/// How many domains the history knows; the one that was quiet longest is forgotten.
pub const DOMAINS_MAX: usize = 256;

/// How many deployments and how many rollbacks of a domain are remembered; no budget is larger.
pub const EVENTS_MAX: usize = 1000;

/// How many settings that are not to be deployed again are remembered; the oldest is forgotten.
pub const AVOIDED_MAX: usize = 4096;

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

    /// Takes note of a verdict. What a person undid is no sign that the domain needs one.
    pub fn judged(&mut self, verdict: &Verdict) {
        let is_a_persons =
            matches!(verdict.reason, Reason::Person { .. } | Reason::HumanOverride { .. } | Reason::Stopped { .. });
        let past = self.past_of(&verdict.domain, verdict.at_ms);
        match verdict.outcome {
            Ruled::Rollback if is_a_persons => {}
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

    /// Returns the deployment of `domain` that is not brought to its end, if there is one.
    pub fn pending(&self, domain: &str) -> Option<&DeploymentId> {
        self.domains.get(domain)?.pending.first()
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
