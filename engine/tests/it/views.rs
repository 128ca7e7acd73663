//! Views across checkpoints, and what transactions promise beyond the first-committer rule.

use std::ops::Bound;

use blazedb_engine::env::{SimDisk, Survivors};
use blazedb_engine::{
    CommitError, Durability, Env, KdfCost, KeySource, MaintainError, Memory, PageAccess, ReadError, RekeyOptions,
    Store, WriteTransaction,
};

use crate::support::{Model, NAME, Random, content, model_of, open, options, put, scale, unencrypted};

fn commit(store: &Store, random: &mut Random, model: &mut Model) {
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    let entries = model.entry("t".to_owned()).or_default();
    for _ in 0..1 + random.below(6) {
        let key = random.below(400).to_be_bytes()[5..].to_vec();
        if random.below(4) == 0 {
            tx.delete(tree, &key).expect("room");
            entries.remove(&key);
        } else {
            let len = if random.below(30) == 0 { 9_000 } else { random.below(300) };
            let value = random.bytes(len);
            tx.put(tree, &key, &value).expect("room");
            entries.insert(key, value);
        }
    }
    tx.commit_with(Durability::Buffered, |_| Ok(())).expect("nobody else writes");
}

/// Views and cursors of many ages, each compared with the map of its moment, while checkpoints move them from layers to
/// layers and give the old ones pages of their own.
#[test]
fn old_views_and_cursors_stay_exact_across_checkpoints() {
    for (seed, chosen) in [(1, options()), (2, unencrypted())] {
        let disk = SimDisk::new(seed);
        let store = Store::open(disk.env(NAME), chosen.snapshot_bytes_max(1 << 30)).expect("opens");
        let mut random = Random::new(seed);
        let (mut model, mut kept) = (Model::new(), Vec::new());
        for step in 0..900 * scale() {
            commit(&store, &mut random, &mut model);
            if random.below(12) == 0 {
                let view = store.read();
                let tree = view.tree("t").expect("reads").expect("written to");
                let mut cursor = view.range(tree, ..);
                let mut ahead = model["t"].iter().map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>().into_iter();
                for _ in 0..random.below(20) {
                    let given = cursor.next().map(|item| item.expect("reads"));
                    assert_eq!(given.map(|(k, v)| (k.to_vec(), v.to_vec())), ahead.next());
                }
                kept.push((view, model.clone(), cursor, ahead));
            }
            if kept.len() > 12 {
                let at = random.below(kept.len() as u64) as usize;
                let (view, then, cursor, ahead) = kept.swap_remove(at);
                assert_eq!(content(&view), then, "seed {seed}, step {step}");
                let rest: Vec<_> = cursor.map(|item| item.expect("reads")).collect();
                assert!(rest.into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())).eq(ahead), "the cursor kept its place");
            }
        }
        let stats = store.stats();
        assert!(stats.checkpoints > 20, "{}", stats.checkpoints);
        assert!(stats.readers >= kept.len() as u64 && stats.oldest_reader.is_some());
        store.verify(&mut |_| {}).expect("pages and space agree beside old views");
        for (view, then, ..) in kept {
            assert_eq!(content(&view), then);
        }
        assert_eq!(model_of(&store), model);
        store.checkpoint().expect("checkpoints");
        store.close().expect("closes");
        let store = Store::open(disk.env(NAME), if seed == 1 { options() } else { unencrypted() }).expect("opens");
        store.verify(&mut |_| {}).expect("no page of a view was lost");
        assert_eq!(model_of(&store), model);
    }
}

#[test]
fn a_view_that_holds_too_much_ends_with_its_own_error() {
    let disk = SimDisk::new(3);
    let store = Store::open(disk.env(NAME), options().snapshot_bytes_max(128 << 10)).expect("opens");
    let mut random = Random::new(3);
    let mut model = Model::new();
    commit(&store, &mut random, &mut model);
    let old = store.read();
    let mut cursor = old.range(store.tree("t").expect("a good name"), ..);
    assert!(cursor.advance().expect("reads"));
    let commit_no = old.commit_no();
    for _ in 0..2_000 {
        commit(&store, &mut random, &mut model);
    }
    let tree = store.tree("t").expect("a good name");
    assert!(matches!(old.get(tree, b"k"), Err(ReadError::SnapshotTooOld { commit_no: n }) if n == commit_no));
    assert!(matches!(cursor.advance(), Err(ReadError::SnapshotTooOld { .. })));
    assert!(!cursor.advance().expect("a cursor ends with its error"));
    assert!(store.stats().snapshots_ended >= 1);
    assert_eq!(model_of(&store), model);
    store.verify(&mut |_| {}).expect("pages and space agree");
}

