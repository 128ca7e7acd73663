//! What trees held before, against a map of all versions: as of every commit that is kept, whatever has happened to the
//! file since.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::Bound;

use blazedb_engine::env::{SimDisk, Survivors};
use blazedb_engine::{
    BackupOptions, CommitError, Durability, History, KdfCost, KeySource, KeyVersion, MaintainError, Memory, Options,
    PastView, ReadError, RekeyOptions, Store, TreeId, restore, salvage,
};
use zeroize::Zeroizing;

use crate::support::{NAME, Random, model_of, open, options, owned, put, roomy, scale, unencrypted};

/// A key's versions: the commit that wrote each, and the value.
pub(crate) type Versions = BTreeMap<Vec<u8>, Vec<(u64, Option<Vec<u8>>)>>;
pub(crate) type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// All versions of one tree.
#[derive(Clone, Default)]
pub(crate) struct Past {
    versions: Versions,
    /// History is kept from this commit on.
    pub(crate) since: Option<u64>,
    pub(crate) newest: u64,
}

impl Past {
    fn write(&mut self, commit_no: u64, changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        for (key, value) in changes {
            self.versions.entry(key.clone()).or_default().push((commit_no, value.clone()));
        }
        self.newest = commit_no;
    }

    fn get(&self, key: &[u8], at: u64) -> Option<&Vec<u8>> {
        let versions = self.versions.get(key)?;
        versions.iter().rev().find(|(from, _)| *from <= at)?.1.as_ref()
    }

    pub(crate) fn state(&self, at: u64) -> State {
        let found = self.versions.keys().filter_map(|key| Some((key.clone(), self.get(key, at)?.clone())));
        found.collect()
    }

    /// Forgets what nobody can ask for.
    fn forget_before(&mut self, oldest: u64) {
        for versions in self.versions.values_mut() {
            let kept = versions.iter().rposition(|(from, _)| *from <= oldest).unwrap_or(0);
            versions.drain(..kept);
        }
    }
}

/// A key of many shapes: short, long, full of zeros or of ones, and the beginning of another one.
fn random_key(random: &mut Random) -> Vec<u8> {
    let n = random.below(24) as u8;
    match random.below(6) {
        0 => vec![0; usize::from(n)],
        1 => vec![0xff; usize::from(n % 8)],
        2 => [b"row ", &[n][..]].concat(),
        3 => [b"row ", &[n, 0][..]].concat(),
        4 => [&[n; 7][..], &[0; 2]].concat(),
        _ => vec![n; if n == 0 { 1024 } else { 16 }],
    }
}

fn random_value(random: &mut Random) -> Vec<u8> {
    let len = match random.below(40) {
        0 => 70_000 + random.below(10_000),
        1..4 => 900 + random.below(100),
        4..7 => random.below(9000),
        7..10 => 0,
        _ => random.below(50),
    };
    let mut value = random.bytes(len.min(40));
    value.resize(len as usize, len as u8);
    value
}

fn check_view(view: &PastView, tree: TreeId, want: &State, random: &mut Random, context: &str) {
    let seen: State = view.range(tree, ..).expect("it is kept").map(owned).collect();
    assert!(seen == *want, "{context}: {:?} instead of {:?}", shown(&seen), shown(want));
    let mut back: Vec<_> = view.range(tree, ..).expect("it is kept").rev().map(owned).collect();
    back.reverse();
    assert!(back == want.clone().into_iter().collect::<Vec<_>>(), "{context}: backward");
    for _ in 0..4 {
        let key = random_key(random);
        let value = view.get(tree, &key).expect("reads");
        assert!(value.as_deref() == want.get(&key).map(|v| &v[..]), "{context}: {key:02x?}");
        assert_eq!(view.value_len(tree, &key).expect("reads"), want.get(&key).map(|v| v.len() as u64), "{context}");
    }
    let (a, b) = (random_key(random), random_key(random));
    let bound = |which, key| match which {
        0 => Bound::Included(key),
        1 => Bound::Excluded(key),
        _ => Bound::Unbounded,
    };
    let range = (bound(random.below(3), &a[..]), bound(random.below(3), &b[..]));
    let mut wanted: std::collections::VecDeque<_> =
        want.iter().filter(|(key, _)| std::ops::RangeBounds::<[u8]>::contains(&range, &key[..])).collect();
    let mut found = view.range(tree, range).expect("it is kept");
    loop {
        let from_back = random.below(2) == 0;
        let got = if from_back { found.next_back() } else { found.next() }.map(owned);
        let next = if from_back { wanted.pop_back() } else { wanted.pop_front() };
        assert!(got.as_ref().map(|(k, v)| (k, v)) == next, "{context}: {range:02x?}");
        if got.is_none() {
            break;
        }
    }
    let prefix: State = view.prefix(tree, b"row ").expect("it is kept").map(owned).collect();
    assert!(prefix.iter().eq(want.iter().filter(|(key, _)| key.starts_with(b"row "))), "{context}");
}

