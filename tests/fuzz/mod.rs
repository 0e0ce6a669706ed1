//! Bytes that nobody foresaw, for everything that reads what comes from outside.
//!
//! Each reader has a test called `fuzzed_...` beside its code, which hands its seeds to [`hold`]: texts that are fine and texts that
//! are hostile, cut, spliced, repeated and sprinkled with what matters to parsers, for so long as `KLOROS_FUZZ_S` says, and
//! otherwise a fixed number of times. What fails is shrunk by proptest and printed; it becomes a named test. Why not
//! libFuzzer: `ops/decisions/0042-readers-are-fuzzed-from-seeds.md`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    test_runner::{Config, TestError, TestRunner},
};

#[path = "../hostile/corpus.rs"]
pub(crate) mod corpus;

/// How many texts a target is given where no time is named.
const TEXTS: u32 = 5_000;

/// How many between two looks at the clock.
const TEXTS_A_TURN: u32 = 200;

/// The longest text, in bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// What means something to one reader or another.
const TOKENS: [&[u8]; 40] = [
    b"\0",
    b"\n",
    b"\r\n",
    b"\\",
    b"\"",
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"=",
    b"#",
    b";",
    b"-",
    b".",
    b"e",
    b"null",
    b"true",
    b"NaN",
    b"1e999",
    b"-0",
    b"0.1",
    b"99999999999999999999",
    b"9007199254740993",
    b"4294967296",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xc3\x28",
    b"\xef\xbb\xbf",
    b"export ",
    b"&a",
    b"*a",
    b"<<",
    b"!!str",
    b"---",
    b"[[a]]",
    b"\x1b[2J",
];

/// One thing that is done to a text.
#[derive(Clone, Debug)]
enum Change {
    Cut(Index, Index),
    Double(Index, Index),
    Flip(Index, u8),
    Put(Index, usize),
    Splice(Index, Index, Index),
    Nest(Index, u16),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<(Index, Index)>().prop_map(|(from, to)| Change::Cut(from, to)),
        any::<(Index, Index)>().prop_map(|(from, to)| Change::Double(from, to)),
        any::<(Index, u8)>().prop_map(|(at, bits)| Change::Flip(at, bits)),
        (any::<Index>(), 0..TOKENS.len()).prop_map(|(at, token)| Change::Put(at, token)),
        any::<(Index, Index, Index)>().prop_map(|(at, seed, from)| Change::Splice(at, seed, from)),
        (any::<Index>(), 1_u16..2_000).prop_map(|(at, times)| Change::Nest(at, times)),
    ]
}

impl Change {
    fn made(&self, mut text: Vec<u8>, seeds: &[Vec<u8>]) -> Vec<u8> {
        let at = |index: &Index, length: usize| index.index(length + 1);
        let length = text.len();
        match self {
            Change::Cut(from, to) | Change::Double(from, to) => {
                let (from, to) = (at(from, length), at(to, length));
                let part = from.min(to)..from.max(to);
                if matches!(self, Change::Cut(..)) {
                    text.drain(part);
                } else {
                    let again = text[part.clone()].to_vec();
                    text.splice(part.end..part.end, again);
                }
            }
            Change::Flip(index, bits) if length > 0 => text[index.index(length)] ^= *bits,
            Change::Flip(..) => {}
            Change::Put(index, token) => {
                let place = at(index, length);
                text.splice(place..place, TOKENS[*token].iter().copied());
            }
            Change::Splice(index, seed, from) => {
                let other = &seeds[seed.index(seeds.len())];
                text.truncate(at(index, length));
                text.extend_from_slice(&other[at(from, other.len())..]);
            }
            Change::Nest(index, times) => {
                let place = at(index, length);
                let opened = text.get(place).copied().unwrap_or(b'[');
                text.splice(place..place, std::iter::repeat_n(opened, usize::from(*times)));
            }
        }
        text.truncate(TEXT_BYTES_MAX);
        text
    }
}

/// Hands `reader` texts made of `seeds`; it panics where something does not hold.
#[track_caller]
pub(crate) fn hold(target: &str, seeds: &[Vec<u8>], reader: impl Fn(&[u8])) {
    assert!(!seeds.is_empty(), "{target} has no seeds");
    for seed in seeds {
        reader(seed);
    }
    let seconds = std::env::var("KLOROS_FUZZ_S").ok().and_then(|text| text.parse().ok());
    let (began, within) = (Instant::now(), seconds.map(Duration::from_secs_f64));
    let mut texts = 0;
    loop {
        let goes_on = within.map_or(texts < TEXTS, |within| began.elapsed() < within);
        if !goes_on {
            break;
        }
        let config = Config { cases: TEXTS_A_TURN, failure_persistence: None, ..Config::default() };
        let made = (any::<Index>(), vec(change(), 0..8)).prop_map(|(seed, changes)| {
            let text = seeds[seed.index(seeds.len())].clone();
            changes.iter().fold(text, |text, change| change.made(text, seeds))
        });
        let held = TestRunner::new(config).run(&made, |text| {
            let read = catch_unwind(AssertUnwindSafe(|| reader(&text)));
            read.map_err(|_| TestCaseError::fail("it panics"))
        });
        if let Err(TestError::Fail(why, text)) = held {
            panic!("{target}: {why}: b\"{}\"", text.escape_ascii());
        }
        texts += TEXTS_A_TURN;
    }
    println!("{target}: {texts} texts from {} seeds in {:.1} s", seeds.len(), began.elapsed().as_secs_f64());
}

