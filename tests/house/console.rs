//! The control API over loopback, and the console in a real browser.

#[path = "console/browser.rs"]
mod browser;

#[path = "console/http.rs"]
mod http;

#[path = "console/schema.rs"]
mod schema;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::Instant,
};

use browser::Page;
use http::ask;
use serde_json::Value;

use super::house::{self, House, PATIENCE, Port, said};

/// A house that is reached over loopback, and asks before it changes anything.
fn reached() -> (House, Port) {
    let held = Port::hold();
    let port = held.number();
    let rooms = format!(
        "[api]\nlisten = \"127.0.0.1:{port}\"\nchart_every_s = 0.5\nrequest_timeout_s = 3.0\nconnections_max = 12\nevent_readers_max = 4\n[gate]\nautonomy = 0\n"
    );
    (House::new("demo_load = false\nchaos = true", &rooms), held)
}

fn token(house: &House) -> String {
    house.read(".kloros/api.token").trim().to_owned()
}

#[track_caller]
fn check_status(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str, expected: u16) {
    let answer = ask(port, method, path, headers, body);
    assert_eq!(answer.status, expected, "{method} {path} {headers:?}: {}", answer.body);
}

/// Returns the text of events until one holds `wanted`.
fn events_until(port: u16, path: &str, headers: &str, wanted: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost:{port}\r\n{headers}\r\n").unwrap();
    let (mut text, mut chunk) = (String::new(), [0; 4096]);
    let deadline = Instant::now() + PATIENCE;
    while !text.contains(wanted) {
        // A stream that lives says so now and then, so that reading alone never ends.
        assert!(Instant::now() < deadline, "{wanted} is not told: {text:?}");
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "the events end with {text:?}");
        text += &String::from_utf8_lossy(&chunk[..count]);
    }
    text
}

#[test]
fn loopback_is_a_door_with_a_guard_and_every_route_answers_as_it_is_described() {
    let (mut house, held) = reached();
    let port = held.number();
    std::fs::create_dir(house.path("conf.d")).unwrap();
    std::fs::write(house.path("conf.d/strict.toml"), "[validator]\nkeep_from = 0.04\n").unwrap();
    house.start(&[]);
    // The console draws what a change is judged by here, not what ships.
    let thresholds = ask(port, "GET", "/api/v1/live", &[], "").json()["thresholds"].clone();
    assert_eq!(thresholds, serde_json::json!({"keep_from": 0.04, "undo_below": -0.05}));
    let token = token(&house);
    assert_eq!(std::fs::metadata(house.path(".kloros/api.token")).unwrap().permissions().mode() & 0o777, 0o600);
    let bearer = format!("Bearer {token}");
    turns_away(port, &bearer);
    is_bounded(port);
    let proposed = house.json(&["try", "lab", "LAB_THREADS=2", "--no-wait"]);
    let id = proposed["id"].as_str().unwrap().to_owned();
    house.until("it waits for a person", |house| {
        house.json(&["status"])["live"]["waiting"][0]["promotion"]["id"] == id.as_str()
    });
    describes_itself(port, &bearer, &id);
    check_status(port, "POST", "/api/v1/go", &[("authorization", &bearer)], "{}", 200);
    let refused = ask(port, "POST", "/api/v1/chaos/kill", &[("authorization", &bearer)], r#"{"id": "no such room"}"#);
    assert_eq!(refused.status, 409, "{}", refused.body);
    tells_events(port, &house);
    let address = house.json(&["console"]);
    assert_eq!(address["url"], format!("http://127.0.0.1:{port}/#token={token}"));
}

/// Wrong tokens, foreign pages and foreign names stay outside.
fn turns_away(port: u16, bearer: &str) {
    check_status(port, "GET", "/api/v1/live", &[], "", 200);
    check_status(port, "GET", "/api/v1/nothing", &[], "", 404);
    check_status(port, "POST", "/api/v1/live", &[("authorization", bearer)], "{}", 405);
    check_status(port, "POST", "/api/v1/stop", &[], "{}", 401);
    check_status(port, "POST", "/api/v1/stop", &[("authorization", "Bearer wrong")], "{}", 401);
    check_status(port, "GET", "/api/v1/live", &[("authorization", "Bearer wrong")], "", 401);
    for (name, value) in [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        check_status(port, "POST", "/api/v1/stop", &[("authorization", bearer), (name, value)], "{}", 403);
        check_status(port, "GET", "/api/v1/live", &[(name, value)], "", 403);
    }
    for host in ["evil.example", "127.0.0.1.evil.example", "0.0.0.0"] {
        check_status(port, "GET", "/", &[("host", host)], "", 421);
        check_status(port, "POST", "/api/v1/stop", &[("host", host), ("authorization", bearer)], "{}", 421);
    }
    let preflight = ask(port, "OPTIONS", "/api/v1/stop", &[("origin", "http://evil.example")], "");
    assert_eq!(preflight.status, 403);
    let page = ask(port, "GET", "/", &[], "");
    assert!(!page.head.to_ascii_lowercase().contains("access-control"), "{}", page.head);
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "nosniff", "no-referrer"] {
        assert!(page.head.contains(part), "{part} is not in {}", page.head);
    }
    check_status(port, "POST", "/api/v1/stop", &[("authorization", bearer)], &"x".repeat(70_000), 413);
    check_status(port, "POST", "/api/v1/answer", &[("authorization", bearer)], r#"{"id": 7}"#, 422);
    check_status(port, "POST", "/api/v1/answer", &[("authorization", bearer)], r#"{"id": "#, 400);
    let unread = ask(port, "POST", "/api/v1/answer", &[("authorization", bearer)], r#"{"id": 7}"#);
    assert!(unread.json()["error"].is_string(), "{}", unread.body);
}

/// Who holds connections without asking anything loses them, and keeps nobody out for long.
fn is_bounded(port: u16) {
    let held: Vec<TcpStream> = (0..30)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"GET /api/v1/live HTTP/1.1\r\nhost: ").unwrap();
            stream
        })
        .collect();
    check_status(port, "GET", "/api/v1/charts", &[], "", 200);
    drop(held);
}

