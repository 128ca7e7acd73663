//! `blazedb backup`: a database as one stream, beside whoever has it open.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use blazedb::{BackupOptions, BackupReport, Database};

use super::args::BackupArgs;
use super::failure::Failure;
use super::open::{self, Intent};
use super::ui::{self, Progress};
use super::{Outcome, exit};

/// Runs `blazedb backup`.
pub(crate) fn run(args: &BackupArgs) -> Outcome {
    let to_stdout = args.output.as_os_str() == "-";
    if !to_stdout && args.output.exists() {
        return Err(Failure::new(
            format!("{} exists, and a backup is never written over a file", args.output.display()),
            "choose another name, or move it away",
        ));
    }
    let (db, _) = open::open(&args.db, Intent::Read)?;
    let report =
        if to_stdout { back_up(args, &db, &mut BufWriter::new(io::stdout().lock()))? } else { to_file(args, &db)? };
    let kind = match report.base {
        None => "a full backup".to_owned(),
        Some(_) => format!("an increment, {} kept", ui::plural(report.kept, "range")),
    };
    let target = if to_stdout { "stdout".to_owned() } else { args.output.display().to_string() };
    eprintln!(
        "wrote {} to {target}: {kind}, {}, commit {}, id {}",
        ui::bytes(report.bytes),
        ui::plural(report.rows, "row"),
        ui::thousands(report.commit_no),
        report.id
    );
    Ok(exit::DONE)
}

/// Under another name until it is whole and on the disk.
fn to_file(args: &BackupArgs, db: &Database) -> Result<BackupReport, Failure> {
    let partial = partial_path(&args.output);
    let cannot = |e: io::Error| Failure::io(format!("cannot write {}", args.output.display()), &e);
    let file = create(&partial).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => Failure::new(
            format!("{} exists: another backup of that name is being written, or was cut off", partial.display()),
            "choose another name; if no backup is being written, remove that file",
        ),
        _ => cannot(e),
    })?;
    let written = back_up(args, db, &mut BufWriter::new(&file)).and_then(|report| {
        file.sync_all().map_err(cannot)?;
        // Where somebody made a file of this name meanwhile, that one stays.
        if args.output.exists() {
            return Err(cannot(io::ErrorKind::AlreadyExists.into()));
        }
        std::fs::rename(&partial, &args.output).map_err(cannot)?;
        sync_folder_of(&args.output).map_err(cannot)?;
        Ok(report)
    });
    if written.is_err() {
        // The error that matters is the first one; a left-over partial file is only untidy.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

/// Makes a new name durable.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    // Elsewhere folders cannot be synced.
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// For its owner alone: it may be unencrypted.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
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
    let report = made.map_err(|e| {
        let next = match args.since {
            Some(_) => "leave --since away to make a full backup, or run it again; nothing was left behind",
            None => "run it again; if it stays, run `blazedb verify`; nothing was left behind",
        };
        Failure::because(format!("no backup of {}", args.db.db.display()), &e, next)
    })?;
    out.flush().map_err(|e| Failure::io("cannot write the backup", &e))?;
    Ok(report)
}
