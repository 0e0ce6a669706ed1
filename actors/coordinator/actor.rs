use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kloros_supervision::ChildExit;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{
    Config,
    admission::{Offer, Queue, Running},
};
use crate::{
    config::Catalogue,
    facts::{
        Entry, Experiment, ExperimentEnd, ExperimentId, Fact, Intent, Kind, Origin, Proposal, Question, QuestionEnd,
        Winner, map_params, short_hash,
    },
    meters,
    record::{record, record_once, wake},
    seams::{Appended, JournalError, Outlet, Planning, Query, Seams},
};

/// What the coordinator says.
#[derive(Clone, Debug)]
pub struct Exits {
    /// An experiment that is to run.
    pub experiments: Outlet<Experiment>,
    /// Settings that are to be compared with what runs, and proposed to the gate.
    pub proposals: Outlet<Planning>,
    /// A question that ended without a deployment.
    pub ended: Outlet<QuestionEnd>,
}

/// What the coordinator hears.
#[derive(Debug)]
pub enum Msg {
    /// Somebody wants something brought about.
    Intended(Intent),
    /// A person proposes settings and waits to hear what change they amount to.
    Tried(Planning),
    /// An experiment ended.
    Ended(ExperimentEnd),
    /// The actor of an experiment is gone, for whatever reason.
    Left(ChildExit),
    /// It is time to look into the journal for work that no message told of.
    Sweep,
    /// The operator changed the settings.
    Reconfigured(Config),
}

/// What the coordinator needs.
pub struct Arguments {
    /// What is plugged in.
    pub seams: Seams,
    /// Where work goes.
    pub exits: Exits,
    /// The room's settings.
    pub config: Config,
    /// The domains and experiments that exist.
    pub catalogue: Arc<Catalogue>,
    /// The seed from which each experiment's own seed is made.
    pub seed: u64,
    /// How long a question rests that ended without a deployment, in seconds.
    pub rest_s: u64,
}

/// Routes every intent.
pub struct Coordinator;

/// What the coordinator remembers: a fold of the journal.
pub struct State {
    seams: Seams,
    exits: Exits,
    config: Config,
    catalogue: Arc<Catalogue>,
    seed: u64,
    rest_s: u64,
    queue: Queue,
    running: Running,
    experiments: BTreeMap<ExperimentId, UnderWay>,
    /// Experiments that the journal leaves open are resumed once; later ones are told of by messages.
    first_sweep: bool,
}

/// An experiment under way.
struct UnderWay {
    experiment: Experiment,
    resumes: u32,
}

/// How often the journal is swept.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How many questions and experiments of the past are looked at for unfinished work.
const HISTORY_MAX: usize = 2_000;

impl Actor for Coordinator {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue, seed, rest_s } = arguments;
        myself.send_message(Msg::Sweep)?;
        let (queue, running, experiments) = (Queue::default(), Running::default(), BTreeMap::new());
        Ok(State { seams, exits, config, catalogue, seed, rest_s, queue, running, experiments, first_sweep: true })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Intended(Intent::CuriosityQuestion(question)) => state.consider(question).await,
            Msg::Intended(Intent::Proposal(proposal)) => state.pass_on(Planning { proposal, reply: None }),
            Msg::Tried(planning) => state.pass_on(planning),
            Msg::Ended(end) => state.conclude(end).await,
            Msg::Left(exit) => state.resume(&exit),
            Msg::Sweep => {
                state.sweep().await?;
                myself.send_after(SWEEP_EVERY, || Msg::Sweep);
            }
            Msg::Reconfigured(config) => state.config = config,
        }
        Ok(())
    }
}

impl State {
    async fn consider(&mut self, question: Question) {
        // A question from the inbox is not in the journal yet; one from curiosity is, and is not written again.
        let name = format!("question:{}", question.question_id);
        let fact = Fact::Question(question.clone());
        if record_once(&self.seams, &question.cycle, name, fact).await.is_err() {
            return;
        }
        if let Some(why) = self.objection(&question) {
            self.end(&question, "refused", &why).await;
            return;
        }
        match self.queue.offer(question.clone(), &self.running, &self.config) {
            Offer::Start => self.start(question).await,
            Offer::Wait { place } => {
                count("waiting");
                tracing::info!(question = %question.question_id, place, "question waits for an experiment");
            }
            Offer::Duplicate => count("duplicate"),
            Offer::Full => self.end(&question, "refused", "too many questions wait already").await,
            Offer::TooDeep => self.end(&question, "refused", "too many of our own doings stand behind it").await,
        }
    }

