//! A service that kloros did not write: a real llama-server, tuned by the domain file that ships.

use std::{env, fs, path::PathBuf};

use serde_json::Value;

use super::{
    QUIET,
    house::{House, said},
    stages,
};

/// Returns the server and the model that `ops/real/get_llama_server` made; where they must be there, they are.
fn server() -> Option<(PathBuf, PathBuf)> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cache")));
    let folder = cache.unwrap_or_default().join("kloros/llama-server-0.3.36");
    let (server, model) = (folder.join("llama-server"), folder.join("model.gguf"));
    let is_there = server.is_file() && model.is_file();
    assert!(is_there || env::var("KLOROS_LLAMA").is_err(), "llama-server is missing: run ops/real/get_llama_server");
    is_there.then_some((server, model))
}

/// The files that ship, with the server as a child of the daemon, measured more briefly, and no more threads than this machine has.
fn with_llama(server: &(PathBuf, PathBuf), env_file: &str) -> House {
    let shipped =
        |name: &str| fs::read_to_string(format!("{}/config/domains/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let house = House::new(QUIET, "[gate]\nautonomy = 3\n");
    // Nothing is wrong while nobody asks it anything, so what is asked is whether there is something better.
    fs::create_dir_all(house.path("conf.d")).unwrap();
    let idle =
        "[curiosity]\nidle_after_s = 1\nidle_per_day_max = 9\nidle = { max_candidates = 6, max_generations = 2 }\n";
    fs::write(house.path("conf.d/idle.toml"), idle).unwrap();
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let changed = [
        ("{ systemd = { unit = \"llama-server.service\" } }", "\"child\"".to_owned()),
        ("port = 8080", "port = 0".to_owned()),
        ("/opt/llama.cpp/llama-server", server.0.display().to_string()),
        ("MODEL.gguf", server.1.display().to_string()),
        ("\"/etc/kloros/env/llama.env\"", "\"llama.env\"".to_owned()),
        ("max = 64, log = true }\ndefault = 4", format!("max = {cores}, log = true }}\ndefault = {cores}")),
        ("warmup_s = 5", "warmup_s = 0.5".to_owned()),
        ("window_s = 30", "window_s = 2".to_owned()),
    ];
    let text = changed.iter().fold(shipped("llama_cpp.toml"), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replace(old, new)
    });
    fs::create_dir_all(house.path("domains")).unwrap();
    fs::write(house.path("domains/llama_cpp.toml"), text).unwrap();
    let experiments = shipped("llama_cpp.yaml").replace("max: 64, log: true", &format!("max: {cores}, log: true"));
    fs::write(house.path("dream.yaml"), experiments).unwrap();
    fs::write(house.path("llama.env"), env_file).unwrap();
    house
}

/// One slot and one thread is the bad setting that a person begins with; what is better is found and kept, and what is worse is not.
#[test]
fn a_llama_server_that_was_left_with_one_slot_is_made_faster_and_stays_so() {
    let Some(server) = server() else {
        println!("not tried: llama-server was not built, see ops/real/get_llama_server");
        return;
    };
    let before = "# by hand\nLLAMA_ARG_N_PARALLEL=1\nLLAMA_ARG_THREADS=1\n";
    let mut house = with_llama(&server, before);
    house.spawn(&[]);
    house.until("the daemon answers", |house| house.kloros(&["status"]).status.success());
    // On a busy machine the first experiment may find nothing; it is asked again.
    house.until("something better was found and kept", |house| success(house).is_some());
    fs::write(house.path("conf.d/idle.toml"), "[curiosity]\nidle_per_day_max = 0\n").unwrap();
    assert!(house.kloros(&["reload", "--wait"]).status.success());
    house.until("nothing goes on", |house| {
        stages(house).iter().all(|stage| stage == "closed")
            && house.json(&["questions"]).as_array().unwrap().iter().all(|each| !each["end"].is_null())
    });
    let verdict = success(&house).unwrap();
    println!("from one slot and one thread: {}", verdict["improvement"]);
    let tuned = house.read("llama.env");
    assert!(tuned.starts_with("# by hand\nLLAMA_ARG_N_PARALLEL=") && tuned != before, "{tuned}");
    every_value_is_in_force(&house, &verdict);

    let deployments = stages(&house).len();
    let tried = house.kloros(&["try", "llama_cpp", "LLAMA_ARG_N_PARALLEL=1", "LLAMA_ARG_THREADS=1", "--no-wait"]);
    assert!(tried.status.success(), "{}", said(&tried));
    house.until("it is closed", |house| {
        let stages = stages(house);
        stages.len() > deployments && stages.iter().all(|stage| stage == "closed")
    });
    // The oldest stands first.
    let verdict = house.json(&["deployments"])[deployments]["verdict"].clone();
    println!("back to them: {} {}", verdict["outcome"], verdict["improvement"]);
    assert_eq!((&verdict["outcome"], verdict["blocks"].as_u64() > Some(1)), (&"rollback".into(), true), "{verdict}");
    assert_eq!(house.read("llama.env"), tuned, "the file is as it was, byte for byte");
    assert_eq!(house.interrupt(), Some(0));
    assert_eq!(house.processes(), 0, "a server is left");
}

/// Returns the verdict by which something was kept last; of a deployment that is closed.
fn success(house: &House) -> Option<Value> {
    let deployments = house.json(&["deployments"]);
    let is_success = |each: &&Value| each["stage"] == "closed" && each["verdict"]["outcome"] == "success";
    Some(deployments.as_array()?.iter().rfind(is_success)?["verdict"].clone())
}

/// What the verdict says was changed is what the serving process has in its environment.
fn every_value_is_in_force(house: &House, verdict: &Value) {
    let service = &house.json(&["status"])["live"]["services"][0];
    let pid = service["pid"].as_u64().unwrap();
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    for (key, change) in verdict["changes"].as_object().unwrap() {
        let to = change["to"].as_str().map_or_else(|| change["to"].to_string(), str::to_owned);
        assert!(environment.split('\0').any(|each| each == format!("{key}={to}")), "{key}={to}: {environment}");
    }
}
