//! One domain file: read, checked against its shape, and judged as a whole.

use kloros_actors::facts::{
    Apply, BenchSpec, Domain, InPlace, Isolation, Knob, KnobKind, Manager, MetricSpec, PrometheusBench, ReadBack,
    Ready, ServiceSpec, TokenRange, Value, keys_in,
};

use super::{
    complaints::Complaints,
    shape::Inspection,
    shapes::{self, DOMAIN, placeholders},
    strict_toml,
    tree::Node,
};

/// Returns the domain that `text` describes, named `name` after its file; `None` if anything is wrong with it.
pub(super) fn read(file: &str, name: &str, text: &str, complaints: &mut Complaints) -> Option<Domain> {
    let noted = complaints.len();
    let (mut root, intact) = strict_toml::parse(file, text, complaints);
    let mut inspection = Inspection { file, intact, complaints };
    if let Some(what) = shapes::name(name) {
        inspection.note(1, "name", &format!("{what}, and name the file after it"));
    }
    inspection.inspect(&mut root, &DOMAIN, "");
    let mut judgement = Judgement { root: &root, inspection };
    judgement.name(name);
    judgement.isolation();
    judgement.service();
    judgement.knobs();
    judgement.bench();
    judgement.metrics();
    if complaints.len() > noted {
        return None;
    }
    let mut table = root.plain()?;
    table.as_table_mut()?.insert("name".to_owned(), name.into());
    match table.try_into() {
        Ok(domain) => Some(decimal(domain)),
        Err(error) => {
            Inspection { file, intact, complaints }.note(1, "", error.to_string().trim_end());
            None
        }
    }
}

/// Returns the domain with the default of each decimal knob as a decimal, also where it was written without a point.
fn decimal(mut domain: Domain) -> Domain {
    for knob in domain.knobs.values_mut() {
        if let (KnobKind::Float { .. }, Value::Integer(whole)) = (&knob.range, &knob.default) {
            knob.default = Value::Float(*whole as f64);
        }
    }
    domain
}

/// What is wrong between keys that are fine each on its own. A part that is not fine on its own is passed over.
struct Judgement<'a> {
    root: &'a Node,
    inspection: Inspection<'a>,
}

