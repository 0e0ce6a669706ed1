//! The surrogate: a Gaussian process that says what to expect of a setting that was not measured, and how surely.
//!
//! Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), is the reference for all of it.
//! Invariant: a process says a finite mean and a variance above 0 for every point, whatever it was fitted to.

mod descent;

mod fit;

mod kernel;

mod predict;

mod triangle;

pub(crate) use fit::{Data, Settings, evidence, fit};
pub(crate) use kernel::{Metric, matern};
pub(crate) use predict::{Belief, Process};
pub(crate) use triangle::{Triangle, dot};
