//! Backups that carry history, and the moments that are restored out of them.

use std::collections::BTreeMap;
use std::io::Read;

use blazedb_engine::env::{SimDisk, Survivors};
use blazedb_engine::{
    BackupOptions, History, Moment, Options, RestoreAt, RestoreError, RestoreReport, Store, restore_at,
};

use crate::history::{Past, State, maintained, oldest, random_commit, random_load, set_history, shown, with_versions};
use crate::support::{NAME, Random, model_of, options, owned, put, roomy, scale, unencrypted};

fn backed_up(store: &Store, base: Option<&[u8]>) -> Vec<u8> {
    let (mut out, how) = (Vec::new(), BackupOptions::default().history(true));
    match base {
        None => store.backup(&mut out, &how, &mut |_| {}).expect("backs up"),
        Some(mut base) => store.backup_since(&mut base, &mut out, &how, &mut |_| {}).expect("backs up"),
    };
    out
}

fn restored_at(parts: &[&[u8]], how: &Options, at: Moment, disk: &SimDisk) -> Result<RestoreReport, RestoreError> {
    let mut inputs: Vec<&[u8]> = parts.to_vec();
    let inputs = inputs.iter_mut().map(|input| input as &mut dyn Read).collect();
    restore_at(disk.env(NAME), how.clone(), inputs, &how.key, RestoreAt::new(at), &mut |_| {})
}

/// Backups that carry history, full and in increments, of stores to which everything happens: whatever moment they hold is
/// restored as it was, by commit and by time. spec: BK-13, BK-14
#[test]
fn any_moment_that_a_chain_of_backups_holds_can_be_restored() {
    for seed in 1..=6 * scale() {
        let encrypted = seed % 2 == 1;
        let how = if encrypted { options() } else { unencrypted() };
        let disk = SimDisk::new(seed);
        let mut random = Random::new(seed);
        let mut past = Past::default();
        let mut store = Store::open(disk.env(NAME), how.clone()).expect("opens");
        for _ in 0..10 {
            random_commit(&store, &mut past, &mut random, &disk).expect("commits");
        }
        let keep = History { keep_ms: if seed % 3 == 0 { 60_000 } else { u64::MAX }, keep_bytes: u64::MAX };
        set_history(&store, &mut past, Some(keep)).expect("commits");
        let mut chain: Vec<Vec<u8>> = Vec::new();
        let mut times: BTreeMap<u64, u64> = BTreeMap::new();
        for round in 0..5 {
            for _ in 0..random.below(40) {
                random_commit(&store, &mut past, &mut random, &disk).expect("commits");
                times.insert(past.newest, disk.env(NAME).clock.wall_ms());
                match random.below(30) {
                    0 => maintained(store.checkpoint()),
                    1 => drop(store.vacuum(0, &mut |_| {}).expect("vacuums")),
                    2 => {
                        maintained(store.close());
                        store = Store::open(disk.env(NAME), how.clone()).expect("opens");
                    }
                    3 => random_load(&store, &mut past, &mut random).expect("loads"),
                    4 => maintained(store.purge_history()),
                    _ => {}
                }
            }
            let next = backed_up(&store, chain.last().map(Vec::as_slice));
            chain.push(next);
            let parts: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
            let tree = store.tree("notes").expect("a good name");
            let oldest = oldest(&store, tree).expect("it is on");
            for at in [oldest, past.newest, oldest + random.below(past.newest - oldest + 1)] {
                let context = format!("seed {seed} round {round}: {at} of {oldest}..{}", past.newest);
                let target = SimDisk::new(seed + 100);
                let report = restored_at(&parts, &how, Moment::Commit(at), &target).expect(&context);
                assert_eq!(report.commit_no, at, "{context}");
                let kept_back = if at == past.newest { &[][..] } else { &["plain".to_owned()][..] };
                assert_eq!(report.without_history, kept_back, "{context}");
                check_restored(&target, &how, ("notes", &past.state(at)), keep, &context);
            }
            if let Some((_, &wall_ms)) = times.range(oldest + 1..).nth(random.below(10) as usize) {
                let then = store.as_of_time(wall_ms).expect("it is kept").commit_no();
                let target = SimDisk::new(seed + 200);
                let report = restored_at(&parts, &how, Moment::Time(wall_ms), &target).expect("it is kept");
                assert_eq!(report.commit_no, then, "seed {seed} round {round}: at {wall_ms}");
                check_restored(&target, &how, ("notes", &past.state(then)), keep, "by time");
            }
            let refused = |at| restored_at(&parts, &how, at, &SimDisk::new(9)).expect_err("not in the backups");
            assert!(
                matches!(refused(Moment::Commit(oldest - 1)), RestoreError::BeforeHistory { oldest: o } if o == oldest)
            );
            assert!(matches!(refused(Moment::Time(1)), RestoreError::BeforeHistory { .. }));
            assert!(matches!(refused(Moment::Commit(past.newest + 1)), RestoreError::AfterBackup { .. }));
            assert!(matches!(refused(Moment::Time(u64::MAX)), RestoreError::AfterBackup { .. }));
        }
    }
}

