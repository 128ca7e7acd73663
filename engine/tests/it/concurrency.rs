//! Threads: groups form while the disk works, readers are never held up, conflicts are typed and retried.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blazedb_engine::env::{Hooked, SimDisk, SystemClock};
use blazedb_engine::{CommitError, Durability, Entropy, Env, MaintainError, Memory, Store};

use crate::support::{NAME, get, open, options, put, roomy};

fn slow_env(disk: &SimDisk, sync: Duration) -> Env {
    let env = disk.env(NAME);
    Env { storage: Arc::new(Hooked::slow_syncs(Arc::clone(&env.storage), sync)), ..env }
}

/// What a checkpoint has moved is compared row by row: not while others wait.
#[test]
fn commits_go_on_while_a_long_transaction_is_checked() {
    const ROWS: u64 = 300_000;
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    let (rows, other) = (store.tree("rows").expect("a good name"), store.tree("other").expect("a good name"));
    let mut loader = store.loader();
    (0..ROWS).for_each(|n| loader.put(rows, &n.to_be_bytes(), &[7; 50]).expect("room"));
    loader.finish().expect("room");
    let mut tx = store.write();
    tx.serializable();
    assert_eq!(tx.range(rows, ..).count() as u64, ROWS);
    tx.put(other, b"sum", b"1").expect("a good row");
    put(&store, "other", b"before", b"1").expect("a good row");
    store.checkpoint().expect("room");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let checked = scope.spawn(|| {
            let began = Instant::now();
            tx.commit().expect("nobody wrote what it read");
            done.store(true, Ordering::Release);
            began.elapsed()
        });
        let (mut worst, mut commits) = (Duration::ZERO, 0);
        while !done.load(Ordering::Acquire) {
            let began = Instant::now();
            let mut tx = store.write();
            tx.put(other, b"while", b"1").expect("a good row");
            tx.commit_with(Durability::Buffered, |_| Ok(())).expect("room");
            (worst, commits) = (worst.max(began.elapsed()), commits + 1);
        }
        let checked = checked.join().expect("no panic");
        assert!(
            commits > 10 && worst < checked / 2,
            "{commits} commits, one of {worst:?}, beside a check of {checked:?}"
        );
    });
    // What it must find is found, whichever part of the check sees it.
    for moved in [false, true] {
        let mut tx = store.write();
        tx.serializable();
        assert!(tx.get(rows, &5_u64.to_be_bytes()).expect("reads").is_some());
        tx.put(other, b"sum", b"2").expect("a good row");
        put(&store, "rows", &5_u64.to_be_bytes(), &[u8::from(moved)]).expect("a good row");
        if moved {
            store.checkpoint().expect("room");
        }
        assert!(matches!(tx.commit(), Err(CommitError::Conflict { .. })), "{moved}");
    }
}

/// Whoever is told that a store is closed may open it.
#[test]
fn who_closes_a_store_that_is_being_closed_waits_for_that() {
    let disk = SimDisk::new(1);
    for round in 0..12 {
        let store = Store::open(slow_env(&disk, Duration::from_millis(10)), options()).expect("opens");
        put(&store, "t", b"k", &[round]).expect("a good row");
        std::thread::scope(|scope| {
            let first = scope.spawn(|| store.close());
            std::thread::sleep(Duration::from_millis(u64::from(round) * 8));
            store.close().expect("closes");
            Store::open(disk.env(NAME), options()).expect("nobody has it any more");
            first.join().expect("no panic").expect("closes");
        });
    }
}

#[test]
fn eight_threads_share_syncs() {
    let disk = SimDisk::new(1);
    let store = Store::open(slow_env(&disk, Duration::from_millis(3)), options()).expect("opens");
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let store = store.clone();
            scope.spawn(move || {
                for n in 0..25_u8 {
                    put(&store, "t", &[thread, n], b"v").expect("nobody else writes this key");
                }
            });
        }
    });
    let stats = store.stats();
    assert_eq!(stats.commits, 200);
    assert!(stats.commits >= 2 * stats.syncs, "{} commits in {} syncs", stats.commits, stats.syncs);
    assert_eq!(stats.groups, stats.syncs, "exactly one sync per group");
    let after = open(&disk.after_crash(blazedb_engine::env::Survivors::None, 1));
    assert_eq!(after.read().len(after.tree("t").expect("a good name")).expect("the tree reads"), 200);
}

