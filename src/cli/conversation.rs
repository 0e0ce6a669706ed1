//! `kloros conversation`: the conversation endpoint as a program of its own, and what its domain file asks for.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use super::{Answer, out::Out};
use crate::{
    archive::Conversations,
    conversation::{Alone, Kept, Knobs, Measurement, alone, measure},
    home::Home,
    settings::{self, Talking},
};

#[derive(Subcommand)]
pub(super) enum ConversationCommand {
    /// Hold conversations until it is told to end, in front of the model server, apart from the daemon
    Serve(ServeArgs),
    /// The same to be measured: with conversations that were written for that, and keeping nothing
    Trial(TrialArgs),
    /// Ask in the conversations of such a trial, and print one JSON object of numbers; no other endpoint is asked anything
    Measure(MeasureArgs),
}

#[derive(Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
pub(super) struct TrialArgs {
    #[command(flatten)]
    how: How,
    /// Where the conversations are put that it is measured with: a file that is not there
    #[arg(long, value_name = "FILE")]
    memory: PathBuf,
}

#[derive(Args)]
struct How {
    /// The port on loopback [default: where conversation.listen says]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The model server [default: conversation.upstream]
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The configuration file [default: kloros.toml in the home, else what is built in]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    knobs: Knobs,
}

#[derive(Args)]
pub(super) struct MeasureArgs {
    /// The port of the trial
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The model [default: the first that the server has]
    #[arg(long)]
    model: Option<String>,
    /// How many ask at the same time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// In how many of the conversations is asked [default: in all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    asks: Option<u16>,
    /// In which order, and in which of them
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long an answer may take, in seconds
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// How the endpoint cannot be served: starting it again would change nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotSet(String);

impl NotSet {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl How {
    /// Returns the endpoint that is wanted, or says what is missing.
    fn endpoint(self, home: &Home, kept: impl FnOnce() -> anyhow::Result<Kept>) -> anyhow::Result<Alone> {
        let mut talking = settings::talking(home.root(), self.config.as_deref())?;
        let conversation = &mut talking.conversation;
        if let Some(port) = self.port {
            conversation.listen = SocketAddr::from(([127, 0, 0, 1], port)).to_string();
        }
        conversation.upstream = self.upstream.unwrap_or_else(|| conversation.upstream.clone());
        if conversation.upstream.is_empty() {
            return Err(
                NotSet::new("no model server is named: pass --upstream, or set upstream under [conversation]").into()
            );
        }
        let missing = || NotSet::new("no port is named: pass --port, or set listen under [conversation]");
        let address = conversation.address().ok_or_else(missing)?;
        // What stands in the files may change while it serves; what was typed counts all the same.
        let (home, config, knobs) = (home.root().to_owned(), self.config, self.knobs);
        let set = move |mut talking: Talking| knobs.put_into(&mut talking).map(|()| talking).map_err(NotSet::new);
        let talking = set(talking)?;
        let reread = Box::new(move || {
            let read = settings::talking(&home, config.as_deref()).map_err(|complaints| complaints.to_string())?;
            set(read).map(|talking| talking.memory).map_err(|error| error.to_string())
        });
        Ok(Alone { talking, address, kept: kept()?, reread })
    }
}

pub(super) async fn conversation(home: &Home, command: ConversationCommand) -> anyhow::Result<Answer> {
    match command {
        ConversationCommand::Serve(ServeArgs { how }) => {
            let kept = || {
                home.create()?;
                Ok(Kept::In(Conversations::open(&home.conversations())?))
            };
            alone(how.endpoint(home, kept)?).await?;
        }
        ConversationCommand::Trial(TrialArgs { how, memory }) => {
            alone(how.endpoint(home, || Ok(Kept::Nowhere(memory)))?).await?;
        }
        ConversationCommand::Measure(MeasureArgs { port, model, clients, asks, seed, timeout }) => {
            let (asks, within) = (asks.map(usize::from), Duration::from_secs(timeout));
            let measurement = Measurement { port, model, clients: usize::from(clients), asks, seed, within };
            // Programs read it.
            Out::new(true).answer(&measure(&measurement).await?, String::new)?;
        }
    }
    Ok(Answer::Done)
}
