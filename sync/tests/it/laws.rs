//! The rules of merging one by one, and the laws of the register.

use blazedb_sync::limits::UNSET_NAMES_MAX;
use blazedb_sync::{BoxReason, DocState, Fate, OpContext, Record, apply, diff, fold, settle};
use blazedb_wire::{Document, Op, OpKind, Row, Shape, Stamp, Value, Verdict, limits};
use proptest::prelude::*;

use crate::make::{Log, create, delete, id, op, replica, row, text, update};

#[test]
fn a_create_of_an_absent_document_is_its_birth() {
    // spec: M-2
    let mut log = Log { seq: 6, ..Log::default() };
    log.put(1, &create(10, 0, &[("a", text("x")), ("b", Value::Null)]), &[]);
    let record = log.state.live().expect("created");
    assert_eq!((record.meta.birth, record.meta.last_seq, record.meta.reborn), (7, 7, false));
    assert_eq!(record.field_stamp(0), Stamp::new(blazedb_wire::Hlc(10), replica(1)));
    assert_eq!(record.field_stamp(1), record.field_stamp(0));
}

#[test]
fn the_later_stamp_wins_whatever_comes_first() {
    // spec: M-3
    for order in [[0, 1], [1, 0]] {
        let mut log = Log::default();
        log.put(9, &create(1, 0, &[("a", text("old"))]), &[]);
        let writes = [update(20, 1, &[("a", text("late"))], &[]), update(10, 1, &[("a", text("zzz"))], &[])];
        for which in order {
            log.put(which as u8 + 1, &writes[which], &[]);
        }
        assert_eq!(log.text("a"), Some(text("late")));
    }
}

#[test]
fn equal_stamps_are_settled_by_tag_byte_then_payload() {
    // spec: M-3, M-4. The same replica and time: only values differ.
    let check = |first: Option<Value>, second: Option<Value>, winner: Option<Value>| {
        for (first, second) in [(&first, &second), (&second, &first)] {
            let mut log = Log::default();
            log.put(1, &create(1, 0, &[("a", Value::I64(0))]), &[]);
            for value in [first, second] {
                let write = match value {
                    Some(value) => update(5, 1, &[("a", value.clone())], &[]),
                    None => update(5, 1, &[], &["a"]),
                };
                log.put(1, &write, &[]);
            }
            assert_eq!(log.text("a"), winner);
        }
    };
    check(Some(text("a")), Some(text("b")), Some(text("b")));
    check(Some(text("a")), Some(text("aa")), Some(text("aa")));
    check(Some(Value::Null), Some(text("")), Some(text("")));
    check(Some(Value::Null), None, Some(Value::Null));
    check(None, None, None);
}

#[test]
fn an_older_write_does_not_come_back_after_an_unset() {
    // spec: M-4
    let mut log = Log::default();
    log.put(1, &create(1, 0, &[("a", text("x")), ("b", text("y"))]), &[]);
    log.put(1, &update(9, 1, &[], &["a", "never"]), &[]);
    log.put(2, &update(5, 1, &[("a", text("old")), ("never", text("old"))], &[]), &[]);
    assert_eq!(log.text("a"), None);
    assert_eq!(log.text("never"), None);
    log.put(2, &update(10, 1, &[("a", text("new"))], &[]), &[]);
    assert_eq!(log.text("a"), Some(text("new")));
    assert_eq!(log.text("b"), Some(text("y")));
}

