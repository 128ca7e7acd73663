//! The log: where an operation gets its number and stays.
//!
//! An entry is the batch exactly as its author sealed it, under the relay's envelope, kept as the very frame that
//! subscribers will be sent. Everything else that a relay must know of a space (counters, deaths, the newest stamp)
//! is derived, and written in the same durable transaction as the entry, so that opening a space never walks its log.
//!
//! An append always names the head it was computed against (spec: R-4): two writers of one log, or one writer with an
//! outdated idea of it, meet a [`AppendError::HeadMismatch`] and never a wrong verdict. Read [`RelayLog`] first;
//! [`StoreLog`] is the one that ships.

mod pack;
mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use blazedb_wire::limits::FRAME_BODY_BYTES_MAX;
use blazedb_wire::{DocumentId, HEADER_BYTES, Hlc, Reader, ReplicaId, SpaceId};
use bytes::Bytes;

pub use pack::Packing;
pub use store::{KEY_FILE, STORE_FILE, StoreLog, StoreLogOptions, store_key};

/// First 16 bytes of the SHA-256 of an operation's payload: what decides between a repeat and a clash of names.
pub type PayloadDigest = [u8; 16];

/// The newest operation known of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its counter; every lower one is known, too.
    pub counter: u64,
    /// Its payload digest.
    pub digest: PayloadDigest,
}

/// The dead documents of a space: the number of the delete that killed each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadDocuments {
    // Ordered maps: ids are chosen by clients, and a hash map would either be seeded (the hub is pure) or floodable.
    // Ids as numbers, which are compared at once and not byte by byte: a look-up costs a quarter less.
    collections: BTreeMap<Arc<str>, BTreeMap<u128, u64>>,
    count: usize,
}

fn number_of(id: DocumentId) -> u128 {
    u128::from_be_bytes(*id.as_bytes())
}

impl DeadDocuments {
    /// Returns the number of the delete that killed the document, if it is dead.
    pub fn get(&self, collection: &str, id: DocumentId) -> Option<u64> {
        self.collections.get(collection)?.get(&number_of(id)).copied()
    }

    /// Records a death.
    pub fn insert(&mut self, collection: &str, id: DocumentId, seq: u64) {
        let documents = if let Some(known) = self.collections.get_mut(collection) {
            known
        } else {
            self.collections.entry(Arc::from(collection)).or_default()
        };
        if documents.insert(number_of(id), seq).is_none() {
            self.count += 1;
        }
    }

    /// Forgets a death: the document lives again.
    pub fn remove(&mut self, collection: &str, id: DocumentId) {
        if let Some(documents) = self.collections.get_mut(collection)
            && documents.remove(&number_of(id)).is_some()
        {
            self.count -= 1;
            if documents.is_empty() {
                self.collections.remove(collection);
            }
        }
    }

    /// Returns the number of dead documents.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether nothing is dead.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Applies the changes of one entry, in order.
    pub fn apply(&mut self, changes: &[LifeChange]) {
        for change in changes {
            match change.died_at {
                Some(seq) => self.insert(&change.collection, change.id, seq),
                None => self.remove(&change.collection, change.id),
            }
        }
    }
}

/// One document that died or came back in an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifeChange {
    /// Its collection.
    pub collection: Arc<str>,
    /// Its id.
    pub id: DocumentId,
    /// The number of the delete; `None` when the document lives again.
    pub died_at: Option<u64>,
}

/// Everything a relay must know of a space before it may admit a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceInfo {
    /// The space's identity; its name is only an alias at this relay.
    pub id: SpaceId,
    /// The epoch of its numbers.
    pub epoch: u32,
    /// The number of the newest operation; 0 when there is none.
    pub head: u64,
    /// The lowest cursor from which the log can be read.
    pub floor: u64,
    /// The newest operation of every replica that ever wrote here.
    pub counters: BTreeMap<ReplicaId, Known>,
    /// The dead documents.
    pub dead: DeadDocuments,
    /// The highest stamp of an operation that was neither refused nor a repeat.
    pub newest_stamp: Hlc,
}

/// One admitted batch on its way into the log.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// The number of its first operation.
    pub first_seq: u64,
    /// The number of its last operation.
    pub last_seq: u64,
    /// The `Entry` frame: envelope and batch.
    pub frame: Bytes,
    /// Its author.
    pub replica: ReplicaId,
    /// The author's newest operation once this entry is in.
    pub known: Known,
    /// Documents that die or come back, in order.
    pub lives: Vec<LifeChange>,
    /// The highest stamp of the space once this entry is in.
    pub newest_stamp: Hlc,
}

/// Names one append until its result is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppendId(pub u64);

/// A conditional append to one space.
#[derive(Clone, Debug)]
pub struct Append {
    /// Whose result this will be.
    pub id: AppendId,
    /// The space.
    pub space: SpaceId,
    /// The head that the verdicts were computed against.
    pub expected_head: u64,
    /// Entries with contiguous numbers from `expected_head + 1` on.
    pub entries: Vec<LogEntry>,
}

impl Append {
    /// Returns about how many bytes it puts into the log's transaction: a batch of many deletes writes more than it holds.
    pub fn bytes(&self) -> usize {
        let lives = self.entries.iter().flat_map(|entry| &entry.lives).map(|change| 128 + change.collection.len());
        self.entries.iter().map(|entry| 512 + entry.frame.len()).chain(lives).sum()
    }
}

/// One entry as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// The number of its first operation.
    pub first_seq: u64,
    /// The number of its last operation.
    pub last_seq: u64,
    /// The `Entry` frame, byte for byte as it was appended.
    pub frame: Bytes,
}

