//! What can be had of a damaged database.
//!
//! The engine saves rows, and where it cannot say whose they are it lays them beside (`lost+found/`). Here they become a
//! database again that opens and in which everything can be read: a document whose list of fields is lost has its values
//! under names that are made up, and one whose collection's name is lost is in a collection of such a name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use blazedb_engine::{
    Env, Loss, ReadView, SalvageError, SalvageProgress, SalvageReport, SalvagedTree, Store, salvage_then,
};
use blazedb_sync::{DocState, StoredRow};
use blazedb_wire::{Hlc, Reader, Shape};
use bytes::Bytes;

use crate::backup::{leave_space, not_restored, not_written};
use crate::database::Database;
use crate::layout::{self, Progress, meta};
use crate::options::Options;
use crate::shapes::{SHAPES_MAX, Shapes};
use crate::{Error, ErrorKind};

/// Where the engine lays what it cannot place.
const BESIDE: &str = "lost+found";
/// Rows, and about their bytes, that are moved in one transaction.
const MOVED_MAX: usize = 1000;
const MOVED_BYTES_MAX: usize = 4 << 20;
/// Losses that the report names one by one, as the engine does; the rest is counted.
const LOSSES_MAX: usize = 65_536;
/// What fields are called whose names are lost, with a number of four digits, in the order of their names.
const MADE_UP: &str = "field-";
/// Fields that are looked for at most where their names are lost: a longer list is not made up.
const MADE_UP_MAX: usize = 512;
/// Documents of a field list that are asked how many fields it has.
const SAMPLES_MAX: usize = 16;

impl Database {
    /// Copies everything that can still be read of the damaged file `from` into a new file, and says what could not be
    /// read. `from` is not changed, and must not be open for writing anywhere. `Ok` does not mean that nothing is lost:
    /// read [`SalvageReport::losses`].
    ///
    /// Where something is lost the new file belongs to no space: in its own it would be taken for one that has all that
    /// came before. It is bound anew like a file that never was; deletes that were not sent yet are forgotten. Documents
    /// whose collection nobody can tell are in collections `lost+found-...`, and may be older than what was lost; where the
    /// names of fields are lost, values are called `field-0001` and so on, in the order of the names. What is in trees
    /// `lost+found/...` of the store is no document.
    ///
    /// # Errors
    /// [`ErrorKind::Open`]: the damaged file gives nothing, as its key is another one, or both of its headers are damaged.
    /// [`ErrorKind::Corrupt`]: not one row of it can be read; no file was made, and the error's source, a `SalvageError` of
    /// blazedb-engine, has the report.
    /// [`ErrorKind::State`]: there is a file at `to`. [`ErrorKind::Storage`]: the disk. After an error there is no new file.
    pub fn salvage(
        from: impl AsRef<Path>,
        options: &Options,
        to: impl AsRef<Path>,
        into: Options,
        progress: &mut dyn FnMut(SalvageProgress),
    ) -> Result<SalvageReport, Error> {
        // The views of who moves rows keep what they show, however much is moved.
        let into = into.engine.snapshot_bytes_max(u64::MAX);
        let mut finish = |store: &Store, report: &mut SalvageReport| match report.losses.is_empty() {
            true => Ok(()),
            false => Mending { store, report, newest: Hlc(0) }.all().map_err(Into::into),
        };
        let made = salvage_then(Env::file(from), &options.engine, Env::file(to), into, progress, &mut finish);
        made.map_err(|e| match e {
            SalvageError::Target(e) => not_restored(e),
            e @ SalvageError::Nothing(_) => Error::with(ErrorKind::Corrupt, "nothing can be had of this file", e),
            e @ SalvageError::Finish(_) => {
                Error::with(ErrorKind::Storage, "what was saved could not be made a database", e)
            }
            e => Error::with(ErrorKind::Open, "nothing can be had of this file", e),
        })
    }
}

