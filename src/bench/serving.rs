//! Measures the instance that serves: nothing is started and nothing is ended here.

use std::{collections::BTreeMap, sync::Arc};

use kloros_actors::{
    facts::{Domain, FailureKind, Measurement, Others, TrialFailure},
    seams::Assignment,
};
use tokio::time::{sleep, timeout};

use super::{
    command::Target,
    fail,
    others::Watch,
    runner::{PAUSE_MAX, Runner, secrets},
    terms::{bench_name, own, run_bench},
};
use crate::process::holder_of;

impl Runner {
    /// Measures what serves at `url`, which runs with the settings already, until others do not disturb it.
    pub(super) async fn serving(
        &self,
        domain: &Domain,
        assignment: &Assignment,
        url: &str,
    ) -> Result<Measurement, TrialFailure> {
        let within = assignment.within;
        let late = |_| fail(FailureKind::TimedOut, format!("not measured within {} s", within.as_secs_f64()));
        timeout(within, self.undisturbed(domain, assignment, url)).await.map_err(late)?
    }

    async fn undisturbed(
        &self,
        domain: &Domain,
        assignment: &Assignment,
        url: &str,
    ) -> Result<Measurement, TrialFailure> {
        let (mut discarded, mut pause) = (0, self.repeats.pause);
        loop {
            let measurement = self.once(domain, assignment, url).await?;
            let Some(why) = self.disturbed(domain, assignment, &measurement) else {
                return Ok(Measurement { discarded, ..measurement });
            };
            discarded += 1;
            if discarded > self.repeats.count_max {
                return Err(fail(FailureKind::Disturbed, format!("{discarded} samples in a row were: {why}")));
            }
            let label = &assignment.label;
            tracing::info!(label, why, discarded, "disturbed sample thrown away, it is measured again");
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    async fn once(&self, domain: &Domain, assignment: &Assignment, url: &str) -> Result<Measurement, TrialFailure> {
        let port = port_of(url)
            .ok_or_else(|| fail(FailureKind::Infrastructure, format!("{url} names no port of the service")))?;
        let secrets = secrets(domain, &self.home.join(&domain.service.env_file))?;
        let measuring = run_bench(&domain.bench, Target { url, port, seed: assignment.seed }, &secrets);
        // Without the process that serves it cannot be told who others are.
        let (measured, others) = match tokio::task::spawn_blocking(move || holder_of(port)).await.ok().flatten() {
            Some(pid) => Watch::begin(pid, own(&domain.bench), Arc::clone(&self.gpus)).await.during(measuring).await,
            None => (measuring.await, Others::default()),
        };
        let measured = measured?;
        Ok(Measurement {
            metrics: measured.metrics,
            samples: measured.samples,
            window_ms: measured.window_ms,
            in_effect: BTreeMap::new(),
            source: format!("{} {url}, in place", bench_name(&domain.bench)),
            at_ms: self.clock.now_ms(),
            others: (others != Others::default()).then_some(others),
            discarded: 0,
        })
    }
}

fn port_of(url: &str) -> Option<u16> {
    url.trim_end_matches('/').rsplit(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_the_end_of_the_address() {
        for (url, port) in [("http://127.0.0.1:8000", Some(8000)), ("http://127.0.0.1:8000/", Some(8000)), ("x", None)]
        {
            assert_eq!(port_of(url), port, "{url}");
        }
    }
}
