//! What a file may hold: known keys, exact types and ranges, checked all at once.

use super::{
    complaints::{Complaints, Place},
    tree::{Content, Entry, Node, below, nearest},
};

/// How many entries a list, or a table with free keys, may have.
const ENTRIES_MAX: usize = 1000;

/// Says what is wrong with a text, if anything.
pub(super) type Rule = fn(&str) -> Option<String>;

/// What a value must look like.
pub(super) enum Shape {
    /// `true` or `false`.
    Boolean,
    /// A whole number; both ends belong to the range.
    Whole { least: i64, most: i64 },
    /// A finite number, written with or without a point; both ends belong to the range.
    Number { least: f64, most: f64 },
    /// A text that the rule has nothing against.
    Text(Rule),
    /// The value of a knob: true or false, a finite number or a text.
    Scalar,
    /// What may stand in a list in order: a finite number, or a text that the rule has nothing against.
    Ranked(Rule),
    /// Values in order, at least so many.
    List { each: &'static Shape, least: usize },
    /// A table of these keys.
    Table(&'static [Field]),
    /// A table whose keys are free, as far as the rule lets them be.
    Map { names: Rule, each: &'static Shape },
    /// A table in which the key `tag` says which other keys it has.
    Tagged { tag: &'static str, kinds: &'static [(&'static str, &'static [Field])] },
    /// One of these words; one that holds something is written `{ word = ... }`.
    Words(&'static [(&'static str, Option<&'static Shape>)]),
}

/// A key of a table.
pub(super) struct Field {
    name: &'static str,
    shape: &'static Shape,
    required: bool,
}

impl Field {
    /// Returns a key that must be there.
    pub(super) const fn required(name: &'static str, shape: &'static Shape) -> Self {
        Self { name, shape, required: true }
    }

    /// Returns a key that may be left out.
    pub(super) const fn optional(name: &'static str, shape: &'static Shape) -> Self {
        Self { name, shape, required: false }
    }
}

#[cfg(test)]
impl Shape {
    /// Adds every key and word to `names` that a value of this shape may have.
    pub(super) fn names(&self, names: &mut std::collections::BTreeSet<&'static str>) {
        let fields = |fields: &[Field], names: &mut std::collections::BTreeSet<&'static str>| {
            for field in fields {
                names.insert(field.name);
                field.shape.names(names);
            }
        };
        match self {
            Shape::List { each, .. } | Shape::Map { each, .. } => each.names(names),
            Shape::Table(table) => fields(table, names),
            Shape::Tagged { tag, kinds } => {
                names.insert(tag);
                for (kind, table) in *kinds {
                    names.insert(kind);
                    fields(table, names);
                }
            }
            Shape::Words(words) => {
                for (word, holds) in *words {
                    names.insert(word);
                    if let Some(shape) = holds {
                        shape.names(names);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Checks one file against its shape.
pub(super) struct Inspection<'a> {
    /// The file, as it is named in complaints.
    pub(super) file: &'a str,
    /// Whether the file could be read to its end. If not, nothing is called missing, and a line that is wrong already
    /// is not blamed for more.
    pub(super) intact: bool,
    /// What was wrong so far.
    pub(super) complaints: &'a mut Complaints,
}

impl Inspection<'_> {
    /// Notes everything about `node` that is not of this `shape`, and takes unknown keys out of it, so that what is left
    /// can be judged as well.
    pub(super) fn inspect(&mut self, node: &mut Node, shape: &Shape, path: &str) {
        match shape {
            Shape::List { each, least } => self.list(node, each, *least, path),
            Shape::Table(fields) => self.table(node, fields, None, path),
            Shape::Map { names, each } => self.map(node, *names, each, path),
            Shape::Tagged { tag, kinds } => self.tagged(node, tag, kinds, path),
            Shape::Words(words) => self.word(node, words, path),
            scalar => {
                if let Some(what) = mismatch(node, scalar) {
                    self.note(node.line, path, &what);
                }
            }
        }
    }

    /// Notes that something is wrong with the key at `path`.
    pub(super) fn note(&mut self, line: usize, path: &str, what: &str) {
        let place = Place::line(self.file, line);
        if self.intact || !self.complaints.concern(&place) {
            self.complaints.add(place, path, what);
        }
    }

    /// Notes that something is wrong with the key at `path`, unless something else is wrong with it already.
    pub(super) fn note_further(&mut self, line: usize, path: &str, what: &str) {
        if !self.complaints.name(self.file, path) {
            self.note(line, path, what);
        }
    }

    fn list(&mut self, node: &mut Node, each: &Shape, least: usize, path: &str) {
        let line = node.line;
        let Content::List(items) = &mut node.content else {
            return self.note(line, path, &format!("expected a list, found {}", node.noun()));
        };
        if items.len() < least {
            self.note(line, path, &format!("must have {least} or more entries"));
        }
        if items.len() > ENTRIES_MAX {
            self.note(line, path, &format!("has {} entries, {ENTRIES_MAX} are allowed", items.len()));
            items.truncate(ENTRIES_MAX);
        }
        for (index, item) in items.iter_mut().enumerate() {
            self.inspect(item, each, &format!("{path}[{index}]"));
        }
    }

    fn table(&mut self, node: &mut Node, fields: &[Field], tag: Option<&str>, path: &str) {
        let line = node.line;
        let Content::Table(entries) = &mut node.content else {
            return self.note(line, path, &format!("expected a table, found {}", node.noun()));
        };
        let field_of = |entry: &Entry| fields.iter().find(|field| field.name == entry.name);
        for entry in entries.iter_mut().filter(|entry| tag != Some(entry.name.as_str())) {
            let key = below(path, &entry.name);
            if let Some(field) = field_of(entry) {
                self.inspect(&mut entry.value, field.shape, &key);
            } else {
                let known = fields.iter().map(|field| field.name).chain(tag);
                self.note(entry.line, &key, &format!("unknown key; {}", nearest(&entry.name, known)));
            }
        }
        entries.retain(|entry| tag == Some(entry.name.as_str()) || field_of(entry).is_some());
        let missing =
            fields.iter().filter(|field| field.required && entries.iter().all(|entry| entry.name != field.name));
        for field in missing.filter(|_| self.intact).collect::<Vec<_>>() {
            self.note(line, &below(path, field.name), "is missing");
        }
    }

    fn map(&mut self, node: &mut Node, names: Rule, each: &Shape, path: &str) {
        let line = node.line;
        let Content::Table(entries) = &mut node.content else {
            return self.note(line, path, &format!("expected a table, found {}", node.noun()));
        };
        if entries.is_empty() {
            self.note(line, path, "is empty: name one or more");
        }
        if entries.len() > ENTRIES_MAX {
            self.note(line, path, &format!("has {} entries, {ENTRIES_MAX} are allowed", entries.len()));
            entries.truncate(ENTRIES_MAX);
        }
        for entry in entries {
            let key = below(path, &entry.name);
            if let Some(what) = names(&entry.name) {
                self.note(entry.line, &key, &what);
            }
            self.inspect(&mut entry.value, each, &key);
        }
    }

    fn tagged(&mut self, node: &mut Node, tag: &str, kinds: &[(&str, &[Field])], path: &str) {
        let names = || kinds.iter().map(|(name, _)| *name);
        let Some(entry) = node.entry(tag) else {
            let what = match node.content {
                Content::Table(_) => format!("needs a {tag}: {}", names().collect::<Vec<_>>().join(", ")),
                _ => format!("expected a table with a {tag}, found {}", node.noun()),
            };
            return self.note(node.line, path, &what);
        };
        let chosen = entry.value.text().and_then(|text| kinds.iter().find(|(name, _)| *name == text));
        match (chosen, entry.value.text()) {
            (Some((_, fields)), _) => self.table(node, fields, Some(tag), path),
            (None, Some(text)) => {
                let what = format!("unknown {tag} {text:?}; {}", nearest(text, names()));
                self.note(entry.value.line, &below(path, tag), &what);
            }
            (None, None) => {
                let what =
                    format!("expected one of {}, found {}", names().collect::<Vec<_>>().join(", "), entry.value.noun());
                self.note(entry.value.line, &below(path, tag), &what);
            }
        }
    }

    fn word(&mut self, node: &mut Node, words: &[(&str, Option<&Shape>)], path: &str) {
        let line = node.line;
        let shapes = words
            .iter()
            .map(|(word, holds)| if holds.is_some() { format!("{{ {word} = ... }}") } else { (*word).to_owned() });
        let expected = format!("expected {}", shapes.collect::<Vec<_>>().join(" or "));
        match &mut node.content {
            Content::Text(text) if words.iter().any(|(word, holds)| holds.is_none() && word == text) => {}
            Content::Table(entries) if entries.len() == 1 => {
                let entry = &mut entries[0];
                let key = below(path, &entry.name);
                match words.iter().find(|(word, _)| *word == entry.name) {
                    Some((_, Some(shape))) => self.inspect(&mut entry.value, shape, &key),
                    _ => self.note(entry.line, &key, &expected),
                }
            }
            _ => self.note(line, path, &format!("{expected}, found {}", node.noun())),
        }
    }
}

/// Returns what is wrong with a value that should be neither a list nor a table.
fn mismatch(node: &Node, shape: &Shape) -> Option<String> {
    let expected = match (shape, &node.content) {
        (Shape::Boolean, Content::Boolean(_)) => return None,
        (Shape::Boolean, _) => "true or false",
        (Shape::Whole { least, most }, Content::Integer(number)) => {
            return (!(least..=most).contains(&number)).then(|| format!("{number} is outside {least} to {most}"));
        }
        (Shape::Whole { .. }, _) => "a whole number",
        (Shape::Number { least, most }, Content::Integer(number)) => return outside(*number as f64, *least, *most),
        (Shape::Number { least, most }, Content::Float(number)) => return outside(*number, *least, *most),
        (Shape::Number { .. }, _) => "a number",
        (Shape::Text(rule), Content::Text(text)) => return rule(text),
        (Shape::Text(_), _) => "a text",
        // That true and false have no order is said where the list is judged.
        (Shape::Ranked(_), Content::Boolean(_) | Content::Integer(_)) => return None,
        (Shape::Ranked(_), Content::Float(number)) => return outside(*number, f64::MIN, f64::MAX),
        (Shape::Ranked(rule), Content::Text(text)) => return rule(text),
        (Shape::Ranked(_), _) => "a number or a text",
        (_, Content::Boolean(_) | Content::Integer(_) | Content::Text(_)) => return None,
        (_, Content::Float(number)) => return outside(*number, f64::MIN, f64::MAX),
        _ => "true or false, a number or a text",
    };
    Some(format!("expected {expected}, found {}", node.noun()))
}

fn outside(number: f64, least: f64, most: f64) -> Option<String> {
    match number {
        _ if !number.is_finite() => Some(format!("{number:?} is no finite number")),
        _ if number < least && most == f64::MAX => Some(format!("{number} is below {least}")),
        _ if number < least || number > most => Some(format!("{number} is outside {least} to {most}")),
        _ => None,
    }
}
