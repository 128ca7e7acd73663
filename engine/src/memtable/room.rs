//! Room for the records of tables, in chunks that are used again when their table has gone.
//!
//! Without it the records of each commit are a piece of memory of their own, and many threads that commit leave holes of
//! many sizes in as many heaps: the allocator then holds nearly twice what the tables do.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

const CHUNK_BYTES_MAX: usize = 64 << 10;
/// How many chunks a table has at least.
const CHUNKS_MIN: usize = 16;
/// How many chunks are asked whether they are free. They are filled in the order in which they become so, but for those
/// that a view holds.
const ASKED_MAX: usize = 8;

pub(super) struct Room {
    chunk_bytes: usize,
    /// The end of the chunk that is being filled, beginning with the piece that is open.
    current: BytesMut,
    /// The ends of chunks that are full. Whoever holds a piece of a chunk keeps it from being used again.
    full: VecDeque<BytesMut>,
    /// Of them at most: all that tables may have.
    full_max: usize,
}

impl Room {
    /// Room for tables that take `tables_bytes` at most, all together, and `table_bytes` each as a rule.
    pub(super) fn new(table_bytes: usize, tables_bytes: usize) -> Self {
        let chunk_bytes = (table_bytes / CHUNKS_MIN).clamp(256, CHUNK_BYTES_MAX);
        let full_max = tables_bytes / chunk_bytes + 1;
        Self { chunk_bytes, current: BytesMut::new(), full: VecDeque::new(), full_max }
    }

    pub(super) fn fits(&self, len: usize) -> bool {
        self.current.capacity() - self.current.len() >= len
    }

    /// Goes on in another chunk, where there is room for a record of this length; returns how many bytes the last one
    /// leaves unused.
    pub(super) fn next_chunk(&mut self, len: usize) -> usize {
        debug_assert!(self.current.is_empty(), "the open piece is closed before");
        let len = len.max(self.chunk_bytes);
        let unused = self.current.capacity();
        let asked = self.full.len().min(ASKED_MAX);
        let free = (0..asked).find(|&n| self.full[n].try_reclaim(len)).and_then(|n| self.full.remove(n));
        let next = free.unwrap_or_else(|| BytesMut::with_capacity(len));
        self.full.push_back(std::mem::replace(&mut self.current, next));
        if self.full.len() > self.full_max {
            self.full.pop_front();
        }
        unused
    }

    /// Adds a record to the open piece; returns where in it.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> usize {
        let at = self.current.len();
        self.current.extend_from_slice(key);
        self.current.extend_from_slice(value);
        at
    }

    /// Ends the open piece.
    pub(super) fn close(&mut self) -> Bytes {
        self.current.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_used_again_when_nobody_holds_a_piece_of_them() {
        let mut room = Room::new(16 << 10, 40 << 10);
        let mut pieces = VecDeque::new();
        let mut places = std::collections::BTreeSet::new();
        for n in 0..1000_u32 {
            if !room.fits(300) {
                assert!(room.next_chunk(300) < 300);
            }
            assert_eq!(room.add(&n.to_le_bytes(), &[n as u8; 296]), 0);
            pieces.push_back((n, room.close()));
            // Ten chunks' worth is held.
            if pieces.len() > 30 {
                let (old, piece) = pieces.pop_front().expect("there are 31");
                assert!(piece[..4] == old.to_le_bytes() && piece[4..] == [old as u8; 296], "{old}");
                places.insert(piece.as_ptr());
            }
        }
        assert!(places.len() <= 13 * 3, "{} places", places.len());
        // A record that is longer than a chunk has one of its own.
        room.next_chunk(5000);
        assert!(room.fits(5000));
    }
}
