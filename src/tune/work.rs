//! The work: trials one after another, or a few at a time, until the search has no more.

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use futures::StreamExt as _;
use kloros_search::{Candidate, Search};
use tokio::time::{Instant, timeout};

use super::{
    journal::Journal,
    plan::{Plan, outcome},
    trial::{self, Trial},
    verdict::{self, Report},
};
use crate::lease::{Machine, Shared};

/// What is told while it goes on.
pub(crate) enum Step<'a> {
    /// The journal held so many trials.
    Resumed(u32),
    /// A trial ended.
    Ended {
        /// What came of it.
        trial: &'a Trial,
        /// How many there were before it, those of the journal included.
        before: u32,
        /// Whether it is the best so far.
        is_best: bool,
    },
}

/// Runs the trials of `plan` that are not `done`, writes each to the journal, and returns what they come to.
///
/// When the time of the plan is over no further trial is begun; those that run may end. The time between the lives of a run is
/// none of it. Trials wait for their turn on `machine`; those that run at a time share it. Dropping the future kills whatever
/// runs. Fails when the machine is not to be had, when the command cannot be started, when the journal cannot be written, and
/// when `done` is not what this search would have asked for.
pub(crate) async fn tune(
    plan: &Plan,
    machine: &Machine,
    journal: &mut Journal,
    done: Vec<Trial>,
    mut watch: impl FnMut(Step<'_>),
    waits: impl Fn(&str) + Sync,
) -> anyhow::Result<Report> {
    let mut search = Search::new(plan.space.clone(), plan.options());
    let mut known: BTreeMap<u32, Trial> = done.into_iter().map(|trial| (trial.id, trial)).collect();
    if !known.is_empty() {
        watch(Step::Resumed(known.len() as u32));
    }
    let mut trials: Vec<Trial> = Vec::new();
    let mut best = known.values().filter_map(|trial| trial.value).map(|value| plan.oriented(value)).reduce(f64::min);
    let mut count = known.len() as u32;
    let shared = Shared::default();
    let time = Time::after(plan, known.values());
    let mut out_of_time = false;
    let stop = loop {
        let lot = search.ask(plan.batch);
        if lot.is_empty() {
            break None;
        }
        let (old, new): (Vec<Candidate>, Vec<Candidate>) =
            lot.iter().cloned().partition(|each| known.contains_key(&each.id));
        if let Some(other) = old.iter().find(|candidate| known[&candidate.id].config != candidate.config) {
            bail!(
                "trial {} of {} is not what this version of kloros would have tried: begin anew with another file",
                other.id,
                journal.path().display()
            );
        }
        let running = new.iter().map(|candidate| in_turn(plan, candidate, (machine, &shared, &time), &waits));
        let mut running = futures::stream::iter(running).buffer_unordered(plan.parallel.max(1) as usize);
        while let Some(ended) = running.next().await {
            let Some(trial) = ended? else {
                out_of_time = true;
                continue;
            };
            let trial = Trial { spent_ms: time.spent_ms(), ..trial };
            // It is on disk before anybody hears of it, so nothing is built on what a crash would take back.
            journal.note(&trial)?;
            let value = trial.value.map(|value| plan.oriented(value));
            let is_best = value.is_some_and(|value| best.is_none_or(|best| value < best));
            if is_best {
                best = value;
            }
            watch(Step::Ended { trial: &trial, before: count, is_best });
            count += 1;
            known.insert(trial.id, trial);
        }
        // In the order in which they were asked, not in that of their ends: the next lot must not depend on the clock.
        for candidate in &lot {
            let Some(trial) = known.remove(&candidate.id) else { continue };
            search.tell(trial.id, outcome(plan.direction, trial.value))?;
            trials.push(trial);
        }
        if let Some(stop) = verdict::stop(plan, &trials) {
            break Some(stop);
        }
        if out_of_time {
            break None;
        }
    };
    if let Some(id) = known.keys().next() {
        bail!("{} holds trial {id}, which this version of kloros would not have tried", journal.path().display());
    }
    Ok(Report { out_of_time, ..verdict::report(plan, &search, trials, stop) })
}

/// How long a run may go on, and how long it has.
struct Time {
    within: Option<Duration>,
    before: Duration,
    since: Instant,
}

impl Time {
    /// Returns the time of a run that is taken up after these trials.
    fn after<'a>(plan: &Plan, known: impl Iterator<Item = &'a Trial>) -> Self {
        let before_ms = known.map(|trial| trial.spent_ms).max().unwrap_or_default();
        let within = plan.within_ms.map(Duration::from_millis);
        Self { within, before: Duration::from_millis(before_ms), since: Instant::now() }
    }

    fn spent(&self) -> Duration {
        self.before.saturating_add(self.since.elapsed())
    }

    fn spent_ms(&self) -> u64 {
        u64::try_from(self.spent().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits for `work` as long as there is time; `None` where it is over.
    async fn limit<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let Some(within) = self.within else { return Some(work.await) };
        let left = within.checked_sub(self.spent()).filter(|left| !left.is_zero())?;
        timeout(left, work).await.ok()
    }
}

/// Runs a trial when it is the turn of this process to measure; `None` if its time is over by then.
async fn in_turn(
    plan: &Plan,
    candidate: &Candidate,
    (machine, shared, time): (&Machine, &Shared, &Time),
    waits: &(impl Fn(&str) + Sync),
) -> anyhow::Result<Option<Trial>> {
    let what = format!("kloros tune, trial {}", candidate.id);
    let waiting = shared.lease(machine, &what, |standing| waits(&standing.in_the_way()));
    let Some(turn) = time.limit(waiting).await else { return Ok(None) };
    let turn = turn?;
    let trial = trial::run(plan, candidate).await?;
    if !turn.is_whole() {
        waits(&format!("the file of the lease was removed, so others may have measured beside trial {}", candidate.id));
    }
    Ok(Some(trial))
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{Direction, Metrics};
    use kloros_search::{Config, Space, SpaceSpec};
    use tokio::time::sleep;

    use super::*;

    fn plan(within_ms: Option<u64>) -> Plan {
        Plan {
            argv: Vec::new(),
            folder: "/".into(),
            space: Space::new(SpaceSpec::default()).unwrap(),
            default: None,
            metric: "ms".to_owned(),
            direction: Direction::Down,
            budget: 2,
            batch: 1,
            parallel: 1,
            seed: 1,
            noisy: true,
            timeout_ms: 1000,
            within_ms,
        }
    }

    fn ended(id: u32, spent_ms: u64) -> Trial {
        let (config, metrics) = (Config::new(), Metrics::new());
        Trial { id, config, value: Some(1.0), metrics, failure: None, took_ms: 1, spent_ms }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_run_goes_on_where_its_last_life_ended_and_ends_a_wait() {
        let time = Time::after(&plan(Some(60_000)), [ended(1, 20_000), ended(2, 45_000)].iter());
        assert_eq!(time.limit(sleep(Duration::from_secs(10))).await, Some(()));
        assert_eq!(time.spent_ms(), 55_000);
        assert_eq!(time.limit(sleep(Duration::from_secs(10))).await, None);
        assert_eq!(time.spent_ms(), 60_000, "it waited for no longer than it had");
        assert_eq!(time.limit(async {}).await, None);
        let unlimited = Time::after(&plan(None), std::iter::empty());
        assert_eq!(unlimited.limit(sleep(Duration::from_secs(1_000_000))).await, Some(()));
    }
}