impl Judgement<'_> {
    fn note(&mut self, path: &[&str], what: &str) {
        self.inspection.note_further(self.root.line_of(path), &path.join("."), what);
    }

    fn part<T: serde::de::DeserializeOwned>(&self, path: &[&str]) -> Option<T> {
        self.root.at(path)?.read()
    }

    fn names(&self, path: &[&str]) -> Vec<String> {
        self.root
            .at(path)
            .map(|node| node.entries().iter().map(|entry| entry.name.clone()).collect())
            .unwrap_or_default()
    }

    fn name(&mut self, name: &str) {
        if let Some(written) = self.part::<String>(&["name"]).filter(|written| written != name) {
            self.note(&["name"], &format!("{written:?} is not the name of the file: write {name:?} or leave it out"));
        }
    }

    fn isolation(&mut self) {
        let is_given = self.root.at(&["in_place"]).is_some();
        match self.part::<Isolation>(&["isolation"]) {
            Some(Isolation::InPlace) if !is_given => {
                let what = "the serving instance is tried on in maintenance windows alone: give [in_place] with windows, \
                            as windows = [\"02:00-05:00\"]";
                self.note(&["isolation"], what);
            }
            Some(Isolation::Shadow) if is_given => {
                let what = "says when the serving instance is tried on, which isolation = \"shadow\" never does: write \
                            isolation = \"in_place\", or leave this out";
                self.note(&["in_place"], what);
            }
            _ => {}
        }
        let Some(in_place) = self.part::<InPlace>(&["in_place"]) else { return };
        if in_place.candidate_max_s > in_place.session_max_s {
            let what = format!("no candidate can take {} s where a session has less", in_place.candidate_max_s);
            self.note(&["in_place", "session_max_s"], &what);
        }
        let ready = self.part::<ServiceSpec>(&["service"]).map_or(0, |service| service.ready.within_s);
        if in_place.candidate_max_s < ready {
            let what =
                format!("a candidate may take {ready} s to be ready (service.ready.within_s), and has less in all");
            self.note(&["in_place", "candidate_max_s"], &what);
        }
    }

    fn service(&mut self) {
        let Some(service) = self.part::<ServiceSpec>(&["service"]) else { return };
        if service.argv.first().is_some_and(String::is_empty) {
            self.note(&["service", "argv"], "the program is empty");
        }
        let names_port = |argument: &String| placeholders(argument).any(|name| name == "port");
        let is_started_twice = self.part::<Isolation>(&["isolation"]) != Some(Isolation::InPlace);
        if is_started_twice && !service.argv.iter().any(names_port) {
            let what = "names no {port}: a second instance for measurements could not listen beside the first";
            self.note(&["service", "argv"], what);
        }
        let knobs = self.names(&["knobs"]);
        let checked = service.check.as_ref().map_or(&[][..], |check| &check.command);
        for (argv, path) in [(service.argv.as_slice(), "argv"), (checked, "check")] {
            let unknown = argv.iter().flat_map(|each| keys_in(each)).find(|key| knobs.iter().all(|knob| knob != key));
            if let Some(key) = unknown {
                let what = format!("{{{key}}} is no knob: only values of [knobs] are put into arguments");
                self.note(&["service", path], &what);
            }
        }
        if checked.first().is_some_and(String::is_empty) {
            self.note(&["service", "check", "command"], "the program is empty");
        }
        if matches!(&service.manager, Manager::Command { restart } if restart.first().is_some_and(String::is_empty)) {
            self.note(&["service", "manager"], "the program is empty");
        }
        if service.manager != Manager::Child && service.port == 0 {
            let what = "0 lets kloros choose, but another supervisor starts this service: name the port";
            self.note(&["service", "port"], what);
        }
        self.ready(&service.ready, service.manager == Manager::Child);
        if matches!(&service.read_back, ReadBack::Command(argv) if argv.first().is_some_and(String::is_empty)) {
            self.note(&["service", "read_back"], "the program is empty");
        }
        if service.load_metric.is_some() && service.metrics_path.is_none() {
            self.note(&["service", "load_metric"], "there is nothing to read it from: set metrics_path");
        }
        if service.env_file.components().any(|part| part == std::path::Component::ParentDir) {
            self.note(&["service", "env_file"], "must not climb with ..: write an absolute path");
        }
    }

    fn ready(&mut self, ready: &Ready, is_child: bool) {
        match ready.ways()[..] {
            [_] => {}
            [] => {
                let what = "names no way to find out: set one of http_path, tcp, command, notify and log_line";
                self.note(&["service", "ready"], what);
            }
            _ => {
                let what = format!("names {}: an instance is ready by one of them", ready.ways().join(" and "));
                self.note(&["service", "ready"], &what);
            }
        }
        if ready.command.first().is_some_and(String::is_empty) {
            self.note(&["service", "ready", "command"], "the program is empty");
        }
        for (key, is_set) in [("notify", ready.notify), ("log_line", ready.log_line.is_some())] {
            if is_set && !is_child {
                let what = "is heard of children of kloros alone: use http_path, tcp or command for a service of another supervisor";
                self.note(&["service", "ready", key], what);
            }
            if is_set && ready.passes > 1 {
                self.note(&["service", "ready", "passes"], "what is said once counts once: leave it out");
            }
        }
    }

    fn knobs(&mut self) {
        let manager = self.part::<Manager>(&["service", "manager"]);
        let is_unit = matches!(manager, None | Some(Manager::Systemd { .. }));
        let is_read_from_environ = self.part::<ReadBack>(&["service", "read_back"]) == Some(ReadBack::ProcEnviron);
        for name in self.names(&["knobs"]) {
            let path = ["knobs", name.as_str()];
            let range = self.part::<KnobKind>(&[path[0], path[1], "range"]);
            if let Some((key, what)) = range.as_ref().and_then(KnobKind::contradiction) {
                self.note(&[path[0], path[1], "range", key], &what);
                continue;
            }
            let Some(knob) = self.part::<Knob>(&path) else { continue };
            if let Some(what) = knob.range.refuses(&knob.default) {
                self.note(&[path[0], path[1], "default"], &what);
            }
            if knob.apply == Apply::Reload && !is_unit {
                let what =
                    "only a unit of systemd is reloaded: leave it out, or let the restart command do what it takes";
                self.note(&[path[0], path[1], "apply"], what);
            }
            if knob.apply == Apply::Reload && is_read_from_environ {
                let what = "a reload changes no environment, which is what read_back looks at: leave it out, or read back another way";
                self.note(&[path[0], path[1], "apply"], what);
            }
            if knob.step_max.is_some() && !knob.range.is_number() {
                self.note(&[path[0], path[1], "step_max"], "only a number can move by a factor");
            }
            if knob.takes.is_some() && knob.range.number_min().is_none_or(|least| least < 0.0) {
                self.note(
                    &[path[0], path[1], "takes"],
                    "only what is a number from 0 on can take something for each unit",
                );
            }
            if knob.step_max == Some(1.0) {
                self.note(&[path[0], path[1], "step_max"], "a factor of 1 would let nothing move");
            }
        }
    }

    fn bench(&mut self) {
        for key in ["prompt_tokens", "output_tokens", "input_tokens"] {
            if let Some(TokenRange { min, max }) =
                self.part(&["bench", key]).filter(|range: &TokenRange| range.min > range.max)
            {
                self.note(&["bench", key], &format!("min {min} is above max {max}"));
            }
        }
        match self.part(&["bench"]) {
            Some(BenchSpec::Command { argv, .. }) if argv.first().is_some_and(String::is_empty) => {
                self.note(&["bench", "argv"], "the program is empty");
            }
            Some(BenchSpec::Prometheus(bench)) => {
                if self.part::<Isolation>(&["isolation"]) == Some(Isolation::Shadow) {
                    let what = "prometheus measures by what users ask, and nobody asks a second instance: write isolation = \"in_place\", \
                                or take a bench that makes its own load";
                    self.note(&["bench", "kind"], what);
                }
                self.measured_by(&bench);
            }
            _ => {}
        }
    }

    /// What an objective or a guard is set on must be measured.
    fn measured_by(&mut self, bench: &PrometheusBench) {
        for name in self.names(&["metrics"]) {
            if !bench.series.contains_key(&name) {
                self.note(&["metrics", &name], "is not measured: name it in bench.series");
            }
        }
    }

    fn metrics(&mut self) {
        let metrics: Vec<(String, MetricSpec)> = self
            .names(&["metrics"])
            .into_iter()
            .filter_map(|name| self.part(&["metrics", &name]).map(|metric| (name, metric)))
            .collect();
        for (name, metric) in &metrics {
            if metric.guard.is_some_and(|guard| guard.loss_max.is_none() && guard.value_max.is_none()) {
                self.note(&["metrics", name, "guard"], "guards nothing: give loss_max or value_max");
            }
        }
        let all_read = metrics.len() == self.names(&["metrics"]).len();
        if all_read && !metrics.is_empty() && metrics.iter().all(|(_, metric)| metric.weight == 0.0) {
            self.note(&["metrics"], "none has a weight above 0, so no configuration would be better than another");
        }
    }
}
