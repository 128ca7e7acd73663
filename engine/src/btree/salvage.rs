//! Reading a tree that is damaged: everything that is intact, and where the holes are.

use super::node::{Branch, CellValue, Leaf, Rule};
use super::{HEIGHT_MAX, broken};
use crate::pager::{PageError, PageKind, PageRead, PageRef};

/// A page that cannot be read, and what it was for.
#[derive(Debug)]
pub(crate) struct Hole {
    pub(crate) page: PageRef,
    /// 0: a leaf.
    pub(crate) level: u8,
    pub(crate) low: Vec<u8>,
    pub(crate) high: Option<Vec<u8>>,
    pub(crate) error: PageError,
}

/// What a walk meets.
pub(crate) enum Met<'m> {
    /// A page of the tree, readable or not.
    Page(u64),
    Row(&'m [u8], CellValue<'m>),
    Hole(Hole),
}

/// A subtree: where it is, and the keys that it is for.
pub(crate) struct Subtree {
    pub(crate) page: PageRef,
    pub(crate) level: u8,
    pub(crate) low: Vec<u8>,
    pub(crate) high: Option<Vec<u8>>,
}

/// Walks a subtree and tells all that it meets. Rows out of their bounds are not told: nobody could have looked them up.
pub(crate) fn walk_damaged<P: PageRead, E>(
    pages: &P,
    at: Subtree,
    meet: &mut dyn FnMut(Met<'_>) -> Result<(), E>,
) -> Result<(), E> {
    meet(Met::Page(at.page.no))?;
    let kind = if at.level == 0 { PageKind::Leaf } else { PageKind::Branch };
    let hole = |at: Subtree, error| Hole { page: at.page, level: at.level, low: at.low, high: at.high, error };
    let body = match pages.page(at.page, kind) {
        // Copied: the way down is long, and a page may pin a frame.
        Ok(page) => page.bytes().to_vec(),
        Err(error) => return meet(Met::Hole(hole(at, error))),
    };
    if at.level > 0 {
        return match children(&body, &at) {
            Ok(children) => children.into_iter().try_for_each(|child| walk_damaged(pages, child, meet)),
            Err(rule) => {
                let error = broken(pages, at.page, rule);
                meet(Met::Hole(hole(at, error)))
            }
        };
    }
    let leaf = match Leaf::parse(&body) {
        Ok(leaf) => leaf,
        Err(rule) => {
            let error = broken(pages, at.page, rule);
            return meet(Met::Hole(hole(at, error)));
        }
    };
    for i in 0..leaf.len() {
        let entry = leaf.key(i).and_then(|key| Ok((key, leaf.value(&leaf.cell(i)?)?)));
        match entry {
            Ok((key, value)) if *key >= *at.low && at.high.as_ref().is_none_or(|high| key < *high) => {
                meet(Met::Row(&key, value))?;
            }
            Ok(_) => {}
            Err(rule) => {
                // Its rows so far were told; the seal holds, so that this is a writer's mistake, not the disk's.
                let error = broken(pages, at.page, rule);
                return meet(Met::Hole(hole(at, error)));
            }
        }
    }
    Ok(())
}

fn children(body: &[u8], at: &Subtree) -> Result<Vec<Subtree>, Rule> {
    let branch = Branch::parse(body, at.level)?;
    let mut low = at.low.clone();
    let mut children = Vec::with_capacity(branch.len());
    for i in 0..branch.len() {
        let high = if i + 1 < branch.len() { Some(branch.separator(i)?) } else { at.high.clone() };
        if high.as_ref().is_some_and(|high| *high <= low) || (at.high.is_some() && high > at.high) {
            return Err("separators lie within the bounds of their branch");
        }
        let next = high.clone().unwrap_or_default();
        children.push(Subtree { page: branch.child(i), level: at.level - 1, low, high });
        low = next;
    }
    Ok(children)
}

/// What a node says by itself, without its parent.
pub(crate) struct NodeFacts {
    pub(crate) level: u8,
    /// A leaf's first and last key; a branch's first and last separator.
    pub(crate) ends: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) children: Vec<PageRef>,
}

/// Reads a node that nobody names; `None`: it is none.
pub(crate) fn node_facts(kind: PageKind, body: &[u8]) -> Option<NodeFacts> {
    match kind {
        PageKind::Leaf => {
            let leaf = Leaf::parse(body).ok()?;
            let ends = (leaf.key(0).ok()?, leaf.key(leaf.len() - 1).ok()?);
            Some(NodeFacts { level: 0, ends: Some(ends), children: Vec::new() })
        }
        PageKind::Branch => {
            let level = *body.first().filter(|&&level| (1..HEIGHT_MAX).contains(&level))?;
            let branch = Branch::parse(body, level).ok()?;
            let last = branch.len().checked_sub(2);
            let ends = last.map(|last| Some((branch.separator(0).ok()?, branch.separator(last).ok()?)));
            let children = (0..branch.len()).map(|i| branch.child(i)).collect();
            Some(NodeFacts { level, ends: ends.flatten(), children })
        }
        _ => None,
    }
}