#[test]
fn readers_do_not_wait_for_a_sync_and_never_see_half() {
    let disk = SimDisk::new(2);
    let store = Store::open(slow_env(&disk, Duration::from_millis(40)), options()).expect("opens");
    put(&store, "t", b"a", b"0").expect("commits");
    put(&store, "t", b"b", b"0").expect("commits");
    let done = AtomicBool::new(false);
    let slowest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..12_u8 {
                let mut tx = store.write();
                let t = tx.tree("t").expect("a good name");
                tx.put(t, b"a", &[n]).expect("a good value");
                tx.put(t, b"b", &[n]).expect("a good value");
                tx.commit().expect("the only writer");
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Acquire) {
                let from = Instant::now();
                let view = store.read();
                let t = view.tree("t").expect("the catalogue reads").expect("is there");
                let (a, b) = (view.get(t, b"a").expect("a good tree"), view.get(t, b"b").expect("a good tree"));
                slowest.fetch_max(from.elapsed().as_micros() as u64, Ordering::Relaxed);
                assert_eq!(a, b, "both or neither");
                assert!(view.commit_no() >= last, "time goes forwards");
                last = view.commit_no();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
    });
    let slowest = slowest.load(Ordering::Relaxed);
    assert!(slowest < 30_000, "a read took {slowest} us beside syncs of 40 ms");
}

/// Transfers between accounts: retried on conflict, the sum never changes in any view.
#[test]
fn transfers_keep_the_sum() {
    let store = open(&SimDisk::new(3));
    let t = store.tree("accounts").expect("a good name");
    let mut tx = store.write();
    for n in 0..4_u8 {
        tx.put(t, &[n], &100_u64.to_le_bytes()).expect("a good value");
    }
    tx.commit().expect("commits");
    let balance =
        |bytes: Option<bytes::Bytes>| u64::from_le_bytes(bytes.expect("is there")[..].try_into().expect("8 bytes"));
    let (done, conflicts) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u64)
            .map(|thread| {
                let (store, conflicts, balance) = (store.clone(), &conflicts, &balance);
                scope.spawn(move || {
                    let mut random = crate::support::Random::new(thread + 1);
                    for _ in 0..150 {
                        let (from, to) = (random.below(4) as u8, random.below(4) as u8);
                        loop {
                            let mut tx = store.write();
                            let a = balance(tx.get(t, &[from]).expect("a good tree"));
                            if a == 0 || from == to {
                                break;
                            }
                            let b = balance(tx.get(t, &[to]).expect("a good tree"));
                            tx.put(t, &[from], &(a - 1).to_le_bytes()).expect("a good value");
                            tx.put(t, &[to], &(b + 1).to_le_bytes()).expect("a good value");
                            std::thread::yield_now();
                            match tx.commit() {
                                Ok(_) => break,
                                Err(CommitError::Conflict { .. }) => {
                                    conflicts.fetch_add(1, Ordering::Relaxed);
                                }
                                Err(e) => panic!("{e}"),
                            }
                        }
                    }
                })
            })
            .collect();
        let (store, done, balance) = (store.clone(), &done, &balance);
        scope.spawn(move || {
            while !done.load(Ordering::Acquire) {
                let view = store.read();
                let sum: u64 = view.range(t, ..).map(|item| balance(Some(item.expect("a sound store reads").1))).sum();
                assert_eq!(sum, 400, "no view shows half a transfer");
            }
        });
        for writer in writers {
            writer.join().expect("no writer panicked");
        }
        done.store(true, Ordering::Release);
    });
    let sum: u64 = store.read().range(t, ..).map(|item| balance(Some(item.expect("a sound store reads").1))).sum();
    assert_eq!(sum, 400);
}

#[test]
fn everybody_in_and_behind_a_failed_group_is_told() {
    use blazedb_engine::env::{CallKind, Fault};
    let disk = SimDisk::new(4);
    let store = Store::open(slow_env(&disk, Duration::from_millis(5)), options()).expect("opens");
    put(&store, "t", b"before", b"v").expect("commits");
    disk.fail(Fault { kind: CallKind::Sync, nth: 3, error: io::ErrorKind::Other, for_ever: false });
    let acknowledged: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6_u8)
            .map(|thread| {
                let store = store.clone();
                scope.spawn(move || {
                    (0..40_u8).take_while(|n| put(&store, "t", &[thread, *n], b"v").is_ok()).count() as u64
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("nobody hangs or panics")).sum()
    });
    assert!(store.stats().poisoned.is_some());
    let shown = store.read().len(store.tree("t").expect("a good name")).expect("the tree reads");
    assert_eq!(shown, acknowledged + 1, "what is seen is what was acknowledged");
    let after = open(&disk.after_crash(blazedb_engine::env::Survivors::None, 1));
    assert_eq!(after.read().len(after.tree("t").expect("a good name")).expect("the tree reads"), shown);
}

