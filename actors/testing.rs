//! Doubles of what is plugged in, for the tests of the rooms: all in memory, each scripted by its test.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kloros_supervision::{Backoff, ChildSpec, Intensity, Strategy, Tree, TreeSpec};

use crate::{
    config::Catalogue,
    env_file,
    facts::{
        Apply, Authority, Autonomy, BenchSpec, Budget, Change, CycleId, Deployment, DeploymentId, Direction, Domain,
        Entry, Experiment, ExperimentId, ExperimentSpec, Fact, FailureKind, InPlace, Incarnation, Isolation, Key, Kind,
        Knob, KnobKind, Manager, Measurement, MetricSpec, Metrics, Origin, Others, Promotion, PromotionId, Question,
        QuestionId, ReadBack, Ready, Reason, Recorded, Room, Ruled, ServiceSpec, Settings, Stage, Step, Stop, TELLING,
        TrialFailure, Value, Verdict, is_open, stages,
    },
    seams::{
        Alone, Appended, Assignment, Bench, Capacity, Claimed, Clock, EnvFile, EnvStore, EnvStoreError, Guard, Journal,
        JournalError, NoteError, Notes, PendingStore, Query, Seams, ServiceControl, ServiceError, StopSwitch, Terms,
        Turn,
    },
};

/// Longer than anything here takes.
pub(crate) const SOON: Duration = Duration::from_secs(300);

/// Everything that is plugged in, and the hands to play with it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) journal: Arc<MemoryJournal>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) bench: Arc<ScriptedBench>,
    pub(crate) env: Arc<MemoryEnv>,
    pub(crate) services: Arc<ScriptedServices>,
    pub(crate) pending: Arc<MemoryPending>,
    pub(crate) guard: Arc<MemoryGuard>,
    pub(crate) switch: Arc<ScriptedSwitch>,
    pub(crate) notes: Arc<MemoryNotes>,
    pub(crate) capacity: Arc<ScriptedCapacity>,
}

impl World {
    /// Returns a world whose env file holds `text`, and whose service runs with it.
    pub(crate) fn with_env(text: &str) -> Self {
        let env = Arc::new(MemoryEnv::holding(text));
        let services = Arc::new(ScriptedServices::reading(&env));
        let bench = Arc::new(ScriptedBench::default());
        Self {
            journal: Arc::default(),
            clock: Arc::new(ManualClock(AtomicU64::new(1_000_000), AtomicI32::new(0))),
            bench,
            env,
            services,
            pending: Arc::default(),
            guard: Arc::default(),
            switch: Arc::default(),
            notes: Arc::default(),
            capacity: Arc::default(),
        }
    }

    pub(crate) fn seams(&self) -> Seams {
        Seams {
            journal: self.journal.clone(),
            clock: self.clock.clone(),
            bench: self.bench.clone(),
            env: self.env.clone(),
            services: self.services.clone(),
            pending: self.pending.clone(),
            guard: self.guard.clone(),
            switch: self.switch.clone(),
            notes: self.notes.clone(),
            capacity: self.capacity.clone(),
        }
    }

    /// Returns where the only deployment stands.
    pub(crate) fn stage(&self) -> Stage {
        let mut found = stages(self.journal.facts(&[Kind::Deployment, Kind::Step]));
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0).1
    }

    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let verdict = |fact| match fact {
            Fact::Verdict(verdict) => Some(verdict),
            _ => None,
        };
        self.journal.facts(&[Kind::Verdict]).into_iter().filter_map(verdict).collect()
    }

    /// Returns how many questions ended, and how.
    pub(crate) fn ends(&self) -> Vec<String> {
        let end = |fact| match fact {
            Fact::QuestionEnd(end) => Some(end.how),
            _ => None,
        };
        self.journal.facts(&[Kind::QuestionEnd]).into_iter().filter_map(end).collect()
    }

    /// Writes facts as if a room had, before the one under test.
    pub(crate) fn write(&self, facts: Vec<Fact>) {
        let at_ms = self.clock.now_ms();
        let entries = facts.into_iter().map(|fact| Entry::new(&cycle(), at_ms, fact)).collect();
        self.journal.write(entries).unwrap();
    }

    /// Writes a deployment that took these steps.
    pub(crate) fn write_deployment(&self, deployment: &Deployment, steps: &[Step]) {
        let id = deployment.id.clone();
        let name = format!("deployment:{id}");
        let fact = Fact::Deployment(deployment.clone());
        self.journal.write(vec![Entry::once(&cycle(), deployment.at_ms, name, fact)]).unwrap();
        self.write(steps.iter().map(|step| Fact::Step { deployment: id.clone(), step: step.clone() }).collect());
    }
}

