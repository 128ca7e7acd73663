//! The front door: collections, transactions, the change stream, reopening.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use blazedb::{
    ChangeEvent, ChangeKind, Database, Document, DocumentId, Env, ErrorKind, Memory, Options, Origin, Patch, Value,
};
use blazedb_engine::env::Hooked;
use serde::{Deserialize, Serialize};
use sha2::Digest;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Todo {
    title: String,
    done: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
}

fn todo(title: &str) -> Todo {
    Todo { title: title.into(), done: false, due: None }
}

fn memory() -> Database {
    Database::open_in(Env::memory(1), Options::raw_key([1; 32])).unwrap()
}

#[test]
fn documents_come_back_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("todo.blaze");
    let ids: Vec<DocumentId> = {
        let db = Database::open(&path, Options::raw_key([1; 32])).unwrap();
        let todos = db.collection::<Todo>("todos").unwrap();
        let ids = (0..100).map(|n| todos.insert(&todo(&format!("task {n}"))).unwrap()).collect();
        db.close().unwrap();
        ids
    };
    let db = Database::open(&path, Options::raw_key([1; 32])).unwrap();
    let todos = db.collection::<Todo>("todos").unwrap();
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(todos.get(*id).unwrap(), Some(todo(&format!("task {n}"))));
    }
    assert_eq!(todos.len().unwrap(), 100);
    let scanned: Vec<DocumentId> = todos.scan().map(|item| item.unwrap().0).collect();
    assert!(scanned.is_sorted());
    assert_eq!(scanned.into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
}

#[test]
fn a_patch_touches_only_the_fields_it_names() {
    let db = memory();
    let todos = db.collection::<Document>("todos").unwrap();
    let id = todos
        .insert(
            &Document::from_pairs([("title", Value::from("a")), ("n", 1i64.into()), ("gone", true.into())]).unwrap(),
        )
        .unwrap();
    assert!(todos.update(id, Patch::new().set("n", 2).set_null("note").unset("gone")).unwrap());
    let document = todos.get(id).unwrap().unwrap();
    let fields: Vec<_> = document.iter().map(|(name, value)| (name, value.clone())).collect();
    assert_eq!(fields, [("n", Value::I64(2)), ("note", Value::Null), ("title", Value::from("a"))]);
    assert!(!todos.update(DocumentId::from_bytes([9; 16]), Patch::new().set("n", 3)).unwrap());
}

#[test]
fn replace_removes_what_is_gone() {
    let db = memory();
    let todos = db.collection::<Todo>("todos").unwrap();
    let id = todos.insert(&Todo { due: Some(5), ..todo("a") }).unwrap();
    assert!(todos.replace(id, &todo("b")).unwrap());
    assert_eq!(todos.get(id).unwrap(), Some(todo("b")));
    assert_eq!(todos.row(id).unwrap().unwrap().shape().len(), 2);
}

#[test]
fn delete_leaves_nothing_to_see() {
    let db = memory();
    let todos = db.collection::<Todo>("todos").unwrap();
    let id = todos.insert(&todo("a")).unwrap();
    assert!(todos.delete(id).unwrap());
    assert!(!todos.delete(id).unwrap());
    assert_eq!(todos.get(id).unwrap(), None);
    assert!(todos.is_empty().unwrap());
    assert!(db.collections().unwrap().is_empty());
}

#[test]
fn keys_name_one_document_each() {
    let db = memory();
    let todos = db.collection::<Todo>("todos").unwrap();
    let id = todos.insert_with_key("a", &todo("first")).unwrap();
    assert_eq!(todos.insert_with_key("a", &todo("second")).unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(todos.put_with_key("a", &todo("third")).unwrap(), id);
    assert_eq!(todos.get_by_key("a").unwrap(), Some((id, todo("third"))));
    assert_ne!(todos.insert_with_key(7i64, &todo("number")).unwrap(), id);
    assert_eq!(todos.get_by_key("b").unwrap(), None);
}

#[test]
fn a_transaction_happens_whole_or_not_at_all() {
    let db = memory();
    let todos = db.collection::<Todo>("todos").unwrap();
    let failed = db.transaction(|tx| {
        let todos = tx.collection::<Todo>("todos")?;
        let id = todos.insert(&todo("lost"))?;
        assert_eq!(todos.get(id)?, Some(todo("lost")), "a transaction reads its own writes");
        todos.insert_with_key("k", &todo("a"))?;
        todos.insert_with_key("k", &todo("b"))?;
        Ok(())
    });
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Key);
    assert!(todos.is_empty().unwrap());
    let (a, b) = db
        .transaction(|tx| {
            let todos = tx.collection::<Todo>("todos")?;
            Ok((todos.insert(&todo("a"))?, todos.insert(&todo("b"))?))
        })
        .unwrap();
    assert!(todos.get(a).unwrap().is_some() && todos.get(b).unwrap().is_some());
}

