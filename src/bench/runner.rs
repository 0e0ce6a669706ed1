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
    facts::{Check, DeploymentId, Domain, FailureKind, Key, Measurement, Others, Quiet, ReadBack, TrialFailure},
    seams::{Assignment, Bench, Clock, GpuUsers, Purpose, Turn},
};
use tokio::time::{sleep, timeout};

use super::{
    command::Target,
    drive::Measured,
    fail,
    others::{NoGpus, Watch},
    terms::{bench_name, own, run_bench, wanted},
    trial_dir::{self, TrialDir},
};
use crate::{
    lease::{Lease, Machine, Urgency},
    process::{
        CheckError, Instance, Launch, Readiness, ReadyError, Remains, Secrets, ask, check, environment, fill,
        free_port, shown, told,
    },
};

/// How far trials yield the CPU, so that the instance that serves goes first. The same for every candidate and for the
/// settings it is compared with.
pub(super) const NICE: i32 = 5;

/// The longest pause before a disturbed measurement is made again.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(60);

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
    pub(super) home: PathBuf,
    kloros: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    machine: Machine,
    /// The turn of a deployment that is not measured yet.
    reserved: Mutex<Option<(DeploymentId, Lease)>>,
    pub(super) repeats: Repeats,
    pub(super) gpus: Arc<dyn GpuUsers>,
    /// Is told in words why a measurement waits or is repeated, and which requests of it failed.
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

    /// Tells `hear` why a measurement waits or is repeated and which requests of it failed, in words.
    pub(crate) fn heard_by(self, hear: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { hear: Box::new(hear), ..self }
    }

    /// Removes what trials of an earlier run left in the home.
    pub(crate) fn sweep(&self) {
        trial_dir::remove_stale(&self.home);
    }

    /// Waits for the turn of this measurement. Nothing is started before.
    async fn lease_of(&self, domain: &Domain, assignment: &Assignment) -> Result<Lease, TrialFailure> {
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
        let watch = Watch::begin(trial.instance.id(), own(&domain.bench), Arc::clone(&self.gpus)).await;
        let (measured, others) = watch.during(trial.measure(domain, assignment.seed)).await;
        let measured = measured?;
        if let Some(errors) = &measured.errors {
            tracing::debug!(label = assignment.label, errors, "requests of a bench failed");
            (self.hear)(errors);
        }
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
    pub(super) fn disturbed(
        &self,
        domain: &Domain,
        assignment: &Assignment,
        measurement: &Measurement,
    ) -> Option<String> {
        let quiet = domain.quiet.unwrap_or(self.repeats.quiet);
        quiet.disturbed(measurement.others.as_ref()?, assignment.usual.as_ref())
    }
}

