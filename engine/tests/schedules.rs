//! Schedules: small programs of two to four threads on one store, run under one schedule of threads after the other.
//!
//! Compiled only in a build in which the engine's locks are shuttle's (`RUSTFLAGS='--cfg shuttle'`); run by
//! `.ci/schedules`. `BLAZE_SCHEDULES` sets how many schedules each scenario gets (default 200), `BLAZE_SCHEDULE_SEED`
//! where they begin (default 1). Half of them switch threads at random, half by priorities that change a few times
//! (PCT), which finds what takes an unlikely order of few steps. A thread that waits for ever fails its scenario. A
//! failure prints the schedule; the same seed and number repeat it.

#![cfg(shuttle)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Count, Ordering};
use std::time::Duration;

use blazedb_engine::env::{FileIdentity, LockOutcome, MemoryStorage, OpenMode};
use blazedb_engine::{
    CommitError, Durability, Env, FeedEvent, KdfCost, KeySource, MaintainError, Memory, OpenError, Options, ReadError,
    RekeyOptions, Storage, StorageFile, Store, TreeId,
};
use shuttle::sync::atomic::AtomicBool;
use shuttle::thread;
use zeroize::Zeroizing;

/// A table so small that a single commit of `BIG` makes a checkpoint due.
const SMALL: Memory = Memory { cache_bytes: 32 << 10, table_bytes: 4 << 10, log_bytes: 128 << 10 };
const BIG: usize = 1500;

/// Room enough that nothing but `Store::checkpoint` and a close write pages.
const ROOMY: Memory = Memory { cache_bytes: 32 << 10, table_bytes: 64 << 10, log_bytes: 128 << 10 };

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn explore(scenario: fn()) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    let schedules = number("BLAZE_SCHEDULES", 200) as usize;
    let seed = number("BLAZE_SCHEDULE_SEED", 1);
    let config = || {
        let mut config = shuttle::Config::new();
        // The engine keeps a page or a group on the stack here and there.
        config.stack_size = 1 << 20;
        config.silence_warnings = true;
        config
    };
    let half = schedules.div_ceil(2);
    shuttle::Runner::new(RandomScheduler::new_from_seed(seed, half), config()).run(scenario);
    shuttle::Runner::new(PctScheduler::new_from_seed(seed, 3, half), config()).run(scenario);
}

/// A disk in memory at whose every call threads may be switched, and of which one call may fail.
struct Disk {
    files: MemoryStorage,
    calls: Arc<Calls>,
}

struct Calls {
    switch: AtomicBool,
    /// The how-manyth sync fails, counted from `arm`; 0 never.
    sync_to_fail: Count,
    /// The how-manyth write finds no room.
    write_to_fail: Count,
}

impl Calls {
    fn switch(&self) {
        self.switch.load(Ordering::SeqCst);
    }

    fn is_due(count: &Count) -> bool {
        count.try_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) == Ok(1)
    }
}

struct File(Arc<dyn StorageFile>, Arc<Calls>);

impl Storage for Disk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        self.calls.switch();
        Ok(Arc::new(File(self.files.open(name, mode)?, Arc::clone(&self.calls))))
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.files.exists(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.calls.switch();
        self.files.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.calls.switch();
        self.files.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.files.sync_dir()
    }
    fn is_current(&self, name: &str, file: &dyn StorageFile) -> io::Result<bool> {
        self.files.is_current(name, file)
    }
    fn describe(&self, name: &str) -> String {
        self.files.describe(name)
    }
}

impl StorageFile for File {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.1.switch();
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.1.switch();
        if Calls::is_due(&self.1.write_to_fail) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.write_at(offset, bytes)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.switch();
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.switch();
        if Calls::is_due(&self.1.sync_to_fail) {
            return Err(io::Error::other("planted"));
        }
        self.0.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.1.switch();
        self.0.sync_all()
    }
    fn try_lock(&self) -> io::Result<LockOutcome> {
        self.0.try_lock()
    }
    fn unlock(&self) -> io::Result<()> {
        self.0.unlock()
    }
    fn identity(&self) -> io::Result<FileIdentity> {
        self.0.identity()
    }
}

/// A store in a world of its own.
struct World {
    env: Env,
    calls: Arc<Calls>,
    store: Store,
    tree: TreeId,
}

