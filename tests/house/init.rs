//! `kloros init` and `kloros doctor DOMAIN` with the real program: what is found is written and proven.

use std::{
    env, fs,
    net::TcpStream,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::house::{House, Port, said};

const SECRET: &str = "s3cr3t-of-mine";

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn start(command: &mut Command) -> Option<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok().map(Self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts a Redis on a port of its own; where there must be one, there is.
fn redis() -> Option<(Running, Port)> {
    let held = Port::hold();
    let port = held.number();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--save", "", "--dir", "/tmp", "--requirepass", SECRET]);
    let running = Running::start(&mut command);
    assert!(running.is_some() || env::var("KLOROS_REDIS").is_err(), "redis-server is missing: install redis-server");
    Some((running?, held))
}

/// Returns what is proposed for the process `pid`.
fn proposal(told: &Value, pid: u32) -> &Value {
    let proposals = told["offer"]["proposals"].as_array().unwrap();
    proposals.iter().find(|proposal| proposal["pid"] == pid).unwrap_or_else(|| panic!("{told}"))
}

#[test]
fn a_real_redis_is_found_and_what_is_written_for_it_is_a_configuration_without_mistakes() {
    let Some((mut running, held)) = redis() else {
        println!("not tried: redis-server is not installed");
        return;
    };
    let (mut house, port) = (House::new("", ""), held.number());
    house.until("it listens", |_| TcpStream::connect(("127.0.0.1", port)).is_ok());
    // A server of models that was given its key as an argument, as far as anybody can see from outside.
    let mut disguised = Command::new("sleep");
    disguised.arg0(format!("llama-server --api-key {SECRET}")).arg("600");
    let disguised = Running::start(&mut disguised).unwrap();
    let before = fs::read_dir(house.path("")).unwrap().count();
    let told = house.json(&["init"]);
    let found = proposal(&told, running.0.id());
    assert_eq!((&found["service"], &found["port"]), (&Value::from("Redis"), &Value::from(port)));
    assert_eq!(proposal(&told, disguised.0.id())["service"], "llama-server");
    let shown = said(&house.kloros(&["init"]));
    assert!(shown.contains("nothing is written") && shown.contains("REDIS_IO_THREADS"), "{shown}");
    for text in [&shown, &told.to_string()] {
        assert!(!text.contains(SECRET), "{text}");
    }
    assert_eq!(fs::read_dir(house.path("")).unwrap().count(), before, "only --write writes");

    let written = house.kloros(&["init", "--write"]);
    assert_eq!(written.status.code(), Some(0), "{}", said(&written));
    let domain = format!("domains/{}.toml", found["domain"].as_str().unwrap());
    assert!(house.read(&domain).contains(&format!("\nport = {port}\n")), "{}", house.read(&domain));
    assert!(said(&written).contains(&format!("wrote      {}", house.path(&domain).display())), "{}", said(&written));
    let checked = house.kloros(&["check-config"]);
    assert_eq!(checked.status.code(), Some(0), "{}", said(&checked));

    // Measured more briefly than it ships, by the tools of Redis themselves, on instances beside the one that serves.
    let domain_file = house.path(&domain);
    let brief = house.read(&domain).replace("\"100000\"", "\"3000\"");
    fs::write(&domain_file, brief).unwrap();
    let (code, names, proven) = steps(&house, found["domain"].as_str().unwrap());
    assert_eq!(names.last().unwrap().0, "noise", "{proven}");
    assert_eq!(code, Some(0), "{proven}");
    assert!(running.is_alive(), "the Redis that serves was touched");

    let dream = house.read("dream.yaml");
    let again = house.json(&["init", "--write"]);
    assert_eq!(again["wrote"], serde_json::json!([]), "{again}");
    let left = again["offer"]["left"].as_array().unwrap();
    assert!(left.iter().any(|left| left["pid"] == running.0.id()), "{again}");
    assert_eq!(house.read("dream.yaml"), dream);
}

/// Returns the exit code and the steps of `kloros doctor DOMAIN`, each with how it was.
fn steps(house: &House, domain: &str) -> (Option<i32>, Vec<(String, String)>, Value) {
    let output = house.kloros(&["doctor", domain, "--quick", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let text = |step: &Value, key: &str| step[key].as_str().unwrap().to_owned();
    let steps = told["steps"].as_array().unwrap_or_else(|| panic!("{told}"));
    let steps = steps.iter().map(|step| (text(step, "about"), text(step, "how"))).collect();
    (output.status.code(), steps, told)
}

#[test]
fn the_lab_is_proven_before_the_loop_touches_it() {
    let house = House::new("", "");
    let (code, steps, told) = steps(&house, "lab");
    let names: Vec<&str> = steps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["start", "ready", "read back", "bench", "turn", "noise"], "{told}");
    assert_eq!((code, &told["proven"]), (Some(0), &Value::from(true)), "{told}");
    assert!(told["noise"]["resolves"].as_f64().is_some_and(|least| least > 0.0), "{told}");
    assert_eq!(house.processes(), 0, "an instance is left");
}

#[test]
fn a_domain_that_is_wrong_is_told_the_step_that_fails_and_what_to_do() {
    let house = House::new("", "");
    let lab = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/domains/lab.toml")).unwrap();
    let dream = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/dream.yaml")).unwrap();
    fs::create_dir_all(house.path("domains")).unwrap();
    fs::write(house.path("dream.yaml"), dream).unwrap();
    let bench = lab.find("[bench]").unwrap()..lab.find("[metrics]").unwrap();
    let cases = [
        ("\"{kloros}\", \"lab\"", "\"/no/such/program\", \"lab\"", "program", "cannot be started"),
        ("\"lab\", \"serve\"", "\"lab\", \"no-such-verb\"", "start", "did_not_start"),
        ("\"/health\", within_s = 15", "\"/never\", within_s = 2", "ready", "not_ready"),
        ("{ http_json = \"/config\" }", "{ http_json = \"/never\" }", "read back", "not_in_effect"),
        ("{ http_json = \"/config\" }", "\"proc_environ\"", "turn", "not_in_effect"),
        (&lab[bench], "[bench]\nkind = \"command\"\nargv = [\"false\"]\ntimeout_s = 5\n\n", "bench", "bench_failed"),
    ];
    for (old, new, step, what) in cases {
        assert!(lab.contains(old), "{old}");
        fs::write(house.path("domains/lab.toml"), lab.replacen(old, new, 1)).unwrap();
        let (code, steps, told) = steps(&house, "lab");
        assert_eq!(code, Some(1), "{told}");
        assert_eq!(steps.last().unwrap(), &(step.to_owned(), "bad".to_owned()), "{told}");
        assert!(steps[..steps.len() - 1].iter().all(|(_, how)| how == "well"), "{told}");
        let last = told["steps"].as_array().unwrap().last().unwrap();
        assert!(last["what"].as_str().unwrap().contains(what) && last["fix"].is_string(), "{last}");
        assert_eq!(house.processes(), 0, "an instance is left");
    }
    let unknown = house.kloros(&["doctor", "no_such_domain"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("there is no domain \"no_such_domain\"; there are lab"), "{}", said(&unknown));
}
