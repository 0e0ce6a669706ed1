use std::{collections::BTreeMap, fs};

use kloros_actors::{
    facts::{Apply, BenchSpec, Isolation, Key, Knob, KnobKind, Manager, ReadBack, Ready, ServiceSpec, Value},
    seams::ServiceControl,
};
use tempfile::TempDir;

use super::*;

/// A domain with one knob, and this check.
fn domain(command: &[&str], within_s: u64) -> Domain {
    let command = command.iter().map(|argument| (*argument).to_owned()).collect();
    let slots = Knob {
        range: KnobKind::Integer { min: 1, max: 9, log: false, step: None },
        default: Value::Integer(2),
        apply: Apply::Restart,
        step_max: None,
        reversible: true,
        relieves: Vec::new(),
        trades: None,
        takes: None,
    };
    let service = ServiceSpec::of(
        Manager::Child,
        vec!["true".to_owned()],
        "svc.env".into(),
        Ready::http("/", 1, 1),
        ReadBack::ProcEnviron,
    );
    Domain {
        name: "svc".to_owned(),
        risk: None,
        isolation: Isolation::Shadow,
        in_place: None,
        service: ServiceSpec { check: Some(Check { command, within_s }), ..service },
        knobs: [(Key::new("SLOTS").unwrap(), slots)].into(),
        bench: BenchSpec::Command { argv: Vec::new(), timeout_s: 1 },
        metrics: BTreeMap::new(),
        objectives: Vec::new(),
        quiet: None,
        needs: None,
    }
}

async fn asked(command: &[&str], bytes: &str) -> Result<(), ServiceError> {
    let home = TempDir::new().unwrap();
    let services = Services::new(home.path().to_owned(), "kloros".into());
    let answer = services.accepts(&domain(command, 60), bytes.as_bytes()).await;
    assert_eq!(fs::read_dir(home.path().join(".kloros")).unwrap().count(), 0, "it leaves something");
    answer
}

#[tokio::test]
async fn a_check_sees_the_file_and_the_values_that_the_service_would_get() {
    asked(&["grep", "-qx", "SECRET=hush1", "{env_file}"], "SECRET=hush1\nSLOTS=7\n").await.unwrap();
    asked(&["test", "{SLOTS}", "=", "7"], "SLOTS=7\n").await.unwrap();
    asked(&["test", "{SLOTS}", "=", "2"], "").await.unwrap();
    asked(&["test", "{port}", "-gt", "0"], "").await.unwrap();
    asked(&["test", "{kloros}", "=", "kloros"], "").await.unwrap();
}

#[tokio::test]
async fn what_a_check_refuses_is_refused_with_its_words_and_without_secrets() {
    let refused = asked(&["cat", "{env_file}", "/no/such/file"], "SECRET=hush1\n").await.unwrap_err();
    assert!(matches!(refused, ServiceError::Refused(_)), "{refused}");
    let text = refused.to_string();
    assert!(
        text.starts_with("refused: the check refuses them: exit status: 1") && text.contains("/no/such/file"),
        "{text}"
    );
    assert!(!text.contains("hush1"), "{text}");
}

#[tokio::test]
async fn a_check_that_hangs_refuses_and_one_that_is_not_there_says_nothing() {
    let home = TempDir::new().unwrap();
    let services = Services::new(home.path().to_owned(), "kloros".into());
    let ask = async |domain: &Domain| services.accepts(domain, b"").await;
    let hangs = ask(&domain(&["sleep", "600"], 1)).await.unwrap_err();
    assert!(hangs.to_string().ends_with("it did not end within 1 s"), "{hangs}");
    let mut gone = domain(&["/no/such/program"], 60);
    let not_run = ask(&gone).await.unwrap_err();
    assert!(matches!(not_run, ServiceError::Unreachable(_)), "{not_run}");
    gone.service.check = None;
    assert_eq!(ask(&gone).await, Ok(()));
}
