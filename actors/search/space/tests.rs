use super::*;

fn param(name: &str, kind: Kind) -> Param {
    Param { name: name.to_owned(), kind, when: None }
}

fn float(low: f64, high: f64) -> Kind {
    Kind::Float { low, high, log: false, step: None }
}

fn integer(low: i64, high: i64) -> Kind {
    Kind::Integer { low, high, log: false, step: None }
}

fn space(params: Vec<Param>) -> Space {
    Space::new(SpaceSpec { params, ..SpaceSpec::default() }).expect("a valid space")
}

#[track_caller]
fn refused(spec: SpaceSpec, said: &str) {
    let error = Space::new(spec).expect_err("an invalid space").to_string();
    assert!(error.contains(said), "{error}");
}

#[test]
fn a_space_that_cannot_be_searched_names_the_parameter_and_what_to_do() {
    let of = |params: Vec<Param>| SpaceSpec { params, ..SpaceSpec::default() };
    refused(of(vec![param("a", float(1.0, 0.0))]), "a: low is above high: exchange them");
    refused(of(vec![param("a", float(0.0, f64::NAN))]), "a: an end of the range is not finite");
    refused(of(vec![param("a", Kind::Categorical { choices: vec![] })]), "a: it has no choices");
    refused(of(vec![param("a", Kind::Bool), param("a", Kind::Bool)]), "a is declared twice");
    let log = Kind::Integer { low: 0, high: 4, log: true, step: None };
    refused(of(vec![param("a", log)]), "a: a logarithmic range begins above 0");
    let when = |on: &str| Some(When { param: on.to_owned(), r#in: vec![Value::Bool(true)] });
    let circle = |name: &str, on: &str| Param { when: when(on), ..param(name, Kind::Bool) };
    refused(of(vec![circle("a", "b"), circle("b", "a")]), "a depends on itself");
    refused(of(vec![circle("a", "c")]), "the condition of a names c, which is not declared");
    let constraint = Constraint { left: "a".to_owned(), right: "b".to_owned() };
    let both = vec![param("a", integer(5, 9)), param("b", integer(1, 4))];
    refused(SpaceSpec { constraints: vec![constraint], ..of(both) }, "no values keep the constraint a <= b");
}

#[test]
fn what_a_limit_cannot_add_up_is_refused() {
    let with = |params: Vec<Param>, name: &str, weight: f64, max: f64| SpaceSpec {
        limits: vec![Limit { each: [(name.to_owned(), weight)].into(), max }],
        params,
        ..SpaceSpec::default()
    };
    let a = || vec![param("a", integer(2, 9))];
    refused(with(a(), "b", 1.0, 9.0), "a limit names b, which is not declared");
    refused(with(vec![param("a", Kind::Bool)], "a", 1.0, 9.0), "a limit on a: it has no numbers to add up");
    refused(with(vec![param("a", integer(-1, 9))], "a", 1.0, 9.0), "a limit on a: a number below 0 takes nothing");
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        refused(with(a(), "a", weight, 9.0), "a limit on a: each unit takes an amount above 0");
    }
    refused(with(a(), "a", 2.0, 3.0), "no values keep a limit of 3: the smallest ones come to 4");
    refused(with(a(), "a", 2.0, f64::NAN), "no values keep a limit of NaN");
}

#[test]
fn what_takes_of_a_limit_is_lowered_together_until_all_is_within_it_and_no_further() {
    let check = |values: [i64; 3], is_changed: bool| {
        let names = ["a", "b", "c"];
        let when = When { param: "b".to_owned(), r#in: (1..=50).map(Value::Integer).collect() };
        let c = Param { when: Some(when), ..param("c", integer(1, 100)) };
        let limit = Limit {
            each: [("a", 1.0), ("b", 0.5), ("c", 4.0)].map(|(name, each)| (name.to_owned(), each)).into(),
            max: 60.0,
        };
        let space = Space::new(SpaceSpec {
            params: vec![param("a", integer(1, 100)), param("b", integer(1, 100)), c],
            limits: vec![limit.clone()],
            ..SpaceSpec::default()
        });
        let config =
            names.iter().zip(values).map(|(name, value)| ((*name).to_owned(), Value::Integer(value))).collect();
        let found = space.expect("a valid space").nearest(&config).expect("a valid setting");
        let number = |name: &str| found.get(name).and_then(Value::number);
        let all: f64 = names.iter().filter_map(|name| Some(number(name)? * limit.each[*name])).sum();
        let lower =
            names.iter().zip(values).filter(|(name, value)| number(name).is_some_and(|found| found < *value as f64));
        assert_eq!(lower.count() > 0, is_changed, "{values:?}: {found:?}");
        assert!(all <= 60.0 && (!is_changed || all > 50.0), "{values:?}: {found:?}");
        assert!(!is_changed || names.iter().all(|name| number(name) != Some(1.0)), "{values:?}: {found:?}");
    };
    check([10, 20, 10], false);
    check([10, 20, 11], true);
    check([90, 20, 20], true);
    // c means nothing beside a b above 50, and takes nothing.
    check([30, 60, 100], false);
    check([80, 100, 100], true);
    check([100, 50, 100], true);
}

#[test]
fn of_a_list_in_no_order_the_smallest_is_below_all_and_the_largest_above_all() {
    let axis = Axis::new(Kind::Ordinal { choices: [8, 2, 32, 16].map(Value::Integer).to_vec() });
    assert_eq!((axis.number_at(axis.unit_below(1.0)), axis.number_at(axis.unit_below(9.0))), (2.0, 8.0));
    assert_eq!((axis.number_at(axis.unit_above(99.0)), axis.number_at(axis.unit_above(9.0))), (32.0, 16.0));
}

#[test]
fn a_constraint_is_written_as_the_text_that_a_person_writes() {
    let constraint: Constraint = serde_json::from_str("\"low <= high\"").expect("a constraint");
    assert_eq!(constraint, Constraint { left: "low".to_owned(), right: "high".to_owned() });
    assert_eq!(serde_json::to_string(&constraint).expect("text"), "\"low <= high\"");
    assert!(serde_json::from_str::<Constraint>("\"low < high\"").is_err());
}

#[test]
fn steps_leave_no_digits_behind() {
    let axis = Axis::new(Kind::Float { low: 0.0, high: 1.0, log: false, step: Some(0.1) });
    let values: Vec<Value> = (0..11).map(|level| axis.value_at(axis.unit_of_level(level))).collect();
    let expected: Vec<Value> = (0..11_i32).map(|tenths| Value::Float(f64::from(tenths) / 10.0)).collect();
    assert_eq!(values, expected);
}

#[test]
fn a_setting_outside_the_ranges_is_taken_to_the_nearest_valid_one() {
    let space = space(vec![param("a", integer(1, 8)), param("b", float(0.0, 1.0))]);
    let config = Config::from([("a".to_owned(), Value::Integer(99)), ("b".to_owned(), Value::Float(f64::NAN))]);
    let nearest = space.nearest(&config).expect("a valid setting");
    assert_eq!(nearest["a"], Value::Integer(8));
    assert_eq!(nearest["b"], Value::Float(0.5));
    assert!(space.contains(&nearest) && !space.contains(&config));
}

#[test]
fn the_whole_range_of_integers_can_be_searched() {
    let space = space(vec![param("a", integer(i64::MIN, i64::MAX))]);
    for unit in [0.0, 0.3, 1.0] {
        let mut point = vec![unit];
        assert!(space.settle(&mut point, &[0.5]));
        assert!(space.contains(&space.decode(&point)));
    }
    assert_eq!(space.decode(&[1.0])["a"], Value::Integer(i64::MAX));
}
