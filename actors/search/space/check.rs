//! Whether a space can be searched, and if not, what to do about it.

use super::{Kind, Limit, Param, Parent, Point, Shared, Space, SpaceSpec, Value, axis::Axis};

/// Why a space cannot be searched.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpaceError {
    /// A parameter without a name.
    #[error("parameter {number} has no name: give it one")]
    NoName {
        /// Its place, from 1.
        number: usize,
    },
    /// Two parameters of one name.
    #[error("{param} is declared twice: rename one")]
    Twice {
        /// The name of both.
        param: String,
    },
    /// What is wrong with the values of one parameter.
    #[error("{param}: {problem}")]
    Values {
        /// The parameter.
        param: String,
        /// What to do about it.
        problem: &'static str,
    },
    /// A condition, constraint or forbidden combination names what is not declared.
    #[error("{where_used} names {param}, which is not declared: declare it or correct the name")]
    Unknown {
        /// The name.
        param: String,
        /// Where it stands.
        where_used: String,
    },
    /// A condition or forbidden combination names a value that its parameter never has.
    #[error("{where_used} names {param} = {value}, a value that {param} never has: correct it or take it out")]
    NeverHas {
        /// The parameter.
        param: String,
        /// The value.
        value: String,
        /// Where it stands.
        where_used: String,
    },
    /// A parameter that depends on itself, perhaps through others.
    #[error("{param} depends on itself: remove one `when` of the circle")]
    Circle {
        /// The parameter.
        param: String,
    },
    /// A constraint about what is no number.
    #[error("the constraint {constraint} needs numbers, and {param} has others: remove it, or forbid combinations")]
    NotNumbers {
        /// The parameter.
        param: String,
        /// The constraint.
        constraint: String,
    },
    /// A constraint that no values keep.
    #[error("no values keep the constraint {constraint}: widen the range of {param}")]
    Impossible {
        /// The parameter on the left.
        param: String,
        /// The constraint.
        constraint: String,
    },
    /// A limit on what is no number, or by what is none.
    #[error("a limit on {param}: {problem}")]
    Limit {
        /// The parameter.
        param: String,
        /// What to do about it.
        problem: &'static str,
    },
    /// A limit that no values keep.
    #[error("no values keep a limit of {max}: the smallest ones come to {least}")]
    OverLimit {
        /// The limit.
        max: f64,
        /// What the smallest values come to.
        least: f64,
    },
    /// A constraint that is not of the form `a <= b`.
    #[error("the constraint {text:?} is not of the form `a <= b`")]
    ConstraintText {
        /// What stands there.
        text: String,
    },
}

impl Space {
    /// Returns the space of this spec, or the first thing that is wrong with it.
    ///
    /// A space without parameters has one point.
    pub fn new(spec: SpaceSpec) -> Result<Space, SpaceError> {
        for (index, param) in spec.params.iter().enumerate() {
            if param.name.is_empty() {
                return Err(SpaceError::NoName { number: index + 1 });
            }
            if spec.params[..index].iter().any(|other| other.name == param.name) {
                return Err(SpaceError::Twice { param: param.name.clone() });
            }
            if let Some(problem) = problem(&param.kind) {
                return Err(SpaceError::Values { param: param.name.clone(), problem });
            }
        }
        let axes: Vec<Axis> = spec.params.iter().map(|param| Axis::new(param.kind.clone())).collect();
        let parents = parents(&spec, &axes)?;
        let order = order(&spec.params, &parents)?;
        let constraints = constraints(&spec, &axes)?;
        let forbidden = forbidden(&spec, &axes)?;
        let limits = spec.limits.iter().map(|limit| shared(limit, &spec, &axes)).collect::<Result<_, _>>()?;
        Ok(Space { spec, axes, order, parents, constraints, forbidden, limits })
    }
}

/// What is wrong with the values of a parameter, and what to do about it.
fn problem(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::Float { low, high, log, step } => match step {
            _ if !low.is_finite() || !high.is_finite() || !(high - low).is_finite() => {
                Some("an end of the range is not finite: give both ends")
            }
            _ if low > high => Some("low is above high: exchange them"),
            _ if *log && *low <= 0.0 => Some("a logarithmic range begins above 0: raise low or set log to false"),
            _ if *log && !(high / low).is_finite() => {
                Some("the ends of the logarithmic range are too far apart: raise low")
            }
            Some(step) if !(step.is_finite() && *step > 0.0) => Some("the step is not above 0: give a positive one"),
            Some(step) if (high - low) / step > 1e15 => Some("the step is too small for the range: leave it out"),
            _ => None,
        },
        Kind::Integer { low, high, log, step } => match step {
            _ if low > high => Some("low is above high: exchange them"),
            _ if *log && *low <= 0 => Some("a logarithmic range begins above 0: raise low or set log to false"),
            Some(step) if *step <= 0 => Some("the step is not above 0: give a positive one"),
            _ => None,
        },
        Kind::Categorical { choices } | Kind::Ordinal { choices } => {
            let finite = |choice: &Value| choice.number().is_none_or(f64::is_finite);
            let repeated = |(index, choice): (usize, &Value)| choices[..index].iter().any(|other| other.is(choice));
            if choices.is_empty() {
                Some("it has no choices: name at least one")
            } else if !choices.iter().all(finite) {
                Some("a choice is not finite: take it out")
            } else if choices.iter().enumerate().any(repeated) {
                Some("a choice stands there twice: take one out")
            } else {
                None
            }
        }
        Kind::Bool => None,
    }
}

