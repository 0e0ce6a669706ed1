//! `kloros stop`, `kloros go` and `kloros thaw`: a person's word over everything.

use anyhow::Context;
use kloros_actors::seams::StopSwitch as _;

use super::{
    Answer,
    ask::no,
    client::{Client, Said},
    out::Out,
};
use crate::{api::NameBody, home::Home, stop::StopFile};

/// Stops everything, whether a daemon runs or not.
pub(super) fn stop(home: &Home, reason: &str, out: &mut Out) -> anyhow::Result<Answer> {
    home.create()?;
    let file = StopFile::of(home);
    file.pull(reason).context("the stop file cannot be written")?;
    let (stop, running) = (file.stopped(), Client::find(home)?.is_some());
    out.answer(&serde_json::json!({"stopped": stop, "running": running}), || {
        let next = if running {
            "what is not proven is undone, after a restart that is going on\nkloros status"
        } else {
            "no daemon runs; one that is started stands still\nkloros go"
        };
        format!("stopped: {next}")
    })?;
    Ok(Answer::Done)
}

/// Lets everything go on.
pub(super) fn go(home: &Home, out: &mut Out) -> anyhow::Result<Answer> {
    if !StopFile::of(home).release().context("the stop file cannot be removed")? {
        return no("nothing was stopped", out);
    }
    out.answer(&serde_json::json!({"stopped": null}), || "everything may go on\nkloros status".to_owned())?;
    Ok(Answer::Done)
}

/// Lets a frozen domain go on.
pub(super) async fn thaw(home: &Home, domain: String, out: &mut Out) -> anyhow::Result<Answer> {
    match Client::to(home)?.post::<NameBody>("/thaw", &NameBody { id: domain }).await? {
        Said::Yes(thawed) => {
            out.answer(&thawed, || format!("{} may be changed again\nkloros status", thawed.id))?;
            Ok(Answer::Done)
        }
        Said::No(why) => no(&why, out),
    }
}
