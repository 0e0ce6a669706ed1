//! Conversations that were written to be measured with: facts that are asked for later, and answers that do or do not say again what
//! was said. What people said is nothing to measure with.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, bail};
use async_trait::async_trait;
use axum::{Json, Router, routing::post};
use kloros_actors::{
    facts::{Episode, Event, Forgetting, OpenEpisode, Role, Said, Talk},
    memory::{Config, episodes::extract, repetition::repeated},
    seams::{Archive, ArchiveError, Clock as _, Look, Looked},
};
use serde::{Deserialize, Serialize};

use super::LOCAL;
use crate::{archive::Conversations, clock::SystemClock};

/// Where an instance that is there to be measured says whether an answer repeats another one; no other instance has it.
pub(super) const REPEATS: &str = "/rehearsal/repeats";

/// How far apart two events are, in milliseconds.
pub(crate) const STEP_MS: u64 = 20_000;

/// How many events an episode is condensed from.
const EPISODE_EVENTS_MAX: usize = 500;

/// What is asked in conversations, and what an answer needs.
#[derive(Deserialize)]
pub(crate) struct Set {
    /// Small talk, as question and answer, by language.
    pub(crate) chatter: BTreeMap<String, Vec<(String, String)>>,
    /// Long answers, by language.
    essays: BTreeMap<String, Vec<String>>,
    /// The conversations.
    pub(crate) conversations: Vec<Conversation>,
}

/// A conversation in which something is asked at the end.
#[derive(Deserialize)]
pub(crate) struct Conversation {
    /// In which language it is.
    pub(crate) language: String,
    /// What is said, and how many pairs of small talk stand between.
    parts: Vec<Part>,
    /// What is asked.
    pub(crate) ask: String,
    /// What the turn says that an answer needs.
    pub(crate) needed: String,
    /// Whether nobody says anything for so long before it is asked that what was said is over.
    #[serde(default)]
    pub(crate) pause: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Part {
    Chatter(usize),
    Said(Role, String),
    Essay { ask: String, essay: usize },
}

/// An answer after an earlier one.
#[derive(Deserialize)]
pub(super) struct Pair {
    /// What was answered before.
    pub(super) earlier: String,
    /// What is answered.
    pub(super) answer: String,
    /// Whether people would say that it says again what was said.
    pub(super) repeats: bool,
}

/// Returns the conversations. What ships is read by a test.
pub(crate) fn set() -> Result<Set, serde_json::Error> {
    serde_json::from_str(include_str!("conversations.json"))
}

/// Returns the pairs of answers. What ships is read by a test.
pub(super) fn pairs() -> Result<Vec<Pair>, serde_json::Error> {
    serde_json::from_str(include_str!("repetitions.json"))
}

/// Returns the name of the conversation with this number.
pub(super) fn name(number: usize) -> String {
    format!("rehearsal-{number}")
}

/// Returns what was said in a conversation before it is asked, the last of it `STEP_MS` after the one before and so on back; `seed` says
/// which small talk stands between. The first is said at `STEP_MS`.
pub(crate) fn told(set: &Set, conversation: &Conversation, seed: usize) -> Vec<Said> {
    let chatter = &set.chatter[&conversation.language];
    let mut pairs = chatter.iter().cycle().skip(seed % chatter.len());
    let mut said = Vec::new();
    let mut say = |role: Role, text: &str| {
        let at_ms = (said.len() as u64 + 1) * STEP_MS;
        said.push(Said { role, text: text.to_owned(), at_ms });
    };
    for part in &conversation.parts {
        match part {
            Part::Said(role, text) => say(*role, text),
            Part::Essay { ask, essay } => {
                say(Role::User, ask);
                say(Role::Assistant, &set.essays[&conversation.language][*essay]);
            }
            Part::Chatter(count) => {
                for (question, answer) in pairs.by_ref().take(*count) {
                    say(Role::User, question);
                    say(Role::Assistant, answer);
                }
            }
        }
    }
    said
}

/// Returns what an instance that is there to be measured answers beside conversations.
pub(super) fn routes(config: Config) -> Router {
    let repeats = async move |Json(asked): Json<Asked>| {
        let Asked { earlier, answer } = asked;
        // Comparing long answers takes longer than others may wait for.
        let compared = tokio::task::spawn_blocking(move || repeated(&answer, &[earlier], &config).is_some()).await;
        Json(Compared { repeats: compared.unwrap_or(false) })
    };
    Router::new().route(REPEATS, post(repeats))
}

/// What is asked about two answers.
#[derive(Serialize, Deserialize)]
pub(super) struct Asked {
    /// What was answered before.
    pub(super) earlier: String,
    /// What is answered.
    pub(super) answer: String,
}

/// What is said of two answers.
#[derive(Serialize, Deserialize)]
pub(super) struct Compared {
    /// Whether the settings in use call it a repetition.
    pub(super) repeats: bool,
}

/// A memory that holds the conversations and stays as it is: what is asked in one measurement is news in the next one.
pub(super) struct Rehearsed(Conversations);

impl Rehearsed {
    /// Returns a memory in `file` in which the conversations were just held. A file that is there is somebody's, and is left alone.
    pub(super) async fn new(file: &Path, config: &Config) -> anyhow::Result<Self> {
        if file.symlink_metadata().is_ok() {
            bail!(
                "{} is there already: name a file that is not, conversations for measurements are put into it",
                file.display()
            );
        }
        let conversations = Conversations::open(file)?;
        let set = set().context("the conversations that ship cannot be read")?;
        let now_ms = SystemClock.now_ms();
        for (number, conversation) in set.conversations.iter().enumerate() {
            let (talk, mut said) = (Talk::new(&name(number), LOCAL), told(&set, conversation, number));
            let paused_ms = if conversation.pause { config.episode_gap_s.saturating_mul(1000) } else { 0 };
            let begun_ms = now_ms.saturating_sub((said.len() as u64 + 1) * STEP_MS + paused_ms);
            for said in &mut said {
                said.at_ms += begun_ms;
            }
            conversations.keep(&talk, said, None).await?;
            if conversation.pause {
                let events = conversations.since(&talk, 0, EPISODE_EVENTS_MAX).await?;
                let through = events.last().map_or(0, |event| event.id);
                let summary = extract(&events, config, config.summary_chars_max);
                conversations.keep(&talk, Vec::new(), Some(Episode { after: 0, through, summary })).await?;
            }
        }
        Ok(Self(conversations))
    }
}

#[async_trait]
impl Archive for Rehearsed {
    async fn keep(&self, _: &Talk, _: Vec<Said>, _: Option<Episode>) -> Result<(), ArchiveError> {
        Ok(())
    }

    async fn look(&self, look: Look) -> Result<Looked, ArchiveError> {
        self.0.look(look).await
    }

    async fn open(&self, talk: &Talk) -> Result<OpenEpisode, ArchiveError> {
        self.0.open(talk).await
    }

    async fn since(&self, talk: &Talk, after: u64, limit: usize) -> Result<Vec<Event>, ArchiveError> {
        self.0.since(talk, after, limit).await
    }

    async fn idle(&self, _: u64, _: usize) -> Result<Vec<Talk>, ArchiveError> {
        Ok(Vec::new())
    }

    async fn prune(&self, _: u64, _: usize) -> Result<u64, ArchiveError> {
        Ok(0)
    }

    async fn forget(&self, _: &Forgetting) -> Result<Option<u64>, ArchiveError> {
        Ok(None)
    }

    async fn rub_out(&self, _: std::time::Duration) -> Result<(), ArchiveError> {
        Ok(())
    }
}
