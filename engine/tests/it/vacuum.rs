//! Space goes back to the file system while the store is in use: how much, beside views, and with crashes anywhere inside.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use blazedb_engine::env::{CallKind, Fault, SimDisk, Survivors};
use blazedb_engine::{AutoVacuum, Env, MaintainError, Memory, OpenError, Options, ReadError, Store};

use crate::support::{
    Model, NAME, Random, content, get, model_of, options, put, random_changes, roomy, scale, unencrypted,
};

pub(crate) fn file_bytes(disk: &SimDisk) -> u64 {
    disk.read_file(NAME).expect("is there").len() as u64
}

fn vacuum(store: &Store) -> blazedb_engine::VacuumProgress {
    store.vacuum(0, &mut |_| {}).expect("vacuums")
}

const KEY: usize = 24;
pub(crate) const VALUE: usize = 150;

pub(crate) fn key(n: u64) -> [u8; KEY] {
    let mut key = [b'.'; KEY];
    // In an order of its own, as a good hash has it.
    key[..8].copy_from_slice(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    key[8..16].copy_from_slice(&n.to_be_bytes());
    key
}

/// Puts rows one transaction after another.
fn rows(store: &Store, numbers: impl Iterator<Item = u64>) {
    let tree = store.tree("rows").expect("a good name");
    let mut random = Random::new(1);
    let mut tx = store.write();
    for (i, n) in numbers.enumerate() {
        tx.put(tree, &key(n), &random.bytes(VALUE as u64)).expect("a good value");
        if i % 200 == 199 {
            std::mem::replace(&mut tx, store.write()).commit().expect("commits");
            tx = store.write();
        }
    }
    tx.commit().expect("commits");
}

fn delete(store: &Store, numbers: impl Iterator<Item = u64>) {
    let tree = store.tree("rows").expect("a good name");
    let mut tx = store.write();
    for (i, n) in numbers.enumerate() {
        tx.delete(tree, &key(n)).expect("a good key");
        if i % 200 == 199 {
            std::mem::replace(&mut tx, store.write()).commit().expect("commits");
            tx = store.write();
        }
    }
    tx.commit().expect("commits");
}

/// What a file is to be at most, for so many rows: the headers, and per hundred of payload.
pub(crate) fn at_most(count: u64, percent: u64) -> u64 {
    (128 << 10) + count * (KEY + VALUE) as u64 * percent / 100
}

#[test]
fn what_is_deleted_goes_back_to_the_file_system() {
    const ROWS: u64 = 50_000;
    let disk = SimDisk::new(1);
    let memory = Memory { cache_bytes: 1 << 20, table_bytes: 512 << 10, log_bytes: 4 << 20 };
    let store = Store::open(disk.env(NAME), options().memory(memory)).expect("creates");
    rows(&store, 0..ROWS);
    store.checkpoint().expect("checkpoints");
    let loaded = file_bytes(&disk);
    let now = vacuum(&store);
    assert!(now.finished && now.from_bytes == loaded && now.file_bytes == file_bytes(&disk), "{now:?}");
    assert_eq!((now.held_bytes / 4096 < 40, now.oldest_reader), (true, None), "{now:?}");
    assert!(now.file_bytes <= at_most(ROWS, 115), "{now:?} of {}", at_most(ROWS, 100));
    store.verify(&mut |_| {}).expect("pages and space agree");
    let left = |store: &Store| {
        let view = store.read();
        view.len(view.tree("rows").expect("reads").expect("is there")).expect("reads")
    };
    delete(&store, (0..ROWS).filter(|n| n % 2 == 0));
    assert_eq!(left(&store), ROWS / 2);
    let now = vacuum(&store);
    assert!(now.file_bytes <= at_most(ROWS / 2, 115), "{now:?} of {}", at_most(ROWS / 2, 100));
    delete(&store, (0..ROWS).filter(|n| n % 2 == 1 && n % 10 != 1));
    assert_eq!(left(&store), ROWS / 10);
    let now = vacuum(&store);
    assert!(now.file_bytes <= at_most(ROWS / 10, 130), "{now:?} of {}", at_most(ROWS / 10, 100));
    store.verify(&mut |_| {}).expect("pages and space agree");
    // Nothing left to do costs nothing, and changes nothing.
    let again = vacuum(&store);
    assert!(again.file_bytes <= now.file_bytes, "{again:?}");
    // The file grows again.
    rows(&store, ROWS..2 * ROWS);
    store.checkpoint().expect("checkpoints");
    store.verify(&mut |_| {}).expect("pages and space agree");
    drop(store);
    let store = Store::open(disk.env(NAME), options()).expect("opens");
    assert_eq!(left(&store), ROWS / 10 + ROWS);
    store.verify(&mut |_| {}).expect("pages and space agree");
}

#[test]
fn old_views_keep_what_they_show_and_the_file_gets_shorter_when_they_go() {
    for plain in [false, true] {
        let disk = SimDisk::new(2);
        let memory = Memory { cache_bytes: 1 << 20, table_bytes: 256 << 10, log_bytes: 4 << 20 };
        let how = if plain { unencrypted() } else { options() };
        let store = Store::open(disk.env(NAME), how.memory(memory)).expect("creates");
        rows(&store, 0..10_000);
        put(&store, "long", b"value", &[7; 300_000]).expect("commits");
        let old = store.read();
        let shown = content(&old);
        delete(&store, (0..10_000).filter(|n| n % 10 != 0));
        let before = file_bytes(&disk);
        let now = vacuum(&store);
        assert!(now.finished && now.held_bytes > 0 && now.oldest_reader == Some(old.commit_no()), "{now:?}");
        assert!(now.file_bytes <= before * 3 / 2, "{before} bytes became {now:?}");
        assert!(content(&old) == shown, "an old view shows what it did");
        let kept = content(&store.read());
        drop(old);
        let now = vacuum(&store);
        assert_eq!((now.held_bytes, now.oldest_reader), (0, None));
        // Twelve pages are for the steps themselves.
        let most = at_most(1_000, 135) + 300_000 * 102 / 100 + 12 * 4096;
        assert!(now.file_bytes <= most, "{now:?} of {most}");
        assert!(model_of(&store) == kept);
        store.verify(&mut |_| {}).expect("pages and space agree");
    }
}

/// Commits in all ways, `n` times.
fn fill(store: &Store, random: &mut Random, states: &mut [Model; 2], n: u64) -> Option<()> {
    for _ in 0..n {
        let mut tx = store.write();
        random_changes(random, &mut tx, &mut states[1]);
        tx.commit().ok()?;
        states[0] = states[1].clone();
    }
    Some(())
}

/// Fills a store, takes most of it away, and vacuums step by step with commits in between; stops at the first error.
/// Returns the last acknowledged state and the one that was on its way, and how much was cut off, if it came to an end.
fn vacuum_run(disk: &SimDisk, seed: u64) -> ([Model; 2], Option<u64>) {
    let mut states = [Model::new(), Model::new()];
    let cut = vacuum_until_error(disk, &mut Random::new(seed), &mut states);
    (states, cut)
}

fn vacuum_until_error(disk: &SimDisk, random: &mut Random, states: &mut [Model; 2]) -> Option<u64> {
    let store = Store::open(disk.env(NAME), roomy()).ok()?;
    fill(&store, random, states, 10)?;
    let mut tx = store.write();
    let tree = tx.tree("bulk").ok()?;
    for n in 0..400_u64 {
        let value = random.bytes(if n == 60 { 30_000 } else { 400 });
        tx.put(tree, &n.to_be_bytes(), &value).ok()?;
        states[1].entry("bulk".into()).or_default().insert(n.to_be_bytes().to_vec(), value);
    }
    tx.commit().ok()?;
    states[0] = states[1].clone();
    store.checkpoint().ok()?;
    let mut tx = store.write();
    for n in (0..400_u64).filter(|n| n % 8 != 0) {
        tx.delete(tree, &n.to_be_bytes()).ok()?;
        states[1].get_mut("bulk")?.remove(n.to_be_bytes().as_slice());
    }
    tx.commit().ok()?;
    states[0] = states[1].clone();
    fill(&store, random, states, 2)?;
    let mut longest = 0;
    let cut = loop {
        let now = store.vacuum_step(1 + random.below(12)).ok()?;
        longest = longest.max(now.file_bytes);
        if random.below(3) == 0 {
            fill(&store, random, states, 1)?;
        }
        if now.finished {
            break longest - now.file_bytes;
        }
    };
    fill(&store, random, states, 1)?;
    store.checkpoint().ok()?;
    store.close().ok()?;
    Some(cut)
}

/// Opens what a crash left, as it must open; vacuums once more, and looks again.
fn check_after(after: &SimDisk, states: &[Model; 2], context: &str) {
    let store = match Store::open(after.env(NAME), roomy().create(false)) {
        Ok(store) => store,
        Err(OpenError::NotFound { .. }) if states[0].is_empty() => return,
        Err(error) => panic!("{context}: {error:?}"),
    };
    let found = model_of(&store);
    assert!(states.contains(&found), "{context}: a state that was not acknowledged, or never was");
    store.verify(&mut |_| {}).unwrap_or_else(|e| panic!("{context}: {e}"));
    // Should the newest header be damaged now, the older one holds.
    for slot in [0, 64 << 10] {
        let damaged = after.copy();
        damaged.flip_bit(NAME, (slot + 50) * 8);
        match Store::open(damaged.env(NAME), roomy().create(false)) {
            Ok(store) => assert!(states.contains(&model_of(&store)), "{context}, header at {slot}"),
            Err(error) => panic!("{context}, header at {slot}: {error:?}"),
        }
    }
    put(&store, "rows", b"more", b"v").expect("writes go on");
    store.vacuum(5, &mut |_| {}).unwrap_or_else(|e| panic!("{context}: {e}"));
    store.verify(&mut |_| {}).unwrap_or_else(|e| panic!("{context}: {e}"));
    let mut want = found;
    want.entry("rows".into()).or_default().insert(b"more".to_vec(), b"v".to_vec());
    assert_eq!(model_of(&store), want, "{context}");
    drop(store);
    let store = Store::open(after.env(NAME), roomy()).expect("opens");
    assert_eq!(model_of(&store), want, "{context}");
}

/// spec: E-15
#[test]
fn a_crash_at_every_point_of_a_vacuum() {
    for seed in 1..=1 + scale() / 2 {
        let whole = SimDisk::new(seed);
        let (states, cut) = vacuum_run(&whole, seed);
        assert!(cut.is_some_and(|cut| cut > 40_000), "{cut:?} bytes are cut off");
        let points = whole.changes();
        check_after(&whole.copy(), &states, "no crash");
        assert!(whole.calls(CallKind::SetLen) > 3 && points > 60, "{points} crash points");
        for point in 0..points {
            let disk = SimDisk::new(seed);
            disk.crash_at(point);
            let (states, _) = vacuum_run(&disk, seed);
            assert!(disk.is_dead(), "the crash comes");
            for (i, survivors) in Survivors::ALL.into_iter().enumerate() {
                // One way to survive for each point, another one for each; all of them in a long run.
                if scale() == 1 && i as u64 != point % 5 {
                    continue;
                }
                let after = disk.after_crash(survivors, point * 31);
                check_after(&after, &states, &format!("seed {seed} point {point} {survivors:?}"));
            }
        }
    }
}

#[test]
fn vacuums_between_all_else_are_as_a_map_says() {
    for seed in 1..=3 * scale() {
        let disk = SimDisk::new(seed);
        let mut random = Random::new(seed);
        let mut states = [Model::new(), Model::new()];
        let how = if seed % 2 == 0 { options() } else { unencrypted() };
        let mut store = Store::open(disk.env(NAME), how.clone()).expect("creates");
        let mut views = Vec::new();
        for step in 0..600 {
            fill(&store, &mut random, &mut states, 1).expect("nobody else writes");
            match random.below(30) {
                0 => store.checkpoint().expect("checkpoints"),
                1 => {
                    views.clear();
                    if random.below(2) == 0 {
                        store.close().expect("closes");
                    }
                    drop(store);
                    store = Store::open(disk.env(NAME), how.clone()).expect("opens");
                }
                2 => views.push((store.read(), states[0].clone())),
                3 => {
                    views.pop();
                }
                4 => assert!(vacuum(&store).finished),
                5 => {
                    let mut tx = store.write();
                    let (tree, value) = (tx.tree("rows").expect("a good name"), random.bytes(20_000));
                    tx.put(tree, b"long", &value).expect("a good value");
                    tx.commit().expect("nobody else writes");
                    states[1].entry("rows".into()).or_default().insert(b"long".to_vec(), value);
                    states[0] = states[1].clone();
                }
                6..15 => drop(store.vacuum_step(1 + random.below(9)).expect("goes on")),
                _ => {}
            }
            if step % 10 == 0 {
                assert_eq!(model_of(&store), states[0], "seed {seed} step {step}");
                store.verify(&mut |_| {}).expect("pages and space agree");
                for (view, shown) in &views {
                    assert_eq!(&content(view), shown, "seed {seed} step {step}");
                }
            }
        }
    }
}

#[test]
fn a_file_that_cannot_be_cut_stays_whole_and_the_store_goes_on() {
    let disk = SimDisk::new(5);
    let store = Store::open(disk.env(NAME), roomy()).expect("creates");
    rows(&store, 0..3_000);
    store.checkpoint().expect("checkpoints");
    delete(&store, 0..2_900);
    let kept = model_of(&store);
    disk.fail(Fault { kind: CallKind::SetLen, nth: 0, error: io::ErrorKind::Other, for_ever: false });
    let error = store.vacuum(0, &mut |_| {}).expect_err("it cannot be cut");
    assert!(matches!(error, MaintainError::Io { during: "cutting the file", .. }), "{error:?}");
    disk.heal();
    put(&store, "t", b"k", b"v").expect("writes go on");
    assert!(vacuum(&store).file_bytes < at_most(3_000, 50));
    assert_eq!(get(&store, "t", b"k").as_deref(), Some(&b"v"[..]));
    assert_eq!(model_of(&store)["rows"], kept["rows"]);
}

#[test]
fn a_vacuum_of_a_file_that_fills_the_disk_gives_room_back() {
    let disk = SimDisk::new(8);
    let store = Store::open(disk.env(NAME), roomy()).expect("creates");
    rows(&store, 0..6_000);
    store.checkpoint().expect("checkpoints");
    rows(&store, 0..6_000);
    store.checkpoint().expect("checkpoints");
    delete(&store, (0..6_000).filter(|n| n % 3 != 0));
    store.checkpoint().expect("checkpoints");
    let kept = model_of(&store);
    let before = file_bytes(&disk);
    // Room for the few pages of an empty checkpoint, and not for packed leaves.
    let used: usize = disk.names().iter().filter_map(|name| disk.read_file(name)).map(|file| file.len()).sum();
    disk.set_capacity(Some(used as u64 + (32 << 10)));
    let now = vacuum(&store);
    assert!(now.file_bytes < before * 3 / 4, "{before} bytes became {now:?}");
    assert!(now.disk_was_full && now.finished, "whoever asked is told why it is no shorter: {now:?}");
    put(&store, "t", b"k", b"v").expect("there is room");
    assert_eq!(model_of(&store)["rows"], kept["rows"]);
    store.verify(&mut |_| {}).expect("pages and space agree");
    disk.set_capacity(None);
    let again = vacuum(&store);
    assert!(!again.disk_was_full && again.file_bytes < now.file_bytes, "{now:?} became {again:?}");
}

/// Real files, real threads, with and without maps: the file gets shorter under readers and writers.
#[test]
fn readers_and_writers_go_on_while_the_file_gets_shorter() {
    for (access, how) in [("maps", Options::unencrypted()), ("reads", Options::raw_key([1; 32]))] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.blaze");
        let store = Store::open(Env::file(&path), how.auto_vacuum(None)).expect("creates");
        rows(&store, 0..40_000);
        delete(&store, (0..40_000).filter(|n| n % 8 != 0));
        store.checkpoint().expect("checkpoints");
        let before = std::fs::metadata(&path).expect("is there").len();
        let (stop, reads, commits) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for from in 0..2 {
                let (store, stop, reads) = (store.clone(), &stop, &reads);
                scope.spawn(move || {
                    let mut n = from;
                    while !stop.load(Ordering::Relaxed) {
                        let view = store.read();
                        let tree = view.tree("rows").expect("reads").expect("is there");
                        for _ in 0..200 {
                            n = (n + 7) % 40_000;
                            let found = view.get(tree, &key(n)).expect("reads");
                            assert_eq!(found.is_some(), n % 8 == 0, "row {n}");
                        }
                        reads.fetch_add(200, Ordering::Relaxed);
                    }
                });
            }
            let (writer, stop_writing, commits) = (store.clone(), &stop, &commits);
            scope.spawn(move || {
                let mut n = 0_u64;
                while !stop_writing.load(Ordering::Relaxed) {
                    n += 1;
                    put(&writer, "other", &(n % 50).to_be_bytes(), &n.to_be_bytes()).expect("commits");
                    commits.fetch_add(1, Ordering::Relaxed);
                }
            });
            while commits.load(Ordering::Relaxed) < 10 || reads.load(Ordering::Relaxed) < 1000 {
                std::thread::yield_now();
            }
            let seen = (reads.load(Ordering::Relaxed), commits.load(Ordering::Relaxed));
            let go_on = || reads.load(Ordering::Relaxed) > seen.0 && commits.load(Ordering::Relaxed) > seen.1;
            // Where others take the processor three are over before anybody had it.
            let vacuums = (0..1000).take_while(|&n| n < 3 || !go_on()).map(|_| store.vacuum(64, &mut |_| {}));
            let vacuumed = vacuums.collect::<Result<Vec<_>, _>>();
            // Whatever is found, or the threads would never end.
            stop.store(true, Ordering::Relaxed);
            vacuumed.expect("vacuums");
            assert!(go_on(), "readers and writers have waited for vacuums");
        });
        let now = vacuum(&store);
        let after = std::fs::metadata(&path).expect("is there").len();
        assert_eq!(now.file_bytes, after, "{access}");
        assert!(after < before / 4 && after <= at_most(5_000, 125), "{access}: {before} bytes became {after}");
        store.verify(&mut |_| {}).expect("pages and space agree");
        drop(store);
        assert!(folder.path().join("a.blaze").exists());
    }
}

