//! Where the space of a file goes, what is foretold of a vacuum, and what is said of it.

use blazedb_engine::env::SimDisk;
use blazedb_engine::{Advice, Durability, Env, History, MaintainError, Options, PageAccess, Store};

use crate::support::{NAME, Random, scale};

fn estimate(store: &Store) -> blazedb_engine::Estimate {
    store.estimate(&mut |_| {}).expect("the store is sound")
}

/// A damaged page is an error that names it, not a number.
#[test]
fn a_damaged_file_is_not_measured() {
    let disk = SimDisk::new(5);
    let store = Store::open(disk.env(NAME), Options::unencrypted().access(PageAccess::Read)).expect("opens");
    fill(&store, "rows", 0..20_000, 0);
    store.vacuum(0, &mut |_| {}).expect("the disk is sound");
    store.close().expect("the disk is sound");
    let bytes = disk.read_file(NAME).expect("is there");
    let leaves: Vec<_> = (32..bytes.len() / 4096).filter(|no| bytes[no * 4096 + 4] == 1).collect();
    // The first and the last ones are of other trees, which opening reads.
    let leaf = leaves[leaves.len() / 2];
    assert!(disk.flip_bit(NAME, (leaf * 4096 + 2000) as u64 * 8));
    let store = Store::open(disk.env(NAME), Options::unencrypted().access(PageAccess::Read)).expect("opens");
    let error = store.estimate(&mut |_| {}).expect_err("a leaf is damaged");
    assert!(matches!(error, MaintainError::Corruption(_)), "{error}");
}

/// A tree of so many rows of some 190 bytes.
fn fill(store: &Store, name: &str, rows: std::ops::Range<u64>, salt: u8) {
    let tree = store.tree(name).expect("a short name");
    for part in rows.collect::<Vec<_>>().chunks(500) {
        let mut tx = store.write();
        for row in part {
            let key = (row.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes();
            tx.put(tree, &[&key[..], &[0; 16]].concat(), &[*row as u8 ^ salt; 150]).expect("it is short");
        }
        tx.commit().expect("the disk is sound");
    }
    store.checkpoint().expect("the disk is sound");
}

#[test]
fn the_parts_add_up_and_each_tree_has_its_own() {
    let store = Store::open(Env::memory(1), Options::unencrypted()).expect("opens");
    fill(&store, "large", 0..4_000, 0);
    fill(&store, "small", 0..40, 0);
    let long = store.tree("long").expect("a short name");
    let mut tx = store.write();
    tx.put(long, b"k", &[7; 100_000]).expect("it is short");
    tx.commit().expect("the disk is sound");
    let mut told = Vec::new();
    store.checkpoint().expect("the disk is sound");
    let found = store.estimate(&mut |now| told.push(now)).expect("the store is sound");
    let sum = found.live_bytes + found.history_bytes + found.overhead_bytes + found.held_bytes + found.free_bytes;
    assert_eq!(sum, found.file_bytes);
    assert_eq!(found.trees.iter().map(|tree| tree.bytes).sum::<u64>(), found.live_bytes);
    let sizes: Vec<_> = found.trees.iter().map(|tree| (&tree.name[..], tree.entries, tree.payload_bytes)).collect();
    assert_eq!(sizes, [("large", 4_000, 4_000 * 174), ("long", 1, 100_001), ("small", 40, 40 * 174)]);
    assert!(found.trees.iter().all(|tree| tree.bytes >= tree.payload_bytes && tree.history_bytes == 0));
    assert!(!told.is_empty() && told.iter().all(|now| now.done_bytes <= now.total_bytes), "{told:?}");
}

#[test]
fn what_is_foretold_of_a_vacuum_is_what_it_does() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), Options::unencrypted()).expect("opens");
    fill(&store, "rows", 0..20_000, 0);
    let tree = store.tree("rows").expect("a short name");
    for keep in [2_u64, 10] {
        let keys: Vec<_> = store.read().range(tree, ..).map(|item| item.expect("it is sound").0).collect();
        let mut tx = store.write();
        for (n, key) in (0..).zip(keys) {
            if n % keep != 0 {
                tx.delete(tree, &key).expect("it is short");
            }
        }
        tx.commit().expect("the disk is sound");
        store.checkpoint().expect("the disk is sound");
        let before = estimate(&store);
        assert!(matches!(before.advice()[..], [Advice::Vacuum(what)] if what == before.vacuum), "{before:?}");
        let written = disk.bytes_written();
        let done = store.vacuum(0, &mut |_| {}).expect("the disk is sound");
        let written = disk.bytes_written() - written;
        let after = estimate(&store);
        let (freed, foretold) = (done.from_bytes - done.file_bytes, before.vacuum.frees_bytes);
        assert!(freed.abs_diff(foretold) < before.file_bytes / 20, "{foretold} foretold, {freed} freed: {before:?}");
        assert!(before.vacuum.moves_pages * before.page_bytes == before.vacuum.moves_bytes);
        // Headers, the ways to what is moved, and what had to be moved twice come on top.
        let moves = before.vacuum.moves_bytes;
        assert!(moves <= written && written < 3 * moves, "{moves} foretold, {written} written: {before:?}");
        assert_eq!(after.advice(), [], "nothing is left to say: {after:?}");
    }
}

