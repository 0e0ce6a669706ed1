//! What `kloros tune` says: each trial as it ends, and what they come to.

use std::path::Path;

use kloros_actors::facts::Direction;
use kloros_search::{Config, Ended, Outcome};
use serde_json::json;

use super::{
    failures,
    picture::{self, Came, Canvas, Convergence, Importance, Line, Mark, Picture, Scale, Tone, line},
    text::shorten,
};
use crate::tune::{Best, Conclusion, Plan, Report, Step, Trial, outcome};

/// How much of a reason stands in one line, in characters.
const REASON_MAX: usize = 160;

/// How many trials are listed; `--json` has all.
const LISTED_MAX: usize = 100;

/// Returns the line that comes first.
pub(super) fn begin(plan: &Plan, journal: &Path) -> String {
    let aim = match plan.direction {
        Direction::Down => "least",
        Direction::Up => "most",
    };
    let within = plan.within_ms.map_or_else(String::new, |within| format!(" within {} s", within as f64 / 1000.0));
    format!(
        "tunes     {} for the {aim} {}, with up to {} trials{within}\njournal   {}",
        shorten(&command(plan), REASON_MAX),
        plan.metric,
        plan.budget,
        journal.display()
    )
}

/// Returns the line for what has just happened.
pub(super) fn step(plan: &Plan, step: &Step<'_>) -> String {
    match step {
        Step::Resumed(count) => format!("resumes   after {count} of {} trials", plan.budget),
        Step::Ended { trial, before, is_best } => {
            let place = format!("{} of {}", before + 1, plan.budget);
            let setting = setting(&trial.config);
            match (trial.value, &trial.failure) {
                (Some(value), _) => {
                    let best = if *is_best { ", best so far" } else { "" };
                    format!("measured  {place}: {} {}{best}: {setting}", plan.metric, number(value))
                }
                (None, Some(failure)) => {
                    format!("failed    {place}: {}: {setting}", shorten(&failure.to_string(), REASON_MAX))
                }
                (None, None) => format!("failed    {place}: {setting}"),
            }
        }
    }
}

/// Returns what a script gets.
pub(super) fn facts(
    plan: &Plan,
    report: &Report,
    importance: &Result<Importance, String>,
    journal: &Path,
) -> serde_json::Result<serde_json::Value> {
    let importance = picture::either(importance, serde_json::value::Serializer)?;
    Ok(json!({
        "conclusion": report.conclusion,
        "metric": plan.metric,
        "direction": plan.direction,
        "best": report.best,
        "ended": if report.out_of_time { json!("time") } else { json!(report.ended) },
        "trials": report.trials,
        "importance": importance,
        "journal": journal,
    }))
}

/// Returns how much each parameter matters by what was measured, or why that cannot be told.
pub(super) fn importance(plan: &Plan, report: &Report) -> Result<Importance, String> {
    let outcome = |trial: &Trial| (trial.config.clone(), outcome(plan.direction, trial.value));
    let trials: Vec<(Config, Outcome)> = report.trials.iter().map(outcome).collect();
    kloros_search::importance(&plan.space, &trials, plan.noisy, plan.seed)
        .map(Importance::from)
        .map_err(|unclear| unclear.to_string())
}

/// Returns the run as it is drawn.
pub(super) fn picture(plan: &Plan, report: &Report, importance: Result<Importance, String>) -> Picture {
    let mark = |trial: &Trial| Mark {
        group: (trial.id.max(1) - 1) / plan.batch.max(1) + 1,
        label: setting(&trial.config),
        result: match (trial.value, &trial.failure) {
            (Some(value), _) => Came::Measured(value),
            (None, Some(failure)) => Came::Failed(failure.kind.to_string()),
            (None, None) => Came::Failed("failed".to_owned()),
        },
    };
    let zero = report.trials.first().filter(|_| plan.default.is_some()).and_then(|first| first.value);
    let scale = Scale::Metric { name: plan.metric.clone(), more: plan.direction == Direction::Up };
    let marks = report.trials.iter().map(mark).collect();
    Picture {
        title: shorten(&command(plan), REASON_MAX),
        subtitle: answer(plan, report).into_iter().next().unwrap_or_default(),
        convergence: Convergence { scale, zero_name: "the default".to_owned(), zero, marks },
        importance,
        scatter: None,
    }
}

/// Returns what a person gets: the answer, the trials from the best to the worst, what matters, and what to type next.
pub(super) fn lines(
    plan: &Plan,
    report: &Report,
    importance: &Result<Importance, String>,
    canvas: Canvas,
) -> Vec<Line> {
    let failed: Vec<_> = report.trials.iter().filter_map(|trial| trial.failure.as_ref()).collect();
    let measured = report.trials.len() - failed.len();
    let mut lines = answer(plan, report);
    let why = match report.ended {
        _ if report.out_of_time => "; its time is over",
        Some(Ended::Exhausted) => "; no other setting is left to try",
        Some(Ended::Stopped) => "; no further one is expected to matter",
        _ if (report.trials.len() as u32) < plan.budget => "; given up",
        _ => "",
    };
    lines.push(format!("trials     {}: {measured} measured, {} failed{why}", report.trials.len(), failed.len()));
    lines.extend(failures::lines(&failures::count(failed)));
    lines.push(String::new());
    lines.extend(table(plan, report));
    lines.push(String::new());
    let mut lines: Vec<Line> = lines.into_iter().map(|text| line(Tone::Plain, text)).collect();
    lines.extend(picture::importance(importance, canvas));
    if let Some(best) = &report.best {
        let next = format!("{} {}", assignments(&best.config), command(plan));
        lines.extend([Vec::new(), line(Tone::Plain, next)]);
    }
    lines
}