fn check_restored(disk: &SimDisk, how: &Options, (name, want): (&str, &State), keep: History, context: &str) {
    let store = Store::open(disk.env(NAME), how.clone().create(false)).expect("a whole store");
    let found = model_of(&store).remove(name).unwrap_or_default();
    assert!(found == *want, "{context}: {:?} instead of {:?}", shown(&found), shown(want));
    let tree = store.tree(name).expect("a good name");
    let info = store.history(tree).expect("reads").expect("history is on as it was");
    assert_eq!((info.keep, info.versions), (keep, 0), "{context}: it begins with the restore");
    store.verify(&mut |_| {}).expect("sound");
}

/// A long version, and one that nobody put in one piece, are restored; increments keep what did not change of a history.
#[test]
fn long_versions_travel_and_increments_keep_the_past_that_did_not_change() {
    let disk = SimDisk::new(2);
    let store = with_versions(&disk, &roomy());
    let tree = store.tree("t").expect("a good name");
    let long = vec![9; 5 << 20];
    let mut tx = store.write();
    tx.put_stream(tree, b"film", long.len() as u64, &mut &long[..]).expect("streams");
    let then = tx.commit().expect("commits").commit_no;
    put(&store, "t", b"film", b"short").expect("commits");
    store.checkpoint().expect("checkpoints");
    let full = backed_up(&store, None);
    put(&store, "t", b"zz", b"v").expect("commits");
    let more = backed_up(&store, Some(&full));
    assert!(full.len() > long.len() && more.len() < 60_000, "{} bytes, {} bytes more", full.len(), more.len());
    let target = SimDisk::new(3);
    restored_at(&[&full, &more], &roomy(), Moment::Commit(then), &target).expect("restores");
    let restored = Store::open(target.env(NAME), roomy()).expect("opens");
    let tree = restored.tree("t").expect("a good name");
    assert!(restored.read().get(tree, b"film").expect("reads").as_deref() == Some(&long[..]));
    assert_eq!(restored.read().get(tree, b"zz").expect("reads"), None);
    // A reader of the past, by pieces, though the pages are moved under it.
    let past = store.as_of(then).expect("kept");
    let tree = store.tree("t").expect("a good name");
    let mut reader = past.value_reader(tree, b"film").expect("reads").expect("it was there");
    drop(past);
    let mut seen = vec![0; 1 << 20];
    reader.read_exact(&mut seen).expect("reads");
    store.vacuum(0, &mut |_| {}).expect("vacuums");
    store.checkpoint().expect("checkpoints");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("reads");
    seen.extend(rest);
    assert!(seen == long);
    // One that has no history says so.
    let mut plain = Vec::new();
    store.backup(&mut plain, &BackupOptions::default(), &mut |_| {}).expect("backs up");
    let refused = restored_at(&[&plain], &roomy(), Moment::Commit(then), &SimDisk::new(4));
    assert!(matches!(refused, Err(RestoreError::NoHistory { .. })), "{refused:?}");
}

