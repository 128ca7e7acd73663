//! Backups under load, chains of increments, hostile bytes, and restores that end anywhere.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use blazedb_engine::env::{CallKind, Fault, SimDisk, Survivors};
use blazedb_engine::{
    BackupError, BackupOptions, BackupReport, Env, KdfCost, KeySource, Options, ReadError, RekeyOptions, RestoreError,
    RestoreReport, Store, restore,
};

use crate::support::{
    Model, NAME, Random, content, get, model_of, options, put, random_changes, roomy, scale, unencrypted,
};

fn key() -> KeySource {
    options().key
}

fn backup(store: &Store) -> (Vec<u8>, BackupReport) {
    let mut out = Vec::new();
    let report = store.backup(&mut out, &BackupOptions::default(), &mut |_| {}).expect("backs up");
    assert_eq!(report.bytes, out.len() as u64);
    (out, report)
}

fn backup_since(store: &Store, base: &[u8]) -> (Vec<u8>, BackupReport) {
    let mut out = Vec::new();
    let options = BackupOptions::default();
    let report = store.backup_since(&mut &*base, &mut out, &options, &mut |_| {}).expect("backs up");
    (out, report)
}

fn restore_all(env: Env, how: Options, parts: &[&[u8]], key: &KeySource) -> Result<RestoreReport, RestoreError> {
    let mut inputs: Vec<&[u8]> = parts.to_vec();
    let inputs = inputs.iter_mut().map(|input| input as &mut dyn Read).collect();
    restore(env, how, inputs, key, &mut |_| {})
}

/// Restores with the options' key, and returns what the new store shows.
fn restored(parts: &[&[u8]], seed: u64) -> Model {
    let disk = SimDisk::new(seed);
    restore_all(disk.env(NAME), options(), parts, &key()).expect("restores");
    assert_eq!(disk.names().iter().filter(|name| name.contains("restoring")).count(), 0);
    let store = Store::open(disk.env(NAME), options().create(false)).expect("a whole store");
    store.verify(&mut |_| {}).expect("sound");
    model_of(&store)
}

/// A store with something of everything: many leaves, long values, an emptied tree, newest commits not in pages.
fn furnished(disk: &SimDisk, how: Options) -> (Store, Model) {
    let store = Store::open(disk.env(NAME), how).expect("creates");
    let mut random = Random::new(disk.trace() | 1);
    let mut model = Model::new();
    let tree = store.tree("many").expect("a good name");
    let mut tx = store.write();
    for i in 0..600_u32 {
        let value = random.bytes(40);
        tx.put(tree, &i.to_be_bytes(), &value).expect("a good value");
        model.entry("many".into()).or_default().insert(i.to_be_bytes().to_vec(), value);
    }
    let tree = tx.tree("long").expect("a good name");
    for i in 0..20_u32 {
        let value = random.bytes(3000 + u64::from(i) * 700);
        tx.put(tree, &i.to_be_bytes(), &value).expect("a good value");
        model.entry("long".into()).or_default().insert(i.to_be_bytes().to_vec(), value);
    }
    tx.commit().expect("commits");
    put(&store, "emptied", b"k", b"v").expect("commits");
    let mut tx = store.write();
    let tree = tx.tree("emptied").expect("a good name");
    tx.delete(tree, b"k").expect("a good key");
    tx.commit().expect("commits");
    store.checkpoint().expect("checkpoints");
    for i in 0..5_u32 {
        put(&store, "many", &(i * 100).to_be_bytes(), b"newer").expect("commits");
        model.entry("many".into()).or_default().insert((i * 100).to_be_bytes().to_vec(), b"newer".to_vec());
    }
    (store, model)
}

#[test]
fn what_was_backed_up_comes_back_whole() {
    for how in [roomy(), options(), unencrypted()] {
        let disk = SimDisk::new(3);
        let key = how.key.clone();
        let (store, model) = furnished(&disk, how);
        assert_eq!(model_of(&store), model);
        let (bytes, report) = backup(&store);
        assert_eq!((report.base, report.kept, report.trees), (None, 0, 3));
        assert_eq!(report.commit_no, store.read().commit_no());
        let target = SimDisk::new(4);
        // Another page size, another key: a backup is of rows.
        let into = Options::raw_key([5; 32]).page_bytes(16384);
        let done = restore_all(target.env(NAME), into.clone(), &[&bytes], &key).expect("restores");
        assert_eq!((done.rows, done.commit_no, done.backup), (620, report.commit_no, report.id));
        let new = Store::open(target.env(NAME), into.create(false)).expect("a whole store");
        assert_eq!(model_of(&new), model);
        assert!(new.read().tree("emptied").expect("reads").is_some(), "a tree without rows is a tree");
    }
}

