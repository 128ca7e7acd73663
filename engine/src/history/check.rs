//! Proves a twin, its ledger, and what the catalogue says of them. spec: E-41, E-42, E-43

use std::ops::Bound;

use super::ledger::{ASIDE, Meta, broken, decode_point_key, decode_u64};
use super::{LEDGER_NAME, Twins, decode_names_value, key};
use crate::btree::{CellValue, TreeCursor, TreeRoot};
use crate::pager::{PAGE_HEADER_BYTES, PageError, PageRead};
use crate::txn::CATALOGUE;

/// Reads of which trees history is kept out of the pages of a catalogue.
pub(crate) fn read_twins<P: PageRead>(pages: &P, trees: &[TreeRoot]) -> Result<Option<Twins>, PageError> {
    let mut twins = None;
    let mut cursor = TreeCursor::new(trees.get(CATALOGUE as usize).copied().unwrap_or_default());
    cursor.seek(pages, Bound::Unbounded)?;
    while let Some((name, value)) = cursor.entry() {
        if let CellValue::Inline(value) = value
            && Twins::is_about(name, value)
        {
            twins.get_or_insert_with(Twins::default).note(name, value);
        }
        cursor.next(pages)?;
    }
    Ok(twins)
}

/// Walks the twins and the ledger of a state: every entry has its form, and the ledger says what a twin holds. Returns which
/// they are.
pub(crate) fn check<P: PageRead>(pages: &P, trees: &[TreeRoot], commit_no: u64) -> Result<Twins, PageError> {
    let Some(twins) = read_twins(pages, trees)? else { return Ok(Twins::default()) };
    let tree = |number: u32| trees.get(number as usize).copied().unwrap_or_default();
    check_names(pages, &tree(CATALOGUE), &twins)?;
    let ledger = tree(twins.ledger);
    for (_, twin) in twins.pairs() {
        let root = tree(twin.number);
        let wrong = |rule| {
            let no = root.page.map_or(0, |page| page.no);
            PageError::node(no, pages.body_bytes() + PAGE_HEADER_BYTES, rule)
        };
        let meta = Meta::read(pages, &ledger, twin.number)?;
        let mut bytes = 0_u64;
        let mut cursor = TreeCursor::new(root);
        cursor.seek(pages, Bound::Unbounded)?;
        while let Some((twin_key, value)) = cursor.entry() {
            let found = key::decode(twin_key).ok_or_else(|| wrong("a twin's key is a key and a commit"))?;
            if found.until == 0 || found.until > commit_no {
                return Err(wrong("a version was superseded by a commit that is there"));
            }
            let len = match value {
                CellValue::Inline(value) => value.len() as u64,
                CellValue::Stored(at) => at.len,
            };
            if !found.is_value && len > 0 {
                return Err(wrong("where there was no value a twin has none"));
            }
            bytes = bytes.saturating_add(twin_key.len() as u64).saturating_add(len);
            cursor.next(pages)?;
        }
        if bytes != meta.bytes || meta.floor > commit_no {
            return Err(wrong("the ledger says what a twin holds"));
        }
    }
    check_ledger(pages, &ledger, commit_no)?;
    Ok(twins)
}

/// Every number is given once.
fn check_names<P: PageRead>(pages: &P, catalogue: &TreeRoot, twins: &Twins) -> Result<(), PageError> {
    let mut numbers = std::collections::BTreeSet::new();
    let wrong = || {
        let no = catalogue.page.map_or(0, |page| page.no);
        PageError::node(no, pages.body_bytes() + PAGE_HEADER_BYTES, "the catalogue names trees and twins, each once")
    };
    let mut cursor = TreeCursor::new(*catalogue);
    cursor.seek(pages, Bound::Unbounded)?;
    while let Some((name, value)) = cursor.entry() {
        let CellValue::Inline(value) = value else { return Err(wrong()) };
        let (number, twin) = decode_names_value(value).ok_or_else(wrong)?;
        let is_ledger = name == LEDGER_NAME;
        let twin = twin.map(|twin| twin.number);
        if (is_ledger && twin.is_some()) || !numbers.insert(number) || twin.is_some_and(|twin| !numbers.insert(twin)) {
            return Err(wrong());
        }
        cursor.next(pages)?;
    }
    if twins.ledger == 0 { Err(wrong()) } else { Ok(()) }
}

fn check_ledger<P: PageRead>(pages: &P, ledger: &TreeRoot, commit_no: u64) -> Result<(), PageError> {
    let mut cursor = TreeCursor::new(*ledger);
    cursor.seek(pages, Bound::Unbounded)?;
    // Of the number before: it, and what its last point says.
    let mut last = (0, 0);
    while let Some((key, value)) = cursor.entry() {
        let CellValue::Inline(value) = value else { return Err(broken(pages, ledger)) };
        if key.len() == 4 {
            Meta::decode(value).ok_or_else(|| broken(pages, ledger))?;
        } else {
            let point = decode_point_key(key).zip(decode_u64(value));
            let ((number, at), says) = point.ok_or_else(|| broken(pages, ledger))?;
            // Aside lies what clocks said that were set back, and set back again.
            let ascends = last.0 != number || says >= last.1 || number == ASIDE;
            if at > commit_no || !ascends {
                return Err(broken(pages, ledger));
            }
            last = (number, says);
        }
        cursor.next(pages)?;
    }
    Ok(())
}

/// Returns the commit before which history of some tree may be gone.
pub(crate) fn history_floor<P: PageRead>(
    pages: &P,
    trees: &[TreeRoot],
    twins: Option<&Twins>,
) -> Result<u64, PageError> {
    let Some(twins) = twins.filter(|twins| twins.ledger != 0) else { return Ok(0) };
    let ledger = trees.get(twins.ledger as usize).copied().unwrap_or_default();
    let mut floor = 0;
    for (_, twin) in twins.pairs() {
        floor = floor.max(Meta::read(pages, &ledger, twin.number)?.floor);
    }
    Ok(floor)
}
