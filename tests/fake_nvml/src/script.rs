//! The script, and what the library remembers between calls.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use serde_json::Value;

/// How often a call that hangs, or waits for an event, looks into the script.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// The first handle; handles are numbers that nobody follows.
const HANDLE_FIRST: usize = 0x1000;

/// How many handles a GPU has: itself and its instances.
const HANDLES: usize = 0x100;

const INVALID_ARGUMENT: u32 = 2;
const UNINITIALIZED: u32 = 1;
const NOT_SUPPORTED: u32 = 3;
const NOT_FOUND: u32 = 6;
const GPU_IS_LOST: u32 = 15;
const UNKNOWN: u32 = 999;

/// What is asked about.
#[derive(Clone, Copy)]
pub(crate) enum About {
    System,
    /// The GPU, or instance of one, with this handle.
    Gpu(usize),
}

/// What the library remembers.
#[derive(Default)]
struct Memory {
    /// How often it was loaded without being let go of.
    users: u32,
    /// The GPUs that there were when the first of them loaded it.
    uuids: Vec<String>,
    /// Which GPU each event set listens to.
    sets: Vec<Option<usize>>,
    /// How many events of the script each event set has heard or skipped.
    heard: Vec<usize>,
}

static MEMORY: Mutex<Memory> = Mutex::new(Memory { users: 0, uuids: Vec::new(), sets: Vec::new(), heard: Vec::new() });

fn memory() -> MutexGuard<'static, Memory> {
    MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the folder in which this copy of the library lies.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let here = folder as *const () as usize;
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let file = maps.lines().find_map(|line| {
            let (range, _) = line.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let from = usize::from_str_radix(from, 16).ok()?;
            let to = usize::from_str_radix(to, 16).ok()?;
            let path = &line[line.find('/')?..];
            (from..to).contains(&here).then(|| PathBuf::from(path))
        });
        file.and_then(|file| file.parent().map(Path::to_owned)).unwrap_or_default()
    })
}

fn script() -> Value {
    let text = fs::read_to_string(folder().join("script.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Notes the call where the script wants it, so that a test can count.
fn note(script: &Value, uuid: &str, key: &str) {
    if script["log"].as_bool() == Some(true) {
        let log = OpenOptions::new().append(true).create(true).open(folder().join("calls.log"));
        // A test that counts finds that the line is missing.
        log.and_then(|mut log| log.write_all(format!("{uuid} {key}\n").as_bytes())).ok();
    }
}

pub(crate) fn pause(how_long: Duration) {
    thread::sleep(how_long);
}

/// Returns what the script says to a call; a call that hangs does so for as long as the script says.
pub(crate) fn ask(about: About, key: &str) -> Result<Value, u32> {
    let mut is_noted = false;
    loop {
        let script = script();
        let (uuid, object) = match about {
            About::System => (String::new(), script["system"].clone()),
            About::Gpu(handle) => find(&script, handle)?,
        };
        if !is_noted {
            note(&script, &uuid, key);
            is_noted = true;
        }
        let answer = &object[key];
        if answer["hang"].as_bool() == Some(true) {
            pause(PAUSE);
            continue;
        }
        if let Some(code) = answer["code"].as_u64() {
            return Err(code as u32);
        }
        return match (key, answer.get("value")) {
            (_, Some(value)) => Ok(value.clone()),
            // Field values are recorded without the word, because each has a code of its own.
            ("nvmlDeviceGetFieldValues", None) if answer.is_object() => Ok(answer.clone()),
            (_, None) => Err(NOT_SUPPORTED),
        };
    }
}

/// Returns the GPU or instance with this handle, by its UUID and its calls.
fn find(script: &Value, handle: usize) -> Result<(String, Value), u32> {
    let (index, instance) = (handle.wrapping_sub(HANDLE_FIRST) / HANDLES, handle % HANDLES);
    let uuid = memory().uuids.get(index).cloned().ok_or(INVALID_ARGUMENT)?;
    let gpus = script["gpus"].as_array().cloned().unwrap_or_default();
    let gpu = gpus.into_iter().find(|gpu| uuid_of(gpu) == uuid).ok_or(GPU_IS_LOST)?;
    if gpu["lost"].as_bool() == Some(true) {
        return Err(GPU_IS_LOST);
    }
    match instance.checked_sub(1) {
        None => Ok((uuid, gpu)),
        Some(instance) => Ok((uuid, gpu["instances"][instance].clone())),
    }
}

fn uuid_of(gpu: &Value) -> String {
    gpu["nvmlDeviceGetUUID"]["value"].as_str().unwrap_or_default().to_owned()
}

/// Notes that somebody loaded the library; the first one fixes which GPUs there are.
pub(crate) fn enter() {
    let script = script();
    let mut memory = memory();
    if memory.users == 0 {
        memory.uuids = script["gpus"].as_array().into_iter().flatten().map(uuid_of).collect();
    }
    memory.users += 1;
}

/// Notes that somebody let go of it.
pub(crate) fn leave() {
    let mut memory = memory();
    memory.users = memory.users.saturating_sub(1);
}

/// Returns how many GPUs there were when the library was loaded.
pub(crate) fn count() -> Result<usize, u32> {
    let memory = memory();
    if memory.users > 0 { Ok(memory.uuids.len()) } else { Err(UNINITIALIZED) }
}

/// Returns the handle of the GPU at `index`.
pub(crate) fn handle(index: usize) -> Result<usize, u32> {
    if index >= count()? {
        return Err(INVALID_ARGUMENT);
    }
    let handle = HANDLE_FIRST + index * HANDLES;
    // What a script wants of it: a code for whoever asks for the handle.
    match ask(About::Gpu(handle), "nvmlDeviceGetHandleByIndex_v2") {
        Ok(_) | Err(NOT_SUPPORTED) => Ok(handle),
        Err(code) => Err(code),
    }
}

/// Returns the handle of an instance of a GPU.
pub(crate) fn instance(handle: usize, place: usize) -> Result<usize, u32> {
    let (_, gpu) = find(&script(), handle)?;
    let exists = gpu["instances"].get(place).is_some_and(Value::is_object) && place + 1 < HANDLES;
    if exists { Ok(handle + place + 1) } else { Err(NOT_FOUND) }
}

/// Returns a new event set, which hears nothing yet.
pub(crate) fn new_set() -> usize {
    let mut memory = memory();
    memory.sets.push(None);
    memory.heard.push(0);
    memory.sets.len()
}

/// Lets an event set hear of a GPU from now on.
pub(crate) fn register(set: usize, handle: usize) {
    // What the script told before was before.
    let past = script()["events"].as_array().map(Vec::len).unwrap_or_default();
    let mut memory = memory();
    if let Some(index) = set.checked_sub(1).filter(|index| *index < memory.sets.len()) {
        memory.sets[index] = Some(handle);
        memory.heard[index] = past;
    }
}

/// Returns the next event for a set: the GPU's handle and the XID.
pub(crate) fn hear(set: usize) -> Option<(usize, u64)> {
    let script = script();
    let events = script["events"].as_array()?;
    let mut memory = memory();
    let index = set.checked_sub(1)?;
    let handle = (*memory.sets.get(index)?)?;
    let uuid = memory.uuids.get((handle - HANDLE_FIRST) / HANDLES)?.clone();
    while let Some(event) = events.get(memory.heard[index]) {
        memory.heard[index] += 1;
        if event["uuid"].as_str() == Some(&uuid) {
            return Some((handle, event["xid"].as_u64().unwrap_or(UNKNOWN.into())));
        }
    }
    None
}
