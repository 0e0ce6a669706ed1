//! Notices: a person is told at once when something waits for them, was rolled back, is stuck or was stopped.
//!
//! The journal is the queue: the room follows it, so that nothing is lost while a receiver is down and nothing is held in memory but
//! what is sent just now. Too many at once are counted and left out. Receivers get what they cannot act on by themselves: an answer is
//! given with `kloros approve` or in the console. What cannot wait has a lane of its own, in which nothing else is tried again first.
//! Invariant: the address is a secret, and stands in no log, error or fact.

mod notice;

use std::{collections::VecDeque, sync::Arc};

use kloros_actors::{
    facts::Kind,
    meters,
    seams::{Journal as _, Query},
};

use crate::{home::Home, journal::Store, post::Post, settings::Notices, told::Told};
use notice::Notice;

/// How many facts are read at once.
const FACTS_AT_ONCE: usize = 500;

/// What is told one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Somebody stopped everything, or an undo failed: a person wants to know at once.
    Urgent,
    /// Everything else.
    Rest,
}

impl Lane {
    /// Returns the name of the note of how far was told in it.
    fn note(self) -> &'static str {
        match self {
            Self::Urgent => "notices_urgent",
            Self::Rest => "notices",
        }
    }

    fn carries(self, about: &str) -> bool {
        ["stop", "stuck"].contains(&about) == (self == Self::Urgent)
    }

    /// Returns up to where was told in it by an earlier daemon; see [`Told::open`].
    async fn told(self, home: &Home, notices: &Notices, newest_and_otherwise: (u64, u64)) -> Told {
        Told::open(home, self.note(), !notices.url_file.as_os_str().is_empty(), newest_and_otherwise).await
    }
}

/// Up to where was told in each lane.
pub(crate) struct Lanes {
    urgent: Told,
    rest: Told,
}

impl Lanes {
    /// Returns up to where earlier daemons told; where none told, up to the fact `newest`.
    pub(crate) async fn open(home: &Home, notices: &Notices, newest: u64) -> Self {
        let rest = Lane::Rest.told(home, notices, (newest, newest)).await;
        // A daemon that had one lane told both in it.
        let urgent = Lane::Urgent.told(home, notices, (newest, rest.seq())).await;
        Self { urgent, rest }
    }
}

/// Tells in both lanes for as long as it runs.
pub(crate) async fn tell(home: Home, notices: Notices, store: Store, lanes: Arc<Lanes>) -> Result<(), String> {
    let urgent = tell_in(Lane::Urgent, &home, &notices, &store, &lanes.urgent);
    let rest = tell_in(Lane::Rest, &home, &notices, &store, &lanes.rest);
    tokio::try_join!(urgent, rest).map(drop)
}

/// Tells what happens after what was `told` for as long as it runs, and moves that on, so that a restart tells nothing twice but what was
/// being sent; for ever, and nobody, where no address is set.
async fn tell_in(lane: Lane, home: &Home, notices: &Notices, store: &Store, told: &Told) -> Result<(), String> {
    let Some(post) = way(home, notices).await else { return std::future::pending().await };
    let mut appended = store.appended();
    loop {
        let mut after = told.seq();
        for (seq, notice) in pending(lane, store, notices, &mut after).await? {
            deliver(&post, notices, &notice).await;
            told.told(seq).await;
        }
        told.passed(after).await;
        appended.changed().await.map_err(|error| error.to_string())?;
    }
}

/// Returns the way to whoever is told, `None` for nobody. A start of the daemon refuses an address that cannot be used; where it went bad
/// since, that is said, and it is looked at again, ever more seldom: the rooms beside this one have nothing to do with it.
async fn way(home: &Home, notices: &Notices) -> Option<Post> {
    for tries in 1_u32.. {
        let found = notices.address(home.root()).and_then(|uri| uri.map(Post::to).transpose());
        match found {
            Ok(post) => return post,
            Err(why) => tracing::warn!(tries, %why, "notices.url_file cannot be used, nobody is told"),
        }
        tokio::time::sleep(notices.pause(tries)).await;
    }
    None
}

