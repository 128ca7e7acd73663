//! Clients that have said all they will say.

use blazedb_relay::hub::{ConnId, HubLimits, Input, Received, SpaceDigest};
use blazedb_relay::log::AppendError;
use blazedb_wire::{ErrorCode, Frame, Hello};

use crate::rig::{Rig, SPACE, create, update};

/// Opens a stream that reads from this cursor on, and lets nothing happen.
fn hello(rig: &mut Rig, cursor: u64) -> ConnId {
    let conn = rig.open(SPACE);
    let hello = rig.hello(cursor, &[]);
    rig.send(conn, &Frame::Hello(hello));
    conn
}

fn finish(rig: &mut Rig, conn: ConnId) {
    rig.handle(Input::Finished { conn });
}

// spec: G-10, G-15
#[test]
fn what_was_said_at_one_go_is_answered() {
    for others in [0, 5] {
        let mut rig = Rig::new();
        if others > 0 {
            let other = rig.connect(0);
            for n in 0..others {
                rig.push(other, 9, n + 1, &[create(9, 0)]);
            }
            rig.settle();
        }
        // Its space is opened while all of it waits.
        let known = rig.log.info();
        let a = rig.open(SPACE);
        let hello = Hello { space: None, epoch: 0, ..rig.hello(0, &[]) };
        rig.send(a, &Frame::Hello(hello));
        rig.push(a, 1, 1, &[create(1, 0)]);
        // One that is known by then.
        rig.push(a, 1, 1, &[create(1, 0)]);
        rig.push(a, 1, 2, &[update(1, 0, 2)]);
        rig.send(a, &Frame::DigestRequest { min_seq: known.head });
        rig.send(a, &Frame::Ping(7));
        finish(&mut rig, a);
        assert!(rig.seen(a).closed.is_none());
        rig.settle();
        let seen = rig.seen(a);
        assert_eq!(seen.welcome().head, others);
        assert_eq!(seen.position(0), others + 2);
        assert_eq!(seen.entries().len() as u64, others);
        assert_eq!(seen.acks().iter().filter(|ack| ack.first_seq > 0).count(), 2);
        assert_eq!(seen.acks().len(), 3);
        assert!(seen.frames.contains(&Frame::Pong(7)));
        assert!(seen.frames.iter().any(|frame| matches!(frame, Frame::Digest { .. })));
        assert_eq!(seen.closed, Some(None), "and ended with a good word");
        assert_eq!(rig.hub.stats().connections, usize::from(others > 0));
    }
}

/// Several batches in one frame, and the goodbye behind it.
// spec: G-10
#[test]
fn what_was_pushed_before_a_bye_is_acknowledged() {
    // Nothing happens between the two; the space is not even open; the log has done it already.
    for (opened, appended) in [(true, false), (false, false), (true, true)] {
        let mut rig = Rig::new();
        let other = rig.connect(0);
        let known = rig.log.info();
        let a = if opened { rig.connect(0) } else { rig.open(SPACE) };
        if !opened {
            let hello = Hello { space: Some(known.id), epoch: known.epoch, ..rig.hello(0, &[]) };
            rig.send(a, &Frame::Hello(hello));
        }
        let batches = vec![rig.batch(1, 1, &[create(1, 0)]), rig.batch(1, 2, &[update(1, 0, 2), update(1, 0, 3)])];
        rig.send(a, &Frame::Pushes(batches));
        if appended {
            rig.append_silently();
        }
        rig.send(a, &Frame::Bye);
        assert!(rig.seen(a).closed.is_none(), "{opened} {appended}: before the acknowledgements");
        // What comes behind the goodbye is nothing.
        rig.handle(Input::Frame { conn: a, frame: Received::decode(vec![0; 100].into()) });
        rig.push(a, 1, 4, &[update(1, 0, 4)]);
        rig.settle();
        assert_eq!(rig.seen(a).acks().len(), 2, "{opened} {appended}");
        assert_eq!(rig.seen(a).closed, Some(None));
        assert_eq!(rig.log.info().head, 3);
        assert_eq!(rig.seen(other).position(0), 3);
    }
}

