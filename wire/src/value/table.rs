//! The key table at the head of a container value: keys, and shapes as lists of keys.
//!
//! `Table` borrows and scans, for reading one thing without an allocation. `TableIndex` reads everything once, with
//! all its rules checked, for validating and for owning.

use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::{FIELDS_MAX, NAME_BYTES_MAX, TABLE_KEYS_MAX, TABLE_SHAPES_MAX};
use crate::reader::Reader;
use crate::small::{Small, first_repeat};

/// A key table, scanned anew for every question.
#[derive(Clone, Copy, Default)]
pub(crate) struct Table<'a> {
    /// The whole table.
    raw: &'a [u8],
    /// The keys, each with its length.
    keys: &'a [u8],
    /// The shapes, each with its count.
    shapes: &'a [u8],
    key_count: usize,
    shape_count: usize,
}

impl<'a> Table<'a> {
    /// Splits a container payload into its table and its node, without checking the rules of the table.
    pub(crate) fn split(payload: &'a [u8]) -> Result<(Self, &'a [u8]), DecodeError> {
        let mut reader = Reader::new(payload);
        let key_count = reader.count(TABLE_KEYS_MAX, 1, "keys in a table")?;
        let keys_at = reader.offset();
        for _ in 0..key_count {
            reader.bytes_prefixed(NAME_BYTES_MAX, "key bytes")?;
        }
        let keys_end = reader.offset();
        let shape_count = reader.count(TABLE_SHAPES_MAX, 1, "shapes in a table")?;
        let shapes_at = reader.offset();
        for _ in 0..shape_count {
            for _ in 0..reader.count(FIELDS_MAX, 1, "fields")? {
                reader.uvarint()?;
            }
        }
        let end = reader.offset();
        let part = |from: usize, to: usize| payload.get(from..to).unwrap_or_default();
        let table = Self {
            raw: part(0, end),
            keys: part(keys_at, keys_end),
            shapes: part(shapes_at, end),
            key_count,
            shape_count,
        };
        Ok((table, reader.rest()))
    }

    /// Iterates over the keys in the order of the table.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader::new(self.keys);
        (0..self.key_count).map_while(move |_| reader.str_prefixed(NAME_BYTES_MAX, "key bytes").ok())
    }

    /// Returns the place of a key.
    pub(crate) fn find_key(&self, name: &str) -> Option<u64> {
        let mut reader = Reader::new(self.keys);
        (0..self.key_count as u64)
            .find(|_| reader.bytes_prefixed(NAME_BYTES_MAX, "key bytes").is_ok_and(|key| key == name.as_bytes()))
    }

    /// Returns the number of fields of a shape, and where it says that in the table, the places of its keys behind it.
    pub(crate) fn shape(&self, index: u64) -> Option<(u64, usize)> {
        if index >= self.shape_count as u64 {
            return None;
        }
        let mut reader = Reader::with_offset(self.shapes, self.raw.len() - self.shapes.len());
        for _ in 0..index {
            for _ in 0..reader.uvarint().ok()? {
                reader.uvarint().ok()?;
            }
        }
        let at = reader.offset();
        Some((reader.uvarint().ok()?, at))
    }

    /// Returns the bytes of the table.
    pub(crate) const fn raw(&self) -> &'a [u8] {
        self.raw
    }
}

/// A key table with every key and every shape at hand.
#[derive(Default)]
pub(crate) struct TableIndex<'a> {
    keys: Small<&'a str, 16>,
    /// The lists of all shapes, one after another.
    places: Small<u32, 32>,
    /// Where each shape's list lies in `places`: start, end.
    shapes: Small<(u32, u32), 4>,
}

impl<'a> TableIndex<'a> {
    /// Reads a table and checks it; that every shape is used is for the walk over the nodes to see.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut index = Self::default();
        let keys_at = reader.offset();
        let key_count = reader.count(TABLE_KEYS_MAX, 1, "keys in a table")?;
        for _ in 0..key_count {
            index.keys.push(reader.str_prefixed(NAME_BYTES_MAX, "key bytes")?);
        }
        let shapes_at = reader.offset();
        let shape_count = reader.count(TABLE_SHAPES_MAX, 1, "shapes in a table")?;
        // Keys used so far: they are numbered in order of first use.
        let mut used = 0;
        let mut places = 0;
        for _ in 0..shape_count {
            let start = places;
            let mut previous: Option<&str> = None;
            for _ in 0..reader.count(FIELDS_MAX, 1, "fields")? {
                let at = reader.offset();
                let place = reader.uvarint()?;
                let Some(key) = usize::try_from(place).ok().and_then(|i| index.keys.as_slice().get(i)) else {
                    let max = (key_count as u64).saturating_sub(1);
                    return Err(DecodeError::new(
                        at,
                        DecodeErrorKind::OutOfRange { what: "key index", given: place, max },
                    ));
                };
                // spec: V-17
                if place > used {
                    return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("V-17")));
                }
                used += u64::from(place == used);
                // spec: V-18
                if previous.is_some_and(|previous| previous >= *key) {
                    return Err(DecodeError::new(at, DecodeErrorKind::Order("V-18")));
                }
                previous = Some(key);
                index.places.push(place as u32);
                places += 1;
            }
            index.shapes.push((start, places));
        }
        // spec: V-17
        if used != key_count as u64 {
            return Err(DecodeError::new(keys_at, DecodeErrorKind::NotCanonical("V-17")));
        }
        // One shape that ascends and uses every key has no key twice.
        if shape_count > 1 {
            // spec: V-16
            if first_repeat(index.keys.as_slice()).is_some() {
                return Err(DecodeError::new(keys_at, DecodeErrorKind::NotCanonical("V-16")));
            }
            let mut lists = Small::<&[u32], 8>::new();
            for shape in 0..shape_count {
                lists.push(index.shape(shape).unwrap_or_default());
            }
            // spec: V-19
            if first_repeat(lists.as_slice()).is_some() {
                return Err(DecodeError::new(shapes_at, DecodeErrorKind::NotCanonical("V-19")));
            }
        }
        Ok(index)
    }

    /// Returns the number of shapes.
    pub(crate) fn shape_count(&self) -> usize {
        self.shapes.as_slice().len()
    }

    /// Returns the places of the keys of a shape.
    pub(crate) fn shape(&self, index: usize) -> Option<&[u32]> {
        let (start, end) = *self.shapes.as_slice().get(index)?;
        self.places.as_slice().get(start as usize..end as usize)
    }

    /// Returns the key at a place.
    pub(crate) fn key(&self, place: u32) -> Option<&'a str> {
        self.keys.as_slice().get(place as usize).copied()
    }
}