/// Entries are not cut, so that pages of long ones are never full: what a vacuum has packed it does not pack again.
#[test]
fn a_vacuum_of_long_rows_does_what_is_foretold_and_leaves_nothing_to_do() {
    // The last ones between short ones.
    let alone = [150, 600, 900, 1100, 1300, 1400, 1500, 1700, 1850, 1990].map(|len| (len, 1));
    for (len, every) in alone.into_iter().chain([(1400, 5), (2100, 3)]) {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), Options::unencrypted()).expect("opens");
        let (tree, mut random) = (store.tree("rows").expect("a short name"), Random::new(5));
        for _ in 0..20 {
            let mut tx = store.write();
            for n in 0..100 {
                let len = if n % every == 0 { len } else { 28 };
                tx.put(tree, &random.next().to_be_bytes(), &vec![1; len - 8]).expect("room");
            }
            tx.commit().expect("the disk is sound");
        }
        store.checkpoint().expect("the disk is sound");
        for round in 0..3 {
            let (before, written) = (estimate(&store), disk.bytes_written());
            let done = store.vacuum(0, &mut |_| {}).expect("the disk is sound");
            let (freed, foretold) = (done.from_bytes.saturating_sub(done.file_bytes), before.vacuum.frees_bytes);
            let told = format!("entries of {len}, round {round}: {foretold} foretold, {freed} freed");
            assert!(freed.abs_diff(foretold) < before.file_bytes / 20, "{told}: {before:?}");
            let written = disk.bytes_written() - written;
            assert!(round == 0 || written < before.file_bytes / 10, "{told}, {written} written");
        }
        assert_eq!(estimate(&store).advice(), [], "entries of {len}: nothing is left to say");
    }
}

/// Two rows that fit a page share it, in whatever order they come.
#[test]
fn pages_of_long_rows_hold_as_many_as_fit() {
    for (len, at_most) in [(900, 1.35), (1300, 1.2), (1990, 1.3), (2006, 1.3)] {
        for is_random in [false, true] {
            let disk = SimDisk::new(1);
            let store = Store::open(disk.env(NAME), Options::unencrypted()).expect("opens");
            let (tree, mut random) = (store.tree("rows").expect("a short name"), Random::new(5));
            for n in 0..2000_u64 {
                let mut tx = store.write();
                let key = if is_random { random.next() } else { n };
                tx.put(tree, &key.to_be_bytes(), &vec![1; len - 8]).expect("room");
                tx.commit_with(Durability::Buffered, |_| Ok(())).expect("the disk is sound");
            }
            store.checkpoint().expect("the disk is sound");
            let found = estimate(&store);
            let times = found.live_bytes as f64 / (2000 * len) as f64;
            assert!(times < at_most, "entries of {len}, random {is_random}: pages of {times:.2} times what is in them");
        }
    }
}

