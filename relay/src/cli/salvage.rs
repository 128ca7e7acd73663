//! `blazedb salvage`: what can be read of a damaged database, into a new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use blazedb::{Database, Options, SalvageReport};
use blazedb_engine::{OpenError, RestoreError, SalvageError};

use super::args::SalvageArgs;
use super::failure::Failure;
use super::target::{self, InTheMaking, is_empty};
use super::ui::{self, Progress, Table};
use super::{Outcome, exit, open, passphrase};

/// Losses that go to a terminal; a report has all of them.
const SHOWN_MAX: usize = 50;

/// Runs `blazedb salvage`.
pub(crate) fn run(args: &SalvageArgs) -> Outcome {
    let from = args.db.db.display();
    if !args.db.db.exists() {
        return Err(Failure::new(format!("there is no database file {from}"), "check the path"));
    }
    target::check_free(&args.to, "nothing is salvaged")?;
    // Before anything else: a report that cannot be written must not be found out about when all is done, and neither it
    // nor what is saved goes over a file.
    args.report.as_deref().map_or(Ok(()), target::check_no_log)?;
    let report_file = args.report.as_deref().map(create_report).transpose().map_err(|e| {
        let path = args.report.as_deref().unwrap_or(&args.to).display();
        match e.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(
                format!("{path} exists, and no report is written over a file"),
                "choose another name for --report, or move it away",
            ),
            _ => Failure::io(format!("cannot write {path}"), &e),
        }
    })?;
    let saved = save(args, report_file);
    if let (Err(_), Some(path)) = (&saved, &args.report)
        && is_empty(path)
    {
        // The error that matters is the first one; there is nothing in it.
        let _ = fs::remove_file(path);
    }
    let report = saved?;
    Ok(if report.losses.is_empty() { exit::DONE } else { exit::PARTLY })
}

/// Makes a file where there is none, or where one without a byte in it was left by a salvage that was cut off.
fn create_report(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    // It has names and keys of what may be encrypted.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_empty(path) => {
            OpenOptions::new().append(true).open(path)
        }
        made => made,
    }
}

fn save(args: &SalvageArgs, report_file: Option<File>) -> Result<SalvageReport, Failure> {
    if args.to.exists() {
        return Err(Failure::new("--to and --report name the same file", "choose another name for one of them"));
    }
    let from = args.db.db.display();
    let opening = if args.db.unencrypted {
        Options::unencrypted()
    } else {
        let secret = passphrase::find(&args.db.db, args.db.passphrase_file.as_deref(), false)?;
        Options::passphrase(secret.as_str())
    };
    let making = open::with_cost(opening.clone(), args.create.kdf);
    let target = InTheMaking::listen(&args.to, args.report.as_deref())?;
    let mut progress: Option<Progress> = None;
    let saved = Database::salvage(&args.db.db, &opening, &args.to, making, &mut |now| {
        if now.pages_total == 0 {
            return target.begins(&args.to);
        }
        progress.get_or_insert_with(|| Progress::start("pages", now.pages_total)).set(now.pages.min(now.pages_total));
    });
    drop((progress, target));
    let error = match saved {
        Ok(report) => {
            tell(args, &report, report_file)?;
            return Ok(report);
        }
        Err(error) => error,
    };
    let cause = std::error::Error::source(&error);
    let target = cause.and_then(|cause| cause.downcast_ref::<RestoreError>());
    let is_target = target.is_some();
    match cause.and_then(|cause| cause.downcast_ref::<SalvageError>()) {
        Some(SalvageError::Nothing(report)) => {
            list(report, report_file)?;
            return Err(Failure::new(
                format!("not one row of {from} can be read, and no file was made"),
                "keep the file, and restore a backup (`blazedb restore`) or sync a new file from the relay",
            ));
        }
        Some(SalvageError::Source(
            cause @ (OpenError::KeyMissing
            | OpenError::NotEncrypted
            | OpenError::WrongKey
            | OpenError::UnsupportedVersion(_)
            | OpenError::Unsupported { .. }
            | OpenError::Locked { .. }),
        )) => return Err(open::explain_cause(&args.db.db, cause)),
        Some(SalvageError::Source(cause @ OpenError::Io { source, .. }))
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            return Err(open::explain_cause(&args.db.db, cause));
        }
        cause if is_target || matches!(cause, Some(SalvageError::Finish(_))) => {
            let next = match target {
                Some(RestoreError::Create(OpenError::ReservedName { .. })) => "choose another name for it".to_owned(),
                _ => format!(
                    "see that {} can be written and that its disk has room; there is no new file",
                    args.to.display()
                ),
            };
            let what = format!("nothing was salvaged from {from}, which is as it was");
            return Err(Failure::because(what, &error, next));
        }
        _ => {}
    }
    Err(Failure::because(
        format!("nothing was salvaged from {from}"),
        &error,
        "check the passphrase, and that no program has the file open; else restore a backup or sync a new file",
    ))
}

