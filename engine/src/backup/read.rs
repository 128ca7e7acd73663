//! A full backup and its increments, read side by side as one row of trees and rows. spec: BK-7 to BK-9
//!
//! Every backup says its whole state: rows that it gives itself, and ranges and values that it keeps of the one before,
//! all of them in one order. So the chain is read in one go, each backup once, and memory is a block and a key for each,
//! however long they are.
//!
//! | record | bytes |
//! |---|---|
//! | tree | u8 1, u16 length, name |
//! | row | u8 2, u16 length of the key, u32 length of the value, key, value |
//! | kept range | u8 3, u16 length, u8 1 if it has an end, u16 length, first key, end (exclusive) |
//! | kept value | u8 4, u16 length of the key, u32 length of the value, key |
//! | tree's end | u8 5, u64 rows that were given |

use std::io::Read;

use super::error::RestoreError;
use super::format::{BlockKind, BlockReader, Header, Totals, u64_at};
use crate::btree::PAGE_KEY_BYTES_MAX;
use crate::limits::{KEY_BYTES_MAX, STORED_VALUE_BYTES_MAX, TREE_NAME_BYTES_MAX};
use crate::options::KeySource;

pub(super) const TREE: u8 = 1;
pub(super) const ROW: u8 = 2;
pub(super) const KEPT_RANGE: u8 = 3;
pub(super) const KEPT_VALUE: u8 = 4;
pub(super) const TREE_END: u8 = 5;

/// What a backup has of history stands behind the trees, under names that no tree has, as they are not UTF-8: what is kept
/// of which tree; when commits were made; and, behind this byte, the name of the tree whose twin it is. spec: BK-13
pub(super) const KEPT: [u8; 1] = [0xfd];
pub(super) const TIMES: [u8; 1] = [0xfe];
pub(super) const TWIN: [u8; 1] = [0xff];

/// What stands under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Named<'n> {
    Tree(&'n str),
    Kept,
    Times,
    Twin(&'n str),
}

/// `None`: nothing may.
pub(super) fn named(name: &[u8]) -> Option<Named<'_>> {
    let named = match name {
        [0xfd] => return Some(Named::Kept),
        [0xfe] => return Some(Named::Times),
        [0xff, of @ ..] => Named::Twin(std::str::from_utf8(of).ok()?),
        name => Named::Tree(std::str::from_utf8(name).ok()?),
    };
    match named {
        Named::Tree(name) | Named::Twin(name) if (1..=TREE_NAME_BYTES_MAX).contains(&name.len()) => Some(named),
        _ => None,
    }
}

/// Backups in a chain at most: each is open at once, and asks the one before it.
pub(super) const PARTS_MAX: usize = 128;

/// Where a chain stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// Before everything.
    Start,
    /// At the beginning of `Chain::tree`.
    Tree,
    /// On `Chain::key`; its value is to be read.
    Row,
    /// Behind the tree's last row.
    TreeEnd,
    /// Behind everything, the end block included.
    End,
}

/// A backup, and those that it builds on.
pub(super) struct Chain<'r> {
    records: Records<'r>,
    below: Option<Box<Self>>,
    pub(super) at: At,
    /// The tree's name.
    pub(super) tree: Vec<u8>,
    pub(super) key: Vec<u8>,
    /// Length of the value at `key`, and how much of it was not read yet.
    pub(super) value_len: u64,
    left: u64,
    /// The value is one of the backup below.
    from_below: bool,
    keeping: Option<Keeping>,
    /// Keys from here on may follow; `None`: the tree has none yet.
    after: Option<Vec<u8>>,
    /// A key equal to `after` may follow: that one is the end of a kept range.
    after_is_free: bool,
    /// The end of a kept range without end: no more keys in this tree.
    closed: bool,
    tree_rows: u64,
    totals: Totals,
}

/// Rows of the backup below that belong to this one.
struct Keeping {
    to: Option<Vec<u8>>,
    begun: bool,
}

