use std::fs;

use axum::{Json, Router, routing::get};
use kloros_actors::{
    facts::{Apply, BenchSpec, Isolation, Knob, KnobKind, ReadBack, Ready, ServiceSpec, Value},
    seams::ServiceControl as _,
};
use tempfile::TempDir;

use super::*;

/// Where the server under test finds its port; the server is this test program, started anew.
const PORT: &str = "KLOROS_TEST_PORT";

/// Where it finds its env file.
const ENV_FILE: &str = "KLOROS_TEST_ENV_FILE";

#[tokio::test]
async fn the_server_under_test_says_what_its_env_file_says() {
    let Ok(port) = std::env::var(PORT) else {
        // Not started as a server.
        return;
    };
    let bytes = fs::read(std::env::var(ENV_FILE).unwrap()).unwrap_or_default();
    let slots = env_file::value_of(&bytes, &key("LAB_SLOTS")).unwrap();
    assert_ne!(slots.as_deref(), Some("0"), "0 slots serve nobody");
    let settings = serde_json::json!({
        "LAB_SLOTS": slots.and_then(|slots| slots.parse::<u32>().ok()), "LAB_FAST": true, "LAB_MODE": "plain", "SECRET": "s",
    });
    let router = Router::new()
        .route("/health", get(|| async { "ready" }))
        .route("/settings", get(move || async move { Json(settings) }))
        .route("/list", get(|| async { "[1]" }));
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.unwrap();
    axum::serve(listener, router).await.unwrap();
}

pub(super) fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn server() -> Vec<String> {
    let this = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let test = "service::tests::the_server_under_test_says_what_its_env_file_says";
    let role = [format!("{PORT}={{port}}"), format!("{ENV_FILE}={{env_file}}")];
    ["env".to_owned()].into_iter().chain(role).chain([this, "--exact".to_owned(), test.to_owned()]).collect()
}

pub(super) fn domain(manager: Manager, argv: Vec<String>, read_back: ReadBack) -> Domain {
    let knob = |default| Knob {
        range: KnobKind::Boolean {},
        default,
        apply: Apply::Restart,
        step_max: None,
        reversible: true,
        relieves: Vec::new(),
        trades: None,
        takes: None,
    };
    Domain {
        name: "lab".to_owned(),
        risk: None,
        isolation: Isolation::Shadow,
        in_place: None,
        service: ServiceSpec::of(manager, argv, "lab.env".into(), Ready::http("/health", 60, 2), read_back),
        knobs: ["LAB_SLOTS", "LAB_FAST", "LAB_MODE", "LAB_GONE"]
            .map(|name| (key(name), knob(Value::Boolean(true))))
            .into(),
        bench: BenchSpec::Command { argv: Vec::new(), timeout_s: 1 },
        metrics: BTreeMap::new(),
        objectives: Vec::new(),
        quiet: None,
        needs: None,
    }
}

fn child() -> Domain {
    domain(Manager::Child, server(), ReadBack::HttpJson("/settings".to_owned()))
}

struct House {
    home: TempDir,
    services: Arc<Services>,
}

fn house(env: &str) -> House {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("lab.env"), env).unwrap();
    let services = Arc::new(Services::new(home.path().to_owned(), "/kloros".into()));
    House { home, services }
}

