//! Landscapes like those of services: plateaus, a cliff of memory, settings that matter under others alone.

use kloros_search::{Config, Constraint, Kind, Param, SpaceSpec, Value, When};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::Problem;

pub(super) fn param(name: &str, kind: Kind) -> Param {
    Param { name: name.to_owned(), kind, when: None }
}

pub(super) fn integer(low: i64, high: i64, log: bool) -> Kind {
    Kind::Integer { low, high, log, step: None }
}

fn float(low: f64, high: f64) -> Kind {
    Kind::Float { low, high, log: false, step: None }
}

fn choices(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| Value::Text((*name).to_owned())).collect()
}

pub(super) fn number(config: &Config, name: &str) -> f64 {
    config.get(name).and_then(Value::number).unwrap_or_default()
}

pub(super) fn is(config: &Config, name: &str, value: &str) -> bool {
    config.get(name) == Some(&Value::Text(value.to_owned()))
}

pub(super) fn is_on(config: &Config, name: &str) -> bool {
    config.get(name) == Some(&Value::Bool(true))
}

pub(super) fn config(values: &[(&str, Value)]) -> Config {
    values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// An inference server: time for each token, by batch, block of cache, threads, and kind of scheduler. Batches whose
/// cache does not fit in memory crash it.
pub(super) fn inference(seed: u64, noise: f64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed);
    let memory = rng.random_range(0.55..0.75);
    let cores = f64::from(rng.random_range(6..14));
    let block_best = 2_f64.powi(rng.random_range(3..6));
    let params = vec![
        param("batch", integer(1, 256, true)),
        param("cache", float(0.1, 0.95)),
        param("threads", integer(1, 32, false)),
        param("block", Kind::Ordinal { choices: [4, 8, 16, 32, 64].map(Value::Integer).to_vec() }),
        param("scheduler", Kind::Categorical { choices: choices(&["fifo", "fair", "shortest"]) }),
        param("prefetch", Kind::Bool),
        param("window", float(0.1, 50.0)),
    ];
    let function = move |config: &Config| {
        let (batch, cache) = (number(config, "batch"), number(config, "cache"));
        if cache + 0.0012 * batch > memory + 0.25 {
            return None;
        }
        let room = (cache * 200.0).min(batch);
        let overhead = 40.0 / (1.0 + room.powf(0.8)) + 0.03 * batch + 3.0 * (batch - room).max(0.0) / batch;
        let threads = number(config, "threads");
        let parallel = 6.0 / threads.min(cores) + 0.5 * (threads - cores).max(0.0).sqrt();
        let block = (number(config, "block") / block_best).log2().abs() * 0.6;
        let scheduler = if is(config, "scheduler", "fair") {
            0.0
        } else if is(config, "scheduler", "fifo") {
            2.0
        } else {
            1.0
        };
        let prefetch = if is_on(config, "prefetch") == (cache < 0.6) { 0.0 } else { 0.8 };
        let window = (number(config, "window") / 12.0).ln().powi(2) * 0.4;
        Some(10.0 + overhead + parallel + block + scheduler + prefetch + window)
    };
    let default = config(&[
        ("batch", Value::Integer(4)),
        ("cache", Value::Float(0.3)),
        ("threads", Value::Integer(2)),
        ("block", Value::Integer(16)),
        ("scheduler", Value::Text("fifo".to_owned())),
        ("prefetch", Value::Bool(false)),
        ("window", Value::Float(2.0)),
    ]);
    Problem::new(SpaceSpec { params, ..SpaceSpec::default() }, default, None, noise, Box::new(function))
}

