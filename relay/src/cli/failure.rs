//! The one error of the command line: what happened, and what to do next.

use std::error::Error as StdError;
use std::fmt::Display;
use std::io;

use super::{exit, ui};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    next: String,
    code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub(crate) fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into(), code: exit::FAILED }
    }

    /// The failure of a command that was told to stop; the code says by which signal.
    pub(crate) fn interrupted(code: u8) -> Self {
        Self { what: "interrupted".to_owned(), next: "run the command again to go on".to_owned(), code }
    }

    /// An operation of the file system that failed.
    pub(crate) fn io(what: impl Display, error: &io::Error) -> Self {
        let next = match error.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::PermissionDenied => "check who owns it and its permissions",
            io::ErrorKind::StorageFull => "make room on the disk and run the command again",
            io::ErrorKind::AddrInUse => "stop the other program on that port or choose another one",
            _ => "run the command again; if it stays, look at the disk and the system's log",
        };
        Self::new(format!("{what}: {error}"), next)
    }

    /// An error of the library with everything that caused it, and what to do about it here.
    pub(crate) fn because(what: impl Display, error: &(dyn StdError + 'static), next: impl Into<String>) -> Self {
        Self::new(format!("{what}: {}", chain(error)), next)
    }

    /// The same failure with a better idea of what to do.
    pub(crate) fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// Prints both lines on stderr.
    pub(crate) fn print(&self) {
        ui::say(format_args!("error: {}", self.what));
        ui::say(format_args!("next: {}", self.next));
    }

    /// The exit code of the process.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

/// Joins an error with everything that caused it; a cause that only repeats its effect is left out.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(link) = cause {
        let link_text = link.to_string();
        if !text.contains(&link_text) {
            text.push_str(": ");
            text.push_str(&link_text);
        }
        cause = link.source();
    }
    text
}