// spec: G-10
#[test]
fn what_is_refused_before_a_bye_is_told() {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    // A hole before it.
    rig.push(a, 1, 5, &[create(1, 0)]);
    rig.send(a, &Frame::Bye);
    rig.settle();
    assert_eq!(rig.seen(a).errors().len(), 1);
    assert_eq!(rig.seen(a).closed, Some(None));
    let b = rig.connect(0);
    rig.push(b, 2, 1, &[create(2, 0)]);
    rig.send(b, &Frame::Bye);
    *rig.log.fail_next.lock() = Some(AppendError::Full { detail: String::new() });
    rig.settle();
    assert_eq!(rig.seen(b).closed_with().code, ErrorCode::Overloaded);
    // Known already, but its original is not durable yet.
    let c = rig.connect(0);
    let d = rig.connect(0);
    rig.push(c, 3, 1, &[create(3, 0)]);
    rig.push(d, 3, 1, &[create(3, 0)]);
    rig.send(d, &Frame::Bye);
    assert!(rig.seen(d).closed.is_none());
    rig.settle();
    assert_eq!((rig.seen(d).acks().len(), &rig.seen(d).closed), (1, &Some(None)));
    assert!(rig.seen(c).closed.is_none());
}

// spec: G-10
#[test]
fn a_bye_asks_for_no_more_than_what_was_pushed() {
    let mut rig = Rig::with(HubLimits { queue_bytes_max: 700, read_bytes_max: 300, ..HubLimits::default() });
    let other = rig.connect(0);
    for n in 1..=50 {
        rig.push(other, 9, n, &[create(9, 0)]);
        rig.settle();
    }
    // Nothing pushed: it is not kept for a backlog that it does not want.
    rig.reading.set(false);
    let reader = hello(&mut rig, 0);
    rig.send(reader, &Frame::Bye);
    assert_eq!(rig.seen(reader).closed, Some(None));
    // Its own is the 51st; what others push behind it is not waited for, though the head moves on and on.
    let author = hello(&mut rig, 0);
    rig.push(author, 1, 1, &[create(1, 0)]);
    rig.send(author, &Frame::Bye);
    for n in 51..=150 {
        rig.push(other, 9, n, &[create(9, 0)]);
        rig.settle();
        rig.read_one(author);
        while rig.read_one(other) {}
    }
    while rig.read_one(author) {}
    assert_eq!(rig.seen(author).closed, Some(None));
    assert_eq!(rig.seen(author).acks().len(), 1);
    let position = rig.seen(author).position(0);
    assert!((51..140).contains(&position), "{position}");
}

// spec: G-10, R-13
#[test]
fn one_that_said_bye_is_not_kept_by_what_it_says_after() {
    let limits = HubLimits { queue_bytes_max: 700, read_bytes_max: 300, ..HubLimits::default() };
    let mut rig = Rig::with(limits);
    let other = rig.connect(0);
    for n in 1..=50 {
        rig.push(other, 9, n, &[create(9, 0)]);
        rig.settle();
    }
    rig.reading.set(false);
    let stalls = hello(&mut rig, 0);
    rig.push(stalls, 1, 1, &[create(1, 0)]);
    rig.send(stalls, &Frame::Bye);
    rig.settle();
    rig.now.mono_ms = limits.silence_ms_max + 1;
    rig.send(stalls, &Frame::Ping(1));
    rig.handle(Input::Tick);
    assert_eq!(rig.seen(stalls).closed_with().code, ErrorCode::Overloaded);
}

