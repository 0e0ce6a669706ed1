use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    routing::{get, post},
};
use kloros_actors::{
    facts::{
        Apply, BenchLoad, BenchSpec, ChatSlo, DeploymentId, Direction, Domain, FailureKind, Isolation, Key, Knob,
        KnobKind, Manager, Measurement, MetricSpec, Quiet, ReadBack, Ready, ServiceSpec, Settings, TokenRange,
        TrialFailure, Value,
    },
    seams::{Assignment, Bench, Clock, Purpose},
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::endpoint::streamed;
use crate::{
    bench::{Repeats, Runner},
    lease::{Machine, Urgency},
};

/// The part of this test program that plays the service: started by the runner as a process of its own, named by its path.
const INSTANCE: &str = "bench::tests::runner::plays_the_instance_when_the_runner_starts_it";

struct Noon;

impl Clock for Noon {
    fn now_ms(&self) -> u64 {
        1_800_000_000_000
    }

    fn utc_offset_s(&self) -> i32 {
        0
    }
}

/// Serves `/health`, `/settings` and chats as the env file says: a real process for the runner to start.
#[tokio::test]
async fn plays_the_instance_when_the_runner_starts_it() {
    let argument = |name: &str| std::env::args().find_map(|each| each.strip_prefix(name).map(str::to_owned));
    let (Some(port), Some(env_file)) = (argument("instance-port="), argument("instance-env=")) else { return };
    let text = std::fs::read_to_string(env_file).unwrap();
    // The last assignment wins.
    let mut settings: HashMap<String, String> =
        text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect();
    let mood = settings.get("MOOD").cloned().unwrap_or_default();
    assert_ne!(mood, "sick", "this instance does not start");
    assert_ne!(mood, "huge", "cudaMalloc failed: out of memory");
    if mood == "stubborn" {
        settings.insert("SLOTS".to_owned(), "1".to_owned());
    }
    let answer = move |Json(request): Json<serde_json::Value>| async move {
        if mood == "greedy" {
            println!("std::bad_alloc");
        }
        if ["frail", "greedy"].contains(&&*mood) {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
        streamed(request["max_tokens"].as_u64().unwrap())
    };
    let router = Router::new()
        .route("/health", get(|| async {}))
        .route("/settings", get(move || async move { Json(settings.clone()) }))
        .route("/v1/chat/completions", post(answer));
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.unwrap();
    axum::serve(listener, router).await.unwrap();
}

fn instance() -> Vec<String> {
    let program = std::env::current_exe().unwrap();
    let argv = ["{kloros}", "--exact", INSTANCE, "--nocapture", "instance-port={port}", "instance-env={env_file}"];
    assert!(program.is_absolute());
    argv.map(str::to_owned).to_vec()
}

fn chat() -> BenchSpec {
    BenchSpec::OpenaiChat {
        load: BenchLoad::Closed { clients: 2 },
        prompt_tokens: TokenRange { min: 4, max: 8 },
        output_tokens: TokenRange { min: 2, max: 4 },
        warmup_s: 0.1,
        window_s: 0.3,
        slo: ChatSlo { ttft_ms: 60_000.0, e2e_ms: 60_000.0 },
        request_timeout_s: 60.0,
        requests: None,
    }
}

fn command(argv: &[&str]) -> BenchSpec {
    BenchSpec::Command { argv: argv.iter().map(|each| (*each).to_owned()).collect(), timeout_s: 60 }
}

fn domain(argv: Vec<String>, bench: BenchSpec) -> Domain {
    let slots = Knob {
        range: KnobKind::Integer { min: 1, max: 64, log: true, step: None },
        default: Value::Integer(1),
        apply: Apply::Restart,
        step_max: None,
        reversible: true,
        relieves: Vec::new(),
        trades: None,
        takes: None,
    };
    Domain {
        name: "practice".to_owned(),
        risk: None,
        isolation: Isolation::Shadow,
        in_place: None,
        service: ServiceSpec::of(
            Manager::Child,
            argv,
            PathBuf::from("live_env"),
            Ready::http("/health", 60, 2),
            ReadBack::HttpJson("/settings".to_owned()),
        ),
        knobs: BTreeMap::from([(Key::new("SLOTS").unwrap(), slots)]),
        bench,
        metrics: BTreeMap::from([(
            "e2e_p50_ms".to_owned(),
            MetricSpec { direction: Direction::Down, weight: 1.0, guard: None },
        )]),
        objectives: Vec::new(),
        quiet: None,
        needs: None,
    }
}

/// Whatever else the machine does is no part of most tests.
const LOUD: Repeats =
    Repeats { quiet: Quiet { others_max: 1.0, others_rise_max: 1.0 }, count_max: 0, pause: Duration::from_millis(20) };

/// Tests take turns within a house alone: each has a lease of its own.
fn machine(home: &Path) -> Machine {
    Machine::new(&home.join("lease"), Duration::from_secs(60))
}

fn assignment(label: &str, settings: Settings) -> Assignment {
    let within = Duration::from_secs(120);
    Assignment {
        label: label.to_owned(),
        settings,
        unset: Vec::new(),
        seed: 7,
        purpose: Purpose::Experiment,
        within,
        usual: None,
    }
}

struct House {
    home: TempDir,
    runner: Runner,
}

impl House {
    fn new(live_env: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("live_env"), live_env).unwrap();
        let kloros = std::env::current_exe().unwrap();
        let runner = Runner::new(home.path().to_owned(), kloros, Arc::new(Noon), machine(home.path()), LOUD);
        Self { home, runner }
    }

    async fn measure(&self, domain: &Domain) -> Result<Measurement, TrialFailure> {
        let settings = Settings::from([(Key::new("SLOTS").unwrap(), Value::Integer(8))]);
        self.runner.measure(domain, assignment("x-practice/1", settings)).await
    }

    fn directories(&self) -> usize {
        std::fs::read_dir(self.home.path().join(".kloros/trials")).map_or(0, Iterator::count)
    }

    async fn check(&self, domain: &Domain, kind: FailureKind, word: &str) {
        let failure = self.measure(domain).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.detail.contains(word), "{failure} lacks {word:?}");
        assert_eq!(self.directories(), 0);
        eventually(|| instances(self.home.path()) == 0).await;
    }
}

