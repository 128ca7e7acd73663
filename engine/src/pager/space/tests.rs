//! The space against a set of numbers.

use std::collections::BTreeSet;

use super::*;
use crate::env::mix;
use crate::pager::Page;

/// Pages in a map, without seals: the proof is a hash of the body.
#[derive(Default, Clone)]
struct Shelf {
    pages: BTreeMap<u64, (PageKind, Vec<u8>)>,
    writes: u64,
    full_after: Option<u64>,
}

const BODY: usize = 4096 - PAGE_HEADER_BYTES;
const FIRST: u64 = 32;

fn proof(no: u64, body: &[u8]) -> u64 {
    body.iter().fold(mix(no), |h, &b| mix(h ^ u64::from(b)))
}

impl Shelf {
    fn write(&mut self, no: u64, kind: PageKind, body: &[u8]) -> Result<PageRef, PageError> {
        if self.full_after.is_some_and(|n| self.writes >= n) {
            return Err(PageError::DiskFull { during: "a test", source: std::io::ErrorKind::StorageFull.into() });
        }
        self.writes += 1;
        self.pages.insert(no, (kind, body.to_vec()));
        Ok(PageRef { no, proof: proof(no, body) })
    }

    fn save(&mut self, space: &mut Space) -> Result<PageRef, PageError> {
        space.save(|no, kind, body| self.write(no, kind, body))
    }
}

impl PageRead for Shelf {
    fn body_bytes(&self) -> usize {
        BODY
    }

    fn page(&self, at: PageRef, kind: PageKind) -> Result<Page<'_>, PageError> {
        match self.pages.get(&at.no) {
            Some((k, body)) if *k == kind && proof(at.no, body) == at.proof => Ok(Page::borrowed(body)),
            _ => Err(PageError::page(at.no, 4096, "not on the shelf")),
        }
    }
}

fn named(space: &Space) -> BTreeSet<u64> {
    (0..space.end()).filter(|&no| space.is_named(no)).collect()
}

fn check_counts(space: &Space) {
    let counts = space.counts();
    let bits = |b: &[u64]| b.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
    assert_eq!(bits(&space.named), counts.used);
    assert_eq!(bits(&space.used), counts.used + counts.pending + counts.ahead);
    assert_eq!(counts.used + counts.pending + counts.ahead + counts.free, counts.end);
}

#[test]
fn a_new_space_has_its_headers_in_use() {
    for (page_bytes, first) in [(4096, 32), (8192, 16), (16384, 8)] {
        let mut space = Space::new(page_bytes, 1);
        assert_eq!(space.counts(), SpaceCounts { end: first, used: first, pending: 0, ahead: 0, free: 0 });
        assert!(!space.release(0) && !space.release(first - 1) && !space.release_now(0) && !space.release(u64::MAX));
        assert_eq!(space.alloc_run(5), first..first + 5);
    }
}

#[test]
fn a_released_page_is_free_two_headers_later_and_after_the_last_old_reader() {
    let mut space = Space::new(4096, 1);
    let run = space.alloc_run(10);
    space.checkpoint_done(1);
    // Header 2 no longer names it, header 1 does.
    assert!(space.release(run.start));
    assert!(!space.release(run.start), "twice");
    space.checkpoint_done(2);
    assert_eq!(space.reclaim(2, 2), 0, "header 1 is still on the disk");
    assert!(!space.alloc_run(1).contains(&run.start));
    space.checkpoint_done(3);
    assert_eq!(space.reclaim(3, 1), 0, "a reader has the root of header 1");
    assert_eq!(space.reclaim(3, 2), 1, "readers of header 2 and on do not see it");
    assert_eq!(space.alloc_run(1), run.start..run.start + 1);
}

#[test]
fn runs_are_long_where_there_is_room_and_the_file_grows_last() {
    let mut space = Space::new(4096, 1);
    let all = space.alloc_run(1000);
    // Holes: every other page of the first 200, then one of 20.
    for no in (all.start..all.start + 200).step_by(2).chain(all.start + 500..all.start + 520) {
        assert!(space.release_now(no));
    }
    space.checkpoint_done(1);
    assert_eq!(space.alloc_run(64), all.start + 500..all.start + 520, "the long hole first");
    let end = space.end();
    for _ in 0..100 {
        let run = space.alloc_run(64);
        assert_eq!(run.end - run.start, 1);
        assert!(run.end <= all.start + 200, "then the short ones");
    }
    assert_eq!(space.alloc_run(64), end..end + 64, "then the file grows");
    check_counts(&space);
}

