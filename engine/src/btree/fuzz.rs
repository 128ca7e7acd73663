//! One page, read in every way there is, and built again from what was read.

use std::ops::Bound;

use super::build::Builder;
use super::node::{Branch, CHILD_BYTES, CellValue, Leaf, NODE_HEADER_BYTES, PAGE_NO_MAX, Rule, STORED_BYTES};
use super::value::parse_index;
use super::{TreeCursor, TreeRoot, ValueRef, check, get, is_inline, read_value};
use crate::limits::STORED_VALUE_BYTES_MAX;
use crate::pager::{PageKind, PageRead, PageRef};
use crate::superblock::u64_at;

/// Reads of values that a hostile page may ask for: enough to see a wrong one, and soon done.
const VALUE_BYTES_READ_MAX: usize = 64 << 10;

/// Takes the body of a page that stands for every page of a file; what holds then is said at `testing::fuzz_page`.
pub(crate) fn fuzz_node<P: PageRead>(pages: &P, body: &[u8]) {
    let at = PageRef { no: 99, proof: 1 };
    let level = body[0] % (super::HEIGHT_MAX - 1);
    let root = TreeRoot { page: Some(at), height: level + 1, entries: 1 };

    // Walks and look-ups, whatever the page says: no panic, and an end.
    let mut cursor = TreeCursor::new(root);
    let mut walked = cursor.seek(pages, Bound::Unbounded);
    let (mut last, mut steps) = (None::<Vec<u8>>, 0);
    while let (Ok(()), Some((key, value))) = (&walked, cursor.entry()) {
        // Within a leaf a walk trusts the order, which `check` proves; it ends, whatever the order is.
        steps += 1;
        assert!(steps <= body.len(), "a walk ends");
        last = Some(key.to_vec());
        if let CellValue::Stored(at) = value {
            fuzz_value(pages, &at);
        }
        walked = cursor.next(pages);
    }
    let mut cursor = TreeCursor::new(root);
    let mut walked = cursor.seek_back(pages, Bound::Unbounded);
    while let (Ok(()), Some(_)) = (&walked, cursor.entry()) {
        walked = cursor.prev(pages);
    }
    let probe = &body[NODE_HEADER_BYTES..][..24];
    for key in [&[][..], &[0xff; 30], &probe[..4], probe, last.as_deref().unwrap_or_default()] {
        let _ = get(pages, &root, key);
        let _ = cursor.seek(pages, Bound::Excluded(key));
    }

    let count = usize::from(u16::from_le_bytes([body[2], body[3]]));
    if let Ok(children) = parse_index(body, level, count) {
        assert_eq!(children.len(), count);
        let children = children.iter().flat_map(|&child| super::node::encode_child(child));
        let written: Vec<u8> = body[..NODE_HEADER_BYTES].iter().copied().chain(children).collect();
        assert_is(body, &written, "a value's index is written in one way");
    }
    if level == 0 {
        let is_sound = check(pages, &TreeRoot { entries: count as u64, ..root }, &mut |_| {}).is_ok();
        match leaf_again(body) {
            Ok(written) => assert_is(body, &written, "a leaf is written in one way"),
            Err(rule) => assert!(!is_sound, "{rule}"),
        }
    } else if let Ok(written) = branch_again(body, level) {
        assert_is(body, &written, "a branch is written in one way");
    }
}

fn assert_is(body: &[u8], written: &[u8], rule: &str) {
    let (used, rest) = body.split_at(written.len());
    assert!(used == written && rest.iter().all(|&byte| byte == 0), "{rule}");
}

/// Builds a leaf from its own entries; an error where it breaks a rule that `check` looks at.
fn leaf_again(body: &[u8]) -> Result<Vec<u8>, Rule> {
    let leaf = Leaf::parse(body)?;
    leaf.check_form(body)?;
    let mut builder = Builder::new(0, body.len(), body.len());
    for i in 0..leaf.len() {
        let cell = leaf.cell(i)?;
        let key = leaf.key(i)?;
        if matches!(leaf.value(&cell)?, CellValue::Inline(bytes) if !is_inline(body.len(), key.len(), bytes.len())) {
            return Err("a long value lies in pages of its own");
        }
        assert_eq!(leaf.rank(&key), Ok((i, true)), "every key of a sound leaf is found");
        builder.push([leaf.prefix(), leaf.suffix(&cell)], leaf.raw_value(&cell), cell.stored)?;
    }
    let mut written = Vec::new();
    builder.encode(leaf.len(), &mut written);
    Ok(written)
}

