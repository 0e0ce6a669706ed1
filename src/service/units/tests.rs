//! Units against a real bus, on which a small service answers as systemd does.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Router, routing::get};
use kloros_actors::{
    facts::{Apply, Domain, Manager, ReadBack, Ready},
    seams::ServiceControl as _,
};
use zbus::{fdo, object_server::SignalEmitter, zvariant::ObjectPath};

use super::*;
use crate::service::{
    Services,
    tests::{domain, key},
};

const UNIT: &str = "vllm.service";
const PATH: &str = "/org/freedesktop/systemd1/unit/vllm_2eservice";

/// A bus of its own; it ends with the test.
struct Bus {
    daemon: Child,
    _folder: tempfile::TempDir,
    address: String,
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}

impl Bus {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let config = format!(
            "<busconfig><type>session</type><listen>unix:path={path}/bus</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/>\
             <allow own=\"*\"/></policy></busconfig>"
        );
        let file = folder.path().join("bus.conf");
        std::fs::write(&file, config).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", file.display()))
            .args(["--nofork", "--nopidfile", "--print-address=1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon, of the Debian package dbus-daemon");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { daemon, _folder: folder, address: address.trim().to_owned() }
    }

    fn buses(&self) -> Buses {
        Buses { system: Some(self.address.clone()), user: None }
    }
}

/// What the small systemd does and says.
#[derive(Clone)]
struct Script {
    /// How the jobs end, in order; the last one again and again. An empty word never ends.
    words: Vec<&'static str>,
    result: &'static str,
    active: &'static str,
    load: &'static str,
    id: &'static str,
    subscribed: bool,
    restarts: u32,
    reloads: u32,
    forgiven: u32,
    can_reload: bool,
    /// Its main process while it is active; 0 for none.
    pid: u32,
    /// What a job does beside ending.
    does: Option<fn(&Path)>,
    /// Where it does that.
    folder: PathBuf,
}

type Shared = Arc<Mutex<Script>>;

struct FakeManager(Shared);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl FakeManager {
    async fn subscribe(&self) {
        self.0.lock().unwrap().subscribed = true;
    }

    async fn restart_unit(
        &self,
        name: String,
        mode: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        self.0.lock().unwrap().restarts += 1;
        self.job(&name, &mode, &emitter).await
    }

    async fn reload_unit(
        &self,
        name: String,
        mode: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        self.0.lock().unwrap().reloads += 1;
        self.job(&name, &mode, &emitter).await
    }

    async fn reset_failed_unit(&self, name: String) -> fdo::Result<()> {
        assert_eq!(name, UNIT);
        let mut script = self.0.lock().unwrap();
        script.forgiven += 1;
        script.result = "success";
        Ok(())
    }