#[test]
fn a_reader_that_holds_much_is_named_with_its_age() {
    let disk = SimDisk::new(2);
    let store = Store::open(disk.env(NAME), Options::unencrypted()).expect("opens");
    fill(&store, "rows", 0..5_000, 0);
    let view = store.read();
    for salt in [1, 2] {
        fill(&store, "rows", 0..5_000, salt);
    }
    let mut tx = store.write();
    let tree = tx.tree("other").expect("a short name");
    tx.put(tree, b"k", b"v").expect("it is short");
    tx.commit().expect("the disk is sound");
    store.checkpoint().expect("the disk is sound");
    disk.clock().advance_ms(90_000);
    let found = estimate(&store);
    let said: Vec<String> = found.advice().iter().map(ToString::to_string).collect();
    assert!(
        said[0].starts_with("a reader that has been open for 90.0 s holds ") && said[0].contains("MiB"),
        "{said:?}"
    );
    assert_eq!((found.readers, found.oldest_reader), (1, Some(view.commit_no())));
    // It holds more than half of what is there: until it ends a vacuum leaves all as it is, and none is advised.
    assert_eq!(found.vacuum.frees_bytes, 0);
    assert_eq!(found.file_bytes, disk.read_file(NAME).expect("is there").len() as u64);
    let left = store.vacuum(0, &mut |_| {}).expect("ends at once");
    assert_eq!(left.file_bytes, found.file_bytes);
    drop(view);
    let found = estimate(&store);
    assert_eq!((found.readers, found.oldest_reader, found.oldest_reader_ms), (0, None, 0));
    assert!(found.held_by_readers_bytes == 0 && found.vacuum.frees_bytes > 0, "{found:?}");
    assert!(!found.advice().iter().any(|advice| matches!(advice, Advice::Reader { .. })), "{found:?}");
}

