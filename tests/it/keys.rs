//! The keys of a database, through the front door: they change while it is used, and the change outlives a crash.

use blazedb::{
    Advice, CipherChoice, Database, Document, ErrorKind, KdfCost, KeyKind, KeySource, Options, RekeyOptions, TreeRole,
    Value,
};
use blazedb_engine::env::{SimDisk, Survivors};

const NAME: &str = "keys.blaze";
const COST: KdfCost = KdfCost::InsecureForTests;

fn words(words: &str) -> KeySource {
    KeySource::Passphrase(words.into())
}

fn open(disk: &SimDisk, words: &str) -> Result<Database, blazedb::Error> {
    Database::open_in(disk.env(NAME), options(words))
}

fn options(words: &str) -> Options {
    Options::passphrase(words).kdf(COST).cipher(CipherChoice::Aes256Gcm)
}

fn fill(db: &Database, documents: i64) {
    let things = db.collection::<Document>("things").expect("a short name");
    let all = (0..documents).map(|n| Document::from_iter([("n".to_owned(), Value::I64(n))]));
    things.insert_many(all.collect::<Vec<_>>().iter()).expect("the disk is sound");
}

#[test]
fn everything_is_sealed_anew_while_the_database_is_used_and_after_a_crash() {
    let disk = SimDisk::new(1);
    let db = open(&disk, "old words").expect("opens");
    fill(&db, 3_000);
    let digest = db.digest().expect("it is sound");
    assert_eq!((db.key_epoch(), db.cipher(), db.rekey_progress()), (0, Some(CipherChoice::Aes256Gcm), None));

    let options = RekeyOptions::new(words("new words"), COST).cipher(CipherChoice::ChaCha20Poly1305);
    let refused = db.rekey(&options).expect_err("a mistyped passphrase would be the end of it");
    assert_eq!(refused.kind(), ErrorKind::Open);
    db.rekey(&options.lock_out_old_keys(true)).expect("the disk is sound");
    assert_eq!(db.rekey_step(8).map(|now| now.finished).ok(), Some(false));
    let twice = db.rekey(&RekeyOptions::new(words("new words"), COST)).expect_err("one is under way");
    assert_eq!(twice.kind(), ErrorKind::State);
    fill(&db, 10);
    let digest_after = db.digest().expect("it is sound");
    assert_ne!(digest_after, digest, "it is written to meanwhile");

    // The power goes in the middle.
    let after = disk.after_crash(Survivors::None, 1);
    drop(db);
    assert!(open(&after, "old words").is_err(), "the old words are out");
    let db = open(&after, "new words").expect("opens with the new ones");
    assert!(db.rekey_progress().is_some(), "the file says that a change is under way");
    let mut told = Vec::new();
    db.rekey_all(&mut |now| told.push(now)).expect("the disk is sound");
    assert!(told.last().is_some_and(|now| now.finished) && db.rekey_progress().is_none());
    assert_eq!((db.key_epoch(), db.cipher()), (1, Some(CipherChoice::ChaCha20Poly1305)));
    assert_eq!(db.digest().expect("it is sound"), digest_after);
    let mut told = Vec::new();
    db.verify(&mut |now| told.push((now.done_bytes, now.total_bytes))).expect("it is sound");
    assert!(told.is_sorted() && told.iter().all(|(done, total)| done <= total), "{told:?}");
    assert!(told.len() > 10 && told.last().is_some_and(|(done, total)| done == total), "the documents count as well");
    db.close().expect("the disk is sound");
}

#[test]
fn a_passphrase_is_changed_at_once() {
    let disk = SimDisk::new(2);
    let db = open(&disk, "old words").expect("opens");
    fill(&db, 10);
    db.change_key(&words("new words"), COST).expect("the disk is sound");
    let slots: Vec<_> = db.key_slots().iter().map(|slot| slot.kind).collect();
    assert_eq!((slots, db.key_epoch()), (vec![KeyKind::Passphrase], 0));
    db.close().expect("the disk is sound");
    assert!(open(&disk, "old words").is_err());
    assert_eq!(open(&disk, "new words").expect("opens").collections().expect("it is sound"), ["things"]);

    let plain = Database::open_in(SimDisk::new(3).env(NAME), Options::unencrypted()).expect("opens");
    assert!(plain.key_slots().is_empty() && plain.cipher().is_none());
    assert_eq!(plain.change_key(&words("new words"), COST).expect_err("it has none").kind(), ErrorKind::State);
}

#[test]
fn an_estimate_names_collections_and_says_when_a_vacuum_is_worth_it() {
    let disk = SimDisk::new(4);
    let db = open(&disk, "words").expect("opens");
    fill(&db, 20_000);
    db.close().expect("the disk is sound");
    // Else it would be shortened as it is closed.
    let db = Database::open_in(disk.env(NAME), options("words").auto_vacuum(None)).expect("opens");
    let found = db.estimate(&mut |_| {}).expect("it is sound");
    let things = found.trees.iter().find(|tree| TreeRole::of(&tree.name) == TreeRole::Documents("things"));
    assert_eq!(things.map(|tree| tree.entries), Some(20_000));
    let things = db.collection::<Document>("things").expect("a short name");
    let ids: Vec<_> = things.scan().map(|item| item.expect("it is sound").0).collect();
    for part in ids.chunks(500) {
        db.transaction(|tx| {
            part.iter().try_for_each(|id| tx.collection::<Document>("things")?.delete(*id).map(|_| ()))
        })
        .expect("the disk is sound");
    }
    drop(things);
    db.close().expect("the disk is sound");
    let db = open(&disk, "words").expect("opens");
    let found = db.estimate(&mut |_| {}).expect("it is sound");
    assert!(found.advice().iter().any(|advice| matches!(advice, Advice::Vacuum(_))), "{found:?}");
    let mut told = 0;
    let stats = db.stats_with(&mut |now| told = now.documents).expect("it is sound");
    assert!(stats.collections.is_empty() && told == 0);
}
