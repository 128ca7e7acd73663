//! Versions that are older than is asked for go, in steps, with checkpoints.
//!
//! A round begins when an eighth of what a twin holds may go: its floor moves up, in the same header with the first
//! step, and from then on no reader asks for what lies before. A step looks at some entries, from where the one before
//! has stopped, and deletes those that were superseded at or before the floor; the values that lie in pages of their own
//! go with them. Where a round stands is not in the file: after a crash the next one finds what was left.
//!
//! Views that show a commit below the floor stay on the pages that they have.

use std::ops::Bound;

use super::ledger::{
    ASIDE, LedgerEdits, Meta, PagePoints, Points, TIMES, decode_point_key, mark_at, mark_key, point_before, point_key,
    read_point,
};
use super::{Twin, Twins, key};
use crate::btree::{self, CellValue, EditValue, Edits, TreeCursor, TreeRoot};
use crate::checkpoint::tree_mut;
use crate::error::MaintainError;
use crate::pager::{PageError, PageWrite};
use crate::store::Store;

/// Bytes of entries that a step looks at: at least, and as a part of all; but no more than so many tables have, as writers
/// wait for the checkpoint that it is a part of. A table makes about as much history as it has bytes, so that a round comes
/// to its end.
const STEP_BYTES_MIN: u64 = 1 << 20;
const STEPS_MIN: u64 = 16;
const STEP_TABLES_MAX: u64 = 4;
/// Bytes of memory that keys which are to go take at once, of which each has a place of its own.
const GONE_BYTES_MAX: usize = 256 << 10;
const GONE_KEY_BYTES: usize = 64;
/// Entries of the ledger that are deleted at once, and how often that is done in a step at most.
const LEDGER_ENTRIES_MAX: usize = 4096;
const FORGETS_MAX: usize = 32;
/// Milliseconds of times that are worth a round.
const OVERDUE_MS_MIN: u64 = 60_000;
/// A round begins for this part of what a twin holds, or of the time that it is held for.
const ROUND_PART: u64 = 8;

/// A round that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    twin: u32,
    floor: u64,
    /// Entries before it are done.
    from: Vec<u8>,
    /// About so many bytes are looked at in a step.
    step_bytes: u64,
}

/// What is under way of all twins.
#[derive(Clone, Debug)]
pub(crate) struct Purge {
    round: Option<Round>,
    /// Somebody wants all to go that may: these twins are still to be looked at.
    wanted: Option<Vec<u32>>,
    step_bytes_max: u64,
}

impl Purge {
    pub(crate) fn new(table_bytes: u64) -> Self {
        Self { round: None, wanted: None, step_bytes_max: STEP_BYTES_MIN.max(STEP_TABLES_MAX * table_bytes) }
    }

    /// Begins to purge every twin, whether that is of much use or not.
    pub(crate) fn want_all(&mut self, twins: &Twins) {
        self.wanted = Some(twins.pairs().map(|(_, twin)| twin.number).collect());
    }

    /// Whether what somebody wanted is done.
    pub(crate) fn is_idle(&self) -> bool {
        self.round.is_none() && self.wanted.as_ref().is_none_or(Vec::is_empty)
    }

    /// Takes a step. `commit_no`: the one whose state the pages will hold; `now_ms`: its time.
    pub(crate) fn step<W: PageWrite>(
        &mut self,
        pages: &mut W,
        trees: &mut Vec<TreeRoot>,
        twins: &Twins,
        commit_no: u64,
        now_ms: u64,
    ) -> Result<(), PageError> {
        if twins.ledger == 0 {
            return Ok(());
        }
        let ledger = *tree_mut(trees, twins.ledger);
        if self.round.is_none() {
            for (_, twin) in twins.pairs() {
                let is_wanted = self.wanted.as_ref().is_some_and(|wanted| wanted.contains(&twin.number));
                let meta = Meta::read(&*pages, &ledger, twin.number)?;
                let floor = floor_of(&*pages, &ledger, &twin, &meta, commit_no, now_ms)?;
                if let Some(wanted) = &mut self.wanted {
                    wanted.retain(|&number| number != twin.number);
                }
                let entries = tree_mut(trees, twin.number).entries;
                let gone = if floor > meta.floor && entries > 0 {
                    freed(&*pages, &ledger, twin.number, &meta, floor)?
                } else {
                    0
                };
                // What is left of a round that a crash has cut off goes as well.
                let is_left = is_wanted && entries > 0 && meta.floor > 0;
                let is_worth_it = gone > meta.bytes / ROUND_PART || is_overdue(&*pages, &ledger, &twin, &meta, floor)?;
                if is_worth_it || (is_wanted && gone > 0) || is_left {
                    let step_bytes = STEP_BYTES_MIN.max(meta.bytes / STEPS_MIN).min(self.step_bytes_max);
                    let floor = floor.max(meta.floor);
                    self.round = Some(Round { twin: twin.number, floor, from: Vec::new(), step_bytes });
                    break;
                }
            }
            self.wanted = self.wanted.take().filter(|wanted| !wanted.is_empty());
        }
        let Some(mut round) = self.round.take() else { return Ok(()) };
        let mut meta = Meta::read(&*pages, &ledger, round.twin)?;
        meta.floor = meta.floor.max(round.floor);
        let done = round.purge(pages, trees, &mut meta)?;
        let mut edits = LedgerEdits::default();
        edits.put(&round.twin.to_be_bytes(), &meta.encode());
        let root = tree_mut(trees, twins.ledger);
        *root = btree::apply(pages, root, &mut edits)?;
        if !done {
            self.round = Some(round);
            return Ok(());
        }
        let oldest = oldest_needed(&*pages, root, twins, round.twin, meta.floor)?;
        for _ in 0..FORGETS_MAX {
            let mut edits = LedgerEdits::default();
            for (number, before) in [(TIMES, oldest), (ASIDE, oldest), (round.twin, meta.floor)] {
                forget(&*pages, root, (number, before), &mut edits)?;
            }
            if edits.peek().is_none() {
                break;
            }
            *root = btree::apply(pages, root, &mut edits)?;
        }
        Ok(())
    }
}

