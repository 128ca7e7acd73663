//! Opens a database file for a command, and explains what keeps it from opening.

use std::io;
use std::path::Path;

use blazedb::{Database, KdfCost, Memory, Options};
use blazedb_engine::OpenError;

use super::args::{DbArgs, Kdf};
use super::failure::Failure;
use super::{passphrase, ui};

/// So much of a log may be in memory while a command reads.
const READING: Memory = Memory { table_bytes: Memory::SERVER.table_bytes, ..Memory::CLIENT };

/// What the command is going to do with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Look at a file that exists.
    Read,
    /// Look at what state it is in, and say that.
    Inspect,
    /// Change a file that exists.
    Write,
    /// Change a file, and make it if it does not exist.
    WriteOrCreate(Kdf),
}

/// Opens the file that `args` name. The second value tells whether it was created.
pub(crate) fn open(args: &DbArgs, intent: Intent) -> Result<(Database, bool), Failure> {
    let shown = args.db.display();
    let exists = args.db.exists();
    if !exists {
        if !matches!(intent, Intent::WriteOrCreate(_)) {
            return Err(absent(&args.db));
        }
        if let Some(folder) = args.db.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
            return Err(Failure::new(
                format!("there is no folder {}", folder.display()),
                "create it or choose another path",
            ));
        }
    }
    let options = if args.unencrypted {
        if !exists {
            ui::say(format_args!(
                "note: {shown} is new and has no encryption: whoever can read the file can read the data"
            ));
        }
        Options::unencrypted()
    } else {
        let secret = passphrase::find(&args.db, args.passphrase_file.as_deref(), !exists)?;
        Options::passphrase(secret.as_str())
    };
    let options = match intent {
        // Beside a writer with much memory: a reader must take all that its log says.
        Intent::Read | Intent::Inspect => options.create(false).read_only(true).memory(READING),
        Intent::Write => options.create(false),
        Intent::WriteOrCreate(kdf) => with_cost(options.create(true), kdf),
    };
    let db = Database::open(&args.db, options).map_err(|e| explain(&args.db, &e))?;
    if intent != Intent::Inspect {
        warn_of_loss(&args.db, &db);
    }
    Ok((db, !exists))
}

/// What to say of a file of which opening could not see that it found all.
pub(crate) const MAY_BE_MISSING: &str = "the last commits may be missing: the log does not show that it reaches the last one, as \
                                         where it was lost; compare with a backup, or sync it";

/// Says so, as whoever opens a file for writing mends what shows it.
pub(crate) fn warn_of_loss(path: &Path, db: &Database) {
    if !db.recovered_surely() {
        ui::say(format_args!("warning: {}: {MAY_BE_MISSING}", path.display()));
    }
}

/// There is no such file, and this command makes none.
pub(crate) fn absent(path: &Path) -> Failure {
    Failure::new(
        format!("there is no database file {}", path.display()),
        "check the path; `blazedb import` and `blazedb sync` create a file",
    )
}

/// Whether it was the passphrase that did not open a file.
pub(crate) fn is_wrong_key(error: &blazedb::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<OpenError>());
    matches!(cause, Some(OpenError::WrongKey))
}

/// Whether it was a passphrase, given for a file that has none.
pub(crate) fn is_not_encrypted(error: &blazedb::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<OpenError>());
    matches!(cause, Some(OpenError::NotEncrypted))
}

pub(crate) fn with_cost(options: Options, kdf: Kdf) -> Options {
    match kdf {
        Kdf::Standard => options,
        Kdf::Light => options.kdf(KdfCost::Light),
    }
}

/// Puts a file that did not open into the words of the command line.
pub(crate) fn explain(path: &Path, error: &blazedb::Error) -> Failure {
    let shown = path.display();
    match std::error::Error::source(error).and_then(|source| source.downcast_ref::<OpenError>()) {
        Some(cause) => explain_cause(path, cause),
        None => Failure::because(format!("cannot open {shown}"), error, RESTORE),
    }
}

/// Puts why a file did not open into the words of the command line.
pub(crate) fn explain_cause(path: &Path, cause: &OpenError) -> Failure {
    let shown = path.display();
    let (what, next) = match cause {
        OpenError::Locked { pid, .. } => {
            let holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            (
                format!("{shown} is open for writing in {holder}"),
                "end that program or wait for it; `export`, `stats`, `verify`, `backup` and `inbox` work meanwhile",
            )
        }
        OpenError::WrongKey => (
            format!("the passphrase does not open {shown}; nothing was changed"),
            "check the passphrase (--passphrase-file, else BLAZEDB_PASSPHRASE, else the prompt) and the path",
        ),
        OpenError::KeyMissing => (format!("{shown} is encrypted"), "leave --unencrypted away and give its passphrase"),
        OpenError::NotEncrypted => (format!("{shown} is not encrypted"), "add --unencrypted"),
        OpenError::UnsupportedVersion(_) | OpenError::Unsupported { .. } => (
            format!("cannot open {shown}: {cause}"),
            concat!(
                "the file is whole: get the newest blazedb (this is ",
                env!("CARGO_PKG_VERSION"),
                "), or use the program that wrote it, whose `blazedb export` writes what any version imports"
            ),
        ),
        OpenError::NotAStore { .. } => (format!("{shown} is not a BlazeDB file"), "check the path"),
        OpenError::TooMuchInLog { .. } => (
            format!("{shown} was not closed, and its log says more than a reader may hold"),
            "open it once in the program that writes it, or with `blazedb sync`, and try again",
        ),
        OpenError::InTheWay { path } => {
            (format!("cannot open {shown}: no store has made {path}, whose name it needs"), "move that file away")
        }
        OpenError::ReservedName { suffix } => (
            format!("cannot open {shown}: what ends in {suffix} is a database in the making"),
            "choose another name; `blazedb restore` makes anew what was cut off",
        ),
        OpenError::Io { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied => (
                format!("this user may not read or write {shown} or the -log files beside it"),
                "run it as the user whose files they are, or give that right",
            ),
            io::ErrorKind::ReadOnlyFilesystem => (
                format!("cannot open {shown}: nothing can be written where it lies"),
                "`export`, `stats`, `verify` and `backup` read it there; for all else copy it and its -log files",
            ),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                format!("cannot open {shown}: its disk is full"),
                "make room; `export`, `stats` and `backup` need none",
            ),
            _ => return Failure::because(format!("cannot open {shown}"), cause, RESTORE),
        },
        other => return Failure::because(format!("cannot open {shown}"), other, RESTORE),
    };
    Failure::new(what, next)
}

/// What there is to do about a damaged file.
pub(crate) const RESTORE: &str = "keep the file, and restore a backup (`blazedb restore`) or sync a new one from the relay; where there is neither, \
                       `blazedb salvage` copies what can be read";

/// Adds up the bytes of a database with its log, or of everything in a folder; what does not exist counts nothing.
pub(crate) fn bytes_on_disk(path: &Path) -> u64 {
    let logs = blazedb::log_file_names(&path.to_string_lossy());
    bytes_of(path) + logs.iter().map(|log| bytes_of(Path::new(log))).sum::<u64>()
}

fn bytes_of(path: &Path) -> u64 {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::read_dir(path)
            .map(|entries| entries.flatten().map(|entry| bytes_of(&entry.path())).sum())
            .unwrap_or(0),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    }
}
