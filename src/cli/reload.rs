//! `kloros reload`: the running daemon reads its settings again.

use anyhow::bail;
use clap::Args;
use kloros_actors::facts::Reloaded;

use super::{
    Answer,
    client::{Client, Said},
    out::Out,
    progress,
};
use crate::{api::ReloadBody, home::Home};

/// How the settings are read again.
#[derive(Args)]
pub(crate) struct ReloadArgs {
    /// Wait for what comes of it, and end with 1 where the settings are refused
    #[arg(long)]
    wait: bool,
}

pub(super) async fn reload(home: &Home, args: &ReloadArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let client = Client::to(home)?;
    let body = ReloadBody { wait: args.wait };
    let outcome = match client.post::<Option<Reloaded>>("/reload", &body).await? {
        Said::Yes(outcome) => outcome,
        Said::No(why) => bail!(why),
    };
    out.answer(&outcome, || words(outcome.as_ref()))?;
    Ok(if matches!(outcome, Some(Reloaded::Refused { .. })) { Answer::No } else { Answer::Done })
}

fn words(outcome: Option<&Reloaded>) -> String {
    match outcome {
        None => "asked\nkloros status".to_owned(),
        Some(Reloaded::Refused { problems }) => {
            format!("refused, the old settings stay in force\n{}\nkloros check-config", problems.join("\n"))
        }
        Some(outcome) => match progress::outcome(outcome) {
            said if said.is_empty() => "nothing to change".to_owned(),
            said => said,
        },
    }
}
