//! A header that lies in its slot and is not what was written there last, or that the disk does not give.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use blazedb_engine::env::{CallKind, Fault, Hooked, SimDisk, Survivors};
use blazedb_engine::{
    BackupError, BackupOptions, Env, KdfCost, KeySource, Memory, Options, RekeyOptions, RestoreError, Store, restore,
    salvage,
};

use zeroize::Zeroizing;

use crate::salvage::slots;
use crate::support::{NAME, put, roomy};

fn plain() -> Options {
    Options::unencrypted().memory(Memory::CLIENT)
}

fn fill(store: &Store, rows: std::ops::Range<u32>) {
    for i in rows {
        put(store, "t", &i.to_be_bytes(), &[i as u8; 300]).expect("commits");
    }
}

/// How many rows are there, and whether these are all as far as opening and a salvage can say, which agree.
fn look(disk: &SimDisk, how: &Options) -> (u64, bool) {
    let store = Store::open(disk.env(NAME), how.clone().read_only(true)).expect("opens");
    let rows = store.read().len(store.tree("t").expect("a good name")).expect("reads");
    let surely = store.stats().recovered_surely;
    let saved = salvage(disk.env(NAME), how, SimDisk::new(9).env(NAME), how.clone(), &mut |_| {}).expect("salvages");
    assert_eq!((saved.rows, saved.losses.is_empty()), (rows, surely), "{:?}", saved.losses);
    (rows, surely)
}

fn remove_log(disk: &SimDisk) {
    for name in disk.names().into_iter().filter(|name| name.contains("-log")) {
        disk.env(NAME).storage.remove(&name).expect("is there");
    }
}

/// An old sector that comes back, in the newest header's place: of another key, of another file, or just older.
#[test]
fn an_old_header_in_the_newest_ones_place_is_no_newest_one() {
    for kind in ["of another key", "of another file", "older", "the other one's"] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), roomy()).expect("creates");
        fill(&store, 0..10);
        store.checkpoint().expect("checkpoints");
        let old = match kind {
            "of another file" => {
                let other = SimDisk::new(2);
                Store::open(other.env(NAME), roomy()).expect("creates").close().expect("closes");
                other.read_file(NAME).expect("is there")
            }
            _ => disk.read_file(NAME).expect("is there"),
        };
        if kind == "of another key" {
            store
                .rekey(&RekeyOptions::new(KeySource::Raw(Zeroizing::new([42; 32])), KdfCost::InsecureForTests))
                .expect("begins");
            store.rekey_all(&mut |_| {}).expect("ends");
        }
        for rows in [10..30, 30..50, 50..70] {
            fill(&store, rows);
            store.checkpoint().expect("checkpoints");
        }
        fill(&store, 70..80);
        let disk = disk.after_crash(Survivors::None, 1);
        assert_eq!(look(&disk, &roomy()), (80, true));
        let mut file = disk.read_file(NAME).expect("is there");
        let [(mut at, _), (other, is_newest)] = slots(&file);
        if is_newest {
            at = other;
        }
        let from =
            if kind == "the other one's" { file[65_536 - at..][..4096].to_vec() } else { old[at..][..4096].to_vec() };
        file[at..][..4096].copy_from_slice(&from);
        disk.write_file(NAME, &file);
        let (rows, _) = look(&disk, &roomy());
        assert_eq!(rows, 80, "{kind}: the log has all");
        remove_log(&disk);
        let (rows, surely) = look(&disk, &roomy());
        assert!(rows < 80 && !surely, "{kind}: {rows} rows, and nothing is said");
    }
}

/// A header may name the midst of a generation, after a checkpoint that failed: a log that goes on in that generation need not
/// reach it.
#[test]
fn a_log_that_is_cut_after_a_failed_checkpoint_is_not_whole() {
    for nth in 0..2 {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), plain()).expect("creates");
        fill(&store, 0..30);
        store.checkpoint().expect("checkpoints");
        fill(&store, 30..50);
        disk.fail(Fault { kind: CallKind::Write, nth, error: io::ErrorKind::StorageFull, for_ever: false });
        store.checkpoint().expect_err("the disk is full");
        disk.heal();
        fill(&store, 50..70);
        let disk = disk.after_crash(Survivors::None, 1);
        let store = Store::open(disk.env(NAME), plain()).expect("opens");
        fill(&store, 70..80);
        store.checkpoint().expect("checkpoints");
        let disk = disk.after_crash(Survivors::None, 1);
        let mut file = disk.read_file(NAME).expect("is there");
        let (at, _) = slots(&file).into_iter().find(|(_, is_newest)| *is_newest).expect("one is newer");
        file[at..][..4096].fill(0);
        for name in disk.names().into_iter().filter(|name| name.contains("-log")) {
            let log = disk.read_file(&name).expect("is there");
            for cut in (0..log.len() / 4096).map(|block| block * 4096) {
                let disk = disk.copy();
                disk.write_file(NAME, &file);
                disk.write_file(&name, &log[..cut]);
                if Store::open(disk.env(NAME), plain().read_only(true)).is_ok() {
                    let (rows, surely) = look(&disk, &plain());
                    assert!(rows == 80 || !surely, "{nth}, {name} cut at {cut}: {rows} rows, and nothing is said");
                }
            }
        }
    }
}

