//! `Record`: a document as it is stored, and `DocState`: what a replica knows of a document.
//!
//! A record is a verified row beside what merging needs to know of it: one stamp for the whole row, exceptions for fields
//! whose stamp differs, stamps of names that were unset, and the four numbers that say who edited last and when. The row
//! bytes are those of the operation that brought them; nothing here encodes a value.
//!
//! The shape of the row stays outside: a file keeps each list of field names once, in a catalogue of its own, and a record
//! names it by a 32-bit number. Encoding is told the number, decoding asks a [`ShapeCatalogue`].
//!
//! ```text
//! flags            bits 0..1  1 = record, 2 = tombstone
//!                  bit 2 reborn | bit 3 last author follows | bit 4 creator follows | bit 5 exceptions | bit 6 unset names
//! record           row stamp 12 | uvarint last_seq | [last author u32] | uvarint other_seq | uvarint birth | [creator u32]
//!                  [exceptions: uvarint n | n x (uvarint field index - previous - 1, stamp)]
//!                  [unset:      uvarint n | n x (uvarint len, name, stamp)]
//!                  uvarint shape number | row body
//! tombstone        stamp 12 | uvarint seq
//! stamp inside a list   u8 1 if the tag differs from the row stamp's, else 0 | zigzag uvarint (hlc - row hlc) | [tag u32]
//! ```
//!
//! The author and the creator are left out where they equal the tag of the row stamp, so a document that one replica wrote
//! in one go carries about 20 bytes. A tombstone's author is the tag of its stamp.
//!
//! Rules: spec/merge.md, M-17 and M-18. The type to read first: [`DocState`].

use std::fmt;
use std::sync::Arc;

use blazedb_wire::limits::{FIELDS_MAX, NAME_BYTES_MAX};
use blazedb_wire::varint::put_uvarint;
use blazedb_wire::{DecodeError, DecodeErrorKind, Hlc, Reader, Row, RowRef, Shape, Stamp};
use bytes::Bytes;

use crate::limits::UNSET_NAMES_MAX;

const KIND_MASK: u8 = 0b11;
const KIND_RECORD: u8 = 1;
const KIND_TOMBSTONE: u8 = 2;
const REBORN: u8 = 1 << 2;
const LAST_AUTHOR: u8 = 1 << 3;
const CREATOR: u8 = 1 << 4;
const EXCEPTIONS: u8 = 1 << 5;
const UNSET: u8 = 1 << 6;
const SPARE: u8 = 1 << 7;

/// What a replica knows of one document.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum DocState {
    /// Nothing: never seen.
    #[default]
    Absent,
    /// A document that can be read.
    Live(Record),
    /// A document that was deleted; what stays of it.
    Dead(Tombstone),
}

/// A live document as stored: its row and what merging knows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What merging knows of the row.
    pub meta: RecordMeta,
    /// The fields.
    pub row: Row,
}

/// What merging knows of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordMeta {
    /// Stamp of every field without an exception.
    pub row_stamp: Stamp,
    /// Fields with another stamp: (index in the shape, stamp), ascending by index.
    pub exceptions: Vec<(u32, Stamp)>,
    /// Names that are not fields now because they were unset, with the stamp of that, ascending by name.
    pub unset: Vec<(Arc<str>, Stamp)>,
    /// Relay sequence of the newest sequenced operation on the document; 0 when there is none.
    pub last_seq: u64,
    /// Tag of the replica that wrote it.
    pub last_author: u32,
    /// Newest relay sequence of an operation by anybody whose work the last author had not declared to be its own.
    pub other_seq: u64,
    /// Relay sequence of the create; 0 while it is not sequenced.
    pub birth: u64,
    /// Whether the create came after a delete of the same document.
    pub reborn: bool,
    /// Tag of the replica that created it.
    pub creator: u32,
}

/// What stays of a deleted document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Stamp of the delete; its tag is the author.
    pub stamp: Stamp,
    /// Relay sequence of the delete; 0 while it is not sequenced.
    pub seq: u64,
}

impl Tombstone {
    /// Returns the tag of the replica that deleted the document.
    pub const fn author(&self) -> u32 {
        self.stamp.tag
    }
}

