//! What the program understands: one struct per command, with help texts and examples.
//!
//! No secret is ever an argument, because other users of a machine can read a process's arguments.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use blazedb::Moment;
use clap::{Args, Parser, Subcommand, ValueEnum};

const ABOUT_LONG: &str = "\
A local-first database: one encrypted file on each device, one relay that carries changes between them.

Start with `blazedb demo`: it needs nothing and shows everything.";

const ROOT_EXAMPLES: &str = "\
Examples:
  blazedb demo
  blazedb import todos.ndjson --db laptop.blaze --collection todos --id-field id
  blazedb serve --data relay-data
  blazedb token --data relay-data --space home > home.token
  blazedb sync --db laptop.blaze --relay https://127.0.0.1:7420 --space home --token-file home.token --ca relay-data/tls.crt
  blazedb export --db phone.blaze --collection todos

Passphrase: from --passphrase-file, else the variable BLAZEDB_PASSPHRASE, else a prompt (asked twice for a new file).

Exit codes: 0 done, 1 failed or damaged, 2 wrong usage, 3 done in part (`import --keep-going` left records out, `salvage`
could not read everything, `verify` cannot tell whether all is there), 130 and 143 interrupted, by Ctrl-C and SIGTERM
(`serve` and `sync --watch` end with 0).
Errors go to stderr as `error: what happened` and `next: what to do`.";

const DEMO_EXAMPLES: &str = "\
Examples:
  blazedb demo
  blazedb demo --input movies.json --edits 20000
  blazedb demo --keep        (leaves the files of both devices and the relay to look at)

Exit codes: 0 both devices and the relay hold identical data, 1 they do not or a step failed, 130 interrupted
(143 by SIGTERM).";

const SERVE_EXAMPLES: &str = "\
Examples:
  blazedb serve --data relay-data
  blazedb serve --data relay-data --listen 0.0.0.0:7420
  BLAZEDB_LOG=debug blazedb serve --data relay-data

When it is ready, one line goes to stdout:
  blazedb relay ready on https://127.0.0.1:7420 fingerprint 3f5a...
Give clients the fingerprint (--fingerprint) or the file DIR/tls.crt (--ca). Logs go to stderr; BLAZEDB_LOG sets
what is logged (error, warn, info, debug, or a tracing filter). Ctrl-C and SIGTERM shut it down cleanly.";

const TOKEN_EXAMPLES: &str = "\
Examples:
  blazedb token --data relay-data --space home > home.token
  blazedb token --data relay-data --space home --ttl 12h --subject laptop

Run it where the relay keeps its data; the relay may be running. The token alone goes to stdout. Whoever holds it
can read and write the space until it expires: pass it on like a password.";

const IMPORT_EXAMPLES: &str = "\
Examples:
  blazedb import todos.ndjson --db laptop.blaze --collection todos --id-field id
  blazedb import movies.json --db films.blaze --collection movies
  curl -s https://example.org/data.json | blazedb import - --db films.blaze --collection movies

FILE holds a JSON array of objects, one object per line (NDJSON), or one object. It is read twice: the first pass
checks every record and nothing is written if one of them cannot be stored exactly; the second loads it in chunks.
With --id-field the record's id comes from that field (text or integer): importing again changes only the fields
that differ, fields that the file does not mention stay, and an interrupted import is finished by running it again.
Without it every record gets a new id each time.

A new database file asks for a passphrase of at least 8 characters; several unrelated words are better. It cannot
be recovered. Exit codes: 0 all records are in, 1 nothing or not everything was imported, 2 wrong usage,
3 --keep-going left out the records listed on stderr, 130 or 143 interrupted.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  blazedb export --db laptop.blaze --collection todos
  blazedb export --db laptop.blaze --collection todos --format json -o todos.json
  blazedb export --db laptop.blaze --collection todos --with-id | head -1

