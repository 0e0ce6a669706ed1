//! `kloros.toml` in its layers: what is embedded, what the file says, what the environment says.
//!
//! The `config` crate merges the layers, but it turns `2.7` into `3` and `true` into `1` where a whole number is wanted,
//! and forgets which file said so. So each value is checked on its own before it may enter a layer.

use std::{collections::BTreeMap, ffi::OsString, net::SocketAddr};

use config::{File, FileFormat};
use kloros_actors::config::{Config, Problem};
use serde::Serialize;
use toml::{Table, Value};

use super::{
    Conversation, Following, Measuring, Notices, Reached, Shell, Traces,
    complaints::{Complaints, Place},
    strict_toml,
    tree::{Content, Entry, Node, below, near, nearest},
};

/// The settings that ship, with their comments.
const EMBEDDED: &str = include_str!("../../config/kloros.toml");
/// How complaints name them.
const EMBEDDED_NAME: &str = "kloros.toml (built in)";
/// What the variables that override settings begin with; sections and keys are joined by two underscores as well.
const PREFIX: &str = "KLOROS__";

/// Settings that there were once, and what to do about them.
const RETIRED: [(&str, &str); 7] = [
    (
        "observer.window_readings",
        "the past has no window now; observer.warmup_readings says how long a series is learned from",
    ),
    ("observer.baseline_readings_min", "write observer.warmup_readings"),
    (
        "observer.raise_at",
        "how unlike its past a series must be is measured by its own rare moments; remove it, or see observer.matters_from",
    ),
    ("observer.clear_at", "remove it: what is back near what was expected for observer.clear_s is over"),
    ("observer.raise_after", "write observer.for_s, in seconds"),
    ("observer.clear_after", "write observer.clear_s, in seconds"),
    ("observer.spread_min_ratio", "write observer.matters_from, a ratio of what was expected"),
];

/// Returns what to do about a setting that there was once.
fn retired(key: &str) -> Option<&'static str> {
    RETIRED.iter().find(|(known, _)| *known == key).map(|(_, what)| *what)
}

/// A file of settings, read.
pub(super) struct Text {
    /// How complaints name it.
    pub(super) file: String,
    /// What it says.
    pub(super) text: String,
}

/// What `kloros.toml` and the environment decide.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Loaded {
    pub(super) rooms: Config,
    pub(super) shell: Shell,
    pub(super) measuring: Measuring,
    pub(super) conversation: Conversation,
    pub(super) following: Following,
    pub(super) reached: Reached,
    pub(super) notices: Notices,
    pub(super) traces: Traces,
}

/// Returns the settings of the loop, of the shell and of measuring, from `environment` over `files`, the last of which counts most,
/// over the defaults; `None` if there is something wrong that leaves no settings to judge. `beside` says what is wrong with what they
/// name, where that matters.
pub(super) fn load(
    files: &[Text],
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    complaints: &mut Complaints,
    beside: impl FnOnce(&Loaded) -> Vec<Problem>,
) -> Option<Loaded> {
    let name = files.first().map_or(EMBEDDED_NAME, |file| &file.file);
    let outcome = known().and_then(|known| {
        let layers = surveyed(files, environment, &known, complaints);
        let loaded = merge(&layers)?;
        for Problem { key, what } in [loaded.problems(), beside(&loaded)].concat() {
            let (place, note) = match layers.iter().rev().find_map(|layer| layer.place(&key)) {
                Some(place) => (place, ""),
                None => (Place::File(name.to_owned()), " (its default, which another setting does not go with)"),
            };
            complaints.add(place, key, what + note);
        }
        Ok(loaded)
    });
    outcome.map_err(|what| complaints.add(Place::File(name.to_owned()), "", what)).ok()
}

