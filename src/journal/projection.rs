//! Which lines and files a fact becomes. Pure: the same facts give the same bytes, live and in a rebuild.

use std::collections::BTreeMap;

use kloros_actors::facts::{
    Anchored, Best, Budget, Change, Estimate, Experiment, ExperimentEnd, Fact, Generation, Key, Lesson, Metrics,
    Question, QuestionId, Recorded, Ruled, Verdict, short_hash,
};
use serde::Serialize;

use super::{fault::Fault, time::rfc3339};
use crate::home::files;

/// How many open questions the feed shows, the newest.
pub(super) const FEED_QUESTIONS_MAX: usize = 500;

/// The longest name of a file that is made of an id, in bytes.
const NAME_BYTES_MAX: usize = 120;

/// A piece of a file that a fact becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Projected {
    /// The file, relative to the home.
    pub(super) file: String,
    /// How the content gets into it.
    pub(super) shape: Shape,
    /// The content; a line has no line feed at its end yet.
    pub(super) content: String,
}

/// How a content gets into its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// It is one more line.
    Line,
    /// It is the whole file.
    Whole,
}

impl Shape {
    /// Returns the shape as it stands in the outbox.
    pub(super) fn label(self) -> &'static str {
        match self {
            Shape::Line => "line",
            Shape::Whole => "whole",
        }
    }
}

/// Returns what `recorded` becomes. The feed is not among it: it depends on all open questions, see [`feed`].
pub(super) fn of(recorded: &Recorded) -> serde_json::Result<Vec<Projected>> {
    match &recorded.fact {
        Fact::Experiment(experiment) => Ok(vec![event(recorded, Event::started(experiment))?]),
        Fact::Generation(generation) => Ok(vec![event(recorded, Event::generation(generation))?]),
        Fact::ExperimentEnd(end) => ended(recorded, end),
        Fact::Verdict(verdict) => judged(recorded, verdict),
        Fact::Anchored(anchored) => Ok(vec![whole(baseline_file(&anchored.domain), &Adopted::of(recorded, anchored))?]),
        Fact::Lesson(lesson) => Ok(vec![line(files::FEEDBACK, &LessonLine::of(recorded, lesson))?]),
        _ => Ok(Vec::new()),
    }
}

/// Returns the feed after the fact at `seq`: the questions that are `open`, oldest first.
pub(super) fn feed(open: &[Recorded], seq: u64, at_ms: u64) -> serde_json::Result<Projected> {
    let questions = open.iter().filter_map(|recorded| match &recorded.fact {
        Fact::Question(question) => Some(question),
        _ => None,
    });
    whole(files::FEED.to_owned(), &Feed { updated_at: rfc3339(at_ms), seq, questions: questions.collect() })
}

/// Returns what it means that a fact has no JSON.
pub(super) fn unprintable(error: &serde_json::Error) -> Fault {
    Fault::Unwritable(format!("a fact cannot be projected: {error}"))
}

fn ended(recorded: &Recorded, end: &ExperimentEnd) -> serde_json::Result<Vec<Projected>> {
    let mut projected = vec![event(recorded, Event::ended(end))?];
    if let ExperimentEnd::Won { experiment, winner } = end {
        let name = file_name(experiment.as_str());
        projected.push(whole(format!("{}/{name}.json", files::WINNERS_FOLDER), winner)?);
    }
    Ok(projected)
}

fn judged(recorded: &Recorded, verdict: &Verdict) -> serde_json::Result<Vec<Projected>> {
    let mut projected = vec![line(files::VALIDATIONS, &VerdictLine::of(recorded, verdict))?];
    if let Some(metrics) = verdict.certifies() {
        projected.push(whole(baseline_file(&verdict.domain), &Baseline::of(recorded, verdict, metrics))?);
    }
    Ok(projected)
}

/// Returns where the baseline of `domain` lies, relative to the home.
pub(super) fn baseline_file(domain: &str) -> String {
    format!("{}/{}_baseline.json", files::BASELINES_FOLDER, file_name(domain))
}

fn event(recorded: &Recorded, event: Event<'_>) -> serde_json::Result<Projected> {
    line(files::EXPERIMENTS, &Stamped { seq: recorded.seq, timestamp: rfc3339(recorded.at_ms), event })
}

