//! The writing side of the main file: header, space, and pages on their way.
//!
//! Whoever holds `Disk` (one lock, see `store::Inner::disk`) is the only one who changes the file. Pages are written
//! by a `PageWriter`, a header by `write_header`, in that order, with a sync after each.

use std::collections::HashSet;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use crate::ahead::Ahead;
use crate::btree::{self, CellValue, TreeCursor, TreeRoot};
use crate::checkpoint::TREE_ROOT_BYTES;
use crate::env::{Env, FileMap, StorageFile};
use crate::error::MaintainError;
use crate::history::{self, purge::Purge};
use crate::keys::FileKeys;
use crate::limits::TREES_MAX;
use crate::maintain::{VerifyProgress, VerifyReport};
use crate::open::headers_hold;
use crate::pager::batch::RUN_BYTES_MAX;
use crate::pager::{
    PAGE_HEADER_BYTES, Page, PageError, PageKind, PageRead, PageRef, PageSealer, PageWrite, PageWriter, Pages, Space,
    first_page,
};
use crate::rekey::{RekeyStep, RekeyWalk};
use crate::superblock::{SLOT_OFFSETS, Superblock};
use crate::sync::Mutex;
use crate::vacuum::{Room, Vacuum, VacuumStep};

pub(crate) struct Disk {
    file: Arc<dyn StorageFile>,
    pub(crate) pages: Arc<Pages>,
    pub(crate) header: Superblock,
    pub(crate) keys: FileKeys,
    /// Held for a moment each time: whoever writes pages ahead takes numbers out of it, too.
    pub(crate) space: Arc<Mutex<Space>>,
    ahead: Arc<Ahead>,
    sealer: PageSealer,
    /// Which key slot this store was opened with, if it is still there.
    pub(crate) own_slot: Option<usize>,
    /// A change of the master key that is under way.
    pub(crate) rekey: Option<RekeyWalk>,
    /// A vacuum that is under way.
    pub(crate) vacuum: Option<Vacuum>,
    /// What the last vacuum could not read, until somebody is told.
    pub(crate) vacuum_error: Option<PageError>,
    /// The end of old versions.
    pub(crate) purge: Purge,
    /// How much of the file the last checkpoints could do without.
    pub(crate) room: Room,
    /// Master keys that no header needs any more, and the first header whose pages are all free of them: the keys go
    /// when no view is older.
    retiring: Vec<(u16, u64)>,
}

impl Disk {
    pub(crate) fn new(
        env: &Env,
        file: Arc<dyn StorageFile>,
        pages: Arc<Pages>,
        header: Superblock,
        keys: FileKeys,
        space: Space,
        own_slot: Option<usize>,
    ) -> Self {
        let sealer = PageSealer::new(keys.clone(), Arc::clone(&env.entropy));
        let rekey = header.previous.is_some().then(RekeyWalk::default);
        let space = Arc::new(Mutex::new(space));
        let ahead = Ahead::new(
            Arc::clone(&file),
            Arc::clone(&pages),
            keys.clone(),
            Arc::clone(&env.entropy),
            Arc::clone(&space),
        );
        Self {
            file,
            pages,
            header,
            keys,
            space,
            ahead: Arc::new(ahead),
            sealer,
            own_slot,
            rekey,
            vacuum: None,
            vacuum_error: None,
            purge: Purge::new(0),
            room: Room::default(),
            retiring: Vec::new(),
        }
    }

    /// Returns the next step of the change of the master key, if one is under way and can go on: whoever seals pages
    /// ahead of their commit must not have the old key in hand. Pages that were sealed so in the past are in tables by
    /// now, and come into the trees with the checkpoint that takes this step.
    pub(crate) fn next_rekey_step(&mut self, budget_pages: u64) -> Option<RekeyStep> {
        self.sealer.let_go();
        self.ahead.let_go();
        let previous = self.header.previous.as_ref()?.epoch;
        let walk = self.rekey.as_ref()?;
        (walk.has_begun() || !self.keys.is_in_hand(previous)).then(|| RekeyStep {
            walk: walk.clone(),
            newest: self.header.key_epoch,
            budget: budget_pages,
        })
    }

    /// Returns the next step of a vacuum, if one is under way.
    pub(crate) fn next_vacuum_step(&self, budget_pages: u64) -> Option<VacuumStep> {
        self.vacuum.clone().map(|vacuum| VacuumStep { vacuum, budget: budget_pages })
    }

