//! Packs leaves that are half empty into fewer ones, in steps.
//!
//! A step looks at branches of level 1, from left to right: where the leaves of one would fit fewer pages by a good
//! part, all of them are built anew, filled up (`apply_packed`); else they stay. What it says of how many pages they
//! would take is a bound from above: keys that leaves shorten by their own beginning are counted in full, but for what
//! all keys of the branch have in common. Entries are counted one by one, as none is cut: pages of long ones are never
//! full. So packing never makes a tree longer, and what was packed is not packed again.
//!
//! Memory: a copy of one node per level, six bytes for each entry below one of level 1, and one key per leaf of the step.

use super::apply::{EditValue, Edits, apply_packed};
use super::build::{room_of, uvarint_len};
use super::node::{Branch, Leaf, NODE_HEADER_BYTES, Rule};
use super::{HEIGHT_MAX, TreeRoot, broken};
use crate::pager::{PageError, PageKind, PageRead, PageRef, PageWrite};

/// How leaves are packed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing {
    /// At least so many percent of them must become superfluous by it.
    pub(crate) gain: u64,
    /// So many percent of a page are filled.
    pub(crate) fill: usize,
}

/// Goes on from the leaves that hold `from` and what follows, until `budget` leaves were looked at or the tree is at its
/// end. Leaves are packed where `Packing` says that it is worth it. Returns the new root, and
/// where the next step goes on: `None` at the end. After an error, what was written belongs to no tree.
pub(crate) fn pack<W: PageWrite>(
    pages: &mut W,
    root: &TreeRoot,
    from: &[u8],
    how: Packing,
    budget: &mut u64,
) -> Result<(TreeRoot, Option<Vec<u8>>), PageError> {
    let Some(at) = root.page.filter(|_| root.height > 1) else { return Ok((*root, None)) };
    if root.height > HEIGHT_MAX {
        return Err(broken(pages, at, "a tree has pages up to its height, which is at most 16"));
    }
    let (each, touches) = (&mut |_| {}, Some(Vec::new()));
    let mut plan = Plan { pages, how, budget, from, touches, gain: Gain::default(), each, stop: None };
    plan.branch(at, root.height - 1, &[], None)?;
    let Plan { touches, stop, .. } = plan;
    let touches = touches.unwrap_or_default();
    let root = apply_packed(pages, root, &mut Touches { keys: touches, at: 0 }, how.fill)?;
    Ok((root, stop))
}

/// What packing a tree would come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gain {
    /// Leaves that would be written.
    pub(crate) packed: u64,
    /// Leaves that the tree would have less, at least.
    pub(crate) fewer: u64,
}

/// Foretells what packing all of a tree would come to; reads its leaves and changes nothing. `each` is told the numbers of
/// the leaves that would be packed.
pub(crate) fn gain<P: PageRead>(
    pages: &P,
    root: &TreeRoot,
    how: Packing,
    each: &mut dyn FnMut(u64),
) -> Result<Gain, PageError> {
    let Some(at) = root.page.filter(|_| root.height > 1) else { return Ok(Gain::default()) };
    if root.height > HEIGHT_MAX {
        return Err(broken(pages, at, "a tree has pages up to its height, which is at most 16"));
    }
    let budget = &mut u64::MAX.clone();
    let mut plan = Plan { pages, how, budget, from: &[], touches: None, gain: Gain::default(), each, stop: None };
    plan.branch(at, root.height - 1, &[], None)?;
    Ok(plan.gain)
}

struct Plan<'p, P> {
    pages: &'p P,
    how: Packing,
    budget: &'p mut u64,
    from: &'p [u8],
    /// The lowest keys that leaves to be packed may have; none where they are only counted.
    touches: Option<Vec<Vec<u8>>>,
    gain: Gain,
    each: &'p mut dyn FnMut(u64),
    stop: Option<Vec<u8>>,
}

