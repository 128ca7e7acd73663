//! A whole file without encryption, its checksums and proofs mended, so that what is wrong with it gets past them.
//!
//! Of every input the pages are read without any seal, as the header names them; of some, the mended file is opened.
//!
//! The input is a row of pieces of `u8 kind | u16 length | bytes`: the first two are the header's slots, the others
//! the bodies of pages, one after another, as far as they are not zeros. `Mender` seals pages from the leaves up,
//! along the references that they hold, and writes each proof where the parent has it.

use std::cell::Cell;
use std::collections::HashSet;
use std::ops::Bound;

use super::options;
use super::page::{closed_store, file_of, mend_slot, mend_slot_checksum};
use crate::btree::{CellValue, TreeCursor, TreeRoot, fuzz_references, fuzz_value, get};
use crate::disk::{Named, load_roots, verify};
use crate::env::{Env, OpenMode, SeededEntropy};
use crate::error::{CommitError, MaintainError, OpenError, ReadError};
use crate::keys::{EpochKey, FileKeys};
use crate::options::Options;
use crate::pager::{PAGE_HEADER_BYTES, Page, PageError, PageKind, PageRead, PageRef, PageSealer};
use crate::seal::Cipher;
use crate::store::Store;
use crate::superblock::{FIRST_EPOCH, PAGES_START, SLOT_BYTES, SLOT_OFFSETS, Superblock, Unchecked, u32_at, u64_at};

/// Pages that an input may have; what lies behind is left out.
const PAGES_MAX: usize = 64;
/// Where the log of an input begins at most.
const LOG_OFFSET_MAX: u64 = 1 << 20;
/// Bytes of values and keys that a walk looks at: a file may name one large value many times.
const WALK_BYTES_MAX: usize = 16 << 20;
/// Entries that walks over bodies look at: each may name the same long value.
const STEPS_MAX: usize = 20_000;

/// Where the header has the page of the tree of roots, and that of the space.
const AT_ROOTS: usize = 104;
const AT_SPACE: usize = 128;
const AT_HEIGHT: usize = 96;
const AT_LOG_OFFSET: usize = 72;
const AT_UUID: usize = 24;
const AT_PAGE_BYTES: usize = 44;
const AT_PAGE_COUNT: usize = 144;

const KINDS: [PageKind; 6] =
    [PageKind::Leaf, PageKind::Branch, PageKind::Value, PageKind::ValueIndex, PageKind::Space, PageKind::SpaceIndex];

/// Makes proofs right.
struct Mender<'f> {
    file: &'f mut [u8],
    page_bytes: usize,
    sealer: PageSealer,
    sealed: HashSet<u64>,
}

impl Mender<'_> {
    /// Seals a page and all below it; returns its proof. A page that is reached a second time stays as it is.
    fn mend(&mut self, no: u64, kind: PageKind, depth: usize) -> u64 {
        let first = PAGES_START as usize / self.page_bytes;
        let Some(at) = self.page_at(no) else { return 0 };
        if at < first * self.page_bytes {
            return 0;
        }
        if depth == 0 || !self.sealed.insert(no) {
            return crate::pager::page::proof_of(&self.file[at..]);
        }
        let body = self.file[at + PAGE_HEADER_BYTES..at + self.page_bytes].to_vec();
        for reference in fuzz_references(&body, kind) {
            let proof = self.mend(reference.no, reference.kind, depth - 1);
            self.file[at + PAGE_HEADER_BYTES + reference.proof_at..][..8].copy_from_slice(&proof.to_le_bytes());
        }
        let page = &mut self.file[at..at + self.page_bytes];
        self.sealer.seal(page, no, kind).expect("without encryption nothing is drawn")
    }
}

/// An input, taken apart.
struct Parts<'i> {
    /// Of one file, whatever else they are; neither sealed nor with a checksum.
    slots: [Box<[u8; SLOT_BYTES]>; 2],
    page_bytes: usize,
    /// Kind and body, as far as it is not zeros.
    pages: Vec<(PageKind, &'i [u8])>,
}

