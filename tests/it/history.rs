//! How documents were: as of commits and times, and the versions of a document.

use std::collections::BTreeMap;
use std::sync::Arc;

use blazedb::{Database, Document, DocumentId, Env, ErrorKind, History, Moment, Options, Patch, SpaceId, Value};
use blazedb_engine::env::SimDisk;

const ALL: History = History::ALL;

fn open(disk: &SimDisk) -> Database {
    Database::open_in(disk.env("a.blaze"), Options::raw_key([1; 32])).unwrap()
}

fn note(text: &str) -> Document {
    Document::from_pairs([("text", Value::from(text))]).unwrap()
}

/// Every document by id, as text.
type State = BTreeMap<DocumentId, String>;

fn shown<E: std::fmt::Debug>(items: impl Iterator<Item = Result<(DocumentId, Document), E>>) -> State {
    items.map(|item| item.unwrap()).map(|(id, document)| (id, format!("{document:?}"))).collect()
}

#[test]
fn collections_as_of_every_commit_are_what_they_were() {
    let disk = SimDisk::new(3);
    let mut db = open(&disk);
    let notes = |db: &Database| db.collection::<Document>("notes").unwrap();
    assert!(notes(&db).history().unwrap().is_none());
    notes(&db).keep_history(Some(ALL)).unwrap();
    let mut then: Vec<(u64, State)> = Vec::new();
    let mut ids = Vec::new();
    for n in 0..60_u64 {
        let now = notes(&db);
        match n % 4 {
            0 => ids.push(now.insert(&note(&format!("note {n}"))).unwrap()),
            1 => drop(now.put_with_key(format!("key {}", n % 3), &note(&format!("keyed {n}"))).unwrap()),
            2 => {
                now.update(ids[n as usize % ids.len()], Patch::new().set(format!("field {n}"), n)).unwrap();
            }
            _ if n % 12 == 3 => drop(now.delete(ids.swap_remove(0)).unwrap()),
            _ => now.insert_many([&note("one"), &note("other")]).map(drop).unwrap(),
        }
        then.push((db.commit_no(), shown(now.scan())));
        if n % 17 == 16 {
            db.close().unwrap();
            db = open(&disk);
        }
    }
    for (commit_no, state) in &then {
        let past = db.as_of(Moment::Commit(*commit_no)).unwrap();
        assert_eq!(past.commit_no(), *commit_no);
        let past = past.collection::<Document>("notes").unwrap();
        assert_eq!(shown(past.scan()), *state, "as of {commit_no}");
        assert_eq!(past.len().unwrap(), state.len() as u64);
        for id in &ids {
            assert_eq!(past.get(*id).unwrap().map(|found| format!("{found:?}")).as_ref(), state.get(id));
        }
        for key in ["key 0", "key 1", "key 2"] {
            let found = past.get_by_key(key).unwrap();
            let id = DocumentId::for_key("notes", &key.into(), 0);
            assert_eq!(
                found.map(|(id, found)| (id, format!("{found:?}"))),
                state.get_key_value(&id).map(|(k, v)| (*k, v.clone()))
            );
        }
    }
}

#[test]
fn versions_of_a_document_say_who_wrote_them_when_and_what_there_was() {
    let disk = SimDisk::new(3);
    let db = open(&disk);
    let notes = db.collection::<Document>("notes").unwrap();
    notes.keep_history(Some(ALL)).unwrap();
    let at = || disk.env("a.blaze").clock.wall_ms();
    let mut written = Vec::new();
    let id = notes.insert(&note("rain")).unwrap();
    written.push((db.commit_no(), Some(note("rain"))));
    disk.clock().advance_ms(60_000);
    let noon = at();
    notes.update(id, Patch::new().set("text", "sun")).unwrap();
    written.push((db.commit_no(), Some(note("sun"))));
    disk.clock().advance_ms(60_000);
    notes.delete(id).unwrap();
    written.push((db.commit_no(), None));
    let versions: Vec<_> = notes.versions(id).unwrap().map(|version| version.unwrap()).collect();
    let listed: Vec<_> = versions.iter().rev().map(|version| (version.from, version.document.clone())).collect();
    let mut wanted = vec![(None, None)];
    wanted.extend(written.iter().map(|(from, document)| (Some(*from), document.clone())));
    assert_eq!(listed, wanted);
    assert_eq!(versions[0].until, None);
    assert!(versions.windows(2).all(|pair| pair[1].until == pair[0].from));
    assert_eq!(versions[1].at_ms.map(|ms| ms / 1000), Some(noon / 1000));
    let past = db.as_of(Moment::Time(noon)).unwrap();
    assert_eq!(past.at_ms().unwrap().map(|ms| ms / 1000), Some(noon / 1000));
    assert_eq!(past.collections().unwrap(), ["notes"]);
    assert_eq!(past.collection::<Document>("notes").unwrap().get(id).unwrap(), Some(note("sun")));
}

