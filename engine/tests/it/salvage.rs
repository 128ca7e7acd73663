//! What comes back of a damaged store, and what is said of the rest.

use std::collections::{BTreeMap, BTreeSet};

use blazedb_engine::env::SimDisk;
use blazedb_engine::{History, Loss, OpenError, Options, SalvageError, SalvageReport, Store, salvage};

use crate::support::{Model, NAME, Random, model_of, options, put, roomy, scale, unencrypted};

const PAGE: usize = 4096;
const PAGES_START: usize = 128 << 10;
const FIRST: usize = 131_072 / PAGE;

fn save(disk: &SimDisk, how: &Options) -> (Model, SalvageReport) {
    let before: BTreeMap<String, Option<Vec<u8>>> =
        disk.names().into_iter().map(|name| (name.clone(), disk.read_file(&name))).collect();
    let target = SimDisk::new(disk.trace() | 1);
    let report = salvage(disk.env(NAME), how, target.env("saved.blaze"), how.clone(), &mut |_| {}).expect("salvages");
    for (name, bytes) in before {
        assert!(disk.read_file(&name) == bytes, "{name} is as it was");
    }
    let store = Store::open(target.env("saved.blaze"), how.clone().create(false)).expect("a whole store");
    store.verify(&mut |_| {}).expect("sound");
    (model_of(&store), report)
}

/// A row that can be found again in a file without encryption: key and value say its tree and number.
fn row(tree: &str, i: u32) -> (Vec<u8>, Vec<u8>) {
    (format!("{tree}-key-{i:07}").into_bytes(), format!("<{tree} row {i:07}>{}", "x".repeat(60)).into_bytes())
}

/// Loads rows into a new, closed store without encryption; every third long one lies in pages of its own.
fn loaded(disk: &SimDisk, trees: &[(&str, u32)]) -> Model {
    let store = Store::open(disk.env(NAME), unencrypted()).expect("creates");
    let mut model = Model::new();
    let mut loader = store.loader();
    for &(name, rows) in trees {
        let tree = loader.tree(name).expect("a good name");
        for i in 0..rows {
            let (key, value) = row(name, i);
            loader.put(tree, &key, &value).expect("takes it");
            model.entry(name.into()).or_default().insert(key, value);
        }
    }
    loader.finish().expect("finishes");
    store.close().expect("closes");
    model
}

/// Where each row is: by page number, the rows of that leaf. Finds values by their text.
fn leaves(disk: &SimDisk) -> BTreeMap<usize, Vec<(String, Vec<u8>)>> {
    let file = disk.read_file(NAME).expect("is there");
    let mut found: BTreeMap<usize, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    for (no, page) in file.chunks(PAGE).enumerate().skip(FIRST).filter(|(_, page)| page[4] == 1) {
        for (at, _) in page.iter().enumerate().filter(|&(_, &byte)| byte == b'<') {
            let text = &page[at..page.len().min(at + 40)];
            let Some(end) = text.iter().position(|&b| b == b'>') else { continue };
            // A length may look like the text's beginning.
            let Some((tree, number)) =
                std::str::from_utf8(&text[1..end]).ok().and_then(|text| text.split_once(" row "))
            else {
                continue;
            };
            found.entry(no).or_default().push((tree.into(), row(tree, number.parse().expect("a number")).0));
        }
    }
    found
}

fn kinds(disk: &SimDisk, kind: u8) -> Vec<usize> {
    let file = disk.read_file(NAME).expect("is there");
    file.chunks(PAGE).enumerate().skip(FIRST).filter(|(_, page)| page[4] == kind).map(|(no, _)| no).collect()
}

fn overwrite(disk: &SimDisk, pages: impl IntoIterator<Item = usize>, random: &mut Random) {
    let mut file = disk.read_file(NAME).expect("is there");
    for no in pages {
        file[no * PAGE..][..PAGE].copy_from_slice(&random.bytes(PAGE as u64));
    }
    disk.write_file(NAME, &file);
}

