//! Settings of the running kernel: those of sysctl(8), and files under /sys. Units and domain files name these commands.
//!
//! What the kernel ran with before is noted once and never overwritten, so that a setting that is given no value, and the end of it all,
//! bring that back. All of a call is in force, or none of it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};

/// Longest text of one setting, in bytes; the kernel shows no more than a page of any.
const TEXT_BYTES_MAX: u64 = 4096;

/// Largest note of what was before, in bytes.
const NOTE_BYTES_MAX: u64 = 1 << 20;

/// Where the kernel shows its settings.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    proc_sys: PathBuf,
    sys: PathBuf,
}

/// What one setting is called: as sysctl(8) has it, `vm.swappiness` or `net/ipv4/conf/eth0.7/forwarding`, or a file under /sys. Kept with
/// strokes, so that one setting has one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(String);

/// What one setting is to be, which may be nothing, for what was before; and what it may be, where that is said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) name: Name,
    value: String,
}

/// Which values are let through, whoever wrote them.
#[derive(Clone, Debug, PartialEq)]
enum Bounds {
    /// Whole numbers from the first to the second.
    Within(i64, i64),
    /// One of these.
    OneOf(Vec<String>),
}

impl Bounds {
    /// Returns what `LOW..HIGH` or `one|of|these` says.
    fn new(text: &str) -> Option<Self> {
        match text.split_once("..") {
            Some((low, high)) => Some(Self::Within(low.parse().ok()?, high.parse().ok()?)),
            None => Some(Self::OneOf(text.split('|').map(str::to_owned).collect())),
        }
    }

    fn admit(&self, value: &str) -> bool {
        match self {
            Self::Within(low, high) => value.parse().is_ok_and(|value: i64| (*low..=*high).contains(&value)),
            Self::OneOf(values) => values.iter().any(|each| each == value),
        }
    }
}

/// Settings by their names.
type Values = BTreeMap<String, String>;

impl Name {
    /// Returns the name, or why it is none.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let below = text.strip_prefix("/sys/").unwrap_or(text);
        let is_plain = |each: u8| each.is_ascii_alphanumeric() || b"_-.:@/".contains(&each);
        let is_part = |part: &str| !matches!(part, "" | "." | "..");
        if !below.bytes().all(is_plain) || !parts(below).all(is_part) || parts(below).nth(1).is_none() {
            return Err(format!("{text:?} names no setting: write vm.swappiness or /sys/kernel/mm/..."));
        }
        let is_of_sysctl = !text.starts_with('/') && !text.contains('/');
        Ok(Self(if is_of_sysctl { text.replace('.', "/") } else { text.to_owned() }))
    }
}

/// Returns the folders and the file. Dots separate them where no stroke does, as sysctl(8) has it.
fn parts(below: &str) -> std::str::Split<'_, char> {
    below.split(if below.contains('/') { '/' } else { '.' })
}

