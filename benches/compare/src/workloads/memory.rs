//! Peak anonymous memory over a run of everything that one thread does, with a cache that is smaller than the data.

use super::{BATCH_ROWS, Keys, RANGE_ROWS, Rows, Task, get_some};
use crate::measure::{Figures, resident, watching_memory};
use crate::subjects::{self, Durability, Failure, Views};

/// Cache of every store in this set.
pub(crate) const CACHE_BYTES: usize = 128 << 20;

const MIB: f64 = (1 << 20) as f64;

pub(super) fn run(task: &Task) -> Result<Figures, Failure> {
    let before = resident()?;
    watching_memory(|peak| {
        let mut found = Figures::new();
        let mut rows = Rows::new();
        let store = (subjects::find(&task.subject)?.open)(&task.folder, CACHE_BYTES)?;
        store.bulk_load(&mut rows.take(task.rows))?;
        found.insert("memory_bulk_mib".into(), peak.so_far().anonymous as f64 / MIB);
        for row in rows.take(task.scaled(1000)) {
            store.commit(&[row], Durability::Durable)?;
        }
        for _ in 0..task.scaled(100) {
            store.commit(&rows.take(BATCH_ROWS).collect::<Vec<_>>(), Durability::Durable)?;
        }
        for row in rows.take(task.scaled(50_000)) {
            store.commit(&[row], Durability::Buffered)?;
        }
        found.insert("memory_writes_mib".into(), peak.so_far().anonymous as f64 / MIB);
        store.with_reader(Views::One, &mut |reader| {
            let mut keys = Keys::new(1, task.rows);
            get_some(reader, &mut keys, task.rows)?;
            for _ in 0..task.scaled(100_000) {
                reader.range(&keys.next(), RANGE_ROWS, &mut |_, _| {})?;
            }
            Ok(())
        })?;
        drop(store);
        let most = peak.so_far();
        found.insert("memory_mib".into(), most.anonymous as f64 / MIB);
        found.insert("memory_all_mib".into(), most.all as f64 / MIB);
        found.insert("memory_program_mib".into(), before.anonymous as f64 / MIB);
        Ok(found)
    })
}
