//! Ways to new points: at random, evenly spread, near a parent, between two parents, and all of them.

use std::f64::consts::TAU;

use rand::{Rng, RngExt, seq::SliceRandom};

use super::{Point, Space};

/// How often a random point is drawn again because it is not valid.
const DRAWS_MAX: usize = 32;

/// How often a mutant is drawn again because it is its parent or not valid.
const MUTANTS_MAX: usize = 8;

/// The most points of which a list is made.
const POINTS_MAX: u64 = 4096;

impl Space {
    /// Returns a valid point drawn uniformly, its inactive coordinates at `home`; `None` if none is found.
    pub(crate) fn random(&self, home: &[f64], rng: &mut impl Rng) -> Option<Point> {
        let mut point = Point::new();
        for _ in 0..DRAWS_MAX {
            point = (0..self.dims()).map(|index| self.axes[index].drawn(rng.random())).collect();
            self.snap(&mut point, home);
            if self.allows(&point) {
                return Some(point);
            }
        }
        self.settle(&mut point, home).then_some(point)
    }

    /// Returns the valid point that stands for these numbers from 0 to 1, one a parameter, such that evenly spread numbers
    /// give every value an equal share; `None` if it cannot be mended.
    pub(crate) fn drawn(&self, units: &[f64], home: &[f64]) -> Option<Point> {
        let mut point: Point = self.axes.iter().zip(units).map(|(axis, unit)| axis.drawn(*unit)).collect();
        (point.len() == self.dims() && self.settle(&mut point, home)).then_some(point)
    }

    /// Returns `rows` points of which each coordinate is spread evenly over its range (a Latin hypercube: `McKay`,
    /// Beckman and Conover 1979). A row that is not valid is mended; one that cannot be mended is left out.
    pub(crate) fn latin_hypercube(&self, rows: usize, home: &[f64], rng: &mut impl Rng) -> Vec<Point> {
        let mut points = vec![vec![0.0; self.dims()]; rows];
        for index in 0..self.dims() {
            let mut strata: Vec<usize> = (0..rows).collect();
            strata.shuffle(rng);
            for (point, stratum) in points.iter_mut().zip(strata) {
                let unit = (stratum as f64 + rng.random::<f64>()) / rows as f64;
                point[index] = self.axes[index].drawn(unit);
            }
        }
        points.into_iter().filter_map(|mut point| self.settle(&mut point, home).then_some(point)).collect()
    }

    /// Returns a valid point that differs from `parent` in about `share` of its active coordinates, at least in one.
    ///
    /// Numbers move by a normal step of `size`, a share of the range, reflected at the ends; what has steps moves by
    /// one at least; choices are drawn anew. `None` if chance finds none.
    pub(crate) fn mutant(
        &self,
        parent: &[f64],
        size: f64,
        share: f64,
        home: &[f64],
        rng: &mut impl Rng,
    ) -> Option<Point> {
        let active = self.active(parent);
        let movable: Vec<usize> =
            (0..self.dims()).filter(|index| active[*index] && self.axes[*index].levels() != Some(1)).collect();
        if movable.is_empty() {
            return None;
        }
        for _ in 0..MUTANTS_MAX {
            let mut point = parent.to_vec();
            let always = movable[rng.random_range(0..movable.len())];
            for &index in &movable {
                if index == always || rng.random_bool(share.clamp(0.0, 1.0)) {
                    point[index] = self.axes[index].moved(point[index], size, rng);
                }
            }
            if self.settle(&mut point, home) && point != parent {
                return Some(point);
            }
        }
        None
    }

    /// Returns a valid point each of whose coordinates is that of one of the parents; `None` if it cannot be mended.
    pub(crate) fn child(&self, mother: &[f64], father: &[f64], home: &[f64], rng: &mut impl Rng) -> Option<Point> {
        let mut point: Point =
            mother.iter().zip(father).map(|(mother, father)| if rng.random() { *mother } else { *father }).collect();
        self.settle(&mut point, home).then_some(point)
    }

    /// Returns the valid point at `share` of the way from one point to another; choices are those of the nearer one.
    pub(crate) fn between(&self, from: &[f64], to: &[f64], share: f64, home: &[f64]) -> Option<Point> {
        let way = |index: usize| {
            if self.axes[index].is_category() {
                if share < 0.5 { from[index] } else { to[index] }
            } else {
                from[index] + share * (to[index] - from[index])
            }
        };
        let mut point: Point = (0..self.dims()).map(way).collect();
        self.settle(&mut point, home).then_some(point)
    }

    /// Returns all valid points, in a fixed order, if there are at most 4096 combinations.
    pub(crate) fn points(&self, home: &[f64]) -> Option<Vec<Point>> {
        let size = self.size_max().filter(|size| *size <= POINTS_MAX)?;
        let mut points: Vec<Point> = Vec::new();
        for number in 0..size {
            let mut rest = number;
            let coordinate = |axis: &super::axis::Axis| {
                let levels = axis.levels().unwrap_or(1).max(1);
                let index = rest % levels;
                rest /= levels;
                axis.unit_of_level(index)
            };
            let mut point: Point = self.axes.iter().map(coordinate).collect();
            self.snap(&mut point, home);
            if self.allows(&point) {
                points.push(point);
            }
        }
        // Combinations that differ in inactive parameters alone are the same point.
        points.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        points.dedup();
        Some(points)
    }
}

/// Returns a number of the standard normal distribution (Box and Muller 1958).
pub(super) fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}
