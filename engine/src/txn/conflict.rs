//! What a transaction must not have missed: writes of others, since its snapshot, to what it writes or has read.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::CommitError;
use crate::snapshot::{Layers, Walk};
use crate::store::Inner;
use crate::sync::MutexGuard;
use crate::txn::head::Head;
use crate::txn::reads::ReadRange;
use crate::txn::{ReadView, TreeId, WriteTransaction};

/// How often what checkpoints have moved is compared without the lock before it is done with it.
const LOOKS_APART: usize = 8;

impl Inner {
    /// First committer wins, by key. Whatever a checkpoint has moved into pages since the transaction's snapshot is compared
    /// row by row, which reads pages; that is done up to a view that is newer, while others commit. With the lock, there
    /// are only the tables to look at, as a rule. `again` is called where the lock was open meanwhile.
    pub(crate) fn check_conflicts(
        self: &Arc<Self>,
        head: &mut MutexGuard<'_, Head>,
        tx: &WriteTransaction,
        mut again: impl FnMut(&mut MutexGuard<'_, Head>) -> Result<(), CommitError>,
    ) -> Result<(), CommitError> {
        let mut seen: Option<ReadView> = None;
        for _ in 0..LOOKS_APART {
            let since = seen.as_ref().unwrap_or(&tx.view);
            if head.layers.root.commit_no <= since.commit_no() {
                break;
            }
            let newer = MutexGuard::unlocked(head, || {
                let newer = ReadView::new(self);
                let checked = newer.held().with(|newest| Ok(check_since(newest, tx, since)));
                checked.map_err(CommitError::from)?.map(|()| newer)
            })?;
            again(head)?;
            seen = Some(newer);
        }
        check_since(&head.layers, tx, seen.as_ref().unwrap_or(&tx.view))
    }
}

/// Whether anything of what the transaction writes or has read was written between two states.
fn check_since(newest: &Layers, tx: &WriteTransaction, since: &ReadView) -> Result<(), CommitError> {
    if newest.commit_no() == since.commit_no() {
        return Ok(());
    }
    let reads = tx.reads.lock();
    let written = tx.writes.iter().map(|(tree, record, _)| (tree, record.key()));
    let read = reads.keys.iter().map(|(tree, key)| (*tree, &key[..]));
    for (tree, key) in written.chain(read) {
        if key_moved(newest, since, tree, key)? {
            return Err(CommitError::Conflict { tree: TreeId(tree), key: Bytes::copy_from_slice(key) });
        }
    }
    for range in &reads.ranges {
        if let Some(key) = range_moved(newest, since, range)? {
            return Err(CommitError::Conflict { tree: TreeId(range.tree), key });
        }
    }
    Ok(())
}

/// Whether a key was written since a view was taken. Tables know the commit of each version. What a
/// checkpoint has moved into pages since does not: there the values are compared, and one that was changed and
/// changed back is what the view shows.
fn key_moved(newest: &Layers, since: &ReadView, tree: u32, key: &[u8]) -> Result<bool, CommitError> {
    if let Some(entry) = newest.in_tables(tree, key) {
        return Ok(entry.commit_no() > since.commit_no());
    }
    if newest.root.commit_no <= since.commit_no() {
        return Ok(false);
    }
    let moved = since.held().with(|seen| {
        let same = newest.with(tree, key, |now| seen.with(tree, key, |then| seen.same_value(then, newest, now)))?;
        match same {
            Some(then) => then?.transpose().map(|same| !same.unwrap_or(false)),
            None => Ok(seen.contains(tree, key)?),
        }
    });
    moved.map_err(CommitError::from)
}

/// Returns a key of the range that was written since a view was taken.
fn range_moved(newest: &Layers, since: &ReadView, range: &ReadRange) -> Result<Option<Bytes>, CommitError> {
    let snapshot = since.commit_no();
    let lower = range.lower.as_ref().map(Vec::as_slice);
    let inside = |key: &[u8]| match &range.upper {
        std::ops::Bound::Unbounded => true,
        std::ops::Bound::Included(end) => key <= &end[..],
        std::ops::Bound::Excluded(end) => key < &end[..],
    };
    for table in [Some(&newest.active), newest.frozen.as_ref()].into_iter().flatten() {
        let mut cursor = table.cursor(range.tree);
        cursor.seek(lower);
        while let Some((key, entry)) = cursor.entry().filter(|(key, _)| inside(key)) {
            if entry.commit_no() > snapshot {
                return Ok(Some(Bytes::copy_from_slice(key)));
            }
            cursor.next();
        }
    }
    if newest.root.commit_no <= snapshot {
        return Ok(None);
    }
    // A checkpoint came in between: both states are walked side by side.
    let moved = since.held().with(|seen| {
        let mut before = Walk::new(seen, range.tree, lower, false)?;
        let mut now = Walk::new(newest, range.tree, lower, false)?;
        loop {
            let keys = (before.key().filter(|k| inside(k)), now.key().filter(|k| inside(k)));
            let (Some(a), Some(b)) = keys else { return Ok(keys.0.or(keys.1).map(Bytes::copy_from_slice)) };
            let same = match (before.value(), now.value()) {
                (Some(then), Some(now)) if a == b => seen.same_value(then, newest, now)?,
                _ => false,
            };
            if !same {
                return Ok(Some(Bytes::copy_from_slice(a.min(b))));
            }
            before.advance(seen)?;
            now.advance(newest)?;
        }
    });
    moved.map_err(CommitError::from)
}