#[test]
fn nothing_is_lost_of_a_store_that_is_sound() {
    for how in [roomy(), options(), unencrypted()] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), how.clone()).expect("creates");
        for i in 0..300_u32 {
            put(&store, "t", &i.to_be_bytes(), &i.to_le_bytes().repeat(1 + i as usize * 5)).expect("commits");
        }
        store.checkpoint().expect("checkpoints");
        let mut tx = store.write();
        let tree = tx.tree("t").expect("a good name");
        tx.delete(tree, &7_u32.to_be_bytes()).expect("a good key");
        tx.put(tree, &8_u32.to_be_bytes(), b"in the log").expect("a good value");
        tx.commit().expect("commits");
        let model = model_of(&store);
        let refused = salvage(disk.env(NAME), &how, disk.env("b.blaze"), how.clone(), &mut |_| {});
        assert!(matches!(refused, Err(SalvageError::Source(OpenError::Locked { .. }))), "{refused:?}");
        // The store as a crash leaves it: commits are in the log.
        let disk = disk.after_crash(blazedb_engine::env::Survivors::None, 1);
        let (saved, report) = save(&disk, &how);
        assert!(saved == model);
        assert_eq!((&report.losses[..], report.older_header), (&[][..], false));
        assert_eq!(report.trees[0].rows_expected, Some(report.trees[0].rows_found));
    }
}

#[test]
fn every_row_whose_pages_are_intact_comes_back_from_a_file_with_one_page_in_a_hundred_overwritten() {
    for seed in 1..=4 * scale() {
        let disk = SimDisk::new(seed);
        let model = loaded(&disk, &[("aa", 40_000), ("bb", 15_000)]);
        let leaves = leaves(&disk);
        assert_eq!(leaves.values().map(Vec::len).sum::<usize>(), 55_000, "each row is found once");
        let mut random = Random::new(seed);
        let pages = disk.read_file(NAME).expect("is there").len() / PAGE;
        // The few pages that say where trees begin and which pages are in use have tests of their own.
        let few: BTreeSet<usize> = kinds(&disk, 5).into_iter().chain(kinds(&disk, 6)).collect();
        let mut damaged: BTreeSet<usize> = (0..pages.div_ceil(100))
            .map(|_| FIRST + random.below((pages - FIRST) as u64) as usize)
            .filter(|no| !few.contains(no) && (leaves.contains_key(no) || kinds(&disk, 2).contains(no)))
            .collect();
        // An inner page of each tree is among them, whatever chance says.
        let file = disk.read_file(NAME).expect("is there");
        for of in [b"aa-key", b"bb-key"] {
            let inner: Vec<usize> = kinds(&disk, 2)
                .into_iter()
                .filter(|no| file[no * PAGE + 56] == 1 && file[no * PAGE..][..PAGE].windows(6).any(|piece| piece == of))
                .collect();
            damaged.insert(inner[random.below(inner.len() as u64) as usize]);
        }
        overwrite(&disk, damaged.iter().copied(), &mut random);
        let opened = Store::open(disk.env(NAME), unencrypted()).map(|store| store.verify(&mut |_| {}).is_err());
        assert!(!matches!(opened, Ok(false)), "the file is damaged");
        let (saved, report) = save(&disk, &unencrypted());
        let lost: BTreeSet<&(String, Vec<u8>)> =
            leaves.iter().filter(|(no, _)| damaged.contains(no)).flat_map(|(_, rows)| rows).collect();
        for (tree, rows) in &model {
            for (key, value) in rows {
                let is_lost = lost.contains(&(tree.clone(), key.clone()));
                let found = saved.get(tree).and_then(|rows| rows.get(key));
                assert_eq!(found, (!is_lost).then_some(value), "seed {seed} {tree} {key:?}");
                if is_lost {
                    let is_named = report.losses.iter().any(|loss| match loss {
                        Loss::Range { tree: of, from, to, .. } => {
                            of == tree && from <= key && to.as_ref().is_none_or(|to| key < to)
                        }
                        _ => false,
                    });
                    assert!(is_named, "seed {seed}: {tree} {key:?} is lost and not in the report");
                }
            }
        }
        assert!(report.rows_found_again > 0, "the inner page's rows");
        let missing: u64 = report.trees.iter().map(|tree| tree.rows_expected.unwrap_or(0) - tree.rows_found).sum();
        assert_eq!(missing, lost.len() as u64, "counted exactly");
    }
}

/// The page that each header's tree of roots begins at.
fn roots(disk: &SimDisk) -> BTreeSet<usize> {
    let file = disk.read_file(NAME).expect("is there");
    let root = |slot: usize| u64::from_le_bytes(file[slot * 65_536 + 104..][..8].try_into().expect("8 bytes"));
    [root(0) as usize, root(1) as usize].into()
}

