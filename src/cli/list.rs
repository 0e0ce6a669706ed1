//! Lists what the journal holds. It needs no running daemon.

use std::collections::BTreeMap;

use kloros_actors::{
    curiosity::{KINDS_READ, interest::Interests},
    facts::{
        EarlierTrial, Experiment, ExperimentEnd, Fact, Generation, Kind, Outcome, Question, QuestionEnd, Recorded,
        Stage, Trial, Verdict, stages,
    },
    seams::Query,
};
use serde::Serialize;
use serde_json::json;

use super::{Answer, ListArgs, advice, failures, ids, lessons, out::Out, progress, story, text::shorten};
use crate::{
    home::Home,
    journal::{Reader, rfc3339},
    settings::Settings,
};

/// How many facts are looked through for a listing.
const LOOK_BACK_MAX: usize = 10_000;

/// How much of a reason is printed in a list, in characters.
const REASON_MAX: usize = 160;

/// Returns the newest facts of these kinds, oldest first; none in a home in which kloros never ran.
fn history(home: &Home, kinds: &[Kind]) -> anyhow::Result<Vec<Recorded>> {
    let Some(reader) = Reader::find(home)? else { return Ok(Vec::new()) };
    let mut found = reader.read(&Query::newest(kinds, LOOK_BACK_MAX))?;
    found.reverse();
    Ok(found)
}

/// One entry of a list.
#[derive(Serialize)]
pub(crate) struct Row {
    /// Its id.
    pub(crate) id: String,
    /// What is known of it.
    pub(crate) facts: serde_json::Value,
    /// The same in words, with a line break where there is more than one line.
    pub(crate) line: String,
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    Intents,
    Questions,
    Experiments,
    Winners,
    Deployments,
    Lessons,
}

impl Listed {
    /// Returns what the journal of `home` holds of it, the newest last.
    pub(crate) fn rows(self, home: &Home) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Intents => intents(home),
            Self::Questions => questions(home),
            Self::Experiments => experiments(home),
            Self::Winners => winners(home),
            Self::Deployments => deployments(home),
            Self::Lessons => lessons::rows(home),
        }
    }

    /// Returns what one of it is called, and what a person types next.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Intents => ("intent", "kloros explain ID"),
            Self::Questions => ("question", "kloros explain ID"),
            Self::Experiments => ("experiment", "kloros experiments show ID"),
            Self::Winners => ("winner", "kloros explain ID"),
            Self::Deployments => ("deployment", "kloros explain ID"),
            Self::Lessons => ("lesson", "kloros explain ID"),
        }
    }
}

/// Lists the newest of it, or shows the one that is meant by an id.
pub(super) fn list(home: &Home, listed: Listed, args: &ListArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let (noun, next) = listed.words();
    show(out, listed.rows(home)?, args, noun, next)
}

/// Prints `rows`, newest last, and the command that a person would type next; or the one that is meant by an id. That
/// there is nothing yet is an answer; that there is nothing of that id is a no.
fn show(out: &mut Out, rows: Vec<Row>, args: &ListArgs, noun: &str, next: &str) -> anyhow::Result<Answer> {
    let rows: Vec<Row> = match &args.id {
        None => rows.into_iter().rev().take(args.limit).rev().collect(),
        Some(wanted) => match ids::pick(wanted, noun, rows.iter().map(|row| row.id.as_str())) {
            Ok(id) => {
                let id = id.to_owned();
                rows.into_iter().filter(|row| row.id == id).collect()
            }
            Err(why) => {
                if out.is_json() {
                    out.answer(&json!([]), String::new)?;
                }
                super::out::trouble(&why);
                return Ok(Answer::No);
            }
        },
    };
    let newest = rows.last().map(|row| row.id.clone());
    let (facts, lines): (Vec<_>, Vec<_>) = rows.into_iter().map(|row| (row.facts, row.line)).unzip();
    out.answer(&facts, || match newest {
        None => format!("no {noun}s yet\nkloros status"),
        Some(id) => format!("{}\n{}", lines.join("\n"), next.replace("ID", &id)),
    })?;
    Ok(Answer::Done)
}

