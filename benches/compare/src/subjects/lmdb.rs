//! LMDB, through heed: a copy-on-write B+tree in a memory map. It has no cache of its own; the system's is what it uses.
#![allow(unsafe_code, reason = "LMDB is opened on the promise that nobody else maps the file")]

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, FlagSetMode, RoTxn, WithTls};

use super::{Durability, Failure, Key, Reader, Row, Spec, Subject, Views, Work};

/// Address space that is set aside; the file grows as it is filled.
const MAP_BYTES: usize = 16 << 30;

pub(super) fn spec() -> Spec {
    Spec {
        id: "lmdb",
        title: "LMDB",
        settings: "through heed, 16 GiB map, `MDB_NOSYNC` where buffered; its cache is the system's, without a limit",
        open,
        open_by_reads: None,
    }
}

struct Lmdb {
    env: Env,
    rows: Database<Bytes, Bytes>,
    /// Whether commits sync now. Workloads change between durable and buffered commits only while one thread writes.
    syncs: AtomicBool,
}

fn open(folder: &Path, _cache_bytes: usize) -> Result<Box<dyn Subject>, Failure> {
    // SAFETY: the folder was made for this process, and no other process opens it while this one runs.
    let env = unsafe { EnvOpenOptions::new().map_size(MAP_BYTES).open(folder)? };
    let mut tx = env.write_txn()?;
    let rows = env.create_database(&mut tx, None)?;
    tx.commit()?;
    Ok(Box::new(Lmdb { env, rows, syncs: AtomicBool::new(true) }))
}

impl Lmdb {
    fn put(&self, rows: &mut dyn Iterator<Item = Row>, durability: Durability) -> Result<(), Failure> {
        let sync = durability == Durability::Durable;
        if self.syncs.load(Ordering::Relaxed) != sync {
            let mode = if sync { FlagSetMode::Disable } else { FlagSetMode::Enable };
            // SAFETY: one thread at a time, see `syncs`; and a crash in between costs nothing but a measurement.
            unsafe { self.env.set_flags(EnvFlags::NO_SYNC, mode)? };
            self.syncs.store(sync, Ordering::Relaxed);
        }
        let mut tx = self.env.write_txn()?;
        for (key, value) in rows {
            self.rows.put(&mut tx, &key, &value)?;
        }
        Ok(tx.commit()?)
    }
}

impl Subject for Lmdb {
    fn commit(&self, rows: &[Row], durability: Durability) -> Result<(), Failure> {
        self.put(&mut rows.iter().copied(), durability)
    }

    fn bulk_load(&self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failure> {
        self.put(rows, Durability::Durable)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), Failure> {
        let mut tx = self.env.write_txn()?;
        for key in keys {
            self.rows.delete(&mut tx, key)?;
        }
        Ok(tx.commit()?)
    }

    fn compact(&mut self) -> Result<bool, Failure> {
        // It can write another file, and does not make its own shorter.
        Ok(false)
    }

    fn with_reader(&self, views: Views, work: Work<'_>) -> Result<(), Failure> {
        match views {
            Views::One => work(&mut OneTransaction { rows: self.rows, tx: &self.env.read_txn()? }),
            Views::PerGet => work(&mut TransactionPerGet(self)),
        }
    }
}

struct OneTransaction<'t, 'e> {
    rows: Database<Bytes, Bytes>,
    tx: &'t RoTxn<'e, WithTls>,
}

impl Reader for OneTransaction<'_, '_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        Ok(self.rows.get(self.tx, key)?.map(see).is_some())
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        for row in self.rows.range(self.tx, &(Bound::Included(&from[..]), Bound::Unbounded))?.take(count) {
            let (key, value) = row?;
            see(key, value);
        }
        Ok(())
    }
}

struct TransactionPerGet<'l>(&'l Lmdb);

impl Reader for TransactionPerGet<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        OneTransaction { rows: self.0.rows, tx: &self.0.env.read_txn()? }.get(key, see)
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        OneTransaction { rows: self.0.rows, tx: &self.0.env.read_txn()? }.range(from, count, see)
    }
}
