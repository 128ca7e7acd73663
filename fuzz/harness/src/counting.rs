//! Counts what the thread has allocated, but for what is said not to count: the simulated disk's own bytes.
//!
//! Part of the programs that count, not of the library, which has no unsafe code.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use blazedb_harness::decade::Gauge;

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static BASE: Cell<isize> = const { Cell::new(0) };
    static PAUSED: Cell<usize> = const { Cell::new(0) };
}

fn note(bytes: isize) {
    if PAUSED.try_with(Cell::get).unwrap_or(1) > 0 {
        return;
    }
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

/// The gauge of this program.
pub(crate) const GAUGE: Gauge = Gauge {
    begin: || {
        BASE.set(LIVE.get());
        PEAK.set(LIVE.get());
    },
    peak: || (PEAK.get() - BASE.get()).max(0) as u64,
    pause: || PAUSED.set(PAUSED.get() + 1),
    resume: || PAUSED.set(PAUSED.get() - 1),
};
