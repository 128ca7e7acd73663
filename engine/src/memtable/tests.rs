//! The table against a map, with old snapshots kept.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::*;
use crate::pager::PageRef;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Value (none for a deletion) and commit.
type Entries = BTreeMap<Vec<u8>, (Option<Vec<u8>>, u64)>;

fn rng(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Short and long keys, the empty one, and keys that share their first eight bytes.
fn key(n: u64) -> Vec<u8> {
    match n % 4 {
        0 => n.to_be_bytes()[5..].to_vec(),
        1 => [b"same head ", &n.to_be_bytes()[..]].concat(),
        2 => vec![b'x'; (n % 40) as usize],
        _ => vec![(n % 7) as u8; if n % 50 == 3 { 1024 } else { 9 }],
    }
}

fn seen(entry: &MemEntry<'_>) -> (Option<Vec<u8>>, u64) {
    let value = match entry.value() {
        MemValue::Put(bytes) => Some(bytes.to_vec()),
        MemValue::PutStored(at) => Some(at.len.to_be_bytes().to_vec()),
        MemValue::Deleted => None,
    };
    (value, entry.commit_no())
}

fn put(mem: &mut Mem, tree: u32, key: &[u8], value: &[u8], commit_no: u64) {
    let mut batch = Batch::default();
    batch.put_copy(tree, key, value);
    mem.apply(commit_no, &mut batch);
}

fn check(mem: &Mem, model: &Entries) {
    let (entries, bytes) = mem
        .trees
        .iter()
        .flatten()
        .map(|root| node::check(root, &mem.shared.segments, mem.commit_no, None, None))
        .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    assert_eq!((entries, bytes), (mem.entries(), mem.node_bytes), "the sums are right");
    assert_eq!(entries as usize, model.len());
    for (key, want) in model {
        assert_eq!(seen(&mem.get(1, key).expect("a key that was put")), *want);
    }
    let mut cursor = mem.cursor(1);
    cursor.seek(Bound::Unbounded);
    for (key, want) in model {
        let (k, entry) = cursor.entry().expect("as many as the model has");
        assert_eq!((k, seen(&entry)), (&key[..], want.clone()));
        cursor.next();
    }
    assert!(cursor.entry().is_none());
}

#[test]
fn equals_a_map_and_old_snapshots_stay() {
    for seed in 1..=4_u64 {
        let mut s = seed * 7919;
        let mut mem = Mem::new(1 << 20);
        let mut model = Entries::new();
        let mut kept: Vec<(Mem, Entries)> = Vec::new();
        for step in 1..=8_000_u64 {
            let k = key(rng(&mut s) % 3000);
            let mut batch = Batch::default();
            let value = match rng(&mut s) % 12 {
                0..3 => {
                    batch.delete(1, &k);
                    None
                }
                3 => {
                    let stored = ValueRef { len: step, height: 1, page: PageRef { no: step, proof: !step } };
                    batch.put_stored(1, &k, stored);
                    Some(step.to_be_bytes().to_vec())
                }
                4 => {
                    let value = vec![step as u8; 500 + (rng(&mut s) % 8000) as usize];
                    batch.put(1, &[&k[..], &value[..]].concat().into(), k.len());
                    Some(value)
                }
                n => {
                    let value = vec![step as u8; (rng(&mut s) % if n == 5 { 700 } else { 60 }) as usize];
                    batch.put_copy(1, &k, &value);
                    Some(value)
                }
            };
            mem.apply(step, &mut batch);
            model.insert(k, (value, step));
            if step % 1000 == 0 {
                kept.push((mem.clone(), model.clone()));
                check(&mem, &model);
            }
        }
        for (mem, model) in &kept {
            check(mem, model);
        }
        // A group that failed: back to an older version, and on from there with the same numbers.
        let (older, before) = kept.swap_remove(3);
        let mut rolled_back = mem.rolled_back_to(&older);
        let mut model = before.clone();
        check(&rolled_back, &model);
        for n in 0..500_u64 {
            let commit_no = older.commit_no + 1 + n;
            put(&mut rolled_back, 1, &key(n * 3), b"again", commit_no);
            model.insert(key(n * 3), (Some(b"again".to_vec()), commit_no));
        }
        check(&rolled_back, &model);
        check(&older, &before);
    }
}

/// One thread puts, others look at versions that they were handed meanwhile: each shows what it did from the first.
#[test]
fn versions_stay_while_leaves_grow() {
    let versions = Mutex::new(vec![Mem::new(1 << 20)]);
    let done = AtomicBool::new(false);
    let key = |n: u64| (n * 7919 % 997).to_be_bytes();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let mem = versions.lock().last().expect("there is a first one").clone();
                    // The newest of the puts of each key up to this commit.
                    let newest = |n: u64| (1..=mem.commit_no).rev().find(|&commit| key(commit) == key(n));
                    for n in 1..=mem.commit_no.min(40) {
                        let entry = mem.get(1, &key(n)).expect("it was put");
                        assert_eq!(Some(entry.commit_no()), newest(n));
                    }
                    let mut cursor = mem.cursor(1);
                    cursor.seek(Bound::Unbounded);
                    let mut count = 0;
                    while let Some((_, entry)) = cursor.entry() {
                        assert!(entry.commit_no() <= mem.commit_no);
                        count += 1;
                        cursor.next();
                    }
                    assert_eq!(count, mem.commit_no.min(997));
                }
            });
        }
        let mut mem = Mem::new(1 << 20);
        for commit_no in 1..=5_000 {
            put(&mut mem, 1, &key(commit_no), b"value", commit_no);
            versions.lock().push(mem.clone());
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn cursors_find_every_bound_both_ways() {
    let mut mem = Mem::new(1 << 20);
    let mut model: BTreeMap<Vec<u8>, ()> = BTreeMap::new();
    let mut s = 99;
    for _ in 0..1500 {
        let k = key(rng(&mut s) % 5000);
        put(&mut mem, 3, &k, b"v", 1);
        model.insert(k, ());
    }
    let probes: Vec<Vec<u8>> = (0..400).map(|_| key(rng(&mut s) % 5000)).collect();
    let mut cursor = mem.cursor(3);
    for probe in &probes {
        let probe = &probe[..];
        for bound in [Bound::Included(probe), Bound::Excluded(probe), Bound::Unbounded] {
            cursor.seek(bound);
            let want = model.range::<[u8], _>((bound, Bound::Unbounded)).next().map(|(k, ())| &k[..]);
            assert_eq!(cursor.entry().map(|(k, _)| k), want);
            cursor.seek_back(bound);
            let want = model.range::<[u8], _>((Bound::Unbounded, bound)).next_back().map(|(k, ())| &k[..]);
            assert_eq!(cursor.entry().map(|(k, _)| k), want);
        }
        // Forward three, back two.
        cursor.seek(Bound::Included(probe));
        let mut keys = model.range::<[u8], _>((Bound::Included(probe), Bound::Unbounded)).map(|(k, ())| k);
        let ahead: Vec<_> = keys.by_ref().take(4).collect();
        if ahead.len() == 4 {
            (0..3).for_each(|_| cursor.next());
            assert_eq!(cursor.entry().map(|(k, _)| k), Some(&ahead[3][..]));
            (0..2).for_each(|_| cursor.prev());
            assert_eq!(cursor.entry().map(|(k, _)| k), Some(&ahead[1][..]));
        }
    }
    let mut back = Vec::new();
    cursor.seek_back(Bound::Unbounded);
    while let Some((k, _)) = cursor.entry() {
        back.push(k.to_vec());
        cursor.prev();
    }
    assert!(back.iter().eq(model.keys().rev()));
    assert!(mem.cursor(4).entry().is_none());
}

#[test]
fn superseded_stored_values_are_remembered_and_large_values_shared() {
    let mut mem = Mem::new(1 << 16);
    let stored = |n| ValueRef { len: n, height: 1, page: PageRef { no: n, proof: n } };
    let put_stored = |mem: &mut Mem, value, commit_no| {
        let mut batch = Batch::default();
        batch.put_stored(1, b"a", value);
        mem.apply(commit_no, &mut batch);
    };
    put_stored(&mut mem, stored(1), 1);
    put_stored(&mut mem, stored(2), 2);
    let before = mem.clone();
    let mut batch = Batch::default();
    batch.delete(1, b"a");
    mem.apply(3, &mut batch);
    assert_eq!(mem.superseded_stored().collect::<Vec<_>>(), [stored(1), stored(2)]);
    assert_eq!(before.superseded_stored().collect::<Vec<_>>(), [stored(1)]);
    let large = Bytes::from([&b"b"[..], &[7; 2 << 20]].concat());
    let mut batch = Batch::default();
    batch.put(1, &large, 1);
    mem.apply(4, &mut batch);
    let got = mem.get(1, b"b").expect("put just now").value_bytes();
    assert_eq!(got.as_ptr(), large[1..].as_ptr(), "not copied");
    assert!(mem.bytes() > 2 << 20);
    put(&mut mem, 1, b"b", b"", 5);
    assert!(mem.bytes() > 2 << 20, "an older version may hold it");
    assert_eq!(mem.filter_bytes(), 1024);
}
