//! A voice that is lost: a speech server over espeak-ng, tuned by the domain file that ships.

use std::{env, fs, process::Command};

use super::{
    QUIET,
    house::{House, said},
    stages,
};

/// Returns whether there is a voice; where it must be there, it is.
fn is_there() -> bool {
    let runs = |program| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    let is_there = runs("espeak-ng") && runs("node");
    assert!(is_there || env::var("KLOROS_ESPEAK").is_err(), "espeak-ng or node is missing: install espeak-ng, nodejs");
    is_there
}

/// The files that ship, with a server as a child of the daemon, measured more briefly.
fn with_a_voice() -> House {
    let root = env!("CARGO_MANIFEST_DIR");
    let shipped = |name: &str| fs::read_to_string(format!("{root}/config/domains/{name}")).unwrap();
    let house = House::new(QUIET, "");
    let argv = format!("argv = [\"node\", \"{root}/tests/house/speech.mjs\", \"{{port}}\"]");
    let changed = [
        ("manager = { systemd = { unit = \"tts.service\" } }", "manager = \"child\""),
        ("argv = [\"/opt/tts/server\", \"--host\", \"127.0.0.1\", \"--port\", \"{port}\"]", argv.as_str()),
        ("port = 8880", "port = 0"),
        ("\"/etc/kloros/env/tts.env\"", "\"tts.env\""),
        ("poisson = { rate_per_s = 0.5, in_flight_max = 32 }", "closed = { clients = 2 }"),
        ("warmup_s = 5\n", "warmup_s = 0.2\n"),
        ("window_s = 60\n", "window_s = 1\n"),
    ];
    let text = changed.iter().fold(shipped("tts.toml"), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replace(old, new)
    });
    fs::create_dir_all(house.path("domains")).unwrap();
    fs::write(house.path("domains/tts.toml"), text).unwrap();
    fs::write(house.path("dream.yaml"), shipped("tts.yaml")).unwrap();
    // What a server is not told, it does not say: its environment is what is read back.
    fs::write(house.path("tts.env"), "# by hand\nOMP_NUM_THREADS=1\nOMP_WAIT_POLICY=PASSIVE\n").unwrap();
    house
}

/// It answers in no time: with a head and a second of silence. What has no voice has no real-time factor, and is taken back.
#[test]
fn a_speech_server_that_answers_faster_with_silence_is_never_promoted() {
    if !is_there() {
        println!("not tried: espeak-ng or node is not installed");
        return;
    }
    let mut house = with_a_voice();
    let before = house.read("tts.env");
    house.spawn(&[]);
    house.until("the daemon answers", |house| house.kloros(&["status"]).status.success());
    let tried = house.kloros(&["try", "tts", "OMP_WAIT_POLICY=ACTIVE", "--no-wait"]);
    assert!(said(&tried).contains("OMP_WAIT_POLICY PASSIVE -> ACTIVE"), "{}", said(&tried));
    house.until("it is live", |house| house.read("tts.env").contains("OMP_WAIT_POLICY=ACTIVE"));
    house.until("it is closed", |house| stages(house) == ["closed"]);
    let verdict = house.json(&["deployments"])[0]["verdict"].clone();
    println!("OMP_WAIT_POLICY PASSIVE -> ACTIVE: {} {}", verdict["outcome"], verdict["reason"]);
    assert_eq!(verdict["outcome"], "rollback", "{verdict}");
    assert_eq!(house.read("tts.env"), before, "the file is as it was, byte for byte");
    assert_eq!(house.interrupt(), Some(0));
    assert_eq!(house.processes(), 0, "a server is left");
}
