//! A paced stream of edits from A to B, with the time each takes from commit to visible.
//!
//! Writers commit on A one edit at a time, durably, at a fixed pace; a watcher reads B's change stream. An edit's
//! clock starts when its commit has returned on A (or when B shows it, if that is earlier: the latency is then zero) and
//! stops when B's change stream has named the record and the record read there has the edit in it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blazedb::{ChangeEvent, Document, DocumentId, Patch, Value};

use super::device::{AGREE_WITHIN, Device, agree, broken_promise, defect};
use super::report::Report;
use super::{Stage, tell};
use crate::cli::failure::Failure;
use crate::cli::ui::{self, Progress};

/// Edits per second: a busy team, and slow enough that each is a commit of its own on a small machine.
const PACE_PER_SECOND: u32 = 450;

/// Writers, so that one slow sync of the disk does not hold up the pace.
const WRITERS: usize = 4;

/// Edits that are committed on A and not yet visible on B; where B cannot follow the pace, A waits for it.
const IN_FLIGHT_MAX: u64 = 256;

/// No more edits are begun after this long: very large records take their time.
const STREAM_MAX: Duration = Duration::from_secs(30);

/// The field that carries an edit's number.
const NUMBER: &str = "demo_edit";

/// Where the edits are: edit n goes to record n modulo their count, and to the writer that owns this record, so that
/// the edits of one record are committed in order.
struct Edits {
    ids: Vec<DocumentId>,
    count: u64,
    begun: Instant,
    /// Nanoseconds from `begun` to commit and to visibility; 0 until then.
    committed: Vec<AtomicU64>,
    visible: Vec<AtomicU64>,
    committed_count: AtomicU64,
    visible_count: AtomicU64,
    commit_nanos: AtomicU64,
    cancelled: AtomicBool,
}

impl Edits {
    /// Returns how many edits are committed and not visible yet.
    fn in_flight(&self) -> u64 {
        let visible = self.visible_count.load(Ordering::SeqCst);
        self.committed_count.load(Ordering::SeqCst).saturating_sub(visible)
    }
}

/// Streams `count` edits from A to B.
pub(super) fn edits(
    stage: &mut Stage,
    collection: &'static str,
    count: u64,
    report: &mut Report,
) -> Result<(), Failure> {
    let before = (stage.a.traffic()?, stage.b.traffic()?);
    let changes = stage.b.db.changes();
    let zeros = || (0..count).map(|_| AtomicU64::new(0)).collect();
    let edits = Edits {
        ids: stage.a.ids(collection)?,
        count,
        begun: Instant::now(),
        committed: zeros(),
        visible: zeros(),
        committed_count: AtomicU64::new(0),
        visible_count: AtomicU64::new(0),
        commit_nanos: AtomicU64::new(0),
        cancelled: AtomicBool::new(false),
    };
    let (edits, a, b, stop) = (&edits, &stage.a, &stage.b, &stage.stop);
    let outcome = std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write(a, collection, edits, writer))).collect();
        let watcher = scope.spawn(move || watch(b, collection, edits, changes));
        let mut progress = Progress::start("A edits, B sees", count);
        let mut last_news = (0, Instant::now());
        let outcome = loop {
            let seen = edits.visible_count.load(Ordering::SeqCst);
            progress.set(seen);
            if writers.iter().all(|writer| writer.is_finished()) && seen == edits.committed_count.load(Ordering::SeqCst)
            {
                break Ok(());
            }
            if seen != last_news.0 {
                last_news = (seen, Instant::now());
            }
            if last_news.1.elapsed() > AGREE_WITHIN {
                break Err(broken_promise(format!(
                    "B saw {seen} of {} edits and then nothing for a minute",
                    edits.committed_count.load(Ordering::SeqCst)
                )));
            }
            if let Err(interrupted) = stop.check() {
                break Err(interrupted);
            }
            // A failed writer or watcher ends early and its error is taken below.
            if watcher.is_finished() || edits.cancelled.load(Ordering::SeqCst) {
                break Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        edits.cancelled.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.join().expect("a writer does not panic")?;
        }
        watcher.join().expect("the watcher does not panic")?;
        outcome
    });
    outcome?;
    let took = edits.begun.elapsed();
    agree(a, b, stop)?;

    let mut latencies: Vec<u64> = edits
        .committed
        .iter()
        .zip(&edits.visible)
        .map(|(committed, visible)| (committed.load(Ordering::SeqCst), visible.load(Ordering::SeqCst)))
        .filter(|(committed, _)| *committed > 0)
        .map(|(committed, visible)| visible.saturating_sub(committed))
        .collect();
    latencies.sort_unstable();
    let percentile = |p: usize| Duration::from_nanos(latencies[(latencies.len() - 1) * p / 100]);
    // Not all of them if time was up.
    let count = latencies.len() as u64;
    report.edits = count;
    report.edit_pace = count as f64 / took.as_secs_f64();
    report.edit_commit = Duration::from_nanos(edits.commit_nanos.load(Ordering::SeqCst) / count);
    report.latency = (percentile(50), percentile(99));
    let (sent, received) = (stage.a.traffic()?.sent - before.0.sent, stage.b.traffic()?.received - before.1.received);
    report.edit_bytes = (sent, received);
    report.edit_json_bytes = edit_json_bytes(count);
    tell(&format!(
        "3 stream: {} from A visible on B at {:.0}/s; commit to visible p50 {}, p99 {}",
        ui::plural(count, "edit"),
        report.edit_pace,
        ui::span(report.latency.0),
        ui::span(report.latency.1)
    ));
    Ok(())
}

