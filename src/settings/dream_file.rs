//! `dream.yaml`: the experiments, checked against their shape and against the domains that they work on.

use std::collections::BTreeMap;

use kloros_actors::{
    dream::space::{Part, SearchSpace},
    facts::{Dimension, Direction, Domain, ExperimentSpec, Key},
};

use super::{
    complaints::Complaints,
    shape::Inspection,
    shapes::DREAM,
    strict_yaml,
    tree::{Content, Node, nearest},
};

/// The domains by name; `None` stands for one whose file is broken, about which nothing more is said.
pub(super) type Domains = BTreeMap<String, Option<Domain>>;

/// Returns the experiments that `text` describes, leaving out those with which anything is wrong.
pub(super) fn read(
    file: &str,
    text: &str,
    domains: &Domains,
    complaints: &mut Complaints,
) -> BTreeMap<String, ExperimentSpec> {
    let Some(mut root) = strict_yaml::parse(file, text, complaints) else { return BTreeMap::new() };
    let mut inspection = Inspection { file, intact: true, complaints };
    inspection.inspect(&mut root, &DREAM, "");
    let mut experiments = BTreeMap::new();
    for entry in root.at(&["experiments"]).map(Node::entries).unwrap_or_default() {
        let mut judgement =
            Judgement { name: &entry.name, line: entry.line, node: &entry.value, inspection: &mut inspection };
        judgement.judge(domains);
        if let Some(spec) = named(&entry.value, &entry.name) {
            experiments.insert(entry.name.clone(), spec);
        }
    }
    experiments
}

fn named(node: &Node, name: &str) -> Option<ExperimentSpec> {
    let mut table = node.plain()?;
    table.as_table_mut()?.insert("name".to_owned(), name.into());
    table.try_into().ok()
}

/// What is wrong between an experiment and its domain.
struct Judgement<'a, 'b> {
    name: &'a str,
    line: usize,
    node: &'a Node,
    inspection: &'a mut Inspection<'b>,
}

impl Judgement<'_, '_> {
    fn note(&mut self, path: &[&str], what: &str) {
        let line = if path.is_empty() { self.line } else { self.node.line_of(path) };
        let key = ["experiments", self.name].iter().chain(path).copied().collect::<Vec<_>>().join(".");
        self.inspection.note_further(line, &key, what);
    }

    fn part<T: serde::de::DeserializeOwned>(&self, path: &[&str]) -> Option<T> {
        self.node.at(path)?.read()
    }

    fn names(&self, table: &str) -> Vec<String> {
        self.node
            .at(&[table])
            .map(|node| node.entries().iter().map(|entry| entry.name.clone()).collect())
            .unwrap_or_default()
    }

    fn judge(&mut self, domains: &Domains) {
        if let Some(written) = self.part::<String>(&["name"]).filter(|written| written != self.name) {
            let what = format!("{written:?} is not the experiment's key: write {:?} or leave it out", self.name);
            self.note(&["name"], &what);
        }
        self.pairs();
        self.space();
        let Some(name) = self.part::<String>(&["domain"]) else { return self.params(None) };
        if !domains.contains_key(&name) {
            let hint = nearest(&name, domains.keys().map(String::as_str));
            self.note(&["domain"], &format!("unknown domain {name:?}; {hint}"));
        }
        let domain = domains.get(&name).and_then(Option::as_ref);
        self.params(domain);
        if let Some(domain) = domain {
            self.metrics(domain);
        }
    }

    /// Every parameter is mapped to a key of its own, and nothing else is mapped.
    fn pairs(&mut self) {
        let params = self.names("search_space");
        let mapped = self.names("param_mapping");
        for param in params.iter().filter(|param| !mapped.contains(param)) {
            self.note(&["search_space", param], "is mapped to no env key: name one under param_mapping");
        }
        let mut taken: BTreeMap<Key, &str> = BTreeMap::new();
        for param in &mapped {
            if !params.contains(param) {
                let hint = nearest(param, params.iter().map(String::as_str));
                self.note(&["param_mapping", param], &format!("is no parameter of search_space; {hint}"));
            }
            let Some(key) = self.part::<Key>(&["param_mapping", param]) else { continue };
            match taken.get(&key) {
                Some(first) => {
                    let what = format!("{key} is set by {first} already");
                    self.note(&["param_mapping", param], &what);
                }
                None => {
                    taken.insert(key, param);
                }
            }
        }
    }

