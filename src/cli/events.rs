//! `kloros events`: what happened, fact by fact, and what happens. It reads the journal, so it needs no running daemon.

use std::time::Duration;

use clap::{Args, builder::PossibleValuesParser};
use kloros_actors::{
    facts::{Kind, Recorded},
    seams::Query,
};
use serde_json::json;

use super::{Answer, out::Out, story::heard};
use crate::{
    home::Home,
    journal::{Reader, rfc3339},
};

/// How often the journal is asked for more.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How many facts are read in one look.
const AT_ONCE_MAX: usize = 1_000;

#[derive(Args)]
pub(crate) struct EventsArgs {
    /// Go on with what happens, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// How many from before to show at most
    #[arg(long, default_value_t = 20, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(0..=AT_ONCE_MAX as u64))]
    limit: usize,
    /// Only facts of this kind; may be given more than once
    #[arg(long = "kind", value_name = "KIND", value_parser = PossibleValuesParser::new(Kind::ALL.map(Kind::label)))]
    kinds: Vec<String>,
    /// Only facts about this very question, experiment, promotion, deployment, incident or domain; `kloros explain` tells all of a cycle
    #[arg(long, value_name = "ID")]
    about: Option<String>,
}

impl EventsArgs {
    /// Returns the facts that are asked for, all of them.
    fn query(&self) -> Query {
        let kinds: Vec<Kind> =
            Kind::ALL.into_iter().filter(|kind| self.kinds.iter().any(|name| name == kind.label())).collect();
        Query { subject: self.about.clone(), ..Query::kinds(&kinds) }
    }
}

/// Prints the newest facts, and then each further one as it comes, if that is asked for.
pub(super) async fn events(home: &Home, args: &EventsArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let mut reader = Reader::find(home)?;
    let (mut after, mut is_silent) = (0, true);
    if let Some(reader) = &reader {
        // Up to where the journal reaches before anything is read: what comes meanwhile is told as what comes later is.
        let reached = reader.read(&Query::newest(&[], 1))?;
        let newest = Query { newest_first: true, limit: args.limit.max(1), ..args.query() };
        let before = if args.limit == 0 { Vec::new() } else { reader.read(&newest)? };
        for recorded in before.iter().rev() {
            tell(recorded, out)?;
        }
        after = before.first().or(reached.first()).map_or(0, |last| last.seq);
        is_silent = before.is_empty();
    }
    if !args.follow {
        if is_silent && !out.is_json() {
            out.line("nothing of that happened yet\nkloros status")?;
        }
        return Ok(Answer::Done);
    }
    let stopped = tokio::signal::ctrl_c();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            _ = &mut stopped => return Ok(Answer::Done),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if reader.is_none() {
            reader = Reader::find(home)?;
        }
        let Some(reader) = &reader else { continue };
        for recorded in reader.read(&Query { after, limit: AT_ONCE_MAX, ..args.query() })? {
            tell(&recorded, out)?;
            after = recorded.seq;
        }
    }
}

fn tell(recorded: &Recorded, out: &mut Out) -> anyhow::Result<()> {
    let (kind, subject) = (recorded.fact.kind().label(), recorded.fact.subject());
    let words = heard(&recorded.fact);
    let line = format!("{}  {kind:14} {subject:24}  {words}", rfc3339(recorded.at_ms));
    let facts = json!({
        "seq": recorded.seq, "at_ms": recorded.at_ms, "cycle": recorded.cycle, "kind": kind, "subject": subject, "words": words,
    });
    Ok(out.answer(&facts, || line)?)
}