fn line(file: &str, content: &impl Serialize) -> serde_json::Result<Projected> {
    let content = serde_json::to_string(content)?;
    Ok(Projected { file: file.to_owned(), shape: Shape::Line, content })
}

fn whole(file: String, content: &impl Serialize) -> serde_json::Result<Projected> {
    let content = serde_json::to_string_pretty(content)? + "\n";
    Ok(Projected { file, shape: Shape::Whole, content })
}

/// Returns a file's name for `id`. Letters, digits, `_`, `-` and `.` stay, so that a person finds the file; all else,
/// a dot at the beginning too, becomes `%` and its number, so that no id leads out of the folder or meets another.
fn file_name(id: &str) -> String {
    let letter = |(place, byte): (usize, u8)| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
        b'.' if place > 0 => ".".to_owned(),
        byte => format!("%{byte:02X}"),
    };
    let name: String = id.bytes().enumerate().map(letter).collect();
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    // What follows the percent sign is no number, so that such a name meets no short one.
    let hash = short_hash(&[id]);
    format!("{}%-{hash}", &name[..NAME_BYTES_MAX - hash.len() - 2])
}

#[derive(Serialize)]
struct Feed<'a> {
    updated_at: String,
    seq: u64,
    questions: Vec<&'a Question>,
}

#[derive(Serialize)]
struct Stamped<'a> {
    seq: u64,
    timestamp: String,
    #[serde(flatten)]
    event: Event<'a>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Started {
        experiment_id: &'a str,
        experiment: &'a str,
        domain: &'a str,
        question_id: &'a str,
        hypothesis: &'a str,
        cycle: &'a str,
        parameters: Vec<&'a str>,
        metrics: Vec<&'a str>,
        budget: Budget,
    },
    Generation {
        experiment_id: &'a str,
        generation: u32,
        measured: u32,
        failed: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        best: Option<&'a Best>,
    },
    Finished {
        experiment_id: &'a str,
        how: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        best: Option<&'a Best>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    },
    Failed {
        experiment_id: &'a str,
        how: &'a str,
        reason: &'a str,
    },
}

impl<'a> Event<'a> {
    fn started(experiment: &'a Experiment) -> Self {
        Event::Started {
            experiment_id: experiment.id.as_str(),
            experiment: &experiment.spec.name,
            domain: &experiment.spec.domain,
            question_id: experiment.question.as_str(),
            hypothesis: &experiment.hypothesis,
            cycle: experiment.cycle.as_str(),
            parameters: experiment.spec.search_space.keys().map(String::as_str).collect(),
            metrics: experiment.spec.metrics.keys().map(String::as_str).collect(),
            budget: experiment.spec.budget,
        }
    }

    fn generation(generation: &'a Generation) -> Self {
        Event::Generation {
            experiment_id: generation.experiment.as_str(),
            generation: generation.number,
            measured: generation.measured,
            failed: generation.failed,
            best: generation.best.as_ref(),
        }
    }

    fn ended(end: &'a ExperimentEnd) -> Self {
        let (experiment_id, how) = (end.experiment().as_str(), end.label());
        match end {
            ExperimentEnd::Won { winner, .. } => {
                Event::Finished { experiment_id, how, best: Some(&winner.best), reason: None }
            }
            ExperimentEnd::NoBetter { why, .. } => {
                Event::Finished { experiment_id, how, best: None, reason: Some(why) }
            }
            ExperimentEnd::Void { why, .. } => Event::Failed { experiment_id, how, reason: why },
        }
    }
}

#[derive(Serialize)]
struct VerdictLine<'a> {
    seq: u64,
    timestamp: String,
    deployment_id: &'a str,
    cycle: &'a str,
    experiment: &'a str,
    domain: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    question_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hypothesis: Option<&'a str>,
    status: &'static str,
    reason: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    improvement: Option<Estimate>,
    blocks: u32,
    samples: u64,
    /// How many runs were made, those of void blocks too.
    runs: u32,
    baseline: &'a Metrics,
    new: &'a Metrics,
    changes: &'a BTreeMap<Key, Change>,
}

