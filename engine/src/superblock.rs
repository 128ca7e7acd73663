//! The header: two slots of 4 KiB, 64 KiB apart, the newest valid one wins. spec: E-2 to E-5
//!
//! `Unchecked` has passed magic, checksum and ranges; `Superblock` has passed authentication as well. Holding a
//! `Superblock` is the proof that the key is right and that nobody changed the header without it.
//!
//! A header names a whole state: the trees' pages as of one commit, and where in the log the commits after it begin.
//! The header before it names one, too, and everything that it names is still there; so damage of the newest slot
//! costs nothing but the reading of more log.

use crate::btree::{HEIGHT_MAX, TreeRoot};
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::keys::{FileKeys, KeySlot, PreviousKey, SlotKind};
use crate::limits::PAGE_BYTES;
use crate::log::writer::LogPosition;
use crate::pager::PageRef;
use crate::seal::Cipher;

pub(crate) const SLOT_BYTES: usize = 4096;
pub(crate) const SLOT_OFFSETS: [u64; 2] = [0, 64 << 10];
/// Where the holder of the lock leaves its process number; read by nobody else. spec: E-6
pub(crate) const NOTE_OFFSET: u64 = 32 << 10;
pub(crate) const NOTE_MAGIC: [u8; 4] = *b"PID\0";
/// Where pages begin; what lies before are slots, the note, and zeros that keep the slots apart.
pub(crate) const PAGES_START: u64 = 128 << 10;
pub(crate) const LOG_BLOCK_BYTES: [u32; 2] = [4096, 16384];
pub(crate) const FORMAT_VERSION: u16 = 0;
/// The key epoch of a new file, and of every file without encryption.
pub(crate) const FIRST_EPOCH: u16 = 0;
pub(crate) const KEY_SLOTS: usize = 4;

pub(crate) const MAGIC: [u8; 8] = *b"BLAZEDB\0";
pub(crate) const KEY_SLOT_BYTES: usize = 96;
/// Numbers that only ever go up by one stay below this, so that nothing that is added to them overflows.
const NUMBER_MAX: u64 = 1 << 62;
const AT_VERSION: usize = 8;
const AT_FEATURES: usize = 10;
const AT_CIPHER: usize = 12;
const AT_EPOCH: usize = 14;
const AT_SEQUENCE: usize = 16;
const AT_UUID: usize = 24;
const AT_LOG_BLOCK: usize = 40;
const AT_PAGE_BYTES: usize = 44;
const AT_COMMIT: usize = 48;
const AT_FLOOR: usize = 56;
const AT_LOG_GENERATION: usize = 64;
const AT_LOG_OFFSET: usize = 72;
const AT_LOG_TAG: usize = 80;
const AT_HEIGHT: usize = 96;
const AT_ROOTS: usize = 104;
const AT_ENTRIES: usize = 120;
const AT_SPACE: usize = 128;
const AT_PAGE_COUNT: usize = 144;
const AT_WALL: usize = 152;
const AT_PREVIOUS: usize = 160;
const AT_RESERVED: usize = 212;
const AT_KEYS: usize = 256;
const AT_MAC: usize = 4060;
const AT_CRC: usize = 4092;
/// Where the parts of a slot begin, in the order of the specification's table.
#[cfg(test)]
pub(crate) const PARTS: [usize; 30] = [
    0,
    AT_VERSION,
    AT_FEATURES,
    AT_CIPHER,
    AT_CIPHER + 1,
    AT_EPOCH,
    AT_SEQUENCE,
    AT_UUID,
    AT_LOG_BLOCK,
    AT_PAGE_BYTES,
    AT_COMMIT,
    AT_FLOOR,
    AT_LOG_GENERATION,
    AT_LOG_OFFSET,
    AT_LOG_TAG,
    AT_HEIGHT,
    AT_HEIGHT + 1,
    AT_ROOTS,
    AT_ROOTS + 8,
    AT_ENTRIES,
    AT_SPACE,
    AT_SPACE + 8,
    AT_PAGE_COUNT,
    AT_WALL,
    AT_PREVIOUS,
    AT_RESERVED,
    AT_KEYS,
    AT_KEYS + KEY_SLOTS * KEY_SLOT_BYTES,
    AT_MAC,
    AT_CRC,
];
const _: () = assert!(AT_KEYS + KEY_SLOTS * KEY_SLOT_BYTES <= AT_MAC);
const _: () = assert!(AT_MAC + 32 == AT_CRC && AT_CRC + 4 == SLOT_BYTES);
const _: () = assert!(NOTE_OFFSET >= SLOT_BYTES as u64 && NOTE_OFFSET + SLOT_BYTES as u64 <= SLOT_OFFSETS[1]);
const _: () = assert!(SLOT_OFFSETS[1] + SLOT_BYTES as u64 <= PAGES_START && PAGES_START.is_multiple_of(16384));

