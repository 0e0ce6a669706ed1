//! Shell completions and the manual, made from the command line itself, so that they cannot say anything else.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Answer, Cli, out::Out};

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Args)]
pub(super) struct ManArgs {
    /// Write one page for each command into this folder, instead of the first page to stdout
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints what a shell completes.
pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<Answer> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kloros", &mut text);
    io::stdout().lock().write_all(&text)?;
    Ok(Answer::Done)
}

/// Prints the manual page, or writes one for each command.
pub(super) fn man(args: &ManArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let Some(folder) = &args.out else {
        let mut text = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut text)?;
        io::stdout().lock().write_all(&text)?;
        return Ok(Answer::Done);
    };
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    clap_mangen::generate_to(Cli::command(), folder)
        .with_context(|| format!("{} cannot be written", folder.display()))?;
    let written = fs::read_dir(folder)?.count();
    out.answer(&serde_json::json!({"pages": written, "folder": folder}), || {
        format!("{written} pages in {}\nman -l {}", folder.display(), folder.join("kloros.1").display())
    })?;
    Ok(Answer::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page_and_a_completion() {
        let folder = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(Cli::command(), folder.path()).unwrap();
        let command = Cli::command();
        let mut bash = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "kloros", &mut bash);
        let bash = String::from_utf8(bash).unwrap();
        for each in command.get_subcommands().filter(|each| !each.is_hide_set() && each.get_name() != "help") {
            let page = fs::read_to_string(folder.path().join(format!("kloros-{}.1", each.get_name()))).unwrap();
            assert!(page.contains(".TH"), "{}", each.get_name());
            assert!(bash.contains(each.get_name()), "{}", each.get_name());
        }
    }
}
