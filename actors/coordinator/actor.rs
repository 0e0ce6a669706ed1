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
    resume_actor::Paused,
    room::Limits,
    unfinished::{KINDS_READ, Unfinished},
};
use crate::{
    config::Catalogue,
    facts::{
        Domain, Experiment, ExperimentEnd, ExperimentId, Fact, Intent, Isolation, Kind, Proposal, Question,
        QuestionEnd, QuestionId, Room, Winner, map_params, short_hash,
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
    /// A heartbeat, to be sent back.
    Pulse(RpcReplyPort<()>),
    /// The operator changed the settings, or how long a question rests that ended without a deployment, in seconds.
    Reconfigured(Config, u64),
    /// The operator changed the domains or experiments.
    Catalogued(Arc<Catalogue>),
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
    pub(super) seams: Seams,
    pub(super) exits: Exits,
    pub(super) config: Config,
    pub(super) catalogue: Arc<Catalogue>,
    seed: u64,
    pub(super) rest_s: u64,
    pub(super) queue: Queue,
    pub(super) running: Running,
    pub(super) experiments: BTreeMap<ExperimentId, UnderWay>,
    /// What was begun and has no place or no room just now, oldest first: it goes on before anything new begins.
    pub(super) paused: VecDeque<Paused>,
    pub(super) unfinished: Unfinished,
    /// Up to where the journal was read.
    seen: u64,
    /// Proposals that the deployer was not there to take, oldest first.
    held: VecDeque<Proposal>,
}

/// An experiment under way.
pub(super) struct UnderWay {
    pub(super) experiment: Experiment,
    pub(super) resumes: u32,
}

/// How often the journal is swept.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

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
        let (unfinished, seen) = (Unfinished::default(), 0);
        let (paused, held) = (VecDeque::new(), VecDeque::new());
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
            paused,
            unfinished,
            seen,
            held,
        };
        state.catch_up().await?;
        for experiment in state.unfinished.settling.values() {
            state.running.settles(experiment);
        }
        state.take_up().await?;
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
            Msg::Pulse(reply) => drop(reply.send(())),
            Msg::Reconfigured(config, rest_s) => (state.config, state.rest_s) = (config, rest_s),
            Msg::Catalogued(catalogue) => state.catalogue = catalogue,
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
        let room = self.room().await;
        let limits = Limits { config: &self.config, room: &room, domains: &self.catalogue.domains };
        match self.queue.offer(question.clone(), &self.running, &limits) {
            Offer::Start => self.start(question, &room).await,
            Offer::Wait { place } => {
                count("waiting");
                tracing::info!(question = %question.question_id, place, "question waits for an experiment");
            }
            Offer::Duplicate => self.end(&question, "refused", "the same is being asked already").await,
            Offer::Full => self.end(&question, "refused", "too many questions wait already").await,
            Offer::TooDeep => self.end(&question, "refused", "too many of our own doings stand behind it").await,
            Offer::TooLarge(why) => self.end(&question, "refused", &why).await,
        }
        Ok(())
    }

    /// Returns whether this very question waits, runs or ended already.
    async fn is_known(&self, question: &Question) -> bool {
        let id = &question.question_id;
        if self.is_begun(id) || self.queue.waiting().any(|waiting| waiting.question_id == *id) {
            return true;
        }
        let query = Query::kinds(&[Kind::QuestionEnd]).about(id.as_str());
        // What cannot be looked up is found again by the next sweep.
        self.seams.journal.read(query).await.map_or(true, |ends| !ends.is_empty())
    }

    /// Returns whether an experiment on this question runs, or waits to go on.
    fn is_begun(&self, question: &QuestionId) -> bool {
        let mut begun = self.experiments.values().chain(self.paused.iter().map(|paused| &paused.under_way));
        begun.any(|under_way| under_way.experiment.question == *question)
    }

    /// Returns what the machine has room for now.
    pub(super) async fn room(&self) -> Room {
        let instances = self.catalogue.domains.values().filter(|domain| domain.isolation == Isolation::Shadow);
        self.seams.capacity.room(&instances.collect::<Vec<_>>()).await
    }

    async fn start(&mut self, question: Question, room: &Room) {
        let now_ms = self.seams.clock.now_ms();
        let digest = short_hash(&[question.question_id.as_str(), &self.seed.to_string()]);
        let limits = Limits { config: &self.config, room, domains: &self.catalogue.domains };
        self.running.started(&question, limits.need(&question.dream_experiment.domain));
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

    pub(super) fn run(&mut self, experiment: Experiment, resumes: u32) {
        self.experiments.insert(experiment.id.clone(), UnderWay { experiment: experiment.clone(), resumes });
        metrics::gauge!(meters::EXPERIMENTS_RUNNING).set(self.experiments.len() as f64);
        wake(&self.exits.experiments, experiment);
    }

    pub(super) async fn conclude(&mut self, end: ExperimentEnd) {
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

    pub(super) fn leave(&mut self, id: &ExperimentId) -> Option<UnderWay> {
        // What is paused here may have gone on all the while, if only this room was restarted.
        let place = self.paused.iter().position(|paused| paused.under_way.experiment.id == *id);
        let paused = place.and_then(|place| self.paused.remove(place)).map(|paused| paused.under_way);
        let under_way = self.experiments.remove(id).or(paused)?;
        self.running.ended(&under_way.experiment.question);
        metrics::gauge!(meters::EXPERIMENTS_RUNNING).set(self.experiments.len() as f64);
        Some(under_way)
    }

    pub(super) async fn next(&mut self) {
        let room = self.room().await;
        if self.go_on(&room) {
            return;
        }
        loop {
            let limits = Limits { config: &self.config, room: &room, domains: &self.catalogue.domains };
            let Some(question) = self.queue.next(&self.running, &limits) else { return };
            self.start(question, &room).await;
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

    /// Finds what no message told of: questions without an experiment, ends that nobody heard, winners without a
    /// promotion.
    async fn sweep(&mut self) -> Result<(), JournalError> {
        self.catch_up().await?;
        for proposal in std::mem::take(&mut self.held) {
            self.pass_on(proposal);
        }
        for (experiment, end) in self.unfinished.experiments.clone().into_values() {
            match end {
                Some(end) if self.is_begun(&experiment.question) => self.conclude(end).await,
                Some(ExperimentEnd::Won { winner, .. }) => self.propose(&experiment, &winner).await,
                _ => {}
            }
        }
        for question in self.unfinished.questions.clone().into_values() {
            self.consider(question).await?;
        }
        self.defer().await?;
        self.next().await;
        Ok(())
    }

    /// Folds what the journal has since it was last read; at first what is open, however old.
    async fn catch_up(&mut self) -> Result<(), JournalError> {
        let (seen, recorded) = match self.seen {
            0 => self.open_work().await?,
            seen => {
                let query = Query { after: seen, ..Query::kinds(&KINDS_READ) };
                let recorded = self.seams.journal.read(query).await?;
                (recorded.last().map_or(seen, |last| last.seq), recorded)
            }
        };
        self.seen = seen;
        for each in recorded {
            self.unfinished.fold(each.fact);
        }
        Ok(())
    }

    pub(super) async fn end<'a>(&self, asked: impl Into<Asked<'a>>, how: &str, why: &str) {
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
