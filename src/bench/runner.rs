//! Runs a trial from end to end: a second instance of the service with the candidate's settings, proven to run with them,
//! measured, and ended.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kloros_actors::{
    env_file,
    facts::{BenchSpec, DeploymentId, Domain, FailureKind, Key, Measurement, Others, Quiet, ReadBack, TrialFailure},
    seams::{Assignment, Bench, Clock, GpuUsers, Purpose},
};
use tokio::time::{sleep, timeout};

use super::{
    chat::{self, ChatSpec, Measured},
    command::{self, Target},
    fail,
    others::{NoGpus, Watch},
    trial_dir::{self, TrialDir},
};
use crate::{
    lease::{Lease, Machine, Urgency},
    process::{
        Instance, Launch, Own, ReadyError, Remains, Secrets, answers, ask, environment, fill, free_port, ready, shown,
    },
};

/// How far trials yield the CPU, so that the instance that serves goes first. The same for every candidate and for the
/// settings it is compared with.
pub(super) const NICE: i32 = 5;

/// The longest pause before a disturbed measurement is made again.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Why a measurement does not count whose turn somebody else may have had as well.
const LOST: &str = "the file of the lease was removed, so that somebody else may have measured meanwhile";

/// How long an instance may take to end by itself.
const STOP_MAX: Duration = Duration::from_secs(10);

/// How long an instance may take, once the load is over, to answer that it is still well.
const STILL_WELL_MAX: Duration = Duration::from_secs(10);

/// What becomes of a measurement that others disturbed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Repeats {
    /// From when on it is disturbed, where the domain says nothing else.
    pub(crate) quiet: Quiet,
    /// How often it is measured again at most.
    pub(crate) count_max: u32,
    /// How long the pause before that is; each further one is twice as long, up to a minute.
    pub(crate) pause: Duration,
}

/// Measures configurations on instances of their own, one at a time on the whole machine.
pub(crate) struct Runner {
    home: PathBuf,
    kloros: PathBuf,
    clock: Arc<dyn Clock>,
    machine: Machine,
    /// The turn of a deployment that is not measured yet.
    reserved: Mutex<Option<(DeploymentId, Lease)>>,
    repeats: Repeats,
    gpus: Arc<dyn GpuUsers>,
    /// Is told in words why a measurement waits or is repeated.
    hear: Box<dyn Fn(&str) + Send + Sync>,
}

impl Runner {
    /// Returns the runner of the home; measurements wait for their turn on `machine`.
    ///
    /// `kloros` is the path of this program, which takes the place of `{kloros}` in a service's command.
    pub(crate) fn new(
        home: PathBuf,
        kloros: PathBuf,
        clock: Arc<dyn Clock>,
        machine: Machine,
        repeats: Repeats,
    ) -> Self {
        let (reserved, gpus) = (Mutex::default(), Arc::new(NoGpus));
        Self { home, kloros, clock, machine, reserved, repeats, gpus, hear: Box::new(|_| {}) }
    }

    /// Watches who else uses the GPUs, too.
    pub(crate) fn watching(self, gpus: Arc<dyn GpuUsers>) -> Self {
        Self { gpus, ..self }
    }

    /// Tells `hear` why a measurement waits or is repeated, in words.
    pub(crate) fn heard_by(self, hear: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { hear: Box::new(hear), ..self }
    }

    /// Removes what trials of an earlier run left in the home.
    pub(crate) fn sweep(&self) {
        trial_dir::remove_stale(&self.home);
    }

    /// Waits for the turn of this measurement. Nothing is started before.
    async fn turn(&self, domain: &Domain, assignment: &Assignment) -> Result<Lease, TrialFailure> {
        let urgency = match &assignment.purpose {
            Purpose::Validation(deployment) => {
                if let Some((_, lease)) = self.reserved().take_if(|(of, _)| of == deployment) {
                    return Ok(lease);
                }
                Urgency::Unproven
            }
            Purpose::Experiment => Urgency::Ordinary,
        };
        self.lease(&format!("{} of {}", assignment.label, domain.name), urgency).await
    }

    async fn lease(&self, what: &str, urgency: Urgency) -> Result<Lease, TrialFailure> {
        let waiting = self.machine.lease(what, urgency, |standing| {
            let in_the_way = standing.in_the_way();
            tracing::info!(what, in_the_way, "measurement waits for the machine");
            (self.hear)(&format!("waits: {in_the_way}"));
        });
        waiting.await.map_err(|error| {
            tracing::warn!(what, %error, "measurement was not made");
            fail(FailureKind::Infrastructure, chain(&error))
        })
    }