/// Returns what `NAME=VALUE`, `NAME[LOW..HIGH]=VALUE` or `NAME[one|of|these]=VALUE` asks for; the value may be empty, for what was before.
/// A value that is out of its bounds is refused.
pub(crate) fn wanted(text: &str) -> Result<Wanted, String> {
    let (left, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    let (name, bounds) = match left.split_once('[') {
        Some((name, rest)) => {
            let bounds = rest.strip_suffix(']').and_then(Bounds::new);
            (name, Some(bounds.ok_or_else(|| format!("{left:?} does not end with [LOW..HIGH] or [one|of|these]"))?))
        }
        None => (left, None),
    };
    let is_plain = |each: u8| each.is_ascii_alphanumeric() || b"_-.:,+".contains(&each);
    if !value.bytes().all(is_plain) || value.len() as u64 > TEXT_BYTES_MAX {
        return Err(format!(
            "{name}: {value:?} is no value: use letters, digits and _-.:,+, with a comma between numbers"
        ));
    }
    if !value.is_empty() && bounds.as_ref().is_some_and(|bounds| !bounds.admit(value)) {
        return Err(format!("{left} may not be {value:?}"));
    }
    Ok(Wanted { name: Name::new(name)?, value: value.to_owned() })
}

/// Returns the pair in `KEY=NAME`.
pub(crate) fn shown_as(text: &str) -> Result<(String, Name), String> {
    let (key, name) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=NAME"))?;
    Ok((key.to_owned(), Name::new(name)?))
}

/// Returns what a file of the kernel's says in one word: of several words the one in brackets, else all with commas between them.
fn in_one_word(text: &str) -> String {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let chosen = words.iter().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    chosen.map_or_else(|| words.join(","), str::to_owned)
}

impl Kernel {
    /// Returns the kernel that this runs on.
    pub(crate) fn here() -> Self {
        Self { proc_sys: PathBuf::from("/proc/sys"), sys: PathBuf::from("/sys") }
    }

    fn file(&self, name: &Name) -> anyhow::Result<PathBuf> {
        let (root, below) = match name.0.strip_prefix("/sys/") {
            Some(below) => (&self.sys, PathBuf::from(below)),
            None => (&self.proc_sys, PathBuf::from(&name.0)),
        };
        let path = root.join(below);
        // Links lead from one place under /sys to another, and nowhere else.
        let found = fs::canonicalize(&path).with_context(|| format!("{}: {}", name.0, path.display()))?;
        let root = fs::canonicalize(root).with_context(|| root.display().to_string())?;
        ensure!(found.starts_with(root), "{}: {} leads elsewhere", name.0, path.display());
        Ok(found)
    }

    fn value(&self, name: &Name) -> anyhow::Result<String> {
        let file = self.file(name)?;
        let text = read(&file, TEXT_BYTES_MAX).with_context(|| format!("{}: {}", name.0, file.display()))?;
        Ok(in_one_word(&text))
    }

    /// Returns what runs now, each under its key.
    pub(crate) fn show(&self, wanted: &[(String, Name)]) -> anyhow::Result<Values> {
        wanted.iter().map(|(key, name)| Ok((key.clone(), self.value(name)?))).collect()
    }

    /// Makes one setting what is wanted, and says so if the kernel made something else of it.
    fn put(&self, name: &Name, value: &str) -> anyhow::Result<()> {
        let before = self.value(name)?;
        if before == value {
            return Ok(());
        }
        let file = self.file(name)?;
        // Several numbers stand in one line with blanks between them; where there is only one word, a comma is its own.
        let is_several = read(&file, TEXT_BYTES_MAX)?.split_ascii_whitespace().count() > 1;
        let text = if is_several { value.replace(',', " ") } else { value.to_owned() };
        // The kernel takes what one call writes as the whole.
        let written = fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&file)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.with_context(|| format!("{} cannot be {value}", name.0))?;
        let after = self.value(name)?;
        ensure!(after == value, "{} cannot be {value}: the kernel made {after} of it", name.0);
        Ok(())
    }

    /// Makes the settings what is wanted, all of them or none. A value that is empty stands for what was before the first call,
    /// which `note` keeps: what is in it already is left as it is.
    pub(crate) fn set(&self, note: &Path, wanted: &[Wanted]) -> anyhow::Result<()> {
        let mut before = noted(note)?;
        let noted = before.clone();
        let mut now = Vec::with_capacity(wanted.len());
        for Wanted { name, value } in wanted {
            let runs = self.value(name)?;
            let original = before.entry(name.0.clone()).or_insert_with(|| runs.clone());
            let value = if value.is_empty() { original.clone() } else { value.clone() };
            now.push((name, value, runs));
        }
        // First of all, because whoever is killed in between must find what was before.
        keep(note, &before)?;
        for (done, (name, value, _)) in now.iter().enumerate() {
            let Err(why) = self.put(name, value) else { continue };
            let stuck: Vec<String> = now[..=done]
                .iter()
                .rev()
                .filter_map(|(name, _, runs)| self.put(name, runs).err().map(|error| format!("{error:#}")))
                .collect();
            if stuck.is_empty() {
                // What was noted for this alone would be old news the next time.
                forget(note, &noted)?;
                return Err(why.context("nothing was changed"));
            }
            bail!("{why:#}; and not all could be put back: {}", stuck.join("; "));
        }
        Ok(())
    }

    /// Brings back what was before the first [`set`](Self::set), and forgets it then. Where there is no note, nothing was changed.
    ///
    /// As much as possible is brought back; what could not be stays noted and is named.
    pub(crate) fn restore(&self, note: &Path) -> anyhow::Result<()> {
        let mut left = noted(note)?;
        let mut stuck = Vec::new();
        left.retain(|name, value| {
            let put = Name::new(name).map_err(anyhow::Error::msg).and_then(|name| self.put(&name, value));
            put.inspect_err(|error| stuck.push(format!("{error:#}"))).is_err()
        });
        forget(note, &left)?;
        if left.is_empty() {
            return Ok(());
        }
        bail!("{}; {} still says what was before", stuck.join("; "), note.display())
    }
}

