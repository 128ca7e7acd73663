//! What the caller decides when a store is opened: the key, what may be created, ceilings, costs.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::limits::{GROUP_BYTES_SOFT_MAX, PAGE_BYTES};

/// Bytes that are wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// Returns the bytes; copies made of them are the caller's to wipe.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where the file's key comes from.
#[derive(Clone)]
pub enum KeySource {
    /// A person's words, stretched with Argon2id. The bytes are used as given: no Unicode normalisation.
    Passphrase(Secret),
    /// 32 bytes of full entropy, from a key store of the system for example. Not stretched.
    Raw(Zeroizing<[u8; 32]>),
    /// Whoever has the key: a key store of the system, a security module, a smart card. Asked whenever a key slot is
    /// opened or written.
    Provider(Arc<dyn KeyProvider>),
    /// The file is not encrypted.
    None,
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(..)",
            Self::Raw(_) => "Raw(..)",
            Self::Provider(_) => "Provider(..)",
            Self::None => "None",
        })
    }
}

/// Gives the key of a file. What it gives is not stretched: 32 bytes of full entropy.
///
/// A provider that gives other bytes for another salt makes every key slot's key its own; one that looks only at the
/// file's id, or at nothing, is as good as `KeySource::Raw` with that key.
pub trait KeyProvider: Send + Sync {
    /// Returns the 32 bytes. It is called with no lock of the store's that readers or commits wait for, and may take
    /// its time. An error is handed on as the source of `OpenError::KeyProvider` or `MaintainError::KeyProvider`.
    fn key(&self, request: &KeyRequest<'_>) -> Result<Zeroizing<[u8; 32]>, Box<dyn Error + Send + Sync>>;
}

/// Which key a `KeyProvider` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyRequest<'r> {
    /// The file's id, random, the same for as long as the file lives.
    pub file: &'r [u8; 16],
    /// The key slot's salt, random, drawn anew whenever the slot is written: a challenge, for devices that answer
    /// challenges instead of handing out keys.
    pub salt: &'r [u8; 16],
}

/// What a key slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// `KeySource::Passphrase`.
    Passphrase,
    /// `KeySource::Raw`.
    Raw,
    /// `KeySource::Provider`.
    Provider,
}

/// One of the keys that open a file, as far as the file tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeySlotInfo {
    /// Its place, 0 to 3; it keeps it until it is removed, or all are replaced by `Store::rekey`.
    pub index: usize,
    /// What it is for.
    pub kind: KeyKind,
    /// Argon2id's memory in KiB; 0 unless it is a passphrase's.
    pub memory_kib: u32,
    /// Argon2id's passes.
    pub passes: u32,
    /// Argon2id's lanes.
    pub lanes: u32,
}

/// How `Store::rekey` begins: which keys open the file from then on.
#[derive(Clone, Debug, Default)]
pub struct RekeyOptions {
    pub(crate) keys: Vec<(KeySource, KdfCost)>,
    pub(crate) cipher: Option<CipherChoice>,
    pub(crate) locks_out: bool,
}

impl RekeyOptions {
    /// The one key that opens the file from then on; more with `and_key`.
    pub fn new(key: KeySource, cost: KdfCost) -> Self {
        Self { keys: vec![(key, cost)], ..Self::default() }
    }

    /// One more key, up to four. Every key that is not given stops opening the file.
    pub fn and_key(mut self, key: KeySource, cost: KdfCost) -> Self {
        self.keys.push((key, cost));
        self
    }

    /// The cipher from then on. Default: it stays as it is.
    pub fn cipher(mut self, cipher: CipherChoice) -> Self {
        self.cipher = Some(cipher);
        self
    }

    /// Says that none of the given keys need open the file as it is now. Default false: one of them must, so that a
    /// mistyped passphrase is an error and not the loss of everything.
    pub fn lock_out_old_keys(mut self, yes: bool) -> Self {
        self.locks_out = yes;
        self
    }
}