/// Returns the envelope's bytes out of an `Entry` frame, without a look at the batch; `None` if it is none.
///
/// For frames that this relay made and its store has authenticated; frames from elsewhere are decoded whole.
pub fn envelope_bytes(frame: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::with_offset(frame.get(HEADER_BYTES..)?, HEADER_BYTES);
    let length = reader.uvarint_max(FRAME_BODY_BYTES_MAX as u64, "envelope bytes").ok()?;
    reader.bytes(usize::try_from(length).ok()?).ok()
}

/// Why an append left the log as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// The caller's idea of the space is outdated: read it again and decide again.
    HeadMismatch {
        /// The head that the append was computed against.
        expected: u64,
        /// The head that the log has.
        found: u64,
    },
    /// The log knows no such space.
    UnknownSpace(SpaceId),
    /// The log has reached its ceiling; nothing was lost and reading goes on.
    Full {
        /// What the store said.
        detail: String,
    },
    /// The store failed.
    Storage {
        /// What the store said.
        detail: String,
    },
    /// A write or a sync failed, now or earlier, and the store refuses every later write: only opening it again shows what is
    /// durable.
    Poisoned {
        /// What the store said.
        detail: String,
    },
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadMismatch { expected, found } => {
                write!(f, "the log's head is {found}, not {expected}: read the space again and retry")
            }
            Self::UnknownSpace(space) => write!(f, "the log has no space {space}: open it by its name first"),
            Self::Full { detail } => write!(f, "the log is full ({detail}): raise its ceiling or move spaces away"),
            Self::Storage { detail } => {
                write!(f, "the log could not be written ({detail}): check the disk and restart")
            }
            Self::Poisoned { detail } => {
                write!(f, "the log stopped writing ({detail}): check the disk, and start the relay again")
            }
        }
    }
}

impl std::error::Error for AppendError {}

/// Why the log could not be opened or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogError {
    /// The store failed or its bytes are damaged.
    Storage {
        /// What was being done.
        doing: &'static str,
        /// What the store said.
        detail: String,
    },
    /// A value that this program wrote does not read back as it must.
    Damaged {
        /// Which table of the log.
        table: &'static str,
        /// What was wrong.
        detail: String,
    },
    /// The log knows no such space.
    UnknownSpace(SpaceId),
    /// The log has reached its ceiling and cannot make the space.
    Full {
        /// What the store said.
        detail: String,
    },
    /// As [`AppendError::Poisoned`].
    Poisoned {
        /// What the store said.
        detail: String,
    },
    /// The name of a space is empty or too long.
    BadName {
        /// Bytes of the name.
        given: usize,
    },
    /// An operation that the counters claim is not in the log.
    Missing {
        /// Its author.
        replica: ReplicaId,
        /// Its counter.
        counter: u64,
    },
    /// The key file beside the store cannot be used.
    Key {
        /// What is wrong with it and what to do.
        detail: String,
    },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage { doing, detail } => {
                write!(f, "the log's store failed while {doing} ({detail}): check the disk")
            }
            Self::Damaged { table, detail } => {
                write!(f, "the log's table `{table}` is damaged ({detail}): verify the store and restore a backup")
            }
            Self::UnknownSpace(space) => write!(f, "the log has no space {space}: open it by its name first"),
            Self::Full { detail } => write!(f, "the log is full ({detail}): raise its ceiling or move spaces away"),
            Self::Poisoned { detail } => {
                write!(f, "the log stopped writing ({detail}): check the disk, and start the relay again")
            }
            Self::BadName { given } => {
                write!(f, "a space's name has 1 to {SPACE_NAME_BYTES_MAX} bytes, not {given}: choose another")
            }
            Self::Missing { replica, counter } => {
                write!(f, "operation {counter} of replica {replica} is missing from the log: verify the store")
            }
            Self::Key { detail } => write!(f, "the log's key cannot be used: {detail}"),
        }
    }
}

impl std::error::Error for LogError {}

/// The longest name of a space, in bytes: the ceiling of every name in the formats.
pub const SPACE_NAME_BYTES_MAX: usize = 255;

/// What a relay asks of its log.
///
/// All methods block; the shell calls them off the hub's task.
pub trait RelayLog: Send + Sync + 'static {
    /// Reads what must be known of the space with this name, and makes it (epoch 1, random id) if there is none.
    fn open_space(&self, name: &str) -> Result<SpaceInfo, LogError>;

    /// Appends a group under one durable sync: one result for each append, in order.
    ///
    /// An append whose head does not match is left out; the others are not affected by it. When this returns, what is
    /// `Ok` is durable. What is not left no trace, but for [`AppendError::Poisoned`]: after a failed sync nobody can say,
    /// and it may be found when the log is opened again. It was not acknowledged, and its author will repeat it.
    fn append(&self, group: &[Append]) -> Vec<Result<(), AppendError>>;

    /// Reads whole entries with numbers above `after_seq`, oldest first: at least one if there is any, then as long as
    /// the sum of their frames stays within `bytes_max`.
    fn read(&self, space: SpaceId, after_seq: u64, bytes_max: usize) -> Result<Vec<StoredEntry>, LogError>;

    /// Returns the payload digests of the operations of a replica from `first` on: at least one, then as long as the batches that
    /// hold them stay within `bytes_max`, and none beyond `last`.
    ///
    /// Costs a read of the entries that hold them: the log keeps an index from names to entries (about 48 bytes for
    /// each entry) and no table of digests, since repeats of operations other than the newest are rare.
    fn digests(
        &self,
        space: SpaceId,
        replica: ReplicaId,
        first: u64,
        last: u64,
        bytes_max: usize,
    ) -> Result<Vec<PayloadDigest>, LogError>;
}
