//! Walks a damaged store and fills a new one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use super::loose::{LooseLeaf, PageSet, name_leaves};
use super::{Damaged, Loss, SalvageProgress, SalvageReport, SalvagedTree, subtree_of, why};
use crate::backup::{Filler, RestoreError};
use crate::btree::{self, CellValue, Hole, Met, Subtree, TreeRoot, ValueRef, node_facts, walk_damaged};
use crate::error::ReadError;
use crate::history::decode_names_value;
use crate::limits::{KEY_BYTES_MAX, TREES_MAX, VALUE_BYTES_MAX};
use crate::memtable::{Mem, MemValue};
use crate::pager::{PAGE_HEADER_BYTES, PageRef, first_page};
use crate::store::Store;
use crate::txn::{CATALOGUE, TreeId};

/// Losses that a report names one by one; the rest is counted.
const LOSSES_MAX: usize = 65_536;
/// Trees for rows of which nobody can say which tree they are of: one for each time that keys overlap.
const UNPLACED_MAX: usize = 1000;
/// Bytes of a long value in memory at once.
const PIECE_BYTES: usize = 64 << 10;

/// A hole, whose it is, and what was found below it.
struct TreeHole {
    tree: u32,
    hole: Hole,
    found_again: u64,
}

/// A tree for rows that are of one of several.
struct Shelf {
    name: String,
    candidates: Vec<u32>,
    last: Option<Vec<u8>>,
    rows: u64,
}

/// No tree has this number.
const NO_TREE: u32 = u32::MAX;

/// What the catalogue says, in the order in which it was read: later rows replace earlier ones.
#[derive(Default)]
struct Names {
    found: Vec<(u32, String)>,
    twins: HashSet<u32>,
    with_history: BTreeSet<String>,
}

impl Names {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        match (std::str::from_utf8(key), decode_names_value(value)) {
            (Ok(""), Some((ledger, None))) => drop(self.twins.insert(ledger)),
            (Ok(name), Some((number, twin))) => {
                self.found.push((number, name.to_owned()));
                if let Some(twin) = twin {
                    self.twins.insert(twin.number);
                    self.with_history.insert(name.to_owned());
                }
            }
            _ => {}
        }
    }
}

/// A page in use that no walk has reached.
struct Orphan {
    page: PageRef,
    level: u8,
    ends: Option<(Vec<u8>, Vec<u8>)>,
}

impl Orphan {
    fn ends(&self) -> Option<(&[u8], &[u8])> {
        self.ends.as_ref().map(|(first, last)| (&first[..], &last[..]))
    }
}

pub(super) struct Saving<'s> {
    damaged: &'s Damaged,
    filler: Filler<'s>,
    pub(super) report: SalvageReport,
    progress: &'s mut dyn FnMut(SalvageProgress),
    told: SalvageProgress,
    reached: PageSet,
    names: HashMap<u32, String>,
    /// Rows of the catalogue that were read from pages.
    names_read: u64,
    /// Trees that hold what others held before, and the ledger: they are read past.
    twins: HashSet<u32>,
    /// By tree number: the tree in the new store, and rows found.
    targets: HashMap<u32, (TreeId, u64)>,
    holes: Vec<TreeHole>,
    value_buffer: Vec<u8>,
}

impl<'s> Saving<'s> {
    pub(super) fn new(damaged: &'s Damaged, store: &'s Store, progress: &'s mut dyn FnMut(SalvageProgress)) -> Self {
        let report = SalvageReport {
            commit_no: damaged.root().commit_no,
            log_commit_no: damaged.log_commit_no,
            older_header: damaged.older_header,
            ..SalvageReport::default()
        };
        Self {
            damaged,
            filler: Filler::new(store),
            report,
            progress,
            told: SalvageProgress { pages_total: damaged.end, ..SalvageProgress::default() },
            reached: PageSet::new(damaged.end),
            names: HashMap::new(),
            names_read: 0,
            twins: HashSet::new(),
            targets: HashMap::new(),
            holes: Vec::new(),
            value_buffer: Vec::new(),
        }
    }