/// A store whose pages are in use for the most part, and whose other pages still have what they had before.
fn used(disk: &SimDisk) -> Model {
    let mut model = loaded(disk, &[("aa", 40_000), ("bb", 15_000)]);
    let store = Store::open(disk.env(NAME), Options { auto_vacuum: None, ..unencrypted() }).expect("opens");
    let mut random = Random::new(1);
    for _ in 0..6 {
        let mut tx = store.write();
        for name in ["aa", "bb"] {
            let tree = tx.tree(name).expect("a good name");
            let rows = model.get_mut(name).expect("is there");
            for _ in 0..400 {
                let (key, value) = row(name, random.below(15_000) as u32);
                if random.below(2) == 0 {
                    tx.delete(tree, &key).expect("a good key");
                    rows.remove(&key);
                } else {
                    tx.put(tree, &key, &value).expect("a good value");
                    rows.insert(key, value);
                }
            }
        }
        tx.commit().expect("commits");
        store.checkpoint().expect("checkpoints");
    }
    // As a crash leaves it: closing would give free pages back.
    let crashed = disk.after_crash(blazedb_engine::env::Survivors::None, 1);
    for name in crashed.names() {
        disk.write_file(&name, &crashed.read_file(&name).expect("is there"));
    }
    model
}

#[test]
fn rows_come_back_where_nobody_can_say_which_pages_are_in_use() {
    for what in ["an inner page", "the roots", "both", "a third of the file"] {
        let disk = SimDisk::new(1);
        let model = used(&disk);
        let leaves = leaves(&disk);
        let mut random = Random::new(2);
        let pages = disk.read_file(NAME).expect("is there").len() / PAGE;
        let mut damaged: BTreeSet<usize> = kinds(&disk, 6).into_iter().chain(kinds(&disk, 5)).collect();
        let file = disk.read_file(NAME).expect("is there");
        match what {
            "a third of the file" => {
                let left = pages * 2 / 3;
                damaged = (left..pages).collect();
                damaged.extend(kinds(&disk, 6));
                disk.write_file(NAME, &file[..left * PAGE]);
                overwrite(&disk, damaged.iter().copied().filter(|&no| no < left), &mut random);
            }
            _ => {
                if what != "the roots" {
                    damaged.extend(kinds(&disk, 2));
                }
                if what != "an inner page" {
                    damaged.extend(roots(&disk));
                }
                overwrite(&disk, damaged.iter().copied(), &mut random);
            }
        }
        let (saved, report) = save(&disk, &unencrypted());
        let intact: BTreeSet<&(String, Vec<u8>)> =
            leaves.iter().filter(|(no, _)| !damaged.contains(no)).flat_map(|(_, rows)| rows).collect();
        let beside: BTreeSet<(&Vec<u8>, &Vec<u8>)> =
            saved.iter().filter(|(tree, _)| tree.starts_with("lost+found/")).flat_map(|(_, rows)| rows).collect();
        let (mut back, mut gone) = (0, 0);
        for (tree, rows) in &model {
            for (key, value) in rows {
                let is_there = saved.get(tree).and_then(|rows| rows.get(key)) == Some(value);
                if is_there || beside.contains(&(key, value)) {
                    back += 1;
                } else {
                    assert!(!intact.contains(&(tree.clone(), key.clone())), "{what}: {tree} {key:?} could be read");
                    gone += 1;
                }
            }
        }
        assert!(back > 20_000 && (gone == 0) == (what != "a third of the file"), "{what}: {back} and {gone}");
        let own = saved.iter().filter(|(tree, _)| !tree.starts_with("lost+found/"));
        for (tree, rows) in own {
            assert!(rows.keys().all(|key| model[tree].contains_key(key)), "{what}: {tree} has what was deleted");
        }
        assert!(report.losses.iter().any(|loss| matches!(loss, Loss::Space { .. })), "{what}: {:?}", report.losses);
        let of_roots = report.losses.iter().any(|loss| matches!(loss, Loss::Roots { .. }));
        assert!(of_roots || what == "an inner page" || what == "a third of the file", "{what}: {:?}", report.losses);
    }
}

