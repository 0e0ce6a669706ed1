//! The dialect of env files, and how one value is changed without touching a byte of anything else.
//!
//! The dialect is that of systemd's `EnvironmentFile=`: `KEY=value` lines; `#` and `;` begin a comment line, not a
//! comment behind a value; `'...'` and `"..."` quote; `\` escapes, and continues a line at its end. `export KEY=value`
//! does not name `KEY` there; who asks for `KEY` here is told so. Whether a `\` at the end of a *comment* continues it depends on
//! systemd's version; where that decides what our key holds, the file is refused.

use std::{collections::BTreeMap, ops::Range};

use crate::facts::Key;

mod scan;

use scan::{Assignment, COMMENTS, Comments, ESCAPED_IN_DOUBLE_QUOTES, Quote, is_line_end, line_of, scan};

/// Why an env file is not understood, or not edited.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Which of two assignments holds is nothing to guess.
    #[error("line {line} assigns {key} a second time; remove one of them")]
    Duplicate {
        /// The line of the second assignment, from 1.
        line: u32,
        /// The key.
        key: Key,
    },
    /// The assignment is longer than its line, or its line belongs to what stands above.
    #[error("line {line} names {key} within something that goes on over several lines; put it on a line of its own")]
    Continued {
        /// The line that names the key, from 1.
        line: u32,
        /// The key.
        key: Key,
    },
    /// The line is for a shell: whoever reads the dialect passes it over, and whoever wrote it means it.
    #[error("line {line} exports {key}, which only a shell understands; remove the word export")]
    Exported {
        /// The line, from 1.
        line: u32,
        /// The key.
        key: Key,
    },
    /// A quote is not closed, or the file ends with a backslash: a line that is added would be swallowed.
    #[error("what begins on line {line} does not end; close the quote or remove the last backslash")]
    Unended {
        /// The line where it begins, from 1.
        line: u32,
    },
    /// The value is not UTF-8.
    #[error("line {line}: the value of {key} is not UTF-8")]
    NotText {
        /// The line, from 1.
        line: u32,
        /// The key.
        key: Key,
    },
    /// The file holds a zero byte; readers of the dialect refuse it whole.
    #[error("line {line} holds a zero byte; this is no env file")]
    Zero {
        /// The line, from 1.
        line: u32,
    },
    /// The new value cannot stand on one line.
    #[error("the new value of {key} holds a line break or another control character")]
    ControlCharacter {
        /// The key.
        key: Key,
    },
}

/// Returns the value that `bytes` assign to `key`, or `None` when they assign none.
///
/// ```
/// # use kloros_actors::{env_file::value_of, facts::Key};
/// let key = Key::new("SLOTS")?;
/// assert_eq!(value_of(b"# batching\nSLOTS='4'\n", &key), Ok(Some("4".to_owned())));
/// assert!(value_of(b"export SLOTS=4\n", &key).is_err());
/// # Ok::<(), String>(())
/// ```
pub fn value_of(bytes: &[u8], key: &Key) -> Result<Option<String>, Problem> {
    let Some(found) = find(bytes, key)? else {
        return Ok(None);
    };
    let line = found.line;
    String::from_utf8(found.text).map(Some).map_err(|_| Problem::NotText { line, key: key.clone() })
}

/// Returns all variables that `bytes` assign, as a process that is started with the file gets them.
///
/// The last assignment of a key holds; what does not name a variable is passed over, as systemd does.
pub fn variables(bytes: &[u8]) -> Result<BTreeMap<Key, String>, Problem> {
    let mut variables = BTreeMap::new();
    for Assignment { line, key, text, .. } in scan(bytes, Comments::End).assignments {
        let Some(key) = str::from_utf8(&bytes[key]).ok().and_then(|key| Key::new(key).ok()) else {
            continue;
        };
        match String::from_utf8(text) {
            Ok(text) if text.contains('\0') => return Err(Problem::Zero { line }),
            Ok(text) => drop(variables.insert(key, text)),
            Err(_) => return Err(Problem::NotText { line, key }),
        }
    }
    Ok(variables)
}

/// Returns every value that `bytes` assign to something that `is_harmless` does not say is harmless: what nobody may be
/// shown. It errs on the side of more: also what names no variable counts, and an assignment that a later one outdoes.
pub fn values_besides(bytes: &[u8], is_harmless: impl Fn(&Key) -> bool) -> Vec<String> {
    let key_of = |key: Range<usize>| Key::new(str::from_utf8(&bytes[key]).ok()?).ok();
    let all = COMMENTS.into_iter().flat_map(|comments| scan(bytes, comments).assignments);
    let shown = all.filter(|assignment| !key_of(assignment.key.clone()).is_some_and(|key| is_harmless(&key)));
    // A program that reads the file itself may take the value with its quotes and whatever stands in them.
    let spelled = shown.flat_map(|assignment| [assignment.text, bytes[assignment.value].to_vec()]);
    spelled.map(|value| String::from_utf8_lossy(&value).into_owned()).collect()
}

