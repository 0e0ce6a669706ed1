//! Topics: what is a conversation about now?

use std::collections::BTreeMap;

use super::{Config, words};
use crate::facts::{Event, Role};

/// How much more a word of the user weighs than one of the answer.
const USER_WEIGHT: f64 = 1.5;

/// How much more a name weighs: what is written with a capital in the middle of a sentence.
const NAME_WEIGHT: f64 = 1.3;

/// How much of its weight a word keeps with each event that comes after it.
const DECAY: f64 = 0.9;

/// How many of the newest events are looked at; what is older weighs less than a hundredth.
const EVENTS_MAX: usize = 40;

/// Words below this length are no topics, in characters; scripts without blanks need fewer.
const CHARS_MIN: usize = 3;

/// Returns what `events`, oldest first, are about: the heaviest words, as they were last written, heaviest first.
///
/// A conversation that begins has no topic, since nothing is kept beside its events.
pub fn topics(events: &[Event], config: &Config) -> Vec<String> {
    let mut weights: BTreeMap<String, (f64, String)> = BTreeMap::new();
    let newest_first = events.iter().rev().filter(|event| matches!(event.role, Role::User | Role::Assistant));
    let mut weight = 1.0;
    for event in newest_first.take(EVENTS_MAX) {
        let by = if event.role == Role::User { USER_WEIGHT } else { 1.0 };
        for (word, is_name) in tellings(&event.text) {
            let adds = weight * by * if is_name { NAME_WEIGHT } else { 1.0 };
            let stem = words::stems(&word).join(" ");
            let (sum, _) = weights.entry(stem).or_insert((0.0, word));
            *sum += adds;
        }
        weight *= DECAY;
    }
    let mut heaviest: Vec<(f64, String)> = weights.into_values().collect();
    heaviest.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    heaviest.into_iter().take(config.topics_max).map(|(_, word)| word).collect()
}

/// Returns the words of a text that may be topics, each once, and whether it is a name.
fn tellings(text: &str) -> Vec<(String, bool)> {
    let mut found: BTreeMap<String, bool> = BTreeMap::new();
    let mut begins = true;
    for run in text.split_inclusive(|each: char| !each.is_alphanumeric()) {
        let word = run.trim_matches(|each: char| !each.is_alphanumeric());
        let ends = run.ends_with(['.', '!', '?', '\n', '。', '！', '？']);
        if !word.is_empty() {
            let lower = word.to_lowercase();
            let is_name = !begins && word.chars().next().is_some_and(char::is_uppercase);
            begins = false;
            let chars_min = if word.is_ascii() { CHARS_MIN } else { CHARS_MIN - 1 };
            let is_long = (chars_min..40).contains(&word.chars().count());
            if is_long && !words::is_stop_word(&lower) && !lower.chars().all(char::is_numeric) {
                *found.entry(word.to_owned()).or_default() |= is_name;
            }
        }
        begins |= ends;
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(id: u64, role: Role, text: &str) -> Event {
        Event { id, role, text: text.to_owned(), at_ms: id }
    }

    fn of(texts: &[(Role, &str)]) -> Vec<String> {
        let events: Vec<Event> = texts.iter().zip(1..).map(|((role, text), id)| event(id, *role, text)).collect();
        topics(&events, &Config::default())
    }

    #[test]
    fn what_the_user_says_weighs_more_than_the_answer() {
        assert_eq!(of(&[(Role::Assistant, "bicycles"), (Role::User, "tomatoes")])[0], "tomatoes");
        assert_eq!(of(&[(Role::User, "tomatoes"), (Role::Assistant, "bicycles")])[0], "tomatoes");
    }

    #[test]
    fn what_was_said_long_ago_fades() {
        let mut texts = vec![(Role::User, "tomatoes"); 2];
        texts.extend([(Role::User, "bicycles"), (Role::Assistant, "well"), (Role::User, "bicycles")]);
        assert_eq!(of(&texts)[0], "bicycles");
    }

    #[test]
    fn there_are_five_at_most_and_none_at_the_beginning() {
        assert_eq!(of(&[(Role::User, "apples pears plums cherries grapes melons figs")]).len(), 5);
        assert_eq!(of(&[]), Vec::<String>::new());
    }

    #[test]
    fn stop_words_of_five_languages_are_no_topics() {
        for text in [
            "What would you do then?",
            "Was würde er denn tun, wenn?",
            "Mais pourquoi est-il là",
            "pero también está",
            "perché però",
        ] {
            let found = of(&[(Role::User, text)]);
            assert!(found.iter().all(|topic| ["tun", "là"].contains(&topic.as_str())), "{text}: {found:?}");
        }
    }

    #[test]
    fn forms_of_a_word_are_one_topic_and_a_name_weighs_more() {
        assert_eq!(of(&[(Role::User, "garden"), (Role::User, "gardens")]).len(), 1);
        assert_eq!(of(&[(Role::User, "we saw Leipzig and streets")])[0], "Leipzig");
    }

    #[test]
    fn remarks_and_instructions_are_no_topics() {
        assert_eq!(
            of(&[(Role::System, "pirate"), (Role::Error, "timeout"), (Role::Tool, "json")]),
            Vec::<String>::new()
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fail(texts in prop::collection::vec("\\PC{0,40}", 0..10)) {
            let events: Vec<Event> = texts.iter().zip(1..).map(|(text, id)| event(id, Role::User, text)).collect();
            prop_assert!(topics(&events, &Config::default()).len() <= 5);
        }
    }
}