    fn reserved(&self) -> MutexGuard<'_, Option<(DeploymentId, Lease)>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures on an instance of its own, and ends it.
    async fn attempt(&self, domain: &Domain, assignment: &Assignment) -> Result<Measurement, TrialFailure> {
        // Dropped after the instance, which may still write there.
        let dir = TrialDir::create(&self.home, &assignment.label).map_err(infrastructure("cannot make a directory"))?;
        let live = self.home.join(&domain.service.env_file);
        let env_file = dir
            .write_env(&live, &assignment.settings, &assignment.unset)
            .map_err(infrastructure("cannot write the env file"))?;
        let mut trial = Trial::start(domain, &self.kloros, &env_file).await?;
        let in_effect = trial.read_back(domain, assignment).await?;
        let own = match domain.bench {
            BenchSpec::OpenaiChat { .. } => Own::Itself,
            // The program that measures is a child of this process, and what it used is known when it has ended.
            BenchSpec::Command { .. } => Own::WithEnded,
        };
        let watch = Watch::begin(trial.instance.id(), own, Arc::clone(&self.gpus)).await;
        let (measured, others) = watch.during(trial.measure(domain, assignment.seed)).await;
        let measured = measured?;
        trial.end().await;
        Ok(Measurement {
            metrics: measured.metrics,
            samples: measured.samples,
            window_ms: measured.window_ms,
            in_effect,
            source: format!("{} {}", bench_name(&domain.bench), trial.url),
            at_ms: self.clock.now_ms(),
            others: (others != Others::default()).then_some(others),
            discarded: 0,
        })
    }

    /// Returns what disturbed a measurement, in words, if it is to be thrown away.
    fn disturbed(&self, domain: &Domain, assignment: &Assignment, measurement: &Measurement) -> Option<String> {
        let quiet = domain.quiet.unwrap_or(self.repeats.quiet);
        quiet.disturbed(measurement.others.as_ref()?, assignment.usual.as_ref())
    }
}

