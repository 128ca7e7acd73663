//! The store against a map: random transactions, reopened now and then; cursors from both ends; snapshots.

use std::ops::Bound;

use blazedb_engine::env::{CallKind, SimDisk};
use blazedb_engine::{
    CommitError, Durability, Env, FeedEvent, HookError, Options, Store, WriteError, limits, log_file_names,
};

use crate::support::{Model, NAME, Random, SMALL, content, get, model_of, open, owned, put, random_changes, roomy};

#[test]
fn random_transactions_equal_a_map() {
    for seed in 1..=4 {
        let disk = SimDisk::new(seed);
        let mut random = Random::new(seed);
        let mut model = Model::new();
        let mut store = open(&disk);
        for step in 0..600 {
            let mut tx = store.write();
            let mut next = model.clone();
            random_changes(&mut random, &mut tx, &mut next);
            for (name, entries) in &next {
                let tree = tx.tree(name).expect("a good name");
                let seen: Vec<_> = tx.range(tree, ..).map(owned).collect();
                assert_eq!(seen, entries.clone().into_iter().collect::<Vec<_>>(), "own writes are seen in order");
            }
            if random.below(10) == 0 {
                drop(tx);
            } else {
                tx.commit().expect("nobody else writes");
                model = next;
            }
            match random.below(40) {
                0 => store.checkpoint().expect("checkpoints"),
                1 => {
                    store.close().expect("closes");
                    drop(store);
                    store = open(&disk);
                }
                2 => {
                    drop(store);
                    store = open(&disk);
                }
                _ => {}
            }
            if step % 20 == 0 {
                assert_eq!(model_of(&store), model, "seed {seed} step {step}");
                store.verify(&mut |_| {}).expect("pages and space agree");
            }
        }
        assert_eq!(model_of(&store), model);
    }
}

#[test]
fn cursors_from_both_ends_equal_a_map() {
    let store = open(&SimDisk::new(1));
    let mut random = Random::new(99);
    let mut model = std::collections::BTreeMap::new();
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    for _ in 0..1500 {
        let key = random.below(4000).to_be_bytes()[6..].to_vec();
        tx.put(tree, &key, b"base").expect("a good value");
        model.insert(key, b"base".to_vec());
    }
    tx.commit().expect("commits");
    let mut tx = store.write();
    let base = model.clone();
    for _ in 0..700 {
        let key = random.below(4000).to_be_bytes()[6..].to_vec();
        if random.below(2) == 0 {
            tx.put(tree, &key, b"own").expect("a good value");
            model.insert(key, b"own".to_vec());
        } else {
            tx.delete(tree, &key).expect("a good key");
            model.remove(&key);
        }
    }
    let view = store.read();
    for round in 0..400 {
        let ends = [random.below(4200).to_be_bytes()[6..].to_vec(), random.below(4200).to_be_bytes()[6..].to_vec()];
        let mut bound = |key| match random.below(3) {
            0 => Bound::Included(key),
            1 => Bound::Excluded(key),
            _ => Bound::Unbounded,
        };
        let (lower, upper) = (bound(&ends[0][..]), bound(&ends[1][..]));
        let inside = |key: &[u8]| std::ops::RangeBounds::<[u8]>::contains(&(lower, upper), key);
        let mut want: std::collections::VecDeque<_> = model.iter().filter(|(k, _)| inside(k)).collect();
        let mut want_base: std::collections::VecDeque<_> = base.iter().filter(|(k, _)| inside(k)).collect();
        let (mut got, mut got_base) = (tx.range(tree, (lower, upper)), view.range(tree, (lower, upper)));
        for step in 0.. {
            let back = random.below(3) == 0;
            let (a, b) = if back { (got.next_back(), want.pop_back()) } else { (got.next(), want.pop_front()) };
            let (c, d) = if back {
                (got_base.next_back(), want_base.pop_back())
            } else {
                (got_base.next(), want_base.pop_front())
            };
            let (a, c) = (a.map(owned), c.map(owned));
            assert_eq!(a, b.map(|(k, v)| (k.clone(), v.clone())), "round {round} step {step}");
            assert_eq!(c, d.map(|(k, v)| (k.clone(), v.clone())), "round {round} step {step}");
            if a.is_none() && c.is_none() {
                break;
            }
        }
    }
    let prefixed: Vec<_> = view.prefix(tree, &[0x0a]).map(|item| owned(item).0).collect();
    assert_eq!(prefixed, base.keys().filter(|k| k[0] == 0x0a).cloned().collect::<Vec<_>>());
    assert!(!prefixed.is_empty());
}

