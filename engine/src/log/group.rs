//! The frame of a group: header, sealed payload, zeros up to the block boundary. spec: E-7, E-8

use crate::limits::GROUP_BYTES_MAX;
use crate::seal::{Seal, Tag};
use crate::superblock::{BLOCK_BYTES, array_at, u32_at, u64_at};

pub(crate) const HEADER_BYTES: usize = 96;

const MAGIC: [u8; 4] = *b"BLZG";
const AT_LEN: usize = 4;
const AT_CRC: usize = 8;
const AT_KIND: usize = 12;
const AT_FIRST: usize = 16;
const AT_DURABLE: usize = 24;
const AT_COUNT: usize = 32;
const AT_NONCE: usize = 40;
const AT_PREVIOUS: usize = 64;
const AT_TAG: usize = 80;
const _: () = assert!(AT_TAG + 16 == HEADER_BYTES);

/// What a group holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GroupKind {
    /// `count` commits, numbered from `first_commit`.
    Commits,
    /// A part of the table that a compaction wrote; `count` is zero, `first_commit` the commit it stands for.
    Base,
}

/// The header of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GroupHeader {
    pub(crate) len: u32,
    pub(crate) kind: GroupKind,
    pub(crate) first_commit: u64,
    /// Commits up to this one were durable when the group was written.
    pub(crate) durable_commit: u64,
    pub(crate) count: u32,
    pub(crate) generation: [u8; 12],
    pub(crate) counter: [u8; 12],
    pub(crate) previous: Tag,
    pub(crate) tag: Tag,
}

impl GroupHeader {
    /// Parses the first bytes of a block; `None` where they are not a group's header.
    pub(crate) fn parse(b: &[u8]) -> Option<Self> {
        if b.len() < HEADER_BYTES
            || b[..4] != MAGIC
            || b[AT_KIND + 1..AT_FIRST] != [0; 3]
            || u32_at(b, AT_COUNT + 4) != 0
        {
            return None;
        }
        let kind = match b[AT_KIND] {
            0 => GroupKind::Commits,
            1 => GroupKind::Base,
            _ => return None,
        };
        let header = Self {
            len: u32_at(b, AT_LEN),
            kind,
            first_commit: u64_at(b, AT_FIRST),
            durable_commit: u64_at(b, AT_DURABLE),
            count: u32_at(b, AT_COUNT),
            generation: array_at(b, AT_NONCE),
            counter: array_at(b, AT_NONCE + 12),
            previous: array_at(b, AT_PREVIOUS),
            tag: array_at(b, AT_TAG),
        };
        let plausible = header.len as usize <= GROUP_BYTES_MAX
            && (header.kind == GroupKind::Base) == (header.count == 0)
            && header.first_commit.checked_add(u64::from(header.count)).is_some();
        plausible.then_some(header)
    }

    /// Returns the bytes on disk, padding included.
    pub(crate) fn total_bytes(&self) -> u64 {
        padded(HEADER_BYTES + self.len as usize) as u64
    }

    /// Returns the last commit of the group.
    pub(crate) fn last_commit(&self) -> u64 {
        match self.kind {
            GroupKind::Commits => self.first_commit + u64::from(self.count) - 1,
            GroupKind::Base => self.first_commit,
        }
    }
}

/// Seals a group in place: `group` begins with `HEADER_BYTES` of room, then the payload. Pads it, fills in the
/// header, returns the tag.
pub(crate) fn seal(group: &mut Vec<u8>, header: &GroupHeader, uuid: &[u8; 16], sealer: &dyn Seal) -> Tag {
    let payload_end = group.len();
    group.resize(padded(payload_end), 0);
    group[..4].copy_from_slice(&MAGIC);
    group[AT_LEN..][..4].copy_from_slice(&((payload_end - HEADER_BYTES) as u32).to_le_bytes());
    group[AT_KIND..][..4].copy_from_slice(&[u8::from(header.kind == GroupKind::Base), 0, 0, 0]);
    group[AT_FIRST..][..8].copy_from_slice(&header.first_commit.to_le_bytes());
    group[AT_DURABLE..][..8].copy_from_slice(&header.durable_commit.to_le_bytes());
    group[AT_COUNT..][..4].copy_from_slice(&header.count.to_le_bytes());
    group[AT_COUNT + 4..][..4].fill(0);
    group[AT_NONCE..][..12].copy_from_slice(&header.generation);
    group[AT_NONCE + 12..][..12].copy_from_slice(&header.counter);
    group[AT_PREVIOUS..][..16].copy_from_slice(&header.previous);
    let ad = associated_data(group, uuid);
    let tag = sealer.seal(&header.counter, &ad, &mut group[HEADER_BYTES..payload_end]);
    group[AT_TAG..][..16].copy_from_slice(&tag);
    let crc = checksum(group);
    group[AT_CRC..][..4].copy_from_slice(&crc.to_le_bytes());
    tag
}

/// Opens a whole group in place; `None` where checksum, padding or seal fail.
pub(crate) fn open<'g>(
    group: &'g mut [u8],
    header: &GroupHeader,
    uuid: &[u8; 16],
    sealer: &dyn Seal,
) -> Option<&'g [u8]> {
    let payload_end = HEADER_BYTES + header.len as usize;
    if checksum(group) != u32_at(group, AT_CRC) || group[payload_end..].iter().any(|&b| b != 0) {
        return None;
    }
    let ad = associated_data(group, uuid);
    sealer.open(&header.counter, &ad, &mut group[HEADER_BYTES..payload_end], &header.tag).ok()?;
    Some(&group[HEADER_BYTES..payload_end])
}

/// Header fields before the tag, without the checksum, and the file's id.
fn associated_data(group: &[u8], uuid: &[u8; 16]) -> [u8; 92] {
    let mut ad = [0; 92];
    ad[..8].copy_from_slice(&group[..8]);
    ad[8..76].copy_from_slice(&group[AT_KIND..AT_TAG]);
    ad[76..].copy_from_slice(uuid);
    ad
}

/// Over the whole group, padding included, but for the checksum itself.
fn checksum(group: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&group[..AT_CRC]);
    hasher.update(&group[AT_KIND..]);
    hasher.finalize()
}

pub(crate) fn padded(len: usize) -> usize {
    len.next_multiple_of(BLOCK_BYTES as usize)
}