impl<'i> Parts<'i> {
    /// `None` where there is nothing to lay out.
    fn of(bytes: &'i [u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut piece = || match rest {
            [kind, low, high, more @ ..] => {
                let (piece, more) = more.split_at(more.len().min(usize::from(u16::from_le_bytes([*low, *high]))));
                rest = more;
                Some((*kind, piece))
            }
            _ => None,
        };
        let slot = |(_, piece): (u8, &[u8])| {
            let mut slot = Box::new([0; SLOT_BYTES]);
            let used = piece.len().min(SLOT_BYTES);
            slot[..used].copy_from_slice(&piece[..used]);
            slot
        };
        let mut slots = [slot(piece()?), slot(piece()?)];
        let page_bytes = match u32_at(&slots[0][..], AT_PAGE_BYTES) {
            8192 => 8192,
            16384 => 16384,
            _ => 4096,
        };
        let pages: Vec<_> = std::iter::from_fn(piece)
            .take(PAGES_MAX)
            .map(|(kind, body)| {
                let used = body.len().min(page_bytes - PAGE_HEADER_BYTES);
                (KINDS[usize::from(kind) % KINDS.len()], &body[..used])
            })
            .collect();
        let uuid: [u8; 16] = slots[0][AT_UUID..][..16].try_into().expect("16 bytes");
        let file_pages = (PAGES_START as usize / page_bytes + pages.len()) as u64;
        for slot in &mut slots {
            slot[AT_UUID..][..16].copy_from_slice(&uuid);
            let count = u64_at(&slot[..], AT_PAGE_COUNT).min(file_pages);
            slot[AT_PAGE_COUNT..][..8].copy_from_slice(&count.to_le_bytes());
            // A log may begin where no file is any more. On a disk what lies before is a hole; in memory it is zeros.
            let log_offset = u64_at(&slot[..], AT_LOG_OFFSET).min(LOG_OFFSET_MAX);
            slot[AT_LOG_OFFSET..][..8].copy_from_slice(&log_offset.to_le_bytes());
        }
        Some(Self { slots, page_bytes, pages })
    }

    /// The whole file, every seal and proof mended.
    fn into_file(mut self) -> Vec<u8> {
        let page_bytes = self.page_bytes;
        let mut file = vec![0; PAGES_START as usize + self.pages.len() * page_bytes];
        let uuid = self.slots[0][AT_UUID..][..16].try_into().expect("16 bytes");
        for (i, (_, body)) in self.pages.iter().enumerate() {
            let at = PAGES_START as usize + i * page_bytes + PAGE_HEADER_BYTES;
            file[at..][..body.len()].copy_from_slice(body);
        }
        let mut mender = Mender {
            file: &mut file,
            page_bytes,
            sealer: PageSealer::new(
                FileKeys::new(uuid, EpochKey::new(FIRST_EPOCH, Cipher::None, None)),
                std::sync::Arc::new(SeededEntropy::new(1)),
            ),
            sealed: HashSet::new(),
        };
        for slot in &mut self.slots {
            let (height, roots, space) = (slot[AT_HEIGHT], u64_at(&slot[..], AT_ROOTS), u64_at(&slot[..], AT_SPACE));
            if height > 0 {
                let kind = if height == 1 { PageKind::Leaf } else { PageKind::Branch };
                let proof = mender.mend_roots(roots, kind);
                slot[AT_ROOTS + 8..][..8].copy_from_slice(&proof.to_le_bytes());
            }
            if space > 0 {
                let proof = mender.mend(space, PageKind::SpaceIndex, PAGES_MAX);
                slot[AT_SPACE + 8..][..8].copy_from_slice(&proof.to_le_bytes());
            }
            mend_slot(slot);
        }
        // What nothing names is sealed as what the input says that it is.
        for (i, (kind, _)) in self.pages.iter().enumerate() {
            mender.mend((PAGES_START as usize / page_bytes + i) as u64, *kind, PAGES_MAX);
        }
        for (slot, at) in self.slots.iter().zip(SLOT_OFFSETS) {
            file[at as usize..][..SLOT_BYTES].copy_from_slice(&slot[..]);
        }
        file
    }

    /// The newest header that can be decoded.
    fn header(&mut self) -> Option<Superblock> {
        let decoded = self.slots.iter_mut().zip(SLOT_OFFSETS).filter_map(|(slot, at)| {
            mend_slot_checksum(slot);
            Some(Unchecked::decode(slot.clone(), at).ok()??.superblock)
        });
        decoded.max_by_key(|header| header.sequence)
    }
}

/// The pages of an input, where nothing is sealed. A page is what it was first asked for as, as with `Mender`.
struct Bodies {
    pages: Vec<u8>,
    kinds: Vec<Cell<Option<PageKind>>>,
    body_bytes: usize,
}

impl Bodies {
    fn of(parts: &Parts<'_>) -> Self {
        let body_bytes = parts.page_bytes - PAGE_HEADER_BYTES;
        let mut pages = vec![0; parts.pages.len() * body_bytes];
        for (page, (_, body)) in pages.chunks_exact_mut(body_bytes).zip(&parts.pages) {
            page[..body.len()].copy_from_slice(body);
        }
        Self { pages, kinds: vec![Cell::new(None); parts.pages.len()], body_bytes }
    }
}

