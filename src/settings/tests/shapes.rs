use std::collections::BTreeMap;

use kloros_actors::facts::{
    Apply, BenchLoad, BenchSpec, Budget, ChatSlo, Check, Dimension, Direction, Domain, ExperimentSpec, Guard,
    HttpBench, HttpPath, InPlace, Isolation, Key, Knob, KnobKind, Load, Manager, MetricSpec, Objective, PerUnit,
    PrometheusBench, PrometheusSeries, PrometheusTake, Quiet, ReadBack, Ready, Risk, Scope, ServiceSpec, SoundFormat,
    SpeechBench, SpeechSlo, TokenRange, Trades, Trouble, Value, When,
};

use super::*;

fn knob(range: KnobKind, default: Value, step_max: Option<f64>) -> Knob {
    let relieves = vec![Trouble::Latency];
    Knob { range, default, apply: Apply::Restart, step_max, reversible: false, relieves, trades: None, takes: None }
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
    let takes = PerUnit { memory_mib: Some(0.5), gpu_memory_mib: Some(1.5), gpu_memory_share: Some(1.0) };
    let knobs = [
        ("A", knob(integer, Value::Integer(2), Some(4.0))),
        ("B", knob(float, Value::Float(2.5), Some(1.5))),
        ("C", knob(KnobKind::Boolean {}, Value::Boolean(true), None)),
        ("D", knob(choice, Value::Choice("a".to_owned()), None)),
        ("E", knob(stepped, Value::Integer(16), None)),
        ("F", Knob { takes: Some(takes), ..knob(tenths, Value::Float(0.7), None) }),
        ("G", knob(ordinal, Value::Float(2.5), None)),
        ("H", knob(sizes, Value::Integer(4), Some(4.0))),
        ("I", Knob { trades: Some(Trades::Context), ..knob(KnobKind::Boolean {}, Value::Boolean(false), None) }),
    ];
    let guard = Some(Guard { loss_max: Some(0.05), value_max: Some(9.0) });
    Domain {
        name: "complete".to_owned(),
        risk: Some(Risk::High),
        isolation: Isolation::Shadow,
        in_place: None,
        service: ServiceSpec {
            port: 8000,
            check: Some(Check { command: vec!["try".to_owned(), "{A}".to_owned()], within_s: 9 }),
            metrics_path: Some("/metrics".to_owned()),
            load_metric: Some("http:requests_total".to_owned()),
            ..ServiceSpec::of(
                manager,
                vec!["serve".to_owned(), "{port}".to_owned()],
                "/etc/complete.env".into(),
                Ready::http("/health", 5, 2),
                read_back,
            )
        },
        knobs: knobs.map(|(key, knob)| (Key::new(key).unwrap(), knob)).into(),
        bench,
        metrics: BTreeMap::from([("speed".to_owned(), MetricSpec { direction: Direction::Up, weight: 1.0, guard })]),
        objectives: vec![Objective { reading: "latency".to_owned(), max: 1.5, readings: 3 }],
        quiet: Some(Quiet { others_max: 0.75, others_rise_max: 0.125 }),
        needs: Some(Load { cores: Some(1.5), memory_mib: Some(512.0), gpu_memory_mib: Some(4096.0) }),
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
        requests: Some("/var/lib/kloros/asked.jsonl".into()),
    };
    let json = || ReadBack::HttpJson("/config".to_owned());
    let restart = vec!["systemctl".to_owned(), "restart".to_owned(), "complete".to_owned()];
    survives(&complete(Manager::Child, json(), command.clone()));
    survives(&complete(Manager::Child, json(), chat(BenchLoad::Closed { clients: 4 })));
    let constant = BenchLoad::Constant { rate_per_s: 2.5, in_flight_max: 9 };
    survives(&complete(Manager::Child, json(), chat(constant)));
    let poisson = BenchLoad::Poisson { rate_per_s: 2.5, in_flight_max: 9 };
    survives(&complete(Manager::Command { restart }, ReadBack::ProcEnviron, chat(poisson)));
    let windows = vec!["02:00-05:00".parse().unwrap(), "sat,sun".parse().unwrap()];
    let limits = InPlace { windows, candidate_max_s: 60, session_max_s: 3600, restarts_per_hour_max: 9 };
    let in_place = complete(Manager::Child, json(), chat(BenchLoad::Closed { clients: 4 }));
    survives(&Domain { isolation: Isolation::InPlace, in_place: Some(limits), ..in_place });
    let systemd = Manager::Systemd { unit: "chat@1.service".to_owned(), scope: Scope::User };
    let read_back = ReadBack::Command(vec!["show".to_owned(), "{port}".to_owned()]);
    let mut unit = complete(systemd, read_back, command.clone());
    (unit.service.restart_within_s, unit.service.stop_within_s) = (900, 5);
    let command_says = vec!["check".to_owned(), "{port}".to_owned()];
    unit.service.ready = Ready { command: command_says, within_s: 9, passes: 3, bake_s: 1.5, ..Ready::default() };
    survives(&unit);
    for ready in [
        Ready { tcp: true, ..Ready::http("/", 9, 2) },
        Ready { notify: true, ..Ready::http("/", 9, 1) },
        Ready { log_line: Some("listening on".to_owned()), ..Ready::http("/", 9, 1) },
    ] {
        let mut child = complete(Manager::Child, json(), command.clone());
        child.service.ready = Ready { http_path: None, ..ready };
        survives(&child);
    }
}

