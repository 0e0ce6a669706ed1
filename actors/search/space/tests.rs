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
