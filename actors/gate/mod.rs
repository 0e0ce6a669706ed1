//! The gate: may this change be made without a person?
//!
//! Hears `Promotion` from the deployer, and from experiments that want a service lent, and `Answer`s from people. Says
//! `Approved<Promotion>` to the deployer, and whether that still holds when it is asked right before anything is touched, and
//! again and again while a service is lent.
//! Invariants: what the gate did not pass cannot be spelled elsewhere; silence is a no; the env file may lower the level, never
//! raise it; one change is on its way once; a yes is for one plan on one base under one policy; while a person has stopped everything,
//! nothing passes.

mod actor;

#[cfg(test)]
mod tests;

pub mod autonomy;

pub mod history;

pub mod fit;

pub mod policy;

mod fold_actor;

mod ruling_actor;

mod standing;

mod watch_actor;

pub use actor::{Arguments, Exits, Gate, Msg, level_of};
use serde::{Deserialize, Serialize};
pub use standing::{HeldBack, Standing, Waiting};

pub use crate::facts::window as freeze;
use crate::{
    config::{Check, Problem},
    facts::Autonomy,
};

/// What it takes to judge a change, as the validator's settings have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// How many runs a validation takes at least.
    pub runs_min: u32,
    /// How many blocks of four runs it has at most.
    pub blocks_max: u32,
    /// The loss that it has to exclude, as a ratio.
    pub loss_max: f64,
    /// How long the noise of a domain is known once it was measured, in seconds; `None` where it need not be.
    pub calibrated_for_s: Option<u64>,
    /// How often finding it out may fail, from when a change is proposed on, before the change is refused.
    pub calibrate_attempts_max: u32,
}

/// The room's settings; the section `[gate]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The ceiling: 0 asks always, 1 lets low risk through, 2 low and medium, 3 all.
    pub autonomy: Autonomy,
    /// When an approval that nobody gave becomes a no, in seconds.
    pub approval_expires_s: u64,
    /// How many promotions may wait for a person.
    pub waiting_max: u32,
    /// Whether kloros does everything but the deployment, and tells what it would set instead.
    pub advice: bool,
    /// Times of the local clock in which nothing new is deployed; what is live and unproven is judged all the same.
    pub freeze: Vec<freeze::Window>,
    /// How many deployments a domain may see in an hour; further ones wait.
    pub deployments_per_hour_max: u32,
    /// How many deployments all domains together may see in a day; further ones wait.
    pub deployments_per_day_max: u32,
    /// After how many rollbacks in a day a domain is frozen, until a day has passed or a person thaws it.
    pub rollbacks_per_day_max: u32,
    /// How long a key that a person edited is left alone, in seconds.
    pub edit_cool_down_s: u64,
    /// How long what waits for its turn, and not for a person, waits before it is refused, in seconds.
    pub held_max_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            autonomy: Autonomy::Trusted,
            approval_expires_s: 3600,
            waiting_max: 32,
            advice: false,
            freeze: Vec::new(),
            deployments_per_hour_max: 2,
            deployments_per_day_max: 6,
            rollbacks_per_day_max: 3,
            edit_cool_down_s: 86_400,
            held_max_s: 7 * 86_400,
        }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("gate");
        check.between("approval_expires_s", self.approval_expires_s as f64, 1.0, 30.0 * 86_400.0);
        check.between("waiting_max", f64::from(self.waiting_max), 1.0, 10_000.0);
        check.between("deployments_per_hour_max", f64::from(self.deployments_per_hour_max), 1.0, 1000.0);
        check.between("deployments_per_day_max", f64::from(self.deployments_per_day_max), 1.0, 1000.0);
        check.between("rollbacks_per_day_max", f64::from(self.rollbacks_per_day_max), 1.0, 1000.0);
        check.between("edit_cool_down_s", self.edit_cool_down_s as f64, 0.0, 30.0 * 86_400.0);
        check.between("held_max_s", self.held_max_s as f64, 60.0, 365.0 * 86_400.0);
        check.problems()
    }
}
