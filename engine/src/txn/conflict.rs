//! What a transaction must not have missed: writes of others, since its snapshot, to what it writes or has read.

use bytes::Bytes;

use crate::error::CommitError;
use crate::snapshot::{Layers, Walk};
use crate::txn::reads::ReadRange;
use crate::txn::{TreeId, WriteTransaction};

/// First committer wins, by key.
pub(crate) fn check_conflicts(newest: &Layers, tx: &WriteTransaction) -> Result<(), CommitError> {
    let snapshot = tx.view.commit_no();
    if newest.commit_no() == snapshot {
        return Ok(());
    }
    let reads = tx.reads.lock();
    let written = tx.writes.iter().map(|(tree, record, _)| (tree, record.key()));
    let read = reads.keys.iter().map(|(tree, key)| (*tree, &key[..]));
    for (tree, key) in written.chain(read) {
        if key_moved(newest, tx, tree, key)? {
            return Err(CommitError::Conflict { tree: TreeId(tree), key: Bytes::copy_from_slice(key) });
        }
    }
    for range in &reads.ranges {
        if let Some(key) = range_moved(newest, tx, range)? {
            return Err(CommitError::Conflict { tree: TreeId(range.tree), key });
        }
    }
    Ok(())
}

/// Whether a key was written since the transaction's snapshot. Tables know the commit of each version. What a
/// checkpoint has moved into pages since does not: there the values are compared, and one that was changed and
/// changed back is what the transaction saw.
fn key_moved(newest: &Layers, tx: &WriteTransaction, tree: u32, key: &[u8]) -> Result<bool, CommitError> {
    if let Some(entry) = newest.in_tables(tree, key) {
        return Ok(entry.commit_no() > tx.view.commit_no());
    }
    if newest.root.commit_no <= tx.view.commit_no() {
        return Ok(false);
    }
    let moved = tx.view.held().with(|seen| {
        let same = newest.with(tree, key, |now| seen.with(tree, key, |then| seen.same_value(then, newest, now)))?;
        match same {
            Some(then) => then?.transpose().map(|same| !same.unwrap_or(false)),
            None => Ok(seen.contains(tree, key)?),
        }
    });
    moved.map_err(CommitError::from)
}

/// Returns a key of the range that was written since the transaction's snapshot.
fn range_moved(newest: &Layers, tx: &WriteTransaction, range: &ReadRange) -> Result<Option<Bytes>, CommitError> {
    let snapshot = tx.view.commit_no();
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
    let moved = tx.view.held().with(|seen| {
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
