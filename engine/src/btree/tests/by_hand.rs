//! A reader of trees written from spec/store.md alone, with its numbers for offsets, against what the tree writes.

use std::collections::BTreeMap;

use super::store::VecPages;
use super::{Change, Rng, TreeRoot, apply_checked};
use crate::pager::{PageKind, PageRead, PageRef};

fn number(body: &[u8], at: usize, bytes: usize) -> u64 {
    body[at..at + bytes].iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

fn uvarint(body: &[u8], at: &mut usize) -> usize {
    let low = body[*at];
    *at += 1;
    if low < 0x80 {
        return low.into();
    }
    let high = body[*at];
    *at += 1;
    assert!((1..0x80).contains(&high), "two bytes at the most, as short as can be");
    usize::from(low & 0x7f) | usize::from(high) << 7
}

/// A child: u48 page number, u64 proof.
fn child(body: &[u8], at: usize) -> PageRef {
    PageRef { no: number(body, at, 6), proof: number(body, at + 6, 8) }
}

/// Cells of a node behind their offsets: the suffix, and where what follows it begins.
fn cells(body: &[u8], count: usize, offsets: usize, first: usize, is_leaf: bool) -> Vec<(Vec<u8>, usize, usize)> {
    let mut at = first;
    let mut cells = Vec::new();
    for i in 0..count {
        assert_eq!(number(body, offsets + 2 * i, 2) as usize, at, "cells have no gap");
        let suffix = uvarint(body, &mut at);
        let value = if is_leaf { uvarint(body, &mut at) } else { 0 };
        let mut head = body[at..at + suffix].to_vec();
        head.resize(suffix.max(4), 0);
        assert_eq!(body[8 + 4 * i..12 + 4 * i], head[..4], "the head of key {i}");
        cells.push((body[at..at + suffix].to_vec(), value, at + suffix));
        at += suffix + (value >> 1);
    }
    assert_eq!(number(body, 6, 2) as usize, at, "bytes in use");
    assert!(body[at..].iter().all(|&byte| byte == 0), "zeros follow");
    cells
}

struct ByHand<'a> {
    pages: &'a VecPages,
    found: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of each value that is stored in pages of its own: its length with its key.
    stored: Vec<usize>,
    inline: Vec<usize>,
}

impl ByHand<'_> {
    /// Reads a subtree; returns its first and last key.
    fn node(&mut self, at: PageRef, level: u8) -> (Vec<u8>, Vec<u8>) {
        if level == 0 {
            return self.leaf(at);
        }
        let page = self.pages.page(at, PageKind::Branch).unwrap();
        let body: &[u8] = &page;
        assert_eq!((body[0], body[1]), (level, 0));
        let (n, p) = (number(body, 2, 2) as usize, number(body, 4, 2) as usize);
        let offsets = 8 + 4 * (n - 1);
        let children = offsets + 2 * (n - 1);
        let common = children + 14 * n;
        let separators = cells(body, n - 1, offsets, common + p, false);
        let mut ends = Vec::new();
        for i in 0..n {
            ends.push(self.node(child(body, children + 14 * i), level - 1));
        }
        for (i, (suffix, ..)) in separators.iter().enumerate() {
            let separator = [&body[common..common + p], suffix].concat();
            assert!(ends[i].1 < separator && separator <= ends[i + 1].0, "separator {i} of {n}");
        }
        (ends[0].0.clone(), ends[n - 1].1.clone())
    }

    fn leaf(&mut self, at: PageRef) -> (Vec<u8>, Vec<u8>) {
        let page = self.pages.page(at, PageKind::Leaf).unwrap();
        let body: &[u8] = &page;
        assert_eq!((body[0], body[1]), (0, 0));
        let (n, p) = (number(body, 2, 2) as usize, number(body, 4, 2) as usize);
        let common = 8 + 6 * n;
        let first = self.found.len();
        for (suffix, value, at) in cells(body, n, 8 + 4 * n, common + p, true) {
            let key = [&body[common..common + p], &suffix[..]].concat();
            let (is_stored, len) = (value & 1 == 1, value >> 1);
            let value = if is_stored {
                assert_eq!(len, 23);
                let mut bytes = Vec::new();
                self.value(child(body, at + 9), body[at + 8], number(body, at, 8) as usize, &mut bytes);
                bytes
            } else {
                body[at..at + len].to_vec()
            };
            if is_stored { &mut self.stored } else { &mut self.inline }.push(key.len() + value.len());
            self.found.push((key, value));
        }
        (self.found[first].0.clone(), self.found[self.found.len() - 1].0.clone())
    }

    /// Reads `len` bytes below a page of a value.
    fn value(&self, at: PageRef, height: u8, len: usize, out: &mut Vec<u8>) {
        let whole = self.pages.body_bytes();
        if height == 1 {
            let page = self.pages.page(at, PageKind::Value).unwrap();
            assert!((1..=whole).contains(&len));
            out.extend_from_slice(&page[..len]);
            assert!(page[len..].iter().all(|&byte| byte == 0), "zeros follow");
            return;
        }
        let page = self.pages.page(at, PageKind::ValueIndex).unwrap();
        let body: &[u8] = &page;
        assert_eq!((body[0], body[1], number(body, 4, 4)), (height - 1, 0, 0));
        let fanout = (whole - 8) / 14;
        // All are full but the last, so the length says how many there are.
        let below = whole * fanout.pow(u32::from(height) - 2);
        let n = number(body, 2, 2) as usize;
        assert_eq!(n, len.div_ceil(below));
        assert!(n <= fanout && (n > 1 || height == 2));
        for i in 0..n {
            self.value(child(body, 8 + 14 * i), height - 1, below.min(len - i * below), out);
        }
    }
}