#[test]
fn checkpoints_and_verify_beside_writers_and_readers() {
    let disk = SimDisk::new(5);
    let store = open(&disk);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                store.checkpoint().expect("checkpoints");
                store.verify(&mut |_| {}).expect("pages and space agree");
            }
        });
        let writers: Vec<_> = (0..3_u8)
            .map(|thread| {
                let store = store.clone();
                scope.spawn(move || {
                    for n in 0..100_u8 {
                        put(&store, "t", &[thread, n], &[n; 300]).expect("nobody else writes this key");
                        assert_eq!(get(&store, "t", &[thread, n]), Some(vec![n; 300]), "read your writes");
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|w| w.join().expect("no writer panicked"));
        done.store(true, Ordering::Release);
    });
    assert!(store.stats().checkpoints > 0);
    let after = open(&disk.after_crash(blazedb_engine::env::Survivors::None, 1));
    assert_eq!(after.read().len(after.tree("t").expect("a good name")).expect("the tree reads"), 300);
}

/// A hook that panics aborts its transaction; the store goes on.
#[test]
fn a_panicking_hook_leaves_no_trace() {
    let store = open(&SimDisk::new(6));
    put(&store, "t", b"a", b"1").expect("commits");
    let t = store.tree("t").expect("a good name");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut tx = store.write();
        tx.put(t, b"b", b"2").expect("a good value");
        let _ = tx.commit_with(Durability::Durable, |_| panic!("planted"));
    }));
    assert!(panicked.is_err());
    assert_eq!(get(&store, "t", b"b"), None);
    put(&store, "t", b"c", b"3").expect("the store goes on");
    assert_eq!(store.stats().readers, 0);
}

/// Chance that panics when it is told to: where the world fails in the midst of a checkpoint.
struct Fickle(Arc<dyn Entropy>, AtomicBool);

impl Entropy for Fickle {
    fn secret(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.0.secret(bytes)
    }

    fn public(&self, bytes: &mut [u8]) -> io::Result<()> {
        assert!(!self.1.load(Ordering::Relaxed), "planted");
        self.0.public(bytes)
    }
}

/// After a panic inside a checkpoint nobody knows which pages are in use: nothing is written any more, and what was
/// acknowledged is there when the store is opened anew.
#[test]
fn a_panic_in_a_checkpoint_poisons() {
    let disk = SimDisk::new(8);
    let mut env = disk.env(NAME);
    let fickle = Arc::new(Fickle(Arc::clone(&env.entropy), false.into()));
    env.entropy = Arc::clone(&fickle) as _;
    let store = Store::open(env, roomy()).expect("opens");
    put(&store, "t", b"a", b"1").expect("commits");
    fickle.1.store(true, Ordering::Relaxed);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.checkpoint()));
    assert!(panicked.is_err(), "the first page of an open draws a nonce");
    fickle.1.store(false, Ordering::Relaxed);
    let refused = put(&store, "t", b"b", b"2");
    assert!(matches!(refused, Err(CommitError::Poisoned { .. })), "{refused:?}");
    assert!(matches!(store.checkpoint(), Err(MaintainError::Poisoned { .. })));
    assert_eq!(get(&store, "t", b"a").as_deref(), Some(&b"1"[..]), "reads go on");
    drop(store);
    let store = open(&disk);
    assert_eq!(get(&store, "t", b"a").as_deref(), Some(&b"1"[..]));
    store.verify(&mut |_| {}).expect("pages and space agree");
}

/// Four threads count in one row: whoever loses runs again, and no increment is lost.
#[test]
fn a_transaction_that_loses_runs_again() {
    let disk = SimDisk::new(3);
    let store = open(&disk);
    let tree = store.tree("t").expect("a good name");
    let attempts = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let count = store.retry(|tx| {
                        attempts.fetch_add(1, Ordering::Relaxed);
                        let count = tx.get(tree, b"n")?.map_or(0, |bytes| bytes[0]) + 1;
                        // Long enough for another one to come in between.
                        std::thread::yield_now();
                        tx.put(tree, b"n", &[count])?;
                        Ok::<_, CommitError>(count)
                    });
                    count.expect("in a thousand attempts it wins once");
                }
            });
        }
    });
    assert_eq!(get(&store, "t", b"n"), Some(vec![200]));
    assert!(attempts.load(Ordering::Relaxed) >= 200);
    // What the body refuses ends it at once.
    let mut calls = 0;
    let refused: Result<(), CommitError> = store.retry(|_| {
        calls += 1;
        Err(CommitError::Closed)
    });
    assert!(matches!((refused, calls), (Err(CommitError::Closed), 1)));
}