/// Resolves the number of a shape in the catalogue of a file.
pub trait ShapeCatalogue {
    /// Returns the shape with this number, if the catalogue has it.
    fn shape(&self, number: u32) -> Option<Shape>;
}

impl<F: Fn(u32) -> Option<Shape>> ShapeCatalogue for F {
    fn shape(&self, number: u32) -> Option<Shape> {
        self(number)
    }
}

/// A stored value with its row still unverified, for readers that trust the file and want the row alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredRow<'a> {
    /// A live document: the number of its shape and the row body.
    Live {
        /// Number of the shape in the catalogue of the file.
        shape: u32,
        /// The row body.
        body: &'a [u8],
        /// As [`RecordMeta::last_seq`].
        last_seq: u64,
    },
    /// A deleted document.
    Dead(Tombstone),
}

/// Why stored bytes are not a record.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordError {
    /// The bytes break the layout.
    Bytes(DecodeError),
    /// The record names a shape that the catalogue does not have.
    UnknownShape(u32),
    /// An exception names a field that the shape does not have, or an unset name that is a field.
    Field {
        /// Position in the list of exceptions or unset names.
        position: usize,
        /// Fields of the shape.
        fields: usize,
    },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(_) => {
                f.write_str("a stored record is damaged; verify the file and restore it from a peer or a backup")
            }
            Self::UnknownShape(number) => {
                write!(
                    f,
                    "a stored record names shape {number}, which the file's catalogue does not have; verify the file"
                )
            }
            Self::Field { position, fields } => {
                write!(
                    f,
                    "entry {position} of a stored record's stamps does not fit its {fields} fields; verify the file"
                )
            }
        }
    }
}

impl std::error::Error for RecordError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bytes(error) => Some(error),
            Self::UnknownShape(_) | Self::Field { .. } => None,
        }
    }
}

impl From<DecodeError> for RecordError {
    fn from(error: DecodeError) -> Self {
        Self::Bytes(error)
    }
}

impl DocState {
    /// Reads what a store holds under a document's key; `None` (no such key) is [`DocState::Absent`].
    ///
    /// The row is verified and shares memory with `stored`.
    pub fn decode(stored: Option<&Bytes>, shapes: &dyn ShapeCatalogue) -> Result<Self, RecordError> {
        let Some(stored) = stored else {
            return Ok(Self::Absent);
        };
        let mut reader = Reader::new(stored);
        let flags = reader.u8()?;
        match flags & KIND_MASK {
            KIND_RECORD => Ok(Self::Live(Record::decode_after_flags(flags, reader, stored, shapes)?)),
            KIND_TOMBSTONE => Ok(Self::Dead(Tombstone::decode_after_flags(flags, reader)?)),
            _ => Err(reader.fail(DecodeErrorKind::BadTag(flags)).into()),
        }
    }

    /// Returns the record of a live document.
    pub const fn live(&self) -> Option<&Record> {
        match self {
            Self::Live(record) => Some(record),
            Self::Absent | Self::Dead(_) => None,
        }
    }

    /// Returns the tombstone of a deleted document.
    pub const fn dead(&self) -> Option<&Tombstone> {
        match self {
            Self::Dead(tombstone) => Some(tombstone),
            Self::Absent | Self::Live(_) => None,
        }
    }

    /// Returns the fields of a live document.
    pub fn row(&self) -> Option<RowRef<'_>> {
        self.live().map(|record| record.row.as_ref())
    }

    /// Returns the greatest stamp that the state holds: the clock of a replica that has it must not be behind.
    pub fn greatest_stamp(&self) -> Option<Stamp> {
        match self {
            Self::Absent => None,
            Self::Dead(tombstone) => Some(tombstone.stamp),
            Self::Live(record) => {
                let meta = &record.meta;
                let exceptions = meta.exceptions.iter().map(|(_, stamp)| *stamp);
                let unset = meta.unset.iter().map(|(_, stamp)| *stamp);
                Some(exceptions.chain(unset).fold(meta.row_stamp, Stamp::max))
            }
        }
    }
}

impl Record {
    /// Returns the stamp of the field at `index` of the row.
    pub fn field_stamp(&self, index: usize) -> Stamp {
        let exceptions = &self.meta.exceptions;
        match exceptions.binary_search_by_key(&index, |(at, _)| *at as usize) {
            Ok(found) => exceptions[found].1,
            Err(_) => self.meta.row_stamp,
        }
    }