/// A backup that leaves the versions out still says of which trees they are kept, wherever in a chain it stands: the restored
/// store keeps as much of the same trees, from the restore on. spec: BK-13, BK-14
#[test]
fn a_restored_store_keeps_history_of_the_same_trees_also_where_the_backup_left_it_out() {
    for with_history in [[false, false], [true, false], [false, true]] {
        let disk = SimDisk::new(5);
        let store = with_versions(&disk, &roomy());
        let other = store.tree("other").expect("a good name");
        let kept = [("t", History { keep_ms: 1 << 40, keep_bytes: u64::MAX }), ("other", History::ALL)];
        store.set_history(store.tree("t").expect("a good name"), Some(kept[0].1)).expect("commits");
        store.set_history(other, Some(kept[1].1)).expect("commits");
        put(&store, "plain", b"k", b"v").expect("commits");
        let mut parts: Vec<Vec<u8>> = Vec::new();
        for history in with_history {
            put(&store, "t", b"more", &[history.into(); 300]).expect("commits");
            let (mut out, how) = (Vec::new(), BackupOptions::default().history(history));
            match parts.last() {
                None => store.backup(&mut out, &how, &mut |_| {}),
                Some(base) => store.backup_since(&mut &base[..], &mut out, &how, &mut |_| {}),
            }
            .expect("backs up");
            parts.push(out);
        }
        let target = SimDisk::new(6);
        let newest = store.read().commit_no();
        let chain: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        let report = restored_at(&chain, &roomy(), Moment::Commit(newest), &target).expect("restores");
        assert_eq!(report.trees, 3, "what is said of history is no tree");
        let restored = Store::open(target.env(NAME), roomy()).expect("opens");
        for (name, keep) in kept {
            let tree = restored.tree(name).expect("a good name");
            let info = restored.history(tree).expect("reads").expect("history is on as it was");
            assert_eq!((info.keep, info.versions), (keep, 0), "{with_history:?}");
        }
        let plain = restored.tree("plain").expect("a good name");
        assert_eq!(restored.history(plain).expect("reads"), None);
        let earlier = restored_at(&chain, &roomy(), Moment::Commit(newest - 1), &SimDisk::new(7));
        match with_history[1] {
            true => drop(earlier.expect("it is in the increment")),
            false => assert!(matches!(earlier, Err(RestoreError::NoHistory { .. })), "{earlier:?}"),
        }
    }
}

/// A backup that was made under a clock that is behind can be restored as of the times that its commits have.
#[test]
fn a_backup_under_a_clock_that_is_behind_is_restored_by_the_times_of_its_commits() {
    let disk = SimDisk::new(8);
    let store = Store::open(disk.env(NAME), roomy()).expect("creates");
    let tree = store.tree("t").expect("a good name");
    disk.clock().set_wall_ms(1_700_000_000_000);
    store.set_history(tree, Some(History::ALL)).expect("switches on");
    let mut made = Vec::new();
    for n in 0..10_u8 {
        disk.clock().advance_ms(60_000);
        made.push((put(&store, "t", b"k", &[n]).expect("commits"), disk.env(NAME).clock.wall_ms()));
    }
    disk.clock().set_wall_ms(1000);
    let bytes = backed_up(&store, None);
    for &(commit_no, at_ms) in &made {
        let report = restored_at(&[&bytes], &roomy(), Moment::Time(at_ms), &SimDisk::new(9)).expect("restores");
        assert_eq!((report.commit_no, store.as_of_time(at_ms).expect("kept").commit_no()), (commit_no, commit_no));
    }
    let later = restored_at(&[&bytes], &roomy(), Moment::Time(made[9].1 + 1), &SimDisk::new(9));
    assert!(matches!(later, Err(RestoreError::AfterBackup { .. })), "{later:?}");
}

