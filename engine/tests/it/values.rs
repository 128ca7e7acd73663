//! Long values: streamed in and out, given back, crashed, out of room, and against a map.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use blazedb_engine::env::{CallKind, Fault, SimDisk, Survivors};
use blazedb_engine::{
    ChangeKind, CommitError, Durability, Env, FeedEvent, MaintainError, Memory, Options, PageAccess, ReadError,
    ReadView, Store, StreamError, TreeId, WriteError, WriteTransaction, limits,
};

use crate::support::{Model, NAME, Random, Run, content, get, model_of, open, options, put, roomy, scale, unencrypted};

/// The shortest value that is written ahead of its commit.
const LONG: u64 = limits::STREAM_INLINE_BYTES_MAX as u64 + 1;

/// A value's bytes, made as they are asked for.
struct Source {
    seed: u64,
    at: u64,
    end: u64,
}

fn source(seed: u64, len: u64) -> Source {
    Source { seed, at: 0, end: len }
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = (self.end - self.at).min(out.len() as u64) as usize;
        for (i, byte) in out[..n].iter_mut().enumerate() {
            let at = self.at + i as u64;
            *byte = ((self.seed ^ at ^ (at >> 11)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
        }
        self.at += n as u64;
        Ok(n)
    }
}

fn bytes(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    source(seed, len).read_to_end(&mut bytes).expect("it does not fail");
    bytes
}

fn stream(tx: &mut WriteTransaction, tree: TreeId, key: &[u8], seed: u64, len: u64) {
    tx.put_stream(tree, key, len, &mut source(seed, len)).expect("room");
}

/// Streams one value durably.
fn put_long(store: &Store, key: &[u8], seed: u64, len: u64) {
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    stream(&mut tx, tree, key, seed, len);
    tx.commit().expect("commits");
}

fn read_all(view: &ReadView, tree: TreeId, key: &[u8]) -> Option<Vec<u8>> {
    let mut reader = view.value_reader(tree, key).expect("reads")?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("reads");
    assert_eq!(reader.len(), bytes.len() as u64);
    Some(bytes)
}

/// Writes a checkpoint, and panics unless every page of the file is accounted for: reached by a tree, pending, or free.
fn check_space(store: &Store) {
    // Twice, as the first one may be the second try of one that failed.
    for _ in 0..2 {
        put(store, "mark", b"", b"").expect("commits");
        store.checkpoint().expect("checkpoints");
    }
    let (report, stats) = (store.verify(&mut |_| {}).expect("pages and space agree"), store.stats());
    assert_eq!(stats.ahead_bytes, 0, "no transaction with a long value is open");
    let known = report.bytes + stats.held_bytes + stats.free_bytes + (128 << 10);
    assert_eq!(stats.page_file_bytes, known, "every page is used, pending or free: {stats:?}");
}

#[test]
fn round_trips_at_the_edges_of_pages_and_levels() {
    for page_bytes in [4096, 8192, 16384] {
        for chosen in [options(), unencrypted()] {
            let chosen = chosen.page_bytes(page_bytes);
            let disk = SimDisk::new(1);
            let store = Store::open(disk.env(NAME), chosen.clone()).expect("opens");
            let body = page_bytes as u64 - 56;
            let pages = LONG.div_ceil(body);
            let mut lens = vec![0, 1, LONG - 1, LONG, pages * body - 1, pages * body, pages * body + 1];
            if page_bytes == 4096 {
                let level = body * ((body - 8) / 14);
                lens.extend([level, level + 1, 2 * level + body]);
            }
            let mut tx = store.write();
            let tree = tx.tree("t").expect("a good name");
            for (key, &len) in (0_u8..).zip(&lens) {
                stream(&mut tx, tree, &[key], u64::from(key), len);
                assert_eq!(tx.value_len(tree, &[key]).expect("reads"), Some(len), "own writes are seen");
                assert_eq!(tx.get(tree, &[key]).expect("reads").expect("is there"), bytes(u64::from(key), len));
            }
            assert!(tx.bytes() < 5 + limits::STREAM_INLINE_BYTES_MAX + lens.len(), "{}", tx.bytes());
            assert_eq!(tx.range(tree, ..).map(|item| item.expect("reads").1.len() as u64).collect::<Vec<_>>(), lens);
            tx.commit().expect("commits");
            let check = |store: &Store| {
                let view = store.read();
                let tree = view.tree("t").expect("reads").expect("is there");
                for (key, &len) in (0_u8..).zip(&lens) {
                    let want = bytes(u64::from(key), len);
                    assert_eq!(view.value_len(tree, &[key]).expect("reads"), Some(len));
                    assert_eq!(read_all(&view, tree, &[key]).as_ref(), Some(&want), "{len}");
                    assert_eq!(view.get(tree, &[key]).expect("reads").as_deref(), Some(&want[..]));
                    let behind = view.read_value(tree, &[key], len + 9, &mut [0; 9]).expect("reads");
                    assert_eq!(behind, Some(0), "nothing lies behind its end");
                    let mut reader = view.value_reader(tree, &[key]).expect("reads").expect("is there");
                    for from in [len.saturating_sub(1), len / 2, 0, len, len + 9] {
                        assert_eq!(reader.seek(SeekFrom::Start(from)).expect("a good place"), from);
                        let mut part = [0; 100];
                        let n = reader.read(&mut part).expect("reads");
                        assert_eq!(n as u64, len.saturating_sub(from).min(100).min(n as u64));
                        assert!(n > 0 || from >= len);
                        assert_eq!(part[..n], want[(from.min(len)) as usize..][..n]);
                    }
                    assert_eq!(reader.seek(SeekFrom::End(0)).expect("a good place"), len);
                    assert!(reader.seek(SeekFrom::Current(-1 - len as i64)).is_err(), "before the start");
                }
            };
            check(&store);
            for survivors in Survivors::ALL {
                let after = disk.after_crash(survivors, 1);
                let store = Store::open(after.env(NAME), chosen.clone()).expect("opens");
                check(&store);
                check_space(&store);
                check(&store);
            }
            store.close().expect("closes");
            drop(store);
            let store = Store::open(disk.env(NAME), chosen.clone()).expect("opens");
            check(&store);
            check_space(&store);
        }
    }
}

/// One workload for crashes and failing disks: values are streamed, put, replaced, deleted, rolled back and dropped;
/// commits are of all kinds; checkpoints, closes and reopenings in between. It stops at the first error.
fn workload(env: Env, options: &Options, seed: u64, steps: u64) -> Run {
    let mut run = Run { states: vec![Model::new()], acknowledged: 0, finished: false };
    let mut random = Random::new(seed);
    let Ok(mut store) = Store::open(env.clone(), options.clone()) else { return run };
    for _ in 0..steps {
        let mut model = run.states.last().expect("there is a first state").clone();
        let mut tx = store.write();
        let tree = tx.tree("t").expect("a good name");
        if !change(&mut random, &mut tx, tree, model.entry("t".into()).or_default()) {
            return run;
        }
        model.retain(|_, entries| !entries.is_empty());
        if random.below(6) == 0 {
            drop(tx);
            continue;
        }
        let durability = match random.below(5) {
            0 => Durability::None,
            1 => Durability::Buffered,
            _ => Durability::Durable,
        };
        run.states.push(model);
        let Ok(info) = tx.commit_with(durability, |_| Ok(())) else { return run };
        // One that changes nothing is none, and makes none before it durable.
        if durability == Durability::Durable && info.changed {
            run.acknowledged = run.states.len() - 1;
        }
        let maintained = match random.below(8) {
            0 | 1 => store.checkpoint().is_ok(),
            2 => {
                let closed = store.close().is_ok();
                drop(store);
                match Store::open(env.clone(), options.clone()) {
                    Ok(again) => store = again,
                    Err(_) => return run,
                }
                closed
            }
            _ => continue,
        };
        if !maintained {
            return run;
        }
        run.acknowledged = run.states.len() - 1;
    }
    run.finished = store.close().is_ok();
    if run.finished {
        run.acknowledged = run.states.len() - 1;
    }
    run
}

/// Changes a transaction and the entries of a model alike. `false`: a value was not taken.
fn change(
    random: &mut Random,
    tx: &mut WriteTransaction,
    tree: TreeId,
    entries: &mut BTreeMap<Vec<u8>, Vec<u8>>,
) -> bool {
    for _ in 0..=random.below(3) {
        let key = vec![random.below(6) as u8];
        let (seed, len) = (random.next(), LONG + random.below(90_000));
        match random.below(8) {
            0 => {
                tx.delete(tree, &key).expect("a good key");
                entries.remove(&key);
            }
            1 => {
                let len = random.below(3_000);
                tx.put(tree, &key, &bytes(seed, len)).expect("room");
                entries.insert(key, bytes(seed, len));
            }
            2 => {
                let savepoint = tx.savepoint();
                let taken = tx.put_stream(tree, &key, len, &mut source(seed, len)).is_ok();
                tx.roll_back_to(savepoint);
                if !taken {
                    return false;
                }
            }
            3 => {
                // A writer that goes without an end.
                let Ok(mut writer) = tx.value_writer(tree, &key) else { return false };
                if writer.push(&bytes(seed, len)).is_err() {
                    return false;
                }
            }
            _ => {
                if tx.put_stream(tree, &key, len, &mut source(seed, len)).is_err() {
                    return false;
                }
                entries.insert(key, bytes(seed, len));
            }
        }
    }
    true
}

fn check_after(disk: &SimDisk, options: &Options, run: &Run, context: &str) {
    let store = match Store::open(disk.env(NAME), options.clone()) {
        Ok(store) => store,
        Err(e) => panic!("{context}: {e}: {:?}", std::error::Error::source(&e).map(ToString::to_string)),
    };
    run.check(&model_of(&store), context);
    let before = model_of(&store);
    check_space(&store);
    let mut after = model_of(&store);
    after.remove("mark");
    assert_eq!(after, before, "{context}: the next checkpoint changes nothing");
}

#[test]
fn random_transactions_equal_a_map_and_no_page_is_lost() {
    for (seed, chosen) in [(1, options()), (2, unencrypted()), (3, options().page_bytes(16384))] {
        let disk = SimDisk::new(seed);
        let mut random = Random::new(seed);
        let mut store = Store::open(disk.env(NAME), chosen.clone()).expect("opens");
        // The catalogue's page comes first: it is not written again, and would keep the file from being cut.
        put(&store, "t", b"first", b"").expect("commits");
        check_space(&store);
        let mut tx = store.write();
        let tree = tx.tree("t").expect("a good name");
        tx.delete(tree, b"first").expect("a good key");
        tx.commit().expect("commits");
        let mut entries = BTreeMap::new();
        let mut old: Vec<(ReadView, Model)> = Vec::new();
        let named = |entries: &BTreeMap<_, _>| {
            Model::from([("t".to_owned(), entries.clone())]).into_iter().filter(|(_, e)| !e.is_empty()).collect()
        };
        for step in 0..120 * scale() {
            let mut tx = store.write();
            let tree = tx.tree("t").expect("a good name");
            let mut next = entries.clone();
            assert!(change(&mut random, &mut tx, tree, &mut next), "there is room");
            let durability = [Durability::None, Durability::Buffered, Durability::Durable][step as usize % 3];
            if random.below(5) > 0 {
                tx.commit_with(durability, |_| Ok(())).expect("nobody else writes");
                entries = next;
            } else {
                drop(tx);
            }
            match random.below(12) {
                0 => check_space(&store),
                1 | 2 => store.checkpoint().expect("checkpoints"),
                3 => {
                    old.clear();
                    store.close().expect("closes");
                    store = Store::open(disk.env(NAME), chosen.clone()).expect("opens");
                }
                4 => {
                    old.clear();
                    drop(store);
                    store = Store::open(disk.env(NAME), chosen.clone()).expect("opens");
                }
                5 | 6 => old.push((store.read(), named(&entries))),
                _ => {}
            }
            if old.len() > 3 {
                let (view, then) = old.swap_remove(random.below(4) as usize);
                let mut seen = content(&view);
                seen.remove("mark");
                assert_eq!(seen, then, "seed {seed} step {step}: an old view");
            }
            let mut seen = model_of(&store);
            seen.remove("mark");
            assert_eq!(seen, named(&entries), "seed {seed} step {step}");
        }
        old.clear();
        let mut tx = store.write();
        let tree = tx.tree("t").expect("a good name");
        (0..6_u8).for_each(|key| tx.delete(tree, &[key]).expect("a good key"));
        tx.commit().expect("commits");
        (0..3).for_each(|_| check_space(&store));
        let report = store.verify(&mut |_| {}).expect("pages and space agree");
        assert!(report.pages < 12, "{} pages for nothing", report.pages);
        store.close().expect("closes");
        let len = disk.read_file(NAME).expect("is there").len() as u64;
        // What the last checkpoints wrote lies behind what was held when they did.
        assert!(len <= 1 << 20, "a clean close cuts the file: {len}");
    }
}

/// spec: E-40
#[test]
fn every_crash_point_keeps_what_was_acknowledged_and_loses_no_page() {
    let mut points = 0;
    for (seed, chosen) in [(1, options()), (2, unencrypted())] {
        let whole = SimDisk::new(seed);
        let run = workload(whole.env(NAME), &chosen, seed, 9 * scale());
        assert!(run.finished, "without a crash the workload ends");
        // The first points are those of a new file, which others crash at.
        for point in 8..whole.changes() {
            let disk = SimDisk::new(seed);
            disk.crash_at(point);
            let run = workload(disk.env(NAME), &chosen, seed, 9 * scale());
            assert!(disk.is_dead() && !run.finished, "the crash comes");
            for survivors in Survivors::ALL {
                let after = disk.after_crash(survivors, point);
                check_after(&after, &chosen, &run, &format!("seed {seed} point {point} {survivors:?}"));
            }
            points += 1;
        }
    }
    assert!(points > 60, "{points} crash points");
}

#[test]
fn an_error_at_every_write_and_sync() {
    let mut failed = 0;
    for (kind, error) in [
        (CallKind::Write, io::ErrorKind::StorageFull),
        (CallKind::Write, io::ErrorKind::Other),
        (CallKind::Sync, io::ErrorKind::Other),
    ] {
        for nth in 6..400 {
            let disk = SimDisk::new(3);
            disk.fail(Fault { kind, nth, error, for_ever: false });
            let run = workload(disk.env(NAME), &options(), 3, 9);
            let is_over = disk.calls(kind) <= nth;
            disk.heal();
            if is_over {
                break;
            }
            failed += u32::from(!run.finished);
            for (name, disk) in [("reopened", disk.copy()), ("crashed", disk.after_crash(Survivors::None, nth))] {
                check_after(&disk, &options(), &run, &format!("{kind:?} {error} {nth} {name}"));
            }
        }
    }
    assert!(failed > 40, "{failed} failures");
}

/// No room: the value is refused with its own error, its pages are free again, and the store goes on in the same open.
#[test]
fn a_full_disk_in_the_midst_of_a_value() {
    let disk = SimDisk::new(4);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    put_long(&store, b"kept", 1, 300_000);
    let used: u64 = disk.names().iter().map(|name| disk.read_file(name).expect("is there").len() as u64).sum();
    let tree = store.tree("t").expect("a good name");
    for room in (0..1_000_000).step_by(90_000) {
        disk.set_capacity(Some(used + room));
        let mut tx = store.write();
        let error = tx.put_stream(tree, b"long", 3_000_000, &mut source(2, 3_000_000)).expect_err("there is no room");
        assert!(matches!(error, StreamError::DiskFull { .. }) && error.to_string().contains("room"), "{error}");
        assert_eq!(tx.get(tree, b"long").expect("reads"), None);
        let mut writer = tx.value_writer(tree, b"long").expect("a good key");
        let error = writer.write_all(&bytes(2, 3_000_000)).expect_err("there is no room");
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<StreamError>());
        assert!(error.kind() == io::ErrorKind::StorageFull && matches!(inner, Some(StreamError::DiskFull { .. })));
        assert!(matches!(writer.push(b"more"), Err(StreamError::Abandoned)));
        assert!(matches!(writer.finish(), Err(StreamError::Abandoned)));
        tx.put(tree, b"short", b"v").expect("the transaction is as it was");
        tx.commit().expect("the log has room");
    }
    disk.set_capacity(None);
    put_long(&store, b"long", 2, 3_000_000);
    check_space(&store);
    assert_eq!(get(&store, "t", b"long"), Some(bytes(2, 3_000_000)));
    assert_eq!(get(&store, "t", b"kept"), Some(bytes(1, 300_000)));
}

