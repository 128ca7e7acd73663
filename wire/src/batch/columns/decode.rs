//! Turning columns back into row batches.
//!
//! Batch by batch, operation by operation, straight into the bytes of row batches; the columns are cursors, so that
//! nothing is kept but tables and output, and the output is limited while it grows.

use super::field::Column;
use super::heap::{Ids, distinct};
use super::numbers::Numbers;
use super::{Columns, FLAG_ENVELOPES};
use crate::batch::{Batch, KIND_COLUMNS, KIND_ROWS, op_bits};
use crate::envelope::{Bitmap, Envelope, Verdict};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::id::{ReplicaId, SpaceId};
use crate::limits::{
    ATTRS_BYTES_MAX, BATCH_DEPS_MAX, BATCH_OPS_MAX, COLUMNS_BATCHES_MAX, COLUMNS_ROWS_BYTES_MAX, COLUMNS_TABLE_MAX,
    FIELDS_MAX, NAME_BYTES_MAX, ROW_BYTES_MAX,
};
use crate::reader::Reader;
use crate::value::sequence::{close_sequence, open_sequence};
use crate::writer::{prefixed_len, put_prefixed, put_u64, put_uvarint, uvarint_len};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;

fn limit(at: usize, what: &'static str, given: usize, max: usize) -> DecodeError {
    DecodeError::new(at, DecodeErrorKind::Limit { what, given: given as u64, max: max as u64 })
}

const fn not_canonical(at: usize, rule: &'static str) -> DecodeError {
    DecodeError::new(at, DecodeErrorKind::NotCanonical(rule))
}

/// What operations have in common, by numbers of the tables.
struct Form {
    flags: u8,
    merge: u8,
    collection: usize,
    set: Option<usize>,
    unset: Option<usize>,
}

/// The tables of the head.
struct Tables<'a> {
    replicas: Vec<ReplicaId>,
    collections: Vec<&'a str>,
    names: Vec<&'a str>,
    shapes: Vec<Vec<u32>>,
    forms: Vec<Form>,
}

/// Counts how far a table was used: entries are numbered in order of first use (spec: K-11).
struct Used {
    len: usize,
    used: usize,
}

impl Used {
    const fn of(len: usize) -> Self {
        Self { len, used: 0 }
    }

    fn meet(&mut self, place: u64, at: usize, what: &'static str) -> Result<usize, DecodeError> {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if place >= self.len {
            let max = (self.len as u64).saturating_sub(1);
            return Err(DecodeError::new(at, DecodeErrorKind::OutOfRange { what, given: place as u64, max }));
        }
        if place > self.used {
            return Err(not_canonical(at, "K-11"));
        }
        self.used += usize::from(place == self.used);
        Ok(place)
    }

    const fn finish(&self, at: usize) -> Result<(), DecodeError> {
        if self.used == self.len { Ok(()) } else { Err(not_canonical(at, "K-11")) }
    }
}

impl<'a> Tables<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let at = reader.offset();
        let count = reader.count(COLUMNS_TABLE_MAX, 16, "replicas in columns")?;
        let mut replicas = Vec::with_capacity(count);
        for _ in 0..count {
            replicas.push(ReplicaId(reader.array()?));
        }
        distinct(&replicas, at)?;
        let collections = read_names(reader)?;
        let names = read_names(reader)?;
        let shapes = read_shapes(reader, &names)?;
        let forms = read_forms(reader, collections.len(), shapes.len())?;
        Ok(Self { replicas, collections, names, shapes, forms })
    }

    fn shape(&self, index: usize) -> &[u32] {
        self.shapes.get(index).map(Vec::as_slice).unwrap_or_default()
    }

    fn put_shape(&self, out: &mut Vec<u8>, index: usize) {
        let shape = self.shape(index);
        put_uvarint(out, shape.len() as u64);
        for &name in shape {
            put_prefixed(out, self.names.get(name as usize).copied().unwrap_or_default().as_bytes());
        }
    }
}

fn read_names<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a str>, DecodeError> {
    let at = reader.offset();
    let count = reader.count(COLUMNS_TABLE_MAX, 1, "names in columns")?;
    let mut names = Vec::with_capacity(count);
    for _ in 0..count {
        names.push(reader.str_prefixed(NAME_BYTES_MAX, "name bytes")?);
    }
    distinct(&names, at)?;
    Ok(names)
}

