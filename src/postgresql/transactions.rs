//! What pgbench says of a run: its summary, and its log with a line for each transaction.

use std::collections::BTreeMap;

use anyhow::{Context, bail};

/// How many transactions are weighed; ten minutes of a fast server are fewer.
const TRANSACTIONS_MAX: usize = 50_000_000;

/// The summary of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    /// Transactions a second, without the time that it took to connect.
    pub(super) tps: f64,
    /// The share of transactions that failed, from 0 to 1.
    pub(super) failed_ratio: f64,
}

impl Run {
    /// Returns the summary that `printed` holds, as pgbench 15 prints it.
    pub(super) fn read(printed: &str) -> anyhow::Result<Self> {
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        let after = |head: &str| printed.lines().find_map(|line| line.trim().strip_prefix(head));
        let tps = after("tps = ").and_then(|rest| number(rest.split(' ').next()?));
        let failed = after("number of failed transactions: ").and_then(|rest| {
            let (_, share) = rest.split_once('(')?;
            number(share.strip_suffix("%)")?)
        });
        let tps = tps.context("pgbench did not say how many transactions a second it made")?;
        let failed = failed.context("pgbench did not say how many transactions failed")?;
        if failed > 100.0 {
            bail!("pgbench says that {failed} % of its transactions failed");
        }
        Ok(Self { tps, failed_ratio: failed / 100.0 })
    }
}

/// How long transactions took, in microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Times(Vec<u64>);

impl Times {
    /// Takes in a line of the log: client, number, time, script, and when it ended. One that failed has the word `failed` for a time.
    pub(super) fn hear(&mut self, line: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let time = words.get(2).filter(|_| words.len() >= 6).copied().unwrap_or_default();
        if time == "failed" || time == "skipped" {
            return Ok(());
        }
        let time = time.parse().ok().with_context(|| format!("no transaction of pgbench's log: {line:?}"))?;
        if self.0.len() >= TRANSACTIONS_MAX {
            bail!("pgbench made more than {TRANSACTIONS_MAX} transactions: measure for a shorter time");
        }
        self.0.push(time);
        Ok(())
    }

    /// Returns the smallest time that this share of the transactions did not exceed, in milliseconds; they are in order.
    fn within(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        let at = rank.clamp(1, self.0.len().max(1)) - 1;
        self.0.get(at).map_or(f64::NAN, |time| *time as f64 / 1000.0)
    }
}

/// Returns the numbers of a run, each finite.
pub(super) fn metrics(run: &Run, mut times: Times) -> anyhow::Result<BTreeMap<String, f64>> {
    if times.0.is_empty() || run.tps == 0.0 {
        bail!("pgbench made no transaction");
    }
    times.0.sort_unstable();
    let metrics = [
        ("tps", run.tps),
        ("p50_ms", times.within(0.5)),
        ("p95_ms", times.within(0.95)),
        ("p99_ms", times.within(0.99)),
        ("failed_ratio", run.failed_ratio),
    ];
    Ok(metrics.map(|(name, value)| (name.to_owned(), value)).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As pgbench 15.18 printed it.
    const PRINTED: &str = "\
pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: <builtin: simple update>
scaling factor: 5
query mode: simple
number of clients: 8
number of threads: 2
maximum number of tries: 1
duration: 3 s
number of transactions actually processed: 2234
number of failed transactions: 0 (0.000%)
latency average = 10.746 ms
initial connection time = 12.104 ms
tps = 744.453684 (without initial connection time)
";

    #[test]
    fn the_summary_is_read_by_its_words() {
        assert_eq!(Run::read(PRINTED).unwrap(), Run { tps: 744.453_684, failed_ratio: 0.0 });
        let failing = PRINTED.replace("0 (0.000%)", "559 (25.000%)");
        assert_eq!(Run::read(&failing).unwrap().failed_ratio, 0.25);
    }

    #[test]
    fn a_summary_that_says_less_or_no_number_is_no_measurement() {
        let cases = [
            String::new(),
            PRINTED.replace("744.453684", "nan"),
            PRINTED.replace("744.453684", "inf"),
            PRINTED.replace("744.453684", "-1"),
            PRINTED.replace("tps = ", "speed = "),
            PRINTED.replace("(0.000%)", ""),
            PRINTED.replace("(0.000%)", "(101%)"),
            PRINTED.split("number of failed").next().unwrap().to_owned(),
        ];
        for text in cases {
            assert!(Run::read(&text).is_err(), "{text:?}");
        }
    }

    fn times(lines: &[&str]) -> anyhow::Result<Times> {
        let mut times = Times::default();
        lines.iter().try_for_each(|line| times.hear(line)).map(|()| times)
    }

    #[test]
    fn latencies_are_the_quantiles_of_the_log_in_milliseconds() {
        let lines: Vec<String> =
            (1..=100).rev().map(|each| format!("0 {each} {each}000 0 1795727407 164839")).collect();
        let heard = times(&lines.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        let metrics = metrics(&Run { tps: 9.0, failed_ratio: 0.0 }, heard).unwrap();
        let expected = [("failed_ratio", 0.0), ("p50_ms", 50.0), ("p95_ms", 95.0), ("p99_ms", 99.0), ("tps", 9.0)];
        assert_eq!(metrics, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[test]
    fn a_transaction_that_failed_has_no_time_and_a_line_that_is_none_is_an_error() {
        assert_eq!(times(&["0 1 29044 0 1795727407 164839", "0 2 failed 0 1795727407 164900"]).unwrap().0, [29044]);
        for line in ["", "0 1", "0 1 29044", "0 1 fast 0 1795727407 164839", "0 1 -5 0 1795727407 164839"] {
            assert!(times(&[line]).is_err(), "{line:?}");
        }
        assert!(metrics(&Run { tps: 9.0, failed_ratio: 0.0 }, Times::default()).is_err());
    }

    proptest! {
        #[test]
        fn whatever_pgbench_prints_is_read_or_refused(text in "(tps = |number of failed transactions: |[0-9.()%e-]|\n| )*") {
            if let Ok(run) = Run::read(&text) {
                prop_assert!(run.tps.is_finite() && (0.0..=1.0).contains(&run.failed_ratio));
            }
            let _ = Times::default().hear(&text);
        }
    }
}