fn read<'a>(pages: &'a VecPages, root: &TreeRoot) -> ByHand<'a> {
    let mut reader = ByHand { pages, found: Vec::new(), stored: Vec::new(), inline: Vec::new() };
    if let Some(at) = root.page {
        reader.node(at, root.height - 1);
    }
    reader
}

/// spec: E-33, E-34, E-35, E-36
#[test]
fn a_tree_is_what_the_specification_says() {
    for (page_bytes, seed) in [(4096, 1), (8192, 2), (16_384, 3)] {
        let mut rng = Rng(seed);
        let mut pages = VecPages::new(page_bytes);
        let mut changes = BTreeMap::new();
        for i in 0..20_000_u64 {
            let len = if rng.one_in(400) { rng.below(60_000) } else { rng.below(60) };
            let key = [&b"the same beginning "[..], &i.to_be_bytes()[5..]].concat();
            changes.insert(key[..key.len() - rng.below(2) as usize].to_vec(), Change::Put(rng.bytes(len as usize)));
        }
        // Three levels of index pages, and long keys whose separators are long.
        changes.insert(b"huge".to_vec(), Change::Put(rng.bytes(90_000 * (page_bytes / 256) + 1)));
        for i in 0..200_u64 {
            changes.insert([&[b'x'; 900][..], &i.to_be_bytes()].concat(), Change::Put(Vec::new()));
        }
        let root = apply_checked(&mut pages, &TreeRoot::default(), &changes);
        assert!(root.height >= if page_bytes == 4096 { 3 } else { 2 }, "{}", root.height);
        let found = read(&pages, &root).found;
        assert_eq!(root.entries, found.len() as u64);
        let wanted = changes.into_iter().map(|(key, change)| match change {
            Change::Put(value) => (key, value),
            Change::PutStored(_) | Change::Delete => unreachable!("nothing but values is put"),
        });
        assert!(found.into_iter().eq(wanted));
    }
    let empty = TreeRoot::default();
    assert_eq!((empty.page, empty.height, empty.entries), (None, 0, 0));
}

/// spec: E-36
#[test]
fn a_value_is_in_pages_of_its_own_from_half_a_page_on() {
    for (page_bytes, most) in [(4096, 2006), (8192, 4054), (16_384, 8150)] {
        let mut pages = VecPages::new(page_bytes);
        let key = |n: usize| format!("{n:010}").into_bytes();
        let lengths = [most - 11, most - 10, most - 9, most];
        let changes: BTreeMap<_, _> = lengths.iter().map(|&n| (key(n), Change::Put(vec![7; n]))).collect();
        let root = apply_checked(&mut pages, &TreeRoot::default(), &changes);
        let ByHand { stored, inline, .. } = read(&pages, &root);
        assert_eq!((inline, stored), (vec![most - 1, most], vec![most + 1, most + 10]));
    }
}
