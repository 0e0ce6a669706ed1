//! Feedback: one lesson a verdict, whatever happens in between.

use kloros_supervision::{ChildSpec, Collected, Outlet, Socket, Tree};

use super::{Config, Exits, Feedback, Msg};
use crate::{
    facts::{Fact, Kind, Lesson, QuestionEnd, Reason, Ruled, Verdict},
    testing::{SOON, World, deployment_of, eventually, finish, house, promotion, rollback},
};

struct Room {
    socket: Socket<Msg>,
    tree: Tree,
    lessons: Collected<Lesson>,
    ended: Collected<QuestionEnd>,
}

async fn open(world: &World) -> Room {
    let socket = Socket::new("feedback");
    let (lessons_outlet, lessons) = Outlet::collecting();
    let (ended_outlet, ended) = Outlet::collecting();
    let exits = Exits { lessons: vec![lessons_outlet], ended: ended_outlet };
    let seams = world.seams();
    let spec = ChildSpec::actor("feedback", &socket, move || {
        let (seams, exits, config) = (seams.clone(), exits.clone(), Config::default());
        (Feedback, super::Arguments { seams, exits, config })
    });
    Room { tree: house(spec).await, socket, lessons, ended }
}

fn verdict(seqs: i64, outcome: Ruled) -> Verdict {
    Verdict { outcome, ..rollback(&deployment_of(promotion(&[("SEQS", seqs)])), Reason::Worse) }
}

#[tokio::test]
async fn each_verdict_teaches_one_lesson_and_ends_its_question_also_when_it_is_told_twice() {
    for (outcome, how) in [(Ruled::Success, "deployed"), (Ruled::Neutral, "deployed"), (Ruled::Rollback, "rolled_back")]
    {
        let world = World::with_env("");
        let room = open(&world).await;
        for _ in 0..2 {
            room.socket.send(Msg::Judged(verdict(12, outcome))).unwrap();
        }
        assert_eq!(room.lessons.next(SOON).await.unwrap().verdict.outcome, outcome);
        assert_eq!(room.ended.next(SOON).await.unwrap().how, how);
        finish(&room.tree).await;
        assert!(room.lessons.taken().is_empty());
        assert_eq!(world.journal.count(Kind::Lesson), 1);
        assert_eq!(world.ends(), [how]);
    }
}

#[tokio::test]
async fn a_verdict_that_nobody_told_of_teaches_its_lesson_at_the_next_start_and_only_then() {
    let world = World::with_env("");
    world.write(vec![Fact::Verdict(verdict(12, Ruled::Rollback)), Fact::Verdict(verdict(13, Ruled::Success))]);
    let room = open(&world).await;
    room.lessons.next(SOON).await.unwrap();
    room.lessons.next(SOON).await.unwrap();
    let old = room.socket.actor().unwrap().get_id();
    room.tree.kill("feedback").unwrap();
    eventually(|| room.socket.actor().is_some_and(|actor| actor.get_id() != old)).await;
    finish(&room.tree).await;
    assert!(room.lessons.taken().is_empty());
    assert_eq!(world.journal.count(Kind::Lesson), 2);
}

/// Lesson 37: a failure that was not written down is found again, whoever was told of it.
#[tokio::test]
async fn a_journal_that_fails_costs_no_lesson() {
    let world = World::with_env("");
    let room = open(&world).await;
    world.write(vec![Fact::Verdict(verdict(12, Ruled::Rollback))]);
    world.journal.break_at(1);
    room.socket.send(Msg::Judged(verdict(12, Ruled::Rollback))).unwrap();
    eventually(|| world.journal.is_broken()).await;
    world.journal.mend();
    room.lessons.next(SOON).await.unwrap();
    assert_eq!(world.journal.count(Kind::Lesson), 1);
}
