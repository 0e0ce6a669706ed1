//! The loop closes here: the supervision tree, and one line per arrow.
//!
//! ```text
//!  monitors -> observer -> curiosity -> coordinator -> experiments
//!                 ^            ^             |
//!                 |            |             v  (settings that won, or that a person proposes)
//!              feedback <-- validator <-- deployer <-> gate
//! ```
//!
//! The only file that knows two rooms. A room says what it has to say through its own `Exits`; what they lead to is
//! decided here.

use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use kloros_supervision::{
    Branch, ChildExit, ChildSpec, Ended, Event, Exit, Intensity, Nursery, Outlet, Restart, Shutdown, Socket,
    StartError, StopTimeout, Strategy, Tree, TreeSpec,
};
use tokio::sync::broadcast;

use crate::{
    config::{Catalogue, Config},
    coordinator, curiosity, deployer, dream,
    facts::{
        Answer, CycleId, DeploymentId, Experiment, Intent, Origin, Promotion, PromotionId, Proposal, Settings, Verdict,
        short_hash,
    },
    feedback, gate, gpu, memory, observer,
    seams::{Planning, Probe, Seams},
    validator,
};

/// What the shell plugs into the house.
pub struct Plugs {
    /// The adapters.
    pub seams: Seams,
    /// The domains and experiments.
    pub catalogue: Arc<Catalogue>,
    /// What every room is set to.
    pub config: Config,
    /// The seed of everything random.
    pub seed: u64,
    /// What is read of host and services.
    pub probes: Vec<Arc<dyn Probe>>,
    /// What is read of GPUs.
    pub gpu: Arc<dyn Probe>,
}

/// The house, wired and not yet started.
pub struct Circuit {
    plugs: Plugs,
    sockets: Sockets,
    nursery: Nursery,
    live: Live,
    tree: Arc<OnceLock<Tree>>,
}

/// The settings in force: a room that restarts starts with these, not with those of the boot.
#[derive(Clone)]
struct Live(Arc<RwLock<Config>>);

impl Live {
    fn of<T>(&self, pick: impl FnOnce(&Config) -> T) -> T {
        pick(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone)]
struct Sockets {
    observer: Socket<observer::Msg>,
    curiosity: Socket<curiosity::Msg>,
    coordinator: Socket<coordinator::Msg>,
    gate: Socket<gate::Msg>,
    deployer: Socket<deployer::Msg>,
    validator: Socket<validator::Msg>,
    feedback: Socket<feedback::Msg>,
    memory: Socket<memory::Msg>,
}

/// How long a room may work on one message without progress, unless it is one that restarts services.
const STALL_AFTER: Duration = Duration::from_secs(30);

/// How long the room may that restarts services: as long as the slowest start plus its undo.
const STALL_AFTER_DEPLOYER: Duration = Duration::from_secs(900);

/// How long the supervisor of the experiments may take to be back.
const NURSERY_BACK_WITHIN: Duration = Duration::from_secs(2);

/// How long an answer of a room is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How many restarts a group allows itself before it gives up to its parent.
const INTENSITY: Intensity = Intensity { restarts_max: 10, within: Duration::from_secs(60) };

impl Circuit {
    /// Returns the house with every room's socket in place.
    pub fn new(plugs: Plugs) -> Self {
        let sockets = Sockets {
            observer: Socket::new("observer"),
            curiosity: Socket::new("curiosity"),
            coordinator: Socket::new("coordinator"),
            gate: Socket::new("gate"),
            deployer: Socket::new("deployer"),
            validator: Socket::new("validator"),
            feedback: Socket::new("feedback"),
            memory: Socket::new("memory"),
        };
        let live = Live(Arc::new(RwLock::new(plugs.config.clone())));
        Self { plugs, sockets, nursery: Nursery::new("experiments"), live, tree: Arc::default() }
    }

    /// Returns the handle to the house; what needs a room finds it once the house was started.
    pub fn control(&self) -> Control {
        let (tree, sockets) = (Arc::clone(&self.tree), self.sockets.clone());
        Control { tree, sockets, seams: self.plugs.seams.clone(), live: self.live.clone() }
    }