Records are sorted by id and every record has one spelling, so the exports of two devices that hold the same data
are equal byte for byte. With --with-id each line is {\"id\":\"<id>\",\"record\":{...}}. With --output nothing is there before it
is whole. Exit codes: 0 done, also where a reader of stdout wants no more, 1 it failed, 130 or 143 interrupted.";

const SYNC_EXAMPLES: &str = "\
Examples:
  blazedb sync --db laptop.blaze --relay https://127.0.0.1:7420 --space home --token-file home.token --ca relay-data/tls.crt
  blazedb sync --db laptop.blaze --relay https://relay.example:7420 --space home --token-file home.token \\
      --fingerprint 3f5a... --watch

Sends what this device changed, receives what others changed, and ends when both are done; --watch stays and prints
every change until Ctrl-C. A database file that does not exist is created, empty. Without --ca and --fingerprint the
system's certificate authorities are asked.";

const STATS_EXAMPLES: &str = "\
Examples:
  blazedb stats --db laptop.blaze
  blazedb stats --db laptop.blaze --json

Counts the documents, and draws where the space of the file goes: # what is there now, + history, = bookkeeping, - held by
old readers, . free. Below is what is worth doing about it, if anything is. It reads the whole file and changes nothing; a
program that has the file open goes on meanwhile (readers are told only of this process).
Exit codes: 0 done, 1 the file does not open or is damaged.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  blazedb verify --db laptop.blaze

Reads everything in the file: authentication tags, checksums, every record and its bookkeeping.
Exit codes: 0 sound, 1 damaged or not readable, 3 what is there is sound, and the last commits may be missing.";

const VACUUM_EXAMPLES: &str = "\
Examples:
  blazedb vacuum --db laptop.blaze

Packs what is in the file and gives the rest back to the file system. Nothing is copied to another file: it needs little
room beside the file, and may be stopped at any moment. `blazedb stats` says before what it would give back.
Exit codes: 0 done, 1 it failed, 130 or 143 interrupted: what it has done stays done. Nothing is lost in any case.";

const BACKUP_EXAMPLES: &str = "\
Examples:
  blazedb backup --db laptop.blaze --output monday.bak
  blazedb backup --db laptop.blaze --since monday.bak --output tuesday.bak
  blazedb backup --db laptop.blaze --history --output all.bak
  blazedb backup --db laptop.blaze --output - --rate 5M | ssh host 'cat > laptop.bak'

Writes everything that the database holds at this moment, beside whoever has it open. The backup is sealed with the same
passphrase as the database. --since writes only what changed since that backup; keep all of them: a restore takes the full
one and every increment after it. --history takes along what collections held before, where an app keeps that. An existing
file is never written over. When another program writes so much meanwhile that the moment is gone, this says so and nothing
is left; try again, or let that program make the backup.
Exit codes: 0 the backup is whole, 1 there is none, 130 or 143 interrupted: there is none.";

const RESTORE_EXAMPLES: &str = "\
Examples:
  blazedb restore monday.bak --db laptop.blaze
  blazedb restore monday.bak tuesday.bak wednesday.bak --db laptop.blaze
  ssh host 'cat laptop.bak' | blazedb restore - --db laptop.blaze
  blazedb restore monday.bak --db laptop.blaze --new-passphrase-file new.txt
  blazedb restore all.bak --db before.blaze --at 2h
  blazedb restore all.bak more.bak --db before.blaze --at 2026-11-26T09:30:00Z

Makes a new database file out of a full backup and its increments, in the order in which they were made. It appears when
everything is there and verified; an existing file is never written over. The new file has an identity of its own: it may
sync beside the old one. The passphrase is that of the backups, and of the new file too unless another one is given.

With --at the new file shows an earlier moment: collections whose history is in the backups (backup --history) are as they
were then, and it is said which are not. That file belongs to no space until it is synced anew.
Exit codes: 0 the database is there and whole, 1 there is none, 130 or 143 interrupted: there is none.";

const SALVAGE_EXAMPLES: &str = "\
Examples:
  blazedb salvage --db damaged.blaze --to saved.blaze
  blazedb salvage --db damaged.blaze --to saved.blaze --report lost.txt

For a file that `blazedb verify` or opening calls damaged, where there is neither a backup nor a relay to sync from. Copies
everything that can be read into a new file, and lists what could not be read, by collection and key, on stderr or in the
report. Records whose collection nobody can tell are in collections `lost+found-...`; fields whose names are lost are called
field-0001 and so on. A file of which something is lost belongs to no space any more. The damaged file is not changed; keep
it. Exit codes: 0 nothing is lost, 1 nothing could be saved and there is no new file, 3 saved, but for what is listed, 130 or
143 interrupted: there is no new file.";

const REKEY_EXAMPLES: &str = "\
Examples:
  blazedb rekey --db laptop.blaze                                       a new key, the same passphrase
  blazedb rekey --db laptop.blaze --new-passphrase                      asks for a new passphrase
  blazedb rekey --db laptop.blaze --new-passphrase-file new.txt
  blazedb rekey --db laptop.blaze --cipher chacha20-poly1305

Seals everything in the file anew with a key that was drawn for it, step by step, in place: for when somebody may have seen
the passphrase, or has a copy of the file. In the end nothing in the file is of use to who has only the old passphrase or the
old key; copies and backups that were made before stay as they are, and open with the old passphrase. It needs little room
beside the file. Ctrl-C, a crash or a full disk lose nothing: the same command goes on with what is left. With a new
passphrase the old one stops opening the file when this begins. A backup that follows is a full one.
Exit codes: 0 nothing of the old key is left, 1 it failed or the file is damaged, 130 or 143 interrupted: run the same command
again.";

const INBOX_EXAMPLES: &str = "\
Examples:
  blazedb inbox --db laptop.blaze
  blazedb inbox --db laptop.blaze --json

The inbox keeps what a merge could not apply: edits of a record that another device had deleted, the last state of a
record that was deleted while somebody else edited it, and operations that the relay refused.";

const DUMP_EXAMPLES: &str = "\
Examples:
  blazedb dump things.bb                           what the frames of an export say
  blazedb dump --hex things.bb | less              what each byte of it means
  blazedb dump --hex --as row row.bin              a shape and the body of a row
  blazedb dump --hex laptop.blaze                  the header of a database, without its key
  blazedb dump --hex --page 33 laptop.blaze        and a page of it; its body stays sealed
  blazedb dump --hex --page 33 --passphrase-file secret.txt laptop.blaze

Each line is an offset, bytes, and what they mean; what lies inside of something is indented. Numbers of rules (V-8,
F-7, E-30) are those of the specification in spec/. Bytes that are refused are explained as far as they make sense,
then it is said at which byte which rule is broken. Bytes that were compressed are explained as they were before, at
offsets that begin with `+`. Exit codes: 0 everything is accepted, 1 something is refused or cannot be read.";

/// The command line.
#[derive(Parser, Debug)]
#[command(name = "blazedb", version, about = "A local-first database", long_about = ABOUT_LONG, after_help = ROOT_EXAMPLES)]
#[command(propagate_version = true, arg_required_else_help = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show it all: a relay, two devices, offline edits, a crash (about half a minute, no set-up)
    Demo(DemoArgs),
    /// Run a relay
    Serve(ServeArgs),
    /// Make an access token for one space of a relay
    Token(TokenArgs),
    /// Load JSON into a collection
    Import(ImportArgs),
    /// Write a collection as JSON
    Export(ExportArgs),
    /// Exchange changes with a relay
    Sync(SyncArgs),
    /// Say what is in a database file
    Stats(StatsArgs),
    /// Read everything in a database file and check it
    Verify(VerifyArgs),
    /// Make a database file as short as it can be
    Vacuum(VacuumArgs),
    /// Write a backup of a database, full or what changed since another one
    Backup(BackupArgs),
    /// Make a new database out of backups
    Restore(RestoreArgs),
    /// Copy what can be read of a damaged database into a new one
    Salvage(SalvageArgs),
    /// Seal a database anew: another key, another passphrase, another cipher
    Rekey(RekeyArgs),
    /// List what merges could not apply
    Inbox(InboxArgs),
    /// Explain the bytes of a frame, a row, an export or a database
    Dump(DumpArgs),
}

