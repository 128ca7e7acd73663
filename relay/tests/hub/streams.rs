//! Who gets what, in which order.

use blazedb_relay::hub::{HubLimits, Input, Received};
use blazedb_wire::{ErrorCode, Frame, FrameKind, Reads, SpaceId};
use bytes::Bytes;

use crate::rig::{Rig, SPACE, create, entry_of, replica, update};

// spec
#[test]
fn two_clients_exchange_and_the_author_gets_an_ack() {
    let mut rig = Rig::new();
    let (a, b) = (rig.connect(0), rig.connect(0));
    let sealed = rig.batch(1, 1, &[create(1, 0), create(2, 0)]);
    rig.send(a, &Frame::Push(sealed.clone()));
    rig.settle();
    rig.push(b, 2, 1, &[update(1, 2, 5)]);
    rig.settle();

    let (a, b) = (rig.seen(a), rig.seen(b));
    assert_eq!((a.position(0), b.position(0)), (3, 3));
    assert_eq!((a.acks().len(), a.entries().len()), (1, 1));
    assert_eq!((b.acks().len(), b.entries().len()), (1, 1));
    assert_eq!((a.acks()[0].first_seq, a.acks()[0].n), (1, 2));
    let (envelope, batch) = b.entries()[0];
    assert_eq!((envelope.first_seq, envelope.replica, envelope.first_counter), (1, replica(1), 1));
    assert_eq!(batch.bytes(), sealed.bytes(), "the batch is passed on byte for byte");
    assert_eq!(rig.log.entries()[0].1.bytes(), sealed.bytes(), "and logged byte for byte");
    assert_eq!(rig.log.entries()[0].0, *envelope, "under the envelope that was sent");
    assert_eq!(rig.materialized[&rig.log.info().id], 3);
}

// spec: R-5
#[test]
fn nothing_leaves_before_it_is_durable() {
    let mut rig = Rig::new();
    let (a, b) = (rig.connect(0), rig.connect(0));
    rig.push(a, 1, 1, &[create(1, 0)]);
    while rig.read_one(a) || rig.read_one(b) {}
    assert_eq!((rig.seen(a).frames.len(), rig.seen(b).frames.len()), (1, 1), "only Welcome");
    // Even when the log has it and only the answer is missing.
    rig.append_silently();
    let late = rig.open(SPACE);
    let hello = rig.hello(0, &[replica(1)]);
    rig.send(late, &Frame::Hello(hello));
    while rig.read_one(late) {}
    assert_eq!(rig.seen(late).welcome().head, 0);
    assert_eq!(rig.seen(late).welcome().counters, [(replica(1), 0)], "a counter in flight is not known yet");
    assert_eq!(rig.seen(late).frames.len(), 1);
    // Nor can anybody have seen it (spec: R-7).
    let early = rig.open(SPACE);
    let hello = rig.hello(1, &[]);
    rig.send(early, &Frame::Hello(hello));
    assert_eq!(rig.seen(early).closed_with().code, ErrorCode::CursorAhead);
    rig.settle();
    assert_eq!(rig.seen(late).position(0), 1);
}

// spec: what a read finds in the log before the hub has heard that it is durable waits for that
#[test]
fn a_read_that_is_ahead_of_the_answers_is_cut() {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.settle();
    let late = rig.open(SPACE);
    let hello = rig.hello(0, &[]);
    rig.send(late, &Frame::Hello(hello));
    rig.push(a, 1, 2, &[create(2, 0)]);
    rig.append_silently();
    rig.answer_reads();
    while rig.read_one(late) {}
    assert_eq!(rig.seen(late).position(0), 1);
    rig.settle();
    assert_eq!(rig.seen(late).position(0), 2);
}

// spec: R-4
#[test]
fn batches_of_several_connections_share_one_append_group() {
    let mut rig = Rig::new();
    let (a, b) = (rig.connect(0), rig.connect(0));
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.push(b, 2, 1, &[create(2, 0)]);
    rig.push(a, 1, 2, &[update(1, 0, 2)]);
    assert_eq!(rig.waiting_appends(), 3, "admitted upon each other, none waits for a sync");
    rig.settle();
    assert_eq!(*rig.log.appends.lock(), 1);
    assert_eq!((rig.seen(a).position(0), rig.seen(b).position(0)), (3, 3));
    assert_eq!((rig.seen(a).acks().len(), rig.seen(b).acks().len()), (2, 1));
}

