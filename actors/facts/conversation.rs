use serde::{Deserialize, Serialize};

/// Who said something in a conversation, or what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The person, or the client that speaks for one.
    User,
    /// The model.
    Assistant,
    /// What the client told the model to be.
    System,
    /// What a tool answered.
    Tool,
    /// An answer that says again what was said; its text names by how much.
    Repetition,
    /// There was no answer; its text says why.
    Error,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 6] = [Role::User, Role::Assistant, Role::System, Role::Tool, Role::Repetition, Role::Error];

    /// Returns the role as it is stored and printed.
    pub fn label(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::System => "system",
            Role::Tool => "tool",
            Role::Repetition => "repetition",
            Role::Error => "error",
        }
    }

    /// Returns the role of this label.
    pub fn of(label: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.label() == label)
    }

    /// Returns whether it is something that was said, rather than a remark about the conversation.
    pub fn is_speech(self) -> bool {
        matches!(self, Role::User | Role::Assistant | Role::Tool)
    }
}

/// The name of a conversation and whose it is; neither is ever empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Talk {
    name: String,
    owner: String,
}

/// The longest name of a conversation, in characters.
const NAME_CHARS_MAX: usize = 200;

/// What stands for a name that is empty.
const NAMELESS: &str = "default";

impl Talk {
    /// Returns the conversation of this name of this owner. White space and control characters at the ends are left away, further
    /// ones are replaced, what is beyond 200 characters is cut off, and what is then empty is called `default`.
    pub fn new(name: &str, owner: &str) -> Self {
        Self { name: plain(name), owner: plain(owner) }
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whose it is.
    pub fn owner(&self) -> &str {
        &self.owner
    }
}

fn plain(text: &str) -> String {
    let is_blank = |each: char| each.is_control() || each.is_whitespace();
    let text = text.trim_matches(is_blank);
    if text.is_empty() {
        return NAMELESS.to_owned();
    }
    text.chars().map(|each| if each.is_control() { '_' } else { each }).take(NAME_CHARS_MAX).collect()
}

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forgetting {
    /// One conversation, whole.
    Talk(Talk),
    /// All that was said before this moment, in milliseconds since the Unix epoch.
    Before(u64),
}

/// Something that was said and is to be kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub text: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl std::fmt::Debug for Said {
    /// Says how long it is and not what: what people say is in no log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Said({}, {} bytes)", self.role.label(), self.text.len())
    }
}

/// Something that was kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place: later ones have higher ones.
    pub id: u64,
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub text: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl std::fmt::Debug for Event {
    /// Says how long it is and not what: what people say is in no log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Event({}, {}, {} bytes)", self.id, self.role.label(), self.text.len())
    }
}

/// What of a conversation is in no episode yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenEpisode {
    /// The place of the last event before it.
    pub after: u64,
    /// How many turns of the user it has.
    pub turns: u32,
    /// How many tokens were said in it, estimated.
    pub tokens: u64,
    /// When its last event was, in milliseconds since the Unix epoch; 0 while it has none.
    pub last_ms: u64,
}

/// A part of a conversation that is over, and what was said in it in short.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Episode {
    /// The place of the last event before it.
    pub after: u64,
    /// The place of its last event.
    pub through: u64,
    /// What was said, in short.
    pub summary: String,
}

impl std::fmt::Debug for Episode {
    /// Says how long its summary is and not what stands there: what people say is in no log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Episode({}..={}, {} bytes)", self.after, self.through, self.summary.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_never_without_a_name() {
        for (name, expected) in
            [("", "default"), ("  \n", "default"), (" a b ", "a b"), ("a\nb", "a_b"), ("ä", "ä"), ("\u{0}", "default")]
        {
            assert_eq!(Talk::new(name, name).name(), expected, "{name:?}");
            assert_eq!(Talk::new(name, name).owner(), expected, "{name:?}");
        }
        assert_eq!(Talk::new(&"日".repeat(1000), "x").name().chars().count(), NAME_CHARS_MAX);
    }

    #[test]
    fn every_role_is_found_by_its_label() {
        for role in Role::ALL {
            assert_eq!(Role::of(role.label()), Some(role));
        }
        assert_eq!(Role::of("User"), None);
    }

    #[test]
    fn what_is_said_is_not_printed_by_accident() {
        let said = Said { role: Role::User, text: "my secret".to_owned(), at_ms: 1 };
        let event = Event { id: 1, role: Role::User, text: "my secret".to_owned(), at_ms: 1 };
        let episode = Episode { after: 0, through: 1, summary: "my secret".to_owned() };
        assert!(!format!("{said:?} {event:?} {episode:?}").contains("secret"));
    }
}
