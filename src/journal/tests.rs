//! The journal on real files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use kloros_actors::{
    facts::*,
    seams::{Appended, Journal as _, JournalError, Query},
};
use rusqlite::Connection;

use super::{
    outbox::FlushError,
    reader::Reader,
    rebuild::{RebuildError, rebuild},
    store::{Store, open},
};
use crate::home::{Home, HomeError};

mod audit;

mod baselines;

mod damage;

mod names;

mod open_work;

const AT_MS: u64 = 1_762_011_720_000;

/// A home that goes with the test.
struct House {
    _folder: tempfile::TempDir,
    home: Home,
}

fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::at(folder.path()).unwrap();
    House { _folder: folder, home }
}

fn cycle() -> CycleId {
    CycleId::new("c-1")
}

fn entry(fact: Fact) -> Entry {
    Entry::new(&cycle(), AT_MS, fact)
}

fn said(conversation: &str, text: &str) -> Fact {
    Fact::Turn(Turn { conversation: conversation.into(), from_user: true, text: text.into(), at_ms: AT_MS })
}

fn spec() -> ExperimentSpec {
    ExperimentSpec {
        name: "lab_tuning".into(),
        domain: "lab".into(),
        search_space: BTreeMap::from([(
            "batch".to_owned(),
            KnobKind::Integer { min: 1, max: 64, log: true, step: None }.into(),
        )]),
        constraints: Vec::new(),
        forbidden: Vec::new(),
        metrics: BTreeMap::from([("e2e_p95_ms".to_owned(), Direction::Down)]),
        param_mapping: BTreeMap::from([("batch".to_owned(), Key::new("LAB_BATCH").unwrap())]),
        budget: Budget::of(12, 4),
    }
}

fn question(id: &str) -> Fact {
    Fact::Question(Question {
        question_id: QuestionId::new(id),
        hypothesis: "LAB_LATENCY_DEGRADATION".into(),
        dream_experiment: spec(),
        cycle: cycle(),
        evidence: vec![Evidence {
            metric: "e2e_p95_ms".into(),
            observed: 120.1,
            expected: 80.3,
            samples: 30,
            source: "http://127.0.0.1:1/metrics".into(),
        }],
        interest: 0.7,
        at_ms: AT_MS,
        depth: 0,
    })
}

fn question_end(id: &str) -> Fact {
    Fact::QuestionEnd(QuestionEnd {
        question: QuestionId::new(id),
        hypothesis: "LAB_LATENCY_DEGRADATION".into(),
        domain: "lab".into(),
        how: "deployed".into(),
        why: "it measured better".into(),
        eligible_at_ms: AT_MS + 1,
    })
}

fn experiment(id: &str) -> Fact {
    Fact::Experiment(Experiment {
        id: ExperimentId::new(id),
        question: QuestionId::new("q-1"),
        hypothesis: "LAB_LATENCY_DEGRADATION".into(),
        cycle: cycle(),
        spec: spec(),
        measured_by: Some("0123456789abcdef".into()),
        seed: u64::MAX,
        at_ms: AT_MS,
        depth: 0,
        objective: BTreeMap::new(),
    })
}

fn best() -> Best {
    Best {
        params: BTreeMap::from([("batch".to_owned(), Value::Integer(16)), ("ratio".to_owned(), Value::Float(2.0))]),
        fitness: 0.123_456_789_012_345_68,
        metrics: BTreeMap::from([("e2e_p95_ms".to_owned(), 71.300_000_000_000_01)]),
    }
}

fn winner(id: &str) -> Winner {
    Winner {
        experiment: "lab_tuning".into(),
        domain: "lab".into(),
        best: best(),
        incumbent: BTreeMap::from([(Key::new("LAB_BATCH").unwrap(), Value::Integer(4))]),
        experiment_id: ExperimentId::new(id),
        measured: 48,
        failed: 2,
        gain: Some(Estimate { ratio: 0.131_415_926_535_897_93, low: -0.01, high: 0.3 }),
        front: vec![best(), best()],
    }
}

fn no_better(id: &str) -> Fact {
    let (experiment, why) = (ExperimentId::new(id), "the best candidate measured +1.0 %, it takes +3.0 %".to_owned());
    Fact::ExperimentEnd(ExperimentEnd::NoBetter { experiment, why, front: vec![best()] })
}

fn won(id: &str) -> Fact {
    Fact::ExperimentEnd(ExperimentEnd::Won { experiment: ExperimentId::new(id), winner: winner(id) })
}

fn promotion() -> Promotion {
    Promotion {
        id: PromotionId::new("p-1"),
        cycle: cycle(),
        origin: Origin::Experiment(ExperimentId::new("x-1")),
        experiment: "lab_tuning".into(),
        question: Some(QuestionId::new("q-1")),
        hypothesis: Some("LAB_LATENCY_DEGRADATION".into()),
        domain: "lab".into(),
        settings: [(Key::new("LAB_BATCH").unwrap(), Value::Integer(16))].into(),
        changes: changes(),
        replaces: None,
        fitness: Some(0.1),
        at_ms: AT_MS,
        depth: 0,
    }
}

