//! Paths: whichever way a file is reached, it and what belongs to it are the same.

#![cfg(unix)]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use blazedb_engine::env::{LockOutcome, OpenMode, SimDisk, Survivors};
use blazedb_engine::{
    BackupOptions, CommitError, Env, KeySource, MaintainError, Memory, OpenError, Options, ReadError, RestoreError,
    Store, restore,
};

fn options() -> Options {
    Options::unencrypted().memory(Memory { cache_bytes: 64 << 10, table_bytes: 64 << 10, log_bytes: 256 << 10 })
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn put(store: &Store, key: &[u8], value: &[u8]) {
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    tx.put(tree, key, value).expect("a good row");
    tx.commit().expect("commits");
}

/// A program may change its folder while a store is open.
#[test]
fn a_relative_path_becomes_an_absolute_one_at_once() {
    for path in ["x.blaze", "./x.blaze", "folder that is not there/x.blaze", "../x.blaze"] {
        let path = Env::file(path).describe();
        assert!(Path::new(&path).is_absolute() && path.ends_with("x.blaze"), "{path}");
    }
}

#[test]
fn a_file_behind_a_symbolic_link_keeps_its_log_beside_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (real, other) = (folder.path().join("real"), folder.path().join("other"));
    fs::create_dir(&real).expect("a folder");
    fs::create_dir(&other).expect("a folder");
    Store::open(Env::file(real.join("x.blaze")), options()).expect("opens").close().expect("closes");
    let link = other.join("link.blaze");
    symlink(real.join("x.blaze"), &link).expect("a link");
    symlink(&real, other.join("folder")).expect("a link");
    for path in [&link, &other.join("folder/x.blaze")] {
        let store = Store::open(Env::file(path), options()).expect("opens");
        put(&store, b"k", b"v");
        assert!(names(&real).iter().any(|name| name.starts_with("x.blaze-log")), "{:?}", names(&real));
        assert_eq!(names(&other), ["folder", "link.blaze"]);
        let again = Store::open(Env::file(real.join("x.blaze")), options());
        assert!(matches!(again, Err(OpenError::Locked { .. })), "one file, one lock, one log");
        store.close().expect("closes");
    }
    // Nothing is made through a link, nor in the place of one.
    let nowhere = other.join("nowhere.blaze");
    symlink(real.join("gone.blaze"), &nowhere).expect("a link");
    assert!(matches!(Store::open(Env::file(&nowhere), options()), Err(OpenError::Io { .. })));
    assert!(nowhere.is_symlink() && !real.join("gone.blaze").exists());
}

#[test]
fn a_foreign_file_under_the_name_of_a_new_store_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x");
    let new = folder.path().join("x.new");
    fs::write(&new, "my only copy of a letter").expect("a file");
    let refused = Store::open(Env::file(&path), options()).map(drop).expect_err("it is in the way");
    assert!(matches!(&refused, OpenError::InTheWay { path } if path.ends_with("x.new")), "{refused}");
    assert_eq!(fs::read(&new).expect("it is there"), b"my only copy of a letter");
    assert!(!path.exists());
    // Neither is what a link leads to written over.
    fs::remove_file(&new).expect("it is there");
    fs::write(folder.path().join("letter"), "").expect("a file");
    symlink(folder.path().join("letter"), &new).expect("a link");
    assert!(Store::open(Env::file(&path), options()).is_err());
    assert_eq!(fs::read(folder.path().join("letter")).expect("it is there"), b"");
    // What a creation that was cut off has left is made anew, whatever there is of it.
    fs::remove_file(&new).expect("it is there");
    let second = [vec![0; 64 << 10], b"BLAZEDB\0".to_vec()].concat();
    for leftover in [
        second,
        vec![],
        vec![0; 5000],
        [b"BLAZEDB\0".to_vec(), vec![7; 4000]].concat(),
        [vec![0; 512], vec![7; 3000]].concat(),
    ] {
        fs::write(&new, leftover).expect("a file");
        Store::open(Env::file(&path), options()).expect("opens").close().expect("closes");
        fs::remove_file(&path).expect("it is there");
    }
}