// spec: R-6
#[test]
fn spaces_do_not_see_each_other() {
    let mut rig = Rig::new();
    let home = rig.connect(0);
    let work = rig.open("work");
    let hello = rig.hello(0, &[]);
    rig.send(work, &Frame::Hello(hello));
    rig.settle();
    assert_ne!(rig.seen(home).welcome().space, rig.seen(work).welcome().space);
    rig.push(home, 1, 1, &[create(1, 0)]);
    rig.settle();
    assert_eq!((rig.seen(home).position(0), rig.seen(work).position(0)), (1, 0));
}

// spec
#[test]
fn a_late_client_catches_up_and_an_author_meets_its_own_batches_as_entries() {
    let mut rig = Rig::with(HubLimits { read_bytes_max: 300, ..HubLimits::default() });
    let a = rig.connect(0);
    for n in 1..=20 {
        rig.push(a, 1, n, &[create(u8::try_from(n).unwrap(), 0)]);
    }
    rig.settle();
    rig.disconnect(a);
    let again = rig.open(SPACE);
    let hello = rig.hello(7, &[replica(1), replica(9)]);
    rig.send(again, &Frame::Hello(hello));
    rig.settle();
    let seen = rig.seen(again);
    let welcome = seen.welcome();
    assert_eq!((welcome.head, welcome.epoch, welcome.floor), (20, 1, 0));
    assert_eq!(welcome.counters, [(replica(1), 20), (replica(9), 0)]);
    assert_eq!(seen.position(7), 20);
    assert_eq!((seen.acks().len(), seen.entries().len()), (0, 13));
    rig.push(again, 1, 21, &[update(1, 20, 9)]);
    rig.settle();
    assert_eq!(rig.seen(again).position(7), 21);
    assert_eq!(rig.seen(again).acks().len(), 1, "live again");
}

// spec: R-13
#[test]
fn a_slow_subscriber_is_marked_lagging_and_catches_up_from_the_log() {
    let limits = HubLimits { queue_bytes_max: 2_000, read_bytes_max: 1_000, ..HubLimits::default() };
    let mut rig = Rig::with(limits);
    let (a, b) = (rig.connect(0), rig.connect(0));
    rig.reading.set(false);
    for n in 1..=200 {
        rig.push(a, 1, n, &[create(1, 0)]);
        rig.settle();
        while rig.read_one(a) {}
        let queued: usize = rig.seen(b).unread.iter().map(Bytes::len).sum();
        assert!(queued <= limits.queue_bytes_max, "{queued} bytes wait for one connection");
    }
    assert_eq!(rig.seen(a).position(0), 200, "nobody else waits");
    assert_eq!(rig.hub.stats().lagged, 1);
    assert!(rig.seen(b).unread.len() < 50);
    rig.reading.set(true);
    rig.settle();
    assert_eq!(rig.seen(b).position(0), 200);
    rig.push(a, 1, 201, &[create(1, 0)]);
    rig.settle();
    assert_eq!(rig.seen(b).position(0), 201, "live again");
}

// spec
#[test]
fn a_lagging_author_gets_its_acks_from_the_log() {
    let limits = HubLimits { queue_bytes_max: 600, read_bytes_max: 600, ..HubLimits::default() };
    let mut rig = Rig::with(limits);
    let a = rig.connect(0);
    rig.reading.set(false);
    for n in 1..=50 {
        rig.push(a, 1, n, &[create(1, 0)]);
        rig.settle();
    }
    assert!(rig.hub.stats().lagged > 0);
    rig.reading.set(true);
    rig.settle();
    assert_eq!((rig.seen(a).position(0), rig.seen(a).acks().len(), rig.seen(a).entries().len()), (50, 50, 0));
}

#[test]
fn an_entry_larger_than_the_queue_still_goes_out() {
    let mut rig = Rig::with(HubLimits { queue_bytes_max: 64, read_bytes_max: 32, ..HubLimits::default() });
    let (a, b) = (rig.connect(0), rig.connect(0));
    for n in 1..=5 {
        rig.push(a, 1, n, &[create(1, 0)]);
        rig.settle();
    }
    assert_eq!((rig.seen(a).position(0), rig.seen(b).position(0)), (5, 5));
}