/// Builds a branch from its own children.
fn branch_again(body: &[u8], level: u8) -> Result<Vec<u8>, Rule> {
    let branch = Branch::parse(body, level)?;
    branch.check_form(body)?;
    let mut builder = Builder::new(level, body.len(), body.len());
    builder.push([&[], &[]], branch.raw_child(0), false)?;
    for i in 1..branch.len() {
        let separator = branch.separator(i - 1)?;
        assert_eq!(branch.child_of(&separator), Ok(i), "a separator is the lower bound of the child behind it");
        assert_eq!(branch.raw_child(i).len(), CHILD_BYTES);
        builder.push([&separator, &[]], branch.raw_child(i), false)?;
    }
    let mut written = Vec::new();
    builder.encode(branch.len(), &mut written);
    Ok(written)
}

/// Reads the beginning and the end of a stored value.
pub(crate) fn fuzz_value<P: PageRead>(pages: &P, at: &ValueRef) {
    assert!((1..=STORED_VALUE_BYTES_MAX).contains(&at.len), "a value's length is checked where it is read");
    let mut out = vec![0; VALUE_BYTES_READ_MAX.min(at.len as usize)];
    let _ = read_value(pages, at, 0, &mut out);
    let _ = read_value(pages, at, at.len - out.len() as u64, &mut out);
}

/// A page that another one names.
pub(crate) struct Reference {
    pub(crate) no: u64,
    pub(crate) kind: PageKind,
    /// Where in the body its proof stands.
    pub(crate) proof_at: usize,
}

/// Returns the pages that a body names, as far as it can be read.
pub(crate) fn fuzz_references(body: &[u8], kind: PageKind) -> Vec<Reference> {
    let at = |offset: usize| u64_at(body, offset);
    let child = |kind, offset: usize| Reference { no: at(offset) & PAGE_NO_MAX, kind, proof_at: offset + 6 };
    let entry = |kind, offset: usize| Reference { no: at(offset), kind, proof_at: offset + 8 };
    let count = usize::from(u16::from_le_bytes([body[2], body[3]]));
    let fits = |first: usize, each: usize, count: usize| {
        (0..count.min((body.len() - first) / each)).map(move |i| first + i * each)
    };
    match kind {
        PageKind::Leaf => {
            let Ok(leaf) = Leaf::parse(body) else { return Vec::new() };
            let stored = (0..leaf.len()).filter_map(|i| leaf.cell(i).ok()).filter(|cell| cell.stored);
            let whole = stored.filter(|cell| cell.end - cell.value == STORED_BYTES);
            let value = |cell: super::node::Cell| {
                child(if body[cell.value + 8] == 1 { PageKind::Value } else { PageKind::ValueIndex }, cell.value + 9)
            };
            whole.map(value).collect()
        }
        PageKind::Branch => {
            let below = if body[0] == 1 { PageKind::Leaf } else { PageKind::Branch };
            let first = NODE_HEADER_BYTES + count.saturating_sub(1) * 6;
            if first > body.len() {
                return Vec::new();
            }
            fits(first, CHILD_BYTES, count).map(|offset| child(below, offset)).collect()
        }
        PageKind::ValueIndex => {
            let below = if body[0] == 1 { PageKind::Value } else { PageKind::ValueIndex };
            fits(NODE_HEADER_BYTES, CHILD_BYTES, count).map(|offset| child(below, offset)).collect()
        }
        PageKind::SpaceIndex => {
            let next = (at(16) != 0).then(|| entry(PageKind::SpaceIndex, 16));
            let chunks = fits(32, 16, at(8) as u32 as usize).map(|offset| entry(PageKind::Space, offset));
            next.into_iter().chain(chunks).collect()
        }
        PageKind::Value | PageKind::Space => Vec::new(),
    }
}

/// Returns the values that stand in a leaf, and where, as far as it can be read.
pub(crate) fn fuzz_inline_values(body: &[u8]) -> Vec<(usize, &[u8])> {
    let Ok(leaf) = Leaf::parse(body) else { return Vec::new() };
    let inline = (0..leaf.len()).filter_map(|i| leaf.cell(i).ok()).filter(|cell| !cell.stored);
    inline.map(|cell| (cell.value, leaf.raw_value(&cell))).collect()
}
