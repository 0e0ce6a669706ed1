//! From single requests to metrics: pure arithmetic.
//!
//! A latency is counted from the moment a request was scheduled. Of a chat it is that of requests that were answered; how many
//! were not is told by `error_rate` and by what is left of goodput: an overloaded model server loses most of its requests, and
//! the time-out itself, the same in every run, would be all that its latencies say. Pages and speech count what was lost as the
//! time-out, see [`waits_ms`]. Requests scheduled within the window stand behind latencies, errors
//! and goodput. Throughput is what arrived within the window, whenever it was asked for: in an overload the requests of the
//! window are answered long after it, and to count their tokens would make a slow server look fast.

use kloros_actors::facts::{ChatSlo, Metrics};

use super::request::{Answer, RequestError};

const MS_PER_S: f64 = 1000.0;

/// What became of one request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Observation<A> {
    /// When it was due, in seconds since the start of the load.
    pub(super) scheduled_s: f64,
    /// How much later it was sent, in seconds: how far this program, not the service, lagged behind.
    pub(super) late_s: f64,
    /// How long after it was due it ended or was given up, in seconds, whatever came of it.
    pub(super) took_s: f64,
    /// The answer, or why there was none.
    pub(super) outcome: Result<A, RequestError>,
}

/// Returns how long each request took, in milliseconds: as `answer_ms` says of an answer; one that was lost as its time-out, or longer
/// if it took longer: were it left out, a server that loses its slow half would look faster than one that answers it. Nothing where
/// nobody was answered.
pub(super) fn waits_ms<A>(
    counted: &[&Observation<A>],
    request_timeout_s: f64,
    answer_ms: impl Fn(&A) -> f64,
) -> Vec<f64> {
    if counted.iter().all(|each| each.outcome.is_err()) {
        return Vec::new();
    }
    let waits = counted.iter().map(|each| match &each.outcome {
        Ok(answer) => answer_ms(answer),
        Err(_) => each.lost_ms(request_timeout_s),
    });
    waits.collect()
}

impl<A> Observation<A> {
    /// Returns how long the request counts as, in milliseconds, if it was lost: never shorter than one that was answered in time.
    pub(super) fn lost_ms(&self, request_timeout_s: f64) -> f64 {
        self.took_s.max(request_timeout_s) * MS_PER_S
    }
}

/// The part of the load that counts, in seconds since its start; the start belongs to it, the end does not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    /// Where the warm-up ends.
    pub(super) start_s: f64,
    /// Where the window ends; after `start_s`.
    pub(super) end_s: f64,
}

impl Window {
    pub(super) fn contains(self, at_s: f64) -> bool {
        self.start_s <= at_s && at_s < self.end_s
    }
}

/// What the requests of a window amount to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Summary {
    /// Finite numbers only; a metric without enough observations is absent.
    pub(super) metrics: Metrics,
    /// How many requests were scheduled within the window.
    pub(super) samples: u64,
}

/// Returns what `observations` amount to within `window`; without a request in it there are no metrics at all.
pub(super) fn summarise(observations: &[Observation<Answer>], window: Window, slo: ChatSlo) -> Summary {
    let mut metrics = Metrics::new();
    let counted: Vec<&Observation<Answer>> =
        observations.iter().filter(|observation| window.contains(observation.scheduled_s)).collect();
    let window_s = window.end_s - window.start_s;
    if !counted.is_empty() && window_s > 0.0 {
        let answers: Vec<&Answer> =
            counted.iter().filter_map(|observation| observation.outcome.as_ref().ok()).collect();
        add_latencies(&mut metrics, &answers);
        let good = answers.iter().filter(|answer| meets(answer, slo)).count();
        metrics.insert("goodput_per_s".to_owned(), good as f64 / window_s);
        metrics.insert("error_rate".to_owned(), (counted.len() - answers.len()) as f64 / counted.len() as f64);
        add_throughput(&mut metrics, observations, window);
    }
    metrics.retain(|_, value| value.is_finite());
    Summary { metrics, samples: counted.len() as u64 }
}

