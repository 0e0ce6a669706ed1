//! A space file: the parameters of a command that anybody wants tuned, checked like every other file.

use std::path::Path;

use kloros_actors::facts::Direction;
use kloros_search::{Config, Param, Space, SpaceError, SpaceSpec, Value};

use super::{
    complaints::{Complaints, Place},
    shape::Inspection,
    shapes::SPACE,
    source, strict_toml,
    tree::{Content, Node},
};

/// The longest text that a parameter can be, in bytes.
const VALUE_BYTES_MAX: usize = 4096;

/// What a space file says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SpaceFile {
    /// What may be set.
    pub(crate) space: Space,
    /// What is set now. A value of a parameter that is inactive then is not set; it says where that one begins.
    pub(crate) default: Option<Config>,
    /// The metric that is to become better, and which way that is.
    pub(crate) objective: Option<(String, Direction)>,
    /// Whether two measurements of one setting differ, if the file says so.
    pub(crate) noisy: Option<bool>,
}

/// Returns what the space file at `path` says, or everything that is wrong with it.
pub(crate) fn space(path: &Path) -> Result<SpaceFile, Complaints> {
    let mut complaints = Complaints::default();
    let file = path.display().to_string();
    let read = source::read(path, &mut complaints).and_then(|text| parse(&file, &text, &mut complaints));
    complaints.unless_any(read)
}

fn parse(file: &str, text: &str, complaints: &mut Complaints) -> Option<SpaceFile> {
    let noted = complaints.len();
    let (mut root, intact) = strict_toml::parse(file, text, complaints);
    Inspection { file, intact, complaints }.inspect(&mut root, &SPACE, "");
    let mut judgement = Judgement { file, root: &root, complaints };
    judgement.texts();
    let objective = judgement.objective();
    if judgement.complaints.len() > noted {
        return None;
    }
    let space = judgement.space()?;
    let default = judgement.default(&space);
    let noisy = root.at(&["noisy"]).and_then(Node::read);
    Some(SpaceFile { space, default, objective, noisy })
}

/// What is wrong between keys that are fine each on its own.
struct Judgement<'a> {
    file: &'a str,
    root: &'a Node,
    complaints: &'a mut Complaints,
}