/// Returns `bytes` with each key of `changes` set to its value, or its line removed where there is none.
///
/// Everything else stays as it is, byte for byte: comments, order, line ends, other quotes, a missing last line end. A
/// value keeps the quotes it stands in; a new key gets a line at the end; removing that line gives the old bytes again.
pub fn edit(bytes: &[u8], changes: &[(Key, Option<String>)]) -> Result<Vec<u8>, Problem> {
    let mut edited = bytes.to_vec();
    for (key, value) in changes {
        let found = find(&edited, key)?;
        match (found, value) {
            (Some(found), Some(value)) => {
                let value = spelled(key, value, found.quote)?;
                edited.splice(found.value, value);
            }
            (Some(found), None) => drop(edited.drain(line_around(&edited, found.value.start))),
            (None, Some(value)) => append(&mut edited, key, value)?,
            (None, None) => {}
        }
    }
    Ok(edited)
}

/// Returns `bytes` with each assignment of `key` that holds `held` set to `value`, or its line removed where there is none; other
/// assignments of it stay. For a key that somebody assigned a second time, which [`edit`] refuses.
pub fn edit_each(bytes: &[u8], key: &Key, held: &str, value: Option<&str>) -> Result<Vec<u8>, Problem> {
    let mut edited = bytes.to_vec();
    if value == Some(held) {
        return Ok(edited);
    }
    let ours = |each: &Assignment, bytes: &[u8]| {
        bytes[each.key.clone()] == *key.as_str().as_bytes() && each.text == held.as_bytes() && !each.continued
    };
    // Each turn leaves one less of them.
    while let Some(found) = scan(&edited, Comments::End).assignments.into_iter().find(|each| ours(each, &edited)) {
        match value {
            Some(value) => drop(edited.splice(found.value, spelled(key, value, found.quote)?)),
            None => drop(edited.drain(line_around(&edited, found.value.start))),
        }
    }
    Ok(edited)
}

fn append(bytes: &mut Vec<u8>, key: &Key, value: &str) -> Result<(), Problem> {
    for comments in COMMENTS {
        if let Some(line) = scan(bytes, comments).unended {
            return Err(Problem::Unended { line });
        }
    }
    let last_end = bytes.iter().rposition(|byte| *byte == b'\n');
    let crlf = last_end.is_some_and(|at| at > 0 && bytes[at - 1] == b'\r');
    let end: &[u8] = if crlf { b"\r\n" } else { b"\n" };
    let line = [key.as_str().as_bytes(), b"=", &spelled(key, value, None)?].concat();
    // A file without a last line end stays one, so the line end goes before the new line instead of behind it.
    if bytes.last().is_none_or(|last| is_line_end(*last)) {
        bytes.extend([&line, end].concat());
    } else {
        bytes.extend([end, &line].concat());
    }
    Ok(())
}

/// Returns the line around `at` with its line end, or with the line end before it when it is the last and has none.
fn line_around(bytes: &[u8], at: usize) -> Range<usize> {
    let start = bytes[..at].iter().rposition(|byte| is_line_end(*byte)).map_or(0, |before| before + 1);
    let end = bytes[at..].iter().position(|byte| is_line_end(*byte)).map(|offset| at + offset);
    match end {
        Some(end) if bytes[end..].starts_with(b"\r\n") => start..end + 2,
        Some(end) => start..end + 1,
        None if bytes[..start].ends_with(b"\r\n") => start - 2..bytes.len(),
        None => start.saturating_sub(1)..bytes.len(),
    }
}

/// Returns `value` as it is written, in the quotes it stood in if it can, else in quotes only if it must.
fn spelled(key: &Key, value: &str, quote: Option<Quote>) -> Result<Vec<u8>, Problem> {
    if value.contains(char::is_control) {
        return Err(Problem::ControlCharacter { key: key.clone() });
    }
    // Narrower than the dialect asks, so that a shell or another reader of the file sees the same value.
    let plain = |each: u8| each.is_ascii_alphanumeric() || b"_-./:,@%+=".contains(&each);
    Ok(match quote {
        None if value.bytes().all(plain) => value.as_bytes().to_vec(),
        Some(Quote::Single) if !value.contains('\'') => [b"'", value.as_bytes(), b"'"].concat(),
        _ => {
            let escaped = value.bytes().flat_map(|each| {
                let escape = ESCAPED_IN_DOUBLE_QUOTES.contains(&each).then_some(b'\\');
                escape.into_iter().chain([each])
            });
            [b'"'].into_iter().chain(escaped).chain([b'"']).collect()
        }
    })
}

