use kloros_actors::{
    facts::{Event, Role},
    memory::{Remembered, TEXT_CHARS_MAX, context::prompt, episodes, repetition::Repeated},
};
use serde_json::{Map, Value, json};

use super::refusal::Refusal;
use crate::{archive::beginning, settings::Conversation};

/// How many messages a request may have.
const MESSAGES_MAX: usize = 10_000;

/// What says how far from its likeliest words an answer may go.
const TEMPERATURE: &str = "temperature";

/// What limits the tokens of an answer: the word that every server knows, and the one that took its place.
const LIMITS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// How much of an answer is named that is not to be repeated, in characters.
const EARLIER_CHARS_MAX: usize = 300;

/// A request for an answer, as far as it is understood; everything else in it is passed on as it came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    body: Map<String, Value>,
    /// Whether the answer is streamed.
    pub(super) stream: bool,
    /// What the user said last; of this and all other texts as much as is kept.
    pub(super) last: String,
    /// What all messages say.
    pub(super) given: Vec<String>,
    /// What was said since the last answer, and what the model is told to be.
    said: Vec<(Role, String)>,
}

impl Asked {
    /// Reads a request, or says why it is none.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let body: Value = serde_json::from_slice(bytes).map_err(|error| {
            // What the parser says may quote what was said.
            let place = format!("line {} column {}", error.line(), error.column());
            Refusal::invalid(format!("the body is no JSON: {:?} error at {place}", error.classify()))
        })?;
        let Value::Object(body) = body else { return Err(Refusal::invalid("the body is no JSON object")) };
        let Some(messages) = body.get("messages").and_then(Value::as_array) else {
            return Err(Refusal::invalid("messages: a list is required"));
        };
        if messages.is_empty() || messages.len() > MESSAGES_MAX {
            return Err(Refusal::invalid(format!("messages: {} are not 1 to {MESSAGES_MAX}", messages.len())));
        }
        let mut said: Vec<(Role, String)> = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let Some(role) = message.get("role").and_then(Value::as_str) else {
                return Err(Refusal::invalid(format!("messages[{index}].role: a text is required")));
            };
            let role = match role {
                "user" => Role::User,
                "assistant" => Role::Assistant,
                "tool" | "function" => Role::Tool,
                _ => Role::System,
            };
            // What is not kept need not be handed on: nobody looks for it.
            let mut text = text_of(message.get("content"));
            text.truncate(beginning(&text).len());
            said.push((role, text));
        }
        let last = said.iter().rev().find(|(role, _)| *role == Role::User);
        let last = last.map(|(_, text)| text.clone()).unwrap_or_default();
        let given = said.iter().map(|(_, text)| text.clone()).collect();
        let since = said.iter().rposition(|(role, _)| *role == Role::Assistant).map_or(0, |last| last + 1);
        let instructions = said[..since].iter().filter(|(role, _)| *role == Role::System).cloned();
        let said = instructions.chain(said[since..].iter().cloned()).filter(|(_, text)| !text.is_empty()).collect();
        let stream = body.get("stream").and_then(Value::as_bool).unwrap_or(false);
        Ok(Self { body, stream, last, given, said })
    }

    /// Returns what names the conversation among what came.
    pub(super) fn body(&self) -> &Map<String, Value> {
        &self.body
    }

    /// Returns the model that is to answer, where one is named.
    pub(super) fn model(&self) -> Option<&str> {
        self.body.get("model").and_then(Value::as_str)
    }

    /// Returns what was said that is not `known` yet: an instruction is kept when it is another one, and what is sent again after a
    /// failure is kept once.
    pub(super) fn news(&self, known: &[Event]) -> Vec<(Role, String)> {
        let since = known.iter().rposition(|event| event.role == Role::Assistant).map_or(0, |last| last + 1);
        let is_known = |(role, text): &&(Role, String)| {
            let (among, text) = match role {
                // Of an instruction as much is compared as was looked at: agents send long ones with each request.
                Role::System => (known, episodes::beginning(text, TEXT_CHARS_MAX)),
                _ => (&known[since..], text.as_str()),
            };
            among.iter().any(|event| event.role == *role && event.text == text)
        };
        self.said.iter().filter(|said| !is_known(said)).cloned().collect()
    }

    /// Adds what a request takes that says nothing of it itself.
    pub(super) fn take_for_granted(&mut self, settings: &Conversation) {
        if settings.temperature >= 0.0 && !self.body.contains_key(TEMPERATURE) {
            self.body.insert(TEMPERATURE.to_owned(), json!(settings.temperature));
        }
        if settings.max_tokens > 0 && LIMITS.iter().all(|limit| !self.body.contains_key(*limit)) {
            self.body.insert(LIMITS[0].to_owned(), json!(settings.max_tokens));
        }
    }

    /// Returns the request with what is remembered in its system message, and what that is.
    pub(super) fn with(&self, remembered: Option<&Remembered>) -> (Vec<u8>, String) {
        let text = remembered.map(told).unwrap_or_default();
        let mut body = self.body.clone();
        if !text.is_empty() {
            add(&mut body, &text);
        }
        (serde_json::to_vec(&body).unwrap_or_default(), text)
    }

    /// Returns the request once more, with the word of which earlier answer the last one was a repetition, and how much.
    pub(super) fn again(sent: &[u8], repeated: &Repeated, earlier: &str) -> Option<Vec<u8>> {
        let mut body: Map<String, Value> = serde_json::from_slice(sent).ok()?;
        let (percent, earlier) =
            ((repeated.similarity * 100.0).floor(), episodes::beginning(earlier, EARLIER_CHARS_MAX));
        let earlier = earlier.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = format!(
            "Your last answer was nearly the same as one before it, by {percent} %. Answer again with something new, in other words. \
             The answer that you must not repeat began: {earlier}"
        );
        add(&mut body, &text);
        serde_json::to_vec(&body).ok()
    }
}

