//! What a salvage says: how far it is, what it saved, what it did not, and why it gave nothing.

use std::error::Error;
use std::fmt;

use crate::backup::RestoreError;
use crate::error::{OpenError, Printable, printable};

/// How far a salvage is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SalvageProgress {
    /// Pages of the damaged file that were looked at.
    pub pages: u64,
    /// How many it has.
    pub pages_total: u64,
    /// Rows saved.
    pub rows: u64,
}

/// What became of one tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SalvagedTree {
    /// Its name in the new store.
    pub name: String,
    /// Rows that its pages should have had; `None`: nobody knows.
    pub rows_expected: Option<u64>,
    /// Rows of its pages that were found.
    pub rows_found: u64,
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// Rows of a range of keys: those that this page had, or the pages below it.
    Range {
        /// The tree.
        tree: String,
        /// From this key on.
        from: Vec<u8>,
        /// Below this one; `None`: to the end.
        to: Option<Vec<u8>>,
        /// The page that cannot be read.
        page: u64,
        /// 0: it had rows itself; else it named pages that had.
        level: u8,
        /// Rows of that range that were found again without it.
        found_again: u64,
        /// Why it cannot be read.
        why: String,
    },
    /// One value in pages of its own.
    Value {
        /// The tree.
        tree: String,
        /// Its key.
        key: Vec<u8>,
        /// How long it was.
        len: u64,
        /// Why it cannot be read.
        why: String,
    },
    /// Rows that are saved, but not in their tree, as nobody can say which one that is.
    Unplaced {
        /// The tree that they are in now.
        name: String,
        /// How many.
        rows: u64,
        /// Trees that have a hole for them.
        candidates: Vec<String>,
    },
    /// Commits after this one may be lost: the log cannot be read further.
    Log {
        /// The last commit that was read.
        after_commit: u64,
        /// Why.
        why: String,
    },
    /// Where trees begin: those that are not listed are lost, or in `lost+found/`.
    Roots {
        /// Why.
        why: String,
    },
    /// Which pages are in use: pages of before cannot be told from those that hold something, so that rows found below
    /// holes are in `lost+found/`, and some of them may be older than what was lost, or were deleted.
    Space {
        /// Why.
        why: String,
    },
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { tree, from, to, page, level, found_again, why } => {
                write!(f, "{}: keys from {:?} ", printable(tree), Printable(from))?;
                match to {
                    Some(to) => write!(f, "below {:?}", Printable(to))?,
                    None => f.write_str("to the end")?,
                }
                write!(f, ": page {page} ({why})")?;
                match level {
                    0 => Ok(()),
                    _ => write!(f, "; of the pages below it {found_again} rows were found again"),
                }
            }
            Self::Value { tree, key, len, why } => {
                write!(f, "{}: the value of {len} bytes at {:?}: {why}", printable(tree), Printable(key))
            }
            Self::Unplaced { name, rows, candidates } if candidates.is_empty() => {
                write!(f, "{}: {rows} rows of a tree that nobody knows", printable(name))
            }
            Self::Unplaced { name, rows, candidates } => {
                let candidates: Vec<String> = candidates.iter().map(|name| printable(name)).collect();
                write!(f, "{}: {rows} rows of one of these trees: {}", printable(name), candidates.join(", "))
            }
            Self::Log { after_commit, why } => {
                write!(f, "the log: commits after {after_commit} may be missing ({why})")
            }
            Self::Roots { why } => write!(f, "where trees begin: {why}"),
            Self::Space { why } => {
                write!(
                    f,
                    "which pages are in use: {why}; what was found again may be older than what was lost, or deleted"
                )
            }
        }
    }
}

/// What a salvage saved, and what it did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The commit of the pages that were read.
    pub commit_no: u64,
    /// The last commit that was read in the log.
    pub log_commit_no: u64,
    /// One of the two headers, or what the newest one names, could not be read: the other one was taken.
    pub older_header: bool,
    /// Each tree that was found.
    pub trees: Vec<SalvagedTree>,
    /// Trees whose history was kept: the new store has what they held last, and not what they held before.
    pub without_history: Vec<String>,
    /// Rows in the new store.
    pub rows: u64,
    /// Rows that were found below pages that cannot be read.
    pub rows_found_again: u64,
    /// Pages that should be readable and are not.
    pub pages_unreadable: u64,
    /// All that could not be read or not be placed. Empty: nothing is lost.
    pub losses: Vec<Loss>,
    /// Losses that had no place in the list.
    pub more_losses: u64,
}

/// Why nothing was salvaged. There is no new store, and the damaged file is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum SalvageError {
    /// The damaged store gives nothing: its key is missing, somebody has it open, or both of its headers are damaged and
    /// with them the keys.
    Source(OpenError),
    /// Headers and keys hold, and not one row can be read; the report says what could not.
    Nothing(Box<SalvageReport>),
    /// The new store could not be made.
    Target(RestoreError),
    /// What was to be done with the new store before it gets its name could not be done.
    Finish(Box<dyn Error + Send + Sync>),
}

impl fmt::Display for SalvageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(OpenError::Corruption(_)) => f.write_str(
                "neither of the file's headers can be read, and without them there are neither keys nor trees; restore a \
                 backup or sync a new copy from a peer",
            ),
            Self::Source(_) => f.write_str("the damaged file cannot be opened"),
            Self::Nothing(report) => {
                let places = report.losses.len() as u64 + report.more_losses;
                write!(f, "not one row of it can be read ({places} places")?;
                match report.losses.first() {
                    Some(first) => write!(f, ", the first one: {first})"),
                    None => f.write_str(")"),
                }
            }
            Self::Target(_) => f.write_str("the new file could not be made"),
            Self::Finish(_) => f.write_str("the new file could not be finished; there is none"),
        }
    }
}

impl Error for SalvageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Source(e) => Some(e),
            Self::Nothing(_) => None,
            Self::Target(e) => Some(e),
            Self::Finish(e) => Some(&**e),
        }
    }
}

impl From<OpenError> for SalvageError {
    fn from(error: OpenError) -> Self {
        Self::Source(error)
    }
}

impl From<RestoreError> for SalvageError {
    fn from(error: RestoreError) -> Self {
        Self::Target(error)
    }
}
