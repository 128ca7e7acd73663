//! A cursor over one tree of a table, from both ends. It owns its path, so the tree it walks cannot go away.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::node::{Node, child_of};
use super::record::{Head, Record};
use super::{Slot, Table};

/// Walks the keys between two bounds; the ends close in on each other.
pub(crate) struct TableCursor {
    root: Option<Arc<Node>>,
    lower: Limit,
    upper: Limit,
    front: Option<Path>,
    back: Option<Path>,
}

struct Limit {
    bound: Bound<Bytes>,
    head: Head,
}

impl Limit {
    fn new(bound: Bound<&[u8]>) -> Self {
        Self::owned(bound.map(Bytes::copy_from_slice))
    }

    fn owned(bound: Bound<Bytes>) -> Self {
        let head = match &bound {
            Bound::Included(k) | Bound::Excluded(k) => Head::of(k),
            Bound::Unbounded => Head::of(b""),
        };
        Self { bound, head }
    }
}

impl TableCursor {
    #[cfg(test)]
    pub(crate) fn all(table: &Table, tree: u32) -> Self {
        Self::new(table, tree, Bound::Unbounded, Bound::Unbounded)
    }

    pub(crate) fn new(table: &Table, tree: u32, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Self {
        Self {
            root: table.root(tree).cloned(),
            lower: Limit::new(lower),
            upper: Limit::new(upper),
            front: None,
            back: None,
        }
    }

    /// Returns the next slot from the front.
    pub(crate) fn next_slot(&mut self) -> Option<&Slot> {
        let root = self.root.as_ref()?;
        let path = match &mut self.front {
            Some(path) => {
                path.forward();
                path
            }
            none => none.insert(Path::at_or_after(root, &self.lower)),
        };
        let inside = path.slot().is_some_and(|slot| match &self.upper.bound {
            Bound::Unbounded => true,
            Bound::Included(k) => slot.compare(self.upper.head, k) != Ordering::Greater,
            Bound::Excluded(k) => slot.compare(self.upper.head, k) == Ordering::Less,
        });
        if !inside {
            self.root = None;
            return None;
        }
        let slot = path.slot()?;
        if self.back.is_some() {
            self.lower = Limit::owned(Bound::Excluded(slot.record.key_bytes()));
        }
        Some(slot)
    }

    /// Returns the next slot from the back.
    pub(crate) fn next_slot_back(&mut self) -> Option<&Slot> {
        let root = self.root.as_ref()?;
        let path = match &mut self.back {
            Some(path) => {
                path.backward();
                path
            }
            none => {
                // From here on both ends move: what the front has given is out of the back's reach.
                if let Some(given) = self.front.as_ref().and_then(Path::slot) {
                    self.lower = Limit::owned(Bound::Excluded(given.record.key_bytes()));
                }
                none.insert(Path::at_or_before(root, &self.upper))
            }
        };
        let inside = path.slot().is_some_and(|slot| match &self.lower.bound {
            Bound::Unbounded => true,
            Bound::Included(k) => slot.compare(self.lower.head, k) != Ordering::Less,
            Bound::Excluded(k) => slot.compare(self.lower.head, k) == Ordering::Greater,
        });
        if !inside {
            self.root = None;
            return None;
        }
        let slot = path.slot()?;
        self.upper = Limit::owned(Bound::Excluded(slot.record.key_bytes()));
        Some(slot)
    }
}

impl Iterator for TableCursor {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        self.next_slot().map(|s| s.record.clone())
    }
}

impl DoubleEndedIterator for TableCursor {
    fn next_back(&mut self) -> Option<Record> {
        self.next_slot_back().map(|s| s.record.clone())
    }
}

/// The nodes from the root to a slot; `at` of a leaf past its end or below its start means that there is none.
struct Path {
    branches: Vec<(Arc<Node>, usize)>,
    leaf: Arc<Node>,
    at: Option<usize>,
}

