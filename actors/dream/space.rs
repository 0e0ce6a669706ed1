//! The space of settings: its points, its distances, and the ways from one point to another.

use std::{collections::BTreeMap, f64::consts::TAU};

use rand::{Rng, RngExt, seq::SliceRandom};

use crate::facts::{KnobKind, Params, Value};

/// The steps into which the range of a decimal number is divided: points nearer than one are the same point.
const FLOAT_STEPS: f64 = 1000.0;

/// The most points of which [`Space::points`] makes a list.
const POINTS_MAX: u64 = 4096;

/// What an experiment varies, as a unit cube: each parameter is one coordinate from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    axes: Vec<Axis>,
}

#[derive(Clone, Debug, PartialEq)]
struct Axis {
    name: String,
    kind: KnobKind,
}

impl Space {
    /// Returns the space of these parameters, or which of them cannot be searched, and why.
    pub fn new(search_space: &BTreeMap<String, KnobKind>) -> Result<Space, String> {
        if search_space.is_empty() {
            return Err("search_space names no parameter: name at least one".to_owned());
        }
        for (name, kind) in search_space {
            if let Some(problem) = problem(kind) {
                return Err(format!("search_space.{name}: {problem}"));
            }
        }
        let axes = search_space.iter().map(|(name, kind)| Axis { name: name.clone(), kind: kind.clone() }).collect();
        Ok(Space { axes })
    }

    /// Returns whether `params` names every parameter with a value in its range.
    pub fn contains(&self, params: &Params) -> bool {
        self.axes.iter().all(|axis| params.get(&axis.name).is_some_and(|value| axis.kind.refuses(value).is_none()))
    }

    /// Returns how many points the space has; `None` when a decimal number is varied or the count exceeds 64 bits.
    pub fn size(&self) -> Option<u64> {
        self.axes.iter().try_fold(1_u64, |size, axis| size.checked_mul(axis.size()?))
    }

    /// Returns all points of a space of at most 4096 points, in a fixed order; `None` for a larger one.
    pub fn points(&self) -> Option<Vec<Params>> {
        let size = self.size().filter(|size| *size <= POINTS_MAX)?;
        (0..size).map(|index| self.nth(index)).collect()
    }

    /// Returns the coordinates of `params`, each from 0 to 1.
    ///
    /// A value outside its range is taken for the nearest end, an absent or unreadable one for the middle: the live
    /// settings of a service need not lie in the space, and are a place to start from all the same.
    pub fn encode(&self, params: &Params) -> Vec<f64> {
        self.axes.iter().map(|axis| params.get(&axis.name).map_or(0.5, |value| axis.encode(value))).collect()
    }

    /// Returns the point at these coordinates; missing ones are 0.5, those outside 0 to 1 are clamped.
    pub fn decode(&self, unit: &[f64]) -> Params {
        let coordinates = unit.iter().copied().chain(std::iter::repeat(0.5));
        self.axes.iter().zip(coordinates).map(|(axis, u)| (axis.name.clone(), axis.decode(u))).collect()
    }

    /// Returns a point drawn uniformly.
    pub fn random(&self, rng: &mut impl Rng) -> Params {
        let unit: Vec<f64> = self.axes.iter().map(|_| rng.random()).collect();
        self.decode(&unit)
    }

    /// Returns `n` points of which each parameter's values cover its range evenly.
    pub fn latin_hypercube(&self, n: u32, rng: &mut impl Rng) -> Vec<Params> {
        let columns: Vec<Vec<f64>> = self
            .axes
            .iter()
            .map(|_| {
                let mut rows: Vec<f64> =
                    (0..n).map(|row| (f64::from(row) + rng.random::<f64>()) / f64::from(n)).collect();
                rows.shuffle(rng);
                rows
            })
            .collect();
        (0..n as usize).map(|row| self.decode(&columns.iter().map(|column| column[row]).collect::<Vec<_>>())).collect()
    }

