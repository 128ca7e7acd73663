//! What each byte of a store's header and pages means: for people who look at bytes, by `blazedb dump --hex`.
//!
//! Nothing is judged here but what the header's reader and a page's checksum say; the body of a sealed page is shown as
//! it lies, and explained where [`Store::open_page`](crate::Store::open_page) has opened it. Hostile bytes make odd parts,
//! never a panic.

use std::io;

use crate::error::OpenError;
use crate::pager::page::is_intact;
use crate::pager::{PAGE_BYTES, PAGE_HEADER_BYTES};
use crate::seal::Cipher;
use crate::superblock::{KEY_SLOTS, PAGES_START, SLOT_BYTES, SLOT_OFFSETS, Unchecked};

/// Where the header's slots begin in a store's file.
pub const HEADER_SLOTS: [u64; 2] = SLOT_OFFSETS;

/// Bytes of a slot of the header.
pub const HEADER_SLOT_BYTES: usize = SLOT_BYTES;

/// What somebody who looks at pages needs of a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderFacts {
    /// Goes up with every header that is written.
    pub sequence: u64,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// The first page's number.
    pub first_page: u64,
    /// Pages that the file spans.
    pub page_count: u64,
    /// Bodies of pages are sealed.
    pub encrypted: bool,
}

/// A few bytes and what they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Where they begin in the file.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
    /// What they mean.
    pub meaning: String,
}

/// Longest meaning, in characters: one line of a terminal.
const MEANING_CHARS_MAX: usize = 100;

/// The bytes end before what they announce, or say what no page says.
struct Odd(&'static str);

type Step<T = ()> = Result<T, Odd>;

/// Goes through bytes and tells what it meets.
struct Walk<'a, 's> {
    bytes: &'a [u8],
    offset: u64,
    sink: &'s mut dyn FnMut(Part<'_>),
}

