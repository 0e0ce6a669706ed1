//! `kloros render`: what domain files of services ask for that are told by a file of settings.

use std::path::PathBuf;

use clap::Args;

use super::Answer;
use crate::render::{become_program, pair, render as write};

#[derive(Args)]
pub(super) struct RenderArgs {
    /// A file of settings with {NAME} where a value belongs
    template: PathBuf,
    /// What is written, whole or not at all
    file: PathBuf,
    /// What each name stands for; each must be in the template
    #[arg(value_name = "NAME=VALUE", value_parser = pair)]
    values: Vec<(String, String)>,
    /// A program to become then, with its arguments
    #[arg(last = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

pub(super) fn render(RenderArgs { template, file, values, program }: RenderArgs) -> anyhow::Result<Answer> {
    write(&template, &file, &values.into_iter().collect())?;
    become_program(&program)?;
    Ok(Answer::Done)
}