#[derive(Args, Debug)]
#[command(after_help = DEMO_EXAMPLES)]
pub(crate) struct DemoArgs {
    /// JSON to use: an array of objects, NDJSON, or one object [default: `cargo metadata` of the current workspace,
    /// or a generated bug tracker]
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// How many edits to stream from A to B
    #[arg(long, default_value_t = 5_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) edits: u64,
    /// Leave the files behind and say where they are
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Args, Debug)]
#[command(after_help = SERVE_EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Where the relay keeps its log, keys and certificate; created if absent
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7420", value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// Shut down when stdin ends, so that a relay started by another program never outlives it
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Args, Debug)]
#[command(after_help = TOKEN_EXAMPLES)]
pub(crate) struct TokenArgs {
    /// The relay's data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// The space the token opens
    #[arg(long, value_name = "NAME")]
    pub(crate) space: String,
    /// How long it is valid: a number and s, m, h or d
    #[arg(long, default_value = "30d", value_name = "TIME", value_parser = parse_span)]
    pub(crate) ttl: Duration,
    /// Whom it is for; appears in the relay's log
    #[arg(long, default_value = "device", value_name = "NAME")]
    pub(crate) subject: String,
}

/// How a database file is opened; shared by every command that opens one.
#[derive(Args, Debug)]
pub(crate) struct DbArgs {
    /// The database file
    #[arg(long, value_name = "FILE")]
    pub(crate) db: PathBuf,
    /// Read the passphrase from this file (one trailing line break is not part of it)
    #[arg(long, value_name = "FILE", conflicts_with = "unencrypted")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The file has no encryption: whoever can read the file can read the data
    #[arg(long)]
    pub(crate) unencrypted: bool,
}

