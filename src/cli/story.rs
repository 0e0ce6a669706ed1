//! `kloros explain`: one cycle as one story, with the numbers it stands on.

use std::collections::{BTreeMap, BTreeSet};

use kloros_actors::{
    facts::{
        Anomaly, AnomalyKind, Authority, CycleId, Estimate, Evidence, ExperimentEnd, Fact, Generation, Kind,
        Measurement, Outcome, Params, Recorded, Ruled, Ruling, Step, Trial, TrialFailure, Verdict, Winner, stages,
    },
    seams::Query,
};

use serde::Serialize;

use super::{
    Answer, calibrate, failures,
    ids::{begins, pick},
    lent,
    out::Out,
    progress,
};
use crate::{
    home::Home,
    journal::{Reader, rfc3339},
    traces::{Traced, trace_id},
};

/// How far lines without a time of their own are indented: by a time and two blanks.
const INDENT: usize = 22;

/// One cycle as it is told.
#[derive(Serialize)]
pub(crate) struct Story {
    cycle: CycleId,
    /// In words, each line with its time where it has one of its own.
    lines: Vec<String>,
    #[serde(skip)]
    facts: Vec<Recorded>,
}

/// Returns the story of the cycle that `id`, or what begins with it, belongs to; or why that is not one cycle.
pub(crate) fn story(home: &Home, id: &str) -> anyhow::Result<Result<Story, String>> {
    let Some(reader) = Reader::find(home)? else {
        return Ok(Err(format!("nothing is known yet in {}: start with `kloros run`", home.root().display())));
    };
    let cycle = match cycle_of(&reader, id)? {
        Ok(cycle) => cycle,
        Err(why) => return Ok(Err(format!("{why}; see `kloros deployments` or `kloros questions`"))),
    };
    let facts = reader.read(&Query { cycle: Some(cycle.clone()), ..Query::default() })?;
    Ok(Ok(Story { lines: tell(&cycle, &facts), cycle, facts }))
}

pub(super) fn explain(home: &Home, id: &str, out: &mut Out) -> anyhow::Result<Answer> {
    match story(home, id)? {
        Ok(Story { lines, facts, .. }) => {
            let facts: Vec<Traced> = facts.into_iter().map(Traced::of).collect();
            out.answer(&facts, || format!("{}\nkloros status", lines.join("\n")))?;
            Ok(Answer::Done)
        }
        Err(why) => {
            super::out::trouble(&why);
            Ok(Answer::No)
        }
    }
}

/// Returns one fact in words, as it is heard by itself.
pub(crate) fn heard(fact: &Fact) -> String {
    let alone = match fact {
        Fact::Trial(trial) => Some(match &trial.outcome {
            Outcome::Measured(_) => format!("tried      {}", params(&trial.params)),
            Outcome::Failed(failure) => format!("tried      {}, and failed: {}", params(&trial.params), failure.kind),
        }),
        Fact::Run { candidate, block, .. } => {
            Some(format!("ran        the {} settings, block {block}", if *candidate { "new" } else { "old" }))
        }
        Fact::ExperimentEnd(ExperimentEnd::Won { winner, .. }) => {
            Some(format!("won        {} (claimed {})", params(&winner.best.params), claimed(winner)))
        }
        Fact::ExperimentEnd(ExperimentEnd::NoBetter { why, .. }) => Some(format!("no better  {why}")),
        Fact::ExperimentEnd(ExperimentEnd::Void { why, .. }) => Some(format!("void       {why}")),
        Fact::Verdict(verdict) => Some(format!(
            "judged     {}: {}{}",
            verdict.outcome,
            verdict.reason,
            verdict.improvement.map_or_else(String::new, |each| format!(", {}", estimate(&each)))
        )),
        _ => None,
    };
    let words = alone.or_else(|| sentence(fact, 0, 0, 0));
    words.map_or_else(
        || fact.kind().label().replace('_', " "),
        |words| words.split_whitespace().collect::<Vec<_>>().join(" "),
    )
}

/// Returns the cycle that `id`, or what begins with it, belongs to; or why that is not one cycle.
fn cycle_of(reader: &Reader, id: &str) -> anyhow::Result<Result<CycleId, String>> {
    let of = |cycle: &str| Query { cycle: Some(CycleId::new(cycle)), limit: 1, ..Query::default() };
    if let Some(recorded) = reader.read(&of(id))?.pop() {
        return Ok(Ok(recorded.cycle));
    }
    let kinds = [Kind::Question, Kind::Experiment, Kind::Promotion, Kind::Deployment];
    let subjects = reader.ids(&kinds, id)?.into_iter().map(|subject| Query::newest(&kinds, 1).about(&subject));
    let cycles = reader.cycles(id)?.into_iter().map(|cycle| of(&cycle));
    let facts: Result<Vec<_>, _> = subjects.chain(cycles).map(|query| reader.read(&query)).collect();
    Ok(meant(id, &facts?.concat()))
}

