//! The store behind a thin door, in which a bug can be planted.
//!
//! Without a bug every call goes straight through. With one, the door does what a store with that bug would do, out of
//! the sound store's own calls: no engine is ever built with a bug in it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound::{Excluded, Included};
use std::str::FromStr;

use blazedb_engine::{CommitError, CommitInfo, Durability, ReadView, Savepoint, Store, TreeId, WriteTransaction};
use parking_lot::Mutex;

/// A broken promise of isolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Conflicts are not checked.
    LostUpdate,
    /// Only the first key that was written is checked.
    FirstKeyOnly,
    /// Commits are seen before they are done, the ones that fail as well.
    DirtyRead,
    /// Writes are seen before their transaction commits.
    IntermediateRead,
    /// What a transaction writes and gives up comes about all the same.
    AbortedWrite,
    /// A transaction's snapshot moves while it reads.
    MovingView,
    /// A transaction becomes visible in two halves.
    PartialCommit,
    /// A serializable transaction's reads are not checked.
    WriteSkew,
    /// A serializable transaction's keys are checked, its ranges are not.
    UncheckedRange,
    /// The first transactions after a checkpoint see what was there before it.
    StaleAfterCheckpoint,
    /// Going back to a savepoint does nothing.
    IgnoredSavepoint,
    /// Deletes do nothing.
    LostDelete,
}

impl Planted {
    /// Every bug.
    pub const ALL: [Self; 12] = [
        Self::LostUpdate,
        Self::FirstKeyOnly,
        Self::DirtyRead,
        Self::IntermediateRead,
        Self::AbortedWrite,
        Self::MovingView,
        Self::PartialCommit,
        Self::WriteSkew,
        Self::UncheckedRange,
        Self::StaleAfterCheckpoint,
        Self::IgnoredSavepoint,
        Self::LostDelete,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::LostUpdate => "lost-update",
            Self::FirstKeyOnly => "first-key-only",
            Self::DirtyRead => "dirty-read",
            Self::IntermediateRead => "intermediate-read",
            Self::AbortedWrite => "aborted-write",
            Self::MovingView => "moving-view",
            Self::PartialCommit => "partial-commit",
            Self::WriteSkew => "write-skew",
            Self::UncheckedRange => "unchecked-range",
            Self::StaleAfterCheckpoint => "stale-after-checkpoint",
            Self::IgnoredSavepoint => "ignored-savepoint",
            Self::LostDelete => "lost-delete",
        }
    }

    /// Whether only a serializable transaction can suffer from it.
    pub(crate) fn needs_serializable(self) -> bool {
        matches!(self, Self::WriteSkew | Self::UncheckedRange)
    }
}

impl fmt::Display for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Planted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|bug| bug.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|bug| bug.name()).collect();
            format!("no such bug; one of {}", names.join(", "))
        })
    }
}

type Writes = BTreeMap<u16, Option<Vec<u8>>>;

/// Even and odd keys lie in trees of their own.
const TREES: [&str; 2] = ["even", "odd"];

/// Transactions after a checkpoint that see what was there before it.
const STALE_BEGINS: u32 = 40;

/// A view from before a checkpoint.
struct Stale {
    view: ReadView,
    /// Checkpoints when it was taken.
    checkpoints: u64,
    /// Transactions that have read from it since the checkpoint.
    begins: u32,
}

pub(crate) struct Subject {
    store: Store,
    trees: [TreeId; 2],
    bug: Option<Planted>,
    /// What others see too early.
    early: Mutex<BTreeMap<u16, Vec<u8>>>,
    /// What the bug that shows the state before a checkpoint needs.
    stale: Mutex<Option<Stale>>,
}

impl Subject {
    pub(crate) fn new(store: Store, bug: Option<Planted>) -> Self {
        let trees = TREES.map(|name| store.tree(name).expect("a good name"));
        Self { store, trees, bug, early: Mutex::default(), stale: Mutex::default() }
    }

    fn tree(&self, key: u16) -> TreeId {
        self.trees[usize::from(key % 2)]
    }