impl PageRead for Bodies {
    fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        let page_bytes = self.body_bytes + PAGE_HEADER_BYTES;
        let wrong = |rule| PageError::page(at.no, page_bytes, rule);
        let index = at.no.checked_sub(PAGES_START / page_bytes as u64).map(|i| i as usize);
        let Some((index, known)) = index.and_then(|i| Some((i, self.kinds.get(i)?))) else {
            return Err(wrong("the file ends before it"));
        };
        if *known.get().get_or_insert(kind) != kind {
            return Err(wrong("it is of another kind"));
        }
        known.set(Some(kind));
        Ok(Page::borrowed(&self.pages[index * self.body_bytes..][..self.body_bytes]))
    }
}

/// Reads what a header names as opening, walking and verifying do. What is found sound is in order throughout, and
/// every key that a walk shows is found.
fn check_bodies(bodies: &Bodies, header: &Superblock) {
    let Ok(trees) = load_roots(bodies, &header.roots) else { return };
    let named = Named {
        trees: &trees,
        roots: &header.roots,
        space: header.space,
        checkpoint: header.sequence,
        commit_no: header.commit_no,
    };
    let is_sound = verify(bodies, &named, &mut |_| {}).is_ok();
    let mut left = STEPS_MAX;
    for root in &trees {
        let walked = check_walk(bodies, root, is_sound, &mut left);
        assert!(walked.is_ok() || !is_sound, "what is sound can be read");
    }
}

fn check_walk(bodies: &Bodies, root: &TreeRoot, is_sound: bool, left: &mut usize) -> Result<(), PageError> {
    let mut cursor = TreeCursor::new(*root);
    let (mut forward, mut last) = (0, None::<Vec<u8>>);
    cursor.seek(bodies, Bound::Unbounded)?;
    while let Some((key, value)) = cursor.entry() {
        assert!(!is_sound || last.as_deref() < Some(key), "a walk ascends");
        if let CellValue::Stored(at) = value
            && *left > 0
        {
            fuzz_value(bodies, &at);
        }
        if is_sound {
            assert!(get(bodies, root, key)?.is_some(), "what a walk shows is found");
        }
        last = Some(key.to_vec());
        forward += 1;
        *left = left.saturating_sub(1);
        if *left == 0 {
            return Ok(());
        }
        cursor.next(bodies)?;
    }
    assert!(!is_sound || forward == root.entries, "a sound tree has as many entries as it says");
    let mut backward = 0;
    cursor.seek_back(bodies, Bound::Unbounded)?;
    while cursor.entry().is_some() && backward <= STEPS_MAX as u64 {
        backward += 1;
        cursor.prev(bodies)?;
    }
    assert!(!is_sound || backward == forward, "a walk back meets the same entries");
    Ok(())
}

impl Mender<'_> {
    /// Where a page of the file is.
    fn page_at(&self, no: u64) -> Option<usize> {
        let at = usize::try_from(no).ok()?.checked_mul(self.page_bytes)?;
        (at.checked_add(self.page_bytes)? <= self.file.len()).then_some(at)
    }

    /// As `mend`, for the tree whose values name trees.
    fn mend_roots(&mut self, no: u64, kind: PageKind) -> u64 {
        let Some(at) = self.page_at(no) else { return 0 };
        if kind == PageKind::Leaf && at >= PAGES_START as usize {
            let body = self.file[at + PAGE_HEADER_BYTES..at + self.page_bytes].to_vec();
            for (value_at, value) in crate::btree::fuzz_inline_values(&body) {
                let Ok(value) = <[u8; 25]>::try_from(value) else { continue };
                let kind = if value[0] == 1 { PageKind::Leaf } else { PageKind::Branch };
                let proof = if value[0] > 0 { self.mend(u64_at(&value, 1), kind, PAGES_MAX) } else { 0 };
                self.file[at + PAGE_HEADER_BYTES + value_at + 9..][..8].copy_from_slice(&proof.to_le_bytes());
            }
        }
        self.mend(no, kind, PAGES_MAX)
    }
}