/// What one reader holds is no more than was written meanwhile, and it shows what it showed; past its budget it ends, and
/// the file stays within it.
#[test]
fn a_reader_over_a_hundred_thousand_updates_holds_what_was_written_or_ends_within_its_budget() {
    const ROWS: u32 = 20_000;
    let key = |n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes();
    let held_max = 16 << 20;
    for is_bounded in [false, true] {
        let disk = SimDisk::new(32);
        let how = if is_bounded { options().snapshot_bytes_max(held_max) } else { options() };
        let store = Store::open(disk.env(NAME), how).expect("opens");
        let tree = store.tree("t").expect("a good name");
        let mut load = store.loader();
        (0..ROWS).for_each(|n| load.put(tree, &key(n), &[n as u8; 150]).expect("room"));
        load.finish().expect("loads");
        let (shown, written) = (store.stats().page_file_bytes, disk.bytes_written());
        let view = store.read();
        let (mut random, mut most) = (Random::new(32), 0);
        for _ in 0..1_000 {
            let mut tx = store.write();
            for _ in 0..100 {
                tx.put(tree, &key(random.below(u64::from(ROWS)) as u32), &[255; 150]).expect("room");
            }
            tx.commit_with(Durability::Buffered, |_| Ok(())).expect("nobody else writes");
            most = most.max(store.stats().page_file_bytes);
        }
        if is_bounded {
            assert!(matches!(view.get(tree, &key(1)), Err(ReadError::SnapshotTooOld { .. })));
            assert!(most < held_max + 3 * shown, "{most} bytes of file, {shown} of them shown");
        } else {
            for n in 0..ROWS {
                assert_eq!(view.get(tree, &key(n)).expect("it is kept").as_deref(), Some(&[n as u8; 150][..]));
            }
            let written = disk.bytes_written() - written;
            assert!(most < 2 * shown + written, "{most} bytes of file, {shown} of them shown, {written} written");
        }
    }
}

