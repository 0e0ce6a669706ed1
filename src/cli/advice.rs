//! What kloros would set where it only gives advice: the gain with its interval, how it was measured, and the lines to set.

use std::collections::BTreeMap;

use kloros_actors::{
    env_file,
    facts::{ExperimentEnd, ExperimentId, Fact, Kind, Origin, Promotion, PromotionId, Recorded, Ruling, Winner},
    seams::Query,
};
use serde::Serialize;

use super::story;
use crate::journal::Reader;

/// How many rulings are looked through for advice, the newest.
const RULINGS_MAX: usize = 1_000;

/// How many pieces of advice are looked at, the newest; a domain has the newest of its own.
const ADVISED_MAX: usize = 50;

/// Advice that nobody has followed yet.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Advice {
    /// What would have been deployed.
    pub(super) promotion: PromotionId,
    /// The domain.
    pub(super) domain: String,
    /// The experiment that found it, if one did.
    pub(super) experiment: Option<ExperimentId>,
    /// What is gained, and how that was measured.
    pub(super) evidence: String,
    /// The lines to put into the env file of the domain.
    pub(super) lines: Vec<String>,
}

impl Advice {
    /// Returns the advice in lines, behind `indent`.
    pub(super) fn words(&self, indent: &str) -> Vec<String> {
        let Self { domain, evidence, lines, .. } = self;
        let first = format!("{indent}advises    {domain}: {evidence}; to have it, set in its env file and restart it:");
        [first].into_iter().chain(lines.iter().map(|line| format!("{indent}             {line}"))).collect()
    }
}

/// Returns the newest advice on each domain that nobody has followed.
pub(super) fn found(reader: &Reader) -> anyhow::Result<Vec<Advice>> {
    let mut history = reader.read(&Query::newest(&[Kind::Ruling], RULINGS_MAX))?;
    history.retain(|recorded| matches!(recorded.fact, Fact::Ruling(Ruling::Advise { .. })));
    history.truncate(ADVISED_MAX);
    let Some(oldest) = history.last().map(|recorded| recorded.seq) else { return Ok(Vec::new()) };
    let promotions: Vec<String> = history.iter().map(|recorded| recorded.fact.subject().to_owned()).collect();
    for promotion in promotions {
        let promoted = reader.read(&Query::kinds(&[Kind::Promotion]).about(&promotion))?;
        if let Some(Fact::Promotion(Promotion { origin: Origin::Experiment(id), .. })) =
            promoted.first().map(|recorded| &recorded.fact)
        {
            history.extend(reader.read(&Query::kinds(&[Kind::ExperimentEnd]).about(id.as_str()))?);
        }
        history.extend(promoted);
    }
    let followed = Query::newest(&[Kind::Deployment, Kind::Adoption], RULINGS_MAX);
    history.extend(reader.read(&Query { after: oldest, ..followed })?);
    history.sort_by_key(|recorded| recorded.seq);
    Ok(current(&history))
}

/// Returns the newest advice on each domain, out of what `history` says of it, oldest first. Advice is over when something was
/// deployed on the domain since, or a person has edited all of its keys.
fn current(history: &[Recorded]) -> Vec<Advice> {
    let (mut promotions, mut winners) = (BTreeMap::new(), BTreeMap::new());
    let mut advised: BTreeMap<String, Advice> = BTreeMap::new();
    for recorded in history {
        match &recorded.fact {
            Fact::Promotion(promotion) => drop(promotions.insert(&promotion.id, promotion)),
            Fact::ExperimentEnd(ExperimentEnd::Won { experiment, winner }) => drop(winners.insert(experiment, winner)),
            Fact::Ruling(Ruling::Advise { promotion, .. }) => {
                if let Some(promotion) = promotions.get(promotion) {
                    advised.insert(promotion.domain.clone(), of(promotion, &winners));
                }
            }
            Fact::Deployment(deployment) => drop(advised.remove(&deployment.promotion.domain)),
            Fact::Adoption(adoption) => {
                let is_followed = |advice: &Advice| {
                    let promotion = promotions.get(&advice.promotion);
                    promotion.is_some_and(|promotion| promotion.changes.keys().all(|key| adoption.edited.contains(key)))
                };
                if advised.get(&adoption.domain).is_some_and(is_followed) {
                    advised.remove(&adoption.domain);
                }
            }
            _ => {}
        }
    }
    advised.into_values().collect()
}