pub(crate) fn shown(state: &State) -> Vec<(String, usize)> {
    state.iter().map(|(key, value)| (format!("{:02x?}", &key[..key.len().min(10)]), value.len())).collect()
}

pub(crate) fn oldest(store: &Store, tree: TreeId) -> Option<u64> {
    store.history(tree).expect("reads").map(|info| info.oldest)
}

/// Compares some commits that are kept, and one that is not.
fn check(store: &Store, past: &Past, random: &mut Random, context: &str) {
    let tree = store.tree("notes").expect("a good name");
    let kept = store.history(tree).expect("reads");
    assert_eq!(kept.is_some(), past.since.is_some(), "{context}");
    assert_eq!(store.read().commit_no(), past.newest, "{context}");
    let Some(kept) = kept else {
        if past.newest > 0 {
            let view = store.as_of(past.newest).expect("there is such a commit");
            assert!(matches!(view.get(tree, b"k"), Err(ReadError::HistoryOff { .. })), "{context}");
        }
        return;
    };
    assert!(kept.oldest >= past.since.expect("it is on"), "{context}");
    let span = past.newest - kept.oldest + 1;
    for at in [kept.oldest + random.below(span), kept.oldest + random.below(span), kept.oldest, past.newest] {
        let view = store.as_of(at).expect("there is such a commit");
        check_view(
            &view,
            tree,
            &past.state(at),
            random,
            &format!("{context}, as of {at} of {kept:?}..{}", past.newest),
        );
    }
    if kept.oldest > 0 {
        let error = store.as_of(kept.oldest - 1).expect("there was such a commit").get(tree, b"k");
        assert!(matches!(error, Err(ReadError::HistoryGone { oldest }) if oldest == kept.oldest), "{context}");
    }
    let error = store.as_of(past.newest + 1).map(|_| ());
    assert!(matches!(error, Err(ReadError::NoSuchCommit { newest }) if newest == past.newest), "{context}");
    let key = random_key(random);
    check_versions(store, tree, past, &key, kept.oldest, context);
}

fn check_versions(store: &Store, tree: TreeId, past: &Past, key: &[u8], oldest: u64, context: &str) {
    let listed: Vec<KeyVersion> =
        store.versions(tree, key).expect("it is kept").map(|version| version.expect("reads")).collect();
    let mut until = None;
    for version in &listed {
        assert_eq!(version.until, until, "{context}");
        let at = version.from.unwrap_or(oldest);
        assert!(version.value.as_deref() == past.get(key, at).map(|v| &v[..]), "{context}: {key:02x?} {version:?}");
        until = version.from;
    }
    let none = Vec::new();
    let written: Vec<u64> = past.versions.get(key).unwrap_or(&none).iter().map(|(from, _)| *from).collect();
    let mut wanted: Vec<_> = written.iter().copied().filter(|&from| from > oldest).collect();
    wanted.reverse();
    let froms: Vec<u64> = listed.iter().filter_map(|version| version.from).collect();
    assert_eq!(froms, wanted, "{context}: {key:02x?}");
    assert_eq!(listed.last().map(|version| version.from), Some(None), "{context}");
}