/// The header's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Superblock {
    pub(crate) sequence: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) cipher: Cipher,
    /// Which master key the slots wrap; it seals what is sealed from now on.
    pub(crate) key_epoch: u16,
    /// The master key before it, while what it sealed is still needed.
    pub(crate) previous: Option<PreviousKey>,
    pub(crate) log_block_bytes: u32,
    pub(crate) page_bytes: u32,
    /// The commit whose state the pages hold; the log goes on with the next one.
    pub(crate) commit_no: u64,
    /// Commits up to this one were durable when the header was written: a log that ends before it is damaged.
    pub(crate) durable_floor: u64,
    /// Where the first group after `commit_no` is, or will be.
    pub(crate) log: LogPosition,
    /// The tree of the trees' roots.
    pub(crate) roots: TreeRoot,
    /// Which pages are in use; `None` where none is.
    pub(crate) space: Option<PageRef>,
    /// How many pages the file spans, those before `PAGES_START` included.
    pub(crate) page_count: u64,
    /// When the header was written, as the machine believed.
    pub(crate) wall_ms: u64,
    pub(crate) slots: [KeySlot; KEY_SLOTS],
}

/// A header whose checksum and ranges hold, not yet authenticated.
pub(crate) struct Unchecked {
    block: Box<[u8; SLOT_BYTES]>,
    offset: u64,
    pub(crate) superblock: Superblock,
}

impl Superblock {
    /// Refuses what a writer would count beyond what any reader accepts; no file that was only written comes here. spec: E-3
    pub(crate) fn check_room_for_more(&self) -> Result<(), OpenError> {
        let numbers = [
            ("sequence", self.sequence),
            ("commit number", self.commit_no.max(self.durable_floor)),
            ("log generation", self.log.generation),
            ("log offset", self.log.offset),
        ];
        match numbers.into_iter().find(|(_, number)| *number >= NUMBER_MAX / 2) {
            Some((what, given)) => Err(OpenError::Unsupported { what, given }),
            None => Ok(()),
        }
    }

