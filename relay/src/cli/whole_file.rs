//! A file that is there whole or not at all: it has another name until it is written and on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::signals::StopFlag;

/// A file in the making.
pub(crate) struct WholeFile<'a> {
    /// The name that it gets.
    pub(crate) path: &'a Path,
    /// For its owner alone.
    pub(crate) is_private: bool,
    /// Whether it takes the place of one that is there.
    pub(crate) replaces: bool,
}

impl WholeFile<'_> {
    /// Makes the file out of what `write` writes. Whatever fails, and when `stop` is raised, nothing is left of it.
    pub(crate) fn make<T>(
        &self,
        stop: &StopFlag,
        write: impl FnOnce(&mut dyn Write) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let partial = partial_path(self.path);
        let cannot = |e: io::Error| Failure::io(format!("cannot write {}", self.path.display()), &e);
        let file = self.create(&partial).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(
                format!(
                    "{} exists: what is to be {} is being written, or was cut off",
                    partial.display(),
                    self.path.display()
                ),
                "choose another name; if nobody is writing it, remove that file",
            ),
            _ => cannot(e),
        })?;
        let mut out = BufWriter::new(Stoppable { out: &file, stop });
        let written = write(&mut out).and_then(|value| {
            out.flush().map_err(cannot)?;
            file.sync_all().map_err(cannot)?;
            stop.check()?;
            // Where somebody made a file of this name meanwhile, that one stays.
            if !self.replaces && self.path.exists() {
                return Err(cannot(io::ErrorKind::AlreadyExists.into()));
            }
            fs::rename(&partial, self.path).map_err(cannot)?;
            sync_folder_of(self.path).map_err(cannot)?;
            Ok(value)
        });
        // What a stopped writer says is not why there is no file.
        let written = written.map_err(|failure| stop.check().err().unwrap_or(failure));
        if written.is_err() {
            // The error that matters is the first one; a left-over partial file is only untidy.
            let _ = fs::remove_file(&partial);
        }
        written
    }

    fn create(&self, partial: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        if self.is_private {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        options.open(partial)
    }
}

/// Fails as soon as somebody asks the program to stop.
pub(crate) struct Stoppable<'s, W> {
    pub(crate) out: W,
    pub(crate) stop: &'s StopFlag,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Not as `Interrupted`, which means: try again.
        if self.stop.is_raised() { Err(io::Error::other("interrupted")) } else { self.out.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The name under which a file is written before it is complete.
fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
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