/// Writes some keys of both trees in one commit; `None` where the disk is dead.
pub(crate) fn random_commit(
    store: &Store,
    past: &mut Past,
    random: &mut Random,
    clock: &SimDisk,
) -> Result<(), CommitError> {
    clock.clock().advance_ms(random.below(3000));
    let mut tx = store.write();
    let tree = tx.tree("notes")?;
    let other = tx.tree("plain")?;
    let mut changes = BTreeMap::new();
    let many = if random.below(60) == 0 { 300 } else { 5 };
    for _ in 0..=random.below(many) {
        let key = random_key(random);
        if random.below(4) == 0 {
            tx.delete(tree, &key)?;
            changes.insert(key, None);
            continue;
        }
        let value = random_value(random);
        if value.len() > 2000 && random.below(2) == 0 {
            tx.put_stream(tree, &key, value.len() as u64, &mut &value[..]).map_err(|error| match error {
                blazedb_engine::StreamError::Write(error) => CommitError::from(error),
                _ => CommitError::Closed,
            })?;
        } else {
            tx.put(tree, &key, &value)?;
        }
        changes.insert(key, Some(value));
    }
    tx.put(other, &random_key(random), &random_value(random))?;
    let commit_no = past.newest + 1;
    // Where the disk dies now the commit may be there or not.
    let mut next = past.clone();
    next.write(commit_no, &changes);
    let info = tx.commit();
    if info.is_ok() {
        *past = next;
    }
    let info = info?;
    assert_eq!(info.commit_no, commit_no);
    Ok(())
}

pub(crate) fn random_load(store: &Store, past: &mut Past, random: &mut Random) -> Result<(), CommitError> {
    let mut loader = store.loader();
    let tree = loader.tree("notes")?;
    let mut changes = BTreeMap::new();
    for _ in 0..random.below(400) {
        let (key, value) = (random_key(random), random_value(random));
        loader.put(tree, &key, &value)?;
        changes.insert(key, Some(value));
    }
    let info = loader.finish()?;
    if info.changed {
        past.write(info.commit_no, &changes);
    }
    Ok(())
}

pub(crate) fn set_history(store: &Store, past: &mut Past, keep: Option<History>) -> Result<(), CommitError> {
    let tree = store.tree("notes")?;
    let info = store.set_history(tree, keep)?;
    if info.changed {
        past.newest = info.commit_no;
        past.since = keep.map(|_| past.since.unwrap_or(info.commit_no));
    }
    Ok(())
}

pub(crate) fn maintained(result: Result<(), MaintainError>) {
    if let Err(error) = result {
        panic!("{error}: {:?}", error.source().map(ToString::to_string));
    }
}

fn key_of(number: u8) -> KeySource {
    KeySource::Raw(Zeroizing::new([number; 32]))
}

fn random_steps(seed: u64, steps: u64, encrypted: bool) {
    let mut disk = SimDisk::new(seed);
    let mut random = Random::new(seed);
    let mut past = Past::default();
    let mut key = 42;
    let opens = |disk: &SimDisk, key: u8| {
        let options = if encrypted { Options { key: key_of(key), ..options() } } else { unencrypted() };
        Store::open(disk.env(NAME), options).expect("the store opens")
    };
    let mut store = opens(&disk, key);
    let mut views: Vec<(PastView, State)> = Vec::new();
    for step in 0..steps {
        let context = format!("seed {seed} step {step}");
        match random.below(120) {
            0 => maintained(store.checkpoint()),
            1 => {
                views.clear();
                maintained(store.close());
                drop(store);
                store = opens(&disk, key);
            }
            2 => {
                views.clear();
                // Without a word: what was acknowledged is in the log.
                let after = disk.after_crash(Survivors::ALL[random.below(5) as usize], step);
                drop(store);
                disk = after;
                store = opens(&disk, key);
            }
            3 => maintained(store.vacuum(8, &mut |_| {}).map(|_| ())),
            4 if encrypted && step % 3 == 0 => {
                let next = if key == 42 { 43 } else { 42 };
                if store.rekey(&RekeyOptions::new(key_of(next), KdfCost::InsecureForTests)).is_ok() {
                    key = next;
                }
            }
            5..8 if encrypted => {
                let _ = store.rekey_step(7);
            }
            8 => random_load(&store, &mut past, &mut random).expect("loads"),
            9 => {
                let keep_bytes = 1000 << random.below(12);
                let keep_ms = if random.below(2) == 0 { u64::MAX } else { 1000 << random.below(10) };
                set_history(&store, &mut past, Some(History { keep_ms, keep_bytes })).expect("commits");
            }
            10 => {
                let keep = if random.below(4) == 0 { None } else { Some(History::ALL) };
                set_history(&store, &mut past, keep).expect("commits");
            }
            11 => {
                maintained(store.purge_history());
                let tree = store.tree("notes").expect("a good name");
                if let Some(info) = store.history(tree).expect("reads") {
                    assert!(info.bytes <= info.keep.keep_bytes, "{context}: {info:?}");
                    past.forget_before(info.oldest);
                }
            }
            12..16 => {
                let tree = store.tree("notes").expect("a good name");
                if let Some(oldest) = oldest(&store, tree) {
                    let at = oldest + random.below(past.newest - oldest + 1);
                    let view = store.as_of(at).expect("there is such a commit");
                    view.get(tree, b"k").expect("it is kept");
                    views.push((view, past.state(at)));
                    if views.len() > 3 {
                        views.remove(0);
                    }
                }
            }
            _ => random_commit(&store, &mut past, &mut random, &disk).expect("commits"),
        }
        if step % 7 == 0 {
            check(&store, &past, &mut random, &context);
            let tree = store.tree("notes").expect("a good name");
            for (view, state) in &views {
                check_view(view, tree, state, &mut random, &format!("{context}, a view of {}", view.commit_no()));
            }
        }
        if step % 40 == 0 {
            maintained(store.verify(&mut |_| {}).map(|_| ()));
        }
    }
    views.clear();
    maintained(store.close());
    let store = opens(&disk, key);
    check(&store, &past, &mut random, "at the end");
    maintained(store.verify(&mut |_| {}).map(|_| ()));
}

