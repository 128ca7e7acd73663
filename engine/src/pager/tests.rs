//! Pages through storage, cache and map.

use std::sync::Arc;

use parking_lot::Mutex;

use super::page::{PageOpener, PageSealer};
use super::pages::{MissFrom, Pages};
use super::space::Space;
use super::writer::PageWriter;
use super::*;
use crate::env::{FileStorage, MemoryStorage, OpenMode, SeededEntropy, Storage, StorageFile, mix};
use crate::keys::{EpochKey, FileKeys, Key};
use crate::seal::Cipher;

const CIPHERS: [Cipher; 3] = [Cipher::None, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
const KINDS: [PageKind; 6] =
    [PageKind::Leaf, PageKind::Branch, PageKind::Value, PageKind::ValueIndex, PageKind::Space, PageKind::SpaceIndex];

fn keys(cipher: Cipher, uuid: u8) -> FileKeys {
    let master = (cipher != Cipher::None).then(|| Key::new([3; 32]));
    FileKeys::new([uuid; 16], EpochKey::new(0, cipher, master))
}

fn sealer(cipher: Cipher, seed: u64) -> PageSealer {
    PageSealer::new(keys(cipher, 1), Arc::new(SeededEntropy::new(seed)))
}

fn body(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|i| mix(seed ^ mix(i)) as u8).collect()
}