#[test]
fn a_value_too_long_to_be_put_is_streamed_through() {
    let disk = SimDisk::new(3);
    let store = Store::open(disk.env(NAME), roomy()).expect("creates");
    let long = Random::new(1).bytes(5 << 20);
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    tx.put_stream(tree, b"film", long.len() as u64, &mut &long[..]).expect("streams");
    tx.put(tree, b"a", b"b").expect("a good value");
    tx.commit().expect("commits");
    let (full, _) = backup(&store);
    put(&store, "t", b"a", b"c").expect("commits");
    let (more, report) = backup_since(&store, &full);
    assert!(report.kept >= 1 && more.len() < 10_000, "{} bytes for one short row", more.len());
    let model = restored(&[&full, &more], 9);
    assert!(model["t"][&b"film"[..]] == long && model["t"][&b"a"[..]] == b"c");
}

#[test]
fn a_chain_of_increments_is_as_a_map_says() {
    for seed in 1..=6 * scale() {
        let disk = SimDisk::new(seed);
        let how = if seed % 3 == 0 { roomy() } else { options() };
        let mut store = Store::open(disk.env(NAME), how.clone()).expect("creates");
        let mut random = Random::new(seed);
        let mut model = Model::new();
        let mut chain: Vec<Vec<u8>> = Vec::new();
        for round in 0..8 {
            for _ in 0..random.below(60) {
                let mut tx = store.write();
                random_changes(&mut random, &mut tx, &mut model);
                tx.commit().expect("commits");
            }
            match random.below(5) {
                0 => store.checkpoint().expect("checkpoints"),
                1 => drop(store.vacuum(0, &mut |_| {}).expect("vacuums")),
                2 => {
                    store.close().expect("closes");
                    store = Store::open(disk.env(NAME), how.clone()).expect("opens");
                }
                _ => {}
            }
            if round == 5 {
                // Whole trees empty.
                let mut tx = store.write();
                let tree = tx.tree("rows").expect("a good name");
                for key in model.remove("rows").unwrap_or_default().keys() {
                    tx.delete(tree, key).expect("a good key");
                }
                tx.commit().expect("commits");
            }
            let next = match chain.last() {
                None => backup(&store).0,
                Some(last) => backup_since(&store, last).0,
            };
            chain.push(next);
            let parts: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
            assert!(restored(&parts, seed + 100) == model, "seed {seed} round {round}");
        }
    }
}

#[test]
fn an_increment_has_what_changed_and_no_more() {
    let disk = SimDisk::new(1);
    let (store, mut model) = furnished(&disk, roomy());
    let (full, _) = backup(&store);
    store.checkpoint().expect("checkpoints");
    let (second, _) = backup_since(&store, &full);
    let (third, report) = backup_since(&store, &second);
    assert_eq!(report.rows, 0, "nothing was changed");
    assert!(third.len() < full.len() / 20, "{} bytes of {}", third.len(), full.len());
    put(&store, "many", &7_u32.to_be_bytes(), b"changed").expect("commits");
    put(&store, "long", &7_u32.to_be_bytes(), &[7; 9000]).expect("commits");
    model.get_mut("many").expect("is there").insert(7_u32.to_be_bytes().to_vec(), b"changed".to_vec());
    model.get_mut("long").expect("is there").insert(7_u32.to_be_bytes().to_vec(), vec![7; 9000]);
    let (fourth, report) = backup_since(&store, &third);
    // A leaf of rows, and of long values the one that is new: its neighbours in the leaf are kept.
    assert!(report.rows < 120 && fourth.len() < 25_000, "{} rows, {} bytes", report.rows, fourth.len());
    assert!(restored(&[&full, &second, &third, &fourth], 8) == model);
}