#[test]
fn trim_cuts_behind_the_last_page_that_anybody_may_need() {
    let mut space = Space::new(4096, 1);
    let run = space.alloc_run(300);
    space.checkpoint_done(1);
    for no in run.start + 10..run.end {
        assert!(if no == run.start + 100 { space.release(no) } else { space.release_now(no) });
    }
    assert_eq!(space.trim(), run.start + 101, "pending is not free");
    space.checkpoint_done(2);
    space.checkpoint_done(3);
    assert_eq!(space.reclaim(3, 3), 1);
    assert_eq!(space.trim(), run.start + 10);
    check_counts(&space);
    let (mut shelf, mut space) = (Shelf::default(), space);
    let root = shelf.save(&mut space).unwrap();
    assert_eq!(named(&Space::load(&shelf, root, 4).unwrap()), named(&space));
    for no in run.start..run.start + 10 {
        assert!(space.release_now(no));
    }
    space.trim();
    check_counts(&space);
}

#[test]
fn only_what_changed_is_written() {
    let (mut shelf, mut space) = (Shelf::default(), Space::new(4096, 1));
    // Twenty chunks of the bitmap.
    let run = space.alloc_run(20 * space.chunk_pages());
    let root = shelf.save(&mut space).unwrap();
    space.checkpoint_done(1);
    assert_eq!(shelf.writes, 21 + 1);
    assert_eq!(shelf.save(&mut space).unwrap(), root, "nothing changed");
    assert!(space.release(run.start + 5 * space.chunk_pages()));
    shelf.writes = 0;
    let root = shelf.save(&mut space).unwrap();
    // That chunk; the one where the old index and chunk pages were and the new ones are; the index.
    assert_eq!(shelf.writes, 3);
    assert_eq!(named(&Space::load(&shelf, root, 2).unwrap()), named(&space));
}

#[test]
fn an_index_of_several_parts() {
    let (mut shelf, mut space) = (Shelf::default(), Space::new(4096, 1));
    let run = space.alloc_run(600 * space.chunk_pages());
    for no in run.clone().step_by(977) {
        assert!(space.release_now(no));
    }
    let root = shelf.save(&mut space).unwrap();
    assert_eq!(space.index.len(), 3);
    let loaded = Space::load(&shelf, root, 1).unwrap();
    assert_eq!((loaded.named, loaded.end, loaded.free), (space.named, space.end, space.free));
}

/// The bitmap read from the specification's numbers alone.
/// spec: E-39
#[test]
fn a_space_is_what_the_specification_says() {
    let number = |body: &[u8], at: usize, bytes: usize| -> u64 {
        body[at..at + bytes].iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
    };
    let (mut shelf, mut space) = (Shelf::default(), Space::new(4096, 1));
    let run = space.alloc_run(300 * space.chunk_pages());
    for no in run.step_by(3) {
        assert!(space.release_now(no));
    }
    let root = shelf.save(&mut space).unwrap();
    let pages_of = |at: PageRef, kind| shelf.page(at, kind).unwrap().to_vec();
    let (mut bits, mut own) = (Vec::new(), Vec::new());
    let (mut at, mut spans, mut index) = (root, None, 0);
    while at != (PageRef { no: 0, proof: 0 }) {
        let body = pages_of(at, PageKind::SpaceIndex);
        own.push(at.no);
        assert_eq!(*spans.get_or_insert(number(&body, 0, 8)), number(&body, 0, 8));
        assert_eq!(number(&body, 12, 4), index, "which index page");
        for entry in 0..number(&body, 8, 4) as usize {
            let at = PageRef { no: number(&body, 32 + 16 * entry, 8), proof: number(&body, 40 + 16 * entry, 8) };
            let part = pages_of(at, PageKind::Space);
            own.push(at.no);
            assert_eq!((number(&part, 0, 8), number(&part, 12, 4)), (bits.len() as u64 / (8 * 4024), 0));
            let ones: u32 = part[16..].iter().map(|byte| byte.count_ones()).sum();
            assert_eq!(number(&part, 8, 4), u64::from(ones), "bits set");
            bits.extend(part[16..].iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)));
        }
        at = PageRef { no: number(&body, 16, 8), proof: number(&body, 24, 8) };
        index += 1;
    }
    assert_eq!(index, 2, "more parts than one index page lists");
    let spans = spans.unwrap();
    assert!(spans >= space.end() && spans as usize <= bits.len());
    for (no, used) in (0..).zip(bits) {
        assert_eq!(used, no < space.end() && space.is_named(no), "page {no}");
        assert!(used || no >= 131_072 / 4096 && !own.contains(&no), "page {no} is always in use");
    }
}