fn read_shapes(reader: &mut Reader<'_>, names: &[&str]) -> Result<Vec<Vec<u32>>, DecodeError> {
    let table_at = reader.offset();
    let count = reader.count(COLUMNS_TABLE_MAX, 1, "shapes in columns")?;
    let mut used = Used::of(names.len());
    let mut shapes: Vec<Vec<u32>> = Vec::with_capacity(count);
    // Each shape is written at least once: that may not be more than all rows may be (spec: L-18).
    let mut rows_len = 0;
    for _ in 0..count {
        let len = reader.count(FIELDS_MAX, 1, "fields")?;
        rows_len += uvarint_len(len as u64);
        let mut shape = Vec::with_capacity(len);
        let mut before = None;
        for _ in 0..len {
            let at = reader.offset();
            let place = used.meet(reader.uvarint()?, at, "name index")?;
            let name = names.get(place).copied().unwrap_or_default();
            // spec: K-13
            if before.is_some_and(|before| before >= name) {
                return Err(DecodeError::new(at, DecodeErrorKind::Order("K-13")));
            }
            before = Some(name);
            shape.push(place as u32);
            rows_len += prefixed_len(name.len());
        }
        if rows_len > COLUMNS_ROWS_BYTES_MAX {
            return Err(limit(table_at, "rows of columns", rows_len, COLUMNS_ROWS_BYTES_MAX));
        }
        shapes.push(shape);
    }
    used.finish(table_at)?;
    distinct(&shapes, table_at)?;
    Ok(shapes)
}

fn read_forms(reader: &mut Reader<'_>, collections: usize, shapes: usize) -> Result<Vec<Form>, DecodeError> {
    let table_at = reader.offset();
    let count = reader.count(COLUMNS_TABLE_MAX, 3, "forms in columns")?;
    let mut collections = Used::of(collections);
    let mut shapes = Used::of(shapes);
    let mut forms = Vec::with_capacity(count);
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        let at = reader.offset();
        let flags = reader.u8()?;
        // spec: K-14
        if flags & (op_bits::SPARE | op_bits::MORE) != 0 {
            return Err(not_canonical(at, "K-14"));
        }
        // spec: O-1, O-4
        let deletes = match flags & op_bits::KIND {
            0 | 1 => false,
            2 => true,
            kind => return Err(DecodeError::new(at, DecodeErrorKind::UnknownKind { kind, rule: "O-1" })),
        };
        let unsets = flags & op_bits::UNSET != 0;
        if unsets && flags & op_bits::KIND != 1 {
            return Err(not_canonical(at, "O-4"));
        }
        let merge = reader.u8()?;
        let place_at = reader.offset();
        let collection = collections.meet(reader.uvarint()?, place_at, "collection index")?;
        let mut shape = |there: bool| -> Result<Option<usize>, DecodeError> {
            let at = reader.offset();
            if there { shapes.meet(reader.uvarint()?, at, "shape index").map(Some) } else { Ok(None) }
        };
        let set = shape(!deletes)?;
        let unset = shape(unsets)?;
        keys.push((flags, merge, collection, set, unset));
        forms.push(Form { flags, merge, collection, set, unset });
    }
    collections.finish(table_at)?;
    shapes.finish(table_at)?;
    distinct(&keys, table_at)?;
    Ok(forms)
}

/// Reads streams in their order.
fn streams<'a, const N: usize>(reader: &mut Reader<'a>) -> Result<[Numbers<'a>; N], DecodeError> {
    let mut all = [(); N].map(|()| Numbers::new(&[], 0));
    for stream in &mut all {
        *stream = Numbers::read(reader)?;
    }
    Ok(all)
}

fn read_bytes<'a>(reader: &mut Reader<'a>) -> Result<Reader<'a>, DecodeError> {
    let bytes = reader.bytes_prefixed(reader.left(), "stream bytes")?;
    Ok(Reader::with_offset(bytes, reader.offset() - bytes.len()))
}

/// The streams of the batches.
struct Heads<'a> {
    streams: [Numbers<'a>; 8],
    attrs: Reader<'a>,
    replicas: Used,
    next_counters: BTreeMap<usize, u64>,
    epoch: u64,
}

/// What a batch says before its operations.
struct Head<'a> {
    ops: usize,
    replica: ReplicaId,
    first_counter: u64,
    epoch: u64,
    deps: Vec<(ReplicaId, u64)>,
    attrs: &'a [u8],
}