// spec: R-7
#[test]
fn another_space_another_epoch_or_a_cursor_from_the_future_is_fatal() {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.settle();
    let mut check = |space: Option<SpaceId>, epoch, cursor, expected: Option<ErrorCode>| {
        let conn = rig.open(SPACE);
        let mut hello = rig.hello(0, &[]);
        (hello.space, hello.epoch, hello.cursor) = (space, epoch, cursor);
        rig.send(conn, &Frame::Hello(hello));
        rig.settle();
        match expected {
            Some(code) => {
                let error = rig.seen(conn).closed_with();
                assert_eq!((error.code, error.fatal), (code, true));
                assert!(!error.text.is_empty());
            }
            None => assert_eq!(rig.seen(conn).welcome().head, 1),
        }
    };
    let home = Some(SpaceId::from_bytes([0xa1; 16]));
    check(home, 1, 1, None);
    check(None, 0, 0, None);
    check(Some(SpaceId::from_bytes([5; 16])), 1, 1, Some(ErrorCode::SpaceMismatch));
    check(home, 2, 1, Some(ErrorCode::EpochMismatch));
    check(home, 1, 2, Some(ErrorCode::CursorAhead));
    assert_eq!(rig.hub.stats().connections, 3, "those refused are forgotten");
}

// spec: R-9
#[test]
fn a_cursor_within_a_batch_is_refused() {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    rig.push(a, 1, 1, &[create(1, 0), create(2, 0)]);
    rig.settle();
    let conn = rig.connect(1);
    assert_eq!(rig.seen(conn).closed_with().code, ErrorCode::CursorAhead);
}

// spec: R-7
#[test]
fn another_protocol_is_refused() {
    let mut rig = Rig::new();
    let a = rig.open(SPACE);
    let mut hello = rig.hello(0, &[]);
    hello.protocol = 2;
    rig.send(a, &Frame::Hello(hello));
    rig.settle();
    let error = rig.seen(a).closed_with();
    assert_eq!((error.code, error.fatal), (ErrorCode::Unsupported, true));
}

// spec: R-7
#[test]
fn a_cursor_below_the_floor_is_refused() {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.push(a, 1, 2, &[update(1, 0, 2)]);
    rig.settle();
    rig.log.set_floor(1);
    rig.disconnect(a);
    rig.now.mono_ms += HubLimits::default().space_idle_ms;
    rig.handle(Input::Tick);
    let (below, at) = (rig.connect(0), rig.connect(1));
    assert_eq!(rig.seen(below).closed_with().code, ErrorCode::Unsupported);
    assert_eq!(rig.seen(at).position(1), 2);
}

// spec: R-6
#[test]
fn hello_comes_first_and_once() {
    let mut rig = Rig::new();
    let check = |rig: &mut Rig, frames: &[Frame]| {
        let conn = rig.open(SPACE);
        for frame in frames {
            rig.send(conn, frame);
        }
        rig.settle();
        rig.seen(conn).closed.clone().map(|error| error.map(|error| error.code))
    };
    let hello = Frame::Hello(rig.hello(0, &[]));
    let push = Frame::Push(rig.batch(1, 1, &[create(1, 0)]));
    assert_eq!(check(&mut rig, &[Frame::Ping(1)]), Some(Some(ErrorCode::Malformed)));
    assert_eq!(check(&mut rig, std::slice::from_ref(&push)), Some(Some(ErrorCode::Malformed)));
    assert_eq!(check(&mut rig, &[hello.clone(), hello.clone()]), Some(Some(ErrorCode::Malformed)));
    assert_eq!(check(&mut rig, &[hello.clone(), Frame::Bye]), Some(None));
    assert_eq!(check(&mut rig, &[hello, push]), None, "a push may follow Hello without waiting");
    assert_eq!(rig.log.info().head, 1);
}

