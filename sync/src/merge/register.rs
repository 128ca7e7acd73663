//! The last-writer-wins register: one per top-level field.
//!
//! A write beats another by (stamp, value bytes); an unset counts as a value below every other, so it loses a tie. The
//! winner is the maximum of a total order, which makes merging commutative, associative and idempotent for each field
//! by itself. A name that was never written has no stamp and loses to everything.
//!
//! Values are moved as bytes: the merged row is assembled from the encoded fields of both sides.

use std::cmp::Ordering;
use std::sync::Arc;

use blazedb_wire::{RawField, Row, RowRef, Shape, Stamp, limits};

use super::OpContext;
use crate::limits::UNSET_NAMES_MAX;
use crate::record::{Record, RecordMeta};

/// The merged document would have more fields or bytes than a document may have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// What is known of one name: the stamp of its newest write and the field, unless that write was an unset.
#[derive(Clone, Copy, Debug)]
struct Cell<'a> {
    name: &'a str,
    stamp: Stamp,
    field: Option<RawField<'a>>,
}

/// Merges the fields of `op` into `record`; `None` when every one of them loses or changes nothing.
pub(super) fn merge(record: &Record, op: &OpContext<'_>) -> Result<Option<Record>, TooLarge> {
    let row = record.row.as_ref();
    let mut known = KnownCells::new(record, row);
    let mut written = WrittenCells::new(op);
    let mut cells: Vec<Cell<'_>> = Vec::with_capacity(row.len() + record.meta.unset.len() + 4);
    let mut changed = false;
    loop {
        let (ours, theirs) = (known.peek(), written.peek());
        let order = match (&ours, &theirs) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(ours), Some(theirs)) => ours.name.cmp(theirs.name),
        };
        let cell = match order {
            Ordering::Less => ours,
            Ordering::Greater => {
                changed = true;
                theirs
            }
            Ordering::Equal => ours.zip(theirs).map(|(ours, theirs)| {
                let wins = beats(&theirs, &ours);
                changed |= wins;
                if wins { theirs } else { ours }
            }),
        };
        cells.extend(cell);
        if order != Ordering::Greater {
            known.advance();
        }
        if order != Ordering::Less {
            written.advance();
        }
    }
    if !changed {
        return Ok(None);
    }
    from_cells(record, &cells).map(Some)
}

/// spec: M-3, M-4: by stamp, then by value bytes; an unset is below every value.
fn beats(challenger: &Cell<'_>, holder: &Cell<'_>) -> bool {
    (challenger.stamp, challenger.field) > (holder.stamp, holder.field)
}

/// Builds the record that holds exactly `cells` (ascending by name); the numbers of the document are kept.
fn from_cells(record: &Record, cells: &[Cell<'_>]) -> Result<Record, TooLarge> {
    let present = || cells.iter().filter_map(|cell| cell.field.map(|field| (cell, field)));
    let fields: Vec<RawField<'_>> = present().map(|(_, field)| field).collect();
    let body_bytes = body_bytes(&fields);
    if fields.len() > limits::FIELDS_MAX || body_bytes > limits::ROW_BYTES_MAX {
        return Err(TooLarge);
    }
    let old_shape = record.row.shape();
    let same_names =
        old_shape.len() == fields.len() && present().zip(old_shape.names()).all(|((cell, _), name)| cell.name == name);
    let shape = if same_names {
        old_shape.clone()
    } else {
        Shape::new(present().map(|(cell, _)| cell.name)).map_err(|_| TooLarge)?
    };
    // The limit counts the names: an operation that creates the document has to carry them.
    if shape.encoded_len() + body_bytes > limits::ROW_BYTES_MAX {
        return Err(TooLarge);
    }
    let row = Row::from_fields(shape, &fields).expect("one field for each name");

    let newest = || cells.iter().map(|cell| cell.stamp).max();
    let row_stamp = commonest(present().map(|(cell, _)| cell.stamp)).or_else(newest).unwrap_or(record.meta.row_stamp);
    let exceptions = (0u32..)
        .zip(present())
        .filter(|(_, (cell, _))| cell.stamp != row_stamp)
        .map(|(index, (cell, _))| (index, cell.stamp))
        .collect();
    let unset = newest_unset(cells.iter().filter(|cell| cell.field.is_none()));
    let meta = RecordMeta { row_stamp, exceptions, unset, ..record.meta.clone() };
    Ok(Record { meta, row })
}

/// Returns the stamp that most fields share, the greatest of several: what need not be written per field.
fn commonest(stamps: impl Iterator<Item = Stamp>) -> Option<Stamp> {
    let mut stamps: Vec<Stamp> = stamps.collect();
    stamps.sort_unstable();
    let runs = stamps.chunk_by(|a, b| a == b);
    runs.max_by_key(|run| run.len()).map(|run| run[0])
}

/// Keeps the newest [`UNSET_NAMES_MAX`] unset names, ascending by name.
fn newest_unset<'a>(cells: impl Iterator<Item = &'a Cell<'a>>) -> Vec<(Arc<str>, Stamp)> {
    let mut cells: Vec<&Cell<'_>> = cells.collect();
    if cells.len() > UNSET_NAMES_MAX {
        // spec: M-4
        cells.sort_unstable_by(|a, b| (b.stamp, b.name).cmp(&(a.stamp, a.name)));
        cells.truncate(UNSET_NAMES_MAX);
        cells.sort_unstable_by_key(|cell| cell.name);
    }
    cells.into_iter().map(|cell| (Arc::from(cell.name), cell.stamp)).collect()
}

