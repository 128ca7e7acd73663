//! How large a table is when a checkpoint is due.
//!
//! The pages that a checkpoint replaces stay in the file until the next one is durable, which has written its own by then:
//! beside what it holds, a file has room for what two checkpoints replace. Rows of random keys are the worst. A table
//! that has fewer of them than the file has leaves replaces about a page for each, and so do two tables of half the size:
//! the file is as long as the tables are large, and no row is cheaper for it. So there a checkpoint is due earlier, when
//! it replaces an eighth of the file.
//!
//! Where a full table has more rows than the file has leaves, several share each page that is written, and a smaller table
//! would write far more: it stays as large as memory allows, and the file may be three times as long as what is in it.
//! Keys in order replace next to nothing. There tables are full, too.

/// A checkpoint replaces one in so many pages of the file, where a smaller table is hardly dearer.
const SHARE: f64 = 8.0;
/// The smallest table of a checkpoint is one in so many of a full one: each checkpoint waits for two syncs of the file.
const PARTS_MAX: u64 = 8;
/// From this part of the file on that a full table would replace, its rows share pages.
const SHARED_FROM: f64 = 2.0 / 3.0;
/// Bytes of a table that replace a page, where nothing is known: about a row each.
const BYTES_PER_PAGE: u64 = 256;

/// What a checkpoint has come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) table_bytes: u64,
    pub(super) replaced_pages: u64,
    /// Pages of the file that are in use after it.
    pub(super) used_pages: u64,
}

/// Returns the bytes of table from which on the first checkpoint of a file with so many pages in use is due; at most `full`.
pub(crate) fn first(full: u64, used_pages: u64) -> u64 {
    // What an eighth of it is, or would be.
    let replaced_pages = used_pages / 8;
    next(full, 0, Done { table_bytes: replaced_pages.saturating_mul(BYTES_PER_PAGE), replaced_pages, used_pages })
}

/// Returns the bytes of table from which on the next checkpoint is due, where this one was due `from` so many; at most
/// `full`.
pub(super) fn next(full: u64, from: u64, done: Done) -> u64 {
    let Done { table_bytes, replaced_pages, used_pages } = done;
    if table_bytes < from / 2 {
        // A small table was written for another reason, and says little.
        return from.min(full);
    }
    let replaced = replaced_pages as f64 / used_pages.max(1) as f64;
    let tables = full as f64 / table_bytes.max(1) as f64;
    // Each table finds its pages whatever the ones before it have found.
    let by_full = 1.0 - (1.0 - replaced.min(1.0)).powf(tables);
    if by_full > SHARED_FROM {
        return full;
    }
    let bytes = table_bytes as f64 / (replaced * SHARE).max(f64::MIN_POSITIVE);
    (bytes as u64).clamp(full / PARTS_MAX, full)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: u64 = 3 << 19;

    /// Checkpoints of rows of 180 bytes with random keys in a file of so many leaves: from how many bytes on they are due in
    /// the end, and the part of the file that each replaces.
    fn settled(leaves: f64) -> (u64, f64) {
        let mut from = first(FULL, leaves as u64);
        let mut share = 0.0;
        for _ in 0..20 {
            share = 1.0 - (-(from as f64 / 180.0) / leaves).exp();
            let replaced_pages = (leaves * share) as u64;
            from = next(FULL, from, Done { table_bytes: from, replaced_pages, used_pages: leaves as u64 });
        }
        (from, share)
    }

    #[test]
    fn a_file_with_more_leaves_than_a_table_has_rows_is_replaced_by_an_eighth() {
        for leaves in [10_000.0, 20_000.0, 50_000.0] {
            let (from, share) = settled(leaves);
            assert!((0.11..0.13).contains(&share) && from < FULL, "{leaves} leaves: {share} by {from} bytes");
        }
    }

    #[test]
    fn short_and_very_long_files_are_written_by_full_tables() {
        for leaves in [0.0, 1.0, 300.0, 5_000.0, 1_000_000.0] {
            assert_eq!(settled(leaves).0, FULL, "{leaves} leaves");
        }
        let in_order = Done { table_bytes: FULL / 8, replaced_pages: 3, used_pages: 10_000 };
        assert_eq!(next(FULL, FULL / 8, in_order), FULL);
    }

    #[test]
    fn what_was_written_for_another_reason_changes_nothing() {
        let closed = Done { table_bytes: 500, replaced_pages: 9, used_pages: 10_000 };
        assert_eq!(next(FULL, FULL / 2, closed), FULL / 2);
        assert_eq!(next(FULL, 2 * FULL, closed), FULL, "a disk was full for a while");
    }

    #[test]
    fn whatever_a_checkpoint_came_to_a_table_is_within_its_bounds() {
        let numbers = [0, 1, 4095, FULL, u64::MAX];
        for from in numbers {
            for table_bytes in numbers {
                for replaced_pages in numbers {
                    for used_pages in numbers {
                        let next = next(FULL, from, Done { table_bytes, replaced_pages, used_pages });
                        assert!(next <= FULL && (next >= FULL / 8 || next == from), "{next}");
                    }
                }
            }
            assert!((FULL / 8..=FULL).contains(&first(FULL, from)));
        }
    }
}