/// Makes a database of the rows that were saved.
struct Mending<'s> {
    store: &'s Store,
    report: &'s mut SalvageReport,
    /// Greatest stamp of a document.
    newest: Hlc,
}

fn lose(report: &mut SalvageReport, loss: Loss) {
    if report.losses.len() < LOSSES_MAX {
        report.losses.push(loss);
    } else {
        report.more_losses += 1;
    }
}

impl Mending<'_> {
    fn all(&mut self) -> Result<(), Error> {
        leave_space(self.store)?;
        self.mend_shapes()?;
        let view = self.store.read();
        let shapes = Shapes::load(&view)?;
        let mut names: BTreeSet<String> = view.tree_names()?.into_iter().collect();
        for tree in names.clone() {
            if layout::collection_of(&tree).is_some() {
                self.set_aside_what_is_no_document(&view, &tree, &shapes)?;
            } else if tree.starts_with(BESIDE) {
                self.make_collection_of(&view, &tree, &shapes, &mut names)?;
            }
        }
        self.mend_progress(&view)
    }

    /// Field lists are numbered without gaps, or the file does not open. A catalogue whose name is lost is known by what is
    /// in it; of a list that is lost, what its documents hold tells how many names it has, and those are made up.
    fn mend_shapes(&mut self) -> Result<(), Error> {
        let view = self.store.read();
        let (found, beside) = find_shapes(&view)?;
        let mut shapes = found.unwrap_or_default();
        if let Some(beside) = beside {
            move_rows(self.store, &view, &beside, layout::SHAPES, |_, _| true)?;
        }
        let mut missing = BTreeMap::new();
        for (number, samples) in samples_without_shape(&view, &shapes)? {
            let Some((shape, is_only)) = shape_of(&samples) else { continue };
            let doubt = if is_only { "" } else { "; fewer fields fit as well, and then these are not what there was" };
            let loss = Loss::Value {
                tree: layout::SHAPES.to_owned(),
                key: number.to_be_bytes().to_vec(),
                len: 0,
                why: format!(
                    "the names of the {} fields of {} documents are lost; now they are {MADE_UP}0001 and so on{doubt}",
                    shape.len(),
                    samples.documents,
                ),
            };
            lose(self.report, loss);
            let mut bytes = Vec::new();
            shape.encode(&mut bytes);
            missing.insert(number, bytes);
        }
        missing.keys().for_each(|number| drop(shapes.insert(*number, Bytes::new())));
        let end = shapes.last_key_value().map_or(0, |(&last, _)| last as usize + 1);
        if end > SHAPES_MAX {
            return Ok(());
        }
        // What nothing names, or nothing that can be read.
        let mut empty = Vec::new();
        Shape::empty().encode(&mut empty);
        (0..end as u32).filter(|number| !shapes.contains_key(number)).for_each(|number| {
            missing.insert(number, empty.clone());
        });
        let target = self.store.tree(layout::SHAPES).map_err(not_written)?;
        let mut missing = missing.into_iter().peekable();
        while missing.peek().is_some() {
            let mut tx = self.store.write();
            while tx.bytes() < MOVED_BYTES_MAX
                && let Some((number, shape)) = missing.next()
            {
                tx.put(target, &number.to_be_bytes(), &shape).map_err(not_written)?;
            }
            tx.commit().map_err(not_written)?;
        }
        Ok(())
    }

    /// Documents of a collection that need a list of fields that is lost go beside, and are named.
    fn set_aside_what_is_no_document(&mut self, view: &ReadView, tree: &str, shapes: &Shapes) -> Result<(), Error> {
        let beside = format!("{BESIDE}/{tree}");
        let Self { store, report, newest, .. } = self;
        let rows = move_rows(store, view, tree, &beside, |key, value| match document(key, value, shapes) {
            Ok(state) => {
                *newest = (*newest).max(state.greatest_stamp().unwrap_or_default().hlc);
                false
            }
            Err(why) => {
                lose(report, Loss::Value { tree: tree.to_owned(), key: key.to_vec(), len: value.len() as u64, why });
                true
            }
        })?;
        if rows > 0 {
            report.trees.push(SalvagedTree { name: beside, rows_expected: None, rows_found: rows });
            report
                .trees
                .iter_mut()
                .filter(|of| of.name == tree)
                .for_each(|of| of.rows_found = of.rows_found.saturating_sub(rows));
        }
        Ok(())
    }

    /// Documents among rows of which nobody can say whose they are become a collection.
    fn make_collection_of(
        &mut self,
        view: &ReadView,
        tree: &str,
        shapes: &Shapes,
        names: &mut BTreeSet<String>,
    ) -> Result<(), Error> {
        let mut name = layout::records_tree(&tree.replace('/', "-"));
        while names.contains(&name) {
            name.push('-');
        }
        let newest = &mut self.newest;
        let moved = move_rows(self.store, view, tree, &name, |key, value| {
            let state = document(key, value, shapes).ok();
            let stamp = state.as_ref().and_then(DocState::greatest_stamp);
            *newest = (*newest).max(stamp.unwrap_or_default().hlc);
            state.is_some()
        })?;
        if moved == 0 {
            return Ok(());
        }
        for of in self.report.trees.iter_mut().filter(|of| of.name == tree) {
            of.rows_found = of.rows_found.saturating_sub(moved);
        }
        self.report.trees.retain(|of| of.name != tree || of.rows_found > 0);
        self.report.trees.push(SalvagedTree { name: name.clone(), rows_expected: None, rows_found: moved });
        names.insert(name);
        Ok(())
    }

    /// What is written next is newer than what is there, and under a name of its own, also where it is lost how far both
    /// had come.
    fn mend_progress(&self, view: &ReadView) -> Result<(), Error> {
        let stored = layout::read_meta(view, meta::PROGRESS)?;
        let mut progress = Progress::from_stored(stored.as_deref()).unwrap_or_default();
        progress.clock = progress.clock.max(self.newest);
        if let Some(tree) = view.tree(layout::REPLICAS)? {
            for row in view.range(tree, ..) {
                if let Ok(number) = row?.0[..].try_into() {
                    progress.incarnation = progress.incarnation.max(u32::from_be_bytes(number));
                }
            }
        }
        let mut tx = self.store.write();
        let tree = self.store.tree(layout::META).map_err(not_written)?;
        tx.put(tree, meta::PROGRESS, &progress.encode()).map_err(not_written)?;
        tx.commit().map_err(not_written)?;
        Ok(())
    }
}

