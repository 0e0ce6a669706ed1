//! What is asked of the running daemon.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use kloros_actors::{
    facts::{Domain, Fact, Key, Kind, Promotion, PromotionId, Ruled, Settings, Verdict},
    seams::Query,
};
use serde_json::Value as Json;

use super::{
    Answer,
    client::{Client, Said},
    follow, ids,
    out::Out,
    progress,
    text::{self, shorten},
};
use crate::{
    api::{AnswerBody, Live, NameBody, Room, TryBody, one_of},
    home::Home,
    journal::Reader,
    settings,
};

/// A person's own proposal.
#[derive(Args)]
pub(crate) struct TryArgs {
    /// The domain
    domain: String,
    /// What to set
    #[arg(required = true, value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Return as soon as it is proposed, rather than when it is judged
    #[arg(long)]
    no_wait: bool,
    /// How long the verdict is waited for, as 60s, 5m or 1h; what has not begun by then is taken back [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = super::tune::milliseconds)]
    timeout: Option<u64>,
    /// The configuration file that the daemon runs with [default: kloros.toml in the home]
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
}

/// How long the verdict of a person's own proposal is waited for.
const VERDICT_WITHIN: Duration = Duration::from_secs(3600);

pub(crate) async fn tree(home: &Home, out: &mut Out) -> anyhow::Result<Answer> {
    let live = match Client::to(home)?.get::<Live>("/live").await? {
        Said::Yes(live) => live,
        Said::No(why) => bail!(why),
    };
    out.answer(&live.rooms, || {
        let rooms: Vec<String> = live.rooms.iter().map(room_words).collect();
        format!("{}\nkloros status", rooms.join("\n"))
    })?;
    Ok(Answer::Done)
}

/// How much of a failure is printed, in characters.
const WHY_MAX: usize = 200;

fn room_words(room: &Room) -> String {
    let name = room.path.rsplit('/').next().unwrap_or(&room.path);
    let label = format!("{}{name}", "  ".repeat(room.depth_in_tree));
    let mut words = format!("{label:32} {:10}", room.state);
    if let Some(uptime_s) = room.uptime_s {
        words.extend([format!(" up {:>9}", text::span(uptime_s))]);
    }
    if !room.is_supervisor {
        words.extend([format!("   handled {:>6}   waiting {}", room.handled, room.waiting)]);
    }
    if room.restarts > 0 {
        let why = shorten(room.last_failure.as_deref().unwrap_or("unknown"), WHY_MAX);
        words.extend([format!("   restarts {} (last: {why})", room.restarts)]);
    }
    if room.lost > 0 {
        words.extend([format!("   lost {}", room.lost)]);
    }
    if room.leaked > 0 {
        words.extend([format!("   blocks {} threads for good", room.leaked)]);
    }
    words
}

pub(crate) async fn answer(
    home: &Home,
    id: String,
    approved: bool,
    why: Option<String>,
    out: &mut Out,
) -> anyhow::Result<Answer> {
    let client = Client::to(home)?;
    let (id, shown) = id.split_once(BINDS).map_or((id.as_str(), None), |(id, shown)| (id, Some(shown)));
    let binding = match if approved { shown_as(&client, id, shown, out).await? } else { Ok(None) } {
        Ok(binding) => binding,
        Err(why) => return no(&why, out),
    };
    let body = AnswerBody { id: id.to_owned(), approved, why, binding };
    match client.post::<Promotion>("/answer", &body).await? {
        Said::Yes(promotion) => {
            let word = if approved { "approved" } else { "rejected" };
            out.answer(&promotion, || {
                format!(
                    "{word} {}: {}\nkloros explain {}",
                    promotion.id,
                    progress::changes(&promotion.changes),
                    promotion.id
                )
            })?;
            Ok(Answer::Done)
        }
        Said::No(why) => no(&why, out),
    }
}

/// What stands between the id of a promotion and the beginning of what a yes to it is bound to.
const BINDS: char = '@';

/// How many characters of that are shown, and how many name it at least.
const BINDING_SHOWN: usize = 12;

/// Returns the command that says yes to what waits, and to nothing else: another plan, or another policy, has another binding.
pub(super) fn approve_words(promotion: &PromotionId, binding: &str) -> String {
    let shown: String = binding.chars().take(BINDING_SHOWN).collect();
    if shown.is_empty() {
        format!("kloros approve {promotion}")
    } else {
        format!("kloros approve {promotion}{BINDS}{shown}")
    }
}

/// Returns what a yes to the promotion `id` is bound to: to what was `shown` before, or to what is shown by this.
async fn shown_as(
    client: &Client,
    id: &str,
    shown: Option<&str>,
    out: &mut Out,
) -> anyhow::Result<Result<Option<String>, String>> {
    let waiting = match client.get::<Live>("/live").await? {
        Said::Yes(live) => live.waiting,
        Said::No(why) => return Ok(Err(why)),
    };
    let ids: Vec<&PromotionId> = waiting.iter().map(|each| &each.promotion.id).collect();
    let found = one_of(id, &ids).map(|id| waiting.iter().find(|each| each.promotion.id == *id));
    let waiting = match found {
        Ok(Some(waiting)) => waiting,
        Ok(None) => return Ok(Err(format!("nothing waits under {id}"))),
        Err(why) => return Ok(Err(why)),
    };
    let changes = progress::changes(&waiting.promotion.changes);
    match shown {
        Some(shown) if shown.len() < BINDING_SHOWN || !waiting.binding.starts_with(shown) => {
            let next = approve_words(&waiting.promotion.id, &waiting.binding);
            return Ok(Err(format!("{id} is not what was shown any more, it is {changes}: {next}")));
        }
        Some(_) => {}
        None if out.is_json() => {}
        None => out.line(&format!("asked      {changes}, {} risk: {}", waiting.risk, waiting.why))?,
    }
    Ok(Ok(Some(waiting.binding.clone())))
}

