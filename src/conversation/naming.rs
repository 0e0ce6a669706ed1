use axum::http::HeaderMap;
use kloros_actors::facts::Talk;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// The header that names a conversation, in requests and answers.
pub(crate) const NAME_HEADER: &str = "x-conversation-id";

/// Other headers that name one: the first that is there counts.
const NAME_HEADERS: [&str; 3] = [NAME_HEADER, "x-kloros-conversation-id", "x-openwebui-chat-id"];

/// Keys of the request's metadata that name one.
const NAME_KEYS: [&str; 2] = ["conversation_id", "session_id"];

/// Who has no key.
pub(crate) const LOCAL: &str = "local";

/// Returns the conversation of a request: named by a header, by its metadata or by its user, else the one of its client key. Two
/// keys never share a conversation, whatever they call it; of a key no more is kept than a part of its hash.
pub(super) fn talk(headers: &HeaderMap, body: &Map<String, Value>) -> Talk {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let by_header = NAME_HEADERS.iter().filter_map(|name| header(name)).find(|name| !name.is_empty());
    let metadata = body.get("metadata").and_then(Value::as_object);
    let text = |value: &Value| value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let by_metadata =
        || NAME_KEYS.iter().find_map(|key| metadata.and_then(|metadata| metadata.get(*key)).and_then(text));
    let by_user = || body.get("user").and_then(text);
    let name = by_header.map(str::to_owned).or_else(by_metadata).or_else(by_user).unwrap_or_default();
    let key = header("authorization").filter(|key| !key.is_empty());
    let owner = key.map_or_else(|| LOCAL.to_owned(), |key| format!("key-{}", short(key)));
    Talk::new(&name, &owner)
}

fn short(key: &str) -> String {
    let key = key.strip_prefix("Bearer ").unwrap_or(key);
    Sha256::digest(key.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(headers: &[(&'static str, &str)], body: &Value) -> (String, String) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let talk = talk(&map, body.as_object().unwrap());
        (talk.name().to_owned(), talk.owner().to_owned())
    }

    #[test]
    fn a_conversation_is_named_by_header_then_metadata_then_user_and_is_never_without_a_name() {
        let named = |name: &str| (name.to_owned(), "local".to_owned());
        let body = json!({"user": "anna", "metadata": {"session_id": "s-1"}});
        assert_eq!(of(&[("x-conversation-id", "c-1"), ("x-openwebui-chat-id", "w-1")], &body), named("c-1"));
        assert_eq!(of(&[("x-openwebui-chat-id", "w-1")], &body), named("w-1"));
        assert_eq!(of(&[("x-conversation-id", "  ")], &body), named("s-1"));
        assert_eq!(of(&[], &json!({"user": "anna"})), named("anna"));
        for body in [json!({}), json!({"user": null}), json!({"user": ""}), json!({"user": 7, "metadata": []})] {
            assert_eq!(of(&[], &body), named("default"));
        }
    }

    #[test]
    fn two_keys_share_no_conversation_and_no_key_is_kept() {
        let one = of(&[("authorization", "Bearer sk-secret-one"), ("x-conversation-id", "c")], &json!({}));
        let other = of(&[("authorization", "Bearer sk-secret-two"), ("x-conversation-id", "c")], &json!({}));
        assert_ne!(one, other);
        assert!(!one.1.contains("secret") && one.1.len() == 12, "{one:?}");
    }
}
