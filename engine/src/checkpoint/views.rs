//! What checkpoints do for views: pages of their own for those of old roots, the new root for those whose table went into
//! pages, and an end for those that hold too much of the file.

use std::collections::HashMap;
use std::sync::Arc;

use super::{CheckpointError, Frozen};
use crate::btree::TreeRoot;
use crate::disk::Disk;
use crate::history::take::{Taken, apply_table};
use crate::pager::PageError;
use crate::snapshot::{Layers, Root};
use crate::store::Inner;
use crate::sync::atomic::Ordering;
use crate::txn::view::Held;

impl Inner {
    /// The rest of step 6: views that hold the table that is in pages now let it go.
    pub(super) fn move_views(&self, frozen: Option<Frozen>, root: &Arc<Root>) {
        let Some(Frozen { table, .. }) = frozen else { return };
        let mut moved = Moved::default();
        let (readers, past) = {
            let visible = self.visible.lock();
            (visible.readers(), visible.past.clone())
        };
        for reader in readers {
            let Some(layers) = reader.layers().filter(|_| !reader.stays) else { continue };
            // What it reads of the past is not in the new pages any more.
            if past.iter().any(|&(slot, commit_no)| slot == reader.slot && commit_no < root.history_floor) {
                continue;
            }
            let same = if layers.frozen.as_ref().is_some_and(|f| Arc::ptr_eq(f, &table)) {
                Some(Arc::clone(&layers.active))
            } else if layers.commit_no() == root.commit_no && layers.root.checkpoint < root.checkpoint {
                Some(Arc::new(layers.active.after(root.commit_no, 0)))
            } else {
                None
            };
            if let Some(active) = same {
                moved.exchange(&reader, &layers, || Layers { root: Arc::clone(root), frozen: None, active });
            }
        }
    }

    /// Step 7, and the end of views that hold too much of the file.
    pub(crate) fn reclaim(&self, disk: &mut Disk) {
        self.hold_within_budget(disk, u64::MAX, 0);
    }

    /// Frees what nobody can reach. Where views hold more than they may, or would with `more_pages`, those of the oldest
    /// root end, all of them, as none of them frees anything alone; then those of the next one, below the root
    /// `spare_from`. Returns how many pages of room there are then.
    fn hold_within_budget(&self, disk: &mut Disk, spare_from: u64, more_pages: u64) -> u64 {
        let pages_max = self.config.snapshot_bytes_max / disk.pages.page_bytes() as u64;
        loop {
            let newest = self.published().root.checkpoint;
            let readers = self.visible.lock().readers();
            // Collected anew each time: a view may have been cloned since.
            let mut oldest = (newest, Vec::new());
            for reader in &readers {
                match reader.root_checkpoint() {
                    Some(checkpoint) if checkpoint < oldest.0 => oldest = (checkpoint, vec![reader]),
                    Some(checkpoint) if checkpoint == oldest.0 => oldest.1.push(reader),
                    _ => {}
                }
            }
            let (oldest, views) = oldest;
            disk.forget_keys(oldest);
            let durable = disk.header.sequence;
            let mut space = disk.space.lock();
            space.reclaim(durable, oldest);
            let held = space.held_back(durable) + more_pages;
            *self.space_counts.lock() = space.counts();
            drop(space);
            if held <= pages_max {
                return pages_max - held;
            }
            if oldest >= newest.min(spare_from) || !views.into_iter().all(|view| self.end_view(view)) {
                return 0;
            }
        }
    }

    /// False: somebody is in the middle of a long look.
    fn end_view(&self, view: &Held) -> bool {
        let ended = view.exchange(None);
        self.snapshots_ended.fetch_add(u64::from(ended), Ordering::Relaxed);
        ended
    }

