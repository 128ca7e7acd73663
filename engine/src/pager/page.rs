//! A page on disk, and its seal.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | crc32 over bytes 4 to the end: damage is told from a wrong key, and a scrub needs none |
//! | 4 | 1 | kind |
//! | 5 | 1 | cipher of the key epoch |
//! | 6 | 2 | key epoch: which master key |
//! | 8 | 8 | page number |
//! | 16 | 24 | nonce: generation (12) and counter (12); zeros without encryption |
//! | 40 | 16 | tag |
//! | 56 | rest | body, sealed |
//!
//! Associated data: the file's id and bytes 4 to 40, so that a page moved, relabelled or taken from another file does
//! not open. Without encryption the tag is xxh3 (128 bits) over the same bytes and the body.
//!
//! No (subkey, nonce) is used twice: the generation is drawn at random at the first seal of an open, and again after
//! `SEALS_PER_GENERATION_MAX`; the counter goes up before each seal; the subkey follows from the generation. A page
//! that is lost, torn or written again never repeats one, whatever number it has.

use std::io;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::{PAGE_HEADER_BYTES, PageKind, PageRef};
use crate::env::Entropy;
use crate::keys::{EpochKey, FileKeys};
use crate::limits::SEALS_PER_GENERATION_MAX;
use crate::seal::{Cipher, Seal, Tag};
use crate::superblock::{FIRST_EPOCH, array_at, u16_at, u32_at, u64_at};
use crate::sync::RwLock;

const AT_KIND: usize = 4;
const AT_CIPHER: usize = 5;
const AT_EPOCH: usize = 6;
const AT_NO: usize = 8;
const AT_GENERATION: usize = 16;
const AT_COUNTER: usize = 28;
const AT_TAG: usize = 40;
const _: () = assert!(AT_TAG + 16 == PAGE_HEADER_BYTES);
/// Where the parts of a page begin, in the order of the specification's table.
#[cfg(test)]
pub(crate) const PARTS: [usize; 8] = [0, AT_KIND, AT_CIPHER, AT_EPOCH, AT_NO, AT_GENERATION, AT_TAG, PAGE_HEADER_BYTES];

/// Sealers of generations kept ready for reading. A file has one generation per open that wrote pages; pages of
/// more generations than this still open, each at the price of a key derivation (about 2 us).
const GENERATIONS_KEPT: usize = 64;

/// Returns the proof that a page carries.
#[inline]
pub(crate) fn proof_of(page: &[u8]) -> u64 {
    u64_at(page, AT_TAG)
}

/// Returns whether a page's checksum holds.
pub(crate) fn is_intact(page: &[u8]) -> bool {
    page.len() >= PAGE_HEADER_BYTES && crc32fast::hash(&page[AT_KIND..]) == u32_at(page, 0)
}

/// Returns the kind that a page says it is of.
pub(super) fn kind_of(page: &[u8]) -> Option<PageKind> {
    let kinds = [
        PageKind::Leaf,
        PageKind::Branch,
        PageKind::Value,
        PageKind::ValueIndex,
        PageKind::Space,
        PageKind::SpaceIndex,
    ];
    kinds.into_iter().find(|kind| *kind as u8 == page[AT_KIND])
}

/// Returns the key epoch that a page carries.
pub(super) fn epoch_of(page: &[u8]) -> u16 {
    u16_at(page, AT_EPOCH)
}

/// Returns whether a page that was checked before is the one that is asked for. A cache and a map find pages by
/// their number alone; this is what stops one state's page from passing for another's.
#[inline]
pub(crate) fn is_the_one(page: &[u8], at: PageRef, kind: PageKind) -> Result<(), &'static str> {
    if proof_of(page) != at.proof {
        return Err(PROOF);
    }
    if page[AT_KIND] != kind as u8 {
        return Err(KIND);
    }
    Ok(())
}

const PROOF: &str = "its proof is not the one that its parent holds";
const KIND: &str = "it is of another kind";
const EPOCH: &str = "its key epoch is unknown";
const CIPHER: &str = "it is sealed with another cipher";

