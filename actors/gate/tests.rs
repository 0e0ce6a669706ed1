//! The gate against scripted env files and journals.

mod lent;

use kloros_supervision::{ChildSpec, Collected, Outlet, Socket, Tree};

use super::{Config, Exits, Gate, Msg, Scales, Waiting};
use crate::{
    config::Catalogue,
    facts::{
        Answer, Approved, Authority, Autonomy, Fact, Held, Kind, Lesson, Origin, Promotion, PromotionId, QuestionEnd,
        Reason, Risk, Ruling, Step,
    },
    seams::Permit,
    testing::{HYPOTHESIS, SOON, World, cycle, deployment_of, domain, eventually, house, promotion},
};

const SCALES: Scales =
    Scales { runs_min: 24, blocks_max: 60, loss_max: 0.05, calibrated_for_s: None, calibrate_attempts_max: 2 };

struct Room {
    world: World,
    socket: Socket<Msg>,
    tree: Tree,
    approved: Collected<Approved<Promotion>>,
    ended: Collected<QuestionEnd>,
    uncalibrated: Collected<String>,
}

fn config(level: Autonomy) -> Config {
    Config { autonomy: level, ..Config::default() }
}

async fn open(world: &World, config: Config) -> Room {
    open_with(world, config, None).await
}

async fn open_with(world: &World, config: Config, risk: Option<Risk>) -> Room {
    let mut lab = domain("lab");
    lab.risk = risk;
    let catalogue = std::sync::Arc::new(Catalogue {
        domains: [("lab".to_owned(), lab)].into(),
        experiments: std::collections::BTreeMap::new(),
    });
    open_of(world, config, catalogue).await
}

async fn open_of(world: &World, config: Config, catalogue: std::sync::Arc<Catalogue>) -> Room {
    open_scaled(world, config, catalogue, SCALES).await
}

async fn open_scaled(world: &World, config: Config, catalogue: std::sync::Arc<Catalogue>, scales: Scales) -> Room {
    let socket = Socket::new("gate");
    let (approved, heard_approved) = Outlet::collecting();
    let (ended, heard_ended) = Outlet::collecting();
    let (uncalibrated, heard_uncalibrated) = Outlet::collecting();
    let (exits, seams) = (Exits { approved, ended, uncalibrated }, world.seams());
    let spec = ChildSpec::actor("gate", &socket, move || {
        let (seams, exits, config, catalogue) = (seams.clone(), exits.clone(), config.clone(), catalogue.clone());
        (Gate, super::Arguments { seams, exits, config, catalogue, rest_s: 900, scales })
    });
    let (approved, ended, uncalibrated) = (heard_approved, heard_ended, heard_uncalibrated);
    Room { world: world.clone(), socket, tree: house(spec).await, approved, ended, uncalibrated }
}

impl Room {
    fn propose(&self, promotion: &Promotion) {
        self.world.write(vec![Fact::Promotion(promotion.clone())]);
        self.socket.send(Msg::Proposed(promotion.clone())).unwrap();
    }

    async fn waiting(&self) -> Vec<Waiting> {
        self.socket.call(Msg::Asked, SOON).await.unwrap()
    }

    async fn answer(&self, promotion: &Promotion, approved: bool) -> Result<Promotion, String> {
        let shown = self.waiting().await.into_iter().find(|each| each.promotion.id == promotion.id);
        let binding = shown.map_or_else(String::new, |shown| shown.binding);
        self.answer_to(promotion, approved, binding).await
    }

    async fn answer_to(&self, promotion: &Promotion, approved: bool, binding: String) -> Result<Promotion, String> {
        let answer = Answer { promotion: promotion.id.clone(), approved, by_uid: Some(1000), why: None, binding };
        self.socket.call(|reply| Msg::Answered(answer, reply), SOON).await.unwrap()
    }
}

#[tokio::test]
async fn each_level_lets_one_more_class_of_risk_through_and_asks_for_the_rest() {
    let levels = [Autonomy::Manual, Autonomy::Cautious, Autonomy::Trusted, Autonomy::Full];
    for (number, level) in levels.into_iter().enumerate() {
        for (class, risk) in [None, Some(Risk::Medium), Some(Risk::High)].into_iter().enumerate() {
            let world = World::with_env("SEQS=2\n");
            let room = open_with(&world, config(level), risk).await;
            let promotion = promotion(&[("SEQS", 12)]);
            room.propose(&promotion);
            if number > class {
                let (what, authority) = room.approved.next(SOON).await.unwrap().into_parts();
                assert_eq!((what, authority), (promotion, Authority::Policy(level)));
                assert_eq!(room.waiting().await, []);
            } else {
                eventually(|| world.journal.count(Kind::Ruling) == 1).await;
                assert_eq!(room.waiting().await.len(), 1, "{level:?} {risk:?}");
                assert!(room.approved.taken().is_empty());
            }
        }
    }
}

