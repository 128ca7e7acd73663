//! SQLite, its own C source compiled in: a B+tree with a write-ahead log of pages.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::{Connection, TransactionBehavior};

use super::{Durability, Failure, Key, Reader, Row, Spec, Subject, Views, Work};

/// Cached statements are looked up by their text, as every program does that does not keep them beside its connection.
const PUT: &str = "INSERT OR REPLACE INTO rows (k, v) VALUES (?1, ?2)";
const DELETE: &str = "DELETE FROM rows WHERE k = ?1";
const GET: &str = "SELECT v FROM rows WHERE k = ?1";
const RANGE: &str = "SELECT k, v FROM rows WHERE k >= ?1 ORDER BY k LIMIT ?2";

pub(super) fn spec() -> Spec {
    Spec {
        id: "sqlite",
        title: "SQLite",
        settings: "through rusqlite, bundled; WAL, `synchronous` FULL, or OFF where buffered; `WITHOUT ROWID`; prepared \
                   statements; one connection behind a lock for writing, one with a cache of its own per reader",
        open,
        open_by_reads: None,
    }
}

struct Sqlite {
    path: PathBuf,
    cache_bytes: usize,
    writer: Mutex<Writer>,
    /// Connections of readers that have gone, with their filled caches.
    idle: Mutex<Vec<Connection>>,
}

struct Writer {
    connection: Connection,
    durability: Durability,
}

fn open(folder: &Path, cache_bytes: usize) -> Result<Box<dyn Subject>, Failure> {
    let path = folder.join("sqlite");
    let connection = connect(&path, cache_bytes)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute("CREATE TABLE IF NOT EXISTS rows (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID", [])?;
    let writer = Mutex::new(Writer { connection, durability: Durability::Durable });
    Ok(Box::new(Sqlite { path, cache_bytes, writer, idle: Mutex::default() }))
}

fn connect(path: &Path, cache_bytes: usize) -> Result<Connection, Failure> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "cache_size", -i64::try_from(cache_bytes / 1024)?)?;
    Ok(connection)
}

impl Sqlite {
    fn put(&self, rows: &mut dyn Iterator<Item = Row>, durability: Durability) -> Result<(), Failure> {
        // One connection behind a lock: several connections wait in SQLite's busy handler instead, which keeps the same
        // rate by starving threads.
        let mut writer = self.writer.lock().expect("no thread panics while it holds the connection");
        if writer.durability != durability {
            let level = if durability == Durability::Durable { "FULL" } else { "OFF" };
            writer.connection.pragma_update(None, "synchronous", level)?;
            writer.durability = durability;
        }
        let tx = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut statement = tx.prepare_cached(PUT)?;
            for (key, value) in rows {
                statement.execute((&key[..], &value[..]))?;
            }
        }
        Ok(tx.commit()?)
    }
}

impl Subject for Sqlite {
    fn commit(&self, rows: &[Row], durability: Durability) -> Result<(), Failure> {
        self.put(&mut rows.iter().copied(), durability)
    }

    fn bulk_load(&self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failure> {
        self.put(rows, Durability::Durable)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), Failure> {
        let mut writer = self.writer.lock().expect("no thread panics while it holds the connection");
        let tx = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut statement = tx.prepare_cached(DELETE)?;
            for key in keys {
                statement.execute([&key[..]])?;
            }
        }
        Ok(tx.commit()?)
    }

    fn compact(&mut self) -> Result<bool, Failure> {
        let writer = self.writer.get_mut().expect("no thread panics while it holds the connection");
        writer.connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")?;
        Ok(true)
    }

    fn with_reader(&self, views: Views, work: Work<'_>) -> Result<(), Failure> {
        let idle = self.idle.lock().expect("no thread panics while it holds the list").pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path, self.cache_bytes)?,
        };
        if views == Views::One {
            connection.execute_batch("BEGIN")?;
        }
        work(&mut Statements(&connection))?;
        if views == Views::One {
            connection.execute_batch("COMMIT")?;
        }
        self.idle.lock().expect("no thread panics while it holds the list").push(connection);
        Ok(())
    }
}

/// In a transaction where somebody began one; else every statement is its own.
struct Statements<'c>(&'c Connection);

impl Reader for Statements<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        let mut statement = self.0.prepare_cached(GET)?;
        let mut rows = statement.query([&key[..]])?;
        let Some(row) = rows.next()? else { return Ok(false) };
        see(row.get_ref(0)?.as_blob()?);
        Ok(true)
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        let mut statement = self.0.prepare_cached(RANGE)?;
        let mut rows = statement.query((&from[..], i64::try_from(count)?))?;
        while let Some(row) = rows.next()? {
            see(row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
        }
        Ok(())
    }
}
