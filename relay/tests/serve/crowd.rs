//! Many connections that say nothing, and whoever comes beside them. Linux has all of 127.0.0.0/8 for addresses.

use std::time::Instant;

use tokio::net::TcpSocket;

use super::*;

/// Connects from an address of its own and says nothing.
async fn silent(relay: &Relay, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    soon("connect", socket.connect(relay.address)).await.unwrap()
}

/// Connects, says a byte and no more.
async fn begun(relay: &Relay, from: &str) -> TcpStream {
    let mut stranger = silent(relay, from).await;
    stranger.write_all(&[22]).await.unwrap();
    stranger
}

/// How long a handshake from 127.0.0.1 took, beginning now.
async fn handshake(relay: &Relay) -> Duration {
    let begun = Instant::now();
    soon("the handshake", relay.tls(b"h2")).await;
    begun.elapsed()
}

// spec: G-11
#[tokio::test]
async fn one_address_that_says_nothing_holds_up_nobody_else() {
    let relay = Relay::start().await;
    let begun = Instant::now();
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(silent(&relay, "127.0.0.2").await);
    }
    let took = handshake(&relay).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let mut ended = 0;
    for stranger in &mut open {
        let read = tokio::time::timeout(Duration::from_millis(20), stranger.read(&mut [0])).await;
        ended += usize::from(read.is_ok());
    }
    assert!(begun.elapsed() < Limits::default().handshake_max, "this machine is too slow to tell");
    assert_eq!(ended, 100 - Limits::default().connections_per_address_max, "those above the limit are closed at once");
    relay.stop().await;
}

// spec: G-11
#[tokio::test]
async fn so_many_handshakes_are_made_at_one_time() {
    let turn = Duration::from_millis(400);
    for (all, of_one, neighbour, waits) in [
        // Of all addresses together.
        (2, 2, ["127.0.0.2", "127.0.0.3"], true),
        (3, 2, ["127.0.0.2", "127.0.0.3"], false),
        // Of one address.
        (8, 2, ["127.0.0.1", "127.0.0.1"], true),
        (8, 3, ["127.0.0.1", "127.0.0.1"], false),
        (8, 2, ["127.0.0.2", "127.0.0.2"], false),
    ] {
        let limits = Limits {
            handshakes_max: all,
            handshakes_per_address_max: of_one,
            handshake_turn_max: turn,
            ..Limits::default()
        };
        let relay = Relay::with(limits).await;
        let mut open = Vec::new();
        for from in neighbour {
            open.push(begun(&relay, from).await);
        }
        let took = handshake(&relay).await;
        // The turns began a little before the clock did.
        assert_eq!(took > turn * 3 / 4, waits, "{all} {of_one} {neighbour:?}: {took:?}");
        assert!(took < turn * 4, "a turn ends: {took:?}");
        relay.stop().await;
    }
}

// spec: G-11
#[tokio::test]
async fn the_wait_for_a_turn_counts_and_a_slow_handshake_outlives_its_turn() {
    let limits = Limits {
        handshakes_max: 1,
        handshake_turn_max: Duration::from_millis(400),
        handshake_max: Duration::from_millis(1_400),
        ..Limits::default()
    };
    let relay = Relay::with(limits).await;
    let start = Instant::now();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(begun(&relay, "127.0.0.2").await);
    }
    for stranger in &mut open {
        let _ = soon("the end", stranger.read(&mut [0])).await;
        assert!(start.elapsed() >= Duration::from_millis(1_300), "not with the turn: {:?}", start.elapsed());
    }
    assert!(start.elapsed() < Duration::from_millis(2_000), "not one after another: {:?}", start.elapsed());
    relay.stop().await;
}

// spec: G-11
#[tokio::test]
async fn one_that_says_nothing_takes_nobodys_turn() {
    let turn = Duration::from_secs(5);
    let relay = Relay::with(Limits { handshakes_max: 1, handshake_turn_max: turn, ..Limits::default() }).await;
    let mut open = Vec::new();
    for from in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        open.push(silent(&relay, from).await);
    }
    let took = handshake(&relay).await;
    assert!(took < turn / 2, "{took:?}");
    relay.stop().await;
}

// Others of the same address, as behind a NAT: each comes back as soon as it is closed. spec: G-24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_come_back_keep_no_neighbour_out() {
    let relay = Arc::new(Relay::with(Limits { connections_per_address_max: 8, ..Limits::default() }).await);
    let mut strangers = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let relay = Arc::clone(&relay);
        strangers.spawn(async move {
            loop {
                let mut stranger = silent(&relay, "127.0.0.1").await;
                let _ = stranger.read(&mut [0]).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    // One of a few tries is fast enough, and has its place then.
    let mut tries = 0;
    let target = relay.target(&relay.token("home"));
    let (sender, mut receiver) = loop {
        tries += 1;
        assert!(tries <= 50, "as good as none");
        if let Ok(Ok(open)) = tokio::time::timeout(Duration::from_secs(1), open_stream(&target)).await {
            break open;
        }
    };
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        soon("send", sender.send(Bytes::from_static(b"still here"))).await.unwrap();
        assert_eq!(soon("the echo", receiver.next()).await.unwrap().unwrap(), "still here");
    }
    strangers.shutdown().await;
}

// spec: G-24
#[tokio::test]
async fn strangers_who_have_all_places_keep_no_member_out_and_push_none_away() {
    let limits = Limits { connections_max: 8, connections_per_address_max: 6, ..Limits::default() };
    let relay = Relay::with(limits).await;
    let begun = Instant::now();
    let mut strangers = Vec::new();
    for from in ["127.0.0.2"; 5].into_iter().chain(["127.0.0.3"; 3]) {
        strangers.push(silent(&relay, from).await);
    }
    let (sender, mut receiver) = relay.open().await;
    let ended = soon("the end of the oldest", strangers[0].read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert!(begun.elapsed() < Limits::default().handshake_max, "it ends by itself then, and this says nothing");
    // Whoever comes now takes places of strangers alone, as long as one address has many.
    for n in 4..=20 {
        strangers.push(silent(&relay, &format!("127.0.0.{n}")).await);
    }
    soon("send", sender.send(Bytes::from_static(b"still here"))).await.unwrap();
    assert_eq!(soon("the echo", receiver.next()).await.unwrap().unwrap(), "still here");
    drop(sender);
    relay.stop().await;
}
