//! A backup's bytes: the header and sealed blocks. spec: BK-1 to BK-6

use std::io::{self, Read, Write};

use super::BackupId;
use super::error::{Damage, RestoreError};
use crate::error::OpenError;
use crate::keys::{EpochKey, KeySlot};
use crate::open::unlock_slots;
use crate::options::KeySource;
use crate::seal::{Cipher, Seal, Tag};
use crate::superblock::{KEY_SLOT_BYTES, KEY_SLOTS, decode_slot, encode_slot};

pub(crate) const MAGIC: [u8; 8] = *b"BLAZEBAK";
pub(crate) const VERSION: u16 = 0;
pub(crate) const HEADER_BYTES: usize = 512;
const AT_CIPHER: usize = 10;
const AT_KIND: usize = 11;
const AT_EPOCH: usize = 12;
const AT_ZEROS: usize = 14;
const AT_FILE: usize = 16;
const AT_ID: usize = 32;
const AT_BASE: usize = 48;
const AT_COMMIT: usize = 64;
const AT_BASE_COMMIT: usize = 72;
const AT_WALL: usize = 80;
const AT_SLOTS: usize = 88;
const AT_MAC: usize = 476;
const AT_CRC: usize = 508;
/// Where the parts of a header begin, in the order of the specification's table.
#[cfg(test)]
pub(crate) const PARTS: [usize; 16] = [
    0,
    8,
    AT_CIPHER,
    AT_KIND,
    AT_EPOCH,
    AT_ZEROS,
    AT_FILE,
    AT_ID,
    AT_BASE,
    AT_COMMIT,
    AT_BASE_COMMIT,
    AT_WALL,
    AT_SLOTS,
    AT_MAC - 4,
    AT_MAC,
    AT_CRC,
];
const _: () = assert!(AT_SLOTS + KEY_SLOTS * KEY_SLOT_BYTES + 4 == AT_MAC && AT_CRC + 4 == HEADER_BYTES);

pub(super) const BLOCK_HEADER_BYTES: usize = 32;
/// Longest payload of a block: what a reader takes into memory at once.
pub(super) const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Blocks that share a key, so 256 GiB.
const BLOCKS_PER_KEY: u64 = 1 << 22;

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BlockKind {
    Rows = 1,
    Index = 2,
    End = 3,
}

/// What the last block says of all before it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Totals {
    pub(super) trees: u64,
    /// Rows that the backup gives itself.
    pub(super) rows: u64,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
    /// Ranges and values that it keeps of the backup before.
    pub(super) kept: u64,
}

pub(super) const END_BYTES: usize = 32;

