//! The header: two slots of 4 KiB, 64 KiB apart, the newest valid one wins. spec: E-2 to E-5
//!
//! `Unchecked` has passed magic, checksum and ranges; `Superblock` has passed authentication as well. Holding a
//! `Superblock` is the proof that the key is right and that nobody changed the header without it.

use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::keys::{FileKeys, KeySlot, SlotKind};
use crate::seal::{Cipher, Tag};

pub(crate) const SLOT_BYTES: usize = 4096;
pub(crate) const SLOT_OFFSETS: [u64; 2] = [0, 64 << 10];
/// Where the holder of the lock leaves its process number; read by nobody else. spec: E-6
pub(crate) const NOTE_OFFSET: u64 = 32 << 10;
pub(crate) const NOTE_MAGIC: [u8; 4] = *b"PID\0";
pub(crate) const LOG_START: u64 = 128 << 10;
pub(crate) const BLOCK_BYTES: u64 = 4096;
pub(crate) const FORMAT_VERSION: u16 = 0;

const MAGIC: [u8; 8] = *b"BLAZEDB\0";
const KEY_SLOTS: usize = 4;
const KEY_SLOT_BYTES: usize = 96;
const AT_VERSION: usize = 8;
const AT_FEATURES: usize = 10;
const AT_CIPHER: usize = 12;
const AT_SEQUENCE: usize = 16;
const AT_UUID: usize = 24;
const AT_BLOCK: usize = 40;
const AT_RESERVED: usize = 44;
const AT_LOG_START: usize = 48;
const AT_BASE_COMMIT: usize = 56;
const AT_BASE_END: usize = 64;
const AT_FLOOR: usize = 72;
const AT_SEED: usize = 80;
const AT_KEYS: usize = 128;
const AT_MAC: usize = 4060;
const AT_CRC: usize = 4092;
const _: () = assert!(AT_KEYS + KEY_SLOTS * KEY_SLOT_BYTES <= AT_MAC);
const _: () = assert!(AT_MAC + 32 == AT_CRC && AT_CRC + 4 == SLOT_BYTES);
const _: () = assert!(NOTE_OFFSET >= SLOT_BYTES as u64 && NOTE_OFFSET + BLOCK_BYTES <= SLOT_OFFSETS[1]);
const _: () = assert!(SLOT_OFFSETS[1] + SLOT_BYTES as u64 <= LOG_START && LOG_START.is_multiple_of(BLOCK_BYTES));

/// The header's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Superblock {
    pub(crate) sequence: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) cipher: Cipher,
    /// The commit that the base stands for; the first group of commits begins with the next one.
    pub(crate) base_commit: u64,
    /// Where the base ends: groups from the log's start to here are the base.
    pub(crate) base_end: u64,
    /// Commits up to this one were durable when the header was written: a log that ends before it is damaged.
    pub(crate) durable_floor: u64,
    /// What the first group of the log has for its predecessor's tag.
    pub(crate) seed: Tag,
    pub(crate) slots: [KeySlot; KEY_SLOTS],
}

/// A header whose checksum and ranges hold, not yet authenticated.
pub(crate) struct Unchecked {
    block: Box<[u8; SLOT_BYTES]>,
    offset: u64,
    pub(crate) superblock: Superblock,
}

