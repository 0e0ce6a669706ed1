use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{Config, lesson::learn};
use crate::{
    facts::{Entry, Fact, Kind, Lesson, QuestionEnd, Ruled, Verdict},
    meters,
    record::{record, wake},
    seams::{Appended, Outlet, Query, Seams},
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

/// How many verdicts of the past are looked at for a missing lesson at start.
const HISTORY_MAX: usize = 1_000;

impl Actor for Feedback {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, exits, config } = arguments;
        // Every verdict is judged again: those that have their lesson are recognised by the journal.
        let mut verdicts = seams.journal.read(Query::newest(&[Kind::Verdict], HISTORY_MAX)).await?;
        verdicts.reverse();
        for recorded in verdicts {
            if let Fact::Verdict(verdict) = recorded.fact {
                myself.send_message(Msg::Judged(verdict))?;
            }
        }
        Ok(State { seams, exits, config })
    }

    async fn handle(&self, _: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Judged(verdict) => state.teach(&verdict).await,
            Msg::Reconfigured(config) => state.config = config,
        }
        Ok(())
    }
}

impl State {
    async fn teach(&self, verdict: &Verdict) {
        let now_ms = self.seams.clock.now_ms();
        let lesson = learn(verdict, &self.config, now_ms);
        let end = end_of_question(verdict, &lesson);
        let name = format!("lesson:{}", verdict.deployment);
        let mut entries = vec![Entry::once(&verdict.cycle, now_ms, name, Fact::Lesson(lesson.clone()))];
        if let Some(end) = &end {
            let name = format!("question_end:{}", end.question);
            entries.push(Entry::once(&verdict.cycle, now_ms, name, Fact::QuestionEnd(end.clone())));
        }
        match record(&self.seams, entries).await {
            Ok(written) if matches!(written.first(), Some(Appended::At(_))) => {}
            _ => return,
        }
        metrics::counter!(meters::LESSONS_TOTAL).increment(1);
        tracing::info!(cycle = %lesson.cycle, says = %lesson.says, "lesson learned");
        for outlet in &self.exits.lessons {
            wake(outlet, lesson.clone());
        }
        if let Some(end) = end {
            wake(&self.exits.ended, end);
        }
    }
}

fn end_of_question(verdict: &Verdict, lesson: &Lesson) -> Option<QuestionEnd> {
    let how = match verdict.outcome {
        Ruled::Success | Ruled::Neutral => "deployed",
        Ruled::Rollback => "rolled_back",
    };
    Some(QuestionEnd {
        question: verdict.question.clone()?,
        hypothesis: verdict.hypothesis.clone()?,
        domain: verdict.domain.clone(),
        how: how.to_owned(),
        why: lesson.says.clone(),
        eligible_at_ms: lesson.rest_until_ms,
    })
}
