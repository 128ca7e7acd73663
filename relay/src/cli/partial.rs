//! A file in the making, under a name of its own until it is whole and on the disk.
//!
//! It goes over no file: neither over one that somebody else has under that name, nor over one that is cut off. Where it
//! does not become whole, it is removed: by an error, Ctrl-C or SIGTERM, though not by a crash.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::failure::Failure;
use super::signals;
use super::target::check_no_log;

/// `X.partial`, which becomes `X`.
pub(crate) struct Partial<'a> {
    target: &'a Path,
    file: File,
    /// As long as it is there and not whole.
    path: Arc<Mutex<Option<PathBuf>>>,
}

impl<'a> Partial<'a> {
    /// Makes the file for a `what`. `is_private`: for its owner alone. From now on Ctrl-C and SIGTERM remove it and end the
    /// process.
    pub(crate) fn create(target: &'a Path, what: &str, is_private: bool) -> Result<Self, Failure> {
        check_no_log(target)?;
        let mut name = target.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        if is_private {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        #[cfg(not(unix))]
        let _ = is_private;
        let made = Arc::new(Mutex::new(None::<PathBuf>));
        let stopped = Arc::clone(&made);
        signals::on_stop(move |code| {
            // Else it is whole, and the process about to end.
            let mut made = stopped.lock();
            if let Some(path) = made.take() {
                remove(&path);
                Failure::interrupted(code).with_next("run the command again; nothing was left behind").print();
                std::process::exit(i32::from(code));
            }
        })?;
        // Held, so that nothing is left where a signal comes in between.
        let mut path_made = made.lock();
        let file = options.open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(
                format!("{} exists: another {what} of that name is being written, or was cut off", path.display()),
                format!("choose another name; if no {what} is being written, remove that file"),
            ),
            _ => Failure::io(format!("cannot write {}", path.display()), &e),
        })?;
        *path_made = Some(path);
        drop(path_made);
        Ok(Self { target, file, path: made })
    }

    /// Where it is written.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, durably. Where somebody made a file of that name meanwhile, that one stays unless `over`.
    pub(crate) fn finish(self, over: bool) -> io::Result<()> {
        self.file.sync_all()?;
        if !over && fs::symlink_metadata(self.target).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut path = self.path.lock();
        if let Some(from) = &*path {
            fs::rename(from, self.target)?;
        }
        *path = None;
        sync_folder_of(self.target)
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.path.lock().take() {
            remove(&path);
        }
    }
}

fn remove(path: &Path) {
    // The error that matters was another one; a left-over partial file is only untidy.
    let _ = fs::remove_file(path);
}

/// Makes a new name durable.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    // Elsewhere folders cannot be synced.
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
