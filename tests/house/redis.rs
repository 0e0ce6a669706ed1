//! A service that kloros did not write: a real Redis, tuned by the domain file that ships.

use std::{env, fs, process::Command};

use super::{
    QUIET,
    house::{House, said},
    stages,
};

/// Returns whether there is a Redis to tune; where it must be there, it is.
fn is_there() -> bool {
    let is_there =
        Command::new("redis-benchmark").arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(
        is_there || env::var("KLOROS_REDIS").is_err(),
        "redis-benchmark is missing: install redis-server, redis-tools"
    );
    is_there
}

/// The files that ship, with Redis as a child of the daemon, measured more briefly, and as much beside it as there is.
fn with_redis() -> House {
    let shipped =
        |name: &str| fs::read_to_string(format!("{}/config/domains/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let house = House::new(QUIET, "");
    let changed = [
        ("manager = { systemd = { unit = \"redis-server.service\" } }", "manager = \"child\""),
        ("port = 6379", "port = 0"),
        ("\"/etc/kloros/env/redis.env\"", "\"redis.env\""),
        ("\"100000\"", "\"15000\""),
    ];
    let text = changed.iter().fold(shipped("redis.toml"), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replace(old, new)
    });
    fs::create_dir_all(house.path("domains")).unwrap();
    fs::write(house.path("domains/redis.toml"), text).unwrap();
    fs::write(house.path("dream.yaml"), shipped("redis.yaml")).unwrap();
    fs::write(house.path("redis.env"), "# by hand\nREDIS_HZ=10\n").unwrap();
    house
}

/// A setting that sounds like more is less: on two cores a second I/O thread costs a third of what a Redis answers.
#[test]
fn a_redis_that_a_second_io_thread_slows_down_gets_its_old_setting_back() {
    if !is_there() {
        println!("not tried: redis-benchmark is not installed");
        return;
    }
    let mut house = with_redis();
    let before = house.read("redis.env");
    house.spawn(&[]);
    // A change whose runs all fail is taken back as well.
    let measured = house.kloros(&["bench", "redis"]);
    assert_eq!(measured.status.code(), Some(0), "{}", said(&measured));
    house.until("the daemon answers", |house| house.kloros(&["status"]).status.success());
    let tried = house.kloros(&["try", "redis", "REDIS_IO_THREADS=2", "--no-wait"]);
    assert!(said(&tried).contains("REDIS_IO_THREADS unset (1) -> 2"), "{}", said(&tried));
    house.until("it is live", |house| house.read("redis.env").contains("REDIS_IO_THREADS=2"));
    house.until("it is closed", |house| stages(house) == ["closed"]);
    let verdict = house.json(&["deployments"])[0]["verdict"].clone();
    println!("REDIS_IO_THREADS 1 -> 2: {}", verdict["outcome"]);
    assert_ne!(verdict["outcome"], "success", "{verdict}");
    // It was measured: a bench that never runs takes every change back.
    assert!(verdict["blocks"].as_u64() > Some(1), "{verdict}");
    let is_taken_back = house.read("redis.env") == before;
    assert_eq!(verdict["outcome"] != "neutral", is_taken_back, "{verdict}: {}", house.read("redis.env"));
    assert_eq!(house.interrupt(), Some(0));
    assert_eq!(house.processes(), 0, "a Redis is left");
}