/// A salvage of what an earlier one had to lay beside: rows that cannot be placed go over none that can.
#[test]
fn what_cannot_be_placed_goes_into_no_tree_that_is_there() {
    let (disk, target) = (SimDisk::new(3), SimDisk::new(9));
    let how = Options::unencrypted();
    let store = Store::open(disk.env(NAME), how.clone()).expect("opens");
    let mut load = store.loader();
    for tree in ["aa", "bb", "lost+found/1"] {
        let id = load.tree(tree).expect("a good name");
        let rows = if tree == "lost+found/1" { 20 } else { 3000 };
        for n in 0..rows {
            load.put(id, format!("key-{n:07}").as_bytes(), format!("{tree} {n}").repeat(10).as_bytes()).expect("room");
        }
    }
    load.finish().expect("loads");
    store.close().expect("closes");
    // The branches of both trees: their leaves are sound, and nobody can say whose they are.
    let mut file = disk.read_file(NAME).expect("the store's file");
    for page in file[PAGES_START..].chunks_mut(PAGE).filter(|page| page[4] == 2) {
        if page.windows(4).any(|bytes| bytes == b"key-" || bytes == b"0000") {
            page[100..164].fill(0xA5);
        }
    }
    disk.write_file(NAME, &file);
    salvage(disk.env(NAME), &how, target.env("b.blaze"), how.clone(), &mut |_| {}).expect("something is there");
    let saved = model_of(&Store::open(target.env("b.blaze"), how).expect("opens"));
    let intact = &saved["lost+found/1"];
    assert_eq!(intact.len(), 20);
    assert!(intact.values().all(|value| value.starts_with(b"lost+found/1 ")), "of that tree alone");
    let beside = saved.iter().filter(|(tree, _)| tree.starts_with("lost+found/") && *tree != "lost+found/1");
    assert_eq!(beside.map(|(_, rows)| rows.len()).sum::<usize>(), 6000);
}

#[test]
fn a_file_of_which_no_row_can_be_read_makes_no_empty_one() {
    let disk = SimDisk::new(1);
    let model = loaded(&disk, &[("aa", 2000)]);
    assert_eq!(model["aa"].len(), 2000);
    let pages = disk.read_file(NAME).expect("is there").len() / PAGE;
    overwrite(&disk, FIRST..pages, &mut Random::new(1));
    let target = SimDisk::new(1);
    let made = salvage(disk.env(NAME), &unencrypted(), target.env(NAME), unencrypted(), &mut |_| {});
    assert!(matches!(&made, Err(SalvageError::Nothing(report)) if !report.losses.is_empty()), "{made:?}");
    assert!(target.names().is_empty(), "{:?}", target.names());
}

#[test]
fn rows_of_trees_that_nobody_can_tell_apart_are_saved_beside_them() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), unencrypted()).expect("creates");
    let mut loader = store.loader();
    for name in ["left", "right"] {
        let tree = loader.tree(name).expect("a good name");
        for i in 0..30_000_u32 {
            // The same keys in both.
            loader.put(tree, &i.to_be_bytes(), format!("{name} {i} {}", "y".repeat(50)).as_bytes()).expect("takes it");
        }
    }
    loader.finish().expect("finishes");
    let model = model_of(&store);
    store.close().expect("closes");
    let branches = kinds(&disk, 2);
    overwrite(&disk, branches.iter().copied(), &mut Random::new(1));
    let (saved, report) = save(&disk, &unencrypted());
    let mut all: BTreeSet<&Vec<u8>> = BTreeSet::new();
    for (name, rows) in &saved {
        assert!(name.starts_with("lost+found/"), "{name}: in no tree that it may not be of");
        all.extend(rows.values());
    }
    let expected: BTreeSet<&Vec<u8>> = model.values().flat_map(|rows| rows.values()).collect();
    assert!(all == expected, "{} of {} rows", all.len(), expected.len());
    assert!(
        report.losses.iter().any(|loss| matches!(loss, Loss::Unplaced { candidates, .. } if candidates.len() == 2))
    );
}

#[test]
fn a_damaged_value_is_named_and_its_neighbours_are_saved() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), unencrypted()).expect("creates");
    for i in 0..10_u8 {
        put(&store, "t", &[i], &vec![i; 9000]).expect("commits");
    }
    let model = model_of(&store);
    store.close().expect("closes");
    let file = disk.read_file(NAME).expect("is there");
    let of_five = file.chunks(PAGE).position(|page| page[4] == 3 && page[100] == 5).expect("a page of value 5");
    overwrite(&disk, [of_five], &mut Random::new(1));
    let (saved, report) = save(&disk, &unencrypted());
    assert_eq!(saved["t"].len(), 9);
    assert!(saved["t"].iter().all(|(key, value)| model["t"][key] == *value));
    assert!(matches!(&report.losses[..], [Loss::Value { tree, key, len: 9000, .. }] if tree == "t" && key[..] == [5]));
}

