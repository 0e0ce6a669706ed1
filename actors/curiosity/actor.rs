use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kloros_supervision::to_self;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::time::timeout;

use super::{
    Config, KINDS_READ,
    hypotheses::{answers, hypothesis, is_too_deep, knobs, question, renumbered},
    idle::Quiet,
    interest::{Admission, Interests},
    own,
};
use crate::{
    config::Catalogue,
    facts::{Anomaly, CycleId, Fact, Intent, Kind, Lesson, Question, QuestionEnd, Recorded, Room},
    meters,
    record::{recall, record_once, wake},
    seams::{JournalError, Outlet, Query, Seams},
};

/// What curiosity says.
#[derive(Clone, Debug)]
pub struct Exits {
    /// A question that is worth an experiment.
    pub intents: Outlet<Intent>,
}

/// What curiosity hears.
#[derive(Debug)]
pub enum Msg {
    /// The observer noticed something.
    Noticed(Anomaly),
    /// A verdict taught something.
    Learned(Lesson),
    /// A question ended.
    Ended(QuestionEnd),
    /// A heartbeat, to be sent back.
    Pulse(RpcReplyPort<()>),
    /// It is time to see whether it is quiet.
    Look,
    /// The operator changed the settings.
    Reconfigured(Config),
    /// The operator changed the domains or experiments.
    Catalogued(Arc<Catalogue>),
}

/// What curiosity needs.
pub struct Arguments {
    /// What is plugged in.
    pub seams: Seams,
    /// Where questions go.
    pub exits: Exits,
    /// The room's settings.
    pub config: Config,
    /// The experiments that can answer questions.
    pub catalogue: Arc<Catalogue>,
}

/// Turns anomalies into questions, as far as experience says that they are worth it.
pub struct Curiosity;

/// What curiosity remembers: a fold of the journal.
pub struct State {
    seams: Seams,
    exits: Exits,
    config: Config,
    catalogue: Arc<Catalogue>,
    interests: Interests,
    quiet: Quiet,
}

/// How long a service may take to say that it is up, before it is asked for better settings.
const HEALTHY_WITHIN: Duration = Duration::from_secs(5);

/// How many facts about measurements are looked at for those that ended not long ago.
const MEASURED_MAX: usize = 256;

/// How long ago an anomaly was told that is asked about after a start, in milliseconds: what goes on is told again after as long.
const UNHEARD_MS: u64 = 600_000;

/// How many anomalies are looked at for those.
const UNHEARD_MAX: usize = 256;

/// How often it is looked whether it is quiet.
const LOOK_EVERY: Duration = Duration::from_secs(30);

impl Actor for Curiosity {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue } = arguments;
        let (mut interests, mut quiet) = (Interests::default(), Quiet::default());
        quiet.broken(seams.clock.now_ms());
        let mut asked = BTreeSet::new();
        recall(&seams, &KINDS_READ, |recorded| {
            interests.fold(&recorded.fact, &config);
            if let Fact::Question(question) = &recorded.fact {
                quiet.asked(question);
                asked.insert(recorded.cycle);
            }
        })
        .await?;
        for anomaly in unheard(&seams, &asked).await? {
            to_self(&myself, Msg::Noticed(anomaly))?;
        }
        let state = State { seams, exits, config, catalogue, interests, quiet };
        myself.send_after(LOOK_EVERY, || Msg::Look);
        Ok(state)
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Noticed(anomaly) => state.wonder(&anomaly).await,
            Msg::Learned(lesson) => state.learn(&lesson),
            Msg::Ended(end) => {
                state.quiet.broken(state.seams.clock.now_ms());
                state.interests.ended(&end, &state.config);
            }
            Msg::Look => {
                state.look().await;
                myself.send_after(LOOK_EVERY, || Msg::Look);
            }
            Msg::Pulse(reply) => drop(reply.send(())),
            Msg::Reconfigured(config) => state.config = config,
            Msg::Catalogued(catalogue) => state.catalogue = catalogue,
        }
        Ok(())
    }
}

/// Returns the anomalies that may have been told while this room was down, oldest first: those of late that led to no question.
///
/// What was passed over then is passed over again, by the same rules.
async fn unheard(seams: &Seams, asked: &BTreeSet<CycleId>) -> Result<Vec<Anomaly>, JournalError> {
    let since_ms = seams.clock.now_ms().saturating_sub(UNHEARD_MS);
    let newest = seams.journal.read(Query::newest(&[Kind::Anomaly], UNHEARD_MAX)).await?;
    let late = newest.into_iter().rev().filter(|each| each.at_ms >= since_ms && !asked.contains(&each.cycle));
    let anomaly = |recorded: Recorded| match recorded.fact {
        Fact::Anomaly(anomaly) => Some(anomaly),
        _ => None,
    };
    Ok(late.filter_map(anomaly).collect())
}

