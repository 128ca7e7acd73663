//! Logs that say more than the tables of who opens them hold.

use std::io::Cursor;

use blazedb_engine::env::{CallKind, Fault, SimDisk, Survivors};
use blazedb_engine::{Durability, Memory, OpenError, Options, Store, log_file_names};

use crate::support::{Model, NAME, Random, get, model_of, options, put, random_changes, roomy, unencrypted};

/// Less than one commit of the workload may say.
const TIGHT: Memory = Memory { cache_bytes: 64 << 10, table_bytes: 1200, log_bytes: 256 << 10 };

/// Longer than what is written like other values.
const LONG: usize = 70 << 10;

/// A store whose log holds all that was written since its first few commits, and what it shows.
fn with_a_long_log(disk: &SimDisk, options: &Options, seed: u64) -> Model {
    let store = Store::open(disk.env(NAME), options.clone().memory(Memory::CLIENT)).expect("opens");
    let (mut random, mut model) = (Random::new(seed), Model::new());
    for step in 0..60 {
        let mut tx = store.write();
        random_changes(&mut random, &mut tx, &mut model);
        let tree = tx.tree("long").expect("a good name");
        let key = [random.below(4) as u8];
        match step % 5 {
            0 => {
                let value = vec![step as u8; LONG];
                tx.put_stream(tree, &key, LONG as u64, &mut Cursor::new(&value)).expect("room");
                model.entry("long".to_owned()).or_default().insert(key.to_vec(), value);
            }
            2 => {
                let value = vec![step as u8; 9000];
                tx.put_pieces(tree, &key, &[&value[..3000], &value[..3000], &value[..3000]]).expect("room");
                model.entry("long".to_owned()).or_default().insert(key.to_vec(), value);
            }
            4 => {
                tx.delete(tree, &key).expect("a good key");
                model.entry("long".to_owned()).or_default().remove(&key[..]);
                model.retain(|_, entries| !entries.is_empty());
            }
            _ => {}
        }
        let durability = if step % 3 == 0 { Durability::Durable } else { Durability::Buffered };
        tx.commit_with(durability, |_| Ok(())).expect("commits");
        if step == 9 {
            store.checkpoint().expect("checkpoints");
        }
    }
    store.flush().expect("a disk that works");
    disk.crash_at(0);
    model
}

fn tight(options: &Options) -> Options {
    options.clone().memory(TIGHT).create(false)
}

/// Long values beyond any number that tables could hold, most of them deleted again by later commits: none of the others is
/// taken for one that was replaced, and nobody gets their pages.
#[test]
fn long_values_of_a_long_log_all_stay() {
    const VALUES: u16 = 60;
    for delete in [0, 57] {
        let key = |n: u16| [&n.to_be_bytes()[..], &[b'k'; 1000]].concat();
        let value = |n: u16| vec![n as u8; LONG];
        let disk = SimDisk::new(9);
        let store = Store::open(disk.env(NAME), options().memory(Memory::CLIENT)).expect("opens");
        let tree = store.tree("long").expect("a good name");
        let mut tx = store.write();
        for n in 0..VALUES {
            tx.put_stream(tree, &key(n), LONG as u64, &mut Cursor::new(value(n))).expect("room");
        }
        tx.commit().expect("commits");
        let mut tx = store.write();
        for n in 0..delete {
            tx.delete(tree, &key(n)).expect("a good key");
        }
        tx.commit().expect("commits");
        disk.crash_at(0);
        drop(store);
        let disk = disk.after_crash(Survivors::None, 9);
        for round in 0..3 {
            let store = Store::open(disk.env(NAME), tight(&options())).expect("opens");
            let view = store.read();
            let tree = view.tree("long").expect("reads").expect("it was made");
            assert_eq!(view.len(tree).expect("reads"), u64::from(VALUES - delete), "round {round}");
            for n in delete..VALUES {
                assert_eq!(view.get(tree, &key(n)).expect("reads").as_deref(), Some(&value(n)[..]), "round {round}");
            }
            drop(view);
            put(&store, "other", &[round], &[1; 20_000]).expect("commits");
            let mut tx = store.write();
            let other = tx.tree("other long").expect("a good name");
            tx.put_stream(other, &[round], LONG as u64, &mut Cursor::new(vec![0xEE; LONG])).expect("room");
            tx.commit().expect("commits");
            store.checkpoint().expect("checkpoints");
            store.verify(&mut |_| {}).expect("every page is somebody's");
        }
    }
}

