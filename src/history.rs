//! How documents were: collections as of a commit or a time, and the versions of one document.
//!
//! History is kept per collection and off unless asked for ([`Collection::keep_history`]). The file remembers what was asked
//! for, keeps superseded versions beside the collection, and ends those that are too old or too many by itself. Who reads
//! the present does not pay for it.
//!
//! A document is read with the file's catalogue of shapes as it is now: numbers in it are given once.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use blazedb_engine::{History, HistoryInfo, Moment, PastView, ReadError, TreeId, Versions};
use blazedb_wire::{DocumentId, Key, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::collection::{Collection, checked_name, find_by_key};
use crate::database::Database;
use crate::inner::{Inner, commit_error};
use crate::layout;
use crate::transaction::{decode_state, from_row, live};
use crate::{Error, ErrorKind};

/// The database as it was at an earlier moment: of collections whose history is kept. See [`Database::as_of`].
///
/// It shows the same for as long as it lives, whatever is written or purged meanwhile, and holds what a view of the newest
/// state holds: pages that are superseded meanwhile stay in the file.
pub struct AsOf {
    inner: Arc<Inner>,
    view: Arc<PastView>,
}

/// The documents of one collection at an earlier moment. Reads are those of [`Collection`].
pub struct PastCollection<T> {
    inner: Arc<Inner>,
    view: Arc<PastView>,
    name: Arc<str>,
    /// `None` where there is no such collection, then or now.
    tree: Option<TreeId>,
    of: PhantomData<fn() -> T>,
}

/// A version of a document, as [`Collection::versions`] lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version<T> {
    /// The commit that wrote it; `None` where that was before everything that is kept.
    pub from: Option<u64>,
    /// When that commit was made, in milliseconds since 1970 and to a second.
    pub at_ms: Option<u64>,
    /// The commit that took its place; `None` for the newest version.
    pub until: Option<u64>,
    /// The document; `None` where there was none, before it was made or after it was deleted.
    pub document: Option<T>,
}

impl Database {
    /// Returns the number of the newest commit: what [`Moment::Commit`] can ask for later. [`crate::Commit::commit_no`] is of
    /// the same numbers.
    pub fn commit_no(&self) -> u64 {
        self.inner.store.read().commit_no()
    }

    /// Returns the database as it was at a moment. Opens no file and copies nothing; a read costs about two reads of the
    /// present, however many versions there are since.
    ///
    /// ```
    /// # use blazedb::{Database, History, Moment, Options, Patch};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Note { text: String }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let db = Database::open(dir.path().join("notes.blaze"), Options::raw_key([7; 32]))?;
    /// let notes = db.collection::<Note>("notes")?;
    /// notes.keep_history(Some(History { keep_ms: 30 * 24 * 3_600_000, keep_bytes: 64 << 20 }))?;
    /// let id = notes.insert(&Note { text: "rain".into() })?;
    /// let then = db.commit_no();
    /// notes.update(id, Patch::new().set("text", "sun"))?;
    ///
    /// let past = db.as_of(Moment::Commit(then))?.collection::<Note>("notes")?;
    /// assert_eq!(past.get(id)?.expect("it was there").text, "rain");
    /// assert_eq!(notes.versions(id)?.count(), 3, "sun, rain, and before that nothing");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::State`]: there is no such commit yet, or, of a time, no collection's history reaches back to it.
    pub fn as_of(&self, moment: Moment) -> Result<AsOf, Error> {
        let store = &self.inner.store;
        let view = match moment {
            Moment::Commit(commit_no) => store.as_of(commit_no),
            Moment::Time(wall_ms) => store.as_of_time(wall_ms),
        };
        Ok(AsOf { inner: Arc::clone(&self.inner), view: Arc::new(view.map_err(|e| past_error(None, e))?) })
    }
}

impl AsOf {
    /// Returns the number of the commit that it shows.
    pub fn commit_no(&self) -> u64 {
        self.view.commit_no()
    }

