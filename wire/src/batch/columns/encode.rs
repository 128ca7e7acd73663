//! Turning row batches into columns.

use super::FLAG_ENVELOPES;
use super::field::ColumnBuilder;
use super::heap::put_ids;
use super::numbers::{put_numbers, zigzag};
use crate::batch::{Batch, KIND_COLUMNS, op_bits};
use crate::envelope::Envelope;
use crate::error::EncodeError;
use crate::id::ReplicaId;
use crate::limits::{BATCH_OPS_MAX, COLUMNS_BATCHES_MAX, COLUMNS_CLASSES_MAX, COLUMNS_ROWS_BYTES_MAX};
use crate::op::OpRef;
use crate::shape::Shape;
use crate::value::encode::check_limit;
use crate::writer::{put_prefixed, put_uvarint};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Things numbered in order of first use.
struct Table<T> {
    items: Vec<T>,
    places: BTreeMap<T, u64>,
}

impl<T: Ord + Clone> Table<T> {
    const fn new() -> Self {
        Self { items: Vec::new(), places: BTreeMap::new() }
    }

    fn place(&mut self, item: &T) -> u64 {
        let next = self.items.len() as u64;
        if let Some(&place) = self.places.get(item) {
            return place;
        }
        self.items.push(item.clone());
        self.places.insert(item.clone(), next);
        next
    }
}

/// What operations have in common: flags without MORE, merge kind, collection, shapes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Form {
    flags: u8,
    merge: u8,
    collection: u64,
    set: Option<u64>,
    unset: Option<u64>,
}

/// Tables of the head, as operations fill them.
struct Tables<'a> {
    replicas: Table<ReplicaId>,
    collections: Table<&'a str>,
    names: Table<&'a str>,
    shapes: Table<&'a Shape>,
    /// The numbers of the names of each shape.
    shape_names: Vec<Vec<u64>>,
    forms: Table<Form>,
}

impl<'a> Tables<'a> {
    fn shape(&mut self, shape: &'a Shape) -> u64 {
        let place = self.shapes.place(&shape);
        if place as usize == self.shape_names.len() {
            self.shape_names.push(shape.names().map(|name| self.names.place(&name)).collect());
        }
        place
    }

    fn form(&mut self, op: &OpRef<'a>) -> u64 {
        let mut flags = op.kind.number();
        if !op.unset.is_empty() {
            flags |= op_bits::UNSET;
        }
        if !op.attrs.is_empty() {
            flags |= op_bits::ATTRS;
        }
        // A new collection, and new shapes, belong to a new form: they are numbered in the order of forms, too.
        let collection = self.collections.place(&op.collection.as_ref());
        let set = op.set.map(|row| self.shape(row.shape()));
        let unset = (!op.unset.is_empty()).then(|| self.shape(op.unset));
        self.forms.place(&Form { flags, merge: op.merge.number(), collection, set, unset })
    }
}

/// What L-22 counts.
const CLASSES: &str = "classes in columns";

fn step(before: u64, now: u64) -> u64 {
    zigzag(now.wrapping_sub(before).cast_signed())
}

pub(super) fn encode(batches: &[&Batch], envelopes: Option<&[&Envelope]>) -> Result<Bytes, EncodeError> {
    // spec: L-18, L-19, L-10
    check_limit("batches in columns", batches.len(), COLUMNS_BATCHES_MAX)?;
    check_limit("rows of columns", batches.iter().map(|batch| batch.bytes().len()).sum(), COLUMNS_ROWS_BYTES_MAX)?;
    check_limit("operations in columns", batches.iter().map(|batch| batch.len()).sum(), BATCH_OPS_MAX)?;
    let Some(first) = batches.first() else { return Err(EncodeError::EmptyBatch) };
    // spec: K-12
    let space = first.head().space;
    if batches.iter().any(|batch| batch.head().space != space) {
        return Err(EncodeError::BadColumns { rule: "K-12" });
    }
    let mut tables = Tables {
        replicas: Table::new(),
        collections: Table::new(),
        names: Table::new(),
        shapes: Table::new(),
        shape_names: Vec::new(),
        forms: Table::new(),
    };
    let heads = heads(batches, &mut tables);
    let over = envelopes.map(envelope_streams);
    let (ops, columns) = op_streams(batches, &mut tables)?;

    let mut out = vec![KIND_COLUMNS, if envelopes.is_some() { FLAG_ENVELOPES } else { 0 }];
    out.extend_from_slice(space.as_bytes());
    put_tables(&mut out, &tables);
    put_uvarint(&mut out, batches.len() as u64);
    out.extend_from_slice(&heads);
    out.extend_from_slice(&over.unwrap_or_default());
    out.extend_from_slice(&ops);
    let mut classes = 0;
    for column in columns {
        classes += column.finish(&mut out);
        // Again, since only a whole column says of which classes its floats are.
        check_limit(CLASSES, classes, COLUMNS_CLASSES_MAX)?;
    }
    Ok(Bytes::from(out))
}