fn meets(answer: &Answer, slo: ChatSlo) -> bool {
    answer.ttft_ms <= slo.ttft_ms && answer.e2e_ms() <= slo.e2e_ms
}

fn add_latencies(metrics: &mut Metrics, answers: &[&Answer]) {
    let ttft_ms = answers.iter().map(|answer| answer.ttft_ms).collect();
    let itl_ms = answers.iter().flat_map(|answer| answer.gaps_ms.iter().copied()).collect();
    let e2e_ms = answers.iter().map(|answer| answer.e2e_ms()).collect();
    for (name, values) in [("ttft", ttft_ms), ("itl", itl_ms), ("e2e", e2e_ms)] {
        add_quantiles(metrics, name, values, &[0.5, 0.95, 0.99]);
    }
}

/// Adds quantiles of values in milliseconds as `NAME_p50_ms`, `NAME_p99_ms`, `NAME_p999_ms` (of 0.999) and so on. One stands only
/// if at least one observation is expected beyond it: 2 for a median, 20 for a 95th percentile, 1000 for a p99.9.
pub(super) fn add_quantiles(metrics: &mut Metrics, name: &str, values: Vec<f64>, shares: &[f64]) {
    for (percent, value) in quantiles(values, shares) {
        metrics.insert(format!("{name}_p{percent}_ms"), value);
    }
}

/// Returns those quantiles that stand, as [`add_quantiles`] says, each under its percentage without a point.
pub(super) fn quantiles(values: Vec<f64>, shares: &[f64]) -> Vec<(String, f64)> {
    let sorted = sort(values);
    let stands = |share: f64| sorted.len() >= (1.0 / (1.0 - share)).round() as usize;
    let standing = shares.iter().filter(|share| stands(**share));
    let named = standing.filter_map(|share| {
        let digits = format!("{:.1}", share * 100.0).replace('.', "");
        Some((digits.strip_suffix('0').unwrap_or(&digits).to_owned(), quantile(&sorted, *share)?))
    });
    named.collect()
}

fn add_throughput(metrics: &mut Metrics, observations: &[Observation<Answer>], window: Window) {
    let window_s = window.end_s - window.start_s;
    let answered: Vec<(f64, &Answer)> = observations
        .iter()
        .filter_map(|observation| Some((observation.scheduled_s, observation.outcome.as_ref().ok()?)))
        .collect();
    // An answer that ended after the window is an answer nevertheless: what it said within the window counts.
    let tokens =
        sort(answered.iter().map(|(scheduled_s, answer)| tokens_within(*scheduled_s, answer, window)).collect());
    let ended = answered
        .iter()
        .filter(|(scheduled_s, answer)| window.contains(scheduled_s + answer.e2e_ms() / MS_PER_S))
        .count();
    metrics.insert("tokens_per_s".to_owned(), tokens.iter().sum::<f64>() / window_s);
    metrics.insert("requests_per_s".to_owned(), ended as f64 / window_s);
}

/// Returns how many tokens of `answer` arrived within `window`; a chunk carries an equal share of the tokens.
fn tokens_within(scheduled_s: f64, answer: &Answer, window: Window) -> f64 {
    let mut at_s = scheduled_s + answer.ttft_ms / MS_PER_S;
    let mut within = usize::from(window.contains(at_s));
    for gap_ms in &answer.gaps_ms {
        at_s += gap_ms / MS_PER_S;
        within += usize::from(window.contains(at_s));
    }
    answer.tokens as f64 * within as f64 / (answer.gaps_ms.len() + 1) as f64
}