/// Reads everything in a store, forward and backward, as far as it is not longer than a walk may be. Only in a sound
/// one do keys ascend within a leaf: a walk trusts their order there, which `verify` proves.
pub(super) fn walk(store: &Store, is_sound: bool) -> Result<(), ReadError> {
    let view = store.read();
    let mut left = WALK_BYTES_MAX;
    for name in view.tree_names()? {
        let Some(tree) = view.tree(&name)? else { continue };
        let (mut cursor, mut last) = (view.range(tree, ..), None);
        while cursor.advance()? {
            assert!(!is_sound || last.as_deref() < Some(cursor.key()), "a walk ascends");
            last = Some(cursor.key().to_vec());
            left = left.saturating_sub(cursor.key().len() + cursor.value().len());
            if left == 0 {
                return Ok(());
            }
        }
        view.range(tree, ..).rev().try_for_each(|item| item.map(drop))?;
        if let Some(last) = last {
            view.get(tree, &last)?;
        }
    }
    Ok(())
}

/// The pages of a file that nothing seals, read through the newest header: no panic and an end; what verifying finds
/// sound reads in order, from both ends, and each of its keys is found. Some are then opened, as `fuzz_store_opened` does
/// with all.
pub fn fuzz_store(bytes: &[u8]) {
    check(bytes, super::is_opened(bytes));
}

/// As `fuzz_store`, and the same file with every seal mended. Opening, walking, verifying and writing to it end in a
/// typed error or not at all; and what `verify` finds sound can be read and written, is sound afterwards, and shows what
/// was written.
pub fn fuzz_store_opened(bytes: &[u8]) {
    check(bytes, true);
}

fn check(bytes: &[u8], is_opened: bool) {
    let Some(mut parts) = Parts::of(bytes) else { return };
    if let Some(header) = parts.header() {
        check_bodies(&Bodies::of(&parts), &header);
    }
    if is_opened {
        check_file(&parts.into_file());
    }
}

fn check_file(file: &[u8]) {
    let env = Env::memory(3);
    let written = env.storage.open(&env.name, OpenMode::Create).and_then(|opened| opened.write_at(0, file));
    written.expect("memory does not fail");
    let store = match Store::open(env.clone(), options().create(false)) {
        Ok(store) => store,
        Err(OpenError::Io { source, .. }) => panic!("only bytes are wrong here: {source}"),
        Err(_) => return,
    };
    let is_sound = match store.verify(&mut |_| {}) {
        Ok(_) => true,
        Err(MaintainError::Corruption(_) | MaintainError::Space { .. }) => false,
        Err(error) => panic!("only bytes are wrong here: {error}"),
    };
    let walked = walk(&store, is_sound);
    assert!(walked.is_ok() || !is_sound, "what is sound can be read: {walked:?}");
    let put = || -> Result<(), CommitError> {
        for n in 0..3_u8 {
            let mut tx = store.write();
            let tree = tx.tree(["notes", "new"][usize::from(n % 2)])?;
            tx.put(tree, &[n], &[n; 2000])?;
            tx.delete(tree, b"key 0 0")?;
            tx.commit()?;
        }
        Ok(())
    };
    let done = put().map_err(|error| error.to_string());
    let done = done.and_then(|()| store.close().map_err(|error| error.to_string()));
    if !is_sound {
        return;
    }
    done.expect("what is sound can be written");
    let store = Store::open(env, options().create(false)).expect("what was closed opens");
    store.verify(&mut |_| {}).expect("what was sound still is");
    let view = store.read();
    for n in 0..3_u8 {
        let tree = view.tree(["notes", "new"][usize::from(n % 2)]).expect("it is sound").expect("it was made");
        let found = view.get(tree, &[n]).expect("it is sound");
        assert_eq!(found.as_deref(), Some(&[n; 2000][..]), "what was written is there");
    }
}

/// A valid input for `fuzz_store`.
pub fn seed_store(seed: u64) -> Vec<u8> {
    let page_bytes = crate::limits::PAGE_BYTES[if seed.is_multiple_of(4) { 1 } else { 0 }];
    let file = file_of(&closed_store(seed, Options::unencrypted().page_bytes(page_bytes)), "memory.blaze");
    let used = |bytes: &[u8]| bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    let mut input = Vec::new();
    let mut piece = |kind: u8, bytes: &[u8]| {
        input.push(kind);
        input.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        input.extend_from_slice(bytes);
    };
    for at in SLOT_OFFSETS {
        let slot = &file[at as usize..][..SLOT_BYTES - 36];
        piece(0, &slot[..used(slot)]);
    }
    for page in file[PAGES_START as usize..].chunks_exact(page_bytes) {
        let body = &page[PAGE_HEADER_BYTES..];
        piece(page[4].wrapping_sub(1), &body[..used(body)]);
    }
    input
}

#[cfg(test)]
mod tests;
