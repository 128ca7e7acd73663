//! Leaves of the tree of roots and of the catalogue whose branch is lost. Their rows say what they are: a root proves itself
//! by the page that it names, a name by a number that no other name has.

use std::collections::{HashMap, HashSet};

use super::subtree_of;
use crate::btree::{CellValue, Met, Subtree, TreeRoot, walk_damaged};
use crate::disk::decode_root;
use crate::history::decode_names_value;
use crate::limits::TREES_MAX;
use crate::pager::{PageKind, PageRef, Space, first_page};
use crate::snapshot::Root;
use crate::txn::CATALOGUE;

/// A bit for each page of the file.
#[derive(Clone)]
pub(super) struct PageSet(Vec<u64>);

impl PageSet {
    pub(super) fn new(end: u64) -> Self {
        Self(vec![0; end.div_ceil(64) as usize])
    }

    pub(super) fn insert(&mut self, no: u64) {
        if let Some(word) = self.0.get_mut((no / 64) as usize) {
            *word |= 1 << (no % 64);
        }
    }

    pub(super) fn has(&self, no: u64) -> bool {
        self.0.get((no / 64) as usize).is_some_and(|word| word >> (no % 64) & 1 == 1)
    }
}

/// A page in use that nobody names, whole and with a value in each row that a caller wants.
pub(super) struct LooseLeaf<T> {
    pub(super) no: u64,
    pub(super) rows: Vec<(Vec<u8>, T)>,
}

/// Looks through all leaves that are in use and not `reached`. `read` returns what a row says, or that it is none of those
/// that are looked for; a leaf is returned if all of its rows are.
fn loose_leaves<'r, T>(
    root: &'r Root,
    space: &'r Space,
    end: u64,
    reached: PageSet,
    read: impl Fn(&[u8], &[u8]) -> Option<T> + 'r,
) -> impl Iterator<Item = LooseLeaf<T>> + 'r {
    let in_use = move |no: &u64| space.is_named(*no) && !reached.has(*no);
    (first_page(root.pages.page_bytes())..end).filter(in_use).filter_map(move |no| {
        let alone = root.pages.open_alone(no).ok()?.ok()?;
        if alone.kind != PageKind::Leaf {
            return None;
        }
        let mut rows = Vec::new();
        let at = Subtree { page: alone.at, level: 0, low: Vec::new(), high: None };
        let walked = walk_damaged(root, at, &mut |met| match met {
            Met::Page(_) => Ok(()),
            Met::Row(key, CellValue::Inline(value)) => {
                rows.push((key.to_vec(), read(key, value).ok_or(())?));
                Ok(())
            }
            Met::Row(..) | Met::Hole(_) => Err(()),
        });
        walked.is_ok().then_some(LooseLeaf { no, rows })
    })
}

/// Returns the tree that a row of the tree of roots is of, and its root. spec: E-38
pub(super) fn read_root(key: &[u8], value: &[u8]) -> Option<(u32, TreeRoot)> {
    let tree = u32::from_be_bytes(key.try_into().ok()?);
    (tree as usize <= TREES_MAX).then_some((tree, decode_root(value)?))
}

/// Finds leaves of the tree of roots that its branches no longer lead to.
pub(super) fn root_leaves(root: &Root, space: &Space, end: u64) -> Vec<LooseLeaf<(u32, TreeRoot)>> {
    let mut reached = PageSet::new(end);
    mark(root, &root.roots, &mut reached);
    let is_there = |at: PageRef| matches!(root.pages.open_alone(at.no), Ok(Ok(alone)) if alone.at == at);
    loose_leaves(root, space, end, reached, read_root)
        .filter(|leaf| leaf.rows.iter().any(|(_, (_, tree))| tree.page.is_some_and(is_there)))
        .collect()
}

/// Finds leaves of the catalogue that no tree leads to. `reached`: pages that are no tree's; `named`: numbers whose name is
/// known; `trees`: all numbers are below it. Leaves that give one number two names are left out. spec: E-14
pub(super) fn name_leaves(
    root: &Root,
    space: &Space,
    end: u64,
    mut reached: PageSet,
    named: &HashSet<u32>,
    trees: u32,
) -> Vec<LooseLeaf<(u32, Vec<u8>)>> {
    for tree in &root.trees {
        mark(root, tree, &mut reached);
    }
    let is_free = |number: &u32| *number != CATALOGUE && *number < trees && !named.contains(number);
    let read = |name: &[u8], value: &[u8]| {
        let number = decode_names_value(value).map(|(number, _)| number).filter(is_free)?;
        std::str::from_utf8(name).is_ok().then(|| (number, value.to_vec()))
    };
    let mut leaves: Vec<_> = loose_leaves(root, space, end, reached, read).collect();
    let mut names: HashMap<u32, u32> = HashMap::new();
    for (_, (number, _)) in leaves.iter().flat_map(|leaf| &leaf.rows) {
        *names.entry(*number).or_default() += 1;
    }
    leaves.retain(|leaf| leaf.rows.iter().all(|(_, (number, _))| names[number] == 1));
    leaves
}

fn mark(root: &Root, tree: &TreeRoot, reached: &mut PageSet) {
    let Some(at) = subtree_of(tree) else { return };
    let walked: Result<(), ()> = walk_damaged(root, at, &mut |met| {
        if let Met::Page(no) = met {
            reached.insert(no);
        }
        Ok(())
    });
    let Ok(()) = walked else { unreachable!("nothing here fails") };
}