/// Returns the length of the body that `encode_body` will write, computed before anything is allocated for it.
fn body_bytes(fields: &[RawField<'_>]) -> usize {
    let heap: usize = fields.iter().map(|field| field.payload.len()).sum();
    let width = match heap {
        0..=0xFF => 1,
        0x100..=0xFFFF => 2,
        _ => 4,
    };
    match fields.len() {
        0 => 0,
        n => 1 + n + (n - 1) * width + heap,
    }
}

/// Steps through the fields of a row in the order of their names.
pub(super) struct MergeRow<'a> {
    row: RowRef<'a>,
    at: usize,
}

impl<'a> MergeRow<'a> {
    pub(super) const fn new(row: RowRef<'a>) -> Self {
        Self { row, at: 0 }
    }

    pub(super) fn peek(&self) -> Option<(&'a str, RawField<'a>)> {
        (self.at < self.row.len()).then(|| (self.row.shape().name(self.at), self.row.field(self.at)))
    }

    pub(super) fn advance(&mut self) {
        self.at += 1;
    }
}

/// The names of a record, present and unset, in one ascending order.
struct KnownCells<'a> {
    fields: MergeRow<'a>,
    row_stamp: Stamp,
    exceptions: &'a [(u32, Stamp)],
    unset: &'a [(Arc<str>, Stamp)],
}

impl<'a> KnownCells<'a> {
    fn new(record: &'a Record, row: RowRef<'a>) -> Self {
        let meta = &record.meta;
        Self { fields: MergeRow::new(row), row_stamp: meta.row_stamp, exceptions: &meta.exceptions, unset: &meta.unset }
    }

    fn peek(&self) -> Option<Cell<'a>> {
        let unset = self.unset.first();
        match self.fields.peek() {
            Some((name, field)) if unset.is_none_or(|(gone, _)| name < &**gone) => {
                let stamp = match self.exceptions.first() {
                    Some((index, stamp)) if *index as usize == self.fields.at => *stamp,
                    _ => self.row_stamp,
                };
                Some(Cell { name, stamp, field: Some(field) })
            }
            _ => unset.map(|(name, stamp)| Cell { name, stamp: *stamp, field: None }),
        }
    }

    fn advance(&mut self) {
        match self.peek() {
            Some(Cell { field: Some(_), .. }) => {
                if self.exceptions.first().is_some_and(|(index, _)| *index as usize == self.fields.at) {
                    self.exceptions = &self.exceptions[1..];
                }
                self.fields.advance();
            }
            Some(Cell { field: None, .. }) => self.unset = &self.unset[1..],
            None => {}
        }
    }
}

/// The names that an operation sets and unsets, in one ascending order.
struct WrittenCells<'a> {
    stamp: Stamp,
    set: Option<MergeRow<'a>>,
    unset: &'a Shape,
    unset_at: usize,
}

impl<'a> WrittenCells<'a> {
    fn new(op: &OpContext<'a>) -> Self {
        Self { stamp: op.stamp(), set: op.op.set.map(MergeRow::new), unset: op.op.unset, unset_at: 0 }
    }

    fn peek(&self) -> Option<Cell<'a>> {
        let unset = (self.unset_at < self.unset.len()).then(|| self.unset.name(self.unset_at));
        match self.set.as_ref().and_then(MergeRow::peek) {
            Some((name, field)) if unset.is_none_or(|gone| name < gone) => {
                Some(Cell { name, stamp: self.stamp, field: Some(field) })
            }
            _ => unset.map(|name| Cell { name, stamp: self.stamp, field: None }),
        }
    }

    fn advance(&mut self) {
        match self.peek() {
            Some(Cell { field: Some(_), .. }) => {
                if let Some(set) = &mut self.set {
                    set.advance();
                }
            }
            Some(Cell { field: None, .. }) => self.unset_at += 1,
            None => {}
        }
    }
}