    /// Returns when that commit was made, in milliseconds since 1970 and to a second; `None` where it is not known.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn at_ms(&self) -> Result<Option<u64>, Error> {
        Ok(self.inner.store.time_of(self.commit_no())?)
    }

    /// Returns the documents of one collection, as they were.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: no history of it is kept, or it begins later. [`ErrorKind::Limit`]: a name that is empty or
    /// longer than 255 bytes.
    pub fn collection<T: Serialize + DeserializeOwned>(&self, name: &str) -> Result<PastCollection<T>, Error> {
        let name = checked_name(name)?;
        let tree = self.inner.store.read().tree(&layout::records_tree(&name))?;
        if let Some(tree) = tree {
            // Says at once that its history does not reach back.
            self.view.contains(tree, &[]).map_err(|e| past_error(Some(&name), e))?;
        }
        Ok(PastCollection { inner: Arc::clone(&self.inner), view: Arc::clone(&self.view), name, tree, of: PhantomData })
    }

    /// Returns the names of the collections that held documents then, ascending: of those whose history reaches back.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn collections(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for tree in self.inner.store.read().tree_names()? {
            let Some(name) = layout::collection_of(&tree) else { continue };
            match self.collection::<blazedb_wire::Document>(name) {
                Ok(past) if past.is_empty()? => {}
                Ok(_) => names.push(name.to_owned()),
                Err(e) if e.kind() == ErrorKind::State => {}
                Err(e) => return Err(e),
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

impl<T> PastCollection<T> {
    /// Returns the collection's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a document's fields as they were stored.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn row(&self, id: DocumentId) -> Result<Option<Row>, Error> {
        let Some(tree) = self.tree else { return Ok(None) };
        let stored = self.view.get(tree, id.as_bytes()).map_err(|e| past_error(Some(&self.name), e))?;
        Ok(live(decode_state(stored.as_ref(), &self.inner)?).map(|record| record.row))
    }

    /// Returns every document's fields as they were stored, ascending by id; as [`Collection::rows`].
    pub fn rows(&self) -> impl Iterator<Item = Result<(DocumentId, Row), Error>> + use<T> {
        let (cursor, failed) = match self.tree.map(|tree| self.view.range(tree, ..)).transpose() {
            Ok(cursor) => (cursor, None),
            Err(e) => (None, Some(Err(past_error(Some(&self.name), e)))),
        };
        let inner = Arc::clone(&self.inner);
        let rows = cursor.into_iter().flatten().filter_map(move |item| {
            let read = || -> Result<Option<(DocumentId, Row)>, Error> {
                let (key, value) = item?;
                let id = layout::document_id(&key)?;
                Ok(live(decode_state(Some(&value), &inner)?).map(|record| (id, record.row)))
            };
            read().transpose()
        });
        failed.into_iter().chain(rows)
    }

    /// Returns how many documents there were. Walks all of them.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn len(&self) -> Result<u64, Error> {
        self.rows().try_fold(0, |n, row| row.map(|_| n + 1))
    }

    /// Returns whether there was no document.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.rows().next().transpose()?.is_none())
    }
}

impl<T: Serialize + DeserializeOwned> PastCollection<T> {
    /// Returns a document as it was.
    ///
    /// # Errors
    /// [`ErrorKind::Type`] if it does not fit `T`.
    pub fn get(&self, id: DocumentId) -> Result<Option<T>, Error> {
        self.row(id)?.map(|row| from_row(&row)).transpose()
    }

    /// Returns the document that a key named then, with its id.
    ///
    /// # Errors
    /// [`ErrorKind::Type`] if it does not fit `T`.
    pub fn get_by_key(&self, key: impl Into<Key>) -> Result<Option<(DocumentId, T)>, Error> {
        let Some(tree) = self.tree else { return Ok(None) };
        let found = find_by_key(&self.inner, &self.name, &key.into(), |id| {
            self.view.get(tree, id.as_bytes()).map_err(|e| past_error(Some(&self.name), e))
        })?;
        found.map(|(id, row)| Ok((id, from_row(&row)?))).transpose()
    }

