//! What a running daemon makes of settings that it reads again: what it changes, what needs a restart, what has to wait.

use std::collections::{BTreeMap, BTreeSet};

use kloros_actors::{
    config::{Catalogue, Problem},
    facts::{Changed, Domain, ExperimentSpec},
};
use toml::Value;

use super::{Settings, layers};

/// Keys of which a running daemon has made something that stays: sockets, folders, threads with a pace of their own. Where a
/// section is named, all of it.
pub(super) const NEEDS_RESTART: [&str; 15] = [
    "conversation",
    "shell.metrics_address",
    "shell.metrics_beyond_loopback",
    "shell.chaos",
    "shell.demo_load",
    "shell.alerts",
    "deployer.guard_begins_within_s",
    "deployer.undo_wait_s",
    "measuring",
    "reload",
    "api",
    "notices",
    "traces",
    "gpu",
    "observer.sample_every_s",
];

/// What a running daemon makes of other settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// What is in force with it.
    pub(crate) settings: Settings,
    /// What is another than before.
    pub(crate) changed: Vec<Changed>,
    /// What keeps its old value until the daemon is started again.
    pub(crate) needs_restart: Vec<String>,
    /// The domains that keep what they have until their change is judged.
    pub(crate) waits: Vec<String>,
}

/// Returns what a daemon that runs with `old` makes of `new` while a change of each of the `busy` domains is on the scales, or why
/// it can make nothing of it.
pub(crate) fn change(old: &Settings, new: &Settings, busy: &BTreeSet<String>) -> Result<Change, Vec<Problem>> {
    let mut change =
        Change { settings: old.clone(), changed: Vec::new(), needs_restart: Vec::new(), waits: Vec::new() };
    change.keys(new).map_err(|what| vec![Problem { key: String::new(), what }])?;
    change.domains(new, busy);
    change.experiments(new);
    let problems = change.settings.loaded().problems();
    if problems.is_empty() {
        return Ok(change);
    }
    let beside =
        |problem: Problem| Problem { what: format!("{} (beside what needs a restart)", problem.what), ..problem };
    Err(problems.into_iter().map(beside).collect())
}

impl Settings {
    /// Returns what `kloros.toml` and the environment decide of it.
    fn loaded(&self) -> layers::Loaded {
        let Settings { rooms, shell, measuring, conversation, following, reached, notices, traces, .. } = self.clone();
        layers::Loaded { rooms, shell, measuring, conversation, following, reached, notices, traces }
    }
}

impl Change {
    /// Returns whether everything is as it was, and nothing else is asked for.
    pub(crate) fn is_none(&self) -> bool {
        self.changed.is_empty() && self.needs_restart.is_empty() && self.waits.is_empty()
    }

    /// Takes over what `kloros.toml` says, key by key.
    fn keys(&mut self, new: &Settings) -> Result<(), String> {
        let (before, after) = (self.settings.loaded().table()?, new.loaded().table()?);
        let mut all = before.clone();
        for key in layers::leaves(&after, "") {
            let (from, to) = (layers::get(&before, &key), layers::get(&after, &key));
            if from == to {
                continue;
            }
            if needs_restart(&key) {
                self.needs_restart.push(key);
            } else if let Some(to) = to {
                layers::put(&mut all, &key, to.clone());
                self.changed.push(Changed { from: text(from), to: text(Some(to)), key });
            }
        }
        let loaded = layers::split(all).map_err(|error| error.to_string())?;
        self.settings = loaded.with(std::mem::take(&mut self.settings.catalogue), self.settings.practice);
        Ok(())
    }

    /// A domain that comes or goes, or whose service is another one, is started, watched and ended at a restart only; one of
    /// which a change is on the scales is judged by what it was planned with.
    fn domains(&mut self, new: &Settings, busy: &BTreeSet<String>) {
        let (before, after) = (self.settings.catalogue.domains.clone(), &new.catalogue.domains);
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let key = format!("domains.{name}");
            match (before.get(name), after.get(name)) {
                (old, new) if old == new => {}
                (Some(old), Some(new)) if is_same_service(old, new) => {
                    if busy.contains(name) {
                        self.waits.push(key);
                    } else {
                        self.settings.catalogue.domains.insert(name.clone(), new.clone());
                        self.changed.push(Changed { key, from: String::new(), to: String::new() });
                    }
                }
                _ => self.needs_restart.push(key),
            }
        }
    }

    /// An experiment that fits only a domain that is not in force yet comes into force with it.
    fn experiments(&mut self, new: &Settings) {
        let (before, after) = (self.settings.catalogue.experiments.clone(), &new.catalogue.experiments);
        let mut in_force = BTreeMap::new();
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let key = || Changed { key: format!("experiments.{name}"), from: String::new(), to: String::new() };
            match (before.get(name), after.get(name)) {
                (old, Some(new)) if fits(&self.settings.catalogue, new) => {
                    if old != Some(new) {
                        self.changed.push(key());
                    }
                    in_force.insert(name.clone(), new.clone());
                }
                (Some(old), Some(_)) if fits(&self.settings.catalogue, old) => {
                    in_force.insert(name.clone(), old.clone());
                }
                // Its domain is named among those that wait or need a restart.
                (_, Some(_)) => {}
                (_, None) => self.changed.push(key()),
            }
        }
        self.settings.catalogue.experiments = in_force;
    }
}

fn is_same_service(old: &Domain, new: &Domain) -> bool {
    old.service == new.service && old.isolation == new.isolation
}

fn fits(catalogue: &Catalogue, spec: &ExperimentSpec) -> bool {
    catalogue.objection(spec).is_none()
}

fn needs_restart(key: &str) -> bool {
    let is_in = |named: &&str| key.strip_prefix(*named).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    NEEDS_RESTART.iter().any(is_in)
}

fn text(value: Option<&Value>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}
