//! A `libnvidia-ml.so.1` that says what a script tells it to, so that everything around a GPU can be tested without one.
//!
//! A copy of this library has its script beside it: `script.json` in the same folder, read anew at each call. A GPU is an object of
//! calls, named as NVML names them, each with `{"value": ...}`, `{"code": 15}` or `{"hang": true}`; what is not named is not
//! supported (3). The files under `tests/fixtures/nvml`, recorded from real cards, are such scripts. As in the real one, the list of GPUs is
//! fixed when the library is loaded and kept until it is let go of; a GPU that leaves the script meanwhile is lost.

#![allow(
    unsafe_code,
    reason = "functions that are called from C cannot be exported, nor write to what C owns, without"
)]
#![allow(non_snake_case, reason = "the names are NVML's")]
#![allow(missing_docs, reason = "they are NVML's functions, and documented there")]
#![allow(clippy::missing_safety_doc, reason = "each is called by nvml-wrapper alone, as NVML's documentation demands")]

mod script;

use std::{
    ffi::{c_char, c_int, c_uint, c_ulonglong},
    time::{Duration, Instant},
};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlFieldValue_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlProcessInfo_t,
    nvmlProcessUtilizationSample_t, nvmlUtilization_t, nvmlViolationTime_t,
};
use serde_json::Value;

use script::{About, PAUSE, ask, hear, pause};

/// What NVML returns: 0 is fine.
type Code = c_uint;

const SUCCESS: Code = 0;
const INVALID_ARGUMENT: Code = 2;
const NOT_SUPPORTED: Code = 3;
const NOT_FOUND: Code = 6;
const INSUFFICIENT_SIZE: Code = 7;
const TIMEOUT: Code = 10;
const VERSION_MISMATCH: Code = 25;
/// The event that is an XID.
const XID_EVENT: c_ulonglong = 8;

/// Writes `value` to where C wants it.
///
/// # Safety
///
/// `place` is null or may be written to.
unsafe fn put<T>(place: *mut T, value: T) -> Code {
    if place.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: it is not null, and whoever calls promises the rest.
    unsafe { place.write(value) };
    SUCCESS
}

/// Writes `text` and its final zero to the `length` bytes at `place`.
///
/// # Safety
///
/// `place` is null or `length` bytes from there on may be written to.
unsafe fn put_text(place: *mut c_char, length: c_uint, text: &str) -> Code {
    if place.is_null() || text.len() >= length as usize {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: the text and its zero fit, and they do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), place, text.len());
        place.add(text.len()).write(0);
    }
    SUCCESS
}

/// Returns the code, or goes on with the value.
macro_rules! value {
    ($asked:expr) => {
        match $asked {
            Ok(value) => value,
            Err(code) => return code,
        }
    };
}

fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn part(value: &Value, key: &str) -> u64 {
    whole(&value[key])
}

/// Calls that answer with one number of 32 bits.
macro_rules! numbers {
    ($($name:ident($($argument:ident),*) = $key:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvmlDevice_t, $($argument: c_uint,)* place: *mut c_uint) -> Code {
            let key = format!($key);
            // SAFETY: the wrapper hands in the place for the answer.
            unsafe { put(place, whole(&value!(ask(About::Gpu(device as usize), &key))) as c_uint) }
        }
    )*};
}

