//! The `kloros` binary: the loop's adapters, the daemon that plugs them in, and the command line.

mod api;
mod background;
mod bench;
mod cli;
mod clock;
mod crash;
mod daemon;
mod demo;
mod detect;
mod env_store;
mod gpus;
mod guard;
mod home;
mod host;
mod inbox;
mod journal;
mod lab;
mod lease;
mod nvml;
mod pending;
mod process;
mod recover;
mod scrape;
mod service;
mod settings;
mod stop;
mod telemetry;
mod tune;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