/// Returns what is to be told of the facts after `after`, each with the number of its fact, the newest of them where there are too many.
async fn pending(
    lane: Lane,
    store: &Store,
    notices: &Notices,
    after: &mut u64,
) -> Result<VecDeque<(u64, Notice)>, String> {
    let kinds = [Kind::Ruling, Kind::Verdict, Kind::Step, Kind::Switch, Kind::LoanStep];
    let most = notices.waiting_max as usize;
    let mut found = VecDeque::new();
    let (mut left_out, mut last_left_out) = (0_usize, (0, 0));
    loop {
        let query = Query { after: *after, limit: FACTS_AT_ONCE, ..Query::kinds(&kinds) };
        let facts = store.read(query).await.map_err(|error| error.to_string())?;
        let is_all = facts.len() < FACTS_AT_ONCE;
        for recorded in facts {
            *after = recorded.seq;
            let wanted =
                |notice: &Notice| lane.carries(notice.about) && notices.about.iter().any(|about| about == notice.about);
            let Some(notice) = Notice::of(&recorded).filter(wanted) else { continue };
            found.push_back((recorded.seq, recorded.at_ms, notice));
            if found.len() > most
                && let Some((seq, at_ms, _)) = found.pop_front()
            {
                (left_out, last_left_out) = (left_out + 1, (seq, at_ms));
            }
        }
        if is_all {
            break;
        }
    }
    let mut told: VecDeque<_> = found.into_iter().map(|(seq, _, notice)| (seq, notice)).collect();
    if left_out > 0 {
        metrics::counter!(meters::NOTICES_TOTAL, "outcome" => "left_out").increment(left_out as u64);
        let (seq, at_ms) = last_left_out;
        told.push_front((seq, Notice::left_out(left_out, at_ms)));
    }
    Ok(told)
}

