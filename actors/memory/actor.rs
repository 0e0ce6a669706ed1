use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::{
    Config, Remembered, Wanted, Weight,
    context::{Choice, Ranked, Why},
    episodes::{beginning, closing, extract, more, unsaid},
    topics::topics,
    words,
};
use crate::{
    facts::{Episode, Forgetting, Role, Said, Talk},
    meters,
    seams::{Archive, ArchiveError, Clock, Look, Looked},
};

/// What the memory hears.
#[derive(Debug)]
pub enum Msg {
    /// Something was said in a conversation.
    Said(Talk, Vec<Said>, Weight),
    /// Somebody wants the context of a conversation.
    Wanted(Wanted, RpcReplyPort<Result<Remembered, ArchiveError>>),
    /// A person wants something forgotten, and to know how many events that were; what was said before this is forgotten with it.
    Forget(Forgetting, RpcReplyPort<Result<Option<u64>, ArchiveError>>),
    /// It is time to look for what is over or too old.
    Tidy,
    /// The operator changed the settings.
    Reconfigured(Config),
}

/// What the memory needs.
pub struct Arguments {
    /// Where conversations are kept.
    pub archive: Arc<dyn Archive>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The room's settings.
    pub config: Config,
}

/// Keeps conversations and recalls what matters of them now.
pub struct Memory;

/// What the memory holds itself: nothing that is not in the archive.
pub struct State {
    archive: Arc<dyn Archive>,
    clock: Arc<dyn Clock>,
    config: Config,
}

/// How much of an event is looked at, in characters: a look costs memory and time for each, and hundreds of them may be looked at.
pub const TEXT_CHARS_MAX: usize = 16_000;

/// How many bytes a look returns at most, of the newest and of what matches each.
const LOOK_BYTES_MAX: usize = 512 * 1024;

/// How many of the newest events are looked at, which topics and repetitions are found among.
const NEWEST_MAX: usize = 60;

/// How many events are looked at for each word of a question.
const MATCHING_MAX: usize = 24;

/// How many words of a question are looked for, the longest first: the cost of a look has an end.
const WORDS_MAX: usize = 8;

/// How many events an episode is condensed from.
const EPISODE_EVENTS_MAX: usize = 500;

/// How often it is looked for what is over or too old.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// How many conversations, and events, are tidied up at a time.
const TIDY_MAX: usize = 100;
const PRUNE_MAX: usize = 5000;

/// How long somebody else may read what is to be rubbed out, while a person waits for that.
const RUB_OUT_WITHIN: Duration = Duration::from_secs(10);

const DAY_MS: u64 = 86_400_000;

impl Actor for Memory {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { archive, clock, config } = arguments;
        // It ends with the actor.
        myself.send_interval(TIDY_EVERY, || Msg::Tidy);
        Ok(State { archive, clock, config })
    }

    async fn handle(&self, _: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Said(talk, said, _weight) => state.keep(&talk, said).await,
            Msg::Wanted(wanted, reply) => state.answer(wanted, reply),
            Msg::Forget(what, reply) => state.forget(what, reply),
            Msg::Tidy => state.tidy().await,
            Msg::Reconfigured(config) => state.config = config,
        }
        Ok(())
    }
}

impl State {
    async fn keep(&self, talk: &Talk, said: Vec<Said>) {
        if let Err(error) = self.try_keep(talk, said).await {
            // A conversation goes on without its memory.
            failed("keep", &error);
        }
    }

    async fn try_keep(&self, talk: &Talk, said: Vec<Said>) -> Result<(), ArchiveError> {
        let Some(first) = said.first() else { return Ok(()) };
        let closing = self.ended(talk, first.at_ms).await?;
        self.archive.keep(talk, said, closing).await
    }

    /// Returns the open episode of the conversation, condensed, if it is over at `now_ms`.
    async fn ended(&self, talk: &Talk, now_ms: u64) -> Result<Option<Episode>, ArchiveError> {
        let open = self.archive.open(talk).await?;
        if closing(&open, now_ms, &self.config).is_none() {
            return Ok(None);
        }
        let events = self.archive.since(talk, open.after, EPISODE_EVENTS_MAX).await?;
        let Some(last) = events.last() else { return Ok(None) };
        let (through, config) = (last.id, self.config.clone());
        let summary = aside(move || extract(&events, &config, config.summary_chars_max)).await?;
        Ok(Some(Episode { after: open.after, through, summary }))
    }

    /// Looks beside the room: while one conversation is looked through, others are kept and answered.
    fn answer(&self, wanted: Wanted, reply: RpcReplyPort<Result<Remembered, ArchiveError>>) {
        let (archive, config, now_ms) = (Arc::clone(&self.archive), self.config.clone(), self.clock.now_ms());
        tokio::spawn(async move {
            let remembered = remember(archive.as_ref(), &config, wanted, now_ms).await;
            if let Err(error) = &remembered {
                failed("look", error);
            }
            // Who asked may have gone meanwhile, which is no failure of the memory.
            reply.send(remembered).ok();
        });
    }