impl<P: PageRead> Plan<'_, P> {
    fn read<T>(&self, at: PageRef, read: Result<T, Rule>) -> Result<T, PageError> {
        read.map_err(|rule| broken(self.pages, at, rule))
    }

    /// Looks at a branch whose keys are at or above `low` and below `upper`.
    fn branch(&mut self, at: PageRef, level: u8, low: &[u8], upper: Option<&[u8]>) -> Result<(), PageError> {
        let body = self.pages.page(at, PageKind::Branch)?.bytes().to_vec();
        let branch = self.read(at, Branch::parse(&body, level))?;
        let mut lows = vec![low.to_vec()];
        for i in 1..branch.len() {
            let next = self.read(at, branch.separator(i - 1))?;
            // Each node has a range of its own, so that no page is walked twice, whatever a damaged one says.
            if next <= lows[i - 1] || upper.is_some_and(|upper| *next >= *upper) {
                return Err(broken(self.pages, at, "separators lie within the bounds of their branch"));
            }
            lows.push(next);
        }
        if level == 1 {
            return self.leaves(&branch, lows);
        }
        let first = self.read(at, branch.child_of(self.from))?.min(branch.len() - 1);
        for (i, low) in lows.iter().enumerate().skip(first) {
            if *self.budget == 0 && self.stop.is_none() && i > first {
                self.stop = Some(low.clone());
            }
            if self.stop.is_some() {
                break;
            }
            let end = lows.get(i + 1).map(Vec::as_slice).or(upper);
            self.branch(branch.child(i), level - 1, low, end)?;
        }
        Ok(())
    }

    /// Looks at all leaves of a branch.
    fn leaves(&mut self, branch: &Branch<'_>, lows: Vec<Vec<u8>>) -> Result<(), PageError> {
        let mut entries = Vec::new();
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for i in 0..branch.len() {
            let at = branch.child(i);
            let body = self.pages.page(at, PageKind::Leaf)?;
            let leaf = self.read(at, Leaf::parse(&body))?;
            if i == 0 {
                first = self.read(at, leaf.key(0))?;
            }
            if i + 1 == branch.len() {
                last = self.read(at, leaf.key(leaf.len() - 1))?;
            }
            for i in 0..leaf.len() {
                let cell = self.read(at, leaf.cell(i))?;
                entries.push(Entry {
                    prefix: leaf.prefix().len() as u16,
                    suffix: (cell.value - cell.key) as u16,
                    value: (cell.end - cell.value) as u16,
                });
            }
        }
        *self.budget = self.budget.saturating_sub(branch.len() as u64);
        let common = first.iter().zip(&last).take_while(|(a, b)| a == b).count();
        let body_bytes = self.pages.body_bytes();
        let packed = pages_of(&entries, common, body_bytes * self.how.fill / 100, body_bytes);
        let (now, packed) = (branch.len() as u64, packed as u64);
        if packed < now && (now - packed) * 100 >= now * self.how.gain {
            self.gain.packed += packed;
            self.gain.fewer += now - packed;
            (0..branch.len()).for_each(|i| (self.each)(branch.child(i).no));
            if let Some(touches) = &mut self.touches {
                touches.extend(lows);
            }
        }
        Ok(())
    }
}

/// Lengths of an entry: its key in two parts, and its value as it stands in the leaf.
struct Entry {
    prefix: u16,
    suffix: u16,
    value: u16,
}

/// Counts the pages that these entries fill one after the other, where no page has more of its keys in common than all.
fn pages_of(entries: &[Entry], common: usize, limit: usize, body_bytes: usize) -> usize {
    let empty = NODE_HEADER_BYTES + common;
    let (mut pages, mut used) = (1, empty);
    for entry in entries {
        let (key, value) = (usize::from(entry.prefix) + usize::from(entry.suffix), usize::from(entry.value));
        let bytes = 4 + 2 + uvarint_len(key) + uvarint_len(value << 1) + key.saturating_sub(common) + value;
        if used > empty && used + bytes > room_of(used, limit, body_bytes) {
            (pages, used) = (pages + 1, empty);
        }
        used += bytes;
    }
    pages
}

/// Touches leaves.
struct Touches {
    keys: Vec<Vec<u8>>,
    at: usize,
}

impl Edits for Touches {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.keys.get(self.at).map(|key| (&key[..], EditValue::Touch))
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.at += 1;
        Ok(())
    }
}
