//! Loans: when a service may be lent to an experiment, when that is over, and what a candidate changes.

use std::collections::BTreeMap;

use super::mapping::{Base, changes};
use crate::facts::{Domain, Fact, InPlace, Key, LoanStep, MappingProblem, Settings, Stop, says};

/// How things stand when it is asked whether a service may be lent, or stay lent.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// What was said when everything was stopped, if it is.
    pub stop: Option<&'a Stop>,
    /// The time, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// How far local time is ahead of UTC, in seconds.
    pub utc_offset_s: i32,
    /// How often candidates restarted the service in the last hour.
    pub restarts: u32,
}

/// Returns why a service is not lent now; `None` when it may be.
pub fn objection(in_place: &InPlace, now: &Circumstances<'_>) -> Option<String> {
    over(in_place, now.now_ms, now).or_else(|| {
        let max = in_place.restarts_per_hour_max;
        (now.restarts >= max)
            .then(|| format!("it was restarted {} times within an hour, {max} are allowed", now.restarts))
    })
}

/// Returns why a service that is lent since `since_ms` goes back; `None` while it may stay lent.
pub fn over(in_place: &InPlace, since_ms: u64, now: &Circumstances<'_>) -> Option<String> {
    if let Some(stop) = now.stop {
        return Some(stop.to_string());
    }
    if !in_place.is_open(now.now_ms, now.utc_offset_s) {
        return Some(format!("no maintenance window is in force: {}", in_place.windows_text()));
    }
    // A clock that went back does not lengthen it for ever.
    let is_long = now.now_ms.abs_diff(since_ms) >= in_place.session_max_s.saturating_mul(1000);
    is_long.then(|| format!("it was lent for {} s, which is the most in one go", in_place.session_max_s))
}

/// Returns what of `settings` differs from what the service of `domain` runs with by its own, each of it on the allow-list and
/// in range; nothing where they are its own.
pub fn differing(settings: &Settings, base: &Base, domain: &Domain) -> Result<Settings, MappingProblem> {
    let is_own = |key: &Key, value| base.in_effect.get(key.as_str()).is_some_and(|text| says(text, value));
    let others: Settings = settings.iter().filter(|(key, value)| !is_own(key, value)).map(owned).collect();
    match changes(&others, base, domain) {
        Ok(changes) => Ok(changes.into_iter().map(|(key, change)| (key, change.to)).collect()),
        Err(MappingProblem::NoChange) => Ok(Settings::new()),
        Err(problem) => Err(problem),
    }
}

fn owned((key, value): (&Key, &crate::facts::Value)) -> (Key, crate::facts::Value) {
    (key.clone(), value.clone())
}

/// Returns the first knob that the env file does not give the text any more that it gave it when the service was lent.
pub fn edited<'a>(base: &'a BTreeMap<Key, Option<String>>, current: &BTreeMap<Key, Option<String>>) -> Option<&'a Key> {
    base.iter().find(|(key, text)| current.get(*key) != Some(*text)).map(|(key, _)| key)
}

/// Returns how often measurements in place restarted the service of `domain` from `since_ms` on, as `facts` with their times tell, oldest
/// first: one restart a candidate, and one a run of a validation.
pub fn restarts_since(facts: &[(u64, Fact)], domain: &str, since_ms: u64) -> u32 {
    let mut of = Vec::new();
    let mut restarts = 0;
    for (at_ms, fact) in facts {
        match fact {
            Fact::Loan(loan) if loan.domain == domain => of.push(&loan.id),
            Fact::Deployment(deployment) if deployment.promotion.domain == domain => of.push(&deployment.id),
            Fact::LoanStep { loan: id, step: LoanStep::Applies { .. }, .. } | Fact::Run { deployment: id, .. }
                if *at_ms >= since_ms && of.contains(&id) =>
            {
                restarts += 1;
            }
            _ => {}
        }
    }
    restarts
}

