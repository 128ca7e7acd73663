//! Validation of untrusted values: one pass, iterative, over a stack of fixed size.
//!
//! Nothing here recurses, and nothing allocates for values without containers. A container's key table is indexed
//! first, which takes memory in proportion to the table's own bytes.

use super::scalar::{TAG_ARRAY, TAG_MAP, check_scalar, is_plain};
use super::sequence::Sequence;
use super::table::TableIndex;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::{DEPTH_MAX, FIELD_BYTES_MAX, ROW_BYTES_MAX};
use crate::reader::Reader;

/// Checks a row body of `count` fields from outside: structure, canonical form, limits, UTF-8 (spec: V-23).
///
/// Offsets of errors count from the start of the body. For rows without containers it allocates nothing.
pub fn validate_body(count: usize, body: &[u8]) -> Result<(), DecodeError> {
    validate_body_at(count, body, 0)
}

/// Checks a row body that starts at offset `at` of something larger.
pub(crate) fn validate_body_at(count: usize, body: &[u8], at: usize) -> Result<(), DecodeError> {
    // spec: L-4
    if body.len() > ROW_BYTES_MAX {
        let kind = DecodeErrorKind::Limit { what: "row bytes", given: body.len() as u64, max: ROW_BYTES_MAX as u64 };
        return Err(DecodeError::new(at, kind));
    }
    let items = Sequence::split(count, body, at)?;
    match items.width() {
        1 => validate_items::<1>(&items),
        2 => validate_items::<2>(&items),
        _ => validate_items::<4>(&items),
    }
}

#[inline]
fn validate_items<const W: usize>(items: &Sequence<'_>) -> Result<(), DecodeError> {
    for item in items.walk::<W>() {
        let Some(payload) = item.payload else { return Err(items.out_of_order(item.index)) };
        if !is_plain(item.tag, payload) && !is_plain_list(item.tag, payload) {
            validate_other(item.tag, payload, items.heap_at() + item.start)?;
        }
    }
    Ok(())
}

/// Checks the value of one top-level field from outside; offsets of errors count from the start of the payload.
pub fn validate_value(tag: u8, payload: &[u8]) -> Result<(), DecodeError> {
    // spec: L-5
    if payload.len() > FIELD_BYTES_MAX {
        let kind =
            DecodeErrorKind::Limit { what: "field bytes", given: payload.len() as u64, max: FIELD_BYTES_MAX as u64 };
        return Err(DecodeError::new(0, kind));
    }
    if is_plain_list(tag, payload) { Ok(()) } else { validate_other(tag, payload, 0) }
}

/// Checks a value of any kind.
#[inline(never)]
fn validate_other(tag: u8, payload: &[u8], at: usize) -> Result<(), DecodeError> {
    match check_scalar(tag, payload) {
        Ok(true) => Ok(()),
        Ok(false) => validate_tree(tag, payload, at),
        Err(error) => Err(error.shifted(at)),
    }
}

/// Whether this is a valid list of scalars, without keys and shapes: that needs no stack. Where it is not, the walk says
/// what it is instead, or what is wrong.
#[inline(always)]
fn is_plain_list(tag: u8, payload: &[u8]) -> bool {
    match (tag, payload) {
        (TAG_ARRAY, [0, 0, node @ ..]) => are_scalars(node),
        _ => false,
    }
}

/// A function of its own, as few lists have no scalars alone and few rows have no lists.
#[inline(never)]
fn are_scalars(node: &[u8]) -> bool {
    let Some(items) = Sequence::of_array(node) else { return false };
    match items.width() {
        1 => all_scalars::<1>(&items),
        2 => all_scalars::<2>(&items),
        _ => all_scalars::<4>(&items),
    }
}

#[inline(always)]
fn all_scalars<const W: usize>(items: &Sequence<'_>) -> bool {
    items.walk::<W>().all(|item| {
        item.payload.is_some_and(|payload| is_plain(item.tag, payload) || is_other_scalar(item.tag, payload))
    })
}

#[inline(never)]
fn is_other_scalar(tag: u8, payload: &[u8]) -> bool {
    matches!(check_scalar(tag, payload), Ok(true))
}

/// A container that is being walked.
#[derive(Clone, Copy, Default)]
struct Level<'a> {
    items: Sequence<'a>,
    /// The next item.
    next: usize,
    /// Where it starts in the heap.
    start: usize,
}

fn validate_tree(tag: u8, payload: &[u8], at: usize) -> Result<(), DecodeError> {
    let mut reader = Reader::with_offset(payload, at);
    let table = TableIndex::read(&mut reader)?;
    let mut shapes_used = 0;
    let mut stack = [Level::default(); DEPTH_MAX];
    stack[0] = open_node(tag, reader, &table, &mut shapes_used)?;
    let mut depth = 1usize;
    // Depth first and in order: containers are met in pre-order.
    while let Some(level) = depth.checked_sub(1).and_then(|top| stack.get_mut(top)) {
        if level.next == level.items.len() {
            depth -= 1;
            continue;
        }
        let (tag, payload, end) = level.items.checked_item(level.next, level.start)?;
        let at = level.items.heap_at() + level.start;
        level.next += 1;
        level.start = end;
        match check_scalar(tag, payload) {
            Ok(true) => {}
            Ok(false) => match stack.get_mut(depth) {
                Some(slot) => {
                    *slot = open_node(tag, Reader::with_offset(payload, at), &table, &mut shapes_used)?;
                    depth += 1;
                }
                // spec: V-21, L-1
                None => return Err(DecodeError::new(at, DecodeErrorKind::TooDeep)),
            },
            Err(error) => return Err(error.shifted(at)),
        }
    }
    // spec: V-20
    if shapes_used != table.shape_count() {
        return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("V-20")));
    }
    Ok(())
}

/// Reads the head of a node and splits its sequence.
fn open_node<'a>(
    tag: u8,
    mut reader: Reader<'a>,
    table: &TableIndex<'_>,
    shapes_used: &mut usize,
) -> Result<Level<'a>, DecodeError> {
    debug_assert!(tag == TAG_ARRAY || tag == TAG_MAP, "scalars have no node");
    let at = reader.offset();
    let count = if tag == TAG_ARRAY {
        reader.count(FIELD_BYTES_MAX, 1, "array items")?
    } else {
        let given = reader.uvarint()?;
        let index = usize::try_from(given).unwrap_or(usize::MAX);
        let Some(places) = table.shape(index) else {
            let max = (table.shape_count() as u64).saturating_sub(1);
            return Err(DecodeError::new(at, DecodeErrorKind::OutOfRange { what: "shape index", given, max }));
        };
        // spec: V-20
        if index > *shapes_used {
            return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("V-20")));
        }
        *shapes_used += usize::from(index == *shapes_used);
        places.len()
    };
    let at = reader.offset();
    Ok(Level { items: Sequence::split(count, reader.rest(), at)?, next: 0, start: 0 })
}