#[test]
fn unset_names_are_remembered_up_to_the_limit_newest_first() {
    // spec: M-4
    let mut log = Log::default();
    log.put(1, &create(1, 0, &[("z", text("x"))]), &[]);
    for n in 0..=UNSET_NAMES_MAX {
        log.put(1, &update(10 + n as u64, 1, &[], &[format!("n{n:04}").as_str()]), &[]);
    }
    let unset = &log.state.live().expect("live").meta.unset;
    assert_eq!(unset.len(), UNSET_NAMES_MAX);
    assert_eq!(&*unset[0].0, "n0001", "the oldest is forgotten");
    assert!(unset.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[test]
fn creates_of_one_document_meet_field_by_field() {
    // spec: M-5
    let mut log = Log::default();
    log.put(1, &create(10, 0, &[("a", text("one")), ("b", text("one"))]), &[]);
    let outcome = log.put(2, &create(5, 0, &[("a", text("two")), ("c", text("two"))]), &[]);
    assert!(outcome.concurrent);
    let record = log.state.live().expect("live");
    assert_eq!((record.meta.birth, record.meta.creator), (1, replica(1).tag()));
    assert_eq!(record.row, row(&[("a", text("one")), ("b", text("one")), ("c", text("two"))]));
}

#[test]
fn a_create_after_a_delete_that_its_author_knew_is_a_new_life() {
    // spec: M-6
    let mut log = Log::default();
    log.put(1, &create(10, 0, &[("a", text("one")), ("b", text("one"))]), &[]);
    log.put(1, &delete(11, 1), &[]);
    log.put(2, &create(3, 2, &[("a", text("two"))]), &[]);
    let record = log.state.live().expect("reborn");
    assert_eq!(record.row, row(&[("a", text("two"))]), "the old stamp is no obstacle and no old field is left");
    assert!(record.meta.reborn);
    assert_eq!(record.meta.birth, 3);
}

#[test]
fn only_a_create_creates() {
    // spec: M-7
    let mut log = Log::default();
    let outcome = log.put(1, &update(1, 0, &[("a", text("x"))], &["b"]), &[]);
    assert_eq!(log.state, DocState::Absent);
    let boxed = outcome.boxed.expect("boxed");
    assert_eq!((boxed.reason, boxed.seq, boxed.id), (BoxReason::Unknown, 1, id(1, 1)));
    assert_eq!((boxed.row, boxed.unset), (Some(row(&[("a", text("x"))])), Shape::new(["b"]).expect("a name")));

    log.put(1, &delete(2, 0), &[]);
    let outcome = log.put(2, &update(3, 0, &[("a", text("x"))], &[]), &[]);
    assert_eq!(outcome.boxed.map(|entry| entry.reason), Some(BoxReason::Unknown), "admitted, but dead here");
    assert!(log.state.dead().is_some());
}

#[test]
fn an_edit_of_the_earlier_life_does_not_reach_the_new_one() {
    // spec: M-8
    let start = || {
        let mut log = Log::default();
        log.put(1, &create(10, 0, &[("a", text("one"))]), &[]);
        log.put(1, &delete(11, 1), &[]);
        log.put(2, &create(12, 2, &[("a", text("two"))]), &[]);
        log
    };
    let mut log = start();
    let outcome = log.put(3, &update(50, 2, &[("a", text("late"))], &[]), &[]);
    assert_eq!(outcome.boxed.map(|entry| entry.reason), Some(BoxReason::EarlierLife));
    assert_eq!(log.text("a"), Some(text("two")));
    // At the birth's number it was meant for this life.
    log.put(3, &update(50, 3, &[("a", text("late"))], &[]), &[]);
    assert_eq!(log.text("a"), Some(text("late")));
    // The creator, and a later incarnation of it, edit their own unsequenced document.
    start().put(2, &update(51, 2, &[("a", text("own"))], &[]), &[]);
    for (author, deps) in [(2, vec![]), (4, vec![id(2, 1)])] {
        let mut log = start();
        let outcome = log.put(author, &update(51, 2, &[("a", text("own"))], &[]), &deps);
        assert_eq!((outcome.boxed, log.text("a")), (None, Some(text("own"))));
    }
    // A document that was never dead has no earlier life.
    let mut log = Log { seq: 9, ..Log::default() };
    log.put(1, &create(10, 0, &[("a", text("one"))]), &[]);
    log.put(2, &update(11, 0, &[("a", text("copy"))], &[]), &[]);
    assert_eq!(log.text("a"), Some(text("copy")));
}

#[test]
fn the_first_delete_stays() {
    // spec: M-9
    let mut log = Log::default();
    log.put(1, &delete(5, 0), &[]);
    let first = log.state.clone();
    assert_eq!(first.dead().map(|dead| (dead.seq, dead.author())), Some((1, replica(1).tag())));
    let outcome = log.put(2, &delete(9, 0), &[]);
    assert_eq!((outcome.state, outcome.boxed), (None, None));
    assert_eq!(log.state, first);
}

#[test]
fn a_delete_that_missed_an_edit_boxes_the_last_image() {
    // spec: M-10. Replica 1 creates (1), others edit, replica 9 deletes at a cursor.
    let check = |edits: &[u8], cursor: u64, boxed: bool| {
        let mut log = Log::default();
        log.put(9, &create(1, 0, &[("a", Value::I64(0))]), &[]);
        for (n, author) in edits.iter().enumerate() {
            log.put(*author, &update(10 + n as u64, 9, &[("a", Value::I64(n as i64 + 1))], &[]), &[]);
        }
        let image = log.state.live().expect("live").row.clone();
        let outcome = log.put(9, &delete(100, cursor), &[]);
        let entry = outcome.boxed.as_ref();
        assert_eq!(entry.is_some(), boxed, "edits by {edits:?}, cursor {cursor}");
        assert_eq!(outcome.concurrent, boxed);
        if let Some(entry) = entry {
            assert_eq!(entry.reason, BoxReason::DeletedWhileEdited);
            assert_eq!((entry.id, entry.row.as_ref()), (id(9, log.seq), Some(&image)));
        }
        assert!(log.state.dead().is_some());
    };
    check(&[], 0, false);
    check(&[1], 1, true);
    check(&[1], 2, false);
    check(&[1, 9], 1, true);
    check(&[1, 9], 2, false);
    check(&[1, 2], 2, true);
    check(&[1, 2, 9, 9], 2, true);
    check(&[1, 2, 9, 9], 3, false);
    check(&[9, 9], 0, false);
}

#[test]
fn an_earlier_opening_of_the_same_file_is_the_same_hand() {
    // spec: M-15. Opened three times (1, 2, 3) while offline; the last opening deletes.
    let mut log = Log::default();
    log.put(7, &create(1, 0, &[("a", text("x"))]), &[]);
    log.put(1, &update(2, 1, &[("a", text("one"))], &[]), &[]);
    log.put(2, &update(3, 1, &[("a", text("two"))], &[]), &[id(1, 1)]);
    log.put(3, &update(4, 1, &[("a", text("three"))], &[]), &[id(1, 1), id(2, 1)]);
    let outcome = log.put(3, &delete(5, 1), &[id(1, 1), id(2, 1)]);
    assert_eq!((outcome.boxed, outcome.concurrent), (None, false));

    // Without the word of its batch the earlier opening counts as somebody else.
    let mut log = Log::default();
    log.put(7, &create(1, 0, &[("a", text("x"))]), &[]);
    log.put(1, &update(2, 1, &[("a", text("one"))], &[]), &[]);
    assert!(log.put(3, &delete(5, 1), &[]).boxed.is_some());
}

#[test]
fn what_the_relay_absorbs() {
    // spec: M-11
    use blazedb_sync::Tombstone;
    use blazedb_sync::merge::absorbs;
    let stamp = Stamp::new(blazedb_wire::Hlc(1), replica(1));
    let dead = Tombstone { stamp, seq: 5 };
    assert!(absorbs(&dead, OpKind::Update, 100));
    assert!(absorbs(&dead, OpKind::Create, 4));
    assert!(!absorbs(&dead, OpKind::Create, 5));
    assert!(!absorbs(&dead, OpKind::Delete, 0));
    assert!(
        absorbs(&Tombstone { seq: 0, ..dead }, OpKind::Create, 100),
        "an own delete gets a number above every cursor"
    );
}

#[test]
fn the_fate_of_an_operation_decides_where_it_is_boxed() {
    // spec: M-12
    let base = DocState::Absent;
    let write = create(1, 0, &[("a", text("x"))]);
    let context = OpContext { op: write.as_ref(), id: id(1, 1), seq: 1, deps: &[] };
    let check = |fate: Fate, own: bool, state: bool, boxed: Option<BoxReason>| {
        let outcome = settle(&base, &context, fate, own);
        assert_eq!(outcome.state.is_some(), state, "{fate:?}");
        assert_eq!(outcome.boxed.map(|entry| entry.reason), boxed, "{fate:?}");
    };
    for own in [false, true] {
        check(Fate::Applied, own, true, None);
        check(Fate::Absorbed, own, false, Some(BoxReason::Absorbed));
        check(Fate::Repeated, own, false, None);
    }
    check(Fate::Refused(Verdict::RefusedClock), true, false, Some(BoxReason::Refused));
    check(Fate::Refused(Verdict::RefusedClock), false, false, None);
}

#[test]
fn a_document_does_not_grow_past_its_limits() {
    // spec: M-13
    let half = Value::Bytes(vec![7; limits::ROW_BYTES_MAX / 2 - 20]);
    let mut log = Log::default();
    log.put(1, &create(1, 0, &[("a", half.clone())]), &[]);
    log.put(1, &update(2, 1, &[("b", half.clone())], &[]), &[]);
    let before = log.state.clone();
    let outcome = log.put(2, &update(3, 2, &[("c", Value::Bytes(vec![1; 64]))], &[]), &[]);
    assert_eq!(outcome.boxed.map(|entry| entry.reason), Some(BoxReason::TooLarge));
    assert_eq!(log.state, before);
    // An own one is told before it is committed, and boxes nothing.
    let own = update(4, 2, &[("c", Value::Bytes(vec![1; 64]))], &[]);
    let outcome = apply(&log.state, &OpContext::own(&own, id(1, 3), &[]));
    assert_eq!((outcome.state, outcome.boxed, outcome.lost), (None, None, Some(BoxReason::TooLarge)));

    // Names count, and so does their number.
    let names = |from: usize, to: usize| {
        let names: Vec<String> = (from..to).map(|n| format!("f{n:04}")).collect();
        names.iter().map(|name| (name.clone(), Value::Null)).collect::<Document>()
    };
    let mut log = Log::default();
    log.put(1, &Op { set: Row::encode(&names(0, limits::FIELDS_MAX)).ok(), ..op(OpKind::Create, 1, 0) }, &[]);
    let more =
        Op { set: Row::encode(&names(limits::FIELDS_MAX, limits::FIELDS_MAX + 1)).ok(), ..op(OpKind::Update, 2, 1) };
    assert_eq!(log.put(1, &more, &[]).boxed.map(|entry| entry.reason), Some(BoxReason::TooLarge));
    let exchange = Op { unset: Shape::new(["f0000"]).expect("a name"), ..more };
    assert_eq!(log.put(1, &exchange, &[]).boxed, None);
}

#[test]
fn the_names_of_a_document_count_against_its_size() {
    // spec: M-13
    let long = |n: usize| format!("{n:0>250}");
    let wide: Document = (0..4_000).map(|n| (long(n), Value::Null)).collect();
    let mut log = Log::default();
    log.put(1, &Op { set: Row::encode(&wide).ok(), ..op(OpKind::Create, 1, 0) }, &[]);
    let add = |bytes: usize| update(2, 1, &[("z", Value::Bytes(vec![7; bytes]))], &[]);
    assert_eq!(log.put(1, &add(60_000), &[]).boxed.map(|entry| entry.reason), Some(BoxReason::TooLarge));
    assert_eq!(log.put(1, &add(10_000), &[]).boxed, None);
}

#[test]
fn folding_takes_every_operation_for_unsequenced() {
    // spec: M-14
    let mut log = Log::default();
    log.put(1, &create(1, 0, &[("a", text("x"))]), &[]);
    let edit = update(5, 1, &[("a", text("own"))], &[]);
    let own = OpContext::own(&edit, id(2, 1), &[]);
    let shown = fold(&log.state, [own]);
    assert_eq!(fold(&log.state, [OpContext { seq: 9, ..own }]), shown);
    assert_eq!(shown.live().map(|record| record.meta.last_seq), Some(1));
}

#[test]
fn own_operations_box_nothing_and_anticipate_the_relay() {
    // spec: M-14
    let mut log = Log::default();
    log.put(1, &create(1, 0, &[("a", text("x"))]), &[]);
    let edit = update(5, 1, &[("a", text("own"))], &[]);
    let gone = delete(6, 1);
    let again = create(7, 1, &[("a", text("again"))]);
    let own: Vec<OpContext<'_>> =
        [&edit, &gone, &again].into_iter().zip(1..).map(|(op, n)| OpContext::own(op, id(2, n), &[])).collect();
    assert_eq!(
        fold(&log.state, own[..1].iter().copied()).row().map(|row| row.to_row()),
        Some(row(&[("a", text("own"))]))
    );
    let dead = fold(&log.state, own.iter().copied());
    assert_eq!(dead.dead().map(|dead| dead.seq), Some(0), "the relay will absorb a create that follows an own delete");
    assert_eq!(apply(&dead, &own[0]).lost, Some(BoxReason::Absorbed));
    let blind = delete(6, 0);
    let outcome = apply(&log.state, &OpContext::own(&blind, id(2, 9), &[]));
    assert_eq!(
        (outcome.boxed, outcome.concurrent),
        (None, false),
        "whether it missed an edit is known when it has a number"
    );
    assert_eq!(fold(&log.state, []), log.state);
    assert_eq!(apply(&DocState::Absent, &own[0]).boxed, None);
}

#[test]
fn most_fields_of_a_rewritten_document_need_no_stamp_of_their_own() {
    // spec: M-17
    let mut log = Log::default();
    log.put(1, &create(1, 0, &[("a", text("1")), ("b", text("1")), ("c", text("1"))]), &[]);
    log.put(1, &update(2, 1, &[("b", text("2"))], &[]), &[]);
    assert_eq!(log.state.live().map(|record| record.meta.exceptions.len()), Some(1));
    log.put(1, &update(3, 1, &[("a", text("3")), ("c", text("3"))], &[]), &[]);
    let record = log.state.live().expect("live");
    assert_eq!(
        (record.meta.row_stamp.hlc.0, &record.meta.exceptions[..]),
        (3, &[(1, Stamp { hlc: blazedb_wire::Hlc(2), ..record.meta.row_stamp })][..])
    );
}

#[test]
fn diff_sets_what_differs_and_unsets_what_is_gone() {
    // spec: M-22
    let old = row(&[("a", text("1")), ("b", text("1")), ("c", text("1"))]);
    let new = row(&[("a", text("1")), ("b", text("2")), ("d", text("1"))]);
    let (set, unset) = diff(Some(old.as_ref()), &new).expect("they differ");
    assert_eq!(set, row(&[("b", text("2")), ("d", text("1"))]));
    assert_eq!(unset, Shape::new(["c"]).expect("a name"));
    assert_eq!(diff(Some(old.as_ref()), &old), None);
    assert_eq!(diff(None, &new), Some((new.clone(), Shape::empty())));
    assert_eq!(diff(Some(row(&[]).as_ref()), &row(&[])), None);
}

/// Values that collide in order and type.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-3i64..40).prop_map(Value::I64),
        "[ab]{0,3}".prop_map(Value::Text),
        prop::collection::vec(0u8..3, 0..3).prop_map(Value::Bytes),
    ]
}

