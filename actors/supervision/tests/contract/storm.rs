//! Many children that are killed at random: none is lost, none is doubled, nothing is left, and nobody else notices.

use std::collections::HashSet;
use std::time::Duration;

use kloros_supervision::{ChildSpec, Intensity, Kind, Nursery, Strategy, TreeSpec, start};
use tokio::runtime::Handle;

use crate::cases::i_processes::is_alone;
use crate::fixtures::{LONG, Log, Order, Room, at_once, seconds, supervisor, until};

const CHILDREN: usize = 10_000;
const KILLS_A_ROUND: usize = 4_000;

/// How many seconds the storm lasts; without it, as many rounds as kill everybody once on average. `ops/soak storm` gives it a
/// minute.
const SECONDS: &str = "KLOROS_STORM_SECONDS";
const ROUNDS: u32 = 3;

/// How much more the process may hold when all of it is over than before any of it began, in bytes. What an allocator keeps back of
/// ten thousand children was 36 MB after one minute and after two; what is left behind grows with the time, and `ops/soak` looks for
/// it more closely.
const KEPT_BACK: usize = 64 << 20;

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn names() -> usize {
    ractor::registry::registered().len()
}

/// A small generator, so that each run kills the same ones.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_children_survive_a_storm_and_their_neighbours_do_not_notice() {
    // What the process holds is looked at, so it holds nothing else.
    let test = "ten_thousand_children_survive_a_storm_and_their_neighbours_do_not_notice";
    if !is_alone(&format!("{}::{test}", module_path!())) {
        return;
    }
    let limit = std::env::var(SECONDS).ok().map(|limit| seconds(limit.parse().unwrap()));
    // Once for what is made once for all, such as the blocks of an allocator; then what is left behind is left behind.
    storm(Some(Duration::ZERO)).await;
    let (before, named) = (resident(), names());
    storm(limit).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < KEPT_BACK, "{grown} bytes more");
    assert_eq!(names(), named);
}

/// Kills children at random for so long, or for some rounds, and sees that all is as it was before.
async fn storm(limit: Option<Duration>) {
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
    let began = tokio::time::Instant::now();
    let mut rounds = 0;
    while limit.map_or(rounds < ROUNDS, |limit| rounds == 0 || began.elapsed() < limit) {
        rounds += 1;
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
        // What the rooms say of themselves would be most of what the process holds in the end.
        for room in &rooms {
            room.log.taken();
        }
    }
    assert!(limit.is_some() || killed > CHILDREN);
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