/// A checkpoint that is tried again adopts and releases each value once, superseded ones as well.
#[test]
fn a_checkpoint_with_long_values_that_fails_and_is_tried_again() {
    let disk = SimDisk::new(5);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    put_long(&store, b"in pages", 1, 100_000);
    check_space(&store);
    put_long(&store, b"in pages", 2, 110_000);
    put_long(&store, b"twice", 3, 120_000);
    let view = store.read();
    put_long(&store, b"twice", 4, 130_000);
    put_long(&store, b"gone", 5, 140_000);
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    tx.delete(tree, b"gone").expect("a good key");
    (0..40_u8).for_each(|n| tx.put(tree, &[n], &[n; 2000]).expect("room"));
    tx.commit().expect("commits");
    let used: u64 = disk.names().iter().map(|name| disk.read_file(name).expect("is there").len() as u64).sum();
    for room in [0, 10_000, 50_000] {
        disk.set_capacity(Some(used + room));
        assert!(matches!(store.checkpoint(), Err(MaintainError::DiskFull { .. })));
        assert_eq!(read_all(&view, tree, b"twice"), Some(bytes(3, 120_000)));
    }
    disk.set_capacity(None);
    // What comes while the frozen table waits is of the next checkpoint.
    put_long(&store, b"twice", 6, 150_000);
    put_long(&store, b"later", 7, 160_000);
    for _ in 0..3 {
        check_space(&store);
        assert_eq!(read_all(&view, tree, b"twice"), Some(bytes(3, 120_000)), "a view's value stays");
        assert_eq!(read_all(&view, tree, b"in pages"), Some(bytes(2, 110_000)));
    }
    let before = store.stats().held_bytes;
    drop(view);
    (0..3).for_each(|_| check_space(&store));
    assert!(store.stats().held_bytes + 120_000 < before, "and is free when the view has gone");
    assert_eq!(get(&store, "t", b"twice"), Some(bytes(6, 150_000)));
    let live = store.verify(&mut |_| {}).expect("pages and space agree").bytes;
    assert!((520_000..640_000).contains(&live), "{live} bytes for three long values and forty short ones");
}

