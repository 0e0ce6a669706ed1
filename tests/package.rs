//! What `ops/package/Containerfile` makes, as far as that can be told without a program that makes containers: what it names is there, and
//! its last stage, laid out in a folder with the libraries of the program and nothing else, runs as it says.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::print_stdout, reason = "a test that could not be run says so")]

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long anything may take to come about.
const SOON: Duration = Duration::from_secs(300);

/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const PROGRAM: &str = env!("CARGO_BIN_EXE_kloros");

/// One instruction of a stage.
#[derive(Clone, Debug, PartialEq)]
struct Instruction {
    name: String,
    /// The words behind it, options among them; of the form without a shell, those of its list.
    words: Vec<String>,
    /// Whether it is a list of words, which no shell reads.
    is_list: bool,
}

fn house() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the stages of the file, each from its `FROM` on.
fn stages() -> Vec<Vec<Instruction>> {
    let text = fs::read_to_string(house().join("ops/package/Containerfile")).unwrap();
    let mut stages: Vec<Vec<Instruction>> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?} says nothing"));
        let list = rest.find('[').and_then(|at| serde_json::from_str::<Vec<String>>(&rest[at..]).ok());
        let before = rest.split('[').next().unwrap_or_default();
        let plain = || before.split_whitespace().map(str::to_owned);
        let (words, is_list) = match list {
            Some(list) => (list, true),
            None => (plain().collect(), false),
        };
        if name == "FROM" {
            stages.push(Vec::new());
        }
        stages.last_mut().expect("FROM comes first").push(Instruction { name: name.to_owned(), words, is_list });
    }
    stages
}

