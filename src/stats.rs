//! `Stats`: a database in numbers.

use std::collections::BTreeMap;

use blazedb_sync::DocState;
use blazedb_wire::SpaceId;

use crate::Error;
use crate::inner::Inner;
use crate::layout::{self, meta};
use crate::replica::{OutboxCounts, Replica};
use crate::transaction::decode_state;

/// A database in numbers, as of one snapshot.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Each collection.
    pub collections: BTreeMap<String, CollectionStats>,
    /// The space that the file belongs to, if it was synced before.
    pub space: Option<SpaceId>,
    /// Epoch of the space's log.
    pub epoch: u32,
    /// Last relay sequence that was applied.
    pub cursor: u64,
    /// Own operations on their way.
    pub outbox: OutboxCounts,
    /// What merges set aside for a person to look at.
    pub inbox: u64,
    /// Operations that were merged with an edit that their author had not seen.
    pub conflicts_merged: u64,
    /// The store below.
    pub store: blazedb_engine::Stats,
}

/// What a tree of the store is to the database above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TreeRole<'n> {
    /// The documents of a collection.
    Documents(&'n str),
    /// What a collection's documents were before own changes that the relay has not confirmed.
    Unsynced(&'n str),
    /// Bookkeeping.
    Other(&'n str),
}

impl TreeRole<'_> {
    /// Returns the role of the tree that the store knows by this name; see [`Database::estimate`](crate::Database::estimate).
    pub fn of(name: &str) -> TreeRole<'_> {
        match layout::collection_of(name) {
            Some(collection) => TreeRole::Documents(collection),
            None => layout::bases_of(name).map_or(TreeRole::Other(name), TreeRole::Unsynced),
        }
    }
}

/// One collection in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollectionStats {
    /// Live documents.
    pub documents: u64,
    /// Documents that were deleted and leave a mark, so that late edits stay out.
    pub tombstones: u64,
    /// Bytes of the live documents as stored, without the store's own overhead.
    pub bytes: u64,
    /// Documents with own operations that the relay's log does not hold.
    pub unsynced: u64,
}

/// How far the counting of documents is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatsProgress {
    /// Documents that were read.
    pub documents: u64,
    /// How many there are, deleted ones that left a mark included.
    pub total: u64,
}

/// Documents between two calls of a progress.
const TELL_EVERY: u64 = 256;

pub(crate) fn stats(inner: &std::sync::Arc<Inner>, progress: &mut dyn FnMut(StatsProgress)) -> Result<Stats, Error> {
    let outbox = Replica::new(std::sync::Arc::clone(inner)).outbox()?;
    let view = inner.store.read();
    let binding = *inner.binding.read();
    let mut collections: BTreeMap<String, CollectionStats> = BTreeMap::new();
    let mut told = StatsProgress { documents: 0, total: 0 };
    for name in view.tree_names()? {
        if layout::collection_of(&name).is_some()
            && let Some(tree) = view.tree(&name)?
        {
            told.total += view.len(tree)?;
        }
    }
    for tree_name in view.tree_names()? {
        let Some(collection) = layout::collection_of(&tree_name) else { continue };
        let mut counts = CollectionStats::default();
        if let Some(tree) = view.tree(&tree_name)? {
            for item in view.range(tree, ..) {
                let (_, value) = item?;
                told.documents += 1;
                if told.documents.is_multiple_of(TELL_EVERY) {
                    progress(told);
                }
                match decode_state(Some(&value), inner)? {
                    DocState::Live(_) => {
                        counts.documents += 1;
                        counts.bytes += value.len() as u64;
                    }
                    DocState::Dead(_) => counts.tombstones += 1,
                    DocState::Absent => {}
                }
            }
        }
        if let Some(tree) = view.tree(&layout::bases_tree(collection))? {
            counts.unsynced = view.len(tree)?;
        }
        if counts != CollectionStats::default() {
            collections.insert(collection.to_owned(), counts);
        }
    }
    let inbox = view.tree(layout::INBOX)?.map_or(Ok(0), |tree| view.len(tree))?;
    Ok(Stats {
        collections,
        space: binding.map(|b| b.space),
        epoch: binding.map_or(0, |b| b.epoch),
        cursor: layout::read_uvarint(layout::read_meta(&view, meta::CURSOR)?.as_deref())?,
        outbox,
        inbox,
        conflicts_merged: layout::read_uvarint(layout::read_meta(&view, meta::CONFLICTS)?.as_deref())?,
        store: inner.store.stats(),
    })
}