#[test]
fn a_view_stays_as_it_was() {
    let store = open(&SimDisk::new(2));
    put(&store, "t", b"a", b"1").expect("commits");
    let before = store.read();
    let want = content(&before);
    for n in 0..200_u32 {
        put(&store, "t", &n.to_be_bytes(), b"x").expect("commits");
    }
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    tx.delete(tree, b"a").expect("a good key");
    tx.commit().expect("commits");
    assert_eq!(content(&before), want);
    assert_eq!(before.tree("later").expect("the catalogue reads"), None);
    assert!(get(&store, "t", b"a").is_none());
    assert!(store.stats().oldest_reader == Some(before.commit_no()) && store.stats().readers == 1);
}

#[test]
fn the_second_writer_of_a_key_conflicts() {
    let store = open(&SimDisk::new(3));
    put(&store, "t", b"k", b"0").expect("commits");
    let t = store.tree("t").expect("a good name");
    let check = |first: &[u8], second: &[u8], read: Option<&[u8]>, conflict: bool| {
        let (mut one, mut two) = (store.write(), store.write());
        one.put(t, first, b"1").expect("a good value");
        two.put(t, second, b"2").expect("a good value");
        if let Some(key) = read {
            two.read_checked(t, key).expect("a good tree");
        }
        one.commit().expect("first committer wins");
        match two.commit() {
            Err(CommitError::Conflict { tree, key }) => {
                assert!(conflict, "no conflict was due");
                assert_eq!((tree, &key[..]), (t, first));
            }
            other => assert!(!conflict && other.is_ok(), "{other:?}"),
        }
    };
    check(b"k", b"k", None, true);
    check(b"k", b"other", None, false);
    check(b"new", b"new", None, true);
    check(b"k", b"other", Some(b"k"), true);
    check(b"k", b"other", Some(b"third"), false);
    // A delete in between is a conflict, too.
    let (mut one, mut two) = (store.write(), store.write());
    one.delete(t, b"k").expect("a good key");
    two.put(t, b"k", b"lost").expect("a good value");
    one.commit().expect("first committer wins");
    assert!(matches!(two.commit(), Err(CommitError::Conflict { .. })));
    assert_eq!(get(&store, "t", b"k"), None);
}

#[test]
fn the_hook_sees_the_newest_state_and_may_refuse() {
    let store = open(&SimDisk::new(4));
    let t = store.tree("t").expect("a good name");
    let counter = store.tree("counter").expect("a good name");
    let bump = |key: &[u8]| {
        let mut tx = store.write();
        tx.put(t, key, b"v").expect("a good value");
        (tx, |serial: &mut blazedb_engine::Serial<'_>| -> Result<(), HookError> {
            let now = serial.get(counter, b"n")?.map_or(0, |v| v[0]);
            serial.put(counter, b"n", &[now + 1])?;
            Ok(())
        })
    };
    // Both began before either committed: the counter is exempt from the conflict check.
    let ((one, hook_one), (two, hook_two)) = (bump(b"a"), bump(b"b"));
    one.commit_with(Durability::Durable, hook_one).expect("commits");
    two.commit_with(Durability::Durable, hook_two).expect("commits");
    assert_eq!(get(&store, "counter", b"n"), Some(vec![2]));
    let before = (model_of(&store), store.stats());
    let (three, _) = bump(b"c");
    let refused = three.commit_with(Durability::Durable, |serial| {
        serial.put(counter, b"n", &[99])?;
        Err(HookError::new("not today"))
    });
    let Err(CommitError::Hook(e)) = refused else { panic!("{refused:?}") };
    assert_eq!(e.into_inner().to_string(), "not today");
    assert_eq!((model_of(&store), store.stats()), before, "a refused transaction leaves no trace");
    put(&store, "t", b"d", b"v").expect("the store goes on");
}