/// A machine that has as much room as a test says; without a word of it, nothing is known.
#[derive(Default)]
pub(crate) struct ScriptedCapacity(pub(crate) Mutex<Room>);

#[async_trait]
impl Capacity for ScriptedCapacity {
    async fn room(&self, _: &[&Domain]) -> Room {
        self.0.lock().unwrap().clone()
    }
}

/// Notes in memory, which a test may damage.
#[derive(Default)]
pub(crate) struct MemoryNotes(pub(crate) Mutex<BTreeMap<String, Vec<u8>>>);

#[async_trait]
impl Notes for MemoryNotes {
    async fn keep(&self, name: &str, bytes: Vec<u8>) -> Result<(), NoteError> {
        self.0.lock().unwrap().insert(name.to_owned(), bytes);
        Ok(())
    }

    async fn kept(&self, name: &str) -> Result<Option<Vec<u8>>, NoteError> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }

    async fn discard(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }
}

#[derive(Default)]
pub(crate) struct MemoryJournal(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    recorded: Vec<Recorded>,
    once: BTreeSet<String>,
    appends: usize,
    fails_at: Option<usize>,
    broken: bool,
    damaged: bool,
}

impl MemoryJournal {
    /// The append with this number, counted from now and from 1, fails, and all after it until it is mended.
    pub(crate) fn break_at(&self, append: usize) {
        let mut pages = self.0.lock().unwrap();
        pages.fails_at = Some(pages.appends + append);
    }

    pub(crate) fn mend(&self) {
        let mut pages = self.0.lock().unwrap();
        (pages.fails_at, pages.broken, pages.damaged) = (None, false, false);
    }

    /// From now on nothing can be read or written, and whoever looks is told, until it is mended.
    pub(crate) fn damage(&self) {
        let mut pages = self.0.lock().unwrap();
        (pages.broken, pages.damaged) = (true, true);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.0.lock().unwrap().broken
    }

    pub(crate) fn facts(&self, kinds: &[Kind]) -> Vec<Fact> {
        let pages = self.0.lock().unwrap();
        let facts = pages.recorded.iter().map(|recorded| recorded.fact.clone());
        facts.filter(|fact| kinds.contains(&fact.kind())).collect()
    }

    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.facts(&[kind]).len()
    }

    fn write(&self, entries: Vec<Entry>) -> Result<Vec<Appended>, JournalError> {
        let mut pages = self.0.lock().unwrap();
        pages.appends += 1;
        if pages.broken || pages.fails_at == Some(pages.appends) {
            pages.broken = true;
            return Err(JournalError::Unwritable("no space left on device".to_owned()));
        }
        let mut written = Vec::new();
        for Entry { cycle, at_ms, fact, once } in entries {
            if once.is_some_and(|name| !pages.once.insert(name)) {
                written.push(Appended::Already);
                continue;
            }
            let seq = pages.recorded.len() as u64 + 1;
            pages.recorded.push(Recorded { seq, cycle, at_ms, fact });
            written.push(Appended::At(seq));
        }
        Ok(written)
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn append(&self, entries: Vec<Entry>) -> Result<Vec<Appended>, JournalError> {
        self.write(entries)
    }

    async fn read(&self, query: Query) -> Result<Vec<Recorded>, JournalError> {
        self.check()?;
        let pages = self.0.lock().unwrap();
        let open = |subject: &str| {
            let about = pages.recorded.iter().map(|recorded| &recorded.fact);
            let about = about.filter(|fact| fact.subject() == subject && TELLING.contains(&fact.kind()));
            is_open(about.cloned().collect())
        };
        let fits = |recorded: &&Recorded| {
            (query.kinds.is_empty() || query.kinds.contains(&recorded.fact.kind()))
                && query.subject.as_ref().is_none_or(|subject| subject == recorded.fact.subject())
                && query.cycle.as_ref().is_none_or(|cycle| *cycle == recorded.cycle)
                && recorded.seq > query.after
                && (!query.open || open(recorded.fact.subject()))
        };
        let mut found: Vec<Recorded> = pages.recorded.iter().filter(fits).cloned().collect();
        if query.newest_first {
            found.reverse();
        }
        found.truncate(if query.limit == 0 { Query::LIMIT_DEFAULT } else { query.limit });
        Ok(found)
    }

    fn check(&self) -> Result<(), JournalError> {
        let damaged = self.0.lock().unwrap().damaged;
        if damaged { Err(JournalError::Damaged("it was removed".to_owned())) } else { Ok(()) }
    }
}

pub(crate) struct ManualClock(AtomicU64, AtomicI32);

impl ManualClock {
    pub(crate) fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn utc_offset_s(&self) -> i32 {
        self.1.load(Ordering::SeqCst)
    }
}