    /// Ranges, conditions, constraints and what is forbidden, as far as they can be read.
    ///
    /// That a condition names no value was said with its list already.
    fn space(&mut self) {
        let Some(params) = self.part::<BTreeMap<String, Dimension>>(&["search_space"]) else { return };
        if params.values().filter_map(|each| each.when.as_ref()).any(|when| when.r#in.is_empty()) {
            return;
        }
        let (constraints, forbidden) = (self.part(&["constraints"]), self.part(&["forbidden"]));
        let space = SearchSpace {
            params,
            constraints: constraints.unwrap_or_default(),
            forbidden: forbidden.unwrap_or_default(),
            limits: Vec::new(),
        };
        for problem in space.problems() {
            let (list, index) = match &problem.part {
                Part::Whole => {
                    self.note(&["search_space"], &problem.what);
                    continue;
                }
                Part::Param(name, key) => {
                    let path: Vec<&str> = ["search_space", name].into_iter().chain(*key).collect();
                    self.note(&path, &problem.what);
                    continue;
                }
                Part::Constraint(index) => ("constraints", *index),
                Part::Forbidden(index) => ("forbidden", *index),
            };
            self.note_item(list, index, &problem.what);
        }
    }

    /// Notes that something is wrong with this entry of a list.
    fn note_item(&mut self, list: &str, index: usize, what: &str) {
        let items = self.node.at(&[list]).map(|node| &node.content);
        let line = match items {
            Some(Content::List(items)) => items.get(index).map(|item| item.line),
            _ => None,
        };
        let key = format!("experiments.{}.{list}[{index}]", self.name);
        self.inspection.note_further(line.unwrap_or(self.line), &key, what);
    }

    fn params(&mut self, domain: Option<&Domain>) {
        for param in self.names("param_mapping") {
            let (Some(domain), Some(key)) = (domain, self.part::<Key>(&["param_mapping", &param])) else { continue };
            if !domain.knobs.contains_key(&key) {
                let hint = nearest(key.as_str(), domain.knobs.keys().map(Key::as_str));
                let what = format!("{key} is not on the allow-list of domain {}; {hint}", domain.name);
                self.note(&["param_mapping", &param], &what);
            } else if let Some(what) = domain.searched_by_nobody(&key) {
                self.note(&["param_mapping", &param], &what);
            }
        }
        for param in self.names("search_space") {
            let Some(Dimension { range, .. }) = self.part(&["search_space", &param]) else { continue };
            if range.contradiction().is_some() {
                continue;
            }
            let key = self.part::<Key>(&["param_mapping", &param]);
            let Some((key, knob)) = domain.and_then(|domain| domain.knobs.get_key_value(&key?)) else { continue };
            if let Some(what) = range.escapes(&knob.range) {
                self.note(&["search_space", &param], &format!("is wider than the knob {key}: {what}"));
            }
        }
    }

    fn metrics(&mut self, domain: &Domain) {
        for metric in self.names("metrics") {
            let path = ["metrics", metric.as_str()];
            let Some(direction) = self.part::<Direction>(&path) else { continue };
            match domain.metrics.get(&metric) {
                None => {
                    let hint = nearest(&metric, domain.metrics.keys().map(String::as_str));
                    self.note(&path, &format!("is no metric of domain {}; {hint}", domain.name));
                }
                Some(known) if known.direction != direction => {
                    self.note(&path, &format!("points the other way in domain {}", domain.name));
                }
                Some(_) => {}
            }
        }
        let weighs = |metric: &String| domain.metrics.get(metric).is_none_or(|known| known.weight > 0.0);
        if !self.names("metrics").iter().any(weighs) {
            self.note(&["metrics"], &format!("none has a weight above 0 in domain {}", domain.name));
        }
    }
}
