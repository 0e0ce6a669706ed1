//! YAML into a tree with lines: the plain part of the language that means the same to everyone.
//!
//! Anchors, aliases and tags are refused, so no file can grow while it is read. `yes`, `on` and their like are texts: a
//! key that wants true or false says so instead of guessing.

use yaml_rust2::{
    Event,
    parser::{Parser, Tag},
    scanner::{Marker, ScanError, TScalarStyle},
};

use super::{
    complaints::{Complaints, Place},
    tree::{Content, Entry, Node, below},
};

/// How deep values may be nested.
const DEPTH_MAX: usize = 32;

/// How many keys a table may have.
const KEYS_MAX: usize = 1000;

/// Returns what `text` says; `None` if it cannot be read to its end.
pub(super) fn parse(file: &str, text: &str, complaints: &mut Complaints) -> Option<Node> {
    let mut builder = Builder { file, complaints, open: Vec::new(), root: None };
    // Events are drawn one by one rather than pushed by the parser, which would recurse as deep as the file is nested.
    let mut parser = Parser::new_from_str(text);
    loop {
        match parser.next_token() {
            Ok((Event::StreamEnd, _)) => break,
            Ok((event, marker)) => builder.take(event, marker).ok()?,
            Err(error) => {
                builder.refuse_syntax(&error);
                return None;
            }
        }
    }
    Some(builder.root.unwrap_or(Node { line: 1, content: Content::Nothing }))
}

/// Nothing more can be read; the reason is noted.
struct Stop;

struct Builder<'a> {
    file: &'a str,
    complaints: &'a mut Complaints,
    open: Vec<Open>,
    root: Option<Node>,
}

/// A list or table that is not closed yet.
enum Open {
    List { line: usize, items: Vec<Node> },
    Table { line: usize, entries: Vec<Entry>, name: Option<(String, usize)> },
}

