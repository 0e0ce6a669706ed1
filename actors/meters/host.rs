//! The metrics of the machine and of what each service uses of it: readings, under the names and units of Prometheus.

use metrics::{Unit, describe_counter, describe_gauge};

use crate::facts::Reading;

/// Share of time in which something waited, by resource.
pub const STALLED: &str = "kloros_host_stalled_ratio";
/// What all network cards carry, by direction.
pub const NETWORK: &str = "kloros_host_network_bytes_per_second";
/// Share of packets that were lost, by reason.
pub const LOST: &str = "kloros_host_network_lost_ratio";
/// Share of time in which something of a service waited, by resource.
pub const SERVICE_STALLED: &str = "kloros_service_stalled_ratio";
/// Share of the time of all cores that was used.
pub const HOST_CPU_USED_RATIO: &str = "kloros_host_cpu_used_ratio";
/// Load average of a minute, for each core.
pub const HOST_LOAD_PER_CORE: &str = "kloros_host_load_per_core";
/// Share of memory that is used.
pub const HOST_MEMORY_USED_RATIO: &str = "kloros_host_memory_used_ratio";
/// Share of swap that is used.
pub const HOST_SWAP_USED_RATIO: &str = "kloros_host_swap_used_ratio";
/// Used share of the tightest memory limit around kloros.
pub const HOST_GROUP_MEMORY_USED_RATIO: &str = "kloros_host_group_memory_used_ratio";
/// Used share of the disk that the home lies on.
pub const HOST_DISK_USED_RATIO: &str = "kloros_host_disk_used_ratio";
/// How long a request to the slowest disk takes.
pub const HOST_DISK_AWAIT_SECONDS: &str = "kloros_host_disk_await_seconds";
/// Share of time in which the busiest disk had requests.
pub const HOST_DISK_BUSY_RATIO: &str = "kloros_host_disk_busy_ratio";
/// How slow a disk is for what it is; 1 is the limit.
pub const HOST_DISK_SLOW_RATIO: &str = "kloros_host_disk_slow_ratio";
/// Used share of what the fullest link carries.
pub const HOST_NETWORK_USED_RATIO: &str = "kloros_host_network_used_ratio";
/// Processes killed for want of memory.
pub const HOST_OOM_KILLS_TOTAL: &str = "kloros_host_oom_kills_total";
/// Share of the time of all cores that the service used.
pub const SERVICE_CPU_RATIO: &str = "kloros_service_cpu_ratio";
/// Share of the machine's memory that the service uses.
pub const SERVICE_MEMORY_RATIO: &str = "kloros_service_memory_ratio";
/// Share that the service uses of the memory it may have.
pub const SERVICE_MEMORY_USED_RATIO: &str = "kloros_service_memory_used_ratio";
/// Processes of the service killed for want of memory.
pub const SERVICE_OOM_KILLS_TOTAL: &str = "kloros_service_oom_kills_total";
/// How often the service died and was started again within an hour.
pub const SERVICE_RESTARTS_LAST_HOUR: &str = "kloros_service_restarts_last_hour";

/// How a reading is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// As it is.
    Gauge,
    /// It is the growth of a count since the reading before.
    Counter,
}

/// A metric that readings of one name become: the reading, its own name, and a label with its value where several share it.
struct Shown {
    reading: &'static str,
    name: &'static str,
    label: Option<(&'static str, &'static str)>,
    shape: Shape,
}

const fn ratio(reading: &'static str, name: &'static str) -> Shown {
    Shown { reading, name, label: None, shape: Shape::Gauge }
}

const fn part(reading: &'static str, name: &'static str, label: (&'static str, &'static str)) -> Shown {
    Shown { reading, name, label: Some(label), shape: Shape::Gauge }
}