/// The leaf before one that is gone is for more keys than it was, and the same page: it has more to be for than
/// the backup before knows of.
// spec: BK-10
#[test]
fn rows_of_a_leaf_that_is_gone_are_not_kept() {
    let disk = SimDisk::new(1);
    let (store, mut model) = furnished(&disk, roomy());
    store.checkpoint().expect("checkpoints");
    let (full, _) = backup(&store);
    // From the end and from the middle, row by row: at some of them a leaf goes.
    for i in (450..600_u32).rev().chain(200..350) {
        let mut tx = store.write();
        let tree = tx.tree("many").expect("a good name");
        tx.delete(tree, &i.to_be_bytes()).expect("a good key");
        tx.commit().expect("commits");
        model.get_mut("many").expect("is there").remove(&i.to_be_bytes()[..]);
        store.checkpoint().expect("checkpoints");
        let (more, _) = backup_since(&store, &full);
        assert!(restored(&[&full, &more], 7) == model, "without {i}");
    }
}

#[test]
fn a_backup_under_load_shows_one_commit() {
    let store = Store::open(Env::memory(5), options()).expect("creates");
    let tree = store.tree("sums").expect("a good name");
    let mut tx = store.write();
    for i in 0..400_u32 {
        tx.put(tree, &i.to_be_bytes(), &0_u64.to_le_bytes()).expect("a good value");
    }
    tx.commit().expect("commits");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ended = Ended(&stop);
        scope.spawn(|| {
            let mut round = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let mut tx = store.write();
                // All rows say the round: a backup that shows two of them shows no commit.
                for i in 0..400_u32 {
                    tx.put(tree, &i.to_be_bytes(), &round.to_le_bytes()).expect("a good value");
                }
                tx.commit().expect("nobody else writes");
            }
        });
        let mut last: Option<Vec<u8>> = None;
        for n in 0..6 {
            let bytes = match &last {
                Some(base) if n % 2 == 1 => backup_since(&store, base).0,
                _ => backup(&store).0,
            };
            let parts: Vec<&[u8]> = match &last {
                Some(base) if n % 2 == 1 => vec![base, &bytes],
                _ => vec![&bytes],
            };
            let model = restored(&parts, 70 + n);
            let rounds: BTreeSet<&Vec<u8>> = model["sums"].values().collect();
            assert_eq!((rounds.len(), model["sums"].len()), (1, 400), "one commit");
            last = Some(bytes);
        }
        drop(ended);
    });
}

/// Tells the other thread, also where an assertion fails: else the test would hang.
struct Ended<'e>(&'e AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_restored_store_has_nothing_of_the_old_ones_file() {
    let disk = SimDisk::new(1);
    let (store, _) = furnished(&disk, roomy());
    let (bytes, _) = backup(&store);
    store.close().expect("closes");
    let old = disk.read_file(NAME).expect("is there");
    let mut seen = BTreeSet::from([old[24..40].to_vec()]);
    for seed in 2..6 {
        let target = SimDisk::new(seed);
        restore_all(target.env(NAME), options(), &[&bytes], &key()).expect("restores");
        let new = target.read_file(NAME).expect("is there");
        assert!(seen.insert(new[24..40].to_vec()), "a file id of its own");
        // The master key is another one: the slots wrap it under the same passphrase, with another salt.
        assert_ne!(new[256..352], old[256..352]);
        let generations = |file: &[u8]| -> BTreeSet<Vec<u8>> {
            file[131_072..].chunks(4096).filter(|page| page[4] != 0).map(|page| page[16..28].to_vec()).collect()
        };
        assert!(generations(&new).is_disjoint(&generations(&old)), "nonces of its own");
    }
}

#[test]
fn a_target_that_exists_is_left_alone() {
    let disk = SimDisk::new(1);
    let (store, model) = furnished(&disk, roomy());
    let (bytes, _) = backup(&store);
    store.close().expect("closes");
    let before = disk.read_file(NAME);
    let refused = restore_all(disk.env(NAME), options(), &[&bytes], &key());
    assert!(matches!(refused, Err(RestoreError::TargetExists { .. })), "{refused:?}");
    assert_eq!(disk.read_file(NAME), before);
    let foreign = SimDisk::new(2);
    foreign.write_file("a.blaze.restoring", b"somebody's diary");
    let refused = restore_all(foreign.env(NAME), options(), &[&bytes], &key());
    assert!(matches!(refused, Err(RestoreError::InTheWay { .. })), "{refused:?}");
    assert_eq!(foreign.read_file("a.blaze.restoring").as_deref(), Some(&b"somebody's diary"[..]));
    drop(model);
}