fn tell(args: &SalvageArgs, report: &SalvageReport, report_file: Option<File>) -> Result<(), Failure> {
    let mut table = Table::default();
    table.row("saved", format!("{} in {}", ui::plural(report.rows, "row"), args.to.display()));
    // Of the log nobody knows how many rows it should have.
    let of = if report.log_commit_no > report.commit_no { " in pages" } else { "" };
    for tree in &report.trees {
        let missing = tree.rows_expected.map(|expected| expected.saturating_sub(tree.rows_found));
        let line = match missing {
            Some(0) => format!("{}{of}, all of them", ui::plural(tree.rows_found, "row")),
            Some(missing) => format!("{}{of}, {} missing", ui::plural(tree.rows_found, "row"), ui::thousands(missing)),
            None => format!("{}{of}", ui::plural(tree.rows_found, "row")),
        };
        table.row(ui::printable(&tree.name, 60), line);
    }
    if report.log_commit_no > report.commit_no {
        let commits = ui::plural(report.log_commit_no - report.commit_no, "commit");
        table.row("the log", format!("{commits} after those pages, saved as well"));
    }
    if report.older_header {
        table.row(
            "note",
            "one of the two headers, or what it names, cannot be read; the other one and the log were taken",
        );
    }
    if !report.without_history.is_empty() {
        let trees = ui::plural(report.without_history.len() as u64, "tree");
        table.row("note", format!("the history of {trees} was not taken over; what they hold now was"));
    }
    let lost = lost(report);
    table.row("not read", if lost == 0 { "nothing: all was saved".to_owned() } else { ui::plural(lost, "place") });
    ui::line(table.to_string().trim_end());
    list(report, report_file)
}

fn lost(report: &SalvageReport) -> u64 {
    report.losses.len() as u64 + report.more_losses
}

/// Lists what could not be read.
fn list(report: &SalvageReport, report_file: Option<File>) -> Result<(), Failure> {
    let lost = lost(report);
    match report_file {
        Some(file) => {
            let cannot = |e: io::Error| Failure::io("cannot write the report", &e);
            let mut out = BufWriter::new(file);
            report.losses.iter().try_for_each(|loss| writeln!(out, "{loss}")).map_err(cannot)?;
            if report.more_losses > 0 {
                writeln!(out, "and {} more", report.more_losses).map_err(cannot)?;
            }
            out.flush().map_err(cannot)?;
        }
        None => {
            for loss in report.losses.iter().take(SHOWN_MAX) {
                ui::say(format_args!("lost: {loss}"));
            }
            if lost > SHOWN_MAX as u64 {
                ui::say(format_args!(
                    "lost: and {} more; --report FILE lists them",
                    ui::thousands(lost - SHOWN_MAX as u64)
                ));
            }
        }
    }
    Ok(())
}
