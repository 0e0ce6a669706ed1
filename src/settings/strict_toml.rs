//! TOML into a tree with lines. Every error of the file is noted, not only the first.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    complaints::{Complaints, Place},
    tree::{Content, Entry, Node},
};

/// Returns what `text` says as far as it can be read, and whether all of it could be.
pub(super) fn parse(file: &str, text: &str, complaints: &mut Complaints) -> (Node, bool) {
    let lines = Lines::of(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let intact = errors.is_empty();
    for error in errors {
        let span = error.span().unwrap_or_default();
        let key =
            if error.message().contains("duplicate key") { text.get(span.clone()).unwrap_or_default() } else { "" };
        complaints.add(Place::line(file, lines.number(span.start)), key.trim(), error.message());
    }
    (Node { line: 1, content: lines.table(table.get_ref()) }, intact)
}

/// Where the lines of a text begin.
struct Lines {
    ends: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        Self { ends: text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect() }
    }

    /// Returns the number of the line, from 1, that holds this byte.
    fn number(&self, at: usize) -> usize {
        self.ends.partition_point(|end| *end < at) + 1
    }

    fn table(&self, table: &DeTable<'_>) -> Content {
        let mut entries: Vec<Entry> = table
            .iter()
            .map(|(name, value)| Entry {
                name: name.get_ref().to_string(),
                line: self.number(name.span().start),
                value: self.node(value),
            })
            .collect();
        entries.sort_by_key(|entry| entry.line);
        Content::Table(entries)
    }

    // The depth is bounded by the parser, which gives up at 80 levels.
    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let content = match value.get_ref() {
            DeValue::String(text) => Content::Text(text.to_string()),
            DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
                Ok(number) => Content::Integer(number),
                Err(_) => Content::Huge(digits.to_string()),
            },
            DeValue::Float(digits) => Content::Float(digits.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Content::Boolean(*value),
            DeValue::Datetime(_) => Content::Date,
            DeValue::Array(items) => Content::List(items.iter().map(|item| self.node(item)).collect()),
            DeValue::Table(table) => self.table(table),
        };
        Node { line: self.number(value.span().start), content }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> (Node, Complaints) {
        let mut complaints = Complaints::default();
        let (node, intact) = parse("f.toml", text, &mut complaints);
        assert_eq!(intact, complaints.len() == 0);
        (node, complaints)
    }

    #[test]
    fn every_value_knows_its_type_and_its_line() {
        let (root, complaints) = parsed("a = 1\n[b]\nc = 2.5\nd = [\n  true,\n  \"x\",\n]\n\ne.f = 0x10\n");
        assert_eq!(complaints.to_string(), "");
        let at = |path: &[&str]| root.at(path).cloned().unwrap();
        assert_eq!(at(&["a"]), Node { line: 1, content: Content::Integer(1) });
        assert_eq!(at(&["b", "c"]), Node { line: 3, content: Content::Float(2.5) });
        assert_eq!(at(&["b", "e", "f"]), Node { line: 9, content: Content::Integer(16) });
        let Content::List(items) = at(&["b", "d"]).content else { panic!("no list") };
        assert_eq!(items[1], Node { line: 6, content: Content::Text("x".to_owned()) });
    }

    #[test]
    fn every_duplicate_key_is_refused_with_its_line() {
        let (_, complaints) = parsed("a = 1\nb = 2\na = 3\nb = 4\n");
        assert_eq!(complaints.to_string(), "f.toml:3: a: duplicate key\nf.toml:4: b: duplicate key");
    }

    #[test]
    fn a_section_that_is_opened_twice_is_refused() {
        let (_, complaints) = parsed("[a]\nb = 1\n[a]\nc = 1\n");
        assert_eq!(complaints.to_string(), "f.toml:3: a: duplicate key");
    }

    #[test]
    fn a_number_that_is_too_large_is_kept_as_such() {
        let (root, _) = parsed("a = 99999999999999999999\nb = nan\nc = -inf\n");
        assert_eq!(root.at(&["a"]).unwrap().noun(), "99999999999999999999, which is too large");
        assert_eq!(root.at(&["b"]).unwrap().noun(), "NaN");
        assert_eq!(root.at(&["c"]).unwrap().noun(), "-inf");
    }

    #[test]
    fn deep_nesting_is_refused_rather_than_followed() {
        for text in [format!("a = {}", "[".repeat(100_000)), format!("a{} = 1", ".a".repeat(1000))] {
            let (_, complaints) = parsed(&text);
            assert_ne!(complaints.len(), 0);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[ab=\\[\\]{}.,\"'#0-9\\n\\\\é-]{0,80}") {
            let _ = parsed(&text);
        }
    }
}
