//! The daemon's search on the real lab, against a plain one that may spend sixteen times as much: `cargo bench --bench lab`.
//!
//! A quasi-random search measures 400 settings of the lab, and its eight best ones again and again. Then the real daemon runs
//! nine experiments of 8 candidates in 3 generations, each with another seed and in a home of its own. What each recommends
//! takes turns with the best of the 400 under the same requests, without the daemon. `KLOROS_LAB_POINTS`, `KLOROS_LAB_SEEDS`
//! and `KLOROS_LAB_ROUNDS` make it smaller for a trial; it then promises nothing. `KLOROS_LAB_LANES` says how many
//! measurements go on at once, each on two cores of its own, for a machine that has as many and nothing else to do.

use std::{
    collections::BTreeMap,
    f64::consts::LN_10,
    fs,
    io::{Error, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use kloros_actors::{
    dream::fitness::{fitness, score, tripped},
    facts::{Key, Knob, KnobKind, MetricSpec, Metrics, Params, Value},
};
use serde_json::{Value as Json, json};

/// How many settings the plain search measures, how many experiments there are, and how often what they find is measured.
const POINTS: usize = 400;
const SEEDS: u64 = 9;
const ROUNDS: u64 = 4;

/// How many of the plain search's best are measured again: the best of many single numbers is a lucky one.
const FINALISTS: usize = 8;

/// How many cores a lane has, where there are several.
const LANE_CORES: u64 = 2;

/// What an experiment may spend.
const CANDIDATES: u32 = 8;
const GENERATIONS: u32 = 3;

/// How good the median recommendation is, as a share of the best of the plain search.
const SHARE_MIN: f64 = 0.9;

/// How long an experiment may take.
const EXPERIMENT_MAX: Duration = Duration::from_secs(1200);

/// How often it is asked whether it has ended: each time costs the machine a little.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// The bases of the Halton sequence (Halton 1960), one a parameter, and how many points at its start are left out.
const BASES: [u64; 6] = [2, 3, 5, 7, 11, 13];
const SKIPPED: u64 = 20;

/// Windows are short, so that there are many. When a request is given up stays as it is: the guard counts those.
const WINDOW: [(&str, &str); 2] = [("warmup_s = 0.3", "warmup_s = 0.2"), ("window_s = 1.5", "window_s = 0.8")];

fn main() -> std::io::Result<()> {
    let (points, seeds, rounds) = (
        number("KLOROS_LAB_POINTS", POINTS as u64)? as usize,
        number("KLOROS_LAB_SEEDS", SEEDS)?,
        number("KLOROS_LAB_ROUNDS", ROUNDS)?,
    );
    let lanes = number("KLOROS_LAB_LANES", 1)?;
    let began = Instant::now();
    let lanes = Lanes((0..lanes).map(|lane| Lab::new((lanes > 1).then_some(lane))).collect::<Result<_, _>>()?);
    let live = lanes.live(rounds)?;
    say(&format!("the lab as shipped: {}", words(&live)))?;
    let best = lanes.plain(points, rounds, &live)?;
    say(&format!(
        "best of {points} quasi-random settings, after {:.0} s: {}",
        began.elapsed().as_secs_f64(),
        told(&best)
    ))?;
    let found = lanes.share((1..=seeds).collect(), |lab, seed| {
        let (since, found) = (Instant::now(), lab.experiment(seed)?);
        let recommended = found.unwrap_or_else(|| lab.shipped());
        say(&format!("seed {seed} recommends, after {:.0} s: {}", since.elapsed().as_secs_f64(), told(&recommended)))?;
        Ok(recommended)
    })?;
    let settings: Vec<Params> = [best].into_iter().chain(found).collect();
    let scores = lanes.compare(&settings, rounds, &live)?;
    say(&format!("compared in {rounds} rounds, as a share of the best of {points}:"))?;
    let mut shares: Vec<f64> = scores[1..].iter().map(|score| (score - scores[0]).exp()).collect();
    for (seed, (share, score)) in shares.iter().zip(&scores[1..]).enumerate() {
        say(&format!("  seed {}   {share:.3}   ({:+.0} % over the lab as shipped)", seed + 1, 100.0 * score.exp_m1()))?;
    }
    say(&format!("  best of {points}   1.000   ({:+.0} %)", 100.0 * scores[0].exp_m1()))?;
    shares.sort_by(f64::total_cmp);
    let median = shares.get(shares.len() / 2).copied().unwrap_or(f64::NAN);
    say(&format!(
        "median share {median:.3}   (promised: {SHARE_MIN} or more), {:.0} s in all",
        began.elapsed().as_secs_f64()
    ))?;
    if points < POINTS || seeds < SEEDS || rounds < ROUNDS {
        return say("a trial with smaller numbers: nothing is promised");
    }
    if median >= SHARE_MIN { say("kept") } else { Err(Error::other("NOT KEPT")) }
}

fn number(name: &str, default: u64) -> std::io::Result<u64> {
    let Some(text) = std::env::var_os(name) else { return Ok(default) };
    let number = text.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 0);
    number.ok_or_else(|| Error::other(format!("{name} is {}: write a number above 0", text.display())))
}

fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}