impl World {
    /// Reads a streamed value of one byte over and over, with a pause after its beginning.
    fn reads_one_whole_value(&self, key: &[u8], len: usize) {
        let view = self.store.read();
        let mut reader = view.value_reader(self.tree, key).expect("a sound store reads").expect("it is there");
        let (mut first, mut rest) = (vec![0; 100], Vec::new());
        io::Read::read_exact(&mut reader, &mut first).expect("it is longer");
        thread::yield_now();
        io::Read::read_to_end(&mut reader, &mut rest).expect("a sound store reads");
        assert_eq!(first.len() + rest.len(), len);
        assert!(rest.iter().all(|&byte| byte == first[0]), "one value and not two");
    }

    fn new() -> Self {
        Self::with(false, options())
    }

    fn with(threads: bool, options: Options) -> Self {
        let calls = Arc::new(Calls {
            switch: AtomicBool::new(false),
            sync_to_fail: Count::new(0),
            write_to_fail: Count::new(0),
        });
        let storage = Arc::new(Disk { files: MemoryStorage::new(), calls: Arc::clone(&calls) });
        let env = Env { storage, threads, ..Env::memory(1) };
        let store = Store::open(env.clone(), options).expect("a new store opens");
        let tree = store.tree("t").expect("a good name");
        Self { env, calls, store, tree }
    }

    fn put(&self, keys: &[u8], value: &[u8], durability: Durability) -> Result<u64, CommitError> {
        let mut tx = self.store.write();
        for key in keys {
            tx.put(self.tree, &[*key], value).expect("a good value");
        }
        Ok(tx.commit_with(durability, |_| Ok(()))?.commit_no)
    }

    fn set(&self, keys: &[u8], value: &[u8]) {
        self.put(keys, value, Durability::Durable).expect("nobody else writes these keys");
    }

    fn get(&self, key: u8) -> Option<Vec<u8>> {
        self.store.read().get(self.tree, &[key]).expect("a sound store reads").map(|value| value.to_vec())
    }

    /// Closes, opens again, and reads a key.
    fn after_reopening(&self, key: u8) -> Option<Vec<u8>> {
        self.store.close().expect("closes");
        let store = Store::open(Env { threads: false, ..self.env.clone() }, options()).expect("opens again");
        store.verify(&mut |_| {}).expect("pages and space agree");
        let tree = store.tree("t").expect("a good name");
        store.read().get(tree, &[key]).expect("a sound store reads").map(|value| value.to_vec())
    }
}

fn options() -> Options {
    Options::unencrypted().memory(ROOMY)
}

/// Runs the parts at once and waits for all of them.
fn at_once(parts: &[&(dyn Fn() + Sync)]) {
    thread::scope(|scope| {
        for part in parts {
            scope.spawn(move || part());
        }
    });
}

