use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kloros_supervision::{ChildSpec, Socket, Strategy, TreeSpec};

use super::{Arguments, Config, Memory, Msg, Voice, Wanted};
use crate::{
    facts::{Episode, Event, Forgetting, OpenEpisode, Role, Said, Talk},
    seams::{Archive, ArchiveError, Clock as _, Look, Looked},
    testing::{World, eventually},
};

/// An archive of one conversation in memory, which fails while it is told to.
#[derive(Default)]
struct Shelf {
    events: Mutex<Vec<Event>>,
    episodes: Mutex<Vec<Episode>>,
    is_down: Mutex<bool>,
    /// How often it was rubbed out.
    rubbed_out: Mutex<u32>,
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
            let id = events.last().map_or(0, |event| event.id) + 1;
            events.push(Event { id, role, text, at_ms });
        }
        Ok(())
    }

    async fn look(&self, look: Look) -> Result<Looked, ArchiveError> {
        self.check()?;
        let events = lock(&self.events).clone();
        let newest = events[events.len().saturating_sub(look.newest_max)..].to_vec();
        let episodes = lock(&self.episodes).iter().rev().cloned().collect();
        Ok(Looked { newest, count: events.len() as u64, episodes, ..Looked::default() })
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

    async fn idle(&self, before_ms: u64, _: usize) -> Result<Vec<Talk>, ArchiveError> {
        let open = self.open(&talk()).await?;
        Ok(if open.last_ms > 0 && open.last_ms <= before_ms { vec![talk()] } else { Vec::new() })
    }

    async fn prune(&self, before_ms: u64, limit: usize) -> Result<u64, ArchiveError> {
        let mut events = lock(&self.events);
        let old: Vec<u64> =
            events.iter().filter(|event| event.at_ms < before_ms).map(|event| event.id).take(limit).collect();
        events.retain(|event| !old.contains(&event.id));
        Ok(old.len() as u64)
    }

    async fn forget(&self, what: &Forgetting) -> Result<Option<u64>, ArchiveError> {
        self.check()?;
        let before_ms = if let Forgetting::Before(before_ms) = what { *before_ms } else { u64::MAX };
        self.prune(before_ms, usize::MAX).await.map(Some)
    }

    async fn rub_out(&self, _: Duration) -> Result<(), ArchiveError> {
        *lock(&self.rubbed_out) += 1;
        Ok(())
    }
}

const WITHIN: Duration = Duration::from_secs(300);

async fn start(shelf: &Arc<Shelf>) -> (Voice, kloros_supervision::Tree) {
    let config = Config { window_h: 24 * 366, ..Config::default() };
    let (socket, tree) = open(shelf, &World::with_env(""), config).await;
    (Voice::new(socket), tree)
}

/// Opens the room on the clock of this world.
async fn open(shelf: &Arc<Shelf>, world: &World, config: Config) -> (Socket<Msg>, kloros_supervision::Tree) {
    let socket = Socket::new("memory");
    let (archive, clock): (Arc<dyn Archive>, _) = (shelf.clone(), world.seams().clock);
    let make = move || {
        let (archive, clock) = (Arc::clone(&archive), Arc::clone(&clock));
        (Memory, Arguments { archive, clock, config: config.clone() })
    };
    let root = TreeSpec::new("house", Strategy::OneForOne).child(ChildSpec::actor("memory", &socket, make));
    let tree = kloros_supervision::start(root).await.unwrap();
    (socket, tree)
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
    assert_eq!(voice.remember(wanted("anything"), WITHIN).await.unwrap().known, []);
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

/// The same turns were told in full, and then in short.
#[tokio::test]
async fn after_a_pause_nothing_is_told_twice() {
    let (shelf, world) = (Arc::new(Shelf::default()), World::with_env(""));
    let (socket, tree) = open(&shelf, &world, Config::default()).await;
    let (voice, now_ms) = (Voice::new(socket.clone()), world.clock.now_ms());
    for turn in 0..3 {
        let said = vec![
            said(Role::User, &format!("Bed {turn} has tomatoes."), now_ms),
            said(Role::Assistant, "Good.", now_ms),
        ];
        voice.say(&talk(), said).unwrap();
    }
    world.clock.pass(600);
    socket.send(Msg::Tidy).unwrap();
    let asked = async || voice.remember(wanted("How many beds?"), WITHIN).await.unwrap();
    // What is asked for may overtake what is tidied up, which is done in the room and this beside it.
    let remembered = loop {
        let remembered = asked().await;
        if lock(&shelf.episodes).len() == 1 {
            break asked().await;
        }
        drop(remembered);
    };
    assert_eq!((remembered.context.len(), remembered.summary), (6, None));
    tree.stop(WITHIN).await.unwrap();
}

#[tokio::test]
async fn what_nobody_goes_on_with_is_condensed_and_what_is_too_old_is_forgotten_by_itself() {
    let (shelf, world) = (Arc::new(Shelf::default()), World::with_env(""));
    let (socket, tree) = open(&shelf, &world, Config { retention_days: 2, ..Config::default() }).await;
    let voice = Voice::new(socket.clone());
    let tidied = async |count: u32| {
        socket.send(Msg::Tidy).unwrap();
        eventually(|| *lock(&shelf.rubbed_out) >= count).await;
    };
    voice.say(&talk(), vec![said(Role::User, "Bed 1 has tomatoes.", world.clock.now_ms())]).unwrap();
    world.clock.pass(299);
    tidied(1).await;
    assert_eq!((lock(&shelf.episodes).len(), lock(&shelf.events).len()), (0, 1), "it may go on");
    world.clock.pass(1);
    tidied(2).await;
    assert_eq!(lock(&shelf.episodes)[0].summary, "user: Bed 1 has tomatoes.");
    world.clock.pass(86_400);
    voice.say(&talk(), vec![said(Role::User, "Bed 2 has beans.", world.clock.now_ms())]).unwrap();
    world.clock.pass(86_400);
    tidied(3).await;
    let kept: Vec<String> = lock(&shelf.events).iter().map(|event| event.text.clone()).collect();
    assert_eq!(kept, ["Bed 2 has beans."]);
    tree.stop(WITHIN).await.unwrap();
}

/// It was written after what was said before it was forgotten.
#[tokio::test]
async fn what_was_said_before_it_is_forgotten_is_forgotten_with_it() {
    let shelf = Arc::new(Shelf::default());
    let (socket, tree) = open(&shelf, &World::with_env(""), Config::default()).await;
    let voice = Voice::new(socket);
    for turn in 0..50 {
        voice.say(&talk(), vec![said(Role::User, &format!("Bed {turn} has tomatoes."), 1)]).unwrap();
    }
    assert_eq!(voice.forget(Forgetting::Talk(talk()), WITHIN).await, Ok(Some(50)));
    assert_eq!((lock(&shelf.events).len(), *lock(&shelf.rubbed_out)), (0, 1));
    *lock(&shelf.is_down) = true;
    let silent = voice.forget(Forgetting::Talk(talk()), WITHIN).await.unwrap_err();
    assert!(silent.to_string().contains("the disk is full"), "{silent}");
    tree.stop(WITHIN).await.unwrap();
}