impl<'a> VerdictLine<'a> {
    fn of(recorded: &Recorded, verdict: &'a Verdict) -> Self {
        Self {
            seq: recorded.seq,
            timestamp: rfc3339(recorded.at_ms),
            deployment_id: verdict.deployment.as_str(),
            cycle: verdict.cycle.as_str(),
            experiment: &verdict.experiment,
            domain: &verdict.domain,
            question_id: verdict.question.as_ref().map(QuestionId::as_str),
            hypothesis: verdict.hypothesis.as_deref(),
            status: verdict.outcome.label(),
            reason: verdict.reason.label(),
            detail: verdict.reason.to_string(),
            improvement: verdict.improvement,
            blocks: verdict.blocks,
            samples: verdict.samples,
            runs: verdict.runs,
            baseline: &verdict.before,
            new: &verdict.after,
            changes: &verdict.changes,
        }
    }
}

#[derive(Serialize)]
struct LessonLine<'a> {
    seq: u64,
    timestamp: String,
    cycle: &'a str,
    domain: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    question_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hypothesis: Option<&'a str>,
    deployment_id: &'a str,
    status: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    improvement: Option<Estimate>,
    fingerprint: &'a str,
    interest_change: f64,
    rest_until: String,
    avoid: bool,
    lesson: &'a str,
}

impl<'a> LessonLine<'a> {
    fn of(recorded: &Recorded, lesson: &'a Lesson) -> Self {
        Self {
            seq: recorded.seq,
            timestamp: rfc3339(recorded.at_ms),
            cycle: lesson.cycle.as_str(),
            domain: &lesson.domain,
            question_id: lesson.question.as_ref().map(QuestionId::as_str),
            hypothesis: lesson.hypothesis.as_deref(),
            deployment_id: lesson.verdict.deployment.as_str(),
            status: lesson.verdict.outcome.label(),
            reason: lesson.verdict.reason.label(),
            improvement: lesson.verdict.improvement,
            fingerprint: &lesson.fingerprint,
            interest_change: lesson.interest_change,
            rest_until: rfc3339(lesson.rest_until_ms),
            avoid: lesson.avoid,
            lesson: &lesson.says,
        }
    }
}

/// Pattern 8's baseline, and what it rests on.
#[derive(Serialize)]
struct Baseline<'a> {
    domain: &'a str,
    metrics: Metrics,
    updated_at: String,
    /// How many runs it rests on; requests, where an older kloros measured.
    n: u64,
    /// The standard deviation of each metric from run to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    spread: Option<&'a Metrics>,
    /// By how much the new settings were better than what was before, and how far to trust that; absent where it is what was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    improvement: Option<Estimate>,
    /// Of what was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    /// Of all that the service said it ran with.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_hash: Option<&'a str>,
    deployment_id: &'a str,
    seq: u64,
}

impl<'a> Baseline<'a> {
    fn of(recorded: &Recorded, verdict: &'a Verdict, metrics: Metrics) -> Self {
        let rests_on = verdict.baseline.as_ref();
        let is_new = verdict.outcome == Ruled::Success;
        Self {
            domain: &verdict.domain,
            metrics,
            updated_at: rfc3339(recorded.at_ms),
            n: rests_on.map_or(verdict.samples, |baseline| u64::from(baseline.n)),
            spread: rests_on.map(|baseline| &baseline.spread),
            improvement: verdict.improvement.filter(|_| is_new),
            fingerprint: is_new.then(|| fingerprint(&verdict.domain, &verdict.changes)),
            config_hash: rests_on.and_then(|baseline| baseline.config.as_deref()),
            deployment_id: verdict.deployment.as_str(),
            seq: recorded.seq,
        }
    }
}

/// Pattern 8's baseline as a person wrote it.
#[derive(Serialize)]
struct Adopted<'a> {
    domain: &'a str,
    metrics: &'a Metrics,
    updated_at: String,
    edited_by_hand: bool,
    seq: u64,
}

impl<'a> Adopted<'a> {
    fn of(recorded: &Recorded, anchored: &'a Anchored) -> Self {
        let (domain, metrics) = (&anchored.domain, &anchored.metrics);
        Self { domain, metrics, updated_at: rfc3339(recorded.at_ms), edited_by_hand: true, seq: recorded.seq }
    }
}

/// Returns the fingerprint of `changes`, the same as that of the promotion that proposed them.
fn fingerprint(domain: &str, changes: &BTreeMap<Key, Change>) -> String {
    let text = changes.iter().map(|(key, change)| format!("{key}={};", change.to)).collect::<String>();
    short_hash(&[domain, &text])
}