#[test]
fn a_damaged_header_or_tree_of_roots_costs_nothing_where_the_older_one_holds() {
    for (what, at) in [("newest header", 0), ("older header", 1), ("roots", 2)] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), roomy()).expect("creates");
        for i in 0..200_u32 {
            put(&store, "t", &i.to_be_bytes(), &[i as u8; 40]).expect("commits");
        }
        store.checkpoint().expect("checkpoints");
        put(&store, "t", b"more", b"x").expect("commits");
        store.checkpoint().expect("checkpoints");
        let model = model_of(&store);
        let disk = disk.after_crash(blazedb_engine::env::Survivors::None, 1);
        let mut file = disk.read_file(NAME).expect("is there");
        let sequence = |slot: usize| u64::from_le_bytes(file[slot * 65_536 + 16..][..8].try_into().expect("8 bytes"));
        let newest = usize::from(sequence(1) > sequence(0));
        let byte = match at {
            0 => newest * 65_536 + 100,
            1 => (1 - newest) * 65_536 + 100,
            _ => {
                let root = u64::from_le_bytes(file[newest * 65_536 + 104..][..8].try_into().expect("8 bytes"));
                root as usize * PAGE + 300
            }
        };
        file[byte] ^= 0x55;
        disk.write_file(NAME, &file);
        let (saved, report) = save(&disk, &roomy());
        assert!(saved == model, "{what}");
        assert!(report.losses.is_empty(), "{what}: {:?}", report.losses);
        assert!(report.older_header || at == 1, "{what}");
    }
}

/// Where a header's slot is in a file, and whether it is the newest.
pub(crate) fn slots(file: &[u8]) -> [(usize, bool); 2] {
    let sequence = |at: usize| u64::from_le_bytes(file[at + 16..][..8].try_into().expect("8 bytes"));
    [(0, sequence(0) > sequence(65_536)), (65_536, sequence(65_536) > sequence(0))]
}

/// What becomes of a log.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Log {
    Kept,
    Gone,
    Zeros,
    Cut,
}

/// A store of 90 rows that was not closed, with `after` of them behind its second checkpoint; one header damaged, in part or
/// as a whole, and its log.
fn with_header_and_log_damaged(how: &Options, after: u32, newest: bool, whole: bool, log: Log) -> SimDisk {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), how.clone()).expect("creates");
    for i in 0..90_u32 {
        put(&store, "t", &i.to_be_bytes(), &[i as u8; 300]).expect("commits");
        if i == 50 || i == 89 - after {
            store.checkpoint().expect("checkpoints");
        }
    }
    let disk = disk.after_crash(blazedb_engine::env::Survivors::None, 1);
    let mut file = disk.read_file(NAME).expect("is there");
    let (at, _) = slots(&file).into_iter().find(|(_, is)| *is == newest).expect("one is newer");
    if whole {
        file[at..at + 4096].fill(0);
    } else {
        file[at + 100] ^= 0x55;
    }
    disk.write_file(NAME, &file);
    for name in disk.names().into_iter().filter(|name| name.contains("-log")) {
        let len = disk.read_file(&name).expect("is there").len();
        match log {
            Log::Kept => {}
            Log::Gone => disk.env(NAME).storage.remove(&name).expect("is there"),
            Log::Zeros => disk.write_file(&name, &vec![0; len]),
            Log::Cut => disk.write_file(&name, &disk.read_file(&name).expect("is there")[..4096]),
        }
    }
    disk
}