    /// A vacuum is over, or there is none any more, for what it met.
    pub(crate) fn end_vacuum(&mut self, error: Option<PageError>) {
        self.vacuum = None;
        self.vacuum_error = error;
        self.space.lock().set_ceiling(None);
    }

    /// Returns how many pages the file has room for.
    pub(crate) fn file_pages(&self) -> io::Result<u64> {
        Ok(self.file.len()? / self.pages.page_bytes() as u64)
    }

    /// Notes how many pages of the file nobody needs, with all pages of a checkpoint written and none of the last one's
    /// free yet.
    pub(crate) fn note_room(&mut self) {
        let counts = self.space.lock().counts();
        // Where the length cannot be read, nothing is known to be superfluous.
        let pages = self.file_pages().unwrap_or(0);
        self.room.note(pages.saturating_sub(counts.end - counts.free));
    }

    /// Gives back to the file system what lies behind the last page that anybody needs: the header in either slot, a
    /// view, a value that is being written. `mapped_pages`: so many pages a reader's map has, in which a page that a
    /// damaged file names is looked at without asking how long the file is. Returns how many pages are left.
    pub(crate) fn cut_tail(&mut self, mapped_pages: u64) -> io::Result<u64> {
        let page_bytes = self.pages.page_bytes() as u64;
        // Nobody takes a number meanwhile, and then writes where the file is being cut.
        let mut space = self.space.lock();
        let end = space.trim().max(mapped_pages);
        let len = self.file.len()?;
        if len <= end * page_bytes {
            return Ok(len / page_bytes);
        }
        self.file.set_len(end * page_bytes)?;
        drop(space);
        self.pages.forget(end..len.div_ceil(page_bytes));
        Ok(end)
    }

    /// Goes on with the walk over free pages: overwrites with zeros what they held, up to `budget_pages` numbers.
    /// Returns whether the end is reached, and everything durable.
    pub(crate) fn sweep(&mut self, budget_pages: u64) -> io::Result<bool> {
        let Some(walk) = &mut self.rekey else { return Ok(true) };
        let page_bytes = self.pages.page_bytes();
        let end = self.file.len()?.div_ceil(page_bytes as u64);
        let mut no = walk.swept_to.max(first_page(page_bytes));
        let stop = no.saturating_add(budget_pages).min(end);
        let mut bytes = Vec::new();
        while no < stop {
            let count = (stop - no).min((RUN_BYTES_MAX / page_bytes) as u64);
            // Nobody takes a number meanwhile. A run is read and written in a fraction of a millisecond.
            let space = self.space.lock();
            bytes.resize(count as usize * page_bytes, 0);
            let got = self.file.read_at(no * page_bytes as u64, &mut bytes)?;
            bytes.truncate(got);
            let mut zeroed = false;
            for (page, content) in (no..).zip(bytes.chunks_mut(page_bytes)) {
                if space.is_free(page) && content.iter().any(|&byte| byte != 0) {
                    content.fill(0);
                    self.file.write_at(page * page_bytes as u64, content)?;
                    zeroed = true;
                }
            }
            drop(space);
            walk.is_swept_durably &= !zeroed;
            walk.done += count;
            no += count;
        }
        walk.swept_to = no;
        if !walk.is_swept_durably {
            self.ahead.sync_file()?;
            walk.is_swept_durably = true;
        }
        Ok(no >= end)
    }

    /// A header was written that names nothing that this epoch's key opens.
    pub(crate) fn retire_key(&mut self, epoch: u16) {
        self.retiring.push((epoch, self.header.sequence));
    }

    /// Lets keys go that no view needs: `oldest_root` is the oldest that one has.
    pub(crate) fn forget_keys(&mut self, oldest_root: u64) {
        let pages = &self.pages;
        self.retiring.retain(|&(epoch, free_from)| {
            if oldest_root >= free_from {
                pages.forget_epoch(epoch);
            }
            oldest_root < free_from
        });
    }

    /// Returns a writer of pages that nobody can reach yet, and what it needs of the header.
    pub(crate) fn writer<'w>(&'w mut self, map: Option<&'w FileMap>) -> PageWriter<'w> {
        PageWriter::new(&self.pages, map, &self.space, &mut self.sealer)
    }

