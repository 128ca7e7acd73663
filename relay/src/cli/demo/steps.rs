//! The acts of the demo, in order. Each tells what it does, does it, and checks it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blazedb::{ChangeEvent, Database, Document, DocumentId, Patch, Value};

use super::data::Data;
use super::device::{AGREE_WITHIN, Device, agree, broken_promise, defect};
use super::report::Report;
use super::{Stage, tell};
use crate::cli::failure::Failure;
use crate::cli::load::Loader;
use crate::cli::ui::{self, Progress};

/// Records that both devices edit while they are cut off: this many in different fields, this many in the same.
const CONFLICTS: usize = 25;

/// Collection of the entries that both devices write while the relay is killed.
const JOURNAL: &str = "demo_journal";

/// Collection of the record that one device deletes while the other edits it.
const NOTES: &str = "demo_notes";

/// How often a device writes while the relay is killed.
const CRASH_WRITE_EVERY: Duration = Duration::from_millis(5);
/// When the relay is killed, started again, and when writing ends.
const CRASH_AT: Duration = Duration::from_millis(1_200);
const RESTART_AT: Duration = Duration::from_millis(2_200);
const CRASH_WRITES_END: Duration = Duration::from_millis(4_000);

/// A imports everything while it has no connection at all.
pub(super) fn import_offline(stage: &mut Stage, data: Data, report: &mut Report) -> Result<(), Failure> {
    let begun = Instant::now();
    let total = data.items.len() as u64;
    let mut progress = Progress::start("A imports offline", total);
    let mut loader = Loader::new(&stage.a.db, data.collection);
    let failed = |e: blazedb::Error| defect("A cannot import", &e);
    for item in data.items {
        if loader.push(item).map_err(failed)? {
            progress.set(loader.loaded().total());
            stage.stop.check()?;
        }
    }
    loader.finish().map_err(failed)?;
    progress.set(total);
    drop(progress);
    report.import = begun.elapsed();
    tell(&format!("1 offline: A imported {} in {}", ui::plural(total, "record"), ui::span(report.import)));
    Ok(())
}

/// A goes online and B, which waits, sees every record arrive.
pub(super) fn first_sync(stage: &mut Stage, collection: &'static str, report: &mut Report) -> Result<(), Failure> {
    let wanted = stage.a.ids(collection)?.len();
    stage.b.go_online(&stage.relay, &stage.token)?;
    let changes = stage.b.db.changes();
    let begun = Instant::now();
    stage.a.go_online(&stage.relay, &stage.token)?;
    let mut progress = Progress::start("B receives", wanted as u64);
    let mut seen = BTreeSet::new();
    while seen.len() < wanted {
        stage.stop.check()?;
        if begun.elapsed() > AGREE_WITHIN {
            return Err(broken_promise(format!("B saw {} of {wanted} records arrive", seen.len())));
        }
        match changes.recv_timeout(Duration::from_millis(50)) {
            None => {}
            Some(ChangeEvent::Lagged) => seen.extend(stage.b.ids(collection)?),
            Some(ChangeEvent::Commit(commit)) => {
                seen.extend(commit.changes.iter().filter(|c| &*c.collection == collection).map(|c| c.id));
            }
        }
        progress.set(seen.len() as u64);
    }
    report.first_sync = begun.elapsed();
    drop(progress);
    agree(&stage.a, &stage.b, &stage.stop)?;
    report.first_sync_bytes = stage.a.traffic()?.sent;
    tell(&format!(
        "2 online: B received {} live in {} ({} on the wire)",
        ui::plural(wanted as u64, "record"),
        ui::span(report.first_sync),
        ui::bytes(report.first_sync_bytes)
    ));
    Ok(())
}

