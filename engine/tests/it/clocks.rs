//! What clocks say of commits, right ones and wrong ones.

use blazedb_engine::env::SimDisk;
use blazedb_engine::{History, Store};

use crate::support::{NAME, put, roomy};

/// Times in the ledger ascend with commits, also where a load has noted one, or a commit that failed, and the clock is set
/// back behind it.
#[test]
fn times_ascend_behind_loads_and_failed_commits_when_the_clock_is_set_back() {
    for fails in [false, true] {
        let disk = SimDisk::new(1);
        disk.clock().set_wall_ms(1_000_000);
        let store = Store::open(disk.env(NAME), roomy()).expect("creates");
        let tree = store.tree("t").expect("a good name");
        store.set_history(tree, Some(History::ALL)).expect("switches on");
        put(&store, "t", b"a", b"v").expect("commits");
        disk.clock().set_wall_ms(10_000_000);
        if fails {
            let room = disk.names().iter().map(|name| disk.read_file(name).expect("is there").len() as u64).sum();
            disk.set_capacity(Some(room));
            let mut failed = false;
            for _ in 0..200 {
                failed |= put(&store, "t", b"b", &[7; 200_000]).is_err();
                if failed {
                    break;
                }
            }
            assert!(failed, "the log found no room");
            disk.set_capacity(None);
        } else {
            let mut loader = store.loader();
            loader.put(tree, b"b", b"x").expect("room");
            loader.finish().expect("loads");
        }
        disk.clock().set_wall_ms(5_000_000);
        let last = put(&store, "t", b"c", b"v").expect("commits");
        store.checkpoint().expect("checkpoints");
        store.verify(&mut |_| {}).expect("times ascend");
        let at = store.time_of(last).expect("reads").expect("noted");
        assert_eq!(at, 5_000_000, "the time that was ahead is taken back");
        assert_eq!(store.as_of_time(at + 1000).expect("kept").commit_no(), last, "times are known to a second");
        store.close().expect("closes");
        let store = Store::open(disk.env(NAME), roomy()).expect("opens");
        store.verify(&mut |_| {}).expect("and so they do in the next one");
    }
}

/// What a clock said that was ahead for a while ends nothing: what was there at a time follows the clock at once when it is
/// right again, and what is kept does so when it has gone on for as long as that, whoever commits. spec: E-43
#[test]
fn a_clock_that_was_ahead_is_forgotten() {
    for (wrong, loads) in [(1_u64, false), (40, false), (1, true), (200, false)] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), roomy()).expect("creates");
        let tree = store.tree("t").expect("a good name");
        let keep = History { keep_ms: 600_000, keep_bytes: u64::MAX };
        store.set_history(tree, Some(keep)).expect("switches on");
        let wall = || disk.env(NAME).clock.wall_ms();
        let commit = |n: u64| {
            if !loads {
                return put(&store, "t", b"k", &n.to_be_bytes()).expect("commits");
            }
            let mut loader = store.loader();
            loader.put(tree, b"k", &n.to_be_bytes()).expect("room");
            loader.finish().expect("loads").commit_no
        };
        commit(0);
        let right = wall();
        disk.clock().set_wall_ms(right + 10 * 365 * 86_400_000);
        for n in 0..wrong {
            disk.clock().advance_ms(2000);
            commit(n);
            if n % 7 == 0 {
                store.checkpoint().expect("checkpoints");
            }
        }
        disk.clock().set_wall_ms(right);
        let mut made = Vec::new();
        for n in 0..300 {
            disk.clock().advance_ms(10_000);
            made.push((commit(n), wall()));
            let (newest, at_ms) = made[made.len() - 1];
            assert_eq!(store.time_of(newest).expect("reads"), Some(at_ms), "{n} after {wrong}");
            assert_eq!(store.as_of_time(at_ms).expect("kept").commit_no(), newest);
            if n == 40 {
                let (then, at_ms) = made[20];
                assert_eq!(store.as_of_time(at_ms + 9000).expect("kept").commit_no(), then);
                assert_eq!(store.time_of(then).expect("reads"), Some(at_ms));
            }
            // Within what is kept, also after it was believed again.
            if n > 0 && n % 60 == 0 {
                for &(then, at_ms) in &made[made.len() - 55..] {
                    assert_eq!(store.as_of_time(at_ms + 9000).expect("kept").commit_no(), then, "{n} after {wrong}");
                    assert_eq!(store.time_of(then).expect("reads"), Some(at_ms), "{n} after {wrong}");
                }
            }
            if n % 50 == 0 {
                store.checkpoint().expect("checkpoints");
                store.verify(&mut |_| {}).expect("times ascend");
            }
        }
        store.purge_history().expect("purges");
        let info = store.history(tree).expect("reads").expect("it is on");
        assert_eq!((info.oldest, info.versions), (made[made.len() - 61].0, 60), "ten minutes, {wrong}, {loads}");
    }
}