#[test]
fn what_is_refused_and_what_a_source_may_do() {
    struct Fails(Source);
    impl Read for Fails {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            match self.0.read(&mut out[..7_777])? {
                0 => Err(io::Error::other("the source is gone")),
                n => Ok(n),
            }
        }
    }
    let store = open(&SimDisk::new(6));
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    let failed = tx.put_stream(tree, b"k", 400_000, &mut Fails(source(1, 300_000)));
    assert!(matches!(failed, Err(StreamError::Source(e)) if e.to_string() == "the source is gone"));
    let short = tx.put_stream(tree, b"k", 400_000, &mut source(1, 399_999));
    assert!(matches!(short, Err(StreamError::SourceEnded { expected: 400_000, given: 399_999 })));
    let too_long = limits::STORED_VALUE_BYTES_MAX + 1;
    let refused = tx.put_stream(tree, b"k", too_long, &mut source(1, too_long));
    assert!(matches!(refused, Err(StreamError::ValueTooLong { given }) if given == too_long));
    let key = [0; limits::KEY_BYTES_MAX + 1];
    let refused = tx.put_stream(tree, &key, 1, &mut source(1, 1));
    assert!(matches!(refused, Err(StreamError::Write(WriteError::KeyTooLong { .. }))));
    assert_eq!(tx.value_len(tree, b"k").expect("reads"), None);
    let mut longer = source(1, 500_000);
    tx.put_stream(tree, b"k", 400_000, &mut longer).expect("takes as many bytes as it says");
    assert_eq!(longer.at, 400_000);
    let mut part = vec![0; 1000];
    assert_eq!(tx.read_value(tree, b"k", 399_500, &mut part).expect("reads"), Some(500));
    assert_eq!(part[..500], bytes(1, 400_000)[399_500..]);
    tx.delete(tree, b"k").expect("a good key");
    assert_eq!(tx.read_value(tree, b"k", 0, &mut part).expect("reads"), None);
    drop(tx);
    let other = Store::open(Env::memory(9), Options::unencrypted()).expect("opens");
    let unknown = other.write().put_stream(tree, b"k", 1, &mut source(1, 1));
    assert!(matches!(unknown, Err(StreamError::Write(WriteError::UnknownTree(_)))));
    check_space(&store);
}

