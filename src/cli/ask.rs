//! What is asked of the running daemon.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use kloros_actors::{
    facts::{Domain, Fact, Key, Kind, Promotion, Recorded, Ruling, Settings, Verdict},
    seams::Query,
};
use serde_json::Value as Json;

use super::{
    Answer,
    client::{Client, Said},
    out::Out,
    progress, story,
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

pub(crate) async fn status(home: &Home, out: &mut Out) -> anyhow::Result<Answer> {
    let Some(client) = Client::find(home)? else {
        out.answer(&serde_json::json!({"running": false, "home": home.root()}), || {
            format!("not running in {}\nkloros run", home.root().display())
        })?;
        return Ok(Answer::No);
    };
    let live = match client.get::<Live>("/live").await? {
        Said::Yes(live) => live,
        Said::No(why) => bail!(why),
    };
    let reader = Reader::open(home)?;
    let lessons = reader.read(&Query::newest(&[Kind::Lesson], Query::LIMIT_DEFAULT))?;
    let facts = serde_json::json!({"running": true, "home": home.root(), "cycles": lessons.len(), "live": live});
    out.answer(&facts, || status_words(&live, &lessons, &story::under_way(&reader)))?;
    Ok(if live.rooms.iter().all(|room| room.state == "running") { Answer::Done } else { Answer::No })
}

fn status_words(live: &Live, lessons: &[Recorded], under_way: &[String]) -> String {
    let down: Vec<&Room> = live.rooms.iter().filter(|room| room.state != "running").collect();
    let health = if down.is_empty() { "running" } else { "degraded" };
    let mut lines = vec![format!(
        "{health}   pid {}   {} cycles closed   {} waiting for you   metrics http://{}/metrics",
        live.pid,
        lessons.len(),
        live.waiting.len(),
        live.metrics_address
    )];
    lines.extend(down.iter().map(|room| format!("  down       {} is {}", room.path, room.state)));
    lines.extend(
        live.services
            .iter()
            .map(|(name, url)| format!("  service    {name} {}", url.as_deref().unwrap_or("has no address"))),
    );
    lines.extend(under_way.iter().map(|line| format!("  {line}")));
    if let Some(Fact::Lesson(lesson)) = lessons.first().map(|recorded| &recorded.fact) {
        lines.push(format!("  learned    {}", lesson.says));
    }
    for waiting in &live.waiting {
        let promotion = &waiting.promotion;
        lines.push(format!(
            "  waiting    {} risk: {}   {}   kloros approve {}",
            waiting.risk,
            progress::changes(&promotion.changes),
            waiting.why,
            promotion.id
        ));
    }
    if live.waiting.is_empty() {
        lines.push("kloros deployments".to_owned());
    }
    lines.join("\n")
}

pub(crate) async fn tree(home: &Home, out: &mut Out) -> anyhow::Result<Answer> {
    let live = match Client::to(home)?.get::<Live>("/live").await? {
        Said::Yes(live) => live,
        Said::No(why) => bail!(why),
    };
    out.answer(&live.rooms, || live.rooms.iter().map(room_words).collect::<Vec<_>>().join("\n"))?;
    Ok(Answer::Done)
}

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
        let why = room.last_failure.as_deref().unwrap_or("unknown");
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
            out.answer(&promotion, || format!("{word} {}: {}", promotion.id, progress::changes(&promotion.changes)))?;
            Ok(Answer::Done)
        }
        Said::No(why) => no(&why, out),
    }
}

pub(crate) async fn rollback(home: &Home, id: String, out: &mut Out) -> anyhow::Result<Answer> {
    match Client::to(home)?.post::<Verdict>("/rollback", &NameBody { id }).await? {
        Said::Yes(verdict) => {
            out.answer(&verdict, || {
                format!("rolled back {}: {}", verdict.deployment, progress::changes(&verdict.changes))
            })?;
            Ok(Answer::Done)
        }
        Said::No(why) => no(&why, out),
    }
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
    let (_, settings) = parse(home, args.config.as_deref(), &args.domain, &args.settings)?;
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
/// here and not by the service.
pub(super) fn parse(
    home: &Home,
    config: Option<&Path>,
    name: &str,
    texts: &[String],
) -> anyhow::Result<(Domain, Settings)> {
    let mut domains = settings::Settings::load(home.root(), config)?.catalogue.domains;
    let domain = domains.remove(name).with_context(|| {
        format!("there is no domain {name:?}; there are {}", domains.keys().cloned().collect::<Vec<_>>().join(", "))
    })?;
    let mut settings = BTreeMap::new();
    for text in texts {
        let (name, value) = text.split_once('=').with_context(|| format!("{text:?} is not KEY=VALUE"))?;
        let key = Key::new(name).map_err(anyhow::Error::msg)?;
        let knob = domain.knobs.get(&key).with_context(|| {
            let keys: Vec<&str> = domain.knobs.keys().map(Key::as_str).collect();
            format!("{key} is not a knob of {}; its knobs are {}", domain.name, keys.join(", "))
        })?;
        let parsed =
            knob.range.parse(value).with_context(|| format!("{key}: {value:?} is not a value of this knob"))?;
        if let Some(why) = knob.range.refuses(&parsed) {
            bail!("{key}: {why}");
        }
        if settings.insert(key, parsed).is_some() {
            bail!("{name} is given twice");
        }
    }
    Ok((domain, settings))
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
                Fact::Lesson(lesson) => {
                    let verdict = &lesson.verdict;
                    out.answer(verdict, || {
                        format!("{}: {}\nkloros explain {}", verdict.outcome, lesson.says, lesson.cycle)
                    })?;
                    let kept = verdict.outcome != kloros_actors::facts::Ruled::Rollback;
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

fn no(why: &str, out: &mut Out) -> anyhow::Result<Answer> {
    if out.is_json() {
        out.answer(&Json::from_iter([("no", why)]), String::new)?;
    } else {
        super::out::trouble(why);
    }
    Ok(Answer::No)
}