/// Returns what a file says, of which no more is read than may be.
fn read(file: &Path, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(file)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("says more than {bytes_max} bytes")));
    }
    Ok(text)
}

fn noted(note: &Path) -> anyhow::Result<Values> {
    let named = || format!("{} says what the kernel ran with before and cannot be used", note.display());
    match read(note, NOTE_BYTES_MAX) {
        Ok(text) => serde_json::from_str(&text).with_context(named),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Values::new()),
        Err(error) => Err(error).with_context(named),
    }
}

/// Leaves no more in the note than this, and no note where that is nothing.
fn forget(note: &Path, left: &Values) -> anyhow::Result<()> {
    if !left.is_empty() {
        return keep(note, left);
    }
    match fs::remove_file(note) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| note.display().to_string()),
        _ => Ok(()),
    }
}

/// Writes the note whole, or leaves it as it was.
fn keep(note: &Path, values: &Values) -> anyhow::Result<()> {
    let mut beside = note.as_os_str().to_owned();
    beside.push(".new");
    let text = serde_json::to_string_pretty(values)?;
    let written = fs::File::create(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&beside, note)).with_context(|| format!("cannot write {}", note.display()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    struct Files {
        folder: TempDir,
        kernel: Kernel,
        note: PathBuf,
    }

    impl Files {
        /// A kernel of files: real ones need root and would be this machine's own.
        fn new() -> Self {
            let folder = TempDir::new().unwrap();
            let kernel = Kernel { proc_sys: folder.path().join("proc_sys"), sys: folder.path().join("sys") };
            let note = folder.path().join("before.json");
            let made = Self { folder, kernel, note };
            made.write("proc_sys/vm/swappiness", "60\n");
            made.write("proc_sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n");
            made.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
            made
        }

        fn write(&self, file: &str, text: &str) {
            let file = self.folder.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }

        fn text(&self, file: &str) -> String {
            fs::read_to_string(self.folder.path().join(file)).unwrap()
        }

        fn set(&self, pairs: &[&str]) -> Result<(), String> {
            let wanted: Vec<_> = pairs.iter().map(|pair| wanted(pair).unwrap()).collect();
            self.kernel.set(&self.note, &wanted).map_err(|error| format!("{error:#}"))
        }
    }

    #[test]
    fn what_runs_is_shown_in_one_word_each() {
        let here = Files::new();
        let shown: Vec<_> = ["A=vm.swappiness", "B=net.ipv4.tcp_rmem", "C=/sys/kernel/mm/transparent_hugepage/enabled"]
            .map(|pair| shown_as(pair).unwrap())
            .into();
        let values = here.kernel.show(&shown).unwrap();
        let expected = [("A", "60"), ("B", "4096,131072,6291456"), ("C", "madvise")];
        assert_eq!(values, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let missing = [("D".to_owned(), Name::new("vm.none").unwrap())];
        assert!(format!("{:#}", here.kernel.show(&missing).unwrap_err()).contains("vm/none"));
    }

    #[test]
    fn what_is_not_given_any_more_is_what_it_was_before_the_first_call() {
        let here = Files::new();
        here.set(&["vm.swappiness=10", "net.ipv4.tcp_rmem=4096,131072,16777216"]).unwrap();
        assert_eq!(here.text("proc_sys/vm/swappiness"), "10");
        assert_eq!(here.text("proc_sys/net/ipv4/tcp_rmem"), "4096 131072 16777216");
        here.set(&["vm.swappiness=20", "net.ipv4.tcp_rmem="]).unwrap();
        assert_eq!(here.text("proc_sys/net/ipv4/tcp_rmem"), "4096 131072 6291456");
        here.set(&["vm.swappiness="]).unwrap();
        assert_eq!(here.text("proc_sys/vm/swappiness"), "60");
    }

    #[test]
    fn the_end_brings_all_back_and_forgets_it() {
        let here = Files::new();
        here.set(&["vm.swappiness=10"]).unwrap();
        here.set(&["net.ipv4.tcp_rmem=1,2,3", "vm/swappiness=20"]).unwrap();
        here.kernel.restore(&here.note).unwrap();
        assert_eq!((here.text("proc_sys/vm/swappiness"), here.note.exists()), ("60".to_owned(), false));
        assert_eq!(here.text("proc_sys/net/ipv4/tcp_rmem"), "4096 131072 6291456");
        // What a person sets afterwards is theirs.
        here.write("proc_sys/vm/swappiness", "33\n");
        here.kernel.restore(&here.note).unwrap();
        assert_eq!(here.text("proc_sys/vm/swappiness"), "33\n");
    }

    #[test]
    fn where_one_cannot_be_set_none_is() {
        let here = Files::new();
        let error = here.set(&["vm.swappiness=10", "vm.none=1"]).unwrap_err();
        assert!(error.contains("vm/none"), "{error}");
        assert_eq!(here.text("proc_sys/vm/swappiness"), "60\n");
        let error = here.set(&["vm.swappiness=10", "net.ipv4.tcp_rmem=1,,2"]).unwrap_err();
        assert_eq!(error, "nothing was changed: net/ipv4/tcp_rmem cannot be 1,,2: the kernel made 1,2 of it");
        assert!(!here.note.exists(), "what a person sets before the next try is theirs");
        assert_eq!(here.text("proc_sys/vm/swappiness"), "60");
        assert_eq!(here.text("proc_sys/net/ipv4/tcp_rmem"), "4096 131072 6291456");
    }

    #[test]
    fn a_note_that_cannot_be_read_is_left_alone_and_nothing_is_set() {
        let here = Files::new();
        for text in ["", "{", "[]", "{\"vm.swappiness\": 7}"] {
            fs::write(&here.note, text).unwrap();
            let error = here.set(&["vm.swappiness=10"]).unwrap_err();
            assert!(error.contains("before.json"), "{error}");
            assert!(here.kernel.restore(&here.note).is_err());
            assert_eq!(
                (here.text("proc_sys/vm/swappiness").as_str(), here.text("before.json").as_str()),
                ("60\n", text)
            );
        }
    }

    #[test]
    fn a_name_that_leads_out_of_its_tree_is_refused() {
        let here = Files::new();
        here.write("secret/word", "hidden");
        std::os::unix::fs::symlink(here.folder.path().join("secret"), here.folder.path().join("sys/out")).unwrap();
        let shown = here.kernel.show(&[("A".to_owned(), Name::new("/sys/out/word").unwrap())]);
        assert!(format!("{:#}", shown.unwrap_err()).contains("leads elsewhere"));
        for text in [
            "",
            "vm",
            "vm..a",
            "../etc/passwd",
            "/etc/passwd",
            "/sys/../etc/x",
            "vm.a b",
            "vm.a\n",
            "net/../x",
            "/sys/",
        ] {
            assert!(Name::new(text).is_err(), "{text:?}");
        }
        for text in ["vm.swappiness", "net/ipv4/conf/eth0.7/forwarding", "/sys/kernel/mm/transparent_hugepage/enabled"]
        {
            assert!(Name::new(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_value_is_one_plain_word() {
        for text in ["vm.a", "=1", "vm.a=1 2", "vm.a=1\n2", "vm.a=|/bin/core", "vm.a=\0", "vm.a=$(id)"] {
            assert!(wanted(text).is_err(), "{text:?}");
        }
        assert_eq!(wanted("vm.a=").map(|wanted| wanted.value), Ok(String::new()));
        assert!(wanted(&format!("vm.a={}", "1".repeat(5000))).is_err());
    }
    #[test]
    fn a_value_out_of_its_bounds_is_refused_whoever_wrote_it() {
        for text in
            ["vm.a[1..100]=1", "vm.a[1..100]=100", "vm.a[1..100]=", "vm.a[0|1]=1", "vm.a[a,b|c]=a,b", "vm.a[0|1]="]
        {
            assert!(wanted(text).is_ok(), "{text}");
        }
        for text in [
            "vm.a[1..100]=0",
            "vm.a[1..100]=101",
            "vm.a[1..100]=x",
            "vm.a[1..100]=5,5",
            "vm.a[0|1]=2",
            "vm.a[0|1]=0|1",
            "vm.a[1..=1",
            "vm.a[x..9]=1",
            "vm.a[1..100]x=1",
        ] {
            assert!(wanted(text).is_err(), "{text}");
        }
    }
}