fn intents(home: &Home) -> anyhow::Result<Vec<Row>> {
    let rows = history(home, &[Kind::Question, Kind::Promotion])?
        .into_iter()
        .filter_map(|recorded| {
            let (kind, id, what) = match &recorded.fact {
                Fact::Question(question) => {
                    ("curiosity_question", question.question_id.to_string(), question.hypothesis.clone())
                }
                Fact::Promotion(promotion) => {
                    ("proposal", promotion.id.to_string(), progress::changes(&promotion.changes))
                }
                _ => return None,
            };
            let line = format!("{}  {kind:18} {id}  {what}", rfc3339(recorded.at_ms));
            let facts = json!({"at_ms": recorded.at_ms, "type": kind, "id": id, "cycle": recorded.cycle, "what": what});
            Some(Row { id, facts, line })
        })
        .collect();
    Ok(rows)
}

/// A question, when it was asked, how it ended and from when it may be asked again.
struct Asked {
    at_ms: u64,
    question: Question,
    end: Option<(QuestionEnd, u64)>,
}

fn questions(home: &Home) -> anyhow::Result<Vec<Row>> {
    let config = Settings::load(home.root(), None)?.rooms.curiosity;
    let mut interests = Interests::default();
    let mut found: Vec<Asked> = Vec::new();
    for recorded in history(home, &KINDS_READ)? {
        interests.fold(&recorded.fact, &config);
        match recorded.fact {
            Fact::Question(question) => found.push(Asked { at_ms: recorded.at_ms, question, end: None }),
            Fact::QuestionEnd(end) => {
                let eligible_at_ms = interests.eligible_at_ms(&end.hypothesis, &end.domain);
                if let Some(asked) = found.iter_mut().find(|asked| asked.question.question_id == end.question) {
                    asked.end = Some((end, eligible_at_ms));
                }
            }
            _ => {}
        }
    }
    let rows = found
        .into_iter()
        .map(|Asked { at_ms, question, end }| {
            let state = end.as_ref().map_or("open", |(end, _)| end.how.as_str());
            let again = end.as_ref().map_or_else(String::new, |(end, eligible_at_ms)| {
                format!("  again from {}  {}", rfc3339(*eligible_at_ms), shorten(&end.why, REASON_MAX))
            });
            let (id, interest) = (&question.question_id, question.interest);
            let line = format!("{}  {state:12} {id}  interest {interest:.2}{again}", rfc3339(at_ms));
            let id = id.to_string();
            let (end, eligible_at_ms) = end.unzip();
            Row { id, facts: json!({"question": question, "end": end, "eligible_at_ms": eligible_at_ms}), line }
        })
        .collect();
    Ok(rows)
}

/// One experiment with what became of it.
struct Found {
    experiment: Experiment,
    earlier: Vec<EarlierTrial>,
    trials: Vec<Trial>,
    generations: Vec<Generation>,
    end: Option<ExperimentEnd>,
}

fn experiments(home: &Home) -> anyhow::Result<Vec<Row>> {
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    let kinds = [Kind::Experiment, Kind::Experience, Kind::Trial, Kind::Generation, Kind::ExperimentEnd];
    for recorded in history(home, &kinds)? {
        let subject = recorded.fact.subject().to_owned();
        let of = found.values_mut().find(|each| each.experiment.id.as_str() == subject);
        match (recorded.fact, of) {
            (Fact::Experiment(experiment), _) => {
                let (earlier, trials, generations) = (Vec::new(), Vec::new(), Vec::new());
                found.insert(recorded.seq, Found { experiment, earlier, trials, generations, end: None });
            }
            (Fact::Experience(experience), Some(of)) => of.earlier = experience.trials,
            (Fact::Trial(trial), Some(of)) => of.trials.push(trial),
            (Fact::Generation(generation), Some(of)) => of.generations.push(generation),
            (Fact::ExperimentEnd(end), Some(of)) => of.end = Some(end),
            _ => {}
        }
    }
    let rows = found.into_values().map(|each| experiment_row(&each)).collect();
    Ok(rows)
}

