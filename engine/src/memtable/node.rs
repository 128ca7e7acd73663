//! Nodes of the persistent tree: search, insert, remove. Sharing is by `Arc`; a shared node is copied once, by
//! `Arc::make_mut`, before it changes.

use std::cmp::Ordering;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{Head, Record};

/// Slots of a leaf at most. The first change of a leaf after a publication copies it and counts up a reference
/// per slot; a narrower leaf makes that cheaper and the tree deeper. In a first try with
/// 16, 32 and 64 (2026-11-22, two busy cores of an AMD EPYC, one run each) reads and scans were best with 64 and
/// batches of random keys cost the same.
const LEAF_MAX: usize = 64;

/// Children of a branch at most: branches are few and stay in the cache.
const BRANCH_MAX: usize = 64;

#[derive(Clone)]
pub(crate) enum Node {
    Leaf(Vec<Slot>),
    Branch(Vec<Child>),
}

#[derive(Clone)]
pub(crate) struct Slot {
    head: Head,
    /// The commit that wrote this version, as far as this open knows.
    pub(crate) commit_no: u64,
    pub(crate) record: Record,
}

#[derive(Clone)]
pub(crate) struct Child {
    head: Head,
    /// No key of this child is less; without meaning in a branch's first child.
    low: Bytes,
    pub(crate) node: Arc<Node>,
}

#[derive(PartialEq, Eq, Debug)]
pub(super) enum Removed {
    TreeIsEmpty,
    TreeHasKeys,
}

impl Slot {
    pub(super) fn new(record: Record, commit_no: u64) -> Self {
        Self { head: Head::of(record.key()), commit_no, record }
    }

    pub(super) fn compare(&self, head: Head, key: &[u8]) -> Ordering {
        self.head.compare(self.record.key(), head, key)
    }
}

impl Child {
    fn starting_at(low: &[u8], node: Node) -> Self {
        // Copied: a slice of the record would keep the record's value alive.
        Self { head: Head::of(low), low: Bytes::copy_from_slice(low), node: Arc::new(node) }
    }
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(slots) => slots.len(),
            Self::Branch(children) => children.len(),
        }
    }

    fn max(&self) -> usize {
        match self {
            Self::Leaf(_) => LEAF_MAX,
            Self::Branch(_) => BRANCH_MAX,
        }
    }
}

/// Returns the index of the child that holds `key` if any does.
pub(super) fn child_of(children: &[Child], head: Head, key: &[u8]) -> usize {
    children[1..].partition_point(|c| c.head.compare(&c.low, head, key) != Ordering::Greater)
}

/// Puts a slot below `node`; returns the slot it replaced, and the new right neighbour where `node` was split.
pub(super) fn insert(node: &mut Arc<Node>, slot: Slot) -> (Option<Slot>, Option<Child>) {
    match Arc::make_mut(node) {
        Node::Leaf(slots) => match slots.binary_search_by(|s| s.compare(slot.head, slot.record.key())) {
            Ok(i) => (Some(mem::replace(&mut slots[i], slot)), None),
            Err(i) => (
                None,
                insert_at(slots, i, slot, LEAF_MAX).map(|right| {
                    let low = right[0].record.key_bytes();
                    Child::starting_at(&low, Node::Leaf(right))
                }),
            ),
        },
        Node::Branch(children) => {
            let i = child_of(children, slot.head, slot.record.key());
            let (replaced, split) = insert(&mut children[i].node, slot);
            let Some(right) = split else { return (replaced, None) };
            let split = insert_at(children, i + 1, right, BRANCH_MAX).map(|right| {
                let low = right[0].low.clone();
                Child::starting_at(&low, Node::Branch(right))
            });
            (replaced, split)
        }
    }
}

/// Inserts into a node's vector; a full one is split first and its right part returned. An insert at the very
/// end leaves the left part full, so that ascending keys fill their leaves.
fn insert_at<T>(items: &mut Vec<T>, at: usize, item: T, max: usize) -> Option<Vec<T>> {
    if items.len() < max {
        items.insert(at, item);
        return None;
    }
    let middle = if at == items.len() { at } else { items.len() / 2 };
    let mut right = items.split_off(middle);
    match at.checked_sub(middle) {
        Some(at) => right.insert(at, item),
        None => items.insert(at, item),
    }
    Some(right)
}

/// Puts a new root above a root that was split.
pub(super) fn grow(root: &mut Arc<Node>, right: Child) {
    let left = Child { head: Head::of(b""), low: Bytes::new(), node: Arc::clone(root) };
    *root = Arc::new(Node::Branch(vec![left, right]));
}

/// Removes a key below `node`.
pub(super) fn remove(node: &mut Arc<Node>, head: Head, key: &[u8]) -> Option<Slot> {
    match Arc::make_mut(node) {
        Node::Leaf(slots) => {
            let i = slots.binary_search_by(|s| s.compare(head, key)).ok()?;
            Some(slots.remove(i))
        }
        Node::Branch(children) => {
            let i = child_of(children, head, key);
            let removed = remove(&mut children[i].node, head, key)?;
            match children[i].node.len() {
                0 => {
                    children.remove(i);
                }
                n if n < children[i].node.max() / 4 => join_neighbours(children, i),
                _ => {}
            }
            Some(removed)
        }
    }
}

/// Joins child `i` with a neighbour where both fit comfortably.
fn join_neighbours(children: &mut Vec<Child>, i: usize) {
    let left = if i > 0 { i - 1 } else { i };
    if left + 1 >= children.len() {
        return;
    }
    // Below a quarter a node is joined with a neighbour if both fit in three quarters of a node.
    if children[left].node.len() + children[left + 1].node.len() > children[left].node.max() * 3 / 4 {
        return;
    }
    let right = children.remove(left + 1);
    let Child { head, low, node } = right;
    match (Arc::make_mut(&mut children[left].node), Arc::unwrap_or_clone(node)) {
        (Node::Leaf(a), Node::Leaf(b)) => a.extend(b),
        (Node::Branch(a), Node::Branch(mut b)) => {
            // A first child's own `low` says nothing; its parent's does.
            b[0].head = head;
            b[0].low = low;
            a.extend(b);
        }
        _ => unreachable!("neighbours are on one level"),
    }
}

/// Takes away root branches with a single child, and says whether anything is left.
pub(super) fn shrink(root: &mut Arc<Node>) -> Removed {
    loop {
        let only = match root.as_ref() {
            Node::Branch(children) if children.len() == 1 => Arc::clone(&children[0].node),
            node if node.len() == 0 => return Removed::TreeIsEmpty,
            _ => return Removed::TreeHasKeys,
        };
        *root = only;
    }
}

/// Collects the slots below `node` in order and checks bounds and fill.
#[cfg(test)]
pub(super) fn check<'a>(node: &'a Node, root: bool, low: Option<&[u8]>, high: Option<&[u8]>, out: &mut Vec<&'a Slot>) {
    assert!(root || node.len() > 0, "no node but a root is empty");
    assert!(node.len() <= node.max(), "no node is over-full");
    match node {
        Node::Leaf(slots) => {
            for slot in slots {
                assert!(low.is_none_or(|l| l <= slot.record.key()) && high.is_none_or(|h| slot.record.key() < h));
                assert!(slot.head == Head::of(slot.record.key()));
                out.push(slot);
            }
        }
        Node::Branch(children) => {
            for (i, child) in children.iter().enumerate() {
                let low = if i == 0 { low } else { Some(&child.low[..]) };
                let high = children.get(i + 1).map_or(high, |c| Some(&c.low[..]));
                check(&child.node, false, low, high, out);
            }
        }
    }
}
