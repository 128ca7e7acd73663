//! A cursor over one tree of a table. It owns its path, so the tree it walks cannot go away; it keeps the table in
//! memory, so whoever stands still for long should seek again instead. A leaf it enters is sorted, as far as the version
//! shows it; what is added to the leaf later, no version that the cursor may be of shows.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use super::leaf::{Leaf, Sorted, Version, head_of};
use super::node::{Branch, Node};
use super::segments::Segments;
use super::{MemEntry, Shared};

/// Stands on an entry, or at the end.
pub(crate) struct MemCursor {
    root: Option<Node>,
    shared: Arc<Shared>,
    commit_no: u64,
    /// Leaves without anything that commits after this one have added are passed over.
    after: u64,
    branches: Vec<(Arc<Branch>, usize)>,
    leaf: Option<Arc<Leaf>>,
    sorted: Sorted,
    at: usize,
}

impl MemCursor {
    pub(super) fn new(root: Option<Node>, shared: Arc<Shared>, commit_no: u64, after: u64) -> Self {
        Self { root, shared, commit_no, after, branches: Vec::new(), leaf: None, sorted: Sorted::default(), at: 0 }
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
                self.sorted.len()
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
        let version = self.leaf.as_ref()?.version(&self.sorted, self.at);
        let segments = self.segments();
        let (key, value) = version.record(segments);
        Some((key, MemEntry { version, value, segments }))
    }

    fn segments(&self) -> &Segments {
        &self.shared.segments
    }

    /// Goes to the leaf of `key`; returns how many of its entries are below it, or at most at it.
    fn descend_to(&mut self, key: &[u8], with_equal: bool) -> usize {
        let head = head_of(key);
        self.descend_by(|segments, branch| branch.child_of(segments, head, key));
        let Some(leaf) = &self.leaf else { return 0 };
        let is_before = |version: Version| match version.compare(self.segments(), head, key) {
            Ordering::Less => true,
            Ordering::Equal => with_equal,
            Ordering::Greater => false,
        };
        (0..self.sorted.len()).take_while(|&at| is_before(leaf.version(&self.sorted, at))).count()
    }

    fn descend_to_edge(&mut self, last: bool) {
        self.descend_by(|_, branch| if last { branch.children.len() - 1 } else { 0 });
    }

    fn descend_by(&mut self, child_of: impl Fn(&Segments, &Branch) -> usize) {
        self.branches.clear();
        self.leaf = None;
        if let Some(root) = self.root.clone() {
            self.descend(root, child_of);
        }
    }

    /// Goes down to a leaf.
    fn descend(&mut self, mut node: Node, child_of: impl Fn(&Segments, &Branch) -> usize) {
        let leaf = loop {
            match node {
                Node::Leaf(leaf) => break leaf,
                Node::Branch(branch) => {
                    let i = child_of(self.segments(), &branch);
                    node = branch.children[i].clone();
                    self.branches.push((branch, i));
                }
            }
        };
        self.sorted = if self.after == 0 || leaf.has_since(self.after, self.commit_no) {
            leaf.sorted(self.segments(), self.commit_no)
        } else {
            Sorted::default()
        };
        self.leaf = Some(leaf);
    }

    /// Past the end of a leaf: on to the first entry of the next one.
    fn settle_forward(&mut self) {
        while self.leaf.is_some() && self.at >= self.sorted.len() {
            self.leaf = None;
            self.at = 0;
            while let Some((branch, i)) = self.branches.pop() {
                if let Some(next) = branch.children.get(i + 1).cloned() {
                    self.branches.push((branch, i + 1));
                    self.descend(next, |_, _| 0);
                    break;
                }
            }
        }
    }

    /// Goes to the last of the first `count` entries of this leaf, or of the leaf before where there are none.
    fn back_to(&mut self, mut count: usize) {
        while self.leaf.is_some() && count == 0 {
            self.leaf = None;
            while let Some((branch, i)) = self.branches.pop() {
                if i > 0 {
                    let before = branch.children[i - 1].clone();
                    self.branches.push((branch, i - 1));
                    self.descend(before, |_, branch| branch.children.len() - 1);
                    count = self.sorted.len();
                    break;
                }
            }
        }
        self.at = count.saturating_sub(1);
    }
}
