//! Which file says which key: what is written otherwise is somebody's word, what is not written any more may be an accident.

use std::{collections::BTreeMap, path::Path};

use kloros_actors::facts::Changed;
use toml::Table;

use super::{catalogue, complaints::Complaints, folder_of_catalogue, layers, source, texts};

/// The level, of which less comes into force whatever else is the case.
const LEVEL: &str = "gate.autonomy";

/// How many keys of one domain's file are named; the first are enough to see what is missing.
const NAMED_MAX: usize = 3;

/// The files that say a key, the last of which counts, by key; what stands in a domain's file under `domains.NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said(BTreeMap<String, Vec<String>>);

impl Said {
    /// Returns what the files of `home`, or those beside `config_file`, say now. A file that cannot be read says nothing.
    pub(crate) fn in_files(home: &Path, config_file: Option<&Path>) -> Self {
        let (mut said, mut unheard) = (Self::default(), Complaints::default());
        for layers::Text { file, text } in texts(home, config_file, &mut Vec::new(), &mut unheard) {
            said.add("", &file, &text);
        }
        let domains = folder_of_catalogue(home, config_file).join(catalogue::DOMAINS);
        if domains.exists() {
            for path in source::toml_files(&domains, catalogue::DOMAINS_MAX, &mut unheard) {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let text = source::read(&path, &mut unheard).unwrap_or_default();
                said.add(&format!("{}.{name}", catalogue::DOMAINS), &path.display().to_string(), &text);
            }
        }
        said
    }

    fn add(&mut self, section: &str, file: &str, text: &str) {
        let table: Table = toml::from_str(text).unwrap_or_default();
        for key in layers::leaves(&table, section) {
            self.0.entry(key).or_default().push(file.to_owned());
        }
    }

    /// Returns what is said here and in `other` by the same files: between the two looks somebody may have been writing.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.0.retain(|key, files| other.0.get(key) == Some(files));
        self
    }

    /// Returns what is said of what is in force once `now` is read, but for the domains in `waits`, which keep what they have.
    pub(crate) fn become_of(&self, now: &Self, waits: &[String]) -> Self {
        let is_kept = |key: &str| waits.iter().any(|domain| is_below(key, domain));
        let old = self.0.iter().filter(|(key, _)| is_kept(key));
        let new = now.0.iter().filter(|(key, _)| !is_kept(key));
        Self(old.chain(new).map(|(key, files)| (key.clone(), files.clone())).collect())
    }

    /// Returns a line for each of the `changed` settings that is another one only because what said it does so no more: a file that was
    /// emptied, cut or moved away.
    pub(crate) fn missing(&self, now: &Self, changed: &[Changed]) -> Vec<String> {
        changed.iter().filter_map(|changed| self.missing_of(now, changed)).collect()
    }

    fn missing_of(&self, now: &Self, Changed { key, from, to }: &Changed) -> Option<String> {
        if let Some(file) = self.fell_silent(now, key) {
            let lowers = from.parse::<u8>().is_ok_and(|from| to.parse::<u8>().is_ok_and(|to| to < from));
            let line = || format!("{file}: {key}: says {from} no more, which would make it {to}; {ACCEPT}");
            return (key != LEVEL || !lowers).then(line);
        }
        let inside = self.0.keys().filter(|inside| is_below(inside, key));
        let gone: Vec<(&str, &str)> =
            inside.filter_map(|inside| Some((inside.as_str(), self.fell_silent(now, inside)?))).collect();
        let (_, file) = gone.first()?;
        let mut names: Vec<&str> =
            gone.iter().take(NAMED_MAX).filter_map(|(inside, _)| inside.get(key.len() + 1..)).collect();
        if gone.len() > NAMED_MAX {
            names.push("and more");
        }
        Some(format!("{file}: {key}: says nothing of {} any more; {ACCEPT}", names.join(", ")))
    }

    /// Returns the file that decided `key` and says nothing of it `now`, where only what it had overridden, or nothing, is left.
    fn fell_silent(&self, now: &Self, key: &str) -> Option<&str> {
        let before = self.0.get(key)?;
        let decided = before.last()?;
        let left = now.0.get(key).map(Vec::as_slice).unwrap_or_default();
        (left.iter().all(|file| file != decided && before.contains(file))).then_some(decided.as_str())
    }
}

/// What a person does who meant it.
const ACCEPT: &str = "`kloros reload` accepts that, a file that only changed does not";

fn is_below(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}
