//! Topics: what is a conversation about now?

use std::collections::{BTreeMap, HashMap};

use super::{Config, episodes::beginning, words};
use crate::facts::{Event, Role};

/// How much more a word of the user weighs than one of the answer.
const USER_WEIGHT: f64 = 1.5;

/// How much more a name weighs: what is written with a capital in the middle of a sentence.
const NAME_WEIGHT: f64 = 1.3;

/// How much of its weight a word keeps with each event that comes after it.
const DECAY: f64 = 0.9;

/// How many of the newest events are looked at; what is older weighs less than a hundredth.
const EVENTS_MAX: usize = 40;

/// How much of an event is looked at, in characters: what it is about stands there, and each request pays for all of it.
const EVENT_CHARS_MAX: usize = 1000;

/// Words below this length are no topics, in characters; scripts without blanks need fewer.
const CHARS_MIN: usize = 3;

/// Words from this length on are no topics, in characters.
const CHARS_END: usize = 40;

/// How many words a name has at most.
const NAME_WORDS_MAX: usize = 4;

/// How much less a pair of characters weighs where nothing says whether it is a word.
const PAIR_WEIGHT: f64 = 0.5;

/// What stands in every Chinese sentence and says nothing about it, and where Han characters are no word together.
const HAN_STOPS: &str =
    "的了是在我你他她它们这那有和就不也都很吗呢吧啊要会可以说请问什么怎为一个上下来去到没想能得着过给让把被跟对还";

/// Returns what `events`, oldest first, are about: the heaviest words and names, as they were last written, heaviest first.
///
/// A conversation that begins has no topic, since nothing is kept beside its events.
pub fn topics(events: &[Event], config: &Config) -> Vec<String> {
    let mut weights: HashMap<String, (f64, String)> = HashMap::new();
    let newest_first = events.iter().rev().filter(|event| matches!(event.role, Role::User | Role::Assistant));
    let mut weight = 1.0;
    for event in newest_first.take(EVENTS_MAX) {
        let by = if event.role == Role::User { USER_WEIGHT } else { 1.0 };
        for (word, tells) in tellings(beginning(&event.text, EVENT_CHARS_MAX)) {
            let stem = words::stems(&word).join(" ");
            let (sum, _) = weights.entry(stem).or_insert((0.0, word));
            *sum += weight * by * tells;
        }
        weight *= DECAY;
    }
    let mut heaviest: Vec<(f64, String)> = weights.into_values().collect();
    heaviest.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    heaviest.into_iter().take(config.topics_max).map(|(_, word)| word).collect()
}

/// Returns the words and names of a text that may be topics, each once, and what it weighs.
fn tellings(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let has_kana = text.chars().any(is_kana);
    let (mut name, mut begins): (Vec<&str>, bool) = (Vec::new(), true);
    for run in text.split_inclusive(|each: char| !each.is_alphanumeric()) {
        let word = run.trim_end_matches(|each: char| !each.is_alphanumeric());
        let is_name = !begins && word.chars().next().is_some_and(char::is_uppercase) && !is_stop(word);
        // What begins a sentence has a capital whatever it is.
        if !is_name || name.len() == NAME_WORDS_MAX {
            add_name(&mut name, &mut found);
        }
        if is_name {
            name.push(word);
        } else if word.chars().any(words::is_unspaced) {
            add_unspaced(word, has_kana, &mut found);
        } else if !is_stop(word) {
            add(word, 1.0, &mut found);
        }
        begins = run.ends_with(['.', '!', '?', '\n', '。', '！', '？']) || (begins && word.is_empty());
        if !run.ends_with([' ', '-']) || word.is_empty() {
            add_name(&mut name, &mut found);
        }
    }
    add_name(&mut name, &mut found);
    found
}

fn is_stop(word: &str) -> bool {
    words::is_stop_word(&word.to_lowercase())
}

/// Adds words with a capital that stand beside each other as one name.
fn add_name(name: &mut Vec<&str>, found: &mut BTreeMap<String, f64>) {
    if !name.is_empty() {
        add(&std::mem::take(name).join(" "), NAME_WEIGHT, found);
    }
}