    /// Returns a neighbour of `params`: each parameter moves with a chance of one in the number of parameters, and at
    /// least one does. Numbers move by about `step` of their range, choices to another of their list.
    pub fn mutate(&self, params: &Params, step: f64, rng: &mut impl Rng) -> Params {
        let free: Vec<usize> = (0..self.axes.len()).filter(|index| !self.axes[*index].is_fixed()).collect();
        if free.is_empty() {
            return self.decode(&self.encode(params));
        }
        let mut moved: Vec<usize> = free.iter().copied().filter(|_| rng.random_bool(1.0 / free.len() as f64)).collect();
        if moved.is_empty() {
            moved.push(free[rng.random_range(0..free.len())]);
        }
        let from = self.encode(params);
        let mut mutant = self.decode(&from);
        for index in moved {
            let axis = &self.axes[index];
            mutant.insert(axis.name.clone(), axis.step_from(from[index], step, rng));
        }
        mutant
    }

    /// Returns a point that has each parameter from one of two parents.
    pub fn crossover(&self, a: &Params, b: &Params, rng: &mut impl Rng) -> Params {
        let (a, b) = (self.encode(a), self.encode(b));
        let child: Vec<f64> = a.iter().zip(&b).map(|(a, b)| if rng.random_bool(0.5) { *a } else { *b }).collect();
        self.decode(&child)
    }

    /// Returns a name that two points share if and only if they are the same to this space.
    ///
    /// Decimal numbers are the same within a thousandth of their range; parameters outside the space do not count.
    pub fn identity(&self, params: &Params) -> String {
        let part = |axis: &Axis| match params.get(&axis.name) {
            None => format!("{:?}=-", axis.name),
            Some(value) if axis.is_decimal() && axis.kind.refuses(value).is_none() => {
                format!("{:?}=#{}", axis.name, (axis.encode(value) * FLOAT_STEPS).round())
            }
            Some(value) => format!("{:?}={:?}", axis.name, value.to_string()),
        };
        self.axes.iter().map(part).collect::<Vec<_>>().join(" ")
    }

    /// Returns how far apart two points are, 0 to 1: the root mean square over the parameters, where two different
    /// choices are 1 apart.
    pub fn distance(&self, a: &Params, b: &Params) -> f64 {
        let (a, b) = (self.encode(a), self.encode(b));
        let squares: f64 =
            self.axes.iter().zip(a.iter().zip(&b)).map(|(axis, (a, b))| axis.apart(*a, *b).powi(2)).sum();
        (squares / self.axes.len() as f64).sqrt()
    }

    /// Returns the point with this index when the space is counted value by value; `None` with a decimal axis.
    fn nth(&self, mut index: u64) -> Option<Params> {
        let mut point = Params::new();
        for axis in &self.axes {
            let size = axis.size()?;
            point.insert(axis.name.clone(), axis.nth(index % size));
            index /= size;
        }
        Some(point)
    }
}

impl Axis {
    fn is_decimal(&self) -> bool {
        matches!(self.kind, KnobKind::Float { .. })
    }

    fn is_fixed(&self) -> bool {
        self.size() == Some(1)
    }

    /// Returns how many values there are; `None` for decimal numbers and for more than 64 bits can count.
    fn size(&self) -> Option<u64> {
        match &self.kind {
            KnobKind::Integer { min, max, .. } => max.abs_diff(*min).checked_add(1),
            KnobKind::Float { min, max, .. } => (min == max).then_some(1),
            KnobKind::Boolean => Some(2),
            KnobKind::Choice { values } => Some(values.len() as u64),
        }
    }

    fn nth(&self, index: u64) -> Value {
        match &self.kind {
            KnobKind::Integer { min, max, .. } => {
                Value::Integer(min.checked_add_unsigned(index).unwrap_or(*max).min(*max))
            }
            KnobKind::Float { min, .. } => Value::Float(*min),
            KnobKind::Boolean => Value::Boolean(index == 1),
            KnobKind::Choice { values } => choice(values, index as usize),
        }
    }

    fn encode(&self, value: &Value) -> f64 {
        let unit = match (&self.kind, value) {
            (KnobKind::Integer { min, max, log }, value) => {
                value.as_number().map(|number| Line::whole(*min, *max, *log).unit(number))
            }
            (KnobKind::Float { min, max, log }, value) => {
                value.as_number().map(|number| Line::decimal(*min, *max, *log).unit(number))
            }
            (KnobKind::Boolean, Value::Boolean(value)) => Some(if *value { 0.75 } else { 0.25 }),
            (KnobKind::Choice { values }, Value::Choice(value)) => {
                let place = values.iter().position(|known| known == value);
                place.map(|place| (place as f64 + 0.5) / values.len() as f64)
            }
            _ => None,
        };
        unit.filter(|unit| unit.is_finite()).unwrap_or(0.5)
    }