    /// Starts every room; `store` and `shell` are the shell's own children. Returns when all are up.
    pub async fn start(self, store: Vec<ChildSpec>, shell: Vec<ChildSpec>) -> Result<(), StartError> {
        self.nursery.on_exit(self.sockets.coordinator.outlet(coordinator::Msg::Left));
        let root = TreeSpec::new("kloros", Strategy::OneForOne)
            .intensity(INTENSITY)
            .tree(group("store", Strategy::RestForOne, store))
            // Before the mind: the coordinator sends for unfinished experiments as soon as it is up.
            .tree(
                TreeSpec::new("experiments", Strategy::OneForOne).intensity(INTENSITY).dynamic("trials", &self.nursery),
            )
            .tree(group("mind", Strategy::RestForOne, vec![self.curiosity(), self.coordinator(), self.feedback()]))
            .tree(group("hands", Strategy::RestForOne, vec![self.gate(), self.deployer(), self.validator()]))
            .tree(group("voice", Strategy::OneForOne, vec![self.memory()]))
            .tree(group("senses", Strategy::OneForOne, self.senses()))
            .tree(group("shell", Strategy::OneForOne, shell));
        let tree = kloros_supervision::start(root).await?;
        // A circuit is started once: `start` takes it.
        self.tree.set(tree).ok();
        Ok(())
    }

    fn senses(&self) -> Vec<ChildSpec> {
        let readings = self.sockets.observer.outlet(observer::Msg::Read);
        let config = &self.plugs.config;
        let mut senses = vec![self.observer()];
        for probe in &self.plugs.probes {
            let every = Duration::from_secs_f64(config.observer.sample_every_s);
            senses.push(monitor(probe, every, every, &readings, std::convert::identity));
        }
        let every = Duration::from_secs_f64(config.gpu.sample_every_s);
        let retry = Duration::from_secs_f64(config.gpu.absent_retry_s);
        let pressure = config.gpu.clone();
        senses
            .push(monitor(&self.plugs.gpu, every, retry, &readings, move |read| gpu::with_pressures(read, &pressure)));
        senses
    }

    fn observer(&self) -> ChildSpec {
        let exits = observer::Exits { anomalies: self.sockets.curiosity.outlet(curiosity::Msg::Noticed) };
        let (seams, catalogue) = self.common();
        let live = self.live.clone();
        room(&self.sockets.observer, "observer", STALL_AFTER, move || {
            let (seams, catalogue) = (seams.clone(), Arc::clone(&catalogue));
            let config = live.of(|config| config.observer.clone());
            (observer::Observer, observer::Arguments { seams, exits: exits.clone(), config, catalogue })
        })
    }

    fn curiosity(&self) -> ChildSpec {
        let exits = curiosity::Exits { intents: self.sockets.coordinator.outlet(coordinator::Msg::Intended) };
        let (seams, catalogue) = self.common();
        let live = self.live.clone();
        room(&self.sockets.curiosity, "curiosity", STALL_AFTER, move || {
            let (seams, catalogue) = (seams.clone(), Arc::clone(&catalogue));
            let (exits, config) = (exits.clone(), live.of(|config| config.curiosity.clone()));
            (curiosity::Curiosity, curiosity::Arguments { seams, exits, config, catalogue })
        })
    }

    fn coordinator(&self) -> ChildSpec {
        let exits = coordinator::Exits {
            experiments: self.experiments(),
            proposals: self.sockets.deployer.outlet(deployer::Msg::Proposed),
            ended: self.sockets.curiosity.outlet(curiosity::Msg::Ended),
        };
        let (seams, catalogue) = self.common();
        let (live, seed) = (self.live.clone(), self.plugs.seed);
        room(&self.sockets.coordinator, "coordinator", STALL_AFTER, move || {
            let (seams, catalogue) = (seams.clone(), Arc::clone(&catalogue));
            let (exits, config) = (exits.clone(), live.of(|config| config.coordinator.clone()));
            let rest_s = live.of(|config| config.curiosity.rest_s);
            (coordinator::Coordinator, coordinator::Arguments { seams, exits, config, catalogue, seed, rest_s })
        })
    }

