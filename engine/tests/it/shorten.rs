//! How long a file is without anybody asking for a vacuum: while it is overwritten, and when it is closed.

use std::io;

use blazedb_engine::env::{CallKind, Fault, SimDisk, Survivors};
use blazedb_engine::{AutoVacuum, MaintainError, Memory, OpenError, Options, Store};

use crate::support::{Model, NAME, Random, content, model_of, options, put, unencrypted};
use crate::vacuum::{VALUE, at_most, file_bytes, key};

/// A file of a few hundred pages is long beside it.
const MEMORY: Memory = Memory { cache_bytes: 1 << 20, table_bytes: 128 << 10, log_bytes: 1 << 20 };
const WHATEVER_IS_FREE: Option<AutoVacuum> = Some(AutoVacuum { free_percent: 1, free_bytes: 1 });

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
    // While a view is open the file stays: the next session shortens it.
    let view = store.read();
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
fn sessions(disk: &SimDisk, vacuum: Option<AutoVacuum>, seed: u64) -> [Model; 2] {
    let mut states = [Model::new(), Model::new()];
    let how = Options { memory: MEMORY, ..options() }.auto_vacuum(vacuum);
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
    let states = sessions(&whole, WHATEVER_IS_FREE, 1);
    let cuts = whole.calls(CallKind::SetLen);
    let without = SimDisk::new(1);
    sessions(&without, None, 1);
    assert!(cuts > without.calls(CallKind::SetLen), "sessions cut their file: {cuts}");
    assert!(file_bytes(&whole) < file_bytes(&without));
    let rows = states[0]["rows"].len() as u64;
    // Twenty pages are for the steps themselves, and for the branches.
    let most = at_most(rows, 135) + 20 * 4096;
    assert!(file_bytes(&whole) <= most, "{} of {most}", file_bytes(&whole));
    for point in 0..whole.changes() {
        let disk = SimDisk::new(1);
        disk.crash_at(point);
        let states = sessions(&disk, WHATEVER_IS_FREE, 1);
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

/// A file that is long for what is in it, and a session that is about to close and shorten it.
fn about_to_close(disk: &SimDisk) -> Store {
    let store = Store::open(disk.env(NAME), options().memory(MEMORY).auto_vacuum(WHATEVER_IS_FREE)).expect("opens");
    put(&store, "rows", b"k", b"v").expect("commits");
    store.checkpoint().expect("checkpoints");
    store
}

fn long_file() -> SimDisk {
    let disk = SimDisk::new(4);
    let store = Store::open(disk.env(NAME), options().memory(MEMORY).auto_vacuum(None)).expect("creates");
    overwrite(&store, 0..6_000, &mut Random::new(1), || {});
    store.close().expect("closes");
    disk
}

/// Whatever write finds no room: nothing is lost, and what had begun to shorten the file does not keep it from closing.
#[test]
fn a_full_disk_does_not_keep_a_store_from_closing() {
    let base = long_file();
    let (mut gave_up, mut closed) = (0, 0);
    for nth in 0..60 {
        let disk = base.copy();
        let store = about_to_close(&disk);
        let failed_before = store.stats().checkpoints_failed;
        disk.fail(Fault { kind: CallKind::Write, nth, error: io::ErrorKind::StorageFull, for_ever: false });
        match store.close() {
            Ok(()) if store.stats().checkpoints_failed > failed_before => {
                gave_up += 1;
                let log: usize =
                    disk.names().iter().filter(|name| *name != NAME).map(|name| log_bytes(&disk, name)).sum();
                assert!(log <= 1 << 20, "write {nth}: the log is folded: {log}");
            }
            Ok(()) => closed += 1,
            // It was the header's own write.
            Err(MaintainError::Poisoned { .. }) => {}
            Err(error) => panic!("write {nth}: {error:?}"),
        }
        disk.heal();
        drop(store);
        let store = Store::open(disk.env(NAME), options()).expect("opens");
        assert_eq!(content(&store.read())["rows"].len(), 6_001);
        store.verify(&mut |_| {}).expect("pages and space agree");
    }
    assert!(gave_up > 3 && closed > 3, "{gave_up} gave up, {closed} had no fault");
}

fn log_bytes(disk: &SimDisk, name: &str) -> usize {
    disk.read_file(name).map_or(0, |file| file.len())
}

/// A page that nobody asks for has rotted: whoever shortens the file meets it, and leaves the file as it is. Commits and
/// closing go on as they would without.
#[test]
fn a_page_that_cannot_be_read_ends_a_vacuum_and_not_the_store() {
    let base = long_file();
    let rot = |page: u64| {
        let disk = base.copy();
        disk.flip_bit(NAME, page * 4096 * 8 + 12_345);
        let store = about_to_close(&disk);
        let error = store.verify(&mut |_| {}).err()?;
        assert!(matches!(error, MaintainError::Corruption(_)), "page {page}: {error:?}");
        Some((disk, store))
    };
    // Most leaves are not on the way to the key that is written.
    let (disk, store) = (file_bytes(&base) / 8192..).find_map(rot).expect("some page is a leaf");
    // Who asks for it is told.
    let error = store.vacuum(0, &mut |_| {}).expect_err("a page has rotted");
    assert!(matches!(error, MaintainError::Corruption(_)), "{error:?}");
    put(&store, "rows", b"l", b"v").expect("commits go on");
    store.checkpoint().expect("checkpoints go on");
    // Whose disk does not give it as well.
    disk.fail(Fault { kind: CallKind::Read, nth: 20, error: io::ErrorKind::Other, for_ever: false });
    let error = store.vacuum(0, &mut |_| {}).expect_err("a read failed, or a page has rotted");
    assert!(matches!(error, MaintainError::Io { .. } | MaintainError::Corruption(_)), "{error:?}");
    disk.heal();
    put(&store, "rows", b"m", b"v").expect("commits go on");
    store.close().expect("closes");
    assert!(file_bytes(&disk) > at_most(6_000, 200), "nothing was moved");
    let store = Store::open(disk.env(NAME), options()).expect("opens");
    let (view, tree) = (store.read(), store.tree("rows").expect("a good name"));
    for key in [b"k", b"l", b"m"] {
        assert_eq!(view.get(tree, key).expect("reads").as_deref(), Some(&b"v"[..]));
    }
}
