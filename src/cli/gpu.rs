//! `kloros gpu`: one look at every GPU, with what can be read and why the rest cannot.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Answer, out::Out, text};
use crate::{
    clock::SystemClock,
    gpus,
    home::Home,
    nvml::{DriverState, DriverView, GpuView, Gpus, Snapshot, What},
    settings,
};

/// How long the first look may take at least: where the driver does not keep GPUs awake, it wakes them up one after another.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// How wide the words about one GPU are.
const COLUMNS: usize = 120;

/// Where the words of a line begin.
const INDENT: usize = 12;

#[derive(Args)]
pub(super) struct GpuArgs {
    /// The configuration file [default: kloros.toml in the home]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn gpu(home: anyhow::Result<Home>, args: GpuArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let home = home.ok();
    let config = settings::gpu(home.as_ref().map(Home::root), args.config.as_deref())?;
    let mut watching = gpus::watching(&config, false);
    watching.deadline = watching.deadline.max(FIRST_LOOK);
    let gpus = Gpus::new(watching, Arc::new(SystemClock), |_| ());
    // When the driver hangs, that is part of what is known.
    gpus.look().await.ok();
    let snapshot = gpus.known().snapshot;
    out.answer(&facts(&snapshot), || words(&snapshot))?;
    let all_up = snapshot.driver.state == DriverState::Ready
        && snapshot.driver.unnamed.is_empty()
        && snapshot.gpus.iter().all(|gpu| gpu.trouble.is_none());
    Ok(if all_up { Answer::Done } else { Answer::No })
}

/// Returns everything as JSON: numbers in base units under their names.
fn facts(snapshot: &Snapshot) -> Value {
    let gpus: Vec<Value> = snapshot.gpus.iter().map(gpu_facts).collect();
    json!({"driver": &snapshot.driver, "why": why(&snapshot.driver), "took_s": snapshot.took.as_secs_f64(), "gpus": gpus})
}

fn gpu_facts(gpu: &GpuView) -> Value {
    let mut values = Map::new();
    for ((what, first, second), value) in &gpu.values {
        let Ok(Value::String(name)) = serde_json::to_value(what) else { continue };
        let place = match (first.is_empty(), second.is_empty()) {
            (true, _) => values.entry(name).or_insert(Value::Null),
            (false, true) => below(values.entry(name).or_insert_with(|| json!({})), first),
            (false, false) => below(below(values.entry(name).or_insert_with(|| json!({})), first), second),
        };
        *place = json!(value);
    }
    json!({
        "identity": gpu.identity,
        "up": gpu.trouble.is_none(),
        "trouble": gpu.trouble,
        "said": gpu.said,
        "values": values,
        "processes": gpu.processes,
        "instances": gpu.instances,
        "refused": gpu.refused,
    })
}

/// Returns the place `key` below `value`, which becomes an object if it is none.
fn below<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = json!({});
    }
    &mut value[key]
}

/// Returns why there is nothing to see; `None` when the driver answers.
fn why(driver: &DriverView) -> Option<String> {
    let words = driver.state.words();
    match (&driver.state, &driver.said) {
        (DriverState::Ready, _) => None,
        (DriverState::NoLibrary, _) | (_, None) => Some(words.to_owned()),
        (_, Some(said)) => Some(format!("{words} ({said})")),
    }
}

fn words(snapshot: &Snapshot) -> String {
    let driver = &snapshot.driver;
    if let Some(why) = why(driver) {
        return format!("no GPU here: {why}");
    }
    let count = snapshot.gpus.len();
    let version = driver.version.as_deref().unwrap_or("of unknown version");
    let mut lines = vec![format!("{count} GPU{}, driver {version}", if count == 1 { "" } else { "s" })];
    if let Some(cuda) = &driver.cuda_version {
        write!(lines[0], ", CUDA {cuda}").ok();
    }
    for (index, said) in &driver.unnamed {
        lines.push(format!("the GPU at index {index} does not say who it is: {said}"));
    }
    if driver.left_out > 0 {
        lines.push(format!("{} more are not looked at: raise gpu.gpus_max", driver.left_out));
    }
    for gpu in &snapshot.gpus {
        lines.push(String::new());
        lines.extend(gpu_words(gpu));
    }
    lines.join("\n")
}

fn gpu_words(gpu: &GpuView) -> Vec<String> {
    let identity = &gpu.identity;
    let name = identity.name.as_deref().unwrap_or("GPU");
    let mut lines = vec![format!("{}  {name}  {}", identity.index, identity.uuid)];
    if let Some(trouble) = gpu.trouble {
        let said = gpu.said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default();
        lines.push(line("down", &format!("{}{said}", trouble.words())));
    }
    let parts = [
        ("busy", busy(gpu)),
        ("memory", memory(gpu)),
        ("heat", heat(gpu)),
        ("power", power(gpu)),
        ("clocks", clocks(gpu)),
        ("held down", throttling(gpu)),
        ("PCIe", pcie(gpu)),
        ("ECC", ecc(gpu)),
        ("rows", rows(gpu)),
        ("NVLink", nvlink(gpu)),
        ("fans", fans(gpu)),
        ("modes", modes(gpu)),
        ("processes", processes(gpu)),
        ("instances", instances(gpu)),
        ("board", board(gpu)),
        ("not to say", refused(gpu)),
    ];
    lines.extend(parts.into_iter().filter(|(_, words)| !words.is_empty()).map(|(name, words)| line(name, &words)));
    lines
}