/// Returns where `name` stands.
fn find(spec: &SpaceSpec, name: &str, where_used: &dyn Fn() -> String) -> Result<usize, SpaceError> {
    let found = spec.params.iter().position(|param| param.name == name);
    found.ok_or_else(|| SpaceError::Unknown { param: name.to_owned(), where_used: where_used() })
}

/// Returns the coordinate of `value`.
fn unit(axis: &Axis, name: &str, value: &Value, where_used: &dyn Fn() -> String) -> Result<f64, SpaceError> {
    axis.unit_of(value).ok_or_else(|| SpaceError::NeverHas {
        param: name.to_owned(),
        value: value.to_string(),
        where_used: where_used(),
    })
}

fn parents(spec: &SpaceSpec, axes: &[Axis]) -> Result<Vec<Option<Parent>>, SpaceError> {
    let parent = |param: &Param| {
        let Some(when) = &param.when else { return Ok(None) };
        let where_used = || format!("the condition of {}", param.name);
        let index = find(spec, &when.param, &where_used)?;
        let units = when.r#in.iter().map(|value| unit(&axes[index], &when.param, value, &where_used));
        Ok(Some((index, units.collect::<Result<Point, SpaceError>>()?)))
    };
    spec.params.iter().map(parent).collect()
}

fn order(params: &[Param], parents: &[Option<Parent>]) -> Result<Vec<usize>, SpaceError> {
    let mut order: Vec<usize> = Vec::new();
    let mut placed = vec![false; params.len()];
    while order.len() < params.len() {
        let is_free =
            |index: &usize| !placed[*index] && parents[*index].as_ref().is_none_or(|(parent, _)| placed[*parent]);
        let Some(next) = (0..params.len()).find(is_free) else {
            let stuck = placed.iter().position(|placed| !placed).unwrap_or_default();
            return Err(SpaceError::Circle { param: params[stuck].name.clone() });
        };
        placed[next] = true;
        order.push(next);
    }
    Ok(order)
}

fn constraints(spec: &SpaceSpec, axes: &[Axis]) -> Result<Vec<(usize, usize)>, SpaceError> {
    let pair = |constraint: &super::Constraint| {
        let text = || String::from(constraint.clone());
        let where_used = || format!("the constraint {}", text());
        let left = find(spec, &constraint.left, &where_used)?;
        let right = find(spec, &constraint.right, &where_used)?;
        for index in [left, right] {
            if !axes[index].is_number() {
                return Err(SpaceError::NotNumbers { param: spec.params[index].name.clone(), constraint: text() });
            }
        }
        let always = [left, right].iter().all(|index| spec.params[*index].when.is_none());
        if always && axes[left].number_min() > axes[right].number_max() {
            return Err(SpaceError::Impossible { param: constraint.left.clone(), constraint: text() });
        }
        Ok((left, right))
    };
    spec.constraints.iter().map(pair).collect()
}

fn shared(limit: &Limit, spec: &SpaceSpec, axes: &[Axis]) -> Result<Shared, SpaceError> {
    let of = |(name, weight): (&String, &f64)| {
        let index = find(spec, name, &|| "a limit".to_owned())?;
        let wrong = |problem| Err(SpaceError::Limit { param: name.clone(), problem });
        match axes[index].is_number() {
            false => wrong("it has no numbers to add up: take it out"),
            true if !(weight.is_finite() && *weight > 0.0) => wrong("each unit takes an amount above 0: give one"),
            true if axes[index].number_min() < 0.0 => wrong("a number below 0 takes nothing: raise low"),
            true => Ok((index, *weight)),
        }
    };
    let each = limit.each.iter().map(of).collect::<Result<Vec<_>, SpaceError>>()?;
    let always = each.iter().filter(|(index, _)| spec.params[*index].when.is_none());
    let least: f64 = always.map(|(index, weight)| weight * axes[*index].number_min()).sum();
    if limit.max.is_nan() || least > limit.max {
        return Err(SpaceError::OverLimit { max: limit.max, least });
    }
    Ok((each, limit.max))
}

fn forbidden(spec: &SpaceSpec, axes: &[Axis]) -> Result<Vec<Vec<(usize, f64)>>, SpaceError> {
    let where_used = || "a forbidden combination".to_owned();
    let entry = |(name, value): (&String, &Value)| {
        let index = find(spec, name, &where_used)?;
        Ok((index, unit(&axes[index], name, value, &where_used)?))
    };
    spec.forbidden.iter().map(|config| config.iter().map(entry).collect()).collect()
}
