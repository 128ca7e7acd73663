//! `Collection`: the documents of one name, typed or not; each call is a transaction of its own.

use std::marker::PhantomData;
use std::sync::Arc;

use blazedb_engine::{Durability, ReadView, limits};
use blazedb_sync::DocState;
use blazedb_wire::{DocumentId, Key, Row};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::inner::{Inner, no_entropy};
use crate::layout::{self, COLLECTION_NAME_BYTES_MAX};
use crate::transaction::{Draft, decode_state, from_row, live, to_row};
use crate::{Error, ErrorKind, Patch};

/// Bytes of rows that one transaction of [`Collection::insert_many`] gathers; below the size of a batch, so that each
/// chunk replicates as one transaction.
const CHUNK_BYTES: usize = 128 * 1024;

/// Documents that one transaction of [`Collection::insert_many`] gathers at most.
const CHUNK_DOCUMENTS: usize = 1000;

/// Times that a single call runs again when another transaction was faster.
pub(crate) const ATTEMPTS: usize = limits::ATTEMPTS_MAX;

/// The documents of one collection. Cheap to clone; may be used from many threads at once.
///
/// `T` is any type that serde can write and read; `Collection<Document>` gives documents without a type.
pub struct Collection<T> {
    pub(crate) inner: Arc<Inner>,
    pub(crate) name: Arc<str>,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), name: Arc::clone(&self.name), of: PhantomData }
    }
}

pub(crate) fn checked_name(name: &str) -> Result<Arc<str>, Error> {
    if name.is_empty() || name.len() > COLLECTION_NAME_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Limit,
            format!("a collection's name has 1 to {COLLECTION_NAME_BYTES_MAX} bytes, this one has {}", name.len()),
        ));
    }
    Ok(name.into())
}

/// Makes a time-ordered id.
pub(crate) fn fresh_id(inner: &Inner) -> Result<DocumentId, Error> {
    let mut random = [0; 10];
    inner.env.entropy.public(&mut random).map_err(no_entropy)?;
    Ok(DocumentId::v7(inner.env.clock.wall_ms(), random))
}

/// Finds the document that a key names: the first of its ids that was not deleted for good.
pub(crate) fn find_by_key(
    inner: &Inner,
    name: &str,
    key: &Key,
    get: impl Fn(DocumentId) -> Result<Option<Bytes>, Error>,
) -> Result<Option<(DocumentId, Row)>, Error> {
    for generation in 0..=u32::MAX {
        let id = DocumentId::for_key(name, key, generation);
        match decode_state(get(id)?.as_ref(), inner)? {
            DocState::Dead(_) => {}
            DocState::Live(record) => return Ok(Some((id, record.row))),
            DocState::Absent => return Ok(None),
        }
    }
    Ok(None)
}

/// Runs `body` in a transaction and again when another one was faster.
pub(crate) fn transact<R>(
    inner: &Inner,
    durability: Durability,
    mut body: impl FnMut(Draft<'_>) -> Result<(R, Draft<'_>), Error>,
) -> Result<R, Error> {
    for attempt in 1.. {
        let (result, draft) = body(Draft::begin(inner)?)?;
        match draft.commit(durability) {
            Ok(_) => return Ok(result),
            Err(e) if e.is_conflict() && attempt < ATTEMPTS => inner.wait_for_winner(attempt),
            Err(e) => return Err(e),
        }
    }
    unreachable!("the loop ends by returning")
}

