//! Transactions of more than a table, by what they were given, what they streamed, or what their hooks wrote: whole or
//! not at all, whatever fails, and never in a table.

use std::io;
use std::thread;

use blazedb_engine::env::{CallKind, Fault, SimDisk, Survivors};
use blazedb_engine::{CommitError, CommitInfo, Durability, Env, Store};

use crate::support::{Model, NAME, get, model_of, open, options, put};

/// Longer than what a commit carries itself.
const LONG: usize = 100_000;
/// More than a table of `options()`, in rows of 900 bytes.
const ROWS: u8 = 100;

/// What makes a transaction large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Large {
    /// A streamed value beside rows.
    Streams,
    /// The rows of its hook.
    Hooks,
    /// The rows of its hook, and it streamed a value.
    StreamsAndHooks,
}

const ALL: [Large; 3] = [Large::Streams, Large::Hooks, Large::StreamsAndHooks];

/// Commits such a transaction, without durability asked for: what is in pages is durable all the same.
fn commit(store: &Store, large: Large, mark: u8) -> Result<CommitInfo, CommitError> {
    let mut tx = store.write();
    let rows = tx.tree("rows").expect("a good name");
    let long = tx.tree("long").expect("a good name");
    tx.put(rows, b"mark", &[mark]).expect("room");
    if large != Large::Hooks {
        tx.put_stream(long, b"long", LONG as u64, &mut &vec![mark; LONG][..]).map_err(|error| match error {
            blazedb_engine::StreamError::DiskFull { .. } => CommitError::Hook("no room for the value".into()),
            other => CommitError::Hook(other.to_string().into()),
        })?;
    }
    if large == Large::Streams {
        (0..ROWS).for_each(|n| tx.put(rows, &[n], &[mark; 900]).expect("room"));
    }
    tx.commit_with(Durability::None, |serial| {
        if large != Large::Streams {
            for n in 0..ROWS {
                serial.put(rows, &[n], &[mark; 900])?;
            }
        }
        Ok(())
    })
}

/// What a store holds after `commit`.
fn after(large: Large, mark: u8, mut model: Model) -> Model {
    let rows = model.entry("rows".into()).or_default();
    rows.insert(b"mark".to_vec(), vec![mark]);
    (0..ROWS).for_each(|n| drop(rows.insert(vec![n], vec![mark; 900])));
    if large != Large::Hooks {
        model.entry("long".into()).or_default().insert(b"long".to_vec(), vec![mark; LONG]);
    }
    model
}

/// Writes checkpoints, and panics unless every page of the file is reached by a tree, pending, or free.
fn check_space(store: &Store) {
    for _ in 0..2 {
        put(store, "mark", b"", b"").expect("commits");
        store.checkpoint().expect("checkpoints");
    }
    let (report, stats) = (store.verify(&mut |_| {}).expect("pages and space agree"), store.stats());
    let known = report.bytes + stats.held_bytes + stats.free_bytes + (128 << 10);
    assert_eq!((stats.ahead_bytes, stats.page_file_bytes), (0, known), "{stats:?}");
}

#[test]
fn whatever_makes_a_transaction_large_it_goes_into_pages() {
    for large in ALL {
        let disk = SimDisk::new(1);
        let store = open(&disk);
        put(&store, "rows", b"there", b"1").expect("commits");
        let mut model = model_of(&store);
        for mark in 1..4 {
            // The second and third replace what the one before has written.
            let done = commit(&store, large, mark).expect("commits");
            let stats = store.stats();
            assert!(done.changed && stats.checkpoint_commit_no == done.commit_no, "{large:?}: {stats:?}");
            assert_eq!(stats.durable_commit_no, done.commit_no);
            assert!(stats.table_bytes < 4096, "{large:?}: nothing went through a table: {stats:?}");
            model = after(large, mark, model);
            assert_eq!(model_of(&store), model, "{large:?}");
        }
        put(&store, "rows", b"behind", b"2").expect("the log goes on behind it");
        model.get_mut("rows").expect("is there").insert(b"behind".to_vec(), b"2".to_vec());
        for survivors in Survivors::ALL {
            let store = open(&disk.after_crash(survivors, 1));
            assert_eq!(model_of(&store), model, "{large:?} after {survivors:?}");
            check_space(&store);
        }
        check_space(&store);
    }
}