fn answer(plan: &Plan, report: &Report) -> Vec<String> {
    let measured = report.trials.iter().filter(|trial| trial.value.is_some()).count();
    match (report.conclusion, &report.best) {
        (Conclusion::Better, Some(best)) => vec![better(plan, best), format!("sets       {}", setting(&best.config))],
        (Conclusion::Better | Conclusion::NoBetter, _) => {
            let than = if plan.default.is_some() { "the default" } else { "what is usual here" };
            vec![format!(
                "no better setting was found: none of {measured} measurements differs from {than} by more than they scatter"
            )]
        }
        (Conclusion::Flat, _) => vec![format!(
            "nothing was found: {} is the same whatever is set, so the command does not seem to read its parameters from \
             the environment",
            plan.metric
        )],
        (Conclusion::AllFailed, _) => {
            let count = report.trials.len();
            if count == 0 && report.out_of_time {
                return vec!["nothing was found: the time was over before the first trial could begin".to_owned()];
            }
            vec![format!(
                "nothing was found: all of {count} trials failed, so it is the command and not the settings that needs a look"
            )]
        }
    }
}

fn better(plan: &Plan, best: &Best) -> String {
    let Best { value, interval: (low, high), default, gain, gain_interval, .. } = best;
    let found = format!("better     {} {} ({} to {})", plan.metric, number(*value), number(*low), number(*high));
    let (Some(default), Some(gain), Some((least, most))) = (default, gain, gain_interval) else { return found };
    let way = match plan.direction {
        Direction::Down => "less",
        Direction::Up => "more",
    };
    let line = format!("{found}, where the default has {}", number(*default));
    if *default == 0.0 {
        return line;
    }
    let percent = |gain: &f64| gain / default.abs() * 100.0;
    line + &format!(": {:.1} % {way} ({:.1} to {:.1})", percent(gain), percent(least), percent(most))
}

/// Returns the trials from the best to the worst, the failed ones last.
fn table(plan: &Plan, report: &Report) -> Vec<String> {
    let mut trials: Vec<&Trial> = report.trials.iter().collect();
    let key = |trial: &Trial| {
        trial.value.map_or(f64::INFINITY, |value| if plan.direction == Direction::Up { -value } else { value })
    };
    trials.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let cell = |trial: &Trial| match (&trial.failure, trial.value) {
        (Some(failure), _) => failure.kind.to_string(),
        (None, value) => value.map_or_else(|| "-".to_owned(), number),
    };
    let width = trials.iter().map(|trial| cell(trial).len()).max().unwrap_or_default().max(plan.metric.chars().count());
    let mut lines = vec![format!("  {:>width$}  trial  setting", plan.metric)];
    for trial in trials.iter().take(LISTED_MAX) {
        let is_best = report.best.as_ref().is_some_and(|best| best.config == trial.config);
        let mark = if is_best { "*" } else { " " };
        lines.push(format!("{mark} {:>width$}  {:>5}  {}", cell(trial), trial.id, setting(&trial.config)));
    }
    if trials.len() > LISTED_MAX {
        lines.push(format!("  and {} more", trials.len() - LISTED_MAX));
    }
    lines
}

fn setting(config: &Config) -> String {
    config.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn assignments(config: &Config) -> String {
    config.iter().map(|(name, value)| format!("{name}={}", quoted(&value.to_string()))).collect::<Vec<_>>().join(" ")
}

fn command(plan: &Plan) -> String {
    plan.argv.iter().map(|argument| quoted(argument)).collect::<Vec<_>>().join(" ")
}

/// Returns `text` as it is typed into a shell.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |each: u8| each.is_ascii_alphanumeric() || b"_-.:/,+@%=".contains(&each);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Returns a number with six digits that count.
fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e9).contains(&size) {
        return format!("{value:.5e}");
    }
    let before = if size < 1.0 { 0 } else { size.log10() as usize + 1 };
    let text = format!("{value:.*}", 6_usize.saturating_sub(before));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_six_digits_that_count() {
        for (value, text) in [
            (0.0, "0"),
            (12.0, "12"),
            (12.345_678_9, "12.3457"),
            (-0.5, "-0.5"),
            (1_234_567.8, "1234568"),
            (0.000_012_34, "1.23400e-5"),
            (1e300, "1.00000e300"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        for (text, shown) in
            [("lru", "lru"), ("a b", "'a b'"), ("", "''"), ("it's", "'it'\\''s'"), ("$HOME", "'$HOME'")]
        {
            assert_eq!(quoted(text), shown);
        }
    }
}
