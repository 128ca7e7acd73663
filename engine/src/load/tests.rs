//! Loads with a small arena: so many runs that they are merged in between.

use std::collections::BTreeMap;
use std::io;

use super::{FAN_IN, Loader};
use crate::env::{CallKind, Fault, SimDisk, mix};
use crate::error::CommitError;
use crate::options::Options;
use crate::store::Store;

const ARENA_BYTES: usize = 16 << 10;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Puts rows, in no order and some of them again, until there have been `runs` runs. A row that finds no room is put
/// again.
fn put_rows(loader: &mut Loader, runs: usize) -> (Rows, usize) {
    let tree = loader.tree("t").expect("a good name");
    let (mut rows, mut refused, mut given) = (Rows::new(), 0, 0);
    for n in 0.. {
        let key = (mix(n) % 6000).to_be_bytes().to_vec();
        let value = n.to_le_bytes().repeat(1 + mix(n) as usize % 40);
        given += key.len() + value.len() + 26;
        while let Err(error) = loader.put(tree, &key, &value) {
            assert!(matches!(error, CommitError::DiskFull { .. }), "{error}");
            refused += 1;
        }
        rows.insert(key, value);
        if given > runs * ARENA_BYTES {
            return (rows, refused);
        }
    }
    unreachable!("the numbers do not end")
}

fn content(store: &Store) -> Rows {
    let view = store.read();
    let tree = view.tree("t").expect("reads").expect("has rows");
    view.range(tree, ..).map(|item| item.expect("reads")).map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
}

#[test]
fn runs_are_merged_when_there_are_many_and_the_newest_row_wins() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env("a"), Options::raw_key([1; 32])).expect("opens");
    for round in 0..2 {
        let mut loader = Loader::new(&store.inner, ARENA_BYTES);
        let (rows, refused) = put_rows(&mut loader, 2 * FAN_IN + FAN_IN / 2);
        assert_eq!(refused, 0);
        let levels: Vec<_> = loader.runs.list.iter().map(|run| run.level).collect();
        assert!(levels.starts_with(&[1, 1, 0, 0]) && levels.len() < FAN_IN, "round {round}: {levels:?}");
        loader.finish().expect("loads");
        assert!(content(&store) == rows);
        store.verify(&mut |_| {}).expect("pages and space agree");
    }
}

/// A load that is dropped, and one that met a full disk at any write, its merges included, leave no page behind, and the
/// latter loses no row.
#[test]
fn a_full_disk_in_a_merge_of_runs_loses_nothing() {
    let mut refusals = 0;
    for nth in (0..).step_by(7) {
        let disk = SimDisk::new(2);
        let store = Store::open(disk.env("a"), Options::unencrypted()).expect("opens");
        drop({
            let mut loader = Loader::new(&store.inner, ARENA_BYTES);
            put_rows(&mut loader, 10);
            loader
        });
        let used = |store: &Store| {
            let guard = store.inner.disk.lock();
            let counts = guard.as_ref().expect("it is open").space.lock().counts();
            counts.used + counts.ahead
        };
        let before = used(&store);
        let writes = disk.calls(CallKind::Write);
        disk.fail(Fault { kind: CallKind::Write, nth, error: io::ErrorKind::StorageFull, for_ever: false });
        let mut loader = Loader::new(&store.inner, ARENA_BYTES);
        let (rows, refused) = put_rows(&mut loader, FAN_IN + 4);
        let all = disk.calls(CallKind::Write) - writes;
        disk.heal();
        if nth % 2 == 0 {
            loader.finish().expect("there is room");
            assert!(content(&store) == rows);
            store.verify(&mut |_| {}).expect("pages and space agree");
        } else {
            drop(loader);
            assert_eq!(used(&store), before, "a load that was dropped holds no page");
        }
        refusals += refused;
        if all <= nth {
            break;
        }
    }
    assert!(refusals > 5, "{refusals}");
}
