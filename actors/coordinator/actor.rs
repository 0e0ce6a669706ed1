use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use kloros_supervision::{ChildExit, to_self};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::{
    Config,
    admission::{Offer, Queue, Running},
    unfinished::Unfinished,
};
use crate::{
    config::Catalogue,
    facts::{
        Domain, Entry, Experiment, ExperimentEnd, ExperimentId, Fact, Intent, Kind, Proposal, Question, QuestionEnd,
        QuestionId, Winner, map_params, short_hash,
    },
    meters,
    record::{Asked, Ending, record, record_once, wake},
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
    /// The inbox hands over a question, and waits until it is durable.
    Handed(Question, RpcReplyPort<()>),
    /// A person proposes settings and waits to hear what change they amount to.
    Tried(Planning),
    /// An experiment ended.
    Ended(ExperimentEnd),
    /// A question ended: what it held up may go on.
    Answered(QuestionEnd),
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
    unfinished: Unfinished,
    /// Up to where the journal was read.
    seen: u64,
    /// Proposals that the deployer was not there to take, oldest first.
    held: VecDeque<Proposal>,
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

/// How many proposals are held while the deployer is down.
const HELD_MAX: usize = 64;

impl Actor for Coordinator {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue, seed, rest_s } = arguments;
        to_self(&myself, Msg::Sweep)?;
        let (queue, running, experiments) = (Queue::default(), Running::default(), BTreeMap::new());
        let (unfinished, seen, held) = (Unfinished::default(), 0, VecDeque::new());
        let mut state = State {
            seams,
            exits,
            config,
            catalogue,
            seed,
            rest_s,
            queue,
            running,
            experiments,
            unfinished,
            seen,
            held,
        };
        state.catch_up().await?;
        for experiment in state.unfinished.settling.values() {
            state.running.settles(experiment);
        }
        for (experiment, end) in state.unfinished.experiments.clone().into_values() {
            if end.is_none() {
                tracing::info!(experiment = %experiment.id, "experiment goes on where it was");
                state.running.resumed(&experiment);
                state.run(experiment, 0);
            }
        }
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Intended(Intent::CuriosityQuestion(question)) => drop(state.consider(question).await),
            // What is not durable is not answered, and handed over again.
            Msg::Handed(question, reply) => drop(state.consider(question).await.map(|()| reply.send(()))),
            Msg::Intended(Intent::Proposal(proposal)) => state.pass_on(proposal),
            // Who tries something waits for the answer, and hears at once when there is none to be had.
            Msg::Tried(planning) => wake(&state.exits.proposals, planning),
            Msg::Ended(end) => state.conclude(end).await,
            Msg::Answered(end) => state.release(&end).await,
            Msg::Left(exit) => state.resume(&exit).await?,
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
    /// Admits a question, or ends it. Fails where it could not be made durable, and nothing was done.
    async fn consider(&mut self, question: Question) -> Result<(), JournalError> {
        // A question from the inbox is not in the journal yet; one from curiosity is, and is not written again.
        let name = format!("question:{}", question.question_id);
        let fact = Fact::Question(question.clone());
        record_once(&self.seams, &question.cycle, name, fact).await?;
        if self.is_known(&question).await {
            count("duplicate");
            return Ok(());
        }
        if let Some(why) = self.catalogue.objection(&question.dream_experiment) {
            self.end(&question, "refused", &why).await;
            return Ok(());
        }
        match self.queue.offer(question.clone(), &self.running, &self.config) {
            Offer::Start => self.start(question).await,
            Offer::Wait { place } => {
                count("waiting");
                tracing::info!(question = %question.question_id, place, "question waits for an experiment");
            }
            Offer::Duplicate => self.end(&question, "refused", "the same is being asked already").await,
            Offer::Full => self.end(&question, "refused", "too many questions wait already").await,
            Offer::TooDeep => self.end(&question, "refused", "too many of our own doings stand behind it").await,
        }
        Ok(())
    }

    /// Returns whether this very question waits, runs or ended already.
    async fn is_known(&self, question: &Question) -> bool {
        let id = &question.question_id;
        let runs = self.experiments.values().any(|under_way| under_way.experiment.question == *id);
        if runs || self.queue.waiting().any(|waiting| waiting.question_id == *id) {
            return true;
        }
        let query = Query::kinds(&[Kind::QuestionEnd]).about(id.as_str());
        // What cannot be looked up is found again by the next sweep.
        self.seams.journal.read(query).await.map_or(true, |ends| !ends.is_empty())
    }

    async fn start(&mut self, question: Question) {
        let now_ms = self.seams.clock.now_ms();
        let digest = short_hash(&[question.question_id.as_str(), &self.seed.to_string()]);
        self.running.started(&question);
        let domain = self.catalogue.domains.get(&question.dream_experiment.domain);
        let experiment = Experiment {
            id: ExperimentId::new(format!("x-{}", question.question_id)),
            question: question.question_id,
            hypothesis: question.hypothesis,
            cycle: question.cycle,
            measured_by: domain.map(Domain::measured_by),
            spec: question.dream_experiment,
            seed: u64::from_str_radix(&digest, 16).unwrap_or(self.seed),
            at_ms: now_ms,
            depth: question.depth,
            objective: domain.map(|domain| domain.metrics.clone()).unwrap_or_default(),
        };
        let name = format!("experiment:{}", experiment.id);
        let fact = Fact::Experiment(experiment.clone());
        match record_once(&self.seams, &experiment.cycle, name, fact).await {
            Ok(true) => {}
            // Its place is given back: nothing runs.
            other => {
                self.running.ended(&experiment.question);
                if other.is_ok() {
                    count("duplicate");
                }
                return;
            }
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
        let Some(under_way) = self.leave(end.experiment()) else { return };
        if let ExperimentEnd::Won { winner, .. } = end {
            self.running.settles(&under_way.experiment);
            self.propose(&under_way.experiment, &winner).await;
        }
        self.next().await;
    }

    /// Frees the domain of a question that ended. Where it ended in new settings, what waits asks about old ones.
    async fn release(&mut self, end: &QuestionEnd) {
        self.running.settled(&end.question);
        if end.how == "deployed" {
            let of_it = |waiting: &&Question| waiting.dream_experiment.domain == end.domain;
            let overtaken: Vec<QuestionId> =
                self.queue.waiting().filter(of_it).map(|waiting| waiting.question_id.clone()).collect();
            for question in overtaken.iter().filter_map(|id| self.queue.withdraw(id)).collect::<Vec<_>>() {
                let why = format!("{} changed the settings that it asks about", end.question);
                self.end(&question, "overtaken", &why).await;
            }
        }
        self.next().await;
    }

    fn leave(&mut self, id: &ExperimentId) -> Option<UnderWay> {
        let under_way = self.experiments.remove(id)?;
        self.running.ended(&under_way.experiment.question);
        metrics::gauge!(meters::EXPERIMENTS_RUNNING).set(self.experiments.len() as f64);
        Some(under_way)
    }

    async fn next(&mut self) {
        while let Some(question) = self.queue.next(&self.running, &self.config) {
            self.start(question).await;
        }
    }

    async fn propose(&mut self, experiment: &Experiment, winner: &Winner) {
        let catalogue = Arc::clone(&self.catalogue);
        let Some(domain) = catalogue.domains.get(&experiment.spec.domain) else {
            let why = format!("there is no domain {:?}", experiment.spec.domain);
            return self.end(experiment, "refused", &why).await;
        };
        match map_params(&winner.best.params, &experiment.spec.param_mapping, domain) {
            Ok(settings) => {
                let proposal = Proposal::of_winner(experiment, winner, settings, self.seams.clock.now_ms());
                self.pass_on(proposal);
            }
            Err(problem) => self.end(experiment, "refused", &problem.to_string()).await,
        }
    }

    /// A proposal of a person's file stands in no journal yet, so it is held while the deployer is down.
    fn pass_on(&mut self, proposal: Proposal) {
        count("proposal");
        if let Err(down) = self.exits.proposals.send(Planning { proposal: proposal.clone(), reply: None }) {
            tracing::debug!(%down, "proposal is held");
            if self.held.len() < HELD_MAX && !self.held.contains(&proposal) {
                self.held.push_back(proposal);
            }
        }
    }

    /// An experiment's actor that leaves without an end broke off: it goes on where the journal says, but not for ever.
    async fn resume(&mut self, exit: &ChildExit) -> Result<(), JournalError> {
        let id = ExperimentId::new(exit.id.clone());
        if !self.experiments.contains_key(&id) {
            return Ok(());
        }
        // It may have ended all the same, and only the message of it was lost.
        let query = Query::kinds(&[Kind::ExperimentEnd]).about(id.as_str());
        let ends = self.seams.journal.read(query).await?;
        if let Some(Fact::ExperimentEnd(end)) = ends.into_iter().next().map(|recorded| recorded.fact) {
            self.conclude(end).await;
            return Ok(());
        }
        let Some(UnderWay { experiment, resumes }) = self.leave(&id) else { return Ok(()) };
        if resumes < self.config.resumes_max {
            tracing::warn!(experiment = %id, exit = ?exit.exit, resumes, "experiment broke off and is resumed");
            self.running.resumed(&experiment);
            self.run(experiment, resumes + 1);
            return Ok(());
        }
        let why = format!("it broke off {} times", resumes + 1);
        tracing::error!(experiment = %id, exit = ?exit.exit, %why, "experiment is given up");
        self.give_up(&experiment, why).await?;
        self.next().await;
        Ok(())
    }

    async fn give_up(&self, experiment: &Experiment, why: String) -> Result<(), JournalError> {
        let ending = Ending::resting(&self.seams, experiment, "void", &why, self.rest_s);
        let end = ExperimentEnd::Void { experiment: experiment.id.clone(), why };
        let name = format!("experiment_end:{}", experiment.id);
        let entry = Entry::once(&experiment.cycle, self.seams.clock.now_ms(), name, Fact::ExperimentEnd(end));
        record(&self.seams, Ending::with(ending.as_ref(), vec![entry])).await?;
        Ending::tell(ending, &self.exits.ended);
        Ok(())
    }

    /// Finds what no message told of: questions without an experiment, ends that nobody heard, winners without a
    /// promotion.
    async fn sweep(&mut self) -> Result<(), JournalError> {
        self.catch_up().await?;
        for proposal in std::mem::take(&mut self.held) {
            self.pass_on(proposal);
        }
        for (experiment, end) in self.unfinished.experiments.clone().into_values() {
            match end {
                Some(end) if self.experiments.contains_key(&experiment.id) => self.conclude(end).await,
                Some(ExperimentEnd::Won { winner, .. }) => self.propose(&experiment, &winner).await,
                _ => {}
            }
        }
        for question in self.unfinished.questions.clone().into_values() {
            self.consider(question).await?;
        }
        self.next().await;
        Ok(())
    }

    /// Folds what the journal has since it was last read; at first the newest of its past.
    async fn catch_up(&mut self) -> Result<(), JournalError> {
        let kinds = [Kind::Question, Kind::QuestionEnd, Kind::Experiment, Kind::ExperimentEnd, Kind::Promotion];
        let query = match self.seen {
            0 => Query::newest(&kinds, HISTORY_MAX),
            seen => Query { after: seen, ..Query::kinds(&kinds) },
        };
        let mut recorded = self.seams.journal.read(query).await?;
        recorded.sort_by_key(|each| each.seq);
        for each in recorded {
            self.seen = each.seq;
            self.unfinished.fold(each.fact);
        }
        Ok(())
    }

    async fn end<'a>(&self, asked: impl Into<Asked<'a>>, how: &str, why: &str) {
        count("refused");
        let Some(ending) = Ending::resting(&self.seams, asked, how, why, self.rest_s) else { return };
        if let Ok(written) = record(&self.seams, vec![ending.entry.clone()]).await
            && matches!(written.first(), Some(Appended::At(_)))
        {
            Ending::tell(Some(ending), &self.exits.ended);
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!(meters::INTENTS_TOTAL, "outcome" => outcome).increment(1);
}
