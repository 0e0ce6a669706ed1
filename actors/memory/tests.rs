use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kloros_supervision::{ChildSpec, Socket, Strategy, TreeSpec};

use super::{Arguments, Config, Memory, Voice, Wanted};
use crate::{
    facts::{Episode, Event, OpenEpisode, Role, Said, Talk},
    seams::{Archive, ArchiveError, Look, Looked},
    testing::World,
};

/// An archive of one conversation in memory, which fails while it is told to.
#[derive(Default)]
struct Shelf {
    events: Mutex<Vec<Event>>,
    episodes: Mutex<Vec<Episode>>,
    is_down: Mutex<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    fn check(&self) -> Result<(), ArchiveError> {
        if *lock(&self.is_down) { Err(ArchiveError::Unusable("the disk is full".to_owned())) } else { Ok(()) }
    }
}

#[async_trait]
impl Archive for Shelf {
    async fn keep(&self, _: &Talk, said: Vec<Said>, closing: Option<Episode>) -> Result<(), ArchiveError> {
        self.check()?;
        lock(&self.episodes).extend(closing);
        let mut events = lock(&self.events);
        for Said { role, text, at_ms } in said {
            let id = events.len() as u64 + 1;
            events.push(Event { id, role, text, at_ms });
        }
        Ok(())
    }

    async fn look(&self, look: Look) -> Result<Looked, ArchiveError> {
        self.check()?;
        let events = lock(&self.events).clone();
        let newest = events[events.len().saturating_sub(look.newest_max)..].to_vec();
        let summary = lock(&self.episodes).last().map(|episode| episode.summary.clone());
        Ok(Looked { newest, count: events.len() as u64, summary, ..Looked::default() })
    }

    async fn open(&self, _: &Talk) -> Result<OpenEpisode, ArchiveError> {
        self.check()?;
        let after = lock(&self.episodes).last().map_or(0, |episode| episode.through);
        let open: Vec<Event> = lock(&self.events).iter().filter(|event| event.id > after).cloned().collect();
        let turns = open.iter().filter(|event| event.role == Role::User).count() as u32;
        Ok(OpenEpisode { after, turns, tokens: 0, last_ms: open.last().map_or(0, |event| event.at_ms) })
    }

    async fn since(&self, _: &Talk, after: u64, _: usize) -> Result<Vec<Event>, ArchiveError> {
        Ok(lock(&self.events).iter().filter(|event| event.id > after).cloned().collect())
    }

    async fn idle(&self, _: u64, _: usize) -> Result<Vec<Talk>, ArchiveError> {
        Ok(Vec::new())
    }

    async fn prune(&self, _: u64, _: usize) -> Result<u64, ArchiveError> {
        Ok(0)
    }
}

const WITHIN: Duration = Duration::from_secs(20);

async fn start(shelf: &Arc<Shelf>) -> (Voice, kloros_supervision::Tree) {
    let socket = Socket::new("memory");
    let (archive, clock): (Arc<dyn Archive>, _) = (shelf.clone(), World::with_env("").seams().clock);
    let make = move || {
        let (archive, clock) = (Arc::clone(&archive), Arc::clone(&clock));
        (Memory, Arguments { archive, clock, config: Config { window_h: 24 * 366, ..Config::default() } })
    };
    let root = TreeSpec::new("house", Strategy::OneForOne).child(ChildSpec::actor("memory", &socket, make));
    let tree = kloros_supervision::start(root).await.unwrap();
    (Voice::new(socket), tree)
}

fn talk() -> Talk {
    Talk::new("one", "me")
}

fn said(role: Role, text: &str, at_ms: u64) -> Said {
    Said { role, text: text.to_owned(), at_ms }
}

fn wanted(asked: &str) -> Wanted {
    Wanted { talk: talk(), asked: asked.to_owned(), given: vec![asked.to_owned()] }
}

#[tokio::test]
async fn what_is_asked_for_after_it_was_said_is_remembered() {
    let shelf = Arc::new(Shelf::default());
    let (voice, tree) = start(&shelf).await;
    let now_ms = World::with_env("").seams().clock.now_ms();
    voice
        .say(&talk(), vec![said(Role::User, "The code is 4711.", now_ms), said(Role::Assistant, "Noted.", now_ms)])
        .unwrap();
    let remembered = voice.remember(wanted("Which code?"), WITHIN).await.unwrap();
    let texts: Vec<&str> = remembered.context.iter().map(|chosen| chosen.event.text.as_str()).collect();
    assert_eq!(texts, ["The code is 4711.", "Noted."]);
    assert_eq!((remembered.answers.as_slice(), remembered.topics[0].as_str()), (&["Noted.".to_owned()][..], "code"));
    tree.stop(WITHIN).await.unwrap();
}

#[tokio::test]
async fn an_archive_that_fails_is_told_and_the_room_goes_on() {
    let shelf = Arc::new(Shelf::default());
    let (voice, tree) = start(&shelf).await;
    *lock(&shelf.is_down) = true;
    voice.say(&talk(), vec![said(Role::User, "lost", 1)]).unwrap();
    let silent = voice.remember(wanted("anything"), WITHIN).await.unwrap_err();
    assert!(silent.to_string().contains("the disk is full"), "{silent}");
    *lock(&shelf.is_down) = false;
    assert_eq!(voice.remember(wanted("anything"), WITHIN).await.unwrap().newest, []);
    tree.stop(WITHIN).await.unwrap();
}

#[tokio::test]
async fn after_twenty_turns_what_was_said_is_summed_up_and_the_conversation_goes_on() {
    let shelf = Arc::new(Shelf::default());
    let (voice, tree) = start(&shelf).await;
    let now_ms = World::with_env("").seams().clock.now_ms();
    for turn in 0..41 {
        voice.say(&talk(), vec![said(Role::User, &format!("Bed {turn} has tomatoes."), now_ms)]).unwrap();
    }
    let remembered = voice.remember(wanted("tomatoes"), WITHIN).await.unwrap();
    let episodes: Vec<(u64, u64)> =
        lock(&shelf.episodes).iter().map(|episode| (episode.after, episode.through)).collect();
    assert_eq!(episodes, [(0, 20), (20, 40)]);
    assert!(remembered.summary.unwrap().contains("tomatoes"));
    tree.stop(WITHIN).await.unwrap();
}