    pub(crate) fn encode(&self, keys: &FileKeys) -> Box<[u8; SLOT_BYTES]> {
        let mut b = Box::new([0; SLOT_BYTES]);
        b[..8].copy_from_slice(&MAGIC);
        b[AT_VERSION..][..2].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        b[AT_CIPHER] = self.cipher.code();
        b[AT_EPOCH..][..2].copy_from_slice(&self.key_epoch.to_le_bytes());
        b[AT_UUID..][..16].copy_from_slice(&self.uuid);
        b[AT_LOG_TAG..][..16].copy_from_slice(&self.log.tag);
        for (at, n) in [(AT_LOG_BLOCK, self.log_block_bytes), (AT_PAGE_BYTES, self.page_bytes)] {
            b[at..][..4].copy_from_slice(&n.to_le_bytes());
        }
        b[AT_HEIGHT] = self.roots.height;
        let no_page = PageRef { no: 0, proof: 0 };
        let (roots, space) = (self.roots.page.unwrap_or(no_page), self.space.unwrap_or(no_page));
        for (at, n) in [
            (AT_SEQUENCE, self.sequence),
            (AT_COMMIT, self.commit_no),
            (AT_FLOOR, self.durable_floor),
            (AT_LOG_GENERATION, self.log.generation),
            (AT_LOG_OFFSET, self.log.offset),
            (AT_ROOTS, roots.no),
            (AT_ROOTS + 8, roots.proof),
            (AT_ENTRIES, self.roots.entries),
            (AT_SPACE, space.no),
            (AT_SPACE + 8, space.proof),
            (AT_PAGE_COUNT, self.page_count),
            (AT_WALL, self.wall_ms),
        ] {
            b[at..][..8].copy_from_slice(&n.to_le_bytes());
        }
        if let Some(previous) = &self.previous {
            encode_previous(previous, &mut b[AT_PREVIOUS..AT_RESERVED]);
        }
        for (i, slot) in self.slots.iter().enumerate() {
            encode_slot(slot, &mut b[AT_KEYS + i * KEY_SLOT_BYTES..][..KEY_SLOT_BYTES]);
        }
        let mac = keys.header_mac(self.key_epoch, &b[..AT_MAC]);
        b[AT_MAC..AT_CRC].copy_from_slice(&mac);
        let crc = crc32fast::hash(&b[..AT_CRC]);
        b[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
        b
    }
}

/// Whether a slot begins as a header does.
pub(crate) fn has_magic(slot: &[u8]) -> bool {
    slot.starts_with(&MAGIC)
}

/// Whether a slot is as somebody wrote it: whether magic and checksum hold.
pub(crate) fn is_whole(block: &[u8; SLOT_BYTES]) -> bool {
    has_magic(block) && crc32fast::hash(&block[..AT_CRC]) == u32_at(block, AT_CRC)
}

/// A slot that cannot be read, and what its bytes seem to say. Nothing proves them: they are a reason for more or less
/// worry, and never for a header that is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LostSlot {
    sequence: u64,
    commit_no: u64,
    durable_floor: u64,
}

/// How far a log reaches that is read after one header, where the other one cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// As far as the newest header: the one that is lost is the older one, or the log is past it.
    Surely,
    /// Not up to this commit, which the lost one seems to say was durable.
    NotUpTo(u64),
    /// Nothing tells which one is lost, nor what it named.
    Unknown,
}

impl LostSlot {
    pub(crate) fn of(block: &[u8; SLOT_BYTES]) -> Self {
        let at = |at| u64_at(block, at);
        Self { sequence: at(AT_SEQUENCE), commit_no: at(AT_COMMIT), durable_floor: at(AT_FLOOR) }
    }

    /// Whether this was written just before `header`, as its sequence says.
    pub(crate) fn is_before(&self, header: &Superblock) -> bool {
        self.sequence > 0 && self.sequence.wrapping_add(1) == header.sequence
    }

    /// Returns how far a log reaches that was read after `header`, the other one, up to `last_commit`. spec: E-4
    pub(crate) fn reach(&self, header: &Superblock, last_commit: u64) -> Reach {
        // A sequence with a flipped bit may look like that of the older one; what it says of commits does not.
        let is_older = self.commit_no <= header.commit_no && self.durable_floor <= header.durable_floor;
        if self.is_before(header) && is_older {
            return Reach::Surely;
        }
        let floors = self.commit_no..NUMBER_MAX;
        let is_newer = self.commit_no >= header.commit_no && floors.contains(&self.durable_floor);
        if self.sequence == header.sequence.wrapping_add(1) && is_newer {
            return match self.durable_floor {
                floor if floor > last_commit => Reach::NotUpTo(floor),
                _ => Reach::Surely,
            };
        }
        Reach::Unknown
    }
}

impl From<&Superblock> for LostSlot {
    fn from(s: &Superblock) -> Self {
        Self { sequence: s.sequence, commit_no: s.commit_no, durable_floor: s.durable_floor }
    }
}

