//! The `kloros` binary: the loop's adapters, the daemon that plugs them in, and the command line.

mod api;
mod archive;
mod background;
mod bench;
mod charts;
mod cli;
mod clock;
mod console;
mod conversation;
mod crash;
mod daemon;
mod demo;
mod detect;
mod env_store;
mod exposition;
mod gpus;
mod guard;
mod home;
mod host;
mod inbox;
mod journal;
mod journald;
mod lab;
mod lease;
mod notes;
mod notices;
mod nvml;
mod pending;
mod post;
mod postgresql;
mod process;
mod program;
mod recover;
mod redis;
mod reload;
mod render;
mod scrape;
mod service;
mod settings;
mod stages;
mod stop;
mod sysctl;
mod systemd;
mod telemetry;
mod told;
mod traces;
mod tune;

#[cfg(test)]
mod brusque;

#[cfg(test)]
#[path = "../tests/fuzz/mod.rs"]
mod fuzz;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
