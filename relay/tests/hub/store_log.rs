//! [`StoreLog`]: conditional, durable, whole or not at all.

use std::collections::BTreeMap;

use blazedb_engine::Env;
use blazedb_engine::env::{SimDisk, Survivors};
use blazedb_relay::admit::{AdmitTime, Decision, SpaceState, admit};
use blazedb_relay::log::{
    Append, AppendError, AppendId, DeadDocuments, Known, LogEntry, LogError, RelayLog, SpaceInfo, StoreLog,
    StoreLogOptions,
};
use blazedb_wire::{Batch, Envelope, Hlc, Op, OpKind, SpaceId, entry_frame};

use crate::rig::{Rng, WALL_MS, batch_of, create, delete, document, entry_of, replica, update};

const KEY: [u8; 32] = [3; 32];
const TIME: AdmitTime = AdmitTime { wall_ms: WALL_MS, trusted: true };

fn open(env: Env) -> StoreLog {
    StoreLog::open_in(env, KEY, StoreLogOptions::default()).unwrap()
}

/// Admits batches one upon the other and makes appends of them.
struct Author {
    state: SpaceState,
    next: u64,
}

impl Author {
    fn new(info: SpaceInfo) -> Self {
        Self { state: SpaceState::new(info), next: 1 }
    }

    fn append(&mut self, author: u8, first_counter: u64, ops: &[Op]) -> Append {
        let batch = batch_of(self.state.id(), self.state.epoch(), replica(author), first_counter, ops);
        let Decision::Append(admitted) = admit(&self.state, &batch, TIME, |_| None).unwrap() else {
            panic!("nothing is known yet")
        };
        let expected_head = self.state.head();
        self.state.apply(&admitted, TIME);
        let id = AppendId(self.next);
        self.next += 1;
        let entry = LogEntry {
            first_seq: admitted.envelope.first_seq,
            last_seq: admitted.envelope.last_seq(),
            frame: entry_frame(&admitted.envelope.to_vec(), batch.bytes()),
            replica: replica(author),
            known: admitted.known,
            lives: admitted.lives,
            newest_stamp: admitted.newest_stamp,
        };
        Append { id, space: self.state.id(), expected_head, entries: vec![entry] }
    }
}

fn read_all(log: &dyn RelayLog, space: SpaceId) -> Vec<(Envelope, Batch)> {
    let mut entries: Vec<(Envelope, Batch)> = Vec::new();
    loop {
        let after = entries.last().map_or(0, |(envelope, _)| envelope.last_seq());
        let read = log.read(space, after, 400).unwrap();
        if read.is_empty() {
            return entries;
        }
        for entry in read {
            let (envelope, batch) = entry_of(&entry.frame);
            assert_eq!((entry.first_seq, entry.last_seq), (envelope.first_seq, envelope.last_seq()));
            entries.push((envelope, batch));
        }
    }
}

/// What must be known of a space, said by its entries alone.
fn oracle(id: SpaceId, entries: &[(Envelope, Batch)]) -> SpaceInfo {
    let mut info = SpaceInfo {
        id,
        epoch: 1,
        head: 0,
        floor: 0,
        counters: BTreeMap::new(),
        dead: DeadDocuments::default(),
        newest_stamp: Hlc::ZERO,
    };
    for (envelope, batch) in entries {
        assert_eq!(envelope.first_seq, info.head + 1);
        info.head = envelope.last_seq();
        for (i, op) in batch.ops().enumerate() {
            let known = Known { counter: envelope.first_counter + i as u64, digest: op.payload_digest() };
            info.counters.insert(envelope.replica, known);
            if !envelope.applied(i) {
                continue;
            }
            info.newest_stamp = info.newest_stamp.max(op.hlc);
            match op.kind {
                OpKind::Delete if info.dead.get(op.collection, op.id).is_none() => {
                    info.dead.insert(op.collection, op.id, envelope.seq_of(i));
                }
                OpKind::Create => info.dead.remove(op.collection, op.id),
                OpKind::Delete | OpKind::Update => {}
            }
        }
    }
    info
}

