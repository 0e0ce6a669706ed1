use serde::Deserialize;
use serde_json::Value;

use crate::bench::sse;

/// How much of an answer is listened to, in bytes; what is longer is passed on all the same.
const TEXT_BYTES_MAX: usize = 256 * 1024;

/// What was heard of an answer that passes by.
#[derive(Debug, Default)]
pub(super) struct Tap {
    parser: sse::Parser,
    /// The text so far.
    pub(super) text: String,
    /// How many pieces said something.
    pub(super) pieces: u64,
    /// How many tokens the server counted.
    pub(super) counted: Option<u64>,
    /// Whether its end was heard: an answer with an error in it has one, too.
    pub(super) is_whole: bool,
    /// Whether the server reported an error in it.
    pub(super) has_error: bool,
    /// What cannot be understood is passed on and not listened to any more.
    is_deaf: bool,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

/// An error, whatever stands beside it.
#[derive(Deserialize)]
struct Reported {
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    /// Which of several alternatives it is.
    #[serde(default)]
    index: u64,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    message: Option<Delta>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<Value>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    completion_tokens: Option<u64>,
}

impl Tap {
    /// Listens to the next bytes of a stream.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        if self.is_deaf {
            return;
        }
        match self.parser.push(bytes) {
            Ok(events) => events.iter().for_each(|event| self.take(event)),
            Err(_) => self.is_deaf = true,
        }
    }

    fn take(&mut self, event: &str) {
        if event.trim() == "[DONE]" {
            self.is_whole = true;
        } else if let Ok(chunk) = serde_json::from_str::<Chunk>(event) {
            self.note(chunk);
        } else if let Ok(reported) = serde_json::from_str::<Reported>(event) {
            self.has_error |= reported.error.is_some();
        }
    }

    /// Listens to an answer that came whole.
    pub(super) fn whole(body: &[u8]) -> Self {
        let mut tap = Self::default();
        if let Ok(chunk) = serde_json::from_slice::<Chunk>(body) {
            tap.is_whole = chunk.error.is_none() && !chunk.choices.is_empty();
            tap.note(chunk);
        }
        tap
    }

    fn note(&mut self, chunk: Chunk) {
        self.has_error |= chunk.error.is_some();
        self.counted = chunk.usage.and_then(|usage| usage.completion_tokens).or(self.counted);
        // Of several alternatives the first is what was said; a stream brings their pieces in any order.
        let first = chunk.choices.into_iter().find(|choice| choice.index == 0);
        let Some(said) = first.and_then(|choice| choice.delta.or(choice.message)) else { return };
        let Some(text) = said.content.as_ref().and_then(Value::as_str).filter(|text| !text.is_empty()) else { return };
        self.pieces += 1;
        let room = TEXT_BYTES_MAX.saturating_sub(self.text.len());
        let end = (0..=room.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.text.push_str(&text[..end]);
    }

    /// Returns how many tokens there were: as the server counted them, else its pieces.
    pub(super) fn tokens(&self) -> u64 {
        self.counted.unwrap_or(self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_heard_wherever_it_is_cut() {
        let stream = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"Grüß\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\" dich\"}}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"completion_tokens\":7}}\n\ndata: [DONE]\n\n";
        for size in 1..stream.len() {
            let mut tap = Tap::default();
            for piece in stream.as_bytes().chunks(size) {
                tap.hear(piece);
            }
            assert_eq!((tap.text.as_str(), tap.tokens(), tap.is_whole), ("Grüß dich", 7, true));
        }
    }

    /// The pieces of both were put together, word by word.
    #[test]
    fn of_several_alternatives_in_a_stream_the_first_is_heard() {
        let mut tap = Tap::default();
        for (index, text) in [(1, "No"), (0, "Yes"), (1, ", never"), (0, ", sir")] {
            tap.hear(
                format!("data: {{\"choices\":[{{\"index\":{index},\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
                    .as_bytes(),
            );
        }
        assert_eq!((tap.text.as_str(), tap.pieces), ("Yes, sir", 2));
        let whole = br#"{"choices":[{"index":1,"message":{"content":"No"}},{"index":0,"message":{"content":"Yes"}}]}"#;
        assert_eq!(Tap::whole(whole).text, "Yes");
    }

    /// Of an answer that was longer than is kept, nothing was.
    #[test]
    fn of_an_answer_without_end_the_beginning_is_kept() {
        let long = format!("begin {}", "日".repeat(TEXT_BYTES_MAX));
        let body = serde_json::json!({"choices": [{"message": {"content": long}}]});
        let tap = Tap::whole(body.to_string().as_bytes());
        assert!(
            tap.text.starts_with("begin ") && tap.text.len() <= TEXT_BYTES_MAX && tap.text.len() > TEXT_BYTES_MAX - 4
        );
    }

    #[test]
    fn an_error_in_a_stream_is_heard_whatever_stands_beside_it() {
        for (event, expected) in [
            ("{\"error\": {\"message\": \"out of memory\"}}", true),
            ("{\"error\": \"out of memory\", \"choices\": null}", true),
            ("{\"error\": {}, \"choices\": []}", true),
            ("{\"error\": null, \"choices\": []}", false),
            ("{\"error\": null, \"choices\": null}", false),
        ] {
            let mut tap = Tap::default();
            tap.hear(format!("data: {event}\n\ndata: [DONE]\n\n").as_bytes());
            assert_eq!((tap.is_whole, tap.has_error), (true, expected), "{event}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_no_failure() {
        let mut tap = Tap::default();
        for bytes in [&b"data: {]\n\n"[..], b"\xff\xfe", b"data: {\"choices\": 7}\n\n", b"data: {\"error\": {}}\n\n"] {
            tap.hear(bytes);
        }
        assert!(!tap.is_whole && tap.text.is_empty() && tap.has_error);
        assert!(!Tap::whole(b"<html>").is_whole);
        assert!(Tap::whole(b"{\"choices\":[{\"message\":{\"content\":null,\"tool_calls\":[]}}]}").is_whole);
    }
}
