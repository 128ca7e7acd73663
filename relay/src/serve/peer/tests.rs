//! Waiting for room, losing it, and turns: at a clock that costs nothing.

use std::pin::pin;

use super::*;
use crate::serve::Room;

const MIB: usize = 1 << 20;

fn limits() -> Limits {
    let small = Room { address: 6 * MIB, relay: 8 * MIB };
    Limits { coming_bytes: small, decoded_here_bytes: small, decoded_in_turn_bytes: small, ..Limits::default() }
}

/// Two connections of one address and one of another.
fn peers(limits: &Limits) -> [Arc<Peer>; 3] {
    let relay = Relay::new(limits);
    let (home, away) = (Address::new(), Address::new());
    [&home, &home, &away].map(|address| Peer::new(address, &relay, limits))
}

fn refused(result: Result<(), Status>) {
    let status = result.unwrap_err();
    assert_eq!(status.code, Code::ResourceExhausted);
    assert!(status.message.contains("come back"), "{status}");
}

fn held(room: &Shared) -> usize {
    room.lock().held()
}

// spec: L-23
#[tokio::test(start_paused = true)]
async fn a_message_waits_for_room_and_is_refused_when_none_comes() {
    let limits = limits();
    let [one, two, away] = peers(&limits);
    let free = limits.free_bytes;
    let mut first = Held::new(&one);
    first.expect(5 * MIB + free).await.unwrap();
    // Its rest has come: nobody makes it lose.
    first.whole().unwrap();
    let mut second = Held::new(&two);
    let begun = Instant::now();
    refused(second.expect(MIB + free + 1).await);
    assert_eq!(begun.elapsed(), limits.room_wait_max, "its address' is full");
    second.expect(MIB + free).await.unwrap();
    let mut third = Held::new(&away);
    refused(third.expect(2 * MIB + free + 1).await);
    third.expect(2 * MIB + free).await.unwrap();
    // Whatever else is held, who says little waits for nobody, and nothing that is shared hears of it.
    for peer in [&one, &two, &away] {
        let mut short = Held::new(peer);
        short.expect(free).await.unwrap();
        assert!(short.decoded(Decoding::Here, free));
        assert!(short.coming.is_none() && short.decoded.is_none());
    }
    // Whoever waits gets what is given back meanwhile.
    {
        let mut waits = Held::new(&two);
        let mut waiting = pin!(waits.expect(MIB));
        assert!(tokio::time::timeout(Duration::from_secs(5), waiting.as_mut()).await.is_err());
        assert!(first.decoded(Decoding::Here, MIB));
        waiting.await.unwrap();
    }
    drop((first, second, third));
    let relay = &one.relay;
    assert_eq!([&relay.coming, &relay.here, &relay.in_turn].map(held), [0; 3], "nothing is lost or made up");
    // What can never be held is refused at once.
    let begun = Instant::now();
    refused(Held::new(&one).expect(6 * MIB + free + 1).await);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

// spec: L-23
#[tokio::test(start_paused = true)]
async fn what_does_not_end_is_lost_to_who_has_waited_for_a_while() {
    let limits = limits();
    let [one, two, away] = peers(&limits);
    let mut hoard = Held::new(&one);
    hoard.expect(5 * MIB).await.unwrap();
    let mut other = Held::new(&away);
    other.expect(2 * MIB).await.unwrap();
    let mut small = Held::new(&two);
    let begun = Instant::now();
    {
        let mut waiting = pin!(small.expect(2 * MIB));
        let status = tokio::select! {
            _ = waiting.as_mut() => panic!("there is none"),
            _ = other.lost() => panic!("it holds no more than this would"),
            status = hoard.lost() => status,
        };
        assert_eq!((status.code, begun.elapsed()), (Code::ResourceExhausted, limits.room_grace));
        assert!(status.message.contains("come back"), "{status}");
        assert!(tokio::time::timeout(Duration::from_millis(10), waiting.as_mut()).await.is_err(), "it has it still");
        assert!(hoard.whole().is_err(), "its rest comes too late");
        refused(hoard.expect(6 * MIB).await);
        drop(hoard);
        waiting.await.unwrap();
    }
    assert!(begun.elapsed() < 2 * limits.room_grace);
    assert_eq!(held(&one.relay.coming), 2 * (2 * MIB - limits.free_bytes));
}

// spec: L-23
#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_gives_back_what_it_was_given() {
    let limits = limits();
    let [one, two, _] = peers(&limits);
    let mut first = Held::new(&one);
    first.expect(5 * MIB).await.unwrap();
    let mut second = Held::new(&two);
    assert!(tokio::time::timeout(Duration::from_millis(10), second.expect(5 * MIB)).await.is_err());
    // It is given what it has stopped to wait for.
    drop(first);
    assert!(held(&one.relay.coming) > 4 * MIB);
    drop(second);
    assert_eq!(held(&one.relay.coming), 0);
}

// spec: L-23
#[tokio::test(start_paused = true)]
async fn what_was_decoded_waits_with_nothing() {
    let limits = limits();
    let [one, two, away] = peers(&limits);
    let mut first = Held::new(&one);
    assert!(first.decoded(Decoding::InTurn, 5 * MIB));
    let mut second = Held::new(&two);
    second.expect(MIB).await.unwrap();
    assert!(!second.decoded(Decoding::InTurn, 3 * MIB), "there is no room");
    assert_eq!(held(&one.relay.in_turn), 5 * MIB - limits.free_bytes, "and none is taken");
    drop(first);
    assert_eq!(held(&one.relay.in_turn), 0, "nor waited for");
    let mut first = Held::new(&one);
    assert!(first.decoded(Decoding::InTurn, 5 * MIB));
    assert_eq!(held(&one.relay.coming), MIB - limits.free_bytes, "it is to be made again");
    {
        let mut waiting = pin!(second.room(Decoding::InTurn, 3 * MIB));
        assert!(tokio::time::timeout(Duration::from_millis(10), waiting.as_mut()).await.is_err());
        // What is decoded where it came in, and another address, have other room.
        assert!(Held::new(&two).decoded(Decoding::Here, 3 * MIB));
        assert!(Held::new(&away).decoded(Decoding::InTurn, 3 * MIB));
        drop(first);
        waiting.await.unwrap();
    }
    assert!(second.decoded(Decoding::InTurn, 3 * MIB), "it is there already");
    let relay = &one.relay;
    assert_eq!([&relay.coming, &relay.here, &relay.in_turn].map(held), [0, 0, 3 * MIB - limits.free_bytes]);
}

// spec: L-24
#[tokio::test(start_paused = true)]
async fn of_an_address_one_waits_among_all() {
    let [one, two, away] = peers(&limits());
    let soon = Duration::from_secs(1);
    let first = one.turn().await;
    // The second of the address was there before the other, and has its turn after it.
    let mut second = Box::pin(two.turn());
    assert!(tokio::time::timeout(soon, second.as_mut()).await.is_err());
    let mut other = Box::pin(away.turn());
    assert!(tokio::time::timeout(soon, other.as_mut()).await.is_err(), "one at a time");
    drop(first);
    let other = tokio::time::timeout(soon, other).await.unwrap();
    assert!(tokio::time::timeout(soon, second.as_mut()).await.is_err());
    drop(other);
    tokio::time::timeout(soon, second).await.unwrap();
}
