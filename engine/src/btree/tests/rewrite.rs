//! Pages copied in steps, with changes in between: all that were wanted are copied, and the tree stays what it is.

use std::collections::BTreeMap;

use super::super::{CellValue, Place, TreeCursor, TreeRoot, check, read_value, rewrite};
use super::store::VecPages;
use super::{Change, Rng, apply_checked};
use crate::pager::{PageKind, PageRef};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn changes(rng: &mut Rng, map: &mut Map, count: u64, spread: u64) -> BTreeMap<Vec<u8>, Change> {
    let mut changes = BTreeMap::new();
    for _ in 0..count {
        let key = format!("row/{:06}", rng.below(spread)).into_bytes();
        if rng.one_in(4) {
            map.remove(&key);
            changes.insert(key, Change::Delete);
        } else {
            let len = if rng.one_in(30) { rng.below(60_000) } else { rng.below(300) };
            let value = rng.bytes(len as usize);
            map.insert(key.clone(), value.clone());
            changes.insert(key, Change::Put(value));
        }
    }
    changes
}

/// Every live page is reached once, the tree is sound, and its entries are these.
pub(super) fn assert_holds(pages: &VecPages, root: &TreeRoot, map: &Map, seed: u64) {
    let mut reached = Vec::new();
    check(pages, root, &mut |no| reached.push(no)).unwrap_or_else(|error| panic!("{error:?}"));
    reached.sort_unstable();
    assert_eq!(reached, pages.live(), "seed {seed}");
    assert!(content(pages, root) == *map, "seed {seed}: the entries are what they were");
}

pub(super) fn content(pages: &VecPages, root: &TreeRoot) -> Map {
    let mut cursor = TreeCursor::new(*root);
    cursor.seek(pages, std::ops::Bound::Unbounded).expect("in order");
    let mut map = Map::new();
    while let Some((key, cell)) = cursor.entry() {
        let value = match cell {
            CellValue::Inline(bytes) => bytes.to_vec(),
            CellValue::Stored(at) => {
                let mut value = vec![0; at.len as usize];
                read_value(pages, &at, 0, &mut value).expect("it is there");
                value
            }
        };
        map.insert(key.to_vec(), value);
        cursor.next(pages).expect("in order");
    }
    map
}

#[test]
fn every_wanted_page_is_copied_whatever_happens_between_the_steps() {
    for seed in 0..12 {
        let mut rng = Rng(seed);
        let mut pages = VecPages::new(4096);
        let mut map = Map::new();
        let spread = [40, 600, 4_000][seed as usize % 3];
        let first = changes(&mut rng, &mut map, 2 * spread, spread);
        let mut root = apply_checked(&mut pages, &TreeRoot::default(), &first);
        let mark = pages.newest_proof();
        let budget_most = 1 + rng.below(40);
        let mut place = Some(Place::default());
        while let Some(from) = place {
            let mut asked = 0;
            let mut budget = 1 + rng.below(budget_most);
            let most = budget.max(2);
            let mut is_old = |_: &VecPages, at: PageRef, _: PageKind| {
                asked += 1;
                Ok(at.proof <= mark)
            };
            let before = pages.written;
            (root, place) = rewrite(&mut pages, &root, &from, &mut budget, &mut is_old).expect("in order");
            // Parents whose last child was done come on top, and the ways to what was copied.
            assert!(asked <= most + 12, "seed {seed}: {asked} pages looked at in a step of {most}");
            assert!(pages.written - before <= most + 24, "seed {seed}: {} pages written", pages.written - before);
            assert_ne!(place.as_ref(), Some(&from), "seed {seed}: each step gets further");
            if rng.one_in(3) {
                let count = 1 + rng.below(30);
                let more = changes(&mut rng, &mut map, count, spread);
                root = apply_checked(&mut pages, &root, &more);
            }
        }
        assert!(pages.oldest_proof().is_none_or(|proof| proof > mark), "seed {seed}: a wanted page is left");
        assert_holds(&pages, &root, &map, seed);
    }
}

/// What is not wanted stays where it is, but for the ways to what is.
#[test]
fn pages_that_nobody_wants_stay() {
    let mut rng = Rng(77);
    let mut pages = VecPages::new(4096);
    let mut map = Map::new();
    let first = changes(&mut rng, &mut map, 4_000, 4_000);
    let root = apply_checked(&mut pages, &TreeRoot::default(), &first);
    let before = pages.live();
    let (same, place) =
        rewrite(&mut pages, &root, &Place::default(), &mut { u64::MAX }, &mut |_, _, _| Ok(false)).expect("in order");
    assert_eq!((same, place), (root, None));
    assert_eq!(pages.live(), before);
    // As for cutting the file: the last pages, by their numbers.
    let limit = before[before.len() - 20];
    let written = pages.written;
    let (new, place) =
        rewrite(&mut pages, &root, &Place::default(), &mut { u64::MAX }, &mut |_, at, _| Ok(at.no >= limit))
            .expect("in order");
    assert_eq!(place, None);
    assert!((20..60).contains(&(pages.written - written)), "{}", pages.written - written);
    assert!(content(&pages, &new) == map);
    let empty = rewrite(&mut pages, &TreeRoot::default(), &Place::default(), &mut 5, &mut |_, _, _| Ok(true));
    assert_eq!(empty.expect("nothing to do"), (TreeRoot::default(), None));
}
