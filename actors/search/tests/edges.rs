//! The odd cases, each with its stated result.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use kloros_search::{
    Candidate, Config, Earlier, Ended, Kind, Limit, Options, Outcome, Param, Search, Space, SpaceSpec, TellError,
    Value, When,
};

fn floats(dims: usize) -> Space {
    let kind = Kind::Float { low: 0.0, high: 1.0, log: false, step: None };
    let params = (0..dims).map(|index| Param { name: format!("x{index}"), kind: kind.clone(), when: None }).collect();
    Space::new(SpaceSpec { params, ..SpaceSpec::default() }).unwrap()
}

fn numbers(config: &Config) -> Vec<f64> {
    config.values().filter_map(Value::number).collect()
}

fn at(dims: usize, value: f64) -> Config {
    (0..dims).map(|index| (format!("x{index}"), Value::Float(value))).collect()
}

fn options(budget: u32, seed: u64, default: Config) -> Options {
    Options { budget, seed, default: Some(default), ..Options::default() }
}

/// Runs a search to its end and returns what it asked beside it.
fn run(mut search: Search, mut measure: impl FnMut(&Config) -> Outcome) -> (Search, Vec<Candidate>) {
    let mut asked = Vec::new();
    loop {
        let lot = search.ask(4);
        if lot.is_empty() {
            return (search, asked);
        }
        for candidate in lot {
            search.tell(candidate.id, measure(&candidate.config)).unwrap();
            asked.push(candidate);
        }
    }
}

fn bowl(config: &Config) -> f64 {
    numbers(config).iter().map(|x| (x - 0.7) * (x - 0.7)).sum()
}

#[test]
fn a_constant_objective_ends_with_the_default() {
    let (search, asked) = run(Search::new(floats(3), options(20, 1, at(3, 0.2))), |_| Outcome::Value(4.0));
    assert_eq!((asked.len(), search.ended()), (20, Some(Ended::Spent)));
    let found = search.recommendation().unwrap();
    assert_eq!((found.config, found.mean, found.gain), (at(3, 0.2), 4.0, Some(0.0)));
}

#[test]
fn the_gain_of_the_recommended_setting_is_the_one_that_is_recommended_with_it() {
    let noise = |config: &Config| (config.values().filter_map(Value::number).sum::<f64>() * 1e4).sin() * 0.02;
    for noisy in [false, true] {
        let options = Options { noisy, ..options(24, 1, at(2, 0.2)) };
        let (search, _) = run(Search::new(floats(2), options), |config| Outcome::Value(bowl(config) + noise(config)));
        let found = search.recommendation().unwrap();
        let gain = search.gain(&found.config).unwrap();
        assert!(gain.gain > 0.2 && (gain.gain - found.gain.unwrap()).abs() < 1e-9, "{gain:?} {found:?}");
        let interval = found.gain_interval.unwrap();
        assert!(
            (gain.interval.0 - interval.0).abs() + (gain.interval.1 - interval.1).abs() < 1e-9,
            "{gain:?} {found:?}"
        );
        assert_eq!(gain.noise > 0.0, noisy);
        assert_eq!(search.gain(&at(2, 0.2)).unwrap().gain, 0.0);
        assert_eq!(search.gain(&at(2, 0.123_456)), None, "it was not measured");
    }
}

#[test]
fn the_default_comes_back_to_the_last_digit() {
    let kind = Kind::Float { low: 0.07, high: 7.3, log: true, step: None };
    let param = Param { name: "x".to_owned(), kind, when: None };
    let space = Space::new(SpaceSpec { params: vec![param], ..SpaceSpec::default() }).unwrap();
    for tenths in 1..70 {
        let default: Config = [("x".to_owned(), Value::Float(f64::from(tenths) / 10.0))].into();
        let mut search = Search::new(space.clone(), options(4, 1, default.clone()));
        assert_eq!(search.ask(1)[0].config, default);
    }
}

#[test]
fn when_everything_fails_nothing_is_recommended() {
    let (search, asked) = run(Search::new(floats(3), options(20, 1, at(3, 0.2))), |_| Outcome::Failed);
    assert_eq!((asked.len(), search.recommendation()), (20, None));
}

#[test]
fn a_default_that_fails_promises_no_gain() {
    let measure = |config: &Config| if *config == at(2, 0.2) { Outcome::Failed } else { Outcome::Value(bowl(config)) };
    let (search, _) = run(Search::new(floats(2), options(12, 1, at(2, 0.2))), measure);
    assert_eq!(search.recommendation().unwrap().gain, None);
}