#[test]
fn an_aborted_checkpoint_never_was() {
    for full_after in 0..4 {
        let (mut shelf, mut space) = (Shelf::default(), Space::new(4096, 1));
        let run = space.alloc_run(2 * space.chunk_pages());
        let root = shelf.save(&mut space).unwrap();
        space.checkpoint_done(1);
        let before = named(&space);
        assert!(space.release(run.start) && space.release(run.end - 1));
        let own = space.alloc_run(3);
        shelf.full_after = Some(shelf.writes + full_after);
        let failed = shelf.save(&mut space).is_err();
        for no in own {
            assert!(space.release_now(no));
        }
        space.abort();
        check_counts(&space);
        assert_eq!(named(&space), before, "failed: {failed}");
        assert_eq!(named(&Space::load(&shelf, root, 1).unwrap()), before, "the old pages were not touched");
        // The next try succeeds and says the same.
        shelf.full_after = None;
        assert!(space.release(run.start + 7));
        let root = shelf.save(&mut space).unwrap();
        space.checkpoint_done(2);
        assert_eq!(named(&Space::load(&shelf, root, 2).unwrap()), named(&space));
    }
}

#[test]
fn what_the_older_header_names_is_held_until_the_next() {
    let (mut shelf, mut space) = (Shelf::default(), Space::new(4096, 1));
    let run = space.alloc_run(100);
    let older = shelf.save(&mut space).unwrap();
    space.checkpoint_done(1);
    for no in run.start + 20..run.start + 40 {
        assert!(space.release(no));
    }
    let newer = shelf.save(&mut space).unwrap();
    let mut loaded = Space::load(&shelf, newer, 2).unwrap();
    loaded.hold(&Space::load(&shelf, older, 1).unwrap());
    check_counts(&loaded);
    let taken: Vec<u64> = (0..50).flat_map(|_| loaded.alloc_run(4)).collect();
    let still = named(&Space::load(&shelf, older, 1).unwrap());
    assert!(taken.iter().all(|no| !still.contains(no)), "a page of header 1 was handed out");
    loaded.checkpoint_done(3);
    assert_eq!(loaded.reclaim(3, 3), 20 + 2, "the run, and the bitmap's old pages");
}

/// spec: E-40
#[test]
fn pages_that_the_log_names_are_claimed_once() {
    let mut space = Space::new(4096, 1);
    assert!(space.claim(40) && !space.claim(40) && !space.is_named(40));
    assert!(!space.claim(0) && !space.claim(FIRST - 1) && !space.claim(PAGE_NO_MAX + 1));
    let before: Vec<u64> = (0..20).flat_map(|_| space.alloc_run(3)).collect();
    assert!(!before.contains(&40));
    assert!(!space.claim(before[0]), "a tree has it");
    check_counts(&space);
}