/// How far a change of the master key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RekeyProgress {
    /// Pages that were looked at since the change began or the store was opened: those in use, which are sealed anew,
    /// and then all that the file spans, of which the free ones are overwritten. After a crash the count begins again;
    /// what was sealed anew is only read.
    pub done: u64,
    /// How many there are to look at, as far as that is known.
    pub total: u64,
    /// Nothing is left that the old key opens.
    pub finished: bool,
}

/// How far a vacuum is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VacuumProgress {
    /// Pages that were looked at.
    pub done: u64,
    /// How many there are to look at, as far as that is known: writers may make it more.
    pub total: u64,
    /// Bytes of the file when it began.
    pub from_bytes: u64,
    /// Bytes of the file now.
    pub file_bytes: u64,
    /// Bytes of the file that only old views need, and values that are being written. They come free when those end; the
    /// file can be shorter by about as much after that.
    pub held_bytes: u64,
    /// The commit of the oldest view that holds pages, if there is one.
    pub oldest_reader: Option<u64>,
    /// Leaves that are half empty stayed as they are, as the disk had no room for others: with room for them, the file can be
    /// shorter.
    pub disk_was_full: bool,
    /// Nothing is left to do; what is held is not waited for.
    pub finished: bool,
}

/// When a store makes its file shorter by itself. Both must be so: while it is in use, at several checkpoints in a row, of
/// what those did not need; and when it is closed, where half of the percentage is enough, of what the file can be cut by with
/// moving no more than 16 MiB of pages and reading no more than 64 MiB, if a checkpoint was written since it was opened and no
/// view is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoVacuum {
    /// So many percent of the file are free.
    pub free_percent: u8,
    /// So many bytes of it are free.
    pub free_bytes: u64,
}

impl Default for AutoVacuum {
    fn default() -> Self {
        Self { free_percent: 20, free_bytes: 256 << 10 }
    }
}

/// How dear it is to try a passphrase: Argon2id's memory and passes, written into the file when its key slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KdfCost {
    /// 64 MiB, 3 passes: the second choice of RFC 9106; about 0.1 to 0.2 s on a desktop.
    Standard,
    /// 19 MiB, 2 passes: OWASP's floor, for a Raspberry Pi or a phone.
    Light,
    /// 8 KiB, 1 pass: no protection at all. For tests that open thousands of files.
    InsecureForTests,
}

impl KdfCost {
    /// Returns (memory in KiB, passes, lanes).
    pub(crate) fn parameters(self) -> (u32, u32, u32) {
        match self {
            Self::Standard => (64 << 10, 3, 1),
            Self::Light => (19 << 10, 2, 1),
            Self::InsecureForTests => (8, 1, 1),
        }
    }
}

/// Which cipher a new file uses; an existing file says it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherChoice {
    /// AES-256-GCM where this CPU has AES instructions, else ChaCha20-Poly1305.
    Auto,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

/// How pages come from the file into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageAccess {
    /// `Map` where the file is not encrypted and the system can (64-bit Unix), else `Read`.
    Auto,
    /// Through a read-only mapping of the file. Without encryption nothing is copied. A file that shrinks under the
    /// mapping, or a disk that fails, ends the process with SIGBUS: not for removable media.
    Map,
    /// Through positioned reads into the page cache. A disk that fails is an ordinary error.
    Read,
}

/// How much memory a store takes in a steady state, in bytes, however fast it is written to. What callers hold (values,
/// transactions, views, loads) comes on top, and the passphrase's stretching at open (`KdfCost`), which is given back;
/// so does what the system's allocator keeps for each thread that commits: some 100 KB, up to a megabyte where more
/// than two threads make very many tiny commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Pages in the cache. Not used where pages are read from a mapping without encryption.
    pub cache_bytes: usize,
    /// The table of commits that are in the log and not yet in pages, replaced values included: at so many bytes a
    /// checkpoint is due, or earlier, where smaller tables make the file shorter at little cost. While it runs there are two tables; together they take two and a half times this at most, an
    /// eighth more where hooks write, and there writers stop (`Stats::paced_ms` says how long they were slowed down before it came to that). Opening takes as
    /// much at most, and puts what the log says beyond that into pages; opening read-only takes up to eight, and fails with
    /// `OpenError::TooMuchInLog` beyond that. A transaction that is larger takes no table, but is written into pages.
    pub table_bytes: usize,
    /// Log that is written before a checkpoint is due on its account, per generation, of which there are up to
    /// three on disk. Not memory; here because it goes with the table: a small commit takes 4 KiB of log.
    pub log_bytes: u64,
}

