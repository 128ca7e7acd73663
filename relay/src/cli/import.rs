//! `blazedb import`: JSON into a collection, in two passes.
//!
//! The first pass reads every record and changes nothing; the second loads in chunks that are one
//! transaction each ([`Loader`]). A file with one bad record is refused as a whole unless `--keep-going` is
//! given. With `--id-field` loading is idempotent: running the command again after an interruption finds what is there.
//! Without it each record gets a new id, and a mark in the database, written with each chunk and named after the file's
//! bytes, says how many are in: running the command again goes on behind them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use blazedb::{Database, Key};
use sha2::{Digest as _, Sha256};

use blazedb_wire::json::{Documents, JsonError, JsonErrorKind, Layout, Limits};

use super::args::{ImportArgs, InputFormat};
use super::failure::Failure;
use super::load::{Item, ItemError, Loaded, Loader};
use super::open::{self, Intent};
use super::signals::StopFlag;
use super::ui::{self, Progress};
use super::{Outcome, exit};

/// Most bytes of stdin that are kept in memory between the two passes.
const STDIN_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How many bad records are listed one by one when nothing is imported.
const LISTED_MAX: u64 = 20;

/// How much of one complaint is shown; it may quote the file.
const REPORT_CHARACTERS_MAX: usize = 400;

/// Runs the command.
pub(crate) fn run(args: &ImportArgs) -> Outcome {
    let stop = StopFlag::listen()?;
    let mut input = Input::open(&args.file)?;
    let checked = check(&mut input, args, &stop)?;
    if checked.bad > 0 && !args.keep_going {
        return Err(refusal(args, &checked));
    }
    let (db, created) = open::open(&args.db, Intent::WriteOrCreate(args.create.kdf))?;
    let loaded = load(&mut input, args, &checked, &db, &stop)?;
    db.close()
        .map_err(|e| Failure::because("the records are in, but the file did not close", &e, "run `blazedb verify`"))?;
    let mut line = format!(
        "{} {} into {} of {}{}",
        if loaded.updated + loaded.unchanged == 0 { "imported" } else { "merged" },
        ui::plural(loaded.total(), "record"),
        args.collection,
        args.db.db.display(),
        if created { " (new file)" } else { "" },
    );
    if args.id_field.is_some() {
        line.push_str(&format!(
            ": {} new, {} changed, {} as they were",
            ui::thousands(loaded.inserted),
            ui::thousands(loaded.updated),
            ui::thousands(loaded.unchanged)
        ));
    }
    if checked.bad == 0 {
        ui::say(format_args!("{line}"));
        Ok(exit::DONE)
    } else {
        ui::say(format_args!("{line}; {} left out", ui::plural(checked.bad, "record")));
        Ok(exit::PARTLY)
    }
}

/// A file that can be read several times.
enum Input {
    File(File, u64),
    Memory(Vec<u8>),
}

