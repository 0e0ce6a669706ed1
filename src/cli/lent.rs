//! What is said of services that are lent to experiments.

use std::collections::BTreeMap;

use kloros_actors::facts::{Authority, DeploymentId, Fact, Loan, LoanStep, Origin, Promotion, Recorded, Settings};
use serde::Serialize;

use super::{progress, text::shorten};

/// How much of a reason is printed, in characters.
const REASON_MAX: usize = 200;

/// A service that is lent.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Lent {
    pub(super) id: String,
    pub(super) domain: String,
    experiment: String,
    /// The trial whose settings the service was given last.
    trial: Option<String>,
    settings: String,
    /// Why its own settings could not be brought back, if they should be.
    pub(super) stuck: Option<String>,
}

/// Returns the services that are lent, out of facts of the journal, oldest first.
pub(super) fn lent<'a>(history: impl IntoIterator<Item = &'a Recorded>) -> Vec<Lent> {
    let mut open: BTreeMap<&DeploymentId, Lent> = BTreeMap::new();
    for recorded in history {
        match &recorded.fact {
            Fact::Loan(Loan { id, domain, experiment, .. }) => {
                let (domain, experiment) = (domain.clone(), experiment.to_string());
                let (trial, settings, stuck) = (None, String::new(), None);
                open.insert(id, Lent { id: id.to_string(), domain, experiment, trial, settings, stuck });
            }
            Fact::LoanStep { loan, step, .. } => {
                if matches!(step, LoanStep::Ended { .. }) {
                    open.remove(loan);
                }
                let Some(lent) = open.get_mut(loan) else { continue };
                match step {
                    LoanStep::Applies { label, settings } => {
                        (lent.trial, lent.settings) = (Some(label.clone()), words_of(settings));
                    }
                    LoanStep::Stuck { why } => lent.stuck = Some(why.clone()),
                    LoanStep::Ended { .. } => {}
                }
            }
            _ => {}
        }
    }
    open.into_values().collect()
}

impl Lent {
    /// Returns the line of `kloros status`.
    pub(super) fn words(&self) -> String {
        let Lent { domain, experiment, trial, settings, stuck, .. } = self;
        match (stuck, trial) {
            (Some(why), _) => format!(
                "  STUCK      {domain}: its own settings are not back after trials: {}   when that is mended: kloros recover",
                shorten(why, REASON_MAX)
            ),
            (None, None) => format!("  lent       {domain} to {experiment}   kloros stop takes it back"),
            (None, Some(trial)) => {
                format!("  lent       {domain} to {experiment}, tries {settings} ({trial})   kloros stop takes it back")
            }
        }
    }
}

/// Returns what a promotion wants, in words: its changes, or how far trials on the service may go.
pub(super) fn wanted(promotion: &Promotion) -> String {
    let changes = progress::changes(&promotion.changes);
    match &promotion.origin {
        Origin::Trials(experiment) => {
            format!("trials of {experiment} on {} itself, as far as {changes}", promotion.domain)
        }
        Origin::Experiment(_) | Origin::Person(_) | Origin::File(_) => changes,
    }
}

/// Returns the sentence of `kloros explain`.
pub(super) fn sentence(fact: &Fact) -> Option<String> {
    match fact {
        Fact::Loan(Loan { id, domain, authority, .. }) => {
            let whose = match authority {
                Authority::Policy(level) => format!("autonomy {}", u8::from(*level)),
                Authority::Person(uid) => format!("user {uid}"),
            };
            Some(format!("lent       {domain} itself for trials, as {id}, on the authority of {whose}"))
        }
        Fact::LoanStep { step: LoanStep::Applies { label, settings }, .. } => {
            Some(format!("           {label}: the service is restarted with {}", words_of(settings)))
        }
        Fact::LoanStep { step: LoanStep::Ended { why }, .. } => {
            Some(format!("returned   the service runs with its own settings again: {why}"))
        }
        Fact::LoanStep { step: LoanStep::Stuck { why }, .. } => {
            Some(format!("STUCK      its own settings are not back: {why}"))
        }
        _ => None,
    }
}

/// Returns the line of a run, as it happens.
pub(super) fn line(fact: &Fact) -> Option<String> {
    match fact {
        Fact::Loan(Loan { domain, .. }) => {
            Some(format!("lends     {domain} itself for trials\n          kloros stop takes it back"))
        }
        Fact::LoanStep { step: LoanStep::Ended { why }, .. } => {
            Some(format!("returns   the service runs with its own settings again: {}", shorten(why, REASON_MAX)))
        }
        Fact::LoanStep { step: LoanStep::Stuck { why }, .. } => {
            Some(format!("STUCK     its own settings are not back: {}", shorten(why, REASON_MAX)))
        }
        _ => None,
    }
}

/// Returns what goes on now, as it begins.
pub(super) fn now(fact: &Fact) -> Option<String> {
    match fact {
        Fact::LoanStep { step: LoanStep::Applies { settings, .. }, .. } => {
            Some(format!("trying on the service itself: {}", words_of(settings)))
        }
        _ => None,
    }
}

fn words_of(settings: &Settings) -> String {
    if settings.is_empty() {
        return "its own settings".to_owned();
    }
    settings.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{Autonomy, CycleId, ExperimentId, Key, PromotionId, Value};

    use super::*;

    fn recorded(facts: Vec<Fact>) -> Vec<Recorded> {
        let at = |(place, fact)| Recorded { seq: place as u64 + 1, cycle: CycleId::new("c-1"), at_ms: 0, fact };
        facts.into_iter().enumerate().map(at).collect()
    }

    fn step(step: LoanStep) -> Fact {
        Fact::LoanStep { loan: DeploymentId::new("l-1"), experiment: ExperimentId::new("x-1"), step }
    }

    fn loan() -> Fact {
        Fact::Loan(Loan {
            id: DeploymentId::new("l-1"),
            experiment: ExperimentId::new("x-1"),
            promotion: PromotionId::new("p-1"),
            domain: "chat".to_owned(),
            authority: Authority::Policy(Autonomy::Trusted),
            at_ms: 0,
        })
    }

    #[test]
    fn a_service_is_lent_until_its_own_settings_are_back() {
        let applies = |settings: Settings| step(LoanStep::Applies { label: "x-1.g1.t02".to_owned(), settings });
        let seqs = Settings::from([(Key::new("SEQS").unwrap(), Value::Integer(8))]);
        for (steps, expected) in [
            (vec![], Some("lent       chat to x-1   kloros stop takes it back")),
            (vec![applies(Settings::new())], Some("lent       chat to x-1, tries its own settings (x-1.g1.t02)")),
            (vec![applies(seqs.clone())], Some("lent       chat to x-1, tries SEQS=8 (x-1.g1.t02)")),
            (vec![applies(seqs), step(LoanStep::Stuck { why: "no".to_owned() })], Some("STUCK      chat: its own")),
            (vec![step(LoanStep::Ended { why: "it is over".to_owned() })], None),
        ] {
            let history = recorded(std::iter::once(loan()).chain(steps).collect());
            let words: Vec<String> = lent(&history).iter().map(Lent::words).collect();
            match expected {
                Some(part) => assert!(words[0].contains(part), "{words:?}"),
                None => assert!(words.is_empty(), "{words:?}"),
            }
        }
    }
}