#[test]
fn a_local_setting_is_committed_with_its_transaction() {
    let db = memory();
    let failed: Result<(), _> = db.transaction(|tx| {
        tx.set_local("mark", Some(b"lost"))?;
        tx.collection::<Todo>("todos")?.insert_with_key("k", &todo("a"))?;
        tx.collection::<Todo>("todos")?.insert_with_key("k", &todo("b")).map(drop)
    });
    failed.unwrap_err();
    assert_eq!(db.local("mark").unwrap(), None);
    db.transaction(|tx| tx.set_local("mark", Some(b"7"))).unwrap();
    assert_eq!(db.local("mark").unwrap(), Some(b"7".to_vec()));
    db.transaction(|tx| tx.set_local("mark", None)).unwrap();
    assert_eq!(db.local("mark").unwrap(), None);
    let too_long = db.transaction(|tx| tx.set_local("mark", Some(&[0; 64 * 1024 + 1])));
    assert_eq!(too_long.unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn a_change_that_makes_a_document_too_large_is_refused_at_once() {
    let db = memory();
    let things = db.collection::<Document>("things").unwrap();
    let half = "x".repeat(600 * 1024);
    let id = things.insert(&Document::from_pairs([("a", Value::from(half.clone()))]).unwrap()).unwrap();
    let refused = things.update(id, Patch::new().set("b", half)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Limit);
    assert_eq!(things.row(id).unwrap().unwrap().shape().len(), 1);
}

#[test]
fn concurrent_increments_are_all_counted() {
    let db = memory();
    let counters = db.collection::<Document>("counters").unwrap();
    let zero = Document::from_pairs([("n", Value::I64(0))]).unwrap();
    let id = counters.insert(&zero).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    db.transaction(|tx| {
                        let counters = tx.collection::<Document>("counters")?;
                        let document = counters.get(id)?.unwrap();
                        let Some(Value::I64(n)) = document.get("n") else { panic!("not a number") };
                        counters.update(id, Patch::new().set("n", n + 1))?;
                        Ok(())
                    })
                    .unwrap();
                }
            });
        }
    });
    assert_eq!(counters.get(id).unwrap().unwrap().get("n"), Some(&Value::I64(200)));
}

/// The conflict check knows commits that are still on their way to the disk: an attempt must wait for the winner instead
/// of running into it a thousand times within one sync.
#[test]
fn contention_on_one_document_is_no_error() {
    let env = Env::memory(1);
    // As on a memory card.
    let slow = Hooked::slow_syncs(Arc::clone(&env.storage), Duration::from_millis(20));
    let env = Env { storage: Arc::new(slow), ..env };
    let db = Database::open_in(env, Options::raw_key([1; 32])).unwrap();
    let counters = db.collection::<Document>("counters").unwrap();
    let id = counters.insert(&Document::from_pairs([("n", Value::I64(0))]).unwrap()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..8 {
                    db.transaction(|tx| {
                        let counters = tx.collection::<Document>("counters")?;
                        let Some(Value::I64(n)) = counters.get(id)?.unwrap().get("n").cloned() else {
                            panic!("no number")
                        };
                        counters.update(id, Patch::new().set("n", n + 1)).map(drop)
                    })
                    .unwrap();
                    counters.update(id, Patch::new().set("other", 1)).unwrap();
                }
            });
        }
    });
    assert_eq!(counters.get(id).unwrap().unwrap().get("n"), Some(&Value::I64(24)));
}

#[test]
fn the_change_stream_tells_each_commit_once_in_order() {
    let db = memory();
    let todos = db.collection::<Todo>("todos").unwrap();
    let changes = db.changes();
    let id = todos.insert(&todo("a")).unwrap();
    todos.update(id, Patch::new().set("done", true)).unwrap();
    todos.delete(id).unwrap();
    let mut last = 0;
    for kind in [ChangeKind::Put, ChangeKind::Put, ChangeKind::Delete] {
        let Some(ChangeEvent::Commit(commit)) = changes.recv_timeout(Duration::from_secs(5)) else {
            panic!("a commit is missing")
        };
        assert!(commit.commit_no > last);
        last = commit.commit_no;
        assert_eq!(commit.origin, Origin::Local);
        assert_eq!((commit.changes.len(), commit.changes[0].id, commit.changes[0].kind), (1, id, kind));
    }
    assert!(changes.try_recv().is_none());
}

#[test]
fn insert_many_goes_in_chunks_and_keeps_the_order() {
    let db = memory();
    let todos = db.collection::<Todo>("todos").unwrap();
    let documents: Vec<Todo> = (0..2500).map(|n| todo(&format!("{n}"))).collect();
    let ids = todos.insert_many(&documents).unwrap();
    assert_eq!(ids.len(), 2500);
    assert_eq!(todos.get(ids[2499]).unwrap(), Some(todo("2499")));
    assert_eq!(todos.len().unwrap(), 2500);
}

