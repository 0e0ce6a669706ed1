//! `kloros detect` as a person and as a program meet it.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn kloros(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kloros"));
    command.arg("detect").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Returns what it says to `input`.
fn answers(arguments: &[&str], input: &str) -> (Vec<String>, Output) {
    let mut child = kloros(arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let lines = String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect();
    (lines, output)
}

/// Returns a value that wobbles about 50.
fn wobble(row: usize) -> f64 {
    50.0 + (row * 7919 % 101) as f64 / 50.0
}

/// Returns the text of a table of 1000 minutes: latency jumps at row 700, and the counter grows all the time.
fn table() -> String {
    let mut text = String::from("timestamp,latency_ms,requests_total,idle\n");
    let mut sum = 0;
    for row in 0..1000 {
        sum += 40 + row * 31 % 7;
        let latency = wobble(row) + if row >= 700 { 30.0 } else { 0.0 };
        writeln!(text, "2026-01-05 {:02}:{:02}:00,{latency},{sum},1", row / 60, row % 60).unwrap();
    }
    text
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn each_line_is_answered_before_the_next_one_is_written() {
    let mut child = kloros(&["--stream", "--warmup", "100", "--step", "60"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut alarms = Vec::new();
    for row in 0..400 {
        let value = wobble(row) + if row >= 350 { 25.0 } else { 0.0 };
        writeln!(stdin, "{},{value}", 1_700_000_000 + 60 * row).unwrap();
        let mut answer = String::new();
        stdout.read_line(&mut answer).unwrap();
        let (score, alarm) = answer.trim_end().split_once(',').unwrap();
        assert!((0.0..=1.0).contains(&score.parse::<f64>().unwrap()), "{answer}");
        if alarm == "1" {
            alarms.push(row);
        }
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert_eq!(alarms.len(), 1, "one event is one alarm: {alarms:?}");
    assert!((350..354).contains(&alarms[0]), "{alarms:?}");
}

#[test]
fn a_line_that_cannot_be_read_is_answered_and_told_with_its_number() {
    let (lines, output) = answers(&["--stream"], "timestamp,value\n60,1\n120,\n\n180,many\n2026-01-05T00:00:00Z,2\n");
    assert_eq!(lines, ["0.000000,0"; 6]);
    assert_eq!(output.status.code(), Some(0));
    let told = String::from_utf8(output.stderr).unwrap();
    for (number, what) in [(1, "timestamp"), (4, "comma"), (5, "many")] {
        assert!(told.lines().any(|line| line.contains(&format!("line {number}:")) && line.contains(what)), "{told}");
    }
    assert_eq!(told.lines().count(), 3, "{told}");
}

#[test]
fn no_input_is_no_output_and_a_stream_takes_no_file() {
    let (lines, output) = answers(&["--stream"], "");
    assert_eq!((lines.len(), output.status.code()), (0, Some(0)));
    for wrong in [&["--stream", "x.csv"][..], &["--stream", "--step", "0"], &["--stream", "--warmup", "0"], &[]] {
        let output = kloros(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_counter_in_a_stream_is_looked_at_by_its_growth() {
    let mut input = String::new();
    let mut sum = 0;
    for row in 0..500 {
        sum += if row < 400 { 40 + row * 31 % 7 } else { 0 };
        writeln!(input, "{},{sum}", row * 60).unwrap();
    }
    let (lines, _) = answers(&["--stream", "--kind", "counter", "--warmup", "150"], &input);
    let alarms: Vec<usize> = (0..500).filter(|row| lines[*row].ends_with(",1")).collect();
    assert!(alarms.first().is_some_and(|row| (400..412).contains(row)), "a stall is found: {alarms:?}");
}

#[test]
fn files_with_a_header_are_told_incident_by_incident() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "web.csv", &table());
    let output = kloros(&[&path]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.starts_with("2026-01-05 11:4"), "{said}");
    assert!(said.contains("latency_ms") && said.contains("was expected"), "{said}");
    assert!(said.trim_end().ends_with("1 incident in 3 series"), "{said}");

    let svg = folder.path().join("web.svg");
    let output = kloros(&["--json", &path, &path, "--svg", svg.to_str().unwrap()]).output().unwrap();
    let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(facts["series"], 6);
    let incidents = facts["incidents"].as_array().unwrap();
    assert_eq!(incidents.len(), 2, "{facts}");
    for incident in incidents {
        assert_eq!(incident["series"], "latency_ms");
        let expected = incident["expected"].as_f64().unwrap();
        assert!((45.0..60.0).contains(&expected), "{incident}");
        assert!(incident["start_s"].as_f64().unwrap() >= 1_767_612_000.0, "{incident}");
    }
    let drawn = fs::read_to_string(&svg).unwrap();
    let parsed = roxmltree::Document::parse(&drawn).unwrap();
    let marked = parsed.descendants().filter(|node| node.attribute("class") == Some("incident"));
    assert_eq!(marked.count(), 2);
}

#[test]
fn a_surge_of_a_named_load_is_told_apart_from_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("time,requests,latency_ms\n");
    for row in 0..1000 {
        let factor = if (700..760).contains(&row) { 3.0 } else { 1.0 };
        writeln!(text, "{},{},{}", row * 60, factor * wobble(row + 13), factor * wobble(row)).unwrap();
    }
    let path = write(folder.path(), "surge.csv", &text);
    let said =
        |arguments: &[&str]| -> Value { serde_json::from_slice(&kloros(arguments).output().unwrap().stdout).unwrap() };
    let surges = |facts: &Value| -> Vec<bool> {
        let of_latency = |fact: &&Value| fact["series"] == "latency_ms";
        let incidents = facts["incidents"].as_array().unwrap().iter().filter(of_latency);
        incidents.map(|incident| incident["surge"].as_bool().unwrap()).collect()
    };
    assert!(!surges(&said(&["--json", &path]))[0]);
    assert!(surges(&said(&["--json", &path, "--load", "requests"]))[0]);
    let output = kloros(&[&path, "--load", "rps"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && told.contains("no column rps"), "{told}");
}

#[test]
fn a_file_that_is_no_table_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("empty.csv", "", "no header"),
        ("bare.csv", "60,1\n120,2\n", "--stream"),
        ("narrow.csv", "timestamp\n60\n", "one column"),
    ];
    for (name, text, expected) in cases {
        let path = write(folder.path(), name, text);
        let output = kloros(&[&path]).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(told.contains(name) && told.contains(expected), "{told}");
    }
    let path = write(folder.path(), "torn.csv", "timestamp,a,b\n60,1,2\n120,x,\n180\n240,1,2\n");
    let output = kloros(&[&path]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(told.contains("line 3") && told.contains("line 4") && told.lines().count() == 2, "{told}");
    let output = kloros(&["/nowhere.csv"]).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nowhere.csv"));
}

/// Once such a file had no incident and was well.
#[test]
fn a_file_without_a_single_number_is_not_called_well() {
    let folder = tempfile::tempdir().unwrap();
    for rows in ["1,NaN\n2,NaN\n", "1,x\n2,y\n", "1e300,1\n2e300,2\n"] {
        let file = write(folder.path(), "a.csv", &format!("timestamp,latency_ms\n{rows}"));
        let output = kloros(&[&file]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{rows:?}: {said}");
        assert!(said.contains("latency_ms") && said.contains("nothing to look at"), "{said}");
    }
}