#[test]
fn backups_in_the_wrong_order_are_refused_by_name() {
    let disk = SimDisk::new(1);
    let (store, _) = furnished(&disk, roomy());
    let (full, _) = backup(&store);
    put(&store, "t", b"1", b"1").expect("commits");
    let (second, _) = backup_since(&store, &full);
    put(&store, "t", b"2", b"2").expect("commits");
    let (third, _) = backup_since(&store, &second);
    let (other, _) = backup(&store);
    let target = SimDisk::new(2);
    let refused = |parts: &[&[u8]]| {
        let error = restore_all(target.env(NAME), options(), parts, &key()).expect_err("wrong order");
        assert!(target.names().is_empty(), "nothing was made");
        error
    };
    assert!(matches!(refused(&[]), RestoreError::NoBackup));
    assert!(matches!(refused(&[&second]), RestoreError::NotFull { .. }));
    assert!(matches!(refused(&[&full, &third]), RestoreError::WrongOrder { part: 1, base: Some(_), .. }));
    assert!(matches!(refused(&[&full, &third, &second]), RestoreError::WrongOrder { part: 1, .. }));
    assert!(matches!(refused(&[&full, &full]), RestoreError::WrongOrder { part: 1, base: None, .. }));
    assert!(matches!(refused(&[&other, &second]), RestoreError::WrongOrder { part: 1, .. }));
    assert!(matches!(refused(&[b"PK\x03\x04 no backup"]), RestoreError::NotABackup { part: 0 }));
    let wrong = restore_all(target.env(NAME), options(), &[&full], &KeySource::Raw([1; 32].into()));
    assert!(matches!(wrong, Err(RestoreError::WrongKey { part: 0 })));
    assert!(matches!(
        restore_all(target.env(NAME), options(), &[&full], &KeySource::None),
        Err(RestoreError::KeyMissing { .. })
    ));
    assert!(target.names().is_empty());
    restore_all(target.env(NAME), options(), &[&full, &second, &third], &key()).expect("in order");
}

#[test]
fn increments_are_of_one_store_and_one_master_key() {
    let disk = SimDisk::new(1);
    let (store, _) = furnished(&disk, roomy());
    let (full, _) = backup(&store);
    let try_since = |store: &Store, base: &[u8]| {
        store.backup_since(&mut &*base, &mut io::sink(), &BackupOptions::default(), &mut |_| {})
    };
    let (other, _) = furnished(&SimDisk::new(2), roomy());
    assert!(matches!(try_since(&other, &full), Err(BackupError::OtherStore)));
    let cut = &full[..full.len() - 5];
    assert!(matches!(try_since(&store, cut), Err(BackupError::Base(_))), "a cut one is none to build on");
    store.rekey(&RekeyOptions::new(key(), KdfCost::InsecureForTests)).expect("begins");
    store.rekey_all(&mut |_| {}).expect("ends");
    assert!(matches!(try_since(&store, &full), Err(BackupError::KeyChanged)));
    // The old one is as good as it was, and a new one is sealed with the new key.
    let (new, _) = backup(&store);
    assert!(restored(&[&full], 5) == restored(&[&new], 6));
}

