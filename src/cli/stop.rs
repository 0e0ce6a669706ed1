//! `kloros stop`, `kloros go` and `kloros thaw`: a person's word over everything.

use anyhow::Context;
use kloros_actors::{
    facts::{DeploymentId, Kind, Ruled, Stage, stages},
    seams::{Query, StopSwitch as _},
};

use super::{
    Answer,
    ask::no,
    client::{Client, Said},
    out::Out,
};
use crate::{api::NameBody, home::Home, journal::Reader, settings::Settings, stop::StopFile};

/// Stops everything, whether a daemon runs or not, and says at once what is in force and what still comes to its end. A daemon
/// is not waited for: it looks for itself.
pub(super) fn stop(home: &Home, reason: &str, out: &mut Out) -> anyhow::Result<Answer> {
    home.create()?;
    let file = StopFile::of(home);
    file.pull(reason).context("the stop file cannot be written")?;
    let (stop, running) = (file.stopped(), Client::find(home)?.is_some());
    // That it is in force is so whatever the journal says, and is said even where that cannot be read.
    let ends = if running {
        still_ends(home).unwrap_or_else(|error| vec![format!("what, cannot be told: {error}")])
    } else {
        vec![]
    };
    out.answer(&serde_json::json!({"stopped": stop, "running": running, "ends": ends}), || {
        if !running {
            return "stopped: no daemon runs; one that is started stands still\nkloros go".to_owned();
        }
        let mut lines = vec!["stopped: from now on nothing is measured, deployed or read from an inbox".to_owned()];
        lines.extend(ends.iter().map(|each| format!("  ends       {each}")));
        lines.push("kloros status".to_owned());
        lines.join("\n")
    })?;
    Ok(Answer::Done)
}

/// Returns what was begun and comes to its end now, in words.
fn still_ends(home: &Home) -> anyhow::Result<Vec<String>> {
    let Some(reader) = Reader::find(home)? else { return Ok(Vec::new()) };
    let history = reader.read(&Query::open(&[Kind::Deployment, Kind::Step]))?;
    let deployments = stages(history.into_iter().map(|recorded| recorded.fact));
    let mut ends: Vec<String> = deployments
        .iter()
        .filter_map(|(deployment, stage)| end_of(&deployment.promotion.domain, &deployment.id, *stage))
        .collect();
    let measures = Settings::load(home.root(), None).ok().and_then(|settings| settings.measuring.machine().look().ok());
    let seen = measures.and_then(|standing| standing.measures);
    // What the daemon measures ends with its instance; what a person measures is theirs, and changes nothing.
    ends.extend(seen.map(|seen| format!("{}, which measures: within a second, unless a person runs it", seen.what)));
    Ok(ends)
}

/// Returns how a deployment of `domain` that stands at `stage` comes to its end; nothing where it is over.
fn end_of(domain: &str, id: &DeploymentId, stage: Stage) -> Option<String> {
    let how = match stage {
        Stage::Planned | Stage::Intended | Stage::Armed => "is not live yet, and is given up",
        Stage::Applied => {
            "is being brought into effect by a restart, which is let come to its end; then it is taken back, with another one"
        }
        Stage::Restarted | Stage::Healthy | Stage::Measuring => {
            "is live and not proven, and is taken back with a restart"
        }
        Stage::Judged(Ruled::Rollback) | Stage::Restored => "is being taken back",
        Stage::Judged(_) => "was proven, and stays",
        Stage::Stuck => "could not be taken back, and is tried again",
        Stage::Closed => return None,
    };
    Some(format!("{id} of {domain} {how}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_under_way_is_told_with_how_it_ends_and_what_is_over_is_not() {
        let id = DeploymentId::new("d-1");
        for (stage, part) in [
            (Stage::Planned, Some("is given up")),
            (Stage::Armed, Some("is given up")),
            (Stage::Applied, Some("a restart, which is let come to its end")),
            (Stage::Measuring, Some("is taken back with a restart")),
            (Stage::Judged(Ruled::Rollback), Some("is being taken back")),
            (Stage::Judged(Ruled::Success), Some("stays")),
            (Stage::Stuck, Some("is tried again")),
            (Stage::Closed, None),
        ] {
            let told = end_of("lab", &id, stage);
            assert_eq!(told.is_some(), part.is_some(), "{stage:?}");
            assert!(
                told.is_none_or(|told| told.starts_with("d-1 of lab ") && told.contains(part.unwrap())),
                "{stage:?}"
            );
        }
    }
}
