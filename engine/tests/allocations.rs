//! Memory, counted: bytes from outside cannot make their reader allocate much more than there are of them.
//!
//! The files here are not encrypted, so that everything that is forged can be signed again as anybody could: checksums,
//! the header's authentication, the tags of groups and pages. A binary of its own, because the counting allocator is
//! global. Counts are per thread; a store in a simulated world has one.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use blazedb_engine::env::SimDisk;
use blazedb_engine::{Durability, Env, Memory, OpenError, Options, Store, log_file_names};
use sha2::{Digest, Sha256};

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn note(bytes: isize) {
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches thread-local numbers alone, which do not
// allocate and have no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `dealloc`, and every block came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns how many bytes more than before were in use at the worst moment of `work`.
fn peak<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    ((PEAK.get() - before) as usize, result)
}

const NAME: &str = "hostile.blaze";
const MEMORY: Memory = Memory { cache_bytes: 64 << 10, table_bytes: 1 << 20, log_bytes: 1 << 20 };
const SLOTS: [usize; 2] = [0, 64 << 10];
const PAGES: usize = 128 << 10;
const PAGE: usize = 4096;

fn options() -> Options {
    Options::unencrypted().memory(MEMORY)
}

/// Two checkpoints of a few pages, and three commits in the log.
fn files() -> (Vec<u8>, Vec<u8>, String) {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), options()).expect("opens");
    let tree = store.tree("rows").expect("a good name");
    for n in 0..103_u8 {
        let mut tx = store.write();
        tx.put(tree, &[n], &vec![n; if n % 10 == 0 { 5000 } else { 300 }]).expect("a good value");
        tx.commit().expect("commits");
        if n == 50 || n == 99 {
            store.checkpoint().expect("checkpoints");
        }
    }
    let generation = |name: &String| {
        let bytes = disk.read_file(name).filter(|bytes| bytes.starts_with(b"BLZG"))?;
        Some(u64::from_le_bytes(bytes[32..40].try_into().expect("8 bytes")))
    };
    let log = log_file_names(NAME).into_iter().max_by_key(generation).expect("there are three names");
    (disk.read_file(NAME).expect("is there"), disk.read_file(&log).expect("is there"), log)
}

/// Opens, reads and verifies; returns what that took at the worst moment.
fn cost(main: &[u8], log: &[u8], log_name: &str) -> (usize, Result<(), OpenError>) {
    let disk = SimDisk::new(2);
    disk.write_file(NAME, main);
    disk.write_file(log_name, log);
    peak(|| {
        let store = Store::open(disk.env(NAME), options().read_only(true))?;
        let view = store.read();
        if let Ok(Some(tree)) = view.tree("rows") {
            let _ = view.range(tree, ..).filter(|item| item.is_err()).count();
        }
        let _ = store.verify(&mut |_| {});
        Ok(())
    })
}

fn sign_slot(slot: &mut [u8]) {
    let mac = Sha256::digest(&slot[..4060]);
    slot[4060..4092].copy_from_slice(&mac);
    let crc = crc32fast::hash(&slot[..4092]);
    slot[4092..4096].copy_from_slice(&crc.to_le_bytes());
}

fn sign_group(group: &mut [u8], uuid: &[u8]) {
    let len = u32::from_le_bytes(group[4..8].try_into().expect("4 bytes")) as usize;
    let end = (96 + len).min(group.len());
    let ad = [&group[..8], &group[12..80], uuid].concat();
    let mut hash = xxhash_rust::xxh3::Xxh3Default::new();
    hash.update(&group[52..64]);
    hash.update(&(ad.len() as u64).to_le_bytes());
    hash.update(&ad);
    hash.update(&group[96..end]);
    group[80..96].copy_from_slice(&hash.digest128().to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&group[..8]);
    crc.update(&group[12..end.next_multiple_of(64)]);
    group[8..12].copy_from_slice(&crc.finalize().to_le_bytes());
}

