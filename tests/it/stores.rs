//! Store files of every format version, kept in spec/stores/, beside a list of what each holds.
//!
//! What was written by any version stays readable. While the format is at version 0 its bytes may still change: then
//! `BLAZE_BLESS=1 cargo test --test it stores` writes the files anew. The same files are read by
//! spec/reference/store_reader.py, which was written from spec/store.md alone.
//!
//! The lists are JSON, an object a line: the store, then each tree in the order of names with its entries in the
//! order of keys. A value of more than 64 bytes is given by its length and its SHA-256.

#![allow(clippy::print_stdout, reason = "a test that looks at less than it could says so")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use blazedb_engine::env::{FileStorage, SeededEntropy, SimDisk, StepClock, Survivors};
use blazedb_engine::{
    CipherChoice, Durability, Env, History, KdfCost, OpenError, Options, Store, TreeId, log_file_names,
};
use serde_json::json;
use sha2::{Digest, Sha256};

const BLESS: &str = "the bytes of the format have changed; BLAZE_BLESS=1 cargo test --test it stores";

/// Longest value that a list shows whole.
const SHOWN_BYTES_MAX: usize = 64;

/// One kept store, and how it is opened. The keys are of no use to anybody.
struct Example {
    name: &'static str,
    cipher: &'static str,
    options: fn() -> Options,
    /// Fills it.
    write: fn(&Store),
    /// The same for the reader in spec/reference/.
    reader: &'static [&'static str],
}

const RAW_KEY: [u8; 32] = [0x42; 32];

const EXAMPLES: [Example; 4] = [
    Example { name: "v0-plain", cipher: "none", options: Options::unencrypted, write, reader: &[] },
    Example { name: "v0-history", cipher: "none", options: Options::unencrypted, write: write_history, reader: &[] },
    Example {
        name: "v0-raw-key",
        cipher: "aes-256-gcm",
        options: || Options::raw_key(RAW_KEY).cipher(CipherChoice::Aes256Gcm),
        write,
        reader: &["--raw-key", "4242424242424242424242424242424242424242424242424242424242424242"],
    },
    Example {
        name: "v0-passphrase",
        cipher: "chacha20-poly1305",
        options: || {
            let options = Options::passphrase("correct horse battery staple");
            options.kdf(KdfCost::InsecureForTests).cipher(CipherChoice::ChaCha20Poly1305)
        },
        write,
        reader: &["--passphrase", "correct horse battery staple"],
    },
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/stores")
}

/// A world in a folder, whose chance follows from a seed: the same bytes whenever they are written.
fn world(folder: &Path, name: &str) -> Env {
    Env {
        storage: std::sync::Arc::new(FileStorage::new(folder)),
        clock: std::sync::Arc::new(StepClock::new()),
        entropy: std::sync::Arc::new(SeededEntropy::new(Sha256::digest(name)[0].into())),
        name: format!("{name}.blaze"),
        threads: false,
    }
}

/// Writes a store with a bit of everything: trees of one and of two levels, values in leaves, in pages of their own
/// and below an index of pages, keys that begin alike, keys of all lengths, an empty key and an empty value, a
/// tree that lost all of its entries, pages that are used again; and in the log, behind the last checkpoint,
/// commits with puts, pieces, deletes and a new tree. It is not closed.
fn write(store: &Store) {
    let long = |seed: usize, len: usize| -> Vec<u8> { (0..len).map(|i| ((i * (seed + 7)) >> 3) as u8).collect() };
    let mut tx = store.write();
    let [notes, tags, files, gone] =
        ["notes", "tags", "files \u{e9}", "gone"].map(|n| tx.tree(n).expect("a short name"));
    for n in 0..150_usize {
        tx.put(notes, format!("note {n:05}").as_bytes(), &long(n, n)).expect("it is short");
        tx.put(gone, &[n as u8], b"soon").expect("it is short");
    }
    tx.put(tags, b"", b"the empty key").expect("it is short");
    tx.put(tags, b"an empty value", b"").expect("it is short");
    tx.put(tags, &[0xff; 1024], b"the longest key").expect("it is short");
    for (name, len) in [("small", 900), ("one page", 4040), ("two pages", 4041), ("many pages", 10_000)] {
        tx.put(files, name.as_bytes(), &long(len, len)).expect("it is short");
    }
    tx.commit().expect("the folder is sound");
    store.checkpoint().expect("the folder is sound");

    // Another checkpoint: pages are written beside the old ones, some are free.
    let mut tx = store.write();
    for n in (0..150_usize).step_by(3) {
        tx.delete(notes, format!("note {n:05}").as_bytes()).expect("it is short");
    }
    for n in 0..150 {
        tx.delete(gone, &[n]).expect("it is short");
    }
    tx.commit().expect("the folder is sound");
    store.checkpoint().expect("the folder is sound");

    // In the log alone.
    for n in 0..5_u8 {
        let mut tx = store.write();
        let late = tx.tree("only in the log").expect("a short name");
        let row = long(usize::from(n), 200);
        tx.put(late, &[n], &row).expect("it is short");
        tx.put_pieces(late, &[n, 0], &[b"meta", &row, &row[..50], &row]).expect("it is short");
        tx.put(notes, format!("note {:05}", n).as_bytes(), b"changed").expect("it is short");
        tx.delete(notes, format!("note {:05}", 100 + n).as_bytes()).expect("it is short");
        tx.delete(notes, b"never there").expect("it is short");
        tx.label(u32::from(n) << 30);
        let durability = if n == 3 { Durability::Buffered } else { Durability::Durable };
        tx.commit_with(durability, |_| Ok(())).expect("the folder is sound");
    }
    let mut tx = store.write();
    tx.delete(files, b"small").expect("it is short");
    tx.put(files, b"many pages", b"few bytes").expect("it is short");
    tx.commit().expect("the folder is sound");
}

