//! Nodes of the persistent tree: search and insert. Sharing is by `Arc`; a shared node is copied once, by
//! `Arc::make_mut`, before it changes. Nothing is ever removed: a deletion is an entry, too.

use std::sync::Arc;

use super::leaf::{Leaf, New, Put, SLOTS_MAX, head_of};

/// Children of a branch at most. Copying a branch counts up a reference for each.
const CHILDREN_MAX: usize = 32;

#[derive(Clone)]
pub(super) enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

/// Children and the least key that each may hold; the first one's says nothing.
#[derive(Clone, Default)]
pub(super) struct Branch {
    lows: Vec<Low>,
    keys: Vec<u8>,
    pub(super) children: Vec<Arc<Node>>,
}

#[derive(Clone, Copy)]
struct Low {
    head: u64,
    at: u32,
    len: u16,
}

/// What an insert did to the tree.
pub(super) struct Inserted {
    pub(super) put: Put,
    /// By how many bytes the nodes of this version grew.
    pub(super) grown: i64,
    pub(super) split: Option<Split>,
}

/// A new right neighbour and the least key it holds.
pub(super) struct Split {
    low: Box<[u8]>,
    node: Node,
}

impl Node {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Leaf(leaf) => leaf.bytes(),
            Self::Branch(branch) => branch.bytes(),
        }
    }
}

impl Branch {
    fn bytes(&self) -> u64 {
        let each = size_of::<Low>() + size_of::<Arc<Node>>();
        (size_of::<Self>() + each * self.children.len() + self.keys.len()) as u64
    }

    /// Returns which child holds `key` if any does.
    pub(super) fn child_of(&self, head: u64, key: &[u8]) -> usize {
        self.lows[1..].partition_point(|low| low.head < head || (low.head == head && self.key_of(low) <= key))
    }

    fn key_of(&self, low: &Low) -> &[u8] {
        &self.keys[low.at as usize..][..usize::from(low.len)]
    }

    fn insert(&mut self, at: usize, low: &[u8], node: Node) {
        let place = Low { head: head_of(low), at: self.keys.len() as u32, len: low.len() as u16 };
        self.keys.extend_from_slice(low);
        self.lows.insert(at, place);
        self.children.insert(at, Arc::new(node));
    }

    /// Cuts off the right part; behind an insert at the very end only that one.
    fn split(&mut self, at_end: bool) -> Split {
        let middle = if at_end { self.children.len() - 1 } else { self.children.len() / 2 };
        let children = self.children.split_off(middle);
        let right = Self::rebuilt(&self.keys, &self.lows[middle..], children);
        let low = self.key_of(&self.lows[middle]).into();
        self.lows.truncate(middle);
        *self = Self::rebuilt(&self.keys, &self.lows, std::mem::take(&mut self.children));
        Split { low, node: Node::Branch(right) }
    }

    fn rebuilt(keys: &[u8], lows: &[Low], children: Vec<Arc<Node>>) -> Self {
        let mut new = Self { lows: Vec::with_capacity(lows.len()), keys: Vec::new(), children };
        for low in lows {
            let at = new.keys.len() as u32;
            new.keys.extend_from_slice(&keys[low.at as usize..][..usize::from(low.len)]);
            new.lows.push(Low { at, ..*low });
        }
        new
    }
}

/// Puts an entry below `node`.
pub(super) fn insert(node: &mut Arc<Node>, head: u64, key: &[u8], new: New<'_>, commit_no: u64) -> Inserted {
    match Arc::make_mut(node) {
        Node::Leaf(leaf) => {
            let before = leaf.bytes();
            let put = leaf.put(head, key, new, commit_no);
            let mut split = None;
            if leaf.is_too_large() {
                // A leaf of few large entries is cut in the middle, wherever the insert was.
                let at_end = put.is_new && leaf.len() > SLOTS_MAX && leaf.key(leaf.len() - 1) == key;
                let right = leaf.split(at_end);
                split = Some(Split { low: right.key(0).into(), node: Node::Leaf(right) });
            }
            let right = split.as_ref().map_or(0, |s| s.node.bytes());
            let grown = (leaf.bytes() + right) as i64 - before as i64;
            Inserted { put, grown, split }
        }
        Node::Branch(branch) => {
            let i = branch.child_of(head, key);
            let mut inserted = insert(&mut branch.children[i], head, key, new, commit_no);
            let Some(split) = inserted.split.take() else { return inserted };
            let before = branch.bytes();
            branch.insert(i + 1, &split.low, split.node);
            if branch.children.len() > CHILDREN_MAX {
                inserted.split = Some(branch.split(i + 2 == branch.children.len()));
            }
            let right = inserted.split.as_ref().map_or(0, |s| s.node.bytes());
            inserted.grown += (branch.bytes() + right) as i64 - before as i64;
            inserted
        }
    }
}

/// Puts a new root over the old one and its new neighbour; returns the bytes that it takes.
pub(super) fn grow(root: &mut Arc<Node>, split: Split) -> u64 {
    let mut branch = Branch::default();
    branch.lows.push(Low { head: 0, at: 0, len: 0 });
    branch.children.push(Arc::clone(root));
    branch.insert(1, &split.low, split.node);
    let bytes = branch.bytes();
    *root = Arc::new(Node::Branch(branch));
    bytes
}

/// Walks everything, panics where an invariant does not hold, returns (entries, bytes).
#[cfg(test)]
pub(super) fn check(node: &Node, low: Option<&[u8]>, high: Option<&[u8]>) -> (u64, u64) {
    match node {
        Node::Leaf(leaf) => {
            assert!(leaf.len() > 0, "no leaf is empty");
            let keys: Vec<&[u8]> = (0..leaf.len()).map(|i| leaf.key(i)).collect();
            assert!(keys.windows(2).all(|w| w[0] < w[1]), "keys ascend");
            assert!(low.is_none_or(|low| low <= keys[0]) && high.is_none_or(|high| keys[keys.len() - 1] < high));
            (leaf.len() as u64, leaf.bytes())
        }
        Node::Branch(branch) => {
            assert!(branch.children.len() == branch.lows.len() && branch.children.len() <= CHILDREN_MAX);
            let (mut entries, mut bytes) = (0, branch.bytes());
            for (i, child) in branch.children.iter().enumerate() {
                let from = if i == 0 { low } else { Some(branch.key_of(&branch.lows[i])) };
                let to = branch.lows.get(i + 1).map(|low| branch.key_of(low)).or(high);
                let (e, b) = check(child, from, to);
                entries += e;
                bytes += b;
            }
            (entries, bytes)
        }
    }
}
