//! The knobs: what can be set, in which range, and where the value in effect came from.
//!
//! The env file wins over the process environment, which wins over the shipped default. The defaults are poor on purpose,
//! as vendor defaults are: they suit a single patient reader on a machine that nobody looked at.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use super::LabError;

/// Largest env file that is read, in bytes.
const ENV_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Keys with this prefix are ours; all others in the file belong to other services.
const PREFIX: &str = "LAB_";

const MAX_NUM_SEQS: &str = "LAB_MAX_NUM_SEQS";
const BATCH_WAIT_MS: &str = "LAB_BATCH_WAIT_MS";
const THREADS: &str = "LAB_THREADS";
const KV_CACHE_MIB: &str = "LAB_KV_CACHE_MIB";
const PREFILL_CHUNK: &str = "LAB_PREFILL_CHUNK";
const PRECISION: &str = "LAB_PRECISION";

/// Every knob, with its shipped default.
const KNOBS: [Knob; 6] = [
    Knob::whole(MAX_NUM_SEQS, 1, 64, "2"),
    Knob::whole(BATCH_WAIT_MS, 0, 100, "20"),
    Knob::whole(THREADS, 1, 8, "1"),
    Knob::whole(KV_CACHE_MIB, 4, 512, "8"),
    Knob::whole(PREFILL_CHUNK, 8, 1024, "16"),
    Knob { key: PRECISION, kind: Kind::OneOf(&["f32", "f64"]), default: "f64" },
];

struct Knob {
    key: &'static str,
    kind: Kind,
    default: &'static str,
}

enum Kind {
    Whole { min: usize, max: usize },
    OneOf(&'static [&'static str]),
}

impl Knob {
    const fn whole(key: &'static str, min: usize, max: usize, default: &'static str) -> Self {
        Knob { key, kind: Kind::Whole { min, max }, default }
    }

    /// Returns what is wrong with `value`, if anything.
    fn problem(&self, value: &str) -> Option<String> {
        let key = self.key;
        match self.kind {
            Kind::Whole { min, max } => match value.parse::<usize>() {
                Ok(number) if (min..=max).contains(&number) => None,
                _ => Some(format!("{key} must be a whole number from {min} to {max}, not {value:?}")),
            },
            Kind::OneOf(choices) if choices.contains(&value) => None,
            Kind::OneOf(choices) => Some(format!("{key} must be one of {}, not {value:?}", choices.join(", "))),
        }
    }
}

/// The width of every number in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    /// Four bytes.
    F32,
    /// Eight bytes.
    F64,
}

impl Precision {
    /// Returns the size of one number in bytes.
    pub(super) fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::F64 => 8,
        }
    }
}

/// The settings in effect.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Knobs {
    /// Sequences that are computed together at most, 1 to 64.
    pub(super) max_num_seqs: usize,
    /// How long a step waits for company while the batch is not full, 0 to 100 ms.
    pub(super) batch_wait: Duration,
    /// Worker threads among which the sequences of a step are shared out, 1 to 8.
    pub(super) threads: usize,
    /// Memory for keys and values, 4 to 512 MiB, allocated at the start.
    pub(super) kv_cache_mib: usize,
    /// Prompt tokens that one step computes at most, over all sequences, 8 to 1024.
    pub(super) prefill_chunk: usize,
    /// The numbers that the model computes in.
    pub(super) precision: Precision,
    /// The values as written, for the echo.
    values: BTreeMap<&'static str, String>,
}

impl Knobs {
    /// Returns the settings from `env_file` over `environment` over the defaults.
    ///
    /// Fails with the place and the key if the file is unreadable, a line is malformed, a `LAB_` key of the file is unknown
    /// or given twice, or a value is out of its range.
    pub(super) fn load(
        env_file: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, LabError> {
        let mut values: BTreeMap<&'static str, String> = BTreeMap::new();
        for knob in &KNOBS {
            let value = match environment(knob.key) {
                Some(value) => {
                    refuse(knob.problem(&value), || "process environment".to_owned())?;
                    value
                }
                None => knob.default.to_owned(),
            };
            values.insert(knob.key, value);
        }
        if let Some(path) = env_file {
            let text = read_bounded(path)?;
            overlay(&mut values, path, &text)?;
        }
        Ok(Self::from_checked(values))
    }

    /// Returns the settings that ship, untouched by any file or environment.
    #[cfg(test)]
    pub(super) fn shipped() -> Self {
        Self::from_checked(KNOBS.iter().map(|knob| (knob.key, knob.default.to_owned())).collect())
    }

    /// Returns every key with the value in effect, as it would stand in an env file.
    pub(super) fn values(&self) -> &BTreeMap<&'static str, String> {
        &self.values
    }

