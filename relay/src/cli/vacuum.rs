//! `blazedb vacuum`: makes a database file as short as it can be.

use blazedb_engine::MaintainError;

use super::args::VacuumArgs;
use super::failure::Failure;
use super::open::{self, Intent};
use super::ui::{self, Progress};
use super::{Outcome, exit, signals};

/// Runs `blazedb vacuum`.
pub(crate) fn run(args: &VacuumArgs) -> Outcome {
    // Every step of it is a checkpoint: whoever ends the process loses nothing.
    signals::on_stop(|code| {
        ui::say("\ninterrupted: what was given back so far stays so; the same command does the rest");
        std::process::exit(i32::from(code));
    })?;
    // Before it opens: opening may write to the log.
    let before = open::bytes_on_disk(&args.db.db);
    let (db, _) = open::open(&args.db, Intent::Write)?;
    let mut progress: Option<Progress> = None;
    let done = db.vacuum(&mut |state| {
        progress.get_or_insert_with(|| Progress::start("pages", state.total)).set(state.done.min(state.total));
    });
    drop(progress);
    let shown = args.db.db.display();
    let done = done.map_err(|e| {
        let next = if is_disk_full(&e) { ROOM } else { "run `blazedb verify`" };
        Failure::because(format!("{shown} did not become shorter"), &e, next)
    })?;
    db.close().map_err(|e| Failure::because("the file did not close", &e, "run `blazedb verify`"))?;
    let after = open::bytes_on_disk(&args.db.db);
    // A file that was packed before may become some pages longer: what was moved needs a place in between.
    ui::line(&match before.checked_sub(after) {
        Some(saved) if saved > 0 => format!(
            "{shown}: {} on disk, {} before; {} given back",
            ui::bytes(after),
            ui::bytes(before),
            ui::bytes(saved)
        ),
        _ if done.disk_was_full => {
            return Err(Failure::new(format!("{shown} did not become shorter: its disk has no room to pack it"), ROOM));
        }
        _ => {
            format!("{shown}: {} on disk; it was packed already, and there was nothing to give back", ui::bytes(after))
        }
    });
    if done.disk_was_full {
        ui::line(&format!("the disk had no room to pack more; {ROOM}"));
    }
    Ok(exit::DONE)
}

/// What there is to do about a full disk.
const ROOM: &str = "make room on the disk, as much as the file is long at most, and run it again";

fn is_disk_full(error: &blazedb::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<MaintainError>());
    matches!(cause, Some(MaintainError::DiskFull { .. }))
}
