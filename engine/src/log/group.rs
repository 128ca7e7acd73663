//! The frame of a group: header, sealed payload, zeros up to a multiple of 64 bytes. spec: E-7, E-8

use crate::limits::GROUP_BYTES_MAX;
use crate::seal::{Seal, Tag};
use crate::superblock::{array_at, u16_at, u32_at, u64_at};

pub(crate) const HEADER_BYTES: usize = 96;
/// Groups begin and end at multiples of this: a cache line.
pub(crate) const ALIGN_BYTES: u64 = 64;

pub(crate) const MAGIC: [u8; 4] = *b"BLZG";
const AT_LEN: usize = 4;
const AT_CRC: usize = 8;
const AT_COUNT: usize = 12;
const AT_FIRST: usize = 16;
const AT_DURABLE: usize = 24;
const AT_GENERATION: usize = 32;
const AT_NONCE: usize = 40;
const AT_COUNTER: usize = 52;
const AT_EPOCH: usize = 60;
const AT_PREVIOUS: usize = 64;
const AT_TAG: usize = 80;
const _: () = assert!(AT_TAG + 16 == HEADER_BYTES);
/// Where the parts of a group begin, in the order of the specification's table.
#[cfg(test)]
pub(crate) const PARTS: [usize; 14] = [
    0,
    AT_LEN,
    AT_CRC,
    AT_COUNT,
    AT_FIRST,
    AT_DURABLE,
    AT_GENERATION,
    AT_NONCE,
    AT_COUNTER,
    AT_EPOCH,
    AT_EPOCH + 2,
    AT_PREVIOUS,
    AT_TAG,
    HEADER_BYTES,
];

/// Where the checksum ends.
pub(super) const SUM_END: usize = AT_COUNT;

/// What a group's payload is sealed with. spec: C-5
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Nonce {
    /// Names the subkey. Not the log's generation: one of these lasts as long as one opening of the store.
    pub(crate) subkey: [u8; 12],
    pub(crate) counter: u64,
    /// Names the master key that the subkey is derived from.
    pub(crate) epoch: u16,
}

impl Nonce {
    fn bytes(&self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.counter.to_le_bytes());
        nonce
    }
}

/// The header of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GroupHeader {
    /// Bytes of the payload.
    pub(crate) len: u32,
    /// How many commits; at least one.
    pub(crate) count: u32,
    pub(crate) first_commit: u64,
    /// Commits up to this one were durable when the group was written.
    pub(crate) durable_commit: u64,
    /// The log's generation.
    pub(crate) generation: u64,
    pub(crate) nonce: Nonce,
    pub(crate) previous: Tag,
    pub(crate) tag: Tag,
}

impl GroupHeader {
    /// Parses the first bytes of a group; `None` where they are not a group's header.
    pub(crate) fn parse(b: &[u8]) -> Option<Self> {
        if b.len() < HEADER_BYTES || b[..4] != MAGIC {
            return None;
        }
        let header = Self {
            len: u32_at(b, AT_LEN),
            count: u32_at(b, AT_COUNT),
            first_commit: u64_at(b, AT_FIRST),
            durable_commit: u64_at(b, AT_DURABLE),
            generation: u64_at(b, AT_GENERATION),
            nonce: Nonce { subkey: array_at(b, AT_NONCE), counter: u64_at(b, AT_COUNTER), epoch: u16_at(b, AT_EPOCH) },
            previous: array_at(b, AT_PREVIOUS),
            tag: array_at(b, AT_TAG),
        };
        let plausible = header.len as usize <= GROUP_BYTES_MAX
            && header.count > 0
            && b[AT_EPOCH + 2..AT_PREVIOUS] == [0; 2]
            && header.first_commit.checked_add(u64::from(header.count)).is_some()
            // Nothing in a group was durable before the group was written.
            && header.durable_commit < header.first_commit;
        plausible.then_some(header)
    }

    /// Returns the bytes on disk, padding included.
    pub(crate) fn total_bytes(&self) -> u64 {
        padded((HEADER_BYTES + self.len as usize) as u64, ALIGN_BYTES)
    }

    /// Returns the last commit of the group.
    pub(crate) fn last_commit(&self) -> u64 {
        self.first_commit + u64::from(self.count) - 1
    }
}

/// Seals a group in place: `group` begins with `HEADER_BYTES` of room, then the payload. Pads it, fills in the
/// header (`len` and `tag` are found here), returns the tag.
pub(crate) fn seal(group: &mut Vec<u8>, header: &GroupHeader, uuid: &[u8; 16], sealer: &dyn Seal) -> Tag {
    let payload_end = group.len();
    group.resize(padded(payload_end as u64, ALIGN_BYTES) as usize, 0);
    group[..4].copy_from_slice(&MAGIC);
    group[AT_LEN..][..4].copy_from_slice(&((payload_end - HEADER_BYTES) as u32).to_le_bytes());
    group[AT_COUNT..][..4].copy_from_slice(&header.count.to_le_bytes());
    group[AT_FIRST..][..8].copy_from_slice(&header.first_commit.to_le_bytes());
    group[AT_DURABLE..][..8].copy_from_slice(&header.durable_commit.to_le_bytes());
    group[AT_GENERATION..][..8].copy_from_slice(&header.generation.to_le_bytes());
    group[AT_NONCE..][..12].copy_from_slice(&header.nonce.subkey);
    group[AT_COUNTER..][..8].copy_from_slice(&header.nonce.counter.to_le_bytes());
    group[AT_EPOCH..][..2].copy_from_slice(&header.nonce.epoch.to_le_bytes());
    group[AT_EPOCH + 2..AT_PREVIOUS].fill(0);
    group[AT_PREVIOUS..][..16].copy_from_slice(&header.previous);
    let ad = associated_data(group, uuid);
    let tag = sealer.seal(&header.nonce.bytes(), &ad, &mut group[HEADER_BYTES..payload_end]);
    group[AT_TAG..][..16].copy_from_slice(&tag);
    let crc = checksum(group);
    group[AT_CRC..][..4].copy_from_slice(&crc.to_le_bytes());
    tag
}

