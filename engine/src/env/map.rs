//! A file mapped into memory for reading.
//!
//! Only on 64-bit Unix: elsewhere a map may not find room, or stops the file from being cut.
//!
//! The map hands out ranges, never itself as one slice: while somebody reads one page another may be rewritten, and
//! a `&[u8]` that covers both would be a promise that nobody keeps. Who asks for a range answers for it that nobody
//! writes to those bytes as long as the slice lives; the store's pages are written once and not again before the
//! last reader that could name them has gone, and its lock keeps other programs' stores out.
//!
//! What a map costs, so that nobody is surprised: a read error of the device arrives as the signal SIGBUS and ends
//! the program, and so does touching bytes that another program cut off; every page touched counts as resident
//! memory. `read_at` has none of these. A store that fears them (removable media) opens without maps.

#![allow(unsafe_code)]

use std::fmt;

/// A read-only map of the beginning of a file; it outlives the file's handle and its name.
pub struct FileMap {
    map: Inner,
    len: usize,
}

#[cfg(all(unix, target_pointer_width = "64"))]
type Inner = std::sync::Arc<memmap2::MmapRaw>;
#[cfg(not(all(unix, target_pointer_width = "64")))]
type Inner = std::convert::Infallible;

impl FileMap {
    /// Maps `len` bytes and room for the file to grow to `room`.
    #[cfg(all(unix, target_pointer_width = "64"))]
    pub(super) fn new(file: &std::fs::File, len: u64, room: u64) -> std::io::Result<Self> {
        // Bytes beyond the file's end can be mapped as well, and would be a SIGBUS to touch.
        if len == 0 || file.metadata()?.len() < len {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let map = memmap2::MmapOptions::new().len(room.max(len) as usize).map_raw_read_only(file)?;
        Ok(Self { map: std::sync::Arc::new(map), len: len as usize })
    }

    /// Returns the same map for a file that is `len` bytes long by now; `None` where its room does not reach.
    pub fn grown_to(&self, len: u64) -> Option<Self> {
        #[cfg(all(unix, target_pointer_width = "64"))]
        return (len <= self.map.len() as u64)
            .then(|| Self { map: std::sync::Arc::clone(&self.map), len: len as usize });
        #[cfg(not(all(unix, target_pointer_width = "64")))]
        match self.map {}
    }

    /// Returns how many bytes may be looked at.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether nothing is mapped; never, as a map of nothing is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns `len` bytes from `offset`; `None` where the map does not reach. Nobody may write to those bytes while
    /// the slice lives.
    pub fn range(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let from = usize::try_from(offset).ok()?;
        if from.checked_add(len)? > self.len() {
            return None;
        }
        #[cfg(all(unix, target_pointer_width = "64"))]
        // SAFETY: `from + len` is within the map, which lives as long as `self` is borrowed and was mapped readable.
        // That the bytes do not change under the slice is the caller's part, as the module's head says.
        return Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(from), len) });
        #[cfg(not(all(unix, target_pointer_width = "64")))]
        match self.map {}
    }
}

impl fmt::Debug for FileMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileMap").field("len", &self.len()).finish_non_exhaustive()
    }
}
