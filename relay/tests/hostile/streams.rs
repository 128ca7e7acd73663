//! Streams that are opened to be thrown away, and headers that unpack into more than they are.

use std::time::Duration;

use crate::World;
use crate::http2::*;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Nothing of one connection may cost more: paper and spec promise 1 MiB.
const WORST: usize = 1024 * 1024;

/// A call whose body never comes, and its end at the client's wish.
fn opened_and_reset(stream: u32) -> Vec<u8> {
    let mut bytes = frame(HEADERS, END_HEADERS, stream, &call(CHECK, &[]));
    bytes.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
    bytes
}

// CVE-2023-44487, CVE-2023-26964. spec: G-11
#[tokio::test]
async fn rapid_reset_at_one_go_ends_the_connection() {
    let world = World::new().await;
    let mut attacker = world.attacker().await;
    let burst: Vec<u8> = (0..400).flat_map(|n| opened_and_reset(2 * n + 1)).collect();
    attacker.try_send(&burst).await;
    assert_eq!(attacker.ending().await, Ending::GoAway(ENHANCE_YOUR_CALM));
    world.memory_stayed_below(WORST);
}

// CVE-2023-44487, one by one: each stream is accepted before it is reset, so HTTP/2 itself never counts it. spec: G-11
#[tokio::test]
async fn rapid_reset_one_by_one_ends_the_connection() {
    let world = World::with(|limits| (limits.give_ups_max, limits.give_ups_per_second) = (40, 0)).await;
    let mut attacker = world.attacker().await;
    let mut stood = 0;
    for n in 0..400 {
        let head = frame(HEADERS, END_HEADERS, 2 * n + 1, &call(CHECK, &[]));
        if !attacker.try_send(&head).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        if !attacker.try_send(&frame(RST_STREAM, 0, 2 * n + 1, &CANCEL.to_be_bytes())).await {
            break;
        }
        stood += 1;
    }
    assert!((40..200).contains(&stood), "{stood} streams");
    assert_eq!(attacker.ending().await, Ending::Cut);
    world.memory_stayed_below(WORST);
}

// CVE-2025-8671: the client makes the relay reset its streams. spec: G-11
#[tokio::test]
async fn made_you_reset_ends_the_connection() {
    let world = World::new().await;
    let mut attacker = world.attacker().await;
    for n in 0..400 {
        let mut bytes = frame(HEADERS, END_HEADERS, 2 * n + 1, &call(CHECK, &[]));
        // A window beyond 2^31 is an error of the stream.
        bytes.extend(frame(WINDOW_UPDATE, 0, 2 * n + 1, &[0x7f, 0xff, 0xff, 0xff]));
        if !attacker.try_send(&bytes).await {
            break;
        }
    }
    assert_eq!(attacker.ending().await, Ending::GoAway(ENHANCE_YOUR_CALM));
    world.memory_stayed_below(WORST);
}

// RUSTSEC-2024-0332. spec: G-11
#[tokio::test]
async fn a_continuation_flood_ends_the_connection() {
    let world = World::new().await;
    for piece in [&b""[..], &block(&[("x", "y")]), &block(&[("x", &"y".repeat(8_000))])] {
        let mut attacker = world.attacker().await;
        attacker.send(&frame(HEADERS, 0, 1, &call(CHECK, &[]))).await;
        let continuation = frame(CONTINUATION, 0, 1, piece);
        let (_, stands) = attacker.flood(&continuation, Duration::from_secs(10)).await;
        assert!(!stands, "it is not read for ever");
        // What the relay said may be lost when it closes on bytes that nobody has read.
        let ending = attacker.ending().await;
        assert!(matches!(ending, Ending::GoAway(ENHANCE_YOUR_CALM) | Ending::Cut), "{ending:?}");
    }
    world.memory_stayed_below(WORST);
}

// spec: G-11
#[tokio::test]
async fn more_than_a_few_continuations_are_calmed() {
    let world = World::new().await;
    let mut attacker = world.attacker().await;
    let mut bytes = frame(HEADERS, 0, 1, &call(CHECK, &[]));
    for _ in 0..8 {
        bytes.extend(frame(CONTINUATION, 0, 1, b""));
    }
    attacker.send(&bytes).await;
    assert_eq!(attacker.ending().await, Ending::GoAway(ENHANCE_YOUR_CALM));
}

// spec: G-11
#[tokio::test]
async fn a_header_list_over_the_limit_costs_its_stream() {
    let world = World::new().await;
    let mut attacker = world.attacker().await;
    let long = "y".repeat(9_000);
    attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &call(CHECK, &[("x", &long)]))).await;
    let answer = attacker.until(HEADERS, 1).await;
    assert_ne!(answer.flags & END_STREAM, 0, "a bare 431");
    attacker.still_serves(3).await;
    world.memory_stayed_below(WORST);
}

