//! `kloros redis`: what the domain file of Redis asks for.

use clap::{Args, Subcommand};

use super::{Answer, out::Out};
use crate::redis::{self, Load};

#[derive(Subcommand)]
pub(super) enum RedisCommand {
    /// Measure SET and GET with redis-benchmark, and print one JSON object of numbers
    Measure(MeasureArgs),
    /// Print what it runs with as one JSON object, under the keys of the domain file
    Settings {
        /// Its port on loopback
        #[arg(long)]
        port: u16,
    },
}

#[derive(Args)]
pub(super) struct MeasureArgs {
    /// Its port on loopback
    #[arg(long)]
    port: u16,
    /// How many clients ask at the same time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// How many requests of each kind are sent
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    requests: u32,
}

pub(super) fn redis(command: &RedisCommand) -> anyhow::Result<Answer> {
    // Programs read it.
    let mut out = Out::new(true);
    match *command {
        RedisCommand::Measure(MeasureArgs { port, clients, requests }) => {
            out.answer(&redis::measure(Load { port, clients, requests })?, String::new)?;
        }
        RedisCommand::Settings { port } => out.answer(&redis::settings(port)?, String::new)?,
    }
    Ok(Answer::Done)
}