#[test]
fn what_was_appended_is_read_back_also_after_reopening() {
    let disk = SimDisk::new(1);
    let log = open(disk.env("relay.blaze"));
    let info = log.open_space("home").unwrap();
    assert_eq!((info.head, info.epoch, info.floor), (0, 1, 0));
    assert_eq!(log.open_space("home").unwrap(), info, "the same space by the same name");
    assert_ne!(log.open_space("work").unwrap().id, info.id);
    let mut author = Author::new(info.clone());
    let group = [
        author.append(1, 1, &[create(1, 0), create(2, 0), delete(2, 0)]),
        author.append(2, 1, &[update(1, 0, 7)]),
        author.append(1, 4, &[delete(1, 4), create(2, 4)]),
    ];
    assert_eq!(log.append(&group), [Ok(()), Ok(()), Ok(())]);
    let check = |log: &StoreLog| {
        let entries = read_all(log, info.id);
        assert_eq!(entries.len(), 3);
        for (append, (envelope, batch)) in group.iter().zip(&entries) {
            assert_eq!(append.entries[0].frame, entry_frame(&envelope.to_vec(), batch.bytes()));
        }
        let now = log.open_space("home").unwrap();
        assert_eq!(now, oracle(info.id, &entries));
        assert_eq!(now.dead.get("things", document(1)), Some(5));
        assert_eq!(now.dead.len(), 1, "document 2 lives again");
    };
    check(&log);
    log.close().unwrap();
    drop(log);
    let log = open(disk.env("relay.blaze"));
    check(&log);
    assert_eq!(log.spaces().unwrap().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["home", "work"]);
}

// spec: R-4
#[test]
fn an_append_to_another_head_is_refused_as_a_whole_and_others_of_its_group_are_not() {
    let log = open(Env::memory(1));
    let (home, work) = (log.open_space("home").unwrap(), log.open_space("work").unwrap());
    let mut author = Author::new(home.clone());
    let first = author.append(1, 1, &[create(1, 0)]);
    let second = author.append(1, 2, &[update(1, 0, 2)]);
    let elsewhere = Author::new(work.clone()).append(2, 1, &[create(1, 0)]);
    // The second before the first: the relay's idea of the head is ahead of the log.
    let mismatch = Err(AppendError::HeadMismatch { expected: 1, found: 0 });
    assert_eq!(log.append(&[second.clone(), elsewhere]), [mismatch, Ok(())]);
    assert!(log.read(home.id, 0, 1_000).unwrap().is_empty());
    assert_eq!(log.open_space("home").unwrap(), home, "no trace of it");
    assert_eq!(log.open_space("work").unwrap().head, 1);
    assert_eq!(log.append(&[first.clone(), second.clone()]), [Ok(()), Ok(())]);
    let mismatch = Err(AppendError::HeadMismatch { expected: 0, found: 2 });
    assert_eq!(log.append(&[first]), [mismatch], "twice is refused, too");
    let unknown = Append { space: SpaceId::from_bytes([9; 16]), ..second };
    assert_eq!(log.append(&[unknown]), [Err(AppendError::UnknownSpace(SpaceId::from_bytes([9; 16])))]);
}

#[test]
fn an_append_that_fails_half_way_takes_its_group_with_it() {
    let log = open(Env::memory(1));
    let (home, work) = (log.open_space("home").unwrap(), log.open_space("work").unwrap());
    let mut author = Author::new(home.clone());
    let (mut half, second) = (author.append(1, 1, &[create(1, 0)]), author.append(1, 2, &[create(2, 0)]));
    half.entries.extend(second.entries);
    half.entries[1].frame = vec![0; 3 << 20].into();
    let elsewhere = Author::new(work.clone()).append(2, 1, &[create(1, 0)]);
    let results = log.append(&[elsewhere.clone(), half, elsewhere.clone()]);
    assert!(results.iter().all(|result| matches!(result, Err(AppendError::Storage { .. }))), "{results:?}");
    assert_eq!(log.open_space("home").unwrap(), home);
    assert_eq!(log.open_space("work").unwrap(), work);
    assert!(log.read(home.id, 0, 1_000).unwrap().is_empty());
    assert_eq!(log.append(&[elsewhere]), [Ok(())], "the log goes on");
}

