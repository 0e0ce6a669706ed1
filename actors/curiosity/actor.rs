use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{
    Config,
    hypotheses::{experiment, hypothesis, is_too_deep, question},
    interest::{Admission, Interests},
};
use crate::{
    config::Catalogue,
    facts::{Anomaly, Fact, Intent, Kind, Lesson, Question, QuestionEnd},
    meters,
    record::{record_once, wake},
    seams::{Outlet, Query, Seams},
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
    /// The operator changed the settings.
    Reconfigured(Config),
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
}

/// How many facts of the past are read at start.
const HISTORY_MAX: usize = 5_000;

impl Actor for Curiosity {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, _: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config, catalogue } = arguments;
        let query = Query::newest(&[Kind::Question, Kind::QuestionEnd, Kind::Lesson], HISTORY_MAX);
        let mut history = seams.journal.read(query).await?;
        history.reverse();
        let mut state = State { seams, exits, config, catalogue, interests: Interests::default() };
        for recorded in &history {
            match &recorded.fact {
                Fact::Question(question) => state.interests.asked(question),
                Fact::QuestionEnd(end) => state.interests.ended(end, &state.config),
                Fact::Lesson(lesson) => state.interests.learn(lesson, &state.config),
                _ => {}
            }
        }
        Ok(state)
    }

    async fn handle(&self, _: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Noticed(anomaly) => state.wonder(&anomaly).await,
            Msg::Learned(lesson) => state.interests.learn(&lesson, &state.config),
            Msg::Ended(end) => state.interests.ended(&end, &state.config),
            Msg::Reconfigured(config) => state.config = config,
        }
        Ok(())
    }
}

impl State {
    async fn wonder(&mut self, anomaly: &Anomaly) {
        let now_ms = self.seams.clock.now_ms();
        let suspected = hypothesis(anomaly);
        if is_too_deep(anomaly, &self.config) {
            return withhold(anomaly, &suspected, "too_deep");
        }
        let experiments = &self.catalogue.experiments;
        // Pressure on the host or a GPU is answered in the domain that can relieve it.
        let Some(domain) = experiment(anomaly, experiments, 1).map(|spec| spec.domain.clone()) else {
            return withhold(anomaly, &suspected, "no_experiment");
        };
        match self.interests.admit(&suspected, &domain, now_ms, &self.config) {
            Admission::Ask { occurrence, interest } => {
                match question(anomaly, &suspected, experiments, occurrence, interest, &self.config, now_ms) {
                    Some(question) => self.ask(question).await,
                    None => withhold(anomaly, &suspected, "no_experiment"),
                }
            }
            Admission::Rest { .. } => withhold(anomaly, &suspected, "resting"),
            Admission::Open { .. } => withhold(anomaly, &suspected, "open"),
            Admission::Dull { .. } => withhold(anomaly, &suspected, "dull"),
            Admission::TooMany => withhold(anomaly, &suspected, "too_many"),
        }
    }

    async fn ask(&mut self, question: Question) {
        let name = format!("question:{}", question.question_id);
        let fact = Fact::Question(question.clone());
        if record_once(&self.seams, &question.cycle, name, fact).await.is_err() {
            return;
        }
        self.interests.asked(&question);
        metrics::counter!(meters::QUESTIONS_TOTAL).increment(1);
        tracing::info!(cycle = %question.cycle, question = %question.question_id, hypothesis = %question.hypothesis, "question asked");
        wake(&self.exits.intents, Intent::CuriosityQuestion(question));
    }
}

fn withhold(anomaly: &Anomaly, suspected: &str, reason: &'static str) {
    metrics::counter!(meters::QUESTIONS_WITHHELD_TOTAL, "reason" => reason).increment(1);
    tracing::debug!(cycle = %anomaly.cycle, hypothesis = suspected, reason, "question withheld");
}
