//! Pages whose seal holds and whose content does not: errors, or other answers, but never a panic nor a walk without
//! end.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::super::node::encode_child;
use super::super::{
    CellValue, Packing, Place, TreeCursor, TreeRoot, apply, check, get, pack, read_value, rewrite, value_pages,
};
use super::store::VecPages;
use super::{Change, Rng, Stream, apply_checked};
use crate::pager::{PageKind, PageRead, PageWrite};

fn row(i: u64) -> Vec<u8> {
    format!("collection/row/{i:09}").into_bytes()
}

/// A tree of three levels, with values of all kinds.
fn tree() -> (VecPages, TreeRoot) {
    let mut rng = Rng(1);
    let mut pages = VecPages::new(4096);
    let mut changes = BTreeMap::new();
    for i in 0..3_000 {
        let len = if i % 300 == 0 { 4_000 + rng.below(9_000) } else { rng.below(400) };
        changes.insert(row(i), Change::Put(rng.bytes(len as usize)));
        if i % 50 == 0 {
            let mut long = vec![b'x'; 900];
            long.extend_from_slice(&i.to_be_bytes());
            changes.insert(long, Change::Put(rng.bytes(100)));
        }
    }
    changes.insert(b"huge".to_vec(), Change::Put(vec![1; 2 << 20]));
    let root = apply_checked(&mut pages, &TreeRoot::default(), &changes);
    assert_eq!(root.height, 3);
    (pages, root)
}

/// Uses a tree in every way; whether an answer is right is not asked.
fn use_all(pages: &mut VecPages, root: &TreeRoot, rng: &mut Rng) {
    let _ = check(pages, root, &mut |_| {});
    for _ in 0..20 {
        let _ = get(pages, root, &row(rng.below(3_100)));
    }
    for from in [Bound::Unbounded, Bound::Excluded(&row(rng.below(3_000))[..])] {
        let mut cursor = TreeCursor::new(*root);
        let mut steps = 0;
        let mut see = |pages: &VecPages, cursor: &TreeCursor| {
            steps += 1;
            assert!(steps < 200_000, "a walk ends");
            if let Some((_, CellValue::Stored(at))) = cursor.entry() {
                let mut start = [0; 100];
                let len = at.len.min(100) as usize;
                let _ = read_value(pages, &at, at.len - len as u64, &mut start[..len]);
                let _ = value_pages(pages, &at, &mut |_| {});
            }
            cursor.entry().is_some()
        };
        let mut last = cursor.seek(pages, from);
        while last.is_ok() && see(pages, &cursor) {
            last = cursor.next(pages);
        }
        last = cursor.seek_back(pages, from);
        while last.is_ok() && see(pages, &cursor) {
            last = cursor.prev(pages);
        }
    }
    for count in [1, 30, 1_000] {
        let changes: BTreeMap<_, _> = (0..count)
            .map(|_| {
                let delete = rng.one_in(2);
                let change = if delete { Change::Delete } else { Change::Put(rng.bytes(200)) };
                (row(rng.below(3_100)), change)
            })
            .collect();
        let _ = apply(&mut pages.damage(), root, &mut Stream::new(&changes));
    }
    let (from, mut budget) = (row(rng.below(3_000)), 1 + rng.below(200));
    let _ = pack(&mut pages.damage(), root, &from, Packing { gain: 1, fill: 100 }, &mut budget);
    let _ = pack(&mut pages.damage(), root, &[], Packing { gain: 0, fill: 90 }, &mut { u64::MAX });
    let _ = rewrite(&mut pages.damage(), root, &Place::default(), &mut { u64::MAX }, &mut |_, _, _| Ok(true));
}

fn pick(pages: &VecPages, rng: &mut Rng) -> u64 {
    // Branches and index pages are few, and the harm they do is greater.
    let kind = [PageKind::Leaf, PageKind::Branch, PageKind::ValueIndex][rng.below(3) as usize];
    let all: Vec<u64> = pages.live_of(kind).map(|(no, _)| no).collect();
    all[rng.below(all.len() as u64) as usize]
}

/// spec: E-33
#[test]
fn flipped_bits_are_no_panic() {
    let (mut whole, root) = tree();
    let mut rng = Rng(2);
    for _ in 0..150 {
        let mut pages = whole.damage();
        for _ in 0..1 + rng.below(3) {
            let no = pick(&pages, &mut rng);
            for _ in 0..1 + rng.below(4) {
                // Headers and arrays are in front.
                let range = [8, 400, 4_040][rng.below(3) as usize];
                pages.body_mut(no)[rng.below(range) as usize] ^= 1 << rng.below(8);
            }
        }
        use_all(&mut pages, &root, &mut rng);
    }
}

#[test]
fn garbage_is_no_panic() {
    let (mut whole, root) = tree();
    let mut rng = Rng(3);
    for _ in 0..150 {
        let mut pages = whole.damage();
        let no = pick(&pages, &mut rng);
        let body = pages.body_mut(no);
        let from = if rng.one_in(2) { rng.below(8) as usize } else { rng.below(4_000) as usize };
        let small = rng.one_in(2);
        body[from..].iter_mut().for_each(|byte| *byte = if small { rng.below(4) as u8 } else { rng.next() as u8 });
        use_all(&mut pages, &root, &mut rng);
    }
}

