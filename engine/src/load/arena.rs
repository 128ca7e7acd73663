//! Rows as they come: one buffer, one array of places in it, and no allocation for any of them.
//!
//! A row is the record that a run has (`ROW_HEADER_BYTES`), so that a run is written by copying. What is sorted is a
//! number per row: tree, the next eight bytes of the key, and where the row lies. Rows that this does not tell apart
//! (keys with a long beginning in common, equal keys) are sorted again by the bytes behind what they have in common.

use crate::pager::PageError;

/// What stands before key and value of a row: tree u32, length of the key u16, length of the value u32.
pub(super) const ROW_HEADER_BYTES: usize = 10;

/// Rows with equal digits up to this many are compared by their whole keys.
const FEW_ROWS: usize = 16;

/// A row, wherever its bytes are.
#[derive(Clone, Copy)]
pub(super) struct Row<'r> {
    pub(super) tree: u32,
    pub(super) key: &'r [u8],
    pub(super) value: &'r [u8],
}

impl<'r> Row<'r> {
    /// Returns the row at the front of `bytes`; `None` where they end before it does.
    #[inline]
    pub(super) fn parse(bytes: &'r [u8]) -> Option<Self> {
        let (&[t0, t1, t2, t3, k0, k1, v0, v1, v2, v3], rest) = bytes.split_first_chunk::<ROW_HEADER_BYTES>()?;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([k0, k1])))?;
        let value = rest.get(..u32::from_le_bytes([v0, v1, v2, v3]) as usize)?;
        Some(Self { tree: u32::from_le_bytes([t0, t1, t2, t3]), key, value })
    }

    /// Returns the bytes that it takes.
    #[inline]
    pub(super) fn len(&self) -> usize {
        ROW_HEADER_BYTES + self.key.len() + self.value.len()
    }

    #[inline]
    fn header(&self) -> [u8; ROW_HEADER_BYTES] {
        let mut header = [0; ROW_HEADER_BYTES];
        header[..4].copy_from_slice(&self.tree.to_le_bytes());
        header[4..6].copy_from_slice(&(self.key.len() as u16).to_le_bytes());
        header[6..].copy_from_slice(&(self.value.len() as u32).to_le_bytes());
        header
    }

    /// Puts its bytes in the place of what `out` holds.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.header());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
    }
}

/// Returns the first eight bytes as a number, with zeros where there are fewer.
#[inline]
pub(super) fn digit_of(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut first = [0; 8];
            first[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(first)
        }
    }
}

/// Rows that wait to be sorted, or are.
#[derive(Default)]
pub(super) struct Arena {
    bytes: Vec<u8>,
    /// By row: tree (32 bits), a digit of the key (64), place in `bytes` (32).
    order: Vec<u128>,
    budget_bytes: usize,
    /// It was sorted, and not all digits are the first ones of their keys any more.
    is_sorted: bool,
}

impl Arena {
    pub(super) fn new(budget_bytes: usize) -> Self {
        assert!(budget_bytes <= u32::MAX as usize, "a place is 32 bits");
        Self { bytes: Vec::new(), order: Vec::new(), budget_bytes, is_sorted: false }
    }

    /// Returns whether a row of this many bytes of key and value fits.
    #[inline]
    pub(super) fn has_room(&self, row_bytes: usize) -> bool {
        let held = self.bytes.len() + (self.order.len() + 1) * size_of::<u128>();
        held + ROW_HEADER_BYTES + row_bytes <= self.budget_bytes
    }

    #[inline]
    pub(super) fn push(&mut self, row: Row<'_>) {
        if self.bytes.capacity() == 0 {
            // Address space; memory comes with use. Growing would move everything, time and again.
            self.bytes.reserve_exact(self.budget_bytes);
        }
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&row.header());
        self.bytes.extend_from_slice(row.key);
        self.bytes.extend_from_slice(row.value);
        self.order.push(with_digit(u128::from(row.tree) << 96 | u128::from(at), row.key));
    }

    /// Sorts by tree and key. Of rows with one key the last that came stays.
    pub(super) fn sort(&mut self) {
        if self.is_sorted {
            for entry in &mut self.order {
                *entry = with_digit(*entry, row_at(&self.bytes, *entry).key);
            }
        }
        self.is_sorted = true;
        self.order.sort_unstable();
        order_ties(&self.bytes, &mut self.order, 0);
        let bytes = &self.bytes;
        // Equal keys have had equal digits all along.
        self.order.dedup_by(|later, kept| {
            let is_same = (*later ^ *kept) >> 32 == 0 && row_at(bytes, *later).key == row_at(bytes, *kept).key;
            if is_same {
                *kept = *later;
            }
            is_same
        });
    }

    /// Returns the rows in their order.
    pub(super) fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.order.iter().map(|&entry| {
            let at = entry as u32 as usize;
            &self.bytes[at..][..row_at(&self.bytes, entry).len()]
        })
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    #[inline]
    pub(super) fn row(&self, i: usize) -> Row<'_> {
        row_at(&self.bytes, self.order[i])
    }

    /// Empties it. Memory is kept for what comes.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.order.clear();
        self.is_sorted = false;
    }
}