/// A switch that the test pulls.
#[derive(Default)]
pub(crate) struct ScriptedSwitch(Mutex<Option<Stop>>);

impl ScriptedSwitch {
    /// A person stops everything.
    pub(crate) fn stop(&self, why: &str) {
        *self.0.lock().unwrap() = Some(Stop { why: why.to_owned(), by_uid: Some(1000) });
    }

    /// A person lets everything go on.
    pub(crate) fn go(&self) {
        *self.0.lock().unwrap() = None;
    }
}

impl StopSwitch for ScriptedSwitch {
    fn stopped(&self) -> Option<Stop> {
        self.0.lock().unwrap().clone()
    }
}

type Script = Box<dyn Fn(&Assignment) -> Result<Metrics, TrialFailure> + Send + Sync>;

/// A bench that measures what its script says; without one, more sequences are faster.
#[derive(Default)]
pub(crate) struct ScriptedBench {
    script: Mutex<Option<Arc<Script>>>,
    hangs: AtomicBool,
    labels: Mutex<Vec<String>>,
    /// What others do during the next measurements.
    others: Mutex<VecDeque<Others>>,
    /// What each measurement was told to be usual.
    usual: Mutex<Vec<Option<Others>>>,
    dropped: Arc<AtomicU64>,
    /// Whose turn to measure is kept.
    reserved: Mutex<Option<DeploymentId>>,
    /// Why nobody gets a turn.
    busy: Mutex<Option<TrialFailure>>,
    hesitates: AtomicBool,
    turns: AtomicU64,
    refused: AtomicU64,
}

impl ScriptedBench {
    /// From now on whoever wants a turn to measure is told that there is none, or gets one again.
    pub(crate) fn busy(&self, failure: Option<TrialFailure>) {
        *self.busy.lock().unwrap() = failure;
    }

    /// Returns how many got no turn to measure.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    /// Returns how many got a turn to measure.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }

    /// From now on whoever wants a turn waits for it for ever, until told otherwise.
    pub(crate) fn hesitate(&self, hesitates: bool) {
        self.hesitates.store(hesitates, Ordering::SeqCst);
    }

    /// Returns whose turn to measure is kept.
    pub(crate) fn reserved(&self) -> Option<DeploymentId> {
        self.reserved.lock().unwrap().clone()
    }

    pub(crate) fn script(&self, script: impl Fn(&Assignment) -> Result<Metrics, TrialFailure> + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Some(Arc::new(Box::new(script)));
    }

    /// From now on nothing that is begun ends, until told otherwise.
    pub(crate) fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    /// Others use so much of the CPUs during the next measurements.
    pub(crate) fn others(&self, cpu: &[f64]) {
        let others = |cpu: &f64| Others { cpu: Some(*cpu), ..Others::default() };
        *self.others.lock().unwrap() = cpu.iter().map(others).collect();
    }

    /// Returns what each measurement was told that others usually use of the CPUs.
    pub(crate) fn usual(&self) -> Vec<Option<f64>> {
        self.usual.lock().unwrap().iter().map(|usual| usual.and_then(|usual| usual.cpu)).collect()
    }

    /// Returns the labels of what was begun, in order.
    pub(crate) fn begun(&self) -> Vec<String> {
        self.labels.lock().unwrap().clone()
    }

    /// Returns how many measurements were dropped before their end.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::SeqCst)
    }
}

struct CountsDrop(Arc<AtomicU64>);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Bench for ScriptedBench {
    async fn measure(&self, _: &Domain, assignment: Assignment) -> Result<Measurement, TrialFailure> {
        self.labels.lock().unwrap().push(assignment.label.clone());
        if self.hangs.load(Ordering::SeqCst) {
            let _instance = CountsDrop(Arc::clone(&self.dropped));
            let late = |_| TrialFailure { kind: FailureKind::TimedOut, detail: "it hangs".to_owned() };
            tokio::time::timeout(assignment.within, std::future::pending::<()>()).await.map_err(late)?;
        }
        let script = self.script.lock().unwrap().clone();
        let metrics = match script {
            Some(script) => script(&assignment)?,
            None => rate(10.0 * number(&assignment.settings, "SEQS"), &assignment),
        };
        let in_effect = assignment.settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let others = self.others.lock().unwrap().pop_front();
        self.usual.lock().unwrap().push(assignment.usual);
        let (source, discarded) = ("a script".into(), 0);
        Ok(Measurement { metrics, samples: 50, window_ms: 1000, in_effect, source, at_ms: 0, others, discarded })
    }

