//! Requests that were asked once, to be asked again: a file of JSON lines, each the body of a chat request.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    sync::Arc,
};

use kloros_actors::facts::TokenRange;
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Map, Value};

use super::load::BYTES_PER_TOKEN;

/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Longest line, in bytes.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Most requests that are kept of one file.
const REQUESTS_MAX: usize = 100_000;

/// What of a body is asked again, beside its messages: what decides how an answer is made. Who asked, and which model, is left out.
const KEPT: [&str; 14] = [
    "chat_template_kwargs",
    "frequency_penalty",
    "min_p",
    "presence_penalty",
    "repetition_penalty",
    "response_format",
    "seed",
    "stop",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
    "logit_bias",
];

/// How long the answer was: what a log may add to a body.
const COMPLETION_TOKENS: &str = "completion_tokens";

/// One request that was asked once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recorded {
    /// Its messages, and what else decides how it is answered.
    pub(super) body: Map<String, Value>,
    /// How many tokens are asked for.
    pub(super) output_tokens: u32,
    /// Whether the answer is to be as long as that, as it was then, and not only no longer.
    pub(super) is_exact: bool,
}

/// Reads the requests of `file` whose prompts are within `prompt_tokens`, four bytes a token; answers are asked for within
/// `output_tokens`.
///
/// An error names the file and the line, and quotes nothing of it.
pub(super) fn read(
    file: &Path,
    prompt_tokens: TokenRange,
    output_tokens: TokenRange,
) -> Result<Vec<Arc<Recorded>>, String> {
    let named = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    // Before it is opened, which waits for a writer where it is a pipe.
    let meta = std::fs::metadata(file).map_err(|error| named(&error))?;
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        return Err(named(&format!("it is no file of {FILE_BYTES_MAX} bytes at most")));
    }
    let opened = File::open(file).map_err(|error| named(&error))?;
    let mut lines = BufReader::new(opened.take(FILE_BYTES_MAX));
    let (mut found, mut line, mut number) = (Vec::new(), Vec::new(), 0_u64);
    while found.len() < REQUESTS_MAX {
        line.clear();
        number += 1;
        let longest = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut lines).take(longest).read_until(b'\n', &mut line).map_err(|error| named(&error))?;
        if read == 0 {
            break;
        }
        let at = |why: &str| format!("{}:{number}: {why}", file.display());
        if line.len() > LINE_BYTES_MAX {
            return Err(at(&format!("is longer than {LINE_BYTES_MAX} bytes")));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let recorded = parsed(&line, output_tokens).map_err(at)?;
        let tokens = prompt_bytes(&recorded.body).div_ceil(BYTES_PER_TOKEN);
        if (prompt_tokens.min as usize..=prompt_tokens.max as usize).contains(&tokens) {
            found.push(Arc::new(recorded));
        }
    }
    if found.is_empty() {
        let TokenRange { min, max } = prompt_tokens;
        return Err(named(&format!("no request has a prompt of {min} to {max} tokens (prompt_tokens)")));
    }
    Ok(found)
}

fn parsed(line: &[u8], output_tokens: TokenRange) -> Result<Recorded, &'static str> {
    let mut body: Map<String, Value> =
        serde_json::from_slice(line).map_err(|_| "is no JSON object: write the body of a chat request")?;
    let is_message = |message: &Value| {
        message.get("role").is_some_and(Value::is_string)
            && match message.get("content") {
                Some(Value::String(_) | Value::Array(_)) => true,
                // An answer that called tools says nothing itself.
                None | Some(Value::Null) => message.get("tool_calls").is_some_and(Value::is_array),
                Some(_) => false,
            }
    };
    let messages = body.get("messages").and_then(Value::as_array).filter(|messages| !messages.is_empty());
    if !messages.is_some_and(|messages| messages.iter().all(is_message)) {
        return Err("has no messages with a role and a content each");
    }
    let count = |name: &str| match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let count = value.as_u64().filter(|count| *count > 0).and_then(|count| u32::try_from(count).ok());
            count.map(Some).ok_or("says of its tokens what is no whole number above 0")
        }
    };
    let exactly = count(COMPLETION_TOKENS)?;
    let most = count("max_completion_tokens")?.or(count("max_tokens")?);
    let asked = exactly.or(most).unwrap_or(output_tokens.max);
    body.retain(|key, _| key == "messages" || KEPT.contains(&key.as_str()));
    if exactly.is_some() {
        // It would end an answer early that is to be as long as it was.
        body.remove("stop");
    }
    let output_tokens = asked.clamp(output_tokens.min, output_tokens.max);
    Ok(Recorded { body, output_tokens, is_exact: exactly.is_some() })
}

/// Returns how many bytes of text the messages hold; pictures and sound count for nothing.
fn prompt_bytes(body: &Map<String, Value>) -> usize {
    let text = |content: &Value| match content {
        Value::String(text) => text.len(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).map(str::len).sum()
        }
        _ => 0,
    };
    let messages = body.get("messages").and_then(Value::as_array).into_iter().flatten();
    messages.filter_map(|message| message.get("content")).map(text).sum()
}

/// An endless sequence of recorded requests: all of them in an order that the seed decides, and then all of them in another one.
#[derive(Debug)]
pub(super) struct Replay {
    all: Vec<Arc<Recorded>>,
    left: Vec<Arc<Recorded>>,
    rng: StdRng,
}

