//! The sweep: what each setting is worth, measured over HTTP against servers of their own.
//!
//! The load is open: requests arrive at random times that do not depend on the answers, the same times and prompts for every
//! setting. Settings take turns, round after round, so that what else the machine does falls on all of them alike.

use std::{
    env,
    io::{self, Write as _},
    process::Stdio,
    time::{Duration, Instant},
};

use futures::StreamExt;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use rand_distr::{Distribution, Exp};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::LabError;

/// Time a server of the sweep has to come up.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// Time after the last arrival in which answers still count as late and not as missing.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Seed of arrivals and prompts; the round is added to it.
const SEED: u64 = 7;
/// Tokens of a prompt; one in [`LONG_EVERY`] is long.
const PROMPT_TOKENS: std::ops::RangeInclusive<usize> = 48..=160;
const LONG_PROMPT_TOKENS: std::ops::RangeInclusive<usize> = 480..=800;
const LONG_EVERY: u32 = 8;
/// Requests that one round sends at most.
const ARRIVALS_MAX: usize = 10_000;
/// Tokens of an answer.
const ANSWER_TOKENS: std::ops::RangeInclusive<usize> = 32..=96;

/// The settings that are compared when none are named: the shipped ones, a good one, and its neighbours on each axis.
const TABLE: [&str; 20] = [
    "",
    GOOD,
    "LAB_MAX_NUM_SEQS=2",
    "LAB_MAX_NUM_SEQS=4",
    "LAB_MAX_NUM_SEQS=24",
    "LAB_MAX_NUM_SEQS=64",
    "LAB_BATCH_WAIT_MS=2",
    "LAB_BATCH_WAIT_MS=20",
    "LAB_BATCH_WAIT_MS=100",
    "LAB_THREADS=1",
    "LAB_THREADS=4",
    "LAB_THREADS=8",
    "LAB_KV_CACHE_MIB=4",
    "LAB_KV_CACHE_MIB=8",
    "LAB_KV_CACHE_MIB=320",
    "LAB_PREFILL_CHUNK=8",
    "LAB_PREFILL_CHUNK=32",
    "LAB_PREFILL_CHUNK=512",
    "LAB_PREFILL_CHUNK=1024",
    "LAB_PRECISION=f64",
];
const GOOD: &str =
    "LAB_MAX_NUM_SEQS=12 LAB_BATCH_WAIT_MS=0 LAB_THREADS=2 LAB_KV_CACHE_MIB=32 LAB_PREFILL_CHUNK=128 LAB_PRECISION=f32";

/// How hard and how long the lab is driven, and what counts as good.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SweepArgs {
    /// Settings to compare, as `KEY=VALUE KEY=VALUE`; may be given often
    #[arg(long)]
    pub(crate) settings: Vec<String>,
    /// Requests a second, on average
    #[arg(long, default_value_t = 12.0)]
    pub(crate) rate: f64,
    /// Seconds of load for each setting in each round
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Rounds over all settings
    #[arg(long, default_value_t = 2)]
    pub(crate) rounds: u32,
    /// Milliseconds to the first token within which an answer is good
    #[arg(long, default_value_t = 1000)]
    pub(crate) first_token_ms: u64,
    /// Milliseconds to the last token within which an answer is good
    #[arg(long, default_value_t = 2500)]
    pub(crate) whole_ms: u64,
    /// Milliseconds between tokens, on average over an answer, within which it is good
    #[arg(long, default_value_t = 50)]
    pub(crate) token_ms: u64,
}

/// Measures every setting in every round and prints one line for each setting.
pub(crate) async fn sweep(args: SweepArgs) -> Result<(), LabError> {
    let table: Vec<String> = if args.settings.is_empty() {
        TABLE.iter().map(|row| (*row).to_owned()).collect()
    } else {
        args.settings.clone()
    };
    let mut totals: Vec<Total> = table.iter().map(|_| Total::default()).collect();
    for round in 0..args.rounds {
        for (setting, total) in table.iter().zip(&mut totals) {
            total.add(measure(setting, &args, SEED + u64::from(round)).await?);
        }
    }
    print(HEAD)?;
    for (setting, total) in table.iter().zip(&totals) {
        print(&total.line(setting, &args))?;
    }
    Ok(())
}

const HEAD: &str =
    "good/s   ok  refused  ttft p50/p95 ms   itl p50/p99 ms   e2e p95 ms  preempted  start ms  rss MiB  setting";

