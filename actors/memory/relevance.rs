//! Relevance: how much does what was said have to do with what is asked?
//!
//! BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009) over the words of the question,
//! counted within the conversation: what is rare here tells most here, however common it is elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::words;
use crate::facts::Role;

/// How soon more of the same word stops to count.
const K1: f64 = 1.2;

/// How much a long text is held against it.
const B: f64 = 0.75;

/// Returns the BM25 score of each of `texts` for the `wanted` words, where `count` texts are there to choose from.
///
/// A text without any of the words scores 0; no score is negative.
pub fn bm25(wanted: &[String], texts: &[&str], count: u64) -> Vec<f64> {
    let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    let wanted: BTreeMap<&str, usize> = wanted.into_iter().zip(0..).collect();
    let counted: Vec<Counted> = texts.iter().map(|text| Counted::of(text, &wanted)).collect();
    let all = count.max(texts.len() as u64) as f64;
    let average = f64::from(counted.iter().map(|each| each.words).sum::<u32>()) / texts.len().max(1) as f64;
    let idf = |word: usize| {
        let holding = counted.iter().filter(|each| each.times[word] > 0).count() as f64;
        (1.0 + (all - holding + 0.5) / (holding + 0.5)).ln()
    };
    let idfs: Vec<f64> = (0..wanted.len()).map(idf).collect();
    let score = |counted: &Counted| {
        let length = K1 * (1.0 - B + B * f64::from(counted.words) / average.max(1.0));
        let parts = counted.times.iter().zip(&idfs).map(|(times, idf)| {
            let times = f64::from(*times);
            idf * times * (K1 + 1.0) / (times + length)
        });
        parts.sum()
    };
    counted.iter().map(score).collect()
}

/// How often a text has each of the wanted words, and how many words it has.
struct Counted {
    times: Vec<u32>,
    words: u32,
}

impl Counted {
    fn of(text: &str, wanted: &BTreeMap<&str, usize>) -> Self {
        let mut counted = Self { times: vec![0; wanted.len()], words: 0 };
        words::each_stem(text, |stem| {
            counted.words += 1;
            if let Some(place) = wanted.get(stem) {
                counted.times[*place] += 1;
            }
        });
        counted
    }
}

/// Beginnings of words by which somebody says that something is to be kept or is otherwise than was said.
const MARKS: [&str; 20] = [
    "remem", "note", "merk", "denk", "souvi", "recue", "actua", "corre", "inste", "chang", "moved", "doch", "änder",
    "stimm", "umgez", "plutô", "final", "realm", "cambi", "ahora",
];

/// Returns how important something that was said is by itself, from 0 to 1: a statement of the user's more than an answer, one
/// with numbers or names more than one without, a question less.
pub fn importance(role: Role, text: &str) -> f64 {
    let by: f64 = match role {
        Role::User => 0.5,
        Role::Tool => 0.4,
        Role::Assistant | Role::System => 0.3,
        Role::Repetition | Role::Error => return 0.0,
    };
    let text = text.trim();
    let asks = if text.ends_with(['?', '？', '؟']) { -0.4 } else { 0.0 };
    let number = if text.chars().any(char::is_numeric) { 0.2 } else { 0.0 };
    let stems = words::stems(text);
    let marked = if stems.iter().any(|stem| MARKS.contains(&stem.as_str())) { 0.2 } else { 0.0 };
    let named =
        if text.split_whitespace().skip(1).any(|word| word.starts_with(char::is_uppercase)) { 0.1 } else { 0.0 };
    (by + asks + number + marked + named).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rare_word_tells_more_than_a_common_one() {
        let texts = ["the dog barks", "the cat", "the bird", "the dog eats the dog food"];
        let wanted = ["the".to_owned(), "cat".to_owned()];
        let scores = bm25(&wanted, &texts, 4);
        assert!(scores[1] > scores[0] && scores[1] > scores[3], "{scores:?}");
        assert_eq!(bm25(&["fish".to_owned()], &texts, 4), [0.0; 4]);
        assert_eq!(bm25(&wanted, &[], 0), Vec::<f64>::new());
    }

    #[test]
    fn a_statement_with_a_number_is_more_important_than_a_question_or_an_answer() {
        let fact = importance(Role::User, "My flight leaves at 14:30 from Vienna.");
        assert!(fact > importance(Role::User, "When does my flight leave?"));
        assert!(fact > importance(Role::Assistant, "Have a good flight!"));
        assert_eq!(importance(Role::Error, "status 500"), 0.0);
    }

    proptest! {
        #[test]
        fn scores_are_finite_and_never_negative(texts in prop::collection::vec("\\PC{0,40}", 0..8), asked in "\\PC{0,40}", count in 0_u64..20) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            for score in bm25(&words::telling(&asked), &texts, count) {
                prop_assert!(score.is_finite() && score >= 0.0);
            }
            for text in texts {
                prop_assert!((0.0..=1.0).contains(&importance(Role::User, text)));
            }
        }
    }
}
