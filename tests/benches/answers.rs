//! How soon kloros answers where there is much to answer from: `cargo bench --bench answers`.
//!
//! One change is really made and judged on the lab. What the journal says of it is written there 100,000 times over, under ids of its own
//! each time, and `kloros status` is timed as a whole command beside a running daemon. The runs of a validation are left out: there may be
//! hundreds for a deployment, and nobody but who explains it reads them. A second daemon looks after as many domains as are read, which
//! makes some thousand series, and is scraped: `cargo test --bin kloros telemetry::tests::ten_thousand -- --nocapture` times 10,000.

use std::{
    fs,
    io::{Error, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

/// What is promised, in milliseconds.
const STATUS_MS_MAX: f64 = 50.0;
const METRICS_MS_MAX: f64 = 20.0;

/// How many deployments there are, where `KLOROS_DEPLOYMENTS` does not say.
const DEPLOYMENTS: u64 = 100_000;

/// How many domains there are: more files are not read.
const DOMAINS: u64 = 256;

/// How many series a domain has at least, once everything about it was seen.
const SERIES_MIN: usize = 12 * DOMAINS as usize;

/// How often each is asked.
const ASKED: usize = 50;

/// How long anything may take to come about.
const WITHIN: Duration = Duration::from_secs(600);

/// What is asked of a change that is over soon.
const SETTINGS: &str = "[validator]\nblocks_min = 2\nblocks_max = 2\ncalibrate_blocks = 0\n[gate]\nautonomy = 3\n";

fn main() -> std::io::Result<()> {
    let status = status()?;
    let metrics = metrics()?;
    if status && metrics { say("both kept") } else { Err(Error::other("NOT KEPT")) }
}

/// Times `kloros status`, and says whether it is as soon as promised.
fn status() -> std::io::Result<bool> {
    let home = tempfile::tempdir()?;
    let port = free_port()?;
    let shell = format!("[shell]\nlog = \"error\"\ndemo_load = false\nmetrics_address = \"127.0.0.1:{port}\"\n");
    fs::write(home.path().join("kloros.toml"), shell + SETTINGS)?;
    let daemon = Daemon::start(home.path())?;
    // Whatever the verdict is, it is one.
    kloros(home.path(), &["try", "lab", "LAB_MAX_NUM_SEQS=4"])?;
    daemon.end()?;
    let began = Instant::now();
    let wanted = std::env::var("KLOROS_DEPLOYMENTS").ok().and_then(|text| text.parse().ok());
    let facts = multiply(&home.path().join(".kloros/journal.db"), wanted.unwrap_or(DEPLOYMENTS))?;
    let bytes = fs::metadata(home.path().join(".kloros/journal.db"))?.len();
    say(&format!(
        "a journal of {facts} facts and {} MiB, written in {:.0} s",
        bytes >> 20,
        began.elapsed().as_secs_f64()
    ))?;
    let began = Instant::now();
    let daemon = Daemon::start(home.path())?;
    say(&format!("  the daemon answers {:.1} s after its start", began.elapsed().as_secs_f64()))?;
    let mut took_ms = Vec::new();
    for _ in 0..ASKED {
        let began = Instant::now();
        let output = kloros(home.path(), &["status"])?;
        took_ms.push(milliseconds(began));
        if !output.status.success() {
            return Err(Error::other(format!("status ended with {output:?}")));
        }
    }
    daemon.end()?;
    judged("kloros status, the whole command", &mut took_ms, STATUS_MS_MAX)
}

/// Writes what the journal says of its one deployment so many times into it, and returns how many facts there are then.
fn multiply(journal: &Path, times: u64) -> std::io::Result<i64> {
    let work = || -> rusqlite::Result<i64> {
        let mut connection = Connection::open(journal)?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        let transaction = connection.transaction()?;
        let cycle: Option<String> = transaction
            .query_row("SELECT cycle FROM facts WHERE kind = 'verdict' ORDER BY seq LIMIT 1", [], |row| row.get(0))
            .optional()?;
        let cycle = cycle.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let facts = {
            let sql =
                "SELECT at_ms, kind, subject, once, body FROM facts WHERE cycle = ?1 AND kind <> 'run' ORDER BY seq";
            let mut statement = transaction.prepare(sql)?;
            let rows = statement
                .query_map([&cycle], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
            rows.collect::<rusqlite::Result<Vec<(i64, String, String, Option<String>, String)>>>()?
        };
        let mut ids: Vec<String> = facts.iter().map(|fact| fact.2.clone()).filter(|id| id.contains('-')).collect();
        ids.push(cycle.clone());
        ids.sort_by_key(|id| std::cmp::Reverse(id.len()));
        ids.dedup();
        let mut seq: i64 = transaction.query_row("SELECT max(seq) FROM facts", [], |row| row.get(0))?;
        let mut insert = transaction.prepare("INSERT INTO facts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
        for time in 1..times {
            let anew =
                |text: &str| ids.iter().fold(text.to_owned(), |text, id| text.replace(id, &format!("{id}.{time}")));
            let cycle = anew(&cycle);
            for (at_ms, kind, subject, once, body) in &facts {
                seq += 1;
                let (subject, once, body) = (anew(subject), once.as_deref().map(anew), anew(body));
                let digest = digest(seq, &cycle, *at_ms, kind, &subject, once.as_deref(), &body);
                insert.execute(params![seq, cycle, at_ms, kind, subject, once, body, digest])?;
            }
        }
        drop(insert);
        transaction.execute("UPDATE open_work_known SET seq = ?1", [seq])?;
        transaction.commit()?;
        connection.pragma_update(None, "wal_checkpoint", "TRUNCATE")?;
        Ok(seq)
    };
    work().map_err(Error::other)
}

/// Returns the digest of a row, as the journal has it; a reader refuses any other.
fn digest(seq: i64, cycle: &str, at_ms: i64, kind: &str, subject: &str, once: Option<&str>, body: &str) -> i64 {
    let mut hash = Sha256::new();
    hash.update(seq.to_le_bytes());
    hash.update(at_ms.to_le_bytes());
    hash.update([u8::from(once.is_some())]);
    for text in [cycle, kind, subject, once.unwrap_or_default(), body] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    i64::from_le_bytes(first)
}

/// Times `/metrics`, and says whether it is as soon as promised.
fn metrics() -> std::io::Result<bool> {
    let (home, domains) = (tempfile::tempdir()?, DOMAINS);
    let (port, served) = (free_port()?, free_port()?);
    let shell = format!("[shell]\nlog = \"error\"\nmetrics_address = \"127.0.0.1:{port}\"\n[gate]\nautonomy = 0\n");
    fs::write(home.path().join("kloros.toml"), shell)?;
    for folder in ["domains", "env"] {
        fs::create_dir(home.path().join(folder))?;
    }
    for domain in 0..domains {
        fs::write(home.path().join(format!("env/d{domain}.env")), "LAB_THREADS=1\n")?;
        fs::write(home.path().join(format!("domains/d{domain}.toml")), domain_file(domain, served))?;
    }
    // One service behind all of them.
    let mut lab = Command::new(env!("CARGO_BIN_EXE_kloros"));
    lab.args(["lab", "serve", "--env-file"]).arg(home.path().join("env/d0.env"));
    let lab = Daemon(quiet(&mut lab).args(["--host", "127.0.0.1", "--port", &served.to_string()]).spawn()?);
    let daemon = Daemon::start(home.path())?;
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
    let until = Instant::now() + WITHIN;
    let mut shown = 0;
    // What is watched shows up by and by.
    while shown < SERIES_MIN && Instant::now() < until {
        std::thread::park_timeout(Duration::from_millis(500));
        shown = series(&scrape(port)?);
    }
    let mut took_ms = Vec::new();
    let mut bytes = 0;
    for _ in 0..ASKED {
        // As far apart as scrapes are not, and far enough for what is done between them.
        std::thread::park_timeout(Duration::from_millis(200));
        let began = Instant::now();
        bytes = scrape(port)?.len();
        took_ms.push(milliseconds(began));
    }
    daemon.end()?;
    lab.end()?;
    judged(&format!("/metrics, {shown} series of {domains} domains, {} KiB", bytes >> 10), &mut took_ms, METRICS_MS_MAX)
        .map(|kept| kept && shown >= SERIES_MIN)
}

fn domain_file(domain: u64, port: u16) -> String {
    format!(
        "isolation = \"shadow\"\n[service]\nmanager = {{ command = {{ restart = [\"true\"] }} }}\nargv = [\"true\", \"{{port}}\"]\n\
         port = {port}\nenv_file = \"env/d{domain}.env\"\nready = {{ http_path = \"/health\", within_s = 15, passes = 2 }}\n\
         read_back = {{ http_json = \"/config\" }}\n[knobs.LAB_THREADS]\nrange = {{ kind = \"integer\", min = 1, max = 8 }}\n\
         default = 1\n[bench]\nkind = \"command\"\nargv = [\"true\"]\ntimeout_s = 60\n[metrics]\nper_s = {{ direction = \"up\", weight = 1 }}\n"
    )
}

fn scrape(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(WITHIN))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(answer) } else { Err(Error::other(answer)) }
}

/// Prints what was measured, and says whether its median is within what is promised.
fn judged(what: &str, took_ms: &mut [f64], promised_ms: f64) -> std::io::Result<bool> {
    took_ms.sort_by(f64::total_cmp);
    let at = |share: f64| took_ms.get((took_ms.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split_whitespace().next().unwrap_or("-");
    say(&format!(
        "  {what}: {:.1} ms at the median, {:.1} at the 9th of 10, {:.1} at best   (promised: below {promised_ms:.0} ms; load {load})",
        at(0.5),
        at(0.9),
        at(0.0)
    ))?;
    Ok(at(0.5) < promised_ms)
}

/// A program that is ended with the bench.
struct Daemon(Child);

impl Daemon {
    /// Starts the daemon in `home`, and returns it when it answers.
    fn start(home: &Path) -> std::io::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kloros"));
        let daemon = Self(quiet(command.arg("--home").arg(home).arg("run")).spawn()?);
        let until = Instant::now() + WITHIN;
        while !kloros(home, &["status"])?.status.success() {
            if Instant::now() > until {
                return Err(Error::other(format!("the daemon is not well: {:?}", kloros(home, &["status"])?)));
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    fn end(mut self) -> std::io::Result<()> {
        Command::new("kill").args(["-INT", &self.0.id().to_string()]).status()?;
        self.0.wait().map(drop)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null())
}

fn kloros(home: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_kloros")).arg("--home").arg(home).args(arguments).stdin(Stdio::null()).output()
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn milliseconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

fn say(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")
}
