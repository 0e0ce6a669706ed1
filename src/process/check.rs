//! A program that is asked whether a service would take its settings.

use std::{fmt::Display, time::Duration};

use tokio::time::timeout;

use super::{Instance, Launch, Remains, Secrets, fill, free_port};

/// Why settings are not tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CheckError {
    /// The check says no, or does not end. Holds how it ended, and what it last said.
    #[error("the check refuses them: {0}")]
    Refused(String),
    /// It could not be asked, which says nothing about the settings.
    #[error("the check cannot be run: {0}")]
    NotRun(String),
}

/// Runs `argv` and returns whether it ended with 0 `within` its time. `{env_file}` and `{kloros}` are replaced by these, `{port}` by
/// a free one, on which nothing listens: the serving instance is not touched. What it prints is quoted without `secrets`.
pub(crate) async fn check(
    argv: &[String],
    env_file: &str,
    kloros: &str,
    within: Duration,
    secrets: Secrets,
) -> Result<(), CheckError> {
    let not_run = |error: &dyn Display| CheckError::NotRun(error.to_string());
    let port = free_port().map_err(|error| not_run(&error))?.to_string();
    let values = [("port", &*port), ("env_file", env_file), ("kloros", kloros)];
    let argv = fill(argv, &values).map_err(|error| not_run(&error))?;
    let launch = Launch { argv, env: Vec::new(), nice: 0, secrets, remains: Remains::Killed };
    let mut asked = Instance::spawn(launch).await.map_err(|error| not_run(&error))?;
    // One that is late is killed with all that it started, when it is dropped.
    let why = match timeout(within, asked.exited()).await {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("{status}; it last said: {}", asked.tail()),
        Err(_) => format!("it did not end within {} s", within.as_secs()),
    };
    Err(CheckError::Refused(why))
}