/// Seals pages: the write side. One that writes pages ahead of their commit lives until that commit is in the table:
/// as long as it does, a change of the master key does not take what it wrote for a thing of the past.
pub(crate) struct PageSealer {
    keys: FileKeys,
    entropy: Arc<dyn Entropy>,
    generation: Option<Generation>,
}

struct Generation {
    key: Arc<EpochKey>,
    id: [u8; 12],
    counter: u64,
    sealer: Box<dyn Seal>,
}

impl PageSealer {
    pub(crate) fn new(keys: FileKeys, entropy: Arc<dyn Entropy>) -> Self {
        Self { keys, entropy, generation: None }
    }

    /// Lets the key go that it has sealed with. For when none of what it wrote waits for a commit.
    pub(crate) fn let_go(&mut self) {
        self.generation = None;
    }

    /// Fills in the header of `page` (a whole page, its body in place) and seals the body. Returns the proof.
    pub(crate) fn seal(&mut self, page: &mut [u8], no: u64, kind: PageKind) -> io::Result<u64> {
        page[AT_KIND] = kind as u8;
        page[AT_NO..AT_GENERATION].copy_from_slice(&no.to_le_bytes());
        let tag = if !self.keys.is_encrypted() {
            page[AT_CIPHER] = Cipher::None.code();
            page[AT_EPOCH..AT_NO].copy_from_slice(&FIRST_EPOCH.to_le_bytes());
            page[AT_GENERATION..AT_TAG].fill(0);
            digest(page, self.keys.uuid())
        } else {
            let uuid = *self.keys.uuid();
            let generation = self.generation()?;
            page[AT_CIPHER] = generation.key.cipher.code();
            page[AT_EPOCH..AT_NO].copy_from_slice(&generation.key.epoch.to_le_bytes());
            // Counted up before the seal: whatever happens to the bytes, this nonce is spent.
            generation.counter += 1;
            let mut counter = [0; 12];
            counter[..8].copy_from_slice(&generation.counter.to_le_bytes());
            page[AT_GENERATION..AT_COUNTER].copy_from_slice(&generation.id);
            page[AT_COUNTER..AT_TAG].copy_from_slice(&counter);
            let ad = associated_data(page, &uuid);
            generation.sealer.seal(&counter, &ad, &mut page[PAGE_HEADER_BYTES..])
        };
        page[AT_TAG..PAGE_HEADER_BYTES].copy_from_slice(&tag);
        let crc = crc32fast::hash(&page[AT_KIND..]);
        page[..AT_KIND].copy_from_slice(&crc.to_le_bytes());
        Ok(proof_of(page))
    }

    fn generation(&mut self) -> io::Result<&mut Generation> {
        let epoch = self.keys.sealing_epoch();
        let is_spent = |g: &Generation| g.key.epoch != epoch || g.counter >= SEALS_PER_GENERATION_MAX;
        if self.generation.as_ref().is_none_or(is_spent) {
            let mut id = [0; 12];
            self.entropy.public(&mut id)?;
            let key = self.keys.of(epoch).expect("the key that seals is known");
            let sealer = self.keys.page_sealer(&key, &id);
            self.generation = Some(Generation { key, id, counter: 0, sealer });
        }
        Ok(self.generation.as_mut().expect("set just now"))
    }
}

/// Checks and opens pages: the read side, shared by all readers.
pub(crate) struct PageOpener {
    keys: FileKeys,
    /// Direct-mapped by the generation's first byte, which is random.
    generations: Vec<RwLock<Option<Kept>>>,
}

struct Kept {
    epoch: u16,
    cipher: Cipher,
    id: [u8; 12],
    sealer: Box<dyn Seal>,
}

impl PageOpener {
    pub(crate) fn new(keys: FileKeys) -> Self {
        let slots = if keys.is_encrypted() { GENERATIONS_KEPT } else { 0 };
        Self { keys, generations: (0..slots).map(|_| RwLock::new(None)).collect() }
    }

    pub(crate) fn keys(&self) -> &FileKeys {
        &self.keys
    }

    #[inline]
    pub(crate) fn is_encrypted(&self) -> bool {
        // Not asked of the keys, which are a pointer away.
        !self.generations.is_empty()
    }