fn note(number: u64) -> String {
    format!("edit {number} of the demo")
}

/// What the same edits take as JSON, without any message around them.
fn edit_json_bytes(count: u64) -> u64 {
    (0..count).map(|n| format!("{{\"{NUMBER}\":{n},\"demo_note\":\"{}\"}}", note(n)).len() as u64).sum()
}

fn write(a: &Device, collection: &str, edits: &Edits, writer: usize) -> Result<(), Failure> {
    let write_all = || {
        let records = a.db.collection::<Document>(collection)?;
        for n in 0..edits.count {
            let index = (n % edits.ids.len() as u64) as usize;
            if index % WRITERS != writer {
                continue;
            }
            while edits.in_flight() >= IN_FLIGHT_MAX && !edits.cancelled.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if edits.cancelled.load(Ordering::SeqCst) || edits.begun.elapsed() > STREAM_MAX {
                break;
            }
            let due = Duration::from_secs(1) * u32::try_from(n).unwrap_or(u32::MAX) / PACE_PER_SECOND;
            std::thread::sleep(due.saturating_sub(edits.begun.elapsed()));
            let patch = Patch::new().set(NUMBER, n).set("demo_note", note(n));
            let begun = edits.begun.elapsed();
            records.update(edits.ids[index], patch)?;
            let committed = edits.begun.elapsed();
            edits.commit_nanos.fetch_add((committed - begun).as_nanos() as u64, Ordering::SeqCst);
            edits.committed[n as usize].store(committed.as_nanos() as u64, Ordering::SeqCst);
            edits.committed_count.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    write_all().map_err(|e| {
        edits.cancelled.store(true, Ordering::SeqCst);
        defect("A cannot edit a record", &e)
    })
}

fn watch(b: &Device, collection: &str, edits: &Edits, changes: blazedb::Changes) -> Result<(), Failure> {
    let index_of: HashMap<DocumentId, usize> = edits.ids.iter().enumerate().map(|(index, id)| (*id, index)).collect();
    let watch_all = || {
        let records = b.db.collection::<Document>(collection)?;
        // The next edit that is expected of each record.
        let mut next: Vec<u64> = (0..edits.ids.len() as u64).collect();
        while !edits.cancelled.load(Ordering::SeqCst) {
            let touched: Vec<DocumentId> = match changes.recv_timeout(Duration::from_millis(50)) {
                None => continue,
                Some(ChangeEvent::Lagged) => edits.ids.clone(),
                Some(ChangeEvent::Commit(commit)) => {
                    commit.changes.iter().filter(|c| &*c.collection == collection).map(|c| c.id).collect()
                }
            };
            for id in touched {
                let (Some(&index), Some(row)) = (index_of.get(&id), records.row(id)?) else { continue };
                let number = match row.as_ref().get(NUMBER).map(|value| value.to_value()) {
                    Some(Value::I64(number)) => number as u64,
                    _ => continue,
                };
                let now = edits.begun.elapsed().as_nanos() as u64;
                // Everything up to this edit of this record is visible now, or has been overwritten by it.
                while next[index] <= number {
                    edits.visible[next[index] as usize].store(now, Ordering::SeqCst);
                    edits.visible_count.fetch_add(1, Ordering::SeqCst);
                    next[index] += edits.ids.len() as u64;
                }
            }
        }
        Ok(())
    };
    watch_all().map_err(|e| {
        edits.cancelled.store(true, Ordering::SeqCst);
        defect("B cannot read a record", &e)
    })
}
