//! Lists what the journal holds. It needs no running daemon.

use std::collections::BTreeMap;

use kloros_actors::{
    curiosity::{Config, KINDS_READ, interest::Interests},
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

/// Returns the newest facts of these kinds, or all of them that are `about` one id, oldest first; none in a home in which kloros never
/// ran.
fn history(home: &Home, kinds: &[Kind], about: Option<&str>) -> anyhow::Result<Vec<Recorded>> {
    let Some(reader) = Reader::find(home)? else { return Ok(Vec::new()) };
    if let Some(id) = about {
        return Ok(reader.read(&Query { limit: Query::OPEN_MAX, ..Query::kinds(kinds).about(id) })?);
    }
    let mut found = reader.read(&Query::newest(kinds, LOOK_BACK_MAX))?;
    found.reverse();
    Ok(found)
}

/// Returns how curiosity is set, from the files. Where those are refused, a daemon that runs goes on with what it has, and what is told
/// of rests goes by the defaults: to look on takes no settings in order.
fn curiosity(home: &Home) -> Config {
    Settings::load(home.root(), None).map_or_else(
        |_| {
            super::out::trouble(
                "the settings are refused, so times of rest are told by the defaults: kloros check-config",
            );
            Config::default()
        },
        |settings| settings.rooms.curiosity,
    )
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
    /// Returns the newest that the journal of `home` holds of it, the newest last, with rests as `config` has them.
    pub(crate) fn rows(self, home: &Home, config: &Config) -> anyhow::Result<Vec<Row>> {
        self.rows_about(home, config, None)
    }

    /// Returns the row of `id`, however old it is; none where there is none.
    fn row(self, home: &Home, config: &Config, id: &str) -> anyhow::Result<Option<Row>> {
        if matches!(self, Self::Questions | Self::Lessons) {
            // What was learned before counts, as far as it is known.
            let known = self.rows(home, config)?.into_iter().find(|row| row.id == id);
            if known.is_some() {
                return Ok(known);
            }
        }
        Ok(self.rows_about(home, config, Some(id))?.into_iter().find(|row| row.id == id))
    }

    fn rows_about(self, home: &Home, config: &Config, about: Option<&str>) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Intents => intents(home, about),
            Self::Questions => questions(home, config, about),
            Self::Experiments => experiments(home, about),
            Self::Winners => winners(home, about),
            Self::Deployments => deployments(home, about),
            Self::Lessons => lessons::rows(home, config, about),
        }
    }

    /// Returns the facts that there is one of for each of it, under its id.
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Intents => &[Kind::Question, Kind::Promotion],
            Self::Questions => &[Kind::Question],
            Self::Experiments => &[Kind::Experiment],
            Self::Winners => &[Kind::ExperimentEnd],
            Self::Deployments => &[Kind::Deployment],
            Self::Lessons => &[Kind::Verdict],
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
///
/// That there is nothing yet is an answer; that there is nothing of that id is a no.
pub(super) fn list(home: &Home, listed: Listed, args: &ListArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let (noun, next) = listed.words();
    let config =
        if matches!(listed, Listed::Questions | Listed::Lessons) { curiosity(home) } else { Config::default() };
    let rows: Vec<Row> = match &args.id {
        None => listed.rows(home, &config)?.into_iter().rev().take(args.limit).rev().collect(),
        Some(wanted) => match found(home, listed, &config, wanted)? {
            Ok(row) => vec![row],
            Err(why) => {
                if out.is_json() {
                    out.answer(&json!([]), String::new)?;
                }
                super::out::trouble(&why);
                return Ok(Answer::No);
            }
        },
    };
    show(out, rows, noun, next)
}

/// Returns the row that is meant by what a person typed, or why none is.
fn found(home: &Home, listed: Listed, config: &Config, wanted: &str) -> anyhow::Result<Result<Row, String>> {
    let noun = listed.words().0;
    let ids = match Reader::find(home)? {
        Some(reader) => reader.ids(listed.kinds(), wanted)?,
        None => Vec::new(),
    };
    let id = match ids::pick(wanted, noun, ids.iter().map(String::as_str)) {
        Ok(id) => id,
        Err(why) => return Ok(Err(why)),
    };
    Ok(listed.row(home, config, id)?.ok_or_else(|| format!("{id} is no {noun}")))
}