impl Path {
    fn at_or_after(root: &Arc<Node>, limit: &Limit) -> Self {
        let (mut path, from) = match &limit.bound {
            Bound::Unbounded => (Self::to_edge(root, false), 0),
            Bound::Included(k) => Self::to_key(root, limit.head, k, Ordering::Less),
            Bound::Excluded(k) => Self::to_key(root, limit.head, k, Ordering::Equal),
        };
        path.at = Some(from);
        path.settle_forward();
        path
    }

    fn at_or_before(root: &Arc<Node>, limit: &Limit) -> Self {
        let (mut path, end) = match &limit.bound {
            Bound::Unbounded => {
                let path = Self::to_edge(root, true);
                let len = path.slots().len();
                (path, len)
            }
            Bound::Included(k) => Self::to_key(root, limit.head, k, Ordering::Equal),
            Bound::Excluded(k) => Self::to_key(root, limit.head, k, Ordering::Less),
        };
        path.at = end.checked_sub(1);
        path.settle_backward();
        path
    }

    /// Goes to the leaf of `key`; the number counts its slots that compare at most `most` (Less: below the key,
    /// Equal: at or below it).
    fn to_key(root: &Arc<Node>, head: Head, key: &[u8], most: Ordering) -> (Self, usize) {
        let mut path = Self { branches: Vec::new(), leaf: Arc::clone(root), at: None };
        while let Node::Branch(children) = path.leaf.as_ref() {
            let i = child_of(children, head, key);
            let next = Arc::clone(&children[i].node);
            let branch = std::mem::replace(&mut path.leaf, next);
            path.branches.push((branch, i));
        }
        let count = path.slots().partition_point(|s| s.compare(head, key) <= most);
        (path, count)
    }

    fn to_edge(root: &Arc<Node>, last: bool) -> Self {
        let mut path = Self { branches: Vec::new(), leaf: Arc::clone(root), at: None };
        path.descend(last);
        path
    }

    fn descend(&mut self, last: bool) {
        while let Node::Branch(children) = self.leaf.as_ref() {
            let i = if last { children.len() - 1 } else { 0 };
            let next = Arc::clone(&children[i].node);
            let branch = std::mem::replace(&mut self.leaf, next);
            self.branches.push((branch, i));
        }
    }

    fn slots(&self) -> &[Slot] {
        match self.leaf.as_ref() {
            Node::Leaf(slots) => slots,
            Node::Branch(_) => unreachable!("a path ends at a leaf"),
        }
    }

    fn slot(&self) -> Option<&Slot> {
        self.slots().get(self.at?)
    }

    fn forward(&mut self) {
        if let Some(at) = &mut self.at {
            *at += 1;
            self.settle_forward();
        }
    }

    fn backward(&mut self) {
        if let Some(at) = self.at {
            self.at = at.checked_sub(1);
            self.settle_backward();
        }
    }

    /// Past the end of a leaf: on to the first slot of the next one.
    fn settle_forward(&mut self) {
        if self.at.is_some_and(|at| at < self.slots().len()) {
            return;
        }
        while let Some((branch, i)) = self.branches.pop() {
            let Node::Branch(children) = branch.as_ref() else { unreachable!("only branches are kept") };
            if let Some(child) = children.get(i + 1) {
                self.leaf = Arc::clone(&child.node);
                self.branches.push((branch, i + 1));
                self.descend(false);
                self.at = Some(0);
                return;
            }
        }
        self.at = None;
    }

    /// Below the start of a leaf: back to the last slot of the one before.
    fn settle_backward(&mut self) {
        if self.at.is_some() {
            return;
        }
        while let Some((branch, i)) = self.branches.pop() {
            let Node::Branch(children) = branch.as_ref() else { unreachable!("only branches are kept") };
            if i > 0 {
                self.leaf = Arc::clone(&children[i - 1].node);
                self.branches.push((branch, i - 1));
                self.descend(true);
                self.at = self.slots().len().checked_sub(1);
                return;
            }
        }
    }
}
