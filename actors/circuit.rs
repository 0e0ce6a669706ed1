//! The loop closes here: the supervision tree, and one line per arrow.
//!
//! ```text
//!  monitors -> observer -> curiosity -> coordinator -> experiments
//!                 ^            ^             |
//!                 |            |             v  (settings that won, or that a person proposes)
//!              feedback <-- validator <-- deployer <-> gate
//! ```
//!
//! The deployer also tells the observer what it is about to disturb. The only file that knows two rooms. A room says what it has
//! to say through its own `Exits`; what they lead to is decided here.

use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use kloros_supervision::{
    ChildExit, ChildSpec, Exit, Intensity, Nursery, Outlet, Restart, Shutdown, Socket, StartError, Strategy, Tree,
    TreeSpec,
};

mod control;

mod scales;

#[cfg(test)]
mod tests;

pub use control::{Control, ControlError};
use scales::scales;

use crate::{
    config::{Catalogue, Config},
    coordinator, curiosity, deployer, dream,
    facts::{Experiment, QuestionEnd},
    feedback, gate, gpu, memory, observer,
    seams::{Archive, Probe, Seams},
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
    /// Where conversations are kept.
    pub archive: Arc<dyn Archive>,
}

/// The house, wired and not yet started.
pub struct Circuit {
    plugs: Plugs,
    sockets: Sockets,
    nursery: Nursery,
    live: Live,
    tree: Arc<OnceLock<Tree>>,
}

/// What is in force: a room that restarts starts with this, not with what was there at the boot.
#[derive(Clone)]
struct Live(Arc<RwLock<(Config, Arc<Catalogue>)>>);

impl Live {
    fn of<T>(&self, pick: impl FnOnce(&Config) -> T) -> T {
        pick(&self.0.read().unwrap_or_else(PoisonError::into_inner).0)
    }

    fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).1)
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
        let live = Live(Arc::new(RwLock::new((plugs.config.clone(), Arc::clone(&plugs.catalogue)))));
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
        let (seams, live) = self.common();
        room(&self.sockets.observer, "observer", STALL_AFTER, move || {
            let (seams, catalogue) = (seams.clone(), live.catalogue());
            let config = live.of(|config| config.observer.clone());
            (observer::Observer, observer::Arguments { seams, exits: exits.clone(), config, catalogue })
        })
    }

    fn curiosity(&self) -> ChildSpec {
        let exits = curiosity::Exits { intents: self.sockets.coordinator.outlet(coordinator::Msg::Intended) };
        let (seams, live) = self.common();
        room(&self.sockets.curiosity, "curiosity", STALL_AFTER, move || {
            let (seams, catalogue) = (seams.clone(), live.catalogue());
            let (exits, config) = (exits.clone(), live.of(|config| config.curiosity.clone()));
            (curiosity::Curiosity, curiosity::Arguments { seams, exits, config, catalogue })
        })
    }

    fn coordinator(&self) -> ChildSpec {
        let exits = coordinator::Exits {
            experiments: self.experiments(),
            proposals: self.sockets.deployer.outlet(deployer::Msg::Proposed),
            ended: self.ended(),
        };
        let (seams, live) = self.common();
        let seed = self.plugs.seed;
        room(&self.sockets.coordinator, "coordinator", STALL_AFTER, move || {
            let (seams, catalogue) = (seams.clone(), live.catalogue());
            let (exits, config) = (exits.clone(), live.of(|config| config.coordinator.clone()));
            let rest_s = live.of(|config| config.curiosity.rest_s);
            (coordinator::Coordinator, coordinator::Arguments { seams, exits, config, catalogue, seed, rest_s })
        })
    }

    /// An experiment is a child of its own: it is started when it is sent for.
    fn experiments(&self) -> Outlet<Experiment> {
        let exits = dream::Exits {
            ended: self.sockets.coordinator.outlet(coordinator::Msg::Ended),
            questions: self.ended(),
            promotions: self.sockets.gate.outlet(gate::Msg::Proposed),
            errands: self.sockets.deployer.outlet(deployer::Msg::Sent),
        };
        let (seams, live) = self.common();
        let (nursery, left) = (self.nursery.clone(), self.sockets.coordinator.outlet(coordinator::Msg::Left));
        Outlet::to(move |experiment: Experiment| {
            let id = experiment.id.to_string();
            let arguments = dream::Arguments {
                seams: seams.clone(),
                exits: exits.clone(),
                config: live.of(|config| config.dream.clone()),
                catalogue: live.catalogue(),
                experiment,
                rest_s: live.of(|config| config.curiosity.rest_s),
                spare: live.of(|config| config.coordinator.spare()),
            };
            let make = move || (dream::ExperimentActor, arguments.clone());
            let spec = {
                let id = id.clone();
                move || {
                    ChildSpec::actor(&id, &Socket::new(&id), make.clone())
                        .restart(Restart::Temporary)
                        .shutdown(Shutdown::Within(Duration::from_secs(5)))
                        .stall_after(STALL_AFTER)
                }
            };
            let (nursery, left) = (nursery.clone(), left.clone());
            tokio::spawn(async move {
                match start_once_there(&nursery, spec).await {
                    // A coordinator that was restarted sends for what runs already: it goes on.
                    Ok(()) | Err(StartError::AlreadyStarted { .. }) => {}
                    // A coordinator that is down finds the experiment without an end when it is back.
                    Err(error) => {
                        left.send(ChildExit { id, exit: Exit::Failed(error.to_string()) }).ok();
                    }
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
            ended: self.ended(),
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
            ended: self.ended(),
            uncalibrated: self.sockets.validator.outlet(|domain| validator::Msg::Calibrate(domain, None)),
        };
        let (seams, live) = self.common();
        room(&self.sockets.gate, "gate", STALL_AFTER, move || {
            let (seams, catalogue) = (seams.clone(), live.catalogue());
            let (exits, config) = (exits.clone(), live.of(|config| config.gate.clone()));
            let (rest_s, scales) = live.of(|config| (config.curiosity.rest_s, scales(config)));
            (gate::Gate, gate::Arguments { seams, exits, config, catalogue, rest_s, scales })
        })
    }

    fn deployer(&self) -> ChildSpec {
        let exits = deployer::Exits {
            promotions: self.sockets.gate.outlet(gate::Msg::Proposed),
            permits: self.sockets.gate.outlet(gate::Msg::Rechecked),
            begun: self.sockets.observer.outlet(observer::Msg::Disturbed),
            deployed: self.sockets.validator.outlet(validator::Msg::Deployed),
            withdrawn: self.sockets.validator.outlet(validator::Msg::Withdrawn),
            verdicts: self.sockets.feedback.outlet(feedback::Msg::Judged),
            ended: self.ended(),
        };
        let (seams, live) = self.common();
        room(&self.sockets.deployer, "deployer", STALL_AFTER_DEPLOYER, move || {
            let (seams, catalogue) = (seams.clone(), live.catalogue());
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
            unrecorded: self.sockets.deployer.outlet(deployer::Msg::Unrecorded),
            errands: self.sockets.deployer.outlet(deployer::Msg::Sent),
        };
        let (seams, live) = self.common();
        room(&self.sockets.validator, "validator", STALL_AFTER, move || {
            let (seams, catalogue) = (seams.clone(), live.catalogue());
            let (exits, config) = (exits.clone(), live.of(|config| config.validator.clone()));
            let run_within = live.of(run_within);
            (validator::Validator, validator::Arguments { seams, exits, config, catalogue, run_within })
        })
    }

    /// The end of a question concerns two: curiosity lets it rest, and the coordinator lets the next one go on.
    fn ended(&self) -> Outlet<QuestionEnd> {
        let curiosity = self.sockets.curiosity.outlet(curiosity::Msg::Ended);
        let coordinator = self.sockets.coordinator.outlet(coordinator::Msg::Answered);
        Outlet::to(move |end: QuestionEnd| {
            // Whichever is down reads the journal when it is back.
            curiosity.send(end.clone()).ok();
            coordinator.send(end).ok();
        })
    }

    fn memory(&self) -> ChildSpec {
        let (clock, archive) = (Arc::clone(&self.plugs.seams.clock), Arc::clone(&self.plugs.archive));
        let live = self.live.clone();
        room(&self.sockets.memory, "memory", STALL_AFTER, move || {
            let (clock, archive) = (Arc::clone(&clock), Arc::clone(&archive));
            (memory::Memory, memory::Arguments { archive, clock, config: live.of(|config| config.memory.clone()) })
        })
    }

    fn common(&self) -> (Seams, Live) {
        (self.plugs.seams.clone(), self.live.clone())
    }
}

/// Returns when a run that judges a change is ended, from its turn to measure on.
fn run_within(config: &Config) -> Duration {
    Duration::from_secs(config.dream.trial_timeout_s)
}

/// How often, and how long apart, an experiment is sent for while the house is not yet up, or a group of it is restarted.
const START_TRIES: u32 = 100;
const START_EVERY: Duration = Duration::from_millis(200);

/// Starts a child of the nursery as soon as the nursery is there: at boot the coordinator is up before it.
async fn start_once_there(nursery: &Nursery, spec: impl Fn() -> ChildSpec) -> Result<(), StartError> {
    for _ in 1..START_TRIES {
        match nursery.start_child(spec()).await {
            Err(StartError::Down(_)) => tokio::time::sleep(START_EVERY).await,
            answer => return answer.map(drop),
        }
    }
    nursery.start_child(spec()).await.map(drop)
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
