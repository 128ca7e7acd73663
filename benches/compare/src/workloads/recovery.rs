//! Opening after SIGKILL: a process fills a store to about a gigabyte, goes on writing until its log is as full as it
//! gets, and is killed in the middle of a commit; then the store is opened and the clock runs.

use std::io::{BufRead, BufReader, Write};
use std::process::Child;
use std::time::Instant;

use super::{BATCH_ROWS, Part, Rows, Task, row};
use crate::child;
use crate::measure::{Figures, Watch};
use crate::subjects::{self, Durability, Failure, Views};

/// Times `--rows`: about 1 GB in most stores' files at a million.
const TIMES_ROWS: usize = 5;
/// What the process says when its log is full.
const FULL: &str = "full";
/// Rows that fill the log of a store that does not say when it is full: 32 MiB of them, at a million rows.
const FILL_ROWS: usize = 190_000;
/// Batches that are written, and said to be, before the kill.
const BATCHES: usize = 20;

pub(super) fn run(task: &Task) -> Result<Figures, Failure> {
    let mut found = Figures::new();
    let writer =
        Task { part: Part::RecoveryWriter, subject: task.subject.clone(), folder: task.folder.clone(), ..*task };
    let mut child = Killed(child::spawn(&writer)?);
    let acknowledged = listen(&mut child.0)?;
    drop(child);

    found.insert("recovery_file_mib".into(), bytes_of(&task.folder)? as f64 / (1 << 20) as f64);
    let watch = Watch::start();
    let store = (subjects::find(&task.subject)?.open)(&task.folder, task.cache_bytes)?;
    let lap = watch.read();
    found.insert("recovery_open_ms".into(), lap.wall.as_secs_f64() * 1e3);
    found.insert("recovery_open_cpu_ms".into(), lap.cpu.as_secs_f64() * 1e3);
    let started = Instant::now();
    store.with_reader(Views::One, &mut |reader| {
        for index in [0, acknowledged - 1] {
            let (key, value) = row(index);
            let mut same = false;
            reader.get(&key, &mut |found| same = found == value)?;
            if !same {
                return Err(format!("row {index} did not survive the kill").into());
            }
        }
        Ok(())
    })?;
    found.insert("recovery_get_ms".into(), started.elapsed().as_secs_f64() * 1e3);
    Ok(found)
}

/// Killed and waited for, also where something fails before.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself, which the caller finds out by what it did not say.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns how many rows were acknowledged when enough batches had been written to the full log.
fn listen(child: &mut Child) -> Result<u64, Failure> {
    let out = child.stdout.take().ok_or("the writer has no output")?;
    let (mut acknowledged, mut batches) = (0, 0);
    let mut full = false;
    for line in BufReader::new(out).lines() {
        let line = line?;
        if line == FULL {
            full = true;
        } else {
            acknowledged = line.parse()?;
            batches += usize::from(full);
        }
        if batches == BATCHES {
            return Ok(acknowledged);
        }
    }
    Err("the writer ended before it was killed".into())
}

/// The process that will be killed.
pub(super) fn write(task: &Task) -> Result<Figures, Failure> {
    let mut out = std::io::stdout().lock();
    let mut rows = Rows::new();
    let store = (subjects::find(&task.subject)?.open)(&task.folder, task.cache_bytes)?;
    store.bulk_load(&mut rows.take(task.rows * TIMES_ROWS))?;
    store.checkpoint()?;
    let mut filled = 0;
    loop {
        let is_full = store.log_is_full().unwrap_or(filled >= task.scaled(FILL_ROWS));
        if is_full {
            break;
        }
        store.commit(&rows.take(BATCH_ROWS).collect::<Vec<_>>(), Durability::Durable)?;
        filled += BATCH_ROWS;
    }
    writeln!(out, "{FULL}")?;
    loop {
        // Few rows each, so that the log stays as full as it is.
        let some: Vec<_> = rows.take(10).collect();
        store.commit(&some, Durability::Durable)?;
        writeln!(out, "{}", rows.next)?;
        out.flush()?;
    }
}

fn bytes_of(folder: &std::path::Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_of(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
