//! What encryption costs: both kinds of store in one process take turns of the same work, so that a processor or a disk
//! that slows down slows both down. Ratios of a few percent need that.

use super::speed::{COLD_CACHE_BYTES, commit_each, read_all};
use super::{Keys, Rows, SETTLE, Task, get_some};
use crate::measure::{Figures, Lap, Watch};
use crate::subjects::{self, Durability, ENCRYPTED, Failure, Reader, Subject, UNENCRYPTED, Views};

/// How often both take turns.
const TURNS: usize = 10;

/// Encrypted and not.
type Both<T> = [T; 2];
type WorkOfBoth<'a> = &'a mut dyn FnMut(Both<&mut dyn Reader>) -> Result<(), Failure>;

pub(super) fn run(task: &Task) -> Result<Figures, Failure> {
    let mut found = Figures::new();
    let specs = [subjects::find(ENCRYPTED)?, subjects::find(UNENCRYPTED)?];
    let folders = [task.folder.join(ENCRYPTED), task.folder.join(UNENCRYPTED)];
    for folder in &folders {
        std::fs::create_dir(folder)?;
    }
    {
        let stores = [(specs[0].open)(&folders[0], task.cache_bytes)?, (specs[1].open)(&folders[1], task.cache_bytes)?];
        let stores = [&*stores[0], &*stores[1]];
        for store in stores {
            store.bulk_load(&mut Rows::new().take(task.rows))?;
            store.checkpoint()?;
        }
        std::thread::sleep(SETTLE);
        commits(task, stores, &mut found)?;
    }
    // Without encryption pages are read through the map by default. What that is worth is another question than what
    // encryption costs, so the same is asked with positioned reads into the cache, as encrypted pages are read.
    let by_reads = specs[1].open_by_reads.ok_or("the unencrypted store can be read in two ways")?;
    for (way, open_plain) in [("", by_reads), ("_to_map", specs[1].open)] {
        for (cache_bytes, name, gets) in
            [(task.cache_bytes, "get", task.rows / 2), (COLD_CACHE_BYTES, "cold", task.scaled(100_000))]
        {
            let stores = [(specs[0].open)(&folders[0], cache_bytes)?, open_plain(&folders[1], cache_bytes)?];
            let mut both = |readers: Both<&mut dyn Reader>| {
                let laps = gets_in_turns(readers, task.rows, gets)?;
                let times = laps[0].wall.as_secs_f64() / laps[1].wall.as_secs_f64();
                found.insert(format!("encryption_{name}{way}"), times);
                Ok(())
            };
            with_readers([&*stores[0], &*stores[1]], &mut both)?;
        }
    }
    Ok(found)
}

fn commits(task: &Task, stores: Both<&dyn Subject>, found: &mut Figures) -> Result<(), Failure> {
    let per_turn = task.scaled(5000).div_ceil(TURNS);
    let mut laps = [Lap::default(); 2];
    let mut rows = [Rows::new(), Rows::new()];
    for rows in &mut rows {
        // Those that are there.
        drop(rows.take(task.rows));
    }
    for turn in 0..TURNS {
        for of in in_turn(turn) {
            let lap = commit_each(stores[of], &mut rows[of], per_turn, Durability::Durable, &mut Vec::new())?;
            laps[of].add(lap);
        }
    }
    found.insert("encryption_commit".into(), laps[1].wall.as_secs_f64() / laps[0].wall.as_secs_f64());
    found.insert("encryption_commit_cpu".into(), laps[0].cpu.as_secs_f64() / laps[1].cpu.as_secs_f64());
    Ok(())
}

/// Who goes first changes with every turn.
fn in_turn(turn: usize) -> Both<usize> {
    if turn.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

fn with_readers(stores: Both<&dyn Subject>, work: WorkOfBoth<'_>) -> Result<(), Failure> {
    stores[0]
        .with_reader(Views::One, &mut |one| stores[1].with_reader(Views::One, &mut |other| work([&mut *one, other])))
}

fn gets_in_turns(mut readers: Both<&mut dyn Reader>, count: usize, gets: usize) -> Result<Both<Lap>, Failure> {
    let mut laps = [Lap::default(); 2];
    for reader in readers.iter_mut() {
        read_all(&mut **reader, count)?;
    }
    for turn in 0..TURNS {
        for of in in_turn(turn) {
            let watch = Watch::start();
            get_some(&mut *readers[of], &mut Keys::new(turn as u64, count), gets)?;
            laps[of].add(watch.read());
        }
    }
    Ok(laps)
}
