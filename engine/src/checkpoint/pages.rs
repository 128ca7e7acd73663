//! The pages of a checkpoint or of a load, and the header that names them.

use std::sync::Arc;

use super::Step;
use super::edits::{NameEdits, RootEdits, TreesOfEdits, encode_root};
use crate::ahead::Stored;
use crate::btree::{self, Edits, TreeRoot, value_pages};
use crate::disk::Disk;
use crate::env::Env;
use crate::history::Twins;
use crate::history::clock;
use crate::history::ledger::{LedgerEdits, Meta, PagePoints};
use crate::history::purge::Purge;
use crate::history::take::{Taken, apply_rows, apply_table, note_taken};
use crate::limits::TREES_MAX;
use crate::log::writer::LogPosition;
use crate::memtable::Mem;
use crate::pager::{PageError, PageRead, PageRef, PageWriter, Pages, Space};
use crate::snapshot::Root;
use crate::sync::Mutex;
use crate::txn::CATALOGUE;
use crate::txn::names::CatalogueEntry;

pub(crate) type Written = (Vec<TreeRoot>, TreeRoot, PageRef, u64);

/// Steps 4 and 5: makes written pages durable, and names them in as many headers as are said.
pub(crate) fn write_root(
    env: &Env,
    disk: &mut Disk,
    old: &Root,
    (trees, roots, space, history_floor): Written,
    commit_no: u64,
    then: LogPosition,
    headers: usize,
) -> Result<Arc<Root>, PageError> {
    let io = |during| move |source| PageError::Io { during, source };
    disk.sync().map_err(io("syncing pages"))?;
    let page_count = disk.space.lock().named_end();
    let wall_ms = env.clock.wall_ms();
    for _ in 0..headers {
        disk.write_header(|h| {
            h.commit_no = commit_no;
            h.durable_floor = h.durable_floor.max(commit_no);
            h.log = then;
            h.roots = roots;
            h.space = Some(space);
            h.page_count = page_count;
            h.wall_ms = wall_ms;
        })
        .map_err(io("writing the header"))?;
    }
    let map = disk.pages.map_to(page_count, old.map.as_ref())?;
    Ok(Arc::new(Root {
        checkpoint: disk.header.sequence,
        commit_no,
        trees,
        roots,
        space: Some(space),
        pages: Arc::clone(&disk.pages),
        map,
        history_floor,
    }))
}

/// Writes the pages of a checkpoint; returns the trees, the tree of their roots, and the space.
pub(super) fn write_pages(
    disk: &mut Disk,
    old: &Arc<Root>,
    table: &Mem,
    step: Option<&mut Step>,
    (purge, now_ms): (&mut Purge, u64),
) -> Result<Written, PageError> {
    adopt_stored(disk, old, table)?;
    let mut writer = disk.writer(old.map.as_deref());
    let mut trees = NewTrees::new(old.trees.clone());
    let mut taken = Taken::new();
    apply_table(&mut writer, &mut trees.trees, table, 0, &mut taken)?;
    for at in table.superseded_stored() {
        btree::release_value(&mut writer, &at)?;
    }
    if let Some(twins) = table.twins() {
        note_taken(&mut writer, &mut trees.trees, Some(twins), table.commit_no, &taken)?;
        purge.step(&mut writer, &mut trees.trees, twins, table.commit_no, now_ms)?;
        trees.note_floor(&writer, twins)?;
    }
    trees.finish(writer, old, step)
}

/// Writes the pages of a load; as `write_pages`.
pub(crate) fn write_load_pages(
    disk: &mut Disk,
    old: &Arc<Root>,
    (twins, commit_no): (Option<&Twins>, u64),
    rows: impl FnOnce(&mut LoadPages<'_>) -> Result<(), PageError>,
) -> Result<Written, PageError> {
    let pages = Arc::clone(&disk.pages);
    let (writer, space) = disk.load_writer(old.map.as_deref());
    let trees = NewTrees { history_floor: old.history_floor, ..NewTrees::new(old.trees.clone()) };
    let mut load = LoadPages { pages: &pages, space, writer, trees, twins, commit_no, taken: Taken::new() };
    rows(&mut load)?;
    note_taken(&mut load.writer, &mut load.trees.trees, twins, commit_no, &load.taken)?;
    load.trees.finish(load.writer, old, None)
}

/// The new trees of a load, to which its rows are applied.
pub(crate) struct LoadPages<'w> {
    pub(crate) pages: &'w Pages,
    pub(crate) space: &'w Mutex<Space>,
    writer: PageWriter<'w>,
    trees: NewTrees,
    twins: Option<&'w Twins>,
    commit_no: u64,
    taken: Taken,
}

