//! Frames that need no call, as fast as they go; readers that read nothing; connections that say nothing.

use std::time::Duration;

use blazedb_wire::websocket::{OpCode, encode};

use crate::World;
use crate::http2::*;

const WORST: usize = 1024 * 1024;
const SYNC: &str = "/blaze.v1.Relay/Sync";

/// A stranger's patience, so that a test sees its end.
async fn impatient() -> World {
    World::with(|limits| {
        limits.first_request_max = Duration::from_millis(500);
        limits.shutdown_max = Duration::from_millis(500);
        limits.stall_max = Duration::from_millis(500);
        limits.close_max = Duration::from_millis(500);
    })
    .await
}

// CVE-2019-9512, CVE-2019-9515 and their like: answers that nobody reads. spec: G-11
#[tokio::test]
async fn floods_of_a_client_that_reads_nothing_end_with_its_connection() {
    let world = impatient().await;
    for (what, one) in [
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ("window updates", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("unknown frames", frame(0xee, 0, 0, &[0; 100])),
        ("empty settings acknowledged", frame(SETTINGS, ACK, 0, &[])),
    ] {
        let mut attacker = world.attacker().await;
        let many: Vec<u8> = one.iter().copied().cycle().take(one.len() * 500).collect();
        let (_, stands) = attacker.flood(&many, Duration::from_secs(5)).await;
        assert!(!stands, "{what}: the connection ends");
    }
    world.memory_stayed_below(WORST);
}

// spec: G-11
#[tokio::test]
async fn a_stranger_is_read_no_faster_than_it_may_be() {
    let world = World::with(|limits| {
        limits.stranger_bytes_max = 17 * 1_000;
        limits.stranger_bytes_per_second = 17 * 1_000;
    })
    .await;
    let begun = std::time::Instant::now();
    let mut attacker = world.attacker().await;
    let many: Vec<u8> = frame(PING, 0, 0, &[7; 8]).repeat(4_000);
    attacker.send(&many).await;
    let mut pongs = 0;
    while pongs < 4_000 {
        match attacker.next().await {
            Some(frame) => pongs += usize::from(frame.kind == PING),
            None => panic!("the connection ended"),
        }
    }
    // What the bucket holds comes at once, the rest at a thousand a second.
    assert!(begun.elapsed() > Duration::from_millis(2_900), "{:?}", begun.elapsed());
}

// spec: G-11
#[tokio::test]
async fn who_answers_no_ping_is_cut_and_who_does_stays() {
    let world = World::with(|limits| {
        limits.keepalive_interval = Duration::from_millis(200);
        limits.keepalive_timeout = Duration::from_millis(400);
    })
    .await;
    let mut polite = world.attacker().await;
    let mut silent = world.attacker().await;
    let begun = std::time::Instant::now();
    for _ in 0..5 {
        let asked = loop {
            let frame = polite.next().await.expect("it stays");
            if frame.kind == PING && frame.flags & ACK == 0 {
                break frame;
            }
        };
        polite.send(&frame(PING, ACK, 0, &asked.payload)).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(1_000), "after silence, and no sooner: {:?}", begun.elapsed());
    let mut pings = 0;
    while let Some(frame) = silent.next().await {
        pings += usize::from(frame.kind == PING);
    }
    assert_eq!(pings, 1);
    polite.still_serves(1).await;
}

// RUSTSEC-2026-0258. spec: G-12
#[tokio::test]
async fn tiny_data_ends_the_connection() {
    let world = World::new().await;
    for payload in [&b""[..], b"x"] {
        let mut attacker = world.attacker().await;
        // A health check's message begins and never goes on, so that nothing is given back.
        let path = "/grpc.health.v1.Health/Check";
        attacker.send(&frame(HEADERS, END_HEADERS, 1, &call(path, &[]))).await;
        let many = frame(DATA, 0, 1, payload).repeat(1_000);
        let (_, stands) = attacker.flood(&many, Duration::from_secs(10)).await;
        assert!(!stands, "{payload:?}");
    }
    // h2 counts a frame of one byte as 256 and takes half of the connection's window of them, 2,000 frames; what it keeps
    // for each is some 800 bytes.
    world.memory_stayed_below(2 * WORST);
}

// spec: G-11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_takes_nothing_is_ended_and_holds_little_until_then() {
    let mut world = impatient().await;
    let token = format!("Bearer {}", world.token());
    // A window of zero on every stream: nothing of an answer may leave.
    let mut attacker = world.attacker_with(&[(4, 0)]).await;
    attacker.send(&frame(HEADERS, END_HEADERS, 1, &call(SYNC, &[("authorization", &token)]))).await;
    let hello = blazedb_wire::Frame::Hello(blazedb_wire::Hello::first());
    let hello = hello.to_bytes();
    let mut message = vec![0];
    message.extend(u32::try_from(hello.len()).unwrap().to_be_bytes());
    message.extend(&hello);
    attacker.send(&frame(DATA, 0, 1, &message)).await;
    attacker.until(HEADERS, 1).await;
    // A log of several megabytes waits for it.
    tokio::task::block_in_place(|| world.neighbour_lives(10));
    world.count_from_here();
    assert_eq!(attacker.ending().await, Ending::Cut);
    world.memory_stayed_below(WORST);
}

// spec: G-9, G-11
#[tokio::test]
async fn connections_that_say_nothing_end() {
    let world = impatient().await;
    let mut silent = Vec::new();
    for protocol in [&b"h2"[..], b"http/1.1"] {
        for _ in 0..8 {
            silent.push(Raw::over_tls(world.address(), &world.certificate(), protocol).await);
        }
    }
    for raw in &mut silent {
        // Over HTTP/2 the relay says its settings and, at the end, goodbye.
        while raw.next().await.is_some() {}
    }
    world.memory_stayed_below(16 * 256 * 1024);
}

// spec: G-11, G-19
#[tokio::test]
async fn a_page_that_pings_and_reads_nothing_is_cut() {
    let world = impatient().await;
    let mut attacker = Raw::over_tls(world.address(), &world.certificate(), b"http/1.1").await;
    let handshake = format!(
        "GET {SYNC} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer {}\r\n\r\n",
        world.token()
    );
    attacker.send(handshake.as_bytes()).await;
    let mut ping = bytes::BytesMut::new();
    encode(OpCode::Ping, &[7; 125], Some([1, 2, 3, 4]), &mut ping);
    let (_, stands) = attacker.flood(&ping.repeat(100), Duration::from_secs(10)).await;
    assert!(!stands, "the connection ends");
    world.memory_stayed_below(WORST);
}
