//! `kloros config show`: every setting as it is in force at a start, and where its value is from.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Answer, out::Out};
use crate::{
    home::Home,
    settings::{self, Setting},
};

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Show every setting
    Show(ShowArgs),
}

#[derive(Args)]
pub(super) struct ShowArgs {
    /// Also say from which file and line, or variable, each value is
    #[arg(long)]
    origin: bool,
    /// Show what differs from the defaults alone
    #[arg(long)]
    changed: bool,
    /// The configuration file [default: kloros.toml in the home]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show the settings alone whose key begins with this
    key: Option<String>,
}

pub(super) fn config(home: &Home, command: &ConfigCommand, out: &mut Out) -> anyhow::Result<Answer> {
    let ConfigCommand::Show(args) = command;
    let mut all = settings::shown(home.root(), args.config.as_deref())?;
    all.retain(|setting| !args.changed || setting.origin.is_some());
    all.retain(|setting| args.key.as_ref().is_none_or(|key| setting.key.starts_with(key)));
    if let Some(key) = args.key.as_ref().filter(|_| all.is_empty() && !args.changed) {
        return super::ask::no(&format!("no setting begins with {key:?}"), out);
    }
    out.answer(&all, || {
        let lines: Vec<String> = all.iter().map(|setting| line(setting, args.origin)).collect();
        format!(
            "{}\nkloros check-config",
            if lines.is_empty() { "everything is as it ships".to_owned() } else { lines.join("\n") }
        )
    })?;
    Ok(Answer::Done)
}

fn line(Setting { key, value, origin }: &Setting, with_origin: bool) -> String {
    let line = format!("{key} = {value}");
    if with_origin { format!("{line:50}  {}", origin.as_deref().unwrap_or("default")) } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_spelled_as_a_file_would_and_its_origin_stands_beside_it() {
        let setting = Setting { key: "gate.autonomy".into(), value: "1".into(), origin: Some("kloros.toml:2".into()) };
        assert_eq!(line(&setting, false), "gate.autonomy = 1");
        assert!(line(&setting, true).ends_with("  kloros.toml:2"));
        assert!(line(&Setting { origin: None, ..setting }, true).ends_with("  default"));
    }
}
