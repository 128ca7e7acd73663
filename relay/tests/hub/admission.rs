//! Verdicts, bits, names.

use blazedb_relay::hub::ConnId;
use blazedb_wire::{Envelope, ErrorCode, Frame, Hlc, OpId, SpaceId, Verdict};

use crate::rig::{Rig, SPACE, WALL_MS, batch_of, create, delete, document, names, replica, update};

fn bits(envelope: &Envelope) -> (Vec<bool>, Vec<bool>) {
    (envelope.absorbed.iter().collect(), envelope.repeated.iter().collect())
}

fn last_logged(rig: &Rig) -> Envelope {
    rig.log.entries().pop().unwrap().0
}

fn started() -> (Rig, ConnId) {
    let mut rig = Rig::new();
    let a = rig.connect(0);
    (rig, a)
}

// spec: R-15
#[test]
fn a_gap_is_answered_with_the_counter_that_is_wanted() {
    let (mut rig, a) = started();
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.push(a, 1, 4, &[update(1, 0, 4)]);
    rig.settle();
    let errors = rig.seen(a).errors();
    let wanted = OpId { replica: replica(1), counter: 2 };
    assert_eq!((errors.len(), errors[0].code, errors[0].fatal), (1, ErrorCode::NeedFrom(wanted), false));
    assert!(rig.seen(a).closed.is_none());
    rig.push(a, 1, 2, &[update(1, 0, 2), update(1, 0, 3), update(1, 0, 4)]);
    rig.settle();
    assert_eq!(rig.seen(a).position(0), 4, "the stream goes on");
}

// spec
#[test]
fn a_batch_known_already_uses_no_number() {
    let (mut rig, a) = started();
    let ops = [create(1, 0), update(1, 0, 2), update(1, 0, 3)];
    rig.push(a, 1, 1, &ops);
    rig.settle();
    rig.push(a, 1, 1, &ops);
    rig.settle();
    assert_eq!(rig.log.info().head, 3);
    assert_eq!(*rig.log.appends.lock(), 1);
    let acks = rig.seen(a).acks();
    assert_eq!((acks.len(), acks[1].first_seq, acks[1].n), (2, 0, 3));
    assert_eq!(bits(acks[1]).1, [true, true, true]);
    assert_eq!(*rig.log.digest_reads.lock(), 1, "the older two digests come from the log");
}

// spec: R-11: such an ack must not precede what it speaks about
#[test]
fn the_ack_of_a_known_batch_waits_until_the_original_is_durable_and_sent() {
    let mut rig = Rig::new();
    let (a, b) = (rig.connect(0), rig.connect(0));
    rig.reading.set(false);
    rig.push(a, 1, 1, &[create(1, 0)]);
    rig.push(b, 1, 1, &[create(1, 0)]);
    assert!(rig.seen(b).unread.is_empty(), "in flight is not known");
    rig.settle();
    while rig.read_one(b) {}
    let frames = &rig.seen(b).frames;
    assert!(matches!(&frames[1], Frame::Entry { .. }), "{frames:?}");
    assert!(matches!(&frames[2], Frame::Ack(envelope) if envelope.first_seq == 0), "{frames:?}");
}

// spec: R-16: the digest in flight, not in the log yet
#[test]
fn a_repeat_of_what_is_in_flight_needs_no_log() {
    let mut rig = Rig::new();
    let (a, b) = (rig.connect(0), rig.connect(0));
    let ops = [create(1, 0), update(1, 0, 2)];
    rig.push(a, 1, 1, &ops);
    rig.push(b, 1, 1, &ops);
    rig.push(b, 1, 1, &[ops[0].clone()]);
    assert_eq!(rig.waiting_appends(), 1);
    rig.settle();
    assert_eq!(rig.seen(b).acks().len(), 2);
    assert_eq!(*rig.log.digest_reads.lock(), 0);
}

// spec: a copied file that sealed other boundaries
#[test]
fn overlapping_boundaries_log_the_new_operations_and_mark_the_old() {
    let mut rig = Rig::new();
    let (original, copy) = (rig.connect(0), rig.connect(0));
    let ops = [create(1, 0), update(1, 0, 2), update(1, 0, 3), update(1, 0, 4)];
    rig.push(original, 1, 1, &ops[..2]);
    rig.push(original, 1, 3, &ops[2..3]);
    rig.settle();
    // The copy holds the same operations, stamped later and cut elsewhere.
    let mut later = ops.clone();
    for op in &mut later {
        op.hlc = Hlc::from_parts(WALL_MS + 5, 1);
    }
    rig.push(copy, 1, 2, &later[1..]);
    rig.settle();
    let envelope = last_logged(&rig);
    assert_eq!(
        (envelope.first_seq, envelope.n, envelope.first_counter),
        (4, 3, 2),
        "every operation uses up its number"
    );
    assert_eq!(bits(&envelope).1, [true, true, false]);
    assert_eq!(rig.log.info().counters[&replica(1)].counter, 4);
    assert_eq!((rig.seen(original).position(0), rig.seen(copy).position(0)), (6, 6));
    assert_eq!(names(&rig.seen(original).entries()).len(), 3);
    // And the original goes on behind the copy's new operation.
    rig.push(original, 1, 4, &ops[3..]);
    rig.settle();
    assert_eq!(rig.seen(original).acks().last().unwrap().first_seq, 0);
}