impl<'r> Chain<'r> {
    /// Opens a full backup and its increments, in their order.
    pub(super) fn open(parts: Vec<&'r mut dyn Read>, key: &KeySource) -> Result<Self, RestoreError> {
        if parts.len() > PARTS_MAX {
            return Err(RestoreError::TooManyParts { max: PARTS_MAX });
        }
        let mut chain: Option<Self> = None;
        for (i, input) in parts.into_iter().enumerate() {
            let blocks = BlockReader::open(input, key, i)?;
            let base = blocks.header.base.map(|(id, _)| id);
            match (&chain, base) {
                (None, None) => {}
                (None, Some(base)) => return Err(RestoreError::NotFull { base }),
                (Some(below), base) => {
                    let below = &below.records.blocks.header;
                    if base != Some(below.id) || below.file != blocks.header.file {
                        return Err(RestoreError::WrongOrder { part: i, base, given: below.id });
                    }
                }
            }
            chain = Some(Self {
                records: Records::new(blocks, BlockKind::Rows),
                below: chain.map(Box::new),
                at: At::Start,
                tree: Vec::new(),
                key: Vec::new(),
                value_len: 0,
                left: 0,
                from_below: false,
                keeping: None,
                after: None,
                after_is_free: false,
                closed: false,
                tree_rows: 0,
                totals: Totals::default(),
            });
        }
        chain.ok_or(RestoreError::NoBackup)
    }

    pub(super) fn header(&self) -> &Header {
        &self.records.blocks.header
    }

    pub(super) fn damaged(&self, rule: &'static str) -> RestoreError {
        self.records.blocks.damaged(rule)
    }

    /// Bytes read of all backups of the chain.
    pub(super) fn bytes_read(&self) -> u64 {
        self.records.blocks.offset + self.below.as_ref().map_or(0, |below| below.bytes_read())
    }

    /// Goes on to what comes next. A value that was not read is passed.
    pub(super) fn advance(&mut self) -> Result<(), RestoreError> {
        self.pass_value()?;
        loop {
            if self.kept_row()? {
                self.at = At::Row;
                return Ok(());
            }
            if self.at == At::End {
                return Ok(());
            }
            let Some(tag) = self.records.tag()? else {
                return self.end();
            };
            let in_tree = matches!(self.at, At::Tree | At::Row);
            match tag {
                TREE if !in_tree => return self.begin_tree(),
                ROW if in_tree => return self.row(false),
                KEPT_VALUE if in_tree => return self.row(true),
                KEPT_RANGE if in_tree => self.keep_range()?,
                TREE_END if in_tree => return self.end_tree(),
                _ => return Err(self.damaged("trees, rows and kept ranges follow one another in order")),
            }
        }
    }

    /// Reads the next bytes of the value into `out`, which is not longer than what is left of it.
    pub(super) fn read_value(&mut self, out: &mut [u8]) -> Result<(), RestoreError> {
        debug_assert!(out.len() as u64 <= self.left);
        self.left -= out.len() as u64;
        match &mut self.below {
            Some(below) if self.from_below => below.read_value(out),
            _ => self.records.fill(out),
        }
    }

    fn pass_value(&mut self) -> Result<(), RestoreError> {
        let left = std::mem::take(&mut self.left);
        if self.from_below { Ok(()) } else { self.records.pass(left) }
    }

    /// Goes on in a kept range; false where there is none, or no more of it.
    fn kept_row(&mut self) -> Result<bool, RestoreError> {
        let Some(keeping) = &mut self.keeping else { return Ok(false) };
        let below = self.below.as_mut().expect("a range is kept only where there is a backup below");
        if std::mem::replace(&mut keeping.begun, true) {
            below.advance()?;
        }
        let is_inside =
            below.at == At::Row && below.tree == self.tree && keeping.to.as_ref().is_none_or(|to| below.key < *to);
        if is_inside {
            self.key.clone_from(&below.key);
            (self.value_len, self.left, self.from_below) = (below.value_len, below.value_len, true);
            return Ok(true);
        }
        self.keeping = None;
        self.from_below = false;
        Ok(false)
    }

    fn end_tree(&mut self) -> Result<(), RestoreError> {
        let mut rows = [0; 8];
        self.records.fill(&mut rows)?;
        if u64::from_le_bytes(rows) != self.tree_rows {
            return Err(self.damaged("a tree has as many rows as it says"));
        }
        self.at = At::TreeEnd;
        Ok(())
    }

