//! `blazedb sync`: exchange changes with a relay, once or for as long as somebody watches.

use std::fs;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use blazedb::{ChangeEvent, ChangeKind, Changes, Database, Document, Relay, Sync, SyncState, SyncStatus, Value};
use blazedb_wire::json;

use super::args::SyncArgs;
use super::failure::Failure;
use super::open::{self, Intent};
use super::signals::StopFlag;
use super::ui::{self, Progress};
use super::{Outcome, exit};

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs the command.
pub(crate) fn run(args: &SyncArgs) -> Outcome {
    let stop = StopFlag::listen()?;
    let relay = relay_of(args)?;
    let (db, created) = open::open(&args.db, Intent::WriteOrCreate(args.create.kdf))?;
    if created {
        ui::say(format_args!("created {}", args.db.db.display()));
    }
    let changes = db.changes();
    let begun = Instant::now();
    let sync = db.enable_sync(relay).map_err(|e| {
        Failure::because(
            "cannot start syncing",
            &e,
            "check --relay, --space, --token-file and how the relay is trusted",
        )
    })?;
    let outcome = if args.watch {
        watch(args, &db, &sync, changes, &stop)
    } else {
        drop(changes);
        until_idle(args, &sync, &stop, begun)
    };
    sync.stop();
    let closed = db.close();
    let code = outcome?;
    closed
        .map_err(|e| Failure::because("the changes are in, but the file did not close", &e, "run `blazedb verify`"))?;
    Ok(code)
}

fn relay_of(args: &SyncArgs) -> Result<Relay, Failure> {
    if !args.relay.starts_with("https://") {
        return Err(Failure::new(
            format!("{} is not an https address", ui::printable(&args.relay, 200)),
            "write it as `blazedb serve` prints it, for example https://127.0.0.1:7420",
        ));
    }
    let shown = args.token_file.display();
    let token = fs::read_to_string(&args.token_file).map_err(|e| {
        Failure::io(format!("cannot read token file {shown}"), &e)
            .with_next("make a token where the relay runs: blazedb token --data DIR --space NAME > FILE")
    })?;
    let token = token.trim();
    if token.is_empty() {
        return Err(Failure::new(
            format!("token file {shown} is empty"),
            "make a token where the relay runs: blazedb token --data DIR --space NAME > FILE",
        ));
    }
    if let Some(space) = space_of(token)
        && space != args.space
    {
        return Err(Failure::new(
            format!(
                "the token in {shown} is for the space {}, not {}",
                ui::printable(&space, 60),
                ui::printable(&args.space, 60)
            ),
            "use the other --space, or make a token for this one: blazedb token --data DIR --space NAME > FILE",
        ));
    }
    let relay = Relay::new(&args.relay).space(&args.space).token(token);
    Ok(if let Some(path) = &args.ca {
        let pem = fs::read(path).map_err(|e| Failure::io(format!("cannot read certificate {}", path.display()), &e))?;
        relay.ca_pem(pem)
    } else if let Some(fingerprint) = &args.fingerprint {
        relay.fingerprint(fingerprint)
    } else {
        relay
    })
}

/// Reads the space that a token claims to be for. The relay alone can tell whether the claim is true; a file stays with
/// its first space for ever, so a token that was mixed up is better found here.
fn space_of(token: &str) -> Option<String> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    match json::parse_document(&claims).ok()?.get("space")? {
        Value::Text(space) => Some(space.clone()),
        _ => None,
    }
}

/// Waits until both sides have everything.
fn until_idle(args: &SyncArgs, sync: &Sync, stop: &StopFlag, begun: Instant) -> Outcome {
    let mut progress = Progress::start("syncing (operations)", 0);
    let mut last_mark = mark(&status(sync)?);
    let mut last_progress = Instant::now();
    loop {
        if sync.wait_idle(LOOK_EVERY).is_ok() {
            break;
        }
        stop.check()?;
        let status = status(sync)?;
        if let Some(failure) = hopeless(args, &status) {
            return Err(failure);
        }
        progress.say(format!(
            "{:?}: {} to send, {} unconfirmed, received {}/{}",
            status.state, status.unsent_ops, status.unacked_ops, status.cursor, status.head
        ));
        progress.set(status.cursor);
        if mark(&status) != last_mark {
            last_mark = mark(&status);
            last_progress = Instant::now();
        } else if last_progress.elapsed() >= args.timeout {
            return Err(gave_up(args, &status));
        }
    }
    drop(progress);
    let status = status(sync)?;
    ui::say(format_args!(
        "in sync with {} at {} in {}: sent {}, received {}, {} merged",
        ui::printable(&args.space, 60),
        ui::thousands(status.head),
        ui::span(begun.elapsed()),
        ui::bytes(status.bytes_sent),
        ui::bytes(status.bytes_received),
        ui::plural(status.conflicts_merged, "conflict"),
    ));
    Ok(exit::DONE)
}