/// What is told of the machine.
const HOST: [Shown; 18] = [
    ratio("cpu_used_ratio", HOST_CPU_USED_RATIO),
    ratio("load_per_core", HOST_LOAD_PER_CORE),
    ratio("memory_used_ratio", HOST_MEMORY_USED_RATIO),
    ratio("swap_used_ratio", HOST_SWAP_USED_RATIO),
    ratio("group_memory_used_ratio", HOST_GROUP_MEMORY_USED_RATIO),
    ratio("disk_used_ratio", HOST_DISK_USED_RATIO),
    ratio("disk_await_s", HOST_DISK_AWAIT_SECONDS),
    ratio("disk_busy_ratio", HOST_DISK_BUSY_RATIO),
    ratio("disk_slow_ratio", HOST_DISK_SLOW_RATIO),
    ratio("network_used_ratio", HOST_NETWORK_USED_RATIO),
    part("network_received_bytes_per_s", NETWORK, ("direction", "received")),
    part("network_sent_bytes_per_s", NETWORK, ("direction", "sent")),
    part("network_error_ratio", LOST, ("reason", "error")),
    part("network_dropped_ratio", LOST, ("reason", "dropped")),
    part("cpu_stalled_ratio", STALLED, ("resource", "cpu")),
    part("memory_stalled_ratio", STALLED, ("resource", "memory")),
    part("io_stalled_ratio", STALLED, ("resource", "io")),
    Shown { shape: Shape::Counter, ..ratio("memory_oom_kills", HOST_OOM_KILLS_TOTAL) },
];

/// What is told of each service.
const SERVICE: [Shown; 8] = [
    ratio("tree_cpu_ratio", SERVICE_CPU_RATIO),
    ratio("tree_memory_ratio", SERVICE_MEMORY_RATIO),
    ratio("group_memory_used_ratio", SERVICE_MEMORY_USED_RATIO),
    part("cpu_stalled_ratio", SERVICE_STALLED, ("resource", "cpu")),
    part("memory_stalled_ratio", SERVICE_STALLED, ("resource", "memory")),
    part("io_stalled_ratio", SERVICE_STALLED, ("resource", "io")),
    Shown { shape: Shape::Counter, ..ratio("memory_oom_kills", SERVICE_OOM_KILLS_TOTAL) },
    ratio("restarts_per_h", SERVICE_RESTARTS_LAST_HOUR),
];

/// Gives every metric its unit and help text.
pub(super) fn describe() {
    describe_gauge!(STALLED, "Share of time in which something waited, by resource.");
    describe_gauge!(NETWORK, "What all network cards carry, by direction.");
    describe_gauge!(LOST, "Share of packets that were lost, by reason.");
    describe_gauge!(SERVICE_STALLED, "Share of time in which something of the service waited, by resource.");
    describe_gauge!(HOST_CPU_USED_RATIO, "Share of the time of all cores that was used.");
    describe_gauge!(HOST_LOAD_PER_CORE, "Load average of a minute, for each core.");
    describe_gauge!(HOST_MEMORY_USED_RATIO, "Share of memory that is used.");
    describe_gauge!(HOST_SWAP_USED_RATIO, "Share of swap that is used.");
    describe_gauge!(HOST_GROUP_MEMORY_USED_RATIO, "Used share of the tightest memory limit around kloros.");
    describe_gauge!(HOST_DISK_USED_RATIO, "Used share of the disk that the home lies on.");
    describe_gauge!(HOST_DISK_AWAIT_SECONDS, Unit::Seconds, "How long a request to the slowest disk takes.");
    describe_gauge!(HOST_DISK_BUSY_RATIO, "Share of time in which the busiest disk had requests.");
    describe_gauge!(HOST_DISK_SLOW_RATIO, "How slow a disk is for what it is; 1 is the limit.");
    describe_gauge!(HOST_NETWORK_USED_RATIO, "Used share of what the fullest link carries.");
    describe_counter!(HOST_OOM_KILLS_TOTAL, "Processes killed for want of memory.");
    describe_gauge!(SERVICE_CPU_RATIO, "Share of the time of all cores that the service used.");
    describe_gauge!(SERVICE_MEMORY_RATIO, "Share of the machine's memory that the service uses.");
    describe_gauge!(SERVICE_MEMORY_USED_RATIO, "Share that the service uses of the memory it may have.");
    describe_counter!(SERVICE_OOM_KILLS_TOTAL, "Processes of the service killed for want of memory.");
    describe_gauge!(SERVICE_RESTARTS_LAST_HOUR, "How often the service died and was started again within an hour.");
}

