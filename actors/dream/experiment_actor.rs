//! One experiment: asks the search, measures what it proposes, and says what came of it.

use std::sync::Arc;

use kloros_supervision::to_self;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::{
    Config,
    borrow_actor::Standing,
    closer::Searched,
    fitness::{metrics_in, told_of},
    search::{Candidate, Plan, Search, Told},
    start_saga::{attempt, begin, begins, live_params, nothing, running},
    trial_actor,
    yield_actor::Yielding,
};
use crate::{
    config::Catalogue,
    facts::{
        Best, Domain, Entry, Experiment, ExperimentEnd, Fact, FailureKind, Generation, Kind, Load, MappingProblem,
        Measurement, Outcome, Params, Promotion, PromotionId, QuestionEnd, Settings, Trial, TrialFailure, map_params,
    },
    meters,
    record::record,
    seams::{Errand, Outlet, Query, Seams},
};

/// What an experiment says.
#[derive(Clone, Debug)]
pub struct Exits {
    /// It ended.
    pub ended: Outlet<ExperimentEnd>,
    /// Its question ended with it, because nothing is worth a deployment.
    pub questions: Outlet<QuestionEnd>,
    /// What it wants the serving instance lent for, where candidates are measured in place, for the gate.
    pub promotions: Outlet<Promotion>,
    /// What is to be measured on the serving instance while it is lent, for the deployer.
    pub errands: Outlet<Errand>,
}

/// What an experiment hears.
#[derive(Debug)]
pub enum Msg {
    /// It is time for the next trial.
    Proceed,
    /// It is time to look whether everything is stopped, or goes on.
    Look,
    /// A trial is over.
    Tried(Outcome),
    /// A trial was not made, for this reason, which says nothing of the candidate.
    Untried(String),
    /// The actor of a trial is gone, for this reason.
    Left(ActorId, String),
}

/// What an experiment needs.
#[derive(Clone)]
pub struct Arguments {
    /// What is plugged in.
    pub seams: Seams,
    /// Where its end goes.
    pub exits: Exits,
    /// The room's settings.
    pub config: Config,
    /// The domains.
    pub catalogue: Arc<Catalogue>,
    /// What is to be found out.
    pub experiment: Experiment,
    /// How long a question rests that ended without a deployment, in seconds.
    pub rest_s: u64,
    /// Which share of each resource a second instance leaves free.
    pub spare: Load,
}

/// Runs one experiment to its end.
pub struct ExperimentActor;

/// What an experiment remembers: a fold of its trials in the journal.
pub struct State {
    pub(super) seams: Seams,
    pub(super) exits: Exits,
    pub(super) config: Config,
    pub(super) domain: Domain,
    pub(super) experiment: Experiment,
    pub(super) rest_s: u64,
    pub(super) search: Search,
    pub(super) live: Params,
    pub(super) trials: Vec<Trial>,
    confirmations: Vec<Trial>,
    pub(super) under_way: Option<Candidate>,
    pub(super) trial: Option<ActorRef<trial_actor::Msg>>,
    generations_recorded: u32,
    /// The end that the journal holds, if it does: it is told again and nothing more is measured.
    pub(super) ended: Option<ExperimentEnd>,
    /// What it last asked the gate for, where it measures in place.
    pub(super) requested: Option<PromotionId>,
    /// Why nothing more can be measured at all.
    pub(super) given_up: Option<String>,
    /// Whether this life of it has gone to measure.
    is_marked: bool,
    pub(super) yielding: Yielding,
}

impl Actor for ExperimentActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let state = State::resume(arguments).await?;
        to_self(&myself, Msg::Proceed)?;
        to_self(&myself, Msg::Look)?;
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Proceed => state.proceed(&myself).await,
            Msg::Look => state.look(&myself).await,
            Msg::Tried(outcome) => state.note(&myself, outcome).await,
            Msg::Untried(why) => {
                state.postpone(&why);
                Ok(())
            }
            Msg::Left(trial, detail) if state.is_own(trial) => {
                let failure = TrialFailure { kind: FailureKind::Infrastructure, detail };
                state.note(&myself, Outcome::Failed(failure)).await
            }
            Msg::Left(..) => Ok(()),
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (trial, detail) = match event {
            SupervisionEvent::ActorFailed(trial, error) => (trial, format!("the trial failed: {error}")),
            SupervisionEvent::ActorTerminated(trial, _, _) => (trial, "the trial was ended".to_owned()),
            _ => return Ok(()),
        };
        // A trial told what came of it before it stopped: that message lies before this one and wins.
        if state.is_own(trial.get_id()) {
            to_self(&myself, Msg::Left(trial.get_id(), detail))?;
        }
        Ok(())
    }
}