#[test]
fn a_space_of_one_point_is_measured_once() {
    let (search, asked) = run(Search::new(floats(0), options(9, 1, Config::new())), |_| Outcome::Value(1.0));
    assert_eq!((asked.len(), search.ended()), (1, Some(Ended::Exhausted)));
    assert_eq!(search.recommendation().unwrap().config, Config::new());
}

#[test]
fn a_small_space_is_measured_whole_and_with_noise_again() {
    let three = Kind::Integer { low: 1, high: 3, log: false, step: None };
    let param = Param { name: "workers".to_owned(), kind: three, when: None };
    let space = Space::new(SpaceSpec { params: vec![param], ..SpaceSpec::default() }).unwrap();
    let value = |config: &Config| Outcome::Value(config["workers"].number().unwrap());
    let plain = Options { budget: 10, ..Options::default() };
    let (search, asked) = run(Search::new(space.clone(), plain.clone()), value);
    assert_eq!((asked.len(), search.ended()), (3, Some(Ended::Exhausted)));
    let (search, asked) = run(Search::new(space, Options { noisy: true, ..plain }), value);
    assert_eq!((asked.len(), search.ended()), (10, Some(Ended::Spent)));
}

#[test]
fn a_budget_of_one_measures_the_default_and_a_budget_of_none_nothing() {
    let (search, asked) = run(Search::new(floats(2), options(1, 1, at(2, 0.3))), |config| Outcome::Value(bowl(config)));
    assert_eq!((asked.len(), search.recommendation().unwrap().config), (1, at(2, 0.3)));
    let (search, asked) = run(Search::new(floats(2), options(0, 1, at(2, 0.3))), |config| Outcome::Value(bowl(config)));
    assert_eq!((asked.len(), search.ended(), search.recommendation()), (0, Some(Ended::Spent), None));
}

#[test]
fn sixty_dimensions_are_searched_and_gain() {
    let (search, asked) =
        run(Search::new(floats(60), options(32, 1, at(60, 0.2))), |config| Outcome::Value(bowl(config)));
    assert_eq!(asked.len(), 32);
    assert!(search.recommendation().unwrap().gain.unwrap() > 0.0);
}

#[test]
fn an_outcome_is_told_once_and_by_an_id_that_was_asked() {
    let mut search = Search::new(floats(2), Options { batch: 2, ..options(8, 1, at(2, 0.3)) });
    assert_eq!(search.tell(1, Outcome::Failed), Err(TellError::Unknown { id: 1 }));
    let lot = search.ask(2);
    assert_eq!(lot.len(), 2);
    assert_eq!(search.tell(0, Outcome::Failed), Err(TellError::Unknown { id: 0 }));
    search.tell(2, Outcome::Value(1.0)).unwrap();
    assert_eq!(search.tell(2, Outcome::Value(2.0)), Err(TellError::Twice { id: 2 }));
    assert_eq!((search.ask(9), search.remaining()), (vec![lot[0].clone()], 7));
}

#[test]
fn a_written_search_whose_points_were_changed_is_refused() {
    let mut search = Search::new(floats(2), options(8, 1, at(2, 0.3)));
    let _ = search.ask(1);
    let text = serde_json::to_string(&search).unwrap();
    for changed in ["\"point\":[0.3]", "\"point\":[0.3,7.0]", "\"point\":[0.3,null]"] {
        let text = text.replace("\"point\":[0.3,0.3]", changed);
        assert!(serde_json::from_str::<Search>(&text).is_err(), "{text}");
    }
    assert_eq!(serde_json::from_str::<Search>(&text).unwrap(), search);
}

#[test]
fn the_search_stops_when_no_improvement_worth_the_while_is_left() {
    let limit = Options { stop_below: Some(0.01), ..options(60, 1, at(2, 0.2)) };
    let (search, asked) = run(Search::new(floats(2), limit), |config| Outcome::Value(bowl(config)));
    assert_eq!(search.ended(), Some(Ended::Stopped));
    assert!(asked.len() < 40, "{}", asked.len());
    assert!(search.recommendation().unwrap().mean < 0.02);
}