    /// An experiment is a child of its own: it is started when it is sent for.
    fn experiments(&self) -> Outlet<Experiment> {
        let exits = dream::Exits {
            ended: self.sockets.coordinator.outlet(coordinator::Msg::Ended),
            questions: self.sockets.curiosity.outlet(curiosity::Msg::Ended),
        };
        let (seams, catalogue) = self.common();
        let live = self.live.clone();
        let (nursery, left) = (self.nursery.clone(), self.sockets.coordinator.outlet(coordinator::Msg::Left));
        Outlet::to(move |experiment: Experiment| {
            let id = experiment.id.to_string();
            let arguments = dream::Arguments {
                seams: seams.clone(),
                exits: exits.clone(),
                config: live.of(|config| config.dream.clone()),
                catalogue: Arc::clone(&catalogue),
                experiment,
                rest_s: live.of(|config| config.curiosity.rest_s),
            };
            let make = move || (dream::ExperimentActor, arguments.clone());
            let spec = ChildSpec::actor(&id, &Socket::new(&id), make)
                .restart(Restart::Temporary)
                .shutdown(Shutdown::Within(Duration::from_secs(5)))
                .stall_after(STALL_AFTER);
            let (nursery, left) = (nursery.clone(), left.clone());
            tokio::spawn(async move {
                if let Err(error) = nursery.start_child(spec).await {
                    // The nursery may itself be restarting: the coordinator is not told at once, or it would use up all
                    // its resumes in a moment. One that is down finds the experiment without an end when it is back.
                    tokio::time::sleep(NURSERY_BACK_WITHIN).await;
                    left.send(ChildExit { id, exit: Exit::Failed(error.to_string()) }).ok();
                }
            });
        })
    }

    fn feedback(&self) -> ChildSpec {
        let exits = feedback::Exits {
            lessons: vec![
                self.sockets.curiosity.outlet(curiosity::Msg::Learned),
                self.sockets.observer.outlet(observer::Msg::Learned),
                self.sockets.gate.outlet(gate::Msg::Learned),
            ],
            ended: self.sockets.curiosity.outlet(curiosity::Msg::Ended),
        };
        let seams = self.plugs.seams.clone();
        let live = self.live.clone();
        room(&self.sockets.feedback, "feedback", STALL_AFTER, move || {
            let (seams, exits, config) = (seams.clone(), exits.clone(), live.of(|config| config.feedback.clone()));
            (feedback::Feedback, feedback::Arguments { seams, exits, config })
        })
    }

    fn gate(&self) -> ChildSpec {
        let exits = gate::Exits {
            approved: self.sockets.deployer.outlet(deployer::Msg::Cleared),
            ended: self.sockets.curiosity.outlet(curiosity::Msg::Ended),
        };
        let (seams, catalogue) = self.common();
        let live = self.live.clone();
        room(&self.sockets.gate, "gate", STALL_AFTER, move || {
            let (seams, catalogue) = (seams.clone(), Arc::clone(&catalogue));
            let (exits, config) = (exits.clone(), live.of(|config| config.gate.clone()));
            let rest_s = live.of(|config| config.curiosity.rest_s);
            (gate::Gate, gate::Arguments { seams, exits, config, catalogue, rest_s })
        })
    }

    fn deployer(&self) -> ChildSpec {
        let exits = deployer::Exits {
            promotions: self.sockets.gate.outlet(gate::Msg::Proposed),
            deployed: self.sockets.validator.outlet(validator::Msg::Deployed),
            withdrawn: self.sockets.validator.outlet(validator::Msg::Withdrawn),
            verdicts: self.sockets.feedback.outlet(feedback::Msg::Judged),
            ended: self.sockets.curiosity.outlet(curiosity::Msg::Ended),
        };
        let (seams, catalogue) = self.common();
        let live = self.live.clone();
        room(&self.sockets.deployer, "deployer", STALL_AFTER_DEPLOYER, move || {
            let (seams, catalogue) = (seams.clone(), Arc::clone(&catalogue));
            let (exits, config) = (exits.clone(), live.of(|config| config.deployer.clone()));
            let rest_s = live.of(|config| config.curiosity.rest_s);
            (deployer::Deployer, deployer::Arguments { seams, exits, config, catalogue, rest_s })
        })
        // What it does on start is to undo what it left half done, which takes restarts of services.
        .start_within(STALL_AFTER_DEPLOYER)
    }