/// Returns the one cycle of `facts` that `id` means. Several ids of one cycle are as good as one; a question that was asked
/// again means its newest cycle.
fn meant(id: &str, facts: &[Recorded]) -> Result<CycleId, String> {
    let mut ids: BTreeMap<&str, &CycleId> = BTreeMap::new();
    for recorded in facts {
        ids.entry(recorded.cycle.as_str()).or_insert(&recorded.cycle);
        // An anomaly's subject is what was watched, which has no story of its own.
        if recorded.fact.kind() != Kind::Anomaly {
            ids.entry(recorded.fact.subject()).or_insert(&recorded.cycle);
        }
    }
    let cycles: BTreeSet<&CycleId> = ids.iter().filter(|(each, _)| begins(each, id)).map(|(_, cycle)| *cycle).collect();
    if let (None, [cycle]) = (ids.get(id), cycles.iter().collect::<Vec<_>>().as_slice()) {
        return Ok((**cycle).clone());
    }
    let found = pick(id, "id", ids.keys().copied())?;
    ids.get(found).map(|cycle| (*cycle).clone()).ok_or_else(|| format!("nothing is known of {id:?}"))
}

fn tell(cycle: &CycleId, facts: &[Recorded]) -> Vec<String> {
    let mut lines = vec![format!("cycle {cycle}   trace {}", trace_id(cycle))];
    let (mut tried, mut runs, mut discarded) = (0, 0, 0);
    let (mut failed_trials, mut failed_runs) = (Vec::new(), Vec::new());
    for recorded in facts {
        match &recorded.fact {
            Fact::Trial(trial) => {
                tried += 1;
                failed_trials.extend(failure(trial));
                discarded += failures::thrown_away(measured_in(trial));
            }
            Fact::Run { outcome, .. } => {
                runs += 1;
                failed_runs.extend(outcome.as_ref().err());
                discarded += failures::thrown_away(outcome.as_ref().ok());
            }
            _ => {}
        }
        if let Some(line) = sentence(&recorded.fact, tried, failed_trials.len(), runs) {
            lines.push(format!("{}  {line}", rfc3339(recorded.at_ms)));
        }
        let failed = match &recorded.fact {
            Fact::ExperimentEnd(_) => std::mem::take(&mut failed_trials),
            Fact::Verdict(_) => std::mem::take(&mut failed_runs),
            _ => Vec::new(),
        };
        if matches!(recorded.fact, Fact::ExperimentEnd(_) | Fact::Verdict(_)) {
            lines.extend(discarded_line(std::mem::take(&mut discarded)));
        }
        lines.extend(failure_lines(failed));
    }
    // What has not come to its end yet has failures all the same.
    lines.extend(discarded_line(discarded));
    lines.extend(failure_lines(failed_trials.into_iter().chain(failed_runs)));
    let open = stages(facts.iter().map(|recorded| recorded.fact.clone()));
    for (deployment, stage) in open.iter().filter(|(_, stage)| !stage.is_final()) {
        lines.push(format!("{} is {} now", deployment.id, stage.label()));
    }
    lines
}

fn failure(trial: &Trial) -> Option<&TrialFailure> {
    match &trial.outcome {
        Outcome::Failed(failure) => Some(failure),
        Outcome::Measured(_) => None,
    }
}

fn measured_in(trial: &Trial) -> Option<&Measurement> {
    match &trial.outcome {
        Outcome::Measured(measurement) => Some(measurement),
        Outcome::Failed(_) => None,
    }
}

/// Returns a line that says how many samples were thrown away, below the sentence it belongs to.
fn discarded_line(count: u32) -> Option<String> {
    (count > 0).then(|| format!("{}{}", " ".repeat(INDENT), failures::discarded(count)))
}

/// Returns lines that say what failed and why, below the sentence they belong to.
fn failure_lines<'a>(failed: impl IntoIterator<Item = &'a TrialFailure>) -> Vec<String> {
    let indent = " ".repeat(INDENT);
    failures::lines(&failures::count(failed)).into_iter().map(|line| format!("{indent}{line}")).collect()
}