/// Prints `rows`, newest last, and the command that a person would type next.
fn show(out: &mut Out, rows: Vec<Row>, noun: &str, next: &str) -> anyhow::Result<Answer> {
    let newest = rows.last().map(|row| row.id.clone());
    let (facts, lines): (Vec<_>, Vec<_>) = rows.into_iter().map(|row| (row.facts, row.line)).unzip();
    out.answer(&facts, || match newest {
        None => format!("no {noun}s yet\nkloros status"),
        Some(id) => format!("{}\n{}", lines.join("\n"), next.replace("ID", &id)),
    })?;
    Ok(Answer::Done)
}

fn intents(home: &Home, about: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let rows = history(home, &[Kind::Question, Kind::Promotion], about)?
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

fn questions(home: &Home, config: &Config, about: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let mut interests = Interests::default();
    let mut found: Vec<Asked> = Vec::new();
    for recorded in history(home, &KINDS_READ, about)? {
        interests.fold(&recorded.fact, config);
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

fn experiments(home: &Home, about: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    let kinds = [Kind::Experiment, Kind::Experience, Kind::Trial, Kind::Generation, Kind::ExperimentEnd];
    for recorded in history(home, &kinds, about)? {
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

fn winners(home: &Home, about: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let advised = Reader::find(home)?.map_or_else(|| Ok(Vec::new()), |reader| advice::found(&reader))?;
    let rows = history(home, &[Kind::ExperimentEnd], about)?
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

fn deployments(home: &Home, about: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let history = history(home, &[Kind::Deployment, Kind::Step, Kind::Verdict], about)?;
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

#[cfg(test)]
mod tests {
    use kloros_actors::{
        facts::{CycleId, DeploymentId, Entry, Step},
        seams::Journal as _,
    };

    use super::*;
    use crate::journal::{self, one_of_each};

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        home.create().unwrap();
        (folder, home)
    }

    /// Once ten thousand facts later there was "no deployment that begins with" it.
    #[tokio::test]
    async fn what_is_meant_by_an_id_is_found_however_much_was_written_since() {
        let (_folder, home) = home();
        let store = journal::open(&home).unwrap();
        let old = CycleId::new("c-0ld");
        store.append(one_of_each().into_iter().map(|fact| Entry::new(&old, 1, fact)).collect()).await.unwrap();
        let later = |number| Fact::Step { deployment: DeploymentId::new(format!("d-9{number}")), step: Step::Intended };
        let later = (0..=LOOK_BACK_MAX).map(|number| Entry::new(&CycleId::new("c-new"), 2, later(number)));
        store.append(later.collect()).await.unwrap();
        for (listed, wanted, meant) in [
            (Listed::Deployments, "1", "d-1"),
            (Listed::Experiments, "x-1", "x-1"),
            (Listed::Winners, "x-1", "x-1"),
            (Listed::Questions, "q-1", "q-1"),
            (Listed::Intents, "p-1", "p-1"),
            (Listed::Lessons, "d-2", "d-2"),
        ] {
            let found = found(&home, listed, &Config::default(), wanted).unwrap();
            assert_eq!(found.map(|row| row.id).as_deref(), Ok(meant), "{listed:?}");
        }
        let none = found(&home, Listed::Deployments, &Config::default(), "d-none").unwrap();
        assert_eq!(none.err().as_deref(), Some("no deployment begins with \"d-none\""));
        for wanted in ["d-1", "0ld", "x-1"] {
            let told = crate::cli::story(&home, wanted).unwrap();
            assert_eq!(serde_json::to_value(told.unwrap()).unwrap()["cycle"], "c-0ld", "{wanted}");
        }
    }

    /// Once both lists were refused together with the files, and the console's view of what was learned failed.
    #[tokio::test]
    async fn settings_that_are_refused_keep_nobody_from_reading_what_was_asked_and_learned() {
        let (folder, home) = home();
        let store = journal::open(&home).unwrap();
        let cycle = CycleId::new("c-1");
        store.append(one_of_each().into_iter().map(|fact| Entry::new(&cycle, 1, fact)).collect()).await.unwrap();
        std::fs::write(folder.path().join("kloros.toml"), "[gate]\nautonmy = 1\n").unwrap();
        let config = curiosity(&home);
        for listed in [Listed::Questions, Listed::Lessons] {
            assert!(!listed.rows(&home, &config).unwrap().is_empty(), "{listed:?}");
        }
    }
}
