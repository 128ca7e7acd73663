//! A file is sealed anew: with another key, passphrase and cipher, all at once or after a Ctrl-C or a kill.

use std::fs;

use blazedb_engine::{Env, KdfCost, KeySource, Options, RekeyOptions, Secret, Store};
use serde_json::json;

use crate::support::{Background, Folder, PASSPHRASE, ndjson, records, wait};

/// Key epochs of the pages that hold anything.
fn epochs(folder: &Folder, db: &str) -> Vec<u16> {
    let bytes = fs::read(folder.path().join(db)).expect("the database");
    let pages = bytes[128 << 10..].chunks(4096).filter(|page| page.iter().any(|&b| b != 0));
    let mut epochs: Vec<u16> = pages.map(|page| u16::from_le_bytes([page[6], page[7]])).collect();
    epochs.sort_unstable();
    epochs.dedup();
    epochs
}

#[test]
fn a_file_is_sealed_anew_with_another_key_passphrase_and_cipher() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(500)));
    folder.import(&file, "a.blaze", "things", &["--id-field", "id"]);
    let exported = folder.export("a.blaze", "things");
    assert_eq!(epochs(&folder, "a.blaze"), [0]);

    let same = folder.run(["rekey", "--db", "a.blaze"]).ok();
    assert!(same.stdout.contains("key 1,") && same.stdout.contains("passphrase is as it was"), "{}", same.stdout);
    assert_eq!(epochs(&folder, "a.blaze"), [1], "no page of the old key is left");
    assert_eq!(folder.export("a.blaze", "things"), exported);

    folder.write("new.txt", "another passphrase\n");
    let args = ["rekey", "--db", "a.blaze", "--cipher", "chacha20-poly1305", "--new-passphrase-file", "new.txt"];
    let changed = folder.run(args).ok();
    assert!(changed.stdout.contains("key 2, ChaCha20-Poly1305; only the new"), "{}", changed.stdout);
    assert_eq!(epochs(&folder, "a.blaze"), [2]);
    folder.run(["stats", "--db", "a.blaze"]).refused(1, &["the passphrase does not open a.blaze"]);
    let with_new = ["export", "--db", "a.blaze", "--collection", "things", "--passphrase-file", "new.txt"];
    assert_eq!(folder.run(with_new).ok().stdout, exported);

    // Once more is harmless: it has been done.
    let again = folder.run(args).ok();
    assert!(again.stderr.contains("opens with the new passphrase already"), "{}", again.stderr);
    assert_eq!(epochs(&folder, "a.blaze"), [2]);
}

#[test]
fn what_cannot_be_sealed_anew_says_why_and_what_to_do() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(3)));
    folder.import(&file, "a.blaze", "things", &[]);
    let before = fs::read(folder.path().join("a.blaze")).expect("the database");
    folder.run(["rekey", "--db", "b.blaze"]).refused(1, &["there is no database file b.blaze"]);
    folder.write("wrong.txt", "not this one");
    folder.run(["rekey", "--db", "a.blaze", "--passphrase-file", "wrong.txt"]).refused(1, &["check the passphrase"]);
    let both = ["--passphrase-file", "wrong.txt", "--new-passphrase-file", "wrong.txt"];
    folder.run(["rekey", "--db", "a.blaze"].iter().chain(&both)).refused(1, &["check the passphrase"]);
    folder.write("short.txt", "short");
    let args = ["rekey", "--db", "a.blaze", "--new-passphrase-file", "short.txt"];
    folder.run(args).refused(1, &["too short", "at least 8 characters"]);
    folder.run(["rekey", "--db", "a.blaze", "--new-passphrase"]).refused(1, &["--new-passphrase-file FILE"]);
    folder
        .run(["rekey", "--db", "a.blaze", "--unencrypted"])
        .refused(1, &["a.blaze is encrypted", "leave --unencrypted"]);
    folder.run(["rekey", "--db", "b.blaze", "--unencrypted"]).refused(1, &["there is no database file b.blaze"]);
    folder.run(["import", "r.ndjson", "--db", "open.blaze", "--collection", "c", "--unencrypted"]).ok();
    for more in [&["--unencrypted"][..], &[]] {
        let args = ["rekey", "--db", "open.blaze"];
        folder.run(args.iter().chain(more)).refused(1, &["open.blaze has no encryption", "blazedb export"]);
    }
    folder.run(["rekey", "--db", "a.blaze", "--cipher", "rot13"]).refused(2, &["rot13"]);
    assert!(fs::read(folder.path().join("a.blaze")).expect("the database") == before, "nothing was changed");
}