    fn from_checked(values: BTreeMap<&'static str, String>) -> Self {
        // Each value passed its knob's check, so the fallback of a failed parse is never taken.
        let whole = |key: &str| values.get(key).and_then(|value| value.parse().ok()).unwrap_or(1);
        Knobs {
            max_num_seqs: whole(MAX_NUM_SEQS),
            batch_wait: Duration::from_millis(whole(BATCH_WAIT_MS) as u64),
            threads: whole(THREADS),
            kv_cache_mib: whole(KV_CACHE_MIB),
            prefill_chunk: whole(PREFILL_CHUNK),
            precision: match values.get(PRECISION).map(String::as_str) {
                Some("f32") => Precision::F32,
                _ => Precision::F64,
            },
            values,
        }
    }
}

fn refuse(problem: Option<String>, place: impl FnOnce() -> String) -> Result<(), LabError> {
    problem.map_or(Ok(()), |problem| Err(LabError::Setting { place: place(), problem }))
}

fn read_bounded(path: &Path) -> Result<String, LabError> {
    let unreadable = |source| LabError::EnvFile { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > ENV_FILE_BYTES_MAX {
        return Err(LabError::Setting {
            place: path.display().to_string(),
            problem: format!("an env file may have {ENV_FILE_BYTES_MAX} bytes at most, this one has {size}"),
        });
    }
    fs::read_to_string(path).map_err(unreadable)
}

fn overlay(values: &mut BTreeMap<&'static str, String>, path: &Path, text: &str) -> Result<(), LabError> {
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let place = || format!("{}:{number}", path.display());
        let fail = |problem: String| LabError::Setting { place: place(), problem };
        let Some((key, value)) = assignment(line).map_err(fail)? else { continue };
        if !key.starts_with(PREFIX) {
            continue;
        }
        let Some(knob) = KNOBS.iter().find(|knob| knob.key == key) else {
            return Err(fail(unknown(key)));
        };
        if let Some(first) = seen.insert(knob.key, number) {
            return Err(fail(format!("{key} is assigned a second time, first on line {first}; keep one of them")));
        }
        refuse(knob.problem(value), place)?;
        values.insert(knob.key, value.to_owned());
    }
    Ok(())
}

fn unknown(key: &str) -> String {
    let nearest = KNOBS.iter().min_by_key(|knob| strsim::levenshtein(knob.key, key)).map_or("", |knob| knob.key);
    format!("unknown key {key}; did you mean {nearest}?")
}

/// Returns the key and the unquoted value of a line, or nothing for a blank line or a comment.
fn assignment(line: &str) -> Result<Option<(&str, &str)>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (key, value) = line.split_once('=').ok_or_else(|| "expected KEY=VALUE or a # comment".to_owned())?;
    let key = key.trim_end();
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    if !is_name(key) {
        return Err(format!("{key:?} is not a name; use letters, digits and underscores"));
    }
    unquoted(value.trim()).map(|value| Some((key, value))).map_err(|problem| format!("{key}: {problem}"))
}

