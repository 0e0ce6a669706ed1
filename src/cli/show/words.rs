//! What is shown of an experiment, in words and as a picture.

use std::collections::BTreeMap;

use kloros_actors::{
    dream::front::objectives,
    facts::{Best, Direction, ExperimentEnd, Metrics, Outcome, Params},
};

use super::shown::{ObjectiveFrom, Shown};
use crate::cli::{
    failures,
    picture::{self, Canvas, Dot, Line, Picture, Role, Scatter, Tone, line},
    progress, story,
    text::{self, shorten, wrapped},
};

/// How far the words of a sentence are from its first one.
const INDENT: usize = 11;

/// How much of a reason is told, in characters.
const REASON_MAX: usize = 400;

/// The most rows of the table of the front; `--json` has all.
const FRONT_MAX: usize = 12;

/// Returns everything that a person is told, as wide as the canvas at most.
pub(super) fn lines(shown: &Shown, canvas: Canvas) -> Vec<Line> {
    let mut lines = vec![line(Tone::Strong, format!("{}  {}", shown.experiment.id, shown.state))];
    for sentence in sentences(shown) {
        lines.extend(wrapped(&sentence, canvas.width, INDENT).into_iter().map(|text| line(Tone::Plain, text)));
    }
    let head = |lines: &mut Vec<Line>, what: &str, means: &str| {
        lines.push(Vec::new());
        lines.push(picture::head(what, means, canvas));
    };
    if !shown.convergence.marks.is_empty() {
        head(&mut lines, "convergence", "gain over the live settings, by trial");
        lines.extend(picture::plot(&shown.convergence, canvas));
    }
    lines.push(Vec::new());
    lines.extend(picture::importance(&shown.importance, canvas));
    if let Some(live) = &shown.live {
        let means = match &shown.end {
            Some(ExperimentEnd::Won { .. }) => {
                "the winner by its repeated runs, others by their one, next to the live ones"
            }
            _ => "the best that were measured, next to the live ones",
        };
        head(&mut lines, "settings", means);
        lines.extend(picture::table(&settings(shown, live), canvas));
    }
    if shown.front.len() > 1 {
        head(&mut lines, "Pareto front", "no other measured candidate beats these in every metric");
        lines.extend(picture::table(&front(shown, canvas), canvas));
        if let Some(more) = shown.front.len().checked_sub(FRONT_MAX).filter(|more| *more > 0) {
            lines.push(line(Tone::Dim, format!("and {more} more: --json has all")));
        }
    }
    lines.push(Vec::new());
    lines.push(line(Tone::Plain, format!("kloros explain {}", shown.experiment.id)));
    lines
}

/// Returns what was asked and found, what was spent, and what failed.
fn sentences(shown: &Shown) -> Vec<String> {
    let (experiment, spent) = (&shown.experiment, &shown.spent);
    let names = experiment.spec.search_space.keys().cloned().collect::<Vec<_>>().join(", ");
    let mut sentences = vec![
        format!(
            "asked      {} ({}): which settings of {} are better?",
            experiment.hypothesis, experiment.question, experiment.spec.domain
        ),
        format!("varied     {names}, seed {}", experiment.seed),
        format!("found      {}", found(shown)),
    ];
    if !shown.earlier.is_empty() {
        let known = progress::learned_from(shown.earlier.iter().map(|trial| &trial.from));
        sentences.push(format!("learned    from {known}"));
    }
    let confirmed = match spent.confirmations {
        0 => String::new(),
        runs => format!(", and {runs} runs to confirm"),
    };
    sentences.push(format!(
        "spent      {} of {} trials in {} of {} generations{confirmed}; {}",
        spent.trials,
        spent.trials_max,
        spent.generations,
        spent.generations_max,
        text::span(spent.took_ms as f64 / 1000.0)
    ));
    sentences.extend(failures::lines(&shown.failures));
    if shown.discarded > 0 {
        sentences.push(failures::discarded(shown.discarded));
    }
    match shown.objective_from {
        ObjectiveFrom::Experiment => {}
        ObjectiveFrom::Configuration => sentences.push(
            "weighed    as the configuration says today: this experiment was begun by an older version".to_owned(),
        ),
        ObjectiveFrom::Nobody => sentences.push(
            "weighed    all metrics alike: neither this experiment nor the configuration says how they count"
                .to_owned(),
        ),
    }
    sentences
}

fn found(shown: &Shown) -> String {
    match &shown.end {
        Some(ExperimentEnd::Won { winner, .. }) => {
            format!("{}, claimed {}", story::params(&winner.best.params), story::claimed(winner))
        }
        Some(ExperimentEnd::NoBetter { why, .. }) => format!("nothing better: {}", shorten(why, REASON_MAX)),
        Some(ExperimentEnd::Void { why, .. }) => format!("nothing: {}", shorten(why, REASON_MAX)),
        None => shown.best.first().map_or_else(
            || "nothing yet".to_owned(),
            |best| format!("so far {} with {}", picture::percent(best.fitness), story::params(&best.params)),
        ),
    }
}