fn changes() -> BTreeMap<Key, Change> {
    let change = Change { from: Some(Value::Integer(4)), in_file: true, to: Value::Integer(16) };
    BTreeMap::from([(Key::new("LAB_BATCH").unwrap(), change)])
}

fn verdict(deployment: &str, domain: &str, outcome: Ruled) -> Verdict {
    Verdict {
        deployment: DeploymentId::new(deployment),
        cycle: cycle(),
        experiment: "lab_tuning".into(),
        domain: domain.into(),
        question: Some(QuestionId::new("q-1")),
        hypothesis: None,
        changes: changes(),
        outcome,
        reason: if outcome == Ruled::Success {
            Reason::Improved
        } else {
            Reason::Guard { metric: "error_ratio".into() }
        },
        improvement: Some(Estimate { ratio: 0.034, low: 0.021, high: 0.047 }),
        before: BTreeMap::from([("e2e_p95_ms".to_owned(), 80.0)]),
        after: BTreeMap::from([("e2e_p95_ms".to_owned(), 77.3)]),
        blocks: 6,
        samples: 2_400,
        runs: 0,
        baseline: None,
        at_ms: AT_MS,
    }
}

fn judged(deployment: &str, outcome: Ruled) -> Fact {
    Fact::Verdict(verdict(deployment, "lab", outcome))
}

fn lesson(deployment: &str) -> Fact {
    Fact::Lesson(Lesson {
        cycle: cycle(),
        domain: "lab".into(),
        question: Some(QuestionId::new("q-1")),
        hypothesis: None,
        fingerprint: promotion().fingerprint(),
        verdict: verdict(deployment, "lab", Ruled::Neutral),
        interest_change: -0.2,
        rest_until_ms: AT_MS + 60_000,
        avoid: false,
        says: "more of the batch helps little".into(),
    })
}

fn measurement() -> Measurement {
    Measurement {
        others: Some(Others { cpu: Some(0.5), ..Others::default() }),
        discarded: 2,
        metrics: BTreeMap::from([("e2e_p95_ms".to_owned(), 80.1)]),
        samples: 400,
        window_ms: 10_000,
        in_effect: BTreeMap::from([("LAB_BATCH".to_owned(), "4".to_owned())]),
        source: "lab at http://127.0.0.1:1".into(),
        at_ms: AT_MS,
    }
}

fn failure() -> TrialFailure {
    TrialFailure { kind: FailureKind::DidNotStart, detail: "exit code 1".into() }
}

fn experience() -> Fact {
    let known = |fitness| {
        let (from, params) = (ExperimentId::new("x-0"), best().params);
        EarlierTrial { from, params, fitness, age_days: 1.5, distance: 0.1 }
    };
    let trials = vec![known(Some(-0.25)), known(None)];
    Fact::Experience(Experience {
        experiment: ExperimentId::new("x-1"),
        trials,
        resolves: Some(0.012),
        limits: Vec::new(),
    })
}

fn answer() -> Answer {
    let (promotion, binding) = (PromotionId::new("p-1"), String::new());
    Answer { promotion, approved: true, by_uid: Some(1_000), why: None, binding }
}

fn anomaly() -> Anomaly {
    Anomaly {
        cycle: cycle(),
        subject: "lab".into(),
        metric: "e2e_p95_ms".into(),
        kind: AnomalyKind::Deviation,
        observed: 120.0,
        expected: 80.0,
        spread: 3.0,
        score: 13.3,
        samples: 30,
        source: "test".into(),
        at_ms: AT_MS,
        depth: 0,
        incident: String::new(),
        evidence: Vec::new(),
        surge: None,
    }
}