    /// Returns a writer of a load's pages, which go past the cache, and the space that its runs are given back to.
    pub(crate) fn load_writer<'w>(&'w mut self, map: Option<&'w FileMap>) -> (PageWriter<'w>, &'w Mutex<Space>) {
        let writer = PageWriter::new(&self.pages, map, &self.space, &mut self.sealer).past_cache();
        (writer, &self.space)
    }

    /// Returns a writer for a view's own pages, which are released under that header when they are written.
    pub(crate) fn spill_writer<'w>(&'w mut self, under: u64, map: Option<&'w FileMap>) -> SpillWriter<'w> {
        SpillWriter {
            inner: PageWriter::new(&self.pages, map, &self.space, &mut self.sealer),
            space: &self.space,
            under,
            own: HashSet::new(),
        }
    }

    /// Returns the way to write pages without this lock.
    pub(crate) fn ahead(&self) -> &Arc<Ahead> {
        &self.ahead
    }

    /// Returns the number behind the last page, as the space sees it, that the file has: behind it there may be pages
    /// that were taken ahead and never written.
    pub(crate) fn pages_in_file(&self, end: impl FnOnce(&mut Space) -> u64) -> io::Result<u64> {
        let end = end(&mut self.space.lock());
        Ok(end.min(self.file.len()? / self.pages.page_bytes() as u64))
    }

    /// Makes written pages, and the length that they need, durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.ahead.sync_file()
    }

    /// The checkpoint in the making is given up: its pages are free, what it released is in use.
    pub(crate) fn give_up(&mut self) {
        let mut space = self.space.lock();
        space.abort();
    }

    /// Writes a changed header into the slot that does not hold the newest one, and syncs. After an error the older
    /// slot still stands, and nobody may write on.
    pub(crate) fn write_header(&mut self, change: impl FnOnce(&mut Superblock)) -> io::Result<()> {
        let mut header = self.header.clone();
        change(&mut header);
        header.sequence += 1;
        let bytes = header.encode(&self.keys);
        self.file.write_at(SLOT_OFFSETS[(header.sequence % 2) as usize], &bytes[..])?;
        self.ahead.sync_file()?;
        self.space.lock().checkpoint_done(header.sequence);
        self.header = header;
        Ok(())
    }

    /// Whether both header slots can be read.
    pub(crate) fn headers_hold(&self) -> bool {
        headers_hold(&*self.file, false)
    }

    /// Returns the length of the file.
    pub(crate) fn file_len(&self) -> io::Result<u64> {
        self.file.len()
    }

    /// Lets another opener in.
    pub(crate) fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    /// Cuts off what lies behind the last page.
    pub(crate) fn cut(&mut self) -> io::Result<()> {
        let end = self.header.page_count * self.pages.page_bytes() as u64;
        if self.file.len()? > end {
            self.file.set_len(end)?;
        }
        self.file.sync_all()
    }
}

/// Writes pages that no header names: a view's own. Old pages stay, whatever replaces them: others need them.
pub(crate) struct SpillWriter<'w> {
    inner: PageWriter<'w>,
    space: &'w Mutex<Space>,
    under: u64,
    own: HashSet<u64>,
}

impl SpillWriter<'_> {
    /// Hands all pages to the file, and returns how many there are. They count as released already, under the header
    /// behind the view's root, so that they are free when that root's views are gone.
    pub(crate) fn finish(self) -> Result<u64, PageError> {
        let Self { inner, space, under, own } = self;
        inner.finish()?;
        let mut space = space.lock();
        let written = own.len() as u64;
        for no in own {
            let released = space.release_under(under, no);
            debug_assert!(released, "it was written just now");
        }
        Ok(written)
    }
}

impl PageRead for SpillWriter<'_> {
    fn body_bytes(&self) -> usize {
        self.inner.body_bytes()
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        self.inner.page(at, kind)
    }
}

impl PageWrite for SpillWriter<'_> {
    fn write(&mut self, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError> {
        let at = self.inner.write(kind, body)?;
        self.own.insert(at.no);
        Ok(at)
    }

    fn release(&mut self, no: u64) {
        if self.own.remove(&no) {
            self.inner.release(no);
        }
    }
}

/// Reads the tree of roots: tree number -> root. spec: E-38
pub(crate) fn load_roots<P: PageRead>(pages: &P, roots: &TreeRoot) -> Result<Vec<TreeRoot>, PageError> {
    let mut trees = vec![TreeRoot::default()];
    let mut cursor = TreeCursor::new(*roots);
    cursor.seek(pages, Bound::Unbounded)?;
    while let Some((key, value)) = cursor.entry() {
        let broken = |rule| {
            let no = roots.page.map_or(0, |page| page.no);
            PageError::node(no, pages.body_bytes() + PAGE_HEADER_BYTES, rule)
        };
        let tree = key.try_into().map(u32::from_be_bytes).map_err(|_| broken("a tree number is 4 bytes"))?;
        let CellValue::Inline(value) = value else { return Err(broken("a tree's root is 25 bytes")) };
        if tree as usize > TREES_MAX {
            return Err(broken("a tree number is below the limit"));
        }
        let root = decode_root(value).ok_or_else(|| broken("a tree's root is 25 bytes of a known shape"))?;
        if trees.len() <= tree as usize {
            trees.resize(tree as usize + 1, TreeRoot::default());
        }
        trees[tree as usize] = root;
        cursor.next(pages)?;
    }
    Ok(trees)
}