/// Returns what is told of what is remembered. What is summed up is beside what is said: without that, nothing is told of it.
fn told(remembered: &Remembered) -> String {
    let summary = remembered.summary.as_deref().filter(|_| !remembered.context.is_empty());
    prompt(summary, &remembered.topics, &remembered.context)
}

/// Adds `text` to the first message where that is an instruction, else puts one before it: templates want a single one, at the head.
fn add(body: &mut Map<String, Value>, text: &str) {
    let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut) else { return };
    let is_instruction =
        |message: &Value| matches!(message.get("role").and_then(Value::as_str), Some("system" | "developer"));
    match messages.first_mut().filter(|first| is_instruction(first)).and_then(|first| first.get_mut("content")) {
        Some(Value::String(content)) => {
            content.push_str("\n\n");
            content.push_str(text);
        }
        Some(Value::Array(parts)) => parts.push(json!({"type": "text", "text": text})),
        _ => messages.insert(0, json!({"role": "system", "content": text})),
    }
}

/// Returns what a message says: its text, or that of its parts.
fn text_of(content: Option<&Value>) -> String {
    match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str));
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use kloros_actors::memory::context::{Chosen, Why};
    use proptest::prelude::*;

    use super::*;

    fn read(body: &Value) -> Asked {
        Asked::read(body.to_string().as_bytes()).unwrap()
    }

    fn event(id: u64, role: Role, text: &str) -> Event {
        Event { id, role, text: text.to_owned(), at_ms: id }
    }

    fn remembering(text: &str) -> Remembered {
        let chosen = Chosen { event: event(1, Role::User, text), why: Why::Newest };
        Remembered { context: vec![chosen], ..Remembered::default() }
    }

    #[test]
    fn what_was_said_since_the_last_answer_is_new() {
        let asked = read(&json!({"messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hi"},
            {"role": "tool", "content": "42"},
            {"role": "user", "content": [{"type": "text", "text": "and"}, {"type": "image_url", "image_url": {}}]},
        ]}));
        assert_eq!(asked.last, "and");
        let roles = |news: Vec<(Role, String)>| news.into_iter().map(|(role, _)| role).collect::<Vec<_>>();
        assert_eq!(roles(asked.news(&[])), [Role::System, Role::Tool, Role::User]);
        let known = [event(1, Role::System, "be kind"), event(2, Role::User, "and"), event(3, Role::Assistant, "hi")];
        assert_eq!(roles(asked.news(&known)), [Role::Tool, Role::User]);
        let failed = [event(4, Role::User, "and"), event(5, Role::Error, "no answer")];
        assert_eq!(roles(asked.news(&failed)), [Role::System, Role::Tool]);
    }

    #[test]
    fn the_clients_own_messages_and_unknown_fields_are_all_there() {
        let body = json!({"model": "m", "odd": {"a": [1, 2]}, "tools": [], "messages": [
            {"role": "user", "content": "one"}, {"role": "assistant", "content": null, "tool_calls": [{"id": "x"}]},
            {"role": "tool", "tool_call_id": "x", "content": "two"},
        ]});
        let (sent, _) = read(&body).with(Some(&remembering("before")));
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        assert_eq!(sent["odd"], body["odd"]);
        let messages = sent["messages"].as_array().unwrap();
        assert_eq!(messages[0]["role"], "system");
        assert_eq!(&messages[1..], body["messages"].as_array().unwrap().as_slice());
    }

    #[test]
    fn what_a_request_says_nothing_of_is_taken_for_granted_and_what_it_says_stands() {
        let settings = Conversation { temperature: 0.5, max_tokens: 64, ..Conversation::default() };
        let cases = [
            (json!({}), json!({"temperature": 0.5, "max_tokens": 64})),
            (json!({"temperature": 1.5, "max_tokens": 7}), json!({"temperature": 1.5, "max_tokens": 7})),
            (json!({"temperature": 0}), json!({"temperature": 0, "max_tokens": 64})),
            (json!({"max_completion_tokens": 7}), json!({"max_completion_tokens": 7, "temperature": 0.5})),
            // What is sent as nothing is said all the same.
            (json!({"temperature": null, "max_tokens": null}), json!({"temperature": null, "max_tokens": null})),
        ];
        for (mut said, mut expected) in cases {
            for each in [&mut said, &mut expected] {
                each["messages"] = json!([{"role": "user", "content": "x"}]);
            }
            let mut asked = read(&said);
            asked.take_for_granted(&settings);
            assert_eq!(serde_json::from_slice::<Value>(&asked.with(None).0).unwrap(), expected);
            let mut asked = read(&said);
            asked.take_for_granted(&Conversation::default());
            assert_eq!(serde_json::from_slice::<Value>(&asked.with(None).0).unwrap(), said, "left to the model server");
        }
    }

    #[test]
    fn there_is_one_system_message_at_the_head() {
        for content in [json!("be kind"), json!([{"type": "text", "text": "be kind"}])] {
            let body = json!({"messages": [{"role": "system", "content": content}, {"role": "user", "content": "x"}]});
            let (sent, _) = read(&body).with(Some(&remembering("before")));
            let sent: Value = serde_json::from_slice(&sent).unwrap();
            assert_eq!(sent["messages"].as_array().unwrap().len(), 2);
            let text = text_of(Some(&sent["messages"][0]["content"]));
            assert!(text.starts_with("be kind") && text.contains("- user: before"), "{text}");
        }
    }

    #[test]
    fn a_request_of_which_nothing_is_remembered_stays_as_it_is() {
        let body = json!({"messages": [{"role": "user", "content": "x"}], "temperature": 0.5});
        let remembered = Remembered { summary: Some("s".to_owned()), ..Remembered::default() };
        let (sent, _) = read(&body).with(Some(&remembered));
        assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), body);
    }

    /// Whoever sends all of it again each time, as most clients do, never got the topics.
    #[test]
    fn the_topics_are_told_also_to_who_says_everything_itself() {
        let body = json!({"messages": [{"role": "user", "content": "x"}]});
        let remembered = Remembered { topics: vec!["tomatoes".to_owned()], ..Remembered::default() };
        let (sent, put) = read(&body).with(Some(&remembered));
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        assert_eq!((&sent["messages"][0]["content"], &sent["messages"][1]), (&json!(put), &body["messages"][0]));
        assert!(put.ends_with("Topics: tomatoes\n"), "{put}");
    }

    #[test]
    fn whoever_is_asked_again_is_told_what_it_repeated() {
        let body = json!({"messages": [{"role": "user", "content": "x"}]}).to_string();
        let repeated = Repeated { which: 0, similarity: 0.876 };
        let sent =
            Asked::again(body.as_bytes(), &repeated, &format!("Once upon\na time {}", "x".repeat(1000))).unwrap();
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        let text = sent["messages"][0]["content"].as_str().unwrap();
        assert!(text.contains("by 87 %") && text.contains("began: Once upon a time xxx") && text.len() < 600, "{text}");
    }

    #[test]
    fn an_instruction_that_is_longer_than_is_looked_at_is_kept_once() {
        let long = "be kind ".repeat(TEXT_CHARS_MAX);
        let asked =
            read(&json!({"messages": [{"role": "system", "content": long}, {"role": "user", "content": long}]}));
        let looked = episodes::beginning(&long, TEXT_CHARS_MAX);
        let known = [event(1, Role::System, looked), event(2, Role::User, looked)];
        let roles: Vec<Role> = asked.news(&known).into_iter().map(|(role, _)| role).collect();
        assert_eq!(roles, [Role::User], "of what was said all is kept, though it may be the same");
    }

    #[test]
    fn of_a_text_as_much_is_handed_on_as_is_kept_and_the_model_gets_all_of_it() {
        let long = "ü".repeat(300 * 1024);
        let asked = read(&json!({"messages": [{"role": "user", "content": long}]}));
        let kept = beginning(&long);
        assert!(kept.len() < long.len());
        assert_eq!((asked.last.as_str(), asked.given.as_slice()), (kept, &[kept.to_owned()][..]));
        assert_eq!(asked.news(&[]), [(Role::User, kept.to_owned())]);
        assert_eq!(asked.body()["messages"][0]["content"], long);
    }

    #[test]
    fn what_is_no_request_is_refused_without_quoting_it() {
        for (body, named) in [
            ("{\"messages\": \"secret\"}", "messages"),
            ("[\"secret\"]", "object"),
            ("secret", "JSON"),
            ("{\"messages\": []}", "messages"),
            ("{\"messages\": [{\"content\": \"secret\"}]}", "messages[0].role"),
            ("{\"messages\": [\"secret\"]}", "messages[0].role"),
        ] {
            let refusal = Asked::read(body.as_bytes()).unwrap_err();
            assert!(refusal.message.contains(named) && !refusal.message.contains("secret"), "{refusal:?}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,100}") {
            let _ = Asked::read(&bytes);
            let body = json!({"messages": [{"role": text, "content": text}], "user": text});
            prop_assert!(Asked::read(body.to_string().as_bytes()).is_ok());
        }
    }
}