pub(super) fn sentence(fact: &Fact, tried: u32, failed: usize, runs: u32) -> Option<String> {
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
        // The first one says nothing that its beginning does not.
        Fact::Attempt(attempt) if attempt.trials > 0 => {
            Some(format!("           measures on, after {} trials", attempt.trials))
        }
        Fact::Experience(experience) => Some(format!("knew       {}", progress::known(experience))),
        Fact::Generation(generation) => Some(measured(generation)),
        Fact::ExperimentEnd(end) => Some(ended(end, tried, failed)),
        Fact::Promotion(promotion) => Some(format!("proposed   {}: {}", promotion.id, lent::wanted(promotion))),
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
        Fact::Switch(switch) => Some(match &switch.stop {
            Some(stop) => format!("stopped    {stop}"),
            None => "went on    everything may go on".to_owned(),
        }),
        Fact::Adoption(adoption) => progress::edited(adoption).map(|keys| format!("adopted    {keys}, edited by hand")),
        Fact::Thaw(thaw) => Some(format!("thawed     {} by user {}", thaw.domain, thaw.by_uid)),
        Fact::Anchored(anchored) => Some(format!("adopted    the baseline of {}, edited by hand", anchored.domain)),
        Fact::Calibration(known) => {
            Some(format!("measured   against itself: {}", calibrate::words(known, known.at_ms)))
        }
        Fact::Refused(refused) => Some(format!("refused    {}", progress::refused(refused))),
        Fact::Reload(reload) => Some(format!("read       {}", progress::reloaded(reload))),
        Fact::Loan(_) | Fact::LoanStep { .. } => lent::sentence(fact),
        Fact::Attempt(_) | Fact::Trial(_) | Fact::Run { .. } | Fact::Turn(_) => None,
    }
}

fn noticed(anomaly: &Anomaly) -> String {
    let than = match anomaly.kind {
        AnomalyKind::Deviation => format!("{} readings let expect {}", anomaly.samples, number(anomaly.expected)),
        AnomalyKind::Objective => format!("its objective is at most {}", number(anomaly.expected)),
        AnomalyKind::Pressure => format!("{} is the limit", number(anomaly.expected)),
    };
    let observed = number(anomaly.observed);
    let (subject, metric, source, together) = (&anomaly.subject, &anomaly.metric, &anomaly.source, together(anomaly));
    format!("noticed    {subject} {metric} at {observed}, while {than}{together} ({source})")
}

/// Returns what else of the subject is out with it, and how much is asked of it where that is unusual, for the end of a sentence.
pub(super) fn together(anomaly: &Anomaly) -> String {
    let sign = |sign: &Evidence| format!("{} {}", sign.metric, number(sign.observed));
    let others: Vec<String> = anomaly.evidence.iter().map(sign).collect();
    let others = if others.is_empty() { String::new() } else { format!("; with it {}", others.join(", ")) };
    let load = anomaly.surge.as_ref().map_or_else(String::new, |load| {
        format!("; under a load of {} {}, usually {}", load.metric, number(load.observed), number(load.expected))
    });
    others + &load
}

fn measured(generation: &Generation) -> String {
    let best = generation.best.as_ref().map_or_else(
        || "none".to_owned(),
        |best| format!("{:+.1} % with {}", progress::percent_of_log(best.fitness), params(&best.params)),
    );
    let Generation { number, measured, failed, .. } = generation;
    format!("           generation {number}: {measured} measured, {failed} failed, best {best}")
}

