//! The preset for clients: what an open database that does nothing adds to a process, and what a scan of all its rows
//! adds to that.

use std::time::Duration;

use super::{Part, Rows, Task};
use crate::child;
use crate::measure::{Figures, Resident, resident, watching_memory};
use crate::subjects::{self, Failure, Views};

/// How long the database does nothing.
const IDLE: Duration = Duration::from_millis(500);

const MIB: f64 = (1 << 20) as f64;

pub(super) fn run(task: &Task) -> Result<Figures, Failure> {
    let mut found = Figures::new();
    // In a process of its own: what a load leaves behind in the heap would hide what opening takes.
    let load = Task { part: Part::ClientLoad, subject: task.subject.clone(), folder: task.folder.clone(), ..*task };
    child::run(&load)?;

    let before = resident()?;
    let store = subjects::open_client(&task.subject, &task.folder)?;
    std::thread::sleep(IDLE);
    let idle = resident()?;
    found.insert("idle_mib".into(), grown(before, idle).all);
    found.insert("idle_anonymous_mib".into(), grown(before, idle).anonymous);

    let most = watching_memory(|peak| -> Result<Resident, Failure> {
        store.with_reader(Views::One, &mut |reader| {
            let mut count = 0;
            reader.range(&[0; 24], usize::MAX, &mut |_, _| count += 1)?;
            if count < task.rows { Err(format!("{count} rows of {} were there", task.rows).into()) } else { Ok(()) }
        })?;
        Ok(peak.so_far())
    })?;
    found.insert("scan_mib".into(), grown(idle, most).all);
    found.insert("scan_anonymous_mib".into(), grown(idle, most).anonymous);
    Ok(found)
}

struct Grown {
    anonymous: f64,
    all: f64,
}

fn grown(from: Resident, to: Resident) -> Grown {
    let by = |from: u64, to: u64| to.saturating_sub(from) as f64 / MIB;
    Grown { anonymous: by(from.anonymous, to.anonymous), all: by(from.all, to.all) }
}

pub(super) fn load(task: &Task) -> Result<Figures, Failure> {
    let store = (subjects::find(&task.subject)?.open)(&task.folder, task.cache_bytes)?;
    store.bulk_load(&mut Rows::new().take(task.rows))?;
    store.checkpoint()?;
    Ok(Figures::new())
}