/// Whatever keeps a transaction from committing, its pages are free at once: the next value lies in the same ones.
#[test]
fn pages_come_back_from_transactions_that_do_not_commit() {
    let disk = SimDisk::new(7);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    put(&store, "t", b"k", b"v").expect("commits");
    let tree = store.tree("t").expect("a good name");
    let mut lens = Vec::new();
    for round in 0..6_u64 {
        let mut tx = store.write();
        let savepoint = tx.savepoint();
        stream(&mut tx, tree, b"k", round, 1_000_000);
        match round {
            0 => drop(tx),
            1 => {
                tx.roll_back_to(savepoint);
                tx.commit().expect("nothing to commit");
            }
            2 => {
                put(&store, "t", b"k", b"first").expect("commits");
                assert!(matches!(tx.commit(), Err(CommitError::Conflict { .. })));
            }
            3 => {
                let refused = tx.commit_with(Durability::Durable, |_| Err("not today".into()));
                assert!(matches!(refused, Err(CommitError::Hook(_))));
            }
            4 => {
                // Without a savepoint in its way, the first value goes when the second comes.
                drop(tx);
                let mut tx = store.write();
                (0..5).for_each(|n| stream(&mut tx, tree, b"k", n, 1_000_000));
            }
            _ => {
                // A hook that replaces the value.
                tx.commit_with(Durability::Durable, |serial| {
                    assert_eq!(serial.get(tree, b"k")?.map(|v| v.len()), Some(1_000_000));
                    serial.put(tree, b"k", b"hook")?;
                    Ok(())
                })
                .expect("commits");
            }
        }
        lens.push(disk.read_file(NAME).expect("is there").len());
    }
    assert!(lens[5] <= lens[0] + 1_200_000, "two values at most were there at a time: {lens:?}");
    check_space(&store);
    assert_eq!(get(&store, "t", b"k"), Some(b"hook".to_vec()));
    store.close().expect("closes");
    assert!(disk.read_file(NAME).expect("is there").len() < 700_000, "a clean close cuts the file");
}