/// Writes a store with history: of one tree in pages and in the log, with versions of all lengths, keys that were
/// deleted and came back, and the oldest versions gone; of one from a commit in the log on; of one that was switched off.
fn write_history(store: &Store) {
    let [notes, late, off, without] =
        ["notes", "late", "off", "without"].map(|name| store.tree(name).expect("a short name"));
    let keep = History { keep_ms: u64::MAX, keep_bytes: 250_000 };
    store.set_history(notes, Some(keep)).expect("the folder is sound");
    store.set_history(off, Some(History::ALL)).expect("the folder is sound");
    let round = |n: u8| {
        let mut tx = store.write();
        for tree in [notes, late, off, without] {
            for key in [&b""[..], b"a", b"a\0", b"a\0\0", b"b", &[0xff; 1024], &[0; 9]] {
                let len = [3, 0, 900, 940, 5000, 1010 * usize::from(n)][(usize::from(n) + key.len()) % 6];
                if (usize::from(n) + key.len()).is_multiple_of(5) {
                    tx.delete(tree, key).expect("it is short");
                } else {
                    tx.put(tree, key, &vec![n; len]).expect("it is short");
                }
            }
        }
        let long = vec![n; 70_000];
        tx.put_stream(notes, b"streamed", long.len() as u64, &mut &long[..]).expect("the folder is sound");
        tx.commit().expect("the folder is sound");
    };
    for n in 1..=6 {
        round(n);
        if n.is_multiple_of(2) {
            store.checkpoint().expect("the folder is sound");
        }
    }
    store.set_history(off, None).expect("the folder is sound");
    store.purge_history().expect("the folder is sound");
    // From here on all of it, or a list would be out of date after the next checkpoint.
    store.set_history(notes, Some(History::ALL)).expect("the folder is sound");
    for n in 7..=8 {
        round(n);
    }
    store.set_history(late, Some(History::ALL)).expect("the folder is sound");
    for n in 9..=10 {
        round(n);
    }
}