/// Values that a length or number might break at.
const NUMBERS: [u64; 9] = [0, 1, u16::MAX as u64, 1 << 20, u32::MAX as u64, 1 << 40, (1 << 62) - 1, 1 << 63, u64::MAX];

/// spec: E-3, E-7, E-8, E-12, E-32
#[test]
fn no_length_field_allocates_more_than_twice_its_input() {
    let (main, log, name) = files();
    let (honest, opened) = cost(&main, &log, &name);
    opened.expect("as it is it opens");
    let ceiling = honest + 2 * (main.len() + log.len());
    let (mut worst, mut cases) = (0, 0);
    let mut check = |main: &[u8], log: &[u8], what: &str| {
        let (bytes, _) = cost(main, log, &name);
        assert!(bytes <= ceiling, "{what}: {bytes} bytes for a file of {}, {honest} when it is sound", main.len());
        worst = worst.max(bytes);
        cases += 1;
    };
    // Every field of the header, in both slots.
    for at in (8..160).step_by(4) {
        for (number, width) in NUMBERS.into_iter().flat_map(|n| [(n, 2), (n, 4), (n, 8)]) {
            let mut main = main.clone();
            for slot in SLOTS {
                main[slot + at..slot + at + width].copy_from_slice(&number.to_le_bytes()[..width]);
                sign_slot(&mut main[slot..slot + 4096]);
            }
            check(&main, &log, &format!("header field at {at}"));
        }
    }
    // Every field of a group's header, and every byte of its payload.
    for at in (4..80).step_by(2).chain((96..560).step_by(3)) {
        for (number, width) in NUMBERS.into_iter().flat_map(|n| [(n, 1), (n, 4), (n, 8)]) {
            let mut log = log.clone();
            log[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
            sign_group(&mut log[..PAGE], &main[24..40]);
            check(&main, &log, &format!("group, byte {at}"));
        }
    }
    // Every field of every page's body's beginning, with a tag of its own. Its parent's proof does not fit then, but for
    // the pages that the header names, whose proofs are forged as well.
    for at in (56..120).step_by(4) {
        for (number, width) in NUMBERS.into_iter().flat_map(|n| [(n, 2), (n, 4), (n, 8)]) {
            for field in [104, 128] {
                let mut main = main.clone();
                for slot in SLOTS {
                    let number_at =
                        |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8"));
                    let page = number_at(&main, slot + field) as usize * PAGE;
                    if page < PAGES {
                        continue;
                    }
                    main[page + at..page + at + width].copy_from_slice(&number.to_le_bytes()[..width]);
                    let mut hash = xxhash_rust::xxh3::Xxh3Default::new();
                    hash.update(&main[24..40]);
                    hash.update(&main[page + 4..page + 40]);
                    hash.update(&main[page + 56..page + PAGE]);
                    let tag = hash.digest128().to_le_bytes();
                    main[page + 40..page + 56].copy_from_slice(&tag);
                    let crc = crc32fast::hash(&main[page + 4..page + PAGE]);
                    main[page..page + 4].copy_from_slice(&crc.to_le_bytes());
                    main[slot + field + 8..slot + field + 16].copy_from_slice(&tag[..8]);
                    sign_slot(&mut main[slot..slot + 4096]);
                }
                check(&main, &log, &format!("page of field {field}, byte {at}"));
            }
        }
    }
    assert!(cases > 6_000 && worst >= honest, "{cases} cases, at worst {worst} bytes");
}

/// A commit whose encoding is short and whose values are long: refused by the format's own limit, and meanwhile it takes
/// what an opening for reading may take. spec: E-11
#[test]
fn spans_allocate_no_more_than_an_opening_may_take() {
    let (main, mut log, name) = files();
    let mut payload = vec![0, 100];
    for key in 0..100_u8 {
        payload.extend([2, 1, 1, key, 250]);
        for n in 0..250 {
            match (key, n) {
                (0, 0) => {
                    payload.extend([0x80, 0x80, 1]);
                    payload.extend([7; 8192]);
                }
                _ => payload.extend([0x81, 0x80, 1, 4]),
            }
        }
        // 250 pieces of 8 KiB: the number above takes two bytes.
        let at = payload.len() - if key == 0 { 3 + 8192 + 249 * 4 } else { 250 * 4 };
        payload[at - 1] = 0xfa;
        payload.insert(at, 1);
    }
    let blocks = (96 + payload.len()).next_multiple_of(PAGE);
    log.resize(blocks.max(log.len()), 0);
    log[96..96 + payload.len()].copy_from_slice(&payload);
    log[96 + payload.len()..blocks].fill(0);
    log[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    log[12..16].copy_from_slice(&1_u32.to_le_bytes());
    sign_group(&mut log[..blocks], &main[24..40]);
    let (bytes, opened) = cost(&main, &log, &name);
    assert!(matches!(opened, Err(OpenError::Corruption(_))), "{opened:?}");
    assert!(bytes > 8 << 20, "the bomb went off as far as it may: {bytes}");
    assert!(bytes < 14 << 20, "{bytes} bytes for a payload of {}", payload.len());
}

/// Copies what an open store has on the disk at this moment to another folder, as a crash would leave it.
fn copy_of(store: &Path, to: &Path) {
    let names = log_file_names("a.blaze").into_iter().chain(["a.blaze".to_owned()]);
    for name in names.filter(|name| store.with_file_name(name).exists()) {
        std::fs::copy(store.with_file_name(&name), to.join(&name)).expect("copies");
    }
}

/// A log that was written with much memory says twenty times as much as it is long, by spans. Whoever opens it takes
/// what its own options allow, to write and to read. It took all that the log says.
#[test]
fn recovery_takes_the_memory_of_who_opens() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let path = folders[0].path().join("a.blaze");
    let large = Memory { cache_bytes: 1 << 20, table_bytes: 1 << 30, log_bytes: 1 << 30 };
    let store = Store::open(Env::file(&path), Options::unencrypted().memory(large)).expect("opens");
    let tree = store.tree("rows").expect("a good name");
    let (row, rows) = ([7; 40 << 10], 100_u32);
    for n in 0..rows {
        let mut tx = store.write();
        tx.put_pieces(tree, &n.to_be_bytes(), &[&row[..]; 25]).expect("room");
        tx.commit_with(Durability::Buffered, |_| Ok(())).expect("commits");
    }
    let said = store.stats().table_bytes as usize;
    assert!(said > 90 << 20 && store.stats().log_bytes < 6 << 20, "{:?}", store.stats());
    copy_of(&path, folders[1].path());
    let env = || Env::file(folders[1].path().join("a.blaze"));
    let options = Options::unencrypted().memory(Memory::TINY).create(false);
    let tables = Memory::TINY.table_bytes;
    let (bytes, opened) = peak(|| Store::open(env(), options.clone().read_only(true)));
    assert!(matches!(opened, Err(OpenError::TooMuchInLog { .. })), "{opened:?}");
    assert!(bytes < 8 * tables + (5 << 20), "{bytes} bytes to read, for a log that says {said}");
    let (bytes, opened) = peak(|| Store::open(env(), options.clone()));
    assert!(bytes < Memory::TINY.total_bytes() + (5 << 20), "{bytes} bytes to write, for a log that says {said}");
    let found = opened.expect("opens");
    let view = found.read();
    assert_eq!(view.len(tree).expect("reads"), u64::from(rows));
    for n in [0, rows - 1] {
        assert_eq!(view.get(tree, &n.to_be_bytes()).expect("reads").map(|v| v.len()), Some(25 * row.len()));
    }
    let (_, opened) = peak(|| Store::open(env(), options.read_only(true)));
    drop(opened.expect("beside its writer, when all is in pages"));
}