    pub(super) fn all(&mut self) -> Result<(), RestoreError> {
        if let Some(why) = &self.damaged.roots_error {
            self.lose(Loss::Roots { why: why.clone() });
        }
        if let Some((after_commit, why)) = self.damaged.log_error.clone() {
            self.lose(Loss::Log { after_commit, why });
        }
        self.mark_own_pages();
        self.read_names()?;
        let roots = &self.damaged.root().trees;
        for tree in (0..roots.len() as u32).filter(|&tree| tree != CATALOGUE) {
            if self.twins.contains(&tree) {
                self.pass_over(tree, &roots[tree as usize]);
                continue;
            }
            if self.names.contains_key(&tree) || roots[tree as usize].page.is_some() {
                self.open_tree(tree)?;
            }
            if let Some(at) = subtree_of(&roots[tree as usize]) {
                self.subtree(tree, at, None)?;
            }
        }
        self.orphans()?;
        self.tables()?;
        self.end_report();
        self.report.rows = self.filler.rows;
        self.filler.finish()
    }

    fn lose(&mut self, loss: Loss) {
        if self.report.losses.len() < LOSSES_MAX {
            self.report.losses.push(loss);
        } else {
            self.report.more_losses += 1;
        }
    }

    /// Pages of a tree that is not saved are no orphans, nor are those below its holes.
    fn pass_over(&mut self, tree: u32, root: &TreeRoot) {
        let Some(at) = subtree_of(root) else { return };
        let walked: Result<(), ()> = walk_damaged(self.damaged.root(), at, &mut |met| {
            match met {
                Met::Page(no) => self.reached.insert(no),
                Met::Hole(hole) if tree != CATALOGUE => self.holes.push(TreeHole { tree, hole, found_again: 0 }),
                Met::Hole(_) | Met::Row(..) => {}
            }
            Ok(())
        });
        let Ok(()) = walked else { unreachable!("nothing here fails") };
    }

    /// Nor are those of the tree of roots and of the space.
    fn mark_own_pages(&mut self) {
        let damaged = self.damaged;
        // Its holes are told as `Loss::Roots`.
        self.pass_over(CATALOGUE, &damaged.root().roots);
        if let Ok(space) = &damaged.space {
            space.own_pages().for_each(|no| self.reached.insert(no));
        }
        damaged.loose_roots.iter().for_each(|&no| self.reached.insert(no));
    }

    /// Reads the catalogue, as far as it can be read.
    fn read_names(&mut self) -> Result<(), RestoreError> {
        let damaged = self.damaged;
        let mut names = Names::default();
        if let Some(at) = subtree_of(&damaged.root().tree(CATALOGUE)) {
            walk_damaged(damaged.root(), at, &mut |met| {
                match met {
                    Met::Page(no) => self.reached.insert(no),
                    Met::Row(key, CellValue::Inline(value)) => {
                        self.names_read += 1;
                        names.add(key, value);
                    }
                    Met::Row(..) => {}
                    Met::Hole(hole) => self.holes.push(TreeHole { tree: CATALOGUE, hole, found_again: 0 }),
                }
                Ok::<(), RestoreError>(())
            })?;
        }
        for (name, value) in self.loose_names(&names.found) {
            self.names_read += 1;
            names.add(&name, &value);
        }
        let mut cursor = damaged.layers.active.cursor(CATALOGUE);
        cursor.seek(Bound::Unbounded);
        while let Some((key, entry)) = cursor.entry() {
            if let MemValue::Put(value) = entry.value() {
                names.add(key, value);
            }
            cursor.next();
        }
        self.names.extend(names.found);
        self.twins = names.twins;
        self.report.without_history = names.with_history.into_iter().collect();
        Ok(())
    }

    /// Rows of the catalogue on leaves below its holes, or on any where its root is lost. The leaves do not count as reached:
    /// where one might as well be of a tree with holes, its rows are saved in a tree of their own, too.
    fn loose_names(&mut self, found: &[(u32, String)]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let damaged = self.damaged;
        let root = damaged.root();
        let is_root_lost = damaged.roots_error.is_some() && root.tree(CATALOGUE).page.is_none();
        let Ok(space) = &damaged.space else { return Vec::new() };
        if !is_root_lost && self.holes.iter().all(|hole| hole.hole.level == 0) {
            return Vec::new();
        }
        let named = found.iter().map(|(number, _)| *number).collect();
        // Trees that are empty have a name and no root.
        let names = root.tree(CATALOGUE).entries.min(TREES_MAX as u64) as usize;
        let trees = if damaged.roots_error.is_some() { TREES_MAX } else { root.trees.len() + names } as u32;
        let mut rows = Vec::new();
        for LooseLeaf { no: _, rows: leaf } in
            name_leaves(root, space, damaged.end, self.reached.clone(), &named, trees)
        {
            let (Some((first, _)), Some((last, _))) = (leaf.first(), leaf.last()) else { continue };
            let hole = self.holes.iter_mut().find(|hole| is_for(&hole.hole, 0, Some((first, last))));
            if is_root_lost || hole.is_some() {
                hole.into_iter().for_each(|hole| hole.found_again += leaf.len() as u64);
                rows.extend(leaf.into_iter().map(|(name, (_, value))| (name, value)));
            }
        }
        rows
    }

