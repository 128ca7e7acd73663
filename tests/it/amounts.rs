//! How much there is to sync is no reason that it fails: a transaction of the store holds 32 MiB, and however many
//! documents there are, and however large they are, no step of the replication makes a larger one.

use blazedb::{
    ChangeEvent, Collection, Database, Document, DocumentId, Env, Memory, Options, OutboxPosition, Patch, Value,
};
use blazedb_engine::env::{SimDisk, Survivors};
use blazedb_wire::Verdict;

use crate::replica::TinyRelay;

/// The smallest memory that the options take.
const LEAST: Memory = Memory { cache_bytes: 0, table_bytes: 1 << 10, log_bytes: 1 << 10 };

/// Of text: with its name, the other field and their lengths it is a row of the largest size.
const LARGEST: usize = (1 << 20) - 32;

fn memory(seed: u64, memory: Memory) -> Database {
    Database::open_in(Env::memory(seed), Options::unencrypted().memory(memory)).unwrap()
}

fn texts(db: &Database) -> Collection<Document> {
    db.collection("texts").unwrap()
}

/// Text of `bytes` bytes that nothing compresses.
fn text(seed: u64, bytes: usize) -> Document {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letter = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'0' + (state >> 32) as u8 % 75)
    };
    let text: String = (0..bytes).map(letter).collect();
    Document::from_pairs([("n", Value::from(seed as i64)), ("text", Value::from(text))]).unwrap()
}

/// Inserts under keys: the ids are in another order than the stamps, so that the stamps change when they are sealed.
fn fill(db: &Database, count: u64, bytes: usize) -> Vec<DocumentId> {
    let at_once = (100_000 / bytes).max(1);
    let numbers: Vec<u64> = (0..count).collect();
    let some = |some: &[u64]| {
        db.transaction(|tx| {
            let texts = tx.collection::<Document>("texts")?;
            some.iter().map(|n| texts.put_with_key(*n as i64, &text(*n, bytes))).collect::<Result<Vec<_>, _>>()
        })
    };
    numbers.chunks(at_once).flat_map(|part| some(part).unwrap()).collect()
}

fn tell_each_other(relay: &mut TinyRelay, databases: &[&Database]) {
    for db in databases {
        relay.push(db, Verdict::Applied);
    }
    for db in databases {
        relay.pull(db);
        assert!(db.replica().outbox().unwrap().is_empty());
        assert_eq!(db.digest().unwrap(), databases[0].digest().unwrap());
    }
}

/// A file of `count` documents begins to sync, or one that has begun is filled with them; somebody receives it all.
fn check(count: u64, bytes: usize, is_bound_first: bool, size: Memory) {
    let (a, b) = (memory(1, size), memory(2, size));
    let mut relay = TinyRelay::default();
    if is_bound_first {
        relay.greet(&a.replica());
    }
    fill(&a, count, bytes);
    tell_each_other(&mut relay, &[&a, &b]);
    assert_eq!(texts(&b).len().unwrap(), count);
}

#[test]
fn a_file_of_any_amount_can_begin_to_sync() {
    check(8_000, 2_200, false, Memory::SERVER);
    check(36, 500_000, false, Memory::CLIENT);
    check(3, LARGEST, false, LEAST);
}

#[test]
fn any_amount_can_be_written_before_it_is_synced() {
    check(7_000, 5_000, true, Memory::CLIENT);
    check(34, LARGEST, true, LEAST);
}

/// Rows of a few bytes whose lists of names are long: both the lists and the batches that repeat them count.
#[test]
fn a_file_of_long_field_names_can_begin_to_sync() {
    let (a, b) = (memory(1, Memory::SERVER), memory(2, Memory::SERVER));
    for n in 0..45 {
        let name = |i: u32| format!("{n}-{i}-{}", "x".repeat(240));
        let wide = Document::from_pairs((0..3_000).map(|i| (name(i), Value::from(0)))).unwrap();
        let id = texts(&a).insert(&wide).unwrap();
        texts(&a).update(id, Patch::new().set(name(7), 1)).unwrap();
    }
    tell_each_other(&mut TinyRelay::default(), &[&a, &b]);
}

/// Many small changes of large documents fit one batch, and the documents do not fit one transaction: whoever receives
/// it, the author included, applies it in parts.
#[test]
fn small_changes_of_large_documents_are_applied_in_parts() {
    let (a, b) = (memory(1, Memory::CLIENT), memory(2, Memory::CLIENT));
    let mut relay = TinyRelay::default();
    let ids = fill(&a, 40, 900_000);
    tell_each_other(&mut relay, &[&a, &b]);
    for id in &ids {
        texts(&a).update(*id, Patch::new().set("n", -1)).unwrap();
        texts(&b).update(*id, Patch::new().set("m", 1)).unwrap();
    }
    let before = relay.log.len();
    tell_each_other(&mut relay, &[&a, &b]);
    assert_eq!(relay.log.len() - before, 2, "each says it in one batch");
    assert_eq!(texts(&a).get(ids[9]).unwrap().unwrap().get("m"), Some(&Value::from(1)));

    // Deletes that did not know of an edit set the whole document aside, which makes as much.
    for id in &ids {
        texts(&a).update(*id, Patch::new().set("n", -2)).unwrap();
        texts(&b).delete(*id).unwrap();
    }
    tell_each_other(&mut relay, &[&a, &b]);
    assert_eq!((texts(&a).len().unwrap(), a.inbox().unwrap().len(), b.inbox().unwrap().len()), (0, 40, 40));
}

