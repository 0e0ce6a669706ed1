//! `kloros memory`: what is remembered of conversations, and forgetting it.
//!
//! It works with the daemon running or stopped: both read the same file. What is to be forgotten is said to the daemon where one
//! runs: what it has heard and not kept yet is forgotten with it.

use std::{path::Path, time::Duration};

use anyhow::bail;
use clap::{Args, Subcommand};
use kloros_actors::{
    facts::{Forgetting, Talk},
    seams::{Archive as _, Clock as _},
};
use serde_json::json;

use super::{
    Answer,
    client::{Client, Said},
    out::Out,
    text::shorten,
};
use crate::{
    api::ForgottenBody,
    archive::{Conversations, Heading},
    clock::SystemClock,
    conversation::LOCAL,
    home::Home,
    journal::rfc3339,
};

#[derive(Subcommand)]
pub(crate) enum MemoryCommand {
    /// List the conversations, the latest last
    List {
        /// How many to show at most
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Show what was said in a conversation
    Show {
        #[command(flatten)]
        which: Which,
        /// How many of the newest events to show at most
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Find what was said, the best match first
    Search {
        /// What to look for
        #[arg(required = true)]
        words: Vec<String>,
        /// How many to show at most
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Print everything that is kept as JSON lines, of all conversations or of one
    Export {
        /// The conversation's name
        name: Option<String>,
        /// Whose it is, where several have the name
        #[arg(long)]
        owner: Option<String>,
    },
    /// Forget a conversation, or all that is older than so many days: gone from the file, its index and its log
    Forget {
        /// The conversation's name
        #[arg(required_unless_present = "older_than_days")]
        name: Option<String>,
        /// Whose it is, where several have the name
        #[arg(long)]
        owner: Option<String>,
        /// Forget what was said before so many days, in all conversations; 0 is everything
        #[arg(long, value_name = "DAYS", conflicts_with = "name")]
        older_than_days: Option<u64>,
    },
}

#[derive(Args)]
pub(crate) struct Which {
    /// The conversation's name
    name: String,
    /// Whose it is, where several have the name
    #[arg(long)]
    owner: Option<String>,
}

/// How many events are read at a time.
const PAGE: usize = 1000;

/// How many conversations are exported at most.
const HEADINGS_MAX: usize = 1_000_000;

/// How much of a text a list shows, in characters.
const SHOWN_CHARS_MAX: usize = 200;

const DAY_MS: u64 = 86_400_000;

/// How long somebody else may read the file before its log is left as it is.
const RUB_OUT_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn memory(home: &Home, command: MemoryCommand, out: &mut Out) -> anyhow::Result<Answer> {
    let path = home.conversations();
    if !path.exists() {
        out.answer(&json!([]), || "no conversation was held in this home yet".to_owned())?;
        return Ok(Answer::No);
    }
    match command {
        MemoryCommand::List { limit } => list(&path, limit, out),
        MemoryCommand::Show { which, limit } => show(&path, &which, limit, out),
        MemoryCommand::Search { words, limit } => search(&path, &words.join(" "), limit, out),
        MemoryCommand::Export { name, owner } => export(&path, name.as_deref(), owner.as_deref(), out),
        MemoryCommand::Forget { older_than_days: Some(days), .. } => forget_before(home, days, out).await,
        MemoryCommand::Forget { name, owner, .. } => {
            forget(home, &name.unwrap_or_default(), owner.as_deref(), out).await
        }
    }
}

fn list(path: &Path, limit: usize, out: &mut Out) -> anyhow::Result<Answer> {
    let headings = Conversations::headings(path, None, limit.max(1))?;
    out.answer(&headings, || {
        let line = |heading: &Heading| {
            let Heading { name, owner, events, episodes, last_ms, .. } = heading;
            let name = shorten(name, 60);
            format!("{}  {name:24} {owner:12} {events} events, {episodes} episodes", rfc3339(*last_ms))
        };
        let mut lines: Vec<String> = headings.iter().map(line).collect();
        if lines.is_empty() {
            lines.push("nothing is remembered".to_owned());
        }
        lines.push("kloros memory show NAME".to_owned());
        lines.join("\n")
    })?;
    Ok(Answer::Done)
}

/// Returns the one conversation that is meant; `None` where there is none.
fn find(path: &Path, name: &str, owner: Option<&str>) -> anyhow::Result<Option<Talk>> {
    let mut found = Conversations::headings(path, Some(name), HEADINGS_MAX)?;
    found.retain(|heading| owner.is_none_or(|owner| heading.owner == owner));
    if found.len() > 1 {
        let owners: Vec<&str> = found.iter().map(|heading| heading.owner.as_str()).collect();
        bail!("{} conversations are called {name}: say --owner {}", found.len(), owners.join(" or --owner "));
    }
    Ok(found.first().map(Heading::talk))
}

fn show(path: &Path, which: &Which, limit: usize, out: &mut Out) -> anyhow::Result<Answer> {
    let Some(talk) = find(path, &which.name, which.owner.as_deref())? else { return none(&which.name, out) };
    let mut events = Vec::new();
    loop {
        let after = events.last().map_or(0, |event: &kloros_actors::facts::Event| event.id);
        let page = Conversations::events(path, &talk, after, PAGE)?;
        let is_last = page.len() < PAGE;
        events.extend(page);
        events.drain(..events.len().saturating_sub(limit.max(1)));
        if is_last {
            break;
        }
    }
    let episodes = Conversations::episodes(path, &talk)?;
    let told = json!({"name": talk.name(), "owner": talk.owner(), "events": events, "episodes": episodes});
    out.answer(&told, || {
        let in_short =
            episodes.iter().map(|episode| format!("in short: {}", shorten(&episode.summary, SHOWN_CHARS_MAX)));
        let said =
            events.iter().map(|event| format!("{}  {:10} {}", rfc3339(event.at_ms), event.role.label(), event.text));
        let next = format!("kloros memory forget {}", talk.name());
        in_short.chain(said).chain([next]).collect::<Vec<_>>().join("\n")
    })?;
    Ok(Answer::Done)
}

fn none(name: &str, out: &mut Out) -> anyhow::Result<Answer> {
    out.answer(&json!({"error": "no such conversation"}), || {
        format!("no conversation is called {name}\nkloros memory list")
    })?;
    Ok(Answer::No)
}

fn search(path: &Path, words: &str, limit: usize, out: &mut Out) -> anyhow::Result<Answer> {
    let hits = Conversations::search(path, words, limit.max(1))?;
    out.answer(&hits, || {
        let line = |hit: &crate::archive::Hit| {
            let (at, role, text) = (rfc3339(hit.event.at_ms), hit.event.role.label(), &hit.event.text);
            format!("{at}  {}  {role}: {}", shorten(&hit.name, 40), shorten(text, SHOWN_CHARS_MAX))
        };
        let mut lines: Vec<String> = hits.iter().map(line).collect();
        if lines.is_empty() {
            lines.push("nothing was found".to_owned());
        }
        lines.push("kloros memory show NAME".to_owned());
        lines.join("\n")
    })?;
    Ok(if hits.is_empty() { Answer::No } else { Answer::Done })
}

fn export(path: &Path, name: Option<&str>, owner: Option<&str>, out: &mut Out) -> anyhow::Result<Answer> {
    let mut headings = Conversations::headings(path, name, HEADINGS_MAX)?;
    headings.retain(|heading| owner.is_none_or(|owner| heading.owner == owner));
    let mut lines = Out::new(true);
    for heading in &headings {
        let talk = heading.talk();
        let mut after = 0;
        loop {
            let events = Conversations::events(path, &talk, after, PAGE)?;
            for event in &events {
                let line = json!({"conversation": talk.name(), "owner": talk.owner(), "id": event.id, "role": event.role,
                    "text": event.text, "at_ms": event.at_ms});
                lines.answer(&line, String::new)?;
            }
            let Some(last) = events.last() else { break };
            after = last.id;
        }
        for episode in Conversations::episodes(path, &talk)? {
            let line = json!({"conversation": talk.name(), "owner": talk.owner(), "episode": episode});
            lines.answer(&line, String::new)?;
        }
    }
    match name {
        Some(name) if headings.is_empty() => none(name, out),
        _ => Ok(Answer::Done),
    }
}

pub(super) async fn forget(home: &Home, name: &str, owner: Option<&str>, out: &mut Out) -> anyhow::Result<Answer> {
    // What is not there may have been forgotten half, and its log still hold it: it is forgotten as well.
    let talk = find(&home.conversations(), name, owner)?;
    let talk = talk.unwrap_or_else(|| Talk::new(name, owner.unwrap_or(LOCAL)));
    let Some(events) = forgotten(home, Forgetting::Talk(talk.clone())).await? else { return none(name, out) };
    out.answer(&json!({"forgotten": events}), || format!("forgot {} with {events} events", talk.name()))?;
    Ok(Answer::Done)
}

async fn forget_before(home: &Home, days: u64, out: &mut Out) -> anyhow::Result<Answer> {
    let before_ms = match days {
        0 => u64::MAX,
        days => SystemClock.now_ms().saturating_sub(days.saturating_mul(DAY_MS)),
    };
    let events = forgotten(home, Forgetting::Before(before_ms)).await?.unwrap_or_default();
    out.answer(&json!({"forgotten": events}), || format!("forgot {events} events"))?;
    Ok(Answer::Done)
}

/// Forgets, and returns how many events that were; `None` where there was nothing of the kind.
async fn forgotten(home: &Home, what: Forgetting) -> anyhow::Result<Option<u64>> {
    if let Some(daemon) = Client::find(home)? {
        return match daemon.post::<ForgottenBody>("/forget", &what).await? {
            Said::Yes(forgotten) => Ok(forgotten.events),
            Said::No(why) => bail!("it may not be forgotten yet, do it once more: {why}"),
        };
    }
    let conversations = Conversations::open(&home.conversations())?;
    let events = conversations.forget(&what).await?;
    conversations.rub_out(RUB_OUT_WITHIN).await?;
    Ok(events)
}
