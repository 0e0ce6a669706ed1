//! I. Beyond OTP: messages.

use super::*;

fn bounded(id: &'static str, log: &Log, in_flight_max: usize, when_full: WhenFull) -> Room {
    let mailbox = Mailbox { in_flight_max, when_full, ..Mailbox::default() };
    Room { socket: Socket::with(id, mailbox), ..Room::new(id, log) }
}

fn got(log: &Log) -> Vec<String> {
    log.lines().into_iter().filter(|line| line.contains("got")).collect()
}

/// Returns how much memory the process holds, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

async fn is_busy(tree: &Tree) {
    until(|| tree.snapshot().find("a").unwrap().busy_for.is_some()).await;
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
        until(|| accounted().0 + accounted().1 == taken.len() as u64).await;
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
        let name = |order: &Order| if matches!(order, Order::Poison(_)) { "poison" } else { "other" };
        let poison = Some(Poison { identity, kills_max: 3 });
        let socket = Socket::with("a", Mailbox { name: Some(name), poison, ..Mailbox::default() });
        let a = Room { socket, ..Room::new("a", &log) };
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
        is_busy(&tree).await;
        a.tell(Order::Note(1));
        a.tell(Order::Note(2));
        tree.kill("a").unwrap();
        a.reaches(6).await;
        let lost = EventKind::Lost { handling: Some("other"), waiting: 2 };
        assert_eq!(told(&mut events).iter().filter(|event| event.kind == lost).count(), 1);
        assert_eq!(tree.snapshot().find("a").unwrap().lost, 7);
    }

    async fn case_088_a_full_mailbox_refuses_waits_or_keeps_the_newest_and_never_holds_up_its_supervisor() {
        let log = Log::default();
        let a = bounded("a", &log, 3, WhenFull::Refuse);
        let tree = house(Strategy::OneForOne, &[&a]).await;
        let outlet = a.socket.outlet(Order::Note);
        a.tell(Order::Work { step: beats(3), steps: 1 });
        is_busy(&tree).await;
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
        is_busy(&tree).await;
        (1..=3).for_each(|number| outlet.send(number).unwrap());
        // Whoever waits for room hears at once that there will be none.
        let (waited, stopped) = tokio::join!(outlet.send_within(8, LONG), tree.stop(LONG));
        assert_eq!((waited, stopped), (absent.clone(), Ok(())));
        assert_eq!(outlet.send_within(9, LONG).await, absent);

        let log = Log::default();
        let a = bounded("a", &log, 2, WhenFull::Coalesce);
        let tree = house(Strategy::OneForOne, &[&a]).await;
        a.tell(Order::Work { step: beats(3), steps: 1 });
        is_busy(&tree).await;
        (1..=9).for_each(|number| a.tell(Order::Note(number)));
        until(|| got(&log).len() == 3).await;
        assert_eq!(a.generation().await, 1);
        assert_eq!(got(&log), ["a got 1", "a got 2", "a got 9"]);

        a.tell(Order::Hang);
        is_busy(&tree).await;
        let before = resident();
        for number in 0..if is_paused() { 10_000_000 } else { 100_000 } {
            a.tell(Order::Note(number));
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < 8 << 20, "{grown} bytes more");
        // The mailbox is full, and the stop passes all of it by.
        assert_eq!(root(&tree).count_children().await.unwrap().active, 1);
        tree.kill("a").unwrap();
        a.reaches(2).await;
        tree.stop(LONG).await.unwrap();
    }
}
