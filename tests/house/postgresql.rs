//! A database that kloros did not write: a real PostgreSQL, tuned by the domain file that ships, its data left alone.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use super::{
    QUIET,
    house::{House, Port, said},
    stages,
};

/// Where Debian has it.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// Returns whether there is a PostgreSQL to tune; where it must be there, it is.
fn is_there() -> bool {
    let is_there = ["postgres", "pgbench", "psql"].iter().all(|name| Path::new(PROGRAMS).join(name).exists());
    assert!(
        is_there || env::var("KLOROS_POSTGRES").is_err(),
        "PostgreSQL 15 is missing: install postgresql-15, postgresql-client-15"
    );
    is_there
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}

/// The database that serves, with something in it; it ends when dropped.
struct Serving {
    folder: tempfile::TempDir,
    port: Port,
}

impl Serving {
    fn start(house: &House) -> Self {
        // Its user, who is not root, reaches no folder below the home.
        let folder = tempfile::Builder::new().prefix("kloros-postgresql-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let socket = folder.path().join("serving");
        fs::create_dir(&socket).unwrap();
        // Whoever reaches its socket is believed to be its superuser.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o700)).unwrap();
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(&socket).status().unwrap().success());
        }
        let serving = Self { folder, port: Port::hold() };
        let (data, others) = (serving.data(), "--auth-local=trust --auth-host=reject -U postgres --no-sync");
        Self::run("initdb", &[&["-D", data.as_str()], &*others.split(' ').collect::<Vec<_>>()].concat());
        fs::write(house.path("restart"), serving.restart(house)).unwrap();
        fs::set_permissions(house.path("restart"), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new(house.path("restart")).status().unwrap().success());
        serving.ask("CREATE TABLE kept AS SELECT 'mine' AS words");
        serving
    }

    /// Starts or restarts it with what the env file says, as the drop-in that ships does.
    fn restart(&self, house: &House) -> String {
        let drop_in = shipped("ops/systemd/examples/postgresql@15-main.service.d/50-kloros.conf");
        let part = |before: &str, after: &str| {
            drop_in.split_once(before).and_then(|(_, rest)| rest.split_once(after)).unwrap().0.to_owned()
        };
        let (defaults, settings) = (part("Environment=", "\n"), part("-o \"", "\""));
        let (file, data, socket) = (house.path("postgresql.env"), self.data(), self.socket());
        let run = Self::argv("pg_ctl").join(" ");
        format!(
            "#!/bin/sh\nset -eu\n{defaults}\n. {}\ncd /\nexec {run} -D {data} -l {socket}/log -w -m fast restart -o \"-p {} -c \
             unix_socket_directories={socket} {settings}\" >/dev/null 2>&1\n",
            file.display(),
            self.port.number()
        )
    }

    /// Where its socket is.
    fn socket(&self) -> String {
        self.folder.path().join("serving").display().to_string()
    }

    fn data(&self) -> String {
        format!("{}/data", self.socket())
    }

    /// Where clusters for measurements are made.
    fn trials(&self) -> PathBuf {
        self.folder.path().join("trials")
    }

    /// Returns what its domain file says after the name of a command.
    fn at(&self) -> [String; 6] {
        let trials = self.trials().display().to_string();
        [
            "--folder".to_owned(),
            trials,
            "--role".to_owned(),
            "postgres".to_owned(),
            "--socket".to_owned(),
            self.socket(),
        ]
    }

    fn argv(program: &str) -> Vec<String> {
        let program = Path::new(PROGRAMS).join(program).display().to_string();
        let user = "setpriv --reuid postgres --regid postgres --init-groups --";
        let user: Vec<String> = if is_root() { user.split(' ').map(str::to_owned).collect() } else { Vec::new() };
        user.into_iter().chain([program]).collect()
    }

    fn output(program: &str, arguments: &[&str]) -> Output {
        let argv = Self::argv(program);
        Command::new(&argv[0]).args(&argv[1..]).args(arguments).current_dir("/").output().unwrap()
    }

    fn run(program: &str, arguments: &[&str]) -> String {
        let output = Self::output(program, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn ask(&self, query: &str) -> String {
        let (socket, port) = (self.socket(), self.port.number().to_string());
        Self::run(
            "psql",
            &["-X", "-A", "-t", "-q", "-h", &socket, "-p", &port, "-U", "postgres", "--command", query, "postgres"],
        )
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // A test that failed may have left none.
        let _ = Self::output("pg_ctl", &["-D", &self.data(), "-w", "-m", "immediate", "stop"]);
    }
}

fn shipped(name: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The files that ship, with a database of the test's own, measured more briefly.
fn with_postgresql() -> (House, Serving) {
    let house = House::new(QUIET, "[gate]\nautonomy = 3\napproval_expires_s = 2\n");
    fs::write(house.path("postgresql.env"), "# by hand\nPG_COMMIT_SIBLINGS=5\n").unwrap();
    let serving = Serving::start(&house);
    let of = |name: &str, more: &[String]| {
        let words = ["kloros", "postgresql", name].map(str::to_owned);
        words.iter().chain(more).map(|word| format!("{word:?}, ")).collect::<String>()
    };
    let at = serving.at();
    let changed = [
        (
            "manager = { systemd = { unit = \"postgresql@15-main.service\" } }".to_owned(),
            format!("manager = {{ command = {{ restart = [{:?}] }} }}", house.path("restart").display().to_string()),
        ),
        ("port = 5432".to_owned(), format!("port = {}", serving.port.number())),
        ("\"/etc/kloros/env/postgresql.env\"".to_owned(), "\"postgresql.env\"".to_owned()),
        (of("trial", &[]), of("trial", &at[..2])),
        (of("measure", &[]), of("measure", &at[..2])),
        (of("settings", &[]), of("settings", &at)),
        ("\"10\", \"--clients\", \"8\", \"--warmup\", \"3\"".to_owned(), "\"1\", \"--warmup\", \"0\"".to_owned()),
        ("\"--seconds\", \"15\"".to_owned(), "\"--seconds\", \"2\"".to_owned()),
    ];
    let text = changed.iter().fold(shipped("config/domains/postgresql.toml"), |text, (old, new)| {
        assert!(text.contains(old.as_str()), "{old}");
        text.replace(old.as_str(), new)
    });
    fs::create_dir_all(house.path("domains")).unwrap();
    fs::write(house.path("domains/postgresql.toml"), text).unwrap();
    fs::write(house.path("dream.yaml"), shipped("config/domains/postgresql.yaml")).unwrap();
    (house, serving)
}

/// Commits that wait 10 ms for company are slow ones, and a log that is not synced is fast for a reason. The data is what it was.
#[test]
fn a_postgresql_gets_its_old_setting_back_and_gives_no_durability_away_without_a_person() {
    if !is_there() {
        println!("not tried: PostgreSQL 15 is not installed");
        return;
    }
    let (mut house, serving) = with_postgresql();
    let before = house.read("postgresql.env");
    let (port, at) = (serving.port.number().to_string(), serving.at());
    let at: Vec<&str> = at.iter().map(String::as_str).collect();
    every_knob_is_told(&house.json(&[&["postgresql", "settings", "--port", &port], &*at].concat()));
    let measured = house.kloros(&[&["postgresql", "measure", "--port", &port], &at[..2]].concat());
    assert!(said(&measured).contains("nothing else is measured"), "{}", said(&measured));
    house.spawn(&[]);
    house.until("the daemon answers", |house| house.kloros(&["status"]).status.success());

    let unsafe_one = house.kloros(&["try", "postgresql", "PG_SYNCHRONOUS_COMMIT=off"]);
    assert_eq!(unsafe_one.status.code(), Some(1), "{}", said(&unsafe_one));
    let why = "PG_SYNCHRONOUS_COMMIT trades durability: what was confirmed may be lost when the machine fails; a person has to say \
               yes to that at every autonomy level";
    assert!(said(&unsafe_one).contains(why), "{}", said(&unsafe_one));
    house.until("silence is a no", |house| {
        house.json(&["status"])["live"]["waiting"].as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(
        (house.read("postgresql.env"), house.json(&["deployments"])),
        (before.clone(), Value::Array(Vec::new()))
    );

    let tried = house.kloros(&["try", "postgresql", "PG_COMMIT_DELAY=10000", "PG_COMMIT_SIBLINGS=1", "--no-wait"]);
    assert!(said(&tried).contains("PG_COMMIT_DELAY unset (0) -> 10000"), "{}", said(&tried));
    house.until("it is live", |house| house.read("postgresql.env").contains("PG_COMMIT_DELAY=10000"));
    // Until then it is restarted, and answers nobody.
    house.until("the old settings are in force again", |house| stages(house) == ["closed"]);
    let verdict = house.json(&["deployments"])[0]["verdict"].clone();
    println!("PG_COMMIT_DELAY 0 -> 10000: {} {}", verdict["outcome"], verdict["improvement"]);
    assert_eq!(
        (verdict["outcome"].as_str(), verdict["blocks"].as_u64() > Some(1)),
        (Some("rollback"), true),
        "{verdict}"
    );
    assert_eq!(house.read("postgresql.env"), before, "the file is as it was, byte for byte");
    assert_eq!((serving.ask("SHOW commit_delay"), serving.ask("SHOW commit_siblings")), ("0".into(), "5".into()));
    assert_eq!(serving.ask("SELECT words, to_regclass('pgbench_accounts') IS NULL FROM kept"), "mine|t");
    assert_eq!(house.interrupt(), Some(0));
    assert_eq!(house.processes(), 0, "a process of the house is left");
    assert_eq!(fs::read_dir(serving.trials().join("kloros-trials")).unwrap().count(), 0, "a cluster is left");
}

/// The domain file takes for granted what a PostgreSQL really says that it runs with, under the keys that it says it.
fn every_knob_is_told(told: &Value) {
    let domain: toml::Table = shipped("config/domains/postgresql.toml").parse().unwrap();
    let knobs = domain["knobs"].as_table().unwrap();
    assert!(knobs.len() > 5);
    for (key, knob) in knobs {
        let default = knob["default"].as_str().map_or_else(|| knob["default"].to_string(), str::to_owned);
        assert_eq!(told[key], Value::String(default), "{key}");
    }
}