/// A store that is called `x.new` is one, whatever of its file reached the disk before the power went.
#[test]
fn a_store_that_bears_the_name_of_a_creation_is_no_leftover() {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env("x.new"), options()).expect("opens");
    put(&store, b"k", b"acknowledged");
    let disk = disk.after_crash(Survivors::None, 1);
    drop(store);
    let refused = Store::open(disk.env("x"), options()).map(drop).expect_err("it is in the way");
    assert!(matches!(&refused, OpenError::InTheWay { path } if path.ends_with("x.new")), "{refused}");
    let store = Store::open(disk.env("x.new"), options()).expect("opens");
    let (mut tx, view) = (store.write(), store.read());
    let tree = tx.tree("t").expect("a good name");
    assert_eq!(view.get(tree, b"k").expect("reads").as_deref(), Some(&b"acknowledged"[..]));
}

#[test]
fn a_foreign_file_under_the_name_of_a_log_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x");
    let in_the_way = |name: &str| {
        let refused = Store::open(Env::file(&path), options()).map(drop).expect_err("it is in the way");
        assert!(matches!(&refused, OpenError::InTheWay { path } if path.ends_with(name)), "{refused}");
    };
    // Another store may be called so, and be open.
    let neighbour = Store::open(Env::file(folder.path().join("x-log.0")), options()).expect("opens");
    put(&neighbour, b"k", b"acknowledged");
    in_the_way("x-log.0");
    assert!(!path.exists());
    put(&neighbour, b"l", b"acknowledged");
    neighbour.close().expect("closes");
    let neighbour = Store::open(Env::file(folder.path().join("x-log.0")), options()).expect("opens");
    let tree = neighbour.tree("t").expect("a good name");
    assert_eq!(neighbour.read().len(tree).expect("reads"), 2);
    neighbour.close().expect("closes");
    fs::remove_file(folder.path().join("x-log.0")).expect("it is there");
    let _ = fs::remove_file(folder.path().join("x-log.0-log.0"));
    // A letter, of a store that is new, of one that was there before, and of one that is open.
    for log in ["x-log.0", "x-log.1", "x-log.2"] {
        let letter = folder.path().join(log);
        let _ = fs::remove_file(&letter);
        fs::write(&letter, "my only copy of a letter").expect("a file");
        in_the_way(log);
        assert_eq!(fs::read(&letter).expect("it is there"), b"my only copy of a letter");
        fs::remove_file(&letter).expect("it is there");
        let store = Store::open(Env::file(&path), options()).expect("opens");
        fs::write(&letter, "my only copy of a letter").expect("a file");
        let write = |n: u32| {
            let mut tx = store.write();
            let tree = tx.tree("t")?;
            tx.put(tree, &n.to_le_bytes(), &[7; 2_000])?;
            tx.commit()
        };
        let refused = (0..1_000).find_map(|n| write(n).err()).expect("it is in the way");
        assert!(matches!(refused, CommitError::Poisoned { .. }), "{refused}");
        drop(store);
        assert_eq!(fs::read(&letter).expect("it is there"), b"my only copy of a letter");
        fs::remove_file(&letter).expect("it is there");
    }
}

#[test]
fn films_and_letters_are_no_logs() {
    let film = [&b"\0\0\0\x18ftypmp42"[..], &[7; 5_000]].concat();
    for foreign in [&film[..], b"\0\x01\0\0\0\x0b", b"\0\0\x01\0", b"7", b"my only copy of a letter"] {
        let folder = tempfile::tempdir().expect("a folder");
        let letter = folder.path().join("x-log.1");
        fs::write(&letter, foreign).expect("a file");
        assert!(Store::open(Env::file(folder.path().join("x")), options()).is_err(), "{foreign:?}");
        assert_eq!(fs::read(&letter).expect("it is there"), foreign);
    }
}

/// What is beside a store in the making is somebody's; that one itself can be nobody's else.
#[test]
fn a_restore_removes_nothing_but_what_a_restore_has_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let env = |name: &str| Env::file(folder.path().join(name));
    let refused = Store::open(env("x.restoring"), options()).map(drop).expect_err("a reserved name");
    assert!(matches!(refused, OpenError::ReservedName { suffix: ".restoring" }), "{refused}");
    let store = Store::open(env("y"), options()).expect("opens");
    put(&store, b"k", b"v");
    let mut backup = Vec::new();
    store.backup(&mut backup, &BackupOptions::default(), &mut |_| {}).expect("writes");
    let letter = folder.path().join("x.restoring-log.1");
    fs::write(&letter, "my only copy of a letter").expect("a file");
    let again = || restore(env("x"), options(), vec![&mut &backup[..]], &KeySource::None, &mut |_| {});
    let refused = again().map(drop).expect_err("it is in the way");
    assert!(matches!(refused, RestoreError::InTheWay { .. }), "{refused}");
    assert_eq!(fs::read(&letter).expect("it is there"), b"my only copy of a letter");
    fs::remove_file(&letter).expect("it is there");
    again().expect("restores");
}

