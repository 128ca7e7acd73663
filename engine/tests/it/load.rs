//! Loads: against a model, beside everything else that a store does, with crashes and errors at every call.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use blazedb_engine::env::{CallKind, Fault, SimDisk, Survivors};
use blazedb_engine::{CommitError, Durability, FeedEvent, Memory, Options, Store, WriteError};

use crate::support::{
    Model, NAME, Random, content, model_of, open, options, put, random_changes, roomy, scale, unencrypted,
};

/// Loads random rows into store and model alike. `spread`: how many different keys there are.
fn load(store: &Store, random: &mut Random, model: &mut Model, rows: u64, spread: u64) -> Result<u64, CommitError> {
    let mut loader = store.loader();
    let mut loaded = model.clone();
    for _ in 0..rows {
        let name = ["rows", "operations", "index", "more"][random.below(4) as usize];
        let tree = loader.tree(name).expect("a good name");
        let mut key = random.below(spread).to_be_bytes()[5..].to_vec();
        if random.below(5) == 0 {
            key.splice(0..0, *b"a long beginning that many keys have in common");
        }
        let len = match random.below(300) {
            0 => 20_000,
            1..20 => 1500,
            _ => 120,
        };
        let len = random.below(len);
        let value = random.bytes(len);
        loader.put(tree, &key, &value)?;
        loaded.entry(name.to_owned()).or_default().insert(key, value);
    }
    assert_eq!(loader.rows(), rows);
    let mut told = 0;
    let info = loader.finish_with(&mut |progress| {
        assert!(progress.done_rows > told && progress.done_rows <= progress.total_rows);
        told = progress.done_rows;
    })?;
    *model = loaded;
    Ok(info.commit_no)
}

/// Loads between commits, deletes, checkpoints and reopenings, large enough for many runs, compared with a map.
#[test]
fn loads_between_all_else_are_as_a_map_says() {
    for (seed, chosen) in [(1, options()), (2, unencrypted()), (3, unencrypted().page_bytes(16384))] {
        let disk = SimDisk::new(seed);
        let mut store = Store::open(disk.env(NAME), chosen.clone()).expect("opens");
        let (mut random, mut model) = (Random::new(seed), Model::new());
        let mut views = Vec::new();
        for step in 0..14 * scale() {
            let rows = [3, 200, 5_000, 60_000][random.below(4) as usize];
            let spread = [50, 3_000, 1 << 20][random.below(3) as usize];
            let before = store.stats().commit_no;
            let commit_no = load(&store, &mut random, &mut model, rows, spread).expect("loads");
            assert_eq!((commit_no, store.stats().durable_commit_no), (before + 1, before + 1));
            views.push((store.read(), model.clone()));
            for _ in 0..random.below(40) {
                let mut tx = store.write();
                random_changes(&mut random, &mut tx, &mut model);
                tx.commit_with(Durability::Buffered, |_| Ok(())).expect("nobody else writes");
            }
            store.verify(&mut |_| {}).expect("pages and space agree");
            if views.len() > 3 {
                let (view, then) = views.remove(random.below(3) as usize);
                assert_eq!(content(&view), then, "seed {seed}, step {step}");
            }
            if random.below(4) == 0 {
                views.clear();
                store.close().expect("closes");
                store = Store::open(disk.env(NAME), chosen.clone()).expect("opens again");
                assert_eq!(model_of(&store), model, "seed {seed}, step {step}");
            }
        }
        views.clear();
        assert_eq!(model_of(&store), model);
        store.close().expect("closes");
        let store = Store::open(disk.env(NAME), chosen).expect("opens");
        assert_eq!(model_of(&store), model);
        store.verify(&mut |_| {}).expect("no page was lost");
    }
}

/// A load of a few long rows, more than an arena holds, into two trees, one of them new. Returns what is there then.
fn long_load(store: &Store, base: &Model) -> (Model, Result<u64, CommitError>) {
    let mut random = Random::new(77);
    let (mut loaded, mut loader) = (base.clone(), store.loader());
    for n in 0..90_u8 {
        let name = ["rows", "long"][usize::from(n % 2)];
        let value = random.bytes(50_000);
        let put = loader.tree(name).map_err(CommitError::from).and_then(|tree| loader.put(tree, &[n], &value));
        if let Err(error) = put {
            return (loaded, Err(error));
        }
        loaded.entry(name.to_owned()).or_default().insert(vec![n], value);
    }
    (loaded, loader.finish().map(|info| info.commit_no))
}

