//! The newest version of every key, ordered, as a persistent B+tree: one per tree of the store.
//!
//! Why persistent and not a `BTreeMap` of version chains behind a lock: a snapshot is one reference count, a
//! reader never takes a lock while it reads, cursors walk both ways over a tree that cannot change under them,
//! and versions nobody can see vanish with their last reference, without a collector. The price is that the
//! first change of a leaf after each published group copies that leaf (up to 64 slots, 3.5 KiB).
//!
//! `Table` is all trees at one commit; cloning it copies one pointer per tree. Nodes are shared by `Arc` and
//! changed in place only while nobody else holds them (`Arc::make_mut`), which is what makes a bulk load cheap.
//!
//! Invariants: every key is in exactly one leaf; a leaf's slots ascend strictly; a branch child holds keys at or
//! above its `low` (the first child's `low` says nothing); no leaf but a root is empty.

mod cursor;
mod node;
mod record;

use std::sync::Arc;

pub(crate) use cursor::TableCursor;
pub(crate) use node::Slot;
use node::{Node, Removed};
pub(crate) use record::{Head, Record};

use crate::limits::ENTRY_OVERHEAD_BYTES;

/// All trees at one commit.
#[derive(Clone, Default)]
pub(crate) struct Table {
    trees: Vec<Tree>,
    pub(crate) commit_no: u64,
    pub(crate) live_bytes: u64,
    pub(crate) entries: u64,
}

#[derive(Clone, Default)]
struct Tree {
    root: Option<Arc<Node>>,
    len: u64,
}

impl Table {
    /// Returns the slot of a key.
    pub(crate) fn get(&self, tree: u32, key: &[u8]) -> Option<&Slot> {
        let mut node = self.root(tree)?;
        let head = Head::of(key);
        loop {
            match node.as_ref() {
                Node::Leaf(slots) => return slots.binary_search_by(|s| s.compare(head, key)).ok().map(|i| &slots[i]),
                Node::Branch(children) => node = &children[node::child_of(children, head, key)].node,
            }
        }
    }

    /// Puts a record; returns the cost of the version it replaced.
    pub(crate) fn put(&mut self, tree: u32, record: Record, commit_no: u64) -> u64 {
        let cost = cost_of(&record);
        let tree = self.tree_mut(tree);
        let slot = Slot::new(record, commit_no);
        let root = tree.root.get_or_insert_with(|| Arc::new(Node::Leaf(Vec::new())));
        let (replaced, split) = node::insert(root, slot);
        if let Some(right) = split {
            node::grow(root, right);
        }
        let freed = match replaced {
            Some(old) => cost_of(&old.record),
            None => {
                tree.len += 1;
                self.entries += 1;
                0
            }
        };
        self.live_bytes = self.live_bytes + cost - freed;
        freed
    }

    /// Removes a key; returns the cost of the version that went, 0 when there was none.
    pub(crate) fn remove(&mut self, tree: u32, key: &[u8]) -> u64 {
        // Looked up first: a delete of an absent key must not copy a path.
        if self.get(tree, key).is_none() {
            return 0;
        }
        let tree = self.tree_mut(tree);
        let root = tree.root.as_mut().expect("a key was found in this tree");
        let removed = node::remove(root, Head::of(key), key).expect("the key was found");
        if node::shrink(root) == Removed::TreeIsEmpty {
            tree.root = None;
        }
        tree.len -= 1;
        self.entries -= 1;
        let freed = cost_of(&removed.record);
        self.live_bytes -= freed;
        freed
    }

    /// Returns how many keys a tree has.
    pub(crate) fn tree_len(&self, tree: u32) -> u64 {
        self.trees.get(tree as usize).map_or(0, |t| t.len)
    }

    /// Returns how many tree numbers are in use, holes included.
    pub(crate) fn tree_count(&self) -> u32 {
        self.trees.len() as u32
    }

