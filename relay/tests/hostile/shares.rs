//! One member who keeps the relay busy, and another who is answered all the same.

use std::time::Instant;

use blazedb_wire::{
    Batch, BatchBuilder, BatchHead, Columns, DocumentId, Frame, FrameKind, Hello, Hlc, MergeKind, Op, OpKind,
    ReplicaId, Shape, SpaceId, columns_frame,
};
use bytes::Bytes;

use crate::World;
use crate::http2::*;

pub(crate) const SYNC: &str = "/blaze.v1.Relay/Sync";

/// Returns a message behind its prefix.
pub(crate) fn message(frame: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
    out.extend(frame);
    out
}

/// A frame of some hundred bytes that holds eight batches of 8,000 deletes, from this counter of a replica on.
pub(crate) fn unfolds(space: SpaceId, first: u64) -> Bytes {
    let delete = Op {
        kind: OpKind::Delete,
        merge: MergeKind::Register,
        more: false,
        hlc: Hlc::from_parts(1, 0),
        cursor: 0,
        collection: "c".into(),
        id: DocumentId::from_bytes([7; 16]),
        attrs: Bytes::new(),
        set: None,
        unset: Shape::empty(),
    };
    let batches: Vec<Batch> = (0..8)
        .map(|n| {
            let head = BatchHead {
                space,
                replica: ReplicaId::from_bytes([9; 16]),
                first_counter: first + 8_000 * n,
                epoch: 1,
                deps: Vec::new(),
                attrs: Bytes::new(),
            };
            let mut builder = BatchBuilder::new(head);
            (0..8_000).for_each(|_| assert!(builder.try_push(&delete).unwrap()));
            Batch::decode(builder.finish().unwrap()).unwrap()
        })
        .collect();
    columns_frame(FrameKind::Pushes, &Columns::encode(&batches).unwrap())
}

// spec: L-24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_pushes_what_unfolds_holds_up_nobody() {
    let world = World::new().await;
    let token = format!("Bearer {}", world.token());
    let hello = message(&Frame::Hello(Hello::first()).to_bytes());
    let mut attackers = Vec::new();
    for _ in 0..2 {
        let (mut attacker, space) = member(&world).await;
        let one = message(&unfolds(space, 2));
        assert!(one.len() < 500, "{}", one.len());
        // Within the windows: 128 KiB of a stream, 1 MiB of the connection (256 KiB elsewhere than on x86-64).
        let many = one.repeat((12 << 10) / one.len());
        for stream in (1..33).step_by(2) {
            if stream > 1 {
                attacker.send(&frame(HEADERS, END_HEADERS, stream, &call(SYNC, &[("authorization", &token)]))).await;
                attacker.send(&frame(DATA, 0, stream, &hello)).await;
            }
            attacker.send(&frame(DATA, 0, stream, &many)).await;
        }
        attackers.push(attacker);
    }
    // A second of work for the attackers' frames at the least, each of ten milliseconds.
    let begun = Instant::now();
    tokio::task::block_in_place(|| (0..5).for_each(|_| world.neighbour_lives(1)));
    let took = begun.elapsed();
    assert!(took.as_millis() < 1_000, "five documents, one after another: {took:?}");
    drop(attackers);
}

/// Opens a session by hand; returns the space, too.
pub(crate) async fn member(world: &World) -> (Raw, SpaceId) {
    let token = format!("Bearer {}", world.token());
    // Windows of 16 MiB: the log comes first.
    let mut raw = world.attacker_with(&[(4, 16 << 20)]).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &[1, 0, 0, 0])).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &call(SYNC, &[("authorization", &token)]))).await;
    raw.send(&frame(DATA, 0, 1, &message(&Frame::Hello(Hello::first()).to_bytes()))).await;
    let answer = raw.until(DATA, 1).await.payload;
    let length = u32::from_be_bytes(answer[1..5].try_into().unwrap()) as usize;
    match Frame::decode(Bytes::copy_from_slice(&answer[5..][..length])) {
        Ok(Frame::Welcome(welcome)) => (raw, welcome.space),
        other => panic!("a Welcome comes first: {other:?}"),
    }
}

// A share that is full of what has not been decided is not waited for. spec: L-24
#[tokio::test]
async fn a_frame_that_is_more_than_its_share_is_heard_to_its_end() {
    let world = World::new().await;
    let (mut raw, space) = member(&world).await;
    raw.send(&frame(DATA, 0, 1, &message(&unfolds(space, 1)))).await;
    let mut acks = 0;
    while acks < 8 {
        // What is small comes packed: the acks of these batches have one kind, and the log's first entries another.
        let payload = raw.until(DATA, 1).await.payload;
        acks += payload.windows(4).filter(|head| *head == [b'B', b'Z', 0, FrameKind::Ack.number()]).count();
    }
}

// spec: G-11
#[tokio::test]
async fn windows_and_streams_are_those_of_the_document() {
    let world = World::new().await;
    let mut client = world.attacker().await;
    let settings = client.until(SETTINGS, 0).await.payload;
    let setting = |wanted: u16| {
        let at = settings.chunks(6).find(|setting| setting[..2] == wanted.to_be_bytes());
        at.map(|setting| code(&setting[2..]))
    };
    assert_eq!(setting(3), Some(32), "calls");
    assert_eq!(setting(4), Some(128 << 10), "window of a call");
    assert_eq!(setting(5).unwrap_or(16 << 10), 16 << 10, "a frame");
    assert_eq!(setting(6), Some(8 << 10), "header fields");
    let window = if cfg!(target_arch = "x86_64") { 1 << 20 } else { 256 << 10 };
    assert_eq!(code(&client.until(WINDOW_UPDATE, 0).await.payload), window - 65_535, "window of the connection");
}
