//! Conversations as a service of their own: tuned by the domain file that ships, in front of a real lab, with nobody's memory lost.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use super::{
    QUIET,
    house::{House, Port, said},
    stages,
};

/// The model server; it ends when dropped.
struct Model {
    child: Child,
    port: Port,
}

impl Model {
    fn start() -> Self {
        let port = Port::hold();
        let settings = [
            ("LAB_MAX_NUM_SEQS", "4"),
            ("LAB_BATCH_WAIT_MS", "1"),
            ("LAB_KV_CACHE_MIB", "64"),
            ("LAB_PREFILL_CHUNK", "128"),
            ("LAB_PRECISION", "f32"),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_kloros"));
        command.args(["lab", "serve", "--port", &port.number().to_string()]).envs(settings);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, port }
    }

    /// Whoever asks the endpoint before is told that nobody answers it.
    fn answers(&self) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", self.port.number())).is_ok()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The endpoint that serves, as the unit that ships starts it; it ends when dropped.
struct Serving {
    pid: PathBuf,
    port: Port,
}

impl Serving {
    fn start(house: &House, model: &Model) -> Self {
        let serving = Self { pid: house.path("serving.pid"), port: Port::hold() };
        let drop_in = shipped("ops/systemd/examples/kloros-conversation.service.d/50-kloros.conf");
        let line = |start: &str| drop_in.lines().find_map(|line| line.strip_prefix(start)).unwrap().to_owned();
        let start = line(
            "ExecStart=/usr/bin/kloros conversation serve --home /var/lib/kloros --config /etc/kloros/kloros.toml --port 8089",
        );
        let (defaults, file, pid, log) =
            (line("Environment="), house.path("conversation.env"), serving.pid.display(), house.path("serving.log"));
        let (kloros, home) = (env!("CARGO_BIN_EXE_kloros"), house.path("."));
        let text = format!(
            "#!/bin/sh\nset -eu\n{defaults}\n. {file}\nif [ -e {pid} ]; then\n  old=$(cat {pid})\n  kill $old || true\n  \
             left=600; while [ $left -gt 0 ] && kill -0 $old 2>/dev/null; do left=$((left - 1)); sleep 0.05; done\nfi\nsetsid {kloros} --home {home} conversation serve --port {port} \
             --upstream http://127.0.0.1:{model}{start} >>{log} 2>&1 </dev/null &\necho $! >{pid}\n",
            file = file.display(),
            home = home.display(),
            port = serving.port.number(),
            model = model.port.number(),
            log = log.display(),
        );
        fs::write(house.path("restart"), text).unwrap();
        fs::set_permissions(house.path("restart"), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new(house.path("restart")).status().unwrap().success());
        serving
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port.number())
    }