/// Whatever its own memory is, an opening finds all of a log; and what it found stays.
#[test]
fn a_log_that_fits_into_no_table_goes_into_pages() {
    for (seed, options) in [(1, options()), (2, unencrypted()), (3, options().page_bytes(16384))] {
        let disk = SimDisk::new(seed);
        let model = with_a_long_log(&disk, &options, seed);
        let disk = disk.after_crash(Survivors::None, seed);
        let store = Store::open(disk.env(NAME), tight(&options)).expect("opens");
        assert!(store.stats().table_bytes <= 4 * TIGHT.table_bytes as u64, "{:?}", store.stats());
        assert_eq!(model_of(&store), model);
        store.verify(&mut |_| {}).expect("pages and space agree");
        let pages = store.stats().page_file_bytes;
        put(&store, "rows", b"next", b"value").expect("commits");
        // Once more, and this time with a log of one commit, and with room.
        let disk = disk.after_crash(Survivors::None, seed);
        let store = Store::open(disk.env(NAME), options.clone().memory(Memory::CLIENT)).expect("opens");
        assert_eq!(get(&store, "rows", b"next").as_deref(), Some(&b"value"[..]));
        for _ in 0..3 {
            put(&store, "rows", b"next", b"value").expect("commits");
            store.checkpoint().expect("checkpoints");
        }
        store.verify(&mut |_| {}).expect("pages and space agree");
        store.close().expect("closes");
        let shown: usize = model.values().flatten().map(|(key, value)| key.len() + value.len()).sum();
        assert!(
            pages < 4 * shown as u64 + (1 << 20),
            "{pages} bytes of file for {shown}: tables leave no pages behind"
        );
    }
}

/// The power goes at every call of such a recovery, and at every call of the one after it. spec: E-15
#[test]
fn a_crash_while_a_log_goes_into_pages() {
    let mut points = 0;
    for (seed, options) in [(4, options()), (5, unencrypted())] {
        let base = SimDisk::new(seed);
        let model = with_a_long_log(&base, &options, seed);
        let base = base.after_crash(Survivors::None, seed);
        let changes = {
            let whole = base.copy();
            let before = whole.changes();
            drop(Store::open(whole.env(NAME), tight(&options)).expect("opens"));
            whole.changes() - before
        };
        for point in 0..changes {
            let disk = base.copy();
            disk.crash_at(point);
            let opened = Store::open(disk.env(NAME), tight(&options));
            for survivors in Survivors::ALL {
                let first = disk.after_crash(survivors, point);
                let second = first.copy();
                second.crash_at(point % 7 * changes / 7);
                let _ = Store::open(second.env(NAME), tight(&options));
                let second = second.after_crash(survivors, point);
                for (disk, options) in [(&first, options.clone()), (&second, tight(&options))] {
                    let store = Store::open(disk.copy().env(NAME), options.create(false)).expect("opens");
                    assert_eq!(model_of(&store), model, "seed {seed} point {point} {survivors:?}");
                    store.verify(&mut |_| {}).expect("pages and space agree");
                }
            }
            drop(opened);
            points += 1;
        }
    }
    assert!(points > 100, "{points} crash points");
}

/// A damaged log is refused before anything is written, however little of it fits. spec: E-9, E-12
#[test]
fn a_damaged_log_is_left_as_it_is() {
    let disk = SimDisk::new(6);
    with_a_long_log(&disk, &options(), 6);
    let disk = disk.after_crash(Survivors::None, 6);
    let len = |name: &String| disk.read_file(name).map(|bytes| bytes.len());
    let log = log_file_names(NAME).into_iter().max_by_key(len).expect("there are three names");
    // In its first group: all that follow prove that it was acknowledged.
    assert!(disk.flip_bit(&log, 8 * 100));
    let files = || disk.names().iter().map(|name| disk.read_file(name)).collect::<Vec<_>>();
    let before = files();
    let opened = Store::open(disk.env(NAME), tight(&options()));
    assert!(matches!(opened, Err(OpenError::Corruption(_))), "{opened:?}");
    assert!(files() == before, "nothing was written");
}

