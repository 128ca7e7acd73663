//! The frame cache under threads, evictions and reuse.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const PAGE: usize = 4096;

fn budget(sets: usize) -> usize {
    sets * (WAYS * PAGE + size_of::<Set>())
}

/// A page's content: its number and version, over and over.
fn fill(page: &mut [u8], no: u64, version: u64) {
    for chunk in page.chunks_exact_mut(16) {
        chunk[..8].copy_from_slice(&no.to_le_bytes());
        chunk[8..].copy_from_slice(&version.to_le_bytes());
    }
}

/// Returns the version, after checking that the page is whole and of that number.
fn version(page: &[u8], no: u64) -> u64 {
    let first: [u8; 16] = page[..16].try_into().unwrap();
    assert_eq!(first[..8], no.to_le_bytes(), "another page than the one asked for");
    assert!(page.chunks_exact(16).all(|c| c == first), "a torn page");
    u64::from_le_bytes(first[8..].try_into().unwrap())
}

fn load(frames: &Frames, no: u64, with: u64) -> u64 {
    let loaded = frames.get_or_load(no, |page| {
        fill(page, no, with);
        Ok::<(), Infallible>(())
    });
    match loaded.unwrap() {
        Loaded::Frame(frame) => version(&frame, no),
        Loaded::Heap(page) => version(&page, no),
    }
}

fn assert_no_pins(frames: &Frames) {
    for (i, word) in frames.sets.iter().flat_map(|s| &s.0).enumerate() {
        let word = word.load(Ordering::SeqCst);
        assert_eq!(word & PINS_MASK, 0, "frame {i} is still pinned");
        assert_ne!(word >> NO_SHIFT, LOADING, "frame {i} is still loading");
    }
}

fn assert_no_page_twice(frames: &Frames) {
    let mut numbers: Vec<u64> = frames
        .sets
        .iter()
        .flat_map(|s| &s.0)
        .map(|w| w.load(Ordering::SeqCst) >> NO_SHIFT)
        .filter(|&n| n != EMPTY)
        .collect();
    let all = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), all, "a page lies in two frames");
}

#[test]
fn a_page_is_loaded_once_and_found_again() {
    let frames = Frames::new(budget(4), PAGE, true).unwrap();
    assert!(frames.get(9).is_none());
    assert_eq!(load(&frames, 9, 1), 1);
    assert_eq!(load(&frames, 9, 2), 1, "found, so not loaded again");
    frames.forget(9);
    assert_eq!(load(&frames, 9, 3), 3);
    frames.insert(9, |page| fill(page, 9, 4));
    assert_eq!(version(&frames.get(9).unwrap(), 9), 4);
    let stats = frames.stats();
    assert_eq!((stats.frames, stats.used, stats.misses, stats.evictions, stats.bypasses), (32, 1, 2, 0, 0));
    assert_no_pins(&frames);
}

#[test]
fn a_failed_or_panicking_load_leaves_nothing() {
    let frames = Frames::new(0, PAGE, false).unwrap();
    assert_eq!(frames.stats().frames, 8, "the least there is");
    assert!(matches!(frames.get_or_load(5, |_| Err("no")), Err("no")));
    assert!(frames.get(5).is_none());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = frames.get_or_load(5, |_| -> Result<(), ()> { panic!("inside a load") });
    }));
    assert!(panicked.is_err());
    assert_eq!(load(&frames, 5, 7), 7);
    assert_no_pins(&frames);
}

#[test]
fn with_every_frame_pinned_pages_come_from_the_heap() {
    let frames = Frames::new(0, PAGE, false).unwrap();
    let mut pinned = Vec::new();
    for no in 1..=8 {
        load(&frames, no, 1);
        pinned.push(frames.get(no).unwrap());
    }
    assert_eq!(load(&frames, 9, 1), 1);
    frames.insert(10, |page| fill(page, 10, 1));
    assert!(frames.get(9).is_none() && frames.get(10).is_none());
    assert_eq!(frames.stats().bypasses, 1);
    pinned.pop();
    load(&frames, 9, 1);
    assert!(frames.get(9).is_some(), "one pin less is one frame to use");
    drop(pinned);
    assert_no_pins(&frames);
}

