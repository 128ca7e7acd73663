//! The log on the embedded engine: one store for all spaces of a relay.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `names` | name of the space | space id |
//! | `spaces` | space id | epoch u32, head u64, floor u64, newest stamp u64 (little-endian), name |
//! | `entries` | space id, first number (big-endian) | the `Entry` frame |
//! | `authors` | space id, replica id, last counter (big-endian) | first number of the entry that holds it |
//! | `counters` | space id, replica id | counter u64 (little-endian), payload digest |
//! | `dead` | space id, document id, collection | number of the delete u64 (little-endian) |
//!
//! One group of appends is one durable transaction, so an entry is there with all that is derived from it or not at
//! all (spec: R-21). Writers take turns; readers use snapshots and never wait.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use blazedb_engine::{CommitError, Durability, Env, Memory, Options, ReadView, Store, TreeId, WriteTransaction};
use blazedb_wire::{DocumentId, Envelope, Frame, Hlc, ReplicaId, SpaceId};
use bytes::Bytes;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{
    Append, AppendError, DeadDocuments, Known, LogEntry, LogError, PayloadDigest, RelayLog, SPACE_NAME_BYTES_MAX,
    SpaceInfo, StoredEntry, envelope_bytes,
};
use crate::secrets;

/// Name of the store in the relay's folder.
pub const STORE_FILE: &str = "relay.blaze";

/// Name of the store's key in the relay's folder: 32 raw bytes, readable by the owner alone.
pub const KEY_FILE: &str = "store.key";

/// The epoch of a space that was never restored.
const FIRST_EPOCH: u32 = 1;

/// Settings of a [`StoreLog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLogOptions {
    /// Memory that the log's store may take.
    pub memory: Memory,
}

impl Default for StoreLogOptions {
    fn default() -> Self {
        Self { memory: Memory::RELAY }
    }
}

/// A [`RelayLog`] on a [`Store`].
pub struct StoreLog {
    store: Store,
    trees: Trees,
    env: Env,
    /// One writer at a time: optimistic transactions would only meet each other's conflicts.
    writer: Mutex<()>,
}

impl std::fmt::Debug for StoreLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreLog").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct Trees {
    names: TreeId,
    spaces: TreeId,
    entries: TreeId,
    authors: TreeId,
    counters: TreeId,
    dead: TreeId,
}

/// The row of the `spaces` tree.
struct SpaceRow {
    epoch: u32,
    head: u64,
    floor: u64,
    newest_stamp: Hlc,
    name: String,
}

impl StoreLog {
    /// Opens the log in a relay's folder, making the store and its key at the first start.
    pub fn open(dir: &Path, options: StoreLogOptions) -> Result<Self, LogError> {
        let store = dir.join(STORE_FILE);
        let key_path = dir.join(KEY_FILE);
        if store.exists() && !key_path.exists() {
            let detail = format!(
                "{} is gone but {} is there: put the key back from your backup, or move the store away to begin a new one",
                key_path.display(),
                store.display()
            );
            return Err(LogError::Key { detail });
        }
        let key = store_key(dir)?;
        Self::open_in(Env::file(&store), *key, options)
    }

    /// Opens the log over injected storage, clock and entropy.
    pub fn open_in(env: Env, key: [u8; 32], options: StoreLogOptions) -> Result<Self, LogError> {
        let store_options = Options::raw_key(key).memory(options.memory);
        let store = Store::open(env.clone(), store_options).map_err(|error| storage("opening the store", &error))?;
        if !store.stats().recovered_surely {
            tracing::warn!(
                store = %env.describe(),
                "the last commits of the log may be missing: one header of the file cannot be read, and its log does not show \
                 that it reaches what the newest one named; compare with a backup"
            );
        }
        let trees = Self::make_trees(&store)?;
        Ok(Self { store, trees, env, writer: Mutex::new(()) })
    }

    fn make_trees(store: &Store) -> Result<Trees, LogError> {
        let mut tx = store.write();
        let mut tree = |name| tx.tree(name).map_err(|error| storage("making its trees", &error));
        let trees = Trees {
            names: tree("names")?,
            spaces: tree("spaces")?,
            entries: tree("entries")?,
            authors: tree("authors")?,
            counters: tree("counters")?,
            dead: tree("dead")?,
        };
        tx.commit().map_err(|error| storage("making its trees", &error))?;
        Ok(trees)
    }

    /// Closes the store; what was appended is durable already.
    pub fn close(&self) -> Result<(), LogError> {
        let _writer = self.writer.lock();
        self.store.close().map_err(|error| storage("closing the store", &error))
    }

