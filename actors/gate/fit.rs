//! Fit: whether a change can be judged at all: whether the noise of its measurement lets it be told, and where the service is
//! measured in place, whether it can be proven in the time and with the restarts that it has.

use super::{
    history::History,
    policy::{Circumstances, is_a_trial},
};
use crate::facts::{BenchSpec, Calibration, Domain, Held, HttpBench, InPlace, PrometheusBench, Promotion, SpeechBench};

const HOUR_S: u64 = 3600;

/// Returns what a change of a service that is measured in place waits for: a window, one that is long enough to prove it, or that
/// fewer restarts are behind it. `None` where it can begin, and where the domain is measured elsewhere.
///
/// A loan of the service waits for a window alone: it goes on in the next one.
pub fn waits_for(
    promotion: &Promotion,
    domain: &Domain,
    history: &History,
    circumstances: &Circumstances<'_>,
) -> Option<(Held, String)> {
    let in_place = domain.in_place.as_ref()?;
    let Circumstances { now_ms, utc_offset_s, scales, .. } = *circumstances;
    let (name, windows) = (&domain.name, in_place.windows_text());
    if !in_place.is_open(now_ms, utc_offset_s) {
        return Some((Held::Maintenance, format!("{name} is measured in place, in its windows alone: {windows}")));
    }
    if is_a_trial(promotion) {
        return None;
    }
    let (runs, max) = (scales.runs_min, in_place.restarts_per_hour_max);
    let restarts = history.restarts_last_hour(name, now_ms) as u64;
    if restarts + u64::from(runs.min(max)) > u64::from(max) {
        let why = format!(
            "{name} was restarted {restarts} times within an hour, a validation restarts it {runs} times at least, and {max} an \
             hour are allowed"
        );
        return Some((Held::Budget, why));
    }
    let each_s = history.run_ms(name).map_or_else(|| least_s(&domain.bench), |ms| ms.div_ceil(1000));
    let needed_s = needed_s(in_place, runs, each_s);
    if in_place.stays_open(now_ms, utc_offset_s, needed_s) {
        return None;
    }
    let why = format!(
        "to prove it takes {} min at least, {runs} runs of {each_s} s each, and the windows of {name} do not stay open for as long \
         now: {windows}",
        needed_s.div_ceil(60)
    );
    Some((Held::Maintenance, why))
}

/// Returns why no change of a service that is measured in place could ever be proven with at least so many blocks of four runs: none
/// of its windows is as long as that takes. `None` where one is, and where the domain is measured elsewhere.
pub fn never_proven(domain: &Domain, blocks_min: u32) -> Option<String> {
    let in_place = domain.in_place.as_ref()?;
    let (runs, each_s) = (blocks_min.saturating_mul(4), least_s(&domain.bench));
    let (needed_s, longest_s) = (needed_s(in_place, runs, each_s), in_place.longest_open_s());
    if longest_s > needed_s || (longest_s > 0 && in_place.stays_open(0, 0, u64::MAX)) {
        return None;
    }
    Some(format!(
        "no change could ever be proven: that takes {} min at least, {runs} runs of {each_s} s each with a restart before each and {} \
         restarts an hour (restarts_per_hour_max), and the longest window has {} min ({}): make a window longer than that, allow more \
         restarts, or ask for fewer runs (validator.blocks_min)",
        needed_s.div_ceil(60),
        in_place.restarts_per_hour_max,
        longest_s / 60,
        in_place.windows_text(),
    ))
}

/// Why a change cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unweighable {
    /// It is not known yet whether it can be; the noise of the domain has to be measured first.
    NotYet(String),
    /// Its effect would drown in the noise.
    Never(String),
}