impl Totals {
    fn encode(&self) -> [u8; END_BYTES] {
        let mut out = [0; END_BYTES];
        for (at, n) in [self.trees, self.rows, self.bytes, self.kept].into_iter().enumerate() {
            out[at * 8..][..8].copy_from_slice(&n.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let b: &[u8; END_BYTES] = bytes.try_into().ok()?;
        Some(Self { trees: u64_at(b, 0), rows: u64_at(b, 8), bytes: u64_at(b, 16), kept: u64_at(b, 24) })
    }
}

/// A header's content.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) cipher: Cipher,
    pub(super) epoch: u16,
    pub(super) file: [u8; 16],
    pub(super) id: BackupId,
    /// The backup that this is an increment to, and its commit.
    pub(super) base: Option<(BackupId, u64)>,
    pub(super) commit_no: u64,
    pub(super) wall_ms: u64,
    pub(super) slots: [KeySlot; KEY_SLOTS],
}

impl Header {
    pub(super) fn encode(&self, key: &EpochKey) -> [u8; HEADER_BYTES] {
        let mut b = [0; HEADER_BYTES];
        b[..8].copy_from_slice(&MAGIC);
        b[8..10].copy_from_slice(&VERSION.to_le_bytes());
        b[AT_CIPHER] = self.cipher.code();
        b[AT_KIND] = u8::from(self.base.is_some());
        b[AT_EPOCH..AT_ZEROS].copy_from_slice(&self.epoch.to_le_bytes());
        b[AT_FILE..AT_ID].copy_from_slice(&self.file);
        b[AT_ID..AT_BASE].copy_from_slice(&self.id.0);
        let (base, base_commit) = self.base.unwrap_or((BackupId([0; 16]), 0));
        b[AT_BASE..AT_COMMIT].copy_from_slice(&base.0);
        for (at, n) in [(AT_COMMIT, self.commit_no), (AT_BASE_COMMIT, base_commit), (AT_WALL, self.wall_ms)] {
            b[at..at + 8].copy_from_slice(&n.to_le_bytes());
        }
        for (i, slot) in self.slots.iter().enumerate() {
            encode_slot(slot, &mut b[AT_SLOTS + i * KEY_SLOT_BYTES..][..KEY_SLOT_BYTES]);
        }
        let mac = key.backup_mac(&self.file, &b[..AT_MAC]);
        b[AT_MAC..AT_CRC].copy_from_slice(&mac);
        let crc = crc32fast::hash(&b[..AT_CRC]);
        b[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads a header as far as that goes without its key. spec: BK-2
    pub(super) fn decode(b: &[u8; HEADER_BYTES], part: usize) -> Result<Self, RestoreError> {
        if b[..8] != MAGIC {
            return Err(RestoreError::NotABackup { part });
        }
        let damaged = |rule| RestoreError::Damaged { part, damage: Damage { offset: 0, rule } };
        if crc32fast::hash(&b[..AT_CRC]).to_le_bytes() != b[AT_CRC..] {
            return Err(damaged("the header's checksum is right"));
        }
        let version = u16::from_le_bytes([b[8], b[9]]);
        if version != VERSION {
            return Err(RestoreError::UnsupportedVersion { part, version });
        }
        let cipher = Cipher::from_code(b[AT_CIPHER]).ok_or(damaged("the cipher is a known one"))?;
        let epoch = u16::from_le_bytes([b[AT_EPOCH], b[AT_EPOCH + 1]]);
        let mut slots: [KeySlot; KEY_SLOTS] = Default::default();
        for (i, slot) in slots.iter_mut().enumerate() {
            let bytes = &b[AT_SLOTS + i * KEY_SLOT_BYTES..][..KEY_SLOT_BYTES];
            *slot = decode_slot(bytes).ok_or(damaged("key slots are in range"))?;
        }
        let id = |at: usize| BackupId(std::array::from_fn(|i| b[at + i]));
        let (base, base_commit) = (id(AT_BASE), u64_at(b, AT_BASE_COMMIT));
        let base = match b[AT_KIND] {
            0 if base.0 == [0; 16] && base_commit == 0 => None,
            1 => Some((base, base_commit)),
            _ => return Err(damaged("a backup is full or an increment")),
        };
        if b[AT_ZEROS..AT_FILE] != [0; 2] || b[AT_MAC - 4..AT_MAC] != [0; 4] || (cipher == Cipher::None && epoch != 0) {
            return Err(damaged("unused fields are zero"));
        }
        let file = std::array::from_fn(|i| b[AT_FILE + i]);
        Ok(Self {
            cipher,
            epoch,
            file,
            id: id(AT_ID),
            base,
            commit_no: u64_at(b, AT_COMMIT),
            wall_ms: u64_at(b, AT_WALL),
            slots,
        })
    }
}

pub(super) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| b[at + i]))
}

/// Seals and opens the blocks of one backup, in order.
pub(super) struct BlockSeal {
    key: EpochKey,
    file: [u8; 16],
    id: BackupId,
    mac: [u8; 32],
    sealer: Box<dyn Seal>,
    part: u64,
}

impl BlockSeal {
    pub(super) fn new(key: EpochKey, header: &Header, bytes: &[u8; HEADER_BYTES]) -> Self {
        let sealer = key.backup_sealer(&header.file, &header.id.0, 0);
        let mac = std::array::from_fn(|i| bytes[AT_MAC + i]);
        Self { key, file: header.file, id: header.id, mac, sealer, part: 0 }
    }

    /// Nonce and associated data of a block: its header, and the backup's.
    fn prepare(&mut self, head: &[u8; 16], number: u64) -> ([u8; 12], [u8; 48]) {
        let part = number / BLOCKS_PER_KEY;
        if part != self.part {
            (self.sealer, self.part) = (self.key.backup_sealer(&self.file, &self.id.0, part), part);
        }
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        let mut data = [0; 48];
        data[..32].copy_from_slice(&self.mac);
        data[32..].copy_from_slice(head);
        (nonce, data)
    }
}