/// Disk full in the log: the group fails, and its values' pages are free again.
#[test]
fn pages_come_back_from_a_group_that_found_no_room() {
    let disk = SimDisk::new(8);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    put_long(&store, b"k", 1, 200_000);
    let tree = store.tree("t").expect("a good name");
    let mut full = 0;
    let used = || -> u64 { disk.names().iter().map(|n| disk.read_file(n).expect("is there").len() as u64).sum() };
    for n in 0..40_u64 {
        let mut tx = store.write();
        stream(&mut tx, tree, b"k", 2 + n, 200_000);
        tx.put(tree, b"filler", &vec![7; 60_000]).expect("room");
        disk.set_capacity(Some(used()));
        match tx.commit() {
            Ok(_) => {}
            Err(CommitError::DiskFull { .. }) => full += 1,
            Err(e) => panic!("{e}"),
        }
        disk.set_capacity(None);
    }
    assert!(full > 2, "{full} groups found no room");
    (0..2).for_each(|_| check_space(&store));
    assert_eq!(get(&store, "t", b"k").map(|v| v.len()), Some(200_000));
    let live = store.verify(&mut |_| {}).expect("pages and space agree").bytes;
    assert!(live < 350_000, "{live}");
}

/// A value is the same whether it stands in the table or in pages; long ones are the same if their pages are.
#[test]
fn conflicts_compare_values_across_the_forms_they_have() {
    let disk = SimDisk::new(9);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    let tree = store.tree("t").expect("a good name");
    put(&store, "t", b"moved", &bytes(1, 5_000)).expect("commits");
    put_long(&store, b"long", 2, 100_000);
    let begin = |range: bool, key: &[u8]| {
        let mut tx = store.write();
        tx.serializable();
        if range {
            assert!(tx.range(tree, ..).all(|item| item.is_ok()));
        } else {
            assert!(tx.get(tree, key).expect("reads").is_some());
        }
        tx.put(tree, b"mine", b"").expect("room");
        tx
    };
    for range in [false, true] {
        // From the table into pages is no change.
        let (moved, long) = (begin(range, b"moved"), begin(range, b"long"));
        put(&store, "other", b"", b"").expect("commits");
        store.checkpoint().expect("checkpoints");
        moved.commit().expect("nobody wrote there");
        if range {
            assert!(matches!(long.commit(), Err(CommitError::Conflict { key, .. }) if key == b"mine"[..]));
        } else {
            assert!(matches!(long.commit(), Err(CommitError::Conflict { .. })), "the other one wrote its key");
        }
        // Another value is one, in whatever form it is.
        for (key, before, streamed) in
            [(&b"moved"[..], 5_000, false), (b"long", 100_000, true), (b"moved", 5_000, true)]
        {
            let tx = begin(range, key);
            let mut writer = store.write();
            if streamed {
                stream(&mut writer, tree, key, 77, before + LONG);
            } else {
                writer.put(tree, key, &bytes(77, before)).expect("room");
            }
            writer.commit().expect("commits");
            store.checkpoint().expect("checkpoints");
            assert!(matches!(tx.commit(), Err(CommitError::Conflict { key: k, .. }) if k == key), "{range} {streamed}");
            let mut writer = store.write();
            stream(&mut writer, tree, key, 1, before);
            writer.delete(tree, b"mine").expect("a good key");
            writer.commit().expect("commits");
            store.checkpoint().expect("checkpoints");
        }
    }
}