/// Returns what each of `files` says, and then what the environment says, each value checked on its own.
fn surveyed(
    files: &[Text],
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    known: &Table,
    complaints: &mut Complaints,
) -> Vec<Layer> {
    let mut layers = Vec::new();
    for file in files {
        let (root, intact) = strict_toml::parse(&file.file, &file.text, complaints);
        let mut survey = Survey { file: &file.file, intact, known, layer: Layer::default(), complaints };
        survey.section(&root, known, "");
        layers.push(survey.layer);
    }
    layers.push(overrides(known, environment, complaints));
    layers
}

/// One setting as it is in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Setting {
    /// Its key, with its section.
    pub(crate) key: String,
    /// Its value, as a file would spell it.
    pub(crate) value: String,
    /// Where that is from: a file and line, or a variable; nothing where it is the default.
    pub(crate) origin: Option<String>,
}

/// Returns every setting with where its value is from, in the order of keys; what is wrong is added to `complaints`.
pub(super) fn shown(
    files: &[Text],
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    complaints: &mut Complaints,
) -> Vec<Setting> {
    let read = known().and_then(|known| {
        let layers = surveyed(files, environment, &known, complaints);
        let all = merge(&layers)?.table()?;
        let setting = |key: String| Setting {
            value: get(&all, &key).map(ToString::to_string).unwrap_or_default(),
            origin: layers.iter().rev().find_map(|layer| layer.places.get(&key)).map(ToString::to_string),
            key,
        };
        Ok(leaves(&all, "").into_iter().map(setting).collect())
    });
    read.unwrap_or_else(|what| {
        complaints.add(Place::File(EMBEDDED_NAME.to_owned()), "", what);
        Vec::new()
    })
}

/// The values of one layer, all of them checked, and where each stands.
#[derive(Default)]
struct Layer {
    values: Table,
    places: BTreeMap<String, Place>,
}

impl Layer {
    fn put(&mut self, path: &str, value: Value, place: Place) {
        put(&mut self.values, path, value);
        self.places.insert(path.to_owned(), place);
    }

    /// Returns where the key at `path` stands in this layer, or the first key below it.
    fn place(&self, path: &str) -> Option<Place> {
        let inside = below(path, "");
        let exact = self.places.get(path);
        exact.or_else(|| self.places.iter().find(|(key, _)| key.starts_with(&inside)).map(|(_, place)| place)).cloned()
    }
}

/// Returns every known key with its default.
fn known() -> Result<Table, String> {
    Loaded::default().table()
}

impl Loaded {
    /// Returns these settings as one table, as `kloros.toml` would say them.
    pub(super) fn table(&self) -> Result<Table, String> {
        let text = |error: toml::ser::Error| error.to_string();
        let mut all = Table::try_from(&self.rooms).map_err(text)?;
        all.insert("shell".to_owned(), Value::try_from(&self.shell).map_err(text)?);
        all.insert("measuring".to_owned(), Value::try_from(&self.measuring).map_err(text)?);
        all.insert("conversation".to_owned(), Value::try_from(&self.conversation).map_err(text)?);
        all.insert("reload".to_owned(), Value::try_from(&self.following).map_err(text)?);
        all.insert("api".to_owned(), Value::try_from(&self.reached).map_err(text)?);
        all.insert("notices".to_owned(), Value::try_from(&self.notices).map_err(text)?);
        all.insert("traces".to_owned(), Value::try_from(&self.traces).map_err(text)?);
        Ok(all)
    }

    /// Returns what is wrong with the settings, all of it at once.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let Self { rooms, shell, measuring, conversation, following, reached, notices, traces } = self;
        let mut problems = rooms.problems();
        problems.extend([shell.problems(), measuring.problems(), conversation.problems()].concat());
        problems.extend([following.problems(), reached.problems(), notices.problems(), traces.problems()].concat());
        problems.extend(self.listens_twice());
        problems
    }

    /// Returns what is to listen where something else is to listen as well; any free port is nobody's.
    fn listens_twice(&self) -> Vec<Problem> {
        let listeners = [
            ("shell.metrics_address", Some(self.shell.metrics_address)),
            ("api.listen", self.reached.address()),
            ("conversation.listen", self.conversation.address()),
        ];
        let second = |(index, (key, address)): (usize, &(&str, Option<SocketAddr>))| {
            address.filter(|address| address.port() != 0)?;
            let (other, _) = listeners[..index].iter().find(|(_, other)| other == address)?;
            let what = format!("{other} is the same address: only one can listen there");
            Some(Problem { key: (*key).to_owned(), what })
        };
        listeners.iter().enumerate().filter_map(second).collect()
    }
}

