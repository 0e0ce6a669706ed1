//! A real Chromium without a window, driven over its debugging protocol.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, client::IntoClientRequest as _};

use super::house::PATIENCE;

/// Where Debian and others put it.
const PROGRAMS: [&str; 3] = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/// Returns the browser of this machine; `None`, with the reason on stderr, where there is none and none is required.
pub(crate) fn installed() -> Option<&'static str> {
    let found = PROGRAMS.into_iter().find(|path| Path::new(path).exists());
    assert!(
        found.is_some() || std::env::var_os("KLOROS_CHROMIUM").is_none(),
        "no Chromium, and KLOROS_CHROMIUM says that there must be one"
    );
    if found.is_none() {
        eprintln!("not tested in a browser: there is no Chromium (Debian's package is chromium)");
    }
    found
}

/// One page.
pub(crate) struct Page {
    socket: WebSocket<TcpStream>,
    session: String,
    asked: u64,
    /// What the page complained about.
    pub(crate) complaints: Vec<String>,
    /// How many bytes of heads and bodies came over the wire, by request: as they come in, and as the browser counts them at the end.
    received: BTreeMap<String, u64>,
    events: VecDeque<Value>,
    process: Child,
    _profile: tempfile::TempDir,
}

impl Page {
    /// Starts the browser with an empty page.
    pub(crate) fn open(program: &str) -> Self {
        Self::open_with(program, &[])
    }

    /// Starts the browser with `more` on its command line.
    pub(crate) fn open_with(program: &str, more: &[&str]) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let process = Command::new(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        let (port, path) = loop {
            let text = fs::read_to_string(profile.path().join("DevToolsActivePort")).unwrap_or_default();
            if let Some((port, path)) = text.split_once('\n').filter(|(_, path)| path.starts_with('/')) {
                break (port.parse::<u16>().unwrap(), path.trim().to_owned());
            }
            assert!(Instant::now() < deadline, "the browser does not start");
            std::thread::park_timeout(Duration::from_millis(50));
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("ws://127.0.0.1:{port}{path}").into_client_request().unwrap();
        let (socket, _) = tungstenite::client(request, stream).unwrap();
        let (complaints, events, received) = (Vec::new(), VecDeque::new(), BTreeMap::new());
        let session = String::new();
        let mut page = Self { socket, session, asked: 0, complaints, received, events, process, _profile: profile };
        let target = page.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attached = page.call("Target.attachToTarget", &json!({"targetId": target["targetId"], "flatten": true}));
        attached["sessionId"].as_str().unwrap().clone_into(&mut page.session);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), &json!({}));
        }
        page
    }

    /// Asks the browser, and returns its answer.
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(message.to_string())).unwrap();
        loop {
            let said = self.hear();
            if said["id"] == json!(id) {
                assert!(said["error"].is_null(), "{method}: {}", said["error"]);
                return said["result"].clone();
            }
        }
    }

    fn hear(&mut self) -> Value {
        let text = loop {
            if let Message::Text(text) = self.socket.read().unwrap() {
                break text;
            }
        };
        let said: Value = serde_json::from_str(&text).unwrap();
        let params = &said["params"];
        match said["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.complaints.push(params["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" if params["type"] == "error" || params["type"] == "warning" => {
                self.complaints.push(params["args"].to_string());
            }
            "Log.entryAdded" if params["entry"]["level"] == "error" => {
                self.complaints.push(params["entry"].to_string());
            }
            "Network.responseReceived" => {
                *self.request(params) += params["response"]["encodedDataLength"].as_f64().unwrap_or(0.0) as u64;
            }
            "Network.dataReceived" => {
                *self.request(params) += params["encodedDataLength"].as_f64().unwrap_or(0.0) as u64;
            }
            "Network.loadingFinished" => {
                *self.request(params) = params["encodedDataLength"].as_f64().unwrap_or(0.0) as u64;
            }
            _ => {}
        }
        if said["method"].is_string() {
            self.events.push_back(said.clone());
            if self.events.len() > 1000 {
                self.events.pop_front();
            }
        }
        said
    }

    fn request(&mut self, params: &Value) -> &mut u64 {
        self.received.entry(params["requestId"].to_string()).or_default()
    }

    /// Returns how many bytes it has loaded, and in how many requests, by what the browser says of its network; streams that go on
    /// count with what they brought so far.
    pub(crate) fn loaded(&self) -> (u64, usize) {
        (self.received.values().sum(), self.received.len())
    }

    /// Goes to an address.
    pub(crate) fn visit(&mut self, url: &str) {
        self.call("Page.navigate", &json!({"url": url}));
    }

    /// Returns what an expression of the page amounts to.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", &params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression of the page is true.
    pub(crate) fn until(&mut self, what: &str, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.value(&format!("Boolean({expression})")) != json!(true) {
            if Instant::now() > deadline {
                let text = self.value("document.body.innerText");
                panic!("not within {} s: {what}; the page says {text}", PATIENCE.as_secs());
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// Clicks on the first element of a selector, where it is, as a person would.
    pub(crate) fn click(&mut self, selector: &str) {
        let middle = format!(
            "(() => {{ const found = document.querySelector({selector:?}); found.scrollIntoView({{block: 'center'}}); \
             const box = found.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        let at = self.value(&middle);
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", &params);
        }
    }

    /// Presses a key that stands for itself.
    pub(crate) fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let (code, text) = if key == "Tab" { (9, "") } else { (13, "\r") };
            let params = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", &params);
        }
    }

    /// Types a text where the focus is.
    pub(crate) fn type_in(&mut self, text: &str) {
        self.call("Input.insertText", &json!({"text": text}));
    }

    /// Shows the page as a screen of this width would, by day or by night.
    pub(crate) fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let is_phone = width < 600;
        let params = json!({"width": width, "height": height, "deviceScaleFactor": if is_phone { 2 } else { 1 }, "mobile": is_phone});
        self.call("Emulation.setDeviceMetricsOverride", &params);
        // Without motion, so that a picture is of what it came to and not of the way there.
        let still = json!({"name": "prefers-reduced-motion", "value": "reduce"});
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}, still]});
        self.call("Emulation.setEmulatedMedia", &features);
    }

    /// Writes what is seen into a file.
    pub(crate) fn picture(&mut self, path: &Path) {
        use base64::Engine as _;
        let shot = self.call("Page.captureScreenshot", &json!({"format": "png", "captureBeyondViewport": true}));
        let bytes = base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