/// The state that `long_load` leads to.
fn long_loaded(disk: &SimDisk, base: &Model) -> Model {
    let (loaded, done) = long_load(&Store::open(disk.copy().env(NAME), roomy()).expect("opens"), base);
    done.expect("nothing stops it");
    loaded
}

/// A store with a few rows, some in pages and some in the log.
fn small_store() -> (SimDisk, Model) {
    let disk = SimDisk::new(21);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    for n in 0..40_u8 {
        put(&store, "rows", &[n], &[n; 300]).expect("commits");
        if n == 30 {
            store.checkpoint().expect("checkpoints");
        }
    }
    let model = model_of(&store);
    (disk, model)
}

/// A power cut at each call of a load leaves all of it or nothing, and no page is lost.
#[test]
fn a_crash_at_every_point_of_a_load() {
    let (disk, base) = small_store();
    let loaded = long_loaded(&disk, &base);
    let (mut before, mut after) = (0, 0);
    for point in 0.. {
        let crashing = disk.copy();
        let store = Store::open(crashing.env(NAME), roomy()).expect("opens");
        crashing.crash_at(point);
        let (_, done) = long_load(&store, &base);
        for survivors in [Survivors::ALL[point as usize % 5], Survivors::ALL[(point as usize + 2) % 5]] {
            let left = crashing.after_crash(survivors, point);
            let store = Store::open(left.env(NAME), roomy()).expect("opens after the crash");
            let found = model_of(&store);
            assert!(found == loaded || (done.is_err() && found == base), "point {point} {survivors:?}");
            *(if found == loaded { &mut after } else { &mut before }) += 1;
            put(&store, "rows", b"more", b"v").expect("writes go on");
            store.checkpoint().expect("checkpoints");
            store.verify(&mut |_| {}).expect("pages and space agree");
        }
        if done.is_ok() {
            assert!(point > 30 && before > 60 && after > 4, "{point} points, {before} before, {after} after");
            break;
        }
    }
}

/// Numbers of pages that count as used and that no header names.
fn held_by_nobody(store: &Store) -> u64 {
    // Twice: what the first one releases is free when the second one is durable.
    for n in 0..3_u8 {
        put(store, "counted", b"n", &[n]).expect("commits");
        store.checkpoint().expect("checkpoints");
    }
    let reached = store.verify(&mut |_| {}).expect("pages and space agree").pages;
    let stats = store.stats();
    (stats.page_file_bytes - stats.free_bytes - stats.held_bytes) / 4096 - reached
}

/// Errors at each call of a load: nothing of it is there, the store goes on where the disk was full and stops where it
/// failed, and not a page is lost.
#[test]
fn an_error_at_every_call_of_a_load() {
    let (disk, base) = small_store();
    let loaded = long_loaded(&disk, &base);
    let usual = held_by_nobody(&Store::open(disk.copy().env(NAME), roomy()).expect("opens"));
    let (mut full, mut failed) = (0, 0);
    for (kind, error) in [
        (CallKind::Write, io::ErrorKind::StorageFull),
        (CallKind::Write, io::ErrorKind::Other),
        (CallKind::Read, io::ErrorKind::Other),
        (CallKind::Sync, io::ErrorKind::Other),
        (CallKind::SetLen, io::ErrorKind::Other),
    ] {
        for nth in 0.. {
            let disk = disk.copy();
            let store = Store::open(disk.env(NAME), roomy()).expect("opens");
            let before = disk.calls(kind);
            disk.fail(Fault { kind, nth, error, for_ever: false });
            let (_, done) = long_load(&store, &base);
            if done.is_ok() {
                assert!(disk.calls(kind) - before <= nth, "{kind:?} {nth}: the error was not passed over");
                break;
            }
            disk.heal();
            match done.expect_err("looked at above") {
                CommitError::DiskFull { .. } => {
                    full += 1;
                    assert_eq!(model_of(&store), base, "{kind:?} {nth}");
                    assert_eq!(held_by_nobody(&store), usual, "{kind:?} {nth}: what was written is free again");
                    let base = model_of(&store);
                    let (loaded, done) = long_load(&store, &base);
                    done.expect("there is room now");
                    assert_eq!(model_of(&store), loaded);
                    assert_eq!(held_by_nobody(&store), usual, "{kind:?} {nth}: a load leaves nothing behind");
                }
                CommitError::Poisoned { .. } => {
                    failed += 1;
                    assert_eq!(model_of(&store), base, "{kind:?} {nth}: what was not acknowledged is not seen");
                    assert!(matches!(put(&store, "rows", b"a", b"b"), Err(CommitError::Poisoned { .. })));
                    drop(store);
                    let store = Store::open(disk.env(NAME), roomy()).expect("opens again");
                    let found = model_of(&store);
                    assert!(found == base || found == loaded, "{kind:?} {nth}");
                    assert_eq!(held_by_nobody(&store), usual, "{kind:?} {nth}");
                }
                error => panic!("{kind:?} {nth}: {error}"),
            }
        }
    }
    assert!(full > 20 && failed > 20, "{full} full, {failed} failed");
}