#[test]
fn the_feed_and_the_cursors_know_long_values() {
    let store = open(&SimDisk::new(10));
    let feed = store.subscribe(8);
    put_long(&store, b"long", 1, 300_000);
    put(&store, "t", b"short", b"v").expect("commits");
    let Some(FeedEvent::Commit(commit)) = feed.try_recv() else { panic!("a commit is told") };
    assert_eq!((&commit.changes[0].key[..], commit.changes[0].kind), (&b"long"[..], ChangeKind::Put));
    let tree = store.tree("t").expect("a good name");
    for _ in 0..2 {
        let view = store.read();
        let mut cursor = view.range(tree, ..);
        assert!(cursor.value_reader().expect("reads").is_none(), "it stands nowhere yet");
        let misses = store.stats().cache_misses;
        assert!(cursor.advance_key().expect("reads") && cursor.key() == b"long");
        assert_eq!((cursor.value_len(), cursor.value()), (300_000, &b""[..]));
        assert!(store.stats().cache_misses <= misses + 3, "the value was not read");
        let mut reader = cursor.value_reader().expect("reads").expect("stands there");
        assert!(cursor.advance_key().expect("reads") && cursor.value() == b"v" && cursor.value_len() == 1);
        assert!(!cursor.advance_key().expect("reads") && cursor.value_len() == 0);
        drop(view);
        store.checkpoint().expect("checkpoints");
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("a reader keeps its view alive");
        assert_eq!(all, bytes(1, 300_000));
        let mut cursor = store.read().range(tree, ..);
        assert!(cursor.advance().expect("reads") && cursor.value() == all);
    }
}

