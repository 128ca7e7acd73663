//! `blazedb restore`: a new database out of a full backup and its increments.

use std::fs::File;
use std::io::{self, BufReader, Read};

use blazedb::{Database, Error, ErrorKind, Options, RestoreProgress};
use blazedb_engine::{OpenError, RestoreError};

use super::args::RestoreArgs;
use super::failure::Failure;
use super::target::{self, InTheMaking};
use super::ui::{self, Progress};
use super::{Outcome, exit, open, passphrase};

/// Runs `blazedb restore`.
pub(crate) fn run(args: &RestoreArgs) -> Outcome {
    let shown = args.db.db.display();
    target::check_free(&args.db.db, "nothing is restored")?;
    if args.backups.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(Failure::new("stdin is one backup", "give the others as files"));
    }
    let mut inputs = Vec::new();
    let mut total = Some(0);
    for path in &args.backups {
        if path.as_os_str() == "-" {
            total = None;
            inputs.push(Box::new(io::stdin().lock()) as Box<dyn Read>);
            continue;
        }
        let cannot = |e: io::Error| Failure::io(format!("cannot read {}", path.display()), &e);
        let file = File::open(path).map_err(cannot)?;
        let len = file.metadata().map_err(cannot)?.len();
        total = total.map(|total: u64| total + len);
        inputs.push(Box::new(BufReader::with_capacity(64 << 10, file)));
    }
    let (backup, options) = options(args)?;
    let options = open::with_cost(options, args.create.kdf);
    let parts = inputs.iter_mut().map(|input| &mut **input as &mut dyn Read).collect();
    let making = InTheMaking::listen(&args.db.db, None)?;
    let mut reading: Option<Progress> = None;
    let mut verifying: Option<Progress> = None;
    let mut tell = |now: RestoreProgress| {
        making.begins(&args.db.db);
        if now.verify_total > 0 {
            reading = None;
            let bar = verifying.get_or_insert_with(|| Progress::start("verifying (KiB)", now.verify_total / 1024));
            bar.set(now.verified / 1024);
        } else {
            let bar = reading.get_or_insert_with(|| Progress::start("reading (KiB)", total.unwrap_or(0) / 1024));
            bar.set(now.bytes_read / 1024);
        }
    };
    let restored = match args.at {
        None => Database::restore(&args.db.db, options, parts, &backup, &mut tell),
        Some(moment) => Database::restore_at(&args.db.db, options, parts, &backup, moment, &mut tell),
    };
    drop((reading, verifying, making));
    let report = restored.map_err(|e| explain(args, &e))?;
    ui::line(&format!(
        "{shown}: {} restored and verified, as of commit {} of the database that was backed up",
        ui::plural(report.rows, "row"),
        ui::thousands(report.commit_no),
    ));
    if !report.without_history.is_empty() {
        let names = report.without_history.join(", ");
        ui::say(format_args!("as the backup has them, without a history in it: {names}"));
    }
    Ok(exit::DONE)
}

/// What opens the backups, and what the new file is made with.
fn options(args: &RestoreArgs) -> Result<(Options, Options), Failure> {
    if args.db.unencrypted {
        return Ok((Options::unencrypted(), Options::unencrypted()));
    }
    let secret = passphrase::find(&args.backups[0], args.db.passphrase_file.as_deref(), false)?;
    let new = match &args.new_passphrase_file {
        Some(file) => passphrase::find(&args.db.db, Some(file), true)?,
        None => secret.clone(),
    };
    Ok((Options::passphrase(secret.as_str()), Options::passphrase(new.as_str())))
}

fn explain(args: &RestoreArgs, error: &Error) -> Failure {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<RestoreError>());
    if let Some(RestoreError::NoHistory { newest, .. }) = cause {
        return Failure::new(
            format!("{} was not restored: the backups have no history before commit {newest}", args.db.db.display()),
            "leave --at away for what they have; for earlier moments make backups with `blazedb backup --history`",
        );
    }
    let next = match error.kind() {
        _ if matches!(cause, Some(RestoreError::KeyMissing { .. })) => {
            "leave --unencrypted away, and give the passphrase that the database had when it was backed up"
        }
        _ if matches!(cause, Some(RestoreError::NotEncrypted { .. })) => {
            "add --unencrypted, as the database had no encryption when it was backed up; the new file has none either"
        }
        _ if matches!(cause, Some(RestoreError::UnsupportedVersion { .. })) => {
            "the backup is whole: get the newest blazedb, or the program that made it"
        }
        _ if matches!(cause, Some(RestoreError::Create(OpenError::ReservedName { .. }))) => "choose another name",
        ErrorKind::Open => {
            "check the passphrase (--passphrase-file, else BLAZEDB_PASSPHRASE, else the prompt): it is the one \
                            that the database had when it was backed up; --unencrypted if it had none"
        }
        ErrorKind::Corrupt => "use another backup, or an older chain of them; nothing was left behind",
        _ if matches!(cause, Some(RestoreError::InTheWay { .. } | RestoreError::LogInTheWay { .. })) => {
            "move that file away, or choose another name"
        }
        ErrorKind::State if args.at.is_some() => {
            "see which moments the backups hold, above; give the full backup first and then every increment in order"
        }
        ErrorKind::State => "give the full backup first and then every increment in the order in which they were made",
        _ => "look at the disk, and run it again; nothing was left behind",
    };
    Failure::because(format!("{} was not restored", args.db.db.display()), error, next)
}
