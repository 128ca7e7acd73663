//! Stored forms: records, tombstones, inbox entries; good bytes, damaged bytes, bytes cut short.

use std::sync::Arc;

use blazedb_sync::{BoxReason, DocState, InboxEntry, Record, RecordError, RecordMeta, StoredRow, Tombstone};
use blazedb_wire::{Hlc, Row, Shape, Stamp, Value};
use bytes::Bytes;
use proptest::prelude::*;

use crate::make::{DOC, Log, create, id, row, text, update};
use crate::random::Random;

const NUMBER: u32 = 77;

fn encoded(state: &DocState) -> Option<Bytes> {
    let mut out = Vec::new();
    match state {
        DocState::Absent => return None,
        DocState::Live(record) => record.encode(NUMBER, &mut out),
        DocState::Dead(tombstone) => tombstone.encode(&mut out),
    }
    Some(out.into())
}

/// A catalogue that knows one shape.
fn knows(shape: &Shape) -> impl Fn(u32) -> Option<Shape> {
    let shape = shape.clone();
    move |number| (number == NUMBER).then(|| shape.clone())
}

fn stamp() -> impl Strategy<Value = Stamp> {
    let hlc = prop_oneof![0u64..5, any::<u64>(), (u64::MAX - 3)..=u64::MAX];
    (hlc, prop_oneof![0u32..3, any::<u32>()]).prop_map(|(hlc, tag)| Stamp { hlc: Hlc(hlc), tag })
}

prop_compose! {
    fn record()(
        row_stamp in stamp(),
        fields in prop::collection::btree_map("[a-f]{1,2}", any::<i64>(), 0..6),
        stamps in prop::collection::vec(prop::option::of(stamp()), 6),
        unset in prop::collection::btree_map("[g-k]{1,2}", stamp(), 0..4),
        seqs in any::<[u64; 3]>(),
        tags in any::<[u32; 2]>(),
        row_tags in any::<[bool; 2]>(),
        reborn in any::<bool>(),
    ) -> Record {
        let row = Row::encode(&fields.iter().map(|(name, n)| (name.clone(), Value::I64(*n))).collect()).expect("small");
        let exceptions = (0u32..)
            .zip(&stamps[..fields.len()])
            .filter_map(|(index, stamp)| Some((index, stamp.filter(|stamp| *stamp != row_stamp)?)))
            .collect();
        let tag = |which: usize| if row_tags[which] { row_stamp.tag } else { tags[which] };
        let meta = RecordMeta {
            row_stamp,
            exceptions,
            unset: unset.iter().map(|(name, stamp)| (Arc::from(name.as_str()), *stamp)).collect(),
            last_seq: seqs[0],
            last_author: tag(0),
            other_seq: seqs[1],
            birth: seqs[2],
            reborn,
            creator: tag(1),
        };
        Record { meta, row }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_come_back_as_they_went(record in record()) {
        // spec: M-17
        let shape = record.row.shape().clone();
        let state = DocState::Live(record);
        let bytes = encoded(&state);
        prop_assert_eq!(&DocState::decode(bytes.as_ref(), &knows(&shape)), &Ok(state.clone()));
        let body = state.live().expect("live").row.body();
        let last_seq = state.live().expect("live").meta.last_seq;
        let found = StoredRow::find(bytes.as_ref().expect("stored"));
        prop_assert_eq!(found, Ok(StoredRow::Live { shape: NUMBER, body, last_seq }));
    }

    #[test]
    fn tombstones_come_back_as_they_went(stamp in stamp(), seq in any::<u64>()) {
        // spec: M-18
        let state = DocState::Dead(Tombstone { stamp, seq });
        let bytes = encoded(&state);
        prop_assert_eq!(DocState::decode(bytes.as_ref(), &knows(&Shape::empty())), Ok(state));
    }

    #[test]
    fn damaged_records_are_refused_or_canonical(record in record(), seed in any::<u64>()) {
        // spec: M-17
        let shape = record.row.shape().clone();
        let good = encoded(&DocState::Live(record)).expect("stored").to_vec();
        for cut in 0..good.len() {
            let bytes = Bytes::copy_from_slice(&good[..cut]);
            // A row body has no length of its own, so a cut inside it may leave another row; no cut may panic.
            let _ = DocState::decode(Some(&bytes), &knows(&shape));
            let _ = StoredRow::find(&bytes);
        }
        let mut random = Random::new(seed);
        for _ in 0..200 {
            let mut bad = good.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(bad.len() as u64) as usize;
                bad[at] = random.next() as u8;
            }
            let bad = Bytes::from(bad);
            let Ok(state) = DocState::decode(Some(&bad), &|number| (number < 1000).then(|| shape.clone())) else { continue };
            let mut again = Vec::new();
            match &state {
                DocState::Live(record) => {
                    let Ok(StoredRow::Live { shape, .. }) = StoredRow::find(&bad) else { panic!("found before") };
                    record.encode(shape, &mut again);
                }
                DocState::Dead(tombstone) => tombstone.encode(&mut again),
                DocState::Absent => panic!("stored bytes are something"),
            }
            prop_assert_eq!(&again[..], &bad[..], "what is accepted has one encoding");
        }
    }
}

#[test]
fn an_absent_document_has_no_bytes() {
    assert_eq!(DocState::decode(None, &knows(&Shape::empty())), Ok(DocState::Absent));
}