/// How a new database file is made; shared by the commands that may create one.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// How costly guessing the passphrase of a NEW file is made; an existing file keeps its own cost
    #[arg(long, value_enum, default_value_t = Kdf::Standard, value_name = "COST")]
    pub(crate) kdf: Kdf,
}

/// Cost of turning a passphrase into a key.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kdf {
    /// 64 MiB of memory and 3 passes for each guess
    Standard,
    /// 19 MiB and 2 passes: for small devices; a guess is about five times as cheap
    Light,
}

#[derive(Args, Debug)]
#[command(after_help = IMPORT_EXAMPLES)]
pub(crate) struct ImportArgs {
    /// JSON file, or - for stdin (kept in memory, at most 256 MiB)
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) db: DbArgs,
    #[command(flatten)]
    pub(crate) create: CreateArgs,
    /// The collection to load into
    #[arg(long, value_name = "NAME")]
    pub(crate) collection: String,
    /// Field (text or integer) that identifies a record; makes importing again harmless
    #[arg(long, value_name = "FIELD")]
    pub(crate) id_field: Option<String>,
    /// What FILE holds
    #[arg(long, value_enum, default_value_t = InputFormat::Auto, value_name = "FORMAT")]
    pub(crate) format: InputFormat,
    /// Leave out records that cannot be stored, list them on stderr, and end with exit code 3
    #[arg(long)]
    pub(crate) keep_going: bool,
}

/// What an import file holds.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputFormat {
    /// Told from the first line
    Auto,
    /// One object per line
    Ndjson,
    /// An array of objects, or one object
    Json,
}

#[derive(Args, Debug)]
#[command(after_help = EXPORT_EXAMPLES)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) db: DbArgs,
    /// The collection to write
    #[arg(long, value_name = "NAME")]
    pub(crate) collection: String,
    /// One object per line, one array, or frames of BlazeBinary
    #[arg(long, value_enum, default_value_t = OutputFormat::Ndjson, value_name = "FORMAT")]
    pub(crate) format: OutputFormat,
    /// Wrap each record together with its id; blaze always has it
    #[arg(long)]
    pub(crate) with_id: bool,
    /// Write here instead of stdout; appears only when complete
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// What an export looks like.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    /// One object per line
    Ndjson,
    /// One array
    Json,
    /// BlazeBinary with ids, types and all (spec/frame.md, Export files)
    Blaze,
}

#[derive(Args, Debug)]
#[command(after_help = SYNC_EXAMPLES)]
pub(crate) struct SyncArgs {
    #[command(flatten)]
    pub(crate) db: DbArgs,
    #[command(flatten)]
    pub(crate) create: CreateArgs,
    /// The relay's address
    #[arg(long, value_name = "URL")]
    pub(crate) relay: String,
    /// The space to join
    #[arg(long, value_name = "NAME")]
    pub(crate) space: String,
    /// File that holds the token made by `blazedb token`
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// Trust this certificate (PEM), for example the relay's tls.crt
    #[arg(long, value_name = "FILE", conflicts_with = "fingerprint")]
    pub(crate) ca: Option<PathBuf>,
    /// Trust the relay whose key has this fingerprint (64 hexadecimal digits, printed by `serve`)
    #[arg(long, value_name = "HEX", value_parser = parse_fingerprint)]
    pub(crate) fingerprint: Option<String>,
    /// Stay connected and print every change until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// Give up after this long without progress (not with --watch)
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_span)]
    pub(crate) timeout: Duration,
}

#[derive(Args, Debug)]
#[command(after_help = STATS_EXAMPLES)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) db: DbArgs,
    /// One JSON object for other programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = VERIFY_EXAMPLES)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) db: DbArgs,
}

