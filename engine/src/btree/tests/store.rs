//! Pages in memory that notice what a file would forgive: a page lost, released twice, or read after its release.

use crate::pager::{PAGE_HEADER_BYTES, Page, PageError, PageKind, PageRead, PageRef, PageWrite};

pub(super) struct VecPages {
    body_bytes: usize,
    /// By page number; page 0 is never handed out.
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    proof: u64,
    pub(super) written: u64,
    /// Panics at misuse; off where the tree itself is damaged.
    pub(super) strict: bool,
}

struct Slot {
    kind: PageKind,
    proof: u64,
    body: Box<[u8]>,
}

impl VecPages {
    pub(super) fn new(page_bytes: usize) -> Self {
        let body_bytes = page_bytes - PAGE_HEADER_BYTES;
        Self { body_bytes, slots: vec![None], free: Vec::new(), proof: 1, written: 0, strict: true }
    }

    pub(super) fn live(&self) -> Vec<u64> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.is_some()).map(|(no, _)| no).collect()
    }

    /// Returns the smallest proof of a live page: proofs go up with every page written.
    pub(super) fn oldest_proof(&self) -> Option<u64> {
        self.slots.iter().flatten().map(|slot| slot.proof).min()
    }

    pub(super) fn newest_proof(&self) -> u64 {
        self.proof
    }

    pub(super) fn live_of(&self, kind: PageKind) -> impl Iterator<Item = (u64, &[u8])> {
        let slots = (0..).zip(&self.slots).filter_map(|(no, slot)| Some((no, slot.as_ref()?)));
        slots.filter(move |(_, slot)| slot.kind == kind).map(|(no, slot)| (no, &slot.body[..]))
    }

    pub(super) fn body_mut(&mut self, no: u64) -> &mut [u8] {
        &mut self.slots[no as usize].as_mut().expect("a live page").body
    }

    pub(super) fn damage(&mut self) -> Self {
        let slots = self
            .slots
            .iter()
            .map(|slot| slot.as_ref().map(|slot| Slot { kind: slot.kind, proof: slot.proof, body: slot.body.clone() }));
        Self { slots: slots.collect(), free: self.free.clone(), strict: false, ..*self }
    }
}

impl PageRead for VecPages {
    fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        match self.slots.get(at.no as usize) {
            Some(Some(slot)) if slot.proof == at.proof && slot.kind == kind => Ok(Page::borrowed(&slot.body)),
            _ if self.strict => panic!("page {} is not the one to be read", at.no),
            _ => Err(PageError::page(at.no, self.body_bytes + PAGE_HEADER_BYTES, "not the page that its parent names")),
        }
    }
}

impl PageWrite for VecPages {
    fn write(&mut self, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError> {
        assert!(body.len() <= self.body_bytes, "a body fits its page");
        self.proof += 1;
        self.written += 1;
        let mut whole = vec![0; self.body_bytes];
        whole[..body.len()].copy_from_slice(body);
        let slot = Slot { kind, proof: self.proof, body: whole.into_boxed_slice() };
        let no = self.free.pop().unwrap_or(self.slots.len());
        if no == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[no] = Some(slot);
        Ok(PageRef { no: no as u64, proof: self.proof })
    }

    fn release(&mut self, no: u64) {
        match self.slots.get_mut(no as usize).and_then(Option::take) {
            Some(_) => self.free.push(no as usize),
            None => assert!(!self.strict, "page {no} is released twice"),
        }
    }
}
