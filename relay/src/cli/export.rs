//! `blazedb export`: a collection as JSON, sorted by id, one spelling per record.
//!
//! Two files that hold the same documents export the same bytes. A reader that closes the pipe early is not an error.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use blazedb::{Collection, Document, DocumentId};
use blazedb_wire::json;

use super::args::{ExportArgs, OutputFormat};
use super::failure::Failure;
use super::open::{self, Intent};
use super::ui;
use super::{Outcome, exit};

/// Runs the command.
pub(crate) fn run(args: &ExportArgs) -> Outcome {
    let (db, _) = open::open(&args.db, Intent::Read)?;
    let names = db.collections().map_err(|e| broken(&e))?;
    if !names.contains(&args.collection) {
        let known = names.iter().map(|name| ui::printable(name, 60)).collect::<Vec<_>>().join(", ");
        return Err(Failure::new(
            format!("{} has no collection {}", args.db.db.display(), ui::printable(&args.collection, 60)),
            if known.is_empty() {
                "import or sync something first".to_owned()
            } else {
                format!("choose one of: {known}")
            },
        ));
    }
    let collection = db.collection::<Document>(&args.collection).map_err(|e| broken(&e))?;
    match &args.output {
        None => {
            let written = write_all(&collection, args, BufWriter::new(io::stdout().lock()));
            match written {
                Err(WriteError::Io(e)) if e.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error.into_failure("to stdout")),
                Ok(_) => {}
            }
        }
        Some(path) => {
            let partial = partial_path(path);
            let file =
                File::create(&partial).map_err(|e| Failure::io(format!("cannot write {}", partial.display()), &e))?;
            let written = write_all(&collection, args, BufWriter::new(&file)).and_then(|count| {
                file.sync_all()?;
                std::fs::rename(&partial, path)?;
                Ok(count)
            });
            match written {
                Ok(count) => eprintln!("wrote {} to {}", ui::plural(count, "record"), path.display()),
                Err(error) => {
                    // The error that matters is the first one; a left-over partial file is only untidy.
                    let _ = std::fs::remove_file(&partial);
                    return Err(error.into_failure(&path.display().to_string()));
                }
            }
        }
    }
    Ok(exit::DONE)
}

/// The name under which a file is written before it is complete.
fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

enum WriteError {
    Io(io::Error),
    Db(blazedb::Error),
    Json { id: DocumentId, error: json::JsonWriteError },
}

impl WriteError {
    fn into_failure(self, target: &str) -> Failure {
        match self {
            Self::Io(e) => Failure::io(format!("cannot write {target}"), &e),
            Self::Db(e) => broken(&e),
            Self::Json { id, error } => Failure::new(
                format!("document {id} has no JSON form: {error}"),
                "correct this document; JSON has no text for such a value",
            ),
        }
    }
}

fn broken(error: &blazedb::Error) -> Failure {
    Failure::because("the collection cannot be read", error, "run `blazedb verify` on the file")
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<blazedb::Error> for WriteError {
    fn from(error: blazedb::Error) -> Self {
        Self::Db(error)
    }
}

fn write_all(collection: &Collection<Document>, args: &ExportArgs, mut out: impl Write) -> Result<u64, WriteError> {
    let mut text = Vec::new();
    let mut count = 0;
    for record in collection.rows() {
        let (id, row) = record?;
        text.clear();
        if args.format == OutputFormat::Json {
            text.extend_from_slice(if count == 0 { b"[\n" } else { b",\n" });
        }
        if args.with_id {
            text.extend_from_slice(format!("{{\"id\":\"{id}\",\"record\":").as_bytes());
        }
        json::write_row(row.as_ref(), &mut text).map_err(|error| WriteError::Json { id, error })?;
        if args.with_id {
            text.push(b'}');
        }
        if args.format == OutputFormat::Ndjson {
            text.push(b'\n');
        }
        out.write_all(&text)?;
        count += 1;
    }
    if args.format == OutputFormat::Json {
        out.write_all(if count == 0 { b"[]\n" } else { b"\n]\n" })?;
    }
    out.flush()?;
    Ok(count)
}