impl Unchecked {
    /// Reads one slot; `None` where magic or checksum fail, so that the other slot is asked. spec: E-4
    pub(crate) fn decode(block: Box<[u8; SLOT_BYTES]>, offset: u64) -> Result<Option<Self>, OpenError> {
        if !is_whole(&block) {
            return Ok(None);
        }
        let b = &block[..];
        let version = u16_at(b, AT_VERSION);
        if version != FORMAT_VERSION {
            return Err(OpenError::UnsupportedVersion(version));
        }
        let unknown = |what, given| OpenError::Unsupported { what, given };
        let features = u16_at(b, AT_FEATURES);
        if features != 0 {
            return Err(unknown("feature bits", u64::from(features)));
        }
        let cipher = Cipher::from_code(b[AT_CIPHER]).ok_or(unknown("cipher", u64::from(b[AT_CIPHER])))?;
        let key_epoch = u16_at(b, AT_EPOCH);
        let previous_cipher = b[AT_PREVIOUS + 2];
        let previous = match Cipher::from_code(previous_cipher) {
            None => return Err(unknown("cipher", u64::from(previous_cipher))),
            Some(Cipher::None) => None,
            Some(cipher) => Some(decode_previous(&b[AT_PREVIOUS..AT_RESERVED], cipher)),
        };
        let (log_block_bytes, page_bytes) = (u32_at(b, AT_LOG_BLOCK), u32_at(b, AT_PAGE_BYTES));
        if !LOG_BLOCK_BYTES.contains(&log_block_bytes) {
            return Err(unknown("log block size", u64::from(log_block_bytes)));
        }
        if !PAGE_BYTES.contains(&(page_bytes as usize)) {
            return Err(unknown("page size", u64::from(page_bytes)));
        }
        let mut slots: [KeySlot; KEY_SLOTS] = Default::default();
        let mut slots_known = true;
        for (i, slot) in slots.iter_mut().enumerate() {
            match decode_slot(&b[AT_KEYS + i * KEY_SLOT_BYTES..][..KEY_SLOT_BYTES]) {
                Some(known) => *slot = known,
                None => slots_known = false,
            }
        }
        let log = LogPosition {
            generation: u64_at(b, AT_LOG_GENERATION),
            offset: u64_at(b, AT_LOG_OFFSET),
            tag: array_at(b, AT_LOG_TAG),
        };
        let height = b[AT_HEIGHT];
        let page_at = |at| PageRef { no: u64_at(b, at), proof: u64_at(b, at + 8) };
        let (roots, space) = (page_at(AT_ROOTS), page_at(AT_SPACE));
        let superblock = Superblock {
            sequence: u64_at(b, AT_SEQUENCE),
            uuid: array_at(b, AT_UUID),
            cipher,
            key_epoch,
            previous,
            log_block_bytes,
            page_bytes,
            commit_no: u64_at(b, AT_COMMIT),
            durable_floor: u64_at(b, AT_FLOOR),
            log,
            roots: TreeRoot { page: (height > 0).then_some(roots), height, entries: u64_at(b, AT_ENTRIES) },
            space: (space.no > 0).then_some(space),
            page_count: u64_at(b, AT_PAGE_COUNT),
            wall_ms: u64_at(b, AT_WALL),
            slots,
        };
        let s = &superblock;
        let first = PAGES_START / u64::from(page_bytes);
        let pages = first..s.page_count;
        let slots_end = AT_KEYS + KEY_SLOTS * KEY_SLOT_BYTES;
        let reserved = if s.previous.is_some() { AT_RESERVED } else { AT_PREVIOUS };
        let zeros = [
            AT_CIPHER + 1..AT_EPOCH,
            AT_HEIGHT + 1..AT_ROOTS,
            AT_PREVIOUS + 3..AT_PREVIOUS + 4,
            reserved..AT_KEYS,
            slots_end..AT_MAC,
        ];
        let is_before = |previous: &PreviousKey| previous.epoch.wrapping_add(1) == key_epoch;
        let no_roots = roots.no == 0 && roots.proof == 0 && s.roots.entries == 0;
        let rules = [
            ("key epoch", cipher != Cipher::None || key_epoch == FIRST_EPOCH),
            ("previous key", s.previous.as_ref().is_none_or(|p| cipher != Cipher::None && is_before(p))),
            ("sequence", s.sequence < NUMBER_MAX),
            ("commit", s.commit_no < NUMBER_MAX),
            ("durable floor", (s.commit_no..NUMBER_MAX).contains(&s.durable_floor)),
            ("log generation", log.generation < NUMBER_MAX),
            ("log offset", log.offset < NUMBER_MAX && log.offset.is_multiple_of(u64::from(log_block_bytes))),
            ("page count", (first..=NUMBER_MAX / u64::from(page_bytes)).contains(&s.page_count)),
            ("roots", if height == 0 { no_roots } else { height <= HEIGHT_MAX && pages.contains(&roots.no) }),
            ("space", if space.no == 0 { space.proof == 0 } else { pages.contains(&space.no) }),
            ("key slot", slots_known),
            ("reserved", zeros.into_iter().all(|range| b[range].iter().all(|&x| x == 0))),
        ];
        if let Some((name, _)) = rules.into_iter().find(|(_, holds)| !holds) {
            return Err(Corruption { offset, what: CorruptionKind::HeaderField(name) }.into());
        }
        Ok(Some(Self { block, offset, superblock }))
    }

