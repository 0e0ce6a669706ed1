//! The search space of one experiment: checked, and put into the words of the engine and back.
//!
//! A parameter that is inactive is no part of a candidate: its key is neither set for the measurement nor by a
//! deployment, so it keeps what the live settings have, both times.

use std::{collections::BTreeMap, fmt};

use kloros_search::{
    Config as Point, Constraint, Kind, Limit as Shared, Param, Space, SpaceError, SpaceSpec, Value as Setting,
    When as Condition,
};

use crate::facts::{Dimension, ExperimentSpec, KnobKind, Limit, Params, Value, When, is_same};

/// How fine a decimal number without a step is set, in steps of its range.
const FLOAT_STEPS: f64 = 1000.0;

/// What may be varied, and what of it together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchSpace {
    /// The parameters by name.
    pub params: BTreeMap<String, Dimension>,
    /// What holds between two of them, as in `a <= b`.
    pub constraints: Vec<String>,
    /// Combinations that are never tried.
    pub forbidden: Vec<Params>,
    /// What the machine has left for them together.
    pub limits: Vec<Limit>,
}

/// Something wrong with a search space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceProblem {
    /// Where it stands.
    pub part: Part,
    /// What is wrong, and what to do.
    pub what: String,
}

/// A part of a search space; prints as the key under which it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All parameters together.
    Whole,
    /// A parameter, or one key of it.
    Param(String, Option<&'static str>),
    /// The constraint at this place, from 0.
    Constraint(usize),
    /// The forbidden combination at this place, from 0.
    Forbidden(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Whole => formatter.write_str("search_space"),
            Part::Param(name, None) => write!(formatter, "search_space.{name}"),
            Part::Param(name, Some(key)) => write!(formatter, "search_space.{name}.{key}"),
            Part::Constraint(index) => write!(formatter, "constraints[{index}]"),
            Part::Forbidden(index) => write!(formatter, "forbidden[{index}]"),
        }
    }
}

impl fmt::Display for SpaceProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.part, self.what)
    }
}

impl SearchSpace {
    /// Returns the search space of an experiment.
    pub fn of(spec: &ExperimentSpec) -> SearchSpace {
        let ExperimentSpec { search_space, constraints, forbidden, .. } = spec.clone();
        SearchSpace { params: search_space, constraints, forbidden, limits: Vec::new() }
    }

    /// Returns the space without what the machine has too little of.
    #[must_use]
    pub fn within(self, limits: Vec<Limit>) -> SearchSpace {
        SearchSpace { limits, ..self }
    }

    /// Returns everything that is wrong with the space; nothing when it can be searched.
    ///
    /// Conditions are looked at when all ranges are in order, and what refers to parameters when all conditions are.
    pub fn problems(&self) -> Vec<SpaceProblem> {
        if self.params.is_empty() {
            return vec![SpaceProblem { part: Part::Whole, what: "names no parameter: name at least one".to_owned() }];
        }
        let ranges: Vec<SpaceProblem> = self.params.keys().filter_map(|name| self.range_problem(name)).collect();
        if !ranges.is_empty() {
            return ranges;
        }
        let conditions: Vec<SpaceProblem> =
            self.params.keys().filter_map(|name| self.condition_problem(name)).collect();
        if !conditions.is_empty() {
            return conditions;
        }
        if let Err(error) = Space::new(SpaceSpec { params: self.engine_params(|_| true), ..SpaceSpec::default() }) {
            let part = match &error {
                SpaceError::Circle { param } => Part::Param(param.clone(), Some("when")),
                _ => Part::Whole,
            };
            return vec![SpaceProblem { part, what: error.to_string() }];
        }
        let constraints = (0..self.constraints.len()).filter_map(|index| self.constraint_problem(index));
        let forbidden = (0..self.forbidden.len()).filter_map(|index| self.forbidden_problem(index));
        let problems: Vec<SpaceProblem> = constraints.chain(forbidden).collect();
        if problems.is_empty() && self.engine().is_ok_and(|space| space.is_empty()) {
            let what = "no combination is left that constraints and forbidden allow: take one of them out".to_owned();
            return vec![SpaceProblem { part: Part::Whole, what }];
        }
        problems
    }

    /// Returns the space as the engine knows it, or what is wrong with it.
    pub fn checked(&self) -> Result<Space, String> {
        if let Some(problem) = self.problems().first() {
            return Err(problem.to_string());
        }
        self.engine()
    }

