//! One page, or one slot of the header, by itself.

use std::sync::Arc;

use crate::btree::fuzz_node;
use crate::env::{Env, OpenMode, SeededEntropy};
use crate::keys::{EpochKey, FileKeys, Key};
use crate::limits::PAGE_BYTES;
use crate::options::Options;
use crate::pager::page::PageOpener;
use crate::pager::{PAGE_HEADER_BYTES, Page, PageError, PageKind, PageRead, PageRef, PageSealer, Space};
use crate::seal::Cipher;
use crate::store::Store;
use crate::superblock::{FIRST_EPOCH, SLOT_BYTES, SLOT_OFFSETS, Unchecked};

const UUID: [u8; 16] = [0xB1; 16];

/// The keys of a file made up for one call.
fn keys(cipher: Cipher) -> FileKeys {
    FileKeys::new(UUID, EpochKey::new(FIRST_EPOCH, cipher, (cipher != Cipher::None).then(|| Key::new([7; 32]))))
}

/// A page of the smallest size, to be sealed and opened over and over.
pub struct PageBench {
    sealer: PageSealer,
    opener: PageOpener,
    page: Vec<u8>,
    /// Copies of one sealed page: to open one is to use it up.
    sealed: Vec<Vec<u8>>,
    at: PageRef,
}

impl PageBench {
    /// A page of a file with AES-256-GCM, or of one without encryption, that can be opened `times` times.
    pub fn new(encrypted: bool, times: usize) -> Self {
        let keys = keys(if encrypted { Cipher::Aes256Gcm } else { Cipher::None });
        let mut sealer = PageSealer::new(keys.clone(), Arc::new(SeededEntropy::new(1)));
        let mut page: Vec<u8> = (0..PAGE_BYTES[0]).map(|i| (i * 31) as u8).collect();
        let no = 77;
        let proof = sealer.seal(&mut page, no, PageKind::Leaf).expect("entropy from a seed does not fail");
        let mut bench = Self {
            sealer,
            opener: PageOpener::new(keys),
            sealed: vec![page.clone(); times + 1],
            page,
            at: PageRef { no, proof },
        };
        // The first one derives a key.
        bench.open();
        bench
    }

    /// Seals a page, whatever it holds.
    pub fn seal(&mut self) {
        let sealed = self.sealer.seal(&mut self.page, self.at.no, PageKind::Leaf);
        sealed.expect("entropy from a seed does not fail");
    }

    /// Checks and opens a page.
    pub fn open(&mut self) {
        let mut page = self.sealed.pop().expect("it was said how often");
        self.opener.open(&mut page, self.at, PageKind::Leaf).expect("the page is as it was sealed");
    }

    /// Computes a page's checksum.
    pub fn checksum(&mut self) {
        self.page[0] = crc32fast::hash(&self.page[4..]) as u8;
    }
}

/// A file in which every page of a kind is the same one.
pub(super) struct Mirrors<'b> {
    pages: Vec<(PageKind, &'b [u8])>,
    body_bytes: usize,
}

impl PageRead for Mirrors<'_> {
    fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        let found = self.pages.iter().find(|(of, _)| *of == kind);
        let missing = || PageError::node(at.no, self.body_bytes + PAGE_HEADER_BYTES, "it is of another kind");
        found.map(|(_, body)| Page::borrowed(body)).ok_or_else(missing)
    }
}

/// The body of a page: the size by the lower half of the first byte, the kind by the upper half, then the bytes.
/// Space pages come in pairs: the index, of which the bytes give the first half, and the one page that it lists.
///
/// A page that passes `verify`'s look is the page that the engine builds from what it read in it; one that does not
/// may be looked up in and walked over all the same, without a panic and with an end.
pub fn fuzz_page(bytes: &[u8]) {
    let Some((&selector, bytes)) = bytes.split_first() else { return };
    let body_bytes = PAGE_BYTES[usize::from(selector & 15) % PAGE_BYTES.len()] - PAGE_HEADER_BYTES;
    let body_of = |bytes: &[u8]| {
        let mut body = bytes[..bytes.len().min(body_bytes)].to_vec();
        body.resize(body_bytes, 0);
        body
    };
    match selector >> 4 {
        0..=3 => {
            let body = body_of(bytes);
            let kinds = [PageKind::Leaf, PageKind::Branch, PageKind::Value, PageKind::ValueIndex];
            let pages = kinds.map(|kind| (kind, &body[..])).to_vec();
            fuzz_node(&Mirrors { pages, body_bytes }, &body);
        }
        _ => {
            let (index, space) = bytes.split_at(bytes.len() / 2);
            let (index, space) = (body_of(index), body_of(space));
            let pages = vec![(PageKind::SpaceIndex, &index[..]), (PageKind::Space, &space[..])];
            Space::fuzz(&Mirrors { pages, body_bytes }, &index, &space);
        }
    }
}

