//! The shapes of a domain file, of `dream.yaml` and of a space file, beside the types that they become.
//!
//! serde alone would stop at the first problem and name no line; a test holds the two descriptions together.

use kloros_actors::facts::{Key, WALL_S_MAX, WALL_S_MIN, Window};

use super::{
    protected,
    shape::{Field, Shape},
};

mod bench;

mod service;

/// The longest text of a file, in bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Whole numbers beyond this one are not told apart by the arithmetic of the search.
const EXACT_MAX: i64 = 1 << 53;
/// The smallest step of a decimal number.
const STEP_MIN: f64 = 1e-12;
/// The longest time that makes sense for a single step, in seconds.
const DAY_S: i64 = 86_400;

const FLAG: Shape = Shape::Boolean;
const ANY_NUMBER: Shape = Shape::Number { least: f64::MIN, most: f64::MAX };
const RATIO: Shape = Shape::Number { least: 0.0, most: f64::MAX };
const SHARE: Shape = Shape::Number { least: 0.0, most: 1.0 };
const COUNT: Shape = Shape::Whole { least: 1, most: 1_000_000 };
const SECONDS: Shape = Shape::Number { least: 0.001, most: DAY_S as f64 };
const SECONDS_OR_NONE: Shape = Shape::Number { least: 0.0, most: DAY_S as f64 };
const WHOLE_SECONDS: Shape = Shape::Whole { least: 1, most: DAY_S };
const MILLISECONDS: Shape = Shape::Number { least: 0.001, most: DAY_S as f64 * 1000.0 };
const EXACT: Shape = Shape::Whole { least: -EXACT_MAX, most: EXACT_MAX };
const TEXT: Shape = Shape::Text(text);
const NAME: Shape = Shape::Text(name);
const HTTP_PATH: Shape = Shape::Text(http_path);
const DIRECTION: Shape = Shape::Words(&[("up", None), ("down", None)]);

const STEP: Shape = Shape::Number { least: STEP_MIN, most: f64::MAX };
const WHOLE_STEP: Shape = Shape::Whole { least: 1, most: EXACT_MAX };
const WORDS: Shape = Shape::List { each: &Shape::Text(choice), least: 1 };
const RANKS: Shape = Shape::List { each: &Shape::Ranked(choice), least: 1 };

const RANGE: Shape = Shape::Tagged {
    tag: "kind",
    kinds: &[
        (
            "integer",
            &[
                Field::required("min", &EXACT),
                Field::required("max", &EXACT),
                Field::optional("log", &FLAG),
                Field::optional("step", &WHOLE_STEP),
            ],
        ),
        (
            "float",
            &[
                Field::required("min", &ANY_NUMBER),
                Field::required("max", &ANY_NUMBER),
                Field::optional("log", &FLAG),
                Field::optional("step", &STEP),
            ],
        ),
        ("boolean", &[]),
        ("choice", &[Field::required("values", &WORDS)]),
        ("ordinal", &[Field::required("values", &RANKS)]),
    ],
};

/// A domain file.
pub(super) const DOMAIN: Shape = Shape::Table(&[
    Field::optional("name", &NAME),
    Field::optional("risk", &Shape::Words(&[("low", None), ("medium", None), ("high", None)])),
    Field::required("isolation", &Shape::Words(&[("shadow", None), ("in_place", None)])),
    Field::optional("in_place", &IN_PLACE),
    Field::required("service", &SERVICE),
    Field::required("knobs", &Shape::Map { names: knob_name, each: &KNOB }),
    Field::required("bench", &bench::BENCH),
    Field::required("metrics", &Shape::Map { names: name, each: &METRIC }),
    Field::optional("objectives", &Shape::List { each: &OBJECTIVE, least: 0 }),
    Field::optional("quiet", &QUIET),
    Field::optional("needs", &service::NEEDS),
]);