    /// Step 1. A view that was taken before the last checkpoint's end, and that no root says exactly, holds a table
    /// of its own. It gets pages instead: the same ones that a checkpoint at its commit would have written. No
    /// header names them; they are free again when the view goes, or after a crash.
    ///
    /// Views of one root are written in the order of their commits, each onto the pages of the one before, so that what
    /// they have in common is written once. What does not fit into `snapshot_bytes_max` is not written: first older
    /// views end for it, then those that have no pages yet.
    pub(super) fn spill_old_views(&self, disk: &mut Disk) -> Result<(), CheckpointError> {
        let newest = self.published();
        let readers = self.visible.lock().readers();
        let mut old: Vec<(Arc<Held>, Arc<Layers>)> = Vec::new();
        for reader in readers {
            let Some(layers) = reader.layers() else { continue };
            let has_tables = !layers.active.is_empty() || layers.frozen.is_some();
            if has_tables && !Arc::ptr_eq(&layers.root, &newest.root) {
                old.push((reader, layers));
            }
        }
        old.sort_by_key(|(_, layers)| (layers.root.checkpoint, layers.commit_no()));
        let mut last: Option<Spilled> = None;
        let (mut room, mut pages) = (0, 0);
        for (reader, layers) in old {
            let base = &layers.root;
            let before = last.take().filter(|last| Arc::ptr_eq(&last.base, base));
            let is_there = before.as_ref().is_some_and(|last| last.root.commit_no == layers.commit_no());
            if before.is_none() {
                room = 0;
            }
            if room == 0 && !is_there && before.as_ref().is_none_or(|last| !last.is_full) {
                room = self.hold_within_budget(disk, base.checkpoint, pages);
            }
            let mut last_root = before.map_or_else(|| Arc::clone(base), |last| last.root);
            let is_full = room == 0 && !is_there;
            if is_full {
                // One that cannot be ended now keeps its table, and is looked at again by the next checkpoint.
                self.end_view(&reader);
                last = Some(Spilled { base: Arc::clone(base), root: last_root, is_full });
                continue;
            }
            if !is_there {
                let (root, written) = self.spill(disk, &layers, &last_root)?;
                last_root = root;
                pages += written;
                room = room.saturating_sub(written);
            }
            let root = last_root;
            let active = Arc::new(layers.active.after(root.commit_no, 0));
            reader.exchange(Some(Arc::new(Layers { root: Arc::clone(&root), frozen: None, active })));
            last = Some(Spilled { base: Arc::clone(base), root, is_full });
        }
        Ok(())
    }

    /// Writes what a view's tables say beyond `from`, which is its root, or what was spilled of an older view of that
    /// root. Returns how many pages that took, too.
    fn spill(&self, disk: &mut Disk, layers: &Layers, from: &Arc<Root>) -> Result<(Arc<Root>, u64), CheckpointError> {
        let mut trees = from.trees.clone();
        let mut writer = disk.spill_writer(from.checkpoint + 1, from.map.as_deref());
        for table in layers.frozen.iter().chain([&layers.active]) {
            apply_table(&mut writer, &mut trees, table, from.commit_no, &mut Taken::new())?;
        }
        let written = writer.finish()?;
        let end = disk.pages_in_file(|space| space.end());
        let end = end.map_err(|source| PageError::Io { during: "reading the file's length", source })?;
        let map = disk.pages.map_to(end, from.map.as_ref())?;
        let root = Root {
            checkpoint: from.checkpoint,
            commit_no: layers.commit_no(),
            trees,
            roots: TreeRoot::default(),
            space: None,
            pages: Arc::clone(&disk.pages),
            map,
            history_floor: from.history_floor,
        };
        Ok((Arc::new(root), written))
    }
}

/// The pages that a view was given last.
struct Spilled {
    /// The root that it grew from.
    base: Arc<Root>,
    root: Arc<Root>,
    /// There is no room for another one.
    is_full: bool,
}

/// Views that share layers go on sharing them.
#[derive(Default)]
struct Moved(HashMap<usize, Arc<Layers>>);

impl Moved {
    fn exchange(&mut self, reader: &Held, old: &Arc<Layers>, new: impl FnOnce() -> Layers) {
        // The address is a name only as long as somebody holds the old layers, and `old` does: the map is filled
        // and asked within one settling, in which each reader that is not moved yet holds its own.
        let new = self.0.entry(Arc::as_ptr(old) as usize).or_insert_with(|| Arc::new(new()));
        reader.exchange(Some(Arc::clone(new)));
    }
}