    fn validator(&self) -> ChildSpec {
        let exits = validator::Exits {
            verdicts: vec![
                self.sockets.deployer.outlet(deployer::Msg::Judged),
                self.sockets.feedback.outlet(feedback::Msg::Judged),
            ],
        };
        let (seams, catalogue) = self.common();
        let live = self.live.clone();
        room(&self.sockets.validator, "validator", STALL_AFTER, move || {
            let (seams, catalogue) = (seams.clone(), Arc::clone(&catalogue));
            let (exits, config) = (exits.clone(), live.of(|config| config.validator.clone()));
            let run_within = Duration::from_secs(live.of(|config| config.dream.trial_timeout_s));
            (validator::Validator, validator::Arguments { seams, exits, config, catalogue, run_within })
        })
    }

    fn memory(&self) -> ChildSpec {
        let (seams, live) = (self.plugs.seams.clone(), self.live.clone());
        room(&self.sockets.memory, "memory", STALL_AFTER, move || {
            let config = live.of(|config| config.memory.clone());
            (memory::Memory, memory::Arguments { seams: seams.clone(), config })
        })
    }

    fn common(&self) -> (Seams, Arc<Catalogue>) {
        (self.plugs.seams.clone(), Arc::clone(&self.plugs.catalogue))
    }
}

fn group(id: &str, strategy: Strategy, children: Vec<ChildSpec>) -> TreeSpec {
    children.into_iter().fold(TreeSpec::new(id, strategy).intensity(INTENSITY), TreeSpec::child)
}

fn room<A: ractor::Actor>(
    socket: &Socket<A::Msg>,
    id: &str,
    stall_after: Duration,
    make: impl Fn() -> (A, A::Arguments) + Send + Sync + 'static,
) -> ChildSpec {
    ChildSpec::actor(id, socket, make).stall_after(stall_after)
}

fn monitor(
    probe: &Arc<dyn Probe>,
    every: Duration,
    absent_retry: Duration,
    readings: &Outlet<Vec<crate::facts::Reading>>,
    refine: impl Fn(Vec<crate::facts::Reading>) -> Vec<crate::facts::Reading> + Send + Sync + 'static,
) -> ChildSpec {
    let refine: observer::Refine = Arc::new(refine);
    let exits = observer::MonitorExits { readings: readings.clone() };
    let id = probe.name();
    let probe = Arc::clone(probe);
    room(&Socket::new(&id), &id, STALL_AFTER, move || {
        let (probe, exits, refine) = (Arc::clone(&probe), exits.clone(), Arc::clone(&refine));
        (observer::Monitor, observer::MonitorArguments { probe, every, absent_retry, exits, refine })
    })
}

/// The running house, as the shell sees it.
#[derive(Clone)]
pub struct Control {
    tree: Arc<OnceLock<Tree>>,
    sockets: Sockets,
    seams: Seams,
    live: Live,
}

/// What a person or the inbox asks for and cannot have.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The room that could do it is down or did not answer.
    #[error("the room did not answer: {0}")]
    Silent(String),
    /// It may not or cannot be done, for this reason.
    #[error("{0}")]
    Refused(String),
}

impl Control {
    /// Returns the tree as it stands now; `None` while the house is still being started.
    pub fn snapshot(&self) -> Option<Branch> {
        self.tree.get().map(Tree::snapshot)
    }

    /// Returns what happens in the tree from now on; `None` while the house is still being started.
    pub fn events(&self) -> Option<broadcast::Receiver<Event>> {
        self.tree.get().map(Tree::events)
    }