// spec: R-16
#[test]
fn one_name_with_two_payloads_is_a_loud_clash() {
    let mut rig = Rig::new();
    let (original, copy) = (rig.connect(0), rig.connect(0));
    rig.push(original, 1, 1, &[create(1, 0), update(1, 0, 2), update(1, 0, 3)]);
    rig.settle();
    // The clash is in an old operation, behind a repeat, before a new one.
    rig.push(copy, 1, 1, &[create(1, 0), update(1, 0, 99), update(1, 0, 3), update(1, 0, 4)]);
    rig.settle();
    let error = rig.seen(copy).closed_with();
    assert_eq!((error.code, error.fatal), (ErrorCode::NameClash, true));
    assert!(error.text.contains("operation 2"), "{}", error.text);
    assert_eq!(rig.log.info().head, 3, "nothing of it is logged");
    assert_eq!(rig.hub.stats().name_clashes, 1);
    assert!(rig.seen(original).closed.is_none());
}

// spec: R-18
#[test]
fn operations_on_dead_documents_are_absorbed() {
    let (mut rig, a) = started();
    rig.push(a, 1, 1, &[create(1, 0), create(2, 0)]);
    rig.push(a, 1, 3, &[delete(1, 0)]);
    rig.settle();
    assert_eq!(rig.log.info().dead.get("things", document(1)), Some(3));
    // Another author: an edit, a create that has not seen the delete, a second delete, an edit of a living one.
    rig.push(a, 2, 1, &[update(1, 2, 5), create(1, 2), delete(1, 2), update(2, 2, 6)]);
    rig.settle();
    assert_eq!(bits(&last_logged(&rig)).0, [true, true, false, false]);
    assert_eq!(rig.log.info().dead.get("things", document(1)), Some(3), "a second delete changes nothing");
    // A create that has seen it: a new life; edits count again.
    rig.push(a, 2, 5, &[create(1, 3), update(1, 3, 7)]);
    rig.settle();
    assert_eq!(bits(&last_logged(&rig)).0, [false, false]);
    assert!(rig.log.info().dead.is_empty());
    assert_eq!(rig.seen(a).position(0), 9, "absorbed ones are numbered");
}

// spec: R-18
#[test]
fn a_delete_counts_from_its_own_number_within_its_batch() {
    let (mut rig, a) = started();
    rig.push(a, 1, 1, &[create(1, 0), update(1, 0, 2), delete(1, 0), update(1, 0, 3), create(1, 0)]);
    rig.settle();
    assert_eq!(bits(&last_logged(&rig)).0, [false, false, false, true, true]);
    assert_eq!(rig.log.info().dead.get("things", document(1)), Some(3));
    // Dead, alive, dead again, in one batch: the later death counts.
    rig.push(a, 1, 6, &[create(1, 3), delete(1, 3), update(1, 3, 9)]);
    rig.settle();
    assert_eq!(bits(&last_logged(&rig)).0, [false, false, true]);
    assert_eq!(rig.log.info().dead.get("things", document(1)), Some(7));
}

// spec: R-18: state in flight counts, not only what the log has
#[test]
fn a_death_in_flight_absorbs() {
    let mut rig = Rig::new();
    let (a, b) = (rig.connect(0), rig.connect(0));
    rig.push(a, 1, 1, &[create(1, 0), delete(1, 0)]);
    rig.push(b, 2, 1, &[update(1, 0, 5)]);
    assert_eq!(rig.waiting_appends(), 2);
    rig.settle();
    assert_eq!(bits(&last_logged(&rig)).0, [true]);
}