fn merge(layers: &[Layer]) -> Result<Loaded, String> {
    let mut builder = config::Config::builder().add_source(File::from_str(EMBEDDED, FileFormat::Toml));
    for layer in layers {
        builder = builder.add_source(config::Config::try_from(&layer.values).map_err(|error| error.to_string())?);
    }
    let merged = builder.build().and_then(config::Config::try_deserialize).map_err(|error| error.to_string())?;
    split(merged).map_err(|error| error.to_string())
}

/// Returns what a table of all settings says.
pub(super) fn split(mut table: Table) -> Result<Loaded, toml::de::Error> {
    let mut section = |name| table.remove(name).unwrap_or_else(|| Value::Table(Table::new()));
    let (shell, measuring) = (section("shell").try_into()?, section("measuring").try_into()?);
    let (conversation, following) = (section("conversation").try_into()?, section("reload").try_into()?);
    let (reached, notices) = (section("api").try_into()?, section("notices").try_into()?);
    let traces = section("traces").try_into()?;
    Ok(Loaded { rooms: table.try_into()?, shell, measuring, conversation, following, reached, notices, traces })
}

/// Sets the key at `path`.
pub(super) fn put(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// Returns the value of the key at `path`, if it is there.
pub(super) fn get<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        None => table.get(path),
        Some((section, rest)) => get(table.get(section)?.as_table()?, rest),
    }
}

/// Returns the paths of all keys of `table` that hold a value rather than a table.
pub(super) fn leaves(table: &Table, path: &str) -> Vec<String> {
    table
        .iter()
        .flat_map(|(name, value)| match value {
            Value::Table(inner) => leaves(inner, &below(path, name)),
            _ => vec![below(path, name)],
        })
        .collect()
}

/// Returns why `value` cannot be the key at `path`, tried on its own over the defaults; `None` if it can.
fn refuses(known: &Table, path: &str, value: &Value) -> Option<String> {
    let mut trial = known.clone();
    put(&mut trial, path, value.clone());
    split(trial).err().map(|error| error.message().to_owned())
}

/// Checks the tree of a file against the known keys, and collects what is fine.
struct Survey<'a> {
    file: &'a str,
    intact: bool,
    known: &'a Table,
    layer: Layer,
    complaints: &'a mut Complaints,
}