/// The labs that measure at once.
struct Lanes(Vec<Lab>);

impl Lanes {
    /// Lets the lanes work off `jobs`, and returns what became of each, in their order.
    fn share<Job: Send, Done: Send>(
        &self,
        jobs: Vec<Job>,
        work: impl Fn(&Lab, Job) -> std::io::Result<Done> + Sync,
    ) -> std::io::Result<Vec<Done>> {
        let queue = Mutex::new(jobs.into_iter().enumerate());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let lane = |lab: &Lab| {
            let mut done = Vec::new();
            while let Some((number, job)) = next() {
                done.push((number, work(lab, job)?));
            }
            Ok::<_, Error>(done)
        };
        let mut done = std::thread::scope(|scope| {
            let lanes: Vec<_> = self.0.iter().map(|lab| scope.spawn(|| lane(lab))).collect();
            let ends =
                lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|_| Err(Error::other("a lane panicked"))));
            ends.collect::<std::io::Result<Vec<_>>>()
        })?
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
        done.sort_by_key(|(number, _)| *number);
        Ok(done.into_iter().map(|(_, done)| done).collect())
    }

    /// Returns what the lab measures as it is shipped, on average over the rounds.
    fn live(&self, rounds: u64) -> std::io::Result<Metrics> {
        let runs = self.share((1..=rounds).collect(), |lab, round| lab.measure(&lab.shipped(), round))?;
        let runs: Vec<Metrics> = runs.into_iter().flatten().collect();
        let first = runs.first().ok_or_else(|| Error::other("the lab as shipped could not be measured"))?;
        let mean = |name: &String| {
            let values: Vec<f64> = runs.iter().filter_map(|run| run.get(name).copied()).collect();
            (name.clone(), values.iter().sum::<f64>() / values.len() as f64)
        };
        Ok(first.keys().map(mean).collect())
    }

    /// Returns the best of so many quasi-random settings.
    fn plain(&self, points: usize, rounds: u64, live: &Metrics) -> std::io::Result<Params> {
        let (told, began) = (Mutex::new((0, f64::NEG_INFINITY)), Instant::now());
        let scored = self.share((0..points).collect(), |lab, point| {
            let params = lab.quasi_random(point as u64);
            let score = lab.measure(&params, 1)?.and_then(|metrics| lab.score(&metrics, live));
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            *told = (told.0 + 1, score.unwrap_or(f64::NEG_INFINITY).max(told.1));
            if told.0 % 20 == 0 || told.0 == points {
                let left_s = began.elapsed().as_secs_f64() / told.0 as f64 * (points - told.0) as f64;
                say(&format!("  {} of {points}: best {:+.0} %, {left_s:.0} s left", told.0, 100.0 * told.1.exp_m1()))?;
            }
            Ok(score.map(|score| (score, params)))
        })?;
        let mut found: Vec<(f64, Params)> = scored.into_iter().flatten().collect();
        found.sort_by(|one, other| other.0.total_cmp(&one.0));
        let finalists: Vec<Params> = found.into_iter().take(FINALISTS).map(|(_, params)| params).collect();
        let again = self.compare(&finalists, rounds, live)?;
        let best = finalists.into_iter().zip(again).max_by(|one, other| one.1.total_cmp(&other.1));
        best.map(|(params, _)| params).ok_or_else(|| Error::other("no setting could be measured"))
    }

    /// Returns the mean score of each of `settings`, which take turns, all under the same requests in a round. A run that
    /// failed scores as a tenfold loss, the most that one metric can say; guards, which one short window may trip, are left out.
    fn compare(&self, settings: &[Params], rounds: u64, live: &Metrics) -> std::io::Result<Vec<f64>> {
        let scores = self.share((1..=rounds).collect(), |lab, round| {
            let score = |params| {
                let measured = lab.measure(params, 100 + round)?;
                Ok(measured.and_then(|metrics| fitness(&metrics, live, &lab.metrics)).unwrap_or(-LN_10))
            };
            settings.iter().map(score).collect::<std::io::Result<Vec<f64>>>()
        })?;
        let mean = |setting| scores.iter().map(|round| round[setting]).sum::<f64>() / rounds as f64;
        Ok((0..settings.len()).map(mean).collect())
    }
}