    async fn reserve(&self, deployment: &DeploymentId) -> Result<(), TrialFailure> {
        if let Some(failure) = self.busy.lock().unwrap().clone() {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(failure);
        }
        while self.hesitates.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        *self.reserved.lock().unwrap() = Some(deployment.clone());
        self.turns.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn keep(&self, deployments: &[DeploymentId]) {
        self.reserved.lock().unwrap().take_if(|of| !deployments.contains(of));
    }

    async fn turn(&self, _: &Domain, _: &Assignment) -> Result<Box<dyn Turn>, TrialFailure> {
        match self.busy.lock().unwrap().clone() {
            Some(failure) => Err(failure),
            None => Ok(Box::new(OwnTurn)),
        }
    }

    async fn measure_serving(
        &self,
        domain: &Domain,
        assignment: &Assignment,
        _: &str,
    ) -> Result<Measurement, TrialFailure> {
        self.measure(domain, assignment.clone()).await
    }
}

/// A turn that nobody else has.
struct OwnTurn;

impl Turn for OwnTurn {
    fn is_whole(&self) -> bool {
        true
    }
}

/// Returns the value of a knob, or what it is by default.
pub(crate) fn number(settings: &Settings, name: &str) -> f64 {
    settings.get(&key(name)).and_then(Value::as_number).unwrap_or(2.0)
}

/// Returns a rate that is off by less than a thousandth, as no real measurement is quite the same twice.
pub(crate) fn rate(rate: f64, assignment: &Assignment) -> Metrics {
    let digits = crate::facts::short_hash(&[&assignment.label]);
    let noise = f64::from(u32::from_str_radix(&digits, 16).unwrap() % 1000) / 1_000_000.0;
    Metrics::from([("rate".to_owned(), rate * (1.0 + noise))])
}

pub(crate) fn failure(kind: FailureKind) -> TrialFailure {
    TrialFailure { kind, detail: "as the script says".to_owned() }
}

/// One env file.
pub(crate) struct MemoryEnv {
    bytes: Mutex<Vec<u8>>,
    /// What a person writes into it before the read with this number, counted from 1.
    edit: Mutex<Option<(usize, String)>>,
    reads: AtomicU64,
    refuses: AtomicBool,
    reserved: AtomicBool,
    gone: AtomicBool,
}

impl MemoryEnv {
    fn holding(text: &str) -> Self {
        let bytes = Mutex::new(text.as_bytes().to_vec());
        let [refuses, reserved, gone] = [(); 3].map(|()| AtomicBool::new(false));
        Self { bytes, edit: Mutex::default(), reads: AtomicU64::new(0), refuses, reserved, gone }
    }

    /// A person removes the file, with all that stood in it.
    pub(crate) fn remove(&self) {
        self.set("");
        self.gone.store(true, Ordering::SeqCst);
    }

    /// Returns whether the file is there.
    pub(crate) fn is_there(&self) -> bool {
        !self.gone.load(Ordering::SeqCst)
    }

    /// Returns whether space is set aside for an undo.
    pub(crate) fn is_reserved(&self) -> bool {
        self.reserved.load(Ordering::SeqCst)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }

    /// A person writes the file.
    pub(crate) fn set(&self, text: &str) {
        self.gone.store(false, Ordering::SeqCst);
        *self.bytes.lock().unwrap() = text.as_bytes().to_vec();
    }

    /// A person writes the file just before the read with this number, counted from now and from 1.
    pub(crate) fn set_before_read(&self, read: usize, text: &str) {
        *self.edit.lock().unwrap() = Some((self.reads.load(Ordering::SeqCst) as usize + read, text.to_owned()));
    }

    pub(crate) fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }
}

#[async_trait]
impl EnvStore for MemoryEnv {
    async fn read(&self, _: &Path) -> Result<EnvFile, EnvStoreError> {
        let read = self.reads.fetch_add(1, Ordering::SeqCst) as usize + 1;
        let edit = self.edit.lock().unwrap().take_if(|(at, _)| *at == read);
        if let Some((_, text)) = edit {
            self.set(&text);
        }
        Ok(EnvFile { bytes: self.bytes.lock().unwrap().clone(), exists: self.is_there() })
    }

    async fn replace(&self, path: &Path, expected: &EnvFile, bytes: Vec<u8>) -> Result<(), EnvStoreError> {
        let path = path.display().to_string();
        if self.refuses.load(Ordering::SeqCst) {
            return Err(EnvStoreError::Write { path, why: "no space left on device".to_owned() });
        }
        let mut held = self.bytes.lock().unwrap();
        if *held != expected.bytes {
            return Err(EnvStoreError::Raced { path });
        }
        *held = bytes;
        self.gone.store(false, Ordering::SeqCst);
        Ok(())
    }

