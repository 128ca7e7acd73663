//! Encryption at rest: no plaintext, no repeated nonce, wrong keys refused before anything is written, locks.

use std::collections::HashSet;

use blazedb_engine::env::{CallKind, SimDisk};
use blazedb_engine::{CipherChoice, Env, KdfCost, KeySource, MaintainError, OpenError, Options, Secret, Store};

use crate::support::{NAME, get, open, options, put};

const PAGES: usize = 128 << 10;

fn with_passphrase(words: &str) -> Options {
    Options::passphrase(words).kdf(KdfCost::InsecureForTests)
}

fn contains(bytes: &[u8], canary: &[u8]) -> bool {
    bytes.windows(canary.len()).any(|w| w == canary)
}

/// spec: C-1, C-2
#[test]
fn no_plaintext_in_the_file() {
    for (options, hidden) in [
        (with_passphrase("open sesame"), true),
        (options().cipher(CipherChoice::ChaCha20Poly1305), true),
        (options().cipher(CipherChoice::Aes256Gcm), true),
        (Options::unencrypted(), false),
    ] {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env(NAME), options.clone()).expect("opens");
        let canaries = [&b"canary-tree-name"[..], b"canary-key-0123", b"canary-value-45"];
        for n in 0..20_u8 {
            let key = [canaries[1], &[n]].concat();
            put(&store, "canary-tree-name", &key, &canaries[2].repeat(9)).expect("commits");
        }
        let open_file: Vec<u8> = disk.names().iter().flat_map(|name| disk.read_file(name).expect("is there")).collect();
        store.checkpoint().expect("checkpoints");
        store.close().expect("closes");
        let closed_file = disk.read_file(NAME).expect("is there");
        for canary in canaries {
            for file in [&open_file, &closed_file] {
                assert_eq!(!contains(file, canary), hidden, "{}", String::from_utf8_lossy(canary));
            }
        }
        assert!(!contains(&closed_file, b"open sesame"));
        drop(store);
        let store = Store::open(disk.env(NAME), options).expect("opens again");
        assert!(get(&store, "canary-tree-name", b"canary-key-0123\x07").is_some());
    }
}

/// (key, nonce, block) of everything sealed on a disk: groups of the log, and pages.
fn sealed(disk: &SimDisk) -> Vec<(&'static str, [u8; 24], Vec<u8>)> {
    let mut found = Vec::new();
    for name in disk.names() {
        let bytes = disk.read_file(&name).expect("is there");
        let (key, start, at) = if name == NAME { ("page", PAGES, 16) } else { ("log", 0, 40) };
        // A group begins at any cache line, and names its nonce within it.
        let step = if name == NAME { 4096 } else { 64 };
        for block in bytes[start..].chunks_exact(step) {
            let is_sealed = if name == NAME { block.iter().any(|&b| b != 0) } else { block[..4] == *b"BLZG" };
            if is_sealed {
                found.push((key, block[at..at + 24].try_into().expect("24 bytes"), block.to_vec()));
            }
        }
    }
    found
}

/// spec: C-5
#[test]
fn a_nonce_never_repeats_across_reopening_and_copies() {
    let disk = SimDisk::new(2);
    let mut seen = HashSet::new();
    let mut distinct = HashSet::new();
    let mut note = |disk: &SimDisk| {
        for (key, nonce, block) in sealed(disk) {
            // The same block may be met again in a later copy of the disk; the same nonce over other bytes may not.
            if seen.insert((key, nonce, block)) {
                assert!(distinct.insert((key, nonce)), "a nonce sealed two things");
            }
        }
    };
    for round in 0..12_u8 {
        let store = open(&disk);
        for n in 0..4_u8 {
            put(&store, "t", &[round, n], b"v").expect("commits");
        }
        note(&disk);
        // Two clones of the machine go their own ways from here.
        for clone in [disk.copy(), disk.copy()] {
            let store = open(&clone);
            put(&store, "t", b"clone", &[round]).expect("commits");
            store.checkpoint().expect("checkpoints");
            note(&clone);
        }
        if round % 4 == 3 {
            store.checkpoint().expect("checkpoints");
            note(&disk);
        }
        match round % 3 {
            0 => store.close().expect("closes"),
            _ => drop(store),
        }
    }
    assert!(distinct.len() > 70, "{}", distinct.len());
}

/// spec: C-3
#[test]
fn a_wrong_key_is_refused_and_nothing_is_written() {
    let disk = SimDisk::new(3);
    let store = Store::open(disk.env(NAME), with_passphrase("right")).expect("opens");
    put(&store, "t", b"k", b"v").expect("commits");
    store.close().expect("closes");
    drop(store);
    let before = (disk.read_file(NAME), disk.changes());
    let check = |options: Options, want: fn(&OpenError) -> bool| {
        let error = Store::open(disk.env(NAME), options).expect_err("refused");
        assert!(want(&error), "{error:?}");
        assert_eq!((disk.read_file(NAME), disk.changes()), before, "nothing was written");
    };
    check(with_passphrase("wrong"), |e| matches!(e, OpenError::WrongKey));
    check(with_passphrase(""), |e| matches!(e, OpenError::WrongKey));
    check(Options::raw_key([1; 32]), |e| matches!(e, OpenError::WrongKey));
    check(Options::unencrypted(), |e| matches!(e, OpenError::KeyMissing));
    Store::open(disk.env(NAME), with_passphrase("right")).expect("opens");

    let plain = SimDisk::new(4);
    drop(Store::open(plain.env(NAME), Options::unencrypted()).expect("opens"));
    assert!(matches!(Store::open(plain.env(NAME), with_passphrase("x")), Err(OpenError::NotEncrypted)));
}