    /// Returns why the experiment of `question` may not run, in words.
    fn objection(&self, question: &Question) -> Option<String> {
        let spec = &question.dream_experiment;
        let Some(domain) = self.catalogue.domains.get(&spec.domain) else {
            return Some(format!("there is no domain {:?}", spec.domain));
        };
        if spec.search_space.is_empty() {
            return Some("the search space is empty".to_owned());
        }
        for name in spec.search_space.keys() {
            let Some(key) = spec.param_mapping.get(name) else {
                return Some(format!("parameter {name:?} is not mapped to an env key"));
            };
            if !domain.knobs.contains_key(key) {
                return Some(format!("{key} is not a knob of domain {}", domain.name));
            }
        }
        None
    }

    async fn start(&mut self, question: Question) {
        let now_ms = self.seams.clock.now_ms();
        let digest = short_hash(&[question.question_id.as_str(), &self.seed.to_string()]);
        self.running.started(&question);
        let experiment = Experiment {
            id: ExperimentId::new(format!("x-{}", question.question_id)),
            question: question.question_id,
            hypothesis: question.hypothesis,
            cycle: question.cycle,
            spec: question.dream_experiment,
            seed: u64::from_str_radix(&digest, 16).unwrap_or(self.seed),
            at_ms: now_ms,
            depth: question.depth,
        };
        let name = format!("experiment:{}", experiment.id);
        let fact = Fact::Experiment(experiment.clone());
        match record_once(&self.seams, &experiment.cycle, name, fact).await {
            Ok(true) => {}
            Ok(false) => return count("duplicate"),
            Err(_) => return,
        }
        count("experiment");
        tracing::info!(cycle = %experiment.cycle, experiment = %experiment.id, "experiment begins");
        self.run(experiment, 0);
    }

    fn run(&mut self, experiment: Experiment, resumes: u32) {
        self.experiments.insert(experiment.id.clone(), UnderWay { experiment: experiment.clone(), resumes });
        metrics::gauge!(meters::EXPERIMENTS_RUNNING).set(self.experiments.len() as f64);
        wake(&self.exits.experiments, experiment);
    }

    async fn conclude(&mut self, end: ExperimentEnd) {
        let Some(under_way) = self.experiments.remove(end.experiment()) else { return };
        self.running.ended(&under_way.experiment.question);
        metrics::gauge!(meters::EXPERIMENTS_RUNNING).set(self.experiments.len() as f64);
        if let ExperimentEnd::Won { winner, .. } = end {
            self.propose(&under_way.experiment, &winner).await;
        }
        self.next().await;
    }

    async fn next(&mut self) {
        if let Some(question) = self.queue.next(&self.running, &self.config) {
            self.start(question).await;
        }
    }

    async fn propose(&self, experiment: &Experiment, winner: &Winner) {
        let Some(domain) = self.catalogue.domains.get(&experiment.spec.domain) else { return };
        match map_params(&winner.best.params, &experiment.spec.param_mapping, domain) {
            Ok(settings) => {
                let proposal = Proposal {
                    cycle: experiment.cycle.clone(),
                    origin: Origin::Experiment(experiment.id.clone()),
                    experiment: experiment.spec.name.clone(),
                    question: Some(experiment.question.clone()),
                    hypothesis: Some(experiment.hypothesis.clone()),
                    domain: experiment.spec.domain.clone(),
                    settings,
                    fitness: Some(winner.best.fitness),
                    at_ms: self.seams.clock.now_ms(),
                    depth: experiment.depth,
                };
                self.pass_on(Planning { proposal, reply: None });
            }
            Err(problem) => self.end_experiment(experiment, "refused", &problem.to_string()).await,
        }
    }

    fn pass_on(&self, planning: Planning) {
        count("proposal");
        wake(&self.exits.proposals, planning);
    }

