//! The push window: which batches are on their way and how many bytes of them may be.
//!
//! Every pushed batch is answered once, by an Ack, by its own Entry or by NeedFrom. Until then its bytes count against the
//! window. A batch that is larger than the window goes out when nothing else is on its way.

use std::collections::VecDeque;

use blazedb_wire::{DecodeError, Reader, ReplicaId};

/// What a sealed batch says about itself in its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchName {
    pub(super) replica: ReplicaId,
    pub(super) first_counter: u64,
}

impl BatchName {
    /// Reads the name of an own sealed batch without walking the batch.
    pub(super) fn read(batch: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(batch);
        // Batch kind and space.
        reader.bytes(1 + 16)?;
        let replica = ReplicaId::from_bytes(reader.array()?);
        let first_counter = reader.uvarint()?;
        Ok(Self { replica, first_counter })
    }
}

/// One batch that was pushed and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) name: BatchName,
    pub(super) last_counter: u64,
    pub(super) bytes: usize,
}

/// The batches on their way, in the order of pushing.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pushed: VecDeque<InFlight>,
    bytes: usize,
    bytes_max: usize,
}

impl Window {
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self { pushed: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(super) fn clear(&mut self) {
        self.pushed.clear();
        self.bytes = 0;
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.pushed.len()
    }

    /// spec: S-11
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.pushed.is_empty() || self.bytes + bytes <= self.bytes_max
    }

    pub(super) fn push(&mut self, batch: InFlight) {
        self.bytes += batch.bytes;
        self.pushed.push_back(batch);
    }

    pub(super) fn contains(&self, name: BatchName) -> bool {
        self.pushed.iter().any(|pushed| pushed.name == name)
    }

    /// Takes out the batch with this name and this last counter.
    pub(super) fn take(&mut self, name: BatchName, last_counter: u64) -> Option<InFlight> {
        let found = self.pushed.iter().position(|pushed| pushed.name == name && pushed.last_counter == last_counter)?;
        let batch = self.pushed.remove(found)?;
        self.bytes -= batch.bytes;
        Some(batch)
    }

    /// Takes out what a relay that wants `replica` from `counter` has refused; returns whether there was any.
    pub(super) fn take_above(&mut self, replica: ReplicaId, counter: u64) -> bool {
        self.take_where(|pushed| pushed.name.replica == replica && pushed.name.first_counter > counter)
    }

    /// Takes out what holds operations of `replica` from `counter` on.
    pub(super) fn take_from(&mut self, replica: ReplicaId, counter: u64) {
        self.take_where(|pushed| pushed.name.replica == replica && pushed.last_counter >= counter);
    }

    fn take_where(&mut self, taken: impl Fn(&InFlight) -> bool) -> bool {
        let before = self.pushed.len();
        self.pushed.retain(|pushed| !taken(pushed));
        self.bytes = self.pushed.iter().map(|pushed| pushed.bytes).sum();
        self.pushed.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::WINDOW_BYTES;

    fn batch(first: u64, last: u64, bytes: usize) -> InFlight {
        let name = BatchName { replica: ReplicaId::from_bytes([7; 16]), first_counter: first };
        InFlight { name, last_counter: last, bytes }
    }

    #[test]
    fn the_window_holds_at_the_edge() {
        // spec: S-11
        let mut window = Window::new(WINDOW_BYTES);
        assert!(window.has_room(WINDOW_BYTES + 1), "an empty window takes any batch");
        window.push(batch(1, 1, 1));
        assert!(window.has_room(WINDOW_BYTES - 1));
        assert!(!window.has_room(WINDOW_BYTES));
        window.push(batch(2, 5, WINDOW_BYTES - 1));
        assert!(!window.has_room(1));
        assert_eq!(window.take(batch(2, 4, 0).name, 4), None);
        assert!(window.take(batch(2, 5, 0).name, 5).is_some());
        assert_eq!((window.bytes(), window.len()), (1, 1));
    }

    #[test]
    fn need_from_takes_out_what_lies_above() {
        let mut window = Window::new(WINDOW_BYTES);
        for first in [1, 4, 7] {
            window.push(batch(first, first + 2, 10));
        }
        let replica = ReplicaId::from_bytes([7; 16]);
        assert!(!window.take_above(ReplicaId::from_bytes([8; 16]), 1));
        assert!(window.take_above(replica, 4));
        assert_eq!((window.bytes(), window.len()), (20, 2));
        assert!(!window.take_above(replica, 4));
        window.take_from(replica, 4);
        assert_eq!((window.bytes(), window.len()), (10, 1));
    }
}