#[derive(Args, Debug)]
#[command(after_help = VACUUM_EXAMPLES)]
pub(crate) struct VacuumArgs {
    #[command(flatten)]
    pub(crate) db: DbArgs,
}

#[derive(Args, Debug)]
#[command(after_help = BACKUP_EXAMPLES)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) db: DbArgs,
    /// Where to write it; `-` is stdout
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Write only what changed since this backup, the last one of this database
    #[arg(long, value_name = "FILE")]
    pub(crate) since: Option<PathBuf>,
    /// Bytes per second at most: a number, with K, M or G for 1024, 1024 x 1024, ... [default: as fast as it goes]
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    pub(crate) rate: Option<u64>,
    /// Take the history of collections along, so that any moment that it reaches back to can be restored
    #[arg(long)]
    pub(crate) history: bool,
}

#[derive(Args, Debug)]
#[command(after_help = RESTORE_EXAMPLES)]
pub(crate) struct RestoreArgs {
    /// A full backup, then its increments in order; `-` is stdin
    #[arg(value_name = "BACKUP", required = true)]
    pub(crate) backups: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) db: DbArgs,
    /// Read the passphrase of the new file from this file, if it is to be another one than that of the backups
    #[arg(long, value_name = "FILE", conflicts_with = "unencrypted")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// Restore an earlier moment, out of backups made with --history: how long ago (2h), a time in UTC
    /// (2026-11-26T09:30:00Z), or a commit (1234)
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment)]
    pub(crate) at: Option<Moment>,
    #[command(flatten)]
    pub(crate) create: CreateArgs,
}

#[derive(Args, Debug)]
#[command(after_help = SALVAGE_EXAMPLES)]
pub(crate) struct SalvageArgs {
    #[command(flatten)]
    pub(crate) db: DbArgs,
    /// The new file; it gets the passphrase of the damaged one
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// Write what could not be read to this file, one line each, instead of stderr
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) create: CreateArgs,
}

#[derive(Args, Debug)]
#[command(after_help = REKEY_EXAMPLES)]
pub(crate) struct RekeyArgs {
    #[command(flatten)]
    pub(crate) db: DbArgs,
    /// Ask for a new passphrase, twice; the old one stops opening the file
    #[arg(long, conflicts_with = "new_passphrase_file")]
    pub(crate) new_passphrase: bool,
    /// Read the new passphrase from this file; the old one stops opening the database
    #[arg(long, value_name = "FILE")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// The cipher from now on [default: as it is]
    #[arg(long, value_enum, value_name = "CIPHER")]
    pub(crate) cipher: Option<Cipher>,
    /// How costly guessing the passphrase is made from now on [default: as it is]
    #[arg(long, value_enum, value_name = "COST")]
    pub(crate) kdf: Option<Kdf>,
    /// Let every other key that opens the file stop doing so
    #[arg(long)]
    pub(crate) drop_other_keys: bool,
}

/// What pages and log are sealed with.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cipher {
    /// Fast where the CPU has instructions for it
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
    /// Fast where it has none
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

#[derive(Args, Debug)]
#[command(after_help = INBOX_EXAMPLES)]
pub(crate) struct InboxArgs {
    #[command(flatten)]
    pub(crate) db: DbArgs,
    /// One JSON object per line for other programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = DUMP_EXAMPLES)]
pub(crate) struct DumpArgs {
    /// What to look at; `-` is stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Explain every byte: offset, bytes, meaning
    #[arg(long)]
    pub(crate) hex: bool,
    /// What the file holds
    #[arg(long = "as", value_enum, default_value_t = DumpKind::Auto, value_name = "KIND")]
    pub(crate) kind: DumpKind,
    /// Of a database, this page as well
    #[arg(long, value_name = "NUMBER", requires = "hex")]
    pub(crate) page: Option<u64>,
    /// Open the page with the passphrase in this file
    #[arg(long, value_name = "FILE", requires = "page")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// What a file that is dumped holds.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DumpKind {
    /// A database or frames, told from the first bytes
    Auto,
    /// Frames one behind the other, as in an export
    Frames,
    /// The body of a batch
    Batch,
    /// An envelope
    Envelope,
    /// A columnar batch
    Columns,
    /// A shape, then the body of a row
    Row,
    /// A tag, then the payload of a value
    Value,
    /// A database file
    Store,
}

/// Ten years: long enough for any token, short enough never to overflow a clock.
const SPAN_SECONDS_MAX: u64 = 10 * 366 * 86_400;

/// Reads `90s`, `15m`, `12h`, `30d`.
fn parse_span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "" => return Err("a unit is missing: write 90s, 15m, 12h or 30d".to_owned()),
        other => return Err(format!("unknown unit `{other}`: write 90s, 15m, 12h or 30d")),
    };
    let count: u64 = digits.parse().map_err(|_| "not a whole number: write 90s, 15m, 12h or 30d".to_owned())?;
    let seconds = count.saturating_mul(unit_seconds);
    if seconds == 0 || seconds > SPAN_SECONDS_MAX {
        return Err("between 1s and 3660d, please".to_owned());
    }
    Ok(Duration::from_secs(seconds))
}