    fn name(&self, tree: u32) -> String {
        match tree {
            CATALOGUE => "the names of trees".to_owned(),
            NO_TREE => "lost+found".to_owned(),
            _ if self.twins.contains(&tree) => "history".to_owned(),
            _ => self.names.get(&tree).cloned().unwrap_or_else(|| self.beside(&format!("tree-{tree}"))),
        }
    }

    /// Returns the name of a tree for what cannot be placed: no tree of the damaged store has it, as an earlier salvage may
    /// have made that.
    fn beside(&self, what: &str) -> String {
        let mut name = format!("lost+found/{what}");
        while self.names.values().any(|taken| *taken == name) {
            name.push('\'');
        }
        name
    }

    fn open_tree(&mut self, tree: u32) -> Result<TreeId, RestoreError> {
        if let Some((target, _)) = self.targets.get(&tree) {
            return Ok(*target);
        }
        let name = self.name(tree);
        let target = self.filler.tree(&name)?;
        self.targets.insert(tree, (target, 0));
        Ok(target)
    }

    /// Saves all that can be read of a subtree. `below`: it was found below this hole.
    fn subtree(&mut self, tree: u32, at: Subtree, below: Option<usize>) -> Result<(), RestoreError> {
        let target = self.open_tree(tree)?;
        let damaged = self.damaged;
        walk_damaged(damaged.root(), at, &mut |met| {
            match met {
                Met::Page(no) => self.reach(no),
                Met::Hole(hole) => self.holes.push(TreeHole { tree, hole, found_again: 0 }),
                Met::Row(key, value) => {
                    if let Some((_, found)) = self.targets.get_mut(&tree) {
                        *found += 1;
                    }
                    if let Some(below) = below {
                        self.holes[below].found_again += 1;
                        self.report.rows_found_again += 1;
                    }
                    // What the log says is newer, and comes later.
                    if damaged.layers.in_tables(tree, key).is_none() {
                        self.row(target, tree, key, value)?;
                    }
                }
            }
            Ok(())
        })
    }

    fn reach(&mut self, no: u64) {
        self.reached.insert(no);
        self.told.pages += 1;
        if self.told.pages.is_multiple_of(256) {
            self.told.rows = self.filler.rows;
            (self.progress)(self.told);
        }
    }

    fn row(&mut self, target: TreeId, tree: u32, key: &[u8], value: CellValue<'_>) -> Result<(), RestoreError> {
        match value {
            // Of a twin that the catalogue, being damaged, does not say to be one.
            _ if key.len() > KEY_BYTES_MAX => {
                let why = "its key is longer than any tree's may be but for that of a history".to_owned();
                let len = match value {
                    CellValue::Inline(bytes) => bytes.len() as u64,
                    CellValue::Stored(at) => at.len,
                };
                self.lose(Loss::Value { tree: self.name(tree), key: key.to_vec(), len, why });
                Ok(())
            }
            CellValue::Inline(bytes) => self.filler.put(target, key, bytes),
            CellValue::Stored(at) => self.long_value(target, tree, key, &at),
        }
    }

    fn long_value(&mut self, target: TreeId, tree: u32, key: &[u8], at: &ValueRef) -> Result<(), RestoreError> {
        let root = self.damaged.root();
        let whole = at.len <= VALUE_BYTES_MAX as u64;
        let mut buffer = std::mem::take(&mut self.value_buffer);
        // Read before anything is written of it: a value is saved whole, or not at all.
        let mut read = Ok(());
        let mut offset = 0;
        buffer.clear();
        while offset < at.len && read.is_ok() {
            let now = (at.len - offset).min(PIECE_BYTES as u64) as usize;
            let from = if whole { buffer.len() } else { 0 };
            buffer.resize(from + now, 0);
            read = btree::read_value(root, at, offset, &mut buffer[from..]);
            offset += now as u64;
        }
        let result = match read {
            Err(error) => {
                let (tree, key, len) = (self.name(tree), key.to_vec(), at.len);
                self.lose(Loss::Value { tree, key, len, why: why(&error) });
                Ok(())
            }
            Ok(()) if whole => self.filler.put(target, key, &buffer),
            Ok(()) => {
                let mut offset = 0;
                self.filler.put_long(target, key, at.len, &mut |out| {
                    let read = btree::read_value(root, at, offset, out);
                    offset += out.len() as u64;
                    read.map_err(|error| ReadError::from(error).into())
                })
            }
        };
        self.value_buffer = buffer;
        result
    }