    /// Lets the key of an epoch go, and all sealers that came of it.
    pub(crate) fn forget(&self, epoch: u16) {
        self.keys.forget(epoch);
        for slot in &self.generations {
            let mut kept = slot.write();
            if kept.as_ref().is_some_and(|kept| kept.epoch == epoch) {
                *kept = None;
            }
        }
    }

    /// Checks everything and opens the body in place. On an error the body holds nothing of use.
    pub(crate) fn open(&self, page: &mut [u8], at: PageRef, kind: PageKind) -> Result<(), &'static str> {
        if !self.is_encrypted() {
            return self.check(page, at, kind);
        }
        self.check_header(page, at, kind)?;
        let (epoch, cipher, generation) = (epoch_of(page), page[AT_CIPHER], array_at(page, AT_GENERATION));
        let ad = associated_data(page, self.keys.uuid());
        let counter = array_at(page, AT_COUNTER);
        let tag: Tag = array_at(page, AT_TAG);
        let body = &mut page[PAGE_HEADER_BYTES..];
        self.with_sealer(epoch, generation, |sealer, of_epoch| {
            if of_epoch.code() != cipher {
                return Err(CIPHER);
            }
            sealer.open(&counter, &ad, body, &tag).map_err(|_| "its seal does not hold")
        })?
    }

    /// Checks a page of a file without encryption, wherever it lies.
    pub(crate) fn check(&self, page: &[u8], at: PageRef, kind: PageKind) -> Result<(), &'static str> {
        assert!(!self.is_encrypted(), "a sealed page cannot be read where it lies");
        self.check_header(page, at, kind)?;
        if page[AT_CIPHER] != Cipher::None.code() {
            return Err(CIPHER);
        }
        if epoch_of(page) != FIRST_EPOCH {
            return Err(EPOCH);
        }
        if page[AT_GENERATION..AT_TAG].iter().any(|&b| b != 0) {
            return Err("it has a nonce in a file without encryption");
        }
        if digest(page, self.keys.uuid())[..] != page[AT_TAG..PAGE_HEADER_BYTES] {
            return Err("its hash does not hold");
        }
        Ok(())
    }

    /// Checks all but the seal, cheapest and most telling first: a bad checksum is the disk's doing.
    fn check_header(&self, page: &[u8], at: PageRef, kind: PageKind) -> Result<(), &'static str> {
        if crc32fast::hash(&page[AT_KIND..]) != u32_at(page, 0) {
            return Err("its checksum does not hold");
        }
        if u64_at(page, AT_NO) != at.no {
            return Err("it belongs at another place");
        }
        is_the_one(page, at, kind)
    }

    /// Hands over the sealer of a generation, and the cipher of its epoch.
    fn with_sealer<T>(
        &self,
        epoch: u16,
        id: [u8; 12],
        open: impl FnOnce(&dyn Seal, Cipher) -> T,
    ) -> Result<T, &'static str> {
        let slot = &self.generations[id[0] as usize % GENERATIONS_KEPT];
        if let Some(kept) = &*slot.read()
            && kept.id == id
            && kept.epoch == epoch
        {
            return Ok(open(&*kept.sealer, kept.cipher));
        }
        // Two readers may derive the same sealer at once; either of the two may stay.
        let key = self.keys.of(epoch).ok_or(EPOCH)?;
        let sealer = self.keys.page_sealer(&key, &id);
        let opened = open(&*sealer, key.cipher);
        *slot.write() = Some(Kept { epoch, cipher: key.cipher, id, sealer });
        Ok(opened)
    }
}

fn associated_data(page: &[u8], uuid: &[u8; 16]) -> [u8; 52] {
    let mut ad = [0; 52];
    ad[..16].copy_from_slice(uuid);
    ad[16..].copy_from_slice(&page[AT_KIND..AT_TAG]);
    ad
}

/// The tag of a page without encryption.
fn digest(page: &[u8], uuid: &[u8; 16]) -> Tag {
    let mut hash = Xxh3Default::new();
    hash.update(&associated_data(page, uuid));
    hash.update(&page[PAGE_HEADER_BYTES..]);
    hash.digest128().to_le_bytes()
}
