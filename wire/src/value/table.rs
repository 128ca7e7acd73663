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
    /// Where the shapes begin, each with its count.
    shapes_at: usize,
    shape_count: usize,
}

impl<'a> Table<'a> {
    /// Splits a container payload into its table and its node, without checking the rules of the table.
    pub(crate) fn split(payload: &'a [u8]) -> Result<(Self, &'a [u8]), DecodeError> {
        let mut reader = Reader::new(payload);
        let key_count = reader.count(TABLE_KEYS_MAX, 1, "keys in a table")?;
        for _ in 0..key_count {
            reader.bytes_prefixed(NAME_BYTES_MAX, "key bytes")?;
        }
        let shape_count = reader.count(TABLE_SHAPES_MAX, 1, "shapes in a table")?;
        let shapes_at = reader.offset();
        for _ in 0..shape_count {
            for _ in 0..reader.count(FIELDS_MAX, 1, "fields")? {
                reader.uvarint()?;
            }
        }
        let raw = payload.get(..reader.offset()).unwrap_or_default();
        Ok((Self { raw, shapes_at, shape_count }, reader.rest()))
    }

    /// Returns where the first shape lies in the table.
    pub(crate) const fn shapes_at(&self) -> usize {
        self.shapes_at
    }

    /// Returns the number of shapes.
    pub(crate) const fn shape_count(&self) -> usize {
        self.shape_count
    }

    /// Returns the bytes of the table.
    pub(crate) const fn raw(&self) -> &'a [u8] {
        self.raw
    }
}

/// Returns the number of fields of the shape which is so many behind the one that lies at `from` in a container payload, and
/// where it says that there, the places of its keys behind it.
pub(crate) fn shape_at(payload: &[u8], behind: u32, from: usize) -> Option<(u64, usize)> {
    let mut reader = Reader::with_offset(payload.get(from..)?, from);
    for _ in 0..behind {
        for _ in 0..reader.uvarint().ok()? {
            reader.uvarint().ok()?;
        }
    }
    let at = reader.offset();
    Some((reader.uvarint().ok()?, at))
}

/// The keys of a table, in its order; the bytes are those of a container payload.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Keys<'a> {
    pub(crate) fn of(payload: &'a [u8]) -> Self {
        let mut reader = Reader::new(payload);
        let left = reader.count(TABLE_KEYS_MAX, 1, "keys in a table").unwrap_or_default();
        Self { bytes: reader.rest(), left }
    }

    /// Returns how many are left.
    pub(crate) const fn left(&self) -> usize {
        self.left
    }

    /// Returns how many bytes were taken since these keys were those.
    pub(crate) const fn bytes_since(&self, before: &Self) -> usize {
        before.bytes.len() - self.bytes.len()
    }

    /// Returns the keys behind the first `keys`, which take so many bytes.
    pub(crate) fn skipped(&self, bytes: usize, keys: usize) -> Self {
        Self { bytes: self.bytes.get(bytes..).unwrap_or_default(), left: self.left.saturating_sub(keys) }
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.bytes);
        let key = reader.str_prefixed(NAME_BYTES_MAX, "key bytes").ok()?;
        self.bytes = reader.rest();
        Some(key)
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
