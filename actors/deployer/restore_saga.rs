//! The undo itself, by the pending file alone: key by key in the env file, then the service. The daemon does it, and whoever
//! acts in its place.

use std::collections::BTreeMap;

use kloros_supervision::progress;

use super::{
    pending::{Pending, redo_plan, undo_plan},
    saga::values,
};
use crate::{
    env_file,
    facts::{Domain, says},
    seams::{EnvStore, EnvStoreError, ServiceControl},
};

/// How often an env file is written anew that somebody else edited at the same moment.
const RACES_MAX: u32 = 5;

/// What an undo found where the env file was, and did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It holds nothing of ours; what stands there is what was, or a person's.
    AsItIs,
    /// It was written to.
    Written,
    /// Somebody removed it. It is not made again: what else stood in it is not ours to know.
    Gone,
}

/// Says what a person has to do where an env file is gone that a service may still run with.
pub fn gone(pending: &Pending) -> String {
    let path = pending.env_file.display();
    format!(
        "{path} was removed while the change was unproven; it is not made again, and the service, which may run with the change \
         still, is not restarted without it: put the file back, or an empty one, and it is undone"
    )
}

/// The hands that an undo takes; it needs no journal.
#[derive(Clone, Copy)]
pub struct Restorer<'a> {
    /// How env files are read and replaced.
    pub env: &'a dyn EnvStore,
    /// How services are restarted and read back.
    pub services: &'a dyn ServiceControl,
}

impl Restorer<'_> {
    /// Puts back, key by key, what still holds our value; a person's edit stays.
    pub async fn put_back(&self, pending: &Pending) -> Result<Put, String> {
        self.edit(pending, |bytes| undone(pending, bytes), true).await
    }

    /// Makes the change again where it was undone although it was proven, and restarts the service.
    pub(super) async fn redo(&self, domain: &Domain, pending: &Pending) -> Result<(), String> {
        match self.edit(pending, |bytes| redone(pending, bytes), true).await? {
            Put::Gone => Err(gone(pending)),
            Put::AsItIs | Put::Written => self.restart(domain).await,
        }
    }

    /// Puts in, key by key, what still holds the old value; a person's edit stays. What is set aside for the undo is left alone.
    pub(super) async fn put_in(&self, pending: &Pending) -> Result<Put, String> {
        self.edit(pending, |bytes| redone(pending, bytes), false).await
    }

    /// Writes the file as it is `edited`; what brings back a proven state may use what is set aside for that.
    async fn edit(
        &self,
        pending: &Pending,
        edited: impl Fn(&[u8]) -> Result<Vec<u8>, String> + Send,
        is_undo: bool,
    ) -> Result<Put, String> {
        let path = &pending.env_file;
        for _ in 0..RACES_MAX {
            let file = self.env.read(path).await.map_err(|error| error.to_string())?;
            if !file.exists && pending.had_a_file() {
                return Ok(Put::Gone);
            }
            let bytes = edited(&file.bytes)?;
            if bytes == file.bytes {
                return Ok(Put::AsItIs);
            }
            let written = if is_undo {
                self.env.restore(path, &file, bytes).await
            } else {
                self.env.replace(path, &file, bytes).await
            };
            match written {
                Ok(()) => return Ok(Put::Written),
                Err(EnvStoreError::Raced { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("{} changed {RACES_MAX} times while it was written", path.display()))
    }

    /// Restarts the service, and returns when it is ready. Where a limit of starts is in the way, it is lifted once: what was
    /// proven must not stay down for the starts that what was not proven has cost.
    pub async fn restart(&self, domain: &Domain) -> Result<(), String> {
        progress();
        let Err(error) = self.services.restart(domain).await else { return Ok(()) };
        match self.services.forgive(domain).await {
            Ok(true) => {
                tracing::warn!(domain = %domain.name, "limit of starts is lifted once, to bring back what was proven");
                progress();
                self.services.restart(domain).await.map_err(|error| error.to_string())
            }
            Ok(false) => Err(error.to_string()),
            Err(refused) => Err(format!("{error}, and its limit of starts cannot be lifted: {refused}")),
        }
    }

    /// Returns whether the service may run with one of our values still: it says so, or does not say.
    pub async fn runs_with(&self, domain: &Domain, pending: &Pending) -> bool {
        if pending.always_restart {
            return true;
        }
        let Ok(in_effect) = self.services.in_effect(domain).await else { return true };
        pending.keys.iter().any(|(key, held)| {
            let ours = domain.knobs.get(key).and_then(|knob| knob.range.parse(&held.new));
            ours.is_none_or(|ours| in_effect.get(key.as_str()).is_none_or(|text| says(text, &ours)))
        })
    }
}

/// Returns an env file that holds `bytes` as it is with `pending`, where it holds the old values.
fn redone(pending: &Pending, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let edits = redo_plan(pending, &values(bytes, pending.keys.keys())?);
    env_file::edit(bytes, &edits).map_err(|problem| problem.to_string())
}

/// Returns an env file that holds `bytes` as it is without `pending`: a person's edit stays, also a second line of our key.
fn undone(pending: &Pending, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut undone = bytes.to_vec();
    let mut once = BTreeMap::new();
    for (key, held) in &pending.keys {
        match env_file::value_of(bytes, key) {
            Ok(text) => drop(once.insert(key.clone(), text)),
            // We write one line a key, so another is a person's: it stays, and every one that is as we wrote it goes back.
            Err(env_file::Problem::Duplicate { .. } | env_file::Problem::Exported { .. }) => {
                tracing::warn!(%key, "assigned once more by hand meanwhile, which stays");
                let back = env_file::edit_each(&undone, key, &held.new, held.old.as_deref());
                undone = back.map_err(|problem| problem.to_string())?;
            }
            Err(problem) => return Err(problem.to_string()),
        }
    }
    let mut pending = pending.clone();
    pending.keys.retain(|key, _| once.contains_key(key));
    let undo = undo_plan(&pending, &once);
    for key in &undo.kept_human {
        tracing::warn!(%key, "edited by hand meanwhile, the edit stays");
    }
    env_file::edit(&undone, &undo.restore).map_err(|problem| problem.to_string())
}