impl Input {
    fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .take(STDIN_BYTES_MAX + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| Failure::io("cannot read stdin", &e))?;
            if bytes.len() as u64 > STDIN_BYTES_MAX {
                return Err(Failure::new("stdin has more than 256 MiB", "save it to a file and import the file"));
            }
            return Ok(Self::Memory(bytes));
        }
        let shown = path.display();
        let file = File::open(path).map_err(|e| Failure::io(format!("cannot open {shown}"), &e))?;
        let meta = file.metadata().map_err(|e| Failure::io(format!("cannot open {shown}"), &e))?;
        if !meta.is_file() {
            return Err(Failure::new(
                format!("{shown} is not a regular file and cannot be read twice"),
                "give a file, or pipe it into `blazedb import -`",
            ));
        }
        Ok(Self::File(file, meta.len()))
    }

    /// Returns the name of the mark of this input's import into a collection.
    fn mark(&mut self, collection: &str) -> Result<String, Failure> {
        let mut hash = Sha256::new();
        hash.update(collection.as_bytes());
        hash.update([0]);
        match self {
            Self::File(file, _) => {
                let failed = |e| Failure::io("cannot read the file from its beginning", &e);
                file.seek(SeekFrom::Start(0)).map_err(failed)?;
                let mut buffer = vec![0; 64 * 1024];
                loop {
                    match file.read(&mut buffer).map_err(failed)? {
                        0 => break,
                        n => hash.update(&buffer[..n]),
                    }
                }
            }
            Self::Memory(bytes) => hash.update(bytes),
        }
        let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("import/{digits}"))
    }

    fn len(&self) -> u64 {
        match self {
            Self::File(_, bytes) => *bytes,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Starts reading from the beginning.
    fn documents(&mut self, format: InputFormat) -> Result<Documents<BufReader<Box<dyn Read + '_>>>, Failure> {
        let reader: Box<dyn Read> = match self {
            Self::File(file, _) => {
                file.seek(SeekFrom::Start(0))
                    .map_err(|e| Failure::io("cannot read the file from its beginning", &e))?;
                Box::new(file)
            }
            Self::Memory(bytes) => Box::new(bytes.as_slice()),
        };
        let layout = match format {
            InputFormat::Auto => Layout::Auto,
            InputFormat::Ndjson => Layout::Lines,
            InputFormat::Json => Layout::Concatenated,
        };
        Ok(Documents::with_layout(reader, Limits::default(), layout))
    }
}

/// What the first pass found.
struct Checked {
    good: u64,
    bad: u64,
    /// Numbers (from 0) of elements that are JSON documents and cannot be imported all the same.
    unfit: HashSet<u64>,
    /// What is wrong, up to [`LISTED_MAX`] of them.
    reports: Vec<String>,
}

impl Checked {
    fn report(&mut self, args: &ImportArgs, progress: &Progress, what: String) {
        self.bad += 1;
        if args.keep_going {
            progress.note(&format!("left out: {}", ui::printable(&what, REPORT_CHARACTERS_MAX)));
        } else if self.bad <= LISTED_MAX {
            self.reports.push(what);
        }
    }
}

/// First pass: reads every record and changes nothing.
fn check(input: &mut Input, args: &ImportArgs, stop: &StopFlag) -> Result<Checked, Failure> {
    let mut progress = Progress::start("checking (KiB)", input.len() / 1024);
    let mut documents = input.documents(args.format)?;
    let mut checked = Checked { good: 0, bad: 0, unfit: HashSet::new(), reports: Vec::new() };
    let mut first_line: HashMap<Key, u64> = HashMap::new();
    let field = args.id_field.as_deref();
    while let Some(parsed) = documents.next() {
        match parsed {
            Err(JsonError { kind: JsonErrorKind::Io { message, .. }, .. }) => {
                return Err(Failure::new(
                    format!("cannot read {}: {message}", args.file.display()),
                    "check the file and the disk",
                ));
            }
            Err(error) => {
                let rest = if error.resumable { "" } else { "; nothing behind this can be read" };
                checked.report(args, &progress, format!("{error}{rest}"));
            }
            Ok(parsed) => {
                let line = parsed.line;
                let path = || field.map_or_else(|| "$".to_owned(), |field| format!("$.{field}"));
                let problem = match Item::new(parsed.document, field) {
                    Ok(Item { key: Some(key), .. }) => match first_line.entry(key) {
                        Entry::Occupied(first) => {
                            Some(format!("line {line}, at {}: the id of the record on line {}", path(), first.get()))
                        }
                        Entry::Vacant(entry) => {
                            entry.insert(line);
                            None
                        }
                    },
                    Ok(_) => None,
                    Err(error @ ItemError::Encode(_)) => Some(format!("line {line}: {error}")),
                    Err(error) => Some(format!("line {line}, at {}: {error}", path())),
                };
                match problem {
                    None => checked.good += 1,
                    Some(what) => {
                        checked.unfit.insert(parsed.index);
                        checked.report(args, &progress, what);
                    }
                }
            }
        }
        if (checked.good + checked.bad).is_multiple_of(256) {
            stop.check()?;
            progress.set(documents.bytes_read() / 1024);
        }
    }
    Ok(checked)
}