// CVE-2026-49975: one field in the dynamic table, and thousands of references of one byte to it. spec: G-11
#[tokio::test]
async fn headers_that_unpack_into_megabytes_end_the_connection() {
    let world = World::new().await;
    // Together with a window of zero, so that nothing of an answer leaves either.
    let mut attacker = world.attacker_with(&[(4, 0)]).await;
    for n in 0..32 {
        let mut fields = call(CHECK, &[]);
        // Literal with indexing, name `x`, 3,900 bytes of value.
        fields.extend([0x40, 1, b'x']);
        integer(&mut fields, 3_900);
        fields.extend([b'y'; 3_900]);
        // Entry 62 is the newest of the dynamic table.
        fields.extend([0x80 | 62; 12_000]);
        if !attacker.try_send(&frame(HEADERS, END_HEADERS, 2 * n + 1, &fields)).await {
            break;
        }
    }
    let ending = attacker.ending().await;
    assert!(matches!(ending, Ending::GoAway(ENHANCE_YOUR_CALM) | Ending::Cut), "{ending:?}");
    world.memory_stayed_below(WORST);
}

// The same with one-byte fields: under the limit in bytes, many in number. spec: G-11
#[tokio::test]
async fn as_many_small_headers_as_fit_stay_small() {
    let world = World::new().await;
    let mut attacker = world.attacker_with(&[(4, 0)]).await;
    for n in 0..32 {
        let mut fields = call(CHECK, &[]);
        fields.extend([0x40, 1, b'x', 0]);
        // 33 bytes each as HTTP/2 counts them.
        fields.extend([0x80 | 62; 230]);
        attacker.send(&frame(HEADERS, END_HEADERS, 2 * n + 1, &fields)).await;
        attacker.until(HEADERS, 2 * n + 1).await;
    }
    world.memory_stayed_below(WORST);
}

// spec: G-11
#[tokio::test]
async fn one_stream_too_many_is_refused_and_the_others_go_on() {
    let world = World::new().await;
    let mut attacker = world.attacker().await;
    // The relay has said its limit by then, and a client that has acknowledged it has no excuse.
    attacker.until(SETTINGS, 0).await;
    attacker.send(&frame(SETTINGS, ACK, 0, &[])).await;
    for n in 0..33 {
        attacker.send(&frame(HEADERS, END_HEADERS, 2 * n + 1, &call(CHECK, &[]))).await;
    }
    const REFUSED_STREAM: u32 = 7;
    assert_eq!(attacker.reset(65).await, REFUSED_STREAM);
    attacker.send(&frame(DATA, END_STREAM, 1, &[0; 5])).await;
    assert_eq!(attacker.until(DATA, 1).await.payload, [0, 0, 0, 0, 2, 8, 1]);
    world.memory_stayed_below(WORST);
}

#[tokio::test]
async fn data_on_a_stream_that_the_client_closed_is_an_error() {
    let world = World::new().await;
    // While the relay still answers it h2 calls it a PROTOCOL_ERROR, where RFC 9113 has STREAM_CLOSED.
    for (method, expected) in [(CHECK, STREAM_CLOSED), (WATCH, PROTOCOL_ERROR)] {
        let mut attacker = world.attacker().await;
        // The second call gives the relay time to be done with the first, if it ever is.
        let calls = [(1, method), (3, CHECK)];
        for (stream, method) in calls {
            attacker.send(&frame(HEADERS, END_HEADERS, stream, &call(method, &[]))).await;
            attacker.send(&frame(DATA, END_STREAM, stream, &[0; 5])).await;
            attacker.until(DATA, stream).await;
        }
        attacker.send(&frame(DATA, 0, 1, &[0; 5])).await;
        let ended = loop {
            let frame = attacker.next().await.expect("it says why");
            match frame.kind {
                RST_STREAM => break code(&frame.payload),
                GOAWAY => break code(&frame.payload[4..]),
                _ => {}
            }
        };
        assert_eq!(ended, expected, "{method}");
    }
}

#[tokio::test]
async fn frames_that_break_http2_end_the_connection_with_the_right_code() {
    let world = World::new().await;
    let cases: [(&str, Vec<u8>, u32); 7] = [
        ("a frame over 16 KiB", frame(DATA, 0, 1, &[0; 16_385]), FRAME_SIZE_ERROR),
        // FRAME_SIZE_ERROR in RFC 9113; the code is h2's to choose.
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7]), PROTOCOL_ERROR),
        ("data on no stream", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("a continuation of nothing", frame(CONTINUATION, 0, 1, b""), PROTOCOL_ERROR),
        ("an even stream", frame(HEADERS, END_HEADERS, 2, &call(CHECK, &[])), PROTOCOL_ERROR),
        ("a window beyond 2^31", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), FLOW_CONTROL_ERROR),
        ("an index of HPACK that is not there", frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0x01]), PROTOCOL_ERROR),
    ];
    for (what, bytes, code) in cases {
        let mut attacker = world.attacker().await;
        attacker.send(&bytes).await;
        assert_eq!(attacker.ending().await, Ending::GoAway(code), "{what}");
    }
    world.memory_stayed_below(WORST);
}