fn line(name: &str, words: &str) -> String {
    text::wrapped(&format!("   {name:<10} {words}"), COLUMNS, INDENT + 2).join("\n")
}

fn ratio(value: f64) -> String {
    format!("{:.0} %", value * 100.0)
}

fn gib(bytes: f64) -> String {
    format!("{:.1} GiB", bytes / f64::from(1 << 30))
}

fn busy(gpu: &GpuView) -> String {
    let engines = [("gpu", ""), ("memory", "memory bandwidth "), ("encoder", "encoder "), ("decoder", "decoder ")];
    let said = engines
        .into_iter()
        .filter_map(|(engine, name)| Some(format!("{name}{}", ratio(gpu.value(What::UtilizationRatio, engine, "")?))));
    said.collect::<Vec<_>>().join(", ")
}

fn memory(gpu: &GpuView) -> String {
    let state = |state| gpu.value(What::MemoryBytes, state, "");
    let (Some(used), Some(total)) = (state("used"), state("total")) else { return String::new() };
    let mut words = format!("{} of {} used", gib(used), gib(total));
    for (name, bytes) in [("free", state("free")), ("kept by the driver", state("reserved"))] {
        if let Some(bytes) = bytes {
            write!(words, ", {} {name}", gib(bytes)).ok();
        }
    }
    words
}

fn heat(gpu: &GpuView) -> String {
    let mut parts = Vec::new();
    for (sensor, name) in [("gpu", ""), ("memory", "memory ")] {
        parts.extend(gpu.value(What::TemperatureCelsius, sensor, "").map(|celsius| format!("{name}{celsius:.0} C")));
    }
    for (threshold, words) in [
        ("gpu_max", "slower from"),
        ("slowdown", "slowed by hardware from"),
        ("memory_max", "memory at most"),
        ("shutdown", "off at"),
    ] {
        let celsius = gpu.value(What::TemperatureThresholdCelsius, threshold, "");
        parts.extend(celsius.map(|celsius| format!("{words} {celsius:.0} C")));
    }
    parts.join(", ")
}

fn power(gpu: &GpuView) -> String {
    let limit = |limit| gpu.value(What::PowerLimitWatts, limit, "");
    let mut parts = Vec::new();
    if let Some(watts) = gpu.value(What::PowerWatts, "", "") {
        let most = limit("enforced").map(|most| format!(" of {most:.0} W")).unwrap_or_default();
        parts.push(format!("{watts:.0} W{most}"));
    }
    parts.extend(limit("default").map(|watts| format!("by default {watts:.0} W")));
    parts
        .extend(limit("min").zip(limit("max")).map(|(least, most)| format!("may be set to {least:.0} to {most:.0} W")));
    parts.extend(
        gpu.value(What::EnergyJoules, "", "").map(|joules| format!("{joules:.0} J since the driver was loaded")),
    );
    parts.join(", ")
}

fn clocks(gpu: &GpuView) -> String {
    let mut parts = Vec::new();
    for clock in ["graphics", "sm", "memory", "video"] {
        let mhz = |kind| gpu.value(What::ClockHertz, clock, kind).map(|hertz| hertz / 1e6);
        if let Some(now) = mhz("current") {
            let most = mhz("max").map(|most| format!(" of {most:.0}")).unwrap_or_default();
            parts.push(format!("{clock} {now:.0}{most} MHz"));
        }
    }
    parts.extend(gpu.value(What::PerformanceState, "", "").map(|state| format!("state P{state:.0}")));
    parts.join(", ")
}

fn throttling(gpu: &GpuView) -> String {
    let reasons: Vec<_> = gpu.all(What::ThrottleActive).collect();
    let active: Vec<&str> = reasons.iter().filter(|each| each.2 > 0.0).map(|each| each.0).collect();
    let mut parts = match (reasons.is_empty(), active.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => vec!["by nothing".to_owned()],
        (false, false) => vec![format!("by {}", active.join(", "))],
    };
    for (policy, _, seconds) in gpu.all(What::ThrottleSeconds).filter(|each| each.2 > 0.0) {
        parts.push(format!("{policy} {seconds:.1} s so far"));
    }
    parts.join("; ")
}

fn pcie(gpu: &GpuView) -> String {
    let mut parts = Vec::new();
    let (generation, width) =
        (|kind| gpu.value(What::PcieLinkGeneration, kind, ""), |kind| gpu.value(What::PcieLinkWidth, kind, ""));
    parts.extend(generation("current").zip(width("current")).map(|(is, lanes)| format!("generation {is} x{lanes}")));
    parts.extend(generation("max").zip(width("max")).map(|(most, lanes)| format!("at best {most} x{lanes}")));
    for (direction, name) in [("tx", "sends"), ("rx", "receives")] {
        let rate = gpu.value(What::PcieBytesPerSecond, direction, "");
        parts.extend(rate.map(|rate| format!("{name} {:.1} MB/s", rate / 1e6)));
    }
    parts.extend(gpu.value(What::PcieReplays, "", "").map(|replays| format!("{replays:.0} replays")));
    parts.join(", ")
}