    async fn reserve(&self, path: &Path, _: usize) -> Result<(), EnvStoreError> {
        if self.refuses.load(Ordering::SeqCst) {
            let path = path.display().to_string();
            return Err(EnvStoreError::Write { path, why: "no space left on device".to_owned() });
        }
        self.reserved.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn release(&self, _: &Path) -> Result<(), EnvStoreError> {
        self.reserved.store(false, Ordering::SeqCst);
        Ok(())
    }
}

type RestartScript = Box<dyn FnMut(&str) -> Result<(), ServiceError> + Send>;

/// A service that runs with what its env file held when it was last restarted.
pub(crate) struct ScriptedServices {
    env: Arc<MemoryEnv>,
    running: Mutex<BTreeMap<String, String>>,
    restarts: AtomicU64,
    script: Mutex<Option<RestartScript>>,
    says: Mutex<Option<Saying>>,
    /// What it says of itself from its next restart on.
    will_say: Mutex<Option<Saying>>,
    /// What it takes where the env file is silent.
    defaults: Mutex<BTreeMap<String, String>>,
    /// How often it was started, by whomever.
    lives: AtomicU64,
    /// From which restart on its supervisor starts it no more, until it is forgiven; 0 for never.
    limited: AtomicU64,
    forgiven: AtomicU64,
    /// How often it still answers well before it ails once, and how.
    ails_after: Mutex<Option<(u32, Ailment)>>,
    /// The line of an env file that its check refuses.
    refuses: Mutex<Option<String>>,
}

/// What can be wrong with a service for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ailment {
    /// It says that it is not ready.
    Hiccup,
    /// It dies, and somebody starts it again at once.
    Death,
}

/// What a service says of itself.
type Saying = Result<BTreeMap<String, String>, ServiceError>;

impl ScriptedServices {
    fn reading(env: &Arc<MemoryEnv>) -> Self {
        let services = Self {
            env: Arc::clone(env),
            running: Mutex::default(),
            restarts: AtomicU64::new(0),
            script: Mutex::default(),
            says: Mutex::default(),
            will_say: Mutex::default(),
            defaults: Mutex::new([("SEQS", "2"), ("WAIT", "20")].map(|(key, text)| (key.into(), text.into())).into()),
            lives: AtomicU64::new(1),
            limited: AtomicU64::new(0),
            forgiven: AtomicU64::new(0),
            ails_after: Mutex::default(),
            refuses: Mutex::default(),
        };
        services.load();
        services
    }

    /// A person restarts the service.
    pub(crate) fn load(&self) {
        let variables = env_file::variables(self.env.text().as_bytes()).unwrap();
        let mut running = self.defaults.lock().unwrap().clone();
        running.extend(variables.into_iter().map(|(key, text)| (key.to_string(), text)));
        *self.running.lock().unwrap() = running;
    }

    /// Its supervisor starts it so many times more, and then no more until it is forgiven.
    pub(crate) fn limit_starts(&self, starts: u64) {
        self.limited.store(self.restarts() + starts + 1, Ordering::SeqCst);
    }

    /// Returns how often it was forgiven.
    pub(crate) fn forgiven(&self) -> u64 {
        self.forgiven.load(Ordering::SeqCst)
    }

    /// What a restart does, given the text of the env file; the service runs with it when it is `Ok`.
    pub(crate) fn script(&self, script: impl FnMut(&str) -> Result<(), ServiceError> + Send + 'static) {
        *self.script.lock().unwrap() = Some(Box::new(script));
    }

    /// Its check refuses env files with this line.
    pub(crate) fn refuse(&self, line: &str) {
        *self.refuses.lock().unwrap() = Some(line.to_owned());
    }

    /// The service says this of itself, whatever it runs with.
    pub(crate) fn say(&self, says: Option<Saying>) {
        *self.says.lock().unwrap() = says;
    }

    /// The service says this of itself once it was restarted.
    pub(crate) fn say_after_restart(&self, says: Saying) {
        *self.will_say.lock().unwrap() = Some(says);
    }

    /// The service takes this where the env file is silent, whatever the domain file takes for its default, and runs with
    /// it already.
    pub(crate) fn set_default(&self, key: &str, text: &str) {
        self.defaults.lock().unwrap().insert(key.to_owned(), text.to_owned());
        self.load();
    }

    /// The service dies and somebody starts it again at once.
    pub(crate) fn die(&self) {
        self.lives.fetch_add(1, Ordering::SeqCst);
    }

    /// The service answers so often that it is ready, then ails once.
    pub(crate) fn ail_after(&self, answers: u32, ailment: Ailment) {
        *self.ails_after.lock().unwrap() = Some((answers, ailment));
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::SeqCst)
    }

    /// Returns whether the service runs with what its env file holds.
    pub(crate) fn agrees_with_env(&self) -> bool {
        let running = self.running.lock().unwrap().clone();
        self.load();
        running == *self.running.lock().unwrap()
    }
}