#[test]
fn a_forgotten_page_stays_readable_for_who_has_it() {
    let frames = Frames::new(0, PAGE, false).unwrap();
    load(&frames, 3, 1);
    let old = frames.get(3).unwrap();
    frames.insert(3, |page| fill(page, 3, 2));
    assert_eq!(version(&old, 3), 1);
    assert_eq!(version(&frames.get(3).unwrap(), 3), 2);
    for no in 10..40 {
        load(&frames, no, 1);
    }
    assert_eq!(version(&old, 3), 1, "a pin outlives any number of evictions");
    drop(old);
    assert_no_pins(&frames);
}

#[test]
fn a_scan_does_not_push_out_pages_in_use() {
    let frames = Frames::new(budget(128), PAGE, false).unwrap();
    let hot: Vec<u64> = (1..=512).collect();
    for _ in 0..4 {
        for &no in &hot {
            load(&frames, no, 1);
        }
    }
    // Four times as many pages as there are frames pass by, once each.
    for no in 10_000..10_000 + 4 * 1024 {
        load(&frames, no, 1);
    }
    let kept = hot.iter().filter(|&&no| frames.get(no).is_some()).count();
    assert!(kept > 490, "{kept} of 512 hot pages are left");
    // And what is never used again goes, when others are in use.
    for _ in 0..40 {
        for no in 20_000..20_900 {
            load(&frames, no, 1);
        }
    }
    let kept = hot.iter().filter(|&&no| frames.get(no).is_some()).count();
    assert!(kept < 256, "{kept} of 512 pages stay although nobody wants them");
}

#[test]
fn written_pages_do_not_push_out_pages_in_use() {
    let frames = Frames::new(budget(16), PAGE, false).unwrap();
    for _ in 0..2 {
        for no in 1..=128 {
            load(&frames, no, 1);
        }
    }
    let before = (1..=128).filter(|&no| frames.get(no).is_some()).count();
    for no in 1000..3000 {
        frames.insert(no, |page| fill(page, no, 1));
    }
    let after = (1..=128).filter(|&no| frames.get(no).is_some()).count();
    assert!(after * 10 >= before * 9, "{after} of {before}");
}

#[test]
fn a_cache_of_pages_read_twice_is_well_filled() {
    let frames = Frames::new(budget(128), PAGE, false).unwrap();
    let pages = frames.stats().frames * 9 / 10;
    for no in 1..=pages {
        load(&frames, no, 1);
    }
    let kept = (1..=pages).filter(|&no| frames.get(no).is_some()).count() as u64;
    assert!(kept * 100 >= pages * 97, "{kept} of {pages}: two sets to choose from leave few without a place");
}

