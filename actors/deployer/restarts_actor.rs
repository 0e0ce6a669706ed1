//! How often measurements in place restarted a service within the last hour, as the journal tells. Where that cannot be told, it is too
//! often.

use std::collections::BTreeSet;

use super::loan;
use crate::{
    facts::{Fact, Kind, Recorded},
    seams::{JournalError, Query, Seams},
};

/// How many facts are read at first, which is enough for an hour of most machines.
const LOOK_BACK: usize = 500;

/// How many facts of the last hour are counted at most. Each stands for a restart of a service, which takes seconds.
const LOOK_BACK_MAX: usize = 32_000;

const HOUR_MS: u64 = 3_600_000;

/// Returns how often candidates and validations in place restarted the service of `domain` within the last hour; more often than any limit
/// allows, where so much happened that it cannot be counted.
pub(super) async fn restarts_last_hour(seams: &Seams, domain: &str) -> Result<u32, JournalError> {
    let since_ms = seams.clock.now_ms().saturating_sub(HOUR_MS);
    let Some(recent) = facts_since(seams, &[Kind::LoanStep, Kind::Run], since_ms).await? else { return Ok(u32::MAX) };
    // What a restart was for began at any time before it.
    let mut whose = BTreeSet::new();
    for recorded in &recent {
        match &recorded.fact {
            Fact::Run { deployment, .. } => whose.insert((Kind::Deployment, deployment.to_string())),
            Fact::LoanStep { experiment, .. } => whose.insert((Kind::Loan, experiment.to_string())),
            _ => false,
        };
    }
    let mut facts = Vec::new();
    for (kind, id) in whose {
        let begun = seams.journal.read(Query::newest(&[kind], LOOK_BACK).about(&id)).await?;
        facts.extend(begun.into_iter().map(|each| (each.at_ms, each.fact)));
    }
    facts.extend(recent.into_iter().map(|each| (each.at_ms, each.fact)));
    Ok(loan::restarts_since(&facts, domain, since_ms))
}

/// Returns all facts of `kinds` from `since_ms` on, oldest first, and perhaps some before; `None` where there are too many.
async fn facts_since(seams: &Seams, kinds: &[Kind], since_ms: u64) -> Result<Option<Vec<Recorded>>, JournalError> {
    let mut limit = LOOK_BACK;
    while limit <= LOOK_BACK_MAX {
        let mut found = seams.journal.read(Query::newest(kinds, limit)).await?;
        if found.len() < limit || found.last().is_some_and(|oldest| oldest.at_ms < since_ms) {
            found.reverse();
            return Ok(Some(found));
        }
        limit *= 4;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{DeploymentId, FailureKind, PromotionId, TrialFailure},
        testing::{World, deployment_of, promotion},
    };

    fn run(of: &DeploymentId) -> Fact {
        let outcome = Err(TrialFailure { kind: FailureKind::Died, detail: "it died".to_owned() });
        Fact::Run { deployment: of.clone(), block: 1, place: 1, candidate: true, outcome }
    }

    #[tokio::test]
    async fn restarts_of_the_hour_are_counted_however_much_happens_elsewhere_and_however_long_ago_they_began() {
        let world = World::with_env("SEQS=2\n");
        let own = deployment_of(promotion(&[("SEQS", 4)]));
        let mut request = promotion(&[("SEQS", 9)]);
        (request.id, request.domain) = (PromotionId::new("p-77"), "tts".to_owned());
        let elsewhere = deployment_of(request);
        world.write(vec![Fact::Deployment(own.clone()), Fact::Deployment(elsewhere.clone()), run(&own.id)]);
        // The deployment began more than an hour ago, and so does one restart of it lie.
        world.clock.pass(3_601);
        world.write(vec![run(&own.id); 3]);
        world.write(vec![run(&elsewhere.id); 3_000]);
        let seams = world.seams();
        assert_eq!(restarts_last_hour(&seams, "lab").await.unwrap(), 3);
        assert_eq!(restarts_last_hour(&seams, "tts").await.unwrap(), 3_000);
        assert_eq!(restarts_last_hour(&seams, "another").await.unwrap(), 0);
        // What cannot be counted is too much.
        world.write(vec![run(&elsewhere.id); LOOK_BACK_MAX]);
        assert_eq!(restarts_last_hour(&seams, "lab").await.unwrap(), u32::MAX);
        world.clock.pass(3_601);
        assert_eq!(restarts_last_hour(&seams, "tts").await.unwrap(), 0);
    }
}
