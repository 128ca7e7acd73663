//! How long the files are, for what is in them: loaded in random order, overwritten at random, and after most was deleted.
//!
//! A fifth of the rows, so that all of them can be overwritten ten times by everybody. BlazeDB runs in the preset that it
//! has without being told, the one for clients: a small table is what makes a file long.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blazedb_benches::{Chance, pair, pair_key};

use super::{BATCH_ROWS, Rows, SEED, SETTLE, Task, row};
use crate::measure::Figures;
use crate::subjects::{self, CLIENT_SUBJECTS, Durability, Failure, Key, Row, Subject};

/// One row of so many of the others' sets.
const SHARE: usize = 5;
/// How often everything is overwritten.
const TIMES: usize = 10;

pub(super) fn run(task: &Task) -> Result<Figures, Failure> {
    let mut found = Figures::new();
    let count = (task.rows / SHARE).max(1);
    let payload = |rows: usize| (rows * size_of::<Row>()) as f64;

    let mut store = open(task)?;
    let mut rows = Rows::new();
    for _ in 0..count.div_ceil(BATCH_ROWS) {
        store.commit(&rows.take(BATCH_ROWS).collect::<Vec<_>>(), Durability::Durable)?;
    }
    let count = count.div_ceil(BATCH_ROWS) * BATCH_ROWS;
    drop(store);
    found.insert("space_loaded".into(), bytes_of(&task.folder)? / payload(count));

    store = open(task)?;
    let mut chance = Chance::new(1);
    let mut most = 0.0;
    for batch in 0..TIMES * count / BATCH_ROWS {
        let rows = |_| -> Row {
            let (key, _) = row(chance.below(count as u64));
            (key, pair(SEED + 1 + batch as u64, chance.below(u64::MAX)).1)
        };
        store.commit(&(0..BATCH_ROWS).map(rows).collect::<Vec<_>>(), Durability::Durable)?;
        most = f64::max(most, bytes_of(&task.folder)?);
    }
    found.insert("space_overwritten_most".into(), most / payload(count));
    std::thread::sleep(SETTLE);
    found.insert("space_overwritten".into(), bytes_of(&task.folder)? / payload(count));

    let all: Vec<Key> = (0..count as u64).map(|index| pair_key(SEED, index)).collect();
    let (tenth, rest) = all.split_at(count / 10);
    let (fifths, half) = rest.split_at(count / 2 - count / 10);
    for (deleted, left, name) in [(half, count - half.len(), "space_half"), (fifths, tenth.len(), "space_tenth")] {
        for keys in deleted.chunks(BATCH_ROWS) {
            store.delete(keys)?;
        }
        let has_compacted = store.compact()?;
        drop(store);
        if has_compacted {
            found.insert(name.into(), bytes_of(&task.folder)? / payload(left));
        } else {
            found.insert(format!("{name}_as_it_is"), bytes_of(&task.folder)? / payload(left));
        }
        store = open(task)?;
    }
    Ok(found)
}

fn open(task: &Task) -> Result<Box<dyn Subject>, Failure> {
    if CLIENT_SUBJECTS.contains(&&*task.subject) {
        subjects::open_client(&task.subject, &task.folder)
    } else {
        task.open()
    }
}

/// Bytes that the files of a folder take on the disk.
fn bytes_of(folder: &Path) -> Result<f64, Failure> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A file that its store has removed meanwhile takes nothing.
        match entry.metadata() {
            Ok(data) if data.is_dir() => bytes += bytes_of(&entry.path())? as u64,
            Ok(data) => bytes += data.blocks() * 512,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes as f64)
}
