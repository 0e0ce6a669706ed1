//! What is wrong with the settings, all of it at once, each with its place.

use std::fmt;

/// How many complaints are kept; the rest is counted.
const KEPT_MAX: usize = 1000;
/// How many complaints are printed; the rest is counted.
const PRINTED_MAX: usize = 100;
/// How many characters of a key or of a value are repeated in a complaint.
const QUOTED_MAX: usize = 80;
/// How many characters of explanation a complaint has.
const WHAT_MAX: usize = 1000;

/// Where something wrong stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In this file as a whole.
    File(String),
    /// In this line of this file, counted from 1.
    Line {
        /// The file.
        file: String,
        /// The line.
        line: usize,
    },
    /// In this environment variable.
    Variable(String),
}

impl Place {
    /// Returns the place that is this line of this file.
    pub(super) fn line(file: &str, line: usize) -> Self {
        Place::Line { file: file.to_owned(), line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(file) => formatter.write_str(file),
            Place::Line { file, line } => write!(formatter, "{file}:{line}"),
            Place::Variable(name) => formatter.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Complaint {
    /// Where.
    pub(crate) place: Place,
    /// The key with its sections, as in `validator.keep_from`; empty when no single key is to blame.
    pub(crate) key: String,
    /// What is wrong, and what to do.
    pub(crate) what: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(formatter, "{}: {}", self.place, self.what),
            key => write!(formatter, "{}: {key}: {}", self.place, self.what),
        }
    }
}

/// Everything that is wrong; prints one line for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Complaints {
    kept: Vec<Complaint>,
    more: usize,
}

impl Complaints {
    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.kept.len() + self.more
    }

    /// Notes that `key` at `place` is wrong.
    pub(super) fn add(&mut self, place: Place, key: impl Into<String>, what: impl Into<String>) {
        if self.kept.len() == KEPT_MAX {
            self.more += 1;
            return;
        }
        let what = first_characters(&what.into(), WHAT_MAX);
        self.kept.push(Complaint { place, key: shortened(&key.into()), what });
    }

    /// Returns whether something is wrong at `place` already.
    pub(super) fn concern(&self, place: &Place) -> bool {
        self.kept.iter().any(|complaint| complaint.place == *place)
    }

    /// Returns whether something is wrong with `key` of `file` already.
    pub(super) fn name(&self, file: &str, key: &str) -> bool {
        let in_file = |place: &Place| matches!(place, Place::Line { file: other, .. } if other == file);
        self.kept.iter().any(|complaint| complaint.key == key && in_file(&complaint.place))
    }

    /// Returns `value` if nothing was wrong, else everything that was, sorted by place.
    pub(super) fn unless_any<T>(mut self, value: Option<T>) -> Result<T, Self> {
        self.kept.sort();
        self.kept.dedup();
        match value {
            Some(value) if self.kept.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

impl fmt::Display for Complaints {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, complaint) in self.kept.iter().take(PRINTED_MAX).enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            write!(formatter, "{gap}{complaint}")?;
        }
        match self.len().saturating_sub(PRINTED_MAX) {
            0 => Ok(()),
            more => write!(formatter, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Complaints {}

/// Returns `text`, cut off where it is too long to be repeated in a complaint.
pub(super) fn shortened(text: &str) -> String {
    first_characters(text, QUOTED_MAX)
}

fn first_characters(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
