//! Disks that fail: every call of every kind, syncs in particular, and disks that are full.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blazedb_engine::env::{CallKind, Fault, Hooked, SimDisk, Survivors};
use blazedb_engine::{CommitError, Durability, Env, MaintainError, Memory, Options, Store};

use crate::support::{Model, NAME, get, model_of, open, options, put, roomy, scale, workload};

/// Whatever fails: what was acknowledged is there after reopening, and after a crash, too.
#[test]
fn an_error_at_every_call() {
    let mut failed = 0;
    for kind in CallKind::ALL {
        for nth in 0..200 {
            let disk = SimDisk::new(5);
            disk.fail(Fault { kind, nth, error: io::ErrorKind::Other, for_ever: false });
            let run = workload(disk.env(NAME), &options(), 5, 20, Model::new());
            if run.finished {
                if disk.calls(kind) <= nth {
                    break;
                }
                continue;
            }
            failed += 1;
            disk.heal();
            for (name, disk) in [("reopened", disk.copy()), ("crashed", disk.after_crash(Survivors::None, nth))] {
                match Store::open(disk.env(NAME), options()) {
                    Ok(store) => run.check(&model_of(&store), &format!("{kind:?} {nth} {name}")),
                    Err(e) => panic!("{kind:?} {nth} {name}: {e}"),
                }
            }
        }
    }
    assert!(failed > 40, "{failed} failures");
}

/// spec: E-16
#[test]
fn a_failed_sync_poisons_and_is_not_tried_again() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, "t", b"a", b"1").expect("commits");
    disk.fail(Fault { kind: CallKind::Sync, nth: 0, error: io::ErrorKind::Other, for_ever: false });
    let error = put(&store, "t", b"b", b"2").expect_err("the sync failed");
    assert!(matches!(error, CommitError::Poisoned { .. }) && error.to_string().contains("reopen"), "{error}");
    let (syncs, writes) = (disk.calls(CallKind::Sync), disk.calls(CallKind::Write));
    for _ in 0..3 {
        assert!(matches!(put(&store, "t", b"c", b"3"), Err(CommitError::Poisoned { .. })), "the disk works again, yet");
    }
    assert!(matches!(store.flush(), Err(MaintainError::Poisoned { .. })));
    assert!(matches!(store.checkpoint(), Err(MaintainError::Poisoned { .. })));
    assert!(store.stats().poisoned.is_some_and(|why| why.contains("syncing the log")));
    assert_eq!(get(&store, "t", b"a"), Some(b"1".to_vec()), "reads go on");
    assert_eq!(get(&store, "t", b"b"), None, "what was not acknowledged is not seen");
    assert!(matches!(store.close(), Err(MaintainError::Poisoned { .. })));
    assert_eq!((disk.calls(CallKind::Sync), disk.calls(CallKind::Write)), (syncs, writes), "nothing was tried again");
    drop(store);
    open(&disk);
}

/// What Linux does after a failed sync: the bytes stay readable and never reach the disk. A store that builds on
/// them loses acknowledged commits at the next power cut. spec: E-13
#[test]
fn commits_after_a_failed_sync_and_a_reopen_survive_a_crash() {
    let disk = SimDisk::new(2);
    let store = open(&disk);
    put(&store, "t", b"a", b"1").expect("commits");
    disk.fail(Fault { kind: CallKind::Sync, nth: 0, error: io::ErrorKind::Other, for_ever: false });
    put(&store, "t", b"b", b"2").expect_err("the sync failed");
    drop(store);
    let store = open(&disk);
    let after_reopen = get(&store, "t", b"b");
    put(&store, "t", b"c", b"3").expect("commits");
    for survivors in Survivors::ALL {
        let store = open(&disk.after_crash(survivors, 1));
        assert_eq!(get(&store, "t", b"c"), Some(b"3".to_vec()), "{survivors:?}");
        assert_eq!(get(&store, "t", b"b"), after_reopen, "what a reopened store has shown stays");
    }
}