/// Ten times what the table may hold goes in, and memory stays within its budget.
#[test]
fn tables_and_cache_stay_within_their_budget() {
    let disk = SimDisk::new(5);
    let store = open(&disk);
    for n in 0..600_u32 {
        put(&store, "t", &n.to_be_bytes(), &[n as u8; 400]).expect("commits");
        let stats = store.stats();
        assert!(stats.table_bytes <= 2 * SMALL.table_bytes as u64 + 8192, "{stats:?}");
        assert!(stats.cache_bytes <= SMALL.cache_bytes as u64, "{stats:?}");
    }
    let stats = store.stats();
    assert!(stats.checkpoints > 5 && stats.log_file_bytes <= 3 * (SMALL.log_bytes + (256 << 10)), "{stats:?}");
    store.close().expect("closes");
    drop(store);
    let store = open(&disk);
    assert_eq!((store.stats().table_bytes < 8192, store.stats().entries), (true, 600));
    assert!((0..600_u32).all(|n| get(&store, "t", &n.to_be_bytes()) == Some(vec![n as u8; 400])));
}

#[test]
fn limits_hold_exactly() {
    let store = open(&SimDisk::new(6));
    let mut tx = store.write();
    let t = tx.tree("t").expect("a good name");
    tx.put(t, &[1; limits::KEY_BYTES_MAX], &vec![2; limits::VALUE_BYTES_MAX]).expect("the limit itself is allowed");
    let too_long = limits::KEY_BYTES_MAX + 1;
    assert_eq!(tx.put(t, &vec![1; too_long], b""), Err(WriteError::KeyTooLong { given: too_long }));
    assert_eq!(tx.delete(t, &vec![1; too_long]), Err(WriteError::KeyTooLong { given: too_long }));
    let too_long = limits::VALUE_BYTES_MAX + 1;
    assert_eq!(tx.put(t, b"k", &vec![1; too_long]), Err(WriteError::ValueTooLong { given: too_long }));
    assert_eq!(tx.tree(""), Err(WriteError::TreeName { given: 0 }));
    let mut n = 0_u32;
    let full = loop {
        n += 1;
        if let Err(e) = tx.put(t, &n.to_be_bytes(), &vec![3; limits::VALUE_BYTES_MAX]) {
            break e;
        }
    };
    assert!(matches!(full, WriteError::TransactionTooLarge { .. }) && n == 15, "{full} {n}");
    tx.commit().expect("the largest transaction commits");
    assert_eq!(store.read().len(t).expect("the tree reads"), 15);
    let other = Store::open(Env::memory(9), Options::unencrypted()).expect("opens");
    assert!(matches!(other.read().get(t, b"k"), Err(blazedb_engine::ReadError::UnknownTree(_))));
}

/// spec: E-14
#[test]
fn a_tree_number_outlives_the_transaction_that_asked_for_it() {
    let disk = SimDisk::new(7);
    let store = open(&disk);
    let mut dropped = store.write();
    let tree = dropped.tree("kept").expect("a good name");
    drop(dropped);
    assert_eq!(store.read().tree("kept").expect("the catalogue reads"), None, "nothing was committed");
    let mut tx = store.write();
    tx.put(tree, b"k", b"v").expect("the number is good");
    tx.commit().expect("commits");
    drop(store);
    let store = open(&disk);
    assert_eq!(get(&store, "kept", b"k"), Some(b"v".to_vec()));
    let tree = store.tree("kept").expect("a good name");
    assert_eq!(store.read().tree("kept").expect("the catalogue reads"), Some(tree));
}

#[test]
fn the_feed_tells_every_commit_once_and_says_when_it_lost_some() {
    let store = open(&SimDisk::new(8));
    put(&store, "t", b"before", b"").expect("commits");
    let feed = store.subscribe(3);
    let mut tx = store.write();
    let t = tx.tree("t").expect("a good name");
    tx.put(t, b"a", b"1").expect("a good value");
    tx.delete(t, b"before").expect("a good key");
    tx.label(77);
    let info = tx.commit().expect("commits");
    let Some(FeedEvent::Commit(commit)) = feed.try_recv() else { panic!("a commit is told") };
    assert_eq!((commit.commit_no, commit.label), (info.commit_no, 77));
    let told: Vec<_> = commit.changes.iter().map(|c| (c.tree, c.key.to_vec(), c.kind)).collect();
    use blazedb_engine::ChangeKind::{Delete, Put};
    assert_eq!(told, [(t, b"a".to_vec(), Put), (t, b"before".to_vec(), Delete)]);
    assert_eq!(feed.try_recv(), None);
    for n in 0..3_u8 {
        put(&store, "t", &[n], b"").expect("commits");
    }
    assert!((0..3).all(|_| matches!(feed.try_recv(), Some(FeedEvent::Commit(_)))), "three fit");
    for n in 0..5_u8 {
        put(&store, "t", &[n], b"").expect("commits");
    }
    assert_eq!(feed.try_recv(), Some(FeedEvent::Lagged { missed: 5 }), "the fourth did not");
    put(&store, "t", b"z", b"").expect("commits");
    assert!(matches!(feed.try_recv(), Some(FeedEvent::Commit(c)) if c.commit_no == info.commit_no + 9));
    store.close().expect("closes");
    assert!(feed.is_closed() && feed.recv(std::time::Duration::from_secs(60)).is_none(), "a closed feed does not wait");
}

