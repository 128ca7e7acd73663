//! How large a table is when a checkpoint is due.
//!
//! The pages that a checkpoint replaces stay in the file until the next one is durable, which has written its own by then:
//! beside what it holds, a file has room for what two checkpoints replace. Rows of random keys are the worst. A table
//! that has fewer of them than the file has leaves replaces about a page for each, and so do two tables of half the size:
//! the file is as long as the tables are large, and no row is cheaper for it. So there a checkpoint is due earlier, when
//! it replaces a sixteenth of the file; or an eighth where its rows are new ones: a file that grows has use for the pages
//! that were replaced, and the more rows fall on a page at once, the better is it filled when it is cut.
//!
//! Where several rows of a full table share each page that it replaces, as the file is short or some keys are
//! changed much oftener than others, smaller tables would write far more: there tables stay as large as memory allows, and
//! the file may be up to four times as long as what is in it. Keys in order replace next to nothing. There tables are full, too.
//!
//! How many rows share a page in a full table follows from how many do in a smaller one: if each of n rows falls on any of h
//! pages, x = n / h rows fall on each, and x / (1 - exp(-x)) on each page on which one falls.

/// A checkpoint replaces one in so many pages of the file, where a smaller table is hardly dearer: of rows that are there
/// already, and of new ones.
const SHARE: f64 = 16.0;
const SHARE_OF_NEW: f64 = 8.0;
/// The smallest table of a checkpoint is one in so many of a full one: each checkpoint waits for two syncs of the file.
const PARTS_MAX: u64 = 8;
/// From so many rows on for each page that its rows fall on, replaced or not, a full table is not made smaller.
const SHARED_FROM: f64 = 1.0;
/// Bytes of a table that replace a page, where nothing is known: about a row each.
const BYTES_PER_PAGE: u64 = 256;

/// What a checkpoint has come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) table_bytes: u64,
    /// Keys of the table.
    pub(super) rows: u64,
    /// By so many the store has more.
    pub(super) new_rows: u64,
    pub(super) replaced_pages: u64,
    /// Pages of the file that are in use after it.
    pub(super) used_pages: u64,
}

/// Returns the bytes of table from which on the first checkpoint of a file with so many pages in use is due; at most `full`.
pub(crate) fn first(full: u64, used_pages: u64) -> u64 {
    if full as f64 > SHARED_FROM * (BYTES_PER_PAGE as f64 * used_pages as f64) {
        return full;
    }
    between(full, BYTES_PER_PAGE as f64 * used_pages as f64 / SHARE_OF_NEW)
}

/// Returns the bytes of table from which on the next checkpoint is due, where this one was due `from` so many; at most
/// `full`.
pub(super) fn next(full: u64, from: u64, done: Done) -> u64 {
    let Done { table_bytes, rows, new_rows, replaced_pages, used_pages } = done;
    if table_bytes < from / 2 {
        // A small table was written for another reason, and says little.
        return from.min(full);
    }
    let tables = full as f64 / table_bytes.max(1) as f64;
    let replaced = replaced_pages.max(1) as f64;
    if rows_per_page(rows as f64 / replaced) * tables > SHARED_FROM {
        return full;
    }
    let new = (new_rows as f64 / rows.max(1) as f64).min(1.0);
    let share = SHARE + new * (SHARE_OF_NEW - SHARE);
    between(full, table_bytes as f64 * used_pages as f64 / (replaced * share))
}

fn between(full: u64, bytes: f64) -> u64 {
    (bytes as u64).clamp(full / PARTS_MAX, full)
}