impl Superblock {
    pub(crate) fn encode(&self, keys: &FileKeys) -> Box<[u8; SLOT_BYTES]> {
        let mut b = Box::new([0; SLOT_BYTES]);
        b[..8].copy_from_slice(&MAGIC);
        b[AT_VERSION..][..2].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        b[AT_CIPHER] = self.cipher.code();
        b[AT_UUID..][..16].copy_from_slice(&self.uuid);
        b[AT_BLOCK..][..4].copy_from_slice(&(BLOCK_BYTES as u32).to_le_bytes());
        for (at, n) in [
            (AT_SEQUENCE, self.sequence),
            (AT_LOG_START, LOG_START),
            (AT_BASE_COMMIT, self.base_commit),
            (AT_BASE_END, self.base_end),
            (AT_FLOOR, self.durable_floor),
        ] {
            b[at..][..8].copy_from_slice(&n.to_le_bytes());
        }
        b[AT_SEED..][..16].copy_from_slice(&self.seed);
        for (i, slot) in self.slots.iter().enumerate() {
            encode_slot(slot, &mut b[AT_KEYS + i * KEY_SLOT_BYTES..][..KEY_SLOT_BYTES]);
        }
        let mac = keys.header_mac(&b[..AT_MAC]);
        b[AT_MAC..AT_CRC].copy_from_slice(&mac);
        let crc = crc32fast::hash(&b[..AT_CRC]);
        b[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
        b
    }
}

impl Unchecked {
    /// Reads one slot; `None` where magic or checksum fail, so that the other slot is asked. spec: E-4
    pub(crate) fn decode(block: Box<[u8; SLOT_BYTES]>, offset: u64) -> Result<Option<Self>, OpenError> {
        if block[..8] != MAGIC || crc32fast::hash(&block[..AT_CRC]) != u32_at(&block[..], AT_CRC) {
            return Ok(None);
        }
        let version = u16::from_le_bytes([block[AT_VERSION], block[AT_VERSION + 1]]);
        if version != FORMAT_VERSION {
            return Err(OpenError::UnsupportedVersion(version));
        }
        let b = &block[..];
        let features = u16::from_le_bytes([b[AT_FEATURES], b[AT_FEATURES + 1]]);
        if features != 0 {
            return Err(OpenError::Unsupported { what: "feature bits", given: u64::from(features) });
        }
        let cipher = Cipher::from_code(b[AT_CIPHER])
            .ok_or(OpenError::Unsupported { what: "cipher", given: u64::from(b[AT_CIPHER]) })?;
        if u64::from(u32_at(b, AT_BLOCK)) != BLOCK_BYTES {
            return Err(OpenError::Unsupported { what: "log block size", given: u64::from(u32_at(b, AT_BLOCK)) });
        }
        let field = |name| OpenError::Corruption(Corruption { offset, what: CorruptionKind::HeaderField(name) });
        if u64_at(b, AT_LOG_START) != LOG_START {
            return Err(field("log start"));
        }
        let base_end = u64_at(b, AT_BASE_END);
        if base_end < LOG_START || !base_end.is_multiple_of(BLOCK_BYTES) {
            return Err(field("base end"));
        }
        let slots_end = AT_KEYS + KEY_SLOTS * KEY_SLOT_BYTES;
        let reserved =
            [AT_CIPHER + 1..AT_SEQUENCE, AT_RESERVED..AT_LOG_START, AT_SEED + 16..AT_KEYS, slots_end..AT_MAC];
        if reserved.into_iter().any(|range| b[range].iter().any(|&x| x != 0)) {
            return Err(field("reserved"));
        }
        let mut slots: [KeySlot; KEY_SLOTS] = Default::default();
        for (i, slot) in slots.iter_mut().enumerate() {
            *slot =
                decode_slot(&b[AT_KEYS + i * KEY_SLOT_BYTES..][..KEY_SLOT_BYTES]).ok_or_else(|| field("key slot"))?;
        }
        let superblock = Superblock {
            sequence: u64_at(b, AT_SEQUENCE),
            uuid: array_at(b, AT_UUID),
            cipher,
            base_commit: u64_at(b, AT_BASE_COMMIT),
            base_end,
            durable_floor: u64_at(b, AT_FLOOR),
            seed: array_at(b, AT_SEED),
            slots,
        };
        Ok(Some(Self { block, offset, superblock }))
    }

    /// Authenticates; what comes out may be trusted as far as the key may. spec: C-6
    pub(crate) fn verify(self, keys: &FileKeys) -> Result<Superblock, Corruption> {
        if keys.header_mac_fits(&self.block[..AT_MAC], &self.block[AT_MAC..AT_CRC]) {
            Ok(self.superblock)
        } else {
            Err(Corruption { offset: self.offset, what: CorruptionKind::HeaderAuthentication })
        }
    }
}

fn encode_slot(slot: &KeySlot, out: &mut [u8]) {
    out[0] = slot.kind.code();
    for (at, n) in [(4, slot.memory_kib), (8, slot.passes), (12, slot.lanes)] {
        out[at..at + 4].copy_from_slice(&n.to_le_bytes());
    }
    out[16..32].copy_from_slice(&slot.salt);
    out[32..64].copy_from_slice(&slot.wrapped);
    out[64..80].copy_from_slice(&slot.tag);
}

fn decode_slot(b: &[u8]) -> Option<KeySlot> {
    if b[1..4].iter().chain(&b[80..]).any(|&x| x != 0) {
        return None;
    }
    Some(KeySlot {
        kind: SlotKind::from_code(b[0])?,
        memory_kib: u32_at(b, 4),
        passes: u32_at(b, 8),
        lanes: u32_at(b, 12),
        salt: array_at(b, 16),
        wrapped: array_at(b, 32),
        tag: array_at(b, 64),
    })
}

pub(crate) fn array_at<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    b[at..at + N].try_into().expect("a slice of N bytes")
}

pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(b, at))
}

pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(b, at))
}
