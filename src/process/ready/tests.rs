//! Readiness of real children and real ports.

use std::sync::{Arc, Mutex};

use axum::{Router, http::StatusCode, routing::get};

use kloros_actors::facts::Ready;

use super::{super::free_port, *};
use crate::service::wanted;

fn launch(script: &str) -> Launch {
    let argv = ["awk", "BEGIN { exit system(ARGV[1]) }", script].map(str::to_owned).to_vec();
    Launch { argv, env: Vec::new(), nice: 0, secrets: Secrets::of([]), remains: Remains::Killed }
}

fn port_of(listener: &tokio::net::TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

async fn serve(handler: Router) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = port_of(&listener);
    tokio::spawn(async { axum::serve(listener, handler).await });
    port
}

/// Returns how an instance that runs `script` comes to be ready.
async fn waits(ready: &Ready, port: u16, script: &str) -> Result<(), ReadyError> {
    let readiness = Readiness::of(wanted(ready), port)?;
    let launch = Launch { env: readiness.variables(), ..launch(script) };
    let mut instance = Instance::spawn_heard(launch, readiness.heard()).await.unwrap();
    readiness.wait(&mut instance).await
}

#[tokio::test]
async fn an_instance_is_ready_after_enough_good_answers_in_a_row() {
    let asked = Arc::new(Mutex::new(0_u32));
    let counter = Arc::clone(&asked);
    let flapping = move || async move {
        let mut asked = counter.lock().unwrap();
        *asked += 1;
        // Two good answers, a bad one, then good ones for ever.
        if *asked == 3 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    };
    let port = serve(Router::new().route("/health", get(flapping))).await;
    waits(&Ready::http("/health", 20, 3), port, "exec sleep 300").await.unwrap();
    assert_eq!(*asked.lock().unwrap(), 6);
}