fn unquoted(value: &str) -> Result<&str, &'static str> {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.strip_suffix(quote).filter(|inner| !inner.contains(quote)).ok_or("the quotes do not match");
        }
    }
    if value.contains(['"', '\'']) {
        return Err("the quotes do not match");
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from_text(text: &str) -> Result<Knobs, LabError> {
        from_text_and_environment(text, &[])
    }

    fn from_text_and_environment(text: &str, environment: &[(&str, &str)]) -> Result<Knobs, LabError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.env");
        fs::write(&path, text).unwrap();
        Knobs::load(Some(&path), |key| {
            environment.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
        })
    }

    #[track_caller]
    fn refused(text: &str, fragment: &str) {
        let error = from_text(text).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains(fragment), "{error} lacks {fragment:?}");
    }

    #[test]
    fn without_a_file_the_shipped_defaults_are_in_effect() {
        let knobs = Knobs::load(None, |_| None).unwrap();
        assert_eq!(knobs, Knobs::shipped());
        assert_eq!((knobs.max_num_seqs, knobs.threads, knobs.precision), (2, 1, Precision::F64));
    }

    #[test]
    fn every_shipped_default_lies_in_its_own_range() {
        for knob in &KNOBS {
            assert_eq!(knob.problem(knob.default), None, "{}", knob.key);
        }
    }

    #[test]
    fn comments_blank_lines_quotes_and_foreign_keys_are_understood() {
        let text =
            "# a comment\n\n  LAB_THREADS = \"2\"  \r\nLAB_PRECISION='f32'\nVLLM_PORT=x y\nLAB_BATCH_WAIT_MS=0\n";
        let knobs = from_text(text).unwrap();
        assert_eq!((knobs.threads, knobs.precision, knobs.batch_wait), (2, Precision::F32, Duration::ZERO));
    }

    #[test]
    fn the_file_wins_over_the_process_environment_which_wins_over_the_default() {
        let knobs =
            from_text_and_environment("LAB_THREADS=3\n", &[("LAB_THREADS", "4"), ("LAB_MAX_NUM_SEQS", "9")]).unwrap();
        assert_eq!((knobs.threads, knobs.max_num_seqs, knobs.kv_cache_mib), (3, 9, Knobs::shipped().kv_cache_mib));
    }

    #[test]
    fn a_bad_line_is_refused_with_its_number_and_key() {
        refused("LAB_THREADS=2\nLAB_THREAD=2\n", "lab.env:2: unknown key LAB_THREAD; did you mean LAB_THREADS?");
        refused("LAB_THREADS=9\n", "lab.env:1: LAB_THREADS must be a whole number from 1 to 8, not \"9\"");
        refused("LAB_THREADS=2\nLAB_THREADS=3\n", "lab.env:2: LAB_THREADS is assigned a second time, first on line 1");
        refused("\nLAB_PRECISION=f16", "lab.env:2: LAB_PRECISION must be one of f32, f64, not \"f16\"");
        refused("LAB_THREADS=\"2\n", "lab.env:1: LAB_THREADS: the quotes do not match");
        refused("hello\n", "lab.env:1: expected KEY=VALUE");
        refused("LAB THREADS=2\n", "lab.env:1: \"LAB THREADS\" is not a name");
        refused("LAB_THREADS=\n", "not \"\"");
        refused(&"#".repeat(ENV_FILE_BYTES_MAX as usize + 1), "bytes at most");
    }

    #[test]
    fn a_bad_variable_of_the_process_is_refused_by_name() {
        let error = from_text_and_environment("", &[("LAB_THREADS", "many")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "process environment: LAB_THREADS must be a whole number from 1 to 8, not \"many\""
        );
    }

    #[test]
    fn a_missing_file_is_a_configuration_error() {
        let error = Knobs::load(Some(Path::new("/nonexistent/lab.env")), |_| None).unwrap_err();
        assert_eq!(error.exit_code(), 78);
    }

    #[test]
    fn the_ends_of_every_range_are_accepted_and_their_neighbours_refused() {
        for knob in &KNOBS {
            if let Kind::Whole { min, max } = knob.kind {
                assert_eq!(knob.problem(&min.to_string()), None);
                assert_eq!(knob.problem(&max.to_string()), None);
                assert!(knob.problem(&(max + 1).to_string()).is_some());
                assert!(knob.problem(&(i64::try_from(min).unwrap() - 1).to_string()).is_some());
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[A-Z_=\"'# 0-9\\n]{0,80}") {
            let _ = from_text(&text);
        }
    }
}