    pub(crate) fn root(&self, tree: u32) -> Option<&Arc<Node>> {
        self.trees.get(tree as usize)?.root.as_ref()
    }

    fn tree_mut(&mut self, tree: u32) -> &mut Tree {
        let index = tree as usize;
        if index >= self.trees.len() {
            self.trees.resize_with(index + 1, Tree::default);
        }
        &mut self.trees[index]
    }

    /// Walks everything and panics where an invariant does not hold; returns (entries, bytes) counted.
    #[cfg(test)]
    fn check(&self) -> (u64, u64) {
        let (mut entries, mut bytes) = (0, 0);
        for tree in &self.trees {
            let mut slots = Vec::new();
            if let Some(root) = &tree.root {
                node::check(root, true, None, None, &mut slots);
            }
            assert!(slots.windows(2).all(|w| w[0].record.key() < w[1].record.key()), "keys ascend");
            assert_eq!(slots.len() as u64, tree.len, "the tree's count is right");
            entries += tree.len;
            bytes += slots.iter().map(|s| cost_of(&s.record)).sum::<u64>();
        }
        assert_eq!((entries, bytes), (self.entries, self.live_bytes), "the table's sums are right");
        (entries, bytes)
    }
}

/// What a record counts against the ceiling.
pub(crate) fn cost_of(record: &Record) -> u64 {
    (record.len() + ENTRY_OVERHEAD_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

    fn rng(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn key(n: u64, width: u64) -> Vec<u8> {
        // Short and long keys, and keys that share their first eight bytes.
        match n % 3 {
            0 => n.to_be_bytes()[(8 - width as usize)..].to_vec(),
            1 => [b"same head ", &n.to_be_bytes()[..]].concat(),
            _ => vec![b'x'; (n % 40) as usize],
        }
    }

    #[test]
    fn table_equals_btreemap_and_old_snapshots_stay() {
        for seed in 1..=6_u64 {
            let mut s = seed * 7919;
            let mut table = Table::default();
            let mut model = Entries::new();
            let mut kept: Vec<(Table, Entries)> = Vec::new();
            for step in 0..12_000_u64 {
                let growing = (step / 3000) % 2 == 0;
                let k = key(rng(&mut s) % 2500, 2 + seed % 3);
                if rng(&mut s) % 10 < if growing { 8 } else { 2 } {
                    let v = vec![step as u8; (rng(&mut s) % 20) as usize];
                    table.put(1, Record::new(&k, &v), step);
                    model.insert(k, v);
                } else {
                    assert_eq!(table.remove(1, &k) > 0, model.remove(&k).is_some());
                }
                if step % 1500 == 0 {
                    kept.push((table.clone(), model.clone()));
                }
            }
            kept.push((table, model));
            for (table, model) in &kept {
                table.check();
                assert_eq!(table.entries as usize, model.len());
                for (k, v) in model {
                    assert_eq!(table.get(1, k).map(|s| s.record.value()), Some(&v[..]));
                }
                let walked: Vec<_> =
                    TableCursor::all(table, 1).map(|r| (r.key().to_vec(), r.value().to_vec())).collect();
                assert_eq!(walked, model.clone().into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn emptied_tree_frees_everything() {
        let mut table = Table::default();
        for n in 0..5000_u32 {
            table.put(3, Record::new(&n.to_be_bytes(), b"v"), 1);
        }
        for n in 0..5000_u32 {
            assert!(table.remove(3, &n.to_be_bytes()) > 0);
        }
        assert_eq!(table.check(), (0, 0));
        assert!(table.root(3).is_none());
    }

    #[test]
    fn a_delete_of_an_absent_key_shares_every_node() {
        let mut table = Table::default();
        for n in 0..500_u32 {
            table.put(0, Record::new(&n.to_be_bytes(), b"v"), 1);
        }
        let before = table.clone();
        assert_eq!(table.remove(0, b"absent"), 0);
        assert!(Arc::ptr_eq(table.root(0).expect("has keys"), before.root(0).expect("has keys")));
    }
}
