//! `kloros calibrate`: has the daemon measure a service against itself, and says what can be told of it by measuring.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use kloros_actors::{
    facts::{Calibration, Fact, Kind, Recorded},
    seams::{Clock as _, Query},
};
use tokio::time::{Instant, sleep};

use super::{
    Answer, ask,
    client::{Client, Said},
    follow::BLOCK,
    out::Out,
    story, text,
    waiting::{Far, Waiting},
};
use crate::{
    api::{Calibrating, Live, NameBody},
    clock::SystemClock,
    home::Home,
    journal::Reader,
    lease::Standing,
};

/// What is measured against itself.
#[derive(Args)]
pub(crate) struct CalibrateArgs {
    /// The domain
    domain: String,
    /// Wait until it is over
    #[arg(long)]
    wait: bool,
}

/// How often it is looked whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long is waited at most.
const WAIT_MAX: Duration = Duration::from_secs(4 * 3600);

/// How many calibrations are looked through for the newest of each domain.
pub(super) const LOOK_BACK_MAX: usize = 1000;

pub(super) async fn calibrate(home: &Home, args: CalibrateArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let since_ms = SystemClock.now_ms();
    let name = NameBody { id: args.domain.clone() };
    let begun = match Client::to(home)?.post::<Calibrating>("/calibrate", &name).await? {
        Said::Yes(begun) => begun,
        Said::No(why) => return ask::no(&why, out),
    };
    if !args.wait {
        out.answer(&begun, || {
            format!("measures {} against itself, {} runs at least\nkloros status", begun.domain, begun.runs_min)
        })?;
        return Ok(Answer::Done);
    }
    let mut waiting = Waiting::begin();
    let found = over(home, &begun, since_ms, &mut waiting, out).await;
    waiting.end(out)?;
    let Some(known) = found? else {
        return ask::no(&format!("it is not over after {} h: kloros status", WAIT_MAX.as_secs() / 3600), out);
    };
    out.answer(&known, || format!("{}\nkloros status", words(&known, since_ms)))?;
    Ok(if known.outcome.is_ok() { Answer::Done } else { Answer::No })
}