    fn begin_tree(&mut self) -> Result<(), RestoreError> {
        let len = self.records.u16()?;
        if len == 0 || len > TWIN.len() + TREE_NAME_BYTES_MAX {
            return Err(self.damaged("a tree's name has 1 to 512 bytes"));
        }
        let name = self.records.bytes(len)?;
        if self.at != At::Start && name <= self.tree {
            return Err(self.damaged("trees ascend by name"));
        }
        if named(&name).is_none() {
            return Err(self.damaged("a tree's name is UTF-8 of 1 to 512 bytes, or says what it is of history"));
        }
        self.tree = name;
        (self.after, self.after_is_free, self.closed, self.tree_rows) = (None, false, false, 0);
        self.totals.trees += 1;
        self.at = At::Tree;
        Ok(())
    }

    /// Checks that a key comes after all before it.
    fn goes_on_with(&mut self, key: &[u8]) -> Result<(), RestoreError> {
        let follows = match &self.after {
            None => true,
            Some(after) => key > &after[..] || (self.after_is_free && key == &after[..]),
        };
        if !follows || self.closed {
            return Err(self.damaged("keys ascend"));
        }
        Ok(())
    }

    fn key(&mut self, len: usize) -> Result<Vec<u8>, RestoreError> {
        let is_twin = self.tree.first() == TWIN.first();
        if len > if is_twin { PAGE_KEY_BYTES_MAX } else { KEY_BYTES_MAX } {
            return Err(self.damaged("a key has at most 1024 bytes, one of a twin 1161"));
        }
        self.records.bytes(len)
    }

    fn row(&mut self, kept: bool) -> Result<(), RestoreError> {
        let key_len = self.records.u16()?;
        let len = u64::from(self.records.u32()?);
        if len > STORED_VALUE_BYTES_MAX {
            return Err(self.damaged("a value has at most 1 GiB"));
        }
        let key = self.key(key_len)?;
        self.goes_on_with(&key)?;
        if kept {
            self.seek_below(&key)?;
            let below = self.below.as_ref().expect("seeking below went well");
            if below.at != At::Row || below.tree != self.tree || below.key != key || below.value_len != len {
                return Err(self.damaged("a value that is kept is in the backup before"));
            }
            self.totals.kept += 1;
        } else {
            self.tree_rows += 1;
            self.totals.rows += 1;
            self.totals.bytes += key.len() as u64 + len;
        }
        self.after = Some(key.clone());
        self.after_is_free = false;
        self.key = key;
        (self.value_len, self.left, self.from_below) = (len, len, kept);
        self.at = At::Row;
        Ok(())
    }

    fn keep_range(&mut self) -> Result<(), RestoreError> {
        let from_len = self.records.u16()?;
        let has_end = match self.records.byte()? {
            0 => false,
            1 => true,
            _ => return Err(self.damaged("a kept range has an end or none")),
        };
        let to_len = self.records.u16()?;
        let from = self.key(from_len)?;
        let to = self.key(to_len)?;
        if (!has_end && to_len != 0) || (has_end && to <= from) {
            return Err(self.damaged("a kept range ends behind its beginning"));
        }
        self.goes_on_with(&from)?;
        self.seek_below(&from)?;
        self.totals.kept += 1;
        let to = has_end.then_some(to);
        self.closed = to.is_none();
        self.after_is_free = true;
        self.after.clone_from(&to);
        self.keeping = Some(Keeping { to, begun: false });
        Ok(())
    }

    /// Takes the backup below to the first row of this tree that is not before `key`.
    fn seek_below(&mut self, key: &[u8]) -> Result<(), RestoreError> {
        let tree = &self.tree;
        let Some(below) = &mut self.below else {
            return Err(self.damaged("a full backup keeps nothing of another one"));
        };
        loop {
            let is_before = match below.at {
                At::Start => true,
                At::End => false,
                At::Tree => below.tree <= *tree,
                At::TreeEnd => below.tree < *tree,
                At::Row => below.tree < *tree || (below.tree == *tree && *below.key < *key),
            };
            if !is_before {
                return Ok(());
            }
            below.advance()?;
        }
    }

    /// Everything was read: what the end says must be so, and those below must have an end, too.
    fn end(&mut self) -> Result<(), RestoreError> {
        if !matches!(self.at, At::Start | At::TreeEnd) {
            return Err(self.damaged("the last tree has an end"));
        }
        if self.records.ended != Some(self.totals) {
            return Err(self.damaged("a backup has as much as it says at its end"));
        }
        if let Some(below) = &mut self.below {
            while below.at != At::End {
                below.advance()?;
            }
        }
        self.at = At::End;
        Ok(())
    }
}

