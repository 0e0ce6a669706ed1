//! What happens, as it happens: server-sent events of facts and rooms, each reader with a bounded queue of its own.
//!
//! Invariant: who reads slowly is told that it missed something and let go, and holds up nobody; a fact has its place in the journal
//! as its id, so that who comes back with the last one misses nothing.

use std::convert::Infallible;

use axum::{
    extract::{Query as Asked, State},
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;
use kloros_actors::{
    facts::Recorded,
    seams::{Journal as _, Query},
};
use kloros_supervision::{Event as RoomEvent, EventKind};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{broadcast, mpsc};

use super::{Api, refusal};
use crate::{cli::heard, traces::trace_id};

/// How many facts are read at once for a reader that lags behind.
const FACTS_AT_ONCE: usize = 200;

/// How far back a reader may begin, in facts; further back are the lists.
const FACTS_BACK_MAX: u64 = 1_000;

/// How often a quiet stream says that it lives.
const ALIVE_EVERY: std::time::Duration = std::time::Duration::from_secs(15);

/// What a reader asks for who has no last id yet.
#[derive(Deserialize)]
pub(super) struct Back {
    /// How many facts from before are told first.
    back: Option<u64>,
}

/// One event, before it is spelled.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    name: &'static str,
    id: Option<u64>,
    data: serde_json::Value,
}

impl Told {
    fn fact(recorded: &Recorded) -> Self {
        let data = json!({
            "seq": recorded.seq, "cycle": recorded.cycle, "trace": trace_id(&recorded.cycle), "at_ms": recorded.at_ms,
            "kind": recorded.fact.kind().label(), "subject": recorded.fact.subject(), "words": heard(&recorded.fact),
        });
        Self { name: "fact", id: Some(recorded.seq), data }
    }

    fn room(event: &RoomEvent) -> Option<Self> {
        let (what, why) = match &event.kind {
            EventKind::Started => ("started", None),
            EventKind::StartFailed { reason } => ("not started", Some(reason)),
            EventKind::Failed { reason, .. } => ("failed", Some(reason)),
            EventKind::RestartScheduled { .. } => ("is restarted", None),
            _ => return None,
        };
        let data = json!({"path": event.path, "what": what, "why": why, "generation": event.generation});
        Some(Self { name: "room", id: None, data })
    }

    fn dropped() -> Self {
        let why = "you read more slowly than things happen: connect again, with the last id for what you missed";
        Self { name: "dropped", id: None, data: json!({ "why": why }) }
    }

    fn spell(self) -> Event {
        let event = Event::default().event(self.name).data(self.data.to_string());
        self.id.map_or(event.clone(), |id| event.id(id.to_string()))
    }
}

/// The queue of one reader, from the side of who tells. Its last place is kept for the notice that it is full.
struct Queue(mpsc::Sender<Told>);

/// That the reader is not told any more: it is gone, or was let go.
#[derive(Debug, PartialEq, Eq)]
struct Over;

impl Queue {
    /// Tells the reader, or lets it go.
    fn tell(&self, told: Told) -> Result<(), Over> {
        if self.0.capacity() > 1 {
            return self.0.try_send(told).map_err(|_| Over);
        }
        tracing::info!("reader of events is too slow, and let go");
        self.0.try_send(Told::dropped()).ok();
        Err(Over)
    }

    /// Waits until there is room for one more beside the notice.
    async fn has_room(&self) -> Result<(), Over> {
        self.0.reserve_many(2).await.map(drop).map_err(|_| Over)
    }
}

/// Tells what happens from now on, or from the last event that the reader has heard of.
pub(super) async fn events(State(api): State<Api>, Asked(asked): Asked<Back>, headers: HeaderMap) -> Response {
    let Ok(place) = api.readers.clone().try_acquire_owned() else {
        return refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many read events: api.event_readers_max says how many may",
        );
    };
    let Some(rooms) = api.control.events() else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the house is being started");
    };
    let newest = *api.journal.appended().borrow();
    let heard = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse::<u64>().ok());
    let wanted = heard.unwrap_or_else(|| newest.saturating_sub(asked.back.unwrap_or(0)));
    let after = wanted.clamp(newest.saturating_sub(FACTS_BACK_MAX), newest);
    let (sender, receiver) = mpsc::channel(api.reached.events_waiting_max.max(2) as usize);
    // The first word comes at once: whoever stands between must not wait for one before they pass anything on.
    sender.try_send(Told { name: "here", id: None, data: json!({ "newest": newest }) }).ok();
    let feeding = tokio::spawn(feed(api.clone(), Queue(sender), rooms, after));
    // Both end with the stream, which ends with the connection.
    let kept = (place, AbortOnDrop(feeding));
    let stream = stream::unfold((receiver, kept), |(mut receiver, kept)| async move {
        let told: Told = receiver.recv().await?;
        Some((Ok::<Event, Infallible>(told.spell()), (receiver, kept)))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)).into_response()
}

struct AbortOnDrop(tokio::task::JoinHandle<Over>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Fills the queue of one reader until it is gone or let go.
async fn feed(api: Api, queue: Queue, mut rooms: broadcast::Receiver<RoomEvent>, mut after: u64) -> Over {
    let mut appended = api.journal.appended();
    loop {
        match catch_up(&api, &queue, &mut after).await {
            Ok(()) => {}
            Err(over) => return over,
        }
        tokio::select! {
            changed = appended.changed() => if changed.is_err() { return Over },
            event = rooms.recv() => {
                let told = match event {
                    Ok(event) => Told::room(&event).map_or(Ok(()), |told| queue.tell(told)),
                    Err(broadcast::error::RecvError::Lagged(_)) => Ok(()),
                    Err(broadcast::error::RecvError::Closed) => Err(Over),
                };
                if let Err(over) = told { return over }
            }
        }
    }
}

/// Tells what is in the journal after `after`. What happened before is waited with, what happens now is not.
async fn catch_up(api: &Api, queue: &Queue, after: &mut u64) -> Result<(), Over> {
    loop {
        let query = Query { after: *after, limit: FACTS_AT_ONCE, ..Query::default() };
        let facts = api.journal.read(query).await.map_err(|_| Over)?;
        let is_all = facts.len() < FACTS_AT_ONCE;
        for recorded in facts {
            *after = recorded.seq;
            if !is_all {
                queue.has_room().await?;
            }
            queue.tell(Told::fact(&recorded))?;
        }
        if is_all {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(number: u64) -> Told {
        Told { name: "fact", id: Some(number), data: json!({}) }
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_hears_what_fits_then_that_it_was_let_go_and_then_nothing() {
        let (sender, mut receiver) = mpsc::channel(4);
        let queue = Queue(sender);
        let answers: Vec<_> = (1..=5).map(|number| queue.tell(told(number))).collect();
        assert_eq!(answers, [Ok(()), Ok(()), Ok(()), Err(Over), Err(Over)]);
        drop(queue);
        let mut heard = Vec::new();
        while let Some(each) = receiver.recv().await {
            heard.push(each);
        }
        assert_eq!(heard, [told(1), told(2), told(3), Told::dropped()]);
    }

    #[tokio::test]
    async fn a_reader_that_keeps_up_is_never_let_go() {
        let (sender, mut receiver) = mpsc::channel(2);
        let queue = Queue(sender);
        for number in 1..100 {
            assert_eq!(queue.tell(told(number)), Ok(()));
            assert_eq!(receiver.recv().await, Some(told(number)));
        }
        drop(receiver);
        assert_eq!(queue.tell(told(1)), Err(Over));
    }
}