/// A file is bytes from outside: it may not make its reader spend a gigabyte. spec: C-4
#[test]
fn key_stretching_costs_from_the_file_are_capped() {
    let disk = SimDisk::new(5);
    drop(Store::open(disk.env(NAME), with_passphrase("x")).expect("opens"));
    let bytes = disk.read_file(NAME).expect("is there");
    for (at, value) in [(260, u32::MAX), (260, (1 << 20) + 1), (264, 65), (268, 17)] {
        let mut hostile = bytes.clone();
        for slot in [0, 64 << 10] {
            hostile[slot + at..slot + at + 4].copy_from_slice(&value.to_le_bytes());
            let crc = crc32fast::hash(&hostile[slot..slot + 4092]);
            hostile[slot + 4092..slot + 4096].copy_from_slice(&crc.to_le_bytes());
        }
        let other = SimDisk::new(6);
        other.write_file(NAME, &hostile);
        let opened = Store::open(other.env(NAME), with_passphrase("x"));
        assert!(matches!(opened, Err(OpenError::Unsupported { given, .. }) if given == u64::from(value)), "{opened:?}");
    }
}

/// spec: C-3
#[test]
fn the_key_can_be_changed_and_a_crash_leaves_one_that_opens() {
    let disk = SimDisk::new(7);
    let store = Store::open(disk.env(NAME), with_passphrase("old")).expect("opens");
    put(&store, "t", b"k", b"v").expect("commits");
    let new = KeySource::Passphrase(Secret::from("new"));
    for point in 0..4 {
        let crashing = disk.copy();
        let store = Store::open(crashing.env(NAME), with_passphrase("old")).expect("opens");
        crashing.crash_at(point);
        let _ = store.change_key(&new, KdfCost::InsecureForTests);
        for survivors in blazedb_engine::env::Survivors::ALL {
            let after = crashing.after_crash(survivors, point);
            let opened = Store::open(after.env(NAME), with_passphrase("old"))
                .or_else(|_| Store::open(after.env(NAME), with_passphrase("new")));
            assert_eq!(get(&opened.expect("one of them opens"), "t", b"k"), Some(b"v".to_vec()));
        }
    }
    store.change_key(&new, KdfCost::InsecureForTests).expect("changes");
    put(&store, "t", b"k2", b"v").expect("writes go on");
    assert!(matches!(store.change_key(&KeySource::None, KdfCost::Light), Err(MaintainError::NotEncrypted)));
    store.close().expect("closes");
    drop(store);
    assert!(matches!(Store::open(disk.env(NAME), with_passphrase("old")), Err(OpenError::WrongKey)));
    let store = Store::open(disk.env(NAME), with_passphrase("new")).expect("opens");
    assert_eq!(get(&store, "t", b"k2"), Some(b"v".to_vec()));
}

/// spec: E-6
#[test]
fn a_second_opener_is_told_who_has_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.blaze");
    let store = Store::open(Env::file(&path), options()).expect("opens");
    put(&store, "t", b"k", b"v").expect("commits");
    let error = Store::open(Env::file(&path), options()).expect_err("locked");
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), own_process: true, .. } if pid == std::process::id()));
    let text = error.to_string();
    assert!(text.contains("a.blaze") && text.contains("this process") && text.contains("read_only"), "{text}");
    let other = OpenError::Locked { path: "x.blaze".into(), pid: Some(4711), own_process: false }.to_string();
    assert!(other.contains("4711") && other.contains("close it there"), "{other}");

    // Reading beside the writer: what was in the file at that moment, and no write.
    let reader = Store::open(Env::file(&path), options().read_only(true)).expect("opens beside the writer");
    assert_eq!(get(&reader, "t", b"k"), Some(b"v".to_vec()));
    assert!(matches!(put(&reader, "t", b"k", b"w"), Err(blazedb_engine::CommitError::ReadOnly)));
    put(&store, "t", b"k", b"w").expect("the writer goes on");
    assert_eq!(get(&reader, "t", b"k"), Some(b"v".to_vec()));

    // The lock goes with the file through a compaction, and ends with a close.
    store.checkpoint().expect("checkpoints");
    assert!(matches!(Store::open(Env::file(&path), options()), Err(OpenError::Locked { .. })));
    store.close().expect("closes");
    let again = Store::open(Env::file(&path), options()).expect("free again");
    assert_eq!(get(&again, "t", b"k"), Some(b"w".to_vec()));
    assert!(matches!(put(&store, "t", b"k", b"x"), Err(blazedb_engine::CommitError::Closed)));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_read_only_store_changes_nothing() {
    let disk = SimDisk::new(8);
    let store = open(&disk);
    put(&store, "t", b"k", b"v").expect("commits");
    drop(store);
    let changes = disk.changes();
    let reader = Store::open(disk.env(NAME), options().read_only(true)).expect("opens");
    assert_eq!(get(&reader, "t", b"k"), Some(b"v".to_vec()));
    reader.verify(&mut |_| {}).expect("all is well");
    reader.close().expect("closes");
    drop(reader);
    assert_eq!(disk.changes(), changes);
    assert_eq!(disk.calls(CallKind::Remove), 0);
    let missing = Store::open(disk.env("missing.blaze"), options().read_only(true));
    assert!(matches!(missing, Err(OpenError::NotFound { .. })));
    assert!(matches!(Store::open(disk.env("missing.blaze"), options().create(false)), Err(OpenError::NotFound { .. })));
}
