use std::collections::BTreeMap;

use kloros_actors::facts::{
    Apply, BenchSpec, Budget, ChatLoad, ChatSlo, Dimension, Direction, Domain, ExperimentSpec, Guard, Isolation, Key,
    Knob, KnobKind, Manager, MetricSpec, Objective, Quiet, ReadBack, Ready, Risk, ServiceSpec, TokenRange, Value, When,
};

use super::*;

fn knob(range: KnobKind, default: Value, step_max: Option<f64>) -> Knob {
    Knob { range, default, apply: Apply::Restart, step_max, reversible: false }
}

/// A domain in which every key is given.
fn complete(manager: Manager, read_back: ReadBack, bench: BenchSpec) -> Domain {
    let integer = KnobKind::Integer { min: 1, max: 9, log: true, step: None };
    let float = KnobKind::Float { min: 0.5, max: 9.5, log: false, step: None };
    let choice = KnobKind::Choice { values: vec!["a".to_owned(), "b".to_owned()] };
    let stepped = KnobKind::Integer { min: 8, max: 64, log: false, step: Some(8) };
    let tenths = KnobKind::Float { min: 0.5, max: 0.9, log: false, step: Some(0.1) };
    let ordinal =
        KnobKind::Ordinal { values: vec![Value::Integer(1), Value::Float(2.5), Value::Choice("x".to_owned())] };
    let sizes = KnobKind::Ordinal { values: vec![Value::Integer(1), Value::Integer(4)] };
    let knobs = [
        ("A", knob(integer, Value::Integer(2), Some(4.0))),
        ("B", knob(float, Value::Float(2.5), Some(1.5))),
        ("C", knob(KnobKind::Boolean {}, Value::Boolean(true), None)),
        ("D", knob(choice, Value::Choice("a".to_owned()), None)),
        ("E", knob(stepped, Value::Integer(16), None)),
        ("F", knob(tenths, Value::Float(0.7), None)),
        ("G", knob(ordinal, Value::Float(2.5), None)),
        ("H", knob(sizes, Value::Integer(4), Some(4.0))),
    ];
    let guard = Some(Guard { loss_max: Some(0.05), value_max: Some(9.0) });
    Domain {
        name: "complete".to_owned(),
        risk: Some(Risk::High),
        isolation: Isolation::Shadow,
        service: ServiceSpec {
            manager,
            argv: vec!["serve".to_owned(), "{port}".to_owned()],
            port: 8000,
            env_file: "/etc/complete.env".into(),
            ready: Ready { http_path: "/health".to_owned(), within_s: 5, passes: 2 },
            read_back,
            metrics_path: Some("/metrics".to_owned()),
        },
        knobs: knobs.map(|(key, knob)| (Key::new(key).unwrap(), knob)).into(),
        bench,
        metrics: BTreeMap::from([("speed".to_owned(), MetricSpec { direction: Direction::Up, weight: 1.0, guard })]),
        objectives: vec![Objective { reading: "latency".to_owned(), max: 1.5, readings: 3 }],
        quiet: Some(Quiet { others_max: 0.75, others_rise_max: 0.125 }),
    }
}

/// Serialises a domain, reads it back, and expects the same; so each key of the types is known to the shape, and alike.
#[track_caller]
fn survives(domain: &Domain) {
    let text = toml::to_string(domain).unwrap();
    let home = Home::new(&[("domains/complete.toml", &text)]);
    assert_eq!(&home.settings().catalogue.domains["complete"], domain);
}

#[test]
fn whatever_a_domain_can_say_its_file_can_say() {
    let command = BenchSpec::Command { argv: vec!["bench".to_owned(), "{url}".to_owned()], timeout_s: 60 };
    let chat = |load| BenchSpec::OpenaiChat {
        load,
        prompt_tokens: TokenRange { min: 1, max: 2 },
        output_tokens: TokenRange { min: 1, max: 2 },
        warmup_s: 0.0,
        window_s: 1.5,
        slo: ChatSlo { ttft_ms: 1.5, e2e_ms: 2.5 },
        request_timeout_s: 9.5,
    };
    let json = || ReadBack::HttpJson("/config".to_owned());
    let restart = vec!["systemctl".to_owned(), "restart".to_owned(), "complete".to_owned()];
    survives(&complete(Manager::Child, json(), command));
    survives(&complete(Manager::Child, json(), chat(ChatLoad::Closed { clients: 4 })));
    let poisson = ChatLoad::Poisson { rate_per_s: 2.5, in_flight_max: 9 };
    survives(&complete(Manager::Command { restart }, ReadBack::ProcEnviron, chat(poisson)));
}

#[test]
fn whatever_an_experiment_can_say_its_file_can_say() {
    let command = BenchSpec::Command { argv: vec!["bench".to_owned()], timeout_s: 60 };
    let domain = complete(Manager::Child, ReadBack::ProcEnviron, command);
    let when = |param: &str, value: Value| Some(When { param: param.to_owned(), r#in: vec![value] });
    let same = |key: &str, condition: Option<When>| {
        let range = domain.knobs[&Key::new(key).unwrap()].range.clone();
        (key.to_lowercase(), Dimension { range, when: condition })
    };
    let space = [
        same("A", None),
        same("B", when("c", Value::Boolean(true))),
        same("C", None),
        same("D", when("a", Value::Integer(2))),
        same("E", when("c", Value::Boolean(false))),
        same("F", when("e", Value::Integer(8))),
        same("G", when("d", Value::Choice("a".to_owned()))),
        same("H", when("g", Value::Float(2.5))),
    ];
    let mapping = |(name, _): &(String, Dimension)| (name.clone(), Key::new(name.to_uppercase()).unwrap());
    let spec = ExperimentSpec {
        name: "all".to_owned(),
        domain: "complete".to_owned(),
        param_mapping: space.iter().map(mapping).collect(),
        search_space: space.into(),
        constraints: vec!["a <= h".to_owned(), "f <= b".to_owned()],
        forbidden: vec![[("c".to_owned(), Value::Boolean(true)), ("a".to_owned(), Value::Integer(3))].into()],
        metrics: [("speed".to_owned(), Direction::Up)].into(),
        budget: Budget { max_candidates: 3, max_generations: 2 },
    };
    // JSON is YAML as well.
    let dream = serde_json::json!({"experiments": {"all": spec}}).to_string();
    let home = Home::new(&[("domains/complete.toml", &toml::to_string(&domain).unwrap()), ("dream.yaml", &dream)]);
    assert_eq!(home.settings().catalogue.experiments["all"], spec);
}
