//! Logs that fail, clients that vanish, relays that go down.

use blazedb_relay::hub::{HubLimits, Input, Received, Unavailable};
use blazedb_relay::log::AppendError;
use blazedb_wire::limits::FRAME_BODY_BYTES_MAX;
use blazedb_wire::{ErrorCode, Frame, FrameKind, HEADER_BYTES};
use bytes::Bytes;

use crate::rig::{Rig, SPACE, create, delete, update};

// spec: R-20
#[test]
fn a_failed_append_ends_the_connections_of_its_space_and_forgets_what_was_in_flight() {
    let mut rig = Rig::new();
    let (a, b) = (rig.connect(0), rig.connect(0));
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.settle();
    *rig.log.fail_next.lock() = Some(AppendError::Storage { detail: "no disk".to_owned() });
    rig.push(a, 1, 2, &[delete(1, 1)]);
    rig.push(b, 2, 1, &[update(1, 1, 5)]);
    rig.settle();
    for conn in [a, b] {
        let error = rig.seen(conn).closed_with();
        assert_eq!((error.code, error.fatal), (ErrorCode::Internal, false));
        assert!(error.retry_ms > 0);
    }
    assert_eq!(rig.log.info().head, 1, "the second of the two was refused by its expected head");
    // The death that never happened absorbs nothing, the counters are those of the log.
    let again = rig.connect(1);
    rig.push(again, 2, 1, &[update(1, 1, 5)]);
    rig.push(again, 1, 2, &[delete(1, 1)]);
    rig.settle();
    assert_eq!(rig.seen(again).position(1), 3);
    assert!(!rig.log.entries()[1].0.absorbed.any());
}

// spec: R-4
#[test]
fn a_log_that_went_on_without_us_is_read_again() {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    *rig.log.fail_next.lock() = Some(AppendError::HeadMismatch { expected: 0, found: 4 });
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.settle();
    assert_eq!(rig.seen(a).closed_with().code, ErrorCode::Internal);
    let again = rig.connect(0);
    rig.push(again, 1, 1, &[create(1, 0)]);
    rig.settle();
    assert_eq!(rig.seen(again).position(0), 1);
}

// spec: R-20
#[test]
fn a_full_log_ends_only_who_pushed_and_reading_goes_on() {
    let mut rig = Rig::new();
    let (author, repeater, reader) = (rig.connect(0), rig.connect(0), rig.connect(0));
    *rig.log.fail_next.lock() = Some(AppendError::Full { detail: "1 GiB".to_owned() });
    rig.push(author, 1, 1, &[create(1, 0)]);
    // Known only by what is in flight: its ack would speak of a number that somebody else will get.
    rig.push(repeater, 1, 1, &[create(1, 0)]);
    rig.settle();
    for conn in [author, repeater] {
        let error = rig.seen(conn).closed_with();
        assert_eq!((error.code, error.fatal), (ErrorCode::Overloaded, false));
    }
    assert!(rig.seen(repeater).acks().is_empty());
    assert!(rig.seen(reader).closed.is_none());
    rig.push(reader, 3, 1, &[create(3, 0)]);
    rig.settle();
    assert_eq!(rig.seen(reader).position(0), 1);
    assert_eq!(rig.seen(reader).acks().len(), 1);
}

#[test]
fn frames_wait_while_a_full_space_is_read_again() {
    let mut rig = Rig::new();
    let (author, reader) = (rig.connect(0), rig.connect(0));
    *rig.log.fail_next.lock() = Some(AppendError::Full { detail: String::new() });
    rig.push(author, 1, 1, &[create(1, 0)]);
    rig.append_silently();
    // The failure and the reading again are on their way; this one is admitted against a head that will not be.
    rig.push(reader, 2, 1, &[create(2, 0)]);
    rig.settle();
    assert_eq!(rig.seen(reader).closed_with().code, ErrorCode::Overloaded);
    assert_eq!(rig.log.info().head, 0);
}

#[test]
fn a_log_that_cannot_be_read_ends_those_who_ask() {
    let mut rig = Rig::new();
    let a = rig.open(SPACE);
    let hello = rig.hello(0, &[]);
    rig.send(a, &Frame::Hello(hello.clone()));
    rig.handle(Input::SpaceOpened { name: SPACE.into(), result: Err(Unavailable) });
    assert_eq!(rig.seen(a).closed_with().code, ErrorCode::Internal);
    let b = rig.connect(0);
    assert_eq!(rig.seen(b).welcome().head, 0, "the next one is asked for again");
    rig.handle(Input::LogRead { conn: b, result: Err(Unavailable) });
    assert_eq!(rig.seen(b).closed_with().code, ErrorCode::Internal);
}

// spec: R-13
#[test]
fn who_says_nothing_is_sent_away() {
    let mut rig = Rig::new();
    let limits = HubLimits::default();
    let (mute, silent, lively) = (rig.open(SPACE), rig.connect(0), rig.connect(0));
    rig.now.mono_ms = limits.hello_ms_max;
    rig.handle(Input::Tick);
    assert!(rig.seen(mute).closed.is_none(), "at the edge");
    rig.now.mono_ms += 1;
    rig.handle(Input::Tick);
    assert!(rig.seen(mute).closed.is_some());
    assert!(rig.seen(silent).closed.is_none());
    rig.now.mono_ms = limits.silence_ms_max;
    rig.send(lively, &Frame::Ping(7));
    rig.now.mono_ms += 1;
    rig.handle(Input::Tick);
    assert!(rig.seen(silent).closed.is_some());
    assert!(rig.seen(lively).closed.is_none());
    rig.settle();
    assert!(rig.seen(lively).frames.contains(&Frame::Pong(7)));
}