#[test]
fn what_an_earlier_search_measured_is_not_spread_out_again() {
    let found = |warm: Vec<Earlier>, seed: u64| {
        let search = Search::new(floats(5), Options { warm, ..options(8, seed, at(5, 0.1)) });
        run(search, |config| Outcome::Value(bowl(config))).0.recommendation().unwrap().mean
    };
    let mut ahead = 0;
    for seed in 0..7 {
        let (_, asked) =
            run(Search::new(floats(5), options(24, 99, at(5, 0.1))), |config| Outcome::Value(bowl(config)));
        let earlier = |candidate: Candidate| {
            let outcome = Outcome::Value(bowl(&candidate.config));
            Earlier { config: candidate.config, outcome, age: 3.0, distance: 0.1 }
        };
        let warm: Vec<Earlier> = asked.into_iter().map(earlier).collect();
        ahead += u32::from(found(warm, seed) < found(Vec::new(), seed));
    }
    assert!(ahead >= 6, "{ahead} of 7");
}

#[test]
fn an_edge_beyond_which_everything_fails_is_not_crossed_again_and_again() {
    let (mut failed, mut measured) = (0, 0);
    for seed in 0..8 {
        let beyond = |config: &Config| numbers(config)[..2].iter().sum::<f64>() > 1.6;
        let measure = |config: &Config| if beyond(config) { Outcome::Failed } else { Outcome::Value(bowl(config)) };
        let (_, asked) = run(Search::new(floats(4), options(48, seed, at(4, 0.3))), measure);
        failed += asked.iter().filter(|candidate| beyond(&candidate.config)).count();
        measured += asked.len();
    }
    assert!(failed * 100 <= measured * 5, "{failed} of {measured}");
}

#[test]
fn where_there_is_nothing_but_noise_a_gain_is_seldom_certain() {
    let mut certain = 0;
    for (budget, seeds) in [(8, 16), (12, 16), (24, 8)] {
        for seed in 0..seeds {
            let mut state = seed * 7919 + 1;
            let mut noise = || {
                state = (state * 16807) % 2_147_483_647_u64;
                Outcome::Value(10.0 + state as f64 / 2_147_483_647.0)
            };
            let options = Options { noisy: true, ..options(budget, seed, at(3, 0.4)) };
            let (search, _) = run(Search::new(floats(3), options), |_| noise());
            let (low, _) = search.recommendation().unwrap().gain_interval.unwrap();
            certain += u32::from(low > 0.0);
        }
    }
    assert!(certain <= 2, "{certain} of 40");
}

#[test]
fn a_gain_far_above_the_noise_is_certain_after_a_dozen_measurements() {
    for seed in 0..8 {
        let mut state = seed * 7919 + 1;
        let mut measure = |config: &Config| {
            state = (state * 16807) % 2_147_483_647_u64;
            Outcome::Value(bowl(config) + 0.02 * state as f64 / 2_147_483_647.0)
        };
        let options = Options { noisy: true, ..options(12, seed, at(2, 0.1)) };
        let (search, _) = run(Search::new(floats(2), options), &mut measure);
        let found = search.recommendation().unwrap();
        assert!(found.gain_interval.unwrap().0 > 0.0, "{found:?}");
    }
}

#[test]
fn what_was_lost_counts_against_the_budget_and_teaches_nothing() {
    let lost = |number: u32| {
        move |config: &Config, asked: u32| match asked {
            asked if asked == number => Outcome::Lost,
            _ => Outcome::Value(bowl(config)),
        }
    };
    let mut counted = 0;
    let measure = lost(3);
    let (search, asked) = run(Search::new(floats(2), options(16, 1, at(2, 0.2))), |config| {
        counted += 1;
        measure(config, counted)
    });
    assert_eq!((asked.len(), search.ended()), (16, Some(Ended::Spent)));
    assert!(search.recommendation().unwrap().mean < bowl(&at(2, 0.2)));
    let (all_lost, _) = run(Search::new(floats(2), options(16, 1, at(2, 0.2))), |_| Outcome::Lost);
    assert_eq!(all_lost.recommendation(), None);
}

#[test]
fn a_measurement_that_was_not_asked_is_known_and_counted() {
    let mut search = Search::new(floats(2), Options { batch: 2, ..options(8, 1, at(2, 0.2)) });
    let open = search.ask(2);
    assert!(!search.record(&at(2, 0.7), Outcome::Value(0.0)), "candidates are open");
    for candidate in open {
        search.tell(candidate.id, Outcome::Value(bowl(&candidate.config))).unwrap();
    }
    assert!(search.record(&at(2, 0.7), Outcome::Value(0.0)));
    assert_eq!((search.remaining(), search.recommendation().unwrap().config), (5, at(2, 0.7)));
    let (_, asked) = run(search, |config| Outcome::Value(bowl(config)));
    assert_eq!((asked.len(), asked[0].id), (5, 4));
}

