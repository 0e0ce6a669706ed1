//! What is asked of the running daemon.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use kloros_actors::{
    facts::{Domain, Fact, Key, Kind, Promotion, Ruled, Ruling, Settings, Verdict},
    seams::Query,
};
use serde_json::Value as Json;

use super::{
    Answer,
    client::{Client, Said},
    ids,
    out::Out,
    progress, story,
    text::shorten,
};
use crate::{
    api::{AnswerBody, Live, NameBody, Room, TryBody},
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
    /// The configuration file that the daemon runs with [default: kloros.toml in the home]
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
}

/// How long the verdict of a person's own proposal is waited for.
const VERDICT_WITHIN: Duration = Duration::from_secs(3600);

/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(300);

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
        words.extend([format!(" up {:>9}", story::span(uptime_s))]);
    }
    if !room.is_supervisor {
        words.extend([format!("   handled {:>6}   waiting {}", room.handled, room.waiting)]);
    }
    if room.restarts > 0 {
        let why = shorten(room.last_failure.as_deref().unwrap_or("unknown"), WHY_MAX);
        words.extend([format!("   restarts {} (last: {why})", room.restarts)]);
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
    let body = AnswerBody { id, approved, why };
    match Client::to(home)?.post::<Promotion>("/answer", &body).await? {
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

pub(crate) async fn rollback(home: &Home, id: &str, out: &mut Out) -> anyhow::Result<Answer> {
    let client = Client::to(home)?;
    let facts = Reader::open(home)?.read(&Query::newest(&[Kind::Deployment, Kind::Verdict], Query::LIMIT_DEFAULT))?;
    let deployments = facts.iter().filter(|each| each.fact.kind() == Kind::Deployment);
    let id = match ids::pick(id, "deployment", deployments.map(|each| each.fact.subject())) {
        Ok(id) => id.to_owned(),
        Err(why) => return no(&format!("{why}; see `kloros deployments`"), out),
    };
    let verdict = facts.iter().find_map(|each| match &each.fact {
        Fact::Verdict(verdict) if verdict.deployment.as_str() == id => Some(verdict),
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
    follow(home, &promotion, out).await
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

/// Follows a proposal until it is judged, refused or waits for a person.
async fn follow(home: &Home, promotion: &Promotion, out: &mut Out) -> anyhow::Result<Answer> {
    let reader = Reader::open(home)?;
    let until = Instant::now() + VERDICT_WITHIN;
    while Instant::now() < until {
        let query = Query { cycle: Some(promotion.cycle.clone()), ..Query::default() };
        for recorded in reader.read(&query)? {
            match recorded.fact {
                Fact::Ruling(Ruling::Refuse { why, .. }) => return no(&why, out),
                Fact::Ruling(Ruling::Ask { promotion, why, .. }) => {
                    out.answer(&serde_json::json!({"waiting": promotion, "why": why}), || {
                        format!("waits for you: {why}\nkloros approve {promotion}")
                    })?;
                    return Ok(Answer::No);
                }
                Fact::Ruling(Ruling::Hold { promotion, why, held }) => {
                    out.answer(&serde_json::json!({"held": promotion, "for": held, "why": why}), || {
                        format!("waits for its turn: {why}\nkloros explain {promotion}")
                    })?;
                    return Ok(Answer::No);
                }
                Fact::Ruling(Ruling::Advise { promotion, .. }) => {
                    let why = format!("only advice is given, and this is yours already: {promotion}");
                    return no(&why, out);
                }
                Fact::Lesson(lesson) => {
                    let verdict = &lesson.verdict;
                    out.answer(verdict, || {
                        format!("{}: {}\nkloros explain {}", verdict.outcome, lesson.says, lesson.cycle)
                    })?;
                    let kept = verdict.outcome != Ruled::Rollback;
                    return Ok(if kept { Answer::Done } else { Answer::No });
                }
                _ => {}
            }
        }
        if Client::find(home)?.is_none() {
            bail!(
                "the daemon is gone; what was not judged is undone when it starts again: kloros explain {}",
                promotion.id
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("not judged within {} s; see `kloros explain {}`", VERDICT_WITHIN.as_secs(), promotion.id)
}

pub(super) fn no(why: &str, out: &mut Out) -> anyhow::Result<Answer> {
    if out.is_json() {
        out.answer(&Json::from_iter([("no", why)]), String::new)?;
    } else {
        super::out::trouble(why);
    }
    Ok(Answer::No)
}