impl State {
    async fn wonder(&mut self, anomaly: &Anomaly) {
        let now_ms = self.seams.clock.now_ms();
        self.quiet.broken(now_ms);
        let suspected = hypothesis(anomaly);
        if is_too_deep(anomaly, &self.config) {
            return withhold(anomaly, &suspected, "too_deep");
        }
        if let Some(reason) = self.interests.passed_over(&suspected, &anomaly.subject, now_ms) {
            return withhold(anomaly, &suspected, reason);
        }
        if anomaly.is_about_machine() && self.was_measuring(anomaly.at_ms).await {
            return withhold(anomaly, &suspected, "own_doing");
        }
        let catalogue = Arc::clone(&self.catalogue);
        let room = if anomaly.is_about_machine() { self.room(&catalogue).await } else { Room::default() };
        let answers = answers(anomaly, &catalogue.experiments, &catalogue.domains, &room);
        let Some(domain) = answers.first().map(|spec| spec.domain.clone()) else {
            return withhold(anomaly, &suspected, "no_experiment");
        };
        if self.config.leave_alone.contains(&domain) {
            return withhold(anomaly, &suspected, "left_alone");
        }
        let ways: Vec<String> = answers.iter().map(knobs).collect();
        match self.interests.admit(&suspected, &domain, &ways, now_ms, &self.config) {
            Admission::Ask { occurrence, interest, way } => {
                let question =
                    question(anomaly, &suspected, &answers[way], (occurrence, interest), &self.config, now_ms);
                match question {
                    Some(question) => self.ask(question).await,
                    None => withhold(anomaly, &suspected, "too_deep"),
                }
            }
            Admission::Rest { .. } => withhold(anomaly, &suspected, "resting"),
            Admission::Open { .. } => withhold(anomaly, &suspected, "open"),
            Admission::Dull { .. } => withhold(anomaly, &suspected, "dull"),
            Admission::Parked { .. } => withhold(anomaly, &suspected, "parked"),
            Admission::TooMany => withhold(anomaly, &suspected, "too_many"),
        }
    }

    /// Returns whether something of ours was measured at `at_ms`. Where that cannot be looked up, it was: what goes on is told again.
    async fn was_measuring(&self, at_ms: u64) -> bool {
        let read = async {
            let journal = &self.seams.journal;
            let open = journal.read(Query::open(&[Kind::Experiment, Kind::Step])).await?;
            let newest = journal.read(Query::newest(&own::KINDS_READ, MEASURED_MAX)).await?;
            let facts: BTreeMap<u64, Recorded> = open.into_iter().chain(newest).map(|each| (each.seq, each)).collect();
            Ok::<_, JournalError>(own::was_measuring(&facts.into_values().collect::<Vec<_>>(), at_ms))
        };
        read.await.unwrap_or(true)
    }

    /// Returns what the services use of the machine: pressure on it is answered by who can relieve it.
    async fn room(&self, catalogue: &Catalogue) -> Room {
        self.seams.capacity.room(&catalogue.domains.values().collect::<Vec<_>>()).await
    }

    /// Asks by itself whether there is something better, where it is quiet.
    async fn look(&mut self) {
        if self.seams.switch.stopped().is_some() {
            return;
        }
        let (now_ms, catalogue) = (self.seams.clock.now_ms(), Arc::clone(&self.catalogue));
        let mut down = BTreeSet::new();
        while let Some(question) =
            self.quiet.question(&self.interests, &catalogue.experiments, &down, &self.config, now_ms)
        {
            // A service that somebody turned off, or that is ill, is not asked for better settings.
            let domain = question.dream_experiment.domain.clone();
            let is_up = match catalogue.domains.get(&domain) {
                Some(known) => {
                    let answer = timeout(HEALTHY_WITHIN, self.seams.services.healthy(known)).await;
                    answer.is_ok_and(|answer| answer.is_ok())
                }
                None => false,
            };
            if is_up {
                return self.ask(question).await;
            }
            metrics::counter!(meters::QUESTIONS_WITHHELD_TOTAL, "reason" => "down").increment(1);
            tracing::debug!(domain, hypothesis = %question.hypothesis, "question withheld, the service is not up");
            down.insert(domain);
        }
    }

    fn learn(&mut self, lesson: &Lesson) {
        if let Some(moved) = self.interests.learn(lesson, &self.config) {
            tracing::info!(
                cycle = %lesson.cycle, knobs = %moved.knobs, before = moved.before, after = moved.after,
                failures = moved.failures, parked = moved.parked_until_ms.is_some(), "interest moved"
            );
        }
    }

    async fn ask(&mut self, mut question: Question) {
        loop {
            let name = format!("question:{}", question.question_id);
            let fact = Fact::Question(question.clone());
            match record_once(&self.seams, &question.cycle, name, fact).await {
                Ok(true) => break,
                // That number was given before, to one that was forgotten since or that somebody else asked: it would be taken
                // for that one, and its end would never come.
                Ok(false) => {
                    let Some(next) = renumbered(question) else {
                        tracing::error!("no number is left for a question, which is not asked");
                        return;
                    };
                    question = next;
                }
                Err(_) => return,
            }
        }
        self.interests.asked(&question);
        self.quiet.asked(&question);
        metrics::counter!(meters::QUESTIONS_TOTAL).increment(1);
        tracing::info!(cycle = %question.cycle, question = %question.question_id, hypothesis = %question.hypothesis, "question asked");
        wake(&self.exits.intents, Intent::CuriosityQuestion(question));
    }
}

fn withhold(anomaly: &Anomaly, suspected: &str, reason: &'static str) {
    metrics::counter!(meters::QUESTIONS_WITHHELD_TOTAL, "reason" => reason).increment(1);
    tracing::debug!(cycle = %anomaly.cycle, hypothesis = suspected, reason, "question withheld");
}