/// Returns whether what `promotion` is claimed to bring, or the loss that has to be excluded where that is larger, can be told from
/// the noise of the domain with all the runs that a validation has.
///
/// A loan is no change. Of a service that is measured in place nobody restarts it to know its noise: its validation finds out.
pub fn weighable(
    promotion: &Promotion,
    domain: &Domain,
    history: &History,
    circumstances: &Circumstances<'_>,
) -> Result<(), Unweighable> {
    let Circumstances { now_ms, scales, .. } = *circumstances;
    let Some(known_ms) = scales.calibrated_for_s.map(|seconds| seconds.saturating_mul(1000)) else { return Ok(()) };
    if is_a_trial(promotion) || domain.in_place.is_some() {
        return Ok(());
    }
    let name = &domain.name;
    let is_of_now = |known: &&Calibration| {
        let is_of_scales = known.outcome.as_ref().map_or(true, |noise| noise.blocks == scales.blocks_max);
        is_of_scales && known.measured_by == domain.measured_by() && now_ms.saturating_sub(known.at_ms) < known_ms
    };
    let noise = match history.calibration(name).filter(is_of_now).map(|known| &known.outcome) {
        None => return Err(Unweighable::NotYet(format!("how much measurements of {name} scatter is found out first"))),
        Some(Err(why))
            if history.calibrations_failed(&domain.name, &domain.measured_by(), promotion.at_ms)
                >= scales.calibrate_attempts_max as usize =>
        {
            let times = scales.calibrate_attempts_max;
            return Err(Unweighable::Never(format!(
                "it cannot be judged: how much measurements of {name} scatter could not be found out, {times} times since it was \
                 proposed: {why}; mend that and then kloros calibrate {name}"
            )));
        }
        Some(Err(why)) => {
            let why =
                format!("how much measurements of {name} scatter could not be found out and is tried again: {why}");
            return Err(Unweighable::NotYet(why));
        }
        Some(Ok(noise)) => noise,
    };
    let claimed = promotion.fitness.filter(|fitness| fitness.is_finite()).map_or(0.0, f64::exp_m1);
    let wanted = claimed.max(scales.loss_max);
    if noise.resolves <= wanted {
        return Ok(());
    }
    let [resolves, spread, wanted] = [noise.resolves, noise.spread, wanted].map(|ratio| ratio * 100.0);
    Err(Unweighable::Never(format!(
        "it cannot be judged: measurements of {name} scatter by {spread:.1} %, so that {} blocks of runs tell effects from \
         {resolves:.1} % on, and {wanted:.1} % has to be told; measure longer (bench), allow more runs (validator.blocks_max), and \
         then kloros calibrate {name}",
        noise.blocks
    )))
}

/// Returns how long so many runs of `each_s` take where each restarts the service, which may be restarted so often an hour.
fn needed_s(in_place: &InPlace, runs: u32, each_s: u64) -> u64 {
    let full_hours = u64::from(runs.saturating_sub(1) / in_place.restarts_per_hour_max.max(1));
    u64::from(runs).saturating_mul(each_s).max(full_hours * HOUR_S)
}