    pub(crate) fn view(&self) -> ReadView {
        self.store.read()
    }

    /// Reads a key of a view.
    pub(crate) fn get(&self, view: &ReadView, key: u16) -> Option<Vec<u8>> {
        view.get(self.tree(key), &key.to_be_bytes()).expect("a sound store reads").map(|value| value.to_vec())
    }

    /// Walks a tree of a view within bounds.
    pub(crate) fn range(&self, view: &ReadView, keys: &Keys) -> Vec<(u16, Vec<u8>)> {
        let (from, to) = keys.bounds();
        let found = view.range(self.trees[keys.tree], (Included(&from[..]), Excluded(&to[..])));
        let found = found.map(|item| owned(item.expect("a sound store reads")));
        if keys.backward { found.rev().collect() } else { found.collect() }
    }

    pub(crate) fn begin(&self, serializable: bool) -> Tx<'_> {
        let mut inner = self.store.write();
        let mut reads_from = None;
        match self.bug {
            Some(Planted::UncheckedRange) => loop {
                let view = self.store.read();
                if view.commit_no() == inner.snapshot_commit_no() {
                    reads_from = Some(view);
                    break;
                }
                inner = self.store.write();
            },
            Some(Planted::StaleAfterCheckpoint) => {
                let checkpoints = self.store.stats().checkpoints;
                let mut stale = self.stale.lock();
                match &mut *stale {
                    Some(old) if old.checkpoints != checkpoints && old.begins < STALE_BEGINS => {
                        old.begins += 1;
                        reads_from = Some(old.view.clone());
                    }
                    _ => *stale = Some(Stale { view: self.store.read(), checkpoints, begins: 0 }),
                }
            }
            _ => {}
        }
        if serializable && self.bug != Some(Planted::WriteSkew) {
            inner.serializable();
        }
        let start = (self.bug == Some(Planted::PartialCommit)).then(|| inner.savepoint());
        Tx { subject: self, inner, writes: Writes::new(), reads: 0, reads_from, start }
    }

    /// Writes without asking.
    fn force(&self, writes: &Writes) -> CommitInfo {
        loop {
            let mut tx = self.store.write();
            for (key, value) in writes {
                let done = match value {
                    Some(value) => tx.put(self.tree(*key), &key.to_be_bytes(), value),
                    None => tx.delete(self.tree(*key), &key.to_be_bytes()),
                };
                done.expect("a good key");
            }
            if let Ok(info) = tx.commit() {
                return info;
            }
        }
    }
}

/// Keys of one tree, from the first up to the last, without it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub(crate) tree: usize,
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) backward: bool,
}

impl Keys {
    fn bounds(&self) -> ([u8; 2], [u8; 2]) {
        (self.from.to_be_bytes(), self.to.to_be_bytes())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> {
        let tree = self.tree;
        (self.from..self.to).filter(move |key| usize::from(key % 2) == tree)
    }
}

fn owned((key, value): (bytes::Bytes, bytes::Bytes)) -> (u16, Vec<u8>) {
    (u16::from_be_bytes(key[..].try_into().expect("keys are two bytes")), value.to_vec())
}

pub(crate) struct Tx<'s> {
    subject: &'s Subject,
    inner: WriteTransaction,
    writes: Writes,
    reads: u32,
    reads_from: Option<ReadView>,
    start: Option<Savepoint>,
}