#[async_trait]
impl Bench for Runner {
    async fn measure(&self, domain: &Domain, assignment: Assignment) -> Result<Measurement, TrialFailure> {
        let (mut discarded, mut pause) = (0, self.repeats.pause);
        loop {
            let turn = self.turn(domain, &assignment).await?;
            let within = assignment.within;
            let late = |_| fail(FailureKind::TimedOut, format!("not measured within {} s", within.as_secs_f64()));
            let measurement = timeout(within, self.attempt(domain, &assignment)).await.map_err(late)??;
            let disturbed = self.disturbed(domain, &assignment, &measurement);
            let Some(why) = disturbed.or_else(|| (!turn.is_whole()).then(|| LOST.to_owned())) else {
                return Ok(Measurement { discarded, ..measurement });
            };
            discarded += 1;
            if discarded > self.repeats.count_max {
                return Err(fail(FailureKind::Disturbed, format!("{discarded} samples in a row were: {why}")));
            }
            tracing::info!(
                label = assignment.label,
                why,
                discarded,
                "disturbed sample thrown away, it is measured again"
            );
            (self.hear)(&format!("disturbed: {why}; measured again in {} s", pause.as_secs_f64()));
            // Others may measure meanwhile.
            drop(turn);
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    async fn reserve(&self, deployment: &DeploymentId) -> Result<(), TrialFailure> {
        // What is not made yet has no right to go first.
        let lease = self.lease(&format!("the change {deployment}"), Urgency::Ordinary).await?;
        *self.reserved() = Some((deployment.clone(), lease));
        Ok(())
    }

    fn keep(&self, deployments: &[DeploymentId]) {
        drop(self.reserved().take_if(|(of, _)| !deployments.contains(of)));
    }
}

/// Returns what an error says, with what it says of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// An instance that is being measured; dropping it kills the instance.
struct Trial {
    instance: Instance,
    secrets: Secrets,
    url: String,
    port: u16,
}

/// Returns what of its output an instance must not be quoted with: every value of its env file that is none of a knob.
fn secrets(domain: &Domain, env_file: &Path) -> Result<Secrets, TrialFailure> {
    let bytes = std::fs::read(env_file).map_err(infrastructure("env file of the trial"))?;
    Ok(Secrets::of(env_file::values_besides(&bytes, |key| domain.knobs.contains_key(key))))
}

/// A service that is not told where its env file is gets the variables themselves, as the serving instance does.
fn told_otherwise(argv: &[String], env_file: &Path) -> Result<Vec<(String, String)>, TrialFailure> {
    if argv.iter().any(|argument| argument.contains("{env_file}")) {
        return Ok(Vec::new());
    }
    let bytes = std::fs::read(env_file).map_err(infrastructure("env file of the trial"))?;
    let variables = env_file::variables(&bytes)
        .map_err(|problem| fail(FailureKind::Infrastructure, format!("env file of the trial: {problem}")))?;
    Ok(variables.into_iter().map(|(key, value)| (key.to_string(), value)).collect())
}

impl Trial {
    async fn start(domain: &Domain, kloros: &Path, env_file: &Path) -> Result<Self, TrialFailure> {
        let service = &domain.service;
        let port = free_port().map_err(infrastructure("no free port"))?;
        let (number, env_file, kloros) = (port.to_string(), env_file.to_string_lossy(), kloros.to_string_lossy());
        let argv = fill(&service.argv, &[("port", &number), ("env_file", &env_file), ("kloros", &kloros)])
            .map_err(|error| fail(FailureKind::Infrastructure, error.to_string()))?;
        let env = told_otherwise(&service.argv, Path::new(env_file.as_ref()))?;
        let secrets = secrets(domain, Path::new(env_file.as_ref()))?;
        let instance =
            Instance::spawn(Launch { argv, env, nice: NICE, secrets: secrets.clone(), remains: Remains::Killed })
                .await
                .map_err(|error| fail(FailureKind::Infrastructure, error.to_string()))?;
        let mut trial = Self { instance, secrets, url: format!("http://{}:{port}", Ipv4Addr::LOCALHOST), port };
        let health = format!("{}{}", trial.url, service.ready.http_path);
        let within = Duration::from_secs(service.ready.within_s);
        match ready(&health, within, service.ready.passes, &mut trial.instance).await {
            Ok(()) => Ok(trial),
            Err(error) => Err(trial.why_not_ready(&error)),
        }
    }

    fn why_not_ready(&self, error: &ReadyError) -> TrialFailure {
        let kind = match error {
            // Between choosing a port and listening on it somebody else may take it, which says nothing about the settings.
            ReadyError::Exited { .. } if is_taken(self.port) => {
                let detail = format!("somebody else took port {}; {error}", self.port);
                return fail(FailureKind::Infrastructure, detail);
            }
            ReadyError::Exited { .. } => FailureKind::DidNotStart,
            ReadyError::TimedOut { .. } => FailureKind::NotReady,
            ReadyError::Unaskable { .. } => FailureKind::Infrastructure,
        };
        fail(kind, error.to_string())
    }

    async fn read_back(
        &mut self,
        domain: &Domain,
        assignment: &Assignment,
    ) -> Result<BTreeMap<String, String>, TrialFailure> {
        let said = match &domain.service.read_back {
            ReadBack::HttpJson(path) => ask(&format!("{}{path}", self.url)).await,
            ReadBack::ProcEnviron => environment(self.instance.id()).await,
        };
        let is_knob = |name: &str| Key::new(name).is_ok_and(|key| domain.knobs.contains_key(&key));
        let found: BTreeMap<_, _> = match said {
            Ok(said) => {
                let said = said.into_iter().filter(|(name, _)| is_knob(name)).collect();
                shown(said, |name, text| domain.could_hold(name, text), &self.secrets)
            }
            Err(problem) => {
                self.still_runs()?;
                return Err(fail(FailureKind::NotInEffect, format!("the values in effect cannot be read: {problem}")));
            }
        };
        match kloros_actors::facts::agrees(&assignment.settings, &found) {
            Ok(()) => Ok(found),
            Err(difference) => Err(fail(FailureKind::NotInEffect, difference)),
        }
    }

    async fn measure(&mut self, domain: &Domain, seed: u64) -> Result<Measured, TrialFailure> {
        let (url, port, secrets) = (self.url.clone(), self.port, self.secrets.clone());
        let measured = tokio::select! {
            // An instance that dies early is not put under load for the rest of the window.
            _ = self.instance.exited() => None,
            measured = run_bench(&domain.bench, Target { url: &url, port, seed }, &secrets) => Some(measured),
        };
        // That it died explains whatever the bench has to say.
        self.still_runs()?;
        let measured = measured.ok_or_else(|| fail(FailureKind::Died, "the instance ended under load"))??;
        let health = format!("{url}{}", domain.service.ready.http_path);
        answers(&health, STILL_WELL_MAX, 1)
            .await
            .map_err(|error| fail(FailureKind::Died, format!("the load was too much for the instance: {error}")))?;
        Ok(measured)
    }

    fn still_runs(&mut self) -> Result<(), TrialFailure> {
        let Some(status) = self.instance.try_exit() else { return Ok(()) };
        let detail = format!("the instance ended with {status}; it last said: {}", self.instance.tail());
        Err(fail(FailureKind::Died, detail))
    }

    async fn end(&mut self) {
        if self.instance.stop(STOP_MAX).await.is_none() {
            tracing::warn!(pid = self.instance.id(), "instance of a trial does not end");
        }
    }
}

async fn run_bench(bench: &BenchSpec, target: Target<'_>, secrets: &Secrets) -> Result<Measured, TrialFailure> {
    match (ChatSpec::from_bench(bench), bench) {
        (Some(spec), _) => chat::measure(target.url, &spec?, target.seed).await,
        (None, BenchSpec::Command { argv, timeout_s }) => {
            command::measure(argv, Duration::from_secs(*timeout_s), target, secrets).await
        }
        (None, BenchSpec::OpenaiChat { .. }) => Err(fail(FailureKind::BenchFailed, "the bench cannot run")),
    }
}

fn bench_name(bench: &BenchSpec) -> String {
    match bench {
        BenchSpec::OpenaiChat { .. } => "openai_chat".to_owned(),
        BenchSpec::Command { argv, .. } => format!("command {}", argv.first().map_or("", String::as_str)),
    }
}

fn is_taken(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

fn infrastructure(what: &'static str) -> impl Fn(io::Error) -> TrialFailure {
    move |error| fail(FailureKind::Infrastructure, format!("{what}: {error}"))
}