#[tokio::test]
async fn an_instance_that_ends_is_not_ready_though_its_port_answers() {
    let port = serve(Router::new().route("/health", get(|| async { "not me" }))).await;
    match waits(&Ready::http("/health", 20, 100), port, "exec ls /no/such").await.unwrap_err() {
        ReadyError::Exited { status, tail } => {
            assert!(!status.success());
            assert!(tail.contains("/no/such"), "{tail}");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_instance_that_never_answers_runs_out_of_time() {
    for ready in [
        Ready::http("/health", 0, 1),
        Ready { tcp: true, ..Ready::default() },
        Ready { command: vec!["false".to_owned()], passes: 1, ..Ready::default() },
        Ready { notify: true, ..Ready::default() },
        Ready { log_line: Some("ready".to_owned()), ..Ready::default() },
    ] {
        let ready = Ready { passes: 1, ..ready };
        let error = waits(&ready, free_port().unwrap(), "exec sleep 300").await.unwrap_err();
        assert!(matches!(error, ReadyError::TimedOut { passes: 1, .. }), "{ready:?}: {error}");
    }
}

#[tokio::test]
async fn a_port_that_accepts_and_a_program_that_says_yes_are_signs_of_readiness() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = port_of(&listener);
    waits(&Ready { tcp: true, within_s: 20, passes: 2, ..Ready::default() }, port, "exec sleep 300").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("up").display().to_string();
    // It is asked by the port that the instance was given.
    let command = ["grep", "-qx", "{port}", &file].map(str::to_owned).to_vec();
    let ready = Ready { command, within_s: 20, passes: 2, ..Ready::default() };
    waits(&ready, 4711, &format!("echo 4711 > {file}; exec sleep 300")).await.unwrap();
    assert!(Readiness::of(wanted(&ready), 4712).unwrap().well().await.unwrap_err().contains("ended with"));
    let hangs = Ready { command: ["sleep", "300"].map(str::to_owned).to_vec(), ..Ready::default() };
    let late = Readiness::of(wanted(&hangs), 1).unwrap().once(Duration::from_millis(50)).await.unwrap_err();
    assert!(late.contains("did not end within"), "{late}");
}

#[tokio::test]
async fn a_text_in_the_output_is_heard_whatever_else_is_printed() {
    let ready = Ready { log_line: Some("listening on".to_owned()), within_s: 20, passes: 1, ..Ready::default() };
    let chatty =
        "i=0; while [ $i -lt 3000 ]; do echo \"$i ........................................\"; i=$((i+1)); done";
    // More than is kept is printed before and after it.
    let script =
        format!("{chatty}; echo 'listen' >&2; echo 'now listening on 1' >&2; {chatty}; {chatty}; exec sleep 300");
    waits(&ready, 1, &script).await.unwrap();
    let unheard = Readiness::of(wanted(&ready), 1).unwrap().wait_for_other().await.unwrap_err();
    assert!(unheard.to_string().contains("only a child of kloros is heard"), "{unheard}");
}

/// What the child under test says; the child is this test program, started anew.
const SAYS: &str = "KLOROS_TEST_SAYS";

#[test]
fn the_child_under_test_says_what_it_is_told_to() {
    let Ok(words) = std::env::var(SAYS) else {
        // Not started as a child.
        return;
    };
    let name = std::env::var("NOTIFY_SOCKET").unwrap();
    let name = name.strip_prefix('@').unwrap();
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name).unwrap();
    std::os::unix::net::UnixDatagram::unbound().unwrap().send_to_addr(words.as_bytes(), &address).unwrap();
    // Whoever has ended before it is heard is nobody's.
    std::thread::park_timeout(Duration::from_secs(300));
}

/// Returns a child that says `words`, below a shell.
fn says(words: &str, readiness: &Readiness) -> Launch {
    let this = std::env::current_exe().unwrap().display().to_string();
    let script = format!("'{this}' --exact process::ready::tests::the_child_under_test_says_what_it_is_told_to & wait");
    let mut env = readiness.variables();
    env.push((SAYS.to_owned(), words.to_owned()));
    Launch { env, ..launch(&script) }
}

#[tokio::test]
async fn an_instance_that_says_so_itself_is_ready_and_nobody_else_says_it_for_it() {
    let ready = |within_s| Ready { notify: true, within_s, passes: 1, ..Ready::default() };
    let readiness = Readiness::of(wanted(&ready(60)), 1).unwrap();
    let mut instance = Instance::spawn(says("STATUS=up\nREADY=1\nMAINPID=1", &readiness)).await.unwrap();
    readiness.wait(&mut instance).await.unwrap();

    let readiness = Readiness::of(wanted(&ready(1)), 1).unwrap();
    let mut instance = Instance::spawn(says("STATUS=READY=1", &readiness)).await.unwrap();
    let unsaid = readiness.wait(&mut instance).await;
    assert!(matches!(unsaid, Err(ReadyError::TimedOut { .. })), "{unsaid:?}");

    let readiness = Readiness::of(wanted(&ready(1)), 1).unwrap();
    let mut instance = Instance::spawn(launch("exec sleep 300")).await.unwrap();
    let _stranger = Instance::spawn(says("READY=1", &readiness)).await.unwrap();
    let unsaid = readiness.wait(&mut instance).await;
    assert!(matches!(unsaid, Err(ReadyError::TimedOut { .. })), "{unsaid:?}");
}

#[tokio::test]
async fn an_instance_that_does_not_stay_up_is_not_ready() {
    let asked = Arc::new(Mutex::new(0_u32));
    let counter = Arc::clone(&asked);
    let fades = move || async move {
        let mut asked = counter.lock().unwrap();
        *asked += 1;
        if *asked > 2 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    };
    let port = serve(Router::new().route("/health", get(fades))).await;
    let ready = Ready { bake_s: 20.0, ..Ready::http("/health", 20, 1) };
    let fell = waits(&ready, port, "exec sleep 300").await.unwrap_err();
    assert!(matches!(&fell, ReadyError::Fell { why, .. } if why.contains("503")), "{fell}");
    // What says once that it is ready has to live on.
    let ready = Ready { log_line: Some("up".to_owned()), within_s: 20, passes: 1, bake_s: 20.0, ..Ready::default() };
    let ended = waits(&ready, 1, "echo up; sleep 0.3; exit 3").await.unwrap_err();
    assert!(matches!(ended, ReadyError::Exited { .. }), "{ended}");
    let ready = Ready { bake_s: 0.3, ..ready };
    waits(&ready, 1, "echo up; exec sleep 300").await.unwrap();
}
