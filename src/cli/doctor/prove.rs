//! `kloros doctor DOMAIN`: proves a domain before the loop may touch it, on second instances of the service alone.
//!
//! In order: its program is there; an instance starts, becomes ready, says what it runs with, and is measured; a value that is changed
//! reaches it; and it is measured against itself, as `kloros calibrate` does, to know the smallest effect that can be told. Each step
//! says what came of it and, where that is nothing, what to do. The first that fails ends it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use kloros_actors::{
    env_file,
    facts::{
        Calibration, Domain, FailureKind, Key, KnobKind, Measurement, Noise, Others, Settings, TrialFailure, Value,
        usual,
    },
    seams::{Assignment, Bench as _, Clock as _, Purpose},
    validator::{
        Config,
        noise::{Comparing, compare},
        verdict::Run,
    },
};

use super::{DoctorArgs, Finding, How, services};
use crate::{
    bench::Runner,
    cli::{
        Answer, ask, calibrate,
        out::{self, Out},
    },
    clock::SystemClock,
    daemon::with_paths_in,
    gpus,
    home::Home,
    settings::Settings as Configuration,
};

/// How many blocks of four runs are measured where it has to be quick.
const QUICK_BLOCKS: u32 = 1;

/// From which smallest effect on a measurement is called a rough one, as a ratio.
const ROUGH_FROM: f64 = 0.1;

/// The steps, in order, as they are called.
const PROGRAM: &str = "program";
const START: &str = "start";
const READY: &str = "ready";
const READ_BACK: &str = "read back";
const BENCH: &str = "bench";
const TURN: &str = "turn";
const NOISE: &str = "noise";

pub(super) async fn prove(home: &Home, name: &str, args: &DoctorArgs, out: &mut Out) -> anyhow::Result<Answer> {
    let configuration = Configuration::load(home.root(), args.config.as_deref())?;
    let mut domains = with_paths_in(home, configuration.catalogue.clone()).domains;
    let Some(domain) = domains.remove(name) else {
        let names = domains.keys().cloned().collect::<Vec<_>>().join(", ");
        return ask::no(&format!("there is no domain {name:?}; there are {names}"), out);
    };
    home.create()?;
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    let (machine, repeats) = (configuration.measuring.machine(), configuration.measuring.repeats());
    // The daemon may run: its measurements and these take turns.
    let runner = Runner::new(home.root().to_path_buf(), exe, Arc::new(SystemClock), machine, repeats)
        .watching(gpus::looked_at(&configuration.rooms.gpu, Arc::new(SystemClock)))
        .heard_by(out::aside);
    let mut config = configuration.rooms.validator.clone();
    config.calibrate_blocks = if args.quick { QUICK_BLOCKS } else { config.calibrate_blocks.max(1) };
    let within = Duration::from_secs(configuration.rooms.dream.trial_timeout_s);
    let mut proof = Proof { domain: &domain, runner: &runner, within, config, findings: Vec::new(), noise: None, out };
    tokio::select! {
        steps = proof.steps() => steps?,
        // Dropping the measurement ends its instance.
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("cannot hear Ctrl-C")?;
            anyhow::bail!("interrupted; nothing was changed and no instance is left");
        }
    }
    let (findings, noise) = (proof.findings, proof.noise);
    let is_proven = findings.iter().all(|finding| finding.how != How::Bad) && noise.is_some();
    let facts = serde_json::json!({"domain": domain.name, "proven": is_proven, "steps": findings, "noise": noise});
    out.answer(&facts, || {
        match noise.filter(|_| is_proven) {
            // The gate refuses what claims less than can be told.
            Some(noise) if noise.resolves >= ROUGH_FROM => {
                let from = noise.resolves * 100.0;
                format!(
                    "{name} works, but no change that claims less than {from:.0} % can be judged\nkloros doctor {name}"
                )
            }
            Some(_) => format!("{name} is proven: kloros may be let loose on it\nkloros run"),
            None => format!("{name} is not proven\nkloros doctor {name}"),
        }
    })?;
    Ok(if is_proven { Answer::Done } else { Answer::No })
}

