//! What is asked of a supervisor while something else is under way there.

use crate::cases::*;
use crate::fixtures::in_time;

async fn ids(control: &Control) -> Vec<String> {
    control.which_children().await.unwrap().into_iter().map(|child| child.id).collect()
}

async fn says(log: &Log, line: &str) {
    until(|| log.lines().iter().any(|said| said == line)).await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_terminated_during_a_group_restart_stays_down_and_who_asked_is_answered() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let b = with("b", &log, |habits| habits.stop_takes = seconds(2));
    let tree = house(Strategy::OneForAll, &[&a, &b]).await;
    let control = root(&tree);
    a.tell(Order::Fail("ouch"));
    says(&log, "stopping b").await;
    in_time(control.terminate_child("b")).await.unwrap();
    a.reaches(2).await;
    assert_eq!(presence(&control, "b").await, Some(Presence::Down));
    assert_eq!((b.starts.load(Ordering::SeqCst), b.alive()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_group_fails_while_it_is_being_terminated_stays_down_and_who_asked_is_answered() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        let log = Log::default();
        let a = Room::new("a", &log);
        let b = with("b", &log, |habits| habits.stop_takes = seconds(2));
        let tree = house(strategy, &[&a, &b]).await;
        let control = root(&tree);
        let (terminated, ()) = tokio::join!(in_time(control.terminate_child("b")), async {
            says(&log, "stopping b").await;
            a.tell(Order::Fail("ouch"));
        });
        terminated.unwrap();
        a.reaches(2).await;
        assert_eq!(presence(&control, "b").await, Some(Presence::Down), "{strategy:?}");
        assert_eq!((b.starts.load(Ordering::SeqCst), b.alive()), (1, 0));
        // It is down like any other, and can be brought back.
        control.restart_child("b").await.unwrap();
        assert_eq!(b.generation().await, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn where_each_stands_alone_a_termination_does_not_wait_for_another() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let z = with("z", &log, |habits| habits.stop_takes = 100 * LONG);
    let spec = supervisor("house", Strategy::OneForOne).child(a.spec()).child(z.spec().shutdown(Shutdown::Unlimited));
    let tree = start(spec).await.unwrap();
    let (control, slow) = (root(&tree), root(&tree));
    let terminating = tokio::spawn(async move { slow.terminate_child("z").await });
    says(&log, "stopping z").await;
    let before = Instant::now();
    control.terminate_child("a").await.unwrap();
    assert!(before.elapsed() < seconds(1), "{:?}", before.elapsed());
    assert_eq!(presence(&control, "a").await, Some(Presence::Down));
    assert!(!terminating.is_finished());
}

// OTP's own supervisor gives up here as well: it hears of each end in its turn, and counts it.
#[tokio::test(start_paused = true)]
async fn failures_that_lie_apart_are_counted_apart_also_while_the_rest_is_being_stopped() {
    let log = Log::default();
    let [a, b, c] = rooms(&log, ["a", "b", "c"]);
    let d = with("d", &log, |habits| habits.stop_takes = seconds(100));
    for (restarts_max, gives_up) in [(1, true), (2, false)] {
        let spec = [&a, &b, &c]
            .iter()
            .fold(allowing(restarts_max, "house", Strategy::RestForOne), |spec, room| spec.child(room.spec()));
        let tree = start(spec.child(d.spec().shutdown(Shutdown::Unlimited))).await.unwrap();
        let (first, in_front) = (b.generation().await, a.generation().await);
        c.tell(Order::Fail("first"));
        says(&log, "stopping d").await;
        // The clock goes on only when everybody has heard of everything.
        tokio::time::advance(seconds(20)).await;
        b.tell(Order::Fail("second"));
        if gives_up {
            let ended = Ended::GaveUp { path: "b".to_owned(), reason: "failed: second".to_owned() };
            assert_eq!(in_time(tree.ended()).await, ended);
            assert_eq!([&a, &b, &c, &d].map(Room::alive), [0; 4]);
        } else {
            until_late(|| d.alive() == 1 && d.socket.actor().is_some() && b.starts.load(Ordering::SeqCst) > first)
                .await;
            assert_eq!((a.generation().await, b.generation().await), (in_front, first + 1));
            tree.stop(LONG).await.unwrap();
        }
        log.taken();
    }
}

/// Waits until `condition` holds, which may take as long as it likes on paused time.
async fn until_late(mut condition: impl FnMut() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    in_time(holds).await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_leaving_and_is_named_again_comes_back() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let x = with("x", &log, |habits| habits.stop_takes = seconds(2));
    let tree = house(Strategy::OneForOne, &[&a, &x]).await;
    let control = root(&tree);
    let without = || supervisor("house", Strategy::OneForOne).child(a.spec());
    let (left, back) = tokio::join!(in_time(control.reconfigure(without())), async {
        says(&log, "stopping x").await;
        in_time(control.reconfigure(without().child(x.spec()))).await
    });
    left.unwrap();
    back.unwrap();
    assert_eq!(ids(&control).await, ["a", "x"]);
    assert_eq!((a.generation().await, x.generation().await), (1, 2));
    assert_eq!(x.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_renamed_is_down_before_it_comes_up_under_its_new_name() {
    let log = Log::default();
    let a = with("a", &log, |habits| habits.stop_takes = seconds(1));
    let renamed = Room { id: "b", ..a.clone() };
    let tree = house(Strategy::OneForOne, &[&a]).await;
    log.taken();
    root(&tree).reconfigure(supervisor("house", Strategy::OneForOne).child(renamed.spec())).await.unwrap();
    assert_eq!(log.lines(), ["stopping a", "down a", "start b", "up b"]);
    assert_eq!((ids(&root(&tree)).await, a.alive()), (vec!["b".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_started_by_hand_stays_and_what_the_new_spec_leaves_out_goes() {
    let log = Log::default();
    let [a, b, by_hand] = rooms(&log, ["a", "b", "by_hand"]);
    let tree = house(Strategy::OneForOne, &[&a, &b]).await;
    let control = root(&tree);
    control.start_child(by_hand.spec()).await.unwrap();
    log.taken();
    control.reconfigure(supervisor("house", Strategy::OneForOne).child(a.spec())).await.unwrap();
    assert_eq!(log.lines(), ["down b"]);
    assert_eq!(ids(&control).await, ["a", "by_hand"]);
    assert_eq!((a.generation().await, by_hand.generation().await), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_children_of_a_nursery_stay_when_its_flags_change() {
    let log = Log::default();
    let (_tree, nursery, exits) = nursery(0).await;
    let a = Room::new("a", &log);
    nursery.start_child(a.spec()).await.unwrap();
    let intensity = Intensity { restarts_max: 7, within: seconds(9) };
    nursery.control().reconfigure(TreeSpec::nursery("trials", &nursery).intensity(intensity)).await.unwrap();
    assert_eq!(nursery.control().flags().await.unwrap().intensity, intensity);
    assert_eq!((a.generation().await, nursery.children().len()), (1, 1));
    assert_eq!(exits.taken(), []);
    a.tell(Order::Fail("ouch"));
    a.reaches(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_changed_from_above_is_made_in_the_new_way_at_its_next_start() {
    let log = Log::default();
    let [a, b] = rooms(&log, ["a", "b"]);
    let mind = || allowing(9, "mind", Strategy::OneForOne).child(a.spec());
    let house = || allowing(9, "house", Strategy::OneForOne);
    let tree = start(house().tree(mind())).await.unwrap();
    let changed = mind().child(b.spec()).auto_shutdown(AutoShutdown::Any);
    root(&tree).reconfigure(house().tree(changed)).await.unwrap();
    assert_eq!((a.generation().await, b.starts.load(Ordering::SeqCst)), (1, 0));
    tree.kill("mind").unwrap();
    b.reaches(1).await;
    let control = tree.control("mind").unwrap();
    assert_eq!(ids(&control).await, ["a", "b"]);
    assert_eq!(control.flags().await.unwrap().auto_shutdown, AutoShutdown::Any);
    assert_eq!((state(&tree, "mind/b"), a.generation().await), (Some(State::Running), 2));
    tree.stop(LONG).await.unwrap();
    assert_eq!((a.alive(), b.alive()), (0, 0));
}