    /// Forgets beside the room, which goes on: there may be much of it. What came before is kept already, and so forgotten, too.
    fn forget(&self, what: Forgetting, reply: RpcReplyPort<Result<Option<u64>, ArchiveError>>) {
        let archive = Arc::clone(&self.archive);
        tokio::spawn(async move {
            let forgotten = forget(archive.as_ref(), &what).await;
            if let Err(error) = &forgotten {
                failed("forget", error);
            }
            reply.send(forgotten).ok();
        });
    }

    async fn tidy(&self) {
        if let Err(error) = self.try_tidy().await {
            failed("tidy", &error);
        }
    }

    /// What nobody goes on with is condensed, and what is too old is forgotten; a little at a time.
    async fn try_tidy(&self) -> Result<(), ArchiveError> {
        let now_ms = self.clock.now_ms();
        let before_ms = now_ms.saturating_sub(self.config.episode_gap_s.saturating_mul(1000));
        for talk in self.archive.idle(before_ms, TIDY_MAX).await? {
            let closing = self.ended(&talk, now_ms).await?;
            self.archive.keep(&talk, Vec::new(), closing).await?;
        }
        if self.config.retention_days > 0 {
            let kept_ms = self.config.retention_days.saturating_mul(DAY_MS);
            let forgotten = self.archive.prune(now_ms.saturating_sub(kept_ms), PRUNE_MAX).await?;
            if forgotten > 0 {
                tracing::info!(events = forgotten, "conversations forgotten that are too old");
            }
        }
        // Whoever reads the file meanwhile must not hold up the room: it is tried again the next time.
        self.archive.rub_out(Duration::ZERO).await
    }
}

fn failed(what: &'static str, error: &ArchiveError) {
    metrics::counter!(meters::MEMORY_FAILURES_TOTAL, "what" => what).increment(1);
    tracing::warn!(what, %error, "conversation memory failed, the conversation goes on without");
}

async fn forget(archive: &dyn Archive, what: &Forgetting) -> Result<Option<u64>, ArchiveError> {
    let events = archive.forget(what).await?;
    archive.rub_out(RUB_OUT_WITHIN).await?;
    Ok(events)
}

/// Does `work` where others do not wait for it: it takes longer than a message may.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ArchiveError::Unusable(error.to_string()))
}

/// Returns what of a conversation matters for its next answer.
pub async fn remember(
    archive: &dyn Archive,
    config: &Config,
    wanted: Wanted,
    now_ms: u64,
) -> Result<Remembered, ArchiveError> {
    let mut words = words::telling(beginning(&wanted.asked, TEXT_CHARS_MAX));
    words.sort_by_key(|word| std::cmp::Reverse(word.chars().count()));
    words.truncate(WORDS_MAX);
    let look = Look {
        talk: wanted.talk.clone(),
        words,
        since_ms: now_ms.saturating_sub(config.window_h.saturating_mul(3_600_000)),
        newest_max: NEWEST_MAX.max(config.context_events_max),
        matching_max: MATCHING_MAX,
        text_chars_max: TEXT_CHARS_MAX,
        bytes_max: LOOK_BYTES_MAX,
        others: config.other_conversations,
    };
    let looked = archive.look(look).await?;
    let config = config.clone();
    aside(move || recall(looked, &wanted, config, now_ms)).await
}

/// Chooses of what was looked at what matters.
fn recall(looked: Looked, wanted: &Wanted, config: Config, now_ms: u64) -> Remembered {
    let asked = beginning(&wanted.asked, TEXT_CHARS_MAX);
    let Looked { newest, matching, count, episodes } = looked;
    let topics = topics(&newest, &config);
    let choice = Choice { newest: &newest, matching: &matching, count, asked, given: &wanted.given, now_ms };
    let (ranked, all) = (Ranked::new(&choice, &config), config.context_chars_max);
    let context = ranked.choose(all, &config);
    // What is summed up is a part of the context and takes its room, half of it at most.
    let (summary, context) = match more(&episodes, (&newest, count), &context, &wanted.given) {
        Some(episode) => {
            let summary = beginning(&episode.summary, all / 2);
            let context = ranked.choose(all - summary.chars().count(), &config);
            (Some(unsaid(summary, &context)).filter(|summary| !summary.is_empty()), context)
        }
        None => (None, context),
    };
    let is_hit = context.iter().any(|chosen| matches!(chosen.why, Why::Relevant(_)));
    let last = newest.iter().rposition(|event| event.role == Role::Assistant).map_or(0, |last| last + 1);
    let mut answers: Vec<String> =
        newest.iter().filter(|event| event.role == Role::Assistant).map(|event| event.text.clone()).collect();
    answers.drain(..answers.len().saturating_sub(config.repetition_look_back));
    let known = newest.into_iter().enumerate().filter(|(place, event)| *place >= last || event.role == Role::System);
    let known = known.map(|(_, event)| event).collect();
    Remembered { context, topics, summary, answers, known, is_hit, config }
}