#[tokio::test]
async fn the_env_file_lowers_the_level_and_never_raises_it() {
    for (ceiling, said, is_let_through) in [
        (Autonomy::Full, "KLR_AUTONOMY_LEVEL=0", false),
        (Autonomy::Full, "KLR_AUTONOMY_LEVEL=1", true),
        (Autonomy::Manual, "KLR_AUTONOMY_LEVEL=3", false),
        (Autonomy::Full, "KLR_AUTONOMY_LEVEL=all", false),
        // What the dialect passes over was meant all the same.
        (Autonomy::Full, "export KLR_AUTONOMY_LEVEL=1", false),
    ] {
        let world = World::with_env(&format!("{said}\n"));
        let room = open(&world, config(ceiling)).await;
        room.propose(&promotion(&[("SEQS", 12)]));
        eventually(|| world.journal.count(Kind::Ruling) == 1).await;
        assert_eq!(room.waiting().await.is_empty(), is_let_through, "{ceiling:?} {said}");
    }
}

#[tokio::test]
async fn an_approval_is_taken_once_and_a_no_ends_the_question() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Manual)).await;
    let (yes, no) = (promotion(&[("SEQS", 12)]), promotion(&[("SEQS", 13)]));
    room.propose(&yes);
    room.propose(&no);
    eventually(|| world.journal.count(Kind::Ruling) == 2).await;
    assert_eq!(room.answer(&yes, true).await, Ok(yes.clone()));
    assert!(room.answer(&yes, true).await.is_err());
    let (what, authority) = room.approved.next(SOON).await.unwrap().into_parts();
    assert_eq!((what, authority), (yes, Authority::Person(1000)));
    assert!(room.answer(&no, false).await.is_ok());
    assert_eq!(room.ended.next(SOON).await.unwrap().how, "refused");
    assert_eq!(room.waiting().await, []);
    assert_eq!(world.journal.count(Kind::Answer), 2);
}

#[tokio::test]
async fn what_waits_survives_a_restart_and_silence_becomes_a_no() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Manual)).await;
    room.propose(&promotion(&[("SEQS", 12)]));
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    let before = room.waiting().await;
    let old = room.socket.actor().unwrap().get_id();
    room.tree.kill("gate").unwrap();
    eventually(|| room.socket.actor().is_some_and(|actor| actor.get_id() != old)).await;
    assert_eq!(room.waiting().await, before);
    assert_eq!(world.journal.count(Kind::Ruling), 1);
    world.clock.pass(3600);
    assert_eq!(room.ended.next(SOON).await.unwrap().how, "expired");
    assert_eq!(room.waiting().await, []);
    assert!(room.answer(&promotion(&[("SEQS", 12)]), true).await.is_err());
    assert!(room.approved.taken().is_empty());
}

#[tokio::test]
async fn an_approval_that_comes_after_the_time_is_over_counts_for_nothing() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Manual)).await;
    let promotion = promotion(&[("SEQS", 12)]);
    room.propose(&promotion);
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    world.clock.pass(3600);
    assert!(room.answer(&promotion, true).await.is_err());
    assert!(room.approved.taken().is_empty());
}

#[tokio::test]
async fn settings_that_a_lesson_speaks_against_ask_a_person_even_at_level_3() {
    let world = World::with_env("SEQS=2\n");
    let promotion = promotion(&[("SEQS", 12)]);
    let deployment = deployment_of(promotion.clone());
    let verdict = crate::testing::rollback(&deployment, Reason::Worse);
    let lesson = Lesson {
        cycle: cycle(),
        domain: "lab".into(),
        question: None,
        hypothesis: Some(HYPOTHESIS.into()),
        fingerprint: promotion.fingerprint(),
        verdict,
        interest_change: -0.25,
        rest_until_ms: 0,
        avoid: true,
        says: "it was worse".into(),
    };
    world.write(vec![Fact::Lesson(lesson)]);
    let room = open(&world, config(Autonomy::Full)).await;
    room.propose(&promotion);
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    assert!(room.waiting().await[0].why.contains("it was worse"));
}