fn add(word: &str, tells: f64, found: &mut BTreeMap<String, f64>) {
    let chars_min = if word.is_ascii() { CHARS_MIN } else { CHARS_MIN - 1 };
    let is_long = (chars_min..CHARS_END).contains(&word.chars().count());
    if is_long && !word.chars().all(char::is_numeric) {
        let most = found.entry(word.to_owned()).or_insert(tells);
        *most = most.max(tells);
    }
}

/// Adds what may be words of a run without blanks: in Japanese what is written in Han or Katakana between the Hiragana, in Chinese the
/// pairs of characters, of which those that come again outweigh the others; in other such scripts the run.
fn add_unspaced(run: &str, has_kana: bool, found: &mut BTreeMap<String, f64>) {
    let mut rest = run;
    while let Some(first) = rest.chars().next() {
        let kind = Script::of(first);
        let end = rest.char_indices().find(|(_, each)| Script::of(*each) != kind).map_or(rest.len(), |(at, _)| at);
        let (word, after) = rest.split_at(end);
        rest = after;
        match kind {
            Script::Hiragana => {}
            Script::Han if !has_kana => {
                let chars: Vec<char> = word.chars().collect();
                let says = |each: &char| !HAN_STOPS.contains(*each);
                for pair in chars.windows(2).filter(|pair| pair.iter().all(says)) {
                    add(&pair.iter().collect::<String>(), PAIR_WEIGHT, found);
                }
            }
            Script::Other if is_stop(word) => {}
            Script::Han | Script::Katakana | Script::Other => add(word, 1.0, found),
        }
    }
}

/// The scripts of one run that say where a word ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    Han,
    Hiragana,
    Katakana,
    Other,
}

impl Script {
    fn of(each: char) -> Self {
        match u32::from(each) {
            0x3040..=0x309F => Self::Hiragana,
            // With the mark that makes a vowel long.
            0x30A0..=0x30FF => Self::Katakana,
            0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF => Self::Han,
            _ => Self::Other,
        }
    }
}

fn is_kana(each: char) -> bool {
    matches!(Script::of(each), Script::Hiragana | Script::Katakana)
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

    /// Each capital was a name of its own, and the two halves of one name took two of the five places.
    #[test]
    fn capitals_beside_each_other_are_one_name() {
        let found = of(&[(Role::User, "we met Frau Ostermann-Meier in New York City, and Berlin. Then rain")]);
        for name in ["Frau Ostermann Meier", "New York City", "Berlin"] {
            assert!(found.contains(&name.to_owned()), "{found:?}");
        }
        assert_eq!(of(&[(Role::User, "a letter to The Times")])[0], "Times", "a stop-word is no part of a name");
    }

    /// A sentence without blanks was one word, as a whole.
    #[test]
    fn scripts_without_blanks_have_words_too() {
        let found = of(&[(Role::User, "来月京都へ旅行します。ホテルはどこがいいですか")]);
        assert!(found.contains(&"旅行".to_owned()) && found.contains(&"ホテル".to_owned()), "{found:?}");
        assert!(found.iter().all(|topic| topic.chars().count() <= 4), "{found:?}");
        let found = of(&[(Role::User, "我下个月想去北京旅行"), (Role::User, "北京的天气怎么样？")]);
        assert_eq!(found[0], "北京", "{found:?}");
        let found = of(&[(Role::User, "와이파이 비밀번호 알려줘")]);
        assert!(found.contains(&"비밀번호".to_owned()), "{found:?}");
    }

    #[test]
    fn of_a_long_text_the_beginning_counts() {
        let long = format!("tomatoes {}", "filler ".repeat(1000));
        let found = of(&[(Role::User, &long), (Role::User, &format!("{} bicycles", "filler ".repeat(1000)))]);
        assert!(found.contains(&"tomatoes".to_owned()) && !found.contains(&"bicycles".to_owned()), "{found:?}");
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
