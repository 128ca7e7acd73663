//! Nodes of the persistent tree: search and insert. Sharing is by `Arc`: leaves are added to where they are, a branch
//! is copied once, by `Arc::make_mut`, before it changes. Nothing is ever removed: a deletion is an entry, too.

use std::sync::Arc;

use super::leaf::{Leaf, SLOTS_MAX, Version};
use super::segments::{Place, Segments};

/// Children of a branch at most. Copying a branch counts up a reference for each.
const CHILDREN_MAX: usize = 32;

/// Entries of one leaf at most when it is made: some room is left.
const MADE_MAX: usize = SLOTS_MAX * 3 / 4;

#[derive(Clone)]
pub(super) enum Node {
    Leaf(Arc<Leaf>),
    Branch(Arc<Branch>),
}

/// Children and the least key that each may hold; the first one's says nothing.
#[derive(Clone)]
pub(super) struct Branch {
    lows: Vec<Low>,
    pub(super) children: Vec<Node>,
}

/// A key of the table.
#[derive(Clone, Copy)]
struct Low {
    head: u64,
    place: Place,
    len: u16,
}

/// A new right neighbour and the least key it holds.
pub(super) struct Split {
    low: Low,
    node: Node,
}

/// What an insert did to the nodes of this version.
#[derive(Default)]
pub(super) struct Grown {
    pub(super) bytes: u64,
    pub(super) split: Option<Split>,
}

impl Low {
    fn of(version: &Version) -> Self {
        Self { head: version.head, place: version.place, len: version.key_len }
    }
}

impl Branch {
    const EACH_BYTES: u64 = (size_of::<Low>() + size_of::<Node>()) as u64;
    const BYTES: u64 = size_of::<Self>() as u64 + 32;

    /// Returns which child holds `key` if any does.
    pub(super) fn child_of(&self, segments: &Segments, head: u64, key: &[u8]) -> usize {
        self.lows[1..].partition_point(|low| {
            low.head < head || (low.head == head && segments.bytes(low.place, usize::from(low.len)) <= key)
        })
    }

    fn insert(&mut self, at: usize, split: Split) {
        self.lows.insert(at, split.low);
        self.children.insert(at, split.node);
    }

    /// Cuts off the right part; behind an insert at the very end only that one.
    fn split(&mut self, at_end: bool) -> Split {
        let middle = if at_end { self.children.len() - 1 } else { self.children.len() / 2 };
        let right = Self { lows: self.lows.split_off(middle), children: self.children.split_off(middle) };
        Split { low: right.lows[0], node: Node::Branch(Arc::new(right)) }
    }
}

impl Node {
    /// Returns the leaf that holds `key` if any does.
    pub(super) fn leaf_of(&self, segments: &Segments, head: u64, key: &[u8]) -> &Leaf {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(leaf) => return leaf,
                Self::Branch(branch) => node = &branch.children[branch.child_of(segments, head, key)],
            }
        }
    }

    /// Puts an entry below this node, whose leaf for it is full.
    pub(super) fn insert(&mut self, segments: &Segments, key: &[u8], new: &Version) -> Grown {
        match self {
            Self::Leaf(leaf) => {
                let (left, right) = make_room(leaf, segments, key, new);
                *leaf = Arc::new(left);
                let Some((low, right)) = right else { return Grown::default() };
                let split = Split { low: Low::of(&low), node: Self::Leaf(Arc::new(right)) };
                Grown { bytes: Leaf::BYTES, split: Some(split) }
            }
            Self::Branch(branch) => {
                let branch = Arc::make_mut(branch);
                let i = branch.child_of(segments, new.head, key);
                let mut grown = branch.children[i].insert(segments, key, new);
                let Some(split) = grown.split.take() else { return grown };
                branch.insert(i + 1, split);
                grown.bytes += Branch::EACH_BYTES;
                if branch.children.len() > CHILDREN_MAX {
                    grown.split = Some(branch.split(i + 2 == branch.children.len()));
                    grown.bytes += Branch::BYTES;
                }
                grown
            }
        }
    }

    /// Puts a new root over the old one and its new neighbour; returns the bytes that it takes.
    pub(super) fn grow(&mut self, split: Split) -> u64 {
        // The first one's key is looked at by nobody.
        let branch = Branch { lows: vec![split.low, split.low], children: vec![self.clone(), split.node] };
        *self = Self::Branch(Arc::new(branch));
        Branch::BYTES + 2 * Branch::EACH_BYTES
    }

    /// Returns a copy, leaves included, without what later commits have added.
    pub(super) fn as_of(&self, commit_no: u64) -> Self {
        match self {
            Self::Leaf(leaf) => {
                let versions: Vec<Version> = leaf.versions(commit_no).collect();
                Self::Leaf(Arc::new(Leaf::new(&versions)))
            }
            Self::Branch(branch) => {
                let children = branch.children.iter().map(|child| child.as_of(commit_no)).collect();
                Self::Branch(Arc::new(Branch { lows: branch.lows.clone(), children }))
            }
        }
    }
}