    async fn load_unit(&self, name: String) -> OwnedObjectPath {
        let known = if name == UNIT { PATH } else { "/org/freedesktop/systemd1/unit/other" };
        ObjectPath::try_from(known).unwrap().into()
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

impl FakeManager {
    async fn job(&self, name: &str, mode: &str, emitter: &SignalEmitter<'_>) -> fdo::Result<OwnedObjectPath> {
        assert_eq!(mode, "replace");
        let (number, word) = {
            let mut script = self.0.lock().unwrap();
            if name != UNIT {
                script.restarts -= 1;
                return Err(fdo::Error::AccessDenied(format!("{name} may not be managed by you")));
            }
            assert!(script.subscribed, "a signal that nobody asked for is not sent");
            let word = if script.words.len() > 1 { script.words.remove(0) } else { script.words[0] };
            if let Some(does) = script.does.filter(|_| word == "done") {
                does(&script.folder);
            }
            (script.restarts + script.reloads, word)
        };
        let job = ObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{number}")).unwrap();
        let other = ObjectPath::try_from("/org/freedesktop/systemd1/job/9999").unwrap();
        // Somebody else's job ends as well, and ours before its name is told.
        Self::job_removed(emitter, 9999, other.into(), UNIT.to_owned(), "canceled".to_owned()).await?;
        if !word.is_empty() {
            Self::job_removed(emitter, number, job.clone().into(), UNIT.to_owned(), word.to_owned()).await?;
        }
        Ok(job.into())
    }
}

struct FakeUnit(Shared);

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl FakeUnit {
    #[zbus(property)]
    async fn id(&self) -> String {
        self.0.lock().unwrap().id.to_owned()
    }

    #[zbus(property)]
    async fn load_state(&self) -> String {
        self.0.lock().unwrap().load.to_owned()
    }

    #[zbus(property)]
    async fn active_state(&self) -> String {
        self.0.lock().unwrap().active.to_owned()
    }

    #[zbus(property)]
    async fn can_reload(&self) -> bool {
        self.0.lock().unwrap().can_reload
    }

    #[zbus(property)]
    async fn sub_state(&self) -> String {
        "running".to_owned()
    }

    #[zbus(property, name = "InvocationID")]
    async fn invocation_id(&self) -> Vec<u8> {
        vec![0xab, u8::try_from(self.0.lock().unwrap().restarts).unwrap()]
    }
}

struct FakeService(Shared);

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl FakeService {
    #[zbus(property, name = "MainPID")]
    async fn main_pid(&self) -> u32 {
        let script = self.0.lock().unwrap();
        if script.active == "active" { script.pid } else { 0 }
    }

    #[zbus(property, name = "NRestarts")]
    async fn n_restarts(&self) -> u32 {
        3
    }

    #[zbus(property)]
    async fn result(&self) -> String {
        self.0.lock().unwrap().result.to_owned()
    }
}

async fn systemd(bus: &Bus, words: &[&'static str]) -> (Shared, Connection) {
    let (result, active, load, id) = ("success", "active", "loaded", UNIT);
    let script = Script {
        words: words.to_vec(),
        result,
        active,
        load,
        id,
        subscribed: false,
        restarts: 0,
        reloads: 0,
        forgiven: 0,
        can_reload: true,
        pid: 42,
        does: None,
        folder: PathBuf::new(),
    };
    let script: Shared = Arc::new(Mutex::new(script));
    let builder = Builder::address(bus.address.as_str()).unwrap().name("org.freedesktop.systemd1").unwrap();
    let builder = builder.serve_at("/org/freedesktop/systemd1", FakeManager(script.clone())).unwrap();
    let builder = builder.serve_at(PATH, FakeUnit(script.clone())).unwrap();
    let served = builder.serve_at(PATH, FakeService(script.clone())).unwrap().build().await.unwrap();
    (script, served)
}

async fn restarted(bus: &Bus, unit: &str) -> Result<(), ServiceError> {
    bus.buses().restart(unit, Scope::System, Duration::from_secs(20)).await
}

#[tokio::test]
async fn a_restart_is_over_when_its_own_job_is_done_and_another_word_is_a_failure() {
    let bus = Bus::start();
    let (script, _served) = systemd(&bus, &["done", "failed", "canceled", "timeout", "dependency"]).await;
    restarted(&bus, UNIT).await.unwrap();
    for word in ["failed", "canceled", "timeout", "dependency"] {
        let ServiceError::DidNotStart(why) = restarted(&bus, UNIT).await.unwrap_err() else { panic!("{word}") };
        assert!(why.contains(&format!("ended with {word:?}")) && why.contains("journalctl -u vllm.service"), "{why}");
    }
    assert_eq!(script.lock().unwrap().restarts, 5, "each is asked for once");
}

#[tokio::test]
async fn a_start_limit_is_told_and_left_to_its_owner() {
    let bus = Bus::start();
    let (script, _served) = systemd(&bus, &["failed"]).await;
    script.lock().unwrap().result = START_LIMIT_HIT;
    let why = restarted(&bus, UNIT).await.unwrap_err().to_string();
    assert!(why.contains("hit its start limit"), "{why}");
    assert_eq!(script.lock().unwrap().restarts, 1);
}

/// Fault 46.
#[tokio::test]
async fn a_start_limit_is_lifted_where_it_was_hit_and_nowhere_else() {
    let bus = Bus::start();
    let (script, _served) = systemd(&bus, &["failed", "done"]).await;
    assert_eq!(bus.buses().forgive(UNIT, Scope::System).await, Ok(false));
    assert_eq!(script.lock().unwrap().forgiven, 0, "nothing is reset that no limit holds down");
    script.lock().unwrap().result = START_LIMIT_HIT;
    restarted(&bus, UNIT).await.unwrap_err();
    assert_eq!(bus.buses().forgive(UNIT, Scope::System).await, Ok(true));
    restarted(&bus, UNIT).await.unwrap();
    let script = script.lock().unwrap();
    assert_eq!((script.forgiven, script.restarts), (1, 2));
}

#[tokio::test]
async fn a_job_that_never_ends_and_a_bus_that_is_not_there_are_told_in_time() {
    let bus = Bus::start();
    let (_script, _served) = systemd(&bus, &[""]).await;
    let late = bus.buses().restart(UNIT, Scope::System, Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(&late, ServiceError::NotReady(why) if why.contains("within 0.2 s")), "{late}");
    let nowhere = Buses { system: Some("unix:path=/no/such/bus".to_owned()), user: None };
    let gone = nowhere.state(UNIT, Scope::System).await.unwrap_err();
    assert!(gone.to_string().contains("system bus cannot be used"), "{gone}");
    let empty = Bus::start();
    let nobody = empty.buses().state(UNIT, Scope::System).await.unwrap_err();
    assert!(matches!(nobody, ServiceError::Unreachable(_)), "{nobody}");
}

#[tokio::test]
async fn who_may_not_restart_a_unit_is_told_of_the_rule_that_lets_them() {
    let bus = Bus::start();
    let (_script, _served) = systemd(&bus, &["done"]).await;
    let refused = restarted(&bus, "sshd.service").await.unwrap_err().to_string();
    assert!(refused.contains("ops/systemd/polkit"), "{refused}");
}

#[tokio::test]
async fn each_start_of_a_unit_is_another_run_of_it_and_one_that_is_not_active_is_none() {
    let bus = Bus::start();
    let (script, _served) = systemd(&bus, &["done"]).await;
    let state = async || bus.buses().state(UNIT, Scope::System).await.unwrap();
    let before = state().await;
    assert_eq!((before.main_pid, before.restarts), (Some(42), 3));
    restarted(&bus, UNIT).await.unwrap();
    assert_ne!(before.incarnation().unwrap(), state().await.incarnation().unwrap());
    {
        let mut script = script.lock().unwrap();
        (script.active, script.result) = ("failed", "oom-kill");
    }
    let failed = state().await;
    assert_eq!(failed.main_pid, None);
    assert!(failed.incarnation().unwrap_err().to_string().contains("oom-kill"), "{failed}");
}

/// Fault 47.
#[tokio::test]
async fn a_unit_that_is_missing_masked_or_an_alias_is_refused_before_anything_is_touched() {
    let bus = Bus::start();
    let (script, _served) = systemd(&bus, &["done"]).await;
    let restartable = async || bus.buses().restartable(UNIT, Scope::System).await;
    restartable().await.unwrap();
    for load in ["not-found", "masked", "bad-setting"] {
        script.lock().unwrap().load = load;
        assert!(restartable().await.unwrap_err().to_string().contains(load));
    }
    {
        let mut script = script.lock().unwrap();
        (script.load, script.id) = ("loaded", "llm.service");
    }
    assert!(restartable().await.unwrap_err().to_string().contains("llm.service"));
    assert_eq!(script.lock().unwrap().restarts, 0);
}

#[test]
fn a_guard_without_a_session_finds_the_users_bus_where_it_always_is() {
    let buses = Buses::of(|_| None, 1000);
    assert_eq!((buses.system, buses.user.as_deref()), (None, Some("unix:path=/run/user/1000/bus")));
    let said = |name: &str| (name == "DBUS_SESSION_BUS_ADDRESS").then(|| "unix:path=/x".to_owned());
    assert_eq!(Buses::of(said, 1000).user.as_deref(), Some("unix:path=/x"));
}

/// A unit that says what it runs with in `running`, and has its env file beside it.
struct Tuned {
    folder: tempfile::TempDir,
    services: Services,
    domain: Domain,
    script: Shared,
    _port: TcpListener,
    _served: Connection,
    _bus: Bus,
}

impl Tuned {
    /// `LAB_FAST` takes a reload and `LAB_MODE` a restart; `does` is what a job of the unit does.
    async fn new(does: fn(&Path)) -> Self {
        let (folder, bus) = (tempfile::tempdir().unwrap(), Bus::start());
        let (script, served) = systemd(&bus, &["done"]).await;
        {
            let mut script = script.lock().unwrap();
            (script.does, script.folder) = (Some(does), folder.path().to_owned());
        }
        let said = folder.path().join("running").display().to_string();
        let manager = Manager::Systemd { unit: UNIT.to_owned(), scope: Scope::System };
        let mut domain = domain(manager, Vec::new(), ReadBack::Command(vec!["cat".to_owned(), said]));
        domain.service.restart_within_s = 2;
        domain.service.ready = Ready { tcp: true, within_s: 1, passes: 1, ..Ready::default() };
        domain.knobs.retain(|each, _| [key("LAB_FAST"), key("LAB_MODE")].contains(each));
        domain.knobs.get_mut(&key("LAB_FAST")).unwrap().apply = Apply::Reload;
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        domain.service.port = port.local_addr().unwrap().port();
        let mut services = Services::new(folder.path().to_owned(), "/kloros".into());
        services.buses = bus.buses();
        fs::write(folder.path().join("lab.env"), "").unwrap();
        takes_what_is_there(folder.path());
        Self { folder, services, domain, script, _port: port, _served: served, _bus: bus }
    }

    /// Writes the env file, has it brought into force, and returns how that ended, and how many reloads and restarts there were so far.
    async fn change(&self, env: &str) -> (Result<(), ServiceError>, u32, u32) {
        fs::write(self.folder.path().join("lab.env"), env).unwrap();
        let outcome = self.services.restart(&self.domain).await;
        let script = self.script.lock().unwrap();
        (outcome, script.reloads, script.restarts)
    }

    fn running(&self) -> String {
        fs::read_to_string(self.folder.path().join("running")).unwrap()
    }
}

/// What a service does that reads its env file; what that does not set is on.
fn takes_what_is_there(folder: &Path) {
    let env = fs::read_to_string(folder.join("lab.env")).unwrap();
    let is_on = |key: &str| !env.contains(&format!("{key}=false"));
    let text = format!("{{\"LAB_FAST\": {}, \"LAB_MODE\": {}}}", is_on("LAB_FAST"), is_on("LAB_MODE"));
    fs::write(folder.join("running"), text).unwrap();
}

#[tokio::test]
async fn what_a_reload_brings_into_force_restarts_nothing_and_what_it_does_not_is_restarted() {
    let tuned = Tuned::new(takes_what_is_there).await;
    assert_eq!(tuned.change("LAB_FAST=false\n").await, (Ok(()), 1, 0));
    assert!(tuned.running().contains("\"LAB_FAST\": false"));
    assert_eq!(tuned.change("").await, (Ok(()), 2, 0), "and back");
    assert_eq!(tuned.change("").await, (Ok(()), 2, 1), "whoever asks without a change has another reason");
    let all_by_reload = {
        let mut all = tuned.domain.clone();
        all.knobs.values_mut().for_each(|knob| knob.apply = Apply::Reload);
        all
    };
    tuned.services.restart(&all_by_reload).await.unwrap();
    assert_eq!(tuned.script.lock().unwrap().restarts, 1, "what runs with all of it, and answers, is left alone");
    assert_eq!(tuned.change("LAB_FAST=false\nLAB_MODE=false\n").await, (Ok(()), 2, 2), "one of them takes a restart");
    tuned.script.lock().unwrap().can_reload = false;
    assert_eq!(tuned.change("LAB_MODE=false\n").await, (Ok(()), 2, 3), "nothing reloads it");
    tuned.script.lock().unwrap().can_reload = true;
    fs::write(tuned.folder.path().join("running"), "no JSON").unwrap();
    assert_eq!(tuned.change("LAB_FAST=false\n").await, (Ok(()), 2, 4), "it does not say what it runs with");
}

#[tokio::test]
async fn a_reload_that_changes_nothing_is_followed_by_a_restart_and_one_that_fails_is_not() {
    let tuned = Tuned::new(|_| {}).await;
    assert_eq!(tuned.change("LAB_FAST=false\n").await, (Ok(()), 1, 1));
    tuned.script.lock().unwrap().words = vec!["failed"];
    let (outcome, reloads, restarts) = tuned.change("LAB_FAST=false\n").await;
    assert!(matches!(outcome, Err(ServiceError::DidNotStart(_))), "{outcome:?}");
    assert_eq!((reloads, restarts), (2, 1), "a restart could take it down");
    // And the undo after it, which finds the old values still in force.
    let mut all_by_reload = tuned.domain.clone();
    all_by_reload.knobs.values_mut().for_each(|knob| knob.apply = Apply::Reload);
    fs::write(tuned.folder.path().join("lab.env"), "").unwrap();
    tuned.services.restart(&all_by_reload).await.unwrap();
    assert_eq!(tuned.script.lock().unwrap().restarts, 1, "the undo restarts nothing either");
    // One that never ends is no refusal.
    tuned.script.lock().unwrap().words = vec!["", "done"];
    tuned.script.lock().unwrap().does = Some(takes_what_is_there);
    fs::write(tuned.folder.path().join("lab.env"), "LAB_FAST=false\n").unwrap();
    tuned.services.restart(&tuned.domain).await.unwrap();
    assert_eq!(tuned.script.lock().unwrap().restarts, 2);
}

#[tokio::test]
async fn a_unit_that_only_holds_settings_is_another_one_when_the_service_is_that_judges_them() {
    let tuned = Tuned::new(takes_what_is_there).await;
    tuned.script.lock().unwrap().pid = 0;
    let started = Arc::new(AtomicU64::new(7));
    let said = Arc::clone(&started);
    let text = move || {
        let started = said.load(Ordering::SeqCst);
        async move { format!("process_start_time_seconds {started}\n") }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut domain = tuned.domain.clone();
    domain.name = "judged".to_owned();
    domain.service.port = listener.local_addr().unwrap().port();
    domain.service.metrics_path = Some("/metrics".to_owned());
    let _serving = tokio::spawn(async move { axum::serve(listener, Router::new().route("/metrics", get(text))).await });
    let now = async || tuned.services.incarnation(&domain).await.unwrap().unwrap();
    let first = now().await;
    assert_eq!(now().await, first);
    started.store(8, Ordering::SeqCst);
    assert_ne!(now().await, first);
}