// spec: G-10
#[test]
fn a_digest_of_what_is_yet_to_come_comes_after_it() {
    let mut rig = Rig::new();
    let (a, other) = (rig.connect(0), rig.connect(0));
    rig.send(a, &Frame::DigestRequest { min_seq: 0 });
    finish(&mut rig, a);
    rig.push(other, 9, 1, &[create(9, 0)]);
    // The copy has heard of it before the hub has.
    rig.append_silently();
    let digest = SpaceDigest { seq: 1, digest: [7; 32], documents: 1 };
    rig.handle(Input::DigestReady { conn: a, digest: Some(digest) });
    assert!(rig.seen(a).closed.is_none());
    rig.settle();
    let [.., entry, last] = &rig.seen(a).frames[..] else { panic!("two and more") };
    assert!(matches!((entry, last), (Frame::Entry { .. }, Frame::Digest { seq: 1, .. })), "{last:?}");
    assert_eq!(rig.seen(a).closed, Some(None));
}

// spec: G-10
#[test]
fn nothing_asked_is_nothing_to_wait_for() {
    let mut rig = Rig::new();
    let mute = rig.open(SPACE);
    finish(&mut rig, mute);
    assert_eq!(rig.seen(mute).closed, Some(None));
    let live = rig.connect(0);
    finish(&mut rig, live);
    assert_eq!(rig.seen(live).closed, Some(None));
    let refused = rig.open(SPACE);
    let hello = Hello { protocol: 99, ..rig.hello(0, &[]) };
    rig.send(refused, &Frame::Hello(hello));
    finish(&mut rig, refused);
    rig.settle();
    assert_eq!(rig.seen(refused).closed_with().code, ErrorCode::Unsupported);
}

// spec: G-10
#[test]
fn a_reader_gets_the_head_of_its_end_and_does_not_follow_the_others_for_ever() {
    let mut rig = Rig::with(HubLimits { queue_bytes_max: 700, read_bytes_max: 300, ..HubLimits::default() });
    let other = rig.connect(0);
    for n in 1..=50 {
        rig.push(other, 9, n, &[create(9, 0)]);
        rig.settle();
    }
    rig.reading.set(false);
    let slow = hello(&mut rig, 0);
    finish(&mut rig, slow);
    // One of another's comes for each that it takes.
    for n in 51..=150 {
        rig.push(other, 9, n, &[create(9, 0)]);
        rig.settle();
        rig.read_one(slow);
        while rig.read_one(other) {}
    }
    while rig.read_one(slow) {}
    assert_eq!(rig.seen(slow).closed, Some(None));
    let position = rig.seen(slow).position(0);
    assert!((50..140).contains(&position), "{position}");
}

// spec: G-10, R-13
#[test]
fn one_that_takes_nothing_is_ended_like_one_that_is_silent() {
    let limits = HubLimits { queue_bytes_max: 700, read_bytes_max: 300, ..HubLimits::default() };
    let mut rig = Rig::with(limits);
    let other = rig.connect(0);
    for n in 1..=50 {
        rig.push(other, 9, n, &[create(9, 0)]);
        rig.settle();
    }
    rig.reading.set(false);
    let (takes, stalls) = (hello(&mut rig, 0), hello(&mut rig, 0));
    for conn in [takes, stalls] {
        finish(&mut rig, conn);
    }
    rig.settle();
    rig.now.mono_ms = limits.silence_ms_max;
    rig.read_one(takes);
    rig.now.mono_ms += 1;
    rig.handle(Input::Tick);
    assert_eq!(rig.seen(stalls).closed_with().code, ErrorCode::Overloaded);
    assert!(rig.seen(takes).closed.is_none());
    rig.reading.set(true);
    rig.settle();
    assert_eq!((rig.seen(takes).position(0), &rig.seen(takes).closed), (50, &Some(None)));
}

// spec: G-10, R-20
#[test]
fn what_is_given_up_is_not_waited_for() {
    let mut rig = Rig::new();
    let (a, reader) = (rig.connect(0), rig.connect(0));
    rig.push(a, 1, 1, &[create(1, 0)]);
    // The head that it waits for is one that will not be.
    finish(&mut rig, reader);
    assert!(rig.seen(reader).closed.is_none());
    *rig.log.fail_next.lock() = Some(AppendError::Full { detail: String::new() });
    rig.settle();
    assert_eq!(rig.seen(a).closed_with().code, ErrorCode::Overloaded);
    assert_eq!(rig.seen(reader).closed, Some(None));
}