/// What is proven of a domain, step by step.
struct Proof<'a> {
    domain: &'a Domain,
    runner: &'a Runner,
    within: Duration,
    config: Config,
    findings: Vec<Finding>,
    noise: Option<Noise>,
    out: &'a mut Out,
}

impl Proof<'_> {
    /// Notes what came of a step, and says it at once to a person.
    fn note(&mut self, finding: Finding) -> anyhow::Result<()> {
        if !self.out.is_json() {
            self.out.line(&finding.words())?;
        }
        self.findings.push(finding);
        Ok(())
    }

    async fn steps(&mut self) -> anyhow::Result<()> {
        if self.domain.in_place.is_some() {
            let why = "it is measured in place, on the instance that serves: that is done in its windows alone";
            return self.note(Finding::bad(
                START,
                why,
                "kloros run with gate.autonomy = 0 asks you before the first window",
            ));
        }
        if let Some(found) = services::program(self.domain) {
            let is_bad = found.how == How::Bad;
            self.note(Finding { about: PROGRAM.to_owned(), ..found })?;
            if is_bad {
                return Ok(());
            }
        }
        let Some((measured, took)) = self.measured().await? else { return Ok(()) };
        let Some(again) = self.turned(&measured).await? else { return Ok(()) };
        self.compared((took + again) / 2).await
    }

    /// Measures once with what the env file says.
    async fn measured(&mut self) -> anyhow::Result<Option<(Measurement, Duration)>> {
        let began = Instant::now();
        let outcome = self.run("doctor.first", Settings::new(), 1, &[]).await;
        let took = began.elapsed();
        let measurement = match outcome {
            Ok(measurement) => measurement,
            Err(failure) => {
                self.failed(&failure)?;
                return Ok(None);
            }
        };
        self.note(Finding::well(START, "a second instance starts, on a port of its own"))?;
        self.note(Finding::well(READY, "it becomes ready, and ends when it is told to"))?;
        self.note(said(self.domain, &measurement))?;
        let shown = measurement.metrics.iter().filter(|(name, _)| self.domain.metrics.contains_key(*name));
        let numbers: Vec<String> = shown.map(|(name, value)| format!("{name} {value:.3}")).collect();
        let absent: Vec<&str> = self
            .domain
            .metrics
            .iter()
            .filter(|(name, spec)| spec.weight > 0.0 && !measurement.metrics.contains_key(*name))
            .map(|(name, _)| name.as_str())
            .collect();
        if !absent.is_empty() {
            let what = format!("it does not measure {}, which has a weight", absent.join(", "));
            self.note(Finding::bad(
                BENCH,
                what,
                "mend [metrics] or [bench], or measure longer: too few answers are no number",
            ))?;
            return Ok(None);
        }
        let what = format!("{}, in {:.1} s with all that is around it", numbers.join(", "), took.as_secs_f64());
        self.note(Finding::well(BENCH, what))?;
        Ok(Some((measurement, took)))
    }

    /// Measures once with another value of one knob and every other one as it is, all of them set.
    async fn turned(&mut self, first: &Measurement) -> anyhow::Result<Option<Duration>> {
        let now = now(self.domain, first);
        let turn = self.domain.knobs.iter().find_map(|(key, knob)| {
            let value = now.get(key)?;
            Some((key.clone(), value.clone(), neighbour(&knob.range, value)?))
        });
        let Some((key, from, to)) = turn else {
            self.note(Finding::bad(
                TURN,
                "no knob has a value beside the one in use",
                "widen the ranges under [knobs]",
            ))?;
            return Ok(None);
        };
        let mut settings = now;
        settings.insert(key.clone(), to.clone());
        let began = Instant::now();
        let outcome = self.run("doctor.turn", settings, 1, &[]).await;
        match outcome {
            Ok(_) => {
                self.note(Finding::well(TURN, format!("{key} {from} -> {to} reaches an instance, which says so")))?;
                Ok(Some(began.elapsed()))
            }
            Err(failure) => {
                let what = format!("with {key} {from} -> {to}: {}: {}", failure.kind, failure.detail);
                self.note(Finding::bad(TURN, what, fix(self.domain, failure.kind, self.within)))?;
                Ok(None)
            }
        }
    }

    /// Measures the domain against itself; `each` is how long a run takes.
    async fn compared(&mut self, each: Duration) -> anyhow::Result<()> {
        let runs_min = self.config.calibrate_blocks * 4;
        let whole = each.as_secs_f64() * f64::from(runs_min);
        out::aside(&format!("measures it against itself: {runs_min} runs, about {whole:.0} s"));
        let (mut runs, mut others): (Vec<Run>, Vec<(u32, Others)>) = (Vec::new(), Vec::new());
        let outcome = loop {
            let (block, place) = match compare(&self.config, &self.domain.metrics, &runs) {
                Comparing::Measure(block, place) => (block, place),
                Comparing::Over(outcome) => break outcome,
            };
            let same_block: Vec<Others> =
                others.iter().filter(|(of, _)| *of == block).map(|(_, others)| *others).collect();
            let label = format!("doctor.b{block}.r{place}");
            let outcome = self.run(&label, Settings::new(), u64::from(block) + 1, &same_block).await;
            others
                .extend(outcome.as_ref().ok().and_then(|measurement| measurement.others).map(|others| (block, others)));
            let samples = outcome.as_ref().map_or(0, |measurement| measurement.samples);
            let outcome = outcome.map(|measurement| measurement.metrics).map_err(|failure| {
                out::aside(&format!("run {place} of block {block}: {}: {}", failure.kind, failure.detail));
                failure.kind
            });
            runs.push(Run { block, place, candidate: place == 2 || place == 3, outcome, samples });
        };
        let now_ms = SystemClock.now_ms();
        self.noise = outcome.as_ref().ok().copied();
        let calibration =
            Calibration { domain: self.domain.name.clone(), measured_by: String::new(), outcome, at_ms: now_ms };
        let what = calibrate::words(&calibration, now_ms);
        self.note(match &self.noise {
            None => Finding::bad(NOISE, what, "measure longer, or something that varies: mend [bench]"),
            Some(noise) if noise.resolves >= ROUGH_FROM => Finding::note(
                NOISE,
                what,
                Some("that is rough: measure longer (window_s, more requests), or on a quieter machine"),
            ),
            Some(_) => Finding::well(NOISE, what),
        })
    }

    async fn run(
        &self,
        label: &str,
        settings: Settings,
        seed: u64,
        others: &[Others],
    ) -> Result<Measurement, TrialFailure> {
        let (label, unset, usual) = (label.to_owned(), Vec::new(), usual(others));
        let purpose = Purpose::Experiment;
        self.runner
            .measure(self.domain, Assignment { label, settings, unset, seed, purpose, within: self.within, usual })
            .await
    }

    /// Notes the step that failed, and those before it that did not.
    fn failed(&mut self, failure: &TrialFailure) -> anyhow::Result<()> {
        let (passed, failed): (&[&str], &str) = match failure.kind {
            // Whether before or under load is not known; before is the usual case.
            FailureKind::DidNotStart | FailureKind::Infrastructure | FailureKind::OutOfMemory => (&[], START),
            FailureKind::NotReady => (&[START], READY),
            FailureKind::NotInEffect => (&[START, READY], READ_BACK),
            FailureKind::Died | FailureKind::BenchFailed | FailureKind::Disturbed | FailureKind::Breached => {
                (&[START, READY, READ_BACK], BENCH)
            }
            // Which of them took so long is not known.
            FailureKind::TimedOut => (&[], BENCH),
        };
        for step in passed {
            self.note(Finding::well(step, "a second instance gets so far"))?;
        }
        let what = format!("{}: {}", failure.kind, failure.detail);
        self.note(Finding::bad(failed, what, fix(self.domain, failure.kind, self.within)))
    }
}

