//! What trees held before: superseded versions in a twin beside each tree of which history is kept.
//!
//! ```text
//! tree     the newest version of each key                        nobody who reads it pays for history
//! twin     (key, commit that superseded it) -> the version before, or that there was none
//! ledger   when commits were made; of each twin how much it holds, and from which commit on it is complete
//! ```
//!
//! As of commit t a key has the version of the first entry of the twin behind (key, t), and the tree's where there is no
//! such entry. So the twin alone says since when a version is there, and pages of a tree say nothing of it.
//!
//! The log knows nothing of history: commits in it are numbered, and a table that knows which trees have a twin notes,
//! for each key that a commit writes, which version it took the place of (`memtable::past`). A checkpoint writes that
//! into the twin (`take`), together with the tree. A key's first version in a table supersedes one in pages, which is
//! looked up then: a commit does not look. So tree and twin agree in every header there is.
//!
//! Invariants: a twin whose `floor` is f holds every version of its tree that was superseded by a commit after f; its
//! number is above the tree's, so that whoever walks trees by number meets a stored value before it moves to the twin.
//!
//! `key` is the order of a twin's keys, `ledger` the ledger, `purge` the end of versions that are not wanted any more,
//! `view` and `walk` read.

pub(crate) mod check;
pub(crate) mod clock;
pub(crate) mod key;
pub(crate) mod ledger;
pub(crate) mod purge;
mod settings;
pub(crate) mod take;
mod view;
mod walk;

pub use settings::{History, HistoryInfo};
pub use view::{KeyVersion, Moment, PastView, Versions};
pub use walk::PastCursor;

use crate::limits::TREES_MAX;

/// How much history of a tree is there, as the catalogue says. spec: E-41
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Twin {
    pub(crate) number: u32,
    /// The state of this commit, and of those after it, is kept; `None` where history is off.
    pub(crate) since: Option<u64>,
    pub(crate) keep: History,
}

/// All twins, and the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Twins {
    /// 0 where there is none yet.
    pub(crate) ledger: u32,
    /// By tree number.
    trees: Vec<Option<Twin>>,
}

/// Bytes of a number in the catalogue; of a number and a twin behind it. spec: E-14, E-41
const NUMBER_BYTES: usize = 4;
const TWIN_BYTES: usize = 33;

/// The catalogue's key under which the ledger's number stands. spec: E-41
pub(crate) const LEDGER_NAME: &[u8] = b"";

/// Returns the number that the catalogue has for a name, and the twin. spec: E-14, E-41
pub(crate) fn decode_names_value(bytes: &[u8]) -> Option<(u32, Option<Twin>)> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let number = u32_at(0)?;
    match bytes.len() {
        NUMBER_BYTES => Some((number, None)),
        TWIN_BYTES => {
            let (twin, since) = (u32_at(5)?, u64_at(9)?);
            let keep = History { keep_ms: u64_at(17)?, keep_bytes: u64_at(25)? };
            let since = match bytes[4] {
                0 if since == 0 => None,
                1 => Some(since),
                _ => return None,
            };
            (twin > number).then_some((number, Some(Twin { number: twin, since, keep })))
        }
        _ => None,
    }
}

pub(crate) fn encode_names_value(tree: u32, twin: &Twin) -> [u8; TWIN_BYTES] {
    let mut bytes = [0; TWIN_BYTES];
    bytes[..4].copy_from_slice(&tree.to_le_bytes());
    bytes[4] = u8::from(twin.since.is_some());
    bytes[5..9].copy_from_slice(&twin.number.to_le_bytes());
    bytes[9..17].copy_from_slice(&twin.since.unwrap_or(0).to_le_bytes());
    bytes[17..25].copy_from_slice(&twin.keep.keep_ms.to_le_bytes());
    bytes[25..].copy_from_slice(&twin.keep.keep_bytes.to_le_bytes());
    bytes
}

impl Twins {
    /// Whether an entry of the catalogue says something of history.
    pub(crate) fn is_about(name: &[u8], value: &[u8]) -> bool {
        name == LEDGER_NAME || value.len() != NUMBER_BYTES
    }

    /// Takes in what an entry of the catalogue says. One that breaks the format says nothing: whoever reads all names
    /// refuses it.
    pub(crate) fn note(&mut self, name: &[u8], value: &[u8]) {
        let is_number = |number: u32| number as usize <= TREES_MAX;
        match decode_names_value(value) {
            Some((number, None)) if name == LEDGER_NAME && is_number(number) => self.ledger = number,
            // A twin's number is above its tree's.
            Some((tree, Some(twin))) if is_number(twin.number) => {
                let index = tree as usize;
                if self.trees.len() <= index {
                    self.trees.resize(index + 1, None);
                }
                self.trees[index] = Some(twin);
            }
            _ => {}
        }
    }

    /// Returns a tree's twin, also of one whose history was switched off.
    pub(crate) fn of(&self, tree: u32) -> Option<Twin> {
        self.trees.get(tree as usize).copied().flatten()
    }

    /// Returns the twin of a tree whose history is kept.
    pub(crate) fn kept(&self, tree: u32) -> Option<Twin> {
        self.of(tree).filter(|twin| twin.since.is_some())
    }

    /// Whether history of any tree is kept.
    pub(crate) fn is_any_kept(&self) -> bool {
        self.pairs().any(|(_, twin)| twin.since.is_some())
    }

    /// Returns trees and their twins.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (u32, Twin)> {
        (0..).zip(&self.trees).filter_map(|(tree, twin)| twin.map(|twin| (tree, twin)))
    }

    /// Whether a number is a twin's.
    pub(crate) fn is_twin(&self, number: u32) -> bool {
        self.pairs().any(|(_, twin)| twin.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a log says of twins is taken in before its names are checked as a whole: a number beyond the limit must not
    /// become a length.
    #[test]
    fn numbers_beyond_the_limit_say_nothing() {
        let most = TREES_MAX as u32;
        let twin = |number| Twin { number, since: Some(1), keep: History::ALL };
        for number in [most + 1, 50_000_000, u32::MAX] {
            let mut twins = Twins::default();
            twins.note(b"a", &encode_names_value(1, &twin(number)));
            twins.note(LEDGER_NAME, &number.to_le_bytes());
            assert_eq!(twins, Twins::default(), "{number}");
        }
        let mut twins = Twins::default();
        twins.note(b"a", &encode_names_value(1, &twin(most)));
        assert_eq!(twins.kept(1), Some(twin(most)));
    }
}
