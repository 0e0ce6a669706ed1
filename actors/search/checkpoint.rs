//! A search that was written out, checked before it goes on.

use serde::Deserialize;

use crate::{
    memo::Memo,
    search::{Ended, Options, Outcome, Search, Trial},
    space::{Point, Space},
};

/// Why a written search cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CheckpointError {
    /// Points that are none of the space.
    #[error("a point of this search is not in its space: the file was changed, or the space in it; begin a new search")]
    Point,
    /// A value that no measurement has.
    #[error("an outcome of this search is not a finite number: the file was changed; begin a new search")]
    Outcome,
}

/// What is written of a search.
#[derive(Deserialize)]
pub(crate) struct Checkpoint {
    space: Space,
    options: Options,
    home: Point,
    trials: Vec<Trial>,
    ended: Option<Ended>,
    parameters: Option<Vec<f64>>,
}

impl TryFrom<Checkpoint> for Search {
    type Error = CheckpointError;

    fn try_from(written: Checkpoint) -> Result<Search, CheckpointError> {
        let Checkpoint { space, options, home, trials, ended, parameters } = written;
        let is_point =
            |point: &Point| point.len() == space.dims() && point.iter().all(|unit| (0.0..=1.0).contains(unit));
        let is_value = |trial: &Trial| match trial.outcome {
            Some(Outcome::Value(value)) => value.is_finite(),
            Some(Outcome::Failed | Outcome::Lost) | None => true,
        };
        // The middle of a space without any valid point is a home all the same; nothing is asked then.
        if !is_point(&home) || !trials.iter().all(|trial| is_point(&trial.point) && space.allows(&trial.point)) {
            return Err(CheckpointError::Point);
        }
        if !trials.iter().all(is_value) {
            return Err(CheckpointError::Outcome);
        }
        // Parameters that are no numbers are found again rather than believed.
        let parameters = parameters.filter(|parameters| parameters.iter().all(|each| each.is_finite()));
        Ok(Search { space, options, home, trials, ended, parameters, memo: Memo::default() })
    }
}