/// A full disk in the middle: the load goes on when there is room, without having lost a row.
#[test]
fn a_load_goes_on_when_there_is_room_again() {
    let (disk, _) = small_store();
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    let mut loader = store.loader();
    let tree = loader.tree("long").expect("a good name");
    let used: u64 = disk.names().iter().map(|name| disk.read_file(name).expect("is there").len() as u64).sum();
    disk.set_capacity(Some(used + (5 << 20)));
    let (mut refused, mut short) = (0_u32, 0_u32);
    for n in 0..3000_u32 {
        // Long beginnings, so that an arena that was sorted in vain has more to forget than the order.
        let key = [&b"a beginning of more than eight bytes"[..], &(n * 7919 % 3000).to_be_bytes()].concat();
        while let Err(error) = loader.put(tree, &key, &[n as u8; 5000]) {
            assert!(matches!(error, CommitError::DiskFull { .. }), "{error}");
            assert_eq!(loader.rows(), u64::from(n + short));
            refused += 1;
            // A shorter row may still fit behind rows that were sorted.
            match loader.put(tree, &short.to_be_bytes(), &refused.to_le_bytes()) {
                Ok(()) => short += 1,
                Err(_) => disk.set_capacity(None),
            }
        }
    }
    assert!(refused > 0 && short > 0, "{refused} refused, {short} short");
    loader.finish().expect("there is room");
    let view = store.read();
    assert_eq!(view.len(tree).expect("reads"), u64::from(3000 + short));
    for n in 0..3000_u32 {
        let key = [&b"a beginning of more than eight bytes"[..], &(n * 7919 % 3000).to_be_bytes()].concat();
        assert_eq!(view.get(tree, &key).expect("reads").as_deref(), Some(&[n as u8; 5000][..]));
    }
    drop(view);
    store.verify(&mut |_| {}).expect("pages and space agree");
}

/// No log holds a load. So both headers name it, or one damaged header would take it away in silence.
#[test]
fn one_damaged_header_takes_no_load_away() {
    let (disk, base) = small_store();
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    let (mut loaded, done) = long_load(&store, &base);
    done.expect("loads");
    put(&store, "rows", b"after", b"v").expect("commits");
    loaded.get_mut("rows").expect("has rows").insert(b"after".to_vec(), b"v".to_vec());
    for slot in [0, 64 << 10] {
        let damaged = disk.copy();
        assert!(damaged.flip_bit(NAME, (slot + 100) * 8));
        let store = Store::open(damaged.env(NAME), roomy()).expect("the other header is whole");
        assert_eq!(model_of(&store), loaded);
        store.verify(&mut |_| {}).expect("pages and space agree");
    }
}

