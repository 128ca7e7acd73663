//! Leaves packed in steps, with changes in between: fewer pages, the same entries, and no page is lost.

use std::collections::BTreeMap;

use super::super::{Packing, TreeRoot, pack};
use super::rewrite::assert_holds;
use super::store::VecPages;
use super::{Change, Rng, apply_checked};
use crate::pager::PageKind;

const ALL: Packing = Packing { gain: 4, fill: 100 };

/// Packs a whole tree, in steps of up to so many leaves.
fn pack_all(pages: &mut VecPages, mut root: TreeRoot, how: Packing, rng: &mut Rng, most: u64) -> TreeRoot {
    let mut from = Some(Vec::new());
    while let Some(key) = from {
        let mut budget = 1 + rng.below(most);
        let before = key.clone();
        (root, from) = pack(pages, &root, &key, how, &mut budget).expect("in order");
        assert!(from.as_ref().is_none_or(|next| *next > before), "each step gets further");
    }
    root
}

fn leaves(pages: &VecPages) -> usize {
    pages.live_of(PageKind::Leaf).count()
}

#[test]
fn a_packed_tree_has_fewer_pages_and_the_same_entries() {
    for seed in 0..12 {
        let mut rng = Rng(seed);
        let mut pages = VecPages::new([4096, 8192, 16384][seed as usize % 3]);
        let mut map = BTreeMap::new();
        let mut root = TreeRoot::default();
        let spread = [30, 3_000, 30_000][seed as usize % 3];
        for round in 0..6 {
            let mut changes = BTreeMap::new();
            for _ in 0..spread / 3 {
                let number = rng.below(spread);
                // Keys that have much in common, and keys that have little.
                let name =
                    if seed % 2 == 0 { "a/rather/long/beginning/row" } else { ["x", "row", "z"][number as usize % 3] };
                let key = format!("{name}/{number:06}").into_bytes();
                if round > 2 && !rng.one_in(5) {
                    map.remove(&key);
                    changes.insert(key, Change::Delete);
                } else {
                    let len = if rng.one_in(200) { rng.below(30_000) } else { rng.below(200) };
                    let value = rng.bytes(len as usize);
                    map.insert(key.clone(), value.clone());
                    changes.insert(key, Change::Put(value));
                }
            }
            root = apply_checked(&mut pages, &root, &changes);
            if round % 2 == 1 {
                let before = leaves(&pages);
                let live = pages.live().len();
                root = pack_all(&mut pages, root, ALL, &mut rng, spread);
                assert!(leaves(&pages) <= before && pages.live().len() <= live, "seed {seed}");
                assert_holds(&pages, &root, &map, seed);
            }
        }
    }
}

#[test]
fn leaves_are_full_afterwards_and_are_not_packed_again() {
    let mut rng = Rng(3);
    let mut pages = VecPages::new(4096);
    let mut root = TreeRoot::default();
    let mut bytes = 0;
    for _ in 0..20 {
        let changes = (0..1_000)
            .map(|_| {
                bytes += 24 + 150;
                ([rng.bytes(8), b"0123456789abcdef".to_vec()].concat(), Change::Put(rng.bytes(150)))
            })
            .collect();
        root = apply_checked(&mut pages, &root, &changes);
    }
    let before = leaves(&pages);
    let packed = pack_all(&mut pages, root, ALL, &mut rng, 1 << 40);
    let after = leaves(&pages);
    assert!(after < before && after * 4096 < bytes * 110 / 100, "{before} leaves became {after} for {bytes} bytes");
    let written = pages.written;
    assert_eq!(pack_all(&mut pages, packed, ALL, &mut rng, 1 << 40), packed);
    assert_eq!(pages.written, written, "nothing is written for nothing");
    // The store itself is content with much less.
    let mut pages = VecPages::new(4096);
    let changes: BTreeMap<_, _> =
        (0..5_000_u64).map(|n| (n.to_be_bytes().to_vec(), Change::Put(rng.bytes(100)))).collect();
    let root = apply_checked(&mut pages, &TreeRoot::default(), &changes);
    let third = changes.keys().step_by(3).map(|key| (key.clone(), Change::Delete)).collect();
    let root = apply_checked(&mut pages, &root, &third);
    assert_eq!(pack_all(&mut pages, root, Packing { gain: 40, fill: 90 }, &mut rng, 1 << 40), root);
}
