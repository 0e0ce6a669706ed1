//! `kloros status`: how the daemon, its services and its work are, what waits for a person, and what to type next.

use std::path::Path;

use anyhow::bail;
use kloros_actors::{
    facts::{Calibration, Fact, Kind, Recorded, Reloaded, Stage, Verdict, stages},
    gate::{HeldBack, Standing as Holding},
    seams::{Clock as _, Query},
};
use serde::Serialize;

use super::{
    Answer,
    advice::{self, Advice},
    ask::approve_words,
    calibrate,
    client::Client,
    client::Said,
    lent::{self, Lent},
    out::Out,
    progress, story,
    text::{self, shorten},
};
use crate::{
    api::{Level, Live, Room, Service},
    clock::SystemClock,
    home::{Home, UNDER_SYSTEMD},
    journal::Reader,
    lease::Seen,
    reload,
};

/// How much of a reason is printed, in characters.
const REASON_MAX: usize = 200;

/// What the journal says of the work.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Work {
    cycles: u64,
    experiments: Vec<Running>,
    deployments: Vec<Deploying>,
    lent: Vec<Lent>,
    last_verdict: Option<Verdict>,
    learned: Option<String>,
    advice: Vec<Advice>,
    noise: Vec<Calibration>,
}

/// An experiment without an end.
#[derive(Debug, PartialEq, Serialize)]
struct Running {
    id: String,
    trial: u32,
    trials_max: u32,
}

/// A deployment that is not closed.
#[derive(Debug, PartialEq, Serialize)]
struct Deploying {
    id: String,
    domain: String,
    stage: Stage,
    changes: String,
    /// Why its undo failed, if it did.
    undo_failed: Option<String>,
}

pub(super) async fn status(home: &Home, out: &mut Out) -> anyhow::Result<Answer> {
    let Some(client) = Client::find(home)? else {
        out.answer(&serde_json::json!({"running": false, "home": home.root()}), || {
            // Under systemd it has a home of its own, which a person who types has to name.
            let usual = Path::new(UNDER_SYSTEMD);
            let is_elsewhere = usual.is_dir() && home.root() != usual;
            let next =
                if is_elsewhere { format!("kloros --home {UNDER_SYSTEMD} status") } else { "kloros run".to_owned() };
            format!("not running in {}\n{next}", home.root().display())
        })?;
        return Ok(Answer::No);
    };
    let live = match client.get::<Live>("/live").await? {
        Said::Yes(live) => live,
        Said::No(why) => bail!(why),
    };
    let work = work_in(home)?;
    let well = is_well(&live, &work);
    out.answer(
        &serde_json::json!({"running": true, "well": well, "home": home.root(), "work": work, "live": live}),
        || words(&live, &work),
    )?;
    Ok(if well { Answer::Done } else { Answer::No })
}

/// Returns what the journal of `home` says of the work.
pub(crate) fn work_in(home: &Home) -> anyhow::Result<Work> {
    let kinds =
        [Kind::Experiment, Kind::Trial, Kind::ExperimentEnd, Kind::Deployment, Kind::Step, Kind::Loan, Kind::LoanStep];
    let reader = Reader::open(home)?;
    let mut history = reader.read(&Query::open(&kinds))?;
    for kind in [Kind::Lesson, Kind::Verdict] {
        history.extend(reader.read(&Query::newest(&[kind], 1))?);
    }
    let mut work = work(&history);
    work.cycles = reader.count(Kind::Lesson)?;
    work.advice = advice::found(&reader)?;
    work.noise = calibrate::newest(&reader.read(&Query::newest(&[Kind::Calibration], calibrate::LOOK_BACK_MAX))?);
    Ok(work)
}

fn is_well(live: &Live, work: &Work) -> bool {
    live.rooms.iter().all(|room| room.state == "running")
        && live.services.iter().all(|service| service.is_up)
        && work.deployments.iter().all(|each| each.stage != Stage::Stuck)
        && work.lent.iter().all(|each| each.stuck.is_none())
}