/// Backups with history of every format version are restored for ever, as of each of their commits. spec: BK-13
#[test]
fn kept_backups_with_history_are_restored_for_ever() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/backups");
    let how = unencrypted();
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), how.clone()).expect("creates");
    let tree = store.tree("rows").expect("a good name");
    store.set_history(tree, Some(History { keep_ms: 1 << 40, keep_bytes: u64::MAX })).expect("switches on");
    let (mut states, mut made) = (BTreeMap::new(), Vec::new());
    for round in 0..6_u32 {
        disk.clock().advance_ms(1500);
        let mut tx = store.write();
        for n in (0..120_u32).filter(|n| round == 0 || n % 40 == round) {
            match (n + round) % 3 {
                0 => tx.delete(tree, &n.to_be_bytes()).expect("a good key"),
                _ => tx.put(tree, &n.to_be_bytes(), format!("row {n} of round {round}").as_bytes()).expect("room"),
            }
        }
        tx.put(tree, b"long", &vec![round as u8; 3000]).expect("room");
        let commit_no = tx.commit().expect("commits").commit_no;
        states.insert(commit_no, model_of(&store)["rows"].clone());
        if round % 3 == 1 {
            maintained(store.checkpoint());
        }
        if round % 3 == 2 {
            made.push(backed_up(&store, made.last().map(|base: &Vec<u8>| &base[..])));
        }
    }
    let paths = ["full", "more"].map(|part| folder.join(format!("v0-history.{part}.bak")));
    if std::env::var_os("BLAZE_BLESS").is_some() {
        for (path, bytes) in paths.iter().zip(&made) {
            std::fs::write(path, bytes).expect("spec/ can be written");
        }
    }
    let [full, more] = paths.map(|path| std::fs::read(path).expect("a kept backup"));
    for (&commit_no, state) in &states {
        for parts in [&[&full[..]][..], &[&full[..], &more[..]]] {
            let target = SimDisk::new(2);
            match restored_at(parts, &how, Moment::Commit(commit_no), &target) {
                Ok(_) => {
                    let found = model_of(&Store::open(target.env(NAME), how.clone()).expect("opens"));
                    assert!(found["rows"] == *state, "as of {commit_no}");
                }
                Err(RestoreError::AfterBackup { .. }) if parts.len() == 1 => {
                    assert!(commit_no > states.len() as u64 / 2);
                }
                Err(error) => panic!("as of {commit_no}: {error}"),
            }
        }
    }
}

/// What is purged while a backup is being made is in it all the same.
#[test]
fn a_backup_holds_the_history_that_is_purged_meanwhile() {
    struct Midway<'m> {
        left: usize,
        bytes: Vec<u8>,
        then: &'m mut dyn FnMut(),
    }
    impl std::io::Write for Midway<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.left = self.left.saturating_sub(1);
            if self.left == 1 {
                (self.then)();
            }
            self.bytes.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let disk = SimDisk::new(2);
    let store = with_versions(&disk, &roomy());
    let tree = store.tree("t").expect("a good name");
    let first = oldest(&store, tree).expect("it is on") + 1;
    let view = store.as_of(first).expect("kept");
    let want: State = view.range(tree, ..).expect("kept").map(owned).collect();
    drop(view);
    // Asked for before the backup, and done when it has begun: its view could be moved to pages that are purged.
    let keep = History { keep_ms: u64::MAX, keep_bytes: 0 };
    store.set_history(tree, Some(keep)).expect("keeps less");
    let mut then = || {
        maintained(store.purge_history());
        for n in 0..30_u8 {
            put(&store, "t", &[n; 3], b"later").expect("commits");
            maintained(store.checkpoint());
        }
    };
    let mut out = Midway { left: 4, bytes: Vec::new(), then: &mut then };
    store.backup(&mut out, &BackupOptions::default().history(true), &mut |_| {}).expect("backs up");
    assert!(oldest(&store, tree).expect("it is on") > first, "it was purged");
    let target = SimDisk::new(3);
    restored_at(&[&out.bytes], &roomy(), Moment::Commit(first), &target).expect("restores");
    check_restored(&target, &roomy(), ("t", &want), keep, "purged meanwhile");
}

