//! The house as a whole, in memory: what one cycle teaches changes the next, also when the house was closed in between.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;

use super::*;
use crate::{
    facts::{Budget, ExperimentSpec, Fact, Kind, Objective, Question, QuestionEnd, Reading, Ruled},
    seams::{ArchiveError, Clock as _, NoArchive, ProbeError, Purpose},
    testing::{SOON, World, domain, eventually, number, rate, spec},
};

/// A service whose latency is the same at each look.
struct Latency {
    value: Mutex<f64>,
    looks: AtomicU64,
}

#[async_trait]
impl Probe for Latency {
    fn name(&self) -> String {
        "lab".to_owned()
    }

    async fn read(&self) -> Result<Vec<Reading>, ProbeError> {
        let (subject, metric, source) = ("lab".into(), "e2e_p95_ms".into(), "http://127.0.0.1/metrics".into());
        let at_ms = self.looks.fetch_add(1, Ordering::SeqCst);
        Ok(vec![Reading { subject, metric, value: *self.value.lock().unwrap(), samples: 9, at_ms, source }])
    }
}

struct NoGpu;

#[async_trait]
impl Probe for NoGpu {
    fn name(&self) -> String {
        "gpus".to_owned()
    }

    async fn read(&self) -> Result<Vec<Reading>, ProbeError> {
        Err(ProbeError::Absent("none".to_owned()))
    }
}

/// Returns the experiment of this name that turns this parameter alone.
fn turning(name: &str, parameter: &str) -> (String, ExperimentSpec) {
    let mut spec = ExperimentSpec { budget: Budget::of(4, 2), ..spec() };
    name.clone_into(&mut spec.name);
    spec.search_space.retain(|known, _| known == parameter);
    spec.param_mapping.retain(|known, _| known == parameter);
    (name.to_owned(), spec)
}

/// Opens a house on this world: a service that breaks its promise, and two experiments that turn one knob each.
async fn open(world: &World, latency: &Arc<Latency>) -> Control {
    let mut lab = domain("lab");
    lab.objectives = vec![Objective { reading: "e2e_p95_ms".into(), max: 1500.0, readings: 3 }];
    let catalogue = Catalogue {
        domains: [("lab".to_owned(), lab)].into(),
        experiments: [turning("a_seqs", "seqs"), turning("b_wait", "wait")].into(),
    };
    let mut config = Config::default();
    (config.observer.sample_every_s, config.observer.gather_s, config.deployer.bake_s) = (0.01, 0.0, 0.0);
    let circuit = Circuit::new(Plugs {
        seams: world.seams(),
        catalogue: Arc::new(catalogue),
        config,
        seed: 7,
        probes: vec![latency.clone()],
        gpu: Arc::new(NoGpu),
        archive: Arc::new(NoArchive(ArchiveError::Unusable("none".to_owned()))),
    });
    let control = circuit.control();
    circuit.start(Vec::new(), Vec::new()).await.unwrap();
    control
}

fn questions(world: &World) -> Vec<Question> {
    let question = |fact| match fact {
        Fact::Question(question) => Some(question),
        _ => None,
    };
    world.journal.facts(&[Kind::Question]).into_iter().filter_map(question).collect()
}

fn turned(question: &Question) -> Vec<&str> {
    question.dream_experiment.param_mapping.keys().map(String::as_str).collect()
}

/// Lesson 7: the first verdict has a reader. The same incident leads to another decision the second time, though the house was
/// closed in between and everything that was known of the first had to be read again.
#[tokio::test]
async fn lesson_7_the_same_incident_leads_to_another_decision_after_a_verdict_and_a_restart() {
    let world = World::with_env("SEQS=2\n");
    // What looks better in an experiment is worse in truth.
    world.bench.script(|assignment| {
        let seqs = number(&assignment.settings, "SEQS");
        Ok(match assignment.purpose {
            Purpose::Experiment => rate(10.0 * seqs, assignment),
            Purpose::Validation(_) => rate(100.0 / seqs, assignment),
        })
    });
    let latency = Arc::new(Latency { value: Mutex::new(2000.0), looks: AtomicU64::new(1) });
    let house = open(&world, &latency).await;
    eventually(|| world.journal.count(Kind::Lesson) == 1).await;
    eventually(|| world.journal.count(Kind::QuestionEnd) == 1).await;
    assert_eq!(world.verdicts()[0].outcome, Ruled::Rollback, "{:?}", world.verdicts()[0]);
    let asked = questions(&world);
    assert_eq!((asked.len(), turned(&asked[0])), (1, vec!["seqs"]));
    house.stop(SOON).await.unwrap();

    world.clock.pass(3 * 3600);
    let house = open(&world, &latency).await;
    eventually(|| questions(&world).len() == 2).await;
    house.stop(SOON).await.unwrap();
    let asked = questions(&world);
    assert_eq!(asked[0].hypothesis, asked[1].hypothesis, "it is the same incident");
    assert_eq!(turned(&asked[1]), ["wait"], "the knob that failed is not tried first again");
    assert!(asked[1].at_ms >= eligible(&world), "and not before its time");
}

fn eligible(world: &World) -> u64 {
    let ends = world.journal.facts(&[Kind::QuestionEnd]);
    let at = ends.iter().filter_map(|fact| match fact {
        Fact::QuestionEnd(QuestionEnd { eligible_at_ms, .. }) => Some(*eligible_at_ms),
        _ => None,
    });
    assert!(world.clock.now_ms() > 0);
    at.min().unwrap()
}
