//! Paths: whichever way a file is reached, it and what belongs to it are the same.

#![cfg(unix)]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use blazedb_engine::{Env, MaintainError, Memory, OpenError, Options, ReadError, Store};

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
    let OpenError::Io { source, .. } = refused else { panic!("{refused}") };
    assert!(source.to_string().contains("x.new is in the way"), "{source}");
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

/// Sizes that no machine has are an error, and neither the end of the process nor a sum that runs over.
#[test]
fn memory_that_nobody_has_is_refused() {
    let usual = Memory::TINY;
    for memory in [
        Memory { cache_bytes: usize::MAX, ..usual },
        Memory { cache_bytes: 1 << 44, ..usual },
        Memory { table_bytes: usize::MAX, ..usual },
        Memory { log_bytes: u64::MAX, ..usual },
    ] {
        let opened = Store::open(Env::memory(1), Options::unencrypted().memory(memory));
        assert!(matches!(opened, Err(OpenError::Unsupported { .. } | OpenError::Io { .. })), "{memory:?}");
    }
}