fn ecc(gpu: &GpuView) -> String {
    let mut parts = Vec::new();
    for (when, name) in [("now", ""), ("after_reset", " after a reset")] {
        let is_on = gpu.value(What::EccEnabled, when, "").map(|is_on| if is_on > 0.0 { "on" } else { "off" });
        parts.extend(is_on.map(|is_on| format!("{is_on}{name}")));
    }
    for severity in ["corrected", "uncorrected"] {
        for (scope, name) in [("volatile", "since the driver was loaded"), ("aggregate", "ever")] {
            let count = gpu.value(What::EccErrors, severity, scope);
            parts.extend(count.map(|count| format!("{count:.0} {severity} {name}")));
        }
    }
    parts.join(", ")
}

fn rows(gpu: &GpuView) -> String {
    let mut parts = Vec::new();
    parts.extend(gpu.all(What::RemappedRows).map(|(cause, _, rows)| format!("{rows:.0} replaced ({cause})")));
    parts.extend(gpu.all(What::RetiredPages).map(|(cause, _, pages)| format!("{pages:.0} pages retired ({cause})")));
    for (what, words) in [
        (What::RowRemapPending, "a replacement waits for a reset"),
        (What::RowRemapFailure, "A ROW COULD NOT BE REPLACED"),
        (What::RetirementPending, "a retirement waits for a reset"),
    ] {
        parts.extend(gpu.value(what, "", "").filter(|is_so| *is_so > 0.0).map(|_| words.to_owned()));
    }
    parts.join(", ")
}

fn nvlink(gpu: &GpuView) -> String {
    let links: Vec<_> = gpu.all(What::NvlinkUp).collect();
    if links.is_empty() {
        return String::new();
    }
    let up = links.iter().filter(|each| each.2 > 0.0).count();
    let errors: f64 = gpu.all(What::NvlinkErrors).map(|each| each.2).sum();
    format!("{up} of {} links up, {errors:.0} errors", links.len())
}

fn fans(gpu: &GpuView) -> String {
    gpu.all(What::FanRatio).map(|(_, _, speed)| ratio(speed)).collect::<Vec<_>>().join(", ")
}

fn modes(gpu: &GpuView) -> String {
    let mut parts = Vec::new();
    let compute = ["everybody may compute", "one thread may compute", "nobody may compute", "one process may compute"];
    parts.extend(
        gpu.value(What::ComputeMode, "", "").and_then(|mode| compute.get(mode as usize)).map(|&mode| mode.to_owned()),
    );
    for (what, name) in [(What::PersistenceEnabled, "kept awake"), (What::MigEnabled, "MIG")] {
        let is_on = gpu.value(what, "", "").map(|is_on| if is_on > 0.0 { "yes" } else { "no" });
        parts.extend(is_on.map(|is_on| format!("{name}: {is_on}")));
    }
    parts.join(", ")
}

fn processes(gpu: &GpuView) -> String {
    let process = |process: &crate::nvml::Process| {
        let name = process.name.as_deref().unwrap_or("?");
        let memory = process.memory_bytes.map_or("memory unknown".to_owned(), |bytes| gib(bytes as f64));
        format!("{} {name} {memory} ({})", process.pid, process.kind)
    };
    gpu.processes.iter().map(process).collect::<Vec<_>>().join(", ")
}

fn instances(gpu: &GpuView) -> String {
    let instance = |instance: &crate::nvml::Instance| {
        let memory = instance.memory_used_bytes.zip(instance.memory_total_bytes);
        let memory = memory.map(|(used, total)| format!(" {} of {}", gib(used as f64), gib(total as f64)));
        format!("{}{}", instance.uuid, memory.unwrap_or_default())
    };
    gpu.instances.iter().map(instance).collect::<Vec<_>>().join(", ")
}

fn board(gpu: &GpuView) -> String {
    let identity = &gpu.identity;
    let parts = [
        identity.pci_bus_id.as_ref().map(|bus| format!("at {bus}")),
        identity.minor.map(|minor| format!("/dev/nvidia{minor}")),
        identity.architecture.clone(),
        identity.compute_capability.as_ref().map(|cuda| format!("compute capability {cuda}")),
        identity.board.clone(),
        identity.vbios.as_ref().map(|vbios| format!("VBIOS {vbios}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Returns what the card would not say, by reason.
fn refused(gpu: &GpuView) -> String {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (call, why) in &gpu.refused {
        by_reason.entry(why).or_default().push(call);
    }
    let said = by_reason.iter().map(|(why, calls)| format!("{} ({why})", calls.join(", ")));
    said.collect::<Vec<_>>().join("; ")
}
