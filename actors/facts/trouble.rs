use serde::{Deserialize, Serialize};

use super::signal::names_gpu;

/// What kind of trouble a metric speaks of, from its name: what goes wrong together for one cause has one kind or neighbouring
/// ones. In the order in which they matter to who uses the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// A device reports errors of its own.
    Hardware,
    /// Answers that fail.
    Errors,
    /// Answers that take long.
    Latency,
    /// Less work done.
    Throughput,
    /// Work that waits.
    Queue,
    /// The cache of keys and values runs short.
    Cache,
    /// Memory runs short.
    Memory,
    /// The disk runs full.
    Disk,
    /// Swap runs full.
    Swap,
    /// Processors are short of time.
    Cpu,
    /// Another resource runs short: a GPU's memory, heat or power.
    Pressure,
    /// Something else about a service.
    Service,
}

impl Trouble {
    /// Returns the kind of trouble that `metric` of `subject` speaks of.
    pub fn of(subject: &str, metric: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| metric.contains(word));
        if names_gpu(subject) {
            return if has(&["hardware_fault"]) { Trouble::Hardware } else { Trouble::Pressure };
        }
        match metric {
            _ if has(&["error", "fail", "refused", "reject", "timeout", "timed_out", "dropped"]) => Trouble::Errors,
            _ if has(&["kv", "preempt", "cache_used", "cache_usage"]) => Trouble::Cache,
            _ if has(&["waiting", "queue"]) => Trouble::Queue,
            _ if has(&["e2e", "ttft", "itl", "tpot", "latency"]) || metric.ends_with("_ms") => Trouble::Latency,
            _ if has(&["swap"]) => Trouble::Swap,
            _ if has(&["memory"]) => Trouble::Memory,
            _ if has(&["disk", "io_stalled"]) => Trouble::Disk,
            _ if has(&["cpu", "load_per_core"]) => Trouble::Cpu,
            _ if has(&["tokens", "requests", "throughput"]) => Trouble::Throughput,
            _ if has(&["pressure", "used_ratio", "usage_ratio"]) => Trouble::Pressure,
            _ => Trouble::Service,
        }
    }

    /// Returns the kind in one word, as it stands in identities and labels.
    pub fn label(self) -> &'static str {
        match self {
            Trouble::Hardware => "hardware",
            Trouble::Errors => "errors",
            Trouble::Latency => "latency",
            Trouble::Throughput => "throughput",
            Trouble::Queue => "queue",
            Trouble::Cache => "cache",
            Trouble::Memory => "memory",
            Trouble::Disk => "disk",
            Trouble::Swap => "swap",
            Trouble::Cpu => "cpu",
            Trouble::Pressure => "pressure",
            Trouble::Service => "service",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_speaks_of_the_trouble_its_name_says() {
        let table = [
            ("lab", "e2e_p95_ms", Trouble::Latency),
            ("lab", "render_ms", Trouble::Latency),
            ("lab", "error_ratio", Trouble::Errors),
            ("lab", "waiting", Trouble::Queue),
            ("lab", "kv_usage_ratio", Trouble::Cache),
            ("lab", "preemptions_per_s", Trouble::Cache),
            ("lab", "tokens_per_s", Trouble::Throughput),
            ("lab", "slots_used_ratio", Trouble::Pressure),
            ("lab", "prefix_hit_ratio", Trouble::Service),
            ("host", "memory_stalled_ratio", Trouble::Memory),
            ("host", "memory_oom_kills", Trouble::Memory),
            ("lab", "tree_memory_ratio", Trouble::Memory),
            ("host", "swap_used_ratio", Trouble::Swap),
            ("host", "disk_used_ratio", Trouble::Disk),
            ("host", "disk_slow_ratio", Trouble::Disk),
            ("host", "network_error_ratio", Trouble::Errors),
            ("host", "network_used_ratio", Trouble::Pressure),
            ("lab", "restarts_per_h", Trouble::Service),
            ("host", "cpu_stalled_ratio", Trouble::Cpu),
            ("gpu:0123abcd", "pressure_ratio", Trouble::Pressure),
            ("gpu", "hardware_fault", Trouble::Hardware),
        ];
        for (subject, metric, expected) in table {
            assert_eq!(Trouble::of(subject, metric), expected, "{subject} {metric}");
        }
    }
}
