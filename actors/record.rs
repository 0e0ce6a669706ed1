//! How a room makes a fact durable before it acts on it.

use crate::{
    facts::{
        CycleId, Deployment, DeploymentId, Entry, Experiment, Fact, Incarnation, Kind, Promotion, Proposal, Question,
        QuestionEnd, QuestionId, Recorded, Ruled, Stage, Step, Verdict, stages,
    },
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

/// Writes what becomes of `promotion`, its deployment or that a person took it back, and says whether it was decided by that:
/// of the two, the journal keeps what came first.
pub(crate) async fn decide(seams: &Seams, promotion: &Promotion, fact: Fact) -> Result<bool, JournalError> {
    let name = format!("deployment:{}", Deployment::id_of(&promotion.id));
    record_once(seams, &promotion.cycle, name, fact).await
}

/// Hands every fact of these kinds over, oldest first. They are read in pages, so that neither their number nor what else was written
/// decides what is known.
pub(crate) async fn recall(
    seams: &Seams,
    kinds: &[Kind],
    mut take: impl FnMut(Recorded) + Send,
) -> Result<(), JournalError> {
    let mut after = 0;
    loop {
        let page = seams.journal.read(Query { after, ..Query::kinds(kinds) }).await?;
        let is_last = page.len() < Query::LIMIT_DEFAULT;
        for recorded in page {
            after = recorded.seq;
            take(recorded);
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Wakes the room behind `outlet`. A room that is down misses nothing: the fact is in the journal, where it looks first.
pub(crate) fn wake<T>(outlet: &Outlet<T>, fact: T) {
    if let Err(down) = outlet.send(fact) {
        tracing::debug!(%down, "room not woken, it will read the journal");
    }
}

/// Which question ends, if there is one: a person's own proposal answers none.
pub(crate) struct Asked<'a> {
    cycle: &'a CycleId,
    question: Option<&'a QuestionId>,
    hypothesis: Option<&'a String>,
    domain: &'a str,
}

impl<'a> From<&'a Question> for Asked<'a> {
    fn from(from: &'a Question) -> Self {
        let (question, hypothesis) = (Some(&from.question_id), Some(&from.hypothesis));
        Self { cycle: &from.cycle, question, hypothesis, domain: &from.dream_experiment.domain }
    }
}

impl<'a> From<&'a Experiment> for Asked<'a> {
    fn from(from: &'a Experiment) -> Self {
        let (question, hypothesis) = (Some(&from.question), Some(&from.hypothesis));
        Self { cycle: &from.cycle, question, hypothesis, domain: &from.spec.domain }
    }
}

impl<'a> From<&'a Promotion> for Asked<'a> {
    fn from(from: &'a Promotion) -> Self {
        let (question, hypothesis) = (from.question.as_ref(), from.hypothesis.as_ref());
        Self { cycle: &from.cycle, question, hypothesis, domain: &from.domain }
    }
}

impl<'a> From<&'a Proposal> for Asked<'a> {
    fn from(from: &'a Proposal) -> Self {
        let (question, hypothesis) = (from.question.as_ref(), from.hypothesis.as_ref());
        Self { cycle: &from.cycle, question, hypothesis, domain: &from.domain }
    }
}

impl<'a> From<&'a Verdict> for Asked<'a> {
    fn from(from: &'a Verdict) -> Self {
        let (question, hypothesis) = (from.question.as_ref(), from.hypothesis.as_ref());
        Self { cycle: &from.cycle, question, hypothesis, domain: &from.domain }
    }
}

/// The end of a question and the entry that makes it durable, to be written with the fact that ends it.
pub(crate) struct Ending {
    pub(crate) end: QuestionEnd,
    pub(crate) entry: Entry,
}

