//! Entries or children of one level, in order, on their way into pages: how many bytes a page of them takes, where to
//! cut, and the page's bytes.
//!
//! Entries are put into windows as they come: a window is a page to be, as full as `limit` allows. So the bytes of
//! what waits are known exactly, with the common beginnings that its pages will have, and long streams are cut without
//! looking twice. Where a run ends, `cut_evenly` may cut what waits in another way.
//!
//! Invariants: keys ascend strictly; windows cover all items; whatever is cut fits a page.

use std::collections::VecDeque;

use super::node::{CHILD_BYTES, NODE_HEADER_BYTES, Rule, STORED_BYTES, head_of};
use super::{PAGE_KEY_BYTES_MAX, is_inline};

/// Pages that wait at most, before the first of them are written.
pub(super) const WAITING_PAGES_MAX: usize = 8;

/// One level's waiting entries; a branch's are its children, under the separators before them.
pub(super) struct Builder {
    level: u8,
    body_bytes: usize,
    /// Bytes of a page that windows use.
    limit: usize,
    /// Keys and values of the items, one behind the other, in order; in front, ones that were taken off.
    bytes: Vec<u8>,
    items: VecDeque<Item>,
    windows: VecDeque<Window>,
    /// Items that were taken off the front in this run.
    taken: usize,
}

#[derive(Clone, Copy)]
struct Item {
    at: usize,
    key_len: u16,
    value_len: u16,
    stored: bool,
}

/// Items that may share a page.
#[derive(Clone, Copy, Default)]
struct Window {
    items: usize,
    /// Items whose key stands in the page: all but a branch's first one.
    keys: usize,
    prefix_len: usize,
    /// What the items take without a common beginning.
    plain_bytes: usize,
}

pub(super) fn uvarint_len(n: usize) -> usize {
    if n < 0x80 { 1 } else { 2 }
}

fn push_uvarint(out: &mut Vec<u8>, n: usize) {
    debug_assert!(n < 1 << 14, "lengths in a page have 14 bits");
    if n < 0x80 {
        out.push(n as u8);
    } else {
        out.extend_from_slice(&[n as u8 | 0x80, (n >> 7) as u8]);
    }
}

fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Returns how many bytes of a page its next entry may fill that holds `used`: more than `limit` where it would be left with
/// an eighth of that empty, as entries are long.
pub(super) const fn room_of(used: usize, limit: usize, body_bytes: usize) -> usize {
    if used + limit / 8 < limit { body_bytes } else { limit }
}

/// Returns the shortest key above `left` and at or below `right`.
pub(super) fn separator<'r>(left: &[u8], right: &'r [u8]) -> &'r [u8] {
    &right[..(common_len(left, right) + 1).min(right.len())]
}

impl Window {
    /// Bytes of a page that holds the window, and not less. A suffix is taken to be as long as its key where that
    /// decides about a second byte of its length.
    fn bytes(&self) -> usize {
        NODE_HEADER_BYTES + self.plain_bytes - self.keys.saturating_sub(1) * self.prefix_len
    }
}

impl Builder {
    pub(super) fn new(level: u8, body_bytes: usize, limit: usize) -> Self {
        Self { level, body_bytes, limit, bytes: Vec::new(), items: VecDeque::new(), windows: VecDeque::new(), taken: 0 }
    }

    /// Says how many bytes of a page windows use from now on; those that wait, too.
    pub(super) fn set_limit(&mut self, limit: usize) {
        if self.limit != limit {
            self.limit = limit;
            self.enter_again();
        }
    }

    fn enter_again(&mut self) {
        self.windows.clear();
        (0..self.items.len()).for_each(|i| self.enter(i));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Returns how many items came in this run, the ones that are written included.
    pub(super) fn pushed(&self) -> usize {
        self.taken + self.items.len()
    }

    pub(super) fn is_intact(&self) -> bool {
        self.taken == 0
    }

    pub(super) fn waiting_pages(&self) -> usize {
        self.windows.len()
    }

    /// Returns how many bytes the waiting items take in pages.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.windows.iter().map(Window::bytes).sum()
    }