impl Judgement<'_> {
    fn note(&mut self, path: &[&str], what: &str) {
        let place = Place::line(self.file, self.root.line_of(path));
        self.complaints.add(place, path.join("."), what);
    }

    fn names(&self) -> Vec<String> {
        let params = self.root.at(&["params"]).map(Node::entries).unwrap_or_default();
        params.iter().map(|entry| entry.name.clone()).collect()
    }

    /// An environment variable holds any text but a NUL, and a table of results no line breaks.
    fn texts(&mut self) {
        for name in self.names() {
            let path = ["params", name.as_str(), "choices"];
            let Some(Content::List(choices)) = self.root.at(&path).map(|node| &node.content) else { continue };
            for choice in choices.iter().filter_map(Node::text) {
                if choice.chars().any(char::is_control) {
                    self.note(&path, &format!("{choice:?} holds a control character: take it out"));
                } else if choice.len() > VALUE_BYTES_MAX {
                    self.note(&path, &format!("a choice is longer than {VALUE_BYTES_MAX} bytes: shorten it"));
                }
            }
        }
    }

    fn objective(&mut self) -> Option<(String, Direction)> {
        let metric = |key| self.root.at(&[key]).and_then(Node::text).map(str::to_owned);
        match (metric("minimize"), metric("maximize")) {
            (Some(_), Some(_)) => {
                self.note(&["maximize"], "stands beside minimize: one metric is made better, so take one out");
                None
            }
            (Some(metric), None) => Some((metric, Direction::Down)),
            (None, Some(metric)) => Some((metric, Direction::Up)),
            (None, None) => None,
        }
    }

    fn space(&mut self) -> Option<Space> {
        let params = self.names().into_iter().filter_map(|name| self.param(&name)).collect();
        let mut spec = SpaceSpec { params, ..SpaceSpec::default() };
        for text in self.root.at(&["constraints"]).and_then(Node::read::<Vec<String>>).unwrap_or_default() {
            match text.try_into() {
                Ok(constraint) => spec.constraints.push(constraint),
                Err(error) => self.refuse(&error),
            }
        }
        spec.forbidden = self.root.at(&["forbidden"]).and_then(Node::read).unwrap_or_default();
        spec.limits = self.root.at(&["limits"]).and_then(Node::read).unwrap_or_default();
        match Space::new(spec) {
            Ok(space) => Some(space),
            Err(error) => {
                self.refuse(&error);
                None
            }
        }
    }

    fn param(&mut self, name: &str) -> Option<Param> {
        let mut table = self.root.at(&["params", name])?.plain()?;
        table.as_table_mut()?.insert("name".to_owned(), name.into());
        match table.try_into() {
            Ok(param) => Some(param),
            // The shape has said yes before, so this is for a kind that the engine learns and the shape does not.
            Err(error) => {
                let error: toml::de::Error = error;
                self.note(&["params", name], error.message());
                None
            }
        }
    }

    fn refuse(&mut self, error: &SpaceError) {
        let what = error.to_string();
        match error {
            SpaceError::Values { param, problem } => self.note(&["params", param], problem),
            SpaceError::Twice { param } | SpaceError::Circle { param } => self.note(&["params", param], &what),
            SpaceError::ConstraintText { .. } | SpaceError::NotNumbers { .. } | SpaceError::Impossible { .. } => {
                self.note(&["constraints"], &what);
            }
            SpaceError::Unknown { where_used, .. } | SpaceError::NeverHas { where_used, .. } => {
                if let Some(param) = where_used.strip_prefix("the condition of ") {
                    self.note(&["params", param, "when"], &what);
                } else if where_used.starts_with("the constraint ") {
                    self.note(&["constraints"], &what);
                } else if where_used == "a limit" {
                    self.note(&["limits"], &what);
                } else {
                    self.note(&["forbidden"], &what);
                }
            }
            SpaceError::Limit { .. } | SpaceError::OverLimit { .. } => self.note(&["limits"], &what),
            SpaceError::NoName { .. } => self.note(&["params"], &what),
        }
    }

    /// Every parameter that is active in the default has one, or none has.
    fn default(&mut self, space: &Space) -> Option<Config> {
        let written = |name: &str| self.root.at(&["params", name, "default"]).and_then(Node::read::<Value>);
        let all: Config = self.names().into_iter().filter_map(|name| Some((name.clone(), written(&name)?))).collect();
        if all.is_empty() {
            return None;
        }
        let params = &space.spec().params;
        let (set, missing) = active(params, &all);
        for name in &missing {
            self.note(&["params", name], "has no default, while others have: give it one, or take out all");
        }
        let foreign: Vec<&Param> = params.iter().filter(|param| is_foreign(param, all.get(&param.name))).collect();
        for param in &foreign {
            let value = &all[&param.name];
            self.note(&["params", &param.name, "default"], &format!("{value} is none of its values"));
        }
        if missing.is_empty() && foreign.is_empty() && !space.contains(&set) {
            self.note(&["params"], "the defaults together break a constraint or are forbidden: change one of them");
        }
        Some(all)
    }
}

/// Returns what of `values` belongs to active parameters, and the names of those active ones that have no value.
///
/// The conditions of `params` must not go in circles.
pub(crate) fn active(params: &[Param], values: &Config) -> (Config, Vec<String>) {
    fn is_active(params: &[Param], values: &Config, param: &Param) -> bool {
        let Some(when) = &param.when else { return true };
        let parent = params.iter().find(|parent| parent.name == when.param);
        let has = values.get(&when.param).is_some_and(|value| when.r#in.iter().any(|wanted| wanted.is(value)));
        has && parent.is_some_and(|parent| is_active(params, values, parent))
    }
    let (mut set, mut missing) = (Config::new(), Vec::new());
    for param in params.iter().filter(|param| is_active(params, values, param)) {
        match values.get(&param.name) {
            Some(value) => {
                set.insert(param.name.clone(), value.clone());
            }
            None => missing.push(param.name.clone()),
        }
    }
    (set, missing)
}

/// Returns whether `param` never has this value; conditions are not looked at.
fn is_foreign(param: &Param, value: Option<&Value>) -> bool {
    let Some(value) = value else { return false };
    let alone = SpaceSpec { params: vec![Param { when: None, ..param.clone() }], ..SpaceSpec::default() };
    let config = Config::from([(param.name.clone(), value.clone())]);
    Space::new(alone).is_ok_and(|space| !space.contains(&config))
}