/// What a tree held before, as a list says it: for each version that was superseded its key, and the commit that did so.
fn list_history(store: &Store, name: &str, tree: TreeId, lines: &mut Vec<serde_json::Value>) {
    let Some(kept) = store.history(tree).expect("it is sound") else { return };
    let mut keys = std::collections::BTreeSet::new();
    for at in kept.oldest..=store.read().commit_no() {
        let then = store.as_of(at).expect("there is such a commit").range(tree, ..).expect("it is kept");
        keys.extend(then.map(|item| item.expect("it is sound").0));
    }
    lines.push(json!({ "history": name, "oldest": kept.oldest }));
    for key in keys {
        let versions: Vec<_> =
            store.versions(tree, &key).expect("it is kept").map(|v| v.expect("it is sound")).collect();
        for version in versions.iter().rev() {
            let Some(until) = version.until else { continue };
            let mut line = version.value.as_ref().map_or(json!({ "absent": true }), |value| shown(value));
            line["key"] = hex(&key).into();
            line["until"] = until.into();
            lines.push(line);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shown(value: &[u8]) -> serde_json::Value {
    if value.len() <= SHOWN_BYTES_MAX {
        json!({ "value": hex(value) })
    } else {
        json!({ "value_bytes": value.len(), "value_sha256": hex(&Sha256::digest(value)) })
    }
}

/// What a store holds, as its list says it.
fn list(store: &Store, cipher: &str) -> String {
    let view = store.read();
    let stats = store.stats();
    let mut lines =
        vec![json!({ "commit": stats.commit_no, "checkpoint": stats.checkpoint_commit_no, "cipher": cipher })];
    let names: BTreeMap<_, _> = view.tree_names().expect("it is sound").into_iter().map(|name| (name, ())).collect();
    for (name, ()) in names {
        let tree = view.tree(&name).expect("it is sound").expect("it was listed");
        lines.push(json!({ "tree": name, "entries": view.len(tree).expect("it is sound") }));
        for item in view.range(tree, ..) {
            let (key, value) = item.expect("it is sound");
            let mut line = shown(&value);
            line["key"] = hex(&key).into();
            lines.push(line);
        }
        list_history(store, &name, tree, &mut lines);
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Writes the kept files of an example anew, in the place of the old ones.
fn bless(example: &Example) {
    let made = tempfile::tempdir().expect("a folder can be made");
    let env = world(made.path(), example.name);
    let store = Store::open(env.clone(), (example.options)()).expect("a new store opens");
    (example.write)(&store);
    fs::create_dir_all(folder()).expect("the folder can be made");
    fs::write(folder().join(format!("{}.jsonl", example.name)), list(&store, example.cipher))
        .expect("it can be written");
    // Copied while it is open, and nobody writes: what a crash would leave.
    for name in files_of(&env.name) {
        let _ = fs::remove_file(folder().join(&name));
        if made.path().join(&name).exists() {
            fs::copy(made.path().join(&name), folder().join(&name)).expect("it can be written");
            trim(&folder().join(&name));
        }
    }
}

/// The file and its log.
fn files_of(name: &str) -> Vec<String> {
    [name.to_owned()].into_iter().chain(log_file_names(name)).collect()
}

/// Cuts zeros off a log's end, which say nothing: less to keep.
fn trim(path: &Path) {
    let mut bytes = fs::read(path).expect("it was written just now");
    if path.extension().is_some_and(|extension| extension != "blaze") {
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        bytes.resize(used.next_multiple_of(4096), 0);
        fs::write(path, bytes).expect("it can be written");
    }
}

/// Copies an example to where it may be written to.
fn copy(example: &Example) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder can be made");
    for name in files_of(&format!("{}.blaze", example.name)) {
        let from = folder().join(&name);
        if from.exists() {
            fs::copy(from, copy.path().join(name)).expect("it can be copied");
        }
    }
    copy
}

fn kept_list(example: &Example) -> String {
    fs::read_to_string(folder().join(format!("{}.jsonl", example.name))).unwrap_or_default()
}

/// Opens every kept store and finds what its list says; so it is after a checkpoint and a close, and with the files
/// only read.
#[test]
fn stores_of_every_version_open_and_hold_what_they_held() {
    if std::env::var_os("BLAZE_BLESS").is_some() {
        EXAMPLES.iter().for_each(bless);
    }
    for example in &EXAMPLES {
        let kept = kept_list(example);
        let shown = |store: &Store| list(store, example.cipher);
        let folder = copy(example);
        let env = world(folder.path(), example.name);
        let options = || (example.options)().create(false);
        let store = Store::open(env.clone(), options().read_only(true))
            .unwrap_or_else(|error| panic!("{}: {error}; {BLESS}", example.name));
        assert!(shown(&store) == kept, "{} does not hold what its list says; {BLESS}", example.name);
        drop(store);
        let store = Store::open(env.clone(), options()).expect("it opened before");
        assert!(shown(&store) == kept, "{} does not hold what its list says; {BLESS}", example.name);
        store.verify(&mut |_| {}).expect("it is sound");
        store.close().expect("the folder is sound");
        let store = Store::open(env, options()).expect("it opened before");
        store.verify(&mut |_| {}).expect("it is sound");
        let entries = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(entries(&shown(&store)), entries(&kept), "after a checkpoint and a close");
    }
}

/// A kept store on a simulated disk.
fn on_disk(example: &Example) -> SimDisk {
    let disk = SimDisk::new(7);
    for name in files_of(&format!("{}.blaze", example.name)) {
        if let Ok(bytes) = fs::read(folder().join(&name)) {
            disk.write_file(&name, &bytes);
        }
    }
    disk
}

/// What a list says but for its first line, which names commits, and for trees of this name.
fn entries_but(list: &str, tree: &str) -> Vec<String> {
    let (header, key) =
        (json!({ "tree": tree, "entries": 1 }).to_string(), json!({ "key": "6b", "value": "76" }).to_string());
    list.lines().skip(1).filter(|line| *line != header && *line != key).map(str::to_owned).collect()
}

/// A file of an older version is used as it is: whatever is written first, and wherever the power goes meanwhile, it opens
/// and holds what it held. spec: E-45
#[test]
fn a_crash_at_every_point_of_the_first_use_of_a_kept_store_loses_nothing() {
    for example in &EXAMPLES {
        let name = format!("{}.blaze", example.name);
        let options = || (example.options)().create(false);
        let kept = entries_but(&kept_list(example), "first");
        let whole = on_disk(example);
        let mut points = 0;
        for nth in 0.. {
            let disk = whole.copy();
            disk.crash_at(nth);
            // As far as it comes: opening, a commit, its checkpoint, closing.
            let done = Store::open(disk.env(&name), options()).ok().and_then(|store| {
                let mut tx = store.write();
                let tree = tx.tree("first").ok()?;
                tx.put(tree, b"k", b"v").ok()?;
                tx.commit().ok()?;
                store.checkpoint().ok()?;
                store.close().ok()
            });
            let is_through = !disk.is_dead();
            assert_eq!(done.is_some(), is_through, "{name}: change {nth}");
            for survivors in Survivors::ALL {
                let after = disk.after_crash(survivors, nth);
                let store = Store::open(after.env(&name), options())
                    .unwrap_or_else(|error| panic!("{name}: change {nth}, {survivors:?}: {error}"));
                store.verify(&mut |_| {}).unwrap_or_else(|e| panic!("{name}: change {nth}, {survivors:?}: {e}"));
                let found = entries_but(&list(&store, example.cipher), "first");
                assert!(
                    found == kept,
                    "{name}: after a crash at change {nth} with {survivors:?} it holds something else"
                );
            }
            points += 1;
            if is_through {
                break;
            }
        }
        assert!(points > 10, "{name}: {points} crash points");
    }
}

/// A file from the future is refused by name, for writing and for reading, whichever of its headers says so, and not a
/// byte of it is written. spec: E-45
#[test]
fn a_file_from_the_future_is_refused_by_its_version_and_left_as_it_is() {
    const SLOTS: [usize; 2] = [0, 64 << 10];
    for example in &EXAMPLES {
        let name = format!("{}.blaze", example.name);
        for which in [&SLOTS[..1], &SLOTS[1..], &SLOTS[..]] {
            let disk = on_disk(example);
            let mut bytes = disk.read_file(&name).expect("it is kept");
            for &at in which {
                bytes[at + 8..][..2].copy_from_slice(&7_u16.to_le_bytes());
                // Its middle may be anything.
                bytes[at + 300..][..8].copy_from_slice(&[0xa5; 8]);
                let crc = crc32fast::hash(&bytes[at..][..4092]);
                bytes[at + 4092..][..4].copy_from_slice(&crc.to_le_bytes());
            }
            disk.write_file(&name, &bytes);
            let before = disk.trace();
            for read_only in [false, true] {
                let options = (example.options)().create(false).read_only(read_only);
                match Store::open(disk.env(&name), options) {
                    Err(error @ OpenError::UnsupportedVersion(7)) => {
                        let said = error.to_string();
                        for word in ["version 7", "reads version 0", "nothing was changed", "newer program"] {
                            assert!(said.contains(word), "`{word}` is not in: {said}");
                        }
                    }
                    other => panic!("{name}: {:?}", other.map(|_| ()).map_err(|e| e.to_string())),
                }
            }
            assert_eq!((disk.trace(), disk.read_file(&name)), (before, Some(bytes)), "{name}: something was written");
        }
    }
}

/// Reads every kept store with the reader that was written from the specification alone.
#[test]
fn the_reader_in_python_finds_the_same() {
    let reader = folder().with_file_name("reference").join("store_reader.py");
    let python = |args: &[&str]| Command::new("python3").args(args).output().ok();
    let Some(version) = python(&["--version"]) else {
        println!("skipped: there is no python3");
        return;
    };
    assert!(version.status.success());
    let has_ciphers = python(&["-c", "from cryptography.hazmat.primitives.kdf.argon2 import Argon2id"]);
    let has_ciphers = has_ciphers.is_some_and(|output| output.status.success());
    for example in &EXAMPLES {
        if !example.reader.is_empty() && !has_ciphers {
            println!("skipped: {} needs Python's package `cryptography`", example.name);
            continue;
        }
        let values = |text: &str| -> Vec<serde_json::Value> {
            text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
        };
        let read = |folder: &Path| {
            let file = folder.join(format!("{}.blaze", example.name));
            let mut args =
                vec!["-B", reader.to_str().expect("a path in UTF-8"), file.to_str().expect("a path in UTF-8")];
            args.extend(example.reader);
            let output = python(&args).expect("python3 runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {said}; {BLESS}", example.name);
            values(&String::from_utf8(output.stdout).expect("JSON is UTF-8"))
        };
        let kept = values(&kept_list(example));
        assert!(read(&folder()) == kept, "{} is read differently", example.name);
        let copy = copy(example);
        let store = Store::open(world(copy.path(), example.name), (example.options)()).expect("it opens");
        store.close().expect("the folder is sound");
        assert!(read(copy.path())[1..] == kept[1..], "{} is read differently after a close", example.name);
    }
}