impl Survey<'_> {
    fn section(&mut self, node: &Node, known: &Table, path: &str) {
        for entry in node.entries() {
            let key = below(path, &entry.name);
            match (known.get(&entry.name), &entry.value.content) {
                (None, _) => self.unknown(entry, known, &key),
                (Some(Value::Table(inner)), Content::Table(_)) => self.section(&entry.value, inner, &key),
                (Some(Value::Table(_)), _) => {
                    self.note(entry.line, &key, format!("expected a section, found {}", entry.value.noun()));
                }
                (Some(default), _) => self.value(&entry.value, default, &key),
            }
        }
    }

    fn unknown(&mut self, entry: &Entry, siblings: &Table, key: &str) {
        if let Some(what) = retired(key) {
            return self.note(entry.line, key, format!("is no setting any more: {what}"));
        }
        let elsewhere = leaves(self.known, "").into_iter().find(|path| {
            path.rsplit_once('.').is_some_and(|(section, name)| name == entry.name && !key.starts_with(section))
        });
        let hint = match (near(&entry.name, siblings.keys().map(String::as_str)), elsewhere) {
            (None, Some(path)) => format!("did you mean {path}?"),
            _ => nearest(&entry.name, siblings.keys().map(String::as_str)),
        };
        self.note(entry.line, key, format!("unknown key; {hint}"));
    }

    fn value(&mut self, node: &Node, default: &Value, key: &str) {
        let value = match (default, &node.content) {
            (Value::Integer(_), Content::Integer(number)) => Ok(Value::Integer(*number)),
            (Value::Integer(_), _) => Err("a whole number"),
            (Value::Float(_), Content::Integer(number)) => Ok(Value::Float(*number as f64)),
            (Value::Float(_), Content::Float(number)) if number.is_finite() => Ok(Value::Float(*number)),
            (Value::Float(_), _) => Err("a finite number"),
            (Value::Boolean(_), Content::Boolean(flag)) => Ok(Value::Boolean(*flag)),
            (Value::Boolean(_), _) => Err("true or false"),
            (Value::Array(_), Content::List(items)) => {
                let texts = items.iter().map(|item| item.text().map(|text| Value::String(text.to_owned())));
                texts.collect::<Option<Vec<Value>>>().map(Value::Array).ok_or("a list of texts")
            }
            (Value::Array(_), _) => Err("a list of texts"),
            (_, Content::Text(text)) => Ok(Value::String(text.clone())),
            (_, _) => Err("a text"),
        };
        match value {
            Err(expected) => self.note(node.line, key, format!("expected {expected}, found {}", node.noun())),
            Ok(value) => match refuses(self.known, key, &value) {
                Some(what) => self.note(node.line, key, what),
                None => self.layer.put(key, value, Place::line(self.file, node.line)),
            },
        }
    }

    fn note(&mut self, line: usize, key: &str, what: String) {
        let place = Place::line(self.file, line);
        if self.intact || !self.complaints.concern(&place) {
            self.complaints.add(place, key, what);
        }
    }
}

/// Returns what the variables of the `environment` that are ours override.
fn overrides(
    known: &Table,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    complaints: &mut Complaints,
) -> Layer {
    let paths = leaves(known, "");
    let variables: BTreeMap<String, &str> = paths.iter().map(|path| (variable(path), path.as_str())).collect();
    let mut layer = Layer::default();
    for (name, value) in environment {
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with(PREFIX) {
            continue;
        }
        let place = Place::Variable(name.clone());
        let Some((path, default)) = variables.get(&name).and_then(|path| Some((*path, get(known, path)?))) else {
            let retired = RETIRED.iter().find(|(path, _)| variable(path) == name).map(|(_, what)| (*what).to_owned());
            let near = || near(&name, variables.keys().map(String::as_str)).map(|near| format!("did you mean {near}?"));
            let hint = retired.or_else(near).unwrap_or_else(|| "unset it".to_owned());
            complaints.add(place, "", format!("overrides no setting; {hint}"));
            continue;
        };
        let read = value.to_str().ok_or_else(|| "is no UTF-8 text".to_owned()).and_then(|text| typed(text, default));
        match read.and_then(|value| refuses(known, path, &value).map_or(Ok(value), Err)) {
            Ok(value) => layer.put(path, value, place),
            Err(what) => complaints.add(place, path, what),
        }
    }
    layer
}

/// Returns the variable that overrides the key at `path`.
fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

/// Returns `text` as a value of the type of `default`, or what was expected instead.
fn typed(text: &str, default: &Value) -> Result<Value, String> {
    let expected = |what: &str| format!("expected {what}, found {text:?}");
    match default {
        Value::Boolean(_) => text.parse().map(Value::Boolean).map_err(|_| expected("true or false")),
        Value::Integer(_) => text.parse().map(Value::Integer).map_err(|_| expected("a whole number")),
        Value::Float(_) => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            _ => Err(expected("a finite number")),
        },
        // What separates the texts of a list stands in none of them.
        Value::Array(_) => {
            let texts = text.split(';').map(str::trim).filter(|text| !text.is_empty());
            Ok(Value::Array(texts.map(|text| Value::String(text.to_owned())).collect()))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}