/// Returns how many processes run that were told of a file under `home`.
fn instances(home: &Path) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let home = home.to_str().unwrap();
    let told = |path: PathBuf| {
        std::fs::read(path.join("cmdline")).ok().map(|line| String::from_utf8_lossy(&line).into_owned())
    };
    processes.filter_map(|process| told(process.path())).filter(|line| line.contains(home)).count()
}

async fn eventually(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_measurement_says_what_ran_with_which_settings_and_leaves_nothing_behind() {
    let house = House::new("SLOTS=2\nSECRET=7\n");
    let measurement = house.measure(&domain(instance(), chat())).await.unwrap();
    assert_eq!(measurement.in_effect, BTreeMap::from([("SLOTS".to_owned(), "8".to_owned())]));
    assert!(measurement.source.starts_with("openai_chat http://127.0.0.1:"), "{}", measurement.source);
    assert_eq!(measurement.metrics["error_rate"], 0.0);
    assert!(measurement.samples > 0);
    assert_eq!((measurement.window_ms, measurement.at_ms), (300, 1_800_000_000_000));
    assert_eq!(house.directories(), 0);
    assert_eq!(instances(house.home.path()), 0);
    assert_eq!(std::fs::read_to_string(house.home.path().join("live_env")).unwrap(), "SLOTS=2\nSECRET=7\n");
}

#[tokio::test]
async fn a_command_measures_the_same_instance() {
    let house = House::new("");
    let measurement = house.measure(&domain(instance(), command(&["/bin/echo", "{\"port\": {port}}"]))).await.unwrap();
    assert_eq!(measurement.source, format!("command /bin/echo http://127.0.0.1:{}", measurement.metrics["port"]));
    let broken = domain(instance(), command(&["/bin/echo", "fine"]));
    house.check(&broken, FailureKind::BenchFailed, "/bin/echo").await;
}

#[tokio::test]
async fn an_instance_that_runs_with_other_values_is_not_measured() {
    let house = House::new("MOOD=stubborn\n");
    house.check(&domain(instance(), chat()), FailureKind::NotInEffect, "SLOTS is \"1\", 8 is wanted").await;
}

#[tokio::test]
async fn an_instance_without_a_read_back_is_not_measured() {
    let mut domain = domain(instance(), chat());
    domain.service.read_back = ReadBack::HttpJson("/nothing".to_owned());
    House::new("").check(&domain, FailureKind::NotInEffect, "/nothing").await;
    domain.service.read_back = ReadBack::ProcEnviron;
    House::new("").check(&domain, FailureKind::NotInEffect, "SLOTS").await;
}

#[tokio::test]
async fn an_instance_that_dies_under_load_has_died() {
    House::new("MOOD=frail\n").check(&domain(instance(), chat()), FailureKind::Died, "signal: 9").await;
}

#[tokio::test]
async fn an_instance_that_cannot_have_its_memory_is_told_from_one_that_fails_otherwise() {
    let check = async |mood: &str, said: &str| {
        let house = House::new(&format!("MOOD={mood}\n"));
        house.check(&domain(instance(), chat()), FailureKind::OutOfMemory, said).await;
    };
    check("huge", "cudaMalloc failed: out of memory").await;
    check("greedy", "std::bad_alloc").await;
}

#[tokio::test]
async fn an_instance_that_does_not_start_says_why() {
    let house = House::new("MOOD=sick\n");
    house.check(&domain(instance(), chat()), FailureKind::DidNotStart, "this instance does not start").await;
    house.check(&domain(vec!["/bin/false".to_owned()], chat()), FailureKind::DidNotStart, "exit status: 1").await;
}

#[tokio::test]
async fn an_instance_that_never_answers_is_not_ready_and_is_ended() {
    let mut domain = domain(vec!["/bin/sleep".to_owned(), "100".to_owned()], chat());
    domain.service.ready.within_s = 1;
    House::new("").check(&domain, FailureKind::NotReady, "/health").await;
}

#[tokio::test]
async fn what_the_settings_cannot_help_is_infrastructure() {
    let house = House::new("");
    house.check(&domain(vec!["/no/such/service".to_owned()], chat()), FailureKind::Infrastructure, "/no/such").await;
    house
        .check(&domain(vec!["a".to_owned(), "{model}".to_owned()], chat()), FailureKind::Infrastructure, "{model}")
        .await;
    let unreadable = House::new("");
    std::fs::remove_file(unreadable.home.path().join("live_env")).unwrap();
    std::fs::create_dir(unreadable.home.path().join("live_env")).unwrap();
    unreadable.check(&domain(instance(), chat()), FailureKind::Infrastructure, "live_env").await;
    let machine = machine(house.home.path());
    let homeless = Runner::new(PathBuf::from("/proc/none"), PathBuf::new(), Arc::new(Noon), machine, LOUD);
    let assignment = assignment("x", Settings::new());
    let failure = homeless.measure(&domain(instance(), chat()), assignment).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Infrastructure);
}