impl Tx<'_> {
    pub(crate) fn snapshot(&self) -> u64 {
        self.inner.snapshot_commit_no()
    }

    fn is(&self, bug: Planted) -> bool {
        self.subject.bug == Some(bug)
    }

    pub(crate) fn get(&mut self, key: u16) -> Option<Vec<u8>> {
        self.reads += 1;
        if !self.writes.contains_key(&key) {
            if (self.is(Planted::DirtyRead) || self.is(Planted::IntermediateRead))
                && let Some(value) = self.subject.early.lock().get(&key)
            {
                return Some(value.clone());
            }
            if self.is(Planted::MovingView) && self.reads > 2 {
                return self.subject.get(&self.subject.store.read(), key);
            }
            if self.is(Planted::StaleAfterCheckpoint)
                && let Some(view) = &self.reads_from
            {
                return self.subject.get(view, key);
            }
        }
        let found = self.inner.get(self.subject.tree(key), &key.to_be_bytes());
        found.expect("a sound store reads").map(|value| value.to_vec())
    }

    pub(crate) fn range(&mut self, keys: &Keys) -> Vec<(u16, Vec<u8>)> {
        if let Some(view) = self.reads_from.as_ref().filter(|_| self.writes.is_empty()) {
            return self.subject.range(view, keys);
        }
        let (from, to) = keys.bounds();
        let found = self.inner.range(self.subject.trees[keys.tree], (Included(&from[..]), Excluded(&to[..])));
        let found = found.map(|item| owned(item.expect("a sound store reads")));
        if keys.backward { found.rev().collect() } else { found.collect() }
    }

    pub(crate) fn put(&mut self, key: u16, value: &[u8]) {
        if self.is(Planted::IntermediateRead) {
            self.subject.early.lock().insert(key, value.to_vec());
        }
        self.writes.insert(key, Some(value.to_vec()));
        self.inner.put(self.subject.tree(key), &key.to_be_bytes(), value).expect("a good value");
    }

    pub(crate) fn delete(&mut self, key: u16) {
        if self.is(Planted::LostDelete) {
            return;
        }
        self.writes.insert(key, None);
        self.inner.delete(self.subject.tree(key), &key.to_be_bytes()).expect("a good key");
    }

    pub(crate) fn savepoint(&mut self) -> (Savepoint, Writes) {
        (self.inner.savepoint(), self.writes.clone())
    }

    pub(crate) fn roll_back_to(&mut self, savepoint: (Savepoint, Writes)) {
        if !self.is(Planted::IgnoredSavepoint) {
            self.inner.roll_back_to(savepoint.0);
            self.writes = savepoint.1;
        }
    }

    pub(crate) fn abort(self) {
        self.gone_wrong();
    }

    fn gone_wrong(&self) {
        if self.is(Planted::AbortedWrite) && !self.writes.is_empty() {
            self.subject.force(&self.writes);
        }
        self.forget_early();
    }

    fn forget_early(&self) {
        self.subject.early.lock().retain(|key, _| !self.writes.contains_key(key));
    }

    /// `None`: there was a conflict.
    pub(crate) fn commit(mut self, durability: Durability) -> Option<CommitInfo> {
        if self.is(Planted::DirtyRead) {
            let puts = self.writes.iter().filter_map(|(key, value)| Some((*key, value.clone()?)));
            self.subject.early.lock().extend(puts);
            std::thread::yield_now();
        }
        let mut late = Writes::new();
        if let Some(start) = self.start.take() {
            self.inner.roll_back_to(start);
            late = self.writes.clone();
            let first = late.pop_first();
            if let Some((key, Some(value))) = first {
                self.inner.put(self.subject.tree(key), &key.to_be_bytes(), &value).expect("it was good before");
            } else if let Some((key, None)) = first {
                self.inner.delete(self.subject.tree(key), &key.to_be_bytes()).expect("it was good before");
            }
        }
        let inner = std::mem::replace(&mut self.inner, self.subject.store.write());
        match inner.commit_with(durability, |_| Ok(())) {
            Ok(info) if late.is_empty() => {
                self.forget_early();
                Some(info)
            }
            Ok(_) => {
                std::thread::yield_now();
                Some(self.subject.force(&late))
            }
            Err(CommitError::Conflict { key, .. }) => {
                let first = self.writes.keys().next().map(|key| key.to_be_bytes());
                let unseen = self.is(Planted::FirstKeyOnly) && first.is_some_and(|first| first[..] != key[..]);
                if self.is(Planted::LostUpdate) || unseen {
                    return Some(self.subject.force(&self.writes));
                }
                self.gone_wrong();
                None
            }
            Err(error) => panic!("nothing else can go wrong here: {error}"),
        }
    }
}