/// A header that cannot be read is said. Where the log does not show that it reaches the newest one, commits may be missing:
/// opening says so, and a salvage names it as a loss. Nobody is alarmed where the older one is damaged, or the log has all.
#[test]
fn a_lost_header_and_a_lost_log_are_named() {
    for how in [roomy(), unencrypted()] {
        for (newest, whole, log, after) in [true, false].into_iter().flat_map(|newest| {
            [false, true].into_iter().flat_map(move |whole| {
                let logs = [Log::Kept, Log::Gone, Log::Zeros, Log::Cut];
                logs.into_iter().flat_map(move |log| [0, 3].map(|after| (newest, whole, log, after)))
            })
        }) {
            let what = format!("newest {newest}, whole {whole}, log {log:?}, {after} after it");
            let disk = with_header_and_log_damaged(&how, after, newest, whole, log);
            let store = match Store::open(disk.env(NAME), how.clone().read_only(true)) {
                Ok(store) => store,
                // A later group, in the next generation, says that more was acknowledged.
                Err(error) => {
                    assert!(matches!(error, OpenError::Corruption(_)) && newest && log == Log::Cut, "{what}: {error}");
                    continue;
                }
            };
            let rows = store.read().len(store.tree("t").expect("a good name")).expect("reads");
            let surely = store.stats().recovered_surely;
            let report = store.verify(&mut |_| {}).expect("reads");
            assert!(report.header_damaged && report.recovered_surely == surely, "{what}: {report:?}");
            let target = SimDisk::new(9);
            let saved = salvage(disk.env(NAME), &how, target.env(NAME), how.clone(), &mut |_| {}).expect("salvages");
            assert_eq!(saved.rows, rows, "{what}");
            assert_eq!(saved.losses.is_empty(), surely, "{what}: {:?}", saved.losses);
            // What a log says that nobody misses is another matter: a torn tail looks as one that is gone.
            let of_header = if newest { 90 } else { 90 - u64::from(after) };
            assert!(!surely || rows >= of_header, "{what}: {rows} rows, and nothing is said");
            if !whole {
                assert_eq!(surely, rows >= of_header, "{what}: {rows} rows");
            }
            // Of zeros nobody can say which header they were.
            assert!(!surely || !whole, "{what}");
            if log == Log::Kept && after > 0 && !whole {
                assert!(surely && rows == 90, "{what}");
            }
            for loss in saved.losses {
                let said = loss.to_string();
                let after = format!("commits after {} may be missing", saved.log_commit_no);
                let why = if whole { "does not show that it reaches" } else { "does not reach commit" };
                assert!(said.contains(&after) && said.contains(why), "{said}");
            }
            // Whoever opens it for writing is told as well, and leaves both headers whole.
            drop(store);
            let store = Store::open(disk.env(NAME), how.clone()).expect("opens");
            assert_eq!(store.stats().recovered_surely, surely, "{what}");
            store.close().expect("closes");
            let store = Store::open(disk.env(NAME), how.clone().read_only(true)).expect("opens");
            let report = store.verify(&mut |_| {}).expect("reads");
            assert!(!report.header_damaged && report.recovered_surely, "{what}: {report:?}");
        }
    }
}

/// A store that was closed has all in its pages, and no log: a header that is damaged since takes nothing away.
#[test]
fn a_lost_header_of_a_closed_store_is_no_loss() {
    for newest in [false, true] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), roomy()).expect("creates");
        for i in 0..90_u32 {
            put(&store, "t", &i.to_be_bytes(), &[i as u8; 40]).expect("commits");
        }
        store.close().expect("closes");
        let mut file = disk.read_file(NAME).expect("is there");
        let (at, _) = slots(&file).into_iter().find(|(_, is)| *is == newest).expect("one is newer");
        file[at + 100] ^= 0x55;
        disk.write_file(NAME, &file);
        let (saved, report) = save(&disk, &roomy());
        assert!(report.losses.is_empty() && report.older_header && saved["t"].len() == 90, "{:?}", report.losses);
        let store = Store::open(disk.env(NAME), roomy().read_only(true)).expect("opens");
        let report = store.verify(&mut |_| {}).expect("reads");
        assert!(report.header_damaged && report.recovered_surely, "{report:?}");
    }
}

/// A header that rots while the store is open is found by whoever checks it, and written anew by checkpoints.
#[test]
fn a_header_that_rots_in_use_is_found_and_written_anew() {
    for at in [0, 65_536] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), roomy()).expect("creates");
        let damaged = || store.verify(&mut |_| {}).expect("reads").header_damaged;
        put(&store, "t", b"k", b"v").expect("commits");
        store.checkpoint().expect("checkpoints");
        assert!(!damaged());
        assert!(disk.flip_bit(NAME, (at + 100) * 8));
        assert!(damaged());
        for i in 0..2_u8 {
            put(&store, "t", &[i], b"v").expect("commits");
            store.checkpoint().expect("checkpoints");
        }
        assert!(!damaged());
    }
}

