//! Episodes: where does one part of a conversation end, and what was said in it in short?

use std::collections::HashSet;

use super::{Config, context::Chosen, topics::topics, words};
use crate::facts::{Episode, Event, OpenEpisode, Role};

/// What ends a sentence.
pub(super) const SENTENCE_ENDS: [char; 7] = ['.', '!', '?', '\n', '。', '！', '？'];

/// Why an episode is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Nobody said anything for long enough.
    Gap,
    /// It has as many tokens as an episode may have.
    Tokens,
    /// It has as many turns as an episode may have.
    Turns,
}

/// Returns why the open episode is over when something is said at `now_ms`; `None` when it goes on.
pub fn closing(open: &OpenEpisode, now_ms: u64, config: &Config) -> Option<Closing> {
    if open.last_ms == 0 {
        None
    } else if now_ms.saturating_sub(open.last_ms) >= config.episode_gap_s.saturating_mul(1000) {
        Some(Closing::Gap)
    } else if open.tokens >= config.episode_tokens_max {
        Some(Closing::Tokens)
    } else if open.turns >= config.turns_max {
        Some(Closing::Turns)
    } else {
        None
    }
}

/// Returns what was said in `events`, oldest first, in sentences that were said, in their order, within `chars_max` characters.
///
/// The sentences that share most with the topics are chosen, those of the user before those of the model; none is cut unless it
/// alone is too long.
pub fn extract(events: &[Event], config: &Config, chars_max: usize) -> String {
    let about: Vec<String> = topics(events, &Config { topics_max: 12, ..config.clone() })
        .iter()
        .flat_map(|topic| words::stems(topic))
        .collect();
    let mut scored: Vec<(f64, usize, String)> = Vec::new();
    for event in events.iter().filter(|event| event.role.is_speech()) {
        for sentence in sentences(&event.text) {
            let stems = words::telling(sentence);
            let shared = stems.iter().filter(|stem| about.contains(stem)).count() as f64;
            let has_number = sentence.chars().any(char::is_numeric);
            let by = if event.role == Role::User { 1.5 } else { 1.0 };
            // A question says what was asked and not what is so.
            let question = if sentence.ends_with(['?', '？']) { 0.5 } else { 1.0 };
            let score = by * question * (shared + f64::from(u8::from(has_number)));
            scored.push((score, scored.len(), format!("{}: {sentence}", event.role.label())));
        }
    }
    scored.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    let (mut chosen, mut chars) = (Vec::new(), 0);
    for (_, place, sentence) in scored {
        let sentence = if chosen.is_empty() { beginning(&sentence, chars_max).to_owned() } else { sentence };
        let more = sentence.chars().count() + usize::from(!chosen.is_empty());
        if chars + more <= chars_max {
            chars += more;
            chosen.push((place, sentence));
        }
    }
    chosen.sort_by_key(|(place, _)| *place);
    chosen.into_iter().map(|(_, sentence)| sentence).collect::<Vec<_>>().join("\n")
}

/// Returns the latest of `episodes`, the latest first, that tells of something that neither stands in the `context` nor is said by the
/// client anyway. `newest` are the newest events, oldest first, of `count` that there are.
///
/// After a pause all of an episode may stand in the context, and would be said twice.
pub(super) fn more<'a>(
    episodes: &'a [Episode],
    (newest, count): (&[Event], u64),
    context: &[Chosen],
    given: &[String],
) -> Option<&'a Episode> {
    let first = newest.first().map_or(u64::MAX, |event| event.id);
    let has_older = count > newest.len() as u64;
    let chosen: HashSet<u64> = context.iter().map(|chosen| chosen.event.id).collect();
    let given: HashSet<&str> = given.iter().map(|text| text.trim()).collect();
    let is_untold =
        |event: &Event| event.role.is_speech() && !chosen.contains(&event.id) && !given.contains(event.text.trim());
    let tells_more = |episode: &&Episode| {
        let mut of_it = newest.iter().filter(|event| event.id > episode.after && event.id <= episode.through);
        of_it.any(is_untold) || (has_older && episode.after < first)
    };
    episodes.iter().find(tells_more)
}

