//! Names of trees and the numbers reserved for them.
//!
//! A number is reserved when somebody first asks for a name and stays with it as long as the store is open, even
//! if the transaction that asked is dropped. So a `TreeId` never becomes wrong, two transactions that create the
//! same tree agree on its number, and the catalogue needs no conflict check: whoever commits a tree first writes
//! the entry that the other would have written.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::error::WriteError;
use crate::history::{LEDGER_NAME, decode_names_value};
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
    /// Of trees of which history is kept, or was.
    twins: HashMap<u32, u32>,
    ledger: Option<u32>,
    numbers: HashMap<Arc<str>, u32>,
    names: HashMap<u32, Arc<str>>,
    next: u32,
}

impl Names {
    /// Reads the catalogue.
    pub(crate) fn from_catalogue(layers: &Layers) -> Result<Self, NamesError> {
        let mut reserved = Reserved {
            twins: HashMap::new(),
            ledger: None,
            numbers: HashMap::new(),
            names: HashMap::new(),
            next: layers.tree_count().max(1),
        };
        let mut seen = HashSet::new();
        let mut walk = Walk::new(layers, CATALOGUE, Bound::Unbounded, false)?;
        while let (Some(key), Some(value)) = (walk.key(), walk.value()) {
            let is_ledger = key == LEDGER_NAME;
            let name = std::str::from_utf8(key).map_err(|_| NamesError::Rule("a tree's name is UTF-8"))?;
            if name.len() > TREE_NAME_BYTES_MAX {
                return Err(NamesError::Rule("a tree's name has at most 512 bytes"));
            }
            let entry = match value {
                Value::Inline(bytes) => decode_names_value(bytes),
                Value::Stored(_) => None,
            };
            let (number, twin) = entry.ok_or(NamesError::Rule("a tree's number is 4 bytes, or 33 with a twin"))?;
            let twin = twin.map(|twin| twin.number);
            for number in [Some(number), twin].into_iter().flatten() {
                if number == CATALOGUE || number as usize > TREES_MAX {
                    return Err(NamesError::Rule("a tree's number is between 1 and the limit"));
                }
                if !seen.insert(number) {
                    return Err(NamesError::Rule("a tree's number is given once"));
                }
                reserved.next = reserved.next.max(number + 1);
            }
            if is_ledger {
                if twin.is_some() {
                    return Err(NamesError::Rule("the ledger has no twin"));
                }
                reserved.ledger = Some(number);
            } else {
                reserved.twins.extend(twin.map(|twin| (number, twin)));
                let name: Arc<str> = name.into();
                reserved.names.insert(number, Arc::clone(&name));
                reserved.numbers.insert(name, number);
            }
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
        let number = self.next(&mut reserved)?;
        let name: Arc<str> = name.into();
        reserved.numbers.insert(Arc::clone(&name), number);
        reserved.names.insert(number, name);
        Ok(number)
    }

    /// Returns the number of a tree's twin. It is above the tree's, whose number was given out before.
    pub(crate) fn reserve_twin(&self, tree: u32) -> Result<u32, WriteError> {
        let mut reserved = self.inner.lock();
        if let Some(&twin) = reserved.twins.get(&tree) {
            return Ok(twin);
        }
        let twin = self.next(&mut reserved)?;
        reserved.twins.insert(tree, twin);
        Ok(twin)
    }

    pub(crate) fn reserve_ledger(&self) -> Result<u32, WriteError> {
        let mut reserved = self.inner.lock();
        if let Some(ledger) = reserved.ledger {
            return Ok(ledger);
        }
        let ledger = self.next(&mut reserved)?;
        reserved.ledger = Some(ledger);
        Ok(ledger)
    }

    fn next(&self, reserved: &mut Reserved) -> Result<u32, WriteError> {
        if reserved.next as usize > TREES_MAX {
            return Err(WriteError::TooManyTrees);
        }
        let number = reserved.next;
        reserved.next += 1;
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
