//! Values, shapes and rows.

use super::{Step, Walk, name, shortened};
use crate::error::DecodeErrorKind;
use crate::json::write_rfc3339;
use crate::limits::DEPTH_MAX;
use crate::value::scalar::{TAG_ARRAY, TAG_MAP, decode_scalar};
use crate::{DecodeError, ValueRef};

/// The keys and shapes of a container, as far as they make sense.
#[derive(Default)]
pub(super) struct Table<'a> {
    keys: Vec<&'a [u8]>,
    /// Where the places of each shape are in `places`.
    shapes: Vec<(usize, usize)>,
    places: Vec<u64>,
}

impl<'a> Table<'a> {
    fn shape(&self, index: u64) -> Option<&[u64]> {
        let (start, end) = *self.shapes.get(usize::try_from(index).ok()?)?;
        self.places.get(start..end)
    }

    fn key(&self, place: u64) -> &'a [u8] {
        usize::try_from(place).ok().and_then(|place| self.keys.get(place).copied()).unwrap_or(b"?")
    }
}

/// What a tag says.
pub(super) fn tag_meaning(tag: u8) -> String {
    let info = tag & 15;
    match (tag >> 4, info) {
        (0, 0) => "null".to_owned(),
        (0, 1) => "false".to_owned(),
        (0, 2) => "true".to_owned(),
        (1, _) => format!("integer {}", (info << 4) as i8 >> 4),
        (2, 1..=8) => format!("integer of {info} bytes"),
        (3, 8) => "integer of 8 bytes, unsigned".to_owned(),
        (4, 0) => "float 0.0".to_owned(),
        (4, 4 | 8) => format!("float of {} bits", 8 * u32::from(info)),
        (5, 15) => "decimal, a byte says its places".to_owned(),
        (5, places) => format!("decimal of {places} places"),
        (6, 0..=8) => format!("timestamp of {info} bytes"),
        (7, 0) => "UUID".to_owned(),
        (8, 0) => "text".to_owned(),
        (9, 0) => "bytes".to_owned(),
        (10, 0) => "array".to_owned(),
        (11, 0) => "map".to_owned(),
        (12, 4 | 8) => format!("vector of floats of {} bits", 8 * u32::from(info)),
        (13 | 14, _) => format!("tag {tag:02x}, reserved (V-6)"),
        _ => format!("no tag: {tag:02x} (V-5)"),
    }
}

/// What a value that is no container says, or why it is none.
fn scalar_meaning(tag: u8, payload: &[u8]) -> String {
    match decode_scalar(tag, payload) {
        Ok(Some(ValueRef::Timestamp(timestamp))) => {
            let mut text = Vec::new();
            write_rfc3339(timestamp.0, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
        Ok(Some(value)) => shortened(value.to_string()),
        Ok(None) => String::new(),
        Err(error) => format!("refused: {error}"),
    }
}

impl<'a> Walk<'a, '_> {
    /// A shape; returns its names.
    pub(super) fn shape(&mut self, what: &str) -> Step<Vec<&'a [u8]>> {
        let count = self.count(&format!("names in the {what}"))?;
        self.depth += 1;
        let mut names = Vec::new();
        for index in 0..count {
            names.push(self.prefixed(|bytes| format!("name {index}: {}", name(bytes)))?);
        }
        self.depth -= 1;
        Ok(names)
    }

    /// The body of a row, to the end.
    pub(super) fn row(&mut self, names: &[&'a [u8]]) -> Step {
        let label = |index: usize| names.get(index).map_or_else(String::new, |bytes| name(bytes));
        self.sequence(names.len(), &label, None, 1)
    }

    /// A sequence of `count` items, to the end.
    fn sequence(
        &mut self,
        count: usize,
        label: &dyn Fn(usize) -> String,
        table: Option<&Table<'a>>,
        depth: usize,
    ) -> Step {
        if count == 0 {
            return Ok(());
        }
        let width = self.take(1, |bytes| format!("width of ends: {}", bytes.first().copied().unwrap_or_default()))?;
        let width = usize::from(width.first().copied().unwrap_or_default());
        if !matches!(width, 1 | 2 | 4) {
            return Err(self.reader.fail(DecodeErrorKind::NotCanonical("V-14")));
        }
        let mut tags = Vec::new();
        for index in 0..count {
            let meaning = |bytes: &[u8]| tag_meaning(bytes.first().copied().unwrap_or_default());
            tags.extend_from_slice(self.take(1, |bytes| format!("tag of {}: {}", label(index), meaning(bytes)))?);
        }
        let mut ends = Vec::new();
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0usize, |n, &byte| n << 8 | usize::from(byte));
        for index in 0..count - 1 {
            let end = self.take(width, |bytes| format!("{} ends at {} of the heap", label(index), number(bytes)))?;
            ends.push(number(end));
        }
        // The last item goes to the end.
        ends.push(self.reader.left());
        let mut start = 0;
        for (index, (&tag, &end)) in tags.iter().zip(&ends).enumerate() {
            let Some(len) = end.checked_sub(start) else {
                return Err(self.reader.fail(DecodeErrorKind::Order("V-15")));
            };
            if len > 0 {
                self.within(len, |walk| walk.payload(tag, &label(index), table, depth))?;
            }
            start = end;
        }
        Ok(())
    }

    /// The payload of a value, to the end; `table` is that of the container around it.
    pub(super) fn payload(&mut self, tag: u8, label: &str, table: Option<&Table<'a>>, depth: usize) -> Step {
        if !matches!(tag, TAG_ARRAY | TAG_MAP) {
            let left = self.reader.left();
            self.take(left, |bytes| format!("{label} = {}", scalar_meaning(tag, bytes)))?;
            return Ok(());
        }
        // spec: V-21
        if depth > DEPTH_MAX {
            return Err(self.reader.fail(DecodeErrorKind::TooDeep));
        }
        // Else names in names in names would be written out for every item.
        let label = &shortened(label.to_owned());
        let own;
        let table = match table {
            Some(table) => table,
            None => {
                own = self.table(label)?;
                &own
            }
        };
        if tag == TAG_ARRAY {
            let count = self.count(&format!("items of {label}"))?;
            return self.sequence(count, &|index| format!("{label}[{index}]"), Some(table), depth + 1);
        }
        let shape = self.uvarint(|n| format!("{label} has shape {n}"))?;
        let Some(places) = table.shape(shape) else {
            let max = (table.shapes.len() as u64).saturating_sub(1);
            let kind = DecodeErrorKind::OutOfRange { what: "shape index", given: shape, max };
            return Err(DecodeError::new(self.reader.offset(), kind));
        };
        let key = |index: usize| table.key(places.get(index).copied().unwrap_or(u64::MAX));
        self.sequence(places.len(), &|index| format!("{label}.{}", name(key(index))), Some(table), depth + 1)
    }

    /// The key table of a top-level container.
    fn table(&mut self, label: &str) -> Step<Table<'a>> {
        let mut table = Table::default();
        for index in 0..self.count(&format!("keys in {label}"))? {
            table.keys.push(self.prefixed(|bytes| format!("key {index}: {}", name(bytes)))?);
        }
        for index in 0..self.count(&format!("shapes in {label}"))? {
            let start = table.places.len();
            let count = self.count(&format!("keys of shape {index}"))?;
            for _ in 0..count {
                let place = self.uvarint(|n| format!("key {n}: {}", name(table.key(n))))?;
                table.places.push(place);
            }
            table.shapes.push((start, table.places.len()));
        }
        Ok(table)
    }
}