// spec: R-12
#[test]
fn rubbish_ends_only_its_own_stream() {
    let mut rig = Rig::new();
    let (a, b) = (rig.connect(0), rig.connect(0));
    let mut bytes = Frame::Push(rig.batch(1, 1, &[create(1, 0)])).to_bytes().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    rig.handle(Input::Frame { conn: a, frame: Received::decode(bytes.into()) });
    rig.settle();
    let error = rig.seen(a).closed_with();
    assert_eq!((error.code, error.fatal), (ErrorCode::Malformed, true));
    assert!(error.text.contains("offset") || error.text.contains("byte"), "the text names the place: {}", error.text);
    assert!(rig.seen(b).closed.is_none());
    rig.push(b, 2, 1, &[create(1, 0)]);
    rig.settle();
    assert_eq!(rig.seen(b).position(0), 1);

    // What only a relay may say.
    let (_, envelope) = rig.log.entries().pop().map(|(envelope, batch)| (batch, envelope)).unwrap();
    rig.send(b, &Frame::Ack(envelope));
    assert_eq!(rig.seen(b).closed_with().code, ErrorCode::Malformed);
}

// spec: R-12
#[test]
fn a_reserved_kind_is_answered_and_the_stream_goes_on() {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    let mut bytes = Frame::Bye.to_bytes().to_vec();
    bytes[3] = 37;
    let crc = crc32(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    rig.handle(Input::Frame { conn: a, frame: Received::decode(bytes.into()) });
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.settle();
    assert_eq!(rig.seen(a).errors()[0].code, ErrorCode::Unsupported);
    assert!(!rig.seen(a).errors()[0].fatal);
    assert!(rig.seen(a).closed.is_none());
    assert_eq!(rig.seen(a).position(0), 1);
}

/// CRC32 (IEEE), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

// spec: R-22
#[test]
fn a_digest_waits_for_its_place_in_the_stream() {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.settle();
    rig.send(a, &Frame::DigestRequest { min_seq: 1 });
    rig.send(a, &Frame::DigestRequest { min_seq: 2 });
    rig.settle();
    let digests: Vec<u64> = rig
        .seen(a)
        .frames
        .iter()
        .filter_map(|frame| if let Frame::Digest { seq, .. } = frame { Some(*seq) } else { None })
        .collect();
    assert_eq!(digests, [1]);
    assert_eq!(rig.seen(a).errors()[0].code, ErrorCode::CursorAhead);
    rig.copies = false;
    rig.send(a, &Frame::DigestRequest { min_seq: 0 });
    rig.settle();
    assert_eq!(rig.seen(a).errors()[1].code, ErrorCode::Unsupported);
    assert!(rig.seen(a).closed.is_none());
}

#[test]
fn the_same_buffer_goes_to_every_subscriber() {
    let mut rig = Rig::new();
    let author = rig.connect(0);
    let readers = [rig.connect(0), rig.connect(0), rig.connect(0)];
    rig.reading.set(false);
    rig.push(author, 1, 1, &[create(1, 0)]);
    rig.settle();
    let buffers: Vec<&Bytes> = readers.iter().map(|conn| rig.seen(*conn).unread.back().unwrap()).collect();
    assert!(buffers.windows(2).all(|two| two[0].as_ptr() == two[1].as_ptr()), "made once, counted");
    assert_eq!(entry_of(buffers[0]).0.first_seq, 1);
}

fn reading_all(rig: &mut Rig, cursor: u64) -> blazedb_relay::hub::ConnId {
    let conn = rig.open(SPACE);
    let hello = blazedb_wire::Hello { reads: Reads::ALL, ..rig.hello(cursor, &[]) };
    rig.send(conn, &Frame::Hello(hello));
    conn
}

// spec: R-23
#[test]
fn who_is_behind_gets_columns_if_it_reads_them() {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    for n in 0..100 {
        rig.push(a, 1, n + 1, &[create(n as u8, 0)]);
    }
    rig.settle();
    let late = reading_all(&mut rig, 0);
    let plain = rig.open(SPACE);
    let hello = rig.hello(0, &[]);
    rig.send(plain, &Frame::Hello(hello));
    rig.settle();
    assert!(rig.seen(late).welcome().reads == Reads::ALL);
    let frames = &rig.seen(late).frames;
    let [Frame::Welcome(_), Frame::Entries(entries)] = &frames[..] else { panic!("one frame for all: {frames:?}") };
    let expected: Vec<_> = rig.seen(plain).entries();
    assert_eq!(entries.iter().map(|(envelope, batch)| (envelope, batch)).collect::<Vec<_>>(), expected);
    assert_eq!(expected.len(), 100);
    // What is new comes as it was pushed, to both.
    rig.push(a, 1, 101, &[create(200, 0)]);
    rig.settle();
    assert!(matches!(rig.seen(late).frames.last(), Some(Frame::Entry { envelope, .. }) if envelope.first_seq == 101));
}

// spec
#[test]
fn acks_are_not_packed() {
    let mut rig = Rig::with(HubLimits { queue_bytes_max: 200, ..HubLimits::default() });
    let other = rig.connect(0);
    let a = reading_all(&mut rig, 0);
    rig.settle();
    rig.reading.set(false);
    // It does not read: what it pushed, and what the other did, waits in the log.
    for n in 0..40 {
        rig.push(other, 2, n + 1, &[create(n as u8, 0)]);
        rig.settle();
    }
    rig.push(a, 1, 1, &[create(100, 0)]);
    rig.settle();
    for n in 40..80 {
        rig.push(other, 2, n + 1, &[create(n as u8, 0)]);
        rig.settle();
    }
    rig.reading.set(true);
    rig.settle();
    let mut position = 0;
    let mut packed = 0;
    for frame in &rig.seen(a).frames {
        match frame {
            Frame::Entries(entries) => {
                packed += entries.len();
                for (envelope, _) in entries {
                    assert_eq!(envelope.first_seq, position + 1);
                    assert_ne!(envelope.replica, replica(1), "an own push");
                    position = envelope.last_seq();
                }
            }
            Frame::Entry { envelope, .. } | Frame::Ack(envelope) => {
                assert_eq!(envelope.first_seq, position + 1);
                position = envelope.last_seq();
            }
            _ => {}
        }
    }
    assert_eq!(position, 81);
    assert_eq!(rig.seen(a).acks().len(), 1);
    assert!(packed > 60, "{packed} in columns");
}

// spec: R-23
#[test]
fn pushes_are_admitted_one_by_one() {
    let mut rig = Rig::new();
    let (a, b) = (reading_all(&mut rig, 0), rig.connect(0));
    rig.settle();
    let batches: Vec<_> = (0..20).map(|n| rig.batch(1, n + 1, &[create(n as u8, 0)])).collect();
    rig.send(a, &Frame::Pushes(batches.clone()));
    rig.settle();
    let acks: Vec<u64> = rig.seen(a).acks().iter().map(|envelope| envelope.first_seq).collect();
    assert_eq!(acks, (1..=20).collect::<Vec<_>>());
    let entries = rig.seen(b).entries();
    assert_eq!(entries.iter().map(|entry| entry.1.clone()).collect::<Vec<_>>(), batches, "and passed on as they are");
    // Columns do not get past the ledger.
    let mut rig = Rig::with(HubLimits { inflight_bytes_max: 1500, ..HubLimits::default() });
    let a = reading_all(&mut rig, 0);
    rig.settle();
    let batches: Vec<_> = (0..20).map(|n| rig.batch(1, n + 1, &[create(n as u8, 0)])).collect();
    let frame = Frame::Pushes(batches);
    assert!(frame.to_bytes().len() < 1500);
    rig.send(a, &frame);
    assert_eq!(rig.seen(a).closed_with().code, ErrorCode::Overloaded);
    // Nor past the Hello.
    let mut rig = Rig::new();
    let silent = rig.open(SPACE);
    rig.send(silent, &frame);
    assert_eq!(rig.seen(silent).closed_with().code, ErrorCode::Malformed);
}

#[test]
fn before_hello_no_body_is_looked_at() {
    for kind in [FrameKind::Push, FrameKind::Pushes, FrameKind::Entries, FrameKind::Ping] {
        let mut rig = Rig::new();
        let stranger = rig.open(SPACE);
        // A body that nobody could read, under a checksum of nothing.
        let mut bytes = Frame::Bye.to_bytes().to_vec();
        bytes[3] = kind.number();
        bytes[8] = 4;
        bytes.extend_from_slice(b"junk");
        rig.handle(Input::Frame { conn: stranger, frame: Received::decode(bytes.into()) });
        let closed = rig.seen(stranger).closed_with();
        assert_eq!((closed.code, closed.text.as_str()), (ErrorCode::Malformed, "the first frame of a stream is Hello"));
    }
}