/// Moves the rows that `is_moved` picks. Returns how many.
fn move_rows(
    store: &Store,
    view: &ReadView,
    from: &str,
    to: &str,
    mut is_moved: impl FnMut(&[u8], &Bytes) -> bool,
) -> Result<u64, Error> {
    let Some(source) = view.tree(from)? else { return Ok(0) };
    let mut moved = 0;
    let mut rows = view.range(source, ..).filter(|row| row.as_ref().map_or(true, |(key, value)| is_moved(key, value)));
    loop {
        let (mut part, mut bytes) = (Vec::new(), 0);
        while part.len() < MOVED_MAX && bytes < MOVED_BYTES_MAX {
            let Some(row) = rows.next().transpose()? else { break };
            bytes += row.0.len() + row.1.len();
            part.push(row);
        }
        if part.is_empty() {
            return Ok(moved);
        }
        let (mut tx, target) = (store.write(), store.tree(to).map_err(not_written)?);
        for (key, value) in &part {
            tx.put(target, key, value).map_err(not_written)?;
            tx.delete(source, key).map_err(not_written)?;
        }
        tx.commit().map_err(not_written)?;
        moved += part.len() as u64;
    }
}

/// Field lists by number, as they are stored.
type Stored = BTreeMap<u32, Bytes>;