/// Says what an instance says that it runs with, where nothing but the env file told it.
fn said(domain: &Domain, measurement: &Measurement) -> Finding {
    let told = told(domain);
    let differs: Vec<String> = domain
        .knobs
        .iter()
        .filter(|(key, _)| !told.contains_key(*key))
        .filter_map(|(key, knob)| {
            let text = measurement.in_effect.get(key.as_str())?;
            let value = knob.range.parse(text.trim())?;
            (value != knob.default).then(|| format!("{key} is {value}, and its default is said to be {}", knob.default))
        })
        .collect();
    let what = format!("it says {} of {} knobs, left to itself", measurement.in_effect.len(), domain.knobs.len());
    if differs.is_empty() {
        return Finding::well(READ_BACK, what);
    }
    let what = format!("{what}; {}", differs.join("; "));
    Finding::note(READ_BACK, what, Some("what the service says counts; mend default in the domain file"))
}

/// Returns the values of knobs that the env file sets, and that are within their ranges.
fn told(domain: &Domain) -> Settings {
    let bytes = std::fs::read(&domain.service.env_file).unwrap_or_default();
    let value = |key: &Key, range: &KnobKind| {
        let value = range.parse(&env_file::value_of(&bytes, key).ok()??)?;
        range.refuses(&value).is_none().then_some(value)
    };
    let knobs = domain.knobs.iter();
    knobs.filter_map(|(key, knob)| Some((key.clone(), value(key, &knob.range)?))).collect()
}