/// A web server with a cache: settings of the cache matter when it is on; fewer workers than connections; compression
/// costs time and saves bytes.
pub(super) fn web(seed: u64, noise: f64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed);
    let hot = rng.random_range(2.0..4.0);
    let cores = f64::from(rng.random_range(4..12));
    let when = |name: &str, value: Value| Some(When { param: name.to_owned(), r#in: vec![value] });
    let on = || Value::Bool(true);
    let params = vec![
        param("workers", integer(1, 64, true)),
        param("connections", integer(16, 4096, true)),
        param("cached", Kind::Bool),
        Param {
            when: when("cached", on()),
            ..param("cache_mib", Kind::Float { low: 1.0, high: 4096.0, log: true, step: None })
        },
        Param {
            when: when("cached", on()),
            ..param("eviction", Kind::Categorical { choices: choices(&["lru", "lfu", "random"]) })
        },
        param("compression", integer(0, 9, false)),
        param("keepalive", float(0.0, 120.0)),
        param("buffer_kib", integer(4, 1024, true)),
        param("tcp", Kind::Categorical { choices: choices(&["cubic", "bbr", "reno", "vegas"]) }),
    ];
    let function = move |config: &Config| {
        let (workers, connections) = (number(config, "workers"), number(config, "connections"));
        if workers * number(config, "buffer_kib") * connections > 6e7 {
            return None;
        }
        let queue = 30.0 / workers.min(cores) + 0.4 * (workers - cores).max(0.0);
        let waiting = 400.0 / connections + connections / 1500.0;
        let cache = if is_on(config, "cached") {
            let hit = 1.0 - (-number(config, "cache_mib").log10() / hot).exp();
            let eviction = if is(config, "eviction", "lfu") { 1.0 } else { 0.75 };
            20.0 * (1.0 - hit * eviction) + number(config, "cache_mib") / 900.0
        } else {
            20.0
        };
        let compression = 0.08 * (number(config, "compression") - 4.0).powi(2);
        let keepalive = 4.0 * (-number(config, "keepalive") / 15.0).exp() + number(config, "keepalive") / 60.0;
        let buffer = (number(config, "buffer_kib") / 128.0).ln().powi(2) * 0.3;
        let tcp = if is(config, "tcp", "bbr") { 0.0 } else { 2.0 };
        Some(queue + waiting + cache + compression + keepalive + buffer + tcp)
    };
    let default = config(&[
        ("workers", Value::Integer(2)),
        ("connections", Value::Integer(128)),
        ("cached", Value::Bool(false)),
        ("compression", Value::Integer(9)),
        ("keepalive", Value::Float(5.0)),
        ("buffer_kib", Value::Integer(16)),
        ("tcp", Value::Text("cubic".to_owned())),
    ]);
    Problem::new(SpaceSpec { params, ..SpaceSpec::default() }, default, None, noise, Box::new(function))
}

/// A database: a pool between a least and a most, memory that several settings share, and a journal.
pub(super) fn database(seed: u64, noise: f64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed);
    let ideal = rng.random_range(20.0..60.0);
    let memory = rng.random_range(9_000.0..14_000.0);
    let params = vec![
        param("pool_min", integer(1, 100, true)),
        param("pool_max", integer(1, 200, true)),
        param("shared_mib", integer(64, 16384, true)),
        param("work_mib", integer(1, 512, true)),
        param("checkpoint_s", float(10.0, 900.0)),
        param("sync", Kind::Categorical { choices: choices(&["full", "group", "async"]) }),
        param("parallel", integer(0, 8, false)),
        param("page_cost", Kind::Float { low: 1.0, high: 8.0, log: false, step: Some(0.25) }),
    ];
    let function = move |config: &Config| {
        let (pool, shared, work) =
            (number(config, "pool_max"), number(config, "shared_mib"), number(config, "work_mib"));
        if shared + pool * work > memory {
            return None;
        }
        let pooled = 3.0 * (pool / ideal).ln().powi(2) + 0.5 * (ideal * 0.5 / number(config, "pool_min")).ln().abs();
        let hits = 25.0 * (-shared / 2500.0).exp();
        let sorts = 6.0 / (1.0 + work / 24.0);
        let checkpoint = (number(config, "checkpoint_s") / 300.0).ln().powi(2);
        let sync = if is(config, "sync", "full") {
            5.0
        } else if is(config, "sync", "group") {
            1.0
        } else {
            0.0
        };
        let parallel = 0.2 * (number(config, "parallel") - 3.0).powi(2);
        let page = 0.5 * (number(config, "page_cost") - 1.5).powi(2);
        Some(pooled + hits + sorts + checkpoint + sync + parallel + page)
    };
    let default = config(&[
        ("pool_min", Value::Integer(1)),
        ("pool_max", Value::Integer(10)),
        ("shared_mib", Value::Integer(128)),
        ("work_mib", Value::Integer(4)),
        ("checkpoint_s", Value::Float(60.0)),
        ("sync", Value::Text("full".to_owned())),
        ("parallel", Value::Integer(0)),
        ("page_cost", Value::Float(4.0)),
    ]);
    let constraint = Constraint { left: "pool_min".to_owned(), right: "pool_max".to_owned() };
    let spec = SpaceSpec { params, constraints: vec![constraint], ..SpaceSpec::default() };
    Problem::new(spec, default, None, noise, Box::new(function))
}