fn experiment_row(found: &Found) -> Row {
    let Found { experiment, earlier, trials, generations, end } = found;
    let failed = trials.iter().filter_map(|trial| match &trial.outcome {
        Outcome::Failed(failure) => Some(failure),
        Outcome::Measured(_) => None,
    });
    let failed = failures::count(failed);
    let best = generations.last().and_then(|generation| generation.best.as_ref());
    let state = end.as_ref().map_or("running", ExperimentEnd::label);
    let mut line = format!(
        "{}  {state:10} {}  {} trials, {} generations",
        rfc3339(experiment.at_ms),
        experiment.id,
        trials.len(),
        generations.len()
    );
    if let Some(best) = best {
        line.extend([format!(", best {:+.0} %", progress::percent_of_log(best.fitness))]);
    }
    if !failed.is_empty() {
        line.extend([format!(", failed: {}", failures::kinds(&failed))]);
    }
    let discarded = failures::thrown_away(trials.iter().filter_map(|trial| match &trial.outcome {
        Outcome::Measured(measurement) => Some(measurement),
        Outcome::Failed(_) => None,
    }));
    if discarded > 0 {
        line.extend([format!(", {discarded} disturbed samples discarded")]);
    }
    let facts = json!({
        "experiment": experiment, "earlier": earlier.len(), "trials": trials.len(), "failures": failed,
        "discarded": discarded, "generations": generations, "end": end,
    });
    Row { id: experiment.id.to_string(), facts, line }
}

fn winners(home: &Home) -> anyhow::Result<Vec<Row>> {
    let advised = Reader::find(home)?.map_or_else(|| Ok(Vec::new()), |reader| advice::found(&reader))?;
    let rows = history(home, &[Kind::ExperimentEnd])?
        .into_iter()
        .filter_map(|recorded| match recorded.fact {
            Fact::ExperimentEnd(ExperimentEnd::Won { winner, .. }) => Some((recorded.at_ms, winner)),
            _ => None,
        })
        .map(|(at_ms, winner)| {
            let advice = advised.iter().find(|advice| advice.experiment.as_ref() == Some(&winner.experiment_id));
            let mut line = format!(
                "{}  {}  {}  claimed {}",
                rfc3339(at_ms),
                winner.experiment_id,
                story::params(&winner.best.params),
                story::claimed(&winner)
            );
            let mut facts = json!(winner);
            if let Some(advice) = advice {
                line = [vec![line], advice.words("  ")].concat().join("\n");
                facts["advice"] = json!(advice);
            }
            Row { id: winner.experiment_id.to_string(), facts, line }
        })
        .collect();
    Ok(rows)
}

fn deployments(home: &Home) -> anyhow::Result<Vec<Row>> {
    let history = history(home, &[Kind::Deployment, Kind::Step, Kind::Verdict])?;
    let verdicts: BTreeMap<String, Verdict> = history
        .iter()
        .filter_map(|recorded| match &recorded.fact {
            Fact::Verdict(verdict) => Some((verdict.deployment.to_string(), verdict.clone())),
            _ => None,
        })
        .collect();
    let rows = stages(history.into_iter().map(|recorded| recorded.fact))
        .into_iter()
        .map(|(deployment, stage)| {
            let verdict = verdicts.get(deployment.id.as_str());
            let state = match (verdict, stage) {
                (Some(_), Stage::Stuck) => "stuck".to_owned(),
                (Some(verdict), _) => verdict.outcome.to_string(),
                (None, stage) => stage.label().to_owned(),
            };
            let improvement = verdict.and_then(|verdict| verdict.improvement);
            let line = format!(
                "{}  {state:10} {}  {}  {}",
                rfc3339(deployment.at_ms),
                deployment.id,
                progress::changes(&deployment.promotion.changes),
                improvement.map_or_else(String::new, |estimate| story::estimate(&estimate))
            );
            let why = verdict.map(|verdict| verdict.reason.to_string());
            let facts = json!({"deployment": deployment, "stage": stage, "verdict": verdict, "why": why});
            Row { id: deployment.id.to_string(), facts, line }
        })
        .collect();
    Ok(rows)
}
