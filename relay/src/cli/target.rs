//! Names that a command makes a file under, and what is there of a database in the making when the command is stopped.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::dump::STORE_MAGIC;
use super::failure::Failure;
use super::signals;

/// Refuses a name that is taken, by a file or by what a database beside it needs. `never`: what is not done over a file.
pub(crate) fn check_free(path: &Path, never: &str) -> Result<(), Failure> {
    check_no_log(path)?;
    let shown = path.display();
    if path.exists() {
        return Err(Failure::new(
            format!("{shown} exists, and {never} over a file"),
            "choose another name, or move it away",
        ));
    }
    if fs::symlink_metadata(path).is_ok() {
        return Err(Failure::new(
            format!("{shown} is a link to a file that is not there, and {never} over a link"),
            "choose another name, or remove the link",
        ));
    }
    Ok(())
}

/// Refuses a name that is that of a log of a database which is there: with another file in its place no program would write
/// to that database.
pub(crate) fn check_no_log(path: &Path) -> Result<(), Failure> {
    let name = path.to_string_lossy();
    let is_log = |store: &str| blazedb::log_file_names(store).contains(&name.as_ref().to_owned());
    match name.rsplit_once("-log.").filter(|(store, _)| is_log(store) && Path::new(store).exists()) {
        None => Ok(()),
        Some((store, _)) => Err(Failure::new(
            format!("{name} is a name that the database {store} needs for its log"),
            "choose another name",
        )),
    }
}

/// Refuses a database as what is written over: the one that is read, under whatever name, and any other.
pub(crate) fn check_no_database(path: &Path, read: &Path) -> Result<(), Failure> {
    let mut start = [0; STORE_MAGIC.len()];
    let is_store = File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *STORE_MAGIC;
    let is_read = path.exists() && fs::canonicalize(path).ok() == fs::canonicalize(read).ok();
    match is_store || is_read {
        false => Ok(()),
        true => Err(Failure::new(
            format!("{} is a database, and nothing is written over one", path.display()),
            "choose another name, or move it away",
        )),
    }
}

/// A database in the making, which Ctrl-C and SIGTERM remove before they end the process.
pub(crate) struct InTheMaking(Arc<Mutex<State>>);

enum State {
    /// Nothing is made yet.
    Before,
    /// These files may be there: the first one becomes the target.
    Making(Vec<PathBuf>),
    /// It has its name, or there was an error that has removed it.
    Over,
}

impl InTheMaking {
    /// Begins to listen. `report`: a file that goes as well, if nothing is in it.
    pub(crate) fn listen(target: &Path, report: Option<&Path>) -> Result<Self, Failure> {
        let state = Arc::new(Mutex::new(State::Before));
        let (seen, target, report) = (Arc::clone(&state), target.to_owned(), report.map(Path::to_owned));
        signals::on_stop(move |code| {
            // Held to the end of the process: nothing goes on meanwhile.
            let state = seen.lock();
            let files = match &*state {
                State::Over => return,
                State::Before => &[][..],
                State::Making(files) => files,
            };
            // Who takes the first one away keeps it from becoming the target; if it has, the process is about to end.
            let taken = files.first().is_some_and(|first| fs::remove_file(first).is_ok());
            if !taken && !files.is_empty() && target.exists() {
                return;
            }
            for file in files.iter().skip(1) {
                let _ = fs::remove_file(file);
            }
            if let Some(report) = report.filter(|report| is_empty(report)) {
                let _ = fs::remove_file(report);
            }
            Failure::interrupted(code).with_next("run the command again; nothing was left behind").print();
            std::process::exit(i32::from(code));
        })?;
        Ok(Self(state))
    }

    /// From now on files of this target may be there.
    pub(crate) fn begins(&self, target: &Path) {
        let mut state = self.0.lock();
        if matches!(*state, State::Before) {
            let names = blazedb_engine::names_in_the_making(&target.to_string_lossy());
            *state = State::Making(names.into_iter().map(PathBuf::from).collect());
        }
    }
}

impl Drop for InTheMaking {
    fn drop(&mut self) {
        *self.0.lock() = State::Over;
    }
}

/// Whether there is a file without a byte in it.
pub(crate) fn is_empty(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0)
}