fn rule(e: PageError) -> &'static str {
    match e {
        PageError::Corruption(Corruption { what: CorruptionKind::Page { rule, .. }, .. }) => rule,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_page_opens_as_what_it_is_and_as_nothing_else() {
    for (cipher, page_bytes) in CIPHERS.into_iter().zip(PAGE_BYTES) {
        let plain = body(page_bytes - PAGE_HEADER_BYTES, 5);
        let mut sealed = vec![0; page_bytes];
        sealed[PAGE_HEADER_BYTES..].copy_from_slice(&plain);
        let proof = sealer(cipher, 1).seal(&mut sealed, 77, PageKind::Leaf).unwrap();
        let at = PageRef { no: 77, proof };
        let opener = PageOpener::new(keys(cipher, 1));
        let open = |page: &[u8], at, kind| {
            let mut page = page.to_vec();
            opener.open(&mut page, at, kind).map(|()| page)
        };
        assert_eq!(open(&sealed, at, PageKind::Leaf).unwrap()[PAGE_HEADER_BYTES..], plain);
        assert_eq!(sealed[PAGE_HEADER_BYTES..] == plain, cipher == Cipher::None);
        for kind in KINDS.into_iter().skip(1) {
            assert_eq!(open(&sealed, at, kind), Err("it is of another kind"));
        }
        assert_eq!(open(&sealed, PageRef { no: 78, proof }, PageKind::Leaf), Err("it belongs at another place"));
        assert!(open(&sealed, PageRef { no: 77, proof: proof ^ 1 }, PageKind::Leaf).is_err());
        assert!(PageOpener::new(keys(cipher, 2)).open(&mut sealed.clone(), at, PageKind::Leaf).is_err(), "other file");
        for byte in (0..60).chain([100, page_bytes - 1]) {
            let mut bent = sealed.clone();
            bent[byte] ^= 4;
            assert_eq!(open(&bent, at, PageKind::Leaf), Err("its checksum does not hold"), "byte {byte}");
            // With the checksum put right, as somebody who forges a page would.
            let crc = crc32fast::hash(&bent[4..]);
            bent[..4].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(open(&bent, at, PageKind::Leaf).is_ok(), byte < 4, "{cipher:?}, byte {byte}");
        }
    }
}

/// Every field where the specification has it, put together here from its words.
/// spec: C-9, E-30, E-31
#[test]
fn a_page_is_what_the_specification_says() {
    for (cipher, code) in CIPHERS.into_iter().zip([0, 1, 2]) {
        for (kind, number) in KINDS.into_iter().zip(1..) {
            let plain = body(4096 - 56, 8);
            let mut page = [vec![0xee; 56], plain.clone()].concat();
            let proof = sealer(cipher, 1).seal(&mut page, 0x0102_0304_0506, kind).unwrap();
            assert_eq!(page[..4], crc32fast::hash(&page[4..]).to_le_bytes());
            assert_eq!(page[4..16], [number, code, 0, 0, 6, 5, 4, 3, 2, 1, 0, 0]);
            assert_eq!(proof.to_le_bytes(), page[40..48], "the first half of the tag");
            if cipher == Cipher::None {
                assert_eq!(page[16..40], [0; 24]);
                let hashed = [&[1; 16][..], &page[4..40], &plain].concat();
                assert_eq!(page[40..56], xxhash_rust::xxh3::xxh3_128(&hashed).to_le_bytes());
                assert_eq!(page[56..], plain);
            } else {
                assert_ne!(page[16..28], [0; 12], "the generation");
                assert_eq!(page[28..40], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "the first of it");
                // In place: as long, and not as it was. What else is authenticated is bent in the test above.
                assert!(page.len() == 4096 && page[56..].iter().zip(&plain).filter(|(a, b)| a == b).count() < 100);
                let keys = keys(cipher, 1);
                let epoch = keys.of(0).expect("the key that seals");
                let sealer = keys.page_sealer(&epoch, &page[16..28].try_into().unwrap());
                let associated = [&[1; 16][..], &page[4..40]].concat();
                let mut again = plain.clone();
                let tag = sealer.seal(&page[28..40].try_into().unwrap(), &associated, &mut again);
                assert_eq!((&page[40..56], &page[56..]), (&tag[..], &again[..]));
            }
        }
    }
}

#[test]
fn no_nonce_is_used_twice() {
    let mut sealer = sealer(Cipher::Aes256Gcm, 9);
    let mut seen = std::collections::BTreeSet::new();
    for no in [40, 40, 41, 40, 99] {
        let mut page = vec![0; 4096];
        sealer.seal(&mut page, no, PageKind::Leaf).unwrap();
        assert!(seen.insert(page[16..40].to_vec()), "the same page again has another nonce");
    }
    assert!(seen.iter().all(|nonce| nonce[..12] == seen.first().unwrap()[..12]), "one generation per open");
}

#[test]
fn pages_of_more_generations_than_are_kept_all_open() {
    let opener = PageOpener::new(keys(Cipher::ChaCha20Poly1305, 1));
    let pages: Vec<(Vec<u8>, PageRef)> = (0..200)
        .map(|n| {
            let mut page = vec![n as u8; 4096];
            let proof = sealer(Cipher::ChaCha20Poly1305, n).seal(&mut page, n + 50, PageKind::Value).unwrap();
            (page, PageRef { no: n + 50, proof })
        })
        .collect();
    for (page, at) in pages.iter().chain(pages.iter().rev()) {
        opener.open(&mut page.clone(), *at, PageKind::Value).unwrap();
    }
}

/// A page says which key it was sealed with; both are told from what nobody knows. spec: C-10
#[test]
fn pages_of_two_epochs_open_side_by_side_until_a_key_goes() {
    let keys = keys(Cipher::Aes256Gcm, 1);
    let opener = PageOpener::new(keys.clone());
    let mut sealer = PageSealer::new(keys.clone(), Arc::new(SeededEntropy::new(4)));
    let mut seal = |no: u64| {
        let mut page = vec![7; 4096];
        let proof = sealer.seal(&mut page, no, PageKind::Leaf).unwrap();
        (page, PageRef { no, proof })
    };
    let open = |(page, at): &(Vec<u8>, PageRef)| opener.open(&mut page.clone(), *at, PageKind::Leaf);
    let old = seal(50);
    keys.add(EpochKey::new(1, Cipher::ChaCha20Poly1305, Some(Key::new([8; 32]))));
    let before = seal(51);
    assert_eq!((before.0[5], &before.0[6..8]), (1, &[0, 0][..]), "a key that is known does not seal yet");
    assert!(keys.is_in_hand(0) && !keys.is_in_hand(1));
    keys.seal_with(1);
    let new = seal(52);
    assert_eq!((new.0[5], &new.0[6..8]), (2, &[1, 0][..]));
    assert!(!keys.is_in_hand(0) && keys.is_in_hand(1));
    assert_eq!([&old, &before, &new].map(open), [Ok(()); 3]);
    for (byte, rule) in [(5, "it is sealed with another cipher"), (6, "its seal does not hold"), (7, EPOCH)] {
        let mut forged = new.clone();
        forged.0[byte] ^= if byte == 5 { 3 } else { 1 };
        let crc = crc32fast::hash(&forged.0[4..]);
        forged.0[..4].copy_from_slice(&crc.to_le_bytes());
        let found = open(&forged);
        // Of epoch 0 the cipher is another one, too.
        assert!(found == Err(rule) || byte == 6 && found.is_err(), "byte {byte}: {found:?}");
    }
    opener.forget(0);
    assert_eq!([&old, &before, &new].map(open), [Err(EPOCH), Err(EPOCH), Ok(())]);
}

const EPOCH: &str = "its key epoch is unknown";

struct World {
    _folder: Option<tempfile::TempDir>,
    file: Arc<dyn StorageFile>,
}

fn worlds() -> [World; 2] {
    let folder = tempfile::tempdir().unwrap();
    let on_disk = FileStorage::new(folder.path()).open("a", OpenMode::Create).unwrap();
    let in_memory = MemoryStorage::new().open("a", OpenMode::Create).unwrap();
    [World { _folder: Some(folder), file: on_disk }, World { _folder: None, file: in_memory }]
}

#[test]
fn what_was_written_is_read_by_every_way() {
    for world in worlds() {
        for cipher in CIPHERS {
            for page_bytes in PAGE_BYTES {
                for miss_from in [MissFrom::File, MissFrom::Map] {
                    let pages =
                        Pages::new(Arc::clone(&world.file), keys(cipher, 1), page_bytes, 40 * page_bytes, miss_from)
                            .unwrap();
                    round_trip(&pages, &world.file, cipher);
                }
            }
        }
    }
}

fn round_trip(pages: &Pages, file: &Arc<dyn StorageFile>, cipher: Cipher) {
    let space = Mutex::new(Space::new(pages.page_bytes(), 1));
    let mut sealer = sealer(cipher, 4);
    let mut writer = PageWriter::new(pages, None, &space, &mut sealer);
    let mut written = Vec::new();
    for n in 0..300_u64 {
        let bytes = body(n as usize * 13 % (pages.body_bytes() + 1), n);
        let kind = KINDS[n as usize % KINDS.len()];
        let at = writer.write(kind, &bytes).unwrap();
        written.push((at, kind, bytes));
        // Read back at once, whether it waits, is in the cache, or only in the file.
        let (at, kind, bytes) = &written[mix(n) as usize % written.len()];
        assert_same(&writer.page(*at, *kind).unwrap(), bytes);
    }
    assert!(written.windows(2).all(|w| w[0].0.no + 1 == w[1].0.no), "one after another");
    assert_eq!(writer.finish().unwrap(), 300);
    assert_eq!(space.lock().counts().used, 300 + first_page(pages.page_bytes()), "the rest was given back");
    let len = file.len().unwrap();
    let map = file.map(len, len).map(|m| m.unwrap());
    let fresh = |miss_from| {
        Pages::new(Arc::clone(file), keys(cipher, 1), pages.page_bytes(), 40 * pages.page_bytes(), miss_from).unwrap()
    };
    let again = [fresh(MissFrom::File), fresh(MissFrom::Map)];
    for pages in again.iter().chain([pages]) {
        for map in [None, map.as_ref()] {
            for _ in 0..2 {
                for (at, kind, bytes) in &written {
                    assert_same(&pages.read(map, *at, *kind).unwrap(), bytes);
                }
            }
            let (at, kind, _) = written[7];
            let other = KINDS[(kind as usize) % KINDS.len()];
            assert_eq!(rule(pages.read(map, at, other).unwrap_err()), "it is of another kind");
            let stale = PageRef { proof: at.proof ^ 2, ..at };
            assert_eq!(
                rule(pages.read(map, stale, kind).unwrap_err()),
                "its proof is not the one that its parent holds"
            );
            for no in [0, 1, first_page(pages.page_bytes()) - 1, 1 << 36, u64::MAX] {
                let e = pages.read(map, PageRef { no, proof: 0 }, PageKind::Leaf).unwrap_err();
                assert_eq!(rule(e), "there can be no such page");
            }
            let e = pages.read(map, PageRef { no: 1 << 30, proof: 0 }, PageKind::Leaf).unwrap_err();
            assert_eq!(rule(e), "the file ends before it");
        }
    }
}

fn assert_same(page: &[u8], bytes: &[u8]) {
    assert_eq!(page[..bytes.len()], *bytes);
    assert!(page[bytes.len()..].iter().all(|&b| b == 0), "filled up with zeros");
}

#[test]
fn a_number_used_again_shows_its_new_content_by_every_way() {
    for world in worlds() {
        for cipher in CIPHERS {
            let pages = Pages::new(Arc::clone(&world.file), keys(cipher, 1), 4096, 1 << 20, MissFrom::File).unwrap();
            let space = Mutex::new(Space::new(4096, 1));
            let mut sealer = sealer(cipher, 4);
            let mut last: Option<PageRef> = None;
            for round in 0..5 {
                let len = world.file.len().unwrap();
                let map = world.file.map(len, len).and_then(Result::ok);
                let mut writer = PageWriter::new(&pages, map.as_ref(), &space, &mut sealer);
                let bytes = body(3000, round);
                let at = writer.write(PageKind::Leaf, &bytes).unwrap();
                writer.finish().unwrap();
                for map in [None, map.as_ref()] {
                    assert_same(&pages.read(map, at, PageKind::Leaf).unwrap(), &bytes);
                    if let Some(last) = last {
                        assert_eq!(last.no, at.no);
                        assert!(pages.read(map, last, PageKind::Leaf).is_err(), "the old content is gone");
                    }
                }
                last = Some(at);
                assert!(space.lock().release_now(at.no));
            }
        }
    }
}

#[test]
fn a_writer_that_is_dropped_gives_everything_back() {
    let file = MemoryStorage::new().open("a", OpenMode::Create).unwrap();
    let pages = Pages::new(Arc::clone(&file), keys(Cipher::Aes256Gcm, 1), 4096, 1 << 20, MissFrom::File).unwrap();
    let space = Mutex::new(Space::new(4096, 1));
    let (mut first, mut second) = (sealer(Cipher::Aes256Gcm, 1), sealer(Cipher::Aes256Gcm, 2));
    let mut kept = PageWriter::new(&pages, None, &space, &mut first);
    let mut dropped = PageWriter::new(&pages, None, &space, &mut second);
    let mut at = Vec::new();
    for n in 0..200 {
        at.push(kept.write(PageKind::Value, &body(4000, n)).unwrap());
        dropped.write(PageKind::Leaf, b"never").unwrap();
    }
    let own = at.swap_remove(100); // the 200th page takes its place in the list
    kept.release(own.no);
    dropped.release(33 + 64);
    drop(dropped);
    let root = kept.save_space().unwrap();
    assert_eq!(kept.finish().unwrap(), 200 + 2);
    space.lock().checkpoint_done(1);
    let counts = space.lock().counts();
    assert_eq!(counts.used, 32 + 199 + 2);
    for (i, at) in at.iter().enumerate() {
        let n = if i == 100 { 199 } else { i as u64 };
        assert_same(&pages.read(None, *at, PageKind::Value).unwrap(), &body(4000, n));
    }
    struct Reader<'p>(&'p Pages);
    impl PageRead for Reader<'_> {
        fn body_bytes(&self) -> usize {
            self.0.body_bytes()
        }
        fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
            self.0.read(None, at, kind)
        }
    }
    let loaded = Space::load(&Reader(&pages), root, 1).unwrap();
    assert!(at.iter().all(|at| loaded.is_named(at.no)));
    assert_eq!(loaded.counts().used, counts.used);
}