// spec: R-13
#[test]
fn a_client_that_pushes_without_end_is_stopped() {
    let mut rig = Rig::with(HubLimits { inflight_bytes_max: 2_000, ..HubLimits::default() });
    let a = rig.connect(0);
    let mut pushed = 0;
    while rig.seen(a).closed.is_none() {
        pushed += 1;
        rig.push(a, 1, pushed, &[create(1, 0)]);
        assert!(pushed < 100, "never stopped");
    }
    assert_eq!(rig.seen(a).closed_with().code, ErrorCode::Overloaded);
    rig.settle();
    assert_eq!(rig.log.info().head, pushed - 1, "what was admitted before is logged all the same");
    // The same amount with a sync in between is welcome.
    let b = rig.connect(0);
    for n in 1..pushed * 3 {
        rig.push(b, 2, n, &[create(2, 0)]);
        rig.settle();
    }
    assert!(rig.seen(b).closed.is_none());
}

// spec: G-4, R-12, R-13
#[test]
fn the_longest_frame_is_looked_at_and_one_more_byte_beside_it_is_too_much() {
    let mut longest = Frame::Bye.to_bytes().to_vec();
    longest[3] = FrameKind::Push.number();
    longest[8..12].copy_from_slice(&u32::try_from(FRAME_BODY_BYTES_MAX).unwrap().to_le_bytes());
    longest.resize(HEADER_BYTES + FRAME_BODY_BYTES_MAX, 0);
    let longest = Bytes::from(longest);
    for (pushed_before, answer) in [(false, ErrorCode::Malformed), (true, ErrorCode::Overloaded)] {
        let mut rig = Rig::new();
        let a = rig.connect(0);
        if pushed_before {
            rig.push(a, 1, 1, &[create(1, 0)]);
        }
        rig.handle(Input::Frame { conn: a, frame: Received::decode(longest.clone()) });
        assert_eq!(rig.seen(a).closed_with().code, answer);
    }
}

// spec: R-13
#[test]
fn a_client_that_asks_and_never_reads_is_stopped() {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    rig.reading.set(false);
    let mut asked = 0_u64;
    while rig.seen(a).closed.is_none() {
        rig.send(a, &Frame::Ping(asked));
        asked += 1;
        assert!(asked < 1_000_000, "never stopped");
    }
    assert_eq!(rig.seen(a).closed_with().code, ErrorCode::Overloaded);
    let queued: usize = rig.seen(a).unread.iter().map(Bytes::len).sum();
    assert!(queued < 6 << 20, "{queued} bytes");
}

#[test]
fn a_space_that_nobody_uses_is_forgotten_and_found_again() {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.settle();
    rig.disconnect(a);
    rig.handle(Input::Tick);
    assert_eq!(rig.hub.stats().spaces, 1);
    rig.now.mono_ms += HubLimits::default().space_idle_ms;
    rig.handle(Input::Tick);
    assert_eq!(rig.hub.stats().spaces, 0);
    let b = rig.connect(0);
    assert_eq!(rig.seen(b).position(0), 1);
}

#[test]
fn too_many_spaces_are_refused() {
    let mut rig = Rig::with(HubLimits { spaces_max: 1, ..HubLimits::default() });
    rig.connect(0);
    let other = rig.open("work");
    let hello = rig.hello(0, &[]);
    rig.send(other, &Frame::Hello(hello));
    assert_eq!(rig.seen(other).closed_with().code, ErrorCode::Overloaded);
}

#[test]
fn shutdown_acknowledges_what_is_in_flight_and_sends_everybody_away() {
    let mut rig = Rig::new();
    let (a, b) = (rig.connect(0), rig.connect(0));
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.handle(Input::Shutdown);
    assert!(!rig.hub.is_finished());
    assert!(rig.seen(a).closed.is_none(), "its ack comes first");
    rig.push(b, 2, 1, &[create(2, 0)]);
    assert_eq!(rig.seen(b).closed_with().code, ErrorCode::ShuttingDown, "nothing new is taken");
    rig.settle();
    assert_eq!(rig.seen(a).acks().len(), 1);
    let error = rig.seen(a).closed_with();
    assert_eq!((error.code, error.fatal), (ErrorCode::ShuttingDown, false));
    assert!(rig.hub.is_finished());
    let late = rig.open(SPACE);
    assert_eq!(rig.seen(late).closed_with().code, ErrorCode::ShuttingDown);
}

#[test]
fn a_client_that_vanishes_in_flight_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let (a, b) = (rig.connect(0), rig.connect(0));
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.disconnect(a);
    rig.settle();
    assert_eq!(rig.seen(b).position(0), 1, "what was pushed counts");
    assert_eq!(rig.hub.stats().connections, 1);
    // Answers to a connection that is gone go nowhere.
    rig.handle(Input::LogRead { conn: a, result: Ok(Vec::new()) });
    rig.handle(Input::Sent { conn: a, bytes: 10 });
    rig.handle(Input::DigestReady { conn: a, digest: None });
}
