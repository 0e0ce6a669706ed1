//! `kloros run`.

use std::path::PathBuf;

use clap::Args;

use super::{Answer, out::Out, progress::Progress};
use crate::{
    daemon::{self, End, Options},
    home::Home,
};

/// How the loop is run.
#[derive(Args, Default)]
pub(crate) struct RunArgs {
    /// The configuration file [default: kloros.toml in the home, else what is built in]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// End after so many closed cycles
    #[arg(long, value_name = "N")]
    cycles: Option<u64>,
    /// The seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn run(home: Home, args: RunArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let looked_on = out.is_terminal();
    let mut progress = Progress::new(out);
    progress.begin(&home, args.cycles)?;
    let options = Options { home, config: args.config, cycles: args.cycles, seed: args.seed, looked_on };
    let ended = daemon::run(options, |recorded| progress.tell(recorded)).await?;
    match ended {
        End::CyclesClosed(cycles) => {
            progress.end(&format!("{cycles} cycle{} closed", if cycles == 1 { "" } else { "s" }))?;
        }
        End::Asked => progress.end("stopped as asked: nothing unproven is left, and no child runs")?,
    }
    Ok(Answer::Done)
}