/// Both devices edit the same records while neither hears of the other.
pub(super) fn cut_off(stage: &mut Stage, collection: &'static str, report: &mut Report) -> Result<(), Failure> {
    let ids = stage.a.ids(collection)?;
    let note = insert_note(&stage.a)?;
    agree(&stage.a, &stage.b, &stage.stop)?;
    let before = (stage.a.traffic()?.conflicts_merged, stage.b.traffic()?.conflicts_merged);
    let inbox_before = (inbox(&stage.a)?, inbox(&stage.b)?);
    stage.a.go_offline()?;
    stage.b.go_offline()?;

    // With few records the two groups overlap, which does no harm: they use different fields.
    let apart: Vec<DocumentId> = ids.iter().copied().take(CONFLICTS).collect();
    let together: Vec<DocumentId> = ids.iter().rev().copied().take(CONFLICTS).collect();
    for (device, own_field) in [(&stage.a, "demo_from_a"), (&stage.b, "demo_from_b")] {
        for id in &apart {
            edit(device, collection, *id, own_field)?;
        }
    }
    // By turns, so that each device has the last word on half of them.
    for (turn, id) in together.iter().enumerate() {
        let (first, last) = if turn % 2 == 0 { (&stage.a, &stage.b) } else { (&stage.b, &stage.a) };
        edit(first, collection, *id, "demo_winner")?;
        edit(last, collection, *id, "demo_winner")?;
    }
    let notes = |device: &Device| device.db.collection::<Document>(NOTES);
    notes(&stage.a).and_then(|c| c.delete(note)).map_err(|e| defect("A cannot delete a note", &e))?;
    notes(&stage.b)
        .and_then(|c| c.update(note, Patch::new().set("text", "B was still writing this")))
        .map_err(|e| defect("B cannot edit a note", &e))?;
    tell(&format!(
        "4 cut off: A and B each edited {} in different fields and {} in the same field; A deleted a note that B edited",
        ui::plural(apart.len() as u64, "record"),
        ui::plural(together.len() as u64, "record"),
    ));

    let begun = Instant::now();
    stage.a.go_online(&stage.relay, &stage.token)?;
    stage.b.go_online(&stage.relay, &stage.token)?;
    agree(&stage.a, &stage.b, &stage.stop)?;
    report.reconnect = begun.elapsed();

    for device in [&stage.a, &stage.b] {
        for id in &apart {
            let document = read(device, collection, *id)?;
            for (field, value) in [("demo_from_a", "A"), ("demo_from_b", "B")] {
                if document.get(field) != Some(&Value::Text(value.to_owned())) {
                    return Err(broken_promise(format!("{}: the edit of {field} in {id} is gone", device.name)));
                }
            }
        }
    }
    let mut won = [0_u64; 2];
    for id in &together {
        let winners =
            [&stage.a, &stage.b].map(|device| read(device, collection, *id).map(|d| d.get("demo_winner").cloned()));
        let [on_a, on_b] = winners;
        match (on_a?, on_b?) {
            (Some(Value::Text(x)), Some(Value::Text(y))) if x == y && (x == "A" || x == "B") => {
                won[usize::from(x == "B")] += 1;
            }
            (x, y) => return Err(broken_promise(format!("{id} has winner {x:?} on A and {y:?} on B"))),
        }
    }
    report.conflicts = (stage.a.traffic()?.conflicts_merged - before.0, stage.b.traffic()?.conflicts_merged - before.1);
    report.inbox = (inbox(&stage.a)? - inbox_before.0, inbox(&stage.b)? - inbox_before.1);
    if report.inbox.0 == 0 || report.inbox.1 == 0 {
        return Err(broken_promise("B's edit of the deleted note is not in both inboxes"));
    }
    tell(&format!(
        "  back online: merged in {}; both edits of different fields survive, the same field was won by A {}x and B {}x, \
         and the deleted note with B's edit is in the inbox",
        ui::span(report.reconnect),
        won[0],
        won[1]
    ));
    Ok(())
}

fn insert_note(device: &Device) -> Result<DocumentId, Failure> {
    let note = Document::from_iter([("text".to_owned(), Value::Text("a note for both".to_owned()))]);
    device
        .db
        .collection::<Document>(NOTES)
        .and_then(|notes| notes.insert(&note))
        .map_err(|e| defect("A cannot insert a note", &e))
}

fn inbox(device: &Device) -> Result<u64, Failure> {
    device.db.inbox().map(|entries| entries.len() as u64).map_err(|e| defect("cannot read the inbox", &e))
}

fn read(device: &Device, collection: &str, id: DocumentId) -> Result<Document, Failure> {
    device
        .db
        .collection::<Document>(collection)
        .and_then(|records| records.get(id))
        .map_err(|e| defect("cannot read a record", &e))?
        .ok_or_else(|| broken_promise(format!("{} lost record {id}", device.name)))
}

/// Sets a field to the device's name.
fn edit(device: &Device, collection: &str, id: DocumentId, field: &str) -> Result<(), Failure> {
    let done = device
        .db
        .collection::<Document>(collection)
        .and_then(|records| records.update(id, Patch::new().set(field, device.name)))
        .map_err(|e| defect("cannot edit a record", &e))?;
    if done { Ok(()) } else { Err(broken_promise(format!("{} lost record {id}", device.name))) }
}