/// The same in a load that has taken over the pages of a streamed value: they belong to nobody then, and nobody gives them
/// back to a space that has them in use.
#[test]
fn a_panic_in_a_load_poisons() {
    let disk = SimDisk::new(9);
    let mut env = disk.env(NAME);
    let fickle = Arc::new(Fickle(Arc::clone(&env.entropy), false.into()));
    env.entropy = Arc::clone(&fickle) as _;
    let store = Store::open(env, options()).expect("opens");
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    tx.put_stream(tree, b"long", 100_000, &mut &[7; 100_000][..]).expect("room");
    (0..100_u8).for_each(|n| tx.put(tree, &[n], &[7; 900]).expect("room"));
    fickle.1.store(true, Ordering::Relaxed);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tx.commit()));
    assert!(panicked.is_err(), "the first page of a load draws a nonce");
    assert!(store.stats().poisoned.is_some());
    drop(store);
    let store = open(&disk);
    assert_eq!(get(&store, "t", b"long"), None);
    store.verify(&mut |_| {}).expect("pages and space agree");
}

/// The same with the store's own thread, in the time of the test.
fn slow_env_with_thread(disk: &SimDisk, sync: Duration) -> Env {
    Env { threads: true, clock: Arc::new(SystemClock::new()), ..slow_env(disk, sync) }
}

/// A file with half of its rows deleted, and the options that leave it so.
fn half_deleted(disk: &SimDisk, sync: Duration) -> Store {
    let options = options().memory(Memory::CLIENT).auto_vacuum(None);
    let fast = Store::open(slow_env(disk, Duration::ZERO), options.clone()).expect("opens");
    let rows = fast.tree("rows").expect("a good name");
    let mut loader = fast.loader();
    (0..40_000_u64).for_each(|n| loader.put(rows, &n.to_be_bytes(), &[7; 100]).expect("room"));
    loader.finish().expect("room");
    let mut tx = fast.write();
    (0..40_000_u64).step_by(2).for_each(|n| tx.delete(rows, &n.to_be_bytes()).expect("a good key"));
    tx.commit().expect("room");
    fast.close().expect("closes");
    drop(fast);
    Store::open(slow_env_with_thread(disk, sync), options).expect("opens again")
}

/// A vacuum leaves the disk to those who commit; while nobody does it goes on.
#[test]
fn a_vacuum_gives_way_to_commits_and_waits_for_nobody_else() {
    const SYNC: Duration = Duration::from_millis(5);
    let [disk, idle] = [1, 2].map(SimDisk::new);
    let store = half_deleted(&disk, SYNC);
    let is_done = AtomicBool::new(false);
    let commits = std::thread::scope(|scope| {
        let commits = scope.spawn(|| {
            let mut commits = 0_u64;
            while !is_done.load(Ordering::Acquire) {
                put(&store, "other", &commits.to_be_bytes(), b"1").expect("nobody else writes");
                commits += 1;
            }
            commits
        });
        store.vacuum(0, &mut |_| {}).expect("vacuums");
        is_done.store(true, Ordering::Release);
        commits.join().expect("no panic")
    });
    let steps = store.stats().checkpoints;
    assert!(steps >= 5 && commits > 12 * steps, "{commits} commits beside {steps} checkpoints");

    let store = half_deleted(&idle, SYNC);
    let begun = Instant::now();
    store.vacuum(0, &mut |_| {}).expect("vacuums");
    let (took, steps) = (begun.elapsed(), store.stats().checkpoints);
    // Each of them syncs three times at least; a pause after each of them would be eight times that.
    assert!(steps >= 5 && took < 3 * SYNC * 4 * steps as u32, "{took:?} for {steps} checkpoints");
}

/// What was committed while a checkpoint ran is written by the next one, though nobody commits any more.
#[test]
fn a_table_that_is_due_when_a_checkpoint_ends_is_written_without_another_commit() {
    let disk = SimDisk::new(3);
    let options = options().memory(Memory::TINY);
    let store = Store::open(slow_env_with_thread(&disk, Duration::from_millis(200)), options).expect("opens");
    let rows = store.tree("rows").expect("a good name");
    let due = store.stats().table_bytes_max;
    let mut keys = 0_u64..;
    let mut fill_to = |bytes: u64| {
        while store.stats().table_bytes < bytes {
            let mut tx = store.write();
            keys.by_ref().take(50).for_each(|n| tx.put(rows, &n.to_be_bytes(), &[7; 100]).expect("room"));
            tx.commit_with(Durability::Buffered, |_| Ok(())).expect("room");
        }
    };
    fill_to(due);
    // It has the first table before there is any of the second, which is full before it ends.
    std::thread::sleep(Duration::from_millis(50));
    fill_to(2 * due + due / 16);
    assert_eq!(store.stats().checkpoints, 0, "the first one is still under way");
    let begun = Instant::now();
    while store.stats().table_bytes > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", store.stats());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(store.stats().checkpoints, 2);
}