#[test]
fn what_is_not_kept_is_said_and_what_to_do() {
    let db = open(&SimDisk::new(1));
    let (kept, other) = (db.collection::<Document>("kept").unwrap(), db.collection::<Document>("other").unwrap());
    let id = kept.insert(&note("before")).unwrap();
    other.insert(&note("a")).unwrap();
    let before = db.commit_no();
    let state = |error: blazedb::Error| (error.kind(), error.to_string());
    let (kind, text) = state(kept.versions(id).map(drop).unwrap_err());
    assert!(kind == ErrorKind::State && text.contains("`kept`") && text.contains("keep_history"), "{text}");
    assert_eq!(db.as_of(Moment::Time(u64::MAX)).unwrap_err().kind(), ErrorKind::State);
    kept.keep_history(Some(ALL)).unwrap();
    let since = db.commit_no();
    kept.update(id, Patch::new().set("text", "after")).unwrap();
    let past = db.as_of(Moment::Commit(before)).unwrap();
    let (kind, text) = state(past.collection::<Document>("kept").map(drop).unwrap_err());
    assert!(kind == ErrorKind::State && text.contains(&format!("commit {since}")), "{text}");
    let past = db.as_of(Moment::Commit(since)).unwrap();
    assert_eq!(past.collection::<Document>("other").map(drop).unwrap_err().kind(), ErrorKind::State);
    assert!(past.collection::<Document>("never").unwrap().is_empty().unwrap(), "what is nowhere was nowhere");
    assert_eq!(past.collections().unwrap(), ["kept"]);
    assert_eq!(db.as_of(Moment::Commit(db.commit_no() + 1)).unwrap_err().kind(), ErrorKind::State);
    assert_eq!(kept.history().unwrap().unwrap().oldest, since);
    kept.keep_history(None).unwrap();
    assert!(kept.history().unwrap().is_none() && kept.versions(id).is_err());
}

/// Names of trees and what is in a file are as if there were no history: nobody else sees the twins.
#[test]
fn a_database_with_history_counts_verifies_and_follows_as_without() {
    let disk = SimDisk::new(4);
    let db = open(&disk);
    let notes = db.collection::<Document>("notes").unwrap();
    notes.keep_history(Some(History { keep_ms: u64::MAX, keep_bytes: 20_000 })).unwrap();
    let id = notes.insert(&note("0")).unwrap();
    for n in 0..400 {
        notes.update(id, Patch::new().set("text", format!("{n:0>200}"))).unwrap();
    }
    assert_eq!((db.collections().unwrap(), notes.len().unwrap()), (vec!["notes".to_owned()], 1));
    assert_eq!(db.stats().unwrap().collections["notes"].documents, 1);
    assert_eq!(db.verify(&mut |_| {}).unwrap().documents, 1);
    let follower = Database::open_in(Env::memory(9), Options::unencrypted()).unwrap();
    follower.follow(SpaceId::from_bytes([1; 16]), 1).unwrap();
    follower.collection::<Document>("notes").unwrap().keep_history(Some(ALL)).unwrap();
    assert!(follower.collections().unwrap().is_empty());
    let past = Arc::new(db.as_of(Moment::Commit(db.commit_no())).unwrap());
    assert!(format!("{past:?}").contains("commit_no"));
}