/// The store sees by itself that most of its file is of no use any more.
#[test]
fn a_store_gives_back_by_itself_what_it_does_not_need() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.blaze");
    let when = AutoVacuum { free_percent: 25, free_bytes: 1 << 20 };
    let memory = Memory { cache_bytes: 1 << 20, table_bytes: 64 << 10, log_bytes: 4 << 20 };
    let store = Store::open(Env::file(&path), Options::raw_key([1; 32]).memory(memory).auto_vacuum(Some(when)))
        .expect("creates");
    rows(&store, 0..30_000);
    store.checkpoint().expect("checkpoints");
    let before = std::fs::metadata(&path).expect("is there").len();
    // It may begin while they are being deleted.
    delete(&store, (0..30_000).filter(|n| n % 10 != 0));
    store.checkpoint().expect("checkpoints");
    // Enough that checkpoints see what they can do without.
    for round in 0..400_u64 {
        put(&store, "other", b"k", &round.to_be_bytes().repeat(400)).expect("commits");
        if std::fs::metadata(&path).expect("is there").len() < before / 2 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let after = std::fs::metadata(&path).expect("is there").len();
    assert!(after < before / 2, "{before} bytes became {after}");
    store.verify(&mut |_| {}).expect("pages and space agree");
    assert_eq!(model_of(&store)["rows"].len(), 3_000);
}

/// A reader without the lock, whose pages were cut off, is told so.
#[test]
fn a_reader_whose_pages_were_cut_off_is_told_that_it_was_overtaken() {
    let disk = SimDisk::new(6);
    let store = Store::open(disk.env(NAME), roomy()).expect("creates");
    rows(&store, 0..3_000);
    store.checkpoint().expect("checkpoints");
    let reader = Store::open(disk.env(NAME), options().read_only(true)).expect("opens");
    delete(&store, 0..2_990);
    vacuum(&store);
    let view = reader.read();
    let tree = view.tree("rows").expect("reads").expect("is there");
    let found = view.range(tree, ..).collect::<Result<Vec<_>, _>>();
    assert!(matches!(found, Err(ReadError::Overtaken)), "{:?}", found.map(|rows| rows.len()));
    assert!(matches!(reader.vacuum(0, &mut |_| {}), Err(MaintainError::ReadOnly)));
    store.close().expect("closes");
    assert!(matches!(store.vacuum(0, &mut |_| {}), Err(MaintainError::Closed)));
}
