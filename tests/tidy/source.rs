//! One Rust file as the rules of the house see it: its code without comments and texts, and the paths that it names.

use std::{fmt, fs, path::Path};

/// One file, read.
pub(crate) struct Source {
    /// Its path relative to the repository, with forward slashes.
    pub(crate) path: String,
    /// The text as it stands.
    pub(crate) raw: String,
    /// The text with each character of comments and of text literals as a blank; lines stay where they are.
    pub(crate) code: String,
    /// The text literals, each with the byte at which it stands.
    pub(crate) texts: Vec<(usize, String)>,
}

/// A path that the code names, as `std::fs::File`, and the line that does.
pub(crate) struct Named {
    pub(crate) line: usize,
    pub(crate) path: String,
}

/// A function, with its first line and how many it has.
pub(crate) struct Function {
    pub(crate) line: usize,
    pub(crate) name: String,
    pub(crate) lines: usize,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.path)
    }
}

impl Source {
    pub(crate) fn read(root: &Path, path: &str) -> Self {
        let raw = fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self::of(path, &raw)
    }

    pub(crate) fn of(path: &str, raw: &str) -> Self {
        let (code, texts) = masked(raw);
        Self { path: path.to_owned(), raw: raw.to_owned(), code, texts }
    }

    /// Whether the whole file is compiled for tests alone.
    pub(crate) fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        // `testing.rs` holds the doubles of the seams that tests of rooms share.
        matches!(name, "tests.rs" | "testing.rs") || self.path.split('/').any(|folder| folder == "tests")
    }

    /// The code up to the tests that end the file; nothing if all of it is tests.
    pub(crate) fn production(&self) -> &str {
        if self.is_test() {
            return "";
        }
        let mut start = 0;
        while let Some(found) = self.code[start..].find("#[cfg(test)]") {
            let at = start + found;
            let rest = self.code[at + "#[cfg(test)]".len()..].trim_start();
            if rest.starts_with("mod ") && rest.find('{') < rest.find(';').or(Some(usize::MAX)) && rest.contains('{') {
                return &self.code[..at];
            }
            start = at + 1;
        }
        &self.code
    }

    pub(crate) fn line_at(&self, byte: usize) -> usize {
        self.raw[..byte].bytes().filter(|each| *each == b'\n').count() + 1
    }

    /// Every path of two or more parts that `code`, a part of this file from its start, names; what a `use` imports
    /// in braces is spelled out.
    pub(crate) fn paths(&self, code: &str) -> Vec<Named> {
        let mut named = Vec::new();
        let mut at = 0;
        while at < code.len() {
            let rest = &code[at..];
            let is_start = at == 0 || !is_word(code.as_bytes()[at - 1]);
            if is_start && rest.starts_with("use ") {
                let end = rest.find(';').unwrap_or(rest.len());
                let tree: String = rest["use ".len()..end].split_whitespace().collect::<Vec<_>>().join(" ");
                let line = self.line_at(at);
                named.extend(spelled_out(&tree).into_iter().map(|path| Named { line, path }));
                at += end;
            } else if is_start && rest.bytes().next().is_some_and(is_word) {
                let end = rest.bytes().position(|each| !is_word(each) && each != b':').unwrap_or(rest.len());
                let path = rest[..end].trim_end_matches(':');
                if path.contains("::") {
                    named.push(Named { line: self.line_at(at), path: path.to_owned() });
                }
                at += end.max(1);
            } else {
                at += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
        named
    }

    /// Every function of `code`, a part of this file from its start.
    pub(crate) fn functions(&self, code: &str) -> Vec<Function> {
        let starts = code.match_indices("fn ").filter(|(at, _)| *at == 0 || !is_word(code.as_bytes()[at - 1]));
        starts
            .filter_map(|(at, _)| {
                let name: String =
                    code[at + 3..].chars().take_while(|each| each.is_alphanumeric() || *each == '_').collect();
                let end = end_of_body(code, at)?;
                let (line, last) = (self.line_at(at), self.line_at(end));
                (!name.is_empty()).then_some(Function { line, name, lines: last - line + 1 })
            })
            .collect()
    }

    /// Every attribute of the file that begins with `name(`, with its whole text.
    pub(crate) fn attributes(&self, name: &str) -> Vec<Named> {
        self.code
            .match_indices(&format!("{name}("))
            .filter(|(at, _)| self.code[..*at].ends_with(['[', ' ', ',', '(']) && is_in_attribute(&self.code[..*at]))
            .map(|(at, _)| {
                let end = self.code[at..].find(']').map_or(self.code.len(), |length| at + length);
                Named { line: self.line_at(at), path: self.code[at..end].to_owned() }
            })
            .collect()
    }
}

fn is_in_attribute(before: &str) -> bool {
    let opened = before.rfind("#[").or_else(|| before.rfind("#!["));
    opened.max(before.rfind("#![")).is_some_and(|at| !before[at..].contains(']'))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Returns where the body ends of the function at `start`; `None` if it has none.
fn end_of_body(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut inside = false;
    for (at, each) in code[start..].bytes().enumerate() {
        match each {
            b';' if depth == 0 => return None,
            b'(' | b'[' => depth += 1,
            b'{' => {
                inside |= depth == 0;
                depth += 1;
            }
            b')' | b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 && inside && each == b'}' {
                    return Some(start + at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Returns the paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn spelled_out(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let prefix = &tree[..open];
    let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for each in inner.chars() {
        match each {
            ',' if depth == 0 => parts.push(String::new()),
            _ => {
                depth += i32::from(each == '{') - i32::from(each == '}');
                parts.last_mut().expect("never empty").push(each);
            }
        }
    }
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| spelled_out(&part)).map(|path| format!("{prefix}{path}")).collect()
}

/// Returns `raw` with comments and texts blanked, and the texts.
fn masked(raw: &str) -> (String, Vec<(usize, String)>) {
    let mut code = String::with_capacity(raw.len());
    let mut texts = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let rest = &raw[at..];
        let is_new_word = code.bytes().last().is_none_or(|each| !is_word(each));
        let (length, text) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (length_of_comment(rest), None)
        } else if let Some((hashes, prefix)) = raw_text(rest).filter(|_| is_new_word) {
            let closing = format!("\"{}", "#".repeat(hashes));
            let end = rest[prefix..].find(&closing).map_or(rest.len(), |end| prefix + end);
            ((end + closing.len()).min(rest.len()), Some(rest[prefix..end].to_owned()))
        } else if rest.starts_with('"') {
            let end = end_of_text(rest);
            (end, Some(rest[1..end - 1].to_owned()))
        } else if let Some(length) = length_of_character(rest) {
            (length, None)
        } else {
            let each = rest.chars().next().expect("not at the end");
            code.push(each);
            at += each.len_utf8();
            continue;
        };
        texts.extend(text.map(|text| (at, text)));
        // Blank byte by byte, so that places in the code are places in the file.
        code.extend(rest[..length].bytes().map(|each| if each == b'\n' { '\n' } else { ' ' }));
        at += length;
    }
    (code, texts)
}

fn length_of_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Returns the hashes and the length of what opens a raw text.
fn raw_text(rest: &str) -> Option<(usize, usize)> {
    let after = ["br", "cr", "r"].iter().find_map(|prefix| rest.strip_prefix(prefix))?;
    let hashes = after.bytes().take_while(|each| *each == b'#').count();
    after[hashes..].starts_with('"').then(|| (hashes, rest.len() - after.len() + hashes + 1))
}

fn end_of_text(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, each) in rest.bytes().enumerate().skip(1) {
        match each {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    panic!("a text does not end");
}

/// Returns the length of a character literal; `None` for a lifetime and for everything else.
fn length_of_character(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    if inner.starts_with('\\') {
        return inner[2..].find('\'').map(|end| end + 4);
    }
    let width = inner.chars().next()?.len_utf8();
    inner[width..].starts_with('\'').then_some(width + 2)
}

mod reading {
    use super::*;

    #[test]
    fn comments_and_texts_are_no_code() {
        let source = Source::of(
            "src/a.rs",
            "let a = \"b::c \\\" d\"; // e::f\n/* g /* h::i */ */ let j: &'k str = r#\"l\"m\"#; '\"';",
        );
        assert!(source.paths(&source.code).is_empty(), "{}", source.code);
        let texts: Vec<&str> = source.texts.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["b::c \\\" d", "l\"m"]);
        assert_eq!(source.code.len(), source.raw.len());
        assert!(source.code.contains("let j: &'k str ="));
    }

    #[test]
    fn imports_in_braces_are_spelled_out() {
        let source = Source::of("src/a.rs", "use a::{\n    b::{c, d as e},\n    f,\n};\nlet g = h::i::<j::K>();");
        let paths: Vec<String> = source.paths(&source.code).into_iter().map(|named| named.path).collect();
        assert_eq!(paths, ["a::b::c", "a::b::d", "a::f", "h::i", "j::K"]);
    }

    #[test]
    fn tests_at_the_end_are_no_production() {
        let source = Source::of(
            "src/a.rs",
            "#[cfg(test)]\nmod tests;\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n",
        );
        let names: Vec<String> = source.functions(source.production()).into_iter().map(|each| each.name).collect();
        assert_eq!(names, ["a"]);
        assert_eq!(Source::of("src/a/tests.rs", "fn a() {}").production(), "");
    }

    #[test]
    fn a_function_is_as_long_as_its_body() {
        let source = Source::of(
            "src/a.rs",
            "trait T { fn a(&self); }\nfn b(c: [u8; 2]) -> u8 {\n    if true { 1 } else { 2 }\n}\n",
        );
        let functions: Vec<_> =
            source.functions(&source.code).iter().map(|each| (each.name.clone(), each.line, each.lines)).collect();
        assert_eq!(functions, [("b".to_owned(), 2, 3)]);
    }
}