/// Asks every route of the description, and holds what it says against its schema.
fn describes_itself(port: u16, bearer: &str, promotion: &str) {
    let description = ask(port, "GET", "/api/v1/openapi.json", &[], "").json();
    let mut asked = 0;
    for (path, ways) in description["paths"].as_object().unwrap() {
        for (method, way) in ways.as_object().unwrap() {
            let Some(schema) = way["responses"]["200"]["content"]["application/json"].get("schema") else {
                assert_eq!(path, "/api/v1/events");
                continue;
            };
            let id = if path.contains("/experiments/") { "x-none" } else { promotion };
            let body = match path.rsplit('/').next().unwrap() {
                "alerts" => r#"{"alerts": []}"#,
                "stop" => r#"{"reason": "a test"}"#,
                "reload" => r#"{"wait": true}"#,
                "kill" => r#"{"id": "memory"}"#,
                // They change what the rest of the test is about.
                _ => r#"{"id": "none", "approved": false, "domain": "none", "settings": {}}"#,
            };
            let headers = [("authorization", bearer)];
            let answer = ask(port, &method.to_uppercase(), &path.replace("{id}", id), &headers, body);
            let schema = if answer.status == 200 {
                schema
            } else {
                &way["responses"]["default"]["content"]["application/json"]["schema"]
            };
            let found = schema::breaches(&description, schema, &answer.json(), path);
            assert!(found.is_empty(), "{method} {path} answered {}: {found:#?}", answer.status);
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
}

/// What happens is told once, in order, and from where one was.
fn tells_events(port: u16, house: &House) {
    let text = events_until(port, "/api/v1/events?back=1000", "", "event: fact");
    assert!(text.contains("event: here"), "{text}");
    let first = text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().trim().to_owned();
    assert!(house.kloros(&["stop", "--reason", "told"]).status.success());
    let text = events_until(port, "/api/v1/events", &format!("last-event-id: {first}\r\n"), "told");
    let ids: Vec<u64> = text.lines().filter_map(|line| line.strip_prefix("id: ")?.trim().parse().ok()).collect();
    assert!(ids.first() > Some(&first.parse().unwrap()) && ids.is_sorted(), "{ids:?}");
    assert!(house.kloros(&["go"]).status.success());
}

/// The most that the first view may load.
const FIRST_VIEW_BYTES_MAX: u64 = 200 * 1024;

/// Where pictures are kept for who looks at what CI made.
fn pictures() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("console")
}

#[test]
fn a_cycle_is_watched_in_a_browser_and_a_click_gives_the_approval_that_deploys() {
    let Some(program) = browser::installed() else { return };
    let (mut house, held) = reached();
    let port = held.number();
    house.start(&[]);
    let url = format!("http://127.0.0.1:{port}/");
    let mut page = Page::open(program);
    page.look(1360, 900, "light");
    page.visit(&url);
    page.until("it is connected", "document.querySelector('.dot.good')");
    page.until("the ring is whole", "document.querySelectorAll('.stage').length === 7");
    let (bytes, requests) = page.loaded();
    println!("the first view: {bytes} bytes in {requests} requests");
    assert!(bytes > 50_000 && bytes < FIRST_VIEW_BYTES_MAX, "the first view is {bytes} bytes in {requests} requests");
    let outside = page.value(
        "performance.getEntriesByType('resource').map(each => each.name).filter(name => !name.startsWith(location.origin)).length",
    );
    assert_eq!(outside, 0);

    assert!(house.kloros(&["try", "lab", "LAB_THREADS=2", "--no-wait"]).status.success());
    page.until("it waits for a person", "document.querySelector('[data-approve]')");
    page.until(
        "what would change is shown",
        "document.querySelector('.diff .plus')?.innerText.includes('LAB_THREADS=2')",
    );
    wrong_token_changes_nothing(&mut page, &house);
    page.type_in(&token(&house));
    page.press("Enter");
    page.until("the token is kept", "document.querySelector('#key').innerText === 'Token kept'");
    pictures_of(&mut page, "loop", &["approval"]);
    page.click("[data-approve]");
    house.until("the click deploys", |house| house.env("LAB_THREADS").as_deref() == Some("2"));
    page.until(
        "the ring shows it",
        "[...document.querySelectorAll('.stage.busy')].some(each => /Deployment|Validation/.test(each.ariaLabel))",
    );
    page.until("the cycle closes before its eyes", "document.querySelector('.fact.lesson')");
    page.until("the ring counts it", "document.querySelector('.cycles').textContent === '1'");
    every_view_is_whole(&mut page);
    a_person_stops_everything(&mut page, &house);
    assert_eq!(page.complaints, Vec::<String>::new());
    foreign_pages_get_nothing(&mut page, &house, port);
}

/// Without the right token, a click asks for one.
fn wrong_token_changes_nothing(page: &mut Page, house: &House) {
    page.click("[data-approve]");
    page.until("a token is asked for", "document.activeElement?.id === 'token'");
    page.type_in("0000000000000000000000000000000000000000");
    page.press("Enter");
    page.until("it is refused", "document.querySelector('#token-said').innerText.includes('not the token')");
    assert!(house.env("LAB_THREADS").is_none());
    // The browser itself notes the refusal, as it does each.
    assert!(page.complaints.iter().all(|each| each.contains("401")), "{:?}", page.complaints);
    page.complaints.clear();
}

/// Takes the pictures of a view, wide and narrow, by day and by night.
fn pictures_of(page: &mut Page, view: &str, names: &[&str]) {
    let name = names.first().copied().unwrap_or(view);
    for (screen, width, height) in [("phone", 390, 844), ("desktop", 1360, 900)] {
        for scheme in ["dark", "light"] {
            page.look(width, height, scheme);
            page.until("it is drawn", "document.querySelector('main').innerText.length > 20");
            let wide = page.value("document.documentElement.scrollWidth > innerWidth");
            assert_eq!(wide, false, "{view} is wider than a {screen}");
            page.picture(&pictures().join(format!("{name}-{screen}-{scheme}.png")));
        }
    }
}

fn every_view_is_whole(page: &mut Page) {
    for (view, wanted) in [
        ("experiments", "document.querySelector('main').innerText.includes('No experiment yet')"),
        ("deployments", "document.querySelector('.timeline .event')"),
        ("learning", "document.querySelector('.entries')"),
        ("machine", "document.querySelectorAll('.u-over').length > 1"),
        ("rooms", "document.querySelectorAll('.tree tbody tr').length > 20"),
        ("loop", "document.querySelectorAll('.fact').length > 3"),
    ] {
        page.value(&format!("void (location.hash = '#/{view}')"));
        page.until(view, wanted);
        pictures_of(page, view, &[]);
        let nameless = page.value(
            "[...document.querySelectorAll('button, a, input, [role=button]')].filter(each => each.offsetParent !== null && !(each.ariaLabel || each.innerText || each.textContent || '').trim() && !document.querySelector(`label[for='${each.id}']`)).length",
        );
        assert_eq!(nameless, 0, "{view} has controls without a name");
    }
    page.click(".fact.lesson a");
    page.until("the story opens", "document.querySelectorAll('#drawer .story li').length > 5");
    page.picture(&pictures().join("story-desktop-light.png"));
    page.press("Tab");
    page.value("document.querySelector('#drawer').close()");
}

fn a_person_stops_everything(page: &mut Page, house: &House) {
    page.click("#halt");
    page.until("it asks", "document.querySelector('#sheet[open] button.danger')");
    page.click("#reason");
    page.type_in("the rack is moved");
    page.click("#sheet button.danger");
    page.until("it stands still", "document.querySelector('.dot.bad')");
    assert!(house.read(".kloros/stop").contains("the rack is moved"));
    page.picture(&pictures().join("stopped-desktop-light.png"));
    page.click("#halt");
    page.until("it asks again", "document.querySelector('#sheet[open] button.primary')");
    page.click("#sheet button.primary");
    page.until("it goes on", "document.querySelector('.dot.good')");
    assert!(!house::exists(&house.path(".kloros/stop")));
}

/// A page of another origin, and our own under a name that somebody else owns.
fn foreign_pages_get_nothing(page: &mut Page, house: &House, port: u16) {
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = foreign.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in foreign.incoming().take(8) {
            let Ok(mut stream) = stream else { continue };
            let mut head = [0; 2048];
            let Ok(1..) = stream.read(&mut head) else { continue };
            let page = "<!doctype html><title>evil</title>";
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{page}",
                page.len()
            )
            .ok();
        }
    });
    page.visit(&format!("http://127.0.0.1:{other}/"));
    page.until("the foreign page is there", "document.title === 'evil'");
    let attempt = |path: &str, more: &str| {
        format!(
            "fetch('http://127.0.0.1:{port}/api/v1{path}', {more}).then(answer => answer.status + ' ' + answer.type, () => 'blocked')"
        )
    };
    for expression in
        [attempt("/live", "{}"), attempt("/stop", "{method: 'POST', headers: {authorization: 'Bearer x'}}")]
    {
        assert_eq!(page.value(&expression), "blocked", "{expression}");
    }
    let blind = page.value(&attempt("/stop", "{method: 'POST', mode: 'no-cors', body: '{}'}"));
    // Sent it may be, but nothing of the answer is given to the page.
    assert_eq!(blind, "blocked");
    assert!(!house::exists(&house.path(".kloros/stop")));
    let rebound = ask(port, "GET", "/", &[("host", &format!("rebound.example:{port}"))], "");
    assert_eq!(rebound.status, 421);
}