/// The lab, as it ships but for its short windows.
struct Lab {
    lane: Option<u64>,
    domain: String,
    knobs: BTreeMap<Key, Knob>,
    metrics: BTreeMap<String, MetricSpec>,
    home: tempfile::TempDir,
}

impl Lab {
    /// Returns a lab that measures on the cores of its lane, or on all of them.
    fn new(lane: Option<u64>) -> std::io::Result<Self> {
        let mut domain = include_str!("../../config/domains/lab.toml").to_owned();
        for (long, short) in WINDOW {
            if !domain.contains(long) {
                return Err(Error::other(format!("config/domains/lab.toml does not say {long:?} any more")));
            }
            domain = domain.replace(long, short);
        }
        let table: toml::Table = domain.parse().map_err(Error::other)?;
        let part = |name: &str| table.get(name).cloned().ok_or_else(|| Error::other(format!("no {name}")));
        let (knobs, metrics) = (part("knobs")?.try_into(), part("metrics")?.try_into());
        let (knobs, metrics) = (knobs.map_err(Error::other)?, metrics.map_err(Error::other)?);
        let lab = Self { lane, domain, knobs, metrics, home: tempfile::tempdir()? };
        lab.furnish(lab.home.path())?;
        Ok(lab)
    }

    /// Writes the configuration of a home.
    fn furnish(&self, home: &Path) -> std::io::Result<()> {
        // Nothing is deployed: only the search is looked at.
        let mut settings =
            "[shell]\nlog = \"error\"\nmetrics_address = \"127.0.0.1:0\"\ndemo_load = false\n[gate]\nautonomy = 0\n"
                .to_owned();
        if self.lane.is_some() {
            // A lane takes turns with itself only, and the others' load is what it is.
            let lease = self.home.path().join("lease");
            let measuring = format!("[measuring]\nlease_folder = {:?}\n", lease.display().to_string());
            settings.push_str(&measuring);
            settings.push_str("others_max = 1\nothers_rise_max = 1\n");
        }
        fs::write(home.join("kloros.toml"), settings)?;
        fs::create_dir(home.join("domains"))?;
        fs::write(home.join("domains/lab.toml"), &self.domain)?;
        fs::write(home.join("dream.yaml"), include_str!("../../config/dream.yaml"))
    }

    fn program(&self, home: &Path) -> Command {
        let program = env!("CARGO_BIN_EXE_kloros");
        let mut command = match self.lane {
            None => Command::new(program),
            Some(lane) => {
                let cores = format!("{}-{}", lane * LANE_CORES, (lane + 1) * LANE_CORES - 1);
                let mut pinned = Command::new("taskset");
                pinned.args(["--cpu-list", &cores, program]);
                pinned
            }
        };
        command.arg("--home").arg(home);
        command
    }

    /// Runs a command of the program and returns the JSON it prints, also where its answer is no.
    fn kloros(&self, home: &Path, arguments: &[&str]) -> std::io::Result<Json> {
        let mut command = self.program(home);
        let output = command.arg("--json").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
        let text = String::from_utf8(output.stdout).map_err(Error::other)?;
        let found: Json = serde_json::from_str(text.trim()).map_err(Error::other)?;
        match found.get("error") {
            Some(error) => Err(Error::other(format!("kloros {}: {error}", arguments.join(" ")))),
            None => Ok(found),
        }
    }

    fn shipped(&self) -> Params {
        self.knobs.iter().map(|(key, knob)| (name_of(key), knob.default.clone())).collect()
    }

    /// Measures one setting; `None` when the lab did not bear it.
    fn measure(&self, params: &Params, seed: u64) -> std::io::Result<Option<Metrics>> {
        let lines = params.iter().map(|(name, value)| format!("LAB_{}={value}\n", name.to_uppercase()));
        fs::write(self.home.path().join(".kloros_env"), lines.collect::<String>())?;
        let report = self.kloros(self.home.path(), &["bench", "lab", "--seed", &seed.to_string()])?;
        Ok(report["now"].get(0).and_then(|run| serde_json::from_value(run.clone()).ok()))
    }

    fn quasi_random(&self, point: u64) -> Params {
        let value = |knob: &Knob, share: f64| match &knob.range {
            KnobKind::Integer { min, max, log, .. } => {
                let (low, high) = (*min as f64 - 0.5, *max as f64 + 0.5);
                let low = if *log { low.max(0.5) } else { low };
                let number = if *log { low * (high / low).powf(share) } else { low + (high - low) * share };
                Value::Integer((number.round() as i64).clamp(*min, *max))
            }
            KnobKind::Float { min, max, .. } => Value::Float(min + (max - min) * share),
            KnobKind::Boolean {} => Value::Boolean(share >= 0.5),
            KnobKind::Choice { values } => Value::Choice(pick(values, share)),
            KnobKind::Ordinal { values } => pick(values, share),
        };
        let knobs = self.knobs.iter().zip(BASES.into_iter().cycle());
        knobs.map(|((key, knob), base)| (name_of(key), value(knob, halton(point + SKIPPED, base)))).collect()
    }

