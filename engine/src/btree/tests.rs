//! The tree against a map, page by page, and hostile pages.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::*;
use crate::pager::{PAGE_HEADER_BYTES, Page, PageError, PageKind, PageRead, PageWrite};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Pages in memory, which knows what lives, and fails where something dead is read or released.
struct MemoryPages {
    body: usize,
    pages: Vec<Option<(PageKind, Box<[u8]>)>>,
    /// Writes left until they fail.
    writes: u64,
}

impl MemoryPages {
    fn new(body: usize) -> Self {
        Self { body, pages: vec![None], writes: u64::MAX }
    }

    fn living(&self) -> BTreeSet<u64> {
        (0..).zip(&self.pages).filter(|(_, page)| page.is_some()).map(|(no, _)| no).collect()
    }

    fn used(&self) -> usize {
        self.living().len()
    }
}

impl PageRead for MemoryPages {
    fn body_bytes(&self) -> usize {
        self.body
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        match self.pages.get(at.no as usize) {
            Some(Some((found, body))) if *found == kind && at.proof == !at.no => Ok(Page::borrowed(body)),
            _ => Err(PageError::page(at.no, self.body + PAGE_HEADER_BYTES, "no such page")),
        }
    }
}

impl PageWrite for MemoryPages {
    fn write(&mut self, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError> {
        assert!(body.len() <= self.body);
        if self.writes == 0 {
            return Err(PageError::DiskFull { during: "testing", source: std::io::ErrorKind::StorageFull.into() });
        }
        self.writes -= 1;
        let mut whole = vec![0; self.body].into_boxed_slice();
        whole[..body.len()].copy_from_slice(body);
        let no = self.pages.len() as u64;
        self.pages.push(Some((kind, whole)));
        Ok(PageRef { no, proof: !no })
    }

    fn release(&mut self, no: u64) {
        assert!(self.pages[no as usize].take().is_some(), "page {no} was released twice");
    }
}

struct Batch {
    edits: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    at: usize,
}

impl Batch {
    fn new(edits: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Self {
        Self { edits: edits.iter().map(|(k, v)| (k.clone(), v.clone())).collect(), at: 0 }
    }
}

impl Edits for Batch {
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        self.edits
            .get(self.at)
            .map(|(key, value)| (&key[..], value.as_ref().map_or(EditValue::Delete, |value| EditValue::Put(value))))
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.at += 1;
        Ok(())
    }
}

fn rng(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn key(n: u64) -> Vec<u8> {
    match n % 5 {
        0 => n.to_be_bytes()[4..].to_vec(),
        1 => [b"same beginning of all ", &n.to_be_bytes()[..]].concat(),
        2 => vec![b'x'; (n % 60) as usize],
        3 => [&vec![(n % 7) as u8; if n % 200 == 3 { 1016 } else { 9 }][..], &n.to_be_bytes()].concat(),
        _ => n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec(),
    }
}

fn value(s: &mut u64, body: usize) -> Vec<u8> {
    let len = match rng(s) % 40 {
        0 => rng(s) % (3 * body as u64),
        1..5 => rng(s) % 900,
        _ => rng(s) % 120,
    };
    vec![rng(s) as u8; len as usize]
}

fn load(pages: &MemoryPages, found: &CellValue<'_>) -> Vec<u8> {
    match found {
        CellValue::Inline(bytes) => bytes.to_vec(),
        CellValue::Stored(value) => {
            let mut out = vec![0; value.len as usize];
            read_value(pages, value, 0, &mut out).expect("the pages are there");
            out
        }
    }
}

fn prove(pages: &MemoryPages, root: &TreeRoot, model: &Model) {
    let mut reached = BTreeSet::new();
    let checked =
        check(pages, root, &mut |no| assert!(reached.insert(no), "page {no} is reached twice")).expect("sound");
    assert_eq!(reached, pages.living(), "what lives is what is reached");
    assert_eq!((checked.entries, root.entries), (model.len() as u64, model.len() as u64));
    let mut cursor = TreeCursor::new(*root);
    cursor.seek(pages, Bound::Unbounded).expect("sound");
    for (key, value) in model {
        let (k, v) = cursor.entry().expect("as many as the model has");
        assert_eq!(k, key);
        assert_eq!(load(pages, &v), *value);
        cursor.next(pages).expect("sound");
    }
    assert!(cursor.entry().is_none());
}

#[test]
fn equals_a_map_after_every_batch_and_loses_no_page() {
    for (seed, body) in [(1, 4040), (2, 8136), (3, 16328), (4, 4040)] {
        let mut s = seed * 7919;
        let mut pages = MemoryPages::new(body);
        let mut root = TreeRoot::default();
        let mut model = Model::new();
        for round in 0..60_u64 {
            let shrinking = (round / 15) % 2 == 1;
            let mut edits = BTreeMap::new();
            for _ in 0..rng(&mut s) % [10, 100, 1500][(rng(&mut s) % 3) as usize] {
                let k = key(rng(&mut s) % 6000);
                let put = rng(&mut s) % 10 < if shrinking { 2 } else { 8 };
                edits.insert(k, put.then(|| value(&mut s, body)));
            }
            root = apply(&mut pages, &root, &mut Batch::new(&edits)).expect("room enough");
            for (k, v) in edits {
                match v {
                    Some(v) => {
                        model.insert(k, v);
                    }
                    None => {
                        model.remove(&k);
                    }
                }
            }
            prove(&pages, &root, &model);
            for _ in 0..200 {
                let k = key(rng(&mut s) % 6000);
                let found = get(&pages, &root, &k).expect("sound").map(|found| match found {
                    Found::Inline(bytes) => bytes.to_vec(),
                    Found::Stored(value) => load(&pages, &CellValue::Stored(value)),
                });
                assert_eq!(found.as_ref(), model.get(&k));
            }
        }
        let all = model.keys().map(|k| (k.clone(), None)).collect();
        root = apply(&mut pages, &root, &mut Batch::new(&all)).expect("room enough");
        assert_eq!((root, pages.used()), (TreeRoot::default(), 0), "an empty tree has no pages");
    }
}

#[test]
fn cursors_find_every_bound_both_ways() {
    let mut pages = MemoryPages::new(4040);
    let mut s = 5;
    let model: Model = (0..4000).map(|_| (key(rng(&mut s) % 9000), value(&mut s, 200))).collect();
    let edits = model.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
    let root = apply(&mut pages, &TreeRoot::default(), &mut Batch::new(&edits)).expect("room enough");
    assert!(root.height > 1);
    let mut cursor = TreeCursor::new(root);
    let here = |cursor: &TreeCursor| cursor.entry().map(|(k, _)| k.to_vec());
    for _ in 0..3000 {
        let probe = key(rng(&mut s) % 9000);
        for bound in [Bound::Included(&probe[..]), Bound::Excluded(&probe[..]), Bound::Unbounded] {
            cursor.seek(&pages, bound).expect("sound");
            let mut after = model.range::<[u8], _>((bound, Bound::Unbounded)).map(|(k, _)| k);
            assert_eq!(here(&cursor).as_ref(), after.next());
            cursor.next(&pages).expect("sound");
            let second = here(&cursor);
            assert_eq!(second.as_ref(), after.next());
            if second.is_some() {
                cursor.prev(&pages).expect("sound");
                assert_eq!(
                    here(&cursor).as_ref(),
                    model.range::<[u8], _>((bound, Bound::Unbounded)).next().map(|e| e.0)
                );
            }
            cursor.seek_back(&pages, bound).expect("sound");
            let mut before = model.range::<[u8], _>((Bound::Unbounded, bound)).map(|(k, _)| k).rev();
            assert_eq!(here(&cursor).as_ref(), before.next());
            cursor.prev(&pages).expect("sound");
            assert_eq!(here(&cursor).as_ref(), before.next());
        }
    }
}

#[test]
fn old_trees_stay_as_long_as_their_pages() {
    /// Releases nothing.
    struct Keep(MemoryPages);
    impl PageRead for Keep {
        fn body_bytes(&self) -> usize {
            self.0.body_bytes()
        }
        fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
            self.0.page(at, kind)
        }
    }
    impl PageWrite for Keep {
        fn write(&mut self, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError> {
            self.0.write(kind, body)
        }
        fn release(&mut self, _no: u64) {}
    }
    let mut pages = Keep(MemoryPages::new(4040));
    let mut s = 11;
    let (mut root, mut model) = (TreeRoot::default(), Model::new());
    let mut kept = Vec::new();
    for _ in 0..20 {
        let edits: BTreeMap<_, _> = (0..400).map(|_| (key(rng(&mut s) % 3000), Some(value(&mut s, 300)))).collect();
        root = apply(&mut pages, &root, &mut Batch::new(&edits)).expect("room enough");
        model.extend(edits.into_iter().filter_map(|(k, v)| Some((k, v?))));
        kept.push((root, model.clone()));
    }
    for (root, model) in kept {
        let mut cursor = TreeCursor::new(root);
        cursor.seek(&pages, Bound::Unbounded).expect("sound");
        for (key, value) in &model {
            let (k, v) = cursor.entry().expect("as many as then");
            assert_eq!((k, load(&pages.0, &v)), (&key[..], value.clone()));
            cursor.next(&pages).expect("sound");
        }
    }
}

/// Keys of 24 random bytes, values of 150.
fn random_rows(s: &mut u64, n: usize) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    (0..n).map(|_| ((0..3).flat_map(|_| rng(s).to_be_bytes()).collect(), Some(vec![9; 150]))).collect()
}

#[test]
fn pages_are_full() {
    let mut s = 77;
    let mut pages = MemoryPages::new(4040);
    let mut root =
        apply(&mut pages, &TreeRoot::default(), &mut Batch::new(&random_rows(&mut s, 50_000))).expect("room");
    let fill = |pages: &MemoryPages, root: &TreeRoot| root.entries as f64 * 182.0 / (pages.used() * 4040) as f64;
    assert!(fill(&pages, &root) > 0.93, "built at once: {}", fill(&pages, &root));
    for _ in 0..30 {
        root = apply(&mut pages, &root, &mut Batch::new(&random_rows(&mut s, 5_000))).expect("room");
    }
    assert!(fill(&pages, &root) > 0.78, "after random batches: {}", fill(&pages, &root));
    let ascending = |n: u64| (0..200_u64).map(|i| ((n * 200 + i).to_be_bytes().to_vec(), Some(vec![1; 150]))).collect();
    let (mut pages, mut root) = (MemoryPages::new(4040), TreeRoot::default());
    for n in 0..200 {
        root = apply(&mut pages, &root, &mut Batch::new(&ascending(n))).expect("room");
    }
    assert!(root.entries as f64 * 166.0 / (pages.used() * 4040) as f64 > 0.88, "ascending keys");
}

#[test]
fn deleting_what_is_not_there_writes_nothing() {
    let mut s = 3;
    let mut pages = MemoryPages::new(4040);
    let root = apply(&mut pages, &TreeRoot::default(), &mut Batch::new(&random_rows(&mut s, 3000))).expect("room");
    let before = pages.pages.len();
    let none = random_rows(&mut s, 500).into_keys().map(|k| (k, None)).collect();
    assert_eq!(apply(&mut pages, &root, &mut Batch::new(&none)).expect("room"), root);
    assert_eq!(pages.pages.len(), before);
}

#[test]
fn a_failed_write_is_an_error_wherever_it_comes() {
    let mut s = 3;
    let rows = random_rows(&mut s, 300);
    for writes in 0..12 {
        let mut pages = MemoryPages::new(4040);
        pages.writes = writes;
        let result = apply(&mut pages, &TreeRoot::default(), &mut Batch::new(&rows));
        assert!(matches!(result, Err(PageError::DiskFull { .. })), "{writes} writes");
    }
}

#[test]
fn a_large_value_is_read_at_any_offset() {
    let mut pages = MemoryPages::new(4040);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut writer = value::ValueWriter::new();
    bytes.chunks(70_001).for_each(|chunk| writer.push(&mut pages, chunk).expect("room"));
    let value = writer.finish(&mut pages).expect("room");
    assert_eq!((value.len, value.height), (3_000_000, 3));
    let mut s = 9;
    for _ in 0..300 {
        let from = rng(&mut s) % 3_000_000;
        let mut out = vec![0; (rng(&mut s) % 20_000).min(3_000_000 - from) as usize];
        read_value(&pages, &value, from, &mut out).expect("sound");
        assert_eq!(out, bytes[from as usize..][..out.len()]);
    }
    release_value(&mut pages, &value).expect("sound");
    assert_eq!(pages.used(), 0);
}

/// spec: E-33
#[test]
fn hostile_pages_are_errors_and_never_panics() {
    let mut s = 21;
    let mut pages = MemoryPages::new(4040);
    let edits = (0..900).map(|n| (key(n), Some(value(&mut s, 100)))).collect();
    let root = apply(&mut pages, &TreeRoot::default(), &mut Batch::new(&edits)).expect("room");
    let numbers: Vec<u64> = pages.living().into_iter().collect();
    let probes: Vec<Vec<u8>> = (0..20).map(|_| key(rng(&mut s) % 1000)).collect();
    let more: BTreeMap<_, _> = (0..40).map(|_| (key(rng(&mut s) % 1000), Some(vec![1; 30]))).collect();
    let mut refused = 0;
    for round in 0..6000 {
        let no = numbers[(rng(&mut s) % numbers.len() as u64) as usize];
        let (kind, good) = pages.pages[no as usize].clone().expect("it lives");
        let mut bad = good.clone();
        if round % 10 == 0 {
            bad.iter_mut().for_each(|b| *b = rng(&mut s) as u8);
            bad[1] = 0;
        } else {
            // Headers and arrays more often than values.
            let at = rng(&mut s) % if round % 3 == 0 { 4040 } else { 200 };
            bad[at as usize] ^= 1 << (rng(&mut s) % 8);
        }
        pages.pages[no as usize] = Some((kind, bad));
        for probe in &probes {
            let _ = get(&pages, &root, probe);
        }
        let mut cursor = TreeCursor::new(root);
        let mut steps = 0;
        if cursor.seek(&pages, Bound::Unbounded).is_ok() {
            while cursor.entry().is_some() && cursor.next(&pages).is_ok() && steps < 5000 {
                steps += 1;
            }
        }
        let _ = cursor.seek_back(&pages, Bound::Included(&probes[0]));
        refused += u32::from(check(&pages, &root, &mut |_| {}).is_err());
        if round % 20 == 0 {
            struct Shadow<'s>(&'s MemoryPages, Vec<(PageKind, Box<[u8]>)>);
            impl PageRead for Shadow<'_> {
                fn body_bytes(&self) -> usize {
                    4040
                }
                fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
                    match at.no.checked_sub(1 << 40).and_then(|no| self.1.get(no as usize)) {
                        Some((_, body)) => Ok(Page::borrowed(body)),
                        None => self.0.page(at, kind),
                    }
                }
            }
            impl PageWrite for Shadow<'_> {
                fn write(&mut self, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError> {
                    let mut whole = vec![0; 4040].into_boxed_slice();
                    whole[..body.len()].copy_from_slice(body);
                    self.1.push((kind, whole));
                    Ok(PageRef { no: (1 << 40) + self.1.len() as u64 - 1, proof: 0 })
                }
                fn release(&mut self, _no: u64) {}
            }
            let _ = apply(&mut Shadow(&pages, Vec::new()), &root, &mut Batch::new(&more));
        }
        pages.pages[no as usize] = Some((kind, good));
    }
    assert!(refused > 1500, "most changes of headers and keys are noticed even without a seal, got {refused}");
}