/// Commits and reads go on while rows are put, and every view shows all of a load or nothing of it.
#[test]
fn loads_beside_writers_and_readers() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    const ROWS: u32 = 60_000;
    let folder = tempfile::tempdir().expect("a folder");
    let env = blazedb_engine::Env::file(folder.path().join("a.blaze"));
    let store = Store::open(env.clone(), options()).expect("opens");
    let (loads, counts) = (store.tree("loads").expect("a name"), store.tree("counts").expect("a name"));
    let (done, counted, looked) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2_u8 {
            let (store, done, counted) = (&store, &done, &counted);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let mut tx = store.write();
                    let n = tx.get(counts, &[thread]).expect("reads").map_or(0, |n| n[0]);
                    tx.put(counts, &[thread], &[n.wrapping_add(1); 40]).expect("room");
                    tx.put(counts, &counted.fetch_add(1, Ordering::Relaxed).to_be_bytes(), b"").expect("room");
                    tx.commit_with(Durability::Buffered, |_| Ok(())).expect("nobody else writes these keys");
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let view = store.read();
                let rows = view.len(loads).expect("reads");
                assert!(rows == 0 || rows == u64::from(ROWS), "{rows} rows of a load");
                if let Some(generation) = view.get(loads, &0_u32.to_be_bytes()).expect("reads") {
                    for n in (0..ROWS).step_by(997) {
                        assert_eq!(view.get(loads, &n.to_be_bytes()).expect("reads"), Some(generation.clone()));
                    }
                }
                looked.fetch_add(1, Ordering::Relaxed);
            }
        });
        for generation in 0..4_u8 {
            let mut loader = store.loader();
            for n in 0..ROWS {
                loader.put(loads, &(n * 7919 % ROWS).to_be_bytes(), &[generation; 80]).expect("room");
            }
            assert!(loader.finish().expect("loads").changed);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(counted.load(Ordering::Relaxed) > 10 && looked.load(Ordering::Relaxed) > 4);
    store.verify(&mut |_| {}).expect("pages and space agree");
    store.close().expect("closes");
    drop(store);
    let store = Store::open(env, options()).expect("opens");
    let view = store.read();
    assert_eq!(view.len(counts).expect("reads"), counted.load(Ordering::Relaxed) + 2);
    assert_eq!(view.get(loads, &[0; 4]).expect("reads").as_deref(), Some(&[3; 80][..]));
}

/// A transaction that began before a load and commits after it is checked against it; feeds hear that they missed it.
#[test]
fn transactions_and_feeds_see_that_there_was_a_load() {
    let disk = SimDisk::new(4);
    let store = open(&disk);
    let t = store.tree("t").expect("a good name");
    put(&store, "t", b"a", b"1").expect("commits");
    let feed = store.subscribe(10);
    let (mut meets, mut passes) = (store.write(), store.write());
    meets.put(t, b"a", b"2").expect("room");
    passes.put(t, b"b", b"2").expect("room");
    let mut loader = store.loader();
    loader.put(t, b"a", b"loaded").expect("room");
    assert!(loader.finish().expect("loads").changed);
    assert!(matches!(meets.commit(), Err(CommitError::Conflict { .. })));
    assert_eq!(feed.try_recv(), Some(FeedEvent::Lagged { missed: 1 }));
    passes.commit().expect("the load did not write its key");
    assert!(matches!(feed.try_recv(), Some(FeedEvent::Commit(commit)) if commit.commit_no == 3));

    let nothing = store.loader().finish().expect("nothing to do");
    assert_eq!((nothing.changed, nothing.commit_no), (false, 3));
    let mut loader = store.loader();
    assert!(matches!(loader.put(t, &[0; 1025], b""), Err(CommitError::Write(WriteError::KeyTooLong { given: 1025 }))));
    let long = vec![7; (2 << 20) + 1];
    assert!(matches!(loader.put(t, b"k", &long), Err(CommitError::Write(WriteError::ValueTooLong { .. }))));
    for n in 0..5 {
        loader.put(t, &[n; 1024], &long[1..]).expect("the longest row");
    }
    let elsewhere = open(&SimDisk::new(5));
    let unknown = elsewhere.tree("u").and_then(|_| elsewhere.tree("v")).expect("good names");
    assert!(matches!(loader.put(unknown, b"k", b""), Err(CommitError::Write(WriteError::UnknownTree(_)))));
    drop(loader);
    assert_eq!(store.read().len(t).expect("reads"), 2, "dropped, it never was");
    let mut loader = store.loader();
    loader.put(t, b"k", b"v").expect("room");
    store.close().expect("closes");
    assert!(matches!(loader.finish(), Err(CommitError::Closed)));
    let reader = Store::open(disk.env(NAME), options().read_only(true)).expect("opens");
    let mut loader = reader.loader();
    loader.put(t, b"k", b"v").expect("room");
    assert!(matches!(loader.finish(), Err(CommitError::ReadOnly)));
}