/// Returns facts of one cycle, in their order: an experiment that won, a change that was made and judged, and what goes with them.
pub(crate) fn one_of_each() -> Vec<Fact> {
    let trial = |outcome| {
        Fact::Trial(Trial {
            experiment: ExperimentId::new("x-1"),
            generation: 1,
            number: 2,
            params: best().params,
            outcome,
            at_ms: AT_MS,
        })
    };
    let run =
        |outcome| Fact::Run { deployment: DeploymentId::new("d-1"), block: 1, place: 2, candidate: true, outcome };
    let generation = |number, best| {
        Fact::Generation(Generation { experiment: ExperimentId::new("x-1"), number, measured: 12, failed: 1, best })
    };
    let why = || "nothing was better".to_owned();
    let promotion_id = || PromotionId::new("p-1");
    let deployment = Deployment {
        id: DeploymentId::new("d-1"),
        promotion: promotion(),
        authority: Authority::Policy(Autonomy::Trusted),
        at_ms: AT_MS,
    };
    let step = |step| Fact::Step { deployment: DeploymentId::new("d-1"), step };
    vec![
        Fact::Anomaly(anomaly()),
        question("q-1"),
        experiment("x-1"),
        trial(Outcome::Measured(measurement())),
        trial(Outcome::Failed(failure())),
        generation(1, None),
        generation(2, Some(best())),
        won("x-1"),
        no_better("x-2"),
        Fact::ExperimentEnd(ExperimentEnd::Void {
            experiment: ExperimentId::new("x-3"),
            why: why(),
            cause: VoidCause::Infrastructure,
        }),
        Fact::Promotion(promotion()),
        Fact::Ruling(Ruling::Allow { promotion: promotion_id(), risk: Risk::Low, level: Autonomy::Cautious }),
        Fact::Ruling(Ruling::Refuse { promotion: promotion_id(), why: why() }),
        Fact::Answer(answer()),
        Fact::Deployment(deployment),
        step(Step::Intended),
        step(Step::Judged(Ruled::Success)),
        step(Step::UndoFailed("disk full".into())),
        run(Ok(measurement())),
        run(Err(failure())),
        judged("d-1", Ruled::Success),
        judged("d-2", Ruled::Neutral),
        judged("d-3", Ruled::Rollback),
        lesson("d-2"),
        question("q-2"),
        question_end("q-1"),
        said("t-1", "hello"),
        experience(),
    ]
}

/// What the gate holds back or advises, and what people do beside it.
fn of_policy() -> Vec<Fact> {
    let why = || "nothing was better".to_owned();
    let promotion_id = || PromotionId::new("p-1");
    vec![
        Fact::Ruling(Ruling::Hold { promotion: promotion_id(), held: Held::Budget, why: why() }),
        Fact::Ruling(Ruling::Advise { promotion: promotion_id(), risk: Risk::Low, level: Autonomy::Full, why: why() }),
        Fact::Switch(Switch { stop: Some(Stop { why: why(), by_uid: Some(1_000) }) }),
        Fact::Switch(Switch { stop: None }),
        Fact::Adoption(Adoption {
            domain: "lab".into(),
            values: BTreeMap::from([(Key::new("LAB_BATCH").unwrap(), None)]),
            edited: [Key::new("LAB_BATCH").unwrap()].into(),
        }),
        Fact::Thaw(Thaw { domain: "lab".into(), by_uid: 1_000 }),
        Fact::Refused(Refused { what: "winners/x.json".into(), by_uid: Some(1_000), why: why() }),
        Fact::Anchored(Anchored { domain: "lab".into(), metrics: [("rate".to_owned(), 1.5)].into() }),
        Fact::Loan(Loan {
            id: DeploymentId::new("l-1"),
            experiment: ExperimentId::new("x-1"),
            promotion: promotion_id(),
            domain: "lab".into(),
            authority: Authority::Policy(Autonomy::Full),
            at_ms: 1,
        }),
        Fact::LoanStep {
            loan: DeploymentId::new("l-1"),
            experiment: ExperimentId::new("x-1"),
            step: LoanStep::Ended { why: why() },
        },
        Fact::Reload(Reload { by_uid: None, outcome: Reloaded::Refused { problems: vec![why()] } }),
    ]
}

async fn append(store: &Store, facts: Vec<Fact>) -> Vec<Appended> {
    store.append(facts.into_iter().map(entry).collect()).await.unwrap()
}

