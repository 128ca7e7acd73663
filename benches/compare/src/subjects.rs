//! The stores under comparison, each set up the way its own documentation recommends for durable writes.

use std::error::Error;
use std::path::Path;
use std::sync::Mutex;

use blazedb::{Collection, Database};
use blazedb_benches::{KEY_BYTES, Ticket, Tickets, VALUE_BYTES, pairs};
use blazedb_engine::{Env, Memory, Options, Store};
use redb::{Durability, ReadableDatabase, TableDefinition};
use rusqlite::Connection;

use crate::measure::{Subject, Table};

type Pair = ([u8; KEY_BYTES], [u8; VALUE_BYTES]);
type Failure = Box<dyn Error>;

/// A raw key: what a passphrase costs is paid once per open and is not what is measured.
const KEY: [u8; 32] = [7; 32];
/// The same rows for everybody.
const SEED: u64 = 20_260_901;
/// Page cache of the peers that have one; the data of a round fits several times over.
const CACHE_BYTES: usize = 256 << 20;

/// The same cache for the store; its table and log as on a server.
const MEMORY: Memory = Memory { cache_bytes: CACHE_BYTES, table_bytes: 32 << 20, log_bytes: 64 << 20 };

pub(crate) fn stores() -> [Subject<Pair>; 3] {
    let rows = |count| pairs(SEED).take(count).collect();
    [
        Subject { name: "Store, encrypted", open: |folder| open_store(folder, Options::raw_key(KEY)), rows },
        Subject { name: "Store, unencrypted", open: |folder| open_store(folder, Options::unencrypted()), rows },
        Subject { name: "redb", open: open_redb, rows },
    ]
}

pub(crate) fn documents() -> [Subject<Ticket>; 3] {
    let rows = |count| Tickets::new(SEED).take(count).collect();
    [
        Subject {
            name: "Collection, encrypted",
            open: |folder| open_collection(folder, blazedb::Options::raw_key(KEY)),
            rows,
        },
        Subject {
            name: "Collection, unencrypted",
            open: |folder| open_collection(folder, blazedb::Options::unencrypted()),
            rows,
        },
        Subject { name: "SQLite, JSON column", open: open_sqlite, rows },
    ]
}

fn open_store(folder: &Path, options: Options) -> Result<Box<dyn Table<Pair>>, Failure> {
    Ok(Box::new(Store::open(Env::file(folder.join("store.blaze")), options.memory(MEMORY))?))
}

impl Table<Pair> for Store {
    fn insert(&self, rows: &[Pair]) -> Result<(), Failure> {
        let mut tx = self.write();
        let tree = tx.tree("pairs")?;
        for (key, value) in rows {
            tx.put(tree, key, value)?;
        }
        tx.commit()?;
        Ok(())
    }

    fn get(&self, (key, value): &Pair) -> Result<bool, Failure> {
        let view = self.read();
        let Some(tree) = view.tree("pairs")? else {
            return Ok(false);
        };
        Ok(view.get(tree, key)?.is_some_and(|found| found == value.as_slice()))
    }
}

const PAIRS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("pairs");

fn open_redb(folder: &Path) -> Result<Box<dyn Table<Pair>>, Failure> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    Ok(Box::new(builder.create(folder.join("redb"))?))
}

impl Table<Pair> for redb::Database {
    fn insert(&self, rows: &[Pair]) -> Result<(), Failure> {
        let mut tx = self.begin_write()?;
        tx.set_durability(Durability::Immediate)?;
        {
            let mut table = tx.open_table(PAIRS)?;
            for (key, value) in rows {
                table.insert(key.as_slice(), value.as_slice())?;
            }
        }
        tx.commit()?;
        Ok(())
    }

    fn get(&self, (key, value): &Pair) -> Result<bool, Failure> {
        let table = self.begin_read()?.open_table(PAIRS)?;
        Ok(table.get(key.as_slice())?.is_some_and(|found| found.value() == value.as_slice()))
    }
}

/// A collection and its database: dropping the last handle closes the file.
struct Tracker {
    database: Database,
    tickets: Collection<Ticket>,
}

fn open_collection(folder: &Path, options: blazedb::Options) -> Result<Box<dyn Table<Ticket>>, Failure> {
    let database = Database::open(folder.join("tickets.blaze"), options)?;
    let tickets = database.collection("tickets")?;
    Ok(Box::new(Tracker { database, tickets }))
}

impl Table<Ticket> for Tracker {
    fn insert(&self, rows: &[Ticket]) -> Result<(), Failure> {
        if let [ticket] = rows {
            self.tickets.insert_with_key(ticket.id.as_str(), ticket)?;
            return Ok(());
        }
        self.database.transaction(|tx| {
            let tickets = tx.collection::<Ticket>("tickets")?;
            for ticket in rows {
                tickets.insert_with_key(ticket.id.as_str(), ticket)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    fn get(&self, ticket: &Ticket) -> Result<bool, Failure> {
        Ok(self.tickets.get_by_key(ticket.id.as_str())?.is_some_and(|(_, found)| found == *ticket))
    }
}

/// One connection behind a lock: several connections wait in SQLite's busy handler instead, which keeps the same rate
/// by starving threads.
struct Sqlite(Mutex<Connection>);

fn open_sqlite(folder: &Path) -> Result<Box<dyn Table<Ticket>>, Failure> {
    let connection = Connection::open(folder.join("sqlite"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -((CACHE_BYTES / 1024) as i64))?;
    connection.execute("CREATE TABLE tickets (id TEXT PRIMARY KEY, document TEXT NOT NULL)", [])?;
    Ok(Box::new(Sqlite(Mutex::new(connection))))
}

impl Table<Ticket> for Sqlite {
    fn insert(&self, rows: &[Ticket]) -> Result<(), Failure> {
        let mut connection = self.0.lock().expect("no thread panics while it holds the connection");
        let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut statement = tx.prepare_cached("INSERT INTO tickets (id, document) VALUES (?1, ?2)")?;
            for ticket in rows {
                statement.execute((&ticket.id, serde_json::to_string(ticket)?))?;
            }
        }
        tx.commit()?;
        Ok(())
    }

    fn get(&self, ticket: &Ticket) -> Result<bool, Failure> {
        let connection = self.0.lock().expect("no thread panics while it holds the connection");
        let mut statement = connection.prepare_cached("SELECT document FROM tickets WHERE id = ?1")?;
        let found = statement.query_row([&ticket.id], |row| {
            Ok(serde_json::from_str::<Ticket>(row.get_ref(0)?.as_str()?).ok().as_ref() == Some(ticket))
        })?;
        Ok(found)
    }
}
