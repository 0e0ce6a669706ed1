//! What holds of a detector whatever it hears.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use kloros_detection::{Detector, Finding, Kind, Setup};
use proptest::prelude::*;

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Gauge), Just(Kind::Counter)]
}

/// Setups, sound and absurd.
fn setups() -> impl Strategy<Value = Setup> {
    let steps = prop_oneof![Just(None), Just(Some(60.0)), any::<f64>().prop_map(Some),];
    (kinds(), steps, prop_oneof![0_u32..50, any::<u32>()]).prop_map(|(kind, step, warmup)| Setup { kind, step, warmup })
}

/// Rows: steady ones, and anything at all.
fn rows() -> impl Strategy<Value = Vec<(Option<f64>, Option<f64>)>> {
    let at = prop_oneof![3 => (0.0..1e7_f64).prop_map(Some), 1 => prop::num::f64::ANY.prop_map(Some), 1 => Just(None)];
    let value = prop_oneof![
        4 => (0.0..100.0_f64).prop_map(Some),
        1 => Just(Some(7.0)),
        1 => prop::num::f64::ANY.prop_map(Some),
        1 => Just(None),
    ];
    prop::collection::vec((at, value), 0..300)
}

fn is_sound(finding: &Finding) -> bool {
    (0.0..=1.0).contains(&finding.score)
        && finding.alarm == (finding.score >= 0.5)
        && finding.off.is_finite()
        && finding.expected.is_none_or(f64::is_finite)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_rows_at_all_are_answered_soundly(setup in setups(), rows in rows()) {
        let mut detector = Detector::new(setup);
        for (at, value) in rows {
            let finding = detector.observe(at, value);
            prop_assert!(is_sound(&finding), "{:?}", finding);
        }
    }

    #[test]
    fn a_detector_that_is_written_out_and_read_back_goes_on_bit_for_bit(
        setup in setups().prop_filter("JSON has finite numbers", |setup| setup.step.is_none_or(f64::is_finite)),
        rows in rows(),
        at in any::<prop::sample::Index>(),
    ) {
        let cut = at.index(rows.len() + 1);
        let mut through = Detector::new(setup);
        for (at, value) in &rows[..cut] {
            through.observe(*at, *value);
        }
        let text = serde_json::to_string(&through).unwrap();
        let mut restored: Detector = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&restored, &through);
        for (at, value) in &rows[cut..] {
            let (one, other) = (through.observe(*at, *value), restored.observe(*at, *value));
            prop_assert_eq!(one.score.to_bits(), other.score.to_bits());
            prop_assert_eq!(one, other);
        }
        prop_assert_eq!(serde_json::to_string(&restored).unwrap(), serde_json::to_string(&through).unwrap());
    }

    #[test]
    fn nothing_is_raised_in_the_warm_up(rows in rows(), kind in kinds()) {
        let mut detector = Detector::new(Setup { kind, step: None, warmup: 400 });
        for (at, value) in rows {
            prop_assert!(!detector.observe(at, value).alarm);
        }
    }

    #[test]
    fn lesson_41_what_is_unlike_its_past_does_not_depend_on_the_unit(
        factor in prop_oneof![Just(1024.0_f64), Just(1.0 / 65536.0)],
        noise in prop::collection::vec(-1.0..1.0_f64, 400..500),
        size in 0.0..40.0_f64,
    ) {
        let setup = Setup { kind: Kind::Gauge, step: Some(60.0), warmup: 200 };
        let (mut one, mut other) = (Detector::new(setup), Detector::new(setup));
        for (row, noise) in noise.iter().enumerate() {
            let value = 100.0 + noise + if row > 300 { size } else { 0.0 };
            let at = Some(row as f64 * 60.0);
            let (here, there) = (one.observe(at, Some(value)), other.observe(at, Some(value * factor)));
            prop_assert_eq!(here.alarm, there.alarm);
        }
    }
}

#[test]
fn lesson_26_a_series_takes_a_kibibyte_at_most_and_points_nowhere() {
    assert!(std::mem::size_of::<Detector>() <= 1024, "{} bytes", std::mem::size_of::<Detector>());
    assert!(!std::mem::needs_drop::<Detector>(), "nothing is held beside it");
}