/// Makes one or two leaves out of a full one: the newest version of each key, and a new one among them. Behind an
/// insert at the very end only that one goes to the right, so that ascending keys leave full leaves.
fn make_room(full: &Leaf, segments: &Segments, key: &[u8], new: &Version) -> (Leaf, Option<(Version, Leaf)>) {
    let sorted = full.sorted(segments, u64::MAX);
    let mut versions: Vec<Version> = (0..sorted.len()).map(|i| full.version(&sorted, i)).collect();
    let at_end = match versions.binary_search_by(|version| version.compare(segments, new.head, key)) {
        Ok(at) => {
            versions[at] = *new;
            false
        }
        Err(at) => {
            versions.insert(at, *new);
            at == versions.len() - 1
        }
    };
    let len = versions.len();
    let middle = match at_end {
        _ if len <= MADE_MAX => return (Leaf::new(&versions), None),
        true => len - 1,
        false => len / 2,
    };
    let (left, right) = versions.split_at(middle);
    (Leaf::new(left), Some((right[0], Leaf::new(right))))
}

/// Walks what a commit shows, panics where an invariant does not hold, returns (entries, bytes).
#[cfg(test)]
pub(super) fn check(
    node: &Node,
    segments: &Segments,
    commit_no: u64,
    low: Option<&[u8]>,
    high: Option<&[u8]>,
) -> (u64, u64) {
    match node {
        Node::Leaf(leaf) => {
            let sorted = leaf.sorted(segments, commit_no);
            assert!(sorted.len() > 0, "no leaf is empty");
            let keys: Vec<&[u8]> = (0..sorted.len()).map(|i| leaf.version(&sorted, i).key(segments)).collect();
            assert!(keys.windows(2).all(|w| w[0] < w[1]), "keys ascend");
            assert!(low.is_none_or(|low| low <= keys[0]) && high.is_none_or(|high| keys[keys.len() - 1] < high));
            (sorted.len() as u64, Leaf::BYTES)
        }
        Node::Branch(branch) => {
            assert!(branch.children.len() == branch.lows.len() && branch.children.len() <= CHILDREN_MAX);
            let key_of = |low: &Low| segments.bytes(low.place, usize::from(low.len));
            let (mut entries, mut bytes) = (0, Branch::BYTES + Branch::EACH_BYTES * branch.lows.len() as u64);
            for (i, child) in branch.children.iter().enumerate() {
                let from = if i == 0 { low } else { Some(key_of(&branch.lows[i])) };
                let to = branch.lows.get(i + 1).map(key_of).or(high);
                let (e, b) = check(child, segments, commit_no, from, to);
                entries += e;
                bytes += b;
            }
            (entries, bytes)
        }
    }
}