impl Replay {
    /// Returns the sequence with this seed; of no requests there is none.
    pub(super) fn new(seed: u64, all: Vec<Arc<Recorded>>) -> Option<Self> {
        (!all.is_empty()).then(|| Self { all, left: Vec::new(), rng: StdRng::seed_from_u64(seed) })
    }

    /// Returns the next request.
    pub(super) fn draw(&mut self) -> Arc<Recorded> {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
            self.left.shuffle(&mut self.rng);
        }
        self.left.pop().unwrap_or_else(|| Arc::clone(&self.all[0]))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PROMPTS: TokenRange = TokenRange { min: 1, max: 8 };
    const ANSWERS: TokenRange = TokenRange { min: 2, max: 64 };

    fn request(content: &str) -> Value {
        json!({"model": "m", "user": "u", "stream": false, "messages": [{"role": "user", "content": content}]})
    }

    fn of(lines: &str) -> Result<Vec<Recorded>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("asked.jsonl");
        std::fs::write(&file, lines).unwrap();
        let read = read(&file, PROMPTS, ANSWERS).map_err(|error| error.replace(&file.display().to_string(), "F"));
        Ok(read?.into_iter().map(|each| Recorded::clone(&each)).collect())
    }

    #[test]
    fn what_decides_an_answer_is_asked_again_and_who_asked_is_not() {
        let mut asked = request("hello");
        asked["temperature"] = json!(0.5);
        asked["max_tokens"] = json!(7);
        let lines = format!("{asked}\n\n{}\n", request("again"));
        let found = of(&lines).unwrap();
        let body = json!({"messages": [{"role": "user", "content": "hello"}], "temperature": 0.5});
        let first = Recorded { body: body.as_object().unwrap().clone(), output_tokens: 7, is_exact: false };
        assert_eq!(found[0], first);
        assert_eq!(
            (found[1].output_tokens, found.len()),
            (64, 2),
            "without a limit of its own that of the bench holds"
        );
    }

    #[test]
    fn an_answer_is_as_long_as_it_was_within_what_the_bench_allows() {
        let with = |key: &str, tokens: u64| {
            let mut asked = request("hello");
            asked[key] = json!(tokens);
            let found = of(&asked.to_string()).unwrap();
            (found[0].output_tokens, found[0].is_exact)
        };
        assert_eq!(with("completion_tokens", 9), (9, true));
        assert_eq!(with("completion_tokens", 1), (2, true));
        assert_eq!(with("max_completion_tokens", 500), (64, false));
    }

    #[test]
    fn a_talk_with_tools_is_a_request_like_any_other() {
        let call = json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
        let asked = json!({
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": null, "tool_calls": call},
                {"role": "tool", "tool_call_id": "1", "content": "7"},
            ],
            "tools": [], "stop": ["\n"], "completion_tokens": 3,
        });
        let found = of(&asked.to_string()).unwrap();
        assert!(found[0].body.contains_key("tools"));
        assert!(!found[0].body.contains_key("stop"), "it would end before the third token");
    }

    #[test]
    fn prompts_of_another_length_are_left_out_and_none_left_is_an_error() {
        let long = "x".repeat(33);
        let parts = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "abcd"}, {"type": "image_url"}]}]});
        let found = of(&format!("{}\n{parts}\n{}", request(&long), request(""))).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            of(&request(&long).to_string()),
            Err("F: no request has a prompt of 1 to 8 tokens (prompt_tokens)".to_owned())
        );
        assert!(of("").is_err());
    }

    #[test]
    fn a_line_that_is_no_request_is_named_and_not_quoted() {
        let good = request("hello");
        for bad in [
            "{\"messages\": []}",
            "{\"messages\": [7]}",
            "{\"messages\": [{\"role\": \"user\"}]}",
            "{\"secret\"",
            "[]",
            "\u{0}",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"max_tokens\": -1}",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"completion_tokens\": 1e30}",
        ] {
            let error = of(&format!("{good}\n{bad}\n")).unwrap_err();
            assert!(error.starts_with("F:2: ") && !error.contains("secret"), "{error}");
        }
        let long = format!("{good}\n{}", request(&"x".repeat(LINE_BYTES_MAX)));
        assert!(of(&long).unwrap_err().starts_with("F:2: is longer than"));
        assert!(read(Path::new("/"), PROMPTS, ANSWERS).is_err());
        assert!(read(Path::new("/no/such"), PROMPTS, ANSWERS).unwrap_err().contains("/no/such"));
    }

    #[test]
    fn each_is_asked_once_before_one_is_asked_twice_and_equal_seeds_ask_alike() {
        let all: Vec<Arc<Recorded>> = (0..9)
            .map(|number| Arc::new(Recorded { body: Map::new(), output_tokens: number, is_exact: false }))
            .collect();
        let drawn = |seed| {
            let mut replay = Replay::new(seed, all.clone()).unwrap();
            (0..18).map(|_| replay.draw().output_tokens).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        for round in drawn(7).chunks(9) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, (0..9).collect::<Vec<_>>());
        }
        assert!(Replay::new(7, Vec::new()).is_none());
    }
}
