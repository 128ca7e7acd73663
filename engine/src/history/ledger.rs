//! The ledger: a tree without a name that says when commits were made, and what each twin holds. spec: E-43
//!
//! | key | value |
//! |---|---|
//! | `u32 0, u64 commit` | when it was made, in milliseconds since 1970, not before the one before |
//! | `u32 FFFFFFFF, u64 commit` | the same under a clock that is behind the last time |
//! | `u32 twin` | `u64 floor, u64 bytes, u64 taken` |
//! | `u32 twin, u64 commit` | `u64 taken` when this commit's checkpoint was written |
//!
//! Commits write times, as effects like any other; what a twin holds only checkpoints write.

use std::ops::Bound;

use crate::btree::{self, CellValue, EditValue, Edits, Found, TreeCursor, TreeRoot};
use crate::error::ReadError;
use crate::pager::{PageError, PageRead};
use crate::snapshot::{Layers, Value, Walk};

/// Milliseconds between two times in the ledger at least.
pub(crate) const MARK_MS: u64 = 1000;
/// The number of points that say when commits were made.
pub(crate) const TIMES: u32 = 0;
/// The number of those that say so of a clock which is behind the last time. No tree has it.
pub(crate) const ASIDE: u32 = u32::MAX;

/// What a twin holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Versions that were superseded by this commit, or one before it, may be gone.
    pub(crate) floor: u64,
    /// Bytes of keys and values that it holds.
    pub(crate) bytes: u64,
    /// Bytes of keys and values that it was ever given.
    pub(crate) taken: u64,
}

pub(crate) fn mark_key(commit_no: u64) -> [u8; 12] {
    point_key(TIMES, commit_no)
}

pub(crate) fn point_key(twin: u32, commit_no: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&twin.to_be_bytes());
    key[4..].copy_from_slice(&commit_no.to_be_bytes());
    key
}

/// Returns the number and the commit of a point's or a time's key.
pub(crate) fn decode_point_key(key: &[u8]) -> Option<(u32, u64)> {
    let key: &[u8; 12] = key.try_into().ok()?;
    let (number, commit_no) = (key.first_chunk()?, key.last_chunk()?);
    Some((u32::from_be_bytes(*number), u64::from_be_bytes(*commit_no)))
}

pub(crate) fn decode_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

impl Meta {
    pub(crate) fn encode(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (out, number) in bytes.chunks_exact_mut(8).zip([self.floor, self.bytes, self.taken]) {
            out.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 24] = bytes.try_into().ok()?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Some(Self { floor: number(0), bytes: number(8), taken: number(16) })
    }

    /// Reads what a twin holds; nothing where the ledger says nothing.
    pub(crate) fn read<P: PageRead>(pages: &P, ledger: &TreeRoot, twin: u32) -> Result<Self, PageError> {
        match btree::look_up(pages, ledger, &twin.to_be_bytes())? {
            Some(Found::Inline(bytes)) => Self::decode(&bytes).ok_or_else(|| broken(pages, ledger)),
            Some(Found::Stored(_)) => Err(broken(pages, ledger)),
            None => Ok(Self::default()),
        }
    }
}

pub(crate) fn broken<P: PageRead>(pages: &P, ledger: &TreeRoot) -> PageError {
    let no = ledger.page.map_or(0, |page| page.no);
    PageError::node(no, pages.body_bytes() + crate::pager::PAGE_HEADER_BYTES, "an entry of the ledger has its form")
}

/// Edits of the ledger, in order.
#[derive(Default)]
pub(crate) struct LedgerEdits {
    /// `None`: the entry goes.
    pub(crate) edits: std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl LedgerEdits {
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.edits.insert(key.to_vec(), Some(value.to_vec()));
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        self.edits.insert(key.to_vec(), None);
    }
}

impl Edits for LedgerEdits {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        let (key, value) = self.edits.first_key_value()?;
        Some((key, value.as_ref().map_or(EditValue::Delete, |value| EditValue::Put(value))))
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.edits.pop_first();
        Ok(())
    }
}

/// Returns the last point of a number at or before a commit, and what it says: a time of number 0, else what a twin was
/// given by then.
pub(crate) fn point_before<P: PageRead>(
    pages: &P,
    ledger: &TreeRoot,
    number: u32,
    commit_no: u64,
) -> Result<Option<(u64, u64)>, PageError> {
    let mut cursor = TreeCursor::new(*ledger);
    cursor.seek_back(pages, Bound::Included(&point_key(number, commit_no)))?;
    read_point(pages, ledger, &cursor, number)
}

