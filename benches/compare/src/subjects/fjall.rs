//! fjall: a log-structured merge tree in Rust.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _, Snapshot};

use super::{Durability, Failure, Key, Reader, Row, Spec, Subject, Views, Work};

/// Rows of a batch of the bulk load.
const LOAD_ROWS: usize = 100_000;

pub(super) fn spec() -> Spec {
    Spec {
        id: "fjall",
        title: "fjall",
        settings: "batches with `PersistMode::SyncData`, or `Buffer` where buffered; no compression; 64 MiB memtable, \
                   its default",
        open,
        open_by_reads: None,
    }
}

struct Fjall {
    database: Database,
    rows: Keyspace,
}

fn open(folder: &Path, cache_bytes: usize) -> Result<Box<dyn Subject>, Failure> {
    let database = Database::builder(folder).cache_size(cache_bytes as u64).open()?;
    let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
    Ok(Box::new(Fjall { database, rows }))
}

impl Fjall {
    fn put(&self, rows: impl ExactSizeIterator<Item = Row>, mode: PersistMode) -> Result<(), Failure> {
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), rows.len()).durability(Some(mode));
        for (key, value) in rows {
            batch.insert(&self.rows, key, value);
        }
        Ok(batch.commit()?)
    }
}

impl Subject for Fjall {
    fn commit(&self, rows: &[Row], durability: Durability) -> Result<(), Failure> {
        let mode = match durability {
            Durability::Durable => PersistMode::SyncData,
            Durability::Buffered => PersistMode::Buffer,
        };
        self.put(rows.iter().copied(), mode)
    }

    fn bulk_load(&self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failure> {
        loop {
            let some: Vec<Row> = (&mut *rows).take(LOAD_ROWS).collect();
            if some.is_empty() {
                return Ok(self.database.persist(PersistMode::SyncData)?);
            }
            self.put(some.into_iter(), PersistMode::Buffer)?;
        }
    }

    fn delete(&self, keys: &[Key]) -> Result<(), Failure> {
        let batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), keys.len());
        let mut batch = batch.durability(Some(PersistMode::SyncData));
        keys.iter().for_each(|key| batch.remove(&self.rows, key));
        Ok(batch.commit()?)
    }

    fn compact(&mut self) -> Result<bool, Failure> {
        self.rows.rotate_memtable_and_wait()?;
        self.rows.major_compact()?;
        Ok(true)
    }

    fn with_reader(&self, views: Views, work: Work<'_>) -> Result<(), Failure> {
        match views {
            Views::One => work(&mut OneSnapshot { rows: &self.rows, snapshot: self.database.snapshot() }),
            Views::PerGet => work(&mut SnapshotPerGet(self)),
        }
    }
}

struct OneSnapshot<'f> {
    rows: &'f Keyspace,
    snapshot: Snapshot,
}

impl Reader for OneSnapshot<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        Ok(self.snapshot.get(self.rows, key)?.map(|value| see(&value)).is_some())
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        for row in self.snapshot.range(self.rows, from.as_slice()..).take(count) {
            let (key, value) = row.into_inner()?;
            see(&key, &value);
        }
        Ok(())
    }
}

struct SnapshotPerGet<'f>(&'f Fjall);

impl Reader for SnapshotPerGet<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        OneSnapshot { rows: &self.0.rows, snapshot: self.0.database.snapshot() }.get(key, see)
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        OneSnapshot { rows: &self.0.rows, snapshot: self.0.database.snapshot() }.range(from, count, see)
    }
}