#[test]
fn reading_starts_anywhere_and_keeps_to_its_bytes() {
    let log = open(Env::memory(1));
    let home = log.open_space("home").unwrap();
    let mut author = Author::new(home.clone());
    let group: Vec<Append> = (1..=10).map(|n| author.append(1, n, &[create(1, 0)])).collect();
    assert!(log.append(&group).iter().all(Result::is_ok));
    let length = group[0].entries[0].frame.len();
    let firsts = |after, bytes| -> Vec<u64> {
        log.read(home.id, after, bytes).unwrap().iter().map(|entry| entry.first_seq).collect()
    };
    assert_eq!(firsts(0, 0), [1], "one at least");
    assert_eq!(firsts(3, length * 2), [4, 5]);
    assert_eq!(firsts(3, length * 3 - 1), [4, 5]);
    assert_eq!(firsts(9, usize::MAX), [10]);
    assert_eq!(firsts(10, usize::MAX), [0_u64; 0]);
    assert_eq!(firsts(u64::MAX, usize::MAX), [0_u64; 0]);
}

// spec: L-26, R-16
#[test]
fn digests_are_found_by_name() {
    let log = open(Env::memory(1));
    let home = log.open_space("home").unwrap();
    let mut author = Author::new(home.clone());
    let ops: Vec<Op> = (0..9).map(|n| update(1, 0, n)).collect();
    let group = [
        author.append(1, 1, &ops[..3]),
        author.append(2, 1, &[create(9, 0)]),
        author.append(1, 4, &ops[3..4]),
        author.append(1, 5, &ops[4..]),
    ];
    assert!(log.append(&group).iter().all(Result::is_ok));
    for first in 1..=9_u64 {
        for last in first..=9 {
            let expected: Vec<_> =
                (first..=last).map(|n| ops[usize::try_from(n).unwrap() - 1].payload_digest()).collect();
            assert_eq!(log.digests(home.id, replica(1), first, last, usize::MAX).unwrap(), expected);
            // By one entry at a time.
            let mut parts = 0;
            let mut found = Vec::new();
            while found.len() < expected.len() {
                found.extend(log.digests(home.id, replica(1), first + found.len() as u64, last, 0).unwrap());
                parts += 1;
            }
            let entries =
                [1..=3, 4..=4, 5..=9].iter().filter(|held| first <= *held.end() && *held.start() <= last).count();
            assert_eq!((found, parts), (expected, entries));
        }
    }
    let missing = Err(LogError::Missing { replica: replica(1), counter: 10 });
    assert_eq!(log.digests(home.id, replica(1), 9, 10, usize::MAX), missing);
    assert_eq!(
        log.digests(home.id, replica(7), 1, 1, usize::MAX),
        Err(LogError::Missing { replica: replica(7), counter: 1 })
    );
}

// spec: R-20
#[test]
fn a_full_log_says_so_and_keeps_what_it_has() {
    let disk = SimDisk::new(1);
    let log = StoreLog::open_in(disk.env("relay.store"), KEY, StoreLogOptions::default()).unwrap();
    let home = log.open_space("home").unwrap();
    let mut author = Author::new(home.clone());
    let mut logged = 0;
    disk.set_capacity(Some(1 << 20));
    let error = loop {
        let append = author.append(1, logged + 1, &[create(1, 0)]);
        match log.append(&[append]).remove(0) {
            Ok(()) => logged += 1,
            Err(error) => break error,
        }
        assert!(logged < 10_000, "never full");
    };
    assert!(matches!(error, AppendError::Full { .. }), "{error}");
    assert!(logged > 10);
    assert_eq!(log.open_space("home").unwrap().head, logged);
    assert_eq!(read_all(&log, home.id).len() as u64, logged);
    assert!(matches!(log.open_space(&"x".repeat(255)), Ok(_) | Err(LogError::Full { .. })));
    disk.set_capacity(None);
    let mut later = Author::new(log.open_space("home").unwrap());
    let append = later.append(2, 1, &[create(2, 0)]);
    assert!(log.append(&[append]).remove(0).is_ok(), "with room again it goes on");
}

