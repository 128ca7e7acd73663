//! What can be had of a damaged database is a database.

use std::collections::BTreeMap;
use std::fs;

use blazedb::{Database, Document, ErrorKind, Options, Value};
use blazedb_engine::Loss;
use blazedb_engine::env::Env;

const HEADERS: usize = 128 << 10;
const PAGE: usize = 4096;

/// Documents by their number: those of `one` have fields of their own, so that the lists of fields take pages, too.
fn documents() -> BTreeMap<i64, Document> {
    let document = |n: i64| {
        let own = format!("a field that is called {}", n % 300);
        let name = if n < 600 { own.as_str() } else { "text" };
        Document::from_pairs([("n", Value::from(n)), (name, "x".repeat(90).as_str().into())]).expect("a document")
    };
    (0..1200).map(|n| (n, document(n))).collect()
}

/// What every collection holds.
fn found(db: &Database) -> BTreeMap<i64, Document> {
    let mut found = BTreeMap::new();
    for name in db.collections().expect("reads") {
        for item in db.collection::<Document>(&name).expect("a good name").scan() {
            let document = item.expect("reads").1;
            // Its name may be lost.
            let number = |value: &Value| if let Value::I64(n) = value { Some(*n) } else { None };
            let n = document.iter().find_map(|(_, value)| number(value)).expect("each has a number");
            assert_eq!(found.insert(n, document), None, "{n} is there twice");
        }
    }
    found
}

/// One page after another is overwritten. spec: D-8
#[test]
fn whatever_page_is_lost_a_database_is_left_that_opens_and_has_all_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.blaze");
    let documents = documents();
    let db = Database::open(&path, Options::unencrypted()).expect("creates");
    for (name, range) in [("one", 0..600), ("two", 600..1200)] {
        let collection = db.collection::<Document>(name).expect("a good name");
        for (_, document) in documents.range(range) {
            collection.insert(document).expect("commits");
        }
    }
    db.close().expect("closes");
    let whole = fs::read(&path).expect("is there");
    let (mut without_names, mut without_fields) = (0, 0);
    for page in (HEADERS..whole.len()).step_by(PAGE) {
        let mut bytes = whole.clone();
        bytes[page..page + PAGE].iter_mut().for_each(|byte| *byte = !*byte);
        fs::write(&path, &bytes).expect("can be written");
        let to = dir.path().join(format!("{page}.blaze"));
        let unencrypted = Options::unencrypted;
        let report = Database::salvage(&path, &unencrypted(), &to, unencrypted(), &mut |_| {});
        let report = report.unwrap_or_else(|e| panic!("page {}: {e:?}", page / PAGE));
        let db = Database::open(&to, Options::unencrypted()).unwrap_or_else(|e| panic!("page {}: {e:?}", page / PAGE));
        db.verify(&mut |_| {}).unwrap_or_else(|e| panic!("page {}: {e:?}", page / PAGE));
        let left = found(&db);
        let values = |document: &Document| document.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>();
        let renamed = left.iter().filter(|(n, document)| documents[n] != **document).count();
        assert!(left.iter().all(|(n, document)| values(&documents[n]) == values(document)), "page {}", page / PAGE);
        let lost = documents.len() - left.len();
        assert!(lost == 0 || !report.losses.is_empty(), "page {}: {lost} documents, not a word", page / PAGE);
        assert!(renamed == 0 || report.losses.iter().any(|loss| loss.to_string().contains("names of the 2 fields")));
        assert!(lost <= 60, "page {}: {lost} documents, and a leaf has some thirty", page / PAGE);
        let collections = db.collections().expect("reads");
        if collections.iter().all(|name| name.starts_with("lost+found-")) {
            assert_eq!(lost, 0, "page {}: only names are lost", page / PAGE);
            without_names += 1;
        } else if renamed > 0 {
            assert_eq!(lost, 0, "page {}: only names are lost", page / PAGE);
            without_fields += 1;
        }
        // It goes on as any other.
        let collection = db.collection::<Document>("one").expect("a good name");
        let id = collection.insert(&documents[&7]).expect("commits");
        assert_eq!(collection.get(id).expect("reads").as_ref(), Some(&documents[&7]));
    }
    assert!(without_names > 0 && without_fields > 0, "{without_names} and {without_fields}: each kind of page was met");
}