/// The failure of a file with bad records: all of it in one message.
fn refusal(args: &ImportArgs, checked: &Checked) -> Failure {
    let mut what = format!(
        "{} of {} in {} cannot be stored, so nothing was imported",
        ui::thousands(checked.bad),
        ui::plural(checked.bad + checked.good, "record"),
        args.file.display()
    );
    for report in &checked.reports {
        what.push_str("\n  ");
        what.push_str(&ui::printable(report, REPORT_CHARACTERS_MAX));
    }
    if checked.bad > LISTED_MAX {
        what.push_str(&format!("\n  and {} more", ui::thousands(checked.bad - LISTED_MAX)));
    }
    Failure::new(what, "correct the file, or leave these records out with --keep-going")
}

/// Second pass: loads what the first found good.
fn load(
    input: &mut Input,
    args: &ImportArgs,
    checked: &Checked,
    db: &Database,
    stop: &StopFlag,
) -> Result<Loaded, Failure> {
    let mut progress = Progress::start("importing (records)", checked.good);
    let mut loader = Loader::new(db, &args.collection);
    let mut skip = 0;
    let mut mark = None;
    if args.id_field.is_none() {
        let name = input.mark(&args.collection)?;
        let unreadable = |e: blazedb::Error| Failure::because("cannot read the import's mark", &e, "");
        let stored = db.local(&name).map_err(unreadable)?;
        skip = stored.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes).min(checked.good);
        if skip > 0 {
            progress.note(&format!("going on where an interrupted import stopped: {} in", ui::plural(skip, "record")));
        }
        loader = loader.with_mark(name.clone(), skip);
        mark = Some(name);
    }
    let mut seen = 0;
    // What the first pass refused is refused again and was reported there.
    for parsed in input.documents(args.format)?.flatten() {
        if checked.unfit.contains(&parsed.index) {
            continue;
        }
        let item = Item::new(parsed.document, args.id_field.as_deref())
            .map_err(|_| halted(args, &loader.loaded(), changed_meanwhile(args)))?;
        seen += 1;
        if seen <= skip {
            continue;
        }
        let committed = loader.push(item);
        if committed.map_err(|e| stopped(args, &loader, &e))? {
            progress.set(skip + loader.loaded().total());
            if stop.is_raised() {
                return Err(halted(args, &loader.loaded(), stop.interrupted()));
            }
        }
    }
    let committed = loader.finish();
    committed.map_err(|e| stopped(args, &loader, &e))?;
    if skip + loader.loaded().total() != checked.good {
        return Err(halted(args, &loader.loaded(), changed_meanwhile(args)));
    }
    if let Some(name) = mark {
        db.transaction(|tx| tx.set_local(&name, None))
            .map_err(|e| Failure::because("the records are in, but the import's mark could not be removed", &e, ""))?;
    }
    Ok(loader.loaded())
}

fn stopped(args: &ImportArgs, loader: &Loader<'_>, error: &blazedb::Error) -> Failure {
    halted(args, &loader.loaded(), Failure::because("importing stopped", error, ""))
}

fn changed_meanwhile(args: &ImportArgs) -> Failure {
    Failure::new(format!("{} changed while it was read", args.file.display()), "")
}

/// Says how much is in when loading did not reach the end.
fn halted(args: &ImportArgs, loaded: &Loaded, failure: Failure) -> Failure {
    let are_in = ui::plural(loaded.total(), "record");
    failure.with_next(format!(
        "loaded {are_in} this time; run the command again with the same {} to load the rest",
        if args.id_field.is_some() { "--id-field" } else { "file" }
    ))
}