/// A clock that falls behind for a while, as one without a battery does until the network sets it, lets no version go before
/// its time, however few times are known, however often it is set back and whoever opens the store meanwhile. spec: E-43
#[test]
fn a_clock_that_was_behind_loses_no_version() {
    let day = 86_400_000;
    for (edits, behind, back_again, reopens) in [
        (3_u64, 1_u64, 0, false),
        (18, 5, 0, true),
        (35, 10, 0, false),
        (168, 45, 0, true),
        (40, 110, 1, false),
        (2, 500, 1500, true),
    ] {
        let disk = SimDisk::new(1);
        disk.clock().set_wall_ms(1_700_000_000_000);
        let mut store = Store::open(disk.env(NAME), roomy()).expect("creates");
        let tree = store.tree("t").expect("a good name");
        store.set_history(tree, Some(History { keep_ms: 30 * day, keep_bytes: u64::MAX })).expect("switches on");
        let wall = || disk.env(NAME).clock.wall_ms();
        let mut before = Vec::new();
        for _ in 0..edits {
            disk.clock().advance_ms(7 * day / edits);
            before.push((put(&store, "t", b"k", b"v").expect("commits"), wall()));
        }
        let moment = wall();
        disk.clock().set_wall_ms(1_000_000);
        let mut last = 0;
        for n in 0..behind {
            match back_again {
                0 => disk.clock().advance_ms(1000),
                back => disk.clock().set_wall_ms(1_000_000 - n * back),
            }
            if reopens {
                store.close().expect("closes");
                store = Store::open(disk.env(NAME), roomy()).expect("opens");
            }
            last = put(&store, "t", b"k", b"v").expect("commits");
        }
        store.purge_history().expect("purges");
        // As of a time that was: also for who is behind it.
        assert_eq!(store.as_of_time(before[0].1).expect("kept").commit_no(), before[0].0);
        disk.clock().set_wall_ms(moment + 60_000);
        let after = (put(&store, "t", b"k", b"v").expect("commits"), wall());
        store.purge_history().expect("purges");
        store.verify(&mut |_| {}).expect("times ascend");
        let info = store.history(tree).expect("reads").expect("it is on");
        let context = format!("{edits} edits, {behind} behind");
        assert_eq!(info.versions, edits + behind + 1, "{context}: thirty days are not over");
        for &(commit_no, at_ms) in before.iter().chain(&[after]) {
            assert_eq!(store.time_of(commit_no).expect("reads"), Some(at_ms), "{context}");
        }
        let seen = store.as_of_time(after.1 - 1).expect("kept").commit_no();
        assert_eq!(seen, last, "{context}: what was committed meanwhile was there before the next one");
        // When they are over they go, and what was behind counts as of when it came back.
        disk.clock().set_wall_ms(after.1 + 29 * day);
        put(&store, "t", b"k", b"v").expect("commits");
        store.purge_history().expect("purges");
        let info = store.history(tree).expect("reads").expect("it is on");
        assert!(info.oldest < after.0, "{context}: {info:?}");
        disk.clock().advance_ms(2 * day);
        put(&store, "t", b"k", b"v").expect("commits");
        store.purge_history().expect("purges");
        let info = store.history(tree).expect("reads").expect("it is on");
        assert!(info.oldest >= after.0 && info.versions <= 2, "{context}: {info:?}");
    }
}

/// Times are kept for as long as versions are, also where there are none: a store that is written to for days is no longer
/// for it.
#[test]
fn the_ledger_of_times_stays_as_long_as_what_is_kept() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), roomy()).expect("creates");
    let settings = store.tree("settings").expect("a good name");
    store.set_history(settings, Some(History { keep_ms: 600_000, keep_bytes: u64::MAX })).expect("switches on");
    let mut lengths = Vec::new();
    for hour in 0..12 {
        for n in 0..3600_u64 {
            disk.clock().advance_ms(1000);
            let tree = if hour == 0 && n == 5 { "settings" } else { "other" };
            put(&store, tree, b"k", &(hour * 3600 + n).to_be_bytes()).expect("commits");
            if n % 300 == 0 {
                store.checkpoint().expect("checkpoints");
            }
        }
        store.vacuum(256, &mut |_| {}).expect("vacuums");
        lengths.push(disk.read_file(NAME).expect("is there").len());
    }
    assert!(lengths[11] <= lengths[1] + (8 << 10), "{lengths:?}");
    store.verify(&mut |_| {}).expect("sound");
}