/// Returns the commit up to which versions may go.
fn floor_of<W: PageWrite>(
    pages: &W,
    ledger: &TreeRoot,
    twin: &Twin,
    meta: &Meta,
    commit_no: u64,
    now_ms: u64,
) -> Result<u64, PageError> {
    let Some(since) = twin.since else { return Ok(commit_no) };
    let mut floor = since.max(meta.floor);
    if let Some(until_ms) = now_ms.checked_sub(twin.keep.keep_ms) {
        let mark = mark_at(until_ms, commit_no, |commit_no| point_before(pages, ledger, 0, commit_no))?;
        // States from this commit on were there within the time that is kept.
        floor = floor.max(mark.map_or(0, |(commit_no, _)| commit_no));
    }
    if meta.bytes > twin.keep.keep_bytes {
        // A little more than must be, or the next checkpoint would be over it again.
        let keep = twin.keep.keep_bytes - twin.keep.keep_bytes / ROUND_PART;
        let mut cursor = TreeCursor::new(*ledger);
        cursor.seek(pages, Bound::Excluded(&point_key(twin.number, floor)))?;
        let mut by_bytes = commit_no;
        while let Some((at, taken)) = read_point(pages, ledger, &cursor, twin.number)? {
            if meta.taken.saturating_sub(taken) <= keep {
                by_bytes = at;
                break;
            }
            cursor.next(pages)?;
        }
        floor = floor.max(by_bytes);
    }
    Ok(floor.min(commit_no))
}

/// Whether a floor lies so far behind what is asked for that the ledger has times which nobody needs: also where a twin holds
/// little or nothing.
fn is_overdue<W: PageWrite>(
    pages: &W,
    ledger: &TreeRoot,
    twin: &Twin,
    meta: &Meta,
    floor: u64,
) -> Result<bool, PageError> {
    let Some(since) = twin.since.filter(|_| floor > meta.floor && twin.keep.keep_ms != u64::MAX) else {
        return Ok(false);
    };
    let points = PagePoints { pages, ledger: *ledger };
    let from = meta.floor.max(since);
    let begins = match points.before(TIMES, from)? {
        None => points.after(TIMES, from)?,
        begins => begins,
    };
    let ends = points.before(TIMES, floor)?;
    let held_ms = ends.zip(begins).map_or(0, |((_, ends), (_, begins))| ends.saturating_sub(begins));
    Ok(held_ms >= OVERDUE_MS_MIN.max(twin.keep.keep_ms / ROUND_PART))
}

/// Returns about how many bytes go when the floor moves to a commit; at least one where anything may.
fn freed<W: PageWrite>(pages: &W, ledger: &TreeRoot, twin: u32, meta: &Meta, floor: u64) -> Result<u64, PageError> {
    let taken = |commit_no| Ok(point_before(pages, ledger, twin, commit_no)?.map_or(0, |(_, taken)| taken));
    let before: u64 = taken(meta.floor)?.max(meta.taken - meta.bytes.min(meta.taken));
    let gone: u64 = taken(floor)?;
    // Between two points nobody knows.
    Ok(gone.saturating_sub(before).max(1))
}

/// Returns the commit whose time the ledger must still know.
fn oldest_needed<W: PageWrite>(
    pages: &W,
    ledger: &TreeRoot,
    twins: &Twins,
    purged: u32,
    floor: u64,
) -> Result<u64, PageError> {
    let mut oldest = u64::MAX;
    for (_, twin) in twins.pairs() {
        if let Some(since) = twin.since {
            let its = if twin.number == purged { floor } else { Meta::read(pages, ledger, twin.number)?.floor };
            oldest = oldest.min(its.max(since));
        }
    }
    Ok(oldest)
}