impl<T> Collection<T> {
    /// Returns the collection's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a document's fields as they are stored.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn row(&self, id: DocumentId) -> Result<Option<Row>, Error> {
        self.row_in(&self.inner.store.read(), id)
    }

    fn row_in(&self, view: &ReadView, id: DocumentId) -> Result<Option<Row>, Error> {
        let stored = match view.tree(&layout::records_tree(&self.name))? {
            Some(tree) => view.get(tree, id.as_bytes())?,
            None => None,
        };
        Ok(live(decode_state(stored.as_ref(), &self.inner)?).map(|record| record.row))
    }

    /// Returns every document's fields as they are stored, ascending by id, as of now. After an error of the store the
    /// iterator ends; a document that does not decode is an error in its own place, and those after it follow.
    pub fn rows(&self) -> impl Iterator<Item = Result<(DocumentId, Row), Error>> + use<T> {
        let view = self.inner.store.read();
        let inner = Arc::clone(&self.inner);
        let (cursor, failed) = match view.tree(&layout::records_tree(&self.name)) {
            Ok(tree) => (tree.map(|tree| view.range(tree, ..)), None),
            Err(e) => (None, Some(Err(e))),
        };
        failed.into_iter().chain(cursor.into_iter().flatten()).filter_map(move |item| {
            let read = || -> Result<Option<(DocumentId, Row)>, Error> {
                let (key, value) = item?;
                let id = layout::document_id(&key)?;
                Ok(live(decode_state(Some(&value), &inner)?).map(|record| (id, record.row)))
            };
            read().transpose()
        })
    }

    /// Returns how many documents there are. Walks all of them.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn len(&self) -> Result<u64, Error> {
        self.rows().try_fold(0, |n, row| row.map(|_| n + 1))
    }

    /// Returns whether there is no document.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.rows().next().transpose()?.is_none())
    }

    /// Deletes a document; returns false if there is no such document.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn delete(&self, id: DocumentId) -> Result<bool, Error> {
        transact(&self.inner, Durability::Durable, |mut draft| Ok((draft.delete(&self.name, id)?, draft)))
    }
}

impl<T: Serialize + DeserializeOwned> Collection<T> {
    pub(crate) fn new(inner: Arc<Inner>, name: &str) -> Result<Self, Error> {
        Ok(Self { inner, name: checked_name(name)?, of: PhantomData })
    }

    /// Inserts a document under a fresh, time-ordered id. Durable when it returns.
    ///
    /// # Errors
    /// A document that does not fit the format or its limits.
    pub fn insert(&self, document: &T) -> Result<DocumentId, Error> {
        let id = fresh_id(&self.inner)?;
        self.insert_with_id(id, document).map(|()| id)
    }

    /// Inserts a document under an id of the caller's choice.
    ///
    /// # Errors
    /// [`ErrorKind::Key`] if a document with that id exists or was deleted.
    pub fn insert_with_id(&self, id: DocumentId, document: &T) -> Result<(), Error> {
        let row = to_row(document)?;
        transact(&self.inner, Durability::Durable, |mut draft| {
            draft.create(&self.name, id, row.clone())?;
            Ok(((), draft))
        })
    }

