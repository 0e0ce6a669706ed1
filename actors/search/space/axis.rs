//! One parameter as a coordinate from 0 to 1.

use rand::{Rng, RngExt};

use super::{Kind, Value, sample::normal};

/// How far a value may be off its step, as a share of it, and still be on it.
const STEP_SLACK: f64 = 1e-6;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    kind: Kind,
}

impl Axis {
    /// Takes a kind that was checked.
    pub(super) fn new(kind: Kind) -> Axis {
        Axis { kind }
    }

    pub(super) fn is_category(&self) -> bool {
        matches!(self.kind, Kind::Categorical { .. } | Kind::Bool)
    }

    /// Whether its values are numbers that can be compared.
    pub(super) fn is_number(&self) -> bool {
        match &self.kind {
            Kind::Float { .. } | Kind::Integer { .. } => true,
            Kind::Ordinal { choices } => choices.iter().all(|choice| choice.number().is_some()),
            Kind::Categorical { .. } | Kind::Bool => false,
        }
    }

    /// Returns how many values there are; `None` if they are not counted.
    pub(super) fn levels(&self) -> Option<u64> {
        match &self.kind {
            Kind::Float { low, high, .. } if low == high => Some(1),
            Kind::Float { step: None, .. } => None,
            Kind::Float { low, high, step: Some(step), .. } => Some(float_steps(*low, *high, *step) as u64 + 1),
            Kind::Integer { low, high, step, .. } => {
                let steps = (i128::from(*high) - i128::from(*low)) / i128::from(step.unwrap_or(1));
                u64::try_from(steps + 1).ok()
            }
            Kind::Categorical { choices } | Kind::Ordinal { choices } => Some(choices.len() as u64),
            Kind::Bool => Some(2),
        }
    }

    /// Returns the coordinate in the middle; of a set, that of the first choice.
    pub(super) fn middle(&self) -> f64 {
        if self.is_category() { 0.0 } else { self.snap(0.5) }
    }

    /// Returns the nearest coordinate at which there is a value; a NaN becomes the middle.
    pub(super) fn snap(&self, unit: f64) -> f64 {
        let unit = if unit.is_nan() { 0.5 } else { unit.clamp(0.0, 1.0) };
        match &self.kind {
            Kind::Float { low, high, .. } if low == high => 0.0,
            Kind::Float { step: None, .. } => unit,
            Kind::Float { .. } | Kind::Integer { .. } => self.unit_of_number(self.number_at(unit)),
            Kind::Categorical { choices } | Kind::Ordinal { choices } => {
                unit_of_index(index_at(unit, choices.len()), choices.len())
            }
            Kind::Bool => unit_of_index(index_at(unit, 2), 2),
        }
    }

    /// Returns the coordinate for a number from 0 to 1, so that evenly spread numbers give every level an equal share.
    pub(super) fn drawn(&self, unit: f64) -> f64 {
        match (&self.kind, self.levels()) {
            // Ends of a range would get half of what others get; on a logarithmic scale levels are not even anyway.
            (Kind::Float { log: false, .. } | Kind::Integer { log: false, .. }, Some(levels)) if levels > 1 => {
                self.snap((unit * levels as f64).floor().min(levels as f64 - 1.0) / (levels as f64 - 1.0))
            }
            (Kind::Categorical { .. } | Kind::Ordinal { .. } | Kind::Bool, Some(levels)) => {
                self.unit_of_level((unit * levels as f64) as u64)
            }
            _ => self.snap(unit),
        }
    }

    /// Returns another coordinate, about `size` away: see [`super::Space::mutant`].
    pub(super) fn moved(&self, unit: f64, size: f64, rng: &mut impl Rng) -> f64 {
        let levels = self.levels();
        if self.is_category() {
            let levels = levels.unwrap_or(1).max(1);
            let here = index_at(unit, levels as usize) as u64;
            let other = if levels > 1 { rng.random_range(0..levels - 1) } else { 0 };
            return self.unit_of_level(if other >= here { other + 1 } else { other });
        }
        let step = size * normal(rng);
        let there = self.snap(reflected(unit + step));
        match levels {
            Some(levels) if levels > 1 && there == unit => {
                // A step that rounding undid becomes one level, in its direction unless that is beyond the end.
                let mut reach = 1.0 / (levels - 1) as f64;
                for _ in 0..8 {
                    let sides = if step < 0.0 { [-reach, reach] } else { [reach, -reach] };
                    let moved = sides.map(|side| self.snap(unit + side)).into_iter().find(|moved| *moved != unit);
                    match moved {
                        Some(moved) => return moved,
                        None => reach *= 2.0,
                    }
                }
                unit
            }
            _ => there,
        }
    }

