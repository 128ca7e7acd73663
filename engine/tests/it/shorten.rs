//! How long a file is without anybody asking for a vacuum: while it is overwritten, and when it is closed.

use blazedb_engine::env::{CallKind, SimDisk, Survivors};
use blazedb_engine::{AutoVacuum, Memory, OpenError, Options, Store};

use crate::support::{Model, NAME, Random, content, model_of, options, put, unencrypted};

const KEY: usize = 24;
const VALUE: usize = 150;

/// A file of a few hundred pages is long beside it.
const MEMORY: Memory = Memory { cache_bytes: 1 << 20, table_bytes: 128 << 10, log_bytes: 1 << 20 };
const WHATEVER_IS_FREE: Option<AutoVacuum> = Some(AutoVacuum { free_percent: 1, free_bytes: 1 });

fn key(n: u64) -> [u8; KEY] {
    let mut key = [b'.'; KEY];
    key[..8].copy_from_slice(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    key
}

/// Puts rows in an order that the keys do not have, and calls back after each commit.
fn overwrite(store: &Store, numbers: impl Iterator<Item = u64>, random: &mut Random, mut each: impl FnMut()) {
    let tree = store.tree("rows").expect("a good name");
    let mut tx = store.write();
    for (i, n) in numbers.enumerate() {
        tx.put(tree, &key(n), &random.bytes(VALUE as u64)).expect("a good value");
        if i % 50 == 49 {
            std::mem::replace(&mut tx, store.write()).commit().expect("commits");
            tx = store.write();
            each();
        }
    }
    tx.commit().expect("commits");
}

fn file_bytes(disk: &SimDisk) -> u64 {
    disk.read_file(NAME).expect("is there").len() as u64
}

/// The headers, and per hundred of payload.
fn at_most(rows: u64, percent: u64) -> u64 {
    (128 << 10) + rows * (KEY + VALUE) as u64 * percent / 100
}

#[test]
fn a_file_that_is_loaded_and_overwritten_at_random_is_never_twice_as_long_as_its_rows() {
    const ROWS: u64 = 24_000;
    for how in [options(), unencrypted()] {
        let disk = SimDisk::new(1);
        let how = how.memory(MEMORY);
        let mut random = Random::new(1);
        let store = Store::open(disk.env(NAME), how.clone()).expect("creates");
        overwrite(&store, 0..ROWS, &mut random, || {});
        store.close().expect("closes");
        assert!(file_bytes(&disk) <= at_most(ROWS, 140), "{} of {}", file_bytes(&disk), at_most(ROWS, 100));
        let store = Store::open(disk.env(NAME), how.clone()).expect("opens");
        let mut longest = 0;
        let mut numbers = Random::new(2);
        let order: Vec<u64> = (0..4 * ROWS).map(|_| numbers.below(ROWS)).collect();
        overwrite(&store, order.into_iter(), &mut random, || longest = longest.max(file_bytes(&disk)));
        assert!(longest <= at_most(ROWS, 190), "{longest} of {}", at_most(ROWS, 100));
        assert_eq!(store.stats().entries, ROWS);
        store.verify(&mut |_| {}).expect("pages and space agree");
        store.close().expect("closes");
        assert!(file_bytes(&disk) <= at_most(ROWS, 140), "{} of {}", file_bytes(&disk), at_most(ROWS, 100));
    }
}

#[test]
fn who_has_only_read_or_wants_no_vacuum_leaves_the_file_as_it_is() {
    let disk = SimDisk::new(3);
    let long = || options().memory(MEMORY).auto_vacuum(None);
    let store = Store::open(disk.env(NAME), long()).expect("creates");
    overwrite(&store, 0..6_000, &mut Random::new(1), || {});
    store.close().expect("closes");
    let before = disk.read_file(NAME).expect("is there");
    assert!(before.len() as u64 > at_most(6_000, 200), "{} of {}", before.len(), at_most(6_000, 100));
    let store = Store::open(disk.env(NAME), long().auto_vacuum(WHATEVER_IS_FREE)).expect("opens");
    assert_eq!(content(&store.read())["rows"].len(), 6_000);
    store.close().expect("closes");
    assert!(disk.read_file(NAME).expect("is there") == before);
    // Now somebody writes.
    let store = Store::open(disk.env(NAME), long().auto_vacuum(WHATEVER_IS_FREE)).expect("opens");
    put(&store, "rows", b"k", b"v").expect("commits");
    // What an old view needs stays: the next session shortens the file.
    let view = store.read();
    put(&store, "rows", b"k", b"w").expect("commits");
    store.close().expect("closes");
    assert!(file_bytes(&disk) > at_most(6_000, 200), "{} of {}", file_bytes(&disk), at_most(6_000, 100));
    drop(view);
    let store = Store::open(disk.env(NAME), long().auto_vacuum(WHATEVER_IS_FREE)).expect("opens");
    put(&store, "rows", b"k", b"x").expect("commits");
    store.close().expect("closes");
    assert!(file_bytes(&disk) < at_most(6_000, 150), "{} of {}", file_bytes(&disk), at_most(6_000, 100));
    let store = Store::open(disk.env(NAME), long()).expect("opens");
    assert_eq!(content(&store.read())["rows"].len(), 6_001);
    store.verify(&mut |_| {}).expect("pages and space agree");
}

/// Opens, changes a little, and closes, three times; stops at the first error. Returns the last acknowledged state and
/// the one that was on its way.
fn sessions(disk: &SimDisk, seed: u64) -> [Model; 2] {
    let mut states = [Model::new(), Model::new()];
    let how = Options { memory: MEMORY, ..options() }.auto_vacuum(WHATEVER_IS_FREE);
    let mut random = Random::new(seed);
    let _ = (0..3).try_for_each(|session| {
        let store = Store::open(disk.env(NAME), how.clone()).ok()?;
        for _ in 0..3 {
            let mut tx = store.write();
            let tree = tx.tree("rows").ok()?;
            for _ in 0..if session == 0 { 300 } else { 60 } {
                let (key, value) = (key(random.below(900)), random.bytes(VALUE as u64));
                tx.put(tree, &key, &value).ok()?;
                states[1].entry("rows".into()).or_default().insert(key.to_vec(), value);
            }
            tx.commit().ok()?;
            states[0] = states[1].clone();
            store.checkpoint().ok()?;
        }
        store.close().ok()
    });
    states
}

/// spec: E-15
#[test]
fn a_crash_at_every_point_of_sessions_that_shorten_their_file_as_they_close() {
    let whole = SimDisk::new(1);
    let states = sessions(&whole, 1);
    let cuts = whole.calls(CallKind::SetLen);
    assert!(cuts >= 6, "each session cuts its file: {cuts}");
    let rows = states[0]["rows"].len() as u64;
    // Twenty pages are for the steps themselves, and for the branches.
    let most = at_most(rows, 135) + 20 * 4096;
    assert!(file_bytes(&whole) <= most, "{} of {most}", file_bytes(&whole));
    for point in 0..whole.changes() {
        let disk = SimDisk::new(1);
        disk.crash_at(point);
        let states = sessions(&disk, 1);
        assert!(disk.is_dead(), "the crash comes");
        for (i, survivors) in Survivors::ALL.into_iter().enumerate() {
            if i as u64 != point % 5 {
                continue;
            }
            let context = format!("point {point} {survivors:?}");
            let after = disk.after_crash(survivors, point * 31);
            let store = match Store::open(after.env(NAME), options().create(false)) {
                Ok(store) => store,
                Err(OpenError::NotFound { .. }) if states[0].is_empty() => continue,
                Err(error) => panic!("{context}: {error:?}"),
            };
            assert!(states.contains(&model_of(&store)), "{context}: a state that was not acknowledged, or never was");
            store.verify(&mut |_| {}).unwrap_or_else(|error| panic!("{context}: {error}"));
            put(&store, "rows", b"more", b"v").expect("writes go on");
            store.close().expect("closes");
        }
    }
}

/// A disk without room for the pages that move: the file stays long, and is closed as it should be.
#[test]
fn a_full_disk_does_not_keep_a_store_from_closing() {
    let disk = SimDisk::new(4);
    let store = Store::open(disk.env(NAME), options().memory(MEMORY).auto_vacuum(None)).expect("creates");
    overwrite(&store, 0..6_000, &mut Random::new(1), || {});
    store.close().expect("closes");
    let long = file_bytes(&disk);
    for more in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
        let disk = disk.copy();
        let store = Store::open(disk.env(NAME), options().memory(MEMORY).auto_vacuum(WHATEVER_IS_FREE)).expect("opens");
        put(&store, "rows", b"k", b"v").expect("commits");
        store.checkpoint().expect("checkpoints");
        let taken: u64 =
            disk.names().iter().filter_map(|name| disk.read_file(name)).map(|file| file.len() as u64).sum();
        disk.set_capacity(Some(taken + more * 4096));
        store.close().expect("closes");
        disk.set_capacity(None);
        assert!(file_bytes(&disk) <= long + (64 << 10));
        let store = Store::open(disk.env(NAME), options()).expect("opens");
        assert_eq!(content(&store.read())["rows"].len(), 6_001);
        store.verify(&mut |_| {}).expect("pages and space agree");
    }
}
