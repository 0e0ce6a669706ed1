//! `kloros audit`: who decided what, and whether the trail of it is what was written.

use clap::{Args, Subcommand};
use kloros_actors::seams::Query;

use super::{Answer, out::Out, story};
use crate::{
    home::Home,
    journal::{AUDITED, Reader, Verified, rfc3339, verify_audit},
    settings::{Settings, Shell},
};

#[derive(Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: Option<AuditCommand>,
    /// How many to show at most
    #[arg(long, default_value_t = 40)]
    limit: usize,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Say that the trail is intact, or name the first broken link
    Verify,
}

pub(super) fn audit(home: &Home, args: &AuditArgs, out: &mut Out) -> anyhow::Result<Answer> {
    match &args.command {
        Some(AuditCommand::Verify) => verify(home, out),
        None => list(home, args.limit, out),
    }
}

fn list(home: &Home, limit: usize, out: &mut Out) -> anyhow::Result<Answer> {
    let mut found = match Reader::find(home)? {
        Some(reader) => reader.read(&Query::newest(&AUDITED, limit.max(1)))?,
        None => Vec::new(),
    };
    found.reverse();
    out.answer(&found, || {
        let told = found.iter().filter_map(|recorded| {
            let sentence = story::sentence(&recorded.fact, 0, 0, 0)?;
            Some(format!("{}  {:14} {sentence}", rfc3339(recorded.at_ms), recorded.fact.subject()))
        });
        let mut lines: Vec<String> = told.collect();
        if lines.is_empty() {
            lines.push("nothing was decided yet".to_owned());
        }
        lines.push("kloros audit verify".to_owned());
        lines.join("\n")
    })?;
    Ok(Answer::Done)
}

fn verify(home: &Home, out: &mut Out) -> anyhow::Result<Answer> {
    // A trail can be looked at whatever the settings are like.
    let shell = Settings::load(home.root(), None).map_or_else(|_| Shell::default(), |settings| settings.shell);
    match verify_audit(home, shell.audit_tries_max)? {
        Verified::Intact { lines, head } => {
            out.answer(&serde_json::json!({"intact": true, "lines": lines, "head": head}), || {
                format!("intact: {lines} lines, the last has the hash {head}\nkloros audit")
            })?;
            Ok(Answer::Done)
        }
        Verified::Broken { file, n, why } => {
            out.answer(&serde_json::json!({"intact": false, "file": file, "line": n, "why": why}), || {
                format!("broken at line {n} of the trail, in {file}: {why}\nkloros rebuild-logs")
            })?;
            Ok(Answer::No)
        }
    }
}
