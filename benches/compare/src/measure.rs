//! One subject, one round: single inserts, batches, and eight threads at once, each into a fresh database.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Threads of the concurrent part.
pub(crate) const THREADS: usize = 8;
/// Rows of one transaction in the batched part.
pub(crate) const BATCH_ROWS: usize = 1000;

/// How much each part inserts.
pub(crate) struct Load {
    /// Rows that are there before anything is measured.
    pub(crate) preloaded: usize,
    /// Transactions of one row, one thread.
    pub(crate) singles: usize,
    /// Transactions of [`BATCH_ROWS`] rows, one thread.
    pub(crate) batches: usize,
    /// Transactions of one row, by all threads together.
    pub(crate) concurrent: usize,
    /// Rows read back by key, one thread.
    pub(crate) reads: usize,
}

impl Load {
    pub(crate) fn scaled(percent: usize) -> Self {
        let of = |full: usize| (full * percent / 100).max(1);
        Self { preloaded: of(20_000), singles: of(4_000), batches: of(40), concurrent: of(24_000), reads: of(100_000) }
    }
}

/// A store that takes rows. All methods are called from several threads.
pub(crate) trait Table<R>: Sync {
    /// Inserts the rows in one transaction, durable when it returns.
    fn insert(&self, rows: &[R]) -> Result<(), Box<dyn Error>>;
    /// Reads one row back, whole; says whether it was there.
    fn get(&self, row: &R) -> Result<bool, Box<dyn Error>>;
}

/// A store by name, and how to open an empty one in a folder.
pub(crate) struct Subject<R> {
    pub(crate) name: &'static str,
    pub(crate) open: fn(&Path) -> Result<Box<dyn Table<R>>, Box<dyn Error>>,
    pub(crate) rows: fn(usize) -> Vec<R>,
}

/// Durations of one part.
pub(crate) struct Timing {
    pub(crate) rows: usize,
    pub(crate) elapsed: Duration,
    /// One per transaction, sorted.
    pub(crate) each: Vec<Duration>,
}

impl Timing {
    pub(crate) fn new(rows: usize, elapsed: Duration, mut each: Vec<Duration>) -> Self {
        each.sort_unstable();
        Self { rows, elapsed, each }
    }

    pub(crate) fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.elapsed.as_secs_f64()
    }

    /// The duration that this share of the transactions stayed under, in microseconds.
    pub(crate) fn percentile_us(&self, percent: usize) -> f64 {
        let index = (self.each.len() * percent / 100).min(self.each.len() - 1);
        self.each[index].as_secs_f64() * 1e6
    }
}

/// What one round says about one subject.
pub(crate) struct Outcome {
    pub(crate) single: Timing,
    pub(crate) batched: Timing,
    pub(crate) concurrent: Timing,
    pub(crate) reads: Timing,
    /// All files after the round, per row inserted.
    pub(crate) bytes_per_row: f64,
}

pub(crate) fn run<R: Sync>(subject: &Subject<R>, folder: &Path, load: &Load) -> Result<Outcome, Box<dyn Error>> {
    let total = load.preloaded + load.singles + load.batches * BATCH_ROWS + load.concurrent;
    let rows = (subject.rows)(total);
    let (preloaded, rest) = rows.split_at(load.preloaded);
    let (singles, rest) = rest.split_at(load.singles);
    let (batches, concurrent) = rest.split_at(load.batches * BATCH_ROWS);

    let table = (subject.open)(folder)?;
    for chunk in preloaded.chunks(BATCH_ROWS) {
        table.insert(chunk)?;
    }
    let single = one_by_one(singles.chunks(1), |row| table.insert(row))?;
    let batched = one_by_one(batches.chunks(BATCH_ROWS), |rows| table.insert(rows))?;
    let concurrent = by_threads(table.as_ref(), concurrent)?;
    // A stride that is prime to the number of rows visits them in no order.
    let wanted = (0..load.reads).map(|i| &rows[i * 7919 % total..][..1]);
    let reads = one_by_one(wanted, |row| match table.get(&row[0])? {
        true => Ok(()),
        false => Err(format!("{} lost a row", subject.name).into()),
    })?;
    drop(table);
    Ok(Outcome { single, batched, concurrent, reads, bytes_per_row: folder_bytes(folder)? as f64 / total as f64 })
}

fn one_by_one<'r, R: 'r>(
    chunks: impl Iterator<Item = &'r [R]>,
    mut act: impl FnMut(&[R]) -> Result<(), Box<dyn Error>>,
) -> Result<Timing, Box<dyn Error>> {
    let (mut rows, mut each) = (0, Vec::new());
    let started = Instant::now();
    for chunk in chunks {
        let before = Instant::now();
        act(chunk)?;
        each.push(before.elapsed());
        rows += chunk.len();
    }
    Ok(Timing::new(rows, started.elapsed(), each))
}

/// All threads take rows from one list until it is empty.
fn by_threads<R: Sync>(table: &dyn Table<R>, rows: &[R]) -> Result<Timing, Box<dyn Error>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Duration>, String> {
        let mut each = Vec::new();
        while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            let before = Instant::now();
            table.insert(std::slice::from_ref(row)).map_err(|error| error.to_string())?;
            each.push(before.elapsed());
        }
        Ok(each)
    };
    let started = Instant::now();
    let all = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread that panicked has said so")).collect::<Vec<_>>()
    });
    let elapsed = started.elapsed();
    let each = all.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    Ok(Timing::new(rows.len(), elapsed, each))
}

/// Bytes of all files in a folder and below.
fn folder_bytes(folder: &Path) -> Result<u64, std::io::Error> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