#[inline]
fn with_digit(entry: u128, key: &[u8]) -> u128 {
    entry >> 96 << 96 | u128::from(digit_of(key)) << 32 | u128::from(entry as u32)
}

#[inline]
fn row_at(bytes: &[u8], entry: u128) -> Row<'_> {
    Row::parse(&bytes[entry as u32 as usize..]).expect("it was put there")
}

/// Puts rows in order that their digits do not tell apart. All keys of a group have `depth` bytes in common.
fn order_ties(bytes: &[u8], order: &mut [u128], depth: usize) {
    for group in order.chunk_by_mut(|a, b| a >> 32 == b >> 32).filter(|group| group.len() > 1) {
        let first = row_at(bytes, group[0]).key;
        let common = group.iter().fold(first.len(), |common, &entry| {
            let key = row_at(bytes, entry).key;
            first[..common].iter().zip(key).take_while(|(a, b)| a == b).count()
        });
        // Zeros that fill up a digit may be equal to zeros of a longer key: then the next digit tells nothing more.
        if group.len() <= FEW_ROWS || common == depth {
            let key_of = |entry: u128| row_at(bytes, entry).key;
            group.sort_unstable_by(|&a, &b| key_of(a).cmp(key_of(b)).then((a as u32).cmp(&(b as u32))));
            continue;
        }
        for entry in group.iter_mut() {
            *entry = with_digit(*entry, &row_at(bytes, *entry).key[common..]);
        }
        group.sort_unstable();
        order_ties(bytes, group, common);
    }
}

/// A walk over a sorted arena.
pub(super) struct ArenaRows<'a> {
    arena: &'a Arena,
    at: usize,
}

impl<'a> ArenaRows<'a> {
    pub(super) fn new(arena: &'a Arena) -> Self {
        Self { arena, at: 0 }
    }

    #[inline]
    pub(super) fn row(&self) -> Option<Row<'_>> {
        (self.at < self.arena.len()).then(|| self.arena.row(self.at))
    }

    #[inline]
    pub(super) fn advance(&mut self) -> Result<(), PageError> {
        self.at += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::env::mix;

    /// Keys of every kind that digits find hard: empty ones, zeros at the end, long common beginnings, equal ones.
    #[test]
    fn sorted_as_a_map_sorts_and_the_last_of_equal_keys_stays() {
        for seed in 0..200_u64 {
            let mut chance = (0..).map(|n| mix(seed << 32 | n));
            let mut below = |n: u64| chance.next().expect("endless") % n;
            let mut arena = Arena::new(4 << 20);
            let mut model = BTreeMap::new();
            let common = vec![below(2) as u8; below(40) as usize];
            let again = below(400) as u32;
            for n in 0..below(400) as u32 {
                if n == again {
                    // As where its run found no room on the disk.
                    arena.sort();
                }
                let tree = below(3) as u32;
                let mut key = if below(3) > 0 { common.clone() } else { Vec::new() };
                key.extend((0..below(12)).map(|_| below(2) as u8));
                let value = n.to_le_bytes();
                arena.push(Row { tree, key: &key, value: &value });
                model.insert((tree, key), value);
            }
            arena.sort();
            let found = (0..arena.len()).map(|i| arena.row(i)).map(|row| ((row.tree, row.key.to_vec()), row.value));
            let wanted = model.iter().map(|(key, value)| (key.clone(), &value[..]));
            assert!(found.eq(wanted), "seed {seed}");
        }
    }

    #[test]
    fn an_arena_has_room_up_to_its_budget_and_no_further() {
        let mut arena = Arena::new(1000);
        let each = ROW_HEADER_BYTES + size_of::<u128>() + 24;
        let mut rows = 0;
        while arena.has_room(24) {
            arena.push(Row { tree: 1, key: &[7; 4], value: &[0; 20] });
            rows += 1;
        }
        assert_eq!(rows, 1000 / each);
        let left = 1000 - rows * each;
        assert!(left < each);
    }
}
