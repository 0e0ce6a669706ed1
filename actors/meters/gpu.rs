//! Every metric of the GPUs: name, unit, help, and the labels, all of whose values are closed sets but the GPU's UUID.
//!
//! They are written at each scrape from what was sampled last, so that what is gone is absent and nothing stands still.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Whether the driver can be asked, by state.
pub const DRIVER_STATE: &str = "kloros_gpu_driver_state";
/// How often NVML was loaded.
pub const DRIVER_LOADS_TOTAL: &str = "kloros_gpu_driver_loads_total";
/// GPUs that are not watched because there are too many.
pub const LEFT_OUT: &str = "kloros_gpus_left_out";
/// Who the GPU is.
pub const INFO: &str = "kloros_gpu_info";
/// Whether the GPU answers.
pub const UP: &str = "kloros_gpu_up";
/// Why the GPU does not answer.
pub const TROUBLE: &str = "kloros_gpu_trouble";
/// How old the samples are.
pub const SAMPLE_AGE: &str = "kloros_gpu_sample_age_seconds";
/// How long a turn of sampling took.
pub const SAMPLE_DURATION: &str = "kloros_gpu_sample_duration_seconds";
/// Calls that were refused.
pub const SAMPLE_ERRORS_TOTAL: &str = "kloros_gpu_sample_errors_total";
/// How busy each engine is.
pub const UTILIZATION: &str = "kloros_gpu_utilization_ratio";
/// How the memory is used.
pub const MEMORY: &str = "kloros_gpu_memory_bytes";
/// How hot it is.
pub const TEMPERATURE: &str = "kloros_gpu_temperature_celsius";
/// From where on heat has consequences.
pub const TEMPERATURE_THRESHOLD: &str = "kloros_gpu_temperature_threshold_celsius";
/// What it draws.
pub const POWER: &str = "kloros_gpu_power_watts";
/// What it may draw.
pub const POWER_LIMIT: &str = "kloros_gpu_power_limit_watts";
/// What it has drawn.
pub const ENERGY_TOTAL: &str = "kloros_gpu_energy_joules_total";
/// Its clocks.
pub const CLOCK: &str = "kloros_gpu_clock_hertz";
/// What holds its clocks down.
pub const THROTTLE_ACTIVE: &str = "kloros_gpu_throttle_active";
/// For how long something held its clocks down.
pub const THROTTLE_SECONDS_TOTAL: &str = "kloros_gpu_throttle_seconds_total";
/// Its performance state.
pub const PERFORMANCE_STATE: &str = "kloros_gpu_performance_state";
/// What goes over PCI Express.
pub const PCIE_RATE: &str = "kloros_gpu_pcie_bytes_per_second";
/// What had to go over PCI Express again.
pub const PCIE_REPLAYS_TOTAL: &str = "kloros_gpu_pcie_replays_total";
/// The generation of the PCI Express link.
pub const PCIE_GENERATION: &str = "kloros_gpu_pcie_link_generation";
/// The width of the PCI Express link.
pub const PCIE_WIDTH: &str = "kloros_gpu_pcie_link_width";
/// Whether memory errors are corrected.
pub const ECC_ENABLED: &str = "kloros_gpu_ecc_enabled";
/// Memory errors.
pub const ECC_ERRORS_TOTAL: &str = "kloros_gpu_ecc_errors_total";
/// Pages of memory that are not used any more.
pub const RETIRED_PAGES: &str = "kloros_gpu_retired_pages";
/// Whether pages wait to be retired.
pub const RETIREMENT_PENDING: &str = "kloros_gpu_retirement_pending";
/// Rows of memory that were replaced.
pub const REMAPPED_ROWS: &str = "kloros_gpu_remapped_rows";
/// Whether rows wait to be replaced.
pub const ROW_REMAP_PENDING: &str = "kloros_gpu_row_remap_pending";
/// Whether a row could not be replaced.
pub const ROW_REMAP_FAILURE: &str = "kloros_gpu_row_remap_failure";
/// Whether a link is up.
pub const NVLINK_UP: &str = "kloros_gpu_nvlink_up";
/// Errors of a link.
pub const NVLINK_ERRORS_TOTAL: &str = "kloros_gpu_nvlink_errors_total";
/// Errors the driver reported.
pub const XID_EVENTS_TOTAL: &str = "kloros_gpu_xid_events_total";
/// When it reported one last.
pub const XID_LAST: &str = "kloros_gpu_xid_last_timestamp_seconds";
/// Whether the driver reported trouble of the hardware lately.
pub const HARDWARE_FAULT: &str = "kloros_gpu_hardware_fault";
/// The memory of a process.
pub const PROCESS_MEMORY: &str = "kloros_gpu_process_memory_bytes";
/// How many processes there are.
pub const PROCESSES: &str = "kloros_gpu_processes";
/// How fast a fan turns.
pub const FAN: &str = "kloros_gpu_fan_ratio";
/// Whether the GPU is divided.
pub const MIG_ENABLED: &str = "kloros_gpu_mig_enabled";
/// Into how many instances.
pub const MIG_INSTANCES: &str = "kloros_gpu_mig_instances";
/// Who may compute on it.
pub const COMPUTE_MODE: &str = "kloros_gpu_compute_mode";
/// Whether it stays awake.
pub const PERSISTENCE: &str = "kloros_gpu_persistence_enabled";