// spec: R-17
#[test]
fn a_stamp_from_the_future_refuses_its_transaction_and_no_other() {
    let (mut rig, a) = started();
    let at = |ms: u64, more: bool, id: u8| {
        let mut op = create(id, 0);
        (op.hlc, op.more) = (Hlc::from_parts(WALL_MS + ms, 0), more);
        op
    };
    let mut late_delete = delete(1, 0);
    (late_delete.hlc, late_delete.more) = (Hlc::from_parts(WALL_MS + 60_001, 0), false);
    rig.push(a, 1, 1, &[at(60_000, false, 1), at(0, true, 2), late_delete, at(0, false, 3)]);
    rig.settle();
    let envelope = last_logged(&rig);
    assert_eq!(envelope.verdicts, [(Verdict::Applied, 1), (Verdict::RefusedClock, 2), (Verdict::Applied, 1)]);
    assert_eq!((envelope.first_seq, envelope.n), (1, 4), "refused ones are numbered and logged");
    assert!(rig.log.info().dead.is_empty(), "a refused delete kills nothing");
    assert_eq!(rig.log.info().newest_stamp, Hlc::from_parts(WALL_MS + 60_000, 0), "a refused stamp moves no clock");
    assert_eq!(rig.seen(a).acks()[0].verdicts, envelope.verdicts);
    // A repeat of the refused operation is a repeat, not a second refusal.
    rig.push(
        a,
        1,
        2,
        &[{
            let mut op = at(0, false, 2);
            op.hlc = Hlc::from_parts(WALL_MS + 99_999, 0);
            op
        }],
    );
    rig.settle();
    let ack = rig.seen(a).acks()[1].clone();
    assert_eq!((ack.first_seq, ack.verdicts), (0, vec![(Verdict::Applied, 1)]));
}

// spec: R-19
#[test]
fn an_untrusted_clock_refuses_nothing_and_is_never_behind_its_log() {
    let mut rig = Rig::new();
    rig.now.clock_trusted = false;
    let a = rig.connect(0);
    assert!(!rig.seen(a).welcome().clock_trusted);
    let year = 365 * 86_400_000;
    let mut op = create(1, 0);
    op.hlc = Hlc::from_parts(WALL_MS + year, 0);
    rig.push(a, 1, 1, &[op.clone()]);
    rig.settle();
    assert_eq!(last_logged(&rig).verdicts, [(Verdict::Applied, 1)]);
    // The clock is set, still a year before the log: who builds on those stamps is not refused for ever.
    rig.now.clock_trusted = true;
    let b = rig.connect(1);
    assert_eq!(rig.seen(b).welcome().relay_ms, WALL_MS + year);
    op.kind = blazedb_wire::OpKind::Update;
    op.hlc = op.hlc.next();
    rig.push(b, 2, 1, &[op.clone()]);
    op.hlc = Hlc::from_parts(WALL_MS + year + 60_001, 0);
    rig.push(b, 2, 2, &[op]);
    rig.settle();
    assert_eq!(rig.log.entries()[1].0.verdicts, [(Verdict::Applied, 1)]);
    assert_eq!(rig.log.entries()[2].0.verdicts, [(Verdict::RefusedClock, 1)]);
}

// spec: R-19: what a trusted clock admits must not lift the bar for the next
#[test]
fn relay_time_cannot_be_pushed_ahead_step_by_step() {
    let (mut rig, a) = started();
    for n in 1..=3_u64 {
        let mut op = create(1, 0);
        op.hlc = Hlc::from_parts(WALL_MS + n * 59_000, 0);
        rig.push(a, 1, n, &[op]);
    }
    rig.settle();
    let verdicts: Vec<Verdict> = rig.log.entries().iter().map(|(envelope, _)| envelope.verdicts[0].0).collect();
    assert_eq!(verdicts, [Verdict::Applied, Verdict::RefusedClock, Verdict::RefusedClock]);
}

// spec: R-14
#[test]
fn a_batch_of_another_space_or_epoch_or_from_the_future_is_fatal() {
    let check = |space: SpaceId, epoch: u32, cursor: u64, code: ErrorCode| {
        let (mut rig, a) = started();
        let b = rig.connect(0);
        let batch = batch_of(space, epoch, replica(1), 1, &[create(1, cursor)]);
        rig.send(a, &Frame::Push(batch));
        rig.settle();
        let error = rig.seen(a).closed_with();
        assert_eq!((error.code, error.fatal), (code, true));
        assert!(rig.seen(b).closed.is_none());
        assert_eq!(rig.log.info().head, 0);
    };
    let home = Rig::new().log.info().id;
    check(SpaceId::from_bytes([9; 16]), 1, 0, ErrorCode::SpaceMismatch);
    check(home, 2, 0, ErrorCode::EpochMismatch);
    check(home, 1, 1, ErrorCode::CursorAhead);
}

#[test]
fn a_client_that_names_a_space_it_has_no_token_for_stays_in_its_own() {
    let mut rig = Rig::new();
    let home = rig.connect(0);
    let work = rig.open("work");
    let mut hello = rig.hello(0, &[]);
    hello.space = Some(rig.seen(home).welcome().space);
    hello.epoch = 1;
    rig.send(work, &Frame::Hello(hello));
    rig.settle();
    assert_eq!(rig.seen(work).closed_with().code, ErrorCode::SpaceMismatch);
    assert_eq!(rig.seen(home).space, SPACE);
}