fn find(bytes: &[u8], key: &Key) -> Result<Option<Assignment>, Problem> {
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(Problem::Zero { line: line_of(bytes, at) });
    }
    let [found, also] = COMMENTS.map(|comments| {
        let mut assignments = scan(bytes, comments).assignments;
        assignments.retain(|each| &bytes[each.key.clone()] == key.as_str().as_bytes());
        assignments
    });
    let exports = |at: &usize| {
        let rest = without_blanks(&bytes[*at..]).strip_prefix(b"export");
        rest.is_some_and(|rest| rest.starts_with(b" ") || rest.starts_with(b"\t")).then(|| rest.unwrap_or_default())
    };
    if let Some(at) = line_starts(bytes).find(|at| exports(at).is_some_and(|rest| looks_like(rest, key))) {
        return Err(Problem::Exported { line: line_of(bytes, at), key: key.clone() });
    }
    let continued = |line| Problem::Continued { line, key: key.clone() };
    // What only one version of the dialect sees, or what looks like an assignment and is none, is not guessed about.
    for at in line_starts(bytes).filter(|at| looks_like(&bytes[*at..], key)) {
        let seen = |assignments: &[Assignment]| {
            assignments
                .iter()
                .any(|each| at <= each.key.start && !bytes[at..each.key.start].iter().any(|b| is_line_end(*b)))
        };
        if !seen(&found) || !seen(&also) {
            return Err(continued(line_of(bytes, at)));
        }
    }
    if let [_, second, ..] = found.as_slice() {
        return Err(Problem::Duplicate { line: second.line, key: key.clone() });
    }
    match found.into_iter().next() {
        Some(first) if first.continued || also.first() != Some(&first) => Err(continued(first.line)),
        other => Ok(other),
    }
}

/// Returns whether the line that `rest` begins with would assign `key` if it stood alone.
fn looks_like(rest: &[u8], key: &Key) -> bool {
    let rest = without_blanks(rest).strip_prefix(key.as_str().as_bytes());
    rest.is_some_and(|rest| without_blanks(rest).starts_with(b"="))
}

fn without_blanks(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()..]
}

