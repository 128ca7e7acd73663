//! `Collection` beside what one writes by hand: SQLite with a JSON column. Documents of ten fields, about 370 bytes as
//! JSON, found by the key that the application gave them.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blazedb::{Collection, Database};
use blazedb_benches::{Ticket, Tickets};
use rusqlite::{Connection, TransactionBehavior};

use crate::measure::{Figures, percentile_us};
use crate::subjects::Failure;
use crate::workloads::{BATCH_ROWS, Task};

/// A raw key: what a passphrase costs is paid once per open and is not what is measured.
const KEY: [u8; 32] = [7; 32];
/// The same documents for everybody.
const SEED: u64 = 20_260_901;
/// Threads of the concurrent part.
const THREADS: usize = 8;

/// (id, title).
pub(crate) const SUBJECTS: [(&str, &str); 3] = [
    ("collection", "Collection"),
    ("collection-plain", "Collection, unencrypted"),
    ("sqlite-json", "SQLite, JSON column"),
];

trait Documents: Sync {
    /// Inserts the documents in one transaction, durable when it returns.
    fn insert(&self, documents: &[Ticket]) -> Result<(), Failure>;
    /// Reads one document back, whole; says whether it is the same.
    fn get(&self, document: &Ticket) -> Result<bool, Failure>;
}

fn open(task: &Task) -> Result<Box<dyn Documents>, Failure> {
    let folder = &task.folder;
    match task.subject.as_str() {
        "collection" => open_collection(folder, blazedb::Options::raw_key(KEY)),
        "collection-plain" => open_collection(folder, blazedb::Options::unencrypted()),
        "sqlite-json" => open_sqlite(folder, task.cache_bytes),
        other => Err(format!("no subject is called {other}").into()),
    }
}

pub(crate) fn run(task: &Task) -> Result<Figures, Failure> {
    let (preloaded, singles, batches) = (task.scaled(20_000), task.scaled(4000), task.scaled(40) * BATCH_ROWS);
    let (concurrent, gets) = (task.scaled(24_000), task.scaled(100_000));
    let all: Vec<Ticket> = Tickets::new(SEED).take(preloaded + singles + batches + concurrent).collect();
    let (first, rest) = all.split_at(preloaded);
    let (singles, rest) = rest.split_at(singles);
    let (batches, concurrent) = rest.split_at(batches);

    let mut found = Figures::new();
    let table = open(task)?;
    for chunk in first.chunks(BATCH_ROWS) {
        table.insert(chunk)?;
    }
    let mut part = |name: &str, rows: usize, elapsed: Duration, mut each: Vec<Duration>| {
        found.insert(name.to_owned(), rows as f64 / elapsed.as_secs_f64());
        found.insert(format!("{name}_p50_us"), percentile_us(&mut each, 50));
        found.insert(format!("{name}_p99_us"), percentile_us(&mut each, 99));
    };
    let (elapsed, each) = one_by_one(singles.chunks(1), |some| table.insert(some))?;
    part("single", singles.len(), elapsed, each);
    let (elapsed, each) = one_by_one(batches.chunks(BATCH_ROWS), |some| table.insert(some))?;
    part("batch", batches.len(), elapsed, each);
    let (elapsed, each) = by_threads(&*table, concurrent)?;
    part("threads", concurrent.len(), elapsed, each);
    // A stride that is prime to the number of documents visits them in no order.
    let wanted = (0..gets).map(|i| &all[i * 7919 % all.len()..][..1]);
    let (elapsed, each) = one_by_one(wanted, |some| match table.get(&some[0])? {
        true => Ok(()),
        false => Err("a document is missing".into()),
    })?;
    part("get", gets, elapsed, each);
    Ok(found)
}

fn one_by_one<'d>(
    chunks: impl Iterator<Item = &'d [Ticket]>,
    mut act: impl FnMut(&[Ticket]) -> Result<(), Failure>,
) -> Result<(Duration, Vec<Duration>), Failure> {
    let mut each = Vec::new();
    let started = Instant::now();
    for chunk in chunks {
        let before = Instant::now();
        act(chunk)?;
        each.push(before.elapsed());
    }
    Ok((started.elapsed(), each))
}

/// All threads take documents from one list until it is empty.
fn by_threads(table: &dyn Documents, documents: &[Ticket]) -> Result<(Duration, Vec<Duration>), Failure> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Duration>, Failure> {
        let mut each = Vec::new();
        while let Some(document) = documents.get(next.fetch_add(1, Ordering::Relaxed)) {
            let before = Instant::now();
            table.insert(std::slice::from_ref(document))?;
            each.push(before.elapsed());
        }
        Ok(each)
    };
    let started = Instant::now();
    let each = std::thread::scope(|scope| {
        let all: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let mut each = Vec::new();
        for one in all {
            each.extend(one.join().expect("a thread that panicked has said so")?);
        }
        Ok::<_, Failure>(each)
    })?;
    Ok((started.elapsed(), each))
}

/// A collection and its database: dropping the last handle closes the file.
struct Tracker {
    database: Database,
    tickets: Collection<Ticket>,
}

fn open_collection(folder: &Path, options: blazedb::Options) -> Result<Box<dyn Documents>, Failure> {
    let database = Database::open(folder.join("tickets.blaze"), options)?;
    let tickets = database.collection("tickets")?;
    Ok(Box::new(Tracker { database, tickets }))
}

impl Documents for Tracker {
    fn insert(&self, documents: &[Ticket]) -> Result<(), Failure> {
        if let [ticket] = documents {
            self.tickets.insert_with_key(ticket.id.as_str(), ticket)?;
            return Ok(());
        }
        self.database.transaction(|tx| {
            let tickets = tx.collection::<Ticket>("tickets")?;
            for ticket in documents {
                tickets.insert_with_key(ticket.id.as_str(), ticket)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    fn get(&self, document: &Ticket) -> Result<bool, Failure> {
        Ok(self.tickets.get_by_key(document.id.as_str())?.is_some_and(|(_, found)| found == *document))
    }
}

/// One connection behind a lock: several connections wait in SQLite's busy handler instead, which keeps the same rate
/// by starving threads.
struct Sqlite(Mutex<Connection>);

fn open_sqlite(folder: &Path, cache_bytes: usize) -> Result<Box<dyn Documents>, Failure> {
    let connection = Connection::open(folder.join("sqlite"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -i64::try_from(cache_bytes / 1024)?)?;
    connection.execute("CREATE TABLE tickets (id TEXT PRIMARY KEY, document TEXT NOT NULL)", [])?;
    Ok(Box::new(Sqlite(Mutex::new(connection))))
}

impl Documents for Sqlite {
    fn insert(&self, documents: &[Ticket]) -> Result<(), Failure> {
        let mut connection = self.0.lock().expect("no thread panics while it holds the connection");
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut statement = tx.prepare_cached("INSERT INTO tickets (id, document) VALUES (?1, ?2)")?;
            for ticket in documents {
                statement.execute((&ticket.id, serde_json::to_string(ticket)?))?;
            }
        }
        Ok(tx.commit()?)
    }

    fn get(&self, document: &Ticket) -> Result<bool, Failure> {
        let connection = self.0.lock().expect("no thread panics while it holds the connection");
        let mut statement = connection.prepare_cached("SELECT document FROM tickets WHERE id = ?1")?;
        let found = statement.query_row([&document.id], |row| {
            Ok(serde_json::from_str::<Ticket>(row.get_ref(0)?.as_str()?).ok().as_ref() == Some(document))
        })?;
        Ok(found)
    }
}