/// No room for the log: the transaction fails, everything else goes on, and so does writing when there is room.
#[test]
fn a_full_disk_fails_the_transaction_and_nothing_else() {
    let disk = SimDisk::new(3);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    put(&store, "t", b"a", b"1").expect("commits");
    disk.set_capacity(Some(used(&disk) + 8192));
    let mut acknowledged = 0_u32;
    let error = loop {
        match put(&store, "t", &acknowledged.to_be_bytes(), &[9; 3000]) {
            Ok(_) => acknowledged += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(error, CommitError::DiskFull { .. }) && error.to_string().contains("room"), "{error}");
    assert!(acknowledged > 10);
    assert!(matches!(put(&store, "t", b"again", &[1; 9000]), Err(CommitError::DiskFull { .. })));
    let seen = model_of(&store);
    store.verify(&mut |_| {}).expect("pages and space agree");
    disk.set_capacity(None);
    put(&store, "t", b"room", b"x").expect("writes go on without reopening");
    let mut want = seen;
    want.get_mut("t").expect("has a tree").insert(b"room".to_vec(), b"x".to_vec());
    for survivors in Survivors::ALL {
        assert_eq!(model_of(&open(&disk.after_crash(survivors, 1))), want);
    }
}

/// What fills the disk may be the store's own log, which a checkpoint begins anew.
#[test]
fn after_a_full_disk_the_log_begins_anew_by_itself() {
    let disk = SimDisk::new(3);
    let store = Store::open(disk.env(NAME), options().memory(Memory::TINY)).expect("opens");
    put(&store, "t", b"a", b"1").expect("commits");
    disk.set_capacity(Some(2 << 20));
    let (mut rows, mut refusals) = (0_u32, 0);
    while rows < 5_000 {
        match put(&store, "t", &(rows % 100).to_be_bytes(), &[9; 400]) {
            Ok(_) => (rows, refusals) = (rows + 1, 0),
            Err(CommitError::DiskFull { .. }) => refusals += 1,
            Err(e) => panic!("{e}"),
        }
        assert!(refusals < 5, "nobody makes room after {rows} rows");
    }
    store.verify(&mut |_| {}).expect("pages and space agree");
}

fn used(disk: &SimDisk) -> u64 {
    disk.names().iter().map(|name| disk.read_file(name).expect("is there").len() as u64).sum()
}

#[test]
fn a_full_disk_at_every_length() {
    for capacity in (130..420).step_by(3) {
        let disk = SimDisk::new(8);
        disk.set_capacity(Some(capacity * 1024));
        let run = workload(disk.env(NAME), &options(), 8, 25, Model::new());
        disk.set_capacity(None);
        let store = open(&disk.after_crash(Survivors::None, capacity));
        run.check(&model_of(&store), &format!("capacity {capacity} KiB"));
    }
}

#[test]
fn a_checkpoint_without_room_leaves_the_store_as_it_was() {
    let disk = SimDisk::new(4);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    for n in 0..20_u8 {
        put(&store, "t", &[n], &[n; 2000]).expect("commits");
    }
    let want = model_of(&store);
    disk.set_capacity(Some(used(&disk) + 10_000));
    for _ in 0..3 {
        assert!(matches!(store.checkpoint(), Err(MaintainError::DiskFull { .. })));
    }
    assert_eq!(model_of(&store), want);
    assert_eq!((store.stats().checkpoints, store.stats().checkpoints_failed), (0, 3));
    disk.set_capacity(None);
    put(&store, "t", b"more", b"x").expect("the log goes on");
    store.checkpoint().expect("there is room now");
    store.checkpoint().expect("what came in between is written, too");
    store.verify(&mut |_| {}).expect("pages and space agree");
    let stats = store.stats();
    assert_eq!((stats.checkpoints, stats.checkpoint_commit_no, stats.entries), (2, 21, 21));
    let mut now = model_of(&store);
    now.get_mut("t").expect("has a tree").remove(&b"more"[..]);
    assert_eq!(now, want);
}

#[test]
fn buffered_commits_keep_their_order_and_a_durable_one_covers_them() {
    use blazedb_engine::Durability;
    let disk = SimDisk::new(6);
    let store = open(&disk);
    let t = store.tree("t").expect("a good name");
    let buffered = |n: u8| {
        let mut tx = store.write();
        tx.put(t, &[n], b"v").expect("a good value");
        tx.commit_with(Durability::Buffered, |_| Ok(())).expect("commits");
    };
    put(&store, "t", b"first", b"").expect("commits");
    let syncs = disk.calls(CallKind::Sync);
    (0..5).for_each(buffered);
    assert_eq!(disk.calls(CallKind::Sync), syncs, "no sync for buffered commits");
    assert_eq!(store.read().len(t).expect("the tree reads"), 6, "they are visible");
    let stats = store.stats();
    assert_eq!(stats.commit_no - stats.durable_commit_no, 5);
    for seed in 0..50 {
        let after = open(&disk.after_crash(Survivors::RandomSubset, seed));
        let kept = model_of(&after)["t"].len() - 1;
        assert!((0..kept as u8).all(|n| get(&after, "t", &[n]).is_some()), "a prefix of them survives");
    }
    put(&store, "t", b"last", b"").expect("commits");
    let after = open(&disk.after_crash(Survivors::None, 1));
    assert_eq!(after.read().len(t).expect("the tree reads"), 7, "the durable one covers them all");
}

/// Whoever tries again on a full disk gets an answer each time, and his commit when there is room: what failed takes no
/// part of the table's budget.
#[test]
fn retries_on_a_full_disk_end_and_go_on_when_there_is_room() {
    for threads in [false, true] {
        let disk = SimDisk::new(1);
        let env = Env { threads, ..disk.env(NAME) };
        let store = Store::open(env, Options::unencrypted().memory(Memory::TINY)).expect("opens");
        let tree = store.tree("t").expect("a good name");
        let (answers, answered) = std::sync::mpsc::channel();
        // Too little for a load, too much for the room that the log has; far beyond where writers stop.
        let (size, tries) = (Memory::TINY.table_bytes / 8 * 7, 10);
        assert!(size < Memory::TINY.table_bytes && size * tries > 4 * Memory::TINY.table_bytes);
        for is_empty in [true, false] {
            if is_empty {
                put(&store, "t", b"first", b"1").expect("there is room");
                store.checkpoint().expect("there is room");
            } else {
                put(&store, "t", b"more", b"1").expect("there is room");
            }
            disk.set_capacity(Some(used(&disk)));
            for n in 0..=tries {
                if n == tries {
                    disk.set_capacity(None);
                }
                let (store, answers) = (store.clone(), answers.clone());
                std::thread::spawn(move || {
                    let mut tx = store.write();
                    tx.put(tree, b"k", &vec![7; size]).expect("a good value");
                    let _ = answers.send(tx.commit());
                });
                // Not joined: a commit that never returns is what is looked for.
                let answer = answered.recv_timeout(Duration::from_secs(30)).expect("a commit answers");
                match answer {
                    Ok(_) => assert_eq!(n, tries, "no room for it"),
                    Err(CommitError::DiskFull { .. }) => assert!(n < tries, "there is room"),
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(get(&store, "t", b"k").map(|value| value.len()), Some(size));
        }
        store.verify(&mut |_| {}).expect("pages and space agree");
    }
}

/// A commit that finds no room takes none along that were shown before they were written.
#[test]
fn a_full_disk_beside_commits_that_were_shown_unwritten_fails_one_transaction() {
    for durability in [Durability::Durable, Durability::Buffered, Durability::None] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), Options::unencrypted()).expect("opens");
        put(&store, "t", b"first", b"1").expect("there is room");
        disk.set_capacity(Some(used(&disk) + 300_000));
        let commit = |key: &[u8], len: usize, durability| {
            let mut tx = store.write();
            let tree = tx.tree("t").expect("a good name");
            tx.put(tree, key, &vec![3; len]).expect("a good row");
            tx.commit_with(durability, |_| Ok(()))
        };
        commit(b"shown", 10, Durability::None).expect("there is room");
        let error = commit(b"large", 900 << 10, durability).expect_err("there is none");
        assert!(matches!(error, CommitError::DiskFull { .. }), "{durability:?}: {error}");
        assert_eq!(get(&store, "t", b"shown"), Some(vec![3; 10]));
        disk.set_capacity(None);
        commit(b"large", 900 << 10, durability).expect("there is room again");
        store.close().expect("closes");
        let store = Store::open(disk.env(NAME), Options::unencrypted()).expect("opens again");
        assert_eq!(get(&store, "t", b"shown"), Some(vec![3; 10]));
        assert_eq!(get(&store, "t", b"large").map(|value| value.len()), Some(900 << 10));
    }
}

