//! What one who says much, or takes nothing, leaves to the others.

use blazedb_relay::hub::{ConnId, HubLimits, Origin, Shares};
use blazedb_relay::log::RelayLog as _;
use blazedb_wire::{Batch, ErrorCode, Frame, Reads};

use crate::rig::{Rig, SPACE, create, delete, replica, update};

const HERE: Origin = Origin { address: 1, connection: 1 };
const BESIDE: Origin = Origin { address: 1, connection: 2 };
const ELSEWHERE: Origin = Origin { address: 2, connection: 3 };

const ENOUGH: Shares = Shares { connection: usize::MAX / 4, address: usize::MAX / 4, relay: usize::MAX / 4 };

/// Batches of ten deletes each, from a counter on.
fn batches(rig: &Rig, first_counter: u64, count: u64) -> Vec<Batch> {
    let ops: Vec<_> = (0..10).map(|id| delete(id, 0)).collect();
    (0..count).map(|n| rig.batch(7, first_counter + 10 * n, &ops)).collect()
}

// spec: F-23, L-24
#[test]
fn one_input_decides_so_many_operations_and_then_it_is_the_turn_of_others() {
    let mut rig = Rig::with(HubLimits { turn_ops_max: 20, ..HubLimits::default() });
    let (a, b) = (rig.connect(0), rig.connect(0));
    // What comes behind it waits, a Bye as well as a ping.
    rig.send(a, &Frame::Pushes(batches(&rig, 1, 5)));
    rig.send(a, &Frame::Ping(1));
    assert_eq!(rig.waiting_appends(), 2, "two batches of ten");
    rig.send(b, &Frame::Ping(2));
    assert!(rig.read_one(b));
    assert_eq!(rig.seen(b).frames.last(), Some(&Frame::Pong(2)), "another is answered in between");
    assert!(rig.one_turn());
    assert_eq!(rig.waiting_appends(), 4);
    assert!(!rig.read_one(a), "the ping waits behind what was said before it");
    assert!(rig.one_turn() && !rig.one_turn());
    assert_eq!(rig.waiting_appends(), 5);
    assert!(rig.read_one(a));
    assert_eq!(rig.seen(a).frames.last(), Some(&Frame::Pong(1)));
    // Refused ones cost as much.
    rig.send(a, &Frame::Pushes(batches(&rig, 1_000, 3)));
    rig.read_one(a);
    rig.read_one(a);
    assert_eq!(rig.seen(a).errors().len(), 2);
    rig.settle();
    assert_eq!((rig.seen(a).errors().len(), rig.log.info().head), (3, 50));
}

// spec: L-24
#[test]
fn who_pushes_next_to_a_flood_waits_for_what_the_log_does_in_a_moment() {
    let mut rig = Rig::with(HubLimits { space_bytes_max: 2_000, turn_ops_max: 10, ..HubLimits::default() });
    let (a, b) = (rig.connect(0), rig.connect(0));
    // Ten documents that die are more than 1,280 bytes to the log, and a batch more than 512.
    rig.send(a, &Frame::Pushes(batches(&rig, 1, 20)));
    let after = rig.waiting_appends();
    assert_eq!(after, 1, "the log has enough to do");
    assert!(!rig.one_turn(), "nobody may go on");
    rig.push(b, 1, 1, &[create(50, 0)]);
    rig.send(b, &Frame::Ping(1));
    assert_eq!(rig.waiting_appends(), after, "it waits for its turn, too");
    rig.append_all();
    assert_eq!(rig.log.entries().len(), after);
    // Turns are the shell's; here it is whoever has waited longest.
    assert!(rig.one_turn() && rig.hub.may_go_on(b) && rig.one_turn());
    assert!(rig.log.entries().iter().all(|(envelope, _)| envelope.replica == replica(7)));
    rig.append_all();
    assert_eq!(rig.log.entries().last().map(|(envelope, _)| envelope.replica), Some(replica(1)));
    rig.settle();
    assert_eq!((rig.log.info().head, rig.seen(b).acks().len()), (201, 1));
    assert_eq!(rig.seen(b).frames.iter().filter(|frame| **frame == Frame::Pong(1)).count(), 1);
}

// spec: L-24
#[test]
fn what_is_pushed_and_not_durable_has_a_bound_for_those_with_something_in_common() {
    let of_one = {
        let rig = Rig::new();
        let batch = rig.batch(1, 1, &[create(1, 0)]);
        batch.memory_bytes()
    };
    for (pushed, full) in [
        (Shares { connection: of_one, ..ENOUGH }, [true, false, false]),
        (Shares { address: of_one, ..ENOUGH }, [true, true, false]),
        (Shares { relay: of_one, ..ENOUGH }, [true, true, true]),
        (ENOUGH, [false, false, false]),
    ] {
        let mut rig = Rig::with(HubLimits { pushed, ..HubLimits::default() });
        let a = rig.connect(0);
        let takes = |rig: &Rig| [HERE, BESIDE, ELSEWHERE].map(|origin| rig.hub.takes(origin));
        assert_eq!(takes(&rig), [true; 3]);
        rig.push(a, 1, 1, &[create(1, 0)]);
        assert_eq!(takes(&rig), full.map(|full| !full), "{pushed:?}");
        // Also when its author has gone: the append goes on.
        rig.disconnect(a);
        assert_eq!(takes(&rig), full.map(|full| !full));
        rig.settle();
        assert_eq!(takes(&rig), [true; 3], "durable");
        // What is refused is not held.
        let a = rig.connect(1);
        rig.push(a, 1, 100, &[create(1, 0)]);
        assert_eq!(takes(&rig), [true; 3]);
    }
}