/// Returns the value of every knob as it is now: what the env file says, else the instance, else the default.
fn now(domain: &Domain, measurement: &Measurement) -> Settings {
    let told = told(domain);
    let value = |key: &Key, knob: &kloros_actors::facts::Knob| {
        let said = measurement.in_effect.get(key.as_str()).and_then(|text| knob.range.parse(text.trim()));
        let said = said.filter(|value| knob.range.refuses(value).is_none());
        told.get(key).cloned().or(said).unwrap_or_else(|| knob.default.clone())
    };
    domain.knobs.iter().map(|(key, knob)| (key.clone(), value(key, knob))).collect()
}

/// Returns a value beside `value`; `None` where there is no other one.
fn neighbour(range: &KnobKind, value: &Value) -> Option<Value> {
    let others: Vec<Value> = match (range, value) {
        (KnobKind::Integer { step, .. }, Value::Integer(number)) => {
            let step = step.unwrap_or(1);
            vec![Value::Integer(number.saturating_add(step)), Value::Integer(number.saturating_sub(step))]
        }
        (KnobKind::Float { min, max, step, .. }, Value::Float(number)) => {
            let step = step.unwrap_or((max - min) / 16.0);
            vec![Value::Float(number + step), Value::Float(number - step), Value::Float(*min), Value::Float(*max)]
        }
        (KnobKind::Boolean {}, _) => vec![Value::Boolean(false), Value::Boolean(true)],
        (KnobKind::Choice { values }, _) => values.iter().cloned().map(Value::Choice).collect(),
        (KnobKind::Ordinal { values }, _) => values.clone(),
        _ => Vec::new(),
    };
    others.into_iter().find(|other| other != value && range.refuses(other).is_none())
}

