//! A cursor over one tree of a table. It owns its path, so the tree it walks cannot go away; it keeps that version of
//! the tree in memory, so whoever stands still for long should seek again instead.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::leaf::{Leaf, head_of};
use super::node::Node;
use super::{MemEntry, MemValue};

/// Stands on an entry, or at the end.
pub(crate) struct MemCursor {
    root: Option<Arc<Node>>,
    branches: Vec<(Arc<Node>, usize)>,
    leaf: Option<Arc<Node>>,
    at: usize,
}

impl MemCursor {
    pub(super) fn new(root: Option<Arc<Node>>) -> Self {
        Self { root, branches: Vec::new(), leaf: None, at: 0 }
    }

    /// Goes to the first entry at or after the bound.
    pub(crate) fn seek(&mut self, lower: Bound<&[u8]>) {
        let count = match lower {
            Bound::Unbounded => {
                self.descend_to_edge(false);
                0
            }
            Bound::Included(key) => self.descend_to(key, false),
            Bound::Excluded(key) => self.descend_to(key, true),
        };
        self.at = count;
        self.settle_forward();
    }

    /// Goes to the last entry at or before the bound.
    pub(crate) fn seek_back(&mut self, upper: Bound<&[u8]>) {
        let count = match upper {
            Bound::Unbounded => {
                self.descend_to_edge(true);
                self.here().map_or(0, Leaf::len)
            }
            Bound::Included(key) => self.descend_to(key, true),
            Bound::Excluded(key) => self.descend_to(key, false),
        };
        self.back_to(count);
    }

    /// Goes on to the next entry.
    pub(crate) fn next(&mut self) {
        self.at += 1;
        self.settle_forward();
    }

    /// Goes back to the entry before.
    pub(crate) fn prev(&mut self) {
        self.back_to(self.at);
    }

    /// Returns the entry it stands on.
    pub(crate) fn entry(&self) -> Option<(&[u8], MemEntry<'_>)> {
        let leaf = self.here()?;
        Some((leaf.key(self.at), leaf.entry(self.at)))
    }

    fn here(&self) -> Option<&Leaf> {
        match self.leaf.as_deref()? {
            Node::Leaf(leaf) => Some(leaf),
            Node::Branch(_) => unreachable!("a path ends at a leaf"),
        }
    }

    /// Goes to the leaf of `key`; returns how many of its entries are below it, or at most at it.
    fn descend_to(&mut self, key: &[u8], with_equal: bool) -> usize {
        let head = head_of(key);
        self.branches.clear();
        let mut node = self.root.clone();
        while let Some(branch) = node.take_if(|n| matches!(**n, Node::Branch(_))) {
            let Node::Branch(inside) = &*branch else { unreachable!("looked at just now") };
            let i = inside.child_of(head, key);
            node = Some(Arc::clone(&inside.children[i]));
            self.branches.push((branch, i));
        }
        self.leaf = node;
        self.here().map_or(0, |leaf| leaf.count_to(head, key, with_equal))
    }

    fn descend_to_edge(&mut self, last: bool) {
        self.branches.clear();
        self.leaf = None;
        if let Some(root) = self.root.clone() {
            self.descend(root, last);
        }
    }

    fn descend(&mut self, mut node: Arc<Node>, last: bool) {
        loop {
            let next = match &*node {
                Node::Leaf(_) => break,
                Node::Branch(inside) => {
                    let i = if last { inside.children.len() - 1 } else { 0 };
                    (Arc::clone(&inside.children[i]), i)
                }
            };
            self.branches.push((node, next.1));
            node = next.0;
        }
        self.leaf = Some(node);
    }

    /// Past the end of a leaf: on to the first entry of the next one.
    fn settle_forward(&mut self) {
        if self.here().is_none_or(|leaf| self.at < leaf.len()) {
            return;
        }
        self.leaf = None;
        self.at = 0;
        while let Some((branch, i)) = self.branches.pop() {
            let Node::Branch(inside) = &*branch else { unreachable!("only branches are kept") };
            if let Some(next) = inside.children.get(i + 1).map(Arc::clone) {
                self.branches.push((branch, i + 1));
                self.descend(next, false);
                return;
            }
        }
    }

    /// Goes to the last of the first `count` entries of this leaf, or of the leaf before where there are none.
    fn back_to(&mut self, count: usize) {
        if self.leaf.is_none() {
            return;
        }
        if count > 0 {
            self.at = count - 1;
            return;
        }
        self.leaf = None;
        self.at = 0;
        while let Some((branch, i)) = self.branches.pop() {
            if i == 0 {
                continue;
            }
            let Node::Branch(inside) = &*branch else { unreachable!("only branches are kept") };
            let before = Arc::clone(&inside.children[i - 1]);
            self.branches.push((branch, i - 1));
            self.descend(before, true);
            self.at = self.here().map_or(0, |leaf| leaf.len() - 1);
            return;
        }
    }
}

impl MemEntry<'_> {
    /// Returns the value, shared with the table where it is a long one; empty where it is stored apart or deleted.
    pub(crate) fn value_bytes(&self) -> Bytes {
        match (self.shared, self.value) {
            (Some(shared), _) => shared.clone(),
            (None, MemValue::Put(bytes)) => Bytes::copy_from_slice(bytes),
            (None, _) => Bytes::new(),
        }
    }
}