#[test]
fn two_writers_count_on_one_key() {
    explore(|| {
        let world = World::new();
        let count = || loop {
            let mut tx = world.store.write();
            let n = tx.get(world.tree, b"n").expect("a sound store reads").map_or(0, |value| value[0]);
            tx.put(world.tree, b"n", &[n + 1]).expect("a good value");
            match tx.commit() {
                Ok(_) => break,
                // The winner may still be on its way to the disk: it must get its turn.
                Err(CommitError::Conflict { .. }) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        at_once(&[&count, &count]);
        assert_eq!(world.get(b'n'), Some(vec![2]), "no count is lost");
    });
}

#[test]
fn writers_share_groups_and_see_what_they_were_told() {
    explore(|| {
        let world = World::new();
        let write = |key: u8| {
            world.set(&[key], b"1");
            assert!(world.get(key).is_some(), "who was told that it is committed sees it");
            world.set(&[key], b"2");
        };
        at_once(&[&|| write(b'a'), &|| write(b'b'), &|| write(b'c')]);
        let stats = world.store.stats();
        assert_eq!((stats.commits, stats.commit_no, stats.durable_commit_no), (6, 6, 6));
        assert!(stats.syncs <= stats.groups && stats.groups <= 6);
    });
}

#[test]
fn a_reader_sees_whole_commits_and_time_goes_on() {
    explore(|| {
        let world = World::new();
        world.set(b"ab", b"0");
        let read = || {
            let mut last = 0;
            for _ in 0..3 {
                let view = world.store.read();
                let get = |key| view.get(world.tree, key).expect("a sound store reads");
                assert_eq!(get(b"a"), get(b"b"), "both or neither");
                assert!(view.commit_no() >= last);
                last = view.commit_no();
            }
        };
        at_once(&[&|| world.set(b"ab", b"1"), &read, &|| drop(world.put(b"c", b"1", Durability::None))]);
    });
}

#[test]
fn commits_beside_a_checkpoint_are_kept() {
    explore(|| {
        let world = World::new();
        world.set(b"a", b"0");
        let checkpoint = || world.store.checkpoint().expect("checkpoints");
        at_once(&[&checkpoint, &|| world.set(b"a", b"1"), &|| world.set(b"b", b"1")]);
        assert_eq!((world.get(b'a'), world.get(b'b')), (Some(b"1".to_vec()), Some(b"1".to_vec())));
        assert_eq!(world.after_reopening(b'a'), Some(b"1".to_vec()));
    });
}

#[test]
fn the_thread_writes_checkpoints_and_ends_with_the_store() {
    explore(|| {
        let world = World::with(true, options().memory(SMALL));
        let write = |key: u8| (0..3).for_each(|n| world.set(&[key], &[n; BIG]));
        at_once(&[&|| write(b'a'), &|| write(b'b')]);
        assert_eq!(world.after_reopening(b'b'), Some(vec![2; BIG]));
    });
}

#[test]
fn a_view_stays_through_checkpoints() {
    explore(|| {
        let world = World::new();
        world.set(b"a", b"0");
        let view = world.store.read();
        let look = || {
            for _ in 0..3 {
                let seen = view.get(world.tree, b"a").expect("a sound store reads");
                assert_eq!(seen.as_deref(), Some(&b"0"[..]));
                assert_eq!(view.range(world.tree, ..).count(), 1);
            }
        };
        let go_on = || {
            world.set(b"ab", b"1");
            world.store.checkpoint().expect("checkpoints");
            world.set(b"ac", b"2");
            world.store.checkpoint().expect("checkpoints");
        };
        at_once(&[&look, &go_on]);
        look();
    });
}

#[test]
fn a_view_that_holds_too_much_ends_and_never_shows_another() {
    explore(|| {
        let world = World::with(false, options().snapshot_bytes_max(0));
        world.set(b"a", b"0");
        world.store.checkpoint().expect("checkpoints");
        let view = world.store.read();
        let look = || {
            for _ in 0..3 {
                match view.get(world.tree, b"a") {
                    Ok(seen) => assert_eq!(seen.as_deref(), Some(&b"0"[..])),
                    Err(ReadError::SnapshotTooOld { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let go_on = || {
            for n in 1..4 {
                world.set(b"a", &[n; 200]);
                world.store.checkpoint().expect("checkpoints");
            }
        };
        at_once(&[&look, &go_on]);
    });
}

#[test]
fn a_close_beside_commits_keeps_what_was_told() {
    explore(|| {
        let world = World::new();
        let told = [Count::new(0), Count::new(0)];
        let write = |n: usize| {
            for value in 1..3 {
                match world.put(&[n as u8], &[value], Durability::Durable) {
                    Ok(_) => told[n].store(u64::from(value), Ordering::SeqCst),
                    Err(CommitError::Closed) => return,
                    // A view of a store that is closed is what the conflict check may find first.
                    Err(CommitError::Read(ReadError::Closed)) => return,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        at_once(&[&|| write(0), &|| write(1), &|| world.store.close().expect("closes")]);
        for (n, told) in told.iter().enumerate() {
            let found = world.after_reopening(n as u8).map_or(0, |value| u64::from(value[0]));
            assert_eq!(found, told.load(Ordering::SeqCst), "key {n}");
        }
    });
}

#[test]
fn a_close_ends_views_and_nobody_reads_behind_it() {
    explore(|| {
        let world = World::new();
        world.set(b"a", b"0");
        let look = || {
            let view = world.store.read();
            for _ in 0..3 {
                match view.get(world.tree, b"a") {
                    Ok(seen) => assert_eq!(seen.as_deref(), Some(&b"0"[..])),
                    Err(ReadError::Closed) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let close = || {
            world.store.close().expect("closes");
            let view = world.store.read();
            assert!(matches!(view.get(world.tree, b"a"), Err(ReadError::Closed)));
        };
        at_once(&[&look, &look, &close]);
    });
}

#[test]
fn closes_meet_each_other_and_a_checkpoint() {
    explore(|| {
        let world = World::with(true, options().memory(SMALL));
        world.set(b"a", &[1; BIG]);
        world.set(b"b", &[1; BIG]);
        let checkpoint = || match world.store.checkpoint() {
            Ok(()) | Err(MaintainError::Closed) => {}
            Err(error) => panic!("{error}"),
        };
        let close = || world.store.close().expect("closes");
        at_once(&[&close, &close, &checkpoint]);
        assert_eq!(world.after_reopening(b'a'), Some(vec![1; BIG]));
    });
}

#[test]
fn a_flush_makes_durable_what_came_before_it() {
    explore(|| {
        let world = World::new();
        let write = |key: u8, durability| {
            let commit_no = world.put(&[key], b"1", durability).expect("nobody else writes this key");
            world.store.flush().expect("flushes");
            assert!(world.store.stats().durable_commit_no >= commit_no);
        };
        let lazily = || write(b'b', Durability::None);
        at_once(&[&|| write(b'a', Durability::Buffered), &lazily, &|| world.set(b"c", b"1")]);
        assert_eq!(world.store.stats().durable_commit_no, 3);
    });
}

#[test]
fn a_feed_tells_what_a_view_taken_after_it_does_not_show() {
    explore(|| {
        let world = World::new();
        let listen = || {
            let feed = world.store.subscribe(16);
            let view = world.store.read();
            let mut next = None;
            let mut told: Vec<u64> = Vec::new();
            while told.last().copied().unwrap_or_default().max(view.commit_no()) < 4 {
                let Some(FeedEvent::Commit(commit)) = feed.recv(Duration::from_secs(1)) else {
                    panic!("a feed that is read loses nothing, and nobody closes the store");
                };
                assert!(next.is_none_or(|next| next == commit.commit_no), "no commit is left out");
                next = Some(commit.commit_no + 1);
                told.push(commit.commit_no);
            }
            let missing = (view.commit_no() + 1..=4).find(|no| !told.contains(no));
            assert_eq!(missing, None, "told {told:?}, shown {}", view.commit_no());
        };
        let write = |key: u8, durability| (0..2).for_each(|n| drop(world.put(&[key], &[n], durability)));
        at_once(&[&listen, &|| write(b'a', Durability::Durable), &|| write(b'b', Durability::None)]);
    });
}

#[test]
fn a_failed_sync_is_told_to_everybody_and_shows_nothing() {
    explore(|| {
        let world = World::new();
        world.set(b"z", b"0");
        world.calls.sync_to_fail.store(2, Ordering::SeqCst);
        let told = Count::new(0);
        let write = |key: u8| {
            for n in 0..3 {
                match world.put(&[key], &[n], Durability::Durable) {
                    Ok(_) => told.fetch_add(1, Ordering::SeqCst),
                    Err(CommitError::Poisoned { .. }) => return,
                    Err(error) => panic!("{error}"),
                };
            }
        };
        at_once(&[&|| write(b'a'), &|| write(b'b'), &|| write(b'c')]);
        assert!(world.store.stats().poisoned.is_some());
        assert!(matches!(world.store.flush(), Err(MaintainError::Poisoned { .. })));
        assert_eq!(world.store.read().commit_no(), 1 + told.load(Ordering::SeqCst), "shown is what was told");
        assert!(world.store.close().is_err());
    });
}

#[test]
fn a_full_disk_fails_its_group_and_the_store_goes_on() {
    explore(|| {
        let world = World::new();
        world.set(b"z", b"0");
        world.calls.write_to_fail.store(2, Ordering::SeqCst);
        let write = |key: u8| {
            for n in 0..2 {
                match world.put(&[key], &[n], Durability::Durable) {
                    Ok(_) | Err(CommitError::DiskFull { .. } | CommitError::Poisoned { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        };
        at_once(&[&|| write(b'a'), &|| write(b'b')]);
    });
}

#[test]
fn readers_share_a_cache_that_is_too_small() {
    explore(|| {
        let world = World::with(false, options().memory(Memory { cache_bytes: 0, ..ROOMY }));
        for key in 0..24 {
            world.put(&[key], &[key; 1000], Durability::Buffered).expect("nobody else writes");
        }
        world.store.checkpoint().expect("checkpoints");
        let view = world.store.read();
        let look = |keys: [u8; 4]| {
            for key in keys {
                let same = view.get_with(world.tree, &[key], |value| value == [key; 1000]);
                assert_eq!(same.expect("a sound store reads"), Some(true), "key {key}");
            }
        };
        let go_on = || {
            world.set(&[3], &[99; 1000]);
            world.store.checkpoint().expect("checkpoints");
        };
        at_once(&[&|| look([0, 6, 12, 18]), &|| look([18, 3, 0, 9]), &go_on]);
    });
}

#[test]
fn serializable_transactions_do_not_skew() {
    explore(|| {
        let world = World::new();
        world.set(b"ab", &[1]);
        let done = Count::new(0);
        // Each may take one away as long as the other is there.
        let take = |mine: &[u8], other: &[u8]| {
            let mut tx = world.store.write();
            tx.serializable();
            if tx.get(world.tree, other).expect("a sound store reads").is_some() {
                tx.delete(world.tree, mine).expect("a good key");
                match tx.commit() {
                    Ok(_) => drop(done.fetch_add(1, Ordering::SeqCst)),
                    Err(CommitError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let checkpoint = || world.store.checkpoint().expect("checkpoints");
        at_once(&[&|| take(b"a", b"b"), &|| take(b"b", b"a"), &checkpoint]);
        assert_eq!(done.load(Ordering::SeqCst), 1, "one of them, and not both");
    });
}

#[test]
fn lazy_commits_keep_their_order_beside_durable_ones() {
    explore(|| {
        let world = World::new();
        let lazy = || (1..4).for_each(|n| drop(world.put(b"a", &[n], Durability::None)));
        let look = || {
            let mut last = 0;
            for _ in 0..3 {
                let now = world.get(b'a').map_or(0, |value| value[0]);
                assert!(now >= last, "what was shown is not taken back");
                last = now;
            }
        };
        let checkpoint = || world.store.checkpoint().expect("checkpoints");
        at_once(&[&lazy, &|| world.set(b"b", b"1"), &look, &checkpoint]);
        assert_eq!(world.after_reopening(b'a'), Some(vec![3]));
    });
}

#[test]
fn verify_beside_checkpoints_finds_nothing() {
    explore(|| {
        let world = World::new();
        world.set(b"a", &[1; BIG]);
        world.store.checkpoint().expect("checkpoints");
        let go_on = || {
            // The pages that the first state is in are used again from the third checkpoint on.
            for n in 2..6 {
                world.set(b"a", &[n; BIG]);
                world.store.checkpoint().expect("checkpoints");
            }
            world.store.vacuum(0, &mut |_| {}).expect("vacuums");
        };
        let verify = || {
            world.store.verify(&mut |_| {}).expect("pages and space agree");
        };
        at_once(&[&go_on, &verify, &verify]);
    });
}

#[test]
fn a_load_is_seen_whole_beside_commits_and_checkpoints() {
    explore(|| {
        let world = World::new();
        world.set(b"ab", b"0");
        let load = || {
            let mut loader = world.store.loader();
            for key in [b"a", b"b"] {
                loader.put(world.tree, key, &[1; BIG]).expect("a good row");
            }
            loader.finish().expect("nobody else writes these keys");
        };
        let look = || {
            let mut last = 0;
            for _ in 0..2 {
                let view = world.store.read();
                let len = |key| view.get(world.tree, key).expect("a sound store reads").map_or(0, |value| value.len());
                assert_eq!(len(b"a"), len(b"b"), "both or neither");
                assert!(len(b"a") >= last, "what was shown is not taken back");
                last = len(b"a");
            }
        };
        let go_on = || {
            world.set(b"c", b"1");
            world.store.checkpoint().expect("checkpoints");
        };
        at_once(&[&load, &look, &go_on]);
        assert_eq!(world.get(b'c'), Some(b"1".to_vec()));
        assert_eq!(world.after_reopening(b'b'), Some(vec![1; BIG]));
    });
}

/// Hooks that write more than a table holds count in one row, beside a load, a small commit and a checkpoint: none of
/// them waits for ever, and no count is lost.
#[test]
fn hooks_that_write_much_take_turns_with_loads() {
    explore(|| {
        let world = World::with(false, options().memory(SMALL));
        let count = || {
            let hook = |serial: &mut blazedb_engine::Serial<'_>| {
                let n = serial.get(world.tree, b"n")?.map_or(0, |n| n[0]);
                serial.put(world.tree, b"n", &[n + 1])?;
                (b'p'..b'u').try_for_each(|key| serial.put(world.tree, &[key], &[n; BIG]))?;
                Ok(())
            };
            world.store.write().commit_with(Durability::Buffered, hook).expect("hooks do not conflict");
        };
        let load = || {
            let mut loader = world.store.loader();
            loader.put(world.tree, b"a", b"1").expect("a good row");
            loader.finish().expect("nobody else writes this key");
        };
        let go_on = || {
            world.set(b"c", b"1");
            world.store.checkpoint().expect("checkpoints");
        };
        at_once(&[&count, &count, &load, &go_on]);
        assert_eq!(world.get(b'n'), Some(vec![2]));
        assert_eq!(world.after_reopening(b'c'), Some(b"1".to_vec()));
    });
}

#[test]
fn a_streamed_value_is_whole_beside_checkpoints_and_its_reader_keeps_the_old_one() {
    const LEN: usize = 9_000;
    explore(|| {
        let world = World::new();
        let stream = |byte: u8| {
            let mut tx = world.store.write();
            tx.put_stream(world.tree, b"a", LEN as u64, &mut io::repeat(byte)).expect("a good value");
            tx.commit().expect("nobody else writes this key");
        };
        stream(1);
        let look = || world.reads_one_whole_value(b"a", LEN);
        let checkpoint = || world.store.checkpoint().expect("checkpoints");
        at_once(&[&|| (2..4).for_each(stream), &look, &checkpoint]);
        assert_eq!(world.after_reopening(b'a'), Some(vec![3; LEN]));
    });
}

#[test]
fn a_change_of_keys_beside_commits_views_and_checkpoints() {
    const COST: KdfCost = KdfCost::InsecureForTests;
    explore(|| {
        let raw = |n: u8| KeySource::Raw(Zeroizing::new([n; 32]));
        let with = |n: u8| Options { key: raw(n), ..options().kdf(COST) };
        let world = World::with(false, with(1));
        world.set(b"ab", &[0; BIG]);
        world.store.checkpoint().expect("checkpoints");
        let rekey = || {
            world.store.rekey(&RekeyOptions::new(raw(2), COST).lock_out_old_keys(true)).expect("begins");
            // Not `rekey_all`, which looks again after a while: here time never passes.
            while !world.store.rekey_step(64).expect("goes on").finished {
                thread::yield_now();
            }
        };
        let look = || {
            let view = world.store.read();
            let get = |key| view.get(world.tree, key).expect("a sound store reads");
            let a = get(b"a");
            thread::yield_now();
            assert_eq!(get(b"b"), a, "a view stays as it was");
        };
        let write = || {
            world.set(b"ab", &[1; BIG]);
            world.store.checkpoint().expect("checkpoints");
        };
        at_once(&[&rekey, &look, &write]);
        assert_eq!(world.store.stats().rekey, None);
        world.store.close().expect("closes");
        let env = Env { threads: false, ..world.env.clone() };
        let refused = Store::open(env.clone(), with(1));
        assert!(matches!(refused, Err(OpenError::WrongKey)), "the old key opens nothing");
        let store = Store::open(env, with(2)).expect("the new one does");
        store.verify(&mut |_| {}).expect("pages and space agree");
        let tree = store.tree("t").expect("a good name");
        assert_eq!(store.read().get(tree, b"b").expect("a sound store reads").as_deref(), Some(&[1; BIG][..]));
    });
}

#[test]
fn a_vacuum_beside_streamed_values_views_and_commits() {
    const LEN: usize = 9_000;
    explore(|| {
        let world = World::new();
        let stream = |key: u8, byte: u8| {
            let mut tx = world.store.write();
            tx.put_stream(world.tree, &[key], LEN as u64, &mut io::repeat(byte)).expect("a good value");
            tx.commit().expect("nobody else writes this key");
        };
        // Pages in front that come free, and some behind them that do not.
        (0..8).for_each(|n| stream(b'0' + n, n));
        stream(b'a', 1);
        let mut tx = world.store.write();
        (0..8).for_each(|n| tx.delete(world.tree, &[b'0' + n]).expect("a good key"));
        tx.commit().expect("commits");
        world.store.checkpoint().expect("checkpoints");
        let long = world.store.stats().page_file_bytes;
        let look = || world.reads_one_whole_value(b"a", LEN);
        let vacuum = || {
            world.store.vacuum(4, &mut |_| thread::yield_now()).expect("vacuums");
        };
        at_once(&[&vacuum, &|| stream(b'a', 2), &look]);
        world.store.vacuum(4, &mut |_| {}).expect("vacuums");
        assert!(world.store.stats().page_file_bytes < long, "the file is shorter than {long} bytes");
        world.store.verify(&mut |_| {}).expect("pages and space agree");
        assert_eq!(world.after_reopening(b'a'), Some(vec![2; LEN]));
    });
}
