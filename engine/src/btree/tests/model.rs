//! Random batches of edits, compared with a map after each.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::super::value::ValueWriter;
use super::super::{CellValue, Found, TreeCursor, TreeRoot, get, read_value};
use super::store::VecPages;
use super::{Change, Rng, apply_checked};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys with long common beginnings, the empty one and the longest among them.
fn key(rng: &mut Rng, spread: u64) -> Vec<u8> {
    match rng.below(40) {
        0 if rng.one_in(20) => Vec::new(),
        1 => {
            let mut key = vec![b'k'; 1024];
            let tail = rng.below(spread).to_be_bytes();
            key[1016..].copy_from_slice(&tail);
            key
        }
        2..=4 => {
            let group = rng.below(8);
            format!("a/very/long/beginning/of/group/{group}/{:0width$}", rng.below(spread), width = group as usize)
                .into_bytes()
        }
        5 => {
            let len = rng.below(6) as usize;
            (0..len).map(|_| [0, 1, b'k', 255][rng.below(4) as usize]).collect()
        }
        _ => format!("row/{:08}", rng.below(spread)).into_bytes(),
    }
}

fn value(rng: &mut Rng, page_bytes: usize) -> Vec<u8> {
    let len = match rng.below(60) {
        0 => rng.below(3 * page_bytes as u64),
        1..=3 => rng.below(page_bytes as u64 / 4),
        4..=10 => 0,
        _ => rng.below(200),
    };
    rng.bytes(len as usize)
}

fn load(pages: &VecPages, found: Found<'_>) -> Vec<u8> {
    match found {
        Found::Inline(value) => value.to_vec(),
        Found::Stored(at) => {
            let mut value = vec![0; at.len as usize];
            read_value(pages, &at, 0, &mut value).expect("it is there");
            value
        }
    }
}

fn load_cell(pages: &VecPages, cursor: &TreeCursor) -> Option<(Vec<u8>, Vec<u8>)> {
    let (key, cell) = cursor.entry()?;
    let value = match cell {
        CellValue::Inline(value) => {
            assert_eq!(cursor.value_bytes(), value);
            value.to_vec()
        }
        CellValue::Stored(at) => load(pages, Found::Stored(at)),
    };
    Some((key.to_vec(), value))
}

/// Compares whole walks, both ways, and a few from random bounds.
fn compare(pages: &VecPages, root: &TreeRoot, map: &Map, rng: &mut Rng, spread: u64) {
    assert_eq!(root.entries, map.len() as u64);
    let mut cursor = TreeCursor::new(*root);
    cursor.seek(pages, Bound::Unbounded).expect("in order");
    for (key, value) in map {
        let (found, cell) = load_cell(pages, &cursor).expect("an entry");
        assert!(found == *key && cell == *value, "{found:?} {key:?}");
        cursor.next(pages).expect("in order");
    }
    assert!(cursor.entry().is_none());
    cursor.next(pages).expect("the end stays the end");
    assert!(cursor.entry().is_none());
    cursor.seek_back(pages, Bound::Unbounded).expect("in order");
    for (key, value) in map.iter().rev() {
        let (found, cell) = load_cell(pages, &cursor).expect("an entry");
        assert!(found == *key && cell == *value);
        cursor.prev(pages).expect("in order");
    }
    assert!(cursor.entry().is_none());
    for _ in 0..100 {
        let wanted = key(rng, spread);
        let found = get(pages, root, &wanted).expect("in order").map(|found| load(pages, found));
        assert_eq!(found.as_ref(), map.get(&wanted));
        for bound in [Bound::Included(&wanted[..]), Bound::Excluded(&wanted[..])] {
            let owned = bound.map(<[u8]>::to_vec);
            let after = (owned.clone(), Bound::Unbounded);
            let before = (Bound::Unbounded, owned);
            cursor.seek(pages, bound).expect("in order");
            let mut expected = map.range(after);
            for _ in 0..3 {
                let expected = expected.next().map(|(k, v)| (k.clone(), v.clone()));
                assert_eq!(load_cell(pages, &cursor), expected, "after {bound:?}");
                cursor.next(pages).expect("in order");
            }
            cursor.seek_back(pages, bound).expect("in order");
            let mut expected = map.range(before).rev();
            for _ in 0..3 {
                let expected = expected.next().map(|(k, v)| (k.clone(), v.clone()));
                assert_eq!(load_cell(pages, &cursor), expected, "before {bound:?}");
                cursor.prev(pages).expect("in order");
            }
            // There and back again.
            cursor.seek(pages, bound).expect("in order");
            let here = load_cell(pages, &cursor);
            cursor.next(pages).expect("in order");
            if cursor.entry().is_some() {
                cursor.prev(pages).expect("in order");
                assert_eq!(load_cell(pages, &cursor), here);
            }
        }
    }
}

fn run(page_bytes: usize, seed: u64, edits_min: usize) {
    let mut rng = Rng(seed);
    let mut pages = VecPages::new(page_bytes);
    let mut root = TreeRoot::default();
    let mut map = Map::new();
    let mut edits = 0;
    let mut round = 0;
    while edits < edits_min {
        // Times of growth, of calm and of decay; batches from one edit to thousands, in one place or all over.
        let spread = [50, 2_000, 30_000][(round / 40) % 3];
        let deletes = [3, 2, 8, 1][(round / 25) % 4];
        let count = [1, 4, 30, 300, 3_000][rng.below(5) as usize] * (1 + rng.below(2));
        let mut changes = BTreeMap::new();
        if rng.one_in(12) {
            // A whole range goes.
            let from = key(&mut rng, spread);
            let gone = map.range(from..).take(rng.below(3_000) as usize).map(|(key, _)| (key.clone(), Change::Delete));
            changes.extend(gone);
        }
        for _ in 0..count {
            let change = if rng.one_in(deletes) {
                Change::Delete
            } else if rng.one_in(100) {
                let bytes = vec![7; 1 + rng.below(20_000) as usize];
                let mut writer = ValueWriter::new(&mut pages);
                bytes.chunks(1 + rng.below(5_000) as usize).for_each(|part| writer.push(part).expect("room"));
                Change::PutStored(writer.finish().expect("room").0)
            } else {
                Change::Put(value(&mut rng, page_bytes))
            };
            if let Some(Change::PutStored(unused)) = changes.insert(key(&mut rng, spread), change) {
                super::super::release_value(&mut pages, &unused).expect("in order");
            }
        }
        edits += changes.len();
        root = apply_checked(&mut pages, &root, &changes);
        for (key, change) in changes {
            match change {
                Change::Put(value) => map.insert(key, value),
                Change::PutStored(at) => map.insert(key, vec![7; at.len as usize]),
                Change::Delete => map.remove(&key),
            };
        }
        if round % 8 == 0 {
            compare(&pages, &root, &map, &mut rng, spread);
        }
        round += 1;
    }
    compare(&pages, &root, &map, &mut rng, 30_000);
    let all = map.keys().map(|key| (key.clone(), Change::Delete)).collect();
    root = apply_checked(&mut pages, &root, &all);
    assert_eq!(root, TreeRoot::default());
    assert_eq!(pages.live(), []);
}

#[test]
fn small_pages_are_a_map() {
    (0..4).for_each(|seed| run(4096, seed, 60_000));
}

#[test]
fn middle_pages_are_a_map() {
    (10..12).for_each(|seed| run(8192, seed, 40_000));
}

#[test]
fn large_pages_are_a_map() {
    (20..22).for_each(|seed| run(16384, seed, 40_000));
}