/// A slot of the header. Magic, checksum and, without encryption, authentication are mended: what else is wrong is a
/// typed error, or the slot is what a writer makes of the same header.
pub fn fuzz_header(bytes: &[u8]) {
    let mut slot = Box::new([0; SLOT_BYTES]);
    let given = bytes.len().min(SLOT_BYTES);
    slot[..given].copy_from_slice(&bytes[..given]);
    mend_slot(&mut slot);
    let Ok(Some(unchecked)) = Unchecked::decode(slot.clone(), 0) else { return };
    let header = unchecked.superblock.clone();
    let master = (header.cipher != Cipher::None).then(|| Key::new([7; 32]));
    let keys = FileKeys::new(header.uuid, EpochKey::new(header.key_epoch, header.cipher, master));
    let written = header.encode(&keys);
    match unchecked.verify(&keys) {
        Ok(verified) => {
            assert_eq!(verified, header);
            assert!(written[..] == slot[..], "a header is written in one way");
        }
        // The mended authentication is that of a file without encryption.
        Err(_) => assert!(header.cipher != Cipher::None && written[..SLOT_BYTES - 36] == slot[..SLOT_BYTES - 36]),
    }
}

/// Makes magic, authentication and checksum right, as far as that takes no key.
pub(super) fn mend_slot(slot: &mut [u8; SLOT_BYTES]) {
    slot[..8].copy_from_slice(b"BLAZEDB\0");
    let covered = SLOT_BYTES - 36;
    let authentication = keys(Cipher::None).header_mac(FIRST_EPOCH, &slot[..covered]);
    slot[covered..][..32].copy_from_slice(&authentication);
    mend_slot_checksum(slot);
}

/// Makes magic and checksum right: what decoding looks at.
pub(super) fn mend_slot_checksum(slot: &mut [u8; SLOT_BYTES]) {
    slot[..8].copy_from_slice(b"BLAZEDB\0");
    let crc = crc32fast::hash(&slot[..SLOT_BYTES - 4]);
    slot[SLOT_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
}

/// A small store of a seed, closed: with and without encryption, of every page size.
pub(super) fn closed_store(seed: u64, options: Options) -> Env {
    let env = Env::memory(seed);
    let store = Store::open(env.clone(), options).expect("a store in memory opens");
    for commit in 0..=seed % 4 {
        let mut tx = store.write();
        for key in 0..1 + seed % 23 {
            let tree = tx.tree(["notes", "tags"][(key % 2) as usize]).expect("a short name");
            let value = vec![key as u8; (key * key * seed % 3000) as usize];
            tx.put(tree, format!("key {commit} {key}").as_bytes(), &value).expect("it is short");
        }
        tx.commit().expect("memory does not fail");
        if commit == 1 {
            store.checkpoint().expect("memory does not fail");
        }
    }
    store.close().expect("memory does not fail");
    env
}

pub(super) fn file_of(env: &Env, name: &str) -> Vec<u8> {
    let Ok(file) = env.storage.open(name, OpenMode::Read) else { return Vec::new() };
    let mut bytes = vec![0; file.len().expect("memory does not fail") as usize];
    let read = file.read_at(0, &mut bytes).expect("memory does not fail");
    assert_eq!(read, bytes.len());
    bytes
}

/// A valid input for `fuzz_header`.
pub fn seed_header(seed: u64) -> Vec<u8> {
    let options = if seed.is_multiple_of(2) { Options::unencrypted() } else { Options::raw_key([7; 32]) };
    let page_bytes = PAGE_BYTES[seed as usize % PAGE_BYTES.len()];
    let file = file_of(&closed_store(seed, options.page_bytes(page_bytes)), "memory.blaze");
    let slot = &file[SLOT_OFFSETS[seed as usize / 2 % 2] as usize..][..SLOT_BYTES];
    // As short as can be: what is left out is zeros, or mended.
    let used = slot[..SLOT_BYTES - 36].iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    slot[..used].to_vec()
}

/// Valid inputs for `fuzz_page`: every page of a small store.
pub fn seed_page(seed: u64) -> Vec<u8> {
    let size = seed as usize % PAGE_BYTES.len();
    let options = Options::unencrypted().page_bytes(PAGE_BYTES[size]);
    let file = file_of(&closed_store(seed, options), "memory.blaze");
    let first = (128 << 10) / PAGE_BYTES[size];
    let pages: Vec<_> = file.chunks_exact(PAGE_BYTES[size]).skip(first).collect();
    let page = pages[(seed / 3) as usize % pages.len()];
    let kind = page[4];
    let body = &page[PAGE_HEADER_BYTES..];
    let used = |body: &[u8]| body.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    let mut input = vec![size as u8 | (kind - 1) << 4];
    match pages.iter().find(|page| kind == 6 && page[4] == 5) {
        // Both halves have the same length, zeros included.
        Some(space) => {
            let space = &space[PAGE_HEADER_BYTES..];
            let half = used(body).max(used(space));
            input.extend_from_slice(&body[..half]);
            input.extend_from_slice(&space[..half]);
        }
        None => input.extend_from_slice(&body[..used(body)]),
    }
    input
}
