//! OTP's contract and what goes beyond it, case by case: each is tried on paused time and once more on two workers.

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::Ordering;
pub(crate) use std::time::Duration;

pub(crate) use kloros_supervision::*;
pub(crate) use tokio::time::Instant;

pub(crate) use crate::fixtures::{
    Habits, LONG, Log, Order, Room, allowing, at_once, house, is_at, rooms, seconds, supervisor, told, until, with,
};

/// Makes two tests of each case: on one thread with paused time, and on two workers.
macro_rules! cases {
    ($($(#[$note:meta])* async fn $name:ident() $body:block)*) => { $(
        $(#[$note])*
        mod $name {
            #[allow(unused_imports, reason = "no case needs all of it")]
            use super::*;

            async fn case() $body

            #[tokio::test(start_paused = true)]
            async fn on_paused_time() {
                case().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_two_workers() {
                case().await;
            }
        }
    )* };
}

mod a_starting;

mod b_stopping;

mod c_restart_types;

mod d_strategies;

mod e_intensity;

mod f_administration;

mod g_significant;

mod h_reports;

mod i_beyond;

mod i_messages;

pub(crate) mod i_processes;

mod score;

/// Returns whether time is paused here, so that it passes only when nobody has anything to do.
pub(crate) fn is_paused() -> bool {
    tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::CurrentThread
}

/// A time that is long on paused time, and bearable on two workers.
pub(crate) fn beats(beats: u32) -> Duration {
    beats * if is_paused() { seconds(1) } else { Duration::from_millis(20) }
}

/// Checks that as much time has passed since `before` as should; a busy machine may take longer.
#[track_caller]
pub(crate) fn took(before: Instant, beats_passed: u32) {
    let (passed, least) = (before.elapsed(), beats(beats_passed));
    let most = if is_paused() { least + seconds(1) } else { least + seconds(10) };
    assert!((least..most).contains(&passed), "{passed:?} is not within {least:?} and {most:?}");
}

/// Returns the handle of the root.
pub(crate) fn root(tree: &Tree) -> Control {
    tree.control("house").unwrap()
}

pub(crate) fn state(tree: &Tree, path: &str) -> Option<State> {
    tree.snapshot().find(path).map(|branch| branch.state)
}

pub(crate) async fn is_down(tree: &Tree, path: &str) {
    until(|| state(tree, path).is_none_or(|state| state == State::Stopped)).await;
}

pub(crate) async fn presence(control: &Control, id: &str) -> Option<Presence> {
    let children = control.which_children().await.unwrap();
    children.into_iter().find(|child| child.id == id).map(|child| child.presence)
}

/// Returns the actors that are up, in order.
pub(crate) async fn actors(control: &Control) -> Vec<ractor::ActorId> {
    let children = control.which_children().await.unwrap();
    let up = |child: Child| match child.presence {
        Presence::Up(cell) => Some(cell.get_id()),
        _ => None,
    };
    children.into_iter().filter_map(up).collect()
}

/// Starts a nursery below a root, and returns what tells the ends of its children.
pub(crate) async fn nursery(restarts_max: u32) -> (Tree, Nursery, Collected<ChildExit>) {
    let nursery = Nursery::new("trials");
    let (outlet, exits) = Outlet::collecting();
    nursery.on_exit(outlet);
    let trials = TreeSpec::nursery("trials", &nursery).intensity(Intensity { restarts_max, within: LONG });
    let tree = start(allowing(0, "house", Strategy::OneForOne).tree(trials)).await.unwrap();
    (tree, nursery, exits)
}