/// A log of so many entries of so many operations, and a hub with these limits.
fn with_log(entries: u64, ops: u8, limits: HubLimits) -> Rig {
    let mut rig = Rig::with(limits);
    rig.origin = ELSEWHERE;
    let author = rig.connect(0);
    for n in 0..entries {
        let updates: Vec<_> = (0..ops).map(|id| update(id, 0, 5)).collect();
        rig.push(author, 9, n * u64::from(ops) + 1, &updates);
        rig.settle();
    }
    rig.disconnect(author);
    rig
}

fn reader(rig: &mut Rig, origin: Origin) -> ConnId {
    rig.origin = origin;
    let conn = rig.open(SPACE);
    let hello = rig.hello(0, &[]);
    rig.send(conn, &Frame::Hello(blazedb_wire::Hello { reads: Reads::default(), ..hello }));
    rig.answer_opens();
    assert!(rig.read_one(conn), "it reads the Welcome, and nothing more");
    rig.answer_reads();
    conn
}

// spec: L-25
#[test]
fn slow_readers_share_what_is_queued_and_keep_nobody_from_getting_on() {
    let queued = Shares { connection: 4_000, address: 6_000, relay: 8_000 };
    let small = 400;
    let limits = HubLimits { read_bytes_max: 2_000, read_bytes_min: small, queued, ..HubLimits::default() };
    let mut rig = with_log(100, 1, limits);
    rig.reading.set(false);
    let unread = |rig: &Rig, conns: &[ConnId]| conns.iter().map(|conn| rig.seen(*conn).unread_bytes()).sum::<usize>();
    let here: Vec<ConnId> = (0..10).map(|_| reader(&mut rig, HERE)).collect();
    assert!(unread(&rig, &here) <= 4_000 + 10 * small, "a connection: {}", unread(&rig, &here));
    assert!(unread(&rig, &here) > 2_000);
    let beside: Vec<ConnId> = (0..10).map(|_| reader(&mut rig, BESIDE)).collect();
    assert!(unread(&rig, &beside) <= 2_000 + 10 * small, "an address: {}", unread(&rig, &beside));
    let elsewhere: Vec<ConnId> = (0..10).map(|_| reader(&mut rig, ELSEWHERE)).collect();
    assert!(unread(&rig, &elsewhere) <= 2_000 + 10 * small, "the relay: {}", unread(&rig, &elsewhere));
    // One that reads gets everything, in small steps, beside all those that do not.
    let honest = *elsewhere.last().unwrap();
    while rig.read_one(honest) {
        rig.answer_reads();
    }
    assert_eq!(rig.seen(honest).position(0), 100);
    // And so does each, once it reads.
    rig.reading.set(true);
    rig.settle();
    for conn in here.iter().chain(&beside) {
        assert_eq!(rig.seen(*conn).position(0), 100);
    }
}

// spec: L-25
#[test]
fn what_would_not_fit_even_twice_ends_its_stream_with_a_word_on_what_to_do() {
    // Each entry is longer than a small step, so that nothing but the end is left.
    let rig = with_log(1, 30, HubLimits::default());
    let entry = rig.log.read(rig.log.info().id, 0, 1).unwrap().remove(0).frame.len();
    let queued = Shares { connection: 2 * entry, ..ENOUGH };
    let limits = HubLimits { read_bytes_max: entry / 2, read_bytes_min: entry / 2, queued, ..HubLimits::default() };
    let mut rig = with_log(10, 30, limits);
    rig.reading.set(false);
    let readers: Vec<ConnId> = (0..10).map(|_| reader(&mut rig, HERE)).collect();
    let ended: Vec<_> = readers.iter().filter(|conn| rig.seen(**conn).closed.is_some()).collect();
    assert_eq!(ended.len(), 7, "two entries for the first, one each for two more: {ended:?}");
    let error = rig.seen(*ended[0]).closed_with();
    assert_eq!((error.code, error.fatal), (ErrorCode::Overloaded, false));
    assert!(error.text.contains("come back later") && error.retry_ms > 0, "{error:?}");
    let other = reader(&mut rig, BESIDE);
    assert!(rig.seen(other).closed.is_none());
}

// spec: L-25
#[test]
fn answers_that_nobody_reads_count_where_others_hold_too_much() {
    let queued = Shares { connection: 2_000, ..ENOUGH };
    let limits = HubLimits { read_bytes_min: 1_000, queued, ..HubLimits::default() };
    let mut rig = Rig::with(limits);
    let (a, b) = (rig.connect(0), rig.connect(0));
    rig.reading.set(false);
    let ping = |rig: &mut Rig, conn, times: usize| (0..times).for_each(|_| rig.send(conn, &Frame::Ping(1)));
    ping(&mut rig, a, 100);
    ping(&mut rig, b, 60);
    assert!(rig.seen(a).closed.is_none() && rig.seen(b).closed.is_none(), "of 24 bytes each");
    ping(&mut rig, b, 10);
    assert_eq!(rig.seen(b).closed_with().code, ErrorCode::Overloaded);
    ping(&mut rig, a, 10);
    assert!(rig.seen(a).closed.is_none(), "there is room again");
}