/// Returns the texts of a corpus without their names.
pub(crate) fn texts(named: Vec<(String, String)>) -> Vec<Vec<u8>> {
    named.into_iter().map(|(_, text)| text.into_bytes()).collect()
}

mod targets {
    use std::collections::BTreeMap;

    use kloros_actors::{
        deployer::pending::{Pending, PendingProblem},
        env_file::{edit, value_of, values_besides, variables},
        facts::{Key, Settings},
    };

    use super::{
        corpus::{SECRET, env_files},
        hold, texts,
    };
    use crate::api::{AnswerBody, NameBody, TryBody};

    #[test]
    fn fuzzed_env_files_are_edited_at_one_value_or_left_alone() {
        let (key, other) = (Key::new("LAB_MAX_NUM_SEQS").unwrap(), Key::new("OTHER").unwrap());
        let mut seeds = texts(env_files());
        let quoted = b"# c\r\nLAB_MAX_NUM_SEQS='2'\r\nOTHER=\"a b\"\\\n c".to_vec();
        seeds.extend([b"A=1\nLAB_MAX_NUM_SEQS=2\n".to_vec(), quoted, b"OTHER=\xe9".to_vec(), Vec::new()]);
        hold("env files", &seeds, |bytes| {
            let told = |problem: String| assert!(!problem.contains(SECRET) && !problem.contains(char::is_control));
            let before = variables(bytes);
            values_besides(bytes, |_| false);
            match edit(bytes, &[]) {
                Ok(same) => assert_eq!(same, bytes, "what is not edited is the same"),
                Err(problem) => told(problem.to_string()),
            }
            match edit(bytes, &[(key.clone(), Some("8".to_owned()))]) {
                Ok(edited) => {
                    assert_eq!(value_of(&edited, &key).unwrap().as_deref(), Some("8"));
                    assert_eq!(value_of(&edited, &other), value_of(bytes, &other));
                    let without = |all: BTreeMap<Key, String>| -> BTreeMap<Key, String> {
                        all.into_iter().filter(|(each, _)| *each != key).collect()
                    };
                    // Where one is no text, it may be the one that was replaced.
                    if let Ok(before) = before {
                        assert_eq!(variables(&edited).map(without), Ok(without(before)), "no other value changes");
                    }
                }
                Err(problem) => told(problem.to_string()),
            }
        });
    }

    #[test]
    fn fuzzed_pending_files_are_whole_or_refused() {
        let content = include_str!("seeds/pending.json");
        let sealed = |checksum: &str| format!("{{\"checksum\": \"{checksum}\", \"pending\": {content}}}");
        let Err(PendingProblem::Damaged { found, .. }) = Pending::from_text(&sealed("")) else {
            panic!("a checksum that is none is no checksum");
        };
        let text = sealed(&found);
        let whole = Pending::from_text(&text).unwrap();
        hold("pending files", &[text.into_bytes(), b"{}".to_vec()], |bytes| {
            // As the file's reader does with what is no text.
            if let Ok(pending) = Pending::from_text(&String::from_utf8_lossy(bytes)) {
                assert_eq!(pending, whole, "the checksum holds for one content");
            }
        });
    }

    #[test]
    fn fuzzed_bodies_of_the_control_socket_are_read_or_refused() {
        let seeds = [
            r#"{"id": "p-1", "approved": true, "why": "because"}"#,
            r#"{"domain": "lab", "settings": {"LAB_MAX_NUM_SEQS": 8, "LAB_PRECISION": "f32", "X": 0.5, "Y": true}}"#,
            r#"{"id": "lab"}"#,
        ];
        hold("bodies of the control socket", &seeds.map(|seed| seed.as_bytes().to_vec()), |bytes| {
            drop(serde_json::from_slice::<AnswerBody>(bytes));
            drop(serde_json::from_slice::<NameBody>(bytes));
            if let Ok(body) = serde_json::from_slice::<TryBody>(bytes) {
                let again: Settings = serde_json::from_str(&serde_json::to_string(&body.settings).unwrap()).unwrap();
                assert_eq!(again, body.settings, "what is asked for is what is written down");
            }
        });
    }
}
