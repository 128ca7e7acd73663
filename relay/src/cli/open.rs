//! Opens a database file for a command, and explains what keeps it from opening.

use std::path::{Path, PathBuf};

use blazedb::{Database, ErrorKind, KdfCost, Options};

use super::args::{DbArgs, Kdf};
use super::failure::{Failure, chain};
use super::passphrase;

/// What the command is going to do with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Look at a file that exists.
    Read,
    /// Change a file, and make it if it does not exist.
    WriteOrCreate(Kdf),
}

/// Opens the file that `args` name. The second value tells whether it was created.
pub(crate) fn open(args: &DbArgs, intent: Intent) -> Result<(Database, bool), Failure> {
    let shown = args.db.display();
    let exists = args.db.exists();
    if !exists {
        if intent == Intent::Read {
            return Err(Failure::new(
                format!("there is no database file {shown}"),
                "check the path; `blazedb import` and `blazedb sync` create a file",
            ));
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
            eprintln!("note: {shown} is new and has no encryption: whoever can read the file can read the data");
        }
        Options::unencrypted()
    } else {
        let secret = passphrase::find(&args.db, args.passphrase_file.as_deref(), !exists)?;
        Options::passphrase(secret.as_str())
    };
    let options = match intent {
        Intent::Read => options.create(false).read_only(true),
        Intent::WriteOrCreate(kdf) => with_cost(options.create(true), kdf),
    };
    let db = Database::open(&args.db, options).map_err(|e| explain(&args.db, args.unencrypted, &e))?;
    Ok((db, !exists))
}

fn with_cost(options: Options, kdf: Kdf) -> Options {
    match kdf {
        Kdf::Standard => options,
        Kdf::Light => options.kdf(KdfCost::Light),
    }
}

/// Puts a file that did not open into words.
fn explain(path: &Path, unencrypted: bool, error: &blazedb::Error) -> Failure {
    let text = chain(error);
    let next = if error.kind() != ErrorKind::Open {
        "run `blazedb verify` on the file; restore a copy if it is damaged"
    } else if text.contains("lock") {
        "wait for the other program or stop it; one program at a time has a database open"
    } else if unencrypted {
        "leave --unencrypted away if the file is encrypted; check the path"
    } else {
        "check the passphrase and the path; a file without encryption needs --unencrypted"
    };
    Failure::new(format!("cannot open {}: {text}", path.display()), next)
}

/// Every file that belongs to a database: the file itself and the log beside it.
pub(crate) fn files_of(db: &Path) -> [PathBuf; 2] {
    let mut log = db.as_os_str().to_owned();
    log.push("-log");
    [db.to_owned(), PathBuf::from(log)]
}

/// Adds up the bytes of files and folders; what does not exist counts nothing.
pub(crate) fn bytes_on_disk(paths: &[PathBuf]) -> u64 {
    paths
        .iter()
        .map(|path| match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => std::fs::read_dir(path)
                .map(|entries| bytes_on_disk(&entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>()))
                .unwrap_or(0),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
