use std::fs;

use kloros_actors::{
    facts::{Episode, OpenEpisode, Role, Talk},
    memory::words,
    seams::{Archive as _, ArchiveError, Look},
};

use super::{World, said, talk};
use crate::archive::{Conversations, forget, row::id_of};

fn look(name: &str, asked: &str) -> Look {
    Look { talk: talk(name), words: words::telling(asked), since_ms: 0, newest_max: 3, matching_max: 5, others: false }
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
    assert_eq!(world.conversations.forget(&talk("gone")).await.unwrap(), Some(117));
    // Words are cut after five letters in the index; numbers stand there whole.
    for needle in ["Zanzibarquartz", "pumpernickelsecret", "zanzi", "pumpe", "271828182"] {
        assert!(!world.holds(needle.as_bytes()), "{needle} is still there");
    }
    assert_eq!(Conversations::events(&world.path(), &talk("gone"), 0, 10).unwrap(), []);
    assert_eq!(Conversations::headings(&world.path(), None, 10).unwrap().len(), 1);
    assert_eq!(world.conversations.look(look("stays", "words")).await.unwrap().count, 39);
    assert_eq!(world.conversations.forget(&talk("gone")).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_too_old_is_forgotten_with_its_summary_and_the_rest_stays() {
    let world = World::new();
    fill(&world, "one", &["Oldoldword", "middle", "new"]).await;
    let episode = Episode { after: 0, through: 2, summary: "Oldoldword".to_owned() };
    world.conversations.keep(&talk("one"), Vec::new(), Some(episode)).await.unwrap();
    assert_eq!(world.conversations.prune(2, 100).await.unwrap(), 1);
    assert!(!world.holds(b"Oldoldword") && !world.holds(b"oldol"));
    let looked = world.conversations.look(look("one", "middle")).await.unwrap();
    assert_eq!((looked.newest.len(), looked.summary), (2, None));
    assert_eq!(world.conversations.forget_before(100).await.unwrap(), 2);
    assert_eq!(Conversations::headings(&world.path(), None, 10).unwrap(), []);
}

#[tokio::test]
async fn forgetting_that_failed_half_way_is_completed_when_it_is_done_once_more() {
    let world = World::new();
    fill(&world, "gone", &["Zanzibarquartz"]).await;
    let half = |connection: &mut rusqlite::Connection| {
        let id = id_of(connection, &talk("gone"))?.expect("it is there");
        forget::forget(connection, id)
    };
    assert_eq!(world.conversations.write(half).await.unwrap(), 1);
    assert!(world.holds(b"Zanzibarquartz"), "the log still holds it");
    assert_eq!(world.conversations.forget(&talk("gone")).await.unwrap(), None);
    assert!(!world.holds(b"Zanzibarquartz"));
    fill(&world, "old", &["Pumpernickelsecret"]).await;
    let half = |connection: &mut rusqlite::Connection| forget::forget_old(connection, 100, 10);
    assert_eq!(world.conversations.write(half).await.unwrap(), 1);
    assert!(world.holds(b"Pumpernickelsecret"), "the log still holds it");
    assert_eq!(world.conversations.prune(100, 10).await.unwrap(), 0);
    assert!(!world.holds(b"Pumpernickelsecret"));
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
    let (id, events) = world.conversations.uncondensed(10).await.unwrap().unwrap();
    assert_eq!(events.len(), 2);
    world.conversations.condense(id, Some("shorter".to_owned())).await.unwrap();
    assert_eq!(world.conversations.uncondensed(10).await.unwrap(), None);
    assert_eq!(world.conversations.look(look("one", "")).await.unwrap().summary.as_deref(), Some("shorter"));
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
