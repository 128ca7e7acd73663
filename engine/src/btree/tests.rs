//! The tree against a map, on a store that knows which pages are alive.

mod by_hand;
mod damage;
mod model;
mod pack;
mod rewrite;
mod shape;
mod store;
mod values;

use std::collections::BTreeMap;

use self::store::VecPages;
use super::{EditValue, Edits, TreeRoot, ValueRef, apply, check};
use crate::pager::PageError;

/// Splitmix: same seed, same trace.
#[derive(Clone)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// An edit as the tests write it.
#[derive(Clone, Debug)]
enum Change {
    Put(Vec<u8>),
    PutStored(ValueRef),
    Delete,
}

struct Stream<'c> {
    changes: Vec<(&'c [u8], &'c Change)>,
    at: usize,
}

impl<'c> Stream<'c> {
    fn new(changes: &'c BTreeMap<Vec<u8>, Change>) -> Self {
        Self { changes: changes.iter().map(|(key, change)| (&key[..], change)).collect(), at: 0 }
    }
}

impl Edits for Stream<'_> {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        let &(key, change) = self.changes.get(self.at)?;
        let value = match change {
            Change::Put(value) => EditValue::Put(value),
            Change::PutStored(at) => EditValue::PutStored(*at),
            Change::Delete => EditValue::Delete,
        };
        Some((key, value))
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.at += 1;
        Ok(())
    }
}

/// Applies changes, proves the new tree, and that no page is lost and none is used twice.
fn apply_checked(pages: &mut VecPages, root: &TreeRoot, changes: &BTreeMap<Vec<u8>, Change>) -> TreeRoot {
    let new = apply(pages, root, &mut Stream::new(changes)).expect("the store has room");
    let mut reached = Vec::new();
    check(pages, &new, &mut |no| reached.push(no)).unwrap_or_else(|error| panic!("{error:?}"));
    reached.sort_unstable();
    assert_eq!(reached, pages.live(), "every live page is reached, and once");
    new
}

/// Applies changes; no proof.
fn apply_all(pages: &mut VecPages, root: &TreeRoot, changes: &BTreeMap<Vec<u8>, Change>) -> TreeRoot {
    apply(pages, root, &mut Stream::new(changes)).expect("the store has room")
}
