//! Memory of a load, counted: bounded, however many rows there are.
//!
//! A binary of its own, because the counting allocator is global and counts all threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use blazedb_engine::{Env, Memory, Options, Store};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting touches two numbers alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, and every block came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that is held beyond what was held before, while this many rows of 110 bytes are loaded.
fn peak_of_load(store: &Store, rows: u64) -> usize {
    let tree = store.tree("t").expect("a good name");
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let mut loader = store.loader();
    for n in 0..rows {
        // No order, and an odd factor meets no number twice.
        let key = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        loader.put(tree, &key, &[n as u8; 102]).expect("room");
    }
    loader.finish().expect("loads");
    PEAK.load(Ordering::Relaxed) - before
}

#[test]
fn memory_does_not_grow_with_the_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options::unencrypted().memory(Memory::CLIENT);
    let store = Store::open(Env::file(folder.path().join("a.blaze")), options).expect("opens");
    // An arena of 4 MiB and the array that orders it; one reader of 128 KiB and less for each of the runs.
    let few = peak_of_load(&store, 100_000);
    assert!(few < 8 << 20, "{few} bytes for 11 MB");
    let many = peak_of_load(&store, 600_000);
    assert!(many < 11 << 20, "{many} bytes for 66 MB, {few} for 11 MB");
    assert_eq!(store.read().len(store.tree("t").expect("a good name")).expect("reads"), 600_000);
    store.verify(&mut |_| {}).expect("pages and space agree");
}