const IN_PLACE: Shape = Shape::Table(&[
    Field::required("windows", &Shape::List { each: &Shape::Text(window), least: 1 }),
    Field::optional("candidate_max_s", &WHOLE_SECONDS),
    Field::optional("session_max_s", &Shape::Whole { least: 1, most: 7 * DAY_S }),
    Field::optional("restarts_per_hour_max", &Shape::Whole { least: 1, most: 1000 }),
]);

const QUIET: Shape = Shape::Table(&[Field::required("others_max", &SHARE), Field::required("others_rise_max", &SHARE)]);

const SERVICE: Shape = Shape::Table(&[
    Field::required("manager", &service::MANAGER),
    Field::required("argv", &Shape::List { each: &Shape::Text(service_argument), least: 1 }),
    Field::optional("check", &CHECK),
    Field::required("port", &Shape::Whole { least: 0, most: u16::MAX as i64 }),
    Field::required("env_file", &TEXT),
    Field::required("ready", &service::READY),
    Field::required("read_back", &service::READ_BACK),
    Field::optional("metrics_path", &HTTP_PATH),
    Field::optional("load_metric", &Shape::Text(service::prometheus_name)),
    Field::optional("restart_within_s", &WHOLE_SECONDS),
    Field::optional("stop_within_s", &WHOLE_SECONDS),
    Field::optional("back_off", &BACK_OFF),
]);

const CHECK: Shape = Shape::Table(&[
    Field::required("command", &Shape::List { each: &Shape::Text(service_argument), least: 1 }),
    Field::optional("within_s", &WHOLE_SECONDS),
]);

const BACK_OFF: Shape = Shape::Table(&[
    Field::optional("first_s", &SECONDS),
    Field::optional("longest_s", &SECONDS),
    Field::optional("deaths_max", &Shape::Whole { least: 1, most: 1_000_000 }),
    Field::optional("forgotten_after_s", &WHOLE_SECONDS),
]);

const KNOB: Shape = Shape::Table(&[
    Field::required("range", &RANGE),
    Field::required("default", &Shape::Scalar),
    Field::optional("apply", &Shape::Words(&[("restart", None), ("reload", None)])),
    Field::optional("step_max", &Shape::Number { least: 1.0, most: f64::MAX }),
    Field::optional("reversible", &FLAG),
    Field::optional("relieves", &Shape::List { each: &TROUBLE, least: 1 }),
    Field::optional("trades", &Shape::Words(&[("durability", None), ("answers", None), ("context", None)])),
    Field::optional("takes", &service::TAKES),
]);

const TROUBLE: Shape = Shape::Words(&[
    ("hardware", None),
    ("errors", None),
    ("latency", None),
    ("throughput", None),
    ("queue", None),
    ("cache", None),
    ("memory", None),
    ("disk", None),
    ("swap", None),
    ("cpu", None),
    ("pressure", None),
    ("service", None),
]);

const METRIC: Shape = Shape::Table(&[
    Field::required("direction", &DIRECTION),
    Field::required("weight", &RATIO),
    Field::optional("guard", &GUARD),
]);

const GUARD: Shape = Shape::Table(&[Field::optional("loss_max", &RATIO), Field::optional("value_max", &ANY_NUMBER)]);

const OBJECTIVE: Shape = Shape::Table(&[
    Field::required("reading", &NAME),
    Field::required("max", &ANY_NUMBER),
    Field::required("readings", &Shape::Whole { least: 1, most: 100_000 }),
]);

/// `dream.yaml`.
pub(super) const DREAM: Shape = Shape::Table(&[Field::required(
    "experiments",
    &Shape::Map {
        names: name,
        each: &Shape::Table(&[
            Field::optional("name", &NAME),
            Field::required("domain", &NAME),
            Field::required("search_space", &Shape::Map { names: name, each: &DIMENSION }),
            Field::optional("constraints", &Shape::List { each: &TEXT, least: 0 }),
            Field::optional("forbidden", &Shape::List { each: &SETTING, least: 0 }),
            Field::required("metrics", &Shape::Map { names: name, each: &DIRECTION }),
            Field::required("param_mapping", &Shape::Map { names: name, each: &Shape::Text(env_key) }),
            Field::required("budget", &BUDGET),
        ]),
    },
)]);