impl<'a> Heads<'a> {
    fn next(&mut self, replicas: &[ReplicaId], ops_left: usize) -> Result<Head<'a>, DecodeError> {
        let [counts, authors, counters, epochs, dep_counts, dep_replicas, dep_counters, attrs_lens] = &mut self.streams;
        let at = counts.offset();
        let ops = counts.next()?;
        // spec: B-8, L-10
        let ops = match usize::try_from(ops) {
            Ok(0) | Err(_) => {
                let kind =
                    DecodeErrorKind::OutOfRange { what: "operations in a batch", given: ops, max: ops_left as u64 };
                return Err(DecodeError::new(at, kind));
            }
            Ok(ops) if ops > ops_left => return Err(limit(at, "operations in columns", ops, ops_left)),
            Ok(ops) => ops,
        };
        let at = authors.offset();
        let author = self.replicas.meet(authors.next()?, at, "replica index")?;
        let at = counters.offset();
        let first_counter = counters.step(self.next_counters.get(&author).copied().unwrap_or(1))?;
        // spec: B-2
        let Some(next) = first_counter.checked_add(ops as u64) else {
            let kind = DecodeErrorKind::OutOfRange { what: "first counter", given: first_counter, max: u64::MAX };
            return Err(DecodeError::new(at, kind));
        };
        self.next_counters.insert(author, next);
        self.epoch = epochs.step(self.epoch)?;
        let replica = |place: usize| replicas.get(place).copied().unwrap_or_default();
        let mut deps = Vec::new();
        for _ in 0..dep_counts.below(BATCH_DEPS_MAX as u64 + 1, "dependencies")? {
            let at = dep_replicas.offset();
            let place = self.replicas.meet(dep_replicas.next()?, at, "replica index")?;
            deps.push((replica(place), dep_counters.next()?));
        }
        let attrs_len = attrs_lens.below(ATTRS_BYTES_MAX as u64 + 1, "attributes bytes")?;
        let attrs = self.attrs.bytes(attrs_len as usize)?;
        Ok(Head { ops, replica: replica(author), first_counter, epoch: self.epoch, deps, attrs })
    }

    fn finish(&self, at: usize) -> Result<(), DecodeError> {
        self.streams.iter().try_for_each(Numbers::finish)?;
        self.attrs.finish()?;
        self.replicas.finish(at)
    }
}

/// The streams of the envelopes.
struct Over<'a> {
    streams: [Numbers<'a>; 6],
    epoch: u64,
    expected: u64,
    relay_ms: u64,
}

impl Over<'_> {
    fn next(&mut self, batch: &Batch) -> Result<Envelope, DecodeError> {
        let [epochs, seqs, times, verdicts, absorbed, repeated] = &mut self.streams;
        let at = epochs.offset();
        self.epoch = epochs.step(self.epoch)?;
        // spec: O-17
        let Ok(epoch) = u32::try_from(self.epoch) else {
            let kind = DecodeErrorKind::Limit { what: "epoch", given: self.epoch, max: u32::MAX.into() };
            return Err(DecodeError::new(at, kind));
        };
        let n = batch.len() as u32;
        let at = seqs.offset();
        let first_seq = seqs.step(self.expected)?;
        // spec: F-14
        let max = u64::MAX - u64::from(n);
        if first_seq == 0 || first_seq > max {
            let kind = DecodeErrorKind::OutOfRange { what: "first sequence number", given: first_seq, max };
            return Err(DecodeError::new(at, kind));
        }
        self.relay_ms = times.step(self.relay_ms)?;
        let mut envelope = Envelope {
            epoch,
            first_seq,
            relay_ms: self.relay_ms,
            replica: batch.head().replica,
            first_counter: batch.head().first_counter,
            n,
            verdicts: Vec::new(),
            absorbed: Bitmap::new(n),
            repeated: Bitmap::new(n),
        };
        for transaction in batch.transactions() {
            let at = verdicts.offset();
            let number = verdicts.next()?;
            let verdict = u8::try_from(number)
                .ok()
                .and_then(Verdict::from_number)
                .ok_or(DecodeError::new(at, DecodeErrorKind::OutOfRange { what: "verdict", given: number, max: 3 }))?;
            envelope.verdicts.push((verdict, transaction.len() as u32));
        }
        for index in 0..batch.len() {
            if absorbed.below(2, "bit")? == 1 {
                envelope.absorbed.set(index);
            }
            if repeated.below(2, "bit")? == 1 {
                envelope.repeated.set(index);
            }
        }
        self.expected = envelope.last_seq().wrapping_add(1);
        Ok(envelope)
    }
}

/// The streams of the operations, and the columns.
struct Ops<'a> {
    streams: [Numbers<'a>; 6],
    attrs: Reader<'a>,
    documents: Ids<'a>,
    columns: Vec<Column<'a>>,
    forms: Used,
    ms: u64,
    cursor: u64,
}

