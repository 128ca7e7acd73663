//! `blazedb vacuum`: makes a database file as short as it can be.

use super::args::VacuumArgs;
use super::failure::Failure;
use super::open::{self, Intent};
use super::ui::{self, Progress};
use super::{Outcome, exit, signals};

/// Runs `blazedb vacuum`.
pub(crate) fn run(args: &VacuumArgs) -> Outcome {
    // Every step of it is a checkpoint: whoever ends the process loses nothing.
    signals::on_stop(|code| {
        eprintln!("\ninterrupted: what was given back so far stays so; the same command does the rest");
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
    done.map_err(|e| Failure::because(format!("{shown} did not become shorter"), &e, "run `blazedb verify`"))?;
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
        _ => {
            format!("{shown}: {} on disk; it was packed already, and there was nothing to give back", ui::bytes(after))
        }
    });
    Ok(exit::DONE)
}