async fn pid(services: &Services) -> Option<u32> {
    let place = Arc::clone(services.places.lock().unwrap().get("lab").unwrap());
    let serving = place.serving.lock().await;
    serving.instance.as_ref().map(Instance::id)
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_restart_makes_the_new_values_the_ones_in_effect_on_the_same_port() {
    let House { home, services } = house("LAB_SLOTS=4\n");
    let domain = child();
    assert_eq!(services.base_url("lab"), None);
    services.start(&domain).await.unwrap();
    let (url, first) = (services.base_url("lab").unwrap(), pid(&services).await);
    services.start(&domain).await.unwrap();
    assert_eq!(pid(&services).await, first, "a service that runs is not started again");
    let expected = |slots: &str| {
        [("LAB_FAST", "true"), ("LAB_MODE", "plain"), ("LAB_SLOTS", slots)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
    };
    assert_eq!(services.in_effect(&domain).await.unwrap(), expected("4").into());
    fs::write(home.path().join("lab.env"), "LAB_SLOTS=8\n").unwrap();
    services.restart(&domain).await.unwrap();
    assert_ne!(pid(&services).await, first);
    assert_eq!(services.base_url("lab").unwrap(), url);
    assert_eq!(services.in_effect(&domain).await.unwrap(), expected("8").into());
    services.stop_all().await;
    assert_eq!(pid(&services).await, None);
    assert!(matches!(services.in_effect(&domain).await, Err(ServiceError::Unreachable(_))));
    assert!(matches!(services.start(&domain).await, Err(ServiceError::DidNotStart(_))));
}

#[tokio::test]
async fn an_instance_that_ends_says_why_and_the_old_values_start_again() {
    let House { home, services } = house("LAB_SLOTS=0\n");
    let domain = child();
    match services.start(&domain).await {
        Err(ServiceError::DidNotStart(why)) => assert!(why.contains("0 slots serve nobody"), "{why}"),
        other => panic!("{other:?}"),
    }
    fs::write(home.path().join("lab.env"), "LAB_SLOTS=1\n").unwrap();
    services.restart(&domain).await.unwrap();
}

#[tokio::test]
async fn an_instance_that_never_answers_is_ended() {
    let House { home: _home, services } = house("");
    let mut domain = domain(Manager::Child, vec!["sleep".to_owned(), "300".to_owned()], ReadBack::ProcEnviron);
    domain.service.ready.within_s = 0;
    assert!(matches!(services.start(&domain).await, Err(ServiceError::NotReady(_))));
    assert_eq!(pid(&services).await, None);
}

#[tokio::test]
async fn a_child_that_dies_is_started_again_after_its_back_off() {
    let House { home: _home, services } = house("LAB_SLOTS=4\n");
    let domain = child();
    services.ensure_running(&domain).await.unwrap();
    assert_eq!(pid(&services).await, None, "what was never started is not looked after");
    services.start(&domain).await.unwrap();
    let first = pid(&services).await.unwrap();
    kill(first);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut waited = false;
    while let Err(error) = services.ensure_running(&domain).await {
        waited |= error.to_string().contains("rests before the next start");
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
    // The kill may take a moment to be seen.
    while pid(&services).await.is_none_or(|now| now == first) {
        assert!(Instant::now() < deadline);
        waited |= services.ensure_running(&domain).await.is_err();
        sleep(Duration::from_millis(50)).await;
    }
    assert!(waited);
}

#[tokio::test]
async fn a_child_that_keeps_dying_is_left_down_until_it_is_restarted() {
    let House { home: _home, services } = house("LAB_SLOTS=4\n");
    let domain = child();
    services.start(&domain).await.unwrap();
    {
        let place = services.place(&domain).unwrap();
        let mut serving = place.serving.lock().await;
        serving.stop(Duration::from_secs(30)).await;
        for _ in 0..domain.service.back_off.deaths_max {
            serving.bury(Instant::now(), &domain.service.back_off);
        }
        serving.not_before = None;
    }
    let error = services.ensure_running(&domain).await.unwrap_err();
    assert!(error.to_string().contains("left down"), "{error}");
    services.restart(&domain).await.unwrap();
    services.ensure_running(&domain).await.unwrap();
}

#[test]
fn the_wait_after_a_death_doubles_up_to_a_limit() {
    let mut serving = Serving::default();
    let now = Instant::now();
    for expected_s in [1, 2, 4, 8, 16, 32, 60, 60] {
        serving.bury(now, &BackOff::default());
        assert_eq!(serving.not_before, Some(now + Duration::from_secs(expected_s)));
    }
    let patient = BackOff { first_s: 5.0, longest_s: 7.0, ..BackOff::default() };
    serving.bury(now, &patient);
    assert_eq!(serving.not_before, Some(now + Duration::from_secs(7)));
}

#[tokio::test]
async fn a_child_that_is_not_told_its_env_file_gets_its_variables_and_they_are_read_back() {
    let House { home: _home, services } = house("LAB_SLOTS='4'\nSECRET=s\n");
    let argv = server().into_iter().filter(|argument| !argument.contains("{env_file}"));
    // The server asks for an env file, which here is given to it by hand.
    let argv: Vec<String> = ["env".to_owned(), format!("{ENV_FILE}=/none")].into_iter().chain(argv).collect();
    let domain = domain(Manager::Child, argv, ReadBack::ProcEnviron);
    services.start(&domain).await.unwrap();
    let expected = [("LAB_SLOTS".to_owned(), "4".to_owned())];
    assert_eq!(services.in_effect(&domain).await.unwrap(), expected.into());
}

#[tokio::test]
async fn a_service_of_another_supervisor_is_restarted_by_its_command() {
    let House { home, services } = house("LAB_SLOTS=4\n");
    let ours = child();
    services.start(&ours).await.unwrap();
    let port = services.places.lock().unwrap()["lab"].port;
    let mark = home.path().join("restarted").display().to_string();
    let restart = |argv: &[&str]| Manager::Command { restart: argv.iter().map(|each| (*each).to_owned()).collect() };
    let mut theirs = domain(restart(&["touch", &mark]), Vec::new(), ReadBack::HttpJson("/settings".to_owned()));
    theirs.name = "theirs".to_owned();
    assert!(matches!(services.restart(&theirs).await, Err(ServiceError::Unreachable(_))), "it has no port");
    theirs.service.port = port;
    services.start(&theirs).await.unwrap();
    services.restart(&theirs).await.unwrap();
    assert!(fs::exists(&mark).unwrap());
    assert_eq!(services.in_effect(&theirs).await.unwrap()["LAB_SLOTS"], "4");
    theirs.service.read_back = ReadBack::HttpJson("/list".to_owned());
    assert!(matches!(services.in_effect(&theirs).await, Err(ServiceError::Unreachable(_))));
    theirs.service.read_back = ReadBack::ProcEnviron;
    assert_eq!(services.in_effect(&theirs).await.unwrap(), BTreeMap::new(), "it was started with other variables");
    let prints = |argv: &[&str]| ReadBack::Command(argv.iter().map(|each| (*each).to_owned()).collect());
    theirs.service.read_back = prints(&["printf", "{\"LAB_SLOTS\": 7, \"PORT\": {port}}"]);
    assert_eq!(services.in_effect(&theirs).await.unwrap(), [("LAB_SLOTS".to_owned(), "7".to_owned())].into());
    for argv in [&["false"][..], &["printf", "LAB_SLOTS=7"], &["/no/such"]] {
        theirs.service.read_back = prints(argv);
        assert!(matches!(services.in_effect(&theirs).await, Err(ServiceError::Unreachable(_))), "{argv:?}");
    }
    theirs.service.manager = restart(&["ls", "/no/such"]);
    let error = services.restart(&theirs).await.unwrap_err();
    assert!(matches!(&error, ServiceError::DidNotStart(why) if why.contains("/no/such")), "{error}");
}

#[tokio::test]
async fn whoever_looks_is_told_whether_a_service_answers_and_how_often_it_died() {
    let House { home: _home, services } = house("LAB_SLOTS=4\n");
    let domain = child();
    assert!(!services.look(&domain).await.is_up, "it was never started");
    services.start(&domain).await.unwrap();
    let look = services.look(&domain).await;
    assert_eq!((look.is_up, look.deaths, look.pid), (true, 0, pid(&services).await), "{look:?}");

    kill(look.pid.unwrap());
    let place = Arc::clone(services.places.lock().unwrap().get("lab").unwrap());
    let ended = async { place.serving.lock().await.instance.as_mut().unwrap().exited().await };
    timeout(Duration::from_secs(20), ended).await.unwrap();
    let look = services.look(&domain).await;
    assert!(!look.is_up && look.pid.is_none() && look.state.contains("signal"), "{look:?}");
    place.serving.lock().await.bury(Instant::now(), &BackOff::default());
    let look = services.look(&domain).await;
    assert!(look.deaths == 1 && look.rests_s.is_some(), "{look:?}");

    // Whoever has a hand on it is not waited for.
    let busy = place.serving.lock().await;
    assert!(services.look(&domain).await.state.contains("started or restarted"));
    drop(busy);
    services.stop_all().await;
}

#[tokio::test]
async fn a_service_of_somebody_else_that_does_not_answer_is_not_up() {
    let House { home: _home, services } = house("");
    let mut theirs = domain(Manager::Command { restart: vec!["true".to_owned()] }, server(), ReadBack::ProcEnviron);
    theirs.service.port = free_port().unwrap();
    let look = services.look(&theirs).await;
    assert!(!look.is_up && look.state.contains("nobody answers"), "{look:?}");
}

/// Once what a service printed before it died stood in reasons, logs and journal as it was.
#[tokio::test]
async fn the_last_words_of_a_service_hold_none_of_its_secrets() {
    let secret = "SECRET_TOKEN='hunter22-and-more'\nexport ALSO=exported-secret\nLAB_MODE=plain-mode\n";
    let House { home, services } = house(secret);
    // It prints its env file and fails.
    let argv = |file: &str| ["cat", file, "/no/such/file"].map(str::to_owned).to_vec();
    let dies = domain(Manager::Child, argv("{env_file}"), ReadBack::ProcEnviron);
    let restart = argv(&home.path().join("lab.env").display().to_string());
    let mut theirs = domain(Manager::Command { restart }, Vec::new(), ReadBack::ProcEnviron);
    (theirs.name, theirs.service.port) = ("theirs".to_owned(), 1);
    for domain in [dies, theirs] {
        match services.restart(&domain).await {
            Err(ServiceError::DidNotStart(why)) => {
                assert!(!why.contains("hunter22") && !why.contains("exported-secret"), "{why}");
                assert!(why.contains("SECRET_TOKEN=***") && why.contains("LAB_MODE=plain-mode"), "{why}");
                assert!(why.chars().all(|each| !each.is_control()), "{why:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn each_start_of_a_service_is_another_incarnation_whoever_started_it() {
    let House { home: _home, services } = house("LAB_SLOTS=4\n");
    let domain = child();
    assert!(matches!(services.incarnation(&domain).await, Err(ServiceError::Unreachable(_))));
    services.start(&domain).await.unwrap();
    let first = services.incarnation(&domain).await.unwrap().unwrap();
    assert_eq!(services.incarnation(&domain).await.unwrap().as_ref(), Some(&first));
    services.healthy(&domain).await.unwrap();

    // Another supervisor's service is told apart by who holds its port.
    let mut theirs = self::domain(Manager::Command { restart: Vec::new() }, Vec::new(), ReadBack::ProcEnviron);
    theirs.name = "theirs".to_owned();
    theirs.service.port = services.places.lock().unwrap()["lab"].port;
    assert_eq!(services.incarnation(&theirs).await.unwrap().as_ref(), Some(&first));
    services.healthy(&theirs).await.unwrap();

    kill(pid(&services).await.unwrap());
    let deadline = Instant::now() + Duration::from_secs(60);
    while services.incarnation(&domain).await.is_ok() {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(20)).await;
    }
    assert!(services.healthy(&domain).await.is_err());
    assert!(services.healthy(&theirs).await.is_err());
    assert_eq!(services.incarnation(&theirs).await.unwrap(), None);
    while services.ensure_running(&domain).await.is_err() {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(20)).await;
    }
    let second = services.incarnation(&domain).await.unwrap();
    assert_ne!(second, Some(first));
    assert_eq!(services.incarnation(&theirs).await.unwrap(), second);
}
