//! A race on purpose, in the shape in which the engine could have one: a frame's bytes written while a reader has them.
//! `.ci/sanitize thread` sets `BLAZE_PLANT_RACE` to see that ThreadSanitizer finds it, what is suppressed
//! notwithstanding; without the variable nothing happens.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Frame {
    pins: AtomicU64,
    bytes: UnsafeCell<u64>,
}

// SAFETY: not sound, which is the point: the pin is taken and looked at with `Relaxed`, where the engine's frames use
// Acquire and Release.
unsafe impl Sync for Frame {}

#[test]
fn a_race_is_found() {
    if std::env::var_os("BLAZE_PLANT_RACE").is_none() {
        return;
    }
    let frame = Arc::new(Frame { pins: AtomicU64::new(1), bytes: UnsafeCell::new(0) });
    let reader = {
        let frame = Arc::clone(&frame);
        std::thread::spawn(move || {
            // SAFETY: see above.
            let seen = unsafe { frame.bytes.get().read() };
            frame.pins.fetch_sub(1, Ordering::Relaxed);
            seen
        })
    };
    while frame.pins.load(Ordering::Relaxed) > 0 {
        std::thread::yield_now();
    }
    // SAFETY: see above.
    unsafe { frame.bytes.get().write(1) };
    assert_eq!(reader.join().expect("the reader does not panic"), 0);
}
