//! Names of trees and the numbers reserved for them.
//!
//! A number is reserved when somebody first asks for a name and stays with it as long as the store is open, even
//! if the transaction that asked is dropped. So a `TreeId` never becomes wrong, two transactions that create the
//! same tree agree on its number, and the catalogue needs no conflict check: whoever commits a tree first writes
//! the entry that the other would have written.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::error::WriteError;
use crate::limits::{TREE_NAME_BYTES_MAX, TREES_MAX};
use crate::pager::PageError;
use crate::snapshot::{Layers, Value, Walk};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::txn::CATALOGUE;

/// Why a catalogue cannot be read.
pub(crate) enum NamesError {
    Page(PageError),
    /// The rule that it breaks.
    Rule(&'static str),
}

impl From<PageError> for NamesError {
    fn from(error: PageError) -> Self {
        Self::Page(error)
    }
}

/// A tree's name and its number, as the catalogue has them.
pub(crate) type CatalogueEntry = (Arc<str>, [u8; 4]);

pub(crate) struct Names {
    inner: Mutex<Reserved>,
    /// The first number not given out; read without the lock.
    end: AtomicU32,
}

struct Reserved {
    numbers: HashMap<Arc<str>, u32>,
    names: HashMap<u32, Arc<str>>,
    next: u32,
}

impl Names {
    /// Reads the catalogue.
    pub(crate) fn from_catalogue(layers: &Layers) -> Result<Self, NamesError> {
        let mut reserved =
            Reserved { numbers: HashMap::new(), names: HashMap::new(), next: layers.tree_count().max(1) };
        let mut walk = Walk::new(layers, CATALOGUE, Bound::Unbounded, false)?;
        while let (Some(key), Some(value)) = (walk.key(), walk.value()) {
            let name = std::str::from_utf8(key).map_err(|_| NamesError::Rule("a tree's name is UTF-8"))?;
            if name.is_empty() || name.len() > TREE_NAME_BYTES_MAX {
                return Err(NamesError::Rule("a tree's name has 1 to 512 bytes"));
            }
            let number = match value {
                Value::Inline(bytes) => bytes.try_into().map(u32::from_le_bytes).ok(),
                Value::Stored(_) => None,
            };
            let number = number.ok_or(NamesError::Rule("a tree's number is 4 bytes"))?;
            if number == CATALOGUE || number as usize > TREES_MAX {
                return Err(NamesError::Rule("a tree's number is between 1 and the limit"));
            }
            let name: Arc<str> = name.into();
            if reserved.names.insert(number, Arc::clone(&name)).is_some() {
                return Err(NamesError::Rule("a tree's number is given once"));
            }
            reserved.numbers.insert(name, number);
            reserved.next = reserved.next.max(number + 1);
            walk.advance(layers)?;
        }
        Ok(Self { end: AtomicU32::new(reserved.next), inner: Mutex::new(reserved) })
    }

    pub(crate) fn reserve(&self, name: &str) -> Result<u32, WriteError> {
        if name.is_empty() || name.len() > TREE_NAME_BYTES_MAX {
            return Err(WriteError::TreeName { given: name.len() });
        }
        let mut reserved = self.inner.lock();
        if let Some(&number) = reserved.numbers.get(name) {
            return Ok(number);
        }
        if reserved.next as usize > TREES_MAX {
            return Err(WriteError::TooManyTrees);
        }
        let number = reserved.next;
        reserved.next += 1;
        let name: Arc<str> = name.into();
        reserved.numbers.insert(Arc::clone(&name), number);
        reserved.names.insert(number, name);
        self.end.store(reserved.next, Ordering::Release);
        Ok(number)
    }

    /// Returns whether this number was given out.
    pub(crate) fn knows(&self, number: u32) -> bool {
        number != CATALOGUE && number < self.end.load(Ordering::Acquire)
    }

    pub(crate) fn name_of(&self, number: u32) -> Option<Arc<str>> {
        self.inner.lock().names.get(&number).cloned()
    }
}