    /// Waits until the root has ended, and returns how; for ever while the house is still being started.
    pub async fn ended(&self) -> Ended {
        match self.tree.get() {
            Some(tree) => tree.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Stops every room in order.
    pub async fn stop(&self, within: Duration) -> Result<(), StopTimeout> {
        match self.tree.get() {
            Some(tree) => tree.stop(within).await,
            None => Ok(()),
        }
    }

    /// Kills one room, which its supervisor then starts again.
    pub fn kill(&self, room: &str) -> Result<(), ControlError> {
        let tree = self.tree.get().ok_or_else(|| ControlError::Silent("the house is being started".to_owned()))?;
        tree.kill(room).map_err(|error| ControlError::Refused(error.to_string()))
    }

    /// Hands an intent to the coordinator.
    pub fn intend(&self, intent: Intent) -> Result<(), ControlError> {
        let sent = self.sockets.coordinator.send(coordinator::Msg::Intended(intent));
        sent.map_err(|down| ControlError::Silent(down.to_string()))
    }

    /// Proposes settings in a person's name, and returns the change that they amount to.
    pub async fn propose(&self, domain: &str, settings: Settings, uid: u32) -> Result<Promotion, ControlError> {
        let now_ms = self.seams.clock.now_ms();
        let proposal = Proposal {
            cycle: CycleId::new(format!("c-{}", short_hash(&["try", domain, &now_ms.to_string()]))),
            origin: Origin::Person(uid),
            experiment: "try".to_owned(),
            question: None,
            hypothesis: None,
            domain: domain.to_owned(),
            settings,
            fitness: None,
            at_ms: now_ms,
            depth: 0,
        };
        let make = |reply| coordinator::Msg::Tried(Planning { proposal, reply: Some(reply) });
        let answer = self.sockets.coordinator.call(make, ANSWER_WITHIN).await;
        answer.map_err(|error| ControlError::Silent(error.to_string()))?.map_err(ControlError::Refused)
    }

    /// Returns what waits for a person.
    pub async fn waiting(&self) -> Result<Vec<gate::Waiting>, ControlError> {
        let answer = self.sockets.gate.call(gate::Msg::Asked, ANSWER_WITHIN).await;
        answer.map_err(|error| ControlError::Silent(error.to_string()))
    }

    /// Answers for the person `uid` what waits under `promotion`.
    pub async fn answer(
        &self,
        promotion: PromotionId,
        approved: bool,
        uid: u32,
        why: Option<String>,
    ) -> Result<Promotion, ControlError> {
        let answer = Answer { promotion, approved, by_uid: Some(uid), why };
        let make = |reply| gate::Msg::Answered(answer, reply);
        let answer = self.sockets.gate.call(make, ANSWER_WITHIN).await;
        answer.map_err(|error| ControlError::Silent(error.to_string()))?.map_err(ControlError::Refused)
    }

    /// Undoes for the person `uid` a deployment that was not judged yet.
    pub async fn recall(&self, deployment: DeploymentId, uid: u32) -> Result<Verdict, ControlError> {
        let make = |reply| deployer::Msg::Recalled(deployment, uid, reply);
        let answer = self.sockets.deployer.call(make, ANSWER_WITHIN).await;
        answer.map_err(|error| ControlError::Silent(error.to_string()))?.map_err(ControlError::Refused)
    }

    /// Puts `new` settings into force: rooms that are up hear of theirs, rooms that start later begin with them.
    pub fn reconfigure(&self, new: &Config) {
        let old = std::mem::replace(&mut *self.live.0.write().unwrap_or_else(PoisonError::into_inner), new.clone());
        let Sockets { observer, curiosity, coordinator, gate, deployer, validator, feedback, memory } = &self.sockets;
        tell(observer, &old.observer, &new.observer, observer::Msg::Reconfigured);
        tell(curiosity, &old.curiosity, &new.curiosity, curiosity::Msg::Reconfigured);
        tell(coordinator, &old.coordinator, &new.coordinator, coordinator::Msg::Reconfigured);
        tell(gate, &old.gate, &new.gate, gate::Msg::Reconfigured);
        tell(deployer, &old.deployer, &new.deployer, deployer::Msg::Reconfigured);
        tell(validator, &old.validator, &new.validator, validator::Msg::Reconfigured);
        tell(feedback, &old.feedback, &new.feedback, feedback::Msg::Reconfigured);
        tell(memory, &old.memory, &new.memory, memory::Msg::Reconfigured);
    }
}

fn tell<C: Clone + PartialEq, M: ractor::Message>(socket: &Socket<M>, old: &C, new: &C, wrap: impl FnOnce(C) -> M) {
    if old == new {
        return;
    }
    // A room that is down starts with the new settings anyway.
    if let Err(down) = socket.send(wrap(new.clone())) {
        tracing::debug!(%down, "room starts with its new settings");
    }
}