fn status(sync: &Sync) -> Result<SyncStatus, Failure> {
    sync.status().map_err(|e| Failure::because("cannot read the outbox", &e, "run `blazedb verify` on the file"))
}

/// The numbers that move when something happens.
fn mark(status: &SyncStatus) -> (u64, u64, u64, u64, u64) {
    (status.cursor, status.head, status.unsent_ops, status.unacked_ops, status.bytes_received)
}

/// Returns the failure if trying again cannot help.
fn hopeless(args: &SyncArgs, status: &SyncStatus) -> Option<Failure> {
    (status.state == SyncState::Stopped).then(|| gave_up(args, status))
}

fn gave_up(args: &SyncArgs, status: &SyncStatus) -> Failure {
    let why = status.last_error.clone().unwrap_or_else(|| "the relay does not answer".to_owned());
    let why = ui::printable(&why, 600);
    let lower = why.to_lowercase();
    let next = if lower.contains("spacemismatch") || lower.contains("another space") {
        "use a token of the file's own space (`blazedb stats` shows its id), or sync this space into a new file"
    } else if lower.contains("fingerprint") || lower.contains("certificate") {
        "compare with the fingerprint that `blazedb serve` prints, or pass the relay's tls.crt as --ca"
    } else if lower.contains("token") || lower.contains("unauthenticated") {
        "make a new token where the relay runs: blazedb token --data DIR --space NAME > FILE"
    } else if lower.contains("cursorahead") || lower.contains("epochmismatch") {
        "the relay knows less than this device: it was put back to an older copy. Keep this file as it is and write nothing \
         more on other devices until the relay's newest data is back"
    } else if lower.contains("sealed") || lower.contains("the store") || lower.contains("corrupt") {
        "run `blazedb verify` on the file, and keep a copy of it"
    } else if lower.contains("permission") {
        "check --space, and that the token was made for it"
    } else {
        "check that the relay runs and that --relay is its address; nothing is lost, run the command again"
    };
    let left = status.unsent_ops + status.unacked_ops;
    let rest = if left > 0 { format!(" ({} wait in the file)", ui::plural(left, "change")) } else { String::new() };
    Failure::new(format!("cannot sync with {}: {why}{rest}", args.relay), next)
}

/// Prints what changes until somebody presses Ctrl-C.
fn watch(args: &SyncArgs, db: &Database, sync: &Sync, changes: Changes, stop: &StopFlag) -> Outcome {
    let mut connected = false;
    let mut shown_error = None;
    while !stop.is_raised() {
        let status = status(sync)?;
        if let Some(failure) = hopeless(args, &status) {
            return Err(failure);
        }
        if (status.state == SyncState::Online) != connected {
            connected = !connected;
            shown_error = None;
            ui::say(format_args!("{}", if connected { "connected" } else { "disconnected; trying again" }));
        }
        if !connected && status.last_error.is_some() && status.last_error != shown_error {
            shown_error.clone_from(&status.last_error);
            ui::say(format_args!("not connected: {}", ui::printable(shown_error.as_deref().unwrap_or_default(), 600)));
        }
        match changes.recv_timeout(LOOK_EVERY) {
            None => {}
            Some(ChangeEvent::Lagged) => ui::say("some changes were too fast to print; they are in the file"),
            Some(ChangeEvent::Commit(commit)) => {
                for change in commit.changes.iter() {
                    let line = describe(db, change).map_err(|e| {
                        Failure::because("cannot read a change", &e, "run `blazedb verify` on the file")
                    })?;
                    if !ui::line(&line) {
                        return Ok(exit::DONE);
                    }
                }
            }
        }
    }
    let status = status(sync)?;
    ui::say(format_args!("stopped at {} of {}", ui::thousands(status.cursor), ui::thousands(status.head)));
    Ok(exit::DONE)
}

/// One change on one line: `put todos 0191... {"title":...}` or `delete todos 0191...`.
fn describe(db: &Database, change: &blazedb::DocumentChange) -> Result<String, blazedb::Error> {
    let name = ui::printable(&change.collection, 255);
    let row = match change.kind {
        ChangeKind::Put => db.collection::<Document>(&change.collection)?.row(change.id)?,
        ChangeKind::Delete => None,
    };
    let Some(row) = row else { return Ok(format!("delete {name} {}", change.id)) };
    let mut text = Vec::new();
    let shown = match json::write_row(row.as_ref(), &mut text) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(e) => format!("(no JSON form: {e})"),
    };
    Ok(format!("put {name} {} {shown}", change.id))
}