/// The stream of rows, or that of the index, out of its blocks. Those of the other one are passed.
struct Records<'r> {
    blocks: BlockReader<'r>,
    of: BlockKind,
    /// How much of the block was taken.
    at: usize,
    /// What the end block says.
    ended: Option<Totals>,
}

impl<'r> Records<'r> {
    fn new(blocks: BlockReader<'r>, of: BlockKind) -> Self {
        Self { blocks, of, at: 0, ended: None }
    }

    /// Returns the next record's first byte; `None` at the end.
    fn tag(&mut self) -> Result<Option<u8>, RestoreError> {
        if !self.has_more()? {
            return Ok(None);
        }
        self.byte().map(Some)
    }

    /// Sees to it that there is a byte to be taken.
    fn has_more(&mut self) -> Result<bool, RestoreError> {
        while self.at == self.blocks.payload.len() {
            if self.ended.is_some() {
                return Ok(false);
            }
            self.at = 0;
            match self.blocks.next()? {
                kind if kind == self.of => {}
                BlockKind::Rows | BlockKind::Index => self.blocks.payload.clear(),
                BlockKind::End => {
                    let totals = Totals::decode(&self.blocks.payload);
                    self.ended = Some(totals.ok_or_else(|| self.blocks.damaged("the end has 32 bytes"))?);
                    self.blocks.payload.clear();
                }
            }
        }
        Ok(true)
    }

    fn fill(&mut self, mut out: &mut [u8]) -> Result<(), RestoreError> {
        while !out.is_empty() {
            if !self.has_more()? {
                return Err(self.blocks.damaged("a record is whole"));
            }
            let ready = &self.blocks.payload[self.at..];
            let n = ready.len().min(out.len());
            out[..n].copy_from_slice(&ready[..n]);
            self.at += n;
            out = &mut out[n..];
        }
        Ok(())
    }

