//! `blazedb stats`, `verify` and `inbox`: look at a database file without changing it.
//!
//! They open the file read-only, so that they also work while another program has it open.

use std::fmt::Write as _;

use blazedb::{Document, ErrorKind, InboxEntry, Stats, Value};
use blazedb_sync::BoxReason;
use blazedb_wire::json;

use super::args::{InboxArgs, StatsArgs, VerifyArgs};
use super::failure::Failure;
use super::open::{self, Intent};
use super::space::{self, number, object};
use super::ui::{self, Progress, Table};
use super::{Outcome, exit};

/// Runs `blazedb stats`.
pub(crate) fn stats(args: &StatsArgs) -> Outcome {
    let (db, _) = open::open(&args.db, Intent::Inspect)?;
    let mut progress: Option<Progress> = None;
    let stats = db.stats_with(&mut |now| {
        progress.get_or_insert_with(|| Progress::start("counting documents", now.total)).set(now.documents);
    });
    drop(progress.take());
    let stats = stats.map_err(|e| Failure::because("cannot count", &e, "run `blazedb verify` on the file"))?;
    let found = db.estimate(&mut |now| {
        let bar = progress.get_or_insert_with(|| Progress::start("measuring (KiB)", now.total_bytes / 1024));
        bar.set(now.done_bytes / 1024);
    });
    drop(progress);
    let found = found.map_err(|e| Failure::because("cannot measure", &e, "run `blazedb verify` on the file"))?;
    let disk = open::bytes_on_disk(&args.db.db);
    if args.json {
        let mut whole = stats_json(&stats, disk);
        whole.insert("file".to_owned(), Value::Map(space::json(&found)));
        ui::line(&String::from_utf8_lossy(&super::json_text(&whole)?));
        return Ok(exit::DONE);
    }
    let mut table = Table::default();
    table.row("file", format!("{} ({} on disk)", args.db.db.display(), ui::bytes(disk)));
    for (name, counts) in &stats.collections {
        let mut line = format!("{} ({})", ui::plural(counts.documents, "document"), ui::bytes(counts.bytes));
        if counts.tombstones > 0 {
            let _ = write!(line, ", {} deleted", ui::thousands(counts.tombstones));
        }
        if counts.unsynced > 0 {
            let _ = write!(line, ", {} with changes the relay has not confirmed", ui::thousands(counts.unsynced));
        }
        table.row(ui::printable(name, 60), line);
    }
    if stats.collections.is_empty() {
        table.row("collections", "none");
    }
    if !stats.store.recovered_surely {
        table.row("warning", open::MAY_BE_MISSING);
    }
    match stats.space {
        None => table.row("space", "not synced yet"),
        Some(space) => {
            table.row("space", format!("{space}, epoch {}, at {}", stats.epoch, ui::thousands(stats.cursor)));
            let waiting = stats.outbox.pending_ops + stats.outbox.sealed_ops;
            table.row("outbox", format!("{} to confirm", ui::plural(waiting, "operation")));
        }
    }
    table.row("conflicts merged", ui::thousands(stats.conflicts_merged));
    let hint = if stats.inbox > 0 { " (see `blazedb inbox`)" } else { "" };
    table.row("inbox", format!("{}{hint}", ui::thousands(stats.inbox)));
    ui::line(table.to_string().trim_end());
    ui::line("");
    ui::line(space::picture(&found).trim_end());
    for line in space::advice(&found, &args.db.db.display().to_string()) {
        ui::line(&format!("  advice: {line}"));
    }
    Ok(exit::DONE)
}

fn stats_json(stats: &Stats, disk: u64) -> Document {
    let collections = stats.collections.iter().map(|(name, counts)| {
        let counts = object([
            ("documents", number(counts.documents)),
            ("tombstones", number(counts.tombstones)),
            ("bytes", number(counts.bytes)),
            ("unsynced", number(counts.unsynced)),
        ]);
        (name.clone(), Value::Map(counts))
    });
    object([
        ("bytes_on_disk", number(disk)),
        ("collections", Value::Map(collections.collect())),
        ("space", stats.space.map_or(Value::Null, |space| Value::Text(space.to_string()))),
        ("epoch", number(u64::from(stats.epoch))),
        ("cursor", number(stats.cursor)),
        ("outbox_pending_ops", number(stats.outbox.pending_ops)),
        ("outbox_sealed_ops", number(stats.outbox.sealed_ops)),
        ("inbox", number(stats.inbox)),
        ("conflicts_merged", number(stats.conflicts_merged)),
        ("recovered_surely", Value::Bool(stats.store.recovered_surely)),
    ])
}

