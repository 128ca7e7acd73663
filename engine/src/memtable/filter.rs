//! Says for most keys that are not in a table that they are not there, for the price of one cache line.
//!
//! A bit that is set stays set: a commit that was rolled back, or a later version of the table that shares the
//! filter, leaves a false "maybe" and never a false "no". Whoever chooses keys can make every answer "maybe"; then
//! the table is searched, which is what would happen without a filter.

use std::sync::atomic::{AtomicU64, Ordering};

/// Words of one block: a cache line.
const BLOCK_WORDS: usize = 8;
/// Bytes of table that one byte of filter stands for. An entry of about 100 bytes gets 12 bits.
const TABLE_BYTES_PER_BYTE: usize = 64;

pub(super) struct Filter {
    blocks: Box<[[AtomicU64; BLOCK_WORDS]]>,
}

impl Filter {
    /// For a table of about this many bytes.
    pub(super) fn new(table_bytes: usize) -> Self {
        let blocks = (table_bytes / TABLE_BYTES_PER_BYTE / (8 * BLOCK_WORDS)).max(1);
        Self { blocks: (0..blocks).map(|_| Default::default()).collect() }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * 8 * BLOCK_WORDS
    }

    /// Returns whether it may have been there before.
    pub(super) fn add(&self, hash: u64) -> bool {
        let block = &self.blocks[self.block(hash)];
        bits(hash).iter().fold(true, |may, &(word, bit)| {
            // Relaxed: whoever looks for a key got the table, by a lock, after its bits were set. No read-modify-write:
            // one thread adds.
            let before = block[word].load(Ordering::Relaxed);
            block[word].store(before | bit, Ordering::Relaxed);
            may && before & bit != 0
        })
    }

    pub(super) fn may_hold(&self, hash: u64) -> bool {
        let block = &self.blocks[self.block(hash)];
        bits(hash).iter().all(|&(word, bit)| block[word].load(Ordering::Relaxed) & bit != 0)
    }

    fn block(&self, hash: u64) -> usize {
        // The upper half times the number of blocks: a remainder without a division.
        ((u128::from(hash) * self.blocks.len() as u128) >> 64) as usize
    }
}

/// Three bits of a block.
fn bits(hash: u64) -> [(usize, u64); 3] {
    [0, 9, 18].map(|shift| {
        let n = hash >> shift;
        ((n >> 6 & 7) as usize, 1 << (n & 63))
    })
}

/// Mixes a tree and a key: a folded multiplication per eight bytes.
pub(super) fn hash(tree: u32, key: &[u8]) -> u64 {
    const A: u64 = 0x9E37_79B9_7F4A_7C15;
    const B: u64 = 0xD6E8_FEB8_6659_FD93;
    let fold = |a: u64, b: u64| {
        let wide = u128::from(a) * u128::from(b);
        (wide >> 64) as u64 ^ wide as u64
    };
    let mut state = fold(u64::from(tree) ^ A, key.len() as u64 ^ B);
    let mut words = key.chunks_exact(8);
    for word in &mut words {
        state = fold(state ^ u64::from_le_bytes(word.try_into().expect("chunks of eight")), B);
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    fold(state ^ u64::from_le_bytes(last), A)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_may_be_there_and_most_else_is_not() {
        let filter = Filter::new(100 * 10_000);
        for n in 0..10_000_u64 {
            filter.add(hash(1, &n.to_be_bytes()));
        }
        assert!(filter.add(hash(1, &7_u64.to_be_bytes())));
        assert!(!Filter::new(1000).add(hash(1, b"first")));
        assert!((0..10_000_u64).all(|n| filter.may_hold(hash(1, &n.to_be_bytes()))));
        let wrong = (10_000..110_000_u64).filter(|n| filter.may_hold(hash(1, &n.to_be_bytes()))).count();
        assert!(wrong < 6_000, "{wrong} of 100,000");
        let other_tree = (0..10_000_u64).filter(|n| filter.may_hold(hash(2, &n.to_be_bytes()))).count();
        assert!(other_tree < 600, "{other_tree} of 10,000");
    }
}