/// Shows what is told of the machine and of `services`, whose names are the only values of the label `service`.
pub fn show<'a>(readings: &[Reading], services: impl Fn(&str) -> bool + 'a) {
    for reading in readings {
        let is_host = reading.subject == "host";
        if !is_host && !services(&reading.subject) {
            continue;
        }
        let table = if is_host { &HOST[..] } else { &SERVICE[..] };
        let Some(shown) = table.iter().find(|shown| shown.reading == reading.metric) else { continue };
        let mut labels: Vec<metrics::Label> = Vec::new();
        if !is_host {
            labels.push(metrics::Label::new("service", reading.subject.clone()));
        }
        labels.extend(shown.label.map(|(key, value)| metrics::Label::from_static_parts(key, value)));
        match shown.shape {
            Shape::Gauge => metrics::gauge!(shown.name, labels).set(reading.value),
            Shape::Counter => metrics::counter!(shown.name, labels).increment(reading.value.max(0.0) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_base_units_and_no_two_readings_become_one_metric() {
        let mut known = std::collections::BTreeSet::new();
        for shown in HOST.iter().chain(&SERVICE) {
            let is_base = ["_ratio", "_seconds", "_total", "_per_second", "_per_core", "_last_hour"];
            assert!(is_base.iter().any(|end| shown.name.ends_with(end)), "{}", shown.name);
            assert_eq!(shown.shape == Shape::Counter, shown.name.ends_with("_total"), "{}", shown.name);
            assert!(known.insert((shown.name, shown.label)), "{} twice", shown.name);
        }
    }

    #[test]
    fn readings_of_strangers_and_those_without_a_name_are_not_shown() {
        let recorder = Names::default();
        let reading = |subject: &str, metric: &str, value: f64| Reading {
            subject: subject.into(),
            metric: metric.into(),
            value,
            samples: 1,
            at_ms: 1,
            source: "test".into(),
        };
        let readings = [
            reading("host", "disk_await_s", 0.25),
            reading("host", "secret_of_someone", 1.0),
            reading("lab", "tree_cpu_ratio", 0.5),
            reading("stranger", "tree_cpu_ratio", 0.5),
        ];
        metrics::with_local_recorder(&recorder, || show(&readings, |name| name == "lab"));
        let seen = recorder.names();
        assert_eq!(seen, [HOST_DISK_AWAIT_SECONDS.to_owned(), format!("{SERVICE_CPU_RATIO}{{service=lab}}")]);
    }

    /// A recorder that remembers what was shown.
    #[derive(Default)]
    struct Names(std::sync::Mutex<Vec<String>>);

    impl Names {
        fn names(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }

        fn note(&self, key: &metrics::Key) {
            let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            self.0.lock().unwrap().push(format!("{}{labels}", key.name()));
        }
    }

    impl metrics::Recorder for Names {
        fn describe_counter(&self, _: metrics::KeyName, _: Option<Unit>, _: metrics::SharedString) {}

        fn describe_gauge(&self, _: metrics::KeyName, _: Option<Unit>, _: metrics::SharedString) {}

        fn describe_histogram(&self, _: metrics::KeyName, _: Option<Unit>, _: metrics::SharedString) {}

        fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
            self.note(key);
            metrics::Counter::noop()
        }

        fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
            self.note(key);
            metrics::Gauge::noop()
        }

        fn register_histogram(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
            self.note(key);
            metrics::Histogram::noop()
        }
    }
}
