//! `kloros explain`: one cycle as one story, with the numbers it stands on.

use anyhow::bail;
use kloros_actors::{
    facts::{
        Anomaly, AnomalyKind, Authority, CycleId, Estimate, ExperimentEnd, Fact, Generation, Kind, Outcome, Params,
        Recorded, Ruled, Ruling, Stage, Step, Verdict, stages,
    },
    seams::Query,
};

use super::{Answer, out::Out, progress};
use crate::{
    home::Home,
    journal::{Reader, rfc3339},
};

/// How many facts are looked through for the one that is meant.
const LOOK_BACK_MAX: usize = 20_000;

pub(super) fn explain(home: &Home, id: &str, out: &mut Out) -> anyhow::Result<Answer> {
    let reader = Reader::open(home)?;
    let Some(cycle) = cycle_of(&reader, id)? else {
        super::out::trouble(&format!("nothing is known of {id:?}; try `kloros deployments` or `kloros questions`"));
        return Ok(Answer::No);
    };
    let facts = reader.read(&Query { cycle: Some(cycle.clone()), ..Query::default() })?;
    out.answer(&facts, || tell(&cycle, &facts))?;
    Ok(Answer::Done)
}

/// Returns the cycle that `id`, or what begins with it, belongs to.
fn cycle_of(reader: &Reader, id: &str) -> anyhow::Result<Option<CycleId>> {
    if id.is_empty() {
        bail!("an id, or its beginning, is needed");
    }
    let exact = reader.read(&Query { cycle: Some(CycleId::new(id)), limit: 1, ..Query::default() })?;
    if let Some(recorded) = exact.first() {
        return Ok(Some(recorded.cycle.clone()));
    }
    let kinds = [Kind::Anomaly, Kind::Question, Kind::Experiment, Kind::Promotion, Kind::Deployment];
    let newest = reader.read(&Query::newest(&kinds, LOOK_BACK_MAX))?;
    let meant = |recorded: &&Recorded| {
        recorded.cycle.as_str().starts_with(id)
            || (recorded.fact.kind() != Kind::Anomaly && recorded.fact.subject().starts_with(id))
    };
    Ok(newest.iter().find(meant).map(|recorded| recorded.cycle.clone()))
}

fn tell(cycle: &CycleId, facts: &[Recorded]) -> String {
    let mut lines = vec![format!("cycle {cycle}")];
    let (mut tried, mut failed, mut runs) = (0, 0, 0);
    for recorded in facts {
        match &recorded.fact {
            Fact::Trial(trial) => {
                tried += 1;
                failed += u32::from(matches!(trial.outcome, Outcome::Failed(_)));
            }
            Fact::Run { .. } => runs += 1,
            _ => {}
        }
        if let Some(line) = sentence(&recorded.fact, tried, failed, runs) {
            lines.push(format!("{}  {line}", rfc3339(recorded.at_ms)));
        }
    }
    let open = stages(facts.iter().map(|recorded| recorded.fact.clone()));
    for (deployment, stage) in open.iter().filter(|(_, stage)| !stage.is_final()) {
        lines.push(format!("{} is {} now", deployment.id, stage.label()));
    }
    lines.join("\n")
}

fn sentence(fact: &Fact, tried: u32, failed: u32, runs: u32) -> Option<String> {
    match fact {
        Fact::Anomaly(anomaly) => Some(noticed(anomaly)),
        Fact::Question(question) => Some(format!(
            "asked      {}: {}, interest {:.2}",
            question.question_id, question.hypothesis, question.interest
        )),
        Fact::QuestionEnd(end) => Some(format!(
            "answered   {}: {}; not asked again before {}",
            end.question,
            end.how,
            rfc3339(end.eligible_at_ms)
        )),
        Fact::Experiment(experiment) => Some(format!(
            "evolved    {} on {}: {} parameters, up to {} generations of {}, seed {}",
            experiment.id,
            experiment.spec.domain,
            experiment.spec.search_space.len(),
            experiment.spec.budget.max_generations,
            experiment.spec.budget.max_candidates,
            experiment.seed
        )),
        Fact::Generation(generation) => Some(measured(generation)),
        Fact::ExperimentEnd(end) => Some(ended(end, tried, failed)),
        Fact::Promotion(promotion) => {
            Some(format!("proposed   {}: {}", promotion.id, progress::changes(&promotion.changes)))
        }
        Fact::Ruling(ruling) => Some(rule(ruling)),
        Fact::Answer(answer) => Some(match (answer.approved, answer.by_uid) {
            (true, Some(uid)) => format!("approved   by user {uid}"),
            (false, Some(uid)) => {
                format!("rejected   by user {uid}: {}", answer.why.as_deref().unwrap_or("no reason given"))
            }
            (_, None) => "expired    nobody answered in time".to_owned(),
        }),
        Fact::Deployment(deployment) => Some(match &deployment.authority {
            Authority::Policy(level) => {
                format!("deployed   {} on the authority of autonomy {}", deployment.id, u8::from(*level))
            }
            Authority::Person(uid) => format!("deployed   {} on the authority of user {uid}", deployment.id),
        }),
        Fact::Step { step, .. } => step_sentence(step),
        Fact::Verdict(verdict) => Some(judged(verdict, runs)),
        Fact::Lesson(lesson) => Some(format!("learned    {} (interest {:+.2})", lesson.says, lesson.interest_change)),
        Fact::Trial(_) | Fact::Run { .. } | Fact::Turn(_) => None,
    }
}

