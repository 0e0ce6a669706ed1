//! What is shown of an experiment, as data.

use std::collections::BTreeMap;

use kloros_actors::{
    dream::{
        self,
        fitness::{fitness, told_of, tripped},
        front,
        search::{Plan, Search, Told},
    },
    facts::{
        Best, EarlierTrial, Estimate, Experience, Experiment, ExperimentEnd, Fact, FailureKind, Generation,
        Measurement, MetricSpec, Metrics, Outcome, Params, Trial,
    },
};
use serde::Serialize;

use crate::{
    cli::{
        failures::{self, Failures},
        picture::{self, Came, Convergence, Importance, Mark, Scale},
        story,
    },
    home::Home,
    settings,
};

/// How many candidates stand next to the live settings.
const BEST_MAX: usize = 3;

/// One experiment with all that can be told of it.
#[derive(Serialize)]
pub(crate) struct Shown {
    pub(super) experiment: Experiment,
    /// How it ended, in one word; `running` if it did not.
    pub(super) state: &'static str,
    /// What it learned from when it began.
    pub(super) earlier: Vec<EarlierTrial>,
    pub(super) trials: Vec<Trial>,
    /// How many samples were thrown away because others disturbed them.
    pub(super) discarded: u32,
    pub(super) failures: Vec<Failures>,
    pub(super) generations: Vec<Generation>,
    pub(super) end: Option<ExperimentEnd>,
    /// How each metric counts.
    pub(super) objective: BTreeMap<String, MetricSpec>,
    /// From where that is known.
    pub(super) objective_from: ObjectiveFrom,
    pub(super) spent: Spent,
    /// What the winner is claimed to gain.
    pub(super) gain: Option<Estimate>,
    pub(super) convergence: Convergence,
    #[serde(serialize_with = "picture::either")]
    pub(super) importance: Result<Importance, String>,
    /// The live settings, as they were measured.
    pub(super) live: Option<Best>,
    /// The winner, then the best of the others.
    pub(super) best: Vec<Best>,
    pub(super) front: Vec<Best>,
}

/// From where it is known how each metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ObjectiveFrom {
    /// The experiment says so.
    Experiment,
    /// The configuration says so today: an older version began the experiment.
    Configuration,
    /// Nobody does, so all metrics count alike.
    Nobody,
}

/// What was spent of the budget.
#[derive(Serialize)]
pub(super) struct Spent {
    pub(super) trials: usize,
    pub(super) trials_max: u64,
    pub(super) generations: u32,
    pub(super) generations_max: u32,
    /// How many runs of the best and the live settings there were beside it.
    pub(super) confirmations: usize,
    /// From the beginning to the last trial, in milliseconds.
    pub(super) took_ms: u64,
}

impl Shown {
    /// Returns what is shown of the experiment in `facts`; `None` if there is none in them.
    pub(super) fn of(home: &Home, facts: Vec<Fact>) -> Option<Shown> {
        let (mut experiment, mut end) = (None, None);
        let (mut earlier, mut trials, mut generations) = (Vec::new(), Vec::new(), Vec::new());
        for fact in facts {
            match fact {
                Fact::Experiment(found) => experiment = Some(found),
                Fact::Experience(found) => earlier = found.trials,
                Fact::Trial(trial) => trials.push(trial),
                Fact::Generation(generation) => generations.push(generation),
                Fact::ExperimentEnd(found) => end = Some(found),
                _ => {}
            }
        }
        let experiment: Experiment = experiment?;
        let (objective, objective_from) = objective(home, &experiment);
        let generations_max = experiment.spec.budget.max_generations;
        let (searched, again): (Vec<Trial>, Vec<Trial>) =
            trials.iter().cloned().partition(|trial: &Trial| trial.generation <= generations_max);
        let reference = searched.first().and_then(metrics_of).cloned().unwrap_or_default();
        let measured = Measured { objective: &objective, reference: &reference, searched: &searched };
        let took_ms = trials.last().map_or(0, |last: &Trial| last.at_ms.saturating_sub(experiment.at_ms));
        let spent = Spent {
            trials: searched.len(),
            trials_max: u64::from(experiment.spec.budget.max_candidates) * u64::from(generations_max),
            generations: searched.last().map_or(0, |last| last.generation),
            generations_max,
            confirmations: again.len(),
            took_ms,
        };
        let winner = match &end {
            Some(ExperimentEnd::Won { winner, .. }) => Some(winner),
            _ => None,
        };
        let failed = trials.iter().filter_map(|trial: &Trial| match &trial.outcome {
            Outcome::Failed(failure) => Some(failure),
            Outcome::Measured(_) => None,
        });
        Some(Shown {
            state: end.as_ref().map_or("running", ExperimentEnd::label),
            failures: failures::count(failed),
            spent,
            gain: winner.and_then(|winner| winner.gain),
            convergence: measured.convergence(),
            importance: measured.importance(&experiment),
            live: measured.live(),
            best: measured.best(winner.map(|winner| &winner.best)),
            front: front::members(&objective, &searched, &again),
            experiment,
            earlier,
            discarded: failures::thrown_away(trials.iter().filter_map(measurement_of)),
            trials,
            generations,
            end,
            objective,
            objective_from,
        })
    }
}

