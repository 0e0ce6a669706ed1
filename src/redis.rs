//! Redis, asked with its own tools: how fast it answers, and what it runs with. Domain files name these commands.

use std::collections::BTreeMap;

use anyhow::{Context, bail};

use crate::program::said;

/// The package of Debian that holds its tools.
const PACKAGE: &str = "redis-tools";

/// How a Redis is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) port: u16,
    pub(crate) clients: u32,
    pub(crate) requests: u32,
}

/// Returns requests a second and latencies of SET and GET, by `redis-benchmark`: `set_per_s`, `set_p50_ms`, `set_p99_ms`, and the
/// same of `get`.
pub(crate) fn measure(load: Load) -> anyhow::Result<BTreeMap<String, f64>> {
    let Load { port, clients, requests } = load;
    let (port, requests, clients) = (port.to_string(), requests.to_string(), clients.to_string());
    // Each key is drawn from as many as a cache holds, so that not one entry alone is asked for.
    let arguments = ["-p", &port, "-c", &clients, "-n", &requests, "-r", "100000", "-t", "set,get", "--csv"];
    measured(&said("redis-benchmark", &arguments, PACKAGE)?)
}

/// Returns what the Redis on this port runs with, each setting under the key that domain files give it: `io-threads` is
/// `REDIS_IO_THREADS`.
pub(crate) fn settings(port: u16) -> anyhow::Result<BTreeMap<String, String>> {
    let port = port.to_string();
    let text = said("redis-cli", &["-p", &port, "--json", "CONFIG", "GET", "*"], PACKAGE)?;
    let told: BTreeMap<String, String> = serde_json::from_str(&text).context("redis-cli did not print its settings")?;
    // What it may not be asked for stays with it.
    let is_secret = |name: &str| name.contains("pass") || name.contains("auth") || name.contains("user");
    Ok(told.into_iter().filter(|(name, _)| !is_secret(name)).map(|(name, value)| (key(&name), value)).collect())
}

fn key(name: &str) -> String {
    format!("REDIS_{}", name.replace('-', "_").to_uppercase())
}

/// Returns the numbers of a table such as `redis-benchmark --csv` prints.
fn measured(table: &str) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut rows = table.lines().map(|line| line.split(',').map(|cell| cell.trim().trim_matches('"')).collect());
    let names: Vec<&str> = rows.next().unwrap_or_default();
    let wanted = [("rps", "per_s"), ("p50_latency_ms", "p50_ms"), ("p99_latency_ms", "p99_ms")];
    let mut metrics = BTreeMap::new();
    for row in rows {
        let cell = |name: &str| names.iter().position(|each| *each == name).and_then(|at| row.get(at).copied());
        let Some(test) = cell("test").filter(|test| !test.is_empty()) else { continue };
        for (column, metric) in wanted {
            let number = cell(column).and_then(|text| text.parse::<f64>().ok()).filter(|number| number.is_finite());
            let Some(number) = number else { bail!("redis-benchmark said no {column} of {test}") };
            metrics.insert(format!("{}_{metric}", test.to_lowercase()), number);
        }
    }
    for test in ["set", "get"] {
        if !metrics.contains_key(&format!("{test}_per_s")) {
            bail!("redis-benchmark said nothing of {test}");
        }
    }
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As redis-benchmark 7.0.15 printed it.
    const TABLE: &str = "\
\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"
\"SET\",\"36297.64\",\"0.377\",\"0.040\",\"0.231\",\"0.575\",\"4.367\",\"8.639\"
\"GET\",\"41666.67\",\"0.325\",\"0.040\",\"0.231\",\"0.447\",\"3.271\",\"5.159\"
";

    #[test]
    fn the_table_of_the_benchmark_is_read_by_its_heads() {
        let metrics = measured(TABLE).unwrap();
        let expected = [
            ("get_p50_ms", 0.231),
            ("get_p99_ms", 3.271),
            ("get_per_s", 41666.67),
            ("set_p50_ms", 0.231),
            ("set_p99_ms", 4.367),
            ("set_per_s", 36297.64),
        ];
        assert_eq!(metrics, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[test]
    fn a_table_that_says_less_or_no_number_is_no_measurement() {
        let cases = [
            "",
            "\"test\",\"rps\"\n\"SET\",\"1\"\n\"GET\",\"1\"\n",
            &TABLE.replace("36297.64", "nan"),
            &TABLE.replace("36297.64", "inf"),
            &TABLE.replace("36297.64", "fast"),
            TABLE.rsplit_once("\"GET\"").unwrap().0,
            &TABLE.replace("\"rps\"", "\"requests\""),
        ];
        for text in cases {
            assert!(measured(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_setting_stands_under_the_key_of_the_domain_file() {
        assert_eq!((key("io-threads"), key("hz")), ("REDIS_IO_THREADS".to_owned(), "REDIS_HZ".to_owned()));
    }
}