fn of(promotion: &Promotion, winners: &BTreeMap<&ExperimentId, &Winner>) -> Advice {
    let experiment = match &promotion.origin {
        Origin::Experiment(id) => Some(id.clone()),
        Origin::Person(_) | Origin::File(_) | Origin::Trials(_) => None,
    };
    let winner = experiment.as_ref().and_then(|id| winners.get(id));
    let evidence = match (winner, &promotion.origin) {
        (Some(winner), _) => format!(
            "{} claimed by {}, which measured {} candidates beside what runs now ({} failed)",
            story::claimed(winner),
            winner.experiment_id,
            winner.measured,
            winner.failed
        ),
        (None, Origin::Person(uid)) => format!("user {uid} proposed it, and nobody measured it"),
        (None, Origin::File(name)) => format!("{name} proposed it, and nobody here measured it"),
        (None, Origin::Experiment(id) | Origin::Trials(id)) => format!("{id} found it"),
    };
    let edits: Vec<_> =
        promotion.changes.iter().map(|(key, change)| (key.clone(), Some(change.to.to_string()))).collect();
    // Plain values have a spelling; what has none was refused before it could be advised.
    let text = env_file::edit(b"", &edits).unwrap_or_default();
    Advice {
        promotion: promotion.id.clone(),
        domain: promotion.domain.clone(),
        experiment,
        evidence,
        lines: String::from_utf8_lossy(&text).lines().map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{
        Adoption, Autonomy, Best, Change, CycleId, Estimate, Key, Metrics, Params, Risk, Settings, Value,
    };

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn facts(facts: Vec<Fact>) -> Vec<Recorded> {
        let recorded = |(fact, seq): (Fact, u64)| Recorded { seq, cycle: CycleId::new("c-1"), at_ms: 0, fact };
        facts.into_iter().zip(1..).map(recorded).collect()
    }

    fn promotion() -> Promotion {
        let change = |from, to| Change { from: Some(Value::Integer(from)), in_file: true, to };
        Promotion {
            id: PromotionId::new("p-1"),
            cycle: CycleId::new("c-1"),
            origin: Origin::Experiment(ExperimentId::new("x-1")),
            experiment: "chat_tuning".into(),
            question: None,
            hypothesis: None,
            domain: "chat".into(),
            settings: Settings::new(),
            changes: [
                (key("CHAT_KIND"), change(1, Value::Choice("two words".into()))),
                (key("CHAT_SEQS"), change(2, Value::Integer(32))),
            ]
            .into(),
            replaces: None,
            fitness: None,
            at_ms: 0,
            depth: 0,
        }
    }

    fn advised() -> Vec<Fact> {
        let winner = Winner {
            experiment: "chat_tuning".into(),
            domain: "chat".into(),
            best: Best { params: Params::new(), fitness: 0.3, metrics: Metrics::new() },
            incumbent: Settings::new(),
            experiment_id: ExperimentId::new("x-1"),
            measured: 44,
            failed: 3,
            gain: Some(Estimate { ratio: 0.36, low: 0.12, high: 0.61 }),
            front: Vec::new(),
        };
        let ruling = Ruling::Advise {
            promotion: PromotionId::new("p-1"),
            risk: Risk::Low,
            level: Autonomy::Trusted,
            why: String::new(),
        };
        let won = ExperimentEnd::Won { experiment: ExperimentId::new("x-1"), winner };
        vec![Fact::ExperimentEnd(won), Fact::Promotion(promotion()), Fact::Ruling(ruling)]
    }

    #[test]
    fn advice_says_the_gain_with_its_interval_how_it_was_measured_and_the_very_lines() {
        let found = current(&facts(advised()));
        let [advice] = &found[..] else { panic!("{found:?}") };
        assert_eq!(advice.lines, ["CHAT_KIND=\"two words\"", "CHAT_SEQS=32"]);
        let words = advice.words("  ").join("\n");
        for part in ["chat: ", "36", "12", "61", "x-1, which measured 44 candidates", "3 failed", "  CHAT_SEQS=32"] {
            assert!(words.contains(part), "{part} is missing in {words}");
        }
    }

    #[test]
    fn advice_is_over_when_it_was_followed() {
        let edited = |keys: &[&str]| {
            let edited = keys.iter().map(|name| key(name)).collect();
            Fact::Adoption(Adoption { domain: "chat".into(), values: BTreeMap::new(), edited })
        };
        let with = |fact| current(&facts(advised().into_iter().chain([fact]).collect())).len();
        assert_eq!(with(edited(&["CHAT_SEQS"])), 1);
        assert_eq!(with(edited(&["CHAT_SEQS", "CHAT_KIND", "OTHER"])), 0);
    }
}