/// A chain is restored with one key: none is made that no key opens as a whole.
#[test]
fn increments_end_where_a_key_is_changed_or_taken_away() {
    let disk = SimDisk::new(1);
    let (store, model) = furnished(&disk, roomy());
    let since = |base: &[u8]| {
        let mut out = Vec::new();
        store.backup_since(&mut &*base, &mut out, &BackupOptions::default(), &mut |_| {}).map(|_| out)
    };
    let (second, third) = (KeySource::Raw([9; 32].into()), KeySource::Raw([10; 32].into()));
    let cost = KdfCost::InsecureForTests;
    let (full, _) = backup(&store);
    store.add_key(&second, cost).expect("there is room");
    let added = since(&full).expect("who had the key has it still");
    let all = since(&added).expect("nothing was changed");
    let target = SimDisk::new(5);
    restore_all(target.env(NAME), options(), &[&full, &added, &all], &key()).expect("with the first key");
    let restored = Store::open(target.env(NAME), options().create(false)).expect("whole");
    assert!(model_of(&restored) == model);
    store.change_key(&third, cost).expect("is changed");
    for base in [&full, &added, &all] {
        assert!(matches!(since(base), Err(BackupError::KeyChanged)), "the first key opens no more");
    }
    let (full, _) = backup(&store);
    store.remove_key(&second).expect("is taken away");
    assert!(matches!(since(&full), Err(BackupError::KeyChanged)), "one of two keys is gone");
    let (full, _) = backup(&store);
    store.rekey(&RekeyOptions::new(third, cost)).expect("begins");
    assert!(matches!(since(&full), Err(BackupError::KeyChanged)), "a change of the master key is under way");
    let (full, _) = backup(&store);
    let during = since(&full).expect("both have the new key");
    store.rekey_all(&mut |_| {}).expect("ends");
    since(&during).expect("and after it");
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_backup_is_noticed() {
    for how in [options(), unencrypted()] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), how.clone()).expect("creates");
        put(&store, "t", b"k", b"v").expect("commits");
        put(&store, "u", b"long", &[3; 3000]).expect("commits");
        let (full, _) = backup(&store);
        let fails = |bytes: &[u8], what: &str| {
            let target = SimDisk::new(2);
            let refused = restore_all(target.env(NAME), how.clone(), &[bytes], &how.key);
            assert!(refused.is_err(), "{what}");
            assert!(target.read_file(NAME).is_none(), "{what}");
        };
        let mut random = Random::new(7);
        for byte in 0..full.len() {
            if byte % 7 != 0 && (600..full.len() - 64).contains(&byte) {
                continue;
            }
            let mut bytes = full.clone();
            bytes[byte] ^= 1 << random.below(8);
            fails(&bytes, &format!("byte {byte} of {}", full.len()));
        }
        for len in (0..full.len()).filter(|len| len % 13 == 0 || full.len() - len < 80) {
            fails(&full[..len], &format!("{len} of {}", full.len()));
        }
        fails(&[&full[..], b"x"].concat(), "a byte more");
    }
}

#[test]
fn no_plaintext_is_in_a_backup_and_its_nonces_do_not_repeat() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), roomy()).expect("creates");
    put(&store, "canary-tree", b"canary-key", b"canary-value").expect("commits");
    put(&store, "canary-tree", b"long", &b"canary-value".repeat(900)).expect("commits");
    let (first, _) = backup(&store);
    let (second, _) = backup(&store);
    for bytes in [&first, &second] {
        assert!(bytes.windows(6).all(|piece| piece != b"canary"), "plaintext");
    }
    assert_ne!(first[32..48], second[32..48], "each has an id, which is in its key");
    assert_ne!(first[544..600], second[544..600], "the same rows are other bytes");
}

#[test]
fn a_crash_at_every_point_of_a_restore_leaves_no_store_or_all_of_it() {
    let source = SimDisk::new(1);
    let (store, model) = furnished(&source, options());
    let (full, _) = backup(&store);
    let run = |disk: &SimDisk| restore_all(disk.env(NAME), options(), &[&full], &key());
    let whole = SimDisk::new(2);
    run(&whole).expect("restores");
    let points = whole.changes();
    assert!(points > 20, "{points} crash points");
    for point in 0..points {
        let disk = SimDisk::new(2);
        disk.crash_at(point);
        let ended = run(&disk);
        assert!(disk.is_dead() && ended.is_err(), "the crash comes");
        for (i, survivors) in Survivors::ALL.into_iter().enumerate() {
            if scale() == 1 && i as u64 != point % 5 {
                continue;
            }
            let context = format!("point {point} {survivors:?}");
            let after = disk.after_crash(survivors, point * 31);
            match Store::open(after.env(NAME), options().create(false)) {
                Ok(store) => assert!(model_of(&store) == model, "{context}: a store is whole"),
                Err(error) => {
                    assert!(matches!(error, blazedb_engine::OpenError::NotFound { .. }), "{context}: {error:?}");
                    run(&after).unwrap_or_else(|e| panic!("{context}: the next try: {e:?}"));
                    let store = Store::open(after.env(NAME), options().create(false)).expect("a whole store");
                    assert!(model_of(&store) == model, "{context}");
                }
            }
        }
    }
}

