//! Measures the instance that serves: nothing is started and nothing is ended here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kloros_actors::{
    facts::{Domain, FailureKind, Measurement, Others, TrialFailure},
    seams::Assignment,
};
use tokio::time::{Instant, sleep, timeout};

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
        let candidate_max_s = domain.in_place.as_ref().map(|in_place| in_place.candidate_max_s);
        let terms = Terms {
            label: &assignment.label,
            within: assignment.within,
            in_all: candidate_max_s.map(Duration::from_secs),
            count_max: self.repeats.count_max,
            pause: self.repeats.pause,
        };
        let disturbed = |measurement: &Measurement| self.disturbed(domain, assignment, measurement);
        let (measurement, discarded) = undisturbed(terms, || self.once(domain, assignment, url), disturbed).await?;
        Ok(Measurement { discarded, ..measurement })
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

/// How long and how often one measurement may be tried.
#[derive(Clone, Copy)]
struct Terms<'a> {
    label: &'a str,
    /// How long each sample may take.
    within: Duration,
    /// How long the service serves with what is measured, all samples and the pauses between them included. Whoever put it there
    /// ends it then.
    in_all: Option<Duration>,
    /// How often it is measured again at most.
    count_max: u32,
    /// How long the pause before that is; each further one is twice as long, up to a minute.
    pause: Duration,
}

/// How much sooner than the service is taken away nothing more is measured, so that it is said why.
const MARGIN: Duration = Duration::from_secs(5);

/// Takes samples until `disturbed` has nothing to say of one. Each has its time for itself: that others disturbed those before it
/// is no reason to end it, and what was disturbed as often as it may be, or for as long, has failed for that.
async fn undisturbed<Sample, Sampling>(
    terms: Terms<'_>,
    mut sample: impl FnMut() -> Sampling,
    disturbed: impl Fn(&Sample) -> Option<String>,
) -> Result<(Sample, u32), TrialFailure>
where
    Sampling: Future<Output = Result<Sample, TrialFailure>>,
{
    let (begun, mut discarded, mut pause) = (Instant::now(), 0, terms.pause);
    loop {
        let since = Instant::now();
        let within = terms.within;
        let late = |_| fail(FailureKind::TimedOut, format!("not measured within {} s", within.as_secs_f64()));
        let measured = timeout(within, sample()).await.map_err(late)??;
        let Some(why) = disturbed(&measured) else { return Ok((measured, discarded)) };
        discarded += 1;
        let in_a_row =
            |rest: &str| fail(FailureKind::Disturbed, format!("{discarded} samples in a row were: {why}{rest}"));
        if discarded > terms.count_max {
            return Err(in_a_row(""));
        }
        // The next one takes as long as this one did, as far as can be told.
        let ended = begun.elapsed() + pause + since.elapsed() + MARGIN;
        if let Some(in_all) = terms.in_all.filter(|in_all| ended > *in_all) {
            return Err(in_a_row(&format!("; no time is left for another one within {} s", in_all.as_secs())));
        }
        tracing::info!(label = terms.label, why, discarded, "disturbed sample thrown away, it is measured again");
        sleep(pause).await;
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
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

    /// As config/domains/vllm.toml and the settings that ship have it: a sample takes up to 80 s, and 300 s are its limit.
    fn terms(in_all_s: Option<u64>) -> Terms<'static> {
        let (within, pause) = (Duration::from_secs(300), Duration::from_secs(3));
        Terms { label: "x", within, in_all: in_all_s.map(Duration::from_secs), count_max: 3, pause }
    }

    /// Takes samples of so many seconds of which the last alone is undisturbed, and returns how many were thrown away.
    async fn taken(terms: Terms<'_>, seconds: &[u64]) -> Result<u32, FailureKind> {
        let mut left = seconds.iter().copied();
        let sample = || {
            let (seconds, is_last) = (left.next().unwrap(), left.len() == 0);
            async move {
                sleep(Duration::from_secs(seconds)).await;
                Ok(is_last)
            }
        };
        let disturbed = |is_last: &bool| (!is_last).then(|| "others used 99 % of all cores".to_owned());
        undisturbed(terms, sample, disturbed).await.map(|(_, discarded)| discarded).map_err(|failure| failure.kind)
    }

    /// Once all samples and the pauses between them had the time of one, and what ran out of it was blamed on the settings.
    #[tokio::test(start_paused = true)]
    async fn each_sample_has_its_time_for_itself() {
        assert_eq!(taken(terms(Some(1200)), &[80, 80, 80, 80]).await, Ok(3));
        assert_eq!(taken(terms(None), &[299, 299, 299, 299]).await, Ok(3));
        assert_eq!(taken(terms(None), &[80, 301]).await, Err(FailureKind::TimedOut), "it took too long by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_disturb_for_as_long_as_it_may_take_has_failed_for_that() {
        assert_eq!(taken(terms(Some(1200)), &[80; 5]).await, Err(FailureKind::Disturbed), "as often as it may");
        for in_all_s in [100, 170, 200, 300, 340] {
            let limit = Duration::from_secs(in_all_s);
            // Whoever lends the service ends it at this limit, and would blame the candidate.
            let measured = timeout(limit, taken(terms(Some(in_all_s)), &[80; 5])).await;
            assert_eq!(measured, Ok(Err(FailureKind::Disturbed)), "{in_all_s}");
        }
    }
}
