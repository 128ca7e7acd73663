//! What can go wrong at the front door: one [`Error`] with a [`ErrorKind`] to match on and a chain of sources to read.
//!
//! Display prints one link of the chain and what to do next; `source()` carries the rest.

use std::fmt;

use blazedb_engine as engine;
use blazedb_wire as wire;

/// Who is to blame, and so what a caller may do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file could not be opened: missing, locked, wrong key, damaged, or written by a newer version.
    Open,
    /// Another transaction changed the same document first; run the transaction again.
    Conflict,
    /// A value, name or transaction is over a stated limit. Of a transaction that is too large for sync the source is
    /// a [`crate::TransactionTooLarge`].
    Limit,
    /// The key is in use, or the document that was asked for has been deleted for good.
    Key,
    /// A document does not fit the Rust type, or the other way round.
    Type,
    /// Stored bytes do not decode: the file is damaged or was written by another version.
    Corrupt,
    /// The store refuses to go on: full, poisoned by a failed write, or read-only.
    Storage,
    /// The relay refused, misbehaved, or could not be reached.
    Sync,
    /// The call does not fit the state of the database.
    State,
}

/// An error of the database.
pub struct Error {
    kind: ErrorKind,
    text: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None }
    }

    pub(crate) fn with(
        kind: ErrorKind,
        text: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { kind, text: text.into(), source: Some(Box::new(source)) }
    }

    pub(crate) fn corrupt(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::with(
            ErrorKind::Corrupt,
            format!("{what} does not decode; run `blazedb verify` on the file and restore a copy"),
            source,
        )
    }

    /// Returns who is to blame.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns whether running the same transaction again may succeed.
    pub fn is_conflict(&self) -> bool {
        self.kind == ErrorKind::Conflict
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)?;
        let mut link = std::error::Error::source(self);
        while let Some(source) = link {
            write!(f, ": {source}")?;
            link = source.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| &**s as _)
    }
}

/// Whether it is the caller's options that no store can have: the file is not to blame.
pub(crate) fn refused_options(e: &engine::OpenError) -> Option<Error> {
    let engine::OpenError::BadOption { option, given, allowed } = e else { return None };
    let text = format!("the options say {option} {given}, and it is {allowed}; nothing was opened or written");
    Some(Error::new(ErrorKind::Limit, text))
}

impl From<engine::OpenError> for Error {
    fn from(e: engine::OpenError) -> Self {
        if let Some(refused) = refused_options(&e) {
            return refused;
        }
        Self::with(ErrorKind::Open, "the database file could not be opened", e)
    }
}

impl From<engine::ReadError> for Error {
    fn from(e: engine::ReadError) -> Self {
        let kind = if matches!(e, engine::ReadError::Corruption(_)) { ErrorKind::Corrupt } else { ErrorKind::Storage };
        Self::with(kind, "the store could not be read", e)
    }
}

impl From<wire::EncodeError> for Error {
    fn from(e: wire::EncodeError) -> Self {
        Self::with(ErrorKind::Limit, "the document cannot be encoded", e)
    }
}

impl From<wire::serde::SerdeError> for Error {
    fn from(e: wire::serde::SerdeError) -> Self {
        if matches!(e.kind, wire::serde::SerdeErrorKind::Encode(_)) {
            return Self::with(ErrorKind::Limit, "the document cannot be encoded", e);
        }
        Self::with(ErrorKind::Type, "the document does not fit the Rust type", e)
    }
}