    fn decode(&self, unit: f64) -> Value {
        let unit = if unit.is_finite() { unit.clamp(0.0, 1.0) } else { 0.5 };
        match &self.kind {
            KnobKind::Integer { min, max, log } => {
                let number = Line::whole(*min, *max, *log).number(unit).round();
                Value::Integer((number as i64).clamp(*min, *max))
            }
            KnobKind::Float { min, max, log } => {
                let line = Line::decimal(*min, *max, *log);
                let place = (unit * FLOAT_STEPS).round();
                let number = line.number(place / FLOAT_STEPS);
                let step = (line.number((place + 1.0) / FLOAT_STEPS) - number).abs();
                Value::Float(shortened(number, step).clamp(*min, *max))
            }
            KnobKind::Boolean => Value::Boolean(unit >= 0.5),
            KnobKind::Choice { values } => choice(values, (unit * values.len() as f64) as usize),
        }
    }

    /// Returns a value other than the one at `unit`, about `step` of the range away; the axis has more than one value.
    fn step_from(&self, unit: f64, step: f64, rng: &mut impl Rng) -> Value {
        let here = self.decode(unit);
        match &self.kind {
            KnobKind::Boolean => Value::Boolean(here == Value::Boolean(false)),
            KnobKind::Choice { values } => {
                let others: Vec<usize> = (0..values.len()).filter(|place| choice(values, *place) != here).collect();
                choice(values, others[rng.random_range(0..others.len())])
            }
            KnobKind::Integer { .. } | KnobKind::Float { .. } => {
                let there = self.decode(reflected(unit + step * normal(rng)));
                if there == here { self.next_to(unit, &here, rng.random_bool(0.5)) } else { there }
            }
        }
    }

    /// Returns the nearest other number, upwards or downwards as asked where the range allows it.
    fn next_to(&self, unit: f64, here: &Value, upwards: bool) -> Value {
        if let (KnobKind::Integer { min, max, .. }, Value::Integer(number)) = (&self.kind, here) {
            let up = (upwards || number == min) && number != max;
            Value::Integer(if up { number.saturating_add(1) } else { number.saturating_sub(1) })
        } else {
            let up = (upwards || unit < 1.0 / FLOAT_STEPS) && unit <= 1.0 - 1.0 / FLOAT_STEPS;
            self.decode(unit + if up { 1.0 } else { -1.0 } / FLOAT_STEPS)
        }
    }

    fn apart(&self, a: f64, b: f64) -> f64 {
        match &self.kind {
            KnobKind::Integer { .. } | KnobKind::Float { .. } => (a - b).abs(),
            KnobKind::Boolean | KnobKind::Choice { .. } => f64::from(u8::from(self.decode(a) != self.decode(b))),
        }
    }
}

/// A stretch of numbers, straight or logarithmic.
struct Line {
    low: f64,
    high: f64,
    log: bool,
}

impl Line {
    fn decimal(min: f64, max: f64, log: bool) -> Line {
        if log { Line { low: min.ln(), high: max.ln(), log } } else { Line { low: min, high: max, log } }
    }

    /// Half a step is added at both ends, so that the ends are drawn as often as the numbers between.
    fn whole(min: i64, max: i64, log: bool) -> Line {
        Line::decimal(min as f64 - 0.5, max as f64 + 0.5, log)
    }

    fn unit(&self, number: f64) -> f64 {
        // What lies at or below zero has no logarithm; it is below every logarithmic range, hence at its lower end.
        let number = if self.log { number.max(f64::MIN_POSITIVE).ln() } else { number };
        if self.high > self.low { ((number - self.low) / (self.high - self.low)).clamp(0.0, 1.0) } else { 0.5 }
    }

    fn number(&self, unit: f64) -> f64 {
        let number = self.low * (1.0 - unit) + self.high * unit;
        if self.log { number.exp() } else { number }
    }
}

fn choice(values: &[String], place: usize) -> Value {
    Value::Choice(values[place.min(values.len() - 1)].clone())
}

/// Returns `number` with as many decimals as tell apart what lies a `step` away: 0.85 rather than 0.8500000000000001.
fn shortened(number: f64, step: f64) -> f64 {
    let scale = 10_f64.powf((-step.log10()).ceil() + 1.0);
    let short = (number * scale).round() / scale;
    if short.is_finite() { short } else { number }
}