/// Deletes points before a commit, but for the last of them.
fn forget<W: PageWrite>(
    pages: &W,
    ledger: &TreeRoot,
    (number, before): (u32, u64),
    edits: &mut LedgerEdits,
) -> Result<(), PageError> {
    let last = point_before(pages, ledger, number, before)?.map_or(0, |(last, _)| last);
    let mut cursor = TreeCursor::new(*ledger);
    cursor.seek(pages, Bound::Included(&mark_or_point(number)))?;
    let mut left = LEDGER_ENTRIES_MAX;
    while let Some((key, _)) = cursor.entry() {
        let is_before = decode_point_key(key).is_some_and(|(found, at)| found == number && at < last);
        if !is_before || left == 0 {
            break;
        }
        edits.delete(key);
        left -= 1;
        cursor.next(pages)?;
    }
    Ok(())
}

fn mark_or_point(number: u32) -> [u8; 12] {
    if number == 0 { mark_key(0) } else { point_key(number, 0) }
}

impl Round {
    /// Deletes some entries; returns whether those were the last ones.
    fn purge<W: PageWrite>(
        &mut self,
        pages: &mut W,
        trees: &mut Vec<TreeRoot>,
        meta: &mut Meta,
    ) -> Result<bool, PageError> {
        let mut seen = 0;
        while seen < self.step_bytes {
            let root = tree_mut(trees, self.twin);
            let (more, gone, next) = self.look(&*pages, root, meta)?;
            *root = btree::apply(pages, root, &mut Gone { keys: gone, at: 0 })?;
            seen += more;
            match next {
                Some(next) => self.from = next,
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Looks at entries of about `STEP_BYTES_MIN`, or of so many as memory allows. Returns how many bytes those were, the keys of those that go, and where
    /// to go on.
    #[expect(clippy::type_complexity, reason = "three things that are used once")]
    fn look<W: PageWrite>(
        &self,
        pages: &W,
        root: &TreeRoot,
        meta: &mut Meta,
    ) -> Result<(u64, Vec<Vec<u8>>, Option<Vec<u8>>), PageError> {
        let mut cursor = TreeCursor::new(*root);
        cursor.seek(pages, Bound::Included(&self.from))?;
        let (mut seen, mut gone) = (0, Vec::new());
        let mut gone_bytes = 0;
        while let Some((twin_key, value)) = cursor.entry() {
            if seen >= STEP_BYTES_MIN || gone_bytes >= GONE_BYTES_MAX {
                return Ok((seen, gone, Some(twin_key.to_vec())));
            }
            let value_len = match value {
                CellValue::Inline(value) => value.len() as u64,
                CellValue::Stored(at) => at.len,
            };
            let bytes = twin_key.len() as u64 + value_len;
            if key::split(twin_key).is_none_or(|(_, until, _)| until <= self.floor) {
                meta.bytes = meta.bytes.saturating_sub(bytes);
                gone.push(twin_key.to_vec());
                gone_bytes += twin_key.len() + GONE_KEY_BYTES;
                seen += bytes;
            } else {
                // Of what stays, values in pages of their own are not looked at.
                seen += twin_key.len() as u64 + if let CellValue::Inline(_) = value { value_len } else { 0 };
            }
            cursor.next(pages)?;
        }
        Ok((seen, gone, None))
    }
}

#[derive(Default)]
struct Gone {
    keys: Vec<Vec<u8>>,
    at: usize,
}

impl Edits for Gone {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.keys.get(self.at).map(|key| (&key[..], EditValue::Delete))
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.at += 1;
        Ok(())
    }
}

impl Store {
    /// Deletes all versions that are older than `History` asks for, in steps, each of them a checkpoint; commits and
    /// readers go on meanwhile. The store does this by itself, with the checkpoints that it writes anyway, when it is
    /// worth it: when an eighth of a tree's history may go.
    pub fn purge_history(&self) -> Result<(), MaintainError> {
        let inner = &self.inner;
        inner.flush()?;
        inner.checkpoint()?;
        let mut begun = false;
        loop {
            let mut guard = inner.disk.lock();
            inner.head.lock().check_maintain()?;
            let disk = guard.as_mut().ok_or(MaintainError::Closed)?;
            let published = inner.published();
            let Some(twins) = published.active.twins() else { return Ok(()) };
            if !begun {
                disk.purge.want_all(twins);
                begun = true;
            }
            if disk.purge.is_idle() {
                return Ok(());
            }
            inner.checkpoint_on(disk, crate::checkpoint::Work::Purge)?;
        }
    }
}
