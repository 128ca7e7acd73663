//! How much history of a tree is kept, and the commit that says so.

use crate::error::{CommitError, ReadError};
use crate::history::{LEDGER_NAME, Twin, encode_names_value};
use crate::snapshot::Layers;
use crate::store::Store;
use crate::txn::{CATALOGUE, CommitInfo, Durability, Serial, TreeId};

/// How much history of a tree is kept: what is older than either says may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Milliseconds for which every state of the tree is kept; `u64::MAX` for ever. By the clock of who commits: while it is
    /// ahead, more goes than should. One that was ahead is believed again when it has gone on for as long as this.
    pub keep_ms: u64,
    /// Bytes of keys and values of superseded versions; `u64::MAX` for any number.
    pub keep_bytes: u64,
}

impl History {
    /// All of it, for ever.
    pub const ALL: Self = Self { keep_ms: u64::MAX, keep_bytes: u64::MAX };
}

/// What is kept of a tree's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryInfo {
    /// How much may be kept.
    pub keep: History,
    /// The oldest commit whose state can be read.
    pub oldest: u64,
    /// Bytes of keys and values of superseded versions in pages; those in tables come on top.
    pub bytes: u64,
    /// Superseded versions in pages.
    pub versions: u64,
}

impl Store {
    /// Says how much of a tree's history is kept, from this commit on, in a durable commit of its own; `None`: nothing,
    /// and what was kept goes. The store remembers it. Where history is kept already, only how much is changed.
    ///
    /// ```
    /// # use blazedb_engine::{Env, History, Options, Store};
    /// # let store = Store::open(Env::memory(1), Options::unencrypted())?;
    /// let notes = store.tree("notes")?;
    /// store.set_history(notes, Some(History::ALL))?;
    /// let mut tx = store.write();
    /// tx.put(notes, b"monday", b"rain")?;
    /// let first = tx.commit()?.commit_no;
    /// let mut tx = store.write();
    /// tx.put(notes, b"monday", b"sun")?;
    /// tx.commit()?;
    ///
    /// let then = store.as_of(first)?;
    /// assert_eq!(then.get(notes, b"monday")?.as_deref(), Some(&b"rain"[..]));
    /// assert_eq!(store.read().get(notes, b"monday")?.as_deref(), Some(&b"sun"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The price of a tree with history: each write of a key leaves a version in the tree's twin, the first one of a new
    /// key an entry that says that there was nothing before. Who reads the present reads the tree alone. A twin, and the
    /// store's ledger of times, take a number each (`limits::TREES_MAX`). Keeping and purging it takes about a megabyte of
    /// memory on top of what `Memory` says. Purging goes with checkpoints: a store that nobody writes to keeps what it has.
    /// Time is the wall clock's; what it says once it was set back counts when it has gone on for `keep_ms`.
    pub fn set_history(&self, tree: TreeId, keep: Option<History>) -> Result<CommitInfo, CommitError> {
        let names = &self.inner.names;
        let name = names.name_of(tree.0).ok_or(ReadError::UnknownTree(tree))?;
        // With nothing to switch off there is nothing to reserve.
        let known = self.inner.published().active.twins().and_then(|twins| twins.of(tree.0));
        if keep.is_none() && known.is_none() {
            return Ok(CommitInfo { commit_no: self.inner.published_no(), changed: false });
        }
        let (number, ledger) = (names.reserve_twin(tree.0)?, names.reserve_ledger()?);
        let mut tx = self.write();
        tx.marks_time = true;
        self.inner.commit(tx, Durability::Durable, |serial| {
            serial.set_history(&name, (tree.0, number, ledger), keep);
            Ok(())
        })
    }

    /// Returns what is kept of a tree's history; `None` where nothing is.
    pub fn history(&self, tree: TreeId) -> Result<Option<HistoryInfo>, ReadError> {
        self.inner.check_tree(tree)?;
        self.read().held().with(|layers| {
            let Some(twin) = layers.twin(tree.0) else { return Ok(None) };
            let meta = layers.twin_meta(twin.number)?;
            Ok(Some(HistoryInfo {
                keep: twin.keep,
                oldest: twin.since.unwrap_or(0).max(meta.floor),
                bytes: meta.bytes,
                versions: layers.root.tree(twin.number).entries,
            }))
        })
    }
}

impl Layers {
    /// Returns the twin of a tree whose history is kept.
    pub(crate) fn twin(&self, tree: u32) -> Option<Twin> {
        self.active.twins()?.kept(tree)
    }
}

impl Serial<'_> {
    fn set_history(&mut self, name: &str, (tree, number, ledger): (u32, u32, u32), keep: Option<History>) {
        let known = self.layers.active.twins();
        let since = known.and_then(|twins| twins.of(tree)).map(|twin| (twin.since, twin.keep));
        let (since, keep) = match (since, keep) {
            (None | Some((None, _)), None) => return,
            (Some((_, keep)), None) => (None, keep),
            (Some((Some(since), _)), Some(keep)) => (Some(since), keep),
            (None | Some((None, _)), Some(keep)) => (Some(self.commit_no()), keep),
        };
        if known.is_none_or(|twins| twins.ledger == 0) {
            self.writes.put_own(CATALOGUE, LEDGER_NAME, &ledger.to_le_bytes());
        }
        let value = encode_names_value(tree, &Twin { number, since, keep });
        self.writes.put_own(CATALOGUE, name.as_bytes(), &value);
    }
}