#[tokio::test]
async fn a_measurement_that_is_dropped_ends_its_instance() {
    let house = House::new("");
    // The bench hangs, so the measurement is in the midst of it when it is dropped.
    let domain = domain(instance(), command(&["/bin/sleep", "300"]));
    let mut measuring = Box::pin(house.measure(&domain));
    let deadline = Instant::now() + Duration::from_secs(60);
    while instances(house.home.path()) == 0 {
        assert!(Instant::now() < deadline, "the instance did not start");
        assert!(timeout(Duration::from_millis(20), &mut measuring).await.is_err());
    }
    assert_eq!(house.directories(), 1);
    drop(measuring);
    eventually(|| instances(house.home.path()) == 0).await;
    assert_eq!(house.directories(), 0);
}

#[tokio::test]
async fn measurements_take_turns() {
    let house = House::new("");
    let domain = domain(instance(), command(&["/bin/echo", "{\"n\": 1}"]));
    let mut both = Box::pin(async { tokio::join!(house.measure(&domain), house.measure(&domain)) });
    let (first, second) = loop {
        assert!(house.directories() <= 1);
        if let Ok(outcomes) = timeout(Duration::from_millis(2), &mut both).await {
            break outcomes;
        }
    };
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
}

#[tokio::test]
async fn who_waits_for_the_machine_has_started_nothing_and_gives_up_without_blame() {
    let house = House::new("");
    let runner = Runner::new(
        house.home.path().to_owned(),
        PathBuf::new(),
        Arc::new(Noon),
        Machine::new(&house.home.path().join("lease"), Duration::from_millis(300)),
        LOUD,
    );
    let _other = machine(house.home.path()).lease("kloros tune, trial 3", Urgency::Ordinary, |_| {}).await.unwrap();
    let domain = domain(instance(), chat());
    let mut waiting = Box::pin(runner.measure(&domain, assignment("d-1.b1.r1", Settings::new())));
    let failure = loop {
        assert_eq!((house.directories(), instances(house.home.path())), (0, 0));
        if let Ok(outcome) = timeout(Duration::from_millis(20), &mut waiting).await {
            break outcome.unwrap_err();
        }
    };
    assert_eq!(failure.kind, FailureKind::Infrastructure);
    assert!(failure.detail.contains("measuring.lease_wait_s") && failure.detail.contains("trial 3"), "{failure}");
}

#[tokio::test]
async fn waiting_for_the_machine_is_no_part_of_the_time_that_a_trial_may_take() {
    let house = House::new("");
    let domain = domain(instance(), command(&["/bin/sleep", "300"]));
    let other = machine(house.home.path()).lease("another", Urgency::Ordinary, |_| {}).await.unwrap();
    let assignment = Assignment { within: Duration::from_millis(200), ..assignment("x", Settings::new()) };
    let mut waiting = Box::pin(house.runner.measure(&domain, assignment));
    assert!(timeout(Duration::from_millis(500), &mut waiting).await.is_err(), "it only waited");
    drop(other);
    assert_eq!(waiting.await.unwrap_err().kind, FailureKind::TimedOut);
    assert_eq!(house.directories(), 0);
}