async fn everything(store: &Store) -> Vec<Recorded> {
    store.read(Query::default()).await.unwrap()
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns every file below the home but the database's, by its path.
fn projected_files(home: &Home) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![home.root().to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|each| each.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !name.starts_with("journal.") && name != "lock" {
                found.insert(path.clone(), fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

#[tokio::test]
async fn every_kind_of_fact_comes_back_as_it_was_after_a_restart() {
    let house = house();
    let store = open(&house.home).unwrap();
    let facts = one_of_each();
    let kinds: BTreeSet<Kind> = facts.iter().chain(&of_policy()).map(Fact::kind).collect();
    assert!(kinds.is_subset(&BTreeSet::from(Kind::ALL)), "{kinds:?}");
    let places = append(&store, facts.clone()).await;
    assert_eq!(places, (1..=facts.len() as u64).map(Appended::At).collect::<Vec<_>>());
    drop(store);
    let store = open(&house.home).unwrap();
    let found = everything(&store).await;
    assert_eq!(
        found.iter().map(|recorded| recorded.seq).collect::<Vec<_>>(),
        (1..=facts.len() as u64).collect::<Vec<_>>()
    );
    assert!(found.iter().all(|recorded| recorded.cycle == cycle() && recorded.at_ms == AT_MS));
    assert_eq!(found.into_iter().map(|recorded| recorded.fact).collect::<Vec<_>>(), facts);
    assert_eq!(append(&store, vec![said("t-1", "again")]).await, [Appended::At(facts.len() as u64 + 1)]);
}

#[tokio::test]
async fn a_name_that_may_stand_once_stands_once_also_within_one_append_and_after_a_restart() {
    let house = house();
    let store = open(&house.home).unwrap();
    let once = |name: &str, text: &str| Entry::once(&cycle(), AT_MS, name.to_owned(), said("t", text));
    let first = store.append(vec![once("a", "one"), once("a", "two"), once("b", "three")]).await.unwrap();
    assert_eq!(first, [Appended::At(1), Appended::Already, Appended::At(2)]);
    drop(store);
    let store = open(&house.home).unwrap();
    let second = store.append(vec![once("b", "four"), entry(said("t", "five"))]).await.unwrap();
    assert_eq!(second, [Appended::Already, Appended::At(3)]);
    assert_eq!(store.append(Vec::new()).await.unwrap(), []);
    let found = everything(&store).await;
    let expected = ["one", "three", "five"].map(|text| said("t", text));
    assert_eq!(found.into_iter().map(|recorded| recorded.fact).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn an_append_with_one_fact_that_is_refused_writes_none_of_them() {
    let house = house();
    let store = open(&house.home).unwrap();
    let Fact::Generation(mut broken) = one_of_each().remove(6) else { panic!("the sample moved") };
    broken.best.as_mut().unwrap().fitness = f64::NAN;
    let entries = vec![entry(said("t", "one")), entry(Fact::Generation(broken))];
    assert!(matches!(store.append(entries).await, Err(JournalError::Unwritable(_))));
    assert_eq!(everything(&store).await, []);
    store.check().unwrap();
}

#[tokio::test]
async fn a_query_narrows_by_kind_subject_cycle_and_place_and_turns_the_order() {
    let house = house();
    let store = open(&house.home).unwrap();
    append(&store, one_of_each()).await;
    // The clock went back: the place orders, not the time.
    let other = CycleId::new("c-2");
    store.append(vec![Entry::new(&other, 0, judged("d-4", Ruled::Neutral))]).await.unwrap();
    let check = async |query: Query, expected: &[u64]| {
        let found = store.read(query.clone()).await.unwrap();
        assert_eq!(found.iter().map(|recorded| recorded.seq).collect::<Vec<_>>(), expected, "{query:?}");
    };
    check(Query::kinds(&[Kind::Verdict]), &[21, 22, 23, 29]).await;
    check(Query::kinds(&[Kind::Verdict, Kind::Question]), &[2, 21, 22, 23, 25, 29]).await;
    check(Query::newest(&[Kind::Verdict], 2), &[29, 23]).await;
    check(Query::kinds(&[]).about("d-1"), &[15, 16, 17, 18, 19, 20, 21]).await;
    check(Query::kinds(&[Kind::Step]).about("d-1"), &[16, 17, 18]).await;
    check(Query { cycle: Some(other), ..Query::default() }, &[29]).await;
    check(Query { after: 26, ..Query::default() }, &[27, 28, 29]).await;
    check(Query { after: u64::MAX, ..Query::default() }, &[]).await;
    check(Query { limit: 1, ..Query::default() }, &[1]).await;
    check(Query { limit: usize::MAX, ..Query::kinds(&[Kind::Answer]) }, &[14]).await;
    check(Query::kinds(&[]).about("' OR 1 = 1 --"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_of_many_tasks_each_get_a_place_of_their_own_and_keep_their_entries_together() {
    let house = house();
    let store = open(&house.home).unwrap();
    let mut appended = store.appended();
    let tasks = (0..40).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { append(&store, vec![said(&format!("t-{number}"), "a"), said("all", "b")]).await })
    });
    let mut places = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        let [Appended::At(first), Appended::At(second)] = task.await.unwrap()[..] else { panic!("not written") };
        assert_eq!(second, first + 1);
        places.extend([first, second]);
    }
    places.sort_unstable();
    assert_eq!(places, (1..=80).collect::<Vec<u64>>());
    assert_eq!(*appended.wait_for(|last| *last == 80).await.unwrap(), 80);
}

#[tokio::test]
async fn large_and_strange_texts_come_back_as_they_were() {
    let house = house();
    let store = open(&house.home).unwrap();
    let texts = ["\u{0}\u{1b}[31m\"\\\r\n\u{2028}\u{fffd}\u{1f600}".to_owned(), "ä".repeat(1 << 20), String::new()];
    append(&store, texts.iter().map(|text| said("t", text)).collect()).await;
    let found = everything(&store).await;
    assert_eq!(found.into_iter().map(|recorded| recorded.fact).collect::<Vec<_>>(), texts.map(|text| said("t", &text)));
}

#[tokio::test]
async fn the_files_say_what_the_facts_say() {
    let house = house();
    let store = open(&house.home).unwrap();
    append(&store, one_of_each()).await;
    assert!(store.flush(0).await.unwrap() > 0);
    assert_eq!(store.flush(0).await.unwrap(), 0);
    let home = &house.home;
    let events = lines(&home.experiments_log());
    let named = events.iter().map(|event| event["event"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(named, ["started", "generation", "generation", "finished", "finished", "failed"]);
    let verdicts = lines(&home.validations_log());
    assert_eq!(verdicts[0]["seq"], 21);
    assert_eq!(verdicts[0]["timestamp"], "2025-11-01T15:42:00.000Z");
    assert_eq!(verdicts[0]["deployment_id"], "d-1");
    assert_eq!(verdicts[0]["improvement"]["low"], 0.021);
    assert_eq!(verdicts[0]["new"]["e2e_p95_ms"], 77.3);
    assert_eq!(verdicts[0]["changes"]["LAB_BATCH"]["to"], 16);
    let statuses = verdicts.iter().map(|line| line["status"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(statuses, ["success", "neutral", "rollback"]);
    assert_eq!(verdicts[2]["reason"], "guard");
    let lessons = lines(&home.feedback_log());
    assert_eq!((lessons.len(), lessons[0]["status"].as_str()), (1, Some("neutral")));
    let parsed = |path: PathBuf| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let feed = parsed(home.feed());
    assert_eq!(feed["questions"].as_array().unwrap().len(), 1);
    assert_eq!(feed["questions"][0]["question_id"], "q-2");
    let baseline = parsed(home.baselines_folder().join("lab_baseline.json"));
    assert_eq!(baseline["domain"], "lab");
    let Fact::Verdict(verdict) = judged("d-1", Ruled::Success) else { panic!("the sample moved") };
    assert_eq!(baseline["metrics"]["e2e_p95_ms"], verdict.certified()["e2e_p95_ms"]);
    assert_eq!(baseline["updated_at"], "2025-11-01T15:42:00.000Z");
    assert_eq!(baseline["n"], 2_400);
    assert_eq!(baseline["fingerprint"], promotion().fingerprint());
    assert_eq!(baseline["deployment_id"], "d-1");
    let kept: Winner = serde_json::from_value(parsed(home.winners_folder().join("x-1.json"))).unwrap();
    assert_eq!(kept, winner("x-1"));
}

#[tokio::test]
async fn the_feed_forgets_a_question_that_ended_and_knows_one_that_is_asked_again() {
    let house = house();
    let store = open(&house.home).unwrap();
    let check = async |facts: Vec<Fact>, expected: &[&str]| {
        append(&store, facts).await;
        store.flush(0).await.unwrap();
        let feed: serde_json::Value = serde_json::from_slice(&fs::read(house.home.feed()).unwrap()).unwrap();
        let asked = feed["questions"].as_array().unwrap().iter().map(|each| each["question_id"].as_str().unwrap());
        assert_eq!(asked.collect::<Vec<_>>(), expected);
    };
    check(vec![question("b"), question("a")], &["b", "a"]).await;
    check(vec![question_end("b")], &["a"]).await;
    check(vec![question_end("a"), question_end("never")], &[]).await;
    check(vec![question("b")], &["b"]).await;
}

#[tokio::test]
async fn an_id_that_is_a_path_stays_inside_its_folder() {
    let house = house();
    let store = open(&house.home).unwrap();
    let mut facts = vec![won("../../../etc/x"), won(".hidden"), won(&"long/".repeat(100)), won("")];
    facts.push(Fact::Verdict(verdict("d-1", "/abs", Ruled::Success)));
    append(&store, facts).await;
    store.flush(0).await.unwrap();
    let names = |folder: PathBuf| {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|each| each.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let winners = names(house.home.winners_folder());
    assert_eq!(winners.len(), 4, "{winners:?}");
    assert!(winners.contains(&"%2E.%2F..%2F..%2Fetc%2Fx.json".to_owned()), "{winners:?}");
    assert_eq!(names(house.home.baselines_folder()), ["%2Fabs_baseline.json"]);
}

/// Puts a row back into the outbox, as a crash between the file and the mark leaves it.
fn undeliver(home: &Home, seq: i64, file: &str, content: &str) {
    let shape = if file.ends_with("jsonl") { "line" } else { "whole" };
    Connection::open(home.journal())
        .unwrap()
        .execute(
            "INSERT INTO outbox (seq, file, shape, content) VALUES (?1, ?2, ?3, ?4)",
            rusqlite::params![seq, file, shape, content],
        )
        .unwrap();
}

#[tokio::test]
async fn a_crash_between_the_file_and_the_mark_repeats_nothing() {
    let house = house();
    let store = open(&house.home).unwrap();
    append(&store, vec![judged("d-1", Ruled::Success), judged("d-2", Ruled::Neutral), won("x-1")]).await;
    store.flush(0).await.unwrap();
    let before = projected_files(&house.home);
    for (path, content) in &before {
        let file = path.strip_prefix(house.home.root()).unwrap().to_str().unwrap();
        if file.ends_with("jsonl") {
            content.lines().for_each(|line| undeliver(&house.home, 1, file, line));
        } else {
            undeliver(&house.home, 1, file, content);
        }
    }
    drop(store);
    let store = open(&house.home).unwrap();
    assert!(store.flush(0).await.unwrap() >= before.len());
    assert_eq!(projected_files(&house.home), before);
}

#[tokio::test]
async fn a_torn_line_is_cut_and_written_again_once() {
    let house = house();
    let store = open(&house.home).unwrap();
    append(&store, vec![judged("d-1", Ruled::Success), judged("d-2", Ruled::Neutral)]).await;
    store.flush(0).await.unwrap();
    let path = house.home.validations_log();
    let whole = fs::read_to_string(&path).unwrap();
    let second = whole.lines().nth(1).unwrap().to_owned();
    fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    undeliver(&house.home, 2, "logs/orchestrator/validations.jsonl", &second);
    store.flush(0).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
}

#[tokio::test]
async fn logs_that_are_deleted_truncated_or_rotated_go_on_with_what_is_new() {
    let house = house();
    let store = open(&house.home).unwrap();
    let path = house.home.validations_log();
    let rotated = path.with_extension("jsonl.1");
    let add = async |deployment: &str| {
        append(&store, vec![judged(deployment, Ruled::Neutral)]).await;
        store.flush(0).await.unwrap();
        lines(&path).iter().map(|line| line["deployment_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(add("d-1").await, ["d-1"]);
    fs::write(&path, "").unwrap();
    assert_eq!(add("d-2").await, ["d-2"]);
    fs::rename(&path, &rotated).unwrap();
    assert_eq!(add("d-3").await, ["d-3"]);
    fs::remove_dir_all(house.home.root().join("logs")).unwrap();
    assert_eq!(add("d-4").await, ["d-4"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_keeps_its_lines_in_order_and_holds_up_no_other() {
    let house = house();
    let store = open(&house.home).unwrap();
    let path = house.home.validations_log();
    fs::create_dir_all(path.join("in the way")).unwrap();
    for deployment in ["d-1", "d-2"] {
        append(&store, vec![judged(deployment, Ruled::Neutral), lesson(deployment)]).await;
        let trouble = store.flush(0).await.unwrap_err();
        assert!(matches!(&trouble, FlushError::File { path: named, .. } if *named == path), "{trouble}");
    }
    assert_eq!(lines(&house.home.feedback_log()).len(), 2);
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(store.flush(0).await.unwrap(), 2);
    let deployments = lines(&path).into_iter().map(|line| line["deployment_id"].clone()).collect::<Vec<_>>();
    assert_eq!(deployments, ["d-1", "d-2"]);
}

#[tokio::test]
async fn a_rebuild_gives_the_same_bytes_as_the_days_before_it() {
    let house = house();
    let store = open(&house.home).unwrap();
    for fact in one_of_each() {
        append(&store, vec![fact]).await;
        store.flush(0).await.unwrap();
    }
    let files = projected_files(&house.home);
    assert_eq!(files.len(), 7, "{:?}", files.keys());
    // One fact more waits in the outbox and must not be written twice.
    append(&store, vec![judged("d-9", Ruled::Neutral)]).await;
    drop(store);
    fs::write(house.home.validations_log(), "{\"torn").unwrap();
    fs::remove_file(house.home.feed()).unwrap();
    fs::write(house.home.baselines_folder().join("lab_baseline.json"), "nonsense").unwrap();
    fs::remove_file(house.home.winners_folder().join("x-1.json")).unwrap();
    let owners = house.home.winners_folder().join("mine.json");
    fs::write(&owners, "{}").unwrap();
    let rebuilt = rebuild(&house.home).unwrap();
    assert_eq!((rebuilt.lines, rebuilt.files), (6 + 4 + 1 + 12, 7));
    let mut again = projected_files(&house.home);
    assert_eq!(again.remove(&owners).unwrap(), "{}");
    let log = again.get_mut(&house.home.validations_log()).unwrap();
    assert!(log.starts_with(&files[&house.home.validations_log()]));
    assert_eq!(log.lines().count(), 4);
    again.remove(&house.home.validations_log());
    // The verdict that was given since has its line in the audit trail as well.
    let trail = house.home.root().join("logs/audit/audit-000001.jsonl");
    assert!(again.remove(&trail).unwrap().starts_with(&files[&trail]));
    assert!(again.iter().all(|(path, content)| files[path] == *content));
    let store = open(&house.home).unwrap();
    assert_eq!(store.flush(0).await.unwrap(), 0);
}

#[tokio::test]
async fn a_rebuild_is_refused_while_a_daemon_holds_the_home_and_without_a_journal() {
    let house = house();
    assert!(matches!(rebuild(&house.home), Err(RebuildError::Journal(_))));
    assert!(!house.home.state_folder().exists());
    let _lock = house.home.lock().unwrap();
    drop(open(&house.home).unwrap());
    assert!(matches!(rebuild(&house.home), Err(RebuildError::Home(HomeError::InUse { .. }))));
}

#[tokio::test]
async fn at_the_start_a_baseline_or_feed_that_is_damaged_is_mended_and_an_edited_one_stays() {
    let house = house();
    let store = open(&house.home).unwrap();
    append(&store, vec![question("q-1"), judged("d-1", Ruled::Success), won("x-1")]).await;
    store.flush(0).await.unwrap();
    let before = projected_files(&house.home);
    assert_eq!(store.mend().await.unwrap(), 0);
    let baseline = house.home.baselines_folder().join("lab_baseline.json");
    fs::write(&baseline, "{\"domain\": \"la").unwrap();
    fs::remove_file(house.home.feed()).unwrap();
    assert_eq!(store.mend().await.unwrap(), 2);
    assert_eq!(projected_files(&house.home), before);
    let edited = r#"{"domain": "lab", "metrics": {"e2e_p95_ms": 70.0}}"#;
    fs::write(&baseline, edited).unwrap();
    fs::remove_file(house.home.winners_folder().join("x-1.json")).unwrap();
    assert_eq!(store.mend().await.unwrap(), 0);
    assert_eq!(fs::read_to_string(&baseline).unwrap(), edited);
}

/// Returns the message with which the journal is refused.
#[track_caller]
fn refusal(home: &Home) -> String {
    match open(home) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

fn folder_bytes(home: &Home) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(home.state_folder()).unwrap().map(|each| each.unwrap().path());
    entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[tokio::test]
async fn a_journal_of_a_newer_kloros_is_refused_without_a_write() {
    let house = house();
    drop(open(&house.home).unwrap());
    let connection = wait_until_alone(&house.home);
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let before = folder_bytes(&house.home);
    let message = refusal(&house.home);
    assert!(message.contains("newer kloros") && message.contains("journal.db"), "{message}");
    assert_eq!(folder_bytes(&house.home), before);
}

/// Returns a connection that no other one shares the database with, so that closing it leaves the file alone behind.
fn wait_until_alone(home: &Home) -> Connection {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let connection = Connection::open(home.journal()).unwrap();
    connection.busy_timeout(std::time::Duration::from_millis(100)).unwrap();
    loop {
        let mode: Result<String, _> = connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0));
        if mode.is_ok_and(|mode| mode == "delete") {
            return connection;
        }
        assert!(std::time::Instant::now() < deadline, "somebody still has the journal open");
    }
}

#[tokio::test]
async fn what_is_no_journal_is_refused_and_stays() {
    let house = house();
    house.home.create().unwrap();
    let text = "dear diary, ".repeat(1_000);
    fs::write(house.home.journal(), &text).unwrap();
    assert!(refusal(&house.home).contains("damaged"));
    assert_eq!(fs::read_to_string(house.home.journal()).unwrap(), text);
    fs::remove_file(house.home.journal()).unwrap();
    Connection::open(house.home.journal()).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(refusal(&house.home).contains("some other program"));
    fs::remove_file(house.home.journal()).unwrap();
    std::os::unix::fs::symlink("elsewhere", house.home.journal()).unwrap();
    assert!(refusal(&house.home).contains("no plain file"));
}

#[tokio::test]
async fn a_journal_with_a_damaged_page_is_refused() {
    let house = house();
    let store = open(&house.home).unwrap();
    append(&store, (0..400).map(|number| said("t", &format!("{number} {}", "x".repeat(500)))).collect()).await;
    drop(store);
    drop(wait_until_alone(&house.home));
    let mut bytes = fs::read(house.home.journal()).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(house.home.journal(), &bytes).unwrap();
    let message = refusal(&house.home);
    assert!(message.contains("damaged") && message.contains("journal.db"), "{message}");
}

#[tokio::test]
async fn a_flipped_bit_inside_a_fact_is_found_at_the_start_and_when_it_is_read() {
    let house = house();
    let store = open(&house.home).unwrap();
    append(&store, vec![said("t", "one"), said("t", "two"), said("t", "three")]).await;
    Connection::open(house.home.journal())
        .unwrap()
        .execute("UPDATE facts SET body = replace(body, 'two', 'tvo') WHERE seq = 2", [])
        .unwrap();
    assert_eq!(store.read(Query { after: 2, ..Query::default() }).await.unwrap().len(), 1);
    let error = store.read(Query::default()).await.unwrap_err().to_string();
    assert!(error.contains("fact 2"), "{error}");
    // Nothing is built on a journal that was found damaged.
    assert!(matches!(store.check(), Err(JournalError::Damaged(_))));
    assert!(store.append(vec![entry(said("t", "four"))]).await.is_err());
    assert!(Reader::open(&house.home).unwrap().verify().unwrap_err().to_string().contains("fact 2"));
    drop(store);
    assert!(refusal(&house.home).contains("fact 2"));
}

#[tokio::test]
async fn a_fact_that_vanished_is_noticed() {
    let house = house();
    let store = open(&house.home).unwrap();
    append(&store, vec![said("t", "one"), said("t", "two"), said("t", "three")]).await;
    assert_eq!(Reader::open(&house.home).unwrap().verify().unwrap().facts, 3);
    drop(store);
    Connection::open(house.home.journal()).unwrap().execute("DELETE FROM facts WHERE seq = 2", []).unwrap();
    assert!(refusal(&house.home).contains("2 facts stand where 3 were written"));
}

#[tokio::test]
async fn a_journal_that_is_deleted_or_replaced_while_it_runs_takes_nothing_more() {
    for name in ["journal.db", "journal.db-wal"] {
        for replaced in [false, true] {
            let house = house();
            let store = open(&house.home).unwrap();
            append(&store, vec![said("t", "one")]).await;
            store.check().unwrap();
            let path = house.home.state_folder().join(name);
            let copy = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            if replaced {
                fs::write(&path, copy).unwrap();
            }
            assert!(matches!(store.append(vec![entry(said("t", "two"))]).await, Err(JournalError::Damaged(_))));
            let error = store.check().unwrap_err().to_string();
            assert!(error.contains("journal.db"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_journal_that_is_cut_to_nothing_while_it_runs_takes_nothing_more() {
    let house = house();
    let store = open(&house.home).unwrap();
    append(&store, vec![said("t", "one")]).await;
    fs::File::options().write(true).open(house.home.journal()).unwrap().set_len(0).unwrap();
    assert!(store.check().unwrap_err().to_string().contains("cut to nothing"));
    assert!(matches!(store.append(vec![entry(said("t", "two"))]).await, Err(JournalError::Damaged(_))));
}

#[tokio::test]
async fn whoever_opens_the_journal_locks_out_whoever_opened_it_before() {
    let house = house();
    let first = open(&house.home).unwrap();
    append(&first, vec![said("t", "one")]).await;
    let second = open(&house.home).unwrap();
    let error = first.append(vec![entry(said("t", "two"))]).await.unwrap_err();
    assert!(matches!(&error, JournalError::Damaged(why) if why.contains("another kloros")), "{error}");
    assert_eq!(append(&second, vec![said("t", "three")]).await, [Appended::At(2)]);
    assert_eq!(everything(&first).await.len(), 2);
}

#[tokio::test]
async fn a_reader_sees_a_running_journal_and_says_when_there_is_none() {
    let house = house();
    assert!(Reader::open(&house.home).err().unwrap().to_string().contains("missing"));
    let store = open(&house.home).unwrap();
    append(&store, vec![said("t", "one")]).await;
    let reader = Reader::open(&house.home).unwrap();
    assert_eq!(reader.read(&Query::default()).unwrap().len(), 1);
    append(&store, vec![said("t", "two")]).await;
    assert_eq!(reader.read(&Query::default()).unwrap().len(), 2);
}

/// Set for the process that the next test starts and kills: the home to write into.
const VICTIM_HOME: &str = "KLOROS_TEST_VICTIM_HOME";

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_stands_once_in_the_journal_and_in_the_log() {
    if let Some(home) = std::env::var_os(VICTIM_HOME) {
        return write_until_killed(&Home::at(Path::new(&home)).unwrap()).await;
    }
    let house = house();
    let mut acknowledged = 0;
    // The second and third process also recover from the death of the one before.
    for _ in 0..3 {
        let name = "journal::tests::what_was_acknowledged_before_a_kill_stands_once_in_the_journal_and_in_the_log";
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(VICTIM_HOME, house.home.root())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let wanted = acknowledged + 30;
        for line in BufReader::new(victim.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(seq) = line.strip_prefix("acknowledged ") {
                acknowledged = seq.parse::<u64>().unwrap();
            }
            if acknowledged >= wanted {
                break;
            }
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert!(acknowledged >= wanted, "the process ended on its own");
    }
    let store = open(&house.home).unwrap();
    let facts = everything(&store).await;
    assert!(facts.len() as u64 >= acknowledged);
    store.flush(0).await.unwrap();
    let seqs =
        lines(&house.home.validations_log()).iter().map(|line| line["seq"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(seqs, (1..=facts.len() as u64).collect::<Vec<_>>());
}

async fn write_until_killed(home: &Home) {
    let _lock = home.lock().unwrap();
    let store = open(home).unwrap();
    let flusher = store.clone();
    tokio::spawn(async move {
        let mut appended = flusher.appended();
        while appended.changed().await.is_ok() {
            flusher.flush(0).await.unwrap();
        }
    });
    loop {
        let [Appended::At(seq)] = append(&store, vec![judged("d-1", Ruled::Neutral)]).await[..] else { return };
        writeln!(std::io::stdout(), "acknowledged {seq}").unwrap();
    }
}

#[tokio::test]
async fn a_caller_who_goes_away_before_the_answer_disturbs_nobody() {
    let house = house();
    let store = open(&house.home).unwrap();
    tokio::select! {
        biased;
        _ = store.append(vec![entry(said("t", "one"))]) => {}
        () = std::future::ready(()) => {}
    }
    assert_eq!(append(&store, vec![said("t", "two")]).await, [Appended::At(2)]);
}