/// A value in pages of its own that the log replaced, and whose pages the next one took after a crash. spec: E-40
#[test]
fn pages_of_a_replaced_value_may_be_another_ones_by_now() {
    let disk = SimDisk::new(7);
    let stream = |store: &Store, key: &[u8], byte: u8| {
        let mut tx = store.write();
        let tree = tx.tree("long").expect("a good name");
        tx.put_stream(tree, key, LONG as u64, &mut Cursor::new(vec![byte; LONG])).expect("room");
        tx.commit().expect("commits");
    };
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    stream(&store, b"first", 1);
    put(&store, "long", b"first", b"short").expect("commits");
    let disk = disk.after_crash(Survivors::None, 1);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    let len = || disk.read_file(NAME).expect("is there").len();
    let before = len();
    stream(&store, b"second", 2);
    assert_eq!(len(), before, "in the pages of the first");
    for n in 0..100_u8 {
        put(&store, "rows", &[n], &[n; 300]).expect("commits");
    }
    let model = model_of(&store);
    let disk = disk.after_crash(Survivors::None, 2);
    let store = Store::open(disk.env(NAME), tight(&options())).expect("opens");
    assert_eq!(model_of(&store), model);
    store.verify(&mut |_| {}).expect("pages and space agree");
}

/// A reader cannot write pages: it says what would help, and that does.
#[test]
fn a_reader_without_memory_for_the_log_says_so() {
    let disk = SimDisk::new(8);
    let model = with_a_long_log(&disk, &options(), 8);
    let disk = disk.after_crash(Survivors::None, 8);
    let changes = disk.changes();
    let error = Store::open(disk.env(NAME), tight(&options()).read_only(true)).expect_err("it does not fit");
    assert!(matches!(error, OpenError::TooMuchInLog { bytes_max } if bytes_max == 8 * TIGHT.table_bytes as u64));
    assert!(error.to_string().contains("open the file for writing once"), "{error}");
    let reader = Store::open(disk.env(NAME), roomy().create(false).read_only(true)).expect("a larger memory");
    assert_eq!(model_of(&reader), model);
    assert_eq!(disk.changes(), changes, "a reader writes nothing");
    drop(Store::open(disk.env(NAME), tight(&options())).expect("opens for writing"));
    let reader = Store::open(disk.env(NAME), tight(&options()).read_only(true)).expect("it is in pages now");
    assert_eq!(model_of(&reader), model);
}

/// A medium that cannot be written says so, and what helps.
#[test]
fn a_medium_that_cannot_be_written_says_so() {
    let disk = SimDisk::new(10);
    put(&Store::open(disk.env(NAME), roomy()).expect("opens"), "rows", b"key", b"value").expect("commits");
    let disk = disk.after_crash(Survivors::None, 1);
    let kind = CallKind::Open;
    disk.fail(Fault { kind, nth: 0, error: std::io::ErrorKind::ReadOnlyFilesystem, for_ever: false });
    let error = Store::open(disk.env(NAME), roomy().create(false)).expect_err("nothing can be written").to_string();
    assert!(error.contains("nothing can be written") && error.contains("Options::read_only(true)"), "{error}");
    let reader = Store::open(disk.env(NAME), roomy().create(false).read_only(true)).expect("that helps");
    assert_eq!(get(&reader, "rows", b"key").as_deref(), Some(&b"value"[..]));
}

/// Without room for the pages nothing changes; with some more, or more memory, all is there.
#[test]
fn a_full_disk_leaves_a_long_log_as_it_is() {
    let disk = SimDisk::new(9);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    for n in 0..200_u8 {
        put(&store, "rows", &[n], &[n; 3000]).expect("commits");
    }
    let model = model_of(&store);
    let disk = disk.after_crash(Survivors::None, 9);
    disk.set_capacity(Some(0));
    let error = Store::open(disk.env(NAME), tight(&options())).expect_err("there is no room");
    assert!(error.to_string().starts_with("there is no room on the disk"), "{error}");
    let roomier = Store::open(disk.env(NAME), roomy().create(false)).expect("in memory it is there");
    assert_eq!(model_of(&roomier), model);
    drop(roomier);
    disk.set_capacity(None);
    let store = Store::open(disk.env(NAME), tight(&options())).expect("opens");
    assert_eq!(model_of(&store), model);
    store.verify(&mut |_| {}).expect("pages and space agree");
}