impl Builder<'_> {
    fn take(&mut self, event: Event, marker: Marker) -> Result<(), Stop> {
        let line = marker.line();
        match event {
            Event::DocumentStart if self.root.is_some() => Err(self.refuse(line, "a second document is not read")),
            Event::Alias(_) => Err(self.refuse(line, "aliases are not followed: write the value out")),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_decoration(line, anchor, tag.as_ref())?;
                self.scalar(text, style, line)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_decoration(line, anchor, tag.as_ref())?;
                self.open(Open::List { line, items: Vec::new() }, line)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_decoration(line, anchor, tag.as_ref())?;
                self.open(Open::Table { line, entries: Vec::new(), name: None }, line)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let node = match self.open.pop() {
                    Some(Open::List { line, items }) => Node { line, content: Content::List(items) },
                    Some(Open::Table { line, entries, .. }) => Node { line, content: Content::Table(entries) },
                    None => return Err(self.refuse(line, "nothing is open that could end here")),
                };
                self.put(node);
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn open(&mut self, opened: Open, line: usize) -> Result<(), Stop> {
        if matches!(self.open.last(), Some(Open::Table { name: None, .. })) {
            return Err(self.refuse(line, "a key must be a text"));
        }
        if self.open.len() == DEPTH_MAX {
            return Err(self.refuse(line, &format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.open.push(opened);
        Ok(())
    }

    fn scalar(&mut self, text: String, style: TScalarStyle, line: usize) -> Result<(), Stop> {
        let path = self.path();
        let Some(Open::Table { entries, name: name @ None, .. }) = self.open.last_mut() else {
            let content = if style == TScalarStyle::Plain { resolve(text) } else { Content::Text(text) };
            self.put(Node { line, content });
            return Ok(());
        };
        if let Some(first) = entries.iter().find(|entry| entry.name == text) {
            let what = format!("is given a second time, first on line {}", first.line);
            self.complaints.add(Place::line(self.file, line), below(&path, &text), what);
        }
        let too_many = entries.len() == KEYS_MAX;
        *name = Some((text, line));
        if too_many { Err(self.refuse(line, &format!("more than {KEYS_MAX} keys in one table"))) } else { Ok(()) }
    }

    fn put(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Table { entries, name, .. }) => {
                if let Some((name, line)) = name.take()
                    && entries.iter().all(|entry| entry.name != name)
                {
                    entries.push(Entry { name, line, value: node });
                }
            }
        }
    }

    /// Returns the names that lead to the value that is open.
    fn path(&self) -> String {
        self.open.iter().fold(String::new(), |path, open| match open {
            Open::Table { name: Some((name, _)), .. } => below(&path, name),
            _ => path,
        })
    }

    fn refuse_decoration(&mut self, line: usize, anchor: usize, tag: Option<&Tag>) -> Result<(), Stop> {
        match (anchor, tag) {
            (0, None) => Ok(()),
            (_, None) => Err(self.refuse(line, "anchors are not used here: write the value out where it is needed")),
            (_, Some(_)) => Err(self.refuse(line, "tags are not used here: leave the type to the value")),
        }
    }

    fn refuse(&mut self, line: usize, what: &str) -> Stop {
        let path = self.path();
        self.complaints.add(Place::line(self.file, line), path, what);
        Stop
    }

    fn refuse_syntax(&mut self, error: &ScanError) {
        let _: Stop = self.refuse(error.marker().line(), error.info());
    }
}

/// Returns what an unquoted scalar means, by the core schema of YAML 1.2.
fn resolve(text: String) -> Content {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Content::Nothing,
        "true" | "True" | "TRUE" => return Content::Boolean(true),
        "false" | "False" | "FALSE" => return Content::Boolean(false),
        ".nan" | ".NaN" | ".NAN" => return Content::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Content::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Content::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_or_else(|_| Content::Huge(text), Content::Integer);
    }
    let looks_like_a_number = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && unsigned.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    match text.parse() {
        Ok(number) if looks_like_a_number => Content::Float(number),
        _ => Content::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Node, String> {
        let mut complaints = Complaints::default();
        let node = parse("f.yaml", text, &mut complaints);
        complaints.unless_any(node).map_err(|complaints| complaints.to_string())
    }

    #[track_caller]
    fn refused(text: &str, complaint: &str) {
        assert_eq!(parsed(text).unwrap_err(), complaint);
    }

    #[test]
    fn every_value_knows_its_type_and_its_line() {
        let root = parsed("a: 1\nb:\n  c: 2.5\n  d: [x, 'true',\n    true]\n").unwrap();
        assert_eq!(root.at(&["a"]), Some(&Node { line: 1, content: Content::Integer(1) }));
        assert_eq!(root.at(&["b", "c"]), Some(&Node { line: 3, content: Content::Float(2.5) }));
        let Content::List(items) = &root.at(&["b", "d"]).unwrap().content else { panic!("no list") };
        assert_eq!(items[1], Node { line: 4, content: Content::Text("true".to_owned()) });
        assert_eq!(items[2], Node { line: 5, content: Content::Boolean(true) });
        assert_eq!(root.line_of(&["b", "d"]), 4);
    }

    #[test]
    fn an_unquoted_scalar_means_what_the_core_schema_says_and_nothing_else() {
        let text = |text: &str| Content::Text(text.to_owned());
        for (written, meant) in [
            ("yes", text("yes")),
            ("off", text("off")),
            ("1_000", text("1_000")),
            ("0x10", text("0x10")),
            ("inf", text("inf")),
            ("nan", text("nan")),
            ("-", text("-")),
            ("1.2.3", text("1.2.3")),
            ("1e9", Content::Float(1e9)),
            ("-7", Content::Integer(-7)),
            ("9223372036854775808", Content::Huge("9223372036854775808".to_owned())),
            ("-.inf", Content::Float(f64::NEG_INFINITY)),
            ("~", Content::Nothing),
        ] {
            assert_eq!(resolve(written.to_owned()), meant, "{written}");
        }
    }

    #[test]
    fn every_duplicate_key_is_refused_with_its_line_and_its_path() {
        refused(
            "a:\n  b: 1\n  b: 2\na: 3\n",
            "f.yaml:3: a.b: is given a second time, first on line 2\nf.yaml:4: a: is given a second time, first on line 1",
        );
    }

    #[test]
    fn an_anchor_bomb_is_refused_at_its_first_anchor() {
        let level = |level: u32| format!("a{}: &a{} [*a{level}, *a{level}, *a{level}]\n", level + 1, level + 1);
        let bomb = "a0: &a0 [x, x]\n".to_owned() + &(0..30).map(level).collect::<String>();
        refused(&bomb, "f.yaml:1: a0: anchors are not used here: write the value out where it is needed");
    }

    #[test]
    fn deep_nesting_is_refused_rather_than_followed() {
        for (text, deep) in [("[".repeat(400_000), "recursion limit"), ("- ".repeat(400_000), "nested deeper")] {
            let complaint = parsed(&text).unwrap_err();
            assert!(complaint.contains(deep), "{complaint}");
        }
        assert!(parsed(&format!("{}{}", "[".repeat(32), "]".repeat(32))).is_ok());
    }

    #[test]
    fn tags_further_documents_and_keys_that_are_no_text_are_refused() {
        refused("a: !!int 1\n", "f.yaml:1: a: tags are not used here: leave the type to the value");
        refused("a: 1\n---\nb: 2\n", "f.yaml:2: a second document is not read");
        refused("[a]: 1\n", "f.yaml:1: a key must be a text");
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused_with_its_line() {
        assert!(parsed("a: 1\nb: [1, 2\n").unwrap_err().starts_with("f.yaml:"));
        assert!(parsed("a: \"text\n").unwrap_err().starts_with("f.yaml:"));
    }

    #[test]
    fn an_empty_file_says_nothing() {
        for text in ["", "\n", "# only a comment\n", "---\n"] {
            assert_eq!(parsed(text).unwrap().content, Content::Nothing, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[ab:\\-\\[\\]{},&*!|>?%@\"'# 0-9.\\n\\t\\\\é~]{0,60}") {
            let _ = parsed(&text);
        }
    }
}