pub(crate) async fn rollback(home: &Home, id: &str, out: &mut Out) -> anyhow::Result<Answer> {
    let client = Client::to(home)?;
    let reader = Reader::open(home)?;
    let deployments = reader.ids(&[Kind::Deployment], id)?;
    let id = match ids::pick(id, "deployment", deployments.iter().map(String::as_str)) {
        Ok(id) => id.to_owned(),
        Err(why) => return no(&format!("{why}; see `kloros deployments`"), out),
    };
    let facts = reader.read(&Query::kinds(&[Kind::Verdict]).about(&id))?;
    let verdict = facts.iter().find_map(|each| match &each.fact {
        Fact::Verdict(verdict) => Some(verdict),
        _ => None,
    });
    // One that was condemned may be stuck, and then it is undone at once when a person has cleared the way.
    if let Some(verdict) = verdict.filter(|verdict| verdict.outcome != Ruled::Rollback) {
        return no(&judged_already(verdict), out);
    }
    match client.post::<Verdict>("/rollback", &NameBody { id }).await? {
        Said::Yes(verdict) => {
            out.answer(&verdict, || {
                format!(
                    "rolled back {}: {}\nkloros explain {}",
                    verdict.deployment,
                    progress::changes(&verdict.changes),
                    verdict.deployment
                )
            })?;
            Ok(Answer::Done)
        }
        Said::No(why) => match verdict.filter(|_| why.contains("not under way")) {
            Some(verdict) => no(&judged_already(verdict), out),
            None => no(&why, out),
        },
    }
}

/// Says why a deployment that was judged is not rolled back, and what can be done instead.
fn judged_already(verdict: &Verdict) -> String {
    let Verdict { deployment, outcome, domain, .. } = verdict;
    if *outcome == Ruled::Rollback {
        return format!("{deployment} was rolled back already: kloros explain {deployment}");
    }
    format!("{deployment} was judged {outcome} and stays: propose the old values with `kloros try {domain} KEY=VALUE`")
}

pub(crate) async fn kill(home: &Home, room: String, out: &mut Out) -> anyhow::Result<Answer> {
    match Client::to(home)?.post::<NameBody>("/chaos/kill", &NameBody { id: room }).await? {
        Said::Yes(killed) => {
            out.answer(&killed, || format!("killed {}\nkloros tree", killed.id))?;
            Ok(Answer::Done)
        }
        Said::No(why) => no(&why, out),
    }
}

pub(crate) async fn propose(home: &Home, args: TryArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let client = Client::to(home)?;
    let settings = match parse(home, args.config.as_deref(), &args.domain, &args.settings)? {
        Ok((_, settings)) => settings,
        Err(why) => return no(&why, out),
    };
    let body = TryBody { domain: args.domain.clone(), settings };
    let runs = follow::Runs::of(home, args.config.as_deref())?;
    let promotion = match client.post::<Promotion>("/try", &body).await? {
        Said::Yes(promotion) => promotion,
        Said::No(why) => return no(&why, out),
    };
    if !out.is_json() {
        out.line(&format!("proposed {}: {}", promotion.id, progress::changes(&promotion.changes)))?;
    }
    if args.no_wait {
        out.answer(&promotion, || format!("kloros explain {}", promotion.id))?;
        return Ok(Answer::Done);
    }
    let within = args.timeout.map_or(VERDICT_WITHIN, Duration::from_millis);
    follow::follow(home, &client, &promotion, within, runs, out).await
}

/// Returns the domain of this name and the settings in `texts`, each with the type of its knob, so that a slip is told
/// here and not by the service. What is no setting at all is an error; one that may not be is refused with the reason.
pub(super) fn parse(
    home: &Home,
    config: Option<&Path>,
    name: &str,
    texts: &[String],
) -> anyhow::Result<Result<(Domain, Settings), String>> {
    let mut domains = settings::Settings::load(home.root(), config)?.catalogue.domains;
    let Some(domain) = domains.remove(name) else {
        let names = domains.keys().cloned().collect::<Vec<_>>().join(", ");
        return Ok(Err(format!("there is no domain {name:?}; there are {names}")));
    };
    let mut settings = BTreeMap::new();
    for text in texts {
        let (name, value) = text.split_once('=').with_context(|| format!("{text:?} is not KEY=VALUE"))?;
        let key = Key::new(name).map_err(anyhow::Error::msg)?;
        let Some(knob) = domain.knobs.get(&key) else {
            let keys: Vec<&str> = domain.knobs.keys().map(Key::as_str).collect();
            return Ok(Err(format!("{key} is not a knob of {}; its knobs are {}", domain.name, keys.join(", "))));
        };
        let Some(parsed) = knob.range.parse(value) else {
            return Ok(Err(format!("{key}: {value:?} is not a value of this knob")));
        };
        if let Some(why) = knob.range.refuses(&parsed) {
            return Ok(Err(format!("{key}: {why}")));
        }
        if settings.insert(key, parsed).is_some() {
            bail!("{name} is given twice");
        }
    }
    Ok(Ok((domain, settings)))
}

pub(super) fn no(why: &str, out: &mut Out) -> anyhow::Result<Answer> {
    if out.is_json() {
        out.answer(&Json::from_iter([("no", why)]), String::new)?;
    } else {
        super::out::trouble(why);
    }
    Ok(Answer::No)
}