/// Documents of which the list of fields is lost.
#[derive(Default)]
struct Samples {
    values: Vec<Bytes>,
    documents: u64,
}

/// The field lists that are there, by number, and the tree that they are in where that has lost its name.
fn find_shapes(view: &ReadView) -> Result<(Option<Stored>, Option<String>), Error> {
    if let Some(shapes) = shapes_in(view, layout::SHAPES)? {
        return Ok((Some(shapes), None));
    }
    let mut found = None;
    for tree in view.tree_names()?.into_iter().filter(|tree| tree.starts_with(BESIDE)) {
        let Some(shapes) = shapes_in(view, &tree)?.filter(|shapes| !shapes.is_empty()) else { continue };
        // Nobody can say which one it is.
        if found.is_some() {
            return Ok((None, None));
        }
        found = Some((shapes, tree));
    }
    Ok(found.map_or((None, None), |(shapes, tree)| (Some(shapes), Some(tree))))
}

/// Documents of each field list that is named and not there.
fn samples_without_shape(view: &ReadView, shapes: &Stored) -> Result<BTreeMap<u32, Samples>, Error> {
    let mut missing: BTreeMap<u32, Samples> = BTreeMap::new();
    for name in view.tree_names()? {
        let Some(tree) = view.tree(&name)? else { continue };
        if layout::collection_of(&name).is_none() && !name.starts_with(BESIDE) {
            continue;
        }
        for row in view.range(tree, ..) {
            let (key, value) = row?;
            let Ok(StoredRow::Live { shape, .. }) = StoredRow::find(&value) else { continue };
            if layout::document_id(&key).is_err() || shapes.contains_key(&shape) || shape as usize >= SHAPES_MAX {
                continue;
            }
            let of = missing.entry(shape).or_default();
            of.documents += 1;
            if of.values.len() < SAMPLES_MAX {
                of.values.push(value);
            }
        }
    }
    Ok(missing)
}

/// The shape of as many names as most of these documents have values, and whether no other number fits as many.
fn shape_of(samples: &Samples) -> Option<(Shape, bool)> {
    // A value takes at least a byte.
    let longest = samples.values.iter().map(Bytes::len).max().unwrap_or(0).min(MADE_UP_MAX);
    let (mut best, mut is_only) = ((0, None), true);
    for fields in 0..=longest {
        let shape = Shape::new((1..=fields).map(|n| format!("{MADE_UP}{n:04}"))).ok()?;
        let fits = |value: &&Bytes| DocState::decode(Some(*value), &|_| Some(shape.clone())).is_ok();
        let count = samples.values.iter().filter(fits).count();
        // Of several the largest: what follows the tag of a text may pass for that text.
        if count > 0 && count >= best.0 {
            is_only = count > best.0;
            best = (count, Some(shape));
        }
    }
    best.1.map(|shape| (shape, is_only))
}

/// The field lists of a tree, by number; `None`: there is no such tree, or it holds something else.
fn shapes_in(view: &ReadView, tree: &str) -> Result<Option<Stored>, Error> {
    let Some(tree) = view.tree(tree)? else { return Ok(None) };
    let mut shapes = BTreeMap::new();
    for row in view.range(tree, ..) {
        let (key, value) = row?;
        let mut r = Reader::new(&value);
        let is_shape = Shape::decode(&mut r).is_ok() && r.finish().is_ok();
        let Some(number) = key[..].try_into().ok().filter(|_| is_shape) else { return Ok(None) };
        shapes.insert(u32::from_be_bytes(number), value);
    }
    Ok(Some(shapes))
}

/// Reads a row as a document's; else says why it is none.
fn document(key: &[u8], value: &Bytes, shapes: &Shapes) -> Result<DocState, String> {
    layout::document_id(key).map_err(|e| e.to_string())?;
    DocState::decode(Some(value), shapes).map_err(|e| e.to_string())
}
