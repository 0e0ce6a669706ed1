use std::{
    fs,
    time::{Duration, Instant},
};

use kloros_actors::{
    facts::{Episode, Forgetting, OpenEpisode, Role, Talk},
    memory::words,
    seams::{Archive as _, ArchiveError, Look},
};

use super::{World, said, talk};
use crate::archive::Conversations;

fn look(name: &str, asked: &str) -> Look {
    let (newest_max, matching_max, text_chars_max, bytes_max) = (3, 5, 1000, 100_000);
    let words = words::telling(asked);
    Look { talk: talk(name), words, since_ms: 0, newest_max, matching_max, text_chars_max, bytes_max, others: false }
}

/// Forgets a conversation as a person does who asks for it.
async fn forget_talk(world: &World, name: &str) -> Option<u64> {
    let events = world.conversations.forget(&Forgetting::Talk(talk(name))).await.unwrap();
    world.conversations.rub_out(Duration::from_secs(20)).await.unwrap();
    events
}

async fn fill(world: &World, name: &str, texts: &[&str]) {
    for (text, at_ms) in texts.iter().zip(1..) {
        world.conversations.keep(&talk(name), vec![said(Role::User, text, at_ms)], None).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_said_comes_back_newest_and_by_its_words() {
    let world = World::new();
    fill(&world, "one", &["The code is 4711.", "Nice weather", "rain again", "more rain", "sun"]).await;
    fill(&world, "other", &["Another code is 9999."]).await;
    let looked = world.conversations.look(look("one", "Which code was it?")).await.unwrap();
    let texts =
        |events: &[kloros_actors::facts::Event]| events.iter().map(|event| event.text.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&looked.newest), ["rain again", "more rain", "sun"]);
    assert_eq!(texts(&looked.matching), ["The code is 4711."]);
    assert_eq!(looked.count, 5);
}

#[tokio::test]
async fn another_conversation_is_looked_through_only_when_asked_and_never_that_of_another_owner() {
    let world = World::new();
    fill(&world, "one", &["hello"]).await;
    fill(&world, "other", &["The code is 4711."]).await;
    let theirs = Talk::new("other", "somebody else");
    world.conversations.keep(&theirs, vec![said(Role::User, "My code is 8888.", 1)], None).await.unwrap();
    let none = world.conversations.look(look("one", "code")).await.unwrap();
    assert_eq!(none.matching, []);
    let others = Look { others: true, ..look("one", "code") };
    let found = world.conversations.look(others).await.unwrap();
    assert_eq!(found.matching.len(), 1);
    assert_eq!(found.matching[0].text, "The code is 4711.");
}

#[tokio::test]
async fn words_that_are_a_language_to_the_index_are_words_to_us() {
    let world = World::new();
    fill(&world, "one", &["AND OR NOT NEAR(a b) \"quoted\" * ^ tag:x said:y {z} -minus +plus"]).await;
    for asked in ["NEAR(a", "\"quoted", "tag:x", "* OR 1=1 --", "{z}", "'; DROP TABLE events; --", "\u{0}"] {
        world.conversations.look(look("one", asked)).await.unwrap();
        Conversations::search(&world.path(), asked, 10).unwrap();
    }
    assert_eq!(Conversations::search(&world.path(), "quoted", 10).unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_forgotten_is_in_no_file_any_more() {
    let world = World::new();
    let secret = "Zanzibarquartz pumpernickelsecret 271828182";
    let padding = "lorem ipsum dolor sit amet ".repeat(300);
    for at_ms in 1..40 {
        let texts = vec![
            said(Role::User, &format!("{secret} number {at_ms} {padding}"), at_ms),
            said(Role::System, "Zanzibarquartz system", at_ms),
            said(Role::Error, "Zanzibarquartz error", at_ms),
        ];
        world.conversations.keep(&talk("gone"), texts, None).await.unwrap();
        let stays = vec![said(Role::User, &format!("Other words stay {at_ms}"), at_ms)];
        world.conversations.keep(&talk("stays"), stays, None).await.unwrap();
    }
    let episode = Episode { after: 0, through: 3, summary: secret.to_owned() };
    world.conversations.keep(&talk("gone"), Vec::new(), Some(episode)).await.unwrap();
    assert!(world.holds(b"Zanzibarquartz") && world.holds(b"271828182"));
    assert_eq!(forget_talk(&world, "gone").await, Some(117));
    // Words are cut after five letters in the index; numbers stand there whole.
    for needle in ["Zanzibarquartz", "pumpernickelsecret", "zanzi", "pumpe", "271828182"] {
        assert!(!world.holds(needle.as_bytes()), "{needle} is still there");
    }
    assert_eq!(Conversations::events(&world.path(), &talk("gone"), 0, 10).unwrap(), []);
    assert_eq!(Conversations::headings(&world.path(), None, 10).unwrap().len(), 1);
    assert_eq!(world.conversations.look(look("stays", "words")).await.unwrap().count, 39);
    assert_eq!(forget_talk(&world, "gone").await, None);
}

#[tokio::test]
async fn what_is_too_old_is_forgotten_with_its_summary_and_the_rest_stays() {
    let world = World::new();
    fill(&world, "one", &["Oldoldword", "middle", "new"]).await;
    let episode = Episode { after: 0, through: 2, summary: "Oldoldword".to_owned() };
    world.conversations.keep(&talk("one"), Vec::new(), Some(episode)).await.unwrap();
    assert_eq!(world.conversations.prune(2, 100).await.unwrap(), 1);
    world.conversations.rub_out(Duration::ZERO).await.unwrap();
    assert!(!world.holds(b"Oldoldword") && !world.holds(b"oldol"));
    let looked = world.conversations.look(look("one", "middle")).await.unwrap();
    assert_eq!((looked.newest.len(), looked.episodes), (2, Vec::new()));
    assert_eq!(world.conversations.forget(&Forgetting::Before(100)).await.unwrap(), Some(2));
    assert_eq!(Conversations::headings(&world.path(), None, 10).unwrap(), []);
}

#[tokio::test]
async fn forgetting_that_failed_half_way_is_completed_when_it_is_done_once_more() {
    let world = World::new();
    fill(&world, "gone", &["Zanzibarquartz"]).await;
    assert_eq!(world.conversations.forget(&Forgetting::Talk(talk("gone"))).await.unwrap(), Some(1));
    assert!(world.holds(b"Zanzibarquartz"), "the log still holds it");
    assert_eq!(forget_talk(&world, "gone").await, None);
    assert!(!world.holds(b"Zanzibarquartz"));
    fill(&world, "old", &["Pumpernickelsecret"]).await;
    assert_eq!(world.conversations.prune(100, 10).await.unwrap(), 1);
    assert!(world.holds(b"Pumpernickelsecret"), "the log still holds it");
    assert_eq!(world.conversations.prune(100, 10).await.unwrap(), 0);
    world.conversations.rub_out(Duration::ZERO).await.unwrap();
    assert!(!world.holds(b"Pumpernickelsecret"));
}

/// Whoever is killed between the two leaves a log that nobody emptied.
#[tokio::test]
async fn a_log_that_somebody_left_is_emptied_by_the_next() {
    let world = World::new();
    fill(&world, "gone", &["Zanzibarquartz"]).await;
    // A reader that stays keeps the log from being emptied by the last who closes the file.
    let reading = rusqlite::Connection::open(world.path()).unwrap();
    reading.execute_batch("BEGIN; SELECT count(*) FROM events;").unwrap();
    world.conversations.forget(&Forgetting::Talk(talk("gone"))).await.unwrap();
    let next = Conversations::open(&world.path()).unwrap();
    drop(reading);
    next.rub_out(Duration::from_secs(20)).await.unwrap();
    assert!(!world.holds(b"Zanzibarquartz"));
}

/// It waited 5 s up to 50 times for somebody who reads the file, with nothing to forget, and nobody could write meanwhile.
#[tokio::test]
async fn somebody_who_reads_the_file_holds_up_nobody() {
    let world = World::new();
    fill(&world, "gone", &["Zanzibarquartz"]).await;
    let reading = rusqlite::Connection::open(world.path()).unwrap();
    reading.execute_batch("BEGIN; SELECT count(*) FROM events;").unwrap();
    let began = Instant::now();
    assert_eq!(world.conversations.prune(1, 10).await.unwrap(), 0);
    world.conversations.rub_out(Duration::ZERO).await.expect("there is nothing to rub out");
    assert_eq!(world.conversations.prune(100, 10).await.unwrap(), 1);
    let Err(ArchiveError::Unusable(what)) = world.conversations.rub_out(Duration::ZERO).await else {
        panic!("it reads")
    };
    assert!(what.contains("another program reads the file"), "{what}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    drop(reading);
    world.conversations.rub_out(Duration::ZERO).await.unwrap();
    assert!(!world.holds(b"Zanzibarquartz"));
}

/// The episode of what was forgotten was kept anew, with its sentences.
#[tokio::test]
async fn what_was_forgotten_comes_back_by_no_summary() {
    let world = World::new();
    fill(&world, "gone", &["Zanzibarquartz"]).await;
    let closing = Episode { after: 0, through: 1, summary: "user: Zanzibarquartz".to_owned() };
    assert_eq!(forget_talk(&world, "gone").await, Some(1));
    world.conversations.keep(&talk("gone"), vec![said(Role::User, "hello", 2)], Some(closing)).await.unwrap();
    assert_eq!(Conversations::episodes(&world.path(), &talk("gone")).unwrap(), []);
    assert!(!world.holds(b"Zanzibarquartz"));
}

/// It went with the first event of its conversation where others spoke in between.
#[tokio::test]
async fn a_summary_stays_as_long_as_all_of_its_events_do() {
    let world = World::new();
    fill(&world, "one", &["first"]).await;
    fill(&world, "other", &["between"]).await;
    world.conversations.keep(&talk("one"), vec![said(Role::User, "second", 10)], None).await.unwrap();
    for (after, through) in [(0, 1), (1, 3)] {
        let episode = Episode { after, through, summary: format!("through {through}") };
        world.conversations.keep(&talk("one"), Vec::new(), Some(episode)).await.unwrap();
    }
    assert_eq!(world.conversations.prune(5, 100).await.unwrap(), 2);
    let left: Vec<u64> =
        Conversations::episodes(&world.path(), &talk("one")).unwrap().iter().map(|episode| episode.through).collect();
    assert_eq!(left, [3]);
}

#[tokio::test]
async fn a_summary_that_is_older_than_the_window_is_not_told() {
    let world = World::new();
    fill(&world, "one", &["first", "second"]).await;
    for (after, through) in [(0, 1), (1, 2)] {
        let episode = Episode { after, through, summary: format!("through {through}") };
        world.conversations.keep(&talk("one"), Vec::new(), Some(episode)).await.unwrap();
    }
    let told = async |since_ms: u64| {
        let looked = world.conversations.look(Look { since_ms, ..look("one", "") }).await.unwrap();
        looked.episodes.iter().map(|episode| episode.through).collect::<Vec<_>>()
    };
    assert_eq!((told(0).await, told(2).await, told(3).await), (vec![2, 1], vec![2], vec![]));
}

/// An instruction of 8,000 characters that was sent with each request ended each episode at once.
#[tokio::test]
async fn only_what_is_said_fills_an_episode() {
    let world = World::new();
    let long = "be kind ".repeat(2000);
    let remarks = vec![said(Role::System, &long, 1), said(Role::Error, &long, 2), said(Role::Repetition, &long, 3)];
    world.conversations.keep(&talk("one"), remarks, None).await.unwrap();
    assert_eq!(world.conversations.open(&talk("one")).await.unwrap(), OpenEpisode::default());
    world.conversations.keep(&talk("one"), vec![said(Role::User, "four", 4)], None).await.unwrap();
    let open = world.conversations.open(&talk("one")).await.unwrap();
    assert_eq!(open, OpenEpisode { after: 0, turns: 1, tokens: 1, last_ms: 4 });
}

#[tokio::test]
async fn a_look_has_an_end_in_bytes_and_in_characters() {
    let world = World::new();
    let texts: Vec<String> = (0..20).map(|number| format!("{number} word {}", "日".repeat(2000))).collect();
    fill(&world, "one", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let wanted =
        Look { newest_max: 10, matching_max: 10, text_chars_max: 1000, bytes_max: 10_000, ..look("one", "word") };
    let looked = world.conversations.look(wanted.clone()).await.unwrap();
    assert_eq!((looked.newest.len(), looked.matching.len()), (3, 3), "three bytes a character");
    assert!(looked.newest.iter().chain(&looked.matching).all(|event| event.text.chars().count() == 1000));
    assert!(looked.newest[2].text.starts_with("19 word"), "the newest");
    let none = world.conversations.look(Look { bytes_max: 1, ..wanted }).await.unwrap();
    assert_eq!((none.newest.len(), none.matching.len()), (1, 0), "the newest always");
}

#[tokio::test]
async fn an_episode_is_ended_once_and_tells_what_is_open() {
    let world = World::new();
    fill(&world, "one", &["four", "words"]).await;
    let open = world.conversations.open(&talk("one")).await.unwrap();
    assert_eq!(open, OpenEpisode { after: 0, turns: 2, tokens: 3, last_ms: 2 });
    assert_eq!(world.conversations.idle(2, 10).await.unwrap(), [talk("one")]);
    let episode = Episode { after: 0, through: 2, summary: "in short".to_owned() };
    for _ in 0..2 {
        world.conversations.keep(&talk("one"), Vec::new(), Some(episode.clone())).await.unwrap();
    }
    assert_eq!(Conversations::episodes(&world.path(), &talk("one")).unwrap(), [episode]);
    assert_eq!(world.conversations.idle(u64::MAX, 10).await.unwrap(), []);
    assert_eq!(world.conversations.open(&talk("one")).await.unwrap().last_ms, 0);
    let [(id, owner)] = &world.conversations.uncondensed(10).await.unwrap()[..] else { panic!("it is not told") };
    assert_eq!(owner, "me");
    let texts = world.conversations.episode(*id, 1, 3).await.unwrap();
    assert_eq!(
        texts.iter().map(|event| event.text.as_str()).collect::<Vec<_>>(),
        ["wor"],
        "the last, and its beginning"
    );
    world.conversations.condense(*id, Some("shorter".to_owned())).await.unwrap();
    assert_eq!(world.conversations.uncondensed(10).await.unwrap(), []);
    assert_eq!(world.conversations.look(look("one", "")).await.unwrap().episodes[0].summary, "shorter");
}

#[tokio::test]
async fn a_file_that_is_none_of_ours_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conversations.db");
    fs::write(&path, b"my diary, which is no database at all, and stays as it is").unwrap();
    assert!(matches!(Conversations::open(&path), Err(ArchiveError::Damaged(_))));
    assert!(fs::read(&path).unwrap().starts_with(b"my diary"));
    let path = folder.path().join("newer.db");
    drop(Conversations::open(&path).unwrap());
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let Err(ArchiveError::Damaged(what)) = Conversations::open(&path) else { panic!("it was opened") };
    assert!(what.contains("newer kloros"), "{what}");
}

#[tokio::test]
async fn a_text_without_end_is_cut_at_a_character() {
    let world = World::new();
    fill(&world, "one", &[&"日".repeat(200_000)]).await;
    let events = Conversations::events(&world.path(), &talk("one"), 0, 10).unwrap();
    assert_eq!(events[0].text.len(), 256 * 1024 / 3 * 3);
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    fill(&world, "one", &["hello"]).await;
    for file in ["conversations.db", "conversations.db-wal"] {
        let mode = fs::metadata(world.path().with_file_name(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_conversations_at_once_lose_and_mix_up_nothing() {
    let world = World::new();
    let talks = (0..32).map(|number| {
        let conversations = world.conversations.clone();
        tokio::spawn(async move {
            for turn in 0..20 {
                let name = format!("talk-{number}");
                let text = format!("{name} turn {turn}");
                conversations.keep(&talk(&name), vec![said(Role::User, &text, turn)], None).await.unwrap();
                let looked = conversations.look(look(&name, "turn")).await.unwrap();
                assert!(
                    looked
                        .newest
                        .iter()
                        .chain(&looked.matching)
                        .all(|event| event.text.starts_with(&format!("{name} ")))
                );
                assert_eq!(looked.newest.last().unwrap().text, text);
            }
        })
    });
    for done in futures::future::join_all(talks).await {
        done.unwrap();
    }
    let headings = Conversations::headings(&world.path(), None, 100).unwrap();
    assert!(headings.len() == 32 && headings.iter().all(|heading| heading.events == 20));
}