fn block_head(kind: u8, len: usize, number: u64) -> [u8; 16] {
    let mut head = [0; 16];
    head[0] = kind;
    head[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    head[8..].copy_from_slice(&number.to_le_bytes());
    head
}

/// Writes a backup: header first, then blocks.
pub(super) struct BlockWriter<'w> {
    out: &'w mut dyn Write,
    seal: BlockSeal,
    number: u64,
    pub(super) written: u64,
    rows: Vec<u8>,
    index: Vec<u8>,
    /// Called with how much was written, after each block.
    pace: &'w mut dyn FnMut(u64),
}

impl<'w> BlockWriter<'w> {
    pub(super) fn begin(
        out: &'w mut dyn Write,
        header: &Header,
        key: EpochKey,
        pace: &'w mut dyn FnMut(u64),
    ) -> io::Result<Self> {
        let bytes = header.encode(&key);
        out.write_all(&bytes)?;
        let seal = BlockSeal::new(key, header, &bytes);
        let (rows, index) = (Vec::with_capacity(BLOCK_BYTES_MAX), Vec::new());
        Ok(Self { out, seal, number: 0, written: HEADER_BYTES as u64, rows, index, pace })
    }

    /// Takes bytes of the stream of rows.
    pub(super) fn rows(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES_MAX - self.rows.len()));
            self.rows.extend_from_slice(now);
            bytes = later;
            if self.rows.len() == BLOCK_BYTES_MAX {
                self.block(BlockKind::Rows)?;
            }
        }
        Ok(())
    }

    /// Takes bytes of the stream of the index.
    pub(super) fn index(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES_MAX - self.index.len()));
            self.index.extend_from_slice(now);
            bytes = later;
            if self.index.len() == BLOCK_BYTES_MAX {
                self.block(BlockKind::Index)?;
            }
        }
        Ok(())
    }

    /// Writes what waits, and the end. Returns the length of all.
    pub(super) fn finish(mut self, totals: &Totals) -> io::Result<u64> {
        if !self.rows.is_empty() {
            self.block(BlockKind::Rows)?;
        }
        if !self.index.is_empty() {
            self.block(BlockKind::Index)?;
        }
        self.write(BlockKind::End, &mut totals.encode())?;
        self.out.flush()?;
        Ok(self.written)
    }

    fn block(&mut self, kind: BlockKind) -> io::Result<()> {
        let waiting = if kind == BlockKind::Rows { &mut self.rows } else { &mut self.index };
        let mut bytes = std::mem::take(waiting);
        let result = self.write(kind, &mut bytes);
        bytes.clear();
        *if kind == BlockKind::Rows { &mut self.rows } else { &mut self.index } = bytes;
        result
    }

    fn write(&mut self, kind: BlockKind, bytes: &mut [u8]) -> io::Result<()> {
        // Goes up whatever becomes of the bytes.
        self.number += 1;
        let head = block_head(kind as u8, bytes.len(), self.number);
        let (nonce, data) = self.seal.prepare(&head, self.number);
        let tag = self.seal.sealer.seal(&nonce, &data, bytes);
        self.out.write_all(&head)?;
        self.out.write_all(&tag)?;
        self.out.write_all(bytes)?;
        self.written += (BLOCK_HEADER_BYTES + bytes.len()) as u64;
        (self.pace)(self.written);
        Ok(())
    }
}

/// Reads a backup block by block. Nothing that it hands out is unsealed, and it takes no more memory than a block.
pub(super) struct BlockReader<'r> {
    input: &'r mut dyn Read,
    pub(super) header: Header,
    seal: BlockSeal,
    /// Which of several backups it is, from 0; for errors.
    part: usize,
    number: u64,
    /// Bytes read so far.
    pub(super) offset: u64,
    pub(super) payload: Vec<u8>,
}

impl<'r> BlockReader<'r> {
    /// Reads the header, finds its key, and authenticates it. spec: BK-2, BK-3
    pub(super) fn open(input: &'r mut dyn Read, key: &KeySource, part: usize) -> Result<Self, RestoreError> {
        let (bytes, header) = read_header(input, part)?;
        let found = unlock_slots(&header.slots, header.epoch, header.cipher, &header.file, key);
        let (key, _) = found.map_err(|error| RestoreError::locked(error, part))?;
        Self::with_key(input, bytes, header, key, part)
    }