/// Buffers beside cache, tables and groups: what a checkpoint writes at once, the pages of one path, the map of pages in
/// use, and what the allocator keeps between its pieces.
const BUFFER_BYTES: usize = 512 << 10;

/// What tables take at most, all together: one that is full at its freeze or half as full again, and one beside it.
pub(crate) const fn tables_bytes(table_bytes: u64) -> u64 {
    table_bytes * 5 / 2
}

/// What a hook may add to a transaction beyond that, before it is written into pages instead.
pub(crate) const fn hook_bytes(table_bytes: u64) -> u64 {
    table_bytes / 8
}

/// Of each part of `Memory`: no machine has so much, and sums of it have room in 64 bits.
pub(crate) const MEMORY_BYTES_MAX: u64 = 1 << 44;
/// Of a table, which begins with a filter of a sixty-fourth of it.
pub(crate) const TABLE_BYTES_MAX: u64 = 1 << 36;
/// A table or a log of fewer bytes is full before anything is in it.
pub(crate) const MEMORY_BYTES_MIN: u64 = 1 << 10;

impl Memory {
    /// A small device: at most 4 MB.
    pub const TINY: Self = Self { cache_bytes: 3 << 18, table_bytes: 3 << 17, log_bytes: 4 << 20 };
    /// An app on a phone or a desktop: at most 10 MB.
    pub const CLIENT: Self = Self { cache_bytes: 2 << 20, table_bytes: 3 << 19, log_bytes: 16 << 20 };
    /// The relay on a Raspberry Pi: at most 72 MiB.
    pub const RELAY: Self = Self { cache_bytes: 24 << 20, table_bytes: 14 << 20, log_bytes: 64 << 20 };
    /// A server: at most 400 MiB.
    pub const SERVER: Self = Self { cache_bytes: 192 << 20, table_bytes: 64 << 20, log_bytes: 256 << 20 };

    /// Returns the sum: cache, tables where writers stop, their filters, the open group and the one on its way, buffers.
    pub const fn total_bytes(&self) -> usize {
        let tables = tables_bytes(self.table_bytes as u64) as usize;
        self.cache_bytes + tables + 2 * (self.table_bytes / 64) + 2 * self.group_bytes() + BUFFER_BYTES
    }

    /// Returns the payload bytes after which an open group takes no further commit.
    pub(crate) const fn group_bytes(&self) -> usize {
        let bytes = self.table_bytes / 8;
        if bytes < GROUP_BYTES_SOFT_MAX { bytes } else { GROUP_BYTES_SOFT_MAX }
    }
}