#[async_trait]
impl ServiceControl for ScriptedServices {
    async fn accepts(&self, _: &Domain, env_file: &[u8]) -> Result<(), ServiceError> {
        let refused = self.refuses.lock().unwrap().clone();
        let text = String::from_utf8_lossy(env_file).into_owned();
        match refused.filter(|refused| text.lines().any(|line| line == refused)) {
            Some(line) => Err(ServiceError::Refused(format!("it knows no {line}"))),
            None => Ok(()),
        }
    }

    async fn restart(&self, _: &Domain) -> Result<(), ServiceError> {
        let restarts = self.restarts.fetch_add(1, Ordering::SeqCst) + 1;
        let limited = self.limited.load(Ordering::SeqCst);
        if limited > 0 && restarts >= limited {
            return Err(ServiceError::DidNotStart("it hit its start limit".to_owned()));
        }
        if let Some(script) = self.script.lock().unwrap().as_mut() {
            script(&self.env.text())?;
        }
        if let Some(says) = self.will_say.lock().unwrap().take() {
            self.say(Some(says));
        }
        self.lives.fetch_add(1, Ordering::SeqCst);
        self.load();
        Ok(())
    }

    async fn forgive(&self, _: &Domain) -> Result<bool, ServiceError> {
        let was_limited = self.limited.swap(0, Ordering::SeqCst) > 0;
        self.forgiven.fetch_add(u64::from(was_limited), Ordering::SeqCst);
        Ok(was_limited)
    }

    async fn in_effect(&self, _: &Domain) -> Result<BTreeMap<String, String>, ServiceError> {
        let says = self.says.lock().unwrap().clone();
        says.unwrap_or_else(|| Ok(self.running.lock().unwrap().clone()))
    }

    async fn healthy(&self, _: &Domain) -> Result<(), ServiceError> {
        let mut ails_after = self.ails_after.lock().unwrap();
        if let Some((answers, ailment)) = ails_after.take() {
            match (answers, ailment) {
                (0, Ailment::Hiccup) => return Err(ServiceError::NotReady("it hiccups".to_owned())),
                (0, Ailment::Death) => self.die(),
                (answers, ailment) => *ails_after = Some((answers - 1, ailment)),
            }
        }
        Ok(())
    }

    async fn incarnation(&self, _: &Domain) -> Result<Option<Incarnation>, ServiceError> {
        Ok(Some(Incarnation::new(format!("run {}", self.lives.load(Ordering::SeqCst)))))
    }

    fn address(&self, _: &Domain) -> Option<String> {
        Some("http://127.0.0.1:1".to_owned())
    }
}

#[derive(Default)]
pub(crate) struct MemoryPending {
    texts: Mutex<BTreeMap<String, String>>,
    claimed: Mutex<Option<Claimed>>,
    extensions: Mutex<Vec<Duration>>,
    refuses: AtomicBool,
}

impl MemoryPending {
    pub(crate) fn text(&self) -> Option<String> {
        self.texts.lock().unwrap().get("lab").cloned()
    }

    pub(crate) fn set(&self, text: Option<String>) {
        let mut texts = self.texts.lock().unwrap();
        texts.clear();
        texts.extend(text.map(|text| ("lab".to_owned(), text)));
    }

    pub(crate) fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Somebody outside takes over what is armed, and has undone it or is about to.
    pub(crate) fn claim(&self, deployment: &DeploymentId, is_undone: bool) {
        let text = self.texts.lock().unwrap().remove("lab").unwrap();
        *self.claimed.lock().unwrap() = Some(Claimed { deployment: deployment.clone(), text, is_undone });
    }

    /// Returns the text of what somebody outside took over.
    pub(crate) fn taken_over(&self) -> String {
        self.claimed.lock().unwrap().as_ref().unwrap().text.clone()
    }

    /// Returns how far the deadline was put off, each time.
    pub(crate) fn extensions(&self) -> Vec<Duration> {
        self.extensions.lock().unwrap().clone()
    }
}