/// Returns how many rows fall on each page of those they may fall on, where so many fall on each that one falls on.
fn rows_per_page(on_replaced: f64) -> f64 {
    let (mut low, mut high) = (0.0, on_replaced);
    // Half of the interval each time; more exactly than rows can be counted.
    for _ in 0..20 {
        let x = f64::midpoint(low, high);
        if x < on_replaced * (1.0 - (-x).exp()) { low = x } else { high = x }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: u64 = 3 << 19;

    /// Checkpoints of rows of 180 bytes in a file of so many leaves, one in `hot` of which are changed `often` of ten times:
    /// from how many bytes on they are due in the end, the part of the file that each replaces, and how many pages are
    /// written for each row, to how many by full tables.
    fn settled(leaves: f64, (hot, often): (f64, f64)) -> (u64, f64, f64) {
        let replaces = |rows: f64| {
            let part = |leaves: f64, rows: f64| leaves * (1.0 - (-rows / leaves.max(1.0)).exp());
            part(leaves / hot, rows * often / 10.0) + part(leaves - leaves / hot, rows * (1.0 - often / 10.0))
        };
        let mut from = first(FULL, leaves as u64);
        for _ in 0..20 {
            let rows = from as f64 / 180.0;
            let replaced_pages = replaces(rows) as u64;
            from = next(
                FULL,
                from,
                Done { table_bytes: from, rows: rows as u64, new_rows: 0, replaced_pages, used_pages: leaves as u64 },
            );
        }
        let (rows, full) = (from as f64 / 180.0, FULL as f64 / 180.0);
        (from, replaces(rows) / leaves, replaces(rows) / rows / (replaces(full) / full))
    }

    const ALL_ALIKE: (f64, f64) = (1.0, 10.0);

    #[test]
    fn a_file_with_more_leaves_than_a_table_has_rows_is_replaced_by_a_sixteenth() {
        // The smallest table replaces a tenth of ten thousand.
        for (leaves, least, most) in [(10_000.0, 0.09, 0.11), (20_000.0, 0.05, 0.07), (50_000.0, 0.05, 0.07)] {
            let (from, share, dearer) = settled(leaves, ALL_ALIKE);
            assert!((least..most).contains(&share) && from < FULL, "{leaves} leaves: {share} by {from} bytes");
            assert!(dearer < 1.5, "{leaves} leaves: {dearer} times the pages");
        }
    }

    #[test]
    fn where_rows_share_pages_tables_are_full() {
        // Where nothing can be gained, or much would be lost.
        for leaves in [0.0, 1.0, 300.0, 5_000.0, 1_000_000.0] {
            assert_eq!(settled(leaves, ALL_ALIKE).0, FULL, "{leaves} leaves");
        }
        let in_order = Done { table_bytes: FULL / 8, rows: 1_000, new_rows: 0, replaced_pages: 3, used_pages: 10_000 };
        assert_eq!(next(FULL, FULL / 8, in_order), FULL);
    }

    #[test]
    fn some_keys_that_are_changed_oftener_than_others_make_no_row_much_dearer() {
        for leaves in [3_000.0, 5_000.0, 10_000.0, 30_000.0, 100_000.0] {
            for hot in [2.0, 5.0, 7.5, 8.0, 20.0, 100.0] {
                for often in [5.0, 8.0, 9.0, 10.0] {
                    let (from, _, dearer) = settled(leaves, (hot, often));
                    let context = format!("{leaves} leaves, one in {hot} changed {often} of ten times");
                    assert!(dearer < 1.7, "{context}: {dearer} times the pages, by {from} bytes");
                }
            }
        }
    }

    #[test]
    fn long_rows_have_pages_of_their_own_whatever_the_table() {
        let done = Done { table_bytes: FULL, rows: 500, new_rows: 0, replaced_pages: 600, used_pages: 2_000 };
        assert!(next(FULL, FULL, done) < FULL);
    }

    #[test]
    fn of_a_file_that_grows_more_is_replaced_at_once() {
        let done = |new_rows| Done { table_bytes: FULL, rows: 500, new_rows, replaced_pages: 600, used_pages: 2_000 };
        let [grown, half, same] = [500, 250, 0].map(|new_rows| next(FULL, FULL, done(new_rows)));
        assert!(grown == 2 * same && grown > half && half > same, "{grown} {half} {same}");
    }

    #[test]
    fn what_was_written_for_another_reason_changes_nothing() {
        let closed = Done { table_bytes: 500, rows: 3, new_rows: 0, replaced_pages: 9, used_pages: 10_000 };
        assert_eq!(next(FULL, FULL / 2, closed), FULL / 2);
        assert_eq!(next(FULL, 2 * FULL, closed), FULL, "a disk was full for a while");
    }

    #[test]
    fn whatever_a_checkpoint_came_to_a_table_is_within_its_bounds() {
        let numbers = [0, 1, 4095, FULL, u64::MAX];
        for from in numbers {
            for table_bytes in numbers {
                for rows in numbers {
                    for replaced_pages in numbers {
                        for used_pages in numbers {
                            let done = Done { table_bytes, rows, new_rows: from, replaced_pages, used_pages };
                            let next = next(FULL, from, done);
                            assert!(next <= FULL && (next >= FULL / 8 || next == from), "{next} after {done:?}");
                        }
                    }
                }
            }
            assert!((FULL / 8..=FULL).contains(&first(FULL, from)));
        }
    }
}