/// Returns how each metric of the experiment counts.
fn objective(home: &Home, experiment: &Experiment) -> (BTreeMap<String, MetricSpec>, ObjectiveFrom) {
    if !experiment.objective.is_empty() {
        return (experiment.objective.clone(), ObjectiveFrom::Experiment);
    }
    // Settings that cannot be used are for `check-config` to complain about.
    let domains = settings::Settings::load(home.root(), None).map(|settings| settings.catalogue.domains);
    if let Some(domain) = domains.ok().and_then(|mut domains| domains.remove(&experiment.spec.domain)) {
        return (domain.metrics, ObjectiveFrom::Configuration);
    }
    let alike = |direction| MetricSpec { direction, weight: 1.0, guard: None };
    let metrics = &experiment.spec.metrics;
    (metrics.iter().map(|(name, direction)| (name.clone(), alike(*direction))).collect(), ObjectiveFrom::Nobody)
}

fn metrics_of(trial: &Trial) -> Option<&Metrics> {
    measurement_of(trial).map(|measurement| &measurement.metrics)
}

fn measurement_of(trial: &Trial) -> Option<&Measurement> {
    match &trial.outcome {
        Outcome::Measured(measurement) => Some(measurement),
        Outcome::Failed(_) => None,
    }
}

/// The trials and what they are judged by.
struct Measured<'a> {
    objective: &'a BTreeMap<String, MetricSpec>,
    reference: &'a Metrics,
    searched: &'a [Trial],
}

impl Measured<'_> {
    fn convergence(&self) -> Convergence {
        let mark = |trial: &Trial| Mark {
            group: trial.generation,
            label: story::params(&trial.params),
            result: self.came(trial),
        };
        Convergence {
            scale: Scale::Gain,
            zero_name: "live".to_owned(),
            zero: Some(0.0),
            marks: self.searched.iter().map(mark).collect(),
        }
    }

    fn came(&self, trial: &Trial) -> Came {
        let metrics = match &trial.outcome {
            Outcome::Measured(measurement) => &measurement.metrics,
            Outcome::Failed(failure) => return Came::Failed(failure.kind.to_string()),
        };
        // A metric that counts and is gone is a failure of the bench, as the experiment took it.
        let Some(value) = fitness(metrics, self.reference, self.objective) else {
            return Came::Failed(FailureKind::BenchFailed.to_string());
        };
        match tripped(metrics, self.reference, self.objective) {
            Some(guard) => Came::Tripped { value, guard: guard.to_owned() },
            None => Came::Measured(value),
        }
    }

    fn importance(&self, experiment: &Experiment) -> Result<Importance, String> {
        let live = self.searched.first().map(|trial| trial.params.clone()).unwrap_or_default();
        let known =
            Experience { experiment: experiment.id.clone(), trials: Vec::new(), resolves: None, limits: Vec::new() };
        let search = Search::new(Plan::of(experiment, &dream::Config::default(), live, &known))?;
        let told = |trial: &Trial| match &trial.outcome {
            Outcome::Failed(failure) => Told::Failed(failure.kind),
            Outcome::Measured(measurement) => told_of(&measurement.metrics, self.reference, self.objective),
        };
        let told: Vec<(Params, Told)> = self.searched.iter().map(|trial| (trial.params.clone(), told(trial))).collect();
        search.importance(&told).map(Importance::from).map_err(|unclear| unclear.to_string())
    }

    fn live(&self) -> Option<Best> {
        let live = self.searched.first()?;
        self.judged(&live.params, metrics_of(live)?)
    }

    /// Returns the winner, or the best that was measured, and then the best of the others; the live settings are none.
    fn best(&self, winner: Option<&Best>) -> Vec<Best> {
        let Some((live, others)) = self.searched.split_first() else { return Vec::new() };
        let is_other =
            |best: &Best| best.params != live.params && winner.is_none_or(|winner| winner.params != best.params);
        let candidate = |trial: &Trial| {
            let metrics = metrics_of(trial)?;
            tripped(metrics, self.reference, self.objective).is_none().then(|| self.judged(&trial.params, metrics))?
        };
        let mut best: Vec<Best> = others.iter().filter_map(candidate).filter(is_other).collect();
        best.sort_by(|a, b| b.fitness.total_cmp(&a.fitness));
        winner.cloned().into_iter().chain(best).take(BEST_MAX).collect()
    }

    fn judged(&self, params: &Params, metrics: &Metrics) -> Option<Best> {
        let fitness = fitness(metrics, self.reference, self.objective)?;
        Some(Best { params: params.clone(), fitness, metrics: metrics.clone() })
    }
}