const SETTING: Shape = Shape::Map { names: name, each: &Shape::Scalar };
const CONDITION: Shape = Shape::Table(&[Field::required("param", &NAME), Field::required("in", &CHOICES)]);

/// A parameter of an experiment: a range, and when it means something.
const DIMENSION: Shape = Shape::Tagged {
    tag: "kind",
    kinds: &[
        (
            "integer",
            &[
                Field::required("min", &EXACT),
                Field::required("max", &EXACT),
                Field::optional("log", &FLAG),
                Field::optional("step", &WHOLE_STEP),
                Field::optional("when", &CONDITION),
            ],
        ),
        (
            "float",
            &[
                Field::required("min", &ANY_NUMBER),
                Field::required("max", &ANY_NUMBER),
                Field::optional("log", &FLAG),
                Field::optional("step", &STEP),
                Field::optional("when", &CONDITION),
            ],
        ),
        ("boolean", &[Field::optional("when", &CONDITION)]),
        ("choice", &[Field::required("values", &WORDS), Field::optional("when", &CONDITION)]),
        ("ordinal", &[Field::required("values", &RANKS), Field::optional("when", &CONDITION)]),
    ],
};

const BUDGET: Shape = Shape::Table(&[
    Field::required("max_candidates", &Shape::Whole { least: 1, most: 1000 }),
    Field::required("max_generations", &Shape::Whole { least: 1, most: 1000 }),
    Field::optional("wall_s", &Shape::Whole { least: WALL_S_MIN.cast_signed(), most: WALL_S_MAX.cast_signed() }),
]);

/// A space file, in the words of the engine and of the line protocol of `kloros tune`.
pub(super) const SPACE: Shape = Shape::Table(&[
    Field::optional("minimize", &METRIC_NAME),
    Field::optional("maximize", &METRIC_NAME),
    Field::optional("noisy", &FLAG),
    Field::required("params", &Shape::Map { names: param_name, each: &PARAM }),
    Field::optional("constraints", &Shape::List { each: &TEXT, least: 0 }),
    Field::optional("forbidden", &Shape::List { each: &COMBINATION, least: 0 }),
    Field::optional("limits", &Shape::List { each: &LIMIT, least: 0 }),
]);

/// What parameters may come to together, each unit of them taking so much.
const LIMIT: Shape = Shape::Table(&[
    Field::required("each", &Shape::Map { names: param_name, each: &ANY_NUMBER }),
    Field::required("max", &ANY_NUMBER),
]);

const METRIC_NAME: Shape = Shape::Text(metric_name);
const COMBINATION: Shape = Shape::Map { names: param_name, each: &Shape::Scalar };
const CHOICES: Shape = Shape::List { each: &Shape::Scalar, least: 1 };
const WHEN: Shape =
    Shape::Table(&[Field::required("param", &Shape::Text(param_name)), Field::required("in", &CHOICES)]);

const INTEGER: &[Field] = &[
    Field::required("low", &EXACT),
    Field::required("high", &EXACT),
    Field::optional("log", &FLAG),
    Field::optional("step", &WHOLE_STEP),
    Field::optional("default", &EXACT),
    Field::optional("when", &WHEN),
];

const CHOICE: &[Field] =
    &[Field::required("choices", &CHOICES), Field::optional("default", &Shape::Scalar), Field::optional("when", &WHEN)];