/// Folds what the journal says of open work, oldest first, and of the newest verdict and lesson.
fn work(history: &[Recorded]) -> Work {
    let mut work = Work::default();
    let mut undo_failed = std::collections::BTreeMap::new();
    for recorded in history {
        let subject = recorded.fact.subject();
        match &recorded.fact {
            Fact::Experiment(experiment) => {
                let budget = experiment.spec.budget;
                let trials_max = budget.max_candidates.saturating_mul(budget.max_generations);
                work.experiments.push(Running { id: subject.to_owned(), trial: 0, trials_max });
            }
            Fact::Trial(_) => {
                work.experiments.iter_mut().filter(|each| each.id == subject).for_each(|each| each.trial += 1);
            }
            Fact::ExperimentEnd(_) => work.experiments.retain(|each| each.id != subject),
            Fact::Step { step: kloros_actors::facts::Step::UndoFailed(why), .. } => {
                undo_failed.insert(subject.to_owned(), why.clone());
            }
            Fact::Verdict(verdict) => work.last_verdict = Some(verdict.clone()),
            Fact::Lesson(lesson) => work.learned = Some(lesson.says.clone()),
            _ => {}
        }
    }
    work.lent = lent::lent(history);
    let all = stages(history.iter().map(|recorded| recorded.fact.clone()));
    let open = all.into_iter().filter(|(_, stage)| !stage.is_final());
    work.deployments = open
        .map(|(deployment, stage)| Deploying {
            undo_failed: undo_failed.remove(deployment.id.as_str()).filter(|_| stage == Stage::Stuck),
            id: deployment.id.to_string(),
            domain: deployment.promotion.domain.clone(),
            changes: progress::changes(&deployment.promotion.changes),
            stage,
        })
        .collect();
    work
}

fn words(live: &Live, work: &Work) -> String {
    let health = match (&live.holding.stop, is_well(live, work)) {
        (Some(_), _) => "stopped",
        (None, true) => "running",
        (None, false) => "degraded",
    };
    let mut lines = vec![format!(
        "{health}   pid {}   {} cycles closed   {} waiting for you   metrics http://{}/metrics",
        live.pid,
        work.cycles,
        live.waiting.len(),
        live.metrics_address
    )];
    lines.extend(live.holding.stop.iter().map(|stop| format!("  STOPPED    {stop}   kloros go")));
    let down = live.rooms.iter().filter(|room| room.state != "running");
    lines.extend(down.map(|room| format!("  down       {} is {}", room.path, room.state)));
    lines.extend(live.services.iter().map(service_words));
    lines.extend(live.levels.iter().map(level_words));
    lines.extend(noise_words(work, SystemClock.now_ms()));
    lines.extend(measuring_words(live));
    lines.extend(work.experiments.iter().map(|Running { id, trial, trials_max }| {
        format!("  evolving   {id}, trial {trial} of {trials_max} at most   kloros experiments {id}")
    }));
    lines.extend(work.deployments.iter().map(deploying_words));
    lines.extend(work.lent.iter().map(Lent::words));
    if let Some(verdict) = &work.last_verdict {
        let improvement = verdict.improvement.map_or_else(String::new, |each| format!(" {}", story::estimate(&each)));
        let reason = shorten(&verdict.reason.to_string(), REASON_MAX);
        lines.push(format!("  judged     {} {}{improvement}: {reason}", verdict.deployment, verdict.outcome));
    }
    lines.extend(work.learned.iter().map(|says| format!("  learned    {}", shorten(says, REASON_MAX))));
    for waiting in &live.waiting {
        let promotion = &waiting.promotion;
        lines.push(format!(
            "  waiting    {} risk: {}   {}   {}",
            waiting.risk,
            lent::wanted(promotion),
            shorten(&waiting.why, REASON_MAX),
            approve_words(&promotion.id, &waiting.binding)
        ));
    }
    lines.extend(holding_words(&live.holding));
    lines.extend(live.reload.iter().filter_map(reload_words));
    lines.extend(work.advice.iter().flat_map(|advice| advice.words("  ")));
    lines.push(next(live, work));
    lines.join("\n")
}

/// Returns what keeps changes from being made, and which ones wait for it.
fn holding_words(holding: &Holding) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(
        holding
            .freeze
            .iter()
            .map(|window| format!("  frozen     nothing new is deployed now: gate.freeze says {window}")),
    );
    if holding.advice {
        lines.push("  advice     nothing is deployed: gate.advice is on".to_owned());
    }
    lines.extend(holding.held.iter().map(|HeldBack { promotion, why, .. }| {
        let changes = lent::wanted(promotion);
        format!("  held       {changes}   {}   kloros explain {}", shorten(why, REASON_MAX), promotion.id)
    }));
    lines
}