#[test]
fn names_of_collections_have_a_limit() {
    let db = memory();
    assert_eq!(db.collection::<Todo>("").err().unwrap().kind(), ErrorKind::Limit);
    assert!(db.collection::<Todo>(&"n".repeat(255)).is_ok());
    assert_eq!(db.collection::<Todo>(&"n".repeat(256)).err().unwrap().kind(), ErrorKind::Limit);
}

#[test]
fn a_document_that_does_not_fit_the_type_is_an_error_that_names_it() {
    let db = memory();
    let id = db.collection::<Document>("todos").unwrap().insert(&Document::new()).unwrap();
    let error = db.collection::<Todo>("todos").unwrap().get(id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Type);
    assert!(format!("{error:?}").contains("title"), "{error:?}");
}

#[test]
fn a_file_that_is_open_already_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.blaze");
    let _db = Database::open(&path, Options::unencrypted()).unwrap();
    let error = Database::open(&path, Options::unencrypted()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Open);
    assert!(format!("{error:?}").contains("in this process"), "{error:?}");
}

/// spec: D-5
#[test]
fn the_digest_is_the_one_of_the_specification() {
    let db = memory();
    let ids = [DocumentId::from_bytes([1; 16]), DocumentId::from_bytes([2; 16])];
    let document = |n: i64| Document::from_pairs([("n", Value::I64(n))]).unwrap();
    db.collection::<Document>("b").unwrap().insert_with_id(ids[1], &document(300)).unwrap();
    db.collection::<Document>("b").unwrap().insert_with_id(ids[0], &document(2)).unwrap();
    db.collection::<Document>("a").unwrap().insert_with_id(ids[1], &document(3)).unwrap();
    let gone = db.collection::<Document>("c").unwrap();
    gone.insert_with_id(ids[0], &document(4)).unwrap();
    gone.delete(ids[0]).unwrap();
    // Written by hand from the text: collection, id, shape, body (width 1, tag, heap).
    let mut bytes = Vec::new();
    for (collection, id, body) in
        [(b'a', 2u8, &[1, 0x13][..]), (b'b', 1, &[1, 0x12]), (b'b', 2, &[1, 0x22, 0x2C, 0x01])]
    {
        bytes.extend([1, collection]);
        bytes.extend([id; 16]);
        bytes.extend([1, 1, b'n', body.len() as u8]);
        bytes.extend(body);
    }
    assert_eq!(db.digest().unwrap()[..], sha2::Sha256::digest(&bytes)[..]);
}

#[test]
fn equal_documents_have_equal_digests() {
    let (a, b) = (memory(), memory());
    let ids = [DocumentId::from_bytes([1; 16]), DocumentId::from_bytes([2; 16])];
    let (ta, tb) = (a.collection::<Todo>("t").unwrap(), b.collection::<Todo>("t").unwrap());
    ta.insert_with_id(ids[0], &todo("x")).unwrap();
    ta.insert_with_id(ids[1], &todo("y")).unwrap();
    tb.insert_with_id(ids[1], &todo("z")).unwrap();
    tb.insert_with_id(ids[0], &todo("x")).unwrap();
    assert_ne!(a.digest().unwrap(), b.digest().unwrap());
    tb.replace(ids[1], &todo("y")).unwrap();
    assert_eq!(a.digest().unwrap(), b.digest().unwrap());
}

#[test]
fn refused_options_of_memory_are_not_blamed_on_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let plain = Options::unencrypted;
    let db = Database::open(at("a.blaze"), plain()).unwrap();
    let mut backup = Vec::new();
    db.backup(&mut backup, &blazedb::BackupOptions::default(), &mut |_| {}).unwrap();
    db.close().unwrap();
    for (memory, said) in [
        (Memory { table_bytes: 0, ..Memory::CLIENT }, "memory.table_bytes 0, and it is from 1 KiB"),
        (Memory { log_bytes: 0, ..Memory::CLIENT }, "memory.log_bytes 0, and"),
        (Memory { log_bytes: u64::MAX, ..Memory::CLIENT }, "memory.log_bytes 18446744073709551615, and"),
        (Memory { cache_bytes: usize::MAX, ..Memory::CLIENT }, "memory.cache_bytes "),
    ] {
        let options = || plain().memory(memory);
        let mut parts = &backup[..];
        for error in [
            Database::open(at("a.blaze"), options()).map(drop).unwrap_err(),
            Database::restore(at("b.blaze"), options(), vec![&mut parts], &plain(), &mut |_| {}).map(drop).unwrap_err(),
            Database::salvage(at("a.blaze"), &plain(), at("b.blaze"), options(), &mut |_| {}).map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Limit, "{error:?}");
            let text = format!("{error:?}");
            assert!(text.contains("the options say") && text.contains(said), "{text}");
            assert!(!text.contains("the file asks") && !text.contains("the program that wrote it"), "{text}");
        }
        assert!(!at("b.blaze").exists());
    }
    // No cache is slow, and no mistake.
    Database::open(at("a.blaze"), plain().memory(Memory { cache_bytes: 0, ..Memory::CLIENT })).unwrap();
}