    pub(super) fn key(&self, i: usize) -> &[u8] {
        let item = &self.items[i];
        &self.bytes[item.at..][..usize::from(item.key_len)]
    }

    pub(super) fn value(&self, i: usize) -> &[u8] {
        let item = &self.items[i];
        &self.bytes[item.at + usize::from(item.key_len)..][..usize::from(item.value_len)]
    }

    /// Takes the next item. The key comes in two parts, as pages have it.
    pub(super) fn push(&mut self, key: [&[u8]; 2], value: &[u8], stored: bool) -> Result<(), Rule> {
        let key_len = key[0].len() + key[1].len();
        let fits = if stored { value.len() <= STORED_BYTES } else { is_inline(self.body_bytes, key_len, value.len()) };
        if key_len > PAGE_KEY_BYTES_MAX || !fits {
            return Err("keys are at most 1161 bytes long, and long values lie in pages of their own");
        }
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key[0]);
        self.bytes.extend_from_slice(key[1]);
        let ascends = self.items.is_empty() || *self.key(self.items.len() - 1) < self.bytes[at..];
        if !ascends {
            self.bytes.truncate(at);
            return Err("keys ascend strictly");
        }
        self.bytes.extend_from_slice(value);
        self.items.push_back(Item { at, key_len: key_len as u16, value_len: value.len() as u16, stored });
        self.enter(self.items.len() - 1);
        Ok(())
    }

    /// Puts an item into the last window, or begins a new one.
    fn enter(&mut self, i: usize) {
        if let Some(last) = self.windows.back() {
            let grown = self.grown(last, i);
            if grown.bytes() <= room_of(last.bytes(), self.limit, self.body_bytes) {
                *self.windows.back_mut().expect("it has a last one") = grown;
                return;
            }
        }
        let first = self.grown(&Window::default(), i);
        self.windows.push_back(first);
    }

    /// Returns a window that ends before item i with that item in it.
    fn grown(&self, window: &Window, i: usize) -> Window {
        let &Item { key_len, value_len, .. } = &self.items[i];
        let (key_len, value_len) = (usize::from(key_len), usize::from(value_len));
        let is_leaf = self.level == 0;
        let items = window.items + 1;
        if !is_leaf && window.items == 0 {
            return Window { items, plain_bytes: CHILD_BYTES, ..*window };
        }
        let value_bytes = if is_leaf { uvarint_len(value_len << 1) + value_len } else { CHILD_BYTES };
        let prefix_len = if window.keys == 0 {
            key_len
        } else {
            let first = self.key(i - window.items + usize::from(!is_leaf));
            let (before, key) = (&first[..window.prefix_len], self.key(i));
            if key.starts_with(before) { before.len() } else { common_len(before, key) }
        };
        Window {
            items,
            keys: window.keys + 1,
            prefix_len,
            plain_bytes: window.plain_bytes + 4 + 2 + uvarint_len(key_len) + key_len + value_bytes,
        }
    }

    /// Forgets what was pushed after `pushed` told this mark. False: part of it is written already.
    pub(super) fn truncate(&mut self, mark: usize) -> bool {
        let Some(left) = mark.checked_sub(self.taken) else { return false };
        if let Some(item) = self.items.get(left) {
            self.bytes.truncate(item.at);
            self.items.truncate(left);
            self.enter_again();
        }
        true
    }

    /// Returns whether everything that waits fits one page.
    pub(super) fn fits_one_page(&self) -> bool {
        self.windows.len() <= 1 || self.try_cut(1).len() <= 1
    }

    /// Returns the items of each page where `pages` of them, or more where that cannot be, are filled evenly.
    pub(super) fn cut_evenly(&self, pages: usize) -> Vec<usize> {
        if pages <= 1 && self.windows.len() <= 1 {
            return self.cut_windows();
        }
        let mut pages = pages;
        loop {
            let cut = self.try_cut(pages);
            if cut.len() <= pages {
                return cut;
            }
            pages += 1;
        }
    }

    fn try_cut(&self, pages: usize) -> Vec<usize> {
        let mut counts = Vec::with_capacity(pages + 1);
        let mut bytes_left = self.waiting_bytes();
        let mut window = Window::default();
        for i in 0..self.items.len() {
            let grown = self.grown(&window, i);
            let pages_left = pages.saturating_sub(counts.len()).max(1);
            let target = bytes_left.div_ceil(pages_left);
            // Nearer to the target without it than with it: the half way is looked at from both sides.
            let is_enough = pages_left > 1 && window.items > 0 && grown.bytes() + window.bytes() > 2 * target;
            if is_enough || grown.bytes() > self.body_bytes {
                counts.push(window.items);
                bytes_left = bytes_left.saturating_sub(window.bytes());
                window = self.grown(&Window::default(), i);
            } else {
                window = grown;
            }
        }
        if window.items > 0 {
            counts.push(window.items);
        }
        counts
    }

    /// Returns the items of each page as the windows have them.
    pub(super) fn cut_windows(&self) -> Vec<usize> {
        self.windows.iter().map(|window| window.items).collect()
    }

    /// Writes the body of a page with the first `count` items.
    pub(super) fn encode(&self, count: usize, body: &mut Vec<u8>) {
        let is_leaf = self.level == 0;
        let keyed = usize::from(!is_leaf)..count;
        // Keys ascend, so what the first and the last one have in common, all have.
        let p = if keyed.is_empty() { 0 } else { common_len(self.key(keyed.start), self.key(count - 1)) };
        body.clear();
        body.extend_from_slice(&[self.level, 0]);
        body.extend_from_slice(&(count as u16).to_le_bytes());
        body.extend_from_slice(&(p as u16).to_le_bytes());
        body.extend_from_slice(&[0; 2]);
        for i in keyed.clone() {
            body.extend_from_slice(&head_of(&self.key(i)[p..]).to_be_bytes());
        }
        let offsets = body.len();
        body.resize(offsets + 2 * keyed.len(), 0);
        if !is_leaf {
            (0..count).for_each(|i| body.extend_from_slice(self.value(i)));
        }
        if let Some(first) = keyed.clone().next() {
            body.extend_from_slice(&self.key(first)[..p]);
        }
        for (i, slot) in keyed.zip((offsets..).step_by(2)) {
            let at = body.len() as u16;
            body[slot..][..2].copy_from_slice(&at.to_le_bytes());
            let suffix = &self.key(i)[p..];
            push_uvarint(body, suffix.len());
            if is_leaf {
                push_uvarint(body, self.value(i).len() << 1 | usize::from(self.items[i].stored));
                body.extend_from_slice(suffix);
                body.extend_from_slice(self.value(i));
            } else {
                body.extend_from_slice(suffix);
            }
        }
        assert!(body.len() <= self.body_bytes, "what is cut fits a page");
        let used = body.len() as u16;
        body[6..8].copy_from_slice(&used.to_le_bytes());
    }

    /// Takes the first `count` items off, which are a page now.
    pub(super) fn take_front(&mut self, mut count: usize) {
        self.taken += count;
        self.items.drain(..count);
        while let Some(window) = self.windows.front_mut() {
            if window.items > count {
                // Only where a run is cut in another way, and everything is taken.
                window.items -= count;
                break;
            }
            count -= window.items;
            self.windows.pop_front();
        }
        // Moved up when there is more behind than before them: each byte is moved once, about.
        let from = self.items.front().map_or(self.bytes.len(), |item| item.at);
        if from > self.bytes.len() / 2 {
            self.bytes.drain(..from);
            self.items.iter_mut().for_each(|item| item.at -= from);
        }
    }

    /// Ends a run. Memory is kept for the next one.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
        self.windows.clear();
        self.taken = 0;
    }

    /// Takes the last item off; returns its key and value.
    pub(super) fn pop(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        let i = self.items.len().checked_sub(1)?;
        let (key, value) = (self.key(i).to_vec(), self.value(i).to_vec());
        self.truncate(self.taken + i);
        Some((key, value))
    }

    /// Takes everything out, for `append`.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.level, self.body_bytes, self.limit))
    }

    /// Takes over what waits in another one of the same level.
    pub(super) fn append(&mut self, later: &Self) -> Result<(), Rule> {
        (0..later.items.len()).try_for_each(|i| self.push([later.key(i), &[]], later.value(i), later.items[i].stored))
    }
}