/// Sorts before anything is drawn from it or added up, so that the order in which requests ended does not matter.
pub(super) fn sort(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Returns the quantile `q`, from 0 to 1, of ascending values, interpolated between the two nearest (type 7 of Hyndman and
/// Fan, as R and `NumPy` do); `None` without values.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let place = q.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Window = Window { start_s: 10.0, end_s: 20.0 };
    const SLO: ChatSlo = ChatSlo { ttft_ms: 100.0, e2e_ms: 200.0 };

    fn answered(scheduled_s: f64, ttft_ms: f64, gaps_ms: &[f64]) -> Observation<Answer> {
        let tokens = gaps_ms.len() as u64 + 1;
        let answer = Answer { ttft_ms, gaps_ms: gaps_ms.to_vec(), tokens };
        Observation { scheduled_s, late_s: 0.0, took_s: answer.e2e_ms() / MS_PER_S, outcome: Ok(answer) }
    }

    fn failed(scheduled_s: f64) -> Observation<Answer> {
        Observation { scheduled_s, late_s: 0.0, took_s: 0.1, outcome: Err(RequestError::Timeout) }
    }

    fn metric(observations: &[Observation<Answer>], name: &str) -> Option<f64> {
        summarise(observations, WINDOW, SLO).metrics.get(name).copied()
    }

    #[test]
    fn a_quantile_lies_between_its_neighbours() {
        let cases: [(&[f64], f64, Option<f64>); 7] = [
            (&[], 0.5, None),
            (&[3.0], 0.99, Some(3.0)),
            (&[1.0, 2.0], 0.5, Some(1.5)),
            (&[1.0, 2.0, 3.0, 4.0, 5.0], 0.5, Some(3.0)),
            (&[0.0, 10.0, 20.0, 30.0, 40.0], 0.95, Some(38.0)),
            (&[1.0, 2.0, 3.0], 0.0, Some(1.0)),
            (&[1.0, 2.0, 3.0], 1.0, Some(3.0)),
        ];
        for (sorted, q, expected) in cases {
            assert_eq!(quantile(sorted, q), expected, "{q} of {sorted:?}");
        }
    }

    #[test]
    fn what_was_scheduled_in_the_warm_up_or_after_the_window_does_not_count() {
        let observations = [failed(9.9), answered(10.0, 50.0, &[10.0]), answered(19.9, 70.0, &[10.0]), failed(20.0)];
        assert_eq!(summarise(&observations, WINDOW, SLO).samples, 2);
        assert_eq!(metric(&observations, "error_rate"), Some(0.0));
        assert_eq!(metric(&observations, "ttft_p50_ms"), Some(60.0));
        assert_eq!(metric(&observations, "e2e_p50_ms"), Some(70.0));
    }

    #[test]
    fn a_request_is_good_only_within_both_limits() {
        let observations = [
            answered(11.0, 100.0, &[100.0]),
            answered(12.0, 100.1, &[10.0]),
            answered(13.0, 50.0, &[150.1]),
            failed(14.0),
        ];
        assert_eq!(metric(&observations, "goodput_per_s"), Some(0.1));
        assert_eq!(metric(&observations, "error_rate"), Some(0.25));
    }

    #[test]
    fn without_an_answer_there_is_no_latency_and_no_good_request() {
        let metrics = summarise(&[failed(11.0), failed(12.0)], WINDOW, SLO).metrics;
        let expected = [("error_rate", 1.0), ("goodput_per_s", 0.0), ("requests_per_s", 0.0), ("tokens_per_s", 0.0)];
        assert_eq!(metrics, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[test]
    fn a_lost_request_waits_for_the_time_out_or_longer_if_it_took_longer() {
        let late = Observation { took_s: 61.0, ..failed(13.0) };
        let observations = [answered(11.0, 50.0, &[10.0]), failed(12.0), late];
        let counted: Vec<_> = observations.iter().collect();
        assert_eq!(waits_ms(&counted, 60.0, Answer::e2e_ms), [60.0, 60_000.0, 61_000.0]);
        assert_eq!(waits_ms(&counted[1..], 60.0, Answer::e2e_ms), [0.0; 0]);
    }

    #[test]
    fn without_a_request_there_are_no_metrics() {
        assert_eq!(summarise(&[failed(1.0)], WINDOW, SLO), Summary { metrics: Metrics::new(), samples: 0 });
    }

    #[test]
    fn a_quantile_needs_an_observation_beyond_it() {
        let cases = [(1, ""), (2, "p50"), (19, "p50"), (20, "p50 p95"), (99, "p50 p95"), (100, "p50 p95 p99")];
        for (count, expected) in cases {
            let observations: Vec<Observation<Answer>> = (0..count).map(|_| answered(15.0, 20.0, &[])).collect();
            let metrics = summarise(&observations, WINDOW, SLO).metrics;
            let found: Vec<&str> =
                ["p50", "p95", "p99"].into_iter().filter(|p| metrics.contains_key(&format!("ttft_{p}_ms"))).collect();
            assert_eq!(found.join(" "), expected, "{count} observations");
            assert!(!metrics.contains_key("itl_p50_ms"), "answers of one token have no gaps");
        }
    }

    #[test]
    fn only_what_arrives_within_the_window_is_throughput() {
        // From the warm-up: two of three chunks arrive inside; from the end: one of two.
        let observations = [answered(9.0, 500.0, &[1_000.0, 1_000.0]), answered(19.0, 500.0, &[1_000.0])];
        assert_eq!(metric(&observations, "tokens_per_s"), Some(0.3));
        assert_eq!(metric(&observations, "requests_per_s"), Some(0.1));
    }

    #[test]
    fn a_server_that_counts_its_tokens_is_believed_over_the_chunks() {
        let mut observation = answered(11.0, 10.0, &[10.0]);
        if let Ok(answer) = &mut observation.outcome {
            answer.tokens = 8;
        }
        assert_eq!(metric(&[observation], "tokens_per_s"), Some(0.8));
    }

    fn observation() -> impl Strategy<Value = Observation<Answer>> {
        let gaps = proptest::collection::vec(0.0_f64..500.0, 0..20);
        (0.0_f64..30.0, 0.1_f64..5_000.0, gaps, any::<bool>()).prop_map(|(scheduled_s, ttft_ms, gaps, ok)| {
            if ok { answered(scheduled_s, ttft_ms, &gaps) } else { failed(scheduled_s) }
        })
    }

    proptest! {
        #[test]
        fn the_order_of_the_requests_does_not_matter(
            (ordered, shuffled) in proptest::collection::vec(observation(), 0..150)
                .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        ) {
            prop_assert_eq!(summarise(&ordered, WINDOW, SLO), summarise(&shuffled, WINDOW, SLO));
        }

        #[test]
        fn every_metric_is_finite_and_within_its_bounds(all in proptest::collection::vec(observation(), 0..150)) {
            let summary = summarise(&all, WINDOW, SLO);
            for (name, value) in &summary.metrics {
                prop_assert!(value.is_finite() && *value >= 0.0, "{} is {}", name, value);
            }
            if let Some(rate) = summary.metrics.get("error_rate") {
                prop_assert!(*rate <= 1.0);
            }
            if let Some(goodput) = summary.metrics.get("goodput_per_s") {
                prop_assert!(*goodput <= summary.samples as f64 / 10.0);
            }
        }

        #[test]
        fn a_higher_quantile_is_not_smaller_and_none_leaves_the_data(
            values in proptest::collection::vec(-1e6_f64..1e6, 1..100), a in 0.0_f64..1.0, b in 0.0_f64..1.0,
        ) {
            let sorted = sort(values);
            let (low, high) = (quantile(&sorted, a.min(b)).unwrap(), quantile(&sorted, a.max(b)).unwrap());
            prop_assert!(low <= high);
            prop_assert!(sorted[0] <= low && high <= sorted[sorted.len() - 1]);
        }
    }
}
