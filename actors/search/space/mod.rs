//! The space of settings: what may be set, and each setting as a point of the unit cube.
//!
//! [`SpaceSpec`] is what a person writes, [`Space`] the same after it was checked. Inside the engine a setting is a
//! [`Point`]: one coordinate a parameter, from 0 to 1, logarithmic where declared, snapped to what can be set; the
//! coordinates of inactive parameters stand at home, so that equal settings are equal points.
//! Invariant: a point that [`Space::settle`] has settled and that [`Space::allows`] decodes to a valid setting.

mod axis;

mod check;

mod sample;

mod spec;

use serde::{Deserialize, Serialize};

use axis::Axis;
pub use check::SpaceError;
pub use spec::{Config, Constraint, Kind, Limit, Param, SpaceSpec, Value, When};

/// A setting as the engine sees it: one coordinate a parameter, in the order of the spec, each from 0 to 1.
pub(crate) type Point = Vec<f64>;

/// The parameter on which another depends, and its coordinates with which that one is active.
type Parent = (usize, Vec<f64>);

/// Parameters with what each unit of them takes, and how much there is of that.
type Shared = (Vec<(usize, f64)>, f64);

/// How far coordinates of one setting may be apart: on the way to a value and back a number can lose its last digits.
const SAME: f64 = 1e-9;

/// By which share of a limit a sum may be above it: what is lowered to a limit is a number with digits.
const LIMIT_SLACK: f64 = 1e-9;

/// How often the share is halved by which values are lowered to a limit: to a millionth.
const HALVINGS: usize = 20;

/// How often values that break a constraint or a limit are mended before the point is given up.
const MENDS_MAX: usize = 8;

/// A checked space of settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "SpaceSpec", into = "SpaceSpec")]
pub struct Space {
    spec: SpaceSpec,
    axes: Vec<Axis>,
    /// The parameters, each after the one that it depends on.
    order: Vec<usize>,
    parents: Vec<Option<Parent>>,
    /// The parameters of each constraint: the value of the first is at most that of the second.
    constraints: Vec<(usize, usize)>,
    forbidden: Vec<Vec<(usize, f64)>>,
    limits: Vec<Shared>,
}

impl From<Space> for SpaceSpec {
    fn from(space: Space) -> SpaceSpec {
        space.spec
    }
}

impl TryFrom<SpaceSpec> for Space {
    type Error = SpaceError;

    fn try_from(spec: SpaceSpec) -> Result<Space, SpaceError> {
        Space::new(spec)
    }
}

impl Space {
    /// Returns what the space was made from.
    pub fn spec(&self) -> &SpaceSpec {
        &self.spec
    }

    /// Returns whether `config` sets exactly the active parameters, each to a value in its range and on its step, and
    /// breaks no constraint and no limit and nothing forbidden.
    pub fn contains(&self, config: &Config) -> bool {
        let known = config.keys().all(|name| self.spec.params.iter().any(|param| param.name == *name));
        let mut point = self.center();
        for (index, param) in self.spec.params.iter().enumerate() {
            let Some(value) = config.get(&param.name) else { continue };
            let Some(unit) = self.axes[index].unit_of(value) else { return false };
            point[index] = unit;
        }
        let active = self.active(&point);
        let complete =
            self.spec.params.iter().zip(&active).all(|(param, active)| config.contains_key(&param.name) == *active);
        known && complete && self.allows(&point)
    }

    /// Returns the valid setting nearest to `config`: what is outside a range is taken to its end, what is off a step
    /// to the nearest one, what is absent or unreadable to the middle. `None` if nothing near is valid.
    pub fn nearest(&self, config: &Config) -> Option<Config> {
        self.encode(config, &self.center()).map(|point| self.decode(&point))
    }

    /// Returns an upper bound of how many settings there are; `None` if there are infinitely or unaccountably many.
    pub fn size_max(&self) -> Option<u64> {
        self.axes.iter().try_fold(1_u64, |size, axis| size.checked_mul(axis.levels()?))
    }

    /// Returns whether nothing at all is valid, as far as that can be counted: where there are more than 4096 combinations,
    /// or infinitely many, it is not known and this is false.
    pub fn is_empty(&self) -> bool {
        self.points(&self.center()).is_some_and(|points| points.is_empty())
    }

    pub(crate) fn dims(&self) -> usize {
        self.axes.len()
    }

    /// Returns for each parameter whether two of its values are either equal or different, without being near or far.
    pub(crate) fn categories(&self) -> Vec<bool> {
        self.axes.iter().map(Axis::is_category).collect()
    }

    /// Returns the middle of every range, the first of all choices, inactive parameters included.
    pub(crate) fn center(&self) -> Point {
        self.axes.iter().map(Axis::middle).collect()
    }

    /// Returns the valid point nearest to `config`, where inactive parameters and those that it does not name stand at `home`.
    pub(crate) fn encode(&self, config: &Config, home: &[f64]) -> Option<Point> {
        let mut point = self.placed(config, home);
        self.settle(&mut point, home).then_some(point)
    }

    /// Returns whether `config`, taken to the nearest values there are, comes to no more than any limit.
    pub(crate) fn is_within_limits(&self, config: &Config, home: &[f64]) -> bool {
        let mut point = self.placed(config, home);
        self.snap(&mut point, home);
        let active = self.active(&point);
        self.limits.iter().all(|limit| !self.is_over(limit, &point, &active))
    }