/// What an operation says before its fields.
struct OpHead<'a> {
    form: usize,
    more: bool,
    hlc: u64,
    cursor: u64,
    document: [u8; 16],
    attrs: &'a [u8],
}

impl<'a> Ops<'a> {
    fn next(&mut self, tables: &Tables<'_>) -> Result<OpHead<'a>, DecodeError> {
        let [forms, mores, millis, counters, cursors, attrs_lens] = &mut self.streams;
        let at = forms.offset();
        let form = self.forms.meet(forms.next()?, at, "form index")?;
        let more = mores.below(2, "bit")? == 1;
        let at = millis.offset();
        self.ms = millis.step(self.ms)?;
        // spec: K-15
        if self.ms >> 48 != 0 {
            let kind = DecodeErrorKind::OutOfRange { what: "milliseconds", given: self.ms, max: (1 << 48) - 1 };
            return Err(DecodeError::new(at, kind));
        }
        let hlc = self.ms << 16 | counters.below(1 << 16, "counter of a timestamp")?;
        self.cursor = cursors.step(self.cursor)?;
        let document = self.documents.next()?;
        let attrs = match tables.forms.get(form) {
            Some(form) if form.flags & op_bits::ATTRS != 0 => {
                let len = attrs_lens.below(ATTRS_BYTES_MAX as u64 + 1, "attributes bytes")?;
                self.attrs.bytes(len as usize)?
            }
            _ => &[],
        };
        Ok(OpHead { form, more, hlc, cursor: self.cursor, document, attrs })
    }

    fn finish(&self, at: usize) -> Result<(), DecodeError> {
        self.streams.iter().try_for_each(Numbers::finish)?;
        self.attrs.finish()?;
        self.documents.finish()?;
        self.forms.finish(at)?;
        self.columns.iter().try_for_each(Column::finish)
    }
}

/// Numbers of a table of one batch, in order of first use there.
#[derive(Default)]
struct Local {
    places: BTreeMap<usize, u32>,
    items: Vec<usize>,
}

impl Local {
    fn place(&mut self, item: usize) -> u64 {
        if let Some(&place) = self.places.get(&item) {
            return place.into();
        }
        let place = self.items.len() as u32;
        self.places.insert(item, place);
        self.items.push(item);
        place.into()
    }
}

pub(super) fn decode(bytes: &[u8], at: usize) -> Result<Columns, DecodeError> {
    let mut reader = Reader::with_offset(bytes, at);
    match reader.u8()? {
        KIND_COLUMNS => {}
        // spec: K-12
        kind => return Err(DecodeError::new(at, DecodeErrorKind::UnknownKind { kind, rule: "K-12" })),
    }
    let flags_at = reader.offset();
    let flags = reader.u8()?;
    // spec: K-12
    if flags & !FLAG_ENVELOPES != 0 {
        return Err(not_canonical(flags_at, "K-12"));
    }
    let space = SpaceId(reader.array()?);
    let tables = Tables::read(&mut reader)?;
    let count_at = reader.offset();
    let count = reader.uvarint_max(COLUMNS_BATCHES_MAX as u64, "batches in columns")? as usize;
    // spec: K-12
    if count == 0 {
        return Err(not_canonical(count_at, "K-12"));
    }
    let mut heads = Heads {
        streams: streams(&mut reader)?,
        attrs: read_bytes(&mut reader)?,
        replicas: Used::of(tables.replicas.len()),
        next_counters: BTreeMap::new(),
        epoch: 0,
    };
    let mut over = match flags & FLAG_ENVELOPES {
        0 => None,
        _ => Some(Over { streams: streams(&mut reader)?, epoch: 0, expected: 1, relay_ms: 0 }),
    };
    let mut ops = Ops {
        streams: streams(&mut reader)?,
        attrs: read_bytes(&mut reader)?,
        documents: Ids::read(&mut reader)?,
        columns: Vec::with_capacity(tables.names.len()),
        forms: Used::of(tables.forms.len()),
        ms: 0,
        cursor: 0,
    };
    let mut classes = 0;
    for _ in &tables.names {
        ops.columns.push(Column::read(&mut reader, &mut classes)?);
    }
    reader.finish()?;

    let mut rows = Vec::new();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut ops_left = BATCH_OPS_MAX;
    for _ in 0..count {
        let head = heads.next(&tables.replicas, ops_left)?;
        ops_left -= head.ops;
        let start = rows.len();
        put_batch(&mut rows, space, &head, &tables, &mut ops, at)?;
        ranges.push(start..rows.len());
    }
    heads.finish(at)?;
    ops.finish(at)?;

    let rows = Bytes::from(rows);
    let mut columns = Columns { batches: Vec::with_capacity(count), envelopes: Vec::new() };
    for range in ranges {
        // Only the rows can show the rest: values, limits of a batch.
        let batch = Batch::decode(rows.slice(range)).map_err(|error| DecodeError::new(at, error.kind))?;
        if let Some(over) = &mut over {
            columns.envelopes.push(over.next(&batch)?);
        }
        columns.batches.push(batch);
    }
    if let Some(over) = &over {
        over.streams.iter().try_for_each(Numbers::finish)?;
    }
    Ok(columns)
}

/// Appends one row batch (spec: L-18).
fn put_batch<'a>(
    out: &mut Vec<u8>,
    space: SpaceId,
    head: &Head<'a>,
    tables: &Tables<'a>,
    ops: &mut Ops<'a>,
    at: usize,
) -> Result<(), DecodeError> {
    let check = |len: usize| match len > COLUMNS_ROWS_BYTES_MAX {
        true => Err(limit(at, "rows of columns", len, COLUMNS_ROWS_BYTES_MAX)),
        false => Ok(()),
    };
    let (mut collections, mut shapes) = (Local::default(), Local::default());
    let mut op_heads = Vec::new();
    // The bases are minima: no operation can be written before all stamps are known.
    let (mut base_hlc, mut base_cursor) = (u64::MAX, u64::MAX);
    for _ in 0..head.ops {
        let op = ops.next(tables)?;
        base_hlc = base_hlc.min(op.hlc);
        base_cursor = base_cursor.min(op.cursor);
        if let Some(form) = tables.forms.get(op.form) {
            collections.place(form.collection);
            form.set.iter().chain(&form.unset).for_each(|&shape| {
                shapes.place(shape);
            });
        }
        op_heads.push(op);
    }
    out.push(KIND_ROWS);
    out.extend_from_slice(space.as_bytes());
    out.extend_from_slice(head.replica.as_bytes());
    put_uvarint(out, head.first_counter);
    put_u64(out, base_hlc);
    put_uvarint(out, head.epoch);
    put_uvarint(out, base_cursor);
    put_uvarint(out, head.deps.len() as u64);
    for (replica, counter) in &head.deps {
        out.extend_from_slice(replica.as_bytes());
        put_uvarint(out, *counter);
    }
    put_prefixed(out, head.attrs);
    put_uvarint(out, collections.items.len() as u64);
    for &collection in &collections.items {
        put_prefixed(out, tables.collections.get(collection).copied().unwrap_or_default().as_bytes());
        check(out.len())?;
    }
    put_uvarint(out, shapes.items.len() as u64);
    for &shape in &shapes.items {
        tables.put_shape(out, shape);
        check(out.len())?;
    }
    put_uvarint(out, head.ops as u64);
    let mut scratch = Vec::new();
    let mut ends = Vec::new();
    for op in &op_heads {
        let Some(form) = tables.forms.get(op.form) else { continue };
        scratch.clear();
        scratch.extend_from_slice(&[form.flags | if op.more { op_bits::MORE } else { 0 }, form.merge]);
        put_uvarint(&mut scratch, op.hlc - base_hlc);
        put_uvarint(&mut scratch, op.cursor - base_cursor);
        put_uvarint(&mut scratch, collections.place(form.collection));
        scratch.extend_from_slice(&op.document);
        if form.flags & op_bits::ATTRS != 0 {
            put_prefixed(&mut scratch, op.attrs);
        }
        for &shape in form.set.iter().chain(&form.unset) {
            put_uvarint(&mut scratch, shapes.place(shape));
        }
        if let Some(set) = form.set {
            let names = tables.shape(set);
            let (tags_at, heap_at) = open_sequence(names.len(), &mut scratch);
            ends.clear();
            for (index, &name) in names.iter().enumerate() {
                let Some(column) = ops.columns.get_mut(name as usize) else { continue };
                scratch[tags_at + index] = column.next(&mut scratch)?;
                let heap_len = scratch.len() - heap_at;
                // spec: L-4
                if heap_len > ROW_BYTES_MAX {
                    return Err(limit(at, "row bytes", heap_len, ROW_BYTES_MAX));
                }
                ends.push(heap_len as u32);
            }
            close_sequence(&mut scratch, heap_at, &ends);
        }
        put_prefixed(out, &scratch);
        check(out.len())?;
    }
    Ok(())
}