    /// Returns every document as it was, ascending by id; as [`Collection::scan`].
    pub fn scan(&self) -> impl Iterator<Item = Result<(DocumentId, T), Error>> + use<T> {
        self.rows().map(|item| item.and_then(|(id, row)| Ok((id, from_row(&row)?))))
    }
}

impl<T> Collection<T> {
    /// Says how much of this collection's history is kept, from now on; `None`: nothing, and what was kept goes. Durable
    /// when it returns. Where history is kept already, only how much is changed; the file remembers it.
    ///
    /// `keep_ms` is in milliseconds, `keep_bytes` counts the bytes of keys and values of superseded versions, and what is
    /// older than either says may go; it goes with checkpoints, so that a file that nobody writes to keeps what it has. The
    /// price: each write leaves the version before in the file, as many bytes as it had and about 40 more. Reads of the
    /// present do not pay. What stays in this file alone is history: it is not synced, and versions that other devices merge
    /// are kept like one's own.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`]: the file is read-only, or has no room for more collections (each with history counts twice).
    pub fn keep_history(&self, keep: Option<History>) -> Result<(), Error> {
        let store = &self.inner.store;
        let tree = store
            .tree(&layout::records_tree(&self.name))
            .map_err(|e| Error::with(ErrorKind::Storage, "a tree could not be opened", e))?;
        store.set_history(tree, keep).map_err(commit_error)?;
        Ok(())
    }

    /// Returns what is kept of this collection's history; `None` where nothing is.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn history(&self) -> Result<Option<HistoryInfo>, Error> {
        let store = &self.inner.store;
        let tree = store.read().tree(&layout::records_tree(&self.name))?;
        Ok(tree.map(|tree| store.history(tree)).transpose()?.flatten())
    }
}

impl<T: Serialize + DeserializeOwned> Collection<T> {
    /// Returns the versions of a document that are kept, the newest one first, deletes included. What the last one of them
    /// took the place of is the document as of the oldest commit that is kept. After an error the iterator ends; a version
    /// that does not fit `T` is an error in its own place.
    ///
    /// # Errors
    /// [`ErrorKind::State`]: no history of this collection is kept.
    pub fn versions(&self, id: DocumentId) -> Result<impl Iterator<Item = Result<Version<T>, Error>> + use<T>, Error> {
        let store = &self.inner.store;
        let off = || past_error(Some(&self.name), ReadError::HistoryOff { tree: None });
        let tree = store.read().tree(&layout::records_tree(&self.name))?.ok_or_else(off)?;
        let versions = store.versions(tree, id.as_bytes()).map_err(|e| past_error(Some(&self.name), e))?;
        let inner = Arc::clone(&self.inner);
        Ok(decoded(inner, versions))
    }
}

fn decoded<T: DeserializeOwned>(
    inner: Arc<Inner>,
    versions: Versions,
) -> impl Iterator<Item = Result<Version<T>, Error>> {
    versions.map(move |version| {
        let version = version?;
        let record = live(decode_state(version.value.as_ref(), &inner)?);
        Ok(Version {
            from: version.from,
            at_ms: version.from.map(|from| inner.store.time_of(from)).transpose()?.flatten(),
            until: version.until,
            document: record.map(|record| from_row(&record.row)).transpose()?,
        })
    })
}

/// Says of the past what a caller can do about it.
fn past_error(collection: Option<&str>, error: ReadError) -> Error {
    let of = collection.map_or_else(|| "any collection".to_owned(), |name| format!("`{name}`"));
    let text = match error {
        ReadError::HistoryOff { .. } => format!("no history of {of} is kept; begin with Collection::keep_history"),
        ReadError::HistoryGone { oldest } => {
            format!("the history of {of} does not reach back to this moment, but to commit {oldest}")
        }
        ReadError::NoSuchCommit { newest } => format!("there is no such commit yet; the newest one is {newest}"),
        error => return error.into(),
    };
    Error::with(ErrorKind::State, text, error)
}

impl fmt::Debug for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsOf").field("commit_no", &self.commit_no()).finish_non_exhaustive()
    }
}