    /// Returns the coordinate of a value by its number, from 0; the last for too large a number.
    pub(super) fn unit_of_level(&self, index: u64) -> f64 {
        let last = self.levels().unwrap_or(1).saturating_sub(1);
        let index = index.min(last);
        match &self.kind {
            Kind::Float { low, step, .. } => self.snap(self.unit_of_number(low + index as f64 * step.unwrap_or(0.0))),
            Kind::Integer { low, step, .. } => {
                let number = i128::from(*low) + i128::from(index) * i128::from(step.unwrap_or(1));
                self.snap(self.unit_of_number(number as f64))
            }
            _ => unit_of_index(index as usize, last as usize + 1),
        }
    }

    /// Returns the value at a coordinate.
    pub(super) fn value_at(&self, unit: f64) -> Value {
        match &self.kind {
            Kind::Float { .. } => Value::Float(self.number_at(unit)),
            Kind::Integer { low, high, log, step } => Value::Integer(integer_at(unit, *low, *high, *log, *step)),
            Kind::Categorical { choices } | Kind::Ordinal { choices } => choices[index_at(unit, choices.len())].clone(),
            Kind::Bool => Value::Bool(unit >= 0.5),
        }
    }

    /// Returns the value at a coordinate as a number, 0 for what is none.
    pub(super) fn number_at(&self, unit: f64) -> f64 {
        match &self.kind {
            Kind::Float { low, high, log, step } => {
                let value = between(unit, *low, *high, *log);
                let Some(step) = step else { return value };
                let steps = ((value - low) / step).round().clamp(0.0, float_steps(*low, *high, *step));
                rounded(low + steps * step, *step).clamp(*low, *high)
            }
            Kind::Integer { low, high, log, step } => integer_at(unit, *low, *high, *log, *step) as f64,
            Kind::Ordinal { choices } => choices[index_at(unit, choices.len())].number().unwrap_or(0.0),
            Kind::Categorical { .. } | Kind::Bool => 0.0,
        }
    }

    /// Returns the coordinate of exactly this value; `None` if it is none of ours.
    pub(super) fn unit_of(&self, value: &Value) -> Option<f64> {
        let unit = self.nearest_unit(value)?;
        let nearest = self.value_at(unit);
        let slack = match &self.kind {
            Kind::Float { low, high, step, .. } => step.unwrap_or(high - low) * STEP_SLACK,
            _ => 0.0,
        };
        let is_near = |wanted: f64| nearest.number().is_some_and(|number| (number - wanted).abs() <= slack);
        let is_kind = matches!(self.kind, Kind::Float { .. } | Kind::Integer { .. });
        let in_range = match &self.kind {
            Kind::Float { low, high, .. } => value.number().is_some_and(|number| (*low..=*high).contains(&number)),
            _ => true,
        };
        (in_range && (nearest.is(value) || is_kind && value.number().is_some_and(is_near))).then_some(unit)
    }

    /// Returns the coordinate of the value nearest to this one; `None` if it is of another sort or not finite.
    pub(super) fn nearest_unit(&self, value: &Value) -> Option<f64> {
        match &self.kind {
            Kind::Float { .. } | Kind::Integer { .. } => {
                let number = value.number().filter(|number| number.is_finite())?;
                Some(self.snap(self.unit_of_number(number)))
            }
            Kind::Categorical { choices } | Kind::Ordinal { choices } => {
                let index = choices.iter().position(|choice| choice.is(value))?;
                Some(unit_of_index(index, choices.len()))
            }
            Kind::Bool => match value {
                Value::Bool(on) => Some(f64::from(u8::from(*on))),
                _ => None,
            },
        }
    }

    /// Returns the smallest number there is.
    pub(super) fn number_min(&self) -> f64 {
        self.numbers().fold(f64::INFINITY, f64::min)
    }