#[test]
fn a_gain_without_any_noise_is_certain_however_far_the_best_leaves_the_default_behind() {
    let (search, _) = run(Search::new(floats(1), Options { noisy: true, ..options(20, 1, at(1, 0.5)) }), |config| {
        Outcome::Value(numbers(config)[0])
    });
    assert!(search.recommendation().unwrap().gain_interval.unwrap().0 > 0.0, "{:?}", search.recommendation());
}

#[test]
fn where_everything_is_forbidden_nothing_is_asked() {
    let params = vec![Param { name: "p".to_owned(), kind: Kind::Bool, when: None }];
    let forbidden = [true, false].map(|value| Config::from([("p".to_owned(), Value::Bool(value))])).to_vec();
    let space = Space::new(SpaceSpec { params, forbidden, ..SpaceSpec::default() }).unwrap();
    for noisy in [false, true] {
        let options = Options { budget: 8, noisy, ..Options::default() };
        let (search, asked) = run(Search::new(space.clone(), options), |_| Outcome::Value(1.0));
        assert_eq!((asked.len(), search.ended()), (0, Some(Ended::Exhausted)));
    }
}

/// Returns what a search of this bowl measures, as a later one is told it.
fn measured_before(seed: u64, lowest: f64) -> Vec<Earlier> {
    let at_bottom = |config: &Config| numbers(config).iter().map(|x| (x - lowest) * (x - lowest)).sum();
    let (_, asked) =
        run(Search::new(floats(3), options(32, seed, at(3, 0.5))), |config| Outcome::Value(at_bottom(config)));
    let earlier = |candidate: Candidate| {
        let outcome = Outcome::Value(at_bottom(&candidate.config));
        Earlier { config: candidate.config, outcome, age: 1.0, distance: 0.0 }
    };
    asked.into_iter().map(earlier).collect()
}

#[test]
fn what_earlier_searches_promise_is_tried_once_before_more_is_built_on_it() {
    let warm = measured_before(1, 0.7);
    let mut search = Search::new(floats(3), Options { batch: 4, warm, ..options(16, 2, at(3, 0.5)) });
    let first = search.ask(4);
    assert_eq!((first.len(), &first[0].config), (2, &at(3, 0.5)));
    assert!(bowl(&first[1].config) < 0.01, "{first:?}");
}

#[test]
fn a_search_does_not_stop_on_the_word_of_earlier_ones_alone() {
    let limit = Options { stop_below: Some(0.01), warm: measured_before(1, 0.7), ..options(60, 1, at(3, 0.7)) };
    let (search, asked) = run(Search::new(floats(3), limit), |config| Outcome::Value(bowl(config)));
    assert_eq!(search.ended(), Some(Ended::Stopped));
    // The design would have twelve, and the last lot is not cut short.
    assert!((12..16).contains(&asked.len()), "{}", asked.len());
}

#[test]
fn earlier_values_of_another_world_cost_a_new_search_little() {
    let (mut misled, mut cold) = (0.0, 0.0);
    for seed in 0..8 {
        let found = |warm: Vec<Earlier>| {
            let search = Search::new(floats(3), Options { warm, ..options(16, seed, at(3, 0.5)) });
            run(search, |config| Outcome::Value(bowl(config))).0.recommendation().unwrap().mean
        };
        misled += found(measured_before(seed + 50, 0.1)) / 8.0;
        cold += found(Vec::new()) / 8.0;
    }
    assert!(misled < cold + 0.01 && misled < bowl(&at(3, 0.5)) / 3.0, "{misled} misled, {cold} cold");
}

#[test]
fn what_crashed_in_an_earlier_search_is_asked_again_if_it_is_the_default_alone() {
    let kind = Kind::Integer { low: 1, high: 24, log: false, step: None };
    let param = Param { name: "workers".to_owned(), kind, when: None };
    let space = Space::new(SpaceSpec { params: vec![param], ..SpaceSpec::default() }).unwrap();
    let workers = |count: i64| Config::from([("workers".to_owned(), Value::Integer(count))]);
    let crashed = |count: i64| Earlier { config: workers(count), outcome: Outcome::Failed, age: 3.0, distance: 0.1 };
    let warm = (4..=12).map(crashed).collect();
    let search = Search::new(space, Options { warm, ..options(24, 1, workers(8)) });
    let (_, asked) = run(search, |config| Outcome::Value(config["workers"].number().unwrap()));
    assert_eq!((asked.len(), &asked[0].config), (24 - 8, &workers(8)));
    assert!(asked[1..].iter().all(|candidate| (4..=12).all(|count| candidate.config != workers(count))));
}