impl State {
    /// Returns the state that the journal's trials lead to: none of them is repeated.
    async fn resume(arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue, experiment, rest_s, spare } = arguments;
        let domain = catalogue
            .domains
            .get(&experiment.spec.domain)
            .cloned()
            .ok_or_else(|| format!("there is no domain {:?}", experiment.spec.domain))?;
        let kinds = [Kind::Experience, Kind::Trial, Kind::Generation, Kind::ExperimentEnd];
        let recorded = seams.journal.read(Query::kinds(&kinds).about(experiment.id.as_str())).await?;
        let mut trials = Vec::new();
        let (mut generations_recorded, mut ended, mut known) = (0, None, None);
        for each in recorded {
            match each.fact {
                Fact::Experience(experience) => known = Some(experience),
                Fact::Trial(trial) => trials.push(trial),
                Fact::Generation(generation) => generations_recorded = generation.number,
                Fact::ExperimentEnd(end) => ended = Some(end),
                _ => {}
            }
        }
        let (live, known) = match (trials.first(), known) {
            (Some(first), known) => (first.params.clone(), known.unwrap_or_else(|| nothing(&experiment))),
            // What is seen while an instance of an earlier life still ends is not what it began with.
            (None, Some(known)) => (live_params(&seams, &domain, &experiment).await, known),
            (None, None) => begin(&seams, &config, &domain, &experiment, &spare).await?,
        };
        let plan = Plan::of(&experiment, &config, live.clone(), &known);
        let search = Search::new(Plan { begins: begins(&domain, &experiment), ..plan })?;
        let mut state = State {
            seams,
            exits,
            config,
            domain,
            experiment,
            rest_s,
            search,
            live,
            trials: Vec::new(),
            confirmations: Vec::new(),
            under_way: None,
            trial: None,
            generations_recorded,
            ended,
            requested: None,
            given_up: None,
            is_marked: false,
            yielding: Yielding::default(),
        };
        for trial in trials {
            state.tell(trial);
        }
        Ok(state)
    }

    fn is_own(&self, trial: ActorId) -> bool {
        self.trial.as_ref().is_some_and(|own| own.get_id() == trial)
    }

    fn is_confirmation(&self, generation: u32) -> bool {
        generation > self.experiment.spec.budget.max_generations
    }

    pub(super) async fn proceed(&mut self, myself: &ActorRef<Msg>) -> Result<(), ActorProcessingErr> {
        if self.under_way.is_some() {
            return Ok(());
        }
        if self.ended.is_some() || self.given_up.is_some() {
            return self.end(myself).await;
        }
        if self.seams.switch.stopped().is_some() {
            return Ok(());
        }
        let Some(candidate) = self.next_candidate() else { return self.end(myself).await };
        let settings = match self.meant(&candidate.params) {
            Ok(settings) => settings,
            Err(problem) => {
                self.under_way = Some(candidate);
                let failure = TrialFailure { kind: FailureKind::Infrastructure, detail: problem.to_string() };
                return self.note(myself, Outcome::Failed(failure)).await;
            }
        };
        self.measure(myself, candidate, settings).await
    }

    /// Returns the settings that `params` mean. What runs already is no change, so no range is asked about it.
    pub(super) fn meant(&self, params: &Params) -> Result<Settings, MappingProblem> {
        let mapping = &self.experiment.spec.param_mapping;
        if *params == self.live { Ok(running(params, mapping)) } else { map_params(params, mapping, &self.domain) }
    }

    /// Returns what is tried next: what the search asks for, then the best and the live settings once more.
    fn next_candidate(&mut self) -> Option<Candidate> {
        if self.searched().is_hopeless(self.search.generation_done().is_some()) {
            return None;
        }
        let asked = if self.is_out_of_time() { None } else { self.search.ask().into_iter().next() };
        asked.or_else(|| self.searched().next())
    }

    pub(super) fn searched(&self) -> Searched<'_> {
        Searched {
            config: &self.config,
            experiment: &self.experiment,
            specs: &self.domain.metrics,
            trials: &self.trials,
            confirmations: &self.confirmations,
            favourite: self.search.favourite(),
        }
    }

    pub(super) async fn measure(
        &mut self,
        myself: &ActorRef<Msg>,
        candidate: Candidate,
        settings: Settings,
    ) -> Result<(), ActorProcessingErr> {
        self.under_way = Some(candidate.clone());
        if self.domain.in_place.is_some() {
            match self.borrow().await? {
                Standing::Lent => {}
                // It is looked again in a moment.
                Standing::Asked => return Ok(()),
                Standing::Refused(why) => return self.give_up(myself, why).await,
            }
        }
        if !std::mem::replace(&mut self.is_marked, true) {
            // Before the measurement: whatever it breaks, this attempt is counted.
            let ended = self.trials.len() + self.confirmations.len();
            record(&self.seams, vec![attempt(&self.experiment, ended, self.seams.clock.now_ms())]).await?;
        }
        self.looks_up().await?;
        let before = self.trials.iter().chain(&self.confirmations);
        let assignment = trial_actor::assignment(&self.experiment, &self.config, &candidate, settings, before);
        tracing::debug!(trial = %assignment.label, "trial begins");
        let (done, postponed) = (myself.clone(), myself.clone());
        let arguments = trial_actor::Arguments {
            bench: Arc::clone(&self.seams.bench),
            errands: self.exits.errands.clone(),
            experiment: self.experiment.id.clone(),
            domain: self.domain.clone(),
            assignment,
            done: Outlet::to(move |outcome| {
                // An experiment that is gone is resumed from the journal and measures this candidate again.
                done.send_message(Msg::Tried(outcome)).ok();
            }),
            untried: Outlet::to(move |why| {
                postponed.send_message(Msg::Untried(why)).ok();
            }),
        };
        let (trial, _) = Actor::spawn_linked(None, trial_actor::Trial, arguments, myself.get_cell()).await?;
        self.trial = Some(trial);
        Ok(())
    }

    async fn note(&mut self, myself: &ActorRef<Msg>, outcome: Outcome) -> Result<(), ActorProcessingErr> {
        let Some(candidate) = self.under_way.take() else { return Ok(()) };
        self.trial = None;
        let result = match &outcome {
            Outcome::Measured(_) => "measured",
            Outcome::Failed(failure) => failure.kind.label(),
        };
        metrics::counter!(meters::TRIALS_TOTAL, "result" => result).increment(1);
        let trial = Trial {
            experiment: self.experiment.id.clone(),
            generation: candidate.generation,
            number: candidate.number,
            params: candidate.params,
            outcome,
            at_ms: self.seams.clock.now_ms(),
        };
        let name = format!("trial:{}:{}:{}", trial.experiment, trial.generation, trial.number);
        let mut entries = vec![Entry::once(&self.experiment.cycle, trial.at_ms, name, Fact::Trial(trial.clone()))];
        self.tell(trial);
        entries.extend(self.finished_generation());
        record(&self.seams, entries).await?;
        to_self(myself, Msg::Proceed)?;
        Ok(())
    }

    fn tell(&mut self, trial: Trial) {
        if self.is_confirmation(trial.generation) {
            self.confirmations.push(trial);
            return;
        }
        let candidate = Candidate { generation: trial.generation, number: trial.number, params: trial.params.clone() };
        let told = match &trial.outcome {
            Outcome::Failed(failure) => Told::Failed(failure.kind),
            Outcome::Measured(measurement) => self.told_of(&trial, measurement),
        };
        self.search.tell(&candidate, told);
        self.trials.push(trial);
    }

    fn told_of(&self, trial: &Trial, measurement: &Measurement) -> Told {
        let incumbent = match self.trials.first() {
            Some(Trial { outcome: Outcome::Measured(live), .. }) => &live.metrics,
            None if trial.params == self.live => &measurement.metrics,
            // Without the live settings nothing says how good a number is.
            _ => return Told::Failed(FailureKind::BenchFailed),
        };
        told_of(&measurement.metrics, incumbent, &self.domain.metrics)
    }

    fn finished_generation(&mut self) -> Option<Entry> {
        let number = self.search.generation_done()?;
        if number <= self.generations_recorded {
            return None;
        }
        self.generations_recorded = number;
        let of_it = self.trials.iter().filter(|trial| trial.generation == number);
        let (measured, failed): (Vec<&Trial>, Vec<&Trial>) =
            of_it.partition(|trial| matches!(trial.outcome, Outcome::Measured(_)));
        let generation = Generation {
            experiment: self.experiment.id.clone(),
            number,
            measured: measured.len() as u32,
            failed: failed.len() as u32,
            best: self.best(),
        };
        tracing::info!(
            experiment = %self.experiment.id, generation = number, measured = generation.measured,
            failed = generation.failed, best = generation.best.as_ref().map_or(0.0, |best| best.fitness),
            "generation measured"
        );
        let name = format!("generation:{}:{number}", self.experiment.id);
        Some(Entry::once(&self.experiment.cycle, self.seams.clock.now_ms(), name, Fact::Generation(generation)))
    }

    fn best(&self) -> Option<Best> {
        let (candidate, fitness) = self.search.best()?;
        let metrics = metrics_in(&self.trials.iter().find(|trial| trial.params == candidate.params)?.outcome)?.clone();
        Some(Best { params: candidate.params.clone(), fitness, metrics })
    }
}