    /// Looks for pages below holes.
    fn orphans(&mut self) -> Result<(), RestoreError> {
        let damaged = self.damaged;
        self.report.pages_unreadable = self.holes.len() as u64;
        if self.holes.iter().all(|hole| hole.hole.level == 0) && damaged.roots_error.is_none() {
            return Ok(());
        }
        let space = match &damaged.space {
            Ok(space) => space,
            Err(why) => {
                self.lose(Loss::Space { why: why.clone() });
                return self.strays();
            }
        };
        let mut orphans = Vec::new();
        let mut named: HashSet<u64> = HashSet::new();
        for no in first_page(damaged.root().pages.page_bytes())..damaged.end {
            if !space.is_named(no) || self.reached.has(no) {
                continue;
            }
            let Some((orphan, children)) = self.open_orphan(no) else { continue };
            // A branch of the tree of roots, all of whose leaves were found.
            if orphan.level > 0 && children.iter().all(|child| self.reached.has(child.no)) {
                continue;
            }
            named.extend(children.iter().map(|child| child.no));
            orphans.push(orphan);
        }
        let mut unplaced = Vec::new();
        for orphan in orphans.into_iter().filter(|orphan| !named.contains(&orphan.page.no)) {
            match &self.fits(&orphan)[..] {
                // Without roots there may be trees that nobody knows of.
                &[i] if damaged.roots_error.is_none() => {
                    let TreeHole { tree, hole, .. } = &self.holes[i];
                    let (tree, low, high) = (*tree, hole.low.clone(), hole.high.clone());
                    if tree != CATALOGUE && !self.twins.contains(&tree) {
                        self.subtree(tree, Subtree { page: orphan.page, level: orphan.level, low, high }, Some(i))?;
                    }
                }
                fits => {
                    let candidates = self.candidates(fits);
                    if candidates.is_empty() || damaged.roots_error.is_some() || self.are_wanted(&candidates) {
                        unplaced.push((candidates, orphan));
                    }
                }
            }
        }
        self.unplaced(unplaced)
    }

    /// Looks for pages below holes where nobody can say which pages are in use. A leaf that is found may be one of before:
    /// none goes into its tree, where it would bring back what was deleted. Branches are no help, those of before name
    /// pages that are others by now.
    fn strays(&mut self) -> Result<(), RestoreError> {
        let mut strays = Vec::new();
        for no in first_page(self.damaged.root().pages.page_bytes())..self.damaged.end {
            if self.reached.has(no) {
                continue;
            }
            let Some((orphan, _)) = self.open_orphan(no).filter(|(orphan, _)| orphan.level == 0) else { continue };
            let candidates = self.candidates(&self.fits(&orphan));
            if self.are_wanted(&candidates) || self.damaged.roots_error.is_some() {
                strays.push((candidates, orphan));
            }
        }
        self.unplaced(strays)
    }

    fn open_orphan(&self, no: u64) -> Option<(Orphan, Vec<PageRef>)> {
        let alone = self.damaged.root().pages.open_alone(no).ok()?.ok()?;
        let facts = node_facts(alone.kind, &alone.page[PAGE_HEADER_BYTES..])?;
        Some((Orphan { page: alone.at, level: facts.level, ends: facts.ends }, facts.children))
    }

    /// Holes that a page may lie below.
    fn fits(&self, orphan: &Orphan) -> Vec<usize> {
        (0..self.holes.len()).filter(|&i| is_for(&self.holes[i].hole, orphan.level, orphan.ends())).collect()
    }

    fn candidates(&self, fits: &[usize]) -> Vec<u32> {
        let mut candidates: Vec<u32> = fits.iter().map(|&i| self.holes[i].tree).collect();
        candidates.dedup();
        candidates
    }

    fn are_wanted(&self, candidates: &[u32]) -> bool {
        candidates.iter().any(|tree| *tree != CATALOGUE && !self.twins.contains(tree))
    }