#[test]
fn pages_ahead_are_of_no_header_until_they_are_adopted() {
    let (mut shelf, mut space) = (Shelf::default(), Space::new(4096, 1));
    space.alloc_run(8);
    let (kept, gone) = (space.alloc_ahead(5), space.alloc_ahead(7));
    let end = kept.start;
    assert_eq!(space.named_end(), end);
    assert!(kept.clone().chain(gone.clone()).all(|no| !space.is_named(no)));
    let root = shelf.save(&mut space).unwrap();
    let loaded = Space::load(&shelf, root, 1).unwrap();
    assert!(kept.clone().chain(gone.clone()).all(|no| !loaded.is_named(no)), "a crash leaves them free");
    space.checkpoint_done(1);
    space.give_back(gone.clone());
    check_counts(&space);
    // The next header names the others; its first try is given up.
    for _ in 0..2 {
        assert!(kept.clone().all(|no| space.adopt(no)));
        assert!(space.release(kept.start), "one of them is superseded already");
        shelf.save(&mut space).unwrap();
        space.abort();
        check_counts(&space);
    }
    assert!(kept.clone().all(|no| space.adopt(no)) && space.release(kept.start));
    let root = shelf.save(&mut space).unwrap();
    space.checkpoint_done(2);
    let loaded = Space::load(&shelf, root, 2).unwrap();
    assert_eq!(kept.clone().filter(|&no| loaded.is_named(no)).count(), 4);
    assert!(!space.adopt(gone.start) || named(&space).contains(&gone.start), "what is free is not adopted");
    assert!(space.named_end() >= kept.end);
    check_counts(&space);
}

#[test]
fn damaged_bitmaps_are_refused() {
    let (mut shelf, mut space) = (Shelf::default(), Space::new(4096, 1));
    space.alloc_run(40_000);
    let root = shelf.save(&mut space).unwrap();
    // Every byte of the index and the heads and tails of the chunks: flipped, with proofs made to fit.
    let mut refused = 0;
    for at in (0..80).chain(BODY - 40..BODY) {
        for victim in [root.no, space.chunks[0].at.unwrap().no, space.chunks[1].at.unwrap().no] {
            let mut bent = shelf.clone();
            bent.pages.get_mut(&victim).unwrap().1[at] ^= 0x41;
            let root = bent.reseal(&space, root);
            match Space::load(&bent, root, 1) {
                // The file's length alone may be another that makes sense as well.
                Ok(loaded) if victim == root.no && at < 8 => check_counts(&loaded),
                Ok(loaded) => panic!("byte {at} of page {victim} changed and {} pages loaded", loaded.end),
                Err(PageError::Corruption(_)) => refused += 1,
                Err(e) => panic!("{e:?}"),
            }
        }
    }
    assert!(refused >= 120 * 3 - 8);
}

impl Shelf {
    /// Gives the chunks' changed bodies their proofs in the index, and the index its own.
    fn reseal(&mut self, space: &Space, root: PageRef) -> PageRef {
        for (i, chunk) in space.chunks.iter().enumerate() {
            let no = chunk.at.unwrap().no;
            let proof = proof(no, &self.pages[&no].1);
            let index = &mut self.pages.get_mut(&root.no).unwrap().1;
            let at = INDEX_HEADER_BYTES + i * ENTRY_BYTES + 8;
            // Not where the test itself has changed it.
            if chunk.at.unwrap().proof != proof {
                index[at..at + 8].copy_from_slice(&proof.to_le_bytes());
            }
        }
        PageRef { no: root.no, proof: proof(root.no, &self.pages[&root.no].1) }
    }
}

