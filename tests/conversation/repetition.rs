//! How well repetitions are told from answers that are none, beside two plain measures.

use std::collections::BTreeSet;

use kloros_actors::memory::{Config, repetition::repeated};
use serde::Deserialize;

#[derive(Deserialize)]
struct Pair {
    earlier: String,
    answer: String,
    repeats: bool,
}

const SET: &str = include_str!("../../src/conversation/rehearsal/repetitions.json");

/// The share of words that both have, of all that either has.
fn word_overlap(one: &str, other: &str) -> f64 {
    let words = |text: &str| text.to_lowercase().split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    let (one, other) = (words(one), words(other));
    one.intersection(&other).count() as f64 / one.union(&other).count().max(1) as f64
}

fn edit_ratio(one: &str, other: &str) -> f64 {
    strsim::normalized_levenshtein(one, other)
}

/// Precision and recall.
fn score(set: &[Pair], says: impl Fn(&Pair) -> bool) -> (f64, f64) {
    let count = |is_so: &dyn Fn(&Pair) -> bool| set.iter().filter(|pair| is_so(pair)).count() as f64;
    let right = count(&|pair| pair.repeats && says(pair));
    (right / count(&|pair| says(pair)).max(1.0), right / count(&|pair| pair.repeats))
}

#[test]
fn repetitions_are_told_better_than_by_common_words_or_by_edits() {
    let set: Vec<Pair> = serde_json::from_str(SET).unwrap();
    let config = Config::default();
    let rows = [
        ("kloros", score(&set, |pair| repeated(&pair.answer, std::slice::from_ref(&pair.earlier), &config).is_some())),
        ("word overlap", score(&set, |pair| word_overlap(&pair.answer, &pair.earlier) >= config.repetition_from)),
        ("edit ratio", score(&set, |pair| edit_ratio(&pair.answer, &pair.earlier) >= config.repetition_from)),
    ];
    let f1 = |(precision, recall): (f64, f64)| 2.0 * precision * recall / (precision + recall).max(f64::MIN_POSITIVE);
    println!("{} pairs, {} of them repetitions", set.len(), set.iter().filter(|pair| pair.repeats).count());
    for (how, (precision, recall)) in rows {
        println!("{how:12} precision {precision:.3}, recall {recall:.3}, F1 {:.3}", f1((precision, recall)));
    }
    assert!(f1(rows[0].1) > f1(rows[1].1) && f1(rows[0].1) > f1(rows[2].1));
    assert!(rows[0].1.0 >= 0.9 && rows[0].1.1 >= 0.9, "{rows:?}");
}