#[test]
fn a_page_released_twice_fails_the_writer() {
    let file = MemoryStorage::new().open("a", OpenMode::Create).unwrap();
    let pages = Pages::new(Arc::clone(&file), keys(Cipher::None, 1), 4096, 1 << 20, MissFrom::File).unwrap();
    let space = Mutex::new(Space::new(4096, 1));
    let no = space.lock().alloc_run(1).start;
    let mut sealer = sealer(Cipher::None, 1);
    for released in [vec![no, no], vec![7], vec![1 << 40]] {
        let mut writer = PageWriter::new(&pages, None, &space, &mut sealer);
        released.into_iter().for_each(|no| writer.release(no));
        assert!(matches!(
            writer.finish().unwrap_err(),
            PageError::Corruption(Corruption { what: CorruptionKind::Node { .. }, .. })
        ));
        space.lock().abort();
        assert!(space.lock().is_named(no));
    }
}

#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    use crate::env::{CallKind, Fault, SimDisk};
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
    for (error, full) in full.map(|kind| (kind, true)).into_iter().chain([(io::ErrorKind::Other, false)]) {
        let disk = SimDisk::new(1);
        let file = disk.env("a").storage.open("a", OpenMode::Create).unwrap();
        let pages = Pages::new(Arc::clone(&file), keys(Cipher::None, 1), 4096, 0, MissFrom::File).unwrap();
        let space = Mutex::new(Space::new(4096, 1));
        let mut sealer = sealer(Cipher::None, 1);
        let mut writer = PageWriter::new(&pages, None, &space, &mut sealer);
        disk.fail(Fault { kind: CallKind::Write, nth: 0, error, for_ever: true });
        writer.write(PageKind::Leaf, b"x").unwrap();
        match writer.finish().unwrap_err() {
            PageError::DiskFull { .. } => assert!(full),
            PageError::Io { .. } => assert!(!full),
            other @ PageError::Corruption(_) => panic!("{other:?}"),
        }
        assert_eq!(space.lock().counts().used, 32, "as if it had never been");
    }
}
