//! A leaf of the table: room for a few versions of entries, which are added behind each other and never changed.
//!
//! A version says which commit wrote it, so that one leaf serves many versions of the table: each looks at what was
//! there at its commit. A leaf that is full is not changed either: the newest version of the table gets new ones in its
//! place, with the newest version of each key.
//!
//! One thread adds, under the lock of the serial section; others read meanwhile. Everything is an atomic number: a slot
//! is written before `len` says that it is there.

use std::cmp::Ordering;
use std::sync::atomic::AtomicU64;

use super::segments::{Place, Segments};
use crate::sync::atomic::{AtomicU32, Ordering as Order};

/// Versions at most. More make a search longer, fewer make the tree deeper.
pub(super) const SLOTS_MAX: usize = 24;

pub(super) struct Leaf {
    len: AtomicU32,
    /// Apart from the rest: most of a search is here.
    heads: [AtomicU64; SLOTS_MAX],
    rest: [Rest; SLOTS_MAX],
}

/// What a slot has beside the head of its key: the commit; segment and place in it; length of the value, length of the
/// key, kind.
#[derive(Default)]
struct Rest([AtomicU64; 3]);

/// One version of an entry: its key and behind it its value lie in a segment.
#[derive(Clone, Copy)]
pub(super) struct Version {
    pub(super) head: u64,
    pub(super) commit_no: u64,
    pub(super) place: Place,
    pub(super) value_len: u32,
    pub(super) key_len: u16,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Inline,
    Stored,
    Deleted,
    /// Of a twin: it says where the version is that a commit took the place of.
    Past,
}

/// Slots in the order of their keys: of each key the newest version that a commit shows.
#[derive(Clone, Copy, Default)]
pub(super) struct Sorted {
    slots: [u8; SLOTS_MAX],
    len: u8,
}

/// The first eight bytes of a key as a number: most comparisons end here. Zero padding keeps the order: where two
/// heads differ, the keys differ the same way.
pub(crate) fn head_of(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut first = [0; 8];
            first[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(first)
        }
    }
}

impl Version {
    pub(super) fn key<'s>(&self, segments: &'s Segments) -> &'s [u8] {
        segments.bytes(self.place, usize::from(self.key_len))
    }

    /// Returns key and value.
    pub(super) fn record<'s>(&self, segments: &'s Segments) -> (&'s [u8], &'s [u8]) {
        let key_len = usize::from(self.key_len);
        segments.bytes(self.place, key_len + self.value_len as usize).split_at(key_len)
    }

    pub(super) fn compare(&self, segments: &Segments, head: u64, key: &[u8]) -> Ordering {
        self.head.cmp(&head).then_with(|| self.key(segments).cmp(key))
    }
}

impl Rest {
    fn commit_no(&self) -> u64 {
        self.0[0].load(Order::Relaxed)
    }

    fn load(&self, head: u64) -> Version {
        let [place, lens] = [&self.0[1], &self.0[2]].map(|word| word.load(Order::Relaxed));
        let kind = match lens & 3 {
            0 => Kind::Inline,
            1 => Kind::Stored,
            2 => Kind::Deleted,
            _ => Kind::Past,
        };
        Version {
            head,
            commit_no: self.commit_no(),
            place: Place { segment: (place >> 32) as u32, at: place as u32 },
            value_len: (lens >> 32) as u32,
            key_len: (lens >> 16) as u16,
            kind,
        }
    }

    fn store(&self, version: &Version) {
        let place = u64::from(version.place.segment) << 32 | u64::from(version.place.at);
        let lens = u64::from(version.value_len) << 32 | u64::from(version.key_len) << 16 | version.kind as u64;
        for (word, value) in self.0.iter().zip([version.commit_no, place, lens]) {
            word.store(value, Order::Relaxed);
        }
    }
}

impl Sorted {
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }
}

impl Leaf {
    /// Bytes of memory that a leaf takes: its reference counts and what the allocator adds included.
    pub(super) const BYTES: u64 = size_of::<Self>() as u64 + 32;

    /// With some versions to begin with.
    pub(super) fn new(versions: &[Version]) -> Self {
        let leaf = Self { len: AtomicU32::new(0), heads: Default::default(), rest: Default::default() };
        versions.iter().for_each(|version| assert!(leaf.add(version), "a leaf is made with room to spare"));
        leaf
    }

    /// Adds a version; `false` where there is no room.
    pub(super) fn add(&self, version: &Version) -> bool {
        let len = self.len.load(Order::Relaxed);
        let at = len as usize;
        if at >= SLOTS_MAX {
            return false;
        }
        self.heads[at].store(version.head, Order::Relaxed);
        self.rest[at].store(version);
        self.len.store(len + 1, Order::Release);
        true
    }

    /// Returns the newest version of a key that a commit shows, and its value.
    pub(super) fn find<'s>(
        &self,
        segments: &'s Segments,
        commit_no: u64,
        head: u64,
        key: &[u8],
    ) -> Option<(Version, &'s [u8])> {
        for (other, rest) in self.heads[..self.len()].iter().zip(&self.rest).rev() {
            if other.load(Order::Relaxed) == head && rest.commit_no() <= commit_no {
                let version = rest.load(head);
                let (its_key, value) = version.record(segments);
                if its_key == key {
                    return Some((version, value));
                }
            }
        }
        None
    }

    /// Returns whether a commit shows anything here that one after `after` has written.
    pub(super) fn has_since(&self, after: u64, commit_no: u64) -> bool {
        self.rest[..self.len()].iter().any(|rest| (after + 1..=commit_no).contains(&rest.commit_no()))
    }

    pub(super) fn sorted(&self, segments: &Segments, commit_no: u64) -> Sorted {
        let mut sorted = Sorted::default();
        for i in (0..self.len()).filter(|&i| self.rest[i].commit_no() <= commit_no) {
            let head = self.heads[i].load(Order::Relaxed);
            let compare = |&other: &u8| {
                let other = usize::from(other);
                let by_head = self.heads[other].load(Order::Relaxed).cmp(&head);
                by_head.then_with(|| self.load(other).key(segments).cmp(self.load(i).key(segments)))
            };
            let before = &sorted.slots[..sorted.len()];
            // A leaf begins sorted, and where much is added it comes in ascending order.
            let found = match before.last() {
                Some(last) if compare(last) == Ordering::Less => Err(before.len()),
                _ => before.binary_search_by(compare),
            };
            let at = found.unwrap_or_else(|at| {
                let len = sorted.len();
                sorted.slots.copy_within(at..len, at + 1);
                sorted.len += 1;
                at
            });
            sorted.slots[at] = i as u8;
        }
        sorted
    }

    /// Returns a version by its rank.
    pub(super) fn version(&self, sorted: &Sorted, at: usize) -> Version {
        self.load(usize::from(sorted.slots[at]))
    }

    /// Returns the versions that a commit shows, older ones of the same keys included.
    pub(super) fn versions(&self, commit_no: u64) -> impl Iterator<Item = Version> {
        (0..self.len()).map(|at| self.load(at)).filter(move |version| version.commit_no <= commit_no)
    }

    fn load(&self, at: usize) -> Version {
        self.rest[at].load(self.heads[at].load(Order::Relaxed))
    }

    fn len(&self) -> usize {
        // Never more; told to the compiler.
        (self.len.load(Order::Acquire) as usize).min(SLOTS_MAX)
    }
}