#[async_trait]
impl PendingStore for MemoryPending {
    async fn arm(&self, domain: &str, text: String, _: Terms) -> Result<(), EnvStoreError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(EnvStoreError::Write { path: domain.to_owned(), why: "no space left on device".to_owned() });
        }
        self.texts.lock().unwrap().insert(domain.to_owned(), text);
        *self.claimed.lock().unwrap() = None;
        Ok(())
    }

    async fn armed(&self, domain: &str) -> Result<Option<String>, EnvStoreError> {
        Ok(self.texts.lock().unwrap().get(domain).cloned())
    }

    async fn claimed(&self, _: &str) -> Result<Option<Claimed>, EnvStoreError> {
        Ok(self.claimed.lock().unwrap().clone())
    }

    async fn extend(&self, within: Duration) -> Result<(), EnvStoreError> {
        self.extensions.lock().unwrap().push(within);
        Ok(())
    }

    async fn disarm(&self, domain: &str) -> Result<(), EnvStoreError> {
        self.texts.lock().unwrap().remove(domain);
        *self.claimed.lock().unwrap() = None;
        Ok(())
    }
}

/// A guard that watches when it is told to, unless it cannot.
#[derive(Default)]
pub(crate) struct MemoryGuard {
    watches: Mutex<Vec<String>>,
    refuses: AtomicBool,
    acts: AtomicBool,
    held: Arc<AtomicU64>,
}

struct Held(Arc<AtomicU64>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl MemoryGuard {
    /// From now on somebody outside undoes something, until told otherwise.
    pub(crate) fn act(&self, acts: bool) {
        self.acts.store(acts, Ordering::SeqCst);
    }

    /// Returns whether the room under test keeps everybody outside from undoing.
    pub(crate) fn is_kept_out(&self) -> bool {
        self.held.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn refuse(&self) {
        self.refuses.store(true, Ordering::SeqCst);
    }

    /// The process that watches dies.
    pub(crate) fn die(&self) {
        self.watches.lock().unwrap().clear();
    }

    /// Returns over which deployments it was set, and not yet relieved.
    pub(crate) fn watches(&self) -> Vec<String> {
        self.watches.lock().unwrap().clone()
    }
}

#[async_trait]
impl Guard for MemoryGuard {
    async fn watch(&self, _: &str, deployment: &DeploymentId) -> Result<(), String> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err("it does not start".to_owned());
        }
        self.watches.lock().unwrap().push(deployment.to_string());
        Ok(())
    }

    async fn is_watched(&self, _: &str, deployment: &DeploymentId) -> bool {
        self.watches().contains(&deployment.to_string())
    }

    async fn relieve(&self, _: &str) {
        self.watches.lock().unwrap().clear();
    }

    async fn alone(&self) -> Result<Alone, String> {
        while self.acts.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        let held = Arc::clone(&self.held);
        held.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Held(held)))
    }
}

/// Starts a house with one room that is restarted as often as it fails.
pub(crate) async fn house(room: ChildSpec) -> Tree {
    let intensity = Intensity { restarts_max: 10_000, within: Duration::from_secs(60) };
    let wait = Duration::from_millis(1);
    let backoff = Backoff { first: wait, max: wait, jitter_ratio: 0.0, healthy_after: Duration::from_secs(60) };
    let spec = TreeSpec::new("house", Strategy::OneForOne).intensity(intensity).child(room.backoff(backoff));
    kloros_supervision::start(spec).await.unwrap()
}

/// Waits until everything that was sent is heard, and stops the house: a stop overtakes what still waits.
pub(crate) async fn finish(tree: &Tree) {
    eventually(|| tree.snapshot().walk().iter().all(|branch| branch.depth == 0)).await;
    tree.stop(SOON).await.unwrap();
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually<F: FnMut() -> bool>(mut condition: F) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let holds = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(tokio::time::timeout(SOON, holds).await.is_ok(), "never came true: {place}");
    }
}

