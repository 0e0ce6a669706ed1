//! `kloros sysctl`: what units and domain files of the kernel's settings ask for.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Answer, out::Out};
use crate::sysctl::{Kernel, Name, Wanted, shown_as, wanted};

#[derive(Subcommand)]
pub(super) enum SysctlCommand {
    /// Make settings of the kernel what is wanted, all or none; an empty value stands for what was before
    Set(SetArgs),
    /// Bring back what the kernel ran with before
    Restore {
        /// The note that `set` keeps
        note: PathBuf,
    },
    /// Print what runs now as one JSON object
    Show {
        /// A key, and the setting that is shown under it
        #[arg(required = true, value_name = "KEY=NAME", value_parser = shown_as)]
        settings: Vec<(String, Name)>,
    },
}

#[derive(Args)]
pub(super) struct SetArgs {
    /// Where it is noted what the kernel ran with before
    #[arg(long, value_name = "NOTE")]
    before: PathBuf,
    /// A setting of sysctl(8) or a file under /sys, what it may be, as [1..100] or [off|on], and what it is to be; a comma stands between
    /// numbers
    #[arg(required = true, value_name = "NAME[BOUNDS]=VALUE", value_parser = wanted)]
    settings: Vec<Wanted>,
}

pub(super) fn sysctl(command: SysctlCommand) -> anyhow::Result<Answer> {
    let kernel = Kernel::here();
    match command {
        SysctlCommand::Set(SetArgs { before, settings }) => kernel.set(&before, &settings)?,
        SysctlCommand::Restore { note } => kernel.restore(&note)?,
        // Programs read it.
        SysctlCommand::Show { settings } => Out::new(true).answer(&kernel.show(&settings)?, String::new)?,
    }
    Ok(Answer::Done)
}
