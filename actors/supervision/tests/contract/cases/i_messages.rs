//! I. Beyond OTP: messages.

use super::*;

fn bounded(id: &'static str, log: &Log, in_flight_max: usize, when_full: WhenFull) -> Room {
    Room::new(id, log).behind(Mailbox { in_flight_max, when_full, ..Mailbox::default() })
}

fn got(log: &Log) -> Vec<String> {
    log.lines().into_iter().filter(|line| line.contains("got")).collect()
}

/// Returns how much memory the process holds, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

cases! {
    async fn case_086_no_message_is_lost_in_silence_nor_handled_twice() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let tree = start(allowing(9_999, "house", Strategy::OneForOne).child(a.spec())).await.unwrap();
        let outlet = a.socket.outlet(Order::Note);
        let (mut taken, mut refused) = (Vec::new(), 0);
        for number in 0..2_000 {
            if number % 50 == 7 && a.socket.send(Order::Fail("ouch")).is_ok() {
                taken.push(None);
            }
            match outlet.send(number) {
                Ok(()) => taken.push(Some(number)),
                Err(down) => {
                    assert_eq!(down, Down::Absent { room: "a".to_owned() });
                    refused += 1;
                }
            }
            if number % 20 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let accounted = || {
            let snapshot = tree.snapshot();
            let place = snapshot.find("a").unwrap();
            (place.lost, got(&log).len() as u64)
        };
        let settled = async {
            while accounted().0 + accounted().1 != taken.len() as u64 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let settled = tokio::time::timeout(seconds(10), settled).await;
        assert!(settled.is_ok(), "{} were taken, and of them {:?} lost and handled", taken.len(), accounted());
        let mut once = got(&log);
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), got(&log).len());
        assert!(refused + taken.len() >= 2_000 && accounted().0 > 0);
    }

    async fn case_087_what_is_lost_is_told_and_a_message_that_kills_is_set_aside() {
        let log = Log::default();
        let identity = |order: &Order| match order {
            Order::Poison(number) => Some(*number),
            _ => None,
        };
        let poison = Some(Poison { identity, kills_max: 3 });
        let a = Room::new("a", &log).behind(Mailbox { poison, ..Mailbox::default() });
        let tree = start(allowing(99, "house", Strategy::OneForOne).child(a.spec())).await.unwrap();
        let mut events = tree.events();
        for generation in 2..=4 {
            a.tell(Order::Poison(13));
            a.reaches(generation).await;
        }
        let lost = EventKind::Lost { handling: Some("poison"), waiting: 0 };
        assert_eq!(told(&mut events).iter().filter(|event| event.kind == lost).count(), 3);
        let set_aside = Down::SetAside { room: "a".to_owned(), kind: "poison", kills: 3 };
        assert_eq!(a.socket.send(Order::Poison(13)), Err(set_aside));
        a.tell(Order::Poison(14));
        a.reaches(5).await;

        // One that is cut off in its handler takes those with it that wait.
        a.tell(Order::Hang);
        is_at(&tree, "a", "hang").await;
        a.tell(Order::Note(1));
        a.tell(Order::Note(2));
        tree.kill("a").unwrap();
        a.reaches(6).await;
        let lost = EventKind::Lost { handling: Some("hang"), waiting: 2 };
        assert_eq!(told(&mut events).iter().filter(|event| event.kind == lost).count(), 1);
        assert_eq!(tree.snapshot().find("a").unwrap().lost, 7);
    }

    // It was neither handled nor told as lost.
    async fn case_087_a_message_that_is_kept_for_a_next_generation_is_lost_when_none_comes() {
        let log = Log::default();
        let coalescing = |id| bounded(id, &log, 1, WhenFull::Coalesce);
        let [listed, added, by_hand] = ["listed", "added", "by_hand"].map(coalescing);
        let brutal = |room: &Room| room.spec().shutdown(Shutdown::Brutal);
        let mind = allowing(9, "mind", Strategy::OneForOne).child(brutal(&listed));
        let tree = start(allowing(9, "house", Strategy::OneForOne).tree(mind)).await.unwrap();
        tree.control("mind").unwrap().start_child(brutal(&added)).await.unwrap();
        root(&tree).start_child(brutal(&by_hand)).await.unwrap();
        let mut events = tree.events();
        for room in [&listed, &added, &by_hand] {
            room.tell(Order::Hang);
            until(|| tree.snapshot().walk().iter().any(|place| place.id == room.id && place.busy_with == Some("hang"))).await;
            (1..=3).for_each(|number| room.tell(Order::Note(number)));
        }
        // While its place is known it may come back, and take what is kept.
        root(&tree).terminate_child("by_hand").await.unwrap();
        let given_up = |events: &mut _| -> Vec<String> {
            let kept = EventKind::Lost { handling: None, waiting: 1 };
            told(events).into_iter().filter(|event| event.kind == kept).map(|event| event.path).collect()
        };
        assert_eq!(given_up(&mut events), Vec::<String>::new());
        root(&tree).delete_child("by_hand").await.unwrap();
        assert_eq!(given_up(&mut events), ["by_hand"]);
        tree.stop(LONG).await.unwrap();
        assert_eq!(given_up(&mut events), ["mind/added", "mind/listed"]);
        assert_eq!(tree.snapshot().find("mind/listed").unwrap().lost, 3);
        assert!(log.lines().iter().all(|line| !line.contains("got")));

        let (house, nursery, _) = nursery(0).await;
        let mut events = house.events();
        let trial = bounded("trial", &log, 1, WhenFull::Coalesce);
        nursery.start_child(trial.spec().restart(Restart::Temporary)).await.unwrap();
        trial.tell(Order::Hang);
        is_at(&house, "trials/trial", "hang").await;
        (1..=3).for_each(|number| trial.tell(Order::Note(number)));
        house.kill("trials/trial").unwrap();
        until(|| nursery.children().is_empty()).await;
        nursery.control().ping(LONG).await.unwrap();
        assert_eq!(given_up(&mut events), ["trials/trial"]);
    }

    // A question took the place of the fact that was kept, or the next fact the place of the question.
    async fn case_088_a_question_neither_takes_the_place_of_the_newest_message_nor_gives_up_its_own() {
        let log = Log::default();
        let a = bounded("a", &log, 1, WhenFull::Coalesce);
        let tree = house(Strategy::OneForOne, &[&a]).await;
        a.tell(Order::Work { step: beats(3), steps: 1 });
        is_at(&tree, "a", "work").await;
        a.tell(Order::Note(1));
        a.tell(Order::Note(2));
        let full = Down::Full { room: "a".to_owned(), in_flight_max: 1 };
        assert_eq!(a.socket.call(Order::Echo, LONG).await, Err(CallError::Down(full)));
        until(|| got(&log).len() == 2).await;
        assert_eq!((got(&log), a.generation().await), (vec!["a got 1".to_owned(), "a got 2".to_owned()], 1));
    }

    async fn case_088_a_full_mailbox_refuses_waits_or_keeps_the_newest_and_never_holds_up_its_supervisor() {
        let log = Log::default();
        let a = bounded("a", &log, 3, WhenFull::Refuse);
        let tree = house(Strategy::OneForOne, &[&a]).await;
        let outlet = a.socket.outlet(Order::Note);
        a.tell(Order::Work { step: beats(3), steps: 1 });
        is_at(&tree, "a", "work").await;
        (1..=3).for_each(|number| outlet.send(number).unwrap());
        let full = Down::Full { room: "a".to_owned(), in_flight_max: 3 };
        assert_eq!(outlet.send(4), Err(full.clone()));
        assert_eq!(outlet.send_within(5, Duration::from_millis(1)).await, Err(full));
        let (sixth, seventh) = tokio::join!(outlet.send_within(6, LONG), outlet.send_within(7, LONG));
        assert_eq!((sixth, seventh), (Ok(()), Ok(())));
        until(|| got(&log).len() == 5).await;
        assert_eq!(got(&log)[..3], ["a got 1", "a got 2", "a got 3"]);
        let absent = Err(Down::Absent { room: "a".to_owned() });
        a.tell(Order::Work { step: beats(3), steps: 1 });
        is_at(&tree, "a", "work").await;
        (1..=3).for_each(|number| outlet.send(number).unwrap());
        // Whoever waits for room hears at once that there will be none.
        let (waited, stopped) = tokio::join!(outlet.send_within(8, LONG), tree.stop(LONG));
        assert_eq!((waited, stopped.map(|stopped| stopped.killed)), (absent.clone(), Ok(Vec::new())));
        assert_eq!(outlet.send_within(9, LONG).await, absent);

        let log = Log::default();
        let a = bounded("a", &log, 2, WhenFull::Coalesce);
        let tree = house(Strategy::OneForOne, &[&a]).await;
        a.tell(Order::Work { step: beats(3), steps: 1 });
        is_at(&tree, "a", "work").await;
        (1..=9).for_each(|number| a.tell(Order::Note(number)));
        until(|| got(&log).len() == 3).await;
        assert_eq!(a.generation().await, 1);
        assert_eq!(got(&log), ["a got 1", "a got 2", "a got 9"]);

        tree.stop(LONG).await.unwrap();
    }

    async fn case_088_what_a_full_mailbox_does_not_take_costs_no_memory_and_holds_up_nobody() {
        if !i_processes::is_alone(&i_processes::path_of_case(module_path!())) {
            return;
        }
        for when_full in [WhenFull::Refuse, WhenFull::Coalesce] {
            let log = Log::default();
            let a = bounded("a", &log, 100, when_full);
            let tree = start(allowing(9, "house", Strategy::OneForOne).child(a.spec().stall_after(LONG))).await.unwrap();
            a.tell(Order::Hang);
            is_at(&tree, "a", "hang").await;
            (1..=100).for_each(|number| a.tell(Order::Note(number)));
            let before = resident();
            let mut refused = 0;
            for number in 0..if is_paused() { 10_000_000 } else { 1_000_000 } {
                refused += u64::from(a.socket.send(Order::Note(number)).is_err());
            }
            let grown = resident().saturating_sub(before);
            assert!(grown < 1 << 20, "{grown} bytes more");
            assert_eq!(refused > 0, when_full == WhenFull::Refuse);
            assert_eq!(tree.snapshot().find("a").unwrap().depth, 100);
            // The mailbox is full, and all of this passes it by.
            let control = root(&tree);
            let before = Instant::now();
            assert_eq!(control.count_children().await.unwrap().active, 1);
            tree.kill("a").unwrap();
            a.reaches(2).await;
            a.tell(Order::Hang);
            is_at(&tree, "a", "hang").await;
            while a.socket.send(Order::Note(0)).is_ok() && tree.snapshot().find("a").unwrap().depth < 100 {}
            control.reconfigure(allowing(9, "house", Strategy::OneForOne).child(a.spec().shutdown(Shutdown::Brutal))).await.unwrap();
            control.terminate_child("a").await.unwrap();
            assert_eq!(tree.snapshot().find("a").unwrap().lost, 202);
            tree.stop(LONG).await.unwrap();
            took(before, 0);
        }
    }
}
