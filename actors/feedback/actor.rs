use std::collections::BTreeSet;

use kloros_supervision::to_self;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::{Config, lesson::learn};
use crate::{
    facts::{DeploymentId, Entry, Fact, Kind, Lesson, QuestionEnd, Ruled, Verdict},
    meters,
    record::{Ending, record, wake},
    seams::{Appended, JournalError, Outlet, Query, Seams},
};

/// What feedback says.
#[derive(Clone, Debug)]
pub struct Exits {
    /// What a verdict taught, to everyone who learns.
    pub lessons: Vec<Outlet<Lesson>>,
    /// The question that the verdict answers has ended.
    pub ended: Outlet<QuestionEnd>,
}

/// What feedback hears.
#[derive(Debug)]
pub enum Msg {
    /// A deployment was judged.
    Judged(Verdict),
    /// A heartbeat, to be sent back.
    Pulse(RpcReplyPort<()>),
    /// The operator changed the settings.
    Reconfigured(Config),
}

/// What feedback needs.
pub struct Arguments {
    /// What is plugged in.
    pub seams: Seams,
    /// Where lessons go.
    pub exits: Exits,
    /// The room's settings.
    pub config: Config,
}

/// Turns verdicts into lessons.
pub struct Feedback;

/// What feedback remembers: nothing that is not in the journal.
pub struct State {
    seams: Seams,
    exits: Exits,
    config: Config,
}

/// How many verdicts and lessons of the past are looked at for a missing lesson at start.
const HISTORY_MAX: usize = 2_000;

impl Actor for Feedback {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config } = arguments;
        // A verdict that was told while this room was down has no lesson yet.
        let mut history = seams.journal.read(Query::newest(&[Kind::Verdict, Kind::Lesson], HISTORY_MAX)).await?;
        history.reverse();
        let taught: BTreeSet<DeploymentId> = history
            .iter()
            .filter_map(|recorded| match &recorded.fact {
                Fact::Lesson(lesson) => Some(lesson.verdict.deployment.clone()),
                _ => None,
            })
            .collect();
        for recorded in history {
            if let Fact::Verdict(verdict) = recorded.fact
                && !taught.contains(&verdict.deployment)
            {
                to_self(&myself, Msg::Judged(verdict))?;
            }
        }
        Ok(State { seams, exits, config })
    }

    async fn handle(&self, _: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            // Without a journal nothing is learned: the room fails, and finds the verdict again when it is back.
            Msg::Judged(verdict) => state.teach(&verdict).await?,
            Msg::Pulse(reply) => drop(reply.send(())),
            Msg::Reconfigured(config) => state.config = config,
        }
        Ok(())
    }
}

impl State {
    async fn teach(&self, verdict: &Verdict) -> Result<(), JournalError> {
        let now_ms = self.seams.clock.now_ms();
        let lesson = learn(verdict, &self.config, now_ms);
        let how = match verdict.outcome {
            Ruled::Success | Ruled::Neutral => "deployed",
            Ruled::Rollback => "rolled_back",
        };
        let ending = Ending::of(verdict, how, &lesson.says, now_ms, lesson.rest_until_ms);
        let name = format!("lesson:{}", verdict.deployment);
        let entry = Entry::once(&verdict.cycle, now_ms, name, Fact::Lesson(lesson.clone()));
        let written = record(&self.seams, Ending::with(ending.as_ref(), vec![entry])).await?;
        if written.first() == Some(&Appended::Already) {
            return Ok(());
        }
        metrics::counter!(meters::LESSONS_TOTAL).increment(1);
        tracing::info!(cycle = %lesson.cycle, says = %lesson.says, "lesson learned");
        for outlet in &self.exits.lessons {
            wake(outlet, lesson.clone());
        }
        Ending::tell(ending, &self.exits.ended);
        Ok(())
    }
}
