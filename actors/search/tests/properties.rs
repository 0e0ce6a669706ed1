//! What holds for every space, every sequence of outcomes and every interruption.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;

use kloros_search::{
    Candidate, Config, Constraint, Earlier, Kind, Limit, Options, Outcome, Param, Search, Space, SpaceSpec, Value, When,
};
use proptest::prelude::*;

fn kind() -> impl Strategy<Value = Kind> {
    let texts = |count: usize| (0..count).map(|index| Value::Text(format!("choice {index}"))).collect::<Vec<_>>();
    prop_oneof![
        (-10.0..10.0_f64, 0.0..20.0_f64, prop::option::of(0.01..30.0_f64)).prop_map(|(low, width, step)| Kind::Float {
            low,
            high: low + width,
            log: false,
            step
        }),
        (0.001..10.0_f64, 1.0..1e6_f64, prop::option::of(0.1..10.0_f64)).prop_map(|(low, ratio, step)| Kind::Float {
            low,
            high: low * ratio,
            log: true,
            step
        }),
        (-100..100_i64, 0..1000_i64, prop::option::of(1..50_i64)).prop_map(|(low, width, step)| Kind::Integer {
            low,
            high: low + width,
            log: false,
            step
        }),
        (1..100_i64, 0..100_000_i64, prop::option::of(1..50_i64)).prop_map(|(low, width, step)| Kind::Integer {
            low,
            high: low + width,
            log: true,
            step
        }),
        (1..5_usize).prop_map(move |count| Kind::Categorical { choices: texts(count) }),
        (1..6_i64)
            .prop_map(|count| Kind::Ordinal { choices: (0..count).map(|level| Value::Integer(1 << level)).collect() }),
        Just(Kind::Bool),
    ]
}