/// What a bench does for half a second before it prints a number: nothing, or all that it can.
const IDLE: &str = "select(undef, undef, undef, 0.5); print '{\"n\": 1}'";
const BUSY: &str = "my $began = times; 1 while times() - $began < 0.5; print '{\"n\": 1}'";

fn perl(program: &str) -> BenchSpec {
    command(&["/usr/bin/perl", "-e", program])
}

/// Children that use all the CPU there is; dropping them ends them.
struct Burners(Vec<std::process::Child>);

impl Burners {
    fn on_every_core() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let burn = || std::process::Command::new("/usr/bin/yes").stdout(std::process::Stdio::null()).spawn().unwrap();
        Self((0..cores).map(|_| burn()).collect())
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

#[tokio::test]
async fn a_sample_that_a_burst_of_others_disturbed_is_thrown_away_and_measured_again() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("live_env"), "").unwrap();
    let burst = Arc::new(std::sync::Mutex::new(Some(Burners::on_every_core())));
    let (heard, ends) = (Arc::new(std::sync::Mutex::new(Vec::new())), Arc::clone(&burst));
    let hear = Arc::clone(&heard);
    // Whatever else this machine does has to leave a moment's rest within a hundred tries.
    let quiet = Quiet { others_max: 0.6, others_rise_max: 1.0 };
    let repeats = Repeats { quiet, count_max: 100, pause: Duration::ZERO };
    let kloros = std::env::current_exe().unwrap();
    let runner = Runner::new(home.path().to_owned(), kloros, Arc::new(Noon), machine(home.path()), repeats).heard_by(
        move |why| {
            hear.lock().unwrap().push(why.to_owned());
            // The burst is over.
            ends.lock().unwrap().take();
        },
    );
    let domain = domain(instance(), perl(IDLE));
    let measurement = runner.measure(&domain, assignment("x", Settings::new())).await.unwrap();
    let heard = heard.lock().unwrap();
    assert!(heard[0].starts_with("disturbed: others used "), "{heard:?}");
    assert_eq!(measurement.discarded as usize, heard.len());
    assert!(measurement.others.unwrap().cpu.unwrap() <= 0.6, "{measurement:?}");
}

#[tokio::test]
async fn what_is_disturbed_again_and_again_has_failed_for_that_and_leaves_nothing_behind() {
    let mut house = House::new("");
    let quiet = Quiet { others_max: 0.0, others_rise_max: 1.0 };
    let repeats = Repeats { quiet, count_max: 2, pause: Duration::from_millis(1) };
    let (kloros, machine) = (std::env::current_exe().unwrap(), machine(house.home.path()));
    house.runner = Runner::new(house.home.path().to_owned(), kloros, Arc::new(Noon), machine, repeats);
    let _burst = Burners::on_every_core();
    let domain = domain(instance(), perl(IDLE));
    house.check(&domain, FailureKind::Disturbed, "3 samples in a row were: others used").await;
}

#[tokio::test]
async fn what_the_measured_instance_and_its_bench_use_is_not_the_load_of_others() {
    let house = House::new("");
    // The bench uses a core; what others do meanwhile is the same for both, but for chance: so the best of three.
    let mut least = [f64::INFINITY; 2];
    for _ in 0..3 {
        for (least, script) in least.iter_mut().zip([BUSY, IDLE]) {
            let measurement = house.measure(&domain(instance(), perl(script))).await.unwrap();
            *least = least.min(measurement.others.unwrap().cpu.unwrap());
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    assert!(least[0] - least[1] < 0.5 / cores, "{least:?} on {cores} cores");
}

#[tokio::test]
async fn a_turn_that_was_kept_for_a_change_is_its_first_runs_and_nobody_elses() {
    let house = House::new("SLOTS=1\n");
    let (change, domain) = (DeploymentId::new("d-1"), domain(instance(), chat()));
    house.runner.reserve(&change).await.unwrap();
    let other = house.runner.measure(&domain, assignment("x-1.g1.c1", Settings::new()));
    assert!(timeout(Duration::from_millis(300), other).await.is_err(), "it is not its turn");
    let own = Assignment { purpose: Purpose::Validation(change), ..assignment("d-1.b1.r1", Settings::new()) };
    house.runner.measure(&domain, own).await.unwrap();
    // The run gave it back.
    house.measure(&domain).await.unwrap();
}

#[tokio::test]
async fn a_turn_that_was_kept_is_given_back_when_the_change_is_over() {
    let house = House::new("SLOTS=1\n");
    let (change, measures) = (DeploymentId::new("d-1"), || machine(house.home.path()).look().unwrap().measures);
    house.runner.reserve(&change).await.unwrap();
    house.runner.keep(std::slice::from_ref(&change));
    assert_eq!(measures().unwrap().what, "the change d-1");
    house.runner.keep(&[DeploymentId::new("d-2")]);
    assert_eq!(measures(), None);
}
