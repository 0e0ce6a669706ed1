//! What is measured in place: whether a service may be lent, and stays lent.

use std::collections::BTreeMap;

use super::*;
use crate::{
    facts::{DeploymentId, Loan, LoanStep},
    testing::{experiment, in_place},
};

const ALWAYS: &str = "mon-sun";

/// The first day of 1970 was a Thursday.
const NEVER: &str = "mon-wed";

fn trials() -> Promotion {
    let mut promotion = promotion(&[("SEQS", 64)]);
    promotion.id = PromotionId::new("p-trials");
    promotion.origin = Origin::Trials(experiment().id);
    promotion
}

fn lent(promotion: &Promotion) -> Fact {
    Fact::Loan(Loan {
        id: DeploymentId::new("l-1"),
        experiment: experiment().id,
        promotion: promotion.id.clone(),
        domain: "lab".to_owned(),
        authority: Authority::Person(1000),
        at_ms: 1_000_000,
    })
}

fn step(step: LoanStep) -> Fact {
    Fact::LoanStep { loan: DeploymentId::new("l-1"), experiment: experiment().id, step }
}

async fn open_lent(world: &World, level: Autonomy, window: &str) -> Room {
    open_of(world, config(level), in_place(window)).await
}

async fn permit(room: &Room, promotion: &Promotion) -> Result<Authority, String> {
    let make = |reply| Msg::Rechecked(Permit { promotion: promotion.id.clone(), reply });
    room.socket.call(make, SOON).await.unwrap()
}

#[tokio::test]
async fn a_service_is_lent_by_level_and_risk_as_it_is_changed() {
    for (level, is_let_through) in [(Autonomy::Manual, false), (Autonomy::Cautious, true)] {
        let world = World::with_env("SEQS=2\n");
        let room = open_lent(&world, level, ALWAYS).await;
        room.propose(&trials());
        eventually(|| world.journal.count(Kind::Ruling) == 1).await;
        assert_eq!(room.waiting().await.is_empty(), is_let_through, "{level:?}");
    }
}

#[tokio::test]
async fn a_person_is_asked_in_the_daytime_for_what_is_done_at_night_and_the_yes_lasts_until_then() {
    let world = World::with_env("SEQS=2\n");
    let room = open_lent(&world, Autonomy::Manual, NEVER).await;
    let trials = trials();
    room.propose(&trials);
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    room.answer(&trials, true).await.unwrap();
    // Longer than an approval lasts that could be used at once.
    world.clock.pass(10 * 3600);
    assert_eq!(permit(&room, &trials).await, Ok(Authority::Person(1000)));
    world.clock.pass(7 * 86_400);
    assert!(permit(&room, &trials).await.is_err());
}

#[tokio::test]
async fn what_a_level_lets_through_waits_for_the_window_and_says_so() {
    let world = World::with_env("SEQS=2\n");
    let room = open_lent(&world, Autonomy::Full, NEVER).await;
    room.propose(&trials());
    eventually(|| world.journal.count(Kind::Ruling) == 1).await;
    let standing = room.socket.call(Msg::Looked, SOON).await.unwrap();
    assert_eq!(standing.held[0].held, Held::Maintenance);
    assert!(standing.held[0].why.contains(NEVER), "{}", standing.held[0].why);
    assert!(room.approved.taken().is_empty());
}