/// Returns the table of the best settings next to the live ones: parameters, the gain, and the metrics that count.
fn settings(shown: &Shown, live: &Best) -> Vec<Vec<String>> {
    let has_won = matches!(shown.end, Some(ExperimentEnd::Won { .. }));
    let names = ["live", if has_won { "winner" } else { "best" }, "2nd", "3rd"];
    let candidates: Vec<&Best> = std::iter::once(live).chain(&shown.best).collect();
    let row = |name: &str, cell: &dyn Fn(&Best) -> String| -> Vec<String> {
        std::iter::once(name.to_owned()).chain(candidates.iter().map(|best| cell(best))).collect()
    };
    let head = std::iter::once(String::new()).chain(names.map(str::to_owned)).take(candidates.len() + 1).collect();
    let mut rows = vec![head];
    let value = |name: &str, params: &Params| params.get(name).map_or_else(|| "-".to_owned(), ToString::to_string);
    rows.extend(shown.experiment.spec.search_space.keys().map(|name| row(name, &|best| value(name, &best.params))));
    rows.push(row("gain", &|best| picture::percent(best.fitness)));
    let mut counting: Vec<&String> = shown.objective.keys().collect();
    counting.sort_by(|a, b| shown.objective[*b].weight.total_cmp(&shown.objective[*a].weight));
    rows.extend(counting.into_iter().map(|name| row(name, &|best| number(&best.metrics, name))));
    rows
}

fn number(metrics: &Metrics, name: &str) -> String {
    metrics.get(name).map_or_else(|| "-".to_owned(), |value| story::number(*value))
}

/// Returns the table of the front: the metrics that are traded, the heaviest first, the gain, and the parameters in which
/// its members differ.
fn front(shown: &Shown, canvas: Canvas) -> Vec<Vec<String>> {
    let live = shown.live.as_ref().map(|live| live.metrics.clone()).unwrap_or_default();
    let traded = objectives(&shown.objective, &live);
    let way = |(name, direction): &(&str, Direction)| {
        let more = *direction == Direction::Up;
        format!("{name} {}", if more { canvas.either('\u{2191}', '+') } else { canvas.either('\u{2193}', '-') })
    };
    let differs =
        |name: &&String| shown.front.windows(2).any(|pair| pair[0].params.get(*name) != pair[1].params.get(*name));
    let params: Vec<&String> = shown.experiment.spec.search_space.keys().filter(differs).collect();
    let names = params.iter().map(|name| (*name).clone());
    let head = traded.iter().map(way).chain(["gain".to_owned()]).chain(names).collect();
    let row = |best: &Best| {
        let numbers = traded.iter().map(|(name, _)| number(&best.metrics, name));
        let values =
            params.iter().map(|name| best.params.get(*name).map_or_else(|| "-".to_owned(), ToString::to_string));
        numbers.chain([picture::percent(best.fitness)]).chain(values).collect()
    };
    std::iter::once(head).chain(shown.front.iter().take(FRONT_MAX).map(row)).collect()
}

/// Returns the experiment as it is drawn.
pub(super) fn picture(shown: &Shown) -> Picture {
    let experiment = &shown.experiment;
    let trials = format!("{} of {} trials", shown.spent.trials, shown.spent.trials_max);
    Picture {
        title: format!("{} on {}", experiment.spec.name, experiment.spec.domain),
        subtitle: match &shown.end {
            Some(ExperimentEnd::Won { winner, .. }) => {
                format!("{}: won, claimed {}, {trials}", experiment.id, story::claimed(winner))
            }
            _ => format!("{}: {}, {trials}", experiment.id, shown.state.replace('_', " ")),
        },
        convergence: shown.convergence.clone(),
        importance: shown.importance.clone(),
        scatter: scatter(shown),
    }
}

/// Returns the candidates by the two heaviest metrics, where two count.
fn scatter(shown: &Shown) -> Option<Scatter> {
    let live = shown.live.as_ref()?;
    let traded = objectives(&shown.objective, &live.metrics);
    let [(x, x_way), (y, y_way), ..] = traded.as_slice() else { return None };
    let at = |metrics: &Metrics| Some((*metrics.get(*x)?, *metrics.get(*y)?));
    let mut members: BTreeMap<String, &Best> = BTreeMap::new();
    members.extend(shown.front.iter().map(|best| (story::params(&best.params), best)));
    let beaten = shown.trials.iter().filter_map(|trial| {
        let label = story::params(&trial.params);
        let Outcome::Measured(measurement) = &trial.outcome else { return None };
        let is_shown = members.contains_key(&label) || trial.params == live.params;
        (!is_shown).then(|| Some(Dot { at: at(&measurement.metrics)?, label, role: Role::Beaten }))?
    });
    let mut dots: Vec<Dot> = beaten.collect();
    for (label, best) in &members {
        dots.extend(at(&best.metrics).map(|at| Dot { at, label: label.clone(), role: Role::Front }));
    }
    dots.extend(at(&live.metrics).map(|at| Dot { at, label: story::params(&live.params), role: Role::Live }));
    let way = |direction: &Direction| *direction == Direction::Up;
    Some(Scatter { x: ((*x).to_owned(), way(x_way)), y: ((*y).to_owned(), way(y_way)), dots })
}
