//! What a detector makes of series that everybody can judge.

use kloros_detection::{Cause, Detector, Finding, Kind, Setup};

const WARMUP: u32 = 300;

/// Returns noise that is the same each time, from -1 to 1.
fn noise(row: usize) -> f64 {
    let mut bits = (row as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits ^= bits >> 32;
    bits = bits.wrapping_mul(0xd6e8_feb8_6659_fd93);
    bits ^= bits >> 32;
    (bits >> 11) as f64 / (1_u64 << 53) as f64 * 2.0 - 1.0
}

fn findings(kind: Kind, rows: usize, value: impl Fn(usize) -> Option<f64>) -> Vec<Finding> {
    let mut detector = Detector::new(Setup { kind, step: Some(60.0), warmup: WARMUP });
    (0..rows).map(|row| detector.observe(Some(1.7e9 + row as f64 * 60.0), value(row))).collect()
}

fn alarms(findings: &[Finding]) -> Vec<usize> {
    findings.iter().enumerate().filter(|(_, finding)| finding.alarm).map(|(row, _)| row).collect()
}

/// Fails unless there is one alarm in the rows of the fault, of this cause if one is named, and none elsewhere.
#[track_caller]
fn check(findings: &[Finding], fault: std::ops::Range<usize>, cause: Option<Cause>) {
    let alarms = alarms(findings);
    assert_eq!(alarms.len(), 1, "one event is one alarm: {alarms:?}");
    assert!(fault.contains(&alarms[0]), "{alarms:?} is not in {fault:?}");
    if let Some(cause) = cause {
        assert_eq!(findings[alarms[0]].cause, cause);
    }
}

#[test]
fn a_quiet_series_raises_nothing() {
    for value in [0.0, 1.0, -3.5, 1e12] {
        assert_eq!(alarms(&findings(Kind::Gauge, 3000, |_| Some(value))), [0; 0], "constant {value}");
    }
    assert_eq!(alarms(&findings(Kind::Gauge, 3000, |row| Some(50.0 + noise(row)))), [0; 0]);
    assert_eq!(alarms(&findings(Kind::Counter, 3000, |row| Some(row as f64 * 10.0))), [0; 0]);
}

#[test]
fn lesson_18_a_fault_that_lasts_is_one_alarm_and_not_one_a_row() {
    let shifted = findings(Kind::Gauge, 1500, |row| Some(50.0 + noise(row) + if row >= 1000 { 12.0 } else { 0.0 }));
    check(&shifted, 1000..1004, None);
    assert!(shifted[1002].open, "the incident goes on");
    assert!(!shifted[1499].open, "what lasts becomes the normal");
}

#[test]
fn a_spike_is_found_in_its_row_and_the_baseline_is_not_poisoned() {
    let spiked = findings(Kind::Gauge, 1300, |row| Some(50.0 + noise(row) + if row == 1000 { 40.0 } else { 0.0 }));
    check(&spiked, 1000..1002, Some(Cause::Spike));
    let expected = spiked[1002].expected.expect("a value was expected");
    assert!((expected - 50.0).abs() < 2.0, "{expected} is expected after the spike");
}

#[test]
fn a_leak_is_found_though_no_step_of_it_is_large() {
    let leak = |row: usize| row.saturating_sub(1000) as f64 * 0.08;
    let findings = findings(Kind::Gauge, 1400, |row| Some(500.0 + noise(row) + leak(row)));
    let alarms = alarms(&findings);
    assert!(alarms.first().is_some_and(|row| (1000..1150).contains(row)), "{alarms:?}");
}

#[test]
fn a_series_that_stops_moving_is_flat_and_one_that_stops_coming_is_missing() {
    let flat = findings(Kind::Gauge, 1300, |row| Some(if row < 1000 { 50.0 + noise(row) } else { 50.2 }));
    check(&flat, 1001..1010, Some(Cause::Flat));
    let gone = findings(Kind::Gauge, 1100, |row| (!(1000..1040).contains(&row)).then(|| 50.0 + noise(row)));
    check(&gone, 1001..1010, Some(Cause::Missing));
}

#[test]
fn a_counter_that_stalls_is_found_and_one_that_begins_anew_is_not() {
    let count = |row: usize| (0..row).map(|row| (100.0 + 10.0 * noise(row)).round()).sum::<f64>();
    let stalled = findings(Kind::Counter, 1100, |row| Some(count(row.min(1000))));
    check(&stalled, 1000..1010, None);
    let reset =
        findings(Kind::Counter, 1500, |row| Some(if row < 1000 { count(row) } else { count(row) - count(999) }));
    assert_eq!(alarms(&reset), [0; 0], "a reset masks one row");
}

#[test]
fn a_failed_scrape_changes_nothing_but_the_count_of_what_is_missing() {
    let value = |row: usize| 50.0 + noise(row) + if row == 1100 { 30.0 } else { 0.0 };
    let setup = Setup { kind: Kind::Gauge, step: Some(60.0), warmup: WARMUP };
    let (mut whole, mut holed) = (Detector::new(setup), Detector::new(setup));
    for row in 0..1200 {
        let at = Some(1.7e9 + row as f64 * 60.0);
        let whole = whole.observe(at, Some(value(row)));
        if row % 97 == 96 {
            for absent in [None, Some(f64::NAN), Some(f64::INFINITY)] {
                assert!(!holed.observe(at, absent).alarm);
            }
        }
        let holed = holed.observe(at, Some(value(row)));
        assert_eq!((whole.expected, whole.off), (holed.expected, holed.off), "row {row}");
    }
}

#[test]
fn what_comes_each_day_is_normal_and_what_comes_at_another_hour_is_not() {
    // Rows of five minutes; a job from two to three each night, and once at noon.
    let mut detector = Detector::new(Setup { kind: Kind::Gauge, step: Some(300.0), warmup: 750 });
    let mut alarms = Vec::new();
    for row in 0..288 * 12 {
        let of_day = row % 288;
        let job = (24..36).contains(&of_day) || (row / 288 == 10 && (144..156).contains(&of_day));
        let value = 20.0 + noise(row) + if job { 30.0 } else { 0.0 };
        if detector.observe(Some(row as f64 * 300.0), Some(value)).alarm {
            alarms.push(row);
        }
    }
    let late: Vec<usize> = alarms.into_iter().filter(|row| *row >= 288 * 8).collect();
    assert!(!late.is_empty() && late.iter().all(|row| (288 * 10 + 144..288 * 10 + 160).contains(row)), "{late:?}");
}

#[test]
fn the_rows_of_a_fault_do_not_teach_that_the_next_one_is_ordinary() {
    let fault = |row: usize| row % 800 < 40 && row >= 800;
    let wild = findings(Kind::Gauge, 2200, |row| Some(50.0 + noise(row) * if fault(row) { 5.0 } else { 1.0 }));
    let alarms = alarms(&wild);
    assert_eq!(alarms.len(), 2, "each of two faults is told once: {alarms:?}");
    assert!(alarms.iter().all(|row| fault(*row)), "{alarms:?}");
}

#[test]
fn a_surge_of_the_load_is_told_by_the_load() {
    let load = findings(Kind::Gauge, 1010, |row| Some(100.0 + noise(row) + if row >= 1000 { 80.0 } else { 0.0 }));
    assert!(!load[999].is_surge() && load[1000].is_surge() && load[1004].is_surge());
}

#[test]
fn a_clock_that_runs_backwards_and_gaps_are_taken_as_they_come() {
    let mut detector = Detector::new(Setup { kind: Kind::Counter, step: None, warmup: 100 });
    for row in 0..2000_u32 {
        let at = match row % 50 {
            7 => -1e6,
            13 => 0.0,
            21 => 1e9,
            _ => f64::from(row) * 60.0,
        };
        let finding = detector.observe(Some(at), Some(f64::from(row) * 5.0));
        assert!((0.0..=1.0).contains(&finding.score));
    }
}