numbers! {
    nvmlDeviceGetMinorNumber() = "nvmlDeviceGetMinorNumber";
    nvmlDeviceGetArchitecture() = "nvmlDeviceGetArchitecture";
    nvmlDeviceGetPowerUsage() = "nvmlDeviceGetPowerUsage";
    nvmlDeviceGetEnforcedPowerLimit() = "nvmlDeviceGetEnforcedPowerLimit";
    nvmlDeviceGetPowerManagementLimit() = "nvmlDeviceGetPowerManagementLimit";
    nvmlDeviceGetPowerManagementDefaultLimit() = "nvmlDeviceGetPowerManagementDefaultLimit";
    nvmlDeviceGetPerformanceState() = "nvmlDeviceGetPerformanceState";
    nvmlDeviceGetPcieReplayCounter() = "nvmlDeviceGetPcieReplayCounter";
    nvmlDeviceGetCurrPcieLinkGeneration() = "nvmlDeviceGetCurrPcieLinkGeneration";
    nvmlDeviceGetCurrPcieLinkWidth() = "nvmlDeviceGetCurrPcieLinkWidth";
    nvmlDeviceGetMaxPcieLinkGeneration() = "nvmlDeviceGetMaxPcieLinkGeneration";
    nvmlDeviceGetMaxPcieLinkWidth() = "nvmlDeviceGetMaxPcieLinkWidth";
    nvmlDeviceGetNumFans() = "nvmlDeviceGetNumFans";
    nvmlDeviceGetRetiredPagesPendingStatus() = "nvmlDeviceGetRetiredPagesPendingStatus";
    nvmlDeviceGetMaxMigDeviceCount() = "nvmlDeviceGetMaxMigDeviceCount";
    nvmlDeviceGetComputeMode() = "nvmlDeviceGetComputeMode";
    nvmlDeviceGetPersistenceMode() = "nvmlDeviceGetPersistenceMode";
    nvmlDeviceGetTemperature(sensor) = "nvmlDeviceGetTemperature({sensor})";
    nvmlDeviceGetTemperatureThreshold(threshold) = "nvmlDeviceGetTemperatureThreshold({threshold})";
    nvmlDeviceGetClockInfo(clock) = "nvmlDeviceGetClockInfo({clock})";
    nvmlDeviceGetMaxClockInfo(clock) = "nvmlDeviceGetMaxClockInfo({clock})";
    nvmlDeviceGetPcieThroughput(counter) = "nvmlDeviceGetPcieThroughput({counter})";
    nvmlDeviceGetFanSpeed_v2(fan) = "nvmlDeviceGetFanSpeed({fan})";
    nvmlDeviceGetNvLinkState(link) = "nvmlDeviceGetNvLinkState({link})";
}

/// Calls that answer with one number of 64 bits.
macro_rules! long_numbers {
    ($($name:ident($($argument:ident),*) = $key:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvmlDevice_t, $($argument: c_uint,)* place: *mut c_ulonglong) -> Code {
            let key = format!($key);
            // SAFETY: the wrapper hands in the place for the answer.
            unsafe { put(place, whole(&value!(ask(About::Gpu(device as usize), &key)))) }
        }
    )*};
}

long_numbers! {
    nvmlDeviceGetTotalEnergyConsumption() = "nvmlDeviceGetTotalEnergyConsumption";
    nvmlDeviceGetCurrentClocksThrottleReasons() = "nvmlDeviceGetCurrentClocksThrottleReasons";
    nvmlDeviceGetSupportedEventTypes() = "nvmlDeviceGetSupportedEventTypes";
    nvmlDeviceGetTotalEccErrors(error, counter) = "nvmlDeviceGetTotalEccErrors({error},{counter})";
    nvmlDeviceGetNvLinkErrorCounter(link, counter) = "nvmlDeviceGetNvLinkErrorCounter({link},{counter})";
}

/// Calls that answer with two numbers of 32 bits.
macro_rules! pairs {
    ($($name:ident;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvmlDevice_t, one: *mut c_uint, other: *mut c_uint) -> Code {
            let pair = value!(ask(About::Gpu(device as usize), stringify!($name)));
            // SAFETY: the wrapper hands in the places for the answers.
            unsafe {
                match put(one, whole(&pair[0]) as c_uint) {
                    SUCCESS => put(other, whole(&pair[1]) as c_uint),
                    code => code,
                }
            }
        }
    )*};
}

pairs! {
    nvmlDeviceGetEncoderUtilization;
    nvmlDeviceGetDecoderUtilization;
    nvmlDeviceGetPowerManagementLimitConstraints;
    nvmlDeviceGetEccMode;
    nvmlDeviceGetMigMode;
}