#[tokio::test]
async fn what_no_level_lets_through_is_refused_and_its_question_ends() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Full)).await;
    room.propose(&promotion(&[("KLR_AUTONOMY_LEVEL", 3)]));
    assert_eq!(room.ended.next(SOON).await.unwrap().how, "refused");
    let mut elsewhere = promotion(&[("SEQS", 12)]);
    elsewhere.domain = "nowhere".into();
    elsewhere.question = Some(crate::testing::question(2).question_id);
    room.propose(&elsewhere);
    assert_eq!(room.ended.next(SOON).await.unwrap().how, "refused");
    assert!(room.approved.taken().is_empty());
}

#[tokio::test]
async fn what_was_let_through_is_offered_again_until_it_is_deployed_and_ruled_on_each_time() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Full)).await;
    let first = promotion(&[("SEQS", 12)]);
    room.propose(&first);
    room.approved.next(SOON).await.unwrap();
    world.clock.pass(11);
    room.approved.next(SOON).await.unwrap();
    assert_eq!(world.journal.count(Kind::Ruling), 1);
    // What was allowed then may not be now.
    world.env.set("KLR_AUTONOMY_LEVEL=0\nSEQS=2\n");
    world.clock.pass(11);
    eventually(|| world.journal.count(Kind::Ruling) == 2).await;
    assert_eq!(room.waiting().await.len(), 1);
    // A person's yes stands, also through a restart, until it is deployed.
    room.answer(&first, true).await.unwrap();
    room.approved.taken();
    let old = room.socket.actor().unwrap().get_id();
    room.tree.kill("gate").unwrap();
    eventually(|| room.socket.actor().is_some_and(|actor| actor.get_id() != old)).await;
    let (_, authority) = room.approved.next(SOON).await.unwrap().into_parts();
    assert_eq!(authority, Authority::Person(1000));
    let deployed = deployment_of(first);
    let closed = Fact::Step { deployment: deployed.id.clone(), step: Step::Closed };
    world.write(vec![Fact::Deployment(deployed), closed]);
    let second = promotion(&[("SEQS", 13)]);
    room.propose(&second);
    eventually(|| world.journal.count(Kind::Ruling) == 3).await;
    room.approved.taken();
    world.clock.pass(11);
    room.propose(&promotion(&[("SEQS", 14)]));
    eventually(|| world.journal.count(Kind::Ruling) == 4).await;
    assert!(room.approved.taken().is_empty());
}

#[tokio::test]
async fn an_approval_that_could_not_be_deployed_in_time_ends_as_a_no() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Manual)).await;
    let promotion = promotion(&[("SEQS", 12)]);
    room.propose(&promotion);
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    room.answer(&promotion, true).await.unwrap();
    world.clock.pass(3601);
    assert_eq!(room.ended.next(SOON).await.unwrap().how, "refused");
}

#[tokio::test]
async fn the_same_change_is_not_on_its_way_twice_and_another_one_is_not_mistaken_for_it() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Manual)).await;
    let first = promotion(&[("SEQS", 12)]);
    let again = Promotion { id: PromotionId::new("p-again"), at_ms: first.at_ms + 1, ..first.clone() };
    let other_experiment =
        Promotion { id: PromotionId::new("p-other"), experiment: "another".to_owned(), ..again.clone() };
    room.propose(&first);
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    room.propose(&again);
    room.propose(&other_experiment);
    eventually(|| world.journal.count(Kind::Ruling) == 3).await;
    let waiting: Vec<PromotionId> = room.waiting().await.into_iter().map(|each| each.promotion.id).collect();
    assert_eq!(waiting.len(), 2);
    assert!(waiting.contains(&first.id) && waiting.contains(&other_experiment.id));
    let names_the_first = |fact: &Fact| {
        matches!(fact, Fact::Ruling(Ruling::Refuse { promotion, why })
            if *promotion == again.id && why.contains(first.id.as_str()))
    };
    assert!(world.journal.facts(&[Kind::Ruling]).iter().any(names_the_first));
}