/// spec: E-16, E-17
#[test]
fn one_sync_per_durable_group_and_blocks_are_overwritten_in_place() {
    let disk = SimDisk::new(9);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    put(&store, "t", b"k", b"v").expect("commits");
    let [log, ..] = log_file_names(NAME);
    assert_eq!(disk.names(), [NAME, &log]);
    let len = || disk.read_file(&log).expect("is there").len();
    let (syncs, lens) = (disk.calls(CallKind::Sync), disk.calls(CallKind::SetLen));
    let (writes, log_len) = (disk.calls(CallKind::Write), len());
    for n in 0..10_u8 {
        put(&store, "t", &[n], b"v").expect("commits");
    }
    assert_eq!(disk.calls(CallKind::Sync) - syncs, 10);
    assert_eq!((disk.calls(CallKind::Write) - writes, disk.calls(CallKind::SetLen) - lens), (10, 0));
    assert_eq!(len(), log_len, "commits overwrite zeros laid ahead");
    let stats = store.stats();
    assert_eq!((stats.commits, stats.groups, stats.syncs, stats.log_bytes), (11, 11, 11, 11 * 4096));
    // Groups that are not synced share a block until one of them is.
    for n in 0..11_u8 {
        let mut tx = store.write();
        let t = tx.tree("t").expect("a good name");
        tx.put(t, &[n], b"w").expect("a good key");
        let durability = if n == 10 { Durability::Durable } else { Durability::Buffered };
        tx.commit_with(durability, |_| Ok(())).expect("commits");
    }
    assert_eq!((store.stats().groups, store.stats().log_bytes), (22, 12 * 4096));
    let stats = store.stats();
    assert_eq!((stats.log_file_bytes, stats.checkpoints, stats.entries), (log_len as u64, 0, 0));
    store.close().expect("closes");
    assert!(disk.names().len() <= 2, "one file of the log at most: {:?}", disk.names());
    let main = disk.read_file(NAME).expect("is there").len();
    assert!(main < (128 << 10) + 12 * 4096 && main.is_multiple_of(4096), "{main}");
}

/// What a transaction takes for each key, and for what its savepoints keep, is bounded as well.
#[test]
fn a_transaction_takes_bounded_memory_and_what_it_accepts_it_commits() {
    let store = Store::open(Env::memory(1), Options::unencrypted()).expect("opens");
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    tx.savepoint();
    let value = vec![7; 2 << 20];
    let refused = (0..400).find_map(|n| tx.put(tree, b"k", &value).err().map(|error| (n, error)));
    let (puts, error) = refused.expect("a journal of 800 MiB");
    assert!(puts > 30 && matches!(error, WriteError::TransactionHoldsTooMuch { .. }), "{puts} {error}");
    tx.commit().expect("what was accepted");
    let mut tx = store.write();
    let refused = (0_u32..).find_map(|n| tx.put(tree, &n.to_be_bytes(), b"").err().map(|error| (n, error)));
    let (keys, error) = refused.expect("an end");
    assert!((900_000..1_100_000).contains(&keys), "{keys}");
    assert!(matches!(error, WriteError::TransactionHoldsTooMuch { .. }), "{error}");
    drop(tx);
    // To the last byte, into a tree that is new.
    let mut tx = store.write();
    let tree = tx.tree("a tree that is new").expect("a good name");
    let mut left = limits::TRANSACTION_BYTES_MAX;
    for key in 0_u8.. {
        let len = left.min(limits::VALUE_BYTES_MAX).saturating_sub(1);
        tx.put(tree, &[key], &value[..len]).expect("there is room");
        left -= len + 1;
        if left == 0 {
            break;
        }
    }
    assert!(matches!(tx.put(tree, b"more", b""), Err(WriteError::TransactionTooLarge { .. })));
    tx.commit().expect("what was accepted");
}