/// Returns what of the settings on disk is not in force, and why; `None` where all of it is.
fn reload_words(reload: &reload::Standing) -> Option<String> {
    let (what, next) = match &reload.outcome {
        Reloaded::Applied { needs_restart, waits, .. } if needs_restart.is_empty() && waits.is_empty() => return None,
        Reloaded::Applied { needs_restart, waits, .. } => {
            let (needs_restart, waits) = (needs_restart.clone(), waits.clone());
            (progress::outcome(&Reloaded::Applied { changed: Vec::new(), needs_restart, waits }), "")
        }
        refused @ Reloaded::Refused { .. } => (progress::outcome(refused), "   kloros check-config"),
    };
    Some(format!("  settings   {}{next}", shorten(&what, REASON_MAX)))
}

fn service_words(service: &Service) -> String {
    let mut words = format!("  service    {} is {}", service.domain, shorten(&service.state, REASON_MAX));
    words.extend(service.url.iter().map(|url| format!(", {url}")));
    words.extend(service.pid.map(|pid| format!(", pid {pid}")));
    if service.deaths > 0 {
        words.extend([format!(", died {} times in a row", service.deaths)]);
    }
    words.extend(service.rests_s.map(|rests_s| format!(", starts again in {}", text::span(rests_s))));
    words
}

/// Returns who measures on this machine and who waits, first whose turn is next.
fn measuring_words(live: &Live) -> Vec<String> {
    let standing = match &live.measuring {
        Ok(standing) => standing,
        Err(why) => return vec![format!("  measures   nobody can: {}", shorten(why, REASON_MAX))],
    };
    let words = |verb: &str, seen: &Seen| {
        let who = if seen.pid == live.pid { "this daemon".to_owned() } else { format!("process {}", seen.pid) };
        format!("  {verb:10} {}, for {}, {who}", shorten(&seen.what, REASON_MAX), text::span(seen.for_s))
    };
    let measures = standing.measures.iter().map(|seen| words("measures", seen));
    measures.chain(standing.waits.iter().map(|seen| words("queues", seen))).collect()
}

fn noise_words(work: &Work, now_ms: u64) -> Vec<String> {
    let words = |known| format!("  noise      {}", shorten(&calibrate::words(known, now_ms), REASON_MAX));
    work.noise.iter().map(words).collect()
}

fn level_words(Level { domain, in_force, ceiling, why }: &Level) -> String {
    let why = why.as_ref().map_or_else(String::new, |why| format!(": {}", shorten(why, REASON_MAX)));
    format!("  level      {domain} at autonomy {in_force} of at most {ceiling}{why}")
}

fn deploying_words(each: &Deploying) -> String {
    let Deploying { id, domain, stage, changes, undo_failed } = each;
    match undo_failed {
        Some(why) => {
            let why = shorten(why, REASON_MAX);
            format!("  STUCK      {domain}: {id} cannot be undone: {why}   when that is mended: kloros rollback {id}")
        }
        None => format!("  deploying  {domain}: {id} is {}: {changes}   kloros explain {id}", stage.label()),
    }
}

