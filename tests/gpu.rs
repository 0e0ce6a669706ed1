//! `kloros gpu`, with a driver that is scripted, and without one.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

/// Runs `kloros gpu` with a driver that has this script; without a driver when there is none.
fn gpu(script: Option<&Value>, arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let library = home.path().join("libnvidia-ml.so.1");
    if let Some(script) = script {
        fs::copy(std::env::current_exe().unwrap().with_file_name("libfake_nvml.so"), &library).unwrap();
        fs::write(home.path().join("script.json"), script.to_string()).unwrap();
    }
    run(home.path(), &library, arguments)
}

fn run(home: &Path, library: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kloros"))
        .arg("gpu")
        .args(arguments)
        .arg("--home")
        .arg(home)
        .env("KLOROS__GPU__LIBRARY", library)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn h100(state: &str) -> Value {
    let file = format!("{}/tests/fixtures/nvml/h100-80gb-{state}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn a_gpu_is_described_in_plain_words_with_what_it_would_not_say_and_why() {
    let output = gpu(Some(&h100("busy")), &[]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    for words in [
        "1 GPU, driver 580.159.04, CUDA 13.0",
        "NVIDIA H100 80GB HBM3",
        "100 %, memory bandwidth 34 %",
        "77.1 GiB of 79.6 GiB used",
        "60 C, memory 54 C",
        "698 W of 700 W",
        "by power_cap",
        "not to say nvlink, retired_double_bit",
    ] {
        assert!(said.contains(words), "{words:?} is missing:\n{said}");
    }
    assert!(said.lines().all(|line| line.chars().count() <= 120), "{said}");
}

#[test]
fn everything_is_said_that_was_said_of_a_real_h100() {
    let said = said(&gpu(Some(&h100("busy")), &[]));
    let names = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("   ") && !line.starts_with("    "));
        lines.map(|line| line.chars().take(14).collect()).collect()
    };
    let refused = |text: &str| text.lines().last().unwrap().to_owned();
    for state in ["load", "full"] {
        let real = format!("{}/tests/fixtures/nvml/h100-80gb-{state}.txt", env!("CARGO_MANIFEST_DIR"));
        let real = fs::read_to_string(real).unwrap();
        assert_eq!(names(&said), names(&real), "{state}");
        assert!(names(&real).len() > 10, "{real}");
        assert_eq!(refused(&said), refused(&real), "{state}");
    }
}

#[test]
fn the_same_is_told_as_json_in_base_units() {
    let output = gpu(Some(&h100("idle")), &["--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let gpu = &told["gpus"][0];
    assert_eq!(gpu["values"]["power_watts"], json!(92.845));
    assert_eq!(gpu["values"]["clock_hertz"]["memory"]["max"], json!(2.619e9));
    assert_eq!((&gpu["up"], &gpu["trouble"]), (&json!(true), &Value::Null));
    assert_eq!(gpu["refused"]["nvlink"], json!("not supported"));
    assert_eq!(told["driver"]["state"], json!("ready"));
}

#[test]
fn without_a_driver_it_says_what_is_missing_and_no() {
    for arguments in [&[][..], &["--json"]] {
        let output = gpu(None, arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("no NVIDIA driver on this machine"), "{}", said(&output));
    }
    assert!(said(&gpu(None, &[])).starts_with("no GPU here: "));
}

#[test]
fn a_driver_in_trouble_is_told_with_what_to_do() {
    for (system, expected) in [
        (json!({"nvmlInit_v2": {"code": 9}}), "kernel module is not loaded"),
        (json!({"nvmlInit_v2": {"code": 18}}), "restart the machine"),
        (json!({"nvmlInit_v2": {"code": 4}}), "/dev/nvidiactl"),
        (json!({"nvmlInit_v2": {"code": 77}}), "unknown code 77"),
        (json!({}), "knows of no GPU"),
    ] {
        let output = gpu(Some(&json!({"system": system, "gpus": []})), &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).starts_with("no GPU here: ") && said(&output).contains(expected), "{}", said(&output));
    }
}

#[test]
fn a_gpu_that_does_not_say_who_it_is_is_named_by_its_place() {
    let mut script = h100("idle");
    let lost = json!({"nvmlDeviceGetUUID": {"value": "GPU-2"}, "lost": true});
    script["gpus"].as_array_mut().unwrap().push(lost);
    let output = gpu(Some(&script), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("the GPU at index 1 does not say who it is"), "{}", said(&output));
}

#[test]
fn a_name_that_would_steer_the_terminal_does_not() {
    let mut script = h100("idle");
    script["gpus"][0]["nvmlDeviceGetName"]["value"] = json!("\u{1b}[2J evil");
    assert!(!said(&gpu(Some(&script), &[])).contains('\u{1b}'));
    assert!(!said(&gpu(Some(&script), &["--json"])).contains('\u{1b}'));
}

#[test]
fn a_library_that_is_not_named_by_its_whole_path_is_not_loaded() {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), Path::new("libnvidia-ml.so.1"), &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("gpu.library"));
}