/// A view that holds little of a long file may keep a vacuum from all of it: that is said, though it holds little.
#[test]
fn a_reader_that_keeps_a_vacuum_from_much_is_named() {
    let disk = SimDisk::new(2);
    let store = Store::open(disk.env(NAME), Options::unencrypted().auto_vacuum(None)).expect("opens");
    fill(&store, "rows", 0..20_000, 0);
    // Then there is no room but at the end of the file.
    store.vacuum(0, &mut |_| {}).expect("the disk is sound");
    fill(&store, "tail", 0..1_000, 0);
    store.checkpoint().expect("the disk is sound");
    let tree = store.tree("rows").expect("a short name");
    for part in (0..20_000_u64).collect::<Vec<_>>().chunks(500) {
        let mut tx = store.write();
        for row in part {
            let key = (row.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes();
            tx.delete(tree, &[&key[..], &[0; 16]].concat()).expect("it is short");
        }
        tx.commit().expect("the disk is sound");
    }
    store.checkpoint().expect("the disk is sound");
    fill(&store, "other", 0..1, 0);
    let view = store.read();
    fill(&store, "tail", 0..1_000, 1);
    fill(&store, "other", 0..1, 1);
    let found = estimate(&store);
    let said: Vec<_> = found.advice().iter().map(ToString::to_string).collect();
    assert!(found.held_by_readers_bytes * 10 < found.file_bytes, "{found:?}");
    assert!(said.iter().any(|said| said.contains("a vacuum cannot give back")), "{said:?}, {found:?}");
    let left = store.vacuum(0, &mut |_| {}).expect("ends at once");
    assert!((left.from_bytes - left.file_bytes).abs_diff(found.vacuum.frees_bytes) <= 16 * 4096, "{left:?} {found:?}");
    drop(view);
    let left = store.vacuum(0, &mut |_| {}).expect("the disk is sound");
    let then = found.vacuum.frees_after_readers_bytes;
    assert!((found.file_bytes - left.file_bytes).abs_diff(then) <= 16 * 4096, "{left:?}, {then} foretold");
}

/// Random stores, with views of old and new states that hold little or much: what is foretold of a vacuum is what it does, while
/// they are open and when they have ended, to a twentieth of the file or 16 pages.
#[test]
fn what_is_foretold_beside_views_of_random_stores_is_what_a_vacuum_does() {
    for seed in 0..30 * scale() {
        let (disk, mut random) = (SimDisk::new(seed), Random::new(seed));
        let store = Store::open(disk.env(NAME), Options::unencrypted().auto_vacuum(None)).expect("opens");
        let trees = ["a", "b", "c"].map(|name| store.tree(name).expect("a short name"));
        let mut views = Vec::new();
        for _ in 0..random.below(40) + 8 {
            let (tree, rows) = (trees[random.below(3) as usize], random.below(4) * 400);
            let (len, from, deletes) = (random.below(300) + 20, random.below(8_000), random.below(3) == 0);
            let mut tx = store.write();
            for n in from..from + rows {
                let key = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
                if deletes {
                    tx.delete(tree, &key).expect("it is short");
                } else {
                    tx.put(tree, &key, &vec![1; len as usize]).expect("it is short");
                }
            }
            tx.commit().expect("the disk is sound");
            match random.below(12) {
                0..4 => store.checkpoint().expect("the disk is sound"),
                4 => views.push(store.read()),
                5 if !views.is_empty() => drop(views.swap_remove(random.below(views.len() as u64) as usize)),
                _ => {}
            }
        }
        // The second one writes what views read of the table that the first one wrote.
        for n in 0..2 {
            store.checkpoint().expect("the disk is sound");
            fill(&store, "last", n..n + 1, 0);
        }
        let before = estimate(&store);
        let held_up = store.vacuum(0, &mut |_| {}).expect("the disk is sound");
        let beside = before.file_bytes.saturating_sub(held_up.file_bytes);
        let near = (before.file_bytes / 20).max(16 * 4096);
        let told = format!("seed {seed}, {} views: {before:?}, {held_up:?}", views.len());
        assert!(beside.abs_diff(before.vacuum.frees_bytes) <= near, "{beside} given back beside views; {told}");
        views.clear();
        let done = store.vacuum(0, &mut |_| {}).expect("the disk is sound");
        let freed = before.file_bytes.saturating_sub(done.file_bytes);
        assert!(
            freed.abs_diff(before.vacuum.frees_after_readers_bytes) <= near,
            "{freed} in the end; {told}; {done:?}"
        );
    }
}

/// Who only reads a file is told of its log as well.
#[test]
fn the_log_is_told_to_who_reads_only() {
    let disk = SimDisk::new(6);
    let store = Store::open(disk.env(NAME), Options::unencrypted()).expect("opens");
    fill(&store, "rows", 0..1_000, 0);
    let logs = || {
        let names = disk.names().into_iter().filter(|name| name.contains("-log"));
        names.map(|name| disk.read_file(&name).expect("is there").len() as u64).sum::<u64>()
    };
    let reader = Store::open(disk.env(NAME), Options::unencrypted().read_only(true)).expect("opens");
    assert!(logs() > 0);
    assert_eq!((estimate(&reader).log_bytes, estimate(&store).log_bytes), (logs(), logs()));
}

#[test]
fn history_counts_for_itself() {
    let store = Store::open(Env::memory(3), Options::unencrypted()).expect("opens");
    let tree = store.tree("rows").expect("a short name");
    store.set_history(tree, Some(History::ALL)).expect("the disk is sound");
    for salt in 0..4 {
        fill(&store, "rows", 0..2_000, salt);
    }
    let found = estimate(&store);
    let rows = &found.trees[0];
    assert_eq!((rows.entries, rows.payload_bytes), (2_000, 2_000 * 174));
    assert!(rows.versions >= 6_000 && rows.history_bytes > 6_000 * 150 && found.history_bytes == rows.history_bytes);
    let said: Vec<String> = found.advice().iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|line| line.starts_with("history takes ")), "{said:?}");
}