const PARAM: Shape = Shape::Tagged {
    tag: "type",
    kinds: &[
        (
            "float",
            &[
                Field::required("low", &ANY_NUMBER),
                Field::required("high", &ANY_NUMBER),
                Field::optional("log", &FLAG),
                Field::optional("step", &STEP),
                Field::optional("default", &ANY_NUMBER),
                Field::optional("when", &WHEN),
            ],
        ),
        ("int", INTEGER),
        ("integer", INTEGER),
        ("categorical", CHOICE),
        ("ordinal", CHOICE),
        ("bool", &[Field::optional("default", &FLAG), Field::optional("when", &WHEN)]),
    ],
};

fn text(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("is empty".to_owned());
    }
    plain_text(text)
}

fn plain_text(text: &str) -> Option<String> {
    if text.len() > TEXT_BYTES_MAX {
        return Some(format!("is longer than {TEXT_BYTES_MAX} bytes"));
    }
    text.chars().any(char::is_control).then(|| format!("{text:?} holds a control character"))
}

/// Refuses what cannot name a domain, an experiment, a parameter or a metric.
pub(super) fn name(text: &str) -> Option<String> {
    let starts_well = text.starts_with(|first: char| first.is_ascii_lowercase());
    let goes_on_well = text.bytes().all(|each| each.is_ascii_lowercase() || each.is_ascii_digit() || each == b'_');
    (!starts_well || !goes_on_well || text.len() > NAME_BYTES_MAX)
        .then(|| format!("{text:?} is no name: use up to {NAME_BYTES_MAX} lowercase letters, digits and underscores"))
}

fn env_key(text: &str) -> Option<String> {
    Key::new(text).err()
}

fn knob_name(text: &str) -> Option<String> {
    env_key(text).or_else(|| protected::why(text).map(|why| format!("must not be a knob: {why}")))
}

fn param_name(text: &str) -> Option<String> {
    env_key(text).or_else(|| protected::why(text).map(|why| format!("must not be a parameter: {why}")))
}

fn metric_name(name: &str) -> Option<String> {
    text(name).or_else(|| (name.len() > NAME_BYTES_MAX).then(|| format!("is longer than {NAME_BYTES_MAX} bytes")))
}

/// Refuses what would not stand in an env file as it is.
fn choice(value: &str) -> Option<String> {
    let fits = |each: u8| each.is_ascii_alphanumeric() || b"_-.:/,+@%".contains(&each);
    text(value).or_else(|| {
        (!value.bytes().all(fits))
            .then(|| format!("{value:?} would need quotes in an env file: use letters, digits and _-.:/,+@%"))
    })
}

fn http_path(path: &str) -> Option<String> {
    let fits = path.starts_with('/') && path.bytes().all(|each| each.is_ascii_graphic());
    plain_text(path).or_else(|| (!fits).then(|| format!("{path:?} is no path: it starts with / and has no spaces")))
}

fn window(text: &str) -> Option<String> {
    text.parse::<Window>().err()
}

fn plain_argument(argument: &str) -> Option<String> {
    argument_with(argument, &[])
}

fn service_argument(argument: &str) -> Option<String> {
    argument_with(argument, &["port", "env_file", "kloros"])
}

fn argument_with(argument: &str, known: &[&str]) -> Option<String> {
    let unknown = placeholders(argument).find(|name| !known.contains(name));
    plain_text(argument).or_else(|| {
        let known: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
        let known = if known.is_empty() {
            "nothing is replaced here".to_owned()
        } else {
            format!("known are {}", known.join(", "))
        };
        unknown.map(|name| format!("unknown placeholder {{{name}}} in {argument:?}; {known}"))
    })
}

/// Returns the names of the placeholders of `argument`: lowercase letters and underscores between braces.
///
/// Any other brace, as of JSON, stands for itself.
pub(super) fn placeholders(argument: &str) -> impl Iterator<Item = &str> {
    argument
        .match_indices('{')
        .filter_map(|(at, _)| argument[at + 1..].split_once('}').map(|(name, _)| name))
        .filter(|name| !name.is_empty() && name.bytes().all(|each| each.is_ascii_lowercase() || each == b'_'))
}