    /// Returns where in the file it was found.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Authenticates; what comes out may be trusted as far as the key may. spec: C-6
    pub(crate) fn verify(self, keys: &FileKeys) -> Result<Superblock, Corruption> {
        let mac = &self.block[AT_MAC..AT_CRC];
        if keys.header_mac_fits(self.superblock.key_epoch, &self.block[..AT_MAC], mac) {
            Ok(self.superblock)
        } else {
            Err(Corruption { offset: self.offset, what: CorruptionKind::HeaderAuthentication })
        }
    }
}

/// spec: C-10
fn encode_previous(previous: &PreviousKey, out: &mut [u8]) {
    out[..2].copy_from_slice(&previous.epoch.to_le_bytes());
    out[2] = previous.cipher.code();
    out[4..36].copy_from_slice(&previous.wrapped);
    out[36..52].copy_from_slice(&previous.tag);
}

fn decode_previous(b: &[u8], cipher: Cipher) -> PreviousKey {
    PreviousKey { epoch: u16_at(b, 0), cipher, wrapped: array_at(b, 4), tag: array_at(b, 36) }
}

pub(crate) fn encode_slot(slot: &KeySlot, out: &mut [u8]) {
    out[0] = slot.kind.code();
    for (at, n) in [(4, slot.memory_kib), (8, slot.passes), (12, slot.lanes)] {
        out[at..at + 4].copy_from_slice(&n.to_le_bytes());
    }
    out[16..32].copy_from_slice(&slot.salt);
    out[32..64].copy_from_slice(&slot.wrapped);
    out[64..80].copy_from_slice(&slot.tag);
}

pub(crate) fn decode_slot(b: &[u8]) -> Option<KeySlot> {
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

pub(crate) fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(b, at))
}

pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(b, at))
}

pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(b, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::EpochKey;

    /// What is left of a lost header is believed where all that it says fits. spec: E-4
    #[test]
    fn a_lost_slot_says_how_far_the_log_must_reach() {
        let header = sample(Cipher::None);
        let (sequence, commit_no, durable_floor) = (header.sequence, header.commit_no, header.durable_floor);
        let reach = |sequence, commit_no, durable_floor, last_commit| {
            LostSlot { sequence, commit_no, durable_floor }.reach(&header, last_commit)
        };
        // The older one.
        assert_eq!(reach(sequence - 1, commit_no, durable_floor, 77), Reach::Surely);
        assert_eq!(reach(sequence - 1, 3, 4, 77), Reach::Surely);
        // A newer one whose sequence is wrong says more than an older one can.
        assert_eq!(reach(sequence - 1, commit_no + 1, durable_floor, 200), Reach::Unknown);
        assert_eq!(reach(sequence - 1, commit_no, durable_floor + 1, 200), Reach::Unknown);
        // The newer one, and a log up to its floor, or not.
        assert_eq!(reach(sequence + 1, 120, 150, 150), Reach::Surely);
        assert_eq!(reach(sequence + 1, 120, 150, 149), Reach::NotUpTo(150));
        // One that goes back is none, nor one that is above what there is.
        assert_eq!(reach(sequence + 1, commit_no - 1, 150, 200), Reach::Unknown);
        assert_eq!(reach(sequence + 1, 120, 119, 200), Reach::Unknown);
        assert_eq!(reach(sequence + 1, 120, u64::MAX, 200), Reach::Unknown);
        // Neither: of zeros, and of another time, nobody can say.
        let blank = LostSlot { sequence: 0, commit_no: 0, durable_floor: 0 };
        assert_eq!(blank.reach(&header, u64::MAX), Reach::Unknown);
        assert_eq!(blank.reach(&Superblock { sequence: 1, ..header.clone() }, u64::MAX), Reach::Unknown);
        assert_eq!(reach(sequence + 3, 120, 150, 200), Reach::Unknown);
        assert_eq!(reach(sequence - 3, 3, 4, 200), Reach::Unknown);
    }

    fn sample(cipher: Cipher) -> Superblock {
        Superblock {
            sequence: 0x0102_0304_0506,
            uuid: *b"0123456789abcdef",
            cipher,
            key_epoch: if cipher == Cipher::None { 0 } else { 0x0300 },
            previous: (cipher != Cipher::None).then_some(PreviousKey {
                epoch: 0x02ff,
                cipher: Cipher::Aes256Gcm,
                wrapped: [4; 32],
                tag: [5; 16],
            }),
            log_block_bytes: 16384,
            page_bytes: 8192,
            commit_no: 77,
            durable_floor: 99,
            log: LogPosition { generation: 12, offset: 3 * 16384, tag: *b"fedcba9876543210" },
            roots: TreeRoot { page: Some(PageRef { no: 41, proof: u64::MAX }), height: 2, entries: 5 },
            space: Some(PageRef { no: 42, proof: 7 }),
            page_count: 43,
            wall_ms: u64::MAX,
            slots: [
                KeySlot { kind: SlotKind::Raw, salt: [1; 16], wrapped: [2; 32], tag: [3; 16], ..Default::default() },
                KeySlot { kind: SlotKind::Passphrase, memory_kib: 8, passes: 1, lanes: 1, ..Default::default() },
                KeySlot::default(),
                KeySlot::default(),
            ],
        }
    }

    fn keys(cipher: Cipher) -> FileKeys {
        let Superblock { uuid, key_epoch, .. } = sample(cipher);
        let master = (cipher != Cipher::None).then(|| [3; 32].into());
        FileKeys::new(uuid, EpochKey::new(key_epoch, cipher, master))
    }

    /// Changes bytes and makes the checksum fit, as a program that writes another format would.
    fn with(at: usize, bytes: &[u8]) -> Result<Option<Unchecked>, OpenError> {
        let mut block = sample(Cipher::None).encode(&keys(Cipher::None));
        block[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = crc32fast::hash(&block[..AT_CRC]);
        block[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
        Unchecked::decode(block, 0)
    }

    /// spec: E-2, C-6
    #[test]
    fn what_is_written_is_read() {
        for cipher in [Cipher::None, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let no_pages = Superblock { roots: TreeRoot::default(), space: None, page_count: 16, ..sample(cipher) };
            let empty = Superblock { previous: None, ..no_pages };
            for header in [sample(cipher), empty] {
                let read = Unchecked::decode(header.encode(&keys(cipher)), 0).expect("in range").expect("undamaged");
                assert_eq!(read.verify(&keys(cipher)), Ok(header));
            }
        }
    }

    /// spec: E-4
    #[test]
    fn every_flipped_bit_passes_the_slot_over() {
        let cipher = Cipher::Aes256Gcm;
        let block = sample(cipher).encode(&keys(cipher));
        for bit in 0..8 * SLOT_BYTES {
            let mut b = block.clone();
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Unchecked::decode(b, 0), Ok(None)), "bit {bit}");
        }
    }

    /// spec: E-3
    #[test]
    fn unknown_values_and_values_out_of_range_are_refused() {
        let field = |at: usize, bytes: &[u8], name: &'static str| match with(at, bytes) {
            Err(OpenError::Corruption(c)) => assert_eq!(c.what, CorruptionKind::HeaderField(name), "{name}"),
            other => panic!("{name} at {at}: {:?}", other.map(|_| ())),
        };
        let unknown = |at: usize, bytes: &[u8], name: &str| match with(at, bytes) {
            Err(OpenError::Unsupported { what, .. }) => assert_eq!(what, name),
            other => panic!("{name} at {at}: {:?}", other.map(|_| ())),
        };
        assert!(matches!(with(AT_VERSION, &[1]), Err(OpenError::UnsupportedVersion(1))));
        unknown(AT_FEATURES, &[1], "feature bits");
        unknown(AT_CIPHER, &[9], "cipher");
        unknown(AT_PREVIOUS + 2, &[9], "cipher");
        unknown(AT_LOG_BLOCK, &8192_u32.to_le_bytes(), "log block size");
        unknown(AT_PAGE_BYTES, &2048_u32.to_le_bytes(), "page size");
        for (at, name) in [
            (AT_SEQUENCE, "sequence"),
            (AT_COMMIT, "commit"),
            (AT_FLOOR, "durable floor"),
            (AT_LOG_GENERATION, "log generation"),
            (AT_LOG_OFFSET, "log offset"),
            (AT_PAGE_COUNT, "page count"),
            (AT_ROOTS, "roots"),
            (AT_SPACE, "space"),
        ] {
            field(at, &[0xff; 8], name);
        }
        field(AT_FLOOR, &76_u64.to_le_bytes(), "durable floor");
        field(AT_LOG_OFFSET, &4096_u64.to_le_bytes(), "log offset");
        field(AT_PAGE_COUNT, &15_u64.to_le_bytes(), "page count");
        field(AT_ROOTS, &43_u64.to_le_bytes(), "roots");
        field(AT_ROOTS, &15_u64.to_le_bytes(), "roots");
        field(AT_HEIGHT, &[17], "roots");
        field(AT_HEIGHT, &[0], "roots");
        field(AT_SPACE, &43_u64.to_le_bytes(), "space");
        field(AT_SPACE, &[0; 8], "space");
        field(AT_EPOCH, &[1], "key epoch");
        field(AT_PREVIOUS + 2, &[1], "previous key");
        field(AT_KEYS, &[4], "key slot");
        field(AT_KEYS + 80, &[1], "key slot");
        for at in [
            13,
            AT_HEIGHT + 1,
            AT_PREVIOUS,
            AT_PREVIOUS + 3,
            AT_RESERVED - 1,
            AT_RESERVED,
            AT_KEYS - 1,
            AT_KEYS + 4 * KEY_SLOT_BYTES,
            AT_MAC - 1,
        ] {
            field(at, &[1], "reserved");
        }
    }

    /// Of an encrypted file: an epoch that is not the one before, a gap that is not zero. spec: E-3
    #[test]
    fn a_previous_key_out_of_range_is_refused() {
        let cipher = Cipher::ChaCha20Poly1305;
        for (at, name) in [(AT_PREVIOUS, "previous key"), (AT_PREVIOUS + 3, "reserved"), (AT_RESERVED, "reserved")] {
            let mut block = sample(cipher).encode(&keys(cipher));
            block[at] ^= 1;
            let crc = crc32fast::hash(&block[..AT_CRC]);
            block[AT_CRC..].copy_from_slice(&crc.to_le_bytes());
            match Unchecked::decode(block, 0) {
                Err(OpenError::Corruption(c)) => assert_eq!(c.what, CorruptionKind::HeaderField(name)),
                other => panic!("{name} at {at}: {:?}", other.map(|_| ())),
            }
        }
    }

    /// spec: C-6
    #[test]
    fn another_key_does_not_verify() {
        let cipher = Cipher::ChaCha20Poly1305;
        let read = Unchecked::decode(sample(cipher).encode(&keys(cipher)), 7).expect("in range").expect("undamaged");
        let other = EpochKey::new(read.superblock.key_epoch, cipher, Some([4; 32].into()));
        let other = FileKeys::new(read.superblock.uuid, other);
        let refused = Corruption { offset: 7, what: CorruptionKind::HeaderAuthentication };
        assert_eq!(read.verify(&other), Err(refused));
    }
}