/// A transaction larger than the table goes into pages at once, and is like any other in all else.
#[test]
fn a_transaction_larger_than_the_table_is_like_any_other() {
    let disk = SimDisk::new(6);
    let store = open(&disk);
    let feed = store.subscribe(10);
    put(&store, "t", b"there", b"1").expect("commits");
    let large = |label| {
        let mut tx = store.write();
        tx.label(label);
        let t = tx.tree("t").expect("a good name");
        tx.delete(t, b"there").expect("room");
        for n in 0..100_u8 {
            tx.put(t, &[n], &[n; 900]).expect("room");
        }
        tx
    };
    let (first, second) = (large(5), large(6));
    let n = store.tree("n").expect("a good name");
    let hooked = first.commit_with(Durability::None, |serial| {
        assert_eq!((serial.commit_no(), serial.get(n, b"n")?), (2, None));
        serial.put(n, b"n", b"hooked")?;
        Ok(())
    });
    assert_eq!(hooked.expect("commits").commit_no, 2);
    let stats = store.stats();
    assert_eq!((stats.commit_no, stats.durable_commit_no, stats.checkpoint_commit_no), (2, 2, 2));
    assert!(matches!(second.commit(), Err(CommitError::Conflict { .. })), "the other one wrote these keys");
    assert!(matches!(feed.try_recv(), Some(FeedEvent::Commit(commit)) if commit.commit_no == 1));
    let Some(FeedEvent::Commit(told)) = feed.try_recv() else { panic!("a transaction's changes are listed") };
    assert_eq!((told.commit_no, told.label, told.changes.len()), (2, 5, 102));
    let model = model_of(&store);
    assert_eq!((model["t"].len(), model["n"].len()), (100, 1));
    put(&store, "t", b"after", b"v").expect("the log goes on behind it");
    for survivors in Survivors::ALL {
        let store = open(&disk.after_crash(survivors, 1));
        assert_eq!(store.read().len(n).expect("reads"), 1, "it was durable, whatever was asked for");
        assert_eq!(model_of(&store)["t"].len(), 101);
        store.verify(&mut |_| {}).expect("pages and space agree");
    }
    let refused = large(7).commit_with(Durability::Durable, |_| Err("no".into()));
    assert!(matches!(refused, Err(CommitError::Hook(_))));
    put(&store, "t", b"goes on", b"v").expect("a refused one leaves nothing behind");
}

/// Rows of a load are on the disk before its end, and cannot be read there.
#[test]
fn runs_are_sealed() {
    for (options, hidden) in [(roomy(), true), (Options::unencrypted().memory(Memory::CLIENT), false)] {
        let disk = SimDisk::new(9);
        let store = Store::open(disk.env(NAME), options).expect("opens");
        let mut loader = store.loader();
        let tree = loader.tree("t").expect("a good name");
        for n in 0..3000_u32 {
            loader.put(tree, &n.to_be_bytes(), &b"canary-of-a-load".repeat(100)).expect("room");
        }
        let bytes = disk.read_file(NAME).expect("is there");
        assert!(bytes.len() > 4 << 20, "there is a run");
        assert_eq!(!bytes.windows(16).any(|window| window == b"canary-of-a-load"), hidden);
    }
}

/// The caller's own panic is none of the storage's.
#[test]
fn a_panic_of_who_is_told_of_progress_ends_nothing() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), options()).expect("creates");
    let mut loader = store.loader();
    let tree = loader.tree("t").expect("a good name");
    for i in 0..5000_u32 {
        loader.put(tree, &i.to_be_bytes(), &[2; 100]).expect("a good row");
    }
    let ended = catch_unwind(AssertUnwindSafe(|| loader.finish_with(&mut |_| panic!("of who is told"))));
    assert_eq!(ended.expect_err("it goes on").downcast_ref(), Some(&"of who is told"));
    put(&store, "t", b"after", b"1").expect("commits");
    assert_eq!(model_of(&store)["t"].len(), 5001, "the load was made");
    store.close().expect("closes");
}