#[tokio::test]
async fn of_two_that_are_the_same_and_were_proposed_while_the_gate_was_away_one_goes_on() {
    let world = World::with_env("SEQS=2\n");
    let first = promotion(&[("SEQS", 12)]);
    // Its id comes first in the alphabet, and it came second.
    let second = Promotion { id: PromotionId::new("p-0"), at_ms: first.at_ms + 1, ..first.clone() };
    world.write(vec![Fact::Promotion(first.clone()), Fact::Promotion(second.clone())]);
    let room = open(&world, config(Autonomy::Full)).await;
    eventually(|| world.journal.count(Kind::Ruling) == 2).await;
    let (what, _) = room.approved.next(SOON).await.unwrap().into_parts();
    assert_eq!(what, first);
    assert!(room.approved.taken().is_empty());
}

#[tokio::test]
async fn a_queue_that_nobody_reads_is_not_made_longer() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, Config { waiting_max: 1, ..config(Autonomy::Manual) }).await;
    room.propose(&promotion(&[("SEQS", 12)]));
    room.propose(&promotion(&[("SEQS", 13)]));
    eventually(|| world.journal.count(Kind::Ruling) == 2).await;
    assert_eq!(room.waiting().await.len(), 1);
    let refused = |fact: &Fact| matches!(fact, Fact::Ruling(Ruling::Refuse { .. }));
    assert_eq!(world.journal.facts(&[Kind::Ruling]).iter().filter(|fact| refused(fact)).count(), 1);
}

#[tokio::test]
async fn an_approval_of_a_plan_is_none_of_the_plan_that_replaces_it() {
    for approve_first in [true, false] {
        let world = World::with_env("SEQS=2\n");
        let room = open(&world, config(Autonomy::Manual)).await;
        let old = promotion(&[("SEQS", 12)]);
        room.propose(&old);
        eventually(|| world.journal.count(Kind::Ruling) == 1).await;
        if approve_first {
            room.answer(&old, true).await.unwrap();
            room.approved.next(SOON).await.unwrap();
        }
        let id = crate::facts::PromotionId::new("p-next");
        let next = Promotion { id, replaces: Some(old.id.clone()), ..promotion(&[("SEQS", 12)]) };
        room.propose(&next);
        eventually(|| world.journal.count(Kind::Ruling) == 2).await;
        let waiting = room.waiting().await;
        assert_eq!(waiting.iter().map(|each| &each.promotion.id).collect::<Vec<_>>(), [&next.id]);
        assert!(room.answer(&old, true).await.is_err());
        world.clock.pass(11);
        room.socket.send(Msg::Sweep).unwrap();
        assert_eq!(room.waiting().await.len(), 1);
        assert!(room.approved.taken().is_empty(), "the old plan is not offered again");
    }
}

impl Room {
    /// Asks as the deployer does before it touches anything.
    async fn permitted(&self, promotion: &Promotion) -> Result<Authority, String> {
        let id = promotion.id.clone();
        self.socket.call(|reply| Msg::Rechecked(Permit { promotion: id, reply }), SOON).await.unwrap()
    }

    async fn held(&self) -> Vec<Held> {
        let standing = self.socket.call(Msg::Looked, SOON).await.unwrap();
        standing.held.into_iter().map(|each| each.held).collect()
    }
}

/// Fault 80: while a person has stopped everything, nothing passes, whoever approved it; and it is told.
#[tokio::test]
async fn while_everything_is_stopped_nothing_passes_and_what_waits_goes_on_after_that() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Manual)).await;
    let asked = promotion(&[("SEQS", 12)]);
    room.propose(&asked);
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    world.switch.stop("the rack is being moved");
    eventually(|| world.journal.count(Kind::Switch) == 1).await;
    // A yes is taken, and changes nothing yet.
    room.answer(&asked, true).await.unwrap();
    assert_eq!(room.held().await, [Held::Stopped]);
    assert!(room.permitted(&asked).await.unwrap_err().contains("the rack is being moved"));
    assert!(room.approved.taken().is_empty());
    world.switch.go();
    let (what, authority) = room.approved.next(SOON).await.unwrap().into_parts();
    assert_eq!((what, authority), (asked.clone(), Authority::Person(1000)));
    assert_eq!(world.journal.count(Kind::Switch), 2);
    assert_eq!(room.held().await, []);
    assert_eq!(room.permitted(&asked).await, Ok(Authority::Person(1000)));
}