/// Pieces of good pages in wrong places: offsets that are valid, of another entry; children of another branch.
#[test]
fn exchanged_pieces_are_no_panic() {
    let (mut whole, root) = tree();
    let mut rng = Rng(4);
    for _ in 0..150 {
        let mut pages = whole.damage();
        for _ in 0..1 + rng.below(4) {
            let (from, to) = (pick(&pages, &mut rng), pick(&pages, &mut rng));
            let source = pages.body_mut(from).to_vec();
            let len = [2, 4, 14, 28, 300][rng.below(5) as usize];
            let (a, b) = (rng.below(700) as usize, rng.below(700) as usize);
            let b = if rng.one_in(2) { a } else { b };
            let target = pages.body_mut(to);
            target[b..b + len].copy_from_slice(&source[a..a + len]);
        }
        use_all(&mut pages, &root, &mut rng);
    }
}

/// Every single bit of a leaf's and a branch's arrays is looked at by the check.
#[test]
fn the_check_sees_every_bit() {
    let (mut whole, root) = tree();
    let no = whole.live_of(PageKind::Branch).map(|(no, _)| no).next().expect("a branch");
    let leaf = whole.live_of(PageKind::Leaf).map(|(no, _)| no).next().expect("a leaf");
    for no in [no, leaf] {
        let count = usize::from(u16::from_le_bytes([whole.body_mut(no)[2], whole.body_mut(no)[3]]));
        for bit in 0..(8 + 6 * (count - 1)) * 8 {
            whole.strict = false;
            whole.body_mut(no)[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&whole, &root, &mut |_| {}).is_err(), "bit {bit} of page {no}");
            whole.body_mut(no)[bit / 8] ^= 1 << (bit % 8);
        }
    }
    assert!(check(&whole, &root, &mut |_| {}).is_ok());
    assert_eq!(whole.body_bytes(), 4_040);
}

/// A branch that names one leaf many times would make a tree without end out of a few pages.
#[test]
fn a_leaf_that_is_named_twice_ends_a_walk() {
    let (mut whole, root) = tree();
    whole.strict = false;
    let branches: Vec<u64> = whole.live_of(PageKind::Branch).map(|(no, _)| no).collect();
    for no in branches {
        let body = whole.body_mut(no);
        let count = usize::from(u16::from_le_bytes([body[2], body[3]]));
        let children = 8 + 6 * (count - 1);
        let first: [u8; 14] = body[children..][..14].try_into().expect("14 bytes");
        (1..count).for_each(|i| body[children + 14 * i..][..14].copy_from_slice(&first));
    }
    assert!(check(&whole, &root, &mut |_| {}).is_err());
    let mut cursor = TreeCursor::new(root);
    cursor.seek(&whole, Bound::Unbounded).expect("the first leaf is in order");
    while cursor.next(&whole).is_ok() {
        assert!(cursor.entry().is_some(), "it ends with an error");
    }
    assert!(cursor.entry().is_none());
}

/// spec: E-33
#[test]
fn a_leaf_out_of_order_that_is_named_over_and_over_ends_a_walk() {
    // One leaf `b, a`, named three times by each of fifteen branches, one above the other: its first key is above its
    // last one, so that each time it seems to go on where the last time ended.
    let leaf_of = |keys: [u8; 2]| {
        let mut body = vec![0, 0, 2, 0, 0, 0, 26, 0];
        keys.iter().for_each(|&key| body.extend_from_slice(&[key, 0, 0, 0]));
        body.extend_from_slice(&[20, 0, 23, 0]);
        keys.iter().for_each(|&key| body.extend_from_slice(&[1, 0, key]));
        body
    };
    for keys in [*b"ba", *b"ab"] {
        let mut pages = VecPages::new(4096);
        let mut below = pages.write(PageKind::Leaf, &leaf_of(keys)).expect("memory does not fail");
        for level in 1..16_u8 {
            let mut body = vec![level, 0, 3, 0, 0, 0, 0, 0];
            let end = 8 + 2 * 6 + 3 * 14;
            [b'k', b'p'].iter().for_each(|&key| body.extend_from_slice(&[key, 0, 0, 0]));
            body.extend_from_slice(&[end, 0, end + 2, 0]);
            (0..3).for_each(|_| body.extend_from_slice(&encode_child(below)));
            body.extend_from_slice(&[1, b'k', 1, b'p']);
            body[6] = body.len() as u8;
            below = pages.write(PageKind::Branch, &body).expect("memory does not fail");
        }
        let root = TreeRoot { page: Some(below), height: 16, entries: 2 };
        for backward in [false, true] {
            let mut cursor = TreeCursor::new(root);
            let mut moved = match backward {
                true => cursor.seek_back(&pages, Bound::Unbounded),
                false => cursor.seek(&pages, Bound::Unbounded),
            };
            let mut steps = 0;
            while moved.is_ok() && cursor.entry().is_some() && steps < 100 {
                steps += 1;
                moved = if backward { cursor.prev(&pages) } else { cursor.next(&pages) };
            }
            assert!(moved.is_err(), "{keys:?}, backward: {backward}, after {steps} steps");
            assert_eq!(steps, 2, "{keys:?}, backward: {backward}");
            assert!(cursor.entry().is_none(), "after an error it is at the end");
        }
    }
}

/// Whoever hands edits over out of order is told before a page is wrong.
#[test]
#[cfg_attr(debug_assertions, should_panic(expected = "edits come in ascending order"))]
fn edits_that_do_not_ascend_are_refused() {
    let change = Change::Put(b"1".to_vec());
    let mut pages = VecPages::new(4096);
    let mut edits = Stream { changes: vec![(b"b", &change), (b"a", &change)], at: 0 };
    assert!(apply(&mut pages, &TreeRoot::default(), &mut edits).is_err());
}
