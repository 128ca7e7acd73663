//! How much is waiting: the outbox in numbers.

use super::Replica;
use crate::{Error, layout};

/// What is in the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxCounts {
    /// Own operations that are not sealed yet.
    pub pending_ops: u64,
    /// Own operations that are sealed and not in the relay's log as far as this replica knows.
    pub sealed_ops: u64,
    /// Sealed batches.
    pub batches: u64,
}

impl OutboxCounts {
    /// Returns whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pending_ops == 0 && self.sealed_ops == 0
    }
}

impl Replica {
    /// Counts the outbox.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn outbox(&self) -> Result<OutboxCounts, Error> {
        let state = self.inner.replica.lock();
        let view = self.inner.store.read();
        let mut counts = OutboxCounts { batches: state.sealed.len() as u64, ..OutboxCounts::default() };
        for (name, last) in &state.sealed {
            counts.sealed_ops += last - name.counter + 1;
        }
        if let Some(tree) = view.tree(layout::PENDING)? {
            counts.pending_ops = view.len(tree)?;
        }
        Ok(counts)
    }
}
