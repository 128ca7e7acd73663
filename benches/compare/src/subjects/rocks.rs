//! RocksDB: a log-structured merge tree in C++.

use std::path::Path;

use rocksdb::{BlockBasedOptions, Cache, DB, Options, SnapshotWithThreadMode, WriteBatch, WriteOptions};

use super::{Durability, Failure, Key, Reader, Row, Spec, Subject, Views, Work};

/// Rows of a batch of the bulk load.
const LOAD_ROWS: usize = 100_000;

pub(super) fn spec() -> Spec {
    Spec {
        id: "rocksdb",
        title: "RocksDB",
        settings: "log synced at each commit, or not where buffered; bloom filters of 10 bits, LRU cache, no compression, 64 MiB \
                   memtable, its default",
        open,
        open_by_reads: None,
    }
}

fn open(folder: &Path, cache_bytes: usize) -> Result<Box<dyn Subject>, Failure> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(cache_bytes));
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.increase_parallelism(i32::try_from(std::thread::available_parallelism()?.get())?);
    Ok(Box::new(DB::open(&options, folder)?))
}

fn put(database: &DB, rows: impl Iterator<Item = Row>, sync: bool) -> Result<(), Failure> {
    let mut batch = WriteBatch::default();
    for (key, value) in rows {
        batch.put(key, value);
    }
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    Ok(database.write_opt(batch, &options)?)
}

impl Subject for DB {
    fn commit(&self, rows: &[Row], durability: Durability) -> Result<(), Failure> {
        put(self, rows.iter().copied(), durability == Durability::Durable)
    }

    fn bulk_load(&self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failure> {
        let mut rows = rows.peekable();
        while rows.peek().is_some() {
            put(self, rows.by_ref().take(LOAD_ROWS), false)?;
        }
        Ok(self.flush_wal(true)?)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), Failure> {
        let mut batch = WriteBatch::default();
        keys.iter().for_each(|key| batch.delete(key));
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.write_opt(batch, &options)?)
    }

    fn compact(&mut self) -> Result<bool, Failure> {
        self.flush()?;
        self.compact_range::<&[u8], &[u8]>(None, None);
        Ok(true)
    }

    fn with_reader(&self, views: Views, work: Work<'_>) -> Result<(), Failure> {
        match views {
            Views::One => work(&mut OneSnapshot { snapshot: self.snapshot() }),
            Views::PerGet => work(&mut NewestPerGet(self)),
        }
    }
}

struct OneSnapshot<'d> {
    snapshot: SnapshotWithThreadMode<'d, DB>,
}

impl Reader for OneSnapshot<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        Ok(self.snapshot.get_pinned(key)?.map(|value| see(&value)).is_some())
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        walk(self.snapshot.raw_iterator(), from, count, see)
    }
}

/// What a get without a snapshot sees is one moment, too.
struct NewestPerGet<'d>(&'d DB);

impl Reader for NewestPerGet<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        Ok(self.0.get_pinned(key)?.map(|value| see(&value)).is_some())
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        walk(self.0.raw_iterator(), from, count, see)
    }
}

fn walk(
    mut rows: rocksdb::DBRawIterator<'_>,
    from: &Key,
    count: usize,
    see: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<(), Failure> {
    rows.seek(from);
    for _ in 0..count {
        let Some((key, value)) = rows.item() else { break };
        see(key, value);
        rows.next();
    }
    Ok(rows.status()?)
}
