//! Repetition: does an answer say again what was said?
//!
//! Two texts are as similar as the Dice coefficient of their character 5-grams, counted as often as they occur, over letters and
//! digits in lower case: linear in the length of both, and the same for every language. 1 is the same text, 0 has nothing in common.

use std::cmp::Ordering;

use super::Config;

/// How many characters a piece has.
const GRAM_CHARS: usize = 5;

/// How many characters of an answer are compared.
const CHARS_MAX: usize = 20_000;

/// The pieces of a text, as often as they occur.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grams {
    /// In order: each answer is compared with ten others, and two that are in order are compared in one pass.
    pieces: Vec<u64>,
    chars: usize,
}

impl Grams {
    /// Returns the pieces of the first 20,000 letters and digits of `text`.
    pub fn of(text: &str) -> Self {
        let mut grams = Self::default();
        let mut window = [0_u32; GRAM_CHARS];
        let letters =
            text.chars().flat_map(char::to_lowercase).map(|each| if each.is_alphanumeric() { each } else { ' ' });
        let mut last = ' ';
        for each in letters {
            if grams.chars >= CHARS_MAX {
                break;
            }
            // One blank between words, whatever stood there.
            if each == ' ' && std::mem::replace(&mut last, each) == ' ' {
                continue;
            }
            last = each;
            window.rotate_left(1);
            window[GRAM_CHARS - 1] = u32::from(each);
            grams.chars += 1;
            if grams.chars >= GRAM_CHARS {
                grams.pieces.push(hash(&window));
            }
        }
        grams.pieces.sort_unstable();
        grams
    }

    /// Returns how similar two texts are, from 0 to 1. A text without pieces is like nothing.
    pub fn similarity(&self, other: &Self) -> f64 {
        let (mut both, mut ours, mut theirs) = (0_u64, &self.pieces[..], &other.pieces[..]);
        while let (Some(one), Some(another)) = (ours.first(), theirs.first()) {
            let order = one.cmp(another);
            both += u64::from(order == Ordering::Equal);
            ours = &ours[usize::from(order != Ordering::Greater)..];
            theirs = &theirs[usize::from(order != Ordering::Less)..];
        }
        let total = self.pieces.len() + other.pieces.len();
        if total == 0 { 0.0 } else { 2.0 * both as f64 / total as f64 }
    }
}

/// FNV-1a over the characters: two pieces of one text rarely meet, and then cost one count.
fn hash(window: &[u32]) -> u64 {
    window.iter().fold(0xcbf2_9ce4_8422_2325, |hash, each| (hash ^ u64::from(*each)).wrapping_mul(0x0100_0000_01b3))
}

/// An answer that says again what was said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repeated {
    /// Which of the earlier answers it is like.
    pub which: usize,
    /// How similar it is, from 0 to 1.
    pub similarity: f64,
}

/// Returns which of the newest answers in `earlier`, oldest first, `answer` is most like, if it is like one of them as the settings
/// have it. A short set phrase is never a repetition.
pub fn repeated(answer: &str, earlier: &[String], config: &Config) -> Option<Repeated> {
    let grams = Grams::of(answer);
    if grams.chars < config.repetition_chars_min {
        return None;
    }
    let skipped = earlier.len().saturating_sub(config.repetition_look_back);
    let similarities = earlier.iter().enumerate().skip(skipped);
    let similarities =
        similarities.map(|(which, text)| Repeated { which, similarity: grams.similarity(&Grams::of(text)) });
    let most = similarities.max_by(|one, other| one.similarity.total_cmp(&other.similarity));
    most.filter(|most| most.similarity >= config.repetition_from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn similarity(one: &str, other: &str) -> f64 {
        Grams::of(one).similarity(&Grams::of(other))
    }

    fn is_repeated(answer: &str, earlier: &[&str]) -> bool {
        let earlier: Vec<String> = earlier.iter().map(|text| (*text).to_owned()).collect();
        repeated(answer, &earlier, &Config::default()).is_some()
    }

    const ADVICE: &str = "You could try to restart the router and then wait for about two minutes until it is back.";

    #[test]
    fn what_is_said_again_is_found_whatever_its_case_and_punctuation() {
        assert!(is_repeated(ADVICE, &[ADVICE]));
        assert!(is_repeated(&ADVICE.to_uppercase(), &["Hello there, how may I help?", ADVICE]));
        assert!(is_repeated(&format!("As I said: {ADVICE}"), &[ADVICE]));
        assert!(is_repeated(
            "再起動してから二分ほどお待ちください。それでも直らない場合は教えてください。",
            &["再起動してから二分ほどお待ちください。それでも直らない場合は教えてくださいね。"]
        ));
    }

    #[test]
    fn another_answer_to_the_same_topic_is_none() {
        assert!(!is_repeated(
            "If the router still blinks after the restart, a new cable is the next thing to try.",
            &[ADVICE]
        ));
        assert!(!is_repeated(ADVICE, &[]));
    }

    #[test]
    fn short_set_phrases_are_never_flagged() {
        for phrase in ["Yes.", "You're welcome!", "I don't know.", "Gern geschehen!", "はい、わかりました。", ""]
        {
            assert!(!is_repeated(phrase, &[phrase, phrase]), "{phrase}");
        }
    }

    #[test]
    fn only_the_last_ten_count() {
        let mut earlier = vec![ADVICE];
        earlier.extend(["Something else entirely was said here, and nobody minded it at all."; 9]);
        assert!(is_repeated(ADVICE, &earlier));
        earlier.push("One more.");
        assert!(!is_repeated(ADVICE, &earlier));
    }

    #[test]
    fn the_threshold_itself_is_a_repetition() {
        let config = Config { repetition_from: 1.0, ..Config::default() };
        assert!(repeated(ADVICE, &[ADVICE.to_owned()], &config).is_some());
    }

    /// What is counted is steps, and not time: each character is looked at once.
    #[test]
    fn a_huge_answer_is_compared_by_its_beginning() {
        let huge = "all work and no play ".repeat(500_000);
        let grams = Grams::of(&huge);
        assert_eq!(grams.chars, CHARS_MAX);
        assert_eq!(grams.pieces.len(), CHARS_MAX - GRAM_CHARS + 1);
    }

    proptest! {
        #[test]
        fn similarity_is_symmetric_from_0_to_1_and_1_with_itself(one in "\\PC{0,80}", other in "\\PC{0,80}") {
            let (there, back) = (similarity(&one, &other), similarity(&other, &one));
            prop_assert_eq!(there, back);
            prop_assert!((0.0..=1.0).contains(&there));
            let grams = Grams::of(&one);
            prop_assert!(grams.pieces.is_empty() || grams.similarity(&grams) == 1.0);
        }
    }
}
