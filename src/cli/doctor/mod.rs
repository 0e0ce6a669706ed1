//! `kloros doctor`: looks at everything that kloros needs of the machine, and says what to do about what is wrong. It changes nothing
//! and needs no running daemon. Of a domain that is named it proves by measuring that the loop may be let loose on it.

mod conversation;

mod machine;

mod prove;

mod services;

mod units;

use std::{fmt, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    Answer,
    client::{Client, Said},
    out::Out,
};
use crate::{
    api::Live,
    home::Home,
    settings::{self, Settings},
};

#[derive(Args)]
pub(super) struct DoctorArgs {
    /// A domain to prove by measuring on second instances; without one, all that kloros needs is looked at
    domain: Option<String>,
    /// Measure the domain against itself with four runs alone, and know its noise less well
    #[arg(long, requires = "domain")]
    quick: bool,
    /// The configuration file that the daemon runs with [default: kloros.toml in the home]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum How {
    /// As it should be.
    Well,
    /// Worth knowing, and nothing is wrong.
    Note,
    /// In the way of what kloros does.
    Bad,
}

impl fmt::Display for How {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Well => "ok",
            Self::Note => "note",
            Self::Bad => "BAD",
        })
    }
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Finding {
    about: String,
    how: How,
    what: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    fn well(about: &str, what: impl Into<String>) -> Self {
        Self { about: about.to_owned(), how: How::Well, what: what.into(), fix: None }
    }

    fn note(about: &str, what: impl Into<String>, fix: Option<&str>) -> Self {
        Self { about: about.to_owned(), how: How::Note, what: what.into(), fix: fix.map(str::to_owned) }
    }

    fn bad(about: &str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { about: about.to_owned(), how: How::Bad, what: what.into(), fix: Some(fix.into()) }
    }

    fn words(&self) -> String {
        let line = format!("{:5} {:12} {}", self.how, self.about, self.what);
        self.fix.as_ref().map_or(line.clone(), |fix| format!("{line}\n{:18} -> {fix}", ""))
    }
}

pub(super) async fn doctor(home: &Home, args: &DoctorArgs, out: &mut Out) -> anyhow::Result<Answer> {
    if let Some(domain) = &args.domain {
        return prove::prove(home, domain, args, out).await;
    }
    let mut findings = machine::home(home);
    let (settings, found) = configuration(home, args);
    findings.extend(found);
    findings.extend(machine::journal(home));
    let live = live(home).await;
    findings.push(daemon(home, live.as_ref()));
    findings.push(machine::clock());
    if let Some(settings) = &settings {
        findings.extend(machine::ports(home, settings, live.is_ok()));
        findings.push(machine::lease(settings));
        findings.extend(machine::means(home, settings));
        findings.extend(machine::gpus(settings).await);
        findings.extend(conversation::look(settings).await);
        findings.extend(units::look(home, settings));
        findings.extend(services::look(home, settings, live.as_ref().ok()).await);
    }
    let bad = findings.iter().filter(|finding| finding.how == How::Bad).count();
    out.answer(&serde_json::json!({"well": bad == 0, "bad": bad, "findings": findings}), || {
        let lines: Vec<String> = findings.iter().map(Finding::words).collect();
        let end = if bad == 0 { "nothing is in the way".to_owned() } else { format!("{bad} in the way") };
        format!("{}\n{end}\nkloros {}", lines.join("\n"), if live.is_ok() { "status" } else { "run" })
    })?;
    Ok(if bad == 0 { Answer::Done } else { Answer::No })
}

fn configuration(home: &Home, args: &DoctorArgs) -> (Option<Settings>, Vec<Finding>) {
    let about = "settings";
    match settings::check(home.root(), args.config.as_deref()) {
        Ok(summary) => {
            let files = summary.files.len();
            let what =
                format!("{} domains and {} experiments, from {files} files", summary.domains, summary.experiments);
            (Settings::load(home.root(), args.config.as_deref()).ok(), vec![Finding::well(about, what)])
        }
        Err(complaints) => {
            let said = complaints.to_string();
            let line = |line: &str| Finding::bad(about, line, "mend it, and look with kloros check-config");
            (None, said.lines().map(line).collect())
        }
    }
}

/// Returns what the running daemon says, or why none does.
async fn live(home: &Home) -> Result<Live, String> {
    let client = Client::find(home).map_err(|error| format!("{error:#}"))?.ok_or_else(String::new)?;
    match client.get::<Live>("/live").await {
        Ok(Said::Yes(live)) => Ok(live),
        Ok(Said::No(why)) => Err(why),
        Err(error) => Err(format!("{error:#}")),
    }
}

fn daemon(home: &Home, live: Result<&Live, &String>) -> Finding {
    let about = "daemon";
    let live = match live {
        Ok(live) => live,
        Err(why) if why.is_empty() => {
            return Finding::note(about, format!("none runs in {}", home.root().display()), Some("kloros run"));
        }
        Err(why) => return Finding::bad(about, format!("it does not answer: {why}"), "systemctl status kloros"),
    };
    let down: Vec<&str> =
        live.rooms.iter().filter(|room| room.state != "running").map(|room| room.path.as_str()).collect();
    let restarts: u64 = live.rooms.iter().filter(|room| !room.is_supervisor).map(|room| room.restarts).sum();
    if let Some(stop) = &live.holding.stop {
        return Finding::note(about, format!("process {} stands still: {stop}", live.pid), Some("kloros go"));
    }
    if !down.is_empty() {
        return Finding::bad(about, format!("these rooms are down: {}", down.join(", ")), "kloros tree says why");
    }
    let leaking: Vec<&str> = live.rooms.iter().filter(|room| room.leaked > 0).map(|room| room.path.as_str()).collect();
    if !leaking.is_empty() {
        let what = format!("degraded: threads are blocked for good by {}", leaking.join(", "));
        return Finding::bad(about, what, "systemctl restart kloros");
    }
    let what = format!("process {}, {} rooms up, {restarts} restarts", live.pid, live.rooms.len());
    if restarts == 0 { Finding::well(about, what) } else { Finding::note(about, what, Some("kloros tree says why")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_what_to_do() {
        let bad = Finding::bad("disk", "3 MiB are left", "make room");
        assert_eq!(bad.words(), "BAD   disk         3 MiB are left\n                   -> make room");
        assert_eq!(Finding::well("clock", "fine").words(), "ok    clock        fine");
        let home = tempfile::tempdir().unwrap();
        let home = Home::at(home.path()).unwrap();
        assert_eq!(daemon(&home, Err(&String::new())).how, How::Note);
        assert_eq!(daemon(&home, Err(&"it hangs".to_owned())).how, How::Bad);
    }
}