/// Returns the lines of a summary that are not word for word in the `context`.
pub(super) fn unsaid(summary: &str, context: &[Chosen]) -> String {
    let is_unsaid = |line: &&str| {
        let said = line.split_once(": ").filter(|(role, _)| Role::of(role).is_some()).map_or(*line, |(_, said)| said);
        !context.iter().any(|chosen| chosen.event.text.contains(said))
    };
    summary.lines().filter(is_unsaid).collect::<Vec<_>>().join("\n")
}

fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(SENTENCE_ENDS).map(str::trim).filter(|sentence| !sentence.is_empty())
}

/// Returns the first `chars_max` characters of `text`; a character is never cut.
pub fn beginning(text: &str, chars_max: usize) -> &str {
    text.char_indices().nth(chars_max).map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::context::Why;

    #[test]
    fn an_episode_ends_by_a_gap_by_tokens_or_by_turns() {
        let open = OpenEpisode { after: 0, turns: 19, tokens: 1999, last_ms: 1_000 };
        let config = Config::default();
        for (open, now_ms, expected) in [
            (open, 1_000, None),
            (open, 300_999, None),
            (open, 301_000, Some(Closing::Gap)),
            (OpenEpisode { tokens: 2000, ..open }, 1_000, Some(Closing::Tokens)),
            (OpenEpisode { turns: 20, ..open }, 1_000, Some(Closing::Turns)),
            (OpenEpisode::default(), u64::MAX, None),
            // A clock that was set back is no gap.
            (open, 0, None),
        ] {
            assert_eq!(closing(&open, now_ms, &config), expected, "{open:?} at {now_ms}");
        }
    }

    fn event(id: u64, role: Role, text: &str) -> Event {
        Event { id, role, text: text.to_owned(), at_ms: id }
    }

    #[test]
    fn a_summary_keeps_the_facts_in_their_order() {
        let events = [
            event(1, Role::User, "Hello! My tomatoes need water. The garden has 12 beds of tomatoes."),
            event(2, Role::Assistant, "Sure. Nice."),
            event(3, Role::User, "Does the garden need more tomatoes?"),
        ];
        let summary = extract(&events, &Config::default(), 120);
        assert_eq!(
            summary,
            "user: My tomatoes need water.\nuser: The garden has 12 beds of tomatoes.\nuser: Does the garden need more tomatoes?"
        );
        assert_eq!(extract(&events, &Config::default(), 20).chars().count(), 20);
        assert_eq!(extract(&[], &Config::default(), 20), "");
    }

    /// After a pause the model was told what was said, and then the same in short.
    #[test]
    fn an_episode_of_which_all_is_in_the_context_tells_nothing_more() {
        let events: Vec<Event> = (11..=20).map(|id| event(id, Role::User, &format!("turn {id}"))).collect();
        let context = |from: usize| -> Vec<Chosen> {
            events[from..].iter().map(|event| Chosen { event: event.clone(), why: Why::Newest }).collect()
        };
        let told = |after, through| Episode { after, through, summary: format!("user: turn {through}\nuser: more") };
        let episodes = [told(15, 20), told(0, 15)];
        let found = |count, from| more(&episodes, (&events, count), &context(from), &[]).map(|episode| episode.through);
        assert_eq!(found(10, 0), None, "all of both is there, whatever others said in between");
        assert_eq!(found(10, 1), Some(15), "one turn of the first is not");
        assert_eq!(found(10, 6), Some(20));
        assert_eq!(found(11, 0), Some(15), "there is more than was looked at");
        assert_eq!(unsaid(&episodes[0].summary, &context(9)), "user: more");
    }

    proptest! {
        #[test]
        fn a_summary_is_never_too_long(texts in prop::collection::vec("\\PC{0,60}", 0..8), chars_max in 0_usize..200) {
            let events: Vec<Event> = texts.iter().zip(1..).map(|(text, id)| event(id, Role::User, text)).collect();
            prop_assert!(extract(&events, &Config::default(), chars_max).chars().count() <= chars_max);
        }
    }
}
