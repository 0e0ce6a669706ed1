//! Sockets and outlets find whoever is plugged in now, and say so when nobody is.

use std::sync::{Arc, Mutex};

use kloros_supervision::{Backoff, CallError, Down, Outlet, Socket, Strategy, start};

use crate::fixtures::{LONG, Log, Order, Room, house, seconds, supervisor, until};

#[tokio::test(start_paused = true)]
async fn an_outlet_finds_the_restarted_actor() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let outlet = a.socket.outlet(Order::Panic);
    let absent = Down::Absent { room: "a".to_owned() };
    assert_eq!(outlet.send("nobody there"), Err(absent.clone()));

    let tree = house(Strategy::OneForOne, &[&a]).await;
    outlet.send("ouch").unwrap();
    a.reaches(2).await;
    outlet.send("ouch again").unwrap();
    a.reaches(3).await;

    tree.stop(LONG).await.unwrap();
    assert_eq!(outlet.send("nobody there"), Err(absent));
}

#[tokio::test(start_paused = true)]
async fn a_send_while_the_room_waits_to_be_restarted_names_the_room() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let backoff = Backoff { first: seconds(30), max: seconds(30), jitter_ratio: 0.0, healthy_after: LONG };
    let _tree = start(supervisor("house", Strategy::OneForOne).child(a.spec().backoff(backoff))).await.unwrap();
    a.tell(Order::Panic("ouch"));
    a.reaches(2).await;
    a.tell(Order::Panic("ouch"));
    until(|| a.socket.actor().is_none()).await;
    let down = a.socket.send(Order::Stop).unwrap_err();
    assert_eq!((down.room(), down.to_string().as_str()), ("a", "a is not there"));
}

#[tokio::test(start_paused = true)]
async fn a_socket_refuses_more_than_may_wait_and_takes_more_when_they_are_handled() {
    let log = Log::default();
    let a = Room { socket: Socket::bounded("a", 3), ..Room::new("a", &log) };
    let tree = house(Strategy::OneForOne, &[&a]).await;
    a.tell(Order::Work { step: seconds(5), steps: 1 });
    until(|| tree.snapshot().find("a").unwrap().busy_for.is_some()).await;
    for _ in 0..3 {
        a.tell(Order::SendYourself(0));
    }
    let full = Down::Full { room: "a".to_owned(), in_flight_max: 3 };
    assert_eq!(a.socket.send(Order::Stop), Err(full));
    until(|| a.socket.send(Order::SendYourself(0)).is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_an_actor_sends_to_itself_never_push_the_depth_below_zero() {
    let log = Log::default();
    let a = Room { socket: Socket::bounded("a", 3), ..Room::new("a", &log) };
    let tree = house(Strategy::OneForOne, &[&a]).await;
    a.tell(Order::SendYourself(50));
    until(|| tree.snapshot().find("a").unwrap().handled == 51).await;
    assert_eq!(tree.snapshot().find("a").unwrap().depth, 0);
    assert_eq!(a.generation().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_says_why_it_got_no_answer() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let down = a.socket.call(Order::Echo, seconds(1)).await.unwrap_err();
    assert!(matches!(down, CallError::Down(_)));

    let _tree = house(Strategy::OneForOne, &[&a]).await;
    assert_eq!(a.socket.call(Order::Echo, seconds(1)).await, Ok(1));
    let dropped = a.socket.call(Order::Drop, seconds(1)).await.unwrap_err();
    assert!(matches!(dropped, CallError::Dropped { .. }));

    a.tell(Order::Work { step: seconds(5), steps: 1 });
    let late = a.socket.call(Order::Echo, seconds(1)).await.unwrap_err();
    assert_eq!(late.to_string(), "a did not answer within 1s");
    // The caller that went away did the room no harm.
    assert_eq!(a.generation().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_collecting_outlet_keeps_what_is_sent_in_order() {
    let (outlet, collected) = Outlet::collecting();
    outlet.send(1).unwrap();
    outlet.clone().send(2).unwrap();
    assert_eq!(collected.next(seconds(1)).await, Some(1));
    outlet.send(3).unwrap();
    assert_eq!(collected.taken(), [2, 3]);
    assert_eq!(collected.next(seconds(1)).await, None);
    let (got, ()) = tokio::join!(collected.next(seconds(5)), async {
        tokio::time::sleep(seconds(2)).await;
        outlet.send(4).unwrap();
    });
    assert_eq!(got, Some(4));
}

#[test]
fn an_outlet_to_a_function_calls_it_and_one_to_nowhere_says_who_is_missing() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Arc::clone(&heard);
    let outlet = Outlet::to(move |word| ear.lock().unwrap().push(word));
    outlet.send("hello").unwrap();
    assert_eq!(*heard.lock().unwrap(), ["hello"]);
    assert_eq!(Outlet::nowhere("attic").send(1).unwrap_err().room(), "attic");
    assert_eq!(format!("{:?}", Outlet::<u8>::nowhere("attic")), r#"Outlet { room: "attic", .. }"#);
}