#[test]
fn an_error_at_every_call_of_a_restore_leaves_nothing() {
    let source = SimDisk::new(1);
    let (store, model) = furnished(&source, options());
    let (full, _) = backup(&store);
    let run = |disk: &SimDisk| restore_all(disk.env(NAME), options(), &[&full], &key());
    let mut failed = 0;
    for kind in CallKind::ALL {
        for nth in 0.. {
            let disk = SimDisk::new(2);
            disk.fail(Fault { kind, nth, error: io::ErrorKind::Other, for_ever: false });
            match run(&disk) {
                // Some errors harm nothing, such as one of the note that names the lock's holder.
                Ok(_) if nth > 60 || disk.calls(kind) <= nth => break,
                Ok(_) => {}
                Err(error) => {
                    failed += 1;
                    let context = format!("{kind:?} {nth}: {error:?}");
                    // The last call of all, after the name is given, may fail with the store in its place: whole.
                    if disk.read_file(NAME).is_some() {
                        assert_eq!(kind, CallKind::SyncDir, "{context}");
                        disk.heal();
                    } else {
                        disk.heal();
                        run(&disk).unwrap_or_else(|e| panic!("{context}: again: {e:?}"));
                    }
                    let store = Store::open(disk.env(NAME), options().create(false)).expect("a whole store");
                    assert!(model_of(&store) == model, "{context}");
                }
            }
            if nth > 80 {
                break;
            }
        }
    }
    assert!(failed > 30, "{failed} errors");
}

/// A destination that counts what it is given, and does something each time.
struct EachTime<F>(u64, F);

impl<F: FnMut(u64) -> io::Result<()>> Write for EachTime<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += 1;
        (self.1)(self.0)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_backup_that_held_too_much_says_so() {
    let disk = SimDisk::new(1);
    let (store, _) = furnished(&disk, options().snapshot_bytes_max(1));
    let then = || {
        for round in 0..200_u32 {
            for i in (0..600_u32).step_by(13) {
                put(&store, "many", &i.to_be_bytes(), &round.to_le_bytes()).expect("commits");
            }
            if store.stats().snapshots_ended > 0 {
                break;
            }
        }
        Ok(())
    };
    let mut out = EachTime(0, |nth| if nth == 3 { then() } else { Ok(()) });
    let ended = store.backup(&mut out, &BackupOptions::default(), &mut |_| {});
    assert!(matches!(ended, Err(BackupError::Read(ReadError::SnapshotTooOld { .. }))), "{ended:?}");
}

#[test]
fn a_destination_that_fails_ends_the_backup_and_nothing_else() {
    let disk = SimDisk::new(1);
    let (store, model) = furnished(&disk, options());
    let mut out = EachTime(0, |nth| if nth == 4 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) });
    let ended = store.backup(&mut out, &BackupOptions::default(), &mut |_| {});
    assert!(matches!(ended, Err(BackupError::Output(_))), "{ended:?}");
    put(&store, "t", b"k", b"v").expect("the store goes on");
    let _ = model;
}

/// A backup writes to its destination alone: the power may go at any point of it.
#[test]
fn a_power_cut_in_a_backup_finds_the_store_as_it_was() {
    let disk = SimDisk::new(1);
    let (store, mut model) = furnished(&disk, options());
    let (full, _) = backup(&store);
    put(&store, "many", &7_u32.to_be_bytes(), b"newest").expect("commits");
    model.entry("many".into()).or_default().insert(7_u32.to_be_bytes().to_vec(), b"newest".to_vec());
    let (changes, syncs) = (disk.changes(), disk.calls(CallKind::Sync));
    let cut = |point: u64| {
        for (i, survivors) in Survivors::ALL.into_iter().enumerate() {
            if i as u64 == point % 5 || scale() > 1 {
                let after = disk.after_crash(survivors, point);
                let store = Store::open(after.env(NAME), options().create(false)).expect("opens");
                assert!(model_of(&store) == model, "write {point}, {survivors:?}");
            }
        }
        Ok(())
    };
    let (mut whole, mut increment) = (EachTime(0, cut), EachTime(0, cut));
    store.backup(&mut whole, &BackupOptions::default(), &mut |_| {}).expect("backs up");
    store.backup_since(&mut &full[..], &mut increment, &BackupOptions::default(), &mut |_| {}).expect("backs up");
    assert!(whole.0 > 10 && increment.0 > 5, "{} and {} writes", whole.0, increment.0);
    assert_eq!((disk.changes(), disk.calls(CallKind::Sync)), (changes, syncs), "nothing was written to the store");
}

