//! `kloros chat`: a conversation in the terminal, through the endpoint of the running daemon.

use std::{io::Write as _, time::Duration};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::{
    Answer, memory,
    out::Out,
    text::{shorten, tame},
};
use crate::{
    bench::sse::Parser,
    conversation::{EXPLAIN_HEADER, LOCAL, NAME_HEADER},
    home::Home,
    settings::Settings,
};

#[derive(Args)]
pub(crate) struct ChatArgs {
    /// The conversation to go on with
    #[arg(default_value = "chat")]
    name: String,
    /// The model [default: the first that the server has]
    #[arg(long)]
    model: Option<String>,
    /// The endpoint [default: where conversation.listen in `kloros.toml` says]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

const HELP: &str =
    "/topics what it is about   /context what was put before the model, and why   /forget forget it all   /quit";

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

struct Chat {
    http: reqwest::Client,
    url: String,
    model: String,
    name: String,
    /// Whether the endpoint is that of this home, in which what is said is kept.
    is_of_home: bool,
    /// What was put before the model last.
    told: Value,
}

pub(super) async fn chat(home: &Home, args: ChatArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let (url, is_of_home) = match args.url {
        Some(url) => {
            let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
            let is_of_home = configured(home).is_ok_and(|own| own == url);
            (url, is_of_home)
        }
        None => (configured(home)?, true),
    };
    let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_MAX).build()?;
    let model = match args.model {
        Some(model) => model,
        None => first_model(&http, &url).await?,
    };
    let mut chat = Chat { http, url, model, name: args.name, is_of_home, told: Value::Null };
    if out.is_terminal() {
        out.line(&format!("{} as {}\n{HELP}", chat.model, chat.name))?;
    }
    while let Some(line) = next(out).await? {
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => break,
            "/topics" => out.line(&chat.topics())?,
            "/context" => out.line(&chat.context())?,
            "/forget" if chat.is_of_home => {
                forget(home, &chat.name, out).await?;
                chat.told = Value::Null;
            }
            "/forget" => {
                let (url, name) = (&chat.url, &chat.name);
                out.line(&format!(
                    "what is said at {url} is kept there, and forgotten there: kloros memory forget {name}"
                ))?;
            }
            command if command.starts_with('/') => out.line(&format!("there is no {command}\n{HELP}"))?,
            text => chat.say(text, out).await?,
        }
    }
    Ok(Answer::Done)
}

fn configured(home: &Home) -> anyhow::Result<String> {
    let settings = Settings::load(home.root(), None)?;
    let address = settings.conversation.address();
    let address =
        address.context("no endpoint is configured: set listen and upstream under [conversation], or pass --url")?;
    Ok(format!("http://{address}"))
}

async fn first_model(http: &reqwest::Client, url: &str) -> anyhow::Result<String> {
    let models = http.get(format!("{url}/v1/models")).send().await;
    let models = models.with_context(|| format!("nobody answers at {url}; start it with `kloros run`"))?;
    let models: Value = models.json().await.context("the list of models cannot be read")?;
    Ok(models["data"][0]["id"].as_str().unwrap_or("default").to_owned())
}

async fn next(out: &Out) -> anyhow::Result<Option<String>> {
    if out.is_terminal() {
        show("> ")?;
    }
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await?;
    Ok(line.transpose()?)
}

async fn forget(home: &Home, name: &str, out: &mut Out) -> anyhow::Result<()> {
    if home.conversations().exists() {
        // What cannot be forgotten now can be said again.
        if let Err(error) = memory::forget(home, name, Some(LOCAL), out).await {
            out.line(&format!("{error:#}"))?;
        }
    }
    Ok(())
}

/// Shows a piece of an answer at once.
fn show(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "{}", tame(text))?;
    stdout.flush()
}

impl Chat {
    /// Says `text`, which alone is sent: what was said before is remembered.
    async fn say(&mut self, text: &str, out: &mut Out) -> anyhow::Result<()> {
        let body = json!({"model": self.model, "stream": true, "messages": [{"role": "user", "content": text}]});
        let request = self.http.post(format!("{}/v1/chat/completions", self.url)).json(&body);
        let request = request.header(NAME_HEADER, &self.name).header(EXPLAIN_HEADER, "1");
        let mut response = request.send().await.with_context(|| format!("nobody answers at {}", self.url))?;
        if !response.status().is_success() {
            let (status, body) = (response.status(), response.json::<Value>().await.unwrap_or_default());
            out.line(&format!("no answer: {}", body["error"]["message"].as_str().unwrap_or(status.as_str())))?;
            return Ok(());
        }
        let (mut parser, mut answer) = (Parser::default(), String::new());
        // An answer that fails ends no conversation: the next one may not.
        let broken = loop {
            let events = match response.chunk().await {
                Ok(Some(bytes)) => parser.push(&bytes).map_err(|error| error.to_string()),
                Ok(None) => break None,
                Err(error) => Err(error.to_string()),
            };
            let events = match events {
                Ok(events) => events,
                Err(why) => break Some(why),
            };
            let mut why = None;
            for event in events {
                why = why.or(self.take(&event, &mut answer, out)?);
            }
            if why.is_some() {
                break why;
            }
        };
        if let Some(why) = broken {
            out.line(&format!("\nthe answer broke off: {why}"))?;
            return Ok(());
        }
        if out.is_json() {
            out.answer(&json!({"answer": answer, "context": self.told}), String::new)?;
        } else {
            out.line("")?;
        }
        Ok(())
    }

    /// Takes a piece of an answer, and returns why there is none where it is an error.
    fn take(&mut self, event: &str, answer: &mut String, out: &Out) -> anyhow::Result<Option<String>> {
        let Ok(mut event) = serde_json::from_str::<Value>(event) else { return Ok(None) };
        if let Some(message) = event["error"]["message"].as_str() {
            return Ok(Some(message.to_owned()));
        }
        if let Some(told) = event.get_mut("kloros") {
            self.told = told.take();
        }
        let piece = event["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        answer.push_str(piece);
        if !out.is_json() {
            show(piece)?;
        }
        Ok(None)
    }

    fn topics(&self) -> String {
        let topics = self.told["topics"].as_array().map(Vec::as_slice).unwrap_or_default();
        let topics: Vec<&str> = topics.iter().filter_map(Value::as_str).collect();
        if topics.is_empty() { "no topic yet".to_owned() } else { topics.join(", ") }
    }

    fn context(&self) -> String {
        let context = self.told["context"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut lines = Vec::new();
        if self.told["memory"] == false {
            lines.push("the memory did not answer: the request went on without".to_owned());
        }
        if let Some(summary) = self.told["summary"].as_str() {
            lines.push(format!("in short       {}", shorten(summary, 160)));
        }
        for chosen in context {
            let (role, text) = (chosen["role"].as_str().unwrap_or("?"), chosen["text"].as_str().unwrap_or_default());
            lines.push(format!("{:14} {role}: {}", chosen["why"].as_str().unwrap_or("?"), shorten(text, 160)));
        }
        if lines.is_empty() { "nothing was put before the model".to_owned() } else { lines.join("\n") }
    }
}
