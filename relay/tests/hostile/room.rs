//! Messages that begin and do not end, so that others find no room.

use std::time::{Duration, Instant};

use blazedb::Value;
use blazedb_relay::serve::Room;
use blazedb_wire::{Frame, Hello};

use crate::World;
use crate::http2::*;
use crate::shares::{SYNC, member, message, unfolds};

const MIB: usize = 1 << 20;

/// Begins messages of so many bytes, on one stream each, from this one on.
async fn hoard(world: &World, attacker: &mut Raw, streams: impl Iterator<Item = u32>, bytes: usize) {
    let token = format!("Bearer {}", world.token());
    let hello = message(&Frame::Hello(Hello::first()).to_bytes());
    let length = u32::try_from(bytes).unwrap().to_be_bytes();
    for stream in streams {
        attacker.send(&frame(HEADERS, END_HEADERS, stream, &call(SYNC, &[("authorization", &token)]))).await;
        attacker.send(&frame(DATA, 0, stream, &[&hello[..], &[0], &length, b"and so on"].concat())).await;
    }
}

/// What does not get smaller, and does not fit one frame of HTTP/2.
fn long(seed: u64) -> Value {
    let mut state = seed;
    let bytes = (0..50_000).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    Value::Bytes(bytes.collect())
}

// Each drips, so that it is not idle. spec: L-23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_end_no_message_lose_them_to_who_writes() {
    let grace = Duration::from_millis(300);
    let world = World::with(|limits| {
        limits.coming_bytes = Room { address: 2 * MIB, relay: 4 * MIB };
        limits.room_grace = grace;
    })
    .await;
    let mut attackers = Vec::new();
    for from in ["127.0.0.2", "127.0.0.3"] {
        let mut attacker = world.attacker_from(from).await;
        // The relay is full: what a message may take beyond is 4 KiB.
        hoard(&world, &mut attacker, [1, 3].into_iter(), MIB + (4 << 10)).await;
        attackers.push(attacker);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let dripping = attackers.into_iter().map(|mut attacker| {
        tokio::spawn(async move {
            for _ in 0..40 {
                for stream in [1, 3] {
                    attacker.try_send(&frame(DATA, 0, stream, b".")).await;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            attacker
        })
    });
    let dripping: Vec<_> = dripping.collect();
    let begun = Instant::now();
    tokio::task::block_in_place(|| world.neighbour_writes([long(1)].into_iter()));
    let took = begun.elapsed();
    assert!(took >= grace && took < 5 * grace, "{took:?}");
    // One of them has lost one, and has been told.
    let mut ended = 0;
    for attacker in dripping {
        let mut attacker = attacker.await.unwrap();
        attacker.send(&frame(PING, 0, 0, b"and then")).await;
        loop {
            let frame = attacker.next().await.expect("it stands");
            ended += usize::from(frame.kind == HEADERS && frame.flags & END_STREAM != 0);
            if frame.kind == PING && frame.flags & ACK != 0 {
                break;
            }
        }
    }
    assert_eq!(ended, 1);
}

// DATA that no call takes keeps the memory that it was read into, and with it what came beside it. spec: G-11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_between_data_that_waits_takes_no_memory_of_its_own() {
    let mut world = World::with(|limits| limits.coming_bytes = Room { address: 2 * MIB, relay: 4 * MIB }).await;
    let mut hoarder = world.attacker().await;
    hoard(&world, &mut hoarder, [1, 3].into_iter(), MIB + (4 << 10)).await;
    let mut attackers = Vec::new();
    for _ in 0..4 {
        let mut attacker = world.attacker().await;
        // Eight calls that wait for room, and are not read.
        hoard(&world, &mut attacker, (1..17).step_by(2), MIB).await;
        attackers.push(attacker);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.count_from_here();
    // A quarter of a kilobyte of each, and eight of a kind of frame that nobody knows.
    let between = frame(0x42, 0, 0, &[7; 8_000]);
    let one: Vec<u8> =
        (1..17).step_by(2).flat_map(|stream| [frame(DATA, 0, stream, &[7; 256]), between.clone()].concat()).collect();
    let mut sent = 0;
    for attacker in &mut attackers {
        let (times, open) = attacker.flood(&one, Duration::from_millis(700)).await;
        assert!(open, "it is read slowly, and not ended");
        sent += times * one.len();
    }
    assert!(sent > 4 * MIB, "{sent} bytes are too few to tell");
    world.memory_stayed_below(16 * MIB);
    drop((attackers, hoarder));
}

// One that has filled the room of its own address waits for it, and nobody waits for it. spec: L-23, L-24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_room_that_it_has_filled_holds_up_no_neighbour() {
    let world = World::new().await;
    let token = format!("Bearer {}", world.token());
    let hello = message(&Frame::Hello(Hello::first()).to_bytes());
    let mut attackers = Vec::new();
    for _ in 0..3 {
        let (mut attacker, space) = member(&world).await;
        hoard(&world, &mut attacker, [3, 5, 7].into_iter(), 4 * MIB).await;
        let one = message(&unfolds(space, 2));
        for stream in [9, 11, 13, 15] {
            attacker.send(&frame(HEADERS, END_HEADERS, stream, &call(SYNC, &[("authorization", &token)]))).await;
            attacker.send(&frame(DATA, 0, stream, &[&hello[..], &one.repeat(10)].concat())).await;
        }
        attackers.push(attacker);
    }
    // Short ones, which are compressed, and so decoded in turn.
    let begun = Instant::now();
    tokio::task::block_in_place(|| (0..5).for_each(|_| world.neighbour_lives(1)));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "five documents, one after another: {took:?}");
    drop(attackers);
}