#[test]
fn whatever_a_bench_of_pages_or_of_speech_can_say_its_file_can_say() {
    let json = || ReadBack::HttpJson("/config".to_owned());
    let constant = BenchLoad::Constant { rate_per_s: 2.5, in_flight_max: 9 };
    let every_key = HttpBench {
        load: constant,
        paths: vec![HttpPath { path: "/".to_owned(), weight: 3 }, HttpPath { path: "/b?c=d".to_owned(), weight: 1 }],
        headers: BTreeMap::from([("accept-encoding".to_owned(), "gzip".to_owned())]),
        expect_status: 204,
        body_bytes_max: 4096,
        keep_alive: false,
        warmup_s: 0.5,
        window_s: 1.5,
        slo_ms: Some(2.5),
        request_timeout_s: 9.5,
    };
    let few = HttpBench {
        headers: BTreeMap::new(),
        expect_status: 200,
        body_bytes_max: 16 << 20,
        keep_alive: true,
        slo_ms: None,
        ..every_key.clone()
    };
    for bench in [every_key, few] {
        survives(&complete(Manager::Child, json(), BenchSpec::Http(bench)));
    }
    let every_key = SpeechBench {
        load: constant,
        input_tokens: TokenRange { min: 1, max: 2 },
        model: "tts-1".to_owned(),
        voice: "alloy".to_owned(),
        format: SoundFormat::Pcm,
        pcm_rate_hz: 16_000,
        warmup_s: 0.5,
        window_s: 1.5,
        slo: Some(SpeechSlo { first_byte_ms: 1.5, e2e_ms: 2.5 }),
        request_timeout_s: 9.5,
    };
    let few = SpeechBench { format: SoundFormat::Wav, pcm_rate_hz: 24_000, slo: None, ..every_key.clone() };
    for bench in [every_key, few] {
        survives(&complete(Manager::Child, json(), BenchSpec::OpenaiSpeech(bench)));
    }
}

#[test]
fn whatever_a_bench_of_live_traffic_can_say_its_file_can_say() {
    let command = BenchSpec::Command { argv: vec!["bench".to_owned()], timeout_s: 60 };
    let domain = complete(Manager::Child, ReadBack::ProcEnviron, command);
    let takes = [
        PrometheusTake::Rate,
        PrometheusTake::ShareOf("requests_total".to_owned()),
        PrometheusTake::Quantile(0.95),
        PrometheusTake::Mean,
        PrometheusTake::Level,
    ];
    for (index, take) in takes.into_iter().enumerate() {
        let few = PrometheusSeries { of: "a:b_total".to_owned(), take, labels: BTreeMap::new(), scale: 1.0 };
        let labels = BTreeMap::from([("status".to_owned(), "500".to_owned())]);
        let series = if index == 0 { few } else { PrometheusSeries { labels, scale: 1000.0, ..few } };
        let bench = PrometheusBench {
            path: "/metrics".to_owned(),
            port: None,
            series: domain.metrics.keys().map(|name| (name.clone(), series.clone())).collect(),
            events_min: 20,
            warmup_s: 0.5,
            window_s: 1.5,
        };
        let every_key = PrometheusBench { path: "/m".to_owned(), port: Some(9121), events_min: 7, ..bench.clone() };
        for bench in [bench, every_key] {
            let in_place = Some(InPlace {
                windows: vec!["sat,sun".parse().unwrap()],
                candidate_max_s: 600,
                session_max_s: 3600,
                restarts_per_hour_max: 9,
            });
            let bench = BenchSpec::Prometheus(bench);
            survives(&Domain { isolation: Isolation::InPlace, in_place, bench, ..domain.clone() });
        }
    }
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
        budget: Budget::of(3, 2),
    };
    // JSON is YAML as well.
    let dream = serde_json::json!({"experiments": {"all": spec}}).to_string();
    let home = Home::new(&[("domains/complete.toml", &toml::to_string(&domain).unwrap()), ("dream.yaml", &dream)]);
    assert_eq!(home.settings().catalogue.experiments["all"], spec);
}
