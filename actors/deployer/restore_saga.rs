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
    facts::{Domain, Key, says},
    seams::{EnvStore, EnvStoreError, ServiceControl},
};

/// How often an env file is written anew that somebody else edited at the same moment.
const RACES_MAX: u32 = 5;

/// The hands that an undo takes; it needs no journal.
#[derive(Clone, Copy)]
pub struct Restorer<'a> {
    /// How env files are read and replaced.
    pub env: &'a dyn EnvStore,
    /// How services are restarted and read back.
    pub services: &'a dyn ServiceControl,
}

impl Restorer<'_> {
    /// Puts back, key by key, what still holds our value; a person's edit stays. Returns whether the file was written to.
    pub async fn put_back(&self, pending: &Pending) -> Result<bool, String> {
        let plan = |current: &BTreeMap<Key, Option<String>>| {
            let undo = undo_plan(pending, current);
            for key in &undo.kept_human {
                tracing::warn!(%key, "edited by hand meanwhile, the edit stays");
            }
            undo.restore
        };
        self.edit(pending, plan).await
    }

    /// Makes the change again where it was undone although it was proven, and restarts the service.
    pub(super) async fn redo(&self, domain: &Domain, pending: &Pending) -> Result<(), String> {
        self.edit(pending, |current| redo_plan(pending, current)).await?;
        self.restart(domain).await
    }

    async fn edit(
        &self,
        pending: &Pending,
        plan: impl Fn(&BTreeMap<Key, Option<String>>) -> Vec<(Key, Option<String>)> + Send,
    ) -> Result<bool, String> {
        let path = &pending.env_file;
        for _ in 0..RACES_MAX {
            let file = self.env.read(path).await.map_err(|error| error.to_string())?;
            let edits = plan(&values(&file.bytes, pending.keys.keys())?);
            if edits.is_empty() {
                return Ok(false);
            }
            let bytes = env_file::edit(&file.bytes, &edits).map_err(|problem| problem.to_string())?;
            match self.env.replace(path, &file, bytes).await {
                Ok(()) => return Ok(true),
                Err(EnvStoreError::Raced { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("{} changed {RACES_MAX} times while it was written", path.display()))
    }

    /// Restarts the service, and returns when it is ready.
    pub async fn restart(&self, domain: &Domain) -> Result<(), String> {
        progress();
        self.services.restart(domain).await.map_err(|error| error.to_string())
    }

    /// Returns whether the service may run with one of our values still: it says so, or does not say.
    pub async fn runs_with(&self, domain: &Domain, pending: &Pending) -> bool {
        let Ok(in_effect) = self.services.in_effect(domain).await else { return true };
        pending.keys.iter().any(|(key, held)| {
            let ours = domain.knobs.get(key).and_then(|knob| knob.range.parse(&held.new));
            ours.is_none_or(|ours| in_effect.get(key.as_str()).is_none_or(|text| says(text, &ours)))
        })
    }
}