fn put_tables(out: &mut Vec<u8>, tables: &Tables<'_>) {
    put_uvarint(out, tables.replicas.items.len() as u64);
    for replica in &tables.replicas.items {
        out.extend_from_slice(replica.as_bytes());
    }
    for names in [&tables.collections.items, &tables.names.items] {
        put_uvarint(out, names.len() as u64);
        for name in names {
            put_prefixed(out, name.as_bytes());
        }
    }
    put_uvarint(out, tables.shape_names.len() as u64);
    for shape in &tables.shape_names {
        put_uvarint(out, shape.len() as u64);
        shape.iter().for_each(|&name| put_uvarint(out, name));
    }
    put_uvarint(out, tables.forms.items.len() as u64);
    for form in &tables.forms.items {
        out.extend_from_slice(&[form.flags, form.merge]);
        put_uvarint(out, form.collection);
        for shape in form.set.iter().chain(&form.unset) {
            put_uvarint(out, *shape);
        }
    }
}

/// Returns the streams of the batches.
fn heads(batches: &[&Batch], tables: &mut Tables<'_>) -> Vec<u8> {
    let mut streams: [Vec<u64>; 8] = Default::default();
    let [counts, authors, counters, epochs, dep_counts, dep_replicas, dep_counters, attrs_lens] = &mut streams;
    let mut attrs = Vec::new();
    let mut next_counters = BTreeMap::new();
    let mut epoch = 0;
    for batch in batches {
        let head = batch.head();
        counts.push(batch.len() as u64);
        authors.push(tables.replicas.place(&head.replica));
        let expected = next_counters.insert(head.replica, batch.counter_range().end).unwrap_or(1);
        counters.push(step(expected, head.first_counter));
        epochs.push(step(epoch, head.epoch.into()));
        epoch = head.epoch.into();
        dep_counts.push(head.deps.len() as u64);
        for dep in &head.deps {
            dep_replicas.push(tables.replicas.place(&dep.replica));
            dep_counters.push(dep.counter);
        }
        attrs_lens.push(head.attrs.len() as u64);
        attrs.extend_from_slice(&head.attrs);
    }
    let mut out = Vec::new();
    streams.iter().for_each(|stream| put_numbers(&mut out, stream));
    put_prefixed(&mut out, &attrs);
    out
}

/// Returns the streams of the envelopes: what the batches beside them do not say.
fn envelope_streams(envelopes: &[&Envelope]) -> Vec<u8> {
    let mut streams: [Vec<u64>; 6] = Default::default();
    let [epochs, seqs, times, verdicts, absorbed, repeated] = &mut streams;
    let (mut epoch, mut expected, mut time) = (0, 1, 0);
    for envelope in envelopes {
        epochs.push(step(epoch, envelope.epoch.into()));
        epoch = envelope.epoch.into();
        seqs.push(step(expected, envelope.first_seq));
        expected = envelope.last_seq().wrapping_add(1);
        times.push(step(time, envelope.relay_ms));
        time = envelope.relay_ms;
        verdicts.extend(envelope.verdicts.iter().map(|&(verdict, _)| u64::from(verdict.number())));
        absorbed.extend(envelope.absorbed.iter().map(u64::from));
        repeated.extend(envelope.repeated.iter().map(u64::from));
    }
    let mut out = Vec::new();
    streams.iter().for_each(|stream| put_numbers(&mut out, stream));
    out
}

/// Returns the streams of the operations, and the columns of the values.
fn op_streams<'a>(
    batches: &[&'a Batch],
    tables: &mut Tables<'a>,
) -> Result<(Vec<u8>, Vec<ColumnBuilder<'a>>), EncodeError> {
    let mut streams: [Vec<u64>; 6] = Default::default();
    let [forms, mores, millis, counters, cursors, attrs_lens] = &mut streams;
    let mut documents = Vec::new();
    let mut attrs = Vec::new();
    let mut columns: Vec<ColumnBuilder<'a>> = Vec::new();
    let (mut ms, mut cursor, mut classes) = (0, 0, 0);
    for op in batches.iter().flat_map(|batch| batch.ops()) {
        forms.push(tables.form(&op));
        mores.push(op.more.into());
        millis.push(step(ms, op.hlc.0 >> 16));
        ms = op.hlc.0 >> 16;
        counters.push(op.hlc.0 & 0xffff);
        cursors.push(step(cursor, op.cursor));
        cursor = op.cursor;
        documents.push(*op.id.as_bytes());
        if !op.attrs.is_empty() {
            attrs_lens.push(op.attrs.len() as u64);
            attrs.extend_from_slice(op.attrs);
        }
        columns.resize_with(tables.names.items.len(), ColumnBuilder::default);
        let Some(row) = op.set else { continue };
        let shape = tables.shape(row.shape()) as usize;
        for (field, &name) in row.fields().zip(&tables.shape_names[shape]) {
            classes += usize::from(columns[name as usize].push(field));
        }
        // Here already, so that what is gathered stays small (spec: L-22).
        check_limit(CLASSES, classes, COLUMNS_CLASSES_MAX)?;
    }
    let mut out = Vec::new();
    streams.iter().for_each(|stream| put_numbers(&mut out, stream));
    put_prefixed(&mut out, &attrs);
    put_ids(&mut out, &documents);
    Ok((out, columns))
}
