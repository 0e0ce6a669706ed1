//! Units against a real bus, on which a small service answers as systemd does.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use zbus::{fdo, object_server::SignalEmitter, zvariant::ObjectPath};

use super::*;

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
    forgiven: u32,
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
        assert_eq!(mode, "replace");
        if name != UNIT {
            return Err(fdo::Error::AccessDenied(format!("{name} may not be managed by you")));
        }
        let (number, word) = {
            let mut script = self.0.lock().unwrap();
            assert!(script.subscribed, "a signal that nobody asked for is not sent");
            script.restarts += 1;
            let word = if script.words.len() > 1 { script.words.remove(0) } else { script.words[0] };
            (script.restarts, word)
        };
        let job = ObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{number}")).unwrap();
        let other = ObjectPath::try_from("/org/freedesktop/systemd1/job/9999").unwrap();
        // Somebody else's job ends as well, and ours before its name is told.
        Self::job_removed(&emitter, 9999, other.into(), UNIT.to_owned(), "canceled".to_owned()).await?;
        if !word.is_empty() {
            Self::job_removed(&emitter, number, job.clone().into(), UNIT.to_owned(), word.to_owned()).await?;
        }
        Ok(job.into())
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
        if self.0.lock().unwrap().active == "active" { 42 } else { 0 }
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
    let script =
        Script { words: words.to_vec(), result, active, load, id, subscribed: false, restarts: 0, forgiven: 0 };
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
