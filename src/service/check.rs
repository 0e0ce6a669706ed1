//! Asks the check of a domain about an env file that is not written yet.

use std::{
    fs::{DirBuilder, OpenOptions, remove_dir_all},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use kloros_actors::{
    env_file,
    facts::{Check, Domain},
    seams::ServiceError,
};

use super::{Services, path_text, unreachable};
use crate::process::{CheckError, Secrets, check};

impl Services {
    /// Asks the check of `domain`, where it has one, about an env file that would hold `bytes`; they are laid under the home meanwhile,
    /// for nobody else to read.
    pub(super) async fn ask_check(&self, domain: &Domain, bytes: &[u8]) -> Result<(), ServiceError> {
        let Some(Check { command, within_s }) = &domain.service.check else { return Ok(()) };
        let not_asked = |error: &dyn std::fmt::Display| unreachable(format!("the check cannot be run: {error}"));
        let set = env_file::variables(bytes).map_err(|problem| not_asked(&problem))?;
        let laid = Laid::out(&self.home, &domain.name, bytes).map_err(|error| not_asked(&error))?;
        let secrets = Secrets::of(env_file::values_besides(bytes, |key| domain.knobs.contains_key(key)));
        let (argv, within) = (domain.filled_with(command, &set), Duration::from_secs(*within_s));
        let env_file = laid.env_file();
        let asked = check(&argv, path_text(&env_file)?, path_text(&self.exe)?, within, secrets).await;
        asked.map_err(|error| match error {
            CheckError::Refused(_) => ServiceError::Refused(error.to_string()),
            CheckError::NotRun(_) => unreachable(error.to_string()),
        })
    }
}

/// A directory with an env file in it; it is removed when dropped.
struct Laid(PathBuf);

impl Laid {
    fn out(home: &Path, name: &str, bytes: &[u8]) -> io::Result<Self> {
        let laid = Self(home.join(".kloros").join(format!("check-{name}")));
        // What an earlier process left when it died.
        match remove_dir_all(&laid.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&laid.0)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(laid.env_file())?;
        file.write_all(bytes)?;
        Ok(laid)
    }

    fn env_file(&self) -> PathBuf {
        self.0.join("env")
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        if let Err(error) = remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "directory of a check cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests;