/// An error at every write and sync, and a disk that is full there: the transaction is there as a whole or not at all,
/// in the open store and in the next one, and no page of its value is lost.
#[test]
fn a_large_transaction_is_whole_whatever_fails() {
    let mut failures = 0;
    for large in ALL {
        for (kind, error) in [
            (CallKind::Write, io::ErrorKind::StorageFull),
            (CallKind::Write, io::ErrorKind::Other),
            (CallKind::Sync, io::ErrorKind::Other),
        ] {
            for call in 0.. {
                let disk = SimDisk::new(2);
                let store = open(&disk);
                put(&store, "rows", b"there", b"1").expect("commits");
                commit(&store, large, 1).expect("commits");
                let old = model_of(&store);
                let new = after(large, 2, old.clone());
                disk.fail(Fault { kind, nth: call, error, for_ever: false });
                let done = commit(&store, large, 2);
                disk.heal();
                let Err(failed) = done else {
                    assert_eq!(model_of(&store), new, "{large:?}");
                    break;
                };
                failures += 1;
                let context = format!("{large:?}, {kind:?} {call}, {error:?}: {failed}");
                assert_eq!(model_of(&store), old, "{context}");
                let is_over = matches!(failed, CommitError::Poisoned { .. }) || commit(&store, large, 2).is_err();
                let mut wanted = vec![old, new.clone()];
                if !is_over {
                    assert_eq!(model_of(&store), new, "{context}");
                    check_space(&store);
                    wanted.remove(0);
                }
                drop(store);
                let store = Store::open(disk.after_crash(Survivors::All, 1).env(NAME), options()).expect("opens");
                let mut found = model_of(&store);
                found.remove("mark");
                assert!(wanted.contains(&found), "{context}");
                check_space(&store);
            }
        }
    }
    assert!(failures > 30, "{failures} calls were failed");
}

/// Nobody commits between what a hook reads and its commit, also where that has become a load; beside others of its
/// kind, loads, and small commits.
#[test]
fn a_hook_that_writes_much_sees_the_newest_state() {
    let disk = SimDisk::new(3);
    let env = Env { threads: true, ..disk.env(NAME) };
    let store = Store::open(env, options()).expect("opens");
    let tree = store.tree("t").expect("a good name");
    let count = |large: bool| {
        let tx = store.write();
        tx.commit_with(Durability::Buffered, |serial| {
            let n =
                serial.get(tree, b"n")?.map_or(0, |n| u64::from_le_bytes((&n[..]).try_into().expect("eight bytes")));
            serial.put(tree, b"n", &(n + 1).to_le_bytes())?;
            for row in 0..if large { ROWS } else { 1 } {
                serial.put(tree, &[row], &[7; 900])?;
            }
            Ok(())
        })
        .expect("hooks do not conflict");
    };
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn({
                let (store, count) = (&store, &count);
                move || {
                    for round in 0..30_u8 {
                        count((round + thread) % 3 == 0);
                        if round % 7 == thread {
                            let mut loader = store.loader();
                            loader.put(tree, &[200 + thread], &[round]).expect("room");
                            loader.finish().expect("loads");
                        }
                    }
                }
            });
        }
    });
    assert_eq!(get(&store, "t", b"n"), Some(120_u64.to_le_bytes().to_vec()));
    drop(store);
    assert_eq!(get(&open(&disk), "t", b"n"), Some(120_u64.to_le_bytes().to_vec()));
}

/// A checkpoint that found no room leaves its table frozen, and commits go on beside it: a transaction that becomes large
/// then has two tables to wait for.
#[test]
fn a_large_transaction_follows_a_checkpoint_that_found_no_room() {
    for large in ALL {
        let disk = SimDisk::new(4);
        let store = open(&disk);
        for n in 0..20_u8 {
            put(&store, "rows", &[b'x', n], &[1; 100]).expect("commits");
        }
        disk.fail(Fault { kind: CallKind::Write, nth: 0, error: io::ErrorKind::StorageFull, for_ever: true });
        assert!(store.checkpoint().is_err(), "there is no room");
        disk.heal();
        put(&store, "rows", b"beside", b"v").expect("the log has room");
        let wanted = after(large, 1, model_of(&store));
        commit(&store, large, 1).expect("there is room again");
        assert_eq!(model_of(&store), wanted, "{large:?}");
        check_space(&store);
    }
}

/// A crash between the two headers of a load may show the load. Whoever opens the store writes the second header, so that
/// no damage to one of them takes away what was shown, or what was acknowledged behind it. spec: E-15
#[test]
fn a_load_that_was_cut_off_between_its_headers_stays_whatever_is_damaged_later() {
    let mut shown = 0;
    for crash_at in 0.. {
        let disk = SimDisk::new(5);
        let store = open(&disk);
        put(&store, "rows", b"before", b"v").expect("commits");
        disk.crash_at(crash_at);
        let done = commit(&store, Large::Hooks, 1).is_ok();
        drop(store);
        for survivors in Survivors::ALL {
            let disk = disk.after_crash(survivors, 1);
            let store = open(&disk);
            if get(&store, "rows", b"mark").is_none() {
                continue;
            }
            shown += 1;
            for commits in 0..2 {
                if commits == 1 {
                    put(&store, "rows", b"behind", b"v").expect("commits");
                }
                let wanted = model_of(&store);
                for slot in [0_u64, 64 << 10] {
                    let disk = disk.after_crash(Survivors::All, 1);
                    assert!(disk.flip_bit(NAME, (slot + 100) * 8));
                    let store = Store::open(disk.env(NAME), options()).expect("the other header holds everything");
                    assert_eq!(model_of(&store), wanted, "crash {crash_at}, {survivors:?}, slot at {slot}, {commits}");
                }
            }
        }
        if done {
            break;
        }
    }
    assert!(shown > 5, "{shown} crashes came behind the first header");
}