/// Opens a whole group in place: its payload is then as it was before `seal`. False where checksum, padding or seal
/// fail.
pub(crate) fn open(group: &mut [u8], header: &GroupHeader, uuid: &[u8; 16], sealer: &dyn Seal) -> bool {
    let payload_end = HEADER_BYTES + header.len as usize;
    if checksum(group) != u32_at(group, AT_CRC) || group[payload_end..].iter().any(|&b| b != 0) {
        return false;
    }
    let ad = associated_data(group, uuid);
    sealer.open(&header.nonce.bytes(), &ad, &mut group[HEADER_BYTES..payload_end], &header.tag).is_ok()
}

/// Header fields before the tag, without the checksum, and the file's id.
fn associated_data(group: &[u8], uuid: &[u8; 16]) -> [u8; 92] {
    let mut ad = [0; 92];
    ad[..8].copy_from_slice(&group[..8]);
    ad[8..76].copy_from_slice(&group[AT_COUNT..AT_TAG]);
    ad[76..].copy_from_slice(uuid);
    ad
}

/// Splits a group's bytes up to `SUM_END` into those that its checksum is over, and the checksum.
pub(super) fn split_sum(first: &[u8]) -> (&[u8], u32) {
    (&first[..AT_CRC], u32_at(first, AT_CRC))
}

/// Over the whole group, padding included, but for the checksum itself.
fn checksum(group: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&group[..AT_CRC]);
    hasher.update(&group[AT_COUNT..]);
    hasher.finalize()
}

/// Bytes up to the next multiple.
pub(crate) fn padded(len: u64, multiple: u64) -> u64 {
    len.next_multiple_of(multiple)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{Cipher, sealer};

    /// A group opens as what it was sealed as, and as nothing else. spec: E-7, C-7
    #[test]
    fn a_group_opens_only_as_it_was_sealed() {
        for cipher in [Cipher::None, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let sealer = sealer(cipher, &[7; 32].into());
            let (uuid, payload) = ([3; 16], *b"payload");
            let header = GroupHeader {
                len: 7,
                count: 2,
                first_commit: 41,
                durable_commit: 30,
                generation: 9,
                nonce: Nonce { subkey: [1; 12], counter: 2, epoch: 3 },
                previous: [4; 16],
                tag: Tag::default(),
            };
            let mut group = vec![0; HEADER_BYTES];
            group.extend(payload);
            let tag = seal(&mut group, &header, &uuid, &*sealer);
            assert_eq!(group.len(), 128);
            let read = GroupHeader::parse(&group).expect("a group's header");
            assert_eq!(read, GroupHeader { tag, ..header.clone() });
            assert_eq!((read.last_commit(), read.total_bytes()), (42, 128));
            let mut opened = group.clone();
            assert!(open(&mut opened, &read, &uuid, &*sealer));
            assert_eq!(opened[HEADER_BYTES..][..7], payload);
            assert!(!open(&mut group.clone(), &read, &[4; 16], &*sealer), "another store's");
            let fields = [AT_LEN, AT_COUNT, AT_FIRST, AT_DURABLE, AT_GENERATION, AT_NONCE, AT_COUNTER, AT_EPOCH];
            for at in fields.into_iter().chain([AT_PREVIOUS, AT_TAG, HEADER_BYTES]) {
                let mut forged = group.clone();
                forged[at] ^= 1;
                let crc = checksum(&forged);
                forged[AT_CRC..][..4].copy_from_slice(&crc.to_le_bytes());
                let read = GroupHeader::parse(&forged).expect("still a group's header");
                assert!(!open(&mut forged, &read, &uuid, &*sealer), "byte {at} with a checksum that fits");
            }
        }
    }

    /// spec: E-7
    #[test]
    fn what_cannot_be_a_group_is_not_parsed() {
        let mut group = vec![0; HEADER_BYTES + 1];
        group[..4].copy_from_slice(&MAGIC);
        group[AT_COUNT] = 1;
        group[AT_FIRST] = 7;
        group[AT_DURABLE] = 6;
        assert!(GroupHeader::parse(&group).is_some());
        assert!(GroupHeader::parse(&group[..HEADER_BYTES - 1]).is_none(), "too short");
        for (at, bytes) in [(0, 0_u32), (AT_COUNT, 0), (AT_LEN, GROUP_BYTES_MAX as u32 + 1)] {
            let mut b = group.clone();
            b[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
            assert!(GroupHeader::parse(&b).is_none(), "field at {at}");
        }
        for at in [AT_EPOCH + 2, AT_EPOCH + 3] {
            let mut b = group.clone();
            b[at] = 1;
            assert!(GroupHeader::parse(&b).is_none(), "reserved byte {at}");
        }
        group[AT_DURABLE] = 7;
        assert!(GroupHeader::parse(&group).is_none(), "its own commit was durable before it was written");
        group[AT_FIRST..][..8].fill(0xff);
        assert!(GroupHeader::parse(&group).is_none(), "commit numbers overflow");
    }
}
