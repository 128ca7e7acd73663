//! Appends groups. Holding the `LogWriter` is being the leader: there is one per open file and it is handed over.
//!
//! Invariants: a group is written once, where zeros (or a torn, unacknowledged tail) were; `tail` moves only after
//! the write returned; no (subkey, nonce) is used twice: the generation is drawn when the first group of an open is
//! sealed, the counter goes up before each seal.

use std::io;
use std::sync::Arc;

use crate::env::{Env, StorageFile};
use crate::keys::FileKeys;
use crate::limits::{RESERVE_BYTES_MAX, RESERVE_BYTES_MIN, SEALS_PER_GENERATION_MAX};
use crate::log::group::{self, GroupHeader, GroupKind, HEADER_BYTES};
use crate::log::replay::LogEnd;
use crate::seal::{Seal, Tag};
use crate::superblock::{BLOCK_BYTES, LOG_START, SLOT_OFFSETS, Superblock};

/// How an append failed.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// There was no room to lay out; the log is as it was and the store may go on.
    DiskFull { during: &'static str, source: io::Error },
    /// A write or sync failed; nobody knows what is on the disk, and nobody may write on.
    Broken { during: &'static str, source: io::Error },
}

pub(crate) struct LogWriter {
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) keys: FileKeys,
    pub(crate) header: Superblock,
    pub(crate) tail: u64,
    pub(crate) last_commit: u64,
    pub(crate) durable_commit: u64,
    last_tag: Tag,
    reserved_end: u64,
    generation: Option<Generation>,
    env: Env,
}

struct Generation {
    id: [u8; 12],
    counter: u64,
    sealer: Box<dyn Seal>,
}

impl LogWriter {
    pub(crate) fn new(
        env: Env,
        file: Arc<dyn StorageFile>,
        keys: FileKeys,
        header: Superblock,
        end: &LogEnd,
        file_len: u64,
    ) -> Self {
        Self {
            file,
            keys,
            header,
            tail: end.tail,
            last_commit: end.last_commit,
            durable_commit: end.durable,
            last_tag: end.last_tag,
            reserved_end: file_len / BLOCK_BYTES * BLOCK_BYTES,
            generation: None,
            env,
        }
    }

    /// Returns the bytes of the log, padding included.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.tail - LOG_START
    }

    /// Seals and writes one group. `group` begins with `HEADER_BYTES` of room and is spent by this.
    pub(crate) fn append(
        &mut self,
        group: &mut Vec<u8>,
        kind: GroupKind,
        first: u64,
        count: u32,
    ) -> Result<(), AppendError> {
        let total = group::padded(group.len()) as u64;
        self.reserve(total)?;
        let uuid = self.header.uuid;
        let (durable_commit, previous) = (self.durable_commit, self.last_tag);
        let generation =
            self.generation().map_err(|source| AppendError::Broken { during: "drawing a nonce", source })?;
        // Counted up before the seal: whatever happens to the bytes, this nonce is spent. spec: C-5
        generation.counter += 1;
        let mut counter = [0; 12];
        counter[..8].copy_from_slice(&generation.counter.to_le_bytes());
        let header = GroupHeader {
            len: (group.len() - HEADER_BYTES) as u32,
            kind,
            first_commit: first,
            durable_commit,
            count,
            generation: generation.id,
            counter,
            previous,
            tag: Tag::default(),
        };
        let tag = group::seal(group, &header, &uuid, &*generation.sealer);
        self.file
            .write_at(self.tail, group)
            .map_err(|source| AppendError::Broken { during: "writing the log", source })?;
        self.tail += total;
        self.last_tag = tag;
        self.last_commit = header.last_commit();
        Ok(())
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&mut self) -> Result<(), AppendError> {
        self.file.sync_data().map_err(|source| AppendError::Broken { during: "syncing the log", source })?;
        self.durable_commit = self.last_commit;
        Ok(())
    }

    /// Lays zeros ahead of the tail, so that commits overwrite and their sync writes no metadata. Not synced: the
    /// next group's own sync covers the new length.
    fn reserve(&mut self, bytes: u64) -> Result<(), AppendError> {
        let end = self.tail + bytes;
        if end <= self.reserved_end {
            return Ok(());
        }
        let chunk = (self.log_bytes() / 4).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX) / BLOCK_BYTES * BLOCK_BYTES;
        let new_end = end + chunk;
        let old_end = self.reserved_end;
        let zeros = vec![0; (new_end - old_end) as usize];
        match self.file.write_at(old_end, &zeros) {
            Ok(()) => {
                self.reserved_end = new_end;
                Ok(())
            }
            Err(source) if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                // Best effort: what is left beyond the old end is zeros and harms nobody.
                let _ = self.file.set_len(old_end);
                Err(AppendError::DiskFull { during: "making room in the log", source })
            }
            Err(source) => Err(AppendError::Broken { during: "making room in the log", source }),
        }
    }

    fn generation(&mut self) -> io::Result<&mut Generation> {
        if self.generation.as_ref().is_none_or(|g| g.counter >= SEALS_PER_GENERATION_MAX) {
            let mut id = [0; 12];
            self.env.entropy.public(&mut id)?;
            self.generation = Some(Generation { id, counter: 0, sealer: self.keys.log_sealer(&id) });
        }
        Ok(self.generation.as_mut().expect("set just now"))
    }

    /// Writes the header into the slot that does not hold the newest one, and syncs. On an error the older slot
    /// still stands.
    pub(crate) fn write_header(&mut self, change: impl FnOnce(&mut Superblock)) -> Result<(), AppendError> {
        let mut header = self.header.clone();
        change(&mut header);
        header.sequence += 1;
        let slot = SLOT_OFFSETS[(header.sequence % 2) as usize];
        let bytes = header.encode(&self.keys);
        self.file
            .write_at(slot, &bytes[..])
            .and_then(|()| self.file.sync_data())
            .map_err(|source| AppendError::Broken { during: "writing the header", source })?;
        self.header = header;
        Ok(())
    }

    /// Cuts off the zeros ahead of the tail.
    pub(crate) fn cut_reserve(&mut self) -> Result<(), AppendError> {
        if self.reserved_end > self.tail {
            self.file
                .set_len(self.tail)
                .map_err(|source| AppendError::Broken { during: "cutting the log's reserve", source })?;
            self.reserved_end = self.tail;
        }
        Ok(())
    }
}