/// Returns how long a run takes at least, in seconds, where none was seen yet.
fn least_s(bench: &BenchSpec) -> u64 {
    match bench {
        BenchSpec::OpenaiChat { warmup_s, window_s, .. }
        | BenchSpec::Http(HttpBench { warmup_s, window_s, .. })
        | BenchSpec::Prometheus(PrometheusBench { warmup_s, window_s, .. })
        | BenchSpec::OpenaiSpeech(SpeechBench { warmup_s, window_s, .. }) => (warmup_s + window_s).ceil() as u64,
        BenchSpec::Command { .. } => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{Authority, Autonomy, DeploymentId, Estimate, ExperimentId, Loan, Noise, Origin, PromotionId},
        gate::Scales,
        testing::{domain, in_place, promotion},
    };

    const SCALES: Scales = Scales {
        runs_min: 24,
        blocks_max: 60,
        loss_max: 0.05,
        calibrated_for_s: Some(86_400),
        calibrate_attempts_max: 2,
    };

    const MINUTE_MS: u64 = 60_000;

    /// Midnight of the first day of 1970, a Thursday.
    const MIDNIGHT_MS: u64 = 0;

    fn history(restarts_ms: impl IntoIterator<Item = u64>) -> History {
        let mut history = History::default();
        let id = DeploymentId::new("l-1");
        history.lent(&Loan {
            id: id.clone(),
            experiment: ExperimentId::new("x-1"),
            promotion: PromotionId::new("p-1"),
            domain: "lab".to_owned(),
            authority: Authority::Policy(Autonomy::Full),
            at_ms: 0,
        });
        restarts_ms.into_iter().for_each(|at_ms| history.restarted(&id, at_ms));
        history.returned(&id);
        history
    }

    fn waits(window: &str, history: &History, now_ms: u64, runs_min: u32) -> Option<(Held, String)> {
        let catalogue = in_place(window);
        let level = Autonomy::Full;
        let now = Circumstances { level, stop: None, now_ms, utc_offset_s: 0, scales: Scales { runs_min, ..SCALES } };
        waits_for(&promotion(&[("SEQS", 8)]), &catalogue.domains["lab"], history, &now)
    }

    #[test]
    fn a_change_begins_where_its_window_is_long_enough_to_prove_it() {
        // Five candidates, two minutes apart, some time ago: 24 runs take 48 minutes.
        let seen = history((0..5).map(|number| number * 2 * MINUTE_MS));
        let later = MIDNIGHT_MS + 10 * 60 * MINUTE_MS;
        for (window, begins) in [
            ("10:00-10:49", true),
            ("10:00-10:47", false),
            ("thu", true),
            ("10:30-12:00", false),
            ("09:00-10:10", false),
        ] {
            let waits = waits(window, &seen, later, 24);
            let is_told = waits.as_ref().is_some_and(|(held, why)| *held == Held::Maintenance && why.contains(window));
            assert_eq!((waits.is_none(), is_told), (begins, !begins), "{window} {waits:?}");
        }
    }

    #[test]
    fn where_no_run_was_seen_yet_the_bench_says_what_it_takes_at_least() {
        assert_eq!(waits("00:00-00:01", &History::default(), MIDNIGHT_MS, 24), None);
        let (held, why) = waits("00:00-00:01", &History::default(), MIDNIGHT_MS, 240).unwrap();
        assert_eq!(held, Held::Maintenance);
        assert!(why.contains("240 runs of 1 s each"), "{why}");
    }

    #[test]
    fn restarts_of_the_hour_are_not_spent_twice() {
        let now_ms = 10 * 60 * MINUTE_MS;
        for (restarts, runs, waited) in [(6, 24, false), (7, 24, true), (0, 100, false), (1, 100, true)] {
            let seen = history((0..restarts).map(|number| now_ms - 30 * MINUTE_MS + number * 1000));
            let waits = waits("thu", &seen, now_ms, runs);
            let is_told = waits.as_ref().is_some_and(|(held, why)| *held == Held::Budget && why.contains("30 an hour"));
            assert_eq!(is_told, waited, "{restarts} {runs} {waits:?}");
        }
    }

    #[test]
    fn more_runs_than_an_hour_allows_take_more_than_an_hour() {
        assert_eq!(waits("00:00-02:00", &History::default(), MIDNIGHT_MS, 60), None);
        assert!(waits("00:00-00:59", &History::default(), MIDNIGHT_MS, 60).is_some());
    }

    #[test]
    fn windows_that_are_all_shorter_than_a_proof_takes_are_known_before_they_come() {
        for (window, restarts_per_hour_max, blocks_min, is_refused) in [
            ("02:00-05:00", 6, 6, true),
            ("02:00-05:01", 6, 6, false),
            ("02:00-05:00", 12, 6, false),
            ("00:00-00:01", 30, 6, false),
            ("00:00-00:01", 1000, 20, true),
            ("mon-sun", 1, 1000, false),
        ] {
            let mut domain = in_place(window).domains["lab"].clone();
            domain.in_place.as_mut().unwrap().restarts_per_hour_max = restarts_per_hour_max;
            let why = never_proven(&domain, blocks_min);
            assert_eq!(why.is_some(), is_refused, "{window} {restarts_per_hour_max} {blocks_min} {why:?}");
            assert!(why.is_none_or(|why| why.contains(window) && why.contains("validator.blocks_min")));
        }
        assert_eq!(never_proven(&domain("lab"), 1000), None);
    }

    #[test]
    fn a_loan_waits_for_a_window_alone() {
        let catalogue = in_place("00:00-00:01");
        let mut trial = promotion(&[("SEQS", 8)]);
        trial.origin = Origin::Trials(ExperimentId::new("x-1"));
        let level = Autonomy::Full;
        let scales = Scales { runs_min: 10_000, ..SCALES };
        let now = |now_ms| Circumstances { level, stop: None, now_ms, utc_offset_s: 0, scales };
        let waits = |now_ms| waits_for(&trial, &catalogue.domains["lab"], &History::default(), &now(now_ms));
        assert_eq!(waits(MIDNIGHT_MS), None);
        assert!(waits(2 * MINUTE_MS).is_some());
    }

    fn known(resolves: f64) -> Calibration {
        let improvement = Estimate { ratio: 0.0, low: -0.01, high: 0.01 };
        let noise = Noise { spread: 0.03, freedom: 9, improvement, resolves, blocks: 60, runs: 12, samples: 600 };
        Calibration {
            domain: "lab".to_owned(),
            measured_by: domain("lab").measured_by(),
            outcome: Ok(noise),
            at_ms: 1000,
        }
    }

    fn weigh(
        known: Option<&Calibration>,
        fitness: Option<f64>,
        scales: Scales,
        now_ms: u64,
    ) -> Result<(), Unweighable> {
        let mut history = History::default();
        if let Some(known) = known {
            history.calibrated(known);
        }
        let promotion = Promotion { fitness, ..promotion(&[("SEQS", 8)]) };
        let now = Circumstances { level: Autonomy::Full, stop: None, now_ms, utc_offset_s: 0, scales };
        weighable(&promotion, &domain("lab"), &history, &now)
    }

    #[test]
    fn a_change_is_judged_where_what_it_claims_or_the_loss_to_exclude_can_be_told() {
        for (resolves, fitness, is_fit) in [
            (0.02, Some(0.1), true),
            (0.05, None, true),
            (0.051, None, false),
            (0.051, Some(0.01), false),
            (0.3, Some(0.3_f64), true),
            (0.4, Some(0.3), false),
            (0.4, Some(f64::INFINITY), false),
            (0.4, Some(f64::NAN), false),
        ] {
            let weighed = weigh(Some(&known(resolves)), fitness, SCALES, 2000);
            assert_eq!(weighed.is_ok(), is_fit, "{resolves} {fitness:?} {weighed:?}");
            assert!(is_fit || matches!(&weighed, Err(Unweighable::Never(why)) if why.contains("cannot be judged")));
        }
    }

    #[test]
    fn noise_that_is_not_known_of_this_measurement_now_is_found_out_first() {
        let not_yet = |weighed| matches!(weighed, Err(Unweighable::NotYet(_)));
        let other = Calibration { measured_by: "another".to_owned(), ..known(0.02) };
        let failed = Calibration { outcome: Err("it did not start".to_owned()), ..known(0.02) };
        assert!(not_yet(weigh(None, Some(0.3), SCALES, 2000)));
        assert!(not_yet(weigh(Some(&other), Some(0.3), SCALES, 2000)));
        assert!(not_yet(weigh(Some(&failed), Some(0.3), SCALES, 2000)));
        assert!(not_yet(weigh(Some(&known(0.02)), Some(0.3), SCALES, 1000 + 86_400_000)));
        assert!(not_yet(weigh(Some(&known(0.02)), Some(0.3), Scales { blocks_max: 80, ..SCALES }, 2000)));
        assert_eq!(weigh(None, Some(0.3), Scales { calibrated_for_s: None, ..SCALES }, 2000), Ok(()));
    }

    /// It was tried again every ten minutes for a week.
    #[test]
    fn noise_that_cannot_be_found_out_is_not_tried_to_be_for_ever() {
        let failed = |at_ms| Calibration { outcome: Err("it did not start".to_owned()), at_ms, ..known(0.02) };
        let other = |at_ms| Calibration { measured_by: "another".to_owned(), ..failed(at_ms) };
        let good = |at_ms| Calibration { at_ms, ..known(0.02) };
        let proposed = Promotion { at_ms: 1000, ..promotion(&[("SEQS", 8)]) };
        let [earlier, one, two, three] = [999, 1000, 2000, 3000];
        for (seen, is_over) in [
            (vec![failed(one)], false),
            (vec![failed(one), failed(two)], true),
            (vec![failed(one), failed(one)], false),
            (vec![other(one), failed(two)], false),
            (vec![failed(one), good(two), failed(three)], false),
            (vec![failed(earlier), failed(two)], false),
            (vec![failed(earlier), failed(one), failed(two)], true),
        ] {
            let mut history = History::default();
            for calibration in &seen {
                history.calibrated(calibration);
            }
            let level = Autonomy::Full;
            let now = Circumstances { level, stop: None, now_ms: 4000, utc_offset_s: 0, scales: SCALES };
            let weighed = weighable(&proposed, &domain("lab"), &history, &now);
            let is_told = matches!(&weighed, Err(Unweighable::Never(why)) if why.contains("it did not start"));
            assert_eq!(is_told, is_over, "{seen:?} {weighed:?}");
        }
    }

    #[test]
    fn what_is_measured_in_place_is_not_restarted_to_know_its_noise_and_a_loan_is_no_change() {
        let now = Circumstances { level: Autonomy::Full, stop: None, now_ms: 0, utc_offset_s: 0, scales: SCALES };
        let history = History::default();
        assert_eq!(weighable(&promotion(&[("SEQS", 8)]), &in_place("thu").domains["lab"], &history, &now), Ok(()));
        let loan = Promotion { origin: Origin::Trials(ExperimentId::new("x-1")), ..promotion(&[("SEQS", 8)]) };
        assert_eq!(weighable(&loan, &domain("lab"), &history, &now), Ok(()));
    }
}