    /// Returns the valid point nearest to `config`, which is home to others: inactive parameters stand at the value that
    /// `config` gives them all the same, and in the middle without one.
    pub(crate) fn home(&self, config: &Config) -> Option<Point> {
        let mut point = self.placed(config, &self.center());
        let home = point.clone();
        self.settle(&mut point, &home).then_some(point)
    }

    fn placed(&self, config: &Config, home: &[f64]) -> Point {
        let mut point = home.to_vec();
        for (index, param) in self.spec.params.iter().enumerate() {
            if let Some(unit) = config.get(&param.name).and_then(|value| self.axes[index].nearest_unit(value)) {
                point[index] = unit;
            }
        }
        point
    }

    /// Returns the setting of a settled point.
    pub(crate) fn decode(&self, point: &[f64]) -> Config {
        let active = self.active(point);
        let set = (0..self.dims()).filter(|index| active[*index]);
        set.map(|index| (self.spec.params[index].name.clone(), self.axes[index].value_at(point[index]))).collect()
    }

    /// Returns which parameters are active at this point.
    pub(crate) fn active(&self, point: &[f64]) -> Vec<bool> {
        let mut active = vec![true; self.dims()];
        for &index in &self.order {
            if let Some((parent, units)) = &self.parents[index] {
                active[index] = active[*parent] && units.contains(&point[*parent]);
            }
        }
        active
    }

    /// Returns whether a settled point keeps the constraints and limits and is not forbidden.
    pub(crate) fn allows(&self, point: &[f64]) -> bool {
        if self.constraints.is_empty() && self.forbidden.is_empty() && self.limits.is_empty() {
            return true;
        }
        let active = self.active(point);
        let kept = self.constraints.iter().all(|pair| !self.is_broken(*pair, point, &active));
        let matches =
            |all: &Vec<(usize, f64)>| all.iter().all(|(index, unit)| active[*index] && point[*index] == *unit);
        let within = self.limits.iter().all(|limit| !self.is_over(limit, point, &active));
        kept && within && !self.forbidden.iter().any(matches)
    }

    /// Snaps the coordinates to what can be set, puts inactive ones at `home`, and mends broken constraints by moving
    /// both values to where they meet, and broken limits by lowering all that takes of them. Returns whether the point is valid then.
    pub(crate) fn settle(&self, point: &mut Point, home: &[f64]) -> bool {
        self.snap(point, home);
        for _ in 0..MENDS_MAX {
            let active = self.active(point);
            let broken = self.constraints.iter().find(|pair| self.is_broken(**pair, point, &active));
            if let Some(&(left, right)) = broken {
                let (low, high) = (self.axes[right].number_at(point[right]), self.axes[left].number_at(point[left]));
                point[left] = self.axes[left].unit_below(low);
                if self.axes[left].number_at(point[left]) > low {
                    point[right] = self.axes[right].unit_above(high.min(self.axes[left].number_at(point[left])));
                }
            } else if let Some(limit) = self.limits.iter().find(|limit| self.is_over(limit, point, &active)) {
                self.lower(limit, point, &active);
            } else {
                break;
            }
            self.snap(point, home);
        }
        self.allows(point)
    }

    /// Lowers the values that take of a limit, all by the same share of their way to the smallest, until they come to no more than it.
    fn lower(&self, (each, max): &Shared, point: &mut Point, active: &[bool]) {
        let each: Vec<(usize, f64)> = each.iter().copied().filter(|(index, _)| active[*index]).collect();
        let scaled = |share: f64| -> Vec<(usize, f64, f64)> {
            let number = |index: usize| self.axes[index].number_at(self.axes[index].snap(share * point[index]));
            each.iter().map(|(index, weight)| (*index, *weight, number(*index))).collect()
        };
        let all =
            |numbers: &[(usize, f64, f64)]| numbers.iter().map(|(_, weight, number)| weight * number).sum::<f64>();
        let (mut fits, mut over) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let share = f64::midpoint(fits, over);
            if all(&scaled(share)) > *max { over = share } else { fits = share }
        }
        for (index, _, number) in scaled(fits) {
            point[index] = self.axes[index].unit_below(number);
        }
    }

    fn is_over(&self, (each, max): &Shared, point: &[f64], active: &[bool]) -> bool {
        let active = each.iter().filter(|(index, _)| active[*index]);
        let all: f64 = active.map(|(index, weight)| weight * self.axes[*index].number_at(point[*index])).sum();
        all > max + max.abs() * LIMIT_SLACK
    }

    fn snap(&self, point: &mut Point, home: &[f64]) {
        let mut active = vec![true; self.dims()];
        for &index in &self.order {
            if let Some((parent, units)) = &self.parents[index] {
                active[index] = active[*parent] && units.contains(&point[*parent]);
            }
            point[index] = if active[index] { self.axes[index].snap(point[index]) } else { home[index] };
        }
    }

    fn is_broken(&self, (left, right): (usize, usize), point: &[f64], active: &[bool]) -> bool {
        active[left]
            && active[right]
            && self.axes[left].number_at(point[left]) > self.axes[right].number_at(point[right])
    }
}

/// Returns whether two points are one setting, as far as that can be told of points that were values in between.
pub(crate) fn is_same(one: &[f64], other: &[f64]) -> bool {
    one.iter().zip(other).all(|(one, other)| (one - other).abs() <= SAME)
}

#[cfg(test)]
mod tests;