/// Against sets of numbers, through many checkpoints, reopenings, aborts and old readers.
#[test]
fn a_long_life_follows_the_model() {
    for seed in 0..6_u64 {
        let mut state = mix(seed);
        let mut below = |n: u64| {
            state = mix(state);
            state % n.max(1)
        };
        let (mut shelf, mut space) = (Shelf::default(), Space::new(4096, 1));
        let mut data: Vec<u64> = Vec::new();
        // What the header in the making, and each header before it, names beside the bitmap's own pages.
        let mut headers: BTreeMap<u64, (PageRef, BTreeSet<u64>)> = BTreeMap::new();
        let mut reader: Option<u64> = None;
        for n in 1..60_u64 {
            let protected: BTreeSet<u64> = headers
                .iter()
                .filter(|(h, _)| **h + 2 > n - 1 || reader.is_some_and(|r| **h >= r))
                .flat_map(|(_, (_, set))| set.iter().copied())
                .collect();
            let (data_before, mut own) = (data.clone(), BTreeSet::new());
            for _ in 0..below(40) {
                match below(5) {
                    0 | 1 => {
                        let run = space.alloc_run(1 + below(70));
                        for no in run {
                            assert!(!protected.contains(&no), "page {no} is somebody's (seed {seed}, header {n})");
                            assert!(!data.contains(&no));
                            own.insert(no);
                            data.push(no);
                        }
                    }
                    2 | 3 if !data.is_empty() => {
                        for _ in 0..below(60).min(data.len() as u64) {
                            let no = data.swap_remove(below(data.len() as u64) as usize);
                            assert!(if own.remove(&no) { space.release_now(no) } else { space.release(no) });
                        }
                    }
                    _ => {
                        if below(20) == 0 {
                            space.trim();
                        }
                    }
                }
            }
            check_counts(&space);
            if below(6) == 0 {
                shelf.full_after = Some(shelf.writes + below(3));
                let _ = shelf.save(&mut space);
                shelf.full_after = None;
                for &no in &own {
                    assert!(space.release_now(no));
                }
                space.abort();
                data = data_before;
                check_counts(&space);
            }
            let root = shelf.save(&mut space).unwrap();
            headers.insert(n, (root, named(&space)));
            space.checkpoint_done(n);
            for (h, (root, set)) in headers.range(n.saturating_sub(1)..) {
                assert_eq!(&named(&Space::load(&shelf, *root, *h).unwrap()), set, "header {h} at {n}, seed {seed}");
            }
            assert!(data.iter().all(|&no| space.is_named(no)));
            match below(4) {
                0 => reader = reader.or(Some(n)),
                1 => reader = None,
                2 if below(3) == 0 => {
                    // Readers end with the program.
                    reader = None;
                    space = Space::load(&shelf, root, n).unwrap();
                    if let Some((older, _)) = headers.get(&(n - 1)) {
                        space.hold(&Space::load(&shelf, *older, n - 1).unwrap());
                    }
                }
                _ => {}
            }
            space.reclaim(n, reader.unwrap_or(n));
            check_counts(&space);
        }
    }
}

#[test]
fn numbers_above_the_ceiling_are_taken_only_where_there_are_none_below() {
    let mut space = Space::new(4096, 1);
    assert_eq!(space.alloc_run(200), FIRST..FIRST + 200);
    // Holes of one page below the ceiling, a long one above.
    let ceiling = FIRST + 100;
    let holes: Vec<u64> = (FIRST..FIRST + 60).step_by(2).collect();
    for no in holes.iter().copied().chain(FIRST + 120..FIRST + 160) {
        assert!(space.release_now(no));
    }
    space.checkpoint_done(1);
    assert_eq!(space.in_use_from(ceiling), 60);
    assert_eq!(space.in_use_from(FIRST + 160), 40);
    assert_eq!(space.in_use_from(FIRST + 163), 37);
    assert_eq!(space.in_use_from(FIRST + 900), 0);
    let mut without = space.clone();
    assert_eq!(without.alloc_run(64), FIRST + 120..FIRST + 160, "the long run, where there is no ceiling");
    space.set_ceiling(Some(ceiling));
    for no in holes {
        let run = if no % 4 == 0 { space.alloc_run(64) } else { space.alloc_ahead(64) };
        assert_eq!(run, no..no + 1);
    }
    assert_eq!(space.alloc_run(64), FIRST + 120..FIRST + 160);
    assert_eq!(space.alloc_run(5), FIRST + 200..FIRST + 205, "there is none: the file grows");
    check_counts(&space);
}

#[test]
fn the_bitmaps_own_pages_move_when_they_lie_above() {
    let mut shelf = Shelf::default();
    let mut space = Space::new(4096, 1);
    let run = space.alloc_run(300);
    shelf.save(&mut space).expect("room");
    space.checkpoint_done(1);
    assert!(space.own_pages().all(|no| no >= run.end));
    for no in run.start + 10..run.end {
        assert!(space.release(no));
    }
    shelf.save(&mut space).expect("room");
    space.checkpoint_done(2);
    space.checkpoint_done(3);
    space.reclaim(3, 3);
    space.set_ceiling(Some(run.start + 20));
    let root = shelf.save(&mut space).expect("nothing has changed");
    space.touch_from(run.start + 20);
    assert_ne!(shelf.save(&mut space).expect("room"), root);
    assert!(space.own_pages().all(|no| no < run.start + 20));
    space.checkpoint_done(4);
    space.touch_from(run.start + 20);
    assert_eq!(shelf.writes, 6, "what lies below stays");
}