/// Returns the objectives of `domain` that were breached while it ran with its own settings, as `facts` of anomalies and loans tell,
/// oldest first: what a candidate breached says nothing of what it found.
pub fn breached_alone(facts: &[Fact], domain: &Domain) -> Vec<String> {
    let (mut lent, mut on_trial, mut found) = (Vec::new(), false, Vec::new());
    for fact in facts {
        match fact {
            Fact::Loan(loan) if loan.domain == domain.name => lent.push(loan.id.clone()),
            Fact::LoanStep { loan, step, .. } if lent.contains(loan) => {
                on_trial = match step {
                    LoanStep::Applies { settings, .. } => !settings.is_empty(),
                    LoanStep::Ended { .. } => false,
                    LoanStep::Stuck { .. } => true,
                };
            }
            Fact::Anomaly(anomaly) if anomaly.subject == domain.name && !on_trial => {
                found.extend(anomaly.breaches(domain));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{
            Anomaly, AnomalyKind, Authority, Autonomy, CycleId, DeploymentId, Evidence, ExperimentId, FailureKind,
            Loan, Objective, PromotionId, TrialFailure, Value,
        },
        testing::{deployment_of, domain, key, promotion},
    };

    /// The 26th of November 2026, a Thursday, at noon UTC.
    const NOON_MS: u64 = 1_795_694_400_000;

    fn in_place(windows: &[&str]) -> InPlace {
        InPlace {
            windows: windows.iter().map(|text| text.parse().unwrap()).collect(),
            candidate_max_s: 60,
            session_max_s: 3600,
            restarts_per_hour_max: 10,
        }
    }

    fn at(now_ms: u64) -> Circumstances<'static> {
        Circumstances { stop: None, now_ms, utc_offset_s: 0, restarts: 0 }
    }

    #[test]
    fn a_service_is_lent_in_its_windows_by_the_clock_on_the_wall() {
        for (window, utc_offset_s, lent) in [
            ("11:00-13:00", 0, true),
            ("12:00-12:01", 0, true),
            ("12:01-13:00", 0, false),
            ("thu", 0, true),
            ("fri", 0, false),
            ("fri", 12 * 3600, true),
            ("22:00-06:00", 0, false),
            ("22:00-06:00", -7 * 3600, true),
        ] {
            let now = Circumstances { utc_offset_s, ..at(NOON_MS) };
            let objection = objection(&in_place(&["mon", window]), &now);
            assert_eq!(objection.is_none(), lent, "{window} {utc_offset_s}: {objection:?}");
        }
    }

    #[test]
    fn what_ends_a_loan_is_said_in_order_of_who_says_it() {
        let stop = Stop { why: "no".to_owned(), by_uid: Some(7) };
        let hour_ms = 3_600_000;
        for (now, since_ms, part) in [
            (at(NOON_MS), NOON_MS - hour_ms + 1, None),
            (at(NOON_MS), NOON_MS - hour_ms, Some("3600 s")),
            (at(NOON_MS), NOON_MS + 2 * hour_ms, Some("3600 s")),
            (at(NOON_MS + 6 * hour_ms), NOON_MS, Some("no maintenance window")),
            (Circumstances { stop: Some(&stop), ..at(NOON_MS + 6 * hour_ms) }, NOON_MS, Some("user 7")),
        ] {
            let over = over(&in_place(&["11:00-13:00"]), since_ms, &now);
            let is_told = |part: &str| over.as_ref().is_some_and(|why| why.contains(part));
            assert!(part.map_or(over.is_none(), is_told), "{part:?} {over:?}");
        }
    }

    #[test]
    fn a_service_that_was_restarted_often_enough_is_not_lent_and_stays_lent() {
        for (restarts, lent) in [(9, true), (10, false), (u32::MAX, false)] {
            let now = Circumstances { restarts, ..at(NOON_MS) };
            assert_eq!(objection(&in_place(&["thu"]), &now).is_none(), lent, "{restarts}");
            assert_eq!(over(&in_place(&["thu"]), NOON_MS, &now), None);
        }
    }

    fn base(file: &[(&str, Option<&str>)], in_effect: &[(&str, &str)]) -> Base {
        Base {
            file: file.iter().map(|(name, text)| (key(name), text.map(str::to_owned))).collect(),
            in_effect: in_effect.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        }
    }

    fn settings(values: &[(&str, i64)]) -> Settings {
        values.iter().map(|(name, value)| (key(name), Value::Integer(*value))).collect()
    }

    #[test]
    fn a_candidate_changes_what_the_service_does_not_run_with_by_its_own() {
        let base = base(&[("SEQS", Some("2")), ("WAIT", None)], &[("SEQS", "2"), ("WAIT", "20")]);
        for (wanted, differs) in [
            (&[("SEQS", 2), ("WAIT", 20)][..], &[][..]),
            (&[("SEQS", 2)], &[]),
            (&[("SEQS", 4), ("WAIT", 20)], &[("SEQS", 4)]),
            (&[("SEQS", 4), ("WAIT", 0)], &[("SEQS", 4), ("WAIT", 0)]),
        ] {
            assert_eq!(differing(&settings(wanted), &base, &domain("lab")).unwrap(), settings(differs), "{wanted:?}");
        }
    }

    #[test]
    fn nothing_is_tried_that_is_not_on_the_allow_list_or_beside_an_edit_that_is_not_in_effect() {
        let own = base(&[("SEQS", Some("2")), ("WAIT", None)], &[("SEQS", "2"), ("WAIT", "20")]);
        for wanted in [&[("OTHER", 1)][..], &[("SEQS", 65)], &[("SEQS", 4), ("WAIT", 101)]] {
            assert!(differing(&settings(wanted), &own, &domain("lab")).is_err(), "{wanted:?}");
        }
        let edited = base(&[("SEQS", Some("2")), ("WAIT", Some("5"))], &[("SEQS", "2"), ("WAIT", "20")]);
        let problem = differing(&settings(&[("SEQS", 4)]), &edited, &domain("lab"));
        assert!(matches!(problem, Err(MappingProblem::NotRestarted { .. })), "{problem:?}");
    }

    #[test]
    fn an_edit_of_any_knob_is_seen() {
        let base = base(&[("SEQS", Some("2")), ("WAIT", None)], &[]).file;
        for (now, is_edited) in [
            (&[("SEQS", Some("2")), ("WAIT", None)][..], None),
            (&[("SEQS", Some("3")), ("WAIT", None)], Some("SEQS")),
            (&[("SEQS", Some("2")), ("WAIT", Some("20"))], Some("WAIT")),
            (&[("SEQS", None), ("WAIT", None)], Some("SEQS")),
        ] {
            let now = now.iter().map(|(name, text)| (key(name), text.map(str::to_owned))).collect();
            assert_eq!(edited(&base, &now).map(Key::as_str), is_edited, "{now:?}");
        }
    }

    fn anomaly(metric: &str, kind: AnomalyKind, evidence: &[(&str, f64)]) -> Anomaly {
        let sign = |(metric, observed): &(&str, f64)| Evidence {
            metric: (*metric).to_owned(),
            observed: *observed,
            expected: 1.0,
            samples: 5,
            source: "a test".to_owned(),
        };
        Anomaly {
            cycle: CycleId::new("c-1"),
            subject: "lab".to_owned(),
            metric: metric.to_owned(),
            kind,
            observed: 9.0,
            expected: 1.0,
            spread: 0.0,
            score: 9.0,
            samples: 5,
            source: "a test".to_owned(),
            at_ms: 0,
            depth: 1,
            incident: String::new(),
            evidence: evidence.iter().map(sign).collect(),
            surge: None,
        }
    }

    fn with_objective(reading: &str, max: f64) -> Domain {
        let objectives = vec![Objective { reading: reading.to_owned(), max, readings: 3 }];
        Domain { objectives, ..domain("lab") }
    }

    #[test]
    fn a_breach_is_what_an_anomaly_is_about_and_what_stands_beside_it_beyond_its_limit() {
        let domain = with_objective("ttft_p95_ms", 100.0);
        for (kind, beside, breached) in [
            (AnomalyKind::Objective, 99.0, &["e2e_p95_ms"][..]),
            (AnomalyKind::Objective, 101.0, &["e2e_p95_ms", "ttft_p95_ms"]),
            (AnomalyKind::Deviation, 101.0, &["ttft_p95_ms"]),
            (AnomalyKind::Deviation, f64::NAN, &[]),
        ] {
            let anomaly = anomaly("e2e_p95_ms", kind, &[("ttft_p95_ms", beside), ("waiting", 1e9)]);
            assert_eq!(anomaly.breaches(&domain), breached, "{kind:?} {beside}");
        }
    }

    #[test]
    fn each_candidate_and_each_run_of_a_validation_is_one_restart_of_its_own_domain() {
        let deployment = deployment_of(promotion(&[("SEQS", 4)]));
        let mut elsewhere = deployment_of(promotion(&[("SEQS", 9)]));
        elsewhere.promotion.domain = "tts".to_owned();
        let run = |of: &DeploymentId| Fact::Run {
            deployment: of.clone(),
            block: 1,
            place: 1,
            candidate: true,
            outcome: Err(TrialFailure { kind: FailureKind::Died, detail: "it died".to_owned() }),
        };
        let facts = vec![
            (1, Fact::Deployment(deployment.clone())),
            (2, Fact::Deployment(elsewhere.clone())),
            (3, run(&deployment.id)),
            (4, run(&elsewhere.id)),
            (5, run(&deployment.id)),
        ];
        assert_eq!([0, 4, 6].map(|since_ms| restarts_since(&facts, "lab", since_ms)), [2, 1, 0]);
        assert_eq!(restarts_since(&facts, "tts", 0), 1);
    }

    #[test]
    fn what_a_candidate_breached_is_no_breach_of_the_services_own_settings() {
        let domain = with_objective("ttft_p95_ms", 100.0);
        let (id, experiment) = (DeploymentId::new("l-1"), ExperimentId::new("x-1"));
        let step = |step| Fact::LoanStep { loan: id.clone(), experiment: experiment.clone(), step };
        let applies = |values: &[(&str, i64)]| {
            step(LoanStep::Applies { label: "x.g1.t01".to_owned(), settings: settings(values) })
        };
        let breach = |metric: &str| Fact::Anomaly(anomaly(metric, AnomalyKind::Objective, &[]));
        let facts = [
            breach("before"),
            Fact::Loan(Loan {
                id: id.clone(),
                experiment: experiment.clone(),
                promotion: PromotionId::new("p-1"),
                domain: "lab".to_owned(),
                authority: Authority::Policy(Autonomy::Full),
                at_ms: 0,
            }),
            applies(&[]),
            breach("own"),
            applies(&[("SEQS", 9)]),
            breach("candidate"),
            step(LoanStep::Ended { why: "it is over".to_owned() }),
            breach("after"),
        ];
        assert_eq!(breached_alone(&facts, &domain), ["before", "own", "after"]);
    }
}