async fn deliver(post: &Post, notices: &Notices, notice: &Notice) {
    let spelled = notice.spell(notices.form);
    let within = std::time::Duration::from_secs_f64(notices.timeout_s);
    for tries in 1..=notices.tries_max {
        match post.send(&spelled.headers, &spelled.body, within).await {
            Ok(()) => {
                metrics::counter!(meters::NOTICES_TOTAL, "outcome" => "sent").increment(1);
                return;
            }
            Err(why) => tracing::warn!(about = notice.about, tries, %why, "notice not delivered"),
        }
        if tries < notices.tries_max {
            tokio::time::sleep(notices.pause(tries)).await;
        }
    }
    metrics::counter!(meters::NOTICES_TOTAL, "outcome" => "failed").increment(1);
    tracing::error!(about = notice.about, title = %notice.title, "notice given up");
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

    use axum::{Router, http::StatusCode, routing::post};
    use kloros_actors::{
        facts::{CycleId, Entry, Fact, Stop, Switch},
        seams::Journal as _,
    };
    use tokio::sync::mpsc;

    use super::*;
    use crate::journal;

    /// Serves a webhook that refuses the first `refusals`, and returns its address and what it hears.
    async fn receiver(refusals: usize) -> (String, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel(100);
        let left = Arc::new(std::sync::atomic::AtomicUsize::new(refusals));
        let hear = post(move |body: String| {
            let (sender, left) = (sender.clone(), Arc::clone(&left));
            async move {
                let count = left.load(std::sync::atomic::Ordering::SeqCst);
                if count > 0 {
                    left.store(count - 1, std::sync::atomic::Ordering::SeqCst);
                    return StatusCode::INTERNAL_SERVER_ERROR;
                }
                sender.try_send(body).ok();
                StatusCode::OK
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/secret-path", listener.local_addr().unwrap());
        let app = Router::new().route("/secret-path", hear);
        tokio::spawn(async move { axum::serve(listener, app).await });
        (url, receiver)
    }

    fn stopped(why: &str) -> Entry {
        let stop = Some(Stop { why: why.to_owned(), by_uid: Some(1) });
        Entry::new(&CycleId::new("c-1"), 1, Fact::Switch(Switch { stop }))
    }

    fn house(url: &str) -> (tempfile::TempDir, Home, Notices) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        home.create().unwrap();
        fs::write(folder.path().join("hook"), format!("{url}\n")).unwrap();
        fs::set_permissions(folder.path().join("hook"), fs::Permissions::from_mode(0o600)).unwrap();
        let notices = Notices { url_file: "hook".into(), retry_after_s: 0.01, waiting_max: 3, ..Notices::default() };
        (folder, home, notices)
    }

    #[tokio::test]
    async fn a_receiver_that_was_down_is_told_and_a_flood_is_counted_instead() {
        let (url, mut heard) = receiver(2).await;
        let (_folder, home, notices) = house(&url);
        let store = journal::open(&home).unwrap();
        store.append((0..5).map(|number| stopped(&format!("number {number}"))).collect()).await.unwrap();
        let told = Arc::new(Lanes::open(&home, &notices, 0).await);
        let telling = tokio::spawn(tell(home, notices, store, told));
        let mut texts = Vec::new();
        for _ in 0..4 {
            texts.push(next(&mut heard).await);
        }
        telling.abort();
        assert!(texts[0].contains("2 notices were left out"), "{texts:?}");
        assert!(texts[1].contains("number 2") && texts[3].contains("number 4"), "{texts:?}");
    }

    async fn next(heard: &mut mpsc::Receiver<String>) -> String {
        tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn what_happens_between_two_runs_is_told_by_the_second_and_nothing_twice() {
        let (url, mut heard) = receiver(0).await;
        let (_folder, home, notices) = house(&url);
        let store = journal::open(&home).unwrap();
        store.append(vec![stopped("before any run")]).await.unwrap();
        let newest = *store.appended().borrow();
        let told = Arc::new(Lanes::open(&home, &notices, newest).await);
        store.append(vec![stopped("by the first start")]).await.unwrap();
        let telling = tokio::spawn(tell(home.clone(), notices.clone(), store.clone(), Arc::clone(&told)));
        assert!(next(&mut heard).await.contains("by the first start"));
        // One is noted before the next is sent.
        store.append(vec![stopped("a mark")]).await.unwrap();
        assert!(next(&mut heard).await.contains("a mark"));
        telling.abort();
        telling.await.unwrap_err();
        store.append(vec![stopped("while none ran")]).await.unwrap();
        let newest = *store.appended().borrow();
        let told = Arc::new(Lanes::open(&home, &notices, newest).await);
        let telling = tokio::spawn(tell(home, notices, store, told));
        let mut texts = vec![next(&mut heard).await];
        if texts[0].contains("a mark") {
            // It was cut off between sending that and noting it.
            texts.push(next(&mut heard).await);
        }
        telling.abort();
        assert!(texts.last().unwrap().contains("while none ran"), "{texts:?}");
        assert!(texts.iter().all(|text| !text.contains("first start") && !text.contains("before")), "{texts:?}");
    }

    #[tokio::test]
    async fn an_address_that_went_bad_is_waited_for_and_no_error_repeats_it() {
        let (url, mut heard) = receiver(0).await;
        let (folder, home, notices) = house(&url);
        let post = Post::to("http://127.0.0.1:1/very-secret".parse().unwrap()).unwrap();
        let why = post.send(&[], "text", Duration::from_secs(5)).await.unwrap_err();
        assert!(!why.contains("secret"), "{why}");
        let hook = folder.path().join("hook");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o644)).unwrap();
        let store = journal::open(&home).unwrap();
        let told = Arc::new(Lanes::open(&home, &notices, 0).await);
        store.append(vec![stopped("in vain")]).await.unwrap();
        let telling = tokio::spawn(tell(home, notices, store, told));
        assert!(tokio::time::timeout(Duration::from_millis(100), heard.recv()).await.is_err());
        assert!(!telling.is_finished());
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(next(&mut heard).await.contains("in vain"));
        telling.abort();
    }

    /// Once what could not be delivered was tried again and again before a stop was told.
    #[tokio::test]
    async fn a_stop_waits_for_nothing_that_is_tried_again() {
        let (sender, mut heard) = mpsc::channel(100);
        let hear = post(move |body: String| {
            let sender = sender.clone();
            async move {
                if body.contains("rollback") {
                    return StatusCode::INTERNAL_SERVER_ERROR;
                }
                sender.try_send(body).ok();
                StatusCode::OK
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", hear)).await });
        let (_folder, home, notices) = house(&url);
        let notices = Notices { retry_after_s: 600.0, ..notices };
        let store = journal::open(&home).unwrap();
        let undone = journal::one_of_each().into_iter().filter(
            |fact| matches!(fact, Fact::Verdict(verdict) if verdict.outcome == kloros_actors::facts::Ruled::Rollback),
        );
        let undone = undone.map(|fact| Entry::new(&CycleId::new("c-2"), 1, fact));
        store.append(undone.chain([stopped("at once")]).collect()).await.unwrap();
        let lanes = Arc::new(Lanes::open(&home, &notices, 0).await);
        let telling = tokio::spawn(tell(home, notices, store, lanes));
        assert!(next(&mut heard).await.contains("at once"));
        telling.abort();
    }
}