/// Gives every metric of the GPUs its unit and help text.
pub fn describe() {
    describe_monitor();
    describe_load();
    describe_health();
}

/// What is said of the monitor itself.
fn describe_monitor() {
    describe_gauge!(DRIVER_STATE, "Whether the driver's library is in this state.");
    describe_counter!(DRIVER_LOADS_TOTAL, "How often the driver's library was loaded.");
    describe_gauge!(LEFT_OUT, "GPUs that are not watched because there are more than gpu.gpus_max.");
    describe_gauge!(INFO, "Who the GPU is; the value is 1.");
    describe_gauge!(UP, "Whether the GPU answers.");
    describe_gauge!(TROUBLE, "Whether the GPU does not answer for this reason.");
    describe_gauge!(SAMPLE_AGE, Unit::Seconds, "How long ago the GPU was sampled, by cadence.");
    describe_histogram!(SAMPLE_DURATION, Unit::Seconds, "How long one turn of sampling all GPUs took.");
    describe_counter!(SAMPLE_ERRORS_TOTAL, "Calls that the driver refused or did not answer in time.");
}

/// What is said of its load and its limits.
fn describe_load() {
    describe_gauge!(UTILIZATION, "Share of time in which the engine was busy; memory is its bandwidth.");
    describe_gauge!(MEMORY, Unit::Bytes, "Memory by state; used is without what the driver reserves.");
    describe_gauge!(TEMPERATURE, "Temperature, by sensor.");
    describe_gauge!(TEMPERATURE_THRESHOLD, "Temperature from which on this happens.");
    describe_gauge!(POWER, "Power drawn, over the last second on newer boards.");
    describe_gauge!(POWER_LIMIT, "Power that may be drawn, by limit.");
    describe_counter!(ENERGY_TOTAL, "Energy drawn, in whole joules.");
    describe_gauge!(CLOCK, "Clock frequencies, current and highest.");
    describe_gauge!(THROTTLE_ACTIVE, "Whether this holds the clocks down.");
    describe_counter!(THROTTLE_SECONDS_TOTAL, "Time for which this held the clocks down, in whole seconds.");
    describe_gauge!(PERFORMANCE_STATE, "Performance state, 0 for the fastest to 15.");
    describe_gauge!(PCIE_RATE, "Bytes a second over PCIe, seen in 20 ms.");
    describe_counter!(PCIE_REPLAYS_TOTAL, "Packets that had to be sent over PCIe again.");
    describe_gauge!(PCIE_GENERATION, "Generation of the PCIe link, current and highest.");
    describe_gauge!(PCIE_WIDTH, "Lanes of the PCIe link, current and most.");
    describe_gauge!(PROCESS_MEMORY, Unit::Bytes, "Memory of a process; gpu.processes_max a GPU.");
    describe_gauge!(PROCESSES, "Processes on the GPU.");
    describe_gauge!(FAN, "How fast the fan is meant to turn, of its fastest.");
    describe_gauge!(MIG_ENABLED, "Whether the GPU is divided into instances.");
    describe_gauge!(MIG_INSTANCES, "Instances the GPU is divided into.");
    describe_gauge!(COMPUTE_MODE, "Who may compute: 0 everybody, 1 one thread, 2 nobody, 3 one process.");
    describe_gauge!(PERSISTENCE, "Whether the driver keeps the GPU awake while nobody uses it.");
}

/// What is said of its health.
fn describe_health() {
    describe_gauge!(ECC_ENABLED, "Whether memory errors are corrected, now and after the next reset.");
    describe_counter!(ECC_ERRORS_TOTAL, "Memory errors, since the driver was loaded and ever.");
    describe_gauge!(RETIRED_PAGES, "Pages of memory that are not used any more, by cause.");
    describe_gauge!(RETIREMENT_PENDING, "Whether pages wait for a reset to be retired.");
    describe_gauge!(REMAPPED_ROWS, "Rows of memory that were replaced, by cause.");
    describe_gauge!(ROW_REMAP_PENDING, "Whether rows wait for a reset to be replaced.");
    describe_gauge!(ROW_REMAP_FAILURE, "Whether a row could not be replaced.");
    describe_gauge!(NVLINK_UP, "Whether the link is up.");
    describe_counter!(NVLINK_ERRORS_TOTAL, "Errors of the link, by kind.");
    describe_counter!(XID_EVENTS_TOTAL, "Errors that the driver reported, by its number for them.");
    describe_gauge!(XID_LAST, Unit::Seconds, "When the driver reported such an error last.");
    describe_gauge!(HARDWARE_FAULT, "Whether the driver reported trouble of the hardware within gpu.fault_holds_s.");
}