#[test]
fn a_reader_ends_with_its_view() {
    let store = Store::open(SimDisk::new(11).env(NAME), options().snapshot_bytes_max(500_000)).expect("opens");
    put_long(&store, b"k", 1, 900_000);
    store.checkpoint().expect("checkpoints");
    let tree = store.tree("t").expect("a good name");
    let read = |reader: &mut blazedb_engine::ValueReader| {
        let mut all = Vec::new();
        let error = reader.read_to_end(&mut all).expect_err("its view has ended");
        error.get_ref().and_then(|e| e.downcast_ref::<ReadError>()).expect("a typed error").clone()
    };
    let mut reader = store.read().value_reader(tree, b"k").expect("reads").expect("is there");
    assert_eq!(reader.read(&mut [0; 10]).expect("reads"), 10);
    for n in 0..4 {
        put_long(&store, b"k", 2 + n, 900_000);
        store.checkpoint().expect("checkpoints");
    }
    assert!(matches!(read(&mut reader), ReadError::SnapshotTooOld { .. }));
    let mut reader = store.read().value_reader(tree, b"k").expect("reads").expect("is there");
    store.close().expect("closes");
    assert!(matches!(read(&mut reader), ReadError::Closed));
}

/// After a close the file may be another's: a value that is on its way must not be written into it.
#[test]
fn a_close_stops_values_on_their_way() {
    let disk = SimDisk::new(12);
    let store = open(&disk);
    put(&store, "t", b"k", b"v").expect("commits");
    let tree = store.tree("t").expect("a good name");
    let (mut tx, mut other) = (store.write(), store.write());
    stream(&mut other, tree, b"whole", 1, 500_000);
    let mut writer = tx.value_writer(tree, b"k").expect("a good key");
    writer.push(&bytes(1, 700_000)).expect("room");
    store.close().expect("closes");
    let changes = disk.changes();
    assert!(matches!(writer.push(&bytes(1, 700_000)), Err(StreamError::Closed)));
    assert!(matches!(other.commit(), Err(CommitError::Closed)));
    assert!(matches!(store.write().put_stream(tree, b"k", 1, &mut source(1, 1)), Err(StreamError::Closed)));
    drop(tx);
    assert_eq!(disk.changes(), changes, "nothing is written after a close");
    let store = open(&disk);
    assert_eq!(get(&store, "t", b"k"), Some(b"v".to_vec()));
    // What lies behind those values is written anew, further ahead.
    put(&store, "t", b"k", b"w").expect("commits");
    check_space(&store);
    store.close().expect("closes");
    let len = disk.read_file(NAME).expect("is there").len();
    assert!(len < 700_000, "the next close cuts what was left: {len}");
}