fn print(line: &str) -> Result<(), LabError> {
    writeln!(io::stdout(), "{line}").map_err(|source| LabError::Io { action: "write to stdout", source })
}

/// What was seen of one setting, over all rounds.
#[derive(Default)]
struct Total {
    answers: Vec<Option<Answer>>,
    preempted: f64,
    start: Duration,
    resident_mib: f64,
}

struct Answer {
    first_token: Duration,
    gaps: Vec<Duration>,
    whole: Duration,
}

impl Answer {
    fn is_good(&self, args: &SweepArgs) -> bool {
        let mean_gap = self.gaps.iter().sum::<Duration>().checked_div(self.gaps.len() as u32).unwrap_or_default();
        self.first_token <= Duration::from_millis(args.first_token_ms)
            && self.whole <= Duration::from_millis(args.whole_ms)
            && mean_gap <= Duration::from_millis(args.token_ms)
    }
}

impl Total {
    fn add(&mut self, other: Total) {
        self.answers.extend(other.answers);
        self.preempted += other.preempted;
        self.start = self.start.max(other.start);
        self.resident_mib = self.resident_mib.max(other.resident_mib);
    }

    fn line(&self, setting: &str, args: &SweepArgs) -> String {
        let answers: Vec<&Answer> = self.answers.iter().flatten().collect();
        let good = answers.iter().filter(|answer| answer.is_good(args)).count();
        let millis = |times: Vec<Duration>, percent| {
            percentile(times, percent).map_or("-".to_owned(), |time| format!("{:.0}", time.as_secs_f64() * 1e3))
        };
        let first = |percent| millis(answers.iter().map(|answer| answer.first_token).collect(), percent);
        let gap = |percent| millis(answers.iter().flat_map(|answer| answer.gaps.iter().copied()).collect(), percent);
        format!(
            "{:6.2} {:4} {:8} {:>8}/{:<8} {:>7}/{:<7} {:>11} {:10} {:9} {:8.0}  {}",
            good as f64 / (args.seconds * f64::from(args.rounds)),
            answers.len(),
            self.answers.len() - answers.len(),
            first(50),
            first(95),
            gap(50),
            gap(99),
            millis(answers.iter().map(|answer| answer.whole).collect(), 95),
            self.preempted,
            self.start.as_millis(),
            self.resident_mib,
            if setting.is_empty() {
                "(as shipped)"
            } else if setting == GOOD {
                "(good)"
            } else {
                setting
            },
        )
    }
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Option<Duration> {
    times.sort_unstable();
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied()
}

struct Arrival {
    at: Duration,
    prompt: usize,
    answer: usize,
}

fn arrivals(args: &SweepArgs, seed: u64) -> Result<Vec<Arrival>, LabError> {
    let unusable = || LabError::Sweep { setting: "--rate".to_owned(), problem: "must be above zero".to_owned() };
    let gaps = Some(args.rate).filter(|rate| rate.is_finite() && *rate > 0.0).ok_or_else(unusable)?;
    let gaps = Exp::new(gaps).map_err(|_| unusable())?;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut at = 0.0;
    let mut arrivals = Vec::new();
    while arrivals.len() < ARRIVALS_MAX {
        at += gaps.sample(&mut rng);
        if at >= args.seconds {
            break;
        }
        let prompt = if rng.random_ratio(1, LONG_EVERY) { LONG_PROMPT_TOKENS } else { PROMPT_TOKENS };
        arrivals.push(Arrival {
            at: Duration::from_secs_f64(at),
            prompt: rng.random_range(prompt),
            answer: rng.random_range(ANSWER_TOKENS),
        });
    }
    Ok(arrivals)
}

async fn measure(setting: &str, args: &SweepArgs, seed: u64) -> Result<Total, LabError> {
    let problem = |problem: String| LabError::Sweep { setting: setting.to_owned(), problem };
    let before = Instant::now();
    let (server, url) = start(setting).await.map_err(problem)?;
    let start = before.elapsed();
    let client = reqwest::Client::new();
    let began = tokio::time::Instant::now();
    let mut requests = JoinSet::new();
    for arrival in arrivals(args, seed)? {
        let (client, url) = (client.clone(), url.clone());
        requests.spawn(async move {
            sleep_until(began + arrival.at).await;
            timeout(ANSWER_DEADLINE, ask(&client, &url, arrival.prompt, arrival.answer)).await.ok().flatten()
        });
    }
    let answers = requests.join_all().await;
    let preempted = preemptions(&client, &url).await.ok_or_else(|| problem("gives no metrics".to_owned()))?;
    let resident_mib = resident_mib(&server).unwrap_or(f64::NAN);
    Ok(Total { answers, preempted, start, resident_mib })
}

/// Starts a server with `setting` over the good one, or as shipped, and returns it with its address.
async fn start(setting: &str) -> Result<(Child, String), String> {
    let mut command = Command::new(env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?);
    command.args(["lab", "serve", "--port", "0"]).stdout(Stdio::piped()).kill_on_drop(true);
    let base = if setting.is_empty() { "" } else { GOOD };
    for (key, value) in
        [base, setting].iter().flat_map(|row| row.split_whitespace()).filter_map(|pair| pair.split_once('='))
    {
        command.env(key, value);
    }
    let mut child = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
    let stdout = child.stdout.take().ok_or("has no stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = timeout(START_DEADLINE, lines.next_line()).await.map_err(|_| "did not come up in time".to_owned())?;
    let line = line.map_err(|error| error.to_string())?.ok_or("refused to start; its message stands above")?;
    let url = line.strip_prefix("listening on ").ok_or_else(|| format!("said {line:?}"))?;
    Ok((child, url.to_owned()))
}

/// Asks once and returns the times of the answer, or nothing if it was refused or cut off.
async fn ask(client: &reqwest::Client, url: &str, prompt: usize, answer: usize) -> Option<Answer> {
    let before = Instant::now();
    let body = json!({
        "messages": [{"role": "user", "content": "word".repeat(prompt)}], "max_tokens": answer, "stream": true,
    });
    let response = client.post(format!("{url}/v1/chat/completions")).json(&body).send().await.ok()?;
    let mut stream = response.error_for_status().ok()?.bytes_stream();
    let mut times = Vec::with_capacity(answer);
    let mut ended = false;
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.ok()?;
        let text = String::from_utf8_lossy(&bytes);
        times.extend(std::iter::repeat_n(Instant::now(), text.matches("\"content\":").count()));
        ended |= text.contains("[DONE]");
    }
    let first = *times.first().filter(|_| ended)?;
    Some(Answer {
        first_token: first - before,
        gaps: times.windows(2).map(|pair| pair[1] - pair[0]).collect(),
        whole: before.elapsed(),
    })
}

async fn preemptions(client: &reqwest::Client, url: &str) -> Option<f64> {
    let text = client.get(format!("{url}/metrics")).send().await.ok()?.text().await.ok()?;
    let line = text.lines().find(|line| line.starts_with("vllm:num_preemptions_total"))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn resident_mib(server: &Child) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id()?)).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().split(' ').next()?.parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(rate: f64) -> SweepArgs {
        SweepArgs {
            settings: Vec::new(),
            rate,
            seconds: 20.0,
            rounds: 1,
            first_token_ms: 1000,
            whole_ms: 2500,
            token_ms: 50,
        }
    }

    #[test]
    fn every_setting_meets_the_same_arrivals() {
        let times = |seed| arrivals(&args(10.0), seed).unwrap().iter().map(|arrival| arrival.at).collect::<Vec<_>>();
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
        assert!((100..300).contains(&times(1).len()));
        assert!(times(1).is_sorted());
    }

    #[test]
    fn a_rate_that_is_no_rate_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(arrivals(&args(rate), 1).is_err(), "{rate}");
        }
    }

    #[test]
    fn an_answer_is_good_only_within_all_three_limits() {
        let answer = |first, gap, whole| Answer {
            first_token: Duration::from_millis(first),
            gaps: vec![Duration::from_millis(gap); 3],
            whole: Duration::from_millis(whole),
        };
        let good = |answer: Answer| answer.is_good(&args(1.0));
        assert!(good(answer(1000, 50, 2500)));
        assert!(!good(answer(1001, 50, 2500)));
        assert!(!good(answer(1000, 51, 2500)));
        assert!(!good(answer(1000, 50, 2501)));
    }

    #[test]
    fn a_percentile_of_nothing_is_nothing() {
        let times = (1..=100).rev().map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!(percentile(times.clone(), 50), Some(Duration::from_millis(51)));
        assert_eq!(percentile(times, 99), Some(Duration::from_millis(100)));
        assert_eq!(percentile(Vec::new(), 50), None);
    }
}