/// Reads `1234`, `2h`, and `2026-11-26T09:30:00Z`.
fn parse_moment(text: &str) -> Result<Moment, String> {
    if let Ok(commit_no) = text.parse() {
        return Ok(Moment::Commit(commit_no));
    }
    if let Some(time) = text.strip_suffix('Z') {
        let wrong = || "not a time: write 2026-11-26T09:30:00Z, in UTC".to_owned();
        return utc_ms(time).map(Moment::Time).ok_or_else(wrong);
    }
    let ago = parse_span(text).map_err(|e| format!("{e}, a time in UTC such as 2026-11-26T09:30:00Z, or a commit"))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Moment::Time(now.saturating_sub(ago).as_millis() as u64))
}

/// Milliseconds since 1970 of `2026-11-26T09:30` or `2026-11-26T09:30:05`.
fn utc_ms(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    let numbers = |text: &str, by: char| -> Option<Vec<u64>> {
        text.split(by).map(|n| n.bytes().all(|b| b.is_ascii_digit()).then(|| n.parse().ok())?).collect()
    };
    let (date, time) = (numbers(date, '-')?, numbers(time, ':')?);
    let &[year, month, day] = &date[..] else { return None };
    let (hour, minute, second) = match time[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_of = |month: u64| match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let is_time = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let days = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum::<u64>()
        + (1..month).map(days_of).sum::<u64>()
        + day.saturating_sub(1);
    is_time.then_some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

/// Reads `500000`, `512K`, `5M`, `1G`.
fn parse_rate(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        other => return Err(format!("unknown unit `{other}`: write 500000, 512K, 5M or 1G")),
    };
    let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).filter(|&rate| rate > 0);
    count.ok_or_else(|| "not a rate: write 500000, 512K, 5M or 1G".to_owned())
}

/// Accepts 64 hexadecimal digits, in either case, with or without colons, and hands on the plain lower-case form.
fn parse_fingerprint(text: &str) -> Result<String, String> {
    let plain: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    if plain.len() == 64 && plain.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(plain)
    } else {
        Err("64 hexadecimal digits, as `blazedb serve` prints them".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n"), "{} has no examples", command.get_name());
        }
    }

    #[test]
    fn spans_have_a_number_and_a_unit() {
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for wrong in ["", "d", "0s", "30", "3w", "-1d", "1.5h", "99999999999d", "18446744073709551615d"] {
            assert!(parse_span(wrong).is_err(), "{wrong} was accepted");
        }
    }

    #[test]
    fn rates_have_a_number_and_may_have_a_unit() {
        assert_eq!(["7", "2k", "5M", "1G"].map(parse_rate), [Ok(7), Ok(2048), Ok(5 << 20), Ok(1 << 30)]);
        for wrong in ["", "0", "M", "1.5M", "-1", "1T", "99999999999G"] {
            assert!(parse_rate(wrong).is_err(), "{wrong} was accepted");
        }
    }

    #[test]
    fn fingerprints_lose_case_and_colons() {
        let plain = "0123456789abcdef".repeat(4);
        assert_eq!(parse_fingerprint(&plain.to_uppercase()), Ok(plain.clone()));
        assert!(parse_fingerprint(&plain[1..]).is_err());
        assert!(parse_fingerprint(&plain.replace('f', "g")).is_err());
    }

    #[test]
    fn a_passphrase_is_never_an_argument() {
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments() {
                let long = argument.get_long().unwrap_or_default();
                assert!(
                    !["passphrase", "password", "token", "key"].contains(&long),
                    "--{long} would put a secret on argv"
                );
            }
        }
    }
}
