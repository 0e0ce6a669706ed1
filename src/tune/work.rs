//! The work: trials one after another, or a few at a time, until the search has no more.

use std::collections::BTreeMap;

use anyhow::bail;
use futures::StreamExt as _;
use kloros_search::{Candidate, Search};

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
/// Trials wait for their turn on `machine`; those that run at a time share it. Dropping the future kills whatever runs. Fails
/// when the machine is not to be had, when the command cannot be started, when the journal cannot be written, and when `done`
/// is not what this search would have asked for.
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
    let stop = loop {
        let lot = search.ask(plan.batch);
        if lot.is_empty() {
            break None;
        }
        let (old, new): (Vec<Candidate>, Vec<Candidate>) =
            lot.iter().cloned().partition(|each| known.contains_key(&each.id));
        for candidate in old {
            if known[&candidate.id].config != candidate.config {
                bail!(
                    "trial {} of {} is not what this version of kloros would have tried: begin anew with another file",
                    candidate.id,
                    journal.path().display()
                );
            }
        }
        let running = new.iter().map(|candidate| in_turn(plan, candidate, (machine, &shared), &waits));
        let mut running = futures::stream::iter(running).buffer_unordered(plan.parallel.max(1) as usize);
        while let Some(ended) = running.next().await {
            let trial = ended?;
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
    };
    if let Some(id) = known.keys().next() {
        bail!("{} holds trial {id}, which this version of kloros would not have tried", journal.path().display());
    }
    Ok(verdict::report(plan, &search, trials, stop))
}

/// Runs a trial when it is the turn of this process to measure.
async fn in_turn(
    plan: &Plan,
    candidate: &Candidate,
    (machine, shared): (&Machine, &Shared),
    waits: &(impl Fn(&str) + Sync),
) -> anyhow::Result<Trial> {
    let what = format!("kloros tune, trial {}", candidate.id);
    let turn = shared.lease(machine, &what, |standing| waits(&standing.in_the_way())).await?;
    let trial = trial::run(plan, candidate).await?;
    if !turn.is_whole() {
        waits(&format!("the file of the lease was removed, so others may have measured beside trial {}", candidate.id));
    }
    Ok(trial)
}