fn ended(end: &ExperimentEnd, tried: u32, failed: usize) -> String {
    match end {
        ExperimentEnd::Won { winner, .. } => format!(
            "won        {} (claimed {} over the live settings, {tried} trials, {failed} failed)",
            params(&winner.best.params),
            claimed(winner)
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
        Ruling::Hold { why, .. } => format!("held back  {why}"),
        Ruling::Advise { risk, why, .. } => {
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            format!("advised    {risk} risk, and nothing was changed{why}")
        }
    }
}

fn step_sentence(step: &Step) -> Option<String> {
    let words = match step {
        Step::Armed => "what undoes it lies on disk",
        Step::Applied => "the env file holds the new values",
        Step::Restarted => "the service was restarted",
        Step::Proven { .. } => "the service says that it runs with the new values",
        Step::Restored => "what still held our values holds the old ones again, and the service runs with its env file",
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
    let moves = match verdict.certifies() {
        Some(_) if verdict.outcome == Ruled::Success => "the baseline moves to the new numbers",
        Some(_) => "the baseline begins with the old numbers",
        None if verdict.outcome == Ruled::Success => "the baseline stays: it is higher, or as high as is sure",
        None => return text,
    };
    text.extend(["\n                                 ", moves]);
    text
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

/// Prints what is claimed for a winner, with its interval where there is one, and plainly where that says too little.
pub(super) fn claimed(winner: &Winner) -> String {
    let Some(gain) = winner.gain else {
        return format!("{:+.0} %, not established", progress::percent_of_log(winner.best.fitness));
    };
    let [ratio, low, high] = [gain.ratio, gain.low, gain.high].map(|each| each * 100.0);
    // Tenths of a percent tell nothing beside a doubling.
    let text = if ratio.abs() >= 20.0 { format!("{ratio:+.0} % ({low:+.0} to {high:+.0})") } else { estimate(&gain) };
    if gain.is_established() { text } else { format!("{text}, not established") }
}

/// Prints parameters in one line.
pub(super) fn params(params: &Params) -> String {
    params.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{QuestionEnd, QuestionId, Step, TrialFailure};

    use super::*;

    fn recorded(seq: u64, cycle: &str, fact: Fact) -> Recorded {
        Recorded { seq, cycle: CycleId::new(cycle), at_ms: 1_762_011_720_000, fact }
    }

    fn about(seq: u64, cycle: &str, id: &str) -> Recorded {
        let end = QuestionEnd {
            question: QuestionId::new(id),
            how: "void".to_owned(),
            why: String::new(),
            eligible_at_ms: 0,
            hypothesis: "LAB".to_owned(),
            domain: "lab".to_owned(),
        };
        recorded(seq, cycle, Fact::QuestionEnd(end))
    }

    #[test]
    fn an_id_means_one_cycle_or_says_which_it_could_mean() {
        // Newest first, as they are read.
        let facts = [
            about(4, "c-bb000000", "lab.queue.001"),
            about(3, "c-aa000000", "x-lab.latency.001"),
            about(2, "c-aa000000", "lab.latency.001"),
            about(1, "c-cc000000", "lab.queue.001"),
        ];
        for (id, cycle) in [
            ("c-aa", Ok("c-aa000000")),
            ("aa", Ok("c-aa000000")),
            // Question and experiment are of one cycle.
            ("lab.latency", Ok("c-aa000000")),
            ("x-lab.latency.001", Ok("c-aa000000")),
            // Asked twice: the newest is meant.
            ("lab.queue.001", Ok("c-bb000000")),
            ("lab.", Err("is the beginning of 3")),
            ("c-", Err("is the beginning of 3")),
            ("nosuch", Err("no id begins with")),
            ("", Err("no id begins with")),
        ] {
            match (meant(id, &facts), cycle) {
                (Ok(found), Ok(cycle)) => assert_eq!(found.as_str(), cycle, "{id}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{id}: {why}"),
                (found, cycle) => panic!("{id}: {found:?} is not {cycle:?}"),
            }
        }
    }

    #[test]
    fn a_story_says_how_many_samples_others_disturbed() {
        let measurement = Measurement {
            metrics: [("rate".to_owned(), 1.0)].into(),
            samples: 1,
            window_ms: 1,
            in_effect: BTreeMap::new(),
            source: String::new(),
            at_ms: 0,
            others: None,
            discarded: 2,
        };
        let run = |place: u32| Fact::Run {
            deployment: kloros_actors::facts::DeploymentId::new("d-1"),
            block: 1,
            place,
            candidate: true,
            outcome: Ok(measurement.clone()),
        };
        let text = tell(&CycleId::new("c-1"), &[recorded(1, "c-1", run(1)), recorded(2, "c-1", run(2))]).join("\n");
        assert!(text.contains("discarded  4 samples that others disturbed; measured again"), "{text}");
    }

    #[test]
    fn a_story_says_why_runs_failed_below_the_verdict_or_at_its_end() {
        let deployment = kloros_actors::facts::DeploymentId::new("d-1");
        let failed = |place: u32| {
            let (kind, detail) = (kloros_actors::facts::FailureKind::Died, "it ended with signal 9".to_owned());
            let outcome = Err(TrialFailure { kind, detail });
            recorded(
                place.into(),
                "c-1",
                Fact::Run { deployment: deployment.clone(), block: 1, place, candidate: true, outcome },
            )
        };
        let step = Fact::Step { deployment: deployment.clone(), step: Step::Proven { incarnation: None } };
        let text = tell(&CycleId::new("c-1"), &[recorded(1, "c-1", step), failed(2), failed(3)]).join("\n");
        assert!(text.contains("failed     2 x died, such as: it ended with signal 9"), "{text}");
    }
}