#[test]
fn a_rate_is_kept_and_progress_is_told() {
    let dir = std::env::temp_dir().join(format!("blazedb-backup-rate-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let store = Store::open(Env::file(dir.join("a.blaze")), roomy()).expect("creates");
    for i in 0..8 {
        put(&store, "t", &[i], &Random::new(1).bytes(25_000)).expect("commits");
    }
    let began = std::time::Instant::now();
    let mut told = Vec::new();
    let options = BackupOptions::default().bytes_per_second(Some(400_000));
    store.backup(&mut io::sink(), &options, &mut |now| told.push(now.bytes)).expect("backs up");
    assert!(began.elapsed().as_millis() >= 450, "{:?} for 200 KB at 400 KB/s", began.elapsed());
    assert!(told.len() >= 2 && told.is_sorted(), "{told:?}");
    store.close().expect("closes");
    std::fs::remove_dir_all(&dir).expect("removes");
}

#[test]
fn a_reader_beside_the_writer_can_make_a_backup() {
    let disk = SimDisk::new(1);
    let (store, model) = furnished(&disk, roomy());
    let reader = Store::open(disk.env(NAME), roomy().read_only(true)).expect("opens beside the writer");
    // What is in the log and in no page is in it, and the next increment of the writer is right.
    let (full, _) = backup(&reader);
    assert!(restored(&[&full], 3) == model);
    put(&store, "many", &1_u32.to_be_bytes(), b"later").expect("commits");
    store.checkpoint().expect("checkpoints");
    let (more, _) = backup_since(&store, &full);
    let mut later = model;
    later.get_mut("many").expect("is there").insert(1_u32.to_be_bytes().to_vec(), b"later".to_vec());
    assert!(restored(&[&full, &more], 4) == later);
    assert_eq!(get(&store, "many", &1_u32.to_be_bytes()).as_deref(), Some(&b"later"[..]));
    let _ = content(&store.read());
}

/// What the kept backups were made of, at both moments.
fn kept(store: &Store) -> ([Vec<u8>; 2], [Model; 2]) {
    let (mut backups, mut models): (Vec<Vec<u8>>, Vec<Model>) = Default::default();
    for round in 0..2_u32 {
        let mut tx = store.write();
        let (rows, long) = (tx.tree("rows").expect("a good name"), tx.tree("long").expect("a good name"));
        for n in (0..200_u32).filter(|n| round == 0 || n % 100 == 7) {
            let value = format!("row {n} of round {round}");
            tx.put(rows, &n.to_be_bytes(), value.as_bytes()).expect("a good value");
        }
        for n in round..3 {
            tx.put(long, &[n as u8 * 2 + round as u8], &[n as u8; 2000]).expect("a good value");
        }
        tx.commit().expect("commits");
        store.checkpoint().expect("checkpoints");
        models.push(model_of(store));
        backups.push(match backups.last() {
            None => backup(store).0,
            Some(base) => backup_since(store, base).0,
        });
    }
    (backups.try_into().expect("two"), models.try_into().expect("two"))
}

// spec: BK-1, BK-2, BK-3, BK-4, BK-5, BK-6, BK-7, BK-8, BK-9, BK-11
#[test]
fn kept_backups_are_restored_for_ever() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/backups");
    let cipher = blazedb_engine::CipherChoice::Aes256Gcm;
    for (name, how) in [("v0-plain", unencrypted()), ("v0-raw-key", options().cipher(cipher))] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), how.clone()).expect("creates");
        let (made, models) = kept(&store);
        let paths = ["full", "more"].map(|part| folder.join(format!("{name}.{part}.bak")));
        if std::env::var_os("BLAZE_BLESS").is_some() {
            for (path, bytes) in paths.iter().zip(&made) {
                std::fs::write(path, bytes).expect("spec/ can be written");
            }
        }
        let [full, more] = paths.map(|path| std::fs::read(path).expect("a kept backup"));
        assert!(more.len() < full.len(), "an increment");
        for (parts, model) in [(vec![&full[..]], &models[0]), (vec![&full[..], &more[..]], &models[1])] {
            let target = SimDisk::new(2);
            restore_all(target.env(NAME), how.clone(), &parts, &how.key).expect("restores");
            let new = Store::open(target.env(NAME), how.clone().create(false)).expect("a whole store");
            assert!(model_of(&new) == *model, "{name}, {} parts", parts.len());
        }
    }
}