#[test]
fn a_second_key_is_not_dropped_unasked() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(3)));
    folder.import(&file, "a.blaze", "things", &[]);
    let path = folder.path().join("a.blaze");
    let store = Store::open(Env::file(&path), Options::passphrase(PASSPHRASE)).expect("opens");
    store
        .add_key(&KeySource::Passphrase("of somebody else".into()), KdfCost::InsecureForTests)
        .expect("there is room for four");
    store.close().expect("closes");
    folder.run(["rekey", "--db", "a.blaze"]).refused(1, &["2 keys open a.blaze", "--drop-other-keys"]);
    folder.run(["rekey", "--db", "a.blaze", "--drop-other-keys"]).ok();
    folder.write("other.txt", "of somebody else");
    folder.run(["verify", "--db", "a.blaze", "--passphrase-file", "other.txt"]).refused(1, &["check the passphrase"]);
}

/// What is asked for is done, also where a change that was cut off comes first.
#[test]
fn a_change_that_was_cut_off_drops_nothing_of_what_is_asked_for() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(2000)));
    folder.import(&file, "a.blaze", "things", &[]);
    let open =
        || Store::open(Env::file(folder.path().join("a.blaze")), Options::passphrase(PASSPHRASE)).expect("opens");
    let key = |text: &str| KeySource::Passphrase(text.into());
    // One of both has the cost that is asked for, and the other one has not.
    let options = RekeyOptions::new(key(PASSPHRASE), KdfCost::Standard);
    let options = options.and_key(key("of somebody else"), KdfCost::InsecureForTests);
    let store = open();
    store.rekey(&options).expect("begins");
    store.rekey_step(1).expect("a step");
    store.close().expect("closes");
    folder
        .run(["rekey", "--db", "a.blaze", "--kdf", "standard"])
        .refused(1, &["2 keys open a.blaze", "--drop-other-keys"]);
    open().rekey(&options).expect("begins once more");
    let ran = folder.run(["rekey", "--db", "a.blaze", "--drop-other-keys", "--kdf", "standard"]).ok();
    assert!(ran.stderr.contains("going on with the change"), "{}", ran.stderr);
    let slots = open().key_slots();
    assert!(slots.len() == 1 && slots[0].memory_kib > 19 << 10, "{slots:?}");
    folder.write("other.txt", "of somebody else");
    folder.run(["verify", "--db", "a.blaze", "--passphrase-file", "other.txt"]).refused(1, &["check the passphrase"]);
}

#[test]
fn the_same_command_goes_on_after_ctrl_c_and_after_a_kill() {
    let folder = Folder::new();
    let all: Vec<_> = (0..40_000).map(|n| json!({"n": n, "text": "x".repeat(80)})).collect();
    let file = folder.write("r.ndjson", ndjson(&all));
    folder.import(&file, "a.blaze", "things", &[]);
    let exported = folder.export("a.blaze", "things");
    folder.write("new.txt", "another passphrase");
    let args = ["rekey", "--db", "a.blaze", "--new-passphrase-file", "new.txt"];
    let start = || Background::start(folder.program().args(args));

    let running = start();
    running.wait_for("the new key is in place");
    assert_eq!(running.interrupt(), 130);
    assert_eq!(epochs(&folder, "a.blaze"), [0, 1], "it was interrupted in the middle");
    // In between the file is used as ever.
    let found = folder.run(["verify", "--db", "a.blaze", "--passphrase-file", "new.txt"]).ok();
    assert!(found.stdout.contains("is sound: 40,000 documents"), "{}", found.stdout);

    let mut running = start();
    running.wait_for("going on with the change");
    running.child.kill().expect("it runs");
    wait(&mut running.child, std::time::Duration::from_secs(20));
    assert_eq!(epochs(&folder, "a.blaze"), [0, 1], "it was killed in the middle");

    let done = folder.run(args).ok();
    assert!(done.stderr.contains("going on with the change"), "{}", done.stderr);
    assert_eq!(epochs(&folder, "a.blaze"), [1], "nothing of the old key is left");
    let with_new = ["export", "--db", "a.blaze", "--collection", "things", "--passphrase-file", "new.txt"];
    assert_eq!(folder.run(with_new).ok().stdout, exported);
}