/// An update by one of three replicas at one of four times: ties are common.
fn write() -> impl Strategy<Value = (u8, Op)> {
    let fields = prop::collection::btree_map("[a-d]", prop::option::of(value()), 1..4);
    (1u8..4, 10u64..14, fields).prop_map(|(author, hlc, fields)| {
        let set: Vec<(&str, Value)> =
            fields.iter().filter_map(|(name, value)| Some((name.as_str(), value.clone()?))).collect();
        let unset: Vec<&str> =
            fields.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.as_str()).collect();
        (author, update(hlc, 0, &set, &unset))
    })
}

fn merged(base: &Record, writes: &[&(u8, Op)]) -> Record {
    let own = writes.iter().map(|(author, op)| OpContext::own(op, id(*author, 1), &[]));
    match fold(&DocState::Live(base.clone()), own) {
        DocState::Live(record) => record,
        other => panic!("updates do not kill: {other:?}"),
    }
}

fn base() -> Record {
    let mut log = Log::default();
    log.put(9, &create(5, 0, &[("a", text("a")), ("b", text("b"))]), &[]);
    log.state.live().expect("created").clone()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_is_commutative_associative_and_idempotent(a in write(), b in write(), c in write()) {
        // spec: M-3, M-4
        let base = base();
        let all = merged(&base, &[&a, &b, &c]);
        for order in [[&a, &c, &b], [&b, &a, &c], [&b, &c, &a], [&c, &a, &b], [&c, &b, &a]] {
            prop_assert_eq!(&merged(&base, &order), &all);
        }
        prop_assert_eq!(&merged(&base, &[&a, &b, &b, &c, &a, &c, &b]), &all);
        prop_assert_eq!(&merged(&merged(&base, &[&a]), &[&b, &c]), &all);
        prop_assert_eq!(&merged(&merged(&base, &[&c, &a]), &[&b]), &all);
    }

    #[test]
    fn applying_a_diff_gives_the_new_document(
        old in prop::collection::btree_map("[a-e]", value(), 0..5),
        new in prop::collection::btree_map("[a-e]", value(), 0..5),
    ) {
        // spec: M-22
        let encode = |fields: &std::collections::BTreeMap<String, Value>| {
            Row::encode(&fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect()).expect("small")
        };
        let (old, new) = (encode(&old), encode(&new));
        let mut log = Log::default();
        log.put(1, &Op { set: Some(old.clone()), ..op(OpKind::Create, 1, 0) }, &[]);
        match diff(Some(old.as_ref()), &new) {
            None => prop_assert_eq!(&old, &new),
            Some((set, unset)) => {
                prop_assert!(!(set.is_empty() && unset.is_empty()));
                log.put(1, &Op { set: Some(set), unset, ..op(OpKind::Update, 2, 1) }, &[]);
            }
        }
        prop_assert_eq!(&log.state.live().expect("live").row, &new);
    }
}
