//! Pages: the fixed-size, sealed pieces of the file that trees and long values are made of.
//!
//! A page is written once and never changed: a new state is written beside the old one, and a page number is used
//! again only when no header and no reader can name its old content. Who names a page names its proof with it, so a
//! stale, swapped or forged page is told from the right one, with and without encryption.
//!
//! `page.rs` is the page on disk and its seal, `frames.rs` the cache of opened pages, `pages.rs` reads (cache, map
//! or file), `batch.rs` and `writer.rs` write in long runs, `space.rs` knows which page numbers are in use.
//! Read `PageRef`, then `Pages`.
//!
//! Invariants:
//! - bytes that did not pass checksum, number, kind, proof and seal never leave this room;
//! - a page handed out does not change while it is held;
//! - no (subkey, nonce) is used twice, also across crashes and copies of the file.

pub(crate) mod batch;
pub(crate) mod frames;
pub(crate) mod page;
pub(crate) mod pages;
pub(crate) mod space;
pub(crate) mod writer;

use std::fmt;
use std::io;
use std::ops::Deref;

pub(crate) use self::batch::{PageBatch, RUN_BYTES_MAX};
pub(crate) use self::page::PageSealer;
pub(crate) use self::pages::{MissFrom, Pages, first_page};
pub(crate) use self::space::{Space, SpaceCounts};
pub(crate) use self::writer::PageWriter;

use self::frames::Frame;
use crate::error::{Corruption, CorruptionKind, is_full};

pub(crate) const PAGE_HEADER_BYTES: usize = 56;

/// Sizes that a file may choose.
pub(crate) const PAGE_BYTES: [usize; 3] = [4096, 8192, 16384];

/// Where a page is and what it must be: `proof` is the first 8 bytes (little-endian) of the page's tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PageRef {
    pub(crate) no: u64,
    pub(crate) proof: u64,
}

/// What a page holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PageKind {
    Leaf = 1,
    Branch = 2,
    Value = 3,
    ValueIndex = 4,
    Space = 5,
    SpaceIndex = 6,
}

const READING: &str = "reading a page";

/// What went wrong with a page.
#[derive(Debug)]
pub(crate) enum PageError {
    Corruption(Corruption),
    /// Only when writing: nothing that a header names was touched, and the store may go on.
    DiskFull {
        during: &'static str,
        source: io::Error,
    },
    Io {
        during: &'static str,
        source: io::Error,
    },
}

impl PageError {
    /// A page that is not the one its parent names.
    pub(crate) fn page(no: u64, page_bytes: usize, rule: &'static str) -> Self {
        Self::Corruption(Corruption {
            offset: no.saturating_mul(page_bytes as u64),
            what: CorruptionKind::Page { no, rule },
        })
    }

    /// A page whose seal holds and whose content breaks the format.
    pub(crate) fn node(no: u64, page_bytes: usize, rule: &'static str) -> Self {
        Self::Corruption(Corruption {
            offset: no.saturating_mul(page_bytes as u64),
            what: CorruptionKind::Node { no, rule },
        })
    }

    /// Whether a page could not be read, for what it says or what the disk says.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Corruption(_) | Self::Io { during: READING, .. })
    }

    fn writing(during: &'static str, source: io::Error) -> Self {
        if is_full(source.kind()) { Self::DiskFull { during, source } } else { Self::Io { during, source } }
    }
}

/// A checked page's body, in plaintext. Short-lived: it may pin a frame of the cache, so nothing that outlives one
/// operation keeps it.
pub(crate) struct Page<'p>(Body<'p>);

enum Body<'p> {
    /// A whole page in the cache, header included.
    Frame(Frame<'p>),
    /// A body out of the map, or wherever the caller has it.
    Borrowed(&'p [u8]),
    /// A whole page on the heap, header included.
    OwnedPage(Box<[u8]>),
}

impl<'p> Page<'p> {
    pub(crate) fn borrowed(body: &'p [u8]) -> Self {
        Self(Body::Borrowed(body))
    }

    fn frame(frame: Frame<'p>) -> Self {
        Self(Body::Frame(frame))
    }

    fn owned_page(page: Box<[u8]>) -> Self {
        Self(Body::OwnedPage(page))
    }

    /// Returns a page that holds its own bytes.
    pub(crate) fn into_owned(self) -> Page<'static> {
        let body = match self.0 {
            Body::OwnedPage(page) => return Page::owned_page(page),
            Body::Frame(frame) => return Page::owned_page(Box::from(&*frame)),
            Body::Borrowed(body) => body,
        };
        let mut page = vec![0; PAGE_HEADER_BYTES + body.len()];
        page[PAGE_HEADER_BYTES..].copy_from_slice(body);
        Page::owned_page(page.into())
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Body::Frame(frame) => &frame[PAGE_HEADER_BYTES..],
            Body::Borrowed(body) => body,
            Body::OwnedPage(page) => &page[PAGE_HEADER_BYTES..],
        }
    }

    /// Returns the key epoch that the page was sealed under; `None` where only its body is at hand, which is so
    /// without encryption.
    pub(crate) fn epoch(&self) -> Option<u16> {
        match &self.0 {
            Body::Frame(frame) => Some(page::epoch_of(frame)),
            Body::Borrowed(_) => None,
            Body::OwnedPage(page) => Some(page::epoch_of(page)),
        }
    }
}

impl Deref for Page<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Page").field(&self.bytes().len()).finish()
    }
}

/// Reads pages of one state of the file.
pub(crate) trait PageRead {
    /// Returns the usable bytes of a page: its size less its header.
    fn body_bytes(&self) -> usize;

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError>;
}

impl<P: PageRead> PageRead for &mut P {
    fn body_bytes(&self) -> usize {
        (**self).body_bytes()
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        (**self).page(at, kind)
    }
}

impl<P: PageWrite> PageWrite for &mut P {
    fn write(&mut self, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError> {
        (**self).write(kind, body)
    }

    fn release(&mut self, no: u64) {
        (**self).release(no);
    }
}

/// Writes pages of a new state of the file.
pub(crate) trait PageWrite: PageRead {
    /// Writes a new page; a body shorter than `body_bytes` is filled up with zeros. Pages written one after another
    /// lie one after another where there is room. What was written can be read back at once.
    fn write(&mut self, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError>;

    /// Says that the page is no part of the new state. One that this same writer wrote is free at once.
    fn release(&mut self, no: u64);
}

#[cfg(test)]
mod tests;