/// Every commit has a view, and all are kept: what they are given in pages counts as held by them, is written once where
/// they have it in common, and the file stays within its bound.
#[test]
fn many_views_hold_no_more_than_they_may() {
    let disk = SimDisk::new(31);
    let memory = Memory { table_bytes: 256 << 10, ..crate::support::SMALL };
    let held_max: u64 = 4 << 20;
    let store = Store::open(disk.env(NAME), options().memory(memory).snapshot_bytes_max(held_max)).expect("opens");
    let tree = store.tree("t").expect("a good name");
    let mut views = Vec::new();
    let mut shown = 0;
    for i in 0..3_000_u32 {
        let mut tx = store.write();
        tx.put(tree, &(i % 700).to_be_bytes(), &[i as u8; 100]).expect("room");
        tx.commit_with(Durability::Buffered, |_| Ok(())).expect("nobody else writes");
        views.push((i, store.read()));
        // What the newest state takes, log and a checkpoint on top of what is held.
        let file = store.stats().page_file_bytes;
        assert!(file < held_max + (2 << 20), "the file has {file} bytes after {i} commits");
    }
    store.checkpoint().expect("checkpoints");
    for (i, view) in &views {
        match view.get(tree, &(i % 700).to_be_bytes()) {
            Ok(value) => {
                assert_eq!(value.as_deref(), Some(&[*i as u8; 100][..]));
                let next = view.get(tree, &((i + 1) % 700).to_be_bytes()).expect("the same view");
                assert_eq!(next.map(|value| value[0]), i.checked_sub(699).map(|before| before as u8));
                shown += 1;
            }
            Err(ReadError::SnapshotTooOld { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(shown > 100, "views of one root share pages: {shown} have room");
    store.verify(&mut |_| {}).expect("pages and space agree");
    drop(views);
    store.checkpoint().expect("checkpoints");
    store.close().expect("closes");
    let store = Store::open(disk.env(NAME), options()).expect("opens");
    store.verify(&mut |_| {}).expect("no page of a view was lost");
}

#[test]
fn a_closed_store_ends_its_views_and_lets_the_next_one_in() {
    let disk = SimDisk::new(4);
    let store = open(&disk);
    put(&store, "t", b"k", b"v").expect("commits");
    let view = store.read();
    store.close().expect("closes");
    let tree = store.tree("t").expect("a good name");
    assert!(matches!(view.get(tree, b"k"), Err(ReadError::Closed)));
    assert!(matches!(store.read().get(tree, b"k"), Err(ReadError::Closed)));
    assert_eq!(model_of(&open(&disk)).len(), 1);
}

/// Within a leaf a cursor goes on without a look at its view's layers: it notices all the same that they were exchanged,
/// or taken away.
#[test]
fn a_cursor_within_a_leaf_sees_that_its_view_moved_or_ended() {
    let store = open(&SimDisk::new(7));
    let tree = store.tree("t").expect("a short name");
    let value_of = |key: u8| vec![key; if key.is_multiple_of(2) { 9000 } else { 20 }];
    let mut tx = store.write();
    for key in 0..40_u8 {
        tx.put(tree, &[key], &value_of(key)).expect("it is short");
    }
    tx.commit().expect("memory does not fail");
    store.checkpoint().expect("memory does not fail");

    let view = store.read();
    let (mut cursor, mut bounded) =
        (view.range(tree, ..), view.range(tree, (Bound::Included(&[3][..]), Bound::Excluded(&[6][..]))));
    for key in 0..=30_u8 {
        assert!(cursor.advance().expect("memory does not fail"));
        assert_eq!((cursor.key(), cursor.value()), (&[key][..], &value_of(key)[..]));
        if key.is_multiple_of(7) {
            // Every page gets another place, and the old one another content.
            let new = RekeyOptions::new(KeySource::Raw([42; 32].into()), KdfCost::InsecureForTests);
            store.rekey(&new).expect("none is under way");
            store.rekey_all(&mut |_| {}).expect("memory does not fail");
            let mut tx = store.write();
            tx.put(tree, &[key + 1], &vec![0xEE; 9000]).expect("it is short");
            tx.delete(tree, &[key + 2]).expect("it is short");
            tx.commit().expect("memory does not fail");
            store.checkpoint().expect("memory does not fail");
        }
    }
    for key in 3..6_u8 {
        assert!(bounded.advance().expect("memory does not fail"));
        assert_eq!((bounded.key(), bounded.value()), (&[key][..], &value_of(key)[..]));
    }
    assert!(!bounded.advance().expect("memory does not fail"), "it ends before its bound, in the middle of a leaf");
    assert!(!bounded.advance().expect("memory does not fail"), "and stays there");

    store.close().expect("memory does not fail");
    assert!(matches!(cursor.advance(), Err(ReadError::Closed)));
    assert!(!cursor.advance().expect("it has ended"));
}

/// The conflict check reads commits from tables; what a checkpoint has moved into pages since is compared by value.
#[test]
fn conflicts_are_seen_across_a_checkpoint() {
    let disk = SimDisk::new(5);
    let store = open(&disk);
    for key in [b"a", b"b", b"c"] {
        put(&store, "t", key, b"old").expect("commits");
    }
    store.checkpoint().expect("checkpoints");
    let tree = store.tree("t").expect("a good name");
    let begin = |key: &[u8]| {
        let mut tx = store.write();
        tx.put(tree, key, b"late").expect("room");
        tx
    };
    let (moved, deleted, same, new, untouched) = (begin(b"a"), begin(b"b"), begin(b"c"), begin(b"d"), begin(b"e"));
    put(&store, "t", b"a", b"new").expect("commits");
    let mut tx = store.write();
    tx.delete(tree, b"b").expect("room");
    tx.put(tree, b"d", b"new").expect("room");
    tx.commit().expect("commits");
    put(&store, "t", b"c", b"between").expect("commits");
    put(&store, "t", b"c", b"old").expect("commits");
    store.checkpoint().expect("checkpoints");
    for (tx, key) in [(moved, b"a"), (deleted, b"b"), (new, b"d")] {
        assert!(matches!(tx.commit(), Err(CommitError::Conflict { key: k, .. }) if k[..] == key[..]));
    }
    same.commit().expect("changed and changed back is what it saw");
    untouched.commit().expect("nobody wrote there");
}

/// Write skew: two transactions read both rows and each changes the other one.
#[test]
fn serializable_refuses_what_snapshot_isolation_allows() {
    for (serializable, checkpoint) in [(false, false), (true, false), (true, true)] {
        let disk = SimDisk::new(6);
        let store = open(&disk);
        let tree = store.tree("doctors").expect("a good name");
        for key in [b"1", b"2"] {
            put(&store, "doctors", key, b"on call").expect("commits");
        }
        let begin = |mine: &[u8], other: &[u8]| {
            let mut tx = store.write();
            if serializable {
                tx.serializable();
            }
            assert_eq!(tx.get(tree, other).expect("reads").as_deref(), Some(&b"on call"[..]));
            tx.put(tree, mine, b"at home").expect("room");
            tx
        };
        let (one, two) = (begin(b"1", b"2"), begin(b"2", b"1"));
        one.commit().expect("the first committer wins");
        if checkpoint {
            store.checkpoint().expect("checkpoints");
        }
        assert_eq!(matches!(two.commit(), Err(CommitError::Conflict { .. })), serializable);
        // A phantom: a row that comes into a range which was read as empty.
        let mut reader = store.write();
        if serializable {
            reader.serializable();
        }
        let range = (Bound::Included(&b"5"[..]), Bound::Excluded(&b"7"[..]));
        assert_eq!(reader.range(tree, range).count(), 0);
        reader.put(tree, b"summary", b"none").expect("room");
        put(&store, "doctors", b"6", b"on call").expect("commits");
        if checkpoint {
            store.checkpoint().expect("checkpoints");
        }
        assert_eq!(matches!(reader.commit(), Err(CommitError::Conflict { .. })), serializable);
        // What lies outside the range is no conflict.
        let mut reader = store.write();
        reader.serializable();
        assert_eq!(reader.range(tree, range).count(), 1);
        reader.put(tree, b"summary", b"one").expect("room");
        put(&store, "doctors", b"7", b"on call").expect("commits");
        reader.commit().expect("nobody wrote in its range");
    }
}

#[test]
fn savepoints_take_back_what_came_after_them() {
    let disk = SimDisk::new(7);
    let store = open(&disk);
    put(&store, "t", b"a", b"committed").expect("commits");
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    tx.put(tree, b"b", b"before").expect("room");
    let bytes = tx.bytes();
    let first = tx.savepoint();
    tx.put(tree, b"b", b"after").expect("room");
    tx.delete(tree, b"a").expect("room");
    let second = tx.savepoint();
    tx.put(tree, b"c", b"gone").expect("room");
    tx.roll_back_to(second);
    assert_eq!(tx.get(tree, b"c").expect("reads"), None);
    assert_eq!(tx.get(tree, b"a").expect("reads"), None, "what came before it stays");
    tx.roll_back_to(first);
    assert_eq!(tx.get(tree, b"a").expect("reads").as_deref(), Some(&b"committed"[..]));
    assert_eq!(tx.get(tree, b"b").expect("reads").as_deref(), Some(&b"before"[..]));
    assert_eq!(tx.bytes(), bytes);
    tx.roll_back_to(second);
    tx.commit().expect("commits");
    assert_eq!(model_of(&store)["t"].len(), 2);
}

/// A savepoint that is gone never keeps what came after the one that took it away.
#[test]
fn going_back_to_a_savepoint_that_is_gone_is_going_back_to_the_one_before_it() {
    let store = open(&SimDisk::new(7));
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    let count = |tx: &WriteTransaction| tx.range(tree, ..).count();
    let write = |tx: &mut WriteTransaction, keys: std::ops::Range<u8>| {
        keys.for_each(|key| tx.put(tree, &[key], b"v").expect("room"));
    };
    write(&mut tx, 0..1);
    let first = tx.savepoint();
    write(&mut tx, 1..6);
    let second = tx.savepoint();
    assert_eq!(tx.savepoint(), second, "nothing has happened in between");
    tx.roll_back_to(first);
    write(&mut tx, 10..20);
    tx.roll_back_to(second);
    assert_eq!(count(&tx), 1, "none of the ten stays");
    // A later one goes with it, and one that was made before stays good.
    write(&mut tx, 20..23);
    let third = tx.savepoint();
    write(&mut tx, 23..30);
    tx.roll_back_to(third);
    assert_eq!(count(&tx), 4);
    tx.roll_back_to(second);
    assert_eq!(count(&tx), 1);
    tx.roll_back_to(third);
    assert_eq!(count(&tx), 1);
    tx.commit().expect("commits");
    assert_eq!(model_of(&store)["t"].len(), 1);
}

/// More reads than are told apart: what was read conflicts all the same, what is far from it does not.
#[test]
fn a_serializable_transaction_reads_any_number_of_keys_in_bounded_memory() {
    let store = open(&SimDisk::new(9));
    let tree = store.tree("t").expect("a good name");
    put(&store, "t", b"z", b"far away").expect("commits");
    let key = |n: u32| [b"row", &n.to_be_bytes()[..]].concat();
    for (written, conflicts) in [(key(0), true), (key(77_777), true), (key(149_999), true), (b"z".to_vec(), false)] {
        let mut tx = store.write();
        tx.serializable();
        for n in 0..150_000 {
            assert_eq!(tx.get(tree, &key(n)).expect("reads"), None);
        }
        tx.put(tree, b"summary", b"none").expect("room");
        put(&store, "t", &written, b"new").expect("commits");
        assert_eq!(matches!(tx.commit(), Err(CommitError::Conflict { .. })), conflicts, "{written:?}");
        let mut tx = store.write();
        tx.delete(tree, &written).expect("a good key");
        tx.commit().expect("commits");
    }
}

/// spec: E-16
#[test]
fn commits_without_durability_are_seen_at_once_and_survive_a_flush() {
    let disk = SimDisk::new(8);
    let store = open(&disk);
    put(&store, "t", b"durable", b"v").expect("commits");
    let unwritten = |key: &[u8]| {
        let mut tx = store.write();
        let tree = tx.tree("t").expect("a good name");
        tx.put(tree, key, b"v").expect("room");
        tx.commit_with(Durability::None, |_| Ok(())).expect("commits");
    };
    unwritten(b"first");
    let writes = disk.changes();
    (1..50_u8).for_each(|n| unwritten(&[n]));
    assert_eq!(disk.changes(), writes, "nothing is written for them");
    assert_eq!(model_of(&store)["t"].len(), 51, "and all are seen");
    let lost = open(&disk.after_crash(Survivors::All, 1));
    assert_eq!(model_of(&lost)["t"].len(), 1, "a crash takes them");
    store.flush().expect("flushes");
    let kept = open(&disk.after_crash(Survivors::None, 1));
    assert_eq!(model_of(&kept)["t"].len(), 51, "a flush keeps them");
    unwritten(b"later");
    put(&store, "t", b"durable too", b"v").expect("commits");
    let kept = open(&disk.after_crash(Survivors::None, 1));
    assert_eq!(model_of(&kept)["t"].len(), 53, "and so does a durable commit behind them");
    unwritten(b"last");
    store.checkpoint().expect("checkpoints");
    unwritten(b"very last");
    store.close().expect("closes");
    assert_eq!(model_of(&open(&disk))["t"].len(), 55);
}

#[test]
fn long_values_are_read_whole_and_in_parts() {
    for access in [PageAccess::Auto, PageAccess::Map, PageAccess::Read] {
        for chosen in [options(), unencrypted()] {
            let folder = tempfile::tempdir().expect("a folder");
            let env = Env::file(folder.path().join(NAME));
            let store = Store::open(env, chosen.access(access).page_bytes(8192)).expect("opens");
            let long: Vec<u8> = (0..1_500_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            put(&store, "t", b"long", &long).expect("commits");
            put(&store, "t", b"short", b"0123456789").expect("commits");
            let tree = store.tree("t").expect("a good name");
            for _ in 0..2 {
                let view = store.read();
                assert_eq!(view.get(tree, b"long").expect("reads").as_deref(), Some(&long[..]));
                assert_eq!(view.get_with(tree, b"long", |v| v == long).expect("reads"), Some(true));
                assert_eq!(view.get_with(tree, b"none", |_| ()).expect("reads"), None);
                assert_eq!(view.value_len(tree, b"long").expect("reads"), Some(1_500_000));
                let mut part = vec![0; 70_000];
                for at in [0, 1, 8_191, 777_777, 1_430_000] {
                    assert_eq!(view.read_value(tree, b"long", at, &mut part).expect("reads"), Some(70_000));
                    assert_eq!(part, long[at as usize..][..70_000]);
                }
                assert_eq!(view.read_value(tree, b"long", 1_499_990, &mut part).expect("reads"), Some(10));
                assert_eq!(view.read_value(tree, b"short", 4, &mut part).expect("reads"), Some(6));
                assert_eq!(part[..6], *b"456789");
                assert_eq!(view.read_value(tree, b"short", 40, &mut part).expect("reads"), Some(0));
                let mut cursor = view.range(tree, ..);
                assert!(cursor.advance().expect("reads") && cursor.key() == b"long" && cursor.value() == long);
                assert!(cursor.advance().expect("reads") && cursor.value() == b"0123456789");
                assert!(!cursor.advance().expect("reads") && cursor.key().is_empty());
                store.checkpoint().expect("checkpoints");
            }
            let mut tx = store.write();
            tx.delete(tree, b"long").expect("room");
            tx.commit().expect("commits");
            store.checkpoint().expect("checkpoints");
            let report = store.verify(&mut |_| {}).expect("the long value's pages are free again");
            assert!(report.pages < 20, "{}", report.pages);
        }
    }
}

/// The sums that presets promise are in const asserts; here is what a store takes that was used for a while.
#[test]
fn a_scan_of_more_than_the_cache_stays_inside_it() {
    let disk = SimDisk::new(9);
    let memory = Memory { cache_bytes: 128 << 10, table_bytes: 64 << 10, log_bytes: 1 << 20 };
    let store = Store::open(disk.env(NAME), options().memory(memory)).expect("opens");
    let mut random = Random::new(9);
    for _ in 0..40 {
        let mut tx = store.write();
        let tree = tx.tree("t").expect("a good name");
        for _ in 0..100 {
            tx.put(tree, &random.bytes(16), &random.bytes(150)).expect("room");
        }
        tx.commit().expect("commits");
    }
    let tree = store.tree("t").expect("a good name");
    assert_eq!(store.read().range(tree, ..).filter(Result::is_ok).count(), 4_000);
    let stats = store.stats();
    assert!(stats.cache_bytes <= 128 << 10 && stats.cache_misses > 100, "{stats:?}");
    assert!(stats.table_bytes <= 3 * (64 << 10), "{stats:?}");
}

/// A piece that begins behind a value's end is empty, wherever the value lies.
#[test]
fn a_piece_behind_the_end_of_a_value_is_empty() {
    let store = open(&SimDisk::new(31));
    let tree = store.tree("t").expect("a good name");
    put(&store, "t", b"inline", &[1; 10]).expect("commits");
    put(&store, "t", b"stored", &[1; 20_000]).expect("commits");
    store.checkpoint().expect("checkpoints");
    let view = store.read();
    for (key, len) in [(b"inline", 10), (b"stored", 20_000)] {
        let piece = |offset| view.read_value(tree, key, offset, &mut [0; 8]).expect("reads");
        let ends = [len - 3, len, len + 1, u64::MAX].map(piece);
        assert_eq!(ends, [Some(3), Some(0), Some(0), Some(0)]);
    }
}

/// A checkpoint moves a long value from a table into pages of its own; to who has read the range, nothing happened.
#[test]
fn a_long_value_that_a_checkpoint_moved_is_no_conflict() {
    let store = open(&SimDisk::new(32));
    let tree = store.tree("t").expect("a good name");
    put(&store, "t", b"long", &[1; 9_000]).expect("commits");
    let reader = || {
        let mut tx = store.write();
        tx.serializable();
        assert_eq!(tx.range(tree, ..).count(), 1);
        tx.put(store.tree("other").expect("a good name"), b"k", b"v").expect("a good value");
        tx
    };
    let unharmed = reader();
    store.checkpoint().expect("checkpoints");
    put(&store, "third", b"k", b"v").expect("commits");
    unharmed.commit().expect("nobody wrote what was read");
    let mut other = store.write();
    other.put(tree, b"long", &[2; 9_000]).expect("a good value");
    let harmed = reader();
    other.commit().expect("commits");
    store.checkpoint().expect("checkpoints");
    assert!(matches!(harmed.commit(), Err(CommitError::Conflict { .. })));
}

/// A check of the file beside checkpoints: the pages that it reads are not used again meanwhile, however often the state
/// that it began with is left behind, and the file's end is not cut off under its map. It said that a sound file was damaged.
#[test]
fn a_check_keeps_the_pages_that_it_reads() {
    const ROWS: u32 = 40_000;
    let folder = tempfile::tempdir().expect("a folder");
    for (n, chosen) in [options(), unencrypted()].into_iter().enumerate() {
        let disk = SimDisk::new(1);
        for env in [disk.env(NAME), Env::file(folder.path().join(n.to_string()))] {
            let store = Store::open(Env { threads: false, ..env }, chosen.clone()).expect("opens");
            let tree = store.tree("t").expect("a good name");
            let mut loader = store.loader();
            (0..ROWS).for_each(|n| loader.put(tree, &n.to_be_bytes(), &[7; 150]).expect("room"));
            loader.finish().expect("loads");
            // Not in pages yet: whoever had a view now would be moved to the next checkpoint's root.
            put(&store, "u", b"k", b"v").expect("commits");
            let mut round = 0;
            let report = store.verify(&mut |_| {
                round += 1;
                if round < 5 {
                    put(&store, "t", &[round; 5], &[round; 100]).expect("commits");
                    store.checkpoint().expect("checkpoints");
                }
                if round == 5 {
                    for from in (0..ROWS).step_by(300) {
                        let mut tx = store.write();
                        (from..ROWS.min(from + 299)).for_each(|n| tx.delete(tree, &n.to_be_bytes()).expect("room"));
                        tx.commit().expect("commits");
                    }
                    store.vacuum(0, &mut |_| {}).expect("vacuums");
                }
            });
            assert_eq!(report.expect("the file is sound").entries, u64::from(ROWS));
            assert!(round > 5, "{round} looks at the progress");
            store.vacuum(0, &mut |_| {}).expect("vacuums");
            let now = store.verify(&mut |_| {}).expect("and so it is now");
            assert!(now.pages < 200, "what was checked is held no longer: {now:?}");
            // A vacuum makes new roots of the same commit.
            let mut tx = store.write();
            (0..ROWS / 4).for_each(|n| tx.put(tree, &n.to_be_bytes(), &[8; 150]).expect("room"));
            tx.commit().expect("commits");
            let mut round = 0;
            let report = store.verify(&mut |_| {
                round += 1;
                if round == 1 {
                    store.vacuum(0, &mut |_| {}).expect("vacuums");
                    put(&store, "t", b"other", b"v").expect("commits");
                    (0..3).for_each(|_| store.checkpoint().expect("checkpoints"));
                }
            });
            assert!(report.expect("the file is sound").entries > u64::from(ROWS / 4));
        }
    }
}

/// One that holds more of the file than it may is told so, and not that the file is damaged.
#[test]
fn a_check_that_holds_too_much_ends_with_its_own_error() {
    for chosen in [options(), unencrypted()] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), chosen.snapshot_bytes_max(400_000)).expect("opens");
        let tree = store.tree("t").expect("a good name");
        let mut loader = store.loader();
        (0..20_000_u32).for_each(|n| loader.put(tree, &n.to_be_bytes(), &[7; 150]).expect("room"));
        loader.finish().expect("loads");
        let mut round = 0_u8;
        let ended = store.verify(&mut |_| {
            round += 1;
            for from in (0..20_000_u32).step_by(5000) {
                let mut tx = store.write();
                (from..from + 5000)
                    .step_by(20)
                    .for_each(|n| tx.put(tree, &n.to_be_bytes(), &[round; 150]).expect("room"));
                tx.commit().expect("commits");
                store.checkpoint().expect("checkpoints");
            }
        });
        assert!(matches!(ended, Err(MaintainError::SnapshotTooOld { .. })), "{ended:?}");
        store.verify(&mut |_| {}).expect("the file is sound");
    }
}