#[tokio::test]
async fn a_service_that_is_lent_stays_so_while_the_gate_would_say_so_still() {
    let world = World::with_env("SEQS=2\n");
    let room = open_lent(&world, Autonomy::Cautious, ALWAYS).await;
    let trials = trials();
    room.propose(&trials);
    room.approved.next(SOON).await.unwrap();
    world.write(vec![lent(&trials)]);
    // Its own loan is not in its way, and how long ago it was allowed does not matter.
    world.clock.pass(2 * 3600);
    assert_eq!(permit(&room, &trials).await, Ok(Authority::Policy(Autonomy::Cautious)));
    world.env.set("SEQS=2\nKLR_AUTONOMY_LEVEL=0\n");
    assert!(permit(&room, &trials).await.unwrap_err().contains("autonomy level 0"));
    world.env.set("SEQS=2\n");
    world.switch.stop("no");
    assert!(permit(&room, &trials).await.unwrap_err().contains("user 1000"));
    world.switch.go();
    let freeze = Config { freeze: vec!["thu".parse().unwrap()], ..config(Autonomy::Cautious) };
    room.socket.send(Msg::Reconfigured(freeze, 900, SCALES)).unwrap();
    assert!(permit(&room, &trials).await.unwrap_err().contains("gate.freeze says thu"));
    room.socket.send(Msg::Reconfigured(config(Autonomy::Cautious), 900, SCALES)).unwrap();
    world.write(vec![step(LoanStep::Ended { why: "it is over".to_owned() })]);
    assert!(permit(&room, &trials).await.unwrap_err().contains("not on its way"));
}

#[tokio::test]
async fn nothing_else_changes_a_service_that_is_lent_and_its_candidates_are_no_edits_by_hand() {
    let world = World::with_env("SEQS=2\n");
    let room = open_lent(&world, Autonomy::Cautious, ALWAYS).await;
    eventually(|| world.journal.count(Kind::Adoption) == 1).await;
    let (trials, change) = (trials(), promotion(&[("SEQS", 12)]));
    room.propose(&trials);
    room.approved.next(SOON).await.unwrap();
    world.write(vec![lent(&trials)]);
    world.env.set("SEQS=64\n");
    world.clock.pass(60);
    room.propose(&change);
    eventually(|| world.journal.count(Kind::Ruling) == 2).await;
    let standing = room.socket.call(Msg::Looked, SOON).await.unwrap();
    assert_eq!(standing.held[0].held, Held::Pending);
    assert_eq!(world.journal.count(Kind::Adoption), 1);
    world.env.set("SEQS=2\n");
    world.write(vec![step(LoanStep::Ended { why: "it is over".to_owned() })]);
    world.clock.pass(60);
    let (what, _) = room.approved.next(SOON).await.unwrap().into_parts();
    assert_eq!((what, world.journal.count(Kind::Adoption)), (change, 1));
}

#[tokio::test]
async fn who_only_gives_advice_lends_nothing() {
    let world = World::with_env("SEQS=2\n");
    let advice = Config { advice: true, ..config(Autonomy::Full) };
    let room = open_of(&world, advice, in_place(ALWAYS)).await;
    room.propose(&trials());
    eventually(|| world.ends() == ["refused"]).await;
    assert!(room.approved.taken().is_empty());
}

/// The first day of 1970 begins with the window, and a change of 24 runs of a minute each is proven within it or not begun.
#[tokio::test]
async fn what_cannot_be_proven_before_the_window_ends_waits_whoever_said_yes() {
    for (level, is_asked) in [(Autonomy::Full, false), (Autonomy::Manual, true)] {
        let world = World::with_env("SEQS=2\n");
        // The clock stands at 00:16:40.
        let room = open_lent(&world, level, "thu 00:00-00:45").await;
        let trials = trials();
        world.write(vec![Fact::Promotion(trials.clone()), lent(&trials)]);
        for number in 0..3 {
            let (label, settings) = (format!("x.g1.t{number:02}"), BTreeMap::new());
            world.write(vec![step(LoanStep::Applies { label, settings })]);
            world.clock.pass(120);
        }
        world.write(vec![step(LoanStep::Ended { why: "it is over".to_owned() })]);
        let change = promotion(&[("SEQS", 8)]);
        room.propose(&change);
        if is_asked {
            eventually(|| world.journal.count(Kind::Ruling) == 1).await;
            room.answer(&change, true).await.unwrap();
        }
        let held = |standing: &crate::gate::Standing| standing.held.iter().map(|held| held.why.clone()).next();
        let standing = room.socket.call(Msg::Looked, SOON).await.unwrap();
        let why = held(&standing).unwrap_or_default();
        assert!(why.contains("24 runs of 120 s each"), "{level:?} {why:?}");
        assert!(permit(&room, &change).await.is_err());
        assert!(room.approved.taken().is_empty());
    }
}