    /// Saves rows that nobody can say the tree of: neighbours by key share a tree, those that overlap do not.
    fn unplaced(&mut self, mut orphans: Vec<(Vec<u32>, Orphan)>) -> Result<(), RestoreError> {
        orphans.sort_by(|(a, one), (b, other)| (a, &one.ends).cmp(&(b, &other.ends)));
        let mut shelves: Vec<Shelf> = Vec::new();
        for (candidates, orphan) in orphans {
            let first = orphan.ends.as_ref().filter(|_| orphan.level == 0).map(|(first, _)| first);
            let found = shelves.iter().position(|shelf| {
                shelf.candidates == candidates
                    && first.zip(shelf.last.as_ref()).is_some_and(|(first, last)| first > last)
            });
            let shelf = match found {
                Some(shelf) => shelf,
                None if shelves.len() == UNPLACED_MAX => {
                    self.report.more_losses += 1;
                    continue;
                }
                None => {
                    let name = self.beside(&(shelves.len() + 1).to_string());
                    shelves.push(Shelf { name, candidates, last: None, rows: 0 });
                    shelves.len() - 1
                }
            };
            let Shelf { name, last, rows, .. } = &mut shelves[shelf];
            let target = self.filler.tree(name)?;
            let before = self.filler.rows;
            let mut holes = Vec::new();
            let at = Subtree { page: orphan.page, level: orphan.level, low: Vec::new(), high: None };
            let mut highest = Vec::new();
            walk_damaged(self.damaged.root(), at, &mut |met| {
                match met {
                    Met::Page(no) => self.reach(no),
                    Met::Hole(hole) => holes.push(hole),
                    Met::Row(key, value) => {
                        highest.clear();
                        highest.extend_from_slice(key);
                        self.row(target, NO_TREE, key, value)?;
                    }
                }
                Ok::<(), RestoreError>(())
            })?;
            *last = Some(highest);
            *rows += self.filler.rows - before;
            for hole in holes {
                self.lose(range(name.clone(), hole, 0));
            }
        }
        for Shelf { name, candidates, rows, .. } in shelves {
            let candidates = candidates.into_iter().map(|tree| self.name(tree)).collect();
            self.report.rows_found_again += rows;
            self.lose(Loss::Unplaced { name, rows, candidates });
        }
        Ok(())
    }

    /// Saves what the log says.
    fn tables(&mut self) -> Result<(), RestoreError> {
        let table: Arc<Mem> = Arc::clone(&self.damaged.layers.active);
        let is_users = |tree: &u32| *tree != CATALOGUE && !self.twins.contains(tree);
        for tree in table.trees().filter(is_users).collect::<Vec<_>>() {
            let mut cursor = table.cursor(tree);
            cursor.seek(Bound::Unbounded);
            let target = self.open_tree(tree)?;
            while let Some((key, entry)) = cursor.entry() {
                match entry.value() {
                    MemValue::Put(bytes) => self.filler.put(target, key, bytes)?,
                    MemValue::PutStored(at) => self.long_value(target, tree, key, &at)?,
                    MemValue::Deleted => {}
                }
                cursor.next();
            }
        }
        Ok(())
    }

    fn end_report(&mut self) {
        let damaged = self.damaged;
        let mut trees: Vec<u32> = self.targets.keys().copied().collect();
        trees.sort_unstable();
        for tree in trees {
            let expected = damaged.root().trees.get(tree as usize).map(|root| root.entries);
            let rows_found = self.targets[&tree].1;
            // A root that could not be read, or none: the log alone speaks of this tree.
            let rows_expected = expected.or(damaged.roots_error.is_none().then_some(0));
            self.report.trees.push(SalvagedTree { name: self.name(tree), rows_expected, rows_found });
        }
        for TreeHole { tree, hole, found_again } in std::mem::take(&mut self.holes) {
            let expected = damaged.root().tree(tree).entries;
            let found = self.targets.get(&tree).map(|(_, found)| *found);
            let is_healed = found.or((tree == CATALOGUE).then_some(self.names_read)) == Some(expected);
            // Everything that lay below it was found: nothing is missing.
            if !is_healed {
                self.lose(range(self.name(tree), hole, found_again));
            }
        }
    }
}

fn range(tree: String, hole: Hole, found_again: u64) -> Loss {
    let why = why(&hole.error);
    let Hole { page, level, low, high, .. } = hole;
    Loss::Range { tree, from: low, to: high, page: page.no, level, found_again, why }
}

/// Whether a page of this level, with keys from the first to the last, may lie below the one that is missing. Pages between
/// them may be missing as well.
fn is_for(hole: &Hole, level: u8, ends: Option<(&[u8], &[u8])>) -> bool {
    let inside = |key: &[u8]| *key >= *hole.low && hole.high.as_ref().is_none_or(|high| *key < **high);
    hole.level > level && ends.is_none_or(|(first, last)| inside(first) && inside(last))
}