/// Runs `blazedb verify`.
pub(crate) fn verify(args: &VerifyArgs) -> Outcome {
    let (db, _) = open::open(&args.db, Intent::Inspect)?;
    let mut progress: Option<Progress> = None;
    let report = db.verify(&mut |state| {
        progress
            .get_or_insert_with(|| Progress::start("reading (KiB)", state.total_bytes / 1024))
            .set(state.done_bytes / 1024);
    });
    drop(progress);
    let shown = args.db.db.display();
    let report = report.map_err(|e| match e.kind() {
        ErrorKind::Corrupt => Failure::because(format!("{shown} is damaged"), &e, open::RESTORE),
        // Not everything that ends a check is damage: the disk may fail, the writer may overtake it.
        _ => Failure::because(
            format!("{shown} was not read as a whole"),
            &e,
            "run it again, best when nobody writes the file; if it stays, look at the disk and the system's log",
        ),
    })?;
    if report.store.header_damaged {
        ui::say(format_args!(
            "note: one of the two headers of {shown} cannot be read, as after a power cut while it was written; the next program \
             that writes to the file writes it anew{}",
            if report.store.recovered_surely { ". Nothing is missing for it" } else { "" }
        ));
    }
    let read = format!(
        "{} read, {} of them with changes on their way; sealed batches: {}",
        ui::plural(report.documents, "document"),
        ui::thousands(report.bases),
        ui::thousands(report.batches),
    );
    if !report.store.recovered_surely {
        ui::say(format_args!("warning: {}", open::MAY_BE_MISSING));
        ui::line(&format!("{shown}: what is there is sound, and may not be all: {read}"));
        return Ok(exit::PARTLY);
    }
    ui::line(&format!("{shown} is sound: {read}"));
    Ok(exit::DONE)
}

/// Runs `blazedb inbox`.
pub(crate) fn inbox(args: &InboxArgs) -> Outcome {
    let (db, _) = open::open(&args.db, Intent::Read)?;
    let entries =
        db.inbox().map_err(|e| Failure::because("cannot read the inbox", &e, "run `blazedb verify` on the file"))?;
    for entry in &entries {
        let line = if args.json { entry_json(entry)? } else { entry_text(entry)? };
        if !ui::line(&line) {
            return Ok(exit::DONE);
        }
    }
    if entries.is_empty() && !args.json {
        ui::line("the inbox is empty");
    }
    Ok(exit::DONE)
}

fn reason(entry: &InboxEntry) -> (&'static str, &'static str) {
    match entry.reason {
        BoxReason::Absorbed => ("absorbed", "edited after somebody had deleted it"),
        BoxReason::Refused => ("refused", "refused by the relay"),
        BoxReason::Unknown => ("unknown", "edited, but the document never arrived"),
        BoxReason::EarlierLife => ("earlier-life", "edited before it was deleted and created anew"),
        BoxReason::DeletedWhileEdited => {
            ("deleted-while-edited", "deleted while somebody else edited it; its last state")
        }
        BoxReason::TooLarge => ("too-large", "the edit would have made it too large"),
    }
}

fn row_text(entry: &InboxEntry) -> Result<String, Failure> {
    let mut text = Vec::new();
    if let Some(row) = &entry.row {
        json::write_row(row.as_ref(), &mut text)
            .map_err(|e| Failure::new(format!("an entry has no JSON form: {e}"), "read it with the library"))?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn entry_text(entry: &InboxEntry) -> Result<String, Failure> {
    let mut line = format!("{} {}: {}", ui::printable(&entry.collection, 60), entry.document, reason(entry).1);
    if entry.row.is_some() {
        let _ = write!(line, ": {}", row_text(entry)?);
    }
    if !entry.unset.is_empty() {
        let names: Vec<String> = entry.unset.names().map(|name| ui::printable(name, 60)).collect();
        let _ = write!(line, " (to remove: {})", names.join(", "));
    }
    Ok(line)
}

fn entry_json(entry: &InboxEntry) -> Result<String, Failure> {
    let row = entry.row.as_ref().map(|row| row.as_ref().to_document());
    let unset = entry.unset.names().map(|name| Value::Text(name.to_owned())).collect();
    let line = object([
        ("reason", Value::Text(reason(entry).0.to_owned())),
        ("collection", Value::Text(entry.collection.to_string())),
        ("document", Value::Text(entry.document.to_string())),
        ("sequence", number(entry.seq)),
        ("fields", row.map_or(Value::Null, Value::Map)),
        ("unset", Value::Array(unset)),
    ]);
    Ok(String::from_utf8_lossy(&super::json_text(&line)?).into_owned())
}