    fn get(&self, path: &str) -> Option<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { client().get(self.url(path)).send().await.ok()?.json().await.ok() })
    }

    /// Says something in a conversation, and returns the status of the answer.
    fn say(&self, text: &str) -> u16 {
        let body = json!({"max_tokens": 4, "messages": [{"role": "user", "content": text}]});
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let request = client().post(self.url("/v1/chat/completions")).json(&body);
            request.header("x-conversation-id", "mine").send().await.unwrap().status().as_u16()
        })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let Ok(pid) = fs::read_to_string(&self.pid) else { return };
        // It may have ended by itself.
        let _ = Command::new("kill").arg(pid.trim()).stderr(Stdio::null()).status();
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn shipped(name: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The files that ship, with an endpoint and a model server of the test's own, asked less often.
fn with_conversations() -> (House, Serving, Model) {
    let house = House::new(QUIET, "[gate]\nautonomy = 3\n");
    // What a guard is to find beyond doubt takes more blocks than houses have by themselves.
    fs::create_dir_all(house.path("conf.d")).unwrap();
    fs::write(house.path("conf.d/blocks.toml"), "[validator]\nblocks_min = 4\n").unwrap();
    fs::write(
        house.path("conversation.env"),
        "# by hand\nCHAT_MAX_TOKENS=16\nCHAT_CONTEXT_EVENTS=24\nCHAT_CONTEXT_CHARS=3000\n",
    )
    .unwrap();
    let model = Model::start();
    let serving = Serving::start(&house, &model);
    let quoted = |text: String| format!("{text:?}");
    let home = house.path(".").display().to_string();
    let upstream = format!("http://127.0.0.1:{}", model.port.number());
    let changed = [
        (
            "manager = { systemd = { unit = \"kloros-conversation.service\" } }".to_owned(),
            format!("manager = {{ command = {{ restart = [{:?}] }} }}", house.path("restart").display().to_string()),
        ),
        ("\"--home\", \"/var/lib/kloros\", \"--config\", \"/etc/kloros/kloros.toml\"".to_owned(), {
            format!("\"--home\", {}, \"--upstream\", {}", quoted(home), quoted(upstream))
        }),
        ("port = 8089".to_owned(), format!("port = {}", serving.port.number())),
        ("\"/etc/kloros/env/conversation.env\"".to_owned(), "\"conversation.env\"".to_owned()),
        ("argv = [\"kloros\", \"conversation\", \"measure\"".to_owned(), {
            format!(
                "argv = [{}, \"conversation\", \"measure\", \"--asks\", \"24\"",
                quoted(env!("CARGO_BIN_EXE_kloros").to_owned())
            )
        }),
    ];
    let text = changed.iter().fold(shipped("config/domains/conversation.toml"), |text, (old, new)| {
        assert!(text.contains(old.as_str()), "{old}");
        text.replace(old.as_str(), new)
    });
    fs::create_dir_all(house.path("domains")).unwrap();
    fs::write(house.path("domains/conversation.toml"), text).unwrap();
    fs::write(house.path("dream.yaml"), shipped("config/domains/conversation.yaml")).unwrap();
    (house, serving, model)
}

/// A context of six events is faster, and has forgotten most of what is asked for; one of 750 characters is faster and has not.
#[test]
fn conversations_get_faster_and_a_setting_that_forgets_is_undone_however_fast_it_is() {
    let (mut house, serving, model) = with_conversations();
    house.until("conversations are held", |house| {
        let log = house.read("serving.log");
        assert!(!log.contains("kloros: "), "{log}");
        serving.get("/health").is_some() && model.answers()
    });
    assert_eq!(serving.say("The code of the garage door is 4711."), 200);
    let before = house.read("conversation.env");
    let refused = house.kloros(&["conversation", "measure", "--port", &serving.port.number().to_string()]);
    assert!(!refused.status.success() && said(&refused).contains("no other is measured"), "{}", said(&refused));
    house.spawn(&[]);
    house.until("the daemon answers", |house| house.kloros(&["status"]).status.success());

    let tried = house.kloros(&["try", "conversation", "CHAT_CONTEXT_EVENTS=6", "--no-wait"]);
    assert!(said(&tried).contains("CHAT_CONTEXT_EVENTS 24 -> 6"), "{}", said(&tried));
    house.until("what forgets is undone", |house| stages(house) == ["closed"]);
    let verdict = house.json(&["deployments"])[0]["verdict"].clone();
    println!("CHAT_CONTEXT_EVENTS 24 -> 6: {} {}", verdict["outcome"], verdict["reason"]);
    assert_eq!(verdict["outcome"], "rollback", "{verdict}");
    let recall = |side: &str| verdict[side]["recall"].as_f64().unwrap();
    assert!(recall("after") < 0.6 * recall("before"), "{verdict}");
    assert_eq!(house.read("conversation.env"), before, "the file is as it was, byte for byte");
    assert_eq!(serving.get("/config").unwrap()["CHAT_CONTEXT_EVENTS"], 24);

    house.kloros(&["try", "conversation", "CHAT_CONTEXT_CHARS=750", "--no-wait"]);
    house.until("what is faster and forgets nothing is judged", |house| stages(house) == ["closed", "closed"]);
    let deployments = house.json(&["deployments"]);
    let verdicts: Vec<&Value> = deployments.as_array().unwrap().iter().map(|each| &each["verdict"]).collect();
    let kept = verdicts.iter().find(|verdict| verdict["outcome"] != "rollback").copied().unwrap_or(&Value::Null);
    println!("CHAT_CONTEXT_CHARS 3000 -> 750: {} {}", kept["outcome"], kept["improvement"]);
    assert_eq!(kept["outcome"], "success", "{deployments}");
    assert_eq!(house.read("conversation.env"), before.replace("3000", "750"));
    let set = serving.get("/config").unwrap();
    assert_eq!((&set["CHAT_CONTEXT_CHARS"], &set["CHAT_MAX_TOKENS"]), (&json!(750), &json!(16)));

    // It was restarted three times, and what is measured says nothing in it and keeps nothing.
    let kept = house.kloros(&["memory", "export"]);
    assert!(said(&kept).contains("garage door") && !said(&kept).contains("rehearsal"), "{}", said(&kept));
    assert_eq!(house.interrupt(), Some(0));
    drop((serving, model));
    house.until("nothing of it runs any more", |house| house.processes() == 0);
}