/// Waits until the calibration is over that has `begun`, at a terminal with a line that says how far it is; `None` where it takes longer
/// than anybody waits.
async fn over(
    home: &Home,
    begun: &Calibrating,
    since_ms: u64,
    waiting: &mut Waiting,
    out: &mut Out,
) -> anyhow::Result<Option<Calibration>> {
    let reader = Reader::open(home)?;
    let until = Instant::now() + WAIT_MAX;
    let mut run = 0;
    while Instant::now() < until {
        let newest = reader.read(&Query::newest(&[Kind::Calibration], 1).about(&begun.domain))?;
        if let Some(known) = newest.iter().filter(|each| each.at_ms >= since_ms).find_map(calibration) {
            return Ok(Some(known.clone()));
        }
        // Nobody but a person who looks on is told, so nobody else asks the daemon.
        if out.is_terminal() {
            let standing = standing(home).await;
            let measures = standing.as_ref().and_then(|standing| standing.measures.as_ref());
            run = measures.and_then(|seen| run_of(&seen.what, &begun.domain)).unwrap_or(run);
            let far = Far { done: run.saturating_sub(1), of: begun.runs_min, what: "runs at least" };
            let waits =
                || standing.iter().flat_map(|standing| &standing.waits).any(|seen| is_ours(&seen.what, &begun.domain));
            let what = if waits() { "waits for its turn" } else { "against itself" };
            waiting.show(out, &format!("{} {what}", begun.domain), Some(&far))?;
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(None)
}

/// Returns who measures and who waits; nothing where the daemon does not say it just now.
async fn standing(home: &Home) -> Option<Standing> {
    let client = Client::find(home).ok()??;
    match client.get::<Live>("/live").await {
        Ok(Said::Yes(live)) => live.measuring.ok(),
        _ => None,
    }
}

/// Returns which run of the calibration of `domain` this is, from 1, by what the validator calls it: `a-DOMAIN.bBLOCK.rPLACE`.
fn run_of(what: &str, domain: &str) -> Option<u32> {
    let named = what.split_whitespace().next()?.strip_prefix("a-")?.strip_prefix(domain)?.strip_prefix(".b")?;
    let (block, place) = named.split_once(".r")?;
    let block: u32 = block.parse().ok()?;
    Some(block.checked_sub(1)?.checked_mul(BLOCK)?.saturating_add(place.parse().ok()?))
}

fn is_ours(what: &str, domain: &str) -> bool {
    run_of(what, domain).is_some()
}

fn calibration(recorded: &Recorded) -> Option<&Calibration> {
    match &recorded.fact {
        Fact::Calibration(calibration) => Some(calibration),
        _ => None,
    }
}

/// Returns the newest calibration of each domain.
pub(super) fn newest(recorded: &[Recorded]) -> Vec<Calibration> {
    let mut newest: BTreeMap<&str, &Calibration> = BTreeMap::new();
    for calibration in recorded.iter().filter_map(calibration) {
        let known = newest.entry(&calibration.domain).or_insert(calibration);
        if calibration.at_ms >= known.at_ms {
            *known = calibration;
        }
    }
    newest.into_values().cloned().collect()
}

/// Prints what is known of the noise of a domain, as of `now_ms`.
pub(super) fn words(calibration: &Calibration, now_ms: u64) -> String {
    let Calibration { domain, outcome, at_ms, .. } = calibration;
    match outcome {
        Ok(noise) => {
            let age = now_ms.saturating_sub(*at_ms);
            let age = if age < 1000 { "now".to_owned() } else { format!("{} ago", text::span(age as f64 / 1000.0)) };
            let [spread, resolves] = [noise.spread, noise.resolves].map(|ratio| ratio * 100.0);
            format!(
                "{domain} scatters by {spread:.1} % a block, effects from {resolves:.1} % on can be told in {} blocks   \
                 against itself {}, {} runs, {age}",
                noise.blocks,
                story::estimate(&noise.improvement),
                noise.runs
            )
        }
        Err(why) => format!("how much {domain} scatters is not known: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{CycleId, Estimate, Noise};

    use super::*;

    fn known(domain: &str, outcome: Result<Noise, String>, at_ms: u64) -> Recorded {
        let (domain, measured_by) = (domain.to_owned(), String::new());
        let fact = Fact::Calibration(Calibration { domain, measured_by, outcome, at_ms });
        Recorded { seq: at_ms, cycle: CycleId::new("c-1"), at_ms, fact }
    }

    fn noise(spread: f64) -> Noise {
        let improvement = Estimate { ratio: -0.004, low: -0.021, high: 0.013 };
        Noise { spread, freedom: 9, improvement, resolves: 0.0131, blocks: 60, runs: 12, samples: 600 }
    }

    #[test]
    fn the_noise_of_a_domain_is_said_with_what_can_be_told_in_spite_of_it() {
        let recorded = known("lab", Ok(noise(0.031)), 1000);
        assert_eq!(
            words(calibration(&recorded).unwrap(), 7_201_000),
            "lab scatters by 3.1 % a block, effects from 1.3 % on can be told in 60 blocks   against itself -0.4 % (-2.1 \
             to +1.3), 12 runs, 2.0 h ago"
        );
        let failed = known("lab", Err("only 0 of 1 blocks were good".to_owned()), 1000);
        assert_eq!(
            words(calibration(&failed).unwrap(), 0),
            "how much lab scatters is not known: only 0 of 1 blocks were good"
        );
    }

    #[test]
    fn how_far_a_calibration_is_is_told_from_the_name_of_its_run() {
        for (what, run) in [
            ("a-lab.b1.r1 of lab", Some(1)),
            ("a-lab.b3.r4 of lab", Some(12)),
            ("a-lab_2.b1.r1 of lab_2", None),
            ("x-1.t3 of lab", None),
            ("a-lab.b0.r1", None),
            ("", None),
        ] {
            assert_eq!(run_of(what, "lab"), run, "{what:?}");
        }
    }

    #[test]
    fn of_each_domain_the_newest_counts_in_whichever_order_they_come() {
        let recorded =
            [known("lab", Ok(noise(0.2)), 5), known("tts", Ok(noise(0.1)), 1), known("lab", Ok(noise(0.3)), 2)];
        let spreads: Vec<f64> = newest(&recorded).into_iter().map(|known| known.outcome.unwrap().spread).collect();
        assert_eq!(spreads, [0.2, 0.1]);
    }
}