impl Ending {
    /// Returns the end of what was asked, which then rests until `eligible_at_ms`; `None` where nothing was.
    pub(crate) fn of<'a>(
        asked: impl Into<Asked<'a>>,
        how: &str,
        why: &str,
        now_ms: u64,
        eligible_at_ms: u64,
    ) -> Option<Self> {
        let Asked { cycle, question, hypothesis, domain } = asked.into();
        let end = QuestionEnd {
            question: question?.clone(),
            hypothesis: hypothesis?.clone(),
            domain: domain.to_owned(),
            how: how.to_owned(),
            why: why.to_owned(),
            eligible_at_ms,
        };
        let name = format!("question_end:{}", end.question);
        let entry = Entry::once(cycle, now_ms, name, Fact::QuestionEnd(end.clone()));
        Some(Self { end, entry })
    }

    /// Returns [`Ending::of`] with a rest of `rest_s` seconds from now on.
    pub(crate) fn resting<'a>(
        seams: &Seams,
        asked: impl Into<Asked<'a>>,
        how: &str,
        why: &str,
        rest_s: u64,
    ) -> Option<Self> {
        let now_ms = seams.clock.now_ms();
        Self::of(asked, how, why, now_ms, now_ms.saturating_add(rest_s.saturating_mul(1000)))
    }

    /// Returns the entries that make `facts` durable, and the end with them.
    pub(crate) fn with(ending: Option<&Self>, mut facts: Vec<Entry>) -> Vec<Entry> {
        facts.extend(ending.map(|ending| ending.entry.clone()));
        facts
    }

    /// Tells of an end that is durable.
    pub(crate) fn tell(ending: Option<Self>, ended: &Outlet<QuestionEnd>) {
        if let Some(Self { end, .. }) = ending {
            tracing::info!(question = %end.question, how = %end.how, why = %end.why, "question ended");
            wake(ended, end);
        }
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

/// Returns where a deployment stands, and whether anything that it touched may have to be undone.
pub(crate) async fn standing(seams: &Seams, id: &DeploymentId) -> Result<Standing, JournalError> {
    let recorded = seams.journal.read(Query::kinds(&[Kind::Deployment, Kind::Step]).about(id.as_str())).await?;
    let has =
        |wanted: &Step| recorded.iter().any(|each| matches!(&each.fact, Fact::Step { step, .. } if step == wanted));
    let (was_armed, was_applied) = (has(&Step::Armed), has(&Step::Applied));
    let stage = stages(recorded.into_iter().map(|each| each.fact)).first().map_or(Stage::Planned, |(_, stage)| *stage);
    Ok(Standing { stage, was_armed, was_applied })
}

/// Returns whether somebody outside took over the deployment, because this process was late: then nothing more may be said
/// of it but that it is undone. Where that cannot be looked up, it was.
pub(crate) async fn is_taken_over(seams: &Seams, domain: &str, id: &DeploymentId) -> bool {
    let claimed = seams.pending.claimed(domain).await;
    claimed.map_or(true, |claimed| claimed.is_some_and(|claimed| claimed.deployment == *id))
}

/// Why a deployment is given up that somebody outside took over.
pub(crate) const TAKEN_OVER: &str = "the guard took it back, because kloros did not say in time that it still works";

/// Returns which run of the service was proven to run with a deployment; `None` where that could not be told.
pub(crate) async fn proven(seams: &Seams, id: &DeploymentId) -> Result<Option<Incarnation>, JournalError> {
    let recorded = seams.journal.read(Query::kinds(&[Kind::Step]).about(id.as_str())).await?;
    Ok(recorded.into_iter().find_map(|each| match each.fact {
        Fact::Step { step: Step::Proven { incarnation }, .. } => incarnation,
        _ => None,
    }))
}

/// What the journal says of one deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Where it stands.
    pub(crate) stage: Stage,
    /// The env file may have been written to: before this step nothing is touched.
    pub(crate) was_armed: bool,
    /// The service may have been restarted: before this step it runs with what it ran with.
    pub(crate) was_applied: bool,
}

/// Returns the deployments that are not closed, oldest first, and where each stands.
pub(crate) async fn open_deployments(seams: &Seams) -> Result<Vec<(Deployment, Stage)>, JournalError> {
    let history = seams.journal.read(Query::open(&[Kind::Deployment, Kind::Step])).await?;
    let open = stages(history.into_iter().map(|recorded| recorded.fact));
    Ok(open.into_iter().filter(|(_, stage)| !stage.is_final()).collect())
}
