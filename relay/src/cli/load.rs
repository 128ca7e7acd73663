//! Puts documents into a collection, many to a transaction, so that loading them twice changes nothing.

use std::fmt;

use blazedb::{Database, Document, ErrorKind, Key, Patch, Row, Value};
use blazedb_wire::EncodeError;

/// Encoded bytes of rows per transaction. A replicated transaction holds 256 KiB with its operation headers; half of
/// that leaves room for them, and progress is reported often enough.
const CHUNK_BYTES: usize = 128 * 1024;

/// Records per transaction.
const CHUNK_RECORDS: usize = 512;

/// A document that is known to fit, and what identifies it.
pub(crate) struct Item {
    pub(crate) key: Option<Key>,
    document: Document,
    row_bytes: usize,
}

/// Why a document cannot become an [`Item`].
#[derive(Debug)]
pub(crate) enum ItemError {
    /// It is over a limit.
    Encode(EncodeError),
    /// It does not have the field that identifies it.
    NoId,
    /// The field that identifies it is neither text nor an integer.
    BadId,
}

impl fmt::Display for ItemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode(error) => write!(f, "{error}"),
            Self::NoId => f.write_str("the id field is missing"),
            Self::BadId => f.write_str("an id is text or an integer"),
        }
    }
}

impl Item {
    /// Checks that the document can be stored; `id_field` names the field that identifies it.
    pub(crate) fn new(document: Document, id_field: Option<&str>) -> Result<Self, ItemError> {
        let row = Row::encode(&document).map_err(ItemError::Encode)?;
        let key = match id_field.map(|field| document.get(field)) {
            None => None,
            Some(Some(Value::Text(text))) => Some(Key::Text(text.clone())),
            Some(Some(Value::I64(number))) => Some(Key::I64(*number)),
            Some(Some(Value::U64(number))) => Some(Key::U64(*number)),
            Some(Some(_)) => return Err(ItemError::BadId),
            Some(None) => return Err(ItemError::NoId),
        };
        Ok(Self { key, row_bytes: row.body().len(), document })
    }
}

/// What loading did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) unchanged: u64,
}

impl Loaded {
    /// Returns how many records are in.
    pub(crate) fn total(&self) -> u64 {
        self.inserted + self.updated + self.unchanged
    }
}

impl std::ops::AddAssign for Loaded {
    fn add_assign(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
    }
}

/// Collects items and commits them chunk by chunk.
pub(crate) struct Loader<'a> {
    db: &'a Database,
    collection: &'a str,
    chunk: Vec<Item>,
    chunk_bytes: usize,
    loaded: Loaded,
    /// Name of the local setting that says how many records are in, and how many were in before.
    mark: Option<(String, u64)>,
}

impl<'a> Loader<'a> {
    /// Starts loading into a collection.
    pub(crate) fn new(db: &'a Database, collection: &'a str) -> Self {
        Self { db, collection, chunk: Vec::new(), chunk_bytes: 0, loaded: Loaded::default(), mark: None }
    }

    /// Keeps count under a local setting, in the very transactions that load: after an interruption it says how many
    /// records are in. `before` is what it says now.
    pub(crate) fn with_mark(self, name: String, before: u64) -> Self {
        Self { mark: Some((name, before)), ..self }
    }

    /// Takes one more item; returns whether a chunk was committed on the way.
    pub(crate) fn push(&mut self, item: Item) -> Result<bool, blazedb::Error> {
        let full = self.chunk.len() == CHUNK_RECORDS || self.chunk_bytes + item.row_bytes > CHUNK_BYTES;
        let committed = full && !self.chunk.is_empty();
        if committed {
            self.finish()?;
        }
        self.chunk_bytes += item.row_bytes;
        self.chunk.push(item);
        Ok(committed)
    }

    /// Commits what is collected.
    pub(crate) fn finish(&mut self) -> Result<(), blazedb::Error> {
        let mark = self.mark.as_ref().map(|(name, before)| (name.as_str(), before + self.loaded.total()));
        self.loaded += commit(self.db, self.collection, &self.chunk, mark)?;
        self.chunk.clear();
        self.chunk_bytes = 0;
        Ok(())
    }

    /// Returns what has been committed.
    pub(crate) fn loaded(&self) -> Loaded {
        self.loaded
    }
}

/// Loads items in one transaction; in two of half the size if they are too many for one.
///
/// `mark` is the local setting that counts, and what it says before this chunk.
fn commit(
    db: &Database,
    collection: &str,
    chunk: &[Item],
    mark: Option<(&str, u64)>,
) -> Result<Loaded, blazedb::Error> {
    let outcome = db.transaction(|tx| {
        if let Some((name, before)) = mark {
            tx.set_local(name, Some(&(before + chunk.len() as u64).to_le_bytes()))?;
        }
        let records = tx.collection::<Document>(collection)?;
        let mut loaded = Loaded::default();
        for Item { key, document, .. } in chunk {
            let Some(key) = key else {
                records.insert(document)?;
                loaded.inserted += 1;
                continue;
            };
            match records.get_by_key(key.clone())? {
                None => {
                    records.put_with_key(key.clone(), document)?;
                    loaded.inserted += 1;
                }
                Some((id, present)) => {
                    let patch = difference(&present, document);
                    if patch.is_empty() {
                        loaded.unchanged += 1;
                    } else {
                        records.update(id, patch)?;
                        loaded.updated += 1;
                    }
                }
            }
        }
        Ok(loaded)
    });
    match outcome {
        Err(e) if e.kind() == ErrorKind::Limit && chunk.len() > 1 => {
            let (left, right) = chunk.split_at(chunk.len() / 2);
            let mut loaded = commit(db, collection, left, mark)?;
            let mark = mark.map(|(name, before)| (name, before + left.len() as u64));
            loaded += commit(db, collection, right, mark)?;
            Ok(loaded)
        }
        other => other,
    }
}

/// The fields of `wanted` that `present` lacks or has with another value. Fields that only `present` has stay.
fn difference(present: &Document, wanted: &Document) -> Patch {
    wanted
        .iter()
        .filter(|(name, value)| present.get(name) != Some(value))
        .fold(Patch::new(), |patch, (name, value)| patch.set(name, value))
}