/// Two tables over the pages, as while a checkpoint is written: a version of the newer one may lie in the older one.
#[test]
fn a_backup_takes_versions_out_of_both_tables() {
    let disk = SimDisk::new(2);
    let store = with_versions(&disk, &roomy());
    let tree = store.tree("t").expect("a good name");
    let mut states: BTreeMap<u64, State> = BTreeMap::new();
    let mut write = |round: u8| {
        let mut tx = store.write();
        for n in 0..30_u8 {
            let key = [n * 3 + round % 3; 3];
            if n % 7 == round % 7 {
                tx.delete(tree, &key).expect("a good key");
            } else {
                tx.put(tree, &key, &[round, n].repeat(200)).expect("room");
            }
        }
        let commit_no = tx.commit().expect("commits").commit_no;
        states.insert(commit_no, model_of(&store)["t"].clone());
    };
    (0..4).for_each(&mut write);
    let used: u64 = disk.names().iter().map(|name| disk.read_file(name).expect("is there").len() as u64).sum();
    disk.set_capacity(Some(used));
    assert!(store.checkpoint().is_err(), "there is no room for pages: the table stays frozen");
    disk.set_capacity(None);
    (4..8).for_each(&mut write);
    let full = backed_up(&store, None);
    for (&commit_no, state) in &states {
        let past: State = store.as_of(commit_no).expect("kept").range(tree, ..).expect("kept").map(owned).collect();
        assert!(past == *state, "as of {commit_no}");
        let target = SimDisk::new(3);
        restored_at(&[&full], &roomy(), Moment::Commit(commit_no), &target).expect("restores");
        check_restored(&target, &roomy(), ("t", state), History::ALL, &format!("as of {commit_no}"));
    }
}

/// A crash anywhere in the restore of a moment leaves no store or all of it.
#[test]
fn a_crash_at_every_point_of_the_restore_of_a_moment_leaves_no_store_or_all_of_it() {
    let source = SimDisk::new(1);
    let store = with_versions(&source, &options());
    let tree = store.tree("t").expect("a good name");
    let at = oldest(&store, tree).expect("it is on") + 20;
    let view = store.as_of(at).expect("kept");
    let want: State = view.range(tree, ..).expect("kept").map(owned).collect();
    drop(view);
    let full = backed_up(&store, None);
    let run = |disk: &SimDisk| restored_at(&[&full], &options(), Moment::Commit(at), disk);
    let whole = SimDisk::new(2);
    run(&whole).expect("restores");
    let points = whole.changes();
    assert!(points > 30, "{points} crash points");
    for point in 0..points {
        let disk = SimDisk::new(2);
        disk.crash_at(point);
        let ended = run(&disk);
        assert!(disk.is_dead() && ended.is_err(), "the crash comes");
        for (i, survivors) in Survivors::ALL.into_iter().enumerate() {
            if scale() == 1 && i as u64 != point % 5 {
                continue;
            }
            let context = format!("point {point} {survivors:?}");
            let after = disk.after_crash(survivors, point * 31);
            if let Err(error) = Store::open(after.env(NAME), options().create(false)) {
                assert!(matches!(error, blazedb_engine::OpenError::NotFound { .. }), "{context}: {error:?}");
                run(&after).unwrap_or_else(|e| panic!("{context}: the next try: {e:?}"));
            }
            check_restored(&after, &options(), ("t", &want), History::ALL, &context);
        }
    }
}

/// A row whose key is empty comes back into a tree that is empty in the backup.
#[test]
fn a_row_with_the_empty_key_is_there_at_the_moment_when_it_was() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), options()).expect("creates");
    for tree in ["t", "u"] {
        store.set_history(store.tree(tree).expect("a good name"), Some(History::ALL)).expect("is kept");
        put(&store, tree, b"", b"setting").expect("commits");
        put(&store, tree, b"k", b"v").expect("commits");
    }
    let (at, then) = (store.stats().commit_no, model_of(&store));
    let mut tx = store.write();
    for tree in ["t", "u"].map(|tree| store.tree(tree).expect("a good name")) {
        tx.delete(tree, b"").expect("a good key");
        tx.delete(tree, b"k").expect("a good key");
    }
    tx.commit().expect("commits");
    let (backup, target, how) = (backed_up(&store, None), SimDisk::new(2), options());
    restored_at(&[&backup], &how, Moment::Commit(at), &target).expect("restores");
    assert_eq!(model_of(&Store::open(target.env(NAME), how).expect("opens")), then);
}