    /// Returns the largest number there is.
    pub(super) fn number_max(&self) -> f64 {
        self.numbers().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The ends of a range, or every choice, for those need not be sorted.
    fn numbers(&self) -> impl Iterator<Item = f64> {
        let count = match &self.kind {
            Kind::Categorical { choices } | Kind::Ordinal { choices } => choices.len(),
            _ => 2,
        };
        (0..count).map(move |index| self.number_at(unit_of_index(index, count)))
    }

    /// Returns the largest coordinate whose number is at most `number`, or that of the smallest number.
    pub(super) fn unit_below(&self, number: f64) -> f64 {
        self.unit_beside(number, |found| found <= number, -1.0)
    }

    /// Returns the smallest coordinate whose number is at least `number`, or that of the largest number.
    pub(super) fn unit_above(&self, number: f64) -> f64 {
        self.unit_beside(number, |found| found >= number, 1.0)
    }

    fn unit_beside(&self, number: f64, is_beyond: impl Fn(f64) -> bool, direction: f64) -> f64 {
        if let Kind::Ordinal { choices } = &self.kind {
            let fits = (0..choices.len()).filter(|index| choices[*index].number().is_some_and(&is_beyond));
            let gap = |index: &usize| choices[*index].number().map_or(f64::INFINITY, |found| (found - number).abs());
            let nearest = fits.min_by(|a, b| gap(a).total_cmp(&gap(b)));
            // Those of a list need not be sorted.
            let beyond = |index: &usize| -direction * choices[*index].number().unwrap_or(f64::INFINITY);
            let end = || (0..choices.len()).min_by(|a, b| beyond(a).total_cmp(&beyond(b)));
            return unit_of_index(nearest.or_else(end).unwrap_or_default(), choices.len());
        }
        let unit = self.snap(self.unit_of_number(number));
        if is_beyond(self.number_at(unit)) {
            return unit;
        }
        let step = match &self.kind {
            Kind::Float { step, .. } => step.unwrap_or((self.number_at(unit) - number).abs() * 2.0),
            Kind::Integer { step, .. } => step.unwrap_or(1) as f64,
            _ => 0.0,
        };
        self.snap(self.unit_of_number(self.number_at(unit) + direction * step))
    }

    fn unit_of_number(&self, number: f64) -> f64 {
        let (low, high, log) = match &self.kind {
            Kind::Float { low, high, log, .. } => (*low, *high, *log),
            Kind::Integer { low, high, log, .. } => (*low as f64, *high as f64, *log),
            _ => return 0.0,
        };
        let number = number.clamp(low, high);
        if low >= high {
            return 0.0;
        }
        let unit =
            if log { (number / low).ln() / (high / low).ln() } else { number / (high - low) - low / (high - low) };
        unit.clamp(0.0, 1.0)
    }
}

/// Folds a number back into 0 to 1.
fn reflected(unit: f64) -> f64 {
    let folded = unit.rem_euclid(2.0);
    if folded > 1.0 { 2.0 - folded } else { folded }
}

fn between(unit: f64, low: f64, high: f64, log: bool) -> f64 {
    let value = if log { low * ((high / low).ln() * unit).exp() } else { low * (1.0 - unit) + high * unit };
    value.clamp(low, high)
}

fn integer_at(unit: f64, low: i64, high: i64, log: bool, step: Option<i64>) -> i64 {
    let step = i128::from(step.unwrap_or(1));
    let last = (i128::from(high) - i128::from(low)) / step;
    let offset = between(unit, low as f64, high as f64, log) - low as f64;
    let steps = ((offset / step as f64).round() as i128).clamp(0, last);
    i64::try_from(i128::from(low) + steps * step).unwrap_or(high)
}

/// How many steps fit in the range; a last one that rounding alone makes too short counts.
fn float_steps(low: f64, high: f64, step: f64) -> f64 {
    ((high - low) / step + STEP_SLACK).floor()
}

/// Returns `value` without the digits that adding up steps leaves behind, as the last of 0.30000000000000004.
fn rounded(value: f64, step: f64) -> f64 {
    let scale = 10_f64.powi(9 - step.abs().log10().floor() as i32);
    let scaled = value * scale;
    if scaled.is_finite() && scaled.abs() < 9e15 { scaled.round() / scale } else { value }
}

fn index_at(unit: f64, count: usize) -> usize {
    (unit * (count - 1) as f64).round() as usize
}

fn unit_of_index(index: usize, count: usize) -> f64 {
    if count < 2 { 0.0 } else { index as f64 / (count - 1) as f64 }
}