/// Returns the command that a person would type next, the most pressing one.
fn next(live: &Live, work: &Work) -> String {
    if live.holding.stop.is_some() {
        return "kloros go".to_owned();
    }
    if let Some(stuck) = work.deployments.iter().find(|each| each.stage == Stage::Stuck) {
        return format!("kloros explain {}", stuck.id);
    }
    if live.rooms.iter().any(|room: &Room| room.state != "running") {
        return "kloros tree".to_owned();
    }
    if let Some(waiting) = live.waiting.first() {
        return approve_words(&waiting.promotion.id, &waiting.binding);
    }
    if let Some(running) = work.deployments.first() {
        return format!("kloros explain {}", running.id);
    }
    work.experiments
        .first()
        .map_or_else(|| "kloros deployments".to_owned(), |running| format!("kloros experiments {}", running.id))
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::Stop;

    use super::*;
    use crate::lease::Standing;

    fn live(services: Vec<Service>, levels: Vec<Level>) -> Live {
        Live {
            pid: 7,
            rooms: Vec::new(),
            waiting: Vec::new(),
            metrics_address: "127.0.0.1:1".to_owned(),
            services,
            levels,
            measuring: Ok(Standing::default()),
            holding: Holding::default(),
            reload: None,
            thresholds: None,
        }
    }

    fn service(state: &str, is_up: bool) -> Service {
        let (domain, url) = ("lab".to_owned(), Some("http://127.0.0.1:2".to_owned()));
        Service { domain, url, is_up, state: state.to_owned(), pid: None, deaths: 0, rests_s: None }
    }

    #[test]
    fn a_service_that_is_down_is_said_with_its_deaths_and_its_rest() {
        let down = Service { deaths: 3, rests_s: Some(4.0), ..service("down", false) };
        let live = live(vec![down], Vec::new());
        let text = words(&live, &Work::default());
        assert!(text.starts_with("degraded"), "{text}");
        let wanted = "service    lab is down, http://127.0.0.1:2, died 3 times in a row, starts again in 4.0 s";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn the_level_in_force_is_said_with_its_ceiling_and_why_it_is_lower() {
        let why = Some("KLR_AUTONOMY_LEVEL in the env file lowers it".to_owned());
        let level = Level { domain: "lab".to_owned(), in_force: 0, ceiling: 2, why };
        let text = words(&live(vec![service("up", true)], vec![level]), &Work::default());
        assert!(text.starts_with("running"), "{text}");
        assert!(text.contains("lab at autonomy 0 of at most 2: KLR_AUTONOMY_LEVEL"), "{text}");
        assert!(text.ends_with("\nkloros deployments"), "{text}");
    }

    #[test]
    fn who_measures_and_who_waits_is_said_whoever_it_is() {
        let seen = |pid, what: &str| Seen { pid, what: what.to_owned(), for_s: 12.0 };
        let waits = vec![seen(9, "kloros tune, trial 3"), seen(7, "x-2.g1.t01 of lab")];
        let standing = Standing { measures: Some(seen(7, "d-1.b1.r2 of lab")), waits };
        let text = words(&Live { measuring: Ok(standing), ..live(Vec::new(), Vec::new()) }, &Work::default());
        let lines: Vec<&str> =
            text.lines().filter(|line| line.contains("measures") || line.contains("queues")).collect();
        let expected = [
            "  measures   d-1.b1.r2 of lab, for 12.0 s, this daemon",
            "  queues     kloros tune, trial 3, for 12.0 s, process 9",
            "  queues     x-2.g1.t01 of lab, for 12.0 s, this daemon",
        ];
        assert_eq!(lines, expected);
        let nobody = Live { measuring: Err("cannot use /x".to_owned()), ..live(Vec::new(), Vec::new()) };
        assert!(words(&nobody, &Work::default()).contains("measures   nobody can: cannot use /x"));
    }

    #[test]
    fn what_a_person_stopped_and_what_waits_is_said_with_its_reason() {
        let stop = Some(Stop { why: "the rack is being moved".to_owned(), by_uid: Some(1000) });
        let holding = Holding { stop, freeze: Some("sat,sun".to_owned()), advice: true, ..Holding::default() };
        let text = words(&Live { holding, ..live(Vec::new(), Vec::new()) }, &Work::default());
        assert!(text.starts_with("stopped"), "{text}");
        assert!(text.contains("STOPPED    user 1000 stopped everything: the rack is being moved"), "{text}");
        assert!(text.contains("frozen     nothing new is deployed now: gate.freeze says sat,sun"), "{text}");
        assert!(text.contains("advice     nothing is deployed"), "{text}");
        assert!(text.ends_with("\nkloros go"), "{text}");
    }

    #[test]
    fn what_is_stuck_comes_first_among_what_to_type_next() {
        let stuck = Deploying {
            id: "d-1".to_owned(),
            domain: "lab".to_owned(),
            stage: Stage::Stuck,
            changes: String::new(),
            undo_failed: Some("the service does not start".to_owned()),
        };
        let running = Running { id: "x-1".to_owned(), trial: 3, trials_max: 48 };
        let work = Work { deployments: vec![stuck], experiments: vec![running], ..Work::default() };
        let text = words(&live(Vec::new(), Vec::new()), &work);
        assert!(text.contains("STUCK      lab: d-1 cannot be undone: the service does not start"), "{text}");
        assert!(text.contains("x-1, trial 3 of 48 at most"), "{text}");
        assert!(text.ends_with("\nkloros explain d-1"), "{text}");
    }
}