#[test]
fn a_damaged_file_says_how_far_it_came_and_not_to_try_again() {
    let folder = Folder::new();
    let all: Vec<_> = (0..6000).map(|n| json!({"n": n, "text": "x".repeat(60)})).collect();
    let file = folder.write("r.ndjson", ndjson(&all));
    folder.import(&file, "a.blaze", "things", &[]);
    let path = folder.path().join("a.blaze");
    let mut bytes = fs::read(&path).expect("the database");
    let leaves: Vec<usize> = (32..bytes.len() / 4096).filter(|no| bytes[no * 4096 + 4] == 1).collect();
    bytes[leaves[leaves.len() / 2] * 4096 + 2000] ^= 1;
    fs::write(&path, &bytes).expect("can be written");
    folder.write("new.txt", "another passphrase");
    // The second time as the first.
    for _ in 0..2 {
        let ran = folder.run(["rekey", "--db", "a.blaze", "--new-passphrase-file", "new.txt"]).refused(
            1,
            &[
                "a.blaze is damaged and cannot be sealed anew",
                "its new key is in place",
                " pages are done",
                "running this again ends at the same place",
                "with the new passphrase",
                "blazedb verify",
                "blazedb restore",
                "blazedb salvage",
            ],
        );
        assert!(!ran.stderr.contains("not changed") && !ran.stderr.contains("make room"), "{}", ran.stderr);
    }
    assert_eq!(epochs(&folder, "a.blaze"), [0, 1], "some was sealed anew");
    // As it says: with the new passphrase.
    let args = ["salvage", "--db", "a.blaze", "--to", "b.blaze", "--passphrase-file", "new.txt", "--kdf", "light"];
    assert_eq!(folder.run(args).code, 3);
}

/// Where the new passphrase opens a file already, others may as well.
#[test]
fn who_else_opens_a_file_is_said_and_not_kept_in_silence() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(3)));
    folder.import(&file, "a.blaze", "things", &[]);
    folder.write("new.txt", "another passphrase\n");
    folder.write("other.txt", "somebody else's passphrase\n");
    let passphrase = |text: &str| KeySource::Passphrase(Secret::from(text));
    let how = Options::passphrase(PASSPHRASE);
    let store = Store::open(Env::file(folder.path().join("a.blaze")), how).expect("opens");
    for text in ["another passphrase", "somebody else's passphrase"] {
        store.add_key(&passphrase(text), KdfCost::Light).expect("there is room");
    }
    store.remove_key(&passphrase(PASSPHRASE)).expect("is taken away");
    store.close().expect("closes");

    let args = ["rekey", "--db", "a.blaze", "--new-passphrase-file", "new.txt"];
    folder.run(args).refused(1, &["2 keys open a.blaze", "--drop-other-keys"]);
    let other = ["stats", "--db", "a.blaze", "--passphrase-file", "other.txt"];
    folder.run(other).ok();
    let changed = folder.run(args.iter().chain(&["--drop-other-keys"])).ok();
    assert!(changed.stdout.contains("only the new passphrase opens it"), "{}", changed.stdout);
    folder.run(other).refused(1, &["the passphrase does not open a.blaze"]);
    // What it costs to try a passphrase is changed, too.
    let changed = folder.run(args.iter().chain(&["--kdf", "standard"])).ok();
    assert!(changed.stdout.contains("key 2,"), "{}", changed.stdout);
    let again = folder.run(args.iter().chain(&["--kdf", "standard"])).ok();
    assert!(again.stderr.contains("opens with the new passphrase already"), "{}", again.stderr);
}