#[async_trait]
impl Bench for Runner {
    async fn measure(&self, domain: &Domain, assignment: Assignment) -> Result<Measurement, TrialFailure> {
        if domain.in_place.is_some() {
            let why = format!("{} is measured in place alone: no second instance of it is started", domain.name);
            return Err(fail(FailureKind::Infrastructure, why));
        }
        let (mut discarded, mut pause) = (0, self.repeats.pause);
        loop {
            let turn = self.lease_of(domain, &assignment).await?;
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

    async fn turn(&self, domain: &Domain, assignment: &Assignment) -> Result<Box<dyn Turn>, TrialFailure> {
        Ok(Box::new(self.lease_of(domain, assignment).await?))
    }

    async fn measure_serving(
        &self,
        domain: &Domain,
        assignment: &Assignment,
        url: &str,
    ) -> Result<Measurement, TrialFailure> {
        self.serving(domain, assignment, url).await
    }
}

impl Turn for Lease {
    fn is_whole(&self) -> bool {
        Lease::is_whole(self)
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
pub(super) fn secrets(domain: &Domain, env_file: &Path) -> Result<Secrets, TrialFailure> {
    let bytes = std::fs::read(env_file).map_err(infrastructure("env file of the trial"))?;
    Ok(Secrets::of(env_file::values_besides(&bytes, |key| domain.knobs.contains_key(key))))
}

/// Returns the variables of the trial's env file.
fn variables(env_file: &Path) -> Result<BTreeMap<Key, String>, TrialFailure> {
    let bytes = std::fs::read(env_file).map_err(infrastructure("env file of the trial"))?;
    env_file::variables(&bytes)
        .map_err(|problem| fail(FailureKind::Infrastructure, format!("env file of the trial: {problem}")))
}

/// Fails where the check of the domain, if it has one, refuses what is in the trial's env file.
async fn accepted(domain: &Domain, env_file: &str, kloros: &str, secrets: &Secrets) -> Result<(), TrialFailure> {
    let Some(Check { command, within_s }) = &domain.service.check else { return Ok(()) };
    let argv = domain.filled_with(command, &variables(Path::new(env_file))?);
    let asked = check(&argv, env_file, kloros, Duration::from_secs(*within_s), secrets.clone()).await;
    asked.map_err(|error| match error {
        CheckError::Refused(_) => fail(FailureKind::DidNotStart, error.to_string()),
        CheckError::NotRun(_) => fail(FailureKind::Infrastructure, error.to_string()),
    })
}

impl Trial {
    async fn start(domain: &Domain, kloros: &Path, env_file: &Path) -> Result<Self, TrialFailure> {
        let service = &domain.service;
        let port = free_port().map_err(infrastructure("no free port"))?;
        let (number, env_file, kloros) = (port.to_string(), env_file.to_string_lossy(), kloros.to_string_lossy());
        let takes = domain.takes();
        let set = if takes.anything() { variables(Path::new(env_file.as_ref()))? } else { BTreeMap::new() };
        let values = [("port", &*number), ("env_file", &*env_file), ("kloros", &*kloros)];
        let argv = fill(&domain.argv_with(&set), &values)
            .map_err(|error| fail(FailureKind::Infrastructure, error.to_string()))?;
        // As the serving instance gets them.
        let set = if takes.variables { set } else { BTreeMap::new() };
        let env = set.into_iter().map(|(key, value)| (key.to_string(), value));
        let secrets = secrets(domain, Path::new(env_file.as_ref()))?;
        accepted(domain, &env_file, &kloros, &secrets).await?;
        let unaskable = |error: ReadyError| fail(FailureKind::Infrastructure, error.to_string());
        let readiness = Readiness::of(wanted(&service.ready), port).map_err(unaskable)?;
        let env = env.chain(readiness.variables()).collect();
        let launch = Launch { argv, env, nice: NICE, secrets: secrets.clone(), remains: Remains::Killed };
        let instance = Instance::spawn_heard(launch, readiness.heard()).await;
        let instance = instance.map_err(|error| fail(FailureKind::Infrastructure, error.to_string()))?;
        let mut trial = Self { instance, secrets, url: format!("http://{}:{port}", Ipv4Addr::LOCALHOST), port };
        match readiness.wait(&mut trial.instance).await {
            Ok(()) => Ok(trial),
            Err(error) => Err(trial.why_not_ready(&error)),
        }
    }

    fn why_not_ready(&mut self, error: &ReadyError) -> TrialFailure {
        let ended = self.instance.try_exit();
        let is_short = ended.is_some_and(|status| self.instance.was_short_of_memory(status));
        let kind = match error {
            // Between choosing a port and listening on it somebody else may take it, which says nothing about the settings.
            ReadyError::Exited { .. } if is_taken(self.port) => {
                let detail = format!("somebody else took port {}; {error}", self.port);
                return fail(FailureKind::Infrastructure, detail);
            }
            ReadyError::Exited { .. } | ReadyError::Fell { .. } if is_short => FailureKind::OutOfMemory,
            ReadyError::Exited { .. } => FailureKind::DidNotStart,
            ReadyError::TimedOut { .. } | ReadyError::Fell { .. } => FailureKind::NotReady,
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
            ReadBack::Command(argv) => told(argv, self.port).await,
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
        let too_much = |why: String| fail(FailureKind::Died, format!("the load was too much for the instance: {why}"));
        let readiness =
            Readiness::of(wanted(&domain.service.ready), port).map_err(|error| too_much(error.to_string()))?;
        readiness.comes_back(STILL_WELL_MAX).await.map_err(too_much)?;
        Ok(measured)
    }

    fn still_runs(&mut self) -> Result<(), TrialFailure> {
        let Some(status) = self.instance.try_exit() else { return Ok(()) };
        let detail = format!("the instance ended with {status}; it last said: {}", self.instance.tail());
        let is_short = self.instance.was_short_of_memory(status);
        Err(fail(if is_short { FailureKind::OutOfMemory } else { FailureKind::Died }, detail))
    }

    async fn end(&mut self) {
        if self.instance.stop(STOP_MAX).await.is_none() {
            tracing::warn!(pid = self.instance.id(), "instance of a trial does not end");
        }
    }
}

fn is_taken(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

fn infrastructure(what: &'static str) -> impl Fn(io::Error) -> TrialFailure {
    move |error| fail(FailureKind::Infrastructure, format!("{what}: {error}"))
}