    /// Returns the names and ids of all spaces, by name.
    pub fn spaces(&self) -> Result<Vec<(String, SpaceId)>, LogError> {
        let view = self.store.read();
        let mut spaces = Vec::new();
        for item in view.prefix(self.trees.names, &[]) {
            let (name, id) = item.map_err(|error| storage("reading names", &error))?;
            let name = String::from_utf8(name.to_vec()).map_err(|_| damaged("names", "a name is not text"))?;
            spaces.push((name, space_id(&id)?));
        }
        Ok(spaces)
    }

    fn find_space(&self, name: &str) -> Result<Option<(ReadView, SpaceId)>, LogError> {
        let view = self.store.read();
        let id = view.get(self.trees.names, name.as_bytes()).map_err(|error| storage("reading names", &error))?;
        id.map(|id| Ok((view, space_id(&id)?))).transpose()
    }

    fn create_space(&self, name: &str) -> Result<SpaceInfo, LogError> {
        let mut id = [0; 16];
        self.env.entropy.public(&mut id).map_err(|error| storage("drawing a space id", &error))?;
        let id = SpaceId::from_bytes(id);
        let row = SpaceRow { epoch: FIRST_EPOCH, head: 0, floor: 0, newest_stamp: Hlc::ZERO, name: name.to_owned() };
        let mut tx = self.store.write();
        let doing = "making a space";
        tx.put(self.trees.names, name.as_bytes(), id.as_bytes()).map_err(|error| storage(doing, &error))?;
        tx.put(self.trees.spaces, id.as_bytes(), &row.encode()).map_err(|error| storage(doing, &error))?;
        tx.commit().map_err(|error| match error {
            CommitError::DiskFull { .. } => LogError::Full { detail: error.to_string() },
            CommitError::Poisoned { .. } => LogError::Poisoned { detail: error.to_string() },
            _ => storage(doing, &error),
        })?;
        Ok(SpaceInfo {
            id,
            epoch: row.epoch,
            head: 0,
            floor: 0,
            counters: BTreeMap::new(),
            dead: DeadDocuments::default(),
            newest_stamp: Hlc::ZERO,
        })
    }

    fn row(&self, view: &ReadView, space: SpaceId) -> Result<SpaceRow, LogError> {
        let bytes =
            view.get(self.trees.spaces, space.as_bytes()).map_err(|error| storage("reading a space", &error))?;
        SpaceRow::decode(&bytes.ok_or(LogError::UnknownSpace(space))?)
    }

    fn counters(&self, view: &ReadView, space: SpaceId) -> Result<BTreeMap<ReplicaId, Known>, LogError> {
        let mut counters = BTreeMap::new();
        for item in view.prefix(self.trees.counters, space.as_bytes()) {
            let (key, value) = item.map_err(|error| storage("reading counters", &error))?;
            let replica =
                array(&key, 16).map(ReplicaId::from_bytes).ok_or_else(|| damaged("counters", "a short key"))?;
            let counter = array(&value, 0).map(u64::from_le_bytes);
            let (Some(counter), Some(digest)) = (counter, array(&value, 8)) else {
                return Err(damaged("counters", "a short value"));
            };
            counters.insert(replica, Known { counter, digest });
        }
        Ok(counters)
    }

    fn dead(&self, view: &ReadView, space: SpaceId) -> Result<DeadDocuments, LogError> {
        let mut dead = DeadDocuments::default();
        for item in view.prefix(self.trees.dead, space.as_bytes()) {
            let (key, value) = item.map_err(|error| storage("reading deaths", &error))?;
            let id = array(&key, 16).map(DocumentId::from_bytes).ok_or_else(|| damaged("dead", "a short key"))?;
            let collection =
                std::str::from_utf8(&key[32..]).map_err(|_| damaged("dead", "a collection is not text"))?;
            let seq = array(&value, 0).map(u64::from_le_bytes).ok_or_else(|| damaged("dead", "a short value"))?;
            dead.insert(collection, id, seq);
        }
        Ok(dead)
    }

    /// Puts one append into the transaction; on an error nothing of it is in.
    fn put_append(&self, tx: &mut WriteTransaction, append: &Append) -> Result<(), AppendError> {
        let space = append.space;
        let write = |error: &dyn std::fmt::Display| AppendError::Storage { detail: error.to_string() };
        let bytes = tx.get(self.trees.spaces, space.as_bytes()).map_err(|error| write(&error))?;
        let bytes = bytes.ok_or(AppendError::UnknownSpace(space))?;
        let mut row = SpaceRow::decode(&bytes).map_err(|error| write(&error))?;
        if row.head != append.expected_head {
            return Err(AppendError::HeadMismatch { expected: append.expected_head, found: row.head });
        }
        for entry in &append.entries {
            assert_eq!(entry.first_seq, row.head + 1, "the entries of an append are contiguous");
            row.head = entry.last_seq;
            row.newest_stamp = row.newest_stamp.max(entry.newest_stamp);
            self.put_entry(tx, space, entry).map_err(|error| write(&error))?;
        }
        tx.put(self.trees.spaces, space.as_bytes(), &row.encode()).map_err(|error| write(&error))
    }