pub(crate) fn cycle() -> CycleId {
    CycleId::new("c-1")
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// Returns a domain with two knobs and one metric.
pub(crate) fn domain(name: &str) -> Domain {
    let knob = |min, max, default| Knob {
        range: KnobKind::Integer { min, max, log: false, step: None },
        default: Value::Integer(default),
        apply: Apply::Restart,
        step_max: None,
        reversible: true,
        relieves: Vec::new(),
        trades: None,
        takes: None,
    };
    Domain {
        name: name.into(),
        risk: None,
        isolation: Isolation::Shadow,
        in_place: None,
        service: ServiceSpec::of(
            Manager::Child,
            Vec::new(),
            PathBuf::from(".kloros_env"),
            Ready::http("/health", 1, 1),
            ReadBack::ProcEnviron,
        ),
        knobs: [(key("SEQS"), knob(1, 64, 2)), (key("WAIT"), knob(0, 100, 20))].into(),
        bench: BenchSpec::Command { argv: Vec::new(), timeout_s: 1 },
        metrics: [("rate".to_owned(), MetricSpec { direction: Direction::Up, weight: 1.0, guard: None })].into(),
        objectives: Vec::new(),
        quiet: None,
        needs: None,
    }
}

pub(crate) fn spec() -> ExperimentSpec {
    ExperimentSpec {
        name: "lab_tuning".into(),
        domain: "lab".into(),
        search_space: [
            ("seqs".to_owned(), KnobKind::Integer { min: 1, max: 64, log: false, step: None }.into()),
            ("wait".to_owned(), KnobKind::Integer { min: 0, max: 100, log: false, step: None }.into()),
        ]
        .into(),
        constraints: Vec::new(),
        forbidden: Vec::new(),
        metrics: [("rate".to_owned(), Direction::Up)].into(),
        param_mapping: [("seqs".to_owned(), key("SEQS")), ("wait".to_owned(), key("WAIT"))].into(),
        budget: Budget::of(4, 2),
    }
}

pub(crate) fn catalogue() -> Arc<Catalogue> {
    Arc::new(Catalogue {
        domains: [("lab".to_owned(), domain("lab"))].into(),
        experiments: [("lab_tuning".to_owned(), spec())].into(),
    })
}

/// Returns a catalogue whose domain is measured in place, in this window.
pub(crate) fn in_place(window: &str) -> Arc<Catalogue> {
    let limits = InPlace {
        windows: vec![window.parse().unwrap()],
        candidate_max_s: 60,
        session_max_s: 3600,
        restarts_per_hour_max: 30,
    };
    let domain = Domain { isolation: Isolation::InPlace, in_place: Some(limits), ..domain("lab") };
    Arc::new(Catalogue {
        domains: [("lab".to_owned(), domain)].into(),
        experiments: [("lab_tuning".to_owned(), spec())].into(),
    })
}

pub(crate) const HYPOTHESIS: &str = "LAB_LATENCY_DEGRADATION";

pub(crate) fn question(number: u32) -> Question {
    Question {
        question_id: QuestionId::new(format!("lab.latency_degradation.{number:03}")),
        hypothesis: HYPOTHESIS.into(),
        dream_experiment: spec(),
        cycle: cycle(),
        evidence: Vec::new(),
        interest: 0.5,
        at_ms: 0,
        depth: 0,
    }
}

pub(crate) fn experiment() -> Experiment {
    let question = question(1);
    Experiment {
        id: ExperimentId::new(format!("x-{}", question.question_id)),
        question: question.question_id,
        hypothesis: question.hypothesis,
        cycle: cycle(),
        spec: spec(),
        measured_by: None,
        seed: 7,
        at_ms: 0,
        depth: 0,
        objective: domain("lab").metrics,
    }
}

/// Returns a promotion that turns `SEQS=2` and the default of `WAIT` into `to`.
pub(crate) fn promotion(to: &[(&str, i64)]) -> Promotion {
    let change = |(name, to): &(&str, i64)| {
        let in_file = *name == "SEQS";
        let from = Some(Value::Integer(if in_file { 2 } else { 20 }));
        (key(name), Change { from, in_file, to: Value::Integer(*to) })
    };
    let changes: BTreeMap<Key, Change> = to.iter().map(change).collect();
    Promotion {
        id: Promotion::identity("lab", "lab_tuning", &cycle(), &changes, None),
        cycle: cycle(),
        origin: Origin::Experiment(experiment().id),
        experiment: "lab_tuning".into(),
        question: Some(question(1).question_id),
        hypothesis: Some(HYPOTHESIS.into()),
        domain: "lab".into(),
        settings: to.iter().map(|(name, to)| (key(name), Value::Integer(*to))).collect(),
        changes,
        replaces: None,
        fitness: Some(1.0),
        at_ms: 0,
        depth: 0,
    }
}

pub(crate) fn deployment_of(promotion: Promotion) -> Deployment {
    let digits = PromotionId::as_str(&promotion.id).trim_start_matches("p-").to_owned();
    let authority = Authority::Policy(Autonomy::Trusted);
    Deployment { id: DeploymentId::new(format!("d-{digits}")), promotion, authority, at_ms: 1_000_000 }
}

/// Returns the verdict that undoes `deployment` for this reason.
pub(crate) fn rollback(deployment: &Deployment, reason: Reason) -> Verdict {
    let promotion = &deployment.promotion;
    Verdict {
        deployment: deployment.id.clone(),
        cycle: promotion.cycle.clone(),
        experiment: promotion.experiment.clone(),
        domain: promotion.domain.clone(),
        question: promotion.question.clone(),
        hypothesis: promotion.hypothesis.clone(),
        changes: promotion.changes.clone(),
        outcome: Ruled::Rollback,
        reason,
        improvement: None,
        before: Metrics::new(),
        after: Metrics::new(),
        blocks: 6,
        samples: 100,
        runs: 0,
        baseline: None,
        at_ms: 1_000_000,
    }
}
