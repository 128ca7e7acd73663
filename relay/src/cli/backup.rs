//! `blazedb backup`: a database as one stream, beside whoever has it open.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};

use blazedb::{BackupOptions, BackupReport, Database, Error};
use blazedb_engine::BackupError;

use super::args::BackupArgs;
use super::failure::Failure;
use super::open::{self, Intent};
use super::partial::Partial;
use super::ui::{self, Progress};
use super::{Outcome, exit, target};

/// Runs `blazedb backup`.
pub(crate) fn run(args: &BackupArgs) -> Outcome {
    let to_stdout = args.output.as_os_str() == "-";
    if !to_stdout {
        target::check_free(&args.output, "a backup is never written")?;
    }
    let (db, _) = open::open(&args.db, Intent::Read)?;
    let report =
        if to_stdout { back_up(args, &db, &mut BufWriter::new(io::stdout().lock()))? } else { to_file(args, &db)? };
    let kind = match report.base {
        None => "a full backup".to_owned(),
        Some(_) => format!("an increment, {} kept", ui::plural(report.kept, "range")),
    };
    let target = if to_stdout { "stdout".to_owned() } else { args.output.display().to_string() };
    ui::say(format_args!(
        "wrote {} to {target}: {kind}, {}, commit {}, id {}",
        ui::bytes(report.bytes),
        ui::plural(report.rows, "row"),
        ui::thousands(report.commit_no),
        report.id
    ));
    Ok(exit::DONE)
}

/// Under another name until it is whole and on the disk.
fn to_file(args: &BackupArgs, db: &Database) -> Result<BackupReport, Failure> {
    let cannot = |e: io::Error| Failure::io(format!("cannot write {}", args.output.display()), &e);
    let partial = Partial::create(&args.output, "backup", true)?; // it may be unencrypted
    let report = back_up(args, db, &mut BufWriter::new(partial.file()))?;
    partial.finish(false).map_err(cannot)?;
    Ok(report)
}

fn back_up(args: &BackupArgs, db: &Database, out: &mut dyn Write) -> Result<BackupReport, Failure> {
    let options = BackupOptions::default().bytes_per_second(args.rate).history(args.history);
    let mut progress: Option<Progress> = None;
    let mut tell = |now: blazedb::BackupProgress| {
        let bar = progress.get_or_insert_with(|| Progress::start("rows", now.rows_total));
        bar.set(if now.rows_total > 0 { now.rows.min(now.rows_total) } else { now.rows });
    };
    let made = match &args.since {
        None => db.backup(out, &options, &mut tell),
        Some(base) => {
            let file = File::open(base).map_err(|e| Failure::io(format!("cannot read {}", base.display()), &e))?;
            db.backup_since(&mut BufReader::new(file), out, &options, &mut tell)
        }
    };
    drop(progress);
    let report = made.map_err(|e| not_made(args, &e))?;
    out.flush().map_err(|e| not_written(args, &e))?;
    Ok(report)
}

fn not_made(args: &BackupArgs, error: &Error) -> Failure {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<BackupError>());
    if let Some(BackupError::Output(e)) = cause {
        return not_written(args, e);
    }
    let next = match args.since {
        Some(_) if matches!(cause, Some(BackupError::Behind { .. })) => {
            "nothing was left behind; leaving --since away makes a full backup of what is there, under another name"
        }
        Some(_) => "leave --since away to make a full backup, or run it again; nothing was left behind",
        None => "run it again; if it stays, run `blazedb verify`; nothing was left behind",
    };
    Failure::because(format!("no backup of {}", args.db.db.display()), error, next)
}

/// It is not the database that is to blame.
fn not_written(args: &BackupArgs, error: &io::Error) -> Failure {
    use io::ErrorKind as E;

    let to_stdout = args.output.as_os_str() == "-";
    let next = match (error.kind(), to_stdout) {
        (E::StorageFull | E::QuotaExceeded | E::FileTooLarge, true) => {
            "make room where stdout goes, or send it elsewhere, and run the command again; what came out is no backup"
        }
        (E::StorageFull | E::QuotaExceeded | E::FileTooLarge, false) => {
            "make room on the disk, or write it to another one, and run the command again; nothing was left behind"
        }
        (E::BrokenPipe, true) => {
            "see why the program that reads stdout ended before it had all, and run the command again; what it has is no backup"
        }
        (_, true) => "look at where stdout goes, and run the command again; what came out is no backup",
        (_, false) => "look at the disk and the system's log, and run the command again; nothing was left behind",
    };
    let target = if to_stdout { "stdout".to_owned() } else { args.output.display().to_string() };
    Failure::new(format!("no backup of {}: cannot write to {target}: {error}", args.db.db.display()), next)
}