/// Returns the point on which a cursor stands, if it is of this number.
pub(crate) fn read_point<P: PageRead>(
    pages: &P,
    ledger: &TreeRoot,
    cursor: &TreeCursor,
    number: u32,
) -> Result<Option<(u64, u64)>, PageError> {
    let Some((key, value)) = cursor.entry() else { return Ok(None) };
    let Some((found, commit_no)) = decode_point_key(key).filter(|(found, _)| *found == number) else {
        return Ok(None);
    };
    debug_assert_eq!(found, number);
    let CellValue::Inline(value) = value else { return Err(broken(pages, ledger)) };
    let value = decode_u64(value).ok_or_else(|| broken(pages, ledger))?;
    Ok(Some((commit_no, value)))
}

/// Returns the last commit whose time is at most `wall_ms`, and that time, by halves: times ascend with commits.
pub(crate) fn mark_at<E>(
    wall_ms: u64,
    newest: u64,
    mut before: impl FnMut(u64) -> Result<Option<(u64, u64)>, E>,
) -> Result<Option<(u64, u64)>, E> {
    let mut best = None;
    let (mut low, mut high) = (0, newest);
    while low <= high {
        let middle = low + (high - low) / 2;
        match before(middle)? {
            Some((commit_no, at_ms)) if at_ms > wall_ms => match commit_no.checked_sub(1) {
                Some(lower) => high = lower,
                None => break,
            },
            found => {
                best = found.or(best);
                low = middle + 1;
            }
        }
    }
    Ok(best)
}

impl Layers {
    pub(crate) fn ledger(&self) -> Option<u32> {
        self.active.twins().map(|twins| twins.ledger).filter(|&ledger| ledger != 0)
    }

    /// Returns what a twin holds in pages.
    pub(crate) fn twin_meta(&self, twin: u32) -> Result<Meta, PageError> {
        let ledger = self.ledger().map(|ledger| self.root.tree(ledger)).unwrap_or_default();
        Meta::read(&*self.root, &ledger, twin)
    }
}

/// A commit, and what is said of it.
pub(crate) type Point = (u64, u64);

/// Points of the ledger, wherever they lie.
pub(crate) trait Points {
    type Error;

    /// Returns the last point of a number at or before a commit.
    fn before(&self, number: u32, commit_no: u64) -> Result<Option<Point>, Self::Error>;

    /// Returns the first point of a number behind a commit.
    fn after(&self, number: u32, commit_no: u64) -> Result<Option<Point>, Self::Error>;
}

impl Points for Layers {
    type Error = ReadError;

    fn before(&self, number: u32, commit_no: u64) -> Result<Option<Point>, ReadError> {
        self.point(number, Bound::Included(&point_key(number, commit_no)), true)
    }

    fn after(&self, number: u32, commit_no: u64) -> Result<Option<Point>, ReadError> {
        self.point(number, Bound::Excluded(&point_key(number, commit_no)), false)
    }
}

impl Layers {
    fn point(&self, number: u32, bound: Bound<&[u8]>, backward: bool) -> Result<Option<Point>, ReadError> {
        let Some(ledger) = self.ledger() else { return Ok(None) };
        let walk = Walk::new(self, ledger, bound, backward)?;
        let (Some(key), Some(Value::Inline(value))) = (walk.key(), walk.value()) else { return Ok(None) };
        let found = decode_point_key(key).filter(|&(found, _)| found == number);
        Ok(found.and_then(|(_, commit_no)| Some((commit_no, decode_u64(value)?))))
    }
}

/// Points in pages.
pub(crate) struct PagePoints<'p, P> {
    pub(crate) pages: &'p P,
    pub(crate) ledger: TreeRoot,
}

impl<P: PageRead> Points for PagePoints<'_, P> {
    type Error = PageError;

    fn before(&self, number: u32, commit_no: u64) -> Result<Option<Point>, PageError> {
        point_before(self.pages, &self.ledger, number, commit_no)
    }

    fn after(&self, number: u32, commit_no: u64) -> Result<Option<Point>, PageError> {
        let mut cursor = TreeCursor::new(self.ledger);
        cursor.seek(self.pages, Bound::Excluded(&point_key(number, commit_no)))?;
        read_point(self.pages, &self.ledger, &cursor, number)
    }
}