/// Threads read, pin for long, forget and renew pages of a cache that is much too small. Every page says which it is
/// and which version; a reader must never see less than the version that stood when it began.
#[test]
fn many_threads_never_see_a_torn_or_wrong_page() {
    const PAGES: u64 = 96;
    let frames = Frames::new(budget(3), PAGE, true).unwrap();
    let all_ones = || (0..PAGES + 1).map(|_| AtomicU64::new(1)).collect::<Vec<_>>();
    // What a load finds, and what a reader may count on: the second follows when the cache has been told.
    let (on_disk, promised) = (all_ones(), all_ones());
    let stop = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut readers = Vec::new();
        for seed in 0..4_u64 {
            let (frames, on_disk, promised) = (&frames, &on_disk, &promised);
            let (stop, reads) = (&stop, &reads);
            readers.push(scope.spawn(move || {
                let mut state = seed;
                let mut held = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    state = mix(state);
                    // Half of all reads go to eight pages.
                    let no = if state & 1 == 0 { 1 + (state >> 8) % 8 } else { 1 + (state >> 8) % PAGES };
                    let before = promised[no as usize].load(Ordering::SeqCst);
                    let loaded = frames.get_or_load(no, |page| {
                        fill(page, no, on_disk[no as usize].load(Ordering::SeqCst));
                        Ok::<(), Infallible>(())
                    });
                    match loaded.unwrap() {
                        Loaded::Frame(frame) => {
                            let seen = version(&frame, no);
                            assert!(seen >= before, "an old version of page {no} after it was forgotten");
                            if state & 0x70 == 0 {
                                held.push((no, seen, frame));
                            }
                        }
                        Loaded::Heap(page) => {
                            version(&page, no);
                        }
                    }
                    if held.len() > 3 {
                        let (no, seen, frame) = held.swap_remove((state >> 40) as usize % held.len());
                        assert_eq!(version(&frame, no), seen, "a page changed while it was held");
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let mut state = 99;
        let mut round = 0;
        // The readers may get the processor late; a reader that has failed does not make this wait for ever.
        while round < 60_000 || (reads.load(Ordering::Relaxed) < 200_000 && round < 20_000_000) {
            round += 1;
            state = mix(state);
            let no = 1 + state % PAGES;
            let version = 1 + round;
            on_disk[no as usize].store(version, Ordering::SeqCst);
            if state >> 32 & 1 == 0 {
                frames.forget(no);
            } else {
                frames.insert(no, |page| fill(page, no, version));
            }
            promised[no as usize].store(version, Ordering::SeqCst);
        }
        stop.store(true, Ordering::Relaxed);
        join(readers);
    });
    assert!(reads.load(Ordering::Relaxed) >= 200_000);
    assert_no_pins(&frames);
    assert_no_page_twice(&frames);
}

/// Waits for each thread's end, which ThreadSanitizer sees, as it does not see that of a scope: the frames are freed
/// next.
fn join(threads: Vec<std::thread::ScopedJoinHandle<'_, ()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Returns whether a page's plaintext stands anywhere in the slab.
fn is_in_memory(frames: &Frames, no: u64, version: u64) -> bool {
    let mut page = vec![0; PAGE];
    fill(&mut page, no, version);
    (0..frames.sets.len() * WAYS).any(|slot| {
        // SAFETY: within the slab, and this test is alone with it.
        unsafe { frames.slab.frame(slot * PAGE, PAGE) }.chunks(256).any(|part| part == &page[..256])
    })
}

#[test]
fn plaintext_goes_with_its_page() {
    for wipe in [true, false] {
        let frames = Frames::new(budget(2), PAGE, wipe).unwrap();
        load(&frames, 1, 7);
        frames.forget(1);
        assert_eq!(is_in_memory(&frames, 1, 7), !wipe, "taken out");
        load(&frames, 2, 7);
        let pinned = frames.get(2).expect("it was loaded");
        let again = frames.get(2).expect("it was loaded");
        frames.forget(2);
        assert_eq!(version(&pinned, 2), 7, "who has it pinned keeps the old bytes");
        drop(pinned);
        assert_eq!(version(&again, 2), 7);
        drop(again);
        assert_eq!(is_in_memory(&frames, 2, 7), !wipe, "the last pin is gone");
        let failed = frames.get_or_load(3, |page| {
            fill(&mut page[..2048], 3, 7);
            Err("the disk ends here")
        });
        assert_eq!(failed.err(), Some("the disk ends here"));
        assert_eq!(is_in_memory(&frames, 3, 7), !wipe, "half loaded");
        // Pages that make room for others are overwritten by them.
        load(&frames, 4, 7);
        (5..200).for_each(|no| _ = load(&frames, no, 7));
        assert!(frames.get(4).is_none() && !is_in_memory(&frames, 4, 7), "made room");
        assert_no_pins(&frames);
    }
}

#[test]
fn a_page_wanted_by_many_at_once_is_loaded_once() {
    let frames = Frames::new(budget(64), PAGE, false).unwrap();
    let loads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let ask = || {
            for no in 1..=200 {
                let loaded = frames.get_or_load(no, |page| {
                    loads.fetch_add(1, Ordering::Relaxed);
                    fill(page, no, 1);
                    Ok::<(), Infallible>(())
                });
                drop(loaded.unwrap());
            }
        };
        join((0..4).map(|_| scope.spawn(ask)).collect());
    });
    assert_eq!(loads.load(Ordering::Relaxed), 200);
    assert_no_page_twice(&frames);
}