#[test]
fn names_have_limits() {
    let log = open(Env::memory(1));
    assert_eq!(log.open_space("").unwrap_err(), LogError::BadName { given: 0 });
    assert_eq!(log.open_space(&"x".repeat(256)).unwrap_err(), LogError::BadName { given: 256 });
    assert!(log.open_space(&"x".repeat(255)).is_ok());
}

#[test]
fn a_key_that_is_gone_is_told_from_a_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = StoreLog::open(dir.path(), StoreLogOptions::default()).unwrap();
    let home = log.open_space("home").unwrap();
    log.close().unwrap();
    drop(log);
    let log = StoreLog::open(dir.path(), StoreLogOptions::default()).unwrap();
    assert_eq!(log.open_space("home").unwrap(), home);
    log.close().unwrap();
    drop(log);
    let key = dir.path().join("store.key");
    assert_eq!(std::fs::metadata(&key).unwrap().len(), 32);
    std::fs::rename(&key, dir.path().join("elsewhere")).unwrap();
    let error = StoreLog::open(dir.path(), StoreLogOptions::default()).unwrap_err();
    assert!(matches!(error, LogError::Key { .. }), "{error}");
    assert!(!key.exists(), "no new key beside an old store");
}

/// Appends until the end or the power cut; returns the entries that were acknowledged, by space.
fn run(disk: &SimDisk, seed: u64) -> BTreeMap<&'static str, u64> {
    let mut acked = BTreeMap::new();
    let mut rng = Rng(seed);
    let Ok(log) = StoreLog::open_in(disk.env("relay.blaze"), KEY, StoreLogOptions::default()) else { return acked };
    let mut authors = BTreeMap::new();
    for name in ["home", "work"] {
        let Ok(info) = log.open_space(name) else { return acked };
        authors.insert(name, (Author::new(info), [1_u64; 3]));
        acked.insert(name, 0);
    }
    for _ in 0..12 {
        let mut group = Vec::new();
        let mut heads = acked.clone();
        for _ in 0..1 + rng.below(3) {
            let name = if rng.chance(50) { "home" } else { "work" };
            let (author, counters) = authors.get_mut(name).unwrap();
            let who = rng.below(3);
            let cursor = heads[name];
            let ops: Vec<Op> = (0..1 + rng.below(3))
                .map(|n| match rng.below(4) {
                    0 => create(1, cursor),
                    1 => delete(1, cursor),
                    _ => update(1, cursor, n as i64),
                })
                .collect();
            group.push(author.append(u8::try_from(who).unwrap() + 1, counters[who], &ops));
            counters[who] += ops.len() as u64;
            heads.insert(name, author.state.head());
        }
        if log.append(&group).iter().any(Result::is_err) {
            return acked;
        }
        acked = heads;
    }
    // A clean end is part of some histories.
    if rng.chance(50) {
        let _ = log.close();
    }
    acked
}

// spec: R-21
#[test]
fn no_crash_loses_what_was_acknowledged() {
    let mut crashes = 0;
    for seed in 0..3 {
        let quiet = SimDisk::new(seed);
        let all = run(&quiet, seed);
        assert!(all.values().sum::<u64>() > 20);
        for nth in 1..=quiet.changes() {
            let disk = SimDisk::new(seed);
            disk.crash_at(nth);
            let acked = run(&disk, seed);
            for survivors in Survivors::ALL {
                let after = disk.after_crash(survivors, nth);
                let log = open(after.env("relay.blaze"));
                for (name, head) in &acked {
                    let info = log.open_space(name).unwrap();
                    let entries = read_all(&log, info.id);
                    assert!(
                        info.head >= *head,
                        "seed {seed}, crash {nth}, {survivors:?}: {} of {head} left",
                        info.head
                    );
                    assert_eq!(info, oracle(info.id, &entries), "seed {seed}, crash {nth}, {survivors:?}");
                }
                crashes += 1;
            }
        }
    }
    assert!(crashes > 500, "{crashes}");
}