/// Fault 83: what the level let through is asked about again right before it is made.
#[tokio::test]
async fn a_level_that_was_lowered_meanwhile_takes_back_what_it_let_through() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Full)).await;
    let promotion = promotion(&[("SEQS", 12)]);
    room.propose(&promotion);
    room.approved.next(SOON).await.unwrap();
    assert_eq!(room.permitted(&promotion).await, Ok(Authority::Policy(Autonomy::Full)));
    world.env.set("KLR_AUTONOMY_LEVEL=0\nSEQS=2\n");
    assert!(room.permitted(&promotion).await.is_err());
}

/// Fault 85: an approval is for the plan, the base and the policy that were shown.
#[tokio::test]
async fn a_yes_to_another_policy_is_none_and_it_is_asked_anew() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Manual)).await;
    let promotion = promotion(&[("SEQS", 12)]);
    room.propose(&promotion);
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    let shown = room.waiting().await.remove(0).binding;
    assert!(room.answer_to(&promotion, true, "another".to_owned()).await.is_err());
    let stricter = Config { rollbacks_per_day_max: 1, ..config(Autonomy::Manual) };
    room.socket.send(Msg::Reconfigured(stricter, 900, SCALES)).unwrap();
    assert!(room.answer_to(&promotion, true, shown.clone()).await.is_err(), "the policy is another one by now");
    room.socket.send(Msg::Sweep).unwrap();
    eventually(|| world.journal.count(Kind::Ruling) == 2).await;
    let now = room.waiting().await.remove(0).binding;
    assert_ne!(now, shown);
    room.answer_to(&promotion, true, now).await.unwrap();
    room.approved.next(SOON).await.unwrap();
    // And once more: a yes that is given does not outlive the policy that it was given under.
    room.socket.send(Msg::Reconfigured(config(Autonomy::Manual), 900, SCALES)).unwrap();
    assert!(room.permitted(&promotion).await.unwrap_err().contains("another policy"));
}

/// Fault 81: what is new waits in a freeze window.
#[tokio::test]
async fn in_a_freeze_window_nothing_new_passes_until_it_is_over() {
    let world = World::with_env("SEQS=2\n");
    // The test's clock stands at a Thursday, sixteen minutes past midnight.
    let freeze = vec!["thu 00:00-00:30".parse().unwrap()];
    let room = open(&world, Config { freeze, ..config(Autonomy::Full) }).await;
    room.propose(&promotion(&[("SEQS", 12)]));
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    assert_eq!(room.held().await, [Held::FreezeWindow]);
    world.clock.pass(20 * 60);
    room.approved.next(SOON).await.unwrap();
}

/// Fault 82: what is over budget waits, with its reason; a person thaws what was undone too often.
#[tokio::test]
async fn a_frozen_domain_waits_and_goes_on_when_a_person_thaws_it() {
    let world = World::with_env("SEQS=2\n");
    for number in 0..3 {
        let deployment = deployment_of(promotion(&[("SEQS", 20 + number)]));
        let closed = Fact::Step { deployment: deployment.id.clone(), step: Step::Closed };
        let verdict = crate::testing::rollback(&deployment, Reason::Worse);
        world.write(vec![Fact::Verdict(verdict), closed]);
    }
    let room = open(&world, config(Autonomy::Full)).await;
    room.propose(&promotion(&[("SEQS", 12)]));
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    assert_eq!(room.held().await, [Held::Frozen]);
    let thaw = |domain: &str| {
        let domain = domain.to_owned();
        room.socket.call(|reply| Msg::Thawed(domain, 1000, reply), SOON)
    };
    assert!(thaw("nowhere").await.unwrap().is_err());
    world.clock.pass(1);
    thaw("lab").await.unwrap().unwrap();
    room.approved.next(SOON).await.unwrap();
    assert!(thaw("lab").await.unwrap().unwrap_err().contains("is not frozen"));
    assert_eq!(world.journal.count(Kind::Thaw), 1);
}