    /// Appends the stored form; `shape` is the number of the row's shape in the catalogue of the file.
    pub fn encode(&self, shape: u32, out: &mut Vec<u8>) {
        let meta = &self.meta;
        let row_stamp = meta.row_stamp;
        let mut flags = KIND_RECORD;
        for (flag, on) in [
            (REBORN, meta.reborn),
            (LAST_AUTHOR, meta.last_author != row_stamp.tag),
            (CREATOR, meta.creator != row_stamp.tag),
            (EXCEPTIONS, !meta.exceptions.is_empty()),
            (UNSET, !meta.unset.is_empty()),
        ] {
            if on {
                flags |= flag;
            }
        }
        out.push(flags);
        row_stamp.encode(out);
        put_uvarint(out, meta.last_seq);
        if flags & LAST_AUTHOR != 0 {
            out.extend_from_slice(&meta.last_author.to_le_bytes());
        }
        put_uvarint(out, meta.other_seq);
        put_uvarint(out, meta.birth);
        if flags & CREATOR != 0 {
            out.extend_from_slice(&meta.creator.to_le_bytes());
        }
        if flags & EXCEPTIONS != 0 {
            put_uvarint(out, meta.exceptions.len() as u64);
            let mut next = 0;
            for (index, stamp) in &meta.exceptions {
                put_uvarint(out, u64::from(index - next));
                put_near_stamp(out, row_stamp, *stamp);
                next = index + 1;
            }
        }
        if flags & UNSET != 0 {
            put_uvarint(out, meta.unset.len() as u64);
            for (name, stamp) in &meta.unset {
                put_uvarint(out, name.len() as u64);
                out.extend_from_slice(name.as_bytes());
                put_near_stamp(out, row_stamp, *stamp);
            }
        }
        put_uvarint(out, u64::from(shape));
        out.extend_from_slice(self.row.body());
    }

    fn decode_after_flags(
        flags: u8,
        mut reader: Reader<'_>,
        stored: &Bytes,
        shapes: &dyn ShapeCatalogue,
    ) -> Result<Self, RecordError> {
        let (meta, number) = read_meta(flags, &mut reader)?;
        let shape = shapes.shape(number).ok_or(RecordError::UnknownShape(number))?;
        let body = stored.slice(reader.offset()..);
        let row = Row::decode(shape, body)?;
        let shape = row.shape();
        let fields = shape.len();
        if let Some((index, _)) = meta.exceptions.last()
            && *index as usize >= fields
        {
            return Err(RecordError::Field { position: meta.exceptions.len() - 1, fields });
        }
        for (position, (name, _)) in meta.unset.iter().enumerate() {
            if shape.index_of(name).is_some() {
                return Err(RecordError::Field { position, fields });
            }
        }
        Ok(Self { meta, row })
    }
}

impl Tombstone {
    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(KIND_TOMBSTONE);
        self.stamp.encode(out);
        put_uvarint(out, self.seq);
    }

    fn decode_after_flags(flags: u8, mut reader: Reader<'_>) -> Result<Self, RecordError> {
        if flags != KIND_TOMBSTONE {
            return Err(reader.fail(DecodeErrorKind::BadTag(flags)).into());
        }
        let stamp = Stamp::decode(&mut reader)?;
        let seq = reader.uvarint()?;
        reader.finish()?;
        Ok(Self { stamp, seq })
    }
}

impl<'a> StoredRow<'a> {
    /// Finds the row in a stored value. The row body is not verified; [`DocState::decode`] does that.
    pub fn find(stored: &'a [u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(stored);
        let flags = reader.u8()?;
        match flags & KIND_MASK {
            KIND_RECORD => {
                let (meta, shape) = read_meta(flags, &mut reader)?;
                Ok(Self::Live { shape, body: reader.rest(), last_seq: meta.last_seq })
            }
            KIND_TOMBSTONE => Ok(Self::Dead(Tombstone::decode_after_flags(flags, reader)?)),
            _ => Err(reader.fail(DecodeErrorKind::BadTag(flags)).into()),
        }
    }
}

