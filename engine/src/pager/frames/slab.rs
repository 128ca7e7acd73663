//! The bytes of the frames: who holds a pin reads them, who claimed a frame writes them. Which of the two it is, the words
//! in `frames.rs` say; the rules there are what makes this sound.

#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;

use super::{CLAIMED, EMPTY, Frames, NO_SHIFT, USED, WAYS};
use crate::sync::atomic::Ordering;

/// From this size on the slab asks for huge pages: below, one huge page touched for one frame is too dear.
#[cfg(target_os = "linux")]
const HUGE_BYTES_MIN: usize = 64 << 20;

/// A pinned frame. Made only by who has just added the pin.
pub(crate) struct Frame<'f> {
    pub(super) frames: &'f Frames,
    pub(super) slot: usize,
}

/// A frame in the state LOADING: nobody else reads or writes its bytes.
pub(super) struct Claim<'f> {
    pub(super) frames: &'f Frames,
    pub(super) slot: usize,
}

impl<'f> Claim<'f> {
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let at = self.slot * self.frames.page_bytes;
        // SAFETY: the frame lies within the slab. `claim` turned its word to LOADING where no pin stood, with Acquire,
        // so that all former readers are done; until this claim ends no lookup takes the frame for its page, and no
        // other claim takes it because of this one's pin. The borrow of `self` makes the slice the only one.
        unsafe { self.frames.slab.frame_mut(at, self.frames.page_bytes) }
    }

    /// Makes the frame readable, with one pin for the caller.
    pub(super) fn publish(self, no: u64) -> Frame<'f> {
        self.end(no << NO_SHIFT | 1);
        let frame = Frame { frames: self.frames, slot: self.slot };
        std::mem::forget(self);
        frame
    }

    /// Release: who sees the new number sees the bytes. An addition, because stray pins may stand on the word.
    fn end(&self, word: u64) {
        self.frames.word(self.slot).fetch_add(word.wrapping_sub(CLAIMED), Ordering::Release);
    }
}

impl Drop for Claim<'_> {
    /// The load failed, or panicked, or there was none.
    fn drop(&mut self) {
        if self.frames.wipe {
            wipe(self.bytes());
        }
        self.end(EMPTY << NO_SHIFT | USED);
    }
}

impl Deref for Frame<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let page_bytes = self.frames.page_bytes;
        // SAFETY: the frame lies within the slab. This pin was added while the word held a page number, with Acquire,
        // so the bytes published before are seen; no claim succeeds while it stands, so nobody writes to them. The
        // slice lives no longer than `self`, which has the pin.
        unsafe { self.frames.slab.frame(self.slot * page_bytes, page_bytes) }
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        self.frames.unpin(self.slot);
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if !self.wipe {
            return;
        }
        for slot in 0..self.sets.len() * WAYS {
            if self.word(slot).load(Ordering::Relaxed) != 0 {
                // SAFETY: within the slab; `&mut self` means that no frame and no claim is left.
                let bytes = unsafe { self.slab.frame_mut(slot * self.page_bytes, self.page_bytes) };
                wipe(bytes);
            }
        }
    }
}

fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // Keeps the compiler from leaving out a write that nobody reads.
    std::hint::black_box(bytes);
}

/// Zeroed memory that becomes resident as it is touched.
pub(super) struct Slab {
    base: *mut u8,
    len: usize,
    #[cfg(unix)]
    _memory: memmap2::MmapMut,
    #[cfg(not(unix))]
    _memory: Vec<u8>,
}

// SAFETY: the slab is plain memory that it owns; who may touch which of its bytes is settled by the frames' words.
unsafe impl Send for Slab {}
// SAFETY: as above; `frame` and `frame_mut` are unsafe and name what their callers must hold.
unsafe impl Sync for Slab {}

impl Slab {
    pub(super) fn new(len: usize) -> io::Result<Self> {
        #[cfg(unix)]
        let mut memory = memmap2::MmapMut::map_anon(len)?;
        #[cfg(not(unix))]
        let mut memory = vec![0; len];
        // Best effort: without huge pages a large cache costs more TLB misses, and works.
        #[cfg(target_os = "linux")]
        if len >= HUGE_BYTES_MIN {
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { base: memory.as_mut_ptr(), len, _memory: memory })
    }

    /// # Safety
    /// The range is within the slab, and nobody writes to it while the slice lives.
    #[inline]
    pub(super) unsafe fn frame(&self, at: usize, len: usize) -> &[u8] {
        debug_assert!(at + len <= self.len);
        // SAFETY: `base` is valid for `self.len` bytes, all initialised, as long as `self` lives; the rest is the
        // caller's promise.
        unsafe { std::slice::from_raw_parts(self.base.add(at), len) }
    }

    /// # Safety
    /// The range is within the slab, and nobody else reads or writes it while the slice lives.
    #[allow(clippy::mut_from_ref)] // the frames' words make it exclusive, not the borrow of the slab
    unsafe fn frame_mut(&self, at: usize, len: usize) -> &mut [u8] {
        debug_assert!(at + len <= self.len);
        // SAFETY: as in `frame`.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(at), len) }
    }
}
