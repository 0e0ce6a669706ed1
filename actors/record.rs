//! How a room makes a fact durable before it acts on it.

use crate::{
    facts::{CycleId, Deployment, Entry, Fact, Kind, Ruled, Stage, Step, Verdict, stages},
    meters,
    seams::{Appended, JournalError, Outlet, Query, Seams},
};

/// Writes `entries` all or none. A room that gets an error does not act: what is not durable did not happen, and the
/// room's next sweep of the journal finds the work again.
pub(crate) async fn record(seams: &Seams, entries: Vec<Entry>) -> Result<Vec<Appended>, JournalError> {
    let written = seams.journal.append(entries).await;
    if let Err(error) = &written {
        metrics::counter!(meters::JOURNAL_FAILURES_TOTAL).increment(1);
        tracing::error!(%error, "fact not recorded, nothing is done");
    }
    written
}

/// Writes one fact that may be there only once, and says whether it is new.
pub(crate) async fn record_once(
    seams: &Seams,
    cycle: &CycleId,
    name: String,
    fact: Fact,
) -> Result<bool, JournalError> {
    let entry = Entry::once(cycle, seams.clock.now_ms(), name, fact);
    let written = record(seams, vec![entry]).await?;
    Ok(written.first().is_some_and(|first| matches!(first, Appended::At(_))))
}

/// Wakes the room behind `outlet`. A room that is down misses nothing: the fact is in the journal, where it looks first.
pub(crate) fn wake<T>(outlet: &Outlet<T>, fact: T) {
    if let Err(down) = outlet.send(fact) {
        tracing::debug!(%down, "room not woken, it will read the journal");
    }
}

/// Writes a verdict together with the step that makes it the commit point, all or none, and says whether it is the
/// first of its deployment; a second one is not written.
pub(crate) async fn record_verdict(seams: &Seams, verdict: &Verdict) -> Result<bool, JournalError> {
    let id = &verdict.deployment;
    let step = Fact::Step { deployment: id.clone(), step: Step::Judged(verdict.outcome) };
    let entries = vec![
        Entry::once(&verdict.cycle, verdict.at_ms, format!("verdict:{id}"), Fact::Verdict(verdict.clone())),
        Entry::once(&verdict.cycle, verdict.at_ms, format!("judged:{id}"), step),
    ];
    let first = record(seams, entries).await?.first().is_some_and(|first| matches!(first, Appended::At(_)));
    if first {
        announce(verdict);
    }
    Ok(first)
}

fn announce(verdict: &Verdict) {
    metrics::counter!(meters::VERDICTS_TOTAL, "outcome" => verdict.outcome.label()).increment(1);
    if verdict.outcome == Ruled::Rollback {
        metrics::counter!(meters::ROLLBACKS_TOTAL, "reason" => verdict.reason.label()).increment(1);
    }
    if let Some(improvement) = verdict.improvement {
        metrics::gauge!(meters::IMPROVEMENT_RATIO).set(improvement.ratio);
    }
    tracing::info!(
        cycle = %verdict.cycle, deployment = %verdict.deployment, outcome = %verdict.outcome,
        reason = %verdict.reason, blocks = verdict.blocks, "deployment judged"
    );
}

/// How many deployments and steps of the past are folded to find what is open.
const DEPLOYMENT_HISTORY_MAX: usize = 5_000;

/// Returns the deployments that are not closed, oldest first, and where each stands.
pub(crate) async fn open_deployments(seams: &Seams) -> Result<Vec<(Deployment, Stage)>, JournalError> {
    let query = Query::newest(&[Kind::Deployment, Kind::Step], DEPLOYMENT_HISTORY_MAX);
    let mut history = seams.journal.read(query).await?;
    history.reverse();
    let open = stages(history.into_iter().map(|recorded| recorded.fact));
    Ok(open.into_iter().filter(|(_, stage)| !stage.is_final()).collect())
}