/// Returns what a person does about a failure of this kind.
fn fix(domain: &Domain, kind: FailureKind, within: Duration) -> String {
    let service = &domain.service;
    match kind {
        FailureKind::DidNotStart => "mend service.argv: what it last said stands above".to_owned(),
        FailureKind::NotReady => format!(
            "mend service.ready, or allow more than within_s = {} where it starts slowly",
            service.ready.within_s
        ),
        FailureKind::NotInEffect => {
            "mend service.read_back, or pass every knob on to the program: it has to run with what it is given"
                .to_owned()
        }
        FailureKind::Died => {
            "put less load on it in [bench]: it does not bear this with the settings of now".to_owned()
        }
        FailureKind::BenchFailed => "mend [bench], or let it fit what the service answers".to_owned(),
        FailureKind::TimedOut => {
            format!("measure more briefly in [bench], or raise dream.trial_timeout_s = {}", within.as_secs())
        }
        FailureKind::Infrastructure => "mend what it says, and look with kloros doctor".to_owned(),
        FailureKind::Disturbed => {
            "look again when the machine is quieter, or say under [quiet] what is usual".to_owned()
        }
        FailureKind::Breached => "mend [[objectives]]".to_owned(),
        FailureKind::OutOfMemory => {
            "make room for a second instance, say in [needs] how much it takes, or set isolation = \"in_place\""
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> Domain {
        let folder = tempfile::tempdir().unwrap();
        Configuration::load(folder.path(), None).unwrap().catalogue.domains["lab"].clone()
    }

    #[test]
    fn every_knob_has_a_value_beside_each_of_its_own_that_it_takes() {
        let integer = |min, max, step| KnobKind::Integer { min, max, log: false, step };
        let float = |min, max, step| KnobKind::Float { min, max, log: false, step };
        let texts =
            |values: &[&str]| KnobKind::Choice { values: values.iter().map(|text| (*text).to_owned()).collect() };
        let text = |text: &str| Value::Choice(text.to_owned());
        let cases = [
            (integer(1, 64, None), Value::Integer(2), Some(Value::Integer(3))),
            (integer(1, 64, None), Value::Integer(64), Some(Value::Integer(63))),
            (integer(0, 64, Some(8)), Value::Integer(8), Some(Value::Integer(16))),
            (integer(1, 1, None), Value::Integer(1), None),
            (integer(i64::MIN, i64::MAX, None), Value::Integer(i64::MAX), Some(Value::Integer(i64::MAX - 1))),
            (float(0.0, 1.0, None), Value::Float(1.0), Some(Value::Float(0.9375))),
            (float(0.5, 0.75, Some(0.25)), Value::Float(0.75), Some(Value::Float(0.5))),
            (KnobKind::Boolean {}, Value::Boolean(false), Some(Value::Boolean(true))),
            (texts(&["no", "yes"]), text("no"), Some(text("yes"))),
            (texts(&["no"]), text("no"), None),
            (
                KnobKind::Ordinal { values: vec![Value::Integer(8), Value::Integer(16)] },
                Value::Integer(16),
                Some(Value::Integer(8)),
            ),
        ];
        for (range, value, expected) in cases {
            assert_eq!(neighbour(&range, &value), expected, "{range:?} {value}");
        }
        for knob in domain().knobs.values() {
            assert!(neighbour(&knob.range, &knob.default).is_some(), "{knob:?}");
        }
    }

    #[test]
    fn what_now_is_stands_in_the_env_file_is_said_by_the_instance_or_is_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let mut domain = domain();
        domain.service.env_file = folder.path().join("env");
        std::fs::write(&domain.service.env_file, "LAB_THREADS=4\nLAB_MAX_NUM_SEQS=9999\n").unwrap();
        let in_effect = [("LAB_THREADS", "1"), ("LAB_BATCH_WAIT_MS", "7"), ("LAB_PRECISION", "f16")];
        let in_effect = in_effect.map(|(key, text)| (key.to_owned(), text.to_owned())).into();
        let measurement = Measurement {
            metrics: [].into(),
            samples: 1,
            window_ms: 1,
            in_effect,
            source: String::new(),
            at_ms: 0,
            others: None,
            discarded: 0,
        };
        let now = now(&domain, &measurement);
        let of = |key: &str| now[&Key::new(key).unwrap()].to_string();
        assert_eq!(
            ["LAB_THREADS", "LAB_MAX_NUM_SEQS", "LAB_BATCH_WAIT_MS", "LAB_PRECISION"].map(of),
            ["4", "2", "7", "f64"]
        );
        let said = said(&domain, &measurement);
        assert_eq!(said.how, How::Note);
        assert!(said.what.contains("LAB_BATCH_WAIT_MS is 7, and its default is said to be 20"), "{}", said.what);
        assert!(!said.what.contains("LAB_THREADS is"), "the env file sets it: {}", said.what);
    }
}
