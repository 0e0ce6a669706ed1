//! Many children that are killed at random: none is lost, none is doubled, nothing is left, and nobody else notices.

use std::collections::HashSet;

use kloros_supervision::{ChildSpec, Intensity, Kind, Nursery, Strategy, TreeSpec, start};
use tokio::runtime::Handle;

use crate::fixtures::{LONG, Log, Order, Room, at_once, seconds, supervisor, until};

const CHILDREN: usize = 10_000;
const ROUNDS: usize = 3;
const KILLS_A_ROUND: usize = 4_000;

/// A small generator, so that each run kills the same ones.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_children_survive_a_storm_and_their_neighbours_do_not_notice() {
    let log = Log::default();
    let at_first = Handle::current().metrics().num_alive_tasks();
    let nursery = Nursery::new("trials");
    let neighbour = Room::new("neighbour", &log);
    let without_end = Intensity { restarts_max: u32::MAX, within: seconds(1) };
    let mind = supervisor("mind", Strategy::OneForAll).child(neighbour.spec());
    let trials = TreeSpec::nursery("trials", &nursery).intensity(without_end);
    let tree = start(supervisor("house", Strategy::OneForOne).tree(mind).tree(trials)).await.unwrap();
    let rooms: Vec<Room> = (0..CHILDREN).map(|_| Room::new("trial", &Log::default())).collect();
    for (number, room) in rooms.iter().enumerate() {
        let (made, socket) = (room.clone(), room.socket.clone());
        let spec = ChildSpec::actor(&number.to_string(), &socket, move || (made.clone(), ()));
        nursery.start_child(spec.backoff(at_once()).failures_max(u32::MAX)).await.unwrap();
    }
    let mut dice = 7;
    let mut killed = 0;
    for _ in 0..ROUNDS {
        for _ in 0..KILLS_A_ROUND {
            let room = &rooms[next(&mut dice) % CHILDREN];
            // One that is down at the moment is spared.
            killed += match (next(&mut dice) % 3, room.socket.actor()) {
                (0, Some(actor)) => {
                    actor.kill();
                    1
                }
                (1, _) => usize::from(room.socket.send(Order::Fail("hit")).is_ok()),
                _ => usize::from(room.socket.send(Order::Stop).is_ok()),
            };
        }
        until(|| rooms.iter().all(|room| room.socket.actor().is_some())).await;
    }
    assert!(killed > CHILDREN);
    // Whoever answers has all orders behind it that were sent before.
    for room in &rooms {
        until(|| room.socket.actor().is_some()).await;
        while room.socket.call(Order::Echo, LONG).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
    let children = nursery.control().which_children().await.unwrap();
    let ids: HashSet<&str> = children.iter().map(|child| child.id.as_str()).collect();
    assert_eq!((children.len(), ids.len()), (CHILDREN, CHILDREN));
    let count = nursery.control().count_children().await.unwrap();
    assert_eq!((count.active, count.workers), (CHILDREN, CHILDREN));
    let snapshot = tree.snapshot();
    assert_eq!(snapshot.walk().iter().filter(|place| place.kind == Kind::Actor).count(), CHILDREN + 1);
    assert_eq!(neighbour.generation().await, 1);
    // An actor and the task that attends it, for each child and supervisor; a timer may be on its way out.
    let alive = || Handle::current().metrics().num_alive_tasks();
    until(|| alive() <= at_first + 2 * (CHILDREN + 4)).await;
    tree.stop(seconds(60)).await.unwrap();
    until(|| alive() <= at_first).await;
}
