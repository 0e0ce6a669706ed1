//! The lab: a small, real, CPU-bound inference server to practise tuning on.
//!
//! Hears OpenAI-style chat requests over HTTP; says tokens, Prometheus metrics under vLLM's names, and the settings in
//! effect. Nothing here is scripted: a fixed random transformer is really evaluated, a KV cache of the configured size is
//! really allocated, and what `/metrics` reports is what happened.
//!
//! One engine thread owns the scheduler and the cache blocks; worker threads own the arithmetic; the HTTP side only hands
//! requests over and passes tokens on. `README.md` beside this file holds the measurements that support the defaults.
//!
//! Invariants: a cache block belongs to exactly one sequence or to the free queue; a request is answered exactly once, with
//! an end or an error; a reader that goes away frees its sequence before the next step.

mod knobs;

mod tokenizer;

mod scheduler;

mod model;

mod weights;

mod pool;

mod engine;

mod meters;

mod chat;

mod http;

mod steps;

mod sweep;

#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

pub(crate) use http::{ServeArgs, serve};
pub(crate) use steps::steps;
pub(crate) use sweep::{SweepArgs, sweep};

/// Exit code of `sysexits.h` for a configuration that cannot be used.
const EXIT_CONFIG: u8 = 78;
/// Exit code for everything else that keeps the lab from serving.
const EXIT_BROKEN: u8 = 2;

/// The lab's own commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum LabCommand {
    /// Serve the practice model until SIGTERM or SIGINT.
    Serve(ServeArgs),
    /// Measure a table of settings against each other, each in a server of its own.
    Sweep(SweepArgs),
    /// Measure how long a step takes, by the number of sequences in it.
    Steps,
}

/// Runs one of the lab's commands to its end.
pub(crate) async fn run(command: LabCommand) -> Result<(), LabError> {
    match command {
        LabCommand::Serve(args) => serve(args).await,
        LabCommand::Sweep(args) => sweep(args).await,
        LabCommand::Steps => steps(),
    }
}

/// Why the lab does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabError {
    /// The env file named on the command line cannot be read.
    #[error("cannot read the env file {path}; create it or leave --env-file out")]
    EnvFile {
        /// The file as named.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A line or a variable cannot be understood; `place` is `FILE:LINE` or names the environment.
    #[error("{place}: {problem}")]
    Setting {
        /// Where the setting stands.
        place: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// The settings are each valid, but together ask for more memory than the lab's device has.
    #[error(
        "the settings need {needed} MiB (weights {weights}, kv cache {cache}, workspace {workspace}) and the device has \
         {device} MiB; lower LAB_KV_CACHE_MIB or LAB_PREFILL_CHUNK"
    )]
    DoesNotFit {
        /// MiB in all.
        needed: usize,
        /// MiB of weights.
        weights: usize,
        /// MiB of cache.
        cache: usize,
        /// MiB of activations in the widest step.
        workspace: usize,
        /// MiB there are.
        device: usize,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address as asked for.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server could not go on.
    #[error("cannot {action}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The engine thread ended without being asked to.
    #[error("the engine thread died; its panic message stands above")]
    EngineDied,
    /// A server of the sweep did not come up or did not answer.
    #[error("sweep of {setting}: {problem}")]
    Sweep {
        /// The settings that were being measured.
        setting: String,
        /// What went wrong.
        problem: String,
    },
}

impl LabError {
    /// Returns the exit code: 78 for a configuration error, 2 otherwise.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            LabError::EnvFile { .. } | LabError::Setting { .. } => EXIT_CONFIG,
            _ => EXIT_BROKEN,
        }
    }
}