/// Returns the coordinate folded back into 0 to 1, so that steps over an end do not pile up at it.
fn reflected(unit: f64) -> f64 {
    let folded = unit.rem_euclid(2.0);
    if folded > 1.0 { 2.0 - folded } else { folded }
}

/// Returns a standard normal number (Box and Muller).
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}

/// Returns why a parameter of this kind cannot be searched.
fn problem(kind: &KnobKind) -> Option<String> {
    match kind {
        KnobKind::Integer { min, max, .. } if min > max => Some(format!("min {min} is above max {max}")),
        KnobKind::Integer { min, log: true, .. } if *min < 1 => {
            Some(format!("a logarithmic range starts above 0, not at {min}"))
        }
        KnobKind::Float { min, max, .. } if !(min.is_finite() && max.is_finite() && (max - min).is_finite()) => {
            Some(format!("{min} to {max} is no finite range"))
        }
        KnobKind::Float { min, max, .. } if min > max => Some(format!("min {min} is above max {max}")),
        KnobKind::Float { min, log: true, .. } if *min <= 0.0 => {
            Some(format!("a logarithmic range starts above 0, not at {min}"))
        }
        KnobKind::Choice { values } if values.is_empty() => Some("the list of choices is empty".to_owned()),
        KnobKind::Choice { values } => {
            let twice = values.iter().enumerate().find(|(place, value)| values[..*place].contains(value));
            twice.map(|(_, value)| format!("the choice {value:?} is listed twice"))
        }
        KnobKind::Integer { .. } | KnobKind::Float { .. } | KnobKind::Boolean => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn mixed() -> Space {
        space(&[
            ("batch", KnobKind::Integer { min: 1, max: 512, log: true }),
            ("cache", KnobKind::Float { min: 0.5, max: 0.95, log: false }),
            ("decay", KnobKind::Float { min: 1e-6, max: 1e-1, log: true }),
            ("eager", KnobKind::Boolean),
            ("fixed", KnobKind::Integer { min: 7, max: 7, log: false }),
            ("policy", KnobKind::Choice { values: ["fcfs", "sjf", "prio"].map(str::to_owned).to_vec() }),
            ("threads", KnobKind::Integer { min: -2, max: 9, log: false }),
        ])
    }

    fn space(axes: &[(&str, KnobKind)]) -> Space {
        Space::new(&axes.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())).collect()).unwrap()
    }

    fn params(values: &[(&str, Value)]) -> Params {
        values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[track_caller]
    fn refused(kind: KnobKind, part: &str) {
        let problem = Space::new(&BTreeMap::from([("batch".to_owned(), kind)])).unwrap_err();
        assert!(problem.starts_with("search_space.batch: ") && problem.contains(part), "{problem}");
    }

    #[test]
    fn a_range_that_cannot_be_searched_is_refused_by_name() {
        assert!(Space::new(&BTreeMap::new()).is_err());
        refused(KnobKind::Integer { min: 2, max: 1, log: false }, "above max");
        refused(KnobKind::Integer { min: 0, max: 1, log: true }, "logarithmic");
        refused(KnobKind::Float { min: 2.0, max: 1.0, log: false }, "above max");
        refused(KnobKind::Float { min: f64::NAN, max: 1.0, log: false }, "no finite range");
        refused(KnobKind::Float { min: f64::MIN, max: f64::MAX, log: false }, "no finite range");
        refused(KnobKind::Float { min: 0.0, max: 1.0, log: true }, "logarithmic");
        refused(KnobKind::Choice { values: vec![] }, "empty");
        refused(KnobKind::Choice { values: vec!["a".to_owned(), "a".to_owned()] }, "twice");
    }

    #[test]
    fn a_space_without_decimal_numbers_is_counted_and_listed_whole() {
        let small = space(&[
            ("a", KnobKind::Integer { min: 1, max: 100, log: true }),
            ("b", KnobKind::Boolean),
            ("c", KnobKind::Choice { values: ["x", "y", "z"].map(str::to_owned).to_vec() }),
        ]);
        assert_eq!(small.size(), Some(600));
        let points = small.points().unwrap();
        let names: std::collections::BTreeSet<_> = points.iter().map(|point| small.identity(point)).collect();
        assert_eq!(names.len(), 600);
        assert!(points.iter().all(|point| small.contains(point)));
        assert_eq!(mixed().size(), None);
        assert_eq!(space(&[("a", KnobKind::Integer { min: i64::MIN, max: i64::MAX, log: false })]).size(), None);
    }

    #[test]
    fn decimal_numbers_are_written_short() {
        let space = space(&[("cache", KnobKind::Float { min: 0.5, max: 0.95, log: false })]);
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..200 {
            let Value::Float(number) = space.random(&mut rng)["cache"] else { panic!("no decimal number") };
            assert!(number.to_string().len() <= 8, "{number}");
        }
    }

    #[test]
    fn live_settings_outside_the_space_are_a_place_to_start_from() {
        let space = mixed();
        let outside = params(&[("batch", Value::Integer(9999)), ("policy", Value::Choice("gone".to_owned()))]);
        assert!(!space.contains(&outside));
        assert!(space.contains(&space.decode(&space.encode(&outside))));
        assert_eq!(space.encode(&outside)[0], 1.0);
        let mut rng = StdRng::seed_from_u64(1);
        assert!(space.contains(&space.mutate(&outside, 0.1, &mut rng)));
        let end = params(&[("batch", Value::Integer(512)), ("policy", Value::Choice("gone".to_owned()))]);
        assert_ne!(space.identity(&outside), space.identity(&end));
    }

    #[test]
    fn each_whole_number_of_a_range_is_drawn_as_often_as_the_others() {
        let space = space(&[("a", KnobKind::Integer { min: 0, max: 3, log: false })]);
        let mut rng = StdRng::seed_from_u64(1);
        let mut drawn = [0; 4];
        for _ in 0..4000 {
            if let Value::Integer(number) = space.random(&mut rng)["a"] {
                drawn[number as usize] += 1;
            }
        }
        assert!(drawn.iter().all(|count| (900..1100).contains(count)), "{drawn:?}");
    }

    proptest! {
        #[test]
        fn every_way_to_a_point_stays_within_bounds(seed: u64, step in 0.0..2.0_f64, n in 1_u32..20) {
            let (space, mut rng) = (mixed(), StdRng::seed_from_u64(seed));
            let (a, b) = (space.random(&mut rng), space.random(&mut rng));
            prop_assert!(space.contains(&a));
            prop_assert!(space.contains(&space.mutate(&a, step, &mut rng)));
            prop_assert!(space.contains(&space.crossover(&a, &b, &mut rng)));
            prop_assert!(space.latin_hypercube(n, &mut rng).iter().all(|point| space.contains(point)));
            let wild: Vec<f64> = (0..9).map(|_| f64::from_bits(rng.random())).collect();
            prop_assert!(space.contains(&space.decode(&wild)));
        }

        #[test]
        fn a_point_that_is_encoded_and_decoded_is_the_same_point(seed: u64) {
            let (space, mut rng) = (mixed(), StdRng::seed_from_u64(seed));
            let point = space.random(&mut rng);
            prop_assert_eq!(&space.decode(&space.encode(&point)), &point);
        }

        #[test]
        fn a_mutant_is_never_the_point_it_came_from(seed: u64, step in 0.0..0.5_f64) {
            let (space, mut rng) = (mixed(), StdRng::seed_from_u64(seed));
            let point = space.random(&mut rng);
            let mutant = space.mutate(&point, step, &mut rng);
            prop_assert_ne!(space.identity(&point), space.identity(&mutant));
            prop_assert!(space.distance(&point, &mutant) > 0.0);
        }

        #[test]
        fn a_latin_hypercube_covers_each_range_evenly(seed: u64, n in 2_u32..30) {
            let space = space(&[("a", KnobKind::Float { min: 0.0, max: 1.0, log: false }), ("b", KnobKind::Boolean)]);
            let points = space.latin_hypercube(n, &mut StdRng::seed_from_u64(seed));
            let on = points.iter().filter(|point| point["b"] == Value::Boolean(true)).count();
            prop_assert!(on.abs_diff(n as usize / 2) <= 1);
            let mut numbers: Vec<f64> = points.iter().filter_map(|point| point["a"].as_number()).collect();
            numbers.sort_by(f64::total_cmp);
            let even = numbers.iter().enumerate().all(|(row, number)| {
                let low = row as f64 / f64::from(n);
                (low - 0.001..=low + 1.0 / f64::from(n) + 0.001).contains(number)
            });
            prop_assert!(even, "{:?}", numbers);
        }
    }
}
