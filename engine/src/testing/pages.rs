//! What tests may ask of a store beyond its front door (feature `testing`): its pages as their parents name them, so
//! that millions of damaged pages are shown to the reader's own check without a store being opened for each.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use crate::btree;
use crate::error::MaintainError;
use crate::pager::{Page, PageError, PageKind, PageRead, PageRef, Space};
use crate::snapshot::Root;
use crate::store::Store;

/// Every page that the last checkpoint's header names, directly or through others. They may be used again by later
/// checkpoints: for stores that nobody writes to.
pub struct NamedPages {
    root: Arc<Root>,
    pages: Vec<(PageRef, PageKind)>,
}

impl Store {
    /// Walks everything that the last checkpoint's header names.
    pub fn named_pages(&self) -> Result<NamedPages, MaintainError> {
        let view = self.read();
        let Some(layers) = view.held().layers() else { return Err(MaintainError::Closed) };
        let root = Arc::clone(&layers.root);
        let walk = Noting { root: &root, pages: RefCell::default() };
        for tree in root.trees.iter().chain([&root.roots]) {
            btree::check(&walk, tree, &mut |_| {})?;
        }
        if let Some(space) = root.space {
            Space::load(&walk, space, root.checkpoint)?;
        }
        let mut pages = walk.pages.into_inner();
        pages.sort_unstable_by_key(|(at, _)| at.no);
        pages.dedup_by_key(|(at, _)| at.no);
        Ok(NamedPages { root, pages })
    }
}

impl NamedPages {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Returns where in the file the page of this index lies; pages are in the file's order.
    pub fn place(&self, index: usize) -> Range<usize> {
        let (page_bytes, no) = (self.root.pages.page_bytes(), self.pages[index].0.no as usize);
        no * page_bytes..(no + 1) * page_bytes
    }

    /// Returns whether a reader would take these bytes for the page of this index: everything is checked that is
    /// checked when a page comes from the disk, in the same order.
    pub fn accepts(&self, index: usize, bytes: &[u8]) -> bool {
        let (at, kind) = self.pages[index];
        self.root.pages.open_copy(bytes, at, kind).is_ok()
    }
}

/// Reads on behalf of a walk, and notes what it was asked for.
struct Noting<'r> {
    root: &'r Root,
    pages: RefCell<Vec<(PageRef, PageKind)>>,
}

impl PageRead for Noting<'_> {
    fn body_bytes(&self) -> usize {
        self.root.body_bytes()
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        self.pages.borrow_mut().push((at, kind));
        self.root.page(at, kind)
    }
}