    fn engine(&self) -> Result<Space, String> {
        let constraints = self.constraints.iter().cloned().map(Constraint::try_from);
        let spec = SpaceSpec {
            params: self.engine_params(|_| true),
            constraints: constraints.collect::<Result<_, _>>().map_err(|error| error.to_string())?,
            forbidden: self.forbidden.iter().map(settings).collect(),
            limits: self.limits.iter().map(|limit| Shared { each: limit.each.clone(), max: limit.max }).collect(),
        };
        Space::new(spec).map_err(|error| error.to_string())
    }

    /// Returns what of `params` means something, given the rest of them.
    pub fn active(&self, params: &Params) -> Params {
        params
            .iter()
            .filter(|(name, _)| self.is_active(name, params))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// Returns whether the parameter of this name means something beside these.
    pub(super) fn is_active(&self, name: &str, params: &Params) -> bool {
        let mut name = name;
        // No chain of conditions is longer than there are parameters, unless it is a circle.
        for _ in 0..=self.params.len() {
            let Some(dimension) = self.params.get(name) else { return false };
            let Some(When { param, r#in }) = &dimension.when else { return true };
            let holds = params.get(param).is_some_and(|value| r#in.iter().any(|wanted| is_same(wanted, value)));
            if !holds {
                return false;
            }
            name = param;
        }
        false
    }

    /// Returns `params` in the words of the engine; a number that a list lacks is the nearest one of the list.
    pub fn point_of(&self, params: &Params) -> Point {
        let listed = |name: &String, value: &Value| match self.params.get(name).map(|each| &each.range) {
            Some(KnobKind::Ordinal { values }) => nearest(values, value).unwrap_or_else(|| value.clone()),
            _ => value.clone(),
        };
        params.iter().map(|(name, value)| (name.clone(), setting(&listed(name, value)))).collect()
    }

    /// Returns the parameters of a point of the engine, decimal numbers without digits that nobody would write, unless a
    /// constraint or limit that the point keeps hangs on them.
    pub fn params_of(&self, point: &Point) -> Params {
        let short = self.shortened_params(point);
        if self.keeps_constraints(&short) {
            return short;
        }
        let exact = |(name, setting): (&String, &Setting)| match setting {
            Setting::Float(value) => (name.clone(), Value::Float(*value)),
            _ => (name.clone(), short[name].clone()),
        };
        point.iter().map(exact).collect()
    }

    fn keeps_constraints(&self, params: &Params) -> bool {
        let number = |name: &String| params.get(name).and_then(Value::as_number);
        let constraints = self.constraints.iter().filter_map(|text| Constraint::try_from(text.clone()).ok());
        let mut sides = constraints.filter_map(|constraint| number(&constraint.left).zip(number(&constraint.right)));
        let takes =
            |limit: &Limit| limit.each.iter().filter_map(|(name, each)| Some(each * number(name)?)).sum::<f64>();
        sides.all(|(left, right)| left <= right) && self.limits.iter().all(|limit| takes(limit) <= limit.max)
    }

    fn shortened_params(&self, point: &Point) -> Params {
        let value = |name: &String, setting: &Setting| match (setting, self.params.get(name).map(|each| &each.range)) {
            (Setting::Bool(value), _) => Value::Boolean(*value),
            (Setting::Integer(value), _) => Value::Integer(*value),
            (Setting::Text(value), _) => Value::Choice(value.clone()),
            (Setting::Float(value), Some(KnobKind::Float { min, max, log, step: None })) => {
                let part = if *log { value * (max / min).ln() } else { max - min } / FLOAT_STEPS;
                Value::Float(shortened(*value, part).clamp(*min, *max))
            }
            (Setting::Float(value), _) => Value::Float(*value),
        };
        point.iter().map(|(name, setting)| (name.clone(), value(name, setting))).collect()
    }

    /// Returns whether two values of the parameter of this name are the same but for rounding.
    pub(super) fn is_near(&self, name: &str, one: &Value, other: &Value) -> bool {
        let reach = match self.params.get(name).map(|each| &each.range) {
            Some(KnobKind::Float { min, max, step: None, .. }) => (max - min) / FLOAT_STEPS,
            Some(KnobKind::Float { step: Some(step), .. }) => step / FLOAT_STEPS,
            _ => 0.0,
        };
        let numbers = one.as_number().zip(other.as_number());
        is_same(one, other) || numbers.is_some_and(|(one, other)| (one - other).abs() <= reach)
    }

    fn range_problem(&self, name: &str) -> Option<SpaceProblem> {
        let dimension = self.params.get(name)?;
        if let Some((key, what)) = dimension.range.contradiction() {
            return Some(SpaceProblem { part: Part::Param(name.to_owned(), Some(key)), what });
        }
        let param = Param { name: name.to_owned(), kind: kind_of(&dimension.range), when: None };
        let what = match Space::new(SpaceSpec { params: vec![param], ..SpaceSpec::default() }) {
            Err(SpaceError::Values { problem, .. }) => problem.to_owned(),
            Err(error) => error.to_string(),
            Ok(_) => return None,
        };
        Some(SpaceProblem { part: Part::Param(name.to_owned(), None), what })
    }

    fn condition_problem(&self, name: &str) -> Option<SpaceProblem> {
        let When { param: parent, r#in } = self.params.get(name)?.when.as_ref()?;
        let part = Part::Param(name.to_owned(), Some("when"));
        let what = if r#in.is_empty() {
            format!("names no value of {parent}, so that {name} would never mean anything: name one under in")
        } else if self.is_continuous(parent) {
            format!("{parent} takes any number: give it a step, or let {name} depend on another parameter")
        } else {
            let params = self.engine_params(|each| each == name || each == parent);
            let only = |param: Param| if param.name == name { param } else { Param { when: None, ..param } };
            let spec = SpaceSpec { params: params.into_iter().map(only).collect(), ..SpaceSpec::default() };
            Space::new(spec).err()?.to_string()
        };
        Some(SpaceProblem { part, what })
    }

    fn constraint_problem(&self, index: usize) -> Option<SpaceProblem> {
        let check = || {
            let constraint = Constraint::try_from(self.constraints[index].clone())?;
            let named = self.with_parents(&[&constraint.left, &constraint.right]);
            let params = self.engine_params(|each| named.contains(&each));
            Space::new(SpaceSpec { params, constraints: vec![constraint], ..SpaceSpec::default() })
        };
        let error = check().err()?;
        Some(SpaceProblem { part: Part::Constraint(index), what: error.to_string() })
    }

    fn forbidden_problem(&self, index: usize) -> Option<SpaceProblem> {
        let combination = &self.forbidden[index];
        let what = if combination.is_empty() {
            "is empty, which would forbid everything: name values, or take it out".to_owned()
        } else if let Some(name) = combination.keys().find(|name| self.is_continuous(name)) {
            format!("{name} takes any number: give it a step, or take it out")
        } else {
            let own: Vec<&str> = combination.keys().map(String::as_str).collect();
            let named = self.with_parents(&own);
            let params = self.engine_params(|each| named.contains(&each));
            let forbidden = vec![settings(combination)];
            Space::new(SpaceSpec { params, forbidden, ..SpaceSpec::default() }).err()?.to_string()
        };
        Some(SpaceProblem { part: Part::Forbidden(index), what })
    }

    fn is_continuous(&self, name: &str) -> bool {
        let range = self.params.get(name).map(|dimension| &dimension.range);
        matches!(range, Some(KnobKind::Float { min, max, step: None, .. }) if min < max)
    }

    /// Returns these names and those of the parameters that they depend on, directly or not.
    fn with_parents<'a>(&'a self, names: &[&'a str]) -> Vec<&'a str> {
        let mut found = names.to_vec();
        let mut next = 0;
        while let Some(name) = found.get(next) {
            let parent = self.params.get(*name).and_then(|dimension| dimension.when.as_ref());
            if let Some(parent) = parent.map(|when| when.param.as_str()).filter(|parent| !found.contains(parent)) {
                found.push(parent);
            }
            next += 1;
        }
        found
    }

    fn engine_params(&self, wanted: impl Fn(&str) -> bool) -> Vec<Param> {
        let condition =
            |when: &When| Condition { param: when.param.clone(), r#in: when.r#in.iter().map(setting).collect() };
        let param = |(name, dimension): (&String, &Dimension)| Param {
            name: name.clone(),
            kind: kind_of(&dimension.range),
            when: dimension.when.as_ref().map(condition),
        };
        self.params.iter().filter(|(name, _)| wanted(name)).map(param).collect()
    }
}

fn kind_of(kind: &KnobKind) -> Kind {
    match kind {
        KnobKind::Integer { min, max, log, step } => Kind::Integer { low: *min, high: *max, log: *log, step: *step },
        KnobKind::Float { min, max, log, step } => {
            let fine = (!log && max > min).then(|| (max - min) / FLOAT_STEPS);
            Kind::Float { low: *min, high: *max, log: *log, step: step.or(fine) }
        }
        KnobKind::Boolean {} => Kind::Bool,
        KnobKind::Choice { values } => {
            Kind::Categorical { choices: values.iter().cloned().map(Setting::Text).collect() }
        }
        KnobKind::Ordinal { values } => Kind::Ordinal { choices: values.iter().map(setting).collect() },
    }
}

fn settings(params: &Params) -> Point {
    params.iter().map(|(name, value)| (name.clone(), setting(value))).collect()
}

fn setting(value: &Value) -> Setting {
    match value {
        Value::Boolean(value) => Setting::Bool(*value),
        Value::Integer(value) => Setting::Integer(*value),
        Value::Float(value) => Setting::Float(*value),
        Value::Choice(value) => Setting::Text(value.clone()),
    }
}

/// Returns the number of the list that is nearest to `value`; `None` for what is no number.
fn nearest(values: &[Value], value: &Value) -> Option<Value> {
    let number = match value {
        Value::Integer(_) | Value::Float(_) => value.as_number()?,
        Value::Boolean(_) | Value::Choice(_) => return None,
    };
    let numbers = values.iter().filter(|each| matches!(each, Value::Integer(_) | Value::Float(_)));
    let gap = |each: &&Value| each.as_number().map_or(f64::INFINITY, |each| (each - number).abs());
    numbers.min_by(|one, other| gap(one).total_cmp(&gap(other))).cloned()
}

/// Returns `number` with as many decimals as tell apart what lies a `step` away: 0.85 rather than 0.8500000000000001.
fn shortened(number: f64, step: f64) -> f64 {
    let scale = 10_f64.powf((-step.log10()).ceil() + 1.0);
    let short = (number * scale).round() / scale;
    if short.is_finite() { short } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(params: &[(&str, &str)]) -> SearchSpace {
        let param = |(name, json): &(&str, &str)| ((*name).to_owned(), serde_json::from_str(json).unwrap());
        SearchSpace { params: params.iter().map(param).collect(), ..SearchSpace::default() }
    }

    #[test]
    fn digits_are_only_dropped_where_the_constraints_still_hold() {
        let a = ("a", r#"{"kind": "float", "min": 0.001, "max": 10.0, "log": true}"#);
        let b = ("b", r#"{"kind": "float", "min": 1.0, "max": 4.0, "log": true}"#);
        let free = space(&[a, b]);
        let bound = SearchSpace { constraints: vec!["a <= b".to_owned()], ..free.clone() };
        let point = |a, b| Point::from([("a".to_owned(), Setting::Float(a)), ("b".to_owned(), Setting::Float(b))]);
        let [a, b] = ["a", "b"].map(|name| free.params_of(&point(1.6866, 1.6866))[name].as_number().unwrap());
        assert!(a > b, "{a} {b}");
        let kept = bound.params_of(&point(1.6866, 1.6866));
        assert_eq!((kept["a"].as_number(), kept["b"].as_number()), (Some(1.6866), Some(1.6866)));
        assert_eq!(bound.params_of(&point(1.500_001, 3.0)), free.params_of(&point(1.500_001, 3.0)));
    }

    const SPEC: (&str, &str) = ("spec", r#"{"kind": "boolean"}"#);
    const TOKENS: (&str, &str) =
        ("tokens", r#"{"kind": "integer", "min": 1, "max": 8, "when": {"param": "spec", "in": [true]}}"#);
    const SIZE: (&str, &str) = ("size", r#"{"kind": "ordinal", "values": [1, 2, 8]}"#);
    const SHARE: (&str, &str) = ("share", r#"{"kind": "float", "min": 0.0, "max": 1.0}"#);

    #[track_caller]
    fn check(space: &SearchSpace, expected: &[&str]) {
        let found: Vec<String> = space.problems().iter().map(SpaceProblem::to_string).collect();
        assert_eq!(found, expected);
        assert_eq!(space.checked().is_ok(), expected.is_empty());
    }

    #[test]
    fn a_space_in_order_has_no_problems_and_names_every_parameter_of_the_engine() {
        let mut space = space(&[SPEC, TOKENS, SIZE, SHARE]);
        space.constraints = vec!["tokens <= size".to_owned()];
        space.forbidden =
            vec![[("spec".to_owned(), Value::Boolean(true)), ("size".to_owned(), Value::Integer(1))].into()];
        check(&space, &[]);
        assert_eq!(space.checked().unwrap().spec().params.len(), 4);
    }

    #[test]
    fn what_is_wrong_is_said_all_at_once_with_its_key_and_what_to_do() {
        check(&SearchSpace::default(), &["search_space: names no parameter: name at least one"]);
        let bad = [
            ("a", r#"{"kind": "integer", "min": 3, "max": 1}"#),
            ("b", r#"{"kind": "float", "min": 0.0, "max": 1.0, "step": -1.0}"#),
        ];
        check(
            &space(&bad),
            &[
                "search_space.a.min: min 3 is above max 1",
                "search_space.b.step: a step of -1 goes nowhere: give one above 0",
            ],
        );
        let when =
            |on: &str, values: &str| format!(r#"{{"kind": "boolean", "when": {{"param": "{on}", "in": [{values}]}}}}"#);
        let (unknown, never, none, any) =
            (when("speck", "true"), when("size", "4"), when("spec", ""), when("share", "0.5"));
        check(
            &space(&[SPEC, SIZE, SHARE, ("a", &unknown), ("b", &never), ("c", &none), ("d", &any)]),
            &[
                "search_space.a.when: the condition of a names speck, which is not declared: declare it or correct the name",
                "search_space.b.when: the condition of b names size = 4, a value that size never has: correct it or take it out",
                "search_space.c.when: names no value of spec, so that c would never mean anything: name one under in",
                "search_space.d.when: share takes any number: give it a step, or let d depend on another parameter",
            ],
        );
        let (one, other) = (when("b", "true"), when("a", "true"));
        check(
            &space(&[("a", &one), ("b", &other)]),
            &["search_space.a.when: a depends on itself: remove one `when` of the circle"],
        );
        let own = when("a", "true");
        check(&space(&[("a", &own)]), &["search_space.a.when: a depends on itself: remove one `when` of the circle"]);
    }

    #[test]
    fn a_space_of_which_nothing_is_left_is_refused() {
        let mut space = space(&[SPEC]);
        let only = |value| Params::from([("spec".to_owned(), Value::Boolean(value))]);
        space.forbidden = vec![only(true)];
        check(&space, &[]);
        space.forbidden = vec![only(true), only(false)];
        check(
            &space,
            &["search_space: no combination is left that constraints and forbidden allow: take one of them out"],
        );
    }

    #[test]
    fn what_stands_between_parameters_is_refused_one_by_one() {
        let mut space = space(&[SPEC, TOKENS, SIZE, SHARE]);
        space.constraints =
            ["tokens < size", "tokens <= sizes", "spec <= size", "size <= share"].map(str::to_owned).to_vec();
        let combination = |name: &str, value: Value| Params::from([(name.to_owned(), value)]);
        space.forbidden = vec![
            combination("size", Value::Integer(3)),
            combination("spek", Value::Boolean(true)),
            Params::new(),
            combination("share", Value::Float(0.5)),
        ];
        check(
            &space,
            &[
                "constraints[0]: the constraint \"tokens < size\" is not of the form `a <= b`",
                "constraints[1]: the constraint tokens <= sizes names sizes, which is not declared: declare it or correct the name",
                "constraints[2]: the constraint spec <= size needs numbers, and spec has others: remove it, or forbid combinations",
                "forbidden[0]: a forbidden combination names size = 3, a value that size never has: correct it or take it out",
                "forbidden[1]: a forbidden combination names spek, which is not declared: declare it or correct the name",
                "forbidden[2]: is empty, which would forbid everything: name values, or take it out",
                "forbidden[3]: share takes any number: give it a step, or take it out",
            ],
        );
    }

    #[test]
    fn what_depends_on_a_value_that_is_not_set_is_inactive() {
        let space =
            space(&[SPEC, TOKENS, ("deep", r#"{"kind": "boolean", "when": {"param": "tokens", "in": [4, 8]}}"#), SIZE]);
        let live = |spec: bool, tokens: i64| -> Params {
            [
                ("spec", Value::Boolean(spec)),
                ("tokens", Value::Integer(tokens)),
                ("deep", Value::Boolean(true)),
                ("size", Value::Integer(3)),
                ("foreign", Value::Integer(1)),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
        };
        let names = |params: &Params| space.active(params).into_keys().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&live(true, 8)), "deep size spec tokens");
        assert_eq!(names(&live(true, 3)), "size spec tokens");
        assert_eq!(names(&live(false, 8)), "size spec");
        assert_eq!(space.point_of(&live(true, 8))["size"], Setting::Integer(2), "3 is not listed");
    }
}