/// A file of which either header is of a later format is for nobody who does not know it. spec: E-45
#[test]
fn a_file_from_the_future_is_not_salvaged() {
    for newest in [false, true] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), unencrypted()).expect("creates");
        put(&store, "t", b"k", b"v").expect("commits");
        store.checkpoint().expect("checkpoints");
        store.close().expect("closes");
        let mut file = disk.read_file(NAME).expect("is there");
        let [(first, is_newest), (second, _)] = slots(&file);
        let (at, other) = if is_newest == newest { (first, second) } else { (second, first) };
        // Also where the other one is not what any program writes: a byte that is to be 0.
        for (at, byte, value) in [(other, 700, 1), (at, 8, 7)] {
            file[at + byte] = value;
            let crc = crc32fast::hash(&file[at..at + 4092]);
            file[at + 4092..at + 4096].copy_from_slice(&crc.to_le_bytes());
        }
        disk.write_file(NAME, &file);
        let opened = Store::open(disk.env(NAME), unencrypted()).map(|_| ());
        assert!(matches!(opened, Err(OpenError::UnsupportedVersion(7))), "{opened:?}");
        let target = SimDisk::new(2);
        let found = salvage(disk.env(NAME), &unencrypted(), target.env(NAME), unencrypted(), &mut |_| {});
        assert!(matches!(found, Err(SalvageError::Source(OpenError::UnsupportedVersion(7)))), "{found:?}");
        assert!(target.names().is_empty());
    }
}

/// The trees' roots and names lie in leaves below branches of their own.
#[test]
fn roots_and_names_of_trees_come_back_where_the_branch_above_them_is_lost() {
    let disk = SimDisk::new(1);
    let names: Vec<String> = (0..600).map(|i| format!("tree-{i:04}")).collect();
    // Every fifth is empty, and so has no root: the last numbers are of such.
    let rows = |i: usize| if i % 5 == 4 { 0 } else { 3 };
    let model = loaded(&disk, &names.iter().enumerate().map(|(i, name)| (&name[..], rows(i))).collect::<Vec<_>>());
    let whole = disk.read_file(NAME).expect("is there");
    let branches = kinds(&disk, 2);
    assert_eq!(branches.len(), 2, "one above the names, one above the roots");
    for &branch in &branches {
        let mut file = whole.clone();
        file[branch * PAGE + 100] ^= 1;
        disk.write_file(NAME, &file);
        let (saved, report) = save(&disk, &unencrypted());
        assert!(saved == model, "every tree has its name and its rows");
        assert!(report.losses.is_empty() && !report.older_header, "{:?}", report.losses);
    }
    // One of their leaves is lost as well: the others are found again, and what is missing is told.
    let is_row = |page: &[u8]| page.windows(5).any(|text| text == b" row ");
    let own = kinds(&disk, 1).into_iter().filter(|no| !is_row(&whole[no * PAGE..][..PAGE])).collect::<Vec<_>>();
    assert!(own.len() >= 6, "leaves of names and of roots");
    for leaf in own {
        let mut file = whole.clone();
        for page in branches.iter().chain([&leaf]) {
            file[page * PAGE + 100] ^= 1;
        }
        disk.write_file(NAME, &file);
        let (saved, report) = save(&disk, &unencrypted());
        let named = saved.iter().filter(|(name, rows)| model.get(*name) == Some(rows)).count();
        assert!((200..480).contains(&named), "{named} trees have their names and rows, without page {leaf}");
        let rows: BTreeSet<&[u8]> =
            saved.values().flat_map(BTreeMap::values).map(Vec::as_slice).filter(|row| is_row(row)).collect();
        assert_eq!(rows.len(), 1440, "no row is lost, without page {leaf}");
        assert!(!report.losses.is_empty(), "without page {leaf}");
    }
}

#[test]
fn what_the_log_says_before_it_is_damaged_is_saved() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), roomy()).expect("creates");
    for i in 0..60_u32 {
        put(&store, "t", &i.to_be_bytes(), &[i as u8; 900]).expect("commits");
    }
    let model = model_of(&store);
    let disk = disk.after_crash(blazedb_engine::env::Survivors::None, 1);
    let name = disk.names().into_iter().find(|name| name.contains("-log.")).expect("a log");
    let mut log = disk.read_file(&name).expect("is there");
    log[30 * 4096 + 200] ^= 1;
    disk.write_file(&name, &log);
    assert!(matches!(Store::open(disk.env(NAME), roomy()), Err(OpenError::Corruption(_))), "refused, as it should be");
    let (saved, report) = save(&disk, &roomy());
    let saved = &saved["t"];
    assert!(saved.len() == 30 && saved.iter().all(|(key, value)| model["t"][key] == *value), "{} rows", saved.len());
    assert!(matches!(report.losses[..], [Loss::Log { after_commit: 30, .. }]), "{:?}", report.losses);
}