impl<'a, 's> Walk<'a, 's> {
    fn new(bytes: &'a [u8], offset: u64, sink: &'s mut dyn FnMut(Part<'_>)) -> Self {
        Self { bytes, offset, sink }
    }

    fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Takes `count` bytes as one part.
    fn take(&mut self, count: usize, say: impl FnOnce(&'a [u8]) -> String) -> Step<&'a [u8]> {
        let (bytes, rest) = self.bytes.split_at_checked(count).ok_or(Odd("the page ends before this does"))?;
        if !bytes.is_empty() {
            let meaning =
                say(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).take(MEANING_CHARS_MAX).collect();
            (self.sink)(Part { offset: self.offset, bytes, meaning });
        }
        self.bytes = rest;
        self.offset += count as u64;
        Ok(bytes)
    }

    /// Takes a number, the least significant byte first.
    fn fixed(&mut self, count: usize, what: &str) -> Step<u64> {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
        self.take(count, |bytes| format!("{what} {}", number(bytes))).map(number)
    }

    /// Takes bytes that are shown as digits.
    fn hex(&mut self, count: usize, what: &str) -> Step<&'a [u8]> {
        self.take(count, |bytes| format!("{what} {}", digits(bytes)))
    }

    /// Goes through all that is left; what is not understood says so.
    fn all(mut self, explain: impl FnOnce(&mut Self) -> Step) {
        let outcome = explain(&mut self);
        let left = self.left();
        let _ = self.take(left, |_| match outcome {
            Ok(()) => format!("{left} bytes that nothing speaks of"),
            Err(Odd(why)) => format!("not understood: {why}"),
        });
    }
}

/// The first bytes, in hexadecimal.
fn digits(bytes: &[u8]) -> String {
    let text: String = bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > 32 { text + "..." } else { text }
}

/// Explains a slot of the header that lies at `offset`; returns what it says, none where magic or checksum fail, or the
/// error of its reader. spec: E-2
pub fn explain_slot(
    slot: &[u8],
    offset: u64,
    sink: &mut dyn FnMut(Part<'_>),
) -> Result<Option<HeaderFacts>, OpenError> {
    Walk::new(slot, offset, sink).all(header);
    let Ok(block) = <Box<[u8; SLOT_BYTES]>>::try_from(slot.to_vec().into_boxed_slice()) else { return Ok(None) };
    let found = Unchecked::decode(block, offset)?;
    Ok(found.map(|found| {
        let header = &found.superblock;
        HeaderFacts {
            sequence: header.sequence,
            page_bytes: header.page_bytes as usize,
            first_page: PAGES_START / u64::from(header.page_bytes),
            page_count: header.page_count,
            encrypted: header.cipher != Cipher::None,
        }
    }))
}

fn header(walk: &mut Walk<'_, '_>) -> Step {
    walk.take(8, |bytes| format!("magic {:?}", String::from_utf8_lossy(bytes)))?;
    walk.fixed(2, "format version")?;
    walk.fixed(2, "feature bits")?;
    walk.take(1, cipher)?;
    walk.fixed(1, "zero:")?;
    walk.fixed(2, "key epoch")?;
    walk.fixed(8, "sequence")?;
    walk.hex(16, "file id")?;
    for what in ["log block size", "page size"] {
        walk.fixed(4, what)?;
    }
    for what in ["commit", "durable floor", "log position: generation", "log position: offset"] {
        walk.fixed(8, what)?;
    }
    walk.hex(16, "log position: chain tag")?;
    walk.fixed(1, "height of the tree of roots:")?;
    walk.hex(7, "zero:")?;
    walk.fixed(8, "tree of roots: page")?;
    walk.hex(8, "tree of roots: proof")?;
    walk.fixed(8, "tree of roots: entries")?;
    walk.fixed(8, "space: page")?;
    walk.hex(8, "space: proof")?;
    walk.fixed(8, "page count")?;
    walk.fixed(8, "written, in milliseconds since 1970:")?;
    walk.fixed(2, "previous key: epoch")?;
    walk.take(1, |bytes| format!("previous key: {}", cipher(bytes)))?;
    walk.fixed(1, "zero:")?;
    walk.hex(32, "previous key, encrypted:")?;
    walk.hex(16, "previous key: tag")?;
    walk.hex(44, "zero:")?;
    for slot in 0..KEY_SLOTS {
        walk.take(1, |bytes| {
            let words = ["empty", "passphrase", "raw key", "key provider"];
            let kind = bytes.first().copied().unwrap_or_default();
            format!("key slot {slot}: {}", words.get(usize::from(kind)).unwrap_or(&"unknown"))
        })?;
        walk.hex(3, "zero:")?;
        for what in ["Argon2id memory in KiB:", "Argon2id passes:", "Argon2id lanes:"] {
            walk.fixed(4, what)?;
        }
        walk.hex(16, "salt")?;
        walk.hex(32, "master key, encrypted:")?;
        walk.hex(16, "tag")?;
        walk.hex(16, "zero:")?;
    }
    walk.hex(3420, "zero:")?;
    walk.hex(32, "authentication")?;
    walk.hex(4, "CRC-32, as it lies:")?;
    Ok(())
}

fn cipher(bytes: &[u8]) -> String {
    let code = bytes.first().copied().unwrap_or_default();
    match Cipher::from_code(code) {
        Some(cipher) => format!("cipher {code}: {cipher:?}"),
        None => format!("cipher {code}: unknown (C-1)"),
    }
}

/// Explains a page that lies at `offset`. Where its body is sealed, `opened` is the page as
/// [`Store::open_page`](crate::Store::open_page) returned it; without it the body is not explained. Returns the rule that the
/// page breaks by itself, which is its checksum's, its kind's or its number's. spec: E-30
pub fn explain_page(
    page: &[u8],
    offset: u64,
    opened: Option<&[u8]>,
    sink: &mut dyn FnMut(Part<'_>),
) -> Result<(), (u64, &'static str)> {
    let (head, body) = page.split_at(page.len().min(PAGE_HEADER_BYTES));
    let mut kind = 0;
    let mut is_sealed = false;
    Walk::new(head, offset, sink).all(|walk| {
        walk.hex(4, "CRC-32, as it lies:")?;
        let found = walk.take(1, |bytes| kind_of(bytes.first().copied().unwrap_or_default()))?;
        kind = found.first().copied().unwrap_or_default();
        is_sealed = walk.take(1, cipher)? != [Cipher::None.code()];
        walk.fixed(2, "key epoch")?;
        walk.fixed(8, "page number")?;
        walk.hex(12, "nonce: generation")?;
        walk.hex(12, "nonce: counter")?;
        walk.hex(8, "tag; its first half is the proof:")?;
        walk.hex(8, "tag, second half:")?;
        Ok(())
    });
    let at = offset + head.len() as u64;
    match opened.and_then(|opened| opened.get(head.len()..)) {
        Some(body) => Walk::new(body, at, sink).all(|walk| explain_body(walk, kind)),
        None if is_sealed => Walk::new(body, at, sink).all(|walk| {
            let left = walk.left();
            walk.take(left, |_| format!("body, sealed: {left} bytes; the key is needed to explain them")).map(drop)
        }),
        None => Walk::new(body, at, sink).all(|walk| explain_body(walk, kind)),
    }
    if !PAGE_BYTES.contains(&page.len()) || !is_intact(page) {
        return Err((offset, "E-32: its checksum does not hold"));
    }
    match kind {
        1..=6 => Ok(()),
        _ => Err((offset + 4, "E-30: there is no such kind of page")),
    }
}

fn kind_of(kind: u8) -> String {
    let words = ["", "leaf", "branch", "value", "value index", "space", "space index"];
    match words.get(usize::from(kind)) {
        Some(word) if kind > 0 => format!("kind {kind}: {word}"),
        _ => format!("kind {kind}: unknown (E-30)"),
    }
}

/// The body of an opened page.
fn explain_body(walk: &mut Walk<'_, '_>, kind: u8) -> Step {
    match kind {
        1 | 2 => node(walk, kind == 1),
        4 => {
            walk.fixed(1, "level")?;
            walk.fixed(1, "zero:")?;
            let count = walk.fixed(2, "children:")?;
            walk.fixed(4, "zero:")?;
            for index in 0..count {
                child(walk, index)?;
            }
            zeros(walk)
        }
        5 => {
            walk.fixed(8, "part of the bitmap:")?;
            walk.fixed(4, "bits set:")?;
            walk.fixed(4, "zero:")?;
            let left = walk.left();
            walk.take(left, |_| "bits, one for each page, set for a page in use".to_owned()).map(drop)
        }
        6 => {
            walk.fixed(8, "pages that the bitmap spans:")?;
            let count = walk.fixed(4, "entries:")?;
            walk.fixed(4, "index page:")?;
            walk.fixed(8, "next index page:")?;
            walk.hex(8, "next index page: proof")?;
            for index in 0..count {
                walk.fixed(8, &format!("entry {index}: page"))?;
                walk.hex(8, "proof")?;
            }
            zeros(walk)
        }
        _ => {
            let left = walk.left();
            let what = if kind == 3 { "bytes of a value" } else { "not understood" };
            walk.take(left, |_| what.to_owned()).map(drop)
        }
    }
}

fn child(walk: &mut Walk<'_, '_>, index: u64) -> Step {
    walk.fixed(6, &format!("child {index}: page"))?;
    walk.hex(8, "proof")?;
    Ok(())
}

/// What is left, which is zeros in a page of ours.
fn zeros(walk: &mut Walk<'_, '_>) -> Step {
    let left = walk.left();
    walk.take(left, |bytes| {
        let are_zeros = bytes.iter().all(|&byte| byte == 0);
        format!("{left} bytes not in use, {}", if are_zeros { "zero" } else { "and not zero (E-30)" })
    })
    .map(drop)
}

/// A leaf or a branch (spec: E-33, E-34).
fn node(walk: &mut Walk<'_, '_>, is_leaf: bool) -> Step {
    let body_len = walk.left();
    walk.fixed(1, "level")?;
    walk.fixed(1, "flags")?;
    let count = walk.fixed(2, if is_leaf { "entries:" } else { "children:" })?;
    let prefix_len = walk.fixed(2, "bytes that all keys begin with:")? as usize;
    let used = walk.fixed(2, "bytes in use:")? as usize;
    let keys = if is_leaf { count } else { count.saturating_sub(1) };
    for index in 0..keys {
        walk.hex(4, &format!("head of key {index}"))?;
    }
    for index in 0..keys {
        walk.fixed(2, &format!("offset of cell {index} in the body:"))?;
    }
    for index in 0..if is_leaf { 0 } else { count } {
        child(walk, index)?;
    }
    walk.take(prefix_len, |bytes| format!("all keys begin with {}", text(bytes)))?;
    for index in 0..keys {
        cell(walk, index, is_leaf)?;
    }
    if body_len - walk.left() != used {
        return Err(Odd("cells end where the bytes in use do (E-33)"));
    }
    zeros(walk)
}

fn cell(walk: &mut Walk<'_, '_>, index: u64, is_leaf: bool) -> Step {
    let suffix = length(walk, |n| format!("cell {index}: {n} bytes of key follow"))?;
    let value = if is_leaf {
        length(walk, |n| match n & 1 {
            0 => format!("{} bytes of value follow", n >> 1),
            _ => format!("{} bytes follow that name a long value's pages", n >> 1),
        })?
    } else {
        0
    };
    walk.take(suffix, |bytes| format!("key {index}: {}", text(bytes)))?;
    let len = value >> 1;
    if value & 1 == 1 && len == 23 {
        walk.fixed(8, "length of the value:")?;
        walk.fixed(1, "height of its pages:")?;
        walk.fixed(6, "page")?;
        walk.hex(8, "proof")?;
        return Ok(());
    }
    walk.take(len, |bytes| format!("value {index}: {}", text(bytes))).map(drop)
}

/// A length of one or two bytes.
fn length(walk: &mut Walk<'_, '_>, say: impl FnOnce(usize) -> String) -> Step<usize> {
    let (n, count) = match *walk.bytes {
        [low @ (0x80..), high, ..] => (usize::from(low & 0x7f) | usize::from(high & 0x7f) << 7, 2),
        [low, ..] => (usize::from(low & 0x7f), 1),
        [] => (0, 1),
    };
    walk.take(count, |_| say(n))?;
    Ok(n)
}

/// Text where it is text, else digits.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text:?}"),
        _ => digits(bytes),
    }
}

impl crate::Store {
    /// Returns a page of the store's file with its body opened, or why it does not open: for people who look at bytes.
    /// The page is read by itself; whether anybody names it is not asked.
    pub fn open_page(&self, no: u64) -> io::Result<Result<Vec<u8>, &'static str>> {
        let pages = std::sync::Arc::clone(&self.inner.visible.lock().layers.root.pages);
        Ok(pages.open_alone(no)?.map(|alone| alone.page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Entropy, SeededEntropy};

    /// Whatever the bytes say, parts follow one another and cover them all.
    fn check(explain: impl FnOnce(&mut dyn FnMut(Part<'_>)), offset: u64, bytes: &[u8]) {
        let mut next = 0;
        explain(&mut |part| {
            assert_eq!(part.offset, offset + next as u64);
            assert_eq!(part.bytes, &bytes[next..][..part.bytes.len()]);
            assert!(!part.meaning.is_empty() && !part.meaning.chars().any(char::is_control), "{part:?}");
            next += part.bytes.len();
        });
        assert_eq!(next, bytes.len());
    }

    #[test]
    fn any_bytes_are_explained_to_the_last() {
        let entropy = SeededEntropy::new(7);
        for round in 0..600 {
            let mut bytes = vec![0; 4096];
            entropy.public(&mut bytes).expect("no end of it");
            // Small numbers reach further.
            bytes[PAGE_HEADER_BYTES..].iter_mut().skip(round % 7).step_by(1 + round % 3).for_each(|byte| *byte &= 3);
            bytes[4] = (round % 9) as u8;
            bytes[5] = (round % 2) as u8;
            bytes.truncate(4096 - (round % 5) * (round % 97));
            check(
                |sink| {
                    let _ = explain_page(&bytes, 1 << 20, None, sink);
                },
                1 << 20,
                &bytes,
            );
            check(
                |sink| {
                    let _ = explain_slot(&bytes, 0, sink);
                },
                0,
                &bytes,
            );
        }
    }

    #[test]
    fn parts_begin_where_the_code_that_writes_them_has_them() {
        let mut slot = Vec::new();
        let _ = explain_slot(&[0; SLOT_BYTES], 0, &mut |part| slot.push(part.offset as usize));
        let missing: Vec<_> = crate::superblock::PARTS.iter().filter(|at| !slot.contains(at)).collect();
        assert!(missing.is_empty(), "no part of a slot begins at {missing:?}");
        let mut page = Vec::new();
        let _ = explain_page(&[0; 4096], 0, None, &mut |part| page.push(part.offset as usize));
        let missing: Vec<_> = crate::pager::page::PARTS.iter().filter(|at| !page.contains(at)).collect();
        assert!(missing.is_empty(), "no part of a page begins at {missing:?}");
    }

    #[test]
    fn the_parts_of_a_header_are_as_long_as_a_slot() {
        let mut last = String::new();
        let _ = explain_slot(&[0; SLOT_BYTES], 0, &mut |part| last = part.meaning);
        assert_eq!(last, "CRC-32, as it lies: 00000000");
    }
}