/// A million steps: `BLAZE_TEST_SCALE=250`. spec: E-42
#[test]
fn what_was_is_what_a_map_of_all_versions_says() {
    for seed in 1..=4 {
        random_steps(seed, 1000 * scale(), seed % 2 == 1);
    }
}

/// A short run in which everything happens to history that can; stops where the disk dies. Returns whether it came to
/// its end.
fn short_run(disk: &SimDisk, options: &Options, past: &mut Past, pending: &mut Past) -> bool {
    let mut random = Random::new(77);
    let mut run = || -> Option<()> {
        let store = Store::open(disk.env(NAME), options.clone()).ok()?;
        let tree = store.tree("notes").ok()?;
        for step in 0..26 {
            match step {
                3 => {
                    pending.newest = past.newest + 1;
                    pending.since = Some(pending.newest);
                    set_history(&store, past, Some(History::ALL)).ok()?;
                }
                9 | 17 | 21 => store.checkpoint().ok()?,
                12 => {
                    let mut next = past.clone();
                    let mut loader = store.loader();
                    let mut changes = BTreeMap::new();
                    for n in 0..40_u8 {
                        let (key, value) = (random_key(&mut random), vec![n; usize::from(n) * 30]);
                        loader.put(tree, &key, &value).ok()?;
                        changes.insert(key, Some(value));
                    }
                    next.write(past.newest + 1, &changes);
                    pending.clone_from(&next);
                    loader.finish().ok()?;
                    *past = next;
                }
                15 => {
                    pending.newest = past.newest + 1;
                    set_history(&store, past, Some(History { keep_ms: u64::MAX, keep_bytes: 9000 })).ok()?;
                }
                18 => store.purge_history().ok()?,
                20 => {
                    store.vacuum(4, &mut |_| {}).ok()?;
                }
                _ => {
                    let mut tx = store.write();
                    let mut changes = BTreeMap::new();
                    for _ in 0..=random.below(4) {
                        let key = random_key(&mut random);
                        let value = random_value(&mut random);
                        if value.is_empty() {
                            tx.delete(tree, &key).ok()?;
                            changes.insert(key, None);
                        } else if value.len() > 60_000 {
                            tx.put_stream(tree, &key, value.len() as u64, &mut &value[..]).ok()?;
                            changes.insert(key, Some(value));
                        } else {
                            tx.put(tree, &key, &value).ok()?;
                            changes.insert(key, Some(value));
                        }
                    }
                    pending.clone_from(past);
                    pending.write(past.newest + 1, &changes);
                    tx.commit().ok()?;
                    past.clone_from(pending);
                }
            }
            pending.clone_from(past);
        }
        store.close().ok()
    };
    run().is_some()
}