    fn pass(&mut self, mut count: u64) -> Result<(), RestoreError> {
        while count > 0 {
            if !self.has_more()? {
                return Err(self.blocks.damaged("a record is whole"));
            }
            let n = count.min((self.blocks.payload.len() - self.at) as u64);
            self.at += n as usize;
            count -= n;
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, RestoreError> {
        let mut byte = [0];
        self.fill(&mut byte)?;
        Ok(byte[0])
    }

    fn u16(&mut self) -> Result<usize, RestoreError> {
        let mut bytes = [0; 2];
        self.fill(&mut bytes)?;
        Ok(usize::from(u16::from_le_bytes(bytes)))
    }

    fn u32(&mut self) -> Result<u32, RestoreError> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Takes a short piece; its length was looked at.
    fn bytes(&mut self, len: usize) -> Result<Vec<u8>, RestoreError> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// A leaf of the file that a backup was made of, and which rows it had then. spec: BK-10
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct IndexLeaf {
    pub(super) tree: Vec<u8>,
    pub(super) low: Vec<u8>,
    /// Number and proof of the page; `None`: what it had is not all that the backup has in its place.
    pub(super) page: Option<(u64, u64)>,
    /// Number and proof of the values in pages of their own.
    pub(super) values: Vec<(u64, u64)>,
}

/// Values in pages of their own that a leaf may have: each takes 24 bytes of it and more, and pages have 16 KiB at most.
pub(super) const VALUES_MAX: usize = 1024;

/// Reads the index of a backup, leaf by leaf, and passes the rest.
pub(super) struct IndexReader<'r> {
    records: Records<'r>,
    tree: Vec<u8>,
}

impl<'r> IndexReader<'r> {
    pub(super) fn new(blocks: BlockReader<'r>) -> Self {
        Self { records: Records::new(blocks, BlockKind::Index), tree: Vec::new() }
    }

    pub(super) fn header(&self) -> &Header {
        &self.records.blocks.header
    }

    /// Returns the next leaf; `None` at the end of a whole backup.
    pub(super) fn next(&mut self) -> Result<Option<IndexLeaf>, RestoreError> {
        loop {
            if !self.records.has_more()? {
                return Ok(None);
            }
            let mut head = [0; 6];
            self.records.fill(&mut head)?;
            let len = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
            let (kind, has_page, low_len, values) = (head[0], head[1], len(2), len(4));
            match (kind, has_page) {
                (1, 0) if (1..=TWIN.len() + TREE_NAME_BYTES_MAX).contains(&low_len) && values == 0 => {
                    self.tree = self.records.bytes(low_len)?;
                }
                (2, 0 | 1) if low_len <= PAGE_KEY_BYTES_MAX && values <= VALUES_MAX => {
                    let low = self.records.bytes(low_len)?;
                    let page = if has_page == 1 { Some(self.place()?) } else { None };
                    let values = (0..values).map(|_| self.place()).collect::<Result<_, _>>()?;
                    return Ok(Some(IndexLeaf { tree: self.tree.clone(), low, page, values }));
                }
                _ => return Err(self.records.blocks.damaged("the index has trees and leaves")),
            }
        }
    }

    fn place(&mut self) -> Result<(u64, u64), RestoreError> {
        let mut bytes = [0; 16];
        self.records.fill(&mut bytes)?;
        Ok((u64_at(&bytes, 0), u64_at(&bytes, 8)))
    }
}

/// Appends a record of the index.
pub(super) fn index_tree(name: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[1, 0]);
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(name);
}

/// Appends a record of the index.
pub(super) fn index_leaf(low: &[u8], page: Option<(u64, u64)>, values: &[(u64, u64)], out: &mut Vec<u8>) {
    out.extend_from_slice(&[2, u8::from(page.is_some())]);
    out.extend_from_slice(&(low.len() as u16).to_le_bytes());
    out.extend_from_slice(&(values.len() as u16).to_le_bytes());
    out.extend_from_slice(low);
    for (no, proof) in page.iter().chain(values) {
        out.extend_from_slice(&no.to_le_bytes());
        out.extend_from_slice(&proof.to_le_bytes());
    }
}

/// A backup that is not encrypted, of commit 9, whose streams hold any bytes.
#[cfg(any(test, feature = "testing"))]
pub(super) fn made(rows: &[u8], id: u8, base: Option<u8>, totals: &Totals) -> Vec<u8> {
    use super::format::BlockWriter;
    use crate::keys::EpochKey;
    use crate::seal::Cipher;

    let header = Header {
        cipher: Cipher::None,
        epoch: 0,
        file: [1; 16],
        id: super::BackupId([id; 16]),
        base: base.map(|id| (super::BackupId([id; 16]), 1)),
        commit_no: 9,
        wall_ms: 9000,
        slots: Default::default(),
    };
    let mut out = Vec::new();
    let key = EpochKey::new(0, Cipher::None, None);
    let mut pace = |_| {};
    let mut blocks = BlockWriter::begin(&mut out, &header, key, &mut pace).expect("memory takes it");
    blocks.rows(rows).and_then(|()| blocks.index(rows)).expect("memory takes it");
    blocks.finish(totals).expect("memory takes it");
    out
}

/// Reads any bytes as a full backup and an increment to it. What is in its seals as well: a fuzzer that had to make those
/// would never get past them.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn fuzz(input: &[u8]) {
    let read_all = |parts: Vec<&mut dyn Read>| {
        let Ok(mut chain) = Chain::open(parts, &KeySource::None) else { return };
        let (mut last, mut rows) = (None, 0_u64);
        while chain.at != At::End && chain.advance().is_ok() {
            if chain.at == At::Row {
                let now = (chain.tree.clone(), chain.key.clone());
                assert!(last.as_ref().is_none_or(|last| *last < now), "rows ascend by tree and key");
                last = Some(now);
                rows += 1;
                let mut piece = vec![0; chain.value_len.min(100) as usize];
                if chain.read_value(&mut piece).is_err() {
                    break;
                }
            }
        }
        assert!(rows <= input.len() as u64, "each row takes a byte at least");
    };
    read_all(vec![&mut &*input]);
    let Some((&at, rest)) = input.split_first() else { return };
    let (full, more) = rest.split_at(rest.len() * usize::from(at) / 256);
    let (full, more) = (made(full, 1, None, &Totals::default()), made(more, 2, Some(1), &Totals::default()));
    read_all(vec![&mut &full[..], &mut &more[..]]);
    if let Ok(blocks) = BlockReader::open(&mut &more[..], &KeySource::None, 0) {
        let mut index = IndexReader::new(blocks);
        while let Ok(Some(_)) = index.next() {}
    }
}
