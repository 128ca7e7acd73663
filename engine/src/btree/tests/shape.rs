//! How full pages are, how many are written, and what must not be.

use std::collections::BTreeMap;

use super::super::{TreeRoot, entry_max};
use super::store::VecPages;
use super::{Change, Rng, apply_all, apply_checked};
use crate::pager::PageKind;

/// Returns how full pages of a kind are, as a part of 1.
fn fill(pages: &VecPages, kind: PageKind) -> f64 {
    let (mut used, mut whole) = (0, 0);
    for (_, body) in pages.live_of(kind) {
        used += usize::from(u16::from_le_bytes([body[6], body[7]]));
        whole += body.len();
    }
    used as f64 / whole as f64
}

fn row(i: u64) -> Vec<u8> {
    format!("collection/row/{i:09}").into_bytes()
}

fn put(len: usize) -> Change {
    Change::Put(vec![0xab; len])
}

#[test]
fn random_batches_leave_leaves_full() {
    for (batch, count) in [(10, 3_000), (300, 300), (3_000, 30), (30_000, 3)] {
        let mut rng = Rng(7);
        let mut pages = VecPages::new(4096);
        let mut root = TreeRoot::default();
        for _ in 0..count {
            let changes = (0..batch).map(|_| (row(rng.below(1_000_000_000)), put(150))).collect();
            root = apply_all(&mut pages, &root, &changes);
        }
        apply_checked(&mut pages, &root, &BTreeMap::new());
        let (leaves, branches) = (fill(&pages, PageKind::Leaf), fill(&pages, PageKind::Branch));
        assert!(leaves >= 0.78 && branches >= 0.6, "batches of {batch}: leaves {leaves}, branches {branches}");
    }
}

#[test]
fn short_keys_without_values_leave_leaves_full() {
    let mut rng = Rng(8);
    let mut pages = VecPages::new(4096);
    let mut root = TreeRoot::default();
    for _ in 0..200 {
        let entry =
            |rng: &mut Rng| [&b"index/of/some/field/"[..], &rng.below(50).to_be_bytes(), &rng.bytes(16)].concat();
        let changes = (0..500).map(|_| (entry(&mut rng), put(0))).collect();
        root = apply_all(&mut pages, &root, &changes);
    }
    apply_checked(&mut pages, &root, &BTreeMap::new());
    assert!(fill(&pages, PageKind::Leaf) >= 0.78, "{}", fill(&pages, PageKind::Leaf));
}

#[test]
fn ascending_keys_fill_pages_up() {
    for batch in [1, 7, 1_000, 50_000] {
        let mut pages = VecPages::new(4096);
        let mut root = TreeRoot::default();
        for from in (0..50_000).step_by(batch) {
            // One by one it takes long: fewer will do.
            if batch > 1 || from < 5_000 {
                let changes = (from as u64..(from + batch) as u64).map(|i| (row(i), put(150))).collect();
                root = apply_all(&mut pages, &root, &changes);
            }
        }
        apply_checked(&mut pages, &root, &BTreeMap::new());
        assert!(fill(&pages, PageKind::Leaf) >= 0.93, "batches of {batch}: {}", fill(&pages, PageKind::Leaf));
    }
}

#[test]
fn a_full_leaf_and_its_neighbour_become_three() {
    let mut pages = VecPages::new(4096);
    let rows = (0..2_000).map(|i| (row(10 * i), put(150))).collect();
    let mut root = apply_checked(&mut pages, &TreeRoot::default(), &rows);
    let before = pages.live_of(PageKind::Leaf).count();
    pages.written = 0;
    let some = (0..3).map(|i| (row(10_001 + i), put(150))).collect();
    root = apply_checked(&mut pages, &root, &some);
    assert_eq!(pages.live_of(PageKind::Leaf).count(), before + 1);
    assert_eq!(pages.written, 3 + u64::from(root.height) - 1);
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let mut pages = VecPages::new(4096);
    let rows = (0..2_000).map(|i| (row(2 * i), put(if i % 100 == 0 { 2_000 } else { 150 }))).collect();
    let root = apply_checked(&mut pages, &TreeRoot::default(), &rows);
    pages.written = 0;
    let absent = (0..2_500).map(|i| (row(2 * i + 1), Change::Delete)).collect();
    assert_eq!(apply_checked(&mut pages, &root, &absent), root);
    let same = rows.iter().filter(|(_, change)| matches!(change, Change::Put(v) if v.len() == 150));
    let same = same.map(|(key, change)| (key.clone(), change.clone())).collect();
    assert_eq!(apply_checked(&mut pages, &root, &same), root);
    assert_eq!(pages.written, 0);
    // One change among many that are none: one leaf, and the way to it.
    let mut one = absent;
    one.insert(row(2_000), put(149));
    let new = apply_checked(&mut pages, &root, &one);
    assert_eq!(new.entries, root.entries);
    assert_eq!(pages.written, u64::from(root.height));
}

#[test]
fn deleting_gives_pages_back() {
    let mut rng = Rng(9);
    let mut pages = VecPages::new(4096);
    let rows = (0..50_000).map(|i| (row(i), put(150))).collect();
    let mut root = apply_checked(&mut pages, &TreeRoot::default(), &rows);
    let full = pages.live().len();
    let mut left: Vec<Vec<u8>> = rows.into_keys().collect();
    while left.len() > 500 {
        let changes = (0..left.len() / 8).map(|_| {
            let i = rng.below(left.len() as u64) as usize;
            (left.swap_remove(i), Change::Delete)
        });
        let changes = changes.collect();
        root = apply_checked(&mut pages, &root, &changes);
        // Below a third nothing stays, so on average it is more.
        assert!(fill(&pages, PageKind::Leaf) > 0.4, "{} rows: {}", left.len(), fill(&pages, PageKind::Leaf));
    }
    assert!(pages.live().len() * 40 < full);
    let all = left.into_iter().map(|key| (key, Change::Delete)).collect();
    assert_eq!(apply_checked(&mut pages, &root, &all), TreeRoot::default());
}

#[test]
fn the_longest_keys_and_values_fit() {
    for page_bytes in [4096, 8192, 16384] {
        let mut rng = Rng(10);
        let mut pages = VecPages::new(page_bytes);
        let mut root = TreeRoot::default();
        let mut count = 0;
        for _ in 0..40 {
            // Random from the first byte on, or different in the last one only: separators of 1 and of 1,024 bytes.
            let key = |rng: &mut Rng| {
                let mut key = vec![rng.next() as u8; 1024];
                key[1020..].copy_from_slice(&(rng.next() as u32).to_be_bytes());
                key
            };
            let longest = entry_max(page_bytes - 56) - 1024;
            let changes: BTreeMap<_, _> =
                (0..100).map(|i| (key(&mut rng), put(longest + usize::from(i % 10 == 0)))).collect();
            count += changes.len() as u64;
            root = apply_checked(&mut pages, &root, &changes);
        }
        assert_eq!(root.entries, count);
        assert!(root.height <= 8, "{}", root.height);
    }
}
