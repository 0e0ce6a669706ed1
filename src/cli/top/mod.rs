//! `kloros top`: the running daemon as it is, on one screen, with keys to answer and to stop.

mod draw;

mod state;

use std::{
    io,
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{
    Answer,
    ask::no,
    client::{Client, Said},
    out::Out,
};
use crate::{
    api::{AnswerBody, Live, StopBody},
    home::Home,
};
use state::{Action, State};

/// How often the daemon is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often the thread that reads keys looks whether anybody still wants them.
const KEYS_EVERY: Duration = Duration::from_millis(200);

/// How many keys may wait.
const KEYS_MAX: usize = 32;

/// What the daemon says at one moment.
pub(super) struct Look {
    pub(super) live: Live,
    /// The stages of the loop.
    pub(super) stages: Vec<Value>,
    /// The charts of host and GPUs.
    pub(super) charts: Value,
}

pub(super) async fn top(home: &Home, out: &mut Out) -> anyhow::Result<Answer> {
    if !out.is_terminal() {
        return no("this needs a terminal; kloros status says the same in lines", out);
    }
    let client = Client::to(home)?;
    let mut terminal = ratatui::try_init()?;
    let ended = watch(&client, &mut terminal).await;
    ratatui::restore();
    ended.map(|()| Answer::Done)
}

async fn watch(client: &Client, terminal: &mut DefaultTerminal) -> anyhow::Result<()> {
    let (sender, mut keys) = mpsc::channel(KEYS_MAX);
    // Reading a terminal blocks; the thread ends when its channel is closed.
    std::thread::spawn(move || read_keys(&sender));
    let mut state = State::default();
    loop {
        state.take(look(client).await);
        let next = Instant::now() + LOOK_EVERY;
        loop {
            terminal.draw(|frame| draw::draw(frame, &state))?;
            let key = match tokio::time::timeout_at(next.into(), keys.recv()).await {
                Err(_) => break,
                Ok(None) => return Ok(()),
                Ok(Some(key)) => key,
            };
            match state.press(key) {
                None => {}
                Some(Action::Quit) => return Ok(()),
                Some(action) => {
                    let said = act(client, action).await;
                    state.say(said);
                    break;
                }
            }
        }
    }
}

fn read_keys(keys: &mpsc::Sender<KeyCode>) -> io::Result<()> {
    while !keys.is_closed() {
        if !event::poll(KEYS_EVERY)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        let code = if is_interrupt { KeyCode::Char('q') } else { key.code };
        // Keys that nobody takes in time are dropped, as on any screen that hangs.
        if key.kind == KeyEventKind::Press {
            keys.try_send(code).ok();
        }
    }
    Ok(())
}

/// Asks the daemon for all that is shown, or returns why it does not say it.
async fn look(client: &Client) -> Result<Look, String> {
    let live = get(client, "/live").await?;
    let (stages, charts) = (get(client, "/loop").await?, get(client, "/charts").await?);
    Ok(Look { live, stages, charts })
}

async fn get<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T, String> {
    match client.get(path).await {
        Ok(Said::Yes(said)) => Ok(said),
        Ok(Said::No(why)) => Err(why),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// Does what a key asked for, and returns what came of it.
async fn act(client: &Client, action: Action) -> String {
    let done = match action {
        Action::Quit => return String::new(),
        Action::Answer { id, binding, approved } => {
            let body = AnswerBody { id: id.clone(), approved, why: None, binding: Some(binding) };
            let word = if approved { "approved" } else { "rejected" };
            client.post::<Value>("/answer", &body).await.map(|said| (said, format!("{word} {id}")))
        }
        Action::Stop => {
            let body = StopBody { reason: "kloros top".to_owned() };
            client.post::<Value>("/stop", &body).await.map(|said| (said, "everything stands still".to_owned()))
        }
        Action::Go => client
            .post::<Value>("/go", &StopBody { reason: String::new() })
            .await
            .map(|said| (said, "everything goes on".to_owned())),
    };
    match done {
        Ok((Said::Yes(_), words)) => words,
        Ok((Said::No(why), _)) => why,
        Err(error) => format!("{error:#}"),
    }
}
