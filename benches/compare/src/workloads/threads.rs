//! Threads that each commit single rows durably, all at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Rows, SETTLE, Task, row};
use crate::measure::{Figures, percentile_us};
use crate::subjects::{Durability, Failure, Subject};

/// How many threads, one measurement each.
pub(crate) const THREADS: [usize; 3] = [1, 8, 32];
/// Rows that are there before.
const PRELOADED: usize = 200_000;

pub(super) fn run(task: &Task) -> Result<Figures, Failure> {
    let mut found = Figures::new();
    let store = task.open()?;
    let preloaded = PRELOADED.min(task.rows);
    store.bulk_load(&mut Rows::new().take(preloaded))?;
    std::thread::sleep(SETTLE);
    let next = AtomicU64::new(preloaded as u64);
    for threads in THREADS {
        let before = store.commits_and_syncs();
        let started = Instant::now();
        let mut each = commit_for(&*store, threads, Duration::from_secs(task.seconds.into()), &next)?;
        let seconds = started.elapsed().as_secs_f64();
        if let (Some((commits, syncs)), Some((commits_now, syncs_now))) = (before, store.commits_and_syncs()) {
            let syncs = (syncs_now - syncs).max(1);
            found.insert(format!("threads{threads}_per_sync"), (commits_now - commits) as f64 / syncs as f64);
        }
        found.insert(format!("threads{threads}"), each.len() as f64 / seconds);
        found.insert(format!("threads{threads}_p50_us"), percentile_us(&mut each, 50));
        found.insert(format!("threads{threads}_p99_us"), percentile_us(&mut each, 99));
    }
    Ok(found)
}

/// Returns how long each commit took.
fn commit_for(
    store: &dyn Subject,
    threads: usize,
    wanted: Duration,
    next: &AtomicU64,
) -> Result<Vec<Duration>, Failure> {
    let ready = Barrier::new(threads);
    let work = || -> Result<Vec<Duration>, Failure> {
        let mut each = Vec::new();
        ready.wait();
        let started = Instant::now();
        while started.elapsed() < wanted {
            let row = row(next.fetch_add(1, Ordering::Relaxed));
            let before = Instant::now();
            store.commit(&[row], Durability::Durable)?;
            each.push(before.elapsed());
        }
        Ok(each)
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut each = Vec::new();
        for one in all {
            each.extend(one.join().expect("a thread that panicked has said so")?);
        }
        Ok(each)
    })
}