#[test]
fn nothing_is_made_of_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, to) = (dir.path().join("a.blaze"), dir.path().join("b.blaze"));
    let db = Database::open(&path, Options::unencrypted()).expect("creates");
    db.collection::<Document>("one").expect("a good name").insert(&documents()[&1]).expect("commits");
    db.close().expect("closes");
    let mut bytes = fs::read(&path).expect("is there");
    bytes[HEADERS..].iter_mut().for_each(|byte| *byte = !*byte);
    fs::write(&path, &bytes).expect("can be written");
    let options = Options::unencrypted;
    let error = Database::salvage(&path, &options(), &to, options(), &mut |_| {}).expect_err("there is nothing");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(!to.exists());
}

/// More than a transaction may hold has to be moved, and it is there whole or not at all.
#[test]
fn a_database_of_large_documents_survives_the_loss_of_its_names() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, to) = (dir.path().join("a.blaze"), dir.path().join("b.blaze"));
    let db = Database::open(&path, Options::unencrypted()).expect("creates");
    let document =
        |n: i64| Document::from_pairs([("n", Value::from(n)), ("text", "x".repeat(40 << 10).as_str().into())]);
    for part in 0..9 {
        db.transaction(|tx| {
            let things = tx.collection::<Document>("things")?;
            (0..100).try_for_each(|n| things.insert(&document(part * 100 + n).expect("a document")).map(drop))
        })
        .expect("commits");
    }
    db.close().expect("closes");
    let mut bytes = fs::read(&path).expect("is there");
    // The first page of all is the catalogue's, which has not changed since the first commit.
    bytes[HEADERS..HEADERS + PAGE].iter_mut().for_each(|byte| *byte = !*byte);
    fs::write(&path, &bytes).expect("can be written");
    let options = Options::unencrypted;
    Database::salvage(&path, &options(), &to, options(), &mut |_| {}).expect("everything is there");
    let db = Database::open(&to, options()).expect("opens");
    let names = db.collections().expect("reads");
    assert!(matches!(&names[..], [name] if name.starts_with("lost+found-")), "{names:?}");
    assert_eq!(found(&db).len(), 900);
}

/// A row that no list of fields makes a document is set aside and named; its neighbours stay.
#[test]
fn a_row_that_is_no_document_is_set_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, to) = (dir.path().join("a.blaze"), dir.path().join("b.blaze"));
    let db = Database::open(&path, Options::unencrypted()).expect("creates");
    for (name, range) in [("one", 0..600), ("two", 600..1200)] {
        let collection = db.collection::<Document>(name).expect("a good name");
        for (_, document) in documents().range(range) {
            collection.insert(document).expect("commits");
        }
    }
    db.close().expect("closes");
    let store = blazedb_engine::Store::open(Env::file(&path), blazedb_engine::Options::unencrypted()).expect("opens");
    let mut tx = store.write();
    let tree = tx.tree("r:two").expect("a good name");
    tx.put(tree, &[0xFF; 16], b"no document").expect("room");
    tx.commit().expect("commits");
    store.close().expect("closes");
    // A leaf of the other collection: where nothing is lost, everything is left as it is.
    let mut bytes = fs::read(&path).expect("is there");
    let is_leaf_of_one = |page: &[u8]| page[4] == 1 && page.windows(90).any(|text| text == [b'x'; 90]);
    let page = (HEADERS..bytes.len()).step_by(PAGE).find(|&at| is_leaf_of_one(&bytes[at..at + PAGE])).expect("a leaf");
    bytes[page + 100] ^= 1;
    fs::write(&path, &bytes).expect("can be written");
    let report = Database::salvage(&path, &Options::unencrypted(), &to, Options::unencrypted(), &mut |_| {});
    let losses = report.expect("something is there").losses;
    let named = losses
        .iter()
        .filter(|loss| matches!(loss, Loss::Value { tree, key, .. } if tree == "r:two" && **key == [0xFF; 16]));
    assert_eq!(named.count(), 1, "{losses:?}");
    let db = Database::open(&to, Options::unencrypted()).expect("opens");
    assert_eq!(db.collection::<Document>("two").expect("a good name").len().expect("reads"), 600);
    assert!(found(&db).len() > 1100, "the rest is there");
    db.close().expect("closes");
    let store = blazedb_engine::Store::open(Env::file(&to), blazedb_engine::Options::unencrypted()).expect("opens");
    let view = store.read();
    let beside = view.tree("lost+found/r:two").expect("reads").expect("it was set aside");
    assert_eq!(view.get(beside, &[0xFF; 16]).expect("reads").as_deref(), Some(&b"no document"[..]));
}
