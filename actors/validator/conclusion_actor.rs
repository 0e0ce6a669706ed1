//! How a validation ends: the verdict, and what the domain is held to from then on.

use super::{
    actor::{Judging, State},
    baseline::{self, Move},
    verdict::{Judgement, Spread},
};
use crate::{
    facts::{Baseline, DeploymentId, Measurement, Metrics, TrialFailure, Verdict, short_hash},
    record::{record_verdict, wake},
    seams::JournalError,
};

impl State {
    pub(super) async fn conclude(&mut self, id: &DeploymentId, judgement: Judgement) -> Result<(), JournalError> {
        let Some(judging) = self.judging.get(id) else { return Ok(()) };
        // A person may have written another one meanwhile.
        let held = self.anchor(&judging.domain).await?;
        let verdict = verdict(judging, judgement, held.as_ref(), self.seams.clock.now_ms());
        if record_verdict(&self.seams, &verdict).await? {
            for outlet in &self.exits.verdicts {
                wake(outlet, verdict.clone());
            }
        }
        self.judging.remove(id);
        Ok(())
    }
}

/// Remembers what the service said it ran with, of each side the last word.
pub(super) fn note_config(
    configs: &mut [Option<String>; 2],
    domain: &str,
    candidate: bool,
    outcome: &Result<Measurement, TrialFailure>,
) {
    let Ok(Measurement { in_effect, .. }) = outcome else { return };
    if !in_effect.is_empty() {
        let text = in_effect.iter().map(|(key, value)| format!("{key}={value};")).collect::<String>();
        configs[usize::from(candidate)] = Some(short_hash(&[domain, &text]));
    }
}

fn verdict(judging: &Judging, judgement: Judgement, held: Option<&Metrics>, now_ms: u64) -> Verdict {
    let promotion = &judging.deployment.promotion;
    let (old, new) = (judgement.spread_before, judgement.spread_after);
    let verdict = Verdict {
        deployment: judging.deployment.id.clone(),
        cycle: promotion.cycle.clone(),
        experiment: promotion.experiment.clone(),
        domain: promotion.domain.clone(),
        question: promotion.question.clone(),
        hypothesis: promotion.hypothesis.clone(),
        changes: promotion.changes.clone(),
        outcome: judgement.outcome,
        reason: judgement.reason,
        improvement: judgement.improvement,
        before: judgement.before,
        after: judgement.after,
        blocks: judgement.blocks,
        samples: judgement.samples,
        runs: judgement.runs,
        baseline: None,
        at_ms: now_ms,
    };
    let [before, after] = judging.configs.clone();
    let rests_on = |metrics, Spread { n, deviations }, config| Baseline { metrics, spread: deviations, n, config };
    let baseline = baseline::moved(&judging.domain.metrics, held, &verdict).map(|moved| match moved {
        Move::Begun(metrics) => rests_on(metrics, old, before),
        Move::Raised(metrics) => rests_on(metrics, new, after),
    });
    Verdict { baseline, ..verdict }
}