    /// Inserts many documents, in transactions of up to 1,000 documents or 128 KiB; returns their ids.
    ///
    /// # Errors
    /// The first document that does not fit; the transactions before it stay.
    pub fn insert_many<'t>(&self, documents: impl IntoIterator<Item = &'t T>) -> Result<Vec<DocumentId>, Error>
    where
        T: 't,
    {
        let mut ids = Vec::new();
        let mut chunk: Vec<(DocumentId, Row)> = Vec::new();
        let mut bytes = 0;
        for document in documents {
            let row = to_row(document)?;
            let row_bytes = row.body().len() + row.shape().encoded_len();
            if !chunk.is_empty() && (chunk.len() >= CHUNK_DOCUMENTS || bytes + row_bytes > CHUNK_BYTES) {
                self.insert_chunk(&mut chunk, &mut ids)?;
                bytes = 0;
            }
            bytes += row_bytes;
            chunk.push((fresh_id(&self.inner)?, row));
        }
        self.insert_chunk(&mut chunk, &mut ids)?;
        Ok(ids)
    }

    fn insert_chunk(&self, chunk: &mut Vec<(DocumentId, Row)>, ids: &mut Vec<DocumentId>) -> Result<(), Error> {
        transact(&self.inner, Durability::Durable, |mut draft| {
            for (id, row) in chunk.iter() {
                draft.create(&self.name, *id, row.clone())?;
            }
            Ok(((), draft))
        })?;
        ids.extend(chunk.drain(..).map(|(id, _)| id));
        Ok(())
    }

    /// Inserts a document under a key of the caller's choice. The same key on two devices is one document, merged.
    ///
    /// The key itself is not stored: keep it in a field of the document if you want to read it back.
    ///
    /// # Errors
    /// [`ErrorKind::Key`] if the key is in use.
    pub fn insert_with_key(&self, key: impl Into<Key>, document: &T) -> Result<DocumentId, Error> {
        let (key, row) = (key.into(), to_row(document)?);
        transact(&self.inner, Durability::Durable, |mut draft| {
            let (id, used) = draft.resolve(&self.name, &key)?;
            if used {
                return Err(Error::new(
                    ErrorKind::Key,
                    format!("the key is in use in `{}`; use put_with_key to insert or replace", self.name),
                ));
            }
            draft.create(&self.name, id, row.clone())?;
            Ok((id, draft))
        })
    }

    /// Inserts a document under a key, or replaces the fields of the one that is there.
    ///
    /// # Errors
    /// A document that does not fit the format or its limits.
    pub fn put_with_key(&self, key: impl Into<Key>, document: &T) -> Result<DocumentId, Error> {
        let (key, row) = (key.into(), to_row(document)?);
        transact(&self.inner, Durability::Durable, |mut draft| {
            let (id, used) = draft.resolve(&self.name, &key)?;
            if used {
                draft.replace(&self.name, id, row.clone())?;
            } else {
                draft.create(&self.name, id, row.clone())?;
            }
            Ok((id, draft))
        })
    }

    /// Returns a document.
    ///
    /// # Errors
    /// [`ErrorKind::Type`] if it does not fit `T`.
    pub fn get(&self, id: DocumentId) -> Result<Option<T>, Error> {
        self.row(id)?.map(|row| from_row(&row)).transpose()
    }

    /// Returns the document that a key names now, with its id.
    ///
    /// # Errors
    /// [`ErrorKind::Type`] if it does not fit `T`.
    pub fn get_by_key(&self, key: impl Into<Key>) -> Result<Option<(DocumentId, T)>, Error> {
        let key = key.into();
        let view = self.inner.store.read();
        let Some(tree) = view.tree(&layout::records_tree(&self.name))? else { return Ok(None) };
        let found = find_by_key(&self.inner, &self.name, &key, |id| Ok(view.get(tree, id.as_bytes())?))?;
        found.map(|(id, row)| Ok((id, from_row(&row)?))).transpose()
    }

    /// Writes the fields that the patch names; returns false if there is no such document.
    ///
    /// # Errors
    /// A value that does not fit the format or its limits.
    pub fn update(&self, id: DocumentId, patch: Patch) -> Result<bool, Error> {
        let fields = patch.into_fields()?;
        transact(&self.inner, Durability::Durable, |mut draft| {
            Ok((draft.update(&self.name, id, Patch::of(fields.clone()))?, draft))
        })
    }

    /// Replaces a document, writing the fields that differ and removing those that are gone; returns false if there is
    /// no such document.
    ///
    /// # Errors
    /// A document that does not fit the format or its limits.
    pub fn replace(&self, id: DocumentId, document: &T) -> Result<bool, Error> {
        let row = to_row(document)?;
        transact(&self.inner, Durability::Durable, |mut draft| Ok((draft.replace(&self.name, id, row.clone())?, draft)))
    }

    /// Returns every document, ascending by id, as of now. After an error of the store the iterator ends; a document
    /// that does not fit `T` is an error in its own place, and those after it follow.
    pub fn scan(&self) -> impl Iterator<Item = Result<(DocumentId, T), Error>> + use<T> {
        self.rows().map(|item| item.and_then(|(id, row)| Ok((id, from_row(&row)?))))
    }
}