    fn put_entry(
        &self,
        tx: &mut WriteTransaction,
        space: SpaceId,
        entry: &LogEntry,
    ) -> Result<(), blazedb_engine::WriteError> {
        tx.put(self.trees.entries, &entry_key(space, entry.first_seq), &entry.frame)?;
        let author = author_key(space, entry.replica, entry.known.counter);
        tx.put(self.trees.authors, &author, &entry.first_seq.to_le_bytes())?;
        let mut known = [0; 24];
        known[..8].copy_from_slice(&entry.known.counter.to_le_bytes());
        known[8..].copy_from_slice(&entry.known.digest);
        tx.put(self.trees.counters, &[*space.as_bytes(), *entry.replica.as_bytes()].concat(), &known)?;
        for change in &entry.lives {
            let key = [space.as_bytes(), change.id.as_bytes(), change.collection.as_bytes()].concat();
            match change.died_at {
                Some(seq) => tx.put(self.trees.dead, &key, &seq.to_le_bytes())?,
                None => tx.delete(self.trees.dead, &key)?,
            }
        }
        Ok(())
    }
}

impl RelayLog for StoreLog {
    fn open_space(&self, name: &str) -> Result<SpaceInfo, LogError> {
        if name.is_empty() || name.len() > SPACE_NAME_BYTES_MAX {
            return Err(LogError::BadName { given: name.len() });
        }
        let (view, id) = match self.find_space(name)? {
            Some(found) => found,
            None => {
                // Two first openings of one name make one space: who comes second looks again.
                let _writer = self.writer.lock();
                match self.find_space(name)? {
                    Some(found) => found,
                    None => return self.create_space(name),
                }
            }
        };
        let row = self.row(&view, id)?;
        if row.name != name {
            return Err(damaged("spaces", "a space has another name than the one that leads to it"));
        }
        Ok(SpaceInfo {
            id,
            epoch: row.epoch,
            head: row.head,
            floor: row.floor,
            counters: self.counters(&view, id)?,
            dead: self.dead(&view, id)?,
            newest_stamp: row.newest_stamp,
        })
    }

    fn append(&self, group: &[Append]) -> Vec<Result<(), AppendError>> {
        let _writer = self.writer.lock();
        let mut tx = self.store.write();
        let mut results: Vec<Result<(), AppendError>> = Vec::with_capacity(group.len());
        let mut failed = None;
        for append in group {
            let result = match &failed {
                Some(error) => Err(AppendError::clone(error)),
                None => self.put_append(&mut tx, append),
            };
            // A write that failed half-way has left some of its puts in the transaction: give the group up.
            if let Err(error @ AppendError::Storage { .. }) = &result {
                failed = Some(error.clone());
            }
            results.push(result);
        }
        let failed = match failed {
            Some(error) => Some(error),
            None if results.iter().all(Result::is_err) => return results,
            None => tx.commit_with(Durability::Durable, |_| Ok(())).err().map(|error| {
                let detail = error.to_string();
                match error {
                    CommitError::DiskFull { .. } => AppendError::Full { detail },
                    CommitError::Poisoned { .. } => AppendError::Poisoned { detail },
                    _ => AppendError::Storage { detail },
                }
            }),
        };
        if let Some(error) = failed {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(error.clone());
            }
        }
        results
    }

    fn read(&self, space: SpaceId, after_seq: u64, bytes_max: usize) -> Result<Vec<StoredEntry>, LogError> {
        let view = self.store.read();
        let (start, end) = (entry_key(space, after_seq.saturating_add(1)), entry_key(space, u64::MAX));
        let mut entries = Vec::new();
        let mut bytes = 0;
        for item in view.range(self.trees.entries, within(&start, &end)) {
            let (key, frame) = item.map_err(|error| storage("reading entries", &error))?;
            bytes += frame.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            let first_seq = array(&key, 16).map(u64::from_be_bytes).ok_or_else(|| damaged("entries", "a short key"))?;
            let envelope = envelope_bytes(&frame).and_then(|bytes| Envelope::decode(bytes).ok());
            let envelope = envelope.filter(|envelope| envelope.first_seq == first_seq);
            let last_seq = envelope.ok_or_else(|| damaged("entries", "not the entry of its key"))?.last_seq();
            entries.push(StoredEntry { first_seq, last_seq, frame });
        }
        Ok(entries)
    }

    fn digests(
        &self,
        space: SpaceId,
        replica: ReplicaId,
        first: u64,
        last: u64,
        bytes_max: usize,
    ) -> Result<Vec<PayloadDigest>, LogError> {
        let doing = "looking up digests";
        let view = self.store.read();
        let (start, end) = (author_key(space, replica, first), author_key(space, replica, u64::MAX));
        let mut digests = Vec::new();
        let (mut next, mut bytes) = (first, 0);
        for item in view.range(self.trees.authors, within(&start, &end)) {
            let (key, value) = item.map_err(|error| storage(doing, &error))?;
            if next > last || (bytes > bytes_max && !digests.is_empty()) {
                return Ok(digests);
            }
            let newest = array(&key, 32).map(u64::from_be_bytes).ok_or_else(|| damaged("authors", "a short key"))?;
            let seq = array(&value, 0).map(u64::from_le_bytes).ok_or_else(|| damaged("authors", "a short value"))?;
            let frame = view.get(self.trees.entries, &entry_key(space, seq)).map_err(|error| storage(doing, &error))?;
            let frame = frame.ok_or(LogError::Missing { replica, counter: next })?;
            let Ok(Frame::Entry { batch, .. }) = Frame::decode(frame) else {
                return Err(damaged("entries", "another frame than an entry"));
            };
            // As it is in memory: a short entry may be a long batch.
            bytes += batch.bytes().len();
            let first_counter = batch.head().first_counter;
            for counter in next..=newest.min(last) {
                let i = counter.checked_sub(first_counter).and_then(|i| usize::try_from(i).ok());
                let i = i.filter(|i| *i < batch.len()).ok_or(LogError::Missing { replica, counter })?;
                digests.push(batch.op(i).payload_digest());
            }
            next = newest.saturating_add(1);
        }
        if next > last { Ok(digests) } else { Err(LogError::Missing { replica, counter: next }) }
    }
}