#[test]
fn a_read_only_store_takes_no_values() {
    let disk = SimDisk::new(13);
    let store = open(&disk);
    put_long(&store, b"k", 1, 100_000);
    let beside = Store::open(disk.env(NAME), options().read_only(true)).expect("opens");
    assert_eq!(get(&beside, "t", b"k"), Some(bytes(1, 100_000)), "it reads what only the log names");
    let tree = beside.tree("t").expect("a good name");
    assert!(matches!(beside.write().put_stream(tree, b"k", 1, &mut source(1, 1)), Err(StreamError::ReadOnly)));
}

/// Several threads stream, overwrite, abort and read, while the store's own thread writes checkpoints.
#[test]
fn streams_beside_checkpoints_and_readers() {
    for (chosen, access) in [
        (options(), PageAccess::Read),
        (unencrypted(), PageAccess::Read),
        (unencrypted(), PageAccess::Map),
        (options(), PageAccess::Map),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let env = Env::file(folder.path().join(NAME));
        let memory = Memory { cache_bytes: 256 << 10, ..crate::support::SMALL };
        let chosen = chosen.access(access).memory(memory).snapshot_bytes_max(1 << 40);
        let store = Store::open(env.clone(), chosen.clone()).expect("opens");
        let tree = store.tree("t").expect("a good name");
        std::thread::scope(|scope| {
            for thread in 0..3_u8 {
                let store = &store;
                scope.spawn(move || {
                    let mut random = Random::new(u64::from(thread));
                    for round in 0..12 * scale() {
                        let (seed, len) = (random.next() | 1, LONG + random.below(400_000));
                        let mut tx = store.write();
                        stream(&mut tx, tree, &[thread], seed, len);
                        if round % 4 == 3 {
                            continue;
                        }
                        tx.put(tree, &[thread, 0], &seed.to_le_bytes()).expect("room");
                        tx.put(tree, &[thread, 1], &len.to_le_bytes()).expect("room");
                        tx.put(tree, &[thread, 2, round as u8], &[7; 900]).expect("room");
                        tx.commit_with(Durability::Buffered, |_| Ok(())).expect("keys of its own");
                    }
                });
            }
            let store = &store;
            scope.spawn(move || {
                for _ in 0..30 * scale() {
                    let view = store.read();
                    for thread in 0..3_u8 {
                        let number = |key: &[u8]| {
                            let value = view.get(tree, key).expect("reads")?;
                            Some(u64::from_le_bytes(value[..].try_into().expect("eight bytes")))
                        };
                        let Some(seed) = number(&[thread, 0]) else { continue };
                        let len = number(&[thread, 1]).expect("of the same commit");
                        assert_eq!(
                            read_all(&view, tree, &[thread]),
                            Some(bytes(seed, len)),
                            "whole, and of its commit"
                        );
                    }
                }
            });
            scope.spawn(move || (0..20 * scale()).for_each(|_| store.checkpoint().expect("checkpoints")));
        });
        (0..3).for_each(|_| check_space(&store));
        let before = model_of(&store);
        store.close().expect("closes");
        let store = Store::open(env, chosen).expect("opens");
        assert_eq!(model_of(&store), before);
        check_space(&store);
    }
}

/// The largest transaction there can be, in pieces of a byte: what is acknowledged comes back, and what cuts take is bounded.
#[test]
fn a_value_in_millions_of_pieces_is_as_one_that_is_whole() {
    let disk = SimDisk::new(40);
    let how = options().memory(Memory::SERVER);
    let store = Store::open(disk.env(NAME), how.clone()).expect("opens");
    let value: Vec<u8> = (0..2_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761) as u8).collect();
    let pieces: Vec<&[u8]> = value.chunks(1).collect();
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    for n in 0..16_u8 {
        let len = if n < 15 { pieces.len() } else { pieces.len() - 16 };
        tx.put_pieces(tree, &[n], &pieces[..len]).expect("32 MiB are allowed");
    }
    tx.commit().expect("commits");
    put(&store, "t", b"later", b"value").expect("commits");
    let disk = disk.after_crash(Survivors::All, 1);
    let store = Store::open(disk.env(NAME), how).expect("opens");
    let view = store.read();
    let tree = view.tree("t").expect("reads").expect("it is there");
    for n in 0..15_u8 {
        assert!(view.get(tree, &[n]).expect("reads").as_deref() == Some(&value[..]), "value {n}");
    }
    assert_eq!(view.get(tree, b"later").expect("reads").as_deref(), Some(&b"value"[..]));
}