/// Both devices write on while the relay is killed without a warning and started again.
pub(super) fn crash(stage: &mut Stage, collection: &'static str, report: &mut Report) -> Result<(), Failure> {
    let ids = stage.a.ids(collection)?;
    let enough = AtomicBool::new(false);
    let begun = Instant::now();
    let relay = &mut stage.relay;
    let stop = &stage.stop;
    let (a, b) = (&stage.a, &stage.b);
    let enough = &enough;
    let ids = &ids;
    let (acknowledged, story) = std::thread::scope(|scope| {
        let writers =
            [a, b].map(|device| scope.spawn(move || write_journal(&device.db, device.name, collection, ids, enough)));
        let story = (|| {
            let pause = |until: Duration| {
                while begun.elapsed() < until {
                    stop.check()?;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok::<(), Failure>(())
            };
            pause(CRASH_AT)?;
            let pid = relay.pid();
            relay.kill()?;
            let killed = Instant::now();
            tell(&format!("5 crash: relay process {pid} killed with SIGKILL while both devices write"));
            pause(RESTART_AT)?;
            let ready = relay.start_again()?;
            report.relay_away = killed.elapsed();
            tell(&format!("  relay is back as process {} (ready in {})", relay.pid(), ui::span(ready)));
            pause(CRASH_WRITES_END)
        })();
        enough.store(true, Ordering::SeqCst);
        let acknowledged = writers.map(|writer| writer.join().expect("a writer does not panic"));
        (acknowledged, story)
    });
    story?;
    let [written_a, written_b] = acknowledged;
    let (written_a, written_b) = (written_a?, written_b?);
    let waiting = Instant::now();
    agree(a, b, stop)?;
    report.recover = waiting.elapsed();

    for device in [a, b] {
        for (author, written) in [("A", written_a), ("B", written_b)] {
            check_journal(device, author, written)?;
        }
    }
    report.crash_acknowledged = written_a + written_b;
    tell(&format!(
        "  {} acknowledged while the relay was killed and restarted; every one of them is on both devices",
        ui::plural(report.crash_acknowledged, "transaction"),
    ));
    Ok(())
}

/// Writes entries 0, 1, 2, ... until told to stop; returns how many were acknowledged. Each transaction inserts the
/// entry and marks one of the records, so that half a transaction would show.
fn write_journal(
    db: &Database,
    name: &str,
    collection: &str,
    ids: &[DocumentId],
    enough: &AtomicBool,
) -> Result<u64, Failure> {
    let begun = Instant::now();
    let mut written = 0_u64;
    while !enough.load(Ordering::SeqCst) {
        let id = ids[(written as usize * 7) % ids.len()];
        db.transaction(|tx| {
            let entry = Document::from_iter([
                ("author".to_owned(), Value::Text(name.to_owned())),
                ("number".to_owned(), Value::I64(written as i64)),
            ]);
            tx.collection::<Document>(JOURNAL)?.insert(&entry)?;
            tx.collection::<Document>(collection)?
                .update(id, Patch::new().set(format!("demo_journal_{}", name.to_lowercase()), written))?;
            Ok(())
        })
        .map_err(|e| defect(&format!("{name} cannot write while the relay is away"), &e))?;
        written += 1;
        let next = CRASH_WRITE_EVERY * u32::try_from(written).unwrap_or(u32::MAX);
        std::thread::sleep(next.saturating_sub(begun.elapsed()));
    }
    Ok(written)
}

/// Checks that a device has every entry of an author exactly once.
fn check_journal(device: &Device, author: &str, written: u64) -> Result<(), Failure> {
    let read = || {
        let mut numbers = Vec::new();
        for entry in device.db.collection::<Document>(JOURNAL)?.scan() {
            let (_, entry) = entry?;
            if entry.get("author") == Some(&Value::Text(author.to_owned()))
                && let Some(Value::I64(number)) = entry.get("number")
            {
                numbers.push(*number as u64);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    };
    let numbers = read().map_err(|e| defect("cannot read the journal", &e))?;
    if numbers.iter().copied().eq(0..written) {
        return Ok(());
    }
    let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
    Err(broken_promise(format!(
        "{} has {} of {written} entries of {author} ({} of them twice)",
        device.name,
        distinct.len(),
        numbers.len() - distinct.len()
    )))
}