/// What a page does whose owner lets its name resolve to this machine after it was loaded: to the browser all of it is one origin.
#[test]
fn a_name_that_was_made_to_resolve_here_gets_nothing_in_a_browser_not_even_with_the_token() {
    let Some(program) = browser::installed() else { return };
    let (mut house, held) = reached();
    let port = held.number();
    house.start(&[]);
    let mut page = Page::open_with(program, &["--host-resolver-rules=MAP rebound.example 127.0.0.1"]);
    page.visit(&format!("http://rebound.example:{port}/"));
    page.until("the browser is there", "location.hostname === 'rebound.example' && document.readyState === 'complete'");
    assert_eq!(page.value("document.querySelectorAll('script, #halt, .stage').length"), 0);
    let bearer = format!("{{authorization: 'Bearer {}'}}", token(&house));
    let stop = format!("{{method: 'POST', headers: {bearer}, body: '{{}}'}}");
    let read = format!("{{headers: {bearer}}}");
    for (path, more) in [
        ("/", "{}"),
        ("/api/v1/live", "{}"),
        ("/api/v1/live", &read),
        ("/api/v1/openapi.json", "{}"),
        ("/api/v1/events", "{}"),
        ("/api/v1/stop", &stop),
    ] {
        let told = page.value(&format!("fetch('{path}', {more}).then(answer => answer.status, () => 'blocked')"));
        assert_eq!(told, 421, "{path} {more}");
    }
    let heard = page.value(
        "new Promise(tell => { const events = new EventSource('/api/v1/events'); events.onopen = () => tell('open'); events.onerror = () => tell('refused'); })",
    );
    assert_eq!(heard, "refused");
    assert!(!house::exists(&house.path(".kloros/stop")));
    let metrics =
        house.json(&["status"])["live"]["metrics_address"].as_str().unwrap().replace("127.0.0.1", "rebound.example");
    page.visit(&format!("http://{metrics}/metrics"));
    page.until("the browser is there", &format!("location.host === '{metrics}' && document.readyState === 'complete'"));
    assert_eq!(page.value("document.body.innerText.includes('kloros_build_info')"), false);
    // The same browser under the right name, so that it was the name.
    page.visit(&format!("http://127.0.0.1:{port}/"));
    page.until("it is connected", "document.querySelector('.dot.good')");
}