#[tokio::test]
async fn what_waits_for_its_turn_does_not_wait_for_ever_nor_in_a_queue_without_end() {
    let world = World::with_env("SEQS=2\n");
    world.switch.stop("");
    let short = Config { waiting_max: 1, held_max_s: 60, ..config(Autonomy::Full) };
    let room = open(&world, Config { freeze: vec!["00:00-24:00".parse().unwrap()], ..short }).await;
    let at_ms = 1_000_000;
    room.propose(&Promotion { at_ms, ..promotion(&[("SEQS", 12)]) });
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    room.propose(&Promotion { at_ms, ..promotion(&[("SEQS", 13)]) });
    assert_eq!(room.ended.next(SOON).await.unwrap().how, "refused");
    // A person's stop takes as long as it takes.
    world.clock.pass(120);
    room.socket.send(Msg::Sweep).unwrap();
    assert_eq!(room.held().await, [Held::Stopped]);
    world.switch.go();
    eventually(|| {
        world
            .journal
            .facts(&[Kind::Ruling])
            .iter()
            .any(|fact| matches!(fact, Fact::Ruling(Ruling::Refuse { why, .. }) if why.contains("waited too long")))
    })
    .await;
    assert!(room.approved.taken().is_empty());
}

/// Once the newest ten thousand facts were read, and what was held behind more of them was forgotten at a restart, question and all.
#[tokio::test]
async fn what_is_held_behind_any_number_of_other_facts_is_still_held_after_a_restart() {
    let world = World::with_env("SEQS=2\n");
    world.switch.stop("");
    let deployed = promotion(&[("SEQS", 11)]);
    world.write(vec![Fact::Promotion(deployed.clone())]);
    let closed = [Step::Intended, Step::Judged(crate::facts::Ruled::Rollback), Step::Restored, Step::Closed];
    world.write_deployment(&deployment_of(deployed), &closed);
    let (refused, held) = (promotion(&[("SEQS", 14)]), promotion(&[("SEQS", 12)]));
    let no = Ruling::Refuse { promotion: refused.id.clone(), why: String::new() };
    world.write(vec![Fact::Promotion(refused), Fact::Ruling(no), Fact::Promotion(held.clone())]);
    let run = Fact::Run {
        deployment: crate::facts::DeploymentId::new("d-other"),
        block: 1,
        place: 1,
        candidate: true,
        outcome: Err(crate::testing::failure(crate::facts::FailureKind::Died)),
    };
    world.write(vec![run; 10_000]);
    let room = open(&world, config(Autonomy::Full)).await;
    assert_eq!(room.held().await, [Held::Stopped], "what was deployed or refused is not held");
    world.switch.go();
    assert_eq!(room.approved.next(SOON).await.unwrap().into_parts().0.id, held.id);
}

#[tokio::test]
async fn a_key_edited_by_hand_is_noted_once_and_left_alone() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Full)).await;
    eventually(|| world.journal.count(Kind::Adoption) == 1).await;
    world.env.set("SEQS=3\nOTHER=1\n");
    world.clock.pass(11);
    eventually(|| world.journal.count(Kind::Adoption) == 2).await;
    let Some(Fact::Adoption(adoption)) = world.journal.facts(&[Kind::Adoption]).pop() else { panic!("no adoption") };
    assert_eq!(adoption.edited.iter().map(crate::facts::Key::as_str).collect::<Vec<_>>(), ["SEQS"]);
    assert!(!format!("{adoption:?}").contains("\"3\""), "the value itself is not written down");
    room.propose(&promotion(&[("SEQS", 12)]));
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    assert_eq!(room.held().await, [Held::CoolDown]);
    let own = Promotion { origin: Origin::Person(1000), ..promotion(&[("SEQS", 13)]) };
    room.propose(&own);
    room.approved.next(SOON).await.unwrap();
    // It survives a restart of the room, and is not noted again.
    let old = room.socket.actor().unwrap().get_id();
    room.tree.kill("gate").unwrap();
    eventually(|| room.socket.actor().is_some_and(|actor| actor.get_id() != old)).await;
    world.clock.pass(11);
    room.socket.send(Msg::Sweep).unwrap();
    room.waiting().await;
    assert_eq!(world.journal.count(Kind::Adoption), 2);
    world.clock.pass(86_400);
    eventually(|| room.approved.taken().into_iter().any(|approved| approved.into_parts().0.origin != own.origin)).await;
}

#[tokio::test]
async fn advice_is_given_in_the_place_of_a_deployment_and_ends_the_question() {
    for level in [Autonomy::Manual, Autonomy::Full] {
        let world = World::with_env("SEQS=2\n");
        let room = open(&world, Config { advice: true, ..config(level) }).await;
        let promotion = promotion(&[("SEQS", 12)]);
        room.propose(&promotion);
        assert_eq!(room.ended.next(SOON).await.unwrap().how, "advised");
        assert!(room.permitted(&promotion).await.is_err());
        assert!(room.approved.taken().is_empty());
        assert_eq!(room.waiting().await, []);
        assert!(matches!(&world.journal.facts(&[Kind::Ruling])[..], [Fact::Ruling(Ruling::Advise { .. })]));
    }
}