/// What a hook adds, and the names of new trees, are known when nobody looks for room any more.
#[test]
fn a_transaction_that_grows_on_a_full_disk_takes_none_along_that_are_shown() {
    let with_hook = |store: &Store, durability| {
        let mut tx = store.write();
        let tree = tx.tree("t").expect("a good name");
        tx.put(tree, b"small", b"1").expect("a good row");
        tx.commit_with(durability, |serial| Ok(serial.put(tree, b"large", &[3; 900 << 10])?))
    };
    let with_names = |store: &Store, durability| {
        let mut tx = store.write();
        for n in 0..2000 {
            let tree = tx.tree(&format!("{n:0>400}")).expect("a good name");
            tx.put(tree, b"k", b"v").expect("a good row");
        }
        tx.commit_with(durability, |_| Ok(()))
    };
    let how = Options::unencrypted;
    for durability in [Durability::Durable, Durability::Buffered, Durability::None] {
        for grow in [&with_hook as &dyn Fn(&Store, Durability) -> _, &with_names] {
            let disk = SimDisk::new(1);
            let store = Store::open(disk.env(NAME), how()).expect("opens");
            // The log has room ahead, which a full disk does not take away.
            (0..20_u8).for_each(|n| _ = put(&store, "t", &[n], &[n; 20_000]).expect("there is room"));
            disk.set_capacity(Some(used(&disk)));
            let mut tx = store.write();
            let tree = tx.tree("t").expect("a good name");
            tx.put(tree, b"shown", b"1").expect("a good row");
            tx.commit_with(Durability::None, |_| Ok(())).expect("there is room");
            let before = model_of(&store);
            let grown = grow(&store, durability);
            assert!(matches!(grown, Err(CommitError::DiskFull { .. })), "{durability:?}: {grown:?}");
            assert!(model_of(&store) == before, "{durability:?}: nothing of it is there, and nothing is gone");
            disk.set_capacity(None);
            put(&store, "t", b"last", b"1").expect("there is room again");
            let disk = disk.after_crash(Survivors::None, 1);
            let store = Store::open(disk.env(NAME), how()).expect("opens again");
            assert!(get(&store, "t", b"shown").is_some(), "{durability:?}: the durable commit after it keeps it");
            assert_eq!(model_of(&store)["t"].len(), before["t"].len() + 1, "{durability:?}");
            store.verify(&mut |_| {}).expect("sound");
        }
    }
}