    pub(super) fn with_key(
        input: &'r mut dyn Read,
        bytes: [u8; HEADER_BYTES],
        header: Header,
        key: EpochKey,
        part: usize,
    ) -> Result<Self, RestoreError> {
        if !key.backup_mac_fits(&header.file, &bytes[..AT_MAC], &bytes[AT_MAC..AT_CRC]) {
            let damage = Damage { offset: 0, rule: "the header was not changed without the key" };
            return Err(RestoreError::Damaged { part, damage });
        }
        let seal = BlockSeal::new(key, &header, &bytes);
        Ok(Self { input, header, seal, part, number: 0, offset: HEADER_BYTES as u64, payload: Vec::new() })
    }

    pub(super) fn damaged(&self, rule: &'static str) -> RestoreError {
        RestoreError::Damaged { part: self.part, damage: Damage { offset: self.offset, rule } }
    }

    /// Reads the next block into `payload`. Behind the end block there must be nothing. spec: BK-5, BK-6
    pub(super) fn next(&mut self) -> Result<BlockKind, RestoreError> {
        let mut head = [0; BLOCK_HEADER_BYTES];
        self.fill(&mut head)?;
        let kind = match head[0] {
            1 => BlockKind::Rows,
            2 => BlockKind::Index,
            3 => BlockKind::End,
            _ => return Err(self.damaged("a block is of a known kind")),
        };
        let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if len == 0 || len > BLOCK_BYTES_MAX {
            return Err(self.damaged("a block has 1 to 65536 bytes"));
        }
        let number = self.number + 1;
        if head[..16] != block_head(kind as u8, len, number) {
            return Err(self.damaged("blocks follow one another by number"));
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(len, 0);
        self.fill(&mut payload)?;
        let head16 = std::array::from_fn(|i| head[i]);
        let tag: Tag = std::array::from_fn(|i| head[16 + i]);
        let (nonce, data) = self.seal.prepare(&head16, number);
        if self.seal.sealer.open(&nonce, &data, &mut payload, &tag).is_err() {
            return Err(self.damaged("a block's seal holds"));
        }
        self.number = number;
        self.offset += (BLOCK_HEADER_BYTES + len) as u64;
        self.payload = payload;
        if kind == BlockKind::End {
            let mut one = [0];
            match read_some(&mut *self.input, &mut one) {
                Ok(0) => {}
                Ok(_) => return Err(self.damaged("nothing follows the last block")),
                Err(source) => return Err(RestoreError::Input { part: self.part, source }),
            }
        }
        Ok(kind)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), RestoreError> {
        match read_some(&mut *self.input, out) {
            Ok(n) if n == out.len() => Ok(()),
            Ok(n) => Err(RestoreError::CutShort { part: self.part, offset: self.offset + n as u64 }),
            Err(source) => Err(RestoreError::Input { part: self.part, source }),
        }
    }
}

pub(super) fn read_header(input: &mut dyn Read, part: usize) -> Result<([u8; HEADER_BYTES], Header), RestoreError> {
    let mut bytes = [0; HEADER_BYTES];
    let got = read_some(input, &mut bytes).map_err(|source| RestoreError::Input { part, source })?;
    if got < HEADER_BYTES {
        let is_ours = got >= MAGIC.len() && bytes[..8] == MAGIC;
        return Err(match is_ours {
            true => RestoreError::CutShort { part, offset: got as u64 },
            false => RestoreError::NotABackup { part },
        });
    }
    Header::decode(&bytes, part).map(|header| (bytes, header))
}

/// Reads as many bytes as there are, up to `out`'s length.
fn read_some(input: &mut dyn Read, out: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < out.len() {
        match input.read(&mut out[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

impl RestoreError {
    fn locked(error: OpenError, part: usize) -> Self {
        match error {
            OpenError::WrongKey => Self::WrongKey { part },
            OpenError::KeyMissing => Self::KeyMissing { part },
            OpenError::NotEncrypted => Self::NotEncrypted { part },
            error => Self::Key { part, source: error },
        }
    }
}