impl SpaceRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(28 + self.name.len());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.head.to_le_bytes());
        out.extend_from_slice(&self.floor.to_le_bytes());
        out.extend_from_slice(&self.newest_stamp.0.to_le_bytes());
        out.extend_from_slice(self.name.as_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, LogError> {
        let short = || damaged("spaces", "a short row");
        let name = bytes.get(28..).ok_or_else(short)?;
        Ok(Self {
            epoch: array(bytes, 0).map(u32::from_le_bytes).ok_or_else(short)?,
            head: array(bytes, 4).map(u64::from_le_bytes).ok_or_else(short)?,
            floor: array(bytes, 12).map(u64::from_le_bytes).ok_or_else(short)?,
            newest_stamp: array(bytes, 20).map(u64::from_le_bytes).map(Hlc).ok_or_else(short)?,
            name: String::from_utf8(name.to_vec()).map_err(|_| damaged("spaces", "a name is not text"))?,
        })
    }
}

/// Reads the store's key, or makes it.
pub fn store_key(dir: &Path) -> Result<Zeroizing<[u8; 32]>, LogError> {
    let detail = |error: secrets::SecretError| LogError::Key { detail: error.to_string() };
    let path = dir.join(KEY_FILE);
    let bytes =
        secrets::load_or_create(&path, || Ok(Zeroizing::new(secrets::random::<32>()?.to_vec()))).map_err(detail)?;
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        let detail =
            format!("{} holds {} bytes instead of 32: put it back from your backup", path.display(), bytes.len());
        return Err(LogError::Key { detail });
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

fn entry_key(space: SpaceId, seq: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(space.as_bytes());
    key[16..].copy_from_slice(&seq.to_be_bytes());
    key
}

fn author_key(space: SpaceId, replica: ReplicaId, counter: u64) -> [u8; 40] {
    let mut key = [0; 40];
    key[..16].copy_from_slice(space.as_bytes());
    key[16..32].copy_from_slice(replica.as_bytes());
    key[32..].copy_from_slice(&counter.to_be_bytes());
    key
}

/// Both keys and all between them.
fn within<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(start), Bound::Included(end))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn space_id(bytes: &Bytes) -> Result<SpaceId, LogError> {
    let id: [u8; 16] = bytes[..].try_into().map_err(|_| damaged("names", "an id has not 16 bytes"))?;
    Ok(SpaceId::from_bytes(id))
}

fn storage(doing: &'static str, error: &dyn std::fmt::Display) -> LogError {
    LogError::Storage { doing, detail: error.to_string() }
}

fn damaged(table: &'static str, detail: &str) -> LogError {
    LogError::Damaged { table, detail: detail.to_owned() }
}
