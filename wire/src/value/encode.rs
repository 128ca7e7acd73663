//! Encoding of values: sizes are not computed beforehand, widths are patched in when a sequence is closed.

use super::scalar::{TAG_ARRAY, TAG_MAP, check_size, encode_scalar};
use super::sequence::{close_sequence, open_sequence};
use super::{Document, Value};
use crate::error::EncodeError;
use crate::limits::{DEPTH_MAX, FIELDS_MAX, NAME_BYTES_MAX, TABLE_KEYS_MAX, TABLE_SHAPES_MAX};
use crate::writer::{put_prefixed, put_uvarint};
use std::collections::BTreeMap;

/// Appends the payload of a top-level field's value and returns its tag.
///
/// After an error `heap` is as it was.
pub fn encode_value(value: &Value, heap: &mut Vec<u8>) -> Result<u8, EncodeError> {
    let start = heap.len();
    Encoder::default().field(value, heap).inspect_err(|_| heap.truncate(start))
}

/// What encoding needs besides the output; kept between the fields of a row.
#[derive(Default)]
pub(crate) struct Encoder<'v> {
    /// Ends of the items of all sequences that are open, innermost last.
    ends: Vec<u32>,
    table: Table<'v>,
    /// The next map of the present field, in pre-order.
    next_map: usize,
}

type Each<'v> = fn(&mut Encoder<'v>, &'v Value, &mut Vec<u8>) -> Result<u8, EncodeError>;

impl<'v> Encoder<'v> {
    /// Appends a row body.
    pub(crate) fn row(&mut self, document: &'v Document, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.sequence(document.iter().map(|field| field.1), out, Self::field)
    }

    /// Appends the payload of a top-level value; returns its tag.
    fn field(&mut self, value: &'v Value, out: &mut Vec<u8>) -> Result<u8, EncodeError> {
        if let Some(tag) = encode_scalar(value, out)? {
            return Ok(tag);
        }
        let start = out.len();
        self.table = Table::default();
        self.table.collect(value, 1)?;
        self.next_map = 0;
        self.table.encode(out);
        let tag = self.item(value, out)?;
        check_size(out.len() - start)?;
        Ok(tag)
    }

    /// Appends the payload of a nested value; returns its tag. `Table::collect` has bounded the depth.
    fn item(&mut self, value: &'v Value, out: &mut Vec<u8>) -> Result<u8, EncodeError> {
        match value {
            Value::Array(items) => {
                put_uvarint(out, items.len() as u64);
                self.sequence(items.iter(), out, Self::item)?;
                Ok(TAG_ARRAY)
            }
            Value::Map(document) => {
                let shape = self.table.shape_of_map.get(self.next_map).copied();
                put_uvarint(out, shape.expect("every map was collected, in the same order").into());
                self.next_map += 1;
                self.sequence(document.iter().map(|field| field.1), out, Self::item)?;
                Ok(TAG_MAP)
            }
            scalar => Ok(encode_scalar(scalar, out)?.expect("containers are matched above")),
        }
    }

    fn sequence(
        &mut self,
        items: impl ExactSizeIterator<Item = &'v Value>,
        out: &mut Vec<u8>,
        each: Each<'v>,
    ) -> Result<(), EncodeError> {
        let outer = self.ends.len();
        let (tags_at, heap_at) = open_sequence(items.len(), out);
        for (index, item) in items.enumerate() {
            let tag = each(self, item, out)?;
            out[tags_at + index] = tag;
            // Each item is checked against 1 MiB, so that 4,096 fields stay below 4 GiB; a longer array is refused
            // here as too large before its ends could wrap.
            let end = u32::try_from(out.len() - heap_at).map_err(|_| EncodeError::Limit {
                what: "field bytes",
                given: (out.len() - heap_at) as u64,
                max: u32::MAX.into(),
            })?;
            self.ends.push(end);
        }
        close_sequence(out, heap_at, &self.ends[outer..]);
        self.ends.truncate(outer);
        Ok(())
    }
}

/// The key table of one top-level value, in the making.
#[derive(Default)]
struct Table<'v> {
    keys: Vec<&'v str>,
    key_places: BTreeMap<&'v str, u32>,
    shapes: Vec<Vec<u32>>,
    shape_places: BTreeMap<Vec<u32>, u32>,
    /// The shape of each map, in pre-order.
    shape_of_map: Vec<u32>,
    /// The map that was met last: neighbours mostly look alike.
    last: Option<&'v Document>,
}

impl<'v> Table<'v> {
    /// Collects keys and shapes in order of first use, in pre-order (spec: V-17, V-20); recurses to the depth limit.
    fn collect(&mut self, value: &'v Value, depth: usize) -> Result<(), EncodeError> {
        match value {
            Value::Array(items) => {
                if depth > DEPTH_MAX {
                    return Err(EncodeError::TooDeep);
                }
                items.iter().try_for_each(|item| self.collect(item, depth + 1))
            }
            Value::Map(document) => {
                if depth > DEPTH_MAX {
                    return Err(EncodeError::TooDeep);
                }
                let shape = self.shape_of(document)?;
                self.shape_of_map.push(shape);
                self.last = Some(document);
                document.iter().try_for_each(|field| self.collect(field.1, depth + 1))
            }
            _ => Ok(()),
        }
    }

    fn shape_of(&mut self, document: &'v Document) -> Result<u32, EncodeError> {
        if let (Some(last), Some(&shape)) = (self.last, self.shape_of_map.last())
            && last.len() == document.len()
            && last.keys().eq(document.keys())
        {
            return Ok(shape);
        }
        check_limit("fields", document.len(), FIELDS_MAX)?;
        let mut places = Vec::with_capacity(document.len());
        for name in document.keys() {
            check_limit("key bytes", name.len(), NAME_BYTES_MAX)?;
            let next = self.keys.len();
            let place = *self.key_places.entry(name).or_insert(next as u32);
            if place as usize == next {
                check_limit("keys in a table", next + 1, TABLE_KEYS_MAX)?;
                self.keys.push(name);
            }
            places.push(place);
        }
        if let Some(&shape) = self.shape_places.get(&places) {
            return Ok(shape);
        }
        let shape = self.shapes.len();
        check_limit("shapes in a table", shape + 1, TABLE_SHAPES_MAX)?;
        self.shapes.push(places.clone());
        self.shape_places.insert(places, shape as u32);
        Ok(shape as u32)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_uvarint(out, self.keys.len() as u64);
        for key in &self.keys {
            put_prefixed(out, key.as_bytes());
        }
        put_uvarint(out, self.shapes.len() as u64);
        for places in &self.shapes {
            put_uvarint(out, places.len() as u64);
            for &place in places {
                put_uvarint(out, place.into());
            }
        }
    }
}

/// Refuses `given` above `max`.
pub(crate) const fn check_limit(what: &'static str, given: usize, max: usize) -> Result<(), EncodeError> {
    if given > max {
        return Err(EncodeError::Limit { what, given: given as u64, max: max as u64 });
    }
    Ok(())
}