    fn score(&self, metrics: &Metrics, live: &Metrics) -> Option<f64> {
        score(metrics, live, &self.metrics).filter(|_| tripped(metrics, live, &self.metrics).is_none())
    }

    /// Lets the daemon run one experiment, and returns what it recommends, if anything.
    fn experiment(&self, seed: u64) -> std::io::Result<Option<Params>> {
        let home = tempfile::tempdir()?;
        self.furnish(home.path())?;
        let daemon = Daemon::start(self.program(home.path()), seed)?;
        let intents = home.path().join(".kloros/intents");
        daemon.until("the inbox is there", || Ok(intents.is_dir().then_some(())))?;
        let part = home.path().join("question");
        fs::write(&part, self.question(seed).to_string())?;
        fs::rename(part, intents.join("question.json"))?;
        let end = daemon.until("the experiment ends", || {
            let experiments = self.kloros(home.path(), &["experiments"])?;
            Ok(experiments.get(0).map(|found| found["end"].clone()).filter(|end| !end.is_null()))
        })?;
        if end["how"] == "won" {
            return serde_json::from_value(end["winner"]["best"]["params"].clone()).map(Some).map_err(Error::other);
        }
        say(&format!("  seed {seed} found nothing: {}", end["why"]))?;
        Ok(None)
    }

    fn question(&self, seed: u64) -> Json {
        let space: BTreeMap<String, &KnobKind> =
            self.knobs.iter().map(|(key, knob)| (name_of(key), &knob.range)).collect();
        let mapping: BTreeMap<String, &Key> = self.knobs.keys().map(|key| (name_of(key), key)).collect();
        let directions: BTreeMap<&String, Json> =
            self.metrics.iter().map(|(name, spec)| (name, json!(spec.direction))).collect();
        json!({"type": "curiosity_question", "data": {
            "question_id": format!("lab.bench.{seed:03}"), "hypothesis": "LAB_BENCH",
            "dream_experiment": {
                "name": "lab_bench", "domain": "lab", "search_space": space, "metrics": directions,
                "param_mapping": mapping,
                "budget": {"max_candidates": CANDIDATES, "max_generations": GENERATIONS},
            },
        }})
    }
}

/// Returns a knob's name as an experiment calls it.
fn name_of(key: &Key) -> String {
    key.as_str().trim_start_matches("LAB_").to_lowercase()
}

/// Returns the digits of `index` in `base`, mirrored at the point: a number from 0 to 1.
fn halton(mut index: u64, base: u64) -> f64 {
    let (mut share, mut digit) = (0.0, 1.0);
    while index > 0 {
        digit /= base as f64;
        share += digit * (index % base) as f64;
        index /= base;
    }
    share
}

fn told(params: &Params) -> String {
    params.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn words(metrics: &Metrics) -> String {
    let shown = ["goodput_per_s", "e2e_p50_ms", "error_rate"].into_iter();
    shown.filter_map(|name| Some(format!("{name} {:.2}", metrics.get(name)?))).collect::<Vec<_>>().join("  ")
}

/// A running daemon; dropping it ends it.
struct Daemon(std::cell::RefCell<Child>);

impl Daemon {
    fn start(mut command: Command, seed: u64) -> std::io::Result<Self> {
        command.args(["run", "--seed", &seed.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(command.spawn()?.into()))
    }

    fn until<T>(&self, what: &str, mut is_so: impl FnMut() -> std::io::Result<Option<T>>) -> std::io::Result<T> {
        let deadline = Instant::now() + EXPERIMENT_MAX;
        loop {
            if let Some(found) = is_so()? {
                return Ok(found);
            }
            if let Some(status) = self.0.borrow_mut().try_wait()? {
                return Err(Error::other(format!("the daemon ended with {status} before {what}")));
            }
            if Instant::now() >= deadline {
                return Err(Error::other(format!("not within {} s: {what}", EXPERIMENT_MAX.as_secs())));
            }
            std::thread::sleep(ASK_EVERY);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let child = self.0.get_mut();
        // Asked to end, it ends its lab as well; a second try is the kernel's.
        let asked = Command::new("kill").arg(child.id().to_string()).status().is_ok_and(|status| status.success());
        if !asked {
            child.kill().ok();
        }
        child.wait().ok();
    }
}

/// Returns the value at this share of the list.
fn pick<T: Clone>(values: &[T], share: f64) -> T {
    values[((share * values.len() as f64) as usize).min(values.len() - 1)].clone()
}