/// A header that the disk does not give is as one that it damaged: the other one has all that the log needs.
#[test]
fn a_header_that_cannot_be_read_from_the_disk_is_a_damaged_one() {
    for nth in 0..2 {
        for read_only in [true, false] {
            let disk = SimDisk::new(1);
            let store = Store::open(disk.env(NAME), plain()).expect("creates");
            fill(&store, 0..30);
            store.checkpoint().expect("checkpoints");
            fill(&store, 30..40);
            let disk = disk.after_crash(Survivors::None, 1);
            disk.fail(Fault { kind: CallKind::Read, nth, error: io::ErrorKind::Other, for_ever: false });
            let store = Store::open(disk.env(NAME), plain().read_only(read_only)).expect("opens");
            assert_eq!(store.read().len(store.tree("t").expect("a good name")).expect("reads"), 40);
            // A reader has looked again; a writer does not know what was there, and has written it anew.
            assert_eq!(store.stats().recovered_surely, read_only);
            for at in 0..2 {
                disk.heal();
                assert!(!store.verify(&mut |_| {}).expect("the other one holds").header_damaged);
                let reads = disk.calls(CallKind::Read);
                store.verify(&mut |_| {}).expect("reads");
                // The last two are those of the headers; a reader looks again.
                let last = disk.calls(CallKind::Read) - reads - 1;
                disk.fail(Fault { kind: CallKind::Read, nth: last - at, error: io::ErrorKind::Other, for_ever: true });
                assert!(store.verify(&mut |_| {}).expect("the other one holds").header_damaged);
            }
            disk.heal();
            drop(store);
            disk.fail(Fault { kind: CallKind::Read, nth: 0, error: io::ErrorKind::Other, for_ever: true });
            let error = Store::open(disk.env(NAME), plain().read_only(true)).expect_err("neither can be read");
            assert!(error.to_string().contains("reading the header"), "{error}");
        }
    }
}

/// An increment to a backup that shows more than the store has would hide that the store has lost it.
#[test]
fn a_backup_that_is_ahead_of_its_store_is_not_built_on() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), roomy()).expect("creates");
    fill(&store, 0..10);
    store.checkpoint().expect("checkpoints");
    let older = disk.copy();
    fill(&store, 10..20);
    let mut base = Vec::new();
    store.backup(&mut base, &BackupOptions::default(), &mut |_| {}).expect("backs up");
    let disk = older.after_crash(Survivors::All, 1);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    let (mut more, mut out) = (10, Vec::new());
    let refused = store.backup_since(&mut &base[..], &mut out, &BackupOptions::default(), &mut |_| {});
    assert!(matches!(refused, Err(BackupError::Behind { base, newest }) if base > newest), "{refused:?}");
    // Where it has as many commits again nothing tells them apart.
    while store.backup_since(&mut &base[..], &mut out, &BackupOptions::default(), &mut |_| {}).is_err() {
        out.clear();
        fill(&store, more..more + 1);
        more += 1;
        assert!(more < 40, "it is built on in the end");
    }
}

/// Who restores to the name before `.restoring` would remove what was made there.
#[test]
fn nothing_is_made_under_the_name_of_a_store_in_the_making() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), plain()).expect("creates");
    fill(&store, 0..3);
    let mut backup = Vec::new();
    store.backup(&mut backup, &BackupOptions::default(), &mut |_| {}).expect("backs up");
    store.close().expect("closes");
    let target = SimDisk::new(2);
    let name = format!("{NAME}.restoring");
    let refused = restore(target.env(&name), plain(), vec![&mut &backup[..]], &KeySource::None, &mut |_| {});
    assert!(matches!(refused, Err(RestoreError::Create(_))), "{refused:?}");
    let refused = salvage(disk.env(NAME), &plain(), target.env(&name), plain(), &mut |_| {});
    assert!(refused.is_err() && target.names().is_empty(), "{refused:?}, {:?}", target.names());
}

/// A reader has read one slot, and before it reads the other one a writer has written both: what is in the older one's place then
/// is newer than what it has, and nothing is missing.
#[test]
fn headers_that_are_written_while_a_reader_looks_are_not_lost() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), plain()).expect("creates");
    fill(&store, 0..10);
    store.checkpoint().expect("checkpoints");
    for steps in 1..5 {
        for times in [1, 3, 50] {
            let (slots_read, written) = (AtomicU32::new(0), store.clone());
            let before_read = move |offset| {
                // Each time that it looks, between one slot and the other.
                if offset == 65_536 && slots_read.fetch_add(1, Ordering::Relaxed) < times {
                    for row in 0..steps {
                        fill(&written, row..row + 1);
                        written.checkpoint().expect("checkpoints");
                    }
                }
            };
            let env = disk.env(NAME);
            let env = Env { storage: Arc::new(Hooked::before_reads(Arc::clone(&env.storage), before_read)), ..env };
            let reader = Store::open(env, plain().read_only(true)).expect("there is a whole state each time");
            assert!(reader.stats().recovered_surely, "{steps} checkpoints, {times} times");
            assert_eq!(reader.read().len(reader.tree("t").expect("a good name")).expect("reads"), 10);
        }
    }
}