impl LoadPages<'_> {
    /// Puts names of trees and their numbers into the catalogue; before any other tree's rows. Names ascend.
    pub(crate) fn apply_names(&mut self, names: Vec<CatalogueEntry>) -> Result<(), PageError> {
        self.trees.apply(&mut self.writer, CATALOGUE, &mut NameEdits { names, at: 0 })
    }

    /// Takes over the pages of long values, which rows to come name.
    pub(crate) fn adopt(&mut self, values: &[Arc<Stored>]) {
        // Nobody has synced them yet: they are with the pages that name them, before the header.
        values.iter().for_each(|value| value.adopt());
    }

    /// Applies rows, tree by tree.
    pub(crate) fn apply(&mut self, rows: &mut impl TreesOfEdits) -> Result<(), PageError> {
        while let Some(tree) = rows.next_tree() {
            match self.twins.and_then(|twins| twins.kept(tree)) {
                None => self.trees.apply(&mut self.writer, tree, rows)?,
                Some(twin) => {
                    let pair = (tree, twin.number);
                    let Self { writer, trees, commit_no, taken, .. } = self;
                    apply_rows(writer, &mut trees.trees, pair, *commit_no, rows, taken)?;
                }
            }
        }
        Ok(())
    }

    /// Puts when the load's commit is made into the ledger.
    pub(crate) fn mark_time(&mut self, now_ms: u64) -> Result<(), PageError> {
        let Some(twins) = self.twins.filter(|twins| twins.ledger != 0) else { return Ok(()) };
        let ledger = *tree_mut(&mut self.trees.trees, twins.ledger);
        let points = PagePoints { pages: &self.writer, ledger };
        let mut edits = LedgerEdits::default();
        for (key, at_ms) in clock::mark(&points, (self.commit_no, now_ms), clock::window_of(twins), true)?.edits {
            match at_ms {
                Some(at_ms) => edits.put(&key, &at_ms.to_le_bytes()),
                None => edits.delete(&key),
            }
        }
        self.trees.apply(&mut self.writer, twins.ledger, &mut edits)
    }
}

/// Trees on their way from one root to the next.
pub(crate) struct NewTrees {
    trees: Vec<TreeRoot>,
    history_floor: u64,
}

impl NewTrees {
    pub(crate) fn new(trees: Vec<TreeRoot>) -> Self {
        Self { trees, history_floor: 0 }
    }

    /// Notes from which commit on all history is there.
    pub(crate) fn note_floor<P: PageRead>(&mut self, pages: &P, twins: &Twins) -> Result<(), PageError> {
        if twins.ledger == 0 {
            return Ok(());
        }
        let ledger = *tree_mut(&mut self.trees, twins.ledger);
        for (_, twin) in twins.pairs() {
            self.history_floor = self.history_floor.max(Meta::read(pages, &ledger, twin.number)?.floor);
        }
        Ok(())
    }

    fn apply(&mut self, writer: &mut PageWriter<'_>, tree: u32, edits: &mut dyn Edits) -> Result<(), PageError> {
        let root = tree_mut(&mut self.trees, tree);
        *root = btree::apply(writer, root, edits)?;
        Ok(())
    }

    /// Writes the tree of roots and the space, and before them what a step has to write anew.
    pub(crate) fn finish(
        self,
        mut writer: PageWriter<'_>,
        old: &Root,
        mut step: Option<&mut Step>,
    ) -> Result<Written, PageError> {
        let Self { mut trees, history_floor } = self;
        debug_assert!(trees.len() <= TREES_MAX + 1, "tree numbers are checked where they are given out");
        let is_last = match &mut step {
            Some(Step::Rekey(step)) => !step.is_sealed() && step.seal_trees(&mut writer, &mut trees)?,
            Some(Step::Vacuum(step)) => step.change_trees(&mut writer, &mut trees)?,
            Some(Step::Purge) | None => false,
        };
        let before = |tree: usize| old.trees.get(tree).copied().unwrap_or_default();
        let changed = trees.iter().enumerate().filter(|&(tree, root)| *root != before(tree));
        let edits = changed.map(|(tree, root)| ((tree as u32).to_be_bytes(), encode_root(root))).collect();
        let mut roots = btree::apply(&mut writer, &old.roots, &mut RootEdits { edits, at: 0 })?;
        match step.filter(|_| is_last) {
            Some(Step::Rekey(step)) => step.seal_rest(&mut writer, &mut roots)?,
            Some(Step::Vacuum(step)) => step.move_rest(&mut writer, &mut roots)?,
            Some(Step::Purge) | None => {}
        }
        let space = writer.save_space()?;
        writer.finish()?;
        Ok((trees, roots, space, history_floor))
    }
}

/// Long values that were written ahead become pages like others: the header in the making names them, and those that
/// the table itself has superseded are released like any that it replaces.
pub(crate) fn adopt_stored(disk: &Disk, old: &Arc<Root>, table: &Mem) -> Result<(), PageError> {
    for at in table.stored().chain(table.superseded_stored()) {
        let mut numbers = Vec::new();
        value_pages(&**old, &at, &mut |no| numbers.push(no))?;
        let mut space = disk.space.lock();
        if let Some(no) = numbers.into_iter().find(|&no| !space.adopt(no)) {
            return Err(PageError::node(no, disk.pages.page_bytes(), "a value of the log names it, and it is free"));
        }
    }
    Ok(())
}

pub(crate) fn tree_mut(trees: &mut Vec<TreeRoot>, tree: u32) -> &mut TreeRoot {
    let index = tree as usize;
    if trees.len() <= index {
        trees.resize(index + 1, TreeRoot::default());
    }
    &mut trees[index]
}