#[tokio::test]
async fn what_a_person_takes_back_before_it_begins_is_refused_and_never_deployed() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Full)).await;
    let promotion = promotion(&[("SEQS", 12)]);
    room.propose(&promotion);
    room.approved.next(SOON).await.unwrap();
    // It was let through, and the deployer has not begun.
    assert!(room.permitted(&promotion).await.is_ok());
    assert_eq!(room.answer(&promotion, false).await.unwrap().id, promotion.id);
    assert!(room.permitted(&promotion).await.is_err());
    assert_eq!(world.ends(), ["refused"]);
    let refused = room.answer(&promotion, false).await.unwrap_err();
    assert!(refused.contains("not on its way"), "{refused}");
    // The deployer would write this name, and of the two the first one stands.
    let deployment = deployment_of(promotion.clone());
    world.write_deployment(&deployment, &[]);
    assert_eq!(world.journal.count(Kind::Deployment), 0);
}

#[tokio::test]
async fn what_has_begun_is_not_taken_back_by_a_no_that_came_too_late() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world, config(Autonomy::Full)).await;
    let promotion = promotion(&[("SEQS", 12)]);
    room.propose(&promotion);
    room.approved.next(SOON).await.unwrap();
    world.write_deployment(&deployment_of(promotion.clone()), &[]);
    assert!(room.answer(&promotion, false).await.is_err());
    assert_eq!(world.journal.count(Kind::Answer), 0);
}

#[tokio::test]
async fn what_was_taken_back_stays_so_after_a_crash_before_it_was_refused() {
    let world = World::with_env("SEQS=2\n");
    let promotion = promotion(&[("SEQS", 12)]);
    let why = Some("nobody waited".to_owned());
    let answer =
        Answer { promotion: promotion.id.clone(), approved: false, by_uid: Some(7), why, binding: String::new() };
    world.write(vec![Fact::Promotion(promotion.clone()), Fact::Answer(answer)]);
    let room = open(&world, config(Autonomy::Full)).await;
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    let rulings = world.journal.facts(&[Kind::Ruling]);
    assert!(matches!(&rulings[0], Fact::Ruling(Ruling::Refuse { why, .. }) if why == "nobody waited"), "{rulings:?}");
    assert!(room.approved.taken().is_empty());
}

/// What the noise of the lab is, when it is known.
fn known(resolves: f64) -> Fact {
    let improvement = crate::facts::Estimate { ratio: 0.0, low: -0.01, high: 0.01 };
    let noise =
        crate::facts::Noise { spread: 0.03, freedom: 9, improvement, resolves, blocks: 60, runs: 12, samples: 600 };
    let measured_by = domain("lab").measured_by();
    Fact::Calibration(crate::facts::Calibration {
        domain: "lab".to_owned(),
        measured_by,
        outcome: Ok(noise),
        at_ms: 1_000_000,
    })
}

#[tokio::test]
async fn a_change_of_a_domain_whose_noise_is_not_known_waits_until_it_is() {
    for (resolves, passes) in [(0.04, true), (30.0, false)] {
        let world = World::with_env("SEQS=2\n");
        let scales = Scales { calibrated_for_s: Some(86_400), ..SCALES };
        let room = open_scaled(&world, config(Autonomy::Full), crate::testing::catalogue(), scales).await;
        room.propose(&promotion(&[("SEQS", 8)]));
        assert_eq!(room.uncalibrated.next(SOON).await.as_deref(), Some("lab"));
        let standing = room.socket.call(Msg::Looked, SOON).await.unwrap();
        assert_eq!((standing.held[0].held, room.approved.taken().len()), (Held::Uncalibrated, 0));
        world.write(vec![known(resolves)]);
        if passes {
            assert!(room.approved.next(SOON).await.is_some());
        } else {
            let end = room.ended.next(SOON).await.unwrap();
            assert!(end.why.contains("it cannot be judged"), "{}", end.why);
            assert!(room.approved.taken().is_empty());
        }
    }
}