    /// An experiment's actor that leaves without an end broke off: it goes on where the journal says, but not for ever.
    fn resume(&mut self, exit: &ChildExit) {
        let id = ExperimentId::new(exit.id.clone());
        let Some(UnderWay { experiment, resumes }) = self.experiments.remove(&id) else { return };
        if resumes < self.config.resumes_max {
            tracing::warn!(experiment = %id, exit = ?exit.exit, resumes, "experiment broke off and is resumed");
            self.run(experiment, resumes + 1);
        } else {
            tracing::error!(experiment = %id, exit = ?exit.exit, "experiment broke off too often, it rests until the next start");
            self.running.ended(&experiment.question);
        }
    }

    /// Finds what no message told of: questions without an experiment, experiments without an end, winners without a
    /// promotion.
    async fn sweep(&mut self) -> Result<(), JournalError> {
        let kinds = [Kind::Question, Kind::QuestionEnd, Kind::Experiment, Kind::ExperimentEnd, Kind::Promotion];
        let mut history = self.seams.journal.read(Query::newest(&kinds, HISTORY_MAX)).await?;
        history.reverse();
        let mut open = Unfinished::default();
        for recorded in history {
            open.fold(recorded.fact);
        }
        let first = std::mem::take(&mut self.first_sweep);
        for (experiment, end) in open.experiments.into_values() {
            match end {
                None if first => {
                    tracing::info!(experiment = %experiment.id, "experiment goes on where it was");
                    self.running.resumed(&experiment);
                    self.run(experiment, 0);
                }
                Some(ExperimentEnd::Won { winner, .. }) => self.propose(&experiment, &winner).await,
                _ => {}
            }
        }
        for question in open.questions.into_values() {
            self.consider(question).await;
        }
        Ok(())
    }

    async fn end_experiment(&self, experiment: &Experiment, how: &str, why: &str) {
        let end = QuestionEnd {
            question: experiment.question.clone(),
            hypothesis: experiment.hypothesis.clone(),
            domain: experiment.spec.domain.clone(),
            how: how.to_owned(),
            why: why.to_owned(),
            eligible_at_ms: self.seams.clock.now_ms() + self.rest_s * 1000,
        };
        self.write_end(&experiment.cycle, end).await;
    }

    async fn end(&self, question: &Question, how: &str, why: &str) {
        count("refused");
        let end = QuestionEnd {
            question: question.question_id.clone(),
            hypothesis: question.hypothesis.clone(),
            domain: question.dream_experiment.domain.clone(),
            how: how.to_owned(),
            why: why.to_owned(),
            eligible_at_ms: self.seams.clock.now_ms() + self.rest_s * 1000,
        };
        self.write_end(&question.cycle, end).await;
    }

    async fn write_end(&self, cycle: &crate::facts::CycleId, end: QuestionEnd) {
        let name = format!("question_end:{}", end.question);
        let entry = Entry::once(cycle, self.seams.clock.now_ms(), name, Fact::QuestionEnd(end.clone()));
        if let Ok(written) = record(&self.seams, vec![entry]).await
            && matches!(written.first(), Some(Appended::At(_)))
        {
            tracing::info!(question = %end.question, how = %end.how, why = %end.why, "question ended");
            wake(&self.exits.ended, end);
        }
    }
}

/// What the journal says is not finished.
#[derive(Default)]
struct Unfinished {
    questions: BTreeMap<String, Question>,
    experiments: BTreeMap<ExperimentId, (Experiment, Option<ExperimentEnd>)>,
}

impl Unfinished {
    fn fold(&mut self, fact: Fact) {
        match fact {
            Fact::Question(question) => {
                self.questions.insert(question.question_id.to_string(), question);
            }
            Fact::QuestionEnd(end) => {
                self.questions.remove(end.question.as_str());
                self.experiments.retain(|_, (experiment, _)| experiment.question != end.question);
            }
            Fact::Experiment(experiment) => {
                self.questions.remove(experiment.question.as_str());
                self.experiments.insert(experiment.id.clone(), (experiment, None));
            }
            Fact::ExperimentEnd(end) => {
                if let Some(found) = self.experiments.get_mut(end.experiment()) {
                    found.1 = Some(end);
                }
            }
            Fact::Promotion(promotion) => {
                if let Origin::Experiment(experiment) = promotion.origin {
                    self.experiments.remove(&experiment);
                }
            }
            _ => {}
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!(meters::INTENTS_TOTAL, "outcome" => outcome).increment(1);
}
