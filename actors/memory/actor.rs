use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::{Config, recall::recall};
use crate::{
    facts::{CycleId, Entry, Fact, Kind, Turn},
    record::record,
    seams::{JournalError, Query, Seams},
};

/// What the memory hears.
#[derive(Debug)]
pub enum Msg {
    /// A turn was said.
    Said(Turn),
    /// Somebody wants the context of a conversation.
    Wanted(String, RpcReplyPort<Vec<Turn>>),
    /// The operator changed the settings.
    Reconfigured(Config),
}

/// What the memory needs.
pub struct Arguments {
    /// What is plugged in.
    pub seams: Seams,
    /// The room's settings.
    pub config: Config,
}

/// Keeps conversations and recalls what matters of them now.
pub struct Memory;

/// What the memory holds itself: nothing that is not in the journal.
pub struct State {
    seams: Seams,
    config: Config,
}

/// How many turns of a conversation are looked at for a context.
const LOOK_BACK_MAX: usize = 500;

impl Actor for Memory {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, _: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { seams, config } = arguments;
        Ok(State { seams, config })
    }

    async fn handle(&self, _: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Said(turn) => state.keep(turn).await,
            Msg::Wanted(conversation, reply) => state.answer(&conversation, reply).await,
            Msg::Reconfigured(config) => state.config = config,
        }
        Ok(())
    }
}

impl State {
    async fn keep(&self, turn: Turn) {
        // A conversation stands outside the loop: its turns form a cycle of their own.
        let cycle = CycleId::new(format!("t-{}", turn.conversation));
        let entry = Entry::new(&cycle, turn.at_ms, Fact::Turn(turn));
        // The failure is counted and logged where it happens; a conversation goes on without its memory.
        record(&self.seams, vec![entry]).await.ok();
    }

    async fn answer(&self, conversation: &str, reply: RpcReplyPort<Vec<Turn>>) {
        let context = self.context(conversation).await.unwrap_or_default();
        // Who asked may have gone meanwhile, which is no failure of the memory.
        reply.send(context).ok();
    }

    async fn context(&self, conversation: &str) -> Result<Vec<Turn>, JournalError> {
        let query = Query::newest(&[Kind::Turn], LOOK_BACK_MAX).about(conversation);
        let recorded = self.seams.journal.read(query).await?;
        let turns: Vec<Turn> = recorded
            .into_iter()
            .rev()
            .filter_map(|recorded| match recorded.fact {
                Fact::Turn(turn) => Some(turn),
                _ => None,
            })
            .collect();
        Ok(recall(&turns, &self.config, self.seams.clock.now_ms()).into_iter().cloned().collect())
    }
}