fn check_after_crash(disk: &SimDisk, options: &Options, past: &Past, pending: &Past, context: &str) {
    let store = match Store::open(disk.env(NAME), options.clone().create(false)) {
        Ok(store) => store,
        Err(blazedb_engine::OpenError::NotFound { .. }) => return assert_eq!(past.newest, 0, "{context}"),
        Err(error) => panic!("{context}: {error}: {:?}", error.source().map(ToString::to_string)),
    };
    let found = store.read().commit_no();
    assert!(found == past.newest || found == pending.newest, "{context}: {found}");
    let past = if found == past.newest { past } else { pending };
    let tree = store.tree("notes").expect("a good name");
    let mut random = Random::new(found);
    check(&store, past, &mut random, context);
    if let Some(oldest) = oldest(&store, tree) {
        for at in oldest..=past.newest {
            let view = store.as_of(at).expect("there is such a commit");
            let seen: State = view.range(tree, ..).expect("it is kept").map(owned).collect();
            assert!(seen == past.state(at), "{context}, as of {at}");
        }
    }
    store.verify(&mut |_| {}).unwrap_or_else(|error| panic!("{context}: {error} {:?}", error.source()));
    // What was opened goes into pages; history and present still agree.
    store.checkpoint().expect("checkpoints");
    check(&store, past, &mut random, context);
    store.verify(&mut |_| {}).unwrap_or_else(|error| panic!("{context}: {error} {:?}", error.source()));
}

fn crash_everywhere(options: &Options, stride: u64) -> u64 {
    let whole = SimDisk::new(5);
    let mut past = Past::default();
    assert!(short_run(&whole, options, &mut past, &mut Past::default()), "without a crash it ends");
    assert!(past.newest > 20);
    let points = whole.changes();
    for point in (0..points).step_by(stride as usize) {
        let disk = SimDisk::new(5);
        disk.crash_at(point);
        let (mut past, mut pending) = (Past::default(), Past::default());
        assert!(!short_run(&disk, options, &mut past, &mut pending), "the crash comes");
        for survivors in Survivors::ALL {
            let after = disk.after_crash(survivors, point);
            check_after_crash(&after, options, &past, &pending, &format!("point {point} {survivors:?}"));
        }
    }
    points
}

/// spec: E-44
#[test]
fn history_and_present_agree_after_a_crash_anywhere() {
    let points = crash_everywhere(&options(), 1) + crash_everywhere(&unencrypted(), 2);
    assert!(points > 150, "{points}");
}

/// A log that fits into no table goes into pages when the store is opened, piece by piece; the versions in between, and
/// the values that lie in pages of their own, with it.
#[test]
fn a_log_that_fits_into_no_table_leaves_all_versions() {
    let disk = SimDisk::new(9);
    let mut random = Random::new(9);
    let mut past = Past::default();
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    for _ in 0..40 {
        random_commit(&store, &mut past, &mut random, &disk).expect("commits");
    }
    store.checkpoint().expect("checkpoints");
    for _ in 0..20 {
        random_commit(&store, &mut past, &mut random, &disk).expect("commits");
    }
    // In the log alone: from here on.
    set_history(&store, &mut past, Some(History::ALL)).expect("commits");
    for _ in 0..160 {
        random_commit(&store, &mut past, &mut random, &disk).expect("commits");
    }
    for survivors in Survivors::ALL {
        let after = disk.after_crash(survivors, 3);
        let store = Store::open(after.env(NAME), options()).expect("opens");
        assert!(store.stats().checkpoint_commit_no > past.since.expect("it is on"), "it went into pages");
        for at in past.since.expect("it is on")..=past.newest {
            let tree = store.tree("notes").expect("a good name");
            let view = store.as_of(at).expect("there is such a commit");
            check_view(&view, tree, &past.state(at), &mut random, &format!("as of {at}"));
        }
        store.verify(&mut |_| {}).expect("twins and their ledger agree");
        check(&store, &past, &mut random, "after the recovery");
    }
}

