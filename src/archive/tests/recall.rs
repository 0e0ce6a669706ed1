//! How much of what is needed is recalled, on conversations written for it.

use kloros_actors::{
    facts::{Episode, Event, Role, Said},
    memory::{Config, Wanted, episodes::extract, relevance::bm25, remember, words},
    seams::Archive as _,
};
use std::collections::BTreeMap;

use super::{World, talk};
use crate::conversation::{STEP_MS, set, told};

/// What BM25 alone would put there, within the same limits.
fn by_bm25(said: &[Said], ask: &str, config: &Config) -> Vec<String> {
    let texts: Vec<&str> = said.iter().map(|said| said.text.as_str()).collect();
    let scores = bm25(&words::telling(ask), &texts, texts.len() as u64);
    let mut ranked: Vec<(f64, &str)> = scores.into_iter().zip(texts).filter(|(score, _)| *score > 0.0).collect();
    ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut chars = 0;
    let fits = ranked.into_iter().filter(|(_, text)| {
        chars += text.chars().count();
        chars <= config.context_chars_max
    });
    fits.take(config.context_events_max).map(|(_, text)| text.to_owned()).collect()
}

/// The newest twenty, however long they are.
fn newest(said: &[Said], config: &Config) -> Vec<String> {
    said.iter().rev().take(config.context_events_max).map(|said| said.text.clone()).collect()
}

#[tokio::test]
async fn what_is_needed_is_recalled_more_often_than_by_recency_or_by_words_alone() {
    let set = set().unwrap();
    let config = Config::default();
    let world = World::new();
    let mut recalled: BTreeMap<&str, usize> = BTreeMap::new();
    let mut missed = Vec::new();
    for (seed, conversation) in set.conversations.iter().enumerate() {
        let (said, name) = (told(&set, conversation, seed), format!("talk-{seed}"));
        let mut now_ms = said.last().unwrap().at_ms + STEP_MS;
        world.conversations.keep(&talk(&name), said.clone(), None).await.unwrap();
        if conversation.pause {
            now_ms += config.episode_gap_s * 1000;
            let events = world.conversations.since(&talk(&name), 0, 500).await.unwrap();
            let summary = extract(&events, &config, config.summary_chars_max);
            let over = Episode { after: 0, through: events.last().unwrap().id, summary };
            world.conversations.keep(&talk(&name), Vec::new(), Some(over)).await.unwrap();
        }
        let (asked, given) = (conversation.ask.clone(), vec![conversation.ask.clone()]);
        let wanted = Wanted { talk: talk(&name), asked, given };
        let remembered = remember(&world.conversations, &config, wanted, now_ms).await.unwrap();
        let events: Vec<&Event> = remembered.context.iter().map(|chosen| &chosen.event).collect();
        let summary = remembered.summary.clone().unwrap_or_default();
        let chars = events.iter().map(|event| event.text.chars().count()).sum::<usize>() + summary.chars().count();
        assert!(events.len() <= 20 && chars <= 2000);
        assert!(
            events.iter().all(|event| said.iter().any(|said| said.text.contains(&event.text))),
            "of another conversation"
        );
        let sentences = summary.lines().filter_map(|line| line.split_once(": ")).map(|(_, sentence)| sentence);
        let twice: Vec<&str> = sentences.filter(|line| events.iter().any(|event| event.text.contains(line))).collect();
        assert!(twice.is_empty(), "{}: {twice:?}", conversation.ask);
        // The last question and the answer to it.
        let [.., asked, answered] = &events[..] else { panic!("{events:?}") };
        let is_last = |event: &Event, said: &Said| event.role == said.role && said.text.starts_with(&event.text);
        let [.., question, answer] = &said[..] else { panic!("{said:?}") };
        assert!(is_last(asked, question) && is_last(answered, answer), "{}: {asked:?} {answered:?}", conversation.ask);
        let ours = events.iter().map(|event| event.text.clone()).chain([summary]).collect();
        for (how, texts) in [
            ("kloros", ours),
            ("newest 20", newest(&said, &config)),
            ("BM25 alone", by_bm25(&said, &conversation.ask, &config)),
        ] {
            let is_there = texts.iter().any(|text: &String| text.contains(&conversation.needed));
            *recalled.entry(how).or_default() += usize::from(is_there);
            if how == "kloros" && !is_there {
                missed.push((&conversation.language, &conversation.ask));
            }
        }
    }
    let all = set.conversations.len();
    assert!(all >= 60, "{all}");
    for (how, count) in &recalled {
        println!("{how:12} {count} of {all}, recall {:.3}", *count as f64 / all as f64);
    }
    println!("missed: {missed:?}");
    assert!(recalled["kloros"] > recalled["newest 20"] && recalled["kloros"] > recalled["BM25 alone"]);
    assert!(recalled["kloros"] * 100 >= all * 90);
}

/// How many events there are by default; `KLOROS_EVENTS=1000000` is what is promised.
const EVENTS_DEFAULT: usize = 10_000;

/// How long a look may take at the 95th percentile, in milliseconds.
const LOOK_P95_MS_MAX: f64 = 10.0;

#[tokio::test]
async fn a_look_is_quick_however_much_is_kept() {
    let events = std::env::var("KLOROS_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(EVENTS_DEFAULT);
    let set = set().unwrap();
    let lines: Vec<&String> =
        set.chatter.values().flatten().flat_map(|(question, answer)| [question, answer]).collect();
    let world = World::new();
    let (mut kept, mut at_ms) = (0, 0);
    // Half of all is one conversation: a look must not read all of it.
    while kept < events {
        let name = if kept % 2 == 0 { "large".to_owned() } else { format!("small-{}", kept % 997) };
        let batch = (0..501).map(|number| {
            at_ms += 1;
            let line = |step: usize| lines[(kept + number * 7 + step * 3) % lines.len()].as_str();
            // An answer has about two hundred words.
            let text = (0..if number % 2 == 0 { 1 } else { 18 }).map(line).collect::<Vec<_>>().join(" ");
            let text = format!("{text} number {}", (kept + number) % 5003);
            Said { role: if number % 2 == 0 { Role::User } else { Role::Assistant }, text, at_ms }
        });
        world.conversations.keep(&talk(&name), batch.collect(), None).await.unwrap();
        kept += 501;
    }
    let mut took_ms = Vec::new();
    for number in 0..200 {
        let asked =
            format!("{} Which number was {} and the capital of the moon?", lines[number % lines.len()], number * 23);
        let wanted = Wanted { talk: talk("large"), asked, given: Vec::new() };
        let began = std::time::Instant::now();
        let remembered = remember(&world.conversations, &Config::default(), wanted, at_ms).await.unwrap();
        took_ms.push(began.elapsed().as_secs_f64() * 1000.0);
        assert!(!remembered.context.is_empty());
    }
    took_ms.sort_by(f64::total_cmp);
    let (p50, p95) = (took_ms[100], took_ms[190]);
    println!("{kept} events: a look takes {p50:.2} ms at the median, {p95:.2} ms at the 95th percentile");
    // Other tests share these cores: what is promised holds for a machine of its own, where the variable is set.
    let allowed = if std::env::var_os("KLOROS_EVENTS").is_some() { LOOK_P95_MS_MAX } else { 20.0 * LOOK_P95_MS_MAX };
    assert!(p95 < allowed, "{p95} ms");
}