#[test]
fn errors_have_names() {
    // spec: M-17, M-18
    let mut log = Log::default();
    log.put(1, &create(1, 0, &[("a", text("x")), ("b", text("y"))]), &[]);
    log.put(2, &update(2, 1, &[("b", text("z"))], &[]), &[]);
    let shape = log.state.live().expect("live").row.shape().clone();
    let good = encoded(&log.state).expect("stored");
    let refused = |bytes: &[u8]| {
        DocState::decode(Some(&Bytes::copy_from_slice(bytes)), &knows(&shape)).expect_err("must be refused")
    };
    assert!(matches!(refused(&[]), RecordError::Bytes(_)));
    for first in [0u8, 3, 0x80 | good[0], good[0] ^ 0b11, 2 | 4] {
        let mut bad = good.to_vec();
        bad[0] = first;
        assert!(matches!(refused(&bad), RecordError::Bytes(_)), "first byte {first:#x}");
    }
    let nothing = |_: u32| None;
    assert_eq!(DocState::decode(Some(&good), &nothing), Err(RecordError::UnknownShape(NUMBER)));
    let other = Shape::new(["a"]).expect("a name");
    assert!(DocState::decode(Some(&good), &knows(&other)).is_err(), "the row has two fields");

    // An exception for a field that the shape does not have.
    let DocState::Live(mut record) = log.state.clone() else { panic!("live") };
    record.meta.exceptions = vec![(2, record.meta.exceptions[0].1)];
    assert_eq!(
        refused(&encoded(&DocState::Live(record.clone())).expect("stored")),
        RecordError::Field { position: 0, fields: 2 }
    );
    // A name that is a field and unset at once.
    record.meta.exceptions.clear();
    record.meta.unset = vec![(Arc::from("a"), record.meta.row_stamp)];
    assert_eq!(
        refused(&encoded(&DocState::Live(record)).expect("stored")),
        RecordError::Field { position: 0, fields: 2 }
    );

    // Stamps that say nothing, names twice or out of order.
    let DocState::Live(record) = &log.state else { panic!("live") };
    let row_stamp = record.meta.row_stamp;
    let with = |exceptions: &[(u32, Stamp)], unset: &[&str]| {
        let unset = unset.iter().map(|name| (Arc::from(*name), row_stamp)).collect();
        let meta = RecordMeta { exceptions: exceptions.to_vec(), unset, ..record.meta.clone() };
        encoded(&DocState::Live(Record { meta, row: record.row.clone() })).expect("stored")
    };
    assert!(DocState::decode(Some(&with(&[], &["x", "y"])), &knows(&shape)).is_ok());
    for bad in [with(&[(1, row_stamp)], &[]), with(&[], &["x", "x"]), with(&[], &["y", "x"])] {
        assert!(matches!(refused(&bad), RecordError::Bytes(_)));
    }

    let tombstone = encoded(&DocState::Dead(Tombstone { stamp: Stamp::default(), seq: 300 })).expect("stored");
    for cut in 0..tombstone.len() {
        assert!(matches!(refused(&tombstone[..cut]), RecordError::Bytes(_)));
    }
    assert!(matches!(refused(&[&tombstone[..], &[0]].concat()), RecordError::Bytes(_)));
}

#[test]
fn metadata_does_not_outweigh_the_data() {
    // spec: M-17. A document of one author, then one field edited by another an hour later.
    let mut log = Log { seq: 1_000_000, ..Log::default() };
    let now = 1_750_000_000_000u64 << 16;
    log.put(1, &create(now, 0, &[("a", text("x"))]), &[]);
    let overhead =
        |state: &DocState| encoded(state).expect("stored").len() - state.live().expect("live").row.body().len();
    assert_eq!(overhead(&log.state), 1 + 12 + 3 + 1 + 3 + 1, "flags, stamp, last, other, birth, shape number");
    log.put(2, &update(now + (3_600_000 << 16), 0, &[("b", text("y"))], &[]), &[]);
    assert!(overhead(&log.state) <= 21 + 2 + 4 + 4 + 13, "{}", overhead(&log.state));
}

#[test]
fn inbox_entries_come_back_as_they_went_and_sort_by_counter() {
    // spec: M-16
    let entry = InboxEntry {
        id: id(3, 0x0102),
        reason: BoxReason::Absorbed,
        seq: 99,
        stamp: Stamp { hlc: Hlc(5), tag: 7 },
        collection: "notes".into(),
        document: DOC,
        row: Some(row(&[("a", text("x"))])),
        unset: Shape::new(["b"]).expect("a name"),
    };
    let reasons = [
        BoxReason::Absorbed,
        BoxReason::Refused,
        BoxReason::Unknown,
        BoxReason::EarlierLife,
        BoxReason::DeletedWhileEdited,
        BoxReason::TooLarge,
    ];
    for reason in reasons {
        for row in [entry.row.clone(), None] {
            let entry = InboxEntry { reason, row, ..entry.clone() };
            let mut out = Vec::new();
            entry.encode(&mut out);
            let value = Bytes::from(out);
            assert_eq!(InboxEntry::decode(&entry.key(), &value), Ok(entry.clone()));
            for cut in 0..value.len() {
                let short = value.slice(..cut);
                assert_ne!(InboxEntry::decode(&entry.key(), &short), Ok(entry.clone()));
            }
            assert!(InboxEntry::decode(&entry.key()[..23], &value).is_err());
        }
    }
    let mut bad = vec![7];
    entry.encode(&mut bad);
    assert!(InboxEntry::decode(&entry.key(), &Bytes::from(bad)).is_err(), "reason 7 is unknown");
    let later = InboxEntry { id: id(3, 0x0201), ..entry.clone() };
    assert!(entry.key() < later.key());
}