/// Large commits join a group while its leader waits for them, small ones are shown at once, and the disk is full now and then.
#[test]
fn threads_on_a_disk_that_becomes_full_lose_nothing_that_is_shown() {
    for seed in 0..5 * scale() {
        let disk = SimDisk::new(seed);
        let env = disk.env(NAME);
        let storage = Arc::new(Hooked::slow_syncs(Arc::clone(&env.storage), Duration::from_millis(1)));
        let store = Store::open(Env { storage, threads: true, ..env }, Options::unencrypted()).expect("opens");
        put(&store, "t", b"first", b"1").expect("there is room");
        let tree = store.tree("t").expect("a good name");
        let (stop, full, shown) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for i in 0..4_u8 {
                let (store, stop, full, shown) = (&store, &stop, &full, &shown);
                scope.spawn(move || {
                    let (is_small, mut n) = (i < 2, 0_u64);
                    while !stop.load(Ordering::Relaxed) {
                        n += 1;
                        let len = if is_small { 100 } else { 300_000 + n * 7919 % 300_000 };
                        let mut tx = store.write();
                        tx.put(tree, &[i, (n % 3) as u8], &vec![i; len as usize]).expect("a good row");
                        let durability = if is_small { Durability::None } else { Durability::Durable };
                        let counter = match tx.commit_with(durability, |_| Ok(())) {
                            Ok(_) => shown,
                            Err(CommitError::DiskFull { .. }) => full,
                            Err(error) => panic!("seed {seed}: {error:?}"),
                        };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            // Where others take the processor it goes on until there was enough of both.
            let is_enough = || full.load(Ordering::Relaxed) > 0 && shown.load(Ordering::Relaxed) > 100;
            for i in (0..4000).take_while(|&i| i < 40 || !is_enough()) {
                std::thread::sleep(Duration::from_millis(5));
                let room = (i * 37_123 + seed * 7919) % 700_000;
                disk.set_capacity((i % 3 < 2).then(|| used(&disk) + room));
            }
            stop.store(true, Ordering::Relaxed);
        });
        disk.set_capacity(None);
        assert!(full.into_inner() > 0 && shown.into_inner() > 100, "seed {seed}: it was full, and went on");
        store.close().unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
    }
}