/// The log's files keep what rots in them: whether they may be written over is not for one byte to say.
#[test]
fn a_rotten_byte_makes_no_foreign_file_of_a_log() {
    for at in 0..4 {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x");
        let store = Store::open(Env::file(&path), options()).expect("opens");
        for n in 0..200_u32 {
            put(&store, &n.to_le_bytes(), &[7; 2_000]);
        }
        // Copied as it is: three files of groups. A closed one has a file of zeros.
        let copy = folder.path().join("copy");
        fs::create_dir(&copy).expect("a folder");
        for name in names(folder.path()).iter().filter(|name| *name != "copy") {
            fs::copy(folder.path().join(name), copy.join(name)).expect("a file");
        }
        store.close().expect("closes");
        let rot = |folder: &Path, logs: &[&str]| {
            for log in logs {
                let mut bytes = fs::read(folder.join(log)).expect("a file");
                bytes[at] ^= 0x55;
                fs::write(folder.join(log), bytes).expect("a file");
            }
        };
        let logs: Vec<String> = names(folder.path()).into_iter().filter(|name| name.starts_with("x-log.")).collect();
        rot(folder.path(), &[&logs[0]]);
        Store::open(Env::file(&path), options()).expect("opens").close().expect("closes");
        rot(&copy, &["x-log.0", "x-log.1", "x-log.2"]);
        // What was needed is damaged; what was not is written over.
        match Store::open(Env::file(copy.join("x")), options()) {
            Ok(store) => store.close().expect("closes"),
            Err(OpenError::Corruption(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Whoever is forked from a process that has a store open has a copy of its nonces, and of where its log ends.
#[test]
fn what_is_forked_writes_nothing() {
    unsafe extern "C" {
        fn fork() -> i32;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        fn _exit(status: i32) -> !;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x");
    let store = Store::open(Env::file(&path), options()).expect("opens");
    put(&store, b"k", b"before");
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    tx.put(tree, b"k", b"child").expect("a good row");
    // SAFETY: takes nothing and gives a number.
    let child = unsafe { fork() };
    if child == 0 {
        let is_refused = matches!(tx.commit(), Err(CommitError::Poisoned { .. }));
        let is_not_closed = store.close().is_err();
        // SAFETY: ends this process at once, which is not ours to clean up.
        unsafe { _exit(i32::from(!(is_refused && is_not_closed))) }
    }
    let mut status = -1;
    // SAFETY: `status` is there for the call to write to.
    assert_eq!(unsafe { waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "it was refused, and came to an end");
    drop(tx);
    put(&store, b"k", b"parent");
    assert!(matches!(Store::open(Env::file(&path), options()), Err(OpenError::Locked { .. })), "the lock stays");
    store.close().expect("closes");
    let store = Store::open(Env::file(&path), options()).expect("opens");
    assert_eq!(store.read().get(tree, b"k").expect("reads").as_deref(), Some(&b"parent"[..]));
}

/// A program that another thread starts has every handle for the moment until it runs. The lock of a file that is closed
/// meanwhile goes at once all the same: who makes a store opens it a second time.
#[test]
fn a_child_keeps_no_lock_of_a_file_that_is_closed() {
    unsafe extern "C" {
        fn fork() -> i32;
        fn kill(pid: i32, signal: i32) -> i32;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        fn sleep(seconds: u32) -> u32;
        fn _exit(status: i32) -> !;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let env = Env::file(folder.path().join("x"));
    let open = || env.storage.open(&env.name, OpenMode::Create).expect("a file");
    let file = open();
    assert_eq!(file.try_lock().expect("locks"), LockOutcome::Acquired);
    // SAFETY: takes nothing and gives a number; the child does nothing but sleep and end.
    let child = unsafe { fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            sleep(60);
            _exit(0)
        }
    }
    assert_eq!(open().try_lock().expect("asks"), LockOutcome::Held);
    drop(file);
    let found = open().try_lock().expect("asks");
    let mut status = -1;
    // SAFETY: the child is ours, and `status` is there for the call to write to.
    unsafe {
        kill(child, 9);
        waitpid(child, &raw mut status, 0);
    }
    assert_eq!(found, LockOutcome::Acquired, "while the child has a copy of the handle");
}

#[test]
fn names_that_are_not_utf8_are_refused_and_paths_that_name_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in [&b"a\xff.db"[..], b"a\xfe.db"] {
        let path = folder.path().join(std::ffi::OsStr::from_bytes(name));
        assert!(matches!(Store::open(Env::file(path), options()), Err(OpenError::Io { .. })));
    }
    for path in ["", "/", ".."] {
        assert!(Store::open(Env::file(path), options()).is_err(), "{path}");
    }
    assert_eq!(names(folder.path()), [""; 0]);
    // A folder's name may be anything.
    let path = folder.path().join(std::ffi::OsStr::from_bytes(b"f\xff"));
    fs::create_dir(&path).expect("a folder");
    put(&Store::open(Env::file(path.join("x.blaze")), options()).expect("opens"), b"k", b"v");
}

#[test]
fn a_reader_that_was_overtaken_is_told_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.blaze");
    let store = Store::open(Env::file(&path), options()).expect("opens");
    let fill = |round: u8| {
        for part in 0..20_u32 {
            let mut tx = store.write();
            let tree = tx.tree("t").expect("a good name");
            (0..500_u32).for_each(|row| {
                tx.put(tree, &(part * 500 + row).to_be_bytes(), &[round; 100]).expect("a good row");
            });
            tx.commit().expect("commits");
        }
        store.checkpoint().expect("checkpoints");
    };
    fill(1);
    let reader = || Store::open(Env::file(&path), options().read_only(true)).expect("opens beside the writer");
    let (old, rows) = (reader(), 10_000);
    let count = |store: &Store| -> Result<usize, ReadError> {
        let tree = store.tree("t").expect("a good name");
        store.read().range(tree, ..).try_fold(0, |sum, row| row.map(|_| sum + 1))
    };
    assert_eq!(count(&old).expect("nothing has happened"), rows);
    (2..6).for_each(fill);
    let error = count(&old).expect_err("its pages were used again");
    assert!(matches!(error, ReadError::Overtaken), "{error}");
    assert!(error.to_string().contains("open it again"), "{error}");
    assert!(matches!(old.verify(&mut |_| {}), Err(MaintainError::Overtaken)));
    assert_eq!(count(&reader()).expect("the newest state"), rows);
    store.verify(&mut |_| {}).expect("nothing is damaged");
}

/// Sizes that no machine has, or that hold nothing, are an error, and neither the end of the process nor a sum that runs over.
#[test]
fn memory_that_nobody_has_and_memory_that_holds_nothing_are_refused() {
    let usual = Memory::TINY;
    for memory in [
        Memory { cache_bytes: usize::MAX, ..usual },
        Memory { cache_bytes: 1 << 44, ..usual },
        Memory { table_bytes: usize::MAX, ..usual },
        Memory { log_bytes: u64::MAX, ..usual },
        // With these every commit would wait for room for ever.
        Memory { log_bytes: 0, ..usual },
        Memory { table_bytes: 1, ..usual },
        Memory { table_bytes: 1 << 44, ..usual },
    ] {
        let opened = Store::open(Env::memory(1), Options::unencrypted().memory(memory));
        assert!(matches!(opened, Err(OpenError::BadOption { .. } | OpenError::Io { .. })), "{memory:?}");
    }
    // It is the options that are wrong, and not the file.
    for (options, says) in [
        (
            Options::unencrypted().memory(Memory { table_bytes: 0, ..usual }),
            "memory.table_bytes 0; it is from 1 KiB to",
        ),
        (Options::unencrypted().page_bytes(5000), "page_bytes 5000; it is 4096, 8192 or 16384"),
    ] {
        let told = Store::open(Env::memory(1), options).expect_err("no such store").to_string();
        assert!(told.contains(says) && !told.contains("file"), "{told}");
    }
}