/// What is kept follows the clock and the bytes, whichever says less; a time leads to the newest commit that was made by
/// then. spec: E-43
#[test]
fn retention_goes_by_time_and_by_bytes_and_times_lead_to_commits() {
    let disk = SimDisk::new(3);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    let tree = store.tree("t").expect("a good name");
    assert!(matches!(store.as_of_time(u64::MAX), Err(ReadError::HistoryOff { tree: None })));
    assert!(!store.set_history(tree, None).expect("nothing to do").changed);
    let keep = History { keep_ms: 600_000, keep_bytes: u64::MAX };
    let first = store.set_history(tree, Some(keep)).expect("commits").commit_no;
    let wall = || disk.env(NAME).clock.wall_ms();
    let mut made = vec![(first, wall())];
    for n in 0..100_u8 {
        disk.clock().advance_ms(10_000);
        made.push((put(&store, "t", b"k", &[n; 400]).expect("commits"), wall()));
        if n % 10 == 0 {
            store.checkpoint().expect("checkpoints");
        }
    }
    for &(commit_no, at_ms) in &made[1..] {
        for ms in [at_ms, at_ms + 999, at_ms + 9_999] {
            let found = store.as_of_time(ms).map(|view| view.commit_no());
            match store.history(tree).expect("reads").expect("it is on").oldest {
                oldest if oldest > commit_no => {}
                _ => assert_eq!(found.expect("it is known"), commit_no),
            }
        }
        assert!(store.time_of(commit_no).expect("reads").is_none_or(|found| found <= at_ms));
    }
    assert!(matches!(store.as_of_time(made[0].1 - 1), Err(ReadError::HistoryGone { .. })));
    store.purge_history().expect("purges");
    let info = store.history(tree).expect("reads").expect("it is on");
    // Sixty commits in ten minutes.
    assert_eq!(info.oldest, made[made.len() - 61].0);
    assert_eq!(info.versions, 60);
    store.set_history(tree, Some(History { keep_ms: u64::MAX, keep_bytes: 5000 })).expect("commits");
    store.purge_history().expect("purges");
    let info = store.history(tree).expect("reads").expect("it is on");
    assert!((1..=5000).contains(&info.bytes) && info.versions >= 1, "{info:?}");
    let gone = store.as_of(info.oldest - 1).expect("there was such a commit").get(tree, b"k");
    assert!(matches!(gone, Err(ReadError::HistoryGone { oldest }) if oldest == info.oldest));
    store.verify(&mut |_| {}).expect("twins and their ledger agree");
    // Switched off nothing is kept, and what was is gone.
    store.set_history(tree, None).expect("commits");
    store.purge_history().expect("purges");
    assert_eq!(store.history(tree).expect("reads"), None);
    store.verify(&mut |_| {}).expect("twins and their ledger agree");
    let again = store.set_history(tree, Some(History::ALL)).expect("commits").commit_no;
    let info = store.history(tree).expect("reads").expect("it is on");
    assert_eq!((info.oldest, info.versions, info.bytes), (again, 0, 0));
}

/// A value in pages of its own becomes the twin's as it is: nothing is copied, and it goes with its version.
#[test]
fn a_long_value_moves_to_the_twin_without_a_copy() {
    let disk = SimDisk::new(4);
    let store = Store::open(disk.env(NAME), roomy().auto_vacuum(None)).expect("opens");
    let tree = store.tree("t").expect("a good name");
    store.set_history(tree, Some(History::ALL)).expect("commits");
    let long = vec![7; 3 << 20];
    let mut tx = store.write();
    tx.put_stream(tree, b"k", long.len() as u64, &mut &long[..]).expect("streams");
    let then = tx.commit().expect("commits").commit_no;
    store.checkpoint().expect("checkpoints");
    store.checkpoint().expect("checkpoints");
    let before = disk.changes();
    let bytes = store.stats().page_file_bytes;
    put(&store, "t", b"k", b"short").expect("commits");
    store.checkpoint().expect("checkpoints");
    assert!(store.stats().page_file_bytes < bytes + (200 << 10), "no copy: {} calls", disk.changes() - before);
    let mut part = [0; 100];
    let view = store.as_of(then).expect("there is such a commit");
    assert_eq!(view.read_value(tree, b"k", 2 << 20, &mut part).expect("reads"), Some(100));
    assert_eq!(part, [7; 100]);
    assert_eq!(view.get(tree, b"k").expect("reads").as_deref(), Some(&long[..]));
    drop(view);
    store.verify(&mut |_| {}).expect("every page has one who names it");
    store.set_history(tree, Some(History { keep_ms: u64::MAX, keep_bytes: 100 })).expect("commits");
    store.purge_history().expect("purges");
    store.verify(&mut |_| {}).expect("every page has one who names it");
    store.vacuum(0, &mut |_| {}).expect("vacuums");
    assert!(store.stats().page_file_bytes < 1 << 20, "{:?}", store.stats());
}