fn noticed(anomaly: &Anomaly) -> String {
    let than = match anomaly.kind {
        AnomalyKind::Deviation => format!("the median of {} readings is {}", anomaly.samples, number(anomaly.expected)),
        AnomalyKind::Objective => format!("its objective is at most {}", number(anomaly.expected)),
        AnomalyKind::Pressure => format!("{} is the limit", number(anomaly.expected)),
    };
    let observed = number(anomaly.observed);
    format!("noticed    {} {} at {observed}, while {than} ({})", anomaly.subject, anomaly.metric, anomaly.source)
}

fn measured(generation: &Generation) -> String {
    let best = generation.best.as_ref().map_or_else(
        || "none".to_owned(),
        |best| format!("{:+.1} % with {}", progress::percent_of_log(best.fitness), params(&best.params)),
    );
    let Generation { number, measured, failed, .. } = generation;
    format!("           generation {number}: {measured} measured, {failed} failed, best {best}")
}

fn ended(end: &ExperimentEnd, tried: u32, failed: u32) -> String {
    match end {
        ExperimentEnd::Won { winner, .. } => format!(
            "won        {} (claimed {:+.1} % over the live settings, {tried} trials, {failed} failed)",
            params(&winner.best.params),
            progress::percent_of_log(winner.best.fitness)
        ),
        ExperimentEnd::NoBetter { why, .. } => format!("no better  {why} ({tried} trials, {failed} failed)"),
        ExperimentEnd::Void { why, .. } => format!("void       {why} ({tried} trials, {failed} failed)"),
    }
}

fn rule(ruling: &Ruling) -> String {
    match ruling {
        Ruling::Allow { risk, level, .. } => format!("permitted  {risk} risk at autonomy {}", u8::from(*level)),
        Ruling::Ask { risk, level, why, until_ms, .. } => format!(
            "asked you  {risk} risk at autonomy {}: {why}; a no from {} on",
            u8::from(*level),
            rfc3339(*until_ms)
        ),
        Ruling::Refuse { why, .. } => format!("refused    {why}"),
    }
}

fn step_sentence(step: &Step) -> Option<String> {
    let words = match step {
        Step::Armed => "what undoes it lies on disk",
        Step::Applied => "the env file holds the new values",
        Step::Restarted => "the service was restarted",
        Step::Proven { .. } => "the service says that it runs with the new values",
        Step::Restored => "the old values are back, and the service runs with them",
        Step::Closed => "closed",
        Step::UndoFailed(why) => return Some(format!("STUCK      the undo failed: {why}")),
        Step::Intended | Step::Measured | Step::Judged(_) => return None,
    };
    Some(format!("           {words}"))
}

fn judged(verdict: &Verdict, runs: u32) -> String {
    let mut text = format!(
        "judged     {}: {}{} ({runs} runs in {} blocks, {} requests)",
        verdict.outcome,
        verdict.reason,
        verdict.improvement.map_or_else(String::new, |each| format!(", {}", estimate(&each))),
        verdict.blocks,
        verdict.samples
    );
    for (name, before) in &verdict.before {
        if let Some(after) = verdict.after.get(name) {
            text.extend([format!(
                "\n                                 {name} {} -> {}",
                number(*before),
                number(*after)
            )]);
        }
    }
    if verdict.outcome == Ruled::Success {
        text += "\n                                 the baseline moves to the new numbers";
    }
    text
}

/// Returns a line for everything that is under way.
pub(super) fn under_way(reader: &Reader) -> Vec<String> {
    let kinds = [Kind::Experiment, Kind::Trial, Kind::ExperimentEnd, Kind::Deployment, Kind::Step];
    let Ok(mut history) = reader.read(&Query::newest(&kinds, LOOK_BACK_MAX)) else { return Vec::new() };
    history.reverse();
    let mut running: Vec<(String, u32, u32)> = Vec::new();
    for recorded in &history {
        let subject = recorded.fact.subject();
        match &recorded.fact {
            Fact::Experiment(experiment) => {
                let budget = experiment.spec.budget;
                running.push((subject.to_owned(), 0, budget.max_candidates * budget.max_generations));
            }
            Fact::Trial(_) => running.iter_mut().filter(|each| each.0 == subject).for_each(|each| each.1 += 1),
            Fact::ExperimentEnd(_) => running.retain(|each| each.0 != subject),
            _ => {}
        }
    }
    let mut lines: Vec<String> =
        running.into_iter().map(|(id, tried, total)| format!("evolving   {id} trial {tried} of {total}")).collect();
    let open = stages(history.into_iter().map(|recorded| recorded.fact));
    lines.extend(open.iter().filter(|(_, stage)| !stage.is_final()).map(|(deployment, stage)| {
        let mark = if *stage == Stage::Stuck { "STUCK     " } else { "deploying " };
        format!("{mark} {} is {}: {}", deployment.id, stage.label(), progress::changes(&deployment.promotion.changes))
    }));
    lines
}

/// Prints a number with as many digits as it deserves.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.3}"),
    }
}

/// Prints an improvement with its interval.
pub(super) fn estimate(estimate: &Estimate) -> String {
    let [ratio, low, high] = [estimate.ratio, estimate.low, estimate.high].map(|each| each * 100.0);
    format!("{ratio:+.1} % ({low:+.1} to {high:+.1})")
}

/// Prints parameters in one line.
pub(super) fn params(params: &Params) -> String {
    params.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// Prints a span of time, as long as it deserves.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        long if long >= 86_400.0 => format!("{:.1} d", long / 86_400.0),
        long if long >= 3_600.0 => format!("{:.1} h", long / 3_600.0),
        long if long >= 60.0 => format!("{:.1} min", long / 60.0),
        short => format!("{short:.1} s"),
    }
}