/// Calls that answer with a text about a GPU.
macro_rules! texts {
    ($($name:ident;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvmlDevice_t, place: *mut c_char, length: c_uint) -> Code {
            let text = value!(ask(About::Gpu(device as usize), stringify!($name)));
            // SAFETY: the wrapper hands in a buffer and its length.
            unsafe { put_text(place, length, text.as_str().unwrap_or_default()) }
        }
    )*};
}

texts! {
    nvmlDeviceGetName;
    nvmlDeviceGetUUID;
    nvmlDeviceGetVbiosVersion;
    nvmlDeviceGetBoardPartNumber;
}

/// Calls that answer with a text about the driver.
macro_rules! system_texts {
    ($($name:ident;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(place: *mut c_char, length: c_uint) -> Code {
            let text = value!(ask(About::System, stringify!($name)));
            // SAFETY: the wrapper hands in a buffer and its length.
            unsafe { put_text(place, length, text.as_str().unwrap_or_default()) }
        }
    )*};
}

system_texts! {
    nvmlSystemGetDriverVersion;
    nvmlSystemGetNVMLVersion;
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Code {
    match ask(About::System, "nvmlInit_v2") {
        // A script need not say that it goes well.
        Ok(_) | Err(NOT_SUPPORTED) => {
            script::enter();
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Code {
    match ask(About::System, "nvmlShutdown") {
        Ok(_) | Err(NOT_SUPPORTED) => {
            script::leave();
            SUCCESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(place: *mut c_int) -> Code {
    let version = value!(ask(About::System, "nvmlSystemGetCudaDriverVersion_v2"));
    // SAFETY: the wrapper hands in the place for the answer.
    unsafe { put(place, whole(&version) as c_int) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(place: *mut c_uint) -> Code {
    let count = match ask(About::System, "nvmlDeviceGetCount_v2") {
        Ok(count) => whole(&count) as c_uint,
        Err(NOT_SUPPORTED) => value!(script::count()) as c_uint,
        Err(code) => return code,
    };
    // SAFETY: the wrapper hands in the place for the answer.
    unsafe { put(place, count) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, place: *mut nvmlDevice_t) -> Code {
    let handle = value!(script::handle(index as usize));
    // SAFETY: the wrapper hands in the place for the answer.
    unsafe { put(place, handle as nvmlDevice_t) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    place: *mut nvmlDevice_t,
) -> Code {
    let handle = value!(script::instance(device as usize, index as usize));
    // SAFETY: the wrapper hands in the place for the answer.
    unsafe { put(place, handle as nvmlDevice_t) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> Code {
    let pair = value!(ask(About::Gpu(device as usize), "nvmlDeviceGetCudaComputeCapability"));
    // SAFETY: the wrapper hands in the places for the answers.
    unsafe {
        match put(major, whole(&pair[0]) as c_int) {
            SUCCESS => put(minor, whole(&pair[1]) as c_int),
            code => code,
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, place: *mut nvmlPciInfo_t) -> Code {
    let said = value!(ask(About::Gpu(device as usize), "nvmlDeviceGetPciInfo_v3"));
    let mut bus_id = [0; 32];
    for (place, byte) in bus_id.iter_mut().take(31).zip(said["busId"].as_str().unwrap_or_default().bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    let info = nvmlPciInfo_t {
        busIdLegacy: [0; 16],
        domain: part(&said, "domain") as c_uint,
        bus: part(&said, "bus") as c_uint,
        device: part(&said, "device") as c_uint,
        pciDeviceId: part(&said, "pciDeviceId") as c_uint,
        pciSubSystemId: part(&said, "pciSubSystemId") as c_uint,
        busId: bus_id,
    };
    // SAFETY: the wrapper hands in the place for the answer.
    unsafe { put(place, info) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, place: *mut nvmlUtilization_t) -> Code {
    let said = value!(ask(About::Gpu(device as usize), "nvmlDeviceGetUtilizationRates"));
    let rates = nvmlUtilization_t { gpu: part(&said, "gpu") as c_uint, memory: part(&said, "memory") as c_uint };
    // SAFETY: the wrapper hands in the place for the answer.
    unsafe { put(place, rates) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, place: *mut nvmlMemory_v2_t) -> Code {
    let said = value!(ask(About::Gpu(device as usize), "nvmlDeviceGetMemoryInfo_v2"));
    let expected = (size_of::<nvmlMemory_v2_t>() | (2 << 24)) as c_uint;
    // SAFETY: the wrapper hands in the place for the answer, with the version filled in.
    if place.is_null() || unsafe { (*place).version } != expected {
        return VERSION_MISMATCH;
    }
    let memory = nvmlMemory_v2_t {
        version: expected,
        total: part(&said, "total"),
        reserved: part(&said, "reserved"),
        free: part(&said, "free"),
        used: part(&said, "used"),
    };
    // SAFETY: as above.
    unsafe { put(place, memory) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetViolationStatus(
    device: nvmlDevice_t,
    policy: c_uint,
    place: *mut nvmlViolationTime_t,
) -> Code {
    let said = value!(ask(About::Gpu(device as usize), &format!("nvmlDeviceGetViolationStatus({policy})")));
    let time = nvmlViolationTime_t {
        referenceTime: part(&said, "referenceTime"),
        violationTime: part(&said, "violationTime"),
    };
    // SAFETY: the wrapper hands in the place for the answer.
    unsafe { put(place, time) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    fields: *mut nvmlFieldValue_t,
) -> Code {
    let said = value!(ask(About::Gpu(device as usize), "nvmlDeviceGetFieldValues"));
    for index in 0..usize::try_from(count).unwrap_or_default() {
        // SAFETY: the wrapper hands in `count` fields.
        let field = unsafe { &mut *fields.add(index) };
        let answer = &said[field.fieldId.to_string()];
        field.nvmlReturn = match (answer.is_object(), answer["code"].as_u64()) {
            (true, None) => SUCCESS,
            (true, Some(code)) => code as c_uint,
            (false, _) => NOT_SUPPORTED,
        };
        field.valueType = part(answer, "type") as c_uint;
        field.timestamp = 1;
        field.value.ullVal = part(answer, "value");
        if field.valueType == 0 {
            field.value.dVal = answer["value"].as_f64().unwrap_or_default();
        }
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRetiredPages_v2(
    device: nvmlDevice_t,
    cause: c_uint,
    count: *mut c_uint,
    addresses: *mut c_ulonglong,
    timestamps: *mut c_ulonglong,
) -> Code {
    let pages = value!(ask(About::Gpu(device as usize), &format!("nvmlDeviceGetRetiredPages({cause})")));
    let pages = pages.as_array().map(Vec::len).unwrap_or_default();
    // SAFETY: the wrapper hands in the place for the count, and buffers of that many places with it.
    unsafe {
        let room = *count as usize;
        if addresses.is_null() || timestamps.is_null() || room < pages {
            return if put(count, pages as c_uint) == SUCCESS && pages > 0 { INSUFFICIENT_SIZE } else { SUCCESS };
        }
        for page in 0..pages {
            addresses.add(page).write(page as u64);
            timestamps.add(page).write(1);
        }
        put(count, pages as c_uint)
    }
}

/// What is asked for the count alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRetiredPages(
    device: nvmlDevice_t,
    cause: c_uint,
    count: *mut c_uint,
    addresses: *mut c_ulonglong,
) -> Code {
    // SAFETY: as there; without places for times there are none written.
    unsafe { nvmlDeviceGetRetiredPages_v2(device, cause, count, addresses, std::ptr::null_mut()) }
}

/// Calls that answer with a list of processes.
macro_rules! processes {
    ($($name:ident;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            device: nvmlDevice_t,
            count: *mut c_uint,
            places: *mut nvmlProcessInfo_t,
        ) -> Code {
            let said = value!(ask(About::Gpu(device as usize), stringify!($name)));
            let said = said.as_array().cloned().unwrap_or_default();
            // SAFETY: the wrapper hands in the place for the count, and a buffer of that many places with it.
            unsafe {
                let room = *count as usize;
                let code = put(count, said.len() as c_uint);
                if code != SUCCESS || said.len() > room || (places.is_null() && !said.is_empty()) {
                    return INSUFFICIENT_SIZE;
                }
                for (index, process) in said.iter().enumerate() {
                    places.add(index).write(nvmlProcessInfo_t {
                        pid: part(process, "pid") as c_uint,
                        // All ones are how NVML says that it would not say.
                        usedGpuMemory: process["usedGpuMemory"].as_u64().unwrap_or(u64::MAX),
                        gpuInstanceId: c_uint::MAX,
                        computeInstanceId: c_uint::MAX,
                    });
                }
            }
            SUCCESS
        }
    )*};
}

processes! {
    nvmlDeviceGetComputeRunningProcesses_v3;
    nvmlDeviceGetGraphicsRunningProcesses_v3;
    nvmlDeviceGetMPSComputeRunningProcesses_v3;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetProcessName(pid: c_uint, place: *mut c_char, length: c_uint) -> Code {
    let name = value!(ask(About::System, &format!("nvmlSystemGetProcessName({pid})")));
    // SAFETY: the wrapper hands in a buffer and its length.
    unsafe { put_text(place, length, name.as_str().unwrap_or_default()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: nvmlDevice_t,
    places: *mut nvmlProcessUtilizationSample_t,
    count: *mut c_uint,
    seen_until: c_ulonglong,
) -> Code {
    let said = value!(ask(About::Gpu(device as usize), "nvmlDeviceGetProcessUtilization(0)"));
    let said = said.as_array().cloned().unwrap_or_default();
    let newer: Vec<&Value> = said.iter().filter(|sample| part(sample, "timeStamp") > seen_until).collect();
    if newer.is_empty() {
        return NOT_FOUND;
    }
    // SAFETY: the wrapper hands in the place for the count, and a buffer of that many places with it.
    unsafe {
        let room = *count as usize;
        if put(count, newer.len() as c_uint) != SUCCESS || places.is_null() || newer.len() > room {
            return INSUFFICIENT_SIZE;
        }
        for (index, sample) in newer.iter().enumerate() {
            places.add(index).write(nvmlProcessUtilizationSample_t {
                pid: part(sample, "pid") as c_uint,
                timeStamp: part(sample, "timeStamp"),
                smUtil: part(sample, "smUtil") as c_uint,
                memUtil: part(sample, "memUtil") as c_uint,
                encUtil: part(sample, "encUtil") as c_uint,
                decUtil: part(sample, "decUtil") as c_uint,
            });
        }
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(place: *mut nvmlEventSet_t) -> Code {
    value!(ask(About::System, "nvmlEventSetCreate").or_else(unless_unscripted));
    // SAFETY: the wrapper hands in the place for the answer.
    unsafe { put(place, script::new_set() as nvmlEventSet_t) }
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(_: nvmlEventSet_t) -> Code {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(device: nvmlDevice_t, _: c_ulonglong, set: nvmlEventSet_t) -> Code {
    value!(ask(About::Gpu(device as usize), "nvmlDeviceRegisterEvents").or_else(unless_unscripted));
    script::register(set as usize, device as usize);
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    place: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> Code {
    let until = Instant::now() + Duration::from_millis(timeout_ms.into());
    loop {
        if let Some((device, xid)) = hear(set as usize) {
            let event = nvmlEventData_t {
                device: device as nvmlDevice_t,
                eventType: XID_EVENT,
                eventData: xid,
                gpuInstanceId: c_uint::MAX,
                computeInstanceId: c_uint::MAX,
            };
            // SAFETY: the wrapper hands in the place for the answer.
            return unsafe { put(place, event) };
        }
        value!(ask(About::System, "nvmlEventSetWait_v2").or_else(unless_unscripted));
        if Instant::now() >= until {
            return TIMEOUT;
        }
        pause(PAUSE);
    }
}

/// What a script does not mention goes well where there is nothing to say.
fn unless_unscripted(code: Code) -> Result<Value, Code> {
    if code == NOT_SUPPORTED { Ok(Value::Null) } else { Err(code) }
}