/// A switch and how many tokens it drafts, which means nothing while it is off.
fn drafting() -> Space {
    let when = When { param: "draft".to_owned(), r#in: vec![Value::Bool(true)] };
    let tokens = Kind::Integer { low: 1, high: 101, log: false, step: None };
    let params = vec![
        Param { name: "draft".to_owned(), kind: Kind::Bool, when: None },
        Param { name: "tokens".to_owned(), kind: tokens, when: Some(when) },
    ];
    Space::new(SpaceSpec { params, ..SpaceSpec::default() }).unwrap()
}

#[test]
fn a_setting_that_turns_the_defaults_condition_off_has_a_gain() {
    let on = Config::from([("draft".to_owned(), Value::Bool(true)), ("tokens".to_owned(), Value::Integer(8))]);
    let off = Config::from([("draft".to_owned(), Value::Bool(false))]);
    let (search, _) = run(Search::new(drafting(), options(24, 1, on)), |config| {
        Outcome::Value(config.get("tokens").and_then(Value::number).unwrap_or(0.0))
    });
    assert_eq!(search.recommendation().unwrap().config, off);
    assert_eq!(search.gain(&off).map(|gain| gain.gain), Some(8.0));
}

#[test]
fn what_is_inactive_in_the_default_stands_at_the_value_that_the_default_gives_it() {
    let default = Config::from([("draft".to_owned(), Value::Bool(false)), ("tokens".to_owned(), Value::Integer(93))]);
    for seed in 0..8 {
        let (_, asked) = run(Search::new(drafting(), options(6, seed, default.clone())), |_| Outcome::Value(1.0));
        assert_eq!(asked[0].config, Config::from([("draft".to_owned(), Value::Bool(false))]));
        // Among the first are mutants of the default, of which the switch alone can move.
        let on = Config::from([("draft".to_owned(), Value::Bool(true)), ("tokens".to_owned(), Value::Integer(93))]);
        assert!(asked.iter().any(|candidate| candidate.config == on), "{asked:?}");
    }
}

#[test]
fn what_is_recorded_before_the_default_was_measured_is_not_taken_for_it() {
    let mut search = Search::new(floats(2), options(8, 1, at(2, 0.2)));
    assert!(search.record(&at(2, 0.6), Outcome::Value(bowl(&at(2, 0.6)))));
    assert_eq!((search.recommendation().unwrap().gain, search.gain(&at(2, 0.6))), (None, None));
    assert!(search.record(&at(2, 0.2), Outcome::Value(bowl(&at(2, 0.2)))));
    assert!((search.gain(&at(2, 0.6)).unwrap().gain - 0.48).abs() < 1e-9);
}

#[test]
fn where_the_default_is_forbidden_and_nothing_is_near_it_nothing_is_measured_against_it() {
    let on = Config::from([("draft".to_owned(), Value::Bool(true)), ("tokens".to_owned(), Value::Integer(8))]);
    let forbidden = vec![Config::from([("draft".to_owned(), Value::Bool(true))])];
    let space = Space::new(SpaceSpec { forbidden, ..drafting().spec().clone() }).unwrap();
    let (search, asked) = run(Search::new(space, options(4, 1, on)), |_| Outcome::Value(1.0));
    assert_eq!((asked.len(), search.recommendation().unwrap().gain), (1, None));
}

#[test]
fn what_failed_above_a_limit_says_nothing_of_what_lies_at_it() {
    let param =
        Param { name: "x".to_owned(), kind: Kind::Integer { low: 1, high: 64, log: false, step: None }, when: None };
    let limits = vec![Limit { each: [("x".to_owned(), 1.0)].into(), max: 10.0 }];
    let space = Space::new(SpaceSpec { params: vec![param], limits, ..SpaceSpec::default() }).unwrap();
    let x = |value: i64| Config::from([("x".to_owned(), Value::Integer(value))]);
    let failed = |value: i64| Earlier { config: x(value), outcome: Outcome::Failed, age: 0.0, distance: 0.0 };
    let options = Options { warm: vec![failed(64), failed(5)], ..options(20, 7, x(2)) };
    let (_, asked) = run(Search::new(space, options), |config| Outcome::Value(-numbers(config)[0]));
    let mut asked: Vec<f64> = asked.iter().map(|candidate| numbers(&candidate.config)[0]).collect();
    asked.sort_by(f64::total_cmp);
    assert_eq!(asked, [1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
}