#[test]
fn a_file_without_headers_or_with_another_key_is_refused_and_nothing_is_made() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), roomy()).expect("creates");
    put(&store, "t", b"k", b"v").expect("commits");
    store.close().expect("closes");
    let refused = |how: &Options| {
        let result = salvage(disk.env(NAME), how, disk.env("b.blaze"), roomy(), &mut |_| {});
        assert!(disk.names().iter().all(|name| !name.starts_with("b.blaze")), "nothing was made");
        result.expect_err("refused")
    };
    let wrong = refused(&Options::raw_key([1; 32]));
    assert!(matches!(wrong, SalvageError::Source(OpenError::WrongKey)), "{wrong:?}");
    let mut file = disk.read_file(NAME).expect("is there");
    file[100] ^= 1;
    file[65_636] ^= 1;
    disk.write_file(NAME, &file);
    let gone = refused(&roomy());
    assert!(matches!(gone, SalvageError::Source(OpenError::Corruption(_))), "{gone:?}");
    let target = salvage(disk.env(NAME), &roomy(), disk.env(NAME), roomy(), &mut |_| {});
    assert!(matches!(target, Err(SalvageError::Target(_))), "never in place: {target:?}");
}

#[test]
fn any_damage_of_a_small_store_is_survived() {
    for seed in 1..=30 * scale() {
        let disk = SimDisk::new(seed);
        let how = if seed % 2 == 0 { options() } else { unencrypted() };
        let store = Store::open(disk.env(NAME), how.clone()).expect("creates");
        let mut random = Random::new(seed);
        let mut model = Model::new();
        for _ in 0..60 {
            let mut tx = store.write();
            crate::support::random_changes(&mut random, &mut tx, &mut model);
            tx.commit().expect("commits");
        }
        if seed % 3 == 0 {
            store.close().expect("closes");
        }
        let disk = disk.after_crash(blazedb_engine::env::Survivors::All, seed);
        for name in disk.names() {
            let mut file = disk.read_file(&name).expect("is there");
            for _ in 0..1 + file.len() / 20_000 {
                let at = random.below(file.len() as u64) as usize;
                let end = file.len().min(at + 1 + random.below(3000) as usize);
                file[at..end].iter_mut().for_each(|byte| *byte = random.next() as u8);
            }
            if random.below(4) == 0 {
                file.truncate(random.below(file.len() as u64) as usize);
            }
            disk.write_file(&name, &file);
        }
        let target = SimDisk::new(seed);
        match salvage(disk.env(NAME), &how, target.env(NAME), how.clone(), &mut |_| {}) {
            Ok(_) => {
                let store = Store::open(target.env(NAME), how.create(false)).expect("a whole store");
                store.verify(&mut |_| {}).expect("sound");
            }
            Err(error) => {
                let is_told = matches!(error, SalvageError::Source(_) | SalvageError::Nothing(_));
                assert!(is_told, "seed {seed}: {error:?}");
            }
        }
    }
}

/// A tree may be empty in pages and have rows in the log, the one with the empty key too.
#[test]
fn rows_of_the_log_come_back_into_trees_that_are_empty_in_pages() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), options()).expect("creates");
    for tree in ["a", "b", "c"] {
        put(&store, tree, b"k", b"v").expect("commits");
        let mut tx = store.write();
        tx.delete(store.tree(tree).expect("a good name"), b"k").expect("a good key");
        tx.commit().expect("commits");
    }
    put(&store, "d", b"k", b"v").expect("commits");
    store.checkpoint().expect("checkpoints");
    put(&store, "b", b"", b"1").expect("commits");
    put(&store, "c", b"", b"2").expect("commits");
    put(&store, "c", b"x", b"3").expect("commits");
    let (saved, report) = save(&disk.after_crash(blazedb_engine::env::Survivors::None, 1), &options());
    assert_eq!(saved, model_of(&store));
    assert_eq!((report.rows, &report.losses[..]), (4, &[][..]));
}

/// What a store keeps for itself is in its log as well, and is nobody's rows.
#[test]
fn history_in_the_log_is_not_saved_as_rows_of_a_tree() {
    for has_pages in [false, true] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), options()).expect("creates");
        put(&store, "history", b"k", b"mine").expect("commits");
        store.set_history(store.tree("notes").expect("a good name"), Some(History::ALL)).expect("is kept");
        if has_pages {
            store.checkpoint().expect("checkpoints");
        }
        for i in 0..5 {
            disk.clock().advance_ms(2000);
            put(&store, "notes", b"n", &[i]).expect("commits");
        }
        let (saved, report) = save(&disk.after_crash(blazedb_engine::env::Survivors::None, 1), &options());
        assert_eq!(saved, model_of(&store));
        assert_eq!((report.rows, &report.losses[..]), (2, &[][..]));
    }
}