/// A space of up to seven parameters: the first a switch on which some depend, two with a constraint, one combination
/// forbidden.
fn space() -> impl Strategy<Value = Space> {
    let low_high = (0..20_i64, 0..20_i64, 0..30_i64, prop::option::of(0..40_i64));
    (prop::collection::vec((kind(), any::<bool>()), 0..5), low_high, any::<bool>()).prop_map(
        |(kinds, (low, width, more, spare), constrained)| {
            let named = |name: &str, kind| Param { name: name.to_owned(), kind, when: None };
            let mut params = vec![named("switch", Kind::Bool)];
            for (index, (kind, depends)) in kinds.into_iter().enumerate() {
                let when = When { param: "switch".to_owned(), r#in: vec![Value::Bool(true)] };
                params.push(Param { when: depends.then_some(when), ..named(&format!("p{index}"), kind) });
            }
            let mut constraints = Vec::new();
            let (mut forbidden, mut limits) = (Vec::new(), Vec::new());
            if constrained {
                let whole = |low, high| Kind::Integer { low, high, log: false, step: None };
                params.push(named("least", whole(low, low + width)));
                params.push(named("most", whole(low, low + more)));
                constraints.push(Constraint { left: "least".to_owned(), right: "most".to_owned() });
                let least = ("least".to_owned(), Value::Integer(low));
                forbidden.push(Config::from([("switch".to_owned(), Value::Bool(false)), least]));
            }
            // One more than the smallest values come to, so that what is forbidden does not leave nothing.
            if let Some(spare) = spare.filter(|_| constrained) {
                let each = [("least".to_owned(), 1.0), ("most".to_owned(), 2.0)].into();
                limits.push(Limit { each, max: (3 * low + spare + 1) as f64 });
            }
            Space::new(SpaceSpec { params, constraints, forbidden, limits }).expect("a valid space")
        },
    )
}

/// What a measurement of a candidate comes to, decided by its place and the kind of trouble.
fn outcome(candidate: &Candidate, trouble: u8) -> Outcome {
    let text = format!("{:?}", candidate.config);
    let value = text.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    match (trouble, value % 7) {
        (0, _) => Outcome::Value(f64::from(value) / 1e6),
        (1, 0) => Outcome::Failed,
        (1, 1) => Outcome::Value(f64::NAN),
        (1, 2) => Outcome::Value(f64::INFINITY),
        (1, 3) => Outcome::Value(1e300),
        (1, 4) => Outcome::Value(-1e300),
        (2, _) => Outcome::Failed,
        (3, _) => Outcome::Value(1.5),
        _ => Outcome::Value(f64::from(value % 1000)),
    }
}

/// Runs the search to its end and returns everything it asked. `resumed` says before which steps it is written out and
/// read back.
fn run(mut search: Search, trouble: u8, at_most: u32, resumed: &dyn Fn(usize) -> bool) -> (Vec<Candidate>, Search) {
    let mut asked = Vec::new();
    let mut step = 0;
    loop {
        let lot = search.ask(at_most);
        if lot.is_empty() {
            return (asked, search);
        }
        for candidate in lot {
            step += 1;
            if resumed(step) {
                let text = serde_json::to_string(&search).unwrap();
                search = serde_json::from_str(&text).unwrap();
                // What is open is asked again, the same; an answer that was lost with a kill is simply told now.
                assert!(search.ask(u32::MAX).contains(&candidate));
            }
            search.tell(candidate.id, outcome(&candidate, trouble)).unwrap();
            asked.push(candidate);
        }
    }
}

fn options(budget: u32, batch: u32, seed: u64) -> Options {
    Options { budget, batch, seed, ..Options::default() }
}

/// Returns a setting of the space, drawn by a search that has nothing else to go by.
fn any_setting(space: &Space, seed: u64) -> Option<Config> {
    let (asked, _) = run(Search::new(space.clone(), options(6, 6, seed)), 0, 6, &|_| false);
    asked.into_iter().next_back().map(|candidate| candidate.config)
}

/// Whether two settings differ at most in the last digits of a number, which are lost on the way to a coordinate and back.
fn is_same(one: &Config, other: &Config) -> bool {
    let is_near = |one: &Value, other: &Value| match (one, other) {
        (Value::Float(one), Value::Float(other)) => (one - other).abs() <= 1e-12 * one.abs().max(1.0),
        _ => one == other,
    };
    one.len() == other.len()
        && one.iter().zip(other).all(|((name, one), (other_name, other))| name == other_name && is_near(one, other))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_candidate_is_valid_and_none_is_asked_twice(
        space in space(), budget in 0..18_u32, batch in 0..7_u32, seed: u64, trouble in 0..5_u8, noisy: bool,
    ) {
        let search = Search::new(space.clone(), Options { noisy, ..options(budget, batch, seed) });
        let (asked, search) = run(search, trouble, 5, &|_| false);
        prop_assert!(asked.len() <= budget as usize);
        prop_assert_eq!(search.remaining(), 0);
        for (candidate, id) in asked.iter().zip(1..) {
            prop_assert!(space.contains(&candidate.config), "{:?}", candidate.config);
            prop_assert_eq!(candidate.id, id);
        }
        let distinct: BTreeSet<String> = asked.iter().map(|candidate| format!("{:?}", candidate.config)).collect();
        prop_assert!(noisy || distinct.len() == asked.len());
        if let Some(found) = search.recommendation() {
            prop_assert!(space.contains(&found.config));
            prop_assert!(found.mean.is_finite(), "{found:?}");
            prop_assert!(found.interval.0 <= found.mean && found.mean <= found.interval.1, "{found:?}");
        }
    }

    #[test]
    fn a_search_killed_at_every_step_asks_what_it_would_have_asked(
        space in space(), batch in 1..6_u32, seed: u64, trouble in 0..5_u8, noisy: bool,
    ) {
        let search = || Search::new(space.clone(), Options { noisy, ..options(15, batch, seed) });
        let (whole, at_end) = run(search(), trouble, 4, &|_| false);
        let (pieces, resumed) = run(search(), trouble, 4, &|_| true);
        prop_assert_eq!(&whole, &pieces);
        prop_assert_eq!(at_end.recommendation(), resumed.recommendation());
        for kill in 1..=whole.len() {
            let (once, _) = run(search(), trouble, 4, &|step| step == kill);
            prop_assert_eq!(&whole, &once);
        }
    }

    /// A narrow valley draws a search to one point; lesson 40: a search that goes there alone has one candidate a lot.
    #[test]
    fn no_lot_collapses_to_near_duplicates(
        dims in 1..4_usize, budget in 8..24_u32, batch in 1..7_u32, seed: u64, bottom in 0.0..1.0_f64, noisy: bool,
    ) {
        let param = |index: usize| Param {
            name: format!("p{index}"),
            kind: Kind::Float { low: 0.0, high: 1.0, log: false, step: None },
            when: None,
        };
        let params = (0..dims).map(param).collect();
        let space = Space::new(SpaceSpec { params, ..SpaceSpec::default() }).unwrap();
        let mut search = Search::new(space, Options { noisy, ..options(budget, batch, seed) });
        let mut asked: Vec<Vec<f64>> = Vec::new();
        loop {
            let lot = search.ask(u32::MAX);
            if lot.is_empty() {
                break;
            }
            for candidate in lot {
                let point: Vec<f64> = candidate.config.values().filter_map(Value::number).collect();
                let is_far = |other: &Vec<f64>| other.iter().zip(&point).any(|(one, other)| (one - other).abs() > 0.0019);
                prop_assert!(noisy && asked.contains(&point) || asked.iter().all(is_far), "{point:?} beside {asked:?}");
                let depth: f64 = point.iter().map(|at| (at - bottom).powi(2)).sum();
                asked.push(point);
                search.tell(candidate.id, Outcome::Value(depth)).unwrap();
            }
        }
    }

    #[test]
    fn any_setting_as_the_default_is_taken_to_a_valid_one(space in space(), value in any::<f64>(), whole in any::<i64>()) {
        let odd = |index: usize| [Value::Float(value), Value::Integer(whole), Value::Text("?".to_owned()), Value::Bool(true)][index % 4].clone();
        let params = &space.spec().params;
        let default: Config = params.iter().enumerate().map(|(index, param)| (param.name.clone(), odd(index))).collect();
        let mut search = Search::new(space.clone(), Options { default: Some(default), ..options(3, 1, 0) });
        for candidate in search.ask(1) {
            prop_assert!(space.contains(&candidate.config));
        }
    }

    /// Once a setting was encoded with the inactive parameters at the middle, and asked with them where the default has them.
    #[test]
    fn with_a_default_every_measured_setting_has_a_gain_and_a_search_goes_on_from_what_was_recorded(
        space in space(), batch in 1..5_u32, seed: u64, trouble in 0..5_u8, noisy: bool, told in 0..15_usize,
    ) {
        let Some(default) = any_setting(&space, seed) else { return Ok(()) };
        let fresh = |batch| {
            let options = Options { default: Some(default.clone()), noisy, ..options(15, batch, seed) };
            Search::new(space.clone(), options)
        };
        let (asked, search) = run(fresh(batch), trouble, 4, &|_| false);
        let (pieces, resumed) = run(fresh(batch), trouble, 4, &|_| true);
        prop_assert_eq!(&asked, &pieces);
        let is_value = |each: &Candidate| {
            matches!(outcome(each, trouble), Outcome::Value(value) if value.is_finite())
        };
        let is_default_measured = is_value(&asked[0]);
        for candidate in asked.iter().filter(|candidate| is_value(candidate)) {
            let gain = search.gain(&candidate.config);
            prop_assert_eq!(gain.is_some(), is_default_measured, "{:?}", candidate.config);
            prop_assert_eq!(gain, resumed.gain(&candidate.config));
        }

        // What was measured by other lots is recorded, and not asked again.
        let mut anew = fresh(batch % 4 + 1);
        for candidate in asked.iter().take(told) {
            prop_assert!(anew.record(&candidate.config, outcome(candidate, trouble)));
        }
        let (further, _) = run(anew, trouble, 4, &|_| false);
        for candidate in further.iter().filter(|_| !noisy) {
            let before = asked.iter().take(told).find(|before| is_same(&before.config, &candidate.config));
            prop_assert_eq!(before, None, "{:?} again", candidate.config);
        }
    }

    /// Decision 0025: no known-bad point is tried again.
    #[test]
    fn what_crashed_in_an_earlier_search_is_not_asked_again(space in space(), seed: u64, noisy: bool) {
        let Some(default) = any_setting(&space, seed) else { return Ok(()) };
        let search = |budget, warm| {
            let options = Options { default: Some(default.clone()), noisy, warm, ..options(budget, 2, seed) };
            Search::new(space.clone(), options)
        };
        let (asked, _) = run(search(12, Vec::new()), 0, 4, &|_| false);
        let crashed = |candidate: &Candidate| {
            Earlier { config: candidate.config.clone(), outcome: Outcome::Failed, age: 1.0, distance: 0.0 }
        };
        let warm: Vec<Earlier> = asked.iter().skip(1).map(crashed).collect();
        let (further, _) = run(search(12, warm.clone()), 0, 4, &|_| false);
        for candidate in &further[1..] {
            let before = warm.iter().find(|before| is_same(&before.config, &candidate.config));
            prop_assert!(before.is_none() || is_same(&candidate.config, &default), "{:?} again", candidate.config);
        }
    }
}