pub(crate) fn decode_root(bytes: &[u8]) -> Option<TreeRoot> {
    let bytes: &[u8; TREE_ROOT_BYTES] = bytes.try_into().ok()?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let (height, page) = (bytes[0], PageRef { no: number(1), proof: number(9) });
    let root = TreeRoot { page: (height > 0).then_some(page), height, entries: number(17) };
    let empty = page.no == 0 && page.proof == 0 && root.entries == 0;
    ((height == 0) == empty && height <= btree::HEIGHT_MAX).then_some(root)
}

/// What a header names, and which header that is.
pub(crate) struct Named<'n> {
    /// By tree number.
    pub(crate) trees: &'n [TreeRoot],
    /// The tree that holds them.
    pub(crate) roots: &'n TreeRoot,
    pub(crate) space: Option<PageRef>,
    pub(crate) checkpoint: u64,
    pub(crate) commit_no: u64,
}

/// Walks everything that a header names. Every page that its space says is used must be reached once, and no other.
pub(crate) fn verify<P: PageRead>(
    file: &P,
    named: &Named<'_>,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, MaintainError> {
    let page_bytes = (file.body_bytes() + PAGE_HEADER_BYTES) as u64;
    let first = first_page(page_bytes as usize);
    let space = named.space.map(|at| Space::load(file, at, named.checkpoint)).transpose()?;
    let mut total = space.as_ref().map_or(0, |s| s.counts().used.saturating_sub(first));
    let mut report = VerifyReport {
        commit_no: named.commit_no,
        trees: 0,
        pages: 0,
        bytes: 0,
        entries: 0,
        versions: 0,
        header_damaged: false,
        recovered_surely: true,
    };
    let mut reached = vec![0_u64; space.as_ref().map_or(0, |s| s.end().div_ceil(64) as usize)];
    let mut twice = None;
    let mut pages = 0;
    let mut reach = |no: u64| {
        pages += 1;
        match reached.get_mut((no / 64) as usize) {
            Some(word) if *word & (1 << (no % 64)) == 0 => *word |= 1 << (no % 64),
            _ => {
                twice.get_or_insert(no);
            }
        }
        total = total.max(pages);
        if pages % 256 == 0 {
            progress(VerifyProgress { done_bytes: pages * page_bytes, total_bytes: total * page_bytes });
        }
    };
    for (tree, at) in named.trees.iter().enumerate().filter(|(_, at)| at.page.is_some()) {
        let found = btree::check(file, at, &mut reach)?;
        report.trees += u64::from(tree > 0);
        report.entries += if tree > 0 { found.entries } else { 0 };
    }
    btree::check(file, named.roots, &mut reach)?;
    let twins = history::check::check(file, named.trees, named.commit_no)?;
    // What history is made of is nobody's tree; the catalogue gives each number once.
    let twin_numbers = twins.pairs().map(|(_, twin)| twin.number);
    for number in twin_numbers.chain([twins.ledger].into_iter().filter(|&ledger| ledger != 0)) {
        let root = named.trees.get(number as usize).copied().unwrap_or_default();
        report.trees -= u64::from(root.page.is_some());
        report.entries -= root.entries;
        report.versions += if number == twins.ledger { 0 } else { root.entries };
    }
    if let Some(space) = &space {
        space.own_pages().for_each(&mut reach);
    }
    if let Some(page) = twice {
        return Err(MaintainError::Space { page, rule: "it is used twice, or beyond the file's end" });
    }
    if let Some(space) = &space {
        for no in first..space.end() {
            let is_reached = reached[(no / 64) as usize] & (1 << (no % 64)) != 0;
            match (space.is_named(no), is_reached) {
                (true, false) => return Err(MaintainError::Space { page: no, rule: "it is lost: nothing uses it" }),
                (false, true) => {
                    return Err(MaintainError::Space { page: no, rule: "it is in use and counts as free" });
                }
                _ => {}
            }
        }
    }
    report.pages = pages;
    report.bytes = pages * page_bytes;
    progress(VerifyProgress { done_bytes: report.bytes, total_bytes: report.bytes });
    Ok(report)
}