/// Who reads a feed, or lists trees, does not see what history is made of. spec: E-41
#[test]
fn twins_and_ledger_are_nobodys_trees() {
    let disk = SimDisk::new(6);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    let tree = store.tree("t").expect("a good name");
    let feed = store.subscribe(100);
    store.set_history(tree, Some(History::ALL)).expect("commits");
    put(&store, "t", b"k", b"1").expect("commits");
    put(&store, "t", b"k", b"2").expect("commits");
    let mut told = Vec::new();
    while let Some(event) = feed.try_recv() {
        match event {
            blazedb_engine::FeedEvent::Commit(commit) => told.push(commit.changes.len()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, [0, 1, 1]);
    assert_eq!(store.read().tree_names().expect("reads"), ["t"]);
    store.checkpoint().expect("checkpoints");
    assert_eq!(store.read().tree_names().expect("reads"), ["t"]);
    let checked = store.verify(&mut |_| {}).expect("sound");
    assert_eq!((checked.trees, checked.entries, checked.versions), (1, 1, 2));
    assert_eq!(store.read().tree("").expect("reads"), None, "what stands under no name is nobody's");
    let at = put(&store, "t", b"k", b"abcdef").expect("commits");
    put(&store, "t", b"k", b"x").expect("commits");
    let mut part = [0; 3];
    for _ in 0..2 {
        let then = store.as_of(at).expect("kept");
        assert_eq!(then.read_value(tree, b"k", 2, &mut part).expect("reads"), Some(3));
        assert_eq!((&part, then.read_value(tree, b"k", 6, &mut [0]).expect("reads")), (b"cde", Some(0)));
        store.checkpoint().expect("checkpoints");
    }
    let unknown = store.as_of(99).map(|_| ());
    assert!(matches!(unknown, Err(ReadError::NoSuchCommit { .. })));
}

/// A store with a few rows, many versions of them, and something in the log.
pub(crate) fn with_versions(disk: &SimDisk, how: &Options) -> Store {
    let store = Store::open(disk.env(NAME), how.clone()).expect("creates");
    let tree = store.tree("t").expect("a good name");
    put(&store, "other", b"k", b"v").expect("commits");
    store.set_history(tree, Some(History::ALL)).expect("switches on");
    for round in 0..40_u8 {
        let mut tx = store.write();
        for n in 0..60_u8 {
            tx.put(tree, &[n; 3], &[round; 200]).expect("room");
        }
        tx.delete(tree, &[round; 3]).expect("a good key");
        tx.commit().expect("commits");
    }
    store.checkpoint().expect("checkpoints");
    put(&store, "t", b"newest", b"v").expect("commits");
    store
}

/// A backup and a salvage take the present over, and say that the rest stays behind.
#[test]
fn a_backup_and_a_salvage_take_the_present_over() {
    for how in [roomy(), unencrypted()] {
        let disk = SimDisk::new(1);
        let store = with_versions(&disk, &how);
        let model = model_of(&store);
        let mut bytes = Vec::new();
        let report = store.backup(&mut bytes, &BackupOptions::default(), &mut |_| {}).expect("backs up");
        assert_eq!(report.trees, 2);
        let target = SimDisk::new(2);
        restore(target.env(NAME), how.clone(), vec![&mut &bytes[..]], &how.key, &mut |_| {}).expect("restores");
        let restored = Store::open(target.env(NAME), how.clone()).expect("opens");
        assert_eq!(model_of(&restored), model);
        let tree = restored.tree("t").expect("a good name");
        let history = restored.history(tree).expect("reads").expect("it is kept as it was");
        assert_eq!(history.versions, 0, "and begins with the restore");

        let crashed = disk.after_crash(Survivors::All, 1);
        let target = SimDisk::new(3);
        let report = salvage(crashed.env(NAME), &how, target.env(NAME), how.clone(), &mut |_| {}).expect("salvages");
        assert_eq!((&report.losses[..], &report.without_history[..]), (&[][..], &["t".to_owned()][..]));
        assert_eq!(model_of(&Store::open(target.env(NAME), how.clone()).expect("opens")), model);
    }
}

/// Pages of a history that are damaged, or whose branches are, are no rows of any tree.
#[test]
fn a_damaged_history_is_no_part_of_the_present() {
    let disk = SimDisk::new(4);
    let how = unencrypted();
    let store = with_versions(&disk, &how);
    let model = model_of(&store);
    store.close().expect("closes");
    let file = disk.read_file(NAME).expect("is there");
    let mut random = Random::new(1);
    for _ in 0..60 * scale() {
        let disk = disk.copy();
        let mut damaged = file.clone();
        for _ in 0..3 {
            let page = 32 + random.below(damaged.len() as u64 / 4096 - 32) as usize;
            damaged[page * 4096..][..4096].copy_from_slice(&random.bytes(4096));
        }
        disk.write_file(NAME, &damaged);
        let target = SimDisk::new(5);
        let saved = salvage(disk.env(NAME), &how, target.env(NAME), how.clone(), &mut |_| {}).expect("salvages");
        let found = model_of(&Store::open(target.env(NAME), how.clone()).expect("opens"));
        let known = |(name, rows): (&String, &BTreeMap<Vec<u8>, Vec<u8>>)| {
            name.starts_with("lost+found") || rows.iter().all(|(k, v)| model[name].get(k) == Some(v))
        };
        assert!(found.iter().all(known), "{saved:?}");
        assert!(found == model || !saved.losses.is_empty(), "what is missing is named: {saved:?}");
    }
}

/// Hooks that write, beside tables that are nearly full, history kept or not: tables stay within what is said of them, and
/// a crash on a full disk leaves a store that a writer can open.
#[test]
fn hooks_that_write_leave_tables_within_their_bytes() {
    const TABLE: usize = 256 << 10;
    let memory = Memory { cache_bytes: 256 << 10, table_bytes: TABLE, log_bytes: 4 << 20 };
    for is_kept in [false, true] {
        let disk = SimDisk::new(1);
        let how = unencrypted().memory(memory);
        let store = Store::open(disk.env(NAME), how.clone()).expect("creates");
        let tree = store.tree("t").expect("a good name");
        if is_kept {
            store.set_history(tree, Some(History::ALL)).expect("switches on");
        }
        // There is room for the log, and little for pages.
        for n in 0..4_u8 {
            put(&store, "t", &[n], &[n; 200_000]).expect("commits");
        }
        let length = |disk: &SimDisk, n: &String| disk.read_file(n).map_or(0, |file| file.len() as u64);
        let used = |disk: &SimDisk| disk.names().iter().map(|n| length(disk, n)).sum::<u64>();
        disk.set_capacity(Some(used(&disk) + (2 << 20)));
        let (mut random, mut acknowledged, mut most) = (Random::new(1), Vec::new(), 0);
        for round in 0..400 {
            let count = if round % 8 == 7 { (TABLE as u64 - 1000) / 72 } else { 40 };
            let keys: Vec<[u8; 8]> = (0..count).map(|_| random.next().to_be_bytes()).collect();
            let committed = store.write().commit_with(Durability::Durable, |serial| {
                keys.iter().try_for_each(|key| serial.put(tree, key, b""))?;
                Ok(())
            });
            most = most.max(store.stats().table_bytes);
            match committed {
                Ok(_) => acknowledged.extend(keys),
                Err(CommitError::DiskFull { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(most <= TABLE as u64 * 27 / 10, "{is_kept}: {most} of {TABLE} bytes");
        let disk = disk.after_crash(Survivors::None, 1);
        disk.set_capacity(Some(used(&disk)));
        let store = Store::open(disk.env(NAME), how).expect("what tables held, tables hold again");
        let view = store.read();
        let is_there = |key: &[u8; 8]| view.contains(tree, key).expect("reads");
        assert!(acknowledged.len() > 1000 && acknowledged.iter().all(is_there), "{is_kept}");
    }
}

/// What is purged while somebody goes over a key's versions is listed all the same.
#[test]
fn versions_that_are_being_listed_outlive_a_purge() {
    let store = open(&SimDisk::new(1));
    let tree = store.tree("t").expect("a good name");
    store.set_history(tree, Some(History::ALL)).expect("switches on");
    for n in 0..40_u8 {
        put(&store, "t", b"k", &[n]).expect("commits");
        store.checkpoint().expect("checkpoints");
    }
    let mut versions = store.versions(tree, b"k").expect("history is kept");
    let first: Vec<_> = versions.by_ref().take(3).map(|version| version.expect("reads").value).collect();
    store.set_history(tree, Some(History { keep_ms: u64::MAX, keep_bytes: 0 })).expect("keeps less");
    store.purge_history().expect("purges");
    put(&store, "t", b"k", b"newer").expect("commits");
    store.checkpoint().expect("checkpoints");
    let rest = versions.map(|version| version.expect("what a view holds stays readable").value);
    let all: Vec<_> = first.into_iter().chain(rest).collect();
    let wanted: Vec<_> = (0..40_u8).rev().map(|n| Some(vec![n].into())).chain([None]).collect();
    assert_eq!(all, wanted);
}