fn line_starts(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    std::iter::once(0).chain((1..bytes.len()).filter(|at| is_line_end(bytes[at - 1])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    #[test]
    fn every_value_that_is_not_known_to_be_harmless_is_one_that_nobody_may_be_shown() {
        let file = b"# a\nK=8\nTOKEN='a b'\nTOKEN=c\nexport ALSO=\"d\"\n9=e\nLONG=f\\\ng\nX=\xff\n";
        let found = values_besides(file, |known| *known == key("K"));
        for value in ["a b", "'a b'", "c", "d", "e", "fg", "\u{fffd}"] {
            assert!(found.iter().any(|each| each == value), "{value} is missing in {found:?}");
        }
        assert!(!found.iter().any(|each| each == "8"), "{found:?}");
    }

    #[test]
    fn of_several_assignments_each_that_holds_what_is_asked_for_is_changed_and_no_other() {
        let file = b"K=12\n# K=12\nL=12\nK=7\r\nK='12'\nK=12";
        let set = edit_each(file, &key("K"), "12", Some("2")).unwrap();
        assert_eq!(String::from_utf8(set).unwrap(), "K=2\n# K=12\nL=12\nK=7\r\nK='2'\nK=2");
        let removed = edit_each(file, &key("K"), "12", None).unwrap();
        assert_eq!(String::from_utf8(removed).unwrap(), "# K=12\nL=12\nK=7");
        assert_eq!(edit_each(file, &key("K"), "12", Some("12")).unwrap(), file);
        assert_eq!(edit_each(file, &key("M"), "12", None).unwrap(), file);
    }

    #[track_caller]
    fn reads(file: &str, expected: Option<&str>) {
        assert_eq!(value_of(file.as_bytes(), &key("K")).unwrap().as_deref(), expected, "{file:?}");
    }

    #[test]
    fn values_mean_what_systemd_reads() {
        reads("", None);
        reads("K=1", Some("1"));
        reads("K=1\n", Some("1"));
        reads("K=1\r\nL=2\r\n", Some("1"));
        reads("  K = 1  \n", Some("1"));
        reads("K=\n", Some(""));
        reads("K=   \nL=1", Some(""));
        reads("K='a b'\n", Some("a b"));
        reads("K=\"a \\\"b\\\" \\$c \\d\"\n", Some("a \"b\" $c \\d"));
        reads("K='a\\b'\n", Some("a\\b"));
        reads("K=a\\ \n", Some("a "));
        reads("K=\"a\" 'b' c\n", Some("abc"));
        reads("K=a \"b\"\n", Some("a \"b\""));
        reads("K=1 # not a comment\n", Some("1 # not a comment"));
        reads("#K=1\n;K=2\n", None);
        reads("K\nL=1\n", None);
        reads("KK=1\nK_=2\nk=3\n", None);
        reads("# a comment \\\nL=1\nK=2\n", Some("2"));
        reads("L=\"1\n2\"\nK=2\n", Some("2"));
    }

    #[test]
    fn all_variables_are_those_that_a_process_gets() {
        let file = b"# a\nA=1\nexport B=2\nC='x y'\nA=3\n9=4\n\xff=5\n";
        let expected = [("A", "3"), ("C", "x y")].map(|(name, value)| (key(name), value.to_owned()));
        assert_eq!(variables(file), Ok(BTreeMap::from(expected)));
        assert_eq!(variables(b"A=1\nB=\xff\n"), Err(Problem::NotText { line: 2, key: key("B") }));
        assert_eq!(variables(b"A=1\nB=\0\n"), Err(Problem::Zero { line: 2 }));
    }

    #[track_caller]
    fn refuses(file: &[u8], expected: Problem) {
        assert_eq!(value_of(file, &key("K")), Err(expected.clone()));
        assert_eq!(edit(file, &[(key("K"), Some("2".to_owned()))]), Err(expected.clone()));
        assert_eq!(edit(file, &[(key("K"), None)]), Err(expected));
    }

    #[test]
    fn a_line_that_only_a_shell_understands_is_told_rather_than_passed_over() {
        for (file, line) in [("export K=1\n", 1), ("  export\tK = 1", 1), ("K=1\nexport K=2\n", 2)] {
            refuses(file.as_bytes(), Problem::Exported { line, key: key("K") });
        }
        reads("exported K=1\nexportK=1\nexport L=1\nK=2\n", Some("2"));
    }

    #[test]
    fn a_key_that_is_assigned_twice_is_refused_and_another_one_is_not_looked_at() {
        refuses(b"K=1\nL=1\nL=2\nK=1\n", Problem::Duplicate { line: 4, key: key("K") });
        reads("L=1\nL=2\nK=1\n", Some("1"));
    }

    #[test]
    fn a_key_in_or_behind_a_continued_line_is_refused_with_its_line() {
        for (file, line) in [
            ("K=1\\\n2\n", 1),
            ("A=1\nK='1\n2'\n", 2),
            ("K=\"1\\\n2\"\n", 1),
            ("K=1\\", 1),
            ("K='1", 1),
            ("A=1 \\\nK=2\n", 2),
            ("# comment \\\nK=2\n", 2),
            ("A='\nK=2\n'\n", 2),
            ("A='\nK=2\n", 2),
            ("K=1\nA='\nK=2\n'\n", 3),
            // Each version of the dialect ends the quote elsewhere.
            ("# \\\nA='\nK=1\n#'\n", 3),
        ] {
            refuses(file.as_bytes(), Problem::Continued { line, key: key("K") });
        }
    }

    #[test]
    fn a_zero_byte_and_a_value_that_is_no_text_are_refused() {
        refuses(b"A=1\nB=\0\n", Problem::Zero { line: 2 });
        assert_eq!(value_of(b"K=\xff\n", &key("K")), Err(Problem::NotText { line: 1, key: key("K") }));
        assert_eq!(value_of(b"L=\xff\nK=1\n", &key("K")), Ok(Some("1".to_owned())));
    }

    #[test]
    fn nothing_is_added_behind_what_would_swallow_it() {
        for file in ["A=1\nB='", "A=1\nB=2\\", "A=1\nB=2\\\n", "A=1\n# \\", "A=1\n# \\\n"] {
            let edited = edit(file.as_bytes(), &[(key("K"), Some("1".to_owned()))]);
            assert_eq!(edited, Err(Problem::Unended { line: 2 }), "{file:?}");
        }
    }

    #[test]
    fn a_value_that_breaks_the_line_is_refused() {
        for value in ["1\nLD_PRELOAD=/tmp/x.so", "1\r2", "1\0", "\u{1b}[2J", "\u{85}"] {
            let edited = edit(b"K=1\n", &[(key("K"), Some(value.to_owned()))]);
            assert_eq!(edited, Err(Problem::ControlCharacter { key: key("K") }), "{value:?}");
        }
    }

    #[track_caller]
    fn becomes(file: &str, value: Option<&str>, expected: &str) {
        let edited = edit(file.as_bytes(), &[(key("K"), value.map(str::to_owned))]).unwrap();
        assert_eq!(String::from_utf8(edited).unwrap(), expected);
    }

    #[test]
    fn only_the_value_changes() {
        becomes("# a\n\n K = 1 \t\nL=2", Some("3"), "# a\n\n K = 3 \t\nL=2");
        becomes("K='1'\n", Some("3"), "K='3'\n");
        becomes("K=\"1\"\r\n", Some("3"), "K=\"3\"\r\n");
        becomes("K='1'\n", Some("it's"), "K=\"it's\"\n");
        becomes("K=\n", Some("3"), "K=3\n");
        becomes("K=  \n", Some("3"), "K=3  \n");
        becomes("K=1\n", Some(""), "K=\n");
        becomes("K=1\n", Some("a b$"), "K=\"a b\\$\"\n");
    }

    #[test]
    fn a_new_key_gets_a_line_at_the_end_in_the_manner_of_the_file() {
        becomes("", Some("3"), "K=3\n");
        becomes("L=1\n", Some("3"), "L=1\nK=3\n");
        becomes("L=1", Some("3"), "L=1\nK=3");
        becomes("L=1\r\n", Some("3"), "L=1\r\nK=3\r\n");
        becomes("L=1\r\nM=2", Some("3"), "L=1\r\nM=2\r\nK=3");
    }

    #[test]
    fn a_removed_key_takes_its_line_with_it() {
        becomes("A=1\nK=1\nB=2\n", None, "A=1\nB=2\n");
        becomes("A=1\r\n  K='1' \r\nB=2", None, "A=1\r\nB=2");
        becomes("A=1\nK=1", None, "A=1");
        becomes("K=1\n", None, "");
        becomes("A=1\n", None, "A=1\n");
    }

    /// Files made of pieces that matter to the dialect, in any order.
    fn files() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"K=".to_vec()),
            Just(b"L=1".to_vec()),
            Just(b"K".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"# ".to_vec()),
            Just(b"\\".to_vec()),
            Just(b"'".to_vec()),
            Just(b"\"".to_vec()),
            Just(b" ".to_vec()),
            Just(b"\xff".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"export ".to_vec()),
            "[ -~]{0,6}".prop_map(String::into_bytes),
        ];
        prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
    }

    fn values() -> impl Strategy<Value = String> {
        prop_oneof!["[0-9]{1,4}", "[ -~]{0,8}", "[a-zäß€ '\"\\\\$`#]{0,8}"]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn what_was_written_is_read_back_and_nothing_else_changes(file in files(), value in values()) {
            let (k, l) = (key("K"), key("L"));
            if let Ok(edited) = edit(&file, &[(k.clone(), Some(value.clone()))]) {
                prop_assert_eq!(value_of(&edited, &k).unwrap(), Some(value));
                prop_assert_eq!(value_of(&edited, &l), value_of(&file, &l));
                if let Some(found) = find(&file, &k).unwrap() {
                    prop_assert!(edited.starts_with(&file[..found.value.start]));
                    prop_assert!(edited.ends_with(&file[found.value.end..]));
                } else {
                    prop_assert!(edited.starts_with(&file));
                }
            }
        }

        #[test]
        fn removing_what_was_added_gives_the_old_bytes(file in files(), value in values()) {
            let k = key("K");
            if value_of(&file, &k) == Ok(None)
                && let Ok(edited) = edit(&file, &[(k.clone(), Some(value))])
            {
                prop_assert_eq!(edit(&edited, &[(k, None)]).unwrap(), file);
            }
        }

        #[test]
        fn putting_an_old_number_back_gives_the_old_bytes(file in files(), old in "[0-9]{1,4}", new in "[0-9]{1,4}") {
            let k = key("K");
            if let Ok(before) = edit(&file, &[(k.clone(), Some(old.clone()))]) {
                let after = edit(&before, &[(k.clone(), Some(new))]).unwrap();
                prop_assert_eq!(edit(&after, &[(k, Some(old))]).unwrap(), before);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(file in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = value_of(&file, &key("K"));
            let _ = variables(&file);
            let _ = edit(&file, &[(key("K"), Some("1".to_owned()))]);
        }
    }
}