/// Returns the words behind the only instruction of this name in the last stage.
fn last(name: &str) -> Vec<String> {
    let stages = stages();
    let found: Vec<&Instruction> = stages.last().unwrap().iter().filter(|each| each.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {found:?}");
    found[0].words.clone()
}

/// Returns what the last stage copies from the house, as from and to.
fn copied() -> Vec<(String, String)> {
    let stages = stages();
    let copies = stages.last().unwrap().iter().filter(|each| each.name == "COPY");
    let paths =
        |copy: &Instruction| copy.words.iter().filter(|word| !word.starts_with("--")).cloned().collect::<Vec<_>>();
    copies
        .map(|copy| match &paths(copy)[..] {
            [from, to] => (from.clone(), to.clone()),
            other => panic!("{other:?} is no copy of one file"),
        })
        .collect()
}

#[test]
fn what_the_container_is_built_from_is_there_and_whole() {
    let stages = stages();
    let built = stages[0].iter().filter(|each| each.name == "COPY").flat_map(|each| {
        let (_, from) = each.words.split_last().unwrap();
        from.to_vec()
    });
    let built: Vec<String> = built.collect();
    for path in &built {
        assert!(house().join(path).exists(), "{path} is not there");
    }
    let manifest: toml::Table = fs::read_to_string(house().join("Cargo.toml")).unwrap().parse().unwrap();
    for member in manifest["workspace"]["members"].as_array().unwrap() {
        let folder = member.as_str().unwrap().split('/').next().unwrap();
        assert!(built.iter().any(|path| path == folder), "{folder} is a part of the workspace and not copied");
    }
    for (from, _) in copied().iter().filter(|(from, _)| !from.starts_with('/')) {
        assert!(house().join(from).is_file(), "{from} is not there");
    }
    let command = stages[0].iter().find(|each| each.name == "RUN").unwrap();
    assert_eq!(command.words, ["cargo", "build", "--release", "--locked", "--bin", "kloros"]);
}

#[test]
fn the_container_runs_as_nobody_in_particular_and_needs_no_shell() {
    for instruction in stages().iter().flatten() {
        let is_run = ["RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK"].contains(&instruction.name.as_str());
        assert!(!is_run || instruction.is_list, "a shell would read {instruction:?}");
    }
    let user = last("USER")[0].clone();
    let numbers: Vec<u32> = user.split(':').map(|number| number.parse().unwrap()).collect();
    assert!(numbers.len() == 2 && numbers.iter().all(|number| *number >= 1000), "{user}");
    let entry = last("ENTRYPOINT");
    assert_eq!(entry, ["/usr/bin/kloros"]);
    assert!(copied().iter().any(|(from, to)| from.ends_with("/release/kloros") && *to == entry[0]));
    let probe = last("HEALTHCHECK");
    assert_eq!(probe[0], entry[0]);
    for arguments in [&last("CMD")[..], &probe[1..]] {
        let help = Command::new(PROGRAM).args(arguments).arg("--help").output().unwrap();
        assert!(help.status.success(), "kloros knows no {arguments:?}: {help:?}");
    }
}

#[test]
fn the_settings_of_the_container_are_sound_and_reached_from_outside() {
    let home = tempfile::tempdir().unwrap();
    let settings = house().join("ops/package/container.toml");
    let mut check = Command::new(PROGRAM);
    check.arg("--home").arg(home.path()).args(["check-config", "--config"]).arg(&settings);
    let output = check.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let settings: toml::Table = fs::read_to_string(settings).unwrap().parse().unwrap();
    let port = last("EXPOSE")[0].clone();
    assert_eq!(settings["shell"]["metrics_address"].as_str(), Some(format!("0.0.0.0:{port}").as_str()));
}

/// The last stage in a folder, and what runs in it.
struct Image {
    root: tempfile::TempDir,
    running: Option<Child>,
}

impl Image {
    /// Lays out what the last stage has, with the shared libraries of the program in place of those of its base; `None` where that
    /// takes rights that are not there.
    fn lay() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return not_run("it takes root");
        }
        let tried = Command::new("unshare").args(["--mount", "--pid", "--fork", "true"]).output();
        if !tried.is_ok_and(|output| output.status.success()) {
            return not_run("namespaces are refused");
        }
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let image = Self { root, running: None };
        for (from, to) in copied() {
            let is_built = from.ends_with("/release/kloros");
            // What else of the first stage is copied is of its distribution.
            if is_built || !from.starts_with('/') {
                image.put(&if is_built { PathBuf::from(PROGRAM) } else { house().join(from) }, &to);
            }
        }
        let linked = Command::new("ldd").arg(PROGRAM).output().unwrap();
        for library in String::from_utf8(linked.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/'))
        {
            image.put(Path::new(library), library);
        }
        for folder in ["proc", "dev", "tmp"] {
            fs::create_dir(image.at(folder)).unwrap();
        }
        fs::set_permissions(image.at("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        let stages = stages();
        for run in stages.last().unwrap().iter().filter(|each| each.name == "RUN") {
            let (program, arguments) = run.words.split_first().unwrap();
            // Of its words, those that are paths are in the image.
            let inside =
                |word: &String| if word.starts_with('/') { image.at(word).display().to_string() } else { word.clone() };
            let output = Command::new(program).args(arguments.iter().map(inside)).output().unwrap();
            assert!(output.status.success(), "{run:?}: {output:?}");
        }
        Some(image)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    fn put(&self, from: &Path, to: &str) {
        let to = self.at(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap();
        let mut folder = to.parent();
        while let Some(each) = folder.filter(|each| each.starts_with(self.root.path())) {
            fs::set_permissions(each, fs::Permissions::from_mode(0o755)).unwrap();
            folder = each.parent();
        }
    }

    /// Makes `command` what the image starts: no variable but its own.
    fn with_variables<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let _ = &self.root;
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        for each in last("ENV") {
            let (name, value) = each.split_once('=').unwrap();
            command.env(name, value);
        }
        command
    }

    /// Starts the container: its first process is kloros.
    fn start(&mut self) {
        let inside = house().join("tests/package/inside");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child"]).arg(inside).arg(self.root.path());
        command.arg(&last("USER")[0]).args(last("ENTRYPOINT")).args(last("CMD"));
        let log = fs::File::create(self.root.path().join("log")).unwrap();
        // Machines that are tested share the ports of this one.
        self.with_variables(&mut command).env("KLOROS__SHELL__METRICS_ADDRESS", "127.0.0.1:0");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        self.running = Some(command.spawn().unwrap());
    }

    /// Returns the process id of its first process, once that is kloros.
    fn first(&self) -> Option<String> {
        let outside = self.running.as_ref()?.id();
        let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).ok()?;
        let first = children.split_whitespace().next()?.to_owned();
        let program = fs::read_to_string(format!("/proc/{first}/comm")).ok()?;
        (program.trim() == "kloros").then_some(first)
    }

    /// Runs a command beside it, as whatever runs containers asks for its health.
    fn beside(&self, words: &[String]) -> Output {
        let first = self.first().unwrap_or_else(|| panic!("it does not run\n{}", self.log()));
        let user = last("USER")[0].clone();
        let (uid, gid) = user.split_once(':').unwrap();
        let mut command = Command::new("/usr/bin/nsenter");
        command
            .args(["--target", &first, "--mount", "--pid", "--root", "--wd", "--setuid", uid, "--setgid", gid])
            .args(words);
        self.with_variables(&mut command).output().unwrap()
    }

    #[track_caller]
    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + SOON;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "not in time: {what}\n{}", self.log());
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            running.kill().ok();
            running.wait().ok();
        }
    }
}

fn not_run<T>(why: &str) -> Option<T> {
    println!("not run: {why}");
    None
}

#[test]
fn the_container_runs_well_as_its_user_with_nothing_but_its_program_and_ends_when_it_is_told_to() {
    let Some(mut image) = Image::lay() else { return };
    image.start();
    image.until("it is the first process", |image| image.first().is_some());
    let probe = last("HEALTHCHECK");
    image.until("it says that it is well", |image| image.first().is_some() && image.beside(&probe).status.success());
    let first = image.first().unwrap();
    let status = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let uid = last("USER")[0].split(':').next().unwrap().to_owned();
    assert!(line("Uid:").split_whitespace().all(|each| each == uid), "{status}");
    assert_eq!(line("NSpid:").split_whitespace().next_back(), Some("1"));
    let told = image.beside(&["/usr/bin/kloros", "--json", "status"].map(str::to_owned));
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let home = last("ENV")[0].split_once('=').unwrap().1.to_owned();
    assert_eq!((&told["well"], told["home"].as_str()), (&Value::Bool(true), Some(home.as_str())));
    assert_eq!(last("VOLUME"), [home]);
    assert!(Command::new("kill").args(["-TERM", &first]).status().unwrap().success());
    let ended = image.running.as_mut().unwrap().wait().unwrap();
    assert_eq!((ended.code(), ended.signal()), (Some(0), None), "{}", image.log());
}