/// Reads everything between the flags and the row body: the meta data and the shape number.
fn read_meta(flags: u8, reader: &mut Reader<'_>) -> Result<(RecordMeta, u32), DecodeError> {
    if flags & SPARE != 0 {
        return Err(reader.fail(DecodeErrorKind::BadTag(flags)));
    }
    let row_stamp = Stamp::decode(reader)?;
    let last_seq = reader.uvarint()?;
    let last_author = read_tag(reader, flags & LAST_AUTHOR != 0, row_stamp.tag)?;
    let other_seq = reader.uvarint()?;
    let birth = reader.uvarint()?;
    let creator = read_tag(reader, flags & CREATOR != 0, row_stamp.tag)?;
    let mut exceptions = Vec::new();
    if flags & EXCEPTIONS != 0 {
        let n = read_count(reader, FIELDS_MAX)?;
        exceptions.reserve_exact(n);
        let mut next = 0u32;
        for _ in 0..n {
            let index = next + reader.uvarint_max(FIELDS_MAX as u64, "field index")? as u32;
            let stamp = read_near_stamp(reader, row_stamp)?;
            if stamp == row_stamp {
                return Err(reader.fail(DecodeErrorKind::NotCanonical("M-17")));
            }
            exceptions.push((index, stamp));
            next = index + 1;
        }
    }
    let mut unset: Vec<(Arc<str>, Stamp)> = Vec::new();
    if flags & UNSET != 0 {
        let n = read_count(reader, UNSET_NAMES_MAX)?;
        unset.reserve_exact(n);
        for _ in 0..n {
            let name = reader.str_prefixed(NAME_BYTES_MAX, "unset name bytes")?;
            if unset.last().is_some_and(|(before, _)| **before >= *name) {
                return Err(reader.fail(DecodeErrorKind::Order("M-17")));
            }
            unset.push((Arc::from(name), read_near_stamp(reader, row_stamp)?));
        }
    }
    let shape = reader.uvarint_max(u64::from(u32::MAX), "shape number")? as u32;
    let meta = RecordMeta {
        row_stamp,
        exceptions,
        unset,
        last_seq,
        last_author,
        other_seq,
        birth,
        reborn: flags & REBORN != 0,
        creator,
    };
    Ok((meta, shape))
}

/// Reads the length of a list whose flag is set: it is not empty, and its entries fit the bytes that are left.
fn read_count(reader: &mut Reader<'_>, max: usize) -> Result<usize, DecodeError> {
    let n = reader.count(max, 2, "stamps of a record")?;
    if n == 0 {
        return Err(reader.fail(DecodeErrorKind::NotCanonical("M-17")));
    }
    Ok(n)
}

/// Reads a tag that is present only where it differs from the row stamp's.
fn read_tag(reader: &mut Reader<'_>, present: bool, row_tag: u32) -> Result<u32, DecodeError> {
    if !present {
        return Ok(row_tag);
    }
    let tag = reader.u32()?;
    if tag == row_tag {
        return Err(reader.fail(DecodeErrorKind::NotCanonical("M-17")));
    }
    Ok(tag)
}

/// Writes a stamp as the distance from the row stamp: the fields of one document were mostly written close together.
/// The difference wraps, so that every pair of 64-bit stamps has one.
fn put_near_stamp(out: &mut Vec<u8>, row: Stamp, stamp: Stamp) {
    let distance = stamp.hlc.0.wrapping_sub(row.hlc.0) as i64;
    let other_tag = stamp.tag != row.tag;
    out.push(u8::from(other_tag));
    put_uvarint(out, ((distance << 1) ^ (distance >> 63)) as u64);
    if other_tag {
        out.extend_from_slice(&stamp.tag.to_le_bytes());
    }
}

fn read_near_stamp(reader: &mut Reader<'_>, row: Stamp) -> Result<Stamp, DecodeError> {
    let other_tag = match reader.u8()? {
        0 => false,
        1 => true,
        tag => return Err(reader.fail(DecodeErrorKind::BadTag(tag))),
    };
    let zigzag = reader.uvarint()?;
    let distance = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
    let tag = read_tag(reader, other_tag, row.tag)?;
    let stamp = Stamp { hlc: Hlc(row.hlc.0.wrapping_add(distance as u64)), tag };
    Ok(stamp)
}