#[test]
fn an_experiment_and_the_gpus_are_looked_at_in_a_browser() {
    let Some(program) = browser::installed() else { return };
    let (mut house, held) = reached();
    let library = house.path("libnvidia-ml.so.1");
    fs::copy(std::env::current_exe().unwrap().with_file_name("libfake_nvml.so"), &library).unwrap();
    let busy = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/nvml/h100-80gb-busy.json");
    fs::copy(busy, house.path("script.json")).unwrap();
    fs::create_dir(house.path("conf.d")).unwrap();
    fs::write(house.path("conf.d/gpu.toml"), format!("[gpu]\nlibrary = {library:?}\n")).unwrap();
    house.start(&[]);
    house.ask("q-seen");
    let mut page = Page::open(program);
    page.look(1360, 900, "light");
    page.visit(&format!("http://127.0.0.1:{}/#/machine", held.number()));
    for (title, said) in [("Load", "busy"), ("Memory", "all"), ("Temperature", "core"), ("Power", "drawn")] {
        let chart = format!("document.querySelector('[aria-label$=\": {title}\"][aria-label^=gpu]')");
        page.until(&format!("{title} of the GPU is drawn"), &format!("{chart}?.querySelector('.u-over')"));
        let legend = page.value(&format!("{chart}.querySelector('.u-legend').innerText"));
        assert!(legend.as_str().unwrap().contains(said), "{title}: {legend}");
        let is_painted = format!(
            "(() => {{ const canvas = {chart}.querySelector('canvas'); return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(each => each > 0); }})()"
        );
        page.until(&format!("{title} is no empty frame"), &is_painted);
    }
    assert_eq!(page.value("document.querySelector('main').innerText.includes('No GPU is seen')"), false);
    pictures_of(&mut page, "machine", &["gpu"]);
    page.value("void (location.hash = '#/experiments')");
    page.until(
        "the experiment is over",
        "document.querySelector('.list .item .chip') && document.querySelector('.list .item .chip').innerText.toLowerCase() !== 'running'",
    );
    page.until("its trials are drawn", "document.querySelector('[aria-label^=\"Gain of\"] .u-over')");
    let heads = page.value("[...document.querySelectorAll('h3')].map(each => each.innerText).join(', ')");
    for head in ["Convergence", "What matters", "Pareto front", "The best beside the live settings"] {
        assert!(heads.as_str().unwrap().contains(head), "{head} is missing in {heads}");
    }
    let candidates =
        page.value("Number(document.querySelector('[aria-label^=\"Gain of\"]').ariaLabel.match(/[0-9]+/)[0])");
    assert!(candidates.as_u64().is_some_and(|count| (2..=12).contains(&count)), "{candidates} candidates");
    assert_eq!(page.value("document.querySelector('table.best th.num').innerText"), "live");
    assert_eq!(page.value("document.querySelectorAll('.front .point').length > 1"), true);
    pictures_of(&mut page, "experiments", &["experiment"]);
    assert_eq!(page.complaints, Vec::<String>::new());
}

#[test]
fn the_api_is_never_offered_beyond_loopback() {
    let house = House::new("", "[api]\nlisten = \"0.0.0.0:9465\"\n");
    let output = house.kloros(&["check-config"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("api.listen: 0.0.0.0:9465 is reachable from other machines"), "{}", said(&output));
    drop(house);
    let off = House::new("", "");
    let output = off.kloros(&["console"]);
    assert!(!output.status.success() && said(&output).contains("switched off"), "{}", said(&output));
    assert_eq!(off.json(&["check-config"])["ok"], Value::Bool(true));
}