/// Stamps from the future are brought back when they are sealed, and what is shown is folded again: of many documents
/// that are large, and beside them the batches.
#[test]
fn large_documents_are_stamped_anew_some_at_a_time() {
    let (a, b) = (memory(1, Memory::CLIENT), memory(2, Memory::CLIENT));
    let mut relay = TinyRelay::default();
    let ids = fill(&a, 40, 900_000);
    tell_each_other(&mut relay, &[&a, &b]);
    // A stamp that is never sealed: those after it are ahead of what a relay at the beginning of time takes.
    let given_up = a.transaction(|tx| {
        tx.collection::<Document>("texts")?.update(ids[0], Patch::new().set("n", 0))?;
        tx.collection::<Document>("").map(drop)
    });
    assert!(given_up.is_err());
    for id in ids.iter().chain(&ids[..9]) {
        texts(&a).update(*id, Patch::new().set("n", -1)).unwrap();
    }
    let ahead = a.digest().unwrap();
    relay.greet(&a.replica());
    let before = a.commit_no();
    assert_eq!(a.replica().seal(Some(1)).unwrap(), 49);
    assert!(a.commit_no() > before + 5, "one transaction for the batches, and many for the documents");
    assert_eq!(a.digest().unwrap(), ahead);
    // What is written next is newer than what was stamped anew.
    texts(&a).update(ids[3], Patch::new().set("n", -2)).unwrap();
    assert_eq!(texts(&a).get(ids[3]).unwrap().unwrap().get("n"), Some(&Value::from(-2)));
    relay.take(&a.replica(), Verdict::Applied);
    relay.pull(&a);
    tell_each_other(&mut relay, &[&a, &b]);
    assert_eq!(texts(&b).get(ids[3]).unwrap().unwrap().get("n"), Some(&Value::from(-2)));
}

/// An entry is cut between transactions, where it can be.
#[test]
fn a_transaction_is_seen_whole_also_where_its_entry_is_applied_in_parts() {
    let (a, b) = (memory(1, Memory::SERVER), memory(2, Memory::SERVER));
    let mut relay = TinyRelay::default();
    let ids = fill(&a, 30, 900_000);
    // The author has not heard of the answer: its transactions may be of twice as much.
    relay.push(&a, Verdict::Applied);
    relay.pull(&b);
    let changes = b.changes();
    let mut seen_of = |transactions: &[&[DocumentId]]| {
        for ids in transactions {
            a.transaction(|tx| {
                let texts = tx.collection::<Document>("texts")?;
                ids.iter().try_for_each(|id| texts.update(*id, Patch::new().set("n", -1)).map(drop))
            })
            .unwrap();
        }
        relay.push(&a, Verdict::Applied);
        relay.pull(&b);
        assert_eq!(b.digest().unwrap(), a.digest().unwrap());
        let number = |event| match event {
            ChangeEvent::Commit(commit) => commit.changes.len(),
            ChangeEvent::Lagged => panic!("a handful of commits"),
        };
        std::iter::from_fn(|| changes.try_recv()).map(number).collect::<Vec<_>>()
    };
    let one_by_one: Vec<&[DocumentId]> = ids[..8].chunks(1).collect();
    assert_eq!(seen_of(&[&one_by_one[..], &[&ids[8..29], &ids[29..]]].concat()), [8, 21, 1]);
    // What no transaction of the store holds beside the rest of it is cut.
    a.transaction(|tx| {
        let texts = tx.collection::<Document>("texts")?;
        ids.iter().try_for_each(|id| texts.update(*id, Patch::new().set("m", 1)).map(drop))
    })
    .unwrap();
    assert_eq!(seen_of(&[]), [28, 2]);
}

/// spec: D-9
#[test]
fn an_entry_that_a_crash_cut_off_goes_on_where_it_stopped() {
    let mut relay = TinyRelay::default();
    let a = memory(1, Memory::CLIENT);
    let ids = fill(&a, 10, 1_000_000);
    relay.push(&a, Verdict::Applied);
    relay.pull(&a);
    let disk = SimDisk::new(3);
    let open = |disk: &SimDisk| Database::open_in(disk.env("texts.blaze"), Options::unencrypted());
    let b = open(&disk).unwrap();
    relay.pull(&b);
    b.close().unwrap();
    for id in &ids {
        texts(&a).update(*id, Patch::new().set("n", -1)).unwrap();
    }
    relay.push(&a, Verdict::Applied);
    relay.pull(&a);
    let (mut parts, mut done) = (0, false);
    for nth in (1..).step_by(9) {
        let dying = disk.copy();
        let b = open(&dying).unwrap();
        dying.crash_at(nth);
        let (envelope, batch) = relay.log.last().unwrap();
        let is_whole = b.replica().apply_entry(envelope, batch).is_ok() && b.close().is_ok();
        let b = open(&dying.after_crash(Survivors::All, nth)).unwrap();
        let (applied, cursor) = (b.digest_at_cursor().unwrap().0, b.replica().cursor());
        assert!(cursor == envelope.first_seq - 1 || cursor == envelope.last_seq());
        parts += u32::from(applied > cursor);
        relay.pull(&b);
        assert_eq!(b.digest().unwrap(), a.digest().unwrap());
        assert_eq!(b.replica().batch_after(OutboxPosition::default()).unwrap(), None);
        if is_whole {
            done = true;
            break;
        }
    }
    assert!(done && parts > 0, "no crash fell between two parts");
}
