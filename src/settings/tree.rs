//! A parsed file in which each value still knows its line, whichever language it was written in.

use super::complaints::shortened;

/// How many letters a misspelt name may differ in.
const TYPO_MAX: usize = 4;

/// Names longer than this are nobody's misspelling, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// The line, from 1.
    pub(super) line: usize,
    /// The value.
    pub(super) content: Content,
}

/// A value, exactly as typed: nothing is coerced.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// `null`, `~` or nothing at all, in YAML.
    Nothing,
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A whole number that no setting could hold.
    Huge(String),
    /// A decimal number; may be infinite or no number.
    Float(f64),
    /// A text.
    Text(String),
    /// A date or time of day, in TOML.
    Date,
    /// Values in order.
    List(Vec<Node>),
    /// Values by name.
    Table(Vec<Entry>),
}

/// A named value of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// The name.
    pub(super) name: String,
    /// The line of the name, from 1.
    pub(super) line: usize,
    /// The value.
    pub(super) value: Node,
}

impl Node {
    /// Returns the named values, or nothing if this is no table.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Table(entries) => entries,
            _ => &[],
        }
    }

    /// Returns the entry of this name, if this is a table that has it.
    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.name == name)
    }

    /// Returns the value below these names.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, name| Some(&node.entry(name)?.value))
    }

    /// Returns the line of the last of these names that is there.
    pub(super) fn line_of(&self, path: &[&str]) -> usize {
        let mut node = self;
        let mut line = self.line;
        for name in path {
            let Some(entry) = node.entry(name) else { break };
            (node, line) = (&entry.value, entry.line);
        }
        line
    }

    /// Returns the text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value in words, for "expected a whole number, found ...".
    pub(super) fn noun(&self) -> String {
        match &self.content {
            Content::Nothing => "nothing".to_owned(),
            Content::Boolean(value) => value.to_string(),
            Content::Integer(value) => value.to_string(),
            Content::Huge(digits) => format!("{}, which is too large", shortened(digits)),
            Content::Float(value) => format!("{value:?}"),
            Content::Text(value) => format!("the text {:?}", shortened(value)),
            Content::Date => "a date".to_owned(),
            Content::List(_) => "a list".to_owned(),
            Content::Table(_) => "a table".to_owned(),
        }
    }

    /// Returns the value without its lines; `None` if some part of it has no counterpart.
    pub(super) fn plain(&self) -> Option<toml::Value> {
        Some(match &self.content {
            Content::Boolean(value) => toml::Value::Boolean(*value),
            Content::Integer(value) => toml::Value::Integer(*value),
            Content::Float(value) => toml::Value::Float(*value),
            Content::Text(value) => toml::Value::String(value.clone()),
            Content::List(items) => toml::Value::Array(items.iter().map(Node::plain).collect::<Option<_>>()?),
            Content::Table(entries) => toml::Value::Table(
                entries.iter().map(|entry| Some((entry.name.clone(), entry.value.plain()?))).collect::<Option<_>>()?,
            ),
            Content::Nothing | Content::Huge(_) | Content::Date => return None,
        })
    }

    /// Returns the value as a `T`; `None` if it is none.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        self.plain()?.try_into().ok()
    }
}

/// Returns `name` below `path`, joined by a dot.
pub(super) fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Returns the known name that was probably meant instead of `name`, if one is near.
pub(super) fn near<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let typo_max = (name.chars().count() / 3).clamp(2, TYPO_MAX);
    let distances = known.into_iter().map(|candidate| (strsim::osa_distance(name, candidate), candidate));
    distances.filter(|(distance, _)| *distance <= typo_max).min().map(|(_, candidate)| candidate)
}

/// Returns a hint at the known name that was probably meant instead of `name`, or at all of them when none is near.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match near(name, known.iter().copied()) {
        Some(candidate) => format!("did you mean {candidate}?"),
        None if known.is_empty() => "nothing is known here".to_owned(),
        None => format!("known are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_answered_by_the_nearest_known_one_and_a_foreign_one_by_all() {
        let known = ["keep_from", "undo_below", "alpha"];
        assert_eq!(nearest("keep_form", known), "did you mean keep_from?");
        assert_eq!(nearest("aplha", known), "did you mean alpha?");
        assert_eq!(nearest("temperature", known), "known are keep_from, undo_below, alpha");
        assert_eq!(nearest("x", []), "nothing is known here");
    }
}
