//! `Patch`: which fields of a document to set and which to remove, and nothing about the others.

use std::collections::BTreeMap;

use blazedb_wire::{Value, serde::to_value};
use serde::Serialize;

use crate::Error;

/// A change of some fields of one document.
///
/// Only the fields named here are written, so that two devices which patch different fields of one document both
/// keep their change.
///
/// ```
/// let patch = blazedb::Patch::new().set("done", true).set("tags", ["home"]).unset("due");
/// assert_eq!(patch.len(), 3);
/// ```
#[derive(Debug, Default)]
pub struct Patch {
    fields: BTreeMap<String, Option<Value>>,
    error: Option<Error>,
}

impl Patch {
    /// Returns a patch that changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `field`; a value that cannot be represented is reported by the call that uses the patch.
    #[must_use]
    pub fn set<T: Serialize>(mut self, field: impl Into<String>, value: T) -> Self {
        match to_value(&value) {
            Ok(value) => {
                self.fields.insert(field.into(), Some(value));
            }
            Err(e) => self.error = Some(e.into()),
        }
        self
    }

    /// Sets `field` to null, which is not the same as removing it.
    #[must_use]
    pub fn set_null(mut self, field: impl Into<String>) -> Self {
        self.fields.insert(field.into(), Some(Value::Null));
        self
    }

    /// Removes `field`.
    #[must_use]
    pub fn unset(mut self, field: impl Into<String>) -> Self {
        self.fields.insert(field.into(), None);
        self
    }

    /// Returns how many fields the patch names.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Returns whether the patch names no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub(crate) fn of(fields: BTreeMap<String, Option<Value>>) -> Self {
        Self { fields, error: None }
    }

    pub(crate) fn into_fields(self) -> Result<BTreeMap<String, Option<Value>>, Error> {
        match self.error {
            Some(e) => Err(e),
            None => Ok(self.fields),
        }
    }
}