const _: () = assert!(Memory::TINY.total_bytes() <= 4_000_000);
const _: () = assert!(Memory::CLIENT.total_bytes() <= 10_000_000);
const _: () = assert!(Memory::RELAY.total_bytes() <= 72 << 20);
const _: () = assert!(Memory::SERVER.total_bytes() <= 400 << 20);
const _: () = assert!(GROUP_BYTES_SOFT_MAX >= 256 << 10);

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The key. There is no default: a file is unencrypted only where somebody wrote `KeySource::None`.
    pub key: KeySource,
    /// Create the file when it does not exist. Default true.
    pub create: bool,
    /// Read only: takes no lock, never writes, works beside a writer; sees the commits that were in the file when
    /// it was opened, until the writer uses pages again that those need: then reads fail with `ReadError::Overtaken`, and
    /// opening again shows the newest state. Does not use the mapping. Default false.
    pub read_only: bool,
    /// How much memory the store may take. Default `Memory::CLIENT`.
    pub memory: Memory,
    /// Bytes of the file that views may keep from being used again, and that old ones are given as pages of their own, all
    /// together. Where it is more, the views of the oldest checkpoint end with `ReadError::SnapshotTooOld`, all of them, as
    /// one alone would free nothing; then those of the next one; and of views that were to be given pages those for which
    /// there is no room, the newer ones of them. Looked at whenever a checkpoint is written. Default 256 MiB.
    pub snapshot_bytes_max: u64,
    /// When the store gives space back to the file system by itself, in steps between checkpoints and when it is closed;
    /// `None`: only when it is asked to (`Store::vacuum`), and what is free at the very end of the file. A store without a
    /// thread of its own (`Env::threads`) does it when it is closed. Default: 20 % and 256 KiB.
    pub auto_vacuum: Option<AutoVacuum>,
    /// How pages are read. Default `PageAccess::Auto`.
    pub access: PageAccess,
    /// Bytes of a page in a file that this open creates: 4096, 8192 or 16384. Default 4096.
    pub page_bytes: usize,
    /// Bytes of a block of the log in a file that this open creates: 4096, or 16384 for cards whose flash pages are
    /// that large. Default 4096.
    pub log_block_bytes: usize,
    /// Cost of the passphrase for a file that this open creates. Default `KdfCost::Standard`.
    pub kdf: KdfCost,
    /// Cipher of a file that this open creates. Default `CipherChoice::Auto`.
    pub cipher: CipherChoice,
}

impl Options {
    /// Defaults with the given key.
    pub fn with_key(key: KeySource) -> Self {
        Self {
            key,
            create: true,
            read_only: false,
            memory: Memory::CLIENT,
            snapshot_bytes_max: 256 << 20,
            auto_vacuum: Some(AutoVacuum::default()),
            access: PageAccess::Auto,
            page_bytes: PAGE_BYTES[0],
            log_block_bytes: 4096,
            kdf: KdfCost::Standard,
            cipher: CipherChoice::Auto,
        }
    }

    /// Encrypted under a passphrase.
    pub fn passphrase(secret: impl Into<Secret>) -> Self {
        Self::with_key(KeySource::Passphrase(secret.into()))
    }

    /// Encrypted under 32 bytes of full entropy.
    pub fn raw_key(key: [u8; 32]) -> Self {
        Self::with_key(KeySource::Raw(Zeroizing::new(key)))
    }

    /// Not encrypted.
    pub fn unencrypted() -> Self {
        Self::with_key(KeySource::None)
    }

    /// Sets `create`.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets `read_only`.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets `memory`.
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Sets `snapshot_bytes_max`.
    pub fn snapshot_bytes_max(mut self, bytes: u64) -> Self {
        self.snapshot_bytes_max = bytes;
        self
    }

    /// Sets `auto_vacuum`.
    pub fn auto_vacuum(mut self, when: Option<AutoVacuum>) -> Self {
        self.auto_vacuum = when;
        self
    }

    /// Sets `access`.
    pub fn access(mut self, access: PageAccess) -> Self {
        self.access = access;
        self
    }

    /// Sets `page_bytes`.
    pub fn page_bytes(mut self, bytes: usize) -> Self {
        self.page_bytes = bytes;
        self
    }

    /// Sets `log_block_bytes`.
    pub fn log_block_bytes(mut self, bytes: usize) -> Self {
        self.log_block_bytes = bytes;
        self
    }

    /// Sets `kdf`.
    pub fn kdf(mut self, cost: KdfCost) -> Self {
        self.kdf = cost;
        self
    }

    /// Sets `cipher`.
    pub fn cipher(mut self, cipher: CipherChoice) -> Self {
        self.cipher = cipher;
        self
    }
}
